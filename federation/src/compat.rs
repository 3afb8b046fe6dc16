//! Policies as people write them, brought to the form in which they are worked with: old spellings translated, defaults filled in, faults
//! named. And FederatedDeployment, which is a Deployment and a policy in one.
//!
//! Works on JSON values, which keep what this version does not know.

mod defaults;
mod federated;
#[cfg(test)]
mod tests;
mod validate;

use serde_json::{Map, Value, json};

pub use defaults::fill_defaults;
pub use federated::{FederatedError, from_federated};
pub use validate::{Fault, validate, validate_update};

const SCHEDULING: &str = "spec.placement.replicaScheduling";

/// Translates old spellings in a PropagationPolicy or ClusterPropagationPolicy, and says for each in one sentence what it is called today.
/// Of `weightList` and `replicaDivisionPreference: Aggregated` side by side the weights win.
pub fn translate(policy: &mut Value) -> Vec<String> {
    let Some(scheduling) = member(policy, &["spec", "placement", "replicaScheduling"]) else {
        return Vec::new();
    };
    let mut warnings = Vec::new();
    let said = |scheduling: &Map<String, Value>, field: &str, value: &str| {
        scheduling.get(field).and_then(Value::as_str) == Some(value)
    };
    let was_weighted = said(scheduling, "replicaSchedulingType", "Weighted");
    let duplicated = said(scheduling, "replicaSchedulingType", "Duplicated");
    let list = scheduling.remove("weightList").filter(|list| !list.is_null());
    let had_list = list.is_some();
    if was_weighted {
        warnings.push(format!(
            "{SCHEDULING}.replicaSchedulingType: Weighted is an old spelling; write replicaSchedulingType: Divided and \
             replicaDivisionPreference: Weighted"
        ));
    }
    if let Some(list) = list {
        warnings.push(put_weights(scheduling, list));
    }
    if duplicated || !(was_weighted || had_list) {
        return warnings;
    }
    if said(scheduling, "replicaDivisionPreference", "Aggregated") {
        warnings.push(format!(
            "{SCHEDULING}.replicaDivisionPreference: Aggregated is taken as Weighted, because weights are given and they win; write \
             Weighted, or leave the weights out to fill as few clusters as possible"
        ));
    }
    scheduling.insert("replicaSchedulingType".to_owned(), json!("Divided"));
    scheduling.insert("replicaDivisionPreference".to_owned(), json!("Weighted"));
    warnings
}

/// Puts an old list of weights where it belongs, unless there is one already.
fn put_weights(scheduling: &mut Map<String, Value>, list: Value) -> String {
    let preference = scheduling.entry("weightPreference").or_insert_with(|| json!({}));
    if !preference.is_object() {
        *preference = json!({});
    }
    if let Some(preference) = preference.as_object_mut() {
        let filled = |value: &Value| value.as_array().is_some_and(|list| !list.is_empty());
        if preference.get("staticWeightList").is_some_and(filled) {
            return format!(
                "{SCHEDULING}.weightList is an old spelling and is left out beside weightPreference.staticWeightList; keep the latter only"
            );
        }
        preference.insert("staticWeightList".to_owned(), list);
    }
    format!("{SCHEDULING}.weightList is an old spelling; write weightPreference.staticWeightList with the same entries")
}

/// The object at the end of a path of objects.
fn member<'v>(value: &'v mut Value, path: &[&str]) -> Option<&'v mut Map<String, Value>> {
    let mut here = value;
    for step in path {
        here = here.get_mut(step)?;
    }
    here.as_object_mut()
}
