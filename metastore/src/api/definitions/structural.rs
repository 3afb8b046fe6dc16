//! What an `openAPIV3Schema` may say: the rules of structural schemas, and those of OpenAPI schemas in definitions, each with the cause that
//! clients know. Works on the schema as it was written; [`parse`](crate::api::schema::parse) reads it once it is known to be sound.

use serde_json::{Map, Value};

use crate::api::schema::pattern::Pattern;
use crate::api::schema::{MAX_DEPTH, MAX_NODES};
use crate::api::status::Cause;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const META: [&str; 3] = ["metadata", "kind", "apiVersion"];

fn text<'v>(schema: &'v Value, key: &str) -> &'v str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn members<'v>(schema: &'v Value, key: &str) -> Option<&'v Map<String, Value>> {
    schema.get(key).and_then(Value::as_object).filter(|m| !m.is_empty())
}

fn parts<'v>(schema: &'v Value, key: &str) -> &'v [Value] {
    schema.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn words<'v>(schema: &'v Value, key: &str) -> Vec<&'v str> {
    parts(schema, key).iter().filter_map(Value::as_str).collect()
}

/// A schema below, if it is one; `true` and `false` are none.
fn below<'v>(schema: &'v Value, key: &str) -> Option<&'v Value> {
    schema.get(key).filter(|v| v.is_object())
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// Refuses what is too large to be looked at.
pub(super) fn limits(schema: &Value, path: &str) -> Option<Cause> {
    fn walk(schema: &Value, depth: usize, left: &mut usize) -> bool {
        let Some(map) = schema.as_object() else { return true };
        if depth > MAX_DEPTH || *left == 0 {
            return false;
        }
        *left -= 1;
        map.iter().all(|(key, value)| match (key.as_str(), value) {
            ("properties" | "patternProperties" | "definitions" | "dependencies", Value::Object(m)) => {
                m.values().all(|s| walk(s, depth + 1, left))
            }
            ("allOf" | "anyOf" | "oneOf" | "items", Value::Array(list)) => {
                list.iter().all(|s| walk(s, depth + 1, left))
            }
            ("not" | "items" | "additionalProperties" | "additionalItems", s) => walk(s, depth + 1, left),
            _ => true,
        })
    }
    let fits = walk(schema, 0, &mut MAX_NODES.clone());
    (!fits).then(|| {
        Cause::forbidden(
            path,
            &format!("schema is larger than {MAX_NODES} nodes or deeper than {MAX_DEPTH} levels"),
        )
    })
}

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// The rules of structural schemas. `None`: the schema has parts that such schemas cannot have at all, which [`openapi`] names.
pub(super) fn check(schema: &Value, path: &str) -> Option<Vec<Cause>> {
    if !is_convertible(schema) {
        return None;
    }
    let mut causes = Vec::new();
    invariants(schema, Level::Root, path, &mut causes);
    complete(schema, Some(schema), path, path, &mut causes);
    Some(causes)
}

fn is_convertible(schema: &Value) -> bool {
    let nonempty = |key: &str| !text(schema, key).is_empty();
    let mut refused = ["id", "$schema", "$ref"].into_iter().any(nonempty);
    refused |= ["patternProperties", "definitions", "dependencies"]
        .into_iter()
        .any(|k| members(schema, k).is_some());
    refused |= schema.get("additionalItems").is_some();
    refused |= schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false));
    refused |= schema.get("items").is_some_and(Value::is_array);
    if refused {
        return false;
    }
    members(schema, "properties").is_none_or(|m| m.values().all(is_convertible))
        && ["items", "additionalProperties", "not"]
            .into_iter()
            .all(|k| below(schema, k).is_none_or(is_convertible))
        && ["allOf", "anyOf", "oneOf"]
            .into_iter()
            .all(|k| parts(schema, k).iter().all(is_convertible))
}

