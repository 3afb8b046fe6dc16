//! What a Pod asks for, in the runtime's words: the configuration of its sandbox and of its containers.
//!
//! Owns the translation and nothing else: names, environment, mounts, security, resources. What it needs to know of the cluster it reads from the
//! store when it is asked; the few files that belong to a pod itself (its `/etc/hosts`, where a container leaves its last words) are made by
//! `files`. It never calls the runtime and never writes an object. Called by `pods`.
//!
//! What it makes depends on the Pod and the machine alone, so that the same call after a restart of the agent says the same.

mod cgroups;
mod container;
mod environment;
mod fields;
mod files;
mod qos;
mod sandbox;
mod security;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use cgroups::{Cgroups, parents as cgroup_parents};
pub(crate) use container::{Inputs, container, hash, resources};
pub(crate) use environment::{Env, environment, expand};
pub(crate) use fields::{field, resource};
pub(crate) use files::own_files;
#[cfg(test)]
pub(crate) use files::termination_path;
pub(crate) use qos::{Qos, amount, milli, oom_score_adj, qos};
pub(crate) use sandbox::{host_name, runtime_handler, sandbox};

use crate::pod::Pod;

/// Labels and annotations by which the runtime's things are found again.
pub(crate) mod label {
    pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
    pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
    pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    /// Whose it is: several agents may share a runtime.
    pub(crate) const NODE: &str = "dev.kurator.node";
    pub(crate) const HASH: &str = "io.kubernetes.container.hash";
    pub(crate) const RESTARTS: &str = "io.kubernetes.container.restartCount";
    pub(crate) const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub(crate) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    pub(crate) const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
}

/// Tells the machine's addresses: they come and change with its network.
#[derive(Clone)]
pub(crate) struct Ips(pub(crate) Arc<dyn Fn() -> Vec<IpAddr> + Send + Sync>);

impl Ips {
    /// As they are now.
    pub(crate) fn now(&self) -> Vec<IpAddr> {
        (self.0)()
    }
}

impl fmt::Debug for Ips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ips").field(&self.now()).finish()
    }
}

/// What the machine is to a Pod.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// Name of the Node.
    pub(crate) node: Arc<str>,
    /// Its addresses; the first is the one that is told as `status.hostIP`.
    pub(crate) ips: Ips,
    /// Folder of all containers' logs.
    pub(crate) logs: PathBuf,
    /// Folder of what belongs to single pods: volumes, hosts files, last words.
    pub(crate) pods: PathBuf,
    /// Folder that seccomp profiles of the machine are named in.
    pub(crate) seccomp: PathBuf,
    /// Domain of the cluster's names.
    pub(crate) cluster_domain: String,
    /// Whether the runtime has systemd make its cgroups; else they are folders.
    pub(crate) systemd: bool,
    /// Memory of the machine, bytes.
    pub(crate) memory: u64,
    /// Whether the use of swap can be limited.
    pub(crate) swap: bool,
    /// Whether the runtime can mount read-only with all that is mounted below.
    pub(crate) recursive_read_only: bool,
}

impl Host {
    /// This machine. `systemd`: whether the runtime has it make its cgroups; `data_dir`: the agent's; `logs`: of all containers. What else the
    /// runtime can do is for the caller to fill in.
    pub(crate) fn new(
        node: Arc<str>,
        ips: Ips,
        systemd: bool,
        data_dir: &Path,
        logs: PathBuf,
        cluster_domain: &str,
    ) -> Self {
        let memory = rustix::system::sysinfo();
        Self {
            node,
            ips,
            logs,
            pods: data_dir.join("pods"),
            seccomp: data_dir.join("seccomp"),
            cluster_domain: cluster_domain.to_owned(),
            systemd,
            memory: u64::from(memory.mem_unit).saturating_mul(memory.totalram),
            swap: Cgroups::new(systemd).limits_swap(),
            recursive_read_only: false,
        }
    }

    /// Folder of a pod's logs.
    pub(crate) fn log_dir(&self, pod: &Pod) -> PathBuf {
        let meta = &pod.metadata;
        self.logs.join(format!("{}_{}_{}", meta.namespace, meta.name, meta.uid))
    }

    /// Folder of what belongs to a pod.
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.pods.join(uid)
    }
}

/// Why a Pod cannot be put into the runtime's words.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{message}")]
pub(crate) struct SetupError {
    /// As a waiting container's status names it.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl SetupError {
    /// About a container.
    pub(crate) fn container(message: impl Into<String>) -> Self {
        Self {
            reason: "CreateContainerConfigError",
            message: message.into(),
        }
    }

    /// About a sandbox.
    pub(crate) fn sandbox(message: impl Into<String>) -> Self {
        Self {
            reason: "ConfigPodSandboxError",
            message: message.into(),
        }
    }
}

/// A pod as messages name it: `name_namespace(uid)`.
fn shown(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!("{}_{}({})", meta.name, meta.namespace, meta.uid)
}
