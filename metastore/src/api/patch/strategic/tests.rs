use super::*;
use crate::api::schema::types;
use proptest::prelude::*;
use serde_json::json;

fn patched(mut object: Value, patch: Value) -> Result<Value, u16> {
    let schema = types::named("apps.v1.Deployment").unwrap();
    let (target, patch) = (object.as_object_mut().unwrap(), patch.as_object().unwrap());
    merge(target, patch, Some(&schema)).map_err(|f| Status::from(f).code)?;
    Ok(object)
}

fn pod(spec: Value) -> Value {
    json!({"spec":{"template":{"spec":spec}}})
}

fn names(object: &Value) -> Vec<&str> {
    let list = object.pointer("/spec/template/spec/containers").unwrap();
    let name = |c: &'_ Value| c["name"].as_str().map(|s| s.len());
    assert!(list.as_array().unwrap().iter().all(|c| name(c).is_some()));
    list.as_array()
        .unwrap()
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect()
}

fn abc() -> Value {
    pod(json!({"containers":[{"name":"a","image":"1","env":[{"name":"X","value":"1"}]},{"name":"b"},{"name":"c"}]}))
}

#[test]
fn items_are_merged_by_their_key() {
    let got = patched(
        abc(),
        pod(json!({"containers":[{"name":"a","image":"2","env":[{"name":"Y"}]}]})),
    )
    .unwrap();
    assert_eq!(
        got.pointer("/spec/template/spec/containers/0").unwrap(),
        &json!({"name":"a","image":"2","env":[{"name":"Y"},{"name":"X","value":"1"}]})
    );
    let deleted = patched(
        abc(),
        pod(json!({"containers":[{"$patch":"delete","name":"b"},{"$patch":"delete","name":"z"}]})),
    );
    assert_eq!(names(&deleted.unwrap()), ["a", "c"]);
    let replaced = patched(abc(), pod(json!({"containers":[{"$patch":"replace"},{"name":"n"}]})));
    assert_eq!(names(&replaced.unwrap()), ["n"]);
    let twice = patched(
        abc(),
        pod(json!({"containers":[{"name":"n","image":"1"},{"name":"n","image":"2"}]})),
    )
    .unwrap();
    assert_eq!(twice.pointer("/spec/template/spec/containers/0/image").unwrap(), "2");
}

#[test]
fn order_is_the_patchs_then_the_objects() {
    for (patch, wanted) in [
        (
            json!({"containers":[{"name":"c"},{"name":"a"},{"name":"n"}]}),
            "b c a n",
        ),
        (
            json!({"$setElementOrder/containers":[{"name":"c"},{"name":"a"}]}),
            "b c a",
        ),
        (
            json!({"$setElementOrder/containers":[{"name":"b"},{"name":"a"}]}),
            "b a c",
        ),
        (
            json!({"$setElementOrder/containers":[{"name":"c"},{"name":"n"},{"name":"a"}],"containers":[{"name":"n"}]}),
            "b c n a",
        ),
        (
            json!({"$setElementOrder/containers":[{"name":"a"},{"name":"c"}],"containers":[{"name":"b","$patch":"delete"}]}),
            "a c",
        ),
        (
            json!({"$setElementOrder/containers":[],"containers":[{"name":"n"}]}),
            "a b c n",
        ),
    ] {
        let got = patched(abc(), pod(patch.clone())).unwrap();
        assert_eq!(names(&got).join(" "), wanted, "{patch}");
    }
}

#[test]
fn directives_about_objects() {
    let d = || json!({"spec":{"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":1}},"replicas":2}});
    for (patch, wanted) in [
        (
            json!({"spec":{"strategy":{"$patch":"replace","type":"R"}}}),
            json!({"spec":{"strategy":{"type":"R"},"replicas":2}}),
        ),
        (
            json!({"spec":{"strategy":{"$patch":"delete","type":"R"}}}),
            json!({"spec":{"strategy":{},"replicas":2}}),
        ),
        (
            json!({"spec":{"strategy":{"$retainKeys":["type"],"type":"R"}}}),
            json!({"spec":{"strategy":{"type":"R"},"replicas":2}}),
        ),
        (
            json!({"spec":{"replicas":null,"template":{"spec":{"hostname":null,"affinity":{"$patch":"delete"}}}}}),
            json!({"spec":{"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxSurge":1}},"template":{"spec":{}}}}),
        ),
    ] {
        assert_eq!(patched(d(), patch.clone()), Ok(wanted), "{patch}");
    }
}

