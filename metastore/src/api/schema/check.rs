//! Validation of a value against its schema, one [`Cause`] for each field that is wrong.

use serde_json::{Map, Value};

use super::{Additional, Checks, ListType, Schema, Type, shape::kind_of};
use crate::api::status::Cause;

/// More causes than this help nobody and cost memory.
const MAX_CAUSES: usize = 100;

/// Validates a whole object. `apiVersion`, `kind` and `metadata` are the caller's.
pub(crate) fn object(value: &Value, schema: &Schema) -> Vec<Cause> {
    let mut causes = Vec::new();
    node(value, schema, "", &mut causes);
    causes
}

/// Validates one value at `path`.
pub(crate) fn node(value: &Value, schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    if causes.len() >= MAX_CAUSES || (value.is_null() && schema.nullable) {
        return;
    }
    if !right_type(value, schema) {
        let wanted = if schema.int_or_string {
            "integer,string"
        } else {
            schema.ty.map_or("object", Type::name)
        };
        causes.push(Cause::type_invalid(
            path,
            &quoted(value),
            &format!("{path} in body must be of type {wanted}: \"{}\"", kind_of(value)),
        ));
        return;
    }
    match value {
        Value::Object(map) => members(map, schema, path, causes),
        Value::Array(list) => items(list, schema, path, causes),
        Value::String(text) => {
            if let Some(format) = &schema.format
                && !right_format(format, text)
            {
                causes.push(Cause::type_invalid(
                    path,
                    &quoted(value),
                    &format!("{path} in body must be of type {format}: {}", quoted(value)),
                ));
            }
        }
        _ => {}
    }
    if let Some(checks) = &schema.checks {
        narrow(value, checks, path, causes);
    }
}

