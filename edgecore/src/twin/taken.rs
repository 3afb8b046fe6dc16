//! What was taken from whom: so that a message sent again because its acknowledgement was lost is not taken twice.
//!
//! A record of each message with an effect is committed in the transaction of the effect. A message that the client marks as sent
//! again (DUP) and that reads like the newest record of its packet id was taken. Records are held by client id, not by session:
//! clients send again in clean sessions too.
//!
//! A client may use a packet id again for a message that reads the same. At QoS 1 nothing but the payload tells that one from the
//! first sent again: without an `event_id` or a time in it, it is taken at least once. At QoS 2 the packet id tells, until PUBREL.
//!
//! ```text
//! note (message applied)  -> open -- seal: one row a client --> store, in the transaction
//!                                                            -> chunk, under way -- landed --> chunk | gone again
//! ```
//!
//! Memory is what the store will be once the transactions under way are in. Bounds: [`WINDOW`] messages of a client, [`CLIENTS`],
//! [`MESSAGES`] of all together; what is beyond them is forgotten, and would be taken twice.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use metastore::store::{Op, Store, StoreError};

/// Where the records are kept: client and number of the chunk -> records.
const BUCKET: &str = "taken";
/// Messages of one client that are remembered, at least while all fit: more than clients keep under way.
const WINDOW: usize = 2048;
/// Messages of all clients together. Beyond it the client with the most forgets half of its own.
const MESSAGES: usize = 64 * 1024;
/// Clients remembered. With one more, the one that was silent for longest is forgotten.
const CLIENTS: usize = 4096;
/// A row with fewer records is added to, so that a slow client does not have a row for each message.
const ROW: usize = 64;
/// Records of a row at most: what is forgotten together.
const LONGEST_ROW: usize = 512;
/// Bytes of a record: packet id and mark.
const RECORD: usize = 10;
/// Bytes of a key: client and number.
const KEY: usize = 24;

/// A client: the hash of its id, which may be long.
pub(super) type Client = u128;

/// Where a message comes from and how it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    client: Client,
    packet_id: u16,
    again: bool,
    exactly_once: bool,
    /// Of topic and payload; even, and not 0.
    hash: u64,
}

/// A client's id, hashed once for many messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender(Client);

impl Sender {
    /// The client with this id.
    pub(crate) fn new(client_id: &str) -> Self {
        Self(proto::entry_hash(client_id, b""))
    }

    pub(super) const fn client(self) -> Client {
        self.0
    }

    /// A message of QoS 1 or, `exactly_once`, 2; `again` as marked by the client.
    pub(crate) fn sent(self, packet_id: u16, again: bool, exactly_once: bool, topic: &str, payload: &[u8]) -> Origin {
        let hash = (proto::entry_hash(topic, payload) >> 64) as u64 & !RELEASED_BY_CLIENT;
        Origin {
            client: self.0,
            packet_id,
            again,
            exactly_once,
            hash: hash.max(2),
        }
    }
}

/// Bit of a mark: the packet id alone tells the message, until the client releases it.
const RELEASED_BY_CLIENT: u64 = 1;
/// Mark of a message that cannot be told from another one, and of a packet id that was released.
const NOBODY: u64 = 0;

impl Origin {
    /// The mark of this message in a record, if it were taken.
    const fn mark(&self, identified: bool) -> u64 {
        match (identified, self.exactly_once) {
            (true, _) => self.hash,
            (false, true) => self.hash | RELEASED_BY_CLIENT,
            (false, false) => NOBODY,
        }
    }
}

/// One message: packet id and mark, big-endian.
type Record = [u8; RECORD];

fn record(packet_id: u16, mark: u64) -> Record {
    let mut record = [0; RECORD];
    record[..2].copy_from_slice(&packet_id.to_be_bytes());
    record[2..].copy_from_slice(&mark.to_be_bytes());
    record
}

fn mark_of(record: &Record, packet_id: u16) -> Option<u64> {
    let (id, mark) = record.split_at(2);
    (id == packet_id.to_be_bytes()).then(|| mark.iter().fold(0, |mark, byte| mark << 8 | u64::from(*byte)))
}

/// One row.
#[derive(Debug)]
struct Chunk {
    number: u64,
    records: Vec<Record>,
    /// A transaction that writes it is under way; it had so many records before.
    before: Option<usize>,
}

