//! Deployment: one template after another, each a ReplicaSet, moved over as its strategy says.
//!
//! One look does one step of a rollout and writes what it sees; the ReplicaSets' own changes lead to the next. `sets` is the bookkeeping
//! between a Deployment and its ReplicaSets, `rollout` moves pods from the old to the new, `progress` is the status.

mod progress;
mod rollout;
mod sets;

use std::pin::Pin;
use std::sync::Arc;

use metastore::api::Status;
use serde_json::{Value, json};

use super::shared::{annotation, claim, controller_of, is_terminating, number, owners_concerned, same_object, text};
use super::{Change, Controller, Reconciled};
use crate::cluster::{Cluster, DEPLOYMENTS, Key, Kind, PODS, REPLICA_SETS};
use crate::events::Recorder;

const REVISION: &str = "deployment.kubernetes.io/revision";
const HASH: &str = "pod-template-hash";
/// What stands for no limit where one may be given.
const UNLIMITED: i64 = i32::MAX as i64;

/// The controller of Deployments.
pub(crate) fn deployment(cluster: Cluster, events: Recorder) -> Arc<dyn Controller> {
    Arc::new(Deployments { cluster, events })
}

#[derive(Debug)]
struct Deployments {
    cluster: Cluster,
    events: Recorder,
}

impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn kind(&self) -> Kind {
        DEPLOYMENTS
    }

    fn follows(&self) -> &'static [Kind] {
        &[REPLICA_SETS, PODS]
    }

    fn concerned(&self, change: &Change, cluster: &Cluster) -> Vec<Key> {
        if change.kind == REPLICA_SETS {
            return owners_concerned(change, cluster, DEPLOYMENTS);
        }
        // The last old pod makes way for the new ones; all else about pods is said by their ReplicaSets.
        let gone = change.before.as_ref().filter(|_| change.after.is_none());
        gone.and_then(|pod| recreates(pod, cluster)).into_iter().collect()
    }

    fn reconcile<'a>(&'a self, key: &'a Key) -> Pin<Box<dyn Future<Output = Reconciled> + Send + 'a>> {
        Box::pin(self.look(key))
    }
}

/// The Deployment of a pod, if its strategy is to have all old pods gone first.
fn recreates(pod: &Value, cluster: &Cluster) -> Option<Key> {
    let namespace = text(pod, "/metadata/namespace");
    let owner = |object: &Value, kind: Kind| {
        let controller = controller_of(object).filter(|o| o["kind"] == kind.kind)?;
        Some(Key::new(namespace, controller["name"].as_str()?))
    };
    let set = cluster.get(REPLICA_SETS, &owner(pod, REPLICA_SETS)?).ok()??;
    let key = owner(&set, DEPLOYMENTS)?;
    let deployment = cluster.get(DEPLOYMENTS, &key).ok()??;
    (deployment["spec"]["strategy"]["type"] == "Recreate").then_some(key)
}

impl Deployments {
    async fn look(&self, key: &Key) -> Reconciled {
        let Some(deployment) = self.cluster.get(DEPLOYMENTS, key)? else {
            return Ok(None);
        };
        let sets = self.cluster.list(REPLICA_SETS, Some(&key.namespace))?;
        let sets = claim(&self.cluster, REPLICA_SETS, &deployment, sets, |_| true).await?;
        let mut rollout = Rollout::new(self, deployment, sets);
        if is_terminating(&rollout.deployment) {
            rollout.sync_new(false).await?;
            return rollout.sync_status().await;
        }
        rollout.note_pause().await?;
        rollout.sync_new(false).await?;
        if rollout.is_paused() || rollout.is_scaled() {
            return rollout.resize().await;
        }
        match text(&rollout.deployment, "/spec/strategy/type") {
            "Recreate" => rollout.recreate().await,
            _ => rollout.roll().await,
        }
    }
}

/// A Deployment and its ReplicaSets during one look.
struct Rollout<'a> {
    cluster: &'a Cluster,
    events: &'a Recorder,
    /// Its status and revision as they were written last.
    deployment: Value,
    /// All of them, the oldest first.
    sets: Vec<Value>,
    /// Which of them has the Deployment's template.
    new: Option<usize>,
    /// Milliseconds since 1970.
    now: u64,
}

impl<'a> Rollout<'a> {
    fn new(of: &'a Deployments, deployment: Value, mut sets: Vec<Value>) -> Self {
        sets.sort_by_cached_key(sets::age);
        let new = sets::position(&deployment, &sets);
        Self {
            cluster: &of.cluster,
            events: &of.events,
            deployment,
            sets,
            new,
            now: daemon::clock::wall_ms(),
        }
    }

    /// How many pods are wanted.
    fn replicas(&self) -> i64 {
        number(&self.deployment, "/spec/replicas")
    }

    fn is_paused(&self) -> bool {
        self.deployment["spec"]["paused"] == true
    }

    /// The places of the sets whose template is an older one, the oldest first.
    fn old(&self) -> Vec<usize> {
        (0..self.sets.len()).filter(|at| Some(*at) != self.new).collect()
    }

    /// Those of them that are to have pods.
    fn active_old(&self) -> Vec<usize> {
        let mut old = self.old();
        old.retain(|at| sets::replicas(&self.sets[*at]) > 0);
        old
    }

    /// Seconds without progress after which a rollout is said to be stuck, where that is asked for.
    fn deadline(&self) -> Option<i64> {
        let seconds = self.deployment["spec"]["progressDeadlineSeconds"].as_i64();
        seconds.filter(|s| *s != UNLIMITED)
    }

    /// A condition of a Deployment's status, as of now.
    fn condition(&self, ty: &str, status: &str, reason: &str, message: &str) -> Value {
        let now = crate::time::stamp(self.now);
        json!({
            "type": ty,
            "status": status,
            "lastUpdateTime": now,
            "lastTransitionTime": now,
            "reason": reason,
            "message": message,
        })
    }

    /// Writes the status and the revision.
    async fn write(&self) -> Result<(), Status> {
        let looked_at = &self.deployment;
        let key = Key::of(looked_at);
        let written = self.cluster.modify_status(DEPLOYMENTS, &key, |current| {
            same_object(DEPLOYMENTS, looked_at, current)?;
            current["status"] = looked_at["status"].clone();
            if let Some(revision) = annotation(looked_at, REVISION) {
                super::shared::annotate(current, REVISION, revision);
            }
            Ok(())
        });
        written.await.map(drop)
    }
}

#[cfg(test)]
mod tests;
