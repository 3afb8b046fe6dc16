//! The hub put together, in three steps that tests can stop between: [`Config`] is only read; [`Bound`] has its
//! store open and its sockets bound, and nothing runs; [`Hub`] runs.
//!
//! It stops in the order in which things depend on each other: gateways are told, sessions and requests end, the writer stops,
//! the store is closed last.

mod files;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use daemon::drain::Drain;
use daemon::exit::{BAD_CONFIG, FAILED, Failure};
use daemon::lives::End;
use daemon::ready::Ready;
use link::pki::{Cert, Credential, HubCa, PkiError};
use link::{HubConfig, HubEndpoint, HubLimits};
use metastore::api::Identify;
use metastore::store::{CommitError, Store, StoreError};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio::net::TcpListener;

use self::files::{Files, no_room};
use crate::config::{Config, Mode, split_address};
use crate::embedded::{self, Access, EmbeddedError};
use crate::enroll::Directory;
use crate::fleet::{Fleet, IdentityGate, Registry};
use crate::gateway::Front;
use crate::metrics::{Gauges, Metrics};
use crate::upstream::{self, Above, ClientRef, Index, Leases, Objects, Watches, Writer};

/// How long sessions, requests and writes may take to end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(8);
/// How often the certificates that the hub keeps for itself and its administrator are looked at: often beside how long they last.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(12 * 3600);

fn failed(what: &str) -> impl Fn(&dyn std::fmt::Display) -> Failure + '_ {
    move |e| Failure::new(FAILED, format!("{what}: {e}"))
}

/// Sockets bound, store open; nothing runs.
#[derive(Debug)]
pub struct Bound {
    config: Arc<Config>,
    store: Store,
    ca: Arc<HubCa>,
    server: Credential,
    directory: Arc<Directory>,
    endpoint: HubEndpoint,
    api: TcpListener,
    health: TcpListener,
    addresses: Addresses,
    hub_addrs: Vec<String>,
    names: Vec<String>,
    files: Files,
    /// There was no room for one of the files.
    unwritten: bool,
}

/// Where a hub listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The gateways' port, UDP and TCP.
    pub listen: SocketAddr,
    /// The people's port.
    pub api: SocketAddr,
    /// The health port.
    pub health: SocketAddr,
}

/// A running hub.
#[derive(Debug)]
pub struct Hub {
    addresses: Addresses,
    fleet: Arc<Fleet>,
    ready: Ready,
    drain: Drain,
    store: Store,
}

impl Bound {
    /// Opens the store, makes or reads the keys, binds the three ports. Needs a running tokio runtime.
    ///
    /// # Errors
    /// What is in the way, with an exit code.
    pub async fn new(config: Config) -> Result<Self, End> {
        config.check().map_err(End::Failed)?;
        let store = open_store(&config)?;
        match Self::on(Arc::new(config), store.clone()).await {
            Ok(bound) => Ok(bound),
            Err(why) => Err(ended(&store, why).await),
        }
    }

