//! Gives pods that have no node this gateway's, as far as they want it and it has room for them, and says why where not.
//!
//! Owns `spec.nodeName` of pods whose scheduler is the default one, their condition `PodScheduled` and `status.nominatedNodeName`. Decides as the
//! default profile of a cluster's scheduler does where there is one node only: what is a preference there decides nothing here. One look is one
//! round over all pods that wait, the most important first; it keeps nothing between two.

mod affinity;
mod preempt;
mod requests;
mod room;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::pin::Pin;
use std::sync::Arc;

use metastore::api::{DeleteOptions, Status};
use serde_json::{Value, json};

use super::look::{is_finished, is_terminating, is_true, list, name, namespace, set_condition, text, uid};
use super::{Change, Controller, Reconciled};
use crate::cluster::{
    BUDGETS, Cluster, Key, Kind, NAMESPACES, NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS,
};
use crate::events::{Recorder, Tone};
pub(super) use affinity::wants_node;
use preempt::Outcome;
pub(super) use room::tolerates;
use room::{Guest, Room, World};

/// Who a pod names that names nobody.
pub(super) const NAME: &str = "default-scheduler";

/// Puts pods on the node of this name.
pub(crate) fn scheduler(cluster: Cluster, events: Recorder, node: &str) -> Arc<dyn Controller> {
    Arc::new(Scheduler {
        cluster,
        events,
        node: Key::new("", node),
    })
}

/// Why the node does not take a pod that somebody put on it by name, past this scheduler: reason and message of its status. `None`: it takes
/// it, or is not known well enough yet.
pub(crate) fn turns_away(cluster: &Cluster, node: &str, pod: &str) -> Option<(String, String)> {
    let pods = cluster.list(PODS, None).ok()?;
    let node = cluster.get(NODES, &Key::new("", node)).ok().flatten()?;
    let new = pods.iter().find(|p| uid(p) == pod)?;
    // Those that have begun, or that were given their place. Of two that come by name at once both are taken.
    let stays = |p: &&Value| {
        let begun = !text(p, "/status/startTime").is_empty() || is_true(p, "PodScheduled");
        begun && text(p, "/spec/nodeName") == name(&node) && !is_finished(p)
    };
    let others = pods.iter().filter(stays).filter(|p| uid(p) != pod);
    Room::new(&node, others.map(Guest::new).collect()).turns_away(&Guest::new(new))
}

struct Scheduler {
    cluster: Cluster,
    events: Recorder,
    node: Key,
}

impl Controller for Scheduler {
    fn name(&self) -> &'static str {
        "scheduler"
    }

    fn kind(&self) -> Kind {
        NODES
    }

    fn follows(&self) -> &'static [Kind] {
        &[PODS, PERSISTENT_VOLUME_CLAIMS]
    }

    fn concerned(&self, change: &Change, _: &Cluster) -> Vec<Key> {
        if change.kind == PODS && !may_decide_anew(change) {
            return Vec::new();
        }
        vec![self.node.clone()]
    }

    fn reconcile<'a>(&'a self, key: &'a Key) -> Pin<Box<dyn Future<Output = Reconciled> + Send + 'a>> {
        Box::pin(async move {
            if *key == self.node {
                self.round().await?;
            }
            Ok(None)
        })
    }
}

/// Whether a change of a pod gives one a chance that had none: one that waits came or became another, one that has a node left or became less.
fn may_decide_anew(change: &Change) -> bool {
    let Some(after) = &change.after else { return true };
    let Some(before) = &change.before else {
        return waits(after);
    };
    let same = |pointer: &str| before.pointer(pointer) == after.pointer(pointer);
    if text(before, "/spec/nodeName").is_empty() {
        // That it has a node now makes no room.
        return waits(after) && !(same("/spec") && same("/metadata/labels"));
    }
    (is_finished(after) && !is_finished(before))
        || !same("/spec")
        || !same("/metadata/labels")
        || (is_terminating(after) && !is_terminating(before))
}

/// Whether a pod is one that this scheduler has to find a node for.
fn waits(pod: &Value) -> bool {
    text(pod, "/spec/nodeName").is_empty()
        && matches!(text(pod, "/spec/schedulerName"), "" | NAME)
        && list(pod, "/spec/schedulingGates").is_empty()
        && !is_terminating(pod)
        && !is_finished(pod)
}

