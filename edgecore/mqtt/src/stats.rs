//! Counters, for metrics and for tests.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::Drops;

/// A snapshot of the broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections open now, those before CONNECT included.
    pub connections: u64,
    /// Connections accepted since the start.
    pub accepted: u64,
    /// Connections closed at once because a bound was reached.
    pub refused_busy: u64,
    /// Connections that did not get as far as a CONNACK of success.
    pub failed_handshakes: u64,
    /// Connections ended because of malformed packets or breaches of protocol.
    pub protocol_errors: u64,
    /// Connections ended by a keep-alive, packet or write deadline.
    pub timeouts: u64,
    /// Connections ended because something could not be stored.
    pub unavailable: u64,
    /// PUBLISHes received.
    pub received: u64,
    /// PUBLISHes sent.
    pub sent: u64,
    /// PUBLISHes and subscriptions refused by the access rules.
    pub denied: u64,
    /// Commits that failed.
    pub commit_failures: u64,
    /// Sessions, connected or not.
    pub sessions: u64,
    /// Subscriptions of all sessions.
    pub subscriptions: u64,
    /// Retained messages.
    pub retained: u64,
    /// QoS 1 and 2 messages waiting or in flight in all sessions.
    pub queued_messages: u64,
    /// The same in bytes.
    pub queued_bytes: u64,
    /// What was not delivered, and why.
    pub drops: Drops,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn sub_one(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counted by the connections; the core counts for itself.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections: Counter,
    pub(crate) accepted: Counter,
    pub(crate) refused_busy: Counter,
    pub(crate) failed_handshakes: Counter,
    pub(crate) protocol_errors: Counter,
    pub(crate) timeouts: Counter,
    pub(crate) unavailable: Counter,
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    pub(crate) denied: Counter,
    pub(crate) commit_failures: Counter,
}
