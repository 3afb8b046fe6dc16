//! The devices the task knows, and the models their values are held to. Memory only; `task` keeps it equal to the store.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use device_models::Rules;
use device_models::kinds::DeviceModel;
use device_models::twin::{DeviceChange, Twin};
use metastore::store::{ListOptions, ObjectKey, Store, StoreError};
use serde_json::{Map, Value};

use crate::objects::{self, DEVICES, MODELS, STATUSES};

/// `namespace/name`.
pub(super) type Id = Arc<str>;

/// One device.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) twin: Twin,
    /// Of the Device it was last made from: what the watches say of it up to here is known.
    pub(super) revision: u64,
    /// Key of its DeviceStatus.
    pub(super) status_key: ObjectKey,
    /// `metadata.uid` and `creationTimestamp` of its DeviceStatus.
    identity: (Value, Value),
    /// `namespace/name` of its model; empty for none.
    model: Arc<str>,
    /// A client names this device by its name alone, as old ones do: deltas go to that topic too.
    pub(super) plain: bool,
    /// Properties whose reports are kept as history for the hub, sorted.
    history: Vec<Box<str>>,
}

impl Entry {
    /// The DeviceStatus to store.
    pub(super) fn status(&self) -> Value {
        let mut status = self.twin.status();
        if let Some(metadata) = status.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("uid".to_owned(), self.identity.0.clone());
            metadata.insert("creationTimestamp".to_owned(), self.identity.1.clone());
        }
        status
    }

    /// Whether reports of a property go to the hub as history.
    pub(super) fn keeps_history(&self, property: &str) -> bool {
        self.history.binary_search_by(|kept| (**kept).cmp(property)).is_ok()
    }

    /// Whether any property's reports do.
    pub(super) fn any_history(&self) -> bool {
        !self.history.is_empty()
    }
}

/// All devices and models.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) devices: HashMap<Id, Entry>,
    rules: HashMap<Arc<str>, Arc<Rules>>,
    /// Devices by model, so that a changed model finds its devices.
    by_model: BTreeMap<Arc<str>, BTreeSet<Id>>,
}

/// What [`Table::load`] found that the store must be told.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    /// Revisions to watch Devices and DeviceModels from.
    pub(super) devices_at: u64,
    pub(super) models_at: u64,
    /// Devices whose DeviceStatus is not what it should be.
    pub(super) stale: BTreeSet<Id>,
    /// DeviceStatuses without a Device.
    pub(super) orphans: Vec<ObjectKey>,
}

impl Table {
    /// Reads everything from the store. Takes note of every stamp in `observe`.
    pub(super) fn load(store: &Store, mut observe: impl FnMut(&Value)) -> Result<(Self, Loaded), StoreError> {
        let mut table = Self::default();
        let mut loaded = Loaded::default();
        let models = store.list(&objects::device_scope(MODELS), ListOptions::default())?;
        loaded.models_at = models.revision;
        for model in &models.items {
            table.set_model(&model.key, model.value().ok().as_ref());
        }
        let statuses = store.list(&objects::device_scope(STATUSES), ListOptions::default())?;
        let mut by_id: HashMap<Id, Value> = HashMap::with_capacity(statuses.items.len());
        for status in &statuses.items {
            if let Ok(value) = status.value() {
                by_id.insert(id_of(&status.key), value);
            }
        }
        let devices = store.list(&objects::device_scope(DEVICES), ListOptions::default())?;
        loaded.devices_at = devices.revision;
        for device in &devices.items {
            let Ok(value) = device.value() else { continue };
            observe(&value);
            let id = id_of(&device.key);
            let status = by_id.remove(&id);
            table.insert(&device.key, device.revision, &value, status.as_ref());
            let entry = &table.devices[&id];
            if status
                .as_ref()
                .is_none_or(|stored| stored.get("status") != entry.twin.status().get("status"))
            {
                loaded.stale.insert(id);
            }
        }
        loaded.orphans = by_id
            .into_keys()
            .filter_map(|id| {
                id.split_once('/')
                    .map(|(ns, name)| objects::device_key(STATUSES, ns, name))
            })
            .collect();
        Ok((table, loaded))
    }

