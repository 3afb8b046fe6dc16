//! StatefulSet: pods with names and volumes of their own, one after another.
//!
//! One look goes through the ordinals as far as the one that is not ready yet (with the policy `Parallel`: through all of them), then through
//! the pods beyond them, then replaces one pod of an older template. `identity` is what a pod of an ordinal is, `claims` its volumes.

mod claims;
mod identity;

use std::pin::Pin;
use std::sync::Arc;

use metastore::api::{DeleteOptions, Status};
use serde_json::Value;

use super::revisions::{self, Revisions};
use super::shared::{
    claim, counts, is_available, is_finished, is_ready, is_terminating, name, next_available, number, owners_concerned,
    share, text, uid, write_status,
};
use super::{Change, Controller, Reconciled};
use crate::cluster::{Cluster, Key, Kind, PERSISTENT_VOLUME_CLAIMS, PODS, STATEFUL_SETS};
use crate::events::{Recorder, Tone};
use identity::{REVISION, new_pod, ordinal};

/// Where a revision carries the word that its name ends with.
const HASH: &str = "controller.kubernetes.io/hash";
/// Most ordinals looked at; a gateway has no room for more pods.
const MOST: i64 = 1000;

/// The controller of StatefulSets.
pub(crate) fn stateful_set(cluster: Cluster, events: Recorder) -> Arc<dyn Controller> {
    Arc::new(StatefulSets { cluster, events })
}

#[derive(Debug)]
struct StatefulSets {
    cluster: Cluster,
    events: Recorder,
}

impl Controller for StatefulSets {
    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    fn kind(&self) -> Kind {
        STATEFUL_SETS
    }

    fn follows(&self) -> &'static [Kind] {
        &[PODS, PERSISTENT_VOLUME_CLAIMS]
    }

    fn concerned(&self, change: &Change, cluster: &Cluster) -> Vec<Key> {
        if change.kind == PODS {
            return owners_concerned(change, cluster, STATEFUL_SETS);
        }
        // A pod may wait for its predecessor's volume to go.
        if change.after.is_some() {
            return Vec::new();
        }
        let gone = change.object();
        let sets = cluster.list(STATEFUL_SETS, gone["metadata"]["namespace"].as_str());
        let sets = sets.unwrap_or_default();
        sets.iter()
            .filter(|set| claims::could_be_of(set, name(gone)))
            .map(Key::of)
            .collect()
    }

    fn reconcile<'a>(&'a self, key: &'a Key) -> Pin<Box<dyn Future<Output = Reconciled> + Send + 'a>> {
        Box::pin(self.look(key))
    }
}

impl StatefulSets {
    async fn look(&self, key: &Key) -> Reconciled {
        let Some(set) = self.cluster.get(STATEFUL_SETS, key)? else {
            return Ok(None);
        };
        let pods = self.cluster.list(PODS, Some(&key.namespace))?;
        let is_member = |pod: &Value| ordinal(&set, pod).is_some();
        let pods = claim(&self.cluster, PODS, &set, pods, is_member).await?;
        let collisions = set["status"]["collisionCount"].as_i64();
        let revisions = revisions::sync(&self.cluster, &set, HASH, Some(collisions.unwrap_or(0))).await?;
        let mut round = Round::new(self, set, &revisions, pods);
        let went = if is_terminating(&round.set) {
            Ok(())
        } else {
            round.go().await
        };
        let status = round.status(revisions.collisions);
        write_status(&self.cluster, STATEFUL_SETS, &round.set, status).await?;
        went?;
        round.forget(&revisions).await?;
        let pods = round.slots.iter().map(|slot| &slot.pod);
        Ok(next_available(
            pods,
            number(&round.set, "/spec/minReadySeconds"),
            round.now,
        ))
    }
}

/// The pod of an ordinal.
#[derive(Debug)]
struct Slot {
    pod: Value,
    /// False while it is only what is to be made.
    exists: bool,
}

