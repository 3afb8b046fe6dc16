//! The protobuf form of an OpenAPI v2 document, which is the only one that kubectl asks for. Written from the JSON form, piece by piece, by the
//! numbers of gnostic's messages; what a piece has and the messages know no number for is left out.

use serde_json::{Map, Value};

/// A message under way.
#[derive(Debug, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    /// The message as bytes.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// How long it is so far.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push((n as u8) | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn tag(&mut self, field: u32, wire: u8) {
        self.varint(u64::from(field) << 3 | u64::from(wire));
    }

    pub(super) fn text(&mut self, field: u32, text: &str) {
        self.tag(field, 2);
        self.varint(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(super) fn message(&mut self, field: u32, inner: &Self) {
        self.tag(field, 2);
        self.varint(inner.0.len() as u64);
        self.0.extend_from_slice(&inner.0);
    }

    fn flag(&mut self, field: u32, set: bool) {
        if set {
            self.tag(field, 0);
            self.0.push(1);
        }
    }

    fn whole(&mut self, field: u32, n: i64) {
        self.tag(field, 0);
        #[allow(clippy::cast_sign_loss)]
        self.varint(n as u64);
    }

    fn double(&mut self, field: u32, x: f64) {
        self.tag(field, 1);
        self.0.extend_from_slice(&x.to_le_bytes());
    }

    /// A value of any kind goes as text, which readers parse as YAML.
    fn any(&mut self, field: u32, value: &Value) {
        let mut any = Self::default();
        any.text(2, &value.to_string());
        self.message(field, &any);
    }

    /// What begins with `x-`.
    fn extensions(&mut self, field: u32, map: &Map<String, Value>) {
        for (name, value) in map.iter().filter(|(k, _)| k.starts_with("x-")) {
            let mut named = Self::default();
            named.text(1, name);
            named.any(2, value);
            self.message(field, &named);
        }
    }

    fn named(&mut self, field: u32, name: &str, value: &Self) {
        let mut named = Self::default();
        named.text(1, name);
        named.message(2, value);
        self.message(field, &named);
    }
}

/// Adds a definition to the message of all definitions.
pub(super) fn definition(all: &mut Message, name: &str, shown: &Value) {
    all.named(1, name, &schema(shown));
}

/// Adds a path to the message of all paths.
pub(super) fn path(all: &mut Message, name: &str, shown: &Value) {
    let mut item = Message::default();
    for (verb, field) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if let Some(Value::Object(map)) = shown.get(verb) {
            item.message(field, &operation(map));
        }
    }
    for parameter in list(shown.get("parameters")) {
        item.message(9, &parameter_item(parameter));
    }
    all.named(2, name, &item);
}

