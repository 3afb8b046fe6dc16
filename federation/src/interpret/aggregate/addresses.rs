//! The addresses of load balancers: the union of the members', in order.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::super::look::{list, number, text};
use super::put_unless_zero;

/// What tells addresses apart, in the order that they are listed in: by name, those without one last; by number; by mode, that without one last.
type Address = (bool, String, String, bool, String);
/// A port, its protocol and what is wrong with it.
type Port = (i64, String, Option<String>);

pub(super) fn service(statuses: &[&Value]) -> Map<String, Value> {
    union(statuses, true)
}

pub(super) fn ingress(statuses: &[&Value]) -> Map<String, Value> {
    union(statuses, false)
}

fn union(statuses: &[&Value], with_mode: bool) -> Map<String, Value> {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut found: BTreeMap<Address, BTreeSet<Port>> = BTreeMap::new();
    for entry in statuses.iter().flat_map(|status| list(status, "/loadBalancer/ingress")) {
        let (name, ip) = (text(entry, "/hostname"), text(entry, "/ip"));
        if name.is_empty() && ip.is_empty() {
            continue;
        }
        let mode = if with_mode { text(entry, "/ipMode") } else { "" };
        let address = (
            name.is_empty(),
            name.to_owned(),
            ip.to_owned(),
            mode.is_empty(),
            mode.to_owned(),
        );
        let ports = found.entry(address).or_default();
        for port in list(entry, "/ports") {
            ports.insert((
                number(port, "/port"),
                text(port, "/protocol").to_owned(),
                some(text(port, "/error")),
            ));
        }
    }
    let entries: Vec<Value> = found
        .into_iter()
        .map(|(address, ports)| entry(address, ports))
        .collect();
    let mut balancer = Map::new();
    put_unless_zero(&mut balancer, "ingress", entries.into());
    Map::from_iter([("loadBalancer".to_owned(), Value::Object(balancer))])
}

fn entry((_, name, ip, _, mode): Address, ports: BTreeSet<Port>) -> Value {
    let port = |(port, protocol, error): Port| {
        let mut entry = Map::from_iter([
            ("port".to_owned(), json!(port)),
            ("protocol".to_owned(), json!(protocol)),
        ]);
        put_unless_zero(&mut entry, "error", json!(error));
        Value::Object(entry)
    };
    let ports: Vec<Value> = ports.into_iter().map(port).collect();
    let mut entry = Map::new();
    for (field, value) in [
        ("hostname", json!(name)),
        ("ip", json!(ip)),
        ("ipMode", json!(mode)),
        ("ports", json!(ports)),
    ] {
        put_unless_zero(&mut entry, field, value);
    }
    Value::Object(entry)
}
