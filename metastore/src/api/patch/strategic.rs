//! Strategic merge: a merge patch whose lists are merged by a key of their items, with directives for what a merge alone cannot say.
//!
//! | directive                        | does                                                        |
//! |----------------------------------|-------------------------------------------------------------|
//! | `$patch: replace`                | the object, or the list it stands in, is replaced           |
//! | `$patch: delete`                 | the object is emptied, the item of that key goes            |
//! | `$retainKeys: [..]`              | members that are not named go                               |
//! | `$setElementOrder/LIST: [..]`    | the items named come in this order                          |
//! | `$deleteFromPrimitiveList/LIST`  | these values go                                             |
//!
//! Which lists are merged, and by what, stands in the kind's schema. Everything costs the length of its lists.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

use crate::api::schema::{ListType, Schema};
use crate::api::status::Status;

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder";
const DELETE_ITEMS: &str = "$deleteFromPrimitiveList";

/// Why a patch cannot be applied.
#[derive(Debug)]
pub(super) enum Fault {
    /// A directive has the wrong form.
    Form(&'static str),
    /// Lists of lists.
    Nested,
    /// The patch contradicts itself or the object. Other servers take this for a failure of their own, and clients get that code here too.
    Content(String),
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Form(why) => Self::bad_request(why),
            Fault::Nested => Self::new(
                http::StatusCode::UNPROCESSABLE_ENTITY,
                "Invalid",
                "the server rejected our request due to an error in our request: lists of lists are not supported",
            )
            .with_empty_details(),
            Fault::Content(why) => Self::new(http::StatusCode::INTERNAL_SERVER_ERROR, "", why),
        }
    }
}

fn content<T>(why: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Content(why.into()))
}

/// Merges a patch into an object.
pub(super) fn merge(
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
    schema: Option<&Schema>,
) -> Result<(), Fault> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        target.clear();
        match directive.as_str() {
            Some("replace") => {
                let rest = patch.iter().filter(|(k, _)| *k != DIRECTIVE);
                target.extend(rest.map(|(k, v)| (k.clone(), v.clone())));
            }
            Some("delete") => {}
            _ => return content(format!("unknown patch type: {directive}")),
        }
        return Ok(());
    }
    retain(target, patch)?;
    let mut ordered = BTreeSet::new();
    for (key, wanted) in patch.iter().filter(|(k, _)| k.starts_with(ORDER)) {
        let list = listed(key, ORDER, "invalid patch format of setElementOrder list")?;
        ordered.insert(list);
        merge_in_order(target, list, patch.get(list), wanted, schema)?;
    }
    for (key, value) in patch {
        if key == RETAIN || key.starts_with(ORDER) || ordered.contains(key.as_str()) {
            continue;
        }
        let (key, deleting) = if key.starts_with(DELETE_ITEMS) {
            (
                listed(key, DELETE_ITEMS, "invalid patch format of primitive list")?,
                true,
            )
        } else {
            (key.as_str(), false)
        };
        merge_member(target, key, value, deleting, schema.and_then(|s| s.member(key)))?;
    }
    Ok(())
}

/// The list that a directive is about.
fn listed<'k>(key: &'k str, directive: &str, wrong: &'static str) -> Result<&'k str, Fault> {
    key.strip_prefix(directive)
        .and_then(|rest| rest.strip_prefix('/'))
        .ok_or(Fault::Form(wrong))
}

fn retain(target: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<(), Fault> {
    const WRONG: Fault = Fault::Form("invalid patch format of retainKeys");
    let Some(keep) = patch.get(RETAIN) else { return Ok(()) };
    let keep: BTreeSet<&str> = keep.as_array().ok_or(WRONG)?.iter().filter_map(Value::as_str).collect();
    let strange = |(k, v): (&String, &Value)| {
        !(v.is_null()
            || k == RETAIN
            || k.starts_with(ORDER)
            || k.starts_with(DELETE_ITEMS)
            || keep.contains(k.as_str()))
    };
    if patch.iter().any(strange) {
        return Err(WRONG);
    }
    target.retain(|k, _| keep.contains(k.as_str()));
    Ok(())
}

fn merge_member(
    target: &mut Map<String, Value>,
    key: &str,
    value: &Value,
    deleting: bool,
    schema: Option<&Schema>,
) -> Result<(), Fault> {
    if value.is_null() {
        target.remove(key);
        return Ok(());
    }
    match (target.get_mut(key), value) {
        (Some(Value::Object(have)), Value::Object(patch)) => merge(have, patch, schema)?,
        (Some(Value::Array(have)), Value::Array(patch)) => {
            let by = By::of(schema);
            if deleting {
                delete_values(have, patch)?;
            } else if by == By::Whole {
                have.clone_from(patch);
            } else {
                *have = merge_list(std::mem::take(have), patch, by, schema)?;
            }
        }
        _ if deleting => {}
        _ => match taken(value) {
            Some(value) => {
                target.insert(key.to_owned(), value);
            }
            None => {
                target.remove(key);
            }
        },
    }
    Ok(())
}

/// A part of the patch as it becomes part of the object: without nulls, and without what a directive says about things that are not there.
fn taken(value: &Value) -> Option<Value> {
    Some(match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => return None,
        Value::Object(map) => map
            .iter()
            .filter(|(_, v)| !v.is_null())
            .filter_map(|(k, v)| Some((k.clone(), taken(v)?)))
            .collect(),
        Value::Array(list) => list.iter().filter_map(taken).collect(),
        other => other.clone(),
    })
}

