//! What rules know of a schema: the types of its values, and how large they may be. Made from `openAPIV3Schema` once, when a definition
//! is compiled.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

/// Most bytes of a request; what a schema leaves open is as large as a request may be.
pub(super) const MAX_REQUEST: u64 = 3 * 1024 * 1024;

/// How large a value may be: characters, bytes, items or entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) min: u64,
    pub(super) max: u64,
}

impl Size {
    pub(super) const UNKNOWN: Self = Self { min: 0, max: u64::MAX };

    pub(super) const fn exactly(n: u64) -> Self {
        Self { min: n, max: n }
    }

    pub(super) const fn up_to(n: u64) -> Self {
        Self { min: 0, max: n }
    }

    pub(super) fn union(self, other: Self) -> Self {
        Self {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }

    pub(super) const fn plus(self, other: Self) -> Self {
        Self {
            min: self.min.saturating_add(other.min),
            max: self.max.saturating_add(other.max),
        }
    }
}

/// The type of an expression.
#[derive(Clone, Debug)]
pub(super) enum Type {
    /// Anything: checked when the rule runs.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Duration,
    Timestamp,
    List(Arc<Shape>),
    Map(Arc<Shape>, Arc<Shape>),
    Object(Arc<Object>),
    Optional(Arc<Shape>),
    /// Of a library: `quantity`, `url`.
    Opaque(&'static str),
    /// A type as a value.
    Denoted,
    /// A parameter of a signature.
    Param(char),
}

/// A type with the size of its values.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) ty: Type,
    pub(super) size: Option<Size>,
}

/// An object with declared members, by the names that rules use.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) members: BTreeMap<Box<str>, Shape>,
}

impl From<Type> for Shape {
    fn from(ty: Type) -> Self {
        Self { ty, size: None }
    }
}

impl Shape {
    fn sized(ty: Type, size: u64) -> Self {
        Self {
            ty,
            size: Some(Size::up_to(size)),
        }
    }

    /// A list of unknown length.
    pub(super) fn list(item: Self) -> Self {
        Type::List(Arc::new(item)).into()
    }
}

impl Type {
    /// As messages name it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Dyn => "dyn".to_owned(),
            Self::Null => "null".to_owned(),
            Self::Bool => "bool".to_owned(),
            Self::Int => "int".to_owned(),
            Self::Uint => "uint".to_owned(),
            Self::Double => "double".to_owned(),
            Self::Text => "string".to_owned(),
            Self::Bytes => "bytes".to_owned(),
            Self::Duration => "google.protobuf.Duration".to_owned(),
            Self::Timestamp => "google.protobuf.Timestamp".to_owned(),
            Self::List(item) => format!("list({})", item.ty.name()),
            Self::Map(key, value) => format!("map({}, {})", key.ty.name(), value.ty.name()),
            Self::Object(_) => "object".to_owned(),
            Self::Optional(of) => format!("optional_type({})", of.ty.name()),
            Self::Opaque(name) => (*name).to_owned(),
            Self::Denoted => "type".to_owned(),
            Self::Param(p) => p.to_string(),
        }
    }
}

/// A node of a schema as rules see it.
#[derive(Debug)]
pub(super) struct Decl {
    pub(super) shape: Shape,
    /// Fewest bytes of a value in JSON.
    pub(super) least: u64,
    pub(super) nullable: bool,
    pub(super) kind: Kind,
}

/// What is below a node.
#[derive(Debug)]
pub(super) enum Kind {
    /// As JSON says it.
    Free,
    Bool,
    Int,
    Double,
    Text,
    Bytes,
    Duration,
    Date,
    Timestamp,
    List(Arc<Decl>),
    Map(Arc<Decl>),
    /// By the name in the object; with the name in rules.
    Object(BTreeMap<Box<str>, (Box<str>, Arc<Decl>)>),
}

fn text<'v>(schema: &'v Value, key: &str) -> &'v str {
    schema.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool).unwrap_or(false)
}

/// A count that a schema names; negative ones are none.
pub(super) fn count(schema: &Value, key: &str) -> Option<u64> {
    let n = schema.get(key)?;
    n.as_u64().or_else(|| n.as_i64().map(|_| 0))
}

impl Decl {
    fn of(ty: Type, size: Option<u64>, least: u64, kind: Kind) -> Self {
        Self {
            shape: Shape {
                ty,
                size: size.map(Size::up_to),
            },
            least,
            nullable: false,
            kind,
        }
    }

    /// Reads a node; none where rules do not see it. `whole`: the root of an object, whose identity rules always see.
    pub(super) fn read(schema: &Value, whole: bool) -> Option<Self> {
        let mut out = Self::read_inner(schema, whole)?;
        out.nullable = flag(schema, "nullable");
        Some(out)
    }

