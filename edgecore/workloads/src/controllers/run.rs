//! One controller at work: what changes in the store becomes keys, keys are looked at one after another.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use daemon::drain::Drain;
use metastore::api::Status;
use metastore::store::{Event, EventKind, Tap, Tapped};
use serde_json::Value;
use tokio::time::Instant;

use super::queue::Queue;
use crate::cluster::{Cluster, Key, Kind};

/// A change of one object. At least one of both sides is there.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) kind: Kind,
    pub(crate) before: Option<Value>,
    pub(crate) after: Option<Value>,
}

impl Change {
    /// The object as it is, or as it was last.
    pub(crate) fn object(&self) -> &Value {
        self.after.as_ref().or(self.before.as_ref()).unwrap_or(&Value::Null)
    }

    /// Key of the controlling owner of this kind, if the object has one: `ownerReferences` with `controller: true`.
    pub(crate) fn controller(&self, kind: Kind) -> Option<Key> {
        let object = self.object();
        let owner = object["metadata"]["ownerReferences"]
            .as_array()?
            .iter()
            .find(|o| o["controller"] == true && o["kind"] == kind.kind)?;
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        Some(Key::new(namespace, owner["name"].as_str()?))
    }
}

/// When to look at a key again without a change; `None`: not.
pub(crate) type Reconciled = Result<Option<Duration>, Status>;

/// Brings the world towards what one kind of object asks for.
pub(crate) trait Controller: Send + Sync + 'static {
    /// As it is called in logs.
    fn name(&self) -> &'static str;

    /// The kind whose keys it looks at. All of them are looked at when it starts.
    fn kind(&self) -> Kind;

    /// The other kinds whose changes concern it.
    fn follows(&self) -> &'static [Kind];

    /// The keys of its kind that a change of another kind concerns.
    fn concerned(&self, change: &Change, cluster: &Cluster) -> Vec<Key>;

    /// One look. Called for a key of its kind that may be gone already. Must be safe to be dropped at any await.
    fn reconcile<'a>(&'a self, key: &'a Key) -> Pin<Box<dyn Future<Output = Reconciled> + Send + 'a>>;
}

/// Runs a controller until the drain begins or the store closes.
pub(crate) async fn run(controller: Arc<dyn Controller>, cluster: Cluster, drain: Drain) {
    let mut runner = Runner::new(controller, cluster);
    while runner.take_in() {
        let looked = tokio::select! {
            biased;
            () = drain.stopping() => return,
            looked = runner.look() => looked,
        };
        if looked {
            continue;
        }
        let due = runner.queue.due();
        tokio::select! {
            biased;
            () = drain.stopping() => return,
            tapped = runner.tap.next() => if !runner.note(&tapped) { return },
            () = sleep_until(due) => {}
        }
    }
}

/// A controller, and what it has still to look at.
pub(super) struct Runner {
    controller: Arc<dyn Controller>,
    cluster: Cluster,
    tap: Tap,
    queue: Queue,
}

impl Runner {
    /// Wants a look at everything there is.
    pub(super) fn new(controller: Arc<dyn Controller>, cluster: Cluster) -> Self {
        let tap = cluster.store().tap(|event| matters(&event.object.key.group));
        let mut runner = Self {
            controller,
            cluster,
            tap,
            queue: Queue::default(),
        };
        runner.look_at_all();
        runner
    }

    /// Knows nothing any more.
    #[cfg(test)]
    pub(super) fn restart(&mut self) {
        *self = Self::new(Arc::clone(&self.controller), self.cluster.clone());
    }

    /// Takes in all that changed. False when nothing will change any more.
    pub(super) fn take_in(&mut self) -> bool {
        while let Some(tapped) = self.tap.try_next() {
            if !self.note(&tapped) {
                return false;
            }
        }
        true
    }

    /// Looks at one key, if one is due. Whether one was. After a drop half-way that key is forgotten.
    pub(super) async fn look(&mut self) -> bool {
        let Some(key) = self.queue.next(Instant::now()) else {
            return false;
        };
        match self.controller.reconcile(&key).await {
            Ok(again) => {
                self.queue.done(&key);
                if let Some(wait) = again {
                    self.queue.add_at(key, Instant::now() + wait);
                }
            }
            Err(e) => {
                tracing::debug!(controller = self.controller.name(), %key, error = %e, "A look failed.");
                self.queue.failed(key, Instant::now());
            }
        }
        true
    }

    /// Takes in a change. False when it is the end.
    fn note(&mut self, tapped: &Tapped) -> bool {
        match tapped {
            Tapped::Event(event) => note(&*self.controller, &self.cluster, event, &mut self.queue),
            Tapped::Missed => self.look_at_all(),
            Tapped::Closed => return false,
        }
        true
    }

    fn look_at_all(&mut self) {
        match self.cluster.list(self.controller.kind(), None) {
            Ok(objects) => objects.iter().for_each(|object| self.queue.add(Key::of(object))),
            Err(e) => {
                tracing::warn!(controller = self.controller.name(), error = %e, "The objects cannot be listed.");
            }
        }
    }
}

/// Devices report by the thousand; no controller looks at them.
fn matters(group: &str) -> bool {
    !group.contains("kubeedge.io")
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn note(controller: &dyn Controller, cluster: &Cluster, event: &Event, queue: &mut Queue) {
    let key = &event.object.key;
    if controller.kind().is_of(key) {
        queue.add(Key::new(key.namespace.clone(), key.name.clone()));
        return;
    }
    let Some(kind) = controller.follows().iter().find(|kind| kind.is_of(key)) else {
        return;
    };
    let gone = event.kind == EventKind::Deleted;
    let change = Change {
        kind: *kind,
        before: event.previous.as_ref().and_then(|object| object.value().ok()),
        after: (!gone).then(|| event.object.value().ok()).flatten(),
    };
    for key in controller.concerned(&change, cluster) {
        queue.add(key);
    }
}