/// The document around definitions and paths.
pub(super) fn document(title: &str, version: &str, paths: &Message, definitions: &Message) -> Message {
    let mut info = Message::default();
    info.text(1, title);
    info.text(2, version);
    let mut out = Message(Vec::with_capacity(paths.len() + definitions.len() + 64));
    out.text(1, "2.0");
    out.message(2, &info);
    out.message(8, paths);
    out.message(9, definitions);
    out
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn operation(shown: &Map<String, Value>) -> Message {
    let mut out = Message::default();
    for media in list(shown.get("consumes")).iter().filter_map(Value::as_str) {
        out.text(7, media);
    }
    for parameter in list(shown.get("parameters")) {
        out.message(8, &parameter_item(parameter));
    }
    out.extensions(13, shown);
    out
}

fn parameter_item(shown: &Value) -> Message {
    let said = |name: &str| shown.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut own = Message::default();
    own.flag(1, shown.get("required") == Some(&Value::Bool(true)));
    own.text(2, said("in"));
    own.text(4, said("name"));
    let in_path = said("in") == "path";
    own.text(if in_path { 5 } else { 6 }, said("type"));
    own.flag(if in_path { 19 } else { 20 }, true);
    let mut place = Message::default();
    place.message(if in_path { 4 } else { 3 }, &own);
    let mut parameter = Message::default();
    parameter.message(2, &place);
    let mut item = Message::default();
    item.message(1, &parameter);
    item
}

fn schema(shown: &Value) -> Message {
    let mut out = Message::default();
    let Value::Object(map) = shown else { return out };
    for (name, value) in map {
        let inner = |v: &Value| schema(v);
        match (name.as_str(), value) {
            ("$ref", Value::String(s)) => out.text(1, s),
            ("format", Value::String(s)) => out.text(2, s),
            ("title", Value::String(s)) => out.text(3, s),
            ("description", Value::String(s)) => out.text(4, s),
            ("default", v) => out.any(5, v),
            ("multipleOf", Value::Number(n)) => out.double(6, n.as_f64().unwrap_or_default()),
            ("maximum", Value::Number(n)) => out.double(7, n.as_f64().unwrap_or_default()),
            ("exclusiveMaximum", Value::Bool(b)) => out.flag(8, *b),
            ("minimum", Value::Number(n)) => out.double(9, n.as_f64().unwrap_or_default()),
            ("exclusiveMinimum", Value::Bool(b)) => out.flag(10, *b),
            ("maxLength", Value::Number(n)) => out.whole(11, n.as_i64().unwrap_or(i64::MAX)),
            ("minLength", Value::Number(n)) => out.whole(12, n.as_i64().unwrap_or(i64::MAX)),
            ("pattern", Value::String(s)) => out.text(13, s),
            ("maxItems", Value::Number(n)) => out.whole(14, n.as_i64().unwrap_or(i64::MAX)),
            ("minItems", Value::Number(n)) => out.whole(15, n.as_i64().unwrap_or(i64::MAX)),
            ("uniqueItems", Value::Bool(b)) => out.flag(16, *b),
            ("maxProperties", Value::Number(n)) => out.whole(17, n.as_i64().unwrap_or(i64::MAX)),
            ("minProperties", Value::Number(n)) => out.whole(18, n.as_i64().unwrap_or(i64::MAX)),
            ("required", Value::Array(names)) => names.iter().filter_map(Value::as_str).for_each(|n| out.text(19, n)),
            ("enum", Value::Array(values)) => values.iter().for_each(|v| out.any(20, v)),
            ("additionalProperties", v) => {
                let mut item = Message::default();
                match v {
                    Value::Bool(b) => item.flag(2, *b),
                    v => item.message(1, &inner(v)),
                }
                out.message(21, &item);
            }
            ("type", Value::String(s)) => {
                let mut item = Message::default();
                item.text(1, s);
                out.message(22, &item);
            }
            ("items", v) => {
                let mut item = Message::default();
                item.message(1, &inner(v));
                out.message(23, &item);
            }
            ("allOf", Value::Array(parts)) => parts.iter().for_each(|p| out.message(24, &inner(p))),
            ("properties", Value::Object(members)) => {
                let mut all = Message::default();
                for (name, member) in members {
                    definition(&mut all, name, member);
                }
                out.message(25, &all);
            }
            _ => {}
        }
    }
    out.extensions(31, map);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The fields of a message, read by the rules of the wire and not by the writer's.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let mut out = 0;
            for shift in (0..).step_by(7) {
                let byte = bytes[0];
                *bytes = &bytes[1..];
                out |= u64::from(byte & 0x7f) << shift;
                if byte < 0x80 {
                    break;
                }
            }
            out
        }
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes);
            let length = match tag & 7 {
                0 => {
                    out.push((tag >> 3, varint(&mut bytes).to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => usize::try_from(varint(&mut bytes)).unwrap(),
                other => panic!("wire type {other}"),
            };
            out.push((tag >> 3, bytes[..length].to_vec()));
            bytes = &bytes[length..];
        }
        out
    }

    fn field(bytes: &[u8], number: u64) -> Vec<u8> {
        let found = fields(bytes).into_iter().find(|(n, _)| *n == number);
        found.unwrap_or_else(|| panic!("no field {number}")).1
    }

    #[test]
    fn a_schema_has_gnostics_numbers() {
        let shown = json!({"description": "d", "type": "object", "required": ["a", "b"], "x-y": {"z": 1}, "maxLength": 300,
            "minimum": 1.5, "uniqueItems": true, "items": {"$ref": "#/definitions/T"}, "additionalProperties": {"type": "string"},
            "properties": {"$ref": {"type": "integer"}}, "default": {}, "unknown": 1});
        let bytes = schema(&shown).into_bytes();
        assert_eq!(field(&bytes, 4), b"d");
        assert_eq!(field(&field(&bytes, 22), 1), b"object");
        assert_eq!(fields(&bytes).iter().filter(|(n, _)| *n == 19).count(), 2);
        assert_eq!(field(&bytes, 11), 300_u64.to_le_bytes());
        assert_eq!(field(&bytes, 9), 1.5_f64.to_le_bytes());
        assert_eq!(field(&bytes, 16), 1_u64.to_le_bytes());
        assert_eq!(field(&field(&field(&bytes, 23), 1), 1), b"#/definitions/T");
        assert_eq!(field(&field(&field(&field(&bytes, 21), 1), 22), 1), b"string");
        let member = field(&field(&bytes, 25), 1);
        assert_eq!(field(&member, 1), b"$ref");
        assert_eq!(field(&field(&field(&member, 2), 22), 1), b"integer");
        assert_eq!(field(&field(&bytes, 5), 2), b"{}");
        let extension = field(&bytes, 31);
        assert_eq!(field(&extension, 1), b"x-y");
        assert_eq!(field(&field(&extension, 2), 2), br#"{"z":1}"#);
    }

    #[test]
    fn a_path_says_what_may_be_asked_there() {
        let mut all = Message::default();
        let shown = json!({"patch": {"parameters": [{"name": "dryRun", "in": "query", "type": "string"}], "x-k": 1},
            "parameters": [{"name": "name", "in": "path", "type": "string", "required": true}]});
        path(&mut all, "/p", &shown);
        let whole = document("t", "v", &all, &Message::default()).into_bytes();
        let named = field(&field(&whole, 8), 2);
        assert_eq!(field(&named, 1), b"/p");
        let item = field(&named, 2);
        let parameter = |holder: &[u8], number, place| field(&field(&field(&field(holder, number), 1), 2), place);
        assert_eq!(field(&parameter(&field(&item, 8), 8, 3), 4), b"dryRun");
        assert_eq!(field(&parameter(&item, 9, 4), 2), b"path");
    }
}
