//! What the rules of several kinds share: reaching into objects, conditions, selectors, refusals and cells that many have.

use serde_json::{Map, Value, json};

use crate::api::status::Cause;

/// A count that is 0 when absent.
pub(super) fn number(object: &Value, pointer: &str) -> Value {
    object.pointer(pointer).cloned().unwrap_or_else(|| json!(0))
}

/// The list at `field`, empty when absent.
pub(super) fn list<'v>(object: &'v Value, field: &str) -> &'v [Value] {
    object.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The text at `field`, empty when absent.
pub(super) fn word<'v>(object: &'v Value, field: &str) -> &'v str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The text at a pointer, empty when absent.
pub(super) fn word_at<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The whole number at a pointer, 0 when absent.
pub(super) fn whole(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// Whether `field` is true.
pub(super) fn flag(object: &Value, field: &str) -> bool {
    object.get(field) == Some(&Value::Bool(true))
}

/// Whether the condition of a type is true.
pub(super) fn is_condition(object: &Value, ty: &str) -> bool {
    condition(object, ty) == Some("True")
}

/// The status of the condition of a type.
pub(super) fn condition<'v>(object: &'v Value, ty: &str) -> Option<&'v str> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    conditions
        .iter()
        .find(|c| word(c, "type") == ty)
        .map(|c| word(c, "status"))
}

/// A value as a message shows it.
pub(super) fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "null".to_owned(), ToString::to_string)
}

/// Refuses a change of the value at a dotted path.
pub(super) fn immutable(new: &Value, old: &Value, path: &str, causes: &mut Vec<Cause>) {
    let pointer = format!("/{}", path.replace('.', "/"));
    let value = new.pointer(&pointer);
    if value != old.pointer(&pointer) {
        causes.push(Cause::invalid(path, &shown(value), "field is immutable"));
    }
}

/// A text that reads `<none>` when absent.
pub(super) fn word_or_none(object: &Value, pointer: &str) -> Value {
    match object.pointer(pointer) {
        Some(Value::String(s)) if !s.is_empty() => json!(s),
        _ => json!("<none>"),
    }
}

/// The object at `field`, made when it is not there.
pub(super) fn part<'v>(object: &'v mut Value, field: &str) -> Option<&'v mut Map<String, Value>> {
    let map = object.as_object_mut()?;
    map.entry(field.to_owned())
        .or_insert_with(|| Value::Object(Map::new()))
        .as_object_mut()
}

pub(super) fn default_to(map: &mut Map<String, Value>, field: &str, value: Value) {
    if map.get(field).is_none_or(|v| v.is_null() || v == "") {
        map.insert(field.to_owned(), value);
    }
}

/// Whether a `LabelSelector` selects these labels; an empty one selects nothing here, as it may not in a workload.
pub(super) fn selects(selector: &Value, labels: Option<&Value>) -> bool {
    let label = |key: &str| labels.and_then(|l| l.get(key)).and_then(Value::as_str);
    let wanted = selector.get("matchLabels").and_then(Value::as_object);
    let terms = selector.get("matchExpressions").and_then(Value::as_array);
    if wanted.is_none_or(Map::is_empty) && terms.is_none_or(Vec::is_empty) {
        return false;
    }
    wanted.into_iter().flatten().all(|(k, v)| label(k) == v.as_str())
        && terms.into_iter().flatten().all(|t| {
            let value = label(t.get("key").and_then(Value::as_str).unwrap_or_default());
            let among = || {
                t.get("values")
                    .and_then(Value::as_array)
                    .is_some_and(|list| list.iter().any(|v| v.as_str() == value))
            };
            match t.get("operator").and_then(Value::as_str) {
                Some("In") => value.is_some() && among(),
                Some("NotIn") => value.is_none() || !among(),
                Some("Exists") => value.is_some(),
                Some("DoesNotExist") => value.is_none(),
                _ => false,
            }
        })
}

/// A `LabelSelector` as the text of a selector, its terms by key.
pub(super) fn label_selector_text(selector: &Value) -> String {
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    let mut terms: Vec<(&str, String)> = labels
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.as_str(), format!("{k}={}", v.as_str().unwrap_or_default())))
        .collect();
    for term in list(selector, "matchExpressions") {
        let key = word(term, "key");
        let mut values: Vec<&str> = list(term, "values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let text = match word(term, "operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        };
        terms.push((key, text));
    }
    terms.sort_by_key(|(key, _)| *key);
    let terms: Vec<String> = terms.into_iter().map(|(_, text)| text).collect();
    terms.join(",")
}
