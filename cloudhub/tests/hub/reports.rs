//! What gateways report, where devices come, go and move meanwhile and people write over it.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::gateway::{Enrolled, Gateway, Kept, enrol};
use crate::world::{DEVICES, EDGE_NODES, STATUSES, World, eventually};

const PRESS: &str = "devices.kubeedge.io/devices/default/press-01";
const STATUS: &str = "devices.kubeedge.io/devicestatuses/default/press-01";
const TWINS: &str = "devices.kubeedge.io/twins/default/press-01";
const NODE: &str = "/nodes//gw-1";

async fn enrolled(world: &World, node: &str) -> Enrolled {
    enrol(&world.admin.token(json!({})).await, node).await.unwrap()
}

async fn joined(world: &World, node: &str) -> Gateway {
    Gateway::online(&enrolled(world, node).await, &Arc::default()).await
}

fn report(value: &str) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceStatus",
        "metadata": {"name": "press-01", "namespace": "default"},
        "status": {"twins": [{"propertyName": "temperature", "reported": {"value": value, "metadata": {"timestamp": "1"}}}]},
    })
}

fn node(ready: &str, reason: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "gw-1", "labels": {"floor": "1"}},
        "status": {
            "nodeInfo": {"architecture": "riscv64"},
            "conditions": [{"type": "Ready", "status": ready, "reason": reason, "message": "said so"}],
        },
    })
}

async fn until_shown(world: &World, value: &str) -> Value {
    eventually(&format!("the report of {value}"), async || {
        let status = world.admin.get(&format!("{STATUSES}/press-01")).await.ok()?;
        (status["status"]["twins"][0]["reported"]["value"] == value).then_some(status)
    })
    .await
}

async fn until_refused(gateway: &Gateway, key: &str, why: &str) {
    eventually("the refusal", async || {
        let refused = gateway.kept.lock().unwrap().refused.get(key).cloned()?;
        refused.contains(why).then_some(())
    })
    .await;
}

