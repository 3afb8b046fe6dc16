//! The main job on real input: kubectl edits, a device that is mosquitto obeys, kubectl sees it; and what is wrong is refused where it
//! is written, with words that help.

use serde_json::{Value, json};
use tests::{Pair, Subscriber, eventually, kubectl, kubectl_with_input, kurator, mosquitto_pub};

const UPDATE: &str = "$hw/events/device/default/press-01/twin/update";

fn report(property: &str, value: &str) -> String {
    json!({"event_id": "e2e", "timestamp": 1, "twin": {property: {"actual": {"value": value}}}}).to_string()
}

/// The reported value as kubectl sees it.
async fn reported(pair: &Pair, property: &str) -> Option<String> {
    let status = kubectl(
        &pair.hub.kubeconfig(),
        &["get", "devicestatus", "press-01", "-o", "json"],
    )
    .await;
    let status: Value = serde_json::from_str(&status.out).ok()?;
    let twins = status["status"]["twins"].as_array()?;
    twins.iter().find(|t| t["propertyName"] == property)?["reported"]["value"]
        .as_str()
        .map(str::to_owned)
}

fn desired_patch(property: &str, value: &str) -> String {
    json!({"spec": {"properties": [{"name": property, "desired": {"value": value}}]}}).to_string()
}

#[tokio::test]
async fn a_twin_edited_with_kubectl_reaches_an_mqtt_client_and_its_answer_comes_back() {
    let pair = Pair::start().await;
    pair.with_press("press-01").await;
    let mut device = Subscriber::start(pair.edge.mqtt(), &format!("{UPDATE}/#"), &[]).await;

    let hub = pair.hub.kubeconfig();
    kubectl(
        &hub,
        &[
            "patch",
            "device",
            "press-01",
            "--type=merge",
            "-p",
            &desired_patch("setpoint", "80"),
        ],
    )
    .await
    .good();
    let (_, delta) = device.until("a delta", |t, _| t.ends_with("/delta")).await;
    assert_eq!(delta["delta"]["setpoint"], "80");
    assert_eq!(delta["twin"]["setpoint"]["expected"]["value"], "80");

    mosquitto_pub(pair.edge.mqtt(), UPDATE, &report("setpoint", "80"))
        .await
        .good();
    let (_, result) = device.until("a result", |t, _| t.ends_with("/result")).await;
    assert_eq!(
        (&result["event_id"], &result["twin"]["setpoint"]["actual"]["value"]),
        (&json!("e2e"), &json!("80"))
    );
    let (_, document) = device.until("a document", |t, _| t.ends_with("/document")).await;
    assert_eq!(document["twin"]["setpoint"]["current"]["actual"]["value"], "80");

    eventually("kubectl to see the report", async || {
        reported(&pair, "setpoint").await.filter(|v| v == "80")
    })
    .await;
    let table = kurator(&hub, &["get", "nodes", "-o", "wide"]).await.good();
    assert!(
        table.contains("gw-1") && table.contains("Ready") && !table.contains('≠'),
        "{table}"
    );

    // The same twin through the gateway's own API and through the hub's detour to it.
    let own = kubectl(&pair.edge.kubeconfig(), &["get", "device", "press-01", "-o", "json"])
        .await
        .good();
    let own: Value = serde_json::from_str(&own).unwrap();
    let through = format!("{}/clusters/gw-1", pair.hub.api_url());
    let detour = kubectl(&hub, &["--server", &through, "get", "devices,nodes", "-o", "name"])
        .await
        .good();
    assert_eq!(own["spec"]["properties"][0]["name"], "setpoint");
    assert!(
        detour.contains("device.devices.kubeedge.io/press-01") && detour.contains("node/gw-1"),
        "{detour}"
    );
}

