//! JSON patch (RFC 6902) as Kubernetes applies it, which is laxer than the RFC: `replace` of a member that is not there adds it, what is not
//! there is null, and a negative index counts from a list's end.
//!
//! Hostile input: how much may be copied, how deep the result may nest and how many places are moved in lists are bounded while it is applied,
//! so that a short patch can make neither a large value nor one that cannot be read again.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::api::codec;
use crate::api::status::Status;

/// Most operations in a patch, as in other servers.
const MAX_OPERATIONS: usize = 10_000;
/// Bytes that `copy` may add, as in other servers.
const MAX_COPIED: usize = codec::MAX_BODY;
/// Steps that a patch may cost: values looked at, places moved in lists.
const MAX_STEPS: usize = 20_000_000;
/// Deepest nesting of the result: what the parser of JSON takes again.
const MAX_DEPTH: usize = 127;

/// A patch as it came.
#[derive(Debug)]
pub(crate) struct Operations(Vec<Operation>);

#[derive(Debug, Default)]
struct Operation {
    op: String,
    path: Option<String>,
    from: Option<String>,
    /// Null when the patch names none.
    value: Value,
}

/// Why an operation does not apply; the client is told only that.
struct Fault(String);

fn fault<T>(why: impl Into<String>) -> Result<T, Fault> {
    Err(Fault(why.into()))
}

