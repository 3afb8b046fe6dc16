//! What ends: Jobs and CronJobs.

use serde_json::{Map, Value, json};

use super::cron;
use super::job_rules::{check_spec, validate_job_status};
use super::shared::{default_to, immutable, is_condition, list, part, selects, shown, whole, word, word_at};
use super::workload_rules::{complete_template, warn_of_pod, warn_of_template};
use super::workloads::{containers, selector, workload};
use super::{computed, fields, text, timed};
use crate::api::kinds::{KindSpec, Special};
use crate::api::status::Cause;
use crate::api::table::{self, Column};

/// The labels by which a Job knows its pods: its name and its uid, under the name of the group and the one from before.
const NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];
const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
/// A CronJob's name leaves room for what its Jobs add.
const CRON_NAME: usize = 52;

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![job(), cron_job()]
}

fn job() -> KindSpec {
    KindSpec {
        prepare: Some(prepare_job),
        validate: Some(validate_job),
        columns: [
            vec![
                Column::name(),
                computed("Status", "string", "What the Job does.", job_status),
                computed(
                    "Completions",
                    "string",
                    "How many pods are done, of how many.",
                    completions,
                ),
                timed("Duration", "How long it took, or has been running.", duration),
                Column::age(),
            ],
            containers(),
            vec![selector()],
        ]
        .concat(),
        fields: fields(&["status.successful@status.succeeded=0"]),
        special: Special {
            validate_status: Some(validate_job_status),
            orphans: true,
            warn: Some(warn_of_template),
            ..Special::default()
        },
        ..workload("batch", "Job", &[])
    }
}

fn cron_job() -> KindSpec {
    KindSpec {
        prepare: Some(prepare_cron_job),
        validate: Some(validate_cron_job),
        columns: [
            vec![
                Column::name(),
                text("Schedule", "When Jobs are made.", ".spec.schedule"),
                computed("Timezone", "string", "Where the clock is.", |c| {
                    json!(c.pointer("/spec/timeZone").and_then(Value::as_str).unwrap_or("<none>"))
                }),
                computed("Suspend", "boolean", "Whether it waits.", |c| {
                    // A word, although the column is of booleans: real servers print it so.
                    json!(if c.pointer("/spec/suspend") == Some(&Value::Bool(true)) {
                        "True"
                    } else {
                        "False"
                    })
                }),
                computed("Active", "integer", "Jobs that run.", |c| {
                    json!(list(&c["status"], "active").len())
                }),
                timed("Last Schedule", "When the last Job was made.", |c, now| {
                    json!(match word_at(c, "/status/lastScheduleTime") {
                        "" => "<none>".to_owned(),
                        then => table::age(then, now),
                    })
                }),
                Column::age(),
            ],
            containers(),
            vec![selector()],
        ]
        .concat(),
        special: Special {
            warn: Some(warn_of_cron_job),
            ..Special::default()
        },
        ..workload("batch", "CronJob", &["cj"])
    }
}

// ---- Job ----

fn prepare_job(new: &mut Value, old: Option<&Value>, _now: &str) {
    complete_template(new, "/spec/template/spec");
    let (name, uid) = (
        new.pointer("/metadata/name").cloned(),
        new.pointer("/metadata/uid").cloned(),
    );
    let Some(spec) = part(new, "spec") else { return };
    if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
        spec.insert("completions".to_owned(), json!(1));
    }
    let mut default = |field: &str, value: Value| default_to(spec, field, value);
    default("parallelism", json!(1));
    default("completionMode", json!("NonIndexed"));
    default("suspend", json!(false));
    default("manualSelector", json!(false));
    let per_index = spec.contains_key("backoffLimitPerIndex");
    default_to(spec, "backoffLimit", json!(if per_index { i32::MAX } else { 6 }));
    let replaced = if spec.contains_key("podFailurePolicy") {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    default_to(spec, "podReplacementPolicy", json!(replaced));
    if old.is_none() && spec.get("manualSelector") != Some(&Value::Bool(true)) {
        generate_selector(spec, &name.unwrap_or_default(), &uid.unwrap_or_default());
    }
    // A Job without labels of its own has those of its pods.
    if let Some(labels) = new.pointer("/spec/template/metadata/labels").cloned()
        && let Some(metadata) = part(new, "metadata")
    {
        metadata.entry("labels".to_owned()).or_insert(labels);
    }
}

