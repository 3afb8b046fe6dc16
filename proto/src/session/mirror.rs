//! The receiving end of a replicated set, within one session.
//!
//! Owns the inventory of what the application holds. Batches are checked, decoded and handed on; the inventory follows when the
//! application says that they are durable, and only then are they acknowledged. Never holds more unapplied bytes than the window it
//! announced.

use super::event::{Applied, Change, Event, SessionError};
use crate::compress;
use crate::digest::{Digest, Hash, Key, entry_hash};
use crate::join::shown;
use crate::limits;
use crate::set::{Inventory, key_is_good};
use crate::wire::{self, SetKind};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug)]
pub(super) struct Mirror {
    kind: SetKind,
    inventory: Inventory,
    /// The digest the source was told at the handshake: both decide by it whether an inventory is sent.
    announced: Digest,
    /// With the application, oldest first.
    received: VecDeque<Received>,
    held: usize,
    held_entries: usize,
    window: usize,
    last: u64,
    /// Applied and not acknowledged yet.
    ack: Option<u64>,
    /// Refused keys the source has not been told.
    tell: VecDeque<Key>,
    paging: Option<Paging>,
    /// The source's digest as it last said.
    source: Digest,
    told_in_sync: bool,
}

#[derive(Debug)]
struct Received {
    batch: u64,
    cost: usize,
    entries: Vec<(Key, Option<Hash>)>,
    /// Refused here, before the application saw them.
    refused: Vec<(Key, String)>,
}

#[derive(Debug)]
struct Paging {
    round: u32,
    after: Option<Key>,
}

impl Mirror {
    pub(super) fn new(kind: SetKind, inventory: Inventory, window: usize) -> Self {
        Self {
            kind,
            announced: inventory.digest(),
            inventory,
            received: VecDeque::new(),
            held: 0,
            held_entries: 0,
            window,
            last: 0,
            ack: None,
            tell: VecDeque::new(),
            paging: None,
            source: Digest::EMPTY,
            told_in_sync: false,
        }
    }

    /// The source's digest is known: sends the inventory if it differs from what was announced.
    pub(super) fn begin(&mut self, source: Digest) {
        self.source = source;
        if source == self.announced {
            self.tell_all();
        } else {
            self.page(0);
        }
    }

    /// The source asks for the inventory.
    pub(super) fn page(&mut self, round: u32) {
        self.tell_all();
        self.paging = Some(Paging { round, after: None });
    }

    fn tell_all(&mut self) {
        self.tell = self.inventory.refused().map(|(key, _)| key.clone()).collect();
    }

    pub(super) fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    pub(super) fn into_inventory(self) -> Inventory {
        self.inventory
    }

    /// Checks and decodes a batch for the application.
    pub(super) fn on_batch(&mut self, batch: wire::Batch) -> Result<Event, SessionError> {
        if batch.batch != self.last + 1 {
            return Err(SessionError::Order {
                what: "batch",
                want: self.last + 1,
                got: batch.batch,
            });
        }
        if batch.changes.is_empty() {
            return Err(SessionError::Field("batch"));
        }
        if batch.changes.len() > limits::MAX_BATCH_ENTRIES || self.received.len() >= limits::MAX_IN_FLIGHT {
            return Err(SessionError::TooMany("batches or changes"));
        }
        // The claimed lengths are counted first: decoding holds each body to its claim.
        let mut cost = 0;
        for change in &batch.changes {
            if !key_is_good(&change.key) {
                return Err(SessionError::Field("key"));
            }
            cost += limits::ENTRY_COST + change.key.len() + change.length as usize;
        }
        if cost > limits::MAX_BATCH_BYTES || (self.held > 0 && self.held + cost > self.window) {
            return Err(SessionError::TooMany("bytes"));
        }
        let source = Digest::from_slice(&batch.digest).ok_or(SessionError::Field("digest"))?;
        let mut changes = Vec::with_capacity(batch.changes.len());
        let (mut entries, mut refused) = (Vec::with_capacity(batch.changes.len()), Vec::new());
        for change in batch.changes {
            let key: Key = change.key.into();
            if change.removed {
                entries.push((key.clone(), None));
                changes.push(Change {
                    key,
                    body: None,
                    hash: 0,
                });
                continue;
            }
            let body = compress::unpack(change.encoding, change.length as usize, &change.body, limits::MAX_BODY)?;
            let hash = entry_hash(&key, &body);
            let room = self.room_for(&key, entries.len())?;
            entries.push((key.clone(), Some(hash)));
            if room {
                changes.push(Change {
                    key,
                    body: Some(body),
                    hash,
                });
            } else {
                refused.push((
                    key,
                    format!("the set is full: at most {} objects are taken", limits::MAX_SET_ENTRIES),
                ));
            }
        }
        self.last = batch.batch;
        self.held += cost;
        self.held_entries += entries.len();
        self.source = source;
        self.told_in_sync = false;
        self.received.push_back(Received {
            batch: batch.batch,
            cost,
            entries,
            refused,
        });
        Ok(Event::Apply {
            batch: batch.batch,
            changes,
        })
    }

