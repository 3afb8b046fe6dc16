//! Reading the file: gets, lists now and at an older revision, pages of the change log, key-value buckets.
//!
//! Every call sees one moment of the file, whatever the writer does meanwhile: one statement, or one read transaction.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row, params_from_iter, types::Value as Sql};

use super::{
    Event, EventKind, ListOptions, Listed, Object, ObjectKey, Scope, Shared, StoreError,
    body::replace_revision,
    error::{Fault, Gone},
    schema::{self, ADDED, DELETED},
};

/// Changes handed to a watcher in one page from the log.
const PAGE_EVENTS: usize = 64;
/// Bytes of bodies in such a page.
const PAGE_BYTES: usize = 1024 * 1024;
/// Revisions looked at for such a page, when most concern other kinds.
const PAGE_SPAN: u64 = 4096;

/// A read-only connection, used by one caller at a time; `None` once the store is closed.
pub(super) struct Reader(Mutex<Option<Connection>>);

impl Reader {
    pub(super) fn new(db: Connection) -> Self {
        Self(Mutex::new(Some(db)))
    }

    /// Runs a read of several statements that must see the same moment.
    pub(super) fn moment<T>(
        &self,
        shared: &Shared,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.read(shared, |db| read(&*db.unchecked_transaction()?))
    }

