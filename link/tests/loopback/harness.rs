//! A hub with its CA, gateways with their certificates, and a relay between them that can hold back UDP.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use link::pki::{Credential, HubCa, NodeKey, NodeProfile};
use link::{Accepted, Admission, Connection, DialTimes, Dialer, Gate, HubConfig, HubEndpoint, HubLimits, OpenGate};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

pub(crate) const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// For what is expected to happen; a test that waits this long has failed.
pub(crate) const SOON: Duration = Duration::from_secs(8);

pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what)
        .await
        .expect("it does not come to an end")
}

pub(crate) fn now_ms() -> u64 {
    daemon::clock::wall_ms()
}

/// A CA that is two days old, so that it can have signed something that has run out.
pub(crate) fn new_ca() -> HubCa {
    let dir = tempfile::tempdir().unwrap();
    HubCa::load_or_create(dir.path(), now_ms() - 2 * 86_400_000).unwrap()
}

pub(crate) fn identity(ca: &HubCa, node: &str, valid: Duration, now_ms: u64) -> Credential {
    let key = NodeKey::generate().unwrap();
    let profile = NodeProfile {
        node,
        trust_domain: "kurator.local",
        valid,
    };
    let cert = ca.issue_node(&key.request().unwrap(), &profile, now_ms).unwrap();
    Credential {
        chain_pem: cert.chain_pem,
        key_pem: key.to_pem(),
    }
}

pub(crate) struct Hub {
    pub(crate) ca: HubCa,
    pub(crate) endpoint: HubEndpoint,
}

impl Hub {
    pub(crate) fn new() -> Self {
        Self::with(HubLimits::default(), Arc::new(OpenGate), Admission::new(1000, 1000))
    }

    pub(crate) fn with(limits: HubLimits, gate: Arc<dyn Gate>, admission: Admission) -> Self {
        let ca = new_ca();
        let server = ca.issue_server(&[], now_ms()).unwrap();
        let config = HubConfig {
            listen: LOCAL,
            server,
            ca: ca.cert().clone(),
            limits,
            gate,
            admission: Arc::new(admission),
        };
        Self {
            endpoint: HubEndpoint::bind(config).unwrap(),
            ca,
        }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.endpoint.local_addr()
    }

    pub(crate) fn addrs(&self) -> Vec<String> {
        vec![self.addr().to_string()]
    }

    pub(crate) fn dialer(&self, node: &str) -> Dialer {
        let identity = identity(&self.ca, node, Duration::from_secs(3600), now_ms());
        Dialer::link(self.ca.cert().clone(), &identity).unwrap().times(quick())
    }

    pub(crate) async fn link(&self) -> Connection {
        match soon(self.endpoint.accept()).await {
            Some(Accepted::Link(connection)) => connection,
            other => panic!("{other:?} in place of a link"),
        }
    }

    /// Both ends of one link.
    pub(crate) async fn pair(&self, dialer: &Dialer, addrs: &[String]) -> (Connection, Connection) {
        let (edge, hub) = tokio::join!(dialer.dial(addrs), self.link());
        (edge.unwrap(), hub)
    }
}

/// The usual patience, and probes that come soon.
pub(crate) fn quick() -> DialTimes {
    DialTimes {
        probe_base: Duration::from_millis(50),
        probe_cap: Duration::from_millis(200),
        quic_alone: Duration::from_millis(300),
        ..DialTimes::default()
    }
}

/// What the relay does with UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Udp {
    Drop,
    Pass,
    /// To the hub only: a peer that never hears the answer.
    OneWay,
}

/// Stands between gateway and hub on one port number.
pub(crate) struct Relay {
    pub(crate) addr: SocketAddr,
    udp: Arc<AtomicU8>,
    nat: Arc<AtomicU8>,
    _tasks: JoinSet<()>,
}

impl Relay {
    pub(crate) async fn start(hub: SocketAddr, udp: Udp) -> Self {
        let (tcp, socket) = loop {
            let tcp = TcpListener::bind(LOCAL).await.unwrap();
            if let Ok(socket) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (tcp, socket);
            }
        };
        let addr = tcp.local_addr().unwrap();
        let mode = Arc::new(AtomicU8::new(udp as u8));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut pipes = JoinSet::new();
            loop {
                let (mut client, _) = tcp.accept().await.unwrap();
                pipes.spawn(async move {
                    let mut server = TcpStream::connect(hub).await.unwrap();
                    // Either end may break off.
                    drop(copy_bidirectional(&mut client, &mut server).await);
                });
            }
        });
        let nat = Arc::new(AtomicU8::new(0));
        tasks.spawn(relay_udp(Arc::new(socket), hub, Arc::clone(&mode), Arc::clone(&nat)));
        Self {
            addr,
            udp: mode,
            nat,
            _tasks: tasks,
        }
    }

    pub(crate) fn set(&self, udp: Udp) {
        self.udp.store(udp as u8, Ordering::SeqCst);
    }

    /// From now on everything comes to the hub from other ports, as behind a NAT that forgot.
    pub(crate) fn forget(&self) {
        self.nat.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn addrs(&self) -> Vec<String> {
        vec![self.addr.to_string()]
    }
}

async fn relay_udp(front: Arc<UdpSocket>, hub: SocketAddr, mode: Arc<AtomicU8>, nat: Arc<AtomicU8>) {
    let mut mappings = 0;
    let mut backs = std::collections::HashMap::<SocketAddr, Arc<UdpSocket>>::new();
    let mut tasks = JoinSet::new();
    let mut packet = vec![0; 65_536];
    loop {
        let (n, from) = front.recv_from(&mut packet).await.unwrap();
        if mode.load(Ordering::SeqCst) == Udp::Drop as u8 {
            continue;
        }
        if std::mem::replace(&mut mappings, nat.load(Ordering::SeqCst)) != nat.load(Ordering::SeqCst) {
            backs.clear();
        }
        let back = match backs.get(&from) {
            Some(back) => Arc::clone(back),
            None => {
                let back = Arc::new(UdpSocket::bind(LOCAL).await.unwrap());
                back.connect(hub).await.unwrap();
                backs.insert(from, Arc::clone(&back));
                let (front, down, mode) = (Arc::clone(&front), Arc::clone(&back), Arc::clone(&mode));
                tasks.spawn(async move {
                    let mut packet = vec![0; 65_536];
                    while let Ok(n) = down.recv(&mut packet).await {
                        if mode.load(Ordering::SeqCst) == Udp::Pass as u8 {
                            front.send_to(&packet[..n], from).await.unwrap();
                        }
                    }
                });
                back
            }
        };
        back.send(&packet[..n]).await.unwrap();
    }
}
