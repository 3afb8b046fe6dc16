//! The EdgeNode kind: a gateway, known to the hub before it joins, and what the hub knows about its link afterwards.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ObjectMeta;

/// What carries the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// QUIC on UDP.
    Quic,
    /// TLS on TCP, where UDP does not get through.
    Tcp,
}

/// A gateway. Created by hand it announces one, with its labels, before it joins; its status says how the link is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct EdgeNode {
    /// `edge.kubeedge.io/v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// `EdgeNode`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name, namespace, labels, annotations.
    #[serde(default, deserialize_with = "super::null_is_default")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::object"))]
    pub metadata: ObjectMeta,
    /// What is known about the gateway in advance.
    #[serde(default, deserialize_with = "super::null_is_default")]
    pub spec: EdgeNodeSpec,
    /// What the hub knows about the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<EdgeNodeStatus>,
}

/// What is known about a gateway in advance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct EdgeNodeSpec {
    /// Identity and address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_info: Option<NodeInfo>,
    /// Labels that its Node gets.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// The site it stands at. Gateways of one site can be addressed together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// Taints that its Cluster gets above: they keep away what does not tolerate them.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub taints: Vec<Taint>,
}

/// Keeps away what does not tolerate it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Taint {
    /// A label's name.
    pub key: String,
    /// A label's value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What it does.
    pub effect: TaintEffect,
}

/// What a taint does to what does not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum TaintEffect {
    /// Nothing new comes.
    NoSchedule,
    /// Nothing new comes if there is room elsewhere.
    PreferNoSchedule,
    /// Nothing new comes, and what is there goes.
    NoExecute,
}

/// Identity and address of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// Name by which the gateway joins; the name of the object when absent.
    #[serde(rename = "nodeID", default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<String>,
    /// Address in its own network, for people.
    #[serde(rename = "nodeIP", default, skip_serializing_if = "Option::is_none")]
    pub node_ip: Option<String>,
}

/// What the hub knows about a gateway's link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct EdgeNodeStatus {
    /// Whether there is a session now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected: Option<bool>,
    /// When the gateway was last heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::date_time"))]
    pub last_seen: Option<String>,
    /// Version of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// Processor architecture of the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Operating system of the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// What carries the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkKind>,
    /// Address the gateway connects from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Number of the session; a newer one fences the older.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_epoch: Option<i64>,
    /// The objects the gateway should hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<SetStatus>,
    /// The objects the gateway reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<SetStatus>,
    /// Whether both sets were equal on both sides when last compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_sync: Option<bool>,
    /// Bytes sent to the gateway in this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_sent: Option<i64>,
    /// Bytes received from the gateway in this session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_received: Option<i64>,
    /// The account of every journal: accepted is delivered plus dropped plus waiting.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub journals: Vec<JournalStatus>,
    /// Conditions.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub conditions: Vec<Condition>,
}

/// A replicated set of objects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct SetStatus {
    /// Digest of the set, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Objects in the set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<i64>,
    /// Objects that the receiving side refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<i64>,
    /// The first of the refused objects, with the reasons.
    #[serde(
        default,
        deserialize_with = "super::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub refused_keys: Vec<RefusedKey>,
}

/// An object that the receiving side refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RefusedKey {
    /// Key of the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The account of one journal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct JournalStatus {
    /// Name of the journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    /// Records accepted at the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<i64>,
    /// Records safe at the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered: Option<i64>,
    /// Records that a bound forced out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<i64>,
    /// Records waiting at the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<i64>,
}

/// A condition of the gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Type of the condition.
    #[serde(rename = "type")]
    pub condition_type: String,
    /// True, False or Unknown.
    pub status: String,
    /// Reason of the last change, as one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the status last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(schema_with = "crate::kinds::schemas::date_time"))]
    pub last_transition_time: Option<String>,
    /// Generation of the object it speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
