//! Messages sent again because their acknowledgement was lost: in the history once, unless nothing tells them from new ones.

use metastore::store::Store;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{config, free_device, put, reported, soon, start, until};

const UPDATE: &str = "$hw/events/device/default/d0/twin/update";
const DUP: u8 = 8;
const QOS1: u8 = 2;
const QOS2: u8 = 4;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;

/// A client that decides itself what it sends again.
struct Raw(TcpStream);

impl Raw {
    /// Connects as `c`.
    async fn connect(agent: &edgecore::Agent, clean: bool) -> Self {
        let mut stream = TcpStream::connect(agent.addresses().mqtt.unwrap()).await.unwrap();
        let mut connect = b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x00\x00\x01c".to_vec();
        connect[9] = u8::from(clean) << 1;
        stream.write_all(&connect).await.unwrap();
        let mut answer = [0; 4];
        soon("CONNACK", stream.read_exact(&mut answer)).await.unwrap();
        assert_eq!((answer[0], answer[3]), (0x20, 0));
        Self(stream)
    }

    async fn publish(&mut self, flags: u8, id: u8, payload: &Value) {
        let payload = payload.to_string();
        let rest = 2 + UPDATE.len() + 2 + payload.len();
        let mut packet = vec![
            0x30 | flags,
            u8::try_from(rest % 128).unwrap() | 0x80,
            u8::try_from(rest / 128).unwrap(),
            0,
            u8::try_from(UPDATE.len()).unwrap(),
        ];
        packet.extend(UPDATE.as_bytes());
        packet.extend([0, id]);
        packet.extend(payload.as_bytes());
        self.0.write_all(&packet).await.unwrap();
    }

    async fn acked(&mut self, kind: u8, id: u8) {
        let mut answer = [0; 4];
        soon("an acknowledgement", self.0.read_exact(&mut answer))
            .await
            .unwrap();
        assert_eq!(answer, [kind, 2, 0, id]);
    }

    async fn release(&mut self, id: u8) {
        self.0.write_all(&[PUBREL, 2, 0, id]).await.unwrap();
        self.acked(PUBCOMP, id).await;
    }
}

fn report(event_id: &str, value: &str) -> Value {
    json!({"event_id": event_id, "twin": {"p": {"actual": {"value": value}}}})
}

/// The values in the history.
fn history(store: &Store) -> Vec<String> {
    let records = store.journal_read("telemetry", 1, 1 << 20).unwrap();
    let values = records.iter().map(|(_, body)| {
        let record: Value = serde_json::from_slice(body).unwrap();
        record["values"]["p"].as_str().unwrap().to_owned()
    });
    values.collect()
}

async fn agent(dir: &std::path::Path) -> edgecore::Agent {
    let agent = start(&config(dir)).await;
    let mut device = free_device("d0");
    device["spec"]["properties"] = json!([{"name": "p", "reportToCloud": true}]);
    put(&agent, &[device]).await;
    until("the device is known", || {
        agent.metrics().contains("kurator_edge_devices 1")
    })
    .await;
    agent
}

