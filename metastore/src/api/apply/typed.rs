//! Objects as trees of owned places: which paths a value has, how two values differ, how one is merged over the other, and what is left when
//! paths are taken out. A schema says what is one place (a scalar, an atomic map or list) and what is many.
//!
//! Where a schema is silent, the value decides: maps are taken apart, lists are one place.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::fieldset::{FieldSet, field, item, keyed};
use crate::api::schema::{ListType, Schema};

/// A list whose items cannot be told apart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TypedError {
    /// An item of a list of objects lacks a key of the list.
    #[error("{path}: an item of the list omits its key field {key:?}")]
    MissingKey {
        /// Where the list is.
        path: String,
        /// The key that is missing.
        key: String,
    },
    /// What must be an object, an item of a list or the metadata, is none.
    #[error("{0}: expected an object")]
    NoObject(String),
    /// Two items of a list are the same one.
    #[error("{path}: duplicate entries for key {element}")]
    Duplicate {
        /// Where the list is.
        path: String,
        /// Both items, as a path element.
        element: String,
    },
}

/// How two values differ.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// Only in the new one.
    pub(crate) added: FieldSet,
    /// Only in the old one.
    pub(crate) removed: FieldSet,
    /// In both, not equal.
    pub(crate) modified: FieldSet,
}

/// What a value is by its schema.
enum Shape<'v> {
    /// One place.
    Leaf,
    Map(&'v Map<String, Value>),
    /// A list with an element for each item.
    List(&'v Vec<Value>),
}

fn shape<'v>(value: &'v Value, schema: Option<&Schema>) -> Shape<'v> {
    match value {
        Value::Object(map) if schema.is_none_or(|s| !s.atomic) => Shape::Map(map),
        Value::Array(list) if schema.is_some_and(|s| s.list != ListType::Atomic) => Shape::List(list),
        _ => Shape::Leaf,
    }
}

fn member<'s>(schema: Option<&'s Schema>, name: &str) -> Option<&'s Schema> {
    schema.and_then(|s| s.member(name))
}

fn items(schema: Option<&Schema>) -> Option<&Schema> {
    schema.and_then(|s| s.items.as_deref())
}

/// A member that its map names itself, as opposed to one that the schema does.
fn is_free(schema: Option<&Schema>, name: &str) -> bool {
    schema.is_none_or(|s| !s.properties.contains_key(name))
}

/// A part of an object that is there even when nobody wrote it.
fn is_part(schema: Option<&Schema>) -> bool {
    schema.is_some_and(|s| s.always)
}

/// The elements of a list's items, in their order. `path` is for the error.
fn elements(list: &[Value], schema: Option<&Schema>, path: &str) -> Result<Vec<String>, TypedError> {
    let mut out = Vec::with_capacity(list.len());
    let mut seen = BTreeSet::new();
    for value in list {
        let element = match schema.map(|s| &s.list) {
            Some(ListType::Map(keys)) => {
                let map = value.as_object().ok_or_else(|| TypedError::NoObject(path.to_owned()))?;
                let mut id = Map::new();
                for key in keys {
                    let default = || member(items(schema), key).and_then(|s| s.default.as_ref());
                    let found = map.get(key).or_else(default).ok_or_else(|| TypedError::MissingKey {
                        path: path.to_owned(),
                        key: key.clone(),
                    })?;
                    id.insert(key.clone(), found.clone());
                }
                keyed(&id)
            }
            _ => item(value),
        };
        if !seen.insert(element.clone()) {
            return Err(TypedError::Duplicate {
                path: path.to_owned(),
                element,
            });
        }
        out.push(element);
    }
    Ok(out)
}

/// The elements of a list that is stored already: of items that cannot be told apart the first one counts.
fn lenient(list: &[Value], schema: Option<&Schema>) -> Vec<Option<String>> {
    let mut seen = BTreeSet::new();
    list.iter()
        .map(|value| {
            let element = elements(std::slice::from_ref(value), schema, "").ok()?.pop()?;
            seen.insert(element.clone()).then_some(element)
        })
        .collect()
}

/// The paths of a value.
pub(crate) fn fields_of(value: &Value, schema: Option<&Schema>) -> FieldSet {
    let mut out = FieldSet::default();
    match shape(value, schema) {
        Shape::Leaf => out.member = true,
        Shape::Map(map) => {
            for (name, inner) in map {
                let mut below = fields_of(inner, member(schema, name));
                let empty = inner.is_null() || inner.as_object().is_some_and(Map::is_empty);
                below.member |= empty || is_free(schema, name);
                out.put(field(name), below);
            }
        }
        Shape::List(list) => {
            for (value, element) in list.iter().zip(lenient(list, schema)) {
                let Some(element) = element else { continue };
                let mut below = fields_of(value, items(schema));
                below.member = true;
                out.put(element, below);
            }
        }
    }
    out
}

