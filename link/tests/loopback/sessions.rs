//! Real sessions, driven over both transports.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use link::driver::{Driver, End, Events, Outcome, SessionHandle, drive};
use link::{CloseCode, Connection, Goodbye, Stream, StreamKind, Transports};
use proto::{
    Applied, CloseReason, Codec, EdgeConfig, Event, HubConfig, Inventory, Limits, Session, SessionError, SourceSet,
    wire,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::{Hub, soon};

const EACH: [Transports; 2] = [Transports::QuicOnly, Transports::TcpOnly];

fn now() -> proto::Now {
    daemon::clock::since_start()
}

fn entries(prefix: &str, count: usize) -> SourceSet {
    (0..count)
        .map(|n| {
            (
                format!("/things/{prefix}/{n:05}"),
                format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(200)),
            )
        })
        .collect()
}

fn hub_config(heartbeat: Duration) -> HubConfig {
    let mut config = HubConfig::new("hub-1", 1);
    config.limits = Limits {
        heartbeat,
        ..Limits::default()
    };
    config
}

/// One end, running.
struct End1 {
    handle: SessionHandle,
    events: Events,
    cancel: CancellationToken,
    done: JoinHandle<Outcome>,
}

fn start(session: Session, stream: Stream) -> End1 {
    let (driver, handle, events): (Driver<Stream>, _, _) = drive(session, stream);
    let cancel = CancellationToken::new();
    let done = tokio::spawn(driver.run(cancel.clone()));
    End1 {
        handle,
        events,
        cancel,
        done,
    }
}

/// Applies what comes into a map, until the session ends.
async fn mirror(handle: SessionHandle, mut events: Events) -> BTreeMap<String, Bytes> {
    let mut held = BTreeMap::new();
    while let Some(event) = events.next().await {
        if let Event::Apply { batch, changes } = event {
            for change in changes {
                match change.body {
                    Some(body) => held.insert(change.key.to_string(), body),
                    None => held.remove(&*change.key),
                };
            }
            let told = handle.call(move |s, _| s.applied(batch, Applied::default())).await;
            if told.is_err() {
                tracing::debug!("the session ended meanwhile");
            }
        }
    }
    held
}

/// Both streams of a session, with the connections that carry them.
async fn streams(hub: &Hub, transports: Transports) -> (Stream, Stream, Connection, Connection) {
    let (edge, server) = hub.pair(&hub.dialer("gw-1").transports(transports), &hub.addrs()).await;
    let opened = edge.open(StreamKind::Session).await.unwrap();
    let mut accepted = soon(server.accept_bi()).await.unwrap();
    assert_eq!(accepted.read_kind().await.unwrap(), StreamKind::Session);
    (opened, accepted, edge, server)
}

struct Pair {
    edge: End1,
    hub: End1,
    _links: (Connection, Connection),
}

/// A session with its Hello answered; later events are still to be taken.
async fn pair(hub: &Hub, transports: Transports, observed: SourceSet, desired: SourceSet, heartbeat: Duration) -> Pair {
    let (up, down, a, b) = streams(hub, transports).await;
    let session = Session::edge(EdgeConfig::new("gw-1", 1, 1), observed, Inventory::new(), now());
    let mut edge = start(session, up);
    let mut hub = start(
        Session::hub(hub_config(heartbeat), b.peer().unwrap().node().unwrap(), now()),
        down,
    );
    let hello = soon(hub.events.next()).await;
    assert!(matches!(hello, Some(Event::Hello { .. })), "{hello:?}");
    hub.handle
        .call(move |s, now| s.accept(now, desired, Inventory::new(), Vec::new()))
        .await
        .unwrap();
    let welcome = soon(edge.events.next()).await;
    assert!(
        matches!(&welcome, Some(Event::Welcome { hub_id, .. }) if hub_id == "hub-1"),
        "{welcome:?}"
    );
    Pair {
        edge,
        hub,
        _links: (a, b),
    }
}

