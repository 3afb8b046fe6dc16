//! Sets of field paths, in the form clients see them: `FieldsV1`, where `f:` names a field, `k:` an item of a list by its keys, `v:` an item of a
//! set by its value, `i:` one by its place, and `.` is the place itself beside what is below it.
//!
//! A set is the tree of its paths; an element of a path is its canonical text, so that equal paths are equal bytes.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Deepest path that is read from a client.
const MAX_DEPTH: usize = 128;

/// A set of paths; as a node of the tree, also whether the path to it is a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    /// The path that leads here is in the set.
    pub(crate) member: bool,
    children: BTreeMap<Box<str>, Self>,
}

/// The element of a field.
pub(crate) fn field(name: &str) -> String {
    format!("f:{name}")
}

/// The element of a list's item that is known by its keys, in the order of their names.
pub(crate) fn keyed(keys: &Map<String, Value>) -> String {
    format!("k:{}", text(keys))
}

/// The element of a set's item.
pub(crate) fn item(value: &Value) -> String {
    format!("v:{}", text(value))
}

fn text(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("JSON in memory is written")
}

impl FieldSet {
    /// Reads `fieldsV1`; none when it is not one.
    pub(crate) fn parse(value: &Value) -> Option<Self> {
        let mut set = Self::read(value, 0)?;
        // The root is no path.
        set.member = false;
        Some(set)
    }

    fn read(value: &Value, depth: usize) -> Option<Self> {
        let map = value.as_object().filter(|_| depth < MAX_DEPTH)?;
        let mut set = Self {
            member: map.is_empty(),
            children: BTreeMap::new(),
        };
        for (key, below) in map {
            if key == "." {
                set.member = true;
                continue;
            }
            set.children
                .insert(canonical(key)?.into(), Self::read(below, depth + 1)?);
        }
        Some(set)
    }

    /// Writes `fieldsV1`.
    pub(crate) fn to_value(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        for (element, below) in &self.children {
            map.insert(element.to_string(), below.to_value());
        }
        Value::Object(map)
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// What lies below an element.
    pub(crate) fn below(&self, element: &str) -> Option<&Self> {
        self.children.get(element)
    }

    /// Puts what lies below an element.
    pub(crate) fn put(&mut self, element: impl Into<Box<str>>, below: Self) {
        if !below.is_empty() {
            self.children.insert(element.into(), below);
        }
    }

    /// Takes a path and everything below it out.
    pub(crate) fn remove(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        if rest.is_empty() {
            self.children.remove(*first);
        } else if let Some(below) = self.children.get_mut(*first) {
            below.remove(rest);
            if below.is_empty() {
                self.children.remove(*first);
            }
        }
    }

    /// Takes a path out and leaves what is below it.
    pub(crate) fn unmark(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else {
            self.member = false;
            return;
        };
        if let Some(below) = self.children.get_mut(*first) {
            below.unmark(rest);
            if below.is_empty() {
                self.children.remove(*first);
            }
        }
    }

    /// What is in either.
    #[must_use]
    pub(crate) fn union(mut self, other: &Self) -> Self {
        self.merge(other);
        self
    }

    /// Adds what is in the other.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.member |= other.member;
        for (element, below) in &other.children {
            match self.children.get_mut(element) {
                Some(own) => own.merge(below),
                None => {
                    self.children.insert(element.clone(), below.clone());
                }
            }
        }
    }

    /// What is in both.
    #[must_use]
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let mut out = Self {
            member: self.member && other.member,
            children: BTreeMap::new(),
        };
        for (element, below) in &self.children {
            if let Some(theirs) = other.children.get(element) {
                out.put(element.clone(), below.intersection(theirs));
            }
        }
        out
    }

    /// What is here and not there, path by path.
    #[must_use]
    pub(crate) fn difference(&self, other: &Self) -> Self {
        let mut out = Self {
            member: self.member && !other.member,
            children: BTreeMap::new(),
        };
        for (element, below) in &self.children {
            match other.children.get(element) {
                Some(theirs) => out.put(element.clone(), below.difference(theirs)),
                None => out.put(element.clone(), below.clone()),
            }
        }
        out
    }

    /// The paths as people read them: `.spec.containers[name="a"].image`.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect(&mut String::new(), &mut out);
        out
    }

    fn collect(&self, path: &mut String, out: &mut Vec<String>) {
        if self.member && !path.is_empty() {
            out.push(path.clone());
        }
        for (element, below) in &self.children {
            let before = path.len();
            push_readable(path, element);
            below.collect(path, out);
            path.truncate(before);
        }
    }
}

