//! HTTP/1.1 to a program on this machine: one request on a connection of its own, with a deadline on each step.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Connecting within the machine takes no time, unless nobody takes the connection.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the head of an answer may take.
const HEAD: Duration = Duration::from_secs(60);
/// Bytes that hyper may hold of one connection, and so of an answer's head.
const BUFFER: usize = 64 * 1024;
/// What is read of a refusal.
const MAX_REFUSAL: usize = 16 * 1024;

/// A connection that is no HTTP any more.
pub(super) type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

/// Why a program did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{0} is no address of a program on this machine that speaks HTTP")]
    Address(String),
    #[error("connecting to {0}: {1}")]
    Connect(String, io::Error),
    #[error("no answer from {name} within {} s", .after.as_secs())]
    Late { name: String, after: Duration },
    #[error("{0} did not answer properly: {1}")]
    Http(String, hyper::Error),
}

/// What a program made of a request for another protocol.
pub(super) enum Asked {
    /// It goes on in that.
    Upgraded(HeaderMap, Upgraded),
    /// It does not, and says why.
    Refused(StatusCode, String),
}

/// Sends a request with an absolute address. The answer's body has no deadline; dropping it ends the connection.
pub(super) async fn send(mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, DialError> {
    let uri = request.uri().clone();
    let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err(DialError::Address(uri.to_string()));
    };
    let port = uri.port_u16().unwrap_or(80);
    let name = format!("{host}:{port}");
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = match timeout(CONNECT, TcpStream::connect((bare, port))).await {
        Err(_) => return Err(DialError::Late { name, after: CONNECT }),
        Ok(Err(e)) => return Err(DialError::Connect(name, e)),
        Ok(Ok(stream)) => stream,
    };
    // Keys are pressed one by one; that it cannot be set costs speed alone.
    drop(stream.set_nodelay(true));
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    *request.uri_mut() = target.parse().map_err(|_| DialError::Address(name.clone()))?;
    if !request.headers().contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(&name)
    {
        request.headers_mut().insert(header::HOST, host);
    }
    let http = |e| DialError::Http(name.clone(), e);
    let (mut sender, exchange) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(BUFFER)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(http)?;
    // Ends with the answer's body, or with the connection that it became.
    tokio::spawn(async move {
        if let Err(e) = exchange.with_upgrades().await {
            tracing::debug!(error = %e, "An exchange with a program broke off.");
        }
    });
    match timeout(HEAD, sender.send_request(request)).await {
        Err(_) => Err(DialError::Late {
            name: name.clone(),
            after: HEAD,
        }),
        Ok(answer) => answer.map_err(http),
    }
}

/// Asks for another protocol.
pub(super) async fn ask(request: Request<Full<Bytes>>) -> Result<Asked, DialError> {
    let name = request.uri().to_string();
    let mut answer = send(request).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upgraded = hyper::upgrade::on(&mut answer).await;
        let headers = std::mem::take(answer.headers_mut());
        return match upgraded {
            Ok(upgraded) => Ok(Asked::Upgraded(headers, TokioIo::new(upgraded))),
            Err(e) => Err(DialError::Http(name, e)),
        };
    }
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_REFUSAL).collect();
    let text = match timeout(HEAD, body).await {
        Ok(Ok(body)) => String::from_utf8_lossy(&body.to_bytes()).trim().to_owned(),
        _ => String::new(),
    };
    let status = if status.is_client_error() || status.is_server_error() {
        status
    } else {
        StatusCode::BAD_GATEWAY
    };
    Ok(Asked::Refused(status, text))
}
