//! A stage for controllers: an API server over a store of its own, controllers that look when the test says so, in an order that the test may
//! choose, and a machine on which every pod comes up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use metastore::api::{Admission, AdmitContext, ApiServer, DeleteOptions, Operation, Status};
use metastore::store::{Store, StoreOptions, Tap, Tapped};
use serde_json::{Value, json};

use super::Controller;
use super::run::Runner;
use super::shared::{is_active, is_ready, is_terminating, name};
use crate::cluster::{Cluster, EVENTS, Key, Kind, NAMESPACES, PODS};
use crate::events::Recorder;

pub(crate) const NAMESPACE: &str = "default";
pub(crate) const NODE: &str = "press";
/// How long a test waits for what happens on its own.
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) events: Recorder,
    runners: Vec<Runner>,
    tap: Tap,
    gate: Gate,
    rng: fastrand::Rng,
    _folder: tempfile::TempDir,
}

impl Stage {
    pub(crate) async fn new(controllers: impl FnOnce(Cluster, Recorder) -> Vec<Arc<dyn Controller>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(StoreOptions::new(folder.path().join("api.db"))).unwrap();
        let gate = Gate::default();
        let api = ApiServer::builder(store)
            .runs_pods(true)
            .admission(Arc::new(gate.clone()));
        let api = api.build().await.unwrap();
        let cluster = Cluster::new(api, "test");
        let (events, writer) = Recorder::new(cluster.clone(), NODE.into(), "test");
        tokio::spawn(writer);
        let runners = controllers(cluster.clone(), events.clone());
        let runners = runners.into_iter().map(|c| Runner::new(c, cluster.clone())).collect();
        let tap = cluster.store().tap(|_| true);
        Self {
            cluster,
            events,
            runners,
            tap,
            gate,
            rng: fastrand::Rng::with_seed(7),
            _folder: folder,
        }
    }

    /// Whether new pods are refused from now on.
    pub(crate) fn refuse_pods(&self, yes: bool) {
        self.gate.0.store(yes, Ordering::Relaxed);
    }

    /// The order in which controllers look from now on.
    pub(crate) fn seed(&mut self, seed: u64) {
        self.rng.seed(seed);
    }

    /// Lets one controller that has something to look at look. Whether one had.
    pub(crate) async fn step(&mut self) -> bool {
        let mut order: Vec<usize> = (0..self.runners.len()).collect();
        self.rng.shuffle(&mut order);
        for at in order {
            let runner = &mut self.runners[at];
            assert!(runner.take_in(), "the store is open");
            if runner.look().await {
                return true;
            }
        }
        false
    }

