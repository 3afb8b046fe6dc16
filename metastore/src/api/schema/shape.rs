//! Pruning and defaulting: an object is brought into the shape of its schema before anybody looks at it.

use serde_json::{Map, Value};

use super::{Additional, Schema, Type, quantity, times};

/// How many unknown fields are named in a message; the rest are counted by nobody.
const MAX_UNKNOWN: usize = 100;

/// Removes what the schema does not know. The path of each removed field goes to `unknown` (`spec.list[0].bogus`).
/// `top`: the value is a whole object, whose `apiVersion`, `kind` and `metadata` are known without being in the schema.
pub(crate) fn prune(value: &mut Value, schema: &Schema, top: bool, unknown: &mut Vec<String>) {
    let mut path = String::new();
    walk(value, schema, top, &mut path, unknown);
}

fn walk(value: &mut Value, schema: &Schema, top: bool, path: &mut String, unknown: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let whole = top || schema.embedded;
            if !schema.preserve && schema.ty.is_none() && schema.properties.is_empty() {
                // int-or-string and the like: the type check speaks.
                return;
            }
            let before = path.len();
            map.retain(|name, member| {
                push_member(path, name);
                let keep = if let Some(s) = schema.member(name) {
                    walk(member, s, false, path, unknown);
                    true
                } else if whole && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") || schema.preserve {
                    true
                } else if matches!(schema.additional, Additional::Any) {
                    // Scalars only: nothing is known of what composite values hold.
                    empty(member, path, unknown);
                    true
                } else {
                    note(path, unknown);
                    false
                };
                path.truncate(before);
                keep
            });
        }
        Value::Array(list) => {
            let Some(items) = &schema.items else { return };
            let before = path.len();
            for (i, item) in list.iter_mut().enumerate() {
                path.push_str(&format!("[{i}]"));
                walk(item, items, false, path, unknown);
                path.truncate(before);
            }
        }
        _ => {}
    }
}

fn note(path: &str, unknown: &mut Vec<String>) {
    if unknown.len() < MAX_UNKNOWN {
        unknown.push(path.to_owned());
    }
}

/// Takes all members out of the objects of a value without a schema.
fn empty(value: &mut Value, path: &mut String, unknown: &mut Vec<String>) {
    let before = path.len();
    match value {
        Value::Object(map) => {
            for name in map.keys() {
                push_member(path, name);
                note(path, unknown);
                path.truncate(before);
            }
            map.clear();
        }
        Value::Array(list) => {
            for (i, item) in list.iter_mut().enumerate() {
                path.push_str(&format!("[{i}]"));
                empty(item, path, unknown);
                path.truncate(before);
            }
        }
        _ => {}
    }
}

fn push_member(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// Fills in defaults, and drops nulls where null is not a value, as the API does before anything else reads the object.
pub(crate) fn default(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(map) => {
            map.retain(|name, member| {
                !member.is_null() || schema.member(name).is_none_or(|s| s.nullable || s.default.is_some())
            });
            for (name, member) in &schema.properties {
                if let Some(d) = &member.default
                    && !map.contains_key(name.as_ref())
                {
                    map.insert(name.to_string(), d.clone());
                }
            }
            for (name, member) in map.iter_mut() {
                if let Some(s) = schema.member(name) {
                    if member.is_null()
                        && !s.nullable
                        && let Some(d) = &s.default
                    {
                        *member = d.clone();
                    }
                    default(member, s);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                for item in list {
                    if item.is_null()
                        && !items.nullable
                        && let Some(d) = &items.default
                    {
                        *item = d.clone();
                    }
                    default(item, items);
                }
            }
        }
        _ => {}
    }
}

fn takes_null(schema: &Schema) -> bool {
    schema.nullable || (schema.ty.is_none() && schema.preserve && !schema.int_or_string)
}

/// Drops nulls anywhere in a value that the schema does not describe as nullable.
pub(crate) fn drop_nulls(value: &mut Value, schema: &Schema) {
    clean(value, schema, false);
}

/// Brings a value of a built-in kind into the one form that such have on the wire: without nulls, without zeros that say no more than nothing,
/// with quantities in their one spelling.
pub(crate) fn tidy(value: &mut Value, schema: &Schema) {
    clean(value, schema, true);
}

fn clean(value: &mut Value, schema: &Schema, zeros: bool) {
    match value {
        Value::Object(map) => {
            map.retain(|name, member| match schema.member(name) {
                Some(s) => {
                    if member.is_null() && !takes_null(s) {
                        // A null in a map of texts is an empty text: the key is there.
                        let text = s.ty == Some(Type::String) && s.format.as_deref().is_none_or(|f| f == "byte");
                        if !text || schema.properties.contains_key(name.as_str()) {
                            return false;
                        }
                        *member = Value::String(String::new());
                    } else if zeros && (s.omit || s.default == Some(Value::Null)) && is_zero(member, s) {
                        return false;
                    }
                    clean(member, s, zeros);
                    true
                }
                None => true,
            });
        }
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                for item in list {
                    clean(item, items, zeros);
                }
            }
        }
        Value::String(_) | Value::Number(_) if zeros && is_quantity(schema) => {
            if let Some(text) = quantity::canonical(value) {
                *value = Value::String(text);
            }
        }
        Value::String(text) if zeros => {
            if let Some(micro) = is_time(schema)
                && let Some(one) = times::canonical(text, micro)
            {
                *text = one;
            }
        }
        _ => {}
    }
}

