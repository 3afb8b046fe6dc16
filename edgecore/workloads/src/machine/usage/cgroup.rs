//! What a group of processes uses, as the kernel counts it: cgroups of version 1 (a tree for each kind of resource) and 2 (one tree).

use std::path::{Path, PathBuf};

use super::Use;

/// Where the kernel shows cgroups.
pub(super) const ROOT: &str = "/sys/fs/cgroup";
/// Names of a container's cgroup in its pod's, before and after its id: of containerd and CRI-O, made as folders and by systemd.
const LEAVES: [(&str, &str); 4] = [
    ("", ""),
    ("cri-containerd-", ".scope"),
    ("crio-", ".scope"),
    ("crio-", ""),
];
/// Trees of version 1 that are looked into.
const TREES: [&str; 3] = ["cpuacct", "memory", "pids"];

/// The trees that this machine has.
#[derive(Clone, Debug)]
pub(super) struct Cgroups {
    root: PathBuf,
    unified: bool,
}

impl Cgroups {
    pub(super) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            unified: root.join("cgroup.controllers").exists(),
        }
    }

    /// The cgroup below one of these pods' cgroups (`/kubepods/…`) that is a container's; none when there is none.
    pub(super) fn of_container(&self, parents: &[String], id: &str) -> Option<String> {
        let leaves = |parent: &String| LEAVES.map(|(before, after)| format!("{parent}/{before}{id}{after}"));
        parents
            .iter()
            .flat_map(leaves)
            .find(|path| self.folder("memory", path).is_dir())
    }

    /// The one of these that is there.
    pub(super) fn of_pod<'p>(&self, parents: &'p [String]) -> Option<&'p str> {
        let mut all = parents.iter().map(String::as_str);
        all.find(|path| self.folder("memory", path).is_dir())
    }

    fn folder(&self, tree: &str, path: &str) -> PathBuf {
        let path = path.trim_start_matches('/');
        if self.unified {
            self.root.join(path)
        } else {
            self.root.join(tree).join(path)
        }
    }

    /// What a cgroup and all below it use. None when it is gone; what the kernel does not count is 0.
    pub(super) fn read(&self, path: &str) -> Option<Use> {
        let [cpu, memory, pids] = TREES.map(|tree| self.folder(tree, path));
        let number = |folder: &Path, file: &str| -> Option<u64> {
            std::fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
        };
        let stat = std::fs::read_to_string(memory.join("memory.stat")).unwrap_or_default();
        let (used, cpu_nanos, idle, rss) = if self.unified {
            let times = std::fs::read_to_string(cpu.join("cpu.stat")).unwrap_or_default();
            let used = number(&memory, "memory.current")?;
            (
                used,
                entry(&times, "usage_usec").saturating_mul(1000),
                "inactive_file",
                "anon",
            )
        } else {
            let used = number(&memory, "memory.usage_in_bytes")?;
            (
                used,
                number(&cpu, "cpuacct.usage").unwrap_or(0),
                "total_inactive_file",
                "total_rss",
            )
        };
        let faults = if self.unified { "pgfault" } else { "total_pgfault" };
        let major = if self.unified { "pgmajfault" } else { "total_pgmajfault" };
        Some(Use {
            cpu_nanos,
            used,
            working_set: used.saturating_sub(entry(&stat, idle)),
            rss: entry(&stat, rss),
            faults: [entry(&stat, faults), entry(&stat, major)],
            pids: number(&pids, "pids.current").unwrap_or(0),
        })
    }
}

/// The number behind a name in lines of `name number`; 0 when it is not there.
fn entry(text: &str, name: &str) -> u64 {
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    found.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (file, text) in files {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn both_versions_are_read() {
        let want = Use {
            cpu_nanos: 7_000,
            used: 1000,
            working_set: 900,
            rss: 300,
            faults: [5, 2],
            pids: 4,
        };
        let v1 = tempfile::tempdir().unwrap();
        write(
            v1.path(),
            &[
                ("cpuacct/kubepods/podx/c1/cpuacct.usage", "7000\n"),
                ("memory/kubepods/podx/c1/memory.usage_in_bytes", "1000\n"),
                (
                    "memory/kubepods/podx/c1/memory.stat",
                    "inactive_file 1\ntotal_rss 300\ntotal_inactive_file 100\ntotal_pgfault 5\ntotal_pgmajfault 2\n",
                ),
                ("pids/kubepods/podx/c1/pids.current", "4\n"),
            ],
        );
        let cgroups = Cgroups::at(v1.path());
        let parents = [
            "/kubepods.slice/kubepods-podx.slice".to_owned(),
            "/kubepods/podx".to_owned(),
        ];
        let path = cgroups.of_container(&parents, "c1").unwrap();
        assert_eq!(cgroups.read(&path), Some(want));
        assert_eq!(cgroups.of_pod(&parents), Some("/kubepods/podx"));
        assert_eq!(cgroups.of_container(&parents, "c2"), None);
        assert_eq!(cgroups.read("/kubepods/podx/c2"), None);

        let v2 = tempfile::tempdir().unwrap();
        let scope = "kubepods.slice/kubepods-podx.slice/cri-containerd-c1.scope";
        write(
            v2.path(),
            &[
                ("cgroup.controllers", "cpu memory pids"),
                (&format!("{scope}/cpu.stat"), "usage_usec 7\nuser_usec 3\n"),
                (&format!("{scope}/memory.current"), "1000\n"),
                (
                    &format!("{scope}/memory.stat"),
                    "anon 300\ninactive_file 100\npgfault 5\npgmajfault 2\n",
                ),
                (&format!("{scope}/pids.current"), "4\n"),
            ],
        );
        let cgroups = Cgroups::at(v2.path());
        let path = cgroups.of_container(&parents, "c1").unwrap();
        assert_eq!(cgroups.read(&path), Some(want));
    }
}
