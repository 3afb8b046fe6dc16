//! The sending end of a replicated set, within one session.
//!
//! Owns the set and what is known of the mirror's copy. Only keys in which the two differ cost memory: `pending` remembers for each
//! what the mirror has dealt with, everything else is equal by definition. A body is read from the set when its batch is made, so that
//! only the newest is ever sent; a key in flight is sent again after its acknowledgement when it has changed meanwhile.
//!
//! | phase       | entered                                  | left                                      |
//! |-------------|------------------------------------------|-------------------------------------------|
//! | `Announced` | the digest was told to the peer          | the peer's digest is known                |
//! | `Inventory` | digests differ, at the start or later    | the last page of the mirror's inventory   |
//! | `Live`      | digests equal, or inventory complete     | drift: the mirror reports another digest  |

use super::event::{Event, KeyState, SessionError};
use crate::Now;
use crate::compress;
use crate::digest::{Digest, Hash, Key};
use crate::join::shown;
use crate::limits;
use crate::set::{Refusal, SourceSet, key_is_good};
use crate::wire::{self, SetKind};
use bytes::Bytes;
use core::time::Duration;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug)]
pub(super) struct Source {
    kind: SetKind,
    set: SourceSet,
    phase: Phase,
    /// Keys in which the mirror may differ, queued or in flight.
    pending: BTreeMap<Key, Pending>,
    /// Pending keys that are not in flight, oldest change first.
    queue: VecDeque<Key>,
    flights: VecDeque<Flight>,
    in_flight: usize,
    window: usize,
    /// Number of the last batch sent and of the last acknowledged.
    sent: u64,
    acked: u64,
    /// What the mirror has dealt with: by our count, and as it last said.
    believed: Digest,
    reported: Digest,
    refused: BTreeMap<Key, Refusal>,
    round: u32,
    /// The request of an inventory that is to be sent.
    request: bool,
    /// No further inventory is asked for before this time.
    next_check: Now,
    told_in_sync: bool,
}

#[derive(Debug)]
enum Phase {
    Announced(Digest),
    Inventory {
        after: Option<Key>,
        strangers: usize,
        since: Option<Now>,
    },
    Live,
}

#[derive(Debug)]
struct Pending {
    /// What the mirror has dealt with.
    peer: Option<Hash>,
    in_flight: bool,
}

#[derive(Debug)]
struct Flight {
    batch: u64,
    /// Counted against the window.
    cost: usize,
    /// Bytes on the wire.
    packed: usize,
    sent: Option<Now>,
    entries: Vec<(Key, Option<Hash>)>,
}

impl Source {
    pub(super) fn new(kind: SetKind, set: SourceSet) -> Self {
        Self {
            kind,
            phase: Phase::Announced(set.digest()),
            set,
            pending: BTreeMap::new(),
            queue: VecDeque::new(),
            flights: VecDeque::new(),
            in_flight: 0,
            window: limits::WINDOW_BYTES,
            sent: 0,
            acked: 0,
            believed: Digest::EMPTY,
            reported: Digest::EMPTY,
            refused: BTreeMap::new(),
            round: 0,
            request: false,
            next_check: Now::ZERO,
            told_in_sync: false,
        }
    }

    /// The mirror's digest is known: nothing to send, or its inventory comes.
    pub(super) fn begin(&mut self, mirror: Digest, window: usize) {
        self.window = window;
        self.reported = mirror;
        let Phase::Announced(announced) = self.phase else {
            return;
        };
        if announced == mirror {
            self.believed = mirror;
            self.phase = Phase::Live;
        } else {
            self.await_inventory();
        }
    }

    fn await_inventory(&mut self) {
        self.pending.clear();
        self.queue = VecDeque::new();
        self.refused.clear();
        self.believed = Digest::EMPTY;
        self.told_in_sync = false;
        self.phase = Phase::Inventory {
            after: None,
            strangers: 0,
            since: None,
        };
    }

    pub(super) fn set(&self) -> &SourceSet {
        &self.set
    }

    pub(super) fn into_set(self) -> SourceSet {
        self.set
    }

