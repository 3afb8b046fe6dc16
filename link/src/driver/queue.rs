//! A bounded queue that costs nothing while it is empty.
//!
//! A general channel keeps a block for 32 items and keeps its ends on cache lines of their own, more than a kilobyte for each of a
//! session's two queues. These carry a few items a minute. Senders get room in the order in which they asked for it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore};

/// Nobody takes from the queue any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed;

struct Queue<T> {
    items: Mutex<VecDeque<T>>,
    room: Semaphore,
    senders: AtomicUsize,
    /// Something was put in, or nothing will be any more.
    arrived: Notify,
    /// Nothing will be taken out any more.
    closed: Notify,
}

impl<T> Queue<T> {
    fn items(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A queue with room for `capacity` items.
pub(super) fn queue<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let queue = Arc::new(Queue {
        items: Mutex::default(),
        room: Semaphore::new(capacity),
        senders: AtomicUsize::new(1),
        arrived: Notify::new(),
        closed: Notify::new(),
    });
    (Sender(Arc::clone(&queue)), Receiver(queue))
}

/// Puts in. Clones share the queue.
pub(super) struct Sender<T>(Arc<Queue<T>>);

impl<T> Sender<T> {
    /// Waits for room. What is given back by dropping the answer is somebody else's.
    ///
    /// # Errors
    /// When the receiver is gone.
    pub(super) async fn reserve(&self) -> Result<Room<'_, T>, Closed> {
        let permit = self.0.room.acquire().await.map_err(|_| Closed)?;
        Ok(Room { queue: &self.0, permit })
    }

    /// Room that is there now; `None` when there is none or the receiver is gone.
    pub(super) fn try_reserve(&self) -> Option<Room<'_, T>> {
        let permit = self.0.room.try_acquire().ok()?;
        Some(Room { queue: &self.0, permit })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.room.is_closed()
    }

    /// Resolves when the receiver is gone.
    pub(super) async fn closed(&self) {
        loop {
            let closed = self.0.closed.notified();
            if self.is_closed() {
                return;
            }
            closed.await;
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.arrived.notify_one();
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

/// A place in the queue.
pub(super) struct Room<'a, T> {
    queue: &'a Queue<T>,
    permit: tokio::sync::SemaphorePermit<'a>,
}

impl<T> Room<'_, T> {
    pub(super) fn send(self, item: T) {
        self.permit.forget();
        let mut items = self.queue.items();
        // Whatever comes after the end is dropped: nobody would take it, and somebody may wait for what it holds.
        if !self.queue.room.is_closed() {
            items.push_back(item);
            drop(items);
            self.queue.arrived.notify_one();
        }
    }
}

/// Takes out.
pub(super) struct Receiver<T>(Arc<Queue<T>>);

impl<T> Receiver<T> {
    /// The next item; `None` when all senders are gone and the queue is empty. Cancel-safe.
    pub(super) async fn recv(&mut self) -> Option<T> {
        loop {
            if let Some(item) = self.try_recv() {
                return Some(item);
            }
            if self.0.senders.load(Ordering::Acquire) == 0 {
                // The last one may have put something in before it went.
                return self.try_recv();
            }
            self.0.arrived.notified().await;
        }
    }

    pub(super) fn try_recv(&mut self) -> Option<T> {
        let mut items = self.0.items();
        let item = items.pop_front()?;
        if items.is_empty() {
            *items = VecDeque::new();
        }
        drop(items);
        self.0.room.add_permits(1);
        Some(item)
    }

    /// Lets nobody put anything in any more.
    pub(super) fn close(&mut self) {
        self.0.room.close();
        self.0.closed.notify_waiters();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.close();
        // What was put in and not taken goes now: it may hold what somebody waits for.
        let left = std::mem::take(&mut *self.0.items());
        drop(left);
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn items_come_in_order_and_room_is_bounded() {
        let (sender, mut receiver) = queue(2);
        for n in 0..2 {
            sender.try_reserve().unwrap().send(n);
        }
        assert!(sender.try_reserve().is_none());
        let mut first = std::pin::pin!(sender.reserve());
        assert!(first.as_mut().now_or_never().is_none());
        assert_eq!(receiver.recv().now_or_never(), Some(Some(0)));
        first.now_or_never().unwrap().unwrap().send(2);
        assert_eq!(receiver.try_recv(), Some(1));
        assert_eq!(receiver.try_recv(), Some(2));
        assert_eq!(receiver.try_recv(), None);
        assert_eq!(receiver.0.items().capacity(), 0);
    }

    #[test]
    fn an_end_that_goes_is_noticed_by_the_other() {
        let (sender, mut receiver) = queue(4);
        let other = sender.clone();
        sender.try_reserve().unwrap().send(1);
        drop((sender, other));
        assert_eq!(receiver.recv().now_or_never(), Some(Some(1)));
        assert_eq!(receiver.recv().now_or_never(), Some(None));

        let (sender, receiver) = queue(4);
        let held = Arc::new(());
        sender.try_reserve().unwrap().send(Arc::clone(&held));
        let mut closed = std::pin::pin!(sender.closed());
        assert!(closed.as_mut().now_or_never().is_none());
        drop(receiver);
        assert!(closed.now_or_never().is_some());
        assert!(sender.is_closed() && sender.try_reserve().is_none());
        assert!(matches!(sender.reserve().now_or_never(), Some(Err(Closed))));
        assert_eq!(Arc::strong_count(&held), 1);

        let (sender, receiver) = queue(4);
        let room = sender.try_reserve().unwrap();
        drop(receiver);
        room.send(Arc::clone(&held));
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
