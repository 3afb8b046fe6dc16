//! Strangers that waste the hub's time, and the good gateway among them.

use std::sync::Arc;
use std::time::Duration;

use link::{Admission, DialTimes, HubLimits, OpenGate, Transport, Transports};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::{Hub, Relay, Udp, quick, soon};

fn hub(limits: HubLimits) -> Hub {
    Hub::with(limits, Arc::new(OpenGate), Admission::new(1000, 1000))
}

/// The first bytes of a TLS hello that never ends.
const HALF_HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

#[tokio::test]
async fn a_slow_handshake_is_ended_by_its_deadline() {
    let limits = HubLimits {
        handshake: Duration::from_millis(300),
        ..HubLimits::default()
    };
    let hub = hub(limits);
    for first in [&b""[..], HALF_HELLO] {
        let mut socket = TcpStream::connect(hub.addr()).await.unwrap();
        socket.write_all(first).await.unwrap();
        let began = daemon::clock::now();
        // A byte every 50 ms does not buy more time.
        let mut rest = [0; 64];
        loop {
            match tokio::time::timeout(Duration::from_millis(50), socket.read(&mut rest)).await {
                Ok(Ok(0) | Err(_)) => break,
                Ok(Ok(_)) => panic!("the hub answers half a hello"),
                Err(_) if first.is_empty() => {}
                Err(_) => {
                    if socket.write_all(&[0]).await.is_err() {
                        break;
                    }
                }
            }
            assert!(began.elapsed() < Duration::from_secs(3), "still open");
        }
        assert!(began.elapsed() >= Duration::from_millis(250));
    }
    assert_eq!(hub.endpoint.strangers().1, 0);
}

