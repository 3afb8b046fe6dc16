//! Journal streams: numbered records, kept until their reader trims them or a bound forces them out.
//!
//! Records always leave from the front, so what waits is one range, `floor + 1 ..= accepted`. What left without being trimmed is
//! remembered as exact ranges until the reader trims past them. Ages are counted in time the store was open, not by the wall
//! clock: a gateway that wakes up in 1970 and is put right an hour later loses nothing.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::{
    DropReason, Dropped, JournalBounds, StoreOptions,
    error::Fault,
    schema::{MAX_SEQ, SEQ_BITS},
};

/// How much a journal stream may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalBound {
    /// Bytes of bodies.
    pub max_bytes: u64,
    /// Oldest record, in milliseconds of the store being open; `None` for no bound.
    pub max_age_ms: Option<u64>,
}

impl Default for JournalBound {
    fn default() -> Self {
        Self {
            max_bytes: 64 * 1024 * 1024,
            max_age_ms: None,
        }
    }
}

/// Ranges kept apart by reason. Beyond this many the newest is extended whatever the reason: still exact in numbers.
const MAX_RANGES: i64 = 64;

/// Where a stream stands, as the writer keeps it between commits.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    id: i64,
    accepted: u64,
    trimmed: u64,
    /// Records up to here are gone, trimmed or dropped.
    floor: u64,
    bytes: u64,
    dropped: u64,
}

/// All streams, with the changes of the running transaction.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams {
    known: BTreeMap<Arc<str>, Stream>,
    dirty: bool,
}

impl Streams {
    pub(super) fn load(db: &Connection) -> Result<Self, Fault> {
        let mut statement = db.prepare("SELECT id, accepted, trimmed, floor, bytes, dropped, name FROM streams")?;
        let mut known = BTreeMap::new();
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            known.insert(row.get::<_, String>(6)?.into(), Stream::from_row(row)?);
        }
        Ok(Self { known, dirty: false })
    }

    /// Adds a record and returns its number.
    pub(super) fn append(
        &mut self,
        db: &Connection,
        name: &Arc<str>,
        body: &[u8],
        now: u64,
        bound: JournalBound,
    ) -> Result<u64, Fault> {
        let stream = match self.known.get_mut(name) {
            Some(stream) => stream,
            None => {
                db.execute("INSERT INTO streams VALUES (NULL, ?1, 0, 0, 0, 0, 0)", [&**name])?;
                let id = db.last_insert_rowid();
                let fresh = Stream {
                    id,
                    accepted: 0,
                    trimmed: 0,
                    floor: 0,
                    bytes: 0,
                    dropped: 0,
                };
                self.known.entry(name.clone()).or_insert(fresh)
            }
        };
        let seq = stream.accepted + 1;
        if seq > MAX_SEQ {
            return Err(Fault::Io("a journal stream has used up its numbers".into()));
        }
        db.prepare_cached("INSERT INTO journal VALUES (?1, ?2, ?3)")?.execute((
            stream.row(seq),
            now.cast_signed(),
            body,
        ))?;
        stream.accepted = seq;
        stream.bytes += body.len() as u64;
        self.dirty = true;
        while stream.bytes > bound.max_bytes && stream.floor < stream.accepted {
            stream.drop_oldest(db, DropReason::Bytes)?;
        }
        Ok(seq)
    }

    /// Forgets records up to `upto`, and dropped ranges with them.
    pub(super) fn trim(&mut self, db: &Connection, name: &str, upto: u64) -> Result<(), Fault> {
        let Some(stream) = self.known.get_mut(name) else {
            return Ok(());
        };
        let upto = upto.min(stream.accepted);
        if upto <= stream.trimmed {
            return Ok(());
        }
        if upto > stream.floor {
            let range = (stream.row(stream.floor), stream.row(upto));
            let sum = "SELECT coalesce(sum(length(body)), 0) FROM journal WHERE id > ?1 AND id <= ?2";
            let bytes: i64 = db.prepare_cached(sum)?.query_row(range, |row| row.get(0))?;
            db.prepare_cached("DELETE FROM journal WHERE id > ?1 AND id <= ?2")?
                .execute(range)?;
            stream.bytes = stream.bytes.saturating_sub(bytes.cast_unsigned());
            stream.floor = upto;
        }
        stream.trimmed = upto;
        self.dirty = true;
        let bind = (stream.id, upto.cast_signed());
        db.prepare_cached("DELETE FROM dropped WHERE stream = ?1 AND last <= ?2")?
            .execute(bind)?;
        db.prepare_cached("UPDATE dropped SET first = ?2 + 1 WHERE stream = ?1 AND first <= ?2")?
            .execute(bind)?;
        Ok(())
    }

    /// Drops what is too old. Returns whether anything was.
    pub(super) fn expire(&mut self, db: &Connection, now: u64, options: &StoreOptions) -> Result<bool, Fault> {
        let mut any = false;
        for (name, stream) in &mut self.known {
            let Some(max_age) = options.bound(name).max_age_ms else {
                continue;
            };
            while let Some(at) = stream.oldest(db)?
                && at.saturating_add(max_age) < now
            {
                stream.drop_oldest(db, DropReason::Age)?;
                any = true;
            }
        }
        self.dirty |= any;
        Ok(any)
    }

    /// Whether [`Self::expire`] has something to look at.
    pub(super) fn any_waiting(&self) -> bool {
        self.known.values().any(|s| s.floor < s.accepted)
    }

    /// Writes down where the streams stand; part of every transaction that moved one.
    pub(super) fn flush(&mut self, db: &Connection) -> Result<(), Fault> {
        if !std::mem::take(&mut self.dirty) {
            return Ok(());
        }
        let mut update = db.prepare_cached(
            "UPDATE streams SET accepted = ?2, trimmed = ?3, floor = ?4, bytes = ?5, dropped = ?6 WHERE id = ?1
                AND (accepted, trimmed, floor, bytes, dropped) != (?2, ?3, ?4, ?5, ?6)",
        )?;
        for s in self.known.values() {
            let numbers = [s.accepted, s.trimmed, s.floor, s.bytes, s.dropped].map(u64::cast_signed);
            update.execute((s.id, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]))?;
        }
        Ok(())
    }
}

