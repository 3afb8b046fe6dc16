use std::collections::BTreeMap;
use std::sync::Mutex;

use metastore::api::ApiServer;
use metastore::store::{Store, StoreOptions};

use super::*;
use crate::cluster::{EVENTS, Key};
use crate::machine::MachineOptions;
use crate::machine::household::{Later, Room, VolumesUse};
use crate::machine::report::Pressure;
use crate::settings::Settings;

const NODE: &str = "press-01";
const MI: u64 = 1 << 20;

/// What is left, as the test says it.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<(Host, [Option<Disk>; 2])>>);

impl Sight for Script {
    fn host(&mut self) -> Host {
        self.0.lock().unwrap().0
    }

    fn disks(&mut self, _: Option<&Path>) -> [Option<Disk>; 2] {
        self.0.lock().unwrap().1
    }
}

type Evicted = Vec<(String, String, Option<i64>)>;

#[derive(Default)]
struct House {
    residents: Mutex<Vec<Resident>>,
    evicted: Mutex<Evicted>,
    volumes: Mutex<BTreeMap<String, u64>>,
    /// Bytes that were asked for, each time.
    asked: Mutex<Vec<u64>>,
    /// What removing images leaves on the disks.
    freed: Mutex<Option<(Script, u64)>>,
}

impl Household for House {
    fn residents(&self) -> Vec<Resident> {
        self.residents.lock().unwrap().clone()
    }

    fn evict(&self, uid: &str, reason: &str, message: &str, grace: Option<i64>) -> bool {
        assert_eq!(reason, "Evicted");
        self.evicted
            .lock()
            .unwrap()
            .push((uid.to_owned(), message.to_owned(), grace));
        true
    }

    fn volumes<'a>(&'a self, pod: &'a Arc<Pod>) -> Later<'a, Option<VolumesUse>> {
        let used = self.volumes.lock().unwrap().get(pod.uid()).copied();
        Box::pin(async move {
            let used = used?;
            Some(VolumesUse {
                total: [used, 1],
                empty_dirs: vec![("scratch".to_owned(), used)],
            })
        })
    }

    fn collect_images(&self, bytes: u64, _: bool) -> Later<'_, u64> {
        self.asked.lock().unwrap().push(bytes);
        let freed = self.freed.lock().unwrap().as_ref().map_or(0, |(script, freed)| {
            for disk in script.0.lock().unwrap().1.iter_mut().flatten() {
                disk.available += freed;
            }
            *freed
        });
        Box::pin(async move { freed })
    }
}

struct Bench {
    guard: Guard<Script>,
    script: Script,
    house: Arc<House>,
    store: Store,
    _folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(StoreOptions::new(folder.path().join("api.db"))).unwrap();
        let api = ApiServer::builder(store.clone()).runs_pods(true).build().await.unwrap();
        let cluster = Cluster::new(api, "test");
        let (events, writer) = Recorder::new(cluster.clone(), NODE.into(), "test");
        tokio::spawn(writer);
        let machine = Arc::new(Machine::new(MachineOptions {
            node: NODE.into(),
            data_dir: folder.path().to_owned(),
            store: store.clone(),
            settings: Arc::new(Settings {
                runtime: "none".to_owned(),
                ..Settings::default()
            }),
        }));
        let script = Script::default();
        {
            let mut script = script.0.lock().unwrap();
            script.0 = Host {
                memory: 2048 * MI,
                memory_available: 1000 * MI,
                pids_max: 1000,
                ..Host::default()
            };
            script.1 = [disk(50), disk(50)];
        }
        let house = Arc::new(House::default());
        let guard = Guard::new(machine, house.clone(), cluster, &events, script.clone());
        Self {
            guard,
            script,
            house,
            store,
            _folder: folder,
        }
    }

    /// A pod that lives here, with a request for memory.
    async fn pod(&self, name: &str, change: impl FnOnce(&mut Value)) -> String {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": NODE, "containers": [{"name": "app", "image": "app:1"}]},
        });
        change(&mut pod);
        let made = self.guard.cluster.create(pod).await.unwrap();
        let uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
        self.house.residents.lock().unwrap().push(Resident {
            pod: Key::of(&made),
            uid: uid.clone(),
            containers: vec![Room {
                name: "app".into(),
                id: name.into(),
                runs: true,
                log_path: "/not/there/0.log".into(),
            }],
        });
        uid
    }

    fn memory(&self, available: u64) {
        self.script.0.lock().unwrap().0.memory_available = available;
    }

    async fn event(&self, reason: &str) -> Value {
        for _ in 0..2000 {
            let all = self.guard.cluster.list(EVENTS, None).unwrap();
            if let Some(found) = all.into_iter().find(|event| event["reason"] == reason) {
                return found;
            }
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no event {reason}");
    }

    fn evicted(&self) -> Evicted {
        std::mem::take(&mut *self.house.evicted.lock().unwrap())
    }
}

