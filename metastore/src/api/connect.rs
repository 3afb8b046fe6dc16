//! Subresources that lead to a running program: logs, exec, attach, port-forward, proxies. Here stand their rules; the way to the program is a
//! [`Connector`] that the daemon gives, and without one the answer says so. Never opens a connection itself.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response, StatusCode, header};
use serde_json::Value;

use super::body::ApiBody;
use super::kinds::{Connects, KindSpec};
use super::measured::Measured;
use super::request::Query;
use super::server::{Call, Core, text_response};
use super::status::Status;
use super::write::parse;
use crate::store::ObjectKey;

const STREAMED: &[&str] = &["create", "get"];
const PROXIED: &[&str] = &["create", "delete", "get", "patch", "update"];

/// Those of Pods.
pub(crate) const OF_PODS: &[Connects] = &[
    connects("attach", "PodAttachOptions", STREAMED),
    connects("exec", "PodExecOptions", STREAMED),
    connects("log", "Pod", &["get"]),
    connects("portforward", "PodPortForwardOptions", STREAMED),
    connects("proxy", "PodProxyOptions", PROXIED),
];
/// Those of Services.
pub(crate) const OF_SERVICES: &[Connects] = &[connects("proxy", "ServiceProxyOptions", PROXIED)];
/// Those of Nodes.
pub(crate) const OF_NODES: &[Connects] = &[connects("proxy", "NodeProxyOptions", PROXIED)];

const fn connects(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Connects {
    Connects { name, kind, verbs }
}

/// A request that wants to reach the program behind an object. It was authorized, and its options go together with the object.
#[derive(Debug)]
pub struct Connect {
    /// The row of the object.
    pub kind: Arc<KindSpec>,
    /// The object.
    pub object: Value,
    /// `log`, `exec`, `attach`, `portforward` or `proxy`.
    pub subresource: String,
    /// What follows `proxy` in the path, without the slash at its beginning.
    pub path: String,
    /// Where `proxy` leads, as the name in the path says it.
    pub port: ProxyPort,
    /// What the request asks for beside its path.
    pub query: Query,
    /// The container that is meant, where containers are.
    pub container: Option<String>,
    /// The request; its extensions carry what upgrades the connection.
    pub parts: Parts,
    /// Its body.
    pub body: Bytes,
}

/// What a name in the path of a proxy says beside the name: `[scheme:]name[:port]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyPort {
    /// Whether TLS is spoken there.
    pub tls: bool,
    /// A number or the name of a port; empty when the object decides.
    pub port: String,
}

impl ProxyPort {
    /// Takes a name in a path apart, `None` when it is none.
    fn split(name: &str) -> Option<(Self, &str)> {
        let parts: Vec<&str> = name.split(':').collect();
        let (tls, name, port) = match parts.as_slice() {
            [name] => (false, *name, ""),
            [name, port] => (false, *name, *port),
            ["http", name, port] => (false, *name, *port),
            ["https", name, port] => (true, *name, *port),
            _ => return None,
        };
        let port = port.to_owned();
        (!name.is_empty()).then_some((Self { tls, port }, name))
    }
}

/// The answer of a [`Connector`], once there is one.
pub type Connected = Pin<Box<dyn Future<Output = Result<Response<ApiBody>, Status>> + Send>>;

/// What is used, once it is known.
pub type Measurement = Pin<Box<dyn Future<Output = Result<Vec<Value>, Status>> + Send>>;

/// Reaches running programs.
pub trait Connector: Send + Sync {
    /// Answers a request on a program: with a stream, an upgraded connection, or a refusal.
    fn connect(&self, to: Connect) -> Connected;

    /// What nodes or pods use now: `NodeMetrics` or `PodMetrics`, without kind and version.
    fn measure(&self, _of: Measured) -> Measurement {
        Box::pin(async { Err(Status::unavailable("nothing is measured here")) })
    }
}

