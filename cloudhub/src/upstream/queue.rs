//! The order of writes to the API: at most one in flight per key, only the newest waiting behind it, and no delay when nothing
//! is in flight. Pure: it moves jobs, it does not run them.
//!
//! A key is idle, waiting, running, or running with a newer job waiting. Answers go to everybody whose job was merged into the
//! one that was written, because a newer body says at least as much as the older.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// What can wait in the queue: a newer job takes the older one in.
pub(crate) trait Merge {
    /// `self` was waiting when `newer` came for the same key.
    #[must_use]
    fn merge(self, newer: Self) -> Self;
}

/// Who waits for a job.
pub(crate) trait Waiter {
    /// There is nobody any more who could be told.
    fn is_gone(&self) -> bool;
}

/// How soon a job is wanted. Reports before presence: who is connected may lag in the API, what a device said should not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Somebody waits for it.
    Now,
    /// When nothing urgent waits.
    Soon,
}

/// One job taken out of the queue to be run; give it back with [`Queue::done`].
#[derive(Debug)]
pub(crate) struct Taken<J, W> {
    /// What it writes.
    pub(crate) key: Arc<str>,
    /// The newest job for it.
    pub(crate) job: J,
    /// Who waits for it.
    pub(crate) waiters: Vec<W>,
}

