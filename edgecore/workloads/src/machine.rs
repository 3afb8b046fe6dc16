//! The machine that pods share: what the Node says of it, what is used, what happens when it runs short.
//!
//! Owns the view of the runtime's health and of the host's facts ([`Report`], which the agent merges into its Node). Looks when something
//! happens (the connection to the runtime ends, an address changes, somebody asks) and once a minute; writes nothing itself. Never touches a
//! container that it was not told to.

mod addresses;
mod eviction;
mod facts;
mod guard;
mod household;
mod limits;
mod logs;
mod report;
mod standing;
#[cfg(test)]
mod testing;
mod usage;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use cri::{Runtime, v1};
use daemon::drain::Drain;
use metastore::store::{ObjectKey, Store};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::facts::Facts;
use self::report::Known;
use self::standing::Standing;
use self::usage::Meter;
use crate::cluster::NODES;
use crate::settings::Settings;

pub(crate) use guard::{Eyes, Guard};
pub(crate) use household::{Home, Later, Resident, Room};
pub use limits::{Eviction, Reserved};
pub use report::{Condition, Report};
#[cfg(test)]
pub(crate) use usage::Host;
pub(crate) use usage::{ContainerUse, PodUse, Usage, Use};

/// Between two looks at a runtime that is well; what happens to it meanwhile ends the connection.
const CALM: Duration = Duration::from_secs(60);
/// Between two looks at one that lacks something: its network, as a rule, which comes without a word.
const LACKING: Duration = Duration::from_secs(1);
/// First and longest wait for one that does not answer.
const AWAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// Between two looks for one to be installed.
const ABSENT: Duration = Duration::from_secs(10);
/// An interface that comes up gets its addresses one after another.
const SETTLE: Duration = Duration::from_millis(500);

/// Says what the pod network lacks, from elsewhere.
type NetworkCheck = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What a machine is looked at with.
#[derive(Debug)]
pub struct MachineOptions {
    /// The gateway's name.
    pub node: Arc<str>,
    /// The agent's data folder: its file system is the one that pods write to.
    pub data_dir: PathBuf,
    /// The store, to know what the Node said before the agent started.
    pub store: Store,
    /// Of workloads.
    pub settings: Arc<Settings>,
}

/// The machine. Held by all who look at it or are told by it.
pub struct Machine {
    node: Arc<str>,
    settings: Arc<Settings>,
    known: Mutex<Known>,
    report: watch::Sender<Report>,
    runtime: watch::Sender<Option<Runtime>>,
    wanted: Notify,
    network: OnceLock<NetworkCheck>,
    meter: Meter,
    /// Whether pods ran here before: then a runtime that is not found is missed.
    had_runtime: bool,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").finish_non_exhaustive()
    }
}

impl Machine {
    /// Reads what there is to know without asking the runtime.
    pub fn new(options: MachineOptions) -> Self {
        let MachineOptions {
            node,
            data_dir,
            store,
            settings,
        } = options;
        let before = store.get(&ObjectKey::new("", NODES.plural, "", &*node)).ok().flatten();
        let before = before.and_then(|node| node.value().ok()).unwrap_or_default();
        let had_runtime = before["status"]["nodeInfo"]["containerRuntimeVersion"]
            .as_str()
            .is_some_and(|version| !version.is_empty());
        let known = Known {
            facts: Facts::read(&data_dir),
            addresses: outer_addresses(&settings),
            standing: Standing::Unknown,
            images: Vec::new(),
            pressure: None,
            network: None,
        };
        let machine = Self {
            report: watch::Sender::new(known.report(&settings)),
            known: Mutex::new(known),
            runtime: watch::Sender::new(None),
            wanted: Notify::new(),
            network: OnceLock::new(),
            meter: Meter::new(None),
            node,
            settings,
            had_runtime,
        };
        if let Err(standing) = machine.find() {
            machine.learn(|known| known.standing = standing);
        }
        machine
    }

    /// What the Node should say, whenever it changes.
    pub fn report(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }

    /// The runtime, from when one was found. It may be away for a while; another does not take its place.
    pub(crate) fn runtime(&self) -> watch::Receiver<Option<Runtime>> {
        self.runtime.subscribe()
    }

    /// What says whether the pod network works, beyond what the runtime says. Once.
    pub(crate) fn check_network(&self, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        // The first stays.
        drop(self.network.set(Box::new(check)));
    }

