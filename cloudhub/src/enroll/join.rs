//! Answers a gateway that wants to join: looks at its token, signs its key, records both, and only then says yes.
//!
//! Checks, in this order: the request's version; the token (known with that secret, not revoked, not expired, uses left, for this
//! node); the name and labels; whether the name is taken; the certificate request. Whoever does not know a token's secret learns nothing else.
//!
//! A name is taken while its identity has a certificate in time and was not revoked. Only a token bound to that name takes it over
//! (a gateway that was replaced or lost its disk): its earlier certificates are void from then on and its live session is ended.
//! A revoked name is free again in the same way: by a token bound to it, made after the revocation.
//!
//! The same request twice (nonce, token and key alike) is answered twice at the price of one use: an answer lost on the way costs
//! nobody a token.

use std::collections::BTreeMap;

use link::pki::{HubCa, NodeProfile, is_node_name};
use proto::join::{Admitted, JoinCode, JoinRefusal, JoinRequest};

use super::directory::{Directory, Joined};
use super::identity::{Certificate, Identity};
use super::token::{TokenRecord, TokenRefusal, good_label};
use crate::config::Config;

/// How long a repeated request counts as the same.
const SAME_REQUEST_MS: u64 = 10 * 60 * 1000;

/// What a join led to, beside the answer.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// For the gateway.
    pub(crate) admitted: Admitted,
    /// The identity was taken over from an earlier certificate: sessions under that one are over.
    pub(crate) replaced: bool,
}

/// A refusal with its code.
fn refuse(code: JoinCode, message: impl Into<String>, hint: &str) -> JoinRefusal {
    JoinRefusal {
        code,
        message: message.into(),
        hint: hint.to_owned(),
        retry_after: None,
    }
}

fn token_refusal(why: TokenRefusal, token: Option<&TokenRecord>, node: &str) -> JoinRefusal {
    let make = "make a new one on the hub: kurator token create";
    match why {
        TokenRefusal::Unknown => refuse(
            JoinCode::Unknown,
            "this hub does not know the token",
            "check that it is this hub's and complete, or make a new one: kurator token create",
        ),
        TokenRefusal::Revoked => refuse(JoinCode::Revoked, "the token was revoked", make),
        TokenRefusal::Expired => refuse(JoinCode::Expired, "the token has expired", make),
        TokenRefusal::Used => refuse(JoinCode::Used, "the token has been used", make),
        TokenRefusal::WrongNode => {
            let bound = token.and_then(|t| t.node.as_deref()).unwrap_or_default();
            refuse(
                JoinCode::WrongNode,
                format!("the token is for node {bound}, not for {node}"),
                "join with --node-name as the token says, or make a token for this node: kurator token create --node NAME",
            )
        }
    }
}

/// Decides about a request. `hub_addrs` is what tokens carry.
///
/// # Errors
/// What the gateway is told.
pub(crate) async fn answer(
    directory: &Directory,
    ca: &HubCa,
    config: &Config,
    hub_addrs: &[String],
    request: JoinRequest,
    now: u64,
) -> Result<Outcome, JoinRefusal> {
    let versions = proto::limits::VERSIONS;
    if request.version < versions.min {
        let what = format!(
            "the agent speaks protocol version {}, this hub {} to {}",
            request.version, versions.min, versions.max
        );
        return Err(refuse(JoinCode::Version, what, "install a newer agent"));
    }
    let hash = hex(&proto::secret_hash(&request.token_id, request.token_secret.expose()));
    let mut replaced = false;
    let mut result = None;
    let decided = directory
        .join(&request.token_id, |token, identity| {
            let joined = decide(token, identity, ca, config, &request, &hash, now)?;
            replaced = joined.replaced;
            let records = joined.records;
            result = Some((joined.node, joined.labels, joined.chain));
            Ok(records)
        })
        .await;
    match decided {
        Ok(Ok(())) => {}
        Ok(Err(refusal)) => return Err(refusal),
        Err(e) => {
            tracing::error!(error = %e, "A join could not be recorded.");
            return Err(refuse(
                JoinCode::Internal,
                "the hub could not record the join",
                "look at the hub's log and try again",
            ));
        }
    }
    let (node, labels, chain) = result.expect("a join without refusal has a result");
    let admitted = Admitted {
        node_name: node,
        cert_chain: chain,
        ca: bytes::Bytes::copy_from_slice(ca.cert()),
        hub_addrs: hub_addrs.to_vec(),
        heartbeat: config.heartbeat.0,
        labels,
        trust_domain: config.trust_domain.clone(),
    };
    Ok(Outcome { admitted, replaced })
}

