//! Transactions on their way to the writer thread: in submission order, bounded by cost.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{CommitError, Committed, apply::Step};

/// What all waiting transactions together may cost: about 8 MiB of bodies, or 32768 transactions.
const ROOM: u32 = 32 * 1024;
/// Bytes per unit of cost.
const UNIT: usize = 256;

/// A submitted transaction.
pub(super) struct Job {
    pub(super) steps: Vec<Step>,
    pub(super) bytes: usize,
    pub(super) answer: oneshot::Sender<Result<Committed, CommitError>>,
    /// Given back when the job is dropped, that is after its answer.
    pub(super) _room: OwnedSemaphorePermit,
}

/// The queue. Many submitters, one writer.
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    room: Arc<Semaphore>,
}

struct State {
    jobs: VecDeque<Job>,
    closed: bool,
    nudged: bool,
}

/// What the writer woke up to.
pub(super) enum Taken {
    Jobs(Vec<Job>),
    Idle,
    Closed,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                jobs: VecDeque::new(),
                closed: false,
                nudged: false,
            }),
            wake: Condvar::new(),
            room: Arc::new(Semaphore::new(ROOM as usize)),
        }
    }

    /// Room for a transaction, if there is some now.
    pub(super) fn try_reserve(&self, ops: usize, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.room.clone().try_acquire_many_owned(cost(ops, bytes)).ok()
    }

    /// Waits for room, first come, first served. `None` when the queue was closed.
    pub(super) async fn reserve(&self, ops: usize, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.room.clone().acquire_many_owned(cost(ops, bytes)).await.ok()
    }

    /// Puts a transaction behind all others. Gives it back when the queue is closed.
    pub(super) fn push(&self, job: Job) -> Result<(), Job> {
        let mut state = self.lock();
        if state.closed {
            return Err(job);
        }
        state.jobs.push_back(job);
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Waits for work and takes all of it, up to the given operations and bytes. A nudge comes first. Whatever was pushed before
    /// the queue was closed still comes out.
    pub(super) fn take(&self, max_ops: usize, max_bytes: usize, idle: Duration) -> Taken {
        let mut state = self.lock();
        if state.jobs.is_empty() && !state.closed && !state.nudged {
            let sleeping = |s: &mut State| s.jobs.is_empty() && !s.closed && !s.nudged;
            state = self
                .wake
                .wait_timeout_while(state, idle, sleeping)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        if std::mem::take(&mut state.nudged) {
            return Taken::Idle;
        }
        if state.jobs.is_empty() {
            return if state.closed { Taken::Closed } else { Taken::Idle };
        }
        let (mut count, mut ops, mut bytes) = (0, 0, 0);
        for job in &state.jobs {
            ops += job.steps.len().max(1);
            bytes += job.bytes;
            if count > 0 && (ops > max_ops || bytes > max_bytes) {
                break;
            }
            count += 1;
        }
        let jobs = state.jobs.drain(..count).collect();
        // After a burst, do not keep its memory.
        if state.jobs.is_empty() && state.jobs.capacity() > 1024 {
            state.jobs = VecDeque::new();
        }
        Taken::Jobs(jobs)
    }

    /// Makes the writer do its idle work now.
    pub(super) fn nudge(&self) {
        self.lock().nudged = true;
        self.wake.notify_one();
    }

    /// No more pushes; waiters for room give up.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.room.close();
        self.wake.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One transaction never costs more than all there is, so that the largest gets through when it is alone.
fn cost(ops: usize, bytes: usize) -> u32 {
    let units = 1 + ops / 4 + bytes / UNIT;
    u32::try_from(units).unwrap_or(ROOM).min(ROOM)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(queue: &Queue, bytes: usize) -> bool {
        let Some(room) = queue.try_reserve(1, bytes) else {
            return false;
        };
        let steps = vec![Step::KvDelete {
            bucket: "b".into(),
            key: Vec::new(),
        }];
        queue
            .push(Job {
                steps,
                bytes,
                answer: oneshot::channel().0,
                _room: room,
            })
            .is_ok()
    }

    fn taken(queue: &Queue, ops: usize, bytes: usize) -> usize {
        match queue.take(ops, bytes, Duration::ZERO) {
            Taken::Jobs(jobs) => jobs.len(),
            Taken::Idle | Taken::Closed => 0,
        }
    }

    #[test]
    fn bounded_by_number_and_by_bytes() {
        let queue = Queue::new();
        let small = (0..100_000).take_while(|_| push(&queue, 10)).count();
        assert_eq!(small, ROOM as usize);
        assert_eq!(
            taken(&queue, usize::MAX, usize::MAX),
            small,
            "room comes back with the jobs"
        );
        let large = (0..100).take_while(|_| push(&queue, 1024 * 1024)).count();
        assert_eq!(large, 7, "eight MiB less a little for each");
        assert_eq!(taken(&queue, 2, usize::MAX), 2);
        assert_eq!(taken(&queue, 100, 3 * 1024 * 1024), 3);
        assert_eq!(taken(&queue, 100, 1), 1, "at least one");
        assert_eq!(taken(&queue, 100, usize::MAX), 1);
        assert!(
            push(&queue, 100 * 1024 * 1024),
            "the largest gets through when it is alone"
        );
        assert!(!push(&queue, 1));
    }

    #[test]
    fn a_nudge_comes_before_the_work_and_a_close_behind_it() {
        let queue = Queue::new();
        assert!(push(&queue, 1));
        queue.nudge();
        assert!(matches!(queue.take(9, 9, Duration::ZERO), Taken::Idle));
        queue.close();
        assert!(!push(&queue, 1));
        assert_eq!(taken(&queue, 9, 9), 1);
        assert!(matches!(queue.take(9, 9, Duration::from_secs(99)), Taken::Closed));
    }
}
