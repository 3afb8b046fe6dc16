//! Knocks: how a hub that was killed and is back makes itself known to gateways that believe themselves connected.
//!
//! An idle gateway speaks once a minute, and until it speaks nothing tells it that the process at the other end is another one. So the
//! new hub sends one small datagram to each address where a gateway was last seen ([`HubEndpoint::knock`]). The gateway's socket
//! ([`KnockSocket`]) takes it out before QUIC sees it, and the session's driver then asks "are you there?" ahead of time. The hub answers
//! a packet of a connection it does not know with a stateless reset (its key outlives the process, [`crate::quic::reset_key`]), the
//! session ends as lost, and the gateway dials anew.
//!
//! A knock proves nothing and carries nothing: whoever forges one in the hub's name gets one heartbeat out of a gateway, once in
//! [`QUIET`], sent to the hub. One that is lost costs what it cost without knocks: a gateway finds out by its next heartbeat.
//!
//! [`HubEndpoint::knock`]: crate::HubEndpoint::knock

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use daemon::clock;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::time::{Sleep, sleep, sleep_until};

/// The whole datagram. It cannot be QUIC: the shortest packet towards a gateway has 21 bytes, and QUIC's fixed bit (0x40) is clear, so
/// that a gateway without knocks drops it too.
const KNOCK: [u8; 16] = *b"\0kurator.knock\0\x01";

/// Between two reactions of one connection. A knock in between is answered at the end of this time, so that a forged one cannot
/// take the real one's place.
const QUIET: Duration = Duration::from_secs(2);

/// Connections that share a socket react one after the other, this far apart.
const SPACING: Duration = Duration::from_micros(100);

/// Knocks leave in bundles, so many at once and so often: 5,000 a second.
const BUNDLE: usize = 25;
const BUNDLE_EVERY: Duration = Duration::from_millis(5);
/// How often one knock is tried while the socket's buffer is full.
const TRIES: usize = 4;

/// Sends a knock to each address once; how many left. `socket` is non-blocking and has the address gateways know.
pub(crate) async fn send(socket: &UdpSocket, targets: impl Iterator<Item = SocketAddr>) -> usize {
    let Ok(local) = socket.local_addr() else { return 0 };
    // Many gateways may stand behind one address.
    let targets: HashSet<SocketAddr> = targets.filter_map(|target| reachable(target, local)).collect();
    let mut sent = 0;
    for (n, target) in targets.into_iter().enumerate() {
        if n > 0 && n % BUNDLE == 0 {
            sleep(BUNDLE_EVERY).await;
        }
        for _ in 0..TRIES {
            match socket.send_to(&KNOCK, target) {
                Ok(_) => sent += 1,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    sleep(BUNDLE_EVERY).await;
                    continue;
                }
                Err(e) => tracing::debug!(%target, error = %e, "cannot knock"),
            }
            break;
        }
    }
    sent
}

/// `target` in the form that a socket bound to `local` can send to.
fn reachable(target: SocketAddr, local: SocketAddr) -> Option<SocketAddr> {
    if target.port() == 0 || target.ip().is_unspecified() {
        return None;
    }
    match (target.ip().to_canonical(), local) {
        (ip @ IpAddr::V4(_), SocketAddr::V4(_)) => Some(SocketAddr::new(ip, target.port())),
        (IpAddr::V4(ip), SocketAddr::V6(_)) => Some(SocketAddr::new(ip.to_ipv6_mapped().into(), target.port())),
        // As it is: a link-local address needs its scope.
        (IpAddr::V6(_), SocketAddr::V6(_)) => Some(target),
        (IpAddr::V6(_), SocketAddr::V4(_)) => None,
    }
}

/// Takes knocks out of one received buffer, which is one datagram or, by the system's receive offload, several of `stride` bytes and a
/// shorter last one. Whether there were any.
fn take(buf: &[u8], meta: &mut RecvMeta) -> bool {
    let Some(data) = buf.get(..meta.len) else { return false };
    if meta.stride == KNOCK.len() {
        let knocked = data.chunks(KNOCK.len()).any(|datagram| datagram == KNOCK);
        if knocked {
            // Whatever else is in there is too short for QUIC.
            meta.len = 0;
        }
        return knocked;
    }
    let last = data.len().checked_rem(meta.stride).unwrap_or(0);
    let knocked = last == KNOCK.len() && data.ends_with(&KNOCK);
    if knocked {
        meta.len -= KNOCK.len();
    }
    knocked
}

