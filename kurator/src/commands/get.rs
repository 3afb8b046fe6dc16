//! `kurator get KIND [NAME]`: any kind the server knows, printed by the server's own columns; gateways with their sync state.

pub(crate) mod federation;

use daemon::exit::{BAD_INPUT, FAILED, Failure};
use http::Method;
use serde_json::Value;

use crate::cli::{Global, Output};
use crate::client::Api;
use crate::{output, say};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io, application/json";

/// A resource as discovery names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    group: String,
    version: String,
    plural: String,
    namespaced: bool,
}

impl Resource {
    pub(crate) fn path(&self, namespace: Option<&str>, name: Option<&str>) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if let (true, Some(namespace)) = (self.namespaced, namespace) {
            path.push_str(&format!("/namespaces/{namespace}"));
        }
        path.push_str(&format!("/{}", self.plural));
        if let Some(name) = name {
            path.push_str(&format!("/{name}"));
        }
        path
    }

    pub(crate) fn full(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }
}

pub(crate) async fn run(
    global: &Global,
    what: &str,
    name: Option<&str>,
    selector: Option<&str>,
    all_namespaces: bool,
) -> Result<(), Failure> {
    let api = Api::find(global).await?;
    let columns_wanted = matches!(global.output, Output::Table | Output::Wide);
    if columns_wanted
        && matches!(what, "nodes" | "node" | "no")
        && selector.is_none()
        && global.gateway.is_none()
        && let Ok(list) = api.try_json(Method::GET, "/kurator/v1/nodes", None).await?
    {
        return gateways(&list, name, global.output == Output::Wide);
    }
    if matches!(what, "policies" | "policy") {
        return federation::policies(&api, global, name, selector, all_namespaces).await;
    }
    let resource = find(&api, what).await?;
    let added = federation::Added::to(&resource.group, &resource.plural);
    let mut namespace = (!all_namespaces).then_some(global.namespace.as_str());
    let mut path = resource.path(namespace, name);
    let mut asked = Vec::new();
    if let Some(selector) = selector {
        asked.push(format!("labelSelector={}", escaped(selector)));
    }
    if added == Some(federation::Added::Works) {
        path = federation::works_path(namespace);
        namespace = namespace.filter(|namespace| path.contains(namespace));
        asked.extend(name.map(|name| format!("fieldSelector=metadata.name%3D{}", escaped(name))));
    }
    if columns_wanted && added.is_some() {
        asked.push("includeObject=Object".to_owned());
    }
    path = query(path, asked.iter());
    let accept = if columns_wanted { TABLE } else { "application/json" };
    let data = api
        .call(Method::GET, &path, &[("accept", accept)], None)
        .await?
        .map_err(Failure::from)?;
    let mut value: Value =
        serde_json::from_slice(&data).map_err(|e| Failure::new(FAILED, format!("the answer is not JSON: {e}")))?;
    if let (Some(added), true) = (added, columns_wanted) {
        added.put(&mut value);
    }
    match global.output {
        Output::Json => say::text(&output::json(&value)),
        Output::Yaml => say::text(&output::yaml(&value)?),
        Output::Name => {
            let items = value["items"]
                .as_array()
                .cloned()
                .unwrap_or_else(|| vec![value.clone()]);
            for item in &items {
                say::line(&format!(
                    "{}/{}",
                    resource.full(),
                    item["metadata"]["name"].as_str().unwrap_or_default()
                ));
            }
        }
        Output::Table | Output::Wide => {
            let text = table(
                &value,
                global.output == Output::Wide,
                all_namespaces && resource.namespaced && added.is_none(),
            );
            if text.is_empty() {
                let place = match namespace.filter(|_| resource.namespaced) {
                    Some(namespace) => format!(" in namespace {namespace}"),
                    None => String::new(),
                };
                say::remark(&format!("No {}{place}.", resource.plural));
            }
            say::text(&text);
        }
    }
    Ok(())
}

