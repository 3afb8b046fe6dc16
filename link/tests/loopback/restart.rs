//! A hub that is killed and comes back on its port: gateways that were idle over QUIC learn of it without waiting for a heartbeat.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::join_all;
use link::driver::{End, Events, Outcome, SessionHandle, drive};
use link::pki::ServerCert;
use link::{
    Accepted, Admission, Closed, Connection, Dialer, HubConfig, HubEndpoint, HubLimits, OpenGate, Stream, StreamKind,
    Transports, shared_socket,
};
use proto::{Codec, EdgeConfig, Event, Inventory, Session, SourceSet, wire};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::{LOCAL, identity, new_ca, now_ms, quick, soon};

/// Gateways that share a socket, as in a simulated fleet.
const SHARING: usize = 40;

type Seen = Arc<Mutex<Vec<SocketAddr>>>;

fn now() -> proto::Now {
    daemon::clock::since_start()
}

fn bind(ca: &CertificateDer<'static>, server: &ServerCert, listen: SocketAddr) -> HubEndpoint {
    HubEndpoint::bind(HubConfig {
        listen,
        server: server.clone(),
        ca: ca.clone(),
        limits: HubLimits::default(),
        gate: Arc::new(OpenGate),
        admission: Arc::new(Admission::new(1000, 1000)),
    })
    .unwrap()
}

fn hub_config() -> proto::HubConfig {
    let mut config = proto::HubConfig::new("hub-1", 1);
    config.limits.heartbeat = Duration::from_secs(60);
    config
}

/// Takes gateways in and holds their sessions.
async fn serve(endpoint: &HubEndpoint, seen: Seen) {
    while let Some(Accepted::Link(connection)) = endpoint.accept().await {
        seen.lock().unwrap().push(connection.remote_addr());
        tokio::spawn(hold(connection));
    }
}

async fn hold(connection: Connection) {
    let mut stream = connection.accept_bi().await.unwrap();
    assert_eq!(stream.read_kind().await.unwrap(), StreamKind::Session);
    let node = connection.peer().unwrap().node().unwrap().to_owned();
    let (driver, handle, mut events) = drive(Session::hub(hub_config(), &node, now()), stream);
    tokio::spawn(driver.run(CancellationToken::new()));
    while let Some(event) = events.next().await {
        if let Event::Hello { .. } = event {
            let accept = |s: &mut Session, now| s.accept(now, SourceSet::new(), Inventory::new(), Vec::new());
            handle.call(accept).await.unwrap();
        }
    }
}

