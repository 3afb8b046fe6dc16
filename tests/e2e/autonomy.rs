//! The cut cable costs nothing: the gateway works alone, restarts alone, and both sides are right when the link is back.

use serde_json::{Value, json};
use tests::{Pair, Subscriber, Weather, eventually, get, kubectl, kurator, mosquitto_pub};

const UPDATE: &str = "$hw/events/device/default/press-01/twin/update";
const DEVICE: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devices/press-01";
const STATUS: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devicestatuses/press-01";

fn report(property: &str, value: &str) -> String {
    json!({"event_id": "a", "timestamp": 1, "twin": {property: {"actual": {"value": value}}}}).to_string()
}

fn reported(status: &Value, property: &str) -> Option<String> {
    let twin = status["status"]["twins"]
        .as_array()?
        .iter()
        .find(|t| t["propertyName"] == property)?
        .clone();
    twin["reported"]["value"].as_str().map(str::to_owned)
}

fn desired(device: &Value, property: &str) -> Option<String> {
    let found = device["spec"]["properties"]
        .as_array()?
        .iter()
        .find(|p| p["name"] == property)?
        .clone();
    found["desired"]["value"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn both_sides_are_right_after_the_cut_and_nothing_is_sent_twice() {
    let mut pair = Pair::start().await;
    pair.with_press("press-01").await;
    pair.hub.until_in_sync("gw-1").await;

    pair.relay.set(Weather::CUT);
    eventually("the hub to notice", async || {
        pair.hub.gateway("gw-1").await.filter(|n| n["connected"] == false)
    })
    .await;

    // Alone: a restart, hundreds of reports, an edit on the box; and an edit in the cloud that cannot arrive yet.
    pair.edge.kill().await;
    pair.edge.start_again().await;
    let mut answers = Subscriber::start(pair.edge.mqtt(), "$hw/events/#", &[]).await;
    for n in 0..300_u32 {
        mosquitto_pub_many(&pair, n).await;
    }
    answers
        .until("the last report's result", |t, p| {
            t.ends_with("/update/result") && p["twin"]["cycles"]["actual"]["value"] == "299"
        })
        .await;
    kurator(&pair.edge.kubeconfig(), &["twin", "set", "press-01", "enabled=false"])
        .await
        .good();
    let (_, delta) = answers
        .until("a delta of the edit on the box", |t, _| t.ends_with("/delta"))
        .await;
    assert_eq!(delta["delta"]["enabled"], "false");
    kurator(&pair.hub.kubeconfig(), &["twin", "set", "press-01", "setpoint=66"])
        .await
        .good();
    let own = kubectl(
        &pair.edge.kubeconfig(),
        &["get", "devicestatus", "press-01", "-o", "json"],
    )
    .await
    .good();
    assert_eq!(
        reported(&serde_json::from_str(&own).unwrap(), "cycles").as_deref(),
        Some("299")
    );

    pair.relay.set(Weather::FAIR);
    let edge = pair.edge.api().await;
    eventually("both sides to hold both edits and all reports", async || {
        let (cloud, own) = (get(&pair.hub.api, DEVICE).await?, get(&edge, DEVICE).await?);
        let status = get(&pair.hub.api, STATUS).await?;
        let both = |p: &str| desired(&cloud, p).filter(|v| desired(&own, p).as_ref() == Some(v));
        (both("setpoint").as_deref() == Some("66")
            && both("enabled").as_deref() == Some("false")
            && reported(&status, "cycles").as_deref() == Some("299"))
        .then_some(())
    })
    .await;
    let settled = pair.hub.until_in_sync("gw-1").await;

    // Equal digests: another cut and return sends no object again.
    pair.relay.set(Weather::CUT);
    eventually("the hub to notice", async || {
        pair.hub.gateway("gw-1").await.filter(|n| n["connected"] == false)
    })
    .await;
    let received = |n: &Value| n["objectsReceived"].as_u64().zip(n["objectsSent"].as_u64());
    let before = received(&settled);
    pair.relay.set(Weather::FAIR);
    let after = pair.hub.until_in_sync("gw-1").await;
    assert!(before.is_some(), "the hub counts what it exchanges: {settled}");
    assert_eq!(before, received(&after));
}

async fn mosquitto_pub_many(pair: &Pair, n: u32) {
    // One process a report would test fork(): every fiftieth is its own client, the rest go through one.
    if n % 50 == 49 {
        mosquitto_pub(pair.edge.mqtt(), UPDATE, &report("cycles", &n.to_string()))
            .await
            .good();
    } else if n.is_multiple_of(50) {
        let lines: Vec<String> = (n..n + 49).map(|i| report("cycles", &i.to_string())).collect();
        tests::mosquitto_pub_lines(pair.edge.mqtt(), UPDATE, &lines)
            .await
            .good();
    }
}

/// The hub's history of the gateway's conflict log; `None` when there is none yet.
async fn conflicts(pair: &Pair) -> Option<Vec<Value>> {
    let page = get(&pair.hub.api, "/kurator/v1/journals/gw-1/events").await?;
    let items = page["items"].as_array()?;
    Some(items.iter().map(|item| item["record"].clone()).collect())
}

async fn until_both_want(pair: &Pair, property: &str, value: &str) {
    let edge = pair.edge.api().await;
    eventually(&format!("both sides to want {property}={value}"), async || {
        let (cloud, own) = (get(&pair.hub.api, DEVICE).await?, get(&edge, DEVICE).await?);
        [&cloud, &own]
            .iter()
            .all(|device| desired(device, property).as_deref() == Some(value))
            .then_some(())
    })
    .await;
    pair.hub.until_in_sync("gw-1").await;
}

#[tokio::test]
async fn an_edit_that_lost_to_one_on_the_other_side_is_in_the_conflict_log_once() {
    let pair = Pair::start().await;
    pair.with_press("press-01").await;
    let (cloud, own) = (pair.hub.kubeconfig(), pair.edge.kubeconfig());
    let set = async |side: &std::path::Path, edit: &str| {
        kurator(side, &["twin", "set", "press-01", edit]).await.good();
    };
    let cut = async || {
        pair.relay.set(Weather::CUT);
        eventually("the hub to notice", async || {
            pair.hub.gateway("gw-1").await.filter(|n| n["connected"] == false)
        })
        .await;
    };
    // One after the other, each knowing of the one before: no conflict.
    set(&cloud, "setpoint=50").await;
    until_both_want(&pair, "setpoint", "50").await;
    set(&own, "setpoint=51").await;
    until_both_want(&pair, "setpoint", "51").await;
    cut().await;
    set(&cloud, "setpoint=52").await;
    pair.relay.set(Weather::FAIR);
    until_both_want(&pair, "setpoint", "52").await;

    // Both, apart; the later one counts. First the cloud's, then the gateway's.
    cut().await;
    set(&own, "setpoint=61").await;
    set(&cloud, "setpoint=62").await;
    pair.relay.set(Weather::FAIR);
    until_both_want(&pair, "setpoint", "62").await;
    let one = eventually("the conflict in the hub's history", async || conflicts(&pair).await).await;
    let sides =
        |record: &Value| [&record["kept"], &record["lost"]].map(|side| side["value"].as_str().unwrap().to_owned());
    assert_eq!(one.iter().map(sides).collect::<Vec<_>>(), [["62", "61"]], "{one:?}");
    let told = ["type", "device", "property", "policy"].map(|field| one[0][field].as_str().unwrap().to_owned());
    assert_eq!(told, ["conflict", "default/press-01", "setpoint", "latest"]);

    cut().await;
    set(&cloud, "setpoint=71").await;
    set(&own, "setpoint=72").await;
    pair.relay.set(Weather::FAIR);
    until_both_want(&pair, "setpoint", "72").await;
    let two = eventually("the other conflict", async || {
        conflicts(&pair).await.filter(|all| all.len() > 1)
    })
    .await;
    assert_eq!(
        two.iter().map(sides).collect::<Vec<_>>(),
        [["62", "61"], ["72", "71"]],
        "{two:?}"
    );
    let why = kurator(&cloud, &["why", "device", "press-01.setpoint"]).await.good();
    assert!(why.contains("kept 72 by") && why.contains("dropped 71 by"), "{why}");

    // What comes again, and what changes beside it, is no other conflict.
    cut().await;
    pair.relay.set(Weather::FAIR);
    set(&cloud, "enabled=false").await;
    until_both_want(&pair, "enabled", "false").await;
    assert_eq!(conflicts(&pair).await.map(|all| all.len()), Some(2));
    let node = pair.hub.gateway("gw-1").await.unwrap();
    let events = node["journals"]
        .as_array()
        .unwrap()
        .iter()
        .find(|j| j["stream"] == "events");
    let balance = events.map(|j| ["accepted", "delivered", "dropped", "waiting"].map(|n| j[n].as_u64().unwrap()));
    assert_eq!(balance, Some([2, 2, 0, 0]), "{node}");
}

#[tokio::test]
async fn the_gateway_answers_everything_with_the_hub_gone_for_good() {
    let mut pair = Pair::start().await;
    pair.with_press("press-01").await;
    mosquitto_pub(pair.edge.mqtt(), UPDATE, &report("temperature", "33.5"))
        .await
        .good();
    pair.hub.until_in_sync("gw-1").await;
    pair.hub.kill().await;
    pair.edge.kill().await;
    pair.edge.start_again().await;
    let mut answers = Subscriber::start(pair.edge.mqtt(), "$hw/events/#", &[]).await;
    mosquitto_pub(
        pair.edge.mqtt(),
        "$hw/events/device/default/press-01/twin/get",
        "{\"event_id\":\"g\",\"timestamp\":1}",
    )
    .await
    .good();
    let (_, twin) = answers.until("twin/get/result", |t, _| t.ends_with("get/result")).await;
    assert_eq!(twin["twin"]["temperature"]["actual"]["value"], "33.5");
    let kubeconfig = pair.edge.kubeconfig();
    kubectl(
        &kubeconfig,
        &["create", "configmap", "note", "--from-literal=written=offline"],
    )
    .await
    .good();
    assert_eq!(
        kubectl(
            &kubeconfig,
            &["get", "configmap", "note", "-o", "jsonpath={.data.written}"]
        )
        .await
        .good(),
        "offline"
    );
    kubectl(&kubeconfig, &["get", "nodes,devices,devicestatuses,devicemodels"])
        .await
        .good();
    pair.hub.start_again().await;
    pair.hub.until_in_sync("gw-1").await;
}

#[tokio::test]
async fn without_udp_the_link_is_tcp_and_goes_back_to_quic_by_itself() {
    let pair = Pair::start().await;
    let link = async |wanted: &str| {
        eventually(&format!("the link to be {wanted}"), async || {
            pair.hub
                .gateway("gw-1")
                .await
                .filter(|n| n["connected"] == true && n["link"] == wanted)
        })
        .await
    };
    link("quic").await;
    pair.relay.set(Weather::NO_UDP);
    link("tcp").await;
    pair.with_press("press-01").await;
    let through = format!("{}/clusters/gw-1", pair.hub.api_url());
    kubectl(
        &pair.hub.kubeconfig(),
        &["--server", &through, "get", "device", "press-01"],
    )
    .await
    .good();
    pair.relay.set(Weather::FAIR);
    link("quic").await;
}

#[tokio::test]
async fn a_half_open_link_is_noticed_by_both_sides() {
    let pair = Pair::start().await;
    pair.relay.set(Weather::SILENT);
    eventually("the hub to notice", async || {
        pair.hub.gateway("gw-1").await.filter(|n| n["connected"] == false)
    })
    .await;
    eventually("the gateway to notice", async || {
        pair.edge
            .log()
            .to_lowercase()
            .contains("session with the hub ended")
            .then_some(())
    })
    .await;
    pair.relay.set(Weather::FAIR);
    pair.hub.until_in_sync("gw-1").await;
}
