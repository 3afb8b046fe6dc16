//! What a real Karmada wrote, what the kinds' rules are, and what no input may do.

mod hostile;
mod member;
mod recorded;
mod summary;
mod workloads;

use serde_json::{Value, json};

/// An object of the kind; `api/version Kind`.
fn object(kind: &str, rest: Value) -> Value {
    let (api_version, kind) = kind.split_once(' ').expect("two words");
    let mut object = json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": "a", "namespace": "fx" } });
    for (field, value) in rest.as_object().expect("an object") {
        object[field] = value.clone();
    }
    object
}
