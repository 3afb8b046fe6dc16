//! Events, in both their groups, and leases.

use serde_json::{Value, json};

use super::{computed, fields, row, text};
use crate::api::kinds::{KindSpec, Storage, View};
use crate::api::status::Cause;
use crate::api::table::{Cell, Column, path};

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![event(), event_view(), lease()]
}

fn event() -> KindSpec {
    KindSpec {
        columns: vec![
            computed("Last Seen", "string", "When it was last seen.", |_| Value::Null),
            text("Type", "Normal or Warning.", ".type"),
            text("Reason", "Why it was recorded.", ".reason"),
            computed("Object", "string", "What it is about.", |e| {
                reference(e.get("involvedObject"))
            }),
            text("Message", "What happened.", ".message"),
            Column::name().wide(),
        ]
        .into_iter()
        .map(with_last_seen)
        .collect(),
        fields: fields(&[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]),
        create_on_update: true,
        ..row("", "core", "Event", &["ev"])
    }
}

/// The age column of events reads another field than that of objects.
fn with_last_seen(mut column: Column) -> Column {
    if &*column.name == "Last Seen"
        && let Some(p) = path(".metadata.creationTimestamp")
    {
        column.cell = Cell::Age(p);
    }
    column
}

/// The same events as `events.k8s.io` shows them.
fn event_view() -> KindSpec {
    let stored = event();
    KindSpec {
        storage: Storage {
            view: Some(View {
                show: show_event,
                keep: keep_event,
            }),
            ..stored.storage.clone()
        },
        columns: vec![
            Column::name(),
            text("Type", "Normal or Warning.", ".type"),
            text("Reason", "Why it was recorded.", ".reason"),
            computed("Object", "string", "What it is about.", |e| {
                reference(e.get("regarding"))
            }),
            text("Message", "What happened.", ".note"),
            Column::age(),
        ],
        fields: fields(&["reason", "type", "regarding.kind", "regarding.name", "regarding.uid"]),
        create_on_update: true,
        ..row("events.k8s.io", "events", "Event", &["ev"])
    }
}

fn lease() -> KindSpec {
    KindSpec {
        validate: Some(validate_lease),
        columns: vec![
            Column::name(),
            text("Holder", "Who holds it.", ".spec.holderIdentity"),
            Column::age(),
        ],
        create_on_update: true,
        ..row("coordination.k8s.io", "coordination", "Lease", &[])
    }
}

/// Fields of a stored event and their names in `events.k8s.io`.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("count", "deprecatedCount"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("source", "deprecatedSource"),
];

fn show_event(event: &mut Value) {
    rename(event, |(stored, shown)| (stored, shown));
}

fn keep_event(event: &mut Value) {
    rename(event, |(stored, shown)| (shown, stored));
}

fn rename(event: &mut Value, direction: fn((&'static str, &'static str)) -> (&'static str, &'static str)) {
    let Value::Object(map) = event else { return };
    for pair in EVENT_FIELDS {
        let (from, to) = direction(pair);
        if let Some(v) = map.remove(from) {
            map.insert(to.to_owned(), v);
        }
    }
}

/// An object reference as `kind/name`.
fn reference(to: Option<&Value>) -> Value {
    let word = |field: &str| {
        to.and_then(|t| t.get(field))
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    json!(format!("{}/{}", word("kind").to_lowercase(), word("name")))
}

fn validate_lease(new: &Value, _old: Option<&Value>, causes: &mut Vec<Cause>) {
    for (field, least) in [("leaseDurationSeconds", 1), ("leaseTransitions", 0)] {
        if let Some(n) = new.pointer(&format!("/spec/{field}")).and_then(Value::as_i64)
            && n < least
        {
            causes.push(Cause::invalid(
                format!("spec.{field}"),
                &n.to_string(),
                &format!("must be at least {least}"),
            ));
        }
    }
}
