//! Clients that nobody here wrote: kubectl and the mosquitto programs.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::{Ended, PATIENCE, run};

/// `kubectl --kubeconfig … arguments`.
pub async fn kubectl(kubeconfig: &Path, arguments: &[&str]) -> Ended {
    Kubectl::new("kubectl", kubeconfig).call(arguments).await
}

/// The same with a document on standard input.
pub async fn kubectl_with_input(kubeconfig: &Path, arguments: &[&str], input: &str) -> Ended {
    Kubectl::new("kubectl", kubeconfig).with_input(arguments, input).await
}

/// One kubectl of several, as somebody with a kubeconfig calls it.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    /// What stands before the arguments of each call.
    pub flags: Vec<String>,
}

impl Kubectl {
    /// A program, by name or path, and a kubeconfig.
    pub fn new(program: impl Into<PathBuf>, kubeconfig: &Path) -> Self {
        Self {
            program: program.into(),
            kubeconfig: kubeconfig.to_owned(),
            flags: Vec::new(),
        }
    }

    /// A call that was not made yet; what it caches is this program's own.
    ///
    /// # Panics
    /// When the kubeconfig stands in no folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let folder = self.kubeconfig.parent().expect("a kubeconfig stands in a folder");
        let own = self.program.to_string_lossy().replace('/', "-");
        let mut command = Command::new(&self.program);
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(folder.join(format!("kubectl-cache{own}")))
            .args(&self.flags)
            .args(arguments);
        command
    }

    /// A call.
    pub async fn call(&self, arguments: &[&str]) -> Ended {
        run(&mut self.command(arguments)).await
    }

    /// What a call that ends well says.
    ///
    /// # Panics
    /// When it does not end well.
    pub async fn told(&self, arguments: &[&str]) -> String {
        let ended = self.call(arguments).await;
        assert!(
            ended.status.success(),
            "{} {arguments:?}: {}{}",
            self.program.display(),
            ended.out,
            ended.err
        );
        ended.out
    }

    /// A call with a document on standard input.
    ///
    /// # Panics
    /// When kubectl cannot be started or does not end.
    pub async fn with_input(&self, arguments: &[&str], input: &str) -> Ended {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("kubectl is installed");
        let mut stdin = child.stdin.take().expect("standard input is piped");
        // It may refuse before it has read everything.
        drop(stdin.write_all(input.as_bytes()).await);
        drop(stdin);
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
            .await
            .expect("kubectl ends")
            .expect("kubectl runs");
        Ended {
            status: output.status,
            out: String::from_utf8_lossy(&output.stdout).into(),
            err: String::from_utf8_lossy(&output.stderr).into(),
        }
    }
}

fn host_and_port(address: &str) -> (&str, &str) {
    address.rsplit_once(':').expect("host:port")
}

/// Publishes one message with QoS 1 and returns when the broker acknowledged it.
pub async fn mosquitto_pub(address: &str, topic: &str, payload: &str) -> Ended {
    let (host, port) = host_and_port(address);
    run(Command::new("mosquitto_pub").args(["-h", host, "-p", port, "-q", "1", "-t", topic, "-m", payload])).await
}

/// A running `mosquitto_sub`.
#[derive(Debug)]
pub struct Subscriber {
    messages: mpsc::Receiver<(String, Value)>,
    child: Child,
}

impl Subscriber {
    /// Subscribes with QoS 1 and returns when the broker confirmed it.
    ///
    /// # Panics
    /// When mosquitto_sub cannot be started.
    pub async fn start(address: &str, filter: &str, extra: &[&str]) -> Self {
        let (host, port) = host_and_port(address);
        let mut child = Command::new("stdbuf")
            .args([
                "-oL",
                "mosquitto_sub",
                "-h",
                host,
                "-p",
                port,
                "-q",
                "1",
                "-t",
                filter,
                "-F",
                "%t %p",
                "-d",
            ])
            .args(extra)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .expect("mosquitto_sub is installed");
        let mut lines = BufReader::new(child.stdout.take().expect("standard output is piped")).lines();
        // Room for everything a test sends: a slow test must not stop the reader.
        let (sender, messages) = mpsc::channel(100_000);
        let (confirmed, confirmation) = tokio::sync::oneshot::channel();
        drop(tokio::spawn(async move {
            let mut confirmed = Some(confirmed);
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with("Subscribed") || line.contains("received SUBACK") {
                    if let Some(tell) = confirmed.take() {
                        tell.send(()).unwrap_or_default();
                    }
                    continue;
                }
                if let Some((topic, payload)) = line.split_once(' ').filter(|(t, _)| t.contains('/')) {
                    let payload = serde_json::from_str(payload).unwrap_or_else(|_| Value::String(payload.to_owned()));
                    if sender.send((topic.to_owned(), payload)).await.is_err() {
                        return;
                    }
                }
            }
        }));
        tokio::time::timeout(PATIENCE, confirmation)
            .await
            .expect("the broker confirms")
            .expect("mosquitto_sub lives");
        Self { messages, child }
    }

    /// The next message.
    ///
    /// # Panics
    /// When none comes.
    pub async fn next(&mut self) -> (String, Value) {
        let next = tokio::time::timeout(PATIENCE, self.messages.recv()).await;
        next.expect("a message comes").expect("mosquitto_sub lives")
    }

    /// Skips messages until one fits.
    pub async fn until(&mut self, what: &str, mut fits: impl FnMut(&str, &Value) -> bool) -> (String, Value) {
        let search = async {
            loop {
                let (topic, payload) = self.messages.recv().await.expect("mosquitto_sub lives");
                if fits(&topic, &payload) {
                    return (topic, payload);
                }
            }
        };
        tokio::time::timeout(PATIENCE, search)
            .await
            .unwrap_or_else(|_| panic!("no message came: {what}"))
    }

    /// Whatever came within a moment; for showing that nothing did.
    pub async fn within(&mut self, moment: Duration) -> Vec<(String, Value)> {
        let mut seen = Vec::new();
        let collect = async {
            while let Some(message) = self.messages.recv().await {
                seen.push(message);
            }
        };
        drop(tokio::time::timeout(moment, collect).await);
        seen
    }

    /// Ends it as a device that loses power would: without a DISCONNECT.
    ///
    /// # Panics
    /// When the process cannot be waited for.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it was running");
    }
}

/// Publishes many messages over one connection, in order, each with QoS 1.
///
/// # Panics
/// When mosquitto_pub cannot be started or does not end.
pub async fn mosquitto_pub_lines(address: &str, topic: &str, payloads: &[String]) -> Ended {
    let (host, port) = host_and_port(address);
    let mut child = Command::new("mosquitto_pub")
        .args(["-h", host, "-p", port, "-q", "1", "-t", topic, "-l"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("mosquitto_pub is installed");
    let mut stdin = child.stdin.take().expect("standard input is piped");
    stdin
        .write_all((payloads.join("\n") + "\n").as_bytes())
        .await
        .expect("mosquitto_pub reads");
    drop(stdin);
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output())
        .await
        .expect("it ends")
        .expect("it runs");
    Ended {
        status: output.status,
        out: String::from_utf8_lossy(&output.stdout).into(),
        err: String::from_utf8_lossy(&output.stderr).into(),
    }
}
