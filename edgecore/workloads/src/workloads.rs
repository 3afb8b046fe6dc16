//! The parts put together: known before the API is (it asks about the machine and leads to programs), running once it answers.
//!
//! Controllers run with or without a container runtime: a Deployment that nothing can run yet says so in its status. All that needs the runtime
//! waits until one is found, which may be days after the agent's start.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cri::{Runtime, v1};
use daemon::drain::Drain;
use metastore::api::{ApiServer, Connector};
use metastore::store::Store;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::cluster::Cluster;
use crate::controllers::{self, Controller};
use crate::events::Recorder;
use crate::images::Images;
use crate::machine::{Eyes, Guard, Home, Machine, MachineOptions, Report};
use crate::network::{ClusterAddresses, Network};
use crate::pods::{self, Pods};
use crate::reach::{House, Reach};
use crate::settings::{CgroupDriver, Settings};
use crate::setup::{Host, Ips};
use crate::supply::Supply;
use crate::volumes;

/// Between two questions to a runtime that does not answer yet.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// What containers on a gateway are run with.
#[derive(Debug)]
pub struct Options {
    /// The gateway's name.
    pub node: String,
    /// The agent's data folder.
    pub data_dir: PathBuf,
    /// The agent's store.
    pub store: Store,
    /// Completed ([`Settings::complete`]).
    pub settings: Settings,
    /// False when the store was found damaged and replaced at this start: what it does not hold may still be wanted.
    pub trust_store: bool,
}

/// Containers on the gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Workloads(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    node: Arc<str>,
    data_dir: PathBuf,
    settings: Arc<Settings>,
    trust_store: bool,
    machine: Arc<Machine>,
    network: Network,
    reach: Reach,
}

impl Workloads {
    /// Looks at the machine; starts nothing.
    pub fn new(options: Options) -> Self {
        let Options {
            node,
            data_dir,
            store,
            settings,
            trust_store,
        } = options;
        let node: Arc<str> = node.into();
        let settings = Arc::new(settings);
        let reach = Reach::new(Arc::clone(&node), store.clone(), &settings.logs);
        let machine = Arc::new(Machine::new(MachineOptions {
            node: Arc::clone(&node),
            data_dir: data_dir.clone(),
            store,
            settings: Arc::clone(&settings),
        }));
        let network = Network::new(Arc::clone(&node), &settings, &data_dir, machine.runtime());
        let looked = network.clone();
        machine.check_network(move || looked.ready());
        Self(Arc::new(Parts {
            node,
            data_dir,
            settings,
            trust_store,
            machine,
            network,
            reach,
        }))
    }

    /// Whether containers are run here at all, as far as the settings say.
    pub fn enabled(&self) -> bool {
        self.0.settings.runtime != "none"
    }

    /// Addresses that belong to the cluster itself, for the API's certificate and its Services; `None` where Services have none.
    pub fn addresses(&self) -> Option<ClusterAddresses> {
        let wanted = self
            .enabled()
            .then(|| ClusterAddresses::of(&self.0.settings).ok().flatten());
        wanted.flatten()
    }

    /// The way to running programs, for the API.
    pub fn connector(&self) -> Arc<dyn Connector> {
        Arc::new(self.0.reach.clone())
    }

    /// What the Node is to say about the machine.
    pub fn report(&self) -> watch::Receiver<Report> {
        self.0.machine.report()
    }

    /// Listens for the API where pods reach it; `None` where they cannot, which the Node then says.
    pub async fn listen(&self) -> Option<TcpListener> {
        if !self.enabled() {
            return None;
        }
        self.0.network.listen().await
    }

    /// Whether who asks at [`Self::listen`]'s address is a pod or a program of this machine; nobody else is answered there.
    pub fn is_inside(&self, ip: IpAddr) -> bool {
        self.0.network.is_inside(ip)
    }

    /// Follows the machine: before and without the API.
    pub async fn follow(&self, drain: Drain) {
        Arc::clone(&self.0.machine).follow(drain).await;
    }

