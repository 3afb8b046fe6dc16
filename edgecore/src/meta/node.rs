//! The gateway's own Node object: what it is, what runs on it, whether it is ready.
//!
//! What the machine is and how it stands comes as a report of the workloads; here it becomes the Node, over what others wrote in it.
//! Written when something in it really changed, never on a timer: a Node that says the same thing again costs flash wear here and bytes
//! on the link. That the gateway is alive is the session's business, not this object's.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use workloads::Report;

/// Taints that follow a condition: condition, whether it holds, key. They keep new pods away. None that would make running pods go: there
/// is no other node for them to go to.
const TAINTS: [(&str, bool, &str); 5] = [
    ("Ready", false, "node.kubernetes.io/not-ready"),
    ("MemoryPressure", true, "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", true, "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", true, "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", true, "node.kubernetes.io/network-unavailable"),
];
/// The taint of a Node that its operator closed.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// And what all of them do.
const EFFECT: &str = "NoSchedule";

/// Annotation: the names of the labels that the hub and the configuration asked for, so that one that they take back goes.
const GIVEN: &str = "kurator.dev/given-labels";

/// What the Node should say now.
#[derive(Clone, Debug)]
pub(crate) struct NodeState<'a> {
    pub(crate) name: &'a str,
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) report: &'a Report,
    /// Where the API that answers for this Node listens.
    pub(crate) port: u16,
    /// RFC 3339, for conditions that change now.
    pub(crate) now: &'a str,
}

impl NodeState<'_> {
    /// The object to write over `old`, or `None` when `old` says it all already. Foreign labels, annotations, taints, conditions and
    /// resources, times of conditions that did not change, and what the report does not say (yet) are kept.
    pub(crate) fn over(&self, old: Option<&Value>) -> Option<Value> {
        let mut node = old.cloned().unwrap_or_else(|| {
            json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": self.name,
                    "uid": uuid::Uuid::new_v4().to_string(),
                    "creationTimestamp": self.now,
                },
                "spec": {},
            })
        });
        let metadata = child(&mut node, "metadata");
        self.take_back(metadata);
        let labels = child(metadata, "labels");
        for (key, value) in self.own_labels() {
            labels[key] = value.into();
        }
        let status = child(&mut node, "status");
        for (field, value) in &self.report.status {
            match (field.as_str(), value) {
                ("capacity" | "allocatable", Value::Object(amounts)) => put_amounts(child(status, field), amounts),
                ("nodeInfo", Value::Object(info)) => {
                    let there = child(status, field);
                    // It may not be known yet which runtime it is.
                    let runtime = there
                        .get("containerRuntimeVersion")
                        .cloned()
                        .unwrap_or_else(|| "".into());
                    *there = Value::Object(info.clone());
                    if !info.contains_key("containerRuntimeVersion") {
                        there["containerRuntimeVersion"] = runtime;
                    }
                }
                (_, Value::Array(list)) if list.is_empty() => {
                    drop(status.as_object_mut().and_then(|s| s.remove(field)))
                }
                _ => status[field] = value.clone(),
            }
        }
        status["daemonEndpoints"] = json!({"kubeletEndpoint": {"Port": self.port}});
        let conditions = self.conditions(status.get("conditions"));
        status["conditions"] = conditions.into();
        let taints = taints(&node);
        let spec = child(&mut node, "spec");
        if taints.is_empty() {
            drop(spec.as_object_mut().and_then(|spec| spec.remove("taints")));
        } else {
            spec["taints"] = taints.into();
        }
        if let Some(cidr) = &self.report.pod_cidr
            && spec.get("podCIDR") != Some(&cidr.as_str().into())
        {
            spec["podCIDR"] = cidr.as_str().into();
            spec["podCIDRs"] = json!([cidr]);
        }
        (old != Some(&node)).then_some(node)
    }

    /// Takes off what was put there in somebody's name who does not ask for it any more.
    fn take_back(&self, metadata: &mut Value) {
        let now: Vec<&str> = self.labels.keys().map(String::as_str).collect();
        let now = now.join(",");
        let before = metadata["annotations"][GIVEN].as_str().unwrap_or_default().to_owned();
        if before == now {
            return;
        }
        if let Some(labels) = child(metadata, "labels").as_object_mut() {
            for key in before.split(',').filter(|key| !self.labels.contains_key(*key)) {
                labels.remove(key);
            }
        }
        child(metadata, "annotations")[GIVEN] = now.into();
    }

    fn own_labels(&self) -> BTreeMap<&str, &str> {
        let info = &self.report.status.get("nodeInfo");
        let arch = info.and_then(|info| info["architecture"].as_str()).unwrap_or_default();
        let os = std::env::consts::OS;
        let mut labels = BTreeMap::from([
            ("beta.kubernetes.io/arch", arch),
            ("beta.kubernetes.io/os", os),
            ("kubernetes.io/arch", arch),
            ("kubernetes.io/hostname", self.name),
            ("kubernetes.io/os", os),
            ("node-role.kubernetes.io/edge", ""),
        ]);
        labels.extend(self.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        labels
    }

    /// Others' conditions first, `Ready` last.
    fn conditions(&self, old: Option<&Value>) -> Vec<Value> {
        let old = old.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let reported = &self.report.conditions;
        let mut all: Vec<Value> = old
            .iter()
            .filter(|c| !reported.iter().any(|new| c["type"] == new.kind))
            .cloned()
            .collect();
        all.extend(reported.iter().map(|new| {
            let status = if new.holds { "True" } else { "False" };
            let since = old
                .iter()
                .find(|c| c["type"] == new.kind && c["status"] == status)
                .and_then(|c| c["lastTransitionTime"].as_str())
                .unwrap_or(self.now);
            json!({
                "type": new.kind, "status": status, "reason": new.reason, "message": new.message,
                "lastTransitionTime": since, "lastHeartbeatTime": since,
            })
        }));
        // What was reported once and is not this time still comes before it.
        all.sort_by_key(|c| c["type"] == "Ready");
        all
    }
}

