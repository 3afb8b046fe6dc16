//! The hub's end of QUIC: one socket, the routing of its packets, and a task for each connection.
//!
//! The protocol is quinn's state machine (`quinn-proto`); only the driving is done here, because of what an idle connection costs. A
//! general driver gives each connection a queue with room for 32 or 64 packets and a buffer for what it sends, 11 to 19 kB that an idle
//! gateway never uses. Here a queue is as long as what is in it, and what is sent is written into one buffer for each thread.
//!
//! Locks are taken in one order: a connection's state, then the routes, then a connection's inbox.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    ConnectionError, ConnectionEvent, ConnectionHandle, DatagramEvent, EndpointConfig, EndpointEvent, ServerConfig,
    Transmit, VarInt,
};
use quinn_udp::{RecvMeta, UdpSocketState};
use tokio::io::Interest;
use tokio::sync::Notify;

use super::conn::{Conn, HubConnection};

/// Datagrams, or with receive offload runs of datagrams, taken from the socket by one call.
const BATCH: usize = 8;
/// Room for one of them: the largest there is.
const DATAGRAM: usize = 64 * 1024;
/// Datagrams taken before others on this thread get their turn, however many more there are: nobody paces a stranger's flood. It is more
/// than a socket's buffer of the usual size holds.
const TURN: usize = 256;
/// After an error of the socket that is not one packet's fault.
const SOCKET_PAUSE: Duration = Duration::from_millis(20);

/// quinn measures time so; as tokio does, for its timers.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A hub's QUIC port. Clones share it. [`Self::close`] ends it.
#[derive(Clone)]
pub(crate) struct HubQuic(Arc<Shared>);

/// What connections and the port's own task share.
pub(super) struct Shared {
    socket: Socket,
    /// Bytes of the largest datagram that peers were told to send.
    largest: u64,
    routes: Mutex<Routes>,
    /// Somebody wants to come in, or nobody can any more.
    knocked: Notify,
    /// The last connection is gone, or the port is closed.
    idle: Notify,
}

struct Routes {
    endpoint: quinn_proto::Endpoint,
    /// By the number that the endpoint gave them; numbers are used again.
    conns: Vec<Option<Arc<Conn>>>,
    live: usize,
    incoming: VecDeque<quinn_proto::Incoming>,
    closed: Option<(VarInt, Bytes)>,
}

impl HubQuic {
    /// Begins to receive. Needs a running tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be used.
    pub(crate) fn start(config: EndpointConfig, server: ServerConfig, socket: UdpSocket) -> io::Result<Self> {
        let socket = Socket::new(socket)?;
        let largest = config.get_max_udp_payload_size();
        let endpoint = quinn_proto::Endpoint::new(
            Arc::new(config),
            Some(Arc::new(server)),
            !socket.state.may_fragment(),
            None,
        );
        let shared = Arc::new(Shared {
            socket,
            largest,
            routes: Mutex::new(Routes {
                endpoint,
                conns: Vec::new(),
                live: 0,
                incoming: VecDeque::new(),
                closed: None,
            }),
            knocked: Notify::new(),
            idle: Notify::new(),
        });
        tokio::spawn(receive(Arc::clone(&shared)));
        Ok(Self(shared))
    }

    /// The next connection that wants to come in; `None` when the port is closed.
    pub(crate) async fn accept(&self) -> Option<Incoming> {
        loop {
            let knocked = self.0.knocked.notified();
            {
                let mut routes = self.0.routes();
                if let Some(inner) = routes.incoming.pop_front() {
                    return Some(Incoming {
                        inner: Some(inner),
                        shared: Arc::clone(&self.0),
                    });
                }
                if routes.closed.is_some() {
                    return None;
                }
            }
            knocked.await;
        }
    }

    /// Takes nobody in any more and ends all connections.
    pub(crate) fn close(&self, code: VarInt, reason: &Bytes) {
        let conns: Vec<Arc<Conn>> = {
            let mut routes = self.0.routes();
            if routes.closed.is_none() {
                routes.closed = Some((code, reason.clone()));
            }
            routes.conns.iter().flatten().map(Arc::clone).collect()
        };
        for conn in conns {
            conn.close(code, reason.clone());
        }
        self.0.knocked.notify_waiters();
        self.0.idle.notify_waiters();
    }

    /// Connections that have a state here: in the handshake, in use, and closed ones whose last packets may still be on the way.
    pub(crate) fn live(&self) -> usize {
        self.0.routes().live
    }