fn invariants(schema: &Value, level: Level, path: &str, causes: &mut Vec<Cause>) {
    let ty = text(schema, "type");
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    let preserve = flag(schema, "x-kubernetes-preserve-unknown-fields");
    let either = flag(schema, "x-kubernetes-int-or-string");
    let items = below(schema, "items");
    if ty == "array" && items.is_none() {
        causes.push(Cause::required(format!("{path}.items"), "must be specified"));
    }
    if let Some(items) = items {
        invariants(items, Level::Item, &format!("{path}.items"), causes);
    }
    let properties = members(schema, "properties");
    for (name, member) in properties.into_iter().flatten() {
        invariants(member, Level::Field, &format!("{path}.properties[{name}]"), causes);
    }
    let additional = schema.get("additionalProperties").filter(|a| !a.is_null());
    if let Some(additional) = additional {
        let at = format!("{path}.additionalProperties");
        if level == Level::Root {
            causes.push(Cause::forbidden(&at, "must not be used at the root"));
        }
        if additional.is_object() {
            invariants(additional, Level::Field, &at, causes);
        }
    }
    for (key, set) in [
        ("x-kubernetes-preserve-unknown-fields", preserve),
        ("x-kubernetes-embedded-resource", embedded),
    ] {
        if either && set {
            let why = "must be false if x-kubernetes-int-or-string is true";
            causes.push(Cause::invalid(format!("{path}.{key}"), "true", why));
        }
    }
    let first = parts(schema, "allOf").first();
    narrowing(
        schema,
        is_int_or_string(parts(schema, "anyOf")),
        first.is_some_and(|f| is_int_or_string(parts(f, "anyOf"))),
        path,
        causes,
    );
    let type_at = || format!("{path}.type");
    if embedded && ty != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        causes.push(match ty {
            "" => Cause::required(type_at(), why),
            ty => Cause::invalid(type_at(), &quoted(ty), why),
        });
    } else if ty.is_empty() && !either && !preserve {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        causes.push(Cause::required(type_at(), why));
    }
    if embedded && additional.is_some() {
        let why = "must not be used if x-kubernetes-embedded-resource is set";
        causes.push(Cause::forbidden(format!("{path}.additionalProperties"), why));
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        causes.push(Cause::invalid(type_at(), &quoted(ty), "must be object at the root"));
    }
    let whole = level == Level::Root || embedded;
    for name in ["kind", "apiVersion"] {
        if let Some(member) = properties.and_then(|p| p.get(name)).filter(|_| whole)
            && text(member, "type") != "string"
        {
            let at = format!("{path}.properties[{name}].type");
            causes.push(Cause::invalid(at, &quoted(text(member, "type")), "must be string"));
        }
    }
    if let Some(metadata) = properties.and_then(|p| p.get("metadata")) {
        let at = format!("{path}.properties[metadata]");
        if whole && text(metadata, "type") != "object" {
            let shown = quoted(text(metadata, "type"));
            causes.push(Cause::invalid(format!("{at}.type"), &shown, "must be object"));
        }
        if level == Level::Root && !only_names(metadata) {
            let why =
                "must not specify anything other than name and generateName, but metadata is implicitly specified";
            causes.push(Cause::forbidden(at, why));
        }
    }
    if embedded && !preserve && properties.is_none() {
        let why =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        causes.push(Cause::required(format!("{path}.properties"), why));
    }
}

/// Whether a schema of metadata says no more than it may.
fn only_names(metadata: &Value) -> bool {
    let Some(map) = metadata.as_object() else { return true };
    map.iter().all(|(key, value)| match key.as_str() {
        "type" | "default" => true,
        "properties" => value
            .as_object()
            .is_none_or(|m| m.keys().all(|k| matches!(k.as_str(), "name" | "generateName"))),
        _ => match value {
            Value::Null | Value::Bool(false) => true,
            Value::String(s) => s.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => false,
        },
    })
}

/// The two ways to say "an integer or text" that repeat the type.
fn is_int_or_string(any_of: &[Value]) -> bool {
    let says = |v: &Value, ty: &str| v.as_object().is_some_and(|m| m.len() == 1 && text(v, "type") == ty);
    matches!(any_of, [a, b] if says(a, "integer") && says(b, "string"))
}