/// Lays amounts over those that are there: extended resources are somebody else's, and how many pods there is room for may not be known yet.
fn put_amounts(there: &mut Value, amounts: &Map<String, Value>) {
    let foreign = |name: &str| name.contains('/') || name == "pods";
    let mut all = Map::from_iter([("pods".to_owned(), Value::from("0"))]);
    if let Value::Object(there) = &*there {
        all.extend(
            there
                .iter()
                .filter(|(name, _)| foreign(name))
                .map(|(n, v)| (n.clone(), v.clone())),
        );
    }
    all.extend(amounts.iter().map(|(n, v)| (n.clone(), v.clone())));
    *there = Value::Object(all);
}

/// The Node's taints: others' as they are, and those that its conditions ask for.
fn taints(node: &Value) -> Vec<Value> {
    let holds = |kind: &str| {
        let conditions = node["status"]["conditions"].as_array();
        let found = conditions.and_then(|all| all.iter().find(|c| c["type"] == kind));
        found.map(|c| c["status"] == "True")
    };
    let wanted = |key: &str| match TAINTS.iter().find(|(_, _, own)| *own == key) {
        Some((kind, when, _)) => Some(holds(kind) == Some(*when)),
        None if key == UNSCHEDULABLE => Some(node["spec"]["unschedulable"] == true),
        None => None,
    };
    let old = node["spec"]["taints"].as_array().map_or(&[][..], Vec::as_slice);
    let is = |taint: &Value, key: &str| taint["key"] == key && taint["effect"] == EFFECT;
    let mut all: Vec<Value> = old
        .iter()
        .filter(|taint| {
            let own = taint["effect"] == EFFECT;
            !own || taint["key"].as_str().and_then(wanted).unwrap_or(true)
        })
        .cloned()
        .collect();
    for key in TAINTS.iter().map(|(_, _, key)| *key).chain([UNSCHEDULABLE]) {
        if wanted(key) == Some(true) && !all.iter().any(|taint| is(taint, key)) {
            all.push(json!({"key": key, "effect": EFFECT}));
        }
    }
    all
}

/// The object under `key`, made when it is not there (or is something else).
fn child<'v>(value: &'v mut Value, key: &str) -> &'v mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let slot = &mut value[key];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot
}

#[cfg(test)]
mod tests {
    use workloads::Condition;

    use super::*;

    fn report(conditions: &[(&'static str, bool)]) -> Report {
        let status = json!({
            "capacity": {"cpu": "4", "pods": "110"},
            "allocatable": {"cpu": "4", "pods": "110"},
            "addresses": [{"type": "Hostname", "address": "press"}],
            "nodeInfo": {"architecture": "arm64"},
        });
        Report {
            status: status.as_object().unwrap().clone(),
            conditions: conditions
                .iter()
                .map(|(kind, holds)| Condition {
                    kind,
                    holds: *holds,
                    reason: "R",
                    message: "m".to_owned(),
                })
                .collect(),
            pod_cidr: Some("10.42.0.0/24".to_owned()),
        }
    }

    fn state<'a>(labels: &'a BTreeMap<String, String>, report: &'a Report, now: &'a str) -> NodeState<'a> {
        NodeState {
            name: "gw-1",
            labels,
            report,
            port: 10550,
            now,
        }
    }

    fn over(report: &Report, now: &str, old: Option<&Value>) -> Option<Value> {
        state(&BTreeMap::new(), report, now).over(old)
    }