impl Operations {
    /// Reads a patch.
    pub(crate) fn read(body: &[u8]) -> Result<Self, Status> {
        let bad = |why: &str| Status::bad_request(format!("error decoding patch: {why}"));
        let list = match codec::json(body).map_err(|s| bad(&s.message))?.value {
            Value::Array(list) => list,
            Value::Null => Vec::new(),
            _ => return Err(bad("the patch must be a list")),
        };
        if list.len() > MAX_OPERATIONS {
            return Err(Status::too_large(MAX_OPERATIONS));
        }
        list.into_iter()
            .map(|item| match item {
                Value::Object(map) => Operation::read(map).map_err(bad),
                Value::Null => Ok(Operation::default()),
                _ => Err(bad("an operation must be an object")),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Applies it. After an error the value is in between: the caller throws it away.
    pub(crate) fn apply(&self, object: &mut Value) -> Result<(), Status> {
        let mut budget = Budget::default();
        for (i, operation) in self.0.iter().enumerate() {
            operation.apply(object, &mut budget).map_err(|Fault(why)| {
                Status::new(
                    http::StatusCode::UNPROCESSABLE_ENTITY,
                    "Invalid",
                    format!("the server rejected our request due to an error in our request: operation {i}: {why}"),
                )
                .with_empty_details()
            })?;
        }
        Ok(())
    }

    /// Whether an operation is about this place.
    pub(crate) fn touches(&self, path: &str) -> bool {
        self.0.iter().any(|o| o.path.as_deref() == Some(path))
    }
}

impl Operation {
    fn read(mut map: Map<String, Value>) -> Result<Self, &'static str> {
        let mut text = |name: &str| match map.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(_) => Err("op, path and from must be strings"),
        };
        Ok(Self {
            op: text("op")?.unwrap_or_default(),
            path: text("path")?,
            from: text("from")?,
            value: map.remove("value").unwrap_or_default(),
        })
    }

    fn apply(&self, root: &mut Value, budget: &mut Budget) -> Result<(), Fault> {
        let path = || self.path.as_deref().map_or_else(|| fault("it has no path"), Ok);
        let from = || self.from.as_deref().map_or_else(|| fault("it has no from"), Ok);
        match self.op.as_str() {
            "add" => add(root, path()?, self.value.clone(), budget),
            "remove" => remove(root, path()?, budget).map(drop),
            "replace" => self.replace(root, path()?, budget),
            "test" => self.test(root, path()?, budget),
            "move" => {
                let value = remove(root, from()?, budget)?;
                add(root, path()?, value, budget)
            }
            "copy" => {
                let value = get(root, from()?)?.cloned().unwrap_or_default();
                budget.copied += measure(&value, budget)?.bytes;
                if budget.copied > MAX_COPIED {
                    return fault(format!("copies add more than {MAX_COPIED} bytes"));
                }
                add(root, path()?, value, budget)
            }
            other => fault(format!("unexpected kind {other:?}")),
        }
    }

    fn replace(&self, root: &mut Value, path: &str, budget: &mut Budget) -> Result<(), Fault> {
        if path.is_empty() {
            if !self.value.is_object() && !self.value.is_array() {
                return fault("the whole can only be replaced by an object or a list");
            }
            root.clone_from(&self.value);
            return Ok(());
        }
        let (container, key) = locate(root, path)?;
        budget.nests(path, &self.value)?;
        match container {
            Value::Object(map) => {
                map.insert(key.into_owned(), self.value.clone());
            }
            Value::Array(list) => {
                let i = index(&key, list.len(), list.len())?;
                list[i] = self.value.clone();
            }
            _ => return fault(format!("{path} is not there")),
        }
        Ok(())
    }

    fn test(&self, root: &mut Value, path: &str, budget: &mut Budget) -> Result<(), Fault> {
        let have = if path.is_empty() {
            Some(&*root)
        } else {
            get(root, path)?
        };
        budget.spend(1)?;
        if *have.unwrap_or(&Value::Null) == self.value {
            Ok(())
        } else {
            fault(format!("the test of {path} failed"))
        }
    }
}

/// The container that a path's last word is about, and that word.
fn locate<'v, 'p>(root: &'v mut Value, path: &'p str) -> Result<(&'v mut Value, Cow<'p, str>), Fault> {
    // Whatever stands before the first slash is not looked at.
    let Some((_, rest)) = path.split_once('/') else {
        return fault(format!("{path:?} is no path to a member"));
    };
    let (parents, key) = match rest.rsplit_once('/') {
        Some((parents, key)) => (Some(parents), key),
        None => (None, rest),
    };
    let mut at = root;
    for word in parents.into_iter().flat_map(|p| p.split('/')) {
        let next = match at {
            Value::Object(map) => map.get_mut(&*unescape(word)),
            Value::Array(list) => {
                let i = index(&unescape(word), list.len(), list.len())?;
                list.get_mut(i)
            }
            _ => None,
        };
        at = match next {
            Some(v) if v.is_object() || v.is_array() => v,
            _ => return fault(format!("{path} is not there")),
        };
    }
    Ok((at, unescape(key)))
}

fn get<'v>(root: &'v mut Value, path: &str) -> Result<Option<&'v Value>, Fault> {
    let (container, key) = locate(root, path)?;
    Ok(match container {
        Value::Object(map) => map.get(&*key),
        Value::Array(list) => list.get(index(&key, list.len(), list.len())?),
        _ => None,
    })
}

fn add(root: &mut Value, path: &str, value: Value, budget: &mut Budget) -> Result<(), Fault> {
    let (container, key) = locate(root, path)?;
    budget.nests(path, &value)?;
    match container {
        Value::Object(map) => {
            map.insert(key.into_owned(), value);
        }
        Value::Array(list) if key == "-" => list.push(value),
        Value::Array(list) => {
            let i = index(&key, list.len() + 1, list.len() + 1)?;
            budget.spend(list.len() - i)?;
            list.insert(i, value);
        }
        _ => return fault(format!("{path} is not there")),
    }
    Ok(())
}

fn remove(root: &mut Value, path: &str, budget: &mut Budget) -> Result<Value, Fault> {
    let (container, key) = locate(root, path)?;
    let removed = match container {
        Value::Object(map) => map.remove(&*key),
        Value::Array(list) => {
            let i = index(&key, list.len(), list.len())?;
            budget.spend(list.len() - i)?;
            Some(list.remove(i))
        }
        _ => None,
    };
    removed.map_or_else(|| fault(format!("{path} is not there")), Ok)
}

fn unescape(word: &str) -> Cow<'_, str> {
    if word.contains('~') {
        Cow::Owned(word.replace("~1", "/").replace("~0", "~"))
    } else {
        Cow::Borrowed(word)
    }
}

