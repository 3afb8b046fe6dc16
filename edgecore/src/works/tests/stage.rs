//! A stage for the task: an API server over a store of its own, the mirror as the hub's hand, and a clock that the test moves.

use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use daemon::drain::Drain;
use federation::crds::WORK_CRD;
use federation::names;
use metastore::api::{ApiServer, DeleteOptions, MASTERS, ResourceId, User};
use metastore::store::{ObjectKey, SealKey, Store, StoreOptions, Tap, Tapped, Tx};
use proto::Change;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::conflicts::Conflicts;
use crate::metrics::Metrics;
use crate::objects;
use crate::stamps::Stamps;
use crate::uplink::{Mirror, is_mirrored};
use crate::works::cluster::{Report, Reporter};
use crate::works::member::Member;
use crate::works::task::{Task, concerns};

pub(super) const NODE: &str = "gw";
/// The namespace of the recorded Works.
pub(super) const SPACE: &str = "karmada-es-member1";

pub(super) struct Stage {
    pub(super) store: Store,
    pub(super) api: ApiServer,
    mirror: Mirror,
    task: Task,
    tap: Tap,
    now: Duration,
    user: User,
    pub(super) folder: tempfile::TempDir,
}

impl Stage {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = StoreOptions::new(folder.path().join("edge.db"));
        options.seal_key = Some(SealKey::new(&[7; 32]));
        let (store, _) = Store::open(options).unwrap();
        let hubs = store.clone();
        let collects = move |key: &ObjectKey| is_mirrored(&hubs, key).is_ok_and(|mirrored| !mirrored);
        let api = ApiServer::builder(store.clone())
            .runs_pods(true)
            .collects(Arc::new(collects));
        let api = api.crds(device_models::CRDS).crds(&[WORK_CRD]).build().await.unwrap();
        let stamps = Stamps::load(NODE, &store).unwrap();
        let conflicts = Conflicts::open(store.clone(), NODE).unwrap();
        let mut stage = Self {
            mirror: Mirror::new(store.clone(), stamps, NODE.to_owned(), conflicts),
            tap: store.tap(concerns),
            task: Task::new(Member::new(api.clone())),
            now: Duration::from_secs(1000),
            user: User::new("ann", [MASTERS]),
            store,
            api,
            folder,
        };
        stage.pass(0).await;
        stage
    }

    /// The agent is killed and starts anew: what it kept in memory is gone.
    pub(super) fn restart(&mut self) {
        self.tap = self.store.tap(concerns);
        self.task = Task::new(Member::new(self.api.clone()));
        self.task.all(self.now);
    }

    /// The agent is killed in the middle of what it does, after so many steps of it: what was handed to the store is written, the rest
    /// never happens. Then it starts anew.
    pub(super) async fn kill(&mut self, mut steps: usize) {
        while let Some(tapped) = self.tap.try_next() {
            assert!(self.task.take(tapped, self.now), "the store is open");
        }
        self.now += Duration::from_secs(1);
        while steps > 0 && self.task.due().is_some_and(|due| due <= self.now) {
            let mut step = Box::pin(self.task.step(self.now));
            poll_fn(|context| {
                steps = steps.saturating_sub(1);
                match step.as_mut().poll(context) {
                    Poll::Pending if steps > 0 => Poll::Pending,
                    _ => Poll::Ready(()),
                }
            })
            .await;
        }
        // Behind everything that waits to be written.
        self.store.commit(Tx::new()).await.unwrap();
        self.restart();
    }

    /// More happens than the task is told of.
    pub(super) fn miss(&mut self) {
        while self.tap.try_next().is_some() {}
        assert!(self.task.take(Tapped::Missed, self.now), "the store is open");
    }

    /// So many milliseconds pass; the task does what is due in them.
    pub(super) async fn pass(&mut self, ms: u64) {
        let end = self.now + Duration::from_millis(ms);
        loop {
            while let Some(tapped) = self.tap.try_next() {
                assert!(self.task.take(tapped, self.now), "the store is open");
            }
            match self.task.due().filter(|due| *due <= end) {
                Some(due) => {
                    self.now = self.now.max(due);
                    self.task.step(self.now).await;
                }
                None => break,
            }
        }
        self.now = end;
    }

    /// The hub's set has this under a key of a Work.
    pub(super) async fn hub(&self, key: &ObjectKey, body: Option<&Value>) -> Vec<String> {
        let key = proto::Key::from(key.to_string());
        let body = body.map(objects::canonical);
        let hash = body.as_ref().map_or(0, |body: &Bytes| proto::entry_hash(&key, body));
        let change = Change { key, body, hash };
        let outcome = self.mirror.apply(vec![change], &Metrics::default()).await.unwrap();
        outcome.applied.refused.into_iter().map(|(_, reason)| reason).collect()
    }

    /// The hub brings a Work, and it is looked at.
    pub(super) async fn bring(&mut self, work: &Value) {
        assert_eq!(self.hub(&key_of(work), Some(work)).await, Vec::<String>::new());
        self.pass(500).await;
    }

    /// A Work leaves the hub's set.
    pub(super) async fn withdraw(&mut self, work: &Value) {
        self.hub(&key_of(work), None).await;
        self.pass(500).await;
    }

    /// What the hub hears of a Work.
    pub(super) fn told(&self, work: &Value) -> Value {
        let object = self.store.get(&key_of(work)).unwrap().unwrap();
        crate::works::report(&object).map_or(Value::Null, |report| serde_json::from_slice(&report).unwrap())
    }

    pub(super) fn get(&self, group: &str, plural: &str, name: &str) -> Option<Value> {
        let found = self.api.get(&place(group, plural, name)).unwrap();
        found.map(|object| object.value().unwrap())
    }

    /// Somebody changes an object by hand.
    pub(super) async fn edit(&self, group: &str, plural: &str, name: &str, change: impl Fn(&mut Value) + Send + Sync) {
        let place = place(group, plural, name);
        let changed = self.api.modify(&self.user, &place, "", |object| {
            change(object);
            Ok(())
        });
        assert!(changed.await.unwrap().changed);
    }

    /// A controller says what became of an object.
    pub(super) async fn state(&self, group: &str, plural: &str, name: &str, status: Value) {
        let place = place(group, plural, name);
        let changed = self.api.modify(&self.user, &place, "status", |object| {
            object["status"] = status.clone();
            Ok(())
        });
        assert!(changed.await.unwrap().changed);
    }

    pub(super) async fn create(&self, object: Value) {
        self.api.create(&self.user, object).await.unwrap();
    }

    pub(super) async fn delete(&self, group: &str, plural: &str, name: &str) {
        let place = place(group, plural, name);
        let options = DeleteOptions::default();
        let deleted = self.api.delete_internal(&self.user, &place, &options);
        assert!(deleted.await.unwrap());
    }

    /// What the gateway says that it is as a cluster, from here on.
    pub(super) fn cluster(&self, drain: &Drain) -> (Report, JoinHandle<()>) {
        let (mut reporter, report) = Reporter::open(self.store.clone(), NODE).unwrap();
        reporter.holds = Duration::from_millis(20);
        (report, drain.spawn(reporter.run(self.api.clone(), drain.clone())))
    }

    /// The account of a Work.
    pub(super) fn account(&self, work: &Value) -> Option<Value> {
        let key = key_of(work);
        let id = format!("{}/{}", key.namespace, key.name);
        let text = self.store.kv_get("works", id.as_bytes()).unwrap();
        text.map(|text| serde_json::from_slice(&text).unwrap())
    }
}

