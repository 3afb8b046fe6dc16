//! `kurator demo`: a hub, a gateway and a press on this machine, in a temporary folder, without root; told step by step.
//!
//! The daemons are the real programs beside this one; the press is a client of the gateway's MQTT port like any other; the cable is
//! a relay between gateway and hub. Whatever happens, the daemons are stopped and the folder is removed.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use daemon::exit::{FAILED, Failure};
use http::Method;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::cli::DemoArgs;
use crate::client::Api;
use crate::relay::{Relay, Weather};
use crate::say;

mod press;

/// Each step takes milliseconds; a machine so busy that this passes shows nothing.
const STEP_DEADLINE: Duration = Duration::from_secs(30);
/// How often a step's outcome is looked at.
const LOOK: Duration = Duration::from_millis(20);
const NODE: &str = "gw-1";
const DEVICE: &str = "press-01";
const DEVICES: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devices";
const MODELS: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devicemodels";
const STATUSES: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devicestatuses";

pub(crate) async fn run(arguments: DemoArgs) -> Result<(), Failure> {
    let folder = tempfile::Builder::new()
        .prefix("kurator-demo-")
        .tempdir()
        .map_err(|e| Failure::new(FAILED, format!("no temporary folder: {e}")))?;
    let mut stage = Stage::build(folder.path()).await?;
    let stop = daemon::signal::stop_requested();
    tokio::pin!(stop);
    let outcome = tokio::select! {
        biased;
        _ = &mut stop => Ok::<(), Failure>(()),
        outcome = async {
            stage.play().await?;
            if !arguments.once {
                stage.invite();
                std::future::pending::<()>().await;
            }
            Ok(())
        } => outcome,
    };
    stage.strike().await;
    let kept = folder.close();
    outcome?;
    kept.map_err(|e| Failure::new(FAILED, format!("the temporary folder stays behind: {e}")))?;
    say::line("Everything stopped, nothing left behind.");
    Ok(())
}

/// What the demo runs with.
struct Stage {
    folder: PathBuf,
    programs: PathBuf,
    relay: Relay,
    hub: Option<Child>,
    edge: Option<Child>,
    press: Option<press::Press>,
    cloud: Option<Api>,
    gateway: Option<Api>,
    addresses: Addresses,
    step: u32,
}

#[derive(Default)]
struct Addresses {
    hub_api: String,
    edge_api: String,
    mqtt: String,
}

impl Stage {
    async fn build(folder: &Path) -> Result<Self, Failure> {
        let me = std::env::current_exe().map_err(|e| Failure::new(FAILED, format!("where am I? {e}")))?;
        let programs = me.parent().map(Path::to_owned).unwrap_or_default();
        for name in ["cloudhub", "edgecore"] {
            if !programs.join(name).exists() {
                return Err(Failure::new(FAILED, format!("{name} is not beside {}", me.display()))
                    .hint("in a checkout, `make demo` builds all three programs"));
            }
        }
        let relay = Relay::start()
            .await
            .map_err(|e| Failure::new(FAILED, format!("no free port: {e}")))?;
        Ok(Self {
            folder: folder.to_owned(),
            programs,
            relay,
            hub: None,
            edge: None,
            press: None,
            cloud: None,
            gateway: None,
            addresses: Addresses::default(),
            step: 0,
        })
    }

    fn tell(&mut self, text: &str) {
        self.step += 1;
        say::line(&format!("{:>2}. {text}", self.step));
    }

    fn cloud(&self) -> &Api {
        self.cloud.as_ref().expect("the hub is started in the first step")
    }

    fn gateway(&self) -> &Api {
        self.gateway.as_ref().expect("the gateway is started in the third step")
    }

    async fn play(&mut self) -> Result<(), Failure> {
        self.start_hub().await?;
        self.join().await?;
        self.start_edge().await?;
        self.describe_device().await?;
        self.start_press().await?;
        self.edit_from_the_cloud().await?;
        self.cut_and_edit_both_sides().await?;
        self.mend().await
    }

    async fn start_hub(&mut self) -> Result<(), Failure> {
        let data = self.folder.join("hub");
        let started = daemon::clock::now();
        let relay = self.relay.address().to_string();
        let child = self.program("cloudhub", "hub.log", |c| {
            c.arg("--data-dir").arg(&data).args([
                "--listen",
                "127.0.0.1:0",
                "--api",
                "127.0.0.1:0",
                "--health",
                "127.0.0.1:0",
            ]);
            c.args(["--advertise", &relay]);
        })?;
        self.hub = Some(child);
        let run = self.run_file(&data.join("hub.json"), "hub.log").await?;
        let listen = run["listen"].as_str().and_then(|a| a.parse().ok());
        self.relay
            .lead_to(listen.ok_or_else(|| Failure::new(FAILED, "the hub did not say where it listens"))?);
        self.addresses.hub_api = run["api"].as_str().unwrap_or_default().to_owned();
        self.cloud = Some(Api::open(&data.join("admin.kubeconfig"), None).await?);
        self.tell(&format!(
            "A hub is up after {} ms: its Kubernetes API is {}.",
            ms(started),
            self.addresses.hub_api
        ));
        Ok(())
    }