    /// Runs what the store asks for, until the drain begins. Containers go on afterwards.
    pub async fn run(self, api: ApiServer, drain: Drain) {
        if !self.enabled() {
            return;
        }
        let parts = &self.0;
        let writer = Cluster::new(api.clone(), "event-recorder");
        let (recorder, telling) = Recorder::new(writer, Arc::clone(&parts.node), "kurator");
        let stopping = drain.clone();
        drop(drain.spawn(async move {
            // It holds the API, and with that what holds recorders: it does not end by itself.
            tokio::select! {
                biased;
                () = stopping.stopping() => {}
                () = telling => {}
            }
        }));
        let cluster = Cluster::new(api.clone(), "controller-manager");
        for controller in controllers::all(cluster.clone(), recorder.clone(), &parts.node) {
            drop(drain.spawn(control(controller, cluster.clone(), drain.clone())));
        }
        let binder = Cluster::new(api.clone(), "persistent-volume-binder");
        let told = recorder.of("persistentvolume-controller");
        let claims = volumes::claims(binder, told, parts.data_dir.join("volumes"));
        drop(drain.spawn(control(claims, cluster.clone(), drain.clone())));
        let Some(runtime) = parts.runtime(&drain).await else {
            return;
        };
        let Some(systemd) = parts.systemd(&runtime, &drain).await else {
            return;
        };
        let (changed, machine, stopping) = (parts.network.clone(), Arc::clone(&parts.machine), drain.clone());
        drop(drain.spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = stopping.stopping() => return,
                    () = changed.changed() => machine.look_soon(),
                }
            }
        }));
        let network = Cluster::new(api.clone(), "network");
        drop(drain.spawn(parts.network.clone().run(network, drain.clone())));
        self.run_pods(&api, runtime, systemd, &recorder, drain).await;
    }

    async fn run_pods(&self, api: &ApiServer, runtime: Runtime, systemd: bool, recorder: &Recorder, drain: Drain) {
        let parts = &self.0;
        let settings = &parts.settings;
        let cluster = Cluster::new(api.clone(), "kubelet");
        let status = tokio::select! {
            biased;
            () = drain.stopping() => return,
            status = runtime.status(v1::StatusRequest { verbose: false }) => status,
        };
        let machine = Arc::clone(&parts.machine);
        let ips = Ips(Arc::new(move || addresses(&machine.report().borrow())));
        let host = Arc::new(Host {
            recursive_read_only: status.is_ok_and(|status| is_read_only_below(&status)),
            ..Host::new(
                Arc::clone(&parts.node),
                ips.clone(),
                systemd,
                &parts.data_dir,
                settings.logs.clone(),
                &settings.cluster_domain,
            )
        });
        let images = Images::new(runtime.clone(), cluster.clone(), recorder.of("kubelet"));
        let network = parts.network.clone();
        let names = Arc::new(move |pod: &crate::pod::Pod| {
            let names = network.dns_for(pod);
            v1::DnsConfig {
                servers: names.servers,
                searches: names.searches,
                options: names.options,
            }
        });
        let supply = Supply::new(cluster.clone(), runtime.clone(), images.clone(), host, names)
            .beside(parts.network.clone())
            .on(Arc::clone(&parts.machine));
        let options = pods::Options {
            node: Arc::clone(&parts.node),
            host_ips: Arc::new(move || ips.now().iter().map(ToString::to_string).collect()),
            logs: settings.logs.clone(),
            manifests: settings.manifests.clone(),
            trust_store: parts.trust_store,
            wall: Arc::new(daemon::clock::wall_ms),
        };
        let pods = Pods::new(options, cluster.clone(), runtime, Arc::new(supply.clone()), recorder);
        parts.reach.runs(Arc::new(House {
            pods: pods.clone(),
            machine: Arc::clone(&parts.machine),
        }));
        let home = Home {
            pods: pods.clone(),
            volumes: supply.volumes().clone(),
            images,
        };
        let eyes = Eyes {
            data_dir: parts.data_dir.clone(),
        };
        let guard = Guard::new(Arc::clone(&parts.machine), Arc::new(home), cluster, recorder, eyes);
        drop(drain.spawn(guard.run(drain.clone())));
        let tokens = drain.clone();
        drop(drain.spawn(async move { supply.keep(&tokens).await }));
        pods.run(drain).await;
    }
}

