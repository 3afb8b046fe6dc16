//! Namespaces.

use serde_json::{Map, Value, json};

use super::checks::{made, word};
use super::{fields, row, text};
use crate::api::kinds::{Deletion, KindSpec, Special, StatusPart};
use crate::api::names::NameRule;
use crate::api::status::Cause;
use crate::api::table::Column;

/// The finalizer of whoever empties namespaces.
const KUBERNETES: &str = "kubernetes";

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![namespace()]
}

fn namespace() -> KindSpec {
    KindSpec {
        namespaced: false,
        names: NameRule::Label,
        status: StatusPart::Apart,
        deletion: Deletion::EmptiesNamespace,
        prepare: Some(prepare_namespace),
        validate: Some(validate_namespace),
        special: Special {
            validate_status: Some(validate_namespace),
            ..Special::default()
        },
        columns: vec![
            Column::name(),
            text("Status", "The status of the namespace", ".status.phase"),
            Column::age(),
        ],
        fields: fields(&["status.phase"]),
        ..row("", "core", "Namespace", &["ns"])
    }
}

fn prepare_namespace(new: &mut Value, old: Option<&Value>, _now: &str) {
    let Value::Object(namespace) = new else { return };
    if let Some(metadata) = made(namespace, "metadata") {
        let name = metadata.get("name").cloned().unwrap_or(Value::Null);
        if let Some(labels) = made(metadata, "labels") {
            labels.insert("kubernetes.io/metadata.name".to_owned(), name);
        }
    }
    let Some(spec) = made(namespace, "spec") else { return };
    match old {
        // They go by the subresource for it.
        Some(old) => keep(spec, "finalizers", old.pointer("/spec/finalizers")),
        None => {
            let list = spec.entry("finalizers").or_insert_with(|| json!([]));
            if let Value::Array(list) = list
                && !list.contains(&json!(KUBERNETES))
            {
                list.push(json!(KUBERNETES));
            }
            namespace.insert("status".to_owned(), json!({"phase": "Active"}));
        }
    }
}

fn keep(map: &mut Map<String, Value>, field: &str, value: Option<&Value>) {
    match value {
        Some(value) => map.insert(field.to_owned(), value.clone()),
        None => map.remove(field),
    };
}

fn validate_namespace(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let Some(old) = old else { return };
    let (phase, wanted) = match new.pointer("/metadata/deletionTimestamp") {
        None => (word(&new["status"], "phase"), "Active"),
        Some(_) => (word(&new["status"], "phase"), "Terminating"),
    };
    if phase != wanted && old.get("status") != new.get("status") {
        let why = format!("may only be '{wanted}' as long as the namespace is there to stay or to go");
        causes.push(Cause::invalid("status.Phase", &format!("{phase:?}"), &why));
    }
}
