//! What single values of built-in kinds may be, as words of the table of types: most mistakes people make are found here, each named by its
//! field, without a line of code for its kind. What depends on several fields stands with the kind.

use serde_json::{Map, Value};

use super::{Additional, Schema};
use crate::api::faults::{self, Faults};
use crate::api::selector;
use crate::api::status::Cause;

/// More causes than this help nobody and cost memory.
const MAX_CAUSES: usize = 100;

/// A limit of one value. All but `must` pass what is absent or empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// `must`: something has to be said.
    Must,
    /// `in(A,B)`: one of these.
    In(Vec<&'static str>),
    /// `min(N)`.
    Min(i64),
    /// `range(A,B)`, both inclusive.
    Range(i64, i64),
    /// `port`: a number of a port, or the name of one where text may stand.
    Port,
    /// `portname`: the name of a port.
    PortName,
    /// `label`: an RFC 1123 label.
    Label,
    /// `subdomain`: an RFC 1123 subdomain.
    Subdomain,
    /// `key`: a label's key.
    Key,
    /// `labels`: a map of labels.
    Labels,
    /// `selector`: a label selector.
    Selector,
    /// `relative`: a path below a folder.
    Relative,
    /// `nodots`: a path without `..`.
    NoDots,
    /// `absolute`: a path from the root.
    Absolute,
    /// `ip`: an address.
    Ip,
    /// `env`: the name of an environment variable.
    Env,
    /// `header`: the name of an HTTP header.
    Header,
    /// `datakey`: a key of a ConfigMap or a Secret.
    DataKey,
    /// `sysctl`: the name of a kernel parameter.
    Sysctl,
}

impl Limit {
    /// Reads a word of the table.
    pub(crate) fn parse(word: &'static str) -> Option<Self> {
        let (name, arguments) = match word.split_once('(') {
            Some((name, rest)) => (name, rest.strip_suffix(')')?),
            None => (word, ""),
        };
        Some(match name {
            "must" => Self::Must,
            "in" => Self::In(arguments.split(',').collect()),
            "min" => Self::Min(arguments.parse().ok()?),
            "range" => {
                let (low, high) = arguments.split_once(',')?;
                Self::Range(low.parse().ok()?, high.parse().ok()?)
            }
            "port" => Self::Port,
            "portname" => Self::PortName,
            "label" => Self::Label,
            "subdomain" => Self::Subdomain,
            "key" => Self::Key,
            "labels" => Self::Labels,
            "selector" => Self::Selector,
            "relative" => Self::Relative,
            "nodots" => Self::NoDots,
            "absolute" => Self::Absolute,
            "ip" => Self::Ip,
            "env" => Self::Env,
            "header" => Self::Header,
            "datakey" => Self::DataKey,
            "sysctl" => Self::Sysctl,
            _ => return None,
        })
    }

    /// Checks a value. False when nothing else about it needs to be said.
    fn check(&self, value: Option<&Value>, path: &str, causes: &mut Vec<Cause>) -> bool {
        let before = causes.len();
        let Some(value) = value.filter(|v| !is_empty(v)) else {
            // A zero is something said where it is out of range.
            return match (self, value) {
                (Self::Must, _) => {
                    causes.push(Cause::required(path, ""));
                    false
                }
                (Self::Range(..) | Self::Min(_) | Self::Port, Some(Value::Number(n))) => {
                    self.number(n.as_i64().unwrap_or_default(), path, causes)
                }
                (_, value) => value.is_some(),
            };
        };
        match (self, value) {
            (Self::In(list), Value::Array(items)) => {
                for item in items.iter().filter(|i| i.as_str().is_none_or(|s| !list.contains(&s))) {
                    causes.push(Cause::not_supported(path, &item.to_string(), list));
                }
            }
            (Self::In(list), _) if value.as_str().is_none_or(|s| !list.contains(&s)) => {
                causes.push(Cause::not_supported(path, &value.to_string(), list));
            }
            (Self::Labels, Value::Object(map)) => labels(map, path, causes),
            (Self::Selector, _) => label_selector(value, path, causes),
            (_, Value::Number(n)) => return self.number(n.as_i64().unwrap_or_default(), path, causes),
            (_, Value::String(text)) => {
                for why in self.text(text) {
                    causes.push(Cause::invalid(path, &format!("{text:?}"), &why));
                }
            }
            _ => {}
        }
        causes.len() == before
    }

