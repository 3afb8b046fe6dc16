//! EndpointSlices as they should be, as near to those that are there as can be. Pure.

use serde_json::{Map, Value, json};

use super::{
    MANAGED_BY, MANAGER, Member, SERVICE_NAME, TRIGGER, hostname, is_headless, protocol, reference, service_labels,
    since,
};
use crate::cluster::Key;
use crate::controllers::look::{list, name, namespace, owner_reference, text, uid};

/// Most endpoints of one slice.
const MOST: usize = 100;

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<Value>,
    /// Whole objects; metadata and contents count.
    pub(super) update: Vec<Value>,
    pub(super) delete: Vec<Key>,
}

/// Endpoints that have the same ports: the pods' uids with them.
struct Group<'p> {
    ports: Vec<Value>,
    endpoints: Vec<(&'p Value, Value)>,
}

/// What turns the slices of a Service into what they should be.
pub(super) fn plan(
    service: &Value,
    members: &[Member<'_>],
    there: &[Value],
    zone: &dyn Fn(&str) -> Option<String>,
) -> Plan {
    let mut plan = Plan::default();
    let families: Vec<&str> = families(service);
    for slice in there {
        if !families.contains(&text(slice, "/addressType")) {
            plan.delete.push(Key::of(slice));
        }
    }
    for family in families {
        let mut there: Vec<&Value> = there.iter().filter(|s| text(s, "/addressType") == family).collect();
        let before = (plan.create.len(), plan.delete.len());
        let count = there.len();
        // The first slices of a Service are there since it is.
        let begun = (count == 0).then(|| text(service, "/metadata/creationTimestamp").to_owned());
        for group in groups(service, members, family, zone) {
            let (same, others) = there
                .into_iter()
                .partition(|slice: &&Value| list(slice, "/ports") == group.ports.as_slice());
            there = others;
            fill(service, family, group, same, begun.as_ref(), &mut plan);
        }
        // Ports that nobody has any more. One empty slice says that there is nobody.
        let empty = |slice: &&&Value| list(slice, "/endpoints").is_empty() && list(slice, "/ports").is_empty();
        let nobody = plan.create.len() == before.0 && plan.delete.len() - before.1 + there.len() == count;
        let placeholder = there.iter().find(empty).filter(|_| nobody).map(|s| name(s));
        if let Some(slice) = there.iter().find(|s| Some(name(s)) == placeholder) {
            note(service, slice, list(slice, "/endpoints").to_vec(), None, &mut plan);
        }
        for slice in there.iter().filter(|s| Some(name(s)) != placeholder) {
            plan.delete.push(Key::of(slice));
        }
        if nobody && placeholder.is_none() {
            plan.create.push(slice(service, family, &[], Vec::new(), begun));
        }
    }
    plan
}

/// The kinds of addresses that a Service has.
fn families(service: &Value) -> Vec<&str> {
    let said: Vec<&str> = list(service, "/spec/ipFamilies")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    match (said.is_empty(), text(service, "/spec/clusterIP")) {
        (false, _) => said,
        (true, "" | "None") => vec!["IPv4", "IPv6"],
        (true, address) if address.contains(':') => vec!["IPv6"],
        _ => vec!["IPv4"],
    }
}

fn groups<'p>(
    service: &Value,
    members: &[Member<'p>],
    family: &str,
    zone: &dyn Fn(&str) -> Option<String>,
) -> Vec<Group<'p>> {
    let mut groups: Vec<Group<'p>> = Vec::new();
    for member in members {
        let addresses = addresses(member.pod, family);
        if addresses.is_empty() {
            continue;
        }
        let ports = ports(service, member);
        let endpoint = (member.pod, endpoint(service, member, &addresses, zone));
        match groups.iter_mut().find(|g| g.ports == ports) {
            Some(group) => group.endpoints.push(endpoint),
            None => groups.push(Group {
                ports,
                endpoints: vec![endpoint],
            }),
        }
    }
    groups
}

/// A pod's addresses of one family.
fn addresses<'p>(pod: &'p Value, family: &str) -> Vec<&'p str> {
    let all = list(pod, "/status/podIPs").iter().map(|ip| text(ip, "/ip"));
    let mut all: Vec<&str> = all.filter(|ip| !ip.is_empty()).collect();
    if all.is_empty() {
        all.push(text(pod, "/status/podIP"));
    }
    all.retain(|ip| !ip.is_empty() && ip.contains(':') == (family == "IPv6"));
    all
}

fn ports(service: &Value, member: &Member<'_>) -> Vec<Value> {
    let all = list(service, "/spec/ports");
    if all.is_empty() && is_headless(service) {
        return Vec::new();
    }
    let numbered = all.iter().zip(&member.ports);
    numbered
        .filter_map(|(port, number)| {
            let mut out = json!({"name": text(port, "/name"), "port": (*number)?, "protocol": protocol(port)});
            if let Some(app) = port.get("appProtocol") {
                out["appProtocol"] = app.clone();
            }
            Some(out)
        })
        .collect()
}

