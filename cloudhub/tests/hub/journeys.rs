//! An edit on its way down, a report on its way up.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::gateway::{Gateway, Kept, enrol};
use crate::world::{DEVICES, EDGE_NODES, MODELS, STATUSES, World, eventually};

const PRESS: &str = "devices.kubeedge.io/devices/default/press-01";
const STATUS: &str = "devices.kubeedge.io/devicestatuses/default/press-01";
const TWINS: &str = "devices.kubeedge.io/twins/default/press-01";

async fn joined(world: &World, node: &str) -> Gateway {
    let token = world.admin.token(json!({})).await;
    let enrolled = enrol(&token, node).await.unwrap();
    Gateway::online(&enrolled, &Arc::default()).await
}

fn setpoint(device: &Value) -> &str {
    device["spec"]["properties"][0]["desired"]["value"]
        .as_str()
        .unwrap_or_default()
}

fn report(value: &str) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceStatus",
        "metadata": {"name": "press-01", "namespace": "default"},
        "status": {"state": "online", "twins": [{"propertyName": "temperature", "reported": {"value": value, "metadata": {"timestamp": "1"}}}]},
    })
}

#[tokio::test]
async fn an_edit_reaches_the_gateway_and_nobody_else() {
    let world = World::start().await;
    let (one, two) = (joined(&world, "gw-1").await, joined(&world, "gw-2").await);
    world.admin.press("press-01", "gw-1").await;
    let device = one.until_desired(PRESS, "the device", |_| true).await;
    assert_eq!(setpoint(&device), "20");
    assert!(one.desired("devices.kubeedge.io/devicemodels/default/press").is_some());
    assert!(
        one.desired("edge.kubeedge.io/edgenodes//gw-1")
            .is_some_and(|e| e.get("status").is_none())
    );
    for value in ["30", "40", "50"] {
        let begun = daemon::clock::now();
        world.admin.set("press-01", value).await.unwrap();
        let answered = begun.elapsed();
        let device = one.until_desired(PRESS, "the edit", |d| setpoint(d) == value).await;
        eprintln!(
            "PATCH answered after {answered:?}, at the gateway after at most {:?}",
            begun.elapsed()
        );
        let metadata = &device["spec"]["properties"][0]["desired"]["metadata"];
        assert!(
            metadata["stamp"].is_string() && metadata["timestamp"].is_string(),
            "{metadata}"
        );
        assert!(device["metadata"].get("resourceVersion").is_none());
    }
    // Out of range: refused by name and bound, and nothing is sent.
    let (code, message) = world.admin.set("press-01", "999").await.unwrap_err();
    assert_eq!(code, 422);
    assert!(
        message.contains("setpoint") && message.contains("999") && message.contains("250"),
        "{message}"
    );

    // To another gateway, and away.
    world
        .admin
        .merge(&format!("{DEVICES}/press-01"), &json!({"spec": {"nodeName": "gw-2"}}))
        .await
        .unwrap();
    two.until_desired(PRESS, "the device at the other gateway", |_| true)
        .await;
    eventually("its end at the first", async || {
        one.desired(PRESS).is_none().then_some(())
    })
    .await;
    world.admin.delete(&format!("{DEVICES}/press-01")).await.unwrap();
    eventually("its end at the second", async || {
        two.desired(PRESS).is_none().then_some(())
    })
    .await;
    eventually("the model's end", async || {
        two.desired("devices.kubeedge.io/devicemodels/default/press")
            .is_none()
            .then_some(())
    })
    .await;
    world.admin.delete(&format!("{MODELS}/press")).await.unwrap();
    for name in ["gw-1", "gw-2"] {
        world.admin.until_in_sync(name).await;
    }
}

#[tokio::test]
async fn a_report_becomes_a_device_status_and_goes_with_its_device() {
    let world = World::start().await;
    let gateway = joined(&world, "gw-1").await;
    world.admin.press("press-01", "gw-1").await;
    gateway.until_desired(PRESS, "the device", |_| true).await;
    for value in ["21.5", "22.5", "23.5"] {
        gateway.report(STATUS, &report(value)).await;
        let status = eventually("the report", async || {
            let status = world.admin.get(&format!("{STATUSES}/press-01")).await.ok()?;
            (status["status"]["twins"][0]["reported"]["value"] == value).then_some(status)
        })
        .await;
        let device = world.admin.get(&format!("{DEVICES}/press-01")).await.unwrap();
        let owner = &status["metadata"]["ownerReferences"][0];
        assert_eq!(
            (&owner["kind"], &owner["uid"]),
            (&json!("Device"), &device["metadata"]["uid"])
        );
        assert_eq!(
            status["metadata"]["annotations"]["kurator.dev/observed"]
                .as_str()
                .unwrap()
                .len(),
            32
        );
    }
    world.admin.until_in_sync("gw-1").await;
    // Somebody deletes it: the gateway is asked again.
    world.admin.delete(&format!("{STATUSES}/press-01")).await.unwrap();
    eventually("the report again", async || {
        world.admin.get(&format!("{STATUSES}/press-01")).await.ok()
    })
    .await;
    // The gateway reports it no longer.
    gateway.unreport(STATUS).await;
    eventually("its end", async || {
        world.admin.get(&format!("{STATUSES}/press-01")).await.err()
    })
    .await;
    gateway.report(STATUS, &report("24.5")).await;
    eventually("the report once more", async || {
        world.admin.get(&format!("{STATUSES}/press-01")).await.ok()
    })
    .await;
    world.admin.delete(&format!("{DEVICES}/press-01")).await.unwrap();
    let (code, _) = eventually("its end with the device", async || {
        world.admin.get(&format!("{STATUSES}/press-01")).await.err()
    })
    .await;
    assert_eq!(code, 404);
}

