//! Reading again: twins whose last change did not reach the store, and everything when a watch fell behind.
//!
//! A store that cannot be read now (no file handles, a failing disk) is tried again with growing pauses. One device that cannot be
//! read is refused what it asks; when all must be read, requests wait in the inbox within its bounds. Only a store that is closed
//! or damaged ends the task.

use std::collections::BTreeSet;
use std::time::Duration;

use daemon::backoff::FullJitter;
use daemon::clock::{since_start, wall_ms};
use daemon::drain::Drain;
use futures_util::stream::StreamExt as _;
use metastore::store::{ObjectKey, Store, StoreError, Watch, WatchError};
use serde_json::Value;

use super::table::{Id, Loaded, Table};
use super::task::{Task, delete};
use crate::objects::{self, DEVICES, MODELS, STATUSES};
use crate::stamps::Stamps;

/// Pauses between attempts.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Devices that could not be read, and when they are tried again.
#[derive(Debug)]
pub(super) struct Unread {
    ids: BTreeSet<Id>,
    /// Since the start of the process; `None` when there is nothing.
    due: Option<Duration>,
    backoff: FullJitter,
}

impl Default for Unread {
    fn default() -> Self {
        Self {
            ids: BTreeSet::new(),
            due: None,
            backoff: FullJitter::new(AGAIN.0, AGAIN.1),
        }
    }
}

impl Unread {
    pub(super) fn holds(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    /// The device is gone.
    pub(super) fn forget(&mut self, id: &str) {
        self.ids.remove(id);
    }

    /// When they are tried again.
    pub(super) const fn due(&self) -> Option<Duration> {
        self.due
    }

    /// All of them, to be tried now; they stay unread until they are read.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Id> {
        self.due = None;
        self.ids.iter().cloned()
    }

    /// A device was tried.
    fn tried(&mut self, id: &Id, read: bool) {
        if read {
            self.ids.remove(id);
            if self.ids.is_empty() {
                self.due = None;
                self.backoff.reset();
            }
            return;
        }
        self.ids.insert(Id::clone(id));
        if self.due.is_none() {
            self.due = Some(since_start() + self.backoff.next_wait());
        }
    }
}

/// What the store has of a device.
struct Stored {
    revision: u64,
    device: Value,
    status: Option<Value>,
}

impl Task {
    /// Reads the twins anew whose last change did not reach the store.
    pub(super) fn reload(&mut self) {
        for id in std::mem::take(&mut self.doubtful) {
            let Some((namespace, name)) = id.split_once('/') else {
                continue;
            };
            let key = objects::device_key(DEVICES, namespace, name);
            match stored(&self.parts.store, &key) {
                Ok(Some(stored)) => {
                    self.unread.tried(&id, true);
                    self.put_back(&id, &key, &stored);
                }
                // Its deletion comes by the watch.
                Ok(None) => self.unread.tried(&id, true),
                Err(e) => {
                    tracing::error!(device = %id, error = %e, "A twin cannot be read again; it is tried later.");
                    self.unread.tried(&id, false);
                }
            }
        }
    }

    /// A twin as the store has it. What the watches have yet to say of it is in it already.
    fn put_back(&mut self, id: &Id, key: &ObjectKey, stored: &Stored) {
        let Some(entry) = self.table.devices.get(id) else {
            // Gone meanwhile; if there is one of that name again, the watch tells.
            return;
        };
        let owned = |(property, value): (&str, &str)| (property.to_owned(), value.to_owned());
        let before: Vec<_> = entry.twin.differences().map(owned).collect();
        let status = stored.status.as_ref();
        self.table.insert(key, stored.revision, &stored.device, status);
        let entry = &self.table.devices[id];
        let shown = status.and_then(|status| status.get("status"));
        if shown != entry.twin.status().get("status") {
            self.stale.insert(Id::clone(id));
        }
        if entry.twin.differs() && !entry.twin.differences().map(owned).eq(before) {
            self.publish_deltas(BTreeSet::from([Id::clone(id)]));
        }
    }

