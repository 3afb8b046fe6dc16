//! A Pod as the runtime side reads it: the fields it acts on, typed. The API has validated and defaulted the object before it was stored, so
//! what is missing here is what nobody asked for. Writes never go through these types: an unknown field must survive them.

mod container;
mod volume;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

pub(crate) use container::{
    Container, ContainerPort, EnvVarSource, ExecAction, GrpcAction, HttpGetAction, IntOrString, LifecycleHandler,
    Probe, RefName, ResizePolicy, Resources, SeLinuxOptions, SeccompProfile, TcpSocketAction, VolumeMount,
};
pub(crate) use volume::{DownwardItem, HostPath, KeyToPath, Projection, ResourceFieldRef, TokenProjection, Volume};

use crate::cluster::Key;

/// A Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Pod {
    pub(crate) metadata: Metadata,
    pub(crate) spec: PodSpec,
    /// As it is stored.
    pub(crate) status: Value,
}

/// What every object has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) generation: i64,
    pub(crate) creation_timestamp: String,
    pub(crate) deletion_timestamp: Option<String>,
    /// Seconds.
    pub(crate) deletion_grace_period_seconds: Option<i64>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) owner_references: Vec<Value>,
}

/// `spec` of a Pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodSpec {
    pub(crate) node_name: String,
    pub(crate) node_selector: BTreeMap<String, String>,
    pub(crate) affinity: Value,
    pub(crate) tolerations: Vec<Value>,
    pub(crate) containers: Vec<Container>,
    pub(crate) init_containers: Vec<Container>,
    pub(crate) ephemeral_containers: Vec<Container>,
    pub(crate) volumes: Vec<Volume>,
    /// `Always`, `OnFailure`, `Never`.
    pub(crate) restart_policy: String,
    /// Seconds.
    pub(crate) termination_grace_period_seconds: Option<i64>,
    /// Seconds since `status.startTime`.
    pub(crate) active_deadline_seconds: Option<i64>,
    /// `ClusterFirst`, `ClusterFirstWithHostNet`, `Default`, `None`.
    pub(crate) dns_policy: String,
    pub(crate) dns_config: DnsConfig,
    pub(crate) host_aliases: Vec<HostAlias>,
    pub(crate) hostname: String,
    pub(crate) subdomain: String,
    #[serde(rename = "setHostnameAsFQDN")]
    pub(crate) set_hostname_as_fqdn: bool,
    pub(crate) host_network: bool,
    #[serde(rename = "hostPID")]
    pub(crate) host_pid: bool,
    #[serde(rename = "hostIPC")]
    pub(crate) host_ipc: bool,
    pub(crate) share_process_namespace: bool,
    pub(crate) enable_service_links: Option<bool>,
    pub(crate) service_account_name: String,
    pub(crate) automount_service_account_token: Option<bool>,
    pub(crate) image_pull_secrets: Vec<RefName>,
    pub(crate) security_context: PodSecurityContext,
    pub(crate) runtime_class_name: String,
    pub(crate) priority: Option<i64>,
    pub(crate) priority_class_name: String,
    pub(crate) scheduling_gates: Vec<Value>,
    pub(crate) readiness_gates: Vec<ReadinessGate>,
    pub(crate) overhead: BTreeMap<String, Value>,
    /// Of the pod as a whole.
    pub(crate) resources: Resources,
}

/// `spec.readinessGates[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ReadinessGate {
    pub(crate) condition_type: String,
}

/// `spec.dnsConfig`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DnsConfig {
    pub(crate) nameservers: Vec<String>,
    pub(crate) searches: Vec<String>,
    pub(crate) options: Vec<DnsOption>,
}

/// `spec.dnsConfig.options[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DnsOption {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
}

/// `spec.hostAliases[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HostAlias {
    pub(crate) ip: String,
    pub(crate) hostnames: Vec<String>,
}

/// `spec.securityContext`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct PodSecurityContext {
    pub(crate) run_as_user: Option<i64>,
    pub(crate) run_as_group: Option<i64>,
    pub(crate) run_as_non_root: Option<bool>,
    pub(crate) fs_group: Option<i64>,
    /// `Always` or `OnRootMismatch`.
    pub(crate) fs_group_change_policy: String,
    pub(crate) supplemental_groups: Vec<i64>,
    pub(crate) supplemental_groups_policy: String,
    pub(crate) sysctls: Vec<Sysctl>,
    pub(crate) seccomp_profile: Option<SeccompProfile>,
    pub(crate) app_armor_profile: Option<SeccompProfile>,
    pub(crate) se_linux_options: Option<SeLinuxOptions>,
}

/// `spec.securityContext.sysctls[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Sysctl {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl Pod {
    /// Reads a stored Pod.
    ///
    /// # Errors
    /// When a field is of another type than the API lets in.
    pub(crate) fn read(object: Value) -> Result<Self, serde_json::Error> {
        serde_json::from_value(object)
    }

    pub(crate) fn key(&self) -> Key {
        Key::new(self.metadata.namespace.as_str(), self.metadata.name.as_str())
    }

    /// Its uid, by which everything about it is called on this machine.
    pub(crate) fn uid(&self) -> &str {
        &self.metadata.uid
    }

    /// Whether it was asked to go.
    pub(crate) const fn is_terminating(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// `status.phase`; `Pending` until somebody says otherwise.
    pub(crate) fn phase(&self) -> &str {
        self.status["phase"].as_str().unwrap_or("Pending")
    }

    /// Whether it has done what it was for, well or not: nothing in it runs again.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.phase(), "Succeeded" | "Failed")
    }

    /// A condition of its status: `True`, `False` or `Unknown`.
    pub(crate) fn condition(&self, ty: &str) -> Option<&str> {
        let conditions = self.status["conditions"].as_array()?;
        conditions.iter().find(|c| c["type"] == ty)?["status"].as_str()
    }

    /// All containers: init, main, ephemeral.
    pub(crate) fn all_containers(&self) -> impl Iterator<Item = &Container> {
        let spec = &self.spec;
        spec.init_containers
            .iter()
            .chain(&spec.containers)
            .chain(&spec.ephemeral_containers)
    }

    /// Whether ports of the machine lead to it.
    pub(crate) fn has_host_ports(&self) -> bool {
        self.all_containers()
            .any(|c| c.ports.iter().any(|port| port.host_port > 0))
    }

    /// A container by name.
    pub(crate) fn container(&self, name: &str) -> Option<&Container> {
        self.all_containers().find(|c| c.name == name)
    }
}
