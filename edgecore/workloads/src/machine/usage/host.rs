//! What is used of the machine as a whole, and what is left of it: `/proc` and the file systems.

use std::path::Path;

use rustix::fs::{stat, statvfs};

use super::Use;
use crate::machine::facts::kib;

/// A file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Bytes, and those that programs without privileges may still write.
    pub(crate) capacity: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    /// Where there is no number of inodes (btrfs and others make them as needed), all of them are 0.
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
    /// Which it is, to tell whether two folders are on the same.
    pub(crate) device: u64,
}

impl Disk {
    /// The file system of a folder; none when it cannot be asked.
    pub(crate) fn of(folder: &Path) -> Option<Self> {
        let (fs, stat) = (statvfs(folder).ok()?, stat(folder).ok()?);
        Some(Self {
            capacity: fs.f_blocks.saturating_mul(fs.f_frsize),
            available: fs.f_bavail.saturating_mul(fs.f_frsize),
            used: fs.f_blocks.saturating_sub(fs.f_bfree).saturating_mul(fs.f_frsize),
            inodes: fs.f_files,
            inodes_free: fs.f_ffree,
            device: stat.st_dev,
        })
    }
}

/// Memory and processes of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) is: Use,
    /// Bytes in all, and those that programs can have without anything being written to a disk, as the kernel estimates it.
    pub(crate) memory: u64,
    pub(crate) memory_available: u64,
    /// Most processes and threads.
    pub(crate) pids_max: u64,
    pub(crate) swap: u64,
    pub(crate) swap_used: u64,
}

impl Host {
    /// Reads them.
    pub(crate) fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let number = |path: &str| text(path).trim().parse::<u64>().unwrap_or(u64::MAX);
        let most = number("/proc/sys/kernel/pid_max").min(number("/proc/sys/kernel/threads-max"));
        Self::parse(
            &text("/proc/meminfo"),
            &text("/proc/stat"),
            &text("/proc/loadavg"),
            most,
        )
    }

    fn parse(meminfo: &str, stat: &str, loadavg: &str, pids_max: u64) -> Self {
        let memory = kib(meminfo, "MemTotal:");
        let used = memory.saturating_sub(kib(meminfo, "MemFree:"));
        // Hundredths of a second in user mode, nice, system, (idle, waiting,) interrupts, soft interrupts.
        let times = stat.lines().next().and_then(|line| line.strip_prefix("cpu "));
        let busy: u64 = times.map_or(0, |times| {
            let all = times.split_whitespace().map(|n| n.parse().unwrap_or(0));
            all.take(7)
                .enumerate()
                .filter(|(at, _)| !matches!(at, 3 | 4))
                .map(|(_, n): (_, u64)| n)
                .sum()
        });
        let threads = loadavg
            .split_whitespace()
            .nth(3)
            .and_then(|field| field.split_once('/'));
        Self {
            is: Use {
                cpu_nanos: busy.saturating_mul(10_000_000),
                used,
                working_set: used.saturating_sub(kib(meminfo, "Inactive(file):")),
                rss: kib(meminfo, "AnonPages:"),
                faults: [0; 2],
                pids: threads.and_then(|(_, all)| all.parse().ok()).unwrap_or(0),
            },
            memory,
            memory_available: kib(meminfo, "MemAvailable:"),
            pids_max,
            swap: kib(meminfo, "SwapTotal:"),
            swap_used: kib(meminfo, "SwapTotal:").saturating_sub(kib(meminfo, "SwapFree:")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        let meminfo = "MemTotal: 1000 kB\nMemFree: 400 kB\nMemAvailable: 700 kB\nInactive(file): 150 kB\nAnonPages: 90 kB\n\
                       SwapTotal: 10 kB\nSwapFree: 4 kB\n";
        let host = Host::parse(
            meminfo,
            "cpu  10 1 20 5000 300 2 3 0 0 0\ncpu0 1\n",
            "0.1 0.2 0.3 2/345 999\n",
            1000,
        );
        assert_eq!(host.is.cpu_nanos, 36 * 10_000_000);
        assert_eq!((host.is.used, host.is.working_set), (600 * 1024, 450 * 1024));
        assert_eq!((host.memory_available, host.is.pids), (700 * 1024, 345));
        assert_eq!((host.swap, host.swap_used), (10 * 1024, 6 * 1024));
        let here = Host::read();
        assert!(here.memory > here.memory_available && here.is.pids > 0 && here.pids_max > here.is.pids);
        assert!(here.is.cpu_nanos > 0);
    }

    #[test]
    fn a_disk_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::of(dir.path()).unwrap();
        assert!(disk.capacity >= disk.used && disk.available <= disk.capacity);
        assert_eq!(Disk::of(&dir.path().join("not-there")), None);
    }
}
