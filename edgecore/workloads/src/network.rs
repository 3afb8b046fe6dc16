//! The pods' network: how they are connected, how Services lead to them, how they are called.
//!
//! - `cni`: the configuration by which the runtime connects pods; one is written where none is there.
//! - `table`: Services and EndpointSlices as the network needs them, kept in step with the store.
//! - `rules`, `nft`, `conntrack`: Services by the kernel, which goes on without the agent; `userspace`: by this process, where the kernel cannot.
//! - `dns`: the cluster's names, and everybody else's by the machine's own servers.
//! - `link`, `host`: the address of each on this machine, and what the kernel must be told.
//!
//! Two addresses are the agent's own, the first and the tenth of the Services' range: the API and the names. The machine holds both on a link of
//! its own, so that a pod reaches them without any rule, and nobody from outside does: whoever asks is one of this machine's pods or programs
//! ([`Network::is_inside`]).
//!
//! Never decides what an endpoint is (controllers do) and never starts or ends a pod.

mod cidr;
mod cni;
mod conntrack;
mod dns;
mod host;
mod link;
pub(crate) mod netlink;
mod nft;
mod resolv;
mod rules;
mod serve;
mod table;
mod userspace;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cri::Runtime;
use daemon::drain::Drain;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

pub use cidr::{Cidr, CidrError};
pub use dns::{FUZZ_TARGETS, FuzzTarget};
pub(crate) use resolv::DnsFor;

use self::dns::Domain;
use self::table::Table;
use crate::cluster::Cluster;
use crate::pod::Pod;
use crate::settings::{Services, Settings};

/// Places in the Services' range: the API's address, as everywhere, and that of the names.
const API: u32 = 1;
const NAMES: u32 = 10;
/// Where the API listens on its address; and where else, when a program on this machine has that port on all addresses.
const API_PORTS: [u16; 2] = [443, 6443];
/// Between two looks at what other programs change.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// After a failure.
const RETRY: Duration = Duration::from_secs(5);
/// A sandbox that was being made when the agent started has been made by then.
const LEASES_REST: Duration = Duration::from_secs(60);
/// What was sent to a pod before Services left it has come in by then.
const LANDING: Duration = Duration::from_millis(100);
/// For so long this machine's addresses are believed to be the same.
const LOCAL_FOR: Duration = Duration::from_secs(5);
/// Within the agent's folder: which pod has which address.
const LEASES: &str = "network";
/// Where the kernel is told.
const SYS: &str = "/proc/sys";

/// The addresses that are the agent's own, and what the API is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterAddresses {
    /// The Services' range.
    pub services: Cidr,
    /// Of the Service `kubernetes`.
    pub api: IpAddr,
    /// Of the Service `kube-dns`.
    pub dns: IpAddr,
    /// Names that the API's certificate must bear beside its others.
    pub names: Vec<String>,
}

impl ClusterAddresses {
    /// By the settings; `None` where Services have no range or are somebody else's business.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn of(settings: &Settings) -> Result<Option<Self>, String> {
        if settings.services == Services::None || settings.service_cidr.is_empty() {
            return Ok(None);
        }
        let services: Cidr = settings.service_cidr.parse().map_err(|e| format!("serviceCidr: {e}"))?;
        let domain = Domain::new(&settings.cluster_domain)
            .ok_or_else(|| format!("clusterDomain {:?} is no domain", settings.cluster_domain))?;
        // The last of a range means everybody.
        let (Some(api), Some(dns), Some(_)) = (services.nth(API), services.nth(NAMES), services.nth(NAMES + 1)) else {
            return Err(format!("serviceCidr {services} has too few addresses: at least 16"));
        };
        let names = [
            "kubernetes".to_owned(),
            "kubernetes.default".to_owned(),
            "kubernetes.default.svc".to_owned(),
            format!("kubernetes.default.svc.{}", domain.as_str()),
            api.to_string(),
        ];
        Ok(Some(Self {
            services,
            api,
            dns,
            names: names.into(),
        }))
    }
}

/// What can be wrong; for the Node, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Settings,
    Pods,
    Forwarding,
    Link,
    Services,
    Names,
}

/// The pods' network. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Network(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    node: Arc<str>,
    settings: Settings,
    runtime: watch::Receiver<Option<Runtime>>,
    pods: Option<Cidr>,
    leases: PathBuf,
    own: Option<ClusterAddresses>,
    domain: Option<Domain>,
    faults: Mutex<BTreeMap<Part, String>>,
    /// Other faults than before, or none.
    faults_changed: Notify,
    /// What names are answered from.
    table: watch::Sender<Arc<Table>>,
    /// What packets are led by.
    in_force: watch::Sender<Arc<Table>>,
    /// This machine's addresses, and when they were looked at.
    local: Mutex<(Option<std::time::Instant>, BTreeSet<IpAddr>)>,
}