    /// Runs a read of one statement. Damage that it finds ends the store.
    pub(super) fn read<T>(
        &self,
        shared: &Shared,
        read: impl FnOnce(&Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        shared.check_open()?;
        let db = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let result = db.as_ref().ok_or(StoreError::Closed).and_then(read);
        drop(db);
        if let Err(StoreError::Corrupt(why)) = &result {
            shared.condemn(why.clone());
        }
        result
    }

    pub(super) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The newest revision a reader can see.
pub(super) fn revision(shared: &Shared) -> Result<u64, StoreError> {
    shared.points.moment(shared, |db| Ok(schema::revision(db)?))
}

pub(super) fn get(shared: &Shared, key: &ObjectKey) -> Result<Option<Object>, StoreError> {
    let Some(kind) = shared.kind(&key.group, &key.resource) else {
        return Ok(None);
    };
    shared.points.read(shared, |db| {
        let mut statement = db.prepare_cached(
            "SELECT v.revision, v.body FROM objects o JOIN versions v ON v.revision = o.revision
             WHERE o.kind = ?1 AND o.namespace = ?2 AND o.name = ?3 AND o.live = 1",
        )?;
        let mut rows = statement.query((kind, &*key.namespace, &*key.name))?;
        let Some(row) = rows.next()? else { return Ok(None) };
        object(shared, key.clone(), row.get(0)?, blob(row, 1)?).map(Some)
    })
}

pub(super) fn list(shared: &Shared, scope: &Scope, options: &ListOptions) -> Result<Listed, StoreError> {
    let kind = shared.kind(&scope.group, &scope.resource);
    shared.scans.moment(shared, |db| {
        let newest = schema::revision(db)?;
        let at = options.at.unwrap_or(newest);
        if at != newest {
            let oldest = schema::meta(db, "compacted")?;
            if at > newest || at < oldest {
                return Err(Gone {
                    asked: at,
                    oldest,
                    newest,
                }
                .into());
            }
        }
        let mut listed = Listed {
            revision: at,
            items: Vec::new(),
            more: false,
        };
        let Some(kind) = kind else { return Ok(listed) };
        let limit = options.limit.unwrap_or(usize::MAX);

        let mut sql = String::from("SELECT o.namespace, o.name, o.revision");
        let current = at == newest;
        sql.push_str(if current {
            ", v.body FROM objects o JOIN versions v ON v.revision = o.revision WHERE o.live = 1 AND o.kind = ?"
        } else {
            " FROM objects o WHERE o.kind = ?"
        });
        let mut bind = vec![Sql::Integer(kind)];
        if let Some(namespace) = &scope.namespace {
            sql.push_str(" AND o.namespace = ?");
            bind.push(Sql::Text(namespace.to_string()));
        }
        if let Some(after) = &options.after {
            sql.push_str(" AND (o.namespace, o.name) > (?, ?)");
            bind.push(Sql::Text(after.namespace.to_string()));
            bind.push(Sql::Text(after.name.to_string()));
        }
        sql.push_str(" ORDER BY o.namespace, o.name");

        let mut statement = db.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(bind))?;
        let mut names = Names::default();
        while let Some(row) = rows.next()? {
            let key = names.key(scope, text(row, 0)?, text(row, 1)?);
            let item = if current {
                Some(object(shared, key, row.get(2)?, blob(row, 3)?)?)
            } else {
                object_at(shared, db, key, row.get(2)?, at)?
            };
            let Some(item) = item else { continue };
            if listed.items.len() == limit {
                listed.more = true;
                break;
            }
            listed.items.push(item);
        }
        Ok(listed)
    })
}

/// Walks the states of an object back to the one that was current at a revision.
fn object_at(
    shared: &Shared,
    db: &Connection,
    key: ObjectKey,
    newest: i64,
    at: u64,
) -> Result<Option<Object>, StoreError> {
    let mut revision = newest;
    let mut step = db.prepare_cached("SELECT prev FROM versions WHERE revision = ?1")?;
    while revision.cast_unsigned() > at {
        match step.query_row([revision], |row| row.get::<_, i64>(0)).optional()? {
            Some(prev) if prev < revision => revision = prev,
            Some(_) => return Err(damaged("the states of an object are out of order").into()),
            None => return Ok(None),
        }
    }
    let mut statement = db.prepare_cached("SELECT body FROM versions WHERE revision = ?1 AND change != 3")?;
    let mut rows = statement.query([revision])?;
    match rows.next()? {
        Some(row) => object(shared, key, revision, blob(row, 0)?).map(Some),
        None => Ok(None),
    }
}

/// Changes from the log.
pub(super) struct Page {
    pub(super) events: Vec<Arc<Event>>,
    /// How far the page reaches when it holds no event.
    pub(super) upto: u64,
}

/// A page of the changes of a scope behind `cursor`, not looking beyond `last`.
pub(super) fn changes(shared: &Shared, scope: &Scope, cursor: u64, last: u64) -> Result<Page, StoreError> {
    let kind = shared.kind(&scope.group, &scope.resource);
    shared.scans.moment(shared, |db| {
        let oldest = schema::meta(db, "compacted")?;
        if cursor < oldest {
            return Err(Gone {
                asked: cursor,
                oldest,
                newest: schema::revision(db)?,
            }
            .into());
        }
        let upto = last.min(cursor.saturating_add(PAGE_SPAN));
        let mut page = Page {
            events: Vec::new(),
            upto,
        };
        let Some(kind) = kind else { return Ok(page) };
        let mut statement = db.prepare_cached(
            "SELECT v.namespace, v.name, v.revision, v.change, v.body, p.revision, p.gap, p.body
             FROM versions v LEFT JOIN versions p ON p.revision = v.prev
             WHERE v.revision > ?1 AND v.revision <= ?2 AND v.kind = ?3 ORDER BY v.revision",
        )?;
        let mut rows = statement.query((cursor.cast_signed(), upto.cast_signed(), kind))?;
        let mut names = Names::default();
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let key = names.key(scope, text(row, 0)?, text(row, 1)?);
            if !scope.contains(&key) {
                continue;
            }
            let event = event(shared, key, row)?;
            bytes += event.object.json.len() + event.previous.as_ref().map_or(0, |p| p.json.len());
            page.events.push(Arc::new(event));
            if page.events.len() == PAGE_EVENTS || bytes >= PAGE_BYTES {
                break;
            }
        }
        Ok(page)
    })
}

