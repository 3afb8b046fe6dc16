//! The gateway's set for the hub: what devices reported (DeviceStatus), what the gateway is (its Node, and the report of it as a cluster),
//! the desired registers that were written here (`twins` entries), and what became of the hub's Works. All derived from the store, nothing
//! kept beside it.
//!
//! At the start of a session the whole set is read once; then watches say what changed. A changed key waits in [`Pending`] until it may
//! leave: at once when nothing of that key is under way, else when that was acknowledged; and each reported value not sooner than its
//! `reportCycle` after the last time (`cycles`). What changes meanwhile replaces what waits, so a device that reports a thousand times
//! a second costs the link no more than the hub can write.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use device_models::edge_registers;
use metastore::store::{EventKind, Gone, ListOptions, Object, ObjectKey, Scope, Store, StoreError, Watch, WatchError};
use proto::{Key, SourceSet};

use super::cycles::{Cycles, Rates, Sent};
use crate::objects::{self, DEVICES, STATUSES, WORKS};
use crate::works;

/// Objects read at a time: a gateway has little memory.
const PAGE: usize = 64;

/// Reads the set and follows its changes.
#[derive(Debug)]
pub(crate) struct Observed {
    node: String,
    own_node: ObjectKey,
    statuses: Watch,
    devices: Watch,
    nodes: Watch,
    works: Watch,
    cluster: works::Report,
    cycles: Cycles,
}

/// One entry of the set as it is now.
#[derive(Debug)]
pub(crate) struct Changed {
    /// Its replica key.
    pub(crate) key: Key,
    /// What it is now; `None` when it is gone.
    pub(crate) object: Option<Object>,
    /// How often what is in it may leave.
    pub(super) rates: Rates,
    /// Another key whose rates changed with this one.
    pub(super) paced: Option<(Key, Rates)>,
}

impl Observed {
    /// The whole set as it is now, and what follows its changes from there on. Blocks for as long as reading takes.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn start(
        store: &Store,
        node: &str,
        default_cycle: Duration,
        mut cluster: works::Report,
    ) -> Result<(SourceSet, Self), StoreError> {
        let own_node = objects::node_key(node);
        let mut set = SourceSet::new();
        let mut cycles = Cycles::new(default_cycle);
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
        let works = scan(store, objects::work_scope(), |object| {
            if let Some(report) = works::report(object) {
                set.put(object.key.to_string(), report);
            }
        })?;
        if let Some(report) = &*cluster.borrow_and_update() {
            set.put(works::cluster_key(node).to_string(), report.clone());
        }
        let following = Self {
            node: node.to_owned(),
            own_node,
            statuses,
            devices,
            nodes,
            works,
            cluster,
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
                event = self.works.next() => event?,
                Ok(()) = self.cluster.changed() => return Ok(self.cluster_changed()),
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
            let event = event.or_else(|| self.works.try_next());
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
                let others = match there.as_ref().and_then(|device| device.value().ok()) {
                    Some(device) => self.cycles.learn(&object.key, &device),
                    None => self.cycles.forget(&object.key),
                };
                let status = others.then(|| objects::device_key(STATUSES, &object.key.namespace, &object.key.name));
                Some(Changed {
                    key: objects::twins_key(&object.key).into(),
                    object: there,
                    rates: Rates::default(),
                    paced: status.map(|status| (status.to_string().into(), self.cycles.of(&status))),
                })
            }
            STATUSES => Some(Changed {
                key: object.key.to_string().into(),
                object: there,
                rates: self.cycles.of(&object.key),
                paced: None,
            }),
            WORKS => Some(Changed::free(object.key.to_string(), there)),
            _ if object.key == self.own_node => Some(Changed::free(object.key.to_string(), there)),
            _ => None,
        }
    }

    fn cluster_changed(&mut self) -> Changed {
        let key = works::cluster_key(&self.node);
        let report = self.cluster.borrow_and_update().clone();
        let object = report.map(|json| Object {
            key: key.clone(),
            revision: 0,
            json,
        });
        Changed::free(key.to_string(), object)
    }

    /// The body that travels for a changed entry; `None` when the entry is not in the set.
    pub(crate) fn body(&self, leaving: Leaving) -> Option<Bytes> {
        match leaving {
            Leaving::Gone => None,
            Leaving::Body(body) => Some(body),
            Leaving::Object(object) if &*object.key.resource == DEVICES => {
                let device = object.value().ok()?;
                edge_registers(&device, &self.node).map(|twins| objects::canonical(&twins))
            }
            Leaving::Object(object) if &*object.key.resource == WORKS => works::report(&object),
            Leaving::Object(object) => Some(body(&object)),
        }
    }
}

impl Changed {
    /// What may leave as often as it changes.
    fn free(key: String, object: Option<Object>) -> Self {
        Self {
            key: key.into(),
            object,
            rates: Rates::default(),
            paced: None,
        }
    }
}