/// A path with these parts of a query.
fn query<'a>(mut path: String, parts: impl Iterator<Item = &'a String>) -> String {
    for (at, part) in parts.enumerate() {
        path.push(if at == 0 { '?' } else { '&' });
        path.push_str(part);
    }
    path
}

/// Text as it can stand in a query.
pub(crate) fn escaped(text: &str) -> String {
    let escape = |b| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// Finds the resource by plural, singular, short name or kind, optionally `.group`.
pub(crate) async fn find(api: &Api, what: &str) -> Result<Resource, Failure> {
    for root in ["/api", "/apis"] {
        let data = api
            .call(Method::GET, root, &[("accept", AGGREGATED)], None)
            .await?
            .map_err(Failure::from)?;
        let list: Value =
            serde_json::from_slice(&data).map_err(|e| Failure::new(FAILED, format!("discovery is not JSON: {e}")))?;
        if let Some(found) = search(&list, what) {
            return Ok(found);
        }
    }
    Err(Failure::new(BAD_INPUT, format!("the server knows no kind {what:?}"))
        .hint("kubectl api-resources lists what it knows"))
}

fn search(discovery: &Value, what: &str) -> Option<Resource> {
    let (wanted, group_wanted) = what.split_once('.').map_or((what, None), |(n, g)| (n, Some(g)));
    let wanted = wanted.to_lowercase();
    for group in discovery["items"].as_array()? {
        let group_name = group["metadata"]["name"].as_str().unwrap_or_default();
        if group_wanted.is_some_and(|g| g != group_name) {
            continue;
        }
        for version in group["versions"].as_array().into_iter().flatten() {
            for resource in version["resources"].as_array().into_iter().flatten() {
                let is = |v: &Value| v.as_str().is_some_and(|s| s.to_lowercase() == wanted);
                let short = resource["shortNames"]
                    .as_array()
                    .is_some_and(|names| names.iter().any(is));
                if short
                    || is(&resource["resource"])
                    || is(&resource["singularResource"])
                    || is(&resource["responseKind"]["kind"])
                {
                    return Some(Resource {
                        group: group_name.to_owned(),
                        version: version["version"].as_str()?.to_owned(),
                        plural: resource["resource"].as_str()?.to_owned(),
                        namespaced: resource["scope"].as_str() == Some("Namespaced"),
                    });
                }
            }
        }
    }
    None
}

/// The server's Table as text; empty when it has no rows.
fn table(value: &Value, wide: bool, with_namespace: bool) -> String {
    let (Some(definitions), Some(rows)) = (value["columnDefinitions"].as_array(), value["rows"].as_array()) else {
        return String::new();
    };
    if rows.is_empty() {
        return String::new();
    }
    let shown: Vec<usize> = (0..definitions.len())
        .filter(|&i| wide || definitions[i]["priority"].as_i64().unwrap_or(0) == 0)
        .collect();
    let mut head: Vec<String> = shown
        .iter()
        .map(|&i| definitions[i]["name"].as_str().unwrap_or_default().to_uppercase())
        .collect();
    let mut body: Vec<Vec<String>> = Vec::with_capacity(rows.len());
    for row in rows {
        let mut cells: Vec<String> = shown
            .iter()
            .map(|&i| match &row["cells"][i] {
                Value::String(s) => s.clone(),
                Value::Null => "<none>".to_owned(),
                other => other.to_string(),
            })
            .collect();
        if with_namespace {
            cells.insert(
                0,
                row["object"]["metadata"]["namespace"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            );
        }
        body.push(cells);
    }
    if with_namespace {
        head.insert(0, "NAMESPACE".to_owned());
    }
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    output::columns(&head, &body)
}

fn gateways(list: &Value, name: Option<&str>, wide: bool) -> Result<(), Failure> {
    let now = daemon::clock::wall_ms();
    let items: Vec<&Value> = list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|n| name.is_none_or(|wanted| n["name"].as_str() == Some(wanted)))
        .collect();
    if let (Some(name), true) = (name, items.is_empty()) {
        return Err(
            Failure::new(BAD_INPUT, format!("nodes \"{name}\" not found")).hint("kurator get nodes lists the gateways")
        );
    }
    let mut head = vec!["NAME", "STATUS", "LINK", "IN SYNC", "VERSION", "LAST SEEN"];
    if wide {
        head.extend(["DESIRED", "OBSERVED", "SENT", "RECEIVED", "ADDRESS"]);
    }
    let mut rows = Vec::new();
    for node in items {
        let text = |v: &Value| v.as_str().unwrap_or("-").to_owned();
        let connected = node["connected"].as_bool().unwrap_or(false);
        let mut row = vec![
            text(&node["name"]),
            if connected { "Ready" } else { "NotReady" }.to_owned(),
            text(&node["link"]),
            node["inSync"]
                .as_bool()
                .map_or("-", |b| if b { "yes" } else { "no" })
                .to_owned(),
            text(&node["version"]),
            node["lastSeen"]
                .as_str()
                .map_or_else(|| "never".to_owned(), |t| output::age(t, now)),
        ];
        if wide {
            row.push(digest(&node["desired"]));
            row.push(digest(&node["observed"]));
            row.push(output::bytes(node["bytesSent"].as_u64().unwrap_or(0)));
            row.push(output::bytes(node["bytesReceived"].as_u64().unwrap_or(0)));
            row.push(text(&node["address"]));
        }
        rows.push(row);
    }
    if rows.is_empty() {
        say::remark("No gateways yet: kurator token create makes a token to join with.");
        return Ok(());
    }
    say::text(&output::columns(&head, &rows));
    Ok(())
}

/// `12 objects, 5f3a…` and what the other end says when it differs.
fn digest(set: &Value) -> String {
    let short = |v: &Value| {
        v.as_str()
            .map_or_else(|| "-".to_owned(), |d| d.chars().take(8).collect())
    };
    let (hub, gateway) = (short(&set["digest"]), short(&set["peerDigest"]));
    let count = set["entries"].as_u64().unwrap_or(0);
    if gateway == "-" || gateway == hub {
        format!("{count}:{hub}")
    } else {
        format!("{count}:{hub}≠{gateway}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_kind_is_found_by_any_of_its_names() {
        let discovery = json!({"items": [
            {"metadata": {}, "versions": [{"version": "v1", "resources": [
                {"resource": "configmaps", "singularResource": "configmap", "scope": "Namespaced", "shortNames": ["cm"], "responseKind": {"kind": "ConfigMap"}}]}]},
            {"metadata": {"name": "devices.kubeedge.io"}, "versions": [{"version": "v1beta1", "resources": [
                {"resource": "devices", "singularResource": "device", "scope": "Namespaced", "responseKind": {"kind": "Device"}}]}]}]});
        for name in ["cm", "configmap", "ConfigMap", "configmaps"] {
            assert_eq!(
                search(&discovery, name).unwrap().path(Some("x"), None),
                "/api/v1/namespaces/x/configmaps"
            );
        }
        let device = search(&discovery, "devices.devices.kubeedge.io").unwrap();
        assert_eq!(device.path(None, None), "/apis/devices.kubeedge.io/v1beta1/devices");
        assert_eq!(search(&discovery, "device.other.io"), None);
    }

    #[test]
    fn tables_hide_wide_columns_unless_asked() {
        let t = json!({"columnDefinitions": [{"name": "Name"}, {"name": "Link", "priority": 1}],
            "rows": [{"cells": ["a", "quic"], "object": {"metadata": {"namespace": "d"}}}]});
        assert_eq!(table(&t, false, false), "NAME\na\n");
        assert_eq!(
            table(&t, true, true),
            "NAMESPACE   NAME   LINK\nd           a      quic\n"
        );
    }
}
