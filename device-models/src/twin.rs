//! The twin of one device at its gateway: its desired and reported values, as a state machine without I/O.
//!
//! Built from the Device, its model if there is one, and the stored DeviceStatus. Requests of the device change it at once
//! and say what they changed ([`Outcome`]); the caller commits the DeviceStatus (and the Device, if a desired value
//! was set) and only then publishes the answers, which the outcome encodes on demand: usually nobody subscribes to most.
//! If the commit fails the twin is ahead of the store: drop it and build it again from what is stored.
//!
//! Properties that the model has but nobody ever wrote take no memory here: the compiled model is shared.

mod outcome;
mod report;
mod status;
mod wire_type;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

pub use outcome::{Outcome, ReportedChange};
pub use report::{Author, ReportError};
use wire_type::WireType;

use crate::desired::{Policies, desired_registers};
use crate::payload::{self, Entry, TwinEntry, TwinValue};
use crate::register::Register;
use crate::rfc3339;
use crate::values::{Rules, same_value};

/// The most that all values of one twin may take in its DeviceStatus, in bytes of JSON: the object has to fit into one
/// replicated body.
pub const MAX_TWIN_BYTES: usize = 1024 * 1024;

/// Keys of `reported.metadata` that the twin writes itself.
const TIMESTAMP: &str = "timestamp";
const TYPE: &str = "type";

/// The states a device can have.
pub const STATES: [&str; 5] = ["online", "offline", "ok", "unknown", "unhealthy"];

/// A reported value.
#[derive(Debug, PartialEq, Eq)]
struct Reported {
    value: Box<str>,
    /// Milliseconds since 1970 by the gateway's clock.
    timestamp: u64,
    /// What else came with the value.
    metadata: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
struct Property {
    name: Arc<str>,
    value_type: WireType,
    /// The desired register; without a value when it was taken away.
    expected: Option<Arc<Register>>,
    actual: Option<Arc<Reported>>,
    /// A desired value is set and the reported one is another or missing.
    differs: bool,
}

impl Property {
    fn new(name: Arc<str>, value_type: WireType) -> Self {
        Self {
            name,
            value_type,
            expected: None,
            actual: None,
            differs: false,
        }
    }

    fn expected_value(&self) -> Option<&str> {
        self.expected.as_ref()?.value.as_deref()
    }

    fn update_differs(&mut self) {
        self.differs = match (self.expected_value(), &self.actual) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(expected), Some(actual)) => !same_value(self.value_type.property_type(), expected, &actual.value),
        };
    }

    /// Bytes of its values in the DeviceStatus.
    fn weight(&self) -> usize {
        weight(self.expected_value()) + weight(self.actual.as_ref().map(|actual| &*actual.value))
    }

    fn entry(&self) -> Option<TwinEntry<'_>> {
        entry(self.expected.as_deref(), self.actual.as_deref(), self.value_type)
    }
}

/// What messages show of two registers; nothing when both are empty.
fn entry<'a>(
    expected: Option<&'a Register>,
    actual: Option<&'a Reported>,
    value_type: WireType,
) -> Option<TwinEntry<'a>> {
    let expected = expected.and_then(|expected| {
        Some(TwinValue {
            value: expected.value.as_deref()?,
            timestamp: expected.stamp.ms(),
        })
    });
    let actual = actual.map(|actual| TwinValue {
        value: &actual.value,
        timestamp: actual.timestamp,
    });
    (expected.is_some() || actual.is_some()).then_some(TwinEntry {
        expected,
        actual,
        value_type: value_type.text(),
    })
}

/// Length of a text in JSON, without the quotes.
fn weight(text: Option<&str>) -> usize {
    let byte = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.map_or(0, |text| text.bytes().map(byte).sum())
}

/// What [`Twin::set_device`] changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceChange {
    /// Properties whose desired value is another now, set or taken away.
    pub desired: Vec<Arc<str>>,
    /// A desired value changed and differs from the reported one: publish [`Twin::delta`].
    pub delta: bool,
    /// The DeviceStatus is different and must be stored: `observedDesired` follows the desired values.
    pub status: bool,
}