impl Network {
    /// Nothing is touched yet. `data_dir`: the agent's own; `runtime`: there from when one was found.
    pub(crate) fn new(
        node: Arc<str>,
        settings: &Settings,
        data_dir: &Path,
        runtime: watch::Receiver<Option<Runtime>>,
    ) -> Self {
        let mut faults = BTreeMap::new();
        let own = ClusterAddresses::of(settings).unwrap_or_else(|e| {
            faults.insert(Part::Settings, e);
            None
        });
        let pods = settings.pod_cidr.parse();
        if let Err(e) = &pods {
            faults.insert(Part::Settings, format!("podCidr: {e}"));
        } else {
            faults.insert(Part::Pods, "the pod network has not been looked at yet".to_owned());
        }
        Self(Arc::new(Shared {
            node,
            settings: settings.clone(),
            runtime,
            pods: pods.ok(),
            leases: data_dir.join(LEASES),
            domain: Domain::new(&settings.cluster_domain),
            own,
            faults: Mutex::new(faults),
            faults_changed: Notify::new(),
            table: watch::Sender::new(Arc::default()),
            in_force: watch::Sender::new(Arc::default()),
            local: Mutex::default(),
        }))
    }

    /// Makes the link with the agent's own addresses and listens for the API on its own: hand this to a second listener of the same server, and
    /// its address to [`metastore::api::Builder::advertise`]. `None` where pods have no way to the API; [`Self::ready`] says why.
    pub(crate) async fn listen(&self) -> Option<TcpListener> {
        if !may_run(&self.0.settings) {
            return None;
        }
        let own = self.0.own.as_ref()?;
        let linked = self.link(&BTreeSet::from([own.api, own.dns]), false);
        if let Err(e) = linked {
            self.fault(Part::Link, Err(e));
            return None;
        }
        let mut failed = None;
        for port in API_PORTS {
            match TcpListener::bind((own.api, port)).await {
                Ok(listener) => return Some(listener),
                Err(e) => failed = Some(e),
            }
        }
        let why = failed.map(|e| format!("the API cannot listen at {} for pods: {e}", own.api));
        self.fault(Part::Link, why.map_or(Ok(()), Err));
        None
    }

    /// Whether an address is that of a pod or of this machine: nobody else is answered at the agent's own addresses.
    pub(crate) fn is_inside(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        if ip.is_loopback() || self.0.pods.is_some_and(|pods| pods.contains(ip)) {
            return true;
        }
        // Another network's pods have other addresses.
        self.0.table.borrow().has_pod(ip) || self.is_local(ip)
    }

    /// Whether an address is this machine's own, by a look that is at most some seconds old.
    fn is_local(&self, ip: IpAddr) -> bool {
        let now = daemon::clock::now();
        let mut local = self.0.local.lock().unwrap_or_else(PoisonError::into_inner);
        if local.0.is_none_or(|looked| now.duration_since(looked) > LOCAL_FOR) {
            *local = (Some(now), link::local_addresses().unwrap_or_default());
        }
        local.1.contains(&ip)
    }

    /// Names for a pod's `/etc/resolv.conf`.
    pub(crate) fn dns_for(&self, pod: &Pod) -> DnsFor {
        let shared = &*self.0;
        let cluster = shared.own.as_ref().map(|own| own.dns).zip(shared.domain.as_ref());
        resolv::dns_for(pod, cluster, &resolv::host_for_pods())
    }

    /// Whether pods can be connected, or why not.
    pub(crate) fn ready(&self) -> Result<(), String> {
        let faults = self.faults();
        match faults.values().next() {
            None => Ok(()),
            Some(_) => Err(faults.values().cloned().collect::<Vec<_>>().join("; ")),
        }
    }

    /// Waits until [`Self::ready`] says something else.
    pub(crate) async fn changed(&self) {
        self.0.faults_changed.notified().await;
    }

    /// Waits until no Service leads to an address any more and what was on its way there has come in: a pod that is ended then misses no
    /// request. Bound it by a deadline: who writes endpoints may be late, and the kernel may take no rules.
    pub(crate) async fn left(&self, ip: IpAddr) {
        let mut table = self.0.in_force.subscribe();
        if table.borrow_and_update().leads_to(ip) {
            drop(table.wait_for(|table| !table.leads_to(ip)).await);
            tokio::time::sleep(LANDING).await;
        }
    }

    /// Does all of it until the drain begins; to be called when a runtime was found.
    pub(crate) async fn run(self, cluster: Cluster, drain: Drain) {
        drop(drain.spawn(self.clone().connect_pods(drain.clone())));
        if self.0.own.is_none() {
            return self.withdraw().await;
        }
        drop(drain.spawn(serve::names(self.clone(), cluster.clone(), drain.clone())));
        serve::services(self, cluster, drain).await;
    }

    /// Takes away what an earlier run left, when Services are somebody else's business now.
    async fn withdraw(&self) {
        match link::Link::find() {
            Ok(Some(link)) => {
                nft::remove().await;
                self.fault(Part::Link, link.remove().map_err(|e| format!("{}: {e}", link::NAME)));
            }
            Ok(None) => {}
            Err(e) => tracing::debug!(error = %e, "The links cannot be looked at."),
        }
    }

