//! Structural schemas: what an object of a kind may look like. One type serves definitions people create and the built-in kinds alike:
//! [`shape`] prunes and defaults, [`check`] validates, [`parse`] reads `openAPIV3Schema`, [`types`] makes the built-in types from our table,
//! [`Schema::to_openapi`] writes it out again for clients.
//!
//! Invariants: a schema is a tree of `Arc`s without cycles, and its depth and size are capped when it is read, so walking one with
//! recursion cannot exhaust the stack.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

pub(crate) mod check;
pub(crate) mod parse;
pub(crate) mod pattern;
pub(crate) mod shape;
pub(crate) mod table;
pub(crate) mod types;

/// Deepest nesting of a schema; real ones stay under 40.
pub(crate) const MAX_DEPTH: usize = 96;
/// Most nodes in a schema; the largest definitions in the wild have some 10,000.
pub(crate) const MAX_NODES: usize = 60_000;

/// The JSON type of a node; none for int-or-string and "anything".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Type {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "object" => Self::Object,
            "array" => Self::Array,
            "string" => Self::String,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "boolean" => Self::Boolean,
            _ => return None,
        })
    }
}

/// What the members of an object beyond its properties may be.
#[derive(Clone, Debug, Default)]
pub(crate) enum Additional {
    /// None: they are pruned.
    #[default]
    None,
    /// Anything at all.
    Any,
    /// A map with values of this schema.
    Of(Arc<Schema>),
}

/// How a list is merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ListType {
    /// Replaced whole.
    #[default]
    Atomic,
    /// A set of scalars.
    Set,
    /// Objects with these keys; the first one is the key of strategic merge.
    Map(Vec<String>),
}

/// A node of a structural schema.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schema {
    /// The type's name in OpenAPI documents, when it has one of its own (`io.k8s.api.core.v1.Container`).
    pub(crate) name: Option<Arc<str>>,
    pub(crate) ty: Option<Type>,
    pub(crate) format: Option<Box<str>>,
    pub(crate) nullable: bool,
    /// `x-kubernetes-preserve-unknown-fields`.
    pub(crate) preserve: bool,
    /// `x-kubernetes-int-or-string`.
    pub(crate) int_or_string: bool,
    /// `x-kubernetes-embedded-resource`.
    pub(crate) embedded: bool,
    /// `x-kubernetes-map-type: atomic`: one field to its owners, whatever is in it.
    pub(crate) atomic: bool,
    /// Strategic merge drops members that a patch does not name (`retainKeys`).
    pub(crate) retain_keys: bool,
    pub(crate) properties: BTreeMap<Box<str>, Arc<Self>>,
    pub(crate) additional: Additional,
    pub(crate) items: Option<Arc<Self>>,
    pub(crate) list: ListType,
    pub(crate) required: Vec<Box<str>>,
    pub(crate) default: Option<Value>,
    pub(crate) checks: Option<Box<Checks>>,
    pub(crate) description: Option<Box<str>>,
    /// `x-kubernetes-validations`, kept to be shown; evaluated elsewhere.
    pub(crate) rules: Option<Value>,
}

/// The validations that few nodes have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checks {
    pub(crate) enumeration: Vec<Value>,
    pub(crate) minimum: Option<f64>,
    pub(crate) maximum: Option<f64>,
    pub(crate) exclusive_minimum: bool,
    pub(crate) exclusive_maximum: bool,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) pattern: Option<pattern::Pattern>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) unique_items: bool,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) all_of: Vec<Schema>,
    pub(crate) any_of: Vec<Schema>,
    pub(crate) one_of: Vec<Schema>,
    pub(crate) not: Option<Box<Schema>>,
}

impl Schema {
    /// A node of a type and nothing else.
    pub(crate) fn of(ty: Type) -> Self {
        Self {
            ty: Some(ty),
            ..Self::default()
        }
    }

    /// A node that takes anything.
    pub(crate) fn anything() -> Self {
        Self {
            preserve: true,
            ..Self::default()
        }
    }