    async fn join(&mut self) -> Result<(), Failure> {
        let started = daemon::clock::now();
        let made = self
            .cloud()
            .json(
                Method::POST,
                "/kurator/v1/tokens",
                Some(&json!({"node": NODE, "ttlSeconds": 900, "uses": 1})),
            )
            .await?;
        let token = self.folder.join("token");
        write_secret(&token, made["token"].as_str().unwrap_or_default())?;
        let status = self
            .command("kurator", "join.log", |c| {
                c.args(["join", "edge", "--no-service", "--node-name", NODE, "--token-file"])
                    .arg(&token);
                c.arg("--config-dir")
                    .arg(self.folder.join("etc"))
                    .arg("--data-dir")
                    .arg(self.folder.join("edge"));
            })?
            .status()
            .await
            .map_err(|e| Failure::new(FAILED, format!("kurator join: {e}")))?;
        if !status.success() {
            return Err(self.log_tail("join.log", "the join failed"));
        }
        self.tell(&format!(
            "Gateway {NODE} joined with a one-use token in {} ms; its key never left it.",
            ms(started)
        ));
        Ok(())
    }

    async fn start_edge(&mut self) -> Result<(), Failure> {
        let started = daemon::clock::now();
        let (config, data) = (self.folder.join("etc"), self.folder.join("edge"));
        let child = self.program("edgecore", "edge.log", |c| {
            c.arg("--config-dir").arg(&config).arg("--data-dir").arg(&data);
            for name in ["EDGECORE__API", "EDGECORE__HEALTH", "EDGECORE__MQTT__LISTEN"] {
                c.env(name, "127.0.0.1:0");
            }
            // Whatever containers this machine has are somebody else's.
            c.env("EDGECORE__WORKLOADS__RUNTIME", "none");
        })?;
        self.edge = Some(child);
        let run = self.run_file(&data.join("edge.json"), "edge.log").await?;
        self.addresses.edge_api = run["api"].as_str().unwrap_or_default().to_owned();
        self.addresses.mqtt = run["mqtt"].as_str().unwrap_or_default().to_owned();
        let kubeconfig = config.join("edge.kubeconfig");
        self.until("the gateway's own API", "edge.log", async |_: &Self| {
            Ok(kubeconfig.exists())
        })
        .await?;
        self.gateway = Some(Api::open(&kubeconfig, None).await?);
        self.until("the gateway to be connected", "edge.log", async |s: &Self| {
            let list = s.cloud().get("/kurator/v1/nodes").await?;
            Ok(list["items"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|n| n["name"] == NODE && n["connected"] == true))
        })
        .await?;
        self.tell(&format!(
            "Its agent is up and connected after {} ms: MQTT on {}, an API of its own on {}.",
            ms(started),
            self.addresses.mqtt,
            self.addresses.edge_api
        ));
        Ok(())
    }

    async fn describe_device(&mut self) -> Result<(), Failure> {
        let (model, mut device) = press::manifests()?;
        device["spec"]["nodeName"] = json!(NODE);
        self.cloud().json(Method::POST, MODELS, Some(&model)).await?;
        self.cloud().json(Method::POST, DEVICES, Some(&device)).await?;
        self.until("the device to reach the gateway", "edge.log", async |s: &Self| {
            Ok(s.gateway()
                .try_json(Method::GET, &format!("{DEVICES}/{DEVICE}"), None)
                .await?
                .is_ok())
        })
        .await?;
        self.tell("A press is described in the cloud (a DeviceModel and a Device); the gateway has it.");
        Ok(())
    }

    async fn start_press(&mut self) -> Result<(), Failure> {
        self.press = Some(press::Press::start(&self.addresses.mqtt)?);
        let seen = self.reported_in_cloud("temperature", |_| true).await?;
        self.tell(&format!(
            "The press speaks MQTT to the gateway; the cloud sees its temperature: {seen} °C."
        ));
        Ok(())
    }