/// Refuses a value whose lists cannot be merged.
pub(crate) fn check(value: &Value, schema: Option<&Schema>, path: &mut String) -> Result<(), TypedError> {
    match shape(value, schema) {
        Shape::Leaf => {}
        Shape::Map(map) => {
            for (name, inner) in map {
                let before = path.len();
                path.push('.');
                path.push_str(name);
                check(inner, member(schema, name), path)?;
                path.truncate(before);
            }
        }
        Shape::List(list) => {
            elements(list, schema, path)?;
            for inner in list {
                check(inner, items(schema), path)?;
            }
        }
    }
    Ok(())
}

/// How `new` differs from `old`. Beside what is at the leaves, a whole that came or went is in the sets itself.
pub(crate) fn compare(old: &Value, new: &Value, schema: Option<&Schema>) -> Comparison {
    let mut out = Comparison::default();
    differ(Some(old), Some(new), schema, true, &mut out);
    out
}

/// `held`: what stands around this place was there before, if only by itself.
fn differ(old: Option<&Value>, new: Option<&Value>, schema: Option<&Schema>, held: bool, out: &mut Comparison) {
    let part = held && is_part(schema);
    let unsaid = || schema.filter(|_| part).and_then(|s| s.default.as_ref());
    if old == new || (old.is_none() && new == unsaid()) {
        return;
    }
    let empty = |v: Option<&Value>| match v {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    };
    if empty(old) && empty(new) {
        return at_leaf(old, new, out);
    }
    let there = |v: Option<&'_ Value>| v.is_some_and(|v| !v.is_null());
    match (
        old.filter(|_| there(old)).map(|v| shape(v, schema)),
        new.filter(|_| there(new)).map(|v| shape(v, schema)),
    ) {
        (Some(Shape::Map(a)), Some(Shape::Map(b))) => differ_maps(Some(a), Some(b), schema, true, out),
        (Some(Shape::List(a)), Some(Shape::List(b))) => differ_lists(Some(a), Some(b), schema, out),
        (None, Some(Shape::Map(b))) => {
            differ_maps(None, Some(b), schema, part, out);
            out.added.member |= !part;
        }
        (None, Some(Shape::List(b))) => {
            differ_lists(None, Some(b), schema, out);
            out.added.member |= !part;
        }
        (Some(Shape::Map(a)), None) => {
            differ_maps(Some(a), None, schema, false, out);
            out.removed.member = true;
        }
        (Some(Shape::List(a)), None) => {
            differ_lists(Some(a), None, schema, out);
            out.removed.member = true;
        }
        (Some(Shape::Leaf), Some(Shape::Leaf)) | (Some(Shape::Leaf), None) | (None, Some(Shape::Leaf)) => {
            at_leaf(old, new, out);
        }
        // One kind of thing took the place of another.
        (Some(_), Some(_)) => {
            differ(old, None, schema, held, out);
            differ(None, new, schema, held, out);
        }
        (None, None) => {}
    }
}

fn at_leaf(old: Option<&Value>, new: Option<&Value>, out: &mut Comparison) {
    match (old, new) {
        (None, Some(_)) => out.added.member = true,
        (Some(_), None) => out.removed.member = true,
        (Some(_), Some(_)) => out.modified.member = true,
        (None, None) => {}
    }
}

fn differ_maps(
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    schema: Option<&Schema>,
    held: bool,
    out: &mut Comparison,
) {
    let names: BTreeSet<&String> = old
        .into_iter()
        .flat_map(Map::keys)
        .chain(new.into_iter().flat_map(Map::keys))
        .collect();
    for name in names {
        let (a, b) = (old.and_then(|m| m.get(name)), new.and_then(|m| m.get(name)));
        descend(field(name), a, b, member(schema, name), held, out);
    }
}

fn differ_lists(old: Option<&Vec<Value>>, new: Option<&Vec<Value>>, schema: Option<&Schema>, out: &mut Comparison) {
    let by_element = |list: Option<&Vec<Value>>| -> BTreeMap<String, Value> {
        let list: &[Value] = list.map_or(&[], Vec::as_slice);
        lenient(list, schema)
            .into_iter()
            .zip(list)
            .filter_map(|(element, value)| Some((element?, value.clone())))
            .collect()
    };
    let (old, new) = (by_element(old), by_element(new));
    let all: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for element in all {
        descend(
            element.clone(),
            old.get(element),
            new.get(element),
            items(schema),
            false,
            out,
        );
    }
}

fn descend(
    element: String,
    old: Option<&Value>,
    new: Option<&Value>,
    schema: Option<&Schema>,
    held: bool,
    out: &mut Comparison,
) {
    let mut below = Comparison::default();
    differ(old, new, schema, held, &mut below);
    let is_item = !element.starts_with("f:");
    below.added.member |= is_item && old.is_none();
    below.removed.member |= is_item && new.is_none();
    out.added.put(element.as_str(), below.added);
    out.removed.put(element.as_str(), below.removed);
    out.modified.put(element, below.modified);
}

