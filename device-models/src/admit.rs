//! Admission of a Device write: the one gate through which desired values pass, at the hub and at the gateway.
//!
//! Checks against the model, then puts every desired value that changed into a register stamped by the local clock, and
//! gives unchanged ones their registers back, whatever the writer sent in their place.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::conflict::carry_overruled;
use crate::desired::{Policies, cleared_registers, desired_registers, properties, put_register, set_cleared};
use crate::hlc::{Clock, Stamp};
use crate::kinds::{Device, DeviceModel};
use crate::register::{Register, merge};
use crate::validate::{FieldError, FieldErrorKind, device_errors};
use crate::values::Rules;

/// Who writes a Device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who<'a> {
    /// A person or program through an API. Stamps in the object count for nothing.
    Person(&'a str),
    /// A part of the daemon that merged registers: valid stamps in the object are kept.
    System(&'a str),
}

impl<'a> Who<'a> {
    fn name(self) -> &'a str {
        match self {
            Self::Person(name) | Self::System(name) => name,
        }
    }
}

impl<'a> From<&'a str> for Who<'a> {
    fn from(name: &'a str) -> Self {
        Self::Person(name)
    }
}

/// Checks a Device write and stamps it.
///
/// `old` is the stored object, if there is one; `model` its DeviceModel, if the store has it: without it properties go
/// unchecked, but stamped. On an error `new` is unchanged. The caller persists `clock.last()` with the object.
pub fn admit_device<'a>(
    old: Option<&Value>,
    new: &mut Value,
    model: Option<&Value>,
    clock: &mut Clock,
    wall_ms: u64,
    who: impl Into<Who<'a>>,
) -> Result<(), Vec<FieldError>> {
    let who = who.into();
    let typed = Device::deserialize(&*new).map_err(|error| vec![explain(new, &error)])?;
    // What is stored was once admitted; should it be unreadable nonetheless, nothing of it is taken for granted.
    let typed_old = old.and_then(|old| Device::deserialize(old).ok());
    let rules = match model.map(DeviceModel::deserialize).transpose() {
        Ok(model) => model.map(|model| Rules::compile(&model)),
        Err(error) => {
            let message = format!("the device's model cannot be read: {error}");
            return Err(vec![FieldError::new(
                FieldErrorKind::Invalid,
                "spec.deviceModelRef.name",
                "",
                message,
            )]);
        }
    };
    let errors = device_errors(&typed, rules.as_ref(), typed_old.as_ref());
    if !errors.is_empty() {
        return Err(errors);
    }
    // A trial run on a copy of the clock: an error must leave the clock, like the object, as it was.
    let mut trial = clock.clone();
    let plan = plan(old, new, &mut trial, wall_ms, who)?;
    *clock = trial;
    if matches!(who, Who::Person(_)) {
        carry_overruled(old, new);
    }
    set_cleared(new, &BTreeMap::new());
    for (name, register) in &plan {
        put_register(new, name, register);
    }
    Ok(())
}

