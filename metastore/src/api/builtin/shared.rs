//! What the rules of several kinds share: reaching into objects, selectors, the cells that many tables have.

use serde_json::{Map, Value, json};

/// How many members the object at `field` has.
pub(super) fn count(object: &Value, field: &str) -> usize {
    object.get(field).and_then(Value::as_object).map_or(0, Map::len)
}

/// A count that is 0 when absent.
pub(super) fn number(object: &Value, pointer: &str) -> Value {
    object.pointer(pointer).cloned().unwrap_or_else(|| json!(0))
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

/// A `LabelSelector` as the text of a selector.
pub(super) fn label_selector_text(selector: &Value) -> String {
    let mut parts: Vec<String> = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    for term in selector
        .get("matchExpressions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let word = |f: &str| term.get(f).and_then(Value::as_str).unwrap_or_default();
        let values: Vec<&str> = term
            .get("values")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let key = word("key");
        parts.push(match word("operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.join(",")
}
