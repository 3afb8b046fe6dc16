//! Real sockets and a real client library, in both protocol versions.

use std::{collections::BTreeSet, time::Duration};

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use rumqttc::{v5, v5::mqttbytes::v5 as p5};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use crate::support::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Polls the client's event loop; incoming packets come out of the channel.
fn drive(mut events: EventLoop) -> (mpsc::Receiver<Packet>, JoinHandle<()>) {
    let (tx, rx) = mpsc::channel(100_000);
    let task = tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            if let Event::Incoming(packet) = event
                && tx.send(packet).await.is_err()
            {
                return;
            }
        }
    });
    (rx, task)
}

fn drive5(mut events: v5::EventLoop) -> (mpsc::Receiver<p5::Packet>, JoinHandle<()>) {
    let (tx, rx) = mpsc::channel(100_000);
    let task = tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            if let v5::Event::Incoming(packet) = event
                && tx.send(packet).await.is_err()
            {
                return;
            }
        }
    });
    (rx, task)
}

async fn payloads(rx: &mut mpsc::Receiver<Packet>, count: usize) -> Vec<u32> {
    let mut seen = vec![];
    while seen.len() < count {
        match timeout(PATIENCE, rx.recv()).await.unwrap().unwrap() {
            Packet::Publish(p) => seen.push(std::str::from_utf8(&p.payload).unwrap().parse().unwrap()),
            _ => continue,
        }
    }
    seen
}

async fn payloads5(rx: &mut mpsc::Receiver<p5::Packet>, count: usize) -> Vec<u32> {
    let mut seen = vec![];
    while seen.len() < count {
        match timeout(PATIENCE, rx.recv()).await.unwrap().unwrap() {
            p5::Packet::Publish(p) => seen.push(std::str::from_utf8(&p.payload).unwrap().parse().unwrap()),
            _ => continue,
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_messages_of_each_quality_arrive_in_order_and_once() {
    const COUNT: u32 = 1000;
    let bench = Bench::start().await;
    let port = bench.port();

    let mut options = MqttOptions::new("sub4", "127.0.0.1", port);
    options.set_clean_session(false);
    let (sub4, events) = AsyncClient::new(options, 100);
    let (mut rx4, task4) = drive(events);
    let options = v5::MqttOptions::new("sub5", "127.0.0.1", port);
    let (sub5, events) = v5::AsyncClient::new(options, 100);
    let (mut rx5, task5) = drive5(events);
    sub4.subscribe("t/#", QoS::ExactlyOnce).await.unwrap();
    sub5.subscribe("t/#", v5::mqttbytes::QoS::ExactlyOnce).await.unwrap();
    while !matches!(timeout(PATIENCE, rx4.recv()).await.unwrap().unwrap(), Packet::SubAck(_)) {}
    while !matches!(
        timeout(PATIENCE, rx5.recv()).await.unwrap().unwrap(),
        p5::Packet::SubAck(_)
    ) {}

    let mut options = MqttOptions::new("pub4", "127.0.0.1", port);
    options.set_inflight(200);
    let (pub4, events) = AsyncClient::new(options, 100);
    let (mut acks4, task_p4) = drive(events);
    let (pub5, events) = v5::AsyncClient::new(v5::MqttOptions::new("pub5", "127.0.0.1", port), 100);
    let (_acks5, task_p5) = drive5(events);

    for (qos, qos5) in [
        (QoS::AtMostOnce, v5::mqttbytes::QoS::AtMostOnce),
        (QoS::AtLeastOnce, v5::mqttbytes::QoS::AtLeastOnce),
        (QoS::ExactlyOnce, v5::mqttbytes::QoS::ExactlyOnce),
    ] {
        for n in 0..COUNT {
            pub4.publish("t/4", qos, false, n.to_string()).await.unwrap();
        }
        let expected: Vec<u32> = (0..COUNT).collect();
        assert_eq!(payloads(&mut rx4, COUNT as usize).await, expected, "{qos:?}");
        assert_eq!(payloads5(&mut rx5, COUNT as usize).await, expected, "{qos:?}");
        for n in 0..COUNT {
            pub5.publish("t/5", qos5, false, n.to_string()).await.unwrap();
        }
        assert_eq!(payloads(&mut rx4, COUNT as usize).await, expected, "{qos:?}");
        assert_eq!(payloads5(&mut rx5, COUNT as usize).await, expected, "{qos:?}");
    }
    // Every QoS 1 and 2 message of pub4 was acknowledged, each id at its turn.
    let mut pubacks = 0;
    let mut comps = BTreeSet::new();
    while comps.len() < 200 {
        match timeout(PATIENCE, acks4.recv()).await.unwrap().unwrap() {
            Packet::PubAck(_) => pubacks += 1,
            Packet::PubComp(c) => drop(comps.insert(c.pkid)),
            _ => {}
        }
    }
    assert_eq!(pubacks, COUNT);
    for task in [task4, task5, task_p4, task_p5] {
        task.abort();
    }
    let stats = bench.broker.stats();
    assert_eq!((stats.received, stats.protocol_errors), (6 * u64::from(COUNT), 0));
    assert_eq!(stats.drops, mqtt::Drops::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_topics_by_library() {
    let bench = Bench::start().await;
    let (client, events) = AsyncClient::new(MqttOptions::new("press", "127.0.0.1", bench.port()), 100);
    let (mut rx, task) = drive(events);
    for n in 0..500 {
        client
            .publish(
                "$hw/events/device/default/d/twin/update",
                QoS::AtLeastOnce,
                false,
                n.to_string(),
            )
            .await
            .unwrap();
    }
    let mut acked = 0;
    while acked < 500 {
        if let Packet::PubAck(_) = timeout(PATIENCE, rx.recv()).await.unwrap().unwrap() {
            acked += 1;
        }
    }
    let log = bench.local.log();
    assert_eq!(log.len(), 501);
    assert_eq!(log[500], "press $hw/events/device/default/d/twin/update 499");
    task.abort();
}
