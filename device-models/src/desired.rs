//! Desired registers inside Device objects: where they live, and how two copies of a Device merge.
//!
//! A register lives in `spec.properties[].desired`: the value in `value`; stamp, writer and what it built on in `metadata`
//! (texts, as KubeEdge's definition demands). A desired value that was taken away leaves its register in the annotation
//! [`CLEARED`], or an older value from the other side would bring it back. The policy of each property stands in the
//! annotation [`MERGE_POLICY`].
//!
//! Called at the hub with the twins body of a gateway ([`edge_registers`]) and at the gateway with the hub's Device; both
//! end with the same registers.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::conflict::Conflict;
use crate::hlc::Stamp;
use crate::register::{Policy, Register, merge};
use crate::validate::{FieldError, FieldErrorKind};
use crate::values::{MAX_PROPERTIES, Rules, check_length, check_property_name};

/// Annotation of a Device: the merge policy of its properties, as `setpoint=max,mode=cloud,*=latest`. What is not named
/// merges by `latest`.
pub const MERGE_POLICY: &str = "kurator.dev/merge-policy";
/// Annotation of a Device: registers of desired values that were taken away, as JSON. Kept by admission.
pub const CLEARED: &str = "kurator.dev/cleared";

/// Keys of `desired.metadata` that belong to the register; all others are the writer's.
const STAMP: &str = "stamp";
const BY: &str = "by";
const SAW: &str = "saw";
const TIMESTAMP: &str = "timestamp";

/// What the store of each side keeps for itself in `metadata`; it does not travel.
const LOCAL_METADATA: [&str; 5] = [
    "creationTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "uid",
];

/// Merge policies by property.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    by_name: BTreeMap<String, Policy>,
    other: Policy,
}

impl Policies {
    /// The policies a Device names. A text that cannot be read counts as none: admission does not let one in.
    pub fn of(device: &Value) -> Self {
        let text = annotation(device, MERGE_POLICY);
        text.and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// The policy of a property.
    pub fn get(&self, property: &str) -> Policy {
        self.by_name.get(property).copied().unwrap_or(self.other)
    }
}

impl FromStr for Policies {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut policies = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, policy) = part
                .rsplit_once('=')
                .ok_or_else(|| format!("{part:?} is not of the form property=policy"))?;
            let policy = policy.trim().parse().map_err(|error| format!("{part:?}: {error}"))?;
            match name.trim() {
                "*" => policies.other = policy,
                name => {
                    policies.by_name.insert(name.to_owned(), policy);
                }
            }
        }
        Ok(policies)
    }
}

/// What a merge did to the local Device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// The local object is different now and must be stored.
    pub object: bool,
    /// Properties whose desired register is different now.
    pub desired: Vec<String>,
    /// Properties where the local register counts over the incoming one, so the other side has yet to hear of it.
    pub kept: Vec<String>,
    /// Writes without knowledge of each other, for the conflict log.
    pub conflicts: Vec<Conflict>,
}

/// All desired registers of a Device by property, also those of values taken away.
pub fn desired_registers(device: &Value) -> BTreeMap<String, Register> {
    let mut registers = cleared_registers(device);
    for entry in properties(device) {
        let (Some(name), Some(register)) = (entry.get("name").and_then(Value::as_str), entry_register(entry)) else {
            continue;
        };
        // A stale tombstone beside a value: the later counts. Several entries of one name: the first counts.
        match registers.get(name) {
            Some(there) if there.compare(&register, Policy::Latest).is_ge() => {}
            _ => {
                registers.insert(name.to_owned(), register);
            }
        }
    }
    registers
}

/// The register in one entry of `spec.properties`.
fn entry_register(entry: &Value) -> Option<Register> {
    let desired = entry.get("desired")?;
    let value = desired.get("value")?.as_str()?.to_owned();
    let metadata = |key: &str| {
        desired
            .get("metadata")
            .and_then(|metadata| metadata.get(key))
            .and_then(Value::as_str)
    };
    Some(Register {
        value: Some(value),
        stamp: metadata(STAMP)
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(Stamp::unstamped),
        by: metadata(BY).unwrap_or_default().to_owned(),
        saw: metadata(SAW).and_then(|text| text.parse().ok()),
    })
}

/// The registers of values taken away.
pub(crate) fn cleared_registers(device: &Value) -> BTreeMap<String, Register> {
    let text = annotation(device, CLEARED);
    let mut registers: BTreeMap<String, Register> = text
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    registers.retain(|_, register| register.value.is_none());
    registers
}

/// Writes the registers of values taken away, or removes the annotation when there are none.
pub(crate) fn set_cleared(device: &mut Value, cleared: &BTreeMap<String, Register>) {
    if cleared.is_empty() {
        remove_annotation(device, CLEARED);
        return;
    }
    let text = serde_json::to_string(cleared).expect("registers are maps of texts, which always serialize");
    set_annotation(device, CLEARED, text);
}

