//! What a member's object keeps when what is desired of it is written over it.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::kind::Kind;
use super::look::{annotation, is_zero, label, list, map, map_made, map_mut, number, text};
use crate::names::{MANAGED_ANNOTATIONS, MANAGED_LABELS, RETAIN_REPLICAS};

/// Puts into `desired` what the member's own parts have written on `observed`, so that an update leaves that in place.
///
/// Labels and annotations that only the member has stay, except those that an earlier manifest brought (its lists of managed keys say so) and
/// this one has no more. Finalizers, owner references and the resource version are the member's. So is what a kind's controllers fill in: an
/// address, the volume of a claim, the selector of a Job. The status is not touched. Once is enough: a second time changes nothing.
pub fn retain(desired: &mut Value, observed: &Value) {
    let Some(metadata) = map_made(desired, &["metadata"]) else {
        return;
    };
    let own = map(observed, "/metadata");
    for name in ["resourceVersion", "finalizers", "ownerReferences"] {
        carry(metadata, own, name);
    }
    retain_keys(metadata, observed, "labels", MANAGED_LABELS);
    retain_keys(metadata, observed, "annotations", MANAGED_ANNOTATIONS);
    match Kind::of(desired) {
        Some(Kind::Deployment) => retain_replicas(desired, observed),
        Some(Kind::Pod) => retain_pod(desired, observed),
        Some(Kind::Service) => retain_service(desired, observed),
        Some(Kind::ServiceAccount) => {
            retain_secrets(desired, observed, "secrets");
            retain_secrets(desired, observed, "imagePullSecrets");
        }
        Some(Kind::PersistentVolumeClaim) => keep(desired, observed, &["spec"], "volumeName"),
        Some(Kind::PersistentVolume) => keep(desired, observed, &["spec"], "claimRef"),
        Some(Kind::Job) => {
            keep(desired, observed, &["spec", "selector"], "matchLabels");
            keep(desired, observed, &["spec", "template", "metadata"], "labels");
        }
        Some(Kind::Secret) if text(desired, "/type") == "kubernetes.io/service-account-token" => {
            keep(desired, observed, &[], "data");
        }
        _ => {}
    }
}

/// The field as the other has it, also when it has none.
fn carry(to: &mut Map<String, Value>, from: Option<&Map<String, Value>>, name: &str) {
    match from.and_then(|from| from.get(name)).filter(|value| !is_zero(value)) {
        Some(value) => to.insert(name.to_owned(), value.clone()),
        None => to.remove(name),
    };
}

/// The field as the member has it, if it has it.
fn keep(desired: &mut Value, observed: &Value, path: &[&str], name: &str) {
    let own = path.iter().try_fold(observed, |at, step| at.get(step));
    let Some(value) = own.and_then(|own| own.get(name)).filter(|value| !is_zero(value)) else {
        return;
    };
    if let Some(to) = map_made(desired, path) {
        to.insert(name.to_owned(), value.clone());
    }
}

/// Labels or annotations that only the member has. `managed` is the annotation that lists those that came with the last manifest.
fn retain_keys(metadata: &mut Map<String, Value>, observed: &Value, field: &str, managed: &str) {
    let Some(own) = observed
        .pointer("/metadata")
        .and_then(|own| own.get(field))
        .and_then(Value::as_object)
    else {
        return;
    };
    let brought: BTreeSet<&str> = annotation(observed, managed).split(',').collect();
    let member = |key: &str, value: &Value| value.is_string() && !brought.contains(key);
    if !own.iter().any(|(key, value)| member(key, value)) {
        return;
    }
    let to = metadata.entry(field).or_insert(Value::Null);
    if to.is_null() {
        *to = Value::Object(Map::new());
    }
    let Some(to) = to.as_object_mut() else {
        return;
    };
    for (key, value) in own.iter().filter(|(key, value)| member(key, value)) {
        to.entry(key.as_str()).or_insert_with(|| value.clone());
    }
}

fn retain_replicas(desired: &mut Value, observed: &Value) {
    if label(desired, RETAIN_REPLICAS) != "true" {
        return;
    }
    // Zero is a number of replicas too.
    if let Some(replicas) = observed.pointer("/spec/replicas").and_then(Value::as_i64)
        && let Some(spec) = map_made(desired, &["spec"])
    {
        spec.insert("replicas".to_owned(), replicas.into());
    }
}

