//! The socket of a fake runtime.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::ServiceExt;

use super::Shared;
use super::runtime::Service;
use crate::containerd::events_server::EventsServer;
use crate::v1::image_service_server::ImageServiceServer;
use crate::v1::runtime_service_server::RuntimeServiceServer;

/// Answers on this path until the token says stop, which also breaks every connection.
pub(super) fn listen(path: &Path, shared: Arc<Shared>, token: CancellationToken) -> std::io::Result<()> {
    let listener = UnixListener::bind(path)?;
    drop(tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                biased;
                () = token.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else { return };
            let service = Service(Arc::clone(&shared));
            let token = token.clone();
            drop(tokio::spawn(async move {
                let answer = hyper::service::service_fn(move |request| answer(service.clone(), request));
                let connection = http2::Builder::new(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), answer);
                tokio::select! {
                    biased;
                    () = token.cancelled() => {}
                    // A client that went away is no failure.
                    _ = connection => {}
                }
            }));
        }
    }));
    Ok(())
}

async fn answer(service: Service, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path();
    if path.starts_with("/runtime.v1.ImageService/") {
        ImageServiceServer::new(service).oneshot(request).await
    } else if path.starts_with("/runtime.v1.RuntimeService/") {
        RuntimeServiceServer::new(service).oneshot(request).await
    } else {
        EventsServer::new(service).oneshot(request).await
    }
}
