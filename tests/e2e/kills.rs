//! kill -9 at any moment during a stream of QoS 1 reports: what was acknowledged is there, and is there once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rumqttc::{AsyncClient, Event, MqttOptions, Outgoing, Packet, QoS};
use serde_json::{Value, json};
use tests::{Edge, Pair, eventually, get, kubectl};

const UPDATE: &str = "$hw/events/device/default/press-01/twin/update";
const STATUS: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devicestatuses/press-01";

/// A device that counts, as fast as it is acknowledged.
struct Counter {
    sent: Arc<AtomicU64>,
    acknowledged: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Counter {
    fn start(mqtt: &str) -> Self {
        let (host, port) = mqtt.rsplit_once(':').unwrap();
        let mut options = MqttOptions::new("counter", host, port.parse().unwrap());
        options
            .set_clean_session(false)
            .set_inflight(20)
            .set_keep_alive(Duration::from_secs(5));
        let (client, mut events) = AsyncClient::new(options, 4);
        let (sent, acknowledged) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (s, a) = (Arc::clone(&sent), Arc::clone(&acknowledged));
        let task = tokio::spawn(async move {
            let producer = tokio::spawn(async move {
                for n in 1_u64.. {
                    let payload = json!({"event_id": n.to_string(), "timestamp": 1, "twin": {"cycles": {"actual": {"value": n.to_string()}}}});
                    s.store(n, Ordering::SeqCst);
                    if client
                        .publish(UPDATE, QoS::AtLeastOnce, false, payload.to_string())
                        .await
                        .is_err()
                    {
                        return;
                    }
                    tokio::time::sleep(Duration::from_micros(500)).await;
                }
            });
            // The client numbers packets as it sends them; publishes are in order, so the n-th new packet is the n-th count.
            let mut counts = std::collections::HashMap::new();
            let mut next = 1_u64;
            loop {
                match events.poll().await {
                    Ok(Event::Outgoing(Outgoing::Publish(id))) => {
                        counts.entry(id).or_insert_with(|| {
                            next += 1;
                            next - 1
                        });
                    }
                    Ok(Event::Incoming(Packet::PubAck(ack))) => {
                        if let Some(n) = counts.remove(&ack.pkid) {
                            a.fetch_max(n, Ordering::SeqCst);
                        }
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
                if producer.is_finished() {
                    return;
                }
            }
        });
        Self {
            sent,
            acknowledged,
            task,
        }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn count(edge: &Edge) -> Option<u64> {
    let status: Value = get(&edge.api().await, STATUS).await?;
    let twins = status["status"]["twins"].as_array()?;
    twins.iter().find(|t| t["propertyName"] == "cycles")?["reported"]["value"]
        .as_str()?
        .parse()
        .ok()
}

#[tokio::test]
async fn a_hundred_kills_lose_no_acknowledged_report() {
    let mut pair = Pair::start().await;
    pair.with_press("press-01").await;
    let history = json!({"spec": {"properties": [{"name": "cycles", "reportToCloud": true}]}}).to_string();
    kubectl(
        &pair.hub.kubeconfig(),
        &["patch", "device", "press-01", "--type=merge", "-p", &history],
    )
    .await
    .good();
    let device = Counter::start(pair.edge.mqtt());
    // At each kill of the agent: what was acknowledged, what was sent.
    let mut kills = Vec::new();
    for round in 0..100 {
        let before = device.acknowledged();
        eventually(&format!("round {round}: reports to flow"), async || {
            (device.acknowledged() > before).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..25))).await;
        if round % 5 == 4 {
            pair.hub.kill().await;
            pair.hub.start_again().await;
            continue;
        }
        pair.edge.kill().await;
        let acknowledged = device.acknowledged();
        kills.push((acknowledged, device.sent.load(Ordering::SeqCst)));
        pair.edge.start_again().await;
        let held = eventually("the agent to answer", async || count(&pair.edge).await).await;
        let sent = device.sent.load(Ordering::SeqCst);
        assert!(
            held >= acknowledged,
            "round {round}: {acknowledged} was acknowledged, the agent holds {held}"
        );
        assert!(
            held <= sent,
            "round {round}: the agent holds {held}, only {sent} were sent"
        );
    }
    let acknowledged = Arc::clone(&device.acknowledged);
    drop(device);
    let last = acknowledged.load(Ordering::SeqCst);
    eventually("the cloud to have caught up", async || {
        let status = get(&pair.hub.api, STATUS).await?;
        let twins = status["status"]["twins"].as_array()?.clone();
        let value = twins.iter().find(|t| t["propertyName"] == "cycles")?["reported"]["value"]
            .as_str()?
            .parse::<u64>()
            .ok()?;
        (value >= last).then_some(())
    })
    .await;
    let delivered = eventually("the journals to be told whole", async || {
        let node = pair.hub.gateway("gw-1").await?;
        settled(&node["journals"])
    })
    .await;
    assert!(
        delivered >= last,
        "{last} reports were acknowledged, {delivered} records came"
    );
    let history = read_history(&pair).await;
    let numbers: Vec<u64> = history.iter().map(|(seq, _)| *seq).collect();
    assert!(
        numbers.iter().copied().eq(1..=numbers.len() as u64),
        "the gateway's numbers are not one after the other: {:?}",
        numbers.iter().zip(1..).find(|(n, at)| **n != *at)
    );
    assert_eq!(numbers.len() as u64, delivered);
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for (_, count) in &history {
        *counts.entry(*count).or_default() += 1;
    }
    let missing: Vec<u64> = (1..=last).filter(|n| !counts.contains_key(n)).collect();
    assert!(missing.is_empty(), "acknowledged and not in the history: {missing:?}");
    // A report comes twice only if the device sent it twice: it was under way when its agent was killed.
    for (count, times) in counts {
        let under_way = kills.iter().filter(|(a, s)| (*a + 1..=*s).contains(&count)).count();
        assert!(
            times <= 1 + under_way,
            "{count} stands {times} times in the history, it was under way at {under_way} kills"
        );
    }
    // People see the same account in the object.
    eventually("EdgeNode to show it", async || {
        let node = get(&pair.hub.api, "/apis/edge.kubeedge.io/v1/edgenodes/gw-1").await?;
        balanced(&node["status"]["journals"]).map(drop)
    })
    .await;
}

/// The streams of an account, if there are any; fails when one does not balance.
fn balanced(journals: &Value) -> Option<&Vec<Value>> {
    let streams = journals.as_array().filter(|all| !all.is_empty())?;
    for journal in streams {
        let n = |field: &str| {
            journal[field]
                .as_u64()
                .unwrap_or_else(|| panic!("no {field} in {journal}"))
        };
        assert_eq!(n("accepted"), n("delivered") + n("dropped") + n("waiting"), "{journal}");
        assert_eq!(n("dropped"), 0, "{journal}");
    }
    Some(streams)
}

/// How many records of telemetry were delivered, once nothing waits.
fn settled(journals: &Value) -> Option<u64> {
    let streams = balanced(journals)?;
    let all = streams.iter().all(|j| j["waiting"] == 0);
    let telemetry = streams.iter().find(|j| j["stream"] == "telemetry")?;
    all.then(|| telemetry["delivered"].as_u64())?
}

/// The whole history at the hub: the gateway's number and the count of each record, as they came.
async fn read_history(pair: &Pair) -> Vec<(u64, u64)> {
    let (mut from, mut all) = (Some(1), Vec::new());
    let mut stores = BTreeSet::new();
    while let Some(position) = from {
        let path = format!("/kurator/v1/journals/gw-1/telemetry?from={position}&limit=1000");
        let page = get(&pair.hub.api, &path).await.expect("the hub keeps the history");
        assert_eq!(page["forcedOut"], 0, "the hub's bound is too small for this test");
        for item in page["items"].as_array().expect("a page has items") {
            stores.insert(item["instance"].to_string());
            let count = item["record"]["values"]["cycles"].as_str().and_then(|c| c.parse().ok());
            let count = count.unwrap_or_else(|| panic!("not a report: {item}"));
            all.push((item["seq"].as_u64().expect("a record has its number"), count));
        }
        from = page["next"].as_u64();
    }
    assert_eq!(stores.len(), 1, "the gateway's store was never lost");
    all
}
