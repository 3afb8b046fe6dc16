//! Owners and what they own.

use std::sync::Arc;
use std::time::Duration;

use metastore::api::ApiServer;
use metastore::store::Store;
use serde_json::{Value, json};

use crate::support::{Api, options};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn make(api: &Api, name: &str, owners: &[&Value], more: Value) -> Value {
    let references: Vec<Value> = owners.iter().map(|o| reference(o, true)).collect();
    let mut metadata = json!({"name": name, "ownerReferences": references});
    metadata
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let (status, made) = api.call("POST", MAPS, json!({"metadata": metadata})).await;
    assert_eq!(status, 201, "{made}");
    made
}

fn reference(owner: &Value, blocks: bool) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": blocks})
}

fn path(name: &str) -> String {
    format!("{MAPS}/{name}")
}

/// Asks until the answer is the wanted one: the collector runs beside the requests.
async fn until(api: &Api, name: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
    let path = path(name);
    let asked = async {
        loop {
            let (status, body) = api.get(&path).await;
            if wanted(status, &body) {
                return body;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asked)
        .await
        .unwrap_or_else(|_| panic!("{name} should change"))
}

fn gone(status: u16, _: &Value) -> bool {
    status == 404
}

#[tokio::test]
async fn what_is_owned_goes_with_its_last_owner() {
    let api = Api::start().await;
    let a = make(&api, "a", &[], json!({})).await;
    let b = make(&api, "b", &[], json!({})).await;
    let both = make(&api, "both", &[&a, &b], json!({})).await;
    make(&api, "below", &[&both], json!({})).await;
    make(&api, "held", &[&both], json!({"finalizers": ["x.io/hold"]})).await;
    api.call("DELETE", &path("a"), Value::Null).await;
    let left = until(&api, "both", |_, o| {
        o["metadata"]["ownerReferences"].as_array().unwrap().len() == 1
    })
    .await;
    assert_eq!(left["metadata"]["ownerReferences"][0]["name"], "b");
    api.call("DELETE", &path("b"), Value::Null).await;
    until(&api, "both", gone).await;
    until(&api, "below", gone).await;
    until(&api, "held", |_, o| o["metadata"]["deletionTimestamp"].is_string()).await;
    api.patch(&path("held"), json!({"metadata": {"finalizers": null}}))
        .await;
    until(&api, "held", gone).await;
}

#[tokio::test]
async fn orphans_stay_and_lose_their_owner() {
    let api = Api::start().await;
    let a = make(&api, "a", &[], json!({})).await;
    make(&api, "kept", &[&a], json!({})).await;
    let (status, body) = api
        .call(
            "DELETE",
            &format!("{}?propagationPolicy=Orphan", path("a")),
            Value::Null,
        )
        .await;
    assert_eq!((status, &body["metadata"]["finalizers"]), (200, &json!(["orphan"])));
    until(&api, "a", gone).await;
    let kept = api.get(&path("kept")).await.1;
    assert_eq!(kept["metadata"].get("ownerReferences"), None);
}

#[tokio::test]
async fn in_the_foreground_the_owner_waits_for_what_blocks_it() {
    let api = Api::start().await;
    let a = make(&api, "a", &[], json!({})).await;
    make(&api, "held", &[&a], json!({"finalizers": ["x.io/hold"]})).await;
    make(&api, "free", &[&a], json!({})).await;
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Foreground"});
    let (status, body) = api.call("DELETE", &path("a"), options).await;
    assert_eq!(
        (status, &body["metadata"]["finalizers"]),
        (200, &json!(["foregroundDeletion"]))
    );
    until(&api, "free", gone).await;
    until(&api, "held", |_, o| o["metadata"]["deletionTimestamp"].is_string()).await;
    assert_eq!(api.get(&path("a")).await.0, 200, "it waits");
    // Asked again in the background, it goes at once and what it owned later.
    let (status, _) = api
        .call(
            "DELETE",
            &format!("{}?propagationPolicy=Background", path("a")),
            Value::Null,
        )
        .await;
    assert_eq!(status, 200);
    until(&api, "a", gone).await;

    let b = make(&api, "b", &[], json!({})).await;
    make(&api, "held2", &[&b], json!({"finalizers": ["x.io/hold"]})).await;
    api.call(
        "DELETE",
        &format!("{}?propagationPolicy=Foreground", path("b")),
        Value::Null,
    )
    .await;
    until(&api, "held2", |_, o| o["metadata"]["deletionTimestamp"].is_string()).await;
    api.patch(&path("held2"), json!({"metadata": {"finalizers": null}}))
        .await;
    until(&api, "held2", gone).await;
    until(&api, "b", gone).await;
}

#[tokio::test]
async fn an_owner_that_never_was_is_gone_and_one_that_cannot_be_known_is_there() {
    let api = Api::start().await;
    let other = json!({"metadata": {"name": "ghost", "uid": "00000000-0000-0000-0000-000000000000"}});
    make(&api, "lost", &[&other], json!({})).await;
    until(&api, "lost", gone).await;
    // The name is there, as another object.
    let real = make(&api, "real", &[], json!({})).await;
    let mut twin = real.clone();
    twin["metadata"]["uid"] = json!("11111111-0000-0000-0000-000000000000");
    make(&api, "mistaken", &[&twin], json!({})).await;
    until(&api, "mistaken", gone).await;
    let strange = json!([{"apiVersion": "nobody.io/v1", "kind": "Thing", "name": "x", "uid": "2"}]);
    make(&api, "strange", &[], json!({"ownerReferences": strange})).await;
    // Collected after it, so that the collector has passed it.
    make(&api, "lost", &[&other], json!({})).await;
    until(&api, "lost", gone).await;
    assert_eq!(api.get(&path("strange")).await.0, 200);
}

#[tokio::test]
async fn copies_are_left_to_where_they_are_kept() {
    let collects = Arc::new(|key: &metastore::store::ObjectKey| !key.name.starts_with("copy"));
    let api = Api::with(|_| (), |b| b.collects(collects)).await;
    let ghost = json!({"metadata": {"name": "ghost", "uid": "0"}});
    make(&api, "copy", &[&ghost], json!({})).await;
    make(&api, "own", &[&ghost], json!({})).await;
    until(&api, "own", gone).await;
    assert_eq!(api.get(&path("copy")).await.0, 200);
}

#[tokio::test]
async fn what_a_stop_interrupted_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(options(&folder)).unwrap();
    // Without a collector: nobody does anything yet.
    let nobody = Arc::new(|_: &metastore::store::ObjectKey| false);
    let server = ApiServer::builder(store.clone())
        .collects(nobody)
        .build()
        .await
        .unwrap();
    let api = Api::over(server, folder);
    let a = make(&api, "a", &[], json!({})).await;
    make(&api, "owned", &[&a], json!({})).await;
    let c = make(&api, "c", &[], json!({})).await;
    make(&api, "orphaned", &[&c], json!({})).await;
    api.call("DELETE", &path("a"), Value::Null).await;
    api.call(
        "DELETE",
        &format!("{}?propagationPolicy=Orphan", path("c")),
        Value::Null,
    )
    .await;
    assert_eq!(
        (api.get(&path("owned")).await.0, api.get(&path("c")).await.0),
        (200, 200)
    );
    let server = ApiServer::builder(store).build().await.unwrap();
    let api = Api::over(server, api.into_folder());
    until(&api, "owned", gone).await;
    until(&api, "c", gone).await;
    assert_eq!(
        api.get(&path("orphaned")).await.1["metadata"].get("ownerReferences"),
        None
    );
}

#[tokio::test]
async fn what_becomes_of_them_is_said_once_and_in_known_words() {
    let api = Api::start().await;
    make(&api, "a", &[], json!({})).await;
    for query in [
        "propagationPolicy=Never",
        "propagationPolicy=Orphan&orphanDependents=true",
    ] {
        let (status, body) = api.call("DELETE", &format!("{}?{query}", path("a")), Value::Null).await;
        assert_eq!(
            (status, &body["details"]["kind"]),
            (422, &json!("DeleteOptions")),
            "{query}"
        );
    }
    assert_eq!(api.get(&path("a")).await.0, 200);
}
