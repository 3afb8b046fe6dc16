//! What the store promises its callers, one promise a test, on a real file.
#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use metastore::store::{
    CommitError, DropReason, Dropped, EventKind, Expect, JournalBound, ListOptions, Object, ObjectKey, Op, Scope,
    SealKey, Store, StoreError, StoreOptions, Tx, WatchError,
};
use serde_json::{Value, json};
use tempfile::TempDir;

fn pod(name: &str) -> ObjectKey {
    ObjectKey::new("", "pods", "default", name)
}

fn body(name: &str, n: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "uid": format!("uid-{name}")}, "spec": {"n": n}})
}

fn put(name: &str, n: u64, expect: Expect) -> Tx {
    Tx::new().put(pod(name), body(name, n), expect)
}

fn options(dir: &TempDir) -> StoreOptions {
    StoreOptions::new(dir.path().join("test.db"))
}

fn open() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(options(&dir)).unwrap().0;
    (dir, store)
}

fn names(items: &[Object]) -> Vec<&str> {
    items.iter().map(|o| &*o.key.name).collect()
}

#[tokio::test]
async fn what_is_written_is_read_back_with_its_revision() {
    let (_dir, store) = open();
    let done = store.commit(put("a", 1, Expect::Absent)).await.unwrap();
    assert_eq!((done.revision, done.objects[0].revision), (1, 1));
    let mut wanted = body("a", 1);
    wanted["metadata"]["resourceVersion"] = json!("1");
    let read = store.get(&pod("a")).unwrap().unwrap();
    assert_eq!(read, done.objects[0]);
    assert_eq!(read.json, serde_json::to_vec(&wanted).unwrap(), "canonical JSON");
    assert_eq!(store.get(&pod("b")).unwrap(), None);
    assert_eq!(store.revision(), 1);
}

#[tokio::test]
async fn each_changed_object_takes_its_own_revision_and_no_change_takes_none() {
    let (_dir, store) = open();
    let two = put("a", 1, Expect::Any).put(pod("b"), body("b", 1), Expect::Any);
    let done = store.commit(two).await.unwrap();
    assert_eq!(done.objects.iter().map(|o| o.revision).collect::<Vec<_>>(), [1, 2]);
    let again = store.commit(put("a", 1, Expect::Revision(1))).await.unwrap();
    assert_eq!(
        (again.revision, again.objects[0].revision),
        (2, 1),
        "the same bytes are no change"
    );
    let gone = store.commit(Tx::new().delete(pod("a"), Expect::Present)).await.unwrap();
    assert_eq!(gone.objects[0].revision, 3);
    assert_eq!(gone.objects[0].value().unwrap()["metadata"]["resourceVersion"], "3");
    assert_eq!(
        gone.objects[0].value().unwrap()["spec"],
        json!({"n": 1}),
        "the last state comes back"
    );
    let nothing = store.commit(Tx::new().delete(pod("a"), Expect::Any)).await.unwrap();
    assert_eq!((nothing.revision, nothing.objects.len()), (3, 0));
    assert_eq!(store.commit(Tx::new()).await.unwrap().revision, 3);
}

#[tokio::test]
async fn preconditions_refuse_and_say_why() {
    let (_dir, store) = open();
    store.commit(put("a", 1, Expect::Any)).await.unwrap();
    let refused = async |tx| store.commit(tx).await.unwrap_err();
    assert_eq!(
        refused(put("a", 2, Expect::Absent)).await,
        CommitError::Exists(pod("a"))
    );
    assert_eq!(
        refused(put("b", 2, Expect::Present)).await,
        CommitError::NotFound(pod("b"))
    );
    let conflict = CommitError::Conflict {
        key: pod("a"),
        expected: 7,
        found: 1,
    };
    assert_eq!(refused(put("a", 2, Expect::Revision(7))).await, conflict);
    assert_eq!(
        refused(Tx::new().delete(pod("b"), Expect::Present)).await,
        CommitError::NotFound(pod("b"))
    );
    let with_uid = |uid: &str| Op::Delete {
        key: pod("a"),
        expect: Expect::Any,
        uid: Some(uid.into()),
    };
    let other = CommitError::UidConflict {
        key: pod("a"),
        expected: "x".into(),
        found: "uid-a".into(),
    };
    assert_eq!(refused(Tx(vec![with_uid("x")])).await, other);
    for (key, object) in [(pod(""), json!({})), (pod("x\0"), json!({})), (pod("x"), json!(7))] {
        assert!(matches!(
            refused(Tx::new().put(key, object, Expect::Any)).await,
            CommitError::Invalid { .. }
        ));
    }
    assert_eq!(store.revision(), 1, "nothing refused left a trace");
    store.commit(Tx(vec![with_uid("uid-a")])).await.unwrap();
}

