//! What Karmada's webhook refuses in policies.

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::kinds::{
    ApplicationFailover, ClusterAffinity, ClusterAffinityGroup, DivisionPreference, FieldPatch, FieldSelector,
    OverrideRule, OverrideSpec, OverriderOperator, Overriders, Placement, Preemption, PropagationSpec, PurgeMode,
    ReplicaSchedulingType, ResourceSelector, SpreadConstraint, SpreadField, StatePreservation,
};

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The field.
    pub path: String,
    /// What is wrong with it, or what to do.
    pub message: String,
}

struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, path: &str, message: impl Into<String>) {
        self.0.push(Fault {
            path: path.to_owned(),
            message: message.into(),
        });
    }
}

/// Checks a policy of any of the four kinds, with its defaults filled in. Another kind has no faults.
pub fn validate(policy: &Value) -> Vec<Fault> {
    let mut faults = Faults(Vec::new());
    let namespace = policy["metadata"]["namespace"].as_str().unwrap_or_default();
    match policy["kind"].as_str() {
        Some("PropagationPolicy") => typed(policy, &mut faults, |spec, f| propagation(spec, Some(namespace), f)),
        Some("ClusterPropagationPolicy") => typed(policy, &mut faults, |spec, f| propagation(spec, None, f)),
        Some("OverridePolicy") => typed(policy, &mut faults, |spec, f| overrides(spec, Some(namespace), f)),
        Some("ClusterOverridePolicy") => typed(policy, &mut faults, |spec, f| overrides(spec, None, f)),
        _ => {}
    }
    faults.0
}

/// Checks what a change of a PropagationPolicy or ClusterPropagationPolicy must leave as it is.
pub fn validate_update(old: &Value, new: &Value) -> Vec<Fault> {
    let mut faults = Faults(Vec::new());
    if old["spec"]["schedulerName"] != new["spec"]["schedulerName"] {
        faults.add("spec.schedulerName", "cannot be changed");
    }
    for label in [crate::names::POLICY_ID, crate::names::CLUSTER_POLICY_ID] {
        if old["metadata"]["labels"][label] != new["metadata"]["labels"][label] {
            faults.add(
                &format!("metadata.labels[{label}]"),
                "cannot be changed: objects know the policy by it",
            );
        }
    }
    faults.0
}

fn typed<T: DeserializeOwned>(policy: &Value, faults: &mut Faults, check: impl FnOnce(&T, &mut Faults)) {
    match serde_json::from_value(policy["spec"].clone()) {
        Ok(spec) => check(&spec, faults),
        Err(e) => faults.add("spec", e.to_string()),
    }
}

fn propagation(spec: &PropagationSpec, namespace: Option<&str>, faults: &mut Faults) {
    if let Some(placement) = &spec.placement {
        self::placement(placement, faults);
    }
    if let Some(failover) = &spec.failover {
        if let Some(application) = &failover.application {
            if spec.propagate_deps != Some(true) {
                faults.add(
                    "spec.propagateDeps",
                    "must be true beside failover.application: what an application needs moves with it",
                );
            }
            application_failover(application, faults);
        }
        let cluster = failover
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.state_preservation.as_ref());
        preservation(cluster, "spec.failover.cluster", faults);
    }
    if spec.resource_selectors.is_empty() {
        faults.add("spec.resourceSelectors", "must select something");
    }
    selectors(&spec.resource_selectors, namespace, faults);
    if spec.preemption == Some(Preemption::Always) {
        for (index, selector) in spec.resource_selectors.iter().enumerate() {
            if selector.name.is_empty() {
                let path = format!("spec.resourceSelectors[{index}].name");
                faults.add(&path, "must be given with preemption Always, or objects that nobody thought of are taken from other policies");
            }
        }
    }
    if let Some(suspension) = &spec.suspension {
        let some = suspension
            .dispatching_on_clusters
            .as_ref()
            .is_some_and(|c| !c.cluster_names.is_empty());
        if suspension.dispatching == Some(true) && some {
            faults.add(
                "spec.suspension",
                "dispatching: true already means all clusters; leave dispatchingOnClusters out, or dispatching",
            );
        }
    }
}

