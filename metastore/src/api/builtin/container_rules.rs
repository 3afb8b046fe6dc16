//! What a container may be, in a pod or in the template of one: mistakes that more than one field makes.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::pod_spec::profiles;
use super::shared::{flag, list, shown, whole, word};
use crate::api::schema::quantity;
use crate::api::selector;
use crate::api::status::Cause;

/// What containers share.
pub(super) struct Context<'a> {
    /// Names of the volumes that may be mounted.
    pub(super) volumes: &'a BTreeSet<String>,
    pub(super) is_pod: bool,
    pub(super) host_network: bool,
    /// Names of containers seen so far.
    pub(super) names: BTreeSet<String>,
}

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];
/// What a container for looking into a running pod may not have.
const NOT_EPHEMERAL: [&str; 7] = [
    "ports",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "resizePolicy",
    "restartPolicy",
];

/// Checks one of the lists of containers of the pod at a path.
pub(super) fn check(group: &str, containers: &[Value], at: &str, context: &mut Context<'_>, causes: &mut Vec<Cause>) {
    let mut host_ports = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        let path = format!("{at}.{group}[{i}]");
        common(container, &path, context, causes);
        let name = word(container, "name");
        if !name.is_empty() && !context.names.insert(name.to_owned()) {
            causes.push(Cause::duplicate(format!("{path}.name"), &format!("{name:?}")));
        }
        if group == "initContainers" {
            host_ports.clear();
        }
        for (j, port) in list(container, "ports").iter().enumerate() {
            let number = whole(port, "/hostPort");
            let taken = format!("{}/{}/{number}", word(port, "protocol"), word(port, "hostIP"));
            if number != 0 && !host_ports.insert(taken.clone()) {
                let field = format!("{path}.ports[{j}].hostPort");
                causes.push(Cause::duplicate(field, &format!("{taken:?}")));
            }
        }
        match group {
            "ephemeralContainers" => ephemeral(container, &path, causes),
            "initContainers" => initial(container, &path, causes),
            _ => {
                if container.get("restartPolicy").is_some() {
                    let field = format!("{path}.restartPolicy");
                    causes.push(Cause::forbidden(field, "may not be set for non-init containers"));
                }
                probes(container, &path, causes);
            }
        }
    }
}

fn ephemeral(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    let why = "cannot be set for an Ephemeral Container";
    let resources = container.get("resources").and_then(Value::as_object);
    if resources.is_some_and(|r| !r.is_empty()) {
        causes.push(Cause::forbidden(format!("{path}.resources"), why));
    }
    for field in NOT_EPHEMERAL.iter().filter(|f| container.get(**f).is_some()) {
        causes.push(Cause::forbidden(format!("{path}.{field}"), why));
    }
    for (i, mount) in list(container, "volumeMounts").iter().enumerate() {
        for field in ["subPath", "subPathExpr"] {
            if mount.get(field).is_some() {
                causes.push(Cause::forbidden(format!("{path}.volumeMounts[{i}].{field}"), why));
            }
        }
    }
}

fn initial(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    match word(container, "restartPolicy") {
        "Always" => probes(container, path, causes),
        policy => {
            if !policy.is_empty() {
                let field = format!("{path}.restartPolicy");
                causes.push(Cause::not_supported(field, &format!("{policy:?}"), &["Always"]));
            }
            for field in ["lifecycle"].iter().chain(&PROBES) {
                if container.get(field).is_some() {
                    let why = "may not be set for init containers without restartPolicy=Always";
                    causes.push(Cause::forbidden(format!("{path}.{field}"), why));
                }
            }
        }
    }
}

