//! OpenAPI documents, v2 and v3, written from the table of kinds: what `kubectl explain` shows, what `kubectl apply` merges by, and by which
//! clients learn that this server validates fields and does dry runs.
//!
//! A document is named by the hash of its bytes, so that clients keep it as long as it stays as it is, over restarts too. The hashes are kept as
//! long as the table of kinds; of the documents only the one that was asked last, as clients rarely ask twice and the memory is a gateway's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};

use super::body::ApiBody;
use super::discovery::tagged;
use super::kinds::{KindSpec, Registry};
use super::request::Route;
use super::server::text_response;
use super::status::Status;
use gnostic::Message;
use render::LIST_META;

mod gnostic;
mod render;

pub(crate) use render::{Document, Needed, Renderer};

const TITLE: &str = "Kubernetes";
const VERSION: &str = "v1.33.0";
/// What clients ask v2 by, in the order that they prefer: (asked, answered, form).
const V2_MEDIA: [(&str, &str, Name); 4] = [
    ("application/json", "application/json", Name::V2),
    (
        "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
        PROTOBUF,
        Name::V2Protobuf,
    ),
    (PROTOBUF, PROTOBUF, Name::V2Protobuf),
    ("*/*", "application/json", Name::V2),
];
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// A document asked by its hash never changes.
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Names a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    V2,
    V2Protobuf,
    Group(Arc<str>, Arc<str>),
}

/// What is kept of the documents of one table of kinds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Documents(Arc<Kept>);

#[derive(Debug, Default)]
struct Kept {
    hashes: Mutex<BTreeMap<Name, Arc<str>>>,
    index: OnceLock<Bytes>,
    last: Mutex<Option<(Name, Bytes)>>,
}

/// Answers an OpenAPI path.
pub(crate) fn answer(
    registry: &Registry,
    route: &Route,
    headers: &HeaderMap,
    hash: Option<&str>,
) -> Result<Response<ApiBody>, Status> {
    let kept = &registry.documents.0;
    match route {
        Route::OpenApiV3 => {
            let index = kept.index.get_or_init(|| index(registry).to_string().into());
            let mut response = Response::new(ApiBody::full(index.clone()));
            let kind = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            Ok(response)
        }
        Route::OpenApiGroup(group, version) => {
            let known = registry.version(group, version).next();
            let Some(kind) = known else {
                return Ok(text_response(StatusCode::NOT_FOUND, "404 page not found\n"));
            };
            if media(headers, |m| matches!(m, "application/json" | "*/*")).is_none() {
                return Ok(not_acceptable());
            }
            let name = Name::Group(kind.group.clone(), kind.version.clone());
            let (bytes, tag) = document(registry, &name);
            if let Some(asked) = hash.filter(|h| *h != &*tag) {
                tracing::debug!(asked, "An OpenAPI document was asked by an old hash.");
                return Ok(elsewhere(&url(group, version, &tag)));
            }
            let mut response = tagged(headers, &tag, "application/json", bytes);
            if hash.is_some() {
                let out = response.headers_mut();
                out.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
                if let Ok(date) = HeaderValue::from_str(&http_date(daemon::clock::wall_ms() / 1000 + YEAR.as_secs())) {
                    out.insert(header::EXPIRES, date);
                }
            }
            Ok(response)
        }
        Route::OpenApiV2 => {
            let known = |m: &str| V2_MEDIA.iter().find(|(asked, ..)| *asked == m);
            let Some((_, content_type, name)) = media(headers, |m| known(m).is_some()).and_then(known) else {
                return Ok(not_acceptable());
            };
            let (bytes, tag) = document(registry, name);
            Ok(tagged(headers, &tag, content_type, bytes))
        }
        _ => Ok(text_response(StatusCode::NOT_FOUND, "404 page not found\n")),
    }
}

