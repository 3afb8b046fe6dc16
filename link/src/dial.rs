//! The gateway's end: finding the hub, by QUIC when that gets through and by TLS on TCP when it does not.
//!
//! [`Dialer::dial`] tries every address of the hub over QUIC, one shortly after the other. When QUIC has been silent for a moment, TCP is
//! tried beside it. The first to be *welcomed* (see [`crate::greeting`]) wins, QUIC with a small head start. While a gateway lives on
//! TCP, [`Dialer::quic_available`] keeps asking with a cheap packet whether UDP gets through again ([`probe`]).
//!
//! Every dial uses a socket of its own: a new source port gets around a dead NAT mapping, and nothing is left of the last attempt.

mod error;
mod probe;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use daemon::backoff::FullJitter;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use quinn::Runtime as _;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::sign::CertifiedKey;
use tokio::io::BufWriter;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::connection::{Connection, Counted, Counters, PeerIdentity, Transport, WRITE_BUFFER, closed};
use crate::knock::{KnockSocket, Knocks};
use crate::pki::{Cert, Credential, HUB_SERVER_NAME, PkiError};
use crate::tls::{self, ALPN_JOIN, ALPN_LINK, HubVerifier, TimeFloor, Trust};
use crate::{greeting, quic};

pub use error::DialError;

/// How patient a dial is.
#[derive(Clone, Copy, Debug)]
pub struct DialTimes {
    /// For one attempt at one address, from the first packet to the hub's welcome.
    pub attempt: Duration,
    /// For the whole dial.
    pub total: Duration,
    /// Between the first attempts at two addresses.
    pub stagger: Duration,
    /// How long QUIC may be silent before TCP is tried beside it.
    pub quic_alone: Duration,
    /// How much longer QUIC may take once TCP is through.
    pub quic_grace: Duration,
    /// For resolving one name.
    pub resolve: Duration,
    /// Ceiling of the first wait between two probes for QUIC while on TCP; it doubles.
    pub probe_base: Duration,
    /// Ceiling of the longest.
    pub probe_cap: Duration,
    /// A silent QUIC connection is given up after this long. The smaller of both sides' counts, and the hub knows the heartbeat, so this
    /// is long.
    pub idle: Duration,
}

impl Default for DialTimes {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(5),
            total: Duration::from_secs(12),
            stagger: Duration::from_millis(200),
            quic_alone: Duration::from_millis(800),
            quic_grace: Duration::from_millis(200),
            resolve: Duration::from_secs(3),
            probe_base: Duration::from_secs(5),
            probe_cap: Duration::from_secs(300),
            idle: Duration::from_secs(4 * 3600),
        }
    }
}

/// Which transports are tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transports {
    /// QUIC, and TCP where it does not get through.
    #[default]
    Both,
    /// QUIC only.
    QuicOnly,
    /// TCP only.
    TcpOnly,
}

/// Addresses tried in one dial; more are ignored.
const MAX_ADDRS: usize = 12;

/// UDP gets through again: dial anew and change over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuicAvailable {
    /// The address that answered.
    pub addr: SocketAddr,
}

/// Dials one hub. Cheap to clone.
#[derive(Clone)]
pub struct Dialer {
    trust: Trust,
    floor: TimeFloor,
    identity: Option<Arc<CertifiedKey>>,
    times: DialTimes,
    transports: Transports,
    shared: Option<SharedSocket>,
}

impl Dialer {
    /// For the link: shows `identity`, believes `ca`.
    ///
    /// # Errors
    /// When the identity cannot be used.
    pub fn link(ca: CertificateDer<'static>, identity: &Credential) -> Result<Self, PkiError> {
        let identity = Some(tls::certified(identity)?);
        Ok(Self::with(Trust::Ca(ca), identity))
    }

    /// For joining: shows nothing, believes the hub whose CA has the token's pin.
    pub fn join(pin: crate::pki::Pin) -> Self {
        Self::with(Trust::Pin(pin), None)
    }

    fn with(trust: Trust, identity: Option<Arc<CertifiedKey>>) -> Self {
        Self {
            trust,
            floor: TimeFloor::default(),
            identity,
            times: DialTimes::default(),
            transports: Transports::default(),
            shared: None,
        }
    }

    /// With other patience.
    #[must_use]
    pub const fn times(mut self, times: DialTimes) -> Self {
        self.times = times;
        self
    }

    /// With other transports.
    #[must_use]
    pub const fn transports(mut self, transports: Transports) -> Self {
        self.transports = transports;
        self
    }

    /// With a remembered time, so that a clock that stands in the past is seen through better; see [`TimeFloor`].
    #[must_use]
    pub fn time_floor(mut self, floor: TimeFloor) -> Self {
        self.floor = floor;
        self
    }

    /// With one UDP socket for all dials: for programs that play many gateways. See [`shared_socket`].
    #[must_use]
    pub fn shared(mut self, socket: SharedSocket) -> Self {
        self.shared = Some(socket);
        self
    }