/// Lets a Job select the pods that it makes, and no others.
fn generate_selector(spec: &mut Map<String, Value>, name: &Value, uid: &Value) {
    fn inside<'m>(map: &'m mut Map<String, Value>, field: &str) -> Option<&'m mut Map<String, Value>> {
        map.entry(field.to_owned())
            .or_insert_with(|| Value::Object(Map::new()))
            .as_object_mut()
    }
    let labels = inside(spec, "template")
        .and_then(|t| inside(t, "metadata"))
        .and_then(|m| inside(m, "labels"));
    if let Some(labels) = labels {
        for label in NAME_LABELS {
            labels.entry(label.to_owned()).or_insert_with(|| name.clone());
        }
        for label in UID_LABELS {
            labels.entry(label.to_owned()).or_insert_with(|| uid.clone());
        }
    }
    if let Some(labels) = inside(spec, "selector").and_then(|s| inside(s, "matchLabels")) {
        labels.entry(UID_LABELS[0].to_owned()).or_insert_with(|| uid.clone());
    }
}

fn validate_job(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    check_spec(&new["spec"], "spec", causes);
    let labels = new.pointer("/spec/template/metadata/labels");
    let differs = |why: &str| Cause::invalid("spec.template.metadata.labels", &shown(labels), why);
    match new.pointer("/spec/selector") {
        None => {
            causes.push(Cause::required("spec.selector", ""));
            causes.push(differs("`selector` does not match template `labels`"));
        }
        Some(selector) => {
            if !selects(selector, labels) && *selector != json!({}) {
                causes.push(differs("`selector` does not match template `labels`"));
            }
        }
    }
    if old.is_some() {
        twice(causes);
    }
    check_generated(new, causes);
    let (name, completions) = (word_at(new, "/metadata/name"), whole(new, "/spec/completions"));
    let indexed = word_at(new, "/spec/completionMode") == "Indexed";
    let host = format!("{name}-{}", completions - 1);
    if indexed && completions > 0 && !crate::api::names::is_label(&host) {
        let why = format!("will not able to create pod with invalid DNS label: {host}");
        causes.push(Cause::invalid("metadata.name", &format!("{name:?}"), &why));
    }
    if let Some(old) = old {
        check_job_change(new, old, indexed, causes);
    }
}

/// Real servers check a Job twice when it is changed, and name each mistake twice; clients see both.
fn twice(causes: &mut Vec<Cause>) {
    let again: Vec<Cause> = causes
        .iter()
        .filter(|c| !c.field.starts_with("metadata"))
        .cloned()
        .collect();
    causes.extend(again);
}

