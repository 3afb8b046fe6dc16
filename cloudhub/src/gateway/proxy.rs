//! `/clusters/<node>/<path…>`: a request to a gateway's own API, carried by a stream of its link, under the caller's identity.
//!
//! The gateway takes the hub's word for who asks: it comes as `Impersonate-` headers. Whatever of those a client sends itself was taken in
//! at the hub, by the hub's roles, and is taken off. A ServiceAccount of the hub has the name of one that the gateway may have too; it gets
//! through only where the hub's roles let it (`/clusters/<node>/…` as a path).
//!
//! Where the name is a site's, [`site`] chooses which of its gateways the request goes to, or puts their answers together; who may ask is
//! decided here for both.

mod merge;
mod path;
mod site;

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, LOCATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use link::tunnel::{self, TunnelError};
use metastore::api::{Attributes, Peer, Status, User};

use super::Body;
use crate::embedded::node_of;
use crate::fleet::{Fleet, Live};

/// How long a gateway may take until it begins to answer; what comes then (a watch) may take as long as it likes.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);

/// Splits `/clusters/<node>/rest?query`.
fn target(uri: &Uri) -> Option<(String, PathAndQuery)> {
    let rest = uri.path().strip_prefix("/clusters/")?;
    let (node, path) = rest.split_once('/').map_or((rest, ""), |(n, p)| (n, p));
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let target = format!("/{path}{query}").parse().ok()?;
    (!node.is_empty()).then(|| (node.to_owned(), target))
}

/// Puts the caller's identity in, and takes out what is between two neighbours only.
fn rewrite(headers: &mut HeaderMap, user: &User) -> Result<(), Status> {
    let upgrading = headers.contains_key(UPGRADE);
    // "Connection" may name further headers that end here.
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|n| n.trim().parse().ok())
        .filter(|n| *n != UPGRADE)
        .collect();
    for name in named
        .iter()
        .chain([&TE, &TRAILER, &TRANSFER_ENCODING, &AUTHORIZATION, &HOST])
    {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
    if upgrading {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(CONNECTION);
    }
    headers.insert(HOST, HeaderValue::from_static("gateway"));
    let sent: Vec<HeaderName> = headers
        .keys()
        .filter(|n| n.as_str().starts_with("impersonate-"))
        .cloned()
        .collect();
    for name in sent {
        headers.remove(&name);
    }
    if user.name.is_empty() {
        // The gateway would take the request for the hub's own.
        return Err(Status::bad_request("the caller has no name"));
    }
    let value = |text: &str| {
        HeaderValue::from_str(text).map_err(|_| Status::bad_request("the caller's name cannot be sent to the gateway"))
    };
    headers.insert("impersonate-user", value(&user.name)?);
    for group in &user.groups {
        headers.append("impersonate-group", value(group)?);
    }
    if !user.uid.is_empty() {
        headers.insert("impersonate-uid", value(&user.uid)?);
    }
    for (key, values) in &user.extra {
        let name = HeaderName::try_from(format!("impersonate-extra-{}", escaped(key)))
            .map_err(|_| Status::bad_request("what is known of the caller cannot be sent to the gateway"))?;
        for text in values {
            headers.append(name.clone(), value(text)?);
        }
    }
    Ok(())
}

/// A key as it can stand in a header's name.
fn escaped(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    out
}

/// Where a gateway sends its caller on to, as the caller has to ask for it here. `None`: it leads elsewhere.
fn relocated(location: &HeaderValue, node: &str) -> Option<HeaderValue> {
    let path = location.to_str().ok()?;
    if !path.starts_with('/') || path.starts_with("//") {
        return None;
    }
    HeaderValue::from_str(&format!("/clusters/{node}{path}")).ok()
}

/// Where the caller is, for the gateway's log.
fn forwarded_for(headers: &mut HeaderMap, peer: Option<Peer>) {
    headers.remove("x-forwarded-for");
    if let Some(Peer(from)) = peer
        && let Ok(from) = HeaderValue::from_str(&from.ip().to_string())
    {
        headers.insert("x-forwarded-for", from);
    }
}

/// Answers a request below `/clusters/`.
///
/// # Errors
/// What the caller is told when the gateway does not answer itself.
pub(crate) async fn answer(
    fleet: &Arc<Fleet>,
    user: User,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    let Some((name, target)) = target(request.uri()) else {
        return Err(Status::not_found("", "clusters", ""));
    };
    admit(fleet, &user, &name, &request)?;
    let live = fleet.registry.get(&name);
    let is_gateway =
        live.is_some() || fleet.directory.identity(&name).is_some() || fleet.index.edge_node_of(&name).is_some();
    if let Some(members) = fleet.index.members_behind(&name, is_gateway) {
        let site = site::Site::new(fleet, name, members);
        return site.answer(user, target, request).await;
    }
    match live {
        Some(live) => carry(fleet, &live, &name, target, &user, request).await,
        None if is_gateway => Err(Status::unavailable(format!("gateway {name} is not connected"))),
        None => Err(Status::not_found("", "clusters", &name)),
    }
}

/// Whether this caller may ask for anything below `/clusters/<name>/`.
fn admit(fleet: &Fleet, user: &User, name: &str, request: &Request<Incoming>) -> Result<(), Status> {
    let known = user.in_group("system:authenticated");
    if !known || node_of(user).is_some() {
        return Err(Status::forbidden(
            "",
            "clusters",
            name,
            &format!("User \"{}\" cannot proxy to a gateway", user.name),
        ));
    }
    if user.is_service_account() {
        let attributes = Attributes {
            verb: &request.method().as_str().to_ascii_lowercase(),
            path: request.uri().path(),
            ..Attributes::default()
        };
        fleet.api.check(user, &attributes)?;
    }
    Ok(())
}