    /// Wants a look now: somebody found the runtime not to be as it was, or images are others.
    pub(crate) fn look_soon(&self) {
        self.wanted.notify_one();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in something new and tells it, if it is.
    fn learn(&self, change: impl FnOnce(&mut Known)) {
        let report = {
            let mut known = self.known();
            change(&mut known);
            known.report(&self.settings)
        };
        self.report.send_if_modified(|said| {
            let new = *said != report;
            if new {
                *said = report;
            }
            new
        });
    }

    /// The runtime to ask, or how it stands that there is none to ask.
    fn find(&self) -> Result<Runtime, Standing> {
        if let Some(runtime) = &*self.runtime.borrow() {
            return Ok(runtime.clone());
        }
        match self.settings.socket() {
            Some(socket) => {
                let runtime = Runtime::new(&socket);
                self.runtime.send_replace(Some(runtime.clone()));
                Ok(runtime)
            }
            None if self.settings.runtime == "none" => Err(Standing::switched_off()),
            None if self.had_runtime => Err(Standing::gone()),
            None => Err(Standing::none_found()),
        }
    }

    /// Follows runtime and addresses until the drain begins.
    pub async fn follow(self: Arc<Self>, drain: Drain) {
        let addresses = addresses::Changes::open();
        if let Err(e) = &addresses {
            tracing::warn!(error = %e, "Changes of addresses are not followed: the Node shows those of each minute.");
        }
        let mut addresses = addresses.ok();
        let mut view = View {
            last_up: Instant::now(),
            version: None,
            failures: 0,
        };
        loop {
            let mut ends = self.runtime.borrow().as_ref().map(Runtime::connection_ends);
            let wait = tokio::select! {
                biased;
                () = drain.stopping() => return,
                wait = self.look(&mut view) => wait,
            };
            let due = Instant::now() + wait;
            loop {
                tokio::select! {
                    biased;
                    () = drain.stopping() => return,
                    () = tokio::time::sleep_until(due) => break,
                    () = self.wanted.notified() => break,
                    () = ended(&mut ends) => break,
                    changed = changed(addresses.as_ref()) => {
                        if let Err(e) = changed {
                            tracing::warn!(error = %e, "Changes of addresses are not followed any more.");
                            addresses = None;
                        }
                        tokio::select! {
                            biased;
                            () = drain.stopping() => return,
                            () = tokio::time::sleep(SETTLE) => {}
                        }
                        self.read_addresses();
                    }
                }
            }
            self.read_addresses();
        }
    }

    fn read_addresses(&self) {
        let now = outer_addresses(&self.settings);
        self.learn(|known| known.addresses = now);
    }

    /// One look at the runtime; how long until the next.
    async fn look(&self, view: &mut View) -> Duration {
        let standing = match self.find() {
            Ok(runtime) => self.ask(&runtime, view).await,
            Err(standing) => standing,
        };
        let wait = match &standing {
            _ if standing.is_well() => CALM,
            Standing::Up { .. } => LACKING,
            Standing::Down { .. } => AWAY.0.saturating_mul(1 << view.failures.min(8)).min(AWAY.1),
            Standing::Unused { .. } | Standing::Unknown => ABSENT,
        };
        let now = Instant::now();
        match &standing {
            Standing::Down { message, .. } => {
                view.version = None;
                view.failures += 1;
                if standing.passes(now.duration_since(view.last_up)) {
                    return wait;
                }
                if self.known().standing != standing {
                    tracing::warn!("Pods are not looked after: {message}.");
                }
            }
            Standing::Up { version, .. } => {
                view.last_up = now;
                view.failures = 0;
                if !matches!(&self.known().standing, Standing::Up { version: was, .. } if was == version) {
                    tracing::info!(version, "The container runtime answers.");
                }
            }
            _ => {}
        }
        let network = self.network.get().and_then(|check| check().err());
        // Without a runtime nobody waits for the network, and a machine that has none for good is left in peace.
        let awaited = network.is_some() && matches!(standing, Standing::Up { .. });
        let wait = if awaited { wait.min(LACKING) } else { wait };
        self.learn(|known| {
            known.standing = standing;
            known.network = network;
        });
        wait
    }

    async fn ask(&self, runtime: &Runtime, view: &mut View) -> Standing {
        let socket = runtime.socket().display().to_string();
        let answer = async {
            let version = match view.version.clone() {
                Some(version) => version,
                None => {
                    let request = v1::VersionRequest {
                        version: "v1".to_owned(),
                    };
                    let is = runtime.version(request).await?;
                    format!("{}://{}", is.runtime_name, is.runtime_version.trim_start_matches('v'))
                }
            };
            let status = runtime.status(v1::StatusRequest { verbose: false }).await?;
            Ok((version, status))
        };
        match answer.await {
            Ok((version, status)) => {
                view.version = Some(version.clone());
                match runtime.list_images().await {
                    Ok(images) => self.learn(|known| known.images = report::images(images)),
                    Err(e) => tracing::debug!(error = %e, "The images cannot be listed."),
                }
                Standing::answered(&version, status)
            }
            Err(e) => Standing::failed(&e, &socket),
        }
    }
}

/// What one who follows the runtime remembers.
struct View {
    last_up: Instant,
    /// As it said when it was connected to.
    version: Option<String>,
    failures: u32,
}

async fn ended(ends: &mut Option<watch::Receiver<u64>>) {
    if let Some(ends) = ends
        && ends.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

async fn changed(addresses: Option<&addresses::Changes>) -> std::io::Result<()> {
    match addresses {
        Some(addresses) => addresses.next().await,
        None => std::future::pending().await,
    }
}

/// The machine's addresses but those of pods and Services.
fn outer_addresses(settings: &Settings) -> Vec<IpAddr> {
    let inner = [&settings.pod_cidr, &settings.service_cidr];
    addresses::read(|ip| inner.iter().any(|range| contains(range, ip)))
}

/// Whether an address is in a range such as `10.42.0.0/24`; in what is no range, none is.
fn contains(range: &str, ip: IpAddr) -> bool {
    range
        .parse::<crate::network::Cidr>()
        .is_ok_and(|range| range.contains(ip))
}

#[cfg(test)]
mod tests;
