//! What ends: Jobs and CronJobs.

use serde_json::{Map, Value, json};

use super::cron;
use super::pod_spec::{self, Place};
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

/// Finds what is wrong with the description of a Job at a path.
fn check_spec(spec: &Value, at: &str, causes: &mut Vec<Cause>) {
    /// Most completions of an indexed Job whose failures are counted without further limits.
    const MANY: i64 = 100_000;
    const LIMIT_OF_MANY: i64 = 10_000;
    let number = |field: &str| spec.get(field).and_then(Value::as_i64);
    let invalid = |field: &str, why: &str| Cause::invalid(format!("{at}.{field}"), &shown(spec.get(field)), why);
    let required = |field: &str, why: &str| Cause::required(format!("{at}.{field}"), why);
    let (failed, per_index) = (number("maxFailedIndexes"), number("backoffLimitPerIndex"));
    if failed.is_some() && per_index.is_none() {
        causes.push(required("backoffLimitPerIndex", "when maxFailedIndexes is specified"));
    }
    if let Some(manager) = spec.get("managedBy").and_then(Value::as_str) {
        let path = manager.split_once('/');
        if !path.is_some_and(|(domain, path)| crate::api::names::is_subdomain(domain) && !path.is_empty()) {
            causes.push(invalid(
                "managedBy",
                "must be a domain-prefixed path (such as \"acme.io/foo\")",
            ));
        }
        if manager.len() > 63 {
            causes.push(Cause::too_long(format!("{at}.managedBy"), 63));
        }
    }
    if word(spec, "completionMode") == "Indexed" {
        let (completions, parallelism) = (number("completions"), number("parallelism").unwrap_or(0));
        if completions.is_none() {
            causes.push(required("completions", "when completion mode is Indexed"));
        }
        if parallelism > MANY {
            causes.push(invalid(
                "parallelism",
                "must be less than or equal to 100000 when completion mode is Indexed",
            ));
        }
        if let (Some(failed), Some(completions)) = (failed, completions)
            && failed > completions
        {
            causes.push(invalid("maxFailedIndexes", "must be less than or equal to completions"));
        }
        if failed.is_some_and(|n| n > MANY) {
            causes.push(invalid("maxFailedIndexes", "must be less than or equal to 100000"));
        }
        if completions.is_some_and(|n| n > MANY) && per_index.is_some() {
            let why = "must be less than or equal to 10000 with so many completions";
            match failed {
                None => causes.push(required(
                    "maxFailedIndexes",
                    "must be specified when completions is above 100000",
                )),
                Some(n) if n > LIMIT_OF_MANY => causes.push(invalid("maxFailedIndexes", why)),
                Some(_) => {}
            }
            if parallelism > LIMIT_OF_MANY {
                causes.push(invalid("parallelism", why));
            }
        }
    } else {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
            if spec.get(field).is_some() {
                causes.push(invalid(field, "requires indexed completion mode"));
            }
        }
    }
    check_failure_policy(spec, at, causes);
    check_success_policy(spec, at, causes);
    if spec.get("podFailurePolicy").is_some() && word(spec, "podReplacementPolicy") == "TerminatingOrFailed" {
        let value = shown(spec.get("podReplacementPolicy"));
        causes.push(Cause::not_supported(
            format!("{at}.podReplacementPolicy"),
            &value,
            &["Failed"],
        ));
    }
    let template = spec.get("template").unwrap_or(&Value::Null);
    let at = format!("{at}.template");
    pod_spec::check_template(template, &at, &Place::template(), causes);
    let policy = format!("{at}.spec.restartPolicy");
    match word_at(template, "/spec/restartPolicy") {
        "" | "Always" => causes.push(Cause::required(policy, "valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if spec.get("podFailurePolicy").is_some() => {
            let why = "only \"Never\" is supported when podFailurePolicy is specified";
            causes.push(Cause::invalid(policy, "\"OnFailure\"", why));
        }
        "OnFailure" | "Never" => {}
        other => causes.push(Cause::not_supported(
            policy,
            &format!("{other:?}"),
            &["OnFailure", "Never"],
        )),
    }
}

