//! The task of an established connection: one future that polls everything the connection lives on.
//!
//! ```text
//!   socket -> input -> decode -> batch of PUBLISHes -> core, LocalHandler -> pipeline of futures, in order
//!                                                                              | resolved
//!   socket <- output <- acknowledgements  <------------------------------------+
//!                    <- deliveries the core has for this session
//! ```
//!
//! Reading goes on while commits are awaited, until `Limits::unacked_*` is reached, so that the store can put many
//! batches into one commit. Acknowledgements leave in the order of what they acknowledge; all that are ready leave in one
//! write. Nothing here awaits one thing at a time: a client that does not read does not keep the broker from reading,
//! up to the bound of `output`.

mod inbound;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use futures_util::{Stream, future::BoxFuture, stream::FuturesOrdered};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{Instant, Sleep, timeout},
};
use tokio_util::io::poll_read_buf;

use super::{
    Presence,
    handshake::{Established, TOPIC_ALIASES},
};
use crate::{
    codec::Codec,
    core::Departure,
    hub::Hub,
    link::{Kick, Link},
    packet::{AckKind, Delivery, Reason, SubscribeCode},
};

/// Smallest and largest read; a connection that fills its reads gets larger ones.
const READ_MIN: usize = 2 * 1024;
const READ_MAX: usize = 64 * 1024;
/// With this much unsent, reading pauses and the session's messages stay in its queue.
const OUTPUT_HIGH: usize = 256 * 1024;
/// An empty buffer larger than this is given back.
const OUTPUT_KEPT: usize = 16 * 1024;
/// Deliveries taken from the core at a time.
const DELIVERY_BUDGET: usize = 64 * 1024;
/// For the last words to a client.
const FAREWELL: Duration = Duration::from_secs(1);
/// At a shutdown, for what was received to become durable and acknowledged.
const DRAIN: Duration = Duration::from_secs(3);

/// What is sent once the commit behind it is durable.
#[derive(Debug)]
enum Reply {
    Ack(AckKind, u16, Reason),
    SubAck(u16, Vec<SubscribeCode>),
    UnsubAck(u16, Vec<Reason>),
}

/// One step of the pipeline, resolved.
#[derive(Debug, Default)]
struct Step {
    replies: Vec<Reply>,
    /// Nothing after `replies` can be acknowledged now.
    failed: bool,
    /// PUBLISHes and bytes that count as acknowledged with it.
    messages: usize,
    bytes: usize,
    /// Filters to tell the hook of, after the SUBACK.
    subscribed: Vec<Arc<str>>,
}

/// Why the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// DISCONNECT from the client.
    Disconnect {
        with_will: bool,
        session_expiry: Option<u32>,
    },
    /// The socket was closed or broke.
    Closed,
    Kicked(Kick),
    /// The client broke the protocol.
    Breach(Reason),
    /// A deadline of the client's passed.
    Timeout(Reason),
    /// Something could not be stored.
    Unavailable,
}

struct Driver<S> {
    hub: Arc<Hub>,
    stream: S,
    presence: Presence,
    codec: Codec,
    link: Arc<Link>,
    input: BytesMut,
    read_size: usize,
    output: BytesMut,
    pipeline: FuturesOrdered<BoxFuture<'static, Step>>,
    unacked_messages: usize,
    unacked_bytes: usize,
    aliases: Vec<Option<Arc<str>>>,
    /// The core had more than fit.
    more: bool,
    deliveries: Vec<Delivery>,
    keep_alive: Option<Duration>,
    last_packet: Instant,
    partial_since: Option<Instant>,
    write_blocked_since: Option<Instant>,
    reading: bool,
    timer: Pin<Box<Sleep>>,
}

