//! One object of each built-in kind with every field of the table of types set: nothing of it may be lost on its way in, as JSON or as protobuf.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::builtin_kinds;
use crate::api::protobuf;
use crate::api::schema::shape;
use crate::api::schema::table::{self, Declaration, Kind};

type Types = BTreeMap<&'static str, Declaration>;

fn types() -> Types {
    let all = table::read(table::TABLE).unwrap();
    all.into_iter().map(|d| (d.name, d)).collect()
}

/// A type with every field set.
fn filled(types: &Types, name: &str) -> Map<String, Value> {
    let declaration = &types[name];
    let mut out = Map::new();
    if declaration.object {
        out.insert(
            "metadata".to_owned(),
            Value::Object(filled(types, "meta.v1.ObjectMeta")),
        );
    }
    for field in &declaration.fields {
        if let ("+", Kind::Named(inner)) = (field.name, &field.kind) {
            out.extend(filled(types, inner));
        } else {
            out.insert(field.name.to_owned(), value(types, &field.kind));
        }
    }
    out
}

fn value(types: &Types, kind: &Kind) -> Value {
    match kind {
        Kind::Scalar("bool") => json!(true),
        Kind::Scalar("int32" | "int64") => json!(7),
        Kind::Scalar("number") => json!(0.5),
        Kind::Scalar("date") => json!("2026-01-02T03:04:05Z"),
        Kind::Scalar("microtime") => json!("2026-01-02T03:04:05.000006Z"),
        Kind::Scalar("quantity") => json!("1500m"),
        Kind::Scalar("intstr") => json!("25%"),
        Kind::Scalar("bytes") => json!("AP8="),
        Kind::Scalar("any") => json!({"a": [1, {"b": "c"}]}),
        Kind::Scalar(_) => json!("text"),
        Kind::Named(name) => Value::Object(filled(types, name)),
        Kind::Map(inner) | Kind::Whole(inner) => json!({"key": value(types, inner)}),
        Kind::List(inner) | Kind::Set(inner) | Kind::Keyed(inner, _) => json!([value(types, inner)]),
    }
}

/// The protobuf form of a type; none where a field of it has no number.
fn encoded(types: &Types, name: &str, object: &Map<String, Value>) -> Option<Vec<u8>> {
    let declaration = &types[name];
    let mut out = Vec::new();
    if let (true, Some(Value::Object(metadata))) = (declaration.object, object.get("metadata")) {
        field(&mut out, 1, &encoded(types, "meta.v1.ObjectMeta", metadata)?);
    }
    for one in &declaration.fields {
        let number = one.number?;
        if let ("+", Kind::Named(inner)) = (one.name, &one.kind) {
            field(&mut out, number, &encoded(types, inner, object)?);
        } else if let Some(value) = object.get(one.name) {
            put(types, &mut out, number, &one.kind, value)?;
        }
    }
    Some(out)
}

