//! The conflict log: desired values that a merge at this gateway dropped although their writers did not know of each other, one record
//! each in the journal stream [`EVENTS`], written in the transaction of the merge.
//!
//! Only gateways record. The gateway merges every Device that the hub sends, so it sees both values of a conflict that its own value
//! lost, and of most that the hub's value lost. The rest of these the hub dropped while it merged, before it sent the Device: it notes them
//! in the Device (`device_models::OVERRULED`), and the gateway whose value was kept records them from there. A conflict heard of in both
//! ways, or again and again, is recorded once: bucket `conflicts` holds for each Device what was recorded, as old as the Device here
//! and gone with it.

use std::collections::BTreeSet;
use std::sync::Arc;

use device_models::{Conflict, Recorded, desired_registers, overruled};
use metastore::store::{ObjectKey, Op, Store, StoreError};
use serde_json::Value;
use tokio::sync::watch;

use crate::objects;

/// The journal stream of the log.
pub(crate) const EVENTS: &str = "events";
/// By replica key of the Device: what is recorded.
const BUCKET: &str = "conflicts";

/// The log. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Conflicts {
    store: Store,
    node: Arc<str>,
    newest: Arc<watch::Sender<u64>>,
}

/// What a merge has to write with its Device.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// The records, and the account of them.
    pub(crate) ops: Vec<Op>,
    /// How many of the operations are records.
    pub(crate) records: usize,
}

impl Conflicts {
    /// The log of gateway `node`.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn open(store: Store, node: &str) -> Result<Self, StoreError> {
        let newest = watch::Sender::new(store.journal_bounds(EVENTS)?.accepted);
        Ok(Self {
            store,
            node: Arc::from(node),
            newest: Arc::new(newest),
        })
    }

    /// What to write when `conflicts` were met on the way to `merged`, the Device as it will be stored under `key`. Counts only if the
    /// Device that was merged is still the stored one at the commit: its account is read here.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn log(
        &self,
        key: &ObjectKey,
        merged: &Value,
        conflicts: &[Conflict],
        wall_ms: u64,
    ) -> Result<Log, StoreError> {
        self.write(key, merged, conflicts, Some(wall_ms))
    }

    /// The same for a Device that was not here before: what it says was recorded when it was, by whoever had it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn took_in(&self, key: &ObjectKey, device: &Value) -> Result<Log, StoreError> {
        self.write(key, device, &[], None)
    }

    fn write(
        &self,
        key: &ObjectKey,
        merged: &Value,
        conflicts: &[Conflict],
        wall_ms: Option<u64>,
    ) -> Result<Log, StoreError> {
        let noted = overruled(merged);
        let noted = noted
            .iter()
            .filter(|conflict| conflict.kept.stamp.node() == &*self.node);
        let met: Vec<&Conflict> = conflicts.iter().chain(noted).collect();
        let mut log = Log::default();
        if met.is_empty() {
            return Ok(log);
        }
        let replica = key.to_string();
        // An account that cannot be read is begun anew: twice in the log is better than never.
        let mut recorded: Recorded = self
            .store
            .kv_get(BUCKET, replica.as_bytes())?
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        let before = recorded.clone();
        let device = format!("{}/{}", key.namespace, key.name);
        for conflict in met {
            let news = recorded.is_news(conflict);
            if let Some(at) = wall_ms.filter(|_| news) {
                tracing::warn!(
                    %device, property = %conflict.property, policy = %conflict.policy,
                    kept_by = %conflict.kept.by, kept_stamp = %conflict.kept.stamp,
                    lost_by = %conflict.lost.by, lost_stamp = %conflict.lost.stamp,
                    "Both sides set a desired value while apart; one counts, the conflict log has both."
                );
                let record = conflict.record(&device, &objects::rfc3339(at));
                log.ops.push(Op::JournalAppend {
                    stream: EVENTS.into(),
                    body: objects::canonical(&record),
                });
            }
        }
        log.records = log.ops.len();
        let registers = desired_registers(merged);
        let mut known: BTreeSet<&str> = registers.keys().map(String::as_str).collect();
        known.extend(conflicts.iter().map(|conflict| conflict.property.as_str()));
        recorded.retain(&known);
        if recorded != before {
            log.ops.push(Op::KvPut {
                bucket: BUCKET.into(),
                key: replica.into_bytes(),
                value: serde_json::to_vec(&recorded).expect("stamps by property always serialize"),
            });
        }
        Ok(log)
    }

    /// A Device goes, and what was recorded of it is not asked for any more.
    pub(crate) fn forget(key: &ObjectKey) -> Op {
        Op::KvDelete {
            bucket: BUCKET.into(),
            key: key.to_string().into_bytes(),
        }
    }

    /// A commit brought the log to this number.
    pub(crate) fn grew(&self, newest: u64) {
        self.newest.send_if_modified(|now| {
            let grew = newest > *now;
            *now = newest.max(*now);
            grew
        });
    }

    /// The number of the newest record, as it grows.
    pub(crate) fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}
