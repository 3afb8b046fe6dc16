//! What `kurator get` adds for the kinds that distribute: the gateway of a cluster, the health of a Work, policies of both scopes as one list.
//! The server's own columns stay as they are.

use daemon::exit::{BAD_INPUT, Failure};
use federation::names::cluster_of;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{escaped, query};
use crate::cli::{Global, Output};
use crate::client::Api;
use crate::{output, say};

/// On a Cluster: which gateway it stands for.
pub(crate) const GATEWAY: &str = "kurator.dev/gateway";
const POLICIES: &str = "/apis/policy.karmada.io/v1alpha1";
/// Resource, kind, whether it is in namespaces, and whether it is shown only with `-o wide`.
const POLICY_KINDS: [(&str, &str, bool, bool); 4] = [
    ("propagationpolicies", "PropagationPolicy", true, false),
    ("clusterpropagationpolicies", "ClusterPropagationPolicy", false, false),
    ("overridepolicies", "OverridePolicy", true, true),
    ("clusteroverridepolicies", "ClusterOverridePolicy", false, true),
];
/// Selectors and clusters that are spelled out.
const SPELLED: usize = 2;

/// What is added to the columns of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    Clusters,
    Works,
}

impl Added {
    /// Of which kind.
    pub(super) fn to(group: &str, plural: &str) -> Option<Self> {
        match (group, plural) {
            ("cluster.karmada.io", "clusters") => Some(Self::Clusters),
            ("work.karmada.io", "works") => Some(Self::Works),
            _ => None,
        }
    }

    /// Puts it into a server's Table, whose rows have whole objects.
    pub(super) fn put(self, table: &mut Value) {
        match self {
            Self::Clusters => {
                add(table, "Gateway", |o| {
                    o["metadata"]["annotations"][GATEWAY].as_str().unwrap_or("-").to_owned()
                });
                add(table, "Nodes", nodes);
            }
            Self::Works => {
                add(table, "Health", health);
                add_at(table, 0, "Cluster", |o| {
                    let namespace = o["metadata"]["namespace"].as_str().unwrap_or_default();
                    cluster_of(namespace).unwrap_or(namespace).to_owned()
                });
            }
        }
    }
}

/// One more column, before the age.
fn add(table: &mut Value, name: &str, cell: impl Fn(&Value) -> String) {
    let Some(definitions) = table["columnDefinitions"].as_array() else {
        return;
    };
    let is_age = |c: &Value| c["name"].as_str().is_some_and(|n| n.eq_ignore_ascii_case("age"));
    let at = definitions.iter().position(is_age).unwrap_or(definitions.len());
    add_at(table, at, name, cell);
}

fn add_at(table: &mut Value, at: usize, name: &str, cell: impl Fn(&Value) -> String) {
    if let Some(definitions) = table.get_mut("columnDefinitions").and_then(Value::as_array_mut) {
        definitions.insert(at.min(definitions.len()), json!({"name": name, "priority": 0}));
    }
    let rows = table.get_mut("rows").and_then(Value::as_array_mut);
    for row in rows.into_iter().flatten() {
        let value = cell(&row["object"]);
        if let Some(cells) = row.get_mut("cells").and_then(Value::as_array_mut) {
            cells.insert(at.min(cells.len()), value.into());
        }
    }
}

/// `1/1`: ready of all.
fn nodes(cluster: &Value) -> String {
    let summary = &cluster["status"]["nodeSummary"];
    match (summary["readyNum"].as_u64(), summary["totalNum"].as_u64()) {
        (ready, Some(total)) => format!("{}/{total}", ready.unwrap_or(0)),
        _ => "-".to_owned(),
    }
}

