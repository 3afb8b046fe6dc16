//! Work: what one cluster shall have, and what it says of it. It stands in the namespace of its cluster.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Condition, ObjectMeta};

/// Objects that one cluster shall have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Work {
    /// `work.karmada.io/v1alpha1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// `Work`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name, namespace, labels, annotations.
    #[serde(default, deserialize_with = "super::null_is_default")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::object"))]
    pub metadata: ObjectMeta,
    /// The objects.
    pub spec: WorkSpec,
    /// What became of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<WorkStatus>,
}

/// Objects that one cluster shall have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct WorkSpec {
    /// The objects.
    #[serde(default, deserialize_with = "super::null_is_default")]
    pub workload: WorkloadTemplate,
    /// Whether the cluster keeps what it has although the objects here change. What it says of them is still written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend_dispatching: Option<bool>,
    /// Whether the cluster keeps the objects when this Work is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preserve_resources_on_deletion: Option<bool>,
}

/// Objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct WorkloadTemplate {
    /// The objects, whole.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::free_maps"))]
    pub manifests: Vec<Value>,
}

/// What became of a Work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct WorkStatus {
    /// Applied and Dispatching.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub conditions: Vec<Condition>,
    /// What the cluster says of each object.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub manifest_statuses: Vec<ManifestStatus>,
}

/// What the cluster says of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ManifestStatus {
    /// Which object.
    pub identifier: ManifestIdentifier,
    /// The `status` of the object there, or the part of it that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::free_map"))]
    pub status: Option<Value>,
    /// Healthy, Unhealthy or Unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::health"))]
    pub health: Option<String>,
}

/// Which of a Work's objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ManifestIdentifier {
    /// Its place in the list, from 0.
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::integer"))]
    pub ordinal: i64,
    /// API group; empty for the core.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub group: String,
    /// API version, without the group.
    pub version: String,
    /// `kind` of the object.
    pub kind: String,
    /// Plural name of the kind in the API. Must be there, and may be empty.
    pub resource: String,
    /// Namespace of the object.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub namespace: String,
    /// Name of the object.
    pub name: String,
}
