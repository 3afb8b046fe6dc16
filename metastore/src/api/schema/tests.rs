//! Schemas against values: pruning, defaults, validation, as the recorded answers of other servers have them.

use crate::api::openapi::{Document, Needed, Renderer};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{check, embedded, parse, shape};

fn widget() -> super::Schema {
    let schema = json!({"type":"object","required":["spec"],"properties":{"spec":{"type":"object","required":["size"],"properties":{
        "at":{"type":"string","format":"date-time"},
        "free":{"type":"object","x-kubernetes-preserve-unknown-fields":true},
        "limits":{"type":"object","additionalProperties":{"type":"integer"}},
        "list":{"type":"array","maxItems":2,"items":{"type":"object","properties":{"a":{"type":"string","default":"z"}}}},
        "mode":{"type":"string","default":"auto","enum":["auto","manual"]},
        "name":{"type":"string","maxLength":5,"pattern":"^[a-z]+$"},
        "opt":{"type":"string","nullable":true},
        "port":{"x-kubernetes-int-or-string":true},
        "size":{"type":"integer","default":3,"minimum":1,"maximum":10},
        "set":{"type":"array","x-kubernetes-list-type":"set","items":{"type":"string"}},
        "keyed":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],
            "items":{"type":"object","properties":{"k":{"type":"string"}}}}}}}});
    parse::schema(&schema, "s").unwrap()
}

fn shaped(mut spec: Value) -> (Value, Vec<String>) {
    let mut object = json!({"apiVersion":"v1","kind":"W","metadata":{"name":"w"},"spec":spec.take()});
    let mut unknown = Vec::new();
    shape::prune(&mut object, &widget(), true, &mut unknown);
    shape::default(&mut object, &widget());
    (object["spec"].take(), unknown)
}

fn wrong(spec: Value) -> Vec<(String, String)> {
    check::object(&json!({"metadata":{},"spec":spec}), None, &widget())
        .into_iter()
        .map(|c| (c.reason, c.field))
        .collect()
}

fn one(reason: &str, field: &str) -> Vec<(String, String)> {
    vec![(reason.to_owned(), field.to_owned())]
}

#[test]
fn prunes_and_defaults_as_recorded() {
    let (spec, unknown) =
        shaped(json!({"bogus":1,"free":{"any":[1,{"x":null}]},"list":[{},{"a":"q","b":1}],"port":"http","size":2}));
    assert_eq!(
        spec,
        json!({"free":{"any":[1,{"x":null}]},"list":[{"a":"z"},{"a":"q"}],"mode":"auto","port":"http","size":2})
    );
    assert_eq!(unknown, ["spec.bogus", "spec.list[1].b"]);
    let (spec, _) = shaped(json!({"mode":null,"opt":null,"size":null,"name":null}));
    assert_eq!(spec, json!({"mode":"auto","opt":null,"size":3}));
}

#[test]
fn validates_as_recorded() {
    assert!(wrong(json!({"size":1,"opt":null,"port":80,"limits":{"a":1},"free":{"x":{"y":1}}})).is_empty());
    assert_eq!(wrong(json!({"size":11})), one("FieldValueInvalid", "spec.size"));
    assert_eq!(wrong(json!({"size":"big"})), one("FieldValueTypeInvalid", "spec.size"));
    // Which is said once more, without a field, by the check of the number's range.
    let twice = [
        one("FieldValueTypeInvalid", "spec.size"),
        one("FieldValueInvalid", "<nil>"),
    ]
    .concat();
    assert_eq!(wrong(json!({"size":1.5})), twice);
    assert_eq!(
        wrong(json!({"size":1,"mode":"fast"})),
        one("FieldValueNotSupported", "spec.mode")
    );
    assert_eq!(
        wrong(json!({"size":1,"name":"toolong"})),
        one("FieldValueTooLong", "spec.name")
    );
    assert_eq!(
        wrong(json!({"size":1,"name":"A"})),
        one("FieldValueInvalid", "spec.name")
    );
    assert_eq!(
        wrong(json!({"size":1,"list":[{},{},{}]})),
        one("FieldValueTooMany", "spec.list")
    );
    assert_eq!(
        wrong(json!({"size":1,"limits":{"a":"x"}})),
        one("FieldValueTypeInvalid", "spec.limits.a")
    );
    assert_eq!(
        wrong(json!({"size":1,"at":"yesterday"})),
        one("FieldValueTypeInvalid", "spec.at")
    );
    assert_eq!(
        wrong(json!({"size":1,"port":{"a":1}})),
        one("FieldValueTypeInvalid", "spec.port")
    );
    assert_eq!(
        wrong(json!({"size":1,"port":null})),
        one("FieldValueTypeInvalid", "spec.port")
    );
    assert_eq!(wrong(json!({})), one("FieldValueRequired", "spec.size"));
    assert_eq!(
        wrong(json!({"size":1,"set":["a","a"]})),
        one("FieldValueDuplicate", "spec.set[1]")
    );
    assert_eq!(
        wrong(json!({"size":1,"keyed":[{"k":"a"},{"k":"b"},{"k":"a"}]})),
        one("FieldValueDuplicate", "spec.keyed[2]")
    );
    let missing = check::object(&json!({"metadata":{}}), None, &widget());
    assert_eq!((missing.len(), &*missing[0].field), (1, "spec"));
}