fn check_failure_policy(spec: &Value, at: &str, causes: &mut Vec<Cause>) {
    const MOST_RULES: usize = 20;
    const MOST_CODES: usize = 255;
    let Some(policy) = spec.get("podFailurePolicy") else {
        return;
    };
    let at = format!("{at}.podFailurePolicy.rules");
    let pod = spec.pointer("/template/spec").unwrap_or(&Value::Null);
    let known = |name: &str| {
        let groups = ["containers", "initContainers"];
        groups
            .iter()
            .any(|g| list(pod, g).iter().any(|c| word(c, "name") == name))
    };
    let rules = list(policy, "rules");
    if rules.len() > MOST_RULES {
        causes.push(Cause::too_many(at.clone(), rules.len(), MOST_RULES as u64));
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = format!("{at}[{i}]");
        if word(rule, "action") == "FailIndex" && spec.get("backoffLimitPerIndex").is_none() {
            let why = "requires the backoffLimitPerIndex to be set";
            causes.push(Cause::invalid(format!("{at}.action"), "\"FailIndex\"", why));
        }
        let (codes, conditions) = (rule.get("onExitCodes"), list(rule, "onPodConditions"));
        if codes.is_some() != conditions.is_empty() {
            let why = "specifying one of OnExitCodes and OnPodConditions is required, and both is not supported";
            causes.push(Cause::invalid(&at, "", why));
        }
        if conditions.len() > MOST_RULES {
            causes.push(Cause::too_many(
                format!("{at}.onPodConditions"),
                conditions.len(),
                MOST_RULES as u64,
            ));
        }
        let Some(codes) = codes else { continue };
        let at = format!("{at}.onExitCodes");
        if let Some(name) = codes.get("containerName").and_then(Value::as_str).filter(|n| !known(n)) {
            let why = "must be one of the container or initContainer names in the pod template";
            causes.push(Cause::invalid(format!("{at}.containerName"), &format!("{name:?}"), why));
        }
        let values: Vec<i64> = list(codes, "values").iter().filter_map(Value::as_i64).collect();
        let field = format!("{at}.values");
        if values.is_empty() {
            causes.push(Cause::invalid(&field, "[]", "at least one value is required"));
        } else if values.len() > MOST_CODES {
            causes.push(Cause::too_many(&field, values.len(), MOST_CODES as u64));
        }
        for (j, code) in values.iter().enumerate() {
            if *code == 0 && word(codes, "operator") == "In" {
                let why = "must not be 0 for the In operator";
                causes.push(Cause::invalid(format!("{field}[{j}]"), "0", why));
            }
            if values[..j].contains(code) {
                causes.push(Cause::duplicate(format!("{field}[{j}]"), &code.to_string()));
            }
        }
        if !values.is_sorted() {
            causes.push(Cause::invalid(field, &format!("{values:?}"), "must be ordered"));
        }
    }
}

fn check_success_policy(spec: &Value, at: &str, causes: &mut Vec<Cause>) {
    const MOST: usize = 20;
    let Some(policy) = spec
        .get("successPolicy")
        .filter(|_| word(spec, "completionMode") == "Indexed")
    else {
        return;
    };
    let at = format!("{at}.successPolicy.rules");
    let completions = whole(spec, "/completions");
    let rules = list(policy, "rules");
    if rules.is_empty() {
        let why = "at least one rules must be specified when the successPolicy is specified";
        causes.push(Cause::required(&at, why));
    }
    if rules.len() > MOST {
        causes.push(Cause::too_many(&at, rules.len(), MOST as u64));
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = format!("{at}[{i}]");
        let (count, indexes) = (rule.get("succeededCount"), rule.get("succeededIndexes"));
        if count.is_none() && indexes.is_none() {
            let why = "at least one of succeededCount or succeededIndexes must be specified";
            causes.push(Cause::required(&at, why));
        }
        let named = indexes
            .and_then(Value::as_str)
            .map(|text| count_indexes(text, completions));
        if let Some(Err(why)) = &named {
            let why = format!("error parsing succeededIndexes: {why}");
            causes.push(Cause::invalid(format!("{at}.succeededIndexes"), &shown(indexes), &why));
        }
        let field = format!("{at}.succeededCount");
        let Some(n) = count.and_then(Value::as_i64) else {
            continue;
        };
        if n < 0 {
            causes.push(Cause::invalid(
                &field,
                &n.to_string(),
                "must be greater than or equal to 0",
            ));
        }
        if n > completions {
            let why = format!("must be less than or equal to {completions} (the number of specified completions)");
            causes.push(Cause::invalid(&field, &n.to_string(), &why));
        }
        if let Some(total) = named.map(|n| n.unwrap_or(0)).filter(|total| n > *total) {
            let why = format!("must be less than or equal to {total} (the number of indexes named)");
            causes.push(Cause::invalid(field, &n.to_string(), &why));
        }
    }
}

