//! Which objects a policy selects, and which policy gets an object that several select.

use std::collections::BTreeMap;

use serde_json::Value;

use super::matches_labels;
use crate::kinds::{LabelSelector, ResourceSelector};

/// How precisely a selector says which objects it means; the later is the more precise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precision {
    /// All of a kind.
    All,
    /// By labels.
    Labels,
    /// By name.
    Name,
}

/// A policy that may claim an object. Of one that is being deleted none is made.
#[derive(Clone, Copy, Debug)]
pub struct Claimant<'p> {
    /// Its namespace; none: a ClusterPropagationPolicy.
    pub namespace: Option<&'p str>,
    /// Its name.
    pub name: &'p str,
    /// Its priority; 0 where it says none.
    pub priority: i64,
    /// What it selects.
    pub selectors: &'p [ResourceSelector],
}

/// Whether a selector means an object, and how precisely. Where it has a name, its labels do not count.
pub fn matches(selector: &ResourceSelector, object: &Value) -> Option<Precision> {
    let meta = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
    let same = object["apiVersion"].as_str() == Some(&selector.api_version)
        && object["kind"].as_str() == Some(&selector.kind)
        && (selector.namespace.is_empty() || selector.namespace == meta("namespace"));
    if !same {
        return None;
    }
    if !selector.name.is_empty() {
        return (selector.name == meta("name")).then_some(Precision::Name);
    }
    match &selector.label_selector {
        None => Some(Precision::All),
        Some(selector) => labels_match(selector, object).then_some(Precision::Labels),
    }
}

/// The most precise of several selectors.
pub fn precision(selectors: &[ResourceSelector], object: &Value) -> Option<Precision> {
    selectors.iter().filter_map(|selector| matches(selector, object)).max()
}

/// The policy that gets an object: one of its namespace before one of the cluster, then the higher priority, then the more precise, then
/// the name that comes first. Whether it may take the object from a policy that has it already is another question: see preemption.
pub fn claims<'c, 'p>(policies: &'c [Claimant<'p>], object: &Value) -> Option<&'c Claimant<'p>> {
    let namespace = object["metadata"]["namespace"].as_str().filter(|name| !name.is_empty());
    policies
        .iter()
        .filter(|policy| policy.namespace.is_none() || policy.namespace == namespace)
        .filter_map(|policy| Some((policy, precision(policy.selectors, object)?)))
        .max_by(|(a, precise), (b, other)| {
            (a.namespace.is_some(), a.priority, precise)
                .cmp(&(b.namespace.is_some(), b.priority, other))
                .then(b.name.cmp(a.name))
        })
        .map(|(policy, _)| policy)
}

fn labels_match(selector: &LabelSelector, object: &Value) -> bool {
    let labels: BTreeMap<String, String> = match &object["metadata"]["labels"] {
        Value::Object(map) => map
            .iter()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
        _ => BTreeMap::new(),
    };
    matches_labels(selector, &labels)
}