#[tokio::test]
async fn a_refused_transaction_undoes_itself_and_spares_its_neighbours() {
    let (_dir, store) = open();
    store.commit(put("held", 1, Expect::Any)).await.unwrap();
    // Submitted together, they share a group.
    let good = store.submit(put("before", 1, Expect::Any).append("s", &b"one"[..]));
    let bad = put("lost", 1, Expect::Any)
        .kv_put("b", "k", "v")
        .append("s", &b"lost"[..]);
    let bad = store.submit(bad.put(pod("held"), body("held", 2), Expect::Absent));
    let after = store.submit(put("after", 1, Expect::Any).append("s", &b"two"[..]));
    assert_eq!(good.await.unwrap().journal_seqs, [1]);
    assert_eq!(bad.await.unwrap_err(), CommitError::Exists(pod("held")));
    let after = after.await.unwrap();
    assert_eq!((after.revision, after.journal_seqs), (3, vec![2]));
    assert_eq!(store.get(&pod("lost")).unwrap(), None);
    assert_eq!(store.kv_get("b", b"k").unwrap(), None);
    let mut watch = store.watch(Scope::all("", "pods"), 1).unwrap();
    let seen = [watch.next().await.unwrap(), watch.next().await.unwrap()];
    assert_eq!(
        seen.iter().map(|e| &*e.object.key.name).collect::<Vec<_>>(),
        ["before", "after"]
    );
    assert!(watch.try_next().is_none());
}

#[tokio::test]
async fn submission_order_is_commit_order() {
    let (_dir, store) = open();
    let commits: Vec<_> = (0..200).map(|n| store.submit(put("a", n, Expect::Any))).collect();
    for (n, commit) in (1..).zip(commits) {
        assert_eq!(commit.await.unwrap().revision, n);
    }
}

#[tokio::test]
async fn lists_page_in_key_order_and_continue_in_the_past() {
    let (_dir, store) = open();
    for name in ["c", "a", "e", "b", "d"] {
        store.commit(put(name, 1, Expect::Any)).await.unwrap();
    }
    let other = ObjectKey::new("", "pods", "another", "z");
    store
        .commit(Tx::new().put(other.clone(), body("z", 1), Expect::Any))
        .await
        .unwrap();
    let scope = Scope::namespace("", "pods", "default");
    let page = store
        .list(
            &scope,
            ListOptions {
                limit: Some(2),
                ..ListOptions::default()
            },
        )
        .unwrap();
    assert_eq!(
        (names(&page.items), page.more, page.revision),
        (vec!["a", "b"], true, 6)
    );

    // The world goes on between two pages.
    store.commit(Tx::new().delete(pod("c"), Expect::Any)).await.unwrap();
    store.commit(put("d", 2, Expect::Any)).await.unwrap();
    store.commit(put("dd", 1, Expect::Any)).await.unwrap();
    store.commit(put("c", 9, Expect::Absent)).await.unwrap();
    let next = ListOptions {
        limit: Some(10),
        after: Some(pod("b")),
        at: Some(page.revision),
    };
    let rest = store.list(&scope, next).unwrap();
    assert_eq!(
        (names(&rest.items), rest.more, rest.revision),
        (vec!["c", "d", "e"], false, 6)
    );
    assert!(
        rest.items
            .iter()
            .all(|o| o.value().unwrap()["spec"] == json!({"n": 1}) && o.revision <= 6)
    );

    let all = store.list(&Scope::all("", "pods"), ListOptions::default()).unwrap();
    assert_eq!(names(&all.items), ["z", "a", "b", "c", "d", "dd", "e"]);
    assert_eq!(all.items[0].key, other);
    assert!(
        store
            .list(&Scope::all("apps", "pods"), ListOptions::default())
            .unwrap()
            .items
            .is_empty()
    );
    let future = ListOptions {
        at: Some(99),
        ..ListOptions::default()
    };
    assert!(matches!(store.list(&scope, future), Err(StoreError::Gone(gone)) if gone.newest == 10));
}