#[tokio::test]
async fn what_is_not_the_gateways_is_refused_by_key_and_the_rest_flows() {
    let world = World::start().await;
    let (one, two) = (joined(&world, "gw-1").await, joined(&world, "gw-2").await);
    world.admin.press("press-01", "gw-1").await;
    one.until_desired(PRESS, "the device", |_| true).await;
    let foreign_node =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gw-1"}, "status": {"conditions": []}});
    let own_node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gw-2", "labels": {"a": "b"}},
        "status": {"nodeInfo": {"architecture": "riscv64"}}});
    two.report(STATUS, &report("666")).await;
    two.report("devices.kubeedge.io/devicestatuses/default/nobody", &report("1"))
        .await;
    two.report("/nodes//gw-1", &foreign_node).await;
    two.report("/secrets/default/x", &json!({})).await;
    two.report("/nodes//gw-2", &own_node).await;
    eventually("four refusals", async || {
        (two.kept.lock().unwrap().refused.len() == 4).then_some(())
    })
    .await;
    let refused = two.kept.lock().unwrap().refused.clone();
    assert!(refused[STATUS].contains("not this gateway's"), "{refused:?}");
    assert!(
        refused["/nodes//gw-1"].contains("another gateway's Node"),
        "{refused:?}"
    );
    eventually("its own Node", async || {
        let node = world.admin.get("/api/v1/nodes/gw-2").await.unwrap();
        (node["status"]["nodeInfo"]["architecture"] == "riscv64" && node["metadata"]["labels"]["a"] == "b")
            .then_some(())
    })
    .await;
    assert_eq!(
        world.admin.get(&format!("{STATUSES}/press-01")).await.unwrap_err().0,
        404
    );
    // Junk in place of an object is refused too.
    one.handle.call(|s, _| s.source_put(STATUS, "not json")).await.unwrap();
    eventually("the refusal of junk", async || {
        one.kept.lock().unwrap().refused.get(STATUS).cloned()
    })
    .await;
    one.report(STATUS, &report("21.0")).await;
    eventually("the report after it", async || {
        world.admin.get(&format!("{STATUSES}/press-01")).await.ok()
    })
    .await;
}

#[tokio::test]
async fn an_edit_at_the_gateway_is_merged_and_keeps_its_stamp() {
    let world = World::start().await;
    let gateway = joined(&world, "gw-1").await;
    world.admin.press("press-01", "gw-1").await;
    let before = gateway.until_desired(PRESS, "the device", |_| true).await;
    let mut device = before.clone();
    let mut clock = device_models::hlc::Clock::edge("gw-1", None);
    device["spec"]["properties"][0]["desired"]["value"] = json!("77");
    let model = world.admin.get(&format!("{MODELS}/press")).await.unwrap();
    let now = daemon::clock::wall_ms() + 5;
    device_models::admit_device(Some(&before), &mut device, Some(&model), &mut clock, now, "device").unwrap();
    let twins = device_models::edge_registers(&device, "gw-1").unwrap();
    gateway.report(TWINS, &twins).await;
    let back = gateway
        .until_desired(PRESS, "the merged edit", |d| setpoint(d) == "77")
        .await;
    let stamp = |d: &Value| d["spec"]["properties"][0]["desired"]["metadata"]["stamp"].clone();
    assert_eq!(stamp(&back), stamp(&device));
    let stored = world.admin.get(&format!("{DEVICES}/press-01")).await.unwrap();
    assert_eq!(
        stored["metadata"]["annotations"]["kurator.dev/observed-twins-from"],
        "gw-1"
    );
    assert!(
        back["metadata"].get("annotations").is_none(),
        "the hub's notes stay at the hub"
    );
    // A later edit from the cloud wins, and many at once with the gateway's lose nothing.
    world.admin.set("press-01", "88").await.unwrap();
    let now = gateway
        .until_desired(PRESS, "the cloud's edit", |d| setpoint(d) == "88")
        .await;
    assert!(stamp(&now).as_str() > stamp(&back).as_str());
    gateway.unreport(TWINS).await;
    eventually("the note's end", async || {
        let stored = world.admin.get(&format!("{DEVICES}/press-01")).await.unwrap();
        stored["metadata"]["annotations"]
            .get("kurator.dev/observed-twins")
            .is_none()
            .then_some(())
    })
    .await;
    world.admin.until_in_sync("gw-1").await;
    // Beyond the model's bounds it is refused.
    let mut wrong = twins.clone();
    wrong["properties"]["setpoint"]["value"] = json!("9999");
    gateway.report(TWINS, &wrong).await;
    let why = eventually("the refusal", async || {
        gateway.kept.lock().unwrap().refused.get(TWINS).cloned()
    })
    .await;
    assert!(why.contains("setpoint") && why.contains("9999"), "{why}");
}