    async fn on(config: Arc<Config>, store: Store) -> Result<Self, Failure> {
        let pki = config.data_dir.join("pki");
        let now = daemon::clock::wall_ms();
        let ca = Arc::new(HubCa::load_or_create(&pki, now).map_err(|e| failed("the hub's CA")(&e))?);
        let directory = Arc::new(Directory::open(store.clone()).map_err(|e| failed("cannot read the store")(&e))?);

        let bind = async |what: &str, address: SocketAddr| {
            TcpListener::bind(address).await.map_err(|e| {
                Failure::new(FAILED, format!("cannot listen on {address} ({what}): {e}"))
                    .hint("is another hub running? choose another address with --api or --health")
            })
        };
        let api = bind("api", config.api).await?;
        let health = bind("health", config.health).await?;
        let local = |l: &TcpListener| l.local_addr().map_err(|e| failed("a bound port")(&e));
        let (api_at, health_at) = (local(&api)?, local(&health)?);

        let names = server_names(&config, api_at);
        let (server, _) = ca
            .load_or_issue_server(&pki, &names, now)
            .map_err(|e| failed("the hub's certificate")(&e))?;
        let beats = config.heartbeat.0.saturating_mul(4);
        let limits = HubLimits {
            idle: HubLimits::default().idle.max(beats),
            ..HubLimits::default()
        };
        let rate = config.reconnects_per_second;
        let endpoint = HubEndpoint::bind(HubConfig {
            listen: config.listen,
            server: server.clone(),
            ca: ca.cert().clone(),
            limits,
            gate: Arc::new(IdentityGate(Arc::clone(&directory))),
            admission: Arc::new(link::Admission::new(rate, rate)),
        })
        .map_err(|e| {
            Failure::new(FAILED, e.to_string()).hint("is another hub running? choose another address with --listen")
        })?;
        let addresses = Addresses {
            listen: endpoint.local_addr(),
            api: api_at,
            health: health_at,
        };
        let hub_addrs = if config.advertise.is_empty() {
            reachable(addresses.listen)
        } else {
            config.advertise.clone()
        };
        let hub_addrs = hub_addrs.into_iter().take(proto::limits::MAX_ADDRS).collect();
        let files = Files {
            data_dir: config.data_dir.clone(),
            ca: Arc::clone(&ca),
            addresses,
        };
        let unwritten = match files.admin(now) {
            Ok(_) => false,
            Err(e) if no_room(&e) => true,
            Err(e) => return Err(failed("the administrator's kubeconfig")(&e)),
        };
        Ok(Self {
            config,
            store,
            ca,
            server,
            directory,
            endpoint,
            api,
            health,
            addresses,
            hub_addrs,
            names,
            files,
            unwritten,
        })
    }

    /// Where it will listen.
    pub const fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Starts everything. Gateways are let in when the API's objects have been seen once; [`Hub::ready`] tells.
    ///
    /// # Errors
    /// When the store or the embedded API does not work.
    pub async fn run(self) -> Result<Hub, End> {
        let (drain, store) = (Drain::new(), self.store.clone());
        match self.start(drain.clone()).await {
            Ok(hub) => Ok(hub),
            Err(why) => {
                drain.finish(DRAIN_DEADLINE).await;
                Err(ended(&store, why).await)
            }
        }
    }

    /// The Karmada that stands above.
    async fn karmada(&self, ca_pem: &str) -> Result<upstream::Karmada, Failure> {
        let settings = &self.config.upstream;
        let Some(kubeconfig) = &settings.kubeconfig else {
            return Err(Failure::new(
                BAD_CONFIG,
                "upstream.kubeconfig: is needed to reach Karmada",
            ));
        };
        let url = settings.endpoint.clone().unwrap_or_else(|| {
            let api = self.addresses.api;
            let advertised = self.config.advertise.first().and_then(|a| split_address(a));
            match advertised.filter(|_| api.ip().is_unspecified()) {
                Some((host, _)) if host.contains(':') => format!("https://[{host}]:{}", api.port()),
                Some((host, _)) => format!("https://{host}:{}", api.port()),
                None => format!("https://{}", dialable(api)),
            }
        });
        upstream::karmada(kubeconfig, &settings.name, settings.proxy.then_some((url, ca_pem))).await
    }

