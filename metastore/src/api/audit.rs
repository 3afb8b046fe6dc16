//! The audit journal: who wrote what, when, from where. One record for each object that a request changed, in the transaction that changed it:
//! there is no write without its record, and no record of a write that did not happen.
//!
//! Records are `audit.k8s.io/v1` events at the level `Metadata`: never a body, never a secret. What the program's own controllers write is
//! not recorded. The store bounds the stream; what a bound forces out is counted there.

use bytes::Bytes;
use http::header;
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};
use std::net::IpAddr;

use super::auth::User;
use super::kinds::KindSpec;
use super::request::Query;
use super::serve::Peer;
use super::server::{Call, Core, OwnProgram};
use super::status::Status;
use super::write::{Writing, store_status};
use crate::store::{Committed, Store, Tx};

/// The journal stream that records go into.
pub const STREAM: &str = "audit";
/// Longest path and program name that are recorded.
const MAX_URI: usize = 512;
const MAX_AGENT: usize = 128;
/// Addresses that a request came through.
const MAX_SOURCES: usize = 4;
/// Groups and extra values of a user that are recorded.
const MAX_GROUPS: usize = 32;
/// Bytes of most records.
const USUAL: usize = 768;
/// Records on a page, when nothing is said and at most, and their bytes.
const PAGE: (usize, usize) = (100, 1000);
const MAX_PAGE_BYTES: usize = 1 << 20;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID", serialize_with = "shown")]
    id: uuid::Uuid,
    stage: &'static str,
    #[serde(rename = "requestURI")]
    uri: &'a str,
    verb: &'a str,
    user: Who<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<Who<'a>>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    sources: Vec<IpAddr>,
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'a str,
    object_ref: About<'a>,
    response_status: Answer,
    request_received_timestamp: String,
    stage_timestamp: String,
}

#[derive(Serialize)]
struct Who<'a> {
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    groups: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct About<'a> {
    resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_group: &'a str,
    api_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subresource: &'a str,
}

#[derive(Serialize)]
struct Answer {
    metadata: Nothing,
    code: u16,
}

#[derive(Serialize)]
struct Nothing {}

fn shown<S: serde::Serializer>(id: &uuid::Uuid, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(id.hyphenated().encode_lower(&mut [0; uuid::fmt::Hyphenated::LENGTH]))
}

impl<'a> Who<'a> {
    fn of(user: &'a User) -> Self {
        Self {
            username: &user.name,
            uid: &user.uid,
            groups: user.groups.get(..MAX_GROUPS).unwrap_or(&user.groups),
        }
    }
}

impl Core {
    /// A transaction with the record of the request that it is, when it is one that is recorded.
    pub(crate) fn audited(&self, tx: Tx, w: &Writing<'_>, name: &str, code: u16) -> Tx {
        match w.call {
            Some(call) if self.is_audited(call) => tx.append(STREAM, record(call, w.kind, name, code)),
            _ => tx,
        }
    }

    /// Tells those who follow the journal of what was committed.
    pub(crate) fn note_audited(&self, done: &Committed) {
        let Some(newest) = done.journal_seqs.last() else { return };
        self.audited.send_if_modified(|known| {
            let grown = *newest > *known;
            *known = (*known).max(*newest);
            grown
        });
    }

    /// Whether what a request changes is recorded.
    pub(crate) fn is_audited(&self, call: &Call) -> bool {
        self.audit && call.parts.extensions.get::<OwnProgram>().is_none()
    }
}

