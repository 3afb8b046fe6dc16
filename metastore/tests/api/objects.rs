//! Objects through requests: what the recorded scenarios do not look at.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use metastore::api::{Admission, AdmitContext, MASTERS, Operation, Status, User};
use serde_json::{Value, json};

use crate::support::{Api, WIDGETS, admin, version};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const WIDGETS_PATH: &str = "/apis/test.io/v1/namespaces/default/widgets";

#[tokio::test]
async fn a_get_answers_the_stored_bytes_themselves() {
    let api = Api::start().await;
    api.config_map("a", json!({})).await;
    let id = metastore::api::ResourceId::new("", "configmaps", "default", "a");
    let stored = api.server.get(&id).unwrap().unwrap();
    let mut request = Request::get(format!("{MAPS}/a")).body(Full::new(Bytes::new())).unwrap();
    request.extensions_mut().insert(admin());
    let mut body = api.send(request).await.into_body();
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(frame, stored.json);
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn nobody_is_refused_and_impersonation_is_for_masters() {
    let api = Api::start().await;
    let get = |user| api.call_as(user, "GET", MAPS, "", Value::Null);
    assert_eq!(get(None).await.0, 403);
    assert_eq!(get(Some(User::new("bob", ["dev"]))).await.0, 403);
    assert_eq!(get(Some(admin())).await.0, 200);
    let acting = |user: User, path: &'static str| {
        let mut request = Request::get(path)
            .header("impersonate-user", "bob")
            .body(Full::new(Bytes::new()))
            .unwrap();
        request.extensions_mut().insert(user);
        api.send(request)
    };
    assert_eq!(acting(admin(), MAPS).await.status(), 403);
    assert_eq!(acting(User::new("eve", ["dev"]), "/apis").await.status(), 403);
    assert_eq!(acting(User::new("root", [MASTERS]), "/apis").await.status(), 200);
    let (status, body) = api.call_as(None, "GET", "/healthz", "", Value::Null).await;
    assert_eq!((status, body), (200, Value::Null));
    let (status, body) = get(None).await;
    assert_eq!((status, body["reason"].as_str()), (403, Some("Forbidden")));
}

#[tokio::test]
async fn concurrent_patches_all_count() {
    let api = Arc::new(Api::start().await);
    api.config_map("a", json!({})).await;
    let tasks: Vec<_> = (0..24)
        .map(|i| {
            let api = api.clone();
            tokio::spawn(async move {
                api.patch(&format!("{MAPS}/a"), json!({"data": {format!("k{i}"): "1"}}))
                    .await
                    .0
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), 200);
    }
    let (_, a) = api.get(&format!("{MAPS}/a")).await;
    assert_eq!(a["data"].as_object().unwrap().len(), 25);
}

#[tokio::test]
async fn a_write_that_changes_nothing_takes_no_revision() {
    let api = Api::start().await;
    let before = api.config_map("a", json!({"x": "y"})).await;
    let (status, same) = api.patch(&format!("{MAPS}/a"), json!({"data": {"k": "v"}})).await;
    assert_eq!((status, version(&same)), (200, before));
    let (_, dry) = api
        .patch(&format!("{MAPS}/a?dryRun=All"), json!({"data": {"k": "w"}}))
        .await;
    assert_eq!(dry["data"]["k"], "w");
    assert_eq!(api.get(&format!("{MAPS}/a")).await.1["data"]["k"], "v");
    assert_eq!(api.server.store().revision(), before);
}

#[tokio::test]
async fn definitions_given_at_start_shape_their_objects_and_are_brought_up_to_date() {
    let api = Api::start().await;
    let widget = json!({"apiVersion": "test.io/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"extra": 1}, "status": {"ready": 1}});
    let (status, w) = api.call("POST", WIDGETS_PATH, widget.clone()).await;
    assert_eq!(status, 201);
    assert_eq!(w["spec"], json!({"size": 3}));
    assert!(w.get("status").is_none());
    let (status, w) = api
        .patch(&format!("{WIDGETS_PATH}/w/status"), json!({"status": {"ready": 2}}))
        .await;
    assert_eq!(
        (status, &w["status"], &w["metadata"]["generation"]),
        (200, &json!({"ready": 2}), &json!(1))
    );
    let mut update = widget.clone();
    assert_eq!(
        api.call("PUT", &format!("{WIDGETS_PATH}/w"), update.clone()).await.0,
        422,
        "a version is needed"
    );
    update["metadata"]["resourceVersion"] = w["metadata"]["resourceVersion"].clone();
    update["spec"]["size"] = json!(11);
    assert_eq!(api.call("PUT", &format!("{WIDGETS_PATH}/w"), update).await.0, 422);

    let newer = WIDGETS.replace("maximum: 10", "maximum: 20");
    let store = api.server.store().clone();
    let server = metastore::api::ApiServer::builder(store)
        .crds(&[&newer])
        .build()
        .await
        .unwrap();
    let big = json!({"apiVersion": "test.io/v1", "kind": "Widget", "metadata": {"name": "big", "namespace": "default"}, "spec": {"size": 15}});
    server.create(&admin(), big).await.unwrap();
    let bad = server.kind("test.io", "widgets").unwrap();
    assert_eq!((bad.kind(), bad.namespaced()), ("Widget", true));
    let wrong = metastore::api::ApiServer::builder(api.server.store().clone())
        .crds(&["kind: Pod"])
        .build()
        .await;
    assert!(
        wrong
            .unwrap_err()
            .to_string()
            .contains("expected a CustomResourceDefinition")
    );
}

#[tokio::test]
async fn warnings_name_unknown_fields_unless_ignored() {
    let api = Api::start().await;
    let post = |query: &str, name: &str| {
        let body = json!({"metadata": {"name": name}, "bogus": 1}).to_string();
        let mut request = Request::post(format!("{MAPS}{query}")).body(Full::from(body)).unwrap();
        request.extensions_mut().insert(admin());
        api.send(request)
    };
    let warned = post("", "a").await;
    assert_eq!(warned.status(), 201);
    assert_eq!(warned.headers()["warning"], "299 - \"unknown field \\\"bogus\\\"\"");
    assert!(
        !post("?fieldValidation=Ignore", "b")
            .await
            .headers()
            .contains_key("warning")
    );
    assert_eq!(post("?fieldValidation=Strict", "c").await.status(), 400);
}

#[tokio::test]
async fn secrets_are_not_in_the_file_and_come_back_whole() {
    let api = Api::start().await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "correct horse battery staple"}});
    let (status, s) = api.call("POST", "/api/v1/namespaces/default/secrets", secret).await;
    assert_eq!(status, 201);
    assert_eq!(s["data"]["password"], "Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ==");
    let (_, list) = api.get("/api/v1/secrets").await;
    assert_eq!(list["items"][0]["data"], s["data"]);
}

