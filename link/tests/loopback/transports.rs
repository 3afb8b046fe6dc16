//! Which way a gateway takes, and that both are the same to whoever uses them.

use std::time::Duration;

use link::{CloseCode, Closed, DialError, Goodbye, StreamKind, Transport, Transports};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Hub, Relay, Udp, quick, soon};

#[tokio::test]
async fn quic_is_taken_when_it_gets_through_and_both_know_each_other() {
    let hub = Hub::new();
    let (edge, server) = hub.pair(&hub.dialer("gw-1"), &hub.addrs()).await;
    assert_eq!(
        (edge.transport(), server.transport()),
        (Transport::Quic, Transport::Quic)
    );
    let peer = server.peer().unwrap();
    assert_eq!((peer.node(), peer.organizations.len()), (Some("gw-1"), 1));
    assert_eq!(peer.serial.len(), 32);
    assert!(peer.not_after_ms > 0);
    assert_eq!(edge.peer().unwrap().common_name, "hub.kurator.internal");
    assert_eq!(edge.peer().unwrap().node(), None);
    assert!(edge.rtt().is_some());
}

#[tokio::test]
async fn tcp_is_taken_when_udp_is_silent_and_quic_again_when_it_is_back() {
    let hub = Hub::new();
    let relay = Relay::start(hub.addr(), Udp::Drop).await;
    let dialer = hub.dialer("gw-1");
    let began = daemon::clock::now();
    let (edge, server) = hub.pair(&dialer, &relay.addrs()).await;
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "a silent UDP costs a moment: {:?}",
        began.elapsed()
    );
    assert_eq!((edge.transport(), server.transport()), (Transport::Tcp, Transport::Tcp));
    assert_eq!(server.peer().unwrap().node(), Some("gw-1"));

    let addrs = relay.addrs();
    let mut probe = std::pin::pin!(dialer.quic_available(&addrs));
    let early = tokio::time::timeout(Duration::from_millis(1500), &mut probe).await;
    assert!(early.is_err(), "nothing is reported while UDP is dropped");
    relay.set(Udp::Pass);
    assert_eq!(soon(probe).await.addr, relay.addr);
    assert_eq!(hub.endpoint.strangers(), (0, 0, 0), "a probe leaves nothing behind");
    let (edge, _server) = hub.pair(&dialer, &addrs).await;
    assert_eq!(edge.transport(), Transport::Quic);
}

#[tokio::test]
async fn a_probe_is_not_fooled_by_a_one_way_path() {
    let hub = Hub::new();
    let relay = Relay::start(hub.addr(), Udp::OneWay).await;
    let probe = tokio::time::timeout(Duration::from_secs(3), {
        let dialer = hub.dialer("gw-1");
        async move { dialer.quic_available(&relay.addrs()).await }
    });
    assert!(probe.await.is_err());
}

#[tokio::test]
async fn only_the_transport_that_is_allowed_is_taken() {
    let hub = Hub::new();
    let (edge, _server) = hub
        .pair(&hub.dialer("gw-1").transports(Transports::TcpOnly), &hub.addrs())
        .await;
    assert_eq!(edge.transport(), Transport::Tcp);
    let relay = Relay::start(hub.addr(), Udp::Drop).await;
    let times = link::DialTimes {
        attempt: Duration::from_millis(400),
        ..quick()
    };
    let quic_only = hub.dialer("gw-1").transports(Transports::QuicOnly).times(times);
    assert_eq!(
        soon(quic_only.dial(&relay.addrs())).await.unwrap_err(),
        DialError::Timeout
    );
}

#[tokio::test]
async fn a_second_address_is_tried_and_names_are_resolved() {
    let hub = Hub::new();
    // Nobody on the first, neither UDP nor TCP.
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let addrs = vec![
        nobody,
        "no-such-name.invalid:1".to_owned(),
        format!("localhost:{}", hub.addr().port()),
    ];
    let (edge, _server) = hub.pair(&hub.dialer("gw-1"), &addrs).await;
    assert_eq!(edge.transport(), Transport::Quic);
}