/// Sends a report, and breaks the connection before the acknowledgement can be read, once the report is stored.
async fn lose_acknowledgement(
    agent: &edgecore::Agent,
    clean: bool,
    flags: u8,
    id: u8,
    payload: &Value,
    records: usize,
) {
    let mut raw = Raw::connect(agent, clean).await;
    raw.publish(flags, id, payload).await;
    until("the report is stored", || history(agent.store()).len() == records).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_whose_acknowledgement_was_lost_is_in_the_history_once() {
    let dir = tempfile::tempdir().unwrap();
    for (turn, clean) in [true, false].into_iter().enumerate() {
        let agent = agent(dir.path()).await;
        let (one, two) = (2 * turn + 1, 2 * turn + 2);
        let payload = report(&one.to_string(), &one.to_string());
        lose_acknowledgement(&agent, clean, QOS1, 7, &payload, one).await;
        // Over a new connection, again over a third, and after a restart of the agent.
        for _ in 0..2 {
            let mut raw = Raw::connect(&agent, clean).await;
            raw.publish(DUP | QOS1, 7, &payload).await;
            raw.acked(PUBACK, 7).await;
        }
        assert!(agent.metrics().contains("requests_repeated_total 2"));
        agent.stop().await;
        let agent = self::agent(dir.path()).await;
        let mut raw = Raw::connect(&agent, clean).await;
        raw.publish(DUP | QOS1, 7, &payload).await;
        raw.acked(PUBACK, 7).await;
        assert_eq!(history(agent.store()).len(), one);
        // The packet id is free for another; and one of which only the second transmission arrives is taken.
        raw.publish(DUP | QOS1, 7, &report(&two.to_string(), &two.to_string()))
            .await;
        raw.acked(PUBACK, 7).await;
        let expected: Vec<String> = (1..=two).map(|n| n.to_string()).collect();
        assert_eq!(history(agent.store()), expected);
        assert_eq!(reported(&agent, "d0", "p"), Some(two.to_string()));
        agent.stop().await;
    }
}

/// What is sent again is answered on `update/result` as well: the client may wait for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_sent_again_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(dir.path()).await;
    lose_acknowledgement(&agent, true, QOS1, 7, &report("e1", "1"), 1).await;
    let mut listener =
        crate::harness::Client::connect(&agent, "l", &["$hw/events/device/+/+/twin/update/result"]).await;
    let mut raw = Raw::connect(&agent, true).await;
    raw.publish(DUP | QOS1, 7, &report("e1", "1")).await;
    let answer = listener.next_on("result").await;
    assert_eq!(
        (&answer["event_id"], &answer["twin"]["p"]["actual"]["value"]),
        (&json!("e1"), &json!("1"))
    );
    agent.stop().await;
}

/// Nothing tells the second of two equal messages from the first sent again: both are kept, rather than one lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_reports_without_a_name_or_a_time_are_all_kept() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(dir.path()).await;
    let payload = report("", "1");
    let mut raw = Raw::connect(&agent, true).await;
    raw.publish(QOS1, 7, &payload).await;
    raw.acked(PUBACK, 7).await;
    // The first transmission of the second one was lost on the way.
    raw.publish(DUP | QOS1, 7, &payload).await;
    raw.acked(PUBACK, 7).await;
    assert_eq!(history(agent.store()), ["1", "1"]);
    // With a name they are told apart by it, with the same packet id as well.
    for (event_id, count) in [("a", 3), ("b", 4), ("b", 4)] {
        raw.publish(DUP | QOS1, 7, &report(event_id, "1")).await;
        raw.acked(PUBACK, 7).await;
        assert_eq!(history(agent.store()).len(), count);
    }
    agent.stop().await;
}

/// QoS 2 without a name: the packet id tells until PUBREL, over connections that end the broker's session, and over a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_qos_2_the_packet_id_is_the_name_until_it_is_released() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(dir.path()).await;
    let payload = report("", "1");
    // With the session the broker forgets the packet id; what the twins keep is all there is, as after a crash between the commits.
    lose_acknowledgement(&agent, true, QOS2, 7, &payload, 1).await;
    agent.stop().await;
    let agent = self::agent(dir.path()).await;
    let mut raw = Raw::connect(&agent, true).await;
    raw.publish(DUP | QOS2, 7, &payload).await;
    raw.acked(PUBREC, 7).await;
    assert_eq!(history(agent.store()), ["1"]);
    raw.release(7).await;
    drop(raw);
    agent.stop().await;

    // Released: the same words are another message, of which the first transmission was lost.
    let agent = self::agent(dir.path()).await;
    let mut raw = Raw::connect(&agent, true).await;
    raw.publish(DUP | QOS2, 7, &payload).await;
    raw.acked(PUBREC, 7).await;
    assert_eq!(history(agent.store()), ["1", "1"]);
    raw.release(7).await;
    // And without any loss each is one.
    raw.publish(QOS2, 7, &payload).await;
    raw.acked(PUBREC, 7).await;
    raw.release(7).await;
    assert_eq!(history(agent.store()).len(), 3);
    agent.stop().await;
}