    fn read_inner(schema: &Value, whole: bool) -> Option<Self> {
        let longest = count(schema, "maxLength");
        if flag(schema, "x-kubernetes-int-or-string") {
            let size = longest.map_or(MAX_REQUEST - 2, |n| n.saturating_mul(4));
            return Some(Self::of(Type::Dyn, Some(size), 1, Kind::Free));
        }
        match text(schema, "type") {
            "array" => {
                let item = Self::read(schema.get("items")?, embedded(schema.get("items")?))?;
                let most = count(schema, "maxItems").unwrap_or((MAX_REQUEST - 2) / (item.least + 1));
                let ty = Type::List(Arc::new(item.shape.clone()));
                Some(Self::of(ty, Some(most), 2, Kind::List(Arc::new(item))))
            }
            "object" => Self::read_object(schema, whole),
            "string" => Some(Self::read_text(schema, longest)),
            "boolean" => Some(Self::of(Type::Bool, None, 4, Kind::Bool)),
            "number" => Some(Self::of(Type::Double, None, 1, Kind::Double)),
            "integer" => Some(Self::of(Type::Int, None, 1, Kind::Int)),
            _ => None,
        }
    }

    fn read_text(schema: &Value, longest: Option<u64>) -> Self {
        match text(schema, "format") {
            "byte" => Self::of(Type::Bytes, Some(longest.unwrap_or(MAX_REQUEST - 2)), 2, Kind::Bytes),
            "duration" => Self::of(Type::Duration, Some(32), 3, Kind::Duration),
            "date" => Self::of(Type::Timestamp, Some(12), 12, Kind::Date),
            "date-time" => Self::of(Type::Timestamp, Some(32), 21, Kind::Timestamp),
            _ => {
                let listed = schema.get("enum").and_then(Value::as_array).filter(|e| !e.is_empty());
                let size = match (longest, listed) {
                    (Some(n), _) => n.saturating_mul(4),
                    (None, Some(list)) => list
                        .iter()
                        .filter_map(Value::as_str)
                        .map(|s| s.len() as u64)
                        .max()
                        .unwrap_or(0),
                    (None, None) => MAX_REQUEST - 2,
                };
                Self::of(Type::Text, Some(size), 2, Kind::Text)
            }
        }
    }

    fn read_object(schema: &Value, whole: bool) -> Option<Self> {
        let additional = schema.get("additionalProperties").filter(|a| a.is_object());
        if let Some(additional) = additional.filter(|_| !whole) {
            let value = Self::read(additional, embedded(additional))?;
            let most = count(schema, "maxProperties").unwrap_or((MAX_REQUEST - 2) / (value.least + 6));
            let key = Shape::sized(Type::Text, MAX_REQUEST - 2);
            let ty = Type::Map(Arc::new(key), Arc::new(value.shape.clone()));
            return Some(Self::of(ty, Some(most), 2, Kind::Map(Arc::new(value))));
        }
        let mut below = BTreeMap::new();
        let mut least = 2;
        let none = Map::new();
        let given = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
        let needed: Vec<&str> = schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for (name, member) in given {
            if whole && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                continue;
            }
            let Some(decl) = Self::read(member, embedded(member)) else {
                continue;
            };
            if needed.contains(&name.as_str()) && member.get("default").is_none() {
                least += name.len() as u64 + decl.least + 4;
            }
            if let Some(word) = escape(name) {
                below.insert(name.as_str().into(), (word.into(), Arc::new(decl)));
            }
        }
        if whole {
            let word = || Arc::new(Self::of(Type::Text, Some(MAX_REQUEST - 2), 2, Kind::Text));
            let named = ["name", "generateName"].map(|n| (n.into(), (n.into(), word())));
            below.insert("apiVersion".into(), ("apiVersion".into(), word()));
            below.insert("kind".into(), ("kind".into(), word()));
            let metadata = Arc::new(Self::object(named.into_iter().collect(), 2));
            below.insert("metadata".into(), ("metadata".into(), metadata));
        }
        Some(Self::object(below, least))
    }

    fn object(below: BTreeMap<Box<str>, (Box<str>, Arc<Self>)>, least: u64) -> Self {
        let members = below
            .values()
            .map(|(word, decl)| (word.clone(), decl.shape.clone()))
            .collect();
        let ty = Type::Object(Arc::new(Object { members }));
        // Its members are not counted: comparing objects costs next to nothing in the estimates of the API.
        Self::of(ty, Some(0), least, Kind::Object(below))
    }
}

pub(super) fn embedded(schema: &Value) -> bool {
    flag(schema, "x-kubernetes-embedded-resource")
}

/// The name of a member in rules; none for one that cannot be written there.
pub(super) fn escape(name: &str) -> Option<String> {
    const RESERVED: [&str; 22] = [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
        "",
    ];
    if RESERVED.contains(&name) {
        return (!name.is_empty()).then(|| format!("__{name}__"));
    }
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("__") {
            out.push_str("__underscores__");
            rest = after;
            continue;
        }
        match c {
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            c if c == '_' || c.is_ascii_alphanumeric() => out.push(c),
            _ => return None,
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(out)
}