    async fn start(self, drain: Drain) -> Result<Hub, Failure> {
        let ready = Ready::new();
        let starting = ready.block("api");
        let metrics = Arc::new(Metrics::default());
        let index = Arc::new(Index::default());
        let after = self.config.upstream.reschedule_after;
        let after = after.map(|after| u64::try_from(after.0.as_millis()).unwrap_or(u64::MAX));
        index.begin(daemon::clock::wall_ms(), after);
        let stored = |e: EmbeddedError| not_stored(&self.config.data_dir, "cannot start", &e);
        let me = embedded::self_record(&self.store).await.map_err(stored)?;
        let access = Arc::new(Access::new(Arc::clone(&index), Arc::clone(&self.directory)));
        let ca_pem = link::pki::certificate_pem(self.ca.cert());
        let karmada = match self.config.upstream.mode {
            Mode::Karmada => Some(self.karmada(&ca_pem).await?),
            Mode::Embedded | Mode::Kubernetes => None,
        };
        let people = embedded::People {
            config: &self.config,
            url: format!("https://{}", dialable(self.addresses.api)),
            ca_pem,
            karmada: karmada.as_ref().and_then(|k| k.token.clone()),
        };
        let api = embedded::api(self.store.clone(), &me.id, access, &people, drain.clone())
            .await
            .map_err(stored)?;
        if self.config.upstream.mode == Mode::Embedded {
            embedded::propagate(&api, &drain).map_err(|e| failed("cannot read the store")(&e))?;
        }
        let client = embedded::client(api.clone());
        let registry = Arc::new(Registry::new(Arc::clone(&self.directory)));
        let objects = Objects::new(client.clone());
        let (above_client, upper, plane, endpoint) = match karmada {
            Some(karmada) => {
                let objects = Objects::elsewhere(karmada.client.clone());
                (karmada.client, objects, karmada.plane, karmada.endpoint)
            }
            None => (client.clone(), objects.clone(), Arc::clone(&me.id), None),
        };
        let above = Above {
            objects: upper,
            plane,
            hub: Arc::clone(&me.id),
            endpoint,
            trust_domain: self.config.trust_domain.clone(),
        };
        if self.config.upstream.mode == Mode::Karmada {
            let leases = Leases {
                objects: above.objects.clone(),
                index: Arc::clone(&index),
                presences: Arc::clone(&registry) as _,
                metrics: Arc::clone(&metrics),
                every: self.config.upstream.lease_every.0,
            };
            drop(drain.spawn(leases.run(drain.clone())));
        }
        let writer = Writer::new(
            objects.clone(),
            above,
            Arc::clone(&index),
            Arc::clone(&registry) as _,
            Arc::clone(&metrics),
            drain.child(),
        );
        let fleet = Arc::new(Fleet {
            config: Arc::clone(&self.config),
            hub_id: Arc::clone(&me.id),
            hub_addrs: self.hub_addrs,
            ca: Arc::clone(&self.ca),
            store: self.store.clone(),
            api,
            objects,
            directory: self.directory,
            registry,
            index: Arc::clone(&index),
            writer: writer.clone(),
            metrics: Arc::clone(&metrics),
            drain: drain.clone(),
            epochs: AtomicU64::new(me.starts << 32),
        });
        let lists = Ready::new();
        let watches = Watches {
            client: ClientRef(client),
            above: ClientRef(above_client),
            hub: Arc::clone(&fleet.hub_id),
            index,
            writer,
            drain: drain.clone(),
        };
        watches.start(|name| lists.block(name));

        let page = metrics_page(&fleet);
        let front = Front {
            fleet: Arc::clone(&fleet),
            ready: ready.clone(),
            metrics: Arc::clone(&page),
        };
        let wrong = |e: TlsError| failed("the people's port")(&e);
        let people = PeopleCert::new(&self.server).map_err(wrong)?;
        let tls = people_tls(&self.ca, Arc::clone(&people)).map_err(wrong)?;
        drop(drain.spawn(metastore::api::serve(self.api, tls, identify(), front, drain.clone())));
        drop(drain.spawn(daemon::health::serve(self.health, ready.clone(), page, drain.clone())));
        drop(drain.spawn(Arc::clone(&fleet).show()));
        let keeper = KeepCertificate {
            ca: self.ca,
            dir: self.config.data_dir.join("pki"),
            names: self.names,
            people,
            files: self.files.clone(),
        };
        let (accepting, stopping) = (Arc::clone(&fleet), drain.clone());
        drop(drain.spawn(async move {
            // Before everything was seen once, sets would look empty, and gateways would be told to drop what they hold.
            tokio::select! {
                biased;
                () = stopping.stopping() => return,
                () = until_ready(&lists) => {}
            }
            drop(starting);
            accepting.register_all();
            let endpoint = Arc::new(self.endpoint);
            tokio::join!(
                Arc::clone(&accepting).accept(Arc::clone(&endpoint)),
                accepting.knock(&endpoint),
                keeper.keep(Arc::clone(&endpoint), stopping),
            );
        }));
        let unwritten = self.unwritten
            || match self.files.run_file() {
                Ok(()) => false,
                Err(e) if no_room(&e) => true,
                Err(e) => return Err(failed("cannot write hub.json")(&e)),
            };
        if unwritten {
            tracing::warn!(dir = %self.files.data_dir.display(),
                "The disk is full: hub.json and admin.kubeconfig stay as they are until there is room.");
            drop(drain.spawn(self.files.write_when_there_is_room(drain.clone())));
        }
        tracing::info!(listen = %self.addresses.listen, api = %self.addresses.api, health = %self.addresses.health, "ready");
        Ok(Hub {
            addresses: self.addresses,
            fleet,
            ready,
            drain,
            store: self.store,
        })
    }
}

