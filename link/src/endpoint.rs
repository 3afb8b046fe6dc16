//! The hub's port for gateways: one number, UDP and TCP, two protocols told apart by ALPN.
//!
//! [`HubEndpoint::bind`] opens both sockets and starts a task on each; [`HubEndpoint::accept`] hands out connections whose handshake is
//! done, whose certificate was verified and whose peer may come in ([`Gate`], [`Admission`]). Until then a connection is one of the
//! crowd ([`crowd`]): it has a deadline and may be put out.

mod crowd;

use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::HandshakeData;
use rustls::pki_types::CertificateDer;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncWriteExt as _, BufWriter};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::connection::{Connection, Counted, Counters, PeerIdentity, WRITE_BUFFER};
use crate::goodbye::{CloseCode, Goodbye};
use crate::pki::{Cert, PkiError, ServerCert};
use crate::quic::{HubQuic, HubTls, Incoming};
use crate::tls::{self, ALPN_JOIN, ALPN_LINK, ServerCerts};
use crate::{greeting, knock, quic};
use crowd::{Crowd, Member};

/// Decides about a gateway whose certificate is good: revoked serials, unknown nodes.
pub trait Gate: Send + Sync {
    /// Called once per connection, in its handshake; it must not block.
    ///
    /// # Errors
    /// What the gateway is told.
    fn admit(&self, peer: &PeerIdentity, remote: SocketAddr) -> Result<(), Goodbye>;
}

/// Lets every gateway of this CA in.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenGate;

impl Gate for OpenGate {
    fn admit(&self, _peer: &PeerIdentity, _remote: SocketAddr) -> Result<(), Goodbye> {
        Ok(())
    }
}

/// What strangers may cost, and how long they may take.
#[derive(Clone, Copy, Debug)]
pub struct HubLimits {
    /// From a connection's first packet to its end of handshake.
    pub handshake: Duration,
    /// Connections in the handshake at once, for UDP and TCP each. Beyond, the oldest is put out.
    pub half_open: usize,
    /// From so many QUIC handshakes on, a newcomer must first show that its address is real (one more round trip for it, no memory
    /// here).
    pub validate_above: usize,
    /// A join connection is closed after this long.
    pub join: Duration,
    /// Join connections at once. Beyond, the oldest is put out.
    pub joining: usize,
    /// A silent QUIC connection is given up after this long: at least three heartbeats, the session notices sooner.
    pub idle: Duration,
    /// Connections accepted and not yet taken by [`HubEndpoint::accept`]; beyond, newcomers are told to come back.
    pub backlog: usize,
}

impl Default for HubLimits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            half_open: 1024,
            validate_above: 64,
            join: Duration::from_secs(15),
            joining: 128,
            // Three heartbeats of a minute, and some.
            idle: Duration::from_secs(200),
            backlog: 1024,
        }
    }
}

/// How a hub listens.
pub struct HubConfig {
    /// Address and port; port 0 takes one that is free for both UDP and TCP.
    pub listen: SocketAddr,
    /// The hub's certificate, from [`HubCa::load_or_issue_server`](crate::pki::HubCa::load_or_issue_server).
    pub server: ServerCert,
    /// The CA that gateways' certificates must come from.
    pub ca: CertificateDer<'static>,
    /// What strangers may cost.
    pub limits: HubLimits,
    /// Who may come in.
    pub gate: Arc<dyn Gate>,
    /// How fast. Join connections pass too: they are rare and limited by number.
    pub admission: Arc<Admission>,
}

impl fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubConfig")
            .field("listen", &self.listen)
            .field("server", &self.server)
            .field("limits", &self.limits)
            .field("admission", &self.admission)
            .finish_non_exhaustive()
    }
}

/// Why a hub cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The port is taken or the address is not ours.
    #[error("cannot listen on {addr} ({proto}): {source}")]
    Socket {
        /// The address.
        addr: SocketAddr,
        /// `UDP` or `TCP`.
        proto: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The TLS provider lacks what QUIC needs.
    #[error("TLS cannot be set up for QUIC: {0}")]
    Tls(String),
}

/// A connection that came in.
#[derive(Debug)]
pub enum Accepted {
    /// A stranger that wants to join: see [`crate::join::serve`].
    Join(Connection),
    /// A gateway; [`Connection::peer`] says which.
    Link(Connection),
}

