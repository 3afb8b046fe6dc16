//! The plain-HTTP health listener: `/healthz`, `/readyz` (names what is pending), `/metrics`.
//!
//! It runs beside the daemon's work and answers from memory only, so that it can be asked at any time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::drain::Drain;
use crate::ready::Ready;

/// Connections served at a time; orchestrators need one or two.
const MAX_CONNECTIONS: usize = 32;
/// A request's head must be complete by then.
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// A probe is one short exchange; a connection that lives longer is not one.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(60);

/// Renders the metrics page (Prometheus text format).
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// Serves until the drain begins.
pub async fn serve(listener: TcpListener, ready: Ready, metrics: Metrics, drain: Drain) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let stream = tokio::select! {
            biased;
            () = drain.stopping() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    // Out of descriptors, most likely: wait instead of spinning.
                    tracing::warn!(error = %e, "Health listener cannot accept.");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            },
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            continue;
        };
        let (ready, metrics) = (ready.clone(), Arc::clone(&metrics));
        drop(drain.spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, &ready, &metrics);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_DEADLINE)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(e)) = tokio::time::timeout(CONNECTION_DEADLINE, connection).await {
                tracing::trace!(error = %e, "health connection");
            }
            drop(slot);
        }));
    }
}

fn answer(request: &Request<Incoming>, ready: &Ready, metrics: &Metrics) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz" | "/livez") => (StatusCode::OK, "ok\n".to_owned()),
        (&Method::GET, "/readyz") => match ready.pending() {
            pending if pending.is_empty() => (StatusCode::OK, "ok\n".to_owned()),
            pending => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("waiting for: {}\n", pending.join(", ")),
            ),
        },
        (&Method::GET, "/metrics") => (StatusCode::OK, metrics()),
        _ => (StatusCode::NOT_FOUND, "not found\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(address: std::net::SocketAddr, path: &str) -> String {
        let mut s = tokio::net::TcpStream::connect(address).await.unwrap();
        s.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut out = String::new();
        s.read_to_string(&mut out).await.unwrap();
        out
    }

    #[tokio::test]
    async fn readiness_names_what_is_pending() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ready, drain) = (Ready::new(), Drain::new());
        let block = ready.block("store");
        drop(drain.spawn(serve(
            listener,
            ready.clone(),
            Arc::new(|| "up 1\n".to_owned()),
            drain.clone(),
        )));
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let pending = get(address, "/readyz").await;
        assert!(
            pending.starts_with("HTTP/1.1 503") && pending.contains("waiting for: store"),
            "{pending}"
        );
        drop(block);
        assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(address, "/metrics").await.ends_with("up 1\n"));
        assert!(get(address, "/etc/passwd").await.starts_with("HTTP/1.1 404"));
        assert!(drain.finish(Duration::from_secs(2)).await);
    }
}
