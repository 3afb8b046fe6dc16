//! The hub's end of the journals, within one session.
//!
//! Owns cursors. Each number of a stream passes to the application once, as a record or inside a dropped range, in order; it is
//! acknowledged when the application says that it is stored. Never holds more unstored bytes than the window it announced.

use super::config::{DropReason, StoredCursor};
use super::event::{Event, SessionError};
use super::outbox::stream_is_good;
use crate::codec::count_fields;
use crate::compress;
use crate::limits;
use crate::wire;
use prost::Message;
use std::collections::VecDeque;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Inbox {
    streams: Vec<Stream>,
    held: usize,
    pieces: usize,
    window: usize,
}

#[derive(Debug)]
struct Stream {
    name: Arc<str>,
    stored: u64,
    dropped: u64,
    received: u64,
    /// Highest number that the gateway said it accepted.
    accepted: u64,
    /// With the application, in order.
    pieces: VecDeque<Piece>,
    ack: bool,
}

#[derive(Debug)]
struct Piece {
    to: u64,
    cost: usize,
    /// First number of a dropped range.
    dropped_from: Option<u64>,
}

impl Inbox {
    /// Takes over what the sink has of this incarnation of the gateway's store. Streams of former ones count too: the bound is on what
    /// a gateway makes the sink keep, not on what it speaks of at a time.
    pub(super) fn begin(&mut self, cursors: Vec<StoredCursor>, instance: u64, window: usize) -> Vec<wire::JournalAck> {
        self.window = window;
        let good = cursors.into_iter().filter(|cursor| stream_is_good(&cursor.stream));
        let (ours, former): (Vec<_>, Vec<_>) = good.partition(|cursor| cursor.instance == instance);
        let ours = ours.into_iter().map(|c| Stream::new(c.stream, c.cursor, c.dropped));
        self.streams.extend(ours.take(limits::MAX_STREAMS));
        let acks = self.streams.iter().map(Stream::ack).collect();
        for cursor in former {
            let there = self.streams.iter().any(|stream| stream.name == cursor.stream);
            if !there && self.streams.len() < limits::MAX_STREAMS {
                self.streams.push(Stream::new(cursor.stream, 0, 0));
            }
        }
        acks
    }

    pub(super) fn on_records(
        &mut self,
        journal: &wire::Journal,
        events: &mut VecDeque<Event>,
    ) -> Result<(), SessionError> {
        let raw = compress::unpack(
            journal.encoding,
            journal.length as usize,
            &journal.records,
            limits::MAX_JOURNAL_BYTES,
        )?;
        if count_fields(&raw, 0, &mut 0).is_err() {
            return Err(SessionError::TooMany("journal records"));
        }
        let mut records = wire::Records::decode(raw)
            .map_err(|_| SessionError::Field("journal batch"))?
            .records;
        let count = records.len() as u64;
        if records.is_empty() || records.len() > limits::MAX_JOURNAL_RECORDS {
            return Err(SessionError::Field("journal batch"));
        }
        let cost = records.iter().map(|record| record.len() + limits::ENTRY_COST).sum();
        let to = journal
            .first_seq
            .checked_add(count - 1)
            .ok_or(SessionError::Field("journal number"))?;
        let new = self.place(&journal.stream, journal.first_seq, to, cost, false)?;
        events.extend(self.accepted(&journal.stream, journal.accepted_to.max(to))?);
        if let Some((stream, from)) = new {
            records.drain(..(from - journal.first_seq) as usize);
            events.push_back(Event::Journal {
                stream,
                first_seq: from,
                records,
            });
        }
        Ok(())
    }

    pub(super) fn on_dropped(
        &mut self,
        gone: &wire::JournalDropped,
        events: &mut VecDeque<Event>,
    ) -> Result<(), SessionError> {
        if gone.from > gone.to {
            return Err(SessionError::Field("dropped range"));
        }
        let new = self.place(&gone.stream, gone.from, gone.to, limits::ENTRY_COST, true)?;
        events.extend(self.accepted(&gone.stream, gone.accepted_to.max(gone.to))?);
        if let Some((stream, from)) = new {
            events.push_back(Event::JournalDropped {
                stream,
                from,
                to: gone.to,
                reason: DropReason::try_from(gone.reason).unwrap_or(DropReason::Unspecified),
            });
        }
        Ok(())
    }

    /// The gateway says how much it accepted; an event when that is more than before.
    pub(super) fn accepted(&mut self, name: &str, accepted_to: u64) -> Result<Option<Event>, SessionError> {
        let stream = self.stream(name)?;
        if accepted_to <= stream.accepted {
            return Ok(None);
        }
        stream.accepted = accepted_to;
        let stream = stream.name.clone();
        Ok(Some(Event::JournalAccepted { stream, accepted_to }))
    }

