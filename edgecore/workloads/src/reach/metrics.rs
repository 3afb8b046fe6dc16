//! What the machine and its pods use, in the forms in which it is asked for: `metrics.k8s.io` for `kubectl top`, and at `nodes/NAME/proxy` what
//! monitoring reads of a kubelet (`/metrics/resource`, `/metrics/cadvisor`, `/stats/summary`, `/pods`).
//!
//! Numbers come from the machine when somebody asks; nothing is counted here.

use std::fmt::Arguments;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Response, StatusCode};
use metastore::api::{ApiBody, Connect, Measured, Status};
use metastore::store::{ListOptions, ObjectKey, Store};
use serde_json::{Value, json};

use crate::cluster::{Key, NODES, PODS};
use crate::machine::{ContainerUse, PodUse, Usage, Use};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// `NodeMetrics` or `PodMetrics`. What is too young for a rate is left out.
pub(super) fn measured(of: Measured, usage: &Usage, node: &str, store: &Store) -> Vec<Value> {
    let window = format!("{:.3}s", usage.window.as_secs_f64());
    let time = crate::time::stamp(usage.wall_ms);
    let amounts =
        |nanos: u64, is: &Use| json!({"cpu": format!("{nanos}n"), "memory": format!("{}Ki", is.working_set / 1024)});
    let item = |mut metadata: Value, key: &ObjectKey| {
        let object = store.get(key).ok().flatten().and_then(|object| object.value().ok());
        if let Some(labels) = object
            .map(|object| object["metadata"]["labels"].clone())
            .filter(Value::is_object)
        {
            metadata["labels"] = labels;
        }
        metadata["creationTimestamp"] = time.clone().into();
        json!({"metadata": metadata, "timestamp": time, "window": window})
    };
    match of {
        Measured::Nodes => {
            let Some(nanos) = usage.host_nano_cores else {
                return Vec::new();
            };
            let mut item = item(json!({"name": node}), &ObjectKey::new("", NODES.plural, "", node));
            item["usage"] = amounts(nanos, &usage.host.is);
            vec![item]
        }
        Measured::Pods => {
            let of_pod = |pod: &PodUse| {
                let key = pod.key.as_ref()?;
                let containers = pod.containers.iter().filter_map(|container| {
                    let usage = amounts(container.nano_cores?, &container.is);
                    Some(json!({"name": container.name, "usage": usage}))
                });
                let containers: Vec<Value> = containers.collect();
                if containers.is_empty() {
                    return None;
                }
                let mut item = item(
                    json!({"name": &*key.name, "namespace": &*key.namespace}),
                    &ObjectKey::new("", PODS.plural, &*key.namespace, &*key.name),
                );
                item["containers"] = containers.into();
                Some(item)
            };
            usage.pods.iter().filter_map(of_pod).collect()
        }
    }
}

/// What is asked of a node that needs no measuring.
pub(super) fn plain(store: &Store, to: &Connect) -> Option<Result<Response<ApiBody>, Status>> {
    if to.parts.method != Method::GET {
        return Some(Err(Status::method_not_allowed()));
    }
    match to.path.trim_end_matches('/') {
        "healthz" => Some(Ok(answer("ok".to_owned(), TEXT))),
        "pods" => Some(pods(store)),
        "metrics/resource" | "metrics/cadvisor" | "stats/summary" => None,
        _ => Some(Err(Status::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            "a node answers /healthz, /pods, /metrics/resource, /metrics/cadvisor and /stats/summary",
        ))),
    }
}

/// What is asked of a node, measured.
pub(super) fn of_node(path: &str, usage: &Usage, node: &str) -> Response<ApiBody> {
    match path.trim_end_matches('/') {
        "metrics/resource" => answer(resource(usage), TEXT),
        "metrics/cadvisor" => answer(cadvisor(usage), TEXT),
        _ => answer(summary(usage, node).to_string(), JSON),
    }
}

