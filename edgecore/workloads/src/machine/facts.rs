//! What this machine is: read from `/proc`, `/sys` and `/etc` once; what cannot be read stays empty.

use std::path::Path;

use serde_json::{Map, Value, json};

/// The kernel's page of huge pages: a folder for each size.
const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages";
/// Where firmware says which machine this is, best first.
const SYSTEM_IDS: [&str; 4] = [
    "/sys/class/dmi/id/product_uuid",
    "/proc/device-tree/system-id",
    "/proc/device-tree/vm,uuid",
    "/proc/device-tree/serial-number",
];

/// Facts that do not change while the agent runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) hostname: String,
    pub(super) cpus: u64,
    /// Bytes.
    pub(super) memory: u64,
    /// Bytes of the file system that pods write to.
    pub(super) disk: u64,
    /// Name (`hugepages-2Mi`) and bytes.
    pub(super) huge_pages: Vec<(String, u64)>,
    /// `status.nodeInfo`, without what the runtime says of itself.
    pub(super) info: Map<String, Value>,
}

impl Facts {
    /// Reads them; `disk` is a folder on the file system that pods write to.
    pub(super) fn read(disk: &Path) -> Self {
        let meminfo = text("/proc/meminfo");
        let os = ["/etc/os-release", "/usr/lib/os-release"].map(text);
        let machine_id = text("/etc/machine-id");
        let system = SYSTEM_IDS.iter().map(|path| text(path)).find(|id| !id.is_empty());
        let mut info = json!({
            "architecture": architecture(std::env::consts::ARCH),
            "operatingSystem": std::env::consts::OS,
            "kernelVersion": text("/proc/sys/kernel/osrelease"),
            "osImage": os.iter().find(|os| !os.is_empty()).map_or("", |os| field(os, "PRETTY_NAME=")),
            "bootID": text("/proc/sys/kernel/random/boot_id"),
            "systemUUID": system.unwrap_or_else(|| machine_id.clone()),
            "machineID": machine_id,
            "kubeletVersion": concat!("v", env!("CARGO_PKG_VERSION"), "+kurator"),
            "kubeProxyVersion": "",
        });
        let swap = kib(&meminfo, "SwapTotal:");
        if swap > 0 {
            info["swap"] = json!({"capacity": swap});
        }
        Self {
            hostname: text("/proc/sys/kernel/hostname"),
            cpus: cpus(&text("/sys/devices/system/cpu/online")),
            memory: kib(&meminfo, "MemTotal:"),
            disk: rustix::fs::statvfs(disk).map_or(0, |fs| fs.f_blocks * fs.f_frsize),
            huge_pages: huge_pages(Path::new(HUGE_PAGES)),
            info: info.as_object().cloned().unwrap_or_default(),
        }
    }
}

/// The text of a small file of the kernel's; empty when it cannot be read. Texts from firmware end with a zero.
fn text(path: &str) -> String {
    let read = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&read);
    text.trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned()
}

/// What stands behind a name at the begin of a line, without quotes.
fn field<'t>(text: &'t str, name: &str) -> &'t str {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_default()
        .trim_matches(|c: char| c == '"' || c == '\'' || c.is_whitespace())
}

/// Bytes of a line such as `MemTotal:  1024 kB`; 0 when it is not there.
pub(super) fn kib(meminfo: &str, name: &str) -> u64 {
    let number = field(meminfo, name).split_whitespace().next();
    number.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// How many a list of ranges such as `0-3,6` names. What this process may use of them is another matter.
fn cpus(online: &str) -> u64 {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        Some(last.checked_sub(first)? + 1)
    };
    let counted: Option<u64> = online.split(',').map(count).sum();
    let allowed = || std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    counted.unwrap_or_else(allowed)
}

/// Name and bytes of each size, by name.
fn huge_pages(folder: &Path) -> Vec<(String, u64)> {
    let mut sizes: Vec<(String, u64)> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let count: u64 = text(entry.path().join("nr_hugepages").to_str()?).parse().ok()?;
            let size = match kib {
                kib if kib % (1024 * 1024) == 0 => format!("{}Gi", kib / (1024 * 1024)),
                kib if kib % 1024 == 0 => format!("{}Mi", kib / 1024),
                kib => format!("{kib}Ki"),
            };
            Some((format!("hugepages-{size}"), kib.checked_mul(1024)?.checked_mul(count)?))
        })
        .collect();
    sizes.sort_unstable();
    sizes
}

/// Go's names, which Kubernetes labels use.
const fn architecture(arch: &'static str) -> &'static str {
    match arch.as_bytes() {
        b"x86_64" => "amd64",
        b"aarch64" => "arm64",
        b"x86" => "386",
        _ => arch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let facts = Facts::read(Path::new("/"));
        assert!(facts.cpus >= 1 && facts.memory > 0 && facts.disk > 0);
        assert!(facts.info["kernelVersion"].as_str().is_some_and(|v| !v.is_empty()));
        assert!(facts.info["bootID"].as_str().is_some_and(|v| v.len() == 36));
    }

    #[test]
    fn texts_of_the_kernel_are_read() {
        assert_eq!(cpus("0-3,6"), 5);
        assert_eq!(cpus("0"), 1);
        assert!(cpus("3-1") >= 1 && cpus("") >= 1);
        let meminfo = "MemTotal:        2048 kB\nSwapTotal:   7 kB\n";
        assert_eq!(
            (kib(meminfo, "MemTotal:"), kib(meminfo, "SwapTotal:")),
            (2048 * 1024, 7 * 1024)
        );
        assert_eq!(kib(meminfo, "HugePages:"), 0);
        assert_eq!(
            field("NAME=x\nPRETTY_NAME=\"Debian 12\"\n", "PRETTY_NAME="),
            "Debian 12"
        );
    }

    #[test]
    fn huge_pages_have_kubernetes_names() {
        let dir = tempfile::tempdir().unwrap();
        for (size, count) in [("2048kB", "3"), ("1048576kB", "1"), ("64kB", "0")] {
            let folder = dir.path().join(format!("hugepages-{size}"));
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("nr_hugepages"), format!("{count}\n")).unwrap();
        }
        let want = [
            ("hugepages-1Gi", 1 << 30),
            ("hugepages-2Mi", 6 << 20),
            ("hugepages-64Ki", 0),
        ];
        assert_eq!(
            huge_pages(dir.path()),
            want.map(|(name, bytes)| (name.to_owned(), bytes))
        );
    }
}
