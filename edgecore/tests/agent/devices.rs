//! Devices on MQTT and people at the local API, with no hub anywhere.

use std::time::Duration;

use metastore::store::{Expect, Op, Tx};
use serde_json::{Value, json};

use crate::harness::{Client, NODE, api, config, device, free_device, model, put, reported, start, timeless, until};

const D0: &str = "$hw/events/device/default/d0";

fn entry(kind: &str, value: &str) -> Value {
    json!({kind: {"value": value, "metadata": {"timestamp": "T"}}, "optional": true, "metadata": {"type": "string"}})
}

/// The conversation of KubeEdge's edgecore, message by message, with other times and event ids.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twin_messages_are_kubeedges() {
    let dir = tempfile::tempdir().unwrap();
    let agent = start(&config(dir.path())).await;
    put(&agent, &[free_device("d0")]).await;
    let mut c = Client::connect(&agent, "c", &["$hw/#"]).await;
    let ask = |rest: &str| format!("{D0}/{rest}");
    until("the device is known", || {
        agent.metrics().contains("kurator_edge_devices 1")
    })
    .await;

    c.publish(&ask("twin/get"), r#"{"event_id":"g0","timestamp":1}"#).await;
    let got = c.next_on("twin/get/result").await;
    assert_eq!(timeless(&got), json!({"event_id": "g0", "timestamp": "T", "twin": {}}));

    c.publish(
        "$hw/events/node/gw-1/membership/get",
        r#"{"event_id":"m0","timestamp":1}"#,
    )
    .await;
    let got = c.next_on("membership/get/result").await;
    assert_eq!(
        timeless(&got),
        json!({"event_id": "m0", "timestamp": "T", "devices": [{"id": "default/d0", "name": "d0"}]})
    );

    let one = entry("actual", "1");
    c.publish(
        &ask("twin/update"),
        r#"{"event_id":"u1","timestamp":1,"twin":{"p0":{"actual":{"value":"1"},"metadata":{"type":"string"}}}}"#,
    )
    .await;
    let got = c.next_on("twin/update/result").await;
    assert_eq!(
        timeless(&got),
        json!({"event_id": "u1", "timestamp": "T", "twin": {"p0": one}})
    );
    let got = c.next_on("twin/update/document").await;
    assert_eq!(
        timeless(&got),
        json!({"event_id": "u1", "timestamp": "T", "twin": {"p0": {"last": null, "current": one}}})
    );

    c.publish(
        &ask("twin/update"),
        r#"{"event_id":"u2","timestamp":1,"twin":{"p0":{"actual":{"value":"2"}}}}"#,
    )
    .await;
    let got = c.next_on("twin/update/document").await;
    let two = entry("actual", "2");
    assert_eq!(
        timeless(&got),
        json!({"event_id": "u2", "timestamp": "T", "twin": {"p0": {"last": one, "current": two}}})
    );

    c.publish(
        &ask("twin/update"),
        r#"{"event_id":"u3","timestamp":1,"twin":{"p1":{"expected":{"value":"on"},"metadata":{"type":"string"}}}}"#,
    )
    .await;
    let on = entry("expected", "on");
    let got = c.next_on("twin/update/result").await;
    assert_eq!(
        timeless(&got),
        json!({"event_id": "u3", "timestamp": "T", "twin": {"p1": on}})
    );
    let got = c.next_on("twin/update/delta").await;
    assert_eq!(
        timeless(&got),
        json!({"event_id": "E", "timestamp": "T", "twin": {"p1": on}, "delta": {"p1": "on"}})
    );

    c.publish(
        &ask("twin/update"),
        r#"{"event_id":"u4","timestamp":1,"twin":{"p1":{"actual":{"value":"off"}}}}"#,
    )
    .await;
    let got = c.next_on("twin/update/delta").await;
    assert_eq!(got["delta"], json!({"p1": "on"}));
    assert_eq!(got["twin"]["p1"]["actual"]["value"], "off");

    c.publish(
        &ask("twin/update"),
        r#"{"event_id":"u5","timestamp":1,"twin":{"p1":{"actual":{"value":"on"}}}}"#,
    )
    .await;
    c.publish(
        &ask("twin/update"),
        r#"{"event_id":"u6","timestamp":1,"twin":{"p1":null}}"#,
    )
    .await;
    loop {
        let (topic, got) = c.next().await;
        assert!(!topic.ends_with("delta"), "the delta was closed: {got}");
        if got["event_id"] == "u6" && topic.ends_with("document") {
            assert_eq!(got["twin"]["p1"]["current"], Value::Null);
            break;
        }
    }

    c.publish(
        &ask("state/update"),
        r#"{"event_id":"s1","timestamp":1,"state":"online"}"#,
    )
    .await;
    let got = c.next_on("state/update/result").await;
    assert_eq!(
        timeless(&got)["device"],
        json!({"name": "d0", "state": "online", "lastOnlineTime": "T"})
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_answered_and_acknowledged_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let agent = start(&config(dir.path())).await;
    put(&agent, &[model(), device("d0")]).await;
    until("the device is known", || {
        agent.metrics().contains("kurator_edge_devices 1")
    })
    .await;
    let mut c = Client::connect(&agent, "c", &["$hw/events/device/+/+/twin/update/result"]).await;
    let update = format!("{D0}/twin/update");
    for (topic, payload, code, parts) in [
        (update.as_str(), r#"{"event_id":"a","#, 400, &[][..]),
        (&update, r#"{"event_id":"a","timestamp":1}"#, 400, &["twin"]),
        (
            &update,
            r#"{"event_id":"a","twin":{"nope":{"actual":{"value":"1"}}}}"#,
            404,
            &["nope", "press"],
        ),
        (
            &update,
            r#"{"event_id":"a","twin":{"temperature":{"actual":{"value":"warm"}}}}"#,
            400,
            &["temperature", "warm"],
        ),
        (
            &update,
            r#"{"event_id":"a","twin":{"setpoint":{"expected":{"value":"300"}}}}"#,
            400,
            &["setpoint", "300", "260"],
        ),
        (
            &update,
            r#"{"event_id":"a","twin":{"temperature":{"expected":{"value":"20"}}}}"#,
            400,
            &["temperature", "ReadOnly"],
        ),
        (
            "$hw/events/device/default/nobody/twin/update",
            r#"{"event_id":"a","twin":{"p":{"actual":{"value":"1"}}}}"#,
            404,
            &["not existed"],
        ),
    ] {
        c.publish(topic, payload).await;
        c.acked().await;
        let got = c.next_on("twin/update/result").await;
        assert_eq!(got["code"], code, "{payload}: {got}");
        for part in parts {
            assert!(got["reason"].as_str().unwrap().contains(part), "{part} in {got}");
        }
    }
    assert_eq!(reported(&agent, "d0", "temperature"), None);
    // One bad value among good ones takes all of them back.
    c.publish(
        &update,
        r#"{"event_id":"b","twin":{"mode":{"actual":{"value":"auto"}},"setpoint":{"actual":{"value":"x"}}}}"#,
    )
    .await;
    c.acked().await;
    assert_eq!(reported(&agent, "d0", "mode"), None);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let agent = start(&config).await;
    put(&agent, &[model(), device("d0")]).await;
    until("the device is known", || {
        agent.metrics().contains("kurator_edge_devices 1")
    })
    .await;
    let mut c = Client::connect(&agent, "c", &[]).await;
    for n in 0..50 {
        c.report("d0", "temperature", &format!("{n}.5")).await;
        // Acknowledged means committed: the store says so at once.
        assert_eq!(reported(&agent, "d0", "temperature"), Some(format!("{n}.5")));
    }
    let setpoint = r#"{"event_id":"x","twin":{"setpoint":{"expected":{"value":"180"}}}}"#;
    c.publish(&format!("{D0}/twin/update"), setpoint).await;
    c.acked().await;
    agent.stop().await;

    let agent = start(&config).await;
    assert_eq!(reported(&agent, "d0", "temperature"), Some("49.5".to_owned()));
    // The open delta is told to whoever subscribes, for as long as it is open.
    for id in ["late", "later"] {
        let mut late = Client::connect(&agent, id, &["$hw/events/device/default/d0/twin/update/delta"]).await;
        assert_eq!(late.next_on("delta").await["delta"], json!({"setpoint": "180"}));
    }
    let mut c = Client::connect(&agent, "c", &["$hw/events/device/+/+/twin/get/result"]).await;
    c.report("d0", "setpoint", "180").await;
    c.publish(&format!("{D0}/twin/get"), r#"{"event_id":"g"}"#).await;
    let got = c.next_on("get/result").await;
    assert_eq!(got["twin"]["temperature"]["actual"]["value"], "49.5");
    assert_eq!(got["twin"]["setpoint"]["expected"]["value"], "180");
    assert_eq!(got["twin"]["setpoint"]["actual"]["value"], "180");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_set_desired_values_with_no_hub() {
    let dir = tempfile::tempdir().unwrap();
    let agent = start(&config(dir.path())).await;
    let path = "/apis/devices.kubeedge.io/v1beta1/namespaces/default";
    let (code, body) = api(&agent, "POST", &format!("{path}/devicemodels"), Some(model())).await;
    assert_eq!(code, 201, "{body}");
    let mut c = Client::connect(&agent, "c", &["$hw/#"]).await;
    let (code, body) = api(&agent, "POST", &format!("{path}/devices"), Some(device("d0"))).await;
    assert_eq!(code, 201, "{body}");
    let got = c.next_on("membership/updated").await;
    assert_eq!(got["added_devices"], json!([{"id": "default/d0", "name": "d0"}]));

    let desired = |value: &str| json!({"spec": {"properties": [{"name": "setpoint", "desired": {"value": value}}]}});
    let (code, body) = api(&agent, "PATCH", &format!("{path}/devices/d0"), Some(desired("150"))).await;
    assert_eq!(code, 200, "{body}");
    let stamp = body["spec"]["properties"][0]["desired"]["metadata"]["stamp"]
        .as_str()
        .unwrap();
    assert!(stamp.ends_with(NODE), "stamped by the gateway's clock: {stamp}");
    assert_eq!(
        c.next_on("twin/update/delta").await["delta"],
        json!({"setpoint": "150"})
    );

    let (code, body) = api(&agent, "PATCH", &format!("{path}/devices/d0"), Some(desired("400"))).await;
    assert_eq!(code, 422, "{body}");
    let message = body["message"].as_str().unwrap();
    assert!(
        message.contains("setpoint") && message.contains("400") && message.contains("260"),
        "{message}"
    );

    // The next value is stamped later, and what the gateway took over shows in the status.
    let (_, body) = api(&agent, "PATCH", &format!("{path}/devices/d0"), Some(desired("160"))).await;
    let later = body["spec"]["properties"][0]["desired"]["metadata"]["stamp"]
        .as_str()
        .unwrap();
    assert!(later > stamp);
    assert_eq!(
        c.next_on("twin/update/delta").await["delta"],
        json!({"setpoint": "160"})
    );
    c.report("d0", "setpoint", "160").await;
    let (_, status) = api(&agent, "GET", &format!("{path}/devicestatuses/d0"), None).await;
    let twin = &status["status"]["twins"][0];
    assert_eq!(
        (&twin["reported"]["value"], &twin["observedDesired"]["value"]),
        (&json!("160"), &json!("160"))
    );

    let (code, _) = api(&agent, "DELETE", &format!("{path}/devicestatuses/d0"), None).await;
    assert_eq!(code, 403);
    let (code, node) = api(&agent, "GET", &format!("/api/v1/nodes/{NODE}"), None).await;
    let ready = node["status"]["conditions"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (code, &ready["type"], &ready["status"]),
        (200, &json!("Ready"), &json!("True"))
    );

    let (code, _) = api(&agent, "DELETE", &format!("{path}/devices/d0"), None).await;
    assert_eq!(code, 200);
    let got = c.next_on("membership/updated").await;
    assert_eq!(got["removed_devices"], json!([{"id": "default/d0", "name": "d0"}]));
    until("its status goes with it", || {
        agent
            .store()
            .get(&crate::harness::key("devicestatuses", "d0"))
            .unwrap()
            .is_none()
    })
    .await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_reports_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    let agent = start(&config).await;
    put(&agent, &[free_device("d0")]).await;
    soon_api(&agent).await;
    agent.stop().await;

    let size = std::fs::metadata(dir.path().join("data/edgecore.db")).unwrap().len();
    config.store_max_bytes = Some(size + 256 * 1024);
    let agent = start(&config).await;
    let mut c = Client::connect(&agent, "c", &["$hw/events/device/+/+/twin/update/result"]).await;
    let update = format!("{D0}/twin/update");
    let large = |n: usize| {
        let twin: serde_json::Map<String, Value> = (0..8)
            .map(|p| {
                (
                    format!("p{p}"),
                    json!({"actual": {"value": format!("{n}{}", "x".repeat(30_000))}}),
                )
            })
            .collect();
        json!({"event_id": format!("e{n}"), "twin": twin}).to_string()
    };
    let mut stored = None;
    let mut refused = None;
    for n in 0..40 {
        c.publish(&update, large(n)).await;
        let got = c.next_on("result").await;
        match got["code"].as_u64() {
            None => {
                c.acked().await;
                stored = Some(n);
            }
            Some(code) => {
                assert_eq!(code, 507, "{got}");
                assert!(got["reason"].as_str().unwrap().contains("full"), "{got}");
                refused = Some(n);
                break;
            }
        }
    }
    assert!(refused.is_some(), "the store took everything");
    assert!(
        !c.acked_within(Duration::from_millis(300)).await,
        "not stored and acknowledged nonetheless"
    );
    // The agent lives, and what it says is what it has.
    let shown = reported(&agent, "d0", "p0");
    assert_eq!(
        shown.map(|v| v.trim_end_matches('x').to_owned()),
        stored.map(|n: usize| n.to_string())
    );
    agent.stop().await;

    config.store_max_bytes = None;
    let agent = start(&config).await;
    let mut c = Client::connect(&agent, "c2", &[]).await;
    c.report("d0", "p0", "fits").await;
    assert_eq!(reported(&agent, "d0", "p0").as_deref(), Some("fits"));
    agent.stop().await;
}

/// The disk is full when a Device comes and another goes: nobody asks again for their DeviceStatuses, the agent does it by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_that_a_full_disk_held_up_follow_when_it_has_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    let agent = start(&config).await;
    put(&agent, &[free_device("old")]).await;
    soon_api(&agent).await;
    agent.stop().await;

    let size = std::fs::metadata(dir.path().join("data/edgecore.db")).unwrap().len();
    config.store_max_bytes = Some(size + 1024 * 1024);
    let agent = start(&config).await;
    let fill = |n: u32| Op::KvPut {
        bucket: "fill".into(),
        key: n.to_be_bytes().to_vec(),
        value: vec![0; 4 * 1024],
    };
    let free = |n: u32| Op::KvDelete {
        bucket: "fill".into(),
        key: n.to_be_bytes().to_vec(),
    };
    let mut filled = 0;
    while agent.store().commit(Tx(vec![fill(filled)])).await.is_ok() {
        filled += 1;
    }
    assert!(filled > 10);
    // As much room as the Device itself needs and no more.
    let mut device = free_device("new");
    let text: String = (0..20_000).map(|_| fastrand::alphanumeric()).collect();
    device["spec"]["properties"] = json!([{"name": "p", "desired": {"value": text}}]);
    let come = || {
        Tx::new()
            .put(crate::harness::key("devices", "new"), device.clone(), Expect::Any)
            .delete(crate::harness::key("devices", "old"), Expect::Any)
    };
    let mut freed = 0;
    while agent.store().commit(come()).await.is_err() {
        agent.store().commit(Tx(vec![free(freed)])).await.unwrap();
        freed += 1;
    }
    let status = |name: &str| {
        let status = agent.store().get(&crate::harness::key("devicestatuses", name));
        status.unwrap().is_some()
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!status("new"), "there was room");
    for n in freed..filled {
        agent.store().commit(Tx(vec![free(n)])).await.unwrap();
    }
    until("the statuses follow", || status("new") && !status("old")).await;
    agent.stop().await;
}

/// More changes at once than the store remembers for watchers: the device still hears what is wanted of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delta_is_not_lost_when_changes_come_faster_than_they_are_watched() {
    let dir = tempfile::tempdir().unwrap();
    let agent = start(&config(dir.path())).await;
    put(&agent, &[free_device("d0")]).await;
    let mut c = Client::connect(
        &agent,
        "c",
        &[
            "$hw/events/device/+/+/twin/update/delta",
            "$hw/events/node/+/membership/updated",
        ],
    )
    .await;
    c.report("d0", "p", "0").await;
    let wanting = |value: usize| {
        let mut device = free_device("d0");
        device["spec"]["properties"] = json!([{"name": "p", "desired": {"value": value.to_string()}}]);
        device
    };
    let mut tx = Tx::new();
    for n in 1..=15_000 {
        tx = tx.put(crate::harness::key("devices", "d0"), wanting(n), Expect::Any);
    }
    tx = tx.put(crate::harness::key("devices", "d1"), free_device("d1"), Expect::Any);
    agent.store().commit(tx).await.unwrap();
    let (mut delta, mut member) = (false, false);
    while !(delta && member) {
        let (topic, message) = c.next().await;
        delta |= topic.ends_with("delta") && message["delta"]["p"] == "15000";
        member |= topic.ends_with("updated") && message["added_devices"][0]["name"] == "d1";
    }
    agent.stop().await;
}

async fn soon_api(agent: &edgecore::Agent) {
    crate::harness::soon("API is up", agent.api()).await.unwrap();
}

/// One connection, thousands of reports in flight: all acknowledged, all there, in a small number of commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_batched_and_in_order() {
    const REPORTS: usize = 3000;
    let dir = tempfile::tempdir().unwrap();
    let agent = start(&config(dir.path())).await;
    let devices: Vec<Value> = (0..10).map(|n| free_device(&format!("d{n}"))).collect();
    put(&agent, &devices).await;
    until("the devices are known", || {
        agent.metrics().contains("kurator_edge_devices 10")
    })
    .await;
    let mut c = Client::connect(&agent, "c", &[]).await;
    for n in 0..REPORTS {
        let twin = json!({"event_id": "", "twin": {"n": {"actual": {"value": n.to_string()}}}});
        c.publish(
            &format!("$hw/events/device/default/d{}/twin/update", n % 10),
            twin.to_string(),
        )
        .await;
    }
    for _ in 0..REPORTS {
        c.acked().await;
    }
    for d in 0..10 {
        assert_eq!(
            reported(&agent, &format!("d{d}"), "n"),
            Some((REPORTS - 10 + d).to_string())
        );
    }
    let metrics = agent.metrics();
    let count = |name: &str| -> usize {
        let line = metrics.lines().find(|l| l.starts_with(&format!("{name} "))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(count("kurator_edge_reports_accepted_total"), REPORTS);
    agent.stop().await;
}

/// Devices on a broker that somebody else runs: requests reach the agent also when they were sent while it was away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_external_broker_keeps_what_was_sent_while_the_agent_was_away() {
    let dir = tempfile::tempdir().unwrap();
    let broker = mqtt::Broker::start(
        mqtt::BrokerConfig {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            local_prefixes: Vec::new(),
            ..mqtt::BrokerConfig::default()
        },
        std::sync::Arc::new(mqtt::MemoryPersist::default()),
        std::sync::Arc::new(mqtt::NoLocalTopics),
    )
    .await
    .unwrap();
    let at = broker.addresses()[0];
    let mut config = config(dir.path());
    config.mqtt = edgecore::Mqtt {
        mode: edgecore::MqttMode::External,
        listen: String::new(),
        external: at.to_string(),
    };
    let agent = start(&config).await;
    put(&agent, &[free_device("d0")]).await;
    let mut c = Client::at(at, "c", &["$hw/events/device/+/+/twin/update/result"]).await;
    until("the agent has subscribed", || {
        broker.has_subscribers(&format!("{D0}/twin/update"))
    })
    .await;
    c.report("d0", "p", "1").await;
    assert_eq!(c.next_on("result").await["twin"]["p"]["actual"]["value"], "1");
    assert_eq!(reported(&agent, "d0", "p").as_deref(), Some("1"));
    agent.stop().await;

    // Taken by the broker for the agent's session, not by the agent.
    for n in 2..=30 {
        c.report("d0", "p", &n.to_string()).await;
    }
    let agent = start(&config).await;
    until("the last report is stored", || {
        reported(&agent, "d0", "p").as_deref() == Some("30")
    })
    .await;
    // Each was answered, in order.
    for n in 2..=30 {
        assert_eq!(c.next_on("result").await["twin"]["p"]["actual"]["value"], n.to_string());
    }
    agent.stop().await;
    broker.shutdown(Duration::from_secs(2)).await;
}
