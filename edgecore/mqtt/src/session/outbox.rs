//! Messages on their way to one client: QoS 1 and 2 in a queue with packet ids, QoS 0 beside it.
//!
//! Every QoS 1 or 2 message gets the next sequence number of its session, and its packet id derives from that number
//! (`seq % 65535 + 1`). So a message keeps its packet id over reconnects and over a restart of the broker, with nothing
//! stored beyond the queue itself; QoS 2 stays exactly-once because the client recognises the id. Two messages
//! 65,535 apart would share an id: the later one waits for the earlier.
//!
//! ```text
//!   entries:  [ in flight: sent, or released (QoS 2 after PUBREC) ] cursor [ waiting ]
//! ```
//!
//! An entry leaves with PUBACK or PUBCOMP, when it expired before it was sent, or, oldest waiting first, when the queue
//! is over its bounds. A waiting entry that is not durable yet holds up those behind it: order is kept.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use crate::packet::{Delivery, Publish, QoS};

/// Packet ids in use: 1 to 65,535.
const IDS: u64 = 65_535;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Sent,
    /// PUBREC came; the message itself is done with.
    Released,
}

#[derive(Debug)]
struct Entry {
    seq: u64,
    qos: QoS,
    retain: bool,
    ids: Vec<u32>,
    message: Option<Arc<Publish>>,
    expires: Option<Duration>,
    state: State,
    /// From before a restart: it may have been sent then.
    again: bool,
    durable: bool,
    bytes: usize,
}

#[derive(Debug)]
struct Low {
    message: Arc<Publish>,
    retain: bool,
    ids: Vec<u32>,
    expires: Option<Duration>,
}

/// What a queue may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

/// What became of a message that was to be queued.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pushed {
    /// Where it stands; `None` if it is itself what was dropped.
    pub(crate) seq: Option<u64>,
    /// What had to go for it.
    pub(crate) dropped: Vec<u64>,
}

/// What `take` found beside the deliveries.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// QoS 1 and 2 entries that expired; their durable copies can go.
    pub(crate) expired: Vec<u64>,
    /// QoS 0 messages that expired.
    pub(crate) expired_low: u64,
    /// There is more than the budget allowed.
    pub(crate) more: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    entries: VecDeque<Entry>,
    next_seq: u64,
    bytes: usize,
    /// Index of the first entry not yet sent on this connection.
    cursor: usize,
    low: VecDeque<Low>,
    low_bytes: usize,
}

pub(crate) fn packet_id(seq: u64) -> u16 {
    // Below 65,535, so it fits, and never 0.
    (seq % IDS) as u16 + 1
}

