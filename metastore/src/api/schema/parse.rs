//! Reads `openAPIV3Schema` of a CustomResourceDefinition that is known to be structural; bounds its size, compiles its patterns and holds
//! its defaults against it.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Additional, Checks, ListType, MAX_DEPTH, MAX_NODES, Schema, Type, pattern::Pattern, shape};
use crate::api::status::Cause;

/// Most bytes of compiled patterns in one schema.
const MAX_PROGRAMS: usize = 16 << 20;

/// Reads a schema; `path` is the field that holds it, for messages.
pub(crate) fn schema(value: &Value, path: &str) -> Result<Schema, Vec<Cause>> {
    let mut reader = Reader {
        causes: Vec::new(),
        nodes: 0,
        programs: 0,
    };
    let out = reader.node(value, path, 0);
    if reader.causes.is_empty() {
        let out = out.unwrap_or_else(Schema::anything);
        check_defaults(&out, path, &mut reader.causes);
        for name in ["apiVersion", "kind"] {
            // A whole object by default must be one.
            if out.default.as_ref().is_some_and(|d| d.get(name).is_none()) {
                reader
                    .causes
                    .push(Cause::required(format!("{path}.default.{name}"), ""));
            }
        }
        if reader.causes.is_empty() {
            return Ok(out);
        }
    }
    Err(reader.causes)
}

struct Reader {
    causes: Vec<Cause>,
    nodes: usize,
    /// Bytes of compiled patterns so far.
    programs: usize,
}

impl Reader {
    fn node(&mut self, value: &Value, path: &str, depth: usize) -> Option<Schema> {
        self.nodes += 1;
        if self.nodes > MAX_NODES || depth > MAX_DEPTH {
            if self.nodes != usize::MAX {
                self.causes.push(Cause::forbidden(
                    path,
                    &format!("schema is larger than {MAX_NODES} nodes or deeper than {MAX_DEPTH} levels"),
                ));
            }
            // One message is enough: further nodes are passed over.
            self.nodes = usize::MAX - 1;
            return None;
        }
        let Some(map) = value.as_object() else {
            self.causes
                .push(Cause::type_invalid(path, &value.to_string(), "must be an object"));
            return None;
        };
        let mut out = Schema {
            description: text(map, "description").map(Into::into),
            format: text(map, "format").map(Into::into),
            nullable: flag(map, "nullable"),
            preserve: flag(map, "x-kubernetes-preserve-unknown-fields"),
            int_or_string: flag(map, "x-kubernetes-int-or-string"),
            embedded: flag(map, "x-kubernetes-embedded-resource"),
            rules: map.get("x-kubernetes-validations").cloned(),
            ty: text(map, "type").and_then(Type::parse),
            atomic: text(map, "x-kubernetes-map-type") == Some("atomic"),
            default: map.get("default").cloned(),
            ..Schema::default()
        };
        self.read_members(map, &mut out, path, depth);
        out.checks = self.read_checks(map, path, depth);
        let below = || {
            let more = match &out.additional {
                Additional::Of(s) => Some(s),
                _ => None,
            };
            out.properties.values().chain(&out.items).chain(more)
        };
        let (embedded, unique) = (below().any(|s| s.has_embedded), below().any(|s| s.has_unique));
        out.has_embedded = out.embedded || embedded;
        out.has_unique = out.list != ListType::Atomic || unique;
        Some(out)
    }

    fn read_members(&mut self, map: &Map<String, Value>, out: &mut Schema, path: &str, depth: usize) {
        if let Some(Value::Object(members)) = map.get("properties") {
            for (name, member) in members {
                let at = format!("{path}.properties[{name}]");
                if let Some(s) = self.node(member, &at, depth + 1) {
                    out.properties.insert(name.as_str().into(), Arc::new(s));
                }
            }
        }
        match map.get("additionalProperties") {
            None | Some(Value::Bool(false)) => {}
            Some(Value::Bool(true)) => out.additional = Additional::Any,
            Some(v) => {
                let at = format!("{path}.additionalProperties");
                if let Some(s) = self.node(v, &at, depth + 1) {
                    out.additional = Additional::Of(Arc::new(s));
                }
            }
        }
        if let Some(v) = map.get("items") {
            let at = format!("{path}.items");
            if let Some(s) = self.node(v, &at, depth + 1) {
                out.items = Some(Arc::new(s));
            }
        }
        out.list = read_list(map);
        if let Some(Value::Array(names)) = map.get("required") {
            out.required = names.iter().filter_map(Value::as_str).map(Into::into).collect();
        }
    }