pub(super) async fn run<S>(hub: Arc<Hub>, stream: S, established: Established)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Established {
        presence,
        codec,
        link,
        keep_alive,
        input,
    } = established;
    let now = Instant::now();
    let mut driver = Driver {
        hub,
        stream,
        presence,
        codec,
        link,
        input,
        read_size: READ_MIN,
        output: BytesMut::new(),
        pipeline: FuturesOrdered::new(),
        unacked_messages: 0,
        unacked_bytes: 0,
        aliases: vec![],
        more: true,
        deliveries: vec![],
        keep_alive,
        last_packet: now,
        partial_since: None,
        write_blocked_since: None,
        reading: true,
        timer: Box::pin(tokio::time::sleep_until(now + Duration::from_secs(3600))),
    };
    let end = match driver.on_input() {
        // Packets that came along with CONNECT.
        Err(end) => end,
        Ok(()) => std::future::poll_fn(|cx| driver.poll(cx)).await,
    };
    driver.finish(end).await;
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    /// Runs until the connection ends.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.link.register(cx);
        loop {
            let mut progress = false;
            if let Some(kick) = self.link.kicked() {
                return Poll::Ready(End::Kicked(kick));
            }
            while self.output.len() < OUTPUT_HIGH {
                let Poll::Ready(Some(step)) = Pin::new(&mut self.pipeline).poll_next(cx) else {
                    break;
                };
                progress = true;
                if let Err(end) = self.on_step(step) {
                    return Poll::Ready(end);
                }
            }
            if self.output.len() < OUTPUT_HIGH && (self.link.take_work() || self.more) {
                progress = true;
                if let Err(end) = self.take_deliveries() {
                    return Poll::Ready(end);
                }
            }
            match self.poll_write(cx) {
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Ready(Ok(wrote)) => progress |= wrote,
                Poll::Pending => {}
            }
            match self.poll_read(cx) {
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Ready(Ok(())) => progress = true,
                Poll::Pending => {}
            }
            if !progress {
                return self.poll_deadlines(cx);
            }
        }
    }

    /// Writes what there is to write. `Ok(true)` if anything was written.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, End>> {
        let mut wrote = false;
        while !self.output.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.output) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(End::Closed)),
                Poll::Ready(Ok(n)) => {
                    self.output.advance(n);
                    self.write_blocked_since = None;
                    wrote = true;
                }
                Poll::Pending => {
                    if self.write_blocked_since.is_none() {
                        self.write_blocked_since = Some(Instant::now());
                    }
                    return if wrote { Poll::Ready(Ok(true)) } else { Poll::Pending };
                }
            }
        }
        if self.output.capacity() > OUTPUT_KEPT {
            // A burst went out; an idle connection need not hold its memory.
            self.output = BytesMut::new();
        }
        Poll::Ready(Ok(wrote))
    }

    /// Reads one chunk and handles all packets in it.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let limits = &self.hub.config.limits;
        let open = self.unacked_messages < limits.unacked_messages
            && self.unacked_bytes < limits.unacked_bytes
            && self.output.len() < OUTPUT_HIGH;
        if !open {
            // What opens it again, a commit or a write, wakes this task.
            self.reading = false;
            return Poll::Pending;
        }
        if !self.reading {
            self.reading = true;
            // The client could not make itself heard: its silence does not count.
            self.last_packet = Instant::now();
            self.partial_since = self.partial_since.map(|_| self.last_packet);
        }
        self.input.reserve(self.read_size);
        let room = self.input.capacity() - self.input.len();
        match ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input)) {
            Ok(0) | Err(_) => Poll::Ready(Err(End::Closed)),
            Ok(n) => {
                self.read_size = match n {
                    _ if n >= room => (self.read_size * 2).min(READ_MAX),
                    _ if n < self.read_size / 4 => (self.read_size / 2).max(READ_MIN),
                    _ => self.read_size,
                };
                let handled = self.on_input();
                if self.input.is_empty() && self.input.capacity() > 4 * self.read_size {
                    self.input = BytesMut::new();
                }
                Poll::Ready(handled)
            }
        }
    }

    fn poll_deadlines(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let limits = &self.hub.config.limits;
        let keep_alive = self
            .keep_alive
            .filter(|_| self.reading)
            .map(|limit| self.last_packet + limit);
        let partial = self
            .partial_since
            .filter(|_| self.reading)
            .map(|since| since + limits.packet_deadline);
        let write = self.write_blocked_since.map(|since| since + limits.write_deadline);
        let Some(next) = [keep_alive, partial, write].into_iter().flatten().min() else {
            return Poll::Pending;
        };
        // Moved only when it has to fire earlier, or has fired: most packets just push the deadline out.
        if next < self.timer.deadline() || self.timer.is_elapsed() {
            self.timer.as_mut().reset(next);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if next <= Instant::now() {
                return Poll::Ready(End::Timeout(Reason::KeepAliveTimeout));
            }
            self.timer.as_mut().reset(next);
        }
    }

    /// Encodes what a resolved step has to say.
    fn on_step(&mut self, step: Step) -> Result<(), End> {
        self.unacked_messages -= step.messages;
        self.unacked_bytes -= step.bytes;
        self.write_replies(&step.replies);
        if step.failed {
            return Err(End::Unavailable);
        }
        if !step.subscribed.is_empty() {
            self.hub.local.on_subscribe(&self.presence.client, &step.subscribed);
        }
        Ok(())
    }

    fn write_replies(&mut self, replies: &[Reply]) {
        for reply in replies {
            match reply {
                Reply::Ack(kind, pid, reason) => self.codec.ack(*kind, *pid, *reason, &mut self.output),
                Reply::SubAck(pid, codes) => self.codec.suback(*pid, codes, &mut self.output),
                Reply::UnsubAck(pid, reasons) => self.codec.unsuback(*pid, reasons, &mut self.output),
            }
        }
    }

    /// Takes messages for this client from the core and encodes them.
    fn take_deliveries(&mut self) -> Result<(), End> {
        let (handle, deliveries) = (self.presence.handle, &mut self.deliveries);
        let (more, _settled) = self
            .hub
            .step(|core, now, fx| core.take(now, handle, DELIVERY_BUDGET, deliveries, fx));
        // Gone: the one that took over has kicked this one, or is about to.
        self.more = more.map_err(|_| End::Kicked(Kick::TakenOver))?;
        let publishes = self
            .deliveries
            .iter()
            .filter(|d| matches!(d, Delivery::Publish { .. }))
            .count();
        self.hub.counters.sent.add(publishes as u64);
        for delivery in self.deliveries.drain(..) {
            if !self.codec.delivery(&delivery, &mut self.output)
                && let Delivery::Publish { pid, qos, .. } = delivery
            {
                let _settled = self.hub.step(|core, _, fx| core.too_large(handle, pid, qos, fx));
            }
        }
        Ok(())
    }

    /// The end: last words, counters, and how the core is to take it.
    async fn finish(mut self, end: End) {
        let counters = &self.hub.counters;
        let client = &self.presence.client;
        let reason = match end {
            End::Disconnect {
                with_will,
                session_expiry,
            } => {
                self.presence.how = Departure::Clean {
                    with_will,
                    expiry_s: session_expiry,
                };
                None
            }
            End::Closed => None,
            End::Kicked(Kick::TakenOver) => Some(Reason::TakenOver),
            End::Kicked(Kick::Expelled) => Some(Reason::Administrative),
            End::Kicked(Kick::Shutdown) => {
                self.presence.how = Departure::Shutdown;
                self.drain().await;
                Some(Reason::ShuttingDown)
            }
            End::Breach(reason) => {
                counters.protocol_errors.one();
                tracing::debug!(client = %client.client_id, peer = %client.peer, ?reason, "MQTT client ended: protocol");
                Some(reason)
            }
            End::Timeout(reason) => {
                counters.timeouts.one();
                tracing::debug!(client = %client.client_id, peer = %client.peer, "MQTT client ended: silent");
                Some(reason)
            }
            End::Unavailable => {
                counters.unavailable.one();
                // First what could be acknowledged, then a pause, so that a client that comes back at once does not spin.
                self.farewell(None).await;
                let pause = self.hub.config.limits.unavailable_pause;
                let kicked = std::future::poll_fn(|cx| {
                    self.link.register(cx);
                    if self.link.kicked().is_some() {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                });
                if timeout(pause, kicked).await.is_ok() {
                    tracing::trace!("the pause was cut short");
                }
                Some(Reason::QuotaExceeded)
            }
        };
        self.farewell(reason).await;
    }

    /// Waits until what was received is durable, and answers it.
    async fn drain(&mut self) {
        let drained = timeout(
            DRAIN,
            std::future::poll_fn(|cx| {
                loop {
                    let Some(step) = ready!(Pin::new(&mut self.pipeline).poll_next(cx)) else {
                        return Poll::Ready(());
                    };
                    if self.on_step(step).is_err() {
                        return Poll::Ready(());
                    }
                }
            }),
        );
        if drained.await.is_err() {
            tracing::debug!("a connection was closed before all it sent was durable");
        }
    }

    /// Sends what is still to be sent, and DISCONNECT if there is a reason to give.
    async fn farewell(&mut self, reason: Option<Reason>) {
        if let Some(reason) = reason {
            self.codec.disconnect(reason, &mut self.output);
        }
        if self.output.is_empty() {
            return;
        }
        let last_words = timeout(FAREWELL, self.stream.write_all(&self.output));
        if !matches!(last_words.await, Ok(Ok(()))) {
            tracing::trace!("the client did not take its last words");
        }
        self.output.clear();
    }
}