#[tokio::test]
async fn an_absent_hub_is_told_from_a_silent_one() {
    let hub = Hub::new();
    let dialer = hub.dialer("gw-1").times(link::DialTimes {
        attempt: Duration::from_millis(700),
        ..quick()
    });
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    assert!(matches!(
        soon(dialer.dial(&[closed])).await.unwrap_err(),
        DialError::Unreachable(_)
    ));
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    assert_eq!(soon(dialer.dial(&[addr])).await.unwrap_err(), DialError::Timeout);
    assert!(matches!(
        soon(dialer.dial(&[])).await.unwrap_err(),
        DialError::Unreachable(_)
    ));
    let name = "no-such-name.invalid:10443".to_owned();
    assert!(matches!(
        soon(dialer.dial(&[name])).await.unwrap_err(),
        DialError::Unreachable(_)
    ));
}

/// Runs the same check over both.
async fn both<F: Future<Output = ()>>(check: impl Fn(Hub, Transports) -> F) {
    for transports in [Transports::QuicOnly, Transports::TcpOnly] {
        Box::pin(check(Hub::new(), transports)).await;
    }
}

#[tokio::test]
async fn streams_carry_bytes_both_ways_and_say_what_they_are_for() {
    both(|hub, transports| async move {
        let (edge, server) = hub.pair(&hub.dialer("gw-1").transports(transports), &hub.addrs()).await;
        let sent = vec![7; 3_000_000];
        let echo = tokio::spawn(async move {
            let mut stream = server.accept_bi().await.unwrap();
            assert_eq!(stream.read_kind().await.unwrap(), StreamKind::Http);
            let mut got = Vec::new();
            stream.read_to_end(&mut got).await.unwrap();
            stream.write_all(&got).await.unwrap();
            stream.finish().await.unwrap();
            (server, got.len())
        });
        let mut stream = edge.open(StreamKind::Http).await.unwrap();
        stream.write_all(&sent).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        soon(stream.read_to_end(&mut back)).await.unwrap();
        assert_eq!(back, sent);
        let (server, n) = soon(echo).await.unwrap();
        assert_eq!(n, sent.len());
        let (out, in_) = edge.bytes();
        assert!(
            (3_000_000..3_600_000).contains(&out) && (3_000_000..3_600_000).contains(&in_),
            "{out} {in_}"
        );
        assert!(server.packets().0 > 0);
    })
    .await;
}

