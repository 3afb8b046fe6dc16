//! OverridePolicy and ClusterOverridePolicy: what an object is like in one cluster and not in the others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ClusterAffinity, ObjectMeta, ResourceSelector};

/// Changes objects of its own namespace on their way to clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct OverridePolicy {
    /// `policy.karmada.io/v1alpha1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// `OverridePolicy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name, namespace, labels, annotations.
    #[serde(default, deserialize_with = "super::null_is_default")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::object"))]
    pub metadata: ObjectMeta,
    /// Which objects, and what is changed for which cluster.
    pub spec: OverrideSpec,
}

/// Changes objects on their way to clusters: those of any namespace, and those that are in none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ClusterOverridePolicy {
    /// `policy.karmada.io/v1alpha1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// `ClusterOverridePolicy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name, namespace, labels, annotations.
    #[serde(default, deserialize_with = "super::null_is_default")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::object"))]
    pub metadata: ObjectMeta,
    /// Which objects, and what is changed for which cluster.
    pub spec: OverrideSpec,
}

/// Which objects, and what is changed for which cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct OverrideSpec {
    /// The objects; none said: all.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub resource_selectors: Vec<ResourceSelector>,
    /// The changes for each group of clusters, made in this order.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub override_rules: Vec<OverrideRule>,
    /// Deprecated: the clusters of overriders. Use overrideRules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_cluster: Option<ClusterAffinity>,
    /// Deprecated: changes for the clusters of targetCluster. Use overrideRules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overriders: Option<Overriders>,
}

/// The changes for a group of clusters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct OverrideRule {
    /// The clusters; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_cluster: Option<ClusterAffinity>,
    /// The changes.
    pub overriders: Overriders,
}

/// Changes of an object. They are made in the order images, commands, arguments, labels, annotations, fields, anything else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Overriders {
    /// Changes anywhere in the object.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub plaintext: Vec<PlaintextOverrider>,
    /// Changes of images.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub image_overrider: Vec<ImageOverrider>,
    /// Changes of containers' commands.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub command_overrider: Vec<CommandOverrider>,
    /// Changes of containers' arguments.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub args_overrider: Vec<CommandOverrider>,
    /// Changes of labels.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub labels_overrider: Vec<MapOverrider>,
    /// Changes of annotations.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub annotations_overrider: Vec<MapOverrider>,
    /// Changes within a string of the object that is itself JSON or YAML.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub field_overrider: Vec<FieldOverrider>,
}

/// What a change does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum OverriderOperator {
    /// Adds.
    Add,
    /// Removes.
    Remove,
    /// Replaces.
    Replace,
}

/// A change anywhere in the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PlaintextOverrider {
    /// Where, as a JSON Pointer.
    pub path: String,
    /// What the change does.
    pub operator: OverriderOperator,
    /// The value, which remove does not need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::anything"))]
    pub value: Option<Value>,
}

/// A change of images.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ImageOverrider {
    /// Which image; absent: that of every container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicate: Option<ImagePredicate>,
    /// Which part of it.
    pub component: ImageComponent,
    /// What the change does.
    pub operator: OverriderOperator,
    /// The value, which remove does not need.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub value: String,
}

/// Which image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ImagePredicate {
    /// Where it stands in the object, as a JSON Pointer.
    pub path: String,
}

/// A part of an image's name: `registry/repository:tag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ImageComponent {
    /// What stands before the first slash.
    Registry,
    /// What stands between registry and tag.
    Repository,
    /// What stands after the colon, or after the at sign.
    Tag,
}

/// A change of a container's command or arguments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CommandOverrider {
    /// Name of the container.
    pub container_name: String,
    /// Adds at the end, or removes wherever they stand.
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::add_or_remove"))]
    pub operator: OverriderOperator,
    /// The words.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub value: Vec<String>,
}

/// A change of labels or annotations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct MapOverrider {
    /// What the change does.
    pub operator: OverriderOperator,
    /// Keys with their values.
    pub value: BTreeMap<String, String>,
}

/// A change within a string that is itself JSON or YAML.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct FieldOverrider {
    /// Where the string stands, as a JSON Pointer.
    pub field_path: String,
    /// Changes where it is JSON.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub json: Vec<FieldPatch>,
    /// Changes where it is YAML.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub yaml: Vec<FieldPatch>,
}

/// A change within a string.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct FieldPatch {
    /// Where in it, as a JSON Pointer.
    pub sub_path: String,
    /// What the change does.
    pub operator: OverriderOperator,
    /// The value, which remove does not need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::anything"))]
    pub value: Option<Value>,
}
