//! What requests may hold at a time, all together: places for writes, for long bodies and for lists being read, and bytes of lists that wait
//! for their readers. Whoever finds nothing left waits a while and is then told to come back.
//!
//! Owns no request; a place is given back when what holds it is dropped.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::status::Status;

/// Writes under way: each has a body of its own, and what is parsed of it.
const WRITES: usize = 512;
/// Bodies longer than [`LONG`] under way.
const LONG_BODIES: usize = 16;
/// A body up to this is read at once; a longer one waits for its place.
pub(crate) const LONG: usize = 128 * 1024;
/// Lists read from the store at the same time: more would only take each other's time.
const LISTS: usize = 8;
/// Memory is counted in pieces of this many bytes.
const PIECE: usize = 1024;
/// Bytes of lists that wait for their readers, where nobody says otherwise.
pub(crate) const ANSWERS: usize = 256 * 1024 * 1024;
/// How long a request waits for its place.
const PATIENCE: Duration = Duration::from_secs(20);

/// A place that is given back when it is dropped.
pub(crate) type Place = OwnedSemaphorePermit;

/// The places.
#[derive(Debug)]
pub(crate) struct Budget {
    writes: Arc<Semaphore>,
    long: Arc<Semaphore>,
    lists: Arc<Semaphore>,
    answers: Arc<Semaphore>,
    /// All pieces that `answers` had at first.
    most: u32,
}

impl Budget {
    /// With this many bytes for lists that wait for their readers.
    pub(crate) fn new(answers: usize) -> Self {
        let most = u32::try_from(answers / PIECE).unwrap_or(u32::MAX >> 3).max(1);
        Self {
            writes: Arc::new(Semaphore::new(WRITES)),
            long: Arc::new(Semaphore::new(LONG_BODIES)),
            lists: Arc::new(Semaphore::new(LISTS)),
            answers: Arc::new(Semaphore::new(most as usize)),
            most,
        }
    }

    /// For a write.
    pub(crate) async fn write(&self) -> Result<Place, Status> {
        waited(self.writes.clone(), 1).await
    }

    /// For a body longer than [`LONG`].
    pub(crate) async fn long_body(&self) -> Result<Place, Status> {
        waited(self.long.clone(), 1).await
    }

    /// For reading a list.
    pub(crate) async fn list(&self) -> Result<Place, Status> {
        waited(self.lists.clone(), 1).await
    }

    /// For an answer of this many bytes, until it is sent. One larger than everything gets everything.
    pub(crate) async fn answer(&self, bytes: usize) -> Result<Place, Status> {
        let pieces = u32::try_from(bytes.div_ceil(PIECE)).unwrap_or(u32::MAX);
        waited(self.answers.clone(), pieces.min(self.most)).await
    }
}

async fn waited(of: Arc<Semaphore>, count: u32) -> Result<Place, Status> {
    match tokio::time::timeout(PATIENCE, of.acquire_many_owned(count)).await {
        Ok(Ok(place)) => Ok(place),
        _ => Err(Status::too_many_requests(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_held_is_bounded_and_comes_back() {
        let budget = Budget::new(10 * PIECE);
        let all = budget.answer(usize::MAX).await.unwrap();
        assert_eq!(budget.answer(1).await.unwrap_err().code, 429);
        drop(all);
        let half = budget.answer(5 * PIECE).await.unwrap();
        let rest = budget.answer(5 * PIECE).await.unwrap();
        assert_eq!(budget.answer(1).await.unwrap_err().code, 429);
        drop((half, rest));
        let mut long = Vec::new();
        for _ in 0..LONG_BODIES {
            long.push(budget.long_body().await.unwrap());
        }
        let refused = budget.long_body().await.unwrap_err();
        assert_eq!(refused.details.unwrap().retry_after, Some(1));
        long.pop();
        assert!(budget.long_body().await.is_ok());
    }
}