/// The first media type that the client accepts and `takes` knows; parameters do not count here.
fn media(headers: &HeaderMap, takes: impl Fn(&str) -> bool) -> Option<&str> {
    let Some(value) = headers.get(header::ACCEPT) else {
        return Some("*/*");
    };
    let text = value.to_str().unwrap_or_default();
    if text.is_empty() {
        return Some("*/*");
    }
    let mut all = text
        .split(',')
        .map(|clause| clause.split(';').next().unwrap_or_default().trim());
    all.find(|m| takes(m))
}

fn not_acceptable() -> Response<ApiBody> {
    let mut response = Response::new(ApiBody::full(""));
    *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
    response
}

fn elsewhere(url: &str) -> Response<ApiBody> {
    let mut response = Response::new(ApiBody::full(""));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(place) = HeaderValue::from_str(url) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

/// As HTTP writes dates.
fn http_date(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|s| jiff::Timestamp::from_second(s).ok())
        .map(|t| t.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
        .unwrap_or_default()
}

fn place(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

fn url(group: &str, version: &str, hash: &str) -> String {
    format!("/openapi/v3/{}?hash={hash}", place(group, version))
}

/// Where the documents of v3 are.
fn index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            let (_, hash) = document(registry, &Name::Group(group.clone(), version.clone()));
            paths.insert(
                place(group, version),
                json!({"serverRelativeURL": url(group, version, &hash)}),
            );
        }
    }
    json!({"paths": paths})
}

/// A document and its hash.
fn document(registry: &Registry, name: &Name) -> (Bytes, Arc<str>) {
    let kept = &registry.documents.0;
    let mut last = kept.last.lock().unwrap_or_else(PoisonError::into_inner);
    let bytes = match &*last {
        Some((have, bytes)) if have == name => bytes.clone(),
        _ => {
            let bytes = Bytes::from(match name {
                Name::V2 => whole(registry),
                Name::V2Protobuf => whole_protobuf(registry),
                Name::Group(group, version) => of_group(registry, group, version),
            });
            *last = Some((name.clone(), bytes.clone()));
            bytes
        }
    };
    drop(last);
    let mut hashes = kept.hashes.lock().unwrap_or_else(PoisonError::into_inner);
    let hash = hashes.entry(name.clone()).or_insert_with(|| hash_of(&bytes)).clone();
    (bytes, hash)
}

/// The name of some bytes, in the form that other servers use.
pub(crate) fn hash_of(bytes: &[u8]) -> Arc<str> {
    let digest = ring::digest::digest(&ring::digest::SHA512, bytes);
    let mut out = String::with_capacity(128);
    for byte in digest.as_ref() {
        // Writing into a string does not fail.
        write!(out, "{byte:02X}").unwrap_or_default();
    }
    out.into()
}

/// JSON written piece by piece: a whole document as values would be several times its size in memory.
struct Text(Vec<u8>);

impl Text {
    fn member(&mut self, name: &str, value: &Value) {
        if !self.0.ends_with(b"{") {
            self.0.push(b',');
        }
        self.0
            .extend_from_slice(format!("{}:{value}", Value::from(name)).as_bytes());
    }
}

fn of_group(registry: &Registry, group: &str, version: &str) -> Vec<u8> {
    let info = json!({"title": TITLE, "version": VERSION});
    let mut out = Text(format!("{{\"openapi\":\"3.0.0\",\"info\":{info},\"paths\":{{").into_bytes());
    let kinds: Vec<&Arc<KindSpec>> = registry.version(group, version).collect();
    for kind in &kinds {
        each_path(kind, Document::V3, |name, shown| out.member(name, shown));
    }
    out.0.extend_from_slice(b"},\"components\":{\"schemas\":{");
    each_definition(&kinds, Document::V3, |name, shown| out.member(name, shown));
    out.0.extend_from_slice(b"}}}");
    out.0
}

