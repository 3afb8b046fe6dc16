//! One mutually authenticated connection and its streams, the same over QUIC and over TLS on TCP.
//!
//! A [`Connection`] is a cheap handle: clones share the connection, which ends when somebody closes it, when the peer does, or when
//! the last handle and stream are gone. Over QUIC the transport does the multiplexing; over TCP a task of its own does
//! ([`mux`]).

mod mux;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::compat::Compat;
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::goodbye::{CloseCode, Goodbye};
use crate::knock::{Ear, Knocks};
use crate::pki::{self, Cert, NODE_GROUP, NODE_PREFIX};
use crate::quic::{HubConnection, RecvHalf, SendHalf, make_room_for_close};
pub(crate) use mux::{Io, Mux, WRITE_BUFFER};

/// Streams that the hub may have open on one connection over QUIC: one per question that is being asked (`logs -f`, `exec`, watches
/// through the hub). The gateway may open 13, its session included. Over TCP, where one window serves all, it is 16 from either side.
pub const MAX_STREAMS: u32 = 256;

/// How long the first byte of a stream may take: it leaves together with the stream's opening.
const KIND_DEADLINE: Duration = Duration::from_secs(5);

/// What carries a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// QUIC over UDP.
    Quic,
    /// TLS over TCP, because UDP does not get through.
    Tcp,
}

impl Transport {
    /// `quic` or `tcp`, as shown in a node's status.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who the peer is, by the certificate that was verified in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Common name: the user.
    pub common_name: String,
    /// Organisations: the groups.
    pub organizations: Vec<String>,
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
    /// End of the certificate, milliseconds since 1970.
    pub not_after_ms: u64,
    /// Hash of the public key.
    pub pin: pki::Pin,
}

impl PeerIdentity {
    /// The gateway's name, if this is a gateway's certificate.
    pub fn node(&self) -> Option<&str> {
        let name = self.common_name.strip_prefix(NODE_PREFIX)?;
        self.organizations
            .iter()
            .any(|o| o == NODE_GROUP)
            .then_some(name)
            .filter(|n| pki::is_node_name(n))
    }
}

impl From<Cert> for PeerIdentity {
    fn from(cert: Cert) -> Self {
        Self {
            common_name: cert.common_name,
            organizations: cert.organizations,
            serial: cert.serial,
            not_after_ms: cert.not_after_ms,
            pin: cert.pin,
        }
    }
}

/// What a stream is for: its first byte, written by the side that opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// The replication session; opened by the gateway, once.
    Session,
    /// HTTP/1.1; the side that opens it is the client.
    Http,
    /// The enrolment exchange; opened by the gateway.
    Join,
}

impl StreamKind {
    const fn byte(self) -> u8 {
        match self {
            Self::Session => 1,
            Self::Http => 2,
            Self::Join => 3,
        }
    }
}

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// This side closed it.
    #[error("closed by this side")]
    Local,
    /// The peer closed it and said why. Over TCP the peer's reason is known only when it refuses the connection at its start;
    /// later it is in the session's own last frame.
    #[error("closed by the peer: {0}")]
    Peer(Goodbye),
    /// TLS ended it with this alert: a certificate was refused, or there is no common protocol.
    #[error("refused by TLS (alert {0})")]
    Tls(u8),
    /// The peer has been silent for longer than was agreed.
    #[error("the peer is silent")]
    TimedOut,
    /// The peer does not know the connection (it restarted), or the connection broke.
    #[error("connection lost: {0}")]
    Lost(String),
}

/// A link to one peer: a cheap handle, whose clones share the connection. It ends when somebody closes it, when the peer does, or when
/// the last handle and stream are gone.
#[derive(Clone)]
pub struct Connection {
    inner: Inner,
    peer: Option<Arc<PeerIdentity>>,
    remote: SocketAddr,
    /// At a gateway, over QUIC.
    knocks: Option<Arc<Knocks>>,
}

#[derive(Clone)]
enum Inner {
    /// At a gateway.
    Quic(quinn::Connection),
    /// At the hub.
    Hub(HubConnection),
    Tcp(Arc<Mux>),
}

