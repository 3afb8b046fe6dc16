//! One operation of a JSON patch on a JSON value: add, remove and replace, at a pointer of RFC 6901.

use serde_json::Value;

/// What is done at the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Add,
    Remove,
    Replace,
}

/// Why an operation is not possible on this value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// A pointer is empty or a list of steps that each begin with a slash.
    #[error("a path begins with \"/\"; a \"/\" inside a key is written ~1, a \"~\" is written ~0")]
    Pointer,
    /// Remove and replace need what they name, add needs its parent.
    #[error("there is no {0} in the object; use add, or correct the path")]
    Missing(String),
    /// A step leads into a string, a number, a boolean or null.
    #[error("{0} is neither an object nor a list, so nothing lies below it")]
    Scalar(String),
    /// A step into a list is a number without leading zeros, or `-` for the place after its end.
    #[error("{step:?} is no place in the list {list} of {len}; count from 0, or add at \"-\"")]
    Index { list: String, step: String, len: usize },
    /// The whole value cannot be removed.
    #[error("the whole value cannot be removed")]
    Root,
}

/// The steps of a pointer, unescaped.
///
/// # Errors
/// [`PatchError::Pointer`].
pub(super) fn steps(pointer: &str) -> Result<Vec<String>, PatchError> {
    if pointer.is_empty() {
        return Ok(Vec::new());
    }
    let rest = pointer.strip_prefix('/').ok_or(PatchError::Pointer)?;
    rest.split('/').map(unescape).collect()
}

fn unescape(step: &str) -> Result<String, PatchError> {
    let mut parts = step.split('~');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (sign, rest) = match part.as_bytes().first() {
            Some(b'0') => ('~', &part[1..]),
            Some(b'1') => ('/', &part[1..]),
            _ => return Err(PatchError::Pointer),
        };
        text.push(sign);
        text.push_str(rest);
    }
    Ok(text)
}

/// What lies at the steps.
///
/// # Errors
/// There is nothing.
pub(super) fn find<'v>(target: &'v mut Value, steps: &[String]) -> Result<&'v mut Value, PatchError> {
    let mut here = target;
    for (depth, step) in steps.iter().enumerate() {
        let missing = || PatchError::Missing(shown(&steps[..=depth]));
        here = match here {
            Value::Object(map) => map.get_mut(step).ok_or_else(missing)?,
            Value::Array(list) => index(step, list.len())
                .and_then(|i| list.get_mut(i))
                .ok_or_else(missing)?,
            _ => return Err(PatchError::Scalar(shown(&steps[..depth]))),
        };
    }
    Ok(here)
}

/// Does one operation.
///
/// # Errors
/// The value has no such place; it is as it was.
pub(super) fn apply(target: &mut Value, op: Op, pointer: &str, value: &Value) -> Result<(), PatchError> {
    apply_at(target, op, &steps(pointer)?, value)
}

/// As [`apply`], with the pointer already taken apart.
pub(super) fn apply_at(target: &mut Value, op: Op, steps: &[String], value: &Value) -> Result<(), PatchError> {
    let Some((last, parents)) = steps.split_last() else {
        if op == Op::Remove {
            return Err(PatchError::Root);
        }
        *target = value.clone();
        return Ok(());
    };
    let missing = || PatchError::Missing(shown(steps));
    match (find(target, parents)?, op) {
        (Value::Object(map), Op::Add) => {
            map.insert(last.clone(), value.clone());
        }
        (Value::Object(map), Op::Replace) => *map.get_mut(last).ok_or_else(missing)? = value.clone(),
        (Value::Object(map), Op::Remove) => {
            map.remove(last).ok_or_else(missing)?;
        }
        (Value::Array(list), op) => {
            let len = list.len();
            let wrong = || PatchError::Index {
                list: shown(parents),
                step: last.clone(),
                len,
            };
            if op == Op::Add && last == "-" {
                list.push(value.clone());
                return Ok(());
            }
            let place = index(last, len).ok_or_else(wrong)?;
            match op {
                Op::Add => list.insert(place, value.clone()),
                Op::Replace => *list.get_mut(place).ok_or_else(wrong)? = value.clone(),
                Op::Remove if place < len => {
                    list.remove(place);
                }
                Op::Remove => return Err(wrong()),
            }
        }
        _ => return Err(PatchError::Scalar(shown(parents))),
    }
    Ok(())
}

