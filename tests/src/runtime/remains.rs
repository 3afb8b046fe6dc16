//! What a machine leaves, and how it goes: processes, mounts, network namespaces, cgroups, one folder. Works from what the kernel says, so
//! that it needs nothing of whoever made it: a test that was killed is cleaned up after by the next.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Folders are called `<PREFIX><pid>-<start of that process>-<n>`: whose they are, and whether that process still runs. Short, because paths
/// of sockets are.
const PREFIX: &str = "km-";
/// Where named network namespaces are kept.
const NAMESPACES: &str = "/run/netns";
/// Where the library of network plugins notes what it did.
const NOTES: &str = "/var/lib/cni/results";
/// Where the plugin for addresses does.
const LEASES: &str = "/var/lib/cni/networks";
/// How long processes may take to be gone after SIGKILL.
const DEATH: Duration = Duration::from_secs(20);
/// Lines of a log that a failed test shows.
const TOLD: usize = 80;

/// What a runtime says at each start.
const NOISE: [&str; 4] = ["loading plugin", "skip loading", "Start cri plugin", "serving..."];

static COUNT: AtomicU32 = AtomicU32::new(0);

/// One machine's folder, and all that is known by its path.
#[derive(Debug)]
pub(super) struct Remains {
    name: String,
    folder: PathBuf,
}