#[test]
fn sets_of_values() {
    let f = || json!({"metadata":{"finalizers":["a","b","c"],"labels":{"x":"y"}}});
    let after = |patch: Value| patched(f(), json!({"metadata": patch})).unwrap()["metadata"].clone();
    assert_eq!(
        after(json!({"finalizers":["d","b"]}))["finalizers"],
        json!(["d", "a", "b", "c"])
    );
    assert_eq!(
        after(json!({"$deleteFromPrimitiveList/finalizers":["a","z"],"finalizers":["q"]}))["finalizers"],
        json!(["q", "b", "c"])
    );
    assert_eq!(
        after(json!({"$setElementOrder/finalizers":["c","d","a"],"finalizers":["d"]}))["finalizers"],
        json!(["b", "c", "d", "a"])
    );
    assert_eq!(after(json!({"$deleteFromPrimitiveList/nope":["a"]})), f()["metadata"]);
    assert_eq!(after(json!({"labels":{"x":null,"z":"1"}}))["labels"], json!({"z":"1"}));
}

#[test]
fn refusals_have_the_code_of_a_real_server() {
    for (code, patch) in [
        (500, json!({"$patch":"merge"})),
        (500, json!({"$patch":1})),
        (400, json!({"strategy":{"$retainKeys":["x"],"type":"R"}})),
        (400, json!({"strategy":{"$retainKeys":"type"}})),
        (500, pod(json!({"containers":[{"image":"x"}]}))["spec"].clone()),
        (500, pod(json!({"containers":[{"$patch":"delete"}]}))["spec"].clone()),
        (
            500,
            pod(json!({"containers":[{"$patch":"merge","name":"a"}]}))["spec"].clone(),
        ),
        (
            500,
            pod(json!({"containers":[{"$patch":"replace"},{"image":"x"}]}))["spec"].clone(),
        ),
        (500, pod(json!({"containers":["a"]}))["spec"].clone()),
        (500, pod(json!({"containers":[null]}))["spec"].clone()),
        (500, pod(json!({"containers":[{"name":{}}]}))["spec"].clone()),
        (500, pod(json!({"$setElementOrder/containers":"x"}))["spec"].clone()),
        (500, pod(json!({"$setElementOrder/containers":["x"]}))["spec"].clone()),
        (500, pod(json!({"$setElementOrder/nope":[]}))["spec"].clone()),
        (400, pod(json!({"$setElementOrder":[]}))["spec"].clone()),
        (400, pod(json!({"$deleteFromPrimitiveList":[]}))["spec"].clone()),
        (
            500,
            pod(json!({"$setElementOrder/containers":[{"name":"a"}],"containers":[{"name":"b"}]}))["spec"].clone(),
        ),
    ] {
        let mut object = abc();
        object["spec"]["strategy"] = json!({"type": "RollingUpdate"});
        assert_eq!(patched(object, json!({"spec": patch})), Err(code), "{patch}");
    }
    assert_eq!(
        patched(
            json!({"metadata":{"finalizers":["a"]}}),
            json!({"metadata":{"finalizers":[1]}})
        ),
        Err(500)
    );
    assert_eq!(
        patched(
            json!({"metadata":{"finalizers":[]}}),
            json!({"metadata":{"finalizers":[[]]}})
        ),
        Err(422)
    );
}

#[test]
fn a_long_list_costs_its_length() {
    let item = |i: usize| json!({"name": format!("n{i}"), "value": "v"});
    let env = |from: usize| (from..from + 40_000).map(item).collect::<Vec<_>>();
    let one = |env: Vec<Value>| pod(json!({"containers":[{"name":"a","env":env}]}));
    let got = patched(one(env(0)), one(env(20_000))).unwrap();
    let list = got
        .pointer("/spec/template/spec/containers/0/env")
        .unwrap()
        .as_array()
        .unwrap();
    assert_eq!(list.len(), 60_000);
    assert_eq!(list[0]["name"], "n0");
}

/// What one item of a patch does.
#[derive(Clone, Debug)]
enum Step {
    Set(u8, u8),
    Delete(u8),
}

/// The same by hand, with nothing but linear searches.
fn slow(have: &[(u8, u8)], steps: &[Step], order: Option<&[u8]>) -> Vec<(u8, u8)> {
    let mut merged = have.to_vec();
    for step in steps {
        if let Step::Delete(id) = step {
            merged.retain(|(i, _)| i != id);
        }
    }
    let mut named = Vec::new();
    for step in steps {
        let Step::Set(id, value) = step else { continue };
        named.push(*id);
        match merged.iter_mut().find(|(i, _)| i == id) {
            Some(item) => item.1 = *value,
            None => merged.push((*id, *value)),
        }
    }
    let merged = woven(merged, &named, have);
    order.map_or(merged.clone(), |o| woven(merged, o, have))
}