pub(crate) fn remove_annotation(device: &mut Value, key: &str) {
    let annotations = device
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut);
    let Some(annotations) = annotations else { return };
    annotations.remove(key);
    let empty = annotations.is_empty();
    if let Some(metadata) = device
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .filter(|_| empty)
    {
        metadata.remove("annotations");
    }
}

pub(crate) fn set_annotation(device: &mut Value, key: &str, text: String) {
    let metadata = object(object(device).entry("metadata").or_insert(Value::Null));
    object(metadata.entry("annotations").or_insert(Value::Null)).insert(key.to_owned(), Value::String(text));
}

/// Writes one register into a Device, whatever is there. Metadata keys of the writer stay.
pub(crate) fn put_register(device: &mut Value, name: &str, register: &Register) {
    let mut cleared = cleared_registers(device);
    let had = match &register.value {
        Some(_) => cleared.remove(name).is_some(),
        None => cleared.insert(name.to_owned(), register.clone()).as_ref() != Some(register),
    };
    if had {
        set_cleared(device, &cleared);
    }
    let spec = object(object(device).entry("spec").or_insert(Value::Null));
    let list = array(spec.entry("properties").or_insert(Value::Null));
    let at = list
        .iter()
        .position(|entry| entry.get("name").and_then(Value::as_str) == Some(name));
    let Some(value) = &register.value else {
        if let Some(entry) = at.and_then(|at| list.get_mut(at)).and_then(Value::as_object_mut) {
            entry.remove("desired");
        }
        return;
    };
    let at = at.unwrap_or_else(|| {
        list.push(Value::Object(Map::from_iter([("name".to_owned(), Value::from(name))])));
        list.len() - 1
    });
    let desired = object(object(&mut list[at]).entry("desired").or_insert(Value::Null));
    desired.insert("value".to_owned(), Value::from(value.as_str()));
    let metadata = object(desired.entry("metadata").or_insert(Value::Null));
    metadata.insert(STAMP.to_owned(), Value::from(register.stamp.to_string()));
    metadata.insert(TIMESTAMP.to_owned(), Value::from(register.stamp.ms().to_string()));
    for (key, text) in [
        (BY, Some(register.by.clone()).filter(|by| !by.is_empty())),
        (SAW, register.saw.as_ref().map(Stamp::to_string)),
    ] {
        match text {
            Some(text) => metadata.insert(key.to_owned(), Value::from(text)),
            None => metadata.remove(key),
        };
    }
}

/// Merges what the other side has into the local Device.
///
/// `incoming` is either a Device as the hub has it (then the result is that Device with the local registers that count
/// over its own, and the local store's metadata), or the twins body of a gateway, `{"properties": {name: register}}`
/// (then only registers change). Registers in it that cannot be read are passed over: see [`check_twins`].
pub fn merge_device_desired(local: &mut Value, incoming: &Value) -> Changed {
    match incoming.get("properties") {
        Some(twins) if incoming.get("spec").is_none() => merge_twins(local, twins),
        _ => merge_device(local, incoming),
    }
}

fn merge_twins(local: &mut Value, twins: &Value) -> Changed {
    let mut changed = Changed::default();
    let policies = Policies::of(local);
    let held = desired_registers(local);
    for (name, body) in twins.as_object().into_iter().flatten() {
        let Ok(theirs) = Register::deserialize(body) else {
            continue;
        };
        if let Some(ours) = held.get(name) {
            let policy = policies.get(name);
            let kept = merge(policy, ours, &theirs);
            note_conflict(&mut changed, name, policy, [ours, &theirs], kept);
            if kept == ours {
                if *ours != theirs {
                    changed.kept.push(name.clone());
                }
                continue;
            }
        }
        put_register(local, name, &theirs);
        changed.object = true;
        changed.desired.push(name.clone());
    }
    changed
}

