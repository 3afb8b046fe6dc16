//! What the Node says of containers, with a runtime, without one, and when it comes and goes.

use serde_json::{Value, json};
use tests::gateway::{Gateway, NODE};
use tests::objects::condition;
use tests::runtime::{ADDRESS, BOX, Machine, Make, PodNetwork};
use tests::{Api, Pair, eventually, get};

async fn until(api: &Api, wish: &str, fits: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("the Node {wish}"), async || {
        get(api, &format!("/api/v1/nodes/{NODE}"))
            .await
            .filter(|node| fits(node))
    })
    .await
}

/// Reason and message of a condition.
fn said<'a>(node: &'a Value, kind: &str) -> (&'a str, &'a str) {
    let all = node["status"]["conditions"].as_array().unwrap();
    let found = all.iter().find(|c| c["type"] == kind).unwrap_or(&Value::Null);
    let text = |field: &str| found[field].as_str().unwrap_or_default();
    (text("reason"), text("message"))
}

#[tokio::test]
async fn with_a_runtime_the_node_says_what_runs_and_how_much_and_when_not() {
    let machine = Machine::with(Make {
        network: PodNetwork::There,
        ..Make::default()
    })
    .await;
    let mut gateway = Gateway::on(machine, Value::Null).await;
    let api = gateway.at.0.clone();
    let node = until(&api, "to be ready for pods", |n| {
        said(n, "Ready").0 == "KubeletReady" && condition(n, "DiskPressure") == "False"
    })
    .await;
    assert_eq!(condition(&node, "ContainerRuntimeReady"), "True");
    for kind in ["MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"] {
        assert_eq!(condition(&node, kind), "False", "{kind}");
    }
    let status = &node["status"];
    assert_eq!(
        (&status["capacity"]["pods"], &status["allocatable"]["pods"]),
        (&json!("110"), &json!("110"))
    );
    let version = status["nodeInfo"]["containerRuntimeVersion"].as_str().unwrap();
    assert!(version.starts_with("containerd://1."), "{version}");
    let images = status["images"].to_string();
    assert!(images.contains(BOX), "{images}");
    let address = json!({"type": "InternalIP", "address": ADDRESS});
    assert!(status["addresses"].as_array().unwrap().contains(&address), "{status}");
    assert_eq!(node["spec"]["podCIDR"], "10.42.0.0/24");

    gateway.machine.kill_containerd().await;
    let node = until(&api, "to miss its runtime", |n| condition(n, "Ready") == "False").await;
    assert_eq!(said(&node, "Ready"), ("KubeletNotReady", "container runtime is down"));
    let socket = gateway.machine.socket().display().to_string();
    let why = said(&node, "ContainerRuntimeReady").1;
    assert!(why.contains(&socket), "{why}");
    let taints = node["spec"]["taints"].to_string();
    assert!(taints.contains("node.kubernetes.io/not-ready"), "{taints}");
    // What was known of the machine stays.
    assert_eq!(node["status"]["nodeInfo"], status["nodeInfo"]);
    gateway.machine.start_containerd().await;
    let node = until(&api, "to be ready again", |n| condition(n, "Ready") == "True").await;
    assert!(node["spec"]["taints"].is_null(), "{}", node["spec"]["taints"]);
}

#[tokio::test]
async fn without_a_runtime_the_agent_serves_devices_and_the_node_says_why_no_pods() {
    let pair = Pair::start().await;
    pair.with_press("press-01").await;
    let api = pair.edge.api().await;
    let node = until(&api, "to say that there is no runtime", |n| {
        condition(n, "ContainerRuntimeReady") == "False"
    })
    .await;
    assert_eq!(
        (condition(&node, "Ready"), &node["status"]["capacity"]["pods"]),
        ("True", &json!("0"))
    );
    let (reason, why) = said(&node, "ContainerRuntimeReady");
    assert!(
        !reason.is_empty() && why.contains("workloads.runtime"),
        "{reason}: {why}"
    );
    // The hub's view of it says the same.
    let seen = until(&pair.hub.api, "to be seen at the hub", |n| {
        condition(n, "ContainerRuntimeReady") == "False"
    })
    .await;
    assert_eq!(said(&seen, "ContainerRuntimeReady"), (reason, why));
}