fn put(types: &Types, out: &mut Vec<u8>, number: u32, kind: &Kind, value: &Value) -> Option<()> {
    let text = value.as_str().unwrap_or_default();
    let tag = |out: &mut Vec<u8>, wire: u64| varint(out, u64::from(number) << 3 | wire);
    match kind {
        Kind::Scalar("bool") => {
            tag(out, 0);
            varint(out, u64::from(value.as_bool()?));
        }
        Kind::Scalar("int32" | "int64") => {
            tag(out, 0);
            varint(out, value.as_u64()?);
        }
        Kind::Scalar("number") => {
            tag(out, 1);
            out.extend(value.as_f64()?.to_le_bytes());
        }
        Kind::Scalar("date" | "microtime") => {
            let at: jiff::Timestamp = text.parse().ok()?;
            let mut body = Vec::new();
            varint(&mut body, 1 << 3);
            varint(&mut body, u64::try_from(at.as_second()).ok()?);
            varint(&mut body, 2 << 3);
            varint(&mut body, u64::try_from(at.subsec_nanosecond()).ok()?);
            field(out, number, &body);
        }
        Kind::Scalar("quantity") => field(out, number, &wrapped(1, text.as_bytes())),
        Kind::Scalar("any") => field(out, number, &wrapped(1, value.to_string().as_bytes())),
        Kind::Scalar("intstr") => field(out, number, &[&[1 << 3, 1][..], &wrapped(3, text.as_bytes())].concat()),
        Kind::Scalar("bytes") => field(out, number, &STANDARD.decode(text).ok()?),
        Kind::Scalar(_) => field(out, number, text.as_bytes()),
        Kind::Named(name) => field(out, number, &encoded(types, name, value.as_object()?)?),
        Kind::Map(inner) | Kind::Whole(inner) => {
            for (key, value) in value.as_object()? {
                let mut entry = wrapped(1, key.as_bytes());
                match &**inner {
                    // A list as a value is a message with the list in its first field.
                    Kind::List(item) => {
                        let mut list = Vec::new();
                        for value in value.as_array()? {
                            put(types, &mut list, 1, item, value)?;
                        }
                        field(&mut entry, 2, &list);
                    }
                    inner => put(types, &mut entry, 2, inner, value)?,
                }
                field(out, number, &entry);
            }
        }
        Kind::List(inner) | Kind::Set(inner) | Kind::Keyed(inner, _) => {
            for value in value.as_array()? {
                put(types, out, number, inner, value)?;
            }
        }
    }
    Some(())
}

fn wrapped(number: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    field(&mut out, number, body);
    out
}

fn field(out: &mut Vec<u8>, number: u32, body: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, body.len() as u64);
    out.extend_from_slice(body);
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(u8::try_from(n & 0x7f).unwrap() | 0x80);
        n >>= 7;
    }
    out.push(u8::try_from(n).unwrap());
}

#[test]
fn an_object_with_every_field_comes_through_whole() {
    let types = types();
    let mut in_protobuf = 0;
    for kind in builtin_kinds() {
        let Some(name) = kind.table_type.as_deref() else {
            continue;
        };
        let mut object = filled(&types, name);
        object.insert("apiVersion".to_owned(), json!(kind.api_version()));
        object.insert("kind".to_owned(), json!(kind.kind()));
        let object = Value::Object(object);
        let mut came = object.clone();
        let mut unknown = Vec::new();
        assert_eq!(shape::mistyped(&came, &kind.schema), None, "{name}");
        shape::tidy(&mut came, &kind.schema);
        shape::prune(&mut came, &kind.schema, true, &mut unknown);
        shape::default(&mut came, &kind.schema);
        assert_eq!((&came, unknown), (&object, Vec::new()), "{name}");
        let Some(body) = encoded(&types, name, object.as_object().unwrap()) else {
            continue;
        };
        let meta = [
            wrapped(1, kind.api_version().as_bytes()),
            wrapped(2, kind.kind().as_bytes()),
        ]
        .concat();
        let bytes = [b"k8s\0".to_vec(), wrapped(1, &meta), wrapped(2, &body)].concat();
        let read = protobuf::read(&bytes, &|_| Some(name.to_owned())).unwrap();
        assert_eq!(read, object, "{name}");
        in_protobuf += 1;
    }
    assert!(in_protobuf > 20, "{in_protobuf}");
}

#[test]
fn a_zero_says_nothing_except_where_it_differs_from_nothing() {
    let kind = builtin_kinds().into_iter().find(|k| k.kind() == "Deployment").unwrap();
    let mut object = json!({"spec":{"paused":false,"minReadySeconds":0,"replicas":0,"template":{"spec":{"hostname":"","volumes":[],"hostUsers":false,
        "containers":[{"name":"","env":[{"name":"A","value":""}],"resources":{"limits":{"cpu":"1000m"}}}]}}}});
    shape::tidy(&mut object, &kind.schema);
    let spec = &object["spec"];
    assert_eq!(
        *spec,
        json!({"replicas":0,"template":{"spec":{"hostUsers":false,
            "containers":[{"name":"","env":[{"name":"A"}],"resources":{"limits":{"cpu":"1"}}}]}}})
    );
}