    /// Resolves when no connection is left.
    pub(crate) async fn wait_idle(&self) {
        loop {
            let idle = self.0.idle.notified();
            if self.0.routes().live == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Shared {
    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) const fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Tells the endpoint what a connection has for it; what the endpoint answers is for the connection.
    pub(super) fn tell(&self, handle: ConnectionHandle, event: EndpointEvent) -> Option<ConnectionEvent> {
        let mut routes = self.routes();
        let gone = event.is_drained();
        let answer = routes.endpoint.handle_event(handle, event);
        if gone
            && let Some(route) = routes.conns.get_mut(handle.0)
            && route.take().is_some()
        {
            routes.live -= 1;
            if routes.live == 0 {
                self.idle.notify_waiters();
            }
        }
        answer
    }

    /// Looks at a datagram and passes it on.
    fn take(&self, routes: &mut Routes, meta: &RecvMeta, datagram: &[u8], answer: &mut Vec<u8>) {
        // A larger one than was agreed would only take up memory. Port 0 cannot be answered; trying to would look to quinn as if the
        // system could not mark packets, and it would stop marking any.
        if datagram.len() as u64 > self.largest || meta.addr.port() == 0 {
            return;
        }
        answer.clear();
        let ecn = meta.ecn.and_then(|e| quinn_proto::EcnCodepoint::from_bits(e as u8));
        let event = routes
            .endpoint
            .handle(now(), meta.addr, meta.dst_ip, ecn, BytesMut::from(datagram), answer);
        match event {
            None => {}
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(Some(conn)) = routes.conns.get(handle.0) {
                    conn.deliver(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) if routes.closed.is_none() => {
                // The endpoint bounds how many there are.
                routes.incoming.push_back(incoming);
                self.knocked.notify_waiters();
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                let transmit = routes.endpoint.refuse(incoming, answer);
                self.socket.respond(&transmit, answer);
            }
            Some(DatagramEvent::Response(transmit)) => self.socket.respond(&transmit, answer),
        }
    }

    /// What the socket has right now, at most one batch: how many datagrams that were, `None` when there are none.
    fn take_batch(&self, buffers: &mut [Box<[u8]>; BATCH], answer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let mut metas = [RecvMeta::default(); BATCH];
        let read = {
            let mut slices = buffers.each_mut().map(|b| IoSliceMut::new(b));
            match self.socket.recv(&mut slices, &mut metas) {
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // Somebody's answer to a packet of ours; it may be forged.
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
                    ) =>
                {
                    return Ok(Some(1));
                }
                Err(e) => return Err(e),
            }
        };
        let mut taken = 0;
        let mut routes = self.routes();
        for (meta, buffer) in metas.iter().zip(buffers.iter()).take(read) {
            for datagram in buffer[..meta.len].chunks(meta.stride.max(1)) {
                self.take(&mut routes, meta, datagram, answer);
                taken += 1;
            }
        }
        // An empty datagram was one too.
        Ok(Some(taken.max(read)))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let routes = self.routes.get_mut().unwrap_or_else(PoisonError::into_inner);
        while let Some(incoming) = routes.incoming.pop_front() {
            routes.endpoint.ignore(incoming);
        }
    }
}

/// However the port's task ends, nobody is left waiting for packets that cannot come.
struct Ending(HubQuic);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.close(VarInt::from_u32(0), &Bytes::new());
    }
}

/// The port's task, until it is closed and the last connection is gone.
async fn receive(shared: Arc<Shared>) {
    let _ending = Ending(HubQuic(Arc::clone(&shared)));
    // Pages that no packet was ever written to cost nothing.
    let mut buffers = std::array::from_fn(|_| vec![0; DATAGRAM].into_boxed_slice());
    let mut answer = Vec::new();
    let mut failing = false;
    loop {
        let idle = shared.idle.notified();
        {
            let routes = shared.routes();
            if routes.closed.is_some() && routes.live == 0 {
                return;
            }
        }
        let ready = tokio::select! {
            biased;
            () = idle => continue,
            ready = shared.socket.io.readable() => ready,
        };
        let mut taken = 0;
        let ended = ready.and_then(|()| {
            while taken < TURN {
                let Some(n) = shared.take_batch(&mut buffers, &mut answer)? else {
                    return Ok(());
                };
                taken += n;
            }
            Ok(())
        });
        match ended {
            Ok(()) => {
                failing = false;
                if taken >= TURN {
                    tokio::task::yield_now().await;
                }
            }
            Err(e) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(error = %e, "cannot receive from the hub's UDP port; trying again until it works");
                }
                tokio::time::sleep(SOCKET_PAUSE).await;
            }
        }
    }
}

