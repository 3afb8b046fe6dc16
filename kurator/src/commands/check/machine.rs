//! The machine itself: clock, disk, memory, and what else lives on it.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use link::pki::BUILD_FLOOR_SECS;

use super::{Finding, Site, fail, ok, warn};
use crate::output;

/// Below this a store cannot grow through a week without a link.
const MIN_FREE: u64 = 256 * 1024 * 1024;
/// A commit waits for the disk: above this every report feels it.
const SLOW_SYNC: Duration = Duration::from_millis(20);
/// What an agent with a hundred devices and its page cache want.
const MIN_MEMORY_KB: u64 = 64 * 1024;
/// Two clocks that are both right differ by less.
const CLOCK_SLACK_MS: u64 = 5 * 60_000;

/// The machine's time against what certificates prove: nothing was signed in the future.
pub(super) fn clock(site: &Site) -> Vec<Finding> {
    let shown = |ms: u64| {
        let stamp = jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(0)).unwrap_or_default();
        stamp.round(jiff::Unit::Second).unwrap_or(stamp).to_string()
    };
    let own = site.identity.as_ref().ok().and_then(|i| i.credential.info().ok());
    let signed = own.map_or(0, |cert| cert.not_before_ms);
    let floor = (site.proven.secs().max(BUILD_FLOOR_SECS) * 1000).max(signed);
    vec![if site.now_ms + CLOCK_SLACK_MS < floor {
        warn(
            format!(
                "{} is before {}, which certificates prove",
                shown(site.now_ms),
                shown(floor)
            ),
            "set the date or enable NTP; link and twins work, times in logs and reports are wrong",
        )
    } else {
        ok(shown(site.now_ms))
    }]
}