/// The hub's listening end. Dropping it closes both sockets; connections handed out over QUIC end with it.
pub struct HubEndpoint {
    addr: SocketAddr,
    accepted: Mutex<mpsc::Receiver<Accepted>>,
    shared: Arc<Shared>,
    quic: HubQuic,
    /// The same socket as QUIC's.
    knocker: UdpSocket,
    stop: CancellationToken,
}

/// What both accepting tasks need.
struct Shared {
    certs: Arc<ServerCerts>,
    limits: HubLimits,
    gate: Arc<dyn Gate>,
    admission: Arc<Admission>,
    half_open_quic: Crowd,
    half_open_tcp: Crowd,
    joining: Crowd,
    out: mpsc::Sender<Accepted>,
    stop: CancellationToken,
}

impl HubEndpoint {
    /// Opens both sockets and begins to accept. Needs a running tokio runtime.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(config: HubConfig) -> Result<Self, BindError> {
        let certs = Arc::new(ServerCerts::new(tls::certified(&config.server)?));
        let tls = tls::server_config(Arc::clone(&certs), &config.ca)?;
        let crypto = HubTls::new(tls.clone()).map_err(|e| BindError::Tls(e.to_string()))?;
        let limits = config.limits;
        let mut quic_config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        quic_config
            .transport_config(quic::hub_transport(limits.idle))
            .migration(true)
            .max_incoming(limits.half_open)
            .incoming_buffer_size(16 * 1024)
            .incoming_buffer_size_total(4 * 1024 * 1024);
        // No address tokens for later: they cost a frame per connection and save a round trip only under attack.
        let mut tokens = quinn::ValidationTokenConfig::default();
        tokens.sent(0);
        quic_config.validation_token_config(tokens);
        let (udp, tcp) = bind_pair(config.listen)?;
        let addr = tcp.local_addr().map_err(|source| BindError::Socket {
            addr: config.listen,
            proto: "TCP",
            source,
        })?;
        let udp_failed = |source| BindError::Socket {
            addr,
            proto: "UDP",
            source,
        };
        let knocker = udp.try_clone().map_err(udp_failed)?;
        let quic = HubQuic::start(
            quic::hub_endpoint(quic::reset_key(config.server.key()?.secret_der())),
            quic_config,
            udp,
        )
        .map_err(udp_failed)?;
        let (out, accepted) = mpsc::channel(limits.backlog.max(1));
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            certs,
            limits,
            gate: config.gate,
            admission: config.admission,
            half_open_quic: Crowd::new(limits.half_open),
            half_open_tcp: Crowd::new(limits.half_open),
            joining: Crowd::new(limits.joining),
            out,
            stop: stop.clone(),
        });
        tokio::spawn(accept_quic(Arc::clone(&shared), quic.clone()));
        tokio::spawn(accept_tcp(Arc::clone(&shared), tcp, TlsAcceptor::from(Arc::new(tls))));
        Ok(Self {
            addr,
            accepted: Mutex::new(accepted),
            shared,
            quic,
            knocker,
            stop,
        })
    }

    /// Where it listens, UDP and TCP.
    pub const fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// The next connection that may come in; `None` once the endpoint is closed.
    pub async fn accept(&self) -> Option<Accepted> {
        let mut accepted = self.accepted.lock().await;
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            connection = accepted.recv() => connection,
        }
    }

    /// Shows another certificate from the next handshake on.
    ///
    /// # Errors
    /// When it cannot be used; the old one stays.
    pub fn set_certificate(&self, server: &ServerCert) -> Result<(), PkiError> {
        self.shared.certs.replace(tls::certified(server)?);
        Ok(())
    }

    /// Connections in the handshake (QUIC, TCP) and how many were put out of it for want of room so far.
    pub fn strangers(&self) -> (usize, usize, u64) {
        let (q, t) = (&self.shared.half_open_quic, &self.shared.half_open_tcp);
        (q.len(), t.len(), q.put_out() + t.put_out())
    }

    /// QUIC connections that take up memory: in the handshake, in use, and for some round trips after they were closed.
    pub fn quic_connections(&self) -> usize {
        self.quic.live()
    }

    /// Makes itself known to gateways that may still believe themselves connected to an earlier process on this port: to be called after
    /// a start with the addresses at which gateways were last seen over QUIC. Those that are there and have no connection come back
    /// at once, not at their next heartbeat; the others do nothing about it. Sends one small packet to each address, at most 5,000 a
    /// second, and returns how many left. None is repeated.
    pub async fn knock(&self, addrs: impl Iterator<Item = SocketAddr>) -> usize {
        knock::send(&self.knocker, addrs).await
    }

    /// Takes nobody in any more, ends all QUIC connections, and waits until their peers were told (a second at most). Connections over
    /// TCP are their holders' to close.
    pub async fn close(&self, goodbye: &Goodbye) {
        self.stop.cancel();
        self.quic.close(goodbye.code.to_u32().into(), &goodbye.reason());
        if timeout(Duration::from_secs(1), self.quic.wait_idle()).await.is_err() {
            tracing::debug!("some gateways did not confirm the close");
        }
    }
}

