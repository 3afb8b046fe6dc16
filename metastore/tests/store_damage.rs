//! The store under what happens to gateways: killed at any moment, torn pages, full disks, two starts at once.
//!
//! Some tests run this binary again as a child process: the tests marked `ignore` are those children.
#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use metastore::store::{
    CommitError, Expect, ListOptions, ObjectKey, Op, Scope, Store, StoreError, StoreOptions, Tx, WatchError,
};
use serde_json::json;

const FILE: &str = "KURATOR_TEST_STORE";

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("", "configmaps", "default", name)
}

fn put(name: &str, n: u64) -> Tx {
    Tx::new().put(key(name), json!({"metadata": {"name": name}, "n": n}), Expect::Any)
}

/// Writes many objects, so that the file has many pages.
async fn fill(store: &Store, count: u64) {
    for n in 0..count {
        let object = json!({"metadata": {"name": format!("o{n}")}, "data": "x".repeat(600), "n": n});
        let tx = Tx::new()
            .put(key(&format!("o{n}")), object, Expect::Any)
            .append("fill", vec![b'j'; 300]);
        store.enqueue(tx).await.await.unwrap();
    }
}

/// Runs a test of this binary as a process of its own.
fn child(test: &str, file: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", test, "--nocapture", "--test-threads=1"])
        .env(FILE, file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    (child, output)
}

fn file_of_child() -> PathBuf {
    std::env::var_os(FILE).expect("run by its parent").into()
}

fn say(line: &str) {
    // The parent may be gone, which is its way of ending this process.
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Commits from several tasks without end and says each acknowledged commit on stdout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "child process"]
async fn child_commits_forever() {
    let store = Store::open(StoreOptions {
        log_keep: 200,
        ..StoreOptions::new(file_of_child())
    })
    .unwrap()
    .0;
    // The harness has begun a line with the test's name.
    say("");
    let tasks: Vec<_> = (0..8)
        .map(|task: u64| {
            let store = store.clone();
            tokio::spawn(async move {
                let name = format!("t{task}");
                let mut n = match store.get(&key(&name)).unwrap() {
                    Some(object) => object.value().unwrap()["n"].as_u64().unwrap(),
                    None => 0,
                };
                loop {
                    n += 1;
                    let tx = put(&name, n)
                        .kv_put("last", name.clone(), n.to_string())
                        .append(&*name, n.to_string());
                    let done = store.commit(tx).await.unwrap();
                    say(&format!("ack {task} {n} {} {}", done.revision, done.journal_seqs[0]));
                }
            })
        })
        .collect();
    futures_util::future::select_all(tasks).await.0.unwrap();
}

#[tokio::test]
async fn no_acknowledged_commit_is_lost_to_kill_nine() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("killed.db");
    let mut acknowledged = [0u64; 8];
    let (mut newest, mut total) = (0, 0);
    for round in 0..20 {
        let (mut child, output) = child("child_commits_forever", &file);
        // Killed after so many answers, that is at any moment of any commit; what it said before it died still counts.
        let until = fastrand::usize(1..400);
        let mut answers = 0;
        for line in output.lines() {
            let line = line.unwrap();
            let words: Vec<_> = line.split(' ').collect();
            let ["ack", task, n, revision, _] = words[..] else {
                continue;
            };
            let (task, n): (usize, u64) = (task.parse().unwrap(), n.parse().unwrap());
            assert_eq!(n, acknowledged[task] + 1, "one after the other");
            acknowledged[task] = n;
            newest = newest.max(revision.parse().unwrap());
            answers += 1;
            if answers == until {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(answers >= until, "the child died by itself");
        total += answers;

        let (store, opened) = Store::open(StoreOptions::new(&file)).unwrap();
        assert!(opened.unclean, "round {round}");
        assert_eq!(opened.damaged, None, "round {round}");
        assert!(store.revision() >= newest);
        for (task, acked) in acknowledged.iter_mut().enumerate() {
            let name = format!("t{task}");
            let n = store
                .get(&key(&name))
                .unwrap()
                .map_or(0, |o| o.value().unwrap()["n"].as_u64().unwrap());
            assert!(n >= *acked, "round {round}: {name} said {acked}, the file has {n}");
            // One may have been committed and killed before it could say so; never half of it.
            assert!(n <= *acked + 1, "round {round}: {name} said {acked}, the file has {n}");
            let kv = store
                .kv_get("last", name.as_bytes())
                .unwrap()
                .map_or(0, |v| std::str::from_utf8(&v).unwrap().parse().unwrap());
            let journal = store.journal_bounds(&name).unwrap().accepted;
            assert_eq!((kv, journal), (n, n), "round {round}: {name} is whole");
            *acked = n;
        }
        store.close().await;
    }
    assert!(total > 1000, "too few commits to show anything: {total}");
}

/// Opens the file, says so, and waits to be told to stop.
#[tokio::test]
#[ignore = "child process"]
async fn child_holds_the_file() {
    let store = Store::open(StoreOptions::new(file_of_child())).unwrap().0;
    store.commit(put("held", 1)).await.unwrap();
    say("open");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    store.close().await;
}

fn wait_for(output: &mut BufReader<ChildStdout>, wanted: &str) {
    let found = output.lines().any(|line| line.unwrap().ends_with(wanted));
    assert!(found, "the child never said {wanted}");
}

#[tokio::test]
async fn two_processes_cannot_open_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("held.db");
    let (mut child, mut output) = child("child_holds_the_file", &file);
    wait_for(&mut output, "open");
    let refused = Store::open(StoreOptions::new(&file)).unwrap_err();
    assert_eq!(refused, StoreError::Locked(file.clone()));
    assert!(refused.to_string().contains("in use by another process"), "{refused}");
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(child.wait().unwrap().success());
    let (_store, opened) = Store::open(StoreOptions::new(&file)).unwrap();
    assert!(!opened.unclean, "closed in order");
}

#[tokio::test]
async fn a_stop_without_a_close_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("unclean.db");
    let (mut child, mut output) = child("child_holds_the_file", &file);
    wait_for(&mut output, "open");
    child.kill().unwrap();
    child.wait().unwrap();
    let (store, opened) = Store::open(StoreOptions::new(&file)).unwrap();
    assert!(opened.unclean && opened.damaged.is_none());
    assert!(store.get(&key("held")).unwrap().is_some());
    store.close().await;
    assert!(!Store::open(StoreOptions::new(&file)).unwrap().1.unclean);
}