    /// Takes a change of the set; an entry that cannot travel comes back as an event.
    pub(super) fn put(&mut self, key: Key, hash: Hash, body: Bytes) -> Option<Event> {
        let before = self.set.hash(&key);
        if self.set.put_hashed(key.clone(), hash, body) {
            self.changed(key, before);
            return None;
        }
        let reason = self.set.unfit().get(&key)?.to_string();
        Some(Event::Refused { key, reason })
    }

    pub(super) fn remove(&mut self, key: &str) {
        let before = self.set.hash(key);
        if self.set.remove(key) {
            self.changed(key.into(), before);
        }
    }

    fn changed(&mut self, key: Key, before: Option<Hash>) {
        // During an inventory, keys that its pages have not reached yet are compared when they are.
        if let Phase::Inventory { after, .. } = &self.phase
            && after.as_ref().is_none_or(|after| *after < key)
        {
            return;
        }
        self.told_in_sync = false;
        if let Entry::Vacant(slot) = self.pending.entry(key) {
            self.queue.push_back(slot.key().clone());
            slot.insert(Pending {
                peer: before,
                in_flight: false,
            });
        }
    }

    /// The next batch, if there is something to send and room in the window.
    pub(super) fn next_batch(&mut self) -> Option<wire::Batch> {
        if !matches!(self.phase, Phase::Live) || self.flights.len() >= limits::MAX_IN_FLIGHT {
            return None;
        }
        let (mut changes, mut entries) = (Vec::new(), Vec::new());
        let (mut cost, mut packed) = (0, 0);
        while let Some(key) = self.queue.front() {
            let entry = self.set.entry(key);
            let hash = entry.map(|(_, hash, _)| hash);
            let undone = self.pending.get(key).is_none_or(|pending| pending.peer == hash);
            if undone {
                // Changed back to what the mirror has before it was sent.
                self.pending.remove(key);
                self.queue.pop_front();
                continue;
            }
            let this = limits::ENTRY_COST + key.len() + entry.map_or(0, |(_, _, body)| body.len());
            let full = cost > 0 && (cost + this > limits::BATCH_BYTES || entries.len() == limits::MAX_BATCH_ENTRIES);
            let no_window = self.in_flight + cost > 0 && self.in_flight + cost + this > self.window;
            if full || no_window {
                break;
            }
            let change = match entry {
                Some((_, _, body)) => {
                    let (encoding, encoded) = compress::pack(body);
                    packed += encoded.len();
                    wire::Change {
                        key: key.to_string(),
                        removed: false,
                        encoding: encoding as i32,
                        length: body.len() as u32,
                        body: encoded,
                    }
                }
                None => wire::Change {
                    key: key.to_string(),
                    removed: true,
                    ..Default::default()
                },
            };
            cost += this;
            packed += key.len();
            changes.push(change);
            if let Some(pending) = self.pending.get_mut(key) {
                pending.in_flight = true;
            }
            if let Some(key) = self.queue.pop_front() {
                entries.push((key, hash));
            }
        }
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        if entries.is_empty() {
            return None;
        }
        self.sent += 1;
        self.in_flight += cost;
        self.flights.push_back(Flight {
            batch: self.sent,
            cost,
            packed,
            sent: None,
            entries,
        });
        Some(wire::Batch {
            set: self.kind as i32,
            batch: self.sent,
            changes,
            digest: Bytes::copy_from_slice(&self.set.digest().to_bytes()),
        })
    }

    pub(super) fn take_request(&mut self) -> Option<wire::InventoryRequest> {
        if !self.request {
            return None;
        }
        self.request = false;
        Some(wire::InventoryRequest {
            set: self.kind as i32,
            round: self.round,
        })
    }

    /// The mirror committed everything up to `batch`.
    pub(super) fn on_ack(&mut self, batch: u64, digest: Digest) -> Result<Vec<Key>, SessionError> {
        if batch <= self.acked || batch > self.sent {
            return Err(SessionError::Order {
                what: "acknowledgement",
                want: self.acked + 1,
                got: batch,
            });
        }
        let mut keys = Vec::new();
        while self.flights.front().is_some_and(|flight| flight.batch <= batch)
            && let Some(flight) = self.flights.pop_front()
        {
            self.in_flight -= flight.cost;
            for (key, hash) in flight.entries {
                self.settle(&key, hash);
                keys.push(key);
            }
        }
        if self.flights.is_empty() {
            self.flights = VecDeque::new();
        }
        self.acked = batch;
        self.reported = digest;
        Ok(keys)
    }

