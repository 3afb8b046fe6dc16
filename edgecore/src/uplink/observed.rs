//! The gateway's set for the hub: what devices reported (DeviceStatus), what the gateway is (its Node), and the desired registers that
//! were written here (`twins` entries). All derived from the store, nothing kept beside it.
//!
//! At the start of a session the whole set is read once; then watches say what changed. A changed key waits in [`Pending`] until it may
//! leave: at once when nothing of that key is under way, else when that was acknowledged; and not sooner than the device's
//! `reportCycle` after the last time. What changes meanwhile replaces what waits, so a device that reports a thousand times a second
//! costs the link no more than the hub can write.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use device_models::edge_registers;
use metastore::store::{EventKind, Gone, ListOptions, Object, ObjectKey, Scope, Store, StoreError, Watch, WatchError};
use proto::{Key, SourceSet};
use serde_json::Value;

use crate::objects::{self, DEVICES, STATUSES};

/// Reads the set and follows its changes.
#[derive(Debug)]
pub(crate) struct Observed {
    node: String,
    own_node: ObjectKey,
    statuses: Watch,
    devices: Watch,
    nodes: Watch,
    cycles: Cycles,
}

/// One entry of the set as it is now.
#[derive(Debug)]
pub(crate) struct Changed {
    /// Its replica key.
    pub(crate) key: Key,
    /// What it is now; `None` when it is gone.
    pub(crate) object: Option<Object>,
    /// Least time since this key left last.
    pub(crate) cycle: Duration,
}

/// Report cycles of the devices that do not use the default.
#[derive(Debug)]
struct Cycles {
    default: Duration,
    devices: HashMap<String, Duration>,
}

impl Observed {
    /// The whole set as it is now, and what follows its changes from there on. Blocks for as long as reading takes.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn start(store: &Store, node: &str, default_cycle: Duration) -> Result<(SourceSet, Self), StoreError> {
        let own_node = objects::node_key(node);
        let mut set = SourceSet::new();
        let mut cycles = Cycles {
            default: default_cycle,
            devices: HashMap::new(),
        };
        let statuses = scan(store, objects::device_scope(STATUSES), |object| {
            set.put(object.key.to_string(), body(object));
        })?;
        let devices = scan(store, objects::device_scope(DEVICES), |object| {
            let Ok(device) = object.value() else { return };
            cycles.learn(&object.key, &device);
            if let Some(twins) = edge_registers(&device, node) {
                set.put(objects::twins_key(&object.key), objects::canonical(&twins));
            }
        })?;
        let nodes = scan(store, objects::node_scope(), |object| {
            if object.key == own_node {
                set.put(object.key.to_string(), body(object));
            }
        })?;
        let following = Self {
            node: node.to_owned(),
            own_node,
            statuses,
            devices,
            nodes,
            cycles,
        };
        Ok((set, following))
    }

    /// The next change of the set. Safe to drop half-way.
    ///
    /// # Errors
    /// When a watch fell behind what the store keeps (start again), or the store ended.
    pub(crate) async fn next(&mut self) -> Result<Changed, WatchError> {
        loop {
            let event = tokio::select! {
                biased;
                event = self.devices.next() => event?,
                event = self.nodes.next() => event?,
                event = self.statuses.next() => event?,
            };
            if let Some(changed) = self.change(event.kind, &event.object) {
                return Ok(changed);
            }
        }
    }

    /// Takes what else changed already, without waiting.
    pub(crate) fn ready(&mut self, pending: &mut Pending, now: Duration) {
        loop {
            let event = self.devices.try_next().or_else(|| self.nodes.try_next());
            let Some(event) = event.or_else(|| self.statuses.try_next()) else {
                return;
            };
            if let Some(changed) = self.change(event.kind, &event.object) {
                pending.changed(changed, now);
            }
        }
    }

    fn change(&mut self, kind: EventKind, object: &Object) -> Option<Changed> {
        let there = (kind != EventKind::Deleted).then(|| object.clone());
        match &*object.key.resource {
            DEVICES => {
                match there.as_ref().and_then(|device| device.value().ok()) {
                    Some(device) => self.cycles.learn(&object.key, &device),
                    None => self.cycles.forget(&object.key),
                }
                Some(Changed {
                    key: objects::twins_key(&object.key).into(),
                    object: there,
                    cycle: Duration::ZERO,
                })
            }
            STATUSES => Some(Changed {
                key: object.key.to_string().into(),
                object: there,
                cycle: self.cycles.of(&object.key),
            }),
            _ if object.key == self.own_node => Some(Changed {
                key: object.key.to_string().into(),
                object: there,
                cycle: Duration::ZERO,
            }),
            _ => None,
        }
    }

    /// The body that travels for a changed entry; `None` when the entry is not in the set.
    pub(crate) fn body(&self, object: Option<&Object>) -> Option<Bytes> {
        let object = object?;
        if &*object.key.resource == DEVICES {
            let device = object.value().ok()?;
            return edge_registers(&device, &self.node).map(|twins| objects::canonical(&twins));
        }
        Some(body(object))
    }
}

impl Cycles {
    /// A device's cycle is the shortest of its properties'.
    fn learn(&mut self, key: &ObjectKey, device: &Value) {
        let properties = device["spec"]["properties"].as_array();
        let cycle = properties
            .into_iter()
            .flatten()
            .map(|property| {
                property["reportCycle"]
                    .as_u64()
                    .map_or(self.default, Duration::from_millis)
            })
            .min()
            .unwrap_or(self.default);
        if cycle == self.default {
            self.forget(key);
        } else {
            self.devices.insert(id(key), cycle);
        }
    }

    fn forget(&mut self, key: &ObjectKey) {
        self.devices.remove(&id(key));
    }

