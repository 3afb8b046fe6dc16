//! `/clusters/<site>/…`: several gateways answer as one.

use std::sync::{Arc, Mutex};

use http::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::gateway::{Gateway, Kept, enrol};
use crate::world::{World, eventually};

const PODS: &str = "/api/v1/namespaces/fx/pods";

/// A member of hall-7 whose API has these pods.
async fn member(world: &World, node: &str, pods: &[&str]) -> (Gateway, Arc<Mutex<Kept>>) {
    let token = world
        .admin
        .token(json!({"labels": {"kurator.dev/site": "hall-7"}}))
        .await;
    let enrolled = enrol(&token, node).await.unwrap();
    let kept: Arc<Mutex<Kept>> = Arc::default();
    let pod = |name: &&str| json!({"metadata": {"name": name, "namespace": "fx"}});
    {
        let served = &mut kept.lock().unwrap().served;
        let items: Vec<Value> = pods.iter().map(pod).collect();
        let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "5"}, "items": items});
        served.insert(PODS.to_owned(), list);
        for name in pods {
            served.insert(format!("{PODS}/{name}"), pod(name));
        }
        served.insert("/version".to_owned(), json!({"gitVersion": node}));
    }
    (Gateway::online(&enrolled, &kept).await, kept)
}

/// Two members that are there, and one that is away.
async fn hall(world: &World) -> [(Gateway, Arc<Mutex<Kept>>); 2] {
    let b = member(world, "gw-b", &["web-2", "web-3"]).await;
    let a = member(world, "gw-a", &["web-1", "web-3"]).await;
    let c = member(world, "gw-c", &["web-9"]).await;
    c.0.leave().await;
    eventually("the hub to notice", async || {
        world.admin.node("gw-c").await.filter(|n| n["connected"] == false)
    })
    .await;
    [a, b]
}

fn at(path: &str) -> String {
    format!("/clusters/hall-7{path}")
}

#[tokio::test]
async fn a_list_of_a_site_is_what_all_its_gateways_have() {
    let world = World::start().await;
    let [(a, kept), (b, _)] = hall(&world).await;
    let request = Request::get(at(&format!("{PODS}?limit=1&labelSelector=x&resourceVersion=0")))
        .body(kube::client::Body::empty())
        .unwrap();
    let answer = world.admin.0.send(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(
        answer.headers()["warning"],
        "299 - \"not in this list of site hall-7, not connected: gw-c\""
    );
    let body = http_body_util::BodyExt::collect(answer.into_body())
        .await
        .unwrap()
        .to_bytes();
    let list: Value = serde_json::from_slice(&body).unwrap();
    let all: Vec<(&str, &str)> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| {
            let of = &p["metadata"]["annotations"]["kurator.dev/gateway"];
            (p["metadata"]["name"].as_str().unwrap(), of.as_str().unwrap())
        })
        .collect();
    assert_eq!(
        all,
        [
            ("web-1", "gw-a"),
            ("web-3", "gw-a"),
            ("web-2", "gw-b"),
            ("web-3", "gw-b")
        ]
    );
    assert_eq!(list["metadata"], json!({"resourceVersion": ""}));
    let asked = kept.lock().unwrap().asked.clone();
    assert_eq!(asked, [format!("GET {PODS}?labelSelector=x")]);

    // What one member refuses is missing and said to be; what all refuse is the answer.
    let denied = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "not you"});
    kept.lock().unwrap().served.insert("/api/v1/secrets".to_owned(), denied);
    let refused = world.admin.get(&at("/api/v1/secrets")).await.unwrap_err();
    assert_eq!(refused, (403, "not you".to_owned()));
    assert_eq!(world.admin.get(&at("/api/v1/events")).await.unwrap_err().0, 404);
    a.leave().await;
    b.leave().await;
    eventually("the hub to notice that nobody is left", async || {
        let asked = world.admin.get(&at(PODS)).await;
        asked
            .err()
            .filter(|(code, why)| *code == 503 && why.contains("gw-a, gw-b, gw-c"))
    })
    .await;
}