/// The record of a request that changes an object, answered with `code`.
pub(crate) fn record(call: &Call, kind: &KindSpec, name: &str, code: u16) -> Bytes {
    let headers = &call.parts.headers;
    let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let uri = call.parts.uri.path_and_query().map_or("", |p| p.as_str());
    let now = timestamp(daemon::clock::wall_ms());
    let acting = call.asker.is_some().then(|| Who::of(&call.user));
    let record = Record {
        kind: "Event",
        api_version: "audit.k8s.io/v1",
        level: "Metadata",
        // Nobody gains by guessing it, and the system's random numbers cost a call.
        id: uuid::Builder::from_random_bytes(fastrand::u128(..).to_ne_bytes()).into_uuid(),
        stage: "ResponseComplete",
        uri: cut(uri, MAX_URI),
        verb: call.verb,
        user: Who::of(call.asker.as_ref().unwrap_or(&call.user)),
        impersonated_user: acting,
        sources: sources(call),
        user_agent: cut(text(header::USER_AGENT), MAX_AGENT),
        object_ref: About {
            resource: &kind.plural,
            namespace: call.namespace.as_deref().unwrap_or_default(),
            name,
            api_group: &kind.group,
            api_version: &kind.version,
            subresource: &call.subresource,
        },
        response_status: Answer {
            metadata: Nothing {},
            code,
        },
        request_received_timestamp: timestamp(call.received),
        stage_timestamp: now,
    };
    let mut bytes = Vec::with_capacity(USUAL);
    serde_json::to_writer(&mut bytes, &record).expect("a record has string keys only");
    bytes.into()
}

/// Where a request came from: what those before us say, then who is connected to us.
fn sources(call: &Call) -> Vec<IpAddr> {
    let forwarded = call.parts.headers.get("x-forwarded-for").and_then(|v| v.to_str().ok());
    let said = forwarded.into_iter().flat_map(|f| f.split(','));
    let peer = call.parts.extensions.get::<Peer>().map(|p| p.0.ip());
    said.filter_map(|ip| ip.trim().parse().ok())
        .take(MAX_SOURCES)
        .chain(peer)
        .collect()
}

fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|i| text.is_char_boundary(*i));
    &text[..end.unwrap_or(0)]
}

/// RFC 3339 with microseconds, as these records have them.
fn timestamp(ms: u64) -> String {
    let mut text = super::meta::timestamp(ms);
    text.pop();
    text.push_str(&format!(".{:03}000Z", ms % 1000));
    text
}

/// A page of records: `from` a number, `limit` at most.
pub(crate) fn page(store: &Store, query: &Query) -> Result<Value, Status> {
    let number = |name: &str| match query.get(name) {
        None | Some("") => Ok(None),
        Some(text) => text
            .parse::<u64>()
            .map(Some)
            .map_err(|_| Status::bad_request(format!("{name} must be a whole number, not {text:?}"))),
    };
    let from = number("from")?.unwrap_or(1);
    let limit = number("limit")?.map_or(PAGE.0, |n| usize::try_from(n).unwrap_or(PAGE.1).clamp(1, PAGE.1));
    let bounds = store.journal_bounds(STREAM).map_err(store_status)?;
    let records = store.journal_read(STREAM, from, MAX_PAGE_BYTES).map_err(store_status)?;
    let mut items: Vec<Box<RawValue>> = Vec::new();
    let mut next = from;
    for (seq, body) in records.into_iter().take(limit) {
        next = seq + 1;
        items.extend(
            String::from_utf8(body.into())
                .ok()
                .and_then(|text| RawValue::from_string(text).ok()),
        );
    }
    let mut metadata = json!({});
    if let Value::Object(map) = &mut metadata
        && next <= bounds.accepted
        && !items.is_empty()
    {
        map.insert("continue".to_owned(), next.to_string().into());
    }
    Ok(json!({
        "kind": "EventList",
        "apiVersion": "audit.k8s.io/v1",
        "metadata": metadata,
        "items": items,
        "forcedOut": bounds.dropped_total,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_have_microseconds_and_long_words_are_cut_between_characters() {
        assert_eq!(timestamp(1_767_225_600_042), "2026-01-01T00:00:00.042000Z");
        assert_eq!(cut("abcé", 4), "abc");
        assert_eq!(cut("abc", 10), "abc");
    }
}