/// An index below `end`; a negative one counts back from `from_end`.
fn index(word: &str, end: usize, from_end: usize) -> Result<usize, Fault> {
    let Ok(n) = word.parse::<i64>() else {
        return fault(format!("{word:?} is no index"));
    };
    let at = if n < 0 {
        usize::try_from(n.unsigned_abs())
            .ok()
            .and_then(|back| from_end.checked_sub(back))
    } else {
        usize::try_from(n).ok()
    };
    match at {
        Some(i) if i < end => Ok(i),
        _ => fault(format!("index {n} is outside the list")),
    }
}

#[derive(Default)]
struct Budget {
    steps: usize,
    copied: usize,
}

impl Budget {
    fn spend(&mut self, steps: usize) -> Result<(), Fault> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > MAX_STEPS {
            return fault(format!("the patch takes more than {MAX_STEPS} steps"));
        }
        Ok(())
    }

    /// Refuses a value at a path that would make the whole nest too deep.
    fn nests(&mut self, path: &str, value: &Value) -> Result<(), Fault> {
        let above = path.bytes().filter(|b| *b == b'/').count();
        self.spend(above)?;
        if above + measure(value, self)?.depth > MAX_DEPTH {
            return fault(format!("the result nests deeper than {MAX_DEPTH}"));
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Default)]
struct Measure {
    depth: usize,
    /// Roughly, as JSON.
    bytes: usize,
}

