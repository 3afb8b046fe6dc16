//! What a Work says: its one manifest, whose it is, and how it is to be applied. Pure.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use federation::interpret::set_replicas;
use federation::kinds::{Placement, ReplicaSchedulingType, TargetCluster, WORK_API_VERSION};
use federation::names::{
    APPLIED_CLUSTER_OVERRIDES, APPLIED_OVERRIDES, BINDING_NAME, BINDING_NAMESPACE, CLUSTER_BINDING_NAME,
    CONFLICT_RESOLUTION, EXECUTION_FINALIZER, MANAGED, MANAGED_ANNOTATIONS, MANAGED_LABELS, TEMPLATE_GENERATION,
    TEMPLATE_UID, WORK_ID, WORK_NAME, WORK_NAMESPACE,
};
use federation::schedule::divide_by_weight;
use serde_json::{Map, Value, json};

use super::super::detector::id_label;
use super::super::hand::{Key, add_finalizer, label, list, member, new_id, note, put, take, text};

/// The clusters that a binding goes to: those that were chosen, then those of the bindings that need it.
pub(in super::super) fn targets(binding: &Value) -> BTreeMap<String, TargetCluster> {
    let chosen = list(binding, "/spec/clusters").iter();
    let needed = list(binding, "/spec/requiredBy").iter();
    let needed = needed.flat_map(|one| list(one, "/clusters"));
    let mut targets = BTreeMap::new();
    for cluster in chosen.chain(needed) {
        if let Ok(target) = serde_json::from_value::<TargetCluster>(cluster.clone())
            && !target.name.is_empty()
        {
            targets.entry(target.name.clone()).or_insert(target);
        }
    }
    targets
}

/// Each cluster's part of what a template wants.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// The object has replicas, and the binding says how many go where.
    workload: bool,
    /// How often a Job is to succeed in each cluster.
    completions: Option<BTreeMap<String, i64>>,
}

impl Shares {
    pub(super) fn of(binding: &Value, template: &Value, targets: &BTreeMap<String, TargetCluster>) -> Self {
        let replicas = binding.pointer("/spec/replicas").and_then(Value::as_i64);
        let placement = binding.pointer("/spec/placement").cloned();
        let placement: Option<Placement> = placement.and_then(|p| serde_json::from_value(p).ok());
        let scheduling = placement.and_then(|p| p.replica_scheduling);
        let divided = scheduling.and_then(|s| s.replica_scheduling_type) == Some(ReplicaSchedulingType::Divided);
        let is_job = text(template, "/kind") == "Job" && text(template, "/apiVersion") == "batch/v1";
        let completions = template
            .pointer("/spec/completions")
            .and_then(Value::as_i64)
            .filter(|_| is_job && divided && replicas.unwrap_or(0) > 0)
            .map(|total| {
                let weights: Vec<(&str, i64)> = targets
                    .iter()
                    .map(|(name, target)| (name.as_str(), target.replicas.unwrap_or(0).max(0)))
                    .collect();
                let shares = divide_by_weight(total.max(0), &weights, &BTreeMap::new());
                shares
                    .into_iter()
                    .map(|(name, share)| (name.to_owned(), share))
                    .collect()
            });
        Self {
            workload: replicas.is_some(),
            completions,
        }
    }

    /// Puts a cluster's part into its manifest.
    pub(super) fn put(&self, manifest: &mut Value, target: &TargetCluster) {
        if self.workload {
            set_replicas(manifest, target.replicas.unwrap_or(0).max(0));
        }
        let completions = self.completions.as_ref().and_then(|all| all.get(&target.name));
        if let Some(completions) = completions
            && let Some(spec) = member(manifest, "spec")
        {
            spec.insert("completions".to_owned(), (*completions).into());
        }
    }
}

/// What a Work is made of beside its manifest.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) at: &'a Key,
    pub(super) binding: &'a Value,
    pub(super) template: &'a Value,
    pub(super) cluster: &'a str,
    /// The OverridePolicies, and the ClusterOverridePolicies, that had a part in the manifest.
    pub(super) overrides: [Option<String>; 2],
}

