//! Typed views of the kinds: policies, bindings, Works and Clusters as Karmada's API has them (`policy.karmada.io`, `work.karmada.io`,
//! `cluster.karmada.io`: every field and JSON name; what is optional there is optional here), and FederatedDeployment
//! (`apps.kurator.dev/v1alpha1`).
//!
//! These views are for reading and for making new objects, never for a read-change-write of an object that somebody else wrote: fields of
//! later versions would go. Where an empty string says the same as none, it is a plain `String` here. The doc comments become the
//! descriptions in the CustomResourceDefinitions.

mod binding;
mod cluster;
mod federated;
mod override_policy;
mod policy;
mod work;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

pub use binding::{
    AggregatedStatusItem, BindingSchedulePriority, BindingSnapshot, BindingSpec, BindingStatus, BindingSuspension,
    ClusterResourceBinding, Component, ComponentReplicas, ComponentRequirements, GracefulEvictionTask, NodeClaim,
    NodeSelector, NodeSelectorTerm, ObjectReference, ReplicaRequirements, ResourceBinding, TargetCluster,
    WorkloadAffinityGroups,
};
pub use cluster::{
    AllocatableModeling, ApiEnablement, ApiResource, Cluster, ClusterSpec, ClusterStatus, NodeSummary, ResourceModel,
    ResourceModelRange, ResourceSummary, SecretReference, SyncMode, Taint,
};
pub use federated::{
    FederatedCluster, FederatedClusterStatus, FederatedDeployment, FederatedDeploymentSpec, FederatedDeploymentStatus,
    FederatedPlacement, FederatedTemplate,
};
pub use override_policy::{
    ClusterOverridePolicy, CommandOverrider, FieldOverrider, FieldPatch, ImageComponent, ImageOverrider,
    ImagePredicate, MapOverrider, OverridePolicy, OverrideRule, OverrideSpec, OverriderOperator, Overriders,
    PlaintextOverrider,
};
pub use policy::{
    ActivationPreference, ApplicationFailover, ClusterAffinity, ClusterAffinityGroup, ClusterFailover,
    ClusterPreferences, ClusterPropagationPolicy, ConflictResolution, DecisionConditions, DivisionPreference,
    DynamicWeight, Failover, FieldSelector, LabelSelector, NamedAffinity, Placement, Preemption, PropagationPolicy,
    PropagationSpec, PurgeMode, ReplicaScheduling, ReplicaSchedulingType, ResourceSelector, SchedulePriority,
    SelectorRequirement, SpreadConstraint, SpreadField, StatePreservation, StatePreservationRule, StaticClusterWeight,
    SuspendClusters, Suspension, Toleration, WorkloadAffinity, WorkloadAffinityTerm,
};
pub use work::{ManifestIdentifier, ManifestStatus, Work, WorkSpec, WorkStatus, WorkloadTemplate};

/// API group of the policies.
pub const POLICY_GROUP: &str = "policy.karmada.io";
/// `apiVersion` of the policies.
pub const POLICY_API_VERSION: &str = "policy.karmada.io/v1alpha1";
/// API group of bindings and Works.
pub const WORK_GROUP: &str = "work.karmada.io";
/// `apiVersion` of Work.
pub const WORK_API_VERSION: &str = "work.karmada.io/v1alpha1";
/// `apiVersion` of ResourceBinding and ClusterResourceBinding.
pub const BINDING_API_VERSION: &str = "work.karmada.io/v1alpha2";
/// API group of Cluster.
pub const CLUSTER_GROUP: &str = "cluster.karmada.io";
/// `apiVersion` of Cluster.
pub const CLUSTER_API_VERSION: &str = "cluster.karmada.io/v1alpha1";
/// API group of FederatedDeployment.
pub const APPS_GROUP: &str = "apps.kurator.dev";
/// `apiVersion` of FederatedDeployment.
pub const APPS_API_VERSION: &str = "apps.kurator.dev/v1alpha1";

/// The part of an object's metadata that this crate reads; the rest is kept as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectMeta {
    /// Name, unique in its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Namespace; absent for a cluster-scoped object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Identity, which no other object ever has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Counts the changes of what the object asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// When the object was asked to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Who still has something to do before the object may go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finalizers: Option<Vec<String>>,
    /// All other metadata, untouched.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An object whose content is none of this crate's business.
pub type FreeMap = Map<String, Value>;

/// One aspect of an object's state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which aspect.
    #[serde(rename = "type")]
    #[cfg_attr(feature = "schema", schemars(extend(
        "maxLength" = 316,
        "pattern" = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
    )))]
    pub condition_type: String,
    /// True, False or Unknown.
    #[cfg_attr(feature = "schema", schemars(extend("enum" = ["True", "False", "Unknown"])))]
    pub status: String,
    /// When the status last changed.
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::date_time"))]
    pub last_transition_time: String,
    /// Reason of the last change, as one word.
    #[cfg_attr(feature = "schema", schemars(extend(
        "minLength" = 1,
        "maxLength" = 1024,
        "pattern" = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$",
    )))]
    pub reason: String,
    /// The same for people.
    #[cfg_attr(feature = "schema", schemars(extend("maxLength" = 32768)))]
    pub message: String,
    /// Generation of the object it speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(extend("minimum" = 0)))]
    pub observed_generation: Option<i64>,
}

/// A quantity as its text: `500m`, `2Gi`, `3`. A number in JSON is read as the text of that number.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Quantity(pub String);

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text)),
            Value::Number(number) => Ok(Self(number.to_string())),
            _ => Err(serde::de::Error::custom("a quantity is a string or a number")),
        }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Quantity {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Quantity".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [{ "type": "integer" }, { "type": "string" }],
            "pattern": r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$",
            "x-kubernetes-int-or-string": true,
        })
    }
}

/// Quantities by the name of the resource.
pub type ResourceList = BTreeMap<String, Quantity>;

/// Reads null as absent: people leave `matchLabels:` and the like empty, and then YAML says null.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Schemas for what the derive cannot express.
#[cfg(feature = "schema")]
pub(crate) mod schemas {
    use schemars::{Schema, SchemaGenerator, json_schema};

    /// An object of which the API server keeps everything.
    pub(crate) fn free_map(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
    }

    /// Objects of which the API server keeps everything.
    pub(crate) fn free_maps(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } })
    }

    /// Anything at all.
    pub(crate) fn anything(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
    }

    /// An object which the API server treats itself: metadata.
    pub(crate) fn object(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object" })
    }

    /// An integer of no stated width.
    pub(crate) fn integer(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer" })
    }

    /// An integer of 32 bits. The types have 64: sums of them must not overflow.
    pub(crate) fn int32(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "format": "int32" })
    }

    /// A time in RFC 3339.
    pub(crate) fn date_time(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }

    /// The state of an object at a member.
    pub(crate) fn health(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": ["Healthy", "Unhealthy", "Unknown"] })
    }

    /// How a whole cluster's failure is dealt with: nothing may be left where nobody answers.
    pub(crate) fn cluster_purge_mode(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": ["Directly", "Gracefully"], "x-default": "Gracefully" })
    }

    /// The operators of commands and arguments.
    pub(crate) fn add_or_remove(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": ["add", "remove"] })
    }
}

#[cfg(test)]
mod tests;