impl Outbox {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    #[allow(clippy::too_many_arguments)]
    /// Queues a QoS 1 or 2 message. One that is not `durable` is held until `settle`.
    pub(crate) fn push(
        &mut self,
        message: Arc<Publish>,
        qos: QoS,
        retain: bool,
        ids: Vec<u32>,
        expires: Option<Duration>,
        durable: bool,
        bounds: Bounds,
    ) -> Pushed {
        let bytes = message.cost() + 4 * ids.len();
        let mut dropped = vec![];
        while self.entries.len() + 1 > bounds.messages || self.bytes + bytes > bounds.bytes {
            let Some(oldest) = self.entries.iter().position(|e| e.state == State::Waiting) else {
                return Pushed { seq: None, dropped };
            };
            dropped.push(self.remove(oldest).seq);
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        self.bytes += bytes;
        self.entries.push_back(Entry {
            seq,
            qos,
            retain,
            ids,
            message: Some(message),
            expires,
            state: State::Waiting,
            again: false,
            durable,
            bytes,
        });
        Pushed {
            seq: Some(seq),
            dropped,
        }
    }

    /// Puts back what was durable at the last stop; by rising `seq`. Whether it had been sent is not known: it goes out
    /// marked as a duplicate.
    pub(crate) fn restore(
        &mut self,
        seq: u64,
        qos: QoS,
        retain: bool,
        ids: Vec<u32>,
        message: Option<Arc<Publish>>,
        expires: Option<Duration>,
    ) {
        let bytes = message.as_ref().map_or(0, |m| m.cost()) + 4 * ids.len();
        let state = if message.is_some() {
            State::Waiting
        } else {
            State::Released
        };
        self.bytes += bytes;
        self.next_seq = seq + 1;
        let (again, durable) = (true, true);
        self.entries.push_back(Entry {
            seq,
            qos,
            retain,
            ids,
            message,
            expires,
            state,
            again,
            durable,
            bytes,
        });
    }

    /// Queues a QoS 0 message; `false`: dropped, the client is too slow.
    pub(crate) fn push_low(
        &mut self,
        message: Arc<Publish>,
        retain: bool,
        ids: Vec<u32>,
        expires: Option<Duration>,
        bounds: Bounds,
    ) -> bool {
        let bytes = message.cost();
        if self.low.len() >= bounds.messages || self.low_bytes + bytes > bounds.bytes {
            return false;
        }
        self.low_bytes += bytes;
        self.low.push_back(Low {
            message,
            retain,
            ids,
            expires,
        });
        true
    }

    /// A new connection: everything in flight is sent again, from the start.
    pub(crate) fn attach(&mut self) {
        self.cursor = 0;
    }

    /// The connection ended: QoS 0 is not kept for an absent client.
    pub(crate) fn detach(&mut self) {
        self.cursor = 0;
        self.low.clear();
        self.low_bytes = 0;
    }

    /// Takes what may be sent now: as much as `window` and about `budget` bytes allow.
    pub(crate) fn take(&mut self, now: Duration, window: usize, budget: usize, out: &mut Vec<Delivery>) -> Taken {
        let mut taken = Taken::default();
        let mut left = budget;
        while self.cursor < window.min(self.entries.len()) {
            let front = self.entries[0].seq;
            let entry = &mut self.entries[self.cursor];
            if !entry.durable || entry.seq - front >= IDS {
                break;
            }
            if left == 0 {
                taken.more = true;
                return taken;
            }
            let delivery = match &entry.message {
                None => Delivery::PubRel {
                    pid: packet_id(entry.seq),
                },
                Some(_) if entry.state == State::Waiting && entry.expires.is_some_and(|at| at <= now) => {
                    taken.expired.push(self.remove(self.cursor).seq);
                    continue;
                }
                Some(message) => Delivery::Publish {
                    message: message.clone(),
                    qos: entry.qos,
                    pid: packet_id(entry.seq),
                    dup: entry.state == State::Sent || entry.again,
                    retain: entry.retain,
                    ids: entry.ids.clone(),
                    expiry_left_s: left_s(entry.expires, now),
                },
            };
            if entry.state == State::Waiting {
                entry.state = State::Sent;
            }
            self.cursor += 1;
            left = left.saturating_sub(delivery.cost());
            out.push(delivery);
        }
        while let Some(low) = self.low.front() {
            if left == 0 {
                taken.more = true;
                return taken;
            }
            if low.expires.is_some_and(|at| at <= now) {
                taken.expired_low += 1;
            } else {
                let delivery = Delivery::Publish {
                    message: low.message.clone(),
                    qos: QoS::AtMostOnce,
                    pid: 0,
                    dup: false,
                    retain: low.retain,
                    ids: low.ids.clone(),
                    expiry_left_s: left_s(low.expires, now),
                };
                left = left.saturating_sub(delivery.cost());
                out.push(delivery);
            }
            self.low_bytes -= low.message.cost();
            self.low.pop_front();
        }
        taken
    }

    /// PUBACK, or giving up on a message in flight; the entry that is done with.
    pub(crate) fn acknowledged(&mut self, pid: u16, qos: QoS) -> Option<u64> {
        let index = self.in_flight(pid)?;
        let entry = &self.entries[index];
        (entry.qos == qos && entry.state == State::Sent).then(|| self.remove(index).seq)
    }

    /// PUBREC: the message has arrived, PUBREL is next. `Some` with the entry if it is in flight (also when PUBREC comes again).
    pub(crate) fn received(&mut self, pid: u16) -> Option<u64> {
        let index = self.in_flight(pid)?;
        let entry = &mut self.entries[index];
        if entry.qos != QoS::ExactlyOnce {
            return None;
        }
        entry.state = State::Released;
        entry.message = None;
        self.bytes -= entry.bytes;
        entry.bytes = 0;
        Some(entry.seq)
    }

    /// PUBCOMP: the end of a QoS 2 message.
    pub(crate) fn completed(&mut self, pid: u16) -> Option<u64> {
        let index = self.in_flight(pid)?;
        (self.entries[index].state == State::Released).then(|| self.remove(index).seq)
    }

    /// The commit of an entry ended. If it failed, the entry goes: its publisher was not acknowledged and will repeat it.
    pub(crate) fn settle(&mut self, seq: u64, ok: bool) {
        let Ok(index) = self.entries.binary_search_by_key(&seq, |e| e.seq) else {
            return;
        };
        if ok {
            self.entries[index].durable = true;
        } else {
            self.remove(index);
        }
    }

    fn in_flight(&self, pid: u16) -> Option<usize> {
        let front = self.entries.front()?.seq;
        // The one sequence number within 65,535 of the front that has this id.
        let ahead = (u64::from(pid) + IDS - u64::from(packet_id(front))) % IDS;
        let index = self.entries.binary_search_by_key(&(front + ahead), |e| e.seq).ok()?;
        (pid != 0 && index < self.cursor).then_some(index)
    }

    fn remove(&mut self, index: usize) -> Entry {
        let entry = self.entries.remove(index).expect("callers pass an index they found");
        self.bytes -= entry.bytes;
        if index < self.cursor {
            self.cursor -= 1;
        }
        entry
    }
}

fn left_s(expires: Option<Duration>, now: Duration) -> Option<u32> {
    expires.map(|at| u32::try_from(at.saturating_sub(now).as_secs()).unwrap_or(u32::MAX))
}
