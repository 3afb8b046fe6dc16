//! The agent put together: configuration -> bound (store open, sockets taken, devices served) -> running -> stopped.
//!
//! Order of start: store, twins, broker; from then on devices are answered. Then the health listener, the local API and the link,
//! none of which a device waits for. Order of stop: the link and the API, the broker (it acknowledges what it received), the twins,
//! the store; last the health listener, which says meanwhile that the agent is not ready.

mod files;
mod identity;
mod lives;

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use daemon::drain::Drain;
use daemon::exit;
use daemon::lives::CancellationToken;
use daemon::ready::{Block, Ready};
use link::pki::{PkiError, recover_identity};
use metastore::api::{AUDIT_STREAM, ApiServer};
use metastore::store::{JournalBound, SealKey, Store, StoreError, StoreOptions};
use tokio::net::TcpListener;
use tokio::sync::watch;
use workloads::Workloads;

pub use files::Addresses;
pub use lives::run;

use crate::bus::{Bus, BusError};
use crate::config::Config;
use crate::conflicts::EVENTS;
use crate::meta::{self, Meta, MetaError};
use crate::metrics::Metrics;
use crate::stamps::Stamps;
use crate::twin::Twins;
use crate::uplink::{RotationNotBefore, Uplink};
use crate::works;

/// How long the parts of the agent may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// How often it is looked whether there is memory to give back.
const MEMORY_GOES_BACK: Duration = Duration::from_secs(15);
/// How long a store that ends may take to say so after those who use it have noticed.
const STORE_LAST_WORD: Duration = Duration::from_secs(1);
/// Changes kept in memory for watchers. A gateway has few watchers and they are quick.
const RING: (usize, usize) = (1024, 256 * 1024);
/// KiB of the store kept in memory for writing; what is not there the system has.
const CACHE_KIB: u32 = 384;
/// Revisions kept in the change log: minutes of reports at full speed, days of a quiet gateway.
const LOG_KEEP: u64 = 4096;

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A folder or file of the agent.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// An address cannot be listened on.
    #[error("{what} cannot listen on {address}: {source}; is another agent running?")]
    Listen {
        /// Whose.
        what: &'static str,
        /// Which.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The store.
    #[error("store {path}: {source}", path = .path.display())]
    Store {
        /// Which.
        path: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// Keys and certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The broker.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A part that must not end did.
    #[error("{0} ended; the agent has to be started again")]
    Ended(&'static str),
    /// `nodeName` and the node certificate disagree, or there is no usable name.
    #[error("{0}")]
    Identity(String),
}

impl AgentError {
    /// The process's exit code for this failure.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Identity(_) | Self::Bus(BusError::Address(..)) => exit::BAD_CONFIG,
            _ => exit::FAILED,
        }
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    node: String,
    addresses: Addresses,
    store: Store,
    store_path: PathBuf,
    twins: Twins,
    bus: Bus,
    ready: Ready,
    metrics: Arc<Metrics>,
    api: watch::Receiver<Option<ApiServer>>,
    /// Link, API.
    outer: Drain,
    /// Twins.
    inner: Drain,
    /// Health: it tells until the last moment.
    probes: Drain,
}

/// A runtime of the size a gateway wants: two workers, small stacks.
///
/// # Errors
/// When the system gives no threads.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .thread_stack_size(1024 * 1024)
        .thread_keep_alive(Duration::from_secs(2))
        .enable_all()
        .build()
}

impl Agent {
    /// Starts everything. Devices are answered when this returns; API and link follow.
    ///
    /// # Errors
    /// What cannot be opened or listened on. The hub's absence is no error.
    pub async fn start(config: Config) -> Result<Self, AgentError> {
        daemon::tls::install_provider();
        recover_identity(&config.pki)?;
        let node = identity::node_name(&config)?;
        let (store, trust_store) = open_store(&config)?;
        let drains = [Drain::new(), Drain::new(), Drain::new()];
        let started = Self::start_on(&config, node, (store.clone(), trust_store), drains.clone()).await;
        if started.is_err() {
            for drain in drains {
                drain.finish(STOP_DEADLINE).await;
            }
            store.close().await;
        }
        // Whatever part stumbled over it.
        match (started, store.kv_get("", b"")) {
            (Err(_), Err(source @ StoreError::Corrupt(_))) => Err(AgentError::Store {
                path: store_path(&config),
                source,
            }),
            (started, _) => started,
        }
    }