    fn room_for(&self, key: &str, in_batch: usize) -> Result<bool, SessionError> {
        let size = self.inventory.len() + self.held_entries + in_batch;
        if size < limits::MAX_SET_ENTRIES || self.inventory.knows(key) {
            return Ok(true);
        }
        // The bodies are refused, but their keys are remembered as dealt with: that has a bound too.
        if size >= 2 * limits::MAX_SET_ENTRIES {
            return Err(SessionError::TooMany("objects in a set"));
        }
        Ok(false)
    }

    /// The application has committed everything up to `batch`. A number that is not with the application is ignored.
    pub(super) fn applied(&mut self, batch: u64, applied: Applied) {
        let mut refused: BTreeMap<Key, String> = applied.refused.into_iter().collect();
        while self.received.front().is_some_and(|received| received.batch <= batch)
            && let Some(received) = self.received.pop_front()
        {
            self.held -= received.cost;
            self.held_entries -= received.entries.len();
            refused.extend(received.refused);
            for (key, hash) in received.entries {
                match (refused.get(&key), hash) {
                    (Some(reason), hash) => {
                        self.inventory.refuse(key.clone(), hash, shown(reason));
                        self.tell.push_back(key);
                    }
                    (None, Some(hash)) => self.inventory.put(key, hash),
                    (None, None) => self.inventory.remove(&key),
                }
            }
            self.ack = Some(received.batch);
        }
        if self.received.is_empty() {
            self.received = VecDeque::new();
        }
    }

    /// The application lost what it held under this key; the source will find out by the digest and send it again.
    pub(super) fn forget(&mut self, key: &str) {
        if self.inventory.knows(key) {
            self.inventory.remove(key);
            self.told_in_sync = false;
        }
    }

    /// The application would answer otherwise now; the source will find out by the digest and send it again.
    pub(super) fn reconsider(&mut self, key: &str) {
        if self.inventory.reconsider(key) {
            self.told_in_sync = false;
        }
    }

    pub(super) fn on_report(&mut self, digest: Digest) {
        self.source = digest;
    }

    /// Refusals go before the acknowledgement of their batch and before an inventory that counts them.
    pub(super) fn next_refusals(&mut self) -> Option<wire::Refusals> {
        let mut entries = Vec::new();
        while entries.len() < limits::MAX_REFUSALS
            && let Some(key) = self.tell.pop_front()
        {
            if let Some(refusal) = self.inventory.refusal(&key) {
                let hash = refusal
                    .hash
                    .map_or(Bytes::new(), |hash| Bytes::copy_from_slice(&hash.to_be_bytes()));
                entries.push(wire::Refusal {
                    key: key.to_string(),
                    hash,
                    reason: refusal.reason.clone(),
                });
            }
        }
        if self.tell.is_empty() {
            self.tell = VecDeque::new();
        }
        (!entries.is_empty()).then_some(wire::Refusals {
            set: self.kind as i32,
            entries,
        })
    }

    pub(super) fn next_ack(&mut self) -> Option<wire::BatchAck> {
        let batch = self.ack.take()?;
        Some(wire::BatchAck {
            set: self.kind as i32,
            batch,
            digest: digest_bytes(self.inventory.digest()),
        })
    }

    pub(super) fn next_page(&mut self) -> Option<wire::InventoryPage> {
        let Paging { round, after } = self.paging.take()?;
        let mut rest = self.inventory.after(after.as_deref()).peekable();
        let (mut entries, mut bytes, mut at) = (Vec::new(), 0, None);
        while entries.len() < limits::MAX_INVENTORY_PAGE
            && bytes < limits::INVENTORY_PAGE_BYTES
            && let Some((key, hash)) = rest.next()
        {
            bytes += key.len() + limits::ENTRY_COST;
            entries.push(wire::InventoryEntry {
                key: key.to_string(),
                hash: Bytes::copy_from_slice(&hash.to_be_bytes()),
            });
            at = Some(key.clone());
        }
        let last = rest.peek().is_none();
        drop(rest);
        let digest = if last {
            digest_bytes(self.inventory.digest())
        } else {
            Bytes::new()
        };
        self.paging = (!last).then_some(Paging { round, after: at });
        Some(wire::InventoryPage {
            set: self.kind as i32,
            round,
            entries,
            last,
            digest,
        })
    }

    /// All that came is applied, and it is what the source had when it sent the last of it.
    pub(super) fn settled(&self) -> bool {
        self.received.is_empty() && self.paging.is_none() && self.inventory.digest() == self.source
    }

    pub(super) fn take_in_sync(&mut self) -> bool {
        let news = !self.told_in_sync && self.settled();
        self.told_in_sync |= news;
        news
    }

    pub(super) fn source(&self) -> Digest {
        self.source
    }
}

pub(super) fn digest_bytes(digest: Digest) -> Bytes {
    Bytes::copy_from_slice(&digest.to_bytes())
}