fn common(container: &Value, path: &str, context: &Context<'_>, causes: &mut Vec<Cause>) {
    let image = word(container, "image");
    if context.is_pod && image.trim() != image {
        let why = "must not have leading or trailing whitespace";
        causes.push(Cause::invalid(format!("{path}.image"), &format!("{image:?}"), why));
    }
    ports(container, path, context, causes);
    environment(container, path, causes);
    mounts(container, path, context, causes);
    if let Some(resources) = container.get("resources") {
        check_resources(resources, &format!("{path}.resources"), causes);
    }
    if let Some(security) = container.get("securityContext") {
        let at = format!("{path}.securityContext");
        profiles(security, &at, causes);
        if security.get("allowPrivilegeEscalation") == Some(&Value::Bool(false)) {
            if flag(security, "privileged") {
                let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
                causes.push(Cause::invalid(&at, &security.to_string(), why));
            }
            let added = security.pointer("/capabilities/add").and_then(Value::as_array);
            if added.is_some_and(|list| list.iter().any(|c| c == "CAP_SYS_ADMIN")) {
                let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
                causes.push(Cause::invalid(&at, &security.to_string(), why));
            }
        }
    }
}

fn ports(container: &Value, path: &str, context: &Context<'_>, causes: &mut Vec<Cause>) {
    let ports = list(container, "ports");
    for (i, port) in ports.iter().enumerate() {
        let name = word(port, "name");
        if !name.is_empty() && ports[..i].iter().any(|p| word(p, "name") == name) {
            causes.push(Cause::duplicate(
                format!("{path}.ports[{i}].name"),
                &format!("{name:?}"),
            ));
        }
        let (host, own) = (whole(port, "/hostPort"), whole(port, "/containerPort"));
        if context.host_network && (context.is_pod || host != 0) && host != own && path.contains(".containers[") {
            let why = "must match `containerPort` when `hostNetwork` is true";
            causes.push(Cause::invalid(
                format!("{path}.ports[{i}].hostPort"),
                &host.to_string(),
                why,
            ));
        }
    }
}

