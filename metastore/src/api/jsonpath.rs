//! JSONPath as printer columns, scale paths and selectable fields use it: members (`.a`, `['a.b']`, `.a\.b`), items (`[0]`, `[-1]`, `[*]`,
//! `[1:3]`, `[0,2]`), whatever is below (`..a`) and filters (`[?(@.type=="Ready")]`, `[?(@.n>1)]`, `[?(@.n)]`).

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Path {
    source: Box<str>,
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Member(String),
    Item(i64),
    Every,
    /// From, to, and how far each time.
    Slice(Option<i64>, Option<i64>, i64),
    /// What any of them finds.
    Union(Vec<Self>),
    /// The value and everything below it.
    Below,
    Where(Operand, Option<(Comparison, Operand)>),
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    /// Within the item.
    Path(Path),
    Literal(Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    Differs,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Most filters within filters.
const MAX_FILTERS: usize = 4;
/// Most values that a path may find on its way: `..` multiplies.
const MAX_FOUND: usize = 100_000;
/// Longest path accepted.
const MAX_PATH: usize = 1024;
/// Most steps: what is put at the end of one must be read again.
const MAX_STEPS: usize = 64;

impl Path {
    /// Parses; the error says what is not understood.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::parse_within(text, 0)
    }

    fn parse_within(text: &str, filters: usize) -> Result<Self, String> {
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
            if steps.len() >= MAX_STEPS {
                return Err(format!("more than {MAX_STEPS} steps"));
            }
            if let Some(after) = rest.strip_prefix("..") {
                steps.push(Step::Below);
                // What follows is a member, or a bracket, of any of them.
                let (name, tail) = member(after);
                match name.as_str() {
                    "" if !tail.starts_with('[') => return Err("nothing follows ..".to_owned()),
                    "" => {}
                    "*" => steps.push(Step::Every),
                    _ => steps.push(Step::Member(name)),
                }
                rest = tail;
            } else if let Some(after) = rest.strip_prefix('.') {
                let (name, tail) = member(after);
                if name.is_empty() && !tail.starts_with('[') {
                    return if steps.is_empty() && tail.is_empty() {
                        Ok(Self {
                            source: text.into(),
                            steps,
                        })
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
                steps.push(bracket(&after[..end], filters)?);
                rest = &after[end + 1..];
            } else {
                return Err(format!("cannot read {rest:?}"));
            }
        }
        Ok(Self {
            source: text.into(),
            steps,
        })
    }

    /// As written.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// All values the path finds.
    pub(crate) fn find<'v>(&self, root: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![root];
        for step in &self.steps {
            let mut next = Vec::new();
            for value in found {
                if next.len() < MAX_FOUND {
                    step.follow(value, &mut next);
                }
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

fn bracket(text: &str, filters: usize) -> Result<Step, String> {
    let text = text.trim();
    if text == "*" {
        return Ok(Step::Every);
    }
    if let Ok(n) = text.parse() {
        return Ok(Step::Item(n));
    }
    if let Some(inner) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        if filters >= MAX_FILTERS {
            return Err(format!("more than {MAX_FILTERS} filters within filters"));
        }
        return filter(inner, filters + 1);
    }
    let parts = split(text, ',');
    if parts.len() > 1 {
        let steps: Result<_, _> = parts.into_iter().map(|p| bracket(p, filters)).collect();
        return steps.map(Step::Union);
    }
    if let Some(Value::String(name)) = literal(text) {
        return Ok(Step::Member(name));
    }
    slice(text).ok_or_else(|| format!("cannot read [{text}]"))
}

fn slice(text: &str) -> Option<Step> {
    let mut parts = text.split(':').map(str::trim);
    let mut bound = || match parts.next() {
        None | Some("") => Some(None),
        Some(n) => n.parse().ok().map(Some),
    };
    let (from, to, step) = (bound()?, bound()?, bound()?);
    let known = text.contains(':') && parts.next().is_none();
    let step = step.unwrap_or(1);
    (known && step > 0).then_some(Step::Slice(from, to, step))
}

/// The parts of a text between separators outside quotes and brackets.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut out, mut from, mut quote, mut depth) = (Vec::new(), 0, None, 0_usize);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '[' | '(') => depth += 1,
            (None, ']' | ')') => depth = depth.saturating_sub(1),
            (None, c) if c == separator && depth == 0 => {
                out.push(&text[from..i]);
                from = i + c.len_utf8();
            }
            _ => {}
        }
    }
    out.push(&text[from..]);
    out
}

fn filter(text: &str, filters: usize) -> Result<Step, String> {
    const SIGNS: [(&str, Comparison); 6] = [
        ("==", Comparison::Equal),
        ("!=", Comparison::Differs),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let mut quote = None;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            (Some(_), _) => {}
            (None, _) => {
                if let Some((sign, comparison)) = SIGNS.iter().find(|(s, _)| text[i..].starts_with(s)) {
                    let left = operand(&text[..i], filters)?;
                    let right = operand(&text[i + sign.len()..], filters)?;
                    return Ok(Step::Where(left, Some((*comparison, right))));
                }
            }
        }
    }
    Ok(Step::Where(operand(text, filters)?, None))
}

