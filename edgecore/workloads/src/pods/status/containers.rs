//! The statuses of containers.

use serde_json::{Value, json};

use super::super::memory::spoken;
use super::super::observed::{Seen, State, millis};
use super::super::plan::{Goal, Look, Plan, has_started, resources_of};
use super::Place;
use crate::pod::Container;

/// One of the three lists.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum List {
    Main,
    Init,
    Ephemeral,
}

impl List {
    const fn field(self) -> &'static str {
        match self {
            Self::Main => "containerStatuses",
            Self::Init => "initContainerStatuses",
            Self::Ephemeral => "ephemeralContainerStatuses",
        }
    }
}

/// All statuses of a list: init containers in their order, others by name.
pub(super) fn of(look: Look<'_>, plan: &Plan, place: &Place, list: List) -> Vec<Value> {
    let spec = &look.pod.spec;
    let containers = match list {
        List::Main => &spec.containers,
        List::Init => &spec.init_containers,
        List::Ephemeral => &spec.ephemeral_containers,
    };
    let old = look.pod.status[list.field()].as_array().map_or(&[][..], Vec::as_slice);
    let mut out: Vec<Value> = containers
        .iter()
        .map(|c| one(look, plan, place, list, c, super::find(old, &c.name)))
        .collect();
    if list != List::Init {
        out.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    }
    out
}

fn one(look: Look<'_>, plan: &Plan, place: &Place, list: List, container: &Container, old: &Value) -> Value {
    let name = container.name.as_str();
    // What is being started now, its hook included, is told when that is done. One that was only made is nothing yet: should it go again, it
    // never was.
    let starting = look.memory.busy.starts.contains(name);
    let told = |s: &&Seen| s.name == name && s.state != State::Created && !(starting && s.state == State::Running);
    let seen = look.observed.containers.iter().find(told);
    let mut status = match seen {
        Some(seen) => seen_status(look, place, container, seen, old),
        None => unseen_status(look, list, container, old),
    };
    wait(look, plan, list, container, seen, &mut status);
    if list != List::Ephemeral {
        probes(look, list, container, seen, &mut status);
    }
    more(look, container, old, &mut status);
    status
}

/// From the runtime's record.
fn seen_status(look: Look<'_>, place: &Place, container: &Container, seen: &Seen, old: &Value) -> Value {
    let same = id_in(old) == Some(seen.id.as_str());
    let state = match seen.state {
        State::Running => json!({"running": {"startedAt": stamp(seen.started)}}),
        State::Created => json!({"waiting": {"reason": waiting_reason(look)}}),
        State::Exited => json!({"terminated": told_end(old, seen, place)}),
        State::Unknown => json!({"terminated": lost("The container could not be located when the pod was terminated")}),
    };
    let mut earlier = look.observed.containers.iter().filter(|s| s.name == seen.name);
    let before = earlier.find(|s| s.attempt < seen.attempt);
    let last = match before {
        Some(before) if before.state == State::Exited => json!({"terminated": told_end(old, before, place)}),
        // The record is gone; the status remembers.
        _ if same => old["lastState"].clone(),
        _ if old["state"]["terminated"].is_object() => json!({"terminated": old["state"]["terminated"]}),
        _ => old["lastState"].clone(),
    };
    let mut out = json!({
        "name": container.name,
        "state": state,
        "lastState": if last.is_object() { last } else { json!({}) },
        "ready": false,
        "restartCount": seen.attempt,
        "image": if seen.image.is_empty() { container.image.as_str() } else { seen.image.as_str() },
        "imageID": seen.image_id,
        "containerID": shown_id(seen, place),
    });
    if let Some((uid, gid, groups)) = &seen.user {
        out["user"] = json!({"linux": {"uid": uid, "gid": gid}});
        if !groups.is_empty() {
            out["user"]["linux"]["supplementalGroups"] = json!(groups);
        }
    }
    out
}

/// The runtime has no record: as the status said, or waiting.
fn unseen_status(look: Look<'_>, list: List, container: &Container, old: &Value) -> Value {
    if old["state"]["terminated"].is_object() && !look.memory.busy.starts.contains(&container.name) {
        return old.clone();
    }
    let mut restarts = old["restartCount"].as_u64().unwrap_or(0);
    let mut last = old["lastState"].clone();
    if old["state"]["terminated"].is_object() {
        last = json!({"terminated": old["state"]["terminated"]});
    }
    if old["state"]["running"].is_object() && !last["terminated"].is_object() {
        let why = "The container could not be located when the pod was deleted.  The container used to be Running";
        last = json!({"terminated": lost(why)});
    }
    // With an id it counts the attempt that is lost; without, the next one already.
    restarts += u64::from(old["containerID"].is_string() && !look.pod.is_terminating());
    let initialized = look
        .pod
        .spec
        .containers
        .iter()
        .any(|c| look.observed.latest(&c.name).is_some());
    if list == List::Init && initialized && !container.is_sidecar() {
        let done = "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally";
        let state = json!({"terminated": {"reason": "Completed", "message": done, "exitCode": 0, "startedAt": null, "finishedAt": null}});
        return json!({"name": container.name, "state": state, "lastState": {}, "ready": true, "restartCount": restarts,
            "image": container.image, "imageID": ""});
    }
    json!({
        "name": container.name,
        "state": {"waiting": {"reason": waiting_reason(look)}},
        "lastState": if last.is_object() { last } else { json!({}) },
        "ready": false,
        "restartCount": restarts,
        "image": container.image,
        "imageID": "",
    })
}