    /// The schema of a member, if the object may have it by that name.
    pub(crate) fn member(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).map(AsRef::as_ref).or(match &self.additional {
            Additional::Of(s) => Some(s),
            _ => None,
        })
    }

    /// The OpenAPI form. A named type below the top becomes a reference and is handed to `seen`; `prefix` is the document's place for
    /// definitions (`#/components/schemas/` in v3, `#/definitions/` in v2).
    pub(crate) fn to_openapi(&self, prefix: &str, seen: &mut BTreeMap<Arc<str>, Arc<Self>>) -> Value {
        let mut out = Map::new();
        let mut put = |k: &str, v: Value| {
            out.insert(k.to_owned(), v);
        };
        if let Some(d) = &self.description {
            put("description", json!(d));
        }
        if let Some(t) = self.ty {
            put("type", json!(t.name()));
        }
        if let Some(f) = &self.format {
            put("format", json!(f));
        }
        if self.nullable {
            put("nullable", json!(true));
        }
        if self.preserve {
            put("x-kubernetes-preserve-unknown-fields", json!(true));
        }
        if self.int_or_string {
            put("x-kubernetes-int-or-string", json!(true));
        }
        if self.embedded {
            put("x-kubernetes-embedded-resource", json!(true));
        }
        if self.atomic {
            put("x-kubernetes-map-type", json!("atomic"));
        }
        if self.retain_keys {
            put("x-kubernetes-patch-strategy", json!("retainKeys"));
        }
        if let Some(r) = &self.rules {
            put("x-kubernetes-validations", r.clone());
        }
        if !self.required.is_empty() {
            put("required", json!(self.required));
        }
        if let Some(d) = &self.default {
            put("default", d.clone());
        }
        if !self.properties.is_empty() {
            let members: Map<String, Value> = self
                .properties
                .iter()
                .map(|(k, s)| (k.to_string(), s.reference(prefix, seen)))
                .collect();
            put("properties", Value::Object(members));
        }
        match &self.additional {
            Additional::None => {}
            Additional::Any => put("additionalProperties", json!(true)),
            Additional::Of(s) => put("additionalProperties", s.reference(prefix, seen)),
        }
        if let Some(s) = &self.items {
            put("items", s.reference(prefix, seen));
            match &self.list {
                ListType::Atomic => put("x-kubernetes-list-type", json!("atomic")),
                ListType::Set => {
                    put("x-kubernetes-list-type", json!("set"));
                    put("x-kubernetes-patch-strategy", json!("merge"));
                }
                ListType::Map(keys) => {
                    put("x-kubernetes-list-type", json!("map"));
                    put("x-kubernetes-list-map-keys", json!(keys));
                    put(
                        "x-kubernetes-patch-strategy",
                        json!(if s.retain_keys { "merge,retainKeys" } else { "merge" }),
                    );
                    if let Some(first) = keys.first() {
                        put("x-kubernetes-patch-merge-key", json!(first));
                    }
                }
            }
        }
        if let Some(c) = &self.checks {
            c.to_openapi(&mut out, prefix, seen);
        }
        Value::Object(out)
    }

    fn reference(self: &Arc<Self>, prefix: &str, seen: &mut BTreeMap<Arc<str>, Arc<Self>>) -> Value {
        let Some(name) = &self.name else {
            return self.to_openapi(prefix, seen);
        };
        seen.entry(name.clone()).or_insert_with(|| self.clone());
        let target = json!({"$ref": format!("{prefix}{name}")});
        match &self.default {
            // A reference has no siblings in OpenAPI, so that a default needs the reference wrapped.
            Some(d) => json!({"allOf": [target], "default": d}),
            None => target,
        }
    }
}

impl Checks {
    fn to_openapi(&self, out: &mut Map<String, Value>, prefix: &str, seen: &mut BTreeMap<Arc<str>, Arc<Schema>>) {
        if !self.enumeration.is_empty() {
            out.insert("enum".into(), json!(self.enumeration));
        }
        for (name, bound) in [
            ("minimum", self.minimum),
            ("maximum", self.maximum),
            ("multipleOf", self.multiple_of),
        ] {
            if let Some(b) = bound {
                out.insert(name.into(), number(b));
            }
        }
        for (name, set) in [
            ("exclusiveMinimum", self.exclusive_minimum),
            ("exclusiveMaximum", self.exclusive_maximum),
            ("uniqueItems", self.unique_items),
        ] {
            if set {
                out.insert(name.into(), json!(true));
            }
        }
        for (name, bound) in [
            ("minLength", self.min_length),
            ("maxLength", self.max_length),
            ("minItems", self.min_items),
            ("maxItems", self.max_items),
            ("minProperties", self.min_properties),
            ("maxProperties", self.max_properties),
        ] {
            if let Some(b) = bound {
                out.insert(name.into(), json!(b));
            }
        }
        if let Some(p) = &self.pattern {
            out.insert("pattern".into(), json!(p.source()));
        }
        for (name, list) in [
            ("allOf", &self.all_of),
            ("anyOf", &self.any_of),
            ("oneOf", &self.one_of),
        ] {
            if !list.is_empty() {
                let parts: Vec<Value> = list.iter().map(|s| s.to_openapi(prefix, seen)).collect();
                out.insert(name.into(), Value::Array(parts));
            }
        }
        if let Some(s) = &self.not {
            out.insert("not".into(), s.to_openapi(prefix, seen));
        }
    }
}

/// A bound as JSON: whole numbers without a fraction.
fn number(x: f64) -> Value {
    #[allow(clippy::cast_possible_truncation)]
    if x.fract() == 0.0 && x.abs() < 9e15 {
        json!(x as i64)
    } else {
        json!(x)
    }
}

#[cfg(test)]
mod tests;