    fn of(&self, key: &ObjectKey) -> Duration {
        if self.devices.is_empty() {
            return self.default;
        }
        self.devices.get(&id(key)).copied().unwrap_or(self.default)
    }
}

fn id(key: &ObjectKey) -> String {
    format!("{}/{}", key.namespace, key.name)
}

fn body(object: &Object) -> Bytes {
    object.value().map(objects::replica_body).unwrap_or_default()
}

fn scan(store: &Store, scope: Scope, mut each: impl FnMut(&Object)) -> Result<Watch, StoreError> {
    let listed = store.list(&scope, ListOptions::default())?;
    for object in &listed.items {
        each(object);
    }
    store.watch(scope, listed.revision).map_err(|gone: Gone| gone.into())
}

/// Keys that changed and wait to leave.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    waiting: BTreeMap<Key, Waiting>,
    under_way: BTreeMap<Key, Duration>,
    left: HashMap<Key, Duration>,
}

#[derive(Debug)]
struct Waiting {
    object: Option<Object>,
    due: Duration,
}

impl Pending {
    /// Takes a change; `now` is time since any one origin.
    pub(crate) fn changed(&mut self, changed: Changed, now: Duration) {
        let due = match self.left.get(&changed.key) {
            Some(left) if !changed.cycle.is_zero() => now.max(*left + changed.cycle),
            _ => now,
        };
        if !changed.cycle.is_zero() {
            // Marks the key as one whose leaving is to be remembered.
            self.left.entry(Key::clone(&changed.key)).or_insert(Duration::ZERO);
        }
        let due = self
            .waiting
            .get(&changed.key)
            .map_or(due, |waiting| waiting.due.min(due));
        let object = changed.object;
        self.waiting.insert(changed.key, Waiting { object, due });
    }

    /// The mirror dealt with this key.
    pub(crate) fn settled(&mut self, key: &str) {
        self.under_way.remove(key);
    }

    /// What may leave now. Each is under way until [`Self::settled`], or never was ([`Self::settled`] at once).
    pub(crate) fn take(&mut self, now: Duration) -> Vec<(Key, Option<Object>)> {
        let under_way = &self.under_way;
        let ready: Vec<Key> = self
            .waiting
            .iter()
            .filter(|(key, waiting)| waiting.due <= now && !under_way.contains_key(*key))
            .map(|(key, _)| Key::clone(key))
            .collect();
        ready
            .into_iter()
            .filter_map(|key| {
                let waiting = self.waiting.remove(&key)?;
                self.under_way.insert(Key::clone(&key), now);
                if let Some(left) = self.left.get_mut(&key) {
                    *left = now;
                }
                if waiting.object.is_none() {
                    self.left.remove(&key);
                }
                Some((key, waiting.object))
            })
            .collect()
    }

    /// When [`Self::take`] has something again by time alone.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.waiting
            .iter()
            .filter(|(key, _)| !self.under_way.contains_key(*key))
            .map(|(_, waiting)| waiting.due)
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &'static str) -> Object {
        Object {
            key: objects::device_key(STATUSES, "default", "d0"),
            revision: 1,
            json: Bytes::from_static(text.as_bytes()),
        }
    }

    fn change(text: &'static str, cycle_ms: u64) -> Changed {
        Changed {
            key: "k".into(),
            object: Some(object(text)),
            cycle: Duration::from_millis(cycle_ms),
        }
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn taken(pending: &mut Pending, ms: u64) -> Vec<Bytes> {
        let all = pending.take(at(ms));
        all.into_iter().filter_map(|(_, object)| Some(object?.json)).collect()
    }

    #[test]
    fn leaves_at_once_when_idle_and_coalesced_while_under_way() {
        let mut pending = Pending::default();
        pending.changed(change("1", 0), at(1000));
        assert_eq!(taken(&mut pending, 1000), ["1"]);
        for text in ["2", "3", "4"] {
            pending.changed(change(text, 0), at(1001));
        }
        assert_eq!(taken(&mut pending, 1001), Vec::<Bytes>::new());
        assert_eq!(pending.due(), None);
        pending.settled("k");
        assert_eq!(pending.due(), Some(at(1001)));
        assert_eq!(taken(&mut pending, 1002), ["4"]);
        pending.settled("k");
        assert_eq!(taken(&mut pending, 1003), Vec::<Bytes>::new());
    }

    #[test]
    fn a_report_cycle_holds_back_all_but_the_first() {
        let mut pending = Pending::default();
        pending.changed(change("1", 500), at(1000));
        assert_eq!(taken(&mut pending, 1000), ["1"]);
        pending.settled("k");
        pending.changed(change("2", 500), at(1100));
        pending.changed(change("3", 500), at(1400));
        assert_eq!(pending.due(), Some(at(1500)));
        assert_eq!(taken(&mut pending, 1499), Vec::<Bytes>::new());
        assert_eq!(taken(&mut pending, 1500), ["3"]);
    }

    #[test]
    fn the_shortest_cycle_of_a_device_counts() {
        let mut cycles = Cycles {
            default: Duration::ZERO,
            devices: HashMap::new(),
        };
        let key = objects::device_key(DEVICES, "default", "d0");
        let device = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        cycles.learn(
            &key,
            &device(r#"{"spec":{"properties":[{"name":"a","reportCycle":500},{"name":"b","reportCycle":200}]}}"#),
        );
        assert_eq!(cycles.of(&key), at(200));
        cycles.learn(
            &key,
            &device(r#"{"spec":{"properties":[{"name":"a","reportCycle":500},{"name":"b"}]}}"#),
        );
        assert_eq!(cycles.of(&key), Duration::ZERO);
        cycles.learn(&key, &device(r#"{"spec":{}}"#));
        assert!(cycles.devices.is_empty());
    }
}