fn merge_device(local: &mut Value, incoming: &Value) -> Changed {
    let mut changed = Changed::default();
    let policies = Policies::of(incoming);
    let (ours, theirs) = (desired_registers(local), desired_registers(incoming));
    let mut result = incoming.clone();
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    for name in names {
        let kept = match (ours.get(name), theirs.get(name)) {
            (Some(ours), Some(theirs)) => {
                let policy = policies.get(name);
                let kept = merge(policy, ours, theirs);
                note_conflict(&mut changed, name, policy, [ours, theirs], kept);
                if kept != theirs {
                    put_register(&mut result, name, kept);
                    changed.kept.push(name.clone());
                }
                Some(kept)
            }
            // The hub may not have heard of it yet. What the hub itself wrote and has no more, it has dropped.
            (Some(ours), None) if !ours.stamp.is_cloud() => {
                put_register(&mut result, name, ours);
                changed.kept.push(name.clone());
                Some(ours)
            }
            (_, theirs) => theirs,
        };
        if kept != ours.get(name) {
            changed.desired.push(name.clone());
        }
    }
    if let (Some(from), Some(to)) = (
        local.get("metadata"),
        result.get_mut("metadata").and_then(Value::as_object_mut),
    ) {
        for key in LOCAL_METADATA {
            match from.get(key) {
                Some(value) => to.insert(key.to_owned(), value.clone()),
                None => to.remove(key),
            };
        }
    }
    changed.object = *local != result;
    *local = result;
    changed
}

fn note_conflict(changed: &mut Changed, name: &str, policy: Policy, [a, b]: [&Register; 2], kept: &Register) {
    let lost = if kept == a { b } else { a };
    if kept.conflicts_with(lost) {
        changed.conflicts.push(Conflict {
            property: name.to_owned(),
            policy,
            kept: kept.clone(),
            lost: lost.clone(),
        });
    }
}

/// The twins body of a gateway for one Device: the registers that were last written at gateway `node`. `None` when there
/// are none, so that nothing is observed.
pub fn edge_registers(device: &Value, node: &str) -> Option<Value> {
    let mut registers = desired_registers(device);
    registers.retain(|_, register| register.stamp.node() == node);
    (!registers.is_empty()).then(|| twins_body(&registers))
}

/// A twins body of registers.
pub(crate) fn twins_body(registers: &BTreeMap<String, Register>) -> Value {
    let registers = serde_json::to_value(registers).expect("registers are maps of texts, which always serialize");
    Value::Object(Map::from_iter([("properties".to_owned(), registers)]))
}

/// What is wrong with a twins body that gateway `node` sent: its form, stamps of others, stamps beyond all time, values
/// that the model does not allow. The hub refuses the body if anything is.
pub fn check_twins(body: &Value, node: &str, rules: Option<&Rules>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(twins) = body.get("properties").and_then(Value::as_object) else {
        return vec![FieldError::new(
            FieldErrorKind::Required,
            "properties",
            "",
            "must be a map of registers by property",
        )];
    };
    if twins.len() > MAX_PROPERTIES {
        let message = format!("has {} properties, at most {MAX_PROPERTIES} are allowed", twins.len());
        return vec![FieldError::new(FieldErrorKind::Invalid, "properties", "", message)];
    }
    for (name, register) in twins {
        let path = || format!("properties[{name}]");
        let register = match Register::deserialize(register) {
            Ok(register) => register,
            Err(error) => {
                errors.push(FieldError::new(FieldErrorKind::Invalid, path(), "", error.to_string()));
                continue;
            }
        };
        if register.stamp.node() != node {
            let message = format!("must be a stamp of gateway {node}");
            errors.push(FieldError::new(
                FieldErrorKind::Forbidden,
                path() + ".stamp",
                register.stamp.to_string(),
                message,
            ));
        }
        for stamp in [Some(&register.stamp), register.saw.as_ref()].into_iter().flatten() {
            if let Err(error) = stamp.clone().plausible() {
                let message = error.to_string();
                errors.push(FieldError::new(
                    FieldErrorKind::Invalid,
                    path() + ".stamp",
                    stamp.to_string(),
                    message,
                ));
            }
        }
        let value = register.value.as_deref();
        let checked = check_property_name(name).and_then(|()| match (rules, value) {
            (Some(rules), Some(value)) => rules.get(name)?.check_desired(value),
            (Some(rules), None) => rules.get(name).map(drop),
            (None, Some(value)) => check_length(name, value),
            (None, None) => Ok(()),
        });
        if let Err(error) = checked {
            let value = Cow::from(value.unwrap_or_default());
            errors.push(FieldError::new(
                FieldErrorKind::Invalid,
                path() + ".value",
                value,
                error.to_string(),
            ));
        }
    }
    errors
}

pub(crate) fn annotation<'a>(device: &'a Value, key: &str) -> Option<&'a str> {
    device.get("metadata")?.get("annotations")?.get(key)?.as_str()
}

/// The entries of `spec.properties`.
pub(crate) fn properties(device: &Value) -> impl Iterator<Item = &Value> {
    device
        .get("spec")
        .and_then(|spec| spec.get("properties"))
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// The value as a map; whatever else it was becomes an empty one.
fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("made an object above")
}

/// The value as a list; whatever else it was becomes an empty one.
fn array(value: &mut Value) -> &mut Vec<Value> {
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().expect("made an array above")
}

#[cfg(test)]
mod tests;