    #[test]
    fn written_once_and_again_only_when_something_changed() {
        let report = report(&[("MemoryPressure", false), ("Ready", true)]);
        let mut labels = BTreeMap::from([("line".to_owned(), "press".to_owned())]);
        let first = state(&labels, &report, "2026-01-01T00:00:00Z").over(None).unwrap();
        assert_eq!(first["metadata"]["labels"]["line"], "press");
        assert_eq!(first["metadata"]["labels"]["kubernetes.io/arch"], "arm64");
        assert_eq!(first["status"]["conditions"][1]["type"], "Ready");
        assert_eq!(first["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10550);
        assert_eq!(first["spec"]["podCIDRs"], json!(["10.42.0.0/24"]));
        assert_eq!(state(&labels, &report, "2026-01-02T00:00:00Z").over(Some(&first)), None);

        labels.insert("line".to_owned(), "lathe".to_owned());
        let second = state(&labels, &report, "2026-01-03T00:00:00Z")
            .over(Some(&first))
            .unwrap();
        assert_eq!(second["metadata"]["labels"]["line"], "lathe");
        for time in ["lastTransitionTime", "lastHeartbeatTime"] {
            assert_eq!(second["status"]["conditions"][1][time], "2026-01-01T00:00:00Z");
        }
        assert_eq!(second["metadata"]["uid"], first["metadata"]["uid"]);
    }

    #[test]
    fn a_label_that_is_not_asked_for_any_more_goes() {
        let report = report(&[("Ready", true)]);
        let mut labels = BTreeMap::from([
            ("hall".to_owned(), "7".to_owned()),
            ("line".to_owned(), "press".to_owned()),
        ]);
        let mut node = state(&labels, &report, "x").over(None).unwrap();
        node["metadata"]["labels"]["team"] = "a".into();
        labels.remove("hall");
        let node = state(&labels, &report, "x").over(Some(&node)).unwrap();
        let left = &node["metadata"]["labels"];
        assert_eq!(
            (&left["hall"], &left["line"], &left["team"]),
            (&Value::Null, &"press".into(), &"a".into())
        );
        assert_eq!(left["kubernetes.io/arch"], "arm64");
        labels.clear();
        let node = state(&labels, &report, "x").over(Some(&node)).unwrap();
        assert_eq!(node["metadata"]["labels"]["line"], Value::Null);
        assert_eq!(state(&labels, &report, "x").over(Some(&node)), None);
    }

    #[test]
    fn what_others_wrote_is_kept() {
        let report = report(&[("Ready", true)]);
        let mut node = over(&report, "2026-01-01T00:00:00Z", None).unwrap();
        node["metadata"]["labels"]["team"] = "a".into();
        node["spec"]["taints"] = json!([{"key": "line", "effect": "NoExecute"}, {"key": "x", "effect": "NoSchedule"}]);
        node["status"]["capacity"]["example.com/dongle"] = "2".into();
        node["status"]["conditions"] =
            json!([{"type": "FrequentRestarts", "status": "False"}, node["status"]["conditions"][0]]);
        assert_eq!(over(&report, "x", Some(&node)), None);
    }

    #[test]
    fn what_is_not_known_yet_stays_as_it_was() {
        let mut known = report(&[("MemoryPressure", true), ("Ready", false)]);
        known.status["nodeInfo"]["containerRuntimeVersion"] = "containerd://1.6.20".into();
        known.status.insert("images".to_owned(), json!([{"names": ["a"]}]));
        let node = over(&known, "2026-01-01T00:00:00Z", None).unwrap();
        let mut start = report(&[]);
        for amounts in ["capacity", "allocatable"] {
            start.status[amounts].as_object_mut().unwrap().remove("pods");
        }
        start.pod_cidr = None;
        assert_eq!(
            over(&start, "x", Some(&node)),
            None,
            "an agent that starts says nothing new"
        );
        let fresh = over(&start, "x", None).unwrap();
        assert_eq!(fresh["status"]["allocatable"]["pods"], "0");
        assert_eq!(fresh["status"]["nodeInfo"]["containerRuntimeVersion"], "");

        start.status.insert("images".to_owned(), json!([]));
        assert_eq!(over(&start, "x", Some(&node)).unwrap()["status"].get("images"), None);
    }

    #[test]
    fn a_condition_that_changes_has_the_time_of_now_and_its_taint() {
        let node = over(&report(&[("Ready", true)]), "2026-01-01T00:00:00Z", None).unwrap();
        assert_eq!(node["spec"].get("taints"), None);
        let bad = report(&[("DiskPressure", true), ("Ready", false)]);
        let mut worse = over(&bad, "2026-01-02T00:00:00Z", Some(&node)).unwrap();
        assert_eq!(
            worse["status"]["conditions"][1]["lastTransitionTime"],
            "2026-01-02T00:00:00Z"
        );
        let keys = |node: &Value| -> Vec<String> {
            let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
            taints
                .iter()
                .map(|t| format!("{}:{}", t["key"].as_str().unwrap(), t["effect"].as_str().unwrap()))
                .collect()
        };
        let want = [
            "node.kubernetes.io/not-ready:NoSchedule",
            "node.kubernetes.io/disk-pressure:NoSchedule",
        ];
        assert_eq!(keys(&worse), want);
        worse["spec"]["unschedulable"] = true.into();
        let closed = over(&bad, "x", Some(&worse)).unwrap();
        assert_eq!(keys(&closed)[2], "node.kubernetes.io/unschedulable:NoSchedule");
        let mut well = over(&report(&[("DiskPressure", false), ("Ready", true)]), "x", Some(&closed)).unwrap();
        assert_eq!(keys(&well).len(), 1);
        well["spec"]["unschedulable"] = false.into();
        let open = over(&report(&[("DiskPressure", false), ("Ready", true)]), "x", Some(&well)).unwrap();
        assert_eq!(open["spec"].get("taints"), None);
    }
}