async fn in_sync(handle: &SessionHandle) {
    soon(async {
        while !handle.ask(|s, _| s.digests().in_sync).await.unwrap() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn as_map(set: &SourceSet) -> BTreeMap<String, Bytes> {
    set.iter().map(|(k, _, b)| (k.to_string(), b.clone())).collect()
}

#[tokio::test]
async fn both_sets_arrive_whole_and_follow_edits() {
    let hub = Hub::new();
    for transports in EACH {
        let (observed, desired) = (entries("up", 800), entries("down", 1500));
        let (up, down) = (as_map(&observed), as_map(&desired));
        let Pair {
            edge,
            hub: server,
            _links,
        } = pair(&hub, transports, observed, desired, Duration::from_secs(60)).await;
        let at_edge = tokio::spawn(mirror(edge.handle.clone(), edge.events));
        let at_hub = tokio::spawn(mirror(server.handle.clone(), server.events));
        in_sync(&edge.handle).await;
        in_sync(&server.handle).await;

        server
            .handle
            .call(|s, _| s.source_put("/things/down/00001", "{}"))
            .await
            .unwrap();
        server
            .handle
            .call(|s, _| s.source_remove("/things/down/00002"))
            .await
            .unwrap();
        edge.handle
            .call(|s, _| s.source_put("/things/up/99999", "{\"new\":1}"))
            .await
            .unwrap();
        in_sync(&server.handle).await;
        in_sync(&edge.handle).await;

        edge.cancel.cancel();
        let (edge_end, hub_end) = (soon(edge.done).await.unwrap(), soon(server.done).await.unwrap());
        assert_eq!(edge_end.end, End::Closed);
        assert!(
            matches!(
                hub_end.end,
                End::Peer {
                    reason: CloseReason::Shutdown,
                    ..
                }
            ),
            "{:?}",
            hub_end.end
        );
        let mut expected = down;
        expected.insert("/things/down/00001".to_owned(), Bytes::from_static(b"{}"));
        expected.remove("/things/down/00002");
        assert_eq!(soon(at_edge).await.unwrap(), expected);
        let mut expected = up;
        expected.insert("/things/up/99999".to_owned(), Bytes::from_static(b"{\"new\":1}"));
        assert_eq!(soon(at_hub).await.unwrap(), expected);
        assert!(server.handle.is_ended() && edge.handle.call(|_, _| ()).await.is_err());
    }
}

#[tokio::test]
async fn a_close_is_heard_with_its_reason_even_when_the_connection_is_closed_behind_it() {
    let hub = Hub::new();
    for transports in EACH {
        let Pair {
            edge,
            hub: server,
            _links: (_a, b),
        } = pair(
            &hub,
            transports,
            SourceSet::new(),
            SourceSet::new(),
            Duration::from_secs(60),
        )
        .await;
        server.handle.call(|s, _| s.close(CloseReason::Revoked)).await.unwrap();
        assert_eq!(soon(server.done).await.unwrap().end, End::Closed);
        b.close(&Goodbye::new(CloseCode::Revoked, "revoked"));
        let end = soon(edge.done).await.unwrap().end;
        assert!(
            matches!(
                end,
                End::Peer {
                    reason: CloseReason::Revoked,
                    ..
                }
            ),
            "{end:?}"
        );
        let mut events = edge.events;
        let mut last = None;
        while let Some(event) = soon(events.next()).await {
            last = Some(event);
        }
        assert!(
            matches!(
                last,
                Some(Event::PeerClosed {
                    reason: CloseReason::Revoked,
                    ..
                })
            ),
            "{last:?}"
        );
    }
}

#[tokio::test]
async fn a_broken_connection_ends_both() {
    let hub = Hub::new();
    for transports in EACH {
        let Pair {
            edge,
            hub: server,
            _links: (a, _b),
        } = pair(
            &hub,
            transports,
            SourceSet::new(),
            SourceSet::new(),
            Duration::from_secs(60),
        )
        .await;
        a.close(&Goodbye::new(CloseCode::Superseded, ""));
        assert!(matches!(soon(edge.done).await.unwrap().end, End::Lost(_)));
        assert!(matches!(soon(server.done).await.unwrap().end, End::Lost(_)));
    }
}

#[tokio::test]
async fn an_application_that_does_not_listen_loses_nothing() {
    let hub = Hub::new();
    for transports in EACH {
        let desired = entries("down", 20_000);
        let expected = as_map(&desired);
        let Pair {
            edge,
            hub: server,
            _links,
        } = pair(&hub, transports, SourceSet::new(), desired, Duration::from_secs(60)).await;
        let at_hub = tokio::spawn(mirror(server.handle.clone(), server.events));
        // Nobody takes the gateway's events; its session still answers questions meanwhile.
        for _ in 0..100 {
            soon(edge.handle.ask(|s, _| s.is_live())).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(!server.handle.ask(|s, _| s.digests().in_sync).await.unwrap());
        let at_edge = tokio::spawn(mirror(edge.handle.clone(), edge.events));
        in_sync(&server.handle).await;
        edge.cancel.cancel();
        soon(edge.done).await.unwrap();
        soon(server.done).await.unwrap();
        assert_eq!(soon(at_edge).await.unwrap().len(), expected.len());
        soon(at_hub).await.unwrap();
    }
}

/// A gateway's Hello, as bytes.
fn hello(node: &str) -> BytesMut {
    let mut session = Session::edge(EdgeConfig::new(node, 1, 1), SourceSet::new(), Inventory::new(), now());
    let mut out = BytesMut::new();
    while let Some(frame) = session.poll_transmit() {
        Codec::default().encode(&frame, &mut out).unwrap();
    }
    out
}

/// What a peer that is not ours reads: the kind of the last frame.
async fn last_frame(stream: &mut Stream) -> Option<wire::frame::Kind> {
    let mut input = BytesMut::new();
    // The stream may break off after its last frame.
    while let Ok(1..) = soon(stream.read_buf(&mut input)).await {}
    let mut last = None;
    while let Ok(Some(frame)) = Codec::default().decode(&mut input) {
        last = frame.kind;
    }
    last
}

#[tokio::test]
async fn garbage_ends_the_session_and_the_peer_is_told() {
    let hub = Hub::new();
    let huge = [&0xffff_ffff_u32.to_be_bytes()[..], b"x"].concat();
    let large_before_hello = [&(100_000_u32).to_be_bytes()[..], b"x"].concat();
    let junk = [&5_u32.to_be_bytes()[..], b"\xff\xff\xff\xff\xff"].concat();
    for transports in EACH {
        for bytes in [&huge, &large_before_hello, &junk] {
            let (mut up, down, _a, _b) = streams(&hub, transports).await;
            let server = start(Session::hub(hub_config(Duration::from_secs(60)), "gw-1", now()), down);
            up.write_all(bytes).await.unwrap();
            up.flush().await.unwrap();
            let end = soon(server.done).await.unwrap().end;
            assert!(matches!(end, End::Session(SessionError::Codec(_))), "{end:?}");
            drop(last_frame(&mut up).await);
        }
        let (mut up, down, _a, _b) = streams(&hub, transports).await;
        let server = start(Session::hub(hub_config(Duration::from_secs(60)), "gw-1", now()), down);
        up.write_all(&hello("gw-2")).await.unwrap();
        up.flush().await.unwrap();
        let end = soon(server.done).await.unwrap().end;
        assert!(matches!(end, End::Session(SessionError::WrongNode { .. })), "{end:?}");
        assert!(matches!(last_frame(&mut up).await, Some(wire::frame::Kind::Goodbye(_))));
    }
}

#[tokio::test]
async fn a_silent_peer_is_noticed_in_three_heartbeats() {
    let hub = Hub::new();
    let heartbeat = Duration::from_millis(200);
    for transports in EACH {
        let (mut up, down, _a, _b) = streams(&hub, transports).await;
        let mut server = start(Session::hub(hub_config(heartbeat), "gw-1", now()), down);
        up.write_all(&hello("gw-1")).await.unwrap();
        up.flush().await.unwrap();
        assert!(matches!(soon(server.events.next()).await, Some(Event::Hello { .. })));
        let began = daemon::clock::now();
        server
            .handle
            .call(|s, now| s.accept(now, SourceSet::new(), Inventory::new(), Vec::new()))
            .await
            .unwrap();
        let end = soon(server.done).await.unwrap().end;
        assert!(matches!(end, End::Session(SessionError::PeerSilent(_))), "{end:?}");
        assert!(
            began.elapsed() < heartbeat * 3 + Duration::from_millis(300),
            "{:?}",
            began.elapsed()
        );
        assert!(matches!(last_frame(&mut up).await, Some(wire::frame::Kind::Goodbye(_))));
    }
}

#[tokio::test]
async fn two_quiet_sides_stay_together() {
    let hub = Hub::new();
    for transports in EACH {
        let heartbeat = Duration::from_millis(100);
        let Pair {
            edge,
            hub: server,
            _links,
        } = pair(&hub, transports, SourceSet::new(), SourceSet::new(), heartbeat).await;
        tokio::time::sleep(heartbeat * 12).await;
        assert!(!edge.handle.is_ended() && !server.handle.is_ended());
    }
}

#[tokio::test]
async fn a_peer_that_never_reads_is_given_up() {
    // A pipe of 64 bytes with nobody at its other end, and more to say than that.
    let (near, _far) = tokio::io::duplex(64);
    let session = Session::edge(
        EdgeConfig::new("a".repeat(60), 1, 1),
        SourceSet::new(),
        Inventory::new(),
        now(),
    );
    let (driver, handle, _events) = drive(session, near);
    let running = driver
        .write_deadline(Duration::from_millis(100))
        .run(CancellationToken::new());
    assert_eq!(soon(running).await.end, End::WriteStalled);
    assert!(handle.is_ended());
}

#[tokio::test]
async fn dropping_the_handle_or_the_events_closes_in_order() {
    for drop_events in [false, true] {
        let (near, mut far) = tokio::io::duplex(4096);
        let session = Session::edge(EdgeConfig::new("gw-1", 1, 1), SourceSet::new(), Inventory::new(), now());
        let (driver, handle, events) = drive(session, near);
        let running = tokio::spawn(driver.run(CancellationToken::new()));
        let mut kept = (Some(handle), Some(events));
        if drop_events {
            kept.1 = None;
            // Noticed when there is something to tell.
            let mut hub = Session::hub(hub_config(Duration::from_secs(60)), "gw-1", now());
            let mut input = BytesMut::new();
            let frame = loop {
                far.read_buf(&mut input).await.unwrap();
                if let Some(frame) = Codec::default().decode(&mut input).unwrap() {
                    break frame;
                }
            };
            hub.handle_frame(now(), frame).unwrap();
            hub.accept(now(), SourceSet::new(), Inventory::new(), Vec::new());
            let mut out = BytesMut::new();
            while let Some(frame) = hub.poll_transmit() {
                Codec::default().encode(&frame, &mut out).unwrap();
            }
            far.write_all(&out).await.unwrap();
        } else {
            kept.0 = None;
        }
        assert_eq!(soon(running).await.unwrap().end, End::Closed);
        let mut rest = Vec::new();
        soon(far.read_to_end(&mut rest)).await.unwrap();
        assert!(!rest.is_empty(), "a last frame says why");
    }
}
