//! Where gateways' journals end: one stream per gateway and stream in the hub's store, bounded there by bytes, and beside it a
//! cursor that says up to where records are safe.
//!
//! Records and cursor are written in one transaction, and records at or below the cursor are passed over, so that whatever is
//! sent again after a lost acknowledgement takes effect once. A gateway whose store was lost counts anew under another instance.
//!
//! A record is stored as 8 bytes of instance, 8 bytes of the gateway's number (both big-endian), and its body.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use device_models::kinds::JournalStatus;
use metastore::store::{Op, Store, StoreError, Tx};
use proto::StoredCursor;
use serde::{Deserialize, Serialize};

use super::sink::Entry;

const CURSORS: &str = "journal-cursors";

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Cursor {
    instance: u64,
    cursor: u64,
    dropped: u64,
}

/// What became of one journal's records: accepted = delivered + dropped + waiting, always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) stream: Arc<str>,
    /// As the gateway last said it, and never less than what came from it.
    accepted: u64,
    /// Safe here or accounted as dropped up to this number.
    safe: u64,
    dropped: u64,
}

impl Account {
    /// As EdgeNode shows it. Numbers that no real journal reaches are held to what fits.
    pub(crate) fn status(&self) -> JournalStatus {
        let fit = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let (accepted, safe) = (fit(self.accepted), fit(self.safe));
        let dropped = fit(self.dropped).min(safe);
        JournalStatus {
            stream: Some(self.stream.to_string()),
            accepted: Some(accepted),
            delivered: Some(safe - dropped),
            dropped: Some(dropped),
            waiting: Some(accepted - safe),
        }
    }
}

/// A record in the hub's history of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// Its place in the history.
    pub(crate) position: u64,
    /// The gateway's store it comes from.
    pub(crate) instance: u64,
    /// Its number there.
    pub(crate) seq: u64,
    pub(crate) body: Bytes,
}

/// Where a history stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// Position of the newest record; 0 when there never was one.
    pub(crate) newest: u64,
    /// How many of the oldest the bound forced out.
    pub(crate) forced_out: u64,
}

/// Reads a history from a position on: at most `most` records and about `max_bytes`.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn history(
    store: &Store,
    node: &str,
    stream: &str,
    from: u64,
    (most, max_bytes): (usize, usize),
) -> Result<(Extent, Vec<Kept>), StoreError> {
    let name = stream_name(node, stream);
    let records = store.journal_read(&name, from, max_bytes)?;
    let bounds = store.journal_bounds(&name)?;
    let extent = Extent {
        newest: bounds.accepted,
        forced_out: bounds.dropped_total,
    };
    let kept = |(position, mut record): (u64, Bytes)| {
        let (instance, seq) = (record.try_get_u64().ok()?, record.try_get_u64().ok()?);
        Some(Kept {
            position,
            instance,
            seq,
            body: record,
        })
    };
    Ok((extent, records.into_iter().take(most).filter_map(kept).collect()))
}

/// Records looked at together from the end of a history.
const WINDOW: u64 = 32;

/// The newest record that is wanted, among the last `most` of a history.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn newest_of(
    store: &Store,
    (node, stream): (&str, &str),
    most: u64,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<Option<Kept>, StoreError> {
    let mut end = store.journal_bounds(&stream_name(node, stream))?.accepted;
    let stop = end.saturating_sub(most);
    while end > stop {
        let from = end.saturating_sub(WINDOW).max(stop) + 1;
        let count = usize::try_from(end - from + 1).unwrap_or(usize::MAX);
        let (_, kept) = history(store, node, stream, from, (count, usize::MAX))?;
        let found = kept
            .into_iter()
            .rev()
            .filter(|k| k.position <= end)
            .find(|k| wanted(&k.body));
        if found.is_some() {
            return Ok(found);
        }
        end = from - 1;
    }
    Ok(None)
}

/// The journals of one gateway's session.
#[derive(Debug)]
pub(crate) struct Journals {
    node: Arc<str>,
    instance: u64,
    /// With what is being stored.
    cursors: BTreeMap<Arc<str>, Cursor>,
    /// Their bytes in the store when everything on its way is there.
    written: BTreeMap<Arc<str>, Vec<u8>>,
    /// Of this instance; only what is stored.
    accounts: Vec<Account>,
}

