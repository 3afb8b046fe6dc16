//! Fields of a Pod and resources of its containers as text: for variables (`valueFrom`) and files (`downwardAPI`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use metastore::api::quantity_nanos;
use serde_json::Value;

use super::Host;
use crate::pod::{Container, Pod, ResourceFieldRef};

/// A field of a pod as text.
///
/// # Errors
/// What is wrong with the path.
pub(crate) fn field(pod: &Pod, path: &str, ips: &[IpAddr], host: &Host) -> Result<String, String> {
    let meta = &pod.metadata;
    let first = |ips: &[IpAddr]| ips.first().map(ToString::to_string).unwrap_or_default();
    let all = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        let map = match map {
            "metadata.annotations" => &meta.annotations,
            "metadata.labels" => &meta.labels,
            _ => return Err(format!("fieldPath {path:?} does not support subscript")),
        };
        return Ok(map.get(key).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => lines(&meta.labels),
        "metadata.annotations" => lines(&meta.annotations),
        "spec.nodeName" => pod.spec.node_name.clone(),
        "spec.serviceAccountName" => pod.spec.service_account_name.clone(),
        "status.hostIP" => first(&host.ips.now()),
        "status.hostIPs" => all(&host.ips.now()),
        "status.podIP" => first(ips),
        "status.podIPs" => all(ips),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    })
}

/// `key="value"` lines, by key.
fn lines(map: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (key, value) in map {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(key);
        text.push('=');
        quote(&mut text, value);
    }
    text
}

/// Quotes text as Go does, whose spelling programs have learnt to read.
fn quote(text: &mut String, value: &str) {
    text.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => {
                text.push('\\');
                text.push(c);
            }
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\u{7}' => text.push_str("\\a"),
            '\u{8}' => text.push_str("\\b"),
            '\u{b}' => text.push_str("\\v"),
            '\u{c}' => text.push_str("\\f"),
            c if c.is_ascii_control() => {
                write!(text, "\\x{:02x}", u32::from(c)).expect("writing to a string does not fail")
            }
            c if c.is_control() || c == '\u{feff}' || c == '\u{fffd}' => {
                write!(text, "\\u{:04x}", u32::from(c)).expect("writing to a string does not fail");
            }
            c => text.push(c),
        }
    }
    text.push('"');
}

/// A resource of a container as a number of divisors, rounded up. A limit that the container does not have is the pod's, else what the Node can
/// give (`allocatable`).
///
/// # Errors
/// What is wrong with the reference.
pub(crate) fn resource(
    pod: &Pod,
    container: &Container,
    what: &ResourceFieldRef,
    allocatable: &Value,
) -> Result<String, String> {
    let unsupported = || format!("unsupported container resource : {}", what.resource);
    let (side, name) = what.resource.split_once('.').ok_or_else(unsupported)?;
    let known = matches!(name, "cpu" | "memory" | "ephemeral-storage");
    if !known && !name.starts_with("hugepages-") {
        return Err(unsupported());
    }
    let nanos = |value: Option<&Value>| value.and_then(quantity_nanos).filter(|n| *n != 0);
    let found = match side {
        "requests" => nanos(container.resources.requests.get(name)),
        "limits" => {
            let own = nanos(container.resources.limits.get(name));
            let of_pod = || nanos(pod.spec.resources.limits.get(name));
            let of_node = || nanos(allocatable.get(name));
            own.or_else(|| known.then(of_pod)?).or_else(|| known.then(of_node)?)
        }
        _ => return Err(unsupported()),
    };
    // Processors are counted in thousandths, all else in ones, before they are divided.
    let unit = if name == "cpu" { 1_000_000 } else { 1_000_000_000 };
    let up = |nanos: i128| (nanos + unit - 1).div_euclid(unit);
    let divisor = nanos(what.divisor.as_ref()).unwrap_or(1_000_000_000);
    let (amount, divisor) = (up(found.unwrap_or(0)), up(divisor).max(1));
    Ok(((amount + divisor - 1).div_euclid(divisor)).to_string())
}
