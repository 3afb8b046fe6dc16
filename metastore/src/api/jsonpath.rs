//! The part of JSONPath that printer columns, scale paths and selectable fields use: members (`.a`, `['a.b']`, `.a\.b`), items (`[0]`, `[-1]`,
//! `[*]`) and equality filters (`[?(@.type=="Ready")]`). Anything else is refused when the definition is created.

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Member(String),
    Item(i64),
    Every,
    Where {
        path: Vec<String>,
        equal: bool,
        value: Value,
    },
}

/// Longest path accepted.
const MAX_PATH: usize = 1024;
/// Most steps: what is put at the end of one must be read again.
const MAX_STEPS: usize = 64;

impl Path {
    /// Parses; the error says what is not understood.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_PATH {
            return Err(format!("longer than {MAX_PATH} bytes"));
        }
        let inner = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        let mut rest = inner.strip_prefix('$').unwrap_or(inner);
        if !rest.starts_with(['.', '[']) {
            return Err("must begin with a dot".to_owned());
        }
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if steps.len() == MAX_STEPS {
                return Err(format!("more than {MAX_STEPS} steps"));
            }
            if let Some(after) = rest.strip_prefix('.') {
                let (name, tail) = member(after);
                if name.is_empty() && !tail.starts_with('[') {
                    return if steps.is_empty() && tail.is_empty() {
                        Ok(Self { steps })
                    } else {
                        Err("empty member name".to_owned())
                    };
                }
                if name == "*" {
                    steps.push(Step::Every);
                } else if !name.is_empty() {
                    steps.push(Step::Member(name));
                }
                rest = tail;
            } else if let Some(after) = rest.strip_prefix('[') {
                let end = closing(after).ok_or("unclosed bracket")?;
                steps.push(bracket(&after[..end])?);
                rest = &after[end + 1..];
            } else {
                return Err(format!("cannot read {rest:?}"));
            }
        }
        Ok(Self { steps })
    }

    /// All values the path finds.
    pub(crate) fn find<'v>(&self, root: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![root];
        for step in &self.steps {
            let mut next = Vec::new();
            for value in found {
                step.follow(value, &mut next);
            }
            found = next;
        }
        found
    }

    /// The first value the path finds.
    pub(crate) fn first<'v>(&self, root: &'v Value) -> Option<&'v Value> {
        self.find(root).first().copied()
    }

    /// Puts `value` at the path, making objects on the way; only for paths of plain members.
    pub(crate) fn put(&self, root: &mut Value, value: Value) -> bool {
        let mut at = root;
        for step in &self.steps {
            let Step::Member(name) = step else { return false };
            if at.is_null() {
                *at = Value::Object(serde_json::Map::new());
            }
            let Some(map) = at.as_object_mut() else { return false };
            at = map.entry(name.clone()).or_insert(Value::Null);
        }
        *at = value;
        true
    }
}

fn member(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => {
                if let Some((_, escaped)) = chars.next() {
                    name.push(escaped);
                }
            }
            '.' | '[' => return (name, &text[i..]),
            other => name.push(other),
        }
    }
    (name, "")
}

/// Where the bracket closes, quotes considered.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            (None, ']') => return Some(i),
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Result<Step, String> {
    let text = text.trim();
    if text == "*" {
        return Ok(Step::Every);
    }
    if let Ok(n) = text.parse() {
        return Ok(Step::Item(n));
    }
    if let Some(Value::String(name)) = literal(text) {
        return Ok(Step::Member(name));
    }
    let filter = text
        .strip_prefix("?(")
        .and_then(|t| t.strip_suffix(')'))
        .ok_or_else(|| format!("cannot read [{text}]"))?;
    let (left, equal, right) = if let Some((l, r)) = filter.split_once("==") {
        (l, true, r)
    } else if let Some((l, r)) = filter.split_once("!=") {
        (l, false, r)
    } else {
        return Err("a filter compares with == or !=".to_owned());
    };
    let path = left
        .trim()
        .strip_prefix("@.")
        .ok_or("a filter begins with @.")?
        .split('.')
        .map(str::to_owned)
        .collect();
    let value = literal(right.trim()).ok_or("a filter compares with a literal")?;
    Ok(Step::Where { path, equal, value })
}

fn literal(text: &str) -> Option<Value> {
    if let Some(inner) = text.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')) {
        return Some(Value::String(inner.to_owned()));
    }
    serde_json::from_str(text).ok()
}

impl Step {
    fn follow<'v>(&self, value: &'v Value, out: &mut Vec<&'v Value>) {
        match self {
            Self::Member(name) => out.extend(value.get(name)),
            Self::Item(n) => {
                if let Some(list) = value.as_array() {
                    let index = if *n < 0 {
                        list.len()
                            .checked_sub(usize::try_from(n.unsigned_abs()).unwrap_or(usize::MAX))
                    } else {
                        usize::try_from(*n).ok()
                    };
                    out.extend(index.and_then(|i| list.get(i)));
                }
            }
            Self::Every => match value {
                Value::Array(list) => out.extend(list),
                Value::Object(map) => out.extend(map.values()),
                _ => {}
            },
            Self::Where {
                path,
                equal,
                value: want,
            } => {
                for item in value.as_array().into_iter().flatten() {
                    let got = path.iter().try_fold(item, |v, name| v.get(name));
                    if (got == Some(want)) == *equal {
                        out.push(item);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finds_what_definitions_in_the_wild_ask_for() {
        let v = json!({"spec":{"list":[{"n":"a"},{"n":"b"}],"size":2},
            "metadata":{"annotations":{"x.io/y":"z"}},
            "status":{"conditions":[{"type":"Ready","status":"True"},{"type":"Other","status":"False"}]}});
        let find = |p: &str| {
            Path::parse(p)
                .unwrap()
                .find(&v)
                .into_iter()
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(find(".spec.size"), [json!(2)]);
        assert_eq!(find(".spec.list[*].n"), [json!("a"), json!("b")]);
        assert_eq!(find(".spec.list[-1].n"), [json!("b")]);
        assert_eq!(find(r".metadata.annotations.x\.io/y"), [json!("z")]);
        assert_eq!(find(".metadata.annotations['x.io/y']"), [json!("z")]);
        assert_eq!(
            find(r#".status.conditions[?(@.type=="Ready")].status"#),
            [json!("True")]
        );
        assert_eq!(find(".status.conditions[?(@.type=='Other')].status"), [json!("False")]);
        assert!(find(".nope.nope").is_empty());
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        for bad in ["spec.size", ".a[", ".a[?(@.x>3)]", ".a..b", &".a".repeat(600)] {
            assert!(Path::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn puts_through_missing_objects() {
        let mut v = json!({});
        assert!(Path::parse(".spec.replicas").unwrap().put(&mut v, json!(3)));
        assert_eq!(v, json!({"spec":{"replicas":3}}));
        assert!(!Path::parse(".spec.replicas.x").unwrap().put(&mut v, json!(3)));
    }
}
