//! Where a pod may be: what it says about nodes and about other pods, and what they say about it.

use serde_json::Value;

use super::super::look::{is_terminating, label, labels, list, name, namespace, pairs, selects, text, whole};
use super::room::World;

/// Whether a node is one that a pod may be on, by `nodeSelector` and required node affinity.
pub(in crate::controllers) fn wants_node(pod: &Value, node: &Value) -> bool {
    let selected = pairs(pod, "/spec/nodeSelector").all(|(k, v)| label(node, k) == v.as_str());
    let required = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    selected && pod.pointer(required).is_none_or(|wanted| matches_any(wanted, node))
}

/// Whether a `NodeSelector` selects a node: any of its terms.
pub(super) fn matches_any(selector: &Value, node: &Value) -> bool {
    list(selector, "/nodeSelectorTerms").iter().any(|term| {
        let (expressions, fields) = (list(term, "/matchExpressions"), list(term, "/matchFields"));
        let says_something = !expressions.is_empty() || !fields.is_empty();
        says_something
            && expressions.iter().all(|e| holds(e, label(node, text(e, "/key"))))
            && fields
                .iter()
                .all(|f| text(f, "/key") == "metadata.name" && holds(f, Some(name(node))))
    })
}

/// The one node that a pod names in all terms of its affinity is another one.
pub(super) fn names_other_nodes(pod: &Value, node: &Value) -> bool {
    let terms = list(
        pod,
        "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms",
    );
    let names = |term: &Value| {
        let named = list(term, "/matchFields")
            .iter()
            .find(|f| text(f, "/key") == "metadata.name" && text(f, "/operator") == "In");
        named.map(|f| list(f, "/values").iter().any(|v| v == name(node)))
    };
    !terms.is_empty() && terms.iter().all(|term| names(term) == Some(false))
}

fn holds(requirement: &Value, value: Option<&str>) -> bool {
    let values = list(requirement, "/values");
    let among = || values.iter().any(|v| v.as_str() == value);
    let compare = |greater: bool| {
        let wanted = values
            .first()
            .and_then(Value::as_str)
            .and_then(|v| v.parse::<i64>().ok());
        let have = value.and_then(|v| v.parse::<i64>().ok());
        matches!((have, wanted), (Some(have), Some(wanted)) if if greater { have > wanted } else { have < wanted })
    };
    match text(requirement, "/operator") {
        "In" => value.is_some() && among(),
        "NotIn" => value.is_none() || !among(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(true),
        "Lt" => compare(false),
        _ => false,
    }
}

const AFFINITY: &str = "/spec/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution";
const ANTI_AFFINITY: &str = "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution";

/// Why a pod may not be beside the pods that are on a node. True: it could be without some of them.
pub(super) fn beside<'p>(
    pod: &Value,
    node: &Value,
    others: impl Iterator<Item = &'p Value> + Clone,
    world: &dyn World,
) -> Result<(), (&'static str, bool)> {
    let near = list(pod, AFFINITY);
    if !near.is_empty() {
        let all = |other: &Value| near.iter().all(|term| concerns(term, pod, other, world));
        let labelled = near
            .iter()
            .all(|term| label(node, text(term, "/topologyKey")).is_some());
        // The first of a group that wants to be together has nobody to be with.
        let first = || !others.clone().any(all) && all(pod);
        if !labelled || !(others.clone().any(all) || first()) {
            return Err(("node(s) didn't match pod affinity rules", false));
        }
    }
    let apart = |of: &Value, from: &Value| {
        list(of, ANTI_AFFINITY)
            .iter()
            .any(|term| label(node, text(term, "/topologyKey")).is_some() && concerns(term, of, from, world))
    };
    if others.clone().any(|other| apart(pod, other)) {
        return Err(("node(s) didn't match pod anti-affinity rules", true));
    }
    if others.clone().any(|other| apart(other, pod)) {
        return Err(("node(s) didn't satisfy existing pods anti-affinity rules", true));
    }
    Ok(())
}

