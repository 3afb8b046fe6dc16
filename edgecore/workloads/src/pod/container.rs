//! `spec.containers[]` and what is in them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::volume::{FieldRef, ResourceFieldRef};

/// A container: main, init (a sidecar when its own `restartPolicy` is `Always`) or ephemeral.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) command: Vec<String>,
    pub(crate) args: Vec<String>,
    pub(crate) working_dir: String,
    pub(crate) ports: Vec<ContainerPort>,
    pub(crate) env: Vec<EnvVar>,
    pub(crate) env_from: Vec<EnvFromSource>,
    pub(crate) resources: Resources,
    pub(crate) resize_policy: Vec<ResizePolicy>,
    pub(crate) volume_mounts: Vec<VolumeMount>,
    pub(crate) liveness_probe: Option<Probe>,
    pub(crate) readiness_probe: Option<Probe>,
    pub(crate) startup_probe: Option<Probe>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) termination_message_path: String,
    /// `File` or `FallbackToLogsOnError`.
    pub(crate) termination_message_policy: String,
    /// `Always`, `IfNotPresent`, `Never`.
    pub(crate) image_pull_policy: String,
    pub(crate) security_context: SecurityContext,
    pub(crate) stdin: bool,
    pub(crate) stdin_once: bool,
    pub(crate) tty: bool,
    /// Of an init container: `Always` makes it a sidecar.
    pub(crate) restart_policy: Option<String>,
    /// Of an ephemeral container: whose processes it sees.
    pub(crate) target_container_name: String,
}

impl Container {
    /// Whether it is a sidecar: an init container that goes on running beside the main ones.
    pub(crate) fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }
}

/// `resizePolicy[]`: whether a container must be started again for a change of one of its resources.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ResizePolicy {
    pub(crate) resource_name: String,
    /// `NotRequired` or `RestartContainer`.
    pub(crate) restart_policy: String,
}

/// A number or a name.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub(crate) enum IntOrString {
    Int(i64),
    String(String),
}

/// `ports[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerPort {
    pub(crate) name: String,
    pub(crate) container_port: u16,
    pub(crate) host_port: u16,
    #[serde(rename = "hostIP")]
    pub(crate) host_ip: String,
    /// `TCP`, `UDP`, `SCTP`.
    pub(crate) protocol: String,
}

/// `env[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct EnvVar {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) value_from: Option<EnvVarSource>,
}

/// `env[].valueFrom`: one of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct EnvVarSource {
    pub(crate) field_ref: Option<FieldRef>,
    pub(crate) resource_field_ref: Option<ResourceFieldRef>,
    pub(crate) config_map_key_ref: Option<KeyRef>,
    pub(crate) secret_key_ref: Option<KeyRef>,
}

/// A key of a ConfigMap or Secret.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct KeyRef {
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) optional: bool,
}

/// `envFrom[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct EnvFromSource {
    pub(crate) prefix: String,
    pub(crate) config_map_ref: Option<RefName>,
    pub(crate) secret_ref: Option<RefName>,
}

/// An object of the same namespace by name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RefName {
    pub(crate) name: String,
    pub(crate) optional: bool,
}

/// `resources`: quantities by name.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Resources {
    pub(crate) limits: BTreeMap<String, Value>,
    pub(crate) requests: BTreeMap<String, Value>,
}

/// `volumeMounts[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct VolumeMount {
    pub(crate) name: String,
    pub(crate) mount_path: String,
    pub(crate) sub_path: String,
    pub(crate) sub_path_expr: String,
    pub(crate) read_only: bool,
    /// `None`, `HostToContainer`, `Bidirectional`.
    pub(crate) mount_propagation: String,
    /// `Disabled`, `IfPossible`, `Enabled`.
    pub(crate) recursive_read_only: String,
}

/// A probe: what is asked, and how often.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Probe {
    #[serde(flatten)]
    pub(crate) handler: Handler,
    pub(crate) initial_delay_seconds: u32,
    pub(crate) timeout_seconds: u32,
    pub(crate) period_seconds: u32,
    pub(crate) success_threshold: u32,
    pub(crate) failure_threshold: u32,
    pub(crate) termination_grace_period_seconds: Option<i64>,
}

/// What a probe asks: one of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Handler {
    pub(crate) exec: Option<ExecAction>,
    pub(crate) http_get: Option<HttpGetAction>,
    pub(crate) tcp_socket: Option<TcpSocketAction>,
    pub(crate) grpc: Option<GrpcAction>,
}

/// `exec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ExecAction {
    pub(crate) command: Vec<String>,
}

/// `httpGet`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct HttpGetAction {
    pub(crate) path: String,
    pub(crate) port: Option<IntOrString>,
    pub(crate) host: String,
    /// `HTTP` or `HTTPS`.
    pub(crate) scheme: String,
    pub(crate) http_headers: Vec<HttpHeader>,
}

/// `httpGet.httpHeaders[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HttpHeader {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// `tcpSocket`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TcpSocketAction {
    pub(crate) port: Option<IntOrString>,
    pub(crate) host: String,
}

/// `grpc`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct GrpcAction {
    pub(crate) port: u16,
    pub(crate) service: String,
}

/// `lifecycle`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Lifecycle {
    pub(crate) post_start: Option<LifecycleHandler>,
    pub(crate) pre_stop: Option<LifecycleHandler>,
    pub(crate) stop_signal: Option<String>,
}

/// A hook: one of them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct LifecycleHandler {
    pub(crate) exec: Option<ExecAction>,
    pub(crate) http_get: Option<HttpGetAction>,
    pub(crate) tcp_socket: Option<TcpSocketAction>,
    pub(crate) sleep: Option<SleepAction>,
}

/// `sleep`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SleepAction {
    pub(crate) seconds: u64,
}

/// `securityContext` of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct SecurityContext {
    pub(crate) capabilities: Capabilities,
    pub(crate) privileged: Option<bool>,
    pub(crate) run_as_user: Option<i64>,
    pub(crate) run_as_group: Option<i64>,
    pub(crate) run_as_non_root: Option<bool>,
    pub(crate) read_only_root_filesystem: Option<bool>,
    pub(crate) allow_privilege_escalation: Option<bool>,
    /// `Default` or `Unmasked`.
    pub(crate) proc_mount: Option<String>,
    pub(crate) seccomp_profile: Option<SeccompProfile>,
    pub(crate) app_armor_profile: Option<SeccompProfile>,
    pub(crate) se_linux_options: Option<SeLinuxOptions>,
}

/// `capabilities`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Capabilities {
    pub(crate) add: Vec<String>,
    pub(crate) drop: Vec<String>,
}

/// `seccompProfile`, and `appArmorProfile`, which has the same shape.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct SeccompProfile {
    /// `RuntimeDefault`, `Unconfined`, `Localhost`.
    #[serde(rename = "type")]
    pub(crate) ty: String,
    pub(crate) localhost_profile: String,
}

/// `seLinuxOptions`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SeLinuxOptions {
    pub(crate) user: String,
    pub(crate) role: String,
    #[serde(rename = "type")]
    pub(crate) ty: String,
    pub(crate) level: String,
}
