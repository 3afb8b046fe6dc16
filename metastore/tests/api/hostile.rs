//! Bad input costs its sender an error: the answer has the status that a real server gives, and the next request is served.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use metastore::api::ApiBody;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{Api, admin};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn status(api: &Api, method: &str, path: &str, content_type: &str, body: impl Into<Bytes>) -> u16 {
    answer(api, method, path, content_type, body).await.status().as_u16()
}

/// Whether an answer is a 500 that says that something broke, not one of those that other servers give for nonsense too.
async fn is_broken(answer: Response<ApiBody>) -> bool {
    answer.status().as_u16() >= 500
        && serde_json::from_slice::<Value>(&answer.into_body().collect().await.unwrap().to_bytes())
            .is_ok_and(|status| status.get("reason").is_some())
}

async fn answer(api: &Api, method: &str, path: &str, content_type: &str, body: impl Into<Bytes>) -> Response<ApiBody> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content_type)
        .body(Full::new(body.into()))
        .unwrap();
    request.extensions_mut().insert(admin());
    api.send(request).await
}

#[tokio::test]
async fn each_excess_has_its_status() {
    let api = Api::start().await;
    api.config_map("a", json!({})).await;
    let a = format!("{MAPS}/a");
    let json = "application/json";
    assert_eq!(status(&api, "POST", MAPS, json, vec![b' '; 4 << 20]).await, 413);
    assert_eq!(status(&api, "POST", MAPS, json, "[".repeat(10_000)).await, 400);
    assert_eq!(
        status(
            &api,
            "POST",
            MAPS,
            json,
            format!("{}1{}", "{\"a\":".repeat(5000), "}".repeat(5000))
        )
        .await,
        400
    );
    assert_eq!(status(&api, "POST", MAPS, json, "[]").await, 400);
    assert_eq!(status(&api, "POST", MAPS, json, "").await, 400);
    assert_eq!(status(&api, "POST", MAPS, json, r#"{"metadata":[]}"#).await, 400);
    assert_eq!(
        status(&api, "POST", MAPS, json, r#"{"metadata":{"name":{}}}"#).await,
        400
    );
    assert_eq!(
        status(&api, "POST", MAPS, "application/vnd.kubernetes.protobuf", "k8s\0\u{0}").await,
        400
    );
    assert_eq!(status(&api, "POST", MAPS, "application/yaml", "a: &a [*a]").await, 400);
    let huge = json!({"metadata": {"name": "big"}, "data": {"x": "y".repeat(2 << 20)}});
    assert_eq!(status(&api, "POST", MAPS, json, huge.to_string()).await, 422);
    assert_eq!(
        status(
            &api,
            "GET",
            &format!("{MAPS}?labelSelector={}", "a,".repeat(20_000)),
            "",
            ""
        )
        .await,
        400
    );
    assert_eq!(
        status(&api, "GET", &format!("{MAPS}?fieldSelector=%ff"), "", "").await,
        400
    );
    let patch = "application/json-patch+json";
    let many: Vec<Value> = (0..10_001)
        .map(|_| json!({"op": "test", "path": "", "value": 1}))
        .collect();
    assert_eq!(status(&api, "PATCH", &a, patch, json!(many).to_string()).await, 413);
    let mut copies = vec![json!({"op": "add", "path": "/data/x", "value": "y".repeat(1000)})];
    copies.extend((0..9000).map(|i| json!({"op": "copy", "from": "/data", "path": format!("/data/c{i}")})));
    assert_eq!(status(&api, "PATCH", &a, patch, json!(copies).to_string()).await, 422);
    assert_eq!(
        status(&api, "PATCH", &a, "application/merge-patch+json", "null").await,
        400
    );
    assert_eq!(
        status(&api, "PATCH", &a, "application/apply-patch+yaml", "{}").await,
        422
    );
    assert_eq!(
        status(&api, "PATCH", MAPS, "application/merge-patch+json", "{}").await,
        405
    );
    assert_eq!(status(&api, "PUT", MAPS, json, "{}").await, 405);
    assert_eq!(status(&api, "OPTIONS", MAPS, "", "").await, 405);
    assert_eq!(status(&api, "POST", &format!("{a}/nosuch"), json, "{}").await, 404);
    assert_eq!(
        status(&api, "GET", "/api/v1/namespaces/default/namespaces/x", "", "").await,
        404
    );
    assert_eq!(status(&api, "GET", &a, "", "").await, 200);
}

#[tokio::test]
async fn a_node_in_a_namespace_and_a_map_without_one_are_not_there() {
    let api = Api::start().await;
    assert_eq!(
        status(&api, "GET", "/api/v1/namespaces/default/nodes/n", "", "").await,
        404
    );
    assert_eq!(
        status(&api, "POST", "/api/v1/configmaps", "application/json", "{}").await,
        405
    );
    assert_eq!(status(&api, "GET", "/api/v1/configmaps/a", "", "").await, 404);
    assert_eq!(status(&api, "GET", "/api/v1/configmaps", "", "").await, 200);
}

/// Any JSON of a few levels.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z$./]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        let key = prop_oneof![
            "[a-z]{1,6}",
            Just("metadata".to_owned()),
            Just("name".to_owned()),
            Just("spec".to_owned()),
            Just("containers".to_owned()),
            Just("$patch".to_owned()),
            Just("$setElementOrder/containers".to_owned()),
            Just("finalizers".to_owned()),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(key, inner, 0..5).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

#[test]
fn whatever_comes_is_answered() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let api = runtime.block_on(async {
        let api = Api::start().await;
        api.config_map("a", json!({})).await;
        let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        api.call("POST", "/apis/apps/v1/namespaces/default/deployments", deployment)
            .await;
        api
    });
    let words = prop_oneof![
        Just("api"),
        Just("apis"),
        Just("v1"),
        Just("namespaces"),
        Just("default"),
        Just("configmaps"),
        Just("a"),
        Just("apps"),
        Just("deployments"),
        Just("d"),
        Just("scale"),
        Just("status"),
        Just("%00"),
        Just("%2e%2e"),
        Just("test.io"),
        Just("widgets"),
        Just("customresourcedefinitions"),
        Just("apiextensions.k8s.io"),
        Just("openapi"),
        Just("v3"),
    ];
    let paths = prop::collection::vec(words, 0..8).prop_map(|w| format!("/{}", w.join("/")));
    let queries = "(labelSelector|fieldSelector|continue|limit|resourceVersion|dryRun|x)=[a-z0-9=!,()%+ ]{0,20}"
        .prop_map(|q| q.replace(' ', "+"));
    let methods = prop_oneof![Just("GET"), Just("POST"), Just("PUT"), Just("PATCH"), Just("DELETE")];
    let media = prop_oneof![
        Just("application/json"),
        Just("application/merge-patch+json"),
        Just("application/strategic-merge-patch+json"),
        Just("application/json-patch+json"),
        Just("application/yaml"),
        Just("application/vnd.kubernetes.protobuf"),
    ];
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 400,
        ..ProptestConfig::default()
    });
    runner
        .run(
            &(methods, paths, queries, media, any_json()),
            |(method, path, query, media, body)| {
                let target = format!("{path}?{query}");
                if target.parse::<http::Uri>().is_err() {
                    return Ok(());
                }
                let code = runtime.block_on(status(&api, method, &target, media, body.to_string()));
                prop_assert!((200..500).contains(&code), "{method} {target} {media} {body}: {code}");
                Ok(())
            },
        )
        .unwrap();
    // Patches of what is there, where most of the logic is.
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 300,
        ..ProptestConfig::default()
    });
    runner
        .run(&any_json(), |body| {
            let target = "/apis/apps/v1/namespaces/default/deployments/d?dryRun=All";
            let media = "application/strategic-merge-patch+json";
            let broken = runtime.block_on(async {
                let body = json!({"spec": {"template": {"spec": body}}}).to_string();
                is_broken(answer(&api, "PATCH", target, media, body).await).await
            });
            prop_assert!(!broken);
            Ok(())
        })
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn lists_that_nobody_reads_hold_a_bounded_amount() {
    let api = Api::with(|_| (), |b| b.answer_memory(64 * 1024)).await;
    for i in 0..3 {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("big-{i}")}, "data": {"a": "x".repeat(20_000)}});
        assert_eq!(api.call("POST", MAPS, map).await.0, 201);
    }
    let first = answer(&api, "GET", MAPS, "", "").await;
    assert_eq!(first.status(), 200);
    // The first one's bytes wait for their reader: there is no room for another.
    assert_eq!(status(&api, "GET", MAPS, "", "").await, 429);
    drop(first);
    // What a watch begins with waits as well.
    let watch = answer(&api, "GET", &format!("{MAPS}?watch=1&resourceVersion=0"), "", "").await;
    assert_eq!(status(&api, "GET", MAPS, "", "").await, 429);
    drop(watch);
    assert_eq!(status(&api, "GET", MAPS, "", "").await, 200);
}