impl Stream {
    fn from_row(row: &Row<'_>) -> Result<Self, Fault> {
        let number = |i| row.get::<_, i64>(i).map(i64::cast_unsigned);
        let stream = Self {
            id: row.get(0)?,
            accepted: number(1)?,
            trimmed: number(2)?,
            floor: number(3)?,
            bytes: number(4)?,
            dropped: number(5)?,
        };
        if stream.trimmed > stream.floor || stream.floor > stream.accepted || stream.accepted > MAX_SEQ {
            return Err(Fault::Corrupt(
                "the numbers of a journal stream contradict each other".into(),
            ));
        }
        Ok(stream)
    }

    /// The row that holds a record.
    fn row(&self, seq: u64) -> i64 {
        (self.id << SEQ_BITS) | seq.cast_signed()
    }

    /// When the oldest waiting record was accepted.
    fn oldest(&self, db: &Connection) -> Result<Option<u64>, Fault> {
        if self.floor == self.accepted {
            return Ok(None);
        }
        let mut statement = db.prepare_cached("SELECT at FROM journal WHERE id = ?1")?;
        let at: Option<i64> = statement
            .query_row([self.row(self.floor + 1)], |row| row.get(0))
            .optional()?;
        at.map(|at| Some(at.cast_unsigned())).ok_or_else(missing)
    }

