//! What a Cluster says of the gateway or the site it stands for: made from what is known of it. Pure.
//!
//! A Cluster's spec has parts of several hands: the hub's (identity, place, labels and taints it was told), the control plane's (its own
//! taints, models), people's. Only the hub's are written, and noted, so that what is asked for no more goes and everything else stays.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::Hash;
use serde_json::{Map, Value, json};

use super::body::Body;
use federation::names::CLUSTER_FINALIZER;

use super::sites::SITE;
use super::works::{ClusterEntry, GATEWAY, HUB, Stands, canonical};

/// On a Cluster: the taints that the hub put there, as JSON.
const TAINTS: &str = "kurator.dev/taints";
/// Of a Cluster's status, what gateways report.
const REPORTED: [&str; 4] = ["kubernetesVersion", "apiEnablements", "nodeSummary", "resourceSummary"];
/// Where Karmada keeps what it needs to reach clusters.
pub(crate) const CLUSTER_NAMESPACE: &str = "karmada-cluster";

/// How what stands above reaches the API of each gateway: through the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `https://host:port` of the hub's people's port, without a slash at the end.
    pub(crate) url: String,
    /// Secret in [`CLUSTER_NAMESPACE`] with `caBundle` and `token`.
    pub(crate) secret: String,
    /// Secret there with the `token` that may speak for others.
    pub(crate) impersonator: String,
}

/// What is known of a gateway or a site that its Cluster says.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) stands: Stands,
    /// Its identity: a URI.
    pub(crate) id: String,
    pub(crate) labels: BTreeMap<String, Value>,
    /// Where a site's gateways are; empty, the labels say it.
    pub(crate) zones: Vec<String>,
    /// `[{key, value?, effect}]`
    pub(crate) taints: Vec<Value>,
    pub(crate) endpoint: Option<&'a Endpoint>,
    /// The hub that made it.
    pub(crate) hub: &'a str,
}

/// Whether a gateway can be reached, as far as can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    Yes,
    No,
    /// It went a moment ago, or may be on its way back after the hub was started: nothing new is said.
    Unsettled,
}

impl Facts<'_> {
    /// A Cluster that is not there yet.
    pub(crate) fn new_cluster(&self, name: &str) -> Value {
        let (note, of) = match &self.stands {
            Stands::Gateway(node) => (GATEWAY, node),
            Stands::Site(site) => (SITE, site),
        };
        let mut cluster = json!({
            "apiVersion": "cluster.karmada.io/v1alpha1",
            "kind": "Cluster",
            "metadata": {"name": name, "annotations": {note: &**of, HUB: self.hub}},
            "spec": {"syncMode": "Pull"},
        });
        self.put(&mut cluster);
        cluster
    }

    /// Puts in what the hub has to say, and takes out what it said before and says no more.
    pub(crate) fn put(&self, cluster: &mut Value) {
        super::writer::put_or_remove(cluster, HUB, Some(self.hub.to_owned()));
        super::writer::put_labels(cluster, self.labels.clone());
        let label = |names: [&str; 2]| names.into_iter().find_map(|n| self.labels.get(n)?.as_str());
        let region = label(["topology.kubernetes.io/region", "region"]);
        let zone = label(["topology.kubernetes.io/zone", "zone"]).map(|zone| vec![zone.to_owned()]);
        let zones = Some(self.zones.clone()).filter(|zones| !zones.is_empty()).or(zone);
        let provider = label(["kurator.dev/provider", "provider"]);
        let spec = super::writer::member(cluster, "spec");
        let mut set = |field: &str, value: Option<Value>| {
            if let (Some(value), Some(map)) = (value, spec.as_object_mut()) {
                map.insert(field.to_owned(), value);
            }
        };
        set("id", Some(self.id.as_str().into()));
        // What nobody says here is left as somebody may have set it by hand.
        set("region", region.map(Value::from));
        set("zones", zones.map(Value::from));
        set("provider", provider.map(Value::from));
        if let Some(endpoint) = self.endpoint {
            let secret = |name: &str| json!({"namespace": CLUSTER_NAMESPACE, "name": name});
            let (Stands::Gateway(of) | Stands::Site(of)) = &self.stands;
            set("apiEndpoint", Some(format!("{}/clusters/{of}", endpoint.url).into()));
            set("secretRef", Some(secret(&endpoint.secret)));
            set("impersonatorSecretRef", Some(secret(&endpoint.impersonator)));
        }
        self.put_taints(cluster);
    }

    fn put_taints(&self, cluster: &mut Value) {
        let noted = cluster
            .pointer("/metadata/annotations")
            .and_then(|n| n.get(TAINTS)?.as_str());
        let before: Vec<Value> = noted
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        if before.is_empty() && self.taints.is_empty() {
            return;
        }
        let same = |a: &Value, b: &Value| a["key"] == b["key"] && a["effect"] == b["effect"];
        let own = |taint: &Value| before.iter().chain(&self.taints).any(|mine| same(mine, taint));
        let there = cluster["spec"]["taints"].as_array().cloned().unwrap_or_default();
        // One that stays keeps the time that the server noted on it.
        let kept = |taint: &Value| {
            there
                .iter()
                .find(|t| same(t, taint) && t["value"] == taint["value"])
                .cloned()
        };
        let mut all: Vec<Value> = there.iter().filter(|taint| !own(taint)).cloned().collect();
        all.extend(
            self.taints
                .iter()
                .map(|taint| kept(taint).unwrap_or_else(|| taint.clone())),
        );
        cluster["spec"]["taints"] = all.into();
        let note = (!self.taints.is_empty()).then(|| Value::from(self.taints.clone()).to_string());
        super::writer::put_or_remove(cluster, TAINTS, note);
    }
}