    fn settle(&mut self, key: &Key, hash: Option<Hash>) {
        if self.refused.get(key).is_some_and(|refusal| refusal.hash != hash) {
            self.refused.remove(key);
        }
        let Some(pending) = self.pending.get_mut(key) else {
            return;
        };
        self.believed.change(pending.peer, hash);
        if self.set.hash(key) == hash {
            self.pending.remove(key);
            if self.pending.is_empty() {
                // An emptied map keeps room for eleven keys.
                self.pending = BTreeMap::new();
            }
        } else {
            *pending = Pending {
                peer: hash,
                in_flight: false,
            };
            self.queue.push_back(key.clone());
        }
    }

    /// The mirror dealt with these bodies by refusing them.
    pub(super) fn on_refusals(
        &mut self,
        refusals: Vec<wire::Refusal>,
        events: &mut VecDeque<Event>,
    ) -> Result<(), SessionError> {
        if refusals.len() > limits::MAX_REFUSALS {
            return Err(SessionError::TooMany("refusals"));
        }
        for refusal in refusals {
            if !key_is_good(&refusal.key) {
                return Err(SessionError::Field("key"));
            }
            let hash = match refusal.hash.len() {
                0 => None,
                _ => Some(Digest::from_slice(&refusal.hash).ok_or(SessionError::Field("hash"))?.0),
            };
            // A removal may be refused under a key that this side forgot; those are bounded, the others are bounded by the set.
            let known = self.set.entry(&refusal.key).map(|(key, ..)| key.clone());
            let known = known.or_else(|| {
                self.pending
                    .get_key_value(refusal.key.as_str())
                    .map(|(key, _)| key.clone())
            });
            let Some(key) =
                known.or_else(|| (self.refused.len() < limits::MAX_REFUSALS).then(|| refusal.key.as_str().into()))
            else {
                continue;
            };
            let refusal = Refusal {
                hash,
                reason: shown(&refusal.reason),
            };
            if self.refused.get(&key) != Some(&refusal) {
                events.push_back(Event::Refused {
                    key: key.clone(),
                    reason: refusal.reason.clone(),
                });
                self.refused.insert(key, refusal);
            }
        }
        Ok(())
    }

    /// A page of what the mirror holds: finds what differs in its range of keys.
    pub(super) fn on_inventory(&mut self, page: wire::InventoryPage) -> Result<(), SessionError> {
        let Phase::Inventory { after, strangers, .. } = &mut self.phase else {
            return Err(SessionError::Unexpected("an inventory"));
        };
        if page.round != self.round {
            return Err(SessionError::Unexpected("an inventory of another round"));
        }
        if page.entries.len() > limits::MAX_INVENTORY_PAGE {
            return Err(SessionError::TooMany("entries in a page"));
        }
        let upto = match (page.last, page.entries.last()) {
            (true, _) => None,
            (false, Some(entry)) => Some(entry.key.as_str()),
            (false, None) => return Err(SessionError::Field("page of an inventory")),
        };
        let mut previous = after.as_deref();
        for entry in &page.entries {
            if !key_is_good(&entry.key) || previous.is_some_and(|previous| previous >= entry.key.as_str()) {
                return Err(SessionError::Field("key of an inventory"));
            }
            previous = Some(&entry.key);
        }
        let (pending, queue) = (&mut self.pending, &mut self.queue);
        let mut differs = |key: Key, peer: Option<Hash>| {
            if pending
                .insert(key.clone(), Pending { peer, in_flight: false })
                .is_none()
            {
                queue.push_back(key);
            }
        };
        let mut own = self.set.between(after.as_deref(), upto).peekable();
        for entry in &page.entries {
            let theirs = Digest::from_slice(&entry.hash).ok_or(SessionError::Field("hash"))?.0;
            while let Some((key, _)) = own.next_if(|(key, _)| ***key < *entry.key) {
                differs(key.clone(), None);
            }
            match own.next_if(|(key, _)| ***key == *entry.key) {
                Some((_, ours)) if ours == theirs => {}
                Some((key, _)) => differs(key.clone(), Some(theirs)),
                None => {
                    *strangers += entry.key.len() + limits::ENTRY_COST;
                    if *strangers > limits::MAX_STRANGER_BYTES {
                        return Err(SessionError::TooMany("unknown keys"));
                    }
                    differs(entry.key.as_str().into(), Some(theirs));
                }
            }
            self.believed.add(theirs);
        }
        for (key, _) in own {
            differs(key.clone(), None);
        }
        if page.last {
            self.phase = Phase::Live;
            self.reported = match page.digest.len() {
                0 => self.believed,
                _ => Digest::from_slice(&page.digest).ok_or(SessionError::Field("digest"))?,
            };
        } else if let Some(entry) = page.entries.last() {
            *after = Some(entry.key.as_str().into());
        }
        Ok(())
    }

