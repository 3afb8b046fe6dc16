//! How the container runtime stands, in the words of the Node's conditions: for those who watch clusters, and for the technician at the machine.

use std::io::ErrorKind;
use std::time::Duration;

use cri::{CriError, Why, v1};
use serde_json::{Value, json};

use crate::settings::SOCKETS;

/// How long a runtime that was there may be away before the Node says so: as long as it takes to be restarted.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a look found.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Standing {
    /// Not known yet.
    Unknown,
    /// No containers here.
    Unused { reason: &'static str, message: String },
    /// It answers.
    Up {
        /// Name and version, `containerd://1.6.20`.
        version: String,
        /// What it says that it lacks; none: nothing.
        lacks: Option<Lack>,
        handlers: Value,
    },
    /// It does not.
    Down {
        reason: &'static str,
        message: String,
        /// Whether waiting may help.
        may_pass: bool,
    },
}

/// What an answering runtime lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lack {
    pub(super) network: bool,
    /// In the kubelet's words.
    pub(super) said: String,
    /// The runtime's own text.
    pub(super) text: String,
}

impl Standing {
    /// `workloads.runtime` is `none`.
    pub(super) fn switched_off() -> Self {
        Self::Unused {
            reason: "SwitchedOff",
            message: "containers are switched off here (workloads.runtime: none): this gateway serves devices only"
                .to_owned(),
        }
    }

    /// None was found, and none was ever used.
    pub(super) fn none_found() -> Self {
        Self::Unused {
            reason: "NoRuntime",
            message: format!(
                "no container runtime listens at {}: this gateway serves devices only; to run containers install one, or name its socket in \
                 workloads.runtime",
                SOCKETS.join(", ")
            ),
        }
    }

    /// None is found, but pods ran here.
    pub(super) fn gone() -> Self {
        Self::Down {
            reason: "NoSocket",
            message: format!(
                "the container runtime is gone: there is no socket at {}; is it installed and started (systemctl status containerd)? If pods \
                 are not wanted any more, set workloads.runtime: none",
                SOCKETS.join(", ")
            ),
            may_pass: true,
        }
    }

