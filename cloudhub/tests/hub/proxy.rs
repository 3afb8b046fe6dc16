//! `/clusters/<node>/…` through a gateway's link.

use std::sync::Arc;

use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::json;

use crate::gateway::{Gateway, enrol};
use crate::world::{World, eventually};

#[tokio::test]
async fn a_question_is_answered_by_the_gateway_under_the_callers_name() {
    let world = World::start().await;
    let enrolled = enrol(&world.admin.token(json!({})).await, "gw-1").await.unwrap();
    let not_there = world.admin.get("/clusters/gw-1/api/v1/nodes").await.unwrap_err();
    assert_eq!(not_there.0, 503, "{}", not_there.1);
    assert_eq!(
        world.admin.get("/clusters/nobody/api/v1/nodes").await.unwrap_err().0,
        404
    );
    let gateway = Gateway::online(&enrolled, &Arc::default()).await;
    let said = world.admin.get("/clusters/gw-1/api/v1/nodes?limit=5").await.unwrap();
    assert_eq!(said["target"], "/api/v1/nodes?limit=5");
    assert_eq!(said["user"], json!(["kurator-admin"]));
    assert!(
        said["groups"].as_array().unwrap().contains(&json!("system:masters")),
        "{said}"
    );
    let said = world
        .admin
        .ask(
            Method::POST,
            "/clusters/gw-1/x",
            "application/json",
            Some(&json!({"a": 1})),
        )
        .await
        .unwrap();
    assert_eq!(said["method"], "POST");
    // An administrator may act as somebody else, as on any Kubernetes API.
    let request = Request::get("/clusters/gw-1/api")
        .header("impersonate-user", "bob")
        .header("impersonate-group", "dev");
    let said: serde_json::Value = world.admin.0.request(request.body(Vec::new()).unwrap()).await.unwrap();
    assert_eq!((&said["user"], &said["groups"]), (&json!(["bob"]), &json!(["dev"])));
    // A stream passes through.
    let request = Request::get("/clusters/gw-1/stream")
        .body(kube::client::Body::empty())
        .unwrap();
    let answer = world.admin.0.send(request).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "one\ntwo\n");
    gateway.leave().await;
    eventually("the hub to notice", async || {
        world.admin.node("gw-1").await.filter(|n| n["connected"] == false)
    })
    .await;
    assert_eq!(world.admin.get("/clusters/gw-1/api").await.unwrap_err().0, 503);
}
