//! Keeps the machine alive under its pods: looks at what is left, evicts pods and removes images when it runs short, turns logs, and tells
//! the Node's events. A full disk is a reason to act here, never one to fail.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use daemon::drain::Drain;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Machine;
use super::eviction::{Candidate, Left, Shortage, Watch, evicted, is_critical, over_limit, rank};
use super::household::{Household, Resident};
use super::limits::{Signal, Threshold};
use super::report::Report;
use super::usage::{Disk, Host};
use crate::cluster::{Cluster, PODS};
use crate::events::{Recorder, Tone};
use crate::pod::Pod;
use crate::setup::{Qos, qos};

/// Between two looks at memory, processes and logs; and when memory gets scarce.
const PERIOD: Duration = Duration::from_secs(10);
const SCARCE: Duration = Duration::from_secs(2);
/// Scarce is less than this many times the threshold.
const SCARCE_TIMES: u64 = 3;
/// Between two looks at the disks, which fill more slowly.
const DISKS: Duration = Duration::from_secs(10);
/// Between two looks at what pods with a limit have on the disk: their files are counted.
const FILES: Duration = Duration::from_secs(60);
/// Between two collections of images.
const IMAGES: Duration = Duration::from_secs(300);
/// What an evicted pod held may take so long to come back; meanwhile no other goes.
const CLEAN_UP: Duration = Duration::from_secs(30);
/// How long the files of a pod may take to go once nothing of it runs.
const FILES_GO: Duration = Duration::from_secs(4);
/// Of hard evictions, seconds: time is what there is none of.
const HARD_GRACE: i64 = 1;
/// Memory that only such pods are kept out for.
const MEMORY_TAINT: &str = "node.kubernetes.io/memory-pressure";

/// Looks at what is left.
pub(crate) trait Sight: Send + 'static {
    /// Memory and processes.
    fn host(&mut self) -> Host;
    /// The disk that pods write to, and the one that images are on. Equal devices: one disk.
    fn disks(&mut self, images: Option<&Path>) -> [Option<Disk>; 2];
}

/// At this machine.
#[derive(Debug)]
pub(crate) struct Eyes {
    pub(crate) data_dir: PathBuf,
}

impl Sight for Eyes {
    fn host(&mut self) -> Host {
        Host::read()
    }

    fn disks(&mut self, images: Option<&Path>) -> [Option<Disk>; 2] {
        let own = Disk::of(&self.data_dir);
        [own, images.map_or(own, Disk::of)]
    }
}

/// The guard.
pub(crate) struct Guard<S> {
    machine: Arc<Machine>,
    house: Arc<dyn Household>,
    cluster: Cluster,
    events: Recorder,
    sight: S,
    thresholds: Vec<Threshold>,
    watch: Watch,
    /// Where images are; none: not known yet.
    images: Option<PathBuf>,
    disks: [Option<Disk>; 2],
    due: Due,
    leaving: Option<Leaving>,
}

/// Who was told to go.
#[derive(Debug)]
struct Leaving {
    uid: String,
    /// Waited for no longer.
    until: Instant,
    /// It went for the disk, which is free only when its files are gone.
    disk: bool,
    /// When nothing of it ran any more.
    ended: Option<Instant>,
}

impl Leaving {
    /// Whether what it holds may still come back.
    fn holds(&mut self, residents: &[Resident], now: Instant) -> bool {
        let runs = |r: &Resident| r.uid == self.uid && r.containers.iter().any(|c| c.runs);
        if residents.iter().any(runs) {
            return now < self.until;
        }
        let ended = *self.ended.get_or_insert(now);
        self.disk && now < (ended + FILES_GO).min(self.until)
    }
}

/// When to look at what is not looked at each time.
#[derive(Debug)]
struct Due {
    disks: Instant,
    files: Instant,
    images: Instant,
}

impl<S: Sight> Guard<S> {
    pub(crate) fn new(
        machine: Arc<Machine>,
        house: Arc<dyn Household>,
        cluster: Cluster,
        events: &Recorder,
        sight: S,
    ) -> Self {
        let now = Instant::now();
        let (thresholds, _) = machine.settings.eviction.thresholds();
        Self {
            events: events.of("kubelet"),
            machine,
            house,
            cluster,
            sight,
            thresholds,
            watch: Watch::default(),
            images: None,
            disks: [None; 2],
            due: Due {
                disks: now,
                files: now + FILES,
                images: now + IMAGES,
            },
            leaving: None,
        }
    }

