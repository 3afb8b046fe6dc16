//! Whether an object does at a member what it is there for.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::kind::Kind;
use super::look::{list, text};

/// What a member says of an object's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Health {
    /// It does what it is there for; also every object of a kind that nobody judges.
    Healthy,
    /// It does not, or not yet.
    Unhealthy,
    /// Nobody can tell.
    #[default]
    Unknown,
}

impl Health {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Unhealthy => "Unhealthy",
            Self::Unknown => "Unknown",
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The object's health. Unknown where the numbers that its kind is judged by are none.
pub fn health(object: &Value) -> Health {
    let Some(kind) = Kind::of(object) else {
        return Health::Healthy;
    };
    match judge(kind, object) {
        Ok(true) => Health::Healthy,
        Ok(false) => Health::Unhealthy,
        Err(Misshapen) => Health::Unknown,
    }
}

/// A field holds what its kind does not allow there.
struct Misshapen;

fn judge(kind: Kind, object: &Value) -> Result<bool, Misshapen> {
    let number = |pointer| number(object, pointer);
    let at_least = |number: i64, wanted: Option<i64>| wanted.is_none_or(|wanted| number >= wanted);
    let seen =
        || Ok(number("/status/observedGeneration")?.unwrap_or(0) == number("/metadata/generation")?.unwrap_or(0));
    let status = |pointer| Ok(number(pointer)?.unwrap_or(0));
    Ok(match kind {
        Kind::Deployment | Kind::StatefulSet => {
            let updated = status("/status/updatedReplicas")?;
            seen()? && at_least(updated, number("/spec/replicas")?) && status("/status/availableReplicas")? >= updated
        }
        Kind::ReplicaSet => seen()? && at_least(status("/status/availableReplicas")?, number("/spec/replicas")?),
        Kind::DaemonSet => {
            let updated = status("/status/updatedNumberScheduled")?;
            seen()?
                && updated >= status("/status/desiredNumberScheduled")?
                && status("/status/numberAvailable")? >= updated
        }
        Kind::PodDisruptionBudget => status("/status/currentHealthy")? >= status("/status/desiredHealthy")?,
        Kind::Service => text(object, "/spec/type") != "LoadBalancer" || reachable(object),
        Kind::Ingress => reachable(object),
        Kind::PersistentVolumeClaim => text(object, "/status/phase") == "Bound",
        Kind::Pod => match text(object, "/status/phase") {
            "Succeeded" => true,
            "Running" => list(object, "/status/conditions")
                .iter()
                .find(|condition| text(condition, "/type") == "Ready")
                .is_some_and(|ready| text(ready, "/status") == "True"),
            _ => false,
        },
        _ => true,
    })
}

/// The number at this pointer, if the field is there.
fn number(object: &Value, pointer: &'static str) -> Result<Option<i64>, Misshapen> {
    let parent = &pointer[..pointer.rfind('/').unwrap_or(0)];
    match object.pointer(parent) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(_)) => match object.pointer(pointer) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value.as_i64().map(Some).ok_or(Misshapen),
        },
        Some(_) => Err(Misshapen),
    }
}

/// Whether a load balancer has an address.
fn reachable(object: &Value) -> bool {
    list(object, "/status/loadBalancer/ingress")
        .iter()
        .any(|ingress| !text(ingress, "/ip").is_empty() || !text(ingress, "/hostname").is_empty())
}
