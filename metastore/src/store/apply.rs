//! What a transaction does to the file: preconditions checked, rows written, events made.
//!
//! Runs on the writer thread only, inside the SQLite transaction of a whole group. A transaction that is refused leaves no trace;
//! a fault of the disk ends the group.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::json;

use super::{
    CommitError, Committed, Event, EventKind, Expect, MAX_NAME, MAX_VALUE, Object, ObjectKey, Op, Shared, Tx,
    body::{Body, replace_revision},
    error::Fault,
    journal::Streams,
    read::blob,
    schema::{ADDED, DELETED, MODIFIED},
};

/// An operation as it travels to the writer: checked, and its object serialised.
pub(super) enum Step {
    Put {
        key: ObjectKey,
        body: Body,
        expect: Expect,
        uid: Option<String>,
    },
    Delete {
        key: ObjectKey,
        expect: Expect,
        uid: Option<String>,
    },
    KvPut {
        bucket: Arc<str>,
        key: Vec<u8>,
        value: Vec<u8>,
    },
    KvDelete {
        bucket: Arc<str>,
        key: Vec<u8>,
    },
    KvDeleteRange {
        bucket: Arc<str>,
        from: Vec<u8>,
        to: Vec<u8>,
    },
    KvExpect {
        bucket: Arc<str>,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
    },
    Append {
        stream: Arc<str>,
        body: Bytes,
    },
    Trim {
        stream: Arc<str>,
        upto: u64,
    },
}

/// Operations one transaction may have.
const MAX_OPS: usize = 16 * 1024;
/// Bytes one transaction may bring.
const MAX_TX: usize = 32 * 1024 * 1024;

/// Checks a transaction and turns it into steps; also says how many bytes they bring.
pub(super) fn prepare(tx: Tx, can_seal: bool) -> Result<(Vec<Step>, usize), CommitError> {
    if tx.0.len() > MAX_OPS {
        return Err(invalid("the transaction", "it has too many operations"));
    }
    let mut steps = Vec::with_capacity(tx.0.len());
    let mut bytes = 0;
    for op in tx.0 {
        bytes += 64;
        steps.push(match op {
            Op::Put {
                key,
                object,
                expect,
                uid,
            } => {
                check_key(&key)?;
                if key.is_secret() && !can_seal {
                    return Err(CommitError::NoSealKey(key));
                }
                let body = Body::new(&object).map_err(|reason| invalid(&key, reason))?;
                bytes += body.len();
                Step::Put { key, body, expect, uid }
            }
            Op::Delete { key, expect, uid } => {
                check_key(&key)?;
                Step::Delete { key, expect, uid }
            }
            Op::KvPut { bucket, key, value } => {
                check_kv(&bucket, &key)?;
                if value.len() > MAX_VALUE {
                    return Err(invalid(&*bucket, "the value is too large"));
                }
                bytes += key.len() + value.len();
                Step::KvPut { bucket, key, value }
            }
            Op::KvDelete { bucket, key } => Step::KvDelete { bucket, key },
            Op::KvDeleteRange { bucket, from, to } => Step::KvDeleteRange { bucket, from, to },
            Op::KvExpect { bucket, key, value } => Step::KvExpect { bucket, key, value },
            Op::JournalAppend { stream, body } => {
                check_name("journal stream", &stream)?;
                if body.len() > MAX_VALUE {
                    return Err(invalid(&*stream, "the record is too large"));
                }
                bytes += body.len();
                Step::Append { stream, body }
            }
            Op::JournalTrim { stream, upto } => Step::Trim { stream, upto },
        });
    }
    if bytes > MAX_TX {
        return Err(invalid("the transaction", "it brings too many bytes"));
    }
    Ok((steps, bytes))
}

fn check_key(key: &ObjectKey) -> Result<(), CommitError> {
    let parts = [&key.group, &key.resource, &key.namespace, &key.name];
    if parts.iter().any(|part| part.len() > MAX_NAME) {
        return Err(invalid("an object", "a part of its name is too long"));
    }
    if parts.iter().any(|part| part.contains('\0')) {
        return Err(invalid(key, "its name holds a NUL"));
    }
    if key.resource.is_empty() || key.name.is_empty() {
        return Err(invalid(key, "its resource or name is empty"));
    }
    Ok(())
}