impl Drop for HubEndpoint {
    fn drop(&mut self) {
        self.stop.cancel();
        let goodbye = Goodbye::new(CloseCode::GoingAway, "");
        self.quic.close(goodbye.code.to_u32().into(), &goodbye.reason());
    }
}

impl fmt::Debug for HubEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubEndpoint")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

/// A burst of a returning fleet arrives in one socket buffer. What the system does not grant is not missed in quiet times.
const UDP_BUFFER: usize = 8 << 20;
/// Connections the kernel holds until they are accepted.
const TCP_BACKLOG: i32 = 4096;
/// With port 0, the number that UDP got may be taken for TCP.
const PORT_TRIES: usize = 16;

fn bind_pair(listen: SocketAddr) -> Result<(UdpSocket, TcpListener), BindError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let udp = bind_udp(listen).map_err(|source| BindError::Socket {
            addr: listen,
            proto: "UDP",
            source,
        })?;
        let port = udp.local_addr().map_or(listen.port(), |a| a.port());
        let addr = SocketAddr::new(listen.ip(), port);
        match bind_tcp(addr) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(_) if listen.port() == 0 && tries < PORT_TRIES => {}
            Err(source) => {
                return Err(BindError::Socket {
                    addr,
                    proto: "TCP",
                    source,
                });
            }
        }
    }
}

fn new_socket(addr: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    if addr.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn bind_udp(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = new_socket(addr, Type::DGRAM, Protocol::UDP)?;
    if let Err(e) = socket
        .set_recv_buffer_size(UDP_BUFFER)
        .and_then(|()| socket.set_send_buffer_size(UDP_BUFFER))
    {
        tracing::debug!(error = %e, "UDP socket buffers stay at the system's size");
    }
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

fn bind_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = new_socket(addr, Type::STREAM, Protocol::TCP)?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(TCP_BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn accept_quic(shared: Arc<Shared>, endpoint: HubQuic) {
    loop {
        let incoming = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => incoming,
                None => return,
            },
        };
        if shared.half_open_quic.len() >= shared.limits.validate_above && incoming.may_retry() {
            if !incoming.retry() {
                tracing::debug!("cannot ask for address validation");
            }
            continue;
        }
        let member = shared.half_open_quic.enter();
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let remote = incoming.remote_address();
            let done = tokio::select! {
                biased;
                () = member.put_out() => Err(NotIn::PutOut),
                done = timeout(shared.limits.handshake, handshake_quic(&shared, incoming)) => match done {
                    Ok(done) => done,
                    Err(_) => Err(NotIn::Late),
                },
            };
            drop(member);
            shared.hand_over(remote, done);
        });
    }
}

async fn accept_tcp(shared: Arc<Shared>, listener: TcpListener, acceptor: TlsAcceptor) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of file descriptors, or the peer was gone already. Neither gets better by asking again at once; the first gets
                // better when a stranger goes.
                tracing::warn!(error = %e, "cannot accept a TCP connection");
                shared.half_open_tcp.shed();
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let member = shared.half_open_tcp.enter();
        let shared = Arc::clone(&shared);
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let done = tokio::select! {
                biased;
                () = member.put_out() => Err(NotIn::PutOut),
                done = timeout(shared.limits.handshake, handshake_tcp(&shared, acceptor, socket, remote)) => match done {
                    Ok(done) => done,
                    Err(_) => Err(NotIn::Late),
                },
            };
            drop(member);
            shared.hand_over(remote, done);
        });
    }
}

/// Why a connection did not come in.
#[derive(Debug, thiserror::Error)]
enum NotIn {
    #[error("put out for a newer one")]
    PutOut,
    #[error("the handshake took too long")]
    Late,
    #[error("handshake: {0}")]
    Handshake(String),
    #[error("refused: {0}")]
    Refused(Goodbye),
}

