//! What a Deployment says of itself: counts, whether enough is available, whether a rollout goes on, is done or is stuck.

use std::time::Duration;

use serde_json::Value;

use super::sets::{available, bounds, replicas};
use super::{Reconciled, Rollout};
use crate::controllers::shared::{condition, counts, list, millis, name, number, remove_condition, set_condition};

const PROGRESSING: &str = "Progressing";
const FAILURE: &str = "ReplicaFailure";
const STUCK: &str = "ProgressDeadlineExceeded";
const DONE: &str = "NewReplicaSetAvailable";

impl Rollout<'_> {
    /// Writes the status without a judgement about progress.
    pub(super) async fn sync_status(mut self) -> Reconciled {
        let status = self.status();
        if self.deployment["status"] != status {
            self.deployment["status"] = status;
            self.write().await?;
        }
        Ok(None)
    }

    /// Writes the status of a rollout. When to look again for whether it is stuck.
    pub(super) async fn sync_rollout_status(mut self) -> Reconciled {
        let mut status = self.status();
        self.judge_progress(&mut status);
        match self.failure() {
            Some(failure) => set_condition(&mut status, failure),
            None => remove_condition(&mut status, FAILURE),
        }
        if self.deployment["status"] == status {
            return Ok(self.due());
        }
        self.deployment["status"] = status;
        // What follows from it is for the look that follows from it.
        self.write().await?;
        Ok(None)
    }

    /// Counts, and whether enough is available.
    fn status(&self) -> Value {
        let sum = |field: &str| self.sets.iter().map(|set| number(set, field)).sum::<i64>();
        let there: i64 = self.sets.iter().map(available).sum();
        let wanted: i64 = self.sets.iter().map(replicas).sum();
        let new = self.new.map(|at| number(&self.sets[at], "/status/replicas"));
        let mut status = Value::Object(counts(&[
            ("observedGeneration", number(&self.deployment, "/metadata/generation")),
            ("replicas", sum("/status/replicas")),
            ("updatedReplicas", new.unwrap_or(0)),
            ("readyReplicas", sum("/status/readyReplicas")),
            ("availableReplicas", there),
            ("unavailableReplicas", (wanted - there).max(0)),
        ]));
        for kept in ["collisionCount", "conditions"] {
            if let Some(value) = self.deployment["status"].get(kept) {
                status[kept] = value.clone();
            }
        }
        let enough = there >= self.replicas() - bounds(&self.deployment).1;
        let (is, reason, message) = if enough {
            (
                "True",
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.",
            )
        } else {
            (
                "False",
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.",
            )
        };
        set_condition(&mut status, self.condition("Available", is, reason, message));
        status
    }

    /// Whether a status says that all pods are new and available.
    pub(super) fn is_complete(&self, status: &Value) -> bool {
        let wanted = self.replicas();
        ["/updatedReplicas", "/replicas", "/availableReplicas"]
            .iter()
            .all(|count| number(status, count) == wanted)
            && number(status, "/observedGeneration") >= number(&self.deployment, "/metadata/generation")
    }

    /// Sets what a status says about progress, compared with the one before.
    fn judge_progress(&self, status: &mut Value) {
        if self.deadline().is_none() {
            remove_condition(status, PROGRESSING);
            return;
        }
        let before = condition(&self.deployment["status"], PROGRESSING);
        let was_done = before.is_some_and(|c| c["reason"] == DONE);
        if was_done && number(status, "/replicas") == number(status, "/updatedReplicas") {
            return;
        }
        let about = match self.new {
            Some(at) => format!("ReplicaSet {:?}", name(&self.sets[at])),
            None => format!("Deployment {:?}", name(&self.deployment)),
        };
        if self.is_complete(status) {
            let message = format!("{about} has successfully progressed.");
            set_condition(status, self.condition(PROGRESSING, "True", DONE, &message));
        } else if progressed(&self.deployment["status"], status) {
            let message = format!("{about} is progressing.");
            let mut new = self.condition(PROGRESSING, "True", "ReplicaSetUpdated", &message);
            if let Some(before) = before.filter(|c| c["status"] == "True") {
                new["lastTransitionTime"] = before["lastTransitionTime"].clone();
            }
            // Also for the same reason as before: its time says when there was progress last.
            remove_condition(status, PROGRESSING);
            set_condition(status, new);
        } else if self.is_stuck(status) {
            let message = format!("{about} has timed out progressing.");
            set_condition(status, self.condition(PROGRESSING, "False", STUCK, &message));
        }
    }

    fn is_stuck(&self, status: &Value) -> bool {
        let Some(said) = condition(status, PROGRESSING) else {
            return false;
        };
        said["reason"] == STUCK || (said["reason"] != DONE && self.until_stuck(said).is_some_and(|left| left < 0))
    }

    /// Milliseconds until there has been no progress for too long.
    fn until_stuck(&self, progressing: &Value) -> Option<i64> {
        let now = i64::try_from(self.now).unwrap_or(i64::MAX);
        let allowed = self.deadline()?.saturating_mul(1000);
        let left = millis(&progressing["lastUpdateTime"])?.saturating_add(allowed) - now;
        // Never longer than is allowed at all, for a clock that was set back.
        Some(left.min(allowed))
    }

    /// When to look whether a rollout that does not move is stuck; never for one that is done or said to be stuck already.
    fn due(&self) -> Option<Duration> {
        let said = condition(&self.deployment["status"], PROGRESSING)?;
        if self.is_complete(&self.deployment["status"]) || said["reason"] == STUCK || said["reason"] == DONE {
            return None;
        }
        let left = u64::try_from(self.until_stuck(said)?).unwrap_or(0);
        Some(Duration::from_millis(left) + Duration::from_secs(1))
    }

    /// Why pods cannot be made or taken away, as one of the sets says it, the new one before the others.
    fn failure(&self) -> Option<Value> {
        let new = self.new.map(|at| &self.sets[at]);
        let old = self.old().into_iter().map(|at| &self.sets[at]);
        let mut failures = new
            .into_iter()
            .chain(old)
            .flat_map(|set| list(set, "/status/conditions"))
            .filter(|c| c["type"] == FAILURE);
        let mut failure = failures.next()?.clone();
        failure["lastUpdateTime"] = failure["lastTransitionTime"].clone();
        Some(failure)
    }
}

/// Whether there is more of the new, or less of the old, than before.
fn progressed(before: &Value, after: &Value) -> bool {
    let more = |field: &str| number(after, field) > number(before, field);
    let old = |status: &Value| number(status, "/replicas") - number(status, "/updatedReplicas");
    more("/updatedReplicas") || old(after) < old(before) || more("/readyReplicas") || more("/availableReplicas")
}
