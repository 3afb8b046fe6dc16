//! Routing, retained messages, wills, takeover and what MQTT 5 adds, in bytes.

use std::time::Duration;

use mqtt::{PublishError, QoS};

use crate::support::*;

#[tokio::test(start_paused = true)]
async fn routing_between_versions_and_qualities() {
    let bench = Bench::start().await;
    let mut four = bench.v4("four").await;
    let mut five = bench.v5("five", true, &[]).await;
    four.subscribe4("a/+", 1).await;
    five.subscribe5("a/#", 2, &[]).await;
    let mut publisher = bench.v4("p").await;
    publisher.send(&publish4(4, 1, "a/b", "x")).await;
    assert_eq!(publisher.packet().await, ack(PUBREC, 1));
    publisher.send(&ack(PUBREL, 1)).await;
    assert_eq!(publisher.packet().await, ack(PUBCOMP, 1));
    // The lower of the two qualities.
    assert_eq!(four.packet().await, publish4(2, 1, "a/b", "x"));
    assert_eq!(five.packet().await, publish5(4, 1, "a/b", &[], "x"));
    publisher.send(&publish4(0, 0, "a", "y")).await;
    assert_eq!(five.packet().await, publish5(0, 0, "a", &[], "y"));
    four.silent().await;

    // UNSUBSCRIBE.
    five.send(&packet(0xa2, &[&[0, 9, 0][..], &text("a/#"), &text("never")].concat()))
        .await;
    assert_eq!(five.packet().await, [0xb0, 5, 0, 9, 0, 0, 0x11]);
    four.send(&packet(0xa2, &[&[0, 9][..], &text("a/+")].concat())).await;
    assert_eq!(four.packet().await, [0xb0, 2, 0, 9]);
    publisher.send(&publish4(0, 0, "a/b", "z")).await;
    publisher.ping().await;
    four.silent().await;
    assert!(!bench.broker.has_subscribers("a/b"));
}

#[tokio::test(start_paused = true)]
async fn wildcards_do_not_see_dollar_topics() {
    let bench = Bench::start().await;
    let mut all = bench.v4("all").await;
    all.subscribe4("#", 0).await;
    all.subscribe4("+/x", 0).await;
    let mut hw = bench.v4("hw").await;
    hw.subscribe4("$hw/#", 0).await;
    let mut device = bench.v4("device").await;
    device.send(&publish4(2, 1, "$hw/x", "1")).await;
    // A local topic goes to the handler, and to who asked for it.
    assert_eq!(device.packet().await, ack(PUBACK, 1));
    assert_eq!(hw.packet().await, publish4(0, 0, "$hw/x", "1"));
    assert_eq!(bench.local.count(), 1);
    device.send(&publish4(0, 0, "y/x", "2")).await;
    // Two of its filters match: one message.
    assert_eq!(all.packet().await, publish4(0, 0, "y/x", "2"));
    all.silent().await;
    hw.silent().await;
}

#[tokio::test(start_paused = true)]
async fn the_daemon_publishes_asks_and_hears() {
    let bench = Bench::start().await;
    assert!(!bench.broker.has_subscribers("$hw/d/delta"));
    let (mut device, _) = bench.lasting("d").await;
    device.subscribe4("$hw/d/#", 1).await;
    assert!(bench.broker.has_subscribers("$hw/d/delta"));
    bench
        .broker
        .publish("$hw/d/delta", "{}", QoS::AtLeastOnce, false)
        .unwrap()
        .await
        .unwrap();
    assert_eq!(device.packet().await, publish4(2, 1, "$hw/d/delta", "{}"));
    // Its own messages do not come back to the handler.
    assert_eq!(bench.local.count(), 0);
    device.send(&[ack(PUBACK, 1), DISCONNECT.to_vec()].concat()).await;
    assert_eq!(device.next().await, None);
    let (mut device, _) = bench.lasting("d").await;
    device.silent().await;
    assert!(bench.broker.disconnect("d"));
    assert_eq!(device.next().await, None);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(!bench.broker.disconnect("d"));
    let log = ["+d []", "~d [\"$hw/d/#\"]", "-d", "+d [\"$hw/d/#\"]", "-d"];
    assert_eq!(bench.local.log(), log);

    let publish = |topic: &str, body: Vec<u8>| bench.broker.publish(topic, body, QoS::AtMostOnce, false).map(|_| ());
    assert_eq!(publish("a/#", vec![]), Err(PublishError::InvalidTopic));
    assert_eq!(publish("", vec![]), Err(PublishError::InvalidTopic));
    assert_eq!(publish("a", vec![0; 300_000]), Err(PublishError::TooLarge));
}

