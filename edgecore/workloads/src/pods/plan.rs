//! What is to be done for a pod now: a function of what the store wants, what the runtime has, what is under way, and the time. No I/O.
//!
//! | the pod | what is done |
//! |---|---|
//! | wanted | a sandbox; init containers one after another, sidecars started and left running; then the main ones; what ended again by its restart policy |
//! | nothing in it will run again, or it must end | what runs is stopped (sidecars last, in reverse), sandboxes stopped, volumes taken away; records stay for `logs` |
//! | deleted | the same, then sandboxes and containers removed, then the object |
//!
//! One container is started at a time, in the order of the spec; stops go side by side. What is under way is never planned again, so that of no
//! container two instances run: a new attempt is planned only when the runtime says of every earlier one that it ended.

mod end;
mod run;

use serde_json::Value;

use super::memory::{Memory, Verdict};
use super::observed::{Observed, Seen, State};
use crate::pod::{Container, Pod};

/// Shortest time that a container has to end, in seconds.
pub(crate) const MIN_GRACE: u64 = 2;
/// Longest, in seconds: a hundred years. Runtimes count in nanoseconds, and more would not fit.
pub(crate) const MAX_GRACE: u64 = 100 * 365 * 86_400;

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) observed: &'a Observed,
    pub(crate) memory: &'a Memory,
    /// Milliseconds since 1970.
    pub(crate) now: u64,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Volumes made ready, then a sandbox.
    RunSandbox {
        attempt: u32,
    },
    /// Its network goes with it.
    StopSandbox {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    /// Image, container, start, hook.
    Start {
        name: String,
        attempt: u32,
        sandbox: String,
    },
    /// Hook, then signal, then by force when `deadline` (milliseconds since 1970) has come.
    Stop {
        id: String,
        name: String,
        deadline: u64,
        message: String,
    },
    /// Its log goes with it.
    RemoveContainer {
        id: String,
    },
    /// The limits of a running container change.
    Resize {
        id: String,
        name: String,
    },
    /// A start that waits for an image or a hook is given up.
    GiveUp {
        name: String,
    },
    /// Volumes are taken away.
    TearDown,
    /// Nothing is left of the pod: its object goes.
    Delete,
}

/// Whether the pod is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    Run,
    /// Nothing in it runs again; its records stay.
    End(Option<Verdict>),
    /// Nothing of it stays.
    Gone,
}

/// What is to be done, and when to look again though nothing happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) goal: Goal,
    pub(crate) actions: Vec<Action>,
    /// Milliseconds since 1970.
    pub(crate) wake_at: Option<u64>,
    /// Containers that wait before they are started again: name, how long in milliseconds.
    pub(crate) backing_off: Vec<(String, u64)>,
    /// Nothing of it runs, and nothing will.
    pub(crate) ended: bool,
}

impl Plan {
    const fn new(goal: Goal) -> Self {
        Self {
            goal,
            actions: Vec::new(),
            wake_at: None,
            backing_off: Vec::new(),
            ended: false,
        }
    }

    fn wake(&mut self, at: u64) {
        self.wake_at = Some(self.wake_at.map_or(at, |was| was.min(at)));
    }
}

/// Makes the plan.
pub(crate) fn plan(look: Look<'_>) -> Plan {
    let goal = goal(look);
    match goal {
        Goal::Run => run::plan(look),
        goal => end::plan(look, goal),
    }
}

fn goal(look: Look<'_>) -> Goal {
    let Look { pod, memory, now, .. } = look;
    if pod.is_terminating() {
        return Goal::Gone;
    }
    if let Some(verdict) = &memory.verdict {
        return Goal::End(Some(verdict.clone()));
    }
    if pod.is_finished() {
        return Goal::End(None);
    }
    if let Some(at) = deadline(pod)
        && now >= at
    {
        return Goal::End(Some(Verdict {
            reason: "DeadlineExceeded".to_owned(),
            message: "Pod was active on the node longer than the specified deadline".to_owned(),
            grace: None,
            disruption: None,
        }));
    }
    if run::is_over(look) {
        return Goal::End(None);
    }
    Goal::Run
}

/// When its active deadline passes, milliseconds since 1970.
pub(super) fn deadline(pod: &Pod) -> Option<u64> {
    let seconds = u64::try_from(pod.spec.active_deadline_seconds?).ok()?;
    let start = crate::pods::when(pod.status["startTime"].as_str()?)?;
    Some(start.saturating_add(seconds.saturating_mul(1000)))
}

/// What came of a container, by the runtime's records or, where those are lost, by the pod's status.
#[derive(Clone, Copy, Debug)]
pub(super) enum Past<'a> {
    /// It never ran.
    None,
    Seen(&'a Seen),
    /// The runtime forgot it; the status says that it ended with this code, or ran.
    Told(Option<i64>),
}

impl Past<'_> {
    pub(super) fn of<'a>(look: Look<'a>, name: &str) -> Past<'a> {
        if let Some(seen) = look.observed.latest(name) {
            return Past::Seen(seen);
        }
        let status = &status_of(look.pod, name);
        let state = &status["state"];
        if state["terminated"].is_object() {
            return Past::Told(state["terminated"]["exitCode"].as_i64());
        }
        if state["running"].is_object() {
            return Past::Told(None);
        }
        let last = &status["lastState"]["terminated"];
        if last.is_object() {
            return Past::Told(last["exitCode"].as_i64());
        }
        Past::None
    }
}

/// The status of one of its containers, null when there is none.
pub(super) fn status_of<'a>(pod: &'a Pod, name: &str) -> &'a Value {
    [
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ]
    .iter()
    .filter_map(|list| pod.status[list].as_array())
    .flatten()
    .find(|status| status["name"] == name)
    .unwrap_or(&Value::Null)
}

/// Which attempt the next one is.
fn next_attempt(look: Look<'_>, name: &str) -> u32 {
    let told = status_of(look.pod, name);
    let count = told["restartCount"]
        .as_u64()
        .and_then(|n| u32::try_from(n).ok())
        .unwrap_or(0);
    // With an id the count is that of an attempt that was made.
    let ran = told["containerID"].is_string();
    match look.observed.latest(name) {
        Some(seen) => seen.attempt.saturating_add(1),
        None if ran => count.saturating_add(1),
        None => count,
    }
}

/// Whether a container was made from another definition than the pod has now.
fn is_other(container: &Container, seen: &Seen) -> bool {
    !seen.hash.is_empty() && seen.hash != crate::setup::hash(container)
}

/// Whether a main container that ended so is started again.
fn restarts(pod: &Pod, code: Option<i64>) -> bool {
    match pod.spec.restart_policy.as_str() {
        "Never" => false,
        "OnFailure" => code != Some(0),
        _ => true,
    }
}

/// What a container may use, as its status tells it.
pub(super) fn resources_of(container: &Container) -> Value {
    let resources = &container.resources;
    let mut told = serde_json::Map::new();
    for (field, list) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        if !list.is_empty() {
            told.insert(field.to_owned(), serde_json::json!(list));
        }
    }
    told.into()
}

/// Whether a startup probe lets others go on and other probes begin.
pub(super) fn has_started(container: &Container, seen: &Seen, memory: &Memory) -> bool {
    seen.state == State::Running && (container.startup_probe.is_none() || memory.said(&seen.id).startup == Some(true))
}

#[cfg(test)]
mod tests;
