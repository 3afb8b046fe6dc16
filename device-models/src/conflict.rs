//! Conflicts: writes of one desired value on both sides without knowledge of each other, of which one was dropped.
//!
//! Owns what is told of one ([`Conflict::record`]), the annotation in which the hub hands the gateway those that the gateway may never
//! see for itself ([`OVERRULED`]), and the account of what was recorded already ([`Recorded`]). Pure: `desired` finds conflicts while
//! it merges, the gateway writes the records.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::desired::{annotation, remove_annotation, set_annotation};
use crate::hlc::Stamp;
use crate::register::{Policy, Register};

/// Annotation of a Device, written by the hub only: the last conflict of each property that the cloud's value lost while the hub merged,
/// as JSON. The gateway's end of the link sends only the newest state of a Device, so the value that was dropped between two of them
/// would be seen by nobody else.
pub const OVERRULED: &str = "kurator.dev/overruled";
/// Most bytes of [`OVERRULED`]; a Kubernetes API allows an object 256 KiB of annotations in all. The oldest conflicts go first.
const MAX_OVERRULED: usize = 160 * 1024;

/// Two writes without knowledge of each other, of which one was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Name of the property.
    pub property: String,
    /// By which it was decided.
    pub policy: Policy,
    /// The write that counts.
    pub kept: Register,
    /// The write that does not.
    pub lost: Register,
}

impl Conflict {
    /// The record of it for the history: `device` is `namespace/name`, `at` the time of recording as text.
    pub fn record(&self, device: &str, at: &str) -> Value {
        let side = |register: &Register| {
            json!({
                "value": register.value,
                "stamp": register.stamp.to_string(),
                "by": register.by,
            })
        };
        json!({
            "type": "conflict",
            "device": device,
            "property": self.property,
            "policy": self.policy.to_string(),
            "kept": side(&self.kept),
            "lost": side(&self.lost),
            "at": at,
        })
    }
}

/// The conflicts that the hub noted in a Device. What cannot be read, and what is no conflict, is passed over.
pub fn overruled(device: &Value) -> Vec<Conflict> {
    let all: Vec<Conflict> = annotation(device, OVERRULED)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    all.into_iter()
        .filter(|conflict| conflict.kept.conflicts_with(&conflict.lost))
        .collect()
}

/// Notes in the hub's Device the conflicts that the cloud's value lost, each in the place of an earlier one of its property. Returns
/// the properties whose conflict has no room there.
pub fn note_overruled(device: &mut Value, conflicts: &[Conflict]) -> Vec<String> {
    let new: Vec<&Conflict> = conflicts.iter().filter(|c| c.lost.stamp.is_cloud()).collect();
    if new.is_empty() {
        return Vec::new();
    }
    let mut all = overruled(device);
    all.retain(|old| new.iter().all(|c| c.property != old.property));
    all.extend(new.iter().copied().cloned());
    all.sort_by(|a, b| a.lost.stamp.cmp(&b.lost.stamp));
    let text = |all: &[Conflict]| serde_json::to_string(all).expect("registers are texts, which always serialize");
    let mut noted = text(&all);
    while noted.len() > MAX_OVERRULED {
        all.remove(0);
        noted = text(&all);
    }
    if all.is_empty() {
        remove_annotation(device, OVERRULED);
    } else {
        set_annotation(device, OVERRULED, noted);
    }
    let there = |c: &Conflict| all.iter().any(|kept| kept.property == c.property);
    new.into_iter()
        .filter(|c| !there(c))
        .map(|c| c.property.clone())
        .collect()
}

/// What people write to a Device changes nothing about the hub's notes in it.
pub(crate) fn carry_overruled(old: Option<&Value>, new: &mut Value) {
    match old.and_then(|old| annotation(old, OVERRULED)) {
        Some(text) => set_annotation(new, OVERRULED, text.to_owned()),
        None => remove_annotation(new, OVERRULED),
    }
}

/// The latest write of each side that was recorded as lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Marks {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cloud: Option<Stamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    edge: Option<Stamp>,
}

/// Which conflicts of one Device are recorded. Each side's stamps only grow, so a write that is not later than the last one of
/// its side that was recorded as lost is an old story, however often and by whichever way it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Recorded(BTreeMap<String, Marks>);

impl Recorded {
    /// Takes note of a conflict; false when it is recorded already.
    pub fn is_news(&mut self, conflict: &Conflict) -> bool {
        let marks = self.0.entry(conflict.property.clone()).or_default();
        let lost = &conflict.lost.stamp;
        let mark = if lost.is_cloud() {
            &mut marks.cloud
        } else {
            &mut marks.edge
        };
        let news = mark.as_ref().is_none_or(|last| last < lost);
        if news {
            *mark = Some(lost.clone());
        }
        news
    }

