//! Finds the API (hub or gateway) and calls it; turns its refusals into exit codes and hints.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use daemon::exit::{BAD_CONFIG, BAD_INPUT, FAILED, Failure, NOT_ALLOWED, UNREACHABLE};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;

use crate::cli::Global;

/// The hub's own folder when it runs on this machine with its defaults.
const HUB_KUBECONFIG: &str = "/var/lib/kurator-hub/admin.kubeconfig";
/// The gateway's own, with its defaults.
const EDGE_KUBECONFIG: &str = "/etc/kurator/edge.kubeconfig";
/// For the TCP connection and the TLS handshake to the server.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// An answer larger than this is not one of ours.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// A connection to one API server.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
    prefix: String,
    server: String,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api")
            .field("server", &self.server)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// An answer that is not a success.
#[derive(Debug)]
pub struct Refusal {
    /// HTTP status.
    pub status: StatusCode,
    /// The Kubernetes Status' reason, if there was one.
    pub reason: String,
    /// Its message.
    pub message: String,
}

impl Api {
    /// Finds the kubeconfig and prepares the client; nothing is contacted yet.
    ///
    /// # Errors
    /// No kubeconfig, or one that cannot be used.
    pub async fn find(global: &Global) -> Result<Self, Failure> {
        let path = locate(global.kubeconfig.as_deref())?;
        Self::open(&path, global.gateway.as_deref()).await
    }

    /// Uses this kubeconfig.
    ///
    /// # Errors
    /// A kubeconfig that cannot be read or used.
    pub async fn open(path: &Path, gateway: Option<&str>) -> Result<Self, Failure> {
        let api = Self::with(configuration(path, None).await?).map_err(|e| unusable(path, &e))?;
        let prefix = gateway.map(|name| format!("/clusters/{name}")).unwrap_or_default();
        Ok(Self { prefix, ..api })
    }

    /// Uses this configuration.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn with(mut config: kube::Config) -> Result<Self, String> {
        // A gateway that is away is an answer, not something to wait for in silence.
        config.default_retry = false;
        config.connect_timeout = Some(CONNECT_DEADLINE);
        let server = config.cluster_url.to_string();
        let client = kube::Client::try_from(config).map_err(|e| e.to_string())?;
        Ok(Self {
            client,
            prefix: String::new(),
            server,
        })
    }

    /// The server's address.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The same server, without the detour through a gateway.
    #[must_use]
    pub fn hub(&self) -> Self {
        Self {
            prefix: String::new(),
            ..self.clone()
        }
    }

    /// One request; the outer error is ours (no connection, no valid answer), the inner the server's.
    ///
    /// # Errors
    /// The server cannot be reached or does not answer in HTTP.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Result<Bytes, Refusal>, Failure> {
        let response = self.send(method, path, headers, body).await?;
        if response.status().is_success() {
            return Ok(Ok(self.whole(response).await?));
        }
        Ok(Err(self.refusal(response).await?))
    }

    /// A GET whose answer is read as it comes.
    ///
    /// # Errors
    /// Not reached, or refused.
    pub async fn stream(&self, path: &str) -> Result<http::Response<Body>, Failure> {
        let response = self.send(Method::GET, path, &[], None).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(self.refusal(response).await?.into())
    }

    /// A request that goes on as a WebSocket of this protocol.
    ///
    /// # Errors
    /// Not reached, refused, or not upgraded.
    pub async fn upgrade(
        &self,
        method: Method,
        path: &str,
        protocol: &str,
    ) -> Result<TokioIo<hyper::upgrade::Upgraded>, Failure> {
        let key = STANDARD.encode(std::array::from_fn::<u8, 16, _>(|_| fastrand::u8(..)));
        let headers = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", key.as_str()),
            ("sec-websocket-protocol", protocol),
        ];
        let response = self.send(method, path, &headers, None).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refusal(response).await?.into());
        }
        let agreed = response.headers().get("sec-websocket-protocol");
        if agreed.is_none_or(|agreed| agreed != protocol) {
            return Err(
                Failure::new(FAILED, format!("{} does not speak {protocol}", self.server))
                    .hint("is it older than this program?"),
            );
        }
        let upgraded = hyper::upgrade::on(response).await;
        upgraded
            .map(TokioIo::new)
            .map_err(|e| Failure::new(FAILED, format!("{} did not go on as a WebSocket: {e}", self.server)))
    }

    async fn whole(&self, response: http::Response<Body>) -> Result<Bytes, Failure> {
        let data = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|e| Failure::new(FAILED, format!("the answer from {} broke off: {e}", self.server)))?
            .to_bytes();
        Ok(data)
    }

    /// What a server says that does not do what it was asked.
    async fn refusal(&self, response: http::Response<Body>) -> Result<Refusal, Failure> {
        let status = response.status();
        let data = self.whole(response).await?;
        let parsed: Value = serde_json::from_slice(&data).unwrap_or_default();
        let text = |field: &str| parsed[field].as_str().unwrap_or_default().to_owned();
        let mut message = text("message");
        if message.is_empty() {
            message = format!(
                "{status}: {}",
                String::from_utf8_lossy(&data).chars().take(200).collect::<String>()
            );
        }
        Ok(Refusal {
            status,
            reason: text("reason"),
            message,
        })
    }

    /// One request whose answer is a stream of lines.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<http::Response<Body>, Failure> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.prefix));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(body.map_or_else(Body::empty, Body::from))
            .map_err(|e| Failure::new(BAD_INPUT, format!("{path}: {e}")))?;
        self.client
            .send(request)
            .await
            .map_err(|e| unreached(&self.server, &chain(&e)))
    }

    /// GET of JSON.
    ///
    /// # Errors
    /// Not reached, refused, or not JSON.
    pub async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.json(Method::GET, path, None).await
    }

    /// A request with and for JSON.
    ///
    /// # Errors
    /// Not reached, refused, or not JSON.
    pub async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        match self.try_json(method, path, body).await? {
            Ok(value) => Ok(value),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// The same, with the server's refusal apart.
    ///
    /// # Errors
    /// Not reached, or not JSON.
    pub async fn try_json(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Result<Value, Refusal>, Failure> {
        let data = body.map(|b| serde_json::to_vec(b).expect("a JSON value can always be written"));
        let headers = [("accept", "application/json"), ("content-type", "application/json")];
        let headers = if data.is_some() { &headers[..] } else { &headers[..1] };
        match self.call(method, path, headers, data).await? {
            Err(refusal) => Ok(Err(refusal)),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Ok)
                .map_err(|e| Failure::new(FAILED, format!("{} did not answer in JSON: {e}", self.server))),
        }
    }
}

