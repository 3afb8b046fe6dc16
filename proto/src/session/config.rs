//! What a session is told at its beginning, and the limits one side announces to the other.

use crate::limits::{self, Versions};
use crate::wire;
use core::time::Duration;
use std::sync::Arc;

pub use crate::wire::DropReason;

/// A gateway's side.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Its name, as in its certificate.
    pub node: String,
    /// For the hub's records.
    pub agent_version: String,
    /// Random per start: tells a restart from a reconnect.
    pub boot_id: u64,
    /// Incarnation of the store file. Journal numbers count within it.
    pub instance: u64,
    /// What this agent can do beyond the version.
    pub capabilities: Vec<String>,
    /// The journals as the store has them.
    pub journals: Vec<JournalCursor>,
    /// Bytes of desired batches taken before the first of them is applied.
    pub window: usize,
    /// Versions spoken; [`limits::VERSIONS`] outside tests.
    pub versions: Versions,
}

impl EdgeConfig {
    /// With the defaults: no journals, no capabilities.
    pub fn new(node: impl Into<String>, boot_id: u64, instance: u64) -> Self {
        Self {
            node: node.into(),
            agent_version: env!("CARGO_PKG_VERSION").into(),
            boot_id,
            instance,
            capabilities: Vec::new(),
            journals: Vec::new(),
            window: limits::WINDOW_BYTES,
            versions: limits::VERSIONS,
        }
    }
}

/// The hub's side of one gateway.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// Names the hub (not the replica).
    pub hub_id: Arc<str>,
    /// Of this session: greater than that of every session before it with the same node.
    pub epoch: u64,
    /// Announced in Welcome.
    pub limits: Limits,
    /// Versions spoken; [`limits::VERSIONS`] outside tests.
    pub versions: Versions,
}

impl HubConfig {
    /// With the default limits.
    pub fn new(hub_id: impl Into<Arc<str>>, epoch: u64) -> Self {
        Self {
            hub_id: hub_id.into(),
            epoch,
            limits: Limits::default(),
            versions: limits::VERSIONS,
        }
    }
}

/// What the hub announces; both sides live by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Idle heartbeat interval. Two and a half of it without a frame end the session on either side.
    pub heartbeat: Duration,
    /// How long data may be unacknowledged while the peer says nothing.
    pub ack_deadline: Duration,
    /// Bytes of observed batches the hub takes before the first of them is applied.
    pub window: usize,
    /// Bytes of journal records the hub takes before the first of them is stored.
    pub journal_window: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            heartbeat: limits::HEARTBEAT,
            ack_deadline: limits::ACK_DEADLINE,
            window: limits::WINDOW_BYTES,
            journal_window: limits::WINDOW_BYTES,
        }
    }
}

impl Limits {
    /// Held to the bounds that every peer keeps.
    pub(super) fn clamped(self) -> Self {
        let (low, high) = limits::HEARTBEAT_RANGE;
        let (least, most) = limits::ACK_DEADLINE_RANGE;
        Self {
            heartbeat: self.heartbeat.clamp(low, high),
            ack_deadline: self.ack_deadline.clamp(least, most),
            window: clamp_window(self.window),
            journal_window: clamp_window(self.journal_window),
        }
    }

    pub(super) fn to_wire(self) -> wire::Limits {
        wire::Limits {
            heartbeat_ms: crate::join::millis(self.heartbeat),
            ack_deadline_ms: crate::join::millis(self.ack_deadline),
            window: self.window as u32,
            journal_window: self.journal_window as u32,
        }
    }

    pub(super) fn from_wire(limits: &wire::Limits) -> Self {
        let or = |value: u32, default: Duration| match value {
            0 => default,
            ms => Duration::from_millis(ms.into()),
        };
        Self {
            heartbeat: or(limits.heartbeat_ms, limits::HEARTBEAT),
            ack_deadline: or(limits.ack_deadline_ms, limits::ACK_DEADLINE),
            window: limits.window as usize,
            journal_window: limits.journal_window as usize,
        }
        .clamped()
    }
}

pub(super) fn clamp_window(window: usize) -> usize {
    let (low, high) = limits::WINDOW_RANGE;
    window.clamp(low, high)
}

/// A journal stream as the gateway's store has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalCursor {
    /// Name of the stream.
    pub stream: Arc<str>,
    /// Highest number accepted; 0 = none yet, the first record is 1.
    pub accepted_to: u64,
    /// Everything up to here was acknowledged and trimmed.
    pub trimmed_to: u64,
    /// What a bound forced out before it was acknowledged, in order.
    pub dropped: Vec<DroppedRange>,
    /// Streams of a lower number go first.
    pub priority: u8,
}

impl JournalCursor {
    /// A stream with records 1..=`accepted_to`, all still there.
    pub fn new(stream: impl Into<Arc<str>>, accepted_to: u64) -> Self {
        Self {
            stream: stream.into(),
            accepted_to,
            ..Self::default()
        }
    }
}

/// Records that will never come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DroppedRange {
    /// First.
    pub from: u64,
    /// Last.
    pub to: u64,
    /// Why.
    pub reason: DropReason,
}

/// What the hub's sink has of one stream of one gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCursor {
    /// Name of the stream.
    pub stream: Arc<str>,
    /// The gateway's store incarnation these numbers belong to. Another than the Hello's: the journal began anew, this is history.
    pub instance: u64,
    /// Everything up to here is stored or accounted as dropped.
    pub cursor: u64,
    /// How many of them were dropped.
    pub dropped: u64,
}
