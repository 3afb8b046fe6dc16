//! The local Kubernetes API: the same server as the hub's, over the gateway's own store, with or without a hub.
//!
//! Starts beside the devices' service and never in its way. Its key material is made at the first start and kept in `<pki>/local`.

mod admission;
mod node;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use daemon::clock::wall_ms;
use daemon::drain::Drain;
use daemon::ready::Block;
use device_models::{CRDS, ROLES};
use federation::crds::WORK_CRD;
use link::pki::{Cert, Kubeconfig, LocalCa, PkiError, write_kubeconfig};
use metastore::api::{
    ApiServer, BuildError, Identify, Peer, ServiceRange, Status, TokenOptions, User, builtin_kinds, refusal,
};
use metastore::store::{CommitError, Expect, ObjectKey, Store, StoreError, Tx, WatchError};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use serde_json::Value;
use tokio::net::TcpListener;
use workloads::Workloads;

use self::node::NodeState;
use crate::objects;
use crate::stamps::Stamps;
use crate::uplink::is_mirrored;

/// Bytes of lists that may wait for slow readers: a gateway has little memory, and few who ask.
const ANSWER_MEMORY: usize = 32 * 1024 * 1024;
/// Attempts to write the Node while others write it too.
const RACES: usize = 8;

/// How long the Node's news wait for each other, to be one write.
const TOGETHER: Duration = Duration::from_millis(100);
/// When a Node that could not be written is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(10);

/// Why the local API does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetaError {
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error("Services: {0}")]
    Services(String),
    #[error("TLS of the local API: {0}")]
    Tls(String),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("the Node object: {0}")]
    Write(#[from] CommitError),
    #[error("the store: {0}")]
    Read(#[from] StoreError),
}

/// What the local API is made of.
#[derive(Clone)]
pub(crate) struct Meta {
    pub(crate) node: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) pki: PathBuf,
    pub(crate) config_dir: PathBuf,
    pub(crate) store: Store,
    pub(crate) stamps: Stamps,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) audit: bool,
    /// Containers here: what the Node says about the machine, the way to programs, and how pods reach this API.
    pub(crate) workloads: Workloads,
}

/// By what clients know the local API, and it them.
pub(crate) struct Keys {
    tls: rustls::ServerConfig,
    ca_pem: String,
    /// How a program on this machine reaches it.
    url: String,
    port: u16,
}

