//! What containers, pods and the machine use. Read when somebody asks, never on a timer: from cgroups, and from the runtime what only it
//! knows (how large a container's own files are) or whatever cgroups do not show here.

mod cgroup;
mod host;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cri::v1;
use tokio::time::Instant;

use self::cgroup::Cgroups;
use super::Machine;
use super::household::Resident;
use crate::cluster::Key;
use crate::setup::cgroup_parents;

pub(crate) use host::{Disk, Host};

/// A rate over less than this says little, and the kernel counts the machine's time in hundredths of a second.
const SHORTEST: Duration = Duration::from_secs(1);
/// A sample that is older is no begin of a rate any more: it would say what was, not what is.
const LONGEST: Duration = Duration::from_secs(120);
/// Samples are kept at least so far apart.
const FRESH: Duration = Duration::from_secs(5);

/// What a group of processes uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Use {
    /// Time on processors since it began.
    pub(crate) cpu_nanos: u64,
    /// Bytes of memory, all of it; without files that were not read lately; without any files.
    pub(crate) used: u64,
    pub(crate) working_set: u64,
    pub(crate) rss: u64,
    /// Page faults, all and those that needed a disk.
    pub(crate) faults: [u64; 2],
    /// Processes and threads.
    pub(crate) pids: u64,
}

/// What a container uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ContainerUse {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) is: Use,
    /// Billionths of a processor, over the answer's window. None for one that is too young.
    pub(crate) nano_cores: Option<u64>,
    /// Bytes and inodes of the files that it changed in its image. None: not known.
    pub(crate) files: Option<[u64; 2]>,
    /// Bytes of its logs.
    pub(crate) logs: u64,
}

/// What a pod uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PodUse {
    pub(crate) uid: String,
    pub(crate) key: Option<Key>,
    /// Of all in it, where the kernel counts it; else the sum of its containers.
    pub(crate) is: Use,
    pub(crate) containers: Vec<ContainerUse>,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Usage {
    /// When, in milliseconds since 1970.
    pub(crate) wall_ms: u64,
    /// Over which time rates are.
    pub(crate) window: Duration,
    pub(crate) host: Host,
    /// Billionths of a processor of the whole machine.
    pub(crate) host_nano_cores: Option<u64>,
    /// Pods with something in them, by key.
    pub(crate) pods: Vec<PodUse>,
}

/// Times on processors at a moment: what a rate begins with.
#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    host: u64,
    /// By container.
    containers: BTreeMap<String, u64>,
}

/// Reads what is used, and remembers as much as a rate needs.
#[derive(Debug)]
pub(super) struct Meter {
    cgroups: Cgroups,
    /// The older one is what rates begin with.
    samples: Mutex<Vec<Sample>>,
}

impl Meter {
    pub(super) fn new(root: Option<&Path>) -> Self {
        Self {
            cgroups: Cgroups::at(root.unwrap_or(Path::new(cgroup::ROOT))),
            samples: Mutex::new(Vec::new()),
        }
    }

    /// The sample to begin a rate with, from those that are not too old; the newest of those that are old enough.
    fn begin(&self, now: Instant) -> Option<Sample> {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.retain(|sample| now.duration_since(sample.at) <= LONGEST);
        let old = samples.iter().rfind(|sample| now.duration_since(sample.at) >= SHORTEST);
        old.cloned()
    }

    /// Keeps a sample, and at most one that is older.
    fn keep(&self, sample: Sample) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        // One after another in short time would leave nothing to begin with.
        if samples
            .last()
            .is_some_and(|last| sample.at.duration_since(last.at) < FRESH)
        {
            return;
        }
        if samples.len() > 1 {
            samples.remove(0);
        }
        samples.push(sample);
    }

    /// What a pod and its containers use by cgroups; and the containers that have none that is seen.
    fn pod(&self, resident: &Resident) -> (PodUse, Vec<usize>) {
        let parents = cgroup_parents(&resident.uid);
        let mut missing = Vec::new();
        let mut pod = PodUse {
            uid: resident.uid.clone(),
            key: Some(resident.pod.clone()),
            ..PodUse::default()
        };
        for container in resident.containers.iter().filter(|c| c.runs) {
            let path = self.cgroups.of_container(&parents, &container.id);
            let is = path.and_then(|path| self.cgroups.read(&path));
            if is.is_none() {
                missing.push(pod.containers.len());
            }
            pod.containers.push(ContainerUse {
                name: container.name.clone(),
                id: container.id.clone(),
                is: is.unwrap_or_default(),
                logs: log_bytes(&container.log_path),
                ..ContainerUse::default()
            });
        }
        let whole = self.cgroups.of_pod(&parents).and_then(|path| self.cgroups.read(path));
        pod.is = whole.unwrap_or_default();
        (pod, missing)
    }
}