#[test]
fn combinations_narrow() {
    let schema = json!({"type":"object","properties":{"v":{"type":"integer",
        "anyOf":[{"minimum":10},{"maximum":3}],"not":{"enum":[2]}},"w":{"type":"string","oneOf":[{"pattern":"^a"},{"pattern":"b$"}]}}});
    let schema = parse::schema(&schema, "s").unwrap();
    let bad = |v: Value| usize::from(!check::object(&v, None, &schema).is_empty());
    assert_eq!(bad(json!({"v":1})), 0);
    assert_eq!(bad(json!({"v":5})), 1);
    assert_eq!(bad(json!({"v":2})), 1);
    assert_eq!(bad(json!({"w":"ax"})), 0);
    assert_eq!(bad(json!({"w":"ab"})), 1);
}

#[test]
fn embedded_resources_keep_their_identity() {
    let schema = json!({"type":"object","properties":{"obj":{"type":"object","x-kubernetes-embedded-resource":true,
        "properties":{"spec":{"type":"object"}}}}});
    let schema = parse::schema(&schema, "s").unwrap();
    let mut v = json!({"obj":{"apiVersion":"v1","kind":"K","metadata":{"name":"x"},"spec":{},"other":1}});
    let mut unknown = Vec::new();
    shape::prune(&mut v, &schema, true, &mut unknown);
    assert_eq!(unknown, ["obj.other"]);
    assert!(check::object(&v, None, &schema).is_empty());
    assert_eq!(check::object(&json!({"obj":{}}), None, &schema).len(), 2);
}

#[test]
fn a_schema_survives_its_own_openapi_form() {
    let mut needed = Needed::new();
    let mut renderer = Renderer {
        document: Document::V3,
        custom: true,
        needed: &mut needed,
    };
    let shown = renderer.body(&widget());
    let again = renderer.body(&parse::schema(&shown, "s").unwrap());
    assert_eq!(shown, again);
    assert!(needed.is_empty());
}

/// Schemas as somebody hostile might write them: keywords in any place, of the right form.
fn any_schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "string", "maxLength": 3, "default": "d"})),
        Just(json!({"type": "string", "nullable": true, "pattern": "^[ab]*$"})),
        Just(json!({"type": "integer", "minimum": 1, "default": 2, "format": "int32"})),
        Just(json!({"type": "number", "multipleOf": 0.5})),
        Just(json!({"type": "boolean", "enum": [true]})),
        Just(json!({"x-kubernetes-int-or-string": true})),
        Just(json!({"x-kubernetes-preserve-unknown-fields": true})),
        Just(
            json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true})
        ),
        Just(json!({"type": "object", "additionalProperties": true, "nullable": true})),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::btree_map("[a-c]", inner.clone(), 0..4)
                .prop_map(|p| json!({"type": "object", "properties": p, "required": ["a"]})),
            (prop::collection::btree_map("[a-c]", inner.clone(), 0..4), inner.clone())
                .prop_map(|(p, d)| json!({"type": "object", "properties": p, "default": {}, "oneOf": [{"properties": {"a": d}}, {}]})),
            inner.clone().prop_map(|s| json!({"type": "object", "additionalProperties": s, "maxProperties": 2})),
            inner.clone().prop_map(|s| json!({"type": "array", "items": s, "x-kubernetes-list-type": "set"})),
            inner.clone().prop_map(|s| json!({"type": "array", "items": {"type": "object", "properties": {"a": s}},
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"]})),
            inner.prop_map(|s| json!({"type": "object", "allOf": [s.clone()], "anyOf": [{"not": s}], "x-kubernetes-preserve-unknown-fields": true})),
        ]
    })
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-d]{0,5}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            prop::collection::btree_map("[a-d]|metadata|kind|apiVersion", inner.clone(), 0..4).prop_map(|m| json!(m)),
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn pruning_and_defaulting_are_done_once(member in any_schema(), value in any_value(), former in any_value()) {
        let schema = json!({"type": "object", "properties": {"spec": member}});
        // Read as it is, sound or not: nothing of it may make the server stumble.
        let Ok(schema) = parse::schema(&schema, "s") else { return Ok(()) };
        let mut once = json!({"metadata": {}, "spec": value});
        shape::prune(&mut once, &schema, true, &mut Vec::new());
        shape::default(&mut once, &schema);
        let mut twice = once.clone();
        let mut unknown = Vec::new();
        shape::prune(&mut twice, &schema, true, &mut unknown);
        prop_assert!(unknown.is_empty(), "{unknown:?}");
        shape::default(&mut twice, &schema);
        prop_assert_eq!(&twice, &once);
        let causes = check::object(&once, None, &schema);
        prop_assert_eq!(&check::object(&twice, None, &schema), &causes);
        prop_assert!(check::object(&once, Some(&once), &schema).is_empty());
        // What an update is refused for, a creation would be refused for as well.
        let former = json!({"metadata": {}, "spec": former});
        let changed = check::object(&once, Some(&former), &schema);
        prop_assert!(changed.iter().all(|c| causes.contains(c)), "{changed:?} {causes:?}");
        embedded::decode(&mut once, &schema, "", &mut Vec::new()).ok();
    }
}

#[test]
fn alternatives_and_patterns_cost_what_they_may_at_most() {
    let alternatives: Vec<Value> = (0..5_000).map(|i| json!({"maxLength": i + 1_000})).collect();
    let schema = json!({"type": "object", "properties": {
        "l": {"type": "array", "items": {"type": "string", "allOf": alternatives}},
        "p": {"type": "string", "pattern": "(x?){900}(y?){900}$"}}});
    let schema = parse::schema(&schema, "s").unwrap();
    let list: Vec<String> = vec!["a".repeat(100); 2_000];
    let causes = check::object(&json!({"l": list}), None, &schema);
    assert!(causes.iter().any(|c| c.message.contains("too large")), "{causes:?}");
    let causes = check::object(&json!({"p": "xy".repeat(1 << 20)}), None, &schema);
    assert!(causes.iter().any(|c| c.message.contains("too large")), "{causes:?}");
}