fn woven(merged: Vec<(u8, u8)>, wanted: &[u8], stood: &[(u8, u8)]) -> Vec<(u8, u8)> {
    let before = |id: u8| stood.iter().position(|(i, _)| *i == id);
    let (mut left, mut right): (Vec<_>, Vec<_>) = merged.into_iter().partition(|(i, _)| !wanted.contains(i));
    right.sort_by_key(|(i, _)| wanted.iter().position(|w| w == i));
    left.sort_by_key(|(i, _)| before(*i).unwrap_or(usize::MAX));
    let mut out = Vec::new();
    while !left.is_empty() || !right.is_empty() {
        let first_left = match (left.first(), right.first()) {
            (Some(_), None) => true,
            (Some(l), Some(r)) => matches!((before(l.0), before(r.0)), (Some(l), Some(r)) if l < r),
            _ => false,
        };
        out.push(if first_left { left.remove(0) } else { right.remove(0) });
    }
    out
}

fn distinct(list: Vec<(u8, u8)>) -> Vec<(u8, u8)> {
    let mut seen = BTreeSet::new();
    list.into_iter().filter(|(id, _)| seen.insert(*id)).collect()
}

proptest! {
    #[test]
    fn lists_merge_as_a_slow_model_does(
        have in prop::collection::vec((0..12_u8, any::<u8>()), 0..10).prop_map(distinct),
        steps in prop::collection::vec(prop_oneof![
            (0..12_u8, any::<u8>()).prop_map(|(i, v)| Step::Set(i, v)),
            (0..12_u8).prop_map(Step::Delete),
        ], 1..8),
        extra in prop::collection::vec(0..12_u8, 0..4),
        ordered in any::<bool>(),
    ) {
        let item = |(id, v): &(u8, u8)| json!({"name": id.to_string(), "value": v.to_string()});
        let steps_json: Vec<Value> = steps.iter().map(|s| match s {
            Step::Set(id, v) => item(&(*id, *v)),
            Step::Delete(id) => json!({"name": id.to_string(), "$patch": "delete"}),
        }).collect();
        let mut container = json!({"name": "a", "env": steps_json});
        // What the patch sets must come in its own order, each once; what it does not may stand anywhere: here in front.
        let mut order: Vec<u8> = Vec::new();
        let set: Vec<u8> = steps.iter().filter_map(|s| if let Step::Set(i, _) = s { Some(*i) } else { None }).collect();
        let unique = set.iter().collect::<BTreeSet<_>>().len() == set.len();
        for id in extra.iter().filter(|i| !set.contains(i)).chain(&set) {
            if !order.contains(id) {
                order.push(*id);
            }
        }
        let ordered = ordered && unique;
        if ordered {
            container["$setElementOrder/env"] = order.iter().map(|i| json!({"name": i.to_string()})).collect();
        }
        let object = pod(json!({"containers":[{"name":"a","env":have.iter().map(item).collect::<Vec<_>>()}]}));
        let got = patched(object, pod(json!({"containers":[container]}))).unwrap();
        let wanted: Vec<Value> = slow(&have, &steps, ordered.then_some(&order)).iter().map(item).collect();
        prop_assert_eq!(got.pointer("/spec/template/spec/containers/0/env").unwrap(), &json!(wanted));
    }

    #[test]
    fn a_merge_never_panics(object in any_object(), patch in any_object()) {
        drop(patched(object, patch));
    }
}

fn any_object() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec![
        "spec",
        "template",
        "containers",
        "name",
        "env",
        "$patch",
        "$retainKeys",
        "$setElementOrder/containers",
        "$setElementOrder/env",
        "$deleteFromPrimitiveList/finalizers",
        "metadata",
        "finalizers",
        "labels",
    ]);
    let leaf = prop_oneof![
        Just(json!(null)),
        Just(json!("replace")),
        Just(json!("delete")),
        "[a-c]{1}".prop_map(Value::from),
        (0..3).prop_map(Value::from),
    ];
    let any = leaf.prop_recursive(6, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..4)
                .prop_map(|m| m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Value>()),
        ]
    });
    any.prop_filter("an object", Value::is_object)
}