    fn number(&self, n: i64, path: &str, causes: &mut Vec<Cause>) -> bool {
        let why = match self {
            Self::Min(least) if n < *least => format!("must be greater than or equal to {least}"),
            Self::Range(low, high) if !(*low..=*high).contains(&n) => {
                format!("must be between {low} and {high}, inclusive")
            }
            Self::Port if !(1..=65535).contains(&n) => "must be between 1 and 65535, inclusive".to_owned(),
            _ => return true,
        };
        causes.push(Cause::invalid(path, &n.to_string(), &why));
        false
    }

    /// What is wrong with a text.
    fn text(&self, text: &str) -> Vec<String> {
        let rule = |ok: bool, why: &str| if ok { Vec::new() } else { vec![why.to_owned()] };
        let said = |faults: Faults| faults.into_iter().map(str::to_owned).collect();
        match self {
            Self::Label => said(faults::dns_label(text)),
            Self::Subdomain => said(faults::dns_subdomain(text)),
            Self::Key => selector::key_problems(text),
            Self::Port | Self::PortName => said(faults::port_name(text)),
            Self::Absolute => rule(text.starts_with('/'), "must be an absolute path"),
            Self::NoDots => rule(!text.split('/').any(|p| p == ".."), "must not contain '..'"),
            Self::Relative => rule(
                !text.starts_with('/') && !text.split('/').any(|p| p == ".."),
                "must be a relative path without '..'",
            ),
            Self::Env => rule(
                text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'='),
                "must consist of printable ASCII characters other than '='",
            ),
            Self::Header => rule(
                text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'),
                "must consist of alphanumeric characters or '-'",
            ),
            Self::DataKey => said(faults::data_key(text)),
            Self::Sysctl => rule(
                text.len() <= 253
                    && text.split(['.', '/']).all(|p| {
                        let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
                        p.bytes().next().is_some_and(ok)
                            && p.bytes().last().is_some_and(ok)
                            && p.bytes().all(|b| ok(b) || b"-_".contains(&b))
                    }),
                "must be words of lower case alphanumeric characters, '-' or '_' between dots or slashes",
            ),
            Self::Ip => said(faults::ip(text)),
            _ => Vec::new(),
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Number(n) => n.as_i64() == Some(0),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        Value::Bool(_) => false,
    }
}

/// Labels, each wrong one named at the map.
pub(crate) fn labels(map: &Map<String, Value>, path: &str, causes: &mut Vec<Cause>) {
    for (key, value) in map {
        for why in selector::key_problems(key) {
            causes.push(Cause::invalid(path, &format!("{key:?}"), &why));
        }
        let value = value.as_str().unwrap_or_default();
        for why in selector::value_problems(value) {
            causes.push(Cause::invalid(path, &format!("{value:?}"), &why));
        }
    }
}

