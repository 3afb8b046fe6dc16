//! What is checked and filled in when somebody writes a policy: old spellings become today's with a word to who wrote them, what is left out
//! gets its default, what is wrong is named by field, and each policy has an id that no other of its name has.

use federation::compat::{Fault, fill_defaults, translate, validate, validate_update};
use federation::kinds::POLICY_GROUP;
use federation::names::{CLUSTER_POLICY_ID, POLICY_ID};
use metastore::api::{Admission, AdmitContext, Cause, Operation, Status};
use serde_json::{Value, json};

/// The admission of policies.
#[derive(Debug)]
pub(crate) struct PolicyAdmission;

impl Admission for PolicyAdmission {
    fn admit(&self, context: &AdmitContext<'_>, old: Option<&Value>, new: &mut Value) -> Result<(), Status> {
        let about = context.kind.group() == POLICY_GROUP && context.op != Operation::Delete;
        if !about || !context.subresource.is_empty() {
            return Ok(());
        }
        let id = match context.kind.kind() {
            "PropagationPolicy" => Some(POLICY_ID),
            "ClusterPropagationPolicy" => Some(CLUSTER_POLICY_ID),
            _ => None,
        };
        if let Some(label) = id {
            if let Some(old) = old {
                let_old_spelling_speak(old, new);
            }
            for warning in translate(new) {
                context.warn(warning);
            }
            identify(label, old, new);
        }
        fill_defaults(new);
        let mut faults = validate(new);
        if let Some(old) = old {
            faults.extend(validate_update(old, new));
        }
        if faults.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(
            POLICY_GROUP,
            context.kind.kind(),
            context.name,
            faults.iter().map(cause).collect(),
        ))
    }
}

fn cause(fault: &Fault) -> Cause {
    Cause::forbidden(fault.path.clone(), &fault.message)
}

/// What kubectl notes of what it was given.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Who applies a manifest in the old spelling again has the translation of the one before beside it, which would win: it goes, unless the
/// manifest says both.
fn let_old_spelling_speak(old: &Value, new: &mut Value) {
    const SCHEDULING: &str = "/spec/placement/replicaScheduling";
    let weights = |policy: &Value| {
        let weights = policy
            .pointer(SCHEDULING)
            .and_then(|s| s.pointer("/weightPreference/staticWeightList"));
        weights.cloned()
    };
    let said = new
        .get("metadata")
        .and_then(|m| m.get("annotations")?.get(LAST_APPLIED)?.as_str())
        .is_some_and(|text| text.contains("staticWeightList"));
    if said || weights(old) != weights(new) {
        return;
    }
    let Some(scheduling) = new.pointer_mut(SCHEDULING).and_then(Value::as_object_mut) else {
        return;
    };
    let has_old = scheduling
        .get("weightList")
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty());
    let preference = scheduling.get_mut("weightPreference").and_then(Value::as_object_mut);
    if let Some(preference) = preference.filter(|_| has_old) {
        preference.remove("staticWeightList");
    }
}

/// Gives a policy its id, and lets nobody take it away by leaving it out.
fn identify(label: &str, old: Option<&Value>, new: &mut Value) {
    let of = |object: &Value| {
        let id = object
            .get("metadata")
            .and_then(|m| m.get("labels")?.get(label)?.as_str());
        id.filter(|id| !id.is_empty()).map(str::to_owned)
    };
    let known = old.and_then(of);
    if of(new).is_some() && (known.is_some() || old.is_none()) {
        return;
    }
    let id = known.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    if let Some(metadata) = new.get_mut("metadata").and_then(Value::as_object_mut) {
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if labels.is_null() {
            *labels = json!({});
        }
        if let Some(labels) = labels.as_object_mut() {
            labels.insert(label.to_owned(), id.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_in_the_old_spelling_can_be_edited() {
        let weights = |n: i64| json!([{"targetCluster": {"clusterNames": ["a"]}, "weight": n}]);
        let stored = json!({"spec": {"placement": {"replicaScheduling": {
            "replicaSchedulingType": "Divided", "weightPreference": {"staticWeightList": weights(60)}}}}});
        let scheduling = |policy: &Value| policy["spec"]["placement"]["replicaScheduling"].clone();
        let mut edited = stored.clone();
        edited["spec"]["placement"]["replicaScheduling"]["weightList"] = weights(70);
        let both = edited.clone();
        let_old_spelling_speak(&stored, &mut edited);
        translate(&mut edited);
        assert_eq!(scheduling(&edited)["weightPreference"]["staticWeightList"], weights(70));
        let mut said = both;
        said["metadata"] = json!({"annotations": {LAST_APPLIED: "... staticWeightList ..."}});
        let_old_spelling_speak(&stored, &mut said);
        translate(&mut said);
        assert_eq!(scheduling(&said)["weightPreference"]["staticWeightList"], weights(60));
        let mut untouched = stored.clone();
        let_old_spelling_speak(&stored, &mut untouched);
        assert_eq!(untouched, stored);
    }

    #[test]
    fn a_policy_keeps_its_id() {
        let mut first = json!({"metadata": {"name": "p"}});
        identify(POLICY_ID, None, &mut first);
        let id = first["metadata"]["labels"][POLICY_ID].clone();
        assert_eq!(id.as_str().unwrap().len(), 36);
        let mut again = json!({"metadata": {"name": "p", "labels": {"a": "b"}}});
        identify(POLICY_ID, Some(&first), &mut again);
        assert_eq!(again["metadata"]["labels"][POLICY_ID], id);
        for mut junk in [json!(null), json!({"metadata": 1}), json!({"metadata": {"labels": []}})] {
            identify(POLICY_ID, None, &mut junk);
        }
    }
}