fn with_snapshots(dir: &Path) -> StoreOptions {
    StoreOptions {
        snapshot_dir: Some(dir.join("snapshots")),
        ..StoreOptions::new(dir.join("test.db"))
    }
}

/// Overwrites the pages in the middle of a file, as a failing flash chip would. What opening it reads is at its ends.
fn ruin(file: &Path) {
    let pages = fs::metadata(file).unwrap().len() / 4096;
    assert!(pages > 40);
    let file = fs::OpenOptions::new().write(true).open(file).unwrap();
    for page in pages / 3..pages * 2 / 3 {
        file.write_all_at(&[0xA5; 1024], page * 4096).unwrap();
    }
}

#[tokio::test]
async fn damage_met_in_use_ends_the_store_and_the_next_start_sets_the_file_aside() {
    let dir = tempfile::tempdir().unwrap();
    let options = with_snapshots(dir.path());
    let (store, first) = Store::open(options.clone()).unwrap();
    fill(&store, 200).await;
    store.snapshot(&options.snapshot_path().unwrap()).unwrap();
    let at_snapshot = store.revision();
    fill_more(&store).await;
    store.close().await;
    // Closed in order, so nothing is checked at the next start; the damage is met in use.
    ruin(&options.path);
    let (store, opened) = Store::open(options.clone()).unwrap();
    assert_eq!(opened.damaged, None);
    let mut watch = store.watch(Scope::all("", "configmaps"), store.revision()).unwrap();
    let refused = store
        .list(&Scope::all("", "configmaps"), ListOptions::default())
        .unwrap_err();
    assert!(matches!(refused, StoreError::Corrupt(_)), "{refused:?}");
    assert!(matches!(store.ended().await, StoreError::Corrupt(_)));
    assert!(matches!(store.commit(put("a", 1)).await, Err(CommitError::Corrupt(_))));
    assert!(matches!(store.get(&key("o1")), Err(StoreError::Corrupt(_))));
    assert!(matches!(
        watch.next().await,
        Err(WatchError::Read(StoreError::Corrupt(_)))
    ));

    // The old handle is still there; the file is free all the same.
    let (restored, opened) = Store::open(options.clone()).unwrap();
    let aside = opened.damaged.clone().expect("set aside");
    assert!(aside.exists() && opened.restored);
    assert_ne!(
        opened.incarnation, first.incarnation,
        "numbers of the old file mean nothing here"
    );
    assert!(
        restored.revision() > at_snapshot + 1_000_000,
        "no revision is used twice"
    );
    assert_eq!(restored.get(&key("o199")).unwrap().unwrap().value().unwrap()["n"], 199);
    assert!(
        restored.get(&key("later")).unwrap().is_none(),
        "newer than the snapshot"
    );
    assert!(
        restored.watch(Scope::all("", "configmaps"), at_snapshot).is_err(),
        "whoever watched must list again"
    );
    assert_eq!(restored.journal_bounds("fill").unwrap().waiting(), 200);
    restored.commit(put("after", 1)).await.unwrap();
    restored.close().await;
    assert_eq!(Store::open(options).unwrap().1.damaged, None, "once");
}