/// A Job that selects its pods by itself has its own labels on them.
fn check_generated(job: &Value, causes: &mut Vec<Cause>) {
    let Some(selector) = job.pointer("/spec/selector") else {
        return;
    };
    if job.pointer("/spec/manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    let (name, uid) = (word_at(job, "/metadata/name"), word_at(job, "/metadata/uid"));
    let labels = job.pointer("/spec/template/metadata/labels").unwrap_or(&Value::Null);
    let wanted = UID_LABELS
        .map(|l| (l, uid))
        .into_iter()
        .chain(NAME_LABELS.map(|l| (l, name)));
    for (label, value) in wanted.clone() {
        match labels.get(label).and_then(Value::as_str) {
            None => {
                let why = format!("must be '{value}'");
                causes.push(Cause::required(format!("spec.template.metadata.labels[{label}]"), &why));
            }
            Some(have) if have != value => {
                let field = format!("spec.template.metadata.labels[{label}]");
                causes.push(Cause::invalid(
                    field,
                    &format!("{have:?}"),
                    &format!("must be '{value}'"),
                ));
            }
            Some(_) => {}
        }
    }
    let own: Map<String, Value> = wanted.map(|(l, v)| (l.to_owned(), json!(v))).collect();
    if !selects(selector, Some(&Value::Object(own))) {
        let why = "`selector` not auto-generated";
        causes.push(Cause::invalid("spec.selector", &selector.to_string(), why));
    }
}

fn check_job_change(new: &Value, old: &Value, indexed: bool, causes: &mut Vec<Cause>) {
    if !indexed {
        immutable(new, old, "spec.completions", causes);
    } else if let Some(now) = new.pointer("/spec/completions")
        && Some(now) != old.pointer("/spec/completions")
        && Some(now) != new.pointer("/spec/parallelism")
    {
        let why = "can only be modified in tandem with spec.parallelism";
        causes.push(Cause::invalid("spec.completions", &now.to_string(), why));
    }
    for field in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        immutable(new, old, &format!("spec.{field}"), causes);
    }
    let suspended = old.pointer("/spec/suspend") == Some(&Value::Bool(true));
    let started = old.pointer("/status/startTime").is_some();
    let template = |job: &Value| {
        let mut template = job.pointer("/spec/template").cloned().unwrap_or_default();
        if suspended && !started {
            unplace(&mut template);
        }
        template
    };
    if template(new) != template(old) {
        let value = shown(new.pointer("/spec/template"));
        causes.push(Cause::invalid("spec.template", &value, "field is immutable"));
    }
}

/// Takes out of a template what says where its pods run, which may change until the first one does.
fn unplace(template: &mut Value) {
    if let Some(Value::Object(metadata)) = template.get_mut("metadata") {
        metadata.remove("labels");
        metadata.remove("annotations");
    }
    let Some(Value::Object(spec)) = template.get_mut("spec") else {
        return;
    };
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        spec.remove(field);
    }
    if let Some(Value::Object(affinity)) = spec.get_mut("affinity") {
        affinity.remove("nodeAffinity");
        if affinity.is_empty() {
            spec.remove("affinity");
        }
    }
}

fn job_status(job: &Value) -> Value {
    let is = |ty: &str| is_condition(job, ty);
    json!(if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if job.pointer("/metadata/deletionTimestamp").is_some() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    })
}

fn completions(job: &Value) -> Value {
    let done = whole(job, "/status/succeeded");
    let wanted = job.pointer("/spec/completions").and_then(Value::as_i64);
    let parallelism = whole(job, "/spec/parallelism");
    json!(match wanted {
        Some(wanted) => format!("{done}/{wanted}"),
        None if parallelism > 1 => format!("{done}/1 of {parallelism}"),
        None => format!("{done}/1"),
    })
}

fn duration(job: &Value, now_ms: u64) -> Value {
    let seconds = |field: &str| {
        let at = word_at(job, &format!("/status/{field}")).parse::<jiff::Timestamp>();
        at.ok().map(jiff::Timestamp::as_second)
    };
    let Some(begun) = seconds("startTime") else {
        return json!("");
    };
    let now = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
    json!(table::human(
        seconds("completionTime").unwrap_or(now).saturating_sub(begun)
    ))
}

// ---- CronJob ----

fn prepare_cron_job(new: &mut Value, _old: Option<&Value>, _now: &str) {
    complete_template(new, "/spec/jobTemplate/spec/template/spec");
}

