//! A pod's own cgroup, in which the runtime puts its containers: what it is called, what all of the pod's containers may use together, and its
//! end. Where systemd makes the cgroups, it also ends them; as folders they are made and removed here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::container::{quota, shares};
use super::sandbox::total;
use super::{Qos, amount, milli, qos};
use crate::pod::Pod;

/// Where the kernel shows cgroups.
const ROOT: &str = "/sys/fs/cgroup";
const TOP: &str = "kubepods";
/// Deepest folder below a pod's cgroup that is removed: a container, and what its program made in it.
const MAX_DEPTH: usize = 8;

/// The cgroup of a pod as the runtime is told.
pub(super) fn parent(pod: &Pod, systemd: bool) -> String {
    name(qos(pod), pod.uid(), systemd)
}

/// The names that a pod's cgroup may have, whatever its class and whoever makes it.
pub(crate) fn parents(uid: &str) -> Vec<String> {
    let classes = [Qos::Burstable, Qos::BestEffort, Qos::Guaranteed];
    let both = |class| [name(class, uid, false), name(class, uid, true)];
    classes.into_iter().flat_map(both).collect()
}

fn name(class: Qos, uid: &str, systemd: bool) -> String {
    let class = match class {
        Qos::Guaranteed => None,
        Qos::Burstable => Some("burstable"),
        Qos::BestEffort => Some("besteffort"),
    };
    let mut path = String::new();
    let mut whole = String::new();
    for part in [Some(TOP), class, Some(&format!("pod{uid}"))].into_iter().flatten() {
        if systemd {
            if !whole.is_empty() {
                whole.push('-');
            }
            whole.push_str(&part.replace('-', "_"));
            path.push_str(&format!("/{whole}.slice"));
        } else {
            path.push_str(&format!("/{part}"));
        }
    }
    path
}

/// The cgroups of pods, where they are folders.
#[derive(Clone, Debug)]
pub(crate) struct Cgroups {
    root: PathBuf,
    systemd: bool,
}

impl Cgroups {
    pub(crate) fn new(systemd: bool) -> Self {
        Self {
            root: PathBuf::from(ROOT),
            systemd,
        }
    }

    /// Whether there is one tree of cgroups (version 2) and not one for each kind of resource.
    fn unified(&self) -> bool {
        self.root.join("cgroup.controllers").exists()
    }

    /// Whether the use of swap can be limited: the kernel may count it or not.
    pub(super) fn limits_swap(&self) -> bool {
        if !self.unified() {
            return self.root.join("memory/memory.memsw.limit_in_bytes").exists();
        }
        // The root has no limits: any cgroup below shows which there are.
        let below = fs::read_dir(&self.root).into_iter().flatten();
        below
            .filter_map(Result::ok)
            .any(|f| f.path().join("memory.swap.max").exists())
    }

    /// Makes a pod's cgroup with what it may use as a whole, or brings it up to date.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn ensure(&self, pod: &Pod) -> io::Result<()> {
        if self.systemd {
            return Ok(());
        }
        let path = parent(pod, false);
        let values = values(pod, self.unified());
        if !self.unified() {
            for (controller, list) in [("cpu", &values[..]), ("memory", &values[..])] {
                let folder = self.root.join(controller).join(&path[1..]);
                if !self.root.join(controller).is_dir() {
                    continue;
                }
                fs::create_dir_all(&folder)?;
                for (file, value) in list.iter().filter(|(file, _)| file.starts_with(controller)) {
                    fs::write(folder.join(file), value)?;
                }
            }
            return Ok(());
        }
        let mut folder = self.root.clone();
        for part in path[1..].split('/') {
            // What a folder's children may limit has to be said in it first.
            let controllers = folder.join("cgroup.subtree_control");
            if let Err(error) = fs::write(&controllers, "+cpu +memory +pids") {
                tracing::debug!(path = %controllers.display(), %error, "Controllers cannot be turned on.");
            }
            folder.push(part);
            match fs::create_dir(&folder) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        values
            .iter()
            .try_for_each(|(file, value)| fs::write(folder.join(file), value))
    }

    /// Removes a pod's cgroup, whatever its class was. One in which something still runs stays, and is an error.
    ///
    /// # Errors
    /// When something still runs in it.
    pub(crate) fn remove(&self, uid: &str) -> io::Result<()> {
        if self.systemd {
            return Ok(());
        }
        let trees = if self.unified() {
            vec![self.root.clone()]
        } else {
            let folders = fs::read_dir(&self.root).into_iter().flatten();
            folders.filter_map(|f| Some(f.ok()?.path())).collect()
        };
        for tree in trees {
            for class in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
                remove(&tree.join(&name(class, uid, false)[1..]), MAX_DEPTH)?;
            }
        }
        Ok(())
    }
}

/// What a pod may use as a whole, by file: limits only where every container has one.
fn values(pod: &Pod, unified: bool) -> Vec<(&'static str, String)> {
    let (requests, limits) = (total(pod, false), total(pod, true));
    let class = qos(pod);
    let limited = |name: &str| {
        let all = pod.spec.containers.iter().chain(&pod.spec.init_containers);
        class != Qos::BestEffort
            && (milli(&pod.spec.resources.limits, name) > 0
                || all.map(|c| milli(&c.resources.limits, name)).all(|limit| limit > 0))
    };
    let weight = match class {
        Qos::BestEffort => shares(0),
        _ => shares(milli(&requests, "cpu")),
    };
    let cpu = quota(if limited("cpu") { milli(&limits, "cpu") } else { 0 });
    let memory = if limited("memory") {
        amount(&limits, "memory")
    } else {
        0
    };
    let or = |value: i64, none: &str| match value {
        0 => none.to_owned(),
        value => value.to_string(),
    };
    if unified {
        let weight = 1 + (weight - 2) * 9999 / 262_142;
        return vec![
            ("cpu.weight", weight.to_string()),
            ("cpu.max", format!("{} 100000", or(cpu, "max"))),
            ("memory.max", or(memory, "max")),
        ];
    }
    vec![
        ("cpu.shares", weight.to_string()),
        ("cpu.cfs_period_us", "100000".to_owned()),
        ("cpu.cfs_quota_us", or(cpu, "-1")),
        ("memory.limit_in_bytes", or(memory, "-1")),
    ]
}

/// Removes a tree of cgroups from its leaves up: the kernel lets only empty ones go.
fn remove(folder: &Path, depth: usize) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        if depth > 0 && entry.file_type()?.is_dir() {
            remove(&entry.path(), depth - 1)?;
        }
    }
    match fs::remove_dir(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