    async fn start_on(
        config: &Config,
        node: String,
        (store, trust_store): (Store, bool),
        [outer, inner, probes]: [Drain; 3],
    ) -> Result<Self, AgentError> {
        let ready = Ready::new();
        let metrics = Arc::new(Metrics::default());
        let stored = |source| AgentError::Store {
            path: store_path(config),
            source,
        };
        let stamps = Stamps::load(&node, &store).map_err(stored)?;
        let twins = Twins::start(store.clone(), stamps.clone(), &node, Arc::clone(&metrics), &inner).map_err(stored)?;
        let bus = Bus::start(&config.mqtt, &node, store.clone(), &twins, &inner).await?;

        let health = listen("the health listener", &config.health).await?;
        let api = listen("the local API", &config.api).await?;
        let addresses = Addresses {
            api: api.local_addr().ok(),
            health: health.local_addr().ok(),
            mqtt: bus.address(),
        };
        // Before anybody can ask.
        let block = ready.block("api");
        drop(outer.spawn(watch_twins(twins.clone(), ready.clone(), outer.clone())));
        let page = Arc::clone(&metrics);
        drop(probes.spawn(daemon::health::serve(
            health,
            ready.clone(),
            Arc::new(move || page.render()),
            probes.clone(),
        )));
        drop(probes.spawn(tell_end(store.clone(), ready.clone(), probes.clone())));
        drop(probes.spawn(give_memory_back(probes.clone())));
        let workloads = Workloads::new(workloads::Options {
            node: node.clone(),
            data_dir: config.data_dir.clone(),
            store: store.clone(),
            settings: config.workloads.clone(),
            trust_store,
        });
        let machine = workloads.clone();
        let following = outer.clone();
        drop(outer.spawn(async move { machine.follow(following).await }));
        let meta = Meta {
            node: node.clone(),
            labels: config.labels.clone(),
            pki: config.pki.clone(),
            config_dir: config.config_dir.clone(),
            store: store.clone(),
            stamps: stamps.clone(),
            token_file: config.token_file.clone(),
            audit: config.audit.enabled,
            workloads,
        };
        let (api_in, api_out) = watch::channel(None);
        let (reporter, cluster) = works::Reporter::open(store.clone(), &node).map_err(stored)?;
        drop(outer.spawn(run_api(meta, api, api_in, block, outer.clone())));
        let uplink = Uplink {
            node: node.clone(),
            hubs: config.hubs.clone(),
            pki: config.pki.clone(),
            report_cycle: config.report_cycle(),
            store: store.clone(),
            stamps,
            twins: twins.clone(),
            metrics: Arc::clone(&metrics),
            api: api_out.clone(),
            cluster,
            rotation: RotationNotBefore::default(),
        };
        // Nobody asks a gateway that works alone what it is as a cluster.
        let reporter = uplink.configured().then_some(reporter);
        drop(outer.spawn(run_works(api_out.clone(), reporter, outer.clone())));
        if uplink.configured() {
            drop(outer.spawn(uplink.run(outer.clone())));
        } else {
            tracing::info!("No hub is configured, or there is no node certificate: the gateway works alone.");
        }
        files::write_addresses(&config.data_dir, &node, &addresses)?;
        tracing::info!(node, ?addresses, "The agent serves its devices.");
        Ok(Self {
            node,
            addresses,
            store,
            store_path: store_path(config),
            twins,
            bus,
            ready,
            metrics,
            api: api_out,
            outer,
            inner,
            probes,
        })
    }

    /// Resolves with the local API when it is up; `None` when it could not be started.
    pub async fn api(&self) -> Option<ApiServer> {
        let mut api = self.api.clone();
        api.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// Where it listens.
    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The gateway's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Its store, for tests and tools in the same process.
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// What is still starting.
    pub fn pending(&self) -> Vec<&'static str> {
        self.ready.pending()
    }

    /// The metrics page.
    pub fn metrics(&self) -> String {
        self.metrics.render()
    }

    /// Runs until told to stop, or until the store or the twin service ends by itself; stopped when this returns.
    ///
    /// # Errors
    /// When the store turned out damaged: start again, it is then set aside. When devices are not answered any more.
    pub async fn until(self, stop: &CancellationToken) -> Result<(), AgentError> {
        let path = self.store_path.clone();
        let ended = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            source = self.store.ended() => Some(AgentError::Store { path, source }),
            () = self.twins.ended() => {
                // Perhaps because the store did: then that is the reason to tell.
                let ended = tokio::time::timeout(STORE_LAST_WORD, self.store.ended()).await;
                Some(ended.map_or(AgentError::Ended("the twin service"), |source| AgentError::Store { path, source }))
            }
        };
        self.stop().await;
        ended.map_or(Ok(()), Err)
    }

    /// Stops in order. What was received from devices is acknowledged or left to be sent again.
    pub async fn stop(self) {
        let _stopping = self.ready.block("stop");
        if !self.outer.finish(STOP_DEADLINE).await {
            tracing::warn!("API or link did not stop in time.");
        }
        self.bus.stop().await;
        if !self.inner.finish(STOP_DEADLINE).await {
            tracing::warn!("The twin service did not stop in time.");
        }
        self.store.close().await;
        self.probes.finish(STOP_DEADLINE).await;
    }
}