#[tokio::test]
async fn a_watch_shows_the_object_before_and_after() {
    let (_dir, store) = open();
    let mut watch = store.watch(Scope::all("", "pods"), 0).unwrap();
    store.commit(put("a", 1, Expect::Any)).await.unwrap();
    store.commit(put("a", 2, Expect::Any)).await.unwrap();
    store.commit(Tx::new().delete(pod("a"), Expect::Any)).await.unwrap();
    let n = |o: &Object| o.value().unwrap()["spec"]["n"].as_u64().unwrap();
    assert_eq!(watch.bookmark(), None, "there is something to take first");
    let added = watch.next().await.unwrap();
    assert_eq!(
        (added.kind, n(&added.object), added.previous.is_none()),
        (EventKind::Added, 1, true)
    );
    let modified = watch.next().await.unwrap();
    assert_eq!((modified.kind, n(&modified.object)), (EventKind::Modified, 2));
    assert_eq!(n(modified.previous.as_ref().unwrap()), 1);
    let deleted = watch.next().await.unwrap();
    assert_eq!(
        (deleted.kind, n(&deleted.object), deleted.object.revision),
        (EventKind::Deleted, 2, 3)
    );
    assert_eq!(deleted.previous.as_ref().unwrap().revision, 2);
    store
        .commit(Tx::new().put(ObjectKey::new("", "nodes", "", "x"), json!({}), Expect::Any))
        .await
        .unwrap();
    assert_eq!(watch.bookmark(), Some(4), "also past what is not its concern");
    assert!(
        store.watch(Scope::all("", "pods"), 5).is_err(),
        "the future cannot be watched from"
    );
}

#[tokio::test]
async fn a_watch_behind_memory_reads_the_log_and_misses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(StoreOptions {
        ring: 4,
        ..options(&dir)
    })
    .unwrap()
    .0;
    let mut slow = store.watch(Scope::all("", "pods"), 0).unwrap();
    for n in 0..300 {
        let pods = put(["a", "b"][n % 2], n as u64, Expect::Any);
        let node = ObjectKey::new("", "nodes", "", "x");
        store
            .commit(pods.put(node, json!({"n": n}), Expect::Any))
            .await
            .unwrap();
    }
    for wanted in 0..300 {
        let event = slow.next().await.unwrap();
        let n = |o: &Object| o.value().unwrap()["spec"]["n"].as_u64().unwrap();
        assert_eq!(n(&event.object), wanted);
        let before = event.previous.as_ref().map(n);
        assert_eq!(
            before,
            wanted.checked_sub(2),
            "the state before, from the log as from memory"
        );
    }
    store.close().await;
    assert_eq!(slow.next().await.unwrap_err(), WatchError::Closed);

    // The log survives a restart.
    let store = Store::open(options(&dir)).unwrap().0;
    let mut watch = store.watch(Scope::namespace("", "pods", "default"), 598).unwrap();
    assert_eq!(watch.next().await.unwrap().object.revision, 599);
}