#[derive(Debug, Default)]
struct Known {
    chunks: VecDeque<Chunk>,
    count: usize,
    /// When it was last heard of, on the scale of the numbers of chunks.
    used: u64,
}

/// What one transaction writes, to be given back when it has landed.
#[derive(Debug, Default)]
pub(super) struct Sealed {
    rows: Vec<(Client, u64)>,
    /// What it removes: tried again with the next one if this fails.
    removed: Vec<Op>,
}

/// The records.
#[derive(Debug)]
pub(super) struct Taken {
    bucket: Arc<str>,
    clients: HashMap<Client, Known>,
    /// Of the transaction that is being put together.
    open: BTreeMap<Client, Vec<Record>>,
    messages: usize,
    next: u64,
    /// Rows that have yet to be removed.
    garbage: Vec<Op>,
    /// There may be messages that only their packet id tells, so that releases matter.
    releasable: Arc<AtomicBool>,
}

impl Taken {
    /// Reads all records.
    pub(super) fn load(store: &Store) -> Result<Self, StoreError> {
        let mut taken = Self {
            bucket: BUCKET.into(),
            clients: HashMap::new(),
            open: BTreeMap::new(),
            messages: 0,
            next: 0,
            garbage: Vec::new(),
            releasable: Arc::default(),
        };
        for (key, value) in store.kv_scan(BUCKET, b"")? {
            taken.read(&key, &value);
        }
        let all: Vec<Client> = taken.clients.keys().copied().collect();
        let surplus = taken.forget_surplus(all);
        taken.garbage.extend(surplus);
        Ok(taken)
    }

    /// Takes a row over. Rows of a client come in order.
    fn read(&mut self, key: &[u8], value: &Bytes) {
        let read = key.split_at_checked(KEY - 8).and_then(|(client, number)| {
            let number = u64::from_be_bytes(number.try_into().ok()?);
            Some((Client::from_be_bytes(client.try_into().ok()?), number))
        });
        let (records, rest) = value.as_chunks::<RECORD>();
        let Some((client, number)) = read.filter(|_| rest.is_empty()) else {
            tracing::warn!("A record of taken messages cannot be read and is removed.");
            self.garbage.push(Op::KvDelete {
                bucket: Arc::clone(&self.bucket),
                key: key.to_vec(),
            });
            return;
        };
        self.next = self.next.max(number.saturating_add(1));
        if records.iter().any(|record| record[RECORD - 1] & 1 != 0) {
            self.releasable.store(true, Ordering::Relaxed);
        }
        let known = self.clients.entry(client).or_default();
        known.used = number;
        known.count += records.len();
        known.chunks.push_back(Chunk {
            number,
            records: records.to_vec(),
            before: None,
        });
        self.messages += records.len();
    }

    /// Whether a message was taken before. `identified`: its payload names it.
    pub(super) fn knows(&self, origin: &Origin, identified: bool) -> bool {
        let mark = origin.mark(identified);
        origin.again && mark != NOBODY && self.newest(origin.client, origin.packet_id) == Some(mark)
    }

    /// The mark of the newest message of a client with this packet id.
    fn newest(&self, client: Client, packet_id: u16) -> Option<u64> {
        let open = self.open.get(&client).into_iter().flatten().rev();
        let known = self.clients.get(&client);
        let chunks = known.into_iter().flat_map(|known| known.chunks.iter().rev());
        open.chain(chunks.flat_map(|chunk| chunk.records.iter().rev()))
            .find_map(|record| mark_of(record, packet_id))
    }

