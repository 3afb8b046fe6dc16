//! What may become of a pod: which changes of its desired state are allowed, at the pod and at its subresources, and which of its status.

use serde_json::{Map, Value, json};

use super::pod_spec::{self, Place};
use super::pods::qos_class;
use super::shared::{immutable, list, shown, whole, word};
use crate::api::status::Cause;

const NOT_MORE: &str = "pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to existing tolerations), `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Checks a change of the pod itself.
pub(super) fn check(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let (new, old) = (&new["spec"], &old["spec"]);
    for group in ["containers", "initContainers"] {
        let (now, then) = (list(new, group), list(old, group));
        if now.len() != then.len() {
            let why = "pod updates may not add or remove containers";
            causes.push(Cause::forbidden(format!("spec.{group}"), why));
            return;
        }
        for (i, container) in now.iter().enumerate() {
            let image = word(container, "image");
            if image.is_empty() {
                causes.push(Cause::required(format!("spec.{group}[{i}].image"), ""));
            } else if image.trim() != image {
                let why = "must not have leading or trailing whitespace";
                causes.push(Cause::invalid(
                    format!("spec.{group}[{i}].image"),
                    &format!("{image:?}"),
                    why,
                ));
            }
        }
    }
    let deadline = |spec: &Value| spec.get("activeDeadlineSeconds").and_then(Value::as_i64);
    let why = match (deadline(new), deadline(old)) {
        (Some(now), _) if !(0..=i64::from(i32::MAX)).contains(&now) => "must be between 0 and 2147483647, inclusive",
        (Some(now), Some(then)) if now > then => "must be less than or equal to previous value",
        (None, Some(_)) => "must not update from a positive integer to nil value",
        _ => "",
    };
    if !why.is_empty() {
        let value = shown(new.get("activeDeadlineSeconds"));
        causes.push(Cause::invalid("spec.activeDeadlineSeconds", &value, why));
        if deadline(new).is_some() {
            return;
        }
    }
    tolerations(list(new, "tolerations"), list(old, "tolerations"), causes);
    for (i, gate) in list(new, "schedulingGates").iter().enumerate() {
        if !list(old, "schedulingGates").contains(gate) {
            let why = format!(
                "only deletion is allowed, but found new scheduling gate '{}'",
                word(gate, "name")
            );
            causes.push(Cause::forbidden(format!("spec.schedulingGates[{i}].name"), &why));
        }
    }
    let (now, then) = (rest(new), rest(old));
    let grace = |spec: &Value| whole(spec, "/terminationGracePeriodSeconds");
    if grace(old) < 0 && grace(new) == 1 {
        if without_grace(now) == without_grace(then) {
            return;
        }
    } else if now == then {
        return;
    }
    let gated = !list(old, "schedulingGates").is_empty();
    if gated && placed(new, old, causes) {
        return;
    }
    causes.push(Cause::forbidden("spec", NOT_MORE));
}

/// The desired state without what may change.
fn rest(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Value::Object(map) = &mut spec {
        for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
            map.remove(field);
        }
        for group in ["containers", "initContainers"] {
            for c in map.get_mut(group).and_then(Value::as_array_mut).into_iter().flatten() {
                if let Value::Object(c) = c {
                    c.remove("image");
                }
            }
        }
    }
    spec
}

fn without_grace(mut spec: Value) -> Value {
    if let Value::Object(map) = &mut spec {
        map.remove("terminationGracePeriodSeconds");
    }
    spec
}

/// Where a pod that waits at a gate goes may be narrowed: labels of its node may be added. True when nothing else changed.
fn placed(new: &Value, old: &Value, causes: &mut Vec<Cause>) -> bool {
    let empty = Map::new();
    let labels = |spec: &'_ Value| spec.get("nodeSelector").and_then(Value::as_object).cloned();
    let (now, then) = (labels(new), labels(old));
    let kept = then
        .iter()
        .flatten()
        .all(|(k, v)| now.as_ref().unwrap_or(&empty).get(k) == Some(v));
    if now != then && !kept {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        causes.push(Cause::invalid(
            "spec.nodeSelector",
            &shown(new.get("nodeSelector")),
            why,
        ));
    }
    let plain = |spec: &Value| {
        let mut spec = rest(spec);
        if let Value::Object(map) = &mut spec {
            map.remove("nodeSelector");
            if let Some(Value::Object(affinity)) = map.get_mut("affinity") {
                affinity.remove("nodeAffinity");
            }
            if map.get("affinity") == Some(&json!({})) {
                map.remove("affinity");
            }
        }
        spec
    };
    plain(new) == plain(old)
}

