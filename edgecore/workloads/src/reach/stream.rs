//! `exec`, `attach` and `portforward`: the runtime is asked where the streams can be had, and the client's connection is joined to that place.
//!
//! SPDY and the older WebSockets go through as they are, since the runtime's streaming server speaks them. The two that it does not know are put into
//! SPDY: `v5.channel.k8s.io` and `SPDY/3.1+portforward.k8s.io`. Only what the runtime named is connected to, and nothing of the client's
//! credentials gets there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cri::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use cri::{CriError, Runtime, Why};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use metastore::api::{ApiBody, Connect, Query, Status};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::carry::{self, Streams};
use super::dial::{self, Asked};
use super::websocket;
use crate::pods::Running;

/// Name of the protocol in which a channel can be ended; the runtime's server has none like it.
const CHANNELS: &str = "v5.channel.k8s.io";
/// The same streams in SPDY.
const IN_SPDY: HeaderValue = HeaderValue::from_static("v4.channel.k8s.io");
/// SPDY in the messages of a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// What is in it.
const PORT_FORWARD: HeaderValue = HeaderValue::from_static("portforward.k8s.io");
/// A client's token may stand among the protocols it speaks; that is between the client and this server.
const TOKEN: &str = "base64url.bearer.authorization.k8s.io.";
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// How long a client's connection may take to change once it was told to.
const CHANGE: Duration = Duration::from_secs(10);
/// How long a command may wait for its turn to be started.
const TURN: Duration = Duration::from_secs(60);
/// After which time a command counts as started, since the runtime does not say when it is.
const STARTED: Duration = Duration::from_millis(400);
/// Most words of a command, and ports.
const MAX_WORDS: usize = 4096;

/// How bytes go between the two sides.
enum Carried {
    Plain,
    Tunnel,
    Channels(Streams),
}

/// Waits until one more command may be started.
pub(super) async fn turn(starts: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Status> {
    match timeout(TURN, Arc::clone(starts).acquire_owned()).await {
        Ok(Ok(turn)) => Ok(turn),
        _ => Err(Status::too_many_requests(super::COME_BACK)),
    }
}

/// Answers a request for a program's streams. `turn`: of a command, held until it is started.
pub(super) async fn answer(
    runtime: &Runtime,
    running: Running,
    to: Connect,
    place: OwnedSemaphorePermit,
    turn: Option<OwnedSemaphorePermit>,
) -> Result<Response<ApiBody>, Status> {
    let streams = streams(&to.query);
    let url = url(runtime, &running, &to, streams).await?;
    let headers = &to.parts.headers;
    let offers = |wanted: &str| websocket::is_wanted(headers) && websocket::protocols(headers).any(|p| p == wanted);
    let mut request = Request::new(Full::<Bytes>::default());
    *request.uri_mut() = url;
    *request.method_mut() = Method::POST;
    let (carried, accepted) = if to.subresource == "portforward" && offers(TUNNEL) {
        speak_spdy(request.headers_mut(), PORT_FORWARD);
        (Carried::Tunnel, Some(accepted(headers, TUNNEL)?))
    } else if to.subresource != "portforward" && offers(CHANNELS) {
        speak_spdy(request.headers_mut(), IN_SPDY);
        (Carried::Channels(streams), Some(accepted(headers, CHANNELS)?))
    } else {
        request.method_mut().clone_from(&to.parts.method);
        pass_on(headers, request.headers_mut());
        (Carried::Plain, None)
    };
    let from_client = hyper::upgrade::on(Request::from_parts(to.parts, ()));
    let (answer, from_runtime) = match dial::ask(request).await.map_err(|e| Status::internal(e.to_string()))? {
        Asked::Upgraded(answer, from_runtime) => (answer, from_runtime),
        Asked::Refused(status, text) => {
            return Err(Status::new(
                status,
                "",
                format!("the container runtime refuses the connection: {text}"),
            ));
        }
    };
    let mut response = Response::new(ApiBody::full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = accepted.unwrap_or(answer);
    // Ends with either side.
    tokio::spawn(async move {
        let _place = place;
        let mut joined = std::pin::pin!(join(from_client, from_runtime, carried));
        let ended = tokio::select! {
            biased;
            ended = &mut joined => ended,
            () = tokio::time::sleep(STARTED) => {
                drop(turn);
                joined.await
            }
        };
        if let Err(e) = ended {
            tracing::debug!(error = %e, "The streams of a program broke off.");
        }
    });
    Ok(response)
}

async fn join(from_client: OnUpgrade, runtime: dial::Upgraded, carried: Carried) -> std::io::Result<()> {
    let client = timeout(CHANGE, from_client).await.map_err(std::io::Error::other)?;
    let client = TokioIo::new(client.map_err(std::io::Error::other)?);
    match carried {
        Carried::Plain => carry::plain(client, runtime).await,
        Carried::Tunnel => carry::tunnel(client, runtime).await,
        Carried::Channels(streams) => carry::channels(client, runtime, streams).await,
    }
}

/// Which streams are wanted. A terminal has one output.
fn streams(query: &Query) -> Streams {
    let tty = query.flag("tty");
    Streams {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr") && !tty,
        tty,
    }
}

/// Where the runtime gives the streams.
async fn url(runtime: &Runtime, running: &Running, to: &Connect, streams: Streams) -> Result<Uri, Status> {
    let query = &to.query;
    if to.subresource == "portforward" {
        let ports = query
            .all("ports")
            .chain(query.all("port"))
            .flat_map(|list| list.split(','));
        let ports: Result<Vec<i32>, _> = ports
            .take(MAX_WORDS)
            .map(|p| p.trim().parse::<u16>().map(i32::from))
            .collect();
        let request = PortForwardRequest {
            pod_sandbox_id: running.sandbox.clone(),
            port: ports.map_err(|_| Status::bad_request("a port is a number between 1 and 65535"))?,
        };
        let answer = runtime.port_forward(request).await;
        return place(&answer.map_err(|e| refused(&e))?.url);
    }
    if !(streams.stdin || streams.stdout || streams.stderr) {
        return Err(Status::bad_request(
            "you must specify at least 1 of stdin, stdout, stderr",
        ));
    }
    let container = to.container.as_deref().unwrap_or_default();
    let Some(found) = running.containers.iter().find(|c| c.name == container) else {
        return Err(Status::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            format!("container not found ({container:?})"),
        ));
    };
    let container_id = found.id.clone();
    let Streams {
        stdin,
        stdout,
        stderr,
        tty,
    } = streams;
    if to.subresource == "attach" {
        let request = AttachRequest {
            container_id,
            stdin,
            tty,
            stdout,
            stderr,
        };
        let answer = runtime.attach(request).await;
        return place(&answer.map_err(|e| refused(&e))?.url);
    }
    let cmd: Vec<String> = query.all("command").take(MAX_WORDS).map(str::to_owned).collect();
    if cmd.is_empty() {
        return Err(Status::bad_request(
            "you must specify at least one command for the container",
        ));
    }
    let request = ExecRequest {
        container_id,
        cmd,
        tty,
        stdin,
        stdout,
        stderr,
    };
    let answer = runtime.exec(request).await;
    place(&answer.map_err(|e| refused(&e))?.url)
}

fn place(url: &str) -> Result<Uri, Status> {
    url.parse()
        .map_err(|_| Status::internal("the container runtime named no place where the streams can be had"))
}

fn refused(e: &CriError) -> Status {
    match e.why() {
        Why::NotFound => Status::new(StatusCode::NOT_FOUND, "NotFound", e.to_string()),
        Why::Unreachable | Why::Late => Status::unavailable(e.to_string()),
        _ => Status::internal(e.to_string()),
    }
}

fn speak_spdy(headers: &mut HeaderMap, version: HeaderValue) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert(PROTOCOL_VERSION, version);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
}