#[tokio::test]
async fn what_the_log_no_longer_covers_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(StoreOptions {
        ring: 8,
        log_keep: 40,
        ..options(&dir)
    })
    .unwrap()
    .0;
    let mut slow = store.watch(Scope::all("", "pods"), 0).unwrap();
    let mut quiet = store.watch(Scope::all("", "nodes"), 0).unwrap();
    for n in 0..200 {
        store.commit(put("a", n, Expect::Any)).await.unwrap();
    }
    let oldest = store.oldest_revision();
    assert!((150..=160).contains(&oldest), "40 and a quarter are kept: {oldest}");
    assert!(matches!(slow.next().await, Err(WatchError::Gone(gone)) if gone.oldest == oldest && gone.newest == 200));
    assert!(matches!(store.watch(Scope::all("", "pods"), oldest - 1), Err(gone) if gone.oldest == oldest));
    assert!(store.watch(Scope::all("", "pods"), oldest).is_ok());
    let at = |at| ListOptions {
        at: Some(at),
        ..ListOptions::default()
    };
    assert!(matches!(
        store.list(&Scope::all("", "pods"), at(oldest - 1)),
        Err(StoreError::Gone(_))
    ));
    let old = store.list(&Scope::all("", "pods"), at(oldest)).unwrap();
    assert_eq!(old.items[0].revision, oldest);
    assert_eq!(
        quiet.bookmark(),
        Some(200),
        "a watcher of a quiet kind did not fall behind"
    );
    store
        .commit(Tx::new().put(ObjectKey::new("", "nodes", "", "x"), json!({}), Expect::Any))
        .await
        .unwrap();
    assert_eq!(quiet.next().await.unwrap().object.revision, 201);
}

#[tokio::test]
async fn buckets_scan_by_prefix() {
    let (_dir, store) = open();
    let tx = ["a/1", "a/2", "a", "b/1"]
        .iter()
        .fold(Tx::new(), |tx, key| tx.kv_put("s", *key, format!("v{key}")));
    store.commit(tx.kv_put("other", "a/9", "x")).await.unwrap();
    let keys = |prefix: &str| -> Vec<String> {
        let pairs = store.kv_scan("s", prefix.as_bytes()).unwrap();
        pairs
            .into_iter()
            .map(|(k, _)| String::from_utf8(k.to_vec()).unwrap())
            .collect()
    };
    assert_eq!(keys("a"), ["a", "a/1", "a/2"]);
    assert_eq!(keys("a/"), ["a/1", "a/2"]);
    let page = store.kv_page("s", b"", Some(b"a/1"), 2).unwrap();
    assert_eq!(page.iter().map(|p| &p.0[..]).collect::<Vec<_>>(), [b"a/2", b"b/1"]);
    let range = Op::KvDeleteRange {
        bucket: "s".into(),
        from: b"a/".to_vec(),
        to: b"a0".to_vec(),
    };
    store
        .commit(Tx(vec![
            range,
            Op::KvDelete {
                bucket: "s".into(),
                key: b"b/1".to_vec(),
            },
        ]))
        .await
        .unwrap();
    assert_eq!(keys(""), ["a"]);
    assert_eq!(store.kv_get("other", b"a/9").unwrap().unwrap(), "x");
    assert_eq!(store.revision(), 0, "buckets take no revisions");
}

/// A clock a test turns by hand.
fn hand_clock(options: StoreOptions) -> (StoreOptions, Arc<AtomicU64>) {
    let ms = Arc::new(AtomicU64::new(0));
    let hand = ms.clone();
    (
        StoreOptions {
            clock: Arc::new(move || Duration::from_millis(hand.load(Ordering::SeqCst))),
            ..options
        },
        ms,
    )
}

