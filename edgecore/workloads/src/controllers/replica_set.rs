//! ReplicaSet: so many pods of one template.

use std::pin::Pin;
use std::sync::Arc;

use http::StatusCode;
use metastore::api::{Status, selector_selects};
use serde_json::{Value, json};

use super::shared::{
    claim, condition, counts, create_pods, delete_pods, is_active, is_available, is_ready, is_terminating,
    next_available, number, owners_concerned, rank_for_deletion, remove_condition, set_condition, write_status,
};
use super::{Change, Controller, Reconciled};
use crate::cluster::{Cluster, Key, Kind, PODS, REPLICA_SETS};
use crate::events::Recorder;

const FAILURE: &str = "ReplicaFailure";
/// Most pods of one set: a gateway has room for far fewer, and a slip of the finger is not to fill its disk.
const MOST: usize = 1000;

/// The controller of ReplicaSets.
pub(crate) fn replica_set(cluster: Cluster, events: Recorder) -> Arc<dyn Controller> {
    Arc::new(ReplicaSets { cluster, events })
}

#[derive(Debug)]
struct ReplicaSets {
    cluster: Cluster,
    events: Recorder,
}

impl Controller for ReplicaSets {
    fn name(&self) -> &'static str {
        "replicaset-controller"
    }

    fn kind(&self) -> Kind {
        REPLICA_SETS
    }

    fn follows(&self) -> &'static [Kind] {
        &[PODS]
    }

    fn concerned(&self, change: &Change, cluster: &Cluster) -> Vec<Key> {
        owners_concerned(change, cluster, REPLICA_SETS)
    }

    fn reconcile<'a>(&'a self, key: &'a Key) -> Pin<Box<dyn Future<Output = Reconciled> + Send + 'a>> {
        Box::pin(self.look(key))
    }
}

impl ReplicaSets {
    async fn look(&self, key: &Key) -> Reconciled {
        let Some(set) = self.cluster.get(REPLICA_SETS, key)? else {
            return Ok(None);
        };
        let mut pods = self.cluster.list(PODS, Some(&key.namespace))?;
        pods.retain(is_active);
        let mut pods = claim(&self.cluster, PODS, &set, pods, |_| true).await?;
        let now = daemon::clock::wall_ms();
        let managed = if is_terminating(&set) {
            Ok(())
        } else {
            self.manage(&set, &mut pods, now).await
        };
        let status = status(&set, &pods, managed.as_ref().err(), now);
        write_status(&self.cluster, REPLICA_SETS, &set, status).await?;
        managed?;
        Ok(next_available(&pods, number(&set, "/spec/minReadySeconds"), now))
    }

    /// Makes the pods that are missing, or takes those away that are too many; `pods` are those that are left then.
    async fn manage(&self, set: &Value, pods: &mut Vec<Value>, now: u64) -> Result<(), Status> {
        let wanted = usize::try_from(number(set, "/spec/replicas")).unwrap_or(0);
        if pods.len() < wanted {
            let template = &set["spec"]["template"];
            create_pods(&self.cluster, &self.events, set, template, wanted.min(MOST), pods).await?;
        }
        if wanted > MOST && pods.len() < wanted {
            let why = format!("{wanted} replicas are wanted, a gateway makes at most {MOST} of one set");
            return Err(Status::new(StatusCode::FORBIDDEN, "Forbidden", why));
        }
        if pods.len() > wanted {
            rank_for_deletion(pods, now);
            let too_many: Vec<Value> = pods.drain(..pods.len() - wanted).collect();
            let deleted = delete_pods(&self.cluster, &self.events, set, &too_many).await;
            if deleted.is_err() {
                pods.extend(too_many);
            }
            return deleted;
        }
        Ok(())
    }
}

/// The status of a ReplicaSet with these pods, and what went wrong about them.
fn status(set: &Value, pods: &[Value], failed: Option<&Status>, now: u64) -> Value {
    let min_ready = number(set, "/spec/minReadySeconds");
    let template = json!({"matchLabels": set["spec"]["template"]["metadata"]["labels"]});
    let count = |counts: &dyn Fn(&Value) -> bool| i64::try_from(pods.iter().filter(|p| counts(p)).count()).unwrap_or(0);
    let replicas = count(&|_| true);
    let mut status = Value::Object(counts(&[
        ("observedGeneration", number(set, "/metadata/generation")),
        (
            "fullyLabeledReplicas",
            count(&|p| selector_selects(&template, p["metadata"].get("labels"))),
        ),
        ("readyReplicas", count(&is_ready)),
        ("availableReplicas", count(&|p| is_available(p, min_ready, now))),
    ]));
    status["replicas"] = replicas.into();
    if let Some(conditions) = set["status"].get("conditions") {
        status["conditions"] = conditions.clone();
    }
    match failed {
        None => remove_condition(&mut status, FAILURE),
        Some(_) if condition(&status, FAILURE).is_some() => {}
        Some(failed) => {
            let few = replicas < number(set, "/spec/replicas");
            let new = json!({
                "type": FAILURE,
                "status": "True",
                "lastTransitionTime": crate::time::stamp(now),
                "reason": if few { "FailedCreate" } else { "FailedDelete" },
                "message": failed.to_string(),
            });
            set_condition(&mut status, new);
        }
    }
    status
}

#[cfg(test)]
mod tests;