fn selectors(selectors: &[ResourceSelector], namespace: Option<&str>, faults: &mut Faults) {
    let Some(namespace) = namespace else {
        return;
    };
    for (index, selector) in selectors.iter().enumerate() {
        if selector.namespace != namespace {
            let path = format!("spec.resourceSelectors[{index}].namespace");
            faults.add(
                &path,
                format!("must be that of the policy, {namespace:?}; use a policy of the cluster for others"),
            );
        }
    }
}

fn placement(placement: &Placement, faults: &mut Faults) {
    let path = "spec.placement";
    if placement.cluster_affinity.is_some() && !placement.cluster_affinities.is_empty() {
        faults.add(path, "clusterAffinity and clusterAffinities cannot both be given");
    }
    if let Some(affinity) = &placement.cluster_affinity {
        cluster_affinity(affinity, "spec.placement.clusterAffinity", faults);
    }
    groups(placement, faults);
    spread(&placement.spread_constraints, faults);
    if let Some(workload) = &placement.workload_affinity {
        let path = "spec.placement.workloadAffinity";
        let both = [
            ("affinity", &workload.affinity),
            ("antiAffinity", &workload.anti_affinity),
        ];
        for (field, term) in both {
            if let Some(term) = term {
                label_key(
                    &term.group_by_label_key,
                    &format!("{path}.{field}.groupByLabelKey"),
                    faults,
                );
            }
        }
        if workload.affinity.is_some() && workload.affinity == workload.anti_affinity {
            faults.add(path, "affinity and antiAffinity must not have the same groupByLabelKey");
        }
    }
    for (index, toleration) in placement.cluster_tolerations.iter().enumerate() {
        if !matches!(&*toleration.operator, "" | "Exists" | "Equal") {
            faults.add(
                &format!("{path}.clusterTolerations[{index}].operator"),
                "must be Exists or Equal",
            );
        }
    }
}

/// Overflow is for want of room, so only the strategies that look at room have it.
fn looks_at_room(placement: &Placement) -> bool {
    placement.replica_scheduling.as_ref().is_some_and(|scheduling| {
        let dynamic = scheduling
            .weight_preference
            .as_ref()
            .is_some_and(|p| p.dynamic_weight.is_some());
        scheduling.replica_scheduling_type != Some(ReplicaSchedulingType::Duplicated)
            && match scheduling.replica_division_preference {
                Some(DivisionPreference::Aggregated) => true,
                Some(DivisionPreference::Weighted) | None => dynamic,
            }
    })
}

fn groups(placement: &Placement, faults: &mut Faults) {
    let mut names = BTreeSet::new();
    for (index, group) in placement.cluster_affinities.iter().enumerate() {
        let path = format!("spec.placement.clusterAffinities[{index}]");
        let name = format!("{path}.affinityName");
        label_key(&group.affinity_name, &name, faults);
        if !names.insert(&group.affinity_name) {
            faults.add(
                &name,
                format!("{:?} is the name of an earlier group already", group.affinity_name),
            );
        }
        cluster_affinity(&group.affinity, &path, faults);
        overflow(group, looks_at_room(placement), &path, faults);
    }
}

fn overflow(group: &ClusterAffinityGroup, possible: bool, path: &str, faults: &mut Faults) {
    if group.overflow_affinities.is_empty() {
        return;
    }
    let path = format!("{path}.overflowAffinities");
    if !possible {
        faults.add(
            &path,
            "needs replicaScheduling Divided with Aggregated or dynamicWeight: only those look at room",
        );
    }
    if group.affinity == ClusterAffinity::default() {
        faults.add(
            &path,
            "has no use beside a group of all clusters; say which clusters are in the group",
        );
    }
    let mut names = BTreeSet::from([&group.affinity_name]);
    for (index, affinity) in group.overflow_affinities.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let name = format!("{path}.affinityName");
        label_key(&affinity.affinity_name, &name, faults);
        if !names.insert(&affinity.affinity_name) {
            faults.add(
                &name,
                format!(
                    "{:?} is the name of the group or of an earlier overflow already",
                    affinity.affinity_name
                ),
            );
        }
        cluster_affinity(&affinity.affinity, &path, faults);
    }
}

