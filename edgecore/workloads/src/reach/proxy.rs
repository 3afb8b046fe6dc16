//! `pods/proxy` and `services/proxy`: a request goes on to a program's own address, and its answer comes back, upgraded connections too.
//!
//! Where to is said by the object alone; addresses that lead to this machine alone, to
//! neighbours or to many are refused. The caller's credentials stay here.

use std::net::IpAddr;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyDataStream, Full};
use hyper_util::rt::TokioIo;
use metastore::api::{ApiBody, Connect, Status};
use metastore::store::{ObjectKey, Store};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use super::carry;
use super::dial::{self, Asked};

/// What is between two neighbours only, or about the caller.
const NOT_PASSED_ON: [HeaderName; 8] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::AUTHORIZATION,
    header::HOST,
    header::CONTENT_LENGTH,
    header::PROXY_AUTHORIZATION,
];

/// Answers a request for what a pod or a service serves.
pub(super) async fn answer(
    store: &Store,
    mut to: Connect,
    place: OwnedSemaphorePermit,
) -> Result<Response<ApiBody>, Status> {
    let asked = to.parts.uri.path().to_owned();
    if let Some(redirect) = to_folder(&to, &asked) {
        return Ok(redirect);
    }
    if to.port.tls {
        return Err(Status::bad_request(
            "a program is reached by http; https has no certificate that could be checked",
        ));
    }
    let (ip, port) = match to.kind.plural() {
        "services" => service(store, &to)?,
        _ => pod(&to)?,
    };
    let host = match ip {
        IpAddr::V4(ip) => format!("{ip}:{port}"),
        IpAddr::V6(ip) => format!("[{ip}]:{port}"),
    };
    // As it was written, with what is escaped in it.
    let (before, tail) = split(&asked);
    let query = to
        .parts
        .uri
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let uri: Uri = format!("http://{host}/{tail}{query}")
        .parse()
        .map_err(|_| Status::bad_request("the path cannot be passed on"))?;
    let upgrade = to.parts.headers.get(header::UPGRADE).cloned();
    let mut request = Request::new(Full::new(std::mem::take(&mut to.body)));
    *request.uri_mut() = uri;
    request.method_mut().clone_from(&to.parts.method);
    pass_on(&to.parts.headers, &before, tail, request.headers_mut());
    let reach = |e: dial::DialError| Status::unavailable(format!("error trying to reach service: {e}"));
    if let Some(upgrade) = upgrade {
        request
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        request.headers_mut().insert(header::UPGRADE, upgrade);
        let from_client = hyper::upgrade::on(Request::from_parts(to.parts, ()));
        return match dial::ask(request).await.map_err(reach)? {
            Asked::Refused(status, text) => Err(Status::new(status, "", text)),
            Asked::Upgraded(headers, program) => {
                tokio::spawn(async move {
                    let _place = place;
                    let Ok(client) = from_client.await else { return };
                    if let Err(e) = carry::plain(TokioIo::new(client), program).await {
                        tracing::debug!(error = %e, "A proxied connection broke off.");
                    }
                });
                let mut response = Response::new(ApiBody::full(Bytes::new()));
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                *response.headers_mut() = headers;
                Ok(response)
            }
        };
    }
    let (mut parts, body) = dial::send(request).await.map_err(reach)?.into_parts();
    for name in [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::TE,
        header::TRAILER,
    ] {
        parts.headers.remove(name);
    }
    if let Some(location) = parts.headers.get(header::LOCATION).and_then(|l| l.to_str().ok())
        && let Some(through) = back_through(location, &before, &host)
        && let Ok(through) = HeaderValue::from_str(&through)
    {
        parts.headers.insert(header::LOCATION, through);
    }
    parts.extensions.clear();
    // What breaks off is seen by its length, where it had one.
    let pieces = BodyDataStream::new(body)
        .take_while(|piece| std::future::ready(piece.is_ok()))
        .filter_map(|piece| std::future::ready(piece.ok()))
        .map(move |piece| {
            let _place = &place;
            piece
        });
    Ok(Response::from_parts(parts, ApiBody::stream(pieces)))
}

