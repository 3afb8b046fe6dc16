//! Events, in both their groups, and leases.

use serde_json::{Value, json};

use super::checks::{self, At, part, refuse, whole, word};
use super::{computed, fields, row, text};
use crate::api::kinds::{KindSpec, Storage, View};
use crate::api::status::Cause;
use crate::api::table::{Cell, Column, path};

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![event(), event_view(), lease()]
}

// ---- events ----

fn event() -> KindSpec {
    let fields = fields(&[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source@source.component",
        "type",
    ]);
    KindSpec {
        create_on_update: true,
        validate: Some(validate_event),
        columns: columns(),
        fields,
        ..row("", "core", "Event", &["ev"])
    }
}

/// The columns of both groups: each cell knows both names of what it shows.
fn columns() -> Vec<Column> {
    const OF: [&str; 2] = ["involvedObject", "regarding"];
    vec![
        times(
            "Last Seen",
            "When it was last seen.",
            &[
                ".series.lastObservedTime",
                ".lastTimestamp",
                ".deprecatedLastTimestamp",
                ".firstTimestamp",
                ".deprecatedFirstTimestamp",
                ".eventTime",
            ],
        ),
        text("Type", "Normal or Warning.", ".type"),
        text("Reason", "Why it was recorded.", ".reason"),
        computed("Object", "string", "What it is about.", |e| reference(either(e, OF))),
        computed("Subobject", "string", "The part of it.", |e| {
            json!(word(either(e, OF), "fieldPath"))
        })
        .wide(),
        computed("Source", "string", "Who recorded it.", source).wide(),
        computed("Message", "string", "What happened.", |e| {
            json!(either(e, ["message", "note"]).as_str().unwrap_or_default().trim())
        }),
        times(
            "First Seen",
            "When it was first seen.",
            &[".firstTimestamp", ".deprecatedFirstTimestamp", ".eventTime"],
        )
        .wide(),
        computed("Count", "string", "How often it was seen.", |e| {
            let once = |n: i64| if n == 0 { 1 } else { n };
            match part(e, "series") {
                Some(series) => json!(whole(series, "count").unwrap_or(0)),
                None => json!(once(either(e, ["count", "deprecatedCount"]).as_i64().unwrap_or(0))),
            }
        })
        .wide(),
        Column::name().wide(),
    ]
}

fn times(name: &str, about: &str, at: &[&str]) -> Column {
    let paths = at.iter().filter_map(|p| path(p)).collect();
    Column::new(name, "string", about, Cell::Ages(paths))
}

/// A field by its stored name, or by that of the other group.
fn either<'v>(event: &'v Value, names: [&str; 2]) -> &'v Value {
    names.iter().find_map(|n| event.get(n)).unwrap_or(&Value::Null)
}

/// An object reference as `kind/name`.
fn reference(to: &Value) -> Value {
    let kind = word(to, "kind").to_lowercase();
    match word(to, "name") {
        "" => json!(kind),
        name => json!(format!("{kind}/{name}")),
    }
}

fn source(event: &Value) -> Value {
    let from = either(event, ["source", "deprecatedSource"]);
    let said = |first: &'static str, names: [&str; 2]| match word(from, first) {
        "" => either(event, names).as_str().unwrap_or_default().to_owned(),
        text => text.to_owned(),
    };
    let who = said("component", ["reportingComponent", "reportingController"]);
    let at = said("host", ["reportingInstance", "reportingInstance"]);
    json!(if at.is_empty() { who } else { format!("{who}, {at}") })
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
        validate: Some(validate_view),
        create_on_update: true,
        columns: columns(),
        fields: fields(&[
            "reason",
            "regarding.apiVersion",
            "regarding.fieldPath",
            "regarding.kind",
            "regarding.name",
            "regarding.namespace",
            "regarding.resourceVersion",
            "regarding.uid",
            "reportingController",
            "type",
        ]),
        ..row("events.k8s.io", "events", "Event", &["ev"])
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
    if let Value::Object(map) = event {
        for field in ["reportingController", "reportingInstance"] {
            if map.get(field).is_some_and(|v| v == "") {
                map.remove(field);
            }
        }
    }
}