/// The data folder, or the nearest folder above it that is there.
fn data(site: &Site) -> PathBuf {
    let data = site.config().data_dir;
    let there = data.ancestors().find(|p| p.is_dir());
    there.map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

pub(super) fn disk_space(site: &Site) -> Vec<Finding> {
    let data = data(site);
    vec![match rustix::fs::statvfs(&data) {
        Ok(s) => space(s.f_bavail.saturating_mul(s.f_frsize), s.f_favail, s.f_files, &data),
        Err(e) => warn(format!("{}: {e}", data.display()), "run as root"),
    }]
}

fn space(free: u64, inodes: u64, all_inodes: u64, data: &Path) -> Finding {
    let fix = "make room: reports are refused on a full disk";
    if free < MIN_FREE {
        fail(format!("{} free at {}", output::bytes(free), data.display()), fix)
    } else if all_inodes > 0 && inodes < 100 {
        fail(format!("{inodes} inodes free at {}", data.display()), fix)
    } else {
        ok(format!("{} free at {}", output::bytes(free), data.display()))
    }
}

pub(super) fn disk_speed(site: &Site) -> Vec<Finding> {
    let data = data(site);
    vec![match sync_time(&data) {
        Ok(t) if t > SLOW_SYNC => warn(
            format!("one durable write takes {t:.1?}"),
            "put dataDir on faster storage",
        ),
        Ok(t) => ok(format!("one durable write takes {t:.1?}")),
        Err(e) => warn(format!("{}: {e}", data.display()), "run as root"),
    }]
}

/// Median of a few 4 KiB writes with fdatasync.
fn sync_time(folder: &Path) -> std::io::Result<Duration> {
    let mut file = tempfile::tempfile_in(folder)?;
    let mut times = Vec::with_capacity(9);
    for _ in 0..9 {
        let started = daemon::clock::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

pub(super) fn memory(site: &Site) -> Vec<Finding> {
    let text = std::fs::read_to_string(site.at("proc/meminfo")).unwrap_or_default();
    let available = text
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))
        .and_then(|l| l.split_whitespace().next())
        .and_then(|n| n.parse::<u64>().ok());
    vec![match available {
        Some(kb) if kb < MIN_MEMORY_KB => warn(
            format!("{} available", output::bytes(kb * 1024)),
            "stop what is not needed",
        ),
        Some(kb) => ok(format!("{} available", output::bytes(kb * 1024))),
        None => warn("/proc/meminfo does not say", "mount /proc"),
    }]
}

/// KubeEdge wants the same ports. Its agent is called `edgecore` too.
pub(super) fn kubeedge(site: &Site) -> Vec<Finding> {
    const TRACES: [&str; 5] = [
        "etc/kubeedge/config/edgecore.yaml",
        "etc/systemd/system/edgecore.service",
        "usr/lib/systemd/system/edgecore.service",
        "lib/systemd/system/edgecore.service",
        "var/lib/kubeedge/edgecore.db",
    ];
    match TRACES.iter().find(|path| site.at(path).exists()) {
        Some(trace) => vec![warn(
            format!("a KubeEdge installation is here: /{trace}"),
            "keadm reset, or systemctl disable --now edgecore: both want the same ports",
        )],
        None => vec![ok("not installed")],
    }
}

/// For information: workloads need a runtime, devices do not.
pub(super) fn containers(site: &Site) -> Vec<Finding> {
    const SOCKETS: [&str; 3] = [
        "run/containerd/containerd.sock",
        "run/crio/crio.sock",
        "var/run/crio/crio.sock",
    ];
    vec![match SOCKETS.iter().find(|s| site.at(s).exists()) {
        Some(socket) => ok(format!("/{socket}")),
        None => ok("no runtime found; devices do not need one"),
    }]
}

pub(super) fn cgroups(site: &Site) -> Vec<Finding> {
    vec![if site.at("sys/fs/cgroup/cgroup.controllers").exists() {
        ok("v2")
    } else if site.at("sys/fs/cgroup/memory").exists() {
        ok("v1; container runtimes are about to leave it")
    } else {
        ok("none; devices do not need them")
    }]
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::identity::tests::{NOW, joined};
    use super::*;

    fn site() -> (tempfile::TempDir, Site) {
        let dir = tempfile::tempdir().unwrap();
        let site = joined(dir.path(), NOW);
        (dir, site)
    }

    fn put(site: &Site, path: &str, text: &str) {
        let path = site.at(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn a_clock_before_its_own_certificate_or_the_hubs_stands_wrong() {
        let (_dir, mut site) = site();
        assert_eq!(clock(&site)[0].state, State::Ok);
        site.proven.raise(NOW / 1000 + 3600);
        assert!(
            clock(&site)[0].state == State::Warn,
            "the hub's certificate is from an hour ahead"
        );
        site.now_ms += 3_600_000;
        assert_eq!(clock(&site)[0].state, State::Ok);
        site.now_ms = 0;
        let found = &clock(&site)[0];
        assert!(
            found.state == State::Warn && found.found.starts_with("1970-01-01T00:00:00Z"),
            "{found:?}"
        );
    }

    #[test]
    fn little_room_is_no_room() {
        let at = Path::new("/data");
        assert_eq!(space(MIN_FREE, 1000, 1000, at).state, State::Ok);
        assert_eq!(space(MIN_FREE - 1, 1000, 1000, at).state, State::Fail);
        assert_eq!(space(MIN_FREE, 3, 1000, at).state, State::Fail);
        assert_eq!(
            space(MIN_FREE, 0, 0, at).state,
            State::Ok,
            "a file system without inodes"
        );
        // The folder that is not there yet is judged by the one above it.
        let (_dir, site) = site();
        assert!(!site.config().data_dir.exists() && data(&site).is_dir());
    }

    #[test]
    fn a_durable_write_is_timed() {
        assert!(sync_time(tempfile::tempdir().unwrap().path()).unwrap() > Duration::ZERO);
    }

    #[test]
    fn memory_is_read_from_proc() {
        let (_dir, site) = site();
        assert_eq!(memory(&site)[0].state, State::Warn);
        put(&site, "proc/meminfo", "MemTotal: 1 kB\nMemAvailable:   32000 kB\n");
        assert_eq!(memory(&site)[0], warn("32.8 MB available", "stop what is not needed"));
        put(&site, "proc/meminfo", "MemAvailable:   320000 kB\n");
        assert_eq!(memory(&site)[0].state, State::Ok);
    }

    #[test]
    fn kubeedge_is_found_by_any_of_its_traces() {
        let (_dir, site) = site();
        assert_eq!(kubeedge(&site)[0].state, State::Ok);
        put(&site, "etc/systemd/system/edgecore.service", "");
        let found = &kubeedge(&site)[0];
        assert!(
            found.state == State::Warn && found.fix.contains("disable --now edgecore"),
            "{found:?}"
        );
    }

    #[test]
    fn runtime_and_cgroups_are_told_not_judged() {
        let (_dir, site) = site();
        assert_eq!(containers(&site)[0].state, State::Ok);
        put(&site, "run/containerd/containerd.sock", "");
        put(&site, "sys/fs/cgroup/cgroup.controllers", "");
        assert_eq!(containers(&site)[0], ok("/run/containerd/containerd.sock"));
        assert_eq!(cgroups(&site)[0], ok("v2"));
    }
}