fn endpoint(service: &Value, member: &Member<'_>, addresses: &[&str], zone: &dyn Fn(&str) -> Option<String>) -> Value {
    let always = service["spec"]["publishNotReadyAddresses"] == true;
    let mut out = json!({
        "addresses": addresses,
        "conditions": {
            "ready": always || (member.serving && !member.terminating),
            "serving": member.serving,
            "terminating": member.terminating,
        },
        "targetRef": reference(member.pod),
    });
    let node = text(member.pod, "/spec/nodeName");
    if !node.is_empty() {
        out["nodeName"] = node.into();
        if let Some(zone) = zone(node) {
            out["zone"] = zone.into();
        }
    }
    if let Some(host) = hostname(service, member.pod) {
        out["hostname"] = host.into();
    }
    out
}

/// Puts the endpoints of a group into the slices that have its ports, and into new ones.
fn fill(service: &Value, family: &str, group: Group<'_>, there: Vec<&Value>, begun: Option<&String>, plan: &mut Plan) {
    let mut wanted: Vec<Option<(&Value, Value)>> = group.endpoints.into_iter().map(Some).collect();
    // Who is in a slice stays in it.
    let mut kept: Vec<(&Value, Vec<Value>, Vec<&Value>)> = Vec::new();
    for slice in there {
        let mut endpoints = Vec::new();
        let mut changed = Vec::new();
        for old in list(slice, "/endpoints") {
            let id = text(old, "/targetRef/uid");
            let new = wanted
                .iter_mut()
                .find(|w| w.as_ref().is_some_and(|(pod, _)| uid(pod) == id));
            if let Some((pod, endpoint)) = new.and_then(Option::take) {
                if endpoint["conditions"]["serving"] != old["conditions"]["serving"] {
                    changed.push(pod);
                }
                endpoints.push(endpoint);
            }
        }
        kept.push((slice, endpoints, changed));
    }
    // Slices that change anyway are filled before others are touched.
    let mut new = wanted.into_iter().flatten();
    kept.sort_by_key(|(slice, endpoints, _)| list(slice, "/endpoints") == endpoints.as_slice());
    for (_, endpoints, changed) in &mut kept {
        let room = MOST.saturating_sub(endpoints.len());
        for (pod, endpoint) in new.by_ref().take(room) {
            endpoints.push(endpoint);
            changed.push(pod);
        }
    }
    let mut rest: Vec<(&Value, Value)> = new.collect();
    while !rest.is_empty() {
        let later = rest.split_off(rest.len().min(MOST));
        let at = since(rest.iter().map(|(pod, _)| *pod))
            .into_iter()
            .chain(begun.cloned())
            .min();
        let endpoints = rest.into_iter().map(|(_, endpoint)| endpoint).collect();
        plan.create.push(slice(service, family, &group.ports, endpoints, at));
        rest = later;
    }
    for (slice, endpoints, changed) in kept {
        if endpoints.is_empty() {
            plan.delete.push(Key::of(slice));
        } else {
            note(service, slice, endpoints, since(changed.into_iter()), plan);
        }
    }
}

/// Notes what a slice should be, if it is not.
fn note(service: &Value, there: &Value, endpoints: Vec<Value>, at: Option<String>, plan: &mut Plan) {
    let labels = Value::Object(labels(service));
    if list(there, "/endpoints") == endpoints.as_slice() && there["metadata"]["labels"] == labels {
        return;
    }
    let mut wanted = there.clone();
    wanted["endpoints"] = endpoints.into();
    wanted["metadata"]["labels"] = labels;
    let mut annotations = there["metadata"]["annotations"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    match at {
        Some(at) => drop(annotations.insert(TRIGGER.to_owned(), at.into())),
        None => drop(annotations.remove(TRIGGER)),
    }
    wanted["metadata"]["annotations"] = annotations.into();
    plan.update.push(wanted);
}

fn labels(service: &Value) -> Map<String, Value> {
    let mut labels = service_labels(service);
    labels.insert(SERVICE_NAME.to_owned(), json!(name(service)));
    labels.insert(MANAGED_BY.to_owned(), json!(MANAGER));
    labels
}

fn slice(service: &Value, family: &str, ports: &[Value], endpoints: Vec<Value>, at: Option<String>) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": format!("{}-", name(service)),
            "namespace": namespace(service),
            "labels": labels(service),
            "annotations": at.map(|at| json!({TRIGGER: at})),
            "ownerReferences": [owner_reference(service)],
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": ports,
    })
}