    /// A watch fell behind (it should not: its memory is the store's), its changes could not be read, or the store ended. Reads
    /// everything again, however long that takes; false when there is no store any more.
    pub(super) async fn restart_watches(&mut self, error: &WatchError, drain: &Drain) -> bool {
        let ended = match error {
            WatchError::Closed => true,
            WatchError::Read(e) => over(e),
            WatchError::Gone(_) => false,
        };
        if ended {
            return false;
        }
        tracing::warn!(%error, "The twin service reads its devices again.");
        while let Some(landed) = self.flights.next().await {
            self.landed(landed);
        }
        let mut backoff = FullJitter::new(AGAIN.0, AGAIN.1);
        loop {
            let (store, stamps) = (self.parts.store.clone(), self.parts.stamps.clone());
            match tokio::task::spawn_blocking(move || Everything::read(&store, &stamps)).await {
                Ok(Ok(everything)) => {
                    self.take_over(everything);
                    return true;
                }
                Ok(Err(e)) if over(&e) => {
                    tracing::error!(error = %e, "The twins cannot be read; the twin service ends.");
                    return false;
                }
                Ok(Err(e)) => tracing::error!(error = %e, "The twins cannot be read; they are tried again."),
                Err(e) => tracing::error!(error = %e, "Reading the twins failed; they are tried again."),
            }
            tokio::select! {
                biased;
                () = drain.stopping() => return true,
                () = tokio::time::sleep(backoff.next_wait()) => {}
            }
        }
    }

    fn take_over(&mut self, everything: Everything) {
        let Everything {
            table,
            loaded,
            devices,
            models,
        } = everything;
        (self.devices, self.models) = (devices, models);
        let before = std::mem::replace(&mut self.table, table);
        self.doubtful.clear();
        self.unread = Unread::default();
        self.stale = loaded.stale;
        self.chores = loaded.orphans.into_iter().map(delete).collect();
        self.read_again(&before);
    }

    /// Everything was read anew: tells devices what the watches did not bring. Which desired values are new is not known, so all that
    /// differ are told.
    fn read_again(&mut self, before: &Table) {
        for (id, entry) in &mut self.table.devices {
            entry.plain = before.devices.get(id).is_some_and(|was| was.plain);
        }
        let (now, was) = (&self.table.devices, &before.devices);
        for id in now.keys().filter(|id| !was.contains_key(*id)) {
            self.membership_changed(id, true);
        }
        for id in was.keys().filter(|id| !now.contains_key(*id)) {
            self.membership_changed(id, false);
        }
        let differing = now.iter().filter(|(_, entry)| entry.twin.differs());
        self.publish_deltas(differing.map(|(id, _)| Id::clone(id)).collect());
    }
}

/// All twins and the watches from there on.
struct Everything {
    table: Table,
    loaded: Loaded,
    devices: Watch,
    models: Watch,
}

impl Everything {
    /// Blocks.
    fn read(store: &Store, stamps: &Stamps) -> Result<Self, StoreError> {
        let now = wall_ms();
        let (table, loaded) = Table::load(store, |device| stamps.observe(device, now))?;
        Ok(Self {
            devices: store.watch(objects::device_scope(DEVICES), loaded.devices_at)?,
            models: store.watch(objects::device_scope(MODELS), loaded.models_at)?,
            table,
            loaded,
        })
    }
}

fn stored(store: &Store, key: &ObjectKey) -> Result<Option<Stored>, StoreError> {
    let Some(device) = store.get(key)? else { return Ok(None) };
    let status = store.get(&objects::device_key(STATUSES, &key.namespace, &key.name))?;
    Ok(Some(Stored {
        revision: device.revision,
        device: device.value().map_err(|e| StoreError::Io(e.to_string().into()))?,
        // One that cannot be read counts as none: it is written anew.
        status: status.and_then(|status| status.value().ok()),
    }))
}

/// Nothing will ever be read from it again.
const fn over(error: &StoreError) -> bool {
    matches!(error, StoreError::Closed | StoreError::Corrupt(_))
}