/// A browser that asks for the program's root has to ask for a folder, or its links lead elsewhere.
fn to_folder(to: &Connect, asked: &str) -> Option<Response<ApiBody>> {
    let reads = matches!(to.parts.method, Method::GET | Method::HEAD);
    if !to.path.is_empty() || asked.ends_with('/') || !reads {
        return None;
    }
    let query = to
        .parts
        .uri
        .query()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let location = HeaderValue::from_str(&format!("{asked}/{query}")).ok()?;
    let mut response = Response::new(ApiBody::full(Bytes::new()));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, location);
    Some(response)
}

/// The path up to `proxy`, and what follows it.
fn split(path: &str) -> (String, &str) {
    // `proxy` may stand in names before it and in the path behind it: it is the third segment of `pods/NAME/proxy`, behind the namespace if any.
    let skipped = if path.starts_with("/api/v1/namespaces/") { 7 } else { 5 };
    let at = path.match_indices('/').nth(skipped).map_or(path.len(), |(at, _)| at);
    (path[..at].to_owned(), path[at..].trim_start_matches('/'))
}

fn pass_on(from: &HeaderMap, before: &str, tail: &str, to: &mut HeaderMap) {
    let named: Vec<String> = from
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    for (name, value) in from {
        let text = name.as_str();
        let kept = NOT_PASSED_ON.contains(name)
            || *name == header::UPGRADE
            || text.starts_with("impersonate-")
            || text == "keep-alive"
            || text == "proxy-connection"
            || named.iter().any(|n| n == text);
        if !kept {
            to.append(name.clone(), value.clone());
        }
    }
    if let Ok(uri) = HeaderValue::from_str(&format!("{before}/{tail}")) {
        to.insert("x-forwarded-uri", uri);
    }
    if let Some(host) = from.get(header::HOST) {
        to.insert("x-forwarded-host", host.clone());
    }
    to.insert("x-forwarded-proto", HeaderValue::from_static("https"));
}

/// A redirect within the program, as the client has to follow it. `None`: it leads elsewhere, or is relative.
fn back_through(location: &str, before: &str, host: &str) -> Option<String> {
    let own = location
        .strip_prefix("http://")
        .and_then(|rest| rest.strip_prefix(host));
    let path = own.unwrap_or(location);
    if path.starts_with("//") || !path.starts_with('/') && own.is_none() || path.starts_with(before) {
        return None;
    }
    Some(format!("{before}/{}", path.trim_start_matches('/')))
}

/// Where a pod's program listens.
fn pod(to: &Connect) -> Result<(IpAddr, u16), Status> {
    let said = &to.port.port;
    let port = if said.is_empty() {
        let containers = to.object["spec"]["containers"].as_array();
        let first = containers
            .into_iter()
            .flatten()
            .find_map(|container| container["ports"][0]["containerPort"].as_u64());
        first.map_or(Some(80), |port| u16::try_from(port).ok())
    } else {
        said.parse().ok()
    };
    let port = port.ok_or_else(|| Status::bad_request(format!("{said:?} is no port of a pod")))?;
    Ok((allowed(&to.object["status"]["podIP"])?, port))
}

/// Where one of the programs behind a service listens.
fn service(store: &Store, to: &Connect) -> Result<(IpAddr, u16), Status> {
    let text = |field: &str| to.object["metadata"][field].as_str().unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    let none = || Status::unavailable(format!("no endpoints available for service {name:?}"));
    let mut port = to.port.port.clone();
    if let Ok(number) = port.parse::<u64>() {
        let ports = to.object["spec"]["ports"].as_array();
        let Some(found) = ports.into_iter().flatten().find(|port| port["port"] == number) else {
            return Err(Status::unavailable(format!(
                "no service port {number} found for service {name:?}"
            )));
        };
        port = found["name"].as_str().unwrap_or_default().to_owned();
    }
    let endpoints = store
        .get(&ObjectKey::new("", "endpoints", namespace, name))
        .map_err(|e| Status::internal(e.to_string()))?
        .ok_or_else(|| Status::not_found("", "endpoints", name))?;
    let endpoints = endpoints.value().map_err(|e| Status::internal(e.to_string()))?;
    let mut found: Vec<(&Value, u16)> = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        let ports = subset["ports"].as_array().into_iter().flatten();
        let number = ports
            .filter(|p| p["name"].as_str().unwrap_or_default() == port)
            .find_map(|p| u16::try_from(p["port"].as_u64()?).ok());
        let Some(number) = number else { continue };
        for address in subset["addresses"].as_array().into_iter().flatten() {
            found.push((&address["ip"], number));
        }
    }
    if found.is_empty() {
        return Err(none());
    }
    let (ip, number) = found[fastrand::usize(..found.len())];
    Ok((allowed(ip)?, number))
}