#[derive(Debug)]
struct Slot<J, W> {
    waiting: Option<(J, Vec<W>)>,
    running: bool,
    /// In which line the key stands.
    queued: Option<Urgency>,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Queue<J, W> {
    slots: HashMap<Arc<str>, Slot<J, W>>,
    now: VecDeque<Arc<str>>,
    soon: VecDeque<Arc<str>>,
    running: usize,
    limit: usize,
}

impl<J: Merge, W: Waiter> Queue<J, W> {
    /// At most `limit` jobs run at a time.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            slots: HashMap::new(),
            now: VecDeque::new(),
            soon: VecDeque::new(),
            running: 0,
            limit,
        }
    }

    /// Adds a job, or merges it into the one that waits for the same key.
    pub(crate) fn submit(&mut self, key: &Arc<str>, job: J, waiter: Option<W>, urgency: Urgency) {
        let slot = self.slots.entry(Arc::clone(key)).or_insert(Slot {
            waiting: None,
            running: false,
            queued: None,
        });
        let (job, mut waiters) = match slot.waiting.take() {
            Some((older, waiters)) => (older.merge(job), waiters),
            None => (job, Vec::new()),
        };
        // An API that takes nothing for a day sees gateways come and go; those who went are not kept for it.
        waiters.retain(|waiter| !waiter.is_gone());
        waiters.extend(waiter);
        slot.waiting = Some((job, waiters));
        if !slot.running {
            Self::enqueue(&mut self.now, &mut self.soon, slot, key, urgency);
        } else if urgency == Urgency::Now || slot.queued.is_none() {
            // Remembered for when the one in flight is done.
            slot.queued = Some(urgency);
        }
    }

    fn enqueue(
        now: &mut VecDeque<Arc<str>>,
        soon: &mut VecDeque<Arc<str>>,
        slot: &mut Slot<J, W>,
        key: &Arc<str>,
        urgency: Urgency,
    ) {
        match (slot.queued, urgency) {
            (Some(Urgency::Now), _) | (Some(Urgency::Soon), Urgency::Soon) => {}
            (_, Urgency::Now) => {
                // Its place in the other line, if any, is passed over when it comes up.
                slot.queued = Some(Urgency::Now);
                now.push_back(Arc::clone(key));
            }
            (None, Urgency::Soon) => {
                slot.queued = Some(Urgency::Soon);
                soon.push_back(Arc::clone(key));
            }
        }
    }

    /// The next job to run, unless enough are running.
    pub(crate) fn take(&mut self) -> Option<Taken<J, W>> {
        if self.running >= self.limit {
            return None;
        }
        loop {
            let (key, line) = match self.now.pop_front() {
                Some(key) => (key, Urgency::Now),
                None => (self.soon.pop_front()?, Urgency::Soon),
            };
            let Some(slot) = self.slots.get_mut(&key) else {
                continue;
            };
            if slot.running || slot.queued != Some(line) {
                continue;
            }
            let Some((job, waiters)) = slot.waiting.take() else {
                continue;
            };
            slot.queued = None;
            slot.running = true;
            self.running += 1;
            return Some(Taken { key, job, waiters });
        }
    }

    /// The job of `key` was run.
    pub(crate) fn done(&mut self, key: &Arc<str>) {
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        if !std::mem::take(&mut slot.running) {
            return;
        }
        self.running -= 1;
        if slot.waiting.is_some() {
            let urgency = slot.queued.take().unwrap_or(Urgency::Now);
            Self::enqueue(&mut self.now, &mut self.soon, slot, key, urgency);
        } else {
            self.slots.remove(key);
        }
    }

    /// Keys that wait or run.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Clone, Copy)]
    struct Newest(u32);
    impl Merge for Newest {
        fn merge(self, newer: Self) -> Self {
            newer
        }
    }

    impl Waiter for char {
        fn is_gone(&self) -> bool {
            *self == 'z'
        }
    }

    fn key(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    #[test]
    fn who_has_gone_does_not_wait() {
        let mut q = Queue::new(8);
        for n in 0..1000 {
            q.submit(&key("a"), Newest(n), Some('z'), Urgency::Now);
        }
        q.submit(&key("a"), Newest(1000), Some('x'), Urgency::Now);
        assert_eq!(q.take().unwrap().waiters, ['x']);
    }

    #[test]
    fn idle_key_runs_at_once_and_the_rest_coalesces_behind_it() {
        let mut q = Queue::new(8);
        q.submit(&key("a"), Newest(1), Some('x'), Urgency::Now);
        let first = q.take().unwrap();
        assert_eq!((first.job, first.waiters.as_slice()), (Newest(1), &['x'][..]));
        for n in 2..100 {
            q.submit(&key("a"), Newest(n), (n % 50 == 0).then_some('y'), Urgency::Now);
            assert!(q.take().is_none(), "one in flight per key");
        }
        q.done(&first.key);
        let second = q.take().unwrap();
        assert_eq!((second.job, second.waiters.as_slice()), (Newest(99), &['y'][..]));
        q.done(&second.key);
        assert!(q.take().is_none());
        assert_eq!((q.len(), q.running), (0, 0));
    }

    #[test]
    fn limit_holds_and_urgent_jobs_pass() {
        let mut q = Queue::<_, char>::new(2);
        for n in 0..4 {
            q.submit(&key(&format!("low-{n}")), Newest(n), None, Urgency::Soon);
        }
        q.submit(&key("high"), Newest(9), None, Urgency::Now);
        q.submit(&key("low-3"), Newest(33), None, Urgency::Now);
        let (a, b) = (q.take().unwrap(), q.take().unwrap());
        assert_eq!((&*a.key, &*b.key, b.job), ("high", "low-3", Newest(33)));
        assert!(q.take().is_none());
        q.done(&a.key);
        q.done(&b.key);
        let mut rest = Vec::new();
        while let Some(t) = q.take() {
            q.done(&t.key);
            rest.push(t.key.to_string());
        }
        assert_eq!(rest, ["low-0", "low-1", "low-2"]);
        assert_eq!(q.len(), 0);
    }

    #[test]
    fn urgency_of_what_waits_behind_a_running_job_is_kept() {
        let mut q = Queue::<_, char>::new(8);
        q.submit(&key("a"), Newest(1), None, Urgency::Soon);
        let t = q.take().unwrap();
        q.submit(&key("a"), Newest(2), None, Urgency::Soon);
        q.submit(&key("a"), Newest(3), None, Urgency::Now);
        q.submit(&key("b"), Newest(4), None, Urgency::Soon);
        q.done(&t.key);
        assert_eq!(&*q.take().unwrap().key, "a");
        q.done(&key("a"));
        assert_eq!(&*q.take().unwrap().key, "b");
        q.done(&key("b"));
        q.done(&key("never-submitted"));
        assert_eq!((q.len(), q.running), (0, 0));
    }
}