/// The name of a gateway's stream in the hub's store.
pub(crate) fn stream_name(node: &str, stream: &str) -> Arc<str> {
    Arc::from(format!("{node}/{stream}"))
}

fn cursor_key(node: &str, stream: &str) -> Vec<u8> {
    format!("{node}/{stream}").into_bytes()
}

impl Journals {
    /// Reads the cursors of a node.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn open(store: &Store, node: Arc<str>, instance: u64) -> Result<Self, StoreError> {
        let prefix = cursor_key(&node, "");
        let (mut cursors, mut written) = (BTreeMap::new(), BTreeMap::new());
        for (key, value) in store.kv_scan(CURSORS, &prefix)? {
            let stream: Arc<str> = Arc::from(&*String::from_utf8_lossy(&key[prefix.len()..]));
            if let Ok(cursor) = serde_json::from_slice::<Cursor>(&value) {
                cursors.insert(Arc::clone(&stream), cursor);
            }
            written.insert(stream, value.to_vec());
        }
        let mine = cursors.iter().filter(|(_, c): &(_, &Cursor)| c.instance == instance);
        let accounts = mine.map(|(stream, c)| Account {
            stream: Arc::clone(stream),
            accepted: c.cursor,
            safe: c.cursor,
            dropped: c.dropped,
        });
        Ok(Self {
            node,
            instance,
            accounts: accounts.collect(),
            cursors,
            written,
        })
    }

    /// As the session wants them.
    pub(crate) fn cursors(&self) -> Vec<StoredCursor> {
        let one = |(stream, c): (&Arc<str>, &Cursor)| StoredCursor {
            stream: Arc::clone(stream),
            instance: c.instance,
            cursor: c.cursor,
            dropped: c.dropped,
        };
        self.cursors.iter().map(one).collect()
    }

    fn at(&mut self, stream: &Arc<str>) -> &mut Cursor {
        let instance = self.instance;
        let cursor = self.cursors.entry(Arc::clone(stream)).or_insert(Cursor {
            instance,
            cursor: 0,
            dropped: 0,
        });
        if cursor.instance != instance {
            *cursor = Cursor {
                instance,
                cursor: 0,
                dropped: 0,
            };
        }
        cursor
    }

    /// The cursor's next value, which counts only on top of the one before. A commit behind one that a full disk refused is refused
    /// with it, where its cursor would stand for records that were never stored; and of two sessions of one gateway, one goes on.
    fn put(&mut self, stream: &Arc<str>, cursor: Cursor) -> [Op; 2] {
        let key = cursor_key(&self.node, stream);
        let value = serde_json::to_vec(&cursor).expect("three numbers serialise");
        let before = self.written.insert(Arc::clone(stream), value.clone());
        [
            Op::KvExpect {
                bucket: CURSORS.into(),
                key: key.clone(),
                value: before,
            },
            Op::KvPut {
                bucket: CURSORS.into(),
                key,
                value,
            },
        ]
    }

    /// Takes records in: the transaction that makes those of them safe that are new. The transactions count in the order they are made.
    pub(crate) fn append(&mut self, stream: &Arc<str>, first: u64, records: Vec<Bytes>) -> Entry {
        let instance = self.instance;
        let mut ops = Vec::with_capacity(records.len() + 1);
        let mut new = 0;
        let into = stream_name(&self.node, stream);
        let cursor = {
            let mut now = *self.at(stream);
            for (seq, body) in (first..).zip(records) {
                if seq <= now.cursor {
                    continue;
                }
                let mut record = BytesMut::with_capacity(16 + body.len());
                record.put_u64(instance);
                record.put_u64(seq);
                record.put_slice(&body);
                ops.push(Op::JournalAppend {
                    stream: Arc::clone(&into),
                    body: record.freeze(),
                });
                now.cursor = seq;
                new += 1;
            }
            now
        };
        *self.at(stream) = cursor;
        ops.extend(self.put(stream, cursor));
        Entry {
            tx: Tx(ops),
            stream: Arc::clone(stream),
            cursor: cursor.cursor,
            records: new,
            dropped: 0,
        }
    }

    /// Accounts for records that will never come.
    pub(crate) fn dropped(&mut self, stream: &Arc<str>, from: u64, to: u64) -> Entry {
        let cursor = self.at(stream);
        let fresh = from.max(cursor.cursor + 1);
        let lost = if to >= fresh { to - fresh + 1 } else { 0 };
        cursor.dropped += lost;
        cursor.cursor = cursor.cursor.max(to);
        let cursor = *cursor;
        Entry {
            tx: Tx(self.put(stream, cursor).into()),
            stream: Arc::clone(stream),
            cursor: cursor.cursor,
            records: 0,
            dropped: lost,
        }
    }

    fn account(&mut self, stream: &Arc<str>) -> &mut Account {
        let at = match self.accounts.iter().position(|a| a.stream == *stream) {
            Some(at) => at,
            None => {
                self.accounts.push(Account {
                    stream: Arc::clone(stream),
                    accepted: 0,
                    safe: 0,
                    dropped: 0,
                });
                self.accounts.len() - 1
            }
        };
        &mut self.accounts[at]
    }

    /// The gateway accepted records up to this number.
    pub(crate) fn accepted(&mut self, stream: &Arc<str>, upto: u64) {
        let account = self.account(stream);
        account.accepted = account.accepted.max(upto);
    }

    /// A commit resolved: everything up to the cursor is safe, with it so many more as dropped.
    pub(crate) fn stored(&mut self, stream: &Arc<str>, cursor: u64, dropped: u64) {
        let account = self.account(stream);
        account.safe = account.safe.max(cursor);
        account.accepted = account.accepted.max(account.safe);
        account.dropped += dropped;
    }

    /// Of every stream of this instance.
    pub(crate) fn accounts(&self) -> Vec<Account> {
        self.accounts.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metastore::store::StoreOptions;

    fn body(n: u64) -> Bytes {
        Bytes::from(format!("r{n}"))
    }

    async fn append(store: &Store, j: &mut Journals, first: u64, to: u64) -> (u64, u64) {
        let entry = j.append(&Arc::from("telemetry"), first, (first..=to).map(body).collect());
        store.commit(entry.tx).await.unwrap();
        j.stored(&Arc::from("telemetry"), entry.cursor, 0);
        (entry.cursor, entry.records)
    }

    /// accepted, delivered, dropped, waiting
    fn balance(j: &Journals) -> [i64; 4] {
        let s = j.accounts()[0].status();
        let all = [s.accepted, s.delivered, s.dropped, s.waiting].map(Option::unwrap);
        assert_eq!(all[0], all[1..].iter().sum::<i64>());
        all
    }

    #[tokio::test]
    async fn repeated_records_take_effect_once_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(StoreOptions::new(dir.path().join("hub.db"))).unwrap();
        let node: Arc<str> = Arc::from("gw-1");
        let mut j = Journals::open(&store, Arc::clone(&node), 7).unwrap();
        assert_eq!(append(&store, &mut j, 1, 5).await, (5, 5));
        assert_eq!(append(&store, &mut j, 3, 8).await, (8, 3));
        let entry = j.dropped(&Arc::from("telemetry"), 7, 10);
        let (cursor, lost) = (entry.cursor, entry.dropped);
        assert_eq!(balance(&j), [8, 8, 0, 0], "nothing counts before it is stored");
        store.commit(entry.tx).await.unwrap();
        assert_eq!((cursor, lost), (10, 2));
        j.stored(&Arc::from("telemetry"), cursor, lost);
        j.accepted(&Arc::from("telemetry"), 14);
        assert_eq!(balance(&j), [14, 8, 2, 4]);

        let mut j = Journals::open(&store, Arc::clone(&node), 7).unwrap();
        assert_eq!(
            j.cursors()[0],
            StoredCursor {
                stream: "telemetry".into(),
                instance: 7,
                cursor: 10,
                dropped: 2
            }
        );
        assert_eq!(append(&store, &mut j, 9, 12).await, (12, 2));
        assert_eq!(balance(&j), [12, 10, 2, 0]);
        let read = |from, most| history(&store, "gw-1", "telemetry", from, (most, usize::MAX)).unwrap();
        let (extent, kept) = read(1, 100);
        assert_eq!((extent.newest, extent.forced_out), (10, 0));
        let numbers: Vec<u64> = kept.iter().map(|k| k.seq).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8, 11, 12]);
        let (_, part) = read(8, 2);
        assert_eq!(
            part.iter().map(|k| (k.position, k.seq)).collect::<Vec<_>>(),
            [(8, 8), (9, 11)]
        );
        assert_eq!((part[1].instance, &part[1].body), (7, &body(11)));

        // Another store at the gateway: it begins at 1 again, and nothing of the old is mistaken for it.
        let mut j = Journals::open(&store, node, 8).unwrap();
        assert_eq!(append(&store, &mut j, 1, 2).await, (2, 2));
        assert_eq!(balance(&j), [2, 2, 0, 0]);
        assert!(Journals::open(&store, "gw".into(), 1).unwrap().cursors().is_empty());
    }

    #[tokio::test]
    async fn what_a_full_disk_refuses_is_not_passed_over_by_what_fits() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            max_bytes: Some(256 * 1024),
            ..StoreOptions::new(dir.path().join("hub.db"))
        };
        let (store, _) = Store::open(options).unwrap();
        let telemetry = Arc::from("telemetry");
        let mut j = Journals::open(&store, "gw-1".into(), 7).unwrap();
        assert_eq!(append(&store, &mut j, 1, 2).await, (2, 2));
        let large = (0..5).map(|_| Bytes::from(vec![b'x'; 200 * 1024])).collect();
        let first = store.submit(j.append(&telemetry, 3, large).tx);
        let second = store.submit(j.append(&telemetry, 8, vec![body(8)]).tx);
        let third = store.submit(j.dropped(&telemetry, 9, 9).tx);
        assert!(first.await.is_err(), "it does not fit");
        assert!(
            second.await.is_err() && third.await.is_err(),
            "what is behind waits for it"
        );
        // The gateway comes back and is asked for what is missing.
        let mut j = Journals::open(&store, "gw-1".into(), 7).unwrap();
        assert_eq!(j.cursors()[0].cursor, 2);
        assert_eq!(append(&store, &mut j, 3, 4).await, (4, 2));
    }

    #[tokio::test]
    async fn of_two_sessions_that_overlap_one_stores() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(StoreOptions::new(dir.path().join("hub.db"))).unwrap();
        let open = || Journals::open(&store, "gw-1".into(), 7).unwrap();
        let (mut old, mut new) = (open(), open());
        let records = || (1..=3).map(body).collect::<Vec<_>>();
        let telemetry = Arc::from("telemetry");
        let last = store.submit(old.append(&telemetry, 1, records()).tx);
        let again = store.submit(new.append(&telemetry, 1, records()).tx);
        assert!(last.await.is_ok() && again.await.is_err());
        let mut new = open();
        assert_eq!(append(&store, &mut new, 1, 4).await, (4, 1));
        let (_, kept) = history(&store, "gw-1", "telemetry", 1, (100, usize::MAX)).unwrap();
        assert_eq!(kept.iter().map(|k| k.seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
    }

    #[test]
    fn an_account_balances_whatever_a_gateway_says() {
        for (accepted, safe, dropped) in [
            (u64::MAX, 0, 0),
            (u64::MAX, u64::MAX - 1, u64::MAX - 1),
            (5, 5, 5),
            (9, 4, 1),
        ] {
            let stream = Arc::from("telemetry");
            let s = Account {
                stream,
                accepted,
                safe,
                dropped,
            }
            .status();
            let parts = [s.delivered, s.dropped, s.waiting].map(Option::unwrap);
            assert!(parts.iter().all(|n| *n >= 0), "{s:?}");
            assert_eq!(s.accepted, Some(parts.iter().sum()), "{s:?}");
        }
    }
}
