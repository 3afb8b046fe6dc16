//! The parsers of the API as functions of bytes, for whoever throws bytes at them: none may panic, hang, or take memory beyond its input's measure,
//! and what one reads must be what it says. Nothing that serves requests calls these.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::apply::{self, Manager, fieldset::FieldSet};
use super::jsonpath::Path;
use super::openapi::{Document, Needed, Renderer};
use super::patch::{Operations, Patch};
use super::request::{ListQuery, Query, WriteQuery, route};
use super::schema::{check, parse, shape, types};
use super::selector::{Fields, Labels, Selectable};
use super::{codec, protobuf};

/// A target: its name, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 13] = [
    ("path", path),
    ("query", query),
    ("label_selector", label_selector),
    ("field_selector", field_selector),
    ("json_patch", json_patch),
    ("merge_patch", merge_patch),
    ("strategic_merge_patch", strategic_merge_patch),
    ("apply", applied),
    ("managed_fields", managed_fields),
    ("schema", schema),
    ("json_path", json_path),
    ("protobuf", protobuf_body),
    ("yaml", yaml),
];

/// An object with everything that patches are about.
static OBJECT: LazyLock<Value> = LazyLock::new(|| {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "finalizers": ["a", "b", "c"], "labels": {"a": "b"}, "managedFields": [
            {"manager": "one", "operation": "Apply", "apiVersion": "apps/v1", "time": "2026-01-01T00:00:00Z", "fieldsType": "FieldsV1",
             "fieldsV1": {"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}}}}}}}]},
        "spec": {"replicas": 1, "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}},
            "template": {"spec": {"containers": [
                {"name": "a", "image": "i", "env": [{"name": "X", "value": "1"}, {"name": "Y"}]}, {"name": "b"}, {"name": "c"}]}}}})
});

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Request paths.
fn path(bytes: &[u8]) {
    let path = text(bytes);
    assert_eq!(route(path), route(path));
}

/// Queries, and the options read from them.
fn query(bytes: &[u8]) {
    if let Ok(query) = Query::parse(Some(text(bytes))) {
        drop(ListQuery::parse(&query));
        drop(WriteQuery::parse(&query, "PatchOptions"));
    }
}

/// Label selectors: what one selects by, its negation does not.
fn label_selector(bytes: &[u8]) {
    let object = br#"{"metadata":{"labels":{"a":"b","c":"1"}}}"#;
    if let Ok(labels) = Labels::parse(text(bytes)) {
        let once = labels.selects(&Selectable::read(object));
        assert_eq!(once, labels.selects(&Selectable::read(object)));
        assert!(once || !labels.is_empty(), "an empty selector selects everything");
    }
    drop(Selectable::read(bytes));
}

/// Field selectors.
fn field_selector(bytes: &[u8]) {
    if let Ok(fields) = Fields::parse(text(bytes)) {
        assert!(fields.only_name().is_none() || !fields.is_empty());
    }
}

/// What came out of a patch can be stored and read again.
fn stored(object: &Value) {
    let bytes = object.to_string();
    let again: Value = serde_json::from_str(&bytes).expect("what is written can be read");
    assert_eq!(again.as_object().map(|o| o.len()), object.as_object().map(|o| o.len()));
}

fn patched(patch: &Patch) {
    let Some(schema) = types::named("apps.v1.Deployment") else {
        return;
    };
    let mut object = OBJECT.clone();
    if patch.apply(&mut object, &schema).is_ok() {
        stored(&object);
    }
}

/// JSON patches.
fn json_patch(bytes: &[u8]) {
    if let Ok(operations) = Operations::read(bytes) {
        patched(&Patch::Json(operations));
    }
}

/// Merge patches.
fn merge_patch(bytes: &[u8]) {
    if let Ok(parsed) = codec::json(bytes) {
        patched(&Patch::Merge(parsed.value));
    }
}

/// Strategic merge patches.
fn strategic_merge_patch(bytes: &[u8]) {
    if let Ok(parsed) = codec::json(bytes) {
        patched(&Patch::Strategic(parsed.value));
    }
}

/// Applied configurations: what could be applied can be applied again.
fn applied(bytes: &[u8]) {
    let Some(schema) = types::named("apps.v1.Deployment") else {
        return;
    };
    let Ok(mut config) = codec::yaml(bytes) else { return };
    if !config.is_object() || config.get("metadata").is_some_and(|m| !m.is_object()) {
        return;
    }
    // As the way of a request does it before.
    shape::drop_nulls(&mut config, &schema);
    let mut unknown = Vec::new();
    shape::prune(&mut config, &schema, true, &mut unknown);
    if shape::mistyped(&config, &schema).is_some() {
        return;
    }
    let manager = Manager {
        name: "two",
        api_version: "apps/v1",
        subresource: "",
        now: "2026-01-02T00:00:00Z",
    };
    let apply = |current: &Value| apply::apply(Some(current), &config, |_| false, manager, true, &schema);
    if let Ok(once) = apply(&OBJECT) {
        stored(&once);
        stored(&apply(&once).expect("it was applied before"));
    }
}

/// Sets of fields.
fn managed_fields(bytes: &[u8]) {
    let Ok(parsed) = codec::json(bytes) else { return };
    if let Some(set) = FieldSet::parse(&parsed.value) {
        let again = FieldSet::parse(&set.to_value()).expect("a set is read as it is written");
        assert!(set.difference(&again).is_empty());
        drop(set.paths());
    }
}

/// Schemas, and an object under one.
fn schema(bytes: &[u8]) {
    let Ok(parsed) = codec::json(bytes) else { return };
    let Ok(schema) = parse::schema(&parsed.value, "schema") else {
        return;
    };
    let mut object = OBJECT.clone();
    let mut unknown = Vec::new();
    shape::prune(&mut object, &schema, true, &mut unknown);
    shape::default(&mut object, &schema);
    let once = object.clone();
    shape::default(&mut object, &schema);
    assert_eq!(once, object, "defaults are there once");
    drop(check::object(&object, None, &schema));
    for document in [Document::V2, Document::V3] {
        let mut needed = Needed::new();
        let mut renderer = Renderer {
            document,
            custom: true,
            needed: &mut needed,
        };
        let shown = renderer.body(&schema);
        assert!(shown.is_object());
    }
}

/// Paths into objects, of printer columns and scales.
fn json_path(bytes: &[u8]) {
    if let Ok(path) = Path::parse(text(bytes)) {
        assert_eq!(path.find(&OBJECT).first().copied(), path.first(&OBJECT));
        let mut object = OBJECT.clone();
        if path.put(&mut object, json!(7)) {
            stored(&object);
        }
    }
}

/// Bodies in protobuf.
fn protobuf_body(bytes: &[u8]) {
    let kinds = |kind: &str| match kind {
        "ConfigMap" => Some("core.v1.ConfigMap".to_owned()),
        "Pod" => Some("core.v1.Pod".to_owned()),
        "Deployment" => Some("apps.v1.Deployment".to_owned()),
        _ => None,
    };
    if let Ok(object) = protobuf::read(bytes, &kinds) {
        stored(&object);
    }
    // The same as the body of a Pod, without having to guess the envelope.
    let length = u8::try_from(bytes.len().min(127)).unwrap_or(127);
    let body = &bytes[..usize::from(length)];
    let framed = [&b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12"[..], &[length], body].concat();
    if let Ok(object) = protobuf::read(&framed, &kinds) {
        stored(&object);
    }
}

/// YAML is read as some JSON.
fn yaml(bytes: &[u8]) {
    if let Ok(value) = codec::yaml(bytes) {
        assert!(!value.to_string().is_empty());
    }
}