/// A gateway's UDP socket. Everything but knocks goes to QUIC.
#[derive(Debug)]
pub(crate) struct KnockSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    knocks: Arc<Knocks>,
}

impl KnockSocket {
    pub(crate) fn new(socket: Arc<dyn AsyncUdpSocket>, knocks: Arc<Knocks>) -> Self {
        Self { socket, knocks }
    }
}

impl AsyncUdpSocket for KnockSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = ready!(self.socket.poll_recv(cx, bufs, meta))?;
        for (buf, meta) in bufs.iter().zip(meta).take(received) {
            if take(buf, meta) {
                self.knocks.ring(meta.addr);
            }
        }
        // A buffer that held nothing else is empty now, which QUIC passes over.
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

/// Who wants to hear of knocks that come in on one socket.
#[derive(Debug, Default)]
pub(crate) struct Knocks {
    next: AtomicU64,
    bells: Mutex<BTreeMap<u64, Arc<Bell>>>,
}

impl Knocks {
    fn bells(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Bell>>> {
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears knocks of `peer` from now on.
    pub(crate) fn listen(self: &Arc<Self>, peer: SocketAddr) -> Ear {
        let bell = Arc::new(Bell {
            peer: plain(peer),
            state: Mutex::default(),
        });
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.bells().insert(id, Arc::clone(&bell));
        Ear {
            knocks: Arc::clone(self),
            id,
            bell,
            due: None,
            quiet_until: None,
        }
    }

    /// A knock came from `from`.
    fn ring(&self, from: SocketAddr) {
        let from = plain(from);
        let mut wait = Duration::ZERO;
        for bell in self.bells().values().filter(|bell| bell.peer == from) {
            bell.ring(wait);
            wait += SPACING;
        }
    }
}

fn plain(addr: SocketAddr) -> (IpAddr, u16) {
    (addr.ip().to_canonical(), addr.port())
}

#[derive(Debug)]
struct Bell {
    peer: (IpAddr, u16),
    state: Mutex<BellState>,
}

#[derive(Debug, Default)]
struct BellState {
    /// A knock came that nobody has taken; how long to wait before reacting.
    rung: Option<Duration>,
    waker: Option<Waker>,
}

impl Bell {
    fn state(&self) -> MutexGuard<'_, BellState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self, wait: Duration) {
        let mut state = self.state();
        if state.rung.is_none() {
            state.rung = Some(wait);
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Duration> {
        let mut state = self.state();
        match state.rung.take() {
            Some(wait) => Poll::Ready(wait),
            None => {
                if !state.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                    state.waker = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

/// One connection's hearing; ends when dropped.
pub(crate) struct Ear {
    knocks: Arc<Knocks>,
    id: u64,
    bell: Arc<Bell>,
    due: Option<Pin<Box<Sleep>>>,
    quiet_until: Option<Instant>,
}

impl Ear {
    /// Ready when the connection should react to a knock now.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(due) = &mut self.due {
                ready!(due.as_mut().poll(cx));
                self.due = None;
                // What knocked meanwhile is answered by the same reaction.
                self.bell.state().rung = None;
                self.quiet_until = Some(clock::now() + QUIET);
                return Poll::Ready(());
            }
            let wait = ready!(self.bell.poll(cx));
            let at = react_at(clock::now(), wait, self.quiet_until);
            self.due = Some(Box::pin(sleep_until(at.into())));
        }
    }
}

fn react_at(now: Instant, wait: Duration, quiet_until: Option<Instant>) -> Instant {
    let at = now + wait;
    quiet_until.map_or(at, |quiet| quiet.max(at))
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.knocks.bells().remove(&self.id);
    }
}

impl fmt::Debug for Ear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ear")
            .field("peer", &self.bell.peer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const HUB: &str = "192.0.2.1:10443";

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn taken(stride: usize, datagrams: &[&[u8]]) -> (bool, usize) {
        let buf = datagrams.concat();
        let mut meta = RecvMeta::default();
        (meta.len, meta.stride) = (buf.len(), stride);
        (take(&buf, &mut meta), meta.len)
    }

    #[test]
    fn knocks_are_taken_out_of_any_batch_and_nothing_else_is() {
        let (knock, packet, short) = (&KNOCK[..], &[0x41; 40][..], &[0x41; 16][..]);
        assert_eq!(taken(16, &[knock]), (true, 0));
        // A stride above the length: one datagram.
        assert_eq!(taken(1500, &[knock]), (true, 0));
        assert_eq!(taken(16, &[short, knock, short]), (true, 0));
        assert_eq!(taken(40, &[packet, packet, knock]), (true, 80));
        for (stride, datagrams) in [
            (40, &[packet, packet][..]),
            (16, &[short]),
            (40, &[packet, short]),
            (40, &[packet, &KNOCK[..15]]),
            // The bytes of a knock at the end of a real packet.
            (56, &[packet, knock]),
            (0, &[]),
            (0, &[knock]),
        ] {
            assert!(!taken(stride, datagrams).0, "{stride} {datagrams:?}");
        }
        assert_eq!(KNOCK[0] & 0xc0, 0);
    }

    #[test]
    fn addresses_fit_the_socket() {
        let (v4, v6) = (addr("0.0.0.0:1"), addr("[::]:1"));
        let mapped = addr("[::ffff:192.0.2.1]:10443");
        assert_eq!(reachable(addr(HUB), v4), Some(addr(HUB)));
        assert_eq!(reachable(mapped, v4), Some(addr(HUB)));
        assert_eq!(reachable(addr(HUB), v6), Some(mapped));
        assert_eq!(reachable(addr("[2001:db8::1]:5"), v6), Some(addr("[2001:db8::1]:5")));
        for nowhere in ["[2001:db8::1]:5", "192.0.2.1:0", "0.0.0.0:9"] {
            assert_eq!(reachable(addr(nowhere), v4), None);
        }
    }

    #[test]
    fn a_reaction_waits_for_its_turn_and_for_the_quiet_time() {
        let now = clock::now();
        assert_eq!(react_at(now, SPACING, None), now + SPACING);
        assert_eq!(react_at(now, SPACING, Some(now + QUIET)), now + QUIET);
        assert_eq!(react_at(now, QUIET * 2, Some(now + QUIET)), now + QUIET * 2);
    }

    async fn heard(ear: &mut Ear) -> bool {
        let mut polls = 0;
        poll_fn(|cx| {
            polls += 1;
            match ear.poll(cx) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending if ear.due.is_none() => Poll::Ready(false),
                Poll::Pending if ear.quiet_until.is_some() => Poll::Ready(false),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    #[tokio::test]
    async fn the_peer_alone_is_heard_once_and_by_everyone_who_listens() {
        let knocks = Arc::new(Knocks::default());
        let mut ears: Vec<Ear> = (0..20).map(|_| knocks.listen(addr(HUB))).collect();
        let mut other = knocks.listen(addr("192.0.2.2:10443"));
        knocks.ring(addr("192.0.2.1:10444"));
        for ear in &mut ears {
            assert!(!heard(ear).await);
        }
        knocks.ring(addr(HUB));
        knocks.ring(addr("[::ffff:192.0.2.1]:10443"));
        for ear in &mut ears {
            assert!(heard(ear).await);
            assert!(!heard(ear).await, "one knock, one reaction");
        }
        assert!(!heard(&mut other).await);
        // Within the quiet time: put off, not forgotten.
        knocks.ring(addr(HUB));
        let ear = &mut ears[0];
        assert!(!heard(ear).await);
        assert!(ear.due.as_ref().is_some_and(|due| due.deadline() > clock::now().into()));
        drop(ears);
        assert_eq!(knocks.bells().len(), 1);
    }

    #[tokio::test]
    async fn each_address_is_knocked_at_once() {
        let at = UdpSocket::bind("127.0.0.1:0").unwrap();
        let from = UdpSocket::bind("127.0.0.1:0").unwrap();
        from.set_nonblocking(true).unwrap();
        let target = at.local_addr().unwrap();
        let targets = [target, target, addr("[2001:db8::1]:5"), target];
        assert_eq!(send(&from, targets.into_iter()).await, 1);
        let mut buf = [0; 64];
        assert_eq!(
            at.recv_from(&mut buf).unwrap(),
            (KNOCK.len(), from.local_addr().unwrap())
        );
        assert_eq!(buf[..KNOCK.len()], KNOCK);
        at.set_nonblocking(true).unwrap();
        assert!(at.recv(&mut buf).is_err());
    }
}