/// The registers that `new` shall have.
fn plan(
    old: Option<&Value>,
    new: &Value,
    clock: &mut Clock,
    wall_ms: u64,
    who: Who<'_>,
) -> Result<BTreeMap<String, Register>, Vec<FieldError>> {
    let policies = Policies::of(new);
    let before = old.map(desired_registers).unwrap_or_default();
    let mut supplied = desired_registers(new);
    let cleared = cleared_registers(new);
    let mut plan = BTreeMap::new();
    let mut errors = Vec::new();
    for (index, entry) in properties(new).enumerate() {
        let (Some(name), Some(value)) = (
            entry.get("name").and_then(Value::as_str),
            entry
                .get("desired")
                .and_then(|desired| desired.get("value"))
                .and_then(Value::as_str),
        ) else {
            continue;
        };
        let before = before.get(name);
        let supplied = supplied
            .remove(name)
            .filter(|supplied| supplied.value.as_deref() == Some(value));
        if let Some(kept) = supplied.filter(|supplied| may_keep(supplied, before, who)) {
            clock.observe(&kept.stamp, wall_ms);
            plan.insert(name.to_owned(), kept);
            continue;
        }
        match before {
            Some(before) if before.value.as_deref() == Some(value) && before.stamp != Stamp::unstamped() => {
                plan.insert(name.to_owned(), before.clone());
            }
            _ => {
                let written = Register::write(before, Some(value.to_owned()), who.name(), clock, wall_ms);
                let path = || format!("spec.properties[{index}].desired.value");
                check_policy(before, &written, name, &policies, path, &mut errors);
                plan.insert(name.to_owned(), written);
            }
        }
    }
    for (name, before) in before {
        if plan.contains_key(&name) {
            continue;
        }
        let register = match cleared.get(&name) {
            Some(kept) if may_keep(kept, Some(&before), who) => {
                clock.observe(&kept.stamp, wall_ms);
                kept.clone()
            }
            _ if before.value.is_none() => before,
            _ => {
                let written = Register::write(Some(&before), None, who.name(), clock, wall_ms);
                let path = || format!("spec.properties[{name}].desired");
                check_policy(Some(&before), &written, &name, &policies, path, &mut errors);
                written
            }
        };
        plan.insert(name, register);
    }
    if matches!(who, Who::System(_)) {
        for (name, register) in cleared {
            plan.entry(name).or_insert(register);
        }
    }
    if errors.is_empty() { Ok(plan) } else { Err(errors) }
}

/// A stamp from a system writer is kept if it is a real and plausible one and does not claim a stored stamp for another value.
fn may_keep(supplied: &Register, before: Option<&Register>, who: Who<'_>) -> bool {
    matches!(who, Who::System(_))
        && supplied.stamp != Stamp::unstamped()
        && supplied.stamp.clone().plausible().is_ok()
        && before.is_none_or(|before| before.stamp != supplied.stamp || before == supplied)
}

/// A write that would lose against what is there is refused now rather than undone later.
fn check_policy(
    before: Option<&Register>,
    written: &Register,
    name: &str,
    policies: &Policies,
    path: impl Fn() -> String,
    errors: &mut Vec<FieldError>,
) {
    let Some(before) = before else { return };
    let policy = policies.get(name);
    if merge(policy, before, written) == before {
        let value = written.value.as_deref().unwrap_or_default();
        let message = lost_message(name, before, policy);
        errors.push(FieldError::new(FieldErrorKind::Forbidden, path(), value, message));
    }
}

/// Why a desired write does not count.
pub(crate) fn lost_message(name: &str, before: &Register, policy: crate::register::Policy) -> String {
    let side = if before.stamp.is_cloud() {
        "the cloud"
    } else {
        "the gateway"
    };
    let value = before
        .value
        .as_ref()
        .map_or_else(|| "no value".to_owned(), |value| crate::Quoted::new(value).to_string());
    format!("property {name}: {value} set by {side} stays, its merge policy is {policy}")
}

/// Finds the field that serde could not read, for the mistakes that people make.
fn explain(device: &Value, error: &serde_json::Error) -> FieldError {
    for (index, entry) in properties(device).enumerate() {
        let Some(desired) = entry.get("desired") else { continue };
        if let Some(value) = desired.get("value").filter(|value| !value.is_string()) {
            let message = format!("must be text in quotes: \"{value}\"");
            let path = format!("spec.properties[{index}].desired.value");
            return FieldError::new(FieldErrorKind::Invalid, path, value.to_string(), message);
        }
        for (key, value) in desired.get("metadata").and_then(Value::as_object).into_iter().flatten() {
            if !value.is_string() {
                let path = format!("spec.properties[{index}].desired.metadata[{key}]");
                let message = format!("must be text in quotes: \"{value}\"");
                return FieldError::new(FieldErrorKind::Invalid, path, value.to_string(), message);
            }
        }
    }
    FieldError::new(FieldErrorKind::Invalid, "spec", "", error.to_string())
}

#[cfg(test)]
mod tests;
