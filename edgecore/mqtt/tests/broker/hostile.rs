//! What a broken or hostile client does costs its own connection and nothing else.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use mqtt::{Access, Broker, ClientInfo, Denied, Identity, LoginRequest, MemoryPersist, StartError};
use tokio::time::Instant;

use crate::support::*;

/// Packets no client may send after a 3.1.1 CONNECT.
fn malformed_v4() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (
            "remaining length of five bytes",
            vec![0x30, 0xff, 0xff, 0xff, 0xff, 0x01],
        ),
        ("packet type 0", packet(0x00, &[])),
        ("packet type 15", packet(0xf0, &[])),
        ("a second CONNECT", connect4("again", true, 0)),
        ("CONNACK from a client", packet(0x20, &[0, 0])),
        ("SUBACK from a client", packet(0x90, &[0, 1, 0])),
        ("PINGRESP from a client", packet(0xd0, &[])),
        ("PINGREQ with a body", packet(0xc0, &[0])),
        ("PINGREQ with flags", packet(0xc1, &[])),
        ("DISCONNECT with a body", packet(0xe0, &[0])),
        ("PUBLISH of nothing", packet(0x30, &[])),
        ("PUBLISH with QoS 3", packet(0x36, &[0, 1, b'a', 0, 1])),
        ("PUBLISH with QoS 0 and DUP", packet(0x38, &[0, 1, b'a'])),
        ("PUBLISH without its packet id", packet(0x32, &[0, 1, b'a'])),
        ("PUBLISH with packet id 0", publish4(2, 0, "a", "x")),
        ("topic longer than the packet", packet(0x30, &[0xff, 0xff, b'a'])),
        ("empty topic", publish4(0, 0, "", "x")),
        ("topic with a wildcard", publish4(0, 0, "a/+", "x")),
        ("topic with NUL", publish4(0, 0, "a\0", "x")),
        ("topic not UTF-8", packet(0x30, &[0, 2, 0xff, 0xfe])),
        ("topic beyond the cap", publish4(0, 0, &"t".repeat(1025), "x")),
        ("PUBACK cut short", packet(0x40, &[0])),
        ("PUBACK with packet id 0", ack(PUBACK, 0)),
        ("PUBACK with bytes left over", packet(0x40, &[0, 1, 0])),
        ("PUBREL without its flag", packet(0x60, &[0, 1])),
        ("SUBSCRIBE without its flag", packet(0x80, &[0, 1, 0, 1, b'a', 0])),
        ("SUBSCRIBE without a filter", packet(0x82, &[0, 1])),
        ("SUBSCRIBE with packet id 0", subscribe4(0, "a", 0)),
        ("SUBSCRIBE without options", packet(0x82, &[0, 1, 0, 1, b'a'])),
        ("SUBSCRIBE with QoS 3", subscribe4(1, "a", 3)),
        ("SUBSCRIBE with reserved bits", subscribe4(1, "a", 0x10)),
        ("UNSUBSCRIBE without a filter", packet(0xa2, &[0, 1])),
        ("UNSUBSCRIBE cut short", packet(0xa2, &[0, 1, 0, 9, b'a'])),
    ]
}