fn answer(body: String, content_type: HeaderValue) -> Response<ApiBody> {
    let mut response = Response::new(ApiBody::full(Bytes::from(body)));
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// The pods of this machine, as a list.
fn pods(store: &Store) -> Result<Response<ApiBody>, Status> {
    let listed = store
        .list(&PODS.scope(None), ListOptions::default())
        .map_err(|e| Status::internal(e.to_string()))?;
    let mut body = br#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":["#.to_vec();
    for (at, object) in listed.items.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&object.json);
    }
    body.extend_from_slice(b"]}\n");
    let mut response = Response::new(ApiBody::full(body));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    Ok(response)
}

/// One number of something that is used.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    value: fn(&Use) -> f64,
}

const fn family(name: &'static str, kind: &'static str, help: &'static str, value: fn(&Use) -> f64) -> Family {
    Family {
        name,
        kind,
        help,
        value,
    }
}

/// Of what `/metrics/resource` tells: cores' seconds and bytes of memory, for a node, a container, a pod.
const RESOURCE: [[Family; 2]; 3] = [
    [
        family(
            "container_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
            seconds,
        ),
        family(
            "container_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the container in bytes",
            working_set,
        ),
    ],
    [
        family(
            "node_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
            seconds,
        ),
        family(
            "node_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the node in bytes",
            working_set,
        ),
    ],
    [
        family(
            "pod_cpu_usage_seconds_total",
            "counter",
            "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
            seconds,
        ),
        family(
            "pod_memory_working_set_bytes",
            "gauge",
            "[STABLE] Current working set of the pod in bytes",
            working_set,
        ),
    ],
];

/// Of what cAdvisor tells of containers, what the kernel tells here.
const CADVISOR: [Family; 6] = [
    family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed in seconds.",
        seconds,
    ),
    family(
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |is| float(is.used),
    ),
    family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set in bytes.",
        working_set,
    ),
    family("container_memory_rss", "gauge", "Size of RSS in bytes.", |is| {
        float(is.rss)
    }),
    family(
        "container_memory_failures_total",
        "counter",
        "Cumulative count of memory allocation failures.",
        |is| float(is.faults[1]),
    ),
    family(
        "container_processes",
        "gauge",
        "Number of processes running inside the container.",
        |is| float(is.pids),
    ),
];

fn seconds(is: &Use) -> f64 {
    float(is.cpu_nanos) / 1e9
}

fn working_set(is: &Use) -> f64 {
    float(is.working_set)
}

#[allow(clippy::cast_precision_loss, reason = "numbers of the text format are floats")]
const fn float(number: u64) -> f64 {
    number as f64
}

fn named(pod: &PodUse) -> Option<(&PodUse, &Key)> {
    Some((pod, pod.key.as_ref()?))
}

/// Puts a line behind `out`.
fn line(out: &mut String, text: Arguments<'_>) {
    out.push_str(&text.to_string());
    out.push('\n');
}

fn head(out: &mut String, family: &Family) {
    line(
        out,
        format_args!(
            "# HELP {} {}\n# TYPE {} {}",
            family.name, family.help, family.name, family.kind
        ),
    );
}

fn resource(usage: &Usage) -> String {
    let mut out = String::new();
    let at = usage.wall_ms;
    let pods = || usage.pods.iter().filter_map(named);
    let [of_containers, of_node, of_pods] = &RESOURCE;
    for family in of_containers {
        head(&mut out, family);
        for (pod, Key { namespace, name }) in pods() {
            for ContainerUse {
                name: container, is, ..
            } in &pod.containers
            {
                let value = (family.value)(is);
                line(
                    &mut out,
                    format_args!(
                        "{}{{container=\"{container}\",namespace=\"{namespace}\",pod=\"{name}\"}} {value} {at}",
                        family.name
                    ),
                );
            }
        }
    }
    for family in of_node {
        head(&mut out, family);
        line(
            &mut out,
            format_args!("{} {} {at}", family.name, (family.value)(&usage.host.is)),
        );
    }
    for family in of_pods {
        head(&mut out, family);
        for (pod, Key { namespace, name }) in pods() {
            let value = (family.value)(&pod.is);
            line(
                &mut out,
                format_args!(
                    "{}{{namespace=\"{namespace}\",pod=\"{name}\"}} {value} {at}",
                    family.name
                ),
            );
        }
    }
    out.push_str("# HELP resource_scrape_error [STABLE] 1 if there was an error while getting container metrics, 0 otherwise\n# TYPE resource_scrape_error gauge\nresource_scrape_error 0\n");
    out
}

