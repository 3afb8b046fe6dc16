//! The patch types: JSON patch, merge patch, and strategic merge, whose merge keys come from the kind's schema and from nowhere else.
//!
//! A patch is hostile input: operations are counted and the result's growth is bounded before it is stored.

use json_patch::{Patch as Operations, PatchOperation};
use serde_json::{Map, Value};

use super::schema::{ListType, Schema};
use super::status::Status;

/// Most operations in a JSON patch, as in other servers.
const MAX_OPERATIONS: usize = 10_000;
/// A patched object may not be larger than this before it is even validated.
const MAX_RESULT: usize = 6 * 1024 * 1024;

/// A patch as it came.
#[derive(Debug)]
pub(crate) enum Patch {
    /// RFC 6902.
    Json(Operations),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' own: lists merged by key, `$patch` directives.
    Strategic(Value),
}

impl Patch {
    /// Reads an RFC 6902 document.
    pub(crate) fn json(body: &[u8]) -> Result<Self, Status> {
        let ops: Operations =
            serde_json::from_slice(body).map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
        if ops.0.len() > MAX_OPERATIONS {
            return Err(Status::too_large(MAX_OPERATIONS));
        }
        Ok(Self::Json(ops))
    }

    /// Applies it; `schema` is the kind's, for the merge keys.
    pub(crate) fn apply(&self, object: &mut Value, schema: &Schema) -> Result<(), Status> {
        match self {
            Self::Json(ops) => apply_json(object, ops)?,
            Self::Merge(patch) => json_patch::merge(object, patch),
            Self::Strategic(patch) => {
                let (Some(target), Some(patch)) = (object.as_object_mut(), patch.as_object()) else {
                    return Err(Status::bad_request("a strategic merge patch must be an object"));
                };
                merge_object(target, patch, Some(schema))?;
            }
        }
        if !object.is_object() {
            return Err(Status::bad_request("the patch leaves something that is no object"));
        }
        Ok(())
    }

    /// Whether it wants to set `metadata.resourceVersion`, which makes it conditional.
    pub(crate) fn names_version(&self) -> bool {
        match self {
            Self::Merge(v) | Self::Strategic(v) => v
                .pointer("/metadata/resourceVersion")
                .is_some_and(|v| v.as_str().is_some_and(|s| !s.is_empty())),
            Self::Json(ops) => ops.0.iter().any(|op| *op.path() == "/metadata/resourceVersion"),
        }
    }
}

/// A JSON patch is applied to a copy of the values it touches only as a whole: a failing operation leaves nothing behind, because the
/// caller throws the half-patched object away.
fn apply_json(object: &mut Value, ops: &Operations) -> Result<(), Status> {
    let mut grown = 0_usize;
    for op in &ops.0 {
        // `copy` can double an object with each operation.
        if let PatchOperation::Copy(copy) = op
            && let Ok(from) = copy.from.resolve(&*object)
        {
            grown = grown.saturating_add(weight(from));
            if grown > MAX_RESULT {
                return Err(Status::too_large(MAX_RESULT));
            }
        }
        json_patch::patch_unsafe(object, std::slice::from_ref(op)).map_err(|e| {
            Status::new(
                http::StatusCode::UNPROCESSABLE_ENTITY,
                "Invalid",
                format!("the server rejected our request due to an error in our request: {e}"),
            )
            .with_empty_details()
        })?;
    }
    Ok(())
}

/// Roughly the bytes of a value.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(s) => s.len() + 2,
        Value::Array(list) => 2 + list.iter().map(|v| weight(v) + 1).sum::<usize>(),
        Value::Object(map) => 2 + map.iter().map(|(k, v)| k.len() + 4 + weight(v)).sum::<usize>(),
        _ => 8,
    }
}

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_ITEMS: &str = "$deleteFromPrimitiveList/";

fn merge_object(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    schema: Option<&Schema>,
) -> Result<(), Status> {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => {
            target.clear();
            target.extend(
                patch
                    .iter()
                    .filter(|(k, _)| *k != DIRECTIVE)
                    .map(|(k, v)| (k.clone(), v.clone())),
            );
            return Ok(());
        }
        Some("delete") => {
            target.clear();
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => return Err(Status::bad_request(format!("unrecognized patch directive {other:?}"))),
    }
    if let Some(Value::Array(keep)) = patch.get(RETAIN) {
        target.retain(|k, _| keep.iter().any(|name| name == k));
    }
    for (key, value) in patch {
        if key == DIRECTIVE || key == RETAIN {
            continue;
        }
        if let Some(list) = key.strip_prefix(DELETE_ITEMS) {
            if let (Some(Value::Array(have)), Value::Array(gone)) = (target.get_mut(list), value) {
                have.retain(|item| !gone.contains(item));
            }
            continue;
        }
        if let Some(list) = key.strip_prefix(ORDER) {
            // Handled with the list itself when the patch also has it.
            if !patch.contains_key(list) {
                order(target, list, value, member(schema, list));
            }
            continue;
        }
        if value.is_null() {
            target.remove(key);
            continue;
        }
        merge_member(target, key, value, member(schema, key))?;
        if let Some(wanted) = patch.get(&format!("{ORDER}{key}")) {
            order(target, key, wanted, member(schema, key));
        }
    }
    Ok(())
}