impl Connection {
    pub(crate) fn quic(connection: quinn::Connection, peer: Option<PeerIdentity>, knocks: Option<Arc<Knocks>>) -> Self {
        let remote = connection.remote_address();
        Self {
            inner: Inner::Quic(connection),
            peer: peer.map(Arc::new),
            remote,
            knocks,
        }
    }

    pub(crate) fn hub(connection: HubConnection, peer: Option<PeerIdentity>) -> Self {
        let remote = connection.remote_address();
        Self {
            inner: Inner::Hub(connection),
            peer: peer.map(Arc::new),
            remote,
            knocks: None,
        }
    }

    pub(crate) fn tcp(
        io: Io,
        server: bool,
        counters: Arc<Counters>,
        peer: Option<PeerIdentity>,
        remote: SocketAddr,
    ) -> Self {
        Self {
            inner: Inner::Tcp(Mux::start(io, server, counters)),
            peer: peer.map(Arc::new),
            remote,
            knocks: None,
        }
    }

    /// Opens a stream. The peer learns of it with the first bytes written.
    ///
    /// # Errors
    /// When the connection has ended. It waits while as many are open as may be (see [`MAX_STREAMS`]).
    pub async fn open_bi(&self) -> Result<Stream, Closed> {
        match &self.inner {
            Inner::Quic(c) => {
                let (send, recv) = c.open_bi().await.map_err(closed)?;
                Ok(Stream::quic(send, recv))
            }
            Inner::Hub(c) => {
                let (send, recv) = c.open_bi().await.map_err(closed)?;
                Ok(Stream(Half::Hub { send, recv }))
            }
            Inner::Tcp(mux) => mux.open().await.map(|(s, place)| Stream::tcp(s, Some(place), mux)),
        }
    }

