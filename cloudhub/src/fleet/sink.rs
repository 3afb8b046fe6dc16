//! One session's journal records on their way into the store, and those that it had no room for.
//!
//! A full disk ends no session: what does not fit waits here, in order, and is tried again until it does. It is not acknowledged, so
//! it stays at the gateway too; how much can wait is bounded by the window of unacknowledged records. Never reorders a stream: each
//! transaction counts only on top of the one before it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use daemon::backoff::FullJitter;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use metastore::store::{Commit, CommitError, Store, Tx};
use tokio::time::Sleep;

/// Between two looks at whether there is room again, at first and at most.
const RETRY_BASE: Duration = Duration::from_millis(100);
const RETRY_CAP: Duration = Duration::from_secs(5);

/// Something that a journal takes in whole or not at all.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) tx: Tx,
    pub(crate) stream: Arc<str>,
    /// Everything up to here is safe when it is in.
    pub(crate) cursor: u64,
    /// How many records it brings.
    pub(crate) records: u64,
    /// How many it accounts for as dropped.
    pub(crate) dropped: u64,
}

type Settled = (u64, Entry, Result<(), CommitError>);

/// The journal transactions of one session.
pub(crate) struct Sink {
    store: Store,
    under_way: FuturesOrdered<Pin<Box<dyn Future<Output = Settled> + Send + Sync>>>,
    /// What there was no room for, by its number.
    held: BTreeMap<u64, Entry>,
    next: u64,
    pause: FullJitter,
    retry: Option<Pin<Box<Sleep>>>,
}

async fn settle(number: u64, entry: Entry, commit: Commit) -> Settled {
    let result = commit.await.map(drop);
    (number, entry, result)
}

