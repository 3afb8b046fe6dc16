//! Discovery: which groups, versions and resources there are. Computed from the table of kinds at each request; what clients ask most, everything
//! in one answer, is named by its hash, which spares them the rest, over restarts too.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::body::ApiBody;
use super::kinds::{KindSpec, Registry};
use super::openapi::hash_of;
use super::request::{Form, Route, accept};
use super::server::{json_response, text_response};
use super::status::Status;

/// Answers a discovery path.
pub(crate) fn answer(registry: &Registry, route: &Route, parts: &Parts) -> Result<Response<ApiBody>, Status> {
    let form = if matches!(route, Route::CoreVersions | Route::Groups) {
        accept(&parts.headers, |f| matches!(f, Form::Json | Form::Aggregated(_)))?
    } else {
        accept(&parts.headers, |f| f == Form::Json)?
    };
    let body = match (route, form) {
        (Route::CoreVersions, Form::Aggregated(v)) => aggregated(registry, v, |g| g.is_empty()),
        (Route::Groups, Form::Aggregated(v)) => aggregated(registry, v, |g| !g.is_empty()),
        (Route::CoreVersions, _) => json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        }),
        (Route::Groups, _) => {
            let groups: Vec<Value> = registry
                .groups()
                .filter(|(name, _)| !name.is_empty())
                .map(|(name, versions)| group(name, &versions))
                .collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        (Route::Group(name), _) => {
            let Some((name, versions)) = registry.groups().find(|(n, _)| ***n == **name && !n.is_empty()) else {
                return Ok(text_response(StatusCode::NOT_FOUND, "404 page not found\n"));
            };
            let mut one = group(name, &versions);
            if let Value::Object(map) = &mut one {
                map.insert("kind".to_owned(), json!("APIGroup"));
                map.insert("apiVersion".to_owned(), json!("v1"));
            }
            one
        }
        (Route::Resources(group, version), _) if registry.has_group(group) && !registry.has_version(group, version) => {
            return Err(Status::no_such_resource());
        }
        (Route::Resources(group, version), _) if registry.has_version(group, version) => {
            let list: Vec<Value> = registry.version(group, version).flat_map(|k| resources(k)).collect();
            let name = if group.is_empty() {
                version.clone()
            } else {
                format!("{group}/{version}")
            };
            let mut all = json!({"kind": "APIResourceList", "groupVersion": name, "resources": list});
            // The core group's list is from before lists had versions.
            if let (Value::Object(map), false) = (&mut all, group.is_empty()) {
                map.insert("apiVersion".to_owned(), json!("v1"));
            }
            all
        }
        _ => return Ok(text_response(StatusCode::NOT_FOUND, "404 page not found\n")),
    };
    let kind = match form {
        Form::Aggregated("v2") => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        Form::Aggregated(_) => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        _ => return Ok(json_response(StatusCode::OK, body.to_string())),
    };
    let bytes = Bytes::from(body.to_string());
    let tag = hash_of(&bytes);
    let mut response = tagged(&parts.headers, &tag, kind, bytes);
    let kept = HeaderValue::from_static("public");
    response.headers_mut().insert(header::CACHE_CONTROL, kept);
    Ok(response)
}

/// The paths there are.
pub(crate) fn root(registry: &Registry) -> Value {
    let mut paths: Vec<String> = [
        "/api",
        "/apis",
        "/healthz",
        "/livez",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
        "/version",
    ]
    .iter()
    .map(|p| (*p).to_owned())
    .collect();
    for (group, versions) in registry.groups() {
        if group.is_empty() {
            paths.extend(versions.iter().map(|v| format!("/api/{v}")));
        } else {
            paths.push(format!("/apis/{group}"));
            paths.extend(versions.iter().map(|v| format!("/apis/{group}/{v}")));
        }
    }
    paths.sort_unstable();
    json!({"paths": paths})
}

/// An answer that the client may keep while its tag holds.
pub(crate) fn tagged(headers: &HeaderMap, tag: &str, content_type: &'static str, body: Bytes) -> Response<ApiBody> {
    let tag = format!("\"{tag}\"");
    let known = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .any(|list| list.split(',').any(|t| t.trim().trim_start_matches("W/") == tag));
    let mut response = Response::new(ApiBody::full(if known { Bytes::new() } else { body }));
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    out.insert(header::VARY, HeaderValue::from_static("Accept"));
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if let Ok(value) = HeaderValue::from_str(&tag) {
        out.insert(header::ETAG, value);
    }
    response
}

fn group(name: &str, versions: &[&std::sync::Arc<str>]) -> Value {
    let entry = |v: &str| json!({"groupVersion": format!("{name}/{v}"), "version": v});
    let list: Vec<Value> = versions.iter().map(|v| entry(v)).collect();
    json!({"name": name, "versions": list, "preferredVersion": list.first()})
}