/// The worst that its manifests are.
pub(crate) fn health(work: &Value) -> String {
    let all = work["status"]["manifestStatuses"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let has = |health: &str| all.iter().any(|one| one["health"] == health);
    match () {
        () if all.is_empty() => "-",
        () if has("Unhealthy") => "Unhealthy",
        () if all.iter().all(|one| one["health"] == "Healthy") => "Healthy",
        () => "Unknown",
    }
    .to_owned()
}

/// Which Works are meant: those of all clusters, unless a namespace is named that is a cluster's. There are none in any other.
pub(crate) fn works_path(namespace: Option<&str>) -> String {
    let within = namespace.filter(|namespace| cluster_of(namespace).is_some());
    let within = within.map(|n| format!("/namespaces/{n}")).unwrap_or_default();
    format!("/apis/work.karmada.io/v1alpha1{within}/works")
}

/// Policies of all clusters and of a namespace, as one list.
pub(super) async fn policies(
    api: &Api,
    global: &Global,
    name: Option<&str>,
    selector: Option<&str>,
    all_namespaces: bool,
) -> Result<(), Failure> {
    let mut items = Vec::new();
    let mut served = false;
    let selector = selector.map(|s| format!("labelSelector={}", escaped(s)));
    for (plural, kind, namespaced, wide) in POLICY_KINDS {
        if wide && global.output != Output::Wide {
            continue;
        }
        let within = match namespaced && !all_namespaces {
            true => format!("/namespaces/{}", global.namespace),
            false => String::new(),
        };
        let path = query(format!("{POLICIES}{within}/{plural}"), selector.iter());
        let mut list = match api.try_json(Method::GET, &path, None).await? {
            Ok(list) => list,
            // A server that has not all of them has the others.
            Err(refusal) if refusal.status == StatusCode::NOT_FOUND => continue,
            Err(refusal) => return Err(refusal.into()),
        };
        served = true;
        let found = list.get_mut("items").and_then(Value::as_array_mut);
        // Items of a list do not say what they are.
        items.extend(found.into_iter().flat_map(std::mem::take).map(|mut item| {
            if let Some(fields) = item.as_object_mut() {
                fields.insert("kind".to_owned(), kind.into());
                fields.insert("apiVersion".to_owned(), "policy.karmada.io/v1alpha1".into());
            }
            item
        }));
    }
    if !served {
        return Err(Failure::new(BAD_INPUT, "the server knows no policies that distribute")
            .hint("name a hub's or Karmada's kubeconfig with --kubeconfig"));
    }
    if let Some(name) = name {
        items.retain(|item| item["metadata"]["name"] == name);
        if items.is_empty() {
            return Err(Failure::new(BAD_INPUT, format!("no policy is named \"{name}\""))
                .hint("kurator get policies -A -o wide lists all, overrides too"));
        }
    }
    let list = || json!({"apiVersion": "v1", "kind": "List", "items": items});
    match global.output {
        Output::Json => say::text(&output::json(&list())),
        Output::Yaml => say::text(&output::yaml(&list())?),
        Output::Name => {
            for item in &items {
                let kind = item["kind"].as_str().unwrap_or_default();
                let plural = POLICY_KINDS
                    .iter()
                    .find(|(_, k, ..)| *k == kind)
                    .map_or("", |(plural, ..)| plural);
                say::line(&format!(
                    "{plural}.policy.karmada.io/{}",
                    item["metadata"]["name"].as_str().unwrap_or_default()
                ));
            }
        }
        Output::Table | Output::Wide if items.is_empty() => {
            let place = match all_namespaces {
                true => String::new(),
                false => format!(" for namespace {}; -A shows those of all", global.namespace),
            };
            say::remark(&format!("No policies{place}."));
        }
        Output::Table | Output::Wide => {
            let text = table(&items, global.output == Output::Wide, daemon::clock::wall_ms());
            say::text(&text);
        }
    }
    Ok(())
}

/// What each chooses, and where it goes or what it changes there.
fn table(items: &[Value], wide: bool, now: u64) -> String {
    let mut head = vec!["KIND", "NAMESPACE", "NAME", "SELECTS", "CLUSTERS", "AGE"];
    if wide {
        head.insert(5, "DETAIL");
    }
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            let (metadata, spec) = (&item["metadata"], &item["spec"]);
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            let overrides = spec["overrideRules"].is_array() || !spec["overriders"].is_null();
            let selectors = spec["resourceSelectors"].as_array().map_or(&[][..], Vec::as_slice);
            let mut row = vec![
                text(&item["kind"]),
                text(&metadata["namespace"]),
                text(&metadata["name"]),
                match selectors {
                    [] if overrides => "all".to_owned(),
                    selectors => some(selectors.iter().map(selected)),
                },
                if overrides {
                    targets(spec)
                } else {
                    places(&spec["placement"])
                },
                metadata["creationTimestamp"]
                    .as_str()
                    .map_or_else(|| "-".to_owned(), |t| output::age(t, now)),
            ];
            if wide {
                row.insert(5, if overrides { changes(spec) } else { settings(spec) });
            }
            row
        })
        .collect();
    output::columns(&head, &rows)
}

