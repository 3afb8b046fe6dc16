//! What single built-in kinds do: complete, validate, print. Functions named in the rows of the table, called by nobody else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::api::names;
use crate::api::status::Cause;

const IMMUTABLE: &str = "field is immutable when `immutable` is set";

// ---- shared ----

/// How many members the object at `field` has.
pub(super) fn count(object: &Value, field: &str) -> usize {
    object.get(field).and_then(Value::as_object).map_or(0, Map::len)
}

/// A count that is 0 when absent.
pub(super) fn number(object: &Value, pointer: &str) -> Value {
    object.pointer(pointer).cloned().unwrap_or_else(|| json!(0))
}

/// A text that reads `<none>` when absent.
pub(super) fn word_or_none(object: &Value, pointer: &str) -> Value {
    match object.pointer(pointer) {
        Some(Value::String(s)) if !s.is_empty() => json!(s),
        _ => json!("<none>"),
    }
}

/// The object at `field`, made when it is not there.
fn part<'v>(object: &'v mut Value, field: &str) -> Option<&'v mut Map<String, Value>> {
    let map = object.as_object_mut()?;
    map.entry(field.to_owned())
        .or_insert_with(|| Value::Object(Map::new()))
        .as_object_mut()
}

fn default_to(map: &mut Map<String, Value>, field: &str, value: Value) {
    if map.get(field).is_none_or(|v| v.is_null() || v == "") {
        map.insert(field.to_owned(), value);
    }
}

fn check_data_keys(object: &Value, field: &str, causes: &mut Vec<Cause>) {
    for key in object
        .get(field)
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::keys)
    {
        let ok = !key.is_empty()
            && key.len() <= 253
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && key != "."
            && !key.starts_with("..");
        if !ok {
            causes.push(Cause::invalid(
                format!("{field}[{key}]"),
                &format!("{key:?}"),
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            ));
        }
    }
}

fn check_immutable(new: &Value, old: Option<&Value>, parts: &[&str], causes: &mut Vec<Cause>) {
    let Some(old) = old.filter(|o| o.get("immutable") == Some(&Value::Bool(true))) else {
        return;
    };
    if new.get("immutable") != Some(&Value::Bool(true)) {
        causes.push(Cause::forbidden("immutable", IMMUTABLE));
    }
    for part in parts {
        if new.get(part) != old.get(part) {
            causes.push(Cause::forbidden(*part, IMMUTABLE));
        }
    }
}

// ---- Namespace ----

pub(super) fn prepare_namespace(new: &mut Value, old: Option<&Value>, _now: &str) {
    let name = new.pointer("/metadata/name").cloned().unwrap_or(Value::Null);
    if let Some(meta) = part(new, "metadata") {
        let labels = meta
            .entry("labels".to_owned())
            .or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(labels) = labels {
            labels.insert("kubernetes.io/metadata.name".to_owned(), name);
        }
    }
    if old.is_none() {
        if let Some(spec) = part(new, "spec") {
            spec.insert("finalizers".to_owned(), json!(["kubernetes"]));
        }
        if let Value::Object(map) = new {
            map.insert("status".to_owned(), json!({"phase": "Active"}));
        }
    }
}

// ---- Node ----

pub(super) fn node_status(node: &Value) -> Value {
    let ready = node
        .pointer("/status/conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|c| c.get("type") == Some(&json!("Ready")))
        .and_then(|c| c.get("status"))
        .and_then(Value::as_str);
    let mut text = match ready {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        text.push_str(",SchedulingDisabled");
    }
    json!(text)
}

pub(super) fn node_roles(node: &Value) -> Value {
    const PREFIX: &str = "node-role.kubernetes.io/";
    let mut roles: Vec<&str> = node
        .pointer("/metadata/labels")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::keys)
        .filter_map(|k| k.strip_prefix(PREFIX))
        .filter(|r| !r.is_empty())
        .collect();
    roles.sort_unstable();
    if roles.is_empty() {
        json!("<none>")
    } else {
        json!(roles.join(","))
    }
}

pub(super) fn node_address(node: &Value, kind: &str) -> Value {
    node.pointer("/status/addresses")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|a| a.get("type") == Some(&json!(kind)))
        .and_then(|a| a.get("address"))
        .cloned()
        .unwrap_or_else(|| json!("<none>"))
}

// ---- ConfigMap, Secret ----

pub(super) fn validate_config_map(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    check_data_keys(new, "data", causes);
    check_data_keys(new, "binaryData", causes);
    check_immutable(new, old, &["data", "binaryData"], causes);
}

