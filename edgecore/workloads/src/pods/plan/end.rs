//! The plan of a pod that ends.

use super::super::observed::{Sandbox, Seen, State};
use super::{Action, Goal, Look, MAX_GRACE, MIN_GRACE, Plan};
use crate::pod::Container;

pub(super) fn plan(look: Look<'_>, goal: Goal) -> Plan {
    let Look {
        pod, observed, memory, ..
    } = look;
    let gone = goal == Goal::Gone;
    let mut plan = Plan::new(goal);
    for name in &memory.busy.starts {
        plan.actions.push(Action::GiveUp { name: name.clone() });
    }
    let deadline = deadline(look, &plan.goal);
    for seen in observed.containers.iter().filter(|c| c.may_run()) {
        // One that is being stopped already can only be given less time.
        let slow = memory
            .busy
            .stops
            .get(&seen.id)
            .is_some_and(|until| *until > deadline.saturating_add(1000));
        if (slow || !memory.busy.ids.contains(&seen.id)) && is_its_turn(look, seen) {
            plan.actions.push(Action::Stop {
                id: seen.id.clone(),
                name: seen.name.clone(),
                deadline,
                message: format!("Stopping container {}", seen.name),
            });
        }
    }
    let settled = memory.busy.starts.is_empty() && !memory.busy.sandbox;
    plan.ended = settled && !observed.containers.iter().any(Seen::may_run);
    if !plan.ended || sandboxes(look, gone, &mut plan) {
        return plan;
    }
    if !memory.torn_down {
        if !memory.busy.volumes {
            plan.actions.push(Action::TearDown);
        }
    } else if gone && observed.is_empty() && pod.is_terminating() {
        plan.actions.push(Action::Delete);
    }
    plan
}

/// Stops sandboxes and, when nothing is to stay, removes everything. Whether there is something left to wait for.
fn sandboxes(look: Look<'_>, gone: bool, plan: &mut Plan) -> bool {
    let Look { observed, memory, .. } = look;
    let mut waits = false;
    for sandbox in &observed.sandboxes {
        let id = sandbox.id.clone();
        let stopped = memory.stopped.contains(&id) && !sandbox.ready;
        let busy = memory.busy.ids.contains(&id);
        waits |= !stopped || busy || gone;
        if busy {
            continue;
        }
        if !stopped {
            plan.actions.push(Action::StopSandbox { id });
        } else if gone {
            plan.actions.push(Action::RemoveSandbox { id });
        }
    }
    for seen in &observed.containers {
        // A container goes with its sandbox, unless that vanished; one that never started tells nobody anything.
        let homeless = !observed.sandboxes.iter().any(|s: &Sandbox| s.id == seen.sandbox);
        if (gone && homeless) || (!gone && seen.state == State::Created) {
            waits |= gone;
            if !memory.busy.ids.contains(&seen.id) {
                plan.actions.push(Action::RemoveContainer { id: seen.id.clone() });
            }
        }
    }
    waits
}

/// When the pod's time is up, milliseconds since 1970. It has at least a moment, also when the clock jumped.
fn deadline(look: Look<'_>, goal: &Goal) -> u64 {
    let Look { pod, memory, now, .. } = look;
    let own = pod.spec.termination_grace_period_seconds.unwrap_or(30);
    let (grace, until) = match goal {
        Goal::Gone => {
            let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(own);
            let at = pod.metadata.deletion_timestamp.as_deref().and_then(crate::pods::when);
            (grace, at.unwrap_or(now))
        }
        Goal::End(verdict) => {
            let grace = verdict.as_ref().and_then(|v| v.grace).unwrap_or(own);
            let since = memory.ending_since.unwrap_or(now);
            (grace, since.saturating_add(ms(grace)))
        }
        Goal::Run => (own, now),
    };
    let least = MIN_GRACE * 1000;
    until.clamp(now.saturating_add(least), now.saturating_add(ms(grace).max(least)))
}

fn ms(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).min(MAX_GRACE) * 1000
}

/// Whether it is a container's turn to end: sidecars end after the main containers, the last first.
fn is_its_turn(look: Look<'_>, seen: &Seen) -> bool {
    let init = &look.pod.spec.init_containers;
    let place = |name: &str| init.iter().position(|c: &Container| c.is_sidecar() && c.name == name);
    let Some(at) = place(&seen.name) else { return true };
    let later = |c: &&Seen| c.may_run() && place(&c.name).is_none_or(|other| other > at);
    !look.observed.containers.iter().any(|c| later(&c))
}