    /// What the mirror says its digest is. With nothing in flight it must be what we believe, or an inventory is asked for.
    pub(super) fn on_report(&mut self, digest: Digest) {
        if matches!(self.phase, Phase::Live) {
            self.reported = digest;
        }
    }

    /// Something is on its way and its answer has a deadline: since when, and how many bytes go first.
    pub(super) fn awaiting(&self) -> Option<(Option<Now>, usize)> {
        match (&self.phase, self.flights.front()) {
            (Phase::Inventory { since, .. }, _) => Some((*since, 2 * limits::INVENTORY_PAGE_BYTES)),
            (_, Some(flight)) => Some((flight.sent, flight.packed)),
            _ => None,
        }
    }

    /// Gives what was sent since the last call its time.
    pub(super) fn stamp(&mut self, now: Now) {
        if let Phase::Inventory { since, .. } = &mut self.phase {
            since.get_or_insert(now);
        }
        for flight in self.flights.iter_mut().rev() {
            if flight.sent.is_some() {
                break;
            }
            flight.sent = Some(now);
        }
    }

    /// When to look for drift, if there is any.
    pub(super) fn check_at(&self) -> Option<Now> {
        (matches!(self.phase, Phase::Live) && self.flights.is_empty() && self.reported != self.believed)
            .then_some(self.next_check)
    }

    /// Asks for an inventory when the mirror has drifted; not again before `pause` has passed.
    pub(super) fn check(&mut self, now: Now, pause: Duration) {
        if self.check_at().is_some_and(|at| at <= now) {
            self.await_inventory();
            self.round = self.round.wrapping_add(1);
            self.request = true;
            self.next_check = now + pause;
        }
    }

    /// Nothing waits, nothing flies, and the mirror's digest is the set's.
    pub(super) fn settled(&self) -> bool {
        matches!(self.phase, Phase::Live)
            && self.flights.is_empty()
            && self.believed == self.set.digest()
            && self.reported == self.believed
    }

    pub(super) fn take_in_sync(&mut self) -> bool {
        let news = !self.told_in_sync && self.settled();
        self.told_in_sync |= news;
        news
    }

    pub(super) fn reported(&self) -> Digest {
        self.reported
    }

    /// Keys not dealt with by the mirror, and keys refused or unfit.
    pub(super) fn waiting(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn refused_len(&self) -> usize {
        self.refused.len() + self.set.unfit().len()
    }

    pub(super) fn refused(&self) -> impl Iterator<Item = (&Key, String)> {
        let unfit = self.set.unfit().iter().map(|(key, unfit)| (key, unfit.to_string()));
        self.refused
            .iter()
            .map(|(key, refusal)| (key, refusal.reason.clone()))
            .chain(unfit)
    }

    pub(super) fn key_state(&self, key: &str) -> KeyState {
        if let Some(unfit) = self.set.unfit().get(key) {
            return KeyState::Refused(unfit.to_string());
        }
        let hash = self.set.hash(key);
        let pending = self.pending.get(key);
        if pending.is_some_and(|pending| pending.in_flight) {
            return KeyState::InFlight;
        }
        let unknown = match &self.phase {
            Phase::Live => false,
            Phase::Announced(_) => true,
            Phase::Inventory { after, .. } => after.as_ref().is_none_or(|after| &**after < key),
        };
        if unknown || pending.is_some_and(|pending| pending.peer != hash) {
            return KeyState::Waiting;
        }
        match (self.refused.get(key), hash) {
            (Some(refusal), _) if refusal.hash == hash => KeyState::Refused(refusal.reason.clone()),
            (_, Some(_)) => KeyState::Delivered,
            (_, None) => KeyState::Absent,
        }
    }
}
