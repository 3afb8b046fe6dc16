//! The conditions that the node sets.

use serde_json::{Value, json};

use super::super::memory::Verdict;
use super::super::plan::Look;
use super::{find, state};
use crate::pod::Container;

const OURS: [&str; 6] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "DisruptionTarget",
];

/// Whether a condition is the node's.
pub(super) fn is_ours(condition: &Value) -> bool {
    condition["type"].as_str().is_some_and(|ty| OURS.contains(&ty))
}

/// The conditions of others.
pub(super) fn foreign(status: &Value) -> impl Iterator<Item = &Value> {
    status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|c| !is_ours(c))
}

/// What a condition says: whether, why, in words.
struct Says {
    yes: bool,
    reason: &'static str,
    message: String,
}

const fn yes() -> Says {
    says(true, "", String::new())
}

const fn says(yes: bool, reason: &'static str, message: String) -> Says {
    Says { yes, reason, message }
}

/// All conditions, those of others first.
pub(super) fn of(look: Look<'_>, verdict: Option<&Verdict>, phase: &str, main: &[Value], init: &[Value]) -> Vec<Value> {
    let old = &look.pod.status;
    let mut out: Vec<Value> = foreign(old).cloned().collect();
    let previous = |ty: &str| old["conditions"].as_array()?.iter().find(|c| c["type"] == ty).cloned();
    if let Some(message) = verdict.and_then(|v| v.disruption.as_ref()) {
        let says = says(true, "TerminationByKubelet", message.clone());
        out.push(condition(
            "DisruptionTarget",
            says,
            previous("DisruptionTarget"),
            look.now,
        ));
    } else {
        out.extend(previous("DisruptionTarget"));
    }
    let sandbox = look.observed.current();
    let has_network = sandbox.is_some_and(|s| look.pod.spec.host_network || !s.ips.is_empty());
    let containers = containers_ready(look, phase, main, init);
    let ready = ready(look, &containers, &out);
    for (ty, says) in [
        ("PodReadyToStartContainers", says(has_network, "", String::new())),
        ("Initialized", initialized(look, phase, init)),
        ("Ready", ready),
        ("ContainersReady", containers),
        ("PodScheduled", yes()),
    ] {
        out.push(condition(ty, says, previous(ty), look.now));
    }
    out
}

fn condition(ty: &str, says: Says, previous: Option<Value>, now: u64) -> Value {
    let status = if says.yes { "True" } else { "False" };
    let same = previous.filter(|p| p["status"] == status);
    let since = same.and_then(|p| p["lastTransitionTime"].as_str().map(str::to_owned));
    let mut out = json!({
        "type": ty,
        "status": status,
        "lastProbeTime": null,
        "lastTransitionTime": since.unwrap_or_else(|| crate::time::stamp(now)),
    });
    if !says.reason.is_empty() {
        out["reason"] = says.reason.into();
    }
    if !says.message.is_empty() {
        out["message"] = says.message.into();
    }
    out
}

/// `[a b]`, as lists stand in messages.
fn listed(what: &str, names: &[&str]) -> Option<String> {
    (!names.is_empty()).then(|| format!("{what}: [{}]", names.join(" ")))
}

fn containers_ready(look: Look<'_>, phase: &str, main: &[Value], init: &[Value]) -> Says {
    match phase {
        "Succeeded" => return says(false, "PodCompleted", String::new()),
        "Failed" => return says(false, "PodFailed", String::new()),
        _ => {}
    }
    let spec = &look.pod.spec;
    let sidecars = spec
        .init_containers
        .iter()
        .filter(|c| c.is_sidecar())
        .map(|c| (c, init));
    let all = sidecars.chain(spec.containers.iter().map(|c| (c, main)));
    let unready: Vec<&str> = all
        .filter(|(c, list)| find(list, &c.name)["ready"] != true)
        .map(|(c, _)| c.name.as_str())
        .collect();
    match listed("containers with unready status", &unready) {
        None => yes(),
        Some(message) => says(false, "ContainersNotReady", message),
    }
}

fn ready(look: Look<'_>, containers: &Says, conditions: &[Value]) -> Says {
    if !containers.yes {
        return says(false, containers.reason, containers.message.clone());
    }
    let mut unready = Vec::new();
    for gate in &look.pod.spec.readiness_gates {
        let ty = &gate.condition_type;
        match conditions.iter().find(|c| c["type"] == ty.as_str()) {
            None => unready.push(format!(
                "corresponding condition of pod readiness gate {ty:?} does not exist."
            )),
            Some(c) if c["status"] != "True" => {
                let status = c["status"].as_str().unwrap_or_default();
                unready.push(format!(
                    "the status of pod readiness gate {ty:?} is not \"True\", but {status}"
                ));
            }
            Some(_) => {}
        }
    }
    if unready.is_empty() {
        yes()
    } else {
        says(false, "ReadinessGatesNotReady", unready.join(", "))
    }
}

fn initialized(look: Look<'_>, phase: &str, init: &[Value]) -> Says {
    if phase == "Succeeded" {
        return says(true, "PodCompleted", String::new());
    }
    let spec = &look.pod.spec;
    let started = |c: &Container| look.observed.latest(&c.name).is_some_and(|s| s.started > 0);
    if spec.containers.iter().any(started) {
        return yes();
    }
    let incomplete = |c: &&Container| {
        let status = find(init, &c.name);
        if c.is_sidecar() {
            status["started"] != true
        } else {
            state(status).0 != "terminated" || status["ready"] != true
        }
    };
    let names: Vec<&str> = spec
        .init_containers
        .iter()
        .filter(incomplete)
        .map(|c| c.name.as_str())
        .collect();
    match listed("containers with incomplete status", &names) {
        None => yes(),
        Some(message) => says(false, "ContainersNotInitialized", message),
    }
}