/// What a kubeconfig says, in one of its contexts.
///
/// # Errors
/// A kubeconfig that cannot be read or used.
pub(crate) async fn configuration(path: &Path, context: Option<&str>) -> Result<kube::Config, Failure> {
    // Asked first because its own message on this is hard to read.
    match std::fs::File::open(path).and_then(|file| file.metadata()) {
        Err(e) => return Err(unusable(path, &e.to_string())),
        Ok(file) if !file.is_file() => return Err(unusable(path, "it is not a file")),
        Ok(_) => {}
    }
    let kubeconfig = Kubeconfig::read_from(path).map_err(|e| unusable(path, &e.to_string()))?;
    let options = KubeConfigOptions {
        context: context.map(str::to_owned),
        ..KubeConfigOptions::default()
    };
    kube::Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|e| unusable(path, &e.to_string()))
}

fn unusable(path: &Path, why: &str) -> Failure {
    // A parser's picture of the line is more than one line.
    let why = why.lines().next().unwrap_or_default();
    Failure::new(BAD_CONFIG, format!("{}: {why}", path.display()))
        .hint("name a kubeconfig with --kubeconfig; a hub writes admin.kubeconfig into its data folder")
}

/// Nobody there, or somebody else.
fn unreached(server: &str, why: &str) -> Failure {
    // The HTTP client's own layers tell a person nothing.
    let why = why.trim_start_matches("ServiceError: ");
    let why = why.trim_start_matches("client error (Connect): ");
    if why.contains("invalid peer certificate") {
        return Failure::new(NOT_ALLOWED, format!("{server} is not the kubeconfig's server: {why}"))
            .hint("another hub answers at this address, or somebody stands between; nothing was sent");
    }
    Failure::new(UNREACHABLE, format!("cannot reach {server}: {why}"))
        .hint("is it running, and is this the right kubeconfig? (--kubeconfig, $KUBECONFIG)")
}

