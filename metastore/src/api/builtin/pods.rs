//! Pods: their row, how they begin, how long they may take to end, and what is done to them. What a pod may be stands in `pod_spec`, what may
//! become of it in `pod_update`, how it is printed in `pod_cells`.

use serde_json::{Map, Value, json};

use super::pod_cells as cells;
use super::pod_spec::{self, Place};
use super::pod_update;
use super::shared::{default_to, list, part, whole, word, word_at, word_or_none};
use super::{computed, fields, row, timed};
use crate::api::connect;
use crate::api::kinds::{Act, Action, Deletion, KindSpec, Special, StatusPart, SubPart};
use crate::api::schema::quantity;
use crate::api::status::Cause;
use crate::api::table::Column;

/// How long a pod stays on a node that is not there, when it does not say.
const TOLERATED_SECONDS: i64 = 300;

const PARTS: &[SubPart] = &[
    SubPart {
        name: "ephemeralcontainers",
        take: pod_update::take_ephemeral_containers,
        validate: pod_update::validate_ephemeral_containers,
    },
    SubPart {
        name: "resize",
        take: pod_update::take_resources,
        validate: pod_update::validate_resize,
    },
];

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![pod()]
}

fn pod() -> KindSpec {
    KindSpec {
        categories: vec!["all".into()],
        status: StatusPart::Apart,
        generation: true,
        prepare: Some(prepare),
        validate: Some(validate),
        deletion: Deletion::Graceful(grace),
        columns: vec![
            Column::name(),
            computed(
                "Ready",
                "string",
                "How many containers are ready, of how many.",
                cells::ready,
            ),
            computed("Status", "string", "What the containers do.", cells::status),
            timed(
                "Restarts",
                "How often containers were restarted, and when last.",
                cells::restarts,
            ),
            Column::age(),
            computed("IP", "string", "The address of the pod.", |p| {
                word_or_none(p, "/status/podIPs/0/ip")
            })
            .wide(),
            computed("Node", "string", "The node it runs on.", |p| {
                word_or_none(p, "/spec/nodeName")
            })
            .wide(),
            computed(
                "Nominated Node",
                "string",
                "The node that is being freed for it.",
                |p| word_or_none(p, "/status/nominatedNodeName"),
            )
            .wide(),
            computed(
                "Readiness Gates",
                "string",
                "How many conditions for being ready are met.",
                cells::gates,
            )
            .wide(),
        ],
        fields: fields(&[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork=false",
            "status.phase",
            "status.podIP",
            "status.podIPs@status.podIPs.none",
            "status.nominatedNodeName",
        ]),
        actions: vec![
            Action {
                name: "binding",
                kind: "Binding",
                of: None,
                act: Act::Change(bind),
            },
            Action {
                name: "eviction",
                kind: "Eviction",
                of: Some(("policy", "v1")),
                act: Act::Delete(evict),
            },
        ],
        special: Special {
            prepare_status: Some(pod_update::prepare_status),
            validate_status: Some(pod_update::validate_status),
            parts: PARTS,
            connects: connect::OF_PODS,
            returns_deleted: true,
            ..Special::default()
        },
        ..row("", "core", "Pod", &["po"])
    }
}

fn prepare(new: &mut Value, old: Option<&Value>, now: &str) {
    let Some(spec) = part(new, "spec") else { return };
    pod_spec::complete(spec);
    complete(spec);
    if old.is_some() {
        return;
    }
    admit(spec);
    let class = qos_class(new);
    let gated = !list(&new["spec"], "schedulingGates").is_empty();
    let mut status = json!({"phase": "Pending", "qosClass": class});
    if gated {
        status["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates", "lastProbeTime": null, "lastTransitionTime": now}]);
    }
    if let Value::Object(map) = new {
        map.insert("status".to_owned(), status);
    }
}

/// What only a pod gets, not the template of one.
fn complete(spec: &mut Map<String, Value>) {
    let host = spec.get("hostNetwork") == Some(&Value::Bool(true));
    spec.entry("enableServiceLinks".to_owned()).or_insert(Value::Bool(true));
    for group in ["containers", "initContainers"] {
        for container in spec.get_mut(group).and_then(Value::as_array_mut).into_iter().flatten() {
            request_what_is_limited(container.get_mut("resources"));
            let ports = container.get_mut("ports").and_then(Value::as_array_mut);
            for port in ports.into_iter().flatten().filter(|_| host) {
                if let (Some(number), Value::Object(port)) = (port.get("containerPort").cloned(), port) {
                    default_to(port, "hostPort", number);
                }
            }
        }
    }
}

