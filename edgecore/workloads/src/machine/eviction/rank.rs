//! Who goes first when something runs short: who uses more than it asked for, then the less important, then who uses most beyond its request.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use metastore::api::quantity_nanos;
use serde_json::Value;

use crate::machine::household::VolumesUse;
use crate::machine::limits::Signal;
use crate::machine::usage::PodUse;
use crate::pod::Pod;

/// From this priority on a pod is what the cluster itself needs.
const SYSTEM: i64 = 2_000_000_000;
const SOURCE: &str = "kubernetes.io/config.source";
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A pod that may have to go.
#[derive(Clone, Debug)]
pub(in crate::machine) struct Candidate {
    pub(in crate::machine) pod: Arc<Pod>,
    /// None: nobody knows.
    pub(in crate::machine) is: Option<PodUse>,
    pub(in crate::machine) volumes: Option<VolumesUse>,
}

/// Whether a pod is never evicted: a static one, which nobody would bring back, or one that the cluster itself needs.
pub(in crate::machine) fn is_critical(pod: &Pod) -> bool {
    let annotations = &pod.metadata.annotations;
    annotations.get(SOURCE).is_some_and(|source| source != "api")
        || annotations.contains_key(MIRROR)
        || pod.spec.priority.is_some_and(|priority| priority >= SYSTEM)
}

/// Bytes (or how many) that a pod asks for of a resource: its containers', or more where its init containers need more at a time.
pub(super) fn requested(pod: &Pod, resource: &str) -> u64 {
    of_pod(pod, resource, false).unwrap_or(0)
}

/// The sum over a pod of requests or limits; `None` where none is set.
fn of_pod(pod: &Pod, resource: &str, limits: bool) -> Option<u64> {
    let units = |amounts: &BTreeMap<String, Value>| {
        let nanos = amounts.get(resource).and_then(quantity_nanos)?;
        u64::try_from(nanos / 1_000_000_000).ok()
    };
    let pick = |resources: &crate::pod::Resources| units(if limits { &resources.limits } else { &resources.requests });
    if let Some(whole) = pick(&pod.spec.resources) {
        return Some(whole);
    }
    let (mut main, mut sidecars, mut most, mut any) = (0_u64, 0_u64, 0_u64, false);
    for container in &pod.spec.containers {
        let amount = pick(&container.resources);
        any |= amount.is_some();
        main = main.saturating_add(amount.unwrap_or(0));
    }
    for container in &pod.spec.init_containers {
        let amount = pick(&container.resources);
        any |= amount.is_some();
        if container.is_sidecar() {
            sidecars = sidecars.saturating_add(amount.unwrap_or(0));
            most = most.max(sidecars);
        } else {
            most = most.max(sidecars.saturating_add(amount.unwrap_or(0)));
        }
    }
    any.then(|| main.saturating_add(sidecars).max(most))
}

/// Bytes, or inodes, that a pod has on the node's disk: what containers changed in their images (if that is on the same disk, or is the one
/// that is full), logs and volumes.
fn disk(candidate: &Candidate, signal: Signal, one_disk: bool) -> u64 {
    let inodes = matches!(signal, Signal::NodeFsInodes | Signal::ImageFsInodes);
    let at = usize::from(inodes);
    let images = matches!(signal, Signal::ImageFs | Signal::ImageFsInodes);
    let containers = candidate.is.as_ref().map_or(&[][..], |is| &is.containers);
    let mut sum = 0_u64;
    for container in containers {
        if images || one_disk {
            sum = sum.saturating_add(container.files.map_or(0, |files| files[at]));
        }
        if (!images || one_disk) && !inodes {
            sum = sum.saturating_add(container.logs);
        }
    }
    if !images || one_disk {
        sum = sum.saturating_add(candidate.volumes.as_ref().map_or(0, |volumes| volumes.total[at]));
    }
    sum
}

