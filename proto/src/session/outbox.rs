//! The gateway's end of the journals, within one session.
//!
//! Owns cursors, not records: records are asked from the application when there is room for them, one request per stream at a time, and
//! forgotten here when they are sent. A stream goes up in the order of its numbers without a gap: what the store no longer has is told
//! as a dropped range in its place.

use super::config::{DropReason, DroppedRange, JournalCursor};
use super::event::{Event, SessionError};
use crate::Now;
use crate::compress;
use crate::limits;
use crate::wire;
use bytes::Bytes;
use prost::Message;
use std::collections::VecDeque;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Outbox {
    streams: Vec<Stream>,
    /// Read and not yet sent.
    ready: VecDeque<Ready>,
    flights: VecDeque<Flight>,
    /// Bytes ready and in flight.
    held: usize,
    window: usize,
    live: bool,
}

#[derive(Debug)]
struct Stream {
    name: Arc<str>,
    priority: u8,
    accepted: u64,
    /// What the hub was last told of `accepted`.
    told: u64,
    /// Everything up to here is ready, sent or told as dropped.
    done: u64,
    acked: u64,
    dropped: VecDeque<DroppedRange>,
    asked: bool,
    /// The store had nothing at `done + 1` though it was accepted: wait for news.
    stalled: bool,
    /// The hub has numbers this store never gave.
    ahead: bool,
}

#[derive(Debug)]
enum Ready {
    Records {
        stream: Arc<str>,
        first: u64,
        records: Vec<Bytes>,
        cost: usize,
    },
    Dropped {
        stream: Arc<str>,
        range: DroppedRange,
    },
}

#[derive(Debug)]
struct Flight {
    stream: Arc<str>,
    to: u64,
    cost: usize,
    packed: usize,
    sent: Option<Now>,
}

fn cost_of(record: &Bytes) -> usize {
    record.len() + limits::ENTRY_COST
}

impl Outbox {
    pub(super) fn new(cursors: &[JournalCursor]) -> Self {
        let mut outbox = Self::default();
        for cursor in cursors {
            outbox.add(cursor.clone());
        }
        outbox
    }

    fn add(&mut self, cursor: JournalCursor) -> Option<&mut Stream> {
        let good = stream_is_good(&cursor.stream) && self.streams.len() < limits::MAX_STREAMS;
        if !good || self.streams.iter().any(|stream| stream.name == cursor.stream) {
            return None;
        }
        let mut stream = Stream {
            name: cursor.stream,
            priority: cursor.priority,
            accepted: cursor.accepted_to,
            told: 0,
            done: 0,
            acked: 0,
            dropped: VecDeque::new(),
            asked: false,
            stalled: false,
            ahead: false,
        };
        if cursor.trimmed_to > 0 {
            stream.drop_range(DroppedRange {
                from: 1,
                to: cursor.trimmed_to,
                reason: DropReason::Trimmed,
            });
        }
        for range in cursor.dropped {
            stream.drop_range(range);
        }
        let at = self.streams.partition_point(|other| other.priority <= stream.priority);
        self.streams.insert(at, stream);
        self.streams.get_mut(at)
    }

    pub(super) fn hello(&mut self) -> Vec<wire::JournalState> {
        self.streams.iter_mut().map(Stream::state).collect()
    }

    /// Journals that accepted more than the hub was told. Frames of records tell it in passing; this is for what does not go up.
    pub(super) fn news(&mut self) -> Vec<wire::JournalState> {
        let grown = self.streams.iter_mut().filter(|stream| stream.accepted != stream.told);
        grown.map(Stream::state).collect()
    }

    /// The number for a frame of this stream.
    fn tell_accepted(&mut self, name: &str) -> u64 {
        let Some(stream) = self.streams.iter_mut().find(|stream| *stream.name == *name) else {
            return 0;
        };
        stream.told = stream.accepted;
        stream.told
    }

    /// The hub has said what it has.
    pub(super) fn begin(&mut self, acks: &[wire::JournalAck], window: usize, events: &mut VecDeque<Event>) {
        self.window = window;
        self.live = true;
        for ack in acks {
            let Some(stream) = self.streams.iter_mut().find(|stream| *stream.name == *ack.stream) else {
                continue;
            };
            if ack.cursor > stream.accepted {
                stream.ahead = true;
                events.push_back(Event::JournalAhead {
                    stream: stream.name.clone(),
                    cursor: ack.cursor,
                });
            } else if ack.cursor > 0 {
                (stream.acked, stream.done) = (ack.cursor, ack.cursor);
                let (stream, cursor, dropped) = (stream.name.clone(), ack.cursor, ack.dropped);
                events.push_back(Event::JournalAcked {
                    stream,
                    cursor,
                    dropped,
                });
            }
        }
    }