/// The canonical text of an element a client wrote; none when it is none.
fn canonical(element: &str) -> Option<String> {
    let (kind, rest) = element.split_once(':')?;
    match kind {
        "f" => Some(element.to_owned()),
        "k" => match serde_json::from_str(rest).ok()? {
            Value::Object(map) => Some(keyed(&map)),
            _ => None,
        },
        "v" => Some(item(&serde_json::from_str(rest).ok()?)),
        "i" => rest.parse::<u32>().ok().map(|n| format!("i:{n}")),
        _ => None,
    }
}

fn push_readable(path: &mut String, element: &str) {
    let (kind, rest) = element.split_once(':').unwrap_or(("f", element));
    match kind {
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={}", text(v))).collect();
            path.push_str(&format!("[{}]", keys.join(",")));
        }
        "v" => path.push_str(&format!("[={rest}]")),
        "i" => path.push_str(&format!("[{rest}]")),
        _ => {
            path.push('.');
            path.push_str(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn set(value: Value) -> FieldSet {
        FieldSet::parse(&value).unwrap()
    }

    #[test]
    fn the_written_form_is_the_read_one() {
        let text = json!({"f:metadata":{"f:labels":{".":{},"f:app":{}}},
            "f:spec":{"f:ports":{"k:{\"port\":80,\"protocol\":\"TCP\"}":{".":{},"f:port":{}}},"f:finalizers":{"v:\"a\"":{}}}});
        assert_eq!(set(text.clone()).to_value(), text);
        assert_eq!(
            set(text).paths(),
            [
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.finalizers[=\"a\"]",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].port",
            ]
        );
    }

    #[test]
    fn keys_in_another_order_are_the_same_item() {
        let (a, b) = (json!({"k:{\"b\":1,\"a\":2}":{}}), json!({"k:{\"a\":2,\"b\":1}":{}}));
        assert_eq!(set(a), set(b));
        for wrong in [
            json!({"x":{}}),
            json!({"k:1":{}}),
            json!({"i:-1":{}}),
            json!({"f:a":1}),
            json!([]),
        ] {
            assert_eq!(FieldSet::parse(&wrong), None, "{wrong}");
        }
        let mut deep = json!({});
        for _ in 0..200 {
            deep = json!({"f:a": deep});
        }
        assert_eq!(FieldSet::parse(&deep), None);
    }

    #[test]
    fn a_path_goes_with_or_without_what_is_below() {
        let all = json!({"f:metadata":{".":{},"f:name":{},"f:labels":{".":{},"f:a":{}}}});
        let mut one = set(all.clone());
        one.remove(&["f:metadata", "f:labels"]);
        assert_eq!(one.to_value(), json!({"f:metadata":{".":{},"f:name":{}}}));
        let mut two = set(all);
        two.unmark(&["f:metadata"]);
        assert_eq!(
            two.to_value(),
            json!({"f:metadata":{"f:name":{},"f:labels":{".":{},"f:a":{}}}})
        );
        two.remove(&["f:metadata", "f:name"]);
        two.remove(&["f:metadata", "f:labels"]);
        assert!(two.is_empty());
    }

    fn any_set() -> impl Strategy<Value = FieldSet> {
        let leaf = any::<bool>().prop_map(|member| FieldSet {
            member,
            children: BTreeMap::new(),
        });
        leaf.prop_recursive(3, 24, 4, |inner| {
            (any::<bool>(), proptest::collection::btree_map("f:[a-c]", inner, 0..4)).prop_map(|(member, children)| {
                let mut set = FieldSet {
                    member,
                    children: BTreeMap::new(),
                };
                for (element, below) in children {
                    set.put(element, below);
                }
                set
            })
        })
    }

    proptest! {
        #[test]
        fn sets_are_sets(a in any_set(), b in any_set()) {
            let both = a.clone().union(&b);
            prop_assert_eq!(&both, &b.clone().union(&a));
            prop_assert_eq!(a.intersection(&b), b.intersection(&a));
            prop_assert_eq!(a.difference(&b).union(&a.intersection(&b)), a.clone());
            prop_assert!(a.difference(&a).is_empty());
            prop_assert_eq!(both.difference(&b).union(&b), both);
        }

        #[test]
        fn reading_never_panics(text in "\\PC{0,40}") {
            let _ = FieldSet::parse(&json!({text: {}}));
        }
    }
}