#[tokio::test]
async fn an_object_of_a_site_is_asked_of_the_gateway_that_has_it() {
    let world = World::start().await;
    let [(a, _), (b, kept)] = hall(&world).await;
    let version = world.admin.get(&at("/version")).await.unwrap();
    assert_eq!(version["gitVersion"], "gw-a", "the first by name");
    let pod = world.admin.get(&at(&format!("{PODS}/web-2"))).await.unwrap();
    assert_eq!(pod["metadata"]["name"], "web-2");
    for (pod, gateway) in [("web-1", "gw-a"), ("web-2", "gw-b"), ("web-3", "gw-a")] {
        let said = world
            .admin
            .get(&at(&format!("{PODS}/{pod}/log?tailLines=5")))
            .await
            .unwrap();
        assert_eq!(said["gateway"], gateway);
        assert_eq!(said["target"], format!("{PODS}/{pod}/log?tailLines=5"));
        assert_eq!(said["user"], json!(["kurator-admin"]));
    }
    let (code, why) = world.admin.get(&at(&format!("{PODS}/web-9"))).await.unwrap_err();
    assert!(code == 503 && why.contains("not connected: gw-c"), "{code} {why}");

    let request = Request::post(at(&format!("{PODS}/web-2/exec?command=sh")))
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .body(kube::client::Body::empty())
        .unwrap();
    let answer = world.admin.0.send(request).await.unwrap();
    assert_eq!(answer.status(), 101);
    let mut open = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    open.write_all(b"ls").await.unwrap();
    open.flush().await.unwrap();
    let mut heard = [0; 2];
    open.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"LS");
    drop(open);

    let said = world.admin.delete(&at(&format!("{PODS}/web-2"))).await.unwrap();
    assert_eq!((&said["gateway"], &said["method"]), (&json!("gw-b"), &json!("DELETE")));
    let mut asked = kept.lock().unwrap().asked.clone();
    asked.retain(|line| !line.starts_with("GET"));
    assert_eq!(
        asked,
        [
            format!("POST {PODS}/web-2/exec?command=sh"),
            format!("DELETE {PODS}/web-2")
        ]
    );
    a.leave().await;
    b.leave().await;
}

#[tokio::test]
async fn a_site_is_not_written_to_and_not_watched() {
    let world = World::start().await;
    let [(a, kept_a), (b, kept_b)] = hall(&world).await;
    let deployment = at("/apis/apps/v1/namespaces/fx/deployments/web");
    for (method, path) in [
        (Method::DELETE, at(PODS)),
        (Method::POST, at(PODS)),
        (Method::PATCH, deployment.clone()),
        (Method::PUT, deployment.clone()),
        (Method::DELETE, deployment),
        (Method::GET, at(&format!("{PODS}?watch=true"))),
    ] {
        let asked = world
            .admin
            .ask(method.clone(), &path, "application/json", Some(&json!({})))
            .await;
        let (code, why) = asked.unwrap_err();
        assert_eq!(code, 405, "{method} {path}");
        assert!(why.contains("/clusters/<gateway>/ (gw-a, gw-b, gw-c)"), "{why}");
    }
    for kept in [kept_a, kept_b] {
        assert_eq!(kept.lock().unwrap().asked, Vec::<String>::new());
    }
    // Each of them is still asked by its own name, and who is no member of anything is no site.
    let own = world.admin.get(&format!("/clusters/gw-b{PODS}/web-2")).await.unwrap();
    assert_eq!(own["metadata"]["name"], "web-2");
    assert_eq!(
        world.admin.get(&format!("/clusters/hall-8{PODS}")).await.unwrap_err().0,
        404
    );
    a.leave().await;
    b.leave().await;
}

async fn until_cluster(world: &World) {
    eventually("a Cluster hall-7", async || {
        let path = "/apis/cluster.karmada.io/v1alpha1/clusters/hall-7";
        world.admin.get(path).await.ok()
    })
    .await;
}

async fn describe(gateway: &Gateway, node: &str) {
    let report = json!({"kubernetesVersion": "v1.33.0", "apiEnablements": [], "resourceSummary": {}});
    gateway
        .report(&format!("cluster.karmada.io/clusters//{node}"), &report)
        .await;
}

#[tokio::test]
async fn a_gateway_that_takes_the_name_of_a_site_does_not_get_what_is_asked_of_it() {
    let world = World::start().await;
    let (a, _) = member(&world, "gw-a", &[]).await;
    describe(&a, "gw-a").await;
    until_cluster(&world).await;
    let enrolled = enrol(&world.admin.token(json!({})).await, "hall-7").await.unwrap();
    let other = Gateway::online(&enrolled, &Arc::default()).await;
    eventually("the Cluster to be known as the site's", async || {
        let version = world.admin.get(&at("/version")).await.ok()?;
        (version["gitVersion"] == "gw-a").then_some(())
    })
    .await;
    a.leave().await;
    other.leave().await;
}

#[tokio::test]
async fn a_site_that_takes_the_name_of_a_gateway_does_not_get_what_is_asked_of_it() {
    let world = World::start().await;
    let enrolled = enrol(&world.admin.token(json!({})).await, "hall-7").await.unwrap();
    let gateway = Gateway::online(&enrolled, &Arc::default()).await;
    describe(&gateway, "hall-7").await;
    until_cluster(&world).await;
    let (a, _) = member(&world, "gw-a", &[]).await;
    describe(&a, "gw-a").await;
    assert_eq!(world.admin.get(&at("/version")).await.unwrap()["gateway"], "hall-7");
    gateway.leave().await;
    a.leave().await;
}
