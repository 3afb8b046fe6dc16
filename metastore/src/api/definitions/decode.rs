//! The form of `openAPIV3Schema` on the wire: which keywords there are and what they hold. Unknown ones are dropped, empty ones are not kept,
//! and a keyword of the wrong JSON type makes the whole request malformed, as for every other field of a built-in kind.

use serde_json::{Map, Value};

use crate::api::schema::MAX_DEPTH;
use crate::api::schema::shape::kind_of;

/// What a keyword holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Any,
    AnyList,
    Text,
    TextList,
    Flag,
    /// True, false or absent.
    Tristate,
    Number,
    Count,
    Schema,
    SchemaOrBool,
    SchemaOrList,
    SchemaList,
    SchemaMap,
    /// Of schemas or lists of text.
    Dependencies,
    Docs,
    Rules,
}

const KEYWORDS: [(&str, Form); 43] = [
    ("$ref", Form::Text),
    ("$schema", Form::Text),
    ("additionalItems", Form::SchemaOrBool),
    ("additionalProperties", Form::SchemaOrBool),
    ("allOf", Form::SchemaList),
    ("anyOf", Form::SchemaList),
    ("default", Form::Any),
    ("definitions", Form::SchemaMap),
    ("dependencies", Form::Dependencies),
    ("description", Form::Text),
    ("enum", Form::AnyList),
    ("example", Form::Any),
    ("exclusiveMaximum", Form::Flag),
    ("exclusiveMinimum", Form::Flag),
    ("externalDocs", Form::Docs),
    ("format", Form::Text),
    ("id", Form::Text),
    ("items", Form::SchemaOrList),
    ("maxItems", Form::Count),
    ("maxLength", Form::Count),
    ("maxProperties", Form::Count),
    ("maximum", Form::Number),
    ("minItems", Form::Count),
    ("minLength", Form::Count),
    ("minProperties", Form::Count),
    ("minimum", Form::Number),
    ("multipleOf", Form::Number),
    ("not", Form::Schema),
    ("nullable", Form::Flag),
    ("oneOf", Form::SchemaList),
    ("pattern", Form::Text),
    ("patternProperties", Form::SchemaMap),
    ("properties", Form::SchemaMap),
    ("required", Form::TextList),
    ("title", Form::Text),
    ("type", Form::Text),
    ("uniqueItems", Form::Flag),
    ("x-kubernetes-embedded-resource", Form::Flag),
    ("x-kubernetes-int-or-string", Form::Flag),
    ("x-kubernetes-list-map-keys", Form::TextList),
    ("x-kubernetes-list-type", Form::Tristate),
    ("x-kubernetes-map-type", Form::Tristate),
    ("x-kubernetes-preserve-unknown-fields", Form::Tristate),
];
const RULES: &str = "x-kubernetes-validations";
const RULE: [(&str, Form); 6] = [
    ("fieldPath", Form::Text),
    ("message", Form::Text),
    ("messageExpression", Form::Text),
    ("optionalOldSelf", Form::Tristate),
    ("reason", Form::Tristate),
    ("rule", Form::Any),
];