fn validate_cron_job(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &new["spec"];
    let schedule = word(spec, "schedule");
    let shown_schedule = format!("{schedule:?}");
    if !schedule.is_empty() {
        if let Err(why) = cron::check(schedule) {
            causes.push(Cause::invalid("spec.schedule", &shown_schedule, &why));
        }
        let zoned = schedule.contains("TZ");
        let before = old.is_some_and(|o| word_at(o, "/spec/schedule").contains("TZ"));
        if zoned && !before {
            let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            causes.push(Cause::invalid("spec.schedule", &shown_schedule, why));
        } else if zoned && spec.get("timeZone").is_some() {
            let why = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
            causes.push(Cause::invalid("spec.schedule", &shown_schedule, why));
        }
    }
    let changed = old.is_none_or(|o| o.pointer("/spec/timeZone") != spec.get("timeZone"));
    if let Some(zone) = spec
        .get("timeZone")
        .and_then(Value::as_str)
        .filter(|z| changed && !cron::is_zone(z))
    {
        causes.push(Cause::invalid(
            "spec.timeZone",
            &format!("{zone:?}"),
            &format!("unknown time zone {zone}"),
        ));
    }
    let job = spec.pointer("/jobTemplate/spec").unwrap_or(&Value::Null);
    check_spec(job, "spec.jobTemplate.spec", causes);
    if let Some(selector) = job.get("selector") {
        let why = "`selector` will be auto-generated";
        causes.push(Cause::invalid(
            "spec.jobTemplate.spec.selector",
            &selector.to_string(),
            why,
        ));
    }
    if job.get("manualSelector") == Some(&Value::Bool(true)) {
        let field = "spec.jobTemplate.spec.manualSelector";
        causes.push(Cause::not_supported(field, "true", &["nil", "false"]));
    }
    let name = word_at(new, "/metadata/name");
    if old.is_none() && name.len() > CRON_NAME {
        let why = "must be no more than 52 characters";
        causes.push(Cause::invalid("metadata.name", &format!("{name:?}"), why));
    }
}

fn warn_of_cron_job(new: &Value, old: Option<&Value>, warnings: &mut Vec<String>) {
    warn_of_template(new, old, warnings);
    if let Some(spec) = new.pointer("/spec/jobTemplate/spec/template/spec") {
        warn_of_pod(spec, "spec.jobTemplate.spec.template.spec", warnings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_selects_its_own_pods_by_itself() {
        let mut job = json!({"metadata":{"name":"j","uid":"u"},"spec":{"template":{"spec":{}}}});
        prepare_job(&mut job, None, "");
        let labels = json!({"batch.kubernetes.io/controller-uid":"u","batch.kubernetes.io/job-name":"j","controller-uid":"u","job-name":"j"});
        assert_eq!(job["spec"]["template"]["metadata"]["labels"], labels);
        assert_eq!(job["metadata"]["labels"], labels);
        assert_eq!(
            job["spec"]["selector"],
            json!({"matchLabels":{"batch.kubernetes.io/controller-uid":"u"}})
        );
        assert_eq!(
            (&job["spec"]["completions"], &job["spec"]["parallelism"]),
            (&json!(1), &json!(1))
        );
        let mut own = json!({"metadata":{"name":"j","uid":"u"},"spec":{"manualSelector":true,"parallelism":2,"template":{"spec":{}}}});
        prepare_job(&mut own, None, "");
        assert!(own["spec"].get("selector").is_none() && own["spec"].get("completions").is_none());
    }

    #[test]
    fn cells_of_jobs() {
        let job = |status: Value| json!({"spec":{"completions":3},"status":status});
        let begun = job(json!({"startTime":"1970-01-01T00:00:00Z","succeeded":1}));
        assert_eq!(job_status(&begun), "Running");
        assert_eq!(completions(&begun), "1/3");
        assert_eq!(duration(&begun, 90_000), "90s");
        let done = job(
            json!({"startTime":"1970-01-01T00:00:00Z","completionTime":"1970-01-01T00:00:05Z",
            "conditions":[{"type":"Complete","status":"True"}]}),
        );
        assert_eq!(
            (job_status(&done), duration(&done, 90_000)),
            (json!("Complete"), json!("5s"))
        );
        assert_eq!(completions(&json!({"spec":{"parallelism":4}})), "0/1 of 4");
    }
}