/// `over` merged over `base`.
///
/// # Errors
/// Items of a list in `over` that cannot be told apart.
pub(crate) fn merge(base: Value, over: &Value, schema: Option<&Schema>) -> Result<Value, TypedError> {
    check(over, schema, &mut String::new())?;
    Ok(merged(base, over, schema))
}

fn merged(base: Value, over: &Value, schema: Option<&Schema>) -> Value {
    match (base, shape(over, schema)) {
        (Value::Object(mut base), Shape::Map(over)) => {
            for (name, value) in over {
                let below = member(schema, name);
                let new = match base.remove(name) {
                    Some(old) => merged(old, value, below),
                    None => value.clone(),
                };
                base.insert(name.clone(), new);
            }
            Value::Object(base)
        }
        (Value::Array(base), Shape::List(over)) => Value::Array(merge_lists(base, over, schema)),
        (_, _) => over.clone(),
    }
}

/// Items in both stand in the order of `over`; those of `base` alone stay behind the one they followed. Lists are a client's, and long if it
/// likes: each item is looked at a fixed number of times.
fn merge_lists(base: Vec<Value>, over: &[Value], schema: Option<&Schema>) -> Vec<Value> {
    let ours: BTreeMap<String, usize> = lenient(over, schema)
        .into_iter()
        .enumerate()
        .filter_map(|(n, element)| Some((element?, n)))
        .collect();
    // Where an item of the base stands in `over`, and the other way round.
    let places: Vec<Option<usize>> = lenient(&base, schema)
        .into_iter()
        .map(|element| ours.get(&element?).copied())
        .collect();
    let mut twins = vec![None; over.len()];
    for (at, place) in places.iter().enumerate() {
        if let Some(n) = place {
            twins[*n] = Some(at);
        }
    }
    let mut base: Vec<Option<Value>> = base.into_iter().map(Some).collect();
    let mut out = Vec::with_capacity(base.len() + over.len());
    let mut both = (0..over.len()).filter(|n| twins[*n].is_some()).peekable();
    let mut at = 0;
    for (n, value) in over.iter().enumerate() {
        while both.next_if(|m| *m < n).is_some() {}
        // What only the base has, up to the next item of both; items of both that stand elsewhere now are passed over.
        while at < base.len() && (places[at].is_none() || places[at] != both.peek().copied()) {
            if places[at].is_none() {
                out.extend(base[at].take());
            }
            at += 1;
        }
        out.push(match twins[n].and_then(|twin| base[twin].take()) {
            Some(old) => merged(old, value, items(schema)),
            None => value.clone(),
        });
    }
    for (value, place) in base.into_iter().zip(places).skip(at) {
        if place.is_none() {
            out.extend(value);
        }
    }
    out
}

/// Takes out what is in the set, with everything below it. Maps and lists that lose their last member go as well; none when nothing is left.
pub(crate) fn without(value: Value, set: &FieldSet, schema: Option<&Schema>) -> Option<Value> {
    match value {
        Value::Object(map) if schema.is_none_or(|s| !s.atomic) => {
            let before = map.len();
            let left: Map<String, Value> = map
                .into_iter()
                .filter_map(|(name, inner)| {
                    let left = keep(inner, set.below(&field(&name)), member(schema, &name))?;
                    Some((name, left))
                })
                .collect();
            (before == 0 || !left.is_empty()).then_some(Value::Object(left))
        }
        Value::Array(list) if schema.is_some_and(|s| s.list != ListType::Atomic) => {
            let before = list.len();
            let elements = lenient(&list, schema);
            let left: Vec<Value> = list
                .into_iter()
                .zip(elements)
                .filter_map(|(inner, element)| {
                    let below = element.as_deref().and_then(|e| set.below(e));
                    keep(inner, below, items(schema))
                })
                .collect();
            (before == 0 || !left.is_empty()).then_some(Value::Array(left))
        }
        other => Some(other),
    }
}

fn keep(value: Value, set: Option<&FieldSet>, schema: Option<&Schema>) -> Option<Value> {
    match set {
        None => Some(value),
        Some(set) if set.member => None,
        Some(set) => without(value, set, schema),
    }
}

/// The set with the fields on the way to its members that a schema names: they come and go with what is in them.
#[must_use]
pub(crate) fn with_parents(set: &FieldSet, schema: Option<&Schema>, value: &Value) -> FieldSet {
    let mut out = FieldSet::default();
    out.member = set.member;
    match shape(value, schema) {
        Shape::Leaf => return set.clone(),
        Shape::Map(map) => {
            for (name, inner) in map {
                let Some(below) = set.below(&field(name)) else { continue };
                let mut below = with_parents(below, member(schema, name), inner);
                below.member |= !is_free(schema, name);
                out.put(field(name), below);
            }
        }
        Shape::List(list) => {
            for (inner, element) in list.iter().zip(lenient(list, schema)) {
                let Some(below) = element.as_deref().and_then(|e| set.below(e)) else {
                    continue;
                };
                out.put(element.unwrap_or_default(), with_parents(below, items(schema), inner));
            }
        }
    }
    out
}
