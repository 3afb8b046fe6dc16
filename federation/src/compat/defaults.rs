//! What Karmada's definitions and webhook fill into policies.

use serde_json::{Map, Value, json};

use super::member;

/// Fills in what a policy leaves out. The permanent id and the finalizers of a new policy are not defaults: who stores it gives them.
///
/// In its own namespace a policy selects by default. Of PropagationPolicy and ClusterPropagationPolicy also the priority, preemption,
/// scheduler, resolution of conflicts, the kind of scheduling, the bounds of spread constraints, and the times of failover.
pub fn fill_defaults(policy: &mut Value) {
    let kind = policy["kind"].as_str().unwrap_or_default().to_owned();
    if matches!(&*kind, "PropagationPolicy" | "OverridePolicy") {
        own_namespace(policy);
    }
    if !matches!(&*kind, "PropagationPolicy" | "ClusterPropagationPolicy") {
        return;
    }
    let Some(spec) = member(policy, &["spec"]) else {
        return;
    };
    let imports = spec
        .get("resourceSelectors")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .any(|s| s["kind"] == "ServiceImport" && s["apiVersion"] == "multicluster.x-k8s.io/v1alpha1");
    // An imported service is nothing without its endpoints.
    if imports {
        spec.insert("propagateDeps".to_owned(), json!(true));
    }
    fill(spec, "priority", json!(0));
    fill(spec, "preemption", json!("Never"));
    fill(spec, "schedulerName", json!("default-scheduler"));
    fill(spec, "conflictResolution", json!("Abort"));
    if let Some(scheduling) = member(policy, &["spec", "placement", "replicaScheduling"]) {
        fill(scheduling, "replicaSchedulingType", json!("Divided"));
        if scheduling["replicaSchedulingType"] == "Divided" {
            fill(scheduling, "replicaDivisionPreference", json!("Weighted"));
        }
    }
    spread(policy);
    failover(policy);
}

fn own_namespace(policy: &mut Value) {
    let Some(namespace) = policy["metadata"]["namespace"].as_str().map(str::to_owned) else {
        return;
    };
    let Some(spec) = member(policy, &["spec"]) else {
        return;
    };
    let selectors = spec.get_mut("resourceSelectors").and_then(Value::as_array_mut);
    for selector in selectors.into_iter().flatten().filter_map(Value::as_object_mut) {
        fill(selector, "namespace", json!(namespace));
    }
}

fn spread(policy: &mut Value) {
    let Some(placement) = member(policy, &["spec", "placement"]) else {
        return;
    };
    let constraints = placement.get_mut("spreadConstraints").and_then(Value::as_array_mut);
    for constraint in constraints.into_iter().flatten().filter_map(Value::as_object_mut) {
        if absent(constraint, "spreadByLabel") {
            fill(constraint, "spreadByField", json!("cluster"));
        }
        if constraint.get("minGroups").and_then(Value::as_i64) == Some(0) {
            constraint.remove("minGroups");
        }
        fill(constraint, "minGroups", json!(1));
    }
}

fn failover(policy: &mut Value) {
    if let Some(application) = member(policy, &["spec", "failover", "application"]) {
        fill(application, "purgeMode", json!("Gracefully"));
        if application["purgeMode"] == "Gracefully" {
            fill(application, "gracePeriodSeconds", json!(600));
        }
    }
    if let Some(conditions) = member(policy, &["spec", "failover", "application", "decisionConditions"]) {
        fill(conditions, "tolerationSeconds", json!(300));
    }
    if let Some(cluster) = member(policy, &["spec", "failover", "cluster"]) {
        fill(cluster, "purgeMode", json!("Gracefully"));
    }
}

/// Nothing, null and the empty text are no value.
fn absent(object: &Map<String, Value>, field: &str) -> bool {
    object.get(field).is_none_or(|value| value.is_null() || value == "")
}

fn fill(object: &mut Map<String, Value>, field: &str, value: Value) {
    if absent(object, field) {
        object.insert(field.to_owned(), value);
    }
}