fn right_type(value: &Value, schema: &Schema) -> bool {
    match schema.ty {
        None if schema.int_or_string => match value {
            Value::String(_) => true,
            Value::Number(n) => n.is_i64() || n.is_u64(),
            _ => false,
        },
        None => true,
        Some(Type::Object) => value.is_object(),
        Some(Type::Array) => value.is_array(),
        Some(Type::String) => value.is_string(),
        Some(Type::Boolean) => value.is_boolean(),
        Some(Type::Number) => value.is_number(),
        Some(Type::Integer) => match value {
            Value::Number(n) => n.is_i64() || n.is_u64() || n.as_f64().is_some_and(|f| f.fract() == 0.0),
            _ => false,
        },
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn members(map: &Map<String, Value>, schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    for name in &schema.required {
        if !map.contains_key(name.as_ref()) {
            causes.push(Cause::required(join(path, name), ""));
        }
    }
    let typed_map = matches!(schema.additional, Additional::Of(_));
    for (name, member) in map {
        if let Some(s) = schema.member(name)
            && (typed_map || schema.properties.contains_key(name.as_str()))
        {
            node(member, s, &join(path, name), causes);
        }
    }
    if schema.embedded {
        for name in ["apiVersion", "kind"] {
            if map.get(name).and_then(Value::as_str).is_none_or(str::is_empty) {
                causes.push(Cause::required(join(path, name), "must not be empty"));
            }
        }
    }
}

fn items(list: &[Value], schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    if let Some(s) = &schema.items {
        for (i, item) in list.iter().enumerate() {
            node(item, s, &format!("{path}[{i}]"), causes);
        }
    }
    let identity: Box<dyn Fn(&Value) -> String> = match &schema.list {
        ListType::Atomic => return,
        ListType::Set => Box::new(ToString::to_string),
        ListType::Map(keys) => Box::new(move |item| {
            let parts: Vec<String> = keys
                .iter()
                .map(|k| format!("\"{k}\":{}", item.get(k).unwrap_or(&Value::Null)))
                .collect();
            format!("{{{}}}", parts.join(","))
        }),
    };
    let mut seen = std::collections::BTreeSet::new();
    for (i, item) in list.iter().enumerate() {
        let id = identity(item);
        if seen.contains(&id) {
            causes.push(Cause::duplicate(format!("{path}[{i}]"), &id));
        } else {
            seen.insert(id);
        }
    }
}

fn narrow(value: &Value, checks: &Checks, path: &str, causes: &mut Vec<Cause>) {
    if !checks.enumeration.is_empty() && !checks.enumeration.iter().any(|e| same(e, value)) {
        let list: Vec<String> = checks
            .enumeration
            .iter()
            .map(|e| e.as_str().map_or_else(|| e.to_string(), str::to_owned))
            .collect();
        let list: Vec<&str> = list.iter().map(String::as_str).collect();
        causes.push(Cause::not_supported(path, &quoted(value), &list));
    }
    let mut bad = |why: String| {
        causes.push(Cause::invalid(path, &quoted(value), &format!("{path} in body {why}")));
    };
    match value {
        Value::Number(n) => {
            let x = n.as_f64().unwrap_or(0.0);
            if let Some(b) = checks.minimum {
                if checks.exclusive_minimum && x <= b {
                    bad(format!("should be greater than {b}"));
                } else if x < b {
                    bad(format!("should be greater than or equal to {b}"));
                }
            }
            if let Some(b) = checks.maximum {
                if checks.exclusive_maximum && x >= b {
                    bad(format!("should be less than {b}"));
                } else if x > b {
                    bad(format!("should be less than or equal to {b}"));
                }
            }
            if let Some(m) = checks.multiple_of {
                let q = x / m;
                if (q - q.round()).abs() > 1e-9 {
                    bad(format!("should be a multiple of {m}"));
                }
            }
        }
        Value::String(text) => {
            let count = text.chars().count() as u64;
            if let Some(b) = checks.min_length.filter(|b| count < *b) {
                bad(format!("should be at least {b} chars long"));
            }
            if let Some(p) = checks.pattern.as_ref().filter(|p| !p.found_in(text)) {
                bad(format!("should match '{}'", p.source()));
            }
            if let Some(b) = checks.max_length.filter(|b| count > *b) {
                causes.push(Cause::too_long(path, b));
            }
        }
        Value::Array(list) => {
            let count = list.len() as u64;
            if let Some(b) = checks.min_items.filter(|b| count < *b) {
                bad(format!("should have at least {b} items"));
            }
            if let Some(b) = checks.max_items.filter(|b| count > *b) {
                causes.push(Cause::too_many(path, list.len(), b));
            }
        }
        Value::Object(map) => {
            let count = map.len() as u64;
            if let Some(b) = checks.min_properties.filter(|b| count < *b) {
                bad(format!("should have at least {b} properties"));
            }
            if let Some(b) = checks.max_properties.filter(|b| count > *b) {
                causes.push(Cause::too_many(path, map.len(), b));
            }
        }
        _ => {}
    }
    combine(value, checks, path, causes);
}

fn combine(value: &Value, checks: &Checks, path: &str, causes: &mut Vec<Cause>) {
    for part in &checks.all_of {
        node(value, part, path, causes);
    }
    let fits = |part: &Schema| {
        let mut found = Vec::new();
        node(value, part, path, &mut found);
        found.is_empty()
    };
    let shown = quoted(value);
    if !checks.any_of.is_empty() && !checks.any_of.iter().any(fits) {
        causes.push(Cause::invalid(
            path,
            &shown,
            &format!("{path} in body must validate at least one schema (anyOf)"),
        ));
    }
    if !checks.one_of.is_empty() && checks.one_of.iter().filter(|s| fits(s)).count() != 1 {
        causes.push(Cause::invalid(
            path,
            &shown,
            &format!("{path} in body must validate one and only one schema (oneOf)"),
        ));
    }
    if checks.not.as_deref().is_some_and(fits) {
        causes.push(Cause::invalid(
            path,
            &shown,
            &format!("{path} in body must not validate the schema (not)"),
        ));
    }
}

/// Equality of JSON values where 1 and 1.0 are one number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x.as_f64() == y.as_f64(),
        _ => a == b,
    }
}

/// A value in a message; composite ones by their type, so that a message stays short and shows no secret.
fn quoted(value: &Value) -> String {
    match value {
        Value::Object(_) | Value::Array(_) => format!("\"{}\"", kind_of(value)),
        scalar => scalar.to_string(),
    }
}

/// The formats that the API enforces; unknown ones are documentation.
fn right_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok(),
        "byte" => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        "uuid" | "uuid3" | "uuid4" | "uuid5" => uuid::Uuid::parse_str(text).is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => text.split_once('/').is_some_and(|(ip, len)| {
            ip.parse::<std::net::IpAddr>().is_ok_and(|ip| {
                len.parse::<u8>()
                    .is_ok_and(|n| n <= if ip.is_ipv4() { 32 } else { 128 })
            })
        }),
        "mac" => {
            text.split([':', '-']).count() == 6
                && text
                    .split([':', '-'])
                    .all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
        }
        "uri" => text.parse::<http::Uri>().is_ok_and(|u| u.scheme().is_some()),
        "email" => text
            .split_once('@')
            .is_some_and(|(a, b)| !a.is_empty() && !b.is_empty()),
        _ => true,
    }
}