    /// The stream of a name, a new one if there is none yet.
    fn stream(&mut self, name: &str) -> Result<&mut Stream, SessionError> {
        if !stream_is_good(name) {
            return Err(SessionError::Field("stream"));
        }
        let at = match self.streams.iter().position(|stream| *stream.name == *name) {
            Some(at) => at,
            None if self.streams.len() >= limits::MAX_STREAMS => return Err(SessionError::TooMany("journal streams")),
            None => {
                self.streams.push(Stream::new(name.into(), 0, 0));
                self.streams.len() - 1
            }
        };
        Ok(&mut self.streams[at])
    }

    /// Finds the place of from..=to in its stream: the part that is new, or nothing when all of it is known.
    fn place(
        &mut self,
        name: &str,
        from: u64,
        to: u64,
        cost: usize,
        dropped: bool,
    ) -> Result<Option<(Arc<str>, u64)>, SessionError> {
        let too_much = self.held > 0 && self.held + cost > self.window;
        if too_much || self.pieces >= limits::MAX_IN_FLIGHT {
            return Err(SessionError::TooMany("journal bytes"));
        }
        let stream = self.stream(name)?;
        if from == 0 || from - 1 > stream.received || to == u64::MAX {
            return Err(SessionError::Order {
                what: "journal",
                want: stream.received + 1,
                got: from,
            });
        }
        if to <= stream.received {
            stream.ack = true;
            return Ok(None);
        }
        let from = stream.received + 1;
        stream.received = to;
        stream.pieces.push_back(Piece {
            to,
            cost,
            dropped_from: dropped.then_some(from),
        });
        let name = stream.name.clone();
        self.held += cost;
        self.pieces += 1;
        Ok(Some((name, from)))
    }

    /// The application has stored or accounted everything up to `cursor`.
    pub(super) fn stored(&mut self, name: &str, cursor: u64) {
        let Some(stream) = self.streams.iter_mut().find(|stream| *stream.name == *name) else {
            return;
        };
        let cursor = cursor.min(stream.received);
        if cursor <= stream.stored {
            return;
        }
        while let Some(piece) = stream.pieces.front_mut() {
            if let Some(from) = &mut piece.dropped_from
                && *from <= cursor
            {
                let upto = cursor.min(piece.to);
                stream.dropped += upto - *from + 1;
                *from = upto + 1;
            }
            if piece.to > cursor {
                break;
            }
            self.held -= piece.cost;
            self.pieces -= 1;
            stream.pieces.pop_front();
        }
        if stream.pieces.is_empty() {
            stream.pieces = VecDeque::new();
        }
        stream.stored = cursor;
        stream.ack = true;
    }

    pub(super) fn next_ack(&mut self) -> Option<wire::JournalAck> {
        let stream = self.streams.iter_mut().find(|stream| stream.ack)?;
        stream.ack = false;
        Some(stream.ack())
    }
}

impl Stream {
    fn new(name: Arc<str>, stored: u64, dropped: u64) -> Self {
        Self {
            name,
            stored,
            dropped,
            received: stored,
            accepted: stored,
            pieces: VecDeque::new(),
            ack: false,
        }
    }

    fn ack(&self) -> wire::JournalAck {
        wire::JournalAck {
            stream: self.name.to_string(),
            cursor: self.stored,
            dropped: self.dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(n: usize, instance: u64, cursor: u64) -> StoredCursor {
        StoredCursor {
            stream: format!("s{n}").into(),
            instance,
            cursor,
            dropped: 0,
        }
    }

    #[test]
    fn streams_of_former_stores_count_and_are_taken_up_again_by_name() {
        let mut inbox = Inbox::default();
        let all = (0..limits::MAX_STREAMS).map(|n| stored(n, n as u64 % 2, 5)).collect();
        let acks = inbox.begin(all, 1, limits::WINDOW_BYTES);
        assert_eq!(acks.len(), limits::MAX_STREAMS / 2);
        assert!(acks.iter().all(|ack| ack.cursor == 5));
        assert!(matches!(
            inbox.accepted("another", 1),
            Err(SessionError::TooMany("journal streams"))
        ));
        // Of a former store: counted from the beginning.
        assert!(matches!(
            inbox.accepted("s0", 1),
            Ok(Some(Event::JournalAccepted { accepted_to: 1, .. }))
        ));
        assert!(matches!(inbox.accepted("s1", 5), Ok(None)));
    }
}