/// Runs a controller; one that panics takes no other with it, and begins anew.
async fn control(controller: Arc<dyn Controller>, cluster: Cluster, drain: Drain) {
    loop {
        let run = drain.spawn(controllers::run(
            Arc::clone(&controller),
            cluster.clone(),
            drain.clone(),
        ));
        match run.await {
            Err(e) if e.is_panic() => {
                tracing::error!(controller = controller.name(), "A controller panicked; it begins anew.")
            }
            _ => return,
        }
        tokio::select! {
            biased;
            () = drain.stopping() => return,
            () = tokio::time::sleep(ASK_AGAIN) => {}
        }
    }
}

impl Parts {
    /// The runtime, once there is one.
    async fn runtime(&self, drain: &Drain) -> Option<Runtime> {
        let mut found = self.machine.runtime();
        tokio::select! {
            biased;
            () = drain.stopping() => None,
            found = found.wait_for(Option::is_some) => found.ok()?.clone(),
        }
    }

    /// Whether the runtime has systemd make its cgroups. `None` when the agent stops before it says so.
    async fn systemd(&self, runtime: &Runtime, drain: &Drain) -> Option<bool> {
        match self.settings.cgroup_driver {
            CgroupDriver::Cgroupfs => return Some(false),
            CgroupDriver::Systemd => return Some(true),
            CgroupDriver::Auto => {}
        }
        loop {
            if let Ok(answer) = runtime.runtime_config(v1::RuntimeConfigRequest {}).await
                && let Some(linux) = answer.linux
            {
                return Some(linux.cgroup_driver() == v1::CgroupDriver::Systemd);
            }
            // Older runtimes tell their whole configuration instead.
            if let Ok(status) = runtime.status(v1::StatusRequest { verbose: true }).await {
                return Some(status.info.get("config").is_some_and(|config| configured(config)));
            }
            tokio::select! {
                biased;
                () = drain.stopping() => return None,
                () = tokio::time::sleep(ASK_AGAIN) => {}
            }
        }
    }
}

/// Whether containerd's configuration, as its verbose status shows it, gives cgroups to systemd.
fn configured(config: &str) -> bool {
    let Ok(config) = serde_json::from_str::<Value>(config) else {
        return false;
    };
    let runtimes = &config["containerd"];
    let usual = runtimes["defaultRuntimeName"].as_str().unwrap_or("runc");
    runtimes["runtimes"][usual]["options"]["SystemdCgroup"] == true
}

/// Whether the runtime's usual handler can mount read-only with all that is mounted below.
fn is_read_only_below(status: &v1::StatusResponse) -> bool {
    let usual = status.runtime_handlers.iter().filter(|handler| handler.name.is_empty());
    usual
        .filter_map(|handler| handler.features)
        .any(|f| f.recursive_read_only_mounts)
}

/// The node's addresses, as its Node says them.
fn addresses(report: &Report) -> Vec<IpAddr> {
    let all = report.status.get("addresses").and_then(Value::as_array);
    let inner = all.into_iter().flatten().filter(|a| a["type"] == "InternalIP");
    inner.filter_map(|a| a["address"].as_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_is_that_of_the_usual_runtime() {
        let config = |driver: bool| {
            serde_json::json!({"containerd": {"defaultRuntimeName": "crun", "runtimes": {
                "crun": {"options": {"SystemdCgroup": driver}}, "runc": {"options": {"SystemdCgroup": !driver}}}}})
            .to_string()
        };
        assert!(configured(&config(true)));
        assert!(!configured(&config(false)));
        assert!(!configured("{}") && !configured("?"));
    }

    #[test]
    fn what_the_usual_handler_can_counts() {
        let able = |name: &str, able: bool| v1::RuntimeHandler {
            name: name.to_owned(),
            features: Some(v1::RuntimeHandlerFeatures {
                recursive_read_only_mounts: able,
                ..v1::RuntimeHandlerFeatures::default()
            }),
        };
        let status = |handlers: Vec<v1::RuntimeHandler>| v1::StatusResponse {
            runtime_handlers: handlers,
            ..v1::StatusResponse::default()
        };
        assert!(is_read_only_below(&status(vec![able("kata", false), able("", true)])));
        assert!(!is_read_only_below(&status(vec![able("kata", true), able("", false)])));
        assert!(!is_read_only_below(&status(vec![v1::RuntimeHandler::default()])));
        assert!(!is_read_only_below(&status(Vec::new())));
    }
}