/// The twin of one device.
#[derive(Clone, Debug)]
pub struct Twin {
    namespace: Arc<str>,
    name: Arc<str>,
    rules: Option<Arc<Rules>>,
    policies: Policies,
    /// Sorted by name.
    properties: Vec<Property>,
    /// How many properties differ.
    differing: usize,
    /// Bytes of all values in the DeviceStatus.
    weight: usize,
    state: Option<Box<str>>,
    last_online_ms: Option<u64>,
    extensions: Option<Map<String, Value>>,
}

impl Twin {
    /// The twin of `device`. `rules` is its compiled model, if the gateway has it; `status` the stored DeviceStatus.
    /// What cannot be read in them counts as absent: a damaged status must not keep a device from reporting.
    pub fn new(device: &Value, rules: Option<Arc<Rules>>, status: Option<&Value>) -> Self {
        let metadata = |key: &str| {
            device
                .get("metadata")
                .and_then(|metadata| metadata.get(key))
                .and_then(Value::as_str)
        };
        let mut twin = Self {
            namespace: metadata("namespace").unwrap_or("default").into(),
            name: metadata("name").unwrap_or_default().into(),
            rules: None,
            policies: Policies::default(),
            properties: Vec::new(),
            differing: 0,
            weight: 0,
            state: None,
            last_online_ms: None,
            extensions: None,
        };
        if let Some(status) = status.and_then(|status| status.get("status")) {
            twin.load_status(status);
        }
        twin.set_device(device, rules);
        twin
    }

    fn load_status(&mut self, status: &Value) {
        let text = |key: &str| status.get(key).and_then(Value::as_str);
        self.state = text("state").filter(|state| !state.is_empty()).map(Into::into);
        self.last_online_ms = text("lastOnlineTime").and_then(rfc3339::parse);
        self.extensions = status.get("extensions").and_then(Value::as_object).cloned();
        for twin in status.get("twins").and_then(Value::as_array).into_iter().flatten() {
            let Some(name) = twin.get("propertyName").and_then(Value::as_str) else {
                continue;
            };
            let reported = twin.get("reported");
            // The type stands with either value; a property without any value left goes again with the Device.
            let value_type = [reported, twin.get("observedDesired")]
                .into_iter()
                .flatten()
                .find_map(|side| WireType::parse(side.get("metadata")?.get(TYPE)?.as_str()?));
            let actual = reported.and_then(read_reported).map(Arc::new);
            let at = self.slot(name);
            let property = &mut self.properties[at];
            property.actual = actual;
            property.value_type = value_type.unwrap_or_default();
        }
    }

    /// Takes over a new Device (after [`crate::merge_device_desired`]) and its model.
    pub fn set_device(&mut self, device: &Value, rules: Option<Arc<Rules>>) -> DeviceChange {
        self.policies = Policies::of(device);
        self.rules = rules;
        let mut change = DeviceChange::default();
        let mut registers = desired_registers(device);
        for property in &mut self.properties {
            let register = registers.remove(&*property.name);
            if property.expected.as_deref() == register.as_ref() {
                continue;
            }
            if property.expected_value() != register.as_ref().and_then(|register| register.value.as_deref()) {
                change.desired.push(Arc::clone(&property.name));
            }
            property.expected = register.map(Arc::new);
            change.status = true;
        }
        for (name, register) in registers {
            let at = self.slot(&name);
            let property = &mut self.properties[at];
            if register.value.is_some() {
                change.desired.push(Arc::clone(&property.name));
            }
            property.expected = Some(Arc::new(register));
            change.status = true;
        }
        self.properties
            .retain(|property| property.expected.is_some() || property.actual.is_some());
        for property in &mut self.properties {
            if let Some(rule) = self.rules.as_ref().and_then(|rules| rules.get(&property.name).ok()) {
                property.value_type = rule.property_type().into();
                // One name in memory for all devices of the model.
                property.name = Arc::clone(rule.name());
            }
            property.update_differs();
        }
        self.recount();
        change.desired.sort();
        change.delta = change
            .desired
            .iter()
            .any(|name| self.find(name).is_ok_and(|at| self.properties[at].differs));
        change
    }

    fn recount(&mut self) {
        self.differing = self.properties.iter().filter(|property| property.differs).count();
        self.weight = self.properties.iter().map(Property::weight).sum();
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.properties.binary_search_by(|property| (*property.name).cmp(name))
    }

    /// The index of a property, made if it is not there.
    fn slot(&mut self, name: &str) -> usize {
        self.find(name).unwrap_or_else(|at| {
            self.properties
                .insert(at, Property::new(name.into(), WireType::default()));
            at
        })
    }

