//! Server-side apply as clients see it.

use serde_json::{Value, json};

use crate::support::{Api, admin};

const A: &str = "/api/v1/namespaces/default/configmaps/a";
const W: &str = "/apis/test.io/v1/namespaces/default/widgets/w";

async fn apply(api: &Api, path: &str, query: &str, config: Value) -> (u16, Value) {
    let path = format!("{path}?{query}");
    api.call_as(Some(admin()), "PATCH", &path, "application/apply-patch+yaml", config)
        .await
}

fn map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

fn entries(object: &Value) -> Vec<(&str, &str, &str)> {
    object["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|e| {
            let text = |f: &str| e.get(f).and_then(Value::as_str).unwrap_or_default();
            (text("manager"), text("operation"), text("subresource"))
        })
        .collect()
}

#[tokio::test]
async fn it_makes_changes_and_leaves_alone() {
    let api = Api::start().await;
    let (status, made) = apply(&api, A, "fieldManager=one", map(json!({"x": "1", "y": "1"}))).await;
    assert_eq!((status, entries(&made)), (201, vec![("one", "Apply", "")]));
    let (status, again) = apply(&api, A, "fieldManager=one", map(json!({"x": "1", "y": "1"}))).await;
    assert_eq!((status, &again), (200, &made), "nothing changed, nothing was written");
    let (_, changed) = apply(&api, A, "fieldManager=one", map(json!({"x": "2"}))).await;
    assert_eq!(changed["data"], json!({"x": "2"}));

    // A patch takes what it changes; the next apply is told.
    let (_, patched) = api
        .patch(&format!("{A}?fieldManager=two"), json!({"data": {"x": "3"}}))
        .await;
    assert_eq!(entries(&patched), [("two", "Update", "")]);
    let (status, refused) = apply(&api, A, "fieldManager=one", map(json!({"x": "2"}))).await;
    assert_eq!(
        (status, &refused["details"]["causes"]),
        (
            409,
            &json!([{"reason": "FieldManagerConflict", "message": "conflict with \"two\" using v1", "field": ".data.x"}])
        )
    );
    let (status, dry) = apply(
        &api,
        A,
        "fieldManager=one&force=true&dryRun=All",
        map(json!({"x": "2"})),
    )
    .await;
    assert_eq!((status, &dry["data"]["x"]), (200, &json!("2")));
    assert_eq!(api.get(A).await.1["data"]["x"], "3");
    let (status, forced) = apply(&api, A, "fieldManager=one&force=true", map(json!({"x": "2"}))).await;
    assert_eq!((status, entries(&forced)), (200, vec![("one", "Apply", "")]));
}

#[tokio::test]
async fn a_status_is_applied_by_its_own_path() {
    let api = Api::start().await;
    let widget = |part: Value| {
        let mut w = json!({"apiVersion": "test.io/v1", "kind": "Widget", "metadata": {"name": "w"}});
        w.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
        w
    };
    let both = widget(json!({"spec": {"size": 4}, "status": {"ready": 9}}));
    let (status, made) = apply(&api, W, "fieldManager=one", both.clone()).await;
    assert_eq!(
        (status, &made["spec"]["size"], made.get("status")),
        (201, &json!(4), None)
    );
    let (status, told) = apply(&api, &format!("{W}/status"), "fieldManager=robot", both).await;
    assert_eq!((status, &told["status"]), (200, &json!({"ready": 9})));
    assert_eq!(entries(&told), [("one", "Apply", ""), ("robot", "Apply", "status")]);
    // The default is nobody's, so that giving the field up brings it back.
    let (status, back) = apply(&api, W, "fieldManager=one", widget(json!({"spec": {}}))).await;
    assert_eq!(
        (status, &back["spec"], &back["status"]["ready"]),
        (200, &json!({"size": 3}), &json!(9))
    );
    let (status, refused) = apply(&api, W, "fieldManager=one", widget(json!({"spec": {"size": 99}}))).await;
    assert_eq!((status, &refused["reason"]), (422, &json!("Invalid")));
}

#[tokio::test]
async fn what_cannot_be_applied_is_refused() {
    let api = Api::start().await;
    let good = || map(json!({"x": "1"}));
    let with = |path: &str, value: Value| {
        let mut config = good();
        *config.pointer_mut(path).unwrap() = value;
        config
    };
    let mut listed = good();
    listed["metadata"]["managedFields"] = json!([{}]);
    let mut identified = good();
    identified["metadata"]["uid"] = json!("0000");
    let mut unknown = good();
    unknown["dat"] = json!({});
    for (query, config, expected) in [
        ("", good(), 422),
        ("fieldManager=one&force=maybe", good(), 201),
        ("fieldManager=one", with("/metadata/name", json!("b")), 400),
        ("fieldManager=one", with("/kind", json!("")), 400),
        ("fieldManager=one", with("/kind", json!("Secret")), 400),
        ("fieldManager=one", listed, 400),
        ("fieldManager=one", unknown, 500),
        ("fieldManager=one", json!([1]), 400),
        (&format!("fieldManager={}", "x".repeat(200)), good(), 422),
    ] {
        let (status, body) = apply(&api, A, query, config).await;
        assert_eq!(status, expected, "{query}: {body}");
        api.call("DELETE", A, Value::Null).await;
    }
    assert_eq!(apply(&api, A, "fieldManager=one", identified).await.0, 409);
    api.config_map("a", json!({})).await;
    let (status, body) = api.patch(&format!("{A}?force=true"), json!({"data": {}})).await;
    assert_eq!((status, &body["details"]["causes"][0]["field"]), (422, &json!("force")));
}
