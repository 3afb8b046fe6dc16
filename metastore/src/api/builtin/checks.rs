//! The rules that parts of many kinds follow: selectors, ports, references. Every fault found is a cause of its own, named by its place.

use std::fmt;

use serde_json::{Map, Value};

pub(super) use crate::api::faults::{
    Faults, canonical_ip, cidr, data_key, dns_1035_label, dns_label, dns_subdomain, ip, label_key, label_value, masked,
    parse_cidr, parse_ip, path_segment, port_name, wildcard_subdomain,
};
use crate::api::status::Cause;

pub(super) const IMMUTABLE: &str = "field is immutable";
pub(super) const PORT: &str = "must be between 1 and 65535, inclusive";
pub(super) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub(super) const POSITIVE: &str = "must be greater than zero";

// ---- where ----

/// A place in an object, written down only when something is wrong there.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'p> {
    up: Option<&'p Self>,
    step: Step<'p>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'p> {
    Member(&'p str),
    Item(usize),
    Key(&'p str),
}

impl<'p> At<'p> {
    /// A member of the object itself.
    pub(super) const fn top(name: &'p str) -> Self {
        Self {
            up: None,
            step: Step::Member(name),
        }
    }

    pub(super) const fn member(&'p self, name: &'p str) -> Self {
        Self {
            up: Some(self),
            step: Step::Member(name),
        }
    }

    pub(super) const fn item(&'p self, index: usize) -> Self {
        Self {
            up: Some(self),
            step: Step::Item(index),
        }
    }

    pub(super) const fn key(&'p self, key: &'p str) -> Self {
        Self {
            up: Some(self),
            step: Step::Key(key),
        }
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(up) = self.up {
            up.fmt(f)?;
        }
        match self.step {
            Step::Member(name) if self.up.is_some() => write!(f, ".{name}"),
            Step::Member(name) => f.write_str(name),
            Step::Item(i) => write!(f, "[{i}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

impl From<At<'_>> for String {
    fn from(at: At<'_>) -> Self {
        at.to_string()
    }
}

// ---- reaching in ----

/// A text member, empty when absent.
pub(super) fn word<'v>(of: &'v Value, field: &str) -> &'v str {
    of.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A list member, empty when absent.
pub(super) fn items<'v>(of: &'v Value, field: &str) -> &'v [Value] {
    of.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The members of an object member.
pub(super) fn entries<'v>(of: &'v Value, field: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    of.get(field).and_then(Value::as_object).into_iter().flatten()
}

/// An object member that is there.
pub(super) fn part<'v>(of: &'v Value, field: &str) -> Option<&'v Value> {
    of.get(field).filter(|v| v.is_object())
}

/// A whole number that is there.
pub(super) fn whole(of: &Value, field: &str) -> Option<i64> {
    of.get(field).and_then(Value::as_i64)
}

pub(super) fn is_true(of: &Value, field: &str) -> bool {
    of.get(field) == Some(&Value::Bool(true))
}

/// The object member at `field`, made when it is not there.
pub(super) fn made<'v>(map: &'v mut Map<String, Value>, field: &str) -> Option<&'v mut Map<String, Value>> {
    map.entry(field.to_owned())
        .or_insert_with(|| Value::Object(Map::new()))
        .as_object_mut()
}

/// Sets a member that is absent, null or empty text.
pub(super) fn default_to(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    if map.get(field).is_none_or(|v| v.is_null() || v == "") {
        map.insert(field.to_owned(), value.into());
    }
}

// ---- saying so ----

/// One cause for each fault of a text.
pub(super) fn refuse(at: At<'_>, text: &str, faults: &[&str], causes: &mut Vec<Cause>) {
    for why in faults {
        causes.push(Cause::invalid(at, &format!("{text:?}"), why));
    }
}

/// A value that is there must be one of `known`; an empty one counts as absent.
pub(super) fn one_of(at: At<'_>, value: &str, known: &[&str], causes: &mut Vec<Cause>) {
    if !value.is_empty() {
        must_be_one_of(at, value, known, causes);
    }
}

/// A value must be one of `known`.
pub(super) fn must_be_one_of(at: At<'_>, value: &str, known: &[&str], causes: &mut Vec<Cause>) {
    if !known.contains(&value) {
        causes.push(Cause::not_supported(at, &format!("{value:?}"), known));
    }
}

/// A member may not change.
pub(super) fn unchanged(at: At<'_>, new: &Value, old: &Value, field: &str, causes: &mut Vec<Cause>) {
    if new.get(field) != old.get(field) {
        let value = new.get(field).map_or_else(|| "null".to_owned(), ToString::to_string);
        causes.push(Cause::invalid(at.member(field), &value, IMMUTABLE));
    }
}