fn cadvisor(usage: &Usage) -> String {
    let mut out = String::new();
    let at = usage.wall_ms;
    for family in &CADVISOR {
        head(&mut out, family);
        let cpu = if family.name == "container_cpu_usage_seconds_total" {
            "cpu=\"total\","
        } else {
            ""
        };
        let failures = if family.name == "container_memory_failures_total" {
            ("failure_type=\"pgmajfault\",", ",scope=\"container\"")
        } else {
            ("", "")
        };
        for (pod, Key { namespace, name }) in usage.pods.iter().filter_map(named) {
            let whole = [("", pod.uid.as_str(), &pod.is)];
            let parts = pod.containers.iter().map(|c| (c.name.as_str(), c.id.as_str(), &c.is));
            for (container, id, is) in parts.chain(whole) {
                let value = (family.value)(is);
                let (ty, scope) = failures;
                line(
                    &mut out,
                    format_args!(
                        "{}{{container=\"{container}\",{cpu}{ty}id=\"{id}\",namespace=\"{namespace}\",pod=\"{name}\"{scope}}} {value} {at}",
                        family.name
                    ),
                );
            }
        }
    }
    let machine = [
        (
            "machine_memory_bytes",
            "Amount of memory installed on the machine.",
            usage.host.memory,
        ),
        (
            "machine_swap_bytes",
            "Amount of swap memory available on the machine.",
            usage.host.swap,
        ),
    ];
    for (name, help, value) in machine {
        line(
            &mut out,
            format_args!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}"),
        );
    }
    out
}

fn summary(usage: &Usage, node: &str) -> Value {
    let time = crate::time::stamp(usage.wall_ms);
    let cpu = |is: &Use, nanos: Option<u64>| {
        let mut cpu = json!({"time": time, "usageCoreNanoSeconds": is.cpu_nanos});
        if let Some(nanos) = nanos {
            cpu["usageNanoCores"] = nanos.into();
        }
        cpu
    };
    let memory = |is: &Use| {
        json!({"time": time, "usageBytes": is.used, "workingSetBytes": is.working_set, "rssBytes": is.rss,
            "pageFaults": is.faults[0], "majorPageFaults": is.faults[1]})
    };
    let host = &usage.host;
    let mut of_node = json!({"nodeName": node, "cpu": cpu(&host.is, usage.host_nano_cores), "memory": memory(&host.is),
        "rlimit": {"time": time, "maxpid": host.pids_max, "curproc": host.is.pids}});
    of_node["memory"]["availableBytes"] = host.memory.saturating_sub(host.is.working_set).into();
    let pods: Vec<Value> = usage
        .pods
        .iter()
        .filter_map(named)
        .map(|(pod, key)| {
            let containers = pod.containers.iter().map(|c| {
                let mut of = json!({"name": c.name, "cpu": cpu(&c.is, c.nano_cores), "memory": memory(&c.is),
                    "logs": {"time": time, "usedBytes": c.logs}});
                if let Some([bytes, inodes]) = c.files {
                    of["rootfs"] = json!({"time": time, "usedBytes": bytes, "inodesUsed": inodes});
                }
                of
            });
            let containers: Vec<Value> = containers.collect();
            let rate = pod.containers.iter().filter_map(|c| c.nano_cores).reduce(u64::saturating_add);
            json!({"podRef": {"name": &*key.name, "namespace": &*key.namespace, "uid": pod.uid}, "containers": containers,
                "cpu": cpu(&pod.is, rate), "memory": memory(&pod.is), "process_stats": {"process_count": pod.is.pids}})
        })
        .collect();
    json!({"node": of_node, "pods": pods})
}