    /// Opens a stream and says what it is for.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn open(&self, kind: StreamKind) -> Result<Stream, Closed> {
        let mut stream = self.open_bi().await?;
        if let (StreamKind::Session, Some(knocks), Half::Quic { ear, .. }) = (kind, &self.knocks, &mut stream.0) {
            *ear = Some(Box::new(knocks.listen(self.remote_addr())));
        }
        stream
            .write_all(&[kind.byte()])
            .await
            .map_err(|e| Closed::Lost(e.to_string()))?;
        Ok(stream)
    }

    /// The next stream the peer opens; [`Stream::read_kind`] then tells what it is for, in the task that serves it.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn accept_bi(&self) -> Result<Stream, Closed> {
        match &self.inner {
            Inner::Quic(c) => {
                let (send, recv) = c.accept_bi().await.map_err(closed)?;
                Ok(Stream::quic(send, recv))
            }
            Inner::Hub(c) => {
                let (send, recv) = c.accept_bi().await.map_err(closed)?;
                Ok(Stream(Half::Hub { send, recv }))
            }
            Inner::Tcp(mux) => mux.accept().await.map(|s| Stream::tcp(s, None, mux)),
        }
    }

    /// Ends the connection with all its streams. What was written and not yet acknowledged may be lost: [`Stream::finish`] first.
    pub fn close(&self, goodbye: &Goodbye) {
        match &self.inner {
            Inner::Quic(c) => {
                make_room_for_close(c.congestion_state());
                c.close(goodbye.code.to_u32().into(), &goodbye.reason());
            }
            Inner::Hub(c) => c.close(goodbye.code.to_u32().into(), goodbye.reason()),
            Inner::Tcp(mux) => mux.close(),
        }
    }

    /// Resolves when the connection has ended.
    pub async fn closed(&self) -> Closed {
        match &self.inner {
            Inner::Quic(c) => closed(c.closed().await),
            Inner::Hub(c) => closed(c.closed().await),
            Inner::Tcp(mux) => mux.closed().await,
        }
    }

    /// How it ended, if it has.
    pub fn close_reason(&self) -> Option<Closed> {
        match &self.inner {
            Inner::Quic(c) => c.close_reason().map(closed),
            Inner::Hub(c) => c.close_reason().map(closed),
            Inner::Tcp(mux) => mux.close_reason(),
        }
    }

    /// What carries it.
    pub const fn transport(&self) -> Transport {
        match self.inner {
            Inner::Quic(_) | Inner::Hub(_) => Transport::Quic,
            Inner::Tcp(_) => Transport::Tcp,
        }
    }

    /// Who the peer is: at the hub, the gateway (`None` on a join connection); at the gateway, the hub.
    pub fn peer(&self) -> Option<&PeerIdentity> {
        self.peer.as_deref()
    }

    /// The peer's address; over QUIC the current one, which may change during the connection.
    pub fn remote_addr(&self) -> SocketAddr {
        match &self.inner {
            Inner::Quic(c) => c.remote_address(),
            Inner::Hub(c) => c.remote_address(),
            Inner::Tcp(_) => self.remote,
        }
    }

    /// Bytes sent and received so far: UDP payloads, or what TLS put into TCP, handshake included. Headers below are not counted.
    pub fn bytes(&self) -> (u64, u64) {
        let stats = match &self.inner {
            Inner::Quic(c) => c.stats(),
            Inner::Hub(c) => c.stats(),
            Inner::Tcp(mux) => return mux.counters().get(),
        };
        (stats.udp_tx.bytes, stats.udp_rx.bytes)
    }

    /// Packets sent and received so far; over TCP, writes and reads, which are about as many.
    pub fn packets(&self) -> (u64, u64) {
        let stats = match &self.inner {
            Inner::Quic(c) => c.stats(),
            Inner::Hub(c) => c.stats(),
            Inner::Tcp(mux) => return mux.counters().get_calls(),
        };
        (stats.udp_tx.datagrams, stats.udp_rx.datagrams)
    }

    /// Round-trip time as the transport sees it; unknown over TCP.
    pub fn rtt(&self) -> Option<Duration> {
        match &self.inner {
            Inner::Quic(c) => Some(c.rtt()),
            Inner::Hub(c) => Some(c.rtt()),
            Inner::Tcp(_) => None,
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("transport", &self.transport())
            .field("remote", &self.remote)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// Translates quinn's error.
pub(crate) fn closed(e: quinn::ConnectionError) -> Closed {
    use quinn::ConnectionError as E;
    match e {
        E::LocallyClosed => Closed::Local,
        E::ApplicationClosed(close) => Closed::Peer(Goodbye::read(
            u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX),
            &close.reason,
        )),
        E::ConnectionClosed(close) => {
            let code = u64::from(close.error_code);
            match code {
                // CONNECTION_REFUSED: the server turned the first packet down.
                0x2 => Closed::Peer(Goodbye::new(CloseCode::Busy, "the hub refused the connection")),
                0x100..=0x1ff => Closed::Tls(u8::try_from(code - 0x100).unwrap_or(u8::MAX)),
                _ => Closed::Lost(close.to_string()),
            }
        }
        E::TimedOut => Closed::TimedOut,
        E::Reset => Closed::Lost("the peer does not know it any more".to_owned()),
        other => Closed::Lost(other.to_string()),
    }
}

/// Bytes and calls through a socket.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    writes: AtomicU64,
    reads: AtomicU64,
}

