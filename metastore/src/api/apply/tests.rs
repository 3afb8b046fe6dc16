use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::schema::{parse, types};

fn deployment() -> Arc<Schema> {
    types::named("apps.v1.Deployment").unwrap()
}

fn by(name: &str) -> Manager<'_> {
    Manager {
        name,
        api_version: "apps/v1",
        subresource: "",
        now: "2026-01-01T00:00:00Z",
    }
}

fn applied(current: Option<&Value>, config: Value, who: &str) -> Value {
    apply(current, &config, |_| false, by(who), false, &deployment()).unwrap()
}

fn updated(current: Option<&Value>, mut new: Value, who: &str) -> Value {
    let given = take_managed_fields(&mut new);
    record_update(current, &mut new, given.as_ref(), by(who), &deployment()).unwrap();
    new
}

/// Manager, operation and fields of each entry.
fn owners(object: &Value) -> Vec<(String, String, Value)> {
    let text = |e: &Value, f: &str| e[f].as_str().unwrap().to_owned();
    managed_fields(object)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|e| (text(e, "manager"), text(e, "operation"), e["fieldsV1"].clone()))
        .collect()
}

fn containers(list: Value) -> Value {
    json!({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"template":{"spec":{"containers":list}}}})
}

#[test]
fn what_is_no_longer_named_goes_and_what_others_wrote_stays() {
    let one = applied(
        None,
        containers(json!([{"name":"a","image":"1","env":[{"name":"X","value":"1"}]},{"name":"b","image":"1"}])),
        "one",
    );
    // A default that nobody owns, and a label of somebody else.
    let mut live = one.clone();
    live["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] = json!("Always");
    live["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"] = json!("Always");
    live["metadata"]["labels"] = json!({"team":"x"});
    let live = {
        let mut labelled = one.clone();
        labelled["metadata"]["labels"] = json!({"team":"x"});
        let mut noted = updated(Some(&one), labelled, "kubectl-label");
        noted["spec"] = live["spec"].clone();
        noted
    };
    let next = applied(Some(&live), containers(json!([{"name":"a","image":"2"}])), "one");
    assert_eq!(
        next["spec"]["template"]["spec"]["containers"],
        json!([{"name":"a","image":"2","imagePullPolicy":"Always"}])
    );
    assert_eq!(next["metadata"]["labels"], json!({"team":"x"}));
    assert_eq!(
        owners(&next),
        [
            (
                "one".to_owned(),
                "Apply".to_owned(),
                json!({"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{".":{},"f:image":{},"f:name":{}}}}}}})
            ),
            (
                "kubectl-label".to_owned(),
                "Update".to_owned(),
                json!({"f:metadata":{"f:labels":{".":{},"f:team":{}}}})
            )
        ]
    );
}

#[test]
fn a_field_of_somebody_else_is_a_conflict_until_forced() {
    let config =
        |n: i64| json!({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"replicas":n}});
    let one = applied(None, config(1), "one");
    let scaled = updated(
        Some(&one),
        {
            let mut v = one.clone();
            v["spec"]["replicas"] = json!(5);
            v
        },
        "hpa",
    );
    assert_eq!(owners(&scaled).len(), 1, "the only field changed hands: {scaled}");
    let refused = apply(Some(&scaled), &config(1), |_| false, by("one"), false, &deployment()).unwrap_err();
    assert_eq!(
        refused,
        ApplyError::Conflicts(vec![("\"hpa\" using apps/v1".to_owned(), ".spec.replicas".to_owned())])
    );
    let status = refusal(&refused, "web");
    assert_eq!(
        (status.code, status.message.as_str()),
        (
            409,
            "Apply failed with 1 conflict: conflict with \"hpa\" using apps/v1: .spec.replicas"
        )
    );
    // The same value is no change: both own it then.
    let both = applied(Some(&scaled), config(5), "one");
    assert_eq!(owners(&both).len(), 2);
    let forced = apply(Some(&scaled), &config(1), |_| false, by("one"), true, &deployment()).unwrap();
    assert_eq!(forced["spec"]["replicas"], 1);
    assert_eq!(owners(&forced).len(), 1);
    // Given up: it stays because the other one owns it.
    let left = applied(
        Some(&both),
        json!({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"}}),
        "one",
    );
    assert_eq!(left["spec"]["replicas"], 5);
    assert_eq!(owners(&left)[0].0, "hpa");
}

#[test]
fn an_atomic_map_is_one_field() {
    let config = |labels: Value| {
        json!({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","labels":labels.clone()},
            "spec":{"selector":{"matchLabels":labels}}})
    };
    let one = applied(None, config(json!({"app":"web","x":"1"})), "one");
    assert_eq!(
        owners(&one)[0].2,
        json!({"f:metadata":{"f:labels":{"f:app":{},"f:x":{}}},"f:spec":{"f:selector":{}}})
    );
    let two = applied(Some(&one), config(json!({"app":"web"})), "one");
    assert_eq!(two["spec"]["selector"], json!({"matchLabels":{"app":"web"}}));
    assert_eq!(two["metadata"]["labels"], json!({"app":"web"}));
}

#[test]
fn an_object_without_a_history_belongs_to_who_was_before() {
    let old = json!({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web","uid":"u"},"spec":{"replicas":3,"paused":true}});
    let config =
        |n: i64| json!({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"replicas":n}});
    let refused = apply(Some(&old), &config(1), |_| false, by("one"), false, &deployment()).unwrap_err();
    assert!(matches!(refused, ApplyError::Conflicts(c) if c[0].0 == "\"before-first-apply\" using apps/v1"));
    let same = applied(Some(&old), config(3), "one");
    assert_eq!(owners(&same).len(), 2);
    assert_eq!(same["spec"], old["spec"]);
    // A plain write leaves it without one.
    let plain = updated(Some(&old), old.clone(), "kubectl");
    assert!(owners(&plain).is_empty());
}

#[test]
fn entries_can_be_reset_and_brought_along() {
    let config = json!({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"replicas":1}});
    let one = applied(None, config, "one");
    let mut reset = one.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    assert!(owners(&updated(Some(&one), reset, "x")).is_empty());
    let mut renamed = one.clone();
    renamed["metadata"]["managedFields"][0]["manager"] = json!("two");
    assert_eq!(owners(&updated(Some(&one), renamed, "x"))[0].0, "two");
    let mut broken = one.clone();
    broken["metadata"]["managedFields"] = json!([{"operation":"Nonsense"}]);
    assert_eq!(owners(&updated(Some(&one), broken, "x"))[0].0, "one");
}

#[test]
fn many_writers_become_one_ancient_entry() {
    let mut object = updated(None, json!({"metadata":{"name":"web"},"spec":{"replicas":0}}), "w0");
    for n in 1..30 {
        let mut next = object.clone();
        next["metadata"]["annotations"][format!("a{n}")] = json!("x");
        object = updated(Some(&object), next, &format!("w{n}"));
    }
    let owners = owners(&object);
    assert_eq!(owners.len(), MAX_UPDATERS);
    let ancient = owners.iter().find(|(name, ..)| name == ANCIENT).unwrap();
    assert!(ancient.2["f:metadata"]["f:annotations"].as_object().unwrap().len() > 15);
}

#[test]
fn lists_that_cannot_be_told_apart_are_refused() {
    for list in [json!([{"name":"a"},{"name":"a"}]), json!(["a"])] {
        let refused = apply(
            None,
            &containers(list.clone()),
            |_| false,
            by("one"),
            false,
            &deployment(),
        )
        .unwrap_err();
        assert!(matches!(refused, ApplyError::Typed(_)), "{list}");
        assert_eq!(refusal(&refused, "web").code, 500);
    }
}

#[test]
fn items_keep_the_order_of_the_configuration() {
    let names = |v: &Value| -> Vec<String> {
        v["spec"]["template"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let list = |names: &[&str]| {
        containers(Value::Array(
            names.iter().map(|n| json!({"name":n,"image":"1"})).collect(),
        ))
    };
    let one = applied(None, list(&["b", "x", "a"]), "one");
    let two = applied(Some(&one), list(&["a", "new", "b"]), "two");
    assert_eq!(names(&two), ["x", "a", "new", "b"]);
    let three = applied(Some(&two), list(&["x"]), "one");
    assert_eq!(names(&three), ["x", "a", "new", "b"]);
    assert_eq!(names(&applied(Some(&three), list(&["a"]), "two")), ["x", "a"]);
}

#[test]
fn long_lists_cost_their_length() {
    // With a look at every other item for each, this would not end.
    let list = |from: u32| {
        let env: Vec<Value> = (from..from + 30_000).map(|n| json!({"name":n.to_string()})).collect();
        containers(json!([{"name":"a","env":env}]))
    };
    let one = applied(None, list(0), "one");
    let two = applied(Some(&one), list(25_000), "two");
    let env = &two["spec"]["template"]["spec"]["containers"][0]["env"];
    assert_eq!(env.as_array().unwrap().len(), 55_000);
}

#[test]
fn ports_are_told_apart_by_both_keys_one_by_default() {
    let with = |ports: Value| containers(json!([{"name":"a","ports":ports}]));
    let one = applied(
        None,
        with(json!([{"containerPort":53},{"containerPort":53,"protocol":"UDP"}])),
        "one",
    );
    let set = &owners(&one)[0].2["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"a\"}"]["f:ports"];
    let keys: Vec<&String> = set.as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "k:{\"containerPort\":53,\"protocol\":\"TCP\"}",
            "k:{\"containerPort\":53,\"protocol\":\"UDP\"}"
        ]
    );
}

#[test]
fn a_custom_resource_says_by_its_schema_what_is_one_field() {
    let schema = parse::schema(
        &json!({"type":"object","properties":{"spec":{"type":"object","properties":{
        "plain":{"type":"array","items":{"type":"string"}},
        "set":{"type":"array","x-kubernetes-list-type":"set","items":{"type":"string"}},
        "map":{"type":"object","x-kubernetes-map-type":"atomic","additionalProperties":{"type":"string"}},
        "free":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}}}),
        "",
    )
    .unwrap();
    let config = json!({"apiVersion":"x/v1","kind":"X","metadata":{"name":"a"},
        "spec":{"plain":["a"],"set":["a","b"],"map":{"k":"v"},"free":{"deep":{"er":1}}}});
    let new = apply(None, &config, |_| false, by("one"), false, &schema).unwrap();
    assert_eq!(
        owners(&new)[0].2,
        json!({"f:spec":{"f:plain":{},"f:map":{},"f:set":{"v:\"a\"":{},"v:\"b\"":{}},
            "f:free":{"f:deep":{".":{},"f:er":{}}}}})
    );
    let fewer = json!({"apiVersion":"x/v1","kind":"X","metadata":{"name":"a"},"spec":{"set":["b","c"]}});
    let new = apply(Some(&new), &fewer, |_| false, by("one"), false, &schema).unwrap();
    assert_eq!(new["spec"], json!({"set":["b","c"]}));
}

fn any_config() -> impl Strategy<Value = Value> {
    let data = proptest::collection::btree_map("[a-d]", "[xy]", 0..4);
    let env = proptest::collection::btree_map("[A-C]", "[xy]", 0..3);
    (data, env, proptest::option::of(0..3_i64)).prop_map(|(labels, env, replicas)| {
        let env: Vec<Value> = env.into_iter().map(|(k, v)| json!({"name":k,"value":v})).collect();
        // Empty maps and lists are nobody's, and not kept.
        let mut out = containers(json!([{"name":"a"}]));
        if !env.is_empty() {
            out["spec"]["template"]["spec"]["containers"][0]["env"] = json!(env);
        }
        if !labels.is_empty() {
            out["metadata"]["labels"] = json!(labels);
        }
        if let Some(n) = replicas {
            out["spec"]["replicas"] = json!(n);
        }
        out
    })
}

proptest! {
    #[test]
    fn applying_is_idempotent_and_holds_what_was_applied(
        steps in proptest::collection::vec((any_config(), 0..3_usize, any::<bool>()), 1..8)
    ) {
        let schema = deployment();
        let mut object: Option<Value> = None;
        for (config, who, plain) in steps {
            let who = ["one", "two", "three"][who];
            if plain && let Some(current) = &object {
                let mut new = current.clone();
                new["metadata"]["labels"] = config["metadata"]["labels"].clone();
                object = Some(updated(Some(current), new, who));
                continue;
            }
            let new = apply(object.as_ref(), &config, |_| false, by(who), true, &schema).unwrap();
            // All that was applied is there.
            let wanted = strip(typed::fields_of(&config, Some(&schema)));
            prop_assert!(wanted.difference(&typed::fields_of(&new, Some(&schema))).is_empty());
            let again = apply(Some(&new), &config, |_| false, by(who), false, &schema).unwrap();
            prop_assert_eq!(&again, &new);
            // Whatever is owned by an apply exists.
            for (id, owned) in Managed::read(managed_fields(&new)).unwrap().0 {
                if !id.update {
                    let there = typed::with_parents(&typed::fields_of(&new, Some(&schema)), Some(&schema), &new);
                    prop_assert!(owned.fields.difference(&there).is_empty());
                }
            }
            object = Some(new);
        }
    }

    #[test]
    fn a_lone_manager_gets_exactly_what_it_applies(first in any_config(), second in any_config()) {
        let one = applied(None, first, "one");
        let mut two = applied(Some(&one), second.clone(), "one");
        take_managed_fields(&mut two);
        let fresh = typed::fields_of(&second, Some(&deployment()));
        prop_assert_eq!(typed::fields_of(&two, Some(&deployment())).difference(&fresh).paths(), Vec::<String>::new());
    }
}