    fn read_checks(&mut self, map: &Map<String, Value>, path: &str, depth: usize) -> Option<Box<Checks>> {
        const KEYS: [&str; 17] = [
            "enum",
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "exclusiveMaximum",
            "multipleOf",
            "minLength",
            "maxLength",
            "pattern",
            "minItems",
            "maxItems",
            "uniqueItems",
            "minProperties",
            "maxProperties",
            "allOf",
            "anyOf",
            "oneOf",
        ];
        if !map.contains_key("not") && !KEYS.iter().any(|k| map.contains_key(*k)) {
            return None;
        }
        let real = |k: &str| map.get(k).and_then(Value::as_f64);
        let count = |k: &str| map.get(k).and_then(Value::as_u64);
        let mut out = Checks {
            minimum: real("minimum"),
            maximum: real("maximum"),
            exclusive_minimum: flag(map, "exclusiveMinimum"),
            exclusive_maximum: flag(map, "exclusiveMaximum"),
            multiple_of: real("multipleOf").filter(|m| *m > 0.0),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            ..Checks::default()
        };
        if let Some(Value::Array(list)) = map.get("enum") {
            out.enumeration.clone_from(list);
        }
        if let Some(source) = text(map, "pattern") {
            match Pattern::compile(source) {
                Ok(p) => {
                    self.programs = self.programs.saturating_add(p.memory());
                    if self.programs > MAX_PROGRAMS {
                        let why = "the patterns of this schema are too large together";
                        self.causes.push(Cause::forbidden(format!("{path}.pattern"), why));
                    } else {
                        out.pattern = Some(p);
                    }
                }
                Err(why) => self.causes.push(Cause::invalid(
                    format!("{path}.pattern"),
                    &format!("\"{source}\""),
                    &format!("must be a valid regular expression, but isn't: {why}"),
                )),
            }
        }
        for (key, list) in [
            ("allOf", &mut out.all_of),
            ("anyOf", &mut out.any_of),
            ("oneOf", &mut out.one_of),
        ] {
            if let Some(Value::Array(parts)) = map.get(key) {
                for (i, part) in parts.iter().enumerate() {
                    list.extend(self.node(part, &format!("{path}.{key}[{i}]"), depth + 1));
                }
            }
        }
        if let Some(v) = map.get("not") {
            out.not = self.node(v, &format!("{path}.not"), depth + 1).map(Box::new);
        }
        Some(Box::new(out))
    }
}

/// A default must be what its own schema takes: otherwise every object would be refused for what the server wrote.
fn check_defaults(schema: &Schema, path: &str, causes: &mut Vec<Cause>) {
    if let Some(default) = &schema.default {
        let at = format!("{path}.default");
        let mut pruned = default.clone();
        let mut unknown = Vec::new();
        shape::prune(&mut pruned, schema, false, &mut unknown);
        if !unknown.is_empty() {
            causes.push(Cause::invalid(
                at.clone(),
                &default.to_string(),
                &format!("must not have unknown fields: {}", unknown.join(", ")),
            ));
        }
        super::check::default(default, schema, &at, causes);
    }
    for (name, member) in &schema.properties {
        check_defaults(member, &format!("{path}.properties[{name}]"), causes);
    }
    if let Some(s) = &schema.items {
        check_defaults(s, &format!("{path}.items"), causes);
    }
}

fn read_list(map: &Map<String, Value>) -> ListType {
    match text(map, "x-kubernetes-list-type") {
        Some("set") => ListType::Set,
        Some("map") => match map.get("x-kubernetes-list-map-keys") {
            Some(Value::Array(keys)) => {
                ListType::Map(keys.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            }
            _ => ListType::Atomic,
        },
        _ => ListType::Atomic,
    }
}

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    map.get(key).and_then(Value::as_str)
}

fn flag(map: &Map<String, Value>, key: &str) -> bool {
    map.get(key).and_then(Value::as_bool).unwrap_or(false)
}
