//! What a pod takes of a node: amounts of resources, ports of the host.

use std::collections::BTreeMap;

use metastore::api::quantity_nanos;
use serde_json::Value;

use super::super::look::{list, pairs, text, whole};

/// Amounts by resource, in billionths.
pub(super) type Amounts = BTreeMap<String, i128>;

/// A port of the host that a pod wants for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPort {
    address: String,
    protocol: String,
    port: i64,
}

impl HostPort {
    /// Whether both cannot be had at once: the same port, at the same address or at any.
    pub(super) fn conflicts(&self, other: &Self) -> bool {
        const ANY: &str = "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || self.address == ANY || other.address == ANY)
    }
}

/// A list of resources as amounts.
pub(super) fn amounts(object: &Value, pointer: &str) -> Amounts {
    pairs(object, pointer)
        .filter_map(|(name, said)| Some((name.clone(), quantity_nanos(said)?)))
        .collect()
}

fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = to.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

fn most(of: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let highest = of.entry(name.clone()).or_default();
        *highest = (*highest).max(*amount);
    }
}

/// What a pod asks for: its main containers and sidecars together, or the most that an init container asks for beside the sidecars that run by
/// then, whichever is more; what the pod asks for as a whole comes before that; its overhead on top.
pub(super) fn of_pod(pod: &Value) -> Amounts {
    let mut running = Amounts::new();
    for container in list(pod, "/spec/containers") {
        let mut asked = amounts(container, "/resources/requests");
        // A container that is being made smaller still has what it had.
        let has = list(pod, "/status/containerStatuses")
            .iter()
            .find(|s| s["name"] == container["name"]);
        if let Some(has) = has {
            most(&mut asked, &amounts(has, "/allocatedResources"));
        }
        add(&mut running, &asked);
    }
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in list(pod, "/spec/initContainers") {
        let asked = amounts(container, "/resources/requests");
        if text(container, "/restartPolicy") == "Always" {
            add(&mut sidecars, &asked);
            most(&mut starting, &sidecars);
        } else {
            let mut together = sidecars.clone();
            add(&mut together, &asked);
            most(&mut starting, &together);
        }
    }
    add(&mut running, &sidecars);
    most(&mut running, &starting);
    running.extend(amounts(pod, "/spec/resources/requests"));
    add(&mut running, &amounts(pod, "/spec/overhead"));
    running
}

/// The ports of the host that a pod wants.
pub(super) fn host_ports(pod: &Value) -> Vec<HostPort> {
    let main = list(pod, "/spec/containers").iter();
    let sidecars = list(pod, "/spec/initContainers")
        .iter()
        .filter(|c| text(c, "/restartPolicy") == "Always");
    main.chain(sidecars)
        .flat_map(|container| list(container, "/ports"))
        .filter_map(|port| {
            let or = |value: &str, default: &str| if value.is_empty() { default } else { value }.to_owned();
            Some(HostPort {
                address: or(text(port, "/hostIP"), "0.0.0.0"),
                protocol: or(text(port, "/protocol"), "TCP"),
                port: whole(port, "/hostPort").filter(|p| *p > 0)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const CORE: i128 = 1_000_000_000;

    fn cpu(spec: Value) -> i128 {
        of_pod(&json!({"spec": spec})).get("cpu").copied().unwrap_or_default() * 1000 / CORE
    }

    fn container(cpu: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    fn sidecar(cpu: &str) -> Value {
        json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}})
    }

    #[test]
    fn a_pod_takes_the_most_that_it_ever_needs_at_once() {
        for (spec, milli) in [
            (json!({"containers": [container("100m"), container("200m")]}), 300),
            (
                json!({"containers": [container("100m")], "initContainers": [container("500m")]}),
                500,
            ),
            (
                json!({"containers": [container("100m")], "initContainers": [sidecar("50m"), container("500m")]}),
                550,
            ),
            (
                json!({"containers": [container("100m")], "initContainers": [container("500m"), sidecar("50m")]}),
                500,
            ),
            (
                json!({"containers": [container("1")], "initContainers": [sidecar("50m")], "overhead": {"cpu": "10m"}}),
                1060,
            ),
            (
                json!({"containers": [container("1")], "resources": {"requests": {"cpu": "1500m"}}}),
                1500,
            ),
            (json!({"containers": [{"name": "c"}]}), 0),
        ] {
            assert_eq!(cpu(spec.clone()), milli, "{spec}");
        }
        let shrinking = json!({"spec": {"containers": [container("100m")]},
            "status": {"containerStatuses": [{"name": "c", "allocatedResources": {"cpu": "400m"}}]}});
        assert_eq!(of_pod(&shrinking)["cpu"], CORE * 4 / 10);
    }

    #[test]
    fn ports_of_the_host_conflict_where_their_addresses_do() {
        let ports = |ip: &str, protocol: &str, port: i64| {
            let spec = json!({"containers": [{"ports": [{"hostPort": port, "hostIP": ip, "protocol": protocol}, {"containerPort": 1}]}]});
            host_ports(&json!({ "spec": spec })).remove(0)
        };
        let any = ports("", "TCP", 80);
        for (other, conflicts) in [
            (ports("", "", 80), true),
            (ports("127.0.0.1", "TCP", 80), true),
            (ports("", "UDP", 80), false),
            (ports("", "TCP", 81), false),
        ] {
            assert_eq!(any.conflicts(&other), conflicts, "{other:?}");
        }
        assert!(!ports("127.0.0.1", "TCP", 80).conflicts(&ports("127.0.0.2", "TCP", 80)));
    }
}
