//! The one task that drives a [`Session`] over a [`Stream`](crate::Stream): it alone touches both.
//!
//! Others reach the session through a [`SessionHandle`], by sending it a closure, and hear from it through [`Events`]. Both queues are
//! bounded. The task never waits for its application: when events are not taken, it stops reading from the peer (whose window then
//! fills) and goes on with everything else; when the peer does not read, it stops asking the session for frames and goes on.
//!
//! One turn is: wait until something can be done (only picking), do it, then take all frames the session has into one buffer and write
//! that at once: a small message is one packet. An idle driver holds no buffers.

mod queue;

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use daemon::clock;
use proto::{Codec, Event, Now, Session, SessionError};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use queue::{Receiver, Sender, queue};

/// Closures waiting for the session. A caller that finds it full waits.
const COMMANDS: usize = 64;
/// Bundles of events waiting for the application, and events in one bundle.
const BUNDLES: usize = 16;
const BUNDLE: usize = 64;
/// Closures taken in one turn, so that the stream gets its turn too.
const COMMANDS_AT_ONCE: usize = 64;
/// Frames are taken from the session while less than this waits to be written.
const HIGH_WATER: usize = 64 * 1024;
/// Read from the stream in one piece, and in one turn.
const READ_PIECE: usize = 8 * 1024;
const READ_TURN: usize = 64 * 1024;
/// A buffer larger than this is given back when it is empty.
const KEEP_BUFFER: usize = 4 * 1024;
/// Bytes that cannot be written for this long end the session: the peer is gone or does not read. The session itself notices a dead
/// peer by its own deadlines, this one is for a peer that answers and never reads.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// For the last words of a session.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

type Command = Box<dyn FnOnce(&mut Session, Now) + Send>;

/// The session is over; nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session has ended")]
pub struct SessionEnded;

/// Reaches a running session. Clones share it; when the last one is dropped, the session is closed in order.
#[derive(Clone, Debug)]
pub struct SessionHandle {
    commands: Sender<Command>,
}

impl SessionHandle {
    /// Runs `f` on the session, in the order of calls. Returns when it is queued.
    ///
    /// # Errors
    /// When the session has ended.
    pub async fn call(&self, f: impl FnOnce(&mut Session, Now) + Send + 'static) -> Result<(), SessionEnded> {
        let room = self.commands.reserve().await.map_err(|_| SessionEnded)?;
        room.send(Box::new(f));
        Ok(())
    }

    /// Runs `f` on the session and returns its answer.
    ///
    /// # Errors
    /// When the session has ended.
    pub async fn ask<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Session, Now) -> R + Send + 'static,
    ) -> Result<R, SessionEnded> {
        let (tx, rx) = oneshot::channel();
        // A caller that gave up does not hear the answer.
        self.call(move |session, now| drop(tx.send(f(session, now)))).await?;
        rx.await.map_err(|_| SessionEnded)
    }

    /// Resolves when the session has ended.
    pub async fn ended(&self) {
        self.commands.closed().await;
    }

    /// Whether the session has ended.
    pub fn is_ended(&self) -> bool {
        self.commands.is_closed()
    }
}

/// What the session tells, in order. Dropping it closes the session.
#[derive(Debug)]
pub struct Events {
    bundles: Receiver<Vec<Event>>,
    current: VecDeque<Event>,
}

impl Events {
    /// The next event; `None` when the session has ended and everything was told. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.current.pop_front() {
                return Some(event);
            }
            // While nothing comes, nothing is kept.
            self.current = VecDeque::new();
            self.current = self.bundles.recv().await?.into();
        }
    }
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// This side closed it: cancelled, or by [`Session::close`], [`Session::refuse`].
    Closed,
    /// The peer closed it.
    Peer {
        /// Why.
        reason: proto::CloseReason,
        /// For people.
        detail: String,
        /// When to come back.
        retry_after: Option<Duration>,
    },
    /// The peer broke a rule or was silent.
    Session(SessionError),
    /// The stream ended or broke.
    Lost(String),
    /// The peer does not read.
    WriteStalled,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed by this side"),
            Self::Peer { reason, detail, .. } if detail.is_empty() => write!(f, "closed by the peer: {reason:?}"),
            Self::Peer { reason, detail, .. } => write!(f, "closed by the peer: {reason:?}: {detail}"),
            Self::Session(e) => e.fmt(f),
            Self::Lost(what) => write!(f, "the stream is gone: {what}"),
            Self::WriteStalled => write!(f, "the peer has not read for {} s", WRITE_DEADLINE.as_secs()),
        }
    }
}

