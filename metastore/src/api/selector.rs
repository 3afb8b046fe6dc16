//! Label and field selectors: parsed from a query, asked of an object. Requests with selectors of a megabyte are refused by the cap.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;

/// Longest selector; a URL of a real server is not longer than this either.
const MAX_SELECTOR: usize = 64 * 1024;
/// Most requirements in one.
const MAX_REQUIREMENTS: usize = 1024;

/// What a label selector asks; empty selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Labels(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    op: Op,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Op {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

impl Labels {
    /// Parses `a=b,c in (d,e),!f`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_SELECTOR {
            return Err(format!("selector is longer than {MAX_SELECTOR} bytes"));
        }
        let mut scanner = Scanner { rest: text };
        let mut out = Vec::new();
        scanner.space();
        while !scanner.rest.is_empty() {
            if out.len() == MAX_REQUIREMENTS {
                return Err(format!("more than {MAX_REQUIREMENTS} requirements"));
            }
            out.push(scanner.requirement()?);
            scanner.space();
            if scanner.rest.is_empty() {
                break;
            }
            if !scanner.take(",") {
                return Err(format!("found {:?}, expected: ',' or the end", scanner.head()));
            }
            scanner.space();
            if scanner.rest.is_empty() {
                return Err("found the end after ','".to_owned());
            }
        }
        Ok(Self(out))
    }

    /// Whether it selects everything.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object with these labels is selected.
    pub(crate) fn selects(&self, labels: &Selectable<'_>) -> bool {
        self.0.iter().all(|r| {
            let value = labels.get(&r.key);
            match &r.op {
                Op::In(list) => value.is_some_and(|v| list.iter().any(|x| x == v)),
                Op::NotIn(list) => value.is_none_or(|v| !list.iter().any(|x| x == v)),
                Op::Exists => value.is_some(),
                Op::Absent => value.is_none(),
                Op::Greater(n) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *n),
                Op::Less(n) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *n),
            }
        })
    }
}

struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        if let Some(rest) = self.rest.strip_prefix(token) {
            self.rest = rest;
            return true;
        }
        false
    }

    fn head(&self) -> &'a str {
        let end = self.rest.char_indices().nth(20).map_or(self.rest.len(), |(i, _)| i);
        &self.rest[..end]
    }

    fn word(&mut self) -> &'a str {
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || "=!,()<>".contains(c))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let absent = self.take("!");
        self.space();
        let key = self.word().to_owned();
        check_key(&key)?;
        self.space();
        if absent || self.rest.is_empty() || self.rest.starts_with(',') {
            let op = if absent { Op::Absent } else { Op::Exists };
            return Ok(Requirement { key, op });
        }
        let op = if self.take("==") || self.take("=") {
            Op::In(vec![self.value()?])
        } else if self.take("!=") {
            Op::NotIn(vec![self.value()?])
        } else if self.take(">") {
            Op::Greater(self.whole()?)
        } else if self.take("<") {
            Op::Less(self.whole()?)
        } else {
            let head = self.head();
            match self.word() {
                "in" => Op::In(self.values()?),
                "notin" => Op::NotIn(self.values()?),
                _ => return Err(format!("found {head:?}, expected: in, notin, =, ==, !=, >, <")),
            }
        };
        Ok(Requirement { key, op })
    }

    fn whole(&mut self) -> Result<i64, String> {
        let text = self.value()?;
        text.parse()
            .map_err(|_| format!("{text:?}: for '>' and '<' the value must be an integer"))
    }

    fn value(&mut self) -> Result<String, String> {
        self.space();
        let word = self.word();
        check_value(word)?;
        Ok(word.to_owned())
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        self.space();
        if !self.take("(") {
            return Err(format!("found {:?}, expected: '('", self.head()));
        }
        let mut out = Vec::new();
        loop {
            out.push(self.value()?);
            self.space();
            if self.take(")") {
                return Ok(out);
            }
            if !self.take(",") {
                return Err(format!("found {:?}, expected: ',' or ')'", self.head()));
            }
        }
    }
}

/// What is wrong with a qualified name (`[DOMAIN/]NAME`): the key of a label or annotation, a finalizer. As many problems as a real server names.
pub(crate) fn key_problems(key: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut parts = key.split('/');
    let (first, second) = (parts.next().unwrap_or_default(), parts.next());
    if parts.next().is_some() {
        return vec![format!(
            "{key:?}: a qualified name must consist of alphanumeric characters, '-', '_' or '.', with an optional DNS subdomain and '/' before it"
        )];
    }
    let name = second.unwrap_or(first);
    if second.is_some() {
        if first.is_empty() {
            out.push(format!("{key:?}: prefix part must be non-empty"));
        } else if !super::names::is_subdomain(first) {
            out.push(format!("{key:?}: prefix part must be a DNS subdomain"));
        }
    }
    if name.is_empty() {
        out.push(format!("{key:?}: name part must be non-empty"));
    }
    if name.len() > MAX_PART {
        out.push(format!("{key:?}: name part must be no more than {MAX_PART} characters"));
    }
    if !is_name_text(name) {
        out.push(format!(
            "{key:?}: name part must consist of alphanumeric characters, '-', '_' or '.', and begin and end with an alphanumeric"
        ));
    }
    out
}

/// What is wrong with a label's value, which is empty or like a name.
pub(crate) fn value_problems(value: &str) -> Vec<String> {
    let mut out = Vec::new();
    if value.len() > MAX_PART {
        out.push(format!("{value:?}: must be no more than {MAX_PART} characters"));
    }
    if !value.is_empty() && !is_name_text(value) {
        out.push(format!(
            "{value:?}: a valid label must be empty or consist of alphanumeric characters, '-', '_' or '.', and begin and end with an alphanumeric"
        ));
    }
    out
}