    /// Forgets properties that are not among these.
    pub fn retain(&mut self, properties: &BTreeSet<&str>) {
        self.0.retain(|property, _| properties.contains(property.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hlc::Clock;

    fn conflict(property: &str, cloud_at: u64, value: &str) -> Conflict {
        let (mut hub, mut edge) = (Clock::hub("h", None), Clock::edge("gw", None));
        let write = |value: &str, clock: &mut Clock, at| Register::write(None, Some(value.to_owned()), "x", clock, at);
        Conflict {
            property: property.to_owned(),
            policy: Policy::Latest,
            kept: write("9", &mut edge, cloud_at + 1),
            lost: write(value, &mut hub, cloud_at),
        }
    }

    fn device() -> Value {
        json!({"metadata": {"name": "d", "annotations": {"mine": "1"}}})
    }

    #[test]
    fn what_the_hub_notes_comes_out_again_the_last_of_each_property() {
        let mut device = device();
        let (a, b, later) = (conflict("a", 10, "1"), conflict("b", 20, "2"), conflict("a", 30, "3"));
        assert!(note_overruled(&mut device, &[a, b.clone()]).is_empty());
        assert!(note_overruled(&mut device, std::slice::from_ref(&later)).is_empty());
        assert_eq!(overruled(&device), [b, later]);
        assert_eq!(device["metadata"]["annotations"]["mine"], "1");
    }

    #[test]
    fn what_the_gateway_lost_is_not_noted_it_sees_that_itself() {
        let mut device = device();
        let Conflict {
            property,
            policy,
            kept,
            lost,
        } = conflict("a", 10, "1");
        let turned = Conflict {
            property,
            policy,
            kept: lost,
            lost: kept,
        };
        assert!(note_overruled(&mut device, &[turned]).is_empty());
        assert_eq!(device["metadata"]["annotations"].get(OVERRULED), None);
    }

    #[test]
    fn notes_are_bounded_and_the_oldest_go_first() {
        let mut device = device();
        let big = "x".repeat(64 * 1024);
        for n in 0..4 {
            assert!(note_overruled(&mut device, &[conflict(&format!("p{n}"), 10 + n, &big)]).is_empty());
        }
        let there = overruled(&device);
        let names: Vec<_> = there.iter().map(|c| &*c.property).collect();
        assert_eq!(names, ["p2", "p3"]);
        let huge = "\u{1}".repeat(64 * 1024);
        assert_eq!(note_overruled(&mut device, &[conflict("huge", 99, &huge)]), ["huge"]);
        assert!(overruled(&device).is_empty());
    }

    #[test]
    fn people_neither_make_nor_remove_notes() {
        let (mut old, mut new) = (device(), device());
        note_overruled(&mut old, &[conflict("a", 10, "1")]);
        carry_overruled(Some(&old), &mut new);
        assert_eq!(overruled(&new), overruled(&old));
        carry_overruled(Some(&device()), &mut new);
        assert_eq!(new, device());
    }

    #[test]
    fn a_write_is_recorded_as_lost_once() {
        let mut recorded = Recorded::default();
        let (first, second) = (conflict("a", 10, "1"), conflict("a", 20, "2"));
        assert!(recorded.is_news(&first) && !recorded.is_news(&first));
        assert!(recorded.is_news(&second) && !recorded.is_news(&first));
        let turned = Conflict {
            kept: second.lost.clone(),
            lost: second.kept.clone(),
            ..second
        };
        assert!(recorded.is_news(&turned), "each side on its own");
        assert!(recorded.is_news(&conflict("b", 5, "1")));
        let text = serde_json::to_string(&recorded).unwrap();
        assert_eq!(serde_json::from_str::<Recorded>(&text).unwrap(), recorded);
        recorded.retain(&BTreeSet::from(["b"]));
        assert!(recorded.is_news(&first));
    }

    #[test]
    fn a_record_names_both_values() {
        let record = conflict("a", 10, "1").record("default/d", "1970-01-01T00:00:00Z");
        assert_eq!(
            record,
            json!({"type": "conflict", "device": "default/d", "property": "a", "policy": "latest",
                "kept": {"value": "9", "stamp": "00000000000b-0000-gw", "by": "x"},
                "lost": {"value": "1", "stamp": "00000000000a-0000-@h", "by": "x"},
                "at": "1970-01-01T00:00:00Z"})
        );
    }
}
