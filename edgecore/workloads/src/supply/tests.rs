//! Against a real containerd: a pod gets what it asked for, and nothing of it is left. It is in the machine's own network, so that no network
//! plugin is needed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cri::v1::{
    ContainerFilter, CreateContainerRequest, ExecSyncRequest, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, StopPodSandboxRequest, VersionRequest,
};
use metastore::api::TokenOptions;
use serde_json::{Value, json};

use super::*;
use crate::cluster::{CONFIG_MAPS, Key};
use crate::events::Recorder;
use crate::setup::testing;

const BOX: &str = "localhost/box:1";
const PAUSE: &str = "localhost/pause:1";

/// A containerd whose files are all in one folder.
struct Runner {
    dir: tempfile::TempDir,
    child: std::process::Child,
    runtime: Runtime,
}

/// After a failed test too: containers outlive their runtime.
impl Drop for Runner {
    fn drop(&mut self) {
        let ctr = |args: &[&str]| {
            let socket = self.dir.path().join("c.sock");
            let mut command = Command::new("ctr");
            command
                .arg("--address")
                .arg(socket)
                .args(["--namespace", "k8s.io"])
                .args(args);
            command.output().unwrap().stdout
        };
        let tasks = String::from_utf8(ctr(&["tasks", "list", "--quiet"])).unwrap();
        for id in tasks.lines() {
            ctr(&["tasks", "delete", "--force", id]);
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        crate::volumes::unmount_below(&self.dir.path().canonicalize().unwrap()).unwrap();
    }
}

fn done(command: &mut Command) {
    let output = command
        .output()
        .expect("the program is installed: tests/setup.sh does it");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Runner {
    async fn start() -> Self {
        assert!(rustix::process::geteuid().is_root(), "containers need root");
        // Short: the path of a socket may have no more than a hundred bytes.
        let dir = tempfile::Builder::new().prefix("kw").tempdir_in("/tmp").unwrap();
        let at = |name: &str| json!(dir.path().join(name)).to_string();
        let config = format!(
            "version = 2
root = {root}
state = {state}
[grpc]
  address = {socket}
[plugins.\"io.containerd.internal.v1.opt\"]
  path = {opt}
[plugins.\"io.containerd.grpc.v1.cri\"]
  sandbox_image = \"{PAUSE}\"
  restrict_oom_score_adj = true
  [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]
    runtime_type = \"io.containerd.runc.v2\"
    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]
      Root = {runc}
",
            root = at("root"),
            state = at("state"),
            socket = at("c.sock"),
            opt = at("opt"),
            runc = at("runc"),
        );
        let file = dir.path().join("containerd.toml");
        std::fs::write(&file, config).unwrap();
        let child = Command::new("containerd")
            .arg("--config")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("containerd is installed: tests/setup.sh does it");
        let runtime = Runtime::new(&dir.path().join("c.sock"));
        let runner = Self { dir, child, runtime };
        until(async || runner.runtime.version(VersionRequest::default()).await.is_ok()).await;
        let mkimg = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/mkimg.py");
        for name in [BOX, PAUSE] {
            let archive = runner.dir.path().join("image.tar");
            done(Command::new("python3").arg(&mkimg).arg(name).arg(&archive));
            let socket = runner.dir.path().join("c.sock");
            let ctr = ["--namespace", "k8s.io", "images", "import"];
            done(Command::new("ctr").arg("--address").arg(socket).args(ctr).arg(&archive));
            // The runtime's part for Kubernetes hears of it by an event.
            let known = async || {
                let images = runner.runtime.list_images().await.unwrap();
                images.iter().any(|i| i.repo_tags.iter().any(|t| t == name))
            };
            until(known).await;
        }
        runner
    }

    async fn exec(&self, id: &str, script: &str) -> String {
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
            timeout: 20,
        };
        let answer = self.runtime.exec_sync(request).await.unwrap();
        assert_eq!(
            answer.exit_code,
            0,
            "{script}: {}",
            String::from_utf8_lossy(&answer.stderr)
        );
        String::from_utf8(answer.stdout).unwrap().trim_end().to_owned()
    }
}

async fn until(mut so: impl AsyncFnMut() -> bool) {
    let begun = daemon::clock::now();
    while !so().await {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn needs_root_a_pod_gets_all_that_it_asked_for() {
    let runner = Runner::start().await;
    let keys = runner.dir.path().join("sa");
    let tokens = TokenOptions::new(keys, "https://here:1");
    let (_store, cluster) = testing::cluster_with(|b| b.tokens(tokens).root_ca("CERTIFICATE\n").runs_pods(true)).await;
    let make = async |kind: &str, name: &str, rest: Value| {
        let mut object = rest;
        object["apiVersion"] = "v1".into();
        object["kind"] = kind.into();
        object["metadata"] = json!({"name": name, "namespace": "default", "labels": {"app": "press"}});
        cluster.create(object).await.unwrap()
    };
    make("ConfigMap", "c", json!({"data": {"a": "1", "b": "2"}})).await;
    make("Secret", "s", json!({"data": {"key": STANDARD.encode("hidden")}})).await;
    let spec = json!({
        "nodeName": "gw-1", "hostNetwork": true, "subdomain": "floor",
        "hostAliases": [{"ip": "192.0.2.99", "hostnames": ["press-line"]}],
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1001, "fsGroup": 4321},
        "volumes": [
            {"name": "map", "configMap": {"name": "c"}},
            {"name": "secret", "secret": {"secretName": "s", "defaultMode": 0o400}},
            {"name": "work", "emptyDir": {}},
            {"name": "ram", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
        "containers": [{"name": "app", "image": BOX, "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "echo $(WHO) > /work/started; echo gone > $0; exec sleep 1000"], "args": ["/dev/termination-log"],
            "env": [{"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
                {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "key"}}}],
            "resources": {"limits": {"cpu": "200m", "memory": "64Mi"}},
            "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsNonRoot": true,
                "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [
                {"name": "map", "mountPath": "/etc/app"},
                {"name": "map", "mountPath": "/etc/one", "subPath": "a"},
                {"name": "secret", "mountPath": "/secret"},
                {"name": "work", "mountPath": "/work"},
                {"name": "work", "mountPath": "/part", "subPathExpr": "of/$(WHO)"},
                {"name": "ram", "mountPath": "/ram"}]}]});
    let pod = Pod::read(make("Pod", "press", json!({"spec": spec})).await).unwrap();

    let mut host = testing::host(runner.dir.path());
    host.memory = 1 << 30;
    let host = Arc::new(host);
    let (events, writer) = Recorder::new(cluster.clone(), "gw-1".into(), "kubelet");
    drop(tokio::spawn(writer));
    let images = Images::new(runner.runtime.clone(), cluster.clone(), events);
    let names: Names = Arc::new(|_| DnsConfig {
        servers: vec!["192.0.2.53".to_owned()],
        ..DnsConfig::default()
    });
    let supply = Supply::new(
        cluster.clone(),
        runner.runtime.clone(),
        images.clone(),
        Arc::clone(&host),
        names,
    );

    // What names the certificates comes after the first pod.
    until(async || supply.prepare(&pod).await.is_ok()).await;
    let (config, runtime_handler) = supply.sandbox(&pod, 0).unwrap();
    std::fs::create_dir_all(host.log_dir(&pod).join("app")).unwrap();
    let request = RunPodSandboxRequest {
        config: Some(config.clone()),
        runtime_handler,
    };
    let sandbox = runner.runtime.run_pod_sandbox(request).await.unwrap().pod_sandbox_id;
    let start = async |attempt: u32| {
        let making = Making {
            pod: &pod,
            container: &pod.spec.containers[0],
            attempt,
            sandbox: &config,
            ips: &[],
            target: None,
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(supply.container(making).await.unwrap()),
            sandbox_config: Some(config.clone()),
        };
        let container_id = runner.runtime.create_container(request).await.unwrap().container_id;
        let request = StartContainerRequest {
            container_id: container_id.clone(),
        };
        runner.runtime.start_container(request).await.unwrap();
        container_id
    };
    let id = start(0).await;
    let work = host.pod_dir(pod.uid()).join("volumes/work");
    until(async || std::fs::read_to_string(work.join("started")).is_ok_and(|t| t == "press\n")).await;
    for (script, said) in [
        ("id -u; id -g; id -G", "1000\n1001\n1001 4321"),
        ("cat /etc/app/a /etc/app/b /etc/one", "121"),
        ("cat /secret/key; echo; echo $KEY", "hidden\nhidden"),
        ("echo $MEM", "67108864"),
        ("cat /var/run/secrets/kubernetes.io/serviceaccount/namespace", "default"),
        (
            "cat /var/run/secrets/kubernetes.io/serviceaccount/ca.crt",
            "CERTIFICATE",
        ),
        (
            "cut -c1-3 /var/run/secrets/kubernetes.io/serviceaccount/token 2>/dev/null || head -c 3 /var/run/secrets/kubernetes.io/serviceaccount/token",
            "eyJ",
        ),
        ("grep press-line /etc/hosts", "192.0.2.99\tpress-line"),
        ("cat /etc/resolv.conf", "nameserver 192.0.2.53"),
        ("touch /work/x /part/y /ram/z && ls /work/of/press", "y"),
        ("touch /no 2>/dev/null || echo read-only", "read-only"),
        ("touch /etc/app/new 2>/dev/null || echo read-only", "read-only"),
        (
            "dd if=/dev/zero of=/ram/big bs=1024 count=2048 2>/dev/null || echo full",
            "full",
        ),
        ("grep NoNewPrivs /proc/1/status", "NoNewPrivs:\t1"),
        ("grep CapEff /proc/1/status", "CapEff:\t0000000000000000"),
    ] {
        assert_eq!(runner.exec(&id, script).await, said, "{script}");
    }
    let last_words = setup::termination_path(&host, pod.uid(), "app", 0);
    assert_eq!(std::fs::read_to_string(last_words).unwrap(), "gone\n");

    // A change of the ConfigMap is seen inside; limits change while it runs.
    let change = |map: &mut Value| {
        map["data"]["a"] = "one".into();
        Ok(())
    };
    let key = Key::new("default", "c");
    cluster.modify(CONFIG_MAPS, &key, change).await.unwrap();
    let changed = ObjectKey::new("", "configmaps", "default", "c");
    assert_eq!(supply.concerned(&changed), [pod.uid()]);
    assert!(supply.refresh(&pod).await);
    assert_eq!(runner.exec(&id, "cat /etc/app/a /etc/one").await, "one1");
    let mut larger = pod.clone();
    for list in [
        &mut larger.spec.containers[0].resources.limits,
        &mut pod.spec.containers[0].resources.requests.clone(),
    ] {
        list.insert("memory".to_owned(), "96Mi".into());
    }
    supply.resize(&larger, &larger.spec.containers[0], &id).await.unwrap();
    supply.resize(&larger, &larger.spec.containers[0], &id).await.unwrap();

    // Its next run sees the file that changed also at its own place.
    let again = start(1).await;
    assert_eq!(runner.exec(&again, "cat /etc/one").await, "one");
    // Images in use stay.
    images.collect_garbage(0, false).await.unwrap();
    assert_eq!(images.collect_garbage(u64::MAX, false).await.unwrap().images, 0);

    let of = |pod_sandbox_id: &String| StopPodSandboxRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
    };
    runner.runtime.stop_pod_sandbox(of(&sandbox)).await.unwrap();
    let request = RemovePodSandboxRequest {
        pod_sandbox_id: sandbox.clone(),
    };
    runner.runtime.remove_pod_sandbox(request).await.unwrap();
    assert!(
        runner
            .runtime
            .list_containers(ContainerFilter::default())
            .await
            .unwrap()
            .is_empty()
    );
    assert!(supply.tear_down(pod.uid()).await);
    assert_eq!(supply.on_disk(), [""; 0]);
    let cgroup = setup::sandbox(&pod, 0, DnsConfig::default(), &host)
        .unwrap()
        .linux
        .unwrap()
        .cgroup_parent;
    for tree in std::fs::read_dir("/sys/fs/cgroup").unwrap() {
        let left = tree.unwrap().path().join(&cgroup[1..]);
        assert!(!left.exists(), "{}", left.display());
    }
}
