//! A Pod's status: a function of what the store wants and said before, what the runtime has, and what is under way. Field by field as the kubelet
//! writes it, so that what reads it (controllers, Karmada, dashboards) finds what it expects. No I/O.
//!
//! What others write into the status (their conditions, `resize`, fields nobody here knows) stays.

mod conditions;
mod containers;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::memory::Verdict;
use super::plan::{Goal, Look, Plan};

/// What the status needs to know of the machine.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The node's addresses, the main one first.
    pub(crate) host_ips: Vec<String>,
    /// The runtime's name, which ids of containers begin with.
    pub(crate) runtime: Arc<str>,
}

/// The status as it should be stored.
pub(crate) fn status(look: Look<'_>, plan: &Plan, place: &Place) -> Value {
    let pod = look.pod;
    let old = &pod.status;
    let mut new = old.as_object().cloned().unwrap_or_default();
    let main = containers::of(look, plan, place, containers::List::Main);
    let init = containers::of(look, plan, place, containers::List::Init);
    let ephemeral = containers::of(look, plan, place, containers::List::Ephemeral);
    let verdict = match &plan.goal {
        Goal::End(verdict) => verdict.as_ref(),
        _ => look.memory.verdict.as_ref(),
    };
    let phase = phase(look, plan, verdict, &main, &init);
    // Reason and message belong to the phase.
    if phase != pod.phase() {
        new.remove("reason");
        new.remove("message");
    }
    if let Some(verdict) = verdict
        && phase == "Failed"
        && !pod.is_finished()
    {
        new.insert("reason".to_owned(), verdict.reason.as_str().into());
        new.insert("message".to_owned(), verdict.message.as_str().into());
    }
    new.insert("phase".to_owned(), phase.into());
    if !new.contains_key("startTime") {
        new.insert("startTime".to_owned(), crate::time::stamp(look.now).into());
    }
    addresses(look, place, &mut new);
    let conditions = conditions::of(look, verdict, phase, &main, &init);
    new.insert("conditions".to_owned(), conditions.into());
    for (field, list) in [
        ("containerStatuses", main),
        ("initContainerStatuses", init),
        ("ephemeralContainerStatuses", ephemeral),
    ] {
        if list.is_empty() {
            new.remove(field);
        } else {
            new.insert(field.to_owned(), list.into());
        }
    }
    Value::Object(new)
}

/// Puts a new status into the object as it is stored now: what others wrote meanwhile stays.
pub(crate) fn merge(stored: &mut Value, mut new: Value) {
    let foreign: Vec<Value> = conditions::foreign(&stored["status"]).cloned().collect();
    if let Some(list) = new["conditions"].as_array_mut() {
        list.retain(conditions::is_ours);
        list.splice(0..0, foreign);
    }
    if let Some(resize) = stored["status"].get("resize") {
        new["resize"] = resize.clone();
    }
    stored["status"] = new;
}

fn addresses(look: Look<'_>, place: &Place, new: &mut Map<String, Value>) {
    if let Some(host) = place.host_ips.first() {
        let all: Vec<Value> = place.host_ips.iter().map(|ip| json!({"ip": ip})).collect();
        new.insert("hostIP".to_owned(), host.as_str().into());
        new.insert("hostIPs".to_owned(), all.into());
    }
    let ready = look.observed.current();
    let ips: &[String] = match ready {
        Some(_) if look.pod.spec.host_network => &place.host_ips,
        Some(sandbox) => &sandbox.ips,
        // The address of what has ended is still worth knowing.
        None => return,
    };
    if let Some(first) = ips.first() {
        let all: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        new.insert("podIP".to_owned(), first.as_str().into());
        new.insert("podIPs".to_owned(), all.into());
    }
}

/// The state of one entry of a list of container statuses: `running`, `terminated`, `waiting`.
fn state(status: &Value) -> (&str, &Value) {
    let states = status["state"].as_object().and_then(|s| s.iter().next());
    states.map_or(("", &Value::Null), |(name, value)| (name.as_str(), value))
}

fn find<'a>(statuses: &'a [Value], name: &str) -> &'a Value {
    statuses.iter().find(|s| s["name"] == name).unwrap_or(&Value::Null)
}

fn phase(look: Look<'_>, plan: &Plan, verdict: Option<&Verdict>, main: &[Value], init: &[Value]) -> &'static str {
    let spec = &look.pod.spec;
    match look.pod.phase() {
        "Failed" => return "Failed",
        "Succeeded" => return "Succeeded",
        _ => {}
    }
    if verdict.is_some() && plan.ended {
        return "Failed";
    }
    let mut pending = false;
    let mut pending_sidecar = false;
    let mut failed_init = false;
    for container in spec.init_containers.iter().filter(|c| !c.is_sidecar()) {
        let status = find(init, &container.name);
        let last = &status["lastState"]["terminated"];
        match state(status) {
            ("terminated", end) => failed_init |= end["exitCode"] != 0,
            ("waiting", _) if last.is_object() => failed_init |= last["exitCode"] != 0,
            _ => pending = true,
        }
    }
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for container in spec.init_containers.iter().filter(|c| c.is_sidecar()) {
        let status = find(init, &container.name);
        match state(status) {
            ("running", _) => {
                pending_sidecar |= status["started"] != true;
                running += 1;
            }
            ("waiting", _) if !status["lastState"]["terminated"].is_object() => {
                pending_sidecar = true;
                waiting += 1;
            }
            _ => {}
        }
    }
    for container in &spec.containers {
        let status = find(main, &container.name);
        let last = &status["lastState"]["terminated"];
        match state(status) {
            ("running", _) => running += 1,
            ("terminated", end) => {
                stopped += 1;
                succeeded += u32::from(end["exitCode"] == 0);
            }
            _ if last.is_object() => stopped += 1,
            _ => waiting += 1,
        }
    }
    let initialized = |name: &str| look.observed.latest(name).is_some_and(|s| s.started > 0);
    let any_started = spec.containers.iter().any(|c| initialized(&c.name));
    if failed_init && spec.restart_policy == "Never" {
        return if plan.ended { "Failed" } else { "Pending" };
    }
    if pending || (pending_sidecar && !any_started) || waiting > 0 {
        return "Pending";
    }
    if running > 0 {
        return "Running";
    }
    if stopped == 0 {
        return "Pending";
    }
    // Deleted, or nothing in it runs again.
    let over = plan.ended && plan.goal != Goal::Run;
    let by_policy = match spec.restart_policy.as_str() {
        "Never" => true,
        "OnFailure" => stopped == succeeded,
        _ => false,
    };
    match (over, by_policy, stopped == succeeded) {
        (true, _, true) => "Succeeded",
        (true, _, false) => "Failed",
        // It ended, and what is left of it (a sidecar, a sandbox) still goes.
        (false, true, _) | (false, false, _) => "Running",
    }
}

#[cfg(test)]
mod tests;
