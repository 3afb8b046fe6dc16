//! HTTP/1.1 on a stream of the link: the same requests, streaming answers and upgrades that a socket would carry, without a port.
//!
//! One stream carries one request: opening one costs no round trip, streams do not block each other, and dropping the answer ends it at
//! the other side. Who may ask what is decided by the service that is called, not here.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::connection::{Closed, Connection, StreamKind};

/// The head of a request: it comes with the stream's first packets.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Bytes hyper may buffer for one stream; also the longest head.
const BUFFER: usize = 64 * 1024;

/// Why a request through the tunnel has no answer.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The link is gone.
    #[error("the link is down: {0}")]
    Link(#[from] Closed),
    /// The other side does not speak HTTP as it should, or ended early.
    #[error("the other side did not answer properly: {0}")]
    Http(#[from] hyper::Error),
    /// No head of an answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
}

type BoxError = Box<dyn StdError + Send + Sync>;

/// The client's side on a stream. The exchange goes on in a task of its own and ends with the answer's body, or with the upgraded
/// connection.
///
/// # Errors
/// When the stream is gone.
pub async fn client<S, B>(stream: S) -> Result<SendRequest<B>, hyper::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let (sender, exchange) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(BUFFER)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(async move {
        if let Err(e) = exchange.with_upgrades().await {
            tracing::debug!(error = %e, "an exchange through the tunnel ended");
        }
    });
    Ok(sender)
}

/// Asks the peer, on a stream of its own. `head` is how long the head of the answer may take; its body has no deadline, because a
/// watch has none.
///
/// # Errors
/// See [`TunnelError`].
pub async fn request<B>(
    connection: &Connection,
    request: Request<B>,
    head: Duration,
) -> Result<Response<Incoming>, TunnelError>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let answer = async {
        let stream = connection.open(StreamKind::Http).await?;
        let mut sender = client(stream).await?;
        Ok(sender.send_request(request).await?)
    };
    timeout(head, answer).await.unwrap_or(Err(TunnelError::Timeout(head)))
}

/// The server's side: answers what comes on one stream by `service` until the stream ends or `cancel` resolves.
///
/// # Errors
/// When the peer does not speak HTTP.
pub async fn serve<S, T, B>(stream: S, service: T, cancel: CancellationToken) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    T: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send,
    T::Future: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError> + fmt::Debug,
{
    let exchange = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades();
    tokio::select! {
        biased;
        () = cancel.cancelled() => Ok(()),
        done = exchange => done,
    }
}
