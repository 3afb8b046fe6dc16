//! One controller at work: what changes in the store becomes keys, keys are looked at one after another.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use daemon::drain::Drain;
use metastore::api::Status;
use metastore::store::{Event, EventKind, Tapped};
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
    /// As it is called in logs and as the author of its writes.
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
    let mut tap = cluster.store().tap(|event| matters(&event.object.key.group));
    let mut queue = Queue::default();
    if let Err(e) = look_at_all(&*controller, &cluster, &mut queue) {
        tracing::warn!(controller = controller.name(), error = %e, "The objects cannot be listed.");
    }
    loop {
        while let Some(tapped) = tap.try_next() {
            match tapped {
                Tapped::Event(event) => note(&*controller, &cluster, &event, &mut queue),
                Tapped::Missed => {
                    if let Err(e) = look_at_all(&*controller, &cluster, &mut queue) {
                        tracing::warn!(controller = controller.name(), error = %e, "The objects cannot be listed.");
                    }
                }
                Tapped::Closed => return,
            }
        }
        if let Some(key) = queue.next(Instant::now()) {
            let looked = tokio::select! {
                biased;
                () = drain.stopping() => return,
                looked = controller.reconcile(&key) => looked,
            };
            match looked {
                Ok(again) => {
                    queue.done(&key);
                    if let Some(wait) = again {
                        queue.add_at(key, Instant::now() + wait);
                    }
                }
                Err(e) => {
                    tracing::debug!(controller = controller.name(), %key, error = %e, "A look failed.");
                    queue.failed(key, Instant::now());
                }
            }
            continue;
        }
        let due = queue.due();
        tokio::select! {
            biased;
            () = drain.stopping() => return,
            tapped = tap.next() => match tapped {
                Tapped::Event(event) => note(&*controller, &cluster, &event, &mut queue),
                Tapped::Missed => {
                    if let Err(e) = look_at_all(&*controller, &cluster, &mut queue) {
                        tracing::warn!(controller = controller.name(), error = %e, "The objects cannot be listed.");
                    }
                }
                Tapped::Closed => return,
            },
            () = sleep_until(due) => {}
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

fn look_at_all(controller: &dyn Controller, cluster: &Cluster, queue: &mut Queue) -> Result<(), Status> {
    for object in cluster.list(controller.kind(), None)? {
        queue.add(Key::of(&object));
    }
    Ok(())
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