impl Machine {
    /// What is used now. Rates are over the time since somebody asked before, if that was in the last two minutes; else this takes a second.
    /// `files`: whether to ask the runtime how large containers' own files are, too.
    pub(crate) async fn usage(&self, residents: &[Resident], files: bool) -> Usage {
        if self.meter.begin(Instant::now()).is_none() {
            let first = self.read_usage(residents, false).await;
            self.meter.keep(sample(&first, Instant::now()));
            tokio::time::sleep(SHORTEST).await;
        }
        let mut usage = self.read_usage(residents, files).await;
        let now = Instant::now();
        if let Some(begin) = self.meter.begin(now) {
            usage.window = now.duration_since(begin.at);
            let nanos = u64::try_from(usage.window.as_nanos()).unwrap_or(u64::MAX).max(1);
            let rate = |then: u64, now: u64| {
                u64::try_from(u128::from(now.saturating_sub(then)) * 1_000_000_000 / u128::from(nanos))
                    .unwrap_or(u64::MAX)
            };
            usage.host_nano_cores = Some(rate(begin.host, usage.host.is.cpu_nanos));
            for container in usage.pods.iter_mut().flat_map(|pod| &mut pod.containers) {
                let then = begin.containers.get(&container.id);
                container.nano_cores = then.map(|then| rate(*then, container.is.cpu_nanos));
            }
        }
        self.meter.keep(sample(&usage, now));
        usage
    }

    /// The same without rates.
    pub(super) async fn read_usage(&self, residents: &[Resident], files: bool) -> Usage {
        let mut any_missing = false;
        let mut pods: Vec<(PodUse, Vec<usize>)> = residents.iter().map(|resident| self.meter.pod(resident)).collect();
        any_missing |= pods.iter().any(|(_, missing)| !missing.is_empty());
        let told = if files || any_missing {
            self.container_stats().await
        } else {
            BTreeMap::new()
        };
        for (pod, missing) in &mut pods {
            for (at, container) in pod.containers.iter_mut().enumerate() {
                let Some(stats) = told.get(&container.id) else { continue };
                if missing.contains(&at) {
                    container.is = told_use(stats);
                }
                let layer = stats.writable_layer.as_ref();
                container.files = layer.map(|l| [value(l.used_bytes.as_ref()), value(l.inodes_used.as_ref())]);
            }
            if pod.is == Use::default() {
                pod.is = pod.containers.iter().fold(Use::default(), |sum, c| sum.and(&c.is));
            }
        }
        let mut pods: Vec<PodUse> = pods.into_iter().map(|(pod, _)| pod).collect();
        pods.sort_by(|a, b| a.key.cmp(&b.key));
        Usage {
            wall_ms: daemon::clock::wall_ms(),
            window: Duration::ZERO,
            host: Host::read(),
            host_nano_cores: None,
            pods,
        }
    }

    /// What the runtime says, by container. Nothing when it does not answer: what it knows is not worth waiting for.
    async fn container_stats(&self) -> BTreeMap<String, v1::ContainerStats> {
        let Some(runtime) = self.runtime.borrow().clone() else {
            return BTreeMap::new();
        };
        let filter = v1::ContainerStatsFilter {
            label_selector: BTreeMap::from([(crate::setup::label::NODE.to_owned(), self.node.to_string())]),
            ..v1::ContainerStatsFilter::default()
        };
        let request = v1::ListContainerStatsRequest { filter: Some(filter) };
        match runtime.list_container_stats(request).await {
            Ok(answer) => {
                let id = |stats: &v1::ContainerStats| stats.attributes.as_ref().map(|a| a.id.clone());
                answer
                    .stats
                    .into_iter()
                    .filter_map(|stats| Some((id(&stats)?, stats)))
                    .collect()
            }
            Err(e) => {
                tracing::debug!(error = %e, "The runtime does not say what containers use.");
                BTreeMap::new()
            }
        }
    }
}

impl Use {
    fn and(self, other: &Self) -> Self {
        Self {
            cpu_nanos: self.cpu_nanos.saturating_add(other.cpu_nanos),
            used: self.used.saturating_add(other.used),
            working_set: self.working_set.saturating_add(other.working_set),
            rss: self.rss.saturating_add(other.rss),
            faults: [0, 1].map(|at| self.faults[at].saturating_add(other.faults[at])),
            pids: self.pids.saturating_add(other.pids),
        }
    }
}

fn sample(usage: &Usage, at: Instant) -> Sample {
    let containers = usage.pods.iter().flat_map(|pod| &pod.containers);
    Sample {
        at,
        host: usage.host.is.cpu_nanos,
        containers: containers.map(|c| (c.id.clone(), c.is.cpu_nanos)).collect(),
    }
}

fn value(number: Option<&v1::UInt64Value>) -> u64 {
    number.map_or(0, |n| n.value)
}

fn told_use(stats: &v1::ContainerStats) -> Use {
    let (cpu, memory) = (stats.cpu.unwrap_or_default(), stats.memory.unwrap_or_default());
    let working_set = value(memory.working_set_bytes.as_ref());
    Use {
        cpu_nanos: value(cpu.usage_core_nano_seconds.as_ref()),
        used: value(memory.usage_bytes.as_ref()).max(working_set),
        working_set,
        rss: value(memory.rss_bytes.as_ref()),
        faults: [
            value(memory.page_faults.as_ref()),
            value(memory.major_page_faults.as_ref()),
        ],
        pids: 0,
    }
}

/// Bytes of a container's logs: all files in the folder of this one.
fn log_bytes(log: &Path) -> u64 {
    let files = log.parent().and_then(|folder| std::fs::read_dir(folder).ok());
    let sizes = files.into_iter().flatten().filter_map(|file| {
        use std::os::unix::fs::MetadataExt as _;
        Some(file.ok()?.metadata().ok()?.blocks() * 512)
    });
    sizes.sum()
}

#[cfg(test)]
mod tests;
