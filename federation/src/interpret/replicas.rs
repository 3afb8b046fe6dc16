//! How many pods a workload wants, and what each of them asks for.

use std::collections::BTreeMap;

use serde_json::Value;

use super::kind::Kind;
use super::look::{list, map, map_made, text};
use super::resources::{counted, unit};

/// What a workload wants of clusters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Replicas {
    /// How many pods at a time; never below zero.
    pub count: i64,
    /// What one of them asks for, in canonical quantities; what nothing is asked of is missing.
    pub requests: BTreeMap<String, String>,
    /// The labels that a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// The `nodeSelector` of a required node affinity, as it stands in the pod.
    pub node_affinity: Option<Value>,
    /// The pod's tolerations, as they stand there.
    pub tolerations: Vec<Value>,
    /// The pod's priority class; empty without one.
    pub priority_class: String,
    /// Where the workload is.
    pub namespace: String,
}

/// What the workload wants; nothing for kinds that are not divided among clusters by their pods.
pub fn replicas(object: &Value) -> Option<Replicas> {
    let kind = Kind::of(object)?;
    let count = match kind {
        Kind::Deployment | Kind::ReplicaSet | Kind::StatefulSet => wanted(object, "/spec/replicas").unwrap_or(1),
        Kind::Job => {
            let parallel = wanted(object, "/spec/parallelism").unwrap_or(1);
            // More than are still to be done never run at once.
            wanted(object, "/spec/completions").map_or(parallel, |completions| parallel.min(completions))
        }
        Kind::Pod => 1,
        _ => return None,
    };
    let none = Value::Null;
    let pod = kind.pod_spec(object).unwrap_or(&none);
    let labels = map(pod, "/nodeSelector").into_iter().flatten();
    let required = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    Some(Replicas {
        count,
        requests: requests(pod),
        node_selector: labels
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
        node_affinity: pod.pointer(required).filter(|affinity| affinity.is_object()).cloned(),
        tolerations: list(pod, "/tolerations").to_vec(),
        priority_class: text(pod, "/priorityClassName").to_owned(),
        namespace: text(object, "/metadata/namespace").to_owned(),
    })
}

/// Makes it want this many: one cluster's share. Of a Job it is the pods at a time; how its completions are divided is not decided here. Nothing
/// happens to other kinds.
pub fn set_replicas(object: &mut Value, count: i64) {
    let field = match Kind::of(object) {
        Some(Kind::Deployment | Kind::ReplicaSet | Kind::StatefulSet) => "replicas",
        Some(Kind::Job) => "parallelism",
        _ => return,
    };
    if let Some(spec) = map_made(object, &["spec"]) {
        spec.insert(field.to_owned(), count.into());
    }
}

/// A number of pods, within what the field can hold.
fn wanted(object: &Value, pointer: &str) -> Option<i64> {
    let count = object.pointer(pointer)?.as_i64()?;
    Some(count.clamp(0, i32::MAX.into()))
}

/// What a pod asks for: the sum of its containers or the most of what one init container asks for, whichever is more, and its overhead on top.
fn requests(pod: &Value) -> BTreeMap<String, String> {
    let mut sums: BTreeMap<String, i64> = BTreeMap::new();
    for container in list(pod, "/containers") {
        for (name, count) in of_container(container) {
            let sum = sums.entry(name).or_default();
            *sum = sum.saturating_add(count);
        }
    }
    for container in list(pod, "/initContainers") {
        for (name, count) in of_container(container) {
            let sum = sums.entry(name).or_default();
            *sum = count.max(*sum);
        }
    }
    if let Some(overhead) = map(pod, "/overhead") {
        for (name, count) in counted(overhead) {
            let sum = sums.entry(name).or_default();
            *sum = sum.saturating_add(count);
        }
    }
    sums.into_iter()
        .filter(|(_, count)| *count > 0)
        .filter_map(|(name, count)| Some((unit(&name)?.write(count), name)))
        .map(|(count, name)| (name, count))
        .collect()
}

/// What a container asks for. What it only has a limit of it asks for in full.
fn of_container(container: &Value) -> BTreeMap<String, i64> {
    let of = |pointer| map(container, pointer).map(counted).unwrap_or_default();
    let mut asked: BTreeMap<String, i64> = of("/resources/limits");
    asked.extend(of("/resources/requests"));
    asked
}