/// The first few, and how many more.
fn some(all: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = all.collect();
    let mut text = all[..all.len().min(SPELLED)].join(", ");
    if all.len() > SPELLED {
        text.push_str(&format!(" +{}", all.len() - SPELLED));
    }
    if text.is_empty() { "-".to_owned() } else { text }
}

/// `Deployment/web`, `Deployment/*`, `Deployment(app=web)`.
fn selected(selector: &Value) -> String {
    let kind = selector["kind"].as_str().unwrap_or("?");
    match (selector["name"].as_str(), labels(&selector["labelSelector"])) {
        (Some(name), _) if !name.is_empty() => format!("{kind}/{name}"),
        (_, Some(labels)) => format!("{kind}({labels})"),
        _ => format!("{kind}/*"),
    }
}

/// `a=b,c in (d,e)`; none of a selector that takes everything.
fn labels(selector: &Value) -> Option<String> {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let equal = selector["matchLabels"].as_object().into_iter().flatten();
    let equal = equal.map(|(key, value)| format!("{key}={}", text(value)));
    let rules = selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|rule| {
            let values: Vec<String> = rule["values"].as_array().into_iter().flatten().map(text).collect();
            let (key, operator) = (text(&rule["key"]), text(&rule["operator"]));
            match operator.as_str() {
                "Exists" => key,
                "DoesNotExist" => format!("!{key}"),
                _ => format!("{key} {} ({})", operator.to_lowercase(), values.join(",")),
            }
        });
    let all: Vec<String> = equal.chain(rules).collect();
    (!all.is_empty()).then(|| all.join(","))
}

/// Which clusters an affinity is for.
fn affinity(affinity: &Value) -> String {
    let strings = |field: &str| affinity[field].as_array().map_or(&[][..], Vec::as_slice);
    let names = strings("clusterNames")
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned);
    let mut parts: Vec<String> = Vec::new();
    if !strings("clusterNames").is_empty() {
        parts.push(some(names));
    }
    parts.extend(labels(&affinity["labelSelector"]));
    parts.extend(labels(&affinity["fieldSelector"]));
    if !strings("exclude").is_empty() {
        parts.push(format!(
            "not {}",
            some(strings("exclude").iter().filter_map(Value::as_str).map(str::to_owned))
        ));
    }
    if parts.is_empty() {
        "all".to_owned()
    } else {
        parts.join("; ")
    }
}

fn places(placement: &Value) -> String {
    match placement["clusterAffinities"].as_array() {
        Some(groups) if !groups.is_empty() => some(groups.iter().map(affinity)),
        _ => affinity(&placement["clusterAffinity"]),
    }
}

fn targets(spec: &Value) -> String {
    let rules = spec["overrideRules"].as_array().map_or(&[][..], Vec::as_slice);
    match rules {
        [] => affinity(&spec["targetCluster"]),
        rules => some(rules.iter().map(|rule| affinity(&rule["targetCluster"]))),
    }
}

/// Which overriders, over all rules.
fn changes(spec: &Value) -> String {
    let rules = spec["overrideRules"].as_array().into_iter().flatten();
    let all = rules.map(|rule| &rule["overriders"]).chain([&spec["overriders"]]);
    let mut names: Vec<String> = all
        .filter_map(Value::as_object)
        .flat_map(|o| o.keys().cloned())
        .collect();
    names.sort();
    names.dedup();
    names.join(",")
}

