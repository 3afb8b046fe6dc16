//! The layout of the file, and how connections to it are set up.
//!
//! ```text
//! kinds     (group, resource) -> small number, so that rows and comparisons stay short
//! versions  every state an object had since the change log was compacted, by revision; the newest is the object itself
//! objects   (kind, namespace, name) -> revision of the newest version; live = 0 when that is a deletion
//! kv        buckets of bytes
//! streams, journal, dropped   numbered records per stream; a row's id is stream << 40 | seq
//! meta      incarnation, compacted (revisions up to it can no longer be listed at or watched from), clean, seal check
//! ```
//!
//! `versions` is change log and storage in one: a change appends one row and moves one small pointer. `prev` chains the states of
//! an object backwards, which is what a list at an older revision walks. Compacting past revision r removes the version that r
//! replaced, and r itself when it is a deletion. So every state that a revision above `compacted` can see is still there.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, config::DbConfig};

use super::{StoreError, error::Fault};

/// Rows of `versions.change`.
pub(super) const ADDED: i64 = 1;
pub(super) const MODIFIED: i64 = 2;
pub(super) const DELETED: i64 = 3;

/// Bits of a journal row's id that number the record.
pub(super) const SEQ_BITS: u32 = 40;
/// The last number a record can have: a thousand records a second for 34 years.
pub(super) const MAX_SEQ: u64 = (1 << SEQ_BITS) - 1;

/// Every step that ever changed the layout, in order. A released step is never edited. `user_version` counts them.
const LAYOUT: &[&str] = &["
CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE kinds(id INTEGER PRIMARY KEY, grp TEXT NOT NULL, resource TEXT NOT NULL, UNIQUE(grp, resource));
CREATE TABLE versions(revision INTEGER PRIMARY KEY, kind INTEGER NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
    change INTEGER NOT NULL, prev INTEGER NOT NULL, gap INTEGER NOT NULL, body BLOB);
CREATE TABLE objects(kind INTEGER NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL,
    live INTEGER NOT NULL, PRIMARY KEY(kind, namespace, name)) WITHOUT ROWID;
CREATE VIEW current AS SELECT k.grp, k.resource, o.namespace, o.name, o.revision, CAST(v.body AS TEXT) AS json
    FROM objects o JOIN kinds k ON k.id = o.kind JOIN versions v ON v.revision = o.revision WHERE o.live;
CREATE TABLE kv(bucket TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY(bucket, key)) WITHOUT ROWID;
CREATE TABLE streams(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, accepted INTEGER NOT NULL, trimmed INTEGER NOT NULL,
    floor INTEGER NOT NULL, bytes INTEGER NOT NULL, dropped INTEGER NOT NULL);
CREATE TABLE journal(id INTEGER PRIMARY KEY, at INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE dropped(stream INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, reason INTEGER NOT NULL,
    PRIMARY KEY(stream, first)) WITHOUT ROWID;
"];

/// What one connection may be used for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Writer,
    Reader,
}

/// Opens a connection with everything set that does not live in the file.
pub(super) fn connect(path: &Path, role: Role) -> Result<Connection, Fault> {
    let access = match role {
        Role::Writer => OpenFlags::SQLITE_OPEN_READ_WRITE,
        Role::Reader => OpenFlags::SQLITE_OPEN_READ_ONLY,
    };
    // Each connection is used by one thread at a time, behind its owner or a mutex of ours.
    let db = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(std::time::Duration::from_secs(5))?;
    db.set_prepared_statement_cache_capacity(48);
    // Without it SQLite plans some statements anew for each value bound to them.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    db.execute_batch(
        "PRAGMA cell_size_check = ON; PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0;",
    )?;
    keep_pages(&db, 256)?;
    if role == Role::Writer {
        // auto_vacuum takes effect on a file without tables only, and must come before the journal mode.
        db.execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 4194304;
             PRAGMA wal_autocheckpoint = 1000;",
        )?;
        let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        if mode != "wal" {
            return Err(Fault::Io(
                format!("the file system does not support write-ahead logging (got {mode})").into(),
            ));
        }
    }
    Ok(db)
}

/// How many KiB of pages a connection keeps in memory at most.
pub(super) fn keep_pages(db: &Connection, kib: u32) -> Result<(), Fault> {
    Ok(db.pragma_update(None, "cache_size", -i64::from(kib))?)
}