    pub(super) fn appended(&mut self, name: &str, upto: u64) {
        let at = match self.streams.iter().position(|stream| *stream.name == *name) {
            Some(at) => self.streams.get_mut(at),
            None => self.add(JournalCursor::new(name, upto)),
        };
        if let Some(stream) = at {
            stream.accepted = stream.accepted.max(upto);
            stream.stalled = false;
        }
    }

    pub(super) fn dropped(&mut self, name: &str, range: DroppedRange) {
        if let Some(stream) = self.streams.iter_mut().find(|stream| *stream.name == *name) {
            stream.accepted = stream.accepted.max(range.to);
            stream.drop_range(range);
            stream.stalled = false;
        }
    }

    /// The next records wanted from the store. Streams of a lower priority number go first.
    pub(super) fn next_need(&mut self) -> Option<Event> {
        if !self.live || self.flights.len() + self.ready.len() >= limits::MAX_IN_FLIGHT {
            return None;
        }
        self.pass_dropped();
        let room = self.window.saturating_sub(self.held);
        for stream in &mut self.streams {
            let wants = stream.done < stream.accepted && !stream.asked && !stream.stalled && !stream.ahead;
            // Ask for a fair part, not for the crumbs that each acknowledgement frees.
            if wants && (room >= limits::JOURNAL_BYTES || self.held == 0) {
                stream.asked = true;
                let max_bytes = room.min(limits::JOURNAL_BYTES);
                return Some(Event::NeedJournal {
                    stream: stream.name.clone(),
                    from: stream.done + 1,
                    max_bytes,
                });
            }
        }
        None
    }

    /// Dropped ranges whose place in their stream has come.
    fn pass_dropped(&mut self) {
        for stream in &mut self.streams {
            while let Some(range) = stream.next_dropped() {
                self.held += limits::ENTRY_COST;
                self.ready.push_back(Ready::Dropped {
                    stream: stream.name.clone(),
                    range,
                });
            }
        }
    }

    /// The store's answer to `NeedJournal`.
    pub(super) fn read(&mut self, name: &str, first: u64, records: Vec<Bytes>) {
        let Some(stream) = self
            .streams
            .iter_mut()
            .find(|stream| *stream.name == *name && stream.asked)
        else {
            return;
        };
        stream.asked = false;
        let most = limits::JOURNAL_BYTES.min(self.window);
        if records.is_empty() || first == 0 {
            stream.stalled = true;
            return;
        }
        let (mut batch, mut batch_first, mut cost) = (Vec::new(), first, 0);
        let flush = |first: u64, records: &mut Vec<Bytes>, cost: &mut usize| {
            (!records.is_empty()).then(|| Ready::Records {
                stream: name.into(),
                first,
                records: core::mem::take(records),
                cost: core::mem::take(cost),
            })
        };
        for (seq, record) in (first..=u64::MAX).zip(records) {
            while let Some(range) = stream.next_dropped() {
                self.ready.extend(flush(batch_first, &mut batch, &mut cost));
                self.held += limits::ENTRY_COST;
                self.ready.push_back(Ready::Dropped {
                    stream: stream.name.clone(),
                    range,
                });
            }
            if seq <= stream.done {
                continue;
            }
            let missing = (seq > stream.done + 1).then(|| (stream.done + 1, seq - 1, DropReason::Missing));
            let too_large = (record.len() > limits::MAX_RECORD).then_some((seq, seq, DropReason::TooLarge));
            for (from, to, reason) in missing.into_iter().chain(too_large) {
                self.ready.extend(flush(batch_first, &mut batch, &mut cost));
                self.held += limits::ENTRY_COST;
                let range = DroppedRange { from, to, reason };
                self.ready.push_back(Ready::Dropped {
                    stream: stream.name.clone(),
                    range,
                });
            }
            stream.done = seq;
            stream.accepted = stream.accepted.max(seq);
            if too_large.is_some() {
                continue;
            }
            let this = cost_of(&record);
            if cost > 0 && (cost + this > most || batch.len() == limits::MAX_JOURNAL_RECORDS) {
                self.ready.extend(flush(batch_first, &mut batch, &mut cost));
            }
            if batch.is_empty() {
                batch_first = seq;
            }
            cost += this;
            self.held += this;
            batch.push(record);
        }
        self.ready.extend(flush(batch_first, &mut batch, &mut cost));
    }