async fn fill_more(store: &Store) {
    store.commit(put("later", 1)).await.unwrap();
    store.commit(Tx::new().delete(key("o0"), Expect::Any)).await.unwrap();
}

#[tokio::test]
async fn every_torn_page_is_found_after_an_unclean_stop_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("base.db");
    // A file that was in use when the power went: copied while open, everything in its write-ahead log or in place.
    let store = Store::open(StoreOptions::new(&file)).unwrap().0;
    fill(&store, 60).await;
    let copy = dir.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for suffix in ["", "-wal"] {
        let name = format!("base.db{suffix}");
        fs::copy(dir.path().join(&name), copy.join(&name)).unwrap();
    }
    store.close().await;
    // Checkpointed, and marked as still in use.
    let db = rusqlite::Connection::open(copy.join("base.db")).unwrap();
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(db);
    let whole = fs::read(copy.join("base.db")).unwrap();
    let pages = whole.len() / 4096;
    let (mut set_aside, mut served) = (0, 0);
    for page in 0..pages {
        let path = dir.path().join(format!("torn{page}.db"));
        let mut torn = whole.clone();
        // The second half of the page never reached the disk; what was there before is old or foreign.
        torn[page * 4096..page * 4096 + 2048].fill(0x5A);
        fs::write(&path, torn).unwrap();
        let (store, opened) = Store::open(StoreOptions::new(&path)).unwrap();
        match opened.damaged {
            Some(aside) => {
                assert!(aside.exists() && !opened.restored);
                assert_eq!(
                    store
                        .list(&Scope::all("", "configmaps"), ListOptions::default())
                        .unwrap()
                        .items
                        .len(),
                    0
                );
                set_aside += 1;
            }
            None => served += 1,
        }
        store.commit(put("works", 1)).await.unwrap();
        store.close().await;
    }
    // An overflow page holds bytes only: SQLite cannot know them from others.
    assert!(
        set_aside * 10 >= pages * 9,
        "{set_aside} of {pages} set aside, {served} served"
    );
}

#[tokio::test]
async fn what_is_no_database_at_all_is_set_aside() {
    for content in [&b"not a database, just text that someone put here"[..], &[0xFF; 8192]] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("text.db");
        fs::write(&file, content).unwrap();
        let (store, opened) = Store::open(StoreOptions::new(&file)).unwrap();
        assert_eq!(fs::read(opened.damaged.unwrap()).unwrap(), content);
        assert!(!opened.restored);
        store.commit(put("a", 1)).await.unwrap();
    }
}