    /// Connects to the hub at any of `addrs` (`host:port`, several for several addresses of the same hub).
    ///
    /// # Errors
    /// The most telling of what the attempts met; see [`DialError`].
    pub async fn dial(&self, addrs: &[String]) -> Result<Connection, DialError> {
        match timeout(self.times.total, self.dial_all(addrs)).await {
            Ok(done) => done,
            Err(_) => Err(DialError::Timeout),
        }
    }

    async fn dial_all(&self, addrs: &[String]) -> Result<Connection, DialError> {
        let targets = self.resolve(addrs).await?;
        let mut attempts = FuturesUnordered::new();
        let mut quic_left = 0;
        if self.transports != Transports::TcpOnly {
            for (n, addr) in targets.iter().enumerate() {
                attempts.push(self.attempt(Transport::Quic, *addr, self.times.stagger * count(n)));
                quic_left += 1;
            }
        }
        let mut tcp_started = self.transports == Transports::QuicOnly;
        let mut tcp_wait = std::pin::pin!(sleep(if quic_left == 0 {
            Duration::ZERO
        } else {
            self.times.quic_alone
        }));
        let mut spare: Option<Connection> = None;
        let mut grace = std::pin::pin!(sleep(self.times.total));
        let mut worst: Option<DialError> = None;
        loop {
            tokio::select! {
                biased;
                Some((transport, done)) = attempts.next() => {
                    quic_left -= usize::from(transport == Transport::Quic);
                    match done {
                        Ok(connection) if transport == Transport::Quic || quic_left == 0 => return Ok(connection),
                        Ok(connection) => {
                            grace.as_mut().reset(tokio::time::Instant::now() + self.times.quic_grace);
                            spare.get_or_insert(connection);
                        }
                        Err(e) => {
                            if e.is_final() && targets.len() == 1 && spare.is_none() {
                                // The same hub would say the same over the other transport.
                                return Err(e);
                            }
                            worst = Some(e.worse(worst.take()));
                        }
                    }
                    if quic_left == 0 {
                        if let Some(connection) = spare.take() {
                            return Ok(connection);
                        }
                        if !tcp_started {
                            tcp_wait.as_mut().reset(tokio::time::Instant::now());
                        }
                    }
                }
                () = &mut tcp_wait, if !tcp_started => {
                    tcp_started = true;
                    for (n, addr) in targets.iter().enumerate() {
                        attempts.push(self.attempt(Transport::Tcp, *addr, self.times.stagger * count(n)));
                    }
                }
                () = &mut grace, if spare.is_some() => {
                    if let Some(connection) = spare.take() {
                        return Ok(connection);
                    }
                }
                else => return Err(worst.unwrap_or(DialError::Timeout)),
            }
            if attempts.is_empty() && tcp_started && spare.is_none() {
                return Err(worst.unwrap_or(DialError::Timeout));
            }
        }
    }

    async fn attempt(
        &self,
        transport: Transport,
        addr: SocketAddr,
        after: Duration,
    ) -> (Transport, Result<Connection, DialError>) {
        sleep(after).await;
        let done = match transport {
            Transport::Quic => timeout(self.times.attempt, Box::pin(self.quic(addr))).await,
            Transport::Tcp => timeout(self.times.attempt, Box::pin(self.tcp(addr))).await,
        };
        let done = done.unwrap_or(Err(DialError::Timeout));
        if let Err(e) = &done {
            tracing::debug!(%addr, %transport, error = %e, "the hub was not reached this way");
        }
        (transport, done)
    }

    fn tls(&self) -> Result<(ClientConfig, Arc<HubVerifier>), DialError> {
        let alpn = if self.identity.is_some() { ALPN_LINK } else { ALPN_JOIN };
        tls::client_config(alpn, &self.trust, &self.floor, self.identity.clone())
            .map_err(|e| DialError::Setup(e.to_string()))
    }