#[tokio::test]
async fn a_delta_comes_again_when_the_device_comes_back_until_it_obeys() {
    let pair = Pair::start().await;
    pair.with_press("press-01").await;
    let hub = pair.hub.kubeconfig();
    kurator(&hub, &["twin", "set", "press-01", "setpoint=90"]).await.good();
    for _ in 0..2 {
        let mut device = Subscriber::start(pair.edge.mqtt(), &format!("{UPDATE}/delta"), &[]).await;
        let (_, delta) = device.next().await;
        assert_eq!(delta["delta"]["setpoint"], "90");
        device.kill().await;
    }
    mosquitto_pub(pair.edge.mqtt(), UPDATE, &report("setpoint", "90"))
        .await
        .good();
    let waited = kurator(&hub, &["twin", "set", "press-01", "setpoint=90", "--wait", "20s"])
        .await
        .good();
    assert!(waited.contains("reported after"), "{waited}");
    let mut device = Subscriber::start(pair.edge.mqtt(), &format!("{UPDATE}/delta"), &[]).await;
    assert_eq!(device.within(std::time::Duration::from_millis(500)).await, []);
}

#[tokio::test]
async fn set_wait_names_the_hop_it_waits_at() {
    let pair = Pair::start().await;
    pair.with_press("press-01").await;
    let late = kurator(
        &pair.hub.kubeconfig(),
        &["twin", "set", "press-01", "setpoint=70", "--wait", "1s"],
    )
    .await;
    assert_eq!(late.code(), 1, "{late:?}");
    assert!(
        late.err.contains("waits at") && late.err.contains("reported"),
        "{}",
        late.err
    );
}

#[tokio::test]
async fn what_the_model_forbids_is_refused_in_the_cloud_and_at_the_gateway() {
    let pair = Pair::start().await;
    pair.with_press("press-01").await;
    let (hub, edge) = (pair.hub.kubeconfig(), pair.edge.kubeconfig());
    let wrong = [
        ("setpoint", "500", "200"),
        ("setpoint", "warm", "setpoint"),
        ("temperature", "20", "temperature"),
        ("nosuch", "1", "nosuch"),
    ];
    for (property, value, named) in wrong {
        for config in [&hub, &edge] {
            let refused = kubectl(
                config,
                &[
                    "patch",
                    "device",
                    "press-01",
                    "--type=merge",
                    "-p",
                    &desired_patch(property, value),
                ],
            )
            .await;
            assert_eq!(refused.code(), 1, "{property}={value}");
            assert!(
                refused.err.contains(property) && refused.err.contains(named),
                "{}",
                refused.err
            );
        }
        let refused = kurator(&hub, &["twin", "set", "press-01", &format!("{property}={value}")]).await;
        assert_eq!(refused.code(), 65, "{refused:?}");
    }
    let mut results = Subscriber::start(pair.edge.mqtt(), &format!("{UPDATE}/result"), &[]).await;
    for (payload, code, named) in [
        (report("temperature", "hot"), 400, "temperature"),
        (report("nosuch", "1"), 404, "nosuch"),
        ("{\"event_id\":\"e2e\",\"timestamp\":1}".to_owned(), 400, "twin"),
        ("{\"event_id\":\"e2e\",".to_owned(), 400, ""),
    ] {
        mosquitto_pub(pair.edge.mqtt(), UPDATE, &payload).await.good();
        let (_, result) = results.next().await;
        assert_eq!(result["code"], code, "{payload} -> {result}");
        assert!(
            result["reason"].as_str().unwrap_or_default().contains(named),
            "{payload} -> {result}"
        );
    }
    let mut unknown = Subscriber::start(
        pair.edge.mqtt(),
        "$hw/events/device/default/nope/twin/update/result",
        &[],
    )
    .await;
    mosquitto_pub(
        pair.edge.mqtt(),
        "$hw/events/device/default/nope/twin/update",
        &report("p", "1"),
    )
    .await
    .good();
    assert_eq!(unknown.next().await.1["code"], 404);
}

