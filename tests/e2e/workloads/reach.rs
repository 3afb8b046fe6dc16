//! The way from a request to a running program: logs, exec, attach, cp, port-forward, top, as kubectl asks for them, at the gateway and by way
//! of the hub.

use std::process::Stdio;

use serde_json::json;
use tests::gateway::Gateway;
use tests::objects::{container, deployment, idle, pod, web};
use tests::{Kubectl, LOOK, PATIENCE, eventually};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout};

/// Bytes that go each way through a port-forward.
const MUCH: usize = 1 << 30;

/// A kubectl that runs on.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(kubectl: &Kubectl, arguments: &[&str]) -> Self {
        let mut child = kubectl
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .expect("kubectl is installed");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn line(&mut self) -> Option<String> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        line.expect("kubectl says something").unwrap()
    }

    async fn write(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(text.as_bytes()).await.unwrap();
    }

    /// Starts a port-forward and gives the local port.
    async fn forward(kubectl: &Kubectl, target: &str) -> (Self, u16) {
        let mut running = Self::start(kubectl, &["port-forward", target, ":8080"]);
        let line = running.line().await.unwrap_or_default();
        let port = line
            .split("127.0.0.1:")
            .nth(1)
            .and_then(|rest| rest.split(' ').next()?.parse().ok());
        (running, port.unwrap_or_else(|| panic!("no port in {line:?}")))
    }
}

/// Both ways to a gateway.
fn ways(gateway: &Gateway) -> [Kubectl; 2] {
    [gateway.kubectl.clone(), gateway.kubectl_through()]
}

#[tokio::test]
async fn logs_are_read_as_they_are_written_and_when_all_is_over() {
    let gateway = Gateway::with_hub().await;
    let at = &gateway.at;
    let mut made = pod(
        "teller",
        container(
            // Two pipes have no order between them but that of time.
            "for i in 1 2 3; do echo line $i; done; until test -e /tmp/go; do sleep 0.1; done; echo err >&2; sleep 1; printf end",
        ),
    );
    made["spec"]["restartPolicy"] = json!("Never");
    at.create(&made).await;
    at.until_ready("teller", 1).await;
    let mut followed: Vec<Running> = ways(&gateway)
        .iter()
        .map(|k| Running::start(k, &["logs", "-f", "teller"]))
        .collect();
    for follower in &mut followed {
        for number in 1..=3 {
            assert_eq!(follower.line().await, Some(format!("line {number}")));
        }
    }
    for kubectl in ways(&gateway) {
        assert_eq!(kubectl.told(&["logs", "teller", "--tail=1"]).await, "line 3\n");
        assert_eq!(kubectl.told(&["logs", "teller", "--limit-bytes=9"]).await, "line 1\nli");
        let stamped = kubectl
            .told(&["logs", "teller", "--timestamps", "--tail=1", "-c", "c"])
            .await;
        let (stamp, text) = stamped.split_once(' ').unwrap();
        assert_eq!(text, "line 3\n");
        stamp.parse::<jiff::Timestamp>().unwrap();
        assert_eq!(
            kubectl.told(&["logs", "-l", "app=teller", "--since=1h"]).await,
            "line 1\nline 2\nline 3\n"
        );
        let refused = kubectl.call(&["logs", "teller", "-c", "other"]).await;
        assert!(
            refused.err.contains("container other is not valid for pod teller"),
            "{}",
            refused.err
        );
    }
    gateway.exec("teller", &["touch", "/tmp/go"]).await.good();
    for follower in &mut followed {
        assert_eq!(follower.line().await.as_deref(), Some("err"));
        assert_eq!(follower.line().await.as_deref(), Some("end"));
        assert_eq!(follower.line().await, None);
        assert!(follower.child.wait().await.unwrap().success());
    }
    // Over, and the runtime gone.
    at.until("Pod/teller", "to succeed", |p| p["status"]["phase"] == "Succeeded")
        .await;
    let mut gateway = gateway;
    gateway.machine.kill_containerd().await;
    for kubectl in ways(&gateway) {
        assert_eq!(
            kubectl.told(&["logs", "teller"]).await,
            "line 1\nline 2\nline 3\nerr\nend"
        );
    }
}

