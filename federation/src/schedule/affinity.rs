//! Which clusters and objects a condition holds for: names, labels, fields, taints. A condition that is not valid holds for none.

use std::collections::{BTreeMap, BTreeSet};

use super::ClusterView;
use crate::kinds::{ClusterAffinity, LabelSelector, SelectorRequirement, StaticClusterWeight, Taint, Toleration};

/// Whether an affinity holds for a cluster.
pub fn matches_cluster(affinity: &ClusterAffinity, cluster: &ClusterView<'_>) -> bool {
    let named = |names: &[String]| names.iter().any(|name| name == cluster.name);
    !named(&affinity.exclude)
        && (affinity.cluster_names.is_empty() || named(&affinity.cluster_names))
        && properties_match(affinity, cluster)
}

/// Whether a label selector holds for labels. An empty one holds for all.
pub fn matches_labels(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    selector
        .match_labels
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
        && selector
            .match_expressions
            .iter()
            .all(|requirement| holds(requirement, labels.get(&requirement.key).map(String::as_str)))
}

/// An affinity whose names are looked up rather than searched: a placement may name thousands of clusters.
pub(super) struct Affinity<'a> {
    affinity: &'a ClusterAffinity,
    names: BTreeSet<&'a str>,
    exclude: BTreeSet<&'a str>,
}

impl<'a> Affinity<'a> {
    pub(super) fn new(affinity: &'a ClusterAffinity) -> Self {
        let set = |names: &'a [String]| names.iter().map(String::as_str).collect();
        Self {
            affinity,
            names: set(&affinity.cluster_names),
            exclude: set(&affinity.exclude),
        }
    }

    pub(super) fn matches(&self, cluster: &ClusterView<'_>) -> bool {
        !self.exclude.contains(cluster.name)
            && (self.names.is_empty() || self.names.contains(cluster.name))
            && properties_match(self.affinity, cluster)
    }
}

/// A list of static weights. The largest that holds for a cluster counts.
pub(super) struct Weights<'a> {
    /// Of the rules that say nothing but names: there may be one for each cluster.
    by_name: BTreeMap<&'a str, i64>,
    others: Vec<(Affinity<'a>, i64)>,
}

impl<'a> Weights<'a> {
    pub(super) fn new(list: impl IntoIterator<Item = &'a StaticClusterWeight>) -> Self {
        let mut weights = Self {
            by_name: BTreeMap::new(),
            others: Vec::new(),
        };
        for rule in list {
            let target = &rule.target_cluster;
            let only_names = target.label_selector.is_none()
                && target.field_selector.is_none()
                && target.exclude.is_empty()
                && !target.cluster_names.is_empty();
            if !only_names {
                weights.others.push((Affinity::new(target), rule.weight));
                continue;
            }
            for name in &target.cluster_names {
                let known = weights.by_name.entry(name).or_default();
                *known = (*known).max(rule.weight);
            }
        }
        weights
    }

    /// The weight of a cluster; 0 where no rule holds for it.
    pub(super) fn of(&self, cluster: &ClusterView<'_>) -> i64 {
        let named = self.by_name.get(cluster.name).copied();
        let others = self.others.iter().filter(|(affinity, _)| affinity.matches(cluster));
        others.map(|(_, weight)| *weight).chain(named).max().unwrap_or(0).max(0)
    }
}

/// The taint that keeps new objects away from a cluster, where no toleration matches it.
pub(super) fn untolerated<'t>(taints: &'t [Taint], tolerations: &[Toleration]) -> Option<&'t Taint> {
    taints
        .iter()
        .filter(|taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute")
        .find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

/// A taint as it is written in messages: `key=value:effect`.
pub(super) fn shown(taint: &Taint) -> String {
    match (&*taint.value, &*taint.effect) {
        ("", "") => taint.key.clone(),
        ("", effect) => format!("{}:{effect}", taint.key),
        (value, effect) => format!("{}={value}:{effect}", taint.key),
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    (toleration.effect.is_empty() || toleration.effect == taint.effect)
        && (toleration.key.is_empty() || toleration.key == taint.key)
        && match &*toleration.operator {
            "" | "Equal" => toleration.value == taint.value,
            "Exists" => true,
            _ => false,
        }
}

fn properties_match(affinity: &ClusterAffinity, cluster: &ClusterView<'_>) -> bool {
    let labels = affinity
        .label_selector
        .as_ref()
        .is_none_or(|selector| matches_labels(selector, cluster.labels));
    let fields = affinity.field_selector.as_ref().is_none_or(|selector| {
        selector
            .match_expressions
            .iter()
            .all(|requirement| field_holds(requirement, cluster))
    });
    labels && fields
}

fn field_holds(requirement: &SelectorRequirement, cluster: &ClusterView<'_>) -> bool {
    let said = |value: &'_ str| !value.is_empty();
    match &*requirement.key {
        "zone" => zones_hold(requirement, cluster.zones),
        "provider" => holds(requirement, Some(cluster.provider).filter(|value| said(value))),
        "region" => holds(requirement, Some(cluster.region).filter(|value| said(value))),
        _ => holds(requirement, None),
    }
}

/// A cluster is in several zones: one of them is enough for In, and none may be among those of NotIn.
fn zones_hold(requirement: &SelectorRequirement, zones: &[String]) -> bool {
    let meets = || zones.iter().any(|zone| requirement.values.contains(zone));
    match &*requirement.operator {
        "In" => meets(),
        "NotIn" => !meets(),
        "Exists" => !zones.is_empty(),
        "DoesNotExist" => zones.is_empty(),
        _ => false,
    }
}

fn holds(requirement: &SelectorRequirement, value: Option<&str>) -> bool {
    let values = &requirement.values;
    let among = |value: &str| values.iter().any(|v| v == value);
    match &*requirement.operator {
        "In" => !values.is_empty() && value.is_some_and(among),
        "NotIn" => !values.is_empty() && !value.is_some_and(among),
        "Exists" => values.is_empty() && value.is_some(),
        "DoesNotExist" => values.is_empty() && value.is_none(),
        _ => false,
    }
}