    /// Namespace of the device.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Name of the device.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// State of the device as last told, if ever.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The desired value of a property.
    pub fn desired(&self, property: &str) -> Option<&str> {
        self.find(property)
            .ok()
            .and_then(|at| self.properties[at].expected_value())
    }

    /// The reported value of a property.
    pub fn reported(&self, property: &str) -> Option<&str> {
        self.find(property)
            .ok()
            .and_then(|at| self.properties[at].actual.as_ref())
            .map(|actual| &*actual.value)
    }

    /// Whether a desired value differs from the reported one, so that [`Twin::delta`] has something to say.
    pub fn differs(&self) -> bool {
        self.differing > 0
    }

    /// The desired values that differ from the reported ones, by property: what a driver should write.
    pub fn differences(&self) -> impl Iterator<Item = (&str, &str)> {
        let differing = self.properties.iter().filter(|property| property.differs);
        differing.filter_map(|property| Some((&*property.name, property.expected_value()?)))
    }

    /// The `twin/update/delta` message as of now; `None` when nothing differs.
    pub fn delta(&self, now_ms: u64, event_id: &str) -> Option<Vec<u8>> {
        if !self.differs() {
            return None;
        }
        let differing = self.properties.iter().filter(|property| property.differs);
        let twin: Vec<_> = differing
            .filter_map(|property| Some((&*property.name, property.entry()?)))
            .collect();
        Some(payload::twin_delta(event_id, now_ms, &twin))
    }

    /// The `twin/get/result` message as of now.
    pub fn get(&self, now_ms: u64, event_id: &str) -> Vec<u8> {
        let twin: Vec<_> = self
            .properties
            .iter()
            .filter_map(|property| Some((&*property.name, property.entry()?)))
            .collect();
        payload::twin_get_result(event_id, now_ms, &twin)
    }

    /// The `twin/update/result` message for a request that was applied before: what it set, as that is now.
    pub fn repeated(&self, now_ms: u64, event_id: &str, entries: &[(Cow<'_, str>, Entry<'_>)]) -> Vec<u8> {
        let mut twin: Vec<_> = entries
            .iter()
            .map(|(name, asked)| {
                let (set_expected, set_actual) = match asked {
                    Entry::Delete => (false, false),
                    Entry::Set { expected, actual, .. } => (expected.is_some(), actual.is_some()),
                };
                let now = self.find(name).ok().map(|at| &self.properties[at]);
                let shown = now.and_then(|now| {
                    let expected = now.expected.as_deref().filter(|_| set_expected);
                    let actual = now.actual.as_deref().filter(|_| set_actual);
                    entry(expected, actual, now.value_type)
                });
                (&**name, shown)
            })
            .collect();
        twin.sort_by_key(|(name, _)| *name);
        payload::twin_update_result(event_id, now_ms, &twin)
    }

    /// Sets the state of the device: one of [`STATES`].
    pub fn set_state(&mut self, now_ms: u64, state: &str) -> Result<(), ReportError> {
        if !STATES.contains(&state) {
            return Err(ReportError::State {
                state: crate::Quoted::new(state),
            });
        }
        if self.state.as_deref() != Some(state) {
            self.state = Some(state.into());
        }
        if matches!(state, "online" | "ok") {
            self.last_online_ms = Some(now_ms);
        }
        Ok(())
    }

    /// The `state/update/result` message as of now.
    pub fn state_result(&self, now_ms: u64, event_id: &str) -> Vec<u8> {
        let last_online = self.last_online_ms.map(rfc3339::format);
        payload::state_result(
            event_id,
            now_ms,
            &self.name,
            self.state().unwrap_or("unknown"),
            last_online.as_deref(),
        )
    }
}

/// A reported value in a stored DeviceStatus.
fn read_reported(reported: &Value) -> Option<Reported> {
    let value = reported.get("value")?.as_str()?;
    let metadata = reported
        .get("metadata")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    let mut metadata: BTreeMap<String, String> = metadata
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    metadata.remove(TYPE);
    let timestamp = metadata
        .remove(TIMESTAMP)
        .and_then(|ms| ms.parse().ok())
        .unwrap_or_default();
    Some(Reported {
        value: value.into(),
        timestamp,
        metadata,
    })
}

#[cfg(test)]
mod tests;