fn member<'s>(schema: Option<&'s Schema>, key: &str) -> Option<&'s Schema> {
    schema.and_then(|s| s.member(key))
}

fn merge_member(
    target: &mut Map<String, Value>,
    key: &str,
    value: &Value,
    schema: Option<&Schema>,
) -> Result<(), Status> {
    match value {
        Value::Object(patch) => {
            let slot = target
                .entry(key.to_owned())
                .or_insert_with(|| Value::Object(Map::new()));
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            if let Value::Object(have) = slot {
                merge_object(have, patch, schema)?;
            }
        }
        Value::Array(patch) => match schema.map(|s| &s.list) {
            Some(ListType::Map(keys)) if !keys.is_empty() => {
                let slot = target.entry(key.to_owned()).or_insert_with(|| Value::Array(Vec::new()));
                if !slot.is_array() {
                    *slot = Value::Array(Vec::new());
                }
                if let Value::Array(have) = slot {
                    merge_list(have, patch, &keys[0], schema.and_then(|s| s.items.as_deref()))?;
                }
            }
            Some(ListType::Set) => {
                let slot = target.entry(key.to_owned()).or_insert_with(|| Value::Array(Vec::new()));
                match slot {
                    Value::Array(have) => {
                        for item in patch {
                            if !have.contains(item) {
                                have.push(item.clone());
                            }
                        }
                    }
                    other => *other = value.clone(),
                }
            }
            _ => {
                target.insert(key.to_owned(), value.clone());
            }
        },
        scalar => {
            target.insert(key.to_owned(), scalar.clone());
        }
    }
    Ok(())
}

/// Merges a list of objects by `key`. Items that are new come in the patch's order; where they stand is decided as the reference does it
/// without an order directive: patched items first when any of them is new, else everything where it was.
fn merge_list(have: &mut Vec<Value>, patch: &[Value], key: &str, items: Option<&Schema>) -> Result<(), Status> {
    if patch
        .iter()
        .any(|p| p.get(DIRECTIVE).and_then(Value::as_str) == Some("replace"))
    {
        *have = patch.iter().filter(|p| p.get(DIRECTIVE).is_none()).cloned().collect();
        return Ok(());
    }
    let mut fresh: Vec<Value> = Vec::new();
    for item in patch {
        let Some(map) = item.as_object() else {
            return Err(Status::bad_request(format!(
                "an item of a list merged by {key} must be an object"
            )));
        };
        let Some(id) = map.get(key) else {
            return Err(Status::bad_request(format!(
                "map: {item} does not contain declared merge key: {key}"
            )));
        };
        let found = have.iter().position(|h| h.get(key) == Some(id));
        if map.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
            have.retain(|h| h.get(key) != Some(id));
            continue;
        }
        match found {
            Some(i) => {
                if let Value::Object(old) = &mut have[i] {
                    merge_object(old, map, items)?;
                }
            }
            None => {
                let mut new = Map::new();
                merge_object(&mut new, map, items)?;
                fresh.push(Value::Object(new));
            }
        }
    }
    if !fresh.is_empty() {
        fresh.append(have);
        *have = fresh;
    }
    Ok(())
}

