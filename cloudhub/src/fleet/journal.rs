//! Where gateways' journals end: one stream per gateway and stream in the hub's store, bounded there by bytes, and beside it a
//! cursor that says up to where records are safe.
//!
//! Records and cursor are written in one transaction, and records at or below the cursor are passed over, so that whatever is
//! sent again after a lost acknowledgement takes effect once. A gateway whose store was lost counts anew under another instance.
//!
//! A record is stored as 8 bytes of instance, 8 bytes of the gateway's number (both big-endian), and its body.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use metastore::store::{Commit, Op, Store, StoreError, Tx};
use proto::StoredCursor;
use serde::{Deserialize, Serialize};

const CURSORS: &str = "journal-cursors";

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Cursor {
    instance: u64,
    cursor: u64,
    dropped: u64,
}

/// The journals of one gateway's session.
#[derive(Debug)]
pub(crate) struct Journals {
    store: Store,
    node: Arc<str>,
    instance: u64,
    cursors: BTreeMap<Arc<str>, Cursor>,
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
    pub(crate) fn open(store: Store, node: Arc<str>, instance: u64) -> Result<Self, StoreError> {
        let prefix = cursor_key(&node, "");
        let mut cursors = BTreeMap::new();
        for (key, value) in store.kv_scan(CURSORS, &prefix)? {
            let stream = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
            if let Ok(cursor) = serde_json::from_slice::<Cursor>(&value) {
                cursors.insert(Arc::from(stream), cursor);
            }
        }
        Ok(Self {
            store,
            node,
            instance,
            cursors,
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

    fn put(&self, stream: &str, cursor: Cursor) -> Op {
        Op::KvPut {
            bucket: CURSORS.into(),
            key: cursor_key(&self.node, stream),
            value: serde_json::to_vec(&cursor).expect("three numbers serialise"),
        }
    }

    /// Takes records in. The commit resolves when they are safe up to the number returned with it; how many were new is third.
    pub(crate) async fn append(&mut self, stream: &Arc<str>, first: u64, records: Vec<Bytes>) -> (Commit, u64, u64) {
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
        ops.push(self.put(stream, cursor));
        (self.store.enqueue(Tx(ops)).await, cursor.cursor, new)
    }

    /// Accounts for records that will never come.
    pub(crate) async fn dropped(&mut self, stream: &Arc<str>, from: u64, to: u64) -> (Commit, u64, u64) {
        let cursor = self.at(stream);
        let fresh = from.max(cursor.cursor + 1);
        let lost = if to >= fresh { to - fresh + 1 } else { 0 };
        cursor.dropped += lost;
        cursor.cursor = cursor.cursor.max(to);
        let cursor = *cursor;
        let op = self.put(stream, cursor);
        (self.store.enqueue(Tx(vec![op])).await, cursor.cursor, lost)
    }

    /// (stream, delivered, dropped) of every stream of this instance.
    pub(crate) fn account(&self) -> Vec<(Arc<str>, u64, u64)> {
        let mine = self.cursors.iter().filter(|(_, c)| c.instance == self.instance);
        mine.map(|(s, c)| (Arc::clone(s), c.cursor - c.dropped, c.dropped))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metastore::store::StoreOptions;

    fn body(n: u64) -> Bytes {
        Bytes::from(format!("r{n}"))
    }

    async fn append(j: &mut Journals, first: u64, to: u64) -> (u64, u64) {
        let (commit, cursor, new) = j
            .append(&Arc::from("telemetry"), first, (first..=to).map(body).collect())
            .await;
        commit.await.unwrap();
        (cursor, new)
    }

    #[tokio::test]
    async fn repeated_records_take_effect_once_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(StoreOptions::new(dir.path().join("hub.db"))).unwrap();
        let node: Arc<str> = Arc::from("gw-1");
        let mut j = Journals::open(store.clone(), Arc::clone(&node), 7).unwrap();
        assert_eq!(append(&mut j, 1, 5).await, (5, 5));
        assert_eq!(append(&mut j, 3, 8).await, (8, 3));
        let (commit, cursor, lost) = j.dropped(&Arc::from("telemetry"), 7, 10).await;
        commit.await.unwrap();
        assert_eq!((cursor, lost), (10, 2));

        let mut j = Journals::open(store.clone(), Arc::clone(&node), 7).unwrap();
        assert_eq!(
            j.cursors()[0],
            StoredCursor {
                stream: "telemetry".into(),
                instance: 7,
                cursor: 10,
                dropped: 2
            }
        );
        assert_eq!(append(&mut j, 9, 12).await, (12, 2));
        assert_eq!(j.account(), [(Arc::from("telemetry"), 10, 2)]);
        let kept = store
            .journal_read(&stream_name("gw-1", "telemetry"), 1, usize::MAX)
            .unwrap();
        let numbers: Vec<u64> = kept
            .iter()
            .map(|(_, b)| u64::from_be_bytes(b[8..16].try_into().unwrap()))
            .collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8, 11, 12]);

        // Another store at the gateway: it begins at 1 again, and nothing of the old is mistaken for it.
        let mut j = Journals::open(store.clone(), node, 8).unwrap();
        assert_eq!(append(&mut j, 1, 2).await, (2, 2));
        assert!(Journals::open(store, "gw".into(), 1).unwrap().cursors().is_empty());
    }
}
