//! Validation of a value against its schema, one [`Cause`] for each thing that is wrong, as clients know them from other servers: a value of the
//! wrong type is held against the rest of its schema as well, and what a combination (`anyOf` and the like) says has no field of its own.
//!
//! An update is not refused for what was wrong before and did not change.

use std::cell::Cell;

use serde_json::{Map, Number, Value};

use super::{Additional, Checks, ListType, Schema, Type, embedded, formats, shape::kind_of};
use crate::api::status::Cause;

/// More causes than this help nobody and cost memory.
const MAX_CAUSES: usize = 100;
/// What one validation may cost: some ten for each part of a value that is held against a part of a schema, and for a text that is searched its
/// length times the size of the pattern. A second or so at most, whatever the schema and the value.
const MAX_STEPS: u64 = 50_000_000;
const PER_NODE: u64 = 10;
/// Bytes of a pattern's program that count as one.
const PER_PROGRAM: u64 = 4096;
/// The field of causes that have none.
const NO_FIELD: &str = "<nil>";

/// Validates a whole object against its former state, if it has one. `apiVersion`, `kind` and `metadata` are the caller's.
pub(crate) fn object(value: &Value, old: Option<&Value>, schema: &Schema) -> Vec<Cause> {
    part(value, old, schema, "")
}

/// Validates the status of an object, which is all that a write to it may change.
pub(crate) fn status(value: &Value, old: Option<&Value>, schema: &Schema) -> Vec<Cause> {
    match (value.get("status"), schema.member("status")) {
        (Some(value), Some(schema)) => part(value, old.and_then(|o| o.get("status")), schema, "status"),
        _ => Vec::new(),
    }
}

fn part(value: &Value, old: Option<&Value>, schema: &Schema, path: &str) -> Vec<Cause> {
    if old == Some(value) {
        return Vec::new();
    }
    let steps = Cell::new(MAX_STEPS);
    let mut found = Found::new(&steps);
    node(value, old, schema, path, &mut found);
    let mut found = found.finished(path);
    resources(value, schema, path, &mut found.causes);
    let mut twice = Vec::new();
    duplicates(value, schema, path, &mut twice);
    if !twice.is_empty() {
        let mut before = Vec::new();
        if let Some(old) = old {
            duplicates(old, schema, path, &mut before);
        }
        if before.is_empty() {
            found.causes.append(&mut twice);
        }
    }
    found.causes
}

/// Validates a default, which nobody asks whether it repeats itself.
pub(crate) fn default(value: &Value, schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    let steps = Cell::new(MAX_STEPS);
    let mut found = Found::new(&steps);
    node(value, None, schema, path, &mut found);
    let mut found = found.finished(path);
    resources(value, schema, path, &mut found.causes);
    for mut cause in found.causes {
        if cause.field == NO_FIELD {
            path.clone_into(&mut cause.field);
        }
        causes.push(cause);
    }
}

/// What was found, and how much was right: of several failed alternatives the one that was nearest is shown.
struct Found<'s> {
    causes: Vec<Cause>,
    right: u32,
    /// What may still be spent, on all alternatives together.
    steps: &'s Cell<u64>,
}

impl<'s> Found<'s> {
    const fn new(steps: &'s Cell<u64>) -> Self {
        Self {
            causes: Vec::new(),
            right: 0,
            steps,
        }
    }

    /// Whether there is something left to spend.
    fn spend(&self, n: u64) -> bool {
        let left = self.steps.get().saturating_sub(n);
        self.steps.set(left);
        left > 0
    }

    /// What was not looked at is not valid.
    fn finished(mut self, path: &str) -> Self {
        if self.steps.get() == 0 {
            let why = "the value is too large for the alternatives and patterns of its schema";
            self.causes.push(Cause::invalid(path, "\"\"", why));
        }
        self
    }

    fn push(&mut self, cause: Cause) {
        if self.causes.len() < MAX_CAUSES {
            self.causes.push(cause);
        }
    }

    fn bad(&mut self, path: &str, value: &Value, why: &str) {
        self.push(Cause::invalid(path, &quoted(value), &format!("{path} in body {why}")));
    }

    fn combined(&mut self, path: &str, why: &str) {
        self.push(Cause::invalid(NO_FIELD, "\"\"", &format!("\"{path}\" {why}")));
    }