/// What makes two items of a list the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By<'s> {
    /// The list is one value.
    Whole,
    /// Scalars are themselves.
    Value,
    /// Objects have a key.
    Key(&'s str),
}

impl<'s> By<'s> {
    fn of(schema: Option<&'s Schema>) -> Self {
        match schema.map(|s| &s.list) {
            Some(ListType::Set) => Self::Value,
            Some(ListType::Map(keys)) => keys.first().map_or(Self::Whole, |k| Self::Key(k)),
            _ => Self::Whole,
        }
    }

    /// What tells an item from others.
    fn id(self, item: &Value) -> Result<&Value, Fault> {
        let id = match self {
            Self::Whole | Self::Value => item,
            Self::Key(key) => match item {
                Value::Object(map) => match map.get(key) {
                    Some(id) => id,
                    None => {
                        return content(format!(
                            "map: {} does not contain declared merge key: {key}",
                            short(item)
                        ));
                    }
                },
                _ => return content("an item of a list that is merged by a key must be an object"),
            },
        };
        if id.is_object() || id.is_array() {
            return content(format!("{} cannot be compared", short(id)));
        }
        Ok(id)
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    let end = text.char_indices().nth(200).map_or(text.len(), |(i, _)| i);
    text[..end].to_owned()
}

/// Where each item of a list stands; the first one counts.
type Places<'v> = HashMap<&'v Value, usize>;

fn places<'v>(list: impl Iterator<Item = &'v Value>, by: By<'_>) -> Result<Places<'v>, Fault> {
    let mut out = Places::new();
    for (i, item) in list.enumerate() {
        out.entry(by.id(item)?).or_insert(i);
    }
    Ok(out)
}

/// The items of two lists must be of one type, and no lists.
fn alike(have: &[Value], patch: &[Value]) -> Result<(), Fault> {
    let mut all = have.iter().chain(patch);
    let Some(first) = all.next() else { return Ok(()) };
    if first.is_array() {
        return Err(Fault::Nested);
    }
    let kind = |v: &Value| (std::mem::discriminant(v), v.is_f64());
    if first.is_null() || all.any(|v| kind(v) != kind(first)) {
        return content("list element types are not identical");
    }
    Ok(())
}

fn delete_values(have: &mut Vec<Value>, gone: &[Value]) -> Result<(), Fault> {
    alike(have, gone)?;
    if have.first().or(gone.first()).is_some_and(Value::is_object) {
        return content("cannot delete values from a list of objects");
    }
    let gone = places(gone.iter(), By::Value)?;
    have.retain(|v| !gone.contains_key(v));
    Ok(())
}

/// Merges a list; what the patch names comes in the patch's order, between the others where the object's order allows it.
fn merge_list(have: Vec<Value>, patch: &[Value], by: By<'_>, schema: Option<&Schema>) -> Result<Vec<Value>, Fault> {
    alike(&have, patch)?;
    let merged = merge_items(have.clone(), patch, by, schema)?;
    let Some(merged) = merged else {
        // Replaced: as the patch has them.
        let new: Vec<Value> = patch.iter().filter(|p| directive(p).is_none()).cloned().collect();
        new.iter().try_for_each(|v| by.id(v).map(drop))?;
        return Ok(new);
    };
    let named = patch.iter().filter(|p| directive(p).is_none());
    in_order(merged, &places(named, by)?, &places(have.iter(), by)?, by)
}

fn directive(item: &Value) -> Option<&Value> {
    item.get(DIRECTIVE)
}

/// The items with the patch in them, what is new at the end; nothing when the patch says that the list is replaced.
fn merge_items(
    mut have: Vec<Value>,
    patch: &[Value],
    by: By<'_>,
    schema: Option<&Schema>,
) -> Result<Option<Vec<Value>>, Fault> {
    if by == By::Value {
        if patch.first().is_some_and(Value::is_object) {
            return content("cannot merge lists without merge key");
        }
        let mut seen = BTreeSet::new();
        have.extend_from_slice(patch);
        have.retain(|v| seen.insert(v.to_string()));
        return Ok(Some(have));
    }
    let (mut gone, mut replaced) = (BTreeSet::new(), false);
    for item in patch {
        match directive(item).map(Value::as_str) {
            None => {}
            Some(Some("delete")) => {
                gone.insert(by.id(item)?.to_string());
            }
            Some(Some("replace")) => replaced = true,
            Some(Some("merge")) => return content("merging lists cannot yet be specified in the patch"),
            Some(_) => return content(format!("unknown patch type in {}", short(item))),
        }
    }
    if replaced {
        return Ok(None);
    }
    if !gone.is_empty() {
        let mut wrong = None;
        have.retain(|item| match by.id(item) {
            Ok(id) => !gone.contains(&id.to_string()),
            Err(fault) => {
                wrong = Some(fault);
                true
            }
        });
        if let Some(fault) = wrong {
            return Err(fault);
        }
    }
    let mut index: HashMap<Value, usize> = HashMap::with_capacity(have.len());
    for (i, item) in have.iter().enumerate() {
        index.entry(by.id(item)?.clone()).or_insert(i);
    }
    let items = schema.and_then(|s| s.items.as_deref());
    for item in patch.iter().filter(|p| directive(p).is_none()) {
        let id = by.id(item)?;
        match (index.get(id), item) {
            (Some(i), Value::Object(patch)) => {
                if let Value::Object(old) = &mut have[*i] {
                    merge(old, patch, items)?;
                }
            }
            _ => {
                index.insert(id.clone(), have.len());
                have.push(item.clone());
            }
        }
    }
    Ok(Some(have))
}

/// Puts what `wanted` names into its order and the rest into the order it `stood` in, and weaves the two: of the next two, what stood earlier
/// comes first, and what did not stand anywhere comes before what did.
fn in_order(list: Vec<Value>, wanted: &Places<'_>, stood: &Places<'_>, by: By<'_>) -> Result<Vec<Value>, Fault> {
    type Ranked = (usize, Option<usize>, Value);
    let (mut named, mut rest): (Vec<Ranked>, Vec<Ranked>) = (Vec::new(), Vec::new());
    for item in list {
        let id = by.id(&item)?;
        let place = stood.get(id).copied();
        match wanted.get(id) {
            Some(rank) => named.push((*rank, place, item)),
            None => rest.push((place.unwrap_or(usize::MAX), place, item)),
        }
    }
    named.sort_by_key(|(rank, ..)| *rank);
    rest.sort_by_key(|(rank, ..)| *rank);
    let mut out = Vec::with_capacity(named.len() + rest.len());
    let (mut named, mut rest) = (named.into_iter().peekable(), rest.into_iter().peekable());
    loop {
        let earlier = match (rest.peek(), named.peek()) {
            (None, None) => return Ok(out),
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((_, Some(r), _)), Some((_, Some(n), _))) => r < n,
            _ => false,
        };
        let next = if earlier { rest.next() } else { named.next() };
        out.extend(next.map(|(.., item)| item));
    }
}