fn whole(registry: &Registry) -> Vec<u8> {
    let info = json!({"title": TITLE, "version": VERSION});
    let mut out = Text(format!("{{\"swagger\":\"2.0\",\"info\":{info},\"paths\":{{").into_bytes());
    let kinds: Vec<&Arc<KindSpec>> = registry.all().collect();
    for kind in &kinds {
        each_path(kind, Document::V2, |name, shown| out.member(name, shown));
    }
    out.0.extend_from_slice(b"},\"definitions\":{");
    each_definition(&kinds, Document::V2, |name, shown| out.member(name, shown));
    out.0.extend_from_slice(b"}}");
    out.0
}

fn whole_protobuf(registry: &Registry) -> Vec<u8> {
    let kinds: Vec<&Arc<KindSpec>> = registry.all().collect();
    let (mut paths, mut definitions) = (Message::default(), Message::default());
    for kind in &kinds {
        each_path(kind, Document::V2, |name, shown| gnostic::path(&mut paths, name, shown));
    }
    each_definition(&kinds, Document::V2, |name, shown| {
        gnostic::definition(&mut definitions, name, shown);
    });
    gnostic::document(TITLE, VERSION, &paths, &definitions).into_bytes()
}

/// The name of a kind's definition; that of a group that somebody made stands in it backwards, as a package's would.
fn name_of(kind: &KindSpec) -> String {
    kind.schema.name.as_deref().map_or_else(
        || {
            let group: Vec<&str> = kind.group.rsplit('.').collect();
            format!("{}.{}.{}", group.join("."), kind.version, kind.kind)
        },
        str::to_owned,
    )
}

/// The definitions that kinds need, themselves and their lists included, each once.
fn each_definition(kinds: &[&Arc<KindSpec>], document: Document, mut show: impl FnMut(&str, &Value)) {
    let (mut needed, mut done) = (Needed::new(), BTreeSet::<Arc<str>>::new());
    let identity =
        |kind: &KindSpec, name: &str| json!([{"group": &*kind.group, "version": &*kind.version, "kind": name}]);
    let prefix = document.prefix();
    for kind in kinds {
        let name: Arc<str> = name_of(kind).into();
        // Several rows may have one type.
        if !done.insert(name.clone()) {
            continue;
        }
        let mut renderer = Renderer {
            document,
            custom: kind.custom,
            needed: &mut needed,
        };
        let mut own = renderer.body(&kind.schema);
        if let Value::Object(map) = &mut own {
            map.insert("x-kubernetes-group-version-kind".into(), identity(kind, &kind.kind));
        }
        show(&name, &own);
        if kind.review.is_some() && !kind.is_measured() {
            continue;
        }
        needed.entry(LIST_META.into()).or_default();
        let text = json!({"type": "string"});
        let list = json!({
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": text,
                "kind": text,
                "metadata": {"$ref": format!("{prefix}{LIST_META}")},
                "items": {"type": "array", "items": {"$ref": format!("{prefix}{name}")}},
            },
            "x-kubernetes-group-version-kind": identity(kind, &kind.list_kind),
        });
        show(&format!("{name}List"), &list);
    }
    // Each definition may name others; a table of types is finite and has no cycles.
    loop {
        let next = needed.iter().find(|(name, _)| !done.contains(*name));
        let Some((name, schema)) = next.map(|(n, s)| (n.clone(), s.clone())) else {
            return;
        };
        let mut renderer = Renderer {
            document,
            custom: false,
            needed: &mut needed,
        };
        let shown = renderer.definition(&name, &schema);
        show(&name, &shown);
        done.insert(name);
    }
}

fn parameter(document: Document, name: &str, place: &str) -> Value {
    let ty = match name {
        "force" | "watch" | "allowWatchBookmarks" | "sendInitialEvents" => "boolean",
        "limit" | "timeoutSeconds" | "gracePeriodSeconds" => "integer",
        _ => "string",
    };
    match document {
        Document::V2 => {
            json!({"name": name, "in": place, "type": ty, "required": place == "path", "uniqueItems": true})
        }
        Document::V3 => {
            json!({"name": name, "in": place, "required": place == "path", "schema": {"type": ty, "uniqueItems": true}})
        }
    }
}