    /// Ends a controller in the middle of a look, after so many steps of it, and starts it anew: what was handed to the store is written, the
    /// rest never happens.
    pub(crate) async fn kill(&mut self, steps: usize) {
        let at = self.rng.usize(..self.runners.len());
        let runner = &mut self.runners[at];
        assert!(runner.take_in(), "the store is open");
        let mut look = Box::pin(runner.look());
        let mut left = steps;
        std::future::poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            look.as_mut().poll(context).map(drop)
        })
        .await;
        drop(look);
        // Behind everything that waits to be written.
        let (namespace, turn) = (Key::new("", NAMESPACE), self.rng.u64(..).to_string());
        let last = self.cluster.modify(NAMESPACES, &namespace, |object| {
            object["metadata"]["annotations"]["turn"] = turn.as_str().into();
            Ok(())
        });
        last.await.unwrap();
        self.runners[at].restart();
    }

    /// Lets controllers look until nobody has anything to look at. Pods do not change.
    pub(crate) async fn look(&mut self) {
        for _ in 0..2000 {
            if !self.step().await {
                return;
            }
        }
        panic!("the controllers do not come to rest");
    }

    /// The same, while pods that are made come up and those asked to go are gone.
    pub(crate) async fn settle(&mut self) {
        loop {
            self.look().await;
            if !self.pods_change().await {
                return;
            }
        }
    }

    /// Brings every pod a step on: new ones run and are ready, those asked to go are gone. Whether one changed.
    pub(crate) async fn pods_change(&self) -> bool {
        let mut changed = false;
        for pod in self.list(PODS) {
            if is_terminating(&pod) {
                self.gone(name(&pod)).await;
            } else if is_active(&pod) && !is_ready(&pod) {
                self.ready(name(&pod), 0).await;
            } else {
                continue;
            }
            changed = true;
        }
        changed
    }

    /// A pod runs, and has been ready for so many seconds.
    pub(crate) async fn ready(&self, pod: &str, seconds: u64) {
        let since = crate::time::stamp(daemon::clock::wall_ms() - seconds * 1000);
        let condition = |ty: &str| json!({"type": ty, "status": "True", "lastTransitionTime": since});
        let status = json!({
            "phase": "Running",
            "startTime": since,
            "conditions": [condition("Ready"), condition("ContainersReady"), condition("PodScheduled")],
        });
        self.status(PODS, pod, status).await;
    }

    /// A pod ends.
    pub(crate) async fn ended(&self, pod: &str, phase: &str) {
        self.status(PODS, pod, json!({"phase": phase})).await;
    }

    /// What was left of a pod that was asked to go is gone.
    pub(crate) async fn gone(&self, pod: &str) {
        let options = DeleteOptions {
            grace: Some(0),
            ..DeleteOptions::default()
        };
        self.cluster.delete(PODS, &key(pod), &options).await.unwrap();
    }

    pub(crate) async fn create(&self, object: Value) -> Value {
        self.cluster.create(object).await.unwrap()
    }

    pub(crate) async fn status(&self, kind: Kind, name: &str, status: Value) {
        let key = key(name);
        let written = self.cluster.modify_status(kind, &key, |o| {
            o["status"] = status.clone();
            Ok(())
        });
        written.await.unwrap();
    }

    pub(crate) async fn change(&self, kind: Kind, name: &str, mut change: impl FnMut(&mut Value) + Send) -> Value {
        let key = key(name);
        let written = self.cluster.modify(kind, &key, |o| {
            change(o);
            Ok(())
        });
        written.await.unwrap()
    }

    pub(crate) async fn delete(&self, kind: Kind, name: &str) {
        let deleted = self.cluster.delete(kind, &key(name), &DeleteOptions::default()).await;
        assert!(deleted.unwrap(), "{name} was there");
    }

    pub(crate) fn get(&self, kind: Kind, name: &str) -> Value {
        self.cluster.get(kind, &key(name)).unwrap().unwrap_or_default()
    }

    pub(crate) fn list(&self, kind: Kind) -> Vec<Value> {
        self.cluster.list(kind, Some(NAMESPACE)).unwrap()
    }

    /// Those pods that count, by name.
    pub(crate) fn pods(&self) -> Vec<Value> {
        let mut pods = self.list(PODS);
        pods.retain(is_active);
        pods
    }

    /// Waits for what happens on its own: collected garbage, Events.
    pub(crate) async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !is_so(self) {
                assert!(!matches!(self.tap.next().await, Tapped::Closed));
            }
        };
        let waited = tokio::time::timeout(DEADLINE, waiting).await;
        assert!(waited.is_ok(), "never: {what}");
    }

    /// Waits for so many Events about an object, and returns them as `reason: message (count)`, in order of time.
    pub(crate) async fn told(&mut self, about: &str, count: usize) -> Vec<String> {
        let told = |stage: &Self| {
            let mut events = stage.list(EVENTS);
            events.retain(|e| e["involvedObject"]["name"] == about);
            events
        };
        self.until("events", |stage| told(stage).len() >= count).await;
        let line = |e: &Value| format!("{}: {}", e["reason"].as_str().unwrap(), e["message"].as_str().unwrap());
        let mut lines: Vec<String> = told(self).iter().map(line).collect();
        lines.sort();
        lines
    }
}

/// Refuses new pods while it is shut.
#[derive(Clone, Default)]
struct Gate(Arc<AtomicBool>);

impl Admission for Gate {
    fn admit(&self, context: &AdmitContext<'_>, _old: Option<&Value>, new: &mut Value) -> Result<(), Status> {
        if context.op == Operation::Create && new["kind"] == "Pod" && self.0.load(Ordering::Relaxed) {
            return Err(Status::forbidden("", "pods", "", "the gate is shut"));
        }
        Ok(())
    }
}

pub(crate) fn key(name: &str) -> Key {
    Key::new(NAMESPACE, name)
}

/// An object with a selector for `app: <name>` and a template of one container.
pub(crate) fn workload(api_version: &str, kind: &str, name: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                // On a node from the start, so that those asked to go take their time.
                "spec": {"containers": [{"name": "main", "image": "press:1"}], "nodeName": NODE},
            },
        },
    });
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    object
}
