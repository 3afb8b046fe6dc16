//! What a request asks for: path, query, accepted forms. Pure; hostile input ends in a [`Status`], never in a panic.

use std::borrow::Cow;

use http::{HeaderMap, Method, header};

use super::apply::MAX_MANAGER;
use super::selector::{Fields, Labels};
use super::status::{Cause, Status};
use super::table::RowObject;

/// Longest path and query that are looked at.
const MAX_URI: usize = 128 * 1024;

/// Percent-decoding; invalid escapes stay as they are, invalid UTF-8 is an error. `plus`: `+` is a space.
pub(crate) fn decode(text: &str, plus: bool) -> Option<Cow<'_, str>> {
    let coded = text.contains('%') || (plus && text.contains('+'));
    if !coded {
        return Some(Cow::Borrowed(text));
    }
    let hex = |b: u8| char::from(b).to_digit(16);
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let pair = (bytes.get(i + 1), bytes.get(i + 2));
        match (bytes[i], pair) {
            (b'%', (Some(a), Some(b))) if hex(*a).is_some() && hex(*b).is_some() => {
                let (a, b) = (hex(*a).unwrap_or(0), hex(*b).unwrap_or(0));
                out.push(u8::try_from(a * 16 + b).unwrap_or(0));
                i += 3;
            }
            (b'+', _) if plus => {
                out.push(b' ');
                i += 1;
            }
            (b, _) => {
                out.push(b);
                i += 1;
            }
        }
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

/// A parsed query.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the query of a request.
    ///
    /// # Errors
    /// When it is too long or no text.
    pub fn parse(text: Option<&str>) -> Result<Self, Status> {
        let text = text.unwrap_or_default();
        if text.len() > MAX_URI {
            return Err(Status::new(
                http::StatusCode::URI_TOO_LONG,
                "RequestURITooLong",
                "the query is too long",
            ));
        }
        let mut out = Vec::new();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let part = |t| decode(t, true).ok_or_else(|| Status::bad_request("the query is not UTF-8"));
            out.push((part(key)?.into_owned(), part(value)?.into_owned()));
        }
        Ok(Self(out))
    }

    /// The first value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// All values of a parameter.
    pub fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// Makes it the query of a watch, of one object when it is named: what an old path says by itself.
    pub(crate) fn watch(&mut self, name: Option<&str>) {
        self.0.retain(|(k, _)| k != "watch");
        self.0.push(("watch".to_owned(), "true".to_owned()));
        if let Some(name) = name {
            let more = self.get("fieldSelector").filter(|s| !s.is_empty());
            let selector = more.map_or_else(
                || format!("metadata.name={name}"),
                |s| format!("metadata.name={name},{s}"),
            );
            self.0.retain(|(k, _)| k != "fieldSelector");
            self.0.push(("fieldSelector".to_owned(), selector));
        }
    }

    /// A boolean parameter as Go clients write it: there and not false.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|v| !matches!(v, "false" | "0" | "f" | "F" | "False" | "FALSE"))
    }
}