#[tokio::test]
async fn node_and_edge_node_say_how_the_link_is() {
    let world = World::start().await;
    let announced = json!({"apiVersion": "edge.kubeedge.io/v1", "kind": "EdgeNode", "metadata": {"name": "hall-7"},
        "spec": {"nodeInfo": {"nodeID": "gw-1", "nodeIP": "192.168.1.100"}, "labels": {"region": "east-china", "shelf": "9"}}});
    world.admin.post(EDGE_NODES, &announced).await.unwrap();
    let token = world.admin.token(json!({"labels": {"line": "2"}})).await;
    let enrolled = enrol(&token, "gw-1").await.unwrap();
    assert_eq!(enrolled.labels["line"], "2");
    let kept: Arc<Mutex<Kept>> = Arc::default();
    let gateway = Gateway::online(&enrolled, &kept).await;
    let node = eventually("a ready Node with its labels", async || {
        let node = world.admin.get("/api/v1/nodes/gw-1").await.ok()?;
        (node["status"]["conditions"][0]["status"] == "True" && node["metadata"]["labels"]["region"] == "east-china")
            .then_some(node)
    })
    .await;
    // The token's labels, the gateway's own wish, and what was announced, which counts most.
    assert_eq!(
        node["metadata"]["labels"],
        json!({"line": "2", "shelf": "9", "region": "east-china"})
    );
    let shown = eventually("an EdgeNode that says so", async || {
        let edge_node = world.admin.get(&format!("{EDGE_NODES}/hall-7")).await.unwrap();
        let status = &edge_node["status"];
        (status["connected"] == true && status["inSync"] == true && status["desired"]["entries"] == 1)
            .then(|| status.clone())
    })
    .await;
    assert_eq!(
        (&shown["link"], &shown["agentVersion"]),
        (&json!("quic"), &json!(env!("CARGO_PKG_VERSION")))
    );
    let live = world.admin.until_in_sync("gw-1").await;
    assert_eq!(live["desired"]["digest"], shown["desired"]["digest"]);
    assert_eq!(live["desired"]["digest"], live["desired"]["peerDigest"]);
    gateway.leave().await;
    eventually("both to say that it is gone", async || {
        let node = world.admin.get("/api/v1/nodes/gw-1").await.unwrap();
        let edge_node = world.admin.get(&format!("{EDGE_NODES}/hall-7")).await.unwrap();
        let gone = node["status"]["conditions"][0]["reason"] == "GatewayOffline";
        (gone && edge_node["status"]["connected"] == false && edge_node["status"]["inSync"] == false).then_some(())
    })
    .await;
    assert_eq!(
        world.admin.get(&format!("{EDGE_NODES}/gw-1")).await.unwrap_err().0,
        404,
        "one EdgeNode for one gateway"
    );
}

#[tokio::test]
async fn why_names_the_hop_an_edit_waits_at() {
    let world = World::start().await;
    let gateway = joined(&world, "gw-1").await;
    world.admin.press("press-01", "gw-1").await;
    gateway.until_desired(PRESS, "the device", |_| true).await;
    let why = async |query: &str| {
        world
            .admin
            .get(&format!("/kurator/v1/why/device/default/press-01{query}"))
            .await
    };
    let at = eventually("an answer", async || {
        why("?property=setpoint")
            .await
            .ok()
            .filter(|w| w["waitingAt"] == "reported")
    })
    .await;
    assert_eq!(at["hops"].as_array().unwrap().len(), 7, "{at}");
    let mut status = report("21.0");
    status["status"]["twins"] = json!([{"propertyName": "setpoint", "reported": {"value": "20"}}]);
    gateway.report(STATUS, &status).await;
    eventually("nothing to wait for", async || {
        why("").await.ok().filter(|w| w["waitingAt"].is_null())
    })
    .await;
    gateway.leave().await;
    eventually("the hub to notice", async || {
        world.admin.node("gw-1").await.filter(|n| n["connected"] == false)
    })
    .await;
    world.admin.set("press-01", "33").await.unwrap();
    assert_eq!(why("").await.unwrap()["waitingAt"], "sent");
    assert_eq!(why("?property=nobody").await.unwrap_err().0, 404);
    let node = world.admin.get("/kurator/v1/why/node/gw-1").await.unwrap();
    assert_eq!(node["waitingAt"], "connected");
}
