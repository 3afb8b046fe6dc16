use std::sync::Arc;

use cri::fake::Fake;
use metastore::store::{Store, StoreOptions};

use super::*;
use crate::machine::MachineOptions;
use crate::machine::household::Room;
use crate::settings::Settings;

fn machine(folder: &Path, socket: Option<&Path>) -> (Machine, Store) {
    let (store, _) = Store::open(StoreOptions::new(folder.join("store.db"))).unwrap();
    let runtime = socket.map_or("none".to_owned(), |socket| format!("unix://{}", socket.display()));
    let machine = Machine::new(MachineOptions {
        node: "press-01".into(),
        data_dir: folder.to_owned(),
        store: store.clone(),
        settings: Arc::new(Settings {
            runtime,
            ..Settings::default()
        }),
    });
    (machine, store)
}

fn resident(folder: &Path, ids: &[&str]) -> Resident {
    let room = |id: &&str| Room {
        name: format!("name-{id}"),
        id: (*id).to_owned(),
        runs: true,
        log_path: folder.join("logs").join(id).join("0.log"),
    };
    Resident {
        pod: Key::new("plant", "a"),
        uid: "u-1".to_owned(),
        containers: ids.iter().map(room).collect(),
    }
}

fn set_cpu(root: &Path, id: &str, nanos: u64) {
    let path = format!("kubepods/burstable/podu-1/{id}");
    for (tree, file, text) in [
        ("cpuacct", "cpuacct.usage", nanos),
        ("memory", "memory.usage_in_bytes", 4096),
        ("pids", "pids.current", 2),
    ] {
        let folder = root.join(tree).join(&path);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(file), text.to_string()).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn rates_are_over_the_time_since_the_last_question() {
    let folder = tempfile::tempdir().unwrap();
    let (mut machine, store) = machine(folder.path(), None);
    let root = folder.path().join("cgroup");
    set_cpu(&root, "c1", 1_000_000_000);
    machine.meter = Meter::new(Some(&root));
    let residents = [resident(folder.path(), &["c1"])];

    let asked = Instant::now();
    let first = machine.usage(&residents, false).await;
    assert_eq!((first.window, asked.elapsed()), (SHORTEST, SHORTEST));
    let container = &first.pods[0].containers[0];
    assert_eq!((container.nano_cores, container.is.pids), (Some(0), 2));
    assert_eq!(
        first.pods[0].is.working_set, 4096,
        "the sum, where the pod's own cgroup says nothing"
    );

    tokio::time::advance(Duration::from_secs(20)).await;
    set_cpu(&root, "c1", 6_250_000_000);
    set_cpu(&root, "c2", 1);
    let residents = [resident(folder.path(), &["c1", "c2"])];
    let asked = Instant::now();
    let second = machine.usage(&residents, false).await;
    assert_eq!(asked.elapsed(), Duration::ZERO);
    assert_eq!(second.window, Duration::from_secs(21));
    let rates: Vec<_> = second.pods[0].containers.iter().map(|c| c.nano_cores).collect();
    assert_eq!(rates, [Some(250_000_000), None]);

    tokio::time::advance(LONGEST * 2).await;
    set_cpu(&root, "c1", 9_000_000_000);
    let late = machine.usage(&residents, false).await;
    assert_eq!(late.window, SHORTEST, "what was long ago is no rate of now");
    store.close().await;
}

#[tokio::test(start_paused = true)]
async fn quick_questions_leave_something_to_begin_with() {
    let folder = tempfile::tempdir().unwrap();
    let (machine, store) = machine(folder.path(), None);
    for _ in 0..20 {
        let usage = machine.usage(&[], false).await;
        assert!(usage.window >= SHORTEST && usage.host_nano_cores.is_some());
        tokio::time::advance(Duration::from_millis(300)).await;
    }
    assert!(machine.meter.samples.lock().unwrap().len() <= 2);
    store.close().await;
}

#[tokio::test]
async fn what_cgroups_do_not_show_the_runtime_tells() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::start(folder.path());
    let (machine, store) = machine(folder.path(), Some(fake.socket()));
    let id = crate::machine::testing::run(&fake, "press-01", folder.path()).await;

    let resident = resident(folder.path(), &[&id]);
    let log = &resident.containers[0].log_path;
    std::fs::create_dir_all(log.parent().unwrap()).unwrap();
    std::fs::write(log, vec![b'x'; 10_000]).unwrap();
    let usage = machine.read_usage(&[resident], true).await;
    let container = &usage.pods[0].containers[0];
    assert_eq!(container.is.working_set, 8 << 20);
    assert!(container.logs >= 10_000);
    assert_eq!(usage.pods[0].is.working_set, 8 << 20);
    store.close().await;
}