/// A StatefulSet and its pods during one look.
struct Round<'a> {
    cluster: &'a Cluster,
    events: &'a Recorder,
    set: Value,
    /// Name of the revision that pods had before the newest.
    current: String,
    /// Name of the newest revision.
    update: String,
    /// The pods of all ordinals, by ordinal.
    slots: Vec<Slot>,
    /// Pods beyond, the highest ordinal first.
    condemned: Vec<Slot>,
    /// Milliseconds since 1970.
    now: u64,
}

/// What happens to a pod or a claim, for an Event.
struct Verb {
    word: &'static str,
    done: &'static str,
    failed: &'static str,
}

const CREATE: Verb = Verb {
    word: "create",
    done: "SuccessfulCreate",
    failed: "FailedCreate",
};
const UPDATE: Verb = Verb {
    word: "update",
    done: "SuccessfulUpdate",
    failed: "FailedUpdate",
};
const DELETE: Verb = Verb {
    word: "delete",
    done: "SuccessfulDelete",
    failed: "FailedDelete",
};

/// Whether to go on with the next pod.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Goes,
    Waits,
}

impl<'a> Round<'a> {
    fn new(of: &'a StatefulSets, set: Value, revisions: &Revisions, pods: Vec<Value>) -> Self {
        let newest = revisions.newest();
        let current = revisions.named(text(&set, "/status/currentRevision")).unwrap_or(newest);
        let (start, count) = (
            number(&set, "/spec/ordinals/start"),
            number(&set, "/spec/replicas").clamp(0, MOST),
        );
        let mut slots: Vec<Option<Value>> = Vec::new();
        slots.resize_with(usize::try_from(count).unwrap_or(0), || None);
        let mut condemned = Vec::new();
        for pod in pods {
            let at = ordinal(&set, &pod).and_then(|ordinal| usize::try_from(ordinal - start).ok());
            match at.and_then(|at| slots.get_mut(at)) {
                Some(slot) => *slot = Some(pod),
                None => condemned.push(Slot { pod, exists: true }),
            }
        }
        condemned.sort_by_cached_key(|slot| std::cmp::Reverse(ordinal(&set, &slot.pod)));
        let slots = (start..).zip(slots).map(|(ordinal, pod)| match pod {
            Some(pod) => Slot { pod, exists: true },
            None => {
                let revision = if is_before(&set, ordinal - start) {
                    current
                } else {
                    newest
                };
                let pod = new_pod(&set, &revisions::template(revision), name(revision), ordinal);
                Slot { pod, exists: false }
            }
        });
        Self {
            cluster: &of.cluster,
            events: &of.events,
            slots: slots.collect(),
            current: name(current).to_owned(),
            update: name(newest).to_owned(),
            condemned,
            set,
            now: daemon::clock::wall_ms(),
        }
    }

    /// Whether pods wait for each other.
    fn in_order(&self) -> bool {
        text(&self.set, "/spec/podManagementPolicy") != "Parallel"
    }

    async fn go(&mut self) -> Result<(), Status> {
        let in_order = self.in_order();
        let first = self.first_unavailable();
        for at in 0..self.slots.len() {
            if self.tend(at).await? == Next::Waits && in_order {
                return Ok(());
            }
        }
        for at in 0..self.condemned.len() {
            self.keep_claims(&self.condemned[at].pod).await?;
        }
        for at in 0..self.condemned.len() {
            if self.remove(at, first.as_deref()).await? == Next::Waits && in_order {
                return Ok(());
            }
        }
        if text(&self.set, "/spec/updateStrategy/type") == "OnDelete" {
            return Ok(());
        }
        self.replace().await
    }