/// Whether a term of one pod is about another.
fn concerns(term: &Value, of: &Value, other: &Value, world: &dyn World) -> bool {
    let (named, by_label) = (list(term, "/namespaces"), term.get("namespaceSelector"));
    let there = namespace(other);
    let mut in_namespace = named.iter().any(|n| n == there);
    if let Some(selector) = by_label.filter(|s| !s.is_null()) {
        in_namespace = in_namespace
            || world
                .namespace(there)
                .is_some_and(|n| selects(selector, Some(labels(&n).unwrap_or(&Value::Null))));
    } else if named.is_empty() {
        in_namespace = there == namespace(of);
    }
    in_namespace && term.get("labelSelector").is_some_and(|s| selects(s, labels(other)))
}

/// Why a pod's wish to be spread forbids a node, where that node is all there is to spread over. True: fewer pods would help.
pub(super) fn spread<'p>(
    pod: &Value,
    node: &Value,
    others: impl Iterator<Item = &'p Value> + Clone,
) -> Result<(), (&'static str, bool)> {
    for constraint in list(pod, "/spec/topologySpreadConstraints") {
        if text(constraint, "/whenUnsatisfiable") == "ScheduleAnyway" {
            continue;
        }
        if label(node, text(constraint, "/topologyKey")).is_none() {
            let why = "node(s) didn't match pod topology spread constraints (missing required label)";
            return Err((why, false));
        }
        let selector = constraint.get("labelSelector").unwrap_or(&Value::Null);
        let same = |other: &Value| {
            let by_key = list(constraint, "/matchLabelKeys").iter().all(|key| {
                let key = key.as_str().unwrap_or_default();
                label(pod, key).is_none_or(|v| label(other, key) == Some(v))
            });
            by_key && namespace(other) == namespace(pod) && selects(selector, labels(other))
        };
        // With one place, that place is also the emptiest, unless there must be more places.
        let few = whole(constraint, "/minDomains").is_some_and(|d| d > 1);
        let there = others.clone().filter(|o| !is_terminating(o) && same(o)).count();
        let emptiest = if few { 0 } else { there };
        let skew = there + usize::from(same(pod)) - emptiest;
        let most = whole(constraint, "/maxSkew").and_then(|s| usize::try_from(s).ok());
        if skew > most.unwrap_or(1) {
            return Err(("node(s) didn't match pod topology spread constraints", true));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn node_affinity_has_all_operators() {
        let node = json!({"metadata": {"name": "press-01", "labels": {"zone": "a", "cores": "8"}}});
        let pod = |expressions: Value, fields: Value| {
            json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": expressions, "matchFields": fields}]}}}}})
        };
        for (key, operator, values, holds) in [
            ("zone", "In", json!(["a", "b"]), true),
            ("zone", "In", json!(["b"]), false),
            ("zone", "NotIn", json!(["b"]), true),
            ("none", "NotIn", json!(["b"]), true),
            ("zone", "Exists", json!([]), true),
            ("none", "Exists", json!([]), false),
            ("none", "DoesNotExist", json!([]), true),
            ("cores", "Gt", json!(["7"]), true),
            ("cores", "Gt", json!(["8"]), false),
            ("cores", "Lt", json!(["9"]), true),
            ("zone", "Lt", json!(["9"]), false),
        ] {
            let wanted = pod(json!([{"key": key, "operator": operator, "values": values}]), json!([]));
            assert_eq!(wants_node(&wanted, &node), holds, "{wanted}");
        }
        let field = |name: &str| json!([{"key": "metadata.name", "operator": "In", "values": [name]}]);
        assert!(wants_node(&pod(json!([]), field("press-01")), &node));
        assert!(!wants_node(&pod(json!([]), field("press-02")), &node));
        assert!(names_other_nodes(&pod(json!([]), field("press-02")), &node));
        assert!(
            !wants_node(&pod(json!([]), json!([])), &node),
            "an empty term selects nothing"
        );
        let selector = |zone: &str| json!({"spec": {"nodeSelector": {"zone": zone}}});
        assert!(wants_node(&selector("a"), &node) && !wants_node(&selector("b"), &node));
    }
}