    async fn edit_from_the_cloud(&mut self) -> Result<(), Failure> {
        let started = daemon::clock::now();
        set_desired(self.cloud(), "setpoint", "120").await?;
        self.reported_in_cloud("setpoint", |v| number(v) == Some(120.0)).await?;
        self.tell(&format!(
            "Setpoint edited in the cloud to 120 °C: the press took it and said so, back in the cloud after {} ms.",
            ms(started)
        ));
        let hot = self
            .reported_in_cloud("temperature", |v| number(v).is_some_and(|t| t > 100.0))
            .await?;
        self.tell(&format!("It heats up: {hot} °C."));
        Ok(())
    }

    async fn cut_and_edit_both_sides(&mut self) -> Result<(), Failure> {
        self.relay.set(Weather::CUT);
        self.tell("The cable is cut.");
        set_desired(self.cloud(), "setpoint", "65").await?;
        set_desired(self.gateway(), "enabled", "false").await?;
        self.until("the press to obey the gateway", "edge.log", async |s: &Self| {
            Ok(twin(s.gateway(), "enabled").await?.is_some_and(|v| v == "false"))
        })
        .await?;
        let (cloud, gateway) = (
            desired(self.cloud(), "enabled").await?,
            desired(self.gateway(), "setpoint").await?,
        );
        self.tell(&format!(
            "Meanwhile the cloud wants setpoint 65, and at the gateway the press was switched off, which it obeyed at once. The cloud still has enabled={}, the gateway setpoint={}.",
            cloud.unwrap_or_else(|| "unset".to_owned()),
            gateway.unwrap_or_else(|| "unset".to_owned())
        ));
        Ok(())
    }

    async fn mend(&mut self) -> Result<(), Failure> {
        let started = daemon::clock::now();
        self.relay.set(Weather::FAIR);
        self.until("both sides to agree", "edge.log", async |s: &Self| {
            for property in ["setpoint", "enabled"] {
                let (a, b) = (
                    desired(s.cloud(), property).await?,
                    desired(s.gateway(), property).await?,
                );
                let (c, d) = (twin(s.cloud(), property).await?, twin(s.gateway(), property).await?);
                if a.is_none() || a != b || c.is_none() || c != d {
                    return Ok(false);
                }
            }
            let list = s.cloud().get("/kurator/v1/nodes").await?;
            Ok(list["items"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|n| n["name"] == NODE && n["inSync"] == true)
                && desired(s.gateway(), "setpoint").await?.as_deref() == Some("65")
                && twin(s.cloud(), "enabled").await?.as_deref() == Some("false"))
        })
        .await?;
        self.tell(&format!("The cable is back: after {} ms both sides hold setpoint=65 and enabled=false, and their digests are equal.", ms(started)));
        Ok(())
    }

    fn invite(&self) {
        let hub = self.folder.join("hub/admin.kubeconfig");
        let edge = self.folder.join("etc/edge.kubeconfig");
        let kurator = self.programs.join("kurator");
        let (host, port) = self.addresses.mqtt.rsplit_once(':').unwrap_or(("127.0.0.1", "1883"));
        say::line("\nTry it by hand, in another terminal:\n");
        say::line(&format!("  export KUBECONFIG={}", hub.display()));
        say::line(&format!(
            "  kubectl get devices,devicestatuses,edgenodes\n  kubectl edit device {DEVICE}"
        ));
        say::line(&format!("  {} get nodes -o wide", kurator.display()));
        say::line(&format!(
            "  {} twin set {DEVICE} setpoint=90 enabled=true --wait 10s",
            kurator.display()
        ));
        say::line(&format!("  {} twin watch {DEVICE}", kurator.display()));
        say::line(&format!(
            "  kubectl --server {}/clusters/{NODE} get devices,nodes",
            self.addresses.hub_api
        ));
        say::line(&format!(
            "  kubectl --kubeconfig {} get devices        # the gateway itself, hub or no hub",
            edge.display()
        ));
        say::line(&format!("  mosquitto_sub -h {host} -p {port} -v -t '$hw/#'"));
        say::line("\nCtrl-C ends it and removes everything.");
    }

    async fn strike(&mut self) {
        self.press = None;
        for child in [self.edge.take(), self.hub.take()].into_iter().flatten() {
            stop(child).await;
        }
    }

    fn command(&self, name: &str, log: &str, fill: impl FnOnce(&mut Command)) -> Result<Command, Failure> {
        let open = || {
            std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(self.folder.join(log))
        };
        let failed = |e: std::io::Error| Failure::new(FAILED, format!("cannot run {name}: {e}"));
        let mut command = Command::new(self.programs.join(name));
        command
            .stdin(Stdio::null())
            .stdout(open().map_err(failed)?)
            .stderr(open().map_err(failed)?)
            .kill_on_drop(true);
        fill(&mut command);
        Ok(command)
    }