/// Merges a list whose order the patch gives.
fn merge_in_order(
    target: &mut Map<String, Value>,
    list: &str,
    patch: Option<&Value>,
    wanted: &Value,
    schema: Option<&Schema>,
) -> Result<(), Fault> {
    let as_list = |v: Option<&Value>| match v {
        None => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list.clone())),
        Some(_) => content(format!("expected a list of {list}")),
    };
    let Some(wanted) = wanted.as_array() else {
        return content(format!("expected a list in {ORDER}/{list}"));
    };
    let (have, patch) = (as_list(target.get(list))?, as_list(patch)?);
    let member = schema.and_then(|s| s.member(list));
    if member.is_none() {
        return content(format!("unable to find api field for the json field {list:?}"));
    }
    let by = By::of(member);
    check_order(patch.as_deref().unwrap_or_default(), wanted, by)?;
    let before = have.clone().unwrap_or_default();
    alike(&before, patch.as_deref().unwrap_or_default())?;
    let merged = match (have, patch) {
        (None, None) => return Ok(()),
        (Some(have), None) => have,
        (None, Some(patch)) => patch.iter().filter_map(without_directives).collect(),
        (Some(_), Some(patch)) if by == By::Whole => patch,
        (Some(have), Some(patch)) => merge_list(have, &patch, by, member)?,
    };
    let out = in_order(merged, &places(wanted.iter(), by)?, &places(before.iter(), by)?, by)?;
    target.insert(list.to_owned(), Value::Array(out));
    Ok(())
}

/// Like [`taken`], but nulls stay.
fn without_directives(value: &Value) -> Option<Value> {
    Some(match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => return None,
        Value::Object(map) => map
            .iter()
            .filter_map(|(k, v)| Some((k.clone(), without_directives(v)?)))
            .collect(),
        Value::Array(list) => list.iter().filter_map(without_directives).collect(),
        other => other.clone(),
    })
}

/// The items of a patch must come in the order that it says itself.
fn check_order(patch: &[Value], wanted: &[Value], by: By<'_>) -> Result<(), Fault> {
    if patch.is_empty() || wanted.is_empty() {
        return Ok(());
    }
    let mut rest = wanted.iter();
    for item in patch.iter().filter(|p| directive(p).is_none()) {
        let id = by.id(item)?;
        loop {
            match rest.next() {
                None => return content(format!("the order in the patch's list does not match its {ORDER} list")),
                Some(w) if by.id(w)? == id => break,
                Some(_) => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