/// Orders pods: the first goes first. `one_disk`: images are on the same file system as everything else.
pub(in crate::machine) fn rank(candidates: &mut [Candidate], signal: Signal, one_disk: bool) {
    candidates.sort_by_cached_key(|candidate| {
        let pod = &candidate.pod;
        let known = candidate.is.is_some();
        let is = candidate.is.as_ref().map(|is| is.is).unwrap_or_default();
        let (usage, request) = match signal {
            Signal::Memory => (is.working_set, requested(pod, "memory")),
            Signal::Pids => (is.pids, 0),
            Signal::NodeFs | Signal::ImageFs => {
                (disk(candidate, signal, one_disk), requested(pod, "ephemeral-storage"))
            }
            Signal::NodeFsInodes | Signal::ImageFsInodes => (disk(candidate, signal, one_disk), 0),
        };
        let within = signal != Signal::Pids && usage <= request;
        let beyond = i128::from(usage) - i128::from(request);
        (known, within, pod.spec.priority.unwrap_or(0), Reverse(beyond))
    });
}

/// Why a pod goes that has more on the disk than it may; none: it has not.
pub(in crate::machine) fn over_limit(candidate: &Candidate, one_disk: bool) -> Option<String> {
    let pod = &candidate.pod;
    let bytes = |value: &Value| u64::try_from(quantity_nanos(value)? / 1_000_000_000).ok();
    if let Some(used) = &candidate.volumes {
        for volume in &pod.spec.volumes {
            let Some(limit) = volume.empty_dir.as_ref().and_then(|dir| dir.size_limit.as_ref()) else {
                continue;
            };
            let Some(most) = bytes(limit).filter(|most| *most > 0) else {
                continue;
            };
            let used = used.empty_dirs.iter().find(|(name, _)| *name == volume.name);
            if used.is_some_and(|(_, used)| *used > most) {
                return Some(format!(
                    "Usage of EmptyDir volume {:?} exceeds the limit {:?}. ",
                    volume.name,
                    limit.as_str().unwrap_or_default()
                ));
            }
        }
    }
    if let Some(most) = of_pod(pod, "ephemeral-storage", true)
        && disk(candidate, Signal::NodeFs, one_disk) > most
    {
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {}. ",
            super::words::binary(most)
        ));
    }
    for used in candidate.is.iter().flat_map(|is| &is.containers) {
        let container = pod.spec.containers.iter().find(|c| c.name == used.name);
        let Some(limit) = container.and_then(|c| c.resources.limits.get("ephemeral-storage")) else {
            continue;
        };
        let files = if one_disk {
            used.files.map_or(0, |files| files[0])
        } else {
            0
        };
        if bytes(limit).is_some_and(|most| most > 0 && used.logs.saturating_add(files) > most) {
            return Some(format!(
                "Container {} exceeded its local ephemeral storage limit {:?}. ",
                used.name,
                limit.as_str().unwrap_or_default()
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::machine::usage::{ContainerUse, Use};

    fn candidate(name: &str, priority: i64, memory_request: &str, used: u64) -> Candidate {
        let pod = json!({
            "metadata": {"name": name, "namespace": "plant", "uid": name},
            "spec": {"priority": priority, "containers": [
                {"name": "app", "resources": {"requests": {"memory": memory_request, "ephemeral-storage": memory_request}}},
            ]},
        });
        let is = PodUse {
            is: Use {
                working_set: used,
                pids: used,
                ..Use::default()
            },
            containers: vec![ContainerUse {
                name: "app".into(),
                files: Some([used, used]),
                ..ContainerUse::default()
            }],
            ..PodUse::default()
        };
        Candidate {
            pod: Arc::new(Pod::read(pod).unwrap()),
            is: Some(is),
            volumes: None,
        }
    }

    fn order(mut all: Vec<Candidate>, signal: Signal) -> Vec<String> {
        rank(&mut all, signal, true);
        all.iter().map(|c| c.pod.metadata.name.clone()).collect()
    }

    #[test]
    fn those_beyond_their_request_go_first_then_the_less_important_then_the_largest() {
        let mi = 1 << 20;
        let all = || {
            vec![
                candidate("within", 0, "100Mi", 90 * mi),
                candidate("beyond-important", 100, "10Mi", 50 * mi),
                candidate("beyond-most", 0, "10Mi", 50 * mi),
                candidate("beyond-some", 0, "10Mi", 20 * mi),
                Candidate {
                    is: None,
                    ..candidate("unknown", 1000, "1Gi", 0)
                },
            ]
        };
        let want = ["unknown", "beyond-most", "beyond-some", "beyond-important", "within"];
        assert_eq!(order(all(), Signal::Memory), want);
        assert_eq!(order(all(), Signal::NodeFs), want);
        let pids = order(all(), Signal::Pids);
        assert_eq!(
            pids,
            ["unknown", "within", "beyond-most", "beyond-some", "beyond-important"]
        );
    }

    #[test]
    fn static_and_system_pods_stay() {
        let pod = |annotations: Value, priority: i64| {
            Pod::read(json!({"metadata": {"annotations": annotations}, "spec": {"priority": priority}})).unwrap()
        };
        assert!(is_critical(&pod(json!({SOURCE: "file"}), 0)) && is_critical(&pod(json!({MIRROR: "x"}), 0)));
        assert!(is_critical(&pod(json!({}), SYSTEM)));
        assert!(!is_critical(&pod(json!({SOURCE: "api"}), SYSTEM - 1)));
    }

    #[test]
    fn who_has_more_on_the_disk_than_it_may_is_told_why() {
        let pod = json!({"spec": {
            "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}],
            "containers": [
                {"name": "app", "resources": {"limits": {"ephemeral-storage": "2Mi"}}},
                {"name": "side", "resources": {"limits": {"ephemeral-storage": "8Mi"}}},
            ],
        }});
        let of = |volume: u64, app: u64, side: u64| {
            let used = |name: &str, bytes| ContainerUse {
                name: name.into(),
                logs: bytes,
                ..ContainerUse::default()
            };
            let candidate = Candidate {
                pod: Arc::new(Pod::read(pod.clone()).unwrap()),
                is: Some(PodUse {
                    containers: vec![used("app", app), used("side", side)],
                    ..PodUse::default()
                }),
                volumes: Some(VolumesUse {
                    total: [volume, 1],
                    empty_dirs: vec![("scratch".into(), volume)],
                }),
            };
            over_limit(&candidate, true)
        };
        let mi = 1 << 20;
        assert_eq!(of(mi, mi, mi), None);
        assert_eq!(
            of(mi + 1, 0, 0).unwrap(),
            "Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\". "
        );
        assert_eq!(
            of(0, 3 * mi, 0).unwrap(),
            "Container app exceeded its local ephemeral storage limit \"2Mi\". "
        );
        assert_eq!(
            of(mi, 2 * mi, 8 * mi).unwrap(),
            "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. "
        );
    }

    #[test]
    fn init_containers_count_as_far_as_they_run_at_a_time() {
        let resources = |memory: &str| json!({"requests": {"memory": memory}});
        let pod = json!({"spec": {
            "initContainers": [
                {"name": "i", "resources": resources("30")},
                {"name": "s", "restartPolicy": "Always", "resources": resources("5")},
                {"name": "j", "resources": resources("10")},
            ],
            "containers": [{"name": "a", "resources": resources("7")}, {"name": "b", "resources": resources("8")}],
        }});
        assert_eq!(requested(&Pod::read(pod.clone()).unwrap(), "memory"), 30);
        let mut whole = pod;
        whole["spec"]["resources"] = resources("99");
        assert_eq!(requested(&Pod::read(whole).unwrap(), "memory"), 99);
    }
}
