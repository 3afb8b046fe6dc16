//! Looks into JSON that may be of any shape: what is missing, null or of another type is nothing.

use serde_json::{Map, Value};

/// The string at this pointer; empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The integer at this pointer; zero where there is none.
pub(crate) fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
}

/// The list at this pointer; empty where there is none.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The object at this pointer.
pub(crate) fn map<'a>(value: &'a Value, pointer: &str) -> Option<&'a Map<String, Value>> {
    value.pointer(pointer).and_then(Value::as_object)
}

/// The object at this pointer.
pub(super) fn map_mut<'a>(value: &'a mut Value, pointer: &str) -> Option<&'a mut Map<String, Value>> {
    value.pointer_mut(pointer).and_then(Value::as_object_mut)
}

/// The object at the end of this path, made where nothing is. Nothing where something else is in the way.
pub(super) fn map_made<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Map<String, Value>> {
    let mut at = value.as_object_mut()?;
    for step in path {
        let next = at.entry(*step).or_insert(Value::Null);
        if next.is_null() {
            *next = Value::Object(Map::new());
        }
        at = next.as_object_mut()?;
    }
    Some(at)
}

/// An object's annotation.
pub(super) fn annotation<'a>(object: &'a Value, key: &str) -> &'a str {
    of_map(object, "/metadata/annotations", key)
}

/// An object's label.
pub(super) fn label<'a>(object: &'a Value, key: &str) -> &'a str {
    of_map(object, "/metadata/labels", key)
}

fn of_map<'a>(object: &'a Value, pointer: &str, key: &str) -> &'a str {
    map(object, pointer)
        .and_then(|map| map.get(key))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Whether this says no more than a missing field does.
pub(crate) fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(value) => value.as_i64() == Some(0),
        Value::String(value) => value.is_empty(),
        Value::Array(value) => value.is_empty(),
        Value::Object(value) => value.is_empty(),
    }
}
