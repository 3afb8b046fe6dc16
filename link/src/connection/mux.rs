//! Many streams on one TLS connection: the task that owns the yamux connection, and the handle others have of it.
//!
//! The task must be polling all the time for any stream to move, so it never waits for anybody: a stream that the peer opens while
//! sixteen wait to be accepted is reset, not queued. Who wants to open more than sixteen waits at the handle.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::BufWriter;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio_rustls::TlsStream;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt as _};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use yamux::{Config, ConnectionError, Mode};

use super::{Closed, Counted, Counters};

/// The connection below the streams. yamux writes a header and a body separately; the buffer makes one TLS record of both.
pub(crate) type Io = BufWriter<TlsStream<Counted<TcpStream>>>;

/// Capacity of that buffer: a session message fits, and an idle connection does not carry more than it needs.
pub(crate) const WRITE_BUFFER: usize = 2048;

/// Streams that each side may have open.
const MAX_STREAMS: usize = 16;
/// yamux counts streams of both directions together, and one that was let go a little longer than who opened it.
const STREAMS: usize = 2 * MAX_STREAMS + 8;
/// A stream's first window, fixed by yamux.
const STREAM_WINDOW: usize = 256 * 1024;
/// Streams waiting to be accepted, and requests to open one waiting for the task.
const WAITING: usize = MAX_STREAMS;
/// How long an orderly close may take when the peer does not read.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

type Opened = oneshot::Sender<Result<yamux::Stream, Closed>>;

/// A handle on the task. The task ends, and with it the connection, when the last one is dropped.
pub(crate) struct Mux {
    open: mpsc::Sender<Opened>,
    places: Arc<Semaphore>,
    accepted: Mutex<mpsc::Receiver<yamux::Stream>>,
    closed: watch::Receiver<Option<Closed>>,
    close: CancellationToken,
    gone: CancellationToken,
    counters: Arc<Counters>,
}

impl Mux {
    /// Starts the task on a connection whose handshake is done.
    pub(crate) fn start(io: Io, server: bool, counters: Arc<Counters>) -> Arc<Self> {
        let mut config = Config::default();
        config.set_max_num_streams(STREAMS);
        config.set_max_connection_receive_window(Some(STREAMS * STREAM_WINDOW));
        let mode = if server { Mode::Server } else { Mode::Client };
        let connection = yamux::Connection::new(io.compat(), config, mode);
        let (open, requests) = mpsc::channel(WAITING);
        let (accepted_in, accepted) = mpsc::channel(WAITING);
        let (closed_in, closed) = watch::channel(None);
        let close = CancellationToken::new();
        let task = Task {
            connection,
            requests,
            accepted: accepted_in,
            close: close.clone(),
        };
        let gone = CancellationToken::new();
        let ended = gone.clone().drop_guard();
        tokio::spawn(async move {
            let reason = task.run().await;
            closed_in.send_replace(Some(reason));
            drop(ended);
        });
        Arc::new(Self {
            open,
            places: Arc::new(Semaphore::new(MAX_STREAMS)),
            accepted: Mutex::new(accepted),
            closed,
            close,
            gone,
            counters,
        })
    }

    /// A new stream, and its place among the streams of this side.
    pub(crate) async fn open(&self) -> Result<(Compat<yamux::Stream>, OwnedSemaphorePermit), Closed> {
        let place = tokio::select! {
            biased;
            place = Arc::clone(&self.places).acquire_owned() => place,
            closed = self.closed() => return Err(closed),
        };
        let Ok(place) = place else { return Err(Closed::Local) };
        let (tx, rx) = oneshot::channel();
        if self.open.send(tx).await.is_err() {
            return Err(self.closed().await);
        }
        match rx.await {
            Ok(opened) => opened.map(|stream| (stream.compat(), place)),
            Err(_) => Err(self.closed().await),
        }
    }

    pub(crate) async fn accept(&self) -> Result<Compat<yamux::Stream>, Closed> {
        match self.accepted.lock().await.recv().await {
            Some(stream) => Ok(stream.compat()),
            None => Err(self.closed().await),
        }
    }

    pub(crate) fn close(&self) {
        self.close.cancel();
    }

    pub(crate) fn close_reason(&self) -> Option<Closed> {
        self.closed.borrow().clone()
    }

    pub(crate) async fn closed(&self) -> Closed {
        let mut closed = self.closed.clone();
        match closed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or(Closed::Local),
            // The task was torn down with its runtime.
            Err(_) => Closed::Local,
        }
    }

    /// Resolves when the task has ended and nothing will move any more.
    pub(crate) fn gone(&self) -> WaitForCancellationFutureOwned {
        self.gone.clone().cancelled_owned()
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl Drop for Mux {
    fn drop(&mut self) {
        self.close.cancel();
    }
}

struct Task {
    connection: yamux::Connection<Compat<Io>>,
    requests: mpsc::Receiver<Opened>,
    accepted: mpsc::Sender<yamux::Stream>,
    close: CancellationToken,
}

/// What happened next.
enum Event {
    Close,
    Open(Opened, Result<yamux::Stream, ConnectionError>),
    Inbound(yamux::Stream),
    Ended(Option<ConnectionError>),
}

impl Task {
    async fn run(mut self) -> Closed {
        let close = self.close.clone();
        let mut close = pin!(close.cancelled());
        let mut opening: Option<Opened> = None;
        loop {
            let event = poll_fn(|cx| {
                if close.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Close);
                }
                if opening.is_none()
                    && let Poll::Ready(Some(request)) = self.requests.poll_recv(cx)
                {
                    opening = Some(request);
                }
                if opening.is_some()
                    && let Poll::Ready(opened) = self.connection.poll_new_outbound(cx)
                {
                    let request = opening.take().expect("looked at above");
                    return Poll::Ready(Event::Open(request, opened));
                }
                match self.connection.poll_next_inbound(cx) {
                    Poll::Ready(Some(Ok(stream))) => Poll::Ready(Event::Inbound(stream)),
                    Poll::Ready(Some(Err(e))) => Poll::Ready(Event::Ended(Some(e))),
                    Poll::Ready(None) => Poll::Ready(Event::Ended(None)),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await;
            match event {
                Event::Close => {
                    let closing = poll_fn(|cx| self.connection.poll_close(cx));
                    if !matches!(tokio::time::timeout(CLOSE_DEADLINE, closing).await, Ok(Ok(()))) {
                        tracing::debug!("the link's TCP connection did not close in order");
                    }
                    return Closed::Local;
                }
                Event::Open(request, opened) => {
                    // The caller may have given up; the stream is then dropped and reset.
                    drop(request.send(opened.map_err(lost)));
                }
                Event::Inbound(stream) => drop(self.accepted.try_send(stream)),
                Event::Ended(Some(e)) => return lost(e),
                Event::Ended(None) => return Closed::Lost("closed by the peer".to_owned()),
            }
        }
    }
}

fn lost(e: ConnectionError) -> Closed {
    use std::io::ErrorKind;
    match e {
        ConnectionError::Io(e) => match e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::AlertReceived(alert)) => Closed::Tls(u8::from(*alert)),
            _ if e.kind() == ErrorKind::TimedOut => Closed::TimedOut,
            _ => Closed::Lost(e.to_string()),
        },
        other => Closed::Lost(other.to_string()),
    }
}