fn event(shared: &Shared, key: ObjectKey, row: &Row<'_>) -> Result<Event, StoreError> {
    let (revision, change): (i64, i64) = (row.get(2)?, row.get(3)?);
    let previous = match change {
        ADDED => None,
        _ => Some(object(shared, key.clone(), row.get(5)?, blob(row, 7)?)?),
    };
    let (kind, object) = match (change, &previous) {
        (DELETED, Some(last)) => (EventKind::Deleted, deleted(last, row.get::<_, i64>(6)?, revision)?),
        (ADDED, _) => (EventKind::Added, object(shared, key, revision, blob(row, 4)?)?),
        _ => (EventKind::Modified, object(shared, key, revision, blob(row, 4)?)?),
    };
    Ok(Event { kind, object, previous })
}

/// The last state of an object, with the revision of its deletion.
fn deleted(last: &Object, gap: i64, revision: i64) -> Result<Object, Fault> {
    let revision = revision.cast_unsigned();
    let json = usize::try_from(gap)
        .ok()
        .and_then(|gap| replace_revision(&last.json, gap, last.revision, revision));
    let json = json.ok_or_else(|| damaged("an object does not show its revision"))?;
    Ok(Object {
        key: last.key.clone(),
        revision,
        json,
    })
}

/// Builds an object from its row, unsealing a Secret.
fn object(shared: &Shared, key: ObjectKey, revision: i64, body: &[u8]) -> Result<Object, StoreError> {
    let json = if key.is_secret() {
        let opened = shared.seal.as_ref().and_then(|seal| seal.unseal(&key, body));
        opened.ok_or_else(|| StoreError::Sealed(key.clone()))?
    } else {
        Bytes::copy_from_slice(body)
    };
    Ok(Object {
        key,
        revision: revision.cast_unsigned(),
        json,
    })
}

pub(super) fn kv_get(shared: &Shared, bucket: &str, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
    shared.points.read(shared, |db| {
        let mut statement = db.prepare_cached("SELECT value FROM kv WHERE bucket = ?1 AND key = ?2")?;
        let mut rows = statement.query((bucket, key))?;
        Ok(rows
            .next()?
            .map(|row| blob(row, 0).map(Bytes::copy_from_slice))
            .transpose()?)
    })
}

/// The pairs of a bucket whose key starts with a prefix and lies behind `after`, in key order.
pub(super) fn kv_scan(
    shared: &Shared,
    bucket: &str,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
    shared.scans.read(shared, |db| {
        let mut pairs = Vec::new();
        // A key equal to the prefix counts; `after` excludes its own.
        let (sql, from) = match after {
            Some(after) if after >= prefix => (
                "SELECT key, value FROM kv WHERE bucket = ?1 AND key > ?2 ORDER BY key",
                after,
            ),
            _ => (
                "SELECT key, value FROM kv WHERE bucket = ?1 AND key >= ?2 ORDER BY key",
                prefix,
            ),
        };
        let mut statement = db.prepare_cached(sql)?;
        let mut rows = statement.query((bucket, from))?;
        while pairs.len() < limit
            && let Some(row) = rows.next()?
        {
            let key = blob(row, 0)?;
            if !key.starts_with(prefix) {
                break;
            }
            pairs.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(blob(row, 1)?)));
        }
        Ok(pairs)
    })
}

/// Makes keys that share the strings they have in common.
#[derive(Default)]
struct Names {
    namespace: Option<Arc<str>>,
}

impl Names {
    fn key(&mut self, scope: &Scope, namespace: &str, name: &str) -> ObjectKey {
        let namespace = match self.namespace.as_ref().or(scope.namespace.as_ref()) {
            Some(known) if **known == *namespace => known.clone(),
            _ => namespace.into(),
        };
        self.namespace = Some(namespace.clone());
        ObjectKey {
            group: scope.group.clone(),
            resource: scope.resource.clone(),
            namespace,
            name: name.into(),
        }
    }
}

pub(super) fn blob<'r>(row: &'r Row<'_>, column: usize) -> Result<&'r [u8], Fault> {
    row.get_ref(column)?.as_blob().map_err(|_| damaged("a body is missing"))
}

fn text<'r>(row: &'r Row<'_>, column: usize) -> Result<&'r str, Fault> {
    row.get_ref(column)?.as_str().map_err(|_| damaged("a name is not text"))
}

fn damaged(what: &str) -> Fault {
    Fault::Corrupt(what.into())
}