    pub(super) fn next_frame(&mut self) -> Option<wire::frame::Kind> {
        if self.live {
            self.pass_dropped();
        }
        let in_flight: usize = self.flights.iter().map(|flight| flight.cost).sum();
        let cost = match self.ready.front()? {
            Ready::Records { cost, .. } => *cost,
            Ready::Dropped { .. } => limits::ENTRY_COST,
        };
        if self.flights.len() >= limits::MAX_IN_FLIGHT || (in_flight > 0 && in_flight + cost > self.window) {
            return None;
        }
        let (stream, to, packed, kind) = match self.ready.pop_front()? {
            Ready::Records {
                stream, first, records, ..
            } => {
                let to = first + (records.len() as u64 - 1);
                let records = Bytes::from(wire::Records { records }.encode_to_vec());
                let (encoding, packed) = compress::pack(&records);
                let size = packed.len();
                let journal = wire::Journal {
                    stream: stream.to_string(),
                    first_seq: first,
                    encoding: encoding as i32,
                    length: records.len() as u32,
                    records: packed,
                    accepted_to: self.tell_accepted(&stream),
                };
                (stream, to, size, wire::frame::Kind::Journal(journal))
            }
            Ready::Dropped { stream, range } => {
                let dropped = wire::JournalDropped {
                    stream: stream.to_string(),
                    from: range.from,
                    to: range.to,
                    reason: range.reason as i32,
                    accepted_to: self.tell_accepted(&stream),
                };
                (
                    stream,
                    range.to,
                    limits::ENTRY_COST,
                    wire::frame::Kind::JournalDropped(dropped),
                )
            }
        };
        if self.ready.is_empty() {
            self.ready = VecDeque::new();
        }
        self.flights.push_back(Flight {
            stream,
            to,
            cost,
            packed,
            sent: None,
        });
        Some(kind)
    }

    pub(super) fn on_ack(&mut self, ack: &wire::JournalAck) -> Result<Option<Event>, SessionError> {
        let Some(stream) = self.streams.iter_mut().find(|stream| *stream.name == *ack.stream) else {
            return Err(SessionError::Field("stream"));
        };
        let waiting = self.ready.iter().find_map(|ready| match ready {
            Ready::Records {
                stream: name, first, ..
            } => (*name == stream.name).then_some(*first),
            Ready::Dropped { stream: name, range } => (*name == stream.name).then_some(range.from),
        });
        let sent = waiting.map_or(stream.done, |first| first - 1);
        if ack.cursor > sent || ack.dropped > ack.cursor {
            return Err(SessionError::Order {
                what: "journal cursor",
                want: sent,
                got: ack.cursor,
            });
        }
        if ack.cursor <= stream.acked {
            return Ok(None);
        }
        stream.acked = ack.cursor;
        let name = stream.name.clone();
        let mut freed = 0;
        self.flights.retain(|flight| {
            let over = flight.stream == name && flight.to <= ack.cursor;
            freed += if over { flight.cost } else { 0 };
            !over
        });
        self.held -= freed;
        if self.flights.is_empty() {
            self.flights = VecDeque::new();
        }
        Ok(Some(Event::JournalAcked {
            stream: name,
            cursor: ack.cursor,
            dropped: ack.dropped,
        }))
    }

    pub(super) fn awaiting(&self) -> Option<(Option<Now>, usize)> {
        self.flights.front().map(|flight| (flight.sent, flight.packed))
    }

    pub(super) fn stamp(&mut self, now: Now) {
        for flight in self.flights.iter_mut().rev() {
            if flight.sent.is_some() {
                break;
            }
            flight.sent = Some(now);
        }
    }

    pub(super) fn settled(&self) -> bool {
        self.flights.is_empty()
            && self.ready.is_empty()
            && self.streams.iter().all(|s| s.ahead || s.acked >= s.accepted)
    }
}

impl Stream {
    /// As the hub is told now.
    fn state(&mut self) -> wire::JournalState {
        self.told = self.accepted;
        let trimmed = self.dropped.front().filter(|r| r.reason == DropReason::Trimmed);
        wire::JournalState {
            stream: self.name.to_string(),
            accepted_to: self.accepted,
            trimmed_to: trimmed.map_or(0, |r| r.to),
        }
    }

    /// Notes a range that will never be read; what of it is done already was sent before it was dropped.
    fn drop_range(&mut self, range: DroppedRange) {
        let from = range
            .from
            .max(self.dropped.back().map_or(self.done, |last| last.to).max(self.done) + 1);
        if from > range.to {
            return;
        }
        match self.dropped.back_mut() {
            Some(last) if last.reason == range.reason && last.to + 1 == from => last.to = range.to,
            _ => self.dropped.push_back(DroppedRange { from, ..range }),
        }
    }

    /// The dropped range that comes next in the stream, if one does.
    fn next_dropped(&mut self) -> Option<DroppedRange> {
        while self.dropped.front().is_some_and(|range| range.to <= self.done) {
            self.dropped.pop_front();
        }
        let range = self
            .dropped
            .front()
            .copied()
            .filter(|range| range.from <= self.done + 1 && !self.ahead)?;
        self.dropped.pop_front();
        let range = DroppedRange {
            from: self.done + 1,
            ..range
        };
        self.done = range.to;
        Some(range)
    }
}

pub(super) fn stream_is_good(name: &str) -> bool {
    !name.is_empty() && crate::join::text_is_good(name, limits::MAX_STREAM_NAME)
}