fn tolerations(new: &[Value], old: &[Value], causes: &mut Vec<Cause>) {
    let timeless = |t: &Value| {
        let mut t = t.clone();
        if let Value::Object(map) = &mut t {
            map.remove("tolerationSeconds");
        }
        t
    };
    if old.iter().any(|o| !new.iter().any(|n| timeless(n) == timeless(o))) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        causes.push(Cause::forbidden("spec.tolerations", why));
        return;
    }
    // Real servers check them a second time here, and name what is wrong twice.
    pod_spec::tolerations(new, "spec.tolerations", causes);
}

/// `current` with the ephemeral containers of `new`.
pub(super) fn take_ephemeral_containers(current: &Value, mut new: Value) -> Value {
    let mut out = current.clone();
    if let Some(Value::Object(spec)) = out.get_mut("spec") {
        match new.pointer_mut("/spec/ephemeralContainers").map(Value::take) {
            Some(list) => spec.insert("ephemeralContainers".to_owned(), list),
            None => spec.remove("ephemeralContainers"),
        };
        pod_spec::complete(spec);
    }
    out
}

/// Checks a change at `ephemeralcontainers`: they may be added, and never changed or taken away.
pub(super) fn validate_ephemeral_containers(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let Some(old) = old else { return };
    pod_spec::check(new.get("spec"), "spec", &Place::Pod, causes);
    let containers = list(&new["spec"], "ephemeralContainers");
    for before in list(&old["spec"], "ephemeralContainers") {
        let name = word(before, "name");
        match containers.iter().find(|c| word(c, "name") == name) {
            None => {
                let why = format!("existing ephemeral containers {name:?} may not be removed\n");
                causes.push(Cause::forbidden("spec.ephemeralContainers", &why));
            }
            Some(after) if after != before => {
                let why = format!("existing ephemeral containers {name:?} may not be changed\n");
                causes.push(Cause::forbidden("spec.ephemeralContainers", &why));
            }
            Some(_) => {}
        }
    }
    for (i, container) in containers.iter().enumerate() {
        let target = word(container, "targetContainerName");
        let known = ["containers", "initContainers"]
            .iter()
            .any(|g| list(&new["spec"], g).iter().any(|c| word(c, "name") == target));
        if !target.is_empty() && !known {
            let field = format!("spec.ephemeralContainers[{i}].targetContainerName");
            causes.push(Cause::not_found(field, &format!("{target:?}")));
        }
    }
}

/// `current` with the resources of `new`; containers that were moved or renamed stay as they came, to be refused.
pub(super) fn take_resources(current: &Value, new: Value) -> Value {
    let names = |pod: &Value, group: &str| -> Vec<String> {
        let spec = pod.get("spec").unwrap_or(&Value::Null);
        list(spec, group).iter().map(|c| word(c, "name").to_owned()).collect()
    };
    let mut out = current.clone();
    for group in ["containers", "initContainers"] {
        let Some(wanted) = new.pointer(&format!("/spec/{group}")) else {
            continue;
        };
        let same = names(current, group) == names(&new, group);
        let Some(have) = out.pointer_mut(&format!("/spec/{group}")) else {
            continue;
        };
        if !same {
            *have = wanted.clone();
            continue;
        }
        let pairs = have
            .as_array_mut()
            .into_iter()
            .flatten()
            .zip(wanted.as_array().into_iter().flatten());
        for (container, wanted) in pairs {
            let Value::Object(container) = container else { continue };
            for field in ["resources", "resizePolicy"] {
                match wanted.get(field) {
                    Some(value) => container.insert(field.to_owned(), value.clone()),
                    None => container.remove(field),
                };
            }
        }
    }
    out
}

/// Checks a change at `resize`: only how much cpu and memory containers get.
pub(super) fn validate_resize(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let Some(old) = old else { return };
    if old
        .pointer("/metadata/annotations/kubernetes.io~1config.mirror")
        .is_some()
    {
        causes.push(Cause::forbidden("", "static pods cannot be resized"));
        return;
    }
    let (now, then) = (&new["spec"], &old["spec"]);
    for group in ["containers", "initContainers"] {
        let (containers, before) = (list(now, group), list(then, group));
        let names = |all: &[Value]| all.iter().map(|c| word(c, "name").to_owned()).collect::<Vec<_>>();
        if names(containers) != names(before) {
            let why = "containers may not be added, removed, renamed or reordered on resize";
            causes.push(Cause::forbidden("spec", why));
            return;
        }
    }
    pod_spec::check(Some(now), "spec", &Place::Pod, causes);
    if qos_class(new) != qos_class(old) {
        let why = "Pod QOS Class may not change as a result of resizing";
        causes.push(Cause::invalid("spec", &format!("{:?}", qos_class(new)), why));
    }
    let running = list(&old["status"], "containerStatuses")
        .iter()
        .find(|c| c.pointer("/state/running").is_some());
    if running.is_some_and(|c| c.get("resources").is_none()) {
        causes.push(Cause::forbidden(
            "spec",
            "Pod running on node without support for resize",
        ));
    }
    for group in ["containers", "initContainers"] {
        for (i, (now, then)) in list(now, group).iter().zip(list(then, group)).enumerate() {
            if now == then {
                continue;
            }
            if group == "initContainers" && word(then, "restartPolicy") != "Always" {
                let why = "resources for non-sidecar init containers are immutable";
                causes.push(Cause::forbidden("spec", why));
                continue;
            }
            resized(now, then, &format!("spec.{group}[{i}].resources"), causes);
        }
    }
}