fn cluster_affinity(affinity: &ClusterAffinity, path: &str, faults: &mut Faults) {
    let none = FieldSelector::default();
    let selector = affinity.field_selector.as_ref().unwrap_or(&none);
    for (index, requirement) in selector.match_expressions.iter().enumerate() {
        let path = format!("{path}.fieldSelector.matchExpressions[{index}]");
        if !matches!(&*requirement.key, "provider" | "region" | "zone") {
            faults.add(&format!("{path}.key"), "must be provider, region or zone");
        }
        if !matches!(&*requirement.operator, "In" | "NotIn") {
            faults.add(&format!("{path}.operator"), "must be In or NotIn");
        }
    }
}

fn spread(constraints: &[SpreadConstraint], faults: &mut Faults) {
    let path = "spec.placement.spreadConstraints";
    let mut fields: Vec<SpreadField> = Vec::new();
    for (index, constraint) in constraints.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let (min, max) = (constraint.min_groups.unwrap_or(0), constraint.max_groups.unwrap_or(0));
        if constraint.spread_by_field.is_some() && !constraint.spread_by_label.is_empty() {
            faults.add(&path, "spreadByField and spreadByLabel cannot both be given");
        }
        for (field, bound) in [("minGroups", min), ("maxGroups", max)] {
            if bound < 0 {
                faults.add(&format!("{path}.{field}"), "must not be below 0");
            }
        }
        if max > 0 && max < min {
            faults.add(&format!("{path}.maxGroups"), "must not be below minGroups");
        }
        if let Some(field) = constraint.spread_by_field {
            if fields.contains(&field) {
                faults.add(
                    &format!("{path}.spreadByField"),
                    "is that of an earlier constraint already",
                );
            }
            fields.push(field);
        }
    }
    if !fields.is_empty() && !fields.contains(&SpreadField::Cluster) {
        faults.add(
            path,
            "must have one with spreadByField cluster too, which says how many clusters there are",
        );
    }
}

fn application_failover(failover: &ApplicationFailover, faults: &mut Faults) {
    let path = "spec.failover.application";
    let grace = format!("{path}.gracePeriodSeconds");
    if failover
        .decision_conditions
        .toleration_seconds
        .is_some_and(|seconds| seconds < 0)
    {
        faults.add(
            &format!("{path}.decisionConditions.tolerationSeconds"),
            "must not be below 0",
        );
    }
    match (failover.purge_mode, failover.grace_period_seconds) {
        (Some(PurgeMode::Gracefully), None) => faults.add(&grace, "must be given with purgeMode Gracefully"),
        (Some(PurgeMode::Gracefully), Some(seconds)) if seconds <= 0 => faults.add(&grace, "must be above 0"),
        (mode, Some(_)) if mode != Some(PurgeMode::Gracefully) => {
            faults.add(&grace, "has a meaning with purgeMode Gracefully only");
        }
        _ => {}
    }
    preservation(failover.state_preservation.as_ref(), path, faults);
}

fn preservation(preservation: Option<&StatePreservation>, path: &str, faults: &mut Faults) {
    for (index, rule) in preservation.into_iter().flat_map(|p| &p.rules).enumerate() {
        label_key(
            &rule.alias_label_name,
            &format!("{path}.statePreservation.rules[{index}].aliasLabelName"),
            faults,
        );
    }
}

