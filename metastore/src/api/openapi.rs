//! OpenAPI documents, v2 and v3, written from the table of kinds: what `kubectl explain` shows, and by which it learns that this server
//! validates fields and does dry runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::body::ApiBody;
use super::discovery::tagged;
use super::kinds::{KindSpec, Registry};
use super::request::{Form, Route, accept};
use super::schema::Schema;
use super::server::text_response;
use super::status::Status;

const V3: &str = "#/components/schemas/";
const V2: &str = "#/definitions/";

/// Answers an OpenAPI path. Clients that want protobuf only get 406 and fall back.
pub(crate) fn answer(
    registry: &Registry,
    route: &Route,
    headers: &HeaderMap,
    run: u64,
) -> Result<Response<ApiBody>, Status> {
    accept(headers, |f| f == Form::Json)?;
    let tag = format!("{run:x}-{}", registry.generation);
    let body = match route {
        Route::OpenApiV3 => index(registry, &tag),
        Route::OpenApiGroup(group, version) if registry.has_version(group, version) => {
            document(registry, group, version)
        }
        Route::OpenApiV2 => whole(registry),
        _ => return Ok(text_response(StatusCode::NOT_FOUND, "404 page not found\n")),
    };
    Ok(tagged(headers, &format!("\"{tag}\""), "application/json", &body))
}

fn place(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

/// Where the documents of v3 are.
fn index(registry: &Registry, tag: &str) -> Value {
    let mut paths = Map::new();
    for (group, versions) in registry.groups() {
        for version in versions {
            let place = place(group, version);
            let url = format!("/openapi/v3/{place}?hash={tag}");
            paths.insert(place, json!({"serverRelativeURL": url}));
        }
    }
    json!({"paths": paths})
}

fn info() -> Value {
    json!({"title": "Kurator Edge", "version": "v1"})
}

/// The document of one group and version.
fn document(registry: &Registry, group: &str, version: &str) -> Value {
    let mut schemas = Map::new();
    let mut paths = Map::new();
    for kind in registry.version(group, version) {
        schemas.append(&mut definitions(kind, V3));
        paths.append(&mut operations(kind, Document::V3));
    }
    json!({"openapi": "3.0.0", "info": info(), "paths": paths, "components": {"schemas": schemas}})
}

/// The one document of v2.
fn whole(registry: &Registry) -> Value {
    let mut schemas = Map::new();
    let mut paths = Map::new();
    for kind in registry.all() {
        schemas.append(&mut definitions(kind, V2));
        paths.append(&mut operations(kind, Document::V2));
    }
    json!({"swagger": "2.0", "info": info(), "paths": paths, "definitions": schemas})
}

/// The name of a kind's definition.
fn name_of(kind: &KindSpec) -> String {
    kind.schema.name.as_deref().map_or_else(
        || format!("{}.{}.{}", kind.group, kind.version, kind.kind),
        str::to_owned,
    )
}

/// The definitions that a kind needs, itself and its list included.
fn definitions(kind: &KindSpec, prefix: &str) -> Map<String, Value> {
    let mut out = Map::new();
    let mut seen: BTreeMap<Arc<str>, Arc<Schema>> = BTreeMap::new();
    let identity = |kind_name: &str| json!([{"group": &*kind.group, "version": &*kind.version, "kind": kind_name}]);
    let name = name_of(kind);
    let mut own = kind.schema.to_openapi(prefix, &mut seen);
    if let Value::Object(map) = &mut own {
        map.insert("x-kubernetes-group-version-kind".into(), identity(&kind.kind));
    }
    out.insert(name.clone(), own);
    if kind.review.is_none() {
        let list = json!({
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"type": "object"},
                "items": {"type": "array", "items": {"$ref": format!("{prefix}{name}")}},
            },
            "x-kubernetes-group-version-kind": identity(&kind.list_kind),
        });
        out.insert(format!("{name}List"), list);
    }
    // Each definition may name others; a table of types is finite and has no cycles.
    let mut done: std::collections::BTreeSet<Arc<str>> = std::collections::BTreeSet::new();
    while let Some((n, s)) = seen
        .iter()
        .find(|(n, _)| !done.contains(*n))
        .map(|(n, s)| (n.clone(), s.clone()))
    {
        done.insert(n.clone());
        let shown = s.to_openapi(prefix, &mut seen);
        out.entry(n.to_string()).or_insert(shown);
    }
    out
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Document {
    V2,
    V3,
}

impl Document {
    fn parameter(self, name: &str, place: &str, ty: &str) -> Value {
        match self {
            Self::V2 => {
                json!({"name": name, "in": place, "type": ty, "required": place == "path", "uniqueItems": true})
            }
            Self::V3 => {
                json!({"name": name, "in": place, "required": place == "path", "schema": {"type": ty, "uniqueItems": true}})
            }
        }
    }

    fn response(self, name: &str) -> Value {
        match self {
            Self::V2 => json!({"200": {"description": "OK", "schema": {"$ref": format!("{V2}{name}")}}}),
            Self::V3 => {
                json!({"200": {"description": "OK", "content": {"application/json": {"schema": {"$ref": format!("{V3}{name}")}}}}})
            }
        }
    }
}

/// The paths of a kind with what may be done there.
fn operations(kind: &KindSpec, document: Document) -> Map<String, Value> {
    let base = format!("/{}", place(&kind.group, &kind.version));
    let collection = if kind.namespaced {
        format!("{base}/namespaces/{{namespace}}/{}", kind.plural)
    } else {
        format!("{base}/{}", kind.plural)
    };
    let name = name_of(kind);
    let identity = json!({"group": &*kind.group, "version": &*kind.version, "kind": &*kind.kind});
    let options =
        |list: &[&str]| -> Vec<Value> { list.iter().map(|p| document.parameter(p, "query", "string")).collect() };
    let writes = ["dryRun", "fieldManager", "fieldValidation"];
    let operation = |action: &str, options: Vec<Value>, answer: &str| {
        json!({
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": identity,
            "parameters": options,
            "responses": document.response(answer),
        })
    };
    let mut out = Map::new();
    let mut shared = Vec::new();
    if kind.namespaced {
        shared.push(document.parameter("namespace", "path", "string"));
    }
    let mut many = json!({"post": operation("post", options(&writes), &name), "parameters": shared});
    if kind.review.is_none()
        && let Value::Object(map) = &mut many
    {
        let reads = options(&[
            "labelSelector",
            "fieldSelector",
            "limit",
            "continue",
            "resourceVersion",
            "watch",
        ]);
        map.insert("get".into(), operation("list", reads, &format!("{name}List")));
    }
    out.insert(collection.clone(), many);
    if kind.review.is_some() {
        return out;
    }
    shared.push(document.parameter("name", "path", "string"));
    let mut patch = operation(
        "patch",
        options(&["dryRun", "fieldManager", "fieldValidation", "force"]),
        &name,
    );
    if let Value::Object(map) = &mut patch {
        let mut media = vec!["application/json-patch+json", "application/merge-patch+json"];
        if !kind.custom {
            media.push("application/strategic-merge-patch+json");
        }
        media.push("application/apply-patch+yaml");
        match document {
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
    out.insert(
        format!("{collection}/{{name}}"),
        json!({
            "get": operation("get", Vec::new(), &name),
            "put": operation("put", options(&writes), &name),
            "patch": patch,
            "delete": operation("delete", options(&["dryRun", "propagationPolicy", "gracePeriodSeconds"]), &name),
            "parameters": shared,
        }),
    );
    out
}
