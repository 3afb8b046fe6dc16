//! For tests of controllers: a real API over a temporary store, and looks taken one after another until nothing changes any more.

use std::sync::Arc;

use metastore::api::{ApiServer, DeleteOptions, Status};
use metastore::store::{Store, StoreOptions};
use serde_json::{Value, json};

use super::Controller;
use super::look::set_condition;
use crate::cluster::{Cluster, Key, Kind, NODES, PODS};
use crate::events::{Kept, Recorder};

/// Looks after which controllers that still change something never will not.
const ROUNDS: usize = 60;

/// An API with a namespace `plant` and nothing in it.
pub(super) struct Bench {
    pub(super) cluster: Cluster,
    pub(super) events: Recorder,
    pub(super) told: Kept,
    _folder: tempfile::TempDir,
}

impl Bench {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(StoreOptions::new(folder.path().join("api.db"))).unwrap();
        let api = ApiServer::builder(store).runs_pods(true).build().await.unwrap();
        let (events, told) = Recorder::kept();
        let bench = Self {
            cluster: Cluster::new(api, "bench"),
            events,
            told,
            _folder: folder,
        };
        bench
            .create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "plant", "labels": {"site": "plant"}}}))
            .await;
        bench
    }

    /// Creates an object; in `plant` unless it says otherwise or has no namespace.
    pub(super) async fn create(&self, mut object: Value) -> Value {
        let nowhere = matches!(object["kind"].as_str(), Some("Namespace" | "Node" | "PersistentVolume"));
        if !nowhere && object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = "plant".into();
        }
        self.cluster.create(object).await.unwrap()
    }

    /// A Node that has so much.
    pub(super) async fn node(&self, name: &str, cpu: &str, memory: &str) {
        self.create(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}))
            .await;
        self.status(NODES, &Key::new("", name), |node| {
            node["status"]["allocatable"] = json!({"cpu": cpu, "memory": memory, "pods": "110"});
            let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "lastTransitionTime": "2026-01-01T00:00:00Z"});
            set_condition(node, &ready);
        })
        .await;
    }

    /// A Pod with this spec beside one container `main`, which the spec may replace.
    pub(super) async fn pod(&self, name: &str, labels: Value, spec: Value) -> Value {
        let mut whole = json!({"containers": [{"name": "main", "image": "i"}]});
        for (field, value) in spec.as_object().unwrap() {
            whole[field] = value.clone();
        }
        let metadata = json!({"name": name, "labels": labels});
        self.create(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": whole}))
            .await
    }

    pub(super) fn get(&self, kind: Kind, name: &str) -> Value {
        self.find(kind, name).unwrap_or_else(|| panic!("{} {name}", kind.kind))
    }

    pub(super) fn find(&self, kind: Kind, name: &str) -> Option<Value> {
        let namespace = if kind == NODES { "" } else { "plant" };
        self.cluster.get(kind, &Key::new(namespace, name)).unwrap()
    }

    pub(super) fn list(&self, kind: Kind) -> Vec<Value> {
        self.cluster.list(kind, None).unwrap()
    }

    /// Changes a status.
    pub(super) async fn status(&self, kind: Kind, key: &Key, mut change: impl FnMut(&mut Value) + Send) {
        let changed = self.cluster.modify_status(kind, key, |object| {
            change(object);
            Ok(())
        });
        changed.await.unwrap();
    }

    /// Changes the rest.
    pub(super) async fn change(&self, kind: Kind, name: &str, mut change: impl FnMut(&mut Value) + Send) {
        let namespace = if kind == NODES { "" } else { "plant" };
        let key = Key::new(namespace, name);
        let changed = self.cluster.modify(kind, &key, |object| {
            change(object);
            Ok(())
        });
        changed.await.unwrap();
    }

    /// Says as a kubelet does what became of a pod.
    pub(super) async fn phase(&self, name: &str, phase: &str) {
        self.status(PODS, &Key::new("plant", name), |pod| {
            pod["status"]["phase"] = phase.into()
        })
        .await;
    }

    pub(super) async fn delete(&self, kind: Kind, name: &str, grace: Option<i64>) {
        let options = DeleteOptions {
            grace,
            ..DeleteOptions::default()
        };
        self.cluster
            .delete(kind, &Key::new("plant", name), &options)
            .await
            .unwrap();
    }

    /// One look at all that a controller looks at.
    pub(super) async fn look(&self, controller: &Arc<dyn Controller>) -> Result<(), Status> {
        for object in self.list(controller.kind()) {
            controller.reconcile(&Key::of(&object)).await?;
        }
        Ok(())
    }

    /// Looks until nothing changes any more.
    pub(super) async fn settle(&self, controllers: &[Arc<dyn Controller>]) {
        for _ in 0..ROUNDS {
            let before = self.cluster.store().revision();
            for controller in controllers {
                self.look(controller).await.unwrap();
            }
            if self.cluster.store().revision() == before {
                return;
            }
        }
        panic!("still changing after {ROUNDS} rounds");
    }
}

/// A wall clock that stands until it is moved.
#[derive(Clone)]
pub(super) struct Hands(Arc<std::sync::atomic::AtomicU64>);

impl Hands {
    /// At a time as objects carry it.
    pub(super) fn at(time: &str) -> Self {
        let at: jiff::Timestamp = time.parse().unwrap();
        let at = u64::try_from(at.as_millisecond()).unwrap();
        Self(Arc::new(at.into()))
    }

    pub(super) fn clock(&self) -> super::look::WallClock {
        let hands = self.0.clone();
        Arc::new(move || hands.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// On by so many seconds, or back.
    pub(super) fn turn(&self, seconds: i64) {
        let add = seconds.saturating_mul(1000).cast_unsigned();
        self.0.fetch_add(add, std::sync::atomic::Ordering::Relaxed);
    }

    pub(super) fn stamp(&self) -> String {
        crate::time::stamp(self.0.load(std::sync::atomic::Ordering::Relaxed))
    }
}