/// A connection that wants to come in. Dropped, it is refused.
pub(crate) struct Incoming {
    inner: Option<quinn_proto::Incoming>,
    shared: Arc<Shared>,
}

impl Incoming {
    /// Whether its address could be asked to prove itself.
    pub(crate) fn may_retry(&self) -> bool {
        self.inner.as_ref().is_some_and(quinn_proto::Incoming::may_retry)
    }

    pub(crate) fn remote_address(&self) -> SocketAddr {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        self.inner
            .as_ref()
            .map_or(unknown, quinn_proto::Incoming::remote_address)
    }

    /// Asks its address to prove itself; it comes again then. `false` when that was done already.
    pub(crate) fn retry(mut self) -> bool {
        let Some(incoming) = self.inner.take() else {
            return false;
        };
        let mut answer = Vec::new();
        let retried = self.shared.routes().endpoint.retry(incoming, &mut answer);
        match retried {
            Ok(transmit) => {
                self.shared.socket.respond(&transmit, &answer);
                true
            }
            Err(e) => {
                self.inner = Some(e.into_incoming());
                false
            }
        }
    }

    /// Begins the handshake; [`HubConnection::opened`] tells when it is over.
    ///
    /// # Errors
    /// When its first packet is wrong.
    pub(crate) fn accept(mut self) -> Result<HubConnection, ConnectionError> {
        let Some(incoming) = self.inner.take() else {
            return Err(ConnectionError::LocallyClosed);
        };
        let mut answer = Vec::new();
        let mut routes = self.shared.routes();
        match routes.endpoint.accept(incoming, now(), &mut answer, None) {
            Ok((handle, machine)) => {
                let connection = HubConnection::start(Arc::clone(&self.shared), handle, machine);
                if routes.conns.len() <= handle.0 {
                    routes.conns.resize_with(handle.0 + 1, || None);
                }
                routes.conns[handle.0] = Some(connection.conn());
                routes.live += 1;
                let closed = routes.closed.clone();
                drop(routes);
                if let Some((code, reason)) = closed {
                    connection.close(code, reason);
                }
                Ok(connection)
            }
            Err(e) => {
                drop(routes);
                if let Some(transmit) = e.response {
                    self.shared.socket.respond(&transmit, &answer);
                }
                Err(e.cause)
            }
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(incoming) = self.inner.take() {
            let mut answer = Vec::new();
            let transmit = self.shared.routes().endpoint.refuse(incoming, &mut answer);
            self.shared.socket.respond(&transmit, &answer);
        }
    }
}

thread_local! {
    /// Where a packet is put together. What cannot be sent at once is copied out of it.
    static PACKET: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` with this thread's buffer, empty.
pub(super) fn with_packet<R>(f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    PACKET.with_borrow_mut(|packet| {
        packet.clear();
        f(packet)
    })
}

/// The socket with what is known of the system's abilities.
pub(super) struct Socket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
}

impl Socket {
    fn new(socket: UdpSocket) -> io::Result<Self> {
        Ok(Self {
            state: UdpSocketState::new((&socket).into())?,
            io: tokio::net::UdpSocket::from_std(socket)?,
        })
    }

    fn recv(&self, buffers: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> io::Result<usize> {
        self.io.try_io(Interest::READABLE, || {
            self.state.recv((&self.io).into(), buffers, metas)
        })
    }

    /// Sends one packet. `WouldBlock` is the only error that is told: other failures are as good as a lost packet.
    pub(super) fn send(&self, transmit: &Transmit, packet: &[u8]) -> io::Result<()> {
        let transmit = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.and_then(|e| quinn_udp::EcnCodepoint::from_bits(e as u8)),
            contents: &packet[..transmit.size],
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        self.io
            .try_io(Interest::WRITABLE, || self.state.send((&self.io).into(), &transmit))
    }

    /// Sends an answer that belongs to no connection. The peer asks again when it does not come.
    fn respond(&self, transmit: &Transmit, packet: &[u8]) {
        if let Err(e) = self.send(transmit, packet) {
            tracing::trace!(error = %e, "an answer was not sent");
        }
    }

    /// Resolves when a packet can be sent.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.io.writable().await
    }
}

#[cfg(test)]
mod tests;
