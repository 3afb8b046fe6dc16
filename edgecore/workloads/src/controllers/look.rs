//! Reaching into objects: what is absent reads as empty, nought or no. Never writes to the store.

use std::sync::Arc;

pub(super) use super::shared::{is_controlled_by, is_ready, owner_reference};
use jiff::Timestamp;
use metastore::api::selector_selects;
use serde_json::{Map, Value, json};

/// Milliseconds since 1970 by the wall clock, which may jump. Given, so that a night can pass in a test.
pub(crate) type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The machine's clock.
pub(crate) fn wall_clock() -> WallClock {
    Arc::new(daemon::clock::wall_ms)
}

/// The list at a pointer, empty when absent.
pub(super) fn list<'v>(object: &'v Value, pointer: &str) -> &'v [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The text at a pointer, empty when absent.
pub(super) fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The whole number at a pointer.
pub(super) fn whole(object: &Value, pointer: &str) -> Option<i64> {
    object.pointer(pointer).and_then(Value::as_i64)
}

/// Whether there is a `true` at a pointer.
pub(super) fn flag(object: &Value, pointer: &str) -> bool {
    object.pointer(pointer) == Some(&Value::Bool(true))
}

/// The map at a pointer, as pairs.
pub(super) fn pairs<'v>(object: &'v Value, pointer: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    object.pointer(pointer).and_then(Value::as_object).into_iter().flatten()
}

/// A label of an object.
pub(super) fn label<'v>(object: &'v Value, key: &str) -> Option<&'v str> {
    object.get("metadata")?.get("labels")?.get(key)?.as_str()
}

/// An annotation of an object.
pub(super) fn annotation<'v>(object: &'v Value, key: &str) -> Option<&'v str> {
    object.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

/// `metadata.uid`.
pub(super) fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// `metadata.name`.
pub(super) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

/// `metadata.namespace`.
pub(super) fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

/// The condition of a type.
pub(super) fn condition<'v>(object: &'v Value, ty: &str) -> Option<&'v Value> {
    list(object, "/status/conditions").iter().find(|c| c["type"] == ty)
}

/// Whether the condition of a type is `True`.
pub(super) fn is_true(object: &Value, ty: &str) -> bool {
    condition(object, ty).is_some_and(|c| c["status"] == "True")
}

/// Seconds since 1970 of a time as objects carry it.
pub(super) fn seconds(time: &str) -> Option<i64> {
    time.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

/// Whether an object was asked to go.
pub(super) fn is_terminating(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

/// Whether a pod has ended, well or not.
pub(super) fn is_finished(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// Whether a pod neither ended nor was asked to go.
pub(super) fn is_active(pod: &Value) -> bool {
    !is_finished(pod) && !is_terminating(pod)
}

/// Whether a Job has ended, and how: `Complete` or `Failed`.
pub(super) fn job_end(job: &Value) -> Option<&Value> {
    list(job, "/status/conditions")
        .iter()
        .find(|c| (c["type"] == "Complete" || c["type"] == "Failed") && c["status"] == "True")
}

/// The owner that controls an object.
pub(super) fn controller_of(object: &Value) -> Option<&Value> {
    list(object, "/metadata/ownerReferences")
        .iter()
        .find(|o| o["controller"] == true)
}

/// Whether a `LabelSelector` selects an object: an empty one everything, an absent one nothing.
pub(super) fn selects(selector: &Value, labels: Option<&Value>) -> bool {
    let Some(map) = selector.as_object() else { return false };
    let says_nothing = |v: &Value| v.as_object().is_some_and(Map::is_empty) || v.as_array().is_some_and(Vec::is_empty);
    map.values().all(says_nothing) || selector_selects(selector, labels)
}

/// The labels of an object.
pub(super) fn labels(object: &Value) -> Option<&Value> {
    object.pointer("/metadata/labels")
}

/// Sets a condition of a list. The time changes with the status only, as it does for pods. Whether anything changed.
pub(super) fn set_condition(object: &mut Value, condition: &Value) -> bool {
    let status = &mut object["status"];
    if !status.is_object() {
        *status = json!({});
    }
    let conditions = &mut status["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(all) = conditions.as_array_mut() else {
        return false;
    };
    let Some(old) = all.iter_mut().find(|c| c["type"] == condition["type"]) else {
        all.push(condition.clone());
        return true;
    };
    let mut new = condition.clone();
    if old["status"] == new["status"] {
        new["lastTransitionTime"] = old["lastTransitionTime"].clone();
    }
    let changed = *old != new;
    *old = new;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_selector_selects_everything_and_none_nothing() {
        let labels = json!({"a": "b"});
        for (selector, selected) in [
            (json!({}), true),
            (json!({"matchLabels": {}}), true),
            (json!(null), false),
            (json!({"matchLabels": {"a": "b"}}), true),
            (json!({"matchLabels": {"a": "c"}}), false),
        ] {
            assert_eq!(selects(&selector, Some(&labels)), selected, "{selector}");
        }
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let mut pod = json!({});
        let at = |status: &str, message: &str, time: &str| json!({"type": "T", "status": status, "message": message, "lastTransitionTime": time});
        assert!(set_condition(&mut pod, &at("False", "a", "1")));
        assert!(!set_condition(&mut pod, &at("False", "a", "2")));
        assert!(set_condition(&mut pod, &at("False", "b", "3")));
        assert_eq!(condition(&pod, "T").unwrap()["lastTransitionTime"], "1");
        assert!(set_condition(&mut pod, &at("True", "b", "4")));
        assert_eq!(condition(&pod, "T").unwrap()["lastTransitionTime"], "4");
    }
}