struct Decision {
    node: String,
    labels: BTreeMap<String, String>,
    chain: Vec<bytes::Bytes>,
    replaced: bool,
    records: Option<Joined>,
}

fn decide(
    token: Option<&TokenRecord>,
    identity: &dyn Fn(&str) -> Option<Identity>,
    ca: &HubCa,
    config: &Config,
    request: &JoinRequest,
    hash: &str,
    now: u64,
) -> Result<Decision, JoinRefusal> {
    let bound = token.and_then(|t| t.node.as_deref());
    let node = if request.node_name.is_empty() {
        bound.unwrap_or_default()
    } else {
        request.node_name.as_str()
    };
    let token = token
        .filter(|t| t.secret_hash == hash)
        .ok_or_else(|| token_refusal(TokenRefusal::Unknown, None, node))?;
    let known = identity(node);
    let profile = NodeProfile {
        node,
        trust_domain: &config.trust_domain,
        valid: config.certificate_lifetime.0,
    };
    // Signed before it is decided, because only that tells which key the request is for; nothing accepts it until it is recorded.
    let issued = ca.issue_node(&request.csr_der, &profile, now);
    let key = issued.as_ref().map(|i| hex(&i.info.pin.0)).unwrap_or_default();
    let same = format!("{} {key}", hex(&request.nonce));
    let again = known.as_ref().is_some_and(|i| {
        !i.revoked && i.token == token.id && i.request == same && now.saturating_sub(i.joined) < SAME_REQUEST_MS
    });
    match token.check(hash, node, now) {
        Ok(()) => {}
        // The use it took is its own.
        Err(TokenRefusal::Used) if again => {}
        Err(why) => return Err(token_refusal(why, Some(token), node)),
    }
    if !is_node_name(node) {
        let what =
            format!("{node:?} cannot be a node's name: it has lower-case letters, digits, '-' and '.', as a DNS name");
        return Err(refuse(JoinCode::BadRequest, what, "choose one with --node-name"));
    }
    if let Some((key, value)) = request.labels.iter().find(|(k, v)| !good_label(k, v)) {
        let what = format!("{key}={value} is no label");
        return Err(refuse(
            JoinCode::BadRequest,
            what,
            "labels are key=value of letters, digits, '-', '_' and '.', at most 63 long",
        ));
    }
    let is_bound = token.node.as_deref() == Some(node);
    if !again && !is_bound {
        if known.as_ref().is_some_and(|i| i.revoked) {
            let what = format!("node {node} was revoked");
            return Err(refuse(
                JoinCode::Revoked,
                what,
                "let it back in with a token bound to it: kurator token create --node NAME",
            ));
        }
        if known.as_ref().is_some_and(|i| i.taken(now)) {
            let what = format!("another gateway has joined as {node}");
            return Err(refuse(
                JoinCode::NameTaken,
                what,
                "choose another --node-name, or replace that gateway with a token bound to the name: kurator token create --node NAME",
            ));
        }
    }
    let issued = issued.map_err(|e| {
        refuse(
            JoinCode::BadCsr,
            e.to_string(),
            "run kurator join edge again; it makes a new key",
        )
    })?;
    let certificate = Certificate {
        serial: issued.info.serial.clone(),
        not_after: issued.info.not_after_ms,
        issued: now,
    };
    let replaced = !again && known.is_some();
    let certificates = match known {
        // Both answers to one request may arrive; either certificate is good.
        Some(mut identity) if again => {
            identity.certificates.truncate(2);
            identity.certificates.push(certificate);
            identity.certificates
        }
        _ => vec![certificate],
    };
    // What whoever made the token says counts over what the gateway wishes.
    let mut labels = request.labels.clone();
    labels.extend(token.labels.clone());
    let record = Identity {
        node: node.to_owned(),
        certificates,
        revoked: false,
        joined: now,
        token: token.id.clone(),
        request: same,
        labels: labels.clone(),
        agent_version: request.agent_version.clone(),
        arch: request.arch.clone(),
        cluster: None,
    };
    let token = if again { token.clone() } else { token.clone().consumed() };
    Ok(Decision {
        node: node.to_owned(),
        labels,
        chain: issued.chain.iter().map(|c| bytes::Bytes::copy_from_slice(c)).collect(),
        replaced,
        records: Some(Joined {
            token,
            identity: record,
        }),
    })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        write!(out, "{b:02x}").expect("a String takes every write");
        out
    })
}
