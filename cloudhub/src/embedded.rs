//! The API above the hub when there is none: the hub's own, on one SQLite file in this process.
//!
//! Opens the store, serves the Kubernetes API over it with the device kinds installed, decides who may do what ([`Access`]), checks
//! and stamps what people write to devices ([`DeviceAdmission`]), and gives the rest of the hub a client that does not know
//! that the API is in the same process.

mod access;
mod admission;
mod policies;
mod propagation;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use daemon::drain::Drain;
use http::{Request, Response};
use metastore::api::{AUDIT_STREAM, ApiBody, ApiServer, BuildError, MASTERS, OwnProgram, TokenOptions, User};
use metastore::store::{CommitError, JournalBound, ObjectKey, Opened, SealKey, Store, StoreError, StoreOptions, Tx};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::rules::CelRules;

pub(crate) use access::{Access, KARMADA_USER, node_of, user_of};
pub(crate) use admission::DeviceAdmission;

use self::policies::PolicyAdmission;
pub(crate) use self::propagation::start as propagate;
use crate::config::{Config, Mode};

/// Whom the hub itself acts as.
pub(crate) const HUB_USER: &str = "system:kurator-hub";

/// Why the embedded API did not come up.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The store.
    #[error("the store: {0}")]
    Store(#[from] StoreError),
    /// A write to it.
    #[error("the store: {0}")]
    Commit(#[from] CommitError),
    /// The API.
    #[error("the embedded API: {0}")]
    Api(#[from] BuildError),
}

/// What the hub remembers about itself.
#[derive(Clone, Debug)]
pub(crate) struct SelfRecord {
    /// Its id, made once.
    pub(crate) id: Arc<str>,
    /// How often it was started: the upper half of session epochs.
    pub(crate) starts: u64,
}

/// Nobody else knows who was enrolled: what is newer than the last good snapshot would have to join again after damage.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(3600);

/// Opens the store of a hub.
///
/// # Errors
/// See [`EmbeddedError`].
pub(crate) fn open_store(config: &Config) -> Result<(Store, Opened), EmbeddedError> {
    let data_dir = &config.data_dir;
    let seal_key = SealKey::load_or_create(&data_dir.join("pki").join("seal.key"))?;
    let options = StoreOptions {
        seal_key: Some(seal_key),
        snapshot_dir: Some(data_dir.join("snapshots")),
        snapshot_every: SNAPSHOT_EVERY,
        journal_default: JournalBound {
            max_bytes: config.journal_bytes,
            max_age_ms: None,
        },
        journals: BTreeMap::from([(AUDIT_STREAM.into(), config.audit.bound())]),
        ..StoreOptions::new(data_dir.join("hub.db"))
    };
    Ok(Store::open(options)?)
}

/// Reads who the hub is, counts this start, and writes it down before anybody is told.
///
/// # Errors
/// When the store cannot be read or written.
pub(crate) async fn self_record(store: &Store) -> Result<SelfRecord, EmbeddedError> {
    let id = match store.kv_get("hub", b"id")? {
        Some(id) => String::from_utf8_lossy(&id).into_owned(),
        None => uuid::Uuid::new_v4().simple().to_string()[..12].to_owned(),
    };
    let before = store
        .kv_get("hub", b"starts")?
        .and_then(|b| <[u8; 8]>::try_from(&b[..]).ok())
        .map_or(0, u64::from_be_bytes);
    let starts = before + 1;
    let tx = Tx::new()
        .kv_put("hub", "id", id.as_bytes())
        .kv_put("hub", "starts", starts.to_be_bytes());
    store.commit(tx).await?;
    Ok(SelfRecord {
        id: Arc::from(id),
        starts,
    })
}

/// How people and programs reach the API, and what is said about it.
pub(crate) struct People<'a> {
    pub(crate) config: &'a Config,
    /// `https://host:port`
    pub(crate) url: String,
    /// The certificate that the port's own is signed with.
    pub(crate) ca_pem: String,
    /// The token by which Karmada's cluster proxy is known.
    pub(crate) karmada: Option<String>,
}

/// The API over the store.
///
/// # Errors
/// When the device kinds or the default roles cannot be installed, or the keys of tokens cannot be read or made.
pub(crate) async fn api(
    store: Store,
    hub_id: &str,
    access: Arc<Access>,
    people: &People<'_>,
    drain: Drain,
) -> Result<ApiServer, EmbeddedError> {
    let admission = DeviceAdmission::new(hub_id);
    let config = people.config;
    let mut tokens = TokenOptions::new(config.data_dir.join("pki").join("sa"), people.url.clone());
    tokens.file.clone_from(&config.token_file);
    let karmada = people.karmada.iter();
    tokens.given = karmada
        .map(|token| (token.clone(), User::new(KARMADA_USER, ["system:authenticated"; 0])))
        .collect();
    let mut builder = ApiServer::builder(store)
        .crds(device_models::CRDS)
        .roles(device_models::ROLES);
    if config.upstream.mode == Mode::Embedded {
        builder = builder
            .crds(federation::crds::CRDS)
            .roles(federation::crds::ROLES)
            .admission(Arc::new(PolicyAdmission));
    }
    Ok(builder
        .tokens(tokens)
        .root_ca(people.ca_pem.clone())
        .audit(config.audit.enabled)
        .admission(Arc::new(admission))
        .authorizer(access)
        .rules(Arc::new(CelRules))
        .collects(Arc::new(collects))
        .drain(drain)
        .build()
        .await?)
}

/// What a gateway reported goes when the gateway or the writer says so, which know a device that was made anew from one that is gone.
fn collects(key: &ObjectKey) -> bool {
    &*key.resource != "devicestatuses"
}

/// A Kubernetes client whose server is in this process.
pub(crate) fn client(api: ApiServer) -> kube::Client {
    kube::Client::new(
        InProcess {
            api,
            user: User::new(HUB_USER, [MASTERS]),
        },
        "default",
    )
}

/// Puts the hub's identity on each request.
#[derive(Clone)]
struct InProcess {
    api: ApiServer,
    user: User,
}

impl tower::Service<Request<kube::client::Body>> for InProcess {
    type Response = Response<ApiBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<kube::client::Body>) -> Self::Future {
        request.extensions_mut().insert(self.user.clone());
        request.extensions_mut().insert(OwnProgram);
        let api = self.api.clone();
        Box::pin(async move { Ok(api.handle(request).await) })
    }
}