/// The place that a step names in a list; the place after the end is one.
fn index(step: &str, len: usize) -> Option<usize> {
    let plain = step.bytes().all(|b| b.is_ascii_digit()) && (step == "0" || !step.starts_with('0'));
    let place = step.parse().ok().filter(|_| plain)?;
    (place <= len).then_some(place)
}

/// Steps as a pointer.
pub(super) fn shown(steps: &[String]) -> String {
    if steps.is_empty() {
        return "the object itself".to_owned();
    }
    steps.iter().fold(String::new(), |mut text, step| {
        text.push('/');
        text.push_str(&step.replace('~', "~0").replace('/', "~1"));
        text
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(mut value: Value, op: Op, pointer: &str, with: Value) -> Result<Value, PatchError> {
        let before = value.clone();
        let done = apply(&mut value, op, pointer, &with);
        if done.is_err() {
            assert_eq!(value, before, "what fails changes nothing");
        }
        done.map(|()| value)
    }

    #[test]
    fn members_and_items_come_go_and_change() {
        let of = |op, pointer: &str, with| {
            patched(json!({"a": {"b": 1}, "l": [1, 2], "x/y~z": 0}), op, pointer, with).unwrap()
        };
        assert_eq!(of(Op::Add, "/a/c", json!(2))["a"], json!({"b": 1, "c": 2}));
        assert_eq!(of(Op::Add, "/a/b", json!(2))["a"], json!({"b": 2}));
        assert_eq!(of(Op::Replace, "/a", json!([]))["a"], json!([]));
        assert_eq!(of(Op::Remove, "/a/b", Value::Null)["a"], json!({}));
        assert_eq!(of(Op::Add, "/l/1", json!(9))["l"], json!([1, 9, 2]));
        assert_eq!(of(Op::Add, "/l/2", json!(9))["l"], json!([1, 2, 9]));
        assert_eq!(of(Op::Add, "/l/-", json!(9))["l"], json!([1, 2, 9]));
        assert_eq!(of(Op::Replace, "/l/0", json!(9))["l"], json!([9, 2]));
        assert_eq!(of(Op::Remove, "/l/0", Value::Null)["l"], json!([2]));
        assert_eq!(of(Op::Replace, "/x~1y~0z", json!(7))["x/y~z"], json!(7));
        assert_eq!(of(Op::Replace, "", json!(7)), json!(7));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let of = |op, pointer: &str| patched(json!({"a": {"b": 1}, "l": [1, 2]}), op, pointer, json!(0)).unwrap_err();
        assert_eq!(of(Op::Remove, "/a/c"), PatchError::Missing("/a/c".into()));
        assert_eq!(of(Op::Replace, "/c"), PatchError::Missing("/c".into()));
        assert_eq!(of(Op::Add, "/c/d"), PatchError::Missing("/c".into()));
        assert_eq!(of(Op::Add, "/a/b/c"), PatchError::Scalar("/a/b".into()));
        assert_eq!(of(Op::Add, "a"), PatchError::Pointer);
        assert_eq!(of(Op::Add, "/a~2"), PatchError::Pointer);
        assert_eq!(of(Op::Remove, ""), PatchError::Root);
        for step in ["3", "01", "-1", "x", "", "99999999999999999999"] {
            assert!(
                matches!(of(Op::Add, &format!("/l/{step}")), PatchError::Index { .. }),
                "{step}"
            );
        }
        for op in [Op::Remove, Op::Replace] {
            assert!(matches!(of(op, "/l/2"), PatchError::Index { .. }));
            assert!(matches!(of(op, "/l/-"), PatchError::Index { .. }));
        }
    }
}
