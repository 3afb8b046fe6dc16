//! How often a reported value leaves for the hub: `spec.properties[].reportCycle`, each property at its own pace.
//!
//! A DeviceStatus travels whole. A property whose cycle has not elapsed since it left last keeps, in the body that travels, the value
//! it left with; it takes on its newest when it is due. The set that the hub compares with is made of the bodies that left, so both
//! ends agree at any time, and the newest value of everything is there one cycle after the last report.
//!
//! Pure: time is an argument. What is remembered of a device is its last body, which the session holds anyway, and one time for each
//! of its properties that has a cycle.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use metastore::store::ObjectKey;
use serde_json::{Map, Value};

use crate::objects;

/// Moves with every report; leaves with whatever else does.
const LAST_ONLINE: &str = "lastOnlineTime";

/// Report cycles of all devices.
#[derive(Debug)]
pub(super) struct Cycles {
    default: Duration,
    /// By device, only of properties that do not use the default.
    devices: HashMap<String, Arc<BTreeMap<Box<str>, Duration>>>,
}

/// Report cycles of one device. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rates {
    default: Duration,
    own: Option<Arc<BTreeMap<Box<str>, Duration>>>,
}

impl Cycles {
    /// With the cycle of properties whose Device does not say.
    pub(super) fn new(default: Duration) -> Self {
        Self {
            default,
            devices: HashMap::new(),
        }
    }

    /// Takes note of a Device. Whether its cycles are others than before.
    pub(super) fn learn(&mut self, key: &ObjectKey, device: &Value) -> bool {
        let mut own = BTreeMap::new();
        for property in device["spec"]["properties"].as_array().into_iter().flatten() {
            let cycle = property["reportCycle"].as_u64().map(Duration::from_millis);
            if let (Some(name), Some(cycle)) = (property["name"].as_str(), cycle)
                && cycle != self.default
            {
                own.insert(name.into(), cycle);
            }
        }
        if own.is_empty() {
            return self.forget(key);
        }
        let own = Arc::new(own);
        self.devices.insert(id(key), Arc::clone(&own)) != Some(own)
    }

    /// The Device is gone. Whether it had cycles of its own.
    pub(super) fn forget(&mut self, key: &ObjectKey) -> bool {
        !self.devices.is_empty() && self.devices.remove(&id(key)).is_some()
    }

    /// Of a device, by the key of its Device or DeviceStatus.
    pub(super) fn of(&self, key: &ObjectKey) -> Rates {
        let own = match self.devices.is_empty() {
            true => None,
            false => self.devices.get(&id(key)).cloned(),
        };
        Rates {
            default: self.default,
            own,
        }
    }
}

fn id(key: &ObjectKey) -> String {
    format!("{}/{}", key.namespace, key.name)
}

impl Rates {
    /// Nothing is ever held back.
    pub(super) fn is_free(&self) -> bool {
        let own = self.own.as_deref().into_iter().flatten();
        self.default.is_zero() && own.map(|(_, cycle)| cycle).all(Duration::is_zero)
    }

    fn of(&self, property: &str) -> Duration {
        let own = self.own.as_ref().and_then(|own| own.get(property));
        own.copied().unwrap_or(self.default)
    }
}

/// What left of one DeviceStatus.
#[derive(Debug, Default)]
pub(super) struct Sent {
    body: Bytes,
    /// When each property with a cycle left; not of those whose cycle has elapsed.
    left: BTreeMap<Box<str>, Duration>,
    online_left: Duration,
}

/// What may leave of one DeviceStatus now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The body, when it is another than what left last.
    pub(super) body: Option<Bytes>,
    /// When more may.
    pub(super) next: Option<Duration>,
}

impl Sent {
    /// Takes what may leave of a status. The caller sends it.
    pub(super) fn take(&mut self, status: Value, rates: &Rates, now: Duration) -> Due {
        let before = serde_json::from_slice::<Value>(&self.body).unwrap_or_default();
        let mut travels = objects::replica(status);
        let mut next = self.hold_back(&mut travels, &before, rates, now);
        let online = replace(&mut travels, &before);
        if let Some(online) = online {
            let shortest = twins(&travels).map(|(name, _)| rates.of(name)).min();
            let due = next.unwrap_or(self.online_left + shortest.unwrap_or(rates.default));
            if travels != before || due <= now {
                put(&mut travels, LAST_ONLINE, online);
                self.online_left = now;
            } else {
                next = Some(due);
            }
        }
        let body = objects::canonical(&travels);
        if body == self.body {
            return Due { body: None, next };
        }
        self.body = body.clone();
        Due { body: Some(body), next }
    }

    /// Gives properties that are not due the value they left with. When the first of them is due.
    fn hold_back(&mut self, travels: &mut Value, before: &Value, rates: &Rates, now: Duration) -> Option<Duration> {
        let mut next: Option<Duration> = None;
        self.left.retain(|name, left| *left + rates.of(name) > now);
        let sent: BTreeMap<&str, &Value> = twins(before).collect();
        let twins = travels.pointer_mut("/status/twins").and_then(Value::as_array_mut);
        if self.left.len() > twins.as_ref().map_or(0, |twins| twins.len()) {
            // Names that came and went.
            self.left.retain(|name, _| sent.contains_key(&**name));
        }
        for twin in twins.into_iter().flatten().filter_map(Value::as_object_mut) {
            let Some(name) = twin.get("propertyName").and_then(Value::as_str) else {
                continue;
            };
            let last = sent.get(name).and_then(|twin| twin.get("reported"));
            let cycle = rates.of(name);
            if cycle.is_zero() || twin.get("reported") == last {
                continue;
            }
            match self.left.get(name) {
                None => {
                    self.left.insert(name.into(), now);
                }
                Some(left) => {
                    let due = *left + cycle;
                    next = Some(next.map_or(due, |next| next.min(due)));
                    set(twin, "reported", last.cloned());
                }
            }
        }
        next
    }
}

/// Puts the time that left last into a status; gives the newer one, when it is another.
fn replace(travels: &mut Value, before: &Value) -> Option<Option<Value>> {
    let last = before.get("status").and_then(|status| status.get(LAST_ONLINE));
    let newest = travels.get("status")?.get(LAST_ONLINE).cloned();
    if newest.as_ref() == last {
        return None;
    }
    put(travels, LAST_ONLINE, last.cloned());
    Some(newest)
}

fn put(travels: &mut Value, field: &str, value: Option<Value>) {
    if let Some(status) = travels.get_mut("status").and_then(Value::as_object_mut) {
        set(status, field, value);
    }
}

fn set(map: &mut Map<String, Value>, field: &str, value: Option<Value>) {
    match value {
        Some(value) => map.insert(field.to_owned(), value),
        None => map.remove(field),
    };
}

fn twins(status: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let twins = status["status"]["twins"].as_array().into_iter().flatten();
    twins.filter_map(|twin| Some((twin["propertyName"].as_str()?, twin)))
}

#[cfg(test)]
mod tests;