#[tokio::test(start_paused = true)]
async fn retained_messages_and_how_subscriptions_ask_for_them() {
    let bench = Bench::start().await;
    let mut publisher = bench.v4("p").await;
    publisher.send(&publish4(3, 1, "r/a", "1")).await;
    assert_eq!(publisher.packet().await, ack(PUBACK, 1));
    let mut five = bench.v5("five", true, &[]).await;
    let (sub, handling_new, handling_never, as_published) = ("r/#", 0x10, 0x20, 0x08);
    five.subscribe5(sub, 1, &[]).await;
    assert_eq!(five.packet().await, publish5(3, 1, "r/a", &[], "1"));
    five.send(&ack(PUBACK, 1)).await;
    five.subscribe5(sub, 1 | handling_new, &[]).await;
    five.silent().await;
    five.subscribe5(sub, 1 | handling_never, &[]).await;
    five.silent().await;
    // A shared subscription gets none.
    five.subscribe5("$share/g/r/#", 1, &[]).await;
    five.silent().await;
    five.send(&packet(0xa2, &[&[0, 9, 0][..], &text("$share/g/r/#")].concat()))
        .await;
    five.packet().await;
    // Live messages: the flag is cleared, unless the subscription keeps it.
    publisher.send(&publish4(1, 0, "r/b", "2")).await;
    assert_eq!(five.packet().await, publish5(0, 0, "r/b", &[], "2"));
    five.subscribe5(sub, 1 | handling_never | as_published, &[]).await;
    publisher.send(&publish4(1, 0, "r/b", "3")).await;
    assert_eq!(five.packet().await, publish5(1, 0, "r/b", &[], "3"));
    let mut late = bench.v4("late").await;
    late.subscribe4("r/+", 1).await;
    assert_eq!(late.packet().await, publish4(3, 1, "r/a", "1"));
    assert_eq!(late.packet().await, publish4(1, 0, "r/b", "3"));
    publisher.send(&publish4(1, 0, "r/a", "")).await;
    publisher.ping().await;
    assert_eq!(bench.broker.stats().retained, 1);
}

#[tokio::test(start_paused = true)]
async fn wills() {
    let bench = Bench::start().await;
    let mut watcher = bench.v4("w").await;
    watcher.subscribe4("will/#", 0).await;
    let with_will = async |id: &str, flags: u8| {
        let mut client = bench.duplex();
        client
            .send(&connect4_with(id, flags, 10, &[text("will/x"), text(id)].concat()))
            .await;
        assert_eq!(client.packet().await, [0x20, 2, 0, 0]);
        client
    };
    // A clean goodbye: no will.
    let mut polite = with_will("polite", 6).await;
    polite.send(&DISCONNECT).await;
    assert_eq!(polite.next().await, None);
    watcher.silent().await;
    // The socket breaks.
    drop(with_will("broken", 6).await);
    assert_eq!(watcher.packet().await, publish4(0, 0, "will/x", "broken"));
    // Silence beyond the keep-alive.
    let _silent = with_will("silent", 6).await;
    assert_eq!(watcher.packet().await, publish4(0, 0, "will/x", "silent"));
    // A breach of protocol.
    let mut rude = with_will("rude", 6).await;
    rude.send(&[0, 0]).await;
    assert_eq!(watcher.packet().await, publish4(0, 0, "will/x", "rude"));
    // Takeover.
    let _old = with_will("same", 6).await;
    let _new = with_will("same", 6).await;
    assert_eq!(watcher.packet().await, publish4(0, 0, "will/x", "same"));
    // MQTT 5: DISCONNECT with the wish for the will; and a retained one.
    let will = [list(&[]), text("will/5"), text("wished")].concat();
    let mut five = bench.duplex();
    five.send(&connect5_with("five", 0x26, 0, &[], &will)).await;
    five.packet().await;
    five.send(&[0xe0, 1, 4]).await;
    assert_eq!(watcher.packet().await, publish4(0, 0, "will/5", "wished"));
    assert_eq!(bench.broker.stats().retained, 1);
}

