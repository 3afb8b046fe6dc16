//! What an operator can say about workloads. Read from the agent's configuration (`workloads:`), pure.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Where a runtime listens when nobody says, in the order they are tried.
pub(crate) const SOCKETS: [&str; 3] = [
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
];

/// Everything about containers on this gateway.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// The container runtime: `auto` (the first of the usual sockets that is there), `off`, or `unix:///path/to/socket`.
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
    /// Whether Services are reached and their names resolved: `auto` (by nftables, else through this process), `off`.
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
    Off,
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
        }
    }
}

impl Settings {
    /// The runtime's socket, `None` when no runtime is to be used or none of the usual ones is there.
    pub fn socket(&self) -> Option<PathBuf> {
        match self.runtime.as_str() {
            "off" => None,
            "auto" | "" => SOCKETS.iter().map(PathBuf::from).find(|path| path.exists()),
            named => Some(Path::new(named.strip_prefix("unix://").unwrap_or(named)).to_owned()),
        }
    }
}