/// The whole status of a Cluster: what is there, with the gateway's report (when it is news) and the hub's word on the connection.
pub(crate) fn status(before: &Value, report: Option<&Map<String, Value>>, reach: Reach, now: &str) -> Value {
    let mut status = before.as_object().cloned().unwrap_or_default();
    if let Some(report) = report {
        for field in REPORTED {
            match report.get(field) {
                Some(value) => drop(status.insert(field.to_owned(), value.clone())),
                None => drop(status.remove(field)),
            }
        }
    }
    let mut conditions = match status.remove("conditions") {
        Some(Value::Array(all)) => all,
        _ => Vec::new(),
    };
    let ready = match reach {
        Reach::Yes => Some((
            "True",
            "ClusterReady",
            "cluster is healthy and ready to accept workloads",
        )),
        Reach::No => Some(("False", "ClusterNotReachable", "cluster is not reachable")),
        // The control plane's doubt is not the hub's: it holds the lease.
        Reach::Unsettled if is(&conditions, "Ready", "True") || is(&conditions, "Ready", "False") => None,
        Reach::Unsettled => Some(("False", "ClusterNotReachable", "cluster is not reachable")),
    };
    if let Some(ready) = ready {
        put(&mut conditions, "Ready", ready, now);
    }
    if status
        .get("apiEnablements")
        .and_then(Value::as_array)
        .is_some_and(|all| !all.is_empty())
    {
        let complete = ("True", "Complete", "collected complete APIEnablements from the cluster");
        put(&mut conditions, "CompleteAPIEnablements", complete, now);
    }
    status.insert("conditions".to_owned(), conditions.into());
    Value::Object(status)
}

fn is(conditions: &[Value], kind: &str, status: &str) -> bool {
    conditions.iter().any(|c| c["type"] == kind && c["status"] == status)
}

fn put(conditions: &mut Vec<Value>, kind: &str, (status, reason, message): (&str, &str, &str), now: &str) {
    let mut condition = json!({
        "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now,
    });
    match conditions.iter_mut().find(|c| c["type"] == kind) {
        Some(there) => {
            if there["status"] == status && there["lastTransitionTime"].is_string() {
                condition["lastTransitionTime"] = there["lastTransitionTime"].clone();
            }
            *there = condition;
        }
        None => conditions.push(condition),
    }
}

/// The report of a gateway that a Cluster's status was written from.
fn reported_of(status: &Value) -> Option<Value> {
    status.get("kubernetesVersion").filter(|v| v.is_string())?;
    let part = |field: &str| Some((field.to_owned(), status.get(field)?.clone()));
    Some(Value::Object(REPORTED.into_iter().filter_map(part).collect()))
}