/// Most bytes of a label's value, and of the part of its key that is no domain.
const MAX_PART: usize = 63;

pub(crate) fn check_key(key: &str) -> Result<(), String> {
    key_problems(key).into_iter().next().map_or(Ok(()), Err)
}

fn check_value(value: &str) -> Result<(), String> {
    value_problems(value).into_iter().next().map_or(Ok(()), Err)
}

fn is_name_text(text: &str) -> bool {
    let b = text.as_bytes();
    let (Some(first), Some(last)) = (b.first(), b.last()) else {
        return false;
    };
    b.iter().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
        && first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
}

/// What a field selector asks, as (path, equal?, value).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields(pub(crate) Vec<(String, bool, String)>);

impl Fields {
    /// Parses `metadata.name=a,spec.nodeName!=b`; `\,` `\=` `\\` are escapes in a value.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_SELECTOR {
            return Err(format!("selector is longer than {MAX_SELECTOR} bytes"));
        }
        let mut out = Vec::new();
        for term in terms(text) {
            if term.is_empty() {
                continue;
            }
            if out.len() == MAX_REQUIREMENTS {
                return Err(format!("more than {MAX_REQUIREMENTS} requirements"));
            }
            let (path, equal, value) = if let Some((p, v)) = term.split_once("!=") {
                (p, false, v)
            } else if let Some((p, v)) = term.split_once("==") {
                (p, true, v)
            } else if let Some((p, v)) = term.split_once('=') {
                (p, true, v)
            } else {
                return Err(format!("invalid selector: {term:?}; can't understand it"));
            };
            out.push((path.trim().to_owned(), equal, unescape(value)?));
        }
        Ok(Self(out))
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one name it can match, if it says so.
    pub(crate) fn only_name(&self) -> Option<&str> {
        self.only("metadata.name")
    }

    /// The one namespace it can match, if it says so.
    pub(crate) fn only_namespace(&self) -> Option<&str> {
        self.only("metadata.namespace")
    }

    fn only(&self, field: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(p, equal, _)| *equal && p == field)
            .map(|(_, _, v)| v.as_str())
    }
}

/// Splits at commas that are not escaped.
fn terms(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut start = 0;
    let mut escaped = false;
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                out.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(e @ ('\\' | ',' | '=')) => out.push(e),
                _ => return Err(format!("invalid field selector: invalid escape in {text:?}")),
            },
            '=' => return Err(format!("invalid field selector: unescaped '=' in {text:?}")),
            other => out.push(other),
        }
    }
    Ok(out)
}

/// The parts of an object that selectors look at, borrowed from its bytes: the rest is skipped unread.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Selectable<'a> {
    #[serde(borrow, default)]
    metadata: Meta<'a>,
}

#[derive(Debug, Default, Deserialize)]
struct Meta<'a> {
    #[serde(borrow, default)]
    labels: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
}

impl<'a> Selectable<'a> {
    /// Reads the labels of an object; bytes that are no object have none.
    pub(crate) fn read(json: &'a [u8]) -> Self {
        serde_json::from_slice(json).unwrap_or_default()
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(key).map(AsRef::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn selects(selector: &str, labels: serde_json::Value) -> bool {
        let bytes = json!({"metadata":{"labels":labels}}).to_string();
        Labels::parse(selector)
            .unwrap()
            .selects(&Selectable::read(bytes.as_bytes()))
    }

    #[test]
    fn label_requirements() {
        let l = || json!({"tier":"x","n":"5","a.io/b":"c"});
        for yes in [
            "",
            "tier",
            "tier=x",
            "tier==x",
            "tier!=y",
            "other!=y",
            "!other",
            "tier in (x,y)",
            "tier notin (y, z)",
            "other notin (y)",
            "n>4",
            "n<6",
            "a.io/b=c",
            " tier = x , n ",
            "tier in (x), n notin (4),!q",
            "empty!=",
        ] {
            assert!(selects(yes, l()), "{yes}");
        }
        for no in [
            "other",
            "tier=y",
            "tier!=x",
            "!tier",
            "tier in (y)",
            "n>5",
            "tier>4",
            "tier=x,n=6",
        ] {
            assert!(!selects(no, l()), "{no}");
        }
        assert!(selects("e=", json!({"e":""})));
        assert!(!selects("e=", json!({})));
    }

    #[test]
    fn bad_label_selectors() {
        let long = "a,".repeat(40_000);
        for bad in [
            "a===b",
            "=a",
            "a in x",
            "a in (x",
            "a=b,",
            "a b",
            "-a",
            "a=b c",
            "a/b/c",
            "a>x",
            "_",
            &long,
            &"a,".repeat(2000),
        ] {
            assert!(Labels::parse(bad).is_err(), "{}", &bad[..bad.len().min(20)]);
        }
    }

    #[test]
    fn field_selectors() {
        let f = Fields::parse(r"metadata.name=a,spec.x!=b\,c,metadata.namespace==d").unwrap();
        assert_eq!(f.only_name(), Some("a"));
        assert_eq!(f.only_namespace(), Some("d"));
        assert_eq!(f.0[1], ("spec.x".into(), false, "b,c".into()));
        assert!(Fields::parse("nonsense").is_err());
        assert!(Fields::parse("").unwrap().is_empty());
    }

    #[test]
    fn labels_are_read_without_the_rest_and_from_escaped_text() {
        let raw = br#"{"data":{"x":[1,2,{"metadata":{"labels":{"no":"no"}}}]},"metadata":{"labels":{"k":"a\u0062"},"name":"n"}}"#;
        assert!(Labels::parse("k=ab,!no").unwrap().selects(&Selectable::read(raw)));
        assert!(Labels::parse("!k").unwrap().selects(&Selectable::read(b"not json")));
    }
}