/// How replicas are spread, and what is unlike the defaults.
fn settings(spec: &Value) -> String {
    let mut parts = Vec::new();
    let scheduling = &spec["placement"]["replicaScheduling"];
    if scheduling["replicaSchedulingType"] == "Divided" {
        let by = scheduling["replicaDivisionPreference"].as_str().unwrap_or("Weighted");
        parts.push(format!("divided, {}", by.to_lowercase()));
    }
    if spec["propagateDeps"] == true {
        parts.push("with dependencies".to_owned());
    }
    if spec["conflictResolution"] == "Overwrite" {
        parts.push("overwrites".to_owned());
    }
    if spec["suspension"].as_object().is_some_and(|s| !s.is_empty()) {
        parts.push("suspended".to_owned());
    }
    if let Some(priority) = spec["priority"].as_i64().filter(|p| *p != 0) {
        parts.push(format!("priority {priority}"));
    }
    if parts.is_empty() {
        "-".to_owned()
    } else {
        parts.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> Value {
        let path = format!("{}/fixtures/karmada/{name}.json", env!("CARGO_MANIFEST_DIR"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn clusters_tell_their_gateway_and_nodes_before_their_age() {
        let mut cluster = fixture("cluster-member1-real-agent");
        cluster["metadata"]["annotations"][GATEWAY] = "gw-1".into();
        let mut t = json!({"columnDefinitions": [{"name": "Name"}, {"name": "Ready"}, {"name": "Age"}],
            "rows": [{"cells": ["member1", "True", "5s"], "object": cluster}, {"cells": ["odd", "", "1s"], "object": {"metadata": 7}}]});
        Added::to("cluster.karmada.io", "clusters").unwrap().put(&mut t);
        assert_eq!(
            super::super::table(&t, false, false),
            "NAME      READY   GATEWAY   NODES   AGE\nmember1   True    gw-1      1/1     5s\nodd               -         -       1s\n"
        );
    }

    #[test]
    fn works_tell_their_cluster_and_health() {
        let work = fixture("work-deployment-web");
        let mut t = json!({"columnDefinitions": [{"name": "Name"}, {"name": "AGE"}],
            "rows": [{"cells": ["web-1", "5s"], "object": work}]});
        Added::to("work.karmada.io", "works").unwrap().put(&mut t);
        assert_eq!(
            super::super::table(&t, false, false),
            "CLUSTER   NAME    HEALTH    AGE\nmember1   web-1   Healthy   5s\n"
        );
        assert_eq!(health(&fixture("work-applied-false-conflict")), "-");
        let two = json!({"status": {"manifestStatuses": [{"health": "Healthy"}, {"health": 3}]}});
        assert_eq!(health(&two), "Unknown");
        assert_eq!(works_path(Some("default")), "/apis/work.karmada.io/v1alpha1/works");
        assert_eq!(
            works_path(Some("karmada-es-gw")),
            "/apis/work.karmada.io/v1alpha1/namespaces/karmada-es-gw/works"
        );
    }

    #[test]
    fn a_table_of_anything_is_no_reason_to_fall() {
        for odd in [
            json!(null),
            json!({"rows": 1}),
            json!({"columnDefinitions": [], "rows": [1, {"cells": 2}]}),
        ] {
            let mut odd = odd;
            Added::Works.put(&mut odd);
            Added::Clusters.put(&mut odd);
        }
    }

    #[test]
    fn policies_say_what_goes_where() {
        let items = [
            fixture("propagationpolicy-fx"),
            json!({"kind": "ClusterPropagationPolicy", "metadata": {"name": "all"}, "spec": {
                "resourceSelectors": [{"apiVersion": "v1", "kind": "ConfigMap", "labelSelector": {"matchLabels": {"a": "b"}}}],
                "suspension": {"dispatching": true},
                "placement": {"clusterAffinity": {"labelSelector": {"matchExpressions": [{"key": "line", "operator": "In", "values": ["1", "2"]}]},
                    "exclude": ["gw-9"]}, "replicaScheduling": {"replicaSchedulingType": "Divided"}}}}),
            json!({"kind": "OverridePolicy", "metadata": {"name": "o", "namespace": "fx"}, "spec": {"overrideRules": [
                {"targetCluster": {"clusterNames": ["gw-1"]}, "overriders": {"imageOverrider": [], "plaintext": []}}]}}),
            json!({"kind": "OverridePolicy", "metadata": 1, "spec": "?"}),
        ];
        let text = table(&items, true, 0);
        for part in [
            "fx          fx     Deployment/*, DaemonSet/* +5   member1 ",
            "ConfigMap(a=b)                 line in (1,2); not gw-9   divided, weighted; suspended",
            "all                            gw-1                      imageOverrider,plaintext",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!table(&items, false, 0).contains("DETAIL"));
    }
}