fn overrides(spec: &OverrideSpec, namespace: Option<&str>, faults: &mut Faults) {
    if let Some(target) = &spec.target_cluster {
        cluster_affinity(target, "spec.targetCluster", faults);
    }
    if !spec.override_rules.is_empty() {
        if spec.target_cluster.is_some() {
            faults.add(
                "spec.targetCluster",
                "cannot be given beside overrideRules; move it into a rule",
            );
        }
        if spec
            .overriders
            .as_ref()
            .is_some_and(|overriders| *overriders != Overriders::default())
        {
            faults.add(
                "spec.overriders",
                "cannot be given beside overrideRules; move them into a rule",
            );
        }
    }
    for (index, rule) in spec.override_rules.iter().enumerate() {
        override_rule(rule, &format!("spec.overrideRules[{index}]"), faults);
    }
    selectors(&spec.resource_selectors, namespace, faults);
}

fn override_rule(rule: &OverrideRule, path: &str, faults: &mut Faults) {
    let overriders = &rule.overriders;
    if let Some(target) = &rule.target_cluster {
        cluster_affinity(target, &format!("{path}.targetCluster"), faults);
    }
    let path = format!("{path}.overriders");
    for (index, overrider) in overriders.labels_overrider.iter().enumerate() {
        for (key, value) in &overrider.value {
            let path = format!("{path}.labelsOverrider[{index}].value[{key}]");
            label_key(key, &path, faults);
            if !is_label_value(value) {
                faults.add(&path, "must be at most 63 letters, digits, dashes, underscores and dots, with a letter or digit at both ends");
            }
        }
    }
    for (index, overrider) in overriders.annotations_overrider.iter().enumerate() {
        for key in overrider.value.keys() {
            // Keys of annotations may have capitals before the slash.
            label_key(
                &key.to_ascii_lowercase(),
                &format!("{path}.annotationsOverrider[{index}].value[{key}]"),
                faults,
            );
        }
    }
    for (index, overrider) in overriders.image_overrider.iter().enumerate() {
        if let Some(predicate) = &overrider.predicate {
            pointer(
                &predicate.path,
                &format!("{path}.imageOverrider[{index}].predicate.path"),
                faults,
            );
        }
    }
    for (index, overrider) in overriders.field_overrider.iter().enumerate() {
        let path = format!("{path}.fieldOverrider[{index}]");
        if overrider.json.is_empty() == overrider.yaml.is_empty() {
            faults.add(&path, "must have either json or yaml");
        }
        pointer(&overrider.field_path, &format!("{path}.fieldPath"), faults);
        patches(&overrider.json, &format!("{path}.json"), faults);
        patches(&overrider.yaml, &format!("{path}.yaml"), faults);
    }
}

fn patches(patches: &[FieldPatch], path: &str, faults: &mut Faults) {
    for (index, patch) in patches.iter().enumerate() {
        pointer(&patch.sub_path, &format!("{path}[{index}].subPath"), faults);
        let value = format!("{path}[{index}].value");
        match (patch.operator, &patch.value) {
            (OverriderOperator::Remove, Some(_)) => faults.add(&value, "must not be given with the operator remove"),
            (OverriderOperator::Add | OverriderOperator::Replace, None) => {
                faults.add(&value, "must be given with the operators add and replace");
            }
            _ => {}
        }
    }
}

fn pointer(pointer: &str, path: &str, faults: &mut Faults) {
    if !pointer.is_empty() && !pointer.starts_with('/') {
        faults.add(path, "must begin with a slash");
    }
}

fn label_key(key: &str, path: &str, faults: &mut Faults) {
    if !is_label_key(key) {
        let message = "must be a name of at most 63 letters, digits, dashes, underscores and dots, with a letter or digit at both ends, \
                       and may have a domain and a slash before it";
        faults.add(path, message);
    }
}

const LONGEST_NAME: usize = 63;

fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((domain, name)) => is_domain(domain) && is_name(name),
        None => is_name(key),
    }
}

fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_name(value)
}

fn is_name(name: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    bytes.len() <= LONGEST_NAME
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn is_domain(domain: &str) -> bool {
    const LONGEST: usize = 253;
    let part = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    domain.len() <= LONGEST
        && domain.split('.').map(str::as_bytes).all(|label| {
            label.first().is_some_and(part)
                && label.last().is_some_and(part)
                && label.iter().all(|b| part(b) || *b == b'-')
        })
}
