//! A container: its program, what it sees, what it may use.

use std::collections::BTreeMap;

use cri::v1::{
    ContainerConfig, ContainerMetadata, HugepageLimit, ImageSpec, KeyValue, LinuxContainerConfig,
    LinuxContainerResources, Mount, Signal,
};
use serde_json::Value;

use super::{Env, Host, SetupError, amount, label, milli, oom_score_adj, security};
use crate::images::ImageRef;
use crate::pod::{Container, Pod};

/// The least share of the processors that the kernel knows.
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const SHARES_PER_CPU: i64 = 1024;
/// Processor time is given out in periods of this many microseconds.
const PERIOD: i64 = 100_000;
/// The least of a period.
const MIN_QUOTA: i64 = 1000;

/// What a container's configuration is made of beside the Pod.
#[derive(Debug)]
pub(crate) struct Inputs<'a> {
    /// The image, as it is on the machine.
    pub(crate) image: &'a ImageRef,
    pub(crate) env: &'a Env,
    /// Volumes, hosts file, place of the last words.
    pub(crate) mounts: Vec<Mount>,
    /// Of an ephemeral container: id of the container whose processes it sees.
    pub(crate) target: Option<&'a str>,
}

/// The configuration of a container's `attempt`-th run.
///
/// # Errors
/// When it must not run as it would.
pub(crate) fn container(
    pod: &Pod,
    container: &Container,
    attempt: u32,
    inputs: Inputs<'_>,
    host: &Host,
) -> Result<ContainerConfig, SetupError> {
    let Inputs {
        image,
        env,
        mounts,
        target,
    } = inputs;
    let meta = &pod.metadata;
    let expanded = |list: &[String]| list.iter().map(|text| env.expand(text)).collect();
    let labels = [
        (label::POD_NAME, meta.name.clone()),
        (label::POD_NAMESPACE, meta.namespace.clone()),
        (label::POD_UID, meta.uid.clone()),
        (label::CONTAINER_NAME, container.name.clone()),
        (label::NODE, host.node.to_string()),
    ];
    let seconds = |value: Option<i64>| value.map(|v| v.to_string());
    let annotations = [
        (label::HASH, Some(hash(container))),
        (label::RESTARTS, Some(attempt.to_string())),
        (label::MESSAGE_PATH, Some(container.termination_message_path.clone())),
        (
            label::MESSAGE_POLICY,
            Some(container.termination_message_policy.clone()),
        ),
        (label::GRACE, seconds(pod.spec.termination_grace_period_seconds)),
        (label::DELETION_GRACE, seconds(meta.deletion_grace_period_seconds)),
    ];
    let annotations = annotations
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let envs = env.0.iter().map(|(key, value)| KeyValue {
        key: key.clone(),
        value: value.clone(),
    });
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: container.name.clone(),
            attempt,
        }),
        image: Some(ImageSpec {
            image: image.id.clone(),
            user_specified_image: container.image.clone(),
            ..ImageSpec::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone(),
        envs: envs.collect(),
        mounts,
        labels: labels
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        annotations: annotations.collect(),
        log_path: format!("{}/{attempt}.log", container.name),
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        tty: container.tty,
        linux: Some(LinuxContainerConfig {
            resources: Some(resources(pod, container, host)),
            security_context: Some(security::context(pod, container, image, target, host)?),
        }),
        stop_signal: stop_signal(container).into(),
        ..ContainerConfig::default()
    })
}

/// What tells whether a running container is the one that the Pod asks for: of all its fields only the name and the image make it another. It stands
/// on containers that outlive the agent, so it is of the bytes alone: another agent, built by another compiler, must find the same, or it would start
/// every container anew.
pub(crate) fn hash(container: &Container) -> String {
    let bytes = [container.name.as_bytes(), &[0], container.image.as_bytes()].concat();
    format!("{:016x}", crate::time::fingerprint_of_bytes(&bytes))
}

fn stop_signal(container: &Container) -> Signal {
    let said = container.lifecycle.stop_signal.as_deref().unwrap_or_default();
    let name = said.replace('+', "PLUS").replace('-', "MINUS");
    Signal::from_str_name(&name).unwrap_or(Signal::RuntimeDefault)
}

/// What a container may use; also what a running one is changed to.
pub(crate) fn resources(pod: &Pod, container: &Container, host: &Host) -> LinuxContainerResources {
    let own = &container.resources;
    // Where the container has no limit, the pod's is the one that it meets.
    let mut limits = own.limits.clone();
    for name in ["cpu", "memory"] {
        let whole = pod.spec.resources.limits.get(name);
        if let Some(whole) = whole.filter(|_| milli(&own.limits, name) == 0) {
            limits.insert(name.to_owned(), whole.clone());
        }
    }
    let mut out = linux(Some(&own.requests), &limits, host);
    out.oom_score_adj = oom_score_adj(pod, container, host.memory);
    out.hugepage_limits = own
        .limits
        .keys()
        .filter_map(|name| huge_pages(name, &own.limits))
        .collect();
    out
}

/// Requests (`None`: none, and none by the limits) and limits in the kernel's units.
pub(super) fn linux(
    requests: Option<&BTreeMap<String, Value>>,
    limits: &BTreeMap<String, Value>,
    host: &Host,
) -> LinuxContainerResources {
    let limit = milli(limits, "cpu");
    let request = match requests {
        Some(requests) if requests.contains_key("cpu") => milli(requests, "cpu"),
        _ => limit,
    };
    let memory = amount(limits, "memory");
    LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_quota: quota(limit),
        cpu_shares: shares(request),
        memory_limit_in_bytes: memory,
        memory_swap_limit_in_bytes: if host.swap { memory } else { 0 },
        ..LinuxContainerResources::default()
    }
}

/// Microseconds of each period for thousandths of a processor; 0 is no limit.
pub(super) fn quota(milli: i64) -> i64 {
    match milli {
        0 => 0,
        milli => (milli.saturating_mul(PERIOD) / 1000).max(MIN_QUOTA),
    }
}

/// The weight against others of thousandths of a processor.
pub(super) fn shares(milli: i64) -> i64 {
    (milli.saturating_mul(SHARES_PER_CPU) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// `hugepages-2Mi` as the kernel names the pages (`2MB`), with the limit in bytes.
fn huge_pages(name: &str, limits: &BTreeMap<String, Value>) -> Option<HugepageLimit> {
    let size = name.strip_prefix("hugepages-")?;
    Some(HugepageLimit {
        page_size: size.replace('i', "B"),
        limit: amount(limits, name).unsigned_abs(),
    })
}
