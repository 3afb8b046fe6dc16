//! `grpc.health.v1.Health/Check`, without more of gRPC than it takes: one message each way.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::{AGENT, Answer, dialled, joined};

/// Largest answer, in bytes: a status takes two.
const MAX_ANSWER: usize = 4096;
/// Names of the states, by number.
const STATES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/// How the service says it is.
pub(super) async fn check(host: &str, port: u16, service: &str, within: Duration) -> Answer {
    let addr = joined(host, port);
    let begun = tokio::time::Instant::now();
    let stream = match tokio::time::timeout(within, TcpStream::connect((host, port))).await {
        Err(_) => {
            let seconds = within.as_secs();
            let text =
                format!("timeout: failed to connect service {addr:?} within {seconds}s: context deadline exceeded");
            return Answer::No(text);
        }
        Ok(Err(e)) => {
            let text = format!(
                "error: failed to connect service at {addr:?}: dial tcp {addr}: {}",
                dialled(&e)
            );
            return Answer::No(text);
        }
        Ok(Ok(stream)) => stream,
    };
    let left = within.saturating_sub(begun.elapsed());
    match tokio::time::timeout(left, ask(stream, &addr, service)).await {
        Ok(Ok(1)) => Answer::Yes,
        Ok(Ok(state)) => {
            let name = STATES.get(state).copied().unwrap_or("UNKNOWN");
            Answer::No(format!("service unhealthy (responded with {name:?})"))
        }
        Ok(Err(e)) => Answer::No(e),
        Err(_) => Answer::No(format!(
            "timeout: health rpc did not complete within {}s",
            within.as_secs()
        )),
    }
}

async fn ask(stream: TcpStream, addr: &str, service: &str) -> Result<usize, String> {
    let failed = |e: String| format!("error: health rpc probe failed: {e}");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|e| failed(e.to_string()))?;
    let request = Request::post(format!("http://{addr}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", AGENT)
        .body(Full::new(message(service)));
    let request = request.map_err(|e| failed(e.to_string()))?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER)
            .collect()
            .await
            .map_err(|e| e.to_string())?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        Ok::<_, String>((head, trailers, body.to_bytes()))
    };
    let (head, trailers, body) = tokio::select! {
        answered = answered => answered.map_err(failed)?,
        ended = connection => {
            let why = ended.map_or_else(|e| e.to_string(), |()| "the connection was closed".to_owned());
            return Err(failed(why));
        }
    };
    let said = |name: &str| {
        trailers
            .get(name)
            .or_else(|| head.headers.get(name))?
            .to_str()
            .ok()
            .map(str::to_owned)
    };
    match said("grpc-status").as_deref() {
        Some("0") => state(body).ok_or_else(|| failed("its answer is none".to_owned())),
        Some("12") => Err(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
            said("grpc-message").unwrap_or_default()
        )),
        Some(code) => {
            let text = said("grpc-message").unwrap_or_default();
            Err(failed(format!("rpc error: code = {code} desc = {text}")))
        }
        None => Err(failed(format!(
            "unexpected HTTP status code received from server: {}",
            head.status
        ))),
    }
}

/// A `HealthCheckRequest` in its frame: field 1 is the service.
fn message(service: &str) -> Bytes {
    let mut body = BytesMut::new();
    if !service.is_empty() {
        body.put_u8(0x0a);
        let mut left = service.len();
        while left >= 0x80 {
            body.put_u8((left & 0x7f) as u8 | 0x80);
            left >>= 7;
        }
        body.put_u8(left as u8);
        body.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(5 + body.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(body.len()).unwrap_or(0));
    frame.put(body);
    frame.freeze()
}

/// The state in a `HealthCheckResponse` in its frame: field 1, 0 when it is left out.
fn state(mut body: Bytes) -> Option<usize> {
    if body.remaining() < 5 || body.get_u8() != 0 {
        return None;
    }
    let length = body.get_u32() as usize;
    match *body.get(..length)? {
        [] => Some(0),
        [0x08, state, ..] => Some(state.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_as_grpc_has_them() {
        assert_eq!(&message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&message("db")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'd', b'b']);
        assert_eq!(message(&"x".repeat(200)).len(), 5 + 3 + 200);
        let told = |bytes: &'static [u8]| state(Bytes::from_static(bytes));
        assert_eq!(told(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(told(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(told(&[0, 0, 0, 0, 9, 8, 1]), None);
        assert_eq!(told(&[1, 0, 0, 0, 0]), None);
        assert_eq!(told(&[0]), None);
    }
}