    fn merge(&mut self, other: Self) {
        self.right = self.right.saturating_add(other.right);
        for cause in other.causes {
            self.push(cause);
        }
    }
}

fn node(value: &Value, old: Option<&Value>, schema: &Schema, path: &str, found: &mut Found<'_>) {
    if old == Some(value) || found.causes.len() >= MAX_CAUSES || !found.spend(PER_NODE) {
        return;
    }
    found.right += 1;
    if right_type(value, schema) {
        found.right += 1;
    } else {
        let wanted = match (schema.int_or_string, &schema.format, value) {
            (true, ..) => "integer,string",
            (_, Some(format), Value::Number(_)) => format,
            _ => schema.ty.map_or("object", Type::name),
        };
        found.push(Cause::type_invalid(
            path,
            &quoted(value),
            &format!("{path} in body must be of type {wanted}: \"{}\"", kind_of(value)),
        ));
    }
    if let (Some(checks), false) = (&schema.checks, value.is_null()) {
        combine(value, checks, path, found);
    }
    match value {
        Value::Object(map) => members(map, old, schema, path, found),
        Value::Array(list) => items(list, old, schema, path, found),
        Value::String(text) => {
            if let Some(checks) = &schema.checks {
                words(text, value, checks, path, found);
            }
            if let Some(format) = schema.format.as_deref().filter(|_| schema.ty == Some(Type::String))
                && !formats::fits(format, text)
            {
                let why = format!("{path} in body must be of type {format}: {}", quoted(value));
                found.push(Cause::type_invalid(path, &quoted(value), &why));
            }
        }
        Value::Number(n) => numbers(n, value, schema, path, found),
        Value::Bool(_) | Value::Null => {}
    }
    if let Some(checks) = &schema.checks
        && !checks.enumeration.is_empty()
        && !checks.enumeration.iter().any(|e| same(e, value))
    {
        let list: Vec<String> = checks
            .enumeration
            .iter()
            .map(|e| e.as_str().map_or_else(|| e.to_string(), str::to_owned))
            .collect();
        let list: Vec<&str> = list.iter().map(String::as_str).collect();
        found.push(Cause::not_supported(path, &quoted(value), &list));
    }
}

/// A whole number as other servers read it: within 64 bits, with a fraction of zero at most.
fn whole(n: &Number) -> Option<i64> {
    n.as_i64().or_else(|| {
        let f = n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9.2e18)?;
        #[allow(clippy::cast_possible_truncation)]
        Some(f as i64)
    })
}

