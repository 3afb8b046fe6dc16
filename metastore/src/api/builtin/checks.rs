//! The rules that fields of many kinds follow: names, labels, selectors, ports, addresses. Each says every fault it finds, as a client is told
//! one cause for each.

use std::fmt;
use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::api::status::Cause;

/// What is wrong with a text; nothing when it is as it should be.
pub(super) type Faults = Vec<&'static str>;

const LONG_63: &str = "must be no more than 63 characters";
const LONG_253: &str = "must be no more than 253 characters";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
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

// ---- texts ----

pub(super) fn dns_label(text: &str) -> Faults {
    let mut out = Faults::new();
    if text.len() > 63 {
        out.push(LONG_63);
    }
    if !is_long_label(text) {
        out.push(LABEL);
    }
    out
}

/// A label whose length somebody else has looked at.
fn is_long_label(text: &str) -> bool {
    let b = text.as_bytes();
    !b.is_empty()
        && b.iter()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
        && b[0] != b'-'
        && b[b.len() - 1] != b'-'
}

pub(super) fn dns_subdomain(text: &str) -> Faults {
    let mut out = Faults::new();
    if text.len() > 253 {
        out.push(LONG_253);
    }
    if !text.split('.').all(is_long_label) {
        out.push(SUBDOMAIN);
    }
    out
}

pub(super) fn wildcard_subdomain(text: &str) -> Faults {
    let mut out = Faults::new();
    if text.len() > 253 {
        out.push(LONG_253);
    }
    if !text.strip_prefix("*.").is_some_and(|t| t.split('.').all(is_long_label)) {
        out.push("a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain");
    }
    out
}

pub(super) fn dns_1035_label(text: &str) -> Faults {
    let mut out = Faults::new();
    if text.len() > 63 {
        out.push(LONG_63);
    }
    if !(is_long_label(text) && text.as_bytes()[0].is_ascii_lowercase()) {
        out.push(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
        );
    }
    out
}

/// A name between alphanumeric ends, with `-`, `_` and `.` inside, of any length.
fn is_qualified(text: &str) -> bool {
    let b = text.as_bytes();
    !b.is_empty()
        && b.iter().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
        && b[0].is_ascii_alphanumeric()
        && b[b.len() - 1].is_ascii_alphanumeric()
}

/// A label key: an optional DNS prefix, and a name.
pub(super) fn label_key(text: &str) -> Faults {
    let mut out = Faults::new();
    let mut parts = text.split('/');
    let first = parts.next().unwrap_or_default();
    let name = match (parts.next(), parts.next()) {
        (None, _) => first,
        (Some(name), None) => {
            if first.is_empty() {
                out.push("prefix part must be non-empty");
            } else {
                out.extend(dns_subdomain(first));
            }
            name
        }
        _ => {
            out.push("a qualified name must consist of alphanumeric characters, '-', '_' or '.', with an optional DNS subdomain prefix and '/'");
            return out;
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty");
    } else if name.len() > 63 {
        out.push("name part must be no more than 63 characters");
    }
    if !is_qualified(name) {
        out.push("name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character");
    }
    out
}

pub(super) fn label_value(text: &str) -> Faults {
    let mut out = Faults::new();
    if text.len() > 63 {
        out.push(LONG_63);
    }
    if !text.is_empty() && !is_qualified(text) {
        out.push("a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character");
    }
    out
}

/// A key of the data of a ConfigMap or Secret.
pub(super) fn data_key(text: &str) -> Faults {
    let mut out = Faults::new();
    if text.len() > 253 {
        out.push(LONG_253);
    }
    let known = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if text.is_empty() || !text.bytes().all(known) {
        out.push("a valid config key must consist of alphanumeric characters, '-', '_' or '.'");
    }
    match text {
        "." => out.push("must not be '.'"),
        ".." => out.push("must not be '..'"),
        t if t.starts_with("..") => out.push("must not start with '..'"),
        _ => {}
    }
    out
}

/// The name of a port, as IANA has them.
pub(super) fn port_name(text: &str) -> Faults {
    let mut out = Faults::new();
    if text.len() > 15 {
        out.push("must be no more than 15 characters");
    }
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || !text.bytes().all(known) {
        out.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)");
    }
    if text.contains("--") {
        out.push("must not contain consecutive hyphens");
    }
    if text.starts_with('-') || text.ends_with('-') {
        out.push("must not begin or end with a hyphen");
    }
    out
}

/// A path segment that is a name: roles.
pub(super) fn path_segment(text: &str) -> Faults {
    if matches!(text, "." | "..") {
        return vec!["may not be '.' or '..'"];
    }
    let mut out = Faults::new();
    if text.contains('/') {
        out.push("may not contain '/'");
    }
    if text.contains('%') {
        out.push("may not contain '%'");
    }
    out
}

/// An address in the form that everybody reads alike.
pub(super) fn ip(text: &str) -> Faults {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => vec!["must not be an IPv4-mapped IPv6 address"],
        Ok(_) => Faults::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"],
    }
}

/// A range of addresses: the address, and the length of its prefix.
pub(super) fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    if length.len() > 3 || !length.bytes().all(|b| b.is_ascii_digit()) || (length.len() > 1 && length.starts_with('0'))
    {
        return None;
    }
    let length: u8 = length.parse().ok()?;
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

/// The address of a range with nothing set behind its prefix.
pub(super) fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

pub(super) fn cidr(text: &str) -> Faults {
    match parse_cidr(text) {
        None => vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"],
        Some((IpAddr::V6(v6), _)) if v6.to_ipv4_mapped().is_some() => {
            vec!["must not have an IPv4-mapped IPv6 address"]
        }
        Some((address, length)) if masked(address, length) != address => {
            vec!["must not have bits set beyond the prefix length"]
        }
        Some(_) => Faults::new(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_fault_of_a_text_is_said() {
        let long = "a".repeat(300);
        for (faults, count) in [
            (dns_label("a-1"), 0),
            (dns_label(""), 1),
            (dns_label("a.b"), 1),
            (dns_label(&"A".repeat(64)), 2),
            (dns_label("ü"), 1),
            (dns_subdomain("a.b"), 0),
            (dns_subdomain(&format!("{long}_")), 2),
            (wildcard_subdomain("*.a.b"), 0),
            (wildcard_subdomain("*a"), 1),
            (dns_1035_label("1a"), 1),
            (label_key("x.io/a"), 0),
            (label_key(""), 2),
            (label_key("/"), 3),
            (label_key("a/b/c"), 1),
            (label_value(""), 0),
            (label_value(&format!("{long}_")), 2),
            (data_key(".."), 1),
            (data_key("a b"), 1),
            (port_name("http"), 0),
            (port_name(""), 2),
            (port_name("-8-"), 2),
            (path_segment("system:a/b%"), 2),
            (path_segment(".."), 1),
            (ip("10.0.0.1"), 0),
            (ip("::ffff:1.2.3.4"), 1),
            (ip("010.0.0.1"), 1),
            (cidr("10.0.0.0/8"), 0),
            (cidr("10.0.0.1/8"), 1),
            (cidr("::/0"), 0),
            (cidr("0.0.0.0/0"), 0),
            (cidr("10.0.0.0/08"), 1),
            (cidr("10.0.0.0/33"), 1),
        ] {
            assert_eq!(faults.len(), count, "{faults:?}");
        }
    }

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