#[tokio::test]
async fn a_journal_balances_under_its_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let (mut options, clock) = hand_clock(options(&dir));
    options.journals.insert(
        "t".into(),
        JournalBound {
            max_bytes: 100,
            max_age_ms: Some(1000),
        },
    );
    let store = Store::open(options.clone()).unwrap().0;
    let record = |n: u8| vec![n; 10];
    for n in 1..=15 {
        assert_eq!(
            store
                .commit(Tx::new().append("t", record(n)))
                .await
                .unwrap()
                .journal_seqs,
            [u64::from(n)]
        );
    }
    let bounds = store.journal_bounds("t").unwrap();
    assert_eq!(
        (bounds.accepted, bounds.trimmed, bounds.bytes, bounds.dropped_total),
        (15, 0, 100, 5)
    );
    assert_eq!(
        bounds.dropped,
        [Dropped {
            from: 1,
            to: 5,
            reason: DropReason::Bytes
        }]
    );
    assert_eq!(bounds.waiting(), 10);
    let read = store.journal_read("t", 1, 25).unwrap();
    assert_eq!(
        read.iter().map(|(seq, body)| (*seq, body[0])).collect::<Vec<_>>(),
        [(6, 6), (7, 7)]
    );
    assert_eq!(store.journal_read("t", 15, 0).unwrap().len(), 1, "at least one");

    // Trimming into the dropped range leaves the rest of it; beyond it, nothing.
    store.commit(Tx::new().trim("t", 3)).await.unwrap();
    let bounds = store.journal_bounds("t").unwrap();
    assert_eq!(
        (bounds.dropped, bounds.trimmed),
        (
            vec![Dropped {
                from: 4,
                to: 5,
                reason: DropReason::Bytes
            }],
            3
        )
    );
    store.commit(Tx::new().trim("t", 8).trim("t", 2)).await.unwrap();
    let bounds = store.journal_bounds("t").unwrap();
    assert_eq!(
        (bounds.trimmed, bounds.dropped.len(), bounds.bytes, bounds.waiting()),
        (8, 0, 70, 7)
    );

    // Age counts the time the store is open, across restarts.
    clock.store(600, Ordering::SeqCst);
    store.commit(Tx::new().append("t", record(16))).await.unwrap();
    store.close().await;
    clock.store(7_000_000, Ordering::SeqCst);
    let store = Store::open(options).unwrap().0;
    tend(&store).await;
    assert_eq!(
        store.journal_bounds("t").unwrap().waiting(),
        8,
        "time without the store does not count"
    );
    clock.fetch_add(500, Ordering::SeqCst);
    tend(&store).await;
    let bounds = store.journal_bounds("t").unwrap();
    assert_eq!(
        bounds.dropped,
        [Dropped {
            from: 9,
            to: 15,
            reason: DropReason::Age
        }]
    );
    assert_eq!((bounds.accepted, bounds.waiting(), bounds.bytes), (16, 1, 10));
    store.commit(Tx::new().trim("t", 1000)).await.unwrap();
    let next = store.commit(Tx::new().append("t", record(17))).await.unwrap();
    assert_eq!(next.journal_seqs, [17], "numbers are never reused");
    let bounds = store.journal_bounds("t").unwrap();
    assert_eq!((bounds.trimmed, bounds.waiting()), (16, 1));
    assert_eq!(store.journal_streams().unwrap(), ["t".into()]);
}

/// Has the chores done: the commit behind them is answered after them.
async fn tend(store: &Store) {
    store.tend();
    store.commit(Tx::new().kv_put("tend", "x", "y")).await.unwrap();
}

#[tokio::test]
async fn snapshots_are_made_when_due_and_something_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut options, clock) = hand_clock(options(&dir));
    options.snapshot_dir = Some(dir.path().join("snapshots"));
    options.snapshot_every = Duration::from_secs(100);
    let target = options.snapshot_path().unwrap();
    let store = Store::open(options).unwrap().0;
    store.commit(put("a", 1, Expect::Any)).await.unwrap();
    tend(&store).await;
    clock.store(99_000, Ordering::SeqCst);
    tend(&store).await;
    assert!(!target.exists(), "not due");
    clock.store(100_000, Ordering::SeqCst);
    tend(&store).await;
    // It is made beside the commits, and takes as long as the disk does.
    tokio::time::timeout(Duration::from_secs(60), async {
        while !target.exists() {
            store.commit(Tx::new().kv_put("x", "y", "z")).await.unwrap();
        }
    })
    .await
    .unwrap();
    let copy = Store::open(StoreOptions::new(&target)).unwrap().0;
    assert!(copy.get(&pod("a")).unwrap().is_some());
}

