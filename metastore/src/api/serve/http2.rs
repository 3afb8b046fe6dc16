//! HTTP/2: many requests, watches above all, share one connection.
//!
//! Owns the bounds of such a connection: streams, windows, heads, and how long it may be silent. A connection on which no request comes, or
//! none is under way for a while, is closed as an idle one of HTTP/1.1 is.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use daemon::drain::Drain;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service;

use super::{Client, FINISH, HEADER_DEADLINE};

/// Requests under way on one connection; clients open another when they need more.
const MAX_STREAMS: u32 = 250;
/// Bytes of a request's body that may wait here until somebody reads them, for a stream and for the whole connection.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Bytes of an answer that may wait for a slow reader, for each stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of a request's head, counted as HTTP/2 does: 32 for each header beside its text.
const MAX_HEAD: u32 = 64 * 1024;
/// Streams that a client reset before they were answered; more at a time end the connection.
const MAX_RESETS: usize = 64;
/// A client that does not answer a ping for this long is gone; how often it is asked.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_DEADLINE: Duration = Duration::from_secs(15);

/// Counts the requests under way on one connection, each until its answer's body ends or is dropped.
#[derive(Debug, Default)]
struct Busy {
    now: AtomicUsize,
    ever: AtomicUsize,
}

/// One request's place in the count.
#[derive(Debug)]
struct Place(Arc<Busy>);

impl Place {
    fn take(busy: &Arc<Busy>) -> Self {
        busy.now.fetch_add(1, Ordering::Relaxed);
        busy.ever.fetch_add(1, Ordering::Relaxed);
        Self(busy.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body that holds its request's place.
struct Counted<B> {
    body: Pin<Box<B>>,
    _place: Place,
}

impl<B: Body> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.body.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The tasks of a connection's requests are the drain's.
#[derive(Clone)]
struct Tasks(Drain);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        drop(self.0.spawn(async move {
            task.await;
        }));
    }
}

/// Serves one connection until its peer closes it, it is idle, or the drain begins.
pub(super) async fn serve_connection<I, S, B>(io: I, client: Client, service: S, drain: Drain)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let busy = Arc::new(Busy::default());
    let handler = {
        let busy = busy.clone();
        service_fn(move |request| {
            let place = Place::take(&busy);
            let answer = super::call(service.clone(), client.clone(), request);
            async move {
                let answer = answer.await?;
                Ok::<_, Infallible>(answer.map(|body| Counted {
                    body: Box::pin(body),
                    _place: place,
                }))
            }
        })
    };
    let connection = hyper::server::conn::http2::Builder::new(Tasks(drain.clone()))
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEAD)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_DEADLINE)
        .serve_connection(TokioIo::new(io), handler);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        why = over(&busy, &drain) => {
            tracing::trace!(why, "A connection is closed.");
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(FINISH, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "A connection ended with an error.");
    }
}

/// Returns when the connection should be closed from this side.
async fn over(busy: &Busy, drain: &Drain) -> &'static str {
    let mut seen = 0;
    loop {
        tokio::select! {
            biased;
            () = drain.stopping() => return "stopping",
            () = tokio::time::sleep(HEADER_DEADLINE) => {}
        }
        let ever = busy.ever.load(Ordering::Relaxed);
        if busy.now.load(Ordering::Relaxed) == 0 && ever == seen {
            return "idle";
        }
        seen = ever;
    }
}