/// Brings the layout up to date. A file from a newer version is left as it is.
pub(super) fn lay_out(db: &mut Connection) -> Result<(), StoreError> {
    let known = u32::try_from(LAYOUT.len()).expect("a handful of steps");
    let found: u32 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > known {
        return Err(StoreError::NewerLayout { found, known });
    }
    if found == known {
        return Ok(());
    }
    let tx = db.transaction()?;
    for (number, step) in (1..=known).zip(LAYOUT).skip(found as usize) {
        tx.execute_batch(step)?;
        tx.pragma_update(None, "user_version", number)?;
    }
    if found == 0 {
        tx.execute_batch("INSERT INTO meta VALUES ('compacted', 0), ('clean', 1)")?;
        renew_incarnation(&tx)?;
    }
    tx.commit()?;
    Ok(())
}

/// Gives the file a new identity: whoever remembers revisions or journal numbers of the old one must not trust them here.
pub(super) fn renew_incarnation(db: &Connection) -> Result<u64, rusqlite::Error> {
    let mut bytes = [0; 8];
    super::seal::random(&mut bytes);
    let incarnation = (i64::from_le_bytes(bytes) & i64::MAX).max(1);
    db.execute("INSERT OR REPLACE INTO meta VALUES ('incarnation', ?1)", [incarnation])?;
    Ok(incarnation.cast_unsigned())
}

/// A number in `meta`.
pub(super) fn meta(db: &Connection, name: &str) -> Result<u64, Fault> {
    let value: Option<i64> = db
        .prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    match value {
        Some(value) if value >= 0 => Ok(value.cast_unsigned()),
        _ => Err(Fault::Corrupt(format!("meta.{name} is missing").into())),
    }
}

/// Sets a number in `meta`.
pub(super) fn set_meta(db: &Connection, name: &str, value: u64) -> Result<(), Fault> {
    db.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?
        .execute((name, value.cast_signed()))?;
    Ok(())
}

/// The newest revision in the file: of the newest version, or what was compacted when that was a deletion.
pub(super) fn revision(db: &Connection) -> Result<u64, Fault> {
    let newest: Option<i64> = db
        .prepare_cached("SELECT max(revision) FROM versions")?
        .query_row([], |row| row.get(0))?;
    Ok(newest.unwrap_or(0).cast_unsigned().max(meta(db, "compacted")?))
}

/// Reads the whole file for structural damage.
pub(super) fn quick_check(db: &Connection) -> Result<(), Fault> {
    let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" {
        Ok(())
    } else {
        Err(Fault::Corrupt(verdict.into()))
    }
}

/// Removes what only revisions up to `upto` could see. `from` is where the last compaction ended.
pub(super) fn compact(db: &Connection, from: u64, upto: u64) -> Result<(), Fault> {
    let range = (from.cast_signed(), upto.cast_signed());
    db.prepare_cached(
        "DELETE FROM versions WHERE revision IN
            (SELECT prev FROM versions WHERE revision > ?1 AND revision <= ?2 AND prev > 0)",
    )?
    .execute(range)?;
    let mut deletions = db.prepare_cached(
        "SELECT revision, kind, namespace, name FROM versions WHERE revision > ?1 AND revision <= ?2 AND change = 3",
    )?;
    let mut rows = deletions.query(range)?;
    let mut forget = db.prepare_cached(
        "DELETE FROM objects WHERE kind = ?2 AND namespace = ?3 AND name = ?4 AND revision = ?1 AND live = 0",
    )?;
    while let Some(row) = rows.next()? {
        let (revision, kind): (i64, i64) = (row.get(0)?, row.get(1)?);
        forget.execute((
            revision,
            kind,
            row.get_ref(2)?.as_str().map_err(bad)?,
            row.get_ref(3)?.as_str().map_err(bad)?,
        ))?;
    }
    db.prepare_cached("DELETE FROM versions WHERE revision > ?1 AND revision <= ?2 AND change = 3")?
        .execute(range)?;
    set_meta(db, "compacted", upto)
}

fn bad(_: rusqlite::types::FromSqlError) -> Fault {
    Fault::Corrupt("a name is not text".into())
}