#[cfg(test)]
mod tests {
    use super::*;
    use metastore::store::StoreOptions;
    use std::time::Duration;

    fn usage() -> Usage {
        let is = Use {
            cpu_nanos: 2_500_000_000,
            used: 4 << 20,
            working_set: 3 << 20,
            rss: 1 << 20,
            faults: [7, 2],
            pids: 3,
        };
        let container = |name: &str, nano_cores| ContainerUse {
            name: name.to_owned(),
            id: format!("id-{name}"),
            is,
            nano_cores,
            ..ContainerUse::default()
        };
        let host = crate::machine::Host {
            is,
            memory: 8 << 20,
            ..crate::machine::Host::default()
        };
        Usage {
            wall_ms: 1_795_230_670_000,
            window: Duration::from_millis(1500),
            host,
            host_nano_cores: Some(120_000_000),
            pods: vec![PodUse {
                uid: "u".to_owned(),
                key: Some(Key::new("shop", "web-1")),
                is,
                containers: vec![container("app", Some(50_000_000)), container("young", None)],
            }],
        }
    }

    #[test]
    fn what_is_measured_has_the_form_that_top_reads() {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(StoreOptions::new(folder.path().join("x.db"))).unwrap();
        assert_eq!(
            measured(Measured::Pods, &usage(), "gw", &store),
            [
                json!({"metadata": {"name": "web-1", "namespace": "shop", "creationTimestamp": "2026-11-21T03:11:10Z"},
                "timestamp": "2026-11-21T03:11:10Z", "window": "1.500s",
                "containers": [{"name": "app", "usage": {"cpu": "50000000n", "memory": "3072Ki"}}]})
            ]
        );
        let nodes = measured(Measured::Nodes, &usage(), "gw", &store);
        assert_eq!(nodes[0]["metadata"]["name"], "gw");
        assert_eq!(nodes[0]["usage"], json!({"cpu": "120000000n", "memory": "3072Ki"}));
    }

    #[test]
    fn text_for_monitoring_has_names_and_times() {
        let text = resource(&usage());
        for line in [
            "# TYPE container_cpu_usage_seconds_total counter",
            "container_cpu_usage_seconds_total{container=\"app\",namespace=\"shop\",pod=\"web-1\"} 2.5 1795230670000",
            "node_memory_working_set_bytes 3145728 1795230670000",
            "pod_memory_working_set_bytes{namespace=\"shop\",pod=\"web-1\"} 3145728 1795230670000",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        let text = cadvisor(&usage());
        assert!(text.contains(
            "container_cpu_usage_seconds_total{container=\"app\",cpu=\"total\",id=\"id-app\",namespace=\"shop\",pod=\"web-1\"} 2.5 1795230670000\n"
        ));
        assert!(text.contains("machine_memory_bytes 8388608\n"));
    }

    #[test]
    fn a_summary_says_what_is_used_by_whom() {
        let summary = summary(&usage(), "gw");
        assert_eq!(summary["node"]["memory"]["availableBytes"], 5 << 20);
        let pod = &summary["pods"][0];
        assert_eq!(pod["podRef"], json!({"name": "web-1", "namespace": "shop", "uid": "u"}));
        assert_eq!(
            (
                &pod["cpu"]["usageNanoCores"],
                &pod["containers"][0]["cpu"]["usageNanoCores"]
            ),
            (&json!(50_000_000), &json!(50_000_000))
        );
        assert_eq!(pod["containers"][1]["cpu"].get("usageNanoCores"), None);
    }
}
