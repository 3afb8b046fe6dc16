//! One connection of a gateway at the hub: its state behind a lock, the task that drives it, and the handle others have of it.
//!
//! The task does all that has to do with the wire: it feeds received packets to the state machine, sends what the machine has to send,
//! keeps its timer, and wakes whoever waits for what happened. Handles and streams only change the state and wake the task. When the
//! last of them is dropped, the connection is closed.

use std::any::Any;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use quinn_proto::{
    ConnectionError, ConnectionEvent, ConnectionHandle, ConnectionStats, Dir, EndpointEvent, Event, StreamEvent,
    StreamId, Transmit, VarInt,
};
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep_until};

use super::hub::{Shared, now, with_packet};
use super::stream::{RecvHalf, SendHalf};
use super::window::make_room_for_close;

/// Packets that wait for the task; beyond, they are lost, as they would be in a full socket. More than the receive window holds.
const INBOX: usize = 512;
/// Packets sent in one turn, so that received ones get their turn too.
const SEND_TURN: usize = 20;
/// A timer that nothing waits for.
const FAR: Duration = Duration::from_secs(3600);

/// A connection.
pub(super) struct Conn {
    shared: Arc<Shared>,
    handle: ConnectionHandle,
    inbox: Mutex<VecDeque<ConnectionEvent>>,
    state: Mutex<State>,
    /// The task.
    driver: AtomicWaker,
    /// Handles and streams.
    holders: AtomicUsize,
    /// The handshake is over, the connection has ended, or data of this side was acknowledged or refused.
    progress: Notify,
    /// The peer opened a stream or allows another, or the connection has ended.
    streams: Notify,
}

/// What is behind the lock.
pub(super) struct State {
    pub(super) machine: quinn_proto::Connection,
    connected: bool,
    /// Set before the machine is drained.
    pub(super) error: Option<ConnectionError>,
    /// Who waits to read from or write to a stream: one each.
    waiting: Vec<(StreamId, Way, Waker)>,
    /// A packet that the socket did not take.
    unsent: Option<Box<(Transmit, Bytes)>>,
}

/// What somebody waits to do with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Read,
    Write,
}

impl State {
    /// Has `waker` called when the stream can go on.
    pub(super) fn wait(&mut self, stream: StreamId, way: Way, waker: &Waker) {
        match self.waiting.iter_mut().find(|(s, w, _)| (*s, *w) == (stream, way)) {
            Some((_, _, known)) => known.clone_from(waker),
            None => {
                self.waiting.reserve_exact(1);
                self.waiting.push((stream, way, waker.clone()));
            }
        }
    }

    /// Takes out who waits for the stream.
    pub(super) fn forget(&mut self, stream: StreamId, way: Way) -> Option<Waker> {
        let at = self.waiting.iter().position(|(s, w, _)| (*s, *w) == (stream, way))?;
        Some(self.waiting.swap_remove(at).2)
    }

    fn wake(&mut self, stream: StreamId, way: Way) {
        if let Some(waker) = self.forget(stream, way) {
            waker.wake();
        }
    }
}

impl Conn {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A packet for it.
    pub(super) fn deliver(&self, event: ConnectionEvent) {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.len() < INBOX {
            inbox.push_back(event);
        }
        drop(inbox);
        self.nudge();
    }

    /// There is something for the task to do.
    pub(super) fn nudge(&self) {
        self.driver.wake();
    }

    pub(super) fn close(&self, code: VarInt, reason: Bytes) {
        let mut state = self.state();
        if state.error.is_none() {
            make_room_for_close(state.machine.congestion_state().clone_box());
            state.machine.close(now(), code, reason);
            self.end(&mut state, ConnectionError::LocallyClosed);
            self.nudge();
        }
    }

    /// The connection has ended: everybody who waits is told.
    fn end(&self, state: &mut State, why: ConnectionError) {
        state.error.get_or_insert(why);
        for (_, _, waker) in std::mem::take(&mut state.waiting) {
            waker.wake();
        }
        self.progress.notify_waiters();
        self.streams.notify_waiters();
    }

    /// Resolves when `look` finds something; it is asked again whenever `news` comes.
    async fn until<T>(&self, news: &Notify, mut look: impl FnMut(&mut State) -> Option<T> + Send) -> T {
        loop {
            let came = news.notified();
            if let Some(found) = look(&mut self.state()) {
                return found;
            }
            came.await;
        }
    }