fn operand(text: &str, filters: usize) -> Result<Operand, String> {
    let text = text.trim();
    match text.strip_prefix('@') {
        Some("") => Ok(Operand::Path(Path {
            source: "@".into(),
            steps: Vec::new(),
        })),
        Some(path) => Path::parse_within(path, filters).map(Operand::Path),
        None => literal(text)
            .map(Operand::Literal)
            .ok_or_else(|| format!("a filter compares paths that begin with @ and literals, not {text}")),
    }
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
            Self::Slice(from, to, step) => {
                let list = value.as_array().map_or(&[][..], Vec::as_slice);
                let place = |n: i64| {
                    let length = i64::try_from(list.len()).unwrap_or(i64::MAX);
                    let at = if n < 0 { length.saturating_add(n) } else { n };
                    usize::try_from(at.clamp(0, length)).unwrap_or(0)
                };
                let (from, to) = (place(from.unwrap_or(0)), place(to.unwrap_or(i64::MAX)));
                let step = usize::try_from(*step).unwrap_or(usize::MAX);
                out.extend(list.get(from..to).unwrap_or(&[]).iter().step_by(step));
            }
            Self::Union(steps) => steps.iter().for_each(|s| s.follow(value, out)),
            Self::Below => {
                out.push(value);
                let below: Box<dyn Iterator<Item = &'v Value>> = match value {
                    Value::Array(list) => Box::new(list.iter()),
                    Value::Object(map) => Box::new(map.values()),
                    _ => return,
                };
                below.for_each(|v| self.follow(v, out));
            }
            Self::Where(left, comparison) => {
                for item in value.as_array().into_iter().flatten() {
                    let found = left.of(item);
                    let fits = match comparison {
                        None => found.is_some(),
                        Some((comparison, right)) => match (found, right.of(item)) {
                            (Some(a), Some(b)) => comparison.holds(a, b),
                            _ => false,
                        },
                    };
                    if fits {
                        out.push(item);
                    }
                }
            }
        }
    }
}

impl Operand {
    fn of<'v>(&'v self, item: &'v Value) -> Option<&'v Value> {
        match self {
            Self::Literal(value) => Some(value),
            Self::Path(path) => path.first(item),
        }
    }
}

impl Comparison {
    fn holds(self, a: &Value, b: &Value) -> bool {
        let order = match (a, b) {
            (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            _ if a == b => Some(std::cmp::Ordering::Equal),
            _ => None,
        };
        match self {
            Self::Equal => order.is_some_and(std::cmp::Ordering::is_eq),
            Self::Differs => !order.is_some_and(std::cmp::Ordering::is_eq),
            Self::Less => order.is_some_and(std::cmp::Ordering::is_lt),
            Self::LessOrEqual => order.is_some_and(std::cmp::Ordering::is_le),
            Self::Greater => order.is_some_and(std::cmp::Ordering::is_gt),
            Self::GreaterOrEqual => order.is_some_and(std::cmp::Ordering::is_ge),
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
        assert_eq!(find(".spec.list[0:1].n"), [json!("a")]);
        assert_eq!(find(".spec.list[1:].n"), [json!("b")]);
        assert_eq!(find(".spec.list[-2:-1].n"), [json!("a")]);
        assert_eq!(find(".spec.list[0,1].n"), [json!("a"), json!("b")]);
        assert_eq!(find(".spec['size','nope']"), [json!(2)]);
        assert_eq!(find("..n"), [json!("a"), json!("b")]);
        assert_eq!(find(".spec.list[?(@.n>'a')].n"), [json!("b")]);
        assert_eq!(find(".spec.list[?(@.n)].n"), [json!("a"), json!("b")]);
        assert_eq!(find(".status.conditions[?(@.type!='Ready')].type"), [json!("Other")]);
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        let nested = format!(".a{}", "[?(@.b".repeat(6));
        for bad in [
            "spec.size",
            ".a[",
            ".a[x]",
            ".a..",
            ".a[1:2:0]",
            ".a[?(b)]",
            &nested,
            &".a".repeat(600),
        ] {
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
