//! Cluster: a member, how it is reached, and what it can run. Karmada serves it from a server of its own; where there is no Karmada it is
//! a custom resource.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Condition, ObjectMeta, Quantity, ResourceList};

/// A member cluster. The namespace of its Works has its name with `karmada-es-` before it, so the name has at most 48 characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-validations" = [{"rule": "self.metadata.name.size() <= 48", "message": "the name of a Cluster has at most 48 characters"}, {"rule": "!self.metadata.name.contains('.')", "message": "the name of a Cluster has no dots"}])))]
pub struct Cluster {
    /// `cluster.karmada.io/v1alpha1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// `Cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name, namespace, labels, annotations.
    #[serde(default, deserialize_with = "super::null_is_default")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::object"))]
    pub metadata: ObjectMeta,
    /// How it is reached, and where it is.
    pub spec: ClusterSpec,
    /// What it can run, and whether it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ClusterStatus>,
}

/// How a cluster is reached, and where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ClusterSpec {
    /// Identity of the cluster, which no other one has.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    #[cfg_attr(feature = "schema", schemars(extend("maxLength" = 128000)))]
    pub id: String,
    /// Who reaches out to whom.
    pub sync_mode: SyncMode,
    /// URL of its API.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub api_endpoint: String,
    /// The Secret with `caBundle` and `token` for its API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
    /// The Secret with the `token` by which users are impersonated there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impersonator_secret_ref: Option<SecretReference>,
    /// Whether its certificate is not checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[serde(rename = "insecureSkipTLSVerification")]
    pub insecure_skip_tls_verification: Option<bool>,
    /// The proxy on the way to its API: a URL with http, https or socks5.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    #[serde(rename = "proxyURL")]
    pub proxy_url: String,
    /// Headers for that proxy.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub proxy_header: BTreeMap<String, String>,
    /// Who provides it.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub provider: String,
    /// Region it is in.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub region: String,
    /// Deprecated: the zone it is in. Use zones.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub zone: String,
    /// Zones it is in.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub zones: Vec<String>,
    /// What keeps objects away from it that do not tolerate it.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub taints: Vec<Taint>,
    /// Grades of nodes, by which its nodes are counted.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub resource_models: Vec<ResourceModel>,
}

/// Who reaches out to whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum SyncMode {
    /// The member fetches its Works.
    #[default]
    Pull,
    /// Works are brought to the member.
    Push,
}

/// A Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SecretReference {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Keeps objects away that do not tolerate it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Taint {
    /// Key of the taint.
    pub key: String,
    /// Its value.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub value: String,
    /// NoSchedule, PreferNoSchedule or NoExecute.
    pub effect: String,
    /// When it was put there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::date_time"))]
    pub time_added: Option<String>,
}

/// A grade of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ResourceModel {
    /// Number of the grade, from 0.
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::integer"))]
    pub grade: i64,
    /// What nodes of this grade have.
    pub ranges: Vec<ResourceModelRange>,
}

/// How much of a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ResourceModelRange {
    /// Name of the resource.
    pub name: String,
    /// At least this much.
    pub min: Quantity,
    /// Less than this.
    pub max: Quantity,
}

/// What a cluster can run, and whether it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Version of its API server.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub kubernetes_version: String,
    /// The kinds it serves. Objects of other kinds are not sent there.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub api_enablements: Vec<ApiEnablement>,
    /// Ready and CompleteAPIEnablements.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[cfg_attr(feature = "schema", schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])))]
    pub conditions: Vec<Condition>,
    /// Its nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_summary: Option<NodeSummary>,
    /// Its resources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_summary: Option<ResourceSummary>,
    /// What is being done about its conditions.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub remedy_actions: Vec<String>,
}

/// The kinds of one version of an API group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ApiEnablement {
    /// `apiVersion` of the kinds.
    pub group_version: String,
    /// The kinds.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub resources: Vec<ApiResource>,
}

/// A kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ApiResource {
    /// Plural name in the API.
    pub name: String,
    /// `kind` of the objects.
    pub kind: String,
}

/// The nodes of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeSummary {
    /// How many there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::int32"))]
    pub total_num: Option<i64>,
    /// How many of them are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::int32"))]
    pub ready_num: Option<i64>,
}

/// The resources of a cluster, all nodes together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ResourceSummary {
    /// What pods may take in all.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub allocatable: ResourceList,
    /// What pods take that are not yet on a node.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub allocating: ResourceList,
    /// What pods on nodes take.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub allocated: ResourceList,
    /// How many nodes of each grade there are.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub allocatable_modelings: Vec<AllocatableModeling>,
}

/// How many nodes of a grade there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct AllocatableModeling {
    /// Number of the grade.
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::integer"))]
    pub grade: i64,
    /// How many.
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::integer"))]
    pub count: i64,
}
