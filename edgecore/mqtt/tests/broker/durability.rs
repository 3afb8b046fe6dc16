//! Acknowledged is durable: what is acknowledged when, and what a restart or a full disk does.

use std::{sync::Arc, time::Duration};

use mqtt::{MemoryPersist, PersistError, QoS, Reject};
use tokio::time::Instant;

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn acks_wait_for_the_handler_while_reading_goes_on() {
    let bench = Bench::start().await;
    bench.local.gate.send_replace(false);
    let mut client = bench.v4("c").await;
    for pid in 1..=3 {
        client
            .send(&[publish4(2, pid, "$hw/a", "x"), publish4(2, pid + 100, "$hw/b", "y")].concat())
            .await;
        client.silent().await;
    }
    // Three batches were handed over, none waited for the one before; and the consecutive two came as one.
    assert_eq!(*bench.local.batches.lock().unwrap(), [2, 2, 2]);
    // Not a local topic, and no subscriber: nothing to wait for, but acknowledgements are in order.
    client.send(&publish4(2, 9, "other", "z")).await;
    client.silent().await;
    bench.local.gate.send_replace(true);
    for pid in [1, 101, 2, 102, 3, 103, 9] {
        assert_eq!(client.packet().await, ack(PUBACK, pid));
    }
}

#[tokio::test(start_paused = true)]
async fn reading_pauses_at_the_window_and_the_client_is_not_blamed() {
    let bench = Bench::with(|c| c.limits.unacked_messages = 10).await;
    bench.local.gate.send_replace(false);
    let mut client = bench.duplex();
    client.send(&connect4("c", true, 10)).await;
    client.packet().await;
    for pid in 1..=30 {
        client.send(&publish4(2, pid, "$hw/a", "x")).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(bench.local.count(), 10);
    // Twenty packets wait in the socket; far beyond the keep-alive the client is still welcome.
    tokio::time::sleep(Duration::from_secs(100)).await;
    bench.local.gate.send_replace(true);
    for pid in 1..=30 {
        assert_eq!(client.packet().await, ack(PUBACK, pid));
    }
    assert_eq!(bench.local.count(), 30);
}

#[tokio::test(start_paused = true)]
async fn verdicts_of_the_handler() {
    let bench = Bench::start().await;
    let table = [
        (Reject::NotAuthorized, 0x87),
        (Reject::TopicInvalid, 0x90),
        (Reject::PayloadInvalid, 0x99),
        (Reject::QuotaExceeded, 0x97),
        (Reject::Other, 0x80),
    ];
    let mut five = bench.v5("five", true, &[]).await;
    let mut four = bench.v4("four").await;
    for (reject, code) in table {
        bench.local.verdict("bad", Err(reject));
        let batch = [publish5(2, 1, "$hw/ok", &[], "x"), publish5(2, 2, "$hw/bad", &[], "x")].concat();
        five.send(&batch).await;
        assert_eq!(five.packet().await, ack(PUBACK, 1));
        assert_eq!(five.packet().await, [0x40, 4, 0, 2, code, 0]);
        // QoS 2: the exchange ends with the refusal, the packet id is free.
        for _ in 0..2 {
            five.send(&publish5(4, 3, "$hw/bad", &[], "x")).await;
            assert_eq!(five.packet().await, [0x50, 4, 0, 3, code, 0]);
        }
        // 3.1.1 has no other answer.
        four.send(&publish4(2, 1, "$hw/bad", "x")).await;
        assert_eq!(four.packet().await, ack(PUBACK, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn unavailable_is_not_acknowledged() {
    let bench = Bench::start().await;
    bench.local.verdict("full", Err(Reject::Unavailable));
    let begin = Instant::now();
    let mut four = bench.v4("four").await;
    let batch = [
        publish4(2, 1, "$hw/ok", "1"),
        publish4(0, 0, "$hw/full", "qos 0 has nothing to withhold"),
        publish4(2, 2, "$hw/ok", "2"),
        publish4(2, 3, "$hw/full", "3"),
        publish4(2, 4, "$hw/ok", "4"),
    ];
    four.send(&batch.concat()).await;
    assert_eq!(four.packet().await, ack(PUBACK, 1));
    assert_eq!(four.packet().await, ack(PUBACK, 2));
    assert_eq!(begin.elapsed().as_secs(), 0);
    assert_eq!(four.next().await, None);
    // Not before the pause: a client that comes back at once does not spin.
    assert_eq!(begin.elapsed().as_secs(), 1);

    let mut five = bench.v5("five", true, &[]).await;
    five.send(&publish5(4, 1, "$hw/full", &[], "x")).await;
    assert_eq!(five.goodbye().await, 0x97);
    assert_eq!(five.next().await, None);
    assert_eq!(bench.broker.stats().unavailable, 2);

    // There is room again: what was not acknowledged comes again and is taken.
    bench.local.verdict("full", Ok(mqtt::Accept));
    let mut four = bench.v4("four").await;
    four.send(&publish4(10, 3, "$hw/full", "3")).await;
    assert_eq!(four.packet().await, ack(PUBACK, 3));
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_fails_acknowledges_nothing_and_delivers_nothing() {
    let bench = Bench::start().await;
    let (mut sub, _) = bench.lasting("sub").await;
    sub.subscribe4("t", 2).await;
    bench.persist.fail_with(Some(PersistError::Full));
    for flags in [2, 4] {
        let mut publisher = bench.v4("pub").await;
        publisher.send(&publish4(flags, 1, "t", "lost?")).await;
        assert_eq!(publisher.next().await, None);
    }
    sub.silent().await;
    // A subscription that cannot be stored is not acknowledged either; nor a session.
    sub.send(&subscribe4(2, "u", 1)).await;
    assert_eq!(sub.next().await, None);
    let mut refused = bench.duplex();
    refused.send(&connect4("new", false, 0)).await;
    assert_eq!(refused.packet().await, [0x20, 2, 0, 3]);
    let stats = bench.broker.stats();
    assert_eq!(
        (stats.commit_failures, stats.queued_messages, stats.sessions),
        (4, 0, 1)
    );

    bench.persist.fail_with(None);
    let (mut sub, present) = bench.lasting("sub").await;
    assert!(present);
    let mut publisher = bench.v4("pub").await;
    publisher.send(&publish4(4, 1, "t", "not lost")).await;
    assert_eq!(publisher.packet().await, ack(PUBREC, 1));
    // Two sequence numbers went with the two that failed.
    assert_eq!(sub.packet().await, publish4(4, 3, "t", "not lost"));
}

#[tokio::test(start_paused = true)]
async fn qos2_is_taken_once_over_reconnect_and_restart() {
    let bench = Bench::start().await;
    let (mut client, _) = bench.lasting("c").await;
    client.send(&publish4(4, 5, "$hw/a", "once")).await;
    assert_eq!(client.packet().await, ack(PUBREC, 5));
    // Its PUBREC got lost: again on the same connection, on a new one, after a restart.
    client.send(&publish4(12, 5, "$hw/a", "once")).await;
    assert_eq!(client.packet().await, ack(PUBREC, 5));
    drop(client);
    let (mut client, present) = bench.lasting("c").await;
    assert!(present);
    client.send(&publish4(12, 5, "$hw/a", "once")).await;
    assert_eq!(client.packet().await, ack(PUBREC, 5));
    assert_eq!(bench.local.count(), 1);
    assert!(bench.broker.shutdown(Duration::from_secs(5)).await);

    let bench = Bench::on(bench.persist, |_| {}).await;
    let (mut client, present) = bench.lasting("c").await;
    assert!(present);
    client.send(&publish4(12, 5, "$hw/a", "once")).await;
    assert_eq!(client.packet().await, ack(PUBREC, 5));
    client.send(&ack(PUBREL, 5)).await;
    assert_eq!(client.packet().await, ack(PUBCOMP, 5));
    assert_eq!(bench.local.count(), 0);
    // The id is free again, and PUBREL for one that is not in use is answered.
    client.send(&ack(PUBREL, 5)).await;
    assert_eq!(client.packet().await, ack(PUBCOMP, 5));
    client.send(&publish4(4, 5, "$hw/a", "another")).await;
    assert_eq!(client.packet().await, ack(PUBREC, 5));
    assert_eq!(bench.local.count(), 1);
}

/// What the handler needs to tell a message sent again from a new one.
#[tokio::test(start_paused = true)]
async fn the_handler_is_told_where_a_message_comes_from() {
    let bench = Bench::start().await;
    let (mut client, _) = bench.lasting("c").await;
    let packets = [
        publish4(0, 0, "$hw/a", "x"),
        publish4(2, 7, "$hw/a", "x"),
        publish4(10, 8, "$hw/a", "x"),
        publish4(12, 9, "$hw/a", "x"),
    ];
    client.send(&packets.concat()).await;
    for (kind, pid) in [(PUBACK, 7), (PUBACK, 8), (PUBREC, 9)] {
        assert_eq!(client.packet().await, ack(kind, pid));
    }
    let origins = [(0, 0, false), (7, 1, false), (8, 1, true), (9, 2, true)];
    assert_eq!(*bench.local.origins.lock().unwrap(), origins);

    // It hears of PUBREL, also of one that the broker does not know, and PUBCOMP waits for it.
    bench.local.gate.send_replace(false);
    client.send(&[ack(PUBREL, 9), ack(PUBREL, 77)].concat()).await;
    client.silent().await;
    assert_eq!(*bench.local.released.lock().unwrap(), [9, 77]);
    bench.local.gate.send_replace(true);
    assert_eq!(client.packet().await, ack(PUBCOMP, 9));
    assert_eq!(client.packet().await, ack(PUBCOMP, 77));

    // What it cannot make durable is not answered: the client asks again.
    bench.local.releases.store(false, std::sync::atomic::Ordering::SeqCst);
    client.send(&ack(PUBREL, 9)).await;
    assert_eq!(client.next().await, None);
    bench.local.releases.store(true, std::sync::atomic::Ordering::SeqCst);
    let (mut client, _) = bench.lasting("c").await;
    client.send(&ack(PUBREL, 9)).await;
    assert_eq!(client.packet().await, ack(PUBCOMP, 9));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_the_absent_survives_a_restart() {
    let bench = Bench::start().await;
    let (mut sub, present) = bench.lasting("sub").await;
    assert!(!present);
    sub.subscribe4("t/#", 2).await;
    let mut publisher = bench.v4("pub").await;

    // In flight, half acknowledged, when the client goes: QoS 1 sent, QoS 2 sent, QoS 2 released.
    for (flags, pid, body) in [(2, 1, "one"), (4, 2, "two"), (4, 3, "three")] {
        publisher.send(&publish4(flags, pid, "t/x", body)).await;
        publisher.packet().await;
        assert_eq!(sub.packet().await, publish4(flags, pid, "t/x", body));
    }
    sub.send(&ack(PUBREC, 3)).await;
    assert_eq!(sub.packet().await, ack(PUBREL, 3));
    drop(sub);
    publisher.send(&publish4(0, 0, "t/x", "qos 0 is not kept")).await;
    publisher.send(&publish4(2, 4, "t/x", "four")).await;
    assert_eq!(publisher.packet().await, ack(PUBACK, 4));
    publisher.send(&publish4(3, 5, "t/retained", "kept")).await;
    assert_eq!(publisher.packet().await, ack(PUBACK, 5));
    assert_eq!(bench.broker.stats().queued_messages, 5);
    bench.broker.shutdown(Duration::from_secs(5)).await;

    let bench = Bench::on(bench.persist, |_| {}).await;
    assert_eq!(bench.broker.stats().queued_messages, 5);
    assert!(bench.broker.has_subscribers("t/anything"), "the session waits");
    let (mut sub, present) = bench.lasting("sub").await;
    assert!(present);
    assert_eq!(bench.local.log(), ["+sub [\"t/#\"]"]);
    // The same packet ids, so that the client recognises what it has.
    assert_eq!(sub.packet().await, publish4(2 | 8, 1, "t/x", "one"));
    assert_eq!(sub.packet().await, publish4(4 | 8, 2, "t/x", "two"));
    assert_eq!(sub.packet().await, ack(PUBREL, 3));
    assert_eq!(sub.packet().await, publish4(2 | 8, 4, "t/x", "four"));
    assert_eq!(sub.packet().await, publish4(2 | 8, 5, "t/retained", "kept"));
    sub.send(
        &[
            ack(PUBACK, 1),
            ack(PUBREC, 2),
            ack(PUBCOMP, 3),
            ack(PUBACK, 4),
            ack(PUBACK, 5),
        ]
        .concat(),
    )
    .await;
    assert_eq!(sub.packet().await, ack(PUBREL, 2));
    sub.send(&ack(PUBCOMP, 2)).await;
    sub.ping().await;
    assert_eq!(bench.broker.stats().queued_messages, 0);
    // What is left on disk: the session, its subscription, the retained message.
    assert_eq!(bench.persist.rows(), 3);

    // A clean session takes all of it away.
    drop(sub);
    let mut sub = bench.v4("sub").await;
    sub.silent().await;
    assert_eq!(bench.persist.rows(), 1);
    sub.subscribe4("t/#", 0).await;
    assert_eq!(sub.packet().await, publish4(1, 0, "t/retained", "kept"));
    publisher = bench.v4("pub").await;
    publisher.send(&publish4(1, 0, "t/retained", "")).await;
    publisher.ping().await;
    assert_eq!(bench.persist.rows(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_queue_of_an_absent_client_is_bounded_and_counted() {
    let persist = Arc::new(MemoryPersist::default());
    let bench = Bench::on(persist, |c| c.limits.queue_messages = 10).await;
    let (mut sub, _) = bench.lasting("sub").await;
    sub.subscribe4("t", 1).await;
    drop(sub);
    tokio::time::sleep(Duration::from_millis(1)).await;
    for n in 0..25 {
        bench
            .broker
            .publish("t", format!("{n}"), QoS::AtLeastOnce, false)
            .unwrap()
            .await
            .unwrap();
    }
    let stats = bench.broker.stats();
    assert_eq!((stats.queued_messages, stats.drops.queue_full), (10, 15));
    // 10 messages, the session, the subscription.
    assert_eq!(bench.persist.rows(), 12);
    let (mut sub, _) = bench.lasting("sub").await;
    for n in 15..25u16 {
        assert_eq!(sub.packet().await, publish4(2, n + 1, "t", &n.to_string()));
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_share_the_memory_for_queues() {
    let bench = Bench::with(|c| c.limits.queue_total_bytes = 100_000).await;
    for id in ["a", "b"] {
        let (mut sub, _) = bench.lasting(id).await;
        sub.subscribe4("t", 1).await;
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    let body = "x".repeat(1000);
    for _ in 0..200 {
        bench
            .broker
            .publish("t", body.clone(), QoS::AtLeastOnce, false)
            .unwrap()
            .await
            .unwrap();
        assert!(bench.broker.stats().queued_bytes <= 100_000);
    }
    let stats = bench.broker.stats();
    assert_eq!(stats.queued_messages + stats.drops.queue_full, 400);
    assert!(stats.queued_messages > 80, "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn shutdown_acknowledges_what_it_has_and_says_goodbye() {
    let bench = Bench::start().await;
    bench.local.gate.send_replace(false);
    let mut will = bench.duplex();
    will.send(&connect4_with("w", 6, 0, &[text("will"), text("gone")].concat()))
        .await;
    will.packet().await;
    let mut five = bench.v5("five", true, &[]).await;
    five.subscribe5("will", 0, &[]).await;
    five.send(&publish5(2, 1, "$hw/a", &[], "x")).await;
    five.silent().await;
    let broker = bench.broker.clone();
    let stopping = tokio::spawn(async move { broker.shutdown(Duration::from_secs(5)).await });
    five.silent().await;
    bench.local.gate.send_replace(true);
    assert_eq!(five.packet().await, ack(PUBACK, 1));
    assert_eq!(five.goodbye().await, 0x8b);
    assert_eq!(five.next().await, None);
    assert!(stopping.await.unwrap());
    let mut late = bench.duplex();
    assert_eq!(late.next().await, None);
}