impl Sink {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            under_way: FuturesOrdered::new(),
            held: BTreeMap::new(),
            next: 0,
            pause: FullJitter::new(RETRY_BASE, RETRY_CAP),
            retry: None,
        }
    }

    /// Whether nothing is on its way and nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way.is_empty() && self.held.is_empty()
    }

    /// Whether something waits for room.
    pub(crate) fn is_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes an entry in. Waits for room in the store's queue, not for the disk.
    pub(crate) async fn push(&mut self, entry: Entry) {
        self.next += 1;
        if self.is_held() {
            self.held.insert(self.next, entry);
            return;
        }
        let commit = self.store.enqueue(entry.tx.clone()).await;
        self.under_way.push_back(Box::pin(settle(self.next, entry, commit)));
    }

    /// Drops what waits: somebody else speaks for the gateway.
    pub(crate) fn abandon(&mut self) {
        self.held.clear();
        self.retry = None;
    }

    fn submit(&mut self, number: u64, entry: Entry) {
        let commit = self.store.submit(entry.tx.clone());
        self.under_way.push_back(Box::pin(settle(number, entry, commit)));
    }

    /// The next entry that is safe; never, while there is none. May be dropped half-way.
    ///
    /// # Errors
    /// When the store refused one for another reason than want of room.
    pub(crate) async fn stored(&mut self) -> Result<Entry, CommitError> {
        loop {
            if self.under_way.is_empty() {
                if self.held.is_empty() {
                    return std::future::pending().await;
                }
                let pause = &mut self.pause;
                self.retry
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(pause.next_wait())))
                    .await;
                self.retry = None;
                if let Some((number, first)) = self.held.pop_first() {
                    self.submit(number, first);
                }
                continue;
            }
            let Some((number, entry, result)) = self.under_way.next().await else {
                continue;
            };
            match result {
                Ok(()) => {
                    // Where one fits, the others may.
                    if self.under_way.is_empty() && self.is_held() {
                        self.pause = FullJitter::new(RETRY_BASE, RETRY_CAP);
                        for (number, entry) in std::mem::take(&mut self.held) {
                            self.submit(number, entry);
                        }
                    }
                    return Ok(entry);
                }
                Err(CommitError::Full | CommitError::Overloaded) => {
                    if self.held.is_empty() {
                        tracing::warn!(stream = %entry.stream,
                            "There is no room for a gateway's records; they stay where they are until there is.");
                    }
                    self.held.insert(number, entry);
                }
                // It stands on one that did not fit.
                Err(CommitError::KvConflict { .. })
                    if self.held.range(..number).any(|(_, e)| e.stream == entry.stream) =>
                {
                    self.held.insert(number, entry);
                }
                Err(e) => return Err(e),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use metastore::store::StoreOptions;

    use super::super::journal::{Journals, history};
    use super::*;

    fn record(n: u64, size: usize) -> Bytes {
        let mut body = n.to_string().into_bytes();
        body.resize(size.max(body.len()), b'.');
        Bytes::from(body)
    }

    #[tokio::test]
    async fn what_does_not_fit_waits_in_order_until_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hub.db");
        let options = |max_bytes| StoreOptions {
            max_bytes: Some(max_bytes),
            ..StoreOptions::new(path.clone())
        };
        let (store, _) = Store::open(options(512 * 1024)).unwrap();
        // Something that can be taken away again.
        let ballast = |n: u32| Tx::new().kv_put("ballast", n.to_string().as_bytes(), vec![7; 16 * 1024]);
        let mut filled = 0;
        while store.commit(ballast(filled)).await.is_ok() {
            filled += 1;
        }
        assert!(filled > 4);
        let streams: [Arc<str>; 2] = ["telemetry".into(), "events".into()];
        let mut journals = Journals::open(&store, "gw-1".into(), 7).unwrap();
        let mut sink = Sink::new(store.clone());
        for n in 0..6 {
            for stream in &streams {
                // The first is large, those behind would fit.
                let size = if n == 0 { 60 * 1024 } else { 10 };
                let entry = journals.append(stream, n * 2 + 1, vec![record(n * 2 + 1, size), record(n * 2 + 2, 1)]);
                sink.push(entry).await;
            }
        }
        let entry = journals.dropped(&streams[0], 13, 20);
        sink.push(entry).await;
        while sink.held.len() < 13 {
            let looked = tokio::time::timeout(Duration::from_millis(100), sink.stored()).await;
            assert!(
                looked.is_err(),
                "nothing fits: {:?}",
                looked.map(|r| r.map(|e| e.cursor))
            );
        }
        let one_more = journals.append(&streams[0], 21, vec![record(21, 1)]);
        sink.push(one_more).await;
        for n in 0..filled {
            let tx = Tx(vec![metastore::store::Op::KvDelete {
                bucket: "ballast".into(),
                key: n.to_string().into_bytes(),
            }]);
            store.commit(tx).await.unwrap();
        }
        let mut cursors = Vec::new();
        while !sink.is_idle() {
            let entry = sink.stored().await.unwrap();
            if entry.stream == streams[0] {
                cursors.push(entry.cursor);
            }
        }
        assert_eq!(cursors, [2, 4, 6, 8, 10, 12, 20, 21]);
        for (stream, want) in [(&streams[0], 13), (&streams[1], 12)] {
            let (_, kept) = history(&store, "gw-1", stream, 1, (100, usize::MAX)).unwrap();
            let numbers: Vec<u64> = kept.iter().map(|k| k.seq).collect();
            let all: Vec<u64> = (1..=12).chain((want == 13).then_some(21)).collect();
            assert_eq!(numbers, all, "{stream}");
        }
    }

    #[tokio::test]
    async fn another_sessions_word_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(StoreOptions::new(dir.path().join("hub.db"))).unwrap();
        let open = || Journals::open(&store, "gw-1".into(), 7).unwrap();
        let (mut old, mut new) = (open(), open());
        let mut sink = Sink::new(store.clone());
        let telemetry = Arc::from("telemetry");
        sink.push(new.append(&telemetry, 1, vec![record(1, 1)])).await;
        sink.push(old.append(&telemetry, 1, vec![record(1, 1)])).await;
        assert_eq!(sink.stored().await.unwrap().cursor, 1);
        assert!(matches!(sink.stored().await, Err(CommitError::KvConflict { .. })));
        assert!(sink.is_idle());
    }
}
