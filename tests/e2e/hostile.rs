//! Bad input costs its sender an error, never the daemon: after each abuse the same pair still does its job.

use std::time::Duration;

use serde_json::json;
use tests::{Pair, Subscriber, eventually, kubectl, kurator, mosquitto_pub};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

const UPDATE: &str = "$hw/events/device/default/press-01/twin/update";

fn report(property: &str, value: &str) -> String {
    json!({"event_id": "h", "timestamp": 1, "twin": {property: {"actual": {"value": value}}}}).to_string()
}

/// The main job, once: an edit goes down, a report comes back, by the same processes as before.
async fn still_works(pair: &mut Pair, setpoint: u32) {
    let value = setpoint.to_string();
    let mut device = Subscriber::start(pair.edge.mqtt(), &format!("{UPDATE}/delta"), &[]).await;
    kurator(
        &pair.hub.kubeconfig(),
        &["twin", "set", "press-01", &format!("setpoint={value}")],
    )
    .await
    .good();
    device
        .until("the edit's delta", |_, p| p["delta"]["setpoint"] == value.as_str())
        .await;
    mosquitto_pub(pair.edge.mqtt(), UPDATE, &report("setpoint", &value))
        .await
        .good();
    kurator(
        &pair.hub.kubeconfig(),
        &["twin", "set", "press-01", &format!("setpoint={value}"), "--wait", "30s"],
    )
    .await
    .good();
    assert!(pair.edge.alive());
}

/// Connects, sends, and tells whether the peer closed the connection (it may answer first).
async fn closes_on(address: &str, bytes: &[u8]) -> bool {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The peer may close before everything is written.
    drop(stream.write_all(bytes).await);
    let mut sink = Vec::new();
    tokio::time::timeout(tests::PATIENCE, stream.read_to_end(&mut sink))
        .await
        .is_ok()
}

#[tokio::test]
async fn garbage_on_the_gateways_port_and_ten_thousand_half_open_connections() {
    let mut pair = Pair::start().await;
    pair.with_press("press-01").await;
    let hub = pair.hub.listen().to_string();

    let mut random = vec![0_u8; 64 * 1024];
    for round in 0..20 {
        random.iter_mut().for_each(|b| *b = fastrand::u8(..));
        assert!(
            closes_on(&hub, &random[..1 << (round % 17)]).await,
            "round {round}: the hub kept a connection that is not TLS"
        );
    }
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for length in [0, 1, 20, 1199, 1200, 1500, 9000] {
        random[..length].iter_mut().for_each(|b| *b = fastrand::u8(..));
        udp.send_to(&random[..length], &hub).await.unwrap();
    }
    // A TLS record header that announces the most, then one byte now and then: the handshake's deadline ends it.
    let mut slow = TcpStream::connect(&hub).await.unwrap();
    slow.write_all(&[0x16, 0x03, 0x01, 0x40, 0x00]).await.unwrap();

    // Half-open: connected, silent, all held at once.
    daemon::descriptors::raise_limit();
    let mut held = Vec::new();
    let mut opened = 0_u32;
    while opened < 10_000 {
        let batch: Vec<_> = (0..250).map(|_| TcpStream::connect(hub.clone())).collect();
        for stream in futures_util::future::join_all(batch).await.into_iter().flatten() {
            held.push(stream);
        }
        opened += 250;
    }
    assert_eq!(held.len(), 10_000);
    still_works(&mut pair, 61).await;
    let mut byte = [0];
    let ended = tokio::time::timeout(tests::PATIENCE, slow.read(&mut byte)).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "a handshake without end was kept");
    drop(held);
    // A fresh gateway can still join.
    let folder = tempfile::tempdir().unwrap();
    let _second = Pair::gateway(&pair.hub, folder.path(), "gw-2").await;
    pair.hub.until_in_sync("gw-2").await;
}

#[tokio::test]
async fn requests_past_every_bound_get_the_answer_of_a_real_server() {
    let mut pair = Pair::start().await;
    let hub = pair.hub.pid();
    for kubeconfig in [pair.hub.kubeconfig(), pair.edge.kubeconfig()] {
        let ended = tests::run(
            tokio::process::Command::new(tests::clients().join("python/bin/python"))
                .arg(tests::checkout().join("tests/e2e/python_hostile.py"))
                .arg(kubeconfig),
        )
        .await;
        assert_eq!(ended.good(), "done\n");
    }
    assert_eq!(pair.hub.pid(), hub);
    assert!(pair.edge.alive());
}

