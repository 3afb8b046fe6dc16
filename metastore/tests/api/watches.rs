//! Watches: what comes first, what a selector makes of a change, what happens to those who come too late.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use crate::support::{Api, admin, version};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn a_watch_without_a_version_begins_with_what_is_there() {
    let api = Api::start().await;
    api.config_map("a", json!({})).await;
    let mut watch = api.watch(&format!("{MAPS}?watch=1")).await;
    assert_eq!(watch.short().await, ("ADDED".into(), "a".into()));
    api.config_map("b", json!({})).await;
    api.patch(&format!("{MAPS}/a"), json!({"data": {"k": "2"}})).await;
    api.call("DELETE", &format!("{MAPS}/b"), Value::Null).await;
    assert_eq!(watch.short().await, ("ADDED".into(), "b".into()));
    assert_eq!(watch.short().await, ("MODIFIED".into(), "a".into()));
    let gone = watch.next().await.unwrap();
    assert_eq!(
        (gone["type"].as_str(), gone["object"]["metadata"]["name"].as_str()),
        (Some("DELETED"), Some("b"))
    );
    assert_eq!(version(&gone["object"]), api.server.store().revision());
}

#[tokio::test]
async fn an_object_that_moves_into_or_out_of_the_selection_is_added_or_deleted() {
    let api = Api::start().await;
    let from = api.config_map("a", json!({"t": "x"})).await;
    let mut watch = api
        .watch(&format!("{MAPS}?watch=1&resourceVersion={from}&labelSelector=t%3Dx"))
        .await;
    let label = |v: &'static str| {
        api.patch(
            "/api/v1/namespaces/default/configmaps/a",
            json!({"metadata": {"labels": {"t": v}}}),
        )
    };
    let out = version(&label("y").await.1);
    label("z").await;
    label("x").await;
    let left = watch.next().await.unwrap();
    assert_eq!(
        (left["type"].as_str(), version(&left["object"])),
        (Some("DELETED"), out)
    );
    assert_eq!(left["object"]["metadata"]["labels"]["t"], "x", "as the client knows it");
    assert_eq!(watch.short().await, ("ADDED".into(), "a".into()));
    api.call("DELETE", &format!("{MAPS}/a"), Value::Null).await;
    assert_eq!(watch.short().await, ("DELETED".into(), "a".into()));
}

#[tokio::test]
async fn initial_events_end_with_a_marked_bookmark() {
    let api = Api::start().await;
    let last = api.config_map("a", json!({})).await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = api.watch(&format!("{MAPS}?{query}&resourceVersion=0")).await;
    assert_eq!(watch.short().await.0, "ADDED");
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(
        mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    assert_eq!(version(&mark["object"]), last);
    assert_eq!(
        (mark["object"]["kind"].as_str(), mark["object"]["apiVersion"].as_str()),
        (Some("ConfigMap"), Some("v1"))
    );

    // Without a version it depends on how the server was built.
    let mut refused = api.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(refused.next().await.unwrap()["type"], "ERROR");
    assert!(refused.next().await.is_none());
    let streams = Api::with(|_| (), |b| b.consistent_stream(true)).await;
    let mut streamed = streams.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(streamed.next().await.unwrap()["type"], "BOOKMARK");
}

#[tokio::test]
async fn too_old_is_gone_and_the_future_is_refused() {
    let small = |o: &mut metastore::store::StoreOptions| {
        o.ring = 4;
        o.log_keep = 4;
    };
    let api = Api::with(small, |b| b).await;
    let first = api.config_map("a", json!({})).await;
    for i in 0..200 {
        api.patch(&format!("{MAPS}/a"), json!({"data": {"k": i.to_string()}}))
            .await;
    }
    api.server.store().tend();
    let mut late = api.watch(&format!("{MAPS}?watch=1&resourceVersion={first}")).await;
    let error = late.next().await.unwrap();
    assert_eq!(
        (error["type"].as_str(), error["object"]["code"].as_u64()),
        (Some("ERROR"), Some(410))
    );
    assert_eq!(error["object"]["reason"], "Expired");
    assert!(late.next().await.is_none());
    let (status, body) = api
        .get(&format!(
            "{MAPS}?resourceVersion=999999&resourceVersionMatch=NotOlderThan"
        ))
        .await;
    assert_eq!(
        (status, body["details"]["causes"][0]["reason"].as_str()),
        (504, Some("ResourceVersionTooLarge"))
    );
}

#[tokio::test]
async fn tables_define_their_columns_once() {
    let api = Api::start().await;
    let from = api.config_map("a", json!({})).await;
    for n in ["1", "2"] {
        api.patch(&format!("{MAPS}/a"), json!({"data": {"n": n}})).await;
    }
    let mut request = http::Request::get(format!("{MAPS}?watch=1&resourceVersion={from}"))
        .header(
            "accept",
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
        )
        .body(http_body_util::Full::new(bytes::Bytes::new()))
        .unwrap();
    request.extensions_mut().insert(crate::support::admin());
    let mut watch = crate::support::Watching::of(api.send(request).await.into_body());
    let first = watch.next().await.unwrap();
    assert_eq!(first["object"]["columnDefinitions"].as_array().unwrap().len(), 3);
    assert_eq!(first["object"]["rows"][0]["cells"][1], 2);
    assert_eq!(watch.next().await.unwrap()["object"]["columnDefinitions"], json!([]));
}

#[tokio::test]
async fn a_watch_ends_at_its_time_and_with_the_server() {
    let drain = daemon::drain::Drain::new();
    let own = drain.clone();
    let api = Api::with(|_| (), |b| b.drain(own)).await;
    let mut short = api.watch(&format!("{MAPS}?watch=1&timeoutSeconds=1")).await;
    assert!(short.next().await.is_none());
    let mut long = api.watch(&format!("{MAPS}?watch=1")).await;
    drain.stop();
    assert!(long.next().await.is_none());
}

#[tokio::test]
async fn one_shown_in_two_groups_is_one_object() {
    let api = Api::start().await;
    let mut watch = api.watch("/apis/events.k8s.io/v1/events?watch=1").await;
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "message": "m", "reason": "R", "type": "Normal"});
    let (status, _) = api.call("POST", "/api/v1/namespaces/default/events", event).await;
    assert_eq!(status, 201);
    let seen = watch.next().await.unwrap();
    assert_eq!(seen["object"]["apiVersion"], "events.k8s.io/v1");
    assert_eq!(
        (&seen["object"]["note"], &seen["object"]["regarding"]["name"]),
        (&json!("m"), &json!("p"))
    );
    let (_, list) = api.get("/api/v1/events?fieldSelector=involvedObject.name%3Dp").await;
    assert_eq!(list["items"][0]["apiVersion"], "v1");
}