pub(super) fn prepare_secret(new: &mut Value, _old: Option<&Value>, _now: &str) {
    let Value::Object(map) = new else { return };
    if let Some(Value::Object(texts)) = map.remove("stringData") {
        let data = map
            .entry("data".to_owned())
            .or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(data) = data {
            for (key, value) in texts {
                if let Value::String(text) = value {
                    data.insert(key, json!(STANDARD.encode(text)));
                }
            }
        }
    }
    default_to(map, "type", json!("Opaque"));
}

pub(super) fn validate_secret(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    check_data_keys(new, "data", causes);
    if let Some(old) = old
        && old.get("type") != new.get("type")
    {
        causes.push(Cause::invalid(
            "type",
            &new.get("type").map_or_else(String::new, ToString::to_string),
            "field is immutable",
        ));
    }
    check_immutable(new, old, &["data"], causes);
}

// ---- Service ----

pub(super) fn prepare_service(new: &mut Value, _old: Option<&Value>, _now: &str) {
    if let Some(Value::Array(ports)) = new.pointer_mut("/spec/ports") {
        for port in ports {
            if let Value::Object(port) = port
                && let Some(number) = port.get("port").cloned()
            {
                default_to(port, "targetPort", number);
            }
        }
    }
}

pub(super) fn validate_service(new: &Value, _old: Option<&Value>, causes: &mut Vec<Cause>) {
    let in_range = |v: &Value| v.as_i64().is_some_and(|n| (1..=65535).contains(&n));
    let why = "must be between 1 and 65535, inclusive";
    let ports = new.pointer("/spec/ports").and_then(Value::as_array);
    for (i, port) in ports.into_iter().flatten().enumerate() {
        for field in ["port", "targetPort"] {
            if let Some(n) = port.get(field).filter(|v| v.is_number() && !in_range(v)) {
                causes.push(Cause::invalid(format!("spec.ports[{i}].{field}"), &n.to_string(), why));
            }
        }
    }
    let headless = matches!(new.pointer("/spec/clusterIP"), Some(Value::String(s)) if s == "None");
    let external = matches!(new.pointer("/spec/type"), Some(Value::String(s)) if s == "ExternalName");
    if ports.is_none_or(Vec::is_empty) && !headless && !external {
        causes.push(Cause::required("spec.ports", ""));
    }
}

pub(super) fn service_ports(service: &Value) -> Value {
    let list: Vec<String> = service
        .pointer("/spec/ports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|p| {
            let protocol = p.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
            format!("{}/{protocol}", p.get("port").unwrap_or(&Value::Null))
        })
        .collect();
    json!(if list.is_empty() {
        "<none>".to_owned()
    } else {
        list.join(",")
    })
}

// ---- Lease ----

pub(super) fn validate_lease(new: &Value, _old: Option<&Value>, causes: &mut Vec<Cause>) {
    for (field, least) in [("leaseDurationSeconds", 1), ("leaseTransitions", 0)] {
        if let Some(n) = new.pointer(&format!("/spec/{field}")).and_then(Value::as_i64)
            && n < least
        {
            causes.push(Cause::invalid(
                format!("spec.{field}"),
                &n.to_string(),
                &format!("must be at least {least}"),
            ));
        }
    }
}

// ---- Event ----

/// Fields of a stored event and their names in `events.k8s.io`.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("count", "deprecatedCount"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("source", "deprecatedSource"),
];

pub(super) fn show_event(event: &mut Value) {
    rename(event, |(stored, shown)| (stored, shown));
}

pub(super) fn keep_event(event: &mut Value) {
    rename(event, |(stored, shown)| (shown, stored));
}

fn rename(event: &mut Value, direction: fn((&'static str, &'static str)) -> (&'static str, &'static str)) {
    let Value::Object(map) = event else { return };
    for pair in EVENT_FIELDS {
        let (from, to) = direction(pair);
        if let Some(v) = map.remove(from) {
            map.insert(to.to_owned(), v);
        }
    }
}

