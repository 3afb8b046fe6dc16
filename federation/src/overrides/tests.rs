use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "fx", "labels": {"app": "web"}},
        "spec": {"template": {"spec": {
            "initContainers": [{"name": "init", "image": "busybox:1"}],
            "containers": [
                {"name": "web", "image": "nginx:1.21", "args": ["-v", "-x"], "command": ["/web"]},
                {"name": "side", "image": "quay.io/team/side:2"},
            ],
        }}},
    })
}

fn overriders(value: Value) -> Overriders {
    serde_json::from_value(value).unwrap()
}

fn changed(mut object: Value, by: Value) -> Value {
    apply(&mut object, &overriders(by)).unwrap();
    object
}

fn refused(object: &Value, by: Value) -> String {
    let mut changed = object.clone();
    let error = apply(&mut changed, &overriders(by)).unwrap_err();
    assert_eq!(&changed, object, "what fails changes nothing");
    error.to_string()
}

fn pods(object: &Value) -> &Value {
    &object["spec"]["template"]["spec"]
}

#[test]
fn images_of_all_containers_change_or_the_one_that_is_named() {
    let registry =
        json!({"imageOverrider": [{"component": "Registry", "operator": "replace", "value": "mirror.edge.local"}]});
    let object = changed(deployment(), registry.clone());
    assert_eq!(
        pods(&object)["initContainers"][0]["image"],
        "mirror.edge.local/busybox:1"
    );
    assert_eq!(pods(&object)["containers"][0]["image"], "mirror.edge.local/nginx:1.21");
    assert_eq!(pods(&object)["containers"][1]["image"], "mirror.edge.local/team/side:2");

    let object = changed(
        deployment(),
        json!({"imageOverrider": [{"component": "Tag", "operator": "replace", "value": "1.22",
            "predicate": {"path": "/spec/template/spec/containers/0/image"}}]}),
    );
    assert_eq!(pods(&object)["containers"][0]["image"], "nginx:1.22");
    assert_eq!(pods(&object)["containers"][1]["image"], "quay.io/team/side:2");

    let job = json!({"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": {"spec": {"containers": [{"image": "a"}]}}}}}});
    let job = changed(job, registry.clone());
    assert_eq!(
        job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["image"],
        "mirror.edge.local/a"
    );
    let pod = changed(
        json!({"kind": "Pod", "spec": {"containers": [{"image": "a"}, {}, 3, {"image": null}]}}),
        registry.clone(),
    );
    assert_eq!(pod["spec"]["containers"][0]["image"], "mirror.edge.local/a");
    let other = json!({"kind": "Device", "spec": {"containers": [{"image": "a"}]}});
    assert_eq!(
        changed(other.clone(), registry),
        other,
        "of other kinds nothing is known"
    );
}

#[test]
fn an_image_that_cannot_change_is_named() {
    let of = |path: &str, value: &str| {
        refused(
            &deployment(),
            json!({"imageOverrider": [{"component": "Tag", "operator": "replace", "value": value, "predicate": {"path": path}}]}),
        )
    };
    assert_eq!(
        of("/spec/template/spec/containers/7/image", "1"),
        "imageOverrider[0] at \"/spec/template/spec/containers/7/image\": there is no /spec/template/spec/containers/7 in the object; \
         use add, or correct the path"
    );
    assert!(of("/metadata", "1").contains("an object is there and not a text"));
    assert!(of("/spec/template/spec/containers/0/image", "a b").contains("correct the image"));
}

#[test]
fn commands_and_arguments_grow_and_shrink() {
    let object = changed(
        deployment(),
        json!({
            "commandOverrider": [{"containerName": "side", "operator": "add", "value": ["/side"]},
                                 {"containerName": "none", "operator": "add", "value": ["/x"]}],
            "argsOverrider": [{"containerName": "web", "operator": "remove", "value": ["-x"]},
                              {"containerName": "web", "operator": "add", "value": ["--site=s1"]},
                              {"containerName": "side", "operator": "remove", "value": ["-x"]}],
        }),
    );
    assert_eq!(pods(&object)["containers"][0]["args"], json!(["-v", "--site=s1"]));
    assert_eq!(pods(&object)["containers"][0]["command"], json!(["/web"]));
    assert_eq!(pods(&object)["containers"][1]["command"], json!(["/side"]));
    assert_eq!(pods(&object)["containers"][1].get("args"), None);
    let replace = json!({"argsOverrider": [{"containerName": "web", "operator": "replace", "value": ["-y"]}]});
    assert!(refused(&deployment(), replace).contains("add and remove"));
    let mut odd = deployment();
    odd["spec"]["template"]["spec"]["containers"][0]["args"] = json!("-v");
    let add = json!({"argsOverrider": [{"containerName": "web", "operator": "add", "value": ["-y"]}]});
    assert_eq!(
        refused(&odd, add),
        "argsOverrider[0] at \"/spec/template/spec/containers/0/args\": a text is there and not a list; correct the path, or change it \
         with plaintext"
    );
}

