//! The connection: HTTP/2 on a unix socket, one for all calls, made anew when it broke.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixStream;
use tonic::body::Body;

use crate::error::CriError;

/// A runtime that is there accepts at once.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Cheap to clone: all clones share the connection.
#[derive(Clone, Debug)]
pub(crate) struct Channel(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    live: Mutex<Option<SendRequest<Body>>>,
    /// One connects, the others wait for it.
    connecting: tokio::sync::Mutex<()>,
    /// How many connections have ended.
    ends: tokio::sync::watch::Sender<u64>,
}

type BoxError = Box<dyn Error + Send + Sync>;

impl Channel {
    pub(crate) fn new(socket: &Path) -> Self {
        Self(Arc::new(Shared {
            socket: socket.to_owned(),
            live: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
            ends: tokio::sync::watch::Sender::new(0),
        }))
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.0.socket
    }

    fn live(&self) -> Option<SendRequest<Body>> {
        let mut live = self.0.live.lock().unwrap_or_else(PoisonError::into_inner);
        if live.as_ref().is_some_and(SendRequest::is_closed) {
            *live = None;
        }
        live.clone()
    }

    /// Changes when a connection ends.
    pub(crate) fn ends(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.ends.subscribe()
    }

    /// Makes sure that there is a connection, so that a runtime that is not there is told from one that refuses.
    pub(crate) async fn reach(&self) -> Result<(), CriError> {
        self.sender().await.map(drop).map_err(|source| CriError::Unreachable {
            endpoint: self.socket().display().to_string(),
            source: Arc::new(source),
        })
    }

    /// The connection, made if there is none.
    pub(crate) async fn sender(&self) -> std::io::Result<SendRequest<Body>> {
        if let Some(sender) = self.live() {
            return Ok(sender);
        }
        let _one = self.0.connecting.lock().await;
        if let Some(sender) = self.live() {
            return Ok(sender);
        }
        let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
        let connected = async {
            let stream = UnixStream::connect(&self.0.socket).await?;
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .handshake(TokioIo::new(stream))
                .await
                .map_err(std::io::Error::other)
        };
        let (sender, connection) = tokio::time::timeout(CONNECT_DEADLINE, connected)
            .await
            .map_err(late)??;
        // Ends when the last sender is gone or the runtime hangs up.
        let ends = self.0.ends.clone();
        drop(tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "The connection to the container runtime ended.");
            }
            ends.send_modify(|n| *n += 1);
        }));
        *self.0.live.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());
        Ok(sender)
    }
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let channel = self.clone();
        Box::pin(async move {
            let mut sender = channel.sender().await?;
            sender.ready().await?;
            Ok(sender.send_request(request).await?)
        })
    }
}