fn measure(value: &Value, budget: &mut Budget) -> Result<Measure, Fault> {
    budget.spend(1)?;
    let mut out = Measure::default();
    let mut inner = |v: &Value, beside: usize, budget: &mut Budget| {
        let m = measure(v, budget)?;
        out.depth = out.depth.max(m.depth);
        out.bytes += m.bytes + beside;
        Ok(())
    };
    match value {
        Value::String(s) => out.bytes = s.len() + 2,
        Value::Array(list) => {
            list.iter().try_for_each(|v| inner(v, 1, budget))?;
            out.depth += 1;
            out.bytes += 2;
        }
        Value::Object(map) => {
            map.iter().try_for_each(|(k, v)| inner(v, k.len() + 4, budget))?;
            out.depth += 1;
            out.bytes += 2;
        }
        _ => out.bytes = 4,
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn patched(mut object: Value, patch: Value) -> Result<Value, u16> {
        let patch = Operations::read(patch.to_string().as_bytes()).map_err(|s| s.code)?;
        patch.apply(&mut object).map_err(|s| s.code)?;
        Ok(object)
    }

    #[test]
    fn operations_as_kubernetes_reads_them() {
        let o = || json!({"a":{"b":"1","n":null},"l":[1,2,3]});
        for (patch, wanted) in [
            (
                json!([{"op":"replace","path":"/a/z","value":2}]),
                json!({"a":{"b":"1","n":null,"z":2},"l":[1,2,3]}),
            ),
            (
                json!([{"op":"add","path":"/a/z"}]),
                json!({"a":{"b":"1","n":null,"z":null},"l":[1,2,3]}),
            ),
            (
                json!([{"op":"test","path":"/a/nope"},{"op":"test","path":"/a/n","value":null}]),
                o(),
            ),
            (
                json!([{"op":"copy","from":"/a/nope","path":"/c"}]),
                json!({"a":{"b":"1","n":null},"l":[1,2,3],"c":null}),
            ),
            (
                json!([{"op":"move","from":"/a/b","path":"/c~1d~0e"}]),
                json!({"a":{"n":null},"l":[1,2,3],"c/d~e":"1"}),
            ),
            (
                json!([{"op":"add","path":"/l/-","value":4},{"op":"add","path":"/l/-1","value":5}]),
                json!({"a":{"b":"1","n":null},"l":[1,2,3,4,5]}),
            ),
            (
                json!([{"op":"add","path":"/l/+1","value":9},{"op":"remove","path":"/l/00"}]),
                json!({"a":{"b":"1","n":null},"l":[9,2,3]}),
            ),
            (
                json!([{"op":"remove","path":"/l/-1"},{"op":"replace","path":"/l/-2","value":7}]),
                json!({"a":{"b":"1","n":null},"l":[7,2]}),
            ),
            (
                json!([{"op":"add","path":"x/c","value":1}]),
                json!({"a":{"b":"1","n":null},"l":[1,2,3],"c":1}),
            ),
            (json!([{"op":"replace","path":"","value":[1]}]), json!([1])),
            (json!(null), o()),
        ] {
            assert_eq!(patched(o(), patch.clone()), Ok(wanted), "{patch}");
        }
    }

    #[test]
    fn what_does_not_apply_is_unprocessable_and_what_is_no_patch_malformed() {
        let o = json!({"a":{"b":"1"},"l":[1],"s":"x","n":null});
        for one in [
            json!({"op":"remove","path":"/a/z"}),
            json!({"op":"remove","path":""}),
            json!({"op":"add","path":"","value":{}}),
            json!({"op":"add","path":"/z/y","value":1}),
            json!({"op":"add","path":"/s/y","value":1}),
            json!({"op":"add","path":"/n/y","value":1}),
            json!({"op":"add","path":"/l/2","value":1}),
            json!({"op":"add","path":"/l/-3","value":1}),
            json!({"op":"add","path":"/l/x","value":1}),
            json!({"op":"remove","path":"/l/-"}),
            json!({"op":"replace","path":"/l/1","value":1}),
            json!({"op":"replace","path":"","value":1}),
            json!({"op":"replace","path":""}),
            json!({"op":"test","path":"/a/b","value":1}),
            json!({"op":"test","path":"/l/0","value":1.0}),
            json!({"op":"test","path":"/a/b"}),
            json!({"op":"move","from":"/a","path":"/a/c"}),
            json!({"op":"move","path":"/c"}),
            json!({"op":"copy","from":"","path":"/c"}),
            json!({"op":"nope","path":"/a"}),
            json!({"path":"/a"}),
            json!({"op":"remove"}),
            json!(null),
        ] {
            assert_eq!(patched(o.clone(), json!([one])), Err(422), "{one}");
        }
        for bad in [
            json!({}),
            json!("x"),
            json!([1]),
            json!([{"op":1}]),
            json!([{"op":"remove","path":1}]),
        ] {
            assert_eq!(patched(o.clone(), bad.clone()), Err(400), "{bad}");
        }
        let many = vec![json!({"op":"test","path":"/a/b","value":"1"}); MAX_OPERATIONS + 1];
        assert_eq!(patched(o, json!(many)), Err(413));
    }

    #[test]
    fn a_patch_grows_neither_wide_nor_deep_nor_takes_long() {
        let wide: Vec<Value> = std::iter::once(json!({"op":"add","path":"/l","value":["x".repeat(1000)]}))
            .chain((0..40).map(|_| json!({"op":"copy","from":"/l","path":"/l/-"})))
            .collect();
        assert_eq!(patched(json!({}), json!(wide)), Err(422));
        // Each copy into its own deepest place doubles the depth.
        let mut deep = vec![json!({"op":"add","path":"/a","value":{"a":{}}})];
        for n in 1..14_usize {
            deep.push(json!({"op":"copy","from":"/a","path":"/a".repeat((1 << n) + 1)}));
        }
        assert_eq!(patched(json!({}), json!(deep)), Err(422));
        let just: Vec<Value> = (1..=MAX_DEPTH)
            .map(|n| json!({"op":"add","path":"/a".repeat(n),"value":{}}))
            .collect();
        assert_eq!(patched(json!({}), json!(just)), Err(422));
        let fits = patched(json!({}), json!(just[..MAX_DEPTH - 1])).unwrap();
        assert!(serde_json::from_str::<Value>(&fits.to_string()).is_ok());
        let long = json!({"l": vec![0; 100_000]});
        let shifts = vec![json!({"op":"remove","path":"/l/0"}); 1000];
        assert_eq!(patched(long, json!(shifts)), Err(422));
    }
}
