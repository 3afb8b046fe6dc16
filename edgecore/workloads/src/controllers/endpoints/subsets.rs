//! `subsets` of Endpoints. Pure.

use serde_json::{Value, json};

use super::{Member, hostname, is_headless, protocol, reference};
use crate::controllers::look::{list, text, uid};

/// Most addresses of one Endpoints.
const MOST: usize = 1000;

/// An address, and whether it is ready.
type Address = (Value, bool);

/// The subsets of a Service: ports that the same pods have stand together. Whether some addresses did not fit.
pub(super) fn subsets(service: &Value, members: &[Member<'_>]) -> (Vec<Value>, bool) {
    let always = service["spec"]["publishNotReadyAddresses"] == true;
    let mut members: Vec<&Member<'_>> = members.iter().filter(|m| always || !m.terminating).collect();
    members.sort_by_key(|m| (text(m.pod, "/status/podIP"), uid(m.pod)));
    let address = |member: &Member<'_>| {
        let ip = of_family(service, member.pod)?;
        let mut out = json!({"ip": ip, "targetRef": reference(member.pod)});
        let node = text(member.pod, "/spec/nodeName");
        if !node.is_empty() {
            out["nodeName"] = node.into();
        }
        if let Some(host) = hostname(service, member.pod) {
            out["hostname"] = host.into();
        }
        Some((out, always || member.serving))
    };
    let ports = list(service, "/spec/ports");
    // Each port with the pods that have it, by its number there; then ports of the same pods together.
    let mut by_port: Vec<(Option<Value>, Vec<Address>)> = Vec::new();
    for member in members {
        let Some(address) = address(member) else { continue };
        let said = ports.iter().zip(&member.ports).filter_map(|(port, number)| {
            let mut out = json!({"port": (*number)?, "protocol": protocol(port)});
            for field in ["name", "appProtocol"] {
                if let Some(value) = port.get(field).filter(|v| *v != "") {
                    out[field] = value.clone();
                }
            }
            Some(Some(out))
        });
        let none = ports.is_empty() && is_headless(service);
        for port in said.chain(none.then_some(None)) {
            match by_port.iter_mut().find(|(p, _)| *p == port) {
                Some((_, addresses)) => addresses.push(address.clone()),
                None => by_port.push((port, vec![address.clone()])),
            }
        }
    }
    let mut grouped: Vec<(Vec<Value>, Vec<Address>)> = Vec::new();
    for (port, addresses) in by_port {
        match grouped.iter_mut().find(|(_, a)| *a == addresses) {
            Some((ports, _)) => ports.extend(port),
            None => grouped.push((port.into_iter().collect(), addresses)),
        }
    }
    let mut room = MOST;
    let mut cut = false;
    let mut out = Vec::new();
    for (ports, addresses) in grouped {
        let (ready, unready): (Vec<Address>, Vec<Address>) = addresses.into_iter().partition(|(_, ready)| *ready);
        let mut subset = json!({});
        for (field, addresses) in [("addresses", ready), ("notReadyAddresses", unready)] {
            let fitting: Vec<Value> = addresses.iter().take(room).map(|(a, _)| a.clone()).collect();
            cut |= fitting.len() < addresses.len();
            room -= fitting.len();
            if !fitting.is_empty() {
                subset[field] = fitting.into();
            }
        }
        if !ports.is_empty() {
            subset["ports"] = ports.into();
        }
        if subset.get("addresses").is_some() || subset.get("notReadyAddresses").is_some() {
            out.push(subset);
        }
    }
    (out, cut)
}

/// The pod's address of the Service's first family.
fn of_family<'p>(service: &Value, pod: &'p Value) -> Option<&'p str> {
    let six = match list(service, "/spec/ipFamilies").first().and_then(Value::as_str) {
        Some(family) => family == "IPv6",
        None => text(service, "/spec/clusterIP").contains(':'),
    };
    let all = list(pod, "/status/podIPs").iter().map(|ip| text(ip, "/ip"));
    all.chain([text(pod, "/status/podIP")])
        .find(|ip| !ip.is_empty() && ip.contains(':') == six)
}