const READS: [&str; 10] = [
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const WRITES: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];
const PATCHES: [&str; 4] = ["dryRun", "fieldManager", "fieldValidation", "force"];
const DELETES: [&str; 4] = ["dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"];

/// What may be done at the paths of one kind.
struct Operations<'k> {
    kind: &'k KindSpec,
    document: Document,
}

impl Operations<'_> {
    fn operation(&self, action: &str, parameters: &[&str], answer: &str) -> Value {
        let kind = self.kind;
        let reference = json!({"$ref": format!("{}{answer}", self.document.prefix())});
        let response = match self.document {
            Document::V2 => json!({"200": {"description": "OK", "schema": reference}}),
            Document::V3 => {
                json!({"200": {"description": "OK", "content": {"application/json": {"schema": reference}}}})
            }
        };
        let parameters: Vec<Value> = parameters
            .iter()
            .map(|p| parameter(self.document, p, "query"))
            .collect();
        json!({
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": {"group": &*kind.group, "version": &*kind.version, "kind": &*kind.kind},
            "parameters": parameters,
            "responses": response,
        })
    }

    fn patch(&self, answer: &str) -> Value {
        let mut out = self.operation("patch", &PATCHES, answer);
        let mut media = vec!["application/json-patch+json", "application/merge-patch+json"];
        if !self.kind.custom {
            media.push("application/strategic-merge-patch+json");
        }
        media.push("application/apply-patch+yaml");
        if let Value::Object(map) = &mut out {
            match self.document {
                Document::V2 => map.insert("consumes".into(), json!(media)),
                Document::V3 => {
                    let content: Map<String, Value> = media
                        .into_iter()
                        .map(|m| (m.to_owned(), json!({"schema": {"type": "object"}})))
                        .collect();
                    map.insert("requestBody".into(), json!({"content": content, "required": true}))
                }
            };
        }
        out
    }
}

/// The paths of a kind with what may be done there.
fn each_path(kind: &KindSpec, document: Document, mut show: impl FnMut(&str, &Value)) {
    let on = Operations { kind, document };
    let (name, base) = (name_of(kind), format!("/{}", place(&kind.group, &kind.version)));
    let list = format!("{name}List");
    let mut shared = Vec::new();
    let collection = if kind.namespaced {
        shared.push(parameter(document, "namespace", "path"));
        if kind.review.is_none() || kind.is_measured() {
            let everywhere = json!({"get": on.operation("list", &READS, &list)});
            show(&format!("{base}/{}", kind.plural), &everywhere);
        }
        format!("{base}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{base}/{}", kind.plural)
    };
    if kind.is_measured() {
        let one =
            json!({"get": on.operation("read", &READS, &name), "parameters": [parameter(document, "name", "path")]});
        show(
            &collection,
            &json!({"get": on.operation("list", &READS, &list), "parameters": shared}),
        );
        return show(&format!("{collection}/{{name}}"), &one);
    }
    let post = on.operation("post", &WRITES, &name);
    if kind.review.is_some() {
        return show(&collection, &json!({"post": post, "parameters": shared}));
    }
    let many = json!({
        "get": on.operation("list", &READS, &list),
        "post": post,
        "delete": on.operation("deletecollection", &DELETES, &list),
        "parameters": shared,
    });
    show(&collection, &many);
    shared.push(parameter(document, "name", "path"));
    let one = format!("{collection}/{{name}}");
    let whole = json!({
        "get": on.operation("get", &[], &name),
        "put": on.operation("put", &WRITES, &name),
        "patch": on.patch(&name),
        "delete": on.operation("delete", &DELETES, &name),
        "parameters": shared,
    });
    show(&one, &whole);
    if kind.has_status() {
        let status = json!({
            "get": on.operation("get", &[], &name),
            "put": on.operation("put", &WRITES, &name),
            "patch": on.patch(&name),
            "parameters": shared,
        });
        show(&format!("{one}/status"), &status);
    }
}

#[cfg(test)]
mod tests;
