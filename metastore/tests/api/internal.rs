//! The write path for callers in the same process.

use metastore::api::{DeleteOptions, Parts, ResourceId, User};
use serde_json::{Value, json};

use crate::support::{Api, version};

fn device(size: i64, ready: i64) -> Value {
    json!({"apiVersion": "test.io/v1", "kind": "Widget", "metadata": {"name": "w", "namespace": "plant", "labels": {"a": "b"}},
        "spec": {"size": size}, "status": {"ready": ready}})
}

#[tokio::test]
async fn applying_makes_it_so_once() {
    let api = Api::start().await;
    let me = User::internal();
    let id = ResourceId::new("test.io", "widgets", "plant", "w");
    let made = api
        .server
        .apply_internal(&me, device(1, 1), Parts::Whole)
        .await
        .unwrap();
    assert!(made.changed);
    let first = made.object.value().unwrap();
    assert_eq!(first["status"]["ready"], 1, "whole: the status too");
    assert_eq!(
        api.get("/api/v1/namespaces/plant").await.0,
        200,
        "its namespace was made"
    );

    let same = api
        .server
        .apply_internal(&me, device(1, 1), Parts::Whole)
        .await
        .unwrap();
    assert!(!same.changed);
    assert_eq!(same.object.revision, made.object.revision);

    let main = api.server.apply_internal(&me, device(2, 9), Parts::Main).await.unwrap();
    let value = main.object.value().unwrap();
    assert_eq!(
        (&value["spec"]["size"], &value["status"]["ready"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(value["metadata"]["uid"], first["metadata"]["uid"]);
    let status = api
        .server
        .apply_internal(&me, device(7, 9), Parts::Status)
        .await
        .unwrap();
    let value = status.object.value().unwrap();
    assert_eq!(
        (&value["spec"]["size"], &value["status"]["ready"]),
        (&json!(2), &json!(9))
    );

    let invalid = api
        .server
        .apply_internal(&me, device(99, 1), Parts::Whole)
        .await
        .unwrap_err();
    assert_eq!(invalid.code, 422);
    assert!(
        api.server
            .delete_internal(&me, &id, &DeleteOptions::default())
            .await
            .unwrap()
    );
    assert!(
        !api.server
            .delete_internal(&me, &id, &DeleteOptions::default())
            .await
            .unwrap()
    );
    let absent = api
        .server
        .apply_internal(&me, device(1, 1), Parts::Status)
        .await
        .unwrap_err();
    assert_eq!(absent.code, 404);
}

#[tokio::test]
async fn modify_sees_the_newest_and_may_refuse() {
    let api = Api::start().await;
    let me = User::internal();
    let id = ResourceId::new("test.io", "widgets", "plant", "w");
    api.server
        .apply_internal(&me, device(1, 1), Parts::Whole)
        .await
        .unwrap();
    let counted = (0..8).map(|_| {
        let (server, me, id) = (api.server.clone(), me.clone(), id.clone());
        tokio::spawn(async move {
            server
                .modify(&me, &id, "", |w| {
                    let n = w["spec"]["size"].as_i64().unwrap();
                    w["spec"]["size"] = json!(n + 1);
                    Ok(())
                })
                .await
                .unwrap()
        })
    });
    for task in counted.collect::<Vec<_>>() {
        assert!(task.await.unwrap().changed);
    }
    let w = api.server.get(&id).unwrap().unwrap();
    assert_eq!(w.value().unwrap()["spec"]["size"], 9);
    assert_eq!(version(&w.value().unwrap()), w.revision);
    let refused = api
        .server
        .modify(&me, &id, "", |_| Err(metastore::api::Status::bad_request("no")))
        .await
        .unwrap_err();
    assert_eq!(refused.message, "no");
    let unknown = ResourceId::new("nope.io", "things", "", "x");
    assert_eq!(api.server.get(&unknown).unwrap_err().code, 404);
}

/// The service is what clients of any tower stack take, kube's among them.
#[tokio::test]
async fn the_server_is_a_tower_service() {
    async fn ask<S, B>(mut service: S) -> u16
    where
        S: tower::Service<http::Request<http_body_util::Full<bytes::Bytes>>, Response = http::Response<B>>
            + Send
            + 'static,
        S::Future: Send + 'static,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut request = http::Request::get("/version")
            .body(http_body_util::Full::new(bytes::Bytes::new()))
            .unwrap();
        request.extensions_mut().insert(User::internal());
        service
            .call(request)
            .await
            .map_err(Into::into)
            .unwrap()
            .status()
            .as_u16()
    }
    let api = Api::start().await;
    assert_eq!(ask(api.server.clone()).await, 200);
}
