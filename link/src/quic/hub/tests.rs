//! The hub's driver against a gateway that is quinn as it comes.

#![allow(clippy::unwrap_used)] // helpers of tests are not inside a test function

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use quinn_udp::RecvMeta;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use super::super::{HubTls, RecvHalf, SendHalf, edge_endpoint, edge_transport, hub_endpoint, hub_transport, reset_key};
use super::*;
use crate::pki::{Credential, HUB_SERVER_NAME, HubCa, NodeKey, NodeProfile};
use crate::tls::{self, ALPN_LINK, ServerCerts, TimeFloor, Trust};

/// For what is expected to happen; a test that waits this long has failed.
const SOON: Duration = Duration::from_secs(20);
const IDLE: Duration = Duration::from_secs(60);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what)
        .await
        .expect("it does not come to an end")
}

fn local() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

/// A hub and the socket of one gateway.
struct Both {
    hub: HubQuic,
    addr: SocketAddr,
    gateway: quinn::Endpoint,
    config: quinn::ClientConfig,
}

impl Both {
    fn new() -> Self {
        Self::on(local())
    }

    fn on(socket: UdpSocket) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now_ms = daemon::clock::wall_ms();
        let ca = HubCa::load_or_create(dir.path(), now_ms).unwrap();
        let server = ca.issue_server(&[], now_ms).unwrap();
        let certs = Arc::new(ServerCerts::new(tls::certified(&server).unwrap()));
        let crypto = HubTls::new(tls::server_config(certs, ca.cert()).unwrap()).unwrap();
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(hub_transport(IDLE)).migration(true);
        let addr = socket.local_addr().unwrap();
        let reset = reset_key(server.key().unwrap().secret_der());
        let hub = HubQuic::start(hub_endpoint(reset), config, socket).unwrap();

        let key = NodeKey::generate().unwrap();
        let profile = NodeProfile {
            node: "gw-1",
            trust_domain: "kurator.local",
            valid: Duration::from_secs(3600),
        };
        let identity = Credential {
            chain_pem: ca
                .issue_node(&key.request().unwrap(), &profile, now_ms)
                .unwrap()
                .chain_pem,
            key_pem: key.to_pem(),
        };
        let trust = Trust::Ca(ca.cert().clone());
        let identity = Some(tls::certified(&identity).unwrap());
        let (client, _) = tls::client_config(ALPN_LINK, &trust, &TimeFloor::default(), identity).unwrap();
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(client).unwrap();
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(edge_transport(IDLE));
        let runtime = Arc::new(quinn::TokioRuntime);
        let gateway = quinn::Endpoint::new(edge_endpoint(true), None, local(), runtime).unwrap();
        Self {
            hub,
            addr,
            gateway,
            config,
        }
    }

    fn dial(&self) -> quinn::Connecting {
        let config = self.config.clone();
        self.gateway.connect_with(config, self.addr, HUB_SERVER_NAME).unwrap()
    }

    /// Both ends of a connection.
    async fn pair(&self) -> (quinn::Connection, HubConnection) {
        let accept = async {
            let connection = self.hub.accept().await.unwrap().accept().unwrap();
            connection.opened().await.unwrap();
            connection
        };
        let (gateway, hub) = soon(async { tokio::join!(self.dial(), accept) }).await;
        (gateway.unwrap(), hub)
    }
}

/// The hub sends back what comes on one stream.
async fn echo((mut send, mut recv): (SendHalf, RecvHalf)) {
    // Until the peer has enough.
    drop(tokio::io::copy(&mut recv, &mut send).await);
    drop(send.shutdown().await);
}

/// A stream of the gateway's that is sent back.
struct Loop {
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    rounds: u8,
}

impl Loop {
    async fn open(gateway: &quinn::Connection, hub: &HubConnection) -> Self {
        let (send, recv) = gateway.open_bi().await.unwrap();
        let hub = hub.clone();
        tokio::spawn(async move { echo(hub.accept_bi().await.unwrap()).await });
        Self { send, recv, rounds: 0 }
    }