impl Hub {
    /// Where it listens.
    pub const fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Resolves when gateways are let in.
    pub async fn ready(&self) {
        until_ready(&self.ready).await;
    }

    /// Gateways with a session now.
    pub fn connected(&self) -> usize {
        self.fleet.registry.counts().0
    }

    /// Resolves when the store ends by itself, because its file is damaged or its disk is gone: nothing can go on then.
    pub async fn broken(&self) -> String {
        self.store.ended().await.to_string()
    }

    /// Tells the gateways, lets what is under way end, closes the store; false when something did not end in time.
    pub async fn stop(self) -> bool {
        let in_time = self.drain.finish(DRAIN_DEADLINE).await;
        self.store.close().await;
        in_time
    }
}

async fn until_ready(ready: &Ready) {
    while !ready.pending().is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Renews the hub's own certificate and its administrator's long before their end, without a restart.
struct KeepCertificate {
    ca: Arc<HubCa>,
    dir: PathBuf,
    names: Vec<String>,
    people: Arc<PeopleCert>,
    files: Files,
}

impl KeepCertificate {
    /// A new certificate when it is time for one; the people's port shows it from here on.
    fn renewed(&self, now: u64) -> Result<Option<Credential>, TlsError> {
        let (server, new) = self.ca.load_or_issue_server(&self.dir, &self.names, now)?;
        if !new {
            return Ok(None);
        }
        self.people.replace(&server)?;
        Ok(Some(server))
    }

    /// A new `admin.kubeconfig` when two thirds of the life of its certificate are over; true then.
    fn renewed_admin(&self, now: u64) -> Result<bool, PkiError> {
        self.files.admin(now)
    }

    async fn keep(self, endpoint: Arc<HubEndpoint>, drain: Drain) {
        loop {
            tokio::select! {
                biased;
                () = drain.stopping() => return,
                () = tokio::time::sleep(CERTIFICATE_CHECK) => {}
            }
            let now = daemon::clock::wall_ms();
            match self.renewed_admin(now) {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!("The administrator's certificate was renewed; admin.kubeconfig is another now.")
                }
                Err(e) => {
                    tracing::error!(error = %e, "The administrator's certificate cannot be renewed; it is tried again.")
                }
            }
            match self.renewed(now) {
                Ok(None) => {}
                Ok(Some(server)) => {
                    if let Err(e) = endpoint.set_certificate(&server) {
                        tracing::error!(error = %e, "The hub's new certificate cannot be used.");
                    }
                }
                Err(e) => tracing::error!(error = %e, "The hub's certificate cannot be renewed."),
            }
        }
    }
}

fn metrics_page(fleet: &Arc<Fleet>) -> daemon::health::Metrics {
    let fleet = Arc::clone(fleet);
    Arc::new(move || {
        let (connected, in_sync) = fleet.registry.counts();
        let (devices, models, edge_nodes) = fleet.index.counts();
        let (clusters, works) = fleet.index.work_counts();
        let writer_backlog = fleet.writer.backlog();
        fleet.metrics.render(Gauges {
            connected,
            in_sync,
            devices,
            models,
            edge_nodes,
            clusters,
            works,
            writer_backlog,
        })
    })
}