/// The parts of a schema that only narrow what the rest of it allows.
fn narrowing(schema: &Value, skip_any: bool, skip_first_all: bool, path: &str, causes: &mut Vec<Cause>) {
    if !skip_any {
        for (i, part) in parts(schema, "anyOf").iter().enumerate() {
            nested(part, false, false, &format!("{path}.anyOf[{i}]"), causes);
        }
    }
    for (i, part) in parts(schema, "allOf").iter().enumerate() {
        nested(
            part,
            skip_first_all && i == 0,
            false,
            &format!("{path}.allOf[{i}]"),
            causes,
        );
    }
    for (i, part) in parts(schema, "oneOf").iter().enumerate() {
        nested(part, false, false, &format!("{path}.oneOf[{i}]"), causes);
    }
    if let Some(not) = below(schema, "not") {
        nested(not, false, false, &format!("{path}.not"), causes);
    }
    let pattern = text(schema, "pattern");
    if !pattern.is_empty()
        && let Err(why) = Pattern::compile(pattern)
    {
        let why = format!("must be a valid regular expression, but isn't: {why}");
        causes.push(Cause::invalid(format!("{path}.pattern"), &quoted(pattern), &why));
    }
}

fn nested(schema: &Value, skip_any: bool, skip_first_all: bool, path: &str, causes: &mut Vec<Cause>) {
    narrowing(schema, skip_any, skip_first_all, path, causes);
    if let Some(items) = below(schema, "items") {
        nested(items, false, false, &format!("{path}.items"), causes);
    }
    let properties = members(schema, "properties");
    for (name, member) in properties.into_iter().flatten() {
        nested(member, false, false, &format!("{path}.properties[{name}]"), causes);
    }
    let mut forbid = |key: &str, why: &str| causes.push(Cause::forbidden(format!("{path}.{key}"), why));
    if schema
        .get("additionalProperties")
        .is_some_and(|a| a.is_object() || a == true)
    {
        forbid("additionalProperties", "must be undefined to be structural");
    }
    if schema.get("default").is_some() {
        forbid("default", "must be undefined to be structural");
    }
    for key in ["type", "title", "description"] {
        if !text(schema, key).is_empty() {
            forbid(key, "must be empty to be structural");
        }
    }
    for key in [
        "nullable",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string",
    ] {
        if flag(schema, key) {
            forbid(key, "must be false to be structural");
        }
    }
    for key in ["x-kubernetes-list-type", "x-kubernetes-map-type"] {
        if schema.get(key).is_some() {
            forbid(key, "must be undefined to be structural");
        }
    }
    for key in ["x-kubernetes-list-map-keys", "x-kubernetes-validations"] {
        if !parts(schema, key).is_empty() {
            forbid(key, "must be empty to be structural");
        }
    }
    if properties.is_some_and(|p| p.contains_key("metadata")) {
        forbid("properties[metadata]", "must not be specified in a nested context");
    }
}

/// What narrows a part must have that part to narrow.
fn complete(v: &Value, s: Option<&Value>, s_path: &str, v_path: &str, causes: &mut Vec<Cause>) {
    if s.is_none() {
        causes.push(Cause::required(s_path, &format!("because it is defined in {v_path}")));
        return;
    }
    if let Some(not) = below(v, "not") {
        complete_nested(not, s, s_path, &format!("{v_path}.not"), causes);
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        for (i, part) in parts(v, key).iter().enumerate() {
            complete_nested(part, s, s_path, &format!("{v_path}.{key}[{i}]"), causes);
        }
    }
}

fn complete_nested(v: &Value, s: Option<&Value>, s_path: &str, v_path: &str, causes: &mut Vec<Cause>) {
    complete(v, s, s_path, v_path, causes);
    let Some(s) = s else { return };
    if let Some(items) = below(v, "items") {
        let (s_at, v_at) = (format!("{s_path}.items"), format!("{v_path}.items"));
        complete_nested(items, below(s, "items"), &s_at, &v_at, causes);
    }
    for (name, member) in members(v, "properties").into_iter().flatten() {
        let s_at = format!("{s_path}.properties[{name}]");
        let v_at = format!("{v_path}.properties[{name}]");
        match members(s, "properties").and_then(|p| p.get(name)) {
            None => causes.push(Cause::required(s_at, &format!("because it is defined in {v_at}"))),
            Some(own) => complete_nested(member, Some(own), &s_at, &v_at, causes),
        }
    }
}