/// What is left when a session is over.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The session, for its sets.
    pub session: Session,
}

/// What a session can be driven over.
pub trait Carrier: AsyncRead + AsyncWrite + Send + Unpin {
    /// Ends this side's half and waits until the peer has what was written, so that what is below may be closed.
    fn finish(&mut self) -> impl Future<Output = io::Result<()>> + Send;

    /// Ready when the peer, by other means than this stream, asks to be spoken to.
    fn poll_knock(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Carrier for crate::Stream {
    async fn finish(&mut self) -> io::Result<()> {
        Self::finish(self).await
    }

    fn poll_knock(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Self::poll_knock(self, cx)
    }
}

/// For tests without sockets.
impl Carrier for tokio::io::DuplexStream {
    async fn finish(&mut self) -> io::Result<()> {
        self.shutdown().await
    }
}

/// A session on a stream, not yet running.
#[must_use = "a driver does nothing until it is run"]
pub struct Driver<S> {
    io: Io<S>,
    session: Session,
    commands: Receiver<Command>,
    events: Sender<Vec<Event>>,
    /// Events taken from the session that found no room.
    held: Vec<Event>,
    /// What the peer said when it closed.
    goodbye: Option<End>,
    write_deadline: Duration,
}

/// Puts a session on a stream. Spawn [`Driver::run`].
pub fn drive<S: Carrier>(session: Session, stream: S) -> (Driver<S>, SessionHandle, Events) {
    let (commands_in, commands) = queue(COMMANDS);
    let (events, bundles) = queue(BUNDLES);
    let io = Io {
        stream,
        out: BytesMut::new(),
        input: BytesMut::new(),
        flush: false,
        stuck_since: None,
    };
    let driver = Driver {
        io,
        session,
        commands,
        events,
        held: Vec::new(),
        goodbye: None,
        write_deadline: WRITE_DEADLINE,
    };
    (
        driver,
        SessionHandle { commands: commands_in },
        Events {
            bundles,
            current: VecDeque::new(),
        },
    )
}

/// What can be done next.
enum Action {
    Cancelled,
    Command(Option<Command>),
    Io(io::Result<Moved>),
    /// There is room for a bundle of events; `false`: nobody listens any more.
    Room(bool),
    Timer,
}

impl<S: Carrier> Driver<S> {
    /// With another deadline for a peer that does not read.
    pub fn write_deadline(mut self, deadline: Duration) -> Self {
        self.write_deadline = deadline;
        self
    }

    /// Drives the session until it ends. `cancel` closes it in order.
    ///
    /// Not an async function: one that changes what it was given holds it twice.
    pub fn run(self, cancel: CancellationToken) -> impl Future<Output = Outcome> + Send {
        let mut driver = self;
        async move {
            let end = driver.turns(&cancel).await;
            driver.last_words(&end).await;
            Outcome {
                end,
                session: driver.session,
            }
        }
    }

    async fn turns(&mut self, cancel: &CancellationToken) -> End {
        let mut timer = Box::pin(sleep_until(clock::now().into()));
        loop {
            if let Err(e) = self.pump() {
                return self.goodbye.take().unwrap_or(End::Session(e));
            }
            if self.session.is_ended() {
                return self.goodbye.take().unwrap_or(End::Closed);
            }
            let due = self.due().into();
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            match self.pick(cancel, timer.as_mut()).await {
                Action::Cancelled => self.session.close(proto::CloseReason::Shutdown),
                Action::Command(None) | Action::Room(false) => self.session.close(proto::CloseReason::Shutdown),
                Action::Command(Some(first)) => self.run_commands(first),
                Action::Room(true) => {}
                Action::Io(Err(e)) => return End::Lost(e.to_string()),
                Action::Io(Ok(Moved::Wrote)) => {}
                Action::Io(Ok(Moved::Knocked)) => self.session.nudge(clock::since_start()),
                Action::Io(Ok(Moved::Read)) => {
                    if let Err(e) = self.take_frames() {
                        return self.goodbye.take().unwrap_or(End::Session(e));
                    }
                }
                Action::Io(Ok(Moved::End)) => {
                    return self
                        .goodbye
                        .take()
                        .unwrap_or_else(|| End::Lost("ended by the peer".to_owned()));
                }
                Action::Timer => {
                    if self.io.stuck_for().is_some_and(|stuck| stuck >= self.write_deadline) {
                        return End::WriteStalled;
                    }
                    if let Err(e) = self.session.handle_timeout(clock::since_start()) {
                        return End::Session(e);
                    }
                }
            }
        }
    }

    /// Only picks: nothing is lost when an arm is dropped.
    async fn pick(&mut self, cancel: &CancellationToken, timer: Pin<&mut tokio::time::Sleep>) -> Action {
        let read = self.held.is_empty();
        let (io, commands, events) = (&mut self.io, &mut self.commands, &self.events);
        tokio::select! {
            biased;
            () = cancel.cancelled() => Action::Cancelled,
            // The rest in random order, so that neither a busy peer nor a busy application shuts the other out.
            action = async {
                tokio::select! {
                    command = commands.recv() => Action::Command(command),
                    moved = poll_fn(|cx| io.poll(cx, read)) => Action::Io(moved),
                    permit = events.reserve(), if !read => Action::Room(permit.is_ok()),
                    () = timer => Action::Timer,
                }
            } => action,
        }
    }

    fn run_commands(&mut self, first: Command) {
        let now = clock::since_start();
        first(&mut self.session, now);
        for _ in 1..COMMANDS_AT_ONCE {
            let Some(command) = self.commands.try_recv() else { break };
            command(&mut self.session, now);
        }
    }

    /// Gives received frames to the session while the application keeps up.
    fn take_frames(&mut self) -> Result<(), SessionError> {
        let now = clock::since_start();
        loop {
            // Before the peer is known, only small frames are taken.
            let codec = if self.session.is_live() {
                Codec::default()
            } else {
                Codec::handshake()
            };
            let Some(frame) = codec.decode(&mut self.io.input)? else {
                break;
            };
            let handled = self.session.handle_frame(now, frame);
            self.pass_events();
            handled?;
        }
        self.io.shrink();
        Ok(())
    }

    /// Everything the session has to say, and every event that finds room.
    fn pump(&mut self) -> Result<(), SessionError> {
        let codec = Codec::default();
        // A deadline may be due at once; more than a few rounds would be a fault, and the timer catches the rest.
        for _ in 0..4 {
            while self.io.out.len() < HIGH_WATER
                && let Some(frame) = self.session.poll_transmit()
            {
                codec.encode(&frame, &mut self.io.out)?;
            }
            let now = clock::since_start();
            if self.session.poll_timeout().is_none_or(|at| at > now) {
                break;
            }
            self.session.handle_timeout(now)?;
        }
        self.pass_events();
        Ok(())
    }

    fn pass_events(&mut self) {
        loop {
            while self.held.len() < BUNDLE
                && let Some(event) = self.session.poll_event()
            {
                if let Event::PeerClosed {
                    reason,
                    detail,
                    retry_after,
                } = &event
                {
                    self.goodbye = Some(End::Peer {
                        reason: *reason,
                        detail: detail.clone(),
                        retry_after: *retry_after,
                    });
                }
                self.held.push(event);
            }
            if self.held.is_empty() {
                return;
            }
            match self.events.try_reserve() {
                Some(room) => room.send(std::mem::take(&mut self.held)),
                // Full: held until there is room, and nothing is read meanwhile. Closed: noticed by `pick`.
                None => return,
            }
        }
    }

    /// When the timer is wanted.
    fn due(&self) -> Instant {
        let session = self.session.poll_timeout().map(clock::instant_at);
        let write = self.io.stuck_since.map(|since| since + self.write_deadline);
        // Nothing is due on a session that has ended; it does not wait then.
        session
            .into_iter()
            .chain(write)
            .min()
            .unwrap_or_else(|| clock::now() + Duration::from_secs(3600))
    }

    /// What is still to be said when the session is over: to the peer, why; to the application, what it has not heard.
    async fn last_words(&mut self, end: &End) {
        self.commands.close();
        while let Some(frame) = self.session.poll_transmit() {
            if let Err(e) = Codec::default().encode(&frame, &mut self.io.out) {
                tracing::debug!(error = %e, "a last frame does not fit");
            }
        }
        let io = &mut self.io;
        if !matches!(end, End::Lost(_) | End::WriteStalled) {
            let told = timeout(CLOSE_DEADLINE, async {
                io.stream.write_all(&io.out).await?;
                io.stream.flush().await?;
                io.stream.finish().await
            });
            if !matches!(told.await, Ok(Ok(()))) {
                tracing::debug!("the peer could not be told why");
            }
        }
        let deadline = clock::now() + CLOSE_DEADLINE;
        loop {
            self.pass_events();
            if self.held.is_empty() {
                return;
            }
            let room = tokio::time::timeout_at(deadline.into(), self.events.reserve());
            if !matches!(room.await, Ok(Ok(_))) {
                return;
            }
        }
    }
}

impl<S> fmt::Debug for Driver<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

/// The stream with what waits to be written and what was read and is no whole frame yet.
struct Io<S> {
    stream: S,
    out: BytesMut,
    input: BytesMut,
    flush: bool,
    /// Since when bytes wait without one of them moving.
    stuck_since: Option<Instant>,
}

/// What happened on the stream.
#[derive(Debug)]
enum Moved {
    Wrote,
    Knocked,
    Read,
    End,
}

impl<S: Carrier> Io<S> {
    /// Writes what there is, then reads if wanted, then listens at the door.
    fn poll(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<io::Result<Moved>> {
        let mut wrote = false;
        while !self.out.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.out) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.out.advance(n);
                    self.stuck_since = None;
                    self.flush = true;
                    wrote = true;
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => {
                    self.stuck_since.get_or_insert_with(clock::now);
                    break;
                }
            }
        }
        if self.flush
            && let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            self.flush = false;
            flushed?;
        }
        if wrote {
            self.shrink();
            return Poll::Ready(Ok(Moved::Wrote));
        }
        if read && let Poll::Ready(moved) = self.poll_read(cx) {
            return Poll::Ready(moved);
        }
        self.stream.poll_knock(cx).map(|()| Ok(Moved::Knocked))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Moved>> {
        let mut total = 0;
        while total < READ_TURN {
            let mut piece = [MaybeUninit::<u8>::uninit(); READ_PIECE];
            let mut buf = ReadBuf::uninit(&mut piece);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if buf.filled().is_empty() => {
                    // What came before the end is looked at first.
                    return Poll::Ready(Ok(if total > 0 { Moved::Read } else { Moved::End }));
                }
                Poll::Ready(Ok(())) => {
                    total += buf.filled().len();
                    self.input.extend_from_slice(buf.filled());
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => break,
            }
        }
        if total > 0 {
            Poll::Ready(Ok(Moved::Read))
        } else {
            Poll::Pending
        }
    }

    fn stuck_for(&self) -> Option<Duration> {
        self.stuck_since
            .map(|since| clock::now().saturating_duration_since(since))
    }

    fn shrink(&mut self) {
        for buffer in [&mut self.out, &mut self.input] {
            if buffer.is_empty() {
                *buffer = BytesMut::new();
            } else if buffer.capacity() > KEEP_BUFFER && buffer.len() < buffer.capacity() / 4 {
                *buffer = BytesMut::from(&buffer[..]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The future of a driver is held by the hub for each gateway: it is little more than the session and the stream in it.
    #[tokio::test]
    async fn a_driver_holds_its_session_once() {
        let session = Session::hub(proto::HubConfig::new("hub", 1), "gw-1", Now::from_secs(1));
        let (near, _far) = tokio::io::duplex(64);
        let (driver, _handle, _events) = drive(session, near);
        let itself = size_of_val(&driver);
        let running = size_of_val(&driver.run(CancellationToken::new()));
        assert!(itself <= size_of::<Session>() + 256, "{itself}");
        assert!(running <= itself + 640, "{running} bytes for a driver of {itself}");
    }
}