#[tokio::test]
async fn a_damaged_snapshot_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let options = with_snapshots(dir.path());
    let store = Store::open(options.clone()).unwrap().0;
    fill(&store, 100).await;
    store.snapshot(&options.snapshot_path().unwrap()).unwrap();
    store.close().await;
    ruin(&options.snapshot_path().unwrap());
    fs::write(&options.path, b"rubbish").unwrap();
    let (store, opened) = Store::open(options).unwrap();
    assert!(opened.damaged.is_some() && !opened.restored);
    assert!(
        store
            .list(&Scope::all("", "configmaps"), ListOptions::default())
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn a_newer_layout_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("newer.db");
    drop(Store::open(StoreOptions::new(&file)).unwrap());
    rusqlite::Connection::open(&file)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let refused = Store::open(StoreOptions::new(&file)).unwrap_err();
    assert!(
        matches!(refused, StoreError::NewerLayout { found: 99, .. }),
        "{refused}"
    );
}

/// Fills a store until it refuses, makes room, and writes again.
async fn full_and_back(store: &Store, make_room: impl AsyncFnOnce(&Store)) {
    let body = |n: u64| json!({"metadata": {"name": "x"}, "data": "x".repeat(20_000), "n": n});
    let mut held = Vec::new();
    let error = loop {
        let n = held.len() as u64;
        let name = format!("o{n}");
        match store.commit(Tx::new().put(key(&name), body(n), Expect::Any)).await {
            Ok(_) => held.push(name),
            Err(error) => break error,
        }
        assert!(held.len() < 10_000, "never full");
    };
    assert_eq!(error, CommitError::Full);
    assert!(held.len() > 10, "full after {}", held.len());
    // What was acknowledged is there and is served; what was refused left nothing.
    assert_eq!(store.get(&key(&format!("o{}", held.len()))).unwrap(), None);
    for name in &held {
        assert!(store.get(&key(name)).unwrap().is_some());
    }
    assert!(store.get(&key("none")).is_ok(), "alive");
    make_room(store).await;
    for n in 0..5 {
        store
            .commit(Tx::new().put(key(&format!("again{n}")), body(n), Expect::Any))
            .await
            .unwrap();
    }
    for name in &held[10..] {
        assert!(store.get(&key(name)).unwrap().is_some(), "{name} survived");
    }
}

#[tokio::test]
async fn a_full_store_refuses_lives_and_recovers_when_things_are_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        max_bytes: Some(2 * 1024 * 1024),
        ..StoreOptions::new(dir.path().join("capped.db"))
    };
    let store = Store::open(options).unwrap().0;
    full_and_back(&store, async |store| {
        let deletes = (0..10).map(|n| Op::Delete {
            key: key(&format!("o{n}")),
            expect: Expect::Present,
            uid: None,
        });
        store.commit(Tx(deletes.collect())).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_large_transaction_that_does_not_fit_does_not_take_a_small_one_down() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        max_bytes: Some(1024 * 1024),
        ..StoreOptions::new(dir.path().join("capped.db"))
    };
    let store = Store::open(options).unwrap().0;
    let large = Tx::new().kv_put("big", "b", vec![7; 1_500_000]);
    let (a, b, c) = (
        store.submit(put("a", 1)),
        store.submit(large),
        store.submit(put("c", 1)),
    );
    assert_eq!(a.await.unwrap().revision, 1);
    assert_eq!(b.await.unwrap_err(), CommitError::Full);
    assert_eq!(c.await.unwrap().revision, 2);
}

/// Needs to mount: root. The disk is really full there, for the write-ahead log too.
#[tokio::test]
async fn needs_root_a_full_disk_refuses_lives_and_recovers_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let mount = |args: &[&str]| {
        Command::new(args[0])
            .args(&args[1..])
            .arg(dir.path())
            .status()
            .is_ok_and(|s| s.success())
    };
    assert!(
        mount(&["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs"]),
        "cannot mount: run as root"
    );
    let result = {
        let store = Store::open(StoreOptions::new(dir.path().join("disk.db"))).unwrap().0;
        let ballast = dir.path().join("ballast");
        fs::write(&ballast, vec![1; 2 * 1024 * 1024]).unwrap();
        let run = tokio::time::timeout(
            Duration::from_secs(60),
            full_and_back(&store, async |_| fs::remove_file(&ballast).unwrap()),
        )
        .await;
        store.close().await;
        run
    };
    let opened = Store::open(StoreOptions::new(dir.path().join("disk.db"))).map(|(_, opened)| opened);
    assert!(mount(&["umount"]));
    result.unwrap();
    assert!(!opened.unwrap().unclean);
}