#[tokio::test]
async fn membership_get_and_state_answer_as_kubeedge_does() {
    let pair = Pair::start().await;
    let mut updated = Subscriber::start(pair.edge.mqtt(), "$hw/events/node/gw-1/membership/updated", &[]).await;
    pair.with_press("press-01").await;
    let (_, added) = updated.next().await;
    assert_eq!(added["added_devices"][0]["id"], "default/press-01");

    let mut answers = Subscriber::start(pair.edge.mqtt(), "$hw/events/#", &[]).await;
    mosquitto_pub(
        pair.edge.mqtt(),
        "$hw/events/node/gw-1/membership/get",
        "{\"event_id\":\"m\",\"timestamp\":1}",
    )
    .await
    .good();
    let (_, members) = answers
        .until("membership/get/result", |t, _| t.ends_with("membership/get/result"))
        .await;
    assert_eq!(
        (&members["event_id"], &members["devices"][0]["name"]),
        (&json!("m"), &json!("press-01"))
    );

    let state = "$hw/events/device/default/press-01/state/update";
    mosquitto_pub(
        pair.edge.mqtt(),
        state,
        "{\"event_id\":\"s\",\"timestamp\":1,\"state\":\"online\"}",
    )
    .await
    .good();
    let (_, result) = answers
        .until("state/update/result", |t, _| t.ends_with("state/update/result"))
        .await;
    assert_eq!(result["device"]["state"], "online");
    eventually("the state in the cloud", async || {
        let status = kubectl(
            &pair.hub.kubeconfig(),
            &["get", "devicestatus", "press-01", "-o", "jsonpath={.status.state}"],
        )
        .await;
        (status.out == "online").then_some(())
    })
    .await;

    mosquitto_pub(pair.edge.mqtt(), UPDATE, &report("temperature", "21.5"))
        .await
        .good();
    mosquitto_pub(
        pair.edge.mqtt(),
        "$hw/events/device/default/press-01/twin/get",
        "{\"event_id\":\"g\",\"timestamp\":1}",
    )
    .await
    .good();
    let (_, twin) = answers
        .until("twin/get/result", |t, _| t.ends_with("twin/get/result"))
        .await;
    assert_eq!(
        (&twin["event_id"], &twin["twin"]["temperature"]["actual"]["value"]),
        (&json!("g"), &json!("21.5"))
    );

    kubectl(&pair.hub.kubeconfig(), &["delete", "device", "press-01"])
        .await
        .good();
    let (_, removed) = updated.next().await;
    assert_eq!(removed["removed_devices"][0]["id"], "default/press-01");
    eventually("the status to go with its device", async || {
        let left = kubectl(&pair.hub.kubeconfig(), &["get", "devicestatuses", "-o", "name"])
            .await
            .good();
        left.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_edge_node_manifest_registers_a_gateway_before_it_joins() {
    let pair = Pair::start().await;
    let manifest = include_str!("../manifests/edge-node-01.yaml");
    let hub = pair.hub.kubeconfig();
    kubectl_with_input(&hub, &["apply", "-f", "-"], manifest).await.good();
    let folder = tempfile::tempdir().unwrap();
    let _edge = Pair::gateway(&pair.hub, folder.path(), "edge-node-01").await;
    pair.hub.until_in_sync("edge-node-01").await;
    eventually("the labels on the Node", async || {
        let labels = kubectl(
            &hub,
            &[
                "get",
                "node",
                "edge-node-01",
                "-o",
                "jsonpath={.metadata.labels.region}",
            ],
        )
        .await;
        (labels.out == "east-china").then_some(())
    })
    .await;
    eventually("the EdgeNode to say connected", async || {
        let status = kubectl(
            &hub,
            &["get", "edgenode", "edge-node-01", "-o", "jsonpath={.status.connected}"],
        )
        .await;
        (status.out == "true").then_some(())
    })
    .await;
}