fn disk(percent_free: u64) -> Option<Disk> {
    Some(Disk {
        capacity: 1000 * MI,
        available: 10 * MI * percent_free,
        used: 0,
        inodes: 1000,
        inodes_free: 900,
        device: 1,
    })
}

#[tokio::test]
async fn the_least_important_pod_goes_when_memory_runs_short_and_one_at_a_time() {
    let mut bench = Bench::new().await;
    let class = json!({
        "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "press"}, "value": 1000,
    });
    bench.guard.cluster.create(class).await.unwrap();
    let important = bench
        .pod("important", |p| p["spec"]["priorityClassName"] = "press".into())
        .await;
    let plain = bench.pod("plain", |_| {}).await;
    let system = bench
        .pod("system", |p| {
            p["metadata"]["annotations"] = json!({"kubernetes.io/config.source": "file"})
        })
        .await;

    assert_eq!(bench.guard.look().await, PERIOD);
    assert_eq!(bench.guard.machine.known().pressure, Some(Pressure::default()));
    bench.memory(250 * MI);
    assert_eq!(bench.guard.look().await, SCARCE, "not yet short, but watched closely");
    assert!(bench.evicted().is_empty());

    bench.memory(60 * MI);
    bench.guard.look().await;
    let gone = bench.evicted();
    let message = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 60Mi. ";
    assert_eq!(gone, [(plain.clone(), message.to_owned(), Some(HARD_GRACE))]);
    assert!(bench.guard.machine.known().pressure.unwrap().memory);
    let event = bench.event("EvictionThresholdMet").await;
    assert_eq!(
        (&event["message"], &event["involvedObject"]["uid"]),
        (&json!("Attempting to reclaim memory"), &json!(NODE))
    );
    assert_eq!(bench.event("Evicted").await["message"], message);

    bench.guard.look().await;
    assert!(bench.evicted().is_empty(), "it is still being cleaned up");
    // Its sandbox stays as a record; what ran in it has ended.
    let ended = |residents: &mut Vec<Resident>| {
        let its = residents.iter_mut().filter(|r| r.uid == plain);
        its.flat_map(|r| &mut r.containers).for_each(|c| c.runs = false);
    };
    ended(&mut bench.house.residents.lock().unwrap());
    bench
        .guard
        .cluster
        .modify_status(PODS, &Key::new("default", "plain"), |p| {
            p["status"]["phase"] = "Failed".into();
            Ok(())
        })
        .await
        .unwrap();
    bench.guard.look().await;
    assert_eq!(bench.evicted()[0].0, important);
    bench.house.residents.lock().unwrap().retain(|r| r.uid == system);
    bench.guard.look().await;
    assert!(bench.evicted().is_empty(), "a static pod stays");
    bench.store.close().await;
}

#[tokio::test]
async fn images_go_before_pods_when_the_disk_is_full() {
    let mut bench = Bench::new().await;
    let uid = bench.pod("a", |_| {}).await;
    bench.script.0.lock().unwrap().1 = [disk(5), disk(5)];
    *bench.house.freed.lock().unwrap() = Some((bench.script.clone(), 120 * MI));
    bench.guard.look().await;
    assert!(bench.evicted().is_empty());
    // The images' own threshold is 15 %, the pods' 10 %: what is missing to the more urgent one.
    assert_eq!(*bench.house.asked.lock().unwrap(), [50 * MI]);
    assert!(bench.guard.machine.known().pressure.unwrap().disk);

    *bench.house.freed.lock().unwrap() = None;
    bench.script.0.lock().unwrap().1 = [disk(4), disk(4)];
    bench.guard.due.disks = Instant::now();
    bench.guard.look().await;
    let gone = bench.evicted();
    assert_eq!(gone[0].0, uid);
    assert!(
        gone[0].1.starts_with(
            "The node was low on resource: ephemeral-storage. Threshold quantity: 100Mi, available: 40Mi. "
        )
    );
    bench.store.close().await;
}

