//! Definitions that people create: several versions, changes that take effect at once, names, and rules where somebody evaluates them.

use std::sync::Arc;

use metastore::api::{Cause, RuleEngine, Rules, Spent, Verdict};
use serde_json::{Value, json};

use crate::support::Api;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const GADGETS: &str = "/apis/x.io/v1/namespaces/default/gadgets";

fn definition(versions: Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "gadgets.x.io"},
        "spec": {"group": "x.io", "scope": "Namespaced", "names": {"plural": "gadgets", "kind": "Gadget"}, "versions": versions}})
}

fn version(name: &str, storage: bool, spec: Value) -> Value {
    json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object",
        "properties": {"spec": {"type": "object", "properties": spec}}}}})
}

fn gadget(version: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("x.io/{version}"), "kind": "Gadget", "metadata": {"name": name}, "spec": spec})
}

async fn define(api: &Api, versions: Value) {
    let (status, body) = api.call("POST", DEFINITIONS, definition(versions)).await;
    assert_eq!(status, 201, "{body}");
}

async fn redefine(api: &Api, versions: Value) -> (u16, Value) {
    let path = format!("{DEFINITIONS}/gadgets.x.io");
    api.patch(&path, json!({"spec": {"versions": versions}})).await
}

fn fields(body: &Value) -> Vec<&str> {
    let causes = body["details"]["causes"].as_array().unwrap();
    causes.iter().map(|c| c["field"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn each_version_shows_what_it_knows_of_what_is_stored() {
    let api = Api::start().await;
    let old = || {
        version(
            "v1",
            true,
            json!({"a": {"type": "string", "default": "d"}, "old": {"type": "integer"}}),
        )
    };
    let new = || {
        version(
            "v2",
            false,
            json!({"a": {"type": "string"}, "new": {"type": "integer"}}),
        )
    };
    define(&api, json!([old(), new()])).await;
    let v2 = "/apis/x.io/v2/namespaces/default/gadgets";
    let (_, body) = api.call("POST", GADGETS, gadget("v1", "x", json!({"old": 1}))).await;
    assert_eq!(body["spec"], json!({"a": "d", "old": 1}));
    let (_, body) = api.get(&format!("{v2}/x")).await;
    assert_eq!(
        (&body["apiVersion"], &body["spec"]),
        (&json!("x.io/v2"), &json!({"a": "d"}))
    );
    // What the stored version has no place for is lost.
    let (_, body) = api.call("POST", v2, gadget("v2", "y", json!({"new": 1}))).await;
    assert_eq!(body["spec"], json!({"a": "d"}));
    // A version that may be stored cannot be removed, until somebody says that it is not.
    let stored = |mut v: Value, storage: bool| {
        v["storage"] = json!(storage);
        v
    };
    assert_eq!(
        redefine(&api, json!([stored(old(), false), stored(new(), true)]))
            .await
            .0,
        200
    );
    let (status, body) = redefine(&api, json!([stored(new(), true)])).await;
    assert_eq!((status, fields(&body)), (422, vec!["status.storedVersions[0]"]));
    let (_, body) = api.get(&format!("{GADGETS}/x")).await;
    assert_eq!(body["spec"], json!({"a": "d", "old": 1}));
    let path = format!("{DEFINITIONS}/gadgets.x.io/status");
    assert_eq!(
        api.patch(&path, json!({"status": {"storedVersions": ["v2"]}})).await.0,
        200
    );
    assert_eq!(redefine(&api, json!([stored(new(), true)])).await.0, 200);
    assert_eq!(api.get(GADGETS).await.0, 404);
    assert_eq!(api.get(&format!("{v2}/x")).await.1["spec"], json!({"a": "d"}));
}

#[tokio::test]
async fn a_changed_schema_holds_at_once_for_reads_and_ends_watches() {
    let api = Api::start().await;
    define(
        &api,
        json!([version(
            "v1",
            true,
            json!({"a": {"type": "string"}, "b": {"type": "integer"}})
        )]),
    )
    .await;
    api.call("POST", GADGETS, gadget("v1", "x", json!({"a": "long", "b": 1})))
        .await;
    let mut watch = api.watch(&format!("{GADGETS}?watch=1")).await;
    assert_eq!(watch.short().await, ("ADDED".into(), "x".into()));
    // What is no part of the rows changes nothing for watchers.
    let path = format!("{DEFINITIONS}/gadgets.x.io");
    api.patch(&path, json!({"metadata": {"labels": {"a": "b"}}})).await;
    api.call("POST", GADGETS, gadget("v1", "y", json!({}))).await;
    assert_eq!(watch.short().await, ("ADDED".into(), "y".into()));
    let schema = json!({"a": {"type": "string", "maxLength": 2}, "c": {"type": "integer", "default": 7}});
    assert_eq!(redefine(&api, json!([version("v1", true, schema)])).await.0, 200);
    assert!(watch.next().await.is_none());
    let shaped = json!({"a": "long", "c": 7});
    assert_eq!(api.get(&format!("{GADGETS}/x")).await.1["spec"], shaped);
    assert_eq!(api.get(GADGETS).await.1["items"][0]["spec"], shaped);
    let mut watch = api.watch(&format!("{GADGETS}?watch=1")).await;
    assert_eq!(watch.next().await.unwrap()["object"]["spec"], shaped);
    // What was wrong before and does not change is not refused.
    assert_eq!(
        api.patch(&format!("{GADGETS}/x"), json!({"spec": {"c": 8}})).await.0,
        200
    );
    let (status, body) = api
        .patch(&format!("{GADGETS}/x"), json!({"spec": {"a": "other"}}))
        .await;
    assert_eq!((status, fields(&body)), (422, vec!["spec.a"]));
}

#[tokio::test]
async fn a_definition_that_nobody_is_served_by_takes_its_objects_along() {
    let api = Api::start().await;
    define(&api, json!([version("v1", true, json!({}))])).await;
    api.call("POST", GADGETS, gadget("v1", "x", json!({}))).await;
    let mut unserved = version("v1", true, json!({}));
    unserved["served"] = json!(false);
    assert_eq!(redefine(&api, json!([unserved])).await.0, 200);
    assert_eq!(api.get(GADGETS).await.0, 404);
    let path = format!("{DEFINITIONS}/gadgets.x.io");
    let (_, body) = api.call("DELETE", &path, Value::Null).await;
    assert_eq!(body["status"]["conditions"][2]["type"], "Terminating");
    while api.get(&path).await.0 != 404 {
        tokio::task::yield_now().await;
    }
    define(&api, json!([version("v1", true, json!({}))])).await;
    assert_eq!(api.get(GADGETS).await.1["items"], json!([]));
}

/// Takes one rule only, and finds objects wrong that say so.
#[derive(Debug)]
struct Engine;

impl RuleEngine for Engine {
    fn compile(&self, schema: &Value, path: &str) -> Result<Option<Arc<dyn Rules>>, Vec<Cause>> {
        match schema
            .pointer("/x-kubernetes-validations/0/rule")
            .and_then(Value::as_str)
        {
            None => Ok(None),
            Some("known") => Ok(Some(Arc::new(Self))),
            Some(other) => Err(vec![Cause::invalid(format!("{path}.rule"), other, "unknown")]),
        }
    }
}

impl Rules for Engine {
    fn check(&self, new: &Value, old: Option<&Value>, budget: u64) -> Result<Verdict, Spent> {
        let mut verdict = Verdict::default();
        let slow = new.pointer("/spec/slow") == Some(&json!(true));
        if new.pointer("/spec/bad") == Some(&json!(true)) {
            let cause = Cause::forbidden("spec.bad", "bad");
            if old.is_some_and(|o| o.get("spec") == new.get("spec")) {
                verdict.warnings.push(cause.message);
            } else {
                verdict.causes.push(cause);
            }
        }
        if slow && budget < 1_000_000 {
            Err(Spent(verdict))
        } else {
            Ok(verdict)
        }
    }
}

fn ruled(rule: &str) -> Value {
    let mut version = version(
        "v1",
        true,
        json!({"bad": {"type": "boolean"}, "slow": {"type": "boolean"}, "n": {"type": "integer"}}),
    );
    version["schema"]["openAPIV3Schema"]["x-kubernetes-validations"] = json!([{"rule": rule}]);
    json!([version])
}

#[tokio::test]
async fn rules_are_refused_where_nobody_evaluates_them() {
    let api = Api::start().await;
    let (status, body) = api.call("POST", DEFINITIONS, definition(ruled("known"))).await;
    let at = "spec.validation.openAPIV3Schema.x-kubernetes-validations";
    assert_eq!((status, fields(&body)), (422, vec![at]));
    assert!(body["message"].as_str().unwrap().contains("hub"));
}

#[tokio::test]
async fn rules_are_compiled_with_the_definition_and_hold_for_its_objects() {
    let api = Api::with(|_| (), |b| b.rules(Arc::new(Engine))).await;
    let (status, body) = api.call("POST", DEFINITIONS, definition(ruled("what"))).await;
    assert_eq!(
        (status, fields(&body)),
        (422, vec!["spec.validation.openAPIV3Schema.rule"])
    );
    define(&api, ruled("known")).await;
    for slow in [false, true] {
        let spec = json!({"bad": true, "slow": slow});
        let (status, body) = api.call("POST", GADGETS, gadget("v1", "x", spec)).await;
        assert_eq!((status, fields(&body)), (422, vec!["spec.bad"]));
        let name = format!("good-{slow}");
        let (status, _) = api
            .call("POST", GADGETS, gadget("v1", &name, json!({"slow": slow})))
            .await;
        assert_eq!(status, 201);
    }
    // They count on the schema, and are not asked about what it refuses.
    let (_, body) = api
        .call("POST", GADGETS, gadget("v1", "x", json!({"bad": true, "n": "x"})))
        .await;
    assert_eq!(fields(&body), ["spec.n", "<nil>"]);
}
