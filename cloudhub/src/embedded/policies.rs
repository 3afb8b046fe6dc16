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