    fn program(&self, name: &str, log: &str, fill: impl FnOnce(&mut Command)) -> Result<Child, Failure> {
        self.command(name, log, fill)?
            .spawn()
            .map_err(|e| Failure::new(FAILED, format!("cannot run {name}: {e}")))
    }

    /// Waits for the file in which a daemon says where it listens.
    async fn run_file(&self, path: &Path, log: &str) -> Result<Value, Failure> {
        let deadline = daemon::clock::now() + STEP_DEADLINE;
        loop {
            if let Some(value) = std::fs::read_to_string(path)
                .ok()
                .and_then(|t| serde_json::from_str(&t).ok())
            {
                return Ok(value);
            }
            if daemon::clock::now() > deadline {
                return Err(self.log_tail(log, &format!("{} did not appear", path.display())));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn until<F>(&self, what: &str, log: &str, mut done: F) -> Result<(), Failure>
    where
        F: AsyncFnMut(&Self) -> Result<bool, Failure>,
    {
        let deadline = daemon::clock::now() + STEP_DEADLINE;
        loop {
            if done(self).await? {
                return Ok(());
            }
            if daemon::clock::now() > deadline {
                return Err(self.log_tail(log, &format!("waited {STEP_DEADLINE:?} for {what}")));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn reported_in_cloud(&self, property: &str, good: impl Fn(&str) -> bool) -> Result<String, Failure> {
        let mut seen = String::new();
        self.until(&format!("{property} to be reported"), "edge.log", async |s: &Self| {
            let Some(value) = twin(s.cloud(), property).await?.filter(|v| good(v)) else {
                return Ok(false);
            };
            seen = value;
            Ok(true)
        })
        .await?;
        Ok(seen)
    }

    /// The failure with the end of a daemon's log under it, since the folder is about to go.
    fn log_tail(&self, log: &str, what: &str) -> Failure {
        let text = std::fs::read_to_string(self.folder.join(log)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(15)..] {
            say::remark(&format!("  {log}: {line}"));
        }
        Failure::new(FAILED, what.to_owned()).hint("the lines above are the end of its log")
    }
}

/// SIGTERM, a few seconds, then SIGKILL.
async fn stop(mut child: Child) {
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // An error says that it has ended already.
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap_or_default();
    }
    if tokio::time::timeout(Duration::from_secs(5), child.wait())
        .await
        .is_err()
    {
        drop(child.kill().await);
    }
}

fn ms(since: std::time::Instant) -> u128 {
    since.elapsed().as_millis()
}

fn number(text: &str) -> Option<f64> {
    text.trim().parse().ok()
}

fn write_secret(path: &Path, text: &str) -> Result<(), Failure> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut f| f.write_all(text.as_bytes()))
        .map_err(|e| Failure::new(FAILED, format!("cannot write {}: {e}", path.display())))
}

/// The reported value of a property, as this API has it.
async fn twin(api: &Api, property: &str) -> Result<Option<String>, Failure> {
    let Ok(status) = api.try_json(Method::GET, &format!("{STATUSES}/{DEVICE}"), None).await? else {
        return Ok(None);
    };
    let twins = status["status"]["twins"].as_array().cloned().unwrap_or_default();
    let found = twins.iter().find(|t| t["propertyName"] == property);
    Ok(found.and_then(|t| t["reported"]["value"].as_str()).map(str::to_owned))
}

/// The desired value of a property, as this API has it.
async fn desired(api: &Api, property: &str) -> Result<Option<String>, Failure> {
    let device = api.get(&format!("{DEVICES}/{DEVICE}")).await?;
    let list = device["spec"]["properties"].as_array().cloned().unwrap_or_default();
    let found = list.iter().find(|p| p["name"] == property);
    Ok(found.and_then(|p| p["desired"]["value"].as_str()).map(str::to_owned))
}

/// Edits one desired value the way `kubectl edit` does: read, change, write back.
async fn set_desired(api: &Api, property: &str, value: &str) -> Result<(), Failure> {
    let path = format!("{DEVICES}/{DEVICE}");
    for _ in 0..8 {
        let mut device = api.get(&path).await?;
        crate::commands::twin::assign(&mut device, property, value);
        match api.try_json(Method::PUT, &path, Some(&device)).await? {
            Ok(_) => return Ok(()),
            Err(refusal) if refusal.status == http::StatusCode::CONFLICT => {}
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Err(Failure::new(FAILED, format!("somebody else keeps editing {DEVICE}")))
}