#[tokio::test]
async fn secrets_are_ciphertext_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let seal = SealKey::new(&[1; 32]);
    let sealed = StoreOptions {
        seal_key: Some(seal),
        ..options(&dir)
    };
    let key = ObjectKey::new("", "secrets", "default", "s");
    let secret = |text: &str| json!({"metadata": {"name": "s"}, "data": {"password": text}});
    let store = Store::open(sealed.clone()).unwrap().0;
    store
        .commit(Tx::new().put(key.clone(), secret("hunter-two-x"), Expect::Any))
        .await
        .unwrap();
    store
        .commit(Tx::new().put(key.clone(), secret("hunter-two-y"), Expect::Any))
        .await
        .unwrap();
    let read = store.get(&key).unwrap().unwrap();
    assert_eq!(read.value().unwrap()["data"]["password"], "hunter-two-y");
    assert!(!format!("{read:?}").contains("hunter"));
    let op = Op::Put {
        key: key.clone(),
        object: secret("hunter-two-z"),
        expect: Expect::Any,
        uid: None,
    };
    assert!(!format!("{op:?}").contains("hunter"));
    store.snapshot(&dir.path().join("copy.db")).unwrap();
    let mut looked = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(
            !bytes.windows(10).any(|w| w == b"hunter-two"),
            "{} holds a secret",
            path.display()
        );
        looked += usize::from(!bytes.is_empty());
    }
    assert!(looked >= 3, "file, log and copy");
    store.close().await;

    // From the log, after a restart.
    let store = Store::open(sealed.clone()).unwrap().0;
    let mut watch = store.watch(Scope::all("", "secrets"), 1).unwrap();
    let event = watch.next().await.unwrap();
    assert_eq!(
        event.previous.as_ref().unwrap().value().unwrap()["data"]["password"],
        "hunter-two-x"
    );
    store.close().await;

    let wrong = StoreOptions {
        seal_key: Some(SealKey::new(&[2; 32])),
        ..sealed.clone()
    };
    assert_eq!(Store::open(wrong).unwrap_err(), StoreError::WrongSealKey);
    let none = StoreOptions {
        seal_key: None,
        ..sealed
    };
    let store = Store::open(none).unwrap().0;
    assert_eq!(store.get(&key).unwrap_err(), StoreError::Sealed(key.clone()));
    let refused = store
        .commit(Tx::new().put(key.clone(), secret("x"), Expect::Any))
        .await
        .unwrap_err();
    assert_eq!(refused, CommitError::NoSealKey(key));
}

#[tokio::test]
async fn the_last_clone_closes_the_file_and_watchers_do_not_hold_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(options(&dir)).unwrap().0;
    let watch = store.watch(Scope::all("", "pods"), 0).unwrap();
    assert!(matches!(Store::open(options(&dir)), Err(StoreError::Locked(_))));
    let pending = store.submit(put("a", 1, Expect::Any));
    let clone = store.clone();
    drop(store);
    drop(clone);
    assert_eq!(pending.await.unwrap().revision, 1, "what was submitted is committed");
    let (store, opened) = Store::open(options(&dir)).unwrap();
    assert!(!opened.unclean);
    drop(watch);
    store.close().await;
    assert_eq!(
        store.commit(put("b", 1, Expect::Any)).await.unwrap_err(),
        CommitError::Closed
    );
    assert_eq!(
        store.submit(put("b", 1, Expect::Any)).await.unwrap_err(),
        CommitError::Closed
    );
    assert_eq!(store.get(&pod("a")).unwrap_err(), StoreError::Closed);
}

#[tokio::test]
async fn who_waits_for_room_is_served() {
    let (_dir, store) = open();
    let big = |n: u64| json!({"metadata": {"name": "a"}, "data": "x".repeat(1_000_000), "n": n});
    // 24 MB for a queue of 8.
    let tasks: Vec<_> = (0..24)
        .map(|n| {
            let (store, tx) = (store.clone(), Tx::new().put(pod("b"), big(n), Expect::Any));
            tokio::spawn(async move { store.commit(tx).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(store.revision(), 24);
}

#[tokio::test]
async fn the_write_ahead_log_stays_bounded_under_writes_that_do_not_pause() {
    let (dir, store) = open();
    let log = dir.path().join("test.db-wal");
    let filler = "x".repeat(16 * 1024);
    for n in 0..1_000_u64 {
        let mut object = body("a", n);
        object["spec"]["filler"] = json!(filler);
        store
            .commit(Tx::new().put(pod("a"), object, Expect::Any))
            .await
            .unwrap();
    }
    let length = std::fs::metadata(&log).unwrap().len();
    // Sixteen MiB were written at least; the log is brought into the file at four.
    assert!((1 << 20..6 << 20).contains(&length), "{length}");
    let file = std::fs::metadata(dir.path().join("test.db")).unwrap().len();
    assert!(file > 4 << 20, "{file}");
}
