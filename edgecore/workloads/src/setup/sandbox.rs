//! A pod's sandbox: its names, ports, namespaces and cgroup.

use std::collections::BTreeMap;

use cri::v1::{
    DnsConfig, LinuxContainerResources, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, PodSandboxConfig,
    PodSandboxMetadata, PortMapping, Protocol,
};
use serde_json::Value;

use super::container::linux;
use super::{Host, SetupError, amount, cgroups, label, milli, security};
use crate::cluster::{Cluster, Key, Kind};
use crate::pod::{Container, Pod};

const RUNTIME_CLASSES: Kind = Kind {
    group: "node.k8s.io",
    version: "v1",
    kind: "RuntimeClass",
    plural: "runtimeclasses",
};
/// The kernel's: 64 bytes, of which Kubernetes leaves one for a name without domain.
const MAX_HOST_NAME: usize = 63;
const MAX_FULL_NAME: usize = 64;

/// The configuration of a pod's sandbox.
///
/// # Errors
/// When its full host name is too long.
pub(crate) fn sandbox(pod: &Pod, attempt: u32, dns: DnsConfig, host: &Host) -> Result<PodSandboxConfig, SetupError> {
    let meta = &pod.metadata;
    let spec = &pod.spec;
    let mut labels = meta.labels.clone();
    for (name, value) in [
        (label::POD_NAME, &meta.name),
        (label::POD_NAMESPACE, &meta.namespace),
        (label::POD_UID, &meta.uid),
        (label::NODE, &host.node.to_string()),
    ] {
        labels.insert(name.to_owned(), value.clone());
    }
    let context = &spec.security_context;
    let privileged = pod
        .all_containers()
        .any(|c| c.security_context.privileged == Some(true));
    let sysctls = context.sysctls.iter().map(|s| (s.name.clone(), s.value.clone()));
    let overhead = (!spec.overhead.is_empty()).then(|| linux(None, &spec.overhead, host));
    Ok(PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            namespace: meta.namespace.clone(),
            attempt,
        }),
        hostname: host_name_of_sandbox(pod, host)?,
        log_directory: host.log_dir(pod).to_string_lossy().into_owned(),
        dns_config: Some(dns),
        port_mappings: ports(pod),
        labels,
        annotations: meta.annotations.clone(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: cgroups::parent(pod, host.systemd),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(security::namespaces(pod)),
                selinux_options: context.se_linux_options.as_ref().map(security::selinux),
                run_as_user: security::number(context.run_as_user),
                run_as_group: security::number(context.run_as_group),
                readonly_rootfs: false,
                supplemental_groups: security::groups(pod),
                supplemental_groups_policy: security::groups_policy(pod).into(),
                privileged,
                seccomp: Some(security::runtime_default()),
                ..LinuxSandboxSecurityContext::default()
            }),
            sysctls: sysctls.collect(),
            overhead,
            resources: Some(whole(pod, host)),
        }),
    })
}

/// What all containers of a pod have together, so that a runtime can make room for them.
fn whole(pod: &Pod, host: &Host) -> LinuxContainerResources {
    let (requests, limits) = (total(pod, false), total(pod, true));
    linux(Some(&requests), &limits, host)
}

/// Requests or limits of a pod: of its containers and sidecars together, at least of the largest init container, else what it says as a whole.
pub(super) fn total(pod: &Pod, limits: bool) -> BTreeMap<String, Value> {
    let spec = &pod.spec;
    let of = |c: &Container| {
        let r = if limits {
            &c.resources.limits
        } else {
            &c.resources.requests
        };
        [milli(r, "cpu"), amount(r, "memory")]
    };
    let (mut sidecars, mut most) = ([0; 2], [0; 2]);
    for container in &spec.init_containers {
        let own = of(container);
        for at in 0..2 {
            let beside: i64 = sidecars[at];
            most[at] = beside.saturating_add(own[at]).max(most[at]);
            if container.is_sidecar() {
                sidecars[at] = beside.saturating_add(own[at]);
            }
        }
    }
    let mut sum = sidecars;
    for container in &spec.containers {
        let own = of(container);
        for at in 0..2 {
            sum[at] = sum[at].saturating_add(own[at]);
        }
    }
    let whole = if limits {
        &spec.resources.limits
    } else {
        &spec.resources.requests
    };
    let mut out = BTreeMap::new();
    for (at, (name, unit)) in [("cpu", "m"), ("memory", "")].into_iter().enumerate() {
        let value = match whole.get(name) {
            Some(value) => value.clone(),
            None => match sum[at].max(most[at]) {
                0 => continue,
                amount => format!("{amount}{unit}").into(),
            },
        };
        out.insert(name.to_owned(), value);
    }
    out
}