fn check_kv(bucket: &str, key: &[u8]) -> Result<(), CommitError> {
    check_name("bucket", bucket)?;
    if key.len() > MAX_NAME {
        Err(invalid(bucket, "the key is too long"))
    } else {
        Ok(())
    }
}

fn check_name(what: &str, name: &str) -> Result<(), CommitError> {
    match name.len() {
        0 => Err(invalid(what, "its name is empty")),
        1..=MAX_NAME => Ok(()),
        _ => Err(invalid(what, "its name is too long")),
    }
}

fn invalid(what: impl std::fmt::Display, reason: &'static str) -> CommitError {
    CommitError::Invalid {
        what: what.to_string(),
        reason,
    }
}

/// Why a step did not go through.
enum Stop {
    Refused(CommitError),
    Fault(Fault),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Fault(error.into())
    }
}

/// The state of a group of transactions on its way to the disk.
pub(super) struct Group<'a> {
    pub(super) db: &'a Connection,
    pub(super) shared: &'a Shared,
    /// Milliseconds the store has been open in its life, for journal records.
    pub(super) now: u64,
    /// The newest revision, of this group too.
    pub(super) revision: u64,
    pub(super) events: Vec<Arc<Event>>,
    pub(super) streams: &'a mut Streams,
    /// Whether anything at all was written.
    pub(super) wrote: bool,
}

/// What the file knows under a name.
#[derive(Default)]
struct Stored {
    /// Revision of the newest version, a deletion too; 0 when the name was never used.
    newest: u64,
    live: Option<Live>,
}

/// The state of an object that is there.
struct Live {
    object: Object,
    gap: usize,
}

