//! The patch types: JSON patch, merge patch, and strategic merge, whose merge keys come from the kind's schema and from nowhere else; and what
//! is asked of an object that came out of one.
//!
//! A patch is hostile input: operations are counted and the result's growth is bounded while it is made.

use serde_json::{Map, Value};

use super::kinds::KindSpec;
use super::meta;
use super::request::Strictness;
use super::schema::{Schema, shape};
use super::status::{Cause, Status};

mod operations;
mod strategic;

pub(crate) use operations::Operations;

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
    /// Applies it; `schema` is the kind's, for the merge keys.
    pub(crate) fn apply(&self, object: &mut Value, schema: &Schema) -> Result<(), Status> {
        match self {
            Self::Json(operations) => operations.apply(object)?,
            Self::Merge(patch) => merge(object, patch),
            Self::Strategic(patch) => {
                let (Some(target), Some(patch)) = (object.as_object_mut(), patch.as_object()) else {
                    return Err(Status::bad_request("a strategic merge patch must be an object"));
                };
                strategic::merge(target, patch, Some(schema))?;
            }
        }
        if object.is_object() {
            Ok(())
        } else {
            Err(unreadable("the patch leaves something that is no object"))
        }
    }

    /// Whether it wants to set `metadata.resourceVersion`, which makes it conditional.
    pub(crate) fn names_version(&self) -> bool {
        match self {
            Self::Merge(v) | Self::Strategic(v) => v
                .pointer("/metadata/resourceVersion")
                .is_some_and(|v| v.as_str().is_some_and(|s| !s.is_empty())),
            Self::Json(operations) => operations.touches("/metadata/resourceVersion"),
        }
    }
}

/// The patched object is none of the kind. The refusal names no object: it is about the patch.
fn unreadable(why: &str) -> Status {
    Status::invalid("", "", "", vec![Cause::invalid("patch", "", why)])
}

/// Checks that what a patch left is still that object, and an object of its kind. What is wrong here is wrong with the patch, where the same
/// in a whole body would be a malformed request.
pub(crate) fn check_patched(
    object: &mut Value,
    current: &Value,
    kind: &KindSpec,
    strictness: Strictness,
    duplicates: &[String],
) -> Result<(), Status> {
    let api_version = kind.api_version();
    let said = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    for (field, wanted) in [("apiVersion", api_version.as_str()), ("kind", &*kind.kind)] {
        let have = said(field);
        if have != wanted && (kind.custom || !have.is_empty()) {
            return Err(unreadable(&format!("{field} is {have:?}, expected {wanted:?}")));
        }
    }
    if !kind.custom
        && let Some((path, wanted, found)) = shape::mistyped(object, &kind.schema)
    {
        return Err(unreadable(&format!("cannot read {found} into {path} of type {wanted}")));
    }
    if strictness == Strictness::Strict {
        let mut unknown = Vec::new();
        shape::prune(&mut object.clone(), &kind.schema, true, &mut unknown);
        let unknown = unknown.iter().map(|f| format!("unknown field {f:?}"));
        let twice = duplicates.iter().map(|f| format!("duplicate field {f:?}"));
        let problems: Vec<String> = unknown.chain(twice).collect();
        if !problems.is_empty() {
            return Err(unreadable(&format!("strict decoding error: {}", problems.join(", "))));
        }
    }
    if let Value::Object(map) = object {
        map.insert("apiVersion".to_owned(), api_version.into());
        map.insert("kind".to_owned(), (&*kind.kind).into());
    }
    let name = meta::text(current, "name");
    if meta::text(object, "name").is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )));
    }
    let uid = meta::text(object, "uid");
    if !uid.is_empty() && uid != meta::text(current, "uid") {
        // Once for every object, and once more by the rules of the built-in kinds.
        let cause = Cause::invalid("metadata.uid", &format!("{uid:?}"), "field is immutable");
        let causes = vec![cause; if kind.custom { 1 } else { 2 }];
        return Err(Status::invalid(&kind.group, &kind.kind, name, causes));
    }
    let version = meta::text(object, "resourceVersion");
    if !version.is_empty() && version.parse::<u64>().is_err() {
        return Err(Status::new(
            http::StatusCode::INTERNAL_SERVER_ERROR,
            "",
            format!("strconv.ParseUint: parsing {version:?}: invalid syntax"),
        ));
    }
    Ok(())
}

/// RFC 7386, with nulls left out of lists' items too where those are new.
fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => merge_members(target, patch),
        (target, patch) => *target = without_nulls(patch),
    }
}

fn merge_members(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
            continue;
        }
        match target.get_mut(key) {
            Some(have) => merge(have, value),
            None => {
                target.insert(key.clone(), without_nulls(value));
            }
        }
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(_, v)| !v.is_null())
            .map(|(k, v)| (k.clone(), without_nulls(v)))
            .collect(),
        Value::Array(list) => list.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merge_patches_drop_nulls_and_replace_lists() {
        let mut object = json!({"a":{"b":1,"c":2},"l":[1,2],"s":"x"});
        merge(
            &mut object,
            &json!({"a":{"b":null,"d":{"e":null,"f":[null,{"g":null,"h":1}]}},"l":[3],"s":{"t":null}}),
        );
        assert_eq!(object, json!({"a":{"c":2,"d":{"f":[null,{"h":1}]}},"l":[3],"s":{}}));
    }

    #[test]
    fn a_patch_that_leaves_no_object_is_refused() {
        let patch = Patch::Json(Operations::read(br#"[{"op":"replace","path":"","value":[]}]"#).unwrap());
        let status = patch.apply(&mut json!({}), &Schema::anything()).unwrap_err();
        assert_eq!((status.code, status.reason), (422, "Invalid"));
        assert_eq!(status.details.unwrap().causes[0].field, "patch");
    }
}