/// Whether a value of a built-in kind is a time, and in microseconds.
fn is_time(schema: &Schema) -> Option<bool> {
    match schema.format.as_deref() {
        Some(times::TIME) => Some(false),
        Some(times::MICRO) => Some(true),
        _ => None,
    }
}

fn is_quantity(schema: &Schema) -> bool {
    schema.int_or_string && schema.format.as_deref() == Some(quantity::FORMAT)
}

/// Whether a value is the zero of its type.
fn is_zero(value: &Value, schema: &Schema) -> bool {
    match (schema.ty, value) {
        (Some(Type::Boolean), Value::Bool(b)) => !b,
        (Some(Type::Integer | Type::Number), Value::Number(n)) => n.as_i64() == Some(0),
        (Some(Type::String), Value::String(s)) => s.is_empty(),
        (Some(Type::Array), Value::Array(a)) => a.is_empty(),
        (Some(Type::Object), Value::Object(o)) => o.is_empty(),
        _ => false,
    }
}

/// The first value whose JSON type is not the schema's, as (path, wanted, found): built-in kinds are decoded before they are validated,
/// and a wrong type there is a malformed request.
pub(crate) fn mistyped(value: &Value, schema: &Schema) -> Option<(String, &'static str, String)> {
    let mut path = String::new();
    find_mistyped(value, schema, &mut path)
}

fn find_mistyped(value: &Value, schema: &Schema, path: &mut String) -> Option<(String, &'static str, String)> {
    let wanted = match (schema.ty, value) {
        (_, Value::Null) | (None, _) if !schema.int_or_string => None,
        (_, Value::Null) => None,
        (None, Value::Number(_) | Value::String(_)) if is_quantity(schema) => {
            quantity::canonical(value).is_none().then_some("quantity")
        }
        (None, Value::Number(_) | Value::String(_)) => None,
        (None, _) => Some("int or string"),
        (Some(Type::Object), Value::Object(_))
        | (Some(Type::Array), Value::Array(_))
        | (Some(Type::Boolean), Value::Bool(_))
        | (Some(Type::Number), Value::Number(_)) => None,
        (Some(Type::Integer), Value::Number(n)) if n.is_i64() || n.is_u64() => None,
        (Some(Type::String), Value::String(s)) => {
            if schema.format.as_deref() == Some("byte") && !is_base64(s) {
                return Some((path.clone(), "base64 text", "illegal base64 data".to_owned()));
            }
            if is_time(schema).is_some_and(|micro| times::canonical(s, micro).is_none()) {
                return Some((path.clone(), "RFC 3339 time", format!("{s:?}")));
            }
            None
        }
        (Some(t), _) => Some(t.name()),
    };
    if let Some(wanted) = wanted {
        return Some((path.clone(), wanted, kind_of(value).to_owned()));
    }
    let before = path.len();
    match value {
        Value::Object(map) => find_in_members(map, schema, path, before),
        Value::Array(list) => {
            let items = schema.items.as_ref()?;
            for (i, item) in list.iter().enumerate() {
                path.push_str(&format!("[{i}]"));
                if let Some(found) = find_mistyped(item, items, path) {
                    return Some(found);
                }
                path.truncate(before);
            }
            None
        }
        _ => None,
    }
}

fn find_in_members(
    map: &Map<String, Value>,
    schema: &Schema,
    path: &mut String,
    before: usize,
) -> Option<(String, &'static str, String)> {
    for (name, member) in map {
        if let Some(s) = schema.member(name) {
            push_member(path, name);
            if let Some(found) = find_mistyped(member, s, path) {
                return Some(found);
            }
            path.truncate(before);
        }
    }
    None
}

pub(crate) const fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_base64(text: &str) -> bool {
    use base64::Engine as _;
    // Line breaks are allowed inside, as in the reference decoder.
    if text.contains(['\n', '\r']) {
        let joined: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        return base64::engine::general_purpose::STANDARD.decode(joined).is_ok();
    }
    base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}