fn malformed_v5() -> Vec<(&'static str, Vec<u8>)> {
    let publish = |props: &[u8]| publish5(0, 0, "a", props, "x");
    vec![
        ("AUTH", packet(0xf0, &[0])),
        (
            "property list longer than the packet",
            packet(0x30, &[0, 1, b'a', 0x7f]),
        ),
        ("no property list", packet(0x30, &[0, 1, b'a'])),
        (
            "property length of five bytes",
            packet(0x30, &[0, 1, b'a', 0x80, 0x80, 0x80, 0x80, 0]),
        ),
        ("unknown property", publish(&[99, 0])),
        ("property id above 63", publish(&[200, 0])),
        ("property of another packet", publish(&[17, 0, 0, 0, 1])),
        ("subscription id from a client", publish(&[11, 1])),
        ("a property twice", publish(&[1, 0, 1, 0])),
        ("payload format 2", publish(&[1, 2])),
        ("topic alias 0", publish(&[35, 0, 0])),
        ("topic alias beyond what was offered", publish(&[35, 0, 200])),
        ("topic alias nobody set", publish5(0, 0, "", &[35, 0, 3], "x")),
        ("property cut short", publish(&[2, 0, 0])),
        ("user property cut short", publish(&[38, 0, 1, b'k', 0, 9])),
        ("65 user properties", publish(&[&[38u8, 0, 0, 0, 0][..]; 65].concat())),
        ("SUBSCRIBE with id 0", subscribe5(1, "a", 0, &[11, 0])),
        ("SUBSCRIBE with retain handling 3", subscribe5(1, "a", 0x30, &[])),
        ("PUBACK with a bad property", packet(0x40, &[0, 1, 0, 2, 17, 0])),
        ("DISCONNECT with a bad property", packet(0xe0, &[0, 1, 99])),
    ]
}

#[tokio::test(start_paused = true)]
async fn malformed_packets_cost_one_connection() {
    let bench = Bench::start().await;
    let mut bystander = bench.v4("bystander").await;
    bystander.subscribe4("ok", 0).await;
    let mut errors = 0;
    for (what, bytes) in malformed_v4() {
        let mut client = bench.v4("m").await;
        // What came before it counts.
        client.send(&[publish4(0, 0, "ok", what), bytes].concat()).await;
        assert_eq!(client.next().await, None, "{what}");
        assert_eq!(bystander.packet().await, publish4(0, 0, "ok", what));
        errors += 1;
    }
    for (what, bytes) in malformed_v5() {
        let mut client = bench.v5("m", true, &[]).await;
        client.send(&bytes).await;
        let last = client.packet().await;
        assert_eq!((last[0], last[2] >= 0x80), (0xe0, true), "{what}: {last:?}");
        assert_eq!(client.next().await, None, "{what}");
        errors += 1;
    }
    bystander.ping().await;
    assert_eq!(bench.broker.stats().protocol_errors, errors);
    assert_eq!(bench.broker.stats().connections, 1);
}