impl Remains {
    /// A new folder; what tests that run no more have left is taken away first.
    pub(super) fn new() -> Self {
        sweep();
        let pid = std::process::id();
        let start = started(pid).expect("a running process has a start");
        let name = format!("{PREFIX}{pid}-{start}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(&name);
        fs::create_dir(&folder).expect("temporary folders can be made");
        Self { name, folder }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends every process that the machine runs: what has the folder on its command line, and what has its root in it.
    pub(super) fn end_processes(&self) {
        let sockets = shim_sockets(&self.folder);
        let mut cgroups = BTreeSet::new();
        let deadline = daemon::clock::now() + DEATH;
        loop {
            let members = members(&self.folder);
            if members.is_empty() {
                break;
            }
            assert!(
                daemon::clock::now() < deadline,
                "processes of {} do not end: {members:?}",
                self.folder.display()
            );
            for pid in members {
                cgroups.extend(cgroups_of(pid));
                if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                    // It may have ended by itself.
                    kill_process(pid, Signal::KILL).ok();
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        for socket in sockets {
            drop(fs::remove_file(socket));
        }
        remove_cgroups(&cgroups);
    }

    /// Unmounts everything below a folder.
    pub(super) fn unmount(&self, below: &Path) {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = text.lines().rev().filter_map(|line| line.split(' ').nth(4));
        for point in points.filter(|p| Path::new(p).starts_with(below)) {
            unmount(point, UnmountFlags::DETACH).ok();
        }
    }

    /// What the plugins' library noted of this machine's sandboxes, in a folder that all runtimes share.
    fn forget_network(&self) {
        let sandboxes = fs::read_dir(self.folder.join("root/io.containerd.grpc.v1.cri/sandboxes"));
        let ids: Vec<String> = sandboxes
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|sandbox| sandbox.file_name().into_string().ok())
            .collect();
        let ours = |text: &str| ids.iter().any(|id| text.contains(id));
        for entry in fs::read_dir(NOTES).into_iter().flatten().flatten() {
            if ours(&entry.file_name().to_string_lossy()) {
                drop(fs::remove_file(entry.path()));
            }
        }
        // Addresses that were lent to them.
        let networks = fs::read_dir(LEASES).into_iter().flatten().flatten();
        for lease in networks.flat_map(|network| fs::read_dir(network.path()).into_iter().flatten().flatten()) {
            if fs::read_to_string(lease.path()).is_ok_and(|text| ours(&text)) {
                drop(fs::remove_file(lease.path()));
            }
        }
    }

    /// Shows the ends of logs.
    pub(super) fn tell(&self, logs: &[&str]) {
        for log in logs {
            let text = fs::read_to_string(self.folder.join(log)).unwrap_or_default();
            let lines: Vec<&str> = text
                .lines()
                .filter(|line| !NOISE.iter().any(|n| line.contains(n)))
                .collect();
            let last = lines[lines.len().saturating_sub(TOLD)..].join("\n");
            drop(writeln!(std::io::stderr(), "--- {log}\n{last}"));
        }
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        self.end_processes();
        self.unmount(&self.folder);
        let namespace = Path::new(NAMESPACES).join(&self.name);
        unmount(&namespace, UnmountFlags::DETACH).ok();
        drop(fs::remove_file(&namespace));
        self.forget_network();
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// Moves the calling thread into a named network namespace.
pub(super) fn enter(name: &str) {
    let namespace = File::open(Path::new(NAMESPACES).join(name)).expect("the namespace was made");
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("root may move between namespaces");
}

/// Takes away what processes that run no more have left.
fn sweep() {
    let temporary = std::env::temp_dir();
    let lock = File::create(temporary.join(format!("{PREFIX}lock"))).expect("temporary files can be made");
    lock.lock().expect("a file can be locked");
    for entry in fs::read_dir(&temporary).into_iter().flatten().flatten() {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        let mut parts = name.strip_prefix(PREFIX).unwrap_or_default().split('-');
        let owner = parts.next().and_then(|p| p.parse::<u32>().ok());
        let since = parts.next().and_then(|p| p.parse::<u64>().ok());
        let (Some(owner), Some(since)) = (owner, since) else {
            continue;
        };
        if started(owner) != Some(since) {
            drop(Remains {
                name,
                folder: entry.path(),
            });
        }
    }
}

/// When a process started, in ticks since the machine did; `None` when there is no such process.
fn started(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

/// Processes that name the folder on their command line or whose root is a mount made of it.
fn members(folder: &Path) -> Vec<u32> {
    let folder = folder.to_string_lossy();
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let names = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(&*folder);
        let rooted = || {
            String::from_utf8_lossy(&read("mountinfo"))
                .lines()
                .any(|line| line.split(' ').nth(4) == Some("/") && line.contains(&*folder))
        };
        if pid != own && (names(&read("cmdline")) || rooted()) {
            found.push(pid);
        }
    }
    found
}

/// The sockets of shims, which stand outside of the folder.
fn shim_sockets(folder: &Path) -> Vec<PathBuf> {
    let tasks = folder.join("state/io.containerd.runtime.v2.task/k8s.io");
    let bundles = fs::read_dir(tasks).into_iter().flatten().flatten();
    let addresses = bundles.filter_map(|bundle| fs::read_to_string(bundle.path().join("address")).ok());
    addresses
        .filter_map(|address| address.strip_prefix("unix://").map(PathBuf::from))
        .collect()
}

/// The cgroups that a process is in, as folders.
fn cgroups_of(pid: u32) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let of = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let hierarchy = match controllers {
            "" if Path::new("/sys/fs/cgroup/unified").exists() => "unified",
            named => named.strip_prefix("name=").unwrap_or(named),
        };
        // Only what a runtime made for a container: its shims and the daemons stay where the test is.
        let of_a_container = path.contains("/kubepods") || path.starts_with("/k8s.io/");
        of_a_container.then(|| {
            Path::new("/sys/fs/cgroup")
                .join(hierarchy)
                .join(path.trim_start_matches('/'))
        })
    };
    text.lines().filter_map(of).collect()
}

/// Takes empty cgroups of containers away, and the pods' above them.
fn remove_cgroups(cgroups: &BTreeSet<PathBuf>) {
    for cgroup in cgroups.iter().rev() {
        drop(fs::remove_dir(cgroup));
        let above = cgroup.parent().filter(|p| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            name.starts_with("pod") || name.ends_with(".slice") && name.contains("-pod")
        });
        if let Some(pod) = above {
            drop(fs::remove_dir(pod));
        }
    }
}