    async fn round(&mut self, bytes: usize) {
        self.rounds = self.rounds.wrapping_add(1);
        let sent = vec![self.rounds; bytes];
        let mut back = vec![0; bytes];
        let (wrote, read) = soon(async {
            tokio::join!(async { self.send.write_all(&sent).await }, async {
                self.recv.read_exact(&mut back).await
            })
        })
        .await;
        wrote.unwrap();
        read.unwrap();
        assert!(back == sent);
    }
}

/// Counts what quinn says of key updates; nothing else shows them.
struct KeyUpdates(Arc<AtomicUsize>);

struct IsUpdate(bool);

impl tracing::field::Visit for IsUpdate {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0 |= field.name() == "message" && format!("{value:?}") == "executing key update";
    }
}

impl tracing::Subscriber for KeyUpdates {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("quinn_proto::connection")
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut is = IsUpdate(false);
        event.record(&mut is);
        self.0.fetch_add(usize::from(is.0), Ordering::SeqCst);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn either_side_changes_keys_while_data_flows() {
    let updates = Arc::new(AtomicUsize::new(0));
    let _counting = tracing::subscriber::set_default(KeyUpdates(Arc::clone(&updates)));
    let both = Both::new();
    let (gateway, hub) = both.pair().await;
    let mut data = Loop::open(&gateway, &hub).await;
    let seen = || updates.load(Ordering::SeqCst);
    for turn in 0..6 {
        let before = seen();
        // quinn refuses until the keys before the last are forgotten.
        while seen() == before {
            if turn % 2 == 0 {
                gateway.force_key_update();
            } else {
                hub.state().machine.force_key_update();
                hub.nudge();
            }
            data.round(20_000).await;
        }
        while seen() < before + 2 {
            data.round(20_000).await;
        }
        assert_eq!(seen(), before + 2, "one side changed, the other followed");
    }
    assert_eq!((gateway.close_reason(), hub.close_reason()), (None, None));
}

#[tokio::test]
async fn a_gateway_that_moves_in_the_middle_of_a_transfer_stays() {
    let both = Both::new();
    let (gateway, hub) = both.pair().await;
    let mut data = Loop::open(&gateway, &hub).await;
    for _ in 0..3 {
        let before = hub.remote_address();
        data.round(100_000).await;
        both.gateway.rebind(local()).unwrap();
        data.round(500_000).await;
        assert_ne!(hub.remote_address(), before);
    }
    assert_eq!((gateway.close_reason(), hub.close_reason()), (None, None));
}

#[tokio::test]
async fn a_hub_with_many_addresses_answers_from_the_one_that_was_asked() {
    // Not every machine has IPv6.
    let both_families = UdpSocket::bind("[::]:0").ok();
    for socket in both_families.into_iter().chain(UdpSocket::bind("0.0.0.0:0")) {
        let mut both = Both::on(socket);
        both.addr = SocketAddr::from(([127, 0, 0, 3], both.addr.port()));
        // A gateway takes nothing from elsewhere, neither of its connection nor before there is one.
        let mut retried = both.dial();
        assert!(soon(both.hub.accept()).await.unwrap().retry());
        let again = tokio::select! {
            done = &mut retried => panic!("{:?}", done.err()),
            again = soon(both.hub.accept()) => again.unwrap(),
        };
        assert!(!again.may_retry());
        let hub = again.accept().unwrap();
        let (gateway, opened) = soon(async { tokio::join!(retried, hub.opened()) }).await;
        opened.unwrap();
        let gateway = gateway.unwrap();
        Loop::open(&gateway, &hub).await.round(100_000).await;
    }
}

#[tokio::test]
async fn who_does_not_read_is_sent_no_more_than_his_window() {
    let both = Both::new();
    let (gateway, hub) = both.pair().await;
    let (mut up, _down) = gateway.open_bi().await.unwrap();
    let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    let whole = sent.clone();
    let writing = tokio::spawn(async move {
        up.write_all(&whole).await.unwrap();
        up.finish().unwrap();
    });
    let (_answer, mut stalled) = soon(hub.accept_bi()).await.unwrap();
    let window = u64::from(super::super::STREAM_WINDOW);
    let mut other = Loop::open(&gateway, &hub).await;
    while hub.stats().udp_rx.bytes < window {
        other.round(1).await;
    }
    for _ in 0..200 {
        other.round(1).await;
    }
    // Headers, acknowledgements and the other stream come on top.
    let taken = hub.stats().udp_rx.bytes;
    assert!(taken < window * 5 / 4, "{taken} bytes were taken in");
    assert!(!writing.is_finished());
    let mut read = Vec::new();
    soon(stalled.read_to_end(&mut read)).await.unwrap();
    assert!(read == sent);
    writing.await.unwrap();
}

#[tokio::test]
async fn a_stream_that_is_let_go_half_read_frees_its_window_and_its_place() {
    let both = Both::new();
    let (gateway, hub) = both.pair().await;
    // More streams than may be open, and more bytes than the connection's window holds.
    for n in 0..40_u8 {
        let (mut up, mut down) = soon(gateway.open_bi()).await.unwrap();
        let writing = tokio::spawn(async move { up.write_all(&vec![n; 200_000]).await });
        let (answer, mut half) = soon(hub.accept_bi()).await.unwrap();
        let mut some = vec![0; 1000];
        soon(half.read_exact(&mut some)).await.unwrap();
        assert_eq!(some, vec![n; 1000]);
        drop((half, answer));
        // Told to stop, or through before it was.
        drop(soon(writing).await.unwrap());
        assert!(soon(down.read_to_end(10)).await.unwrap().is_empty());
    }
    assert_eq!((gateway.close_reason(), hub.close_reason()), (None, None));
}

#[tokio::test]
async fn handshakes_that_break_off_leave_nothing() {
    let both = Both::new();
    let mut handshakes = JoinSet::new();
    for n in 0..100 {
        let dialing = both.dial();
        let incoming = soon(both.hub.accept()).await.unwrap();
        match n % 3 {
            // Given up by the gateway; by the hub; by both.
            0 => {
                let connection = incoming.accept().unwrap();
                handshakes.spawn(async move { connection.opened().await.is_err() });
            }
            1 => {
                drop(incoming.accept().unwrap());
                handshakes.spawn(async move { dialing.await.is_err() });
                continue;
            }
            _ => drop(incoming.accept().unwrap()),
        }
        drop(dialing);
    }
    assert!(both.hub.live() > 0);
    while let Some(done) = soon(handshakes.join_next()).await {
        assert!(done.unwrap(), "a handshake that was given up is over");
    }
    soon(both.hub.wait_idle()).await;
    assert_eq!(both.hub.live(), 0);
    assert!(both.hub.0.routes().conns.iter().all(Option::is_none));
    both.pair().await;
}

#[tokio::test]
async fn a_port_that_closes_ends_whatever_is_under_way() {
    let both = Both::new();
    let mut waiting = JoinSet::new();
    let mut gateways = Vec::new();
    for _ in 0..20 {
        let (gateway, hub) = both.pair().await;
        let (mut up, down) = gateway.open_bi().await.unwrap();
        up.write_all(b"x").await.unwrap();
        let (mut send, mut recv) = soon(hub.accept_bi()).await.unwrap();
        // A reader without data, a writer without room, and one who waits for a stream.
        waiting.spawn(async move { recv.read_to_end(&mut Vec::new()).await.is_err() });
        waiting.spawn(async move {
            let much = vec![0; 4_000_000];
            send.write_all(&much).await.is_err()
        });
        waiting.spawn(async move { hub.accept_bi().await.is_err() });
        gateways.push((gateway, up, down));
    }
    both.hub.close(VarInt::from_u32(7), &Bytes::from_static(b"over"));
    while let Some(done) = soon(waiting.join_next()).await {
        assert!(done.unwrap());
    }
    for (gateway, ..) in &gateways {
        let reason = soon(gateway.closed()).await;
        let quinn::ConnectionError::ApplicationClosed(close) = reason else {
            panic!("{reason:?}");
        };
        assert_eq!(
            (close.error_code, &close.reason[..]),
            (VarInt::from_u32(7), &b"over"[..])
        );
    }
    soon(both.hub.wait_idle()).await;
    assert!(soon(both.hub.accept()).await.is_none());
    // The task is gone, and the socket with the last who holds it.
    let Both { hub, addr, .. } = both;
    let shared = Arc::downgrade(&hub.0);
    drop(hub);
    soon(async {
        while shared.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    UdpSocket::bind(addr).unwrap();
}

#[tokio::test]
async fn a_port_whose_task_is_gone_leaves_nobody_waiting() {
    let both = Both::new();
    let (gateway, hub) = both.pair().await;
    // Another task on the same port that is torn down, as one that fails is.
    let mut task = Box::pin(receive(Arc::clone(&both.hub.0)));
    assert!(futures_util::poll!(task.as_mut()).is_pending());
    drop(task);
    assert!(soon(both.hub.accept()).await.is_none());
    assert_eq!(soon(hub.closed()).await, ConnectionError::LocallyClosed);
    soon(gateway.closed()).await;
    soon(both.hub.wait_idle()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_garbage_stops_neither_a_gateway_nor_the_end() {
    let both = Both::new();
    let (gateway, hub) = both.pair().await;
    let mut data = Loop::open(&gateway, &hub).await;
    let over = Arc::new(AtomicBool::new(false));
    let flood = std::thread::spawn({
        let (over, addr) = (Arc::clone(&over), both.addr);
        move || {
            let socket = local();
            let mut sent = 0_u64;
            let mut random = fastrand::Rng::with_seed(7);
            while !over.load(Ordering::SeqCst) {
                let mut junk: Vec<u8> = (0..random.usize(1..1472)).map(|_| random.u8(..)).collect();
                if sent.is_multiple_of(3) && junk.len() > 5 {
                    // A long header of version 1.
                    junk[0] |= 0xc0;
                    junk[1..5].copy_from_slice(&[0, 0, 0, 1]);
                }
                // A full buffer is part of it.
                drop(socket.send_to(&junk, addr));
                sent += 1;
            }
            sent
        }
    });
    for _ in 0..50 {
        data.round(1000).await;
    }
    assert_eq!(both.hub.live(), 1);
    drop((data, gateway, hub));
    both.hub.close(VarInt::from_u32(0), &Bytes::new());
    soon(both.hub.wait_idle()).await;
    let Both { hub, .. } = both;
    let shared = Arc::downgrade(&hub.0);
    drop(hub);
    soon(async {
        while shared.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    over.store(true, Ordering::SeqCst);
    assert!(flood.join().unwrap() > 100);
}

#[tokio::test]
async fn what_cannot_be_answered_or_is_too_large_is_not_looked_at() {
    let both = Both::new();
    let shared = &both.hub.0;
    let mut answer = Vec::new();
    let mut meta = RecvMeta::default();
    let back = local();
    back.set_nonblocking(true).unwrap();
    meta.addr = back.local_addr().unwrap();
    // A packet of a connection that nobody knows: it is answered by a reset.
    let stray = |len: usize| vec![0x40; len];
    for (len, port, answered) in [
        (1200, meta.addr.port(), true),
        (1472, meta.addr.port(), true),
        (1473, meta.addr.port(), false),
        (65_000, meta.addr.port(), false),
        (1200, 0, false),
    ] {
        let mut meta = meta;
        meta.addr.set_port(port);
        answer.clear();
        shared.take(&mut shared.routes(), &meta, &stray(len), &mut answer);
        assert_eq!(!answer.is_empty(), answered, "{len} bytes from port {port}");
    }
}