/// A pod is placed once, and the member's admission has had its say about its identity and volumes: none of that can change any more.
fn retain_pod(desired: &mut Value, observed: &Value) {
    let own = map(observed, "/spec");
    let Some(spec) = map_made(desired, &["spec"]) else {
        return;
    };
    for name in ["nodeName", "serviceAccountName", "volumes"] {
        carry(spec, own, name);
    }
    // What a server put in at the beginning, or people later, and nobody may take out.
    for name in ["imagePullSecrets", "ephemeralContainers"] {
        if !spec.contains_key(name) {
            carry(spec, own, name);
        }
    }
    for field in ["containers", "initContainers"] {
        let Some(containers) = spec.get_mut(field).and_then(Value::as_array_mut) else {
            continue;
        };
        for own in own
            .and_then(|own| own.get(field))
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let name = text(own, "/name");
            let same = containers.iter_mut().find(|container| text(container, "/name") == name);
            if let Some(container) = same.and_then(Value::as_object_mut) {
                carry(container, own.as_object(), "volumeMounts");
            }
        }
    }
}

/// What a server would keep of a Service by itself: addresses and ports that the member gave out, as long as the type still has such.
fn retain_service(desired: &mut Value, observed: &Value) {
    let kind = match text(desired, "/spec/type") {
        "" => "ClusterIP",
        kind => kind,
    }
    .to_owned();
    if kind == "ExternalName" {
        return;
    }
    keep(desired, observed, &["spec"], "clusterIP");
    keep(desired, observed, &["spec"], "clusterIPs");
    if kind == "LoadBalancer" && text(desired, "/spec/externalTrafficPolicy") == "Local" {
        keep(desired, observed, &["spec"], "healthCheckNodePort");
    }
    let unwanted = desired.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&Value::Bool(false));
    if kind == "NodePort" || (kind == "LoadBalancer" && !unwanted) {
        retain_node_ports(desired, observed);
    }
}

fn retain_node_ports(desired: &mut Value, observed: &Value) {
    let Some(ports) = map_mut(desired, "/spec")
        .and_then(|spec| spec.get_mut("ports"))
        .and_then(Value::as_array_mut)
    else {
        return;
    };
    let protocol = |port: &Value| match text(port, "/protocol") {
        "" => "TCP".to_owned(),
        protocol => protocol.to_owned(),
    };
    let taken: BTreeSet<i64> = ports.iter().map(|port| number(port, "/nodePort")).collect();
    for port in ports.iter_mut().filter(|port| number(port, "/nodePort") == 0) {
        let own = list(observed, "/spec/ports")
            .iter()
            .find(|own| number(own, "/port") == number(port, "/port") && protocol(own) == protocol(port));
        let given = own.map_or(0, |own| number(own, "/nodePort"));
        // Another port of the Service asks for it by now.
        if given == 0 || taken.contains(&given) {
            continue;
        }
        if let Some(port) = port.as_object_mut() {
            port.insert("nodePort".to_owned(), given.into());
        }
    }
}

/// References to secrets that only the member has come after the desired ones.
fn retain_secrets(desired: &mut Value, observed: &Value, field: &str) {
    let mut named: BTreeSet<String> = BTreeSet::new();
    let mut references: Vec<Value> = Vec::new();
    if let Some(field) = desired.get(field).filter(|value| !value.is_null()) {
        let Some(listed) = field.as_array() else {
            return;
        };
        named.extend(listed.iter().map(|reference| text(reference, "/name").to_owned()));
        references.extend(listed.iter().cloned());
    }
    let before = references.len();
    for own in observed.get(field).and_then(Value::as_array).into_iter().flatten() {
        let name = text(own, "/name");
        if !name.is_empty() && named.insert(name.to_owned()) {
            references.push(own.clone());
        }
    }
    if references.len() > before
        && let Some(desired) = desired.as_object_mut()
    {
        desired.insert(field.to_owned(), Value::Array(references));
    }
}