    fn drop_oldest(&mut self, db: &Connection, reason: DropReason) -> Result<(), Fault> {
        let seq = self.floor + 1;
        let mut statement = db.prepare_cached("DELETE FROM journal WHERE id = ?1 RETURNING length(body)")?;
        let length: Option<i64> = statement.query_row([self.row(seq)], |row| row.get(0)).optional()?;
        self.bytes = self.bytes.saturating_sub(length.ok_or_else(missing)?.cast_unsigned());
        self.floor = seq;
        self.dropped += 1;
        let newest = "SELECT first, last, reason FROM dropped WHERE stream = ?1 ORDER BY first DESC LIMIT 1";
        let newest: Option<(i64, i64, i64)> = db
            .prepare_cached(newest)?
            .query_row([self.id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let seq = seq.cast_signed();
        if let Some((first, last, before)) = newest
            && last + 1 == seq
            && (before == number(reason) || self.ranges(db)? >= MAX_RANGES)
        {
            let extend = "UPDATE dropped SET last = ?3 WHERE stream = ?1 AND first = ?2";
            db.prepare_cached(extend)?.execute((self.id, first, seq))?;
        } else {
            let insert = "INSERT INTO dropped VALUES (?1, ?2, ?2, ?3)";
            db.prepare_cached(insert)?.execute((self.id, seq, number(reason)))?;
        }
        Ok(())
    }

    fn ranges(&self, db: &Connection) -> Result<i64, Fault> {
        let mut count = db.prepare_cached("SELECT count(*) FROM dropped WHERE stream = ?1")?;
        Ok(count.query_row([self.id], |row| row.get(0))?)
    }
}

/// Reads records from `from` on, until their bodies reach `max_bytes`; always at least one if there is one.
pub(super) fn read(db: &Connection, name: &str, from: u64, max_bytes: usize) -> Result<Vec<(u64, Bytes)>, Fault> {
    let Some(stream) = find(db, name)? else {
        return Ok(Vec::new());
    };
    let from = from.max(stream.floor + 1);
    let mut records = Vec::new();
    if from > stream.accepted {
        return Ok(records);
    }
    let mut statement = db.prepare_cached("SELECT id, body FROM journal WHERE id >= ?1 AND id <= ?2 ORDER BY id")?;
    let mut rows = statement.query((stream.row(from), stream.row(stream.accepted)))?;
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let seq = row.get::<_, i64>(0)?.cast_unsigned() & MAX_SEQ;
        let body = row.get_ref(1)?.as_blob().map_err(|_| missing())?;
        bytes += body.len();
        if !records.is_empty() && bytes > max_bytes {
            break;
        }
        records.push((seq, Bytes::copy_from_slice(body)));
    }
    Ok(records)
}

/// Where a stream stands; all zero when nothing was ever appended to it.
pub(super) fn bounds(db: &Connection, name: &str) -> Result<JournalBounds, Fault> {
    let Some(stream) = find(db, name)? else {
        return Ok(JournalBounds::default());
    };
    let mut statement =
        db.prepare_cached("SELECT first, last, reason FROM dropped WHERE stream = ?1 ORDER BY first")?;
    let mut dropped = Vec::new();
    let mut rows = statement.query([stream.id])?;
    while let Some(row) = rows.next()? {
        let (from, to) = (
            row.get::<_, i64>(0)?.cast_unsigned(),
            row.get::<_, i64>(1)?.cast_unsigned(),
        );
        let reason = if row.get::<_, i64>(2)? == number(DropReason::Age) {
            DropReason::Age
        } else {
            DropReason::Bytes
        };
        dropped.push(Dropped { from, to, reason });
    }
    let Stream {
        accepted,
        trimmed,
        bytes,
        ..
    } = stream;
    Ok(JournalBounds {
        accepted,
        trimmed,
        dropped,
        bytes,
        dropped_total: stream.dropped,
    })
}

/// The names of all streams.
pub(super) fn names(db: &Connection) -> Result<Vec<Arc<str>>, Fault> {
    let mut statement = db.prepare_cached("SELECT name FROM streams ORDER BY name")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?;
    names.map(|name| Ok(name?.into())).collect()
}

/// The newest time a record was accepted at: where the store's count of its own open time goes on.
pub(super) fn latest(db: &Connection) -> Result<u64, Fault> {
    let mut latest = 0;
    let mut statement = db.prepare("SELECT id, accepted FROM streams WHERE accepted > floor")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id = (row.get::<_, i64>(0)? << SEQ_BITS) | row.get::<_, i64>(1)?;
        let at: Option<i64> = db
            .prepare_cached("SELECT at FROM journal WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        latest = latest.max(at.ok_or_else(missing)?.cast_unsigned());
    }
    Ok(latest)
}

fn find(db: &Connection, name: &str) -> Result<Option<Stream>, Fault> {
    let mut statement =
        db.prepare_cached("SELECT id, accepted, trimmed, floor, bytes, dropped FROM streams WHERE name = ?1")?;
    let mut rows = statement.query([name])?;
    rows.next()?.map(Stream::from_row).transpose()
}

fn number(reason: DropReason) -> i64 {
    match reason {
        DropReason::Bytes => 1,
        DropReason::Age => 2,
    }
}

fn missing() -> Fault {
    Fault::Corrupt("a journal record is missing".into())
}
