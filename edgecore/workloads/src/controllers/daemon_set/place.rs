//! Which nodes a DaemonSet's pods belong on, and how a pod says that it is for one of them.

use serde_json::{Value, json};

use crate::controllers::scheduler::{tolerates, wants_node};
use crate::controllers::shared::{list, name, text};

/// What a node thinks of a set's pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    /// One is to run there.
    pub(super) runs: bool,
    /// One that is there may stay.
    pub(super) stays: bool,
}

/// What every pod of a DaemonSet bears with, by key and effect. The last one is for pods in the machine's own network.
const TOLERATED: [(&str, &str); 7] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ("node.kubernetes.io/network-unavailable", "NoSchedule"),
];

/// What a node thinks of pods of the set's template.
pub(super) fn fit(set: &Value, node: &Value) -> Fit {
    let mut pod = json!({"spec": set["spec"]["template"]["spec"]});
    tolerate(&mut pod);
    let named = text(&pod, "/spec/nodeName");
    if !(named.is_empty() || named == name(node)) || !wants_node(&pod, node) {
        return Fit {
            runs: false,
            stays: false,
        };
    }
    let kept_off = |effects: &[&str]| {
        let mut taints = list(node, "/spec/taints").iter();
        taints.any(|taint| effects.contains(&text(taint, "/effect")) && !tolerates(&pod, taint))
    };
    Fit {
        runs: !kept_off(&["NoSchedule", "NoExecute"]),
        stays: !kept_off(&["NoExecute"]),
    }
}

/// Adds what every pod of a DaemonSet bears with.
pub(super) fn tolerate(pod: &mut Value) {
    let mut tolerations = list(pod, "/spec/tolerations").to_vec();
    let count = if pod["spec"]["hostNetwork"] == true { 7 } else { 6 };
    for (key, effect) in &TOLERATED[..count] {
        let toleration = json!({"key": key, "operator": "Exists", "effect": effect});
        let same = |t: &Value| {
            ["key", "operator", "effect"]
                .iter()
                .all(|field| t[field] == toleration[field])
                && text(t, "/value").is_empty()
        };
        match tolerations.iter_mut().find(|t| same(t)) {
            Some(there) => *there = toleration,
            None => tolerations.push(toleration),
        }
    }
    pod["spec"]["tolerations"] = tolerations.into();
}

/// Makes a pod one for a node of this name.
pub(super) fn pin(pod: &mut Value, node: &str) {
    let field = json!({"key": "metadata.name", "operator": "In", "values": [node]});
    let required = &mut pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    *required = json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
}

/// Name of the node that a pod is on, or for.
pub(super) fn target(pod: &Value) -> Option<&str> {
    let on = text(pod, "/spec/nodeName");
    if !on.is_empty() {
        return Some(on);
    }
    let terms = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let fields = list(pod, terms).iter().flat_map(|term| list(term, "/matchFields"));
    let mut named = fields.filter(|f| f["key"] == "metadata.name" && f["operator"] == "In");
    named.find_map(|f| list(f, "/values").first()?.as_str())
}
