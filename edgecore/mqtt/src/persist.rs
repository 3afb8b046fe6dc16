//! What of the broker survives a restart, and the seam through which it is made durable.
//!
//! The broker states each step as a list of [`Change`]s that belong together and hands it to [`Persist::commit`]; the
//! packet that tells a client about the step leaves only after the commit resolved. `record` gives changes a stable
//! key-value form, so that an implementation has to offer nothing but an ordered key-value table.

mod memory;
mod record;

use std::sync::Arc;

use futures_util::future::BoxFuture;

pub use self::{memory::MemoryPersist, record::KvOp};
use crate::packet::{Publish, QoS, SubscriptionOptions};

/// Durable home of sessions, queues and retained messages.
pub trait Persist: Send + Sync + 'static {
    /// Everything committed so far. Called once, at start.
    fn load(&self) -> BoxFuture<'static, Result<State, PersistError>>;

    /// Makes the changes durable, all or none. The order of calls is the order of the changes: the call itself takes the
    /// place in that order and must not block (it is made under the broker's lock); the future resolves when the changes
    /// are on disk. Dropping the future does not undo the commit.
    fn commit(&self, changes: Vec<Change>) -> BoxFuture<'static, Result<(), PersistError>>;
}

/// Why something was not stored. The packet it belongs to stays unacknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PersistError {
    /// No space left.
    #[error("the disk is full")]
    Full,
    /// The store is shut.
    #[error("the store is closed")]
    Closed,
    /// Anything else.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// One step of the broker's durable state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A persistent session exists, with this expiry in seconds after its connection ends (`u32::MAX`: for ever).
    SessionPut { client: Arc<str>, expiry_s: u32 },
    /// The session and all that belongs to it is gone.
    SessionDrop { client: Arc<str> },
    /// A subscription exists with these options.
    SubscriptionPut {
        client: Arc<str>,
        filter: Arc<str>,
        options: SubscriptionOptions,
    },
    /// The subscription is gone.
    SubscriptionDrop { client: Arc<str>, filter: Arc<str> },
    /// A message waits for the client under this sequence number (its packet id derives from it).
    Enqueue { client: Arc<str>, queued: Queued },
    /// A QoS 2 message was received by the client; what is left to do is PUBREL and PUBCOMP.
    Released { client: Arc<str>, seq: u64 },
    /// Done with, acknowledged or dropped.
    Dequeue { client: Arc<str>, seq: u64 },
    /// A QoS 2 message with this packet id was taken from the client; the same id again is the same message.
    InboundPut { client: Arc<str>, pid: u16 },
    /// The exchange ended, the packet id is free.
    InboundDrop { client: Arc<str>, pid: u16 },
    /// The retained message of its topic.
    RetainPut { message: Arc<Publish> },
    /// The topic has no retained message any more.
    RetainDrop { topic: Arc<str> },
}

/// One entry of a session's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Position; grows within a session.
    pub seq: u64,
    /// Effective quality of service, 1 or 2.
    pub qos: QoS,
    /// Retain flag to send.
    pub retain: bool,
    /// Subscription identifiers to send.
    pub ids: Vec<u32>,
    /// The message; `None` once released.
    pub message: Option<Arc<Publish>>,
}

/// All that was durable at the last stop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Persistent sessions.
    pub sessions: Vec<SessionState>,
    /// Retained messages.
    pub retained: Vec<Arc<Publish>>,
    /// Records that could not be read and were left out.
    pub skipped: usize,
}

/// One persistent session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionState {
    /// Client id.
    pub client: Arc<str>,
    /// Seconds it outlives its connection; `u32::MAX`: for ever. Counted again from the start of the broker, because a
    /// gateway's wall clock proves nothing about how long it was off.
    pub expiry_s: u32,
    /// Filters and their options.
    pub subscriptions: Vec<(Arc<str>, SubscriptionOptions)>,
    /// By rising `seq`.
    pub queue: Vec<Queued>,
    /// Packet ids of QoS 2 messages between PUBLISH and PUBREL.
    pub inbound: Vec<u16>,
}