impl Group<'_> {
    /// Runs one transaction. The inner error is the caller's, the outer one the disk's.
    pub(super) fn run(&mut self, steps: &[Step]) -> Result<Result<Committed, CommitError>, Fault> {
        // Only a precondition behind a write needs something to go back to.
        let undo = steps
            .iter()
            .skip(1)
            .any(Step::can_be_refused)
            .then(|| (self.revision, self.events.len(), self.streams.clone()));
        if undo.is_some() {
            self.db.prepare_cached("SAVEPOINT one")?.execute([])?;
        }
        let mut done = Committed {
            revision: 0,
            objects: Vec::new(),
            journal_seqs: Vec::new(),
        };
        let outcome = steps.iter().try_for_each(|step| self.step(step, &mut done));
        let refused = match outcome {
            Ok(()) => None,
            Err(Stop::Refused(error)) => Some(error),
            Err(Stop::Fault(fault)) => return Err(fault),
        };
        if let Some((revision, events, streams)) = undo {
            if refused.is_some() {
                self.db.prepare_cached("ROLLBACK TO one")?.execute([])?;
                self.revision = revision;
                self.events.truncate(events);
                *self.streams = streams;
            }
            self.db.prepare_cached("RELEASE one")?.execute([])?;
        }
        Ok(match refused {
            Some(error) => Err(error),
            None => {
                done.revision = self.revision;
                Ok(done)
            }
        })
    }

    fn step(&mut self, step: &Step, done: &mut Committed) -> Result<(), Stop> {
        match step {
            Step::Put { key, body, expect, uid } => done.objects.push(self.put(key, body, *expect, uid.as_deref())?),
            Step::Delete { key, expect, uid } => done.objects.extend(self.delete(key, *expect, uid.as_deref())?),
            Step::KvPut { bucket, key, value } => {
                self.execute("INSERT OR REPLACE INTO kv VALUES (?1, ?2, ?3)", (&**bucket, key, value))?;
            }
            Step::KvDelete { bucket, key } => {
                self.execute("DELETE FROM kv WHERE bucket = ?1 AND key = ?2", (&**bucket, key))?;
            }
            Step::KvDeleteRange { bucket, from, to } => {
                let sql = "DELETE FROM kv WHERE bucket = ?1 AND key >= ?2 AND key < ?3";
                self.execute(sql, (&**bucket, from, to))?;
            }
            Step::KvExpect { bucket, key, value } => {
                let sql = "SELECT value FROM kv WHERE bucket = ?1 AND key = ?2";
                let mut statement = self.db.prepare_cached(sql)?;
                let mut rows = statement.query((&**bucket, key))?;
                let found = rows.next()?.map(|row| blob(row, 0)).transpose()?;
                if found != value.as_deref() {
                    let bucket = Arc::clone(bucket);
                    return Err(Stop::Refused(CommitError::KvConflict { bucket }));
                }
            }
            Step::Append { stream, body } => {
                let bound = self.shared.options.bound(stream);
                done.journal_seqs
                    .push(self.streams.append(self.db, stream, body, self.now, bound)?);
                self.wrote = true;
            }
            Step::Trim { stream, upto } => {
                self.streams.trim(self.db, stream, *upto)?;
                self.wrote = true;
            }
        }
        Ok(())
    }

    fn put(&mut self, key: &ObjectKey, body: &Body, expect: Expect, uid: Option<&str>) -> Result<Object, Stop> {
        let kind = self.shared.kind(&key.group, &key.resource);
        let kind = kind.ok_or_else(|| Fault::Io("a kind was not numbered".into()))?;
        let Stored { newest, live } = self.stored(kind, key)?;
        check(key, live.as_ref().map(|l| &l.object), expect, uid)?;
        if let Some(live) = &live
            && body.same_as(&live.object.json, live.gap, live.object.revision)
        {
            return Ok(live.object.clone());
        }
        let revision = self.revision + 1;
        let object = Object {
            key: key.clone(),
            revision,
            json: body.at(revision),
        };
        let previous = live.map(|l| l.object);
        let (kind_of_event, change) = match previous {
            None => (EventKind::Added, ADDED),
            Some(_) => (EventKind::Modified, MODIFIED),
        };
        let sealed;
        let row: &[u8] = match (&self.shared.seal, key.is_secret()) {
            (Some(seal), true) => {
                sealed = seal.seal(key, &object.json);
                &sealed
            }
            (None, true) => return Err(Stop::Refused(CommitError::NoSealKey(key.clone()))),
            (_, false) => &object.json,
        };
        self.add_version(kind, key, change, newest, body.gap(), Some(row))?;
        self.events.push(Arc::new(Event {
            kind: kind_of_event,
            object: object.clone(),
            previous,
        }));
        Ok(object)
    }

    fn delete(&mut self, key: &ObjectKey, expect: Expect, uid: Option<&str>) -> Result<Option<Object>, Stop> {
        let live = match self.shared.kind(&key.group, &key.resource) {
            Some(kind) => self.stored(kind, key)?.live.map(|live| (kind, live)),
            None => None,
        };
        check(key, live.as_ref().map(|(_, l)| &l.object), expect, uid)?;
        let Some((kind, Live { object: last, gap })) = live else {
            return Ok(None);
        };
        let revision = self.revision + 1;
        let json = replace_revision(&last.json, gap, last.revision, revision)
            .ok_or_else(|| Fault::Corrupt("an object does not show its revision".into()))?;
        let object = Object {
            key: key.clone(),
            revision,
            json,
        };
        self.add_version(kind, key, DELETED, last.revision, 0, None)?;
        self.events.push(Arc::new(Event {
            kind: EventKind::Deleted,
            object: object.clone(),
            previous: Some(last),
        }));
        Ok(Some(object))
    }

    /// Appends the next version of an object and points the object at it.
    fn add_version(
        &mut self,
        kind: i64,
        key: &ObjectKey,
        change: i64,
        newest: u64,
        gap: usize,
        row: Option<&[u8]>,
    ) -> Result<(), Stop> {
        let revision = (self.revision + 1).cast_signed();
        let gap = i64::try_from(gap).expect("an object is far below this");
        let (namespace, name) = (&*key.namespace, &*key.name);
        self.execute(
            "INSERT INTO versions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            (revision, kind, namespace, name, change, newest.cast_signed(), gap, row),
        )?;
        let pointer = match newest {
            0 => "INSERT INTO objects VALUES (?1, ?2, ?3, ?4, ?5)",
            _ => "UPDATE objects SET revision = ?4, live = ?5 WHERE kind = ?1 AND namespace = ?2 AND name = ?3",
        };
        self.execute(pointer, (kind, namespace, name, revision, i64::from(change != DELETED)))?;
        self.revision += 1;
        Ok(())
    }

    fn stored(&self, kind: i64, key: &ObjectKey) -> Result<Stored, Stop> {
        let mut statement = self.db.prepare_cached(
            "SELECT o.revision, o.live, v.gap, v.body FROM objects o LEFT JOIN versions v ON v.revision = o.revision
             WHERE o.kind = ?1 AND o.namespace = ?2 AND o.name = ?3",
        )?;
        let mut rows = statement.query((kind, &*key.namespace, &*key.name))?;
        let Some(row) = rows.next()? else {
            return Ok(Stored::default());
        };
        let newest = row.get::<_, i64>(0)?.cast_unsigned();
        if row.get::<_, i64>(1)? == 0 {
            return Ok(Stored { newest, live: None });
        }
        let gap: Option<i64> = row.get(2)?;
        let gap = gap.and_then(|gap| usize::try_from(gap).ok());
        let gap = gap.ok_or_else(|| Fault::Corrupt("the newest version of an object is missing".into()))?;
        let body = blob(row, 3)?;
        let opened = match &self.shared.seal {
            _ if !key.is_secret() => Some(Bytes::copy_from_slice(body)),
            Some(seal) => seal.unseal(key, body),
            None => None,
        };
        let (json, gap) = match opened {
            Some(json) => (json, gap),
            // What cannot be opened can still be replaced or removed.
            None => {
                let metadata = json!({"metadata": {"name": &*key.name, "namespace": &*key.namespace}});
                let body = Body::new(&metadata).expect("a small object");
                (body.at(newest), body.gap())
            }
        };
        let object = Object {
            key: key.clone(),
            revision: newest,
            json,
        };
        Ok(Stored {
            newest,
            live: Some(Live { object, gap }),
        })
    }

    fn execute(&mut self, sql: &str, bind: impl rusqlite::Params) -> Result<(), Stop> {
        self.wrote |= self.db.prepare_cached(sql)?.execute(bind)? > 0;
        Ok(())
    }
}