fn body(object: &Object) -> Bytes {
    object.value().map(objects::replica_body).unwrap_or_default()
}

fn scan(store: &Store, scope: Scope, mut each: impl FnMut(&Object)) -> Result<Watch, StoreError> {
    let (mut begun, mut after) = (None, None);
    loop {
        let options = ListOptions {
            limit: Some(PAGE),
            after,
            at: None,
        };
        let listed = store.list(&scope, options)?;
        // What changes between two pages is seen once more.
        let from = *begun.get_or_insert(listed.revision);
        for object in &listed.items {
            each(object);
        }
        after = listed.items.last().map(|object| object.key.clone());
        if !listed.more {
            return store.watch(scope, from).map_err(|gone: Gone| gone.into());
        }
    }
}

/// Keys that changed and wait to leave.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    waiting: BTreeMap<Key, Waiting>,
    under_way: BTreeSet<Key>,
    /// What left last, of keys that are held back at times.
    sent: HashMap<Key, Sent>,
}

#[derive(Debug)]
struct Waiting {
    object: Option<Object>,
    rates: Rates,
    due: Duration,
}

/// What leaves under a key.
#[derive(Debug)]
pub(crate) enum Leaving {
    /// The entry's end.
    Gone,
    /// All of an object.
    Object(Object),
    /// A body that is made already.
    Body(Bytes),
}

impl Pending {
    /// Takes a change; `now` is time since any one origin.
    pub(crate) fn changed(&mut self, changed: Changed, now: Duration) {
        if let Some((paced, rates)) = changed.paced
            && let Some(waiting) = self.waiting.get_mut(&paced)
        {
            (waiting.rates, waiting.due) = (rates, now);
        }
        let Changed { key, object, rates, .. } = changed;
        let due = now;
        self.waiting.insert(key, Waiting { object, rates, due });
    }

    /// The mirror dealt with this key.
    pub(crate) fn settled(&mut self, key: &str) {
        self.under_way.remove(key);
    }

    /// What may leave now. Each is under way until [`Self::settled`], or never was ([`Self::settled`] at once).
    pub(crate) fn take(&mut self, now: Duration) -> Vec<(Key, Leaving)> {
        let under_way = &self.under_way;
        let ready: Vec<Key> = self
            .waiting
            .iter()
            .filter(|(key, waiting)| waiting.due <= now && !under_way.contains(*key))
            .map(|(key, _)| Key::clone(key))
            .collect();
        ready
            .into_iter()
            .filter_map(|key| {
                let leaving = self.leaving(&key, now)?;
                self.under_way.insert(Key::clone(&key));
                Some((key, leaving))
            })
            .collect()
    }

    fn leaving(&mut self, key: &Key, now: Duration) -> Option<Leaving> {
        let mut waiting = self.waiting.remove(key)?;
        let Some(object) = &waiting.object else {
            self.sent.remove(key);
            return Some(Leaving::Gone);
        };
        let held_back = (!waiting.rates.is_free()).then(|| object.value().ok()).flatten();
        let Some(status) = held_back else {
            self.sent.remove(key);
            return waiting.object.map(Leaving::Object);
        };
        let sent = self.sent.entry(Key::clone(key)).or_default();
        let due = sent.take(status, &waiting.rates, now);
        if let Some(next) = due.next {
            waiting.due = next;
            self.waiting.insert(Key::clone(key), waiting);
        }
        due.body.map(Leaving::Body)
    }

    /// When [`Self::take`] has something again by time alone.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.waiting
            .iter()
            .filter(|(key, _)| !self.under_way.contains(*key))
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

    fn change(text: &'static str) -> Changed {
        Changed {
            key: "k".into(),
            object: Some(object(text)),
            rates: Rates::default(),
            paced: None,
        }
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn taken(pending: &mut Pending, ms: u64) -> Vec<Bytes> {
        let all = pending.take(at(ms)).into_iter();
        all.filter_map(|(_, leaving)| match leaving {
            Leaving::Object(object) => Some(object.json),
            Leaving::Body(_) | Leaving::Gone => None,
        })
        .collect()
    }

    #[test]
    fn leaves_at_once_when_idle_and_coalesced_while_under_way() {
        let mut pending = Pending::default();
        pending.changed(change("1"), at(1000));
        assert_eq!(taken(&mut pending, 1000), ["1"]);
        for text in ["2", "3", "4"] {
            pending.changed(change(text), at(1001));
        }
        assert_eq!(taken(&mut pending, 1001), Vec::<Bytes>::new());
        assert_eq!(pending.due(), None);
        pending.settled("k");
        assert_eq!(pending.due(), Some(at(1001)));
        assert_eq!(taken(&mut pending, 1002), ["4"]);
        pending.settled("k");
        assert_eq!(taken(&mut pending, 1003), Vec::<Bytes>::new());
        assert!(
            pending.sent.is_empty(),
            "nothing is remembered of what is not held back"
        );
    }
}