    /// Watches until the drain begins.
    pub(crate) async fn run(mut self, drain: Drain) {
        let mut report = self.machine.report();
        let mut said = report.borrow_and_update().clone();
        let mut due = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = drain.stopping() => return,
                Ok(()) = report.changed() => {
                    let now = report.borrow_and_update().clone();
                    self.tell_changes(&said, &now);
                    said = now;
                }
                () = tokio::time::sleep_until(due) => {
                    let wait = tokio::select! {
                        biased;
                        () = drain.stopping() => return,
                        wait = self.look() => wait,
                    };
                    due = Instant::now() + wait;
                }
            }
        }
    }

    /// One look; how long until the next. Safe to be dropped at any await.
    async fn look(&mut self) -> Duration {
        let now = Instant::now();
        let host = self.sight.host();
        let mut left = vec![
            Left {
                signal: Signal::Memory,
                available: host.memory_available,
                whole: host.memory,
            },
            Left {
                signal: Signal::Pids,
                available: host.pids_max.saturating_sub(host.is.pids),
                whole: host.pids_max,
            },
        ];
        if now >= self.due.disks {
            self.due.disks = now + DISKS;
            self.see_disks().await;
        }
        left.extend(left_on(&self.disks));
        let settings = Arc::clone(&self.machine.settings);
        let verdict = self.watch.see(&settings.eviction, &self.thresholds, &left, now);
        self.machine.learn(|known| known.pressure = Some(verdict.pressure));

        let residents = self.house.residents();
        self.turn_logs(&residents).await;
        let leaving = self.leaving.as_mut().is_some_and(|l| l.holds(&residents, now));
        if !leaving && (!residents.is_empty() || verdict.short.is_some()) {
            self.leaving = None;
            if now >= self.due.files {
                self.due.files = now + FILES;
                self.hold_to_limits(&residents).await;
            }
            if let Some(threshold) = verdict.short {
                self.win_back(&threshold, &left, &residents).await;
            }
        }
        if now >= self.due.images {
            self.due.images = now + IMAGES;
            self.collect_images().await;
        }
        let threshold = settings.eviction.least(Signal::Memory, host.memory);
        let acts = self.leaving.is_some() || verdict.short.is_some();
        if acts || host.memory_available < threshold.saturating_mul(SCARCE_TIMES) {
            SCARCE
        } else {
            PERIOD
        }
    }

    async fn see_disks(&mut self) {
        let runtime = self.machine.runtime.borrow().clone();
        if self.images.is_none()
            && let Some(runtime) = runtime
        {
            // Until the runtime says, images are taken to be where pods write.
            let info = runtime.image_fs_info(cri::v1::ImageFsInfoRequest {}).await;
            let first = info
                .ok()
                .and_then(|info| info.image_filesystems.into_iter().next()?.fs_id);
            self.images = first
                .map(|id| PathBuf::from(id.mountpoint))
                .filter(|path| path.is_absolute());
        }
        self.disks = self.sight.disks(self.images.as_deref());
    }

    /// Whether images are on the disk that pods write to.
    fn one_disk(&self) -> bool {
        let [own, images] = self.disks.map(|disk| disk.map(|disk| disk.device));
        images.is_none() || own == images
    }

    /// Tries images first where a disk is full, then has the first in rank go.
    async fn win_back(&mut self, threshold: &Threshold, left: &[Left], residents: &[Resident]) {
        let Some(seen) = left.iter().find(|left| left.signal == threshold.signal) else {
            return;
        };
        let settings = Arc::clone(&self.machine.settings);
        let eviction = &settings.eviction;
        let least = eviction.scaled(threshold, seen.whole);
        let shortage = Shortage {
            signal: threshold.signal,
            least,
            available: seen.available,
        };
        let resource = shortage.resource();
        self.events.tell(
            &self.node(),
            Tone::Warning,
            "EvictionThresholdMet",
            format!("Attempting to reclaim {resource}"),
        );
        tracing::warn!(
            resource,
            available = seen.available,
            threshold = least,
            "The machine runs short."
        );

        let images = matches!(threshold.signal, Signal::ImageFs | Signal::ImageFsInodes);
        let disk = images || matches!(threshold.signal, Signal::NodeFs | Signal::NodeFsInodes);
        if disk {
            let more = threshold.reclaim.map_or(0, |amount| amount.of(seen.whole));
            let missing = match threshold.signal {
                // How many inodes an image has nobody knows.
                Signal::ImageFsInodes | Signal::NodeFsInodes => u64::MAX,
                _ => least.saturating_add(more).saturating_sub(seen.available),
            };
            if images || self.one_disk() {
                self.house.collect_images(missing, false).await;
            }
            // What was seen may be half a minute old, and who went last gave its room back meanwhile.
            self.see_disks().await;
            let after = left_on(&self.disks)
                .into_iter()
                .find(|left| left.signal == threshold.signal);
            if after.is_some_and(|after| after.available >= least.saturating_add(more)) {
                return;
            }
        }

        let mut candidates = self.candidates(residents, disk, |_| true).await;
        rank(&mut candidates, threshold.signal, self.one_disk());
        let Some(first) = candidates.iter().find(|candidate| !is_critical(&candidate.pod)) else {
            tracing::warn!(resource, "There is no pod that could be evicted.");
            return;
        };
        let own = first.pod.spec.termination_grace_period_seconds;
        let grace = threshold.grace.map_or(HARD_GRACE, |_| {
            let most = i64::from(eviction.max_pod_grace_seconds);
            own.map_or(most, |own| own.min(most))
        });
        let message = evicted(first, &shortage);
        self.evict(&first.pod, &message, grace, disk);
    }

    /// Has pods go that have more on the disk than they may.
    async fn hold_to_limits(&mut self, residents: &[Resident]) {
        let limited = |pod: &Pod| {
            pod.spec
                .volumes
                .iter()
                .any(|v| v.empty_dir.as_ref().is_some_and(|dir| dir.size_limit.is_some()))
                || pod.spec.resources.limits.contains_key("ephemeral-storage")
                || pod
                    .all_containers()
                    .any(|c| c.resources.limits.contains_key("ephemeral-storage"))
        };
        let candidates = self.candidates(residents, true, limited).await;
        let one_disk = self.one_disk();
        for candidate in &candidates {
            if let Some(message) = over_limit(candidate, one_disk).filter(|_| !is_critical(&candidate.pod)) {
                self.evict(&candidate.pod, &message, HARD_GRACE, true);
            }
        }
    }

    /// The pods that are not on their way out, and what they use.
    async fn candidates(&self, residents: &[Resident], disk: bool, wanted: impl Fn(&Pod) -> bool) -> Vec<Candidate> {
        let mut chosen = Vec::new();
        for resident in residents {
            let Ok(Some(object)) = self.cluster.get(PODS, &resident.pod) else {
                continue;
            };
            let Ok(pod) = Pod::read(object) else { continue };
            if pod.uid() != resident.uid || pod.is_terminating() || pod.is_finished() || !wanted(&pod) {
                continue;
            }
            chosen.push((resident.clone(), Arc::new(pod)));
        }
        if chosen.is_empty() {
            return Vec::new();
        }
        let lodgers: Vec<Resident> = chosen.iter().map(|(resident, _)| resident.clone()).collect();
        let mut usage = self.machine.read_usage(&lodgers, disk).await.pods;
        let mut candidates = Vec::new();
        for (resident, pod) in chosen {
            let is = usage
                .iter()
                .position(|used| used.uid == resident.uid)
                .map(|at| usage.swap_remove(at));
            let volumes = if disk { self.house.volumes(&pod).await } else { None };
            candidates.push(Candidate { pod, is, volumes });
        }
        candidates
    }

    fn evict(&mut self, pod: &Pod, message: &str, grace: i64, disk: bool) {
        let meta = &pod.metadata;
        let about = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
        });
        self.events.tell(&about, Tone::Warning, "Evicted", message);
        tracing::warn!(pod = %pod.key(), message, "A pod is evicted.");
        if self.house.evict(pod.uid(), "Evicted", message, Some(grace)) {
            self.leaving = Some(Leaving {
                uid: pod.uid().to_owned(),
                until: Instant::now() + CLEAN_UP,
                disk,
                ended: None,
            });
        }
    }

    /// Images go when their disk is fuller than it may be, until it is as full as it should be; and else it is only noted which are used.
    async fn collect_images(&mut self) {
        let eviction = &self.machine.settings.eviction;
        let full = |disk: &Disk| disk.capacity.saturating_sub(disk.available) * 100 / disk.capacity.max(1);
        let target = match &self.disks[1] {
            Some(disk) if full(disk) >= u64::from(eviction.image_high_percent) => {
                let free = disk.capacity / 100 * u64::from(100 - eviction.image_low_percent.min(100));
                free.saturating_sub(disk.available)
            }
            _ => 0,
        };
        let freed = self.house.collect_images(target, true).await;
        if freed < target {
            self.events.tell(
                &self.node(),
                Tone::Warning,
                "FreeDiskSpaceFailed",
                format!(
                    "Failed to garbage collect required amount of images. Attempted to free {target} bytes, but only found {freed} bytes \
                     eligible to free."
                ),
            );
        }
    }

    async fn turn_logs(&self, residents: &[Resident]) {
        let Some(runtime) = self.machine.runtime.borrow().clone() else {
            return;
        };
        for room in residents.iter().flat_map(|r| &r.containers).filter(|room| room.runs) {
            let looked = super::logs::look(room, &self.machine.settings, &runtime, daemon::clock::wall_ms());
            if let Err(e) = looked.await {
                tracing::debug!(container = room.id, log = %room.log_path.display(), error = %e, "A log cannot be turned.");
            }
        }
    }

    /// The Node as its events name it: by its name, which is its uid there.
    fn node(&self) -> Value {
        let name = &*self.machine.node;
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name}})
    }

    fn tell_changes(&self, before: &Report, after: &Report) {
        for reason in changes(before, after) {
            let message = format!("Node {} status is now: {reason}", self.machine.node);
            self.events.tell(&self.node(), Tone::Normal, reason, message);
        }
    }
}

