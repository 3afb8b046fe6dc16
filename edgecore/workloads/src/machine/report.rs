//! What the Node should say about this machine, put together from facts, the runtime's standing and what runs short. Pure.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::facts::Facts;
use super::limits::Signal;
use super::standing::Standing;
use crate::settings::Settings;

/// Images that a Node shows, the largest; and names of each.
const IMAGES: usize = 50;
const IMAGE_NAMES: usize = 5;

/// One of the Node's conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `Ready` …
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// In one word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// What the Node says about the machine it is. What is not known (yet) is not in it, and what the Node said of that before stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Fields of `status`: `capacity`, `allocatable`, `nodeInfo`, `addresses`, `images` …
    pub status: Map<String, Value>,
    /// In the order in which the Node lists them.
    pub conditions: Vec<Condition>,
    /// Range of the pods' addresses, where pods run.
    pub pod_cidr: Option<String>,
}

/// Which resources are short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pressure {
    pub(super) memory: bool,
    pub(super) disk: bool,
    pub(super) pids: bool,
}

impl Pressure {
    /// The conditions that hold, as they are called.
    pub(super) fn names(self) -> Vec<&'static str> {
        let all = [
            (self.memory, "MemoryPressure"),
            (self.disk, "DiskPressure"),
            (self.pids, "PIDPressure"),
        ];
        all.into_iter()
            .filter(|(holds, _)| *holds)
            .map(|(_, name)| name)
            .collect()
    }
}

/// All that a report is made of.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) facts: Facts,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) standing: Standing,
    pub(super) images: Vec<Value>,
    /// None: not looked at yet.
    pub(super) pressure: Option<Pressure>,
    /// What the pod network lacks beyond what the runtime says of it.
    pub(super) network: Option<String>,
}

impl Known {
    /// The report.
    pub(super) fn report(&self, settings: &Settings) -> Report {
        let mut status = Map::new();
        let (capacity, allocatable) = self.amounts(settings);
        status.insert("capacity".to_owned(), capacity.into());
        status.insert("allocatable".to_owned(), allocatable.into());
        status.insert("addresses".to_owned(), self.addresses());
        let mut info = self.facts.info.clone();
        match &self.standing {
            Standing::Up { version, handlers, .. } => {
                info.insert("containerRuntimeVersion".to_owned(), version.as_str().into());
                status.insert("runtimeHandlers".to_owned(), handlers.clone());
                status.insert("images".to_owned(), self.images.clone().into());
            }
            Standing::Unused { .. } => {
                info.insert("containerRuntimeVersion".to_owned(), "".into());
                status.insert("runtimeHandlers".to_owned(), Value::Array(Vec::new()));
                status.insert("images".to_owned(), Value::Array(Vec::new()));
            }
            Standing::Unknown | Standing::Down { .. } => {}
        }
        status.insert("nodeInfo".to_owned(), info.into());
        Report {
            status,
            conditions: self.conditions(),
            pod_cidr: Some(settings.pod_cidr.clone())
                .filter(|cidr| !cidr.is_empty() && self.standing.runs_pods() == Some(true)),
        }
    }

    fn amounts(&self, settings: &Settings) -> (Map<String, Value>, Map<String, Value>) {
        let facts = &self.facts;
        let (eviction, reserved) = (&settings.eviction, &settings.reserved);
        let (memory_kept, disk_kept) = reserved.bytes();
        let huge: u64 = facts.huge_pages.iter().map(|(_, bytes)| bytes).sum();
        let memory = facts
            .memory
            .saturating_sub(memory_kept.saturating_add(eviction.least(Signal::Memory, facts.memory)))
            .saturating_sub(huge);
        let disk = facts
            .disk
            .saturating_sub(disk_kept.saturating_add(eviction.least(Signal::NodeFs, facts.disk)));
        let ki = |bytes: u64| Value::from(format!("{}Ki", bytes / 1024));
        let milli = (facts.cpus * 1000).saturating_sub(reserved.milli_cpus());
        let cpu = if milli % 1000 == 0 {
            (milli / 1000).to_string()
        } else {
            format!("{milli}m")
        };
        let mut capacity = Map::new();
        let mut allocatable = Map::new();
        let mut put = |name: &str, whole: Value, left: Value| {
            capacity.insert(name.to_owned(), whole);
            allocatable.insert(name.to_owned(), left);
        };
        put("cpu", facts.cpus.to_string().into(), cpu.into());
        put("memory", ki(facts.memory), ki(memory));
        put("ephemeral-storage", ki(facts.disk), disk.to_string().into());
        for (name, bytes) in &facts.huge_pages {
            let amount: Value = if *bytes == 0 { "0".into() } else { ki(*bytes) };
            put(name, amount.clone(), amount);
        }
        if let Some(runs) = self.standing.runs_pods() {
            let pods = Value::from(if runs { settings.max_pods } else { 0 }.to_string());
            put("pods", pods.clone(), pods);
        }
        (capacity, allocatable)
    }

