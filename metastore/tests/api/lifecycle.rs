//! Things that go: namespaces, definitions, objects with finalizers.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Api, WIDGETS};

/// Asks until the path answers 404: emptying runs beside the requests.
async fn until_gone(api: &Api, path: &str) {
    let gone = async {
        while api.get(path).await.0 != 404 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone)
        .await
        .expect("it should go");
}

#[tokio::test]
async fn a_namespace_waits_for_what_holds_something_in_it() {
    let api = Api::start().await;
    api.call("POST", "/api/v1/namespaces", json!({"metadata": {"name": "n"}}))
        .await;
    let held = json!({"metadata": {"name": "held", "finalizers": ["x.io/hold"]}});
    api.call("POST", "/api/v1/namespaces/n/configmaps", held).await;
    api.call(
        "POST",
        "/api/v1/namespaces/n/configmaps",
        json!({"metadata": {"name": "free"}}),
    )
    .await;
    let (status, n) = api.call("DELETE", "/api/v1/namespaces/n", Value::Null).await;
    assert_eq!((status, &n["status"]["phase"]), (200, &json!("Terminating")));
    until_gone(&api, "/api/v1/namespaces/n/configmaps/free").await;
    let (status, body) = api
        .call(
            "POST",
            "/api/v1/namespaces/n/configmaps",
            json!({"metadata": {"name": "late"}}),
        )
        .await;
    assert_eq!(
        (status, body["details"]["causes"][0]["reason"].as_str()),
        (403, Some("NamespaceTerminating"))
    );
    let marked = async {
        let path = "/api/v1/namespaces/n/configmaps/held";
        while !api.get(path).await.1["metadata"]["deletionTimestamp"].is_string() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), marked)
        .await
        .expect("it should be marked");
    let (status, _) = api
        .patch(
            "/api/v1/namespaces/n/configmaps/held",
            json!({"metadata": {"finalizers": null}}),
        )
        .await;
    assert_eq!(status, 200);
    until_gone(&api, "/api/v1/namespaces/n").await;
}

#[tokio::test]
async fn creates_that_race_a_namespace_leave_nothing_behind() {
    let api = Arc::new(Api::start().await);
    for round in 0..5 {
        let ns = format!("race{round}");
        api.call("POST", "/api/v1/namespaces", json!({"metadata": {"name": ns}}))
            .await;
        let path = format!("/api/v1/namespaces/{ns}/configmaps");
        let makers: Vec<_> = (0..8)
            .map(|m| {
                let (api, path) = (api.clone(), path.clone());
                tokio::spawn(async move {
                    for i in 0..20 {
                        api.call("POST", &path, json!({"metadata": {"name": format!("m{m}-{i}")}}))
                            .await;
                    }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        api.call("DELETE", &format!("/api/v1/namespaces/{ns}"), Value::Null)
            .await;
        until_gone(&api, &format!("/api/v1/namespaces/{ns}")).await;
        for maker in makers {
            maker.await.unwrap();
        }
        let (_, left) = api.get(&path).await;
        assert_eq!(left["items"], json!([]), "round {round}");
    }
}

#[tokio::test]
async fn emptying_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = metastore::store::Store::open(crate::support::options(&folder)).unwrap();
    // A namespace that was marked by a server that stopped before it could empty it.
    let tx = metastore::store::Tx::new()
        .put(
            metastore::store::ObjectKey::new("", "namespaces", "", "n"),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "uid": "u", "deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            metastore::store::Expect::Absent,
        )
        .put(
            metastore::store::ObjectKey::new("", "configmaps", "n", "a"),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n", "uid": "v"}}),
            metastore::store::Expect::Absent,
        );
    store.commit(tx).await.unwrap();
    let server = metastore::api::ApiServer::builder(store).build().await.unwrap();
    let id = metastore::api::ResourceId::cluster("", "namespaces", "n");
    let gone = async {
        while server.get(&id).unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone)
        .await
        .expect("it should go");
    let map = metastore::api::ResourceId::new("", "configmaps", "n", "a");
    assert!(server.get(&map).unwrap().is_none());
}

#[tokio::test]
async fn a_definition_takes_its_objects_along_and_can_come_back() {
    let api = Api::start().await;
    let path = "/apis/test.io/v1/namespaces/default/widgets";
    let widget = json!({"apiVersion": "test.io/v1", "kind": "Widget", "metadata": {"name": "w"}});
    assert_eq!(api.call("POST", path, widget.clone()).await.0, 201);
    let definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.test.io";
    assert_eq!(api.call("DELETE", definition, Value::Null).await.0, 200);
    until_gone(&api, definition).await;
    until_gone(&api, path).await;
    let again: Value = serde_saphyr::from_str(WIDGETS).unwrap();
    let (status, _) = api
        .call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", again)
        .await;
    assert_eq!(status, 201);
    assert_eq!(api.get(path).await.1["items"], json!([]));
    assert_eq!(api.call("POST", path, widget).await.0, 201);
}
