//! What the store does in a second on this disk, and what it costs in memory.
//!
//! `cargo run -p metastore --profile quick-release --example store_bench [folder]`. The folder must be on the disk that is meant:
//! each commit is synced.
#![allow(clippy::print_stdout)]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use daemon::clock::now;
use metastore::store::{Expect, ListOptions, ObjectKey, Op, Scope, Store, StoreOptions, Tx};
use serde_json::{Value, json};

const GROUP: &str = "devices.kubeedge.io";

fn key(n: u64) -> ObjectKey {
    ObjectKey::new(GROUP, "devicestatuses", "default", format!("device-{n:04}"))
}

/// About a kilobyte, as a DeviceStatus with five properties is.
fn status(n: u64, value: u64) -> Value {
    let twins: Vec<_> = (0..5)
        .map(|p| {
            json!({"propertyName": format!("property-{p}"),
                   "reported": {"value": value.to_string(), "metadata": {"timestamp": value.to_string(), "type": "int"}},
                   "observedDesired": {"value": "42", "metadata": {"timestamp": "1700000000000", "type": "int"}}})
        })
        .collect();
    json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceStatus",
           "metadata": {"name": format!("device-{n:04}"), "namespace": "default", "uid": "3b1f7e5a-8a44-4f0e-9d8e-2f6f1f0e9c11"},
           "status": {"lastOnlineTime": "2026-01-01T00:00:00Z", "state": "online", "twins": twins}})
}

fn percentile(sorted: &[Duration], part: f64) -> Duration {
    // The product is a small positive number.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss
    )]
    let at = (sorted.len() as f64 * part) as usize;
    sorted[at.min(sorted.len() - 1)]
}

/// Runs `submitters` tasks for `seconds`, each committing one transaction after the other.
async fn run(store: &Store, title: &str, submitters: u64, ops: u64, seconds: u64, make: fn(u64, u64, u64) -> Tx) {
    let end = now() + Duration::from_secs(seconds);
    let begin = now();
    let count = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..submitters)
        .map(|task| {
            let (store, count) = (store.clone(), count.clone());
            tokio::spawn(async move {
                let mut waits = Vec::new();
                let mut n = 0;
                while now() < end {
                    n += 1;
                    let tx = make(task, n, ops);
                    let start = now();
                    store.commit(tx).await.expect("the disk takes it");
                    waits.push(start.elapsed());
                    count.fetch_add(1, Ordering::Relaxed);
                }
                waits
            })
        })
        .collect();
    let mut waits = Vec::new();
    for task in tasks {
        waits.extend(task.await.expect("no panic"));
    }
    let passed = begin.elapsed().as_secs_f64();
    waits.sort_unstable();
    #[allow(clippy::cast_precision_loss)]
    let rate = count.load(Ordering::Relaxed) as f64 / passed;
    #[allow(clippy::cast_precision_loss)]
    let op_rate = rate * ops as f64;
    println!(
        "{title:<44} {rate:>9.0} tx/s {op_rate:>9.0} op/s   p50 {:>8.3} ms  p99 {:>8.3} ms  max {:>8.3} ms   RSS {}",
        percentile(&waits, 0.5).as_secs_f64() * 1e3,
        percentile(&waits, 0.99).as_secs_f64() * 1e3,
        waits.last().map_or(0.0, Duration::as_secs_f64) * 1e3,
        rss(),
    );
}

fn rss() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.map_or_else(|| "?".into(), |line| line.trim().to_owned())
}

fn one_report(task: u64, n: u64, _ops: u64) -> Tx {
    let device = (task * 7 + n) % 100;
    Tx::new().put(key(device), status(device, n * 1000 + task), Expect::Any)
}

fn one_record(task: u64, n: u64, _ops: u64) -> Tx {
    Tx::new().append(
        "telemetry",
        format!("{{\"device\":{task},\"value\":{n},\"text\":\"{}\"}}", "x".repeat(150)),
    )
}

fn many_reports(task: u64, n: u64, ops: u64) -> Tx {
    let report = |i| Op::Put {
        key: key(i % 100),
        object: status(i % 100, n * 1000 + task),
        expect: Expect::Any,
        uid: None,
    };
    Tx((0..ops).map(report).collect())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let folder = std::env::args().nth(1);
    let dir = match &folder {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let dir = dir.expect("a folder to write in");
    println!("process                                      RSS {}", rss());
    let (store, _) = Store::open(StoreOptions::new(dir.path().join("bench.db"))).expect("a fresh store");
    println!("store open                                   RSS {}", rss());
    for n in 0..1000 {
        store
            .commit(Tx::new().put(key(n), status(n, 0), Expect::Any))
            .await
            .expect("the disk takes it");
    }
    println!("1,000 objects written                        RSS {}", rss());

    run(&store, "1 submitter, 1 object of 1 KB each", 1, 1, 3, one_report).await;
    run(&store, "16 submitters, 1 object each", 16, 1, 3, one_report).await;
    run(&store, "256 submitters, 1 object each", 256, 1, 3, one_report).await;
    run(&store, "1 submitter, 100 objects each", 1, 100, 3, many_reports).await;
    run(&store, "4 submitters, 100 objects each", 4, 100, 3, many_reports).await;
    run(&store, "256 submitters, 1 journal record each", 256, 1, 3, one_record).await;
    reads(&store);
    reopen(store, dir.path()).await;
}

fn reads(store: &Store) {
    let begin = now();
    let mut found = 0;
    for n in 0..20_000 {
        found += usize::from(store.get(&key(n % 1000)).expect("readable").is_some());
    }
    let each = begin.elapsed() / 20_000;
    let begin = now();
    let scope = Scope::all(GROUP, "devicestatuses");
    for _ in 0..50 {
        found += store
            .list(&scope, ListOptions::default())
            .expect("readable")
            .items
            .len();
    }
    println!("get {each:?}, list of 1,000 {:?} ({found} read)", begin.elapsed() / 50);
}

async fn reopen(store: Store, dir: &Path) {
    let file = dir.join("bench.db");
    let begin = now();
    store.close().await;
    let closed = begin.elapsed();
    drop(store);
    let begin = now();
    let (store, _) = Store::open(StoreOptions::new(&file)).expect("an existing store");
    let size = std::fs::metadata(&file).map_or(0, |m| m.len());
    println!(
        "close {closed:?}, open {:?}, file {} KiB, RSS {}",
        begin.elapsed(),
        size / 1024,
        rss()
    );
    let begin = now();
    store.snapshot(&dir.join("copy.db")).expect("room for a copy");
    println!("snapshot {:?}, RSS {}", begin.elapsed(), rss());
}