/// Ports of containers and sidecars, each name (or port, where it has none) once in a container.
fn ports(pod: &Pod) -> Vec<PortMapping> {
    let sidecars = pod.spec.init_containers.iter().filter(|c| c.is_sidecar());
    let mut all = Vec::new();
    for container in sidecars.chain(&pod.spec.containers) {
        let mut seen = std::collections::BTreeSet::new();
        for port in &container.ports {
            let name = if port.name.is_empty() {
                let (ip, number, on_host) = (&port.host_ip, port.container_port, port.host_port);
                format!("{}-{ip}:{number}:{on_host}", port.protocol)
            } else {
                port.name.clone()
            };
            if !seen.insert(name) {
                continue;
            }
            let protocol = match port.protocol.as_str() {
                "UDP" => Protocol::Udp,
                "SCTP" => Protocol::Sctp,
                _ => Protocol::Tcp,
            };
            all.push(PortMapping {
                protocol: protocol.into(),
                container_port: port.container_port.into(),
                host_port: port.host_port.into(),
                host_ip: port.host_ip.clone(),
            });
        }
    }
    all
}

/// A pod's own host name, and the domain that it is in (empty when in none).
pub(crate) fn host_name(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = &pod.spec;
    let said = if spec.hostname.is_empty() {
        &pod.metadata.name
    } else {
        &spec.hostname
    };
    let name = match said.get(..MAX_HOST_NAME) {
        Some(start) if said.len() > MAX_HOST_NAME => start.trim_end_matches(['-', '.']),
        _ => said,
    };
    let domain = if spec.subdomain.is_empty() {
        String::new()
    } else {
        format!("{}.{}.svc.{cluster_domain}", spec.subdomain, pod.metadata.namespace)
    };
    (name.to_owned(), domain)
}

/// What the kernel is told: nothing in the machine's own network.
fn host_name_of_sandbox(pod: &Pod, host: &Host) -> Result<String, SetupError> {
    if pod.spec.host_network {
        return Ok(String::new());
    }
    let (name, domain) = host_name(pod, &host.cluster_domain);
    if !pod.spec.set_hostname_as_fqdn || domain.is_empty() {
        return Ok(name);
    }
    let full = format!("{name}.{domain}");
    if full.len() > MAX_FULL_NAME {
        return Err(SetupError::sandbox(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long ({MAX_FULL_NAME} characters is the max, {} characters requested)",
            full.len()
        )));
    }
    Ok(full)
}

/// By which of its handlers the runtime is to run a pod: empty for the usual one.
///
/// # Errors
/// When the pod names a RuntimeClass that is not there.
pub(crate) fn runtime_handler(cluster: &Cluster, pod: &Pod) -> Result<String, SetupError> {
    let name = pod.spec.runtime_class_name.as_str();
    if name.is_empty() {
        return Ok(String::new());
    }
    let found = cluster.get(RUNTIME_CLASSES, &Key::new("", name));
    let class = found.map_err(|e| SetupError::sandbox(e.to_string()))?;
    let class = class.ok_or_else(|| {
        SetupError::sandbox(format!(
            "failed to get sandbox runtime: runtimeclass.node.k8s.io {name:?} not found"
        ))
    })?;
    Ok(class["handler"].as_str().unwrap_or_default().to_owned())
}