    /// Brings the pod of an ordinal on.
    async fn tend(&mut self, at: usize) -> Result<Next, Status> {
        let in_order = self.in_order();
        let pod = &self.slots[at].pod;
        if !self.slots[at].exists {
            return self.create(at).await;
        }
        if is_finished(pod) {
            if !is_terminating(pod) {
                self.delete(pod).await?;
            }
            return Ok(Next::Waits);
        }
        if text(pod, "/status/phase") == "Pending" {
            self.create_claims(pod).await?;
            self.keep_claims(pod).await?;
        }
        let min_ready = number(&self.set, "/spec/minReadySeconds");
        let there = !is_terminating(pod) && is_running(pod) && is_available(pod, min_ready, self.now);
        if !there && in_order {
            return Ok(Next::Waits);
        }
        if self.keep_claims(pod).await? {
            self.tell(&UPDATE, name(pod), None);
        }
        self.keep_identity(at).await?;
        Ok(Next::Goes)
    }

    async fn create(&mut self, at: usize) -> Result<Next, Status> {
        let pod = &self.slots[at].pod;
        if self.has_old_claim(pod)? {
            return Ok(Next::Waits);
        }
        if let Err(e) = self.create_claims(pod).await {
            self.tell(&CREATE, name(pod), Some(&e));
            return Err(e);
        }
        match self.cluster.create(pod.clone()).await {
            Ok(made) => {
                self.slots[at] = Slot {
                    pod: made,
                    exists: true,
                };
                let pod = &self.slots[at].pod;
                self.keep_claims(pod).await?;
                self.tell(&CREATE, name(pod), None);
                Ok(Next::Waits)
            }
            Err(e) => {
                if e.reason != "AlreadyExists" {
                    self.tell(&CREATE, name(pod), Some(&e));
                }
                Err(e)
            }
        }
    }

    /// Takes a pod beyond the ordinals away, when no other one stands in the way. `first`: uid of the first pod that is not available.
    async fn remove(&mut self, at: usize, first: Option<&str>) -> Result<Next, Status> {
        let pod = &self.condemned[at].pod;
        if is_terminating(pod) {
            return Ok(Next::Waits);
        }
        let min_ready = number(&self.set, "/spec/minReadySeconds");
        let well = is_running(pod) && is_available(pod, min_ready, self.now);
        if self.in_order() && !well && first != Some(uid(pod)) {
            return Ok(Next::Waits);
        }
        self.delete(pod).await?;
        self.condemned[at].pod["metadata"]["deletionTimestamp"] = crate::time::stamp(self.now).into();
        Ok(Next::Waits)
    }

