//! The status of a Job: what has been counted.
//!
//! A pod is counted in two steps, so that an agent which is killed between any two lines loses none and counts none twice: its uid is written
//! to `uncountedTerminatedPods`; its finalizer is taken off; the uid becomes one more in `succeeded` or `failed`. Whose uid stands there and who
//! has no finalizer any more is one that is to be counted still. Of Jobs with indexes, the index itself says that a success has been counted.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::super::look::{list, text, whole};

/// A Job's status, typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) active: i64,
    pub(super) ready: i64,
    pub(super) terminating: i64,
    pub(super) succeeded: i64,
    pub(super) failed: i64,
    pub(super) completed_indexes: String,
    pub(super) failed_indexes: Option<String>,
    /// Uids of pods that are counted as soon as they are let go.
    pub(super) succeeding: Vec<String>,
    pub(super) failing: Vec<String>,
    pub(super) conditions: Vec<Value>,
    pub(super) start_time: Option<String>,
    pub(super) completion_time: Option<String>,
}

/// A condition that ends a Job or will: its type, reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) ty: &'static str,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Ending {
    pub(super) fn new(ty: &'static str, reason: &str, message: impl Into<String>) -> Self {
        Self {
            ty,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    /// The same reason under another type.
    pub(super) fn as_type(&self, ty: &'static str) -> Self {
        Self { ty, ..self.clone() }
    }

    pub(super) fn is_success(&self) -> bool {
        matches!(self.ty, "SuccessCriteriaMet" | "Complete")
    }
}

impl Tally {
    pub(super) fn read(job: &Value) -> Self {
        let count = |field: &str| whole(job, &format!("/status/{field}")).unwrap_or(0);
        let said = |field: &str| {
            let text = job.pointer(&format!("/status/{field}"))?.as_str()?;
            Some(text.to_owned())
        };
        let uids = |field: &str| -> Vec<String> {
            list(job, &format!("/status/uncountedTerminatedPods/{field}"))
                .iter()
                .filter_map(|uid| uid.as_str().map(str::to_owned))
                .collect()
        };
        Self {
            active: count("active"),
            ready: count("ready"),
            terminating: count("terminating"),
            succeeded: count("succeeded"),
            failed: count("failed"),
            completed_indexes: text(job, "/status/completedIndexes").to_owned(),
            failed_indexes: said("failedIndexes"),
            succeeding: uids("succeeded"),
            failing: uids("failed"),
            conditions: list(job, "/status/conditions").to_vec(),
            start_time: said("startTime"),
            completion_time: said("completionTime"),
        }
    }

    pub(super) fn write(&self) -> Value {
        let mut out = Map::new();
        for (field, count) in [
            ("active", self.active),
            ("succeeded", self.succeeded),
            ("failed", self.failed),
        ] {
            if count != 0 {
                out.insert(field.to_owned(), json!(count));
            }
        }
        out.insert("ready".to_owned(), json!(self.ready));
        out.insert("terminating".to_owned(), json!(self.terminating));
        let mut uncounted = Map::new();
        for (field, uids) in [("succeeded", &self.succeeding), ("failed", &self.failing)] {
            if !uids.is_empty() {
                uncounted.insert(field.to_owned(), json!(uids));
            }
        }
        out.insert("uncountedTerminatedPods".to_owned(), Value::Object(uncounted));
        if !self.completed_indexes.is_empty() {
            out.insert("completedIndexes".to_owned(), json!(self.completed_indexes));
        }
        if !self.conditions.is_empty() {
            out.insert("conditions".to_owned(), json!(self.conditions));
        }
        for (field, text) in [
            ("failedIndexes", &self.failed_indexes),
            ("startTime", &self.start_time),
            ("completionTime", &self.completion_time),
        ] {
            if let Some(text) = text {
                out.insert(field.to_owned(), json!(text));
            }
        }
        Value::Object(out)
    }

    /// A condition that is true.
    pub(super) fn holds(&self, ty: &str) -> Option<&Value> {
        self.conditions
            .iter()
            .find(|c| c["type"] == ty && c["status"] == "True")
    }

    /// Sets a condition. Whether anything changed; one that never was is not said to be false.
    pub(super) fn set(&mut self, ty: &str, status: &str, reason: &str, message: &str, now: &str) -> bool {
        let new = json!({
            "type": ty,
            "status": status,
            "lastProbeTime": now,
            "lastTransitionTime": now,
            "reason": reason,
            "message": message,
        });
        match self.conditions.iter_mut().find(|c| c["type"] == ty) {
            Some(old) if old["status"] == status && old["reason"] == reason && old["message"] == message => false,
            Some(old) => {
                *old = new;
                true
            }
            None if status == "False" => false,
            None => {
                self.conditions.push(new);
                true
            }
        }
    }

    /// Counts those pods whose uids stand here and which were let go: `held` are those that were not. Whether anything changed.
    pub(super) fn count_released(&mut self, held: &BTreeSet<String>) -> bool {
        let counted = |uids: &mut Vec<String>| {
            let before = uids.len();
            uids.retain(|uid| held.contains(uid));
            i64::try_from(before - uids.len()).unwrap_or(0)
        };
        let (succeeded, failed) = (counted(&mut self.succeeding), counted(&mut self.failing));
        self.succeeded += succeeded;
        self.failed += failed;
        succeeded + failed > 0
    }

    /// Pods that are let go but not counted.
    pub(super) fn uncounted(&self) -> usize {
        self.succeeding.len() + self.failing.len()
    }
}
