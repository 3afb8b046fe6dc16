//! Where Services lead: endpoints, in the older form and in slices.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::checks::{self, At, Faults, items, refuse, word};
use super::network::some_of;
use super::{computed, row, text};
use crate::api::kinds::{KindSpec, Storage};
use crate::api::status::Cause;
use crate::api::table::Column;

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![endpoints(), slice()]
}

/// What an address of an endpoint may not be: clients outside the machine would be led astray.
pub(super) fn endpoint_ip(text: &str) -> Faults {
    let Some(ip) = checks::parse_ip(text) else {
        return vec!["must be a valid IP address"];
    };
    // `::ffff:127.0.0.1` leads where `127.0.0.1` does.
    let ip = ip.to_canonical();
    let (local, multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    let mut out = Faults::new();
    for (wrong, why) in [
        (ip.is_unspecified(), "may not be unspecified"),
        (
            ip.is_loopback(),
            "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ),
        (local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        (
            multicast,
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
        ),
    ] {
        if wrong {
            out.push(why);
        }
    }
    out
}

// ---- Endpoints ----

fn endpoints() -> KindSpec {
    let base = row("", "core", "Endpoints", &["ep"]);
    KindSpec {
        plural: "endpoints".into(),
        storage: Storage {
            plural: "endpoints".into(),
            ..base.storage.clone()
        },
        create_on_update: true,
        validate: Some(validate_endpoints),
        deprecated: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into()),
        columns: vec![
            Column::name(),
            computed("Endpoints", "string", "The addresses with their ports.", addresses),
            Column::age(),
        ],
        ..base
    }
}

/// An address with a port, as it stands in a URL.
fn with_port(ip: &str, port: &Value) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

fn addresses(endpoints: &Value) -> Value {
    const MAX: usize = 3;
    let subsets = items(endpoints, "subsets");
    if subsets.is_empty() {
        return json!("<none>");
    }
    let (mut list, mut count) = (Vec::new(), 0);
    for subset in subsets {
        let ips = items(subset, "addresses");
        let ports = items(subset, "ports");
        count += ips.len() * ports.len().max(1);
        for port in ports.iter().map(Some).chain(ports.is_empty().then_some(None)) {
            for ip in ips.iter().take(MAX + 1) {
                let ip = word(ip, "ip");
                list.push(port.map_or_else(|| ip.to_owned(), |p| with_port(ip, &p["port"])));
            }
            list.truncate(MAX + 1);
        }
    }
    some_of(list, MAX, count, "")
}

fn validate_endpoints(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    if old.is_some_and(|o| o.get("subsets") == new.get("subsets")) {
        return;
    }
    let list = At::top("subsets");
    for (i, subset) in items(new, "subsets").iter().enumerate() {
        let at = list.item(i);
        if items(subset, "addresses").is_empty() && items(subset, "notReadyAddresses").is_empty() {
            causes.push(Cause::required(at, "must specify `addresses` or `notReadyAddresses`"));
        }
        for field in ["addresses", "notReadyAddresses"] {
            let list = at.member(field);
            for (a, address) in items(subset, field).iter().enumerate() {
                let at = list.item(a);
                let ip = word(address, "ip");
                refuse(at.member("ip"), ip, &checks::ip(ip), causes);
                refuse(at.member("ip"), ip, &endpoint_ip(ip), causes);
            }
        }
        let ports = items(subset, "ports");
        let list = at.member("ports");
        for (p, port) in ports.iter().enumerate().filter(|_| ports.len() > 1) {
            if word(port, "name").is_empty() {
                let at = list.item(p);
                causes.push(Cause::required(at.member("name"), ""));
            }
        }
    }
}

// ---- EndpointSlice ----

fn slice() -> KindSpec {
    KindSpec {
        generation: true,
        prepare: Some(prepare_slice),
        validate: Some(validate_slice),
        columns: vec![
            Column::name(),
            text("AddressType", "What the addresses are.", ".addressType"),
            computed("Ports", "string", "The ports.", slice_ports),
            computed("Endpoints", "string", "The addresses.", slice_addresses),
            Column::age(),
        ],
        ..row("discovery.k8s.io", "discovery", "EndpointSlice", &[])
    }
}

/// The older place for zones is read, but not from those who know the newer one.
fn prepare_slice(new: &mut Value, old: Option<&Value>, _now: &str) {
    if old.is_some_and(|o| o.get("endpoints") == new.get("endpoints")) {
        return;
    }
    if let Some(Value::Array(endpoints)) = new.get_mut("endpoints") {
        for endpoint in endpoints {
            if let Value::Object(endpoint) = endpoint {
                endpoint.remove("deprecatedTopology");
            }
        }
    }
}

fn slice_ports(slice: &Value) -> Value {
    let ports = items(slice, "ports");
    let list = ports
        .iter()
        .take(4)
        .map(|p| match (p.get("port"), p.get("name")) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.as_str().unwrap_or_default().to_owned(),
            (None, None) => "*".to_owned(),
        })
        .collect();
    some_of(list, 3, ports.len(), "<unset>")
}

fn slice_addresses(slice: &Value) -> Value {
    let all = || items(slice, "endpoints").iter().flat_map(|e| items(e, "addresses"));
    let list = all()
        .take(4)
        .map(|a| a.as_str().unwrap_or_default().to_owned())
        .collect();
    some_of(list, 3, all().count(), "<unset>")
}

fn validate_slice(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    const MAX_PORTS: usize = 20_000;
    const MAX_ENDPOINTS: usize = 1000;
    let ports = items(new, "ports");
    let list = At::top("ports");
    if ports.len() > MAX_PORTS {
        causes.push(Cause::too_many(list, ports.len(), MAX_PORTS as u64));
    }
    let mut seen = std::collections::BTreeSet::new();
    for (i, port) in ports.iter().enumerate().take(MAX_PORTS) {
        let name = word(port, "name");
        if !seen.insert(name) {
            let at = list.item(i);
            causes.push(Cause::duplicate(at.member("name"), &format!("{name:?}")));
        }
    }
    let kind = word(new, "addressType");
    if let Some(old) = old
        && old.get("addressType") != new.get("addressType")
    {
        causes.push(Cause::invalid("addressType", &format!("{kind:?}"), checks::IMMUTABLE));
    }
    if old.is_some_and(|o| o.get("endpoints") == new.get("endpoints")) {
        return;
    }
    let endpoints = items(new, "endpoints");
    let list = At::top("endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        causes.push(Cause::too_many(list, endpoints.len(), MAX_ENDPOINTS as u64));
        return;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        check_endpoint(list.item(i), endpoint, kind, causes);
    }
}

fn check_endpoint(at: At<'_>, endpoint: &Value, kind: &str, causes: &mut Vec<Cause>) {
    const MAX_ADDRESSES: usize = 100;
    const MAX_TOPOLOGY: usize = 16;
    const MAX_HINTS: usize = 8;
    let addresses = items(endpoint, "addresses");
    let list = at.member("addresses");
    if addresses.is_empty() {
        causes.push(Cause::required(list, "must contain at least 1 address"));
    } else if addresses.len() > MAX_ADDRESSES {
        causes.push(Cause::too_many(list, addresses.len(), MAX_ADDRESSES as u64));
    }
    for (i, address) in addresses.iter().enumerate() {
        check_address(list, i, address.as_str().unwrap_or_default(), kind, causes);
    }
    let topology = endpoint.get("deprecatedTopology").and_then(Value::as_object);
    if let Some(map) = topology.filter(|m| m.len() > MAX_TOPOLOGY) {
        causes.push(Cause::too_many(
            at.member("deprecatedTopology"),
            map.len(),
            MAX_TOPOLOGY as u64,
        ));
    }
    let hints = at.member("hints");
    for (field, rule) in [
        ("forZones", checks::label_value as fn(&str) -> Faults),
        ("forNodes", checks::dns_subdomain),
    ] {
        let list = hints.member(field);
        let named = items(&endpoint["hints"], field);
        if named.len() > MAX_HINTS {
            causes.push(Cause::too_many(list, named.len(), MAX_HINTS as u64));
            return;
        }
        let mut seen = std::collections::BTreeSet::new();
        for (i, hint) in named.iter().enumerate() {
            let at = list.item(i);
            let name = word(hint, "name");
            if !seen.insert(name) {
                causes.push(Cause::duplicate(at.member("name"), &format!("{name:?}")));
            }
            refuse(at.member("name"), name, &rule(name), causes);
        }
    }
}

fn check_address(list: At<'_>, index: usize, address: &str, kind: &str, causes: &mut Vec<Cause>) {
    let at = list.item(index);
    match kind {
        "IPv4" | "IPv6" => {
            let faults = if kind == "IPv4" {
                checks::ip(address)
            } else {
                checks::canonical_ip(address)
            };
            if !faults.is_empty() {
                refuse(at, address, &faults, causes);
                return;
            }
            if checks::parse_ip(address).is_some_and(|ip| ip.is_ipv4() != (kind == "IPv4")) {
                let why = "must be an address of the type of the slice";
                causes.push(Cause::invalid(list, &format!("{address:?}"), why));
            }
            refuse(at, address, &endpoint_ip(address), causes);
        }
        "FQDN" => {
            let name = address.strip_suffix('.').unwrap_or(address);
            if name.is_empty() {
                causes.push(Cause::required(at, ""));
            } else if !checks::dns_subdomain(name).is_empty() {
                refuse(at, name, &["must be a domain name"], causes);
            } else if !name.contains('.') {
                refuse(
                    at,
                    name,
                    &["should be a domain with at least two segments separated by dots"],
                    causes,
                );
            } else if let Some(label) = name.split('.').find(|l| !checks::dns_label(l).is_empty()) {
                refuse(at, label, &["must be no more than 63 characters"], causes);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_lead_astray_are_refused() {
        for good in ["10.42.0.3", "fd00::3", "::ffff:10.42.0.3"] {
            assert!(endpoint_ip(good).is_empty(), "{good}");
        }
        for bad in [
            "",
            "0.0.0.0",
            "127.0.0.1",
            "169.254.169.254",
            "224.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:0.0.0.0",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:224.0.0.1",
        ] {
            assert_eq!(endpoint_ip(bad).len(), 1, "{bad}");
        }
    }
}
