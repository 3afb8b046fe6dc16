//! `/clusters/<node>/…` through a gateway's link.

use std::sync::Arc;

use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::json;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
    assert_eq!(
        (&said["user"], &said["groups"]),
        (&json!(["bob"]), &json!(["dev", "system:authenticated"]))
    );
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

#[tokio::test]
async fn an_upgraded_connection_goes_through_to_the_gateway_both_ways() {
    let world = World::start().await;
    let enrolled = enrol(&world.admin.token(json!({})).await, "gw-1").await.unwrap();
    let gateway = Gateway::online(&enrolled, &Arc::default()).await;
    let ask = async |path: &str, protocol: &str| {
        let request = Request::get(path)
            .header("connection", "Upgrade")
            .header("upgrade", protocol)
            .body(kube::client::Body::empty())
            .unwrap();
        world.admin.0.send(request).await.unwrap()
    };
    for protocol in ["SPDY/3.1", "websocket"] {
        let answer = ask("/clusters/gw-1/exec?command=sh", protocol).await;
        assert_eq!(answer.status(), 101);
        assert_eq!(answer.headers()["upgrade"], protocol);
        let mut open = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        // Word by word, as a terminal is used.
        for word in ["ls", "pwd"] {
            open.write_all(word.as_bytes()).await.unwrap();
            open.flush().await.unwrap();
            let mut heard = vec![0; word.len()];
            open.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, word.to_ascii_uppercase().as_bytes());
        }
        // And much at once, more than any buffer on the way, while the other direction is full too.
        let (mut reader, mut writer) = tokio::io::split(open);
        let much = vec![b'x'; 4 << 20];
        let mut heard = Vec::new();
        let (sent, read) = tokio::join!(
            async {
                writer.write_all(&much).await?;
                writer.shutdown().await
            },
            reader.read_to_end(&mut heard),
        );
        sent.unwrap();
        read.unwrap();
        assert_eq!(heard.len(), much.len() + 3);
        assert!(heard.starts_with(b"XX") && heard.ends_with(b"Xbye"));
    }
    // One that the gateway does not want is an ordinary answer.
    let answer = ask("/clusters/gw-1/api", "websocket").await;
    assert_eq!(answer.status(), 200);
    // One that is open ends with the link.
    let answer = ask("/clusters/gw-1/exec", "SPDY/3.1").await;
    let mut open = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    gateway.leave().await;
    assert!(matches!(open.read(&mut [0; 8]).await, Ok(0) | Err(_)));
}