    /// What happened to the streams and the whole, for those who wait for it.
    fn pass_on(&self, state: &mut State) {
        while let Some(event) = state.machine.poll() {
            match event {
                Event::Connected => {
                    state.connected = true;
                    self.progress.notify_waiters();
                }
                Event::ConnectionLost { reason } => self.end(state, reason),
                Event::Stream(StreamEvent::Readable { id }) => state.wake(id, Way::Read),
                Event::Stream(StreamEvent::Writable { id }) => state.wake(id, Way::Write),
                Event::Stream(StreamEvent::Finished { .. }) => self.progress.notify_waiters(),
                Event::Stream(StreamEvent::Stopped { id, .. }) => {
                    state.wake(id, Way::Write);
                    self.progress.notify_waiters();
                }
                Event::Stream(StreamEvent::Opened { .. } | StreamEvent::Available { .. }) => {
                    self.streams.notify_waiters();
                }
                Event::HandshakeDataReady | Event::DatagramReceived | Event::DatagramsUnblocked => {}
            }
        }
    }
}

/// The task's own part.
struct Driver {
    conn: Arc<Conn>,
    /// What the timer is set to.
    due: Option<Instant>,
    /// Only while the socket is full.
    writable: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    drained: bool,
}

impl Driver {
    async fn run(mut self) {
        let mut timer = pin!(sleep_until((now() + FAR).into()));
        poll_fn(|cx| self.turn(cx, timer.as_mut())).await;
    }