/// What a place in the schema adds to the rules for OpenAPI schemas.
#[derive(Clone, Copy, Default)]
pub(super) struct Place<'a> {
    root: bool,
    /// Below the metadata, `kind` or `apiVersion` of a whole object.
    meta: bool,
    /// Why there may be no default.
    no_default: Option<&'a str>,
}

impl Place<'_> {
    pub(super) const ROOT: Self = Self {
        root: true,
        meta: false,
        no_default: None,
    };
}

/// The rules for OpenAPI schemas in definitions, structural or not.
pub(super) fn openapi(schema: &Value, path: &str, place: Place<'_>, causes: &mut Vec<Cause>) {
    keywords(schema, path, place, causes);
    let inner = Place { root: false, ..place };
    if flag(schema, "uniqueItems") {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        causes.push(Cause::forbidden(format!("{path}.uniqueItems"), why));
    }
    let properties = members(schema, "properties");
    if let Some(additional) = schema.get("additionalProperties").filter(|a| !a.is_null()) {
        let at = format!("{path}.additionalProperties");
        if properties.is_some() && additional != true {
            let why = "additionalProperties and properties are mutual exclusive";
            causes.push(Cause::forbidden(&at, why));
        }
        if additional.is_object() {
            let place = if place.meta {
                Place {
                    no_default: Some("inside additionalProperties applying to object metadata"),
                    ..inner
                }
            } else {
                inner
            };
            openapi(additional, &at, place, causes);
        }
    }
    let place_is_root = place.root;
    let whole = place.root || flag(schema, "x-kubernetes-embedded-resource");
    for (name, member) in properties.into_iter().flatten() {
        let at = format!("{path}.properties[{name}]");
        let top = format!("in top-level {name}");
        let mut place = inner;
        if whole && META.contains(&name.as_str()) {
            place.meta = true;
            if place_is_root {
                place.no_default = Some(&top);
            }
        }
        openapi(member, &at, place, causes);
    }
    for key in ["not", "items"] {
        if let Some(s) = below(schema, key) {
            openapi(s, &format!("{path}.{key}"), inner, causes);
        }
    }
    for key in ["allOf", "oneOf", "anyOf", "items"] {
        for (i, part) in parts(schema, key).iter().enumerate() {
            openapi(part, &format!("{path}.{key}[{i}]"), inner, causes);
        }
    }
    for key in ["definitions", "dependencies"] {
        for (name, part) in members(schema, key).into_iter().flatten() {
            openapi(part, &format!("{path}.{key}[{name}]"), inner, causes);
        }
    }
    extensions(schema, path, causes);
}

fn keywords(schema: &Value, path: &str, place: Place<'_>, causes: &mut Vec<Cause>) {
    let ty = text(schema, "type");
    let type_at = || format!("{path}.type");
    if !ty.is_empty() && !TYPES.contains(&ty) {
        causes.push(Cause::not_supported(type_at(), &quoted(ty), &TYPES));
    }
    if let Some(reason) = place.no_default.filter(|_| schema.get("default").is_some()) {
        let why = format!("must not be set {reason}");
        causes.push(Cause::forbidden(format!("{path}.default"), &why));
    }
    let mut forbid = |key: &str, why: &str| causes.push(Cause::forbidden(format!("{path}.{key}"), why));
    if !text(schema, "id").is_empty() {
        forbid("id", "id is not supported");
    }
    for key in ["patternProperties", "definitions"] {
        if members(schema, key).is_some() {
            forbid(key, &format!("{key} is not supported"));
        }
    }
    for key in ["additionalItems", "dependencies", "$ref"] {
        if schema.get(key).is_some_and(|v| !v.is_null()) {
            forbid(key, &format!("{key} is not supported"));
        }
    }
    if ty == "null" {
        forbid("type", "type cannot be set to null, use nullable as an alternative");
    }
    if !parts(schema, "items").is_empty() {
        forbid("items", "items must be a schema object and not an array");
    }
    if place.meta && flag(schema, "x-kubernetes-embedded-resource") {
        forbid(
            "x-kubernetes-embedded-resource",
            "must not be used inside of resource meta",
        );
    }
}

