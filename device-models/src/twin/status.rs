//! The DeviceStatus of a twin, written in one pass: as an object for the store, or straight as the bytes that object has.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

use super::{Property, TIMESTAMP, TYPE, Twin};
use crate::kinds::DEVICES_API_VERSION;
use crate::rfc3339;

impl Twin {
    /// The DeviceStatus object as of now.
    pub fn status(&self) -> Value {
        serde_json::to_value(Object(self)).expect("texts and maps with text keys always serialize")
    }

    /// The bytes of [`Twin::status`], keys sorted as a replica sends them, without building the object.
    pub fn status_json(&self) -> Vec<u8> {
        serde_json::to_vec(&Object(self)).expect("texts and maps with text keys always serialize")
    }
}

// Every `serialize` below writes its keys in sorted order: so the bytes are those of the sorted object.

struct Object<'a>(&'a Twin);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("apiVersion", DEVICES_API_VERSION)?;
        map.serialize_entry("kind", "DeviceStatus")?;
        map.serialize_entry(
            "metadata",
            &Metadata {
                name: &self.0.name,
                namespace: &self.0.namespace,
            },
        )?;
        map.serialize_entry("status", &Status(self.0))?;
        map.end()
    }
}

#[derive(serde::Serialize)]
struct Metadata<'a> {
    name: &'a str,
    namespace: &'a str,
}

struct Status<'a>(&'a Twin);

impl Serialize for Status<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(extensions) = &self.0.extensions {
            map.serialize_entry::<_, Map<String, Value>>("extensions", extensions)?;
        }
        if let Some(ms) = self.0.last_online_ms {
            map.serialize_entry("lastOnlineTime", &rfc3339::format(ms))?;
        }
        if let Some(state) = &self.0.state {
            map.serialize_entry("state", state)?;
        }
        map.serialize_entry("twins", &Twins(&self.0.properties))?;
        map.end()
    }
}

struct Twins<'a>(&'a [Property]);

impl Serialize for Twins<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shown = |property: &&Property| property.actual.is_some() || property.expected_value().is_some();
        serializer.collect_seq(self.0.iter().filter(shown).map(TwinView))
    }
}

struct TwinView<'a>(&'a Property);

impl Serialize for TwinView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value_type = self.0.value_type.text();
        let mut map = serializer.serialize_map(None)?;
        if let Some((value, register)) = self.0.expected_value().zip(self.0.expected.as_ref()) {
            let metadata = ObservedMetadata {
                stamp: Text(&register.stamp),
                timestamp: Text(register.stamp.ms()),
                value_type,
            };
            map.serialize_entry("observedDesired", &Side { metadata, value })?;
        }
        map.serialize_entry("propertyName", &*self.0.name)?;
        if let Some(actual) = &self.0.actual {
            let value = &*actual.value;
            if actual.metadata.is_empty() {
                let metadata = ReportedMetadata {
                    timestamp: Text(actual.timestamp),
                    value_type,
                };
                map.serialize_entry("reported", &Side { metadata, value })?;
            } else {
                let timestamp = actual.timestamp.to_string();
                let mut metadata: BTreeMap<&str, &str> = actual
                    .metadata
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.as_str()))
                    .collect();
                metadata.insert(TIMESTAMP, &timestamp);
                metadata.insert(TYPE, value_type);
                map.serialize_entry("reported", &Side { metadata, value })?;
            }
        }
        map.end()
    }
}

#[derive(serde::Serialize)]
struct Side<'a, M> {
    metadata: M,
    value: &'a str,
}

#[derive(serde::Serialize)]
struct ObservedMetadata<'a> {
    stamp: Text<&'a crate::hlc::Stamp>,
    timestamp: Text<u64>,
    #[serde(rename = "type")]
    value_type: &'a str,
}

#[derive(serde::Serialize)]
struct ReportedMetadata<'a> {
    timestamp: Text<u64>,
    #[serde(rename = "type")]
    value_type: &'a str,
}

/// Whatever it is, as text: the definition has texts only.
struct Text<T>(T);

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}
