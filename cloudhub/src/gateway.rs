//! The people's port: one HTTPS listener with client certificates, and behind it the Kubernetes API, the gateways' own APIs
//! through their links (`/clusters/<node>/…`), the hub's administration (`/kurator/v1/…`) and health.

mod admin;
mod journals;
mod proxy;
mod why;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use daemon::health::Metrics as MetricsPage;
use daemon::ready::Ready;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use metastore::api::{ApiBody, ApiServer, Attributes, Status, User};

use crate::embedded::KARMADA_USER;
use crate::fleet::Fleet;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

pub(crate) fn json(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(crate) fn refused(status: &Status) -> Response<Body> {
    let mut response = Response::new(full(status.to_json()));
    *response.status_mut() = status.http();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = status.details.as_ref().and_then(|d| d.retry_after) {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// Where each request goes.
#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) ready: Ready,
    pub(crate) metrics: MetricsPage,
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Front")
    }
}

impl Front {
    async fn answer(self, mut request: Request<Incoming>) -> Response<Body> {
        // Once, for the paths answered here and for the API alike.
        let user = match self.fleet.api.authenticate(&mut request) {
            Ok(user) => user,
            Err(status) => return refused(&status),
        };
        request.extensions_mut().insert(user.clone());
        let path = request.uri().path();
        let get = request.method() == Method::GET;
        match path {
            "/readyz" if get => {
                return match self.ready.pending() {
                    pending if pending.is_empty() => text(StatusCode::OK, "ok".to_owned()),
                    pending => text(
                        StatusCode::SERVICE_UNAVAILABLE,
                        format!("waiting for: {}", pending.join(", ")),
                    ),
                };
            }
            "/metrics" if get => {
                let attributes = Attributes {
                    verb: "get",
                    path,
                    ..Attributes::default()
                };
                return match self.fleet.api.check(&user, &attributes) {
                    Ok(()) => text(StatusCode::OK, (self.metrics)()),
                    Err(status) => refused(&status),
                };
            }
            _ => {}
        }
        if user.name == KARMADA_USER && !path.starts_with("/clusters/") {
            return refused(&Status::forbidden(
                "",
                "",
                path,
                "Karmada may only ask for /clusters/<gateway>/ here",
            ));
        }
        if let Some(rest) = path.strip_prefix("/kurator/v1/") {
            let rest = rest.to_owned();
            return admin::answer(&self.fleet, &user, &rest, request)
                .await
                .unwrap_or_else(|s| refused(&s));
        }
        if path.starts_with("/clusters/") {
            let answered = match self.fleet.api.acting(user, request.headers()) {
                Ok(user) => proxy::answer(&self.fleet, user, request).await,
                Err(status) => Err(status),
            };
            return answered.unwrap_or_else(|s| refused(&s));
        }
        self.fleet
            .api
            .handle(request)
            .await
            .map(|b| b.map_err(Into::into).boxed_unsync())
    }
}

impl tower::Service<Request<Incoming>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let front = self.clone();
        Box::pin(async move { Ok(front.answer(request).await) })
    }
}

/// The API as one user: for requests that come through a gateway's link.
#[derive(Clone, Debug)]
pub(crate) struct AsUser {
    api: ApiServer,
    user: User,
}

impl AsUser {
    pub(crate) const fn new(api: ApiServer, user: User) -> Self {
        Self { api, user }
    }
}

impl tower::Service<Request<Incoming>> for AsUser {
    type Response = Response<ApiBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.user.clone());
        let api = self.api.clone();
        Box::pin(async move { Ok(api.handle(request).await) })
    }
}
