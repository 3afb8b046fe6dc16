//! Hubs and gateways as processes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{Api, Ended, LOOK, PATIENCE, Relay, eventually, get, keep_log, kurator, program, run};

/// The address any free port is asked for with.
const ANY: &str = "127.0.0.1:0";

/// A hub.
#[derive(Debug)]
pub struct Hub {
    folder: PathBuf,
    child: Option<Child>,
    arguments: Vec<String>,
    run: Value,
    /// Its Kubernetes API, as administrator.
    pub api: Api,
}

impl Hub {
    /// Starts one in `folder`, with more arguments if wanted, and waits until it says where it listens.
    pub async fn start(folder: &Path, arguments: &[&str]) -> Self {
        Self::start_on(folder, ANY, arguments).await
    }

    /// The same with the address that gateways connect to.
    pub async fn start_on(folder: &Path, listen: &str, arguments: &[&str]) -> Self {
        let mut all: Vec<String> = ["--listen", listen, "--api", ANY, "--health", ANY]
            .iter()
            .map(|s| (*s).to_owned())
            .collect();
        all.extend(arguments.iter().map(|s| (*s).to_owned()));
        let (child, run) = launch_hub(folder, &all).await;
        let api = Api::open(&folder.join("admin.kubeconfig"), None)
            .await
            .expect("the hub wrote its kubeconfig");
        Self {
            folder: folder.to_owned(),
            child: Some(child),
            arguments: all,
            run,
            api,
        }
    }

    /// Where gateways connect to.
    ///
    /// # Panics
    /// When the hub's run file lacks it.
    pub fn listen(&self) -> SocketAddr {
        self.run["listen"]
            .as_str()
            .and_then(|a| a.parse().ok())
            .expect("the hub says where it listens")
    }

    /// `https://ip:port` of the people's port.
    pub fn api_url(&self) -> &str {
        self.run["api"].as_str().expect("the hub says where its API is")
    }

    /// `http://ip:port` of the health port.
    pub fn health_url(&self) -> &str {
        self.run["health"]
            .as_str()
            .expect("the hub says where its health port is")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// Its data folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("hub.log")).unwrap_or_default()
    }

    /// A new token.
    pub async fn token(&self, arguments: &[&str]) -> String {
        let mut all = vec!["token", "create"];
        all.extend(arguments);
        kurator(&self.kubeconfig(), &all).await.good().trim().to_owned()
    }

    /// The hub's live view of one gateway.
    pub async fn gateway(&self, name: &str) -> Option<Value> {
        let list = get(&self.api, "/kurator/v1/nodes").await?;
        list["items"].as_array()?.iter().find(|n| n["name"] == name).cloned()
    }

    /// Waits until a gateway is connected and both digests are equal.
    pub async fn until_in_sync(&self, name: &str) -> Value {
        eventually(&format!("{name} to be connected and in sync"), async || {
            self.gateway(name)
                .await
                .filter(|n| n["connected"] == true && n["inSync"] == true)
        })
        .await
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        kill(&mut self.child).await;
    }

    /// SIGTERM, and its exit.
    pub async fn stop(&mut self) -> Option<i32> {
        stop(&mut self.child).await
    }

    /// Starts it again on the same folder and the same ports.
    pub async fn start_again(&mut self) {
        let (listen, api) = (
            self.listen().to_string(),
            self.api_url().trim_start_matches("https://").to_owned(),
        );
        self.arguments[1] = listen;
        self.arguments[3] = api;
        let (child, run) = launch_hub(&self.folder, &self.arguments).await;
        self.child = Some(child);
        self.run = run;
    }
}

async fn launch_hub(folder: &Path, arguments: &[String]) -> (Child, Value) {
    std::fs::create_dir_all(folder).expect("the folder can be made");
    let mut command = Command::new(program("cloudhub"));
    command.arg("--data-dir").arg(folder).args(arguments);
    launch(command, &folder.join("hub.json"), &folder.join("hub.log")).await
}

