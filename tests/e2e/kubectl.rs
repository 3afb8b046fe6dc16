//! What people do with kubectl that no transcript covers, at hub and gateway alike.

use std::path::Path;
use std::process::Stdio;

use tests::{Ended, Kubectl, Pair, clients, kubectl, kubectl_with_input};
use tokio::io::{AsyncBufReadExt, BufReader};

fn deployment(replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, labels: {{app: web}}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - {{name: c, image: 'busybox:1', ports: [{{containerPort: 80}}], env: [{{name: A, value: '1'}}]}}
"
    )
}

async fn told(kubeconfig: &Path, arguments: &[&str]) -> String {
    let ended = kubectl(kubeconfig, arguments).await;
    assert!(ended.status.success(), "{arguments:?}: {}{}", ended.out, ended.err);
    ended.out
}

async fn apply(kubeconfig: &Path, flags: &[&str], manifest: &str) -> Ended {
    let arguments = [&["apply", "-f", "-"][..], flags].concat();
    kubectl_with_input(kubeconfig, &arguments, manifest).await
}

/// A manifest applied again and again, with somebody else's hands in between.
async fn server_side_apply(kubeconfig: &Path) {
    let server: &[&str] = &["--server-side"];
    let first = apply(kubeconfig, server, &deployment(2)).await;
    assert!(first.status.success(), "{}{}", first.out, first.err);
    assert!(apply(kubeconfig, server, &deployment(3)).await.status.success());
    told(kubeconfig, &["scale", "deployment/web", "--replicas=5"]).await;
    told(kubeconfig, &["set", "image", "deployment/web", "c=busybox:2"]).await;
    let refused = apply(kubeconfig, server, &deployment(3)).await;
    assert!(!refused.status.success());
    for said in [
        "conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas",
        "conflict with \"kubectl-set\" using apps/v1: .spec.template.spec.containers[name=\"c\"].image",
    ] {
        assert!(refused.err.contains(said), "{}", refused.err);
    }
    let forced = apply(kubeconfig, &["--server-side", "--force-conflicts"], &deployment(3)).await;
    assert!(forced.status.success(), "{}{}", forced.out, forced.err);
    let path = "jsonpath={.spec.replicas} {.spec.template.spec.containers[0].image}";
    let now = told(kubeconfig, &["get", "deployment", "web", "-o", path]).await;
    assert_eq!(now, "3 busybox:1");
    // What the manifest no longer names goes.
    let shorter = deployment(3).replace(", env: [{name: A, value: '1'}]", "");
    assert!(apply(kubeconfig, server, &shorter).await.status.success());
    let path = "jsonpath={.spec.template.spec.containers[0].env}";
    assert_eq!(told(kubeconfig, &["get", "deployment", "web", "-o", path]).await, "");
}

async fn owned_by(kubeconfig: &Path, owner: &str, names: &[&str]) {
    told(kubeconfig, &["create", "configmap", owner, "--from-literal=a=b"]).await;
    let uid = told(
        kubeconfig,
        &["get", "configmap", owner, "-o", "jsonpath={.metadata.uid}"],
    )
    .await;
    for name in names {
        let manifest = format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}, ownerReferences: [
                {{apiVersion: v1, kind: ConfigMap, name: {owner}, uid: {uid}, blockOwnerDeletion: true}}]}}}}"
        );
        let made = apply(kubeconfig, &[], &manifest).await;
        assert!(made.status.success(), "{}{}", made.out, made.err);
    }
}

async fn cascades(kubeconfig: &Path) {
    owned_by(kubeconfig, "front", &["f1", "f2"]).await;
    // kubectl waits until the owner is gone, which in the foreground is after what it owns.
    told(kubeconfig, &["delete", "configmap", "front", "--cascade=foreground"]).await;
    assert_eq!(told(kubeconfig, &["get", "configmaps", "-o", "name"]).await, "");
    owned_by(kubeconfig, "back", &["b1"]).await;
    told(kubeconfig, &["delete", "configmap", "back"]).await;
    told(kubeconfig, &["wait", "--for=delete", "configmap/b1", "--timeout=30s"]).await;
    owned_by(kubeconfig, "left", &["l1"]).await;
    told(kubeconfig, &["delete", "configmap", "left", "--cascade=orphan"]).await;
    let path = "jsonpath={.metadata.name}{.metadata.ownerReferences}";
    assert_eq!(told(kubeconfig, &["get", "configmap", "l1", "-o", path]).await, "l1");
}