    /// Sees to it that the runtime has a configuration for pods, and that packets are passed on.
    async fn connect_pods(self, drain: Drain) {
        let Some(range) = self.0.pods else { return };
        let leases = self.clone();
        drop(drain.spawn(leases.clean_leases(drain.clone())));
        let mut places = None;
        loop {
            if places.is_none() {
                places = self.places().await;
            }
            if let Some(places) = &places {
                let wanted = cni::Wanted {
                    range,
                    masquerades: masquerades(),
                    leases: &self.0.leases,
                };
                let found = cni::ensure(places, wanted);
                self.fault(Part::Pods, found.map(drop).map_err(|e| e.to_string()));
                let forward = host::forward(Path::new(SYS), range.base().is_ipv6());
                self.fault(Part::Forwarding, forward);
            }
            let wait = if places.is_some() { LOOK_AGAIN } else { RETRY };
            tokio::select! {
                biased;
                () = drain.stopping() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn runtime(&self) -> Option<Runtime> {
        self.0.runtime.borrow().clone()
    }

    /// Where the runtime looks for its configuration; `None` while it does not answer.
    async fn places(&self) -> Option<cni::Places> {
        let runtime = self.runtime()?;
        match runtime.status(cri::v1::StatusRequest { verbose: true }).await {
            Ok(status) => Some(cni::Places::of(&self.0.settings.cni_config, &status.info)),
            Err(e) => {
                self.fault(Part::Pods, Err(e.to_string()));
                None
            }
        }
    }

    /// Gives back addresses of pods that went without a word.
    async fn clean_leases(self, drain: Drain) {
        let Some(runtime) = self.runtime() else { return };
        let folder = self.0.leases.clone();
        let look = move || cni::held(&folder);
        let Ok(Ok(held)) = tokio::task::spawn_blocking(look).await else {
            return;
        };
        if held.is_empty() {
            return;
        }
        loop {
            tokio::select! {
                biased;
                () = drain.stopping() => return,
                () = tokio::time::sleep(LEASES_REST) => {}
            }
            // All of them, whoever made them.
            let Ok(known) = runtime.list_pod_sandboxes(cri::v1::PodSandboxFilter::default()).await else {
                continue;
            };
            let known: BTreeSet<String> = known.into_iter().map(|sandbox| sandbox.id).collect();
            match tokio::task::spawn_blocking(move || cni::give_back(&held, &known)).await {
                Ok(Ok(0)) | Err(_) => {}
                Ok(Ok(count)) => tracing::info!(count, "Addresses of pods that are gone were given back."),
                Ok(Err(e)) => tracing::warn!(error = %e, "Addresses of pods that are gone cannot be given back."),
            }
            return;
        }
    }

    /// The link, with these addresses.
    fn link(&self, addresses: &BTreeSet<IpAddr>, only: bool) -> Result<(), String> {
        let Some(own) = &self.0.own else { return Ok(()) };
        let made = link::Link::make().and_then(|mut link| {
            link.hold(addresses, only)?;
            link.lead(own.services)
        });
        made.map_err(|e| format!("the link {} cannot be made or given its addresses: {e}", link::NAME))
    }

    fn faults(&self) -> std::sync::MutexGuard<'_, BTreeMap<Part, String>> {
        self.0.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how a part is.
    fn fault(&self, part: Part, how: Result<(), String>) {
        let mut faults = self.faults();
        let changed = match how {
            Ok(()) => faults.remove(&part).is_some(),
            Err(why) => {
                let before = faults.insert(part, why.clone());
                let new = before.as_ref() != Some(&why);
                if new {
                    tracing::warn!(?part, why, "The pods' network is not as it should be.");
                }
                new
            }
        };
        if changed {
            self.0.faults_changed.notify_one();
        }
    }
}

/// Whether pods may run here: a runtime is named, or there, or at least installed, as it may start after the agent. A machine that has none is
/// left as it is.
fn may_run(settings: &Settings) -> bool {
    const PROGRAMS: [&str; 5] = [
        "/usr/bin/containerd",
        "/usr/local/bin/containerd",
        "/usr/bin/crio",
        "/usr/local/bin/crio",
        "/usr/local/bin/k3s",
    ];
    let installed = || PROGRAMS.iter().any(|program| Path::new(program).exists());
    settings.runtime != "none" && (settings.socket().is_some() || installed())
}

/// Whether plugins can put this machine's address in the place of a pod's.
fn masquerades() -> bool {
    const PROGRAMS: [&str; 6] = [
        "/usr/sbin/iptables",
        "/sbin/iptables",
        "/usr/bin/iptables",
        "/usr/sbin/nft",
        "/sbin/nft",
        "/usr/bin/nft",
    ];
    PROGRAMS.iter().any(|program| Path::new(program).exists())
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