impl Meta {
    /// Writes the gateway's Node, if it says something new, and builds the server.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub(crate) async fn build(
        &self,
        keys: &Keys,
        inside: Option<&TcpListener>,
        drain: Drain,
    ) -> Result<ApiServer, MetaError> {
        // With a full disk it cannot be written, and what would make room needs the API: it is written later.
        if let Err(e) = self.write_node(keys.port).await {
            tracing::warn!(error = %e, "The Node cannot be written.");
        }
        let admission = admission::EdgeAdmission::new(&self.node, self.stamps.clone());
        let store = self.store.clone();
        let mut tokens = TokenOptions::new(self.pki.join("sa"), keys.url.clone());
        tokens.file.clone_from(&self.token_file);
        // The owner of what the hub keeps may be at the hub alone. What cannot be looked up stays.
        let collects = Arc::new(move |key: &ObjectKey| is_mirrored(&store, key).is_ok_and(|mirrored| !mirrored));
        let mut builder = ApiServer::builder(self.store.clone());
        if let Some(addresses) = self.workloads.addresses() {
            let range = addresses.services.to_string().parse::<ServiceRange>();
            builder = builder.service_ranges(Some(range.map_err(|e| MetaError::Services(e.to_string()))?));
        }
        if let Some(at) = inside.and_then(|inside| inside.local_addr().ok()) {
            builder = builder.advertise(at);
        }
        Ok(builder
            .kinds(builtin_kinds())
            .crds(CRDS)
            .crds(&[WORK_CRD])
            .roles(ROLES)
            .tokens(tokens)
            .root_ca(keys.ca_pem.clone())
            .audit(self.audit)
            .admission(Arc::new(admission))
            .collects(collects)
            .connector(self.workloads.connector())
            .runs_pods(self.workloads.enabled())
            .node_name(self.node.as_str())
            .answer_memory(ANSWER_MEMORY)
            .drain(drain)
            .build()
            .await?)
    }

    /// Reads or makes the key material of the API at `at`, and writes the administrator's kubeconfig.
    ///
    /// # Errors
    /// When key material or kubeconfig cannot be made.
    pub(crate) async fn keys(&self, at: SocketAddr) -> Result<Keys, MetaError> {
        let meta = self.clone();
        // Keys may have to be made, and files written.
        let keys = tokio::task::spawn_blocking(move || meta.load_keys(at)).await;
        keys.map_err(|e| MetaError::Tls(e.to_string()))?
    }

    fn load_keys(&self, at: SocketAddr) -> Result<Keys, MetaError> {
        let mut names = vec![
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "::1".to_owned(),
            self.node.clone(),
        ];
        if !at.ip().is_unspecified() && !names.contains(&at.ip().to_string()) {
            names.push(at.ip().to_string());
        }
        names.extend(self.workloads.addresses().into_iter().flat_map(|cluster| cluster.names));
        let ca = LocalCa::load_or_create(&self.pki.join("local"), &names)?;
        let url = format!("https://{}", reached(at));
        self.write_kubeconfig(&ca, &url)?;
        let tls = |e: rustls::Error| MetaError::Tls(e.to_string());
        let provider = daemon::tls::provider();
        let mut roots = RootCertStore::empty();
        roots.add(ca.cert().clone()).map_err(tls)?;
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|e| MetaError::Tls(e.to_string()))?;
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(tls)?
            .with_client_cert_verifier(clients)
            .with_single_cert(ca.server().chain()?, ca.server().key()?)
            .map_err(tls)?;
        Ok(Keys {
            tls,
            ca_pem: ca.cert_pem(),
            url,
            port: at.port(),
        })
    }

    /// Writes the administrator's kubeconfig when it would say something new.
    fn write_kubeconfig(&self, ca: &LocalCa, url: &str) -> Result<(), PkiError> {
        let path = self.config_dir.join("edge.kubeconfig");
        let config = Kubeconfig {
            name: &self.node,
            server: url,
            ca_pem: &ca.cert_pem(),
            client: ca.admin(),
        };
        if std::fs::read_to_string(&path).is_ok_and(|there| there == config.to_yaml()) {
            return Ok(());
        }
        write_kubeconfig(&path, &config)
    }

    /// Labels that the hub announced for this gateway (`EdgeNode.spec.labels`), the configuration's over them.
    fn labels(&self) -> Result<BTreeMap<String, String>, StoreError> {
        let mut labels = BTreeMap::new();
        if let Some(edge_node) = self.store.get(&objects::edge_node_key(&self.node))?
            && let Ok(edge_node) = edge_node.value()
            && let Some(announced) = edge_node["spec"]["labels"].as_object()
        {
            labels.extend(
                announced
                    .iter()
                    .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))),
            );
        }
        labels.extend(self.labels.clone());
        Ok(labels)
    }

    /// Brings the gateway's Node up to date.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub(crate) async fn write_node(&self, port: u16) -> Result<(), MetaError> {
        let report = self.workloads.report().borrow().clone();
        let key = objects::node_key(&self.node);
        for _ in 0..RACES {
            let labels = self.labels()?;
            let held = self.store.get(&key)?;
            let old = held.as_ref().and_then(|held| held.value().ok()).map(without_revision);
            let now = objects::rfc3339(wall_ms());
            let state = NodeState {
                name: &self.node,
                labels: &labels,
                report: &report,
                port,
                now: &now,
            };
            let Some(node) = state.over(old.as_ref()) else {
                return Ok(());
            };
            let expect = held.map_or(Expect::Absent, |held| Expect::Revision(held.revision));
            match self.store.commit(Tx::new().put(key.clone(), node, expect)).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict { .. } | CommitError::Exists(_) | CommitError::NotFound(_)) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Follows what the hub says about this gateway's labels, what the machine reports, and what others write into the Node, until the
    /// drain begins.
    pub(crate) async fn follow_node(self, port: u16, drain: Drain) {
        let mut report = self.workloads.report();
        loop {
            // From a revision on, then the Node as of now: what is said between the two is not missed.
            let revision = self.store.revision();
            let (Ok(mut announced), Ok(mut nodes)) = (
                self.store.watch(objects::edge_node_scope(), revision),
                self.store.watch(objects::node_scope(), revision),
            ) else {
                return;
            };
            loop {
                report.mark_unchanged();
                let written = self.write_node(port).await;
                if let Err(e) = &written {
                    tracing::warn!(error = %e, "The Node cannot be written.");
                }
                let changed = tokio::select! {
                    biased;
                    () = drain.stopping() => return,
                    () = tokio::time::sleep(WRITE_AGAIN), if written.is_err() => Ok(()),
                    changed = announced.next() => changed.map(drop),
                    changed = nodes.next() => changed.map(drop),
                    Ok(()) = report.changed() => Ok(()),
                };
                match changed {
                    Ok(()) => {}
                    // It fell behind: begin anew.
                    Err(WatchError::Gone(_)) => break,
                    Err(_) => return,
                }
                // Changes come in groups: an interface with its addresses, a runtime with its images.
                tokio::select! {
                    biased;
                    () = drain.stopping() => return,
                    () = tokio::time::sleep(TOGETHER) => {}
                }
            }
        }
    }
}

/// Serves until the drain begins.
pub(crate) async fn serve(keys: Keys, server: ApiServer, listener: TcpListener, block: Block, drain: Drain) {
    let identify: Identify = Arc::new(|cert| {
        let cert = Cert::parse(cert).ok()?;
        Some(User::new(cert.common_name, cert.organizations))
    });
    // The kubeconfig stands and the listener accepts.
    drop(block);
    metastore::api::serve(listener, Arc::new(keys.tls), identify, server, drain).await;
}

/// Serves pods and programs of this machine at the API's own address until the drain begins; nobody else is answered there.
pub(crate) fn serve_inside(
    keys: &Keys,
    workloads: Workloads,
    server: ApiServer,
    listener: TcpListener,
    drain: Drain,
) -> impl Future<Output = ()> + Send + use<> {
    let tls = Arc::new(keys.tls.clone());
    // Tokens say who asks: certificates are for the machine's own door.
    let identify: Identify = Arc::new(|_| None);
    let inside = tower::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let peer = request.extensions().get::<Peer>().copied();
        let welcome = peer.is_some_and(|Peer(from)| workloads.is_inside(from.ip()));
        let server = server.clone();
        async move {
            if welcome {
                return Ok::<_, std::convert::Infallible>(server.handle(request).await);
            }
            let why = "only pods and programs of this machine are answered here";
            Ok(refusal(&Status::forbidden("", "", "", why)))
        }
    });
    metastore::api::serve(listener, tls, identify, inside, drain)
}

/// An address by which a client on this machine reaches what listens at `at`.
fn reached(at: SocketAddr) -> String {
    match at {
        at if !at.ip().is_unspecified() => at.to_string(),
        SocketAddr::V4(at) => format!("127.0.0.1:{}", at.port()),
        SocketAddr::V6(at) => format!("[::1]:{}", at.port()),
    }
}

/// The store's own field would make every comparison fail.
fn without_revision(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    object
}