/// Who limits a resource and says no more asks for as much.
fn request_what_is_limited(resources: Option<&mut Value>) {
    let Some(Value::Object(resources)) = resources else {
        return;
    };
    let Some(Value::Object(limits)) = resources.get("limits").cloned() else {
        return;
    };
    let requests = resources
        .entry("requests".to_owned())
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(requests) = requests {
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
}

/// What a server adds to every new pod that does not say otherwise: who it runs as, how important it is, how long it stays on a node that is lost.
fn admit(spec: &mut Map<String, Value>) {
    for field in ["serviceAccountName", "serviceAccount"] {
        default_to(spec, field, json!("default"));
    }
    let priority = match spec
        .get("priorityClassName")
        .and_then(Value::as_str)
        .unwrap_or_default()
    {
        "" => Some(0),
        "system-cluster-critical" => Some(2_000_000_000),
        "system-node-critical" => Some(2_000_001_000),
        _ => None,
    };
    if let Some(priority) = priority {
        spec.insert("priority".to_owned(), json!(priority));
        default_to(spec, "preemptionPolicy", json!("PreemptLowerPriority"));
    }
    let tolerations = spec
        .entry("tolerations".to_owned())
        .or_insert_with(|| Value::Array(Vec::new()));
    let Value::Array(tolerations) = tolerations else { return };
    for taint in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = |t: &Value| matches!(word(t, "key"), "") || word(t, "key") == taint;
        let lasting = |t: &Value| matches!(word(t, "effect"), "" | "NoExecute");
        if !tolerations.iter().any(|t| tolerated(t) && lasting(t)) {
            tolerations.push(
                json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATED_SECONDS}),
            );
        }
    }
}

/// How well a pod is served when resources are short.
pub(super) fn qos_class(pod: &Value) -> &'static str {
    let mut any = false;
    let mut full = true;
    for group in ["containers", "initContainers"] {
        for container in list(&pod["spec"], group) {
            let amount = |part: &str, name: &str| {
                let value = container.pointer(&format!("/resources/{part}/{name}"));
                value.and_then(quantity::nanos).filter(|n| *n > 0)
            };
            for name in ["cpu", "memory"] {
                let (limit, request) = (amount("limits", name), amount("requests", name));
                any |= limit.is_some() || request.is_some();
                full &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
            }
        }
    }
    match (any, full) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn validate(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    pod_spec::check(new.get("spec"), "spec", &Place::Pod, causes);
    match old {
        Some(old) => pod_update::check(new, old, causes),
        None => {
            if !list(&new["spec"], "ephemeralContainers").is_empty() {
                causes.push(Cause::forbidden("spec.ephemeralContainers", "cannot be set on create"));
            }
            if !word_at(new, "/spec/nodeName").is_empty() && !list(&new["spec"], "schedulingGates").is_empty() {
                let why = "cannot be set until all schedulingGates have been cleared";
                causes.push(Cause::forbidden("spec.nodeName", why));
            }
        }
    }
}

/// How many seconds a pod gets to end. One that is on no node, or has ended, needs none.
fn grace(pod: &Value, asked: Option<i64>) -> i64 {
    let ended = matches!(word_at(pod, "/status/phase"), "Failed" | "Succeeded");
    if ended || word_at(pod, "/spec/nodeName").is_empty() {
        return 0;
    }
    match asked.unwrap_or_else(|| whole(pod, "/spec/terminationGracePeriodSeconds")) {
        ..0 => 1,
        seconds => seconds,
    }
}

fn bind(pod: &mut Value, binding: &Value, now: &str) -> Result<(), String> {
    let node = Some(word_at(binding, "/target/name"))
        .filter(|n| !n.is_empty())
        .ok_or("the binding names no node")?
        .to_owned();
    let (meant, have) = (word_at(binding, "/metadata/uid"), word_at(pod, "/metadata/uid"));
    if !meant.is_empty() && meant != have {
        return Err(format!(
            "Precondition failed: UID in precondition: {meant}, UID in object meta: {have}"
        ));
    }
    let name = word_at(pod, "/metadata/name");
    let there = word_at(pod, "/spec/nodeName");
    if !there.is_empty() {
        return Err(format!("pod {name} is already assigned to node {there:?}"));
    }
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        return Err(format!("pod {name} is being deleted, cannot be assigned to a host"));
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
            list.push(
                json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now}),
            );
        }
    }
    Ok(())
}

/// Says in a pod that it has to leave its node.
fn evict(pod: &mut Value, now: &str) {
    let Some(status) = part(pod, "status") else { return };
    let conditions = status
        .entry("conditions".to_owned())
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = conditions {
        list.retain(|c| word(c, "type") != "DisruptionTarget");
        list.push(
            json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting", "lastProbeTime": null, "lastTransitionTime": now}),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_gets_the_time_it_asks_for_where_it_runs() {
        let pod = |node: &str, phase: &str| json!({"spec":{"nodeName":node,"terminationGracePeriodSeconds":30},"status":{"phase":phase}});
        for (node, phase, asked, seconds) in [
            ("n", "Running", None, 30),
            ("n", "Running", Some(5), 5),
            ("n", "Running", Some(0), 0),
            ("n", "Running", Some(-3), 1),
            ("", "Pending", Some(5), 0),
            ("n", "Failed", None, 0),
        ] {
            assert_eq!(grace(&pod(node, phase), asked), seconds);
        }
    }

    #[test]
    fn the_class_of_service_follows_requests_and_limits() {
        let class = |resources: Value| {
            let mut pod = json!({"spec":{"containers":[{"resources":resources}]}});
            prepare(&mut pod, None, "");
            pod["status"]["qosClass"].as_str().unwrap().to_owned()
        };
        assert_eq!(class(json!({})), "BestEffort");
        assert_eq!(class(json!({"requests":{"cpu":"1"}})), "Burstable");
        assert_eq!(class(json!({"limits":{"cpu":"1","memory":"1Gi"}})), "Guaranteed");
        assert_eq!(
            class(json!({"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"1000m"}})),
            "Guaranteed"
        );
        assert_eq!(
            class(json!({"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"500m"}})),
            "Burstable"
        );
    }
}
