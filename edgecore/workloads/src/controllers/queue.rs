//! Keys that want a look: each once, now or later, later and later while looking at it fails.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::Key;

/// First and longest wait after failures.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(120));

/// What waits. Owned by one task, so it needs no lock.
#[derive(Debug, Default)]
pub(super) struct Queue {
    ready: VecDeque<Key>,
    /// The same keys, to have each once.
    waiting: BTreeSet<Key>,
    later: BTreeMap<Key, Instant>,
    /// Looks that failed in a row.
    failures: BTreeMap<Key, u32>,
}

impl Queue {
    /// Wants a look now.
    pub(super) fn add(&mut self, key: Key) {
        self.later.remove(&key);
        if self.waiting.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// Wants a look at a time, if none is wanted sooner.
    pub(super) fn add_at(&mut self, key: Key, at: Instant) {
        if self.waiting.contains(&key) {
            return;
        }
        let due = self.later.entry(key).or_insert(at);
        *due = at.min(*due);
    }

    /// The next key to look at, `None` when none is due.
    pub(super) fn next(&mut self, now: Instant) -> Option<Key> {
        let due: Vec<Key> = self
            .later
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        self.waiting.remove(&key);
        Some(key)
    }

    /// When the next key is due that is not yet.
    pub(super) fn due(&self) -> Option<Instant> {
        self.later.values().min().copied()
    }

    /// A look went well.
    pub(super) fn done(&mut self, key: &Key) {
        self.failures.remove(key);
    }

    /// A look failed: again, later than the last time.
    pub(super) fn failed(&mut self, key: Key, now: Instant) {
        let failures = self.failures.entry(key.clone()).or_default();
        let wait = BACK_OFF.0.saturating_mul(1 << (*failures).min(16)).min(BACK_OFF.1);
        *failures += 1;
        self.add_at(key, now + wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("plant", name)
    }

    #[tokio::test(start_paused = true)]
    async fn each_key_once_in_order() {
        let mut queue = Queue::default();
        for name in ["a", "b", "a"] {
            queue.add(key(name));
        }
        let now = Instant::now();
        assert_eq!(queue.next(now), Some(key("a")));
        queue.add(key("a"));
        assert_eq!(queue.next(now), Some(key("b")));
        assert_eq!(queue.next(now), Some(key("a")));
        assert_eq!(queue.next(now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_sooner_time_counts_and_failures_wait_longer() {
        let mut queue = Queue::default();
        let now = Instant::now();
        queue.add_at(key("a"), now + Duration::from_secs(9));
        queue.add_at(key("a"), now + Duration::from_secs(5));
        queue.add_at(key("a"), now + Duration::from_secs(7));
        assert_eq!(queue.due(), Some(now + Duration::from_secs(5)));
        assert_eq!(queue.next(now), None);
        assert_eq!(queue.next(now + Duration::from_secs(5)), Some(key("a")));
        queue.failed(key("a"), now);
        assert_eq!(queue.due(), Some(now + BACK_OFF.0));
        assert_eq!(queue.next(now + BACK_OFF.0), Some(key("a")));
        queue.failed(key("a"), now);
        assert_eq!(queue.due(), Some(now + BACK_OFF.0 * 2));
        for _ in 0..40 {
            queue.failed(key("b"), now);
        }
        queue.add(key("b"));
        assert_eq!(
            queue.next(now),
            Some(key("b")),
            "a change does not wait for the back-off"
        );
        queue.done(&key("b"));
    }
}
