//! Requests as clients make them, through the API.

use std::io::Write as _;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use metastore::api::{ApiBody, ApiServer, MASTERS, ResourceId, User, builtin_kinds};
use metastore::store::StoreOptions;
use serde_json::{Value, json};
use tower::Service as _;

use super::*;

/// A machine without a runtime, on which a pod uses something all the same.
struct Idle;

impl Runs for Idle {
    fn running(&self, _uid: &str) -> Option<crate::pods::Running> {
        None
    }

    fn runtime(&self) -> Option<cri::Runtime> {
        None
    }

    fn usage(&self, _files: bool) -> crate::machine::Later<'_, crate::machine::Usage> {
        let container = crate::machine::ContainerUse {
            name: "app".to_owned(),
            nano_cores: Some(7),
            ..Default::default()
        };
        let pod = |name: &str| crate::machine::PodUse {
            key: Some(crate::cluster::Key::new("default", name)),
            containers: vec![container.clone()],
            ..Default::default()
        };
        let usage = crate::machine::Usage {
            wall_ms: 0,
            window: std::time::Duration::from_secs(2),
            host: crate::machine::Host::default(),
            host_nano_cores: Some(9),
            pods: vec![pod("web"), pod("other")],
        };
        Box::pin(std::future::ready(usage))
    }
}

struct Gateway {
    api: ApiServer,
    user: User,
    folder: tempfile::TempDir,
}