/// Namespaced ones are in the namespace of the recorded ones.
fn place(group: &str, plural: &str, name: &str) -> ResourceId {
    let namespaced = !matches!(plural, "namespaces" | "customresourcedefinitions" | "clusterroles");
    ResourceId::new(group, plural, if namespaced { "fx" } else { "" }, name)
}

pub(super) fn key_of(work: &Value) -> ObjectKey {
    let text = |field: &str| work["metadata"][field].as_str().unwrap();
    objects::work_key(text("namespace"), text("name"))
}

/// A recorded file.
pub(super) fn recorded(file: &str) -> Value {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures/karmada")
        .join(file);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A recorded Work as the hub sends it.
pub(super) fn work(file: &str) -> Value {
    sent(recorded(&format!("work-{file}.json")))
}

/// One of the recorded Works of things without a namespace.
pub(super) fn cluster_scoped(beginning: &str) -> Value {
    let mut list = recorded("works-cluster-scoped.json");
    let mut items = list["items"].as_array_mut().unwrap().iter_mut();
    let found = items.find(|work| work["metadata"]["name"].as_str().unwrap().starts_with(beginning));
    sent(found.unwrap().take())
}

fn sent(mut work: Value) -> Value {
    work.as_object_mut().unwrap().remove("status");
    let metadata = work["metadata"].as_object_mut().unwrap();
    for field in [
        "creationTimestamp",
        "finalizers",
        "generation",
        "resourceVersion",
        "uid",
    ] {
        metadata.remove(field);
    }
    work
}

/// A Work of our own.
pub(super) fn carrying(name: &str, manifests: &[Value]) -> Value {
    json!({"apiVersion": "work.karmada.io/v1alpha1", "kind": "Work", "metadata": {"namespace": SPACE, "name": name},
        "spec": {"workload": {"manifests": manifests}}})
}

/// A ConfigMap of the recorded namespace, as Karmada would send it.
pub(super) fn config(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "fx", "name": name,
        "labels": {names::MANAGED: "true"}}, "data": {"key": value}})
}

/// The Work as it is when it is deleted above.
pub(super) fn deleting(work: &Value) -> Value {
    let mut work = work.clone();
    work["metadata"]["annotations"][names::DELETING] = json!("true");
    work
}
