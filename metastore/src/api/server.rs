//! The server: its parts, how it is built, and where each request goes. Cheap to clone; a tower service over `http` types.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use daemon::drain::Drain;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Body;
use serde_json::{Value, json};

use super::addresses::ServiceRange;
use super::auth::{Admission, Admissions, Attributes, Authority, Authorizer, User};
use super::body::ApiBody;
use super::budget::{self, Budget};
use super::builtin::{DEFINITIONS, builtin_kinds, system_priorities};
use super::connect::Connector;
use super::garbage::{self, Collects};
use super::kinds::{KindSpec, Registry};
use super::rbac::{NoEscalation, Rbac};
use super::request::{self, Query, ResourcePath, Route};
use super::rules::RuleEngine;
use super::status::Status;
use super::token::{KeyError, TokenOptions, Tokens};
use super::write::{Owner, Part, Writing};
use super::{
    accounts, audit, codec, custom, definitions, discovery, lifecycle, measured, openapi, own_service, priority, rbac,
    write,
};
use crate::store::Store;

/// Watches open at a time in one server; each costs some kilobytes.
const MAX_WATCHES: usize = 20_000;
/// The version that clients are told, as they decide by it what they may use.
const VERSION: (&str, &str, &str) = ("1", "33", "v1.33.0+kurator");
/// Namespaces that are always there.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kurator-system"];

/// The Kubernetes API over a store.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) core: Arc<Core>,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer")
            .field("node", &self.core.node)
            .finish_non_exhaustive()
    }
}

/// Put into the extensions of a request that the program's own controllers make: what they write has no owner in `metadata.managedFields`,
/// as they decide about whole objects and would only make them larger.
#[derive(Clone, Copy, Debug)]
pub struct OwnProgram;

/// What the server consists of.
pub(crate) struct Core {
    pub(crate) store: Store,
    /// Rows that are there without a definition.
    pub(crate) base: Vec<Arc<KindSpec>>,
    registry: RwLock<Arc<Registry>>,
    /// Definitions are read again one at a time.
    pub(crate) reload: tokio::sync::Mutex<custom::Loaded>,
    /// Says that the table was replaced.
    pub(crate) table: tokio::sync::watch::Sender<u64>,
    pub(crate) admissions: Admissions,
    pub(crate) authority: Authority,
    pub(crate) tokens: Option<Tokens>,
    /// The certificates by which clients know this server, for ServiceAccounts; PEM.
    pub(crate) root_ca: Option<String>,
    /// Writes of requests are noted in the audit journal.
    pub(crate) audit: bool,
    /// Number of the newest record there.
    pub(crate) audited: tokio::sync::watch::Sender<u64>,
    pub(crate) collects: Collects,
    pub(crate) rules: Option<Arc<dyn RuleEngine>>,
    /// Creates pass as readers; whoever empties a namespace or a kind passes once as writer, and after that sees every create.
    pub(crate) gate: tokio::sync::RwLock<()>,
    pub(crate) watches: Arc<tokio::sync::Semaphore>,
    pub(crate) budget: Budget,
    /// Namespaces and kinds being emptied.
    pub(crate) emptying: Mutex<BTreeSet<String>>,
    /// Rings when an object was removed.
    pub(crate) removed: tokio::sync::Notify,
    pub(crate) drain: Drain,
    /// What Services are given addresses from.
    pub(crate) service_ranges: Vec<ServiceRange>,
    /// Held from the look at what is given to the commit of what was given.
    pub(crate) giving: tokio::sync::Mutex<()>,
    pub(crate) node: Option<String>,
    pub(crate) consistent_stream: bool,
    /// The way to running programs, where there is one.
    pub(crate) connector: Option<Arc<dyn Connector>>,
}