    /// Takes away pods of an older template, from the highest ordinal down to the partition; one at a time, or as many as may be missing.
    async fn replace(&mut self) -> Result<(), Status> {
        let rolling = &self.set["spec"]["updateStrategy"]["rollingUpdate"];
        let partition = usize::try_from(number(rolling, "/partition")).unwrap_or(0);
        let missing = self.slots.iter().filter(|slot| self.is_missing(&slot.pod)).count();
        let most = match &rolling["maxUnavailable"] {
            Value::Null => None,
            most => Some(share(most, number(&self.set, "/spec/replicas"), false).max(1)),
        };
        let mut left = match most {
            None => 1,
            Some(most) => usize::try_from(most).unwrap_or(1).saturating_sub(missing),
        };
        for at in (partition..self.slots.len()).rev() {
            if left == 0 {
                return Ok(());
            }
            let pod = &self.slots[at].pod;
            if revision_of(pod) != self.update && !is_terminating(pod) {
                self.delete(pod).await?;
                self.slots[at].pod["metadata"]["deletionTimestamp"] = crate::time::stamp(self.now).into();
                left -= 1;
            } else if most.is_none() && self.is_missing(pod) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn is_missing(&self, pod: &Value) -> bool {
        let min_ready = number(&self.set, "/spec/minReadySeconds");
        is_terminating(pod) || !is_available(pod, min_ready, self.now)
    }

    /// Uid of the first pod that is not available, from the lowest ordinal up, those beyond the ordinals after all others.
    fn first_unavailable(&self) -> Option<String> {
        let all = self.slots.iter().chain(self.condemned.iter().rev());
        let first = all.map(|slot| &slot.pod).find(|pod| self.is_missing(pod));
        first.map(|pod| uid(pod).to_owned())
    }

    async fn delete(&self, pod: &Value) -> Result<(), Status> {
        let options = DeleteOptions {
            uid: Some(uid(pod).to_owned()),
            ..DeleteOptions::default()
        };
        let deleted = self.cluster.delete(PODS, &Key::of(pod), &options).await;
        self.tell(&DELETE, name(pod), deleted.as_ref().err());
        deleted.map(drop)
    }

    fn tell(&self, verb: &Verb, pod: &str, failed: Option<&Status>) {
        let about = format!("{} Pod {pod} in StatefulSet {}", verb.word, name(&self.set));
        self.tell_of(verb, &about, "successful", failed);
    }

    fn tell_of(&self, verb: &Verb, about: &str, well: &str, failed: Option<&Status>) {
        let events = self.events;
        match failed {
            None => events.tell(&self.set, Tone::Normal, verb.done, format!("{about} {well}")),
            Some(e) => events.tell(
                &self.set,
                Tone::Warning,
                verb.failed,
                format!("{about} failed error: {e}"),
            ),
        }
    }

    fn status(&self, collisions: Option<i64>) -> Value {
        let min_ready = number(&self.set, "/spec/minReadySeconds");
        let pods: Vec<&Value> = self
            .slots
            .iter()
            .chain(&self.condemned)
            .filter(|s| s.exists)
            .map(|s| &s.pod)
            .collect();
        let count =
            |counts: &dyn Fn(&Value) -> bool| i64::try_from(pods.iter().filter(|pod| counts(pod)).count()).unwrap_or(0);
        let of = |revision: &str| count(&|pod| !is_terminating(pod) && revision_of(pod) == revision);
        let replicas = count(&|_| true);
        let (ready, updated) = (count(&is_running), of(&self.update));
        let (mut current, mut current_name) = (of(&self.current), &self.current);
        let wanted = number(&self.set, "/spec/replicas");
        let rolls = text(&self.set, "/spec/updateStrategy/type") == "RollingUpdate";
        if rolls && [updated, ready, replicas].iter().all(|count| *count == wanted) {
            (current, current_name) = (updated, &self.update);
        }
        let mut status = Value::Object(counts(&[
            ("observedGeneration", number(&self.set, "/metadata/generation")),
            ("readyReplicas", ready),
            ("currentReplicas", current),
            ("updatedReplicas", updated),
        ]));
        status["replicas"] = replicas.into();
        status["availableReplicas"] = count(&|pod| is_running(pod) && is_available(pod, min_ready, self.now)).into();
        status["currentRevision"] = current_name.as_str().into();
        status["updateRevision"] = self.update.as_str().into();
        status["collisionCount"] = collisions.unwrap_or(0).into();
        status
    }

    /// Deletes the oldest revisions that no pod has, beyond those that are to be kept.
    async fn forget(&self, revisions: &Revisions) -> Result<(), Status> {
        let Some(limit) = self.set["spec"]["revisionHistoryLimit"].as_u64() else {
            return Ok(());
        };
        let pods = self.slots.iter().chain(&self.condemned);
        let mut live: Vec<&str> = pods.map(|slot| revision_of(&slot.pod)).collect();
        live.extend([self.current.as_str(), self.update.as_str()]);
        let unneeded = || revisions.all.iter().filter(|r| !live.contains(&name(r)));
        let too_many = unneeded()
            .count()
            .saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        revisions::forget(self.cluster, unneeded(), too_many).await
    }
}

/// Whether a pod made now at this place is still one of the revision before the newest.
fn is_before(set: &Value, place: i64) -> bool {
    match &set["spec"]["updateStrategy"]["rollingUpdate"] {
        Value::Null => {
            text(set, "/spec/updateStrategy/type") == "RollingUpdate" && place < number(set, "/status/currentReplicas")
        }
        rolling => place < number(rolling, "/partition"),
    }
}

fn is_running(pod: &Value) -> bool {
    text(pod, "/status/phase") == "Running" && is_ready(pod)
}

/// Name of the revision that a pod was made of.
fn revision_of(pod: &Value) -> &str {
    pod["metadata"]["labels"]
        .get(REVISION)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
