//! Jobs: done when all members' are, failed when one has.

use serde_json::{Map, Value, json};

use super::super::look::{is_zero, list, text};
use super::{Item, put_unless_zero};

/// A Job's status without its numbers. Nothing once it has come to an end: what becomes of the members' Jobs after that is no news.
pub(super) fn job(template: &Value, items: &[Item<'_>]) -> Option<Map<String, Value>> {
    if let Some(status) = template.get("status")
        && end(status).is_some()
    {
        return None;
    }
    let reported: Vec<(&str, &Value)> = items
        .iter()
        .filter_map(|item| Some((item.cluster, item.status?)))
        .collect();
    let met = |kind: &str| {
        reported
            .iter()
            .filter_map(|(_, status)| condition(status, kind))
            .collect::<Vec<_>>()
    };
    let ended = |kind: &str| {
        let of_kind = reported.iter().filter(|(_, status)| end(status) == Some(kind));
        of_kind.map(|(cluster, _)| *cluster).collect::<Vec<_>>()
    };
    let every = |count: usize| count > 0 && count == items.len();

    let mut conditions = Vec::new();
    let failed = ended(FAILED);
    if !failed.is_empty() {
        let message = format!("Job executed failed in member clusters {}", failed.join(","));
        conditions.push(written(FAILED, "JobFailed", &message, &met(FAILED)));
    }
    if every(ended(COMPLETE).len()) {
        conditions.push(written(COMPLETE, "Completed", "Job completed", &met(COMPLETE)));
        let criteria = met(CRITERIA);
        if every(criteria.len()) {
            let message = "All member clusters have met success criteria";
            conditions.push(written(CRITERIA, "CompletionsReached", message, &criteria));
        }
    }
    let times = |field: &str| {
        reported
            .iter()
            .filter_map(|(_, status)| time(status, field))
            .collect::<Vec<_>>()
    };
    let started = times("startTime");
    let start = match template.pointer("/status/startTime").filter(|start| !is_zero(start)) {
        Some(start) => start.clone(),
        None => json!(started.iter().min().filter(|_| every(started.len()))),
    };
    let completed = times("completionTime");
    let completion = json!(completed.iter().max().filter(|_| every(completed.len())));

    let mut status = Map::new();
    put_unless_zero(&mut status, "conditions", conditions.into());
    put_unless_zero(&mut status, "startTime", start);
    put_unless_zero(&mut status, "completionTime", completion);
    Some(status)
}

/// The status of a CronJob: all Jobs that run anywhere, and the latest times.
pub(super) fn cron_job(statuses: &[&Value]) -> Map<String, Value> {
    let latest = |field: &str| json!(statuses.iter().filter_map(|status| time(status, field)).max());
    let active: Vec<Value> = statuses
        .iter()
        .flat_map(|status| list(status, "/active"))
        .cloned()
        .collect();
    let mut status = Map::new();
    put_unless_zero(&mut status, "active", active.into());
    for field in ["lastScheduleTime", "lastSuccessfulTime"] {
        put_unless_zero(&mut status, field, latest(field));
    }
    status
}

const COMPLETE: &str = "Complete";
const FAILED: &str = "Failed";
const CRITERIA: &str = "SuccessCriteriaMet";

/// How a Job has come to its end, if it has.
fn end(status: &Value) -> Option<&str> {
    list(status, "/conditions")
        .iter()
        .filter(|condition| text(condition, "/status") == "True")
        .map(|condition| text(condition, "/type"))
        .find(|kind| [COMPLETE, FAILED].contains(kind))
}

/// The condition, if it is met.
fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    list(status, "/conditions")
        .iter()
        .find(|condition| text(condition, "/type") == kind && text(condition, "/status") == "True")
}

/// The condition as the template has it. It has been so since the last of the members' was.
fn written(kind: &str, reason: &str, message: &str, of_members: &[&Value]) -> Value {
    let since = of_members
        .iter()
        .filter_map(|condition| time(condition, "lastTransitionTime"))
        .max();
    let mut condition = Map::new();
    for (field, value) in [
        ("type", json!(kind)),
        ("status", json!("True")),
        ("lastProbeTime", json!(since)),
        ("lastTransitionTime", json!(since)),
        ("reason", json!(reason)),
        ("message", json!(message)),
    ] {
        put_unless_zero(&mut condition, field, value);
    }
    Value::Object(condition)
}

/// A time as servers write it: in this form, and no other, the later one is the larger text.
fn time<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    let time = value.get(field)?.as_str()?;
    let form = b"0000-00-00T00:00:00Z";
    let fits = time.len() == form.len()
        && time.bytes().zip(form).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            _ => byte == *form,
        });
    fits.then_some(time)
}
