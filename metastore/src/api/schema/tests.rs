//! Schemas against values: pruning, defaults, validation, as the recorded answers of other servers have them.

use crate::api::openapi::{Document, Needed, Renderer};
use serde_json::{Value, json};

use super::{check, parse, shape};

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
    check::object(&json!({"metadata":{},"spec":spec}), &widget())
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
    assert_eq!(wrong(json!({"size":1.5})), one("FieldValueTypeInvalid", "spec.size"));
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
    let missing = check::object(&json!({"metadata":{}}), &widget());
    assert_eq!((missing.len(), &*missing[0].field), (1, "spec"));
}

#[test]
fn combinations_narrow() {
    let schema = json!({"type":"object","properties":{"v":{"type":"integer",
        "anyOf":[{"minimum":10},{"maximum":3}],"not":{"enum":[2]}},"w":{"type":"string","oneOf":[{"pattern":"^a"},{"pattern":"b$"}]}}});
    let schema = parse::schema(&schema, "s").unwrap();
    let bad = |v: Value| check::object(&v, &schema).len();
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
    assert!(check::object(&v, &schema).is_empty());
    assert_eq!(check::object(&json!({"obj":{}}), &schema).len(), 2);
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

#[test]
fn what_is_not_structural_is_named() {
    let causes = |s: Value| -> Vec<(String, String)> {
        parse::schema(&s, "s")
            .unwrap_err()
            .into_iter()
            .map(|c| (c.reason, c.field))
            .collect()
    };
    assert_eq!(causes(json!({})), one("FieldValueRequired", "s.type"));
    assert_eq!(causes(json!({"type":"string"})), one("FieldValueInvalid", "s.type"));
    assert_eq!(
        causes(json!({"type":"object","properties":{"x":{"description":"no type"}}})),
        one("FieldValueRequired", "s.properties[x].type")
    );
    assert_eq!(
        causes(json!({"type":"object","properties":{"x":{"type":"array"}}})),
        one("FieldValueRequired", "s.properties[x].items")
    );
    assert_eq!(
        causes(json!({"type":"object","properties":{"x":{"type":"integer","default":"no"}}})),
        one("FieldValueTypeInvalid", "s.properties[x].default")
    );
    assert_eq!(
        causes(json!({"type":"object","properties":{"x":{"type":"string","pattern":"("}}})),
        one("FieldValueInvalid", "s.properties[x].pattern")
    );
    assert_eq!(
        causes(json!({"type":"object","properties":{"x":{"$ref":"#/y"}}})),
        one("FieldValueForbidden", "s.properties[x].$ref")
    );
}