fn extensions(schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    let ty = text(schema, "type");
    let at = |key: &str| format!("{path}.{key}");
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        let why = "must be true or undefined";
        causes.push(Cause::invalid(at("x-kubernetes-preserve-unknown-fields"), "false", why));
    }
    for (key, wanted) in [("x-kubernetes-map-type", "object"), ("x-kubernetes-list-type", "array")] {
        if schema.get(key).is_some() && ty != wanted {
            let why = format!("must be {wanted} if {key} is specified");
            causes.push(match ty {
                "" => Cause::required(at("type"), &why),
                ty => Cause::invalid(at("type"), &quoted(ty), &why),
            });
        }
    }
    for (key, allowed) in [
        ("x-kubernetes-map-type", &["atomic", "granular"][..]),
        ("x-kubernetes-list-type", &["atomic", "set", "map"]),
    ] {
        if let Some(Value::String(said)) = schema.get(key)
            && !allowed.contains(&said.as_str())
        {
            causes.push(Cause::not_supported(at(key), &quoted(said), allowed));
        }
    }
    let list = schema.get("x-kubernetes-list-type").and_then(Value::as_str);
    let items = below(schema, "items");
    if let (Some("set"), "array", Some(items)) = (list, ty, items) {
        let (key, fits) = match text(items, "type") {
            "array" => {
                let inner = text(items, "x-kubernetes-list-type");
                ("x-kubernetes-list-type", matches!(inner, "" | "atomic"))
            }
            "object" => {
                let inner = text(items, "x-kubernetes-map-type");
                ("x-kubernetes-map-type", inner == "atomic")
            }
            _ => ("", true),
        };
        if !fits {
            let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
            causes.push(Cause::invalid(format!("{path}.items.{key}"), "null", why));
        }
    }
    let keys = words(schema, "x-kubernetes-list-map-keys");
    if !keys.is_empty() && list != Some("map") {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        causes.push(match list {
            None => Cause::required(at("x-kubernetes-list-type"), why),
            Some(other) => Cause::invalid(at("x-kubernetes-list-type"), &quoted(other), why),
        });
    }
    if list == Some("map") {
        map_list(schema, path, &keys, causes);
    }
    if let (Some(list @ ("map" | "set")), Some(items)) = (list, items) {
        unique_items(items, list, path, &keys, causes);
    }
}

fn map_list(schema: &Value, path: &str, keys: &[&str], causes: &mut Vec<Cause>) {
    let at = format!("{path}.x-kubernetes-list-map-keys");
    if keys.is_empty() {
        let why = "must not be empty if x-kubernetes-list-type is map";
        causes.push(Cause::required(&at, why));
    }
    let items_at = format!("{path}.items");
    let Some(items) = below(schema, "items") else {
        causes.push(match schema.get("items") {
            Some(Value::Array(_)) => {
                let why = "must only have a single schema if x-kubernetes-list-type is map";
                Cause::invalid(items_at, "array", why)
            }
            _ => Cause::required(items_at, "must have a schema if x-kubernetes-list-type is map"),
        });
        return;
    };
    if text(items, "type") != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        causes.push(Cause::invalid(
            format!("{items_at}.type"),
            &quoted(text(items, "type")),
            why,
        ));
        return;
    }
    for (i, key) in keys.iter().enumerate() {
        match members(items, "properties").and_then(|p| p.get(*key)) {
            Some(member) if matches!(text(member, "type"), "array" | "object") => {
                let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                let field = format!("{items_at}.properties[{key}].type");
                causes.push(Cause::invalid(field, &quoted(text(items, "type")), why));
            }
            Some(_) => {}
            None => {
                let why = "entries must all be names of item properties";
                causes.push(Cause::invalid(&at, &format!("{keys:?}"), why));
            }
        }
        if keys[..i].contains(key) {
            let why = "must not contain duplicate entries";
            causes.push(Cause::invalid(&at, &format!("{keys:?}"), why));
        }
    }
}