#[tokio::test]
async fn fields_have_owners_and_objects_go_with_theirs() {
    let pair = Pair::start().await;
    for kubeconfig in [pair.hub.kubeconfig(), pair.edge.kubeconfig()] {
        server_side_apply(&kubeconfig).await;
        cascades(&kubeconfig).await;
    }
}

/// One program at one server, in a namespace of its own.
struct Person {
    kubectl: Kubectl,
    folder: tempfile::TempDir,
}

impl Person {
    async fn new(program: &Path, kubeconfig: &Path) -> Self {
        let mut kubectl = Kubectl::new(program, kubeconfig);
        let space = format!("people-{}", fastrand::u32(..));
        kubectl.told(&["create", "namespace", &space]).await;
        kubectl.flags = vec!["--namespace".to_owned(), space];
        let folder = tempfile::tempdir().unwrap();
        Self { kubectl, folder }
    }

    async fn told(&self, line: &str) -> String {
        self.kubectl.told(&words(line)).await
    }

    async fn refused(&self, line: &str) -> String {
        let ended = self.kubectl.call(&words(line)).await;
        assert!(!ended.status.success(), "{line}: {}", ended.out);
        ended.err
    }

    async fn given(&self, line: &str, document: &str) -> String {
        self.kubectl.with_input(&words(line), document).await.good()
    }