#[tokio::test]
async fn a_quic_handshake_that_never_ends_is_ended() {
    let limits = HubLimits {
        handshake: Duration::from_millis(300),
        ..HubLimits::default()
    };
    let hub = hub(limits);
    let relay = Relay::start(hub.addr(), Udp::OneWay).await;
    let times = DialTimes {
        attempt: Duration::from_millis(1500),
        ..quick()
    };
    let deaf = hub.dialer("gw-1").transports(Transports::QuicOnly).times(times);
    let addrs = relay.addrs();
    let mut dial = std::pin::pin!(deaf.dial(&addrs));
    let mut seen = 0;
    soon(async {
        loop {
            tokio::select! {
                done = &mut dial => return assert!(done.is_err()),
                () = tokio::time::sleep(Duration::from_millis(10)) => seen = seen.max(hub.endpoint.strangers().0),
            }
        }
    })
    .await;
    assert_eq!(seen, 1, "it was there");
    drop(relay);
    soon(async {
        while hub.endpoint.strangers().0 > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn half_open_tcp_connections_do_not_keep_a_good_gateway_out() {
    let limits = HubLimits {
        half_open: 64,
        ..HubLimits::default()
    };
    let hub = hub(limits);
    let mut open = Vec::new();
    for n in 0..400 {
        let mut socket = TcpStream::connect(hub.addr()).await.unwrap();
        if n % 2 == 0 {
            socket.write_all(HALF_HELLO).await.unwrap();
        }
        open.push(socket);
    }
    let began = daemon::clock::now();
    let (edge, _server) = hub
        .pair(&hub.dialer("gw-1").transports(Transports::TcpOnly), &hub.addrs())
        .await;
    assert_eq!(edge.transport(), Transport::Tcp);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let (_, tcp, put_out) = hub.endpoint.strangers();
    assert!(tcp <= 64 && put_out >= 330, "{tcp} half open, {put_out} put out");
    // The oldest was put out, the newest is still there.
    let mut oldest = open.remove(0);
    let ended = soon(oldest.read(&mut [0; 8])).await;
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    let mut newest = open.pop().unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(100), newest.read(&mut [0; 8]))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn half_open_quic_handshakes_do_not_keep_a_good_gateway_out() {
    let limits = HubLimits {
        half_open: 64,
        validate_above: 16,
        ..HubLimits::default()
    };
    let hub = hub(limits);
    let relay = Relay::start(hub.addr(), Udp::OneWay).await;
    let times = DialTimes {
        attempt: Duration::from_secs(4),
        ..quick()
    };
    let deaf = hub.dialer("gw-0").transports(Transports::QuicOnly).times(times);
    let mut dials = JoinSet::new();
    for _ in 0..200 {
        let (deaf, addrs) = (deaf.clone(), relay.addrs());
        dials.spawn(async move { deaf.dial(&addrs).await.is_ok() });
    }
    soon(async {
        while hub.endpoint.strangers().0 < 16 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let began = daemon::clock::now();
    let (edge, _server) = hub
        .pair(&hub.dialer("gw-1").transports(Transports::QuicOnly), &hub.addrs())
        .await;
    assert_eq!(edge.transport(), Transport::Quic);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let (quic, _, put_out) = hub.endpoint.strangers();
    assert!(
        quic <= 20,
        "addresses are not real, so {quic} is what was let in before they were asked"
    );
    assert_eq!(put_out, 0);
    dials.abort_all();
}

#[tokio::test]
async fn quic_handshakes_that_never_end_leave_nothing() {
    let hub = hub(HubLimits {
        handshake: Duration::from_millis(300),
        validate_above: 1000,
        ..HubLimits::default()
    });
    let relay = Relay::start(hub.addr(), Udp::OneWay).await;
    let deaf = hub.dialer("gw-0").transports(Transports::QuicOnly).times(quick());
    let mut dials = JoinSet::new();
    for _ in 0..200 {
        let (deaf, addrs) = (deaf.clone(), relay.addrs());
        dials.spawn(async move { deaf.dial(&addrs).await.is_ok() });
    }
    soon(async {
        while hub.endpoint.quic_connections() < 100 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Whoever is silent from here on.
    dials.abort_all();
    drop(relay);
    soon(async {
        while hub.endpoint.strangers().0 + hub.endpoint.quic_connections() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(hub.endpoint.strangers().2, 0);
}

#[tokio::test]
async fn idle_join_connections_end_and_do_not_keep_others_out() {
    let limits = HubLimits {
        joining: 8,
        join: Duration::from_millis(600),
        ..HubLimits::default()
    };
    let hub = hub(limits);
    let dialer = link::Dialer::join(hub.ca.pin())
        .times(quick())
        .transports(Transports::TcpOnly);
    let mut open = Vec::new();
    for _ in 0..9 {
        let addrs = hub.addrs();
        let (edge, server) = tokio::join!(dialer.dial(&addrs), hub.endpoint.accept());
        open.push((edge.unwrap(), server.unwrap()));
    }
    // The ninth put the first out at once; the others end by their deadline.
    soon(open[0].0.closed()).await;
    assert_eq!(open[8].0.close_reason(), None);
    soon(open[8].0.closed()).await;
}

#[tokio::test]
async fn garbage_does_no_harm() {
    let hub = hub(HubLimits {
        handshake: Duration::from_millis(500),
        ..HubLimits::default()
    });
    let udp = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    fastrand::seed(7);
    for n in 0..2000_usize {
        let mut packet: Vec<u8> = (0..n % 1500).map(|_| fastrand::u8(..)).collect();
        if n % 3 == 0 && packet.len() > 5 {
            // A long header of version 1.
            packet[0] |= 0xc0;
            packet[1..5].copy_from_slice(&[0, 0, 0, 1]);
        }
        udp.send_to(&packet, hub.addr()).await.unwrap();
    }
    for n in 0..50_usize {
        let mut socket = TcpStream::connect(hub.addr()).await.unwrap();
        let junk: Vec<u8> = (0..n * 40).map(|_| fastrand::u8(..)).collect();
        // The hub may have closed already.
        drop(socket.write_all(&junk).await);
    }
    let (edge, _server) = hub.pair(&hub.dialer("gw-1"), &hub.addrs()).await;
    assert_eq!(edge.close_reason(), None);
}