#[tokio::test]
async fn a_pod_that_takes_more_disk_than_it_may_goes_alone() {
    let mut bench = Bench::new().await;
    let volumes = json!([{"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}]);
    let limited = bench.pod("limited", |p| p["spec"]["volumes"] = volumes.clone()).await;
    let free = bench.pod("free", |_| {}).await;
    for uid in [&limited, &free] {
        bench.house.volumes.lock().unwrap().insert(uid.clone(), 3 * MI);
    }
    bench.guard.due.files = Instant::now();
    bench.guard.look().await;
    let message = "Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\". ".to_owned();
    assert_eq!(bench.evicted(), [(limited, message, Some(HARD_GRACE))]);
    assert_eq!(bench.guard.machine.known().pressure, Some(Pressure::default()));
    bench.store.close().await;
}

#[tokio::test]
async fn images_are_collected_between_two_marks() {
    let mut bench = Bench::new().await;
    bench.guard.see_disks().await;
    bench.guard.collect_images().await;
    assert_eq!(*bench.house.asked.lock().unwrap(), [0], "only looked at");
    bench.script.0.lock().unwrap().1 = [disk(50), disk(14)];
    bench.guard.see_disks().await;
    bench.guard.collect_images().await;
    assert_eq!(bench.house.asked.lock().unwrap()[1], 60 * MI);
    let message = bench.event("FreeDiskSpaceFailed").await["message"].clone();
    let want = "Failed to garbage collect required amount of images. Attempted to free 62914560 bytes, but only found 0 bytes eligible \
                to free.";
    assert_eq!(message, want);
    bench.store.close().await;
}

#[tokio::test]
async fn pods_are_kept_out_under_pressure() {
    let bench = Bench::new().await;
    let machine = &bench.guard.machine;
    let pod = |spec: Value| Pod::read(json!({"spec": spec})).unwrap();
    let best_effort = pod(json!({"containers": [{"name": "a"}]}));
    let asks = pod(json!({"containers": [{"name": "a", "resources": {"requests": {"memory": "1Mi"}}}]}));
    let tolerates =
        pod(json!({"containers": [{"name": "a"}], "tolerations": [{"key": MEMORY_TAINT, "operator": "Exists"}]}));
    assert_eq!(machine.admits(&best_effort), Ok(()));
    machine.learn(|known| {
        known.pressure = Some(Pressure {
            memory: true,
            ..Pressure::default()
        })
    });
    assert_eq!(
        machine.admits(&best_effort),
        Err("The node had condition: [MemoryPressure]. ".to_owned())
    );
    assert!(machine.admits(&asks).is_ok() && machine.admits(&tolerates).is_ok());
    machine.learn(|known| {
        known.pressure = Some(Pressure {
            memory: true,
            disk: true,
            pids: false,
        })
    });
    assert_eq!(
        machine.admits(&asks),
        Err("The node had condition: [MemoryPressure DiskPressure]. ".to_owned())
    );
    bench.store.close().await;
}

#[test]
fn events_tell_what_changed() {
    let report = |conditions: &[(&'static str, bool)]| Report {
        conditions: conditions
            .iter()
            .map(|(kind, holds)| crate::machine::Condition {
                kind,
                holds: *holds,
                reason: "",
                message: String::new(),
            })
            .collect(),
        ..Report::default()
    };
    let first = report(&[("Ready", true), ("DiskPressure", false)]);
    assert_eq!(
        changes(&Report::default(), &first),
        ["NodeReady", "NodeHasNoDiskPressure"]
    );
    assert!(changes(&first, &first).is_empty());
    let then = report(&[("Ready", false), ("DiskPressure", true), ("Other", true)]);
    assert_eq!(changes(&first, &then), ["NodeNotReady", "NodeHasDiskPressure"]);
}