impl Counters {
    fn get(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    fn get_calls(&self) -> (u64, u64) {
        (self.writes.load(Ordering::Relaxed), self.reads.load(Ordering::Relaxed))
    }
}

/// A socket that counts.
#[derive(Debug)]
pub(crate) struct Counted<T> {
    io: T,
    counters: Arc<Counters>,
}

impl<T> Counted<T> {
    pub(crate) const fn new(io: T, counters: Arc<Counters>) -> Self {
        Self { io, counters }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if read > 0 {
            self.counters.received.fetch_add(read as u64, Ordering::Relaxed);
            self.counters.reads.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = polled {
            self.counters.sent.fetch_add(n as u64, Ordering::Relaxed);
            self.counters.writes.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(n)) = polled {
            self.counters.sent.fetch_add(n as u64, Ordering::Relaxed);
            self.counters.writes.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// One ordered stream of bytes each way. Dropping it tells the peer that nothing more will come.
pub struct Stream(Half);

// Both are a few words; a box would cost each stream an allocation.
#[allow(clippy::large_enum_variant)]
enum Half {
    Quic {
        send: quinn::SendStream,
        recv: quinn::RecvStream,
        /// The session's stream at a gateway hears the hub knock.
        ear: Option<Box<Ear>>,
    },
    Hub {
        send: SendHalf,
        recv: RecvHalf,
    },
    Tcp {
        io: Compat<yamux::Stream>,
        /// Of a stream that this side opened; after the stream, so that it is free when that is gone.
        _place: Option<OwnedSemaphorePermit>,
        mux: Arc<Mux>,
        /// yamux forgets to wake readers when this side closes the connection.
        gone: Pin<Box<WaitForCancellationFutureOwned>>,
    },
}

impl Stream {
    const fn quic(send: quinn::SendStream, recv: quinn::RecvStream) -> Self {
        Self(Half::Quic { send, recv, ear: None })
    }

    fn tcp(io: Compat<yamux::Stream>, place: Option<OwnedSemaphorePermit>, mux: &Arc<Mux>) -> Self {
        Self(Half::Tcp {
            io,
            _place: place,
            mux: Arc::clone(mux),
            gone: Box::pin(mux.gone()),
        })
    }

    /// Reads what an accepted stream is for. Call it once, first.
    ///
    /// # Errors
    /// An unknown kind (of a later version), an early end, or nothing within five seconds.
    pub async fn read_kind(&mut self) -> io::Result<StreamKind> {
        let byte = tokio::time::timeout(KIND_DEADLINE, self.read_u8())
            .await
            .map_err(io::Error::other)??;
        [StreamKind::Session, StreamKind::Http, StreamKind::Join]
            .into_iter()
            .find(|k| k.byte() == byte)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("unknown kind of stream {byte}")))
    }

    /// Ready when the hub has knocked and the session should ask whether it still knows this connection.
    pub(crate) fn poll_knock(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Half::Quic { ear: Some(ear), .. } => ear.poll(cx),
            _ => Poll::Pending,
        }
    }

    /// Ends this side's half and waits until the peer has everything (over TCP: until it is handed to the connection), so that the
    /// connection can be closed after it.
    ///
    /// # Errors
    /// When the connection ended first. The wait has no deadline of its own.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.shutdown().await?;
        match &mut self.0 {
            Half::Quic { send, .. } => send.stopped().await.map(drop).map_err(io::Error::other),
            Half::Hub { send, .. } => send.stopped().await,
            Half::Tcp { .. } => Ok(()),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Half::Quic { recv, .. } => AsyncRead::poll_read(Pin::new(recv), cx, buf),
            Half::Hub { recv, .. } => Pin::new(recv).poll_read(cx, buf),
            Half::Tcp { io, mux, gone, .. } => match Pin::new(io).poll_read(cx, buf) {
                Poll::Pending if gone.as_mut().poll(cx).is_ready() => {
                    let reason = mux.close_reason().unwrap_or(Closed::Local);
                    Poll::Ready(Err(io::Error::new(io::ErrorKind::NotConnected, reason)))
                }
                polled => polled,
            },
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Half::Quic { send, .. } => AsyncWrite::poll_write(Pin::new(send), cx, buf),
            Half::Hub { send, .. } => Pin::new(send).poll_write(cx, buf),
            Half::Tcp { io, .. } => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Half::Quic { send, .. } => Pin::new(send).poll_flush(cx),
            Half::Hub { send, .. } => Pin::new(send).poll_flush(cx),
            Half::Tcp { io, .. } => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Half::Quic { send, .. } => Pin::new(send).poll_shutdown(cx),
            Half::Hub { send, .. } => Pin::new(send).poll_shutdown(cx),
            Half::Tcp { io, .. } => Pin::new(io).poll_shutdown(cx),
        }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Half::Quic { .. } | Half::Hub { .. } => "Stream(quic)",
            Half::Tcp { .. } => "Stream(tcp)",
        })
    }
}