/// Builds an [`ApiServer`].
pub struct Builder {
    store: Store,
    kinds: Vec<KindSpec>,
    definitions: Vec<String>,
    admissions: Admissions,
    authorizer: Option<Arc<dyn Authorizer>>,
    roles: Vec<String>,
    tokens: Option<TokenOptions>,
    root_ca: Option<String>,
    audit: bool,
    collects: Collects,
    rules: Option<Arc<dyn RuleEngine>>,
    drain: Drain,
    service_ranges: Vec<ServiceRange>,
    advertised: Option<SocketAddr>,
    node: Option<String>,
    consistent_stream: bool,
    answers: usize,
    connector: Option<Arc<dyn Connector>>,
    runs_pods: bool,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Why a server could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A definition given at start is wrong.
    #[error("definition {0}: {1}")]
    Definition(String, String),
    /// The store does not work.
    #[error("the store: {0}")]
    Store(Status),
    /// The keys that tokens are signed with.
    #[error("the keys of ServiceAccounts' tokens: {0}")]
    Keys(#[from] KeyError),
}

impl Builder {
    /// The table of kinds; [`builtin_kinds`] when not called.
    #[must_use]
    pub fn kinds(mut self, kinds: Vec<KindSpec>) -> Self {
        self.kinds = kinds;
        self
    }

    /// CustomResourceDefinitions (YAML or JSON, one each) that are installed, or brought up to date, before the server answers.
    #[must_use]
    pub fn crds(mut self, texts: &[&str]) -> Self {
        self.definitions.extend(texts.iter().map(|t| (*t).to_owned()));
        self
    }

    /// Adds an admission; they are asked in the order of these calls.
    #[must_use]
    pub fn admission(mut self, admission: Arc<dyn Admission>) -> Self {
        self.admissions.0.push(admission);
        self
    }

    /// Who decides before the roles are asked.
    #[must_use]
    pub fn authorizer(mut self, authorizer: Arc<dyn Authorizer>) -> Self {
        self.authorizer = Some(authorizer);
        self
    }

    /// Default roles and bindings beside the standard ones, as text of the form of their table (`rbac/policy.txt`).
    #[must_use]
    pub fn roles(mut self, table: &str) -> Self {
        self.roles.push(table.to_owned());
        self
    }

    /// Takes and makes bearer tokens; without, a request that shows one is refused.
    #[must_use]
    pub fn tokens(mut self, options: TokenOptions) -> Self {
        self.tokens = Some(options);
        self
    }

    /// The certificates (PEM) by which clients know this server: given to ServiceAccounts with their tokens, and to namespaces that use them
    /// as the ConfigMap `kube-root-ca.crt`.
    #[must_use]
    pub fn root_ca(mut self, pem: impl Into<String>) -> Self {
        self.root_ca = Some(pem.into());
        self
    }

    /// Whether writes of requests are noted in the journal stream [`AUDIT_STREAM`](super::AUDIT_STREAM); true when not called.
    #[must_use]
    pub const fn audit(mut self, yes: bool) -> Self {
        self.audit = yes;
        self
    }

    /// Which objects are garbage-collected here when their owners are gone; all when not called. One that is only a copy of what another
    /// server keeps may have its owner there.
    #[must_use]
    pub fn collects(mut self, collects: Collects) -> Self {
        self.collects = collects;
        self
    }

    /// Who compiles and evaluates validation rules of definitions; without it a definition that has some is refused.
    #[must_use]
    pub fn rules(mut self, engine: Arc<dyn RuleEngine>) -> Self {
        self.rules = Some(engine);
        self
    }

    /// Background work (emptying namespaces) runs under this drain.
    #[must_use]
    pub fn drain(mut self, drain: Drain) -> Self {
        self.drain = drain;
        self
    }

    /// Bytes of lists that may wait for their readers at a time; 256 MiB when not called.
    #[must_use]
    pub const fn answer_memory(mut self, bytes: usize) -> Self {
        self.answers = bytes;
        self
    }

