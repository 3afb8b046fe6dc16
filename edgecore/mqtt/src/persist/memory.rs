//! [`MemoryPersist`]: the durable state in a map, through the same records as on disk.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures_util::future::BoxFuture;

use super::{Change, KvOp, Persist, PersistError, State};

/// Keeps everything in memory: for tests, and for a broker that may forget at restart.
///
/// Put the same instance behind an `Arc` under a second broker to play a restart.
#[derive(Debug, Default)]
pub struct MemoryPersist {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    failing: Option<PersistError>,
    commits: u64,
}

impl MemoryPersist {
    /// Makes every later commit fail with this error, or work again.
    pub fn fail_with(&self, error: Option<PersistError>) {
        self.lock().failing = error;
    }

    /// Commits made so far.
    pub fn commits(&self) -> u64 {
        self.lock().commits
    }

    /// Number of records held.
    pub fn rows(&self) -> usize {
        self.lock().rows.len()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Persist for MemoryPersist {
    fn load(&self) -> BoxFuture<'static, Result<State, PersistError>> {
        let state = State::from_kv(self.lock().rows.iter().map(|(k, v)| (k.as_slice(), v.as_slice())));
        Box::pin(std::future::ready(Ok(state)))
    }

    fn commit(&self, changes: Vec<Change>) -> BoxFuture<'static, Result<(), PersistError>> {
        let mut table = self.lock();
        if let Some(error) = table.failing.clone() {
            return Box::pin(std::future::ready(Err(error)));
        }
        let mut ops = Vec::new();
        for change in &changes {
            change.to_kv(&mut ops);
        }
        for op in ops {
            match op {
                KvOp::Put { key, value } => {
                    table.rows.insert(key, value);
                }
                KvOp::Delete { key } => {
                    table.rows.remove(&key);
                }
                KvOp::DeleteRange { from, to } => table.rows.retain(|k, _| *k < from || *k >= to),
            }
        }
        table.commits += 1;
        Box::pin(std::future::ready(Ok(())))
    }
}