    /// What stands at a path of an object.
    async fn at(&self, object: &str, path: &str) -> String {
        self.told(&format!("get {object} -o jsonpath={path}")).await
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// Every way to look at something.
async fn looking(me: &Person) {
    me.given("apply -f -", &deployment(2)).await;
    me.told("create configmap one --from-literal=a=1").await;
    me.told("create configmap two --from-literal=a=2 --from-literal=b=3")
        .await;
    let table = me.told("get deployments").await;
    assert!(
        table.starts_with("NAME   READY   UP-TO-DATE   AVAILABLE   AGE\nweb    0/2"),
        "{table}"
    );
    for (form, wanted) in [
        ("wide", "busybox:1"),
        ("json", "\"kind\": \"List\""),
        ("yaml", "kind: List"),
        ("name", "deployment.apps/web"),
        ("jsonpath={.items[*].spec.replicas}", "2"),
        ("go-template={{range.items}}{{.metadata.name}}{{end}}", "web"),
        ("custom-columns=N:.metadata.name,R:.spec.replicas", "web   2"),
        (
            "jsonpath={range.items[?(@.spec.replicas==2)]}{.metadata.name}{end}",
            "web",
        ),
    ] {
        let said = me.told(&format!("get deployments -o {form}")).await;
        assert!(said.contains(wanted), "{form}: {said}");
    }
    let sorted = me.told("get configmaps --sort-by=.data.a -o name --chunk-size=1").await;
    assert_eq!(sorted, "configmap/one\nconfigmap/two\n");
    assert!(
        me.told("get configmaps,deployments -A --chunk-size=2")
            .await
            .contains("deployment.apps/web")
    );
    assert!(me.told("get all --show-labels").await.contains("app=web"));
    assert_eq!(me.told("get deployments -l app!=web -o name").await, "");
    assert_eq!(
        me.told("get configmaps --field-selector metadata.name=two -o name")
            .await,
        "configmap/two\n"
    );
    let described = me.told("describe deployment web").await;
    assert!(described.contains("Replicas:               2 desired"), "{described}");
    assert!(me.told("describe configmap two").await.contains("b:"));
    assert!(me.told("get --raw /apis/apps/v1").await.contains("deployments/scale"));
    assert!(
        me.refused("get nonsense")
            .await
            .contains("doesn't have a resource type")
    );
    assert!(me.refused("get configmap three").await.contains("NotFound"));
    let kinds = me.told("api-resources --namespaced --verbs=list -o name").await;
    assert!(
        kinds.contains("deployments.apps") && kinds.contains("configmaps"),
        "{kinds}"
    );
    assert!(me.told("api-resources --api-group=apps").await.contains("deploy"));
    assert!(me.told("api-versions").await.contains("coordination.k8s.io/v1"));
    assert!(
        me.told("explain deployment.spec.strategy.rollingUpdate")
            .await
            .contains("maxSurge")
    );
    assert!(me.told("explain pods --recursive").await.contains("containerPort"));
    assert!(me.told("explain devices.spec").await.contains("nodeName"));
    assert!(me.told("cluster-info").await.contains("is running at"));
    assert!(me.told("version").await.contains("v1.33"));
    assert_eq!(me.told("auth can-i create pods").await, "yes\n");
    assert!(me.told("auth can-i --list").await.contains("*.*"));
}

/// A manifest that is changed and applied again: what it no longer says goes, what others added stays.
async fn applying(me: &Person) {
    let first = deployment(2).replace(
        "spec:\n  replicas: 2",
        "spec:\n  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1}}\n  replicas: 2",
    );
    let said = me.given("apply -f -", &first).await;
    assert!(said.contains("web configured"), "{said}");
    assert!(me.given("apply -f -", &first).await.contains("unchanged"));
    let sidecar = r#"--patch={"spec":{"template":{"spec":{"containers":[{"name":"side","image":"s"}]}}}}"#;
    me.told(&format!("patch deployment web {sidecar}")).await;
    let second = first
        .replace("type: RollingUpdate, rollingUpdate: {maxSurge: 1}", "type: Recreate")
        .replace("ports: [{containerPort: 80}]", "ports: [{containerPort: 81}]")
        .replace("env: [{name: A, value: '1'}]", "env: [{name: B, value: '2'}]");
    let ended = me.kubectl.with_input(&words("diff -f -"), &second).await;
    assert_eq!(ended.code(), 1, "{}{}", ended.out, ended.err);
    assert!(
        ended.out.contains("-    type: RollingUpdate") && ended.out.contains("+    type: Recreate"),
        "{}",
        ended.out
    );
    me.given("apply -f -", &second).await;
    assert_eq!(me.kubectl.with_input(&words("diff -f -"), &second).await.code(), 0);
    let container = "{.spec.template.spec.containers[?(@.name=='c')]";
    assert_eq!(
        me.at("deployment/web", "{.spec.strategy}").await,
        r#"{"type":"Recreate"}"#
    );
    assert_eq!(
        me.at("deployment/web", &format!("{container}.ports[*].containerPort}}"))
            .await,
        "81"
    );
    assert_eq!(
        me.at("deployment/web", &format!("{container}.env[*].name}}")).await,
        "B"
    );
    assert_eq!(
        me.at("deployment/web", "{.spec.template.spec.containers[*].name}")
            .await,
        "side c"
    );
    let wrong = second.replace("replicas: 2", "replicaz: 2");
    let ended = me.kubectl.with_input(&words("apply -f -"), &wrong).await;
    assert!(
        !ended.status.success() && ended.err.contains("replicaz"),
        "{}",
        ended.err
    );
    let dry = me
        .given(
            "apply -f - --dry-run=server -o jsonpath={.spec.replicas}",
            &second.replace("replicas: 2", "replicas: 7"),
        )
        .await;
    assert_eq!(
        (dry.as_str(), me.at("deployment/web", "{.spec.replicas}").await.as_str()),
        ("7", "2")
    );
}

/// Every way to change something.
async fn changing(me: &Person) {
    me.told("label deployment web tier=front").await;
    assert!(
        me.refused("label deployment web tier=back")
            .await
            .contains("--overwrite")
    );
    me.told("label deployment web tier=back --overwrite").await;
    me.told("annotate deployment web note=x").await;
    me.told("label deployment web tier-").await;
    me.told("set image deployment/web c=busybox:9").await;
    me.told("set env deployment/web Q=1").await;
    me.told("scale deployment web --replicas=4").await;
    assert!(
        me.refused("scale deployment web --replicas=5 --current-replicas=3")
            .await
            .contains("Expected replicas to be 3, was 4")
    );
    for (kind, patch, replicas) in [
        ("strategic", r#"{"spec":{"replicas":5}}"#, "5"),
        ("merge", r#"{"spec":{"replicas":6}}"#, "6"),
        ("json", r#"[{"op":"replace","path":"/spec/replicas","value":7}]"#, "7"),
    ] {
        me.told(&format!("patch deployment web --type={kind} --patch={patch}"))
            .await;
        assert_eq!(me.at("deployment/web", "{.spec.replicas}").await, replicas);
    }
    let editor = me.folder.path().join("editor");
    std::fs::write(&editor, "#!/bin/sh\nsed -i s/busybox:9/busybox:10/ \"$1\"\n").unwrap();
    std::fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let edited = tests::run(me.kubectl.command(&words("edit deployment web")).env("EDITOR", &editor)).await;
    assert!(edited.good().contains("edited"));
    let path = "{.spec.template.spec.containers[?(@.name=='c')].image}";
    assert_eq!(me.at("deployment/web", path).await, "busybox:10");
    let now = me.told("get deployment web -o yaml").await;
    me.given("replace -f -", &now.replace("busybox:10", "busybox:11")).await;
    // What was read before that is stale now.
    let stale = me.kubectl.with_input(&words("replace -f -"), &now).await;
    assert!(stale.err.contains("Conflict"), "{}", stale.err);
    let bare: Vec<&str> = now
        .lines()
        .filter(|l| !l.starts_with("  resourceVersion:") && !l.starts_with("  uid:"))
        .collect();
    let uid = me.at("deployment/web", "{.metadata.uid}").await;
    me.given("replace --force -f -", &bare.join("\n")).await;
    assert_ne!(me.at("deployment/web", "{.metadata.uid}").await, uid);
    me.told("rollout restart deployment/web").await;
    me.told("rollout pause deployment/web").await;
    assert_eq!(me.at("deployment/web", "{.spec.paused}").await, "true");
    me.told("rollout resume deployment/web").await;
    me.told("create secret generic secret --from-literal=a=b").await;
    me.told("create serviceaccount bot").await;
    me.told("create service clusterip web --tcp=80:80").await;
    me.told("run pod --image=i").await;
    assert_eq!(me.at("pod/pod", "{.status.phase}").await, "Pending");
    let expected = "{\"a\":\"Yg==\"}";
    assert_eq!(me.at("secret/secret", "{.data}").await, expected);
}

/// Revisions of a Deployment, kept by ReplicaSets as its controller would make them.
async fn rolling(me: &Person) {
    me.told("create deployment roll --image=busybox:1").await;
    let uid = me.at("deployment/roll", "{.metadata.uid}").await;
    for revision in ["1", "2"] {
        me.told(&format!("set image deployment/roll busybox=busybox:{revision}"))
            .await;
        let set = format!(
            "---\n{{apiVersion: apps/v1, kind: ReplicaSet, metadata: {{name: roll-{revision}, labels: {{app: roll, pod-template-hash: h{revision}}},
              annotations: {{deployment.kubernetes.io/revision: '{revision}'}}, ownerReferences: [
              {{apiVersion: apps/v1, kind: Deployment, name: roll, uid: {uid}, controller: true, blockOwnerDeletion: true}}]}},
              spec: {{replicas: 1, selector: {{matchLabels: {{app: roll, pod-template-hash: h{revision}}}}},
              template: {{metadata: {{labels: {{app: roll, pod-template-hash: h{revision}}}}},
              spec: {{containers: [{{name: busybox, image: 'busybox:{revision}'}}]}}}}}}}}"
        );
        me.given("create -f -", &set).await;
    }
    let history = me.told("rollout history deployment/roll").await;
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    assert!(
        me.told("rollout history deployment/roll --revision=1")
            .await
            .contains("busybox:1")
    );
    let mut deployment: serde_json::Value =
        serde_json::from_str(&me.told("get deployment roll -o json").await).unwrap();
    deployment["status"] = serde_json::json!({
        "observedGeneration": deployment["metadata"]["generation"], "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1,
        "availableReplicas": 1});
    let space = &me.kubectl.flags[1];
    let path = format!("/apis/apps/v1/namespaces/{space}/deployments/roll/status");
    me.given(&format!("replace --raw {path} -f -"), &deployment.to_string())
        .await;
    assert!(
        me.told("rollout status deployment/roll --timeout=30s")
            .await
            .contains("successfully rolled out")
    );
    let image = "{.spec.template.spec.containers[0].image}";
    me.told("rollout undo deployment/roll").await;
    assert_eq!(me.at("deployment/roll", image).await, "busybox:1");
    me.told("rollout undo deployment/roll --to-revision=2").await;
    assert_eq!(me.at("deployment/roll", image).await, "busybox:2");
    me.told("delete deployment roll --cascade=foreground").await;
    assert_eq!(me.told("get replicasets -o name").await, "");
}

/// Waiting, for what changes and for what goes.
async fn waiting(me: &Person) {
    let mut watching = me
        .kubectl
        .command(&words(
            "get configmaps -l w=1 --watch --output-watch-events --no-headers",
        ))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let document = "---\n{apiVersion: v1, kind: ConfigMap, metadata: {name: w, labels: {w: '1'}}}";
    me.given("create -f -", document).await;
    me.told("patch configmap w --type=merge --patch={\"data\":{\"a\":\"b\"}}")
        .await;
    // It leaves the selection, which is for this watcher the same as being deleted.
    me.told("label configmap w w-").await;
    for wanted in ["ADDED", "MODIFIED", "DELETED"] {
        let line = tokio::time::timeout(tests::PATIENCE, lines.next_line())
            .await
            .expect(wanted);
        let line = line.unwrap().unwrap();
        let mut cells = line.split_whitespace();
        assert_eq!((cells.next(), cells.next()), (Some(wanted), Some("w")), "{line}");
    }
    watching.kill().await.unwrap();
    let ready = r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#;
    let mut waits = me
        .kubectl
        .command(&words("wait --for=condition=Ready pod/pod --timeout=30s"))
        .spawn()
        .unwrap();
    let uri = me
        .at("pod/pod", "/api/v1/namespaces/{.metadata.namespace}/pods/pod")
        .await;
    // kubectl learned late to write a status; a replace of the raw path is what every one can do.
    let mut pod: serde_json::Value = serde_json::from_str(&me.told("get pod pod -o json").await).unwrap();
    pod["status"] = serde_json::from_str::<serde_json::Value>(ready).unwrap()["status"].clone();
    me.given(&format!("replace --raw {uri}/status -f -"), &pod.to_string())
        .await;
    assert!(waits.wait().await.unwrap().success());
    let wait = words("wait --for=delete pod/pod --timeout=30s");
    let delete = words("delete pod pod --grace-period=0 --force");
    let (gone, deleted) = tokio::join!(me.kubectl.call(&wait), me.kubectl.call(&delete));
    deleted.good();
    // An older one that looks when nothing is left calls that an error.
    assert!(
        gone.status.success() || gone.err.contains("no matching resources"),
        "{}",
        gone.err
    );
    me.told("delete configmap w --wait").await;
    me.told("delete deployment --all --cascade=foreground").await;
    assert_eq!(me.told("get deployments -o name").await, "");
    let space = me.kubectl.flags[1].clone();
    me.told(&format!("delete namespace {space}")).await;
    assert!(me.refused(&format!("get namespace {space}")).await.contains("NotFound"));
}

async fn a_day(program: &Path, kubeconfig: &Path) {
    let me = Person::new(program, kubeconfig).await;
    looking(&me).await;
    applying(&me).await;
    changing(&me).await;
    rolling(&me).await;
    waiting(&me).await;
}

async fn everywhere(program: &Path) {
    let pair = Pair::start().await;
    for kubeconfig in [pair.hub.kubeconfig(), pair.edge.kubeconfig()] {
        a_day(program, &kubeconfig).await;
    }
}

#[tokio::test]
async fn people_find_nothing_missing() {
    everywhere(Path::new("kubectl")).await;
}

#[tokio::test]
async fn people_with_an_older_kubectl_find_nothing_missing() {
    everywhere(&clients().join("kubectl")).await;
}