/// The mark of a Cluster as the API has it.
pub(crate) fn mark(key: &str, entry: &ClusterEntry, object: &Value) -> Option<(Arc<str>, Hash)> {
    let report = reported_of(object.get("status")?)?;
    Some((
        Arc::clone(entry.stands.gateway()?),
        Body::new(key, canonical(&report)).hash,
    ))
}

/// Whether what stands above has made room for the cluster's Works.
pub(crate) fn is_taken_in(cluster: &Value) -> bool {
    let finalizers = cluster["metadata"]["finalizers"].as_array();
    finalizers.is_some_and(|all| all.iter().any(|f| f == CLUSTER_FINALIZER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(labels: &[(&str, &str)], taints: Value) -> Facts<'static> {
        Facts {
            stands: Stands::Gateway("gw-1".into()),
            zones: Vec::new(),
            id: "spiffe://example/node/gw-1".to_owned(),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect(),
            taints: taints.as_array().cloned().unwrap_or_default(),
            endpoint: None,
            hub: "this",
        }
    }

    #[test]
    fn a_cluster_says_where_its_gateway_is_and_takes_back_what_is_no_more() {
        let line = json!([{"key": "line", "value": "a", "effect": "NoSchedule"}]);
        let mut cluster = facts(&[("region", "east"), ("team", "x")], line.clone()).new_cluster("gw-1");
        assert_eq!(cluster["spec"]["region"], "east");
        assert_eq!(cluster["metadata"]["labels"], json!({"region": "east", "team": "x"}));
        assert_eq!(cluster["spec"]["taints"], line);
        let unreachable = json!({"key": "cluster.karmada.io/not-ready", "effect": "NoSchedule"});
        cluster["spec"]["taints"]
            .as_array_mut()
            .unwrap()
            .push(unreachable.clone());
        cluster["metadata"]["labels"]["by-hand"] = "y".into();
        let before = cluster.clone();
        facts(&[("region", "east"), ("team", "x")], line).put(&mut cluster);
        assert_eq!(cluster["metadata"], before["metadata"]);
        facts(&[("region", "west")], json!([])).put(&mut cluster);
        assert_eq!(cluster["metadata"]["labels"], json!({"region": "west", "by-hand": "y"}));
        assert_eq!(cluster["spec"]["taints"], json!([unreachable]));
        assert_eq!(cluster["spec"]["region"], "west");
    }

    #[test]
    fn readiness_is_the_gateways_and_doubt_is_taken_back() {
        let report = json!({"kubernetesVersion": "v1", "apiEnablements": [{"groupVersion": "v1", "resources": []}]});
        let first = status(&Value::Null, report.as_object(), Reach::Yes, "t1");
        assert_eq!(first["conditions"][0]["reason"], "ClusterReady");
        assert_eq!(first["conditions"][1]["reason"], "Complete");
        assert_eq!(
            status(&first, None, Reach::Yes, "t2"),
            first,
            "nothing new, nothing written"
        );
        assert_eq!(status(&first, None, Reach::Unsettled, "t2"), first);
        let gone = status(&first, None, Reach::No, "t3");
        assert_eq!(gone["conditions"][0]["reason"], "ClusterNotReachable");
        assert_eq!(gone["conditions"][0]["lastTransitionTime"], "t3");
        assert_eq!(gone["kubernetesVersion"], "v1", "what was known of it stays");
        let mut doubted = gone;
        doubted["conditions"][0]["status"] = "Unknown".into();
        assert_eq!(
            status(&doubted, None, Reach::Unsettled, "t4")["conditions"][0]["status"],
            "False"
        );
        assert_eq!(
            status(&doubted, None, Reach::Yes, "t4")["conditions"][0]["status"],
            "True"
        );
    }

    #[test]
    fn what_was_reported_is_read_back_as_it_came() {
        let report = json!({"kubernetesVersion": "v1", "nodeSummary": {"totalNum": 1}, "resourceSummary": {"allocatable": {"cpu": "4"}}});
        let status = status(
            &json!({"remedyActions": ["TrafficControl"]}),
            report.as_object(),
            Reach::Yes,
            "t",
        );
        assert_eq!(reported_of(&status), Some(report));
        assert_eq!(status["remedyActions"], json!(["TrafficControl"]));
        assert_eq!(reported_of(&json!({"conditions": []})), None);
    }
}