/// Takes a request to one gateway and its answer back, whatever comes of it: a stream that lasts, or another protocol. `name` is what the
/// caller asked for.
async fn carry(
    fleet: &Fleet,
    live: &Live,
    name: &str,
    target: PathAndQuery,
    user: &User,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    fleet.metrics.proxied_requests.add(1);
    let peer = request.extensions().get::<Peer>().copied();
    rewrite(request.headers_mut(), user)?;
    forwarded_for(request.headers_mut(), peer);
    *request.uri_mut() = Uri::from(target);
    *request.version_mut() = http::Version::HTTP_11;
    let from_client = request
        .headers()
        .contains_key(UPGRADE)
        .then(|| hyper::upgrade::on(&mut request));
    let mut response = tunnel::request(&live.connection, request, HEAD_DEADLINE)
        .await
        .map_err(|e| match e {
            TunnelError::Timeout(_) => Status::new(
                StatusCode::GATEWAY_TIMEOUT,
                "Timeout",
                format!("gateway {} does not answer: {e}", live.node),
            ),
            e => Status::unavailable(format!("gateway {} does not answer: {e}", live.node)),
        })?;
    if let Some(location) = response
        .headers()
        .get(LOCATION)
        .and_then(|location| relocated(location, name))
    {
        response.headers_mut().insert(LOCATION, location);
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(from_client) = from_client
    {
        let from_gateway = hyper::upgrade::on(&mut response);
        let drain = fleet.drain.clone();
        drop(fleet.drain.spawn(async move {
            let joined = async {
                let (mut a, mut b) = (TokioIo::new(from_client.await?), TokioIo::new(from_gateway.await?));
                Ok::<_, super::BoxError>(tokio::io::copy_bidirectional(&mut a, &mut b).await?)
            };
            tokio::select! {
                biased;
                () = drain.stopping() => {}
                ended = joined => if let Err(e) = ended {
                    tracing::debug!(error = %e, "an upgraded connection ended");
                }
            }
        }));
    } else {
        for name in [CONNECTION, TRANSFER_ENCODING, TE, TRAILER] {
            response.headers_mut().remove(name);
        }
    }
    Ok(response.map(|b| b.map_err(Into::into).boxed_unsync()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_keep_path_and_query() {
        let split = |uri: &str| target(&uri.parse().unwrap()).map(|(n, p)| (n, p.to_string()));
        let want = |n: &str, p: &str| Some((n.to_owned(), p.to_owned()));
        assert_eq!(
            split("/clusters/gw-1/api/v1/nodes?watch=1&limit=5"),
            want("gw-1", "/api/v1/nodes?watch=1&limit=5")
        );
        assert_eq!(split("/clusters/gw-1"), want("gw-1", "/"));
        assert_eq!(split("/clusters/gw-1/"), want("gw-1", "/"));
        assert_eq!(split("/clusters//api"), None);
        assert_eq!(split("/cluster/gw-1"), None);
    }

    #[test]
    fn a_gateway_that_sends_on_sends_through_here() {
        let sent = |location| relocated(&HeaderValue::from_static(location), "gw-1");
        assert_eq!(sent("/api/v1/x/proxy/").unwrap(), "/clusters/gw-1/api/v1/x/proxy/");
        assert_eq!(sent("https://example.com/"), None);
        assert_eq!(sent("//example.com/"), None);
        assert_eq!(sent("next"), None);
    }

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter()
            .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
            .collect()
    }

    #[test]
    fn callers_cannot_pretend_and_hop_headers_end_here() {
        let mut h = headers(&[
            ("impersonate-user", "root"),
            ("impersonate-group", "system:masters"),
            ("impersonate-extra-scopes", "x"),
            ("authorization", "Bearer secret"),
            ("connection", "keep-alive, x-secret"),
            ("x-secret", "1"),
            ("accept", "application/json"),
        ]);
        rewrite(&mut h, &User::new("bob", ["dev"])).unwrap();
        assert_eq!(h["impersonate-user"], "bob");
        let groups: Vec<_> = h
            .get_all("impersonate-group")
            .iter()
            .map(|v| v.to_str().unwrap())
            .collect();
        assert_eq!(groups, ["dev", "system:authenticated"]);
        for gone in ["authorization", "connection", "x-secret", "impersonate-extra-scopes"] {
            assert!(!h.contains_key(gone), "{gone}");
        }
        assert_eq!(h["accept"], "application/json");
    }

    #[test]
    fn what_is_known_of_the_caller_goes_along_and_upgrades_pass() {
        let mut h = headers(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")]);
        let mut user = User::new("bob", ["dev"]);
        user.uid = "7".to_owned();
        user.extra
            .insert("a.io/B c".to_owned(), vec!["x".to_owned(), "y".to_owned()]);
        rewrite(&mut h, &user).unwrap();
        assert_eq!(h["impersonate-uid"], "7");
        assert_eq!(h.get_all("impersonate-extra-a.io%2fb%20c").iter().count(), 2);
        assert_eq!(
            (h["connection"].as_bytes(), h["upgrade"].as_bytes()),
            (&b"upgrade"[..], &b"SPDY/3.1"[..])
        );
    }
}