/// Items that are told apart by their content must have it.
fn unique_items(items: &Value, list: &str, path: &str, keys: &[&str], causes: &mut Vec<Cause>) {
    if flag(items, "nullable") {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {list}");
        causes.push(Cause::forbidden(format!("{path}.items.nullable"), &why));
    }
    if list != "map" {
        return;
    }
    let needed = words(items, "required");
    for key in keys {
        let Some(member) = members(items, "properties").and_then(|p| p.get(*key)) else {
            continue;
        };
        let at = format!("{path}.items.properties[{key}]");
        if !needed.contains(key) && member.get("default").is_none() {
            let why =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            causes.push(Cause::required(format!("{at}.default"), why));
        }
        if flag(member, "nullable") {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            causes.push(Cause::forbidden(format!("{at}.nullable"), why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(schema: Value) -> Vec<(String, String)> {
        let mut causes = check(&schema, "s").unwrap_or_default();
        openapi(&schema, "s", Place::ROOT, &mut causes);
        causes.into_iter().map(|c| (c.reason, c.field)).collect()
    }

    fn one(reason: &str, field: &str) -> Vec<(String, String)> {
        vec![(reason.to_owned(), field.to_owned())]
    }

    #[test]
    fn what_is_not_structural_is_named() {
        assert!(found(json!({"type":"object","x-kubernetes-preserve-unknown-fields":true})).is_empty());
        assert_eq!(found(json!({})), one("FieldValueRequired", "s.type"));
        assert_eq!(found(json!({"type":"string"})), one("FieldValueInvalid", "s.type"));
        let below = |p: Value| json!({"type":"object","properties":{"x":p}});
        for (schema, reason, field) in [
            (json!({"description":"no type"}), "FieldValueRequired", "type"),
            (json!({"type":"array"}), "FieldValueRequired", "items"),
            (json!({"type":"string","pattern":"("}), "FieldValueInvalid", "pattern"),
            (json!({"$ref":"#/y"}), "FieldValueForbidden", "$ref"),
            (
                json!({"type":"string","allOf":[{"type":"string"}]}),
                "FieldValueForbidden",
                "allOf[0].type",
            ),
            (
                json!({"type":"object","x-kubernetes-embedded-resource":true}),
                "FieldValueRequired",
                "properties",
            ),
            (
                json!({"type":"string","x-kubernetes-list-type":"set"}),
                "FieldValueInvalid",
                "type",
            ),
            (
                json!({"type":"string","uniqueItems":true}),
                "FieldValueForbidden",
                "uniqueItems",
            ),
        ] {
            assert_eq!(
                found(below(schema.clone())),
                one(reason, &format!("s.properties[x].{field}")),
                "{schema}"
            );
        }
        let either = json!({"x-kubernetes-int-or-string":true,"anyOf":[{"type":"integer"},{"type":"string"}]});
        assert!(found(below(either)).is_empty());
        let named = json!({"type":"object","properties":{"metadata":{"type":"object","properties":{"name":{"type":"string"}}}}});
        assert!(found(named).is_empty());
        // Only the root is asked for what its alternatives name.
        let missing = json!({"type":"object","oneOf":[{"properties":{"q":{}}}]});
        assert_eq!(found(missing), one("FieldValueRequired", "s.properties[q]"));
        let labelled = json!({"type":"object","properties":{"metadata":{"type":"object","properties":{"labels":{"type":"object"}}}}});
        assert_eq!(found(labelled), one("FieldValueForbidden", "s.properties[metadata]"));
    }

    #[test]
    fn schemas_that_explode_are_not_looked_at() {
        let mut deep = json!({"type":"object"});
        for _ in 0..200 {
            deep = json!({"type":"object","properties":{"a":deep}});
        }
        assert!(limits(&deep, "s").is_some());
        let wide: Map<String, Value> = (0..MAX_NODES)
            .map(|i| (i.to_string(), json!({"type":"string"})))
            .collect();
        assert!(limits(&json!({"type":"object","properties":wide}), "s").is_some());
        let many: Vec<Value> = (0..1000).map(|_| json!({"allOf": vec![json!({}); 100]})).collect();
        assert!(limits(&json!({"type":"object","allOf":many}), "s").is_some());
        assert!(limits(&json!({"type":"object","allOf":[{"not":{}}]}), "s").is_none());
    }
}
