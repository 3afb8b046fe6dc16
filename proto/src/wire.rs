//! The messages as prost makes them from `proto/kurator.proto`. Owns nothing: no rule lives here.
//! `Codec` turns frames into bytes; `Session` and `join` give them meaning.

#![allow(clippy::all, clippy::use_self, missing_docs, unreachable_pub)]

include!(concat!(env!("OUT_DIR"), "/kurator.link.rs"));

impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest")
            .field("version", &self.version)
            .field("token_id", &self.token_id)
            .field("node_name", &self.node_name)
            .field("labels", &self.labels)
            .field("agent_version", &self.agent_version)
            .field("arch", &self.arch)
            .finish_non_exhaustive()
    }
}

impl From<frame::Kind> for Frame {
    fn from(kind: frame::Kind) -> Self {
        Self { kind: Some(kind) }
    }
}
