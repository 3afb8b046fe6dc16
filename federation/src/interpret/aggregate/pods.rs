//! Kinds with a phase: the one that wants attention most is the template's.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::super::look::{map, text};
use super::{Item, put_unless_zero};

/// Nothing while it goes to no cluster.
pub(super) fn pod(template: &Value, items: &[Item<'_>]) -> Option<Map<String, Value>> {
    if items.is_empty() {
        return None;
    }
    let mut status = Map::new();
    put_unless_zero(
        &mut status,
        "phase",
        json!(phase(items, &["Failed", "Pending", "Running", "Succeeded"])),
    );
    for field in ["containerStatuses", "initContainerStatuses"] {
        let containers = items
            .iter()
            .filter_map(|item| item.status?.get(field)?.as_array())
            .flatten();
        put_unless_zero(&mut status, field, containers.map(container).collect());
    }
    // A server keeps this one whatever is written.
    put_unless_zero(&mut status, "qosClass", json!(text(template, "/status/qosClass")));
    Some(status)
}

pub(super) fn volume(items: &[Item<'_>]) -> Map<String, Value> {
    let mut status = Map::new();
    let phase = phase(items, &["Failed", "Pending", "Available", "Bound", "Released"]);
    put_unless_zero(&mut status, "phase", json!(phase));
    status
}

/// The first of these phases that any cluster reports. One that has not reported is taken for pending.
fn phase<'a>(items: &[Item<'_>], order: &[&'a str]) -> Option<&'a str> {
    let phases: BTreeSet<&str> = items
        .iter()
        .map(|item| item.status.map_or("Pending", |status| text(status, "/phase")))
        .collect();
    order.iter().find(|phase| phases.contains(**phase)).copied()
}

/// A member's container as the template lists it: whether it is ready and what it does. Which one it is does not carry over; the fields that
/// a server insists on are empty.
fn container(own: &Value) -> Value {
    json!({
        "name": "",
        "image": "",
        "imageID": "",
        "lastState": {},
        "restartCount": 0,
        "ready": own.get("ready").and_then(Value::as_bool).unwrap_or_default(),
        "state": map(own, "/state").cloned().unwrap_or_default(),
    })
}