/// A resource path, or a piece of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: Option<String>,
    pub(crate) resource: String,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
    /// An old path that is a watch by itself: `/api/v1/watch/…`.
    pub(crate) watch: bool,
    /// What follows the subresource.
    pub(crate) tail: String,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/`
    Root,
    /// The word names the probe, and after it one of its checks.
    Healthz(String),
    Version,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1`, `/apis/GROUP/VERSION`
    Resources(String, String),
    /// `/.well-known/openid-configuration`
    Issuer,
    /// `/openid/v1/jwks`
    SigningKeys,
    /// `/kurator/v1/audit`
    Audit,
    OpenApiV2,
    OpenApiV3,
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION`
    OpenApiGroup(String, String),
    Resource(ResourcePath),
    /// An escape in the path is none.
    Malformed,
    Unknown,
}

/// Reads a path.
pub(crate) fn route(path: &str) -> Route {
    if path.len() > MAX_URI {
        return Route::Unknown;
    }
    if has_bad_escape(path) {
        return Route::Malformed;
    }
    if path == "/" {
        return Route::Root;
    }
    let mut parts = Vec::new();
    for part in path.trim_matches('/').split('/') {
        match decode(part, false) {
            Some(p) if !p.is_empty() && parts.len() < 12 => parts.push(p),
            _ => return Route::Unknown,
        }
    }
    let words: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
    match words.as_slice() {
        [probe @ ("healthz" | "readyz" | "livez")]
        | [probe @ ("healthz" | "readyz" | "livez"), "ping" | "log" | "etcd"] => Route::Healthz((*probe).to_owned()),
        ["version"] => Route::Version,
        ["api"] => Route::CoreVersions,
        ["apis"] => Route::Groups,
        ["apis", group] => Route::Group((*group).to_owned()),
        [".well-known", "openid-configuration"] => Route::Issuer,
        ["openid", "v1", "jwks"] => Route::SigningKeys,
        ["kurator", "v1", "audit"] => Route::Audit,
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3"] => Route::OpenApiV3,
        ["openapi", "v3", "api", version] => Route::OpenApiGroup(String::new(), (*version).to_owned()),
        ["openapi", "v3", "apis", group, version] => Route::OpenApiGroup((*group).to_owned(), (*version).to_owned()),
        ["api", version] => Route::Resources(String::new(), (*version).to_owned()),
        ["apis", group, version] => Route::Resources((*group).to_owned(), (*version).to_owned()),
        ["api", version, rest @ ..] => resource("", version, rest),
        ["apis", group, version, rest @ ..] => resource(group, version, rest),
        _ => Route::Unknown,
    }
}

fn has_bad_escape(path: &str) -> bool {
    let hex = |b: Option<&u8>| b.is_some_and(u8::is_ascii_hexdigit);
    let bytes = path.as_bytes();
    (0..bytes.len()).any(|i| bytes[i] == b'%' && !(hex(bytes.get(i + 1)) && hex(bytes.get(i + 2))))
}

fn resource(group: &str, version: &str, rest: &[&str]) -> Route {
    let own = |s: &&str| (**s).to_owned();
    let (watch, rest) = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        rest => (false, rest),
    };
    let mut out = ResourcePath {
        group: group.to_owned(),
        version: version.to_owned(),
        watch,
        ..ResourcePath::default()
    };
    let rest = match rest {
        // A subresource of a namespace looks like a resource in it; these are the ones there are.
        ["namespaces", name, sub @ ("status" | "finalize")] if group.is_empty() => {
            out.resource = "namespaces".to_owned();
            out.name = Some((*name).to_owned());
            out.subresource = Some((*sub).to_owned());
            return Route::Resource(out);
        }
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => {
            out.namespace = Some((*namespace).to_owned());
            rest
        }
        rest => rest,
    };
    match rest {
        [resource] => out.resource = own(resource),
        [resource, name] => {
            out.resource = own(resource);
            out.name = Some(own(name));
        }
        [resource, name, sub, ..] => {
            out.resource = own(resource);
            out.name = Some(own(name));
            out.subresource = Some(own(sub));
            out.tail = rest[3..].join("/");
        }
        [] => return Route::Unknown,
    }
    Route::Resource(out)
}

/// The form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Table,
    /// The metadata of an object.
    Partial,
    /// The metadata of each object of a list.
    PartialList,
    /// Aggregated discovery, `v2` or `v2beta1`.
    Aggregated(&'static str),
}

/// Which of the forms `allowed` the client likes best. `*/*`, no header and plain JSON are all JSON.
pub(crate) fn accept(headers: &HeaderMap, allowed: fn(Form) -> bool) -> Result<Form, Status> {
    let Some(value) = headers.get(header::ACCEPT).filter(|v| !v.is_empty()) else {
        return Ok(Form::Json);
    };
    let text = value.to_str().unwrap_or_default();
    if !text.contains("q=") {
        return text
            .split(',')
            .find_map(|clause| form_of(clause, allowed))
            .ok_or_else(Status::not_acceptable);
    }
    // What is liked equally keeps its order.
    let mut clauses: Vec<(u32, &str)> = text.split(',').map(|c| (liking(c), c)).collect();
    clauses.sort_by_key(|(liking, _)| std::cmp::Reverse(*liking));
    clauses
        .iter()
        .find_map(|(_, clause)| form_of(clause, allowed))
        .ok_or_else(Status::not_acceptable)
}

/// The `q` of a clause, in thousandths.
fn liking(clause: &str) -> u32 {
    let said = clause.split(';').skip(1).find_map(|p| p.trim().strip_prefix("q="));
    said.and_then(|q| q.trim().parse::<f64>().ok()).map_or(1000, |q| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let thousandths = (q.clamp(0.0, 1.0) * 1000.0) as u32;
        thousandths
    })
}

fn form_of(clause: &str, allowed: fn(Form) -> bool) -> Option<Form> {
    let mut parts = clause.split(';').map(str::trim);
    if !matches!(parts.next(), Some("application/json" | "*/*")) {
        return None;
    }
    let (mut kind, mut group, mut version) = ("", "", "");
    for parameter in parts {
        match parameter.split_once('=') {
            Some(("as", v)) => kind = v,
            Some(("g", v)) => group = v,
            Some(("v", v)) => version = v,
            _ => {}
        }
    }
    let form = match (kind, group, version) {
        ("", ..) => Form::Json,
        ("Table", "meta.k8s.io", "v1") => Form::Table,
        ("PartialObjectMetadata", "meta.k8s.io", "v1") => Form::Partial,
        ("PartialObjectMetadataList", "meta.k8s.io", "v1") => Form::PartialList,
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Form::Aggregated("v2"),
        ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => Form::Aggregated("v2beta1"),
        _ => return None,
    };
    allowed(form).then_some(form)
}