/// Records what it sees, stamps objects, refuses what is called `no`.
#[derive(Default)]
struct Stamp(Mutex<Vec<(Operation, String, bool)>>);

impl Admission for Stamp {
    fn admit(&self, context: &AdmitContext<'_>, old: Option<&Value>, new: &mut Value) -> Result<(), Status> {
        if context.kind.kind() != "ConfigMap" {
            return Ok(());
        }
        self.0
            .lock()
            .unwrap()
            .push((context.op, context.name.to_owned(), old.is_some()));
        if context.name == "no" {
            return Err(Status::forbidden("", "configmaps", "no", "it is called no"));
        }
        if let Value::Object(map) = new {
            map.insert("data".to_owned(), json!({"stamped by": context.user.name}));
        }
        Ok(())
    }
}

#[tokio::test]
async fn admission_sees_every_write_and_may_change_or_refuse_it() {
    let stamp = Arc::new(Stamp::default());
    let api = Api::with(|_| (), |b| b.admission(stamp.clone())).await;
    let (status, body) = api.call("POST", MAPS, json!({"metadata": {"name": "no"}})).await;
    assert_eq!((status, body["reason"].as_str()), (403, Some("Forbidden")));
    let (status, body) = api.call("POST", MAPS, json!({"metadata": {"name": "a"}})).await;
    // The stamp's key is no key: what an admission writes is validated like everything else.
    assert_eq!((status, body["reason"].as_str()), (422, Some("Invalid")));
    assert_eq!(
        *stamp.0.lock().unwrap(),
        [
            (Operation::Create, "no".to_owned(), false),
            (Operation::Create, "a".to_owned(), false)
        ]
    );
}

#[tokio::test]
async fn pages_are_of_one_version_and_a_forged_token_is_refused() {
    let api = Api::start().await;
    for name in ["a", "b", "c", "d"] {
        api.config_map(name, json!({"odd": if name < "c" { "1" } else { "2" }}))
            .await;
    }
    let (_, first) = api.get(&format!("{MAPS}?limit=2")).await;
    assert_eq!(first["metadata"]["remainingItemCount"], 2);
    let token = first["metadata"]["continue"].as_str().unwrap();
    assert_eq!(api.call("DELETE", &format!("{MAPS}/c"), Value::Null).await.0, 200);
    api.config_map("e", json!({})).await;
    let (status, second) = api.get(&format!("{MAPS}?limit=5&continue={token}")).await;
    assert_eq!(status, 200);
    let names: Vec<&Value> = second["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| &i["metadata"]["name"])
        .collect();
    assert_eq!(names, ["c", "d"], "as it was when the first page was read");
    assert_eq!(api.get(&format!("{MAPS}?limit=2&continue=zz{token}")).await.0, 400);
    let (_, selected) = api.get(&format!("{MAPS}?limit=1&labelSelector=odd%3D2")).await;
    assert_eq!(selected["items"].as_array().unwrap().len(), 1);
    let (_, one) = api
        .get("/api/v1/configmaps?fieldSelector=metadata.name%3Da,metadata.namespace%3Ddefault")
        .await;
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
}