/// An address that a program of its own can have.
fn allowed(ip: &Value) -> Result<IpAddr, Status> {
    let ip: Option<IpAddr> = ip.as_str().and_then(|ip| ip.parse().ok());
    // An IPv4 address in the clothes of IPv6 is connected to as what it is.
    let ip = ip.map(|ip| ip.to_canonical());
    let good = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_link_local() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unicast_link_local(),
    };
    ip.filter(|ip| !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && good(ip))
        .ok_or_else(|| Status::bad_request("address not allowed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_behind_its_proxy() {
        let path = "/api/v1/namespaces/proxy/pods/proxy:80/proxy/a%2Fb/proxy/c";
        assert_eq!(
            split(path),
            (
                "/api/v1/namespaces/proxy/pods/proxy:80/proxy".to_owned(),
                "a%2Fb/proxy/c"
            )
        );
        assert_eq!(
            split("/api/v1/namespaces/d/services/w/proxy"),
            ("/api/v1/namespaces/d/services/w/proxy".to_owned(), "")
        );
        assert_eq!(split("/api/v1/namespaces/d/services/w/proxy/").1, "");
        assert_eq!(split("/api/v1/nodes/n/proxy/metrics").0, "/api/v1/nodes/n/proxy");
        assert_eq!(split("/x").1, "");
    }

    #[test]
    fn a_namespace_may_be_called_as_a_resource_is() {
        let path = "/api/v1/namespaces/pods/pods/web/proxy/x";
        assert_eq!(split(path), ("/api/v1/namespaces/pods/pods/web/proxy".to_owned(), "x"));
    }

    #[test]
    fn redirects_come_back_through_here() {
        let back = |location| back_through(location, "/api/v1/namespaces/d/pods/w/proxy", "10.42.0.3:80");
        let through = |rest: &str| Some(format!("/api/v1/namespaces/d/pods/w/proxy{rest}"));
        assert_eq!(back("/login?next=/"), through("/login?next=/"));
        assert_eq!(back("http://10.42.0.3:80/login"), through("/login"));
        for elsewhere in [
            "login",
            "https://example.com/",
            "http://10.42.0.4:80/",
            "//example.com/x",
            "/api/v1/namespaces/d/pods/w/proxy/x",
        ] {
            assert_eq!(back(elsewhere), None, "{elsewhere}");
        }
    }

    #[test]
    fn only_addresses_of_programs_are_reached() {
        let good = |ip: &str| allowed(&ip.into()).is_ok();
        assert!(good("10.42.0.3") && good("192.168.1.5") && good("fd00::3"));
        for bad in [
            "127.0.0.1",
            "169.254.169.254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::1",
            "fe80::1",
            "",
            "x",
        ] {
            assert!(!good(bad), "{bad}");
        }
    }

    #[test]
    fn the_callers_credentials_and_hop_headers_stay() {
        let mut from = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer x"),
            ("impersonate-user", "root"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("host", "gateway"),
            ("accept", "text/html"),
        ] {
            from.append(name, HeaderValue::from_static(value));
        }
        let mut to = HeaderMap::new();
        pass_on(&from, "/p/proxy", "a/b", &mut to);
        let names: Vec<&str> = to.keys().map(HeaderName::as_str).collect();
        assert_eq!(
            names,
            ["accept", "x-forwarded-uri", "x-forwarded-host", "x-forwarded-proto"]
        );
        assert_eq!(to["x-forwarded-uri"], "/p/proxy/a/b");
    }
}