/// Which protocol, and who; or what the peer is told.
fn judge(
    shared: &Shared,
    alpn: Option<&[u8]>,
    leaf: Option<&CertificateDer<'_>>,
    remote: SocketAddr,
) -> Result<Option<PeerIdentity>, Goodbye> {
    let not_allowed = |message: &str| Goodbye::new(CloseCode::NotAllowed, message);
    match alpn {
        Some(ALPN_JOIN) => Ok(None),
        Some(ALPN_LINK) => {
            let leaf = leaf.ok_or_else(|| not_allowed("the link needs a gateway's certificate"))?;
            let cert = Cert::parse(leaf).map_err(|_| not_allowed("the certificate cannot be read"))?;
            let peer = PeerIdentity::from(cert);
            if peer.node().is_none() {
                return Err(not_allowed("the certificate is not a gateway's"));
            }
            shared.gate.admit(&peer, remote)?;
            shared.admission.admit().map_err(Goodbye::busy)?;
            Ok(Some(peer))
        }
        _ => Err(Goodbye::new(CloseCode::Protocol, "no protocol was chosen")),
    }
}

async fn handshake_quic(shared: &Shared, incoming: Incoming) -> Result<Connection, NotIn> {
    let failed = |e: quinn::ConnectionError| NotIn::Handshake(e.to_string());
    let connection = incoming.accept().map_err(failed)?;
    connection.opened().await.map_err(failed)?;
    let alpn = connection
        .handshake_data()
        .and_then(|d| d.downcast::<HandshakeData>().ok())
        .and_then(|d| d.protocol);
    let certs = connection
        .peer_identity()
        .and_then(|i| i.downcast::<Vec<CertificateDer<'static>>>().ok());
    let leaf = certs.as_ref().and_then(|c| c.first());
    match judge(shared, alpn.as_deref(), leaf, connection.remote_address()) {
        Ok(peer) => {
            let mut out = connection.open_uni().await.map_err(failed)?;
            let io = |e: io::Error| NotIn::Handshake(e.to_string());
            out.write_all(&greeting::welcome()).await.map_err(io)?;
            Ok(Connection::hub(connection, peer))
        }
        Err(goodbye) => {
            connection.close(goodbye.code.to_u32().into(), goodbye.reason());
            Err(NotIn::Refused(goodbye))
        }
    }
}

async fn handshake_tcp(
    shared: &Shared,
    acceptor: TlsAcceptor,
    socket: TcpStream,
    remote: SocketAddr,
) -> Result<Connection, NotIn> {
    let io = |e: io::Error| NotIn::Handshake(e.to_string());
    socket.set_nodelay(true).map_err(io)?;
    let counters = Arc::new(Counters::default());
    let mut tls = acceptor
        .accept(Counted::new(socket, Arc::clone(&counters)))
        .await
        .map_err(io)?;
    let (_, session) = tls.get_ref();
    let leaf = session.peer_certificates().and_then(|c| c.first());
    match judge(shared, session.alpn_protocol(), leaf, remote) {
        Ok(peer) => {
            tls.write_all(&greeting::welcome()).await.map_err(io)?;
            tls.flush().await.map_err(io)?;
            let buffered = BufWriter::with_capacity(WRITE_BUFFER, tls.into());
            Ok(Connection::tcp(buffered, true, counters, peer, remote))
        }
        Err(goodbye) => {
            tls.write_all(&greeting::refusal(&goodbye)).await.map_err(io)?;
            tls.shutdown().await.map_err(io)?;
            Err(NotIn::Refused(goodbye))
        }
    }
}

impl Shared {
    /// Gives a finished connection to whoever accepts, or says why there is none.
    fn hand_over(&self, remote: SocketAddr, done: Result<Connection, NotIn>) {
        let connection = match done {
            Ok(connection) => connection,
            Err(e) => {
                tracing::debug!(%remote, reason = %e, "a connection did not come in");
                return;
            }
        };
        let accepted = if connection.peer().is_some() {
            Accepted::Link(connection)
        } else {
            let member = self.joining.enter();
            tokio::spawn(watch_join(connection.clone(), member, self.limits.join));
            Accepted::Join(connection)
        };
        if let Err(e) = self.out.try_send(accepted) {
            let (Accepted::Join(connection) | Accepted::Link(connection)) = e.into_inner();
            connection.close(&Goodbye::busy(Duration::from_secs(1)));
        }
    }
}

/// Holds a join connection to its time and its place.
async fn watch_join(connection: Connection, member: Member, deadline: Duration) {
    let ended = tokio::select! {
        biased;
        () = member.put_out() => false,
        ended = timeout(deadline, connection.closed()) => ended.is_ok(),
    };
    if !ended {
        connection.close(&Goodbye::busy(Duration::from_secs(2)));
    }
}
