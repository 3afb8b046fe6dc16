//! Keys that want a look: each once, now or later, later and later while looking at it fails. Shared by who sees changes and those who look,
//! of whom no two look at the same key at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// First and longest wait after failures.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(120));
/// Shorter ones are not worth remembering.
const SHORTEST_REST: Duration = Duration::from_millis(20);

/// What waits for one controller.
#[derive(Debug)]
pub(super) struct Desk<K> {
    queue: Mutex<Queue<K>>,
    bell: Notify,
}

#[derive(Debug)]
struct Queue<K> {
    ready: VecDeque<K>,
    /// The same keys, to have each once.
    waiting: BTreeSet<K>,
    /// By key and by time: thousands may wait for a disk that is full.
    later: BTreeMap<K, Instant>,
    due: BTreeSet<(Instant, K)>,
    /// Looks that failed in a row.
    failures: BTreeMap<K, u32>,
    /// Being looked at, and whether another look is wanted after that.
    running: BTreeMap<K, bool>,
    /// Not to be looked at before.
    resting: BTreeMap<K, Instant>,
}

impl<K: Ord + Clone> Default for Desk<K> {
    fn default() -> Self {
        Self {
            queue: Mutex::new(Queue {
                ready: VecDeque::new(),
                waiting: BTreeSet::new(),
                later: BTreeMap::new(),
                due: BTreeSet::new(),
                failures: BTreeMap::new(),
                running: BTreeMap::new(),
                resting: BTreeMap::new(),
            }),
            bell: Notify::new(),
        }
    }
}

impl<K: Ord + Clone> Desk<K> {
    fn with<R>(&self, act: impl FnOnce(&mut Queue<K>) -> R) -> R {
        act(&mut self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Wants a look now.
    pub(super) fn add(&self, key: K) {
        self.with(|q| q.add(key));
        self.bell.notify_one();
    }

    /// Wants looks now.
    pub(super) fn add_all(&self, keys: impl IntoIterator<Item = K>) {
        self.with(|q| keys.into_iter().for_each(|key| q.add(key)));
        self.bell.notify_one();
    }

    /// The next key to look at, when there is one; it is [`Self::done`] or [`Self::failed`] afterwards. Safe to drop.
    pub(super) async fn next(&self) -> K {
        loop {
            let rung = self.bell.notified();
            let due = match self.with(|q| q.next(Instant::now()).map(|key| (key, !q.ready.is_empty()))) {
                Ok((key, more)) => {
                    if more {
                        self.bell.notify_one();
                    }
                    return key;
                }
                Err(due) => due,
            };
            match due {
                None => rung.await,
                Some(due) => tokio::select! {
                    () = rung => {}
                    () = tokio::time::sleep_until(due) => {}
                },
            }
        }
    }

    /// A look went well; the next is wanted after this long, where one is, and not before it has rested.
    pub(super) fn done(&self, key: K, again: Option<Duration>, rest: Duration) {
        self.with(|q| {
            q.failures.remove(&key);
            let now = Instant::now();
            q.resting.remove(&key);
            if rest >= SHORTEST_REST {
                q.resting.retain(|_, until| *until > now);
                q.resting.insert(key.clone(), now + rest);
            }
            let wanted = q.running.remove(&key).unwrap_or_default();
            if wanted {
                q.add(key);
            } else if let Some(wait) = again {
                q.add_at(key, now + wait);
            }
        });
        self.bell.notify_one();
    }

    /// A look failed: again, later than the last time.
    pub(super) fn failed(&self, key: K) {
        self.with(|q| {
            let failures = q.failures.entry(key.clone()).or_default();
            let wait = BACK_OFF.0.saturating_mul(1 << (*failures).min(16)).min(BACK_OFF.1);
            *failures += 1;
            match q.running.remove(&key) {
                Some(true) => q.add(key),
                _ => q.add_at(key, Instant::now() + wait),
            }
        });
        self.bell.notify_one();
    }
}

impl<K: Ord + Clone> Queue<K> {
    fn add(&mut self, key: K) {
        if let Some(again) = self.running.get_mut(&key) {
            *again = true;
            return;
        }
        if let Some(until) = self.resting.get(&key).copied() {
            if until > Instant::now() {
                return self.add_at(key, until);
            }
            self.resting.remove(&key);
        }
        if let Some(at) = self.later.remove(&key) {
            self.due.remove(&(at, key.clone()));
        }
        if self.waiting.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn add_at(&mut self, key: K, at: Instant) {
        if self.waiting.contains(&key) || self.later.get(&key).is_some_and(|due| *due <= at) {
            return;
        }
        if let Some(due) = self.later.insert(key.clone(), at) {
            self.due.remove(&(due, key.clone()));
        }
        self.due.insert((at, key));
    }

    /// The next key, or when the next one is due.
    fn next(&mut self, now: Instant) -> Result<K, Option<Instant>> {
        while let Some((at, key)) = self.due.first().cloned()
            && at <= now
        {
            self.due.remove(&(at, key.clone()));
            self.later.remove(&key);
            self.add(key);
        }
        match self.ready.pop_front() {
            Some(key) => {
                self.waiting.remove(&key);
                self.running.insert(key.clone(), false);
                Ok(key)
            }
            None => Err(self.due.first().map(|(at, _)| *at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_REST: Duration = Duration::ZERO;

    #[tokio::test(start_paused = true)]
    async fn each_key_once_in_order_and_failures_wait_longer() {
        let desk = Desk::default();
        desk.add_all(["a", "b", "a"]);
        assert_eq!((desk.next().await, desk.next().await), ("a", "b"));
        let begun = Instant::now();
        desk.failed("a");
        assert_eq!(desk.next().await, "a");
        assert!(begun.elapsed() >= BACK_OFF.0);
        let begun = Instant::now();
        desk.failed("a");
        assert_eq!(desk.next().await, "a");
        assert!(begun.elapsed() >= BACK_OFF.0 * 2);
        for _ in 0..40 {
            desk.failed("b");
        }
        desk.add("b");
        assert_eq!(desk.next().await, "b", "a change does not wait for the back-off");
        desk.done("b", Some(Duration::from_secs(9)), NO_REST);
        desk.done("b", Some(Duration::from_secs(5)), NO_REST);
        let begun = Instant::now();
        assert_eq!(desk.next().await, "b");
        assert!(begun.elapsed() < Duration::from_secs(6));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_looks_at_what_another_looks_at() {
        let desk = Desk::default();
        desk.add("a");
        assert_eq!(desk.next().await, "a");
        desk.add_all(["a", "b", "a"]);
        assert_eq!(desk.next().await, "b");
        let none = tokio::time::timeout(Duration::from_secs(1), desk.next());
        assert!(none.await.is_err());
        desk.done("a", None, NO_REST);
        assert_eq!(desk.next().await, "a", "what was wanted meanwhile");
        desk.done("a", None, NO_REST);
        desk.done("b", None, NO_REST);
        let none = tokio::time::timeout(Duration::from_secs(1), desk.next());
        assert!(none.await.is_err(), "once");
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_rests_and_takes_in_what_comes_meanwhile() {
        let desk = Desk::default();
        desk.add("a");
        desk.next().await;
        desk.done("a", None, Duration::from_secs(2));
        desk.add("b");
        desk.add_all(["a", "a"]);
        let begun = Instant::now();
        assert_eq!((desk.next().await, desk.next().await), ("b", "a"));
        assert!(begun.elapsed() >= Duration::from_secs(2));
        desk.done("a", None, NO_REST);
        desk.add("a");
        desk.next().await;
        assert!(begun.elapsed() < Duration::from_secs(3));
    }
}