/// Says that the agent is not ready any more when its store ended, for as long as anybody can ask.
async fn tell_end(store: Store, ready: Ready, probes: Drain) {
    tokio::select! {
        biased;
        () = probes.stopping() => return,
        _ = store.ended() => {}
    }
    let _store = ready.block("store");
    probes.stopping().await;
}

/// What a burst took of memory goes back to the machine when it is over: a gateway has little, and its pods want it.
async fn give_memory_back(drain: Drain) {
    let mut heap = daemon::heap::Returns::default();
    loop {
        tokio::select! {
            biased;
            () = drain.stopping() => return,
            () = tokio::time::sleep(MEMORY_GOES_BACK) => heap.look(),
        }
    }
}

/// An agent that does not answer its devices is not ready.
async fn watch_twins(twins: Twins, ready: Ready, drain: Drain) {
    tokio::select! {
        biased;
        () = drain.stopping() => return,
        () = twins.ended() => {}
    }
    tracing::error!("The twin service has ended.");
    let _block = ready.block("twins");
    drain.stopping().await;
}

/// Brings the local API up and serves it.
async fn run_api(meta: Meta, listener: TcpListener, up: watch::Sender<Option<ApiServer>>, block: Block, drain: Drain) {
    let Ok(at) = listener.local_addr() else { return };
    // Kept where the API does not come up: the agent is not ready then.
    let mut block = Some(block);
    let served = async {
        let keys = meta.keys(at).await?;
        let inside = meta.workloads.listen().await;
        let server = meta.build(&keys, inside.as_ref(), drain.clone()).await?;
        up.send_replace(Some(server.clone()));
        drop(drain.spawn(meta.workloads.clone().run(server.clone(), drain.clone())));
        if let Some(inside) = inside {
            drop(drain.spawn(meta::serve_inside(
                &keys,
                meta.workloads.clone(),
                server.clone(),
                inside,
                drain.clone(),
            )));
        }
        drop(drain.spawn(meta.clone().follow_node(at.port(), drain.clone())));
        if let Some(block) = block.take() {
            meta::serve(keys, server, listener, block, drain.clone()).await;
        }
        Ok::<_, MetaError>(())
    };
    if let Err(e) = served.await {
        tracing::error!(error = %e, "The local API does not run.");
    }
    // Whoever waits for the API waits until the agent stops.
    drain.stopping().await;
}

/// Once the local API is up: applies the hub's Works, and says what this gateway is as a cluster.
async fn run_works(mut api: watch::Receiver<Option<ApiServer>>, reporter: Option<works::Reporter>, drain: Drain) {
    let api = tokio::select! {
        biased;
        () = drain.stopping() => return,
        Ok(api) = api.wait_for(Option::is_some) => api.clone(),
        else => return,
    };
    let Some(api) = api else { return };
    if let Some(reporter) = reporter {
        drop(drain.spawn(reporter.run(api.clone(), drain.clone())));
    }
    works::run(api, drain).await;
}

fn store_path(config: &Config) -> PathBuf {
    config.data_dir.join("edgecore.db")
}

/// The store, and whether it is the one that was left: not one that had to take the place of a damaged one.
fn open_store(config: &Config) -> Result<(Store, bool), AgentError> {
    for folder in [&config.data_dir, &config.pki] {
        make_folder(folder).map_err(|source| AgentError::Io {
            path: folder.clone(),
            source,
        })?;
    }
    let path = store_path(config);
    let failed = |source| AgentError::Store {
        path: path.clone(),
        source,
    };
    let seal_key = SealKey::load_or_create(&config.pki.join("seal.key")).map_err(failed)?;
    let bound = |max_bytes| JournalBound {
        max_bytes,
        max_age_ms: Some(config.journal.max_age_hours.saturating_mul(3_600_000)),
    };
    let options = StoreOptions {
        ring: RING.0,
        ring_bytes: RING.1,
        log_keep: LOG_KEEP,
        seal_key: Some(seal_key),
        snapshot_dir: Some(config.data_dir.join("snapshots")),
        journal_default: bound(config.journal.max_bytes),
        journals: BTreeMap::from([
            (EVENTS.into(), bound(config.journal.events_max_bytes)),
            (AUDIT_STREAM.into(), bound(config.audit.max_bytes)),
        ]),
        max_bytes: config.store_max_bytes,
        cache_kib: CACHE_KIB,
        ..StoreOptions::new(&path)
    };
    let (store, opened) = Store::open(options).map_err(failed)?;
    if let Some(damaged) = &opened.damaged {
        let restored = opened.restored;
        tracing::error!(set_aside = %damaged.display(), restored, "The store was damaged and set aside.");
    }
    Ok((store, opened.damaged.is_none()))
}

/// Makes a folder, for its owner only, if it is not there.
fn make_folder(folder: &Path) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

async fn listen(what: &'static str, address: &str) -> Result<TcpListener, AgentError> {
    TcpListener::bind(address).await.map_err(|source| AgentError::Listen {
        what,
        address: address.to_owned(),
        source,
    })
}
