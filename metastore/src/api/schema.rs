//! Structural schemas: what an object of a kind may look like. One type serves definitions people create and the built-in kinds alike:
//! [`shape`] prunes and defaults, [`check`] validates, [`parse`] reads `openAPIV3Schema`, [`types`] makes the built-in types from our table,
//! and the OpenAPI documents show it to clients.
//!
//! Invariants: a schema is a tree of `Arc`s without cycles, and its depth and size are capped when it is read, so walking one with
//! recursion cannot exhaust the stack.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

pub(crate) mod check;
pub(crate) mod embedded;
pub(crate) mod formats;
pub(crate) mod limits;
pub(crate) mod parse;
pub(crate) mod pattern;
pub(crate) mod quantity;
pub use quantity::nanos as quantity_nanos;
pub(crate) mod shape;
pub(crate) mod table;
pub(crate) mod times;
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
    /// It, or something below it, is an embedded resource.
    pub(crate) has_embedded: bool,
    /// It, or something below it, is a list whose items must differ.
    pub(crate) has_unique: bool,
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
    /// A zero says no more than nothing and is left out: built-in kinds only.
    pub(crate) omit: bool,
    /// On the wire even when nothing was said, so that its being there is nobody's doing: built-in kinds only.
    pub(crate) always: bool,
    /// What the value of a built-in kind may be, beyond its type.
    pub(crate) limits: Box<[limits::Limit]>,
    /// This or something below has limits.
    pub(crate) limited: bool,
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
}

#[cfg(test)]
mod tests;