impl Core {
    /// Any method on a subresource that leads to a program.
    pub(crate) async fn connect(&self, call: Call, path: String, body: Bytes) -> Result<Response<ApiBody>, Status> {
        let Call {
            kind,
            namespace,
            name,
            subresource,
            query,
            parts,
            ..
        } = call;
        let mut name = name.unwrap_or_default();
        let mut port = ProxyPort::default();
        if subresource == "proxy" {
            let Some((said, bare)) = ProxyPort::split(&name) else {
                let what = kind.kind.to_lowercase();
                return Err(Status::bad_request(format!("invalid {what} request {name:?}")));
            };
            (port, name) = (said, bare.to_owned());
        }
        let Some(stored) = self.read(&kind.key(namespace.as_deref().unwrap_or_default(), &name))? else {
            return Err(Status::not_found(&kind.group, &kind.plural, &name));
        };
        let mut object = parse(&stored)?;
        kind.show(&mut object);
        let mut container = None;
        if &*kind.plural == "pods" {
            if matches!(subresource.as_str(), "log" | "exec" | "attach") {
                container = Some(container_of(
                    &object,
                    query.get("container").unwrap_or_default(),
                    &name,
                )?);
            }
            let node = object
                .pointer("/spec/nodeName")
                .and_then(Value::as_str)
                .unwrap_or_default();
            match subresource.as_str() {
                "log" if node.is_empty() => return Ok(text_response(StatusCode::NO_CONTENT, "")),
                _ if node.is_empty() => {
                    return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
                }
                _ => {}
            }
            if self.read(&ObjectKey::new("", "nodes", "", node))?.is_none() {
                return Err(Status::not_found("", "pods", node));
            }
            if matches!(subresource.as_str(), "exec" | "attach" | "portforward")
                && !parts.headers.contains_key(header::UPGRADE)
                && parts.method != Method::CONNECT
            {
                return Err(Status::bad_request("Upgrade request required"));
            }
        }
        let Some(connector) = &self.connector else {
            return Err(unreachable(&kind, &name, &subresource));
        };
        let to = Connect {
            kind,
            object,
            subresource,
            path,
            port,
            query,
            container,
            parts,
            body,
        };
        connector.connect(to).await
    }
}

/// What a client is told where nothing runs programs: a service without a program behind it is not available, and a node does not answer.
fn unreachable(kind: &KindSpec, name: &str, subresource: &str) -> Status {
    let why = format!(
        "no program behind {} {name:?} can be reached: this server runs without a connection to where {}/{subresource} leads",
        kind.kind, kind.plural
    );
    if &*kind.plural == "services" {
        Status::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", why)
    } else {
        Status::new(StatusCode::INTERNAL_SERVER_ERROR, "", why)
    }
}

/// The container that a request means: the one it names, or the only one, or the one that the pod says.
fn container_of(pod: &Value, asked: &str, name: &str) -> Result<String, Status> {
    let names = |list: &str| {
        pod.pointer(&format!("/spec/{list}"))
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|c| c.get("name").and_then(Value::as_str))
            .collect::<Vec<_>>()
    };
    let containers = names("containers");
    let all = [
        containers.clone(),
        names("initContainers"),
        names("ephemeralContainers"),
    ]
    .concat();
    if asked.is_empty() {
        return match containers.as_slice() {
            [one] => Ok((*one).to_owned()),
            _ => Err(Status::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                containers.join(" ")
            ))),
        };
    }
    if !all.contains(&asked) {
        return Err(Status::bad_request(format!(
            "container {asked} is not valid for pod {name}"
        )));
    }
    Ok(asked.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_say_how_and_where_to() {
        let split = |name| ProxyPort::split(name).map(|(p, name)| (p.tls, name, p.port));
        assert_eq!(split("web"), Some((false, "web", String::new())));
        assert_eq!(split("web:80"), Some((false, "web", "80".to_owned())));
        assert_eq!(split("https:web:"), Some((true, "web", String::new())));
        assert_eq!(split("http:web:main"), Some((false, "web", "main".to_owned())));
        for bad in ["", ":80", "ftp:web:80", "a:b:c:d", "http::80"] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }
}