    /// The ranges from which Services get their addresses, one for each family, the preferred family first; `10.96.0.0/16` when not called.
    #[must_use]
    pub fn service_ranges(mut self, ranges: impl IntoIterator<Item = ServiceRange>) -> Self {
        self.service_ranges.clear();
        for range in ranges {
            if self.service_ranges.iter().all(|r| r.family() != range.family()) {
                self.service_ranges.push(range);
            }
        }
        self
    }

    /// Where programs in pods reach this server: the Service `kubernetes` leads there. Without it there is no such Service.
    #[must_use]
    pub const fn advertise(mut self, address: SocketAddr) -> Self {
        self.advertised = Some(address);
        self
    }

    /// The gateway's name, for a server at the edge.
    #[must_use]
    pub fn node_name(mut self, name: impl Into<String>) -> Self {
        self.node = Some(name.into());
        self
    }

    /// Whether a watch with `sendInitialEvents=true` and no resourceVersion is streamed (true) or refused with an ERROR event, on which
    /// clients fall back to list and watch (false, the default: the reference server that our recordings come from does so).
    /// With `resourceVersion=0` or a number it is always streamed.
    #[must_use]
    pub const fn consistent_stream(mut self, yes: bool) -> Self {
        self.consistent_stream = yes;
        self
    }

    /// What leads to running programs (logs, exec, port-forward, proxies); without it those subresources say that nothing can be reached.
    #[must_use]
    pub fn connector(mut self, connector: Arc<dyn Connector>) -> Self {
        self.connector = Some(connector);
        self
    }

    /// Whether pods run here: each new Pod gets the token and the pull secrets of its ServiceAccount, which has to be there. False when not
    /// called: who only passes Pods on leaves them as they are.
    #[must_use]
    pub const fn runs_pods(mut self, yes: bool) -> Self {
        self.runs_pods = yes;
        self
    }

