//! FederatedDeployment: a Deployment, and the clusters that have it, in one object.

use serde::{Deserialize, Serialize};

use super::{Condition, FreeMap, ObjectMeta};

/// A Deployment, and the clusters that have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct FederatedDeployment {
    /// `apps.kurator.dev/v1alpha1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// `FederatedDeployment`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name, namespace, labels, annotations.
    #[serde(default, deserialize_with = "super::null_is_default")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::object"))]
    pub metadata: ObjectMeta,
    /// The Deployment, and its clusters.
    pub spec: FederatedDeploymentSpec,
    /// What became of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<FederatedDeploymentStatus>,
}

/// A Deployment, and its clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct FederatedDeploymentSpec {
    /// The Deployment.
    pub template: FederatedTemplate,
    /// The clusters.
    pub placement: FederatedPlacement,
}

/// A Deployment without a name of its own: it has that of the FederatedDeployment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct FederatedTemplate {
    /// Its labels and annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::free_map"))]
    pub metadata: Option<FreeMap>,
    /// Its `spec`.
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::free_map"))]
    pub spec: FreeMap,
}

/// The clusters that have a Deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct FederatedPlacement {
    /// The clusters by name.
    #[cfg_attr(feature = "schema", schemars(extend("minItems" = 1, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])))]
    pub clusters: Vec<FederatedCluster>,
}

/// A cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct FederatedCluster {
    /// Name of the Cluster.
    #[cfg_attr(feature = "schema", schemars(extend("minLength" = 1, "maxLength" = 48)))]
    pub name: String,
    /// How many replicas it has; those of the template when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::int32"))]
    #[cfg_attr(feature = "schema", schemars(extend("minimum" = 0)))]
    pub replicas: Option<i64>,
}

/// What became of a FederatedDeployment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct FederatedDeploymentStatus {
    /// The generation that was last worked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many replicas there should be in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::int32"))]
    pub replicas: Option<i64>,
    /// How many of them are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::int32"))]
    pub ready_replicas: Option<i64>,
    /// Accepted and Ready.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])))]
    pub conditions: Vec<Condition>,
    /// What each cluster says.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])))]
    pub clusters: Vec<FederatedClusterStatus>,
}

/// What one cluster says of a Deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct FederatedClusterStatus {
    /// Name of the Cluster.
    pub name: String,
    /// How many replicas it should have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::int32"))]
    pub replicas: Option<i64>,
    /// How many of them are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::int32"))]
    pub ready_replicas: Option<i64>,
    /// Whether the Deployment is there as it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<bool>,
    /// Why not.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub message: String,
    /// Healthy, Unhealthy or Unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::health"))]
    pub health: Option<String>,
}