/// How many indexes a text like `0,2-4` names, all below `completions` and in order.
fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let number = |text: &str| -> Result<i64, String> {
        let n = text
            .parse()
            .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if n >= completions {
            return Err(format!("too large index: {text:?}"));
        }
        Ok(n)
    };
    let (mut total, mut before) = (0, -1);
    for interval in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = match interval.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(interval)?, number(interval)?),
        };
        if first <= before || last < first || (interval.contains('-') && first == last) {
            return Err(format!("non-increasing order, previous: {before}, current: {first}"));
        }
        total += last - first + 1;
        before = last;
    }
    Ok(total)
}

/// What a Job came to is said once, and whole.
fn validate_job_status(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let Some(old) = old else { return };
    let (now, then) = (&new["status"], &old["status"]);
    let mut wrong = |field: &str, why: &str| {
        let value = if field == "conditions" {
            String::new()
        } else {
            shown(now.get(field))
        };
        causes.push(Cause::invalid(format!("status.{field}"), &value, why));
    };
    let is = |ty: &str| (is_condition(new, ty), is_condition(old, ty));
    let (complete, failed, target, met) = (
        is("Complete"),
        is("Failed"),
        is("FailureTarget"),
        is("SuccessCriteriaMet"),
    );
    let changed = |field: &str| now.get(field) != then.get(field);
    let differs = |pair: (bool, bool)| pair.0 != pair.1;
    let finished = (complete.0 || failed.0, complete.1 || failed.1);
    let ended = differs(finished);
    if complete.0 && failed.0 && (differs(complete) || differs(failed)) {
        wrong("conditions", "cannot set Complete=True and Failed=true conditions");
    }
    if complete.0 && target.0 && (differs(complete) || differs(target)) {
        wrong(
            "conditions",
            "cannot set Complete=True and FailureTarget=true conditions",
        );
    }
    let completed = now.get("completionTime");
    if differs(complete) || changed("completionTime") {
        if completed.is_some() && !complete.0 {
            wrong(
                "completionTime",
                "cannot set completionTime when there is no Complete=True condition",
            );
        }
        if completed.is_none() && complete.0 {
            causes.push(Cause::required(
                "status.completionTime",
                "completionTime is required for Complete jobs",
            ));
        }
    }
    let mut wrong = |field: &str, why: &str| {
        let value = if field == "conditions" {
            String::new()
        } else {
            shown(now.get(field))
        };
        causes.push(Cause::invalid(format!("status.{field}"), &value, why));
    };
    if (changed("startTime") || changed("completionTime"))
        && completed.is_some()
        && word(now, "completionTime") < word(now, "startTime")
    {
        wrong("completionTime", "must be equal to or after `startTime`");
    }
    if (differs(failed) || changed("failedIndexes")) && failed.0 && !target.0 {
        wrong(
            "conditions",
            "cannot set Failed=True condition without the FailureTarget=true condition",
        );
    }
    if (differs(complete) || differs(met)) && complete.0 && !met.0 {
        wrong(
            "conditions",
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        );
    }
    if finished.0 {
        if (ended || changed("active")) && whole(now, "/active") > 0 {
            wrong("active", "active>0 is invalid for finished job");
        }
        if (ended || changed("terminating")) && whole(now, "/terminating") > 0 {
            wrong("terminating", "terminating>0 is invalid for finished job");
        }
        let uncounted = now.get("uncountedTerminatedPods").unwrap_or(&Value::Null);
        let any = !list(uncounted, "failed").is_empty() || !list(uncounted, "succeeded").is_empty();
        if (ended || changed("uncountedTerminatedPods")) && any {
            wrong("uncountedTerminatedPods", "must be empty for finished job");
        }
        let nothing = new.pointer("/spec/suspend") == Some(&Value::Bool(true))
            && new.pointer("/spec/completions").and_then(Value::as_i64) == Some(0);
        if (ended || changed("startTime")) && !nothing && now.get("startTime").is_none() {
            causes.push(Cause::required(
                "status.startTime",
                "startTime is required for finished job",
            ));
        }
    }
    check_job_counts(new, old, causes);
    for (ty, (now, then)) in [("Failed", failed), ("Complete", complete), ("FailureTarget", target)] {
        if then && !now {
            let why = format!("cannot disable the terminal {ty}=True condition");
            causes.push(Cause::invalid("status.conditions", "", &why));
        }
    }
    for (bad, why) in [
        (
            met.0 && failed.0,
            "cannot set SuccessCriteriaMet=True and Failed=true conditions",
        ),
        (
            met.0 && target.0,
            "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
        ),
        (met.1 && !met.0, "cannot disable the SuccessCriteriaMet=True condition"),
        (
            complete.1 && !met.1 && met.0,
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
        ),
        (
            new.pointer("/spec/successPolicy").is_some() && !met.0 && complete.0,
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        ),
    ] {
        if bad {
            causes.push(Cause::invalid("status.conditions", "", why));
        }
    }
}