    /// Installs what must be there and returns the server.
    ///
    /// # Errors
    /// A wrong definition, keys that cannot be read or made, or a store that cannot be read or written.
    pub async fn build(mut self) -> Result<ApiServer, BuildError> {
        let rbac = Rbac::new(self.store.clone()).map_err(BuildError::Store)?;
        let authority = Authority::new(self.authorizer, Arc::new(rbac));
        self.admissions.0.insert(0, Arc::new(NoEscalation(authority.clone())));
        if self.runs_pods {
            self.admissions.0.insert(1, Arc::new(accounts::RunsAs));
            self.admissions.0.insert(2, Arc::new(priority::Ranks));
        }
        let audited = self.store.journal_bounds(audit::STREAM).map_err(write::store_status);
        let audited = audited.map_err(BuildError::Store)?.accepted;
        if self.connector.is_some() {
            self.kinds.extend(measured::kinds());
        }
        let core = Arc::new(Core {
            store: self.store,
            base: self.kinds.into_iter().map(Arc::new).collect(),
            registry: RwLock::default(),
            reload: tokio::sync::Mutex::default(),
            table: tokio::sync::watch::Sender::new(0),
            admissions: self.admissions,
            authority,
            tokens: self.tokens.map(Tokens::new).transpose()?,
            root_ca: self.root_ca,
            audit: self.audit,
            audited: tokio::sync::watch::Sender::new(audited),
            collects: self.collects,
            rules: self.rules,
            gate: tokio::sync::RwLock::new(()),
            watches: Arc::new(tokio::sync::Semaphore::new(MAX_WATCHES)),
            budget: Budget::new(self.answers),
            emptying: Mutex::default(),
            removed: tokio::sync::Notify::new(),
            drain: self.drain,
            service_ranges: self.service_ranges,
            giving: tokio::sync::Mutex::new(()),
            node: self.node,
            consistent_stream: self.consistent_stream,
            connector: self.connector,
        });
        core.load_definitions().await.map_err(BuildError::Store)?;
        let server = ApiServer { core };
        for name in NAMESPACES {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            match server.create(&User::internal(), namespace).await {
                Ok(_) => {}
                Err(s) if s.reason == "AlreadyExists" || s.code == 404 => {}
                Err(s) => return Err(BuildError::Store(s)),
            }
        }
        for class in system_priorities() {
            match server.create(&User::internal(), class).await {
                Ok(_) => {}
                Err(s) if s.reason == "AlreadyExists" || s.code == 404 => {}
                Err(s) => return Err(BuildError::Store(s)),
            }
        }
        if let Some(address) = self.advertised {
            own_service::keep(&server, address).await.map_err(BuildError::Store)?;
        }
        // Those that are there from the start have theirs before anybody asks.
        for name in NAMESPACES {
            accounts::account(&server, name).await.map_err(BuildError::Store)?;
        }
        for text in &self.definitions {
            install(&server, text).await?;
        }
        rbac::install(&server, &self.roles).await.map_err(BuildError::Store)?;
        rbac::gather(&server);
        lifecycle::resume(&server.core).map_err(BuildError::Store)?;
        garbage::start(&server.core);
        accounts::start(&server.core);
        Ok(server)
    }
}

/// Installs a definition; one that is there and differs is brought up to date.
async fn install(server: &ApiServer, text: &str) -> Result<(), BuildError> {
    let wanted =
        definitions::from_text(text).map_err(|why| BuildError::Definition(text.chars().take(60).collect(), why))?;
    let name = super::meta::text(&wanted, "name").to_owned();
    let refused = |s: Status| BuildError::Definition(name.clone(), s.message);
    match server.create(&User::internal(), wanted.clone()).await {
        Ok(_) => return Ok(()),
        Err(s) if s.reason == "AlreadyExists" => {}
        Err(s) => return Err(refused(s)),
    }
    let id = ResourceId::cluster(DEFINITIONS.0, DEFINITIONS.1, &name);
    server
        .modify(&User::internal(), &id, "", |current| {
            if !definitions::same_definition(current, &wanted)
                && let (Value::Object(map), Some(spec)) = (current, wanted.get("spec"))
            {
                map.insert("spec".to_owned(), spec.clone());
            }
            Ok(())
        })
        .await
        .map_err(refused)?;
    Ok(())
}

/// Names an object for in-process callers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResourceId {
    /// API group, empty for core.
    pub group: String,
    /// Plural.
    pub resource: String,
    /// Empty for cluster scope.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl ResourceId {
    /// An object in a namespace.
    pub fn new(group: &str, resource: &str, namespace: &str, name: &str) -> Self {
        Self {
            group: group.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// A cluster-scoped object.
    pub fn cluster(group: &str, resource: &str, name: &str) -> Self {
        Self::new(group, resource, "", name)
    }
}

impl ApiServer {
    /// Begins to build a server over a store.
    pub fn builder(store: Store) -> Builder {
        Builder {
            store,
            kinds: builtin_kinds(),
            definitions: Vec::new(),
            admissions: Admissions::default(),
            authorizer: None,
            roles: Vec::new(),
            tokens: None,
            root_ca: None,
            audit: true,
            collects: Arc::new(|_| true),
            rules: None,
            drain: Drain::new(),
            service_ranges: vec![ServiceRange::default()],
            advertised: None,
            node: None,
            consistent_stream: false,
            answers: budget::ANSWERS,
            connector: None,
            runs_pods: false,
        }
    }

    /// The store underneath.
    pub fn store(&self) -> &Store {
        &self.core.store
    }

    /// The row of a resource in its preferred version, if it is served.
    pub fn kind(&self, group: &str, resource: &str) -> Option<Arc<KindSpec>> {
        self.core.registry().preferred(group, resource).cloned()
    }

    /// Who makes a request: whom the listener's owner put into its extensions, else whom its bearer token names, else nobody known. The
    /// header of the token is removed. [`Self::handle`] does the same; this is for paths that the daemon answers itself.
    ///
    /// # Errors
    /// 401 for a token that is no good.
    pub fn authenticate<B>(&self, request: &mut Request<B>) -> Result<User, Status> {
        let mut headers = std::mem::take(request.headers_mut());
        let user = self.core.authenticate(&mut headers, request.extensions_mut());
        *request.headers_mut() = headers;
        user
    }

    /// Whom a request acts for: the asker, or whom its `Impersonate-` headers name.
    ///
    /// # Errors
    /// 403 when the asker may not, 400 for headers that make no sense.
    pub fn acting(&self, asker: User, headers: &http::HeaderMap) -> Result<User, Status> {
        Ok(self.core.authority.acting(&asker, headers)?.unwrap_or(asker))
    }

    /// Refuses what a user may not do.
    ///
    /// # Errors
    /// 403.
    pub fn check(&self, user: &User, attributes: &Attributes<'_>) -> Result<(), Status> {
        self.core.authority.check(user, attributes)
    }

    /// The number of the newest record of the audit journal, as it grows.
    pub fn audited(&self) -> tokio::sync::watch::Receiver<u64> {
        self.core.audited.subscribe()
    }

    /// A page of the audit journal, as the path `/kurator/v1/audit` answers with it; `query` as there.
    ///
    /// # Errors
    /// A query that is none, or a store that cannot be read.
    pub fn audit_page(&self, query: Option<&str>) -> Result<Value, Status> {
        audit::page(&self.core.store, &Query::parse(query)?)
    }

    /// Answers one request.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<ApiBody>
    where
        B: Body<Data = Bytes> + Send,
    {
        let (parts, body) = request.into_parts();
        match self.core.answer(parts, body).await {
            Ok(response) => response,
            Err(status) => refusal(&status),
        }
    }
}

/// A refusal as a response.
pub fn refusal(status: &Status) -> Response<ApiBody> {
    let mut response = json_response(status.http(), status.to_json());
    if let Some(seconds) = status.details.as_ref().and_then(|d| d.retry_after) {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

pub(crate) fn json_response(status: StatusCode, body: impl Into<Bytes>) -> Response<ApiBody> {
    let mut response = Response::new(ApiBody::full(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(crate) fn text_response(status: StatusCode, body: &'static str) -> Response<ApiBody> {
    let mut response = Response::new(ApiBody::full(body));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// What a probe is told: a server that answers is well.
fn healthy(probe: &str, query: Option<&str>) -> Response<ApiBody> {
    let verbose = query.is_some_and(|q| q.split('&').any(|p| p == "verbose" || p.starts_with("verbose=")));
    let mut response = text_response(StatusCode::OK, "ok");
    if verbose {
        let said = format!("[+]ping ok\n[+]log ok\n[+]etcd ok\n{probe} check passed\n");
        *response.body_mut() = ApiBody::full(said);
    }
    response
}

/// Adds warnings as headers that clients print.
pub(crate) fn with_warnings(mut response: Response<ApiBody>, warnings: &[String]) -> Response<ApiBody> {
    /// What a client is told at most.
    const MOST: usize = 20;
    for text in warnings.iter().take(MOST) {
        let clean: String = text
            .chars()
            .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
            .take(256)
            .collect::<String>()
            .replace('\\', "\\\\")
            .replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{clean}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

impl<B> tower::Service<Request<B>> for ApiServer
where
    B: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<ApiBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move { Ok(server.handle(request).await) })
    }
}

impl Core {
    /// The table as it stands.
    pub(crate) fn registry(&self) -> Arc<Registry> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the table; whoever watches a kind that changed is told.
    pub(crate) fn replace_registry(&self, next: Registry) {
        let generation = next.generation;
        *self.registry.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        self.table.send_replace(generation);
    }

    /// What follows from a write: a changed definition changes the table; a removed object may have been the last that something waited for.
    pub(crate) async fn after_write(self: &Arc<Self>, kind: &KindSpec, removed: bool) {
        if (&*kind.storage.group, &*kind.storage.plural) == DEFINITIONS
            && let Err(status) = self.load_definitions().await
        {
            tracing::error!(error = %status, "The definitions cannot be read again.");
        }
        if removed {
            self.removed.notify_waiters();
        }
    }

    async fn answer<B>(self: &Arc<Self>, mut parts: Parts, body: B) -> Result<Response<ApiBody>, Status>
    where
        B: Body<Data = Bytes> + Send,
    {
        let asker = self.authenticate(&mut parts.headers, &mut parts.extensions)?;
        let query = Query::parse(parts.uri.query())?;
        let acting = self.authority.acting(&asker, &parts.headers)?;
        let path = parts.uri.path();
        match request::route(path) {
            Route::Resource(target) => {
                let by = By { asker, acting };
                self.answer_resource(target, by, query, parts, body).await
            }
            route => {
                let attributes = Attributes {
                    verb: &parts.method.as_str().to_ascii_lowercase(),
                    path,
                    ..Attributes::default()
                };
                self.authority.check(acting.as_ref().unwrap_or(&asker), &attributes)?;
                if !matches!(parts.method, Method::GET | Method::HEAD) {
                    return Err(Status::method_not_allowed());
                }
                self.answer_path(&route, &query, &parts)
            }
        }
    }

    fn answer_path(&self, route: &Route, query: &Query, parts: &Parts) -> Result<Response<ApiBody>, Status> {
        let registry = self.registry();
        Ok(match route {
            Route::Root => json_response(StatusCode::OK, discovery::root(&registry).to_string()),
            Route::Healthz(probe) => healthy(probe, parts.uri.query()),
            Route::Malformed => text_response(StatusCode::BAD_REQUEST, "400 Bad Request"),
            Route::Version => json_response(StatusCode::OK, version().to_string()),
            Route::OpenApiV2 | Route::OpenApiV3 | Route::OpenApiGroup(..) => {
                let query = Query::parse(parts.uri.query())?;
                return openapi::answer(&registry, route, &parts.headers, query.get("hash"));
            }
            Route::CoreVersions | Route::Groups | Route::Group(_) | Route::Resources(..) => {
                return discovery::answer(&registry, route, parts);
            }
            Route::Audit => json_response(StatusCode::OK, audit::page(&self.store, query)?.to_string()),
            Route::Issuer | Route::SigningKeys if self.tokens.is_some() => self.token_documents(route),
            Route::Issuer | Route::SigningKeys | Route::Resource(_) | Route::Unknown => {
                text_response(StatusCode::NOT_FOUND, "404 page not found\n")
            }
        })
    }

    async fn answer_resource<B>(
        self: &Arc<Self>,
        mut target: ResourcePath,
        by: By,
        mut query: Query,
        parts: Parts,
        body: B,
    ) -> Result<Response<ApiBody>, Status>
    where
        B: Body<Data = Bytes> + Send,
    {
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        if target.watch {
            if !reads {
                return Err(Status::method_not_allowed());
            }
            query.watch(target.name.as_deref());
        }
        let verb = request::verb(
            &parts.method,
            target.name.is_some() && !target.watch,
            reads && query.flag("watch"),
        )
        .ok_or_else(Status::method_not_allowed)?;
        let (user, asker) = match by.acting {
            Some(user) => (user, Some(by.asker)),
            None => (by.asker, None),
        };
        self.authority.check(
            &user,
            &Attributes {
                verb,
                group: &target.group,
                resource: &target.resource,
                subresource: target.subresource.as_deref().unwrap_or_default(),
                namespace: target.namespace.as_deref().unwrap_or_default(),
                name: target.name.as_deref().unwrap_or_default(),
                path: "",
            },
        )?;
        if target.watch {
            target.name = None;
        }
        let registry = self.registry();
        let Some(kind) = registry.get(&target.group, &target.version, &target.resource).cloned() else {
            return if registry.has_group(&target.group) {
                Err(Status::no_such_resource())
            } else {
                Ok(text_response(StatusCode::NOT_FOUND, "404 page not found\n"))
            };
        };
        let misplaced = target.namespace.is_some() != kind.namespaced
            && (target.namespace.is_some() || target.name.is_some() || verb == "create");
        // An answered question has no name to be found by.
        if kind.review.is_some() && !kind.is_measured() && target.name.is_some() {
            return Err(Status::no_such_resource());
        }
        if misplaced {
            return Err(if verb == "create" && target.name.is_none() && kind.namespaced {
                Status::method_not_allowed()
            } else {
                Status::no_such_resource()
            });
        }
        if parts.method != Method::POST && kind.gives_tokens(target.subresource.as_deref()) {
            return Err(Status::method_not_allowed());
        }
        let manager = match query.get("fieldManager").filter(|m| !m.is_empty()) {
            Some(name) => name.to_owned(),
            None => request::program(&parts.headers),
        };
        let call = Call {
            manager,
            kind,
            namespace: target.namespace,
            name: target.name,
            subresource: target.subresource.unwrap_or_default(),
            verb,
            user,
            asker,
            received: daemon::clock::wall_ms(),
            query,
            parts,
        };
        if call.kind.is_measured() {
            return Box::pin(self.measured(call)).await;
        }
        let leads = call.kind.special.connects.iter().find(|c| c.name == call.subresource);
        if !target.tail.is_empty() && leads.is_none_or(|l| l.name != "proxy") {
            return Err(Status::no_such_resource());
        }
        if let Some(leads) = leads {
            if !leads.verbs.contains(&verb) {
                return Err(Status::method_not_allowed());
            }
            let (body, _long) = codec::read(body, &self.budget).await?;
            return Box::pin(self.connect(call, target.tail, body)).await;
        }
        let deprecated = call.kind.deprecated.clone();
        let response = if reads {
            Box::pin(self.read_request(call)).await?
        } else {
            let _place = self.budget.write().await?;
            let (body, _long) = codec::read(body, &self.budget).await?;
            Box::pin(self.write_request(call, body)).await?
        };
        let Some(text) = deprecated else { return Ok(response) };
        // Said before what else is wrong.
        let mut response = response;
        let others: Vec<HeaderValue> = response.headers().get_all(header::WARNING).iter().cloned().collect();
        response.headers_mut().remove(header::WARNING);
        let mut response = with_warnings(response, &[text.to_string()]);
        for other in others {
            response.headers_mut().append(header::WARNING, other);
        }
        Ok(response)
    }
}

/// Who makes a request, and for whom.
struct By {
    asker: User,
    acting: Option<User>,
}

/// A request on a resource, as far as it is understood.
pub(crate) struct Call {
    pub(crate) kind: Arc<KindSpec>,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: String,
    pub(crate) verb: &'static str,
    /// For whom it is done.
    pub(crate) user: User,
    /// Who does it, when that is somebody else.
    pub(crate) asker: Option<User>,
    /// When it came, in milliseconds since 1970.
    pub(crate) received: u64,
    pub(crate) query: Query,
    /// Who owns what is written: `fieldManager`, or the program that asks.
    pub(crate) manager: String,
    pub(crate) parts: Parts,
}

impl Call {
    pub(crate) fn content_type(&self) -> &str {
        self.parts
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    }

    /// The writing that this call is, in a part.
    pub(crate) fn writing(&self, part: Part, options: request::WriteQuery) -> Writing<'_> {
        Writing {
            kind: &self.kind,
            namespace: self.namespace.as_deref().unwrap_or_default(),
            user: &self.user,
            part,
            subresource: &self.subresource,
            dry_run: options.dry_run,
            strictness: options.strictness,
            owner: if self.parts.extensions.get::<OwnProgram>().is_some() {
                Owner::Nobody
            } else {
                Owner::Update(&self.manager)
            },
            call: Some(self),
        }
    }
}

fn version() -> Value {
    json!({
        "major": VERSION.0,
        "minor": VERSION.1,
        "gitVersion": VERSION.2,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}