fn right_type(value: &Value, schema: &Schema) -> bool {
    if value.is_null() {
        return schema.nullable || (schema.ty.is_none() && !schema.int_or_string);
    }
    match schema.ty {
        None if schema.int_or_string => match value {
            Value::String(_) => true,
            Value::Number(n) => whole(n).is_some(),
            _ => false,
        },
        None => true,
        Some(Type::Object) => value.is_object(),
        Some(Type::Array) => value.is_array(),
        Some(Type::String) => value.is_string(),
        Some(Type::Boolean) => value.is_boolean(),
        Some(Type::Number) => value.is_number(),
        Some(Type::Integer) => matches!(value, Value::Number(n) if whole(n).is_some()),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn members(map: &Map<String, Value>, old: Option<&Value>, schema: &Schema, path: &str, found: &mut Found<'_>) {
    if let Some(checks) = &schema.checks {
        let count = map.len() as u64;
        if let Some(b) = checks.min_properties.filter(|b| count < *b) {
            let why = format!("{path} in body should have at least {b} properties");
            found.push(Cause::invalid(path, &count.to_string(), &why));
        }
        if let Some(b) = checks.max_properties.filter(|b| count > *b) {
            found.push(Cause::too_many(path, map.len(), b));
        }
    }
    for (name, member) in map {
        if let Some(s) = schema.member(name) {
            node(member, old.and_then(|o| o.get(name)), s, &join(path, name), found);
        }
    }
    for name in &schema.required {
        if !map.contains_key(name.as_ref()) {
            found.push(Cause::required(join(path, name), ""));
        }
    }
}

fn items(list: &[Value], old: Option<&Value>, schema: &Schema, path: &str, found: &mut Found<'_>) {
    if let Some(s) = &schema.items {
        // Items can be compared with what they were only where they have keys.
        let keys = match &schema.list {
            ListType::Map(keys) => old.and_then(Value::as_array).map(|o| (keys, o)),
            _ => None,
        };
        for (i, item) in list.iter().enumerate() {
            let former = keys.and_then(|(keys, old)| old.iter().find(|o| keys.iter().all(|k| o.get(k) == item.get(k))));
            node(item, former, s, &format!("{path}[{i}]"), found);
        }
    }
    let Some(checks) = &schema.checks else { return };
    let count = list.len() as u64;
    if let Some(b) = checks.min_items.filter(|b| count < *b) {
        let why = format!("{path} in body should have at least {b} items");
        found.push(Cause::invalid(path, &count.to_string(), &why));
    }
    if let Some(b) = checks.max_items.filter(|b| count > *b) {
        found.push(Cause::too_many(path, list.len(), b));
    }
}

/// The first thing that is wrong with a text.
fn words(text: &str, value: &Value, checks: &Checks, path: &str, found: &mut Found<'_>) {
    found.spend(text.len() as u64 / 10);
    let count = text.chars().count() as u64;
    if let Some(b) = checks.max_length.filter(|b| count > *b) {
        found.push(Cause::too_long(path, b));
    } else if let Some(b) = checks.min_length.filter(|b| count < *b) {
        found.bad(path, value, &format!("should be at least {b} chars long"));
    } else if let Some(p) = &checks.pattern
        && found.spend((text.len() as u64).saturating_mul(1 + p.memory() as u64 / PER_PROGRAM))
        && !p.found_in(text)
    {
        found.bad(path, value, &format!("should match '{}'", p.source()));
    }
}

fn numbers(n: &Number, value: &Value, schema: &Schema, path: &str, found: &mut Found<'_>) {
    let x = n.as_f64().unwrap_or(f64::NAN);
    let int = whole(n);
    let format = schema.format.as_deref().unwrap_or_default();
    let fits = match (schema.ty, format) {
        (Some(Type::Integer), "int32") => int.is_some_and(|i| i32::try_from(i).is_ok()),
        (Some(Type::Integer), _) => int.is_some(),
        (_, "float") => x.abs() <= f64::from(f32::MAX),
        _ => true,
    };
    if !fits {
        let ty = schema.ty.map_or("number", Type::name);
        let why = match format {
            "" => format!("Checked value must be of type {ty} (default format) in {path}"),
            format => format!("Checked value must be of type {ty} with format {format} in {path}"),
        };
        found.push(Cause::invalid(NO_FIELD, "\"\"", &why));
    }
    let Some(checks) = &schema.checks else { return };
    // Whole numbers are held against the whole part of a bound.
    let bound = |b: f64| if n.is_f64() { b } else { b.trunc() };
    if let Some(m) = checks.multiple_of {
        let factor = bound(m);
        let off = match int.filter(|_| !n.is_f64()) {
            #[allow(clippy::cast_possible_truncation)]
            Some(i) => factor <= 0.0 || i % (factor as i64) != 0,
            None => {
                let q = if factor < 1.0 { x * (1.0 / factor) } else { x / factor };
                (q - q.round()).abs() > 1e-9 * q.abs().max(1.0)
            }
        };
        if off {
            found.bad(path, value, &format!("should be a multiple of {m}"));
        }
    }
    if let Some(b) = checks.minimum {
        if checks.exclusive_minimum && x <= bound(b) {
            found.bad(path, value, &format!("should be greater than {b}"));
        } else if x < bound(b) {
            found.bad(path, value, &format!("should be greater than or equal to {b}"));
        }
    }
    if let Some(b) = checks.maximum {
        if checks.exclusive_maximum && x >= bound(b) {
            found.bad(path, value, &format!("should be less than {b}"));
        } else if x > bound(b) {
            found.bad(path, value, &format!("should be less than or equal to {b}"));
        }
    }
}

fn combine(value: &Value, checks: &Checks, path: &str, found: &mut Found<'_>) {
    let steps = found.steps;
    let attempt = |part: &Schema| {
        let mut found = Found::new(steps);
        node(value, None, part, path, &mut found);
        found
    };
    if !checks.any_of.is_empty() {
        let mut best: Option<Found<'_>> = None;
        let mut fits = false;
        for part in &checks.any_of {
            let one = attempt(part);
            if one.causes.is_empty() {
                fits = true;
                best = None;
                break;
            }
            if best.as_ref().is_none_or(|b| one.right > b.right) {
                best = Some(one);
            }
        }
        if !fits {
            found.combined(path, "must validate at least one schema (anyOf)");
        }
        if let Some(best) = best {
            found.merge(best);
        }
    }
    if !checks.one_of.is_empty() {
        let mut best: Option<Found<'_>> = None;
        let mut count = 0;
        for part in &checks.one_of {
            let one = attempt(part);
            if one.causes.is_empty() {
                count += 1;
                best = None;
            } else if count == 0 && best.as_ref().is_none_or(|b| one.right > b.right) {
                best = Some(one);
            }
        }
        if count != 1 {
            let tail = if count == 0 {
                "Found none valid".to_owned()
            } else {
                format!("Found {count} valid alternatives")
            };
            found.combined(path, &format!("must validate one and only one schema (oneOf). {tail}"));
            if let Some(best) = best {
                found.merge(best);
            }
        }
    }
    let mut failed = 0;
    for part in &checks.all_of {
        let one = attempt(part);
        failed += usize::from(!one.causes.is_empty());
        found.merge(one);
    }
    if failed > 0 {
        let tail = if failed == checks.all_of.len() {
            ". None validated"
        } else {
            ""
        };
        found.combined(path, &format!("must validate all the schemas (allOf){tail}"));
    }
    if checks.not.as_deref().is_some_and(|not| attempt(not).causes.is_empty()) {
        found.combined(path, "must not validate the schema (not)");
    }
}

/// Calls `f` for each part of a value that its schema knows.
fn each(value: &Value, schema: &Schema, path: &str, f: &mut dyn FnMut(&Value, &Schema, &str)) {
    match value {
        Value::Object(map) => {
            for (name, member) in map {
                if let Some(s) = schema.properties.get(name.as_str()) {
                    f(member, s, &join(path, name));
                } else if let Additional::Of(s) = &schema.additional {
                    f(member, s, &format!("{path}[{name}]"));
                }
            }
        }
        Value::Array(list) => {
            if let Some(s) = &schema.items {
                for (i, item) in list.iter().enumerate() {
                    f(item, s, &format!("{path}[{i}]"));
                }
            }
        }
        _ => {}
    }
}

/// The identity of objects within objects.
fn resources(value: &Value, schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    if !schema.has_embedded {
        return;
    }
    if let Some(map) = value.as_object().filter(|_| schema.embedded) {
        embedded::check(map, path, causes);
    }
    each(value, schema, path, &mut |v, s, p| resources(v, s, p, causes));
}

/// Items of sets and keys of lists that stand twice; each is named once.
fn duplicates(value: &Value, schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    if !schema.has_unique {
        return;
    }
    if let Some(list) = value.as_array() {
        let identity = |item: &Value| match &schema.list {
            ListType::Atomic => None,
            ListType::Set => Some(item.to_string()),
            ListType::Map(keys) => {
                let parts: Vec<String> = keys
                    .iter()
                    .filter_map(|k| Some(format!("\"{k}\":{}", item.get(k)?)))
                    .collect();
                Some(format!("{{{}}}", parts.join(",")))
            }
        };
        let mut seen: std::collections::BTreeMap<String, bool> = std::collections::BTreeMap::new();
        for (i, item) in list.iter().enumerate() {
            let Some(id) = identity(item) else { break };
            match seen.get_mut(&id) {
                None => {
                    seen.insert(id, false);
                }
                Some(told) => {
                    if !std::mem::replace(told, true) && causes.len() < MAX_CAUSES {
                        causes.push(Cause::duplicate(format!("{path}[{i}]"), &id));
                    }
                }
            }
        }
    }
    each(value, schema, path, &mut |v, s, p| duplicates(v, s, p, causes));
}

/// Equality of JSON values where 1 and 1.0 are one number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        // A whole number is compared with the whole part.
        (Value::Number(x), Value::Number(y)) if x.is_f64() => x.as_f64() == y.as_f64(),
        (Value::Number(x), Value::Number(y)) => x.as_f64() == y.as_f64().map(f64::trunc),
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
