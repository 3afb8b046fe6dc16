//! Nodes: machines that pods run on, registered by themselves.

use serde_json::{Map, Value, json};

use super::shared::{list, shown, word, word_at};
use super::{computed, fields, row, text};
use crate::api::connect;
use crate::api::kinds::{KindSpec, Special, StatusPart};
use crate::api::schema::quantity;
use crate::api::selector;
use crate::api::status::Cause;
use crate::api::table::Column;

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![node()]
}

fn node() -> KindSpec {
    KindSpec {
        namespaced: false,
        status: StatusPart::ApartAfterCreate,
        columns: vec![
            Column::name(),
            computed("Status", "string", "The status of the node", node_status),
            computed("Roles", "string", "The roles of the node", node_roles),
            Column::age(),
            text(
                "Version",
                "Kubelet Version reported by the node.",
                ".status.nodeInfo.kubeletVersion",
            ),
            computed("Internal-IP", "string", "The internal address.", |n| {
                node_address(n, "InternalIP")
            })
            .wide(),
            computed("External-IP", "string", "The external address.", |n| {
                node_address(n, "ExternalIP")
            })
            .wide(),
            computed("OS-Image", "string", "The operating system.", |n| info(n, "osImage")).wide(),
            computed("Kernel-Version", "string", "The kernel.", kernel).wide(),
            computed("Container-Runtime", "string", "What runs containers.", |n| {
                info(n, "containerRuntimeVersion")
            })
            .wide(),
        ],
        prepare: Some(prepare),
        validate: Some(validate),
        fields: fields(&["spec.unschedulable=false"]),
        special: Special {
            prepare_status: Some(prepare),
            validate_status: Some(validate_update),
            connects: connect::OF_NODES,
            ..Special::default()
        },
        ..row("", "core", "Node", &["no"])
    }
}

/// What a node can take is what it has, when nothing else is said.
fn prepare(new: &mut Value, _old: Option<&Value>, _now: &str) {
    let capacity = new.pointer("/status/capacity").cloned();
    if let (Some(capacity), Some(Value::Object(status))) = (capacity, new.get_mut("status")) {
        status.entry("allocatable".to_owned()).or_insert(capacity);
    }
}

fn validate(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    if old.is_some() {
        validate_update(new, old, causes);
    }
    check(new, causes);
    let cidrs = new.get("spec").map_or(&[][..], |s| list(s, "podCIDRs"));
    for (i, cidr) in cidrs.iter().enumerate() {
        if !is_cidr(cidr.as_str().unwrap_or_default()) {
            let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            causes.push(Cause::invalid(format!("spec.podCIDRs[{i}]"), &cidr.to_string(), why));
        }
    }
}

/// What is right for a node, new or changed.
fn check(new: &Value, causes: &mut Vec<Cause>) {
    let none = Value::Null;
    taints(list(new.get("spec").unwrap_or(&none), "taints"), causes);
    for part in ["capacity", "allocatable"] {
        let amounts = new.pointer(&format!("/status/{part}")).and_then(Value::as_object);
        for (name, amount) in amounts.into_iter().flatten() {
            if quantity::nanos(amount).is_some_and(|n| n < 0) {
                let field = format!("status.{part}.{name}");
                causes.push(Cause::invalid(
                    field,
                    &amount.to_string(),
                    "must be greater than or equal to 0",
                ));
            }
        }
    }
}

fn validate_update(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let Some(old) = old else { return };
    check(new, causes);
    let none = Value::Null;
    let addresses = list(new.get("status").unwrap_or(&none), "addresses");
    for (i, address) in addresses.iter().enumerate() {
        if addresses[..i].contains(address) {
            causes.push(Cause::duplicate(format!("status.addresses[{i}]"), &address.to_string()));
        }
    }
    for (field, name) in [("podCIDRs", "podCIDR"), ("providerID", "providerID")] {
        let of = |node: &Value| node.pointer(&format!("/spec/{field}")).cloned();
        if of(old).is_some() && of(old) != of(new) {
            let why = format!("node updates may not change {name} except from \"\" to valid");
            causes.push(Cause::forbidden(format!("spec.{field}"), &why));
        }
    }
    if new.pointer("/spec/externalID") != old.pointer("/spec/externalID") {
        causes.push(Cause::forbidden("spec.externalID", "may not be updated"));
    }
}

/// Taints, named under the metadata: real servers do so.
fn taints(taints: &[Value], causes: &mut Vec<Cause>) {
    const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    for (i, taint) in taints.iter().enumerate() {
        let at = format!("metadata.taints[{i}]");
        for why in selector::key_problems(word(taint, "key")) {
            causes.push(Cause::invalid(format!("{at}.key"), &shown(taint.get("key")), &why));
        }
        if !selector::value_problems(word(taint, "value")).is_empty() {
            let why = "must be empty or like the value of a label";
            causes.push(Cause::invalid(format!("{at}.value"), &shown(taint.get("value")), why));
        }
        match word(taint, "effect") {
            "" => causes.push(Cause::required(format!("{at}.effect"), "")),
            effect if !EFFECTS.contains(&effect) => {
                causes.push(Cause::not_supported(
                    format!("{at}.effect"),
                    &format!("{effect:?}"),
                    &EFFECTS,
                ));
            }
            _ => {}
        }
        let same = |t: &Value| word(t, "key") == word(taint, "key") && word(t, "effect") == word(taint, "effect");
        if taints[..i].iter().any(same) {
            causes.push(Cause::duplicate(at, &taint.to_string()));
        }
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else {
        return false;
    };
    let most = match address.parse() {
        Ok(std::net::IpAddr::V4(_)) => 32,
        Ok(std::net::IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|b| b <= most)
}

fn info(node: &Value, field: &str) -> Value {
    json!(match word_at(node, &format!("/status/nodeInfo/{field}")) {
        "" => "<unknown>",
        text => text,
    })
}

fn kernel(node: &Value) -> Value {
    let version = info(node, "kernelVersion");
    match word_at(node, "/status/nodeInfo/architecture") {
        "" => version,
        machine => json!(format!("{} ({machine})", version.as_str().unwrap_or_default())),
    }
}

fn node_status(node: &Value) -> Value {
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

fn node_roles(node: &Value) -> Value {
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

fn node_address(node: &Value, kind: &str) -> Value {
    node.pointer("/status/addresses")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .find(|a| a.get("type") == Some(&json!(kind)))
        .and_then(|a| a.get("address"))
        .cloned()
        .unwrap_or_else(|| json!("<none>"))
}