impl Gateway {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(StoreOptions::new(folder.path().join("x.db"))).unwrap();
        let reach = Reach::new("gw".into(), store.clone(), &folder.path().join("logs"));
        let api = ApiServer::builder(store)
            .kinds(builtin_kinds())
            .node_name("gw")
            .connector(Arc::new(reach.clone()))
            .build()
            .await
            .unwrap();
        reach.runs(Arc::new(Idle));
        let user = User::new("me", [MASTERS]);
        api.create(
            &user,
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gw"}}),
        )
        .await
        .unwrap();
        Self { api, user, folder }
    }

    /// A pod with one container, and the folder of its logs.
    async fn pod(&self, status: Value) -> std::path::PathBuf {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"nodeName": "gw", "containers": [{"name": "app", "image": "x"}]}});
        let pod = self.api.create(&self.user, pod).await.unwrap().value().unwrap();
        self.status(status).await;
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let folder = self.folder.path().join(format!("logs/default_web_{uid}/app"));
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    async fn status(&self, mut status: Value) {
        for (field, value) in [("name", "app"), ("image", "x"), ("imageID", "x")] {
            status[field] = value.into();
        }
        status["ready"] = true.into();
        let change = |pod: &mut Value| {
            pod["status"]["containerStatuses"] = json!([status]);
            Ok(())
        };
        let id = ResourceId::new("", "pods", "default", "web");
        self.api.modify(&self.user, &id, "status", change).await.unwrap();
    }

    async fn get(&self, path: &str) -> http::Response<ApiBody> {
        let mut request = Request::get(path).body(Full::<Bytes>::default()).unwrap();
        request.extensions_mut().insert(self.user.clone());
        self.api.clone().call(request).await.unwrap()
    }

    async fn text(&self, path: &str) -> (u16, String) {
        let response = self.get(path).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

const LOG: &str = "/api/v1/namespaces/default/pods/web/log";

fn line(text: &str) -> String {
    format!("2026-11-21T03:11:10.25Z stdout F {text}\n")
}

fn running(restarts: u32) -> Value {
    json!({"state": {"running": {"startedAt": null}}, "restartCount": restarts,
        "lastState": if restarts > 0 { ended(restarts - 1) } else { json!({}) }})
}

fn ended(restarts: u32) -> Value {
    json!({"terminated": {"exitCode": 1, "containerID": format!("containerd://{restarts}")}})
}

/// The next piece of a body, `None` at its end.
async fn piece(response: &mut http::Response<ApiBody>) -> Option<String> {
    let frame = response.body_mut().frame().await?;
    Some(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
}

#[tokio::test]
async fn logs_are_read_through_the_api_whether_anything_runs_or_not() {
    let gateway = Gateway::new().await;
    let folder = gateway
        .pod(json!({"state": {"waiting": {"reason": "ContainerCreating"}}, "restartCount": 0}))
        .await;
    let (status, text) = gateway.text(LOG).await;
    assert_eq!(status, 400);
    assert!(
        text.contains("container \\\"app\\\" in pod \\\"web\\\" is waiting to start: ContainerCreating"),
        "{text}"
    );
    std::fs::write(folder.join("0.log"), line("first")).unwrap();
    std::fs::write(folder.join("1.log"), line("second") + &line("third")).unwrap();
    gateway.status(running(1)).await;
    assert_eq!(gateway.text(LOG).await, (200, "second\nthird\n".to_owned()));
    assert_eq!(
        gateway.text(&format!("{LOG}?tailLines=1")).await,
        (200, "third\n".to_owned())
    );
    assert_eq!(
        gateway.text(&format!("{LOG}?previous=true")).await,
        (200, "first\n".to_owned())
    );
    assert_eq!(gateway.text(&format!("{LOG}?container=other")).await.0, 400);
    // It is over, and can still be read; a reader that follows comes to its end.
    gateway.status(json!({"state": ended(1), "restartCount": 1})).await;
    assert_eq!(
        gateway.text(&format!("{LOG}?follow=true")).await,
        (200, "second\nthird\n".to_owned())
    );
    std::fs::remove_dir_all(&folder).unwrap();
    let (status, text) = gateway.text(LOG).await;
    assert_eq!(status, 404, "{text}");
}

#[tokio::test]
async fn who_follows_sees_what_comes_and_the_end() {
    let gateway = Gateway::new().await;
    let folder = gateway.pod(running(0)).await;
    let mut log = std::fs::File::create(folder.join("0.log")).unwrap();
    log.write_all(line("a").as_bytes()).unwrap();
    let mut followed = gateway.get(&format!("{LOG}?follow=true")).await;
    assert_eq!(piece(&mut followed).await.unwrap(), "a\n");
    log.write_all(line("b").as_bytes()).unwrap();
    assert_eq!(piece(&mut followed).await.unwrap(), "b\n");
    // Rotated, as the agent does it.
    std::fs::rename(folder.join("0.log"), folder.join("0.log.20261121-031110")).unwrap();
    std::fs::write(folder.join("0.log"), line("c")).unwrap();
    assert_eq!(piece(&mut followed).await.unwrap(), "c\n");
    // Written by a container that comes after it: not this one's log.
    std::fs::write(folder.join("1.log"), line("another")).unwrap();
    gateway.status(running(1)).await;
    assert_eq!(piece(&mut followed).await, None);
    // All of it, what was rotated away too.
    assert_eq!(gateway.text(&format!("{LOG}?previous=true")).await.1, "a\nb\nc\n");
}

#[tokio::test]
async fn a_pod_that_goes_ends_who_follows_it() {
    let gateway = Gateway::new().await;
    let folder = gateway.pod(running(0)).await;
    std::fs::write(folder.join("0.log"), line("a")).unwrap();
    let mut followed = gateway.get(&format!("{LOG}?follow=true&tailLines=0")).await;
    let id = ResourceId::new("", "pods", "default", "web");
    let options = metastore::api::DeleteOptions {
        grace: Some(0),
        ..Default::default()
    };
    assert!(gateway.api.delete_internal(&gateway.user, &id, &options).await.unwrap());
    assert_eq!(piece(&mut followed).await, None);
}

#[tokio::test]
async fn without_a_runtime_there_is_a_reason() {
    let gateway = Gateway::new().await;
    gateway.pod(running(0)).await;
    let mut request = Request::post("/api/v1/namespaces/default/pods/web/exec?command=ls&stdout=1")
        .header("connection", "upgrade")
        .header("upgrade", "SPDY/3.1")
        .body(Full::<Bytes>::default())
        .unwrap();
    request.extensions_mut().insert(gateway.user.clone());
    let response = gateway.api.clone().call(request).await.unwrap();
    assert_eq!(response.status().as_u16(), 503);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let status: Value = serde_json::from_slice(&body).unwrap();
    assert!(
        status["message"].as_str().unwrap().contains("no container runtime"),
        "{status}"
    );
}

#[tokio::test]
async fn what_is_used_is_found_listed_and_selected_as_other_kinds_are() {
    let gateway = Gateway::new().await;
    gateway.pod(running(0)).await;
    let id = ResourceId::new("", "pods", "default", "web");
    let label = |pod: &mut Value| {
        pod["metadata"]["labels"] = json!({"app": "web"});
        Ok(())
    };
    gateway.api.modify(&gateway.user, &id, "", label).await.unwrap();
    let get = async |path: &str| {
        let (status, text) = gateway.text(&format!("/apis/metrics.k8s.io/v1beta1{path}")).await;
        (status, serde_json::from_str::<Value>(&text).unwrap())
    };
    let (_, resources) = get("").await;
    let named: Vec<_> = resources["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (&r["name"], &r["verbs"]))
        .collect();
    let verbs = json!(["get", "list"]);
    assert_eq!(named, [(&json!("nodes"), &verbs), (&json!("pods"), &verbs)]);
    let (status, nodes) = get("/nodes").await;
    assert_eq!(
        (status, &nodes["kind"], &nodes["items"][0]["usage"]["cpu"]),
        (200, &json!("NodeMetricsList"), &json!("9n"))
    );
    let (status, one) = get("/namespaces/default/pods/web").await;
    assert_eq!(
        (status, &one["kind"], &one["metadata"]["labels"]["app"]),
        (200, &json!("PodMetrics"), &json!("web"))
    );
    assert_eq!(get("/namespaces/default/pods/absent").await.0, 404);
    assert_eq!(get("/pods").await.1["items"].as_array().unwrap().len(), 2);
    assert_eq!(get("/namespaces/else/pods").await.1["items"], json!([]));
    let (_, selected) = get("/pods?labelSelector=app%3Dweb").await;
    assert_eq!(selected["items"].as_array().unwrap().len(), 1);
    let (status, text) = gateway.text("/api/v1/nodes/gw/proxy/metrics/resource").await;
    assert!(status == 200 && text.contains("pod=\"web\""), "{text}");
    assert_eq!(gateway.text("/api/v1/nodes/gw/proxy/nothing").await.0, 404);
}
