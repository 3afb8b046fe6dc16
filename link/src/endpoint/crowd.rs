//! Connections that are not yet anybody: how many there may be, and who goes when one more comes.
//!
//! A stranger costs memory before he has shown who he is, and a flood of strangers must not keep the fleet out. There is no queue to
//! stand in: when the crowd is full, the one that has been in it longest is put out. A good gateway is through in two round trips;
//! with a crowd of 1,024 and a round trip of 200 ms, somebody would have to bring more than 2,500 connections a second to push it
//! out before that.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// The members, in the order they came.
#[derive(Clone)]
pub(crate) struct Crowd {
    inner: Arc<Mutex<Inner>>,
    cap: usize,
}

struct Inner {
    next: u64,
    members: BTreeMap<u64, CancellationToken>,
    put_out: u64,
}

impl Inner {
    fn put_oldest_out(&mut self) {
        if let Some((_, oldest)) = self.members.pop_first() {
            self.put_out += 1;
            oldest.cancel();
        }
    }
}

impl Crowd {
    pub(crate) fn new(cap: usize) -> Self {
        let inner = Inner {
            next: 0,
            members: BTreeMap::new(),
            put_out: 0,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            cap: cap.max(1),
        }
    }

    /// Takes a member in, putting the oldest out when there is no room. The member watches [`Member::put_out`] and goes when it
    /// resolves; dropping it makes room.
    pub(crate) fn enter(&self) -> Member {
        let token = CancellationToken::new();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.members.len() >= self.cap {
            inner.put_oldest_out();
        }
        let id = inner.next;
        inner.next += 1;
        inner.members.insert(id, token.clone());
        Member {
            crowd: self.clone(),
            id,
            token,
        }
    }

    /// Puts the oldest out, because something else than places has run short.
    pub(crate) fn shed(&self) {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put_oldest_out();
    }

    pub(crate) fn len(&self) -> usize {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).members.len()
    }

    /// How many were put out so far.
    pub(crate) fn put_out(&self) -> u64 {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).put_out
    }
}

impl fmt::Debug for Crowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crowd")
            .field("members", &self.len())
            .field("cap", &self.cap)
            .finish_non_exhaustive()
    }
}

/// A place in the crowd.
#[derive(Debug)]
pub(crate) struct Member {
    crowd: Crowd,
    id: u64,
    token: CancellationToken,
}

impl Member {
    /// Resolves when this one must go.
    pub(crate) async fn put_out(&self) {
        self.token.cancelled().await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.crowd
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .members
            .remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_and_leaving_makes_room() {
        let crowd = Crowd::new(2);
        let a = crowd.enter();
        let b = crowd.enter();
        let c = crowd.enter();
        assert!(a.token.is_cancelled() && !b.token.is_cancelled());
        drop(b);
        let d = crowd.enter();
        assert!(!c.token.is_cancelled() && !d.token.is_cancelled());
        drop(a); // was put out before: its leaving must not make room twice
        assert_eq!((crowd.len(), crowd.put_out()), (2, 1));
    }
}