impl Scheduler {
    async fn round(&self) -> Result<(), Status> {
        let pods = self.cluster.list(PODS, None)?;
        let mut waiting: Vec<Guest<'_>> = pods.iter().filter(|p| waits(p)).map(Guest::new).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        waiting.sort_by_key(|g| {
            (
                Reverse(g.priority),
                text(g.pod, "/metadata/creationTimestamp"),
                name(g.pod),
            )
        });
        let Some(node) = self.cluster.get(NODES, &self.node)? else {
            for guest in &waiting {
                self.refuse(guest.pod, "no nodes available to schedule pods", None)
                    .await?;
            }
            return Ok(());
        };
        let here = |pod: &&Value| text(pod, "/spec/nodeName") == &*self.node.name && !is_finished(pod);
        let mut room = Room::new(&node, pods.iter().filter(here).map(Guest::new).collect());
        for guest in waiting {
            match room.check(&guest, &self.cluster) {
                Ok(()) => {
                    if self.bind(guest.pod).await? {
                        room.guests.push(guest);
                    }
                }
                Err(refusal) => {
                    let budgets = self.cluster.list(BUDGETS, None)?;
                    let outcome = preempt::preempt(&mut room, &guest, &refusal, &budgets, &self.cluster);
                    let mut message = refusal.message();
                    let mut nominated = None;
                    match outcome {
                        Outcome::Victims(victims) => {
                            nominated = Some(room.name().to_owned());
                            self.refuse(guest.pod, &message, nominated.as_deref()).await?;
                            for victim in victims {
                                self.evict(victim, guest.pod).await?;
                            }
                            // What is made free is for nobody of less importance.
                            room.guests.push(guest);
                            continue;
                        }
                        Outcome::Awaited(why) => {
                            nominated = Some(room.name().to_owned());
                            message = format!("{message} {why}");
                        }
                        Outcome::Useless(why) => message = format!("{message} {why}"),
                    }
                    self.refuse(guest.pod, &message, nominated.as_deref()).await?;
                    if nominated.is_some() {
                        room.guests.push(guest);
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives a pod the node. False when it is gone, or somebody else did.
    async fn bind(&self, pod: &Value) -> Result<bool, Status> {
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name(pod), "namespace": namespace(pod), "uid": uid(pod)},
            "target": {"kind": "Node", "name": &*self.node.name},
        });
        match self.cluster.act(PODS, &Key::of(pod), "binding", &binding).await {
            Ok(()) => {}
            Err(e) if e.code == 404 || e.code == 409 => return Ok(false),
            Err(e) => return Err(e),
        }
        let place = format!(
            "Successfully assigned {}/{} to {}",
            namespace(pod),
            name(pod),
            self.node.name
        );
        self.events.tell(pod, Tone::Normal, "Scheduled", place);
        Ok(true)
    }

    /// Says in a pod why it has no node, and tells it when that is new.
    async fn refuse(&self, pod: &Value, message: &str, nominated: Option<&str>) -> Result<(), Status> {
        let mut new = false;
        let condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": null,
            "lastTransitionTime": crate::time::now(),
        });
        let (key, id) = (Key::of(pod), uid(pod).to_owned());
        let said = self.cluster.modify_status(PODS, &key, |pod| {
            if uid(pod) != id || !waits(pod) {
                return Ok(());
            }
            new = set_condition(pod, &condition);
            match nominated {
                Some(node) => pod["status"]["nominatedNodeName"] = node.into(),
                None => {
                    if let Some(status) = pod["status"].as_object_mut() {
                        status.remove("nominatedNodeName");
                    }
                }
            }
            Ok(())
        });
        match said.await {
            Err(e) if e.code == 404 => return Ok(()),
            other => drop(other?),
        }
        if new {
            self.events.tell(pod, Tone::Warning, "FailedScheduling", message);
        }
        Ok(())
    }

    /// Makes a pod go for a more important one.
    async fn evict(&self, victim: &Value, preemptor: &Value) -> Result<(), Status> {
        if is_terminating(victim) {
            return Ok(());
        }
        let condition = json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": "default-scheduler: preempting to accommodate a higher priority pod",
            "lastProbeTime": null,
            "lastTransitionTime": crate::time::now(),
        });
        let key = Key::of(victim);
        let said = self.cluster.modify_status(PODS, &key, |pod| {
            // Another pod may have its name by now.
            if uid(pod) == uid(victim) {
                set_condition(pod, &condition);
            }
            Ok(())
        });
        match said.await {
            Err(e) if e.code == 404 => return Ok(()),
            other => drop(other?),
        }
        let options = DeleteOptions {
            uid: Some(uid(victim).to_owned()),
            ..DeleteOptions::default()
        };
        match self.cluster.delete(PODS, &key, &options).await {
            Err(e) if e.code == 409 => return Ok(()),
            other => drop(other?),
        }
        let by = format!("Preempted by pod {} on node {}", uid(preemptor), self.node.name);
        self.events.tell(victim, Tone::Normal, "Preempted", by);
        Ok(())
    }
}

impl World for Cluster {
    fn namespace(&self, name: &str) -> Option<Value> {
        self.get(NAMESPACES, &Key::new("", name)).ok().flatten()
    }

    fn claim(&self, namespace: &str, name: &str) -> Option<Value> {
        let key = Key::new(namespace, name);
        self.get(PERSISTENT_VOLUME_CLAIMS, &key).ok().flatten()
    }

    fn volume(&self, name: &str) -> Option<Value> {
        self.get(PERSISTENT_VOLUMES, &Key::new("", name)).ok().flatten()
    }
}