fn resized(now: &Value, then: &Value, at: &str, causes: &mut Vec<Cause>) {
    let none = Map::new();
    let mut others = [now.clone(), then.clone()];
    for part in ["requests", "limits"] {
        let of = |c: &'_ Value| {
            c.pointer(&format!("/resources/{part}"))
                .and_then(Value::as_object)
                .cloned()
        };
        let (new, old) = (of(now).unwrap_or_default(), of(then).unwrap_or(none.clone()));
        if old.keys().any(|k| !new.contains_key(k)) {
            let why = format!("resource {part} cannot be removed");
            causes.push(Cause::forbidden(format!("{at}.{part}"), &why));
        }
        for other in &mut others {
            if let Some(Value::Object(map)) = other.pointer_mut(&format!("/resources/{part}")) {
                map.retain(|name, _| name != "cpu" && name != "memory");
                if map.is_empty()
                    && let Some(Value::Object(resources)) = other.get_mut("resources")
                {
                    resources.remove(part);
                }
            }
        }
    }
    if others[0] != others[1] {
        causes.push(Cause::forbidden("spec", "only cpu and memory resources are mutable"));
    }
}

/// Completes a status: what a kubelet may not take from a pod, and does not know.
pub(super) fn prepare_status(new: &mut Value, old: Option<&Value>, _now: &str) {
    let Some(old) = old else { return };
    if let Some(Value::Object(metadata)) = new.get_mut("metadata") {
        match old.pointer("/metadata/ownerReferences") {
            Some(owners) => metadata.insert("ownerReferences".to_owned(), owners.clone()),
            None => metadata.remove("ownerReferences"),
        };
    }
    if let (Some(Value::Object(status)), Some(class)) = (new.get_mut("status"), old.pointer("/status/qosClass")) {
        status.entry("qosClass".to_owned()).or_insert_with(|| class.clone());
    }
    // One address under two names: the older one counts.
    let ip = new.pointer("/status/podIP").cloned();
    let first = new.pointer("/status/podIPs/0/ip").cloned();
    if let Some(Value::Object(status)) = new.get_mut("status") {
        match (ip, first) {
            (Some(ip), first) if first.as_ref() != Some(&ip) => {
                status.insert("podIPs".to_owned(), json!([{"ip": ip}]));
            }
            (None, Some(first)) => {
                status.insert("podIP".to_owned(), first);
            }
            _ => {}
        }
    }
}

/// Checks a change of the status.
pub(super) fn validate_status(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let Some(old) = old else { return };
    immutable(new, old, "status.qosClass", causes);
    if whole(new, "/status/observedGeneration") < 0 {
        let value = shown(new.pointer("/status/observedGeneration"));
        let why = "must be a non-negative integer";
        causes.push(Cause::invalid("status.observedGeneration", &value, why));
    }
    let policy = old
        .pointer("/spec/restartPolicy")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let terminated = |c: &Value| c.pointer("/state/terminated").is_some();
    let none = Value::Null;
    let statuses = [old, new].map(|p| p.get("status").unwrap_or(&none));
    for (i, before) in list(statuses[0], "containerStatuses").iter().enumerate() {
        let failed = whole(before, "/state/terminated/exitCode") != 0;
        if !terminated(before) || policy == "Always" || (failed && policy == "OnFailure") {
            continue;
        }
        let name = word(before, "name");
        let again = |c: &&Value| word(c, "name") == name && !terminated(c);
        if list(statuses[1], "containerStatuses").iter().any(|c| again(&c)) {
            let field = format!("status.containerStatuses[{i}].state");
            causes.push(Cause::forbidden(
                field,
                "may not be transitioned to non-terminated state",
            ));
        }
    }
    for field in ["podIPs", "hostIPs"] {
        let ips = list(statuses[1], field);
        for (i, ip) in ips.iter().enumerate() {
            if word(ip, "ip").parse::<std::net::IpAddr>().is_err() {
                let value = format!("{:?}", word(ip, "ip"));
                causes.push(Cause::invalid(
                    format!("status.{field}[{i}]"),
                    &value,
                    "must be a valid IP address",
                ));
            }
        }
    }
}
