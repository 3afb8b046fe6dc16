//! A gateway with containers: an agent on a machine of its own, with a hub or alone.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::objects::Objects;
use crate::runtime::Machine;
use crate::{Api, Edge, Ended, Hub, Kubectl, Relay};

/// Its name.
pub const NODE: &str = "gw-1";
/// What the agent tells: with each step of its workloads, for a failed test.
const LOG: &str = "info,workloads=debug";
/// How long a failed test waits for what it shows.
const TOLD: &str = "--request-timeout=5s";

/// The hub of a gateway, on the same machine but none of its processes.
#[derive(Debug)]
pub struct Above {
    /// The cable.
    pub relay: Relay,
    /// The hub.
    pub hub: Hub,
    /// The gateway's API by way of the hub.
    pub through: Objects,
    _folder: TempDir,
}

/// An agent, its machine, and the hub if there is one.
#[derive(Debug)]
pub struct Gateway {
    /// The agent.
    pub edge: Edge,
    /// Its API.
    pub at: Objects,
    /// kubectl at the agent.
    pub kubectl: Kubectl,
    /// The hub.
    pub above: Option<Above>,
    // Last, since it takes the others' ground away.
    /// The machine.
    pub machine: Machine,
}

impl Gateway {
    /// One that never saw a hub.
    pub async fn alone() -> Self {
        Self::on(Machine::start().await, Value::Null).await
    }

    /// One without a hub on a machine that is there, with settings of its own about containers.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn on(machine: Machine, settings: Value) -> Self {
        daemon::tls::install_provider();
        let folder = machine.folder().join("gateway");
        configure(&folder, NODE, &machine, settings);
        let edge = Edge::start_with(&folder, NODE, &[]).await;
        Self::around(machine, edge, None).await
    }

    /// One that has joined a hub and is equal with it.
    ///
    /// # Panics
    /// When hub or agent do not start.
    pub async fn with_hub() -> Self {
        daemon::tls::install_provider();
        let machine = Machine::start().await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let relay = Relay::start().await.expect("a free port");
        let address = relay.address().to_string();
        let hub = Hub::start(folder.path(), &["--advertise", &address, "--heartbeat", "1s"]).await;
        relay.lead_to(hub.listen());
        let token = hub.token(&["--node", NODE]).await;
        let own = machine.folder().join("gateway");
        configure(&own, NODE, &machine, Value::Null);
        Edge::join(&own, NODE, &token).await.good();
        let edge = Edge::start_with(&own, NODE, &[]).await;
        hub.until_in_sync(NODE).await;
        let through = Api::open(&hub.kubeconfig(), Some(NODE))
            .await
            .expect("the hub wrote its kubeconfig");
        let above = Above {
            relay,
            hub,
            through: Objects(through),
            _folder: folder,
        };
        Self::around(machine, edge, Some(above)).await
    }

    async fn around(machine: Machine, edge: Edge, above: Option<Above>) -> Self {
        Self {
            at: Objects(edge.api().await),
            kubectl: Kubectl::new("kubectl", &edge.kubeconfig()),
            edge,
            above,
            machine,
        }
    }

    /// The hub and what leads to it.
    ///
    /// # Panics
    /// When the gateway is alone.
    pub fn above(&self) -> &Above {
        self.above.as_ref().expect("this gateway has a hub")
    }

    /// kubectl at the gateway by way of its hub.
    pub fn kubectl_through(&self) -> Kubectl {
        let hub = &self.above().hub;
        let mut kubectl = Kubectl::new("kubectl", &hub.kubeconfig());
        kubectl.flags = vec!["--server".to_owned(), format!("{}/clusters/{NODE}", hub.api_url())];
        kubectl
    }

    /// Starts the agent again, after it was killed or stopped.
    pub async fn start_again(&mut self) {
        self.edge.start_again().await;
        self.at = Objects(self.edge.api().await);
    }

    /// The power goes.
    pub async fn power_cut(&mut self) {
        self.edge.kill().await;
        self.machine.power_cut().await;
    }

    /// The power is back: runtime and agent start on what their disk holds.
    pub async fn boot(&mut self) {
        self.machine.boot().await;
        self.start_again().await;
    }

    /// `kubectl exec POD -- WORDS`.
    pub async fn exec(&self, pod: &str, words: &[&str]) -> Ended {
        self.kubectl.call(&[&["exec", pod, "--"], words].concat()).await
    }

    /// What a file in a pod's container holds.
    pub async fn read(&self, pod: &str, file: &str) -> String {
        self.exec(pod, &["cat", file]).await.good()
    }

    /// The last line of what `http://host[:port]` gives from inside a pod.
    pub async fn fetch(&self, pod: &str, url: &str) -> Ended {
        let address = url.trim_start_matches("http://").trim_end_matches('/');
        let (host, port) = address.split_once(':').unwrap_or((address, "80"));
        let line = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 $0 $1 | tail -n 1";
        self.exec(pod, &["sh", "-c", line, host, port]).await
    }

    /// Folder of the agent's logs of containers.
    pub fn logs(&self) -> std::path::PathBuf {
        self.edge.folder().join("data/logs")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for what in [
                &["get", "pods", "-A", "-o", "wide", TOLD][..],
                &["get", "events", "-A", TOLD],
            ] {
                tell(&self.kubectl.command(what));
            }
            for (program, words) in [("nft", ["list", "ruleset"]), ("ip", ["-brief", "address"])] {
                let mut command = Command::new(program);
                command.args(words);
                tell(&command);
            }
        }
    }
}