async fn until_ready(world: &World, status: &str, reason: &str) {
    eventually(&format!("a Node that is {status} for {reason}"), async || {
        let node = world.admin.get("/api/v1/nodes/gw-1").await.ok()?;
        let all = node["status"]["conditions"].as_array()?;
        let ready: Vec<&Value> = all.iter().filter(|c| c["type"] == "Ready").collect();
        (ready.len() == 1 && ready[0]["status"] == status && ready[0]["reason"] == reason).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_refused_report_is_taken_when_its_device_comes() {
    let world = World::start().await;
    let (one, two) = (joined(&world, "gw-1").await, joined(&world, "gw-2").await);
    one.report(STATUS, &report("1")).await;
    one.report(TWINS, &json!({"properties": {}})).await;
    for key in [STATUS, TWINS] {
        until_refused(&one, key, "no such device").await;
    }
    world.admin.press("press-01", "gw-1").await;
    until_shown(&world, "1").await;
    eventually("the edits of the gateway", async || {
        let device = world.admin.get(&format!("{DEVICES}/press-01")).await.unwrap();
        (device["metadata"]["annotations"]["kurator.dev/observed-twins-from"] == "gw-1").then_some(())
    })
    .await;
    two.report(STATUS, &report("2")).await;
    until_refused(&two, STATUS, "not this gateway's").await;
    let bind = async |node: &str| {
        let patch = json!({"spec": {"nodeName": node}});
        world.admin.merge(&format!("{DEVICES}/press-01"), &patch).await.unwrap();
    };
    bind("gw-2").await;
    until_shown(&world, "2").await;
    bind("gw-1").await;
    until_shown(&world, "1").await;
    for name in ["gw-1", "gw-2"] {
        world.admin.until_in_sync(name).await;
    }
}

#[tokio::test]
async fn a_report_survives_a_device_that_is_deleted_and_made_again_at_once() {
    let world = World::start().await;
    let gateway = joined(&world, "gw-1").await;
    world.admin.press("press-01", "gw-1").await;
    for n in 0..25 {
        gateway.report(STATUS, &report(&format!("{n} before"))).await;
        if n % 2 == 0 {
            gateway.report(STATUS, &report(&format!("{n}"))).await;
        }
        world.admin.delete(&format!("{DEVICES}/press-01")).await.unwrap();
        world.admin.press("press-01", "gw-1").await;
        if n % 2 == 1 {
            gateway.report(STATUS, &report(&format!("{n}"))).await;
        }
        until_shown(&world, &format!("{n}")).await;
    }
    world.admin.until_in_sync("gw-1").await;
    let device = world.admin.get(&format!("{DEVICES}/press-01")).await.unwrap();
    eventually("the status to be the new device's", async || {
        let status = world.admin.get(&format!("{STATUSES}/press-01")).await.ok()?;
        (status["metadata"]["ownerReferences"][0]["uid"] == device["metadata"]["uid"]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_people_write_over_a_report_is_asked_for_again() {
    let world = World::start().await;
    let enrolled = enrolled(&world, "gw-1").await;
    let kept: Arc<Mutex<Kept>> = Arc::default();
    let gateway = Gateway::online(&enrolled, &kept).await;
    world.admin.press("press-01", "gw-1").await;
    gateway.until_desired(PRESS, "the device", |_| true).await;
    gateway.report(STATUS, &report("21.5")).await;
    gateway.report(NODE, &node("True", "AgentRunning")).await;
    until_shown(&world, "21.5").await;
    until_ready(&world, "True", "AgentRunning").await;
    let path = format!("{STATUSES}/press-01");
    let lie = json!({"status": report("99")["status"]});
    let annotation = |name: &str| json!({"metadata": {"annotations": {name: "0".repeat(32)}}, "status": lie["status"]});
    for edit in [
        lie.clone(),
        annotation("kurator.dev/observed"),
        annotation("kurator.dev/observed-content"),
        json!({"spec": {}, "status": null}),
    ] {
        world.admin.merge(&path, &edit).await.unwrap();
        until_shown(&world, "21.5").await;
    }
    let architecture = json!({"status": {"nodeInfo": {"architecture": "vax"}}});
    world
        .admin
        .merge("/api/v1/nodes/gw-1/status", &architecture)
        .await
        .unwrap();
    eventually("the Node as reported", async || {
        let node = world.admin.get("/api/v1/nodes/gw-1").await.unwrap();
        (node["status"]["nodeInfo"]["architecture"] == "riscv64").then_some(())
    })
    .await;
    world.admin.until_in_sync("gw-1").await;
    // While it is away too.
    gateway.leave().await;
    until_ready(&world, "False", "GatewayOffline").await;
    world.admin.merge(&path, &lie).await.unwrap();
    let _gateway = Gateway::online(&enrolled, &kept).await;
    until_shown(&world, "21.5").await;
    // What is noted by others beside it is theirs, and costs nothing.
    world.admin.until_in_sync("gw-1").await;
    let before = world.admin.node("gw-1").await.unwrap()["objectsReceived"].clone();
    let label = json!({"metadata": {"labels": {"mine": "x"}}});
    world.admin.merge(&path, &label).await.unwrap();
    world.admin.merge("/api/v1/nodes/gw-1", &label).await.unwrap();
    world.admin.set("press-01", "77").await.unwrap();
    let after = world.admin.until_in_sync("gw-1").await["objectsReceived"].clone();
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_report_with_more_than_the_schema_knows_is_taken_once() {
    let world = World::start().await;
    let gateway = joined(&world, "gw-1").await;
    world.admin.press("press-01", "gw-1").await;
    gateway.until_desired(PRESS, "the device", |_| true).await;
    let mut strange = report("21.5");
    strange["status"]["fromTheFuture"] = json!({"a": 1});
    gateway.report(STATUS, &strange).await;
    until_shown(&world, "21.5").await;
    let settled = world.admin.until_in_sync("gw-1").await;
    let path = format!("{STATUSES}/press-01");
    let version = async || world.admin.get(&path).await.unwrap()["metadata"]["resourceVersion"].clone();
    let before = version().await;
    // Another round of everything.
    gateway.report(NODE, &node("True", "AgentRunning")).await;
    until_ready(&world, "True", "AgentRunning").await;
    world.admin.until_in_sync("gw-1").await;
    assert_eq!(version().await, before);
    assert!(settled["objectsReceived"].as_u64().unwrap() <= 3, "{settled}");
}

#[tokio::test]
async fn a_gateway_that_says_it_is_not_ready_is_not_while_it_is_connected() {
    let world = World::start().await;
    let enrolled = enrolled(&world, "gw-1").await;
    let kept: Arc<Mutex<Kept>> = Arc::default();
    let gateway = Gateway::online(&enrolled, &kept).await;
    until_ready(&world, "True", "GatewayConnected").await;
    gateway.report(NODE, &node("False", "DiskFull")).await;
    until_ready(&world, "False", "DiskFull").await;
    gateway.leave().await;
    until_ready(&world, "False", "GatewayOffline").await;
    let gateway = Gateway::online(&enrolled, &kept).await;
    until_ready(&world, "False", "DiskFull").await;
    gateway.report(NODE, &node("True", "AgentRunning")).await;
    until_ready(&world, "True", "AgentRunning").await;
    gateway.unreport(NODE).await;
    until_ready(&world, "True", "GatewayConnected").await;
}

#[tokio::test]
async fn labels_leave_a_node_with_what_asked_for_them() {
    let world = World::start().await;
    let announced = json!({"apiVersion": "edge.kubeedge.io/v1", "kind": "EdgeNode", "metadata": {"name": "gw-1"},
        "spec": {"nodeInfo": {"nodeID": "gw-1"}, "labels": {"region": "east", "shelf": "9"}}});
    world.admin.post(EDGE_NODES, &announced).await.unwrap();
    let gateway = joined(&world, "gw-1").await;
    gateway.report(NODE, &node("True", "AgentRunning")).await;
    let labels = async |want: Value| {
        eventually(&format!("a Node labelled {want}"), async || {
            let node = world.admin.get("/api/v1/nodes/gw-1").await.ok()?;
            (node["metadata"]["labels"] == want).then_some(())
        })
        .await;
    };
    labels(json!({"region": "east", "shelf": "9", "floor": "1"})).await;
    let mine = json!({"metadata": {"labels": {"mine": "x"}}});
    world.admin.merge("/api/v1/nodes/gw-1", &mine).await.unwrap();
    let path = format!("{EDGE_NODES}/gw-1");
    let edit = json!({"spec": {"labels": {"region": null, "floor": "7"}}});
    world.admin.merge(&path, &edit).await.unwrap();
    labels(json!({"shelf": "9", "floor": "7", "mine": "x"})).await;
    // The gateway's own wishes count again when the EdgeNode is gone.
    world.admin.delete(&path).await.unwrap();
    labels(json!({"shelf": "3", "floor": "1", "mine": "x"})).await;
    let mut without = node("True", "AgentRunning");
    without["metadata"]["labels"] = json!({});
    gateway.report(NODE, &without).await;
    labels(json!({"shelf": "3", "mine": "x"})).await;
}

#[tokio::test]
async fn an_edge_node_under_another_gateways_name_speaks_of_one_of_them() {
    let world = World::start().await;
    let announce = |name: &str, node: &str| {
        json!({"apiVersion": "edge.kubeedge.io/v1", "kind": "EdgeNode", "metadata": {"name": name},
            "spec": {"nodeInfo": {"nodeID": node}}})
    };
    world.admin.post(EDGE_NODES, &announce("gw-2", "gw-1")).await.unwrap();
    let (one, two) = (joined(&world, "gw-1").await, joined(&world, "gw-2").await);
    let of = async |name: &str, node: &str, misnamed: bool| {
        eventually(&format!("EdgeNode {name} to speak of {node}"), async || {
            let live = world.admin.node(node).await?;
            let edge_node = world.admin.get(&format!("{EDGE_NODES}/{name}")).await.ok()?;
            let status = &edge_node["status"];
            let kinds: Vec<&str> = status["conditions"]
                .as_array()?
                .iter()
                .filter_map(|c| c["type"].as_str())
                .collect();
            let same = status["sessionEpoch"] == live["sessionEpoch"] && status["address"] == live["address"];
            (same && kinds.contains(&"Misnamed") == misnamed).then_some(())
        })
        .await;
    };
    of("gw-2", "gw-1", true).await;
    world.admin.until_in_sync("gw-2").await;
    of("gw-2", "gw-1", true).await;
    assert_eq!(world.admin.get(&format!("{EDGE_NODES}/gw-1")).await.unwrap_err().0, 404);
    // Set right: it speaks of its namesake, and the other gets one of its own.
    let right = json!({"spec": {"nodeInfo": {"nodeID": "gw-2"}}});
    world.admin.merge(&format!("{EDGE_NODES}/gw-2"), &right).await.unwrap();
    of("gw-2", "gw-2", false).await;
    of("gw-1", "gw-1", false).await;
    // A second one for the same gateway is kept as well as the first, which counts.
    world.admin.post(EDGE_NODES, &announce("a-copy", "gw-1")).await.unwrap();
    of("a-copy", "gw-1", false).await;
    of("gw-1", "gw-1", false).await;
    // Of a gateway that never was: nothing of the one before stays.
    let nobody = json!({"spec": {"nodeInfo": {"nodeID": "no/body"}}});
    world
        .admin
        .merge(&format!("{EDGE_NODES}/a-copy"), &nobody)
        .await
        .unwrap();
    eventually("a status that says nothing", async || {
        let copy = world.admin.get(&format!("{EDGE_NODES}/a-copy")).await.unwrap();
        (copy["status"]["connected"] == false && copy["status"].get("address").is_none()).then_some(())
    })
    .await;
    drop((one, two));
}

/// The gateway may only ever be sent the Device that has its own value: what that came over is noted for it.
#[tokio::test]
async fn an_edit_that_the_merge_drops_is_noted_in_the_device_and_people_cannot_touch_the_note() {
    let world = World::start().await;
    let gateway = joined(&world, "gw-1").await;
    world.admin.press("press-01", "gw-1").await;
    let before = gateway.until_desired(PRESS, "the device", |_| true).await;
    let property = before["spec"]["properties"][0]["name"].as_str().unwrap();
    world.admin.set("press-01", "55").await.unwrap();
    // Set at the gateway later, without knowledge of that.
    let mut own = before.clone();
    own["spec"]["properties"][0]["desired"]["value"] = json!("60");
    let mut clock = device_models::hlc::Clock::edge("gw-1", None);
    let now = daemon::clock::wall_ms() + 5;
    device_models::admit_device(Some(&before), &mut own, None, &mut clock, now, "device").unwrap();
    gateway
        .report(TWINS, &device_models::edge_registers(&own, "gw-1").unwrap())
        .await;
    let merged = gateway
        .until_desired(PRESS, "its own edit back", |d| {
            d["spec"]["properties"][0]["desired"]["value"] == "60"
        })
        .await;
    let noted = device_models::overruled(&merged);
    let values = |c: &device_models::Conflict| (c.property.clone(), c.kept.value.clone(), c.lost.value.clone());
    assert_eq!(
        noted.iter().map(values).collect::<Vec<_>>(),
        [(property.to_owned(), Some("60".to_owned()), Some("55".to_owned()))]
    );
    let path = format!("{DEVICES}/press-01");
    let patch = json!({"metadata": {"labels": {"line": "4"}, "annotations": {device_models::OVERRULED: null}}});
    world.admin.merge(&path, &patch).await.unwrap();
    let labelled = gateway
        .until_desired(PRESS, "the label", |d| d["metadata"]["labels"]["line"] == "4")
        .await;
    assert_eq!(device_models::overruled(&labelled), noted);
}