/// A number that is there must not be negative.
pub(super) fn not_negative(at: At<'_>, number: Option<i64>, causes: &mut Vec<Cause>) {
    if let Some(n) = number.filter(|n| *n < 0) {
        causes.push(Cause::invalid(at, &n.to_string(), NOT_NEGATIVE));
    }
}

// ---- parts of many kinds ----

/// A number or name of a port.
pub(super) fn port_or_name(at: At<'_>, value: &Value, causes: &mut Vec<Cause>) {
    match value {
        Value::String(name) => refuse(at, name, &port_name(name), causes),
        other => port(at, other.as_i64().unwrap_or(0), causes),
    }
}

pub(super) fn port(at: At<'_>, number: i64, causes: &mut Vec<Cause>) {
    if !(1..=65535).contains(&number) {
        causes.push(Cause::invalid(at, &number.to_string(), PORT));
    }
}

/// Labels, or what must be like them.
pub(super) fn labels(at: At<'_>, of: &Value, field: &str, causes: &mut Vec<Cause>) {
    let at = at.member(field);
    for (key, value) in entries(of, field) {
        refuse(at, key, &label_key(key), causes);
        let value = value.as_str().unwrap_or_default();
        refuse(at, value, &label_value(value), causes);
    }
}

/// A `LabelSelector`.
pub(super) fn label_selector(at: At<'_>, selector: &Value, causes: &mut Vec<Cause>) {
    labels(at, selector, "matchLabels", causes);
    let terms = at.member("matchExpressions");
    for (i, term) in items(selector, "matchExpressions").iter().enumerate() {
        let at = terms.item(i);
        let values = items(term, "values");
        match word(term, "operator") {
            "In" | "NotIn" if values.is_empty() => causes.push(Cause::required(
                at.member("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => causes.push(Cause::forbidden(
                at.member("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => causes.push(Cause::invalid(
                at.member("operator"),
                &format!("{other:?}"),
                "not a valid selector operator",
            )),
        }
        let key = word(term, "key");
        refuse(at.member("key"), key, &label_key(key), causes);
        let list = at.member("values");
        for (v, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            refuse(list.item(v), value, &label_value(value), causes);
        }
    }
}

/// A term that selects nodes by labels or fields.
pub(super) fn node_selector_term(at: At<'_>, term: &Value, causes: &mut Vec<Cause>) {
    const NOT_AN_OPERATOR: &str = "not a valid selector operator";
    let list = at.member("matchExpressions");
    for (i, wanted) in items(term, "matchExpressions").iter().enumerate() {
        let at = list.item(i);
        let list = at.member("values");
        let values = items(wanted, "values");
        match word(wanted, "operator") {
            "In" | "NotIn" if values.is_empty() => causes.push(Cause::required(
                list,
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => causes.push(Cause::forbidden(
                list,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "Gt" | "Lt" if values.len() != 1 => causes.push(Cause::required(
                list,
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => refuse(at.member("operator"), other, &[NOT_AN_OPERATOR], causes),
        }
        let key = word(wanted, "key");
        refuse(at.member("key"), key, &label_key(key), causes);
        for (v, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            refuse(list.item(v), value, &label_value(value), causes);
        }
    }
    let list = at.member("matchFields");
    for (i, wanted) in items(term, "matchFields").iter().enumerate() {
        let at = list.item(i);
        let values = items(wanted, "values");
        match word(wanted, "operator") {
            "In" | "NotIn" if values.len() != 1 => causes.push(Cause::required(
                at.member("values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            )),
            "In" | "NotIn" => {}
            other => refuse(at.member("operator"), other, &[NOT_AN_OPERATOR], causes),
        }
        let key = word(wanted, "key");
        if key != "metadata.name" {
            refuse(at.member("key"), key, &["not a valid field selector key"], causes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn places_read_as_paths() {
        let spec = At::top("spec");
        let list = spec.member("ports");
        assert_eq!(list.item(2).member("name").to_string(), "spec.ports[2].name");
        assert_eq!(At::top("data").key("a b").to_string(), "data[a b]");
    }

    #[test]
    fn a_selector_is_checked_term_by_term() {
        let selector = json!({"matchLabels":{"a":"b c"},"matchExpressions":[
            {"key":"a","operator":"In"},{"key":"","operator":"Exists","values":["x"]},{"key":"a","operator":"Odd"}]});
        let mut causes = Vec::new();
        label_selector(At::top("spec"), &selector, &mut causes);
        let fields: Vec<&str> = causes.iter().map(|c| c.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "spec.matchLabels",
                "spec.matchExpressions[0].values",
                "spec.matchExpressions[1].values",
                "spec.matchExpressions[1].key",
                "spec.matchExpressions[1].key",
                "spec.matchExpressions[2].operator"
            ]
        );
    }
}
