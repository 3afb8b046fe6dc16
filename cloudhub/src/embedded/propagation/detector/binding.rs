//! What a binding says of its template and its policy. Pure.

use federation::interpret::{Replicas, replicas};
use federation::names::{
    BINDING_ID, CLUSTER_BINDING_ID, CLUSTER_POLICY_ID, CLUSTER_POLICY_NAME, POLICY_ID, POLICY_NAME, POLICY_NAMESPACE,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::super::hand::{Key, add_finalizer, member, new_id, owner_of, put, set};
use super::super::picture::Policy;
use super::{tie, untie};

/// Finalizer of a binding: its Works go first.
pub(in super::super) const FINALIZER: &str = "karmada.io/binding-controller";

/// Says on a template or a binding which policy claims it.
pub(super) fn mark(object: &mut Value, policy: &Key, id: &str) {
    if policy.namespace.is_empty() {
        untie(object, "labels", &[POLICY_ID]);
        untie(object, "annotations", &[POLICY_NAMESPACE, POLICY_NAME]);
        tie(object, "labels", &[(CLUSTER_POLICY_ID, id)]);
        tie(object, "annotations", &[(CLUSTER_POLICY_NAME, &policy.name)]);
    } else {
        untie(object, "labels", &[CLUSTER_POLICY_ID]);
        untie(object, "annotations", &[CLUSTER_POLICY_NAME]);
        tie(object, "labels", &[(POLICY_ID, id)]);
        let names = [(POLICY_NAMESPACE, &*policy.namespace), (POLICY_NAME, &*policy.name)];
        tie(object, "annotations", &names);
    }
}

/// Takes that back.
pub(super) fn unmark(object: &mut Value) {
    untie(object, "labels", &[POLICY_ID, CLUSTER_POLICY_ID]);
    untie(
        object,
        "annotations",
        &[POLICY_NAMESPACE, POLICY_NAME, CLUSTER_POLICY_NAME],
    );
}

/// The label that has a binding's id.
pub(in super::super) fn id_label(at: &Key) -> &'static str {
    if at.namespace.is_empty() {
        CLUSTER_BINDING_ID
    } else {
        BINDING_ID
    }
}

/// A binding that says only what it is of.
pub(in super::super) fn bare(at: &Key, object: &Value) -> Value {
    let mut binding = json!({
        "apiVersion": federation::kinds::BINDING_API_VERSION,
        "kind": if at.namespace.is_empty() { "ClusterResourceBinding" } else { "ResourceBinding" },
        "metadata": {"name": &*at.name, "ownerReferences": owner_of(object)},
        "spec": {"resource": reference(object)},
    });
    if !at.namespace.is_empty() {
        binding["metadata"]["namespace"] = (*at.namespace).into();
    }
    put(&mut binding, "labels", id_label(at), &new_id());
    add_finalizer(&mut binding, FINALIZER);
    binding
}

/// The binding of a template that has none.
pub(super) fn new(at: &Key, object: &Value, name: &Key, policy: &Policy) -> Value {
    let mut binding = bare(at, object);
    bring(&mut binding, object, name, policy);
    binding
}

/// Makes a binding say what its template and its policy are now. The clusters that were chosen stay until others are.
pub(super) fn bring(binding: &mut Value, object: &Value, name: &Key, policy: &Policy) {
    let before = binding["spec"].clone();
    mark(binding, name, &policy.id);
    add_finalizer(binding, FINALIZER);
    let Some(spec) = member(binding, "spec") else { return };
    let said = &policy.spec;
    set(spec, "resource", Some(reference(object)));
    let wants = replicas(object);
    set(spec, "replicas", wants.as_ref().map(|r| r.count.into()));
    set(spec, "replicaRequirements", wants.as_ref().and_then(requirements));
    set(
        spec,
        "propagateDeps",
        json_of(&said.propagate_deps.or(said.association)),
    );
    set(
        spec,
        "schedulerName",
        json_of(&Some(said.scheduler_name.as_deref().unwrap_or("default-scheduler"))),
    );
    set(
        spec,
        "placement",
        json_of(&Some(said.placement.clone().unwrap_or_default())),
    );
    set(spec, "failover", json_of(&said.failover));
    set(spec, "conflictResolution", json_of(&said.conflict_resolution));
    set(
        spec,
        "preserveResourcesOnDeletion",
        json_of(&said.preserve_resources_on_deletion),
    );
    suspend(spec, said.suspension.as_ref());
    // What a status write alone moved on is no news of the template.
    let same = |spec: &Value| {
        let mut spec = spec.clone();
        if let Some(resource) = spec.get_mut("resource").and_then(Value::as_object_mut) {
            resource.remove("resourceVersion");
        }
        spec
    };
    if same(&before) == same(&binding["spec"]) {
        binding["spec"] = before;
    }
}

/// What a binding says of where its template is.
pub(in super::super) fn reference(object: &Value) -> Value {
    let mut reference = Map::new();
    for field in ["apiVersion", "kind"] {
        reference.insert(field.to_owned(), object[field].clone());
    }
    for field in ["namespace", "name", "uid", "resourceVersion"] {
        if let Some(value) = object["metadata"].get(field).filter(|v| *v != "") {
            reference.insert(field.to_owned(), value.clone());
        }
    }
    reference.into()
}

fn requirements(wants: &Replicas) -> Option<Value> {
    let mut requirements = Map::new();
    if !wants.requests.is_empty() {
        requirements.insert("resourceRequest".to_owned(), json!(wants.requests));
    }
    let mut claim = Map::new();
    set(&mut claim, "hardNodeAffinity", wants.node_affinity.clone());
    if !wants.node_selector.is_empty() {
        claim.insert("nodeSelector".to_owned(), json!(wants.node_selector));
    }
    if !wants.tolerations.is_empty() {
        claim.insert("tolerations".to_owned(), json!(wants.tolerations));
    }
    if !claim.is_empty() {
        requirements.insert("nodeClaim".to_owned(), claim.into());
    }
    if !wants.priority_class.is_empty() {
        requirements.insert("priorityClassName".to_owned(), json!(wants.priority_class));
    }
    (!requirements.is_empty()).then(|| requirements.into())
}

/// What the policy holds back; that nobody chooses clusters is said by somebody else.
fn suspend(spec: &mut Map<String, Value>, said: Option<&federation::kinds::Suspension>) {
    let mut suspension = spec
        .get("suspension")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    set(
        &mut suspension,
        "dispatching",
        json_of(&said.and_then(|s| s.dispatching)),
    );
    let some = said.and_then(|s| s.dispatching_on_clusters.as_ref());
    set(&mut suspension, "dispatchingOnClusters", json_of(&some));
    set(spec, "suspension", (!suspension.is_empty()).then(|| suspension.into()));
}

fn json_of<T: Serialize>(value: &Option<T>) -> Option<Value> {
    value.as_ref().and_then(|v| serde_json::to_value(v).ok())
}