#[test]
fn labels_and_annotations_are_added_replaced_and_removed() {
    let object = changed(
        deployment(),
        json!({
            "labelsOverrider": [
                {"operator": "add", "value": {"edge.example/site": "s1", "tier": "a"}},
                {"operator": "replace", "value": {"app": "api", "absent": "x"}},
                {"operator": "remove", "value": {"tier": "", "gone": ""}}],
            "annotationsOverrider": [
                {"operator": "replace", "value": {"absent": "x"}},
                {"operator": "add", "value": {"a/b": "~c"}}],
        }),
    );
    assert_eq!(
        object["metadata"]["labels"],
        json!({"app": "api", "edge.example/site": "s1"})
    );
    assert_eq!(object["metadata"]["annotations"], json!({"a/b": "~c"}));
    let none = changed(
        json!({"kind": "X"}),
        json!({"annotationsOverrider": [{"operator": "remove", "value": {"a": ""}}]}),
    );
    assert_eq!(none["metadata"].get("annotations"), None);
    let add = json!({"labelsOverrider": [{"operator": "add", "value": {"a": "b"}}]});
    assert!(refused(&json!({"metadata": 3}), add.clone()).contains("a number is there and not an object"));
    assert!(refused(&json!({"metadata": {"labels": []}}), add.clone()).contains("\"/metadata/labels\""));
    assert!(refused(&json!("text"), add).contains("a text is there and not an object"));
}

#[test]
fn plaintext_changes_anything_and_has_the_last_word() {
    let object = changed(
        deployment(),
        json!({
            "plaintext": [
                {"path": "/metadata/annotations", "operator": "add", "value": {"site": "s1"}},
                {"path": "/spec/template/spec/containers/0/image", "operator": "replace", "value": "own:1"},
                {"path": "/metadata/labels/app", "operator": "remove"},
                {"path": "/spec/paused", "operator": "add"}],
            "imageOverrider": [{"component": "Tag", "operator": "remove"}],
        }),
    );
    assert_eq!(object["metadata"]["annotations"]["site"], "s1");
    assert_eq!(object["metadata"]["labels"], json!({}));
    assert_eq!(pods(&object)["containers"][0]["image"], "own:1");
    assert_eq!(pods(&object)["containers"][1]["image"], "quay.io/team/side");
    assert_eq!(object["spec"]["paused"], Value::Null);
    assert_eq!(
        refused(
            &deployment(),
            json!({"plaintext": [{"path": "/spec/x/y", "operator": "add", "value": 1}]})
        ),
        "plaintext[0] at \"/spec/x/y\": there is no /spec/x in the object; use add, or correct the path"
    );
    assert!(
        refused(
            &deployment(),
            json!({"plaintext": [{"path": "", "operator": "replace", "value": 1}]})
        )
        .contains("no object")
    );
}

fn config(text: &str) -> Value {
    json!({"kind": "ConfigMap", "data": {"app.conf": text}})
}