impl From<Refusal> for Failure {
    fn from(r: Refusal) -> Self {
        match r.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Self::new(NOT_ALLOWED, r.message).hint("use an administrator's kubeconfig")
            }
            StatusCode::NOT_FOUND
                if r.reason.is_empty() || r.message.contains("could not find the requested resource") =>
            {
                Self::new(BAD_INPUT, "the server does not know this")
                    .hint("is the kubeconfig a hub's? a gateway answers for itself only")
            }
            StatusCode::NOT_FOUND => Self::new(BAD_INPUT, r.message)
                .hint("`kurator get` lists what there is; -n NAMESPACE and --gateway NAME look elsewhere"),
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Self::new(BAD_INPUT, plain(&r.message)),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                Self::new(UNREACHABLE, r.message).hint("kurator get nodes shows which gateways are connected")
            }
            _ => Self::new(FAILED, r.message),
        }
    }
}

/// `Device.devices.kubeedge.io "press-01" is invalid: ` and `Token "" is invalid: ` say what the caller knows.
fn plain(message: &str) -> &str {
    message
        .split_once("\"\" is invalid: ")
        .map_or(message, |(_, rest)| rest)
}

fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut source = e.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

/// The kubeconfig that was named, as an argument or in the environment.
pub(crate) fn named(explicit: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    if let Some(path) = explicit {
        return Ok(Some(path.to_owned()));
    }
    // The one environment variable every Kubernetes tool honours; read here and nowhere else.
    let variable = std::env::var_os("KUBECONFIG").filter(|v| !v.is_empty());
    if let Some(paths) = variable {
        // Whoever names one means it: another server's would be a surprise.
        let there = std::env::split_paths(&paths).find(|p| p.exists()).ok_or_else(|| {
            Failure::new(
                BAD_CONFIG,
                format!("$KUBECONFIG names no file that is there: {}", paths.display()),
            )
            .hint("unset it, or name a kubeconfig with --kubeconfig")
        });
        return there.map(Some);
    }
    Ok(None)
}

/// The kubeconfig to use, in the documented order.
fn locate(explicit: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = named(explicit)? {
        return Ok(path);
    }
    let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".kube/config"));
    [
        Some(PathBuf::from(HUB_KUBECONFIG)),
        Some(PathBuf::from(EDGE_KUBECONFIG)),
        home,
    ]
    .into_iter()
    .flatten()
    .find(|p| p.exists())
    .ok_or_else(|| {
        Failure::new(BAD_CONFIG, "no kubeconfig found")
            .hint("name one with --kubeconfig or $KUBECONFIG; a hub writes admin.kubeconfig into its data folder")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: StatusCode, reason: &str, message: &str) -> Failure {
        Failure::from(Refusal {
            status,
            reason: reason.to_owned(),
            message: message.to_owned(),
        })
    }

    #[test]
    fn refusals_become_codes_that_scripts_can_tell_apart() {
        for (status, reason, code) in [
            (StatusCode::FORBIDDEN, "Forbidden", NOT_ALLOWED),
            (StatusCode::NOT_FOUND, "NotFound", BAD_INPUT),
            (StatusCode::UNPROCESSABLE_ENTITY, "Invalid", BAD_INPUT),
            (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", UNREACHABLE),
            (StatusCode::INTERNAL_SERVER_ERROR, "InternalError", FAILED),
        ] {
            assert_eq!(refusal(status, reason, "m").code, code, "{status}");
        }
        // A page of a server that is no hub.
        let page = refusal(StatusCode::NOT_FOUND, "", "404 page not found\n");
        assert!(
            page.code == BAD_INPUT && page.hint.is_some_and(|h| h.contains("hub's")),
            "{}",
            page.what
        );
        let token = refusal(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            "Token \"\" is invalid: ttl: too long",
        );
        assert_eq!(token.what, "ttl: too long");
    }

    #[test]
    fn another_server_behind_the_address_is_no_matter_of_reaching_it() {
        let why = "ServiceError: client error (Connect): invalid peer certificate: UnknownIssuer";
        assert_eq!(unreached("https://h", why).code, NOT_ALLOWED);
        let refused = unreached("https://h", "ServiceError: client error (Connect): refused");
        assert_eq!(
            (refused.code, refused.what.as_str()),
            (UNREACHABLE, "cannot reach https://h: refused")
        );
    }
}
