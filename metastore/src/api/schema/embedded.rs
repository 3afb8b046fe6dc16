//! Objects within objects (`x-kubernetes-embedded-resource`): they have an identity of their own, which is read and checked like that of
//! a whole object.

use serde_json::{Map, Value};

use super::{Additional, Schema, shape, types};
use crate::api::meta;
use crate::api::names::NameRule;
use crate::api::status::Cause;

/// Reads the identity of embedded objects: unknown metadata is dropped and named.
///
/// # Errors
/// The first one that is malformed, for people.
pub(crate) fn decode(value: &mut Value, schema: &Schema, path: &str, unknown: &mut Vec<String>) -> Result<(), String> {
    if !schema.has_embedded {
        return Ok(());
    }
    match value {
        Value::Object(map) => {
            if schema.embedded {
                decode_one(map, path, unknown)?;
            }
            for (name, member) in map.iter_mut() {
                if let Some(s) = schema.properties.get(name.as_str()) {
                    decode(member, s, &join(path, name), unknown)?;
                } else if let Additional::Of(s) = &schema.additional {
                    decode(member, s, &format!("{path}[{name}]"), unknown)?;
                }
            }
        }
        Value::Array(list) => {
            if let Some(s) = &schema.items {
                for (i, item) in list.iter_mut().enumerate() {
                    decode(item, s, &format!("{path}[{i}]"), unknown)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn decode_one(map: &mut Map<String, Value>, path: &str, unknown: &mut Vec<String>) -> Result<(), String> {
    for key in ["apiVersion", "kind"] {
        if let Some(value) = map.get(key).filter(|v| !v.is_string()) {
            return Err(format!("{}: Invalid value: {value}: must be a string", join(path, key)));
        }
    }
    let Some(metadata) = map.get_mut("metadata") else {
        return Ok(());
    };
    let at = join(path, "metadata");
    let schema = types::object_meta();
    shape::drop_nulls(metadata, &schema);
    if let Some((field, wanted, found)) = shape::mistyped(metadata, &schema) {
        let field = if field.is_empty() { at } else { format!("{at}.{field}") };
        return Err(format!(
            "{at}: Invalid value: json: cannot unmarshal {found} into {field} of type {wanted}",
            at = join(path, "metadata")
        ));
    }
    let mut names = Vec::new();
    shape::prune(metadata, &schema, false, &mut names);
    unknown.extend(names.into_iter().map(|n| format!("{at}.{n}")));
    Ok(())
}

/// Finds what is wrong with the identity of an embedded object.
pub(crate) fn check(map: &Map<String, Value>, path: &str, causes: &mut Vec<Cause>) {
    let at = |key: &str| join(path, key);
    let quoted = |text: &str| format!("{text:?}");
    match map.get("apiVersion").map(|v| v.as_str().unwrap_or_default()) {
        None => causes.push(Cause::required(at("apiVersion"), "")),
        Some("") => causes.push(Cause::invalid(at("apiVersion"), "\"\"", "must not be empty")),
        Some(text) if text.matches('/').count() > 1 => {
            let why = format!("unexpected GroupVersion string: {text}");
            causes.push(Cause::invalid(at("apiVersion"), &quoted(text), &why));
        }
        Some(_) => {}
    }
    match map.get("kind").map(|v| v.as_str().unwrap_or_default()) {
        None => causes.push(Cause::required(at("kind"), "")),
        Some("") => causes.push(Cause::invalid(at("kind"), "\"\"", "must not be empty")),
        Some(text) if NameRule::Label1035.check(&text.to_lowercase()).is_err() => {
            let why = "may have mixed case, but should otherwise be a DNS-1035 label";
            causes.push(Cause::invalid(at("kind"), &quoted(text), why));
        }
        Some(_) => {}
    }
    let Some(Value::Object(metadata)) = map.get("metadata") else {
        return;
    };
    let at = |key: &str| join(path, &format!("metadata.{key}"));
    let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default();
    let why = match name {
        "." | ".." => Some(format!("may not be {name:?}")),
        _ => name
            .find(['/', '%'])
            .map(|i| format!("may not contain {:?}", &name[i..=i])),
    };
    if let Some(why) = why {
        causes.push(Cause::invalid(at("name"), &quoted(name), &why));
    }
    if let Some(namespace) = metadata
        .get("namespace")
        .and_then(Value::as_str)
        .filter(|n| !n.is_empty())
        && let Err(why) = NameRule::Label.check(namespace)
    {
        causes.push(Cause::invalid(at("namespace"), &quoted(namespace), why));
    }
    let mut found = Vec::new();
    meta::check_parts(&Value::Object(map.clone()), &mut found);
    for mut cause in found {
        cause.field = join(path, &cause.field);
        causes.push(cause);
    }
}
