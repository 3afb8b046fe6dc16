use std::path::Path;

use cri::fake::Fake;
use metastore::store::{Expect, StoreOptions, Tx};
use serde_json::{Value, json};

use super::*;

struct Bench {
    folder: tempfile::TempDir,
    store: Store,
    drain: Drain,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(StoreOptions::new(folder.path().join("store.db"))).unwrap();
        Self {
            folder,
            store,
            drain: Drain::new(),
        }
    }

    fn machine(&self, runtime: &str) -> Arc<Machine> {
        Arc::new(Machine::new(MachineOptions {
            node: "press-01".into(),
            data_dir: self.folder.path().to_owned(),
            store: self.store.clone(),
            settings: Arc::new(Settings {
                runtime: runtime.to_owned(),
                ..Settings::default()
            }),
        }))
    }

    fn followed(&self, socket: &Path) -> (Arc<Machine>, watch::Receiver<Report>) {
        let machine = self.machine(&format!("unix://{}", socket.display()));
        let report = machine.report();
        drop(self.drain.spawn(Arc::clone(&machine).follow(self.drain.clone())));
        (machine, report)
    }

    async fn end(self) {
        assert!(self.drain.finish(Duration::from_secs(5)).await);
        self.store.close().await;
    }
}

fn condition(report: &Report, kind: &str) -> Option<(bool, &'static str)> {
    let found = report.conditions.iter().find(|c| c.kind == kind)?;
    Some((found.holds, found.reason))
}

async fn until(report: &mut watch::Receiver<Report>, kind: &str, is: (bool, &str)) -> Report {
    let found = report.wait_for(|report| condition(report, kind) == Some(is));
    let found = tokio::time::timeout(Duration::from_secs(600), found).await;
    found
        .unwrap_or_else(|_| panic!("{kind} never was {is:?}"))
        .unwrap()
        .clone()
}

#[tokio::test]
async fn without_a_runtime_the_gateway_is_ready_for_devices_and_has_no_room_for_pods() {
    let bench = Bench::new();
    let machine = bench.machine("none");
    let report = machine.report().borrow().clone();
    assert_eq!(condition(&report, "Ready"), Some((true, "AgentRunning")));
    assert_eq!(
        condition(&report, "ContainerRuntimeReady"),
        Some((false, "SwitchedOff"))
    );
    assert_eq!(report.status["allocatable"]["pods"], "0");
    assert!(machine.runtime().borrow().is_none());
    bench.end().await;
}

#[tokio::test]
async fn a_runtime_that_was_there_is_missed() {
    let bench = Bench::new();
    let node = |version: &str| json!({"status": {"nodeInfo": {"containerRuntimeVersion": version}}});
    let put = |node: Value| Tx::new().put(ObjectKey::new("", "nodes", "", "press-01"), node, Expect::Any);
    bench.store.commit(put(node(""))).await.unwrap();
    assert!(!bench.machine("none").had_runtime);
    bench.store.commit(put(node("containerd://1.6.20"))).await.unwrap();
    assert!(bench.machine("none").had_runtime);
    bench.end().await;
}

#[tokio::test]
async fn a_runtime_is_told_of_when_it_comes_and_when_it_stays_away() {
    let bench = Bench::new();
    let fake = Fake::start(bench.folder.path());
    let (_machine, mut report) = bench.followed(fake.socket());
    let up = until(&mut report, "Ready", (true, "KubeletReady")).await;
    assert!(
        up.status["nodeInfo"]["containerRuntimeVersion"]
            .as_str()
            .unwrap()
            .contains("://")
    );
    assert_eq!(condition(&up, "ContainerRuntimeReady"), Some((true, "RuntimeReady")));
    assert_eq!(up.status["allocatable"]["pods"], "110");

    // From here on time passes only where somebody waits for it.
    tokio::time::pause();
    let down_at = Instant::now();
    fake.down();
    let down = until(&mut report, "Ready", (false, "KubeletNotReady")).await;
    assert!(down_at.elapsed() >= Duration::from_secs(30), "a restart is not told");
    assert_eq!(condition(&down, "ContainerRuntimeReady"), Some((false, "NoSocket")));
    assert_eq!(
        down.status["allocatable"]["pods"], "110",
        "the room is there, only nobody to fill it"
    );
    let back_at = Instant::now();
    fake.up();
    until(&mut report, "Ready", (true, "KubeletReady")).await;
    assert!(
        back_at.elapsed() <= AWAY.1 + Duration::from_secs(1),
        "{:?}",
        back_at.elapsed()
    );
    bench.end().await;
}

#[tokio::test]
async fn a_network_that_is_not_ready_is_followed() {
    let bench = Bench::new();
    let fake = Fake::start(bench.folder.path());
    let (machine, mut report) = bench.followed(fake.socket());
    until(&mut report, "Ready", (true, "KubeletReady")).await;
    let (works, said) = watch::channel(Err("nft is not installed".to_owned()));
    machine.check_network(move || said.borrow().clone());
    machine.look_soon();
    let lacking = until(&mut report, "NetworkUnavailable", (true, "PodNetworkNotReady")).await;
    assert_eq!(condition(&lacking, "Ready"), Some((false, "KubeletNotReady")));
    drop(works.send_replace(Ok(())));
    machine.look_soon();
    until(&mut report, "Ready", (true, "KubeletReady")).await;
    bench.end().await;
}

#[tokio::test]
async fn a_machine_without_a_runtime_is_left_in_peace() {
    let bench = Bench::new();
    let mut view = View {
        last_up: Instant::now(),
        version: None,
        failures: 0,
    };
    let machine = bench.machine("none");
    machine.check_network(|| Err("nobody made one".to_owned()));
    assert_eq!(machine.look(&mut view).await, ABSENT);
    let fake = Fake::start(bench.folder.path());
    let machine = bench.machine(&format!("unix://{}", fake.socket().display()));
    machine.check_network(|| Err("nobody made one yet".to_owned()));
    assert_eq!(machine.look(&mut view).await, LACKING);
    bench.end().await;
}

#[test]
fn ranges_contain_their_addresses() {
    let is = |range: &str, ip: &str| contains(range, ip.parse().unwrap());
    assert!(is("10.42.0.0/24", "10.42.0.255") && !is("10.42.0.0/24", "10.42.1.0"));
    assert!(is("0.0.0.0/0", "9.9.9.9") && !is("10.0.0.0/8", "::1") && !is("", "10.0.0.1"));
    assert!(is("fd00::/8", "fd12::1") && !is("fd00::/8", "fe80::1") && is("10.0.0.1/32", "10.0.0.1"));
}
