//! Making room: which pods of lower priority have to go for one of higher priority. The fewest and the least important. Pure.

use std::cmp::Reverse;

use serde_json::Value;

use super::super::look::{annotation, is_terminating, labels, name, namespace, selects, text};
use super::room::{Guest, Refusal, Room, World};

/// What preemption can do for a pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome<'p> {
    /// These go.
    Victims(Vec<&'p Value>),
    /// Those that go already are enough.
    Awaited(String),
    /// Nothing; said after why the pod did not fit.
    Useless(String),
}

/// Whether and how room can be made for a pod that was refused.
pub(super) fn preempt<'p>(
    room: &mut Room<'p>,
    guest: &Guest<'p>,
    refusal: &Refusal,
    budgets: &[Value],
    world: &dyn World,
) -> Outcome<'p> {
    let told = |why: &str| format!("preemption: {why}");
    if text(guest.pod, "/spec/preemptionPolicy") == "Never" {
        return Outcome::Useless(told("not eligible due to preemptionPolicy=Never."));
    }
    let leaving = |g: &&Guest<'_>| g.priority < guest.priority && is_terminating(g.pod);
    if !text(guest.pod, "/status/nominatedNodeName").is_empty() && room.guests.iter().any(|g| leaving(&g)) {
        let why = "not eligible due to a terminating pod on the nominated node.";
        return Outcome::Awaited(told(why));
    }
    let nowhere = |why: &str| told(&format!("0/1 nodes are available: 1 {why}."));
    if !refusal.room_helps {
        return Outcome::Useless(nowhere("Preemption is not helpful for scheduling"));
    }
    let all = std::mem::take(&mut room.guests);
    let (mut candidates, stays): (Vec<_>, Vec<_>) = all.iter().cloned().partition(|g| {
        // Who is started from a file comes back from it.
        g.priority < guest.priority && annotation(g.pod, "kubernetes.io/config.mirror").is_none()
    });
    if candidates.is_empty() {
        room.guests = all;
        return Outcome::Useless(nowhere("No preemption victims found for incoming pod"));
    }
    room.guests = stays;
    if let Err(still) = room.check(guest, world) {
        room.guests = all;
        return Outcome::Useless(told(&still.message()));
    }
    // The more important and those that ran longer stay if they can; before them those whose budget is used up.
    candidates.sort_by_key(|g| (Reverse(g.priority), text(g.pod, "/status/startTime"), name(g.pod)));
    let (over, within) = by_budget(candidates, budgets);
    let mut victims = Vec::new();
    for candidate in over.into_iter().chain(within) {
        let pod = candidate.pod;
        room.guests.push(candidate);
        if room.check(guest, world).is_err() {
            room.guests.pop();
            victims.push(pod);
        }
    }
    room.guests = all;
    Outcome::Victims(victims)
}

/// Those whose budget lets no more go, and the rest.
fn by_budget<'p>(candidates: Vec<Guest<'p>>, budgets: &[Value]) -> (Vec<Guest<'p>>, Vec<Guest<'p>>) {
    let mut left: Vec<i64> = budgets
        .iter()
        .map(|b| b["status"]["disruptionsAllowed"].as_i64().unwrap_or(0))
        .collect();
    candidates.into_iter().partition(|guest| {
        let mut over = false;
        for (budget, left) in budgets.iter().zip(&mut left) {
            let counts = namespace(budget) == namespace(guest.pod)
                && selects(&budget["spec"]["selector"], labels(guest.pod))
                && budget["status"]["disruptedPods"].get(name(guest.pod)).is_none();
            if counts {
                *left -= 1;
                over |= *left < 0;
            }
        }
        over
    })
}
