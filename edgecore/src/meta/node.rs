//! The gateway's own Node object: what it is, what runs on it, whether it is ready.
//!
//! Written at start and when something in it really changed, never on a timer: a Node that says the same thing again costs flash
//! wear here and bytes on the link. That the gateway is alive is the session's business, not this object's.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};

use serde_json::{Map, Value, json};

/// Facts of the machine, read once at start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) hostname: String,
    pub(crate) arch: &'static str,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
    pub(crate) machine_id: String,
    pub(crate) boot_id: String,
    pub(crate) address: Option<IpAddr>,
    pub(crate) cpus: usize,
    pub(crate) memory_kib: u64,
}

impl Facts {
    /// Reads them from `/proc` and `/etc`; what cannot be read stays empty.
    pub(crate) fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let field = |text: &str, name: &str| -> String {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default()
                .trim_matches(|c: char| c == '"' || c.is_whitespace())
                .to_owned()
        };
        let memory = field(&text("/proc/meminfo"), "MemTotal:");
        Self {
            hostname: text("/proc/sys/kernel/hostname"),
            arch: architecture(std::env::consts::ARCH),
            kernel: text("/proc/sys/kernel/osrelease"),
            os_image: field(&text("/etc/os-release"), "PRETTY_NAME="),
            machine_id: text("/etc/machine-id"),
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            address: outward_address(),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory_kib: memory
                .split_whitespace()
                .next()
                .and_then(|n| n.parse().ok())
                .unwrap_or(0),
        }
    }
}

/// Go's names, which Kubernetes labels use.
const fn architecture(arch: &'static str) -> &'static str {
    match arch.as_bytes() {
        b"x86_64" => "amd64",
        b"aarch64" => "arm64",
        b"x86" => "386",
        _ => arch,
    }
}

/// The address this machine would speak from to the outside. Connecting a UDP socket sends nothing.
fn outward_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified())
}

/// What the Node should say now.
#[derive(Clone, Debug)]
pub(crate) struct NodeState<'a> {
    pub(crate) name: &'a str,
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) facts: &'a Facts,
    /// RFC 3339, for conditions that change now.
    pub(crate) now: &'a str,
}

impl NodeState<'_> {
    /// The object to write over `old`, or `None` when `old` says it all already. Foreign labels, annotations, taints and times of
    /// conditions that did not change are kept.
    pub(crate) fn over(&self, old: Option<&Value>) -> Option<Value> {
        let mut node = old.cloned().unwrap_or_else(|| {
            json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {
                    "name": self.name,
                    "uid": uuid::Uuid::new_v4().to_string(),
                    "creationTimestamp": self.now,
                },
                "spec": {},
            })
        });
        let labels = child(child(&mut node, "metadata"), "labels");
        for (key, value) in self.own_labels() {
            labels[key] = value.into();
        }
        let status = child(&mut node, "status");
        let conditions = self.conditions(status.get("conditions"));
        status["conditions"] = conditions;
        status["nodeInfo"] = self.node_info();
        status["addresses"] = self.addresses();
        let capacity = json!({
            "cpu": self.facts.cpus.to_string(),
            "memory": format!("{}Ki", self.facts.memory_kib),
            "pods": "0",
        });
        status["allocatable"] = capacity.clone();
        status["capacity"] = capacity;
        (old != Some(&node)).then_some(node)
    }

    fn own_labels(&self) -> BTreeMap<&str, &str> {
        let mut labels = BTreeMap::from([
            ("kubernetes.io/arch", self.facts.arch),
            ("kubernetes.io/hostname", self.name),
            ("kubernetes.io/os", std::env::consts::OS),
            ("node-role.kubernetes.io/edge", ""),
        ]);
        labels.extend(self.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        labels
    }

    fn node_info(&self) -> Value {
        let facts = self.facts;
        json!({
            "architecture": facts.arch,
            "operatingSystem": std::env::consts::OS,
            "kernelVersion": facts.kernel,
            "osImage": facts.os_image,
            "machineID": facts.machine_id,
            "systemUUID": facts.machine_id,
            "bootID": facts.boot_id,
            "kubeletVersion": concat!("v", env!("CARGO_PKG_VERSION"), "+kurator"),
            "kubeProxyVersion": "",
            "containerRuntimeVersion": "",
        })
    }

    fn addresses(&self) -> Value {
        let mut addresses = Vec::new();
        if let Some(address) = self.facts.address {
            addresses.push(json!({"type": "InternalIP", "address": address.to_string()}));
        }
        if !self.facts.hostname.is_empty() {
            addresses.push(json!({"type": "Hostname", "address": self.facts.hostname}));
        }
        Value::Array(addresses)
    }

    fn conditions(&self, old: Option<&Value>) -> Value {
        let wanted = [
            ("Ready", "True", "AgentRunning", "devices are served"),
            (
                "ContainerRuntimeReady",
                "False",
                "NoRuntime",
                "no container runtime is used: this gateway serves devices only",
            ),
        ];
        let find = |kind: &str| {
            old.and_then(Value::as_array)
                .and_then(|all| all.iter().find(|c| c["type"] == kind))
        };
        Value::Array(
            wanted
                .into_iter()
                .map(|(kind, status, reason, message)| {
                    let since = find(kind)
                        .filter(|c| c["status"] == status)
                        .and_then(|c| c["lastTransitionTime"].as_str())
                        .unwrap_or(self.now);
                    json!({
                        "type": kind, "status": status, "reason": reason, "message": message,
                        "lastTransitionTime": since, "lastHeartbeatTime": since,
                    })
                })
                .collect(),
        )
    }
}

/// The object under `key`, made when it is not there (or is something else).
fn child<'v>(value: &'v mut Value, key: &str) -> &'v mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let slot = &mut value[key];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state<'a>(labels: &'a BTreeMap<String, String>, facts: &'a Facts, now: &'a str) -> NodeState<'a> {
        NodeState {
            name: "gw-1",
            labels,
            facts,
            now,
        }
    }

    #[test]
    fn written_once_and_again_only_when_something_changed() {
        let facts = Facts::read();
        let mut labels = BTreeMap::from([("line".to_owned(), "press".to_owned())]);
        let first = state(&labels, &facts, "2026-01-01T00:00:00Z").over(None).unwrap();
        assert_eq!(first["metadata"]["labels"]["line"], "press");
        assert_eq!(first["status"]["conditions"][0]["type"], "Ready");
        assert_eq!(state(&labels, &facts, "2026-01-02T00:00:00Z").over(Some(&first)), None);

        labels.insert("line".to_owned(), "lathe".to_owned());
        let second = state(&labels, &facts, "2026-01-03T00:00:00Z")
            .over(Some(&first))
            .unwrap();
        assert_eq!(second["metadata"]["labels"]["line"], "lathe");
        assert_eq!(
            second["status"]["conditions"][0]["lastTransitionTime"],
            "2026-01-01T00:00:00Z"
        );
        assert_eq!(second["metadata"]["uid"], first["metadata"]["uid"]);
    }

    #[test]
    fn what_others_wrote_is_kept() {
        let facts = Facts::default();
        let labels = BTreeMap::new();
        let mut node = state(&labels, &facts, "2026-01-01T00:00:00Z").over(None).unwrap();
        node["metadata"]["labels"]["team"] = "a".into();
        node["spec"]["unschedulable"] = true.into();
        assert_eq!(state(&labels, &facts, "x").over(Some(&node)), None);
    }

    #[test]
    fn this_machine_is_described() {
        let facts = Facts::read();
        assert!(facts.cpus >= 1 && facts.memory_kib > 0 && !facts.kernel.is_empty());
    }
}
