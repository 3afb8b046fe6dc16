//! Values of rules from JSON, as the schema says what they are.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use kube_cel::cel::Value as Cel;
use kube_cel::cel::objects::{Key, Map};
use serde_json::Value;

use super::types::{Decl, Kind};

pub(super) fn text(value: impl Into<String>) -> Cel {
    Cel::String(Arc::new(value.into()))
}

fn map(entries: impl Iterator<Item = (String, Cel)>) -> Cel {
    let map: HashMap<Key, Cel> = entries.map(|(k, v)| (Key::String(Arc::new(k)), v)).collect();
    Cel::Map(Map { map: Arc::new(map) })
}

/// A value under a node of the schema. What the schema does not declare, rules do not see.
pub(super) fn of(value: &Value, decl: &Decl) -> Cel {
    match (&decl.kind, value) {
        (_, Value::Null) => Cel::Null,
        (Kind::Object(members), Value::Object(have)) => map(members
            .iter()
            .filter_map(|(name, (word, decl))| Some((word.to_string(), of(have.get(&**name)?, decl))))),
        (Kind::Map(decl), Value::Object(have)) => map(have.iter().map(|(k, v)| (k.clone(), of(v, decl)))),
        (Kind::List(decl), Value::Array(have)) => Cel::List(Arc::new(have.iter().map(|v| of(v, decl)).collect())),
        (Kind::Double, Value::Number(n)) => Cel::Float(n.as_f64().unwrap_or(f64::NAN)),
        (Kind::Int, Value::Number(n)) => Cel::Int(whole(n)),
        (Kind::Bytes, Value::String(s)) => base64::engine::general_purpose::STANDARD
            .decode(s)
            .map_or_else(|_| text(s.clone()), |b| Cel::Bytes(Arc::new(b))),
        (Kind::Timestamp, Value::String(s)) => {
            chrono::DateTime::parse_from_rfc3339(s).map_or_else(|_| text(s.clone()), Cel::Timestamp)
        }
        (Kind::Date, Value::String(s)) => chrono::DateTime::parse_from_rfc3339(&format!("{s}T00:00:00Z"))
            .map_or_else(|_| text(s.clone()), Cel::Timestamp),
        (Kind::Duration, Value::String(s)) => duration(s).map_or_else(|| text(s.clone()), Cel::Duration),
        _ => free(value),
    }
}

/// A number of a schema's `integer`, which JSON may write with a fraction of zero.
#[allow(clippy::cast_possible_truncation)]
fn whole(n: &serde_json::Number) -> i64 {
    n.as_i64()
        .unwrap_or_else(|| n.as_f64().map_or(0, |f| f.clamp(-9.2e18, 9.2e18) as i64))
}

fn free(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(b) => Cel::Bool(*b),
        Value::Number(n) => n
            .as_i64()
            .map(Cel::Int)
            .or_else(|| n.as_u64().map(Cel::UInt))
            .unwrap_or_else(|| Cel::Float(n.as_f64().unwrap_or(f64::NAN))),
        Value::String(s) => text(s.clone()),
        Value::Array(list) => Cel::List(Arc::new(list.iter().map(free).collect())),
        Value::Object(have) => map(have.iter().map(|(k, v)| (k.clone(), free(v)))),
    }
}

/// A duration as programs of this API write it (`1h30m`), or as a number of units that people write (`3 days`).
pub(super) fn duration(text: &str) -> Option<chrono::Duration> {
    const UNITS: [(&str, f64); 9] = [
        ("ns", 1.0),
        ("us", 1e3),
        ("µs", 1e3),
        ("ms", 1e6),
        ("s", 1e9),
        ("m", 6e10),
        ("h", 3.6e12),
        ("d", 8.64e13),
        ("w", 6.048e14),
    ];
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(chrono::Duration::zero());
    }
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (_, factor) = UNITS.iter().find(|(unit, _)| *unit == rest[..end].trim())?;
        total += number * factor;
        rest = &rest[end..];
    }
    #[allow(clippy::cast_possible_truncation)]
    (total < 9.2e18).then(|| chrono::Duration::nanoseconds((sign * total) as i64))
}

/// How much there is in a value: what passing it on costs.
pub(super) fn weight(value: &Cel) -> u64 {
    match value {
        Cel::String(s) => s.len() as u64 / 10,
        Cel::Bytes(b) => b.len() as u64 / 10,
        Cel::List(list) => list.iter().map(|v| 1 + weight(v)).sum(),
        Cel::Map(m) => m.map.values().map(|v| 1 + weight(v)).sum(),
        _ => 1,
    }
}