#[tokio::test]
async fn commands_run_in_containers_and_files_go_in_and_out() {
    let gateway = Gateway::with_hub().await;
    gateway.at.create(&deployment("app", 1, idle())).await;
    let pods = gateway.at.until_ready("app", 1).await;
    let pod = tests::objects::name(&pods[0]);
    let content: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(5 << 20).collect();
    let (given, taken) = (
        gateway.machine.folder().join("given"),
        gateway.machine.folder().join("taken"),
    );
    std::fs::write(&given, &content).unwrap();
    for kubectl in ways(&gateway) {
        let ended = kubectl
            .call(&["exec", pod, "--", "sh", "-c", "echo out; echo err >&2; exit 3"])
            .await;
        assert_eq!((ended.code(), &*ended.out), (3, "out\n"));
        assert!(
            ended.err.starts_with("err\n") && ended.err.contains("exit code 3"),
            "{}",
            ended.err
        );
        let echoed = kubectl
            .with_input(&["exec", "-i", "deploy/app", "--", "cat"], "through and through")
            .await
            .good();
        assert_eq!(echoed, "through and through");
        let missing = kubectl.call(&["exec", pod, "--", "nothing-of-that-name"]).await;
        assert!(
            !missing.status.success() && missing.err.contains("nothing-of-that-name"),
            "{}",
            missing.err
        );
        let nobody = kubectl.call(&["exec", "nobody", "--", "true"]).await;
        assert!(nobody.err.contains("pods \"nobody\" not found"), "{}", nobody.err);
        kubectl
            .told(&["cp", given.to_str().unwrap(), &format!("{pod}:/tmp/file")])
            .await;
        kubectl
            .told(&["cp", &format!("{pod}:/tmp/file"), taken.to_str().unwrap()])
            .await;
        assert!(
            std::fs::read(&taken).unwrap() == content,
            "what came back is not what was sent"
        );
        std::fs::remove_file(&taken).unwrap();
    }
    // With a terminal: what is typed is seen, and its size is known.
    for kubectl in ways(&gateway) {
        let command = kubectl.command(&[
            "exec",
            "-it",
            pod,
            "--",
            "sh",
            "-c",
            "tty; until stty size 2>/dev/null | grep -x '30 100'; do sleep 0.1; done; read line; echo got $line",
        ]);
        let command = command.as_std();
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let line: Vec<String> = words
            .map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', "'\\''")))
            .collect();
        let mut script = tokio::process::Command::new("script")
            .args([
                "-qec",
                &format!("stty rows 30 cols 100; {}", line.join(" ")),
                "/dev/null",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = script.stdin.take().unwrap();
        stdin.write_all(b"hello\n").await.unwrap();
        let output = tokio::time::timeout(PATIENCE, script.wait_with_output())
            .await
            .unwrap()
            .unwrap();
        drop(stdin);
        let shown = String::from_utf8_lossy(&output.stdout).replace('\r', "");
        assert!(
            shown.contains("/dev/pts/") && shown.contains("30 100") && shown.contains("got hello"),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn a_container_that_listens_is_attached_to() {
    let gateway = Gateway::with_hub().await;
    let mut parrot = container("while read line; do echo said $line; done");
    parrot["stdin"] = json!(true);
    gateway.at.create(&pod("parrot", parrot)).await;
    gateway.at.until_ready("parrot", 1).await;
    for (number, kubectl) in ways(&gateway).iter().enumerate() {
        let mut attached = Running::start(kubectl, &["attach", "-i", "parrot", "--pod-running-timeout=10s"]);
        attached.write(&format!("hello {number}\n")).await;
        assert_eq!(attached.line().await, Some(format!("said hello {number}")));
        attached.child.kill().await.unwrap();
    }
}

#[tokio::test]
async fn two_hundred_commands_run_at_once() {
    let gateway = Gateway::alone().await;
    gateway.at.create(&pod("busy", idle())).await;
    gateway.at.until_ready("busy", 1).await;
    // One that has asked the server what there is, so that the others need not.
    gateway.exec("busy", &["true"]).await.good();
    let mut all = tokio::task::JoinSet::new();
    for number in 0..200 {
        let mut command =
            gateway
                .kubectl
                .command(&["exec", "busy", "--", "sh", "-c", &format!("sleep 1; echo {number}")]);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        all.spawn(async move { (number, child.wait_with_output().await.unwrap()) });
    }
    let finish = async {
        while let Some(ended) = all.join_next().await {
            let (number, output) = ended.unwrap();
            let told = String::from_utf8_lossy(&output.stdout);
            assert_eq!(
                told,
                format!("{number}\n"),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    };
    tokio::time::timeout(4 * PATIENCE, finish)
        .await
        .expect("all of them end");
    // Nothing of them is left in the container.
    eventually("the commands to be gone", async || {
        let listed = gateway.exec("busy", &["ps"]).await;
        (!listed.out.contains("echo")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_gibibyte_goes_through_a_port_forward_and_comes_back_the_same() {
    let gateway = Gateway::alone().await;
    gateway
        .at
        .create(&pod("mirror", container("exec nc -ll -p 8080 -e cat")))
        .await;
    gateway.at.until_ready("mirror", 1).await;
    let (_forward, port) = Running::forward(&gateway.kubectl, "pod/mirror").await;
    let stream = eventually("the port to answer", async || {
        TcpStream::connect(("127.0.0.1", port)).await.ok()
    })
    .await;
    let (mut from, mut to) = stream.into_split();
    let writer = tokio::spawn(async move {
        let mut bytes = fastrand::Rng::with_seed(7);
        let mut buffer = vec![0; 256 << 10];
        for _ in 0..MUCH / buffer.len() {
            bytes.fill(&mut buffer);
            to.write_all(&buffer).await.unwrap();
        }
        to
    });
    let mut bytes = fastrand::Rng::with_seed(7);
    let (mut wanted, mut got) = (vec![0; 256 << 10], vec![0; 256 << 10]);
    for block in 0..MUCH / wanted.len() {
        bytes.fill(&mut wanted);
        tokio::time::timeout(PATIENCE, from.read_exact(&mut got))
            .await
            .unwrap_or_else(|_| panic!("nothing more comes after block {block}"))
            .unwrap();
        assert!(got == wanted, "block {block} is another");
    }
    drop(writer.await.unwrap());
}

#[tokio::test]
async fn ports_are_forwarded_by_way_of_the_hub_many_at_a_time() {
    let gateway = Gateway::with_hub().await;
    gateway.at.create(&deployment("web", 1, web())).await;
    gateway.at.create(&tests::objects::service("web", "web")).await;
    let pods = gateway.at.until_ready("web", 1).await;
    let name = tests::objects::name(&pods[0]);
    for kubectl in ways(&gateway) {
        let (_forward, port) = Running::forward(&kubectl, &format!("pod/{name}")).await;
        let address = format!("127.0.0.1:{port}");
        let load = super::deploy::Load::start(&address, 8);
        load.more(100).await;
        let (seen, missed) = load.end().await;
        assert_eq!(missed, [""; 0]);
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [name]);
    }
    // Services and pods by the API's own proxy. A raw path leaves out that of the server.
    for (kubectl, lead) in ways(&gateway).iter().zip(["", "/clusters/gw-1"]) {
        for to in [format!("pods/{name}:8080"), "services/web:80".to_owned()] {
            let path = format!("{lead}/api/v1/namespaces/default/{to}/proxy/");
            assert_eq!(kubectl.told(&["get", "--raw", &path]).await, format!("{name}\n"));
        }
    }
}

#[tokio::test]
async fn kubectl_tells_what_runs_and_takes_a_rollout_back() {
    let gateway = Gateway::with_hub().await;
    let at = &gateway.at;
    let mut worker = container("trap 'exit 0' TERM; while :; do :; done");
    worker["resources"] = json!({"limits": {"cpu": "100m", "memory": "32Mi"}});
    at.create(&deployment("app", 2, worker)).await;
    let pods = at.until_ready("app", 2).await;
    let name = tests::objects::name(&pods[0]).to_owned();
    for kubectl in ways(&gateway) {
        let told = kubectl.told(&["describe", "pod", &name]).await;
        for part in [
            "Status:           Running",
            "Container ID:  containerd://",
            "Restart Count:  0",
            "Events:",
            "Started container c",
        ] {
            assert!(told.contains(part), "{part} in\n{told}");
        }
        let shown = kubectl.told(&["get", "pods", "-o", "wide"]).await;
        assert!(
            shown.contains("1/1") && shown.contains("10.42.0.") && shown.contains("gw-1"),
            "{shown}"
        );
        let told = kubectl.told(&["describe", "node", "gw-1"]).await;
        for part in [
            "containerd://1.",
            "Non-terminated Pods:          (2 in total)",
            "KubeletReady",
        ] {
            assert!(told.contains(part), "{part} in\n{told}");
        }
        // Figures come with the second look at the counters.
        let used = eventually("kubectl top to know", async || {
            let ended = kubectl.call(&["top", "pod", "--no-headers"]).await;
            let busy = ended.out.lines().filter(|l| {
                let cpu = l
                    .split_whitespace()
                    .nth(1)
                    .and_then(|c| c.strip_suffix('m')?.parse::<u32>().ok());
                cpu.is_some_and(|cpu| (20..=200).contains(&cpu))
            });
            (busy.count() == 2).then_some(ended.out)
        })
        .await;
        assert!(used.contains("Mi"), "{used}");
        let node = kubectl.told(&["top", "node", "--no-headers"]).await;
        assert!(node.starts_with("gw-1 ") && node.contains('%'), "{node}");
    }

    let kubectl = &gateway.kubectl;
    kubectl.told(&["set", "env", "deployment/app", "VERSION=2"]).await;
    kubectl
        .told(&["rollout", "status", "deployment/app", "--timeout=40s"])
        .await;
    let history = kubectl.told(&["rollout", "history", "deployment/app"]).await;
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    kubectl.told(&["rollout", "undo", "deployment/app"]).await;
    kubectl
        .told(&["rollout", "status", "deployment/app", "--timeout=40s"])
        .await;
    let pods = at.until_ready("app", 2).await;
    assert!(pods.iter().all(|pod| pod["spec"]["containers"][0]["env"].is_null()));
    kubectl.told(&["rollout", "restart", "deployment/app"]).await;
    kubectl
        .told(&["rollout", "status", "deployment/app", "--timeout=40s"])
        .await;
    kubectl.told(&["scale", "deployment/app", "--replicas=0"]).await;
    kubectl
        .told(&["wait", "--for=delete", "pod", "-l", "app=app", "--timeout=40s"])
        .await;
    tokio::time::sleep(LOOK).await;
    super::deploy::until_running(&gateway, 0).await;
}