    /// False as long as no client has a packet id to release.
    pub(super) fn releasable(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.releasable)
    }

    /// A message was applied: goes into the transaction that is being put together.
    pub(super) fn note(&mut self, origin: &Origin, identified: bool) {
        let mark = origin.mark(identified);
        if mark & RELEASED_BY_CLIENT != 0 {
            self.releasable.store(true, Ordering::Relaxed);
        }
        let record = record(origin.packet_id, mark);
        self.open.entry(origin.client).or_default().push(record);
    }

    /// The client is done with a packet id. False if there is nothing to write for it.
    pub(super) fn release(&mut self, client: Client, packet_id: u16) -> bool {
        let held = self
            .newest(client, packet_id)
            .is_some_and(|mark| mark & RELEASED_BY_CLIENT != 0);
        if held {
            self.open.entry(client).or_default().push(record(packet_id, NOBODY));
        }
        held
    }

    /// Whether there is anything for the next transaction.
    pub(super) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// What was put together is not going to be written.
    pub(super) fn discard(&mut self) {
        self.open.clear();
    }

    /// The rows of the transaction that was put together.
    pub(super) fn seal(&mut self, ops: &mut Vec<Op>) -> Sealed {
        let mut sealed = Sealed::default();
        if self.open.is_empty() {
            return sealed;
        }
        let mut touched = Vec::with_capacity(self.open.len());
        for (client, records) in std::mem::take(&mut self.open) {
            touched.push(client);
            for records in records.chunks(LONGEST_ROW) {
                let number = self.add(client, records);
                sealed.rows.push((client, number));
                let known = self.clients.get(&client).and_then(|known| known.chunks.back());
                ops.extend(known.map(|row| Op::KvPut {
                    bucket: Arc::clone(&self.bucket),
                    key: key(client, number),
                    value: row.records.concat(),
                }));
            }
        }
        sealed.removed = std::mem::take(&mut self.garbage);
        let surplus = self.forget_surplus(touched);
        sealed.removed.extend(surplus);
        ops.extend(sealed.removed.iter().cloned());
        sealed
    }

    /// Adds records to a client's last chunk; its number.
    fn add(&mut self, client: Client, records: &[Record]) -> u64 {
        let number = self.next;
        self.next += 1;
        self.messages += records.len();
        let known = self.clients.entry(client).or_default();
        known.used = number;
        known.count += records.len();
        if let Some(last) = known.chunks.back_mut()
            // One that is under way may fail: what it holds must not be written again before it is known to be there.
            && last.before.is_none()
            && last.records.len() + records.len() <= ROW
        {
            last.before = Some(last.records.len());
            last.records.extend(records);
            return last.number;
        }
        known.chunks.push_back(Chunk {
            number,
            records: records.to_vec(),
            before: Some(0),
        });
        number
    }

    /// A transaction is in, or is not.
    pub(super) fn landed(&mut self, sealed: Sealed, stored: bool) {
        for (client, number) in sealed.rows {
            let Some(known) = self.clients.get_mut(&client) else {
                continue;
            };
            let Ok(at) = known.chunks.binary_search_by_key(&number, |chunk| chunk.number) else {
                continue;
            };
            let chunk = &mut known.chunks[at];
            let before = chunk.before.take().unwrap_or_default();
            if stored {
                continue;
            }
            let gone = chunk.records.len() - before;
            chunk.records.truncate(before);
            known.count -= gone;
            self.messages -= gone;
            if before == 0 {
                known.chunks.remove(at);
            }
            if known.chunks.is_empty() {
                self.clients.remove(&client);
            }
        }
        if !stored {
            self.garbage.extend(sealed.removed);
        }
    }

    /// Forgets what is beyond the bounds, now that there is more of some clients; the operations that remove it from the store.
    fn forget_surplus(&mut self, grown: Vec<Client>) -> Vec<Op> {
        let mut ops = Vec::new();
        while self.clients.len() > CLIENTS
            && let Some((&client, _)) = self.clients.iter().min_by_key(|(_, known)| known.used)
        {
            ops.extend(self.shrink(client, 0));
        }
        for client in grown {
            ops.extend(self.shrink(client, WINDOW));
        }
        while self.messages > MESSAGES
            && let Some((&client, known)) = self.clients.iter().max_by_key(|(_, known)| known.count)
        {
            let oldest = known.chunks.front().map_or(0, |chunk| chunk.records.len());
            let keep = (known.count / 2).min(known.count - oldest);
            ops.extend(self.shrink(client, keep));
        }
        ops
    }

    /// Forgets the oldest messages of a client, but `keep` of them; with 0 the client.
    fn shrink(&mut self, client: Client, keep: usize) -> Option<Op> {
        let known = self.clients.get_mut(&client)?;
        let mut upto = None;
        while let Some(oldest) = known.chunks.front()
            && known.count - oldest.records.len() >= keep
        {
            known.count -= oldest.records.len();
            self.messages -= oldest.records.len();
            upto = Some(oldest.number + 1);
            known.chunks.pop_front();
        }
        if known.chunks.is_empty() {
            self.clients.remove(&client);
        }
        Some(Op::KvDeleteRange {
            bucket: Arc::clone(&self.bucket),
            from: key(client, 0),
            to: key(client, upto?),
        })
    }
}

fn key(client: Client, number: u64) -> Vec<u8> {
    [client.to_be_bytes().as_slice(), &number.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests;