    /// By its answer to the question after its status.
    pub(super) fn answered(version: &str, answer: v1::StatusResponse) -> Self {
        let conditions = answer.status.map(|status| status.conditions).unwrap_or_default();
        let lack = |ty: &str, what: &str| {
            let found = conditions.iter().find(|c| c.r#type == ty);
            match found {
                Some(c) if c.status => None,
                Some(c) => Some((
                    format!("{what} not ready: {ty}=false reason:{} message:{}", c.reason, c.message),
                    c.message.clone(),
                )),
                None => Some((
                    format!("{what} not ready: <nil>"),
                    "it does not say whether it is".to_owned(),
                )),
            }
        };
        let runtime = lack("RuntimeReady", "container runtime");
        let network = runtime.is_none();
        let lacks = runtime.or_else(|| lack("NetworkReady", "container runtime network"));
        let lacks = lacks.map(|(said, text)| Lack { network, said, text });
        let mut handlers: Vec<_> = answer.runtime_handlers;
        handlers.sort_by(|a, b| a.name.cmp(&b.name));
        let handlers = handlers.into_iter().map(|handler| {
            let features = handler.features.unwrap_or_default();
            json!({"name": handler.name, "features": {
                "recursiveReadOnlyMounts": features.recursive_read_only_mounts,
                "userNamespaces": features.user_namespaces,
            }})
        });
        Self::Up {
            version: version.to_owned(),
            lacks,
            handlers: handlers.collect(),
        }
    }

    /// By what went wrong with a call.
    pub(super) fn failed(error: &CriError, socket: &str) -> Self {
        let down = |reason, may_pass, message: String| Self::Down {
            reason,
            message,
            may_pass,
        };
        match error {
            CriError::Unreachable { source, .. } => match source.kind() {
                ErrorKind::NotFound => down(
                    "NoSocket",
                    true,
                    format!(
                        "there is no socket at {socket}: is the container runtime installed and started (systemctl status containerd)?"
                    ),
                ),
                ErrorKind::ConnectionRefused => down(
                    "RuntimeStopped",
                    true,
                    format!(
                        "nobody listens at {socket}: the container runtime has stopped (systemctl status containerd)"
                    ),
                ),
                ErrorKind::PermissionDenied => down(
                    "PermissionDenied",
                    false,
                    format!(
                        "the agent may not open {socket}: run the agent as root, or give its user access to the socket"
                    ),
                ),
                _ => down("RuntimeUnreachable", true, error.to_string()),
            },
            _ => match error.why() {
                Why::Unimplemented => down(
                    "NoCri",
                    false,
                    format!(
                        "what listens at {socket} does not speak CRI v1: with containerd, remove \"cri\" from disabled_plugins in \
                         /etc/containerd/config.toml and restart it"
                    ),
                ),
                Why::Late => down(
                    "RuntimeHangs",
                    true,
                    format!("the container runtime at {socket} takes requests and does not answer them"),
                ),
                Why::Unreachable => down(
                    "RuntimeStopped",
                    true,
                    format!("the container runtime at {socket} broke the connection off"),
                ),
                _ => down(
                    "RuntimeFails",
                    true,
                    format!("the container runtime at {socket} does not tell its status: {error}"),
                ),
            },
        }
    }

    /// Whether pods may be put here: what a Node without a runtime offers is no room for any.
    pub(super) const fn runs_pods(&self) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Unused { .. } => Some(false),
            Self::Up { .. } | Self::Down { .. } => Some(true),
        }
    }

    /// Whether to look again soon.
    pub(super) const fn is_well(&self) -> bool {
        matches!(self, Self::Up { lacks: None, .. })
    }

    /// What the Node goes on to say for a while after the runtime answered last: what it said, for it may only be restarted.
    pub(super) fn passes(&self, away: Duration) -> bool {
        matches!(self, Self::Down { may_pass: true, .. }) && away < PATIENCE
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn status(conditions: &[(&str, bool, &str, &str)]) -> v1::StatusResponse {
        let conditions = conditions
            .iter()
            .map(|(ty, status, reason, message)| v1::RuntimeCondition {
                r#type: (*ty).to_owned(),
                status: *status,
                reason: (*reason).to_owned(),
                message: (*message).to_owned(),
            });
        v1::StatusResponse {
            status: Some(v1::RuntimeStatus {
                conditions: conditions.collect(),
            }),
            ..v1::StatusResponse::default()
        }
    }

    #[test]
    fn what_a_runtime_lacks_is_said_as_the_kubelet_says_it() {
        let lacks = |answer| match Standing::answered("containerd://1.6.20", answer) {
            Standing::Up { lacks, .. } => lacks,
            other => panic!("{other:?}"),
        };
        let ready = ("RuntimeReady", true, "", "");
        assert_eq!(lacks(status(&[ready, ("NetworkReady", true, "", "")])), None);
        let plugin = (
            "NetworkReady",
            false,
            "NetworkPluginNotReady",
            "Network plugin returns error: cni plugin not initialized",
        );
        let network = lacks(status(&[ready, plugin])).unwrap();
        assert!(network.network);
        assert_eq!(
            network.said,
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
             message:Network plugin returns error: cni plugin not initialized"
        );
        let down = ("RuntimeReady", false, "Broken", "no shim");
        let runtime = lacks(status(&[down, plugin])).unwrap();
        assert!(
            !runtime.network
                && runtime.said == "container runtime not ready: RuntimeReady=false reason:Broken message:no shim"
        );
        assert!(
            lacks(v1::StatusResponse::default()).is_some(),
            "silence is no readiness"
        );
    }

    #[test]
    fn failures_tell_a_technician_what_to_do() {
        let unreachable = |kind: ErrorKind| {
            Standing::failed(
                &CriError::Unreachable {
                    endpoint: "/s".into(),
                    source: Arc::new(kind.into()),
                },
                "/s",
            )
        };
        let reason = |standing: &Standing| match standing {
            Standing::Down { reason, message, .. } if message.contains("/s") => *reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(reason(&unreachable(ErrorKind::NotFound)), "NoSocket");
        assert_eq!(reason(&unreachable(ErrorKind::ConnectionRefused)), "RuntimeStopped");
        assert_eq!(reason(&unreachable(ErrorKind::PermissionDenied)), "PermissionDenied");
        let cri = CriError::Answered {
            call: "version",
            why: Why::Unimplemented,
            message: "unknown service".into(),
        };
        assert_eq!(reason(&Standing::failed(&cri, "/s")), "NoCri");
        let late = CriError::Late {
            call: "status",
            after: Duration::from_secs(20),
        };
        assert_eq!(reason(&Standing::failed(&late, "/s")), "RuntimeHangs");
        // A restart passes; rights do not come by themselves.
        assert!(unreachable(ErrorKind::NotFound).passes(Duration::from_secs(29)));
        assert!(!unreachable(ErrorKind::NotFound).passes(PATIENCE));
        assert!(!unreachable(ErrorKind::PermissionDenied).passes(Duration::ZERO));
    }
}