/// Shows what a program says, for a failed test.
fn tell(command: &Command) {
    use std::io::Write;
    let command = command.as_std();
    let said = std::process::Command::new(command.get_program())
        .args(command.get_args())
        .output();
    if let Ok(said) = said {
        drop(std::io::stderr().write_all(&[said.stdout, said.stderr].concat()));
    }
}

/// Writes what the agent reads: this, the machine's runtime, and that the disk of whoever runs the tests may be as full as it is.
pub(crate) fn configure(folder: &Path, node: &str, machine: &Machine, mut settings: Value) {
    settings["runtime"] = json!(format!("unix://{}", machine.socket().display()));
    let eviction = &mut settings["eviction"];
    for signal in [
        "nodefs.available",
        "nodefs.inodesFree",
        "imagefs.available",
        "imagefs.inodesFree",
    ] {
        let line = &mut eviction["hard"][signal];
        if line.is_null() {
            *line = json!("0%");
        }
    }
    eviction["imageHighPercent"] = json!(100);
    let configuration = folder.join("etc");
    std::fs::create_dir_all(&configuration).expect("the machine's folder can be written");
    let whole = json!({"nodeName": node, "log": LOG, "workloads": settings}).to_string();
    std::fs::write(configuration.join("edgecore.yaml"), whole).expect("the machine's folder can be written");
}

/// Whether nothing changes for a while: for what must not happen.
///
/// # Panics
/// When it does.
pub async fn stays<T: PartialEq + std::fmt::Debug>(what: &str, moment: Duration, mut look: impl AsyncFnMut() -> T) {
    let before = look().await;
    let deadline = daemon::clock::now() + moment;
    while daemon::clock::now() < deadline {
        tokio::time::sleep(crate::LOOK).await;
        assert_eq!(look().await, before, "{what} changed");
    }
}

/// Writes a static Pod's manifest as an operator would: whole at once.
///
/// # Panics
/// When the folder cannot be written.
pub fn write_manifest(gateway: &Gateway, file: &str, manifest: &Value) {
    let folder = gateway.edge.folder().join("etc/manifests");
    std::fs::create_dir_all(&folder).expect("the configuration's folder can be written");
    let at: &Path = &folder.join(file);
    let beside = folder.join(format!(".{file}"));
    std::fs::write(&beside, manifest.to_string()).expect("the folder can be written");
    std::fs::rename(beside, at).expect("the file can be moved into place");
}