#[tokio::test(start_paused = true)]
async fn delayed_wills_and_session_expiry() {
    let bench = Bench::start().await;
    let mut watcher = bench.v4("w").await;
    watcher.subscribe4("will/#", 0).await;
    let will = |delay: u8| [list(&[24, 0, 0, 0, delay]), text("will/x"), text("late")].concat();
    let connect = async |clean: u8, expiry: u8, delay: u8| {
        let mut client = bench.duplex();
        client
            .send(&connect5_with("d", 4 | clean, 0, &[17, 0, 0, 0, expiry], &will(delay)))
            .await;
        let connack = client.packet().await;
        assert_eq!(connack[3], 0);
        (client, connack[2] == 1)
    };
    let (client, present) = connect(0, 100, 20).await;
    assert!(!present);
    drop(client);
    // Back within the delay: no will.
    tokio::time::sleep(Duration::from_secs(19)).await;
    let (client, present) = connect(0, 100, 20).await;
    assert!(present);
    tokio::time::sleep(Duration::from_secs(30)).await;
    watcher.silent().await;
    drop(client);
    let gone = tokio::time::Instant::now();
    assert_eq!(watcher.packet().await, publish4(0, 0, "will/x", "late"));
    assert_eq!(gone.elapsed().as_secs(), 20);
    // The session outlives the will, and then ends.
    assert_eq!(bench.broker.stats().sessions, 2);
    assert_eq!(bench.persist.rows(), 1);
    tokio::time::sleep(Duration::from_secs(81)).await;
    assert_eq!(bench.broker.stats().sessions, 1);
    assert_eq!(bench.persist.rows(), 0);
    // A session that ends before the delay is over takes its will with it into the open.
    let (client, present) = connect(0, 10, 60).await;
    assert!(!present);
    drop(client);
    let gone = tokio::time::Instant::now();
    assert_eq!(watcher.packet().await, publish4(0, 0, "will/x", "late"));
    assert_eq!(gone.elapsed().as_secs(), 10);
    // A clean start ends the session, so its delayed will is published; a takeover that resumes it cancels the will.
    drop(connect(0, 100, 60).await);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let (old, present) = connect(2, 100, 60).await;
    assert!(!present);
    assert_eq!(watcher.packet().await, publish4(0, 0, "will/x", "late"));
    let (client, present) = connect(0, 100, 60).await;
    assert!(present);
    watcher.silent().await;
    drop((old, client));
    tokio::time::sleep(Duration::from_millis(1)).await;
    connect(2, 0, 0).await.0.send(&DISCONNECT).await;
    assert_eq!(watcher.packet().await, publish4(0, 0, "will/x", "late"));
    watcher.silent().await;
    // DISCONNECT may shorten the session's life.
    let (mut client, _) = connect(0, 100, 0).await;
    client.send(&[0xe0, 7, 0, 5, 17, 0, 0, 0, 0]).await;
    assert_eq!(client.next().await, None);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!((bench.broker.stats().sessions, bench.persist.rows()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn takeover_moves_the_session() {
    let bench = Bench::start().await;
    let mut old = bench.v5("c", false, &[17, 0, 0, 1, 0]).await;
    old.subscribe5("t", 1, &[]).await;
    bench
        .broker
        .publish("t", "1", QoS::AtLeastOnce, false)
        .unwrap()
        .await
        .unwrap();
    assert_eq!(old.packet().await, publish5(2, 1, "t", &[], "1"));
    let mut new = bench.duplex();
    new.send(&connect4("c", false, 0)).await;
    assert_eq!(new.packet().await, [0x20, 2, 1, 0]);
    assert_eq!(old.goodbye().await, 0x8e);
    assert_eq!(old.next().await, None);
    assert_eq!(new.packet().await, publish4(2 | 8, 1, "t", "1"));
    new.send(&ack(PUBACK, 1)).await;
    new.ping().await;
    assert_eq!(bench.broker.stats().queued_messages, 0);
    assert_eq!(bench.broker.stats().sessions, 1);
}

#[tokio::test(start_paused = true)]
async fn properties_travel() {
    let bench = Bench::start().await;
    let mut five = bench.v5("five", true, &[]).await;
    five.subscribe5("t/#", 0, &[11, 7]).await;
    five.subscribe5("t/+", 0, &[11, 0x80, 1]).await;
    let mut publisher = bench.v5("p", true, &[]).await;
    let user = [&[38][..], &text("k"), &text("v"), &[38], &text("k"), &text("w")].concat();
    let rest = [&[1, 1][..], &[8], &text("answer"), &[9], &binary(b"\0id")].concat();
    let content = [&[3][..], &text("text/plain")].concat();
    let props = [&user[..], &rest, &content, &[2, 0, 0, 0, 60]].concat();
    publisher.send(&publish5(0, 0, "t/x", &props, "body")).await;
    let expected = [
        &[1, 1, 2, 0, 0, 0, 60][..],
        &rest[2..],
        &user,
        &[11, 7, 11, 0x80, 1],
        &content,
    ]
    .concat();
    assert_eq!(five.packet().await, publish5(0, 0, "t/x", &expected, "body"));

    // A topic alias stands for the topic; receivers get the topic.
    publisher.send(&publish5(0, 0, "t/alias", &[35, 0, 32], "1")).await;
    publisher.send(&publish5(0, 0, "", &[35, 0, 32], "2")).await;
    for body in ["1", "2"] {
        assert_eq!(
            five.packet().await,
            publish5(0, 0, "t/alias", &[11, 7, 11, 0x80, 1], body)
        );
    }
    // No local.
    publisher.subscribe5("t/x", 4, &[]).await;
    publisher.send(&publish5(0, 0, "t/x", &[], "mine")).await;
    publisher.ping().await;
    publisher.silent().await;
}

#[tokio::test(start_paused = true)]
async fn message_expiry_counts_down_and_drops() {
    let bench = Bench::start().await;
    let mut sub = bench.v5("s", false, &[17, 0, 0, 255, 0]).await;
    sub.subscribe5("t", 1, &[]).await;
    drop(sub);
    let mut publisher = bench.v5("p", true, &[]).await;
    publisher.send(&publish5(2, 1, "t", &[2, 0, 0, 0, 10], "short")).await;
    publisher.packet().await;
    publisher.send(&publish5(2, 2, "t", &[2, 0, 0, 0, 60], "long")).await;
    publisher.packet().await;
    publisher
        .send(&publish5(3, 3, "r", &[2, 0, 0, 0, 10], "retained"))
        .await;
    publisher.packet().await;
    assert_eq!(bench.broker.stats().retained, 1);
    tokio::time::sleep(Duration::from_secs(25)).await;
    let mut sub = bench.v5("s", false, &[17, 0, 0, 255, 0]).await;
    assert_eq!(sub.packet().await, publish5(2, 2, "t", &[2, 0, 0, 0, 35], "long"));
    let stats = bench.broker.stats();
    assert_eq!((stats.drops.expired, stats.queued_messages, stats.retained), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_client_names_its_limits() {
    let bench = Bench::start().await;
    // Receive maximum 2, maximum packet size 40.
    let mut five = bench.v5("five", true, &[33, 0, 2, 39, 0, 0, 0, 40]).await;
    five.subscribe5("t", 1, &[]).await;
    let publish = |body: &str| {
        drop(
            bench
                .broker
                .publish("t", body.to_owned(), QoS::AtLeastOnce, false)
                .unwrap(),
        )
    };
    for body in ["1", &"x".repeat(100), "2", "3"] {
        publish(body);
    }
    assert_eq!(five.packet().await, publish5(2, 1, "t", &[], "1"));
    // The one that is too large counts as delivered and makes room.
    assert_eq!(five.packet().await, publish5(2, 3, "t", &[], "2"));
    five.silent().await;
    five.send(&ack(PUBACK, 1)).await;
    assert_eq!(five.packet().await, publish5(2, 4, "t", &[], "3"));
    assert_eq!(bench.broker.stats().drops.too_large, 1);
}

#[tokio::test(start_paused = true)]
async fn shared_subscriptions_share() {
    let bench = Bench::start().await;
    let mut one = bench.v5("one", true, &[]).await;
    let mut two = bench.v4("two").await;
    one.subscribe5("$share/g/t/+", 0, &[]).await;
    two.subscribe4("$share/g/t/+", 0).await;
    for n in 0..4 {
        drop(
            bench
                .broker
                .publish("t/x", format!("{n}"), QoS::AtLeastOnce, false)
                .unwrap(),
        );
    }
    for n in ["0", "2"] {
        assert_eq!(one.packet().await, publish5(0, 0, "t/x", &[], n));
    }
    for n in ["1", "3"] {
        assert_eq!(two.packet().await, publish4(0, 0, "t/x", n));
    }
    drop(two);
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(bench.broker.publish("t/x", "4", QoS::AtLeastOnce, false).unwrap());
    assert_eq!(one.packet().await, publish5(0, 0, "t/x", &[], "4"));
}

#[tokio::test(start_paused = true)]
async fn subscriptions_are_bounded_and_refused_by_name() {
    let bench = Bench::with(|c| c.limits.subscriptions = 2).await;
    let mut five = bench.v5("five", true, &[]).await;
    let filters = ["a", "b/#/c", "$share/g", "b", "a", "c"];
    let body: Vec<u8> = filters.iter().flat_map(|f| [text(f), vec![1]].concat()).collect();
    five.send(&packet(0x82, &[&[0, 1, 0][..], &body].concat())).await;
    assert_eq!(five.packet().await, [0x90, 9, 0, 1, 0, 1, 0x8f, 0x8f, 1, 1, 0x97]);
    let mut four = bench.v4("four").await;
    four.send(&packet(0x82, &[&[0, 1][..], &body].concat())).await;
    assert_eq!(four.packet().await, [0x90, 8, 0, 1, 1, 0x80, 0x80, 1, 1, 0x80]);
    assert_eq!(bench.broker.stats().subscriptions, 4);
}

#[tokio::test(start_paused = true)]
async fn an_id_is_made_for_who_brings_none() {
    let bench = Bench::start().await;
    let mut five = bench.duplex();
    five.send(&connect5("", true, 0, &[])).await;
    let connack = five.packet().await;
    assert_eq!(connack[3], 0);
    let id = String::from_utf8_lossy(&connack).into_owned();
    assert!(id.contains("auto-"), "{id}");
    let _four = bench.v4("").await;
    assert_eq!(bench.broker.stats().sessions, 2);
}

#[tokio::test(start_paused = true)]
async fn sessions_are_capped() {
    let bench = Bench::with(|c| c.limits.sessions = 1).await;
    let (_a, _) = bench.lasting("a").await;
    let mut b = bench.duplex();
    b.send(&connect5("b", true, 0, &[])).await;
    assert_eq!(b.packet().await, [0x20, 3, 0, 0x97, 0]);
    // Its own session is there already.
    bench.lasting("a").await;
}
