//! The kinds that have rules.

use serde_json::Value;

use super::look::text;

/// A kind with rules of its own, in the version that has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    CronJob,
    DaemonSet,
    Deployment,
    HorizontalPodAutoscaler,
    Ingress,
    Job,
    PersistentVolume,
    PersistentVolumeClaim,
    Pod,
    PodDisruptionBudget,
    ReplicaSet,
    Secret,
    Service,
    ServiceAccount,
    ServiceImport,
    StatefulSet,
}

impl Kind {
    pub(crate) fn of(object: &Value) -> Option<Self> {
        Some(match (text(object, "/apiVersion"), text(object, "/kind")) {
            ("apps/v1", "DaemonSet") => Self::DaemonSet,
            ("apps/v1", "Deployment") => Self::Deployment,
            ("apps/v1", "ReplicaSet") => Self::ReplicaSet,
            ("apps/v1", "StatefulSet") => Self::StatefulSet,
            ("autoscaling/v2", "HorizontalPodAutoscaler") => Self::HorizontalPodAutoscaler,
            ("batch/v1", "CronJob") => Self::CronJob,
            ("batch/v1", "Job") => Self::Job,
            ("multicluster.x-k8s.io/v1alpha1", "ServiceImport") => Self::ServiceImport,
            ("networking.k8s.io/v1", "Ingress") => Self::Ingress,
            ("policy/v1", "PodDisruptionBudget") => Self::PodDisruptionBudget,
            ("v1", "PersistentVolume") => Self::PersistentVolume,
            ("v1", "PersistentVolumeClaim") => Self::PersistentVolumeClaim,
            ("v1", "Pod") => Self::Pod,
            ("v1", "Secret") => Self::Secret,
            ("v1", "Service") => Self::Service,
            ("v1", "ServiceAccount") => Self::ServiceAccount,
            _ => return None,
        })
    }

    /// Where an object of this kind has the specification of its pods.
    pub(crate) fn pod_spec(self, object: &Value) -> Option<&Value> {
        object.pointer(match self {
            Self::Pod => "/spec",
            Self::CronJob => "/spec/jobTemplate/spec/template/spec",
            Self::DaemonSet | Self::Deployment | Self::Job | Self::ReplicaSet | Self::StatefulSet => {
                "/spec/template/spec"
            }
            _ => return None,
        })
    }
}