/// Numbers of a Job's status: done stays done.
fn check_job_counts(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let (now, then) = (&new["status"], &old["status"]);
    let changed = |field: &str| now.get(field) != then.get(field);
    let mut wrong = |field: &str, why: &str| {
        causes.push(Cause::invalid(format!("status.{field}"), &shown(now.get(field)), why));
    };
    let count = |status: &Value, field: &str| whole(status, &format!("/{field}"));
    let indexed = word_at(new, "/spec/completionMode") == "Indexed";
    let elastic = indexed && new.pointer("/spec/completions") == new.pointer("/spec/parallelism");
    if count(now, "failed") < count(then, "failed") {
        wrong("failed", "cannot decrease the failed counter");
    }
    if !elastic && count(now, "succeeded") < count(then, "succeeded") {
        wrong("succeeded", "cannot decrease the succeeded counter");
    }
    if (changed("ready") || changed("active")) && count(now, "ready") > count(now, "active") {
        wrong("ready", "cannot set more ready pods than active");
    }
    if changed("completionTime") && now.get("completionTime").is_some() && then.get("completionTime").is_some() {
        wrong("completionTime", "field is immutable");
    }
    let suspended = new.pointer("/spec/suspend") == Some(&Value::Bool(true));
    let resumes = is_condition(old, "Suspended") && super::shared::condition(new, "Suspended") == Some("False");
    if changed("startTime") && then.get("startTime").is_some() && !suspended && !resumes {
        wrong("startTime", "field is immutable for unsuspended job once set");
    }
    let completions = new.pointer("/spec/completions").and_then(Value::as_i64);
    let indexes = |field: &str, causes: &mut Vec<Cause>| {
        if let (true, Some(completions)) = (changed(field), completions)
            && let Err(why) = count_indexes(word(now, field), completions)
        {
            let why = format!("error parsing {field}: {why}");
            causes.push(Cause::invalid(format!("status.{field}"), &shown(now.get(field)), &why));
        }
    };
    indexes("completedIndexes", causes);
    let per_index = new.pointer("/spec/backoffLimitPerIndex").is_some();
    if per_index {
        indexes("failedIndexes", causes);
    } else if changed("failedIndexes") && now.get("failedIndexes").is_some() {
        let why = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        causes.push(Cause::invalid(
            "status.failedIndexes",
            &shown(now.get("failedIndexes")),
            why,
        ));
    }
    if changed("completedIndexes") && !indexed && !word(now, "completedIndexes").is_empty() {
        let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
        causes.push(Cause::invalid(
            "status.completedIndexes",
            &shown(now.get("completedIndexes")),
            why,
        ));
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
    fn indexes_are_counted_in_order() {
        assert_eq!(count_indexes("0,2-4", 5), Ok(4));
        assert_eq!(count_indexes("", 5), Ok(0));
        for wrong in ["5", "1,1", "3-2", "2-2", "a", "1-2-3", "4,0"] {
            assert!(count_indexes(wrong, 5).is_err(), "{wrong}");
        }
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