/// Who shows a client certificate of the hub's CA.
fn identify() -> Identify {
    Arc::new(|cert| embedded::user_of(Cert::parse(cert).ok()?))
}

type TlsError = Box<dyn std::error::Error + Send + Sync>;

/// The hub's certificate as the people's port shows it; replaced while connections go on.
#[derive(Debug)]
struct PeopleCert(RwLock<Arc<CertifiedKey>>);

impl PeopleCert {
    fn certified(server: &Credential) -> Result<Arc<CertifiedKey>, TlsError> {
        let certified = CertifiedKey::from_der(server.chain()?, server.key()?, &daemon::tls::provider())?;
        Ok(Arc::new(certified))
    }

    fn new(server: &Credential) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(RwLock::new(Self::certified(server)?))))
    }

    fn replace(&self, server: &Credential) -> Result<(), TlsError> {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Self::certified(server)?;
        Ok(())
    }

    fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for PeopleCert {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

fn people_tls(ca: &HubCa, server: Arc<PeopleCert>) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.cert().clone())?;
    let provider = daemon::tls::provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(server);
    // A resumed handshake would not look at the client's certificate again, nor notice that it has run out.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// An address a client on this machine can use for what is bound to a wildcard.
fn dialable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], address.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], address.port())),
        _ => address,
    }
}

/// Where gateways can find a hub that was told nothing: what it listens on; a wildcard stands for this machine's first address, its
/// name, and itself.
fn reachable(listen: SocketAddr) -> Vec<String> {
    if !listen.ip().is_unspecified() {
        return vec![listen.to_string()];
    }
    let port = listen.port();
    let mut out = Vec::new();
    out.extend(first_address().map(|ip| SocketAddr::new(ip, port).to_string()));
    out.extend(host_name().map(|name| format!("{name}:{port}")));
    out.push(format!("127.0.0.1:{port}"));
    out
}

/// The address this machine would speak to the world from; nothing is sent.
fn first_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()?
        .trim()
        .to_ascii_lowercase();
    (link::pki::is_node_name(&name) && name != "localhost").then_some(name)
}

/// The names in the hub's certificate.
fn server_names(config: &Config, api: SocketAddr) -> Vec<String> {
    let mut names = vec!["127.0.0.1".to_owned(), "::1".to_owned(), "localhost".to_owned()];
    names.extend(config.names.iter().cloned());
    names.extend(
        config
            .advertise
            .iter()
            .filter_map(|a| split_address(a))
            .map(|(host, _)| host.to_owned()),
    );
    names.extend(
        [api.ip(), config.listen.ip()]
            .iter()
            .filter(|ip| !ip.is_unspecified())
            .map(ToString::to_string),
    );
    names.extend(first_address().map(|ip| ip.to_string()));
    names.extend(host_name());
    names.sort_unstable();
    names.dedup();
    names
}

/// What the store did not take, and what to do about it.
fn not_stored(data_dir: &Path, what: &str, error: &EmbeddedError) -> Failure {
    let failure = Failure::new(FAILED, format!("{what}: {error}"));
    if matches!(
        error,
        EmbeddedError::Store(StoreError::Full) | EmbeddedError::Commit(CommitError::Full)
    ) {
        return failure.hint(format!(
            "the disk of {} is full: make room there and start again; gateways keep meanwhile what they have to say",
            data_dir.display()
        ));
    }
    failure
}

/// Makes the folders and opens the store.
fn open_store(config: &Config) -> Result<Store, End> {
    for dir in ["pki", "snapshots"].map(|name| config.data_dir.join(name)) {
        std::fs::create_dir_all(&dir).map_err(|e| {
            End::Failed(
                Failure::new(BAD_CONFIG, format!("cannot make {}: {e}", dir.display()))
                    .hint("choose a folder that this user may write to with --data-dir"),
            )
        })?;
    }
    let (store, opened) = embedded::open_store(config).map_err(|e| {
        let failure = not_stored(&config.data_dir, "cannot open the store", &e);
        match e {
            EmbeddedError::Store(StoreError::Corrupt(_)) => End::Damaged(failure),
            _ => End::Failed(failure),
        }
    })?;
    if let Some(path) = &opened.damaged {
        tracing::error!(path = %path.display(), restored = opened.restored, "The store was damaged; it was set aside.");
    }
    Ok(store)
}

