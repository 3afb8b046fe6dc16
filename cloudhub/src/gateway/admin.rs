//! `/kurator/v1/…`: tokens, nodes, revocation, and where an edit is. JSON; administrators only; errors are Kubernetes Statuses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use metastore::api::{Cause, Status, User};
use proto::JoinToken;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Body, journals, json, why};
use crate::enroll::{MAX_TTL_SECONDS, MAX_USES, TokenRecord, good_label, hex};
use crate::fleet::{Fleet, Live};
use crate::upstream::{Presences, SetFacts, rfc3339};

/// A request's body; tokens are small.
const MAX_REQUEST: usize = 64 * 1024;
const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// How long one session may take to say how it stands.
const ASK_DEADLINE: Duration = Duration::from_millis(500);
/// Sessions asked at a time.
const ASK_AT_ONCE: usize = 64;

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct TokenRequest {
    node: Option<String>,
    ttl_seconds: u64,
    uses: u32,
    labels: BTreeMap<String, String>,
}

impl Default for TokenRequest {
    fn default() -> Self {
        Self {
            node: None,
            ttl_seconds: 900,
            uses: 1,
            labels: BTreeMap::new(),
        }
    }
}

/// Answers a request whose path below `/kurator/v1/` is `path`.
///
/// # Errors
/// What the caller is told instead.
pub(crate) async fn answer(
    fleet: &Arc<Fleet>,
    user: &User,
    path: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Status> {
    if !user.is_master() {
        let why = format!(
            "User \"{}\" cannot use path \"/kurator/v1/{path}\": only members of system:masters may",
            user.name
        );
        return Err(Status::forbidden_path(&why));
    }
    let method = request.method().clone();
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    match (&method, parts.as_slice()) {
        (&Method::POST, ["tokens"]) => create_token(fleet, request).await,
        (&Method::GET, ["tokens"]) => Ok(json(StatusCode::OK, &json!({"items": tokens(fleet)}))),
        (&Method::DELETE, ["tokens", id]) => {
            if fleet.directory.revoke_token(id).await.map_err(|e| unavailable(&e))? {
                Ok(json(StatusCode::OK, &json!({"id": id, "state": "revoked"})))
            } else {
                Err(Status::not_found("", "tokens", id))
            }
        }
        (&Method::GET, ["nodes"]) => Ok(json(StatusCode::OK, &json!({"items": nodes(fleet).await}))),
        (&Method::POST, ["nodes", node, "revoke"]) => match fleet.revoke(node).await.map_err(|e| unavailable(&e))? {
            Some(ended) => Ok(json(StatusCode::OK, &json!({"node": node, "sessionsEnded": ended}))),
            None => Err(Status::not_found("", "nodes", node)),
        },
        (&Method::GET, ["why", "device", namespace, name]) => {
            let property = request.uri().query().and_then(|q| query_value(q, "property"));
            Ok(json(
                StatusCode::OK,
                &why::device(fleet, namespace, name, property.as_deref()).await?,
            ))
        }
        (&Method::GET, ["journals", node, stream]) => {
            let page = journals::page(fleet, node, stream, request.uri().query().unwrap_or_default()).await?;
            Ok(json(StatusCode::OK, &page))
        }
        (&Method::GET, ["audit"]) => Ok(json(StatusCode::OK, &fleet.api.audit_page(request.uri().query())?)),
        (&Method::GET, ["why", "node", name]) => Ok(json(StatusCode::OK, &why::node(fleet, name).await?)),
        (
            _,
            ["tokens" | "nodes" | "audit"]
            | ["tokens", _]
            | ["nodes", _, "revoke"]
            | ["journals", _, _]
            | ["why", "device", _, _]
            | ["why", "node", _],
        ) => Err(Status::method_not_allowed()),
        _ => Err(Status::no_such_resource()),
    }
}

fn unavailable(e: &metastore::store::CommitError) -> Status {
    Status::unavailable(format!("the hub could not record it: {e}"))
}

async fn read<T: for<'a> Deserialize<'a>>(request: Request<Incoming>) -> Result<T, Status> {
    let body = Limited::new(request.into_body(), MAX_REQUEST).collect();
    let body = tokio::time::timeout(BODY_DEADLINE, body)
        .await
        .map_err(|_| Status::bad_request("the body did not come in time"))?
        .map_err(|_| Status::too_large(MAX_REQUEST))?
        .to_bytes();
    let body = if body.is_empty() {
        bytes::Bytes::from_static(b"{}")
    } else {
        body
    };
    let wrong = |e: &dyn std::fmt::Display| Status::bad_request(format!("the body is not what is expected: {e}"));
    // Through a map: a list would be taken for the fields in their order.
    let fields: serde_json::Map<String, Value> = serde_json::from_slice(&body).map_err(|e| wrong(&e))?;
    T::deserialize(Value::Object(fields)).map_err(|e| wrong(&e))
}

async fn create_token(fleet: &Arc<Fleet>, request: Request<Incoming>) -> Result<Response<Body>, Status> {
    let asked: TokenRequest = read(request).await?;
    let mut causes = Vec::new();
    if let Some(node) = asked.node.as_deref().filter(|n| !link::pki::is_node_name(n)) {
        causes.push(Cause::invalid(
            "node",
            node,
            "must be a DNS name of lower-case letters, digits, '-' and '.'",
        ));
    }
    if asked.ttl_seconds == 0 || asked.ttl_seconds > MAX_TTL_SECONDS {
        let why = format!("must be between 1 and {MAX_TTL_SECONDS}");
        causes.push(Cause::invalid("ttlSeconds", &asked.ttl_seconds.to_string(), &why));
    }
    if asked.uses == 0 || asked.uses > MAX_USES {
        causes.push(Cause::invalid(
            "uses",
            &asked.uses.to_string(),
            &format!("must be between 1 and {MAX_USES}"),
        ));
    }
    if asked.labels.len() > proto::limits::MAX_LABELS {
        causes.push(Cause::invalid("labels", "", "too many"));
    }
    for (key, value) in asked.labels.iter().filter(|(k, v)| !good_label(k, v)) {
        causes.push(Cause::invalid(format!("labels[{key}]"), value, "is no label"));
    }
    if !causes.is_empty() {
        return Err(Status::invalid("", "Token", "", causes));
    }
    let token =
        JoinToken::generate(fleet.hub_addrs.clone(), fleet.ca.pin().0).map_err(|e| Status::internal(e.to_string()))?;
    let now = daemon::clock::wall_ms();
    let record = TokenRecord {
        id: token.id.clone(),
        secret_hash: hex(&token.secret_hash()),
        node: asked.node,
        labels: asked.labels,
        created: now,
        expires: now.saturating_add(asked.ttl_seconds * 1000),
        uses_left: asked.uses,
        revoked: false,
    };
    let answer = json!({
        "id": record.id,
        "token": token.to_string(),
        "expires": rfc3339(record.expires),
        "node": record.node,
        "uses": record.uses_left,
        "labels": record.labels,
    });
    fleet
        .directory
        .add_token(record, now)
        .await
        .map_err(|e| Status::unavailable(e.to_string()))?;
    Ok(json(StatusCode::CREATED, &answer))
}

fn tokens(fleet: &Fleet) -> Vec<Value> {
    let now = daemon::clock::wall_ms();
    let one = |t: TokenRecord| {
        json!({
            "id": t.id,
            "node": t.node,
            "created": rfc3339(t.created),
            "expires": rfc3339(t.expires),
            "usesLeft": t.uses_left,
            "labels": t.labels,
            "state": t.state(now),
        })
    };
    fleet.directory.tokens().into_iter().map(one).collect()
}

/// Asks a session how it stands, unless it is too busy to say.
pub(crate) async fn refresh(live: &Live) {
    if tokio::time::timeout(ASK_DEADLINE, live.refresh()).await.is_err() {
        tracing::debug!(node = %live.node, "a session is too busy to say how it stands");
    }
}

async fn nodes(fleet: &Arc<Fleet>) -> Vec<Value> {
    futures_util::stream::iter(fleet.registry.all())
        .for_each_concurrent(ASK_AT_ONCE, |live| async move { refresh(&live).await })
        .await;
    let mut names: Vec<Arc<str>> = fleet.directory.nodes().into_iter().map(|(n, _)| n).collect();
    names.sort_unstable();
    names.iter().map(|name| node(fleet, name)).collect()
}

fn node(fleet: &Fleet, name: &Arc<str>) -> Value {
    let p = fleet.registry.of(name);
    let live = fleet.registry.get(name);
    let exchanged = fleet.registry.exchanged(name);
    let set = |facts: Option<&SetFacts>| {
        facts.map(|f| {
            json!({
                "digest": format!("{:032x}", f.digest),
                "peerDigest": format!("{:032x}", f.peer),
                "entries": f.entries,
                "refused": f.refused,
                "refusedKeys": f.refused_keys.iter().map(|(k, r)| json!({"key": k, "reason": r})).collect::<Vec<_>>(),
            })
        })
    };
    json!({
        "name": &**name,
        "connected": p.connected,
        "revoked": p.revoked,
        "duplicateIdentity": p.duplicate,
        "link": p.link,
        "lastSeen": (p.last_seen != 0).then(|| rfc3339(p.last_seen)),
        "since": (p.since != 0).then(|| rfc3339(p.since)),
        "sessionEpoch": (p.epoch != 0).then_some(p.epoch),
        "desired": set(p.desired.as_ref()),
        "observed": set(p.observed.as_ref()),
        "inSync": p.connected && p.in_sync,
        "pendingKeys": live.map_or(0, |l| l.facts().waiting),
        "bytesSent": p.sent,
        "bytesReceived": p.received,
        "objectsSent": exchanged.sent.get(),
        "objectsReceived": exchanged.received.get(),
        "journals": p.journals,
        "address": p.address,
        "version": p.agent_version,
        "arch": p.arch,
        "labels": p.labels,
    })
}

/// One value out of a query string, percent-decoded.
pub(super) fn query_value(query: &str, name: &str) -> Option<String> {
    let raw = query.split('&').find_map(|p| p.strip_prefix(name)?.strip_prefix('='))?;
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(b) = bytes.next() {
        match b {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                let text = std::str::from_utf8(&digits).ok()?;
                out.push(u8::from_str_radix(text, 16).ok()?);
            }
            b'+' => out.push(b' '),
            b => out.push(b),
        }
    }
    String::from_utf8(out).ok().filter(|v| !v.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_values_are_decoded_or_nothing() {
        assert_eq!(
            query_value("a=1&property=set%20point", "property").as_deref(),
            Some("set point")
        );
        assert_eq!(query_value("property=a+b", "property").as_deref(), Some("a b"));
        for bad in [
            "",
            "property=",
            "property=%",
            "property=%zz",
            "property=%ff",
            "xproperty=1",
        ] {
            assert_eq!(query_value(bad, "property"), None, "{bad}");
        }
    }
}