fn environment(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    const SOURCES: [&str; 5] = [
        "fieldRef",
        "resourceFieldRef",
        "configMapKeyRef",
        "secretKeyRef",
        "fileKeyRef",
    ];
    for (i, variable) in list(container, "env").iter().enumerate() {
        let Some(from) = variable.get("valueFrom") else {
            continue;
        };
        let at = format!("{path}.env[{i}].valueFrom");
        if let Some(field) = from.get("fieldRef") {
            field_reference(field, &format!("{at}.fieldRef"), false, causes);
        }
        if let Some(resource) = from.get("resourceFieldRef") {
            resource_reference(resource, &format!("{at}.resourceFieldRef"), false, causes);
        }
        let given = SOURCES.iter().filter(|s| from.get(**s).is_some()).count();
        let why = match given {
            0 => "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
            _ if !word(variable, "value").is_empty() => "may not be specified when `value` is not empty",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        causes.push(Cause::invalid(at, "\"\"", why));
    }
    for (i, source) in list(container, "envFrom").iter().enumerate() {
        let mut given = 0;
        for kind in ["configMapRef", "secretRef"] {
            let Some(reference) = source.get(kind) else { continue };
            given += 1;
            if word(reference, "name").is_empty() {
                causes.push(Cause::required(format!("{path}.envFrom[{i}].{kind}.name"), ""));
            }
        }
        let why = match given {
            1 => continue,
            0 => "must specify one of: `configMapRef` or `secretRef`",
            _ => "may not have more than one field specified at a time",
        };
        causes.push(Cause::invalid(format!("{path}.envFrom"), "\"\"", why));
    }
}

/// A reference to a field of the pod itself; `file`: for a file rather than a variable.
pub(super) fn field_reference(field: &Value, at: &str, file: bool, causes: &mut Vec<Cause>) {
    const BOTH: [&str; 3] = ["metadata.name", "metadata.namespace", "metadata.uid"];
    const FILE: [&str; 2] = ["metadata.annotations", "metadata.labels"];
    const VARIABLE: [&str; 6] = [
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    let path = word(field, "fieldPath");
    if path.is_empty() {
        return;
    }
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        if !FILE.contains(&map) {
            causes.push(Cause::invalid(
                format!("{at}.fieldPath"),
                &format!("{path:?}"),
                "does not support subscript",
            ));
        } else {
            for why in selector::key_problems(&key.to_lowercase()) {
                causes.push(Cause::invalid(at, &format!("{key:?}"), &why));
            }
        }
        return;
    }
    let known = BOTH.contains(&path) || FILE.contains(&path) || VARIABLE.contains(&path);
    if !known {
        let why = "error converting fieldPath: field label not supported";
        causes.push(Cause::invalid(format!("{at}.fieldPath"), &format!("{path:?}"), why));
        return;
    }
    let more: &[&str] = if file { &FILE } else { &VARIABLE };
    if !BOTH.contains(&path) && !more.contains(&path) {
        let supported = [more, &BOTH].concat();
        causes.push(Cause::not_supported(
            format!("{at}.fieldPath"),
            &format!("{path:?}"),
            &supported,
        ));
    }
}

/// A reference to a resource of a container.
pub(super) fn resource_reference(reference: &Value, at: &str, file: bool, causes: &mut Vec<Cause>) {
    const KNOWN: [&str; 6] = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    let resource = word(reference, "resource");
    if file && word(reference, "containerName").is_empty() {
        causes.push(Cause::required(format!("{at}.containerName"), ""));
    } else if !resource.is_empty() && !KNOWN.contains(&resource) && !resource.contains(".hugepages-") {
        causes.push(Cause::not_supported(
            format!("{at}.resource"),
            &format!("{resource:?}"),
            &KNOWN,
        ));
    }
    let divisors: &[&str] = match resource.rsplit('.').next() {
        Some("cpu") => &["0", "1m", "1"],
        _ => &[
            "0", "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
        ],
    };
    let divisor = word(reference, "divisor");
    if !divisor.is_empty() && !divisors.contains(&divisor) {
        causes.push(Cause::invalid(
            format!("{at}.divisor"),
            &format!("{divisor:?}"),
            "not a unit in which this resource can be told",
        ));
    }
}

fn mounts(container: &Value, path: &str, context: &Context<'_>, causes: &mut Vec<Cause>) {
    let devices = list(container, "volumeDevices");
    let mut points = BTreeSet::new();
    for (i, mount) in list(container, "volumeMounts").iter().enumerate() {
        let at = format!("{path}.volumeMounts[{i}]");
        let (name, point) = (word(mount, "name"), word(mount, "mountPath"));
        if !context.volumes.contains(name) {
            causes.push(Cause::not_found(format!("{at}.name"), &format!("{name:?}")));
        }
        if !points.insert(point) {
            causes.push(Cause::invalid(
                format!("{at}.mountPath"),
                &format!("{point:?}"),
                "must be unique",
            ));
        }
        if devices.iter().any(|d| word(d, "name") == name) {
            let why = "must not already exist in volumeDevices";
            causes.push(Cause::invalid(format!("{at}.name"), &format!("{name:?}"), why));
        }
        if devices.iter().any(|d| word(d, "devicePath") == point) {
            let why = "must not already exist as a path in volumeDevices";
            causes.push(Cause::invalid(format!("{at}.mountPath"), &format!("{point:?}"), why));
        }
        for field in ["subPath", "subPathExpr"] {
            let sub = word(mount, field);
            if sub.starts_with('/') || sub.split('/').any(|p| p == "..") {
                // The list is named, not the mount.
                let field = format!("{path}.volumeMounts.{field}");
                causes.push(Cause::invalid(
                    field,
                    &format!("{sub:?}"),
                    "must be a relative path without '..'",
                ));
            }
        }
        if !word(mount, "subPath").is_empty() && !word(mount, "subPathExpr").is_empty() {
            let why = "subPathExpr and subPath are mutually exclusive";
            causes.push(Cause::invalid(
                format!("{at}.subPathExpr"),
                &shown(mount.get("subPathExpr")),
                why,
            ));
        }
        let propagation = word(mount, "mountPropagation");
        let field = format!("{path}.volumeMounts.mountPropagation");
        let privileged = container.pointer("/securityContext/privileged") == Some(&Value::Bool(true));
        match propagation {
            "Bidirectional" if !privileged => causes.push(Cause::forbidden(
                field,
                "Bidirectional mount propagation is available only to privileged containers",
            )),
            "" | "Bidirectional" | "HostToContainer" | "None" => {}
            other => causes.push(Cause::not_supported(
                field,
                &format!("{other:?}"),
                &["Bidirectional", "HostToContainer", "None"],
            )),
        }
    }
    for (i, device) in devices.iter().enumerate() {
        let name = word(device, "name");
        if !name.is_empty() && !context.volumes.contains(name) {
            causes.push(Cause::not_found(
                format!("{path}.volumeDevices[{i}].name"),
                &format!("{name:?}"),
            ));
        }
    }
}

/// Limits and requests of resources.
fn check_resources(resources: &Value, at: &str, causes: &mut Vec<Cause>) {
    let empty = Map::new();
    let part = |name: &str| resources.get(name).and_then(Value::as_object).unwrap_or(&empty);
    let (limits, requests) = (part("limits"), part("requests"));
    for (which, map) in [("limits", limits), ("requests", requests)] {
        for (name, value) in map {
            let field = format!("{at}.{which}[{name}]");
            for why in resource_name(name) {
                causes.push(Cause::invalid(&field, &format!("{name:?}"), &why));
            }
            let amount = quantity::nanos(value).unwrap_or(0);
            if amount < 0 {
                let why = "must be greater than or equal to 0";
                causes.push(Cause::invalid(&field, &value.to_string(), why));
            } else if !is_shareable(name) && amount % 1_000_000_000 != 0 {
                causes.push(Cause::invalid(&field, &value.to_string(), "must be an integer"));
            }
        }
    }
    for (name, value) in requests {
        let field = format!("{at}.requests");
        let amount = quantity::nanos(value);
        match limits.get(name) {
            Some(limit) if !is_shareable(name) && quantity::nanos(limit) != amount => {
                let why = format!("must be equal to {name} limit of {limit}");
                causes.push(Cause::invalid(field, &value.to_string(), &why));
            }
            Some(limit) if amount > quantity::nanos(limit) => {
                let why = format!("must be less than or equal to {name} limit of {limit}");
                causes.push(Cause::invalid(field, &value.to_string(), &why));
            }
            Some(_) => {}
            None if !is_shareable(name) => causes.push(Cause::required(
                format!("{at}.limits"),
                "Limit must be set for non overcommitable resources",
            )),
            None => {}
        }
    }
}

/// What is wrong with the name of a resource.
fn resource_name(name: &str) -> Vec<String> {
    let mut out = selector::key_problems(name);
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if out.is_empty() && !name.contains('/') && !standard {
        out.push("must be a standard resource type or fully qualified".to_owned());
        out.push("must be a standard resource for containers".to_owned());
    }
    out
}

/// Whether more of a resource may be promised than there is.
fn is_shareable(name: &str) -> bool {
    !name.starts_with("hugepages-") && (!name.contains('/') || name.contains("kubernetes.io/"))
}

fn probes(container: &Value, path: &str, causes: &mut Vec<Cause>) {
    for probe_name in PROBES {
        let Some(probe) = container.get(probe_name) else {
            continue;
        };
        let at = format!("{path}.{probe_name}");
        handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], &at, causes);
        let threshold = probe.get("successThreshold");
        if probe_name == "readinessProbe" {
            if let Some(seconds) = probe.get("terminationGracePeriodSeconds") {
                let field = format!("{at}.terminationGracePeriodSeconds");
                causes.push(Cause::invalid(
                    field,
                    &seconds.to_string(),
                    "must not be set for readinessProbes",
                ));
            }
        } else if threshold.is_some_and(|n| n.as_i64() != Some(1)) {
            causes.push(Cause::invalid(
                format!("{at}.successThreshold"),
                &shown(threshold),
                "must be 1",
            ));
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(lifecycle) = container.get("lifecycle").and_then(|l| l.get(hook)) {
            let at = format!("{path}.lifecycle.{hook}");
            handler(lifecycle, &["exec", "httpGet", "tcpSocket", "sleep"], &at, causes);
        }
    }
}

/// One way to ask or to act, and only one.
fn handler(handler: &Value, kinds: &[&str], at: &str, causes: &mut Vec<Cause>) {
    let mut given = kinds.iter().filter(|k| handler.get(**k).is_some());
    if given.next().is_none() {
        causes.push(Cause::required(at, "must specify a handler type"));
    }
    for more in given {
        causes.push(Cause::forbidden(
            format!("{at}.{more}"),
            "may not specify more than 1 handler type",
        ));
    }
}
