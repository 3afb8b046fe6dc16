//! Asking a container how it is, or telling it something: a command in it, HTTP, a TCP connection, gRPC's health service.
//!
//! Every question is a connection of its own, closed after the answer; only as much of an answer is read as is needed. What a container answers
//! is its own: capped, and never trusted for more than yes or no.

mod grpc;
mod tls;

use std::time::Duration;

use cri::{CriError, Runtime, Why, v1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::pod::{ContainerPort, ExecAction, GrpcAction, HttpGetAction, IntOrString, TcpSocketAction};
pub(super) use tls::Tls;

/// As probes name themselves.
const AGENT: &str = "kube-probe/1.33";
/// The most of a command's output that stands in a message, in bytes.
const MAX_OUTPUT: usize = 10 * 1024;
/// Longest status line of an answer, in bytes.
const MAX_LINE: usize = 8 * 1024;
/// Most redirects that are followed.
const MAX_REDIRECTS: u32 = 10;

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Yes,
    /// No, and why.
    No(String),
    /// It could not be asked.
    Unknown(String),
}

/// Whom to ask.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whom<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) tls: &'a Tls,
    /// Id of the container.
    pub(super) id: &'a str,
    /// Address of the pod.
    pub(super) ip: &'a str,
    pub(super) ports: &'a [ContainerPort],
}

impl Whom<'_> {
    /// A command's exit code, and its output when it is not 0. `seconds`: how long it may take.
    pub(super) async fn exec(&self, action: &ExecAction, seconds: u64) -> Answer {
        let request = v1::ExecSyncRequest {
            container_id: self.id.to_owned(),
            cmd: action.command.clone(),
            timeout: i64::try_from(seconds.max(1)).unwrap_or(i64::MAX),
        };
        match self.runtime.exec_sync(request).await {
            Ok(answer) if answer.exit_code == 0 => Answer::Yes,
            Ok(mut answer) => {
                answer.stdout.append(&mut answer.stderr);
                answer.stdout.truncate(MAX_OUTPUT);
                Answer::No(String::from_utf8_lossy(&answer.stdout).into_owned())
            }
            Err(e) if e.why() == Why::Late || e.to_string().contains("deadline exceeded") => Answer::No(format!(
                "command timed out: {:?} timed out after {seconds}s",
                action.command.join(" ")
            )),
            Err(e) => Answer::Unknown(shown(&e)),
        }
    }

    /// Whether a connection can be made.
    pub(super) async fn tcp(&self, action: &TcpSocketAction, within: Duration) -> Answer {
        let Some(port) = self.port(action.port.as_ref()) else {
            return no_port(action.port.as_ref());
        };
        let host = if action.host.is_empty() { self.ip } else { &action.host };
        match tokio::time::timeout(within, TcpStream::connect((host, port))).await {
            Ok(Ok(_)) => Answer::Yes,
            Ok(Err(e)) => Answer::No(format!("dial tcp {}: {}", joined(host, port), dialled(&e))),
            Err(_) => Answer::No(format!("dial tcp {}: i/o timeout", joined(host, port))),
        }
    }

    /// The health service's answer.
    pub(super) async fn grpc(&self, action: &GrpcAction, within: Duration) -> Answer {
        grpc::check(self.ip, action.port, &action.service, within).await
    }

    /// An answer from 200 to 399.
    pub(super) async fn http(&self, action: &HttpGetAction, within: Duration) -> Answer {
        let Some(port) = self.port(action.port.as_ref()) else {
            return no_port(action.port.as_ref());
        };
        let host = if action.host.is_empty() { self.ip } else { &action.host };
        let scheme = if action.scheme.eq_ignore_ascii_case("https") {
            "https"
        } else {
            "http"
        };
        let mut to = Url {
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            port,
            path: if action.path.starts_with('/') {
                action.path.clone()
            } else {
                format!("/{}", action.path)
            },
        };
        let asked = tokio::time::timeout(within, async {
            for _ in 0..MAX_REDIRECTS {
                match self.get(&to, action).await {
                    Ok((code, Some(next))) if (300..400).contains(&code) => match to.to(&next) {
                        Some(next) if next.host == to.host => to = next,
                        // Somebody else's answer says nothing about this container.
                        _ => return Answer::Yes,
                    },
                    Ok((200..400, _)) => return Answer::Yes,
                    Ok((code, _)) => return Answer::No(format!("HTTP probe failed with statuscode: {code}")),
                    Err(e) => return Answer::No(format!("Get \"{}\": {e}", to.text())),
                }
            }
            Answer::No(format!("Get \"{}\": stopped after 10 redirects", to.text()))
        });
        asked.await.unwrap_or_else(|_| {
            let why = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
            Answer::No(format!(
                "Get \"{scheme}://{}{}\": {why}",
                joined(host, port),
                action.path
            ))
        })
    }

    async fn get(&self, to: &Url, action: &HttpGetAction) -> Result<(u16, Option<String>), String> {
        let stream = TcpStream::connect((to.host.as_str(), to.port)).await;
        let stream = stream.map_err(|e| format!("dial tcp {}: {}", joined(&to.host, to.port), dialled(&e)))?;
        let request = request(to, action)?;
        if to.scheme == "https" {
            exchange(self.tls.over(&to.host, stream).await?, &request).await
        } else {
            exchange(stream, &request).await
        }
    }

    fn port(&self, port: Option<&IntOrString>) -> Option<u16> {
        match port? {
            IntOrString::Int(port) => u16::try_from(*port).ok().filter(|p| *p > 0),
            IntOrString::String(name) => {
                let named = self.ports.iter().find(|p| p.name == *name).map(|p| p.container_port);
                named.or_else(|| name.parse().ok()).filter(|p| *p > 0)
            }
        }
    }
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Url {
    scheme: String,
    host: String,
    port: u16,
    /// With the query.
    path: String,
}