/// A hub with a runtime of its own, which can be taken away from under it: then its port is free and nobody was told anything.
struct Doomed {
    addr: SocketAddr,
    kill: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Doomed {
    fn start(ca: CertificateDer<'static>, server: ServerCert, seen: Seen) -> Self {
        let (kill, killed) = oneshot::channel();
        let (at, addr) = mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let endpoint = runtime.block_on(async {
                let endpoint = bind(&ca, &server, LOCAL);
                at.send(endpoint.local_addr()).unwrap();
                tokio::select! {
                    () = serve(&endpoint, seen) => panic!("the endpoint closed by itself"),
                    killed = killed => killed.unwrap(),
                }
                endpoint
            });
            // All its tasks end in the middle of what they do, among them those that could send a goodbye.
            drop(runtime);
            drop(endpoint);
        });
        Self {
            addr: addr.recv().unwrap(),
            kill,
            thread,
        }
    }

    fn kill(self) {
        self.kill.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

struct Gateway {
    dialer: Dialer,
    name: String,
    connection: Connection,
    handle: SessionHandle,
    _events: Events,
    done: JoinHandle<Outcome>,
}

impl Gateway {
    /// Dials until it has a session.
    async fn connect(dialer: Dialer, name: String, hub: SocketAddr) -> Self {
        let connection = soon(dialer.dial(&[hub.to_string()])).await.unwrap();
        let stream = connection.open(StreamKind::Session).await.unwrap();
        let config = EdgeConfig::new(name.clone(), 1, 1);
        let session = Session::edge(config, SourceSet::new(), Inventory::new(), now());
        let (driver, handle, mut events) = drive(session, stream);
        let done = tokio::spawn(driver.run(CancellationToken::new()));
        let welcome = soon(events.next()).await;
        assert!(matches!(welcome, Some(Event::Welcome { .. })), "{welcome:?}");
        Self {
            dialer,
            name,
            connection,
            handle,
            _events: events,
            done,
        }
    }

    /// Hears that the hub has forgotten the connection, in a way that only the hub can say it, and connects again.
    async fn lost_and_back(self, hub: SocketAddr) {
        let outcome = soon(self.done).await.unwrap();
        assert!(matches!(outcome.end, End::Lost(_)), "{:?}", outcome.end);
        let forgotten = Closed::Lost("the peer does not know it any more".to_owned());
        assert_eq!(self.connection.close_reason(), Some(forgotten));
        Self::connect(self.dialer, self.name, hub).await;
    }
}

#[tokio::test]
async fn a_killed_hub_makes_itself_known_and_everyone_comes_back() {
    let ca = new_ca();
    let server = ca.issue_server(&[], now_ms()).unwrap();
    let seen = Seen::default();
    let hub = Doomed::start(ca.cert().clone(), server.clone(), Arc::clone(&seen));
    let addr = hub.addr;
    let socket = shared_socket(addr).unwrap();
    let gateways = join_all((0..=SHARING).map(|n| {
        let name = format!("gw-{n}");
        let identity = identity(&ca, &name, Duration::from_secs(3600), now_ms());
        let mut dialer = Dialer::link(ca.cert().clone(), &identity)
            .unwrap()
            .times(quick())
            .transports(Transports::QuicOnly);
        if n > 0 {
            dialer = dialer.shared(socket.clone());
        }
        Gateway::connect(dialer, name, addr)
    }))
    .await;
    tokio::task::spawn_blocking(|| hub.kill()).await.unwrap();

    let hub = Arc::new(bind(ca.cert(), &server, addr));
    let serving = Arc::clone(&hub);
    tokio::spawn(async move { serve(&serving, Seen::default()).await });
    assert!(gateways.iter().all(|g| !g.handle.is_ended()), "nobody knows yet");
    let seen = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(seen.len(), gateways.len());
    assert_eq!(
        hub.knock(seen.into_iter()).await,
        2,
        "one address each, though many share one"
    );

    join_all(gateways.into_iter().map(|gateway| gateway.lost_and_back(addr))).await;
}

/// One side of a session by hand: everything that is to be sent now.
async fn say(session: &mut Session, stream: &mut Stream) {
    let mut out = BytesMut::new();
    while let Some(frame) = session.poll_transmit() {
        Codec::default().encode(&frame, &mut out).unwrap();
    }
    stream.write_all(&out).await.unwrap();
}

async fn hear(stream: &mut Stream, input: &mut BytesMut) -> wire::Frame {
    loop {
        if let Some(frame) = Codec::default().decode(input).unwrap() {
            return frame;
        }
        assert!(soon(stream.read_buf(input)).await.unwrap() > 0, "the gateway has gone");
    }
}

#[tokio::test]
async fn a_knock_at_a_gateway_that_is_connected_is_a_heartbeat_and_no_more() {
    let ca = new_ca();
    let hub = bind(ca.cert(), &ca.issue_server(&[], now_ms()).unwrap(), LOCAL);
    let identity = identity(&ca, "gw-1", Duration::from_secs(3600), now_ms());
    let dialer = Dialer::link(ca.cert().clone(), &identity).unwrap().times(quick());
    let gateway = tokio::spawn(Gateway::connect(dialer, "gw-1".to_owned(), hub.local_addr()));
    let Some(Accepted::Link(connection)) = soon(hub.accept()).await else {
        panic!("no link");
    };
    let mut stream = soon(connection.accept_bi()).await.unwrap();
    assert_eq!(stream.read_kind().await.unwrap(), StreamKind::Session);
    let (mut session, mut input) = (Session::hub(hub_config(), "gw-1", now()), BytesMut::new());
    let hello = hear(&mut stream, &mut input).await;
    session.handle_frame(now(), hello).unwrap();
    session.accept(now(), SourceSet::new(), Inventory::new(), Vec::new());
    say(&mut session, &mut stream).await;
    let gateway = gateway.await.unwrap();

    for _ in 0..2 {
        assert_eq!(hub.knock([connection.remote_addr()].into_iter()).await, 1);
        let question = loop {
            match hear(&mut stream, &mut input).await.kind {
                Some(wire::frame::Kind::Heartbeat(heartbeat)) if !heartbeat.answer => break heartbeat,
                // What a new session has to tell first.
                other => session.handle_frame(now(), wire::Frame { kind: other }).unwrap(),
            }
        };
        session
            .handle_frame(now(), wire::frame::Kind::Heartbeat(question).into())
            .unwrap();
        say(&mut session, &mut stream).await;
        assert!(gateway.handle.ask(|s, _| s.is_live()).await.unwrap());
    }
    assert_eq!(gateway.connection.close_reason(), None);
}
