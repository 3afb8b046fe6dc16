//! Readiness as a counted latch with names: the daemon is ready when every part that said it is starting has finished.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// What is still pending. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Ready {
    pending: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

/// Held by a part that is not ready yet; dropping it says it is.
#[derive(Debug)]
#[must_use = "dropping the block says that the part is ready"]
pub struct Block {
    name: &'static str,
    ready: Ready,
}

impl Ready {
    /// Nothing pending.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a part that is starting.
    pub fn block(&self, name: &'static str) -> Block {
        *self.lock().entry(name).or_default() += 1;
        Block {
            name,
            ready: self.clone(),
        }
    }

    /// Names still pending, in order; empty means ready.
    pub fn pending(&self) -> Vec<&'static str> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut pending = self.ready.lock();
        if let Some(count) = pending.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                pending.remove(self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_block_of_each_name_is_gone() {
        let ready = Ready::new();
        let (a, b, c) = (ready.block("store"), ready.block("store"), ready.block("bus"));
        assert_eq!(ready.pending(), ["bus", "store"]);
        drop((a, c));
        assert_eq!(ready.pending(), ["store"]);
        drop(b);
        assert!(ready.pending().is_empty());
    }
}