impl Url {
    fn text(&self) -> String {
        format!("{}://{}{}", self.scheme, joined(&self.host, self.port), self.path)
    }

    /// Where a redirect from here leads. `None` when it is no address that could be asked.
    fn to(&self, location: &str) -> Option<Self> {
        if location.starts_with('/') && !location.starts_with("//") {
            return Some(Self {
                path: location.to_owned(),
                ..self.clone()
            });
        }
        let uri: http::Uri = location.parse().ok()?;
        let scheme = uri.scheme_str()?;
        let usual = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        Some(Self {
            scheme: scheme.to_owned(),
            host: uri.host()?.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(usual),
            path: uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        })
    }
}

/// The request's bytes. A header that would break out of its line is refused.
fn request(to: &Url, action: &HttpGetAction) -> Result<String, String> {
    let own = |name: &str| action.http_headers.iter().any(|h| h.name.eq_ignore_ascii_case(name));
    let mut out = format!("GET {} HTTP/1.1\r\n", to.path.replace(' ', "%20"));
    if !own("host") {
        out.push_str(&format!("Host: {}\r\n", joined(&to.host, to.port)));
    }
    if !own("user-agent") {
        out.push_str(&format!("User-Agent: {AGENT}\r\n"));
    }
    if !own("accept") {
        out.push_str("Accept: */*\r\n");
    }
    for header in &action.http_headers {
        let breaks = |text: &str| text.contains(['\r', '\n', '\0']);
        if header.name.is_empty() || breaks(&header.name) || breaks(&header.value) {
            return Err(format!("invalid header {:?}", header.name));
        }
        // An empty one of these asks for it to be left out.
        let left_out = header.value.is_empty()
            && ["user-agent", "accept"]
                .iter()
                .any(|n| header.name.eq_ignore_ascii_case(n));
        if !left_out {
            out.push_str(&format!("{}: {}\r\n", header.name, header.value));
        }
    }
    if out.contains(['\0']) || to.path.contains(['\r', '\n']) {
        return Err("invalid path".to_owned());
    }
    out.push_str("Connection: close\r\n\r\n");
    Ok(out)
}

/// Status code and `Location` of the answer. Its body is not read.
async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> Result<(u16, Option<String>), String> {
    let said = |e: std::io::Error| e.to_string();
    stream.write_all(request.as_bytes()).await.map_err(said)?;
    let mut head = Vec::with_capacity(512);
    loop {
        let whole = head.windows(4).any(|w| w == b"\r\n\r\n");
        let line = head.iter().position(|b| *b == b'\n');
        // Only a redirect is read beyond its first line.
        if let Some(end) = line
            && (whole || head.get(9).is_none_or(|digit| *digit != b'3') || head.len() >= MAX_LINE)
        {
            let first = String::from_utf8_lossy(&head[..end]).into_owned();
            let code = first
                .strip_prefix("HTTP/1.")
                .and_then(|rest| rest.get(2..5))
                .and_then(|code| code.parse().ok());
            let code: u16 = code.ok_or_else(|| format!("malformed HTTP response {:?}", first.trim_end()))?;
            // Interim answers come before the one that counts.
            if (100..200).contains(&code) && code != 101 {
                let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") else {
                    return Err("malformed HTTP response".to_owned());
                };
                drop(head.drain(..end + 4));
                continue;
            }
            return Ok((code, location(&head)));
        }
        if head.len() >= MAX_LINE {
            return Err("malformed HTTP response: its first line is too long".to_owned());
        }
        if stream.read_buf(&mut head).await.map_err(said)? == 0 {
            return Err("EOF".to_owned());
        }
    }
}

fn location(head: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(head).ok()?;
    let lines = text.lines().take_while(|line| !line.is_empty());
    let mut headers = lines.skip(1).filter_map(|line| line.split_once(':'));
    headers
        .find(|(name, _)| name.eq_ignore_ascii_case("location"))
        .map(|(_, value)| value.trim().to_owned())
}

/// `host:port`, with brackets where they are needed.
fn joined(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn dialled(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        _ => error.to_string(),
    }
}

fn no_port(port: Option<&IntOrString>) -> Answer {
    let named = match port {
        Some(IntOrString::String(name)) => name.clone(),
        Some(IntOrString::Int(port)) => port.to_string(),
        None => String::new(),
    };
    Answer::Unknown(format!("couldn't find port: {named:?}"))
}

fn shown(error: &CriError) -> String {
    format!("rpc error: {error}")
}

#[cfg(test)]
mod tests;
