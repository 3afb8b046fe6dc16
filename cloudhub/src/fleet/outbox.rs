//! What the rest of the hub wants of a session, until its task picks it up. One per live session; empty, it costs nothing.
//!
//! Nothing here queues without bound: changes coalesce by key, answers are one per batch in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::{CloseReason, Key};
use tokio::sync::Notify;

use crate::upstream::{Body, Refusal};

/// What a session's task finds when it wakes.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Differences in its desired set, newest per key.
    pub(crate) changes: BTreeMap<Key, Option<Body>>,
    /// Observed batches whose objects are all in the API or refused.
    pub(crate) written: BTreeMap<u64, Vec<(Key, Refusal)>>,
    /// Observed keys whose API object was taken away or altered by somebody else.
    pub(crate) lost: BTreeSet<Key>,
    /// Observed keys that were refused for a reason that has gone.
    pub(crate) reconsider: BTreeSet<Key>,
    /// End it.
    pub(crate) close: Option<CloseReason>,
}

/// The shared end.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    wanted: Mutex<Wanted>,
    bell: Notify,
    over: AtomicBool,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, act: impl FnOnce(&mut Wanted)) {
        act(&mut self.lock());
        self.bell.notify_one();
    }

    /// A difference in the desired set.
    pub(crate) fn change(&self, key: Key, body: Option<Body>) {
        self.with(|w| drop(w.changes.insert(key, body)));
    }

    /// An observed batch is written.
    pub(crate) fn written(&self, batch: u64, refused: Vec<(Key, Refusal)>) {
        self.with(|w| drop(w.written.insert(batch, refused)));
    }

    /// The API has no longer what was reported under this key.
    pub(crate) fn lost(&self, key: Key) {
        self.with(|w| {
            w.lost.insert(key);
        });
    }

    /// What is reported under this key would not be refused now for the reason it was.
    pub(crate) fn reconsider(&self, key: Key) {
        self.with(|w| {
            w.reconsider.insert(key);
        });
    }

    /// Ends the session; the first reason counts.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.with(|w| {
            w.close.get_or_insert(reason);
        });
    }

    /// The session ended: nobody looks here any more.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Whether it did.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Everything that waits, at once.
    pub(crate) fn take(&self) -> Wanted {
        std::mem::take(&mut *self.lock())
    }

    /// Resolves when something was put in since the last call.
    pub(crate) async fn rung(&self) {
        self.bell.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn changes_coalesce_and_wake_once() {
        let outbox = Outbox::default();
        let key: Key = Arc::from("k");
        for n in 0..1000_u32 {
            outbox.change(Arc::clone(&key), Some(Body::new("k", n.to_string())));
        }
        outbox.close(CloseReason::Fenced);
        outbox.close(CloseReason::Shutdown);
        outbox.rung().await;
        let wanted = outbox.take();
        assert_eq!(wanted.changes, BTreeMap::from([(key, Some(Body::new("k", "999")))]));
        assert_eq!(wanted.close, Some(CloseReason::Fenced));
        assert!(outbox.take().changes.is_empty());
    }
}
