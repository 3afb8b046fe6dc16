//! Schemas as OpenAPI documents show them. A type with a name of its own is shown once, and named where it is used.
//!
//! The two versions differ in what they can say: v2 has no choice between forms and no null, so that what has them is shown as "anything";
//! v3 allows nothing beside a reference, which is wrapped where something must stand there.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::api::schema::{Additional, Checks, ListType, Schema, times, types};

/// A version of OpenAPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Document {
    V2,
    V3,
}

impl Document {
    /// Where definitions stand in it.
    pub(super) const fn prefix(self) -> &'static str {
        match self {
            Self::V2 => "#/definitions/",
            Self::V3 => "#/components/schemas/",
        }
    }
}

/// Named types that a document needs.
pub(crate) type Needed = BTreeMap<Arc<str>, Arc<Schema>>;

const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
pub(super) const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// Shows schemas of one kind in one document.
#[derive(Debug)]
pub(crate) struct Renderer<'n> {
    pub(crate) document: Document,
    /// The schema was written by somebody, and is shown as they wrote it.
    pub(crate) custom: bool,
    pub(crate) needed: &'n mut Needed,
}

impl Renderer<'_> {
    /// A definition that was needed, by its name.
    pub(super) fn definition(&mut self, name: &str, schema: &Schema) -> Value {
        let v2 = self.document == Document::V2;
        match name {
            INT_OR_STRING if v2 => json!({"type": "string", "format": "int-or-string"}),
            INT_OR_STRING => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            QUANTITY if v2 => json!({"type": "string"}),
            QUANTITY => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            LIST_META => json!({"type": "object", "properties": {
                "continue": {"type": "string"},
                "remainingItemCount": {"type": "integer", "format": "int64"},
                "resourceVersion": {"type": "string"},
                "selfLink": {"type": "string"},
            }}),
            // Where it is used it may have a default or a note of that place.
            _ => match types::by_public_name(name) {
                Some(own) => self.body(&own),
                None => self.body(schema),
            },
        }
    }

    /// A schema in full.
    pub(crate) fn body(&mut self, schema: &Schema) -> Value {
        let v2 = self.document == Document::V2;
        let mut out = Map::new();
        let mut put = |k: &str, v: Value| {
            out.insert(k.to_owned(), v);
        };
        if let Some(d) = &schema.description {
            put("description", json!(d));
        }
        // That a part of a built-in kind is written as null when it is empty is no promise to take one.
        let nullable = schema.nullable && self.custom;
        // In v2 a type would refuse the null, the number, or the unknown field that is allowed.
        let untyped = v2 && (nullable || schema.preserve || schema.int_or_string);
        if let Some(t) = schema.ty.filter(|_| !untyped) {
            put("type", json!(t.name()));
        }
        if let Some(f) = &schema.format {
            // Clients know one kind of time.
            let f = if &**f == times::MICRO { times::TIME } else { f };
            put("format", json!(f));
        }
        for (set, name) in [
            (nullable && !v2, "nullable"),
            (schema.preserve, "x-kubernetes-preserve-unknown-fields"),
            (schema.int_or_string, "x-kubernetes-int-or-string"),
            (schema.embedded, "x-kubernetes-embedded-resource"),
        ] {
            if set {
                put(name, json!(true));
            }
        }
        if schema.atomic {
            put("x-kubernetes-map-type", json!("atomic"));
        }
        if let Some(r) = &schema.rules {
            put("x-kubernetes-validations", r.clone());
        }
        if !schema.required.is_empty() {
            put("required", json!(schema.required));
        }
        if let Some(d) = schema
            .default
            .as_ref()
            .filter(|d| schema.name.is_none() && !d.is_null())
        {
            put("default", d.clone());
        }
        if !untyped {
            self.parts(schema, &mut out);
        }
        if let Some(c) = &schema.checks {
            self.checks(c, &mut out);
        }
        Value::Object(out)
    }

    /// Members and items.
    fn parts(&mut self, schema: &Schema, out: &mut Map<String, Value>) {
        let mut put = |k: &str, v: Value| {
            out.insert(k.to_owned(), v);
        };
        if !schema.properties.is_empty() {
            let members: Map<String, Value> = schema
                .properties
                .iter()
                .map(|(k, s)| (k.to_string(), self.reference(s)))
                .collect();
            put("properties", Value::Object(members));
        }
        match &schema.additional {
            Additional::None => {}
            Additional::Any => put("additionalProperties", json!(true)),
            Additional::Of(s) => put("additionalProperties", self.reference(s)),
        }
        let Some(items) = &schema.items else { return };
        put("items", self.item(items));
        match &schema.list {
            ListType::Atomic => put("x-kubernetes-list-type", json!("atomic")),
            ListType::Set => {
                put("x-kubernetes-list-type", json!("set"));
                if !self.custom {
                    put("x-kubernetes-patch-strategy", json!("merge"));
                }
            }
            ListType::Map(keys) => {
                put("x-kubernetes-list-type", json!("map"));
                put("x-kubernetes-list-map-keys", json!(keys));
                if let Some(first) = keys.first().filter(|_| !self.custom) {
                    let strategy = if schema.retain_keys {
                        "merge,retainKeys"
                    } else {
                        "merge"
                    };
                    put("x-kubernetes-patch-strategy", json!(strategy));
                    put("x-kubernetes-patch-merge-key", json!(first));
                }
            }
        }
    }

    /// An item of a list: that it retains keys is said of the list.
    fn item(&mut self, schema: &Arc<Schema>) -> Value {
        let mut shown = self.reference(schema);
        if let Value::Object(map) = &mut shown
            && map.remove("x-kubernetes-patch-strategy").is_some()
        {
            bare(map);
        }
        shown
    }

    /// A schema where it is used.
    fn reference(&mut self, schema: &Arc<Schema>) -> Value {
        let scalar = match schema.format.as_deref() {
            _ if !schema.int_or_string || self.custom => None,
            Some("quantity") => Some(QUANTITY),
            _ => Some(INT_OR_STRING),
        };
        let name: Arc<str> = match (scalar, &schema.name) {
            (Some(name), _) => name.into(),
            (None, Some(name)) => name.clone(),
            (None, None) => return self.body(schema),
        };
        let mut beside = Map::new();
        if let Some(d) = &schema.description {
            beside.insert("description".to_owned(), json!(d));
        }
        if let Some(d) = &schema.default {
            beside.insert("default".to_owned(), d.clone());
        }
        if schema.retain_keys {
            beside.insert("x-kubernetes-patch-strategy".to_owned(), json!("retainKeys"));
        }
        let target = json!(format!("{}{name}", self.document.prefix()));
        self.needed.entry(name).or_insert_with(|| schema.clone());
        if self.document == Document::V2 {
            beside.insert("$ref".to_owned(), target);
        } else {
            beside.insert("allOf".to_owned(), json!([{"$ref": target}]));
            bare(&mut beside);
        }
        Value::Object(beside)
    }

    fn checks(&mut self, checks: &Checks, out: &mut Map<String, Value>) {
        if !checks.enumeration.is_empty() {
            out.insert("enum".into(), json!(checks.enumeration));
        }
        for (name, bound) in [
            ("minimum", checks.minimum),
            ("maximum", checks.maximum),
            ("multipleOf", checks.multiple_of),
        ] {
            if let Some(b) = bound {
                out.insert(name.into(), number(b));
            }
        }
        for (name, set) in [
            ("exclusiveMinimum", checks.exclusive_minimum),
            ("exclusiveMaximum", checks.exclusive_maximum),
            ("uniqueItems", checks.unique_items),
        ] {
            if set {
                out.insert(name.into(), json!(true));
            }
        }
        for (name, bound) in [
            ("minLength", checks.min_length),
            ("maxLength", checks.max_length),
            ("minItems", checks.min_items),
            ("maxItems", checks.max_items),
            ("minProperties", checks.min_properties),
            ("maxProperties", checks.max_properties),
        ] {
            if let Some(b) = bound {
                out.insert(name.into(), json!(b));
            }
        }
        if let Some(p) = &checks.pattern {
            out.insert("pattern".into(), json!(p.source()));
        }
        if self.document == Document::V2 {
            return;
        }
        for (name, list) in [
            ("allOf", &checks.all_of),
            ("anyOf", &checks.any_of),
            ("oneOf", &checks.one_of),
        ] {
            if !list.is_empty() {
                let parts: Vec<Value> = list.iter().map(|s| self.body(s)).collect();
                out.insert(name.into(), Value::Array(parts));
            }
        }
        if let Some(s) = &checks.not {
            out.insert("not".into(), self.body(s));
        }
    }
}

/// Unwraps a reference that has nothing beside it.
fn bare(shown: &mut Map<String, Value>) {
    if shown.len() == 1
        && let Some(Value::Array(mut list)) = shown.remove("allOf")
        && let Some(Value::Object(only)) = list.pop()
    {
        *shown = only;
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