    fn addresses(&self) -> Value {
        let mut all: Vec<Value> = self
            .addresses
            .iter()
            .map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}))
            .collect();
        if !self.facts.hostname.is_empty() {
            all.push(json!({"type": "Hostname", "address": self.facts.hostname}));
        }
        Value::Array(all)
    }

    /// In the kubelet's order: `Ready` is the last.
    fn conditions(&self) -> Vec<Condition> {
        let mut all = Vec::with_capacity(6);
        let mut say = |kind, holds, reason, message: String| {
            all.push(Condition {
                kind,
                holds,
                reason,
                message,
            });
        };
        let network = match &self.standing {
            Standing::Up { lacks: None, .. } => Some(self.network.clone()),
            Standing::Up { lacks: Some(lack), .. } if lack.network => Some(Some(lack.text.clone())),
            _ => None,
        };
        match &network {
            Some(None) => say(
                "NetworkUnavailable",
                false,
                "PodNetworkReady",
                "the pod network is ready".to_owned(),
            ),
            Some(Some(text)) => say("NetworkUnavailable", true, "PodNetworkNotReady", text.clone()),
            None => {}
        }
        if let Some(pressure) = self.pressure {
            for (kind, holds, [reason, message], [not, not_message]) in [
                (
                    "MemoryPressure",
                    pressure.memory,
                    [
                        "KubeletHasInsufficientMemory",
                        "kubelet has insufficient memory available",
                    ],
                    ["KubeletHasSufficientMemory", "kubelet has sufficient memory available"],
                ),
                (
                    "DiskPressure",
                    pressure.disk,
                    ["KubeletHasDiskPressure", "kubelet has disk pressure"],
                    ["KubeletHasNoDiskPressure", "kubelet has no disk pressure"],
                ),
                (
                    "PIDPressure",
                    pressure.pids,
                    ["KubeletHasInsufficientPID", "kubelet has insufficient PID available"],
                    ["KubeletHasSufficientPID", "kubelet has sufficient PID available"],
                ),
            ] {
                let (reason, message) = if holds { (reason, message) } else { (not, not_message) };
                say(kind, holds, reason, message.to_owned());
            }
        }
        const RUNTIME: &str = "ContainerRuntimeReady";
        match &self.standing {
            Standing::Unknown => {}
            // Devices are what such a gateway is for, and they are served. Pods find no room here.
            Standing::Unused { reason, message } => {
                say(RUNTIME, false, reason, message.clone());
                say("Ready", true, "AgentRunning", "devices are served".to_owned());
            }
            Standing::Down { reason, message, .. } => {
                say(RUNTIME, false, reason, message.clone());
                say(
                    "Ready",
                    false,
                    "KubeletNotReady",
                    "container runtime is down".to_owned(),
                );
            }
            Standing::Up { lacks: Some(lack), .. } => {
                let (reason, message) = if lack.network {
                    let hint = "the network of pods is not set up, see the files in /etc/cni/net.d and the plugins in /opt/cni/bin or /usr/lib/cni";
                    ("NetworkNotReady", format!("{}: {hint}", lack.text))
                } else {
                    ("RuntimeNotReady", lack.text.clone())
                };
                say(RUNTIME, false, reason, message);
                say("Ready", false, "KubeletNotReady", lack.said.clone());
            }
            Standing::Up {
                version, lacks: None, ..
            } => match &self.network {
                Some(text) => {
                    say(RUNTIME, false, "NetworkNotReady", text.clone());
                    say(
                        "Ready",
                        false,
                        "KubeletNotReady",
                        format!("container runtime network not ready: {text}"),
                    );
                }
                None => {
                    say(RUNTIME, true, "RuntimeReady", format!("{version} runs containers"));
                    say(
                        "Ready",
                        true,
                        "KubeletReady",
                        "kubelet is posting ready status".to_owned(),
                    );
                }
            },
        }
        all
    }
}

