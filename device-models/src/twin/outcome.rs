//! What a `twin/update` changed, and its answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::wire_type::WireType;
use super::{Reported, entry};
use crate::desired::twins_body;
use crate::payload;
use crate::register::Register;

/// The two registers of a property at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) expected: Option<Arc<Register>>,
    pub(super) actual: Option<Arc<Reported>>,
    pub(super) value_type: WireType,
}

#[derive(Debug)]
pub(super) struct Change {
    pub(super) name: Arc<str>,
    pub(super) last: Snapshot,
    pub(super) current: Snapshot,
    /// The request set the desired value, and perhaps to the one that was there.
    pub(super) set_expected: bool,
    /// The request set the reported value.
    pub(super) set_actual: bool,
}

/// A reported value that a request set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportedChange<'a> {
    /// Name of the property.
    pub property: &'a str,
    /// The value.
    pub value: &'a str,
    /// Milliseconds since 1970 by the gateway's clock.
    pub timestamp: u64,
    /// It is another value than the one reported before.
    pub changed: bool,
}

/// What a `twin/update` changed. Holds its own copy of the values, so the answers can be encoded after the commit, when
/// later requests have moved the twin on.
#[derive(Debug)]
pub struct Outcome {
    pub(super) now_ms: u64,
    /// Sorted by property.
    pub(super) changes: Vec<Change>,
}

impl Outcome {
    /// The `twin/update/result` message: what the request set.
    pub fn result(&self, event_id: &str) -> Vec<u8> {
        let twin: Vec<_> = self
            .changes
            .iter()
            .map(|change| {
                let expected = change.current.expected.as_deref().filter(|_| change.set_expected);
                let actual = change.current.actual.as_deref().filter(|_| change.set_actual);
                (&*change.name, entry(expected, actual, change.current.value_type))
            })
            .collect();
        payload::twin_update_result(event_id, self.now_ms, &twin)
    }

    /// The `twin/update/document` message: before and after.
    pub fn document(&self, event_id: &str) -> Vec<u8> {
        let twin: Vec<_> = self
            .changes
            .iter()
            .map(|change| {
                let entries = [&change.last, &change.current].map(|snapshot| {
                    entry(
                        snapshot.expected.as_deref(),
                        snapshot.actual.as_deref(),
                        snapshot.value_type,
                    )
                });
                (&*change.name, entries)
            })
            .collect();
        payload::twin_document(event_id, self.now_ms, &twin)
    }

    /// The desired registers that changed, as a body for [`crate::merge_device_desired`] with the local Device, which must
    /// then be stored in the transaction of the DeviceStatus. `None` when only reported values changed.
    pub fn desired_body(&self) -> Option<Value> {
        let changed = |change: &&Change| change.current.expected != change.last.expected;
        let registers: BTreeMap<String, Register> = self
            .changes
            .iter()
            .filter(changed)
            .filter_map(|change| Some((change.name.to_string(), change.current.expected.as_deref()?.clone())))
            .collect();
        (!registers.is_empty()).then(|| twins_body(&registers))
    }

    /// The reported values that the request set.
    pub fn reported(&self) -> impl Iterator<Item = ReportedChange<'_>> {
        self.changes
            .iter()
            .filter(|change| change.set_actual)
            .filter_map(|change| {
                let actual = change.current.actual.as_ref()?;
                let before = change.last.actual.as_ref();
                Some(ReportedChange {
                    property: &change.name,
                    value: &actual.value,
                    timestamp: actual.timestamp,
                    changed: before.is_none_or(|before| before.value != actual.value),
                })
            })
    }
}