impl Parts<'_> {
    /// A Work that is not there yet.
    pub(super) fn new_work(&self, manifest: Value) -> Value {
        let mut work = json!({
            "apiVersion": WORK_API_VERSION, "kind": "Work",
            "metadata": {"name": &*self.at.name, "namespace": &*self.at.namespace},
            "spec": {},
        });
        self.bring(&mut work, manifest);
        work
    }

    /// The same for the same Work, but for its id, which it has for itself.
    pub(super) fn digest(&self, manifest: Value) -> u64 {
        let mut work = json!({"metadata": {"labels": {WORK_ID: "-"}}, "spec": {}});
        self.bring(&mut work, manifest);
        let mut hasher = DefaultHasher::new();
        work.to_string().hash(&mut hasher);
        hasher.finish()
    }

    /// Makes a Work what it should be. What others wrote on it beside that stays.
    pub(super) fn bring(&self, work: &mut Value, manifest: Value) {
        add_finalizer(work, EXECUTION_FINALIZER);
        let id = match label(work, WORK_ID) {
            "" => new_id(),
            id => id.to_owned(),
        };
        let ours = self.binding_key();
        let (binding_label, binding_id) = (id_label(&ours), label(self.binding, id_label(&ours)));
        put(work, "labels", WORK_ID, &id);
        put(work, "labels", binding_label, binding_id);
        let conflicts = self.conflict_resolution();
        put(work, "annotations", CONFLICT_RESOLUTION, conflicts);
        for (key, value) in self.binding_notes(&ours) {
            put(work, "annotations", key, value);
        }
        for (key, value) in [APPLIED_OVERRIDES, APPLIED_CLUSTER_OVERRIDES]
            .into_iter()
            .zip(&self.overrides)
        {
            match value {
                Some(value) => put(work, "annotations", key, value),
                None => take(work, "annotations", &[key]),
            }
        }
        let manifest = self.manifest(manifest, &ours, &id, conflicts);
        let Some(spec) = member(work, "spec") else { return };
        spec.insert("workload".to_owned(), json!({"manifests": [manifest]}));
        spec.insert("suspendDispatching".to_owned(), self.is_suspended().into());
        let preserve = self.binding.pointer("/spec/preserveResourcesOnDeletion");
        let preserve = preserve == Some(&Value::Bool(true));
        spec.insert("preserveResourcesOnDeletion".to_owned(), preserve.into());
    }

    /// The manifest with what says whose it is.
    fn manifest(&self, mut manifest: Value, binding: &Key, id: &str, conflicts: &str) -> Value {
        let label_of_binding = id_label(binding);
        for (key, value) in [
            (MANAGED, "true"),
            (label_of_binding, label(self.binding, label_of_binding)),
            (WORK_ID, id),
        ] {
            put(&mut manifest, "labels", key, value);
        }
        let generation = self.template.pointer("/metadata/generation").and_then(Value::as_i64);
        match generation.filter(|g| *g > 0) {
            Some(generation) => put(
                &mut manifest,
                "annotations",
                TEMPLATE_GENERATION,
                &generation.to_string(),
            ),
            None => take(&mut manifest, "annotations", &[TEMPLATE_GENERATION]),
        }
        for (key, value) in self.binding_notes(binding) {
            put(&mut manifest, "annotations", key, value);
        }
        for (key, value) in [
            (TEMPLATE_UID, text(self.template, "/metadata/uid")),
            (WORK_NAMESPACE, &self.at.namespace),
            (WORK_NAME, &self.at.name),
            (CONFLICT_RESOLUTION, conflicts),
            // The lists name themselves.
            (MANAGED_LABELS, ""),
            (MANAGED_ANNOTATIONS, ""),
        ] {
            put(&mut manifest, "annotations", key, value);
        }
        let names = |map: &str| {
            let map = manifest["metadata"].get(map).and_then(Value::as_object);
            map.map(keys).unwrap_or_default()
        };
        let (labels, annotations) = (names("labels"), names("annotations"));
        put(&mut manifest, "annotations", MANAGED_LABELS, &labels);
        put(&mut manifest, "annotations", MANAGED_ANNOTATIONS, &annotations);
        manifest
    }

    fn binding_key(&self) -> Key {
        Key::new(
            text(self.binding, "/metadata/namespace"),
            text(self.binding, "/metadata/name"),
        )
    }

    fn binding_notes<'k>(&self, binding: &'k Key) -> Vec<(&'static str, &'k str)> {
        if binding.namespace.is_empty() {
            vec![(CLUSTER_BINDING_NAME, &binding.name)]
        } else {
            vec![(BINDING_NAMESPACE, &binding.namespace), (BINDING_NAME, &binding.name)]
        }
    }

    /// The template's own word comes before the policy's.
    fn conflict_resolution(&self) -> &'static str {
        match note(self.template, CONFLICT_RESOLUTION) {
            "overwrite" => "overwrite",
            "abort" => "abort",
            _ if text(self.binding, "/spec/conflictResolution") == "Overwrite" => "overwrite",
            _ => "abort",
        }
    }

    fn is_suspended(&self) -> bool {
        let suspension = &self.binding["spec"]["suspension"];
        let some = list(suspension, "/dispatchingOnClusters/clusterNames");
        suspension["dispatching"] == true || some.iter().any(|name| name == self.cluster)
    }
}

/// The keys of a map, in order, with commas between.
fn keys(map: &Map<String, Value>) -> String {
    let mut keys: Vec<&str> = map.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys.join(",")
}

#[cfg(test)]
mod tests;