impl Step {
    fn can_be_refused(&self) -> bool {
        match self {
            Self::Put { expect, uid, .. } | Self::Delete { expect, uid, .. } => *expect != Expect::Any || uid.is_some(),
            Self::KvExpect { .. } => true,
            _ => false,
        }
    }
}

fn check(key: &ObjectKey, live: Option<&Object>, expect: Expect, uid: Option<&str>) -> Result<(), Stop> {
    let refuse = |error| Err(Stop::Refused(error));
    match (expect, live) {
        (Expect::Absent, Some(_)) => return refuse(CommitError::Exists(key.clone())),
        (Expect::Present | Expect::Revision(_), None) => return refuse(CommitError::NotFound(key.clone())),
        (Expect::Revision(expected), Some(live)) if live.revision != expected => {
            return refuse(CommitError::Conflict {
                key: key.clone(),
                expected,
                found: live.revision,
            });
        }
        _ => {}
    }
    match (uid, live) {
        (Some(_), None) => refuse(CommitError::NotFound(key.clone())),
        (Some(expected), Some(live)) => {
            let found = uid_of(&live.json);
            if found == expected {
                return Ok(());
            }
            refuse(CommitError::UidConflict {
                key: key.clone(),
                expected: expected.to_owned(),
                found,
            })
        }
        (None, _) => Ok(()),
    }
}

fn uid_of(json: &[u8]) -> String {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Partial {
        metadata: Metadata,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Metadata {
        uid: String,
    }
    serde_json::from_slice::<Partial>(json).unwrap_or_default().metadata.uid
}
