//! What is right for Jobs: their description, alone or in a CronJob, and what they came to.

use serde_json::Value;

use super::pod_spec::{self, Place};
use super::shared::{condition, is_condition, list, shown, whole, word, word_at};
use crate::api::names;
use crate::api::status::Cause;

/// Finds what is wrong with the description of a Job at a path.
pub(super) fn check_spec(spec: &Value, at: &str, causes: &mut Vec<Cause>) {
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
        if !path.is_some_and(|(domain, path)| names::is_subdomain(domain) && !path.is_empty()) {
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
pub(super) fn validate_job_status(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
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
    let resumes = is_condition(old, "Suspended") && condition(new, "Suspended") == Some("False");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_counted_in_order() {
        assert_eq!(count_indexes("0,2-4", 5), Ok(4));
        assert_eq!(count_indexes("", 5), Ok(0));
        for wrong in ["5", "1,1", "3-2", "2-2", "a", "1-2-3", "4,0"] {
            assert!(count_indexes(wrong, 5).is_err(), "{wrong}");
        }
    }
}