#[tokio::test]
async fn all_watchers_of_a_change_send_the_same_bytes() {
    let api = Api::start().await;
    let from = api.config_map("a", json!({})).await;
    let mut bodies = Vec::new();
    for _ in 0..200 {
        let watch = api.watch(&format!("{MAPS}?watch=1&resourceVersion={from}")).await;
        bodies.push(watch.into_body());
    }
    api.patch(&format!("{MAPS}/a"), json!({"data": {"k": "2"}})).await;
    let mut seen = std::collections::BTreeSet::new();
    for body in &mut bodies {
        // What stands before the object, the object, and what stands behind it: no copy of any of them.
        for _ in 0..3 {
            let frame = body.frame().await.unwrap().unwrap();
            let bytes = frame.into_data().unwrap();
            seen.insert((bytes.as_ptr() as usize, bytes.len()));
        }
    }
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_no_more_than_a_batch() {
    let small = |o: &mut metastore::store::StoreOptions| {
        (o.ring, o.ring_bytes, o.log_keep) = (16, 8 << 20, 5);
    };
    let api = Api::with(small, |b| b).await;
    let from = api.config_map("a", json!({})).await;
    let watch = api.watch(&format!("{MAPS}?watch=1&resourceVersion={from}")).await;
    let mut body = watch.into_body();
    for n in 0..6 {
        let data = n.to_string().repeat(200_000);
        api.patch(&format!("{MAPS}/a"), json!({"data": {"k": data}})).await;
    }
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b"{\"type\":\"MODIFIED\""));
    // What was not taken with the first is forgotten meanwhile.
    for n in 0..200 {
        api.patch(&format!("{MAPS}/a"), json!({"data": {"k": n.to_string()}}))
            .await;
    }
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        rest.extend_from_slice(&frame.unwrap().into_data().unwrap());
    }
    let lines = rest.split(|b| *b == b'\n').filter(|l| !l.is_empty()).count();
    assert!(rest.windows(7).any(|w| w == b"\"ERROR\""));
    assert_eq!(lines, 3, "two changes of the batch, and the error");
}

#[tokio::test]
async fn more_watches_than_there_are_places_are_told_to_come_back() {
    let api = Api::start().await;
    let path = format!("{MAPS}?watch=1&resourceVersion={}", api.server.store().revision());
    let mut open = Vec::new();
    let refused = loop {
        let request = http::Request::get(&path)
            .extension(admin())
            .body(Full::new(Bytes::new()));
        let response = api.send(request.unwrap()).await;
        if response.status() != 200 {
            break response;
        }
        open.push(response.into_body());
        assert!(open.len() <= 20_000);
    };
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    assert!(open.len() >= 10_000, "ten thousand watchers are served");
    drop(open.pop());
    let mut again = api.watch(&path).await;
    api.config_map("a", json!({})).await;
    assert_eq!(again.short().await, ("ADDED".into(), "a".into()));
}