/// A label selector.
pub(crate) fn label_selector(selector: &Value, path: &str, causes: &mut Vec<Cause>) {
    if let Some(Value::Object(map)) = selector.get("matchLabels") {
        labels(map, &format!("{path}.matchLabels"), causes);
    }
    let terms = selector.get("matchExpressions").and_then(Value::as_array);
    for (i, term) in terms.into_iter().flatten().enumerate() {
        let at = format!("{path}.matchExpressions[{i}]");
        let word = |field: &str| term.get(field).and_then(Value::as_str).unwrap_or_default();
        let values = term
            .get("values")
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        match word("operator") {
            "In" | "NotIn" if values.is_empty() => causes.push(Cause::required(
                format!("{at}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !values.is_empty() => causes.push(Cause::forbidden(
                format!("{at}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "Exists" | "DoesNotExist" => {}
            other => causes.push(Cause::invalid(
                format!("{at}.operator"),
                &format!("{other:?}"),
                "not a valid selector operator",
            )),
        }
        for why in selector::key_problems(word("key")) {
            causes.push(Cause::invalid(format!("{at}.key"), &format!("{:?}", word("key")), &why));
        }
        for (j, value) in values.iter().enumerate() {
            for why in selector::value_problems(value.as_str().unwrap_or_default()) {
                causes.push(Cause::invalid(format!("{at}.values[{j}]"), &value.to_string(), &why));
            }
        }
    }
}

/// Checks a value of a built-in kind, and all below it.
pub(crate) fn check(value: &Value, schema: &Schema, causes: &mut Vec<Cause>) {
    walk(value, schema, &mut String::new(), causes);
}

fn walk(value: &Value, schema: &Schema, path: &mut String, causes: &mut Vec<Cause>) {
    if !schema.limited || causes.len() >= MAX_CAUSES {
        return;
    }
    let before = path.len();
    match value {
        Value::Object(map) => {
            for (name, member) in schema.properties.iter().filter(|(_, m)| m.limited) {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
                let value = map.get(&**name);
                let ok = member.limits.iter().all(|limit| limit.check(value, path, causes));
                if let Some(value) = value.filter(|_| ok || member.limits.is_empty()) {
                    walk(value, member, path, causes);
                }
                path.truncate(before);
            }
            if let Additional::Of(inner) = &schema.additional {
                for (key, value) in map {
                    path.push_str(&format!("[{key}]"));
                    walk(value, inner, path, causes);
                    path.truncate(before);
                }
            }
        }
        Value::Array(list) => {
            let Some(items) = &schema.items else { return };
            for (i, item) in list.iter().enumerate() {
                path.push_str(&format!("[{i}]"));
                walk(item, items, path, causes);
                path.truncate(before);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(word: &'static str, value: Value) -> Vec<String> {
        let schema = Schema {
            properties: [(
                "f".into(),
                std::sync::Arc::new(Schema {
                    limits: [Limit::parse(word).unwrap()].into(),
                    limited: true,
                    ..Schema::default()
                }),
            )]
            .into(),
            limited: true,
            ..Schema::default()
        };
        let mut causes = Vec::new();
        check(&json!({"f": value}), &schema, &mut causes);
        causes
            .into_iter()
            .map(|c| format!("{} {}", c.reason, c.field))
            .collect()
    }

    #[test]
    fn each_limit_names_its_field() {
        for (word, good, bad) in [
            ("in(A,B)", json!("A"), json!("C")),
            ("in(A,B)", json!(["A"]), json!(["A", "C"])),
            ("min(0)", json!(0), json!(-1)),
            ("range(1,5)", json!(5), json!(0)),
            ("port", json!(80), json!(70000)),
            ("port", json!("http"), json!("ht--tp")),
            ("portname", json!("a-1"), json!("a-")),
            ("label", json!("a-b"), json!("a.b")),
            ("subdomain", json!("a.b"), json!("A")),
            ("key", json!("a.io/b"), json!("/b")),
            ("labels", json!({"a": "b"}), json!({"a": "b c"})),
            ("relative", json!("a/b"), json!("../b")),
            ("nodots", json!("/b"), json!("a/..")),
            ("absolute", json!("/b"), json!("b")),
            ("ip", json!("::1"), json!("x")),
            ("env", json!("a.B"), json!("a=b")),
            ("header", json!("X-A"), json!("X A")),
            ("datakey", json!("a_b.c"), json!("..a")),
            ("sysctl", json!("net/core.a-b"), json!("Net..x")),
        ] {
            assert!(wrong(word, good).is_empty(), "{word}");
            assert!(!wrong(word, bad).is_empty(), "{word}");
        }
        assert_eq!(wrong("must", json!("")), ["FieldValueRequired f"]);
        assert_eq!(wrong("in(A)", json!("")), Vec::<String>::new());
        assert!(Limit::parse("odd").is_none() && Limit::parse("min(x)").is_none() && Limit::parse("in(A").is_none());
    }

    #[test]
    fn selectors_are_checked_term_by_term() {
        let terms = json!({"matchLabels": {"-": "b"}, "matchExpressions": [{"key": "a", "operator": "In"},
            {"key": "a", "operator": "Exists", "values": ["x"]}, {"key": "a", "operator": "Near"}, {"key": "", "operator": "NotIn", "values": ["-"]}]});
        assert_eq!(
            wrong("selector", terms),
            [
                "FieldValueInvalid f.matchLabels",
                "FieldValueRequired f.matchExpressions[0].values",
                "FieldValueForbidden f.matchExpressions[1].values",
                "FieldValueInvalid f.matchExpressions[2].operator",
                "FieldValueInvalid f.matchExpressions[3].key",
                "FieldValueInvalid f.matchExpressions[3].key",
                "FieldValueInvalid f.matchExpressions[3].values[0]",
            ]
        );
    }
}
