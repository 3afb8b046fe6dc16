//! Listening: HTTP/1.1, and with the feature `http2` what a client prefers of the two, over TLS with client certificates; or HTTP/1.1 on a
//! stream that somebody else has authenticated.
//!
//! Every connection has a place (of a bounded number), a deadline for its handshake and for each request's head; a connection that fails ends
//! alone.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use daemon::drain::Drain;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tower::Service;

use super::auth::User;

#[cfg(feature = "http2")]
mod http2;

/// Connections served at a time; further ones wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
/// A TLS handshake is a few round trips.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// A request's head must be complete by then; also how long an idle connection is kept for its next request.
const HEADER_DEADLINE: Duration = Duration::from_secs(60);
/// Bytes of one connection's read buffer, and so of a request's head.
const MAX_HEAD: usize = 256 * 1024;
/// Headers in a request's head.
const MAX_HEADERS: usize = 128;
/// Answers under way may finish for this long when the drain begins.
const FINISH: Duration = Duration::from_secs(5);
/// After an accept error (out of descriptors) the listener rests, instead of spinning.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Who is at the other end of a request's connection: in its extensions, where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// What is known of the client of a connection.
#[derive(Clone)]
struct Client {
    user: User,
    peer: Option<Peer>,
}

/// Says who a client certificate is; the chain has been verified against the listener's CA before this is asked.
pub type Identify = Arc<dyn Fn(&CertificateDer<'_>) -> Option<User> + Send + Sync>;

/// The protocols that this listener speaks, the preferred one first, for a TLS configuration that names none.
const ALPN: &[&[u8]] = &[
    #[cfg(feature = "http2")]
    b"h2",
    b"http/1.1",
];

/// Serves until the drain begins. `tls` decides whether client certificates are demanded; a connection without one is anonymous.
pub async fn serve<S, B>(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    identify: Identify,
    service: S,
    drain: Drain,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let acceptor = TlsAcceptor::from(with_alpn(tls));
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = tokio::select! {
            biased;
            () = drain.stopping() => return,
            place = places.clone().acquire_owned() => match place {
                Ok(place) => place,
                Err(_) => return,
            },
        };
        let (stream, peer) = tokio::select! {
            biased;
            () = drain.stopping() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "A connection could not be accepted.");
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                }
            },
        };
        let (acceptor, identify, service, one) = (acceptor.clone(), identify.clone(), service.clone(), drain.clone());
        drop(drain.spawn(async move {
            let _place = place;
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "A connection could not be set up.");
            }
            let shaken = tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream));
            let stream = tokio::select! {
                biased;
                () = one.stopping() => return,
                shaken = shaken => match shaken {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => return tracing::debug!(%error, "A TLS handshake failed."),
                    Err(_) => return tracing::debug!("A TLS handshake took too long."),
                },
            };
            let user = stream
                .get_ref()
                .1
                .peer_certificates()
                .and_then(<[_]>::first)
                .and_then(|c| identify(c))
                .unwrap_or_else(User::anonymous);
            let client = Client {
                user,
                peer: Some(Peer(peer)),
            };
            #[cfg(feature = "http2")]
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                return http2::serve_connection(stream, client, service, one).await;
            }
            serve_client(stream, client, service, one).await;
        }));
    }
}

/// Serves HTTP/1.1 on one stream whose peer is known: a tunnel. Ends with the stream or the drain.
pub async fn serve_stream<I, S, B>(io: I, user: User, service: S, drain: Drain)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    serve_client(io, Client { user, peer: None }, service, drain).await;
}

async fn serve_client<I, S, B>(io: I, client: Client, service: S, drain: Drain)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let handler = service_fn(move |request| call(service.clone(), client.clone(), request));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(io), handler)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = drain.stopping() => {
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

/// One request under the identity of its connection.
async fn call<S, B>(mut service: S, client: Client, mut request: Request<Incoming>) -> Result<Response<B>, Infallible>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
{
    request.extensions_mut().insert(client.user);
    if let Some(peer) = client.peer {
        request.extensions_mut().insert(peer);
    }
    std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
    service.call(request).await
}

/// The configuration with our ALPN, when it names none.
fn with_alpn(tls: Arc<rustls::ServerConfig>) -> Arc<rustls::ServerConfig> {
    if !tls.alpn_protocols.is_empty() {
        return tls;
    }
    let mut own = (*tls).clone();
    own.alpn_protocols = ALPN.iter().map(|p| p.to_vec()).collect();
    Arc::new(own)
}