/// Starts a daemon and waits for its run file to name the new process.
async fn launch(mut command: Command, run_file: &Path, log: &Path) -> (Child, Value) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the daemon can be started");
    keep_log(&mut child, log.to_owned());
    let pid = child.id();
    let deadline = daemon::clock::now() + PATIENCE;
    loop {
        let run: Option<Value> = std::fs::read_to_string(run_file)
            .ok()
            .and_then(|t| serde_json::from_str(&t).ok());
        if let Some(run) = run.filter(|r| r["pid"].as_u64() == pid.map(u64::from)) {
            return (child, run);
        }
        if let Ok(Some(status)) = child.try_wait() {
            tokio::time::sleep(LOOK).await;
            panic!(
                "the daemon ended with {status}:\n{}",
                std::fs::read_to_string(log).unwrap_or_default()
            );
        }
        assert!(
            daemon::clock::now() < deadline,
            "no run file:\n{}",
            std::fs::read_to_string(log).unwrap_or_default()
        );
        tokio::time::sleep(LOOK / 4).await;
    }
}

async fn kill(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        child.kill().await.expect("it was running");
    }
}

async fn stop(child: &mut Option<Child>) -> Option<i32> {
    let mut child = child.take()?;
    let pid = child.id()?.to_string();
    run(Command::new("kill").args(["-TERM", &pid])).await;
    let status = tokio::time::timeout(PATIENCE, child.wait())
        .await
        .expect("it stops when asked")
        .expect("it can be waited for");
    status.code()
}

/// A gateway.
#[derive(Debug)]
pub struct Edge {
    /// Its name.
    pub name: String,
    folder: PathBuf,
    child: Option<Child>,
    environment: Vec<(String, String)>,
    run: Value,
}

impl Edge {
    /// Runs `kurator join edge` for a folder of its own; starts nothing.
    pub async fn join(folder: &Path, name: &str, token: &str) -> Ended {
        Self::join_with(folder, name, token, &[]).await
    }

    /// The same with more arguments.
    ///
    /// # Panics
    /// When the token's file cannot be written.
    pub async fn join_with(folder: &Path, name: &str, token: &str, more: &[&str]) -> Ended {
        std::fs::create_dir_all(folder).expect("the folder can be made");
        let file = folder.join("token");
        std::fs::write(&file, token).expect("the token can be written");
        run(Command::new(program("kurator"))
            .args(["join", "edge", "--no-service", "--node-name", name, "--token-file"])
            .arg(file)
            .arg("--config-dir")
            .arg(folder.join("etc"))
            .arg("--data-dir")
            .arg(folder.join("data"))
            .args(more))
        .await
    }

    /// Starts the agent of a joined folder on free ports, without containers.
    pub async fn start(folder: &Path, name: &str) -> Self {
        let environment = [
            ("EDGECORE__API", ANY),
            ("EDGECORE__HEALTH", ANY),
            ("EDGECORE__MQTT__LISTEN", ANY),
            ("EDGECORE__WORKLOADS__RUNTIME", "none"),
        ];
        let environment = environment.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Self::start_with(folder, name, &environment).await
    }

    /// Starts the agent of a folder with this environment.
    pub async fn start_with(folder: &Path, name: &str, environment: &[(String, String)]) -> Self {
        let mut edge = Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            child: None,
            environment: environment.to_vec(),
            run: Value::Null,
        };
        edge.start_again().await;
        edge
    }

    /// Sets an environment variable for the next start.
    pub fn set(&mut self, key: &str, value: &str) {
        self.environment.retain(|(k, _)| k != key);
        self.environment.push((key.to_owned(), value.to_owned()));
    }

    /// The environment it is started with.
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// Starts it (again) on the same folder, and on the same MQTT port once it has one.
    pub async fn start_again(&mut self) {
        if let Some(mqtt) = self.run["mqtt"].as_str().map(str::to_owned) {
            self.set("EDGECORE__MQTT__LISTEN", &mqtt);
        }
        let mut command = Command::new(program("edgecore"));
        command
            .arg("--config-dir")
            .arg(self.folder.join("etc"))
            .arg("--data-dir")
            .arg(self.folder.join("data"));
        command.envs(self.environment.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        let (child, run) = launch(
            command,
            &self.folder.join("data/edge.json"),
            &self.folder.join("edge.log"),
        )
        .await;
        self.child = Some(child);
        self.run = run;
        self.until_api().await;
    }

    /// Waits until its own API answers: devices come first at an agent's start.
    ///
    /// # Panics
    /// When it does not get ready.
    async fn until_api(&self) {
        eventually("the agent to be ready", async || {
            let address = self.run["health"]
                .as_str()
                .expect("the agent says where its health port is");
            let (status, _) = kurator::ask(address.trim_start_matches("http://"), "/readyz")
                .await
                .ok()?;
            (status == 200).then_some(())
        })
        .await;
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        kill(&mut self.child).await;
    }

    /// SIGTERM, and its exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        stop(&mut self.child).await
    }

    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Whether the process still runs.
    ///
    /// # Panics
    /// When it cannot be asked.
    pub fn alive(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|c| c.try_wait().expect("it can be asked").is_none())
    }

    /// `http://ip:port` of its health port.
    ///
    /// # Panics
    /// When the agent's run file lacks it.
    pub fn health_url(&self) -> &str {
        self.run["health"]
            .as_str()
            .expect("the agent says where its health port is")
    }

    /// `host:port` of its broker.
    pub fn mqtt(&self) -> &str {
        self.run["mqtt"].as_str().expect("the agent says where its broker is")
    }

    /// Its own folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("etc/edge.kubeconfig")
    }

    /// Its own API.
    pub async fn api(&self) -> Api {
        self.until_api().await;
        Api::open(&self.kubeconfig(), None)
            .await
            .expect("the agent wrote its kubeconfig")
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("edge.log")).unwrap_or_default()
    }
}