#[tokio::test]
async fn malformed_mqtt_ends_that_connection_only() {
    let mut pair = Pair::start().await;
    pair.with_press("press-01").await;
    let mqtt = pair.edge.mqtt().to_owned();
    const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01x";
    let after_connect = |more: &[u8]| [CONNECT, more].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        (
            "a PUBLISH that announces 256 MiB",
            after_connect(b"\x30\xff\xff\xff\x7f"),
        ),
        (
            "a remaining length of five bytes",
            after_connect(b"\x30\xff\xff\xff\xff\xff\x01"),
        ),
        ("not MQTT", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("PUBLISH before CONNECT", b"\x30\x03\x00\x01a".to_vec()),
        (
            "a wrong protocol level",
            b"\x10\x0d\x00\x04MQTT\x63\x02\x00\x3c\x00\x01x".to_vec(),
        ),
        ("a reserved packet type", after_connect(b"\xf0\x00\xf0\x00")),
        ("a topic longer than its packet", after_connect(b"\x30\x04\xff\xffab")),
        ("a SUBSCRIBE without a filter", after_connect(b"\x82\x02\x00\x01")),
        ("a topic that is not UTF-8", after_connect(b"\x30\x04\x00\x02\xff\xfe")),
        ("a PUBLISH to a wildcard", after_connect(b"\x30\x05\x00\x03a/#")),
        ("two CONNECTs", after_connect(CONNECT)),
    ];
    for (what, bytes) in cases {
        assert!(closes_on(&mqtt, &bytes).await, "{what} did not end the connection");
    }
    for _ in 0..200 {
        let noise: Vec<u8> = (0..fastrand::usize(1..400)).map(|_| fastrand::u8(..)).collect();
        let mut stream = TcpStream::connect(&mqtt).await.unwrap();
        drop(stream.write_all(&after_connect(&noise)).await);
    }
    still_works(&mut pair, 62).await;
}

#[tokio::test]
async fn a_twin_payload_of_any_kind_gets_an_answer_and_changes_nothing() {
    let mut pair = Pair::start().await;
    pair.with_press("press-01").await;
    mosquitto_pub(pair.edge.mqtt(), UPDATE, &report("temperature", "40"))
        .await
        .good();
    let mut results = Subscriber::start(pair.edge.mqtt(), &format!("{UPDATE}/result"), &[]).await;
    let deep = "[".repeat(5_000);
    let long = report("state", &"x".repeat(70 * 1024));
    for payload in [
        "null",
        "[]",
        "{\"twin\":[]}",
        "{\"twin\":{}}",
        "{\"twin\":{\"\":{\"actual\":{\"value\":\"1\"}}}}",
        deep.as_str(),
        long.as_str(),
        "\"",
        "{\"event_id\":7,\"twin\":{\"temperature\":{\"actual\":7}}}",
    ] {
        mosquitto_pub(pair.edge.mqtt(), UPDATE, payload).await.good();
        let (_, result) = results.next().await;
        assert!(
            result["code"].as_u64().is_some_and(|c| c >= 400),
            "{} -> {result}",
            &payload[..payload.len().min(60)]
        );
    }
    let status = kubectl(
        &pair.edge.kubeconfig(),
        &[
            "get",
            "devicestatus",
            "press-01",
            "-o",
            "jsonpath={.status.twins[*].reported.value}",
        ],
    )
    .await;
    assert_eq!(status.good(), "40");
    still_works(&mut pair, 63).await;
}

#[tokio::test]
async fn a_clock_set_to_1970_neither_stops_the_link_nor_the_twins() {
    let mut pair = Pair::start().await;
    pair.with_press("press-01").await;
    pair.edge.stop().await;
    for (key, value) in tests::clock_at("1970-01-02 00:00:00") {
        pair.edge.set(&key, &value);
    }
    pair.edge.start_again().await;
    pair.hub.until_in_sync("gw-1").await;
    still_works(&mut pair, 64).await;
    // An edit at the gateway whose clock is half a century late still wins over the older one in the cloud.
    kurator(&pair.edge.kubeconfig(), &["twin", "set", "press-01", "setpoint=77"])
        .await
        .good();
    eventually("the edit in the cloud", async || {
        let cloud = kubectl(
            &pair.hub.kubeconfig(),
            &[
                "get",
                "device",
                "press-01",
                "-o",
                "jsonpath={.spec.properties[?(@.name=='setpoint')].desired.value}",
            ],
        )
        .await;
        (cloud.out == "77").then_some(())
    })
    .await;
}

#[tokio::test]
async fn two_gateways_with_one_identity_are_told_and_the_hub_says_so() {
    let pair = Pair::start().await;
    let copy = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(copy.path().join("data")).unwrap();
    tests::copy_folder(&pair.edge.folder().join("etc"), &copy.path().join("etc"));
    let config = std::fs::read_to_string(copy.path().join("etc/edgecore.yaml")).unwrap();
    let own = |path: &std::path::Path| path.display().to_string();
    let config = config.replace(&own(pair.edge.folder()), &own(copy.path()));
    std::fs::write(copy.path().join("etc/edgecore.yaml"), config).unwrap();
    let _twin = tests::Edge::start(copy.path(), "gw-1").await;
    eventually("the hub to tell of a duplicate identity", async || {
        let conditions = kubectl(
            &pair.hub.kubeconfig(),
            &[
                "get",
                "edgenode",
                "gw-1",
                "-o",
                "jsonpath={.status.conditions[*].type}={.status.conditions[*].status}",
            ],
        )
        .await;
        (conditions.out.contains("DuplicateIdentity") && conditions.out.contains("True")).then_some(())
    })
    .await;
    // One of the two keeps working.
    eventually("one of the two to hold the link", async || {
        pair.hub.gateway("gw-1").await.filter(|n| n["connected"] == true)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1)).await;
}