impl Machine {
    /// Whether a pod may be begun now; else why not, for a status with the reason `Evicted`.
    pub(crate) fn admits(&self, pod: &Pod) -> Result<(), String> {
        let pressure = self.known().pressure.unwrap_or_default();
        let names = pressure.names();
        if names.is_empty() || is_critical(pod) {
            return Ok(());
        }
        let tolerates = |taint: &Value| {
            let effect = taint["effect"].as_str().unwrap_or_default();
            let key = taint["key"].as_str().unwrap_or_default();
            matches!(effect, "" | "NoSchedule")
                && (key == MEMORY_TAINT || key.is_empty() && taint["operator"] == "Exists")
        };
        let memory_alone = names == ["MemoryPressure"];
        if memory_alone && (qos(pod) != Qos::BestEffort || pod.spec.tolerations.iter().any(tolerates)) {
            return Ok(());
        }
        Err(format!("The node had condition: [{}]. ", names.join(" ")))
    }
}

/// What is left on the disks, as signals.
fn left_on(disks: &[Option<Disk>; 2]) -> Vec<Left> {
    let signals = [
        (Signal::NodeFs, Signal::NodeFsInodes),
        (Signal::ImageFs, Signal::ImageFsInodes),
    ];
    let mut all = Vec::with_capacity(4);
    for ((bytes, inodes), disk) in signals.into_iter().zip(disks) {
        let Some(disk) = disk else { continue };
        all.push(Left {
            signal: bytes,
            available: disk.available,
            whole: disk.capacity,
        });
        if disk.inodes > 0 {
            all.push(Left {
                signal: inodes,
                available: disk.inodes_free,
                whole: disk.inodes,
            });
        }
    }
    all
}

/// The events that tell one report from the next.
fn changes(before: &Report, after: &Report) -> Vec<&'static str> {
    let events: [(&str, &str, &str); 4] = [
        ("Ready", "NodeReady", "NodeNotReady"),
        ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
        ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
        ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
    ];
    let of = |report: &Report, kind: &str| report.conditions.iter().find(|c| c.kind == kind).map(|c| c.holds);
    let told = events.iter().filter_map(|(kind, yes, no)| {
        let (was, is) = (of(before, kind), of(after, kind)?);
        (was != Some(is)).then_some(if is { *yes } else { *no })
    });
    told.collect()
}

#[cfg(test)]
mod tests;
