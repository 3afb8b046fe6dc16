//! Discovery: which groups, versions and resources there are. Computed from the table of kinds at each request; an ETag spares clients the rest.

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::body::ApiBody;
use super::kinds::{KindSpec, Registry};
use super::request::{Form, Route, accept};
use super::server::{json_response, text_response};
use super::status::Status;

/// Answers a discovery path.
pub(crate) fn answer(registry: &Registry, route: &Route, parts: &Parts, run: u64) -> Result<Response<ApiBody>, Status> {
    let form = accept(&parts.headers, |f| matches!(f, Form::Json | Form::Aggregated(_)))?;
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
        (Route::Resources(group, version), _) if registry.has_version(group, version) => {
            let list: Vec<Value> = registry.version(group, version).flat_map(|k| resources(k)).collect();
            let name = if group.is_empty() {
                version.clone()
            } else {
                format!("{group}/{version}")
            };
            json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": list})
        }
        _ => return Ok(text_response(StatusCode::NOT_FOUND, "404 page not found\n")),
    };
    let kind = match form {
        Form::Aggregated("v2") => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        Form::Aggregated(_) => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        _ => "application/json",
    };
    let tag = format!("\"{run:x}-{}\"", registry.generation);
    Ok(tagged(&parts.headers, &tag, kind, &body))
}

/// An answer that the client may keep while its tag holds.
pub(crate) fn tagged(headers: &HeaderMap, tag: &str, content_type: &'static str, body: &Value) -> Response<ApiBody> {
    let known = headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|v| v.as_bytes() == tag.as_bytes());
    let mut response = if known {
        let mut r = Response::new(ApiBody::full(""));
        *r.status_mut() = StatusCode::NOT_MODIFIED;
        r
    } else {
        json_response(StatusCode::OK, body.to_string())
    };
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    out.insert(header::VARY, HeaderValue::from_static("Accept"));
    out.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if let Ok(value) = HeaderValue::from_str(tag) {
        out.insert(header::ETAG, value);
    }
    response
}

fn group(name: &str, versions: &[&std::sync::Arc<str>]) -> Value {
    let entry = |v: &str| json!({"groupVersion": format!("{name}/{v}"), "version": v});
    let list: Vec<Value> = versions.iter().map(|v| entry(v)).collect();
    json!({"name": name, "versions": list, "preferredVersion": list.first()})
}

/// The verbs of a subresource.
const fn sub_verbs(name: &'static str) -> &'static [&'static str] {
    match name.as_bytes() {
        b"status" | b"scale" => &["get", "patch", "update"],
        _ => &["create"],
    }
}

/// The subresources of a kind: name, kind of their bodies with its group and version.
fn subresources(kind: &KindSpec) -> Vec<(&'static str, String, String, String)> {
    let own = |k: &str| (kind.group.to_string(), kind.version.to_string(), k.to_owned());
    let mut out = Vec::new();
    if kind.has_status() {
        let (g, v, k) = own(&kind.kind);
        out.push(("status", g, v, k));
    }
    if kind.scale.is_some() {
        out.push(("scale", "autoscaling".into(), "v1".into(), "Scale".into()));
    }
    for action in &kind.actions {
        let (g, v, k) = own(action.kind);
        out.push((action.name, g, v, k));
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
            map.insert("storageVersionHash".to_owned(), json!(""));
        }
    }
    let mut out = vec![main];
    for (name, group, version, body) in subresources(kind) {
        let mut entry = json!({
            "name": format!("{}/{name}", kind.plural),
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": body,
            "verbs": sub_verbs(name),
        });
        if group != *kind.group
            && let Value::Object(map) = &mut entry
        {
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

fn aggregated_resource(kind: &KindSpec) -> Value {
    let subs: Vec<Value> = subresources(kind)
        .into_iter()
        .map(|(name, group, version, body)| {
            json!({
                "subresource": name,
                "responseKind": {"group": group, "version": version, "kind": body},
                "verbs": sub_verbs(name),
            })
        })
        .collect();
    let mut out = json!({
        "resource": &*kind.plural,
        "responseKind": {"group": &*kind.group, "version": &*kind.version, "kind": &*kind.kind},
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
