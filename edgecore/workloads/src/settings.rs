//! What an operator can say about workloads. Read from the agent's configuration (`workloads:`), pure.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::machine::{Eviction, Reserved};

/// Where a runtime listens when nobody says, in the order they are tried.
pub(crate) const SOCKETS: [&str; 3] = [
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
];

/// Where collectors of logs look for those of containers.
const USUAL_LOGS: &str = "/var/log/pods";

/// Everything about containers on this gateway.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// The container runtime: `auto` (the first of the usual sockets that is there), `none`, or `unix:///path/to/socket`.
    pub runtime: String,
    /// Folder of static Pods. Empty: `<config-dir>/manifests`.
    pub manifests: PathBuf,
    /// Folder of the containers' logs. Empty: `/var/log/pods` with the usual data folder, else `<data-dir>/logs`.
    pub logs: PathBuf,
    /// Most pods at a time.
    pub max_pods: u32,
    /// Range of pod addresses, for the network configuration that is written where there is none.
    pub pod_cidr: String,
    /// Range of Service addresses. Empty: Services have none.
    pub service_cidr: String,
    /// How Services are reached and their names resolved: `auto`, `nftables`, `userspace`, `none`.
    pub services: Services,
    /// Domain of the cluster's names.
    pub cluster_domain: String,
    /// How cgroups are driven.
    pub cgroup_driver: CgroupDriver,
    /// Folder of the network configuration (CNI). Empty: what the runtime says, else `/etc/cni/net.d`.
    pub cni_config: PathBuf,
    /// Largest size of one container's log file, in bytes, before it is rotated.
    pub log_max_bytes: u64,
    /// Most files kept of one container's log.
    pub log_max_files: u32,
    /// What of the machine is not for pods.
    pub reserved: Reserved,
    /// When pods go so that the machine lives on.
    pub eviction: Eviction,
}

/// How Services are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Services {
    /// By nftables where the machine has it, else through this process.
    #[default]
    Auto,
    /// By nftables.
    Nftables,
    /// Through this process.
    Userspace,
    /// Somebody else's business.
    None,
}

/// Who makes cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// As the runtime says.
    #[default]
    Auto,
    /// The runtime, in folders.
    Cgroupfs,
    /// systemd, in slices.
    Systemd,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            runtime: "auto".to_owned(),
            manifests: PathBuf::new(),
            logs: PathBuf::new(),
            max_pods: 110,
            pod_cidr: "10.42.0.0/24".to_owned(),
            service_cidr: "10.43.0.0/16".to_owned(),
            services: Services::Auto,
            cluster_domain: "cluster.local".to_owned(),
            cgroup_driver: CgroupDriver::Auto,
            cni_config: PathBuf::new(),
            log_max_bytes: 10 * 1024 * 1024,
            log_max_files: 5,
            reserved: Reserved::default(),
            eviction: Eviction::default(),
        }
    }
}

impl Settings {
    /// Fills what depends on the agent's own folders, and says everything that cannot work, each with its setting's name.
    pub fn complete(&mut self, config_dir: &Path, data_dir: &Path, usual_data_dir: &Path) -> Vec<String> {
        if self.manifests.as_os_str().is_empty() {
            self.manifests = config_dir.join("manifests");
        }
        if self.logs.as_os_str().is_empty() {
            self.logs = if data_dir == usual_data_dir {
                PathBuf::from(USUAL_LOGS)
            } else {
                data_dir.join("logs")
            };
        }
        let mut faults = Vec::new();
        if !matches!(self.runtime.as_str(), "" | "auto" | "none") && !self.runtime.starts_with("unix:///") {
            faults.push(format!(
                "workloads.runtime {:?} is not auto, none or unix:///path/to/socket",
                self.runtime
            ));
        }
        for (name, range) in [("podCidr", &self.pod_cidr), ("serviceCidr", &self.service_cidr)] {
            if !range.is_empty() && !is_cidr(range) {
                faults.push(format!(
                    "workloads.{name} {range:?} is not a range such as 10.42.0.0/24"
                ));
            }
        }
        faults.extend(self.reserved.faults());
        faults.extend(self.eviction.faults());
        faults
    }

    /// The runtime's socket, `None` when no runtime is to be used or none of the usual ones is there.
    pub fn socket(&self) -> Option<PathBuf> {
        match self.runtime.as_str() {
            "none" => None,
            "auto" | "" => SOCKETS.iter().map(PathBuf::from).find(|path| path.exists()),
            named => Some(Path::new(named.strip_prefix("unix://").unwrap_or(named)).to_owned()),
        }
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((ip, bits)) = text.split_once('/') else {
        return false;
    };
    let most = match ip.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(_)) => 32,
        Ok(std::net::IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_follow_the_agent_and_faults_are_named() {
        let mut settings = Settings::default();
        assert!(
            settings
                .complete(Path::new("/c"), Path::new("/d"), Path::new("/usual"))
                .is_empty()
        );
        assert_eq!(settings.manifests, Path::new("/c/manifests"));
        assert_eq!(settings.logs, Path::new("/d/logs"));
        let mut settings = Settings {
            runtime: "containerd".to_owned(),
            pod_cidr: "10.42.0.0/33".to_owned(),
            ..Settings::default()
        };
        let faults = settings.complete(Path::new("/c"), Path::new("/usual"), Path::new("/usual"));
        assert_eq!(settings.logs, Path::new(USUAL_LOGS));
        assert_eq!(faults.len(), 2);
        assert!(
            faults[0].contains("workloads.runtime") && faults[1].contains("podCidr"),
            "{faults:?}"
        );
    }

    #[test]
    fn a_socket_is_named_or_found_or_none() {
        let with = |runtime: &str| Settings {
            runtime: runtime.to_owned(),
            ..Settings::default()
        };
        assert_eq!(with("none").socket(), None);
        assert_eq!(with("unix:///run/x.sock").socket(), Some(PathBuf::from("/run/x.sock")));
    }
}