fn waiting_reason(look: Look<'_>) -> &'static str {
    if look.pod.spec.init_containers.is_empty() {
        "ContainerCreating"
    } else {
        "PodInitializing"
    }
}

/// Why it waits, when it does: to be started again, or because it could not be.
fn wait(look: Look<'_>, plan: &Plan, list: List, container: &Container, seen: Option<&Seen>, status: &mut Value) {
    if plan.goal != Goal::Run || seen.is_some_and(Seen::may_run) {
        return;
    }
    let name = container.name.as_str();
    if list == List::Init && seen.is_some_and(Seen::succeeded) && !container.is_sidecar() {
        return;
    }
    let backing_off = plan.backing_off.iter().find(|(n, _)| n == name);
    let (reason, message) = if let Some((_, wait)) = backing_off {
        let pod = &look.pod.metadata;
        let message = format!(
            "back-off {} restarting failed container={name} pod={}_{}({})",
            spoken(*wait),
            pod.name,
            pod.namespace,
            pod.uid
        );
        ("CrashLoopBackOff", message)
    } else if let Some(refused) = look.memory.refused.get(name) {
        (refused.reason.as_str(), refused.message.clone())
    } else {
        return;
    };
    if status["state"]["terminated"].is_object() {
        status["lastState"] = status["state"].clone();
    }
    let mut waiting = json!({"reason": reason});
    if !message.is_empty() {
        waiting["message"] = message.into();
    }
    status["state"] = json!({ "waiting": waiting });
}

/// `started` and `ready`.
fn probes(look: Look<'_>, list: List, container: &Container, seen: Option<&Seen>, status: &mut Value) {
    let running = seen.filter(|_| status["state"]["running"].is_object());
    let started = running.is_some_and(|s| has_started(container, s, look.memory));
    status["started"] = started.into();
    status["ready"] = if list == List::Init && !container.is_sidecar() {
        (status["state"]["terminated"]["exitCode"] == 0).into()
    } else {
        let said = running.and_then(|s| look.memory.said(&s.id).readiness);
        (started && (container.readiness_probe.is_none() || said == Some(true))).into()
    };
}

/// What describes the container rather than what it does.
fn more(look: Look<'_>, container: &Container, old: &Value, status: &mut Value) {
    let same = id_in(old).is_some() && id_in(old) == id_in(status);
    let resized = id_in(status).is_some_and(|id| look.memory.resized.contains_key(id));
    let Some(status) = status.as_object_mut() else { return };
    // What it was given holds for as long as it is the same container, until it is resized.
    let kept: &[&str] = if resized {
        &["volumeMounts", "user"]
    } else {
        &["volumeMounts", "user", "resources", "allocatedResources"]
    };
    for field in kept {
        let keep = same || *field == "volumeMounts";
        if let Some(value) = old.get(*field).filter(|_| keep && !status.contains_key(*field)) {
            status.insert((*field).to_owned(), value.clone());
        }
    }
    if !status.contains_key("volumeMounts") && !container.volume_mounts.is_empty() {
        let mounts = container.volume_mounts.iter().map(|m| {
            let mut mount = json!({"name": m.name, "mountPath": m.mount_path});
            if m.read_only {
                mount["readOnly"] = true.into();
                // Asked for on a machine that cannot, the pod would not have begun.
                let below = m.recursive_read_only == "Enabled";
                mount["recursiveReadOnly"] = if below { "Enabled" } else { "Disabled" }.into();
            }
            mount
        });
        status.insert("volumeMounts".to_owned(), mounts.collect());
    }
    if !status.contains_key("resources") {
        status.insert("resources".to_owned(), resources_of(container));
        let requests = &container.resources.requests;
        if requests.is_empty() {
            status.remove("allocatedResources");
        } else {
            status.insert("allocatedResources".to_owned(), json!(requests));
        }
    }
}

/// A container's id as statuses have it.
fn shown_id(seen: &Seen, place: &Place) -> String {
    format!("{}://{}", place.runtime, seen.id)
}

/// The id in a status or an end, as the runtime has it.
fn id_in(told: &Value) -> Option<&str> {
    told["containerID"].as_str()?.split_once("://").map(|(_, id)| id)
}

/// An end as it was told first: what it was told from (a file, a log) may be gone by now.
fn told_end(old: &Value, seen: &Seen, place: &Place) -> Value {
    let mut ends = ["state", "lastState"]
        .map(|state| &old[state]["terminated"])
        .into_iter();
    ends.find(|end| id_in(end) == Some(seen.id.as_str()))
        .cloned()
        .unwrap_or_else(|| terminated(seen, place))
}

fn terminated(seen: &Seen, place: &Place) -> Value {
    let mut out = json!({
        "exitCode": seen.exit_code,
        "reason": match seen.reason.as_str() {
            "" if seen.exit_code == 0 => "Completed",
            "" => "Error",
            reason => reason,
        },
        "startedAt": stamp(seen.started),
        "finishedAt": stamp(seen.finished),
        "containerID": shown_id(seen, place),
    });
    if !seen.message.is_empty() {
        out["message"] = seen.message.as_str().into();
    }
    out
}

fn lost(message: &str) -> Value {
    json!({"exitCode": 137, "reason": "ContainerStatusUnknown", "message": message, "startedAt": null, "finishedAt": null})
}

/// Null for what never was.
fn stamp(nanos: i64) -> Value {
    if nanos <= 0 {
        Value::Null
    } else {
        crate::time::stamp(millis(nanos)).into()
    }
}
