//! Typed views of the kinds: DeviceModel, Device and DeviceStatus as KubeEdge defines them (`devices.kubeedge.io/v1beta1`,
//! every field and JSON name; what is optional there is optional here) and EdgeNode (`edge.kubeedge.io/v1`).
//!
//! Objects travel and are stored as raw JSON, so an unknown field survives; these views are for reading and for making new
//! objects, never for a read-change-write of an object that somebody else wrote. The doc comments become the descriptions
//! in the CustomResourceDefinitions.

mod device;
mod edge_node;
mod model;
mod status;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

pub use device::{
    DbMethod, DesiredValue, Device, DeviceMethod, DeviceProperty, DeviceSpec, DeviceStatusOld, InfluxClientConfig,
    InfluxDataConfig, InfluxMethod, LocalReference, MysqlClientConfig, MysqlMethod, ProtocolConfig, PushHttp,
    PushMethod, PushMqtt, PushOtel, RedisClientConfig, RedisMethod, StateReport, TdengineClientConfig, TdengineMethod,
    VisitorConfig,
};
pub use edge_node::{
    Condition, EdgeNode, EdgeNodeSpec, EdgeNodeStatus, JournalStatus, LinkKind, NodeInfo, RefusedKey, SetStatus, Taint,
    TaintEffect,
};
pub use model::{AccessMode, DeviceModel, DeviceModelSpec, ModelProperty, PropertyType};
pub use status::{DeviceStatus, DeviceStatusStatus, Twin as TwinStatus, TwinProperty};

/// API group of DeviceModel, Device and DeviceStatus.
pub const DEVICES_GROUP: &str = "devices.kubeedge.io";
/// API version of DeviceModel, Device and DeviceStatus.
pub const DEVICES_VERSION: &str = "v1beta1";
/// `apiVersion` of DeviceModel, Device and DeviceStatus.
pub const DEVICES_API_VERSION: &str = "devices.kubeedge.io/v1beta1";
/// API group of EdgeNode.
pub const EDGE_GROUP: &str = "edge.kubeedge.io";
/// `apiVersion` of EdgeNode.
pub const EDGE_API_VERSION: &str = "edge.kubeedge.io/v1";

/// The part of an object's metadata that this crate reads; the rest is kept as it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ObjectMeta {
    /// Name, unique in its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Namespace; absent for a cluster-scoped object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// All other metadata, untouched.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A map whose content is the business of a driver or a database, not of this crate.
pub type FreeMap = Map<String, Value>;

/// Reads null as absent: people leave `configData:` and the like empty, and then YAML says null.
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

    /// An object which the API server treats itself: metadata.
    pub(crate) fn object(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object" })
    }

    /// An integer of no stated width.
    pub(crate) fn integer(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer" })
    }

    /// A string that is empty when absent. `x-default` becomes `default`: plain defaults are dropped, as serde's are none
    /// of the API's business.
    pub(crate) fn string_or_empty(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "x-default": "" })
    }

    /// A time in RFC 3339.
    pub(crate) fn date_time(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

#[cfg(test)]
mod tests;