/// A keyword of the wrong type: where, what it should hold, what it holds.
pub(crate) type Mistyped = (String, &'static str, String);

/// Brings the schemas of a definition into their form; names what is unknown.
///
/// # Errors
/// The first keyword of the wrong type.
pub(crate) fn decode(definition: &mut Value, unknown: &mut Vec<String>) -> Result<(), Mistyped> {
    let versions = definition.pointer_mut("/spec/versions").and_then(Value::as_array_mut);
    for (i, version) in versions.into_iter().flatten().enumerate() {
        let holder = version.get_mut("schema").and_then(Value::as_object_mut);
        let Some(holder) = holder else { continue };
        match holder.get_mut("openAPIV3Schema") {
            None => {}
            Some(Value::Null) => {
                holder.remove("openAPIV3Schema");
            }
            Some(schema) => {
                let path = format!("spec.versions[{i}].schema.openAPIV3Schema");
                node(schema, &path, 0, unknown)?;
            }
        }
    }
    Ok(())
}

fn node(schema: &mut Value, path: &str, depth: usize, unknown: &mut Vec<String>) -> Result<(), Mistyped> {
    if depth > MAX_DEPTH {
        // Refused for its depth when it is validated.
        return Ok(());
    }
    let found = kind_of(schema);
    let Some(map) = schema.as_object_mut() else {
        return Err((path.to_owned(), "schema", found.to_owned()));
    };
    fields(map, &KEYWORDS, path, depth, unknown)
}

/// The most names that a client is told.
const MAX_UNKNOWN: usize = 100;

fn fields(
    map: &mut Map<String, Value>,
    known: &[(&str, Form)],
    path: &str,
    depth: usize,
    unknown: &mut Vec<String>,
) -> Result<(), Mistyped> {
    let mut drop = Vec::new();
    for (key, value) in map.iter_mut() {
        let form = match known.binary_search_by(|(name, _)| (*name).cmp(key)) {
            Ok(i) => known[i].1,
            Err(_) if key == RULES && known.len() == KEYWORDS.len() => Form::Rules,
            Err(_) => {
                if unknown.len() < MAX_UNKNOWN {
                    unknown.push(format!("{path}.{key}"));
                }
                drop.push(key.clone());
                continue;
            }
        };
        let at = format!("{path}.{key}");
        if value.is_null() || !keep(value, form, &at, depth, unknown)? {
            drop.push(key.clone());
        }
    }
    for key in drop {
        map.remove(&key);
    }
    Ok(())
}

/// Brings one keyword into its form. Whether there is anything in it.
fn keep(value: &mut Value, form: Form, at: &str, depth: usize, unknown: &mut Vec<String>) -> Result<bool, Mistyped> {
    let kind = kind_of(value);
    let wrong = |wanted: &'static str| Err((at.to_owned(), wanted, kind.to_owned()));
    match (form, value) {
        (Form::Any, _) | (Form::Tristate, Value::Bool(_) | Value::String(_)) => Ok(true),
        (Form::Text, Value::String(s)) => Ok(!s.is_empty()),
        (Form::Flag, Value::Bool(b)) => Ok(*b),
        (Form::Number, Value::Number(_)) | (Form::SchemaOrBool, Value::Bool(_)) => Ok(true),
        (Form::Count, Value::Number(n)) if n.is_i64() => Ok(true),
        (Form::AnyList, Value::Array(list)) => Ok(!list.is_empty()),
        (Form::TextList, Value::Array(list)) => match list.iter().position(|v| !v.is_string()) {
            Some(i) => Err((format!("{at}[{i}]"), "string", kind_of(&list[i]).to_owned())),
            None => Ok(!list.is_empty()),
        },
        (Form::Schema | Form::SchemaOrBool | Form::SchemaOrList, schema @ Value::Object(_)) => {
            node(schema, at, depth + 1, unknown).map(|()| true)
        }
        (Form::SchemaList | Form::SchemaOrList, Value::Array(list)) => {
            for (i, schema) in list.iter_mut().enumerate() {
                node(schema, &format!("{at}[{i}]"), depth + 1, unknown)?;
            }
            Ok(!list.is_empty())
        }
        (Form::SchemaMap | Form::Dependencies, Value::Object(map)) => {
            for (name, schema) in map.iter_mut() {
                if form == Form::Dependencies && schema.is_array() {
                    continue;
                }
                node(schema, &format!("{at}[{name}]"), depth + 1, unknown)?;
            }
            Ok(!map.is_empty() || form == Form::Dependencies)
        }
        (Form::Docs, Value::Object(_)) => Ok(true),
        (Form::Rules, Value::Array(list)) => {
            for (i, rule) in list.iter_mut().enumerate() {
                let at = format!("{at}[{i}]");
                let found = kind_of(rule);
                let Some(map) = rule.as_object_mut() else {
                    return Err((at, "rule", found.to_owned()));
                };
                fields(map, &RULE, &at, depth, unknown)?;
                // Always there, though it may be empty.
                match map.entry("rule").or_insert_with(|| Value::String(String::new())) {
                    Value::String(_) => {}
                    other => return Err((format!("{at}.rule"), "string", kind_of(other).to_owned())),
                }
            }
            Ok(!list.is_empty())
        }
        (Form::Text | Form::Tristate, _) => wrong("string"),
        (Form::Flag, _) => wrong("bool"),
        (Form::Number, _) => wrong("float64"),
        (Form::Count, _) => wrong("int64"),
        (Form::Schema | Form::SchemaOrBool | Form::SchemaOrList | Form::Docs, _) => wrong("schema"),
        (Form::AnyList | Form::TextList | Form::SchemaList | Form::Rules, _) => wrong("list"),
        (Form::SchemaMap | Form::Dependencies, _) => wrong("map"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keywords_stand_in_order() {
        assert!(KEYWORDS.is_sorted_by_key(|(name, _)| *name) && RULE.is_sorted_by_key(|(name, _)| *name));
    }

    #[test]
    fn unknown_and_empty_keywords_go_and_wrong_ones_are_named() {
        let definition = |schema: Value| json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": schema}}]}});
        let mut unknown = Vec::new();
        let mut d = definition(
            json!({"type": "object", "nullable": false, "required": [], "foo": 1, "properties": {
            "a": {"type": "string", "title": "", "bar": {}, "default": null, "maxLength": 3,
                "x-kubernetes-validations": [{"rule": "true", "what": 1}]}}}),
        );
        decode(&mut d, &mut unknown).unwrap();
        assert_eq!(
            d,
            definition(json!({"type": "object", "properties": {
                "a": {"type": "string", "maxLength": 3, "x-kubernetes-validations": [{"rule": "true"}]}}}))
        );
        unknown.sort();
        let at = "spec.versions[0].schema.openAPIV3Schema";
        assert_eq!(
            unknown,
            [
                format!("{at}.foo"),
                format!("{at}.properties[a].bar"),
                format!("{at}.properties[a].x-kubernetes-validations[0].what"),
            ]
        );
        for (wrong, field) in [
            (json!({"type": 3}), "type"),
            (json!({"minimum": "1"}), "minimum"),
            (json!({"maxItems": 1.5}), "maxItems"),
            (json!({"required": "a"}), "required"),
            (json!({"required": [1]}), "required[0]"),
            (json!({"properties": []}), "properties"),
            (json!({"properties": {"a": true}}), "properties[a]"),
            (json!({"items": 3}), "items"),
            (json!({"nullable": "yes"}), "nullable"),
        ] {
            let (path, ..) = decode(&mut definition(wrong), &mut Vec::new()).unwrap_err();
            assert_eq!(path, format!("{at}.{field}"));
        }
        decode(&mut json!({"spec": 3}), &mut Vec::new()).unwrap();
    }
}