    /// Begins a device, or begins it anew from what is stored.
    pub(super) fn insert(&mut self, key: &ObjectKey, revision: u64, device: &Value, status: Option<&Value>) {
        let id = id_of(key);
        self.unlink(&id);
        let model = model_of(key, device);
        let kept = |field: &str| status.and_then(|status| status["metadata"].get(field)).cloned();
        let identity = (
            kept("uid").unwrap_or_else(|| uuid::Uuid::new_v4().to_string().into()),
            kept("creationTimestamp").unwrap_or_else(|| objects::rfc3339(daemon::clock::wall_ms()).into()),
        );
        let entry = Entry {
            twin: Twin::new(device, self.rules.get(&model).cloned(), status),
            revision,
            status_key: objects::device_key(STATUSES, &key.namespace, &key.name),
            identity,
            model: Arc::clone(&model),
            plain: self.devices.get(&id).is_some_and(|there| there.plain),
            history: history_of(device),
        };
        self.by_model.entry(model).or_default().insert(Arc::clone(&id));
        self.devices.insert(id, entry);
    }

    /// A new version of a known Device; `None` when it is not known.
    pub(super) fn update(&mut self, key: &ObjectKey, revision: u64, device: &Value) -> Option<DeviceChange> {
        let id = id_of(key);
        let model = model_of(key, device);
        let rules = self.rules.get(&model).cloned();
        let entry = self.devices.get_mut(&id)?;
        let change = entry.twin.set_device(device, rules);
        entry.revision = revision;
        entry.history = history_of(device);
        if entry.model != model {
            let old = std::mem::replace(&mut entry.model, Arc::clone(&model));
            remove_from(&mut self.by_model, &old, &id);
            self.by_model.entry(model).or_default().insert(id);
        }
        Some(change)
    }

    /// A Device is gone; the key of its DeviceStatus.
    pub(super) fn remove(&mut self, id: &Id) -> Option<ObjectKey> {
        self.unlink(id);
        self.devices.remove(id).map(|entry| entry.status_key)
    }

    /// A DeviceModel as it is now (`None`: gone); the devices to be held to it.
    pub(super) fn set_model(&mut self, key: &ObjectKey, model: Option<&Value>) -> Vec<Id> {
        let id = id_of(key);
        match model.map(<DeviceModel as serde::Deserialize>::deserialize) {
            Some(Ok(model)) => {
                self.rules.insert(Arc::clone(&id), Arc::new(Rules::compile(&model)));
            }
            Some(Err(e)) => {
                tracing::warn!(model = %id, error = %e, "A DeviceModel cannot be read; the last readable one stays.");
                return Vec::new();
            }
            None => {
                self.rules.remove(&id);
            }
        }
        let devices = self.by_model.get(&id);
        devices.map(|ids| ids.iter().cloned().collect()).unwrap_or_default()
    }

    fn unlink(&mut self, id: &Id) {
        if let Some(entry) = self.devices.get(id) {
            remove_from(&mut self.by_model, &entry.model, id);
        }
    }
}

fn remove_from(by_model: &mut BTreeMap<Arc<str>, BTreeSet<Id>>, model: &Arc<str>, id: &Id) {
    if let Some(ids) = by_model.get_mut(model) {
        ids.remove(id);
        if ids.is_empty() {
            by_model.remove(model);
        }
    }
}

/// `namespace/name` of a key.
pub(super) fn id_of(key: &ObjectKey) -> Id {
    format!("{}/{}", key.namespace, key.name).into()
}

fn model_of(key: &ObjectKey, device: &Value) -> Arc<str> {
    match device["spec"]["deviceModelRef"]["name"].as_str() {
        Some(name) if !name.is_empty() => format!("{}/{name}", key.namespace).into(),
        _ => "".into(),
    }
}

fn history_of(device: &Value) -> Vec<Box<str>> {
    let properties = device["spec"]["properties"].as_array();
    let mut names: Vec<Box<str>> = properties
        .into_iter()
        .flatten()
        .filter(|property| property["reportToCloud"] == true)
        .filter_map(|property| Some(property["name"].as_str()?.into()))
        .collect();
    names.sort();
    names
}

/// The record of a report in the journal.
pub(super) fn history_record<'a>(
    entry: &Entry,
    timestamp: u64,
    values: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<Vec<u8>> {
    let kept: Map<String, Value> = values
        .filter(|(property, _)| entry.keeps_history(property))
        .map(|(property, value)| (property.to_owned(), value.into()))
        .collect();
    if kept.is_empty() {
        return None;
    }
    let record = serde_json::json!({
        "device": format!("{}/{}", entry.twin.namespace(), entry.twin.name()),
        "timestamp": timestamp,
        "values": kept,
    });
    serde_json::to_vec(&record).ok()
}