fn keep_event(event: &mut Value) {
    rename(event, |(stored, shown)| (shown, stored));
    if let Value::Object(map) = event {
        for field in ["reportingComponent", "reportingInstance"] {
            map.entry(field).or_insert_with(|| json!(""));
        }
    }
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

fn validate_event(new: &Value, _old: Option<&Value>, causes: &mut Vec<Cause>) {
    check_event(new, "reportingComponent", causes);
}

/// What every event must be; newer ones, which say their time exactly, must be more.
fn check_event(event: &Value, controller: &'static str, causes: &mut Vec<Cause>) {
    const MOST: usize = 128;
    const MOST_NOTE: usize = 1024;
    let namespace = word(&event["metadata"], "namespace");
    let about = word(&event["involvedObject"], "namespace");
    let stray = Cause::invalid(
        "involvedObject.namespace",
        &format!("{about:?}"),
        "does not match event.namespace",
    );
    if event["eventTime"].is_null() {
        let home = if about.is_empty() { "default" } else { about };
        if home != namespace {
            causes.push(stray);
        }
        return;
    }
    if about.is_empty() && !matches!(namespace, "default" | "kube-system") {
        causes.push(stray);
    }
    let who = word(event, "reportingComponent");
    if who.is_empty() {
        causes.push(Cause::required(controller, ""));
    }
    refuse(At::top(controller), who, &checks::label_key(who), causes);
    for (field, needed, most) in [
        ("reportingInstance", true, MOST),
        ("action", true, MOST),
        ("reason", true, MOST),
        ("message", false, MOST_NOTE),
    ] {
        let said = word(event, field);
        if needed && said.is_empty() {
            causes.push(Cause::required(field, ""));
        }
        if said.len() > most {
            let why = format!("can have at most {most} characters");
            causes.push(Cause::invalid(field, "\"\"", &why));
        }
    }
}

/// What comes by the newer group must be a newer event, and nothing but its series may change.
fn validate_view(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let stored = |event: &Value| {
        let mut event = event.clone();
        keep_event(&mut event);
        event
    };
    let event = stored(new);
    check_event(&event, "reportingController", causes);
    if let Some(old) = old {
        let old = stored(old);
        if old.get("series") != event.get("series") {
            check_series(&event, causes);
        }
        for field in [
            "involvedObject",
            "reason",
            "message",
            "source",
            "firstTimestamp",
            "lastTimestamp",
            "count",
            // The reference server says it twice.
            "reason",
            "type",
            "eventTime",
            "action",
            "related",
            "reportingComponent",
            "reportingInstance",
        ] {
            if old.get(field) != event.get(field) {
                let name = if field == "reportingComponent" {
                    "reportingController"
                } else {
                    field
                };
                causes.push(Cause::invalid(name, &event[field].to_string(), checks::IMMUTABLE));
            }
        }
        return;
    }
    check_series(&event, causes);
    if event["eventTime"].is_null() {
        causes.push(Cause::required("eventTime", ""));
    }
    if !matches!(word(&event, "type"), "Normal" | "Warning") {
        causes.push(Cause::invalid("type", "\"\"", "has invalid value"));
    }
    let used = |field: &str| match field {
        "count" => whole(&event, field).unwrap_or(0) != 0,
        "source" => event["source"].as_object().is_some_and(|s| !s.is_empty()),
        _ => !event[field].is_null(),
    };
    for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        if used(field) {
            causes.push(Cause::invalid(field, "\"\"", "needs to be unset"));
        }
    }
}

fn check_series(event: &Value, causes: &mut Vec<Cause>) {
    let Some(series) = part(event, "series") else { return };
    if whole(series, "count").unwrap_or(0) < 2 {
        causes.push(Cause::invalid("series.count", "\"\"", "should be at least 2"));
    }
    if series["lastObservedTime"].is_null() {
        causes.push(Cause::required("series.lastObservedTime", ""));
    }
}

// ---- leases ----

fn lease() -> KindSpec {
    KindSpec {
        create_on_update: true,
        update_names_version: true,
        prepare: Some(prepare_lease),
        validate: Some(validate_lease),
        columns: vec![
            Column::name(),
            text("Holder", "Who holds it.", ".spec.holderIdentity"),
            Column::age(),
        ],
        ..row("coordination.k8s.io", "coordination", "Lease", &[])
    }
}

/// Who should hold it is not decided here: what asks for that is passed over.
fn prepare_lease(new: &mut Value, old: Option<&Value>, _now: &str) {
    if let Some(Value::Object(spec)) = new.get_mut("spec") {
        for field in ["strategy", "preferredHolder"] {
            if old.is_none_or(|o| o["spec"].get(field).is_none()) {
                spec.remove(field);
            }
        }
    }
}

fn validate_lease(new: &Value, _old: Option<&Value>, causes: &mut Vec<Cause>) {
    let at = At::top("spec");
    let spec = &new["spec"];
    if let Some(n) = whole(spec, "leaseDurationSeconds").filter(|n| *n < 1) {
        causes.push(Cause::invalid(
            at.member("leaseDurationSeconds"),
            &n.to_string(),
            checks::POSITIVE,
        ));
    }
    checks::not_negative(at.member("leaseTransitions"), whole(spec, "leaseTransitions"), causes);
}
