//! The state of one client's session: what it subscribed to, what waits for it, what is half received from it.
//!
//! Pure state, owned by `core`; no sockets, no clock (time is an argument, counted from the broker's start).

mod inbound;
mod outbox;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub(crate) use self::{
    inbound::{Inbound, Received},
    outbox::{Bounds, Outbox},
};
use crate::{
    link::Link,
    packet::{SubscriptionOptions, Will},
};

/// An expiry of this many seconds is never.
pub(crate) const FOREVER: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Arc<str>,
    /// Seconds it outlives its connection; 0: not at all.
    pub(crate) expiry_s: u32,
    /// Its state is kept on disk.
    pub(crate) durable: bool,
    pub(crate) subscriptions: BTreeMap<Arc<str>, SubscriptionOptions>,
    pub(crate) outbox: Outbox,
    pub(crate) inbound: Inbound,
    pub(crate) attached: Option<Attached>,
    /// While attached: the will of this connection. While absent: a will that is still delayed.
    pub(crate) will: Option<Will>,
    /// While absent: when the delayed will is due.
    pub(crate) will_at: Option<Duration>,
    /// While absent: when the session ends.
    pub(crate) ends_at: Option<Duration>,
}

/// The connection a session is attached to.
#[derive(Debug)]
pub(crate) struct Attached {
    /// Number of the connection; a later one takes the session over.
    pub(crate) connection: u64,
    pub(crate) link: Arc<Link>,
    /// Messages in flight to the client at a time.
    pub(crate) window: usize,
}

impl Session {
    pub(crate) fn new(client: Arc<str>, expiry_s: u32) -> Self {
        Self {
            client,
            expiry_s,
            durable: false,
            subscriptions: BTreeMap::new(),
            outbox: Outbox::default(),
            inbound: Inbound::default(),
            attached: None,
            will: None,
            will_at: None,
            ends_at: None,
        }
    }

    /// Something may have become sendable.
    pub(crate) fn wake(&self) {
        if let Some(attached) = &self.attached {
            attached.link.wake();
        }
    }
}