#[test]
fn json_within_a_field_is_patched() {
    let by = json!({"fieldOverrider": [{"fieldPath": "/data/app.conf", "json": [
        {"subPath": "/db/host", "operator": "replace", "value": "db.site"},
        {"subPath": "/ports/-", "operator": "add", "value": 81},
        {"subPath": "/old", "operator": "remove"}]}]});
    let object = changed(
        config(r#"{"db":{"host":"db","port":5432},"ports":[80],"old":true}"#),
        by.clone(),
    );
    let text = object["data"]["app.conf"].as_str().unwrap();
    let parsed: Value = serde_json::from_str(text).unwrap();
    assert_eq!(
        parsed,
        json!({"db": {"host": "db.site", "port": 5432}, "ports": [80, 81]})
    );
    let fault = refused(&config("{"), by.clone());
    assert!(
        fault.contains("fieldOverrider[0] at \"/data/app.conf\": the text there is no JSON"),
        "{fault}"
    );
    let fault = refused(&config("{}"), by.clone());
    assert!(fault.contains("within it, at \"/db/host\": there is no /db"), "{fault}");
    assert!(refused(&json!({"data": {"app.conf": 3}}), by).contains("a number is there and not a text"));
    assert!(
        refused(
            &config("{}"),
            json!({"fieldOverrider": [{"fieldPath": "/data/app.conf"}]})
        )
        .contains("either json or yaml")
    );
}

#[test]
#[cfg(feature = "yaml")]
fn yaml_within_a_field_is_patched() {
    let by = json!({"fieldOverrider": [{"fieldPath": "/data/app.conf", "yaml": [
        {"subPath": "/db/host", "operator": "replace", "value": "db.site"},
        {"subPath": "/on", "operator": "add", "value": "yes"},
        {"subPath": "/list/0", "operator": "add", "value": {"a": [1, null]}}]}]});
    let text = "# comment\ndb:\n  host: db # old\n  port: 5432\n  version: \"1.10\"\nlist: []\ntls: true\nratio: 0.5\nmulti: |\n  a\n  b\nmode: 0644\noff: no\n";
    let object = changed(config(text), by.clone());
    let text = object["data"]["app.conf"].as_str().unwrap();
    let parsed: Value = serde_saphyr::from_str(text).unwrap();
    assert_eq!(
        parsed,
        json!({"db": {"host": "db.site", "port": 5432, "version": "1.10"}, "on": "yes", "list": [{"a": [1, null]}], "tls": true,
            "ratio": 0.5, "multi": "a\nb\n", "mode": 420, "off": false}),
        "{text}"
    );
    assert!(
        !text.contains(": yes\n"),
        "readers of YAML 1.1 take a bare yes for true: {text}"
    );
    for odd in ["a: [", "a: 1\n---\nb: 2\n", "a: &x [*x]\n"] {
        assert!(refused(&config(odd), by.clone()).contains("fieldOverrider[0]"), "{odd}");
    }
}

#[test]
#[cfg(not(feature = "yaml"))]
fn without_a_parser_yaml_is_refused() {
    let by =
        json!({"fieldOverrider": [{"fieldPath": "/data/app.conf", "yaml": [{"subPath": "/a", "operator": "remove"}]}]});
    assert!(refused(&config("a: 1"), by).contains("YAML within fields is not read here"));
}

fn cluster<'a>(name: &'a str, labels: &'a BTreeMap<String, String>) -> ClusterView<'a> {
    ClusterView {
        name,
        labels,
        provider: "",
        region: "",
        zones: &[],
        taints: &[],
        ready: true,
        enablements: &|_, _| true,
        available: None,
        being_deleted: false,
    }
}

fn spec(selectors: Value, rules: &[(Value, &str)]) -> OverrideSpec {
    let rules: Vec<Value> = rules
        .iter()
        .map(|(target, label)| {
            let mut rule = json!({"overriders": {"labelsOverrider": [{"operator": "add", "value": {"site": label}}]}});
            if !target.is_null() {
                rule["targetCluster"] = target.clone();
            }
            rule
        })
        .collect();
    serde_json::from_value(json!({"resourceSelectors": selectors, "overrideRules": rules})).unwrap()
}

#[test]
fn the_more_precise_policy_and_that_of_the_namespace_have_the_last_word() {
    let object = deployment();
    let by = |more: Value| {
        let mut selector = json!({"apiVersion": "apps/v1", "kind": "Deployment"});
        selector
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        json!([selector])
    };
    let name = spec(by(json!({"name": "web"})), &[(Value::Null, "name")]);
    let labels = spec(
        by(json!({"labelSelector": {"matchLabels": {"app": "web"}}})),
        &[(Value::Null, "labels")],
    );
    let all = spec(json!([]), &[(Value::Null, "all")]);
    let other = spec(by(json!({"name": "api"})), &[(Value::Null, "other")]);
    let policy = |namespace, name, spec| Policy { namespace, name, spec };
    let none = BTreeMap::new();
    let rules = overriders_for(
        [
            policy(Some("fx"), "n", &all),
            policy(Some("away"), "n", &all),
            policy(None, "a", &name),
            policy(None, "z", &all),
            policy(None, "y", &all),
            policy(None, "b", &labels),
            policy(None, "c", &other),
        ],
        &object,
        &cluster("a", &none),
    );
    let order: Vec<&str> = rules.iter().map(|rule| rule.name).collect();
    assert_eq!(order, ["y", "z", "b", "a", "n"]);
    assert!(applied(&rules, false).unwrap().starts_with(r#"[{"policyName":"a","#));
    assert_eq!(
        applied(&rules, true).unwrap(),
        r#"[{"policyName":"n","overriders":{"labelsOverrider":[{"operator":"add","value":{"site":"all"}}]}}]"#
    );
    assert_eq!(applied(&[], true), None);
    let mut object = object;
    apply_all(&mut object, &rules).unwrap();
    assert_eq!(object["metadata"]["labels"]["site"], "all");
}

#[test]
fn rules_hold_for_their_clusters_only() {
    let two = spec(
        json!([]),
        &[
            (json!({"clusterNames": ["a"]}), "a"),
            (json!({"labelSelector": {"matchLabels": {"hall": "7"}}}), "hall"),
        ],
    );
    let old: OverrideSpec = serde_json::from_value(json!({"targetCluster": {"clusterNames": ["b"]},
        "overriders": {"labelsOverrider": [{"operator": "add", "value": {"old": "b"}}]}}))
    .unwrap();
    let policies = [
        Policy {
            namespace: None,
            name: "two",
            spec: &two,
        },
        Policy {
            namespace: None,
            name: "old",
            spec: &old,
        },
    ];
    let hall = BTreeMap::from([("hall".to_owned(), "7".to_owned())]);
    let none = BTreeMap::new();
    let sites = |name: &str, labels: &BTreeMap<String, String>| {
        let mut object = deployment();
        apply_all(
            &mut object,
            &overriders_for(policies, &deployment(), &cluster(name, labels)),
        )
        .unwrap();
        let labels = &object["metadata"]["labels"];
        (labels["site"].as_str().map(str::to_owned), labels["old"].is_string())
    };
    assert_eq!(sites("a", &none), (Some("a".into()), false));
    assert_eq!(
        sites("a", &hall),
        (Some("hall".into()), false),
        "later rules have the last word"
    );
    assert_eq!(sites("b", &none), (None, true));
}

#[test]
fn errors_name_the_policy_and_leave_the_object() {
    let bad = overriders(json!({"plaintext": [{"path": "/x/y", "operator": "remove"}]}));
    let good = overriders(json!({"labelsOverrider": [{"operator": "add", "value": {"a": "b"}}]}));
    let rule = |namespace, overriders| Applicable {
        namespace,
        name: "fix",
        overriders,
    };
    let mut object = deployment();
    let error = apply_all(&mut object, &[rule(None, &good), rule(Some("fx"), &bad)]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("OverridePolicy fx/fix: plaintext[0] at \"/x/y\": "),
        "{error}"
    );
    assert_eq!(object, deployment());
    let error = apply_all(&mut object, &[rule(None, &bad)]).unwrap_err();
    assert!(error.to_string().starts_with("ClusterOverridePolicy fix: "), "{error}");
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z:/@.~]{0,8}".prop_map(Value::from),
        Just(json!("Deployment")),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let key = prop_oneof![
            "kind",
            "metadata",
            "labels",
            "spec",
            "template",
            "containers",
            "image",
            "name",
            "args",
            "a"
        ];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key, inner, 0..5).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_panics(object in any_value(), value in any_value(), path in "(/(spec|template|containers|image|a|0|-|1|~1|~))*/?") {
        let all = overriders(json!({
            "imageOverrider": [{"component": "Tag", "operator": "add", "value": "x"},
                               {"component": "Registry", "operator": "replace", "value": path, "predicate": {"path": path}}],
            "commandOverrider": [{"containerName": "a", "operator": "add", "value": [path]}],
            "labelsOverrider": [{"operator": "add", "value": {"a": path}}],
            "fieldOverrider": [{"fieldPath": path, "json": [{"subPath": path, "operator": "add", "value": value}]}],
            "plaintext": [{"path": path, "operator": "replace", "value": value}],
        }));
        let mut changed = object.clone();
        if apply(&mut changed, &all).is_err() {
            prop_assert_eq!(&changed, &object);
        }
        for operator in ["add", "remove", "replace"] {
            let one = overriders(json!({"plaintext": [{"path": path, "operator": operator, "value": value}]}));
            let mut changed = object.clone();
            prop_assert!(apply(&mut changed, &one).is_ok() || changed == object);
        }
    }
}
