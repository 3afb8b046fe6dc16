//! kill -9 at any moment during a stream of QoS 1 reports: what was acknowledged is there, and is there once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tests::{Edge, Pair, eventually, get, kubectl};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const UPDATE: &str = "$hw/events/device/default/press-01/twin/update";
const STATUS: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devicestatuses/press-01";

/// Reports under way at a time.
const UNDER_WAY: usize = 20;

/// A device that counts, as fast as it is acknowledged. It speaks MQTT by itself, so that nothing stands between a count and its
/// acknowledgement: what is not acknowledged is sent again on the next connection, in order.
struct Counter {
    told: Arc<Told>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Told {
    sent: AtomicU64,
    acknowledged: Mutex<BTreeSet<u64>>,
    /// How often the broker had forgotten the session.
    forgotten: AtomicU64,
}

impl Counter {
    fn start(mqtt: &str) -> Self {
        let (told, mqtt) = (Arc::<Told>::default(), mqtt.to_owned());
        let to = Arc::clone(&told);
        let task = tokio::spawn(async move {
            let (mut next, mut open) = (1, VecDeque::new());
            let mut before = false;
            loop {
                if let Ok(stream) = TcpStream::connect(&mqtt).await {
                    // Ends with the connection.
                    session(stream, &to, &mut next, &mut open, &mut before).await.ok();
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        Self { told, task }
    }

    fn acknowledged(&self) -> u64 {
        self.told.acknowledged.lock().unwrap().last().copied().unwrap_or(0)
    }

    fn sent(&self) -> u64 {
        self.told.sent.load(Ordering::SeqCst)
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The identifier under which a count travels; never 0.
fn packet_id(count: u64) -> [u8; 2] {
    u16::try_from((count - 1) % 65_535 + 1).unwrap().to_be_bytes()
}

/// A PUBLISH of QoS 1.
fn publish(count: u64, again: bool) -> Vec<u8> {
    let count_text = count.to_string();
    let payload =
        json!({"event_id": count_text, "timestamp": 1, "twin": {"cycles": {"actual": {"value": count_text}}}});
    let payload = payload.to_string();
    let rest = 2 + UPDATE.len() + 2 + payload.len();
    let mut packet = vec![0x32 | u8::from(again) << 3];
    // Two bytes hold what these packets need.
    packet.extend([
        u8::try_from(rest % 128).unwrap() | 0x80,
        u8::try_from(rest / 128).unwrap(),
    ]);
    packet.extend(u16::try_from(UPDATE.len()).unwrap().to_be_bytes());
    packet.extend(UPDATE.as_bytes());
    packet.extend(packet_id(count));
    packet.extend(payload.as_bytes());
    packet
}

/// One connection, until it breaks.
async fn session(
    mut stream: TcpStream,
    told: &Told,
    next: &mut u64,
    open: &mut VecDeque<u64>,
    before: &mut bool,
) -> std::io::Result<()> {
    // MQTT 3.1.1, session kept, no keep-alive.
    stream
        .write_all(b"\x10\x13\x00\x04MQTT\x04\x00\x00\x00\x00\x07counter")
        .await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    assert_eq!((answer[0], answer[3]), (0x20, 0), "the broker takes the device");
    if std::mem::replace(before, true) && answer[2] & 1 == 0 {
        told.forgotten.fetch_add(1, Ordering::SeqCst);
    }
    for count in &*open {
        stream.write_all(&publish(*count, true)).await?;
    }
    let mut input = Vec::new();
    let mut pace = tokio::time::interval(Duration::from_millis(1));
    loop {
        tokio::select! {
            read = stream.read_buf(&mut input) => if read? == 0 {
                return Ok(());
            },
            _ = pace.tick(), if open.len() < UNDER_WAY => {
                told.sent.store(*next, Ordering::SeqCst);
                open.push_back(*next);
                *next += 1;
                stream.write_all(&publish(*next - 1, false)).await?;
            }
        }
        while input.len() >= 4 {
            let ack: Vec<u8> = input.drain(..4).collect();
            assert_eq!(ack[..2], [0x40, 2], "nothing but PUBACK is expected");
            let at = open.iter().position(|count| packet_id(*count) == ack[2..]);
            let count = at
                .and_then(|at| open.remove(at))
                .expect("what is acknowledged was under way");
            told.acknowledged.lock().unwrap().insert(count);
        }
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

/// How many reports this agent was sent again although it, or the one before, had committed them.
async fn repeated(edge: &Edge) -> u64 {
    let run: Value = serde_json::from_slice(&std::fs::read(edge.folder().join("data/edge.json")).unwrap()).unwrap();
    let address = run["health"].as_str().expect("the agent says where its health port is");
    let address = address.trim_start_matches("http://");
    let (_, page) = kurator::ask(address, "/metrics")
        .await
        .expect("the agent shows its metrics");
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix("kurator_edge_requests_repeated_total "));
    line.and_then(|count| count.trim().parse().ok()).expect("a counter")
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
    eventually("the agent to keep the history", async || {
        let path = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devices/press-01";
        let device = get(&pair.edge.api().await, path).await?;
        let properties = device["spec"]["properties"].as_array()?.clone();
        properties
            .iter()
            .any(|p| p["name"] == "cycles" && p["reportToCloud"] == true)
            .then_some(())
    })
    .await;
    let device = Counter::start(pair.edge.mqtt());
    let (mut kills, mut repeats) = (0, 0);
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
        repeats += repeated(&pair.edge).await;
        pair.edge.kill().await;
        let acknowledged = device.acknowledged();
        kills += 1;
        pair.edge.start_again().await;
        let held = eventually("the agent to answer", async || count(&pair.edge).await).await;
        let sent = device.sent();
        assert!(
            held >= acknowledged,
            "round {round}: {acknowledged} was acknowledged, the agent holds {held}"
        );
        assert!(
            held <= sent,
            "round {round}: the agent holds {held}, only {sent} were sent"
        );
    }
    let told = Arc::clone(&device.told);
    drop(device);
    let acknowledged = told.acknowledged.lock().unwrap().clone();
    let last = acknowledged.last().copied().unwrap_or(0);
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
    let missing: Vec<u64> = acknowledged.into_iter().filter(|n| !counts.contains_key(n)).collect();
    assert!(missing.is_empty(), "acknowledged and not in the history: {missing:?}");
    assert_eq!(told.forgotten.load(Ordering::SeqCst), 0, "the broker forgot a session");
    // The device sent again what was under way when its agent was killed; some of it had been committed.
    let twice: Vec<_> = counts.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "more than once in the history: {twice:?}");
    repeats += repeated(&pair.edge).await;
    println!(
        "{} reports, {kills} kills, {repeats} committed reports sent again",
        counts.len()
    );
    assert!(
        repeats > 0,
        "no kill ever met a report between its commit and its acknowledgement"
    );
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