/// An object reference as `kind/name`.
pub(super) fn reference(to: Option<&Value>) -> Value {
    let word = |field: &str| {
        to.and_then(|t| t.get(field))
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    json!(format!("{}/{}", word("kind").to_lowercase(), word("name")))
}

// ---- Pod and what has a pod in it ----

pub(super) fn prepare_pod(new: &mut Value, old: Option<&Value>, _now: &str) {
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
fn complete_pod_spec(spec: &mut Map<String, Value>) {
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

pub(super) fn validate_pod(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
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

fn check_pod_spec(spec: Option<&Value>, at: &str, causes: &mut Vec<Cause>) {
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

pub(super) fn bind_pod(pod: &mut Value, binding: &Value, now: &str) -> Result<(), String> {
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

pub(super) fn pod_ready(pod: &Value) -> Value {
    let total = pod
        .pointer("/spec/containers")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    let ready = container_statuses(pod)
        .filter(|s| s.get("ready") == Some(&Value::Bool(true)))
        .count();
    json!(format!("{ready}/{total}"))
}

pub(super) fn pod_status(pod: &Value) -> Value {
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

pub(super) fn pod_restarts(pod: &Value) -> Value {
    let sum: i64 = container_statuses(pod)
        .filter_map(|s| s.get("restartCount").and_then(Value::as_i64))
        .fold(0, i64::saturating_add);
    json!(sum.to_string())
}

// ---- Deployment ----

pub(super) fn prepare_deployment(new: &mut Value, _old: Option<&Value>, _now: &str) {
    let Some(spec) = part(new, "spec") else { return };
    let strategy = spec
        .entry("strategy".to_owned())
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(strategy) = strategy {
        default_to(strategy, "type", json!("RollingUpdate"));
        if strategy.get("type") == Some(&json!("RollingUpdate")) {
            let rolling = strategy
                .entry("rollingUpdate".to_owned())
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(rolling) = rolling {
                default_to(rolling, "maxSurge", json!("25%"));
                default_to(rolling, "maxUnavailable", json!("25%"));
            }
        }
    }
    if let Some(Value::Object(pod)) = spec.get_mut("template").and_then(|t| t.get_mut("spec")) {
        complete_pod_spec(pod);
    }
}

pub(super) fn validate_deployment(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let selector = new.pointer("/spec/selector").filter(|s| !s.is_null());
    let labels = new.pointer("/spec/template/metadata/labels");
    let shown = labels.map_or_else(|| "null".to_owned(), ToString::to_string);
    if let Some(n) = new.pointer("/spec/replicas").and_then(Value::as_i64)
        && n < 0
    {
        causes.push(Cause::invalid(
            "spec.replicas",
            &n.to_string(),
            "must be greater than or equal to 0",
        ));
    }
    let matches = match selector {
        None => {
            causes.push(Cause::required("spec.selector", ""));
            false
        }
        Some(s) => selects(s, labels),
    };
    if !matches {
        causes.push(Cause::invalid(
            "spec.template.metadata.labels",
            &shown,
            "`selector` does not match template `labels`",
        ));
    }
    check_pod_spec(new.pointer("/spec/template/spec"), "spec.template.spec", causes);
    if let Some(old) = old
        && old.pointer("/spec/selector") != new.pointer("/spec/selector")
    {
        causes.push(Cause::invalid(
            "spec.selector",
            &selector.map_or_else(String::new, ToString::to_string),
            "field is immutable",
        ));
    }
}

/// Whether a `LabelSelector` selects these labels; an empty one selects nothing here, as it may not in a workload.
fn selects(selector: &Value, labels: Option<&Value>) -> bool {
    let label = |key: &str| labels.and_then(|l| l.get(key)).and_then(Value::as_str);
    let wanted = selector.get("matchLabels").and_then(Value::as_object);
    let terms = selector.get("matchExpressions").and_then(Value::as_array);
    if wanted.is_none_or(Map::is_empty) && terms.is_none_or(Vec::is_empty) {
        return false;
    }
    wanted.into_iter().flatten().all(|(k, v)| label(k) == v.as_str())
        && terms.into_iter().flatten().all(|t| {
            let value = label(t.get("key").and_then(Value::as_str).unwrap_or_default());
            let among = || {
                t.get("values")
                    .and_then(Value::as_array)
                    .is_some_and(|list| list.iter().any(|v| v.as_str() == value))
            };
            match t.get("operator").and_then(Value::as_str) {
                Some("In") => value.is_some() && among(),
                Some("NotIn") => value.is_none() || !among(),
                Some("Exists") => value.is_some(),
                Some("DoesNotExist") => value.is_none(),
                _ => false,
            }
        })
}

/// A `LabelSelector` as the text of a selector.
pub(super) fn label_selector_text(selector: &Value) -> String {
    let mut parts: Vec<String> = selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    for term in selector
        .get("matchExpressions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let word = |f: &str| term.get(f).and_then(Value::as_str).unwrap_or_default();
        let values: Vec<&str> = term
            .get("values")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let key = word("key");
        parts.push(match word("operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.join(",")
}

pub(super) fn selector_text(deployment: &Value) -> Value {
    json!(
        deployment
            .pointer("/spec/selector")
            .map_or_else(String::new, label_selector_text)
    )
}

pub(super) fn deployment_ready(deployment: &Value) -> Value {
    let wanted = deployment
        .pointer("/spec/replicas")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    let ready = deployment
        .pointer("/status/readyReplicas")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    json!(format!("{ready}/{wanted}"))
}

/// One field of each container of the template, joined.
pub(super) fn template(object: &Value, field: &str) -> Value {
    let list: Vec<&str> = object
        .pointer("/spec/template/spec/containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|c| c.get(field).and_then(Value::as_str))
        .collect();
    json!(list.join(","))
}