/// The client's handshake, without what is nobody else's business.
fn pass_on(from: &HeaderMap, to: &mut HeaderMap) {
    for name in [
        header::UPGRADE,
        header::SEC_WEBSOCKET_KEY,
        header::SEC_WEBSOCKET_VERSION,
        PROTOCOL_VERSION,
    ] {
        for value in from.get_all(&name) {
            to.append(name.clone(), value.clone());
        }
    }
    let protocols: Vec<&str> = websocket::protocols(from).filter(|p| !p.starts_with(TOKEN)).collect();
    if let Ok(value) = HeaderValue::from_str(&protocols.join(", "))
        && !protocols.is_empty()
    {
        to.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
    to.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
}

/// The headers that make the client's connection a WebSocket.
fn accepted(headers: &HeaderMap, protocol: &'static str) -> Result<HeaderMap, Status> {
    let proof = websocket::accept(headers).map_err(|e| Status::bad_request(e.to_string()))?;
    let proof = HeaderValue::from_str(&proof).map_err(|e| Status::internal(e.to_string()))?;
    let mut answer = HeaderMap::new();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, proof);
    answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_credentials_end_here() {
        let mut from = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("cookie", "y"),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "k"),
            (
                "sec-websocket-protocol",
                "base64url.bearer.authorization.k8s.io.eA, v4.channel.k8s.io",
            ),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
            ("x-stream-protocol-version", "channel.k8s.io"),
        ] {
            from.append(name, HeaderValue::from_static(value));
        }
        let mut to = HeaderMap::new();
        pass_on(&from, &mut to);
        assert!(!to.contains_key("authorization") && !to.contains_key("cookie"));
        assert_eq!(to["sec-websocket-protocol"], "v4.channel.k8s.io");
        assert_eq!(to.get_all("x-stream-protocol-version").iter().count(), 2);
        assert_eq!(
            (&to["connection"], &to["upgrade"]),
            (&"Upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
    }

    #[test]
    fn a_terminal_has_one_output() {
        let query = Query::parse(Some("stdin=1&stdout=true&stderr=1&tty=1")).unwrap();
        assert_eq!(
            streams(&query),
            Streams {
                stdin: true,
                stdout: true,
                stderr: false,
                tty: true
            }
        );
        let query = Query::parse(Some("stdin=false&stdout=true&stderr=1")).unwrap();
        assert_eq!(
            streams(&query),
            Streams {
                stdin: false,
                stdout: true,
                stderr: true,
                tty: false
            }
        );
    }
}