/// Names the form in which objects are stored: clients compare it, and know nothing of what is in it.
fn storage_hash(kind: &KindSpec) -> String {
    let version = kind.storage.api_version.rsplit('/').next().unwrap_or_default();
    let form = format!("{}/{version}/{}", kind.storage.group, kind.kind);
    let digest = ring::digest::digest(&ring::digest::SHA256, form.as_bytes());
    STANDARD.encode(&digest.as_ref()[..8])
}

/// A subresource of a kind: its name, the kind of its body with group and version where they are not the object's own, what may be done.
struct Sub<'k> {
    name: &'static str,
    of: Option<(&'static str, &'static str)>,
    kind: &'k str,
    verbs: &'static [&'static str],
}

/// The subresources of a kind, by name.
fn subresources(kind: &KindSpec) -> Vec<Sub<'_>> {
    const CHANGES: &[&str] = &["get", "patch", "update"];
    let sub = |name, kind, verbs| Sub {
        name,
        of: None,
        kind,
        verbs,
    };
    let mut out = Vec::new();
    if kind.has_status() {
        out.push(sub("status", &*kind.kind, CHANGES));
    }
    if kind.scale.is_some() {
        out.push(Sub {
            of: Some(("autoscaling", "v1")),
            ..sub("scale", "Scale", CHANGES)
        });
    }
    if kind.gives_tokens(Some("token")) {
        out.push(Sub {
            of: Some(("authentication.k8s.io", "v1")),
            ..sub("token", "TokenRequest", &["create"])
        });
    }
    for action in &kind.actions {
        out.push(Sub {
            of: action.of,
            ..sub(action.name, action.kind, &["create"])
        });
    }
    out.extend(kind.special.parts.iter().map(|p| sub(p.name, &*kind.kind, CHANGES)));
    out.extend(kind.special.connects.iter().map(|c| sub(c.name, c.kind, c.verbs)));
    if !kind.custom {
        out.sort_by_key(|s| s.name);
    }
    out
}

/// The entries of a kind in a resource list.
fn resources(kind: &KindSpec) -> Vec<Value> {
    let mut main = json!({
        "name": &*kind.plural,
        "singularName": &*kind.singular,
        "namespaced": kind.namespaced,
        "kind": &*kind.kind,
        "verbs": kind.verbs(),
    });
    if let Value::Object(map) = &mut main {
        for (field, list) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
            if !list.is_empty() {
                map.insert(field.to_owned(), json!(list));
            }
        }
        if kind.review.is_none() {
            map.insert("storageVersionHash".to_owned(), json!(storage_hash(kind)));
        }
    }
    let mut out = vec![main];
    for sub in subresources(kind) {
        let mut entry = json!({
            "name": format!("{}/{}", kind.plural, sub.name),
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": sub.kind,
            "verbs": sub.verbs,
        });
        if let (Some((group, version)), Value::Object(map)) = (sub.of, &mut entry) {
            map.insert("group".to_owned(), json!(group));
            map.insert("version".to_owned(), json!(version));
        }
        out.push(entry);
    }
    out
}

/// Everything in one answer, the form that kubectl asks first.
fn aggregated(registry: &Registry, form: &str, wanted: fn(&str) -> bool) -> Value {
    let items: Vec<Value> = registry
        .groups()
        .filter(|(name, _)| wanted(name))
        .map(|(name, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|v| {
                    let list: Vec<Value> = registry.version(name, v).map(|k| aggregated_resource(k)).collect();
                    json!({"version": v, "resources": list, "freshness": "Current"})
                })
                .collect();
            let mut metadata = json!({"creationTimestamp": null});
            if !name.is_empty() {
                metadata = json!({"name": name, "creationTimestamp": null});
            }
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{form}"),
        "metadata": {},
        "items": items,
    })
}

/// The kind of an answer. Built-in ones leave out the group and version that they stand in.
fn response_kind(kind: &KindSpec, group: &str, version: &str, body: &str) -> Value {
    if !kind.custom && (group, version) == (&*kind.group, &*kind.version) {
        json!({"group": "", "version": "", "kind": body})
    } else {
        json!({"group": group, "version": version, "kind": body})
    }
}

fn aggregated_resource(kind: &KindSpec) -> Value {
    let subs: Vec<Value> = subresources(kind)
        .into_iter()
        .map(|sub| {
            let (group, version) = sub.of.unwrap_or((&kind.group, &kind.version));
            json!({
                "subresource": sub.name,
                "responseKind": response_kind(kind, group, version, sub.kind),
                "verbs": sub.verbs,
            })
        })
        .collect();
    let mut out = json!({
        "resource": &*kind.plural,
        "responseKind": response_kind(kind, &kind.group, &kind.version, &kind.kind),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": &*kind.singular,
        "verbs": kind.verbs(),
    });
    if let Value::Object(map) = &mut out {
        for (field, list) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
            if !list.is_empty() {
                map.insert(field.to_owned(), json!(list));
            }
        }
        if !subs.is_empty() {
            map.insert("subresources".to_owned(), json!(subs));
        }
    }
    out
}