#[tokio::test]
async fn the_hub_opens_streams_too_and_many_at_once() {
    both(|hub, transports| async move {
        let (edge, server) = hub.pair(&hub.dialer("gw-1").transports(transports), &hub.addrs()).await;
        let answering = tokio::spawn(async move {
            for _ in 0..10 {
                let mut stream = edge.accept_bi().await.unwrap();
                tokio::spawn(async move {
                    assert_eq!(stream.read_kind().await.unwrap(), StreamKind::Http);
                    let n = stream.read_u8().await.unwrap();
                    stream.write_u8(n + 100).await.unwrap();
                    stream.finish().await.unwrap();
                });
            }
            edge.closed().await
        });
        let mut open = Vec::new();
        for n in 0..10 {
            let mut stream = server.open(StreamKind::Http).await.unwrap();
            stream.write_u8(n).await.unwrap();
            stream.flush().await.unwrap();
            open.push(stream);
        }
        for (n, stream) in open.iter_mut().enumerate() {
            assert_eq!(usize::from(soon(stream.read_u8()).await.unwrap()), n + 100);
        }
        server.close(&Goodbye::new(CloseCode::GoingAway, "update"));
        let closed = soon(answering).await.unwrap();
        if transports == Transports::QuicOnly {
            assert_eq!(closed, Closed::Peer(Goodbye::new(CloseCode::GoingAway, "update")));
        } else {
            assert!(matches!(closed, Closed::Lost(_)), "{closed:?}");
        }
        assert_eq!(soon(server.closed()).await, Closed::Local);
        assert_eq!(server.close_reason(), Some(Closed::Local));
        assert!(soon(server.open_bi()).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn dropping_every_handle_ends_the_connection() {
    both(|hub, transports| async move {
        let (edge, server) = hub.pair(&hub.dialer("gw-1").transports(transports), &hub.addrs()).await;
        let stream = edge.open(StreamKind::Session).await.unwrap();
        drop(edge);
        let mut accepted = soon(server.accept_bi()).await.unwrap();
        assert_eq!(accepted.read_kind().await.unwrap(), StreamKind::Session);
        assert_eq!(server.close_reason(), None, "a stream keeps it");
        drop(stream);
        soon(server.closed()).await;
    })
    .await;
}

#[tokio::test]
async fn a_certificate_is_replaced_while_links_live() {
    let hub = Hub::new();
    let dialer = hub.dialer("gw-1");
    let (first, _server) = hub.pair(&dialer, &hub.addrs()).await;
    let renewed = hub
        .ca
        .issue_server(&["10.0.0.1".to_owned()], crate::harness::now_ms())
        .unwrap();
    hub.endpoint.set_certificate(&renewed).unwrap();
    let (second, _server) = hub.pair(&dialer, &hub.addrs()).await;
    assert_ne!(first.peer().unwrap().serial, second.peer().unwrap().serial);
    assert_eq!(first.close_reason(), None);
}

#[tokio::test]
async fn closing_the_port_tells_the_gateways() {
    let hub = Hub::new();
    let (edge, _server) = hub.pair(&hub.dialer("gw-1"), &hub.addrs()).await;
    soon(hub.endpoint.close(&Goodbye::new(CloseCode::GoingAway, "restart"))).await;
    assert_eq!(
        soon(edge.closed()).await,
        Closed::Peer(Goodbye::new(CloseCode::GoingAway, "restart"))
    );
    assert!(soon(hub.endpoint.accept()).await.is_none());
}

#[tokio::test]
async fn a_connection_outlives_a_new_address() {
    let hub = Hub::new();
    let relay = Relay::start(hub.addr(), Udp::Pass).await;
    let (edge, server) = hub.pair(&hub.dialer("gw-1"), &relay.addrs()).await;
    let (mut up, before) = (edge.open(StreamKind::Session).await.unwrap(), server.remote_addr());
    let mut down = soon(server.accept_bi()).await.unwrap();
    down.read_kind().await.unwrap();
    relay.forget();
    for n in 0..20 {
        up.write_u8(n).await.unwrap();
        assert_eq!(soon(down.read_u8()).await.unwrap(), n);
        down.write_u8(n).await.unwrap();
        assert_eq!(soon(up.read_u8()).await.unwrap(), n);
    }
    assert_ne!(server.remote_addr(), before);
    assert_eq!((edge.close_reason(), server.close_reason()), (None, None));
}

#[tokio::test]
async fn a_close_is_heard_in_the_middle_of_a_transfer() {
    let hub = Hub::new();
    for by_hub in [true, false] {
        let (edge, server) = hub
            .pair(&hub.dialer("gw-1").transports(Transports::QuicOnly), &hub.addrs())
            .await;
        let (closing, hearing) = if by_hub { (server, edge) } else { (edge, server) };
        let mut out = closing.open(StreamKind::Http).await.unwrap();
        let writing = tokio::spawn(async move { out.write_all(&vec![0; 8_000_000]).await.is_err() });
        let mut stream = soon(hearing.accept_bi()).await.unwrap();
        stream.read_kind().await.unwrap();
        // Right after the first bytes, when as many are under way as are allowed.
        let why = Goodbye::new(CloseCode::GoingAway, "enough");
        closing.close(&why);
        assert_eq!(soon(hearing.closed()).await, Closed::Peer(why), "by the hub: {by_hub}");
        assert!(soon(writing).await.unwrap());
    }
}