#[tokio::test(start_paused = true)]
async fn malformed_connects_are_refused() {
    let bench = Bench::start().await;
    let name = text("MQTT");
    let silent: Vec<(&str, Vec<u8>)> = vec![
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("TLS", vec![0x16, 3, 1, 2, 0, 1, 0]),
        ("PUBLISH first", publish4(0, 0, "a", "x")),
        ("CONNECT with flags", packet(0x11, &[])),
        ("empty", packet(0x10, &[])),
        (
            "another protocol",
            packet(0x10, &[&text("MQIsdp")[..], &[3, 2, 0, 0], &text("c")].concat()),
        ),
        ("reserved flag", connect4_with("c", 3, 0, &[])),
        (
            "will QoS 3",
            connect4_with("c", 0x1e, 0, &[text("w"), text("x")].concat()),
        ),
        ("will QoS without a will", connect4_with("c", 0x0a, 0, &[])),
        ("password without user name", connect4_with("c", 0x42, 0, &text("p"))),
        ("will missing", connect4_with("c", 6, 0, &[])),
        ("bytes left over", connect4_with("c", 2, 0, &[1])),
        (
            "id not UTF-8",
            packet(0x10, &[&name[..], &[4, 2, 0, 0, 0, 1, 0xff]].concat()),
        ),
        ("id with NUL", connect4("a\0b", true, 0)),
        ("receive maximum 0", connect5("c", true, 0, &[33, 0, 0])),
        ("max packet 0", connect5("c", true, 0, &[39, 0, 0, 0, 0])),
        ("property twice", connect5("c", true, 0, &[33, 0, 1, 33, 0, 1])),
        ("property of PUBLISH", connect5("c", true, 0, &[35, 0, 1])),
    ];
    for (what, bytes) in &silent {
        let mut client = bench.duplex();
        client.send(bytes).await;
        assert_eq!(client.next().await, None, "{what}");
    }
    let stats = bench.broker.stats();
    assert_eq!((stats.failed_handshakes, stats.sessions), (silent.len() as u64, 0));

    let answered: Vec<(&str, Vec<u8>, &[u8])> = vec![
        (
            "level 3",
            packet(0x10, &[&name[..], &[3, 2, 0, 0], &text("c")].concat()),
            &[0x20, 2, 0, 1],
        ),
        (
            "level 6",
            packet(0x10, &[&name[..], &[6, 2, 0, 0, 0], &text("c")].concat()),
            &[0x20, 3, 0, 0x84, 0],
        ),
        ("no id, not clean", connect4("", false, 0), &[0x20, 2, 0, 2]),
        ("id too long", connect4(&"i".repeat(257), true, 0), &[0x20, 2, 0, 2]),
        (
            "id too long, 5",
            connect5(&"i".repeat(257), true, 0, &[]),
            &[0x20, 3, 0, 0x85, 0],
        ),
        (
            "extended authentication",
            connect5("c", true, 0, &[21, 0, 1, b'x']),
            &[0x20, 3, 0, 0x8c, 0],
        ),
        (
            "will topic with a wildcard",
            connect5_with("c", 6, 0, &[], &[list(&[]), text("#"), text("x")].concat()),
            &[0x20, 3, 0, 0x90, 0],
        ),
    ];
    for (what, bytes, expected) in answered {
        let mut client = bench.duplex();
        client.send(&bytes).await;
        assert_eq!(client.packet().await, expected, "{what}");
        assert_eq!(client.next().await, None, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn connect_has_five_seconds_however_it_trickles() {
    let bench = Bench::start().await;
    let begin = Instant::now();
    let mut silent = bench.duplex();
    let mut trickling = bench.duplex();
    let trickle = tokio::spawn(async move {
        for byte in connect4("slow", true, 0) {
            tokio::time::sleep(Duration::from_millis(900)).await;
            if tokio::io::AsyncWriteExt::write_all(&mut trickling.stream, &[byte])
                .await
                .is_err()
            {
                break;
            }
        }
        assert_eq!(trickling.next().await, None);
        begin.elapsed()
    });
    assert_eq!(silent.next().await, None);
    assert_eq!(begin.elapsed().as_secs(), 5);
    assert!(trickle.await.unwrap() < Duration::from_secs(7));
    assert_eq!(bench.broker.stats().failed_handshakes, 2);
}

#[tokio::test]
async fn a_length_of_256_mib_is_refused_from_its_header() {
    let bench = Bench::start().await;
    let huge = [0x30, 0xff, 0xff, 0xff, 0x7f];

    let mut before_connect = bench.tcp().await;
    before_connect.send(&[0x10, 0xff, 0xff, 0xff, 0x7f]).await;
    assert_eq!(before_connect.next().await, None);

    let mut v4 = bench.tcp().await;
    v4.send(&[connect4("a", true, 0), huge.to_vec()].concat()).await;
    assert_eq!(v4.packet().await[0], 0x20);
    assert_eq!(v4.next().await, None);

    let mut v5 = bench.tcp().await;
    v5.send(&[connect5("b", true, 0, &[]), huge.to_vec()].concat()).await;
    let connack = v5.packet().await;
    // The client was told: Maximum Packet Size 262,144.
    assert!(connack.windows(5).any(|w| w == [39, 0, 4, 0, 0]), "{connack:?}");
    assert_eq!(v5.goodbye().await, 0x95);
    assert_eq!(v5.next().await, None);

    // One byte over, and exactly at the bound.
    let mut at = bench.tcp().await;
    at.send(&connect4("c", true, 0)).await;
    assert_eq!(at.packet().await[0], 0x20);
    let largest = publish4(2, 7, "t", &"x".repeat(256 * 1024 - 4 - 3 - 2));
    assert_eq!(largest.len(), 256 * 1024);
    at.send(&largest).await;
    assert_eq!(at.packet().await, ack(PUBACK, 7));
    at.send(&publish4(2, 8, "t", &"x".repeat(256 * 1024 - 4 - 3 - 1))).await;
    assert_eq!(at.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn keep_alive_is_one_and_a_half() {
    let bench = Bench::start().await;
    let begin = Instant::now();
    let mut client = bench.duplex();
    client.send(&connect5("k", true, 10, &[])).await;
    client.packet().await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(14)).await;
        client.ping().await;
    }
    // A byte is not a packet.
    tokio::time::sleep(Duration::from_secs(10)).await;
    client.send(&[0x30]).await;
    assert_eq!(client.goodbye().await, 0x8d);
    assert_eq!(client.next().await, None);
    assert_eq!(begin.elapsed().as_secs(), 3 * 14 + 15);
    assert_eq!(bench.broker.stats().timeouts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_packet_that_began_must_end_even_without_keep_alive() {
    let bench = Bench::start().await;
    let mut client = bench.v4("p").await;
    tokio::time::sleep(Duration::from_secs(100_000)).await;
    client.ping().await;
    let begin = Instant::now();
    client.send(&[0x30, 100, 0]).await;
    assert_eq!(client.next().await, None);
    assert_eq!(begin.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_given_up() {
    let bench = Bench::start().await;
    let mut deaf = bench.v4("deaf").await;
    deaf.subscribe4("t", 0).await;
    let mut loud = bench.v4("loud").await;
    let body = "x".repeat(10_000);
    for _ in 0..300 {
        loud.send(&publish4(0, 0, "t", &body)).await;
    }
    loud.ping().await;
    tokio::time::sleep(Duration::from_secs(19)).await;
    assert_eq!(bench.broker.stats().connections, 2);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let stats = bench.broker.stats();
    assert_eq!((stats.connections, stats.timeouts), (1, 1));
    // 3 MB for a client that took 64 KiB: what did not fit was counted.
    assert!(stats.drops.qos0_slow > 100, "{stats:?}");
}

#[tokio::test(start_paused = true)]
async fn connections_and_handshakes_are_capped() {
    let bench = Bench::with(|c| {
        c.limits.connections = 3;
        c.limits.handshakes = 2;
    })
    .await;
    let (mut half1, half2) = (bench.duplex(), bench.duplex());
    tokio::time::sleep(Duration::from_millis(1)).await;
    // Half-open ones do not keep others out: the oldest goes.
    let _a = bench.v4("a").await;
    assert_eq!(half1.next().await, None);
    drop(half2);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let (_b, _c) = (bench.v4("b").await, bench.v4("c").await);
    let mut fourth = bench.duplex();
    assert_eq!(fourth.next().await, None);
    assert_eq!(
        (bench.broker.stats().refused_busy, bench.broker.stats().connections),
        (2, 3)
    );
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_handler_costs_one_connection() {
    let bench = Bench::start().await;
    *bench.local.panic_on.lock().unwrap() = Some("$hw/boom".to_owned());
    let mut bystander = bench.v4("by").await;
    let mut victim = bench.v4("victim").await;
    victim.send(&publish4(2, 1, "$hw/boom", "x")).await;
    assert_eq!(victim.next().await, None);
    bystander.send(&publish4(2, 1, "$hw/fine", "x")).await;
    assert_eq!(bystander.packet().await, ack(PUBACK, 1));
    assert!(
        bench.local.log().contains(&"-victim".to_owned()),
        "{:?}",
        bench.local.log()
    );
    assert_eq!(bench.broker.stats().connections, 1);
    bench.v4("victim").await.ping().await;
}

#[tokio::test(start_paused = true)]
async fn too_many_open_qos2_messages_end_the_connection() {
    let bench = Bench::with(|c| c.limits.inbound_qos2 = 2).await;
    let mut client = bench.v5("q", true, &[]).await;
    for pid in 1..=2 {
        client.send(&publish5(4, pid, "t", &[], "x")).await;
        assert_eq!(client.packet().await, ack(PUBREC, pid));
    }
    client.send(&publish5(4, 3, "t", &[], "x")).await;
    assert_eq!(client.goodbye().await, 0x93);
}

#[derive(Debug)]
struct Doorman;

impl Access for Doorman {
    fn authenticate(&self, login: LoginRequest) -> BoxFuture<'static, Result<Identity, Denied>> {
        Box::pin(async move {
            match (login.username.as_deref(), login.password.as_deref()) {
                (Some("press"), Some("secret")) => Ok(Identity { name: "press".into() }),
                (Some("banned"), _) => Err(Denied::NotAuthorized),
                _ => Err(Denied::BadCredentials),
            }
        })
    }

    fn may_publish(&self, client: &ClientInfo, topic: &str) -> bool {
        client
            .identity
            .as_ref()
            .is_some_and(|i| topic.starts_with(&format!("$hw/{}/", i.name)))
    }

    fn may_subscribe(&self, _: &ClientInfo, filter: &str) -> bool {
        filter.starts_with("$hw/press/")
    }
}

#[tokio::test(start_paused = true)]
async fn access_rules_hold() {
    let bench = Bench::with(|c| c.access = Some(Arc::new(Doorman))).await;
    let login = |user: &str, password: &str| [text(user), text(password)].concat();
    for (flags, rest, expected) in [
        (2, vec![], 4),
        (0xc2, login("press", "wrong"), 4),
        (0xc2, login("banned", "x"), 5),
        (0xc2, login("press", "secret"), 0),
        // A will on a topic that is not the client's.
        (0xc6, [text("other"), text("x"), login("press", "secret")].concat(), 5),
    ] {
        let mut client = bench.duplex();
        client.send(&connect4_with("c", flags, 0, &rest)).await;
        assert_eq!(client.packet().await, [0x20, 2, 0, expected], "{rest:?}");
    }

    let mut client = bench.duplex();
    client
        .send(&connect5_with("c", 0xc2, 0, &[], &login("press", "secret")))
        .await;
    client.packet().await;
    client.send(&publish5(2, 1, "$hw/other/x", &[], "x")).await;
    assert_eq!(client.packet().await, [0x40, 4, 0, 1, 0x87, 0]);
    client.send(&publish5(4, 2, "$hw/other/x", &[], "x")).await;
    assert_eq!(client.packet().await, [0x50, 4, 0, 2, 0x87, 0]);
    client.send(&publish5(2, 3, "$hw/press/x", &[], "x")).await;
    assert_eq!(client.packet().await, ack(PUBACK, 3));
    client.send(&subscribe5(4, "#", 0, &[])).await;
    assert_eq!(client.packet().await, [0x90, 4, 0, 4, 0, 0x87]);
    client.send(&subscribe5(5, "$share/g/#", 0, &[])).await;
    assert_eq!(client.packet().await, [0x90, 4, 0, 5, 0, 0x87]);
    client.subscribe5("$hw/press/#", 1, &[]).await;
    assert_eq!(bench.local.count(), 1);
    assert_eq!(bench.broker.stats().denied, 4);
}

#[tokio::test]
async fn beyond_loopback_only_with_authentication() {
    let mut open = config();
    open.listen = vec![
        SocketAddr::from(([127, 0, 0, 1], 0)),
        SocketAddr::from(([0, 0, 0, 0], 0)),
    ];
    let start = |config| {
        Broker::start(
            config,
            Arc::new(MemoryPersist::default()),
            Arc::new(mqtt::NoLocalTopics),
        )
    };
    match start(open.clone()).await {
        Err(StartError::NeedsAuthentication(address)) => assert_eq!(address, open.listen[1]),
        other => panic!("{other:?}"),
    }
    open.access = Some(Arc::new(Doorman));
    let broker = start(open).await.unwrap();
    assert_eq!(broker.addresses().len(), 2);
    let mut taken = config();
    taken.listen = vec![broker.addresses()[0]];
    assert!(matches!(start(taken).await, Err(StartError::Bind { .. })));
}

#[test]
fn passwords_are_not_printed() {
    let login = LoginRequest {
        client_id: "c".into(),
        peer: SocketAddr::from(([127, 0, 0, 1], 1)),
        username: Some("u".into()),
        password: Some("hunter2".into()),
    };
    assert!(!format!("{login:?}").contains("hunter2"));
}