/// The runtime's images as the Node shows them.
pub(super) fn images(mut all: Vec<cri::v1::Image>) -> Vec<Value> {
    // Equal sizes in one order, so that the Node says nothing new when nothing is.
    all.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    all.truncate(IMAGES);
    let shown = all.into_iter().map(|image| {
        let names: Vec<String> = image
            .repo_digests
            .into_iter()
            .chain(image.repo_tags)
            .take(IMAGE_NAMES)
            .collect();
        json!({"names": names, "sizeBytes": image.size})
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::limits::Reserved;

    fn known(standing: Standing) -> Known {
        Known {
            facts: Facts {
                hostname: "press".to_owned(),
                cpus: 4,
                memory: 1 << 30,
                disk: 10 << 30,
                huge_pages: vec![("hugepages-2Mi".to_owned(), 4 << 20)],
                info: Map::new(),
            },
            addresses: vec!["10.0.0.7".parse().unwrap()],
            standing,
            images: vec![json!({"names": ["a"], "sizeBytes": 1})],
            pressure: Some(Pressure::default()),
            network: None,
        }
    }

    fn up(lacks: Option<Lack>) -> Standing {
        Standing::Up {
            version: "containerd://1.6.20".to_owned(),
            lacks,
            handlers: json!([]),
        }
    }

    use crate::machine::standing::Lack;

    fn of<'r>(report: &'r Report, kind: &str) -> (bool, &'r str) {
        let condition = report.conditions.iter().find(|c| c.kind == kind).unwrap();
        (condition.holds, condition.reason)
    }

    #[test]
    fn what_pods_may_have_is_less_than_all() {
        let settings = Settings {
            reserved: Reserved {
                cpu: "250m".into(),
                memory: "24Mi".into(),
                ephemeral_storage: "1Gi".into(),
            },
            ..Settings::default()
        };
        let report = known(up(None)).report(&settings);
        let capacity = json!({
            "cpu": "4", "memory": "1048576Ki", "ephemeral-storage": "10485760Ki", "hugepages-2Mi": "4096Ki", "pods": "110",
        });
        assert_eq!(report.status["capacity"], capacity);
        // A gibibyte less 24Mi, less the hard threshold (100Mi), less 4Mi in huge pages.
        let allocatable = json!({
            "cpu": "3750m", "memory": "917504Ki", "ephemeral-storage": "8589934592", "hugepages-2Mi": "4096Ki", "pods": "110",
        });
        assert_eq!(report.status["allocatable"], allocatable);
        assert_eq!(report.pod_cidr.as_deref(), Some("10.42.0.0/24"));
    }

    #[test]
    fn ready_says_whether_what_the_gateway_is_for_works() {
        let settings = Settings::default();
        let report = known(up(None)).report(&settings);
        let kinds: Vec<_> = report.conditions.iter().map(|c| c.kind).collect();
        assert_eq!(
            kinds,
            [
                "NetworkUnavailable",
                "MemoryPressure",
                "DiskPressure",
                "PIDPressure",
                "ContainerRuntimeReady",
                "Ready"
            ]
        );
        assert_eq!(of(&report, "Ready"), (true, "KubeletReady"));
        assert_eq!(
            report.status["nodeInfo"]["containerRuntimeVersion"],
            "containerd://1.6.20"
        );

        let report = known(Standing::none_found()).report(&settings);
        assert_eq!(of(&report, "Ready"), (true, "AgentRunning"));
        assert_eq!(of(&report, "ContainerRuntimeReady"), (false, "NoRuntime"));
        assert_eq!(
            (&report.status["capacity"]["pods"], &report.pod_cidr),
            (&json!("0"), &None)
        );

        let report = known(Standing::gone()).report(&settings);
        assert_eq!(of(&report, "Ready"), (false, "KubeletNotReady"));
        assert_eq!(report.status["capacity"]["pods"], "110");
        assert!(!report.status.contains_key("images"), "what is not known is not said");

        let lack = Lack {
            network: true,
            said: "container runtime network not ready: x".into(),
            text: "no plugin".into(),
        };
        let report = known(up(Some(lack))).report(&settings);
        assert_eq!(of(&report, "NetworkUnavailable"), (true, "PodNetworkNotReady"));
        assert_eq!(
            report.conditions.last().unwrap().message,
            "container runtime network not ready: x"
        );

        let report = known(Standing::Unknown).report(&settings);
        assert_eq!(report.conditions.len(), 3);
        assert_eq!(report.status["capacity"].get("pods"), None);
    }

    #[test]
    fn a_network_that_is_not_ready_is_told_beside_the_runtime() {
        let mut known = known(up(None));
        known.network = Some("nft is missing".to_owned());
        known.pressure = Some(Pressure {
            memory: true,
            ..Pressure::default()
        });
        let report = known.report(&Settings::default());
        assert_eq!(of(&report, "Ready"), (false, "KubeletNotReady"));
        assert_eq!(of(&report, "NetworkUnavailable"), (true, "PodNetworkNotReady"));
        assert_eq!(of(&report, "MemoryPressure"), (true, "KubeletHasInsufficientMemory"));
        assert_eq!(known.pressure.unwrap().names(), ["MemoryPressure"]);
    }

    #[test]
    fn images_are_the_largest_in_one_order() {
        let image = |id: &str, size: u64, tags: usize| cri::v1::Image {
            id: id.to_owned(),
            size,
            repo_digests: vec![format!("{id}@sha256:1")],
            repo_tags: (0..tags).map(|n| format!("{id}:{n}")).collect(),
            ..cri::v1::Image::default()
        };
        let mut all = vec![image("b", 5, 1), image("a", 5, 9), image("c", 9, 0)];
        let shown = images(all.clone());
        assert_eq!(shown[0], json!({"names": ["c@sha256:1"], "sizeBytes": 9}));
        assert_eq!(shown[1]["names"].as_array().unwrap().len(), IMAGE_NAMES);
        all.reverse();
        assert_eq!(images(all), shown);
        assert_eq!(images(vec![image("d", 1, 1); 80]).len(), IMAGES);
    }
}