    async fn quic(&self, addr: SocketAddr) -> Result<Connection, DialError> {
        let setup = |e: String| DialError::Setup(e);
        let (config, verifier) = self.tls()?;
        let crypto = QuicClientConfig::try_from(config).map_err(|e| setup(e.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(quic::edge_transport(self.times.idle));
        let SharedSocket { endpoint, knocks } = match &self.shared {
            Some(socket) => socket.clone(),
            None => new_endpoint(addr, false).map_err(DialError::from_io)?,
        };
        let failed = |e: quinn::ConnectionError| DialError::from_closed(closed(e), &verifier);
        let connecting = endpoint
            .connect_with(config, addr, HUB_SERVER_NAME)
            .map_err(|e| setup(e.to_string()))?;
        let connection = connecting.await.map_err(failed)?;
        let certs = connection
            .peer_identity()
            .and_then(|i| i.downcast::<Vec<CertificateDer<'static>>>().ok());
        let peer = peer(certs.as_ref().and_then(|c| c.first()))?;
        let mut word = connection.accept_uni().await.map_err(failed)?;
        match greeting::read(&mut word).await {
            Ok(Ok(())) => Ok(Connection::quic(connection, Some(peer), Some(knocks))),
            Ok(Err(goodbye)) => Err(DialError::Refused(goodbye)),
            Err(e) => Err(match connection.close_reason() {
                Some(reason) => failed(reason),
                None => DialError::Unreachable(e.to_string()),
            }),
        }
    }

    async fn tcp(&self, addr: SocketAddr) -> Result<Connection, DialError> {
        let (config, verifier) = self.tls()?;
        let socket = TcpStream::connect(addr).await.map_err(DialError::from_io)?;
        socket.set_nodelay(true).map_err(DialError::from_io)?;
        let counters = Arc::new(Counters::default());
        let name = ServerName::try_from(HUB_SERVER_NAME).expect("a constant, valid DNS name");
        let failed = |e: io::Error| DialError::from_tls(&e, &verifier);
        let mut tls = TlsConnector::from(Arc::new(config))
            .connect(name, Counted::new(socket, Arc::clone(&counters)))
            .await
            .map_err(failed)?;
        let peer = peer(tls.get_ref().1.peer_certificates().and_then(|c| c.first()))?;
        match greeting::read(&mut tls).await.map_err(failed)? {
            Ok(()) => {
                let buffered = BufWriter::with_capacity(WRITE_BUFFER, tls.into());
                Ok(Connection::tcp(buffered, false, counters, Some(peer), addr))
            }
            Err(goodbye) => Err(DialError::Refused(goodbye)),
        }
    }

    /// Resolves when UDP gets through to one of `addrs` again; to be awaited while living on TCP. Asks with full jitter, ever more
    /// seldom.
    pub async fn quic_available(&self, addrs: &[String]) -> QuicAvailable {
        let mut waits = FullJitter::new(self.times.probe_base, self.times.probe_cap);
        loop {
            sleep(waits.next_wait()).await;
            let Ok(targets) = self.resolve(addrs).await else {
                continue;
            };
            for addr in targets {
                match probe::probe(addr).await {
                    Ok(true) => return QuicAvailable { addr },
                    Ok(false) => {}
                    Err(e) => tracing::debug!(%addr, error = %e, "QUIC probe"),
                }
            }
        }
    }

    /// Addresses in the order given, those of one name in the resolver's order.
    async fn resolve(&self, addrs: &[String]) -> Result<Vec<SocketAddr>, DialError> {
        let mut out: Vec<SocketAddr> = Vec::new();
        let mut failed = None;
        for addr in addrs {
            if let Ok(addr) = addr.parse() {
                out.push(addr);
                continue;
            }
            match timeout(self.times.resolve, tokio::net::lookup_host(addr)).await {
                Ok(Ok(found)) => out.extend(found),
                Ok(Err(e)) => failed = Some(format!("{addr}: {e}")),
                Err(_) => failed = Some(format!("{addr}: the name server does not answer")),
            }
        }
        let mut seen = std::collections::HashSet::new();
        out.retain(|a| seen.insert(*a));
        out.truncate(MAX_ADDRS);
        if out.is_empty() {
            return Err(DialError::Unreachable(
                failed.unwrap_or_else(|| "no address of the hub is known".to_owned()),
            ));
        }
        Ok(out)
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer")
            .field("trust", &self.trust)
            .field("identity", &self.identity.is_some())
            .field("transports", &self.transports)
            .finish_non_exhaustive()
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn peer(leaf: Option<&CertificateDer<'_>>) -> Result<PeerIdentity, DialError> {
    let cert = leaf.ok_or_else(|| DialError::BadCertificate("none was shown".to_owned()))?;
    Cert::parse(cert)
        .map(Into::into)
        .map_err(|e| DialError::BadCertificate(e.to_string()))
}

/// A UDP socket with QUIC on it. Clones share it.
#[derive(Clone, Debug)]
pub struct SharedSocket {
    endpoint: quinn::Endpoint,
    knocks: Arc<Knocks>,
}

fn new_endpoint(remote: SocketAddr, shared: bool) -> io::Result<SharedSocket> {
    let any: SocketAddr = if remote.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let runtime = Arc::new(quinn::TokioRuntime);
    let knocks = Arc::new(Knocks::default());
    let socket = KnockSocket::new(runtime.wrap_udp_socket(UdpSocket::bind(any)?)?, Arc::clone(&knocks));
    let config = quic::edge_endpoint(shared);
    let endpoint = quinn::Endpoint::new_with_abstract_socket(config, None, Arc::new(socket), runtime)?;
    Ok(SharedSocket { endpoint, knocks })
}

/// A UDP socket that many connections to the same hub can share; `remote` tells the address family.
///
/// # Errors
/// When no socket can be had.
pub fn shared_socket(remote: SocketAddr) -> io::Result<SharedSocket> {
    new_endpoint(remote, true)
}