/// Puts the items named in an order directive into that order; others keep their place relative to what stood before them.
fn order(target: &mut Map<String, Value>, list: &str, wanted: &Value, schema: Option<&Schema>) {
    let (Some(Value::Array(have)), Value::Array(wanted)) = (target.get_mut(list), wanted) else {
        return;
    };
    let key = match schema.map(|s| &s.list) {
        Some(ListType::Map(keys)) => keys.first().cloned(),
        _ => None,
    };
    let id = |v: &Value| match &key {
        Some(k) => v.get(k).cloned().unwrap_or(Value::Null),
        None => v.clone(),
    };
    let place = |v: &Value| wanted.iter().position(|w| id(w) == id(v));
    let mut ranked: Vec<Value> = have.iter().filter(|v| place(v).is_some()).cloned().collect();
    ranked.sort_by_key(|v| place(v));
    // Items that the directive does not name stay behind the item they followed.
    let mut out: Vec<Value> = Vec::with_capacity(have.len());
    let mut followers: Vec<(Option<Value>, Value)> = Vec::new();
    let mut last = None;
    for v in have.iter() {
        if place(v).is_some() {
            last = Some(id(v));
        } else {
            followers.push((last.clone(), v.clone()));
        }
    }
    out.extend(
        followers
            .iter()
            .filter(|(after, _)| after.is_none())
            .map(|(_, v)| v.clone()),
    );
    for v in ranked {
        let me = Some(id(&v));
        out.push(v);
        out.extend(
            followers
                .iter()
                .filter(|(after, _)| *after == me)
                .map(|(_, v)| v.clone()),
        );
    }
    *have = out;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::schema::types;
    use serde_json::json;

    fn strategic(mut object: Value, patch: Value) -> Value {
        let schema = types::named("apps.v1.Deployment").unwrap();
        Patch::Strategic(patch).apply(&mut object, &schema).unwrap();
        object
    }

    fn with(containers: Value) -> Value {
        json!({"spec":{"template":{"spec":{"containers":containers}}}})
    }

    #[test]
    fn lists_merge_by_key() {
        let two = with(json!([{"name":"a","image":"1","env":[{"name":"X","value":"1"}]},{"name":"b","image":"1"}]));
        let got = strategic(two.clone(), with(json!([{"name":"a","image":"2"}])));
        assert_eq!(
            got,
            with(json!([{"name":"a","image":"2","env":[{"name":"X","value":"1"}]},{"name":"b","image":"1"}]))
        );
        let got = strategic(two.clone(), with(json!([{"$patch":"delete","name":"b"}])));
        assert_eq!(
            got.pointer("/spec/template/spec/containers")
                .unwrap()
                .as_array()
                .unwrap()
                .len(),
            1
        );
        let got = strategic(
            two.clone(),
            with(json!([{"name":"a","env":[{"name":"Y","value":"2"}]}])),
        );
        assert_eq!(
            got.pointer("/spec/template/spec/containers/0/env").unwrap(),
            &json!([{"name":"Y","value":"2"},{"name":"X","value":"1"}])
        );
        let mut ordered = with(json!([{"name":"new","image":"n"}]));
        ordered["spec"]["template"]["spec"]["$setElementOrder/containers"] =
            json!([{"name":"b"},{"name":"new"},{"name":"a"}]);
        let got = strategic(two, ordered);
        let names: Vec<&Value> = got
            .pointer("/spec/template/spec/containers")
            .unwrap()
            .as_array()
            .unwrap()
            .iter()
            .map(|c| &c["name"])
            .collect();
        assert_eq!(names, [&json!("b"), &json!("new"), &json!("a")]);
    }

    #[test]
    fn directives() {
        let d = json!({"spec":{"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":1}},"replicas":2}});
        let got = strategic(
            d.clone(),
            json!({"spec":{"strategy":{"$patch":"replace","type":"Recreate"}}}),
        );
        assert_eq!(got["spec"]["strategy"], json!({"type":"Recreate"}));
        let got = strategic(
            d.clone(),
            json!({"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"}}}),
        );
        assert_eq!(got["spec"]["strategy"], json!({"type":"Recreate"}));
        let got = strategic(d, json!({"spec":{"replicas":null}}));
        assert!(got["spec"].get("replicas").is_none());
        let f = json!({"metadata":{"finalizers":["a","b"],"labels":{"x":"y"}}});
        let got = strategic(
            f,
            json!({"metadata":{"$deleteFromPrimitiveList/finalizers":["a"],"finalizers":["c"],"labels":{"x":null,"z":"1"}}}),
        );
        assert_eq!(got, json!({"metadata":{"finalizers":["b","c"],"labels":{"z":"1"}}}));
    }

    #[test]
    fn items_without_their_key_are_refused() {
        let schema = types::named("apps.v1.Deployment").unwrap();
        let mut object = with(json!([{"name":"a"}]));
        assert_eq!(
            Patch::Strategic(with(json!([{"image":"x"}])))
                .apply(&mut object, &schema)
                .unwrap_err()
                .code,
            400
        );
        let bad = json!({"spec":{"$patch":"nonsense"}});
        assert_eq!(Patch::Strategic(bad).apply(&mut object, &schema).unwrap_err().code, 400);
    }

    #[test]
    fn json_patch_failures_are_unprocessable_and_growth_is_bounded() {
        let schema = Schema::anything();
        let patch = Patch::json(br#"[{"op":"test","path":"/a","value":2}]"#).unwrap();
        assert_eq!(patch.apply(&mut json!({"a":1}), &schema).unwrap_err().code, 422);
        assert_eq!(Patch::json(br#"{"a":1}"#).unwrap_err().code, 400);
        let mut ops = vec![json!({"op":"add","path":"/l","value":["x".repeat(1000)]})];
        ops.extend((0..40).map(|_| json!({"op":"copy","from":"/l","path":"/l/-"})));
        let patch = Patch::json(json!(ops).to_string().as_bytes()).unwrap();
        assert_eq!(patch.apply(&mut json!({}), &schema).unwrap_err().code, 413);
        let replace_all = Patch::json(br#"[{"op":"replace","path":"","value":3}]"#).unwrap();
        assert_eq!(replace_all.apply(&mut json!({}), &schema).unwrap_err().code, 400);
    }
}
