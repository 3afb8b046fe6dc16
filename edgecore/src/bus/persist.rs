//! The broker's durable state in the store: one key-value bucket, in the same file and the same group commits as everything else.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use metastore::store::{CommitError, Op, Store, StoreError, Tx};
use mqtt::{Change, KvOp, Persist, PersistError, State};

/// The bucket.
const BUCKET: &str = "mqtt";

/// [`Persist`] over the store.
#[derive(Clone, Debug)]
pub(crate) struct StorePersist {
    store: Store,
    bucket: Arc<str>,
}

impl StorePersist {
    /// Over `store`.
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            bucket: BUCKET.into(),
        }
    }
}

impl Persist for StorePersist {
    fn load(&self) -> BoxFuture<'static, Result<State, PersistError>> {
        let store = self.store.clone();
        Box::pin(async move {
            let rows = store.kv_scan(BUCKET, b"").map_err(|e| match e {
                StoreError::Full => PersistError::Full,
                StoreError::Closed => PersistError::Closed,
                other => PersistError::Failed(other.to_string()),
            })?;
            Ok(State::from_kv(rows.iter().map(|(key, value)| (&**key, &**value))))
        })
    }

    fn commit(&self, changes: Vec<Change>) -> BoxFuture<'static, Result<(), PersistError>> {
        let mut rows = Vec::with_capacity(changes.len());
        for change in &changes {
            change.to_kv(&mut rows);
        }
        let bucket = &self.bucket;
        let ops = rows.into_iter().map(|row| match row {
            KvOp::Put { key, value } => Op::KvPut {
                bucket: Arc::clone(bucket),
                key,
                value,
            },
            KvOp::Delete { key } => Op::KvDelete {
                bucket: Arc::clone(bucket),
                key,
            },
            KvOp::DeleteRange { from, to } => Op::KvDeleteRange {
                bucket: Arc::clone(bucket),
                from,
                to,
            },
        });
        // Submitted here, not when the future is polled: the call takes the place in the order.
        let commit = self.store.submit(Tx(ops.collect()));
        Box::pin(async move {
            match commit.await {
                Ok(_) => Ok(()),
                Err(CommitError::Full) => Err(PersistError::Full),
                Err(CommitError::Closed) => Err(PersistError::Closed),
                Err(other) => Err(PersistError::Failed(other.to_string())),
            }
        })
    }
}