/// A hub and a joined, connected gateway with a relay between, in one temporary folder.
#[derive(Debug)]
pub struct Pair {
    /// The cable.
    pub relay: Relay,
    /// The hub.
    pub hub: Hub,
    /// The gateway.
    pub edge: Edge,
    _folder: TempDir,
}

impl Pair {
    /// Starts both; the hub's heartbeat is short, so that lost links are noticed within a test's patience.
    pub async fn start() -> Self {
        Self::with(&["--heartbeat", "1s"]).await
    }

    /// The same with these hub arguments.
    pub async fn with(arguments: &[&str]) -> Self {
        daemon::tls::install_provider();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let relay = Relay::start().await.expect("a free port");
        let address = relay.address().to_string();
        let mut all = vec!["--advertise", address.as_str()];
        all.extend(arguments);
        let hub = Hub::start(&folder.path().join("hub"), &all).await;
        relay.lead_to(hub.listen());
        let edge = Self::gateway(&hub, &folder.path().join("gw-1"), "gw-1").await;
        hub.until_in_sync("gw-1").await;
        Self {
            relay,
            hub,
            edge,
            _folder: folder,
        }
    }

    /// Joins and starts one more gateway of this hub.
    pub async fn gateway(hub: &Hub, folder: &Path, name: &str) -> Edge {
        let token = hub.token(&["--node", name]).await;
        Edge::join(folder, name, &token).await.good();
        Edge::start(folder, name).await
    }

    /// Adds the press's model and a press bound to `gw-1`, and waits until the gateway has it.
    pub async fn with_press(&self, name: &str) {
        press(&self.hub.api, name, "gw-1").await;
        let edge = self.edge.api().await;
        eventually("the device to reach the gateway", async || {
            get(&edge, &device(name)).await
        })
        .await;
    }
}

/// The API path of a Device in `default`.
pub fn device(name: &str) -> String {
    format!("/apis/devices.kubeedge.io/v1beta1/namespaces/default/devices/{name}")
}

/// Creates the press's model, if absent, and a press of that name on a gateway.
///
/// # Panics
/// When the API refuses them.
pub async fn press(api: &Api, name: &str, node: &str) {
    let base = "/apis/devices.kubeedge.io/v1beta1/namespaces/default";
    let made = device_models::MODELS
        .iter()
        .find(|m| m.name == "press")
        .expect("the press's model is shipped");
    let model: Value = yaml(made.yaml);
    let model_name = model["metadata"]["name"]
        .as_str()
        .expect("a model has a name")
        .to_owned();
    if get(api, &format!("{base}/devicemodels/{model_name}")).await.is_none() {
        api.json(Method::POST, &format!("{base}/devicemodels"), Some(&model))
            .await
            .expect("the model is accepted");
    }
    let mut object: Value = yaml(device_models::PRESS_01.yaml);
    // As if nobody had wished for anything yet, and every report is to be seen at once.
    let names = ["setpoint", "temperature", "state", "cycles", "enabled"];
    object["spec"]["properties"] = names.iter().map(|n| json!({"name": n})).collect();
    object["metadata"]["name"] = json!(name);
    object["spec"]["nodeName"] = json!(node);
    api.json(Method::POST, &format!("{base}/devices"), Some(&object))
        .await
        .expect("the device is accepted");
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("shipped manifests are YAML")
}
