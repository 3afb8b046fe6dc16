//! Pods.

use serde_json::{Map, Value, json};

use super::shared::{default_to, part, word_or_none};
use super::{computed, fields, row};
use crate::api::kinds::{Action, KindSpec, StatusPart};
use crate::api::names;
use crate::api::status::Cause;
use crate::api::table::Column;

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![pod()]
}

fn pod() -> KindSpec {
    KindSpec {
        categories: vec!["all".into()],
        status: StatusPart::Apart,
        generation: true,
        prepare: Some(prepare_pod),
        validate: Some(validate_pod),
        columns: vec![
            Column::name(),
            computed(
                "Ready",
                "string",
                "The aggregate readiness state of this pod for accepting traffic.",
                pod_ready,
            ),
            computed(
                "Status",
                "string",
                "The aggregate status of the containers in this pod.",
                pod_status,
            ),
            computed(
                "Restarts",
                "string",
                "The number of times the containers in this pod have been restarted.",
                pod_restarts,
            ),
            Column::age(),
            computed("IP", "string", "The address of the pod.", |p| {
                word_or_none(p, "/status/podIP")
            })
            .wide(),
            computed("Node", "string", "The node it runs on.", |p| {
                word_or_none(p, "/spec/nodeName")
            })
            .wide(),
        ],
        fields: fields(&[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ]),
        actions: vec![Action {
            name: "binding",
            kind: "Binding",
            act: bind_pod,
        }],
        ..row("", "core", "Pod", &["po"])
    }
}

fn prepare_pod(new: &mut Value, old: Option<&Value>, _now: &str) {
    if let Some(spec) = part(new, "spec") {
        complete_pod_spec(spec);
    }
    if old.is_none() {
        let class = qos_class(new);
        if let Value::Object(map) = new {
            map.insert("status".to_owned(), json!({"phase": "Pending", "qosClass": class}));
        }
    }
}

/// The defaults that depend on other fields; the fixed ones stand in the table of types.
pub(super) fn complete_pod_spec(spec: &mut Map<String, Value>) {
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        let Some(Value::Array(containers)) = spec.get_mut(list) else {
            continue;
        };
        for container in containers {
            let Value::Object(container) = container else { continue };
            let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
            if !image.is_empty() {
                let policy = if is_latest(image) { "Always" } else { "IfNotPresent" };
                default_to(container, "imagePullPolicy", json!(policy));
            }
        }
    }
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        default_to(spec, "serviceAccount", account);
    }
}

/// Whether an image names no tag, or `latest`.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn qos_class(pod: &Value) -> &'static str {
    let mut any = false;
    let mut full = true;
    for container in pod
        .pointer("/spec/containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let part = |name: &str| {
            container
                .pointer(&format!("/resources/{name}"))
                .and_then(Value::as_object)
        };
        let (limits, requests) = (part("limits"), part("requests"));
        any |= limits.is_some_and(|l| !l.is_empty()) || requests.is_some_and(|r| !r.is_empty());
        full &= ["cpu", "memory"].iter().all(|r| {
            let limit = limits.and_then(|l| l.get(*r));
            limit.is_some() && requests.and_then(|q| q.get(*r)).is_none_or(|q| Some(q) == limit)
        });
    }
    match (any, full) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn validate_pod(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    check_pod_spec(new.get("spec"), "spec", causes);
    if let Some(old) = old
        && causes.is_empty()
    {
        let fixed = |pod: &Value| {
            let mut spec = pod.get("spec").cloned().unwrap_or(Value::Null);
            if let Value::Object(map) = &mut spec {
                for field in [
                    "activeDeadlineSeconds",
                    "tolerations",
                    "terminationGracePeriodSeconds",
                    "schedulingGates",
                ] {
                    map.remove(field);
                }
                for list in ["containers", "initContainers"] {
                    for c in map.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                        if let Value::Object(c) = c {
                            c.remove("image");
                        }
                    }
                }
            }
            spec
        };
        if fixed(new) != fixed(old) {
            causes.push(Cause::forbidden(
                "spec",
                "pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions) or `spec.terminationGracePeriodSeconds`",
            ));
        }
    }
}

pub(super) fn check_pod_spec(spec: Option<&Value>, at: &str, causes: &mut Vec<Cause>) {
    let list = |name: &str| spec.and_then(|s| s.get(name)).and_then(Value::as_array);
    if list("containers").is_none_or(Vec::is_empty) {
        causes.push(Cause::required(format!("{at}.containers"), ""));
    }
    for group in ["containers", "initContainers"] {
        let mut seen = std::collections::BTreeSet::new();
        for (i, container) in list(group).into_iter().flatten().enumerate() {
            let word = |f: &str| container.get(f).and_then(Value::as_str).unwrap_or_default();
            let name = word("name");
            let at = format!("{at}.{group}[{i}]");
            if name.is_empty() {
                causes.push(Cause::required(format!("{at}.name"), ""));
            } else if !names::is_label(name) {
                let why = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'";
                causes.push(Cause::invalid(format!("{at}.name"), &format!("{name:?}"), why));
            } else if !seen.insert(name) {
                causes.push(Cause::duplicate(format!("{at}.name"), &format!("{name:?}")));
            }
            if word("image").is_empty() {
                causes.push(Cause::required(format!("{at}.image"), ""));
            }
        }
    }
}

fn bind_pod(pod: &mut Value, binding: &Value, now: &str) -> Result<(), String> {
    let node = binding
        .pointer("/target/name")
        .and_then(Value::as_str)
        .filter(|n| !n.is_empty())
        .ok_or("the binding names no node")?
        .to_owned();
    let name = pod
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if let Some(there) = pod
        .pointer("/spec/nodeName")
        .and_then(Value::as_str)
        .filter(|n| !n.is_empty())
    {
        return Err(format!("pod {name} is already assigned to node {there:?}"));
    }
    if let Some(spec) = part(pod, "spec") {
        spec.insert("nodeName".to_owned(), json!(node));
    }
    if let Some(status) = part(pod, "status") {
        let conditions = status
            .entry("conditions".to_owned())
            .or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = conditions {
            list.retain(|c| c.get("type") != Some(&json!("PodScheduled")));
            list.push(json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now}));
        }
    }
    Ok(())
}

fn container_statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    pod.pointer("/status/containerStatuses")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn pod_ready(pod: &Value) -> Value {
    let total = pod
        .pointer("/spec/containers")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    let ready = container_statuses(pod)
        .filter(|s| s.get("ready") == Some(&Value::Bool(true)))
        .count();
    json!(format!("{ready}/{total}"))
}

fn pod_status(pod: &Value) -> Value {
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        return json!("Terminating");
    }
    let waiting = container_statuses(pod).find_map(|s| {
        s.pointer("/state/waiting/reason")
            .or_else(|| s.pointer("/state/terminated/reason"))
    });
    waiting
        .or_else(|| pod.pointer("/status/reason"))
        .or_else(|| pod.pointer("/status/phase"))
        .cloned()
        .unwrap_or_else(|| json!("Unknown"))
}

fn pod_restarts(pod: &Value) -> Value {
    let sum: i64 = container_statuses(pod)
        .filter_map(|s| s.get("restartCount").and_then(Value::as_i64))
        .fold(0, i64::saturating_add);
    json!(sum.to_string())
}