    fn turn(&mut self, cx: &mut Context<'_>, timer: Pin<&mut Sleep>) -> Poll<()> {
        let conn = Arc::clone(&self.conn);
        // First, so that whatever comes from here on calls again.
        conn.driver.register(cx.waker());
        let arrived = std::mem::take(&mut *conn.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        let mut state = conn.state();
        for event in arrived {
            state.machine.handle_event(event);
        }
        let mut again = self.send(&mut state, cx);
        again |= self.timer(&mut state, cx, timer);
        while let Some(event) = state.machine.poll_endpoint_events() {
            if let Some(answer) = conn.shared.tell(conn.handle, event) {
                state.machine.handle_event(answer);
                again = true;
            }
        }
        conn.pass_on(&mut state);
        if state.machine.is_drained() {
            self.drained = true;
            return Poll::Ready(());
        }
        if again {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Sends what there is to send; whether there is more.
    fn send(&mut self, state: &mut State, cx: &mut Context<'_>) -> bool {
        let mut sent = 0;
        while sent < SEND_TURN {
            if let Some(writable) = &mut self.writable {
                if writable.as_mut().poll(cx).is_pending() {
                    return false;
                }
                self.writable = None;
            }
            let socket = self.conn.shared.socket();
            let blocked = if let Some(unsent) = state.unsent.take() {
                let blocked = socket.send(&unsent.0, &unsent.1).is_err();
                state.unsent = blocked.then_some(unsent);
                blocked
            } else {
                let blocked = with_packet(|packet| {
                    let transmit = state.machine.poll_transmit(now(), 1, packet)?;
                    let blocked = socket.send(&transmit, packet).is_err();
                    if blocked {
                        let packet = Bytes::copy_from_slice(&packet[..transmit.size]);
                        state.unsent = Some(Box::new((transmit, packet)));
                    }
                    Some(blocked)
                });
                match blocked {
                    None => return false,
                    Some(blocked) => blocked,
                }
            };
            if blocked {
                let shared = Arc::clone(&self.conn.shared);
                self.writable = Some(Box::pin(async move {
                    // An error of the socket shows when it is used.
                    drop(shared.socket().writable().await);
                }));
            } else {
                sent += 1;
            }
        }
        true
    }

    /// Keeps the timer; whether it went off.
    fn timer(&mut self, state: &mut State, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> bool {
        let Some(at) = state.machine.poll_timeout() else {
            self.due = None;
            return false;
        };
        let now = now();
        if at > now {
            if self.due.replace(at) != Some(at) {
                timer.as_mut().reset(at.into());
            }
            if timer.poll(cx).is_pending() {
                return false;
            }
        }
        self.due = None;
        state.machine.handle_timeout(now.max(at));
        true
    }
}

impl Drop for Driver {
    /// A task that was torn down with its runtime, or that failed, leaves nobody waiting and nothing in the routes.
    fn drop(&mut self) {
        if !self.drained {
            self.conn.end(&mut self.conn.state(), ConnectionError::LocallyClosed);
            self.conn.shared.tell(self.conn.handle, EndpointEvent::drained());
        }
    }
}

/// A gateway's connection. Clones share it.
pub(crate) struct HubConnection(Arc<Conn>);

impl HubConnection {
    pub(super) fn start(shared: Arc<Shared>, handle: ConnectionHandle, machine: quinn_proto::Connection) -> Self {
        let conn = Arc::new(Conn {
            shared,
            handle,
            inbox: Mutex::default(),
            state: Mutex::new(State {
                machine,
                connected: false,
                error: None,
                waiting: Vec::new(),
                unsent: None,
            }),
            driver: AtomicWaker::new(),
            holders: AtomicUsize::new(1),
            progress: Notify::new(),
            streams: Notify::new(),
        });
        let driver = Driver {
            conn: Arc::clone(&conn),
            due: None,
            writable: None,
            drained: false,
        };
        tokio::spawn(driver.run());
        Self(conn)
    }

    pub(super) fn conn(&self) -> Arc<Conn> {
        Arc::clone(&self.0)
    }

    /// For its streams.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state()
    }

    pub(super) fn nudge(&self) {
        self.0.nudge();
    }

    /// Resolves when the handshake is over.
    ///
    /// # Errors
    /// When the connection ended in it.
    pub(crate) async fn opened(&self) -> Result<(), ConnectionError> {
        let look = |state: &mut State| match &state.error {
            Some(e) => Some(Err(e.clone())),
            None => state.connected.then_some(Ok(())),
        };
        self.0.until(&self.0.progress, look).await
    }

    /// What was agreed in the handshake.
    pub(crate) fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.state().machine.crypto_session().handshake_data()
    }

    /// The peer's certificates; they are given out once.
    pub(crate) fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.state().machine.crypto_session().peer_identity()
    }

    async fn stream(
        &self,
        mut take: impl FnMut(&mut quinn_proto::Connection) -> Option<StreamId> + Send,
    ) -> Result<StreamId, ConnectionError> {
        let look = |state: &mut State| match &state.error {
            Some(e) => Some(Err(e.clone())),
            None => take(&mut state.machine).map(Ok),
        };
        let stream = self.0.until(&self.0.streams, look).await?;
        // The peer may be allowed another one now.
        self.nudge();
        Ok(stream)
    }

    /// Opens a stream both ways; waits while as many as the peer allows are open.
    ///
    /// # Errors
    /// When the connection has ended.
    pub(crate) async fn open_bi(&self) -> Result<(SendHalf, RecvHalf), ConnectionError> {
        let stream = self.stream(|machine| machine.streams().open(Dir::Bi)).await?;
        Ok((SendHalf::new(self.clone(), stream), RecvHalf::new(self.clone(), stream)))
    }

    /// Opens a stream one way.
    ///
    /// # Errors
    /// When the connection has ended.
    pub(crate) async fn open_uni(&self) -> Result<SendHalf, ConnectionError> {
        let stream = self.stream(|machine| machine.streams().open(Dir::Uni)).await?;
        Ok(SendHalf::new(self.clone(), stream))
    }

    /// The next stream that the peer opens.
    ///
    /// # Errors
    /// When the connection has ended.
    pub(crate) async fn accept_bi(&self) -> Result<(SendHalf, RecvHalf), ConnectionError> {
        let stream = self.stream(|machine| machine.streams().accept(Dir::Bi)).await?;
        Ok((SendHalf::new(self.clone(), stream), RecvHalf::new(self.clone(), stream)))
    }

    pub(crate) fn close(&self, code: VarInt, reason: Bytes) {
        self.0.close(code, reason);
    }

    /// Resolves when the connection has ended.
    pub(crate) async fn closed(&self) -> ConnectionError {
        self.0.until(&self.0.progress, |state| state.error.clone()).await
    }

    pub(crate) fn close_reason(&self) -> Option<ConnectionError> {
        self.state().error.clone()
    }

    /// Resolves when the peer has everything of this stream, or does not want it.
    ///
    /// # Errors
    /// When the connection ended first.
    pub(super) async fn stopped(&self, stream: StreamId) -> Result<(), ConnectionError> {
        let look = |state: &mut State| match state.machine.send_stream(stream).stopped() {
            Err(_) | Ok(Some(_)) => Some(Ok(())),
            Ok(None) => state.error.clone().map(Err),
        };
        self.0.until(&self.0.progress, look).await
    }

    pub(crate) fn remote_address(&self) -> SocketAddr {
        self.state().machine.remote_address()
    }

    pub(crate) fn stats(&self) -> ConnectionStats {
        self.state().machine.stats()
    }

    pub(crate) fn rtt(&self) -> Duration {
        self.state().machine.rtt()
    }
}

impl Clone for HubConnection {
    fn clone(&self) -> Self {
        self.0.holders.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for HubConnection {
    fn drop(&mut self) {
        if self.0.holders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.close(VarInt::from_u32(0), Bytes::new());
        }
    }
}