/// The options of get, list and watch.
#[derive(Debug)]
pub(crate) struct ListQuery {
    pub(crate) labels: Labels,
    pub(crate) fields: Fields,
    pub(crate) limit: Option<usize>,
    pub(crate) token: Option<String>,
    pub(crate) version: Version,
    pub(crate) version_match: Option<VersionMatch>,
    pub(crate) watch: bool,
    pub(crate) bookmarks: bool,
    pub(crate) initial_events: Option<bool>,
    pub(crate) timeout: Option<u64>,
    pub(crate) include: RowObject,
}

/// `resourceVersion`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Unset,
    Any,
    Exactly(u64),
}

/// `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VersionMatch {
    Exact,
    NotOlderThan,
}

impl ListQuery {
    /// Reads and checks them together, as they constrain each other.
    pub(crate) fn parse(query: &Query) -> Result<Self, Status> {
        let watch = query.flag("watch");
        let forbidden =
            |why: &str| Status::invalid_option("ListOptions", Cause::forbidden("resourceVersionMatch", why));
        let text = query.get("resourceVersion").unwrap_or_default();
        let version = match text {
            "" => Version::Unset,
            "0" => Version::Any,
            digits => match digits.parse() {
                Ok(n) => Version::Exactly(n),
                Err(_) if watch => {
                    // What a real server answers: its parser's error, unsorted.
                    return Err(Status::new(
                        http::StatusCode::INTERNAL_SERVER_ERROR,
                        "",
                        format!("strconv.ParseUint: parsing {digits:?}: invalid syntax"),
                    ));
                }
                Err(_) => {
                    return Err(Status::bad_request(format!(
                        "Invalid value: {digits:?}: resource version must be a number"
                    )));
                }
            },
        };
        let version_match = match query.get("resourceVersionMatch") {
            None | Some("") => None,
            Some("Exact") => Some(VersionMatch::Exact),
            Some("NotOlderThan") => Some(VersionMatch::NotOlderThan),
            Some(other) => {
                return Err(Status::invalid_option(
                    "ListOptions",
                    Cause::not_supported(
                        "resourceVersionMatch",
                        &format!("{other:?}"),
                        &["Exact", "NotOlderThan", ""],
                    ),
                ));
            }
        };
        let initial_events = query.get("sendInitialEvents").map(|_| query.flag("sendInitialEvents"));
        let token = query.get("continue").filter(|c| !c.is_empty()).map(str::to_owned);
        if watch {
            if version_match.is_some() && initial_events.is_none() {
                return Err(forbidden(
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
            if token.is_some() {
                return Err(forbidden("continue is forbidden for watch"));
            }
            if initial_events.is_some() && version_match != Some(VersionMatch::NotOlderThan) {
                let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
                let mut causes = vec![Cause::forbidden("resourceVersionMatch", why)];
                if version_match.is_some() {
                    let cause = Cause::not_supported("resourceVersionMatch", "\"Exact\"", &["NotOlderThan"]);
                    causes.push(cause);
                }
                return Err(Status::invalid("meta.k8s.io", "ListOptions", "", causes));
            }
        } else {
            if initial_events.is_some() {
                let cause = Cause::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
                return Err(Status::invalid_option("ListOptions", cause));
            }
            match (version_match, version) {
                (Some(_), Version::Unset) => {
                    return Err(forbidden(
                        "resourceVersionMatch is forbidden unless resourceVersion is provided",
                    ));
                }
                (Some(VersionMatch::Exact), Version::Any) => {
                    return Err(forbidden(
                        "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                    ));
                }
                (Some(_), _) if token.is_some() => {
                    return Err(forbidden("resourceVersionMatch is forbidden when continue is provided"));
                }
                (None, Version::Exactly(_)) if token.is_some() => {
                    return Err(Status::bad_request(
                        "specifying resource version is not allowed when using continue",
                    ));
                }
                _ => {}
            }
        }
        let selector = |why: String| Status::bad_request(why);
        let number = |name: &str| match query.get(name).filter(|t| !t.is_empty()) {
            None => Ok(None),
            Some(text) => text
                .parse::<i64>()
                .map(Some)
                .map_err(|_| Status::bad_request(format!("{name} must be a whole number, not {text:?}"))),
        };
        Ok(Self {
            labels: Labels::parse(query.get("labelSelector").unwrap_or_default())
                .map_err(|e| selector(format!("unable to parse requirement: {e}")))?,
            fields: Fields::parse(query.get("fieldSelector").unwrap_or_default()).map_err(selector)?,
            limit: number("limit")?
                .and_then(|l| usize::try_from(l).ok())
                .filter(|l| *l > 0),
            token,
            version,
            version_match,
            watch,
            bookmarks: query.flag("allowWatchBookmarks"),
            initial_events,
            timeout: number("timeoutSeconds")?.and_then(|t| u64::try_from(t).ok()),
            include: RowObject::parse(query.get("includeObject")).map_err(Status::bad_request)?,
        })
    }
}

/// How unknown and duplicate fields are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strictness {
    Ignore,
    Warn,
    Strict,
}

/// The options of a write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteQuery {
    pub(crate) dry_run: bool,
    pub(crate) strictness: Strictness,
    /// An apply takes what others own.
    pub(crate) force: bool,
}

impl WriteQuery {
    /// Reads them; `kind` is that of the options object (`CreateOptions`).
    pub(crate) fn parse(query: &Query, kind: &str) -> Result<Self, Status> {
        // A delete has neither manager nor fields.
        let get = |name: &str| query.get(name).filter(|_| kind != "DeleteOptions");
        let manager = get("fieldManager").unwrap_or_default();
        if manager.len() > MAX_MANAGER {
            let cause = Cause::too_long("fieldManager", MAX_MANAGER as u64);
            return Err(Status::invalid_option(kind, cause));
        }
        if manager.chars().any(char::is_control) {
            let why = "should only contain printable characters";
            let cause = Cause::invalid("fieldManager", &format!("{manager:?}"), why);
            return Err(Status::invalid_option(kind, cause));
        }
        let mut dry_run = false;
        for value in query.all("dryRun") {
            match value {
                "All" => dry_run = true,
                other => {
                    let cause = Cause::not_supported("dryRun", &format!("[{other:?}]"), &["All"]);
                    return Err(Status::invalid_option(kind, cause));
                }
            }
        }
        let strictness = match get("fieldValidation") {
            None | Some("" | "Warn") => Strictness::Warn,
            Some("Ignore") => Strictness::Ignore,
            Some("Strict") => Strictness::Strict,
            Some(other) => {
                let cause =
                    Cause::not_supported("fieldValidation", &format!("{other:?}"), &["Ignore", "Warn", "Strict"]);
                return Err(Status::invalid_option(kind, cause));
            }
        };
        Ok(Self {
            dry_run,
            strictness,
            force: query.flag("force"),
        })
    }
}

/// The program that asks, as its `User-Agent` begins.
pub(crate) fn program(headers: &HeaderMap) -> String {
    let agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok());
    let name = agent.unwrap_or_default().split('/').next().unwrap_or_default();
    // The managers of other servers have this name when a client has none.
    let name = if name.is_empty() { "unknown" } else { name };
    name.chars().take(MAX_MANAGER).collect()
}

/// The verb of a request on a resource, as authorization knows it.
pub(crate) fn verb(method: &Method, named: bool, watch: bool) -> Option<&'static str> {
    Some(match *method {
        Method::GET if named => "get",
        Method::GET if watch => "watch",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> ResourcePath {
        match route(path) {
            Route::Resource(r) => r,
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn paths() {
        let r = at("/api/v1/namespaces/ns/configmaps/a%2Fb");
        assert_eq!(
            (r.namespace.as_deref(), &*r.resource, r.name.as_deref()),
            (Some("ns"), "configmaps", Some("a/b"))
        );
        let r = at("/api/v1/namespaces/ns/status");
        assert_eq!(
            (&*r.resource, r.name.as_deref(), r.subresource.as_deref()),
            ("namespaces", Some("ns"), Some("status"))
        );
        let r = at("/apis/apps/v1/namespaces/ns/deployments/web/scale");
        assert_eq!((&*r.group, r.subresource.as_deref()), ("apps", Some("scale")));
        let r = at("/api/v1/namespaces");
        assert_eq!((&*r.resource, r.namespace), ("namespaces", None));
        assert_eq!(at("/api/v1/namespaces/x").name.as_deref(), Some("x"));
        assert_eq!(route("/apis/apps/v1/"), Route::Resources("apps".into(), "v1".into()));
        let r = at("/api/v1/watch/namespaces/ns/configmaps/a");
        assert!(r.watch && &*r.resource == "configmaps" && r.name.as_deref() == Some("a"));
        assert_eq!((route("/"), route("/api/v1/%zz")), (Route::Root, Route::Malformed));
        assert_eq!(route("/livez/ping"), Route::Healthz("livez".to_owned()));
        for bad in ["//", "/healthz/x", "/api//x", "/nope", "/api/v1/%ff", &"/a".repeat(100)] {
            assert_eq!(route(bad), Route::Unknown, "{bad}");
        }
    }

    #[test]
    fn queries() {
        let q = Query::parse(Some("labelSelector=a+in+%28b%29&watch&x=1&x=2&bad=%zz")).unwrap();
        assert_eq!(q.get("labelSelector"), Some("a in (b)"));
        assert!(q.flag("watch") && !q.flag("nope"));
        assert_eq!(q.all("x").count(), 2);
        assert_eq!(q.get("bad"), Some("%zz"));
        assert_eq!(Query::parse(Some(&"a".repeat(200_000))).unwrap_err().code, 414);
        assert_eq!(Query::parse(Some("a=%ff")).unwrap_err().code, 400);
        let mut q = Query::parse(Some("watch=0&fieldSelector=a%3Db")).unwrap();
        q.watch(Some("x"));
        assert!(q.flag("watch") && q.get("fieldSelector") == Some("metadata.name=x,a=b"));
    }

    #[test]
    fn accept_prefers_the_first_form_it_knows() {
        let any = |_| true;
        let get = |text: &str, allowed: fn(Form) -> bool| {
            let mut h = HeaderMap::new();
            h.insert(header::ACCEPT, text.parse().unwrap());
            accept(&h, allowed)
        };
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(get(kubectl, any), Ok(Form::Table));
        assert_eq!(get(kubectl, |f| f == Form::Json), Ok(Form::Json));
        assert_eq!(
            get("application/vnd.kubernetes.protobuf,application/json", any),
            Ok(Form::Json)
        );
        assert_eq!(get("*/*", any), Ok(Form::Json));
        assert_eq!(get("", any), Ok(Form::Json));
        for none in [
            "text/html",
            "application/*",
            ",,,",
            "garbage",
            "application/json;as=Nope;g=meta.k8s.io;v=v1",
        ] {
            assert_eq!(get(none, any).unwrap_err().code, 406, "{none}");
        }
        let less = "application/json;q=0.2,application/json;as=Table;g=meta.k8s.io;v=v1;q=0.9,text/html";
        assert_eq!(get(less, any), Ok(Form::Table));
        let list = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        assert_eq!(get(list, |f| f == Form::Partial).unwrap_err().code, 406);
        let discovery = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        assert_eq!(get(discovery, any), Ok(Form::Aggregated("v2")));
    }

    #[test]
    fn list_options_constrain_each_other() {
        let parse = |q: &str| ListQuery::parse(&Query::parse(Some(q)).unwrap());
        assert_eq!(parse("resourceVersion=abc").unwrap_err().code, 400);
        assert_eq!(parse("watch=1&resourceVersion=abc").unwrap_err().code, 500);
        assert_eq!(parse("resourceVersionMatch=Exact").unwrap_err().code, 422);
        assert_eq!(
            parse("resourceVersion=0&resourceVersionMatch=Exact").unwrap_err().code,
            422
        );
        assert_eq!(parse("watch=1&sendInitialEvents=true").unwrap_err().code, 422);
        assert_eq!(parse("sendInitialEvents=true").unwrap_err().code, 422);
        assert_eq!(parse("limit=-1").unwrap().limit, None);
        assert_eq!(parse("limit=5&resourceVersion=7").unwrap().version, Version::Exactly(7));
    }
}