/// A start that came to nothing: closes the store, and says whether its file is to blame, whatever part stumbled over it.
async fn ended(store: &Store, why: Failure) -> End {
    let file = store.kv_get("", b"");
    store.close().await;
    match file {
        // Closed: its writer ended by itself, which the next start looks into.
        Err(e @ (StoreError::Corrupt(_) | StoreError::Closed)) => {
            End::Damaged(Failure::new(FAILED, format!("{}: {e}", why.what)))
        }
        _ => End::Failed(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path, ca: &Arc<HubCa>) -> Files {
        let at = SocketAddr::from(([127, 0, 0, 1], 8443));
        Files {
            data_dir: dir.to_owned(),
            ca: Arc::clone(ca),
            addresses: Addresses {
                listen: at,
                api: at,
                health: at,
            },
        }
    }

    #[test]
    fn wildcards_become_addresses_people_can_dial() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(dialable(at("0.0.0.0:5")), at("127.0.0.1:5"));
        assert_eq!(dialable(at("[::]:5")), at("127.0.0.1:5"));
        assert_eq!(dialable(at("10.0.0.1:5")), at("10.0.0.1:5"));
        assert_eq!(reachable(at("10.0.0.1:5")), ["10.0.0.1:5"]);
        let all = reachable(at("0.0.0.0:10443"));
        assert_eq!(all.last().unwrap(), "127.0.0.1:10443");
        assert!(all.iter().all(|a| split_address(a).is_some()), "{all:?}");
    }

    #[test]
    fn the_peoples_port_shows_the_renewed_certificate_without_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let now = daemon::clock::wall_ms();
        let ca = Arc::new(HubCa::load_or_create(dir.path(), now).unwrap());
        let names = vec!["localhost".to_owned()];
        let (server, _) = ca.load_or_issue_server(dir.path(), &names, now).unwrap();
        let people = PeopleCert::new(&server).unwrap();
        let keeper = KeepCertificate {
            ca: Arc::clone(&ca),
            dir: dir.path().to_owned(),
            names,
            people: Arc::clone(&people),
            files: files(dir.path(), &ca),
        };
        let first = people.current().cert.clone();
        let day = 24 * 3600 * 1000;
        assert!(keeper.renewed(now + day).unwrap().is_none());
        assert_eq!(people.current().cert, first);
        let server = keeper.renewed(now + 300 * day).unwrap().unwrap();
        assert_ne!(people.current().cert, first);
        assert_eq!(people.current().cert, server.chain().unwrap());
    }

    #[test]
    fn the_administrators_certificate_is_renewed_without_a_restart() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let pki = dir.path().join("pki");
        std::fs::create_dir(&pki).unwrap();
        let now = daemon::clock::wall_ms();
        let ca = Arc::new(HubCa::load_or_create(&pki, now).unwrap());
        let names = vec!["localhost".to_owned()];
        let (server, _) = ca.load_or_issue_server(&pki, &names, now).unwrap();
        let keeper = KeepCertificate {
            ca: Arc::clone(&ca),
            dir: pki,
            names,
            people: PeopleCert::new(&server).unwrap(),
            files: files(dir.path(), &ca),
        };
        let day = 24 * 3600 * 1000;
        let path = dir.path().join("admin.kubeconfig");
        let read = || std::fs::read_to_string(&path).unwrap();
        assert!(keeper.renewed_admin(now).unwrap());
        let first = read();
        assert!(!keeper.renewed_admin(now + 240 * day).unwrap());
        assert_eq!(read(), first);
        assert!(keeper.renewed_admin(now + 250 * day).unwrap());
        assert_ne!(read(), first);
        assert!(!keeper.renewed_admin(now + 251 * day).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
