//! What is right for the kinds that keep pods running: defaults that depend on other fields, mistakes, and what may no longer change.

use serde_json::{Map, Value, json};

use super::pod_spec::{self, Place};
use super::shared::{default_to, immutable, list, part, selects, shown, whole, word, word_at};
use crate::api::names;
use crate::api::status::Cause;

// ---- shared ----

/// Completes `spec.template`.
pub(super) fn prepare_template(new: &mut Value, _old: Option<&Value>, _now: &str) {
    complete_template(new, "/spec/template/spec");
}

/// Completes the description of a pod at a pointer.
pub(super) fn complete_template(new: &mut Value, pointer: &str) {
    if let Some(Value::Object(pod)) = new.pointer_mut(pointer) {
        pod_spec::complete(pod);
    }
}

/// A selector that is there, selects something, and selects the pods of the template.
fn check_selector(workload: &Value, at: &str, causes: &mut Vec<Cause>) {
    let Some(selector) = workload.pointer("/spec/selector") else {
        causes.push(Cause::required("spec.selector", ""));
        // Nothing selects nothing.
        template_differs(workload, at, causes);
        return;
    };
    let said = |field: &str| selector.get(field).is_some_and(|v| *v != json!({}) && *v != json!([]));
    if !said("matchLabels") && !said("matchExpressions") {
        let why = "empty selector is invalid for what makes pods";
        causes.push(Cause::invalid("spec.selector", &selector.to_string(), why));
        return;
    }
    if causes
        .iter()
        .any(|c| c.field.starts_with("spec.selector.") && c.reason != "FieldValueForbidden")
    {
        causes.push(Cause::invalid(
            "spec.selector",
            &selector.to_string(),
            "invalid label selector",
        ));
        return;
    }
    if !selects(selector, workload.pointer("/spec/template/metadata/labels")) {
        template_differs(workload, at, causes);
    }
}

fn template_differs(workload: &Value, at: &str, causes: &mut Vec<Cause>) {
    let labels = shown(workload.pointer("/spec/template/metadata/labels"));
    causes.push(Cause::invalid(
        format!("{at}.metadata.labels"),
        &labels,
        "`selector` does not match template `labels`",
    ));
}

/// What ends is for Jobs: these kinds start their pods anew, for ever.
fn check_runs_on(workload: &Value, at: &str, causes: &mut Vec<Cause>) {
    let policy = word_at(workload, "/spec/template/spec/restartPolicy");
    if policy != "Always" {
        causes.push(Cause::not_supported(
            format!("{at}.spec.restartPolicy"),
            &format!("{policy:?}"),
            &["Always"],
        ));
    }
    if workload.pointer("/spec/template/spec/activeDeadlineSeconds").is_some() {
        let why = "activeDeadlineSeconds is not supported where pods are kept running";
        causes.push(Cause::forbidden(format!("{at}.spec.activeDeadlineSeconds"), why));
    }
}

fn check_template(workload: &Value, place: &Place<'_>, causes: &mut Vec<Cause>) {
    let template = workload.pointer("/spec/template").unwrap_or(&Value::Null);
    pod_spec::check_template(template, "spec.template", place, causes);
    check_runs_on(workload, "spec.template", causes);
}

/// A count or a share of pods, as (number, whether it is a share); none when it is neither.
fn share(value: &Value) -> Option<(i64, bool)> {
    match value {
        Value::Number(n) => n.as_i64().map(|n| (n, false)),
        Value::String(s) => {
            let digits = s.strip_suffix('%')?;
            let digital = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            digital.then(|| (digits.parse().unwrap_or(i64::MAX), true))
        }
        _ => None,
    }
}

/// Checks a share at a path; its number, 0 when it is none. `capped`: no more than all.
fn check_share(value: Option<&Value>, at: &str, capped: bool, causes: &mut Vec<Cause>) -> i64 {
    let Some(value) = value else { return 0 };
    match share(value) {
        None => {
            let why = "a valid percent string must be a numeric string followed by an ending '%'";
            causes.push(Cause::invalid(at, &value.to_string(), why));
            0
        }
        Some((n, false)) => {
            if n < 0 {
                causes.push(Cause::invalid(at, &n.to_string(), "must be greater than or equal to 0"));
            }
            n
        }
        Some((n, true)) => {
            if capped && n > 100 {
                causes.push(Cause::invalid(at, &value.to_string(), "must not be greater than 100%"));
            }
            n
        }
    }
}

/// Parts of a status that may not be greater than another.
fn check_counts(new: &Value, pairs: &[(&str, &str)], causes: &mut Vec<Cause>) {
    let count = |field: &str| whole(new, &format!("/status/{field}"));
    for (less, more) in pairs {
        if count(less) > count(more) {
            let why = format!("cannot be greater than status.{more}");
            causes.push(Cause::invalid(format!("status.{less}"), &count(less).to_string(), &why));
        }
    }
}

fn check_collisions(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let count = |v: &Value| whole(v, "/status/collisionCount");
    if old.is_some_and(|old| count(new) < count(old)) {
        let why = "cannot be decremented";
        causes.push(Cause::invalid("status.collisionCount", &count(new).to_string(), why));
    }
}

/// What is right and yet surprises: a name that cannot be that of a host, a variable that hides another.
pub(super) fn warn_of_template(new: &Value, old: Option<&Value>, warnings: &mut Vec<String>) {
    let name = word_at(new, "/metadata/name");
    if old.is_none() && !name.is_empty() && !names::is_label(name) {
        warnings.push(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended"
                .to_owned(),
        );
    }
    if let Some(spec) = new.pointer("/spec/template/spec") {
        warn_of_pod(spec, "spec.template.spec", warnings);
    }
}

/// What is right and yet surprises in the description of a pod at a path.
pub(super) fn warn_of_pod(spec: &Value, at: &str, warnings: &mut Vec<String>) {
    for group in ["containers", "initContainers"] {
        for (i, container) in list(spec, group).iter().enumerate() {
            let variables = list(container, "env");
            for (j, variable) in variables.iter().enumerate() {
                let name = word(variable, "name");
                if variables[..j].iter().any(|v| word(v, "name") == name) {
                    warnings.push(format!(
                        "{at}.{group}[{i}].env[{j}]: hides previous definition of {name:?}, which may be dropped when using apply"
                    ));
                }
            }
        }
    }
    if whole(spec, "/terminationGracePeriodSeconds") < 0 {
        warnings.push(format!(
            "{at}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
}

// ---- Deployment ----

pub(super) fn prepare_deployment(new: &mut Value, old: Option<&Value>, now: &str) {
    if let Some(spec) = part(new, "spec") {
        roll(
            spec,
            "strategy",
            &[("maxSurge", json!("25%")), ("maxUnavailable", json!("25%"))],
        );
    }
    prepare_template(new, old, now);
}

/// Completes a strategy of updates: rolling when nothing is said, with these bounds.
fn roll(spec: &mut Map<String, Value>, field: &str, bounds: &[(&str, Value)]) {
    let strategy = spec
        .entry(field.to_owned())
        .or_insert_with(|| Value::Object(Map::new()));
    let Value::Object(strategy) = strategy else { return };
    default_to(strategy, "type", json!("RollingUpdate"));
    if strategy.get("type") != Some(&json!("RollingUpdate")) {
        return;
    }
    let rolling = strategy
        .entry("rollingUpdate".to_owned())
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(rolling) = rolling {
        for (name, value) in bounds {
            default_to(rolling, name, value.clone());
        }
    }
}

pub(super) fn validate_deployment(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    check_selector(new, "spec.template", causes);
    check_template(new, &Place::template(), causes);
    let strategy = new.pointer("/spec/strategy").unwrap_or(&Value::Null);
    let rolling = strategy.get("rollingUpdate");
    match word(strategy, "type") {
        "RollingUpdate" => {
            let at = "spec.strategy.rollingUpdate";
            let bound = |name: &str| rolling.and_then(|r| r.get(name));
            let unavailable = check_share(bound("maxUnavailable"), &format!("{at}.maxUnavailable"), true, causes);
            let surge = check_share(bound("maxSurge"), &format!("{at}.maxSurge"), false, causes);
            if unavailable == 0 && surge == 0 {
                let why = "may not be 0 when `maxSurge` is 0";
                causes.push(Cause::invalid(
                    format!("{at}.maxUnavailable"),
                    &shown(bound("maxUnavailable")),
                    why,
                ));
            }
        }
        "Recreate" if rolling.is_some() => causes.push(Cause::forbidden(
            "spec.strategy.rollingUpdate",
            "may not be specified when strategy `type` is 'Recreate'",
        )),
        "Recreate" => {}
        _ => causes.push(Cause::not_supported(
            "spec.strategy",
            &strategy.to_string(),
            &["Recreate", "RollingUpdate"],
        )),
    }
    let (deadline, ready) = (
        whole(new, "/spec/progressDeadlineSeconds"),
        whole(new, "/spec/minReadySeconds"),
    );
    if new.pointer("/spec/progressDeadlineSeconds").is_some() && deadline <= ready {
        let why = "must be greater than minReadySeconds";
        causes.push(Cause::invalid(
            "spec.progressDeadlineSeconds",
            &deadline.to_string(),
            why,
        ));
    }
    if let Some(old) = old {
        immutable(new, old, "spec.selector", causes);
    }
}

/// Whoever writes the status of a Deployment does not write its labels.
pub(super) fn prepare_deployment_status(new: &mut Value, old: Option<&Value>, _now: &str) {
    let labels = old.and_then(|o| o.pointer("/metadata/labels")).cloned();
    if let Some(Value::Object(metadata)) = new.get_mut("metadata") {
        match labels {
            Some(labels) => metadata.insert("labels".to_owned(), labels),
            None => metadata.remove("labels"),
        };
    }
}

pub(super) fn validate_deployment_status(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let pairs = [
        ("updatedReplicas", "replicas"),
        ("readyReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
    ];
    check_counts(new, &pairs, causes);
    check_collisions(new, old, causes);
}

// ---- ReplicaSet, ReplicationController ----

pub(super) fn validate_replica_set(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    check_selector(new, "spec.template", causes);
    check_template(new, &Place::template(), causes);
    if let Some(old) = old {
        immutable(new, old, "spec.selector", causes);
    }
}

pub(super) fn validate_replica_status(new: &Value, _old: Option<&Value>, causes: &mut Vec<Cause>) {
    let pairs = [
        ("fullyLabeledReplicas", "replicas"),
        ("readyReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
    ];
    check_counts(new, &pairs, causes);
}

pub(super) fn prepare_replication_controller(new: &mut Value, old: Option<&Value>, now: &str) {
    prepare_template(new, old, now);
    let Some(labels) = new.pointer("/spec/template/metadata/labels").cloned() else {
        return;
    };
    for (place, field) in [("spec", "selector"), ("metadata", "labels")] {
        if let Some(map) = part(new, place) {
            map.entry(field.to_owned()).or_insert_with(|| labels.clone());
        }
    }
}

pub(super) fn validate_replication_controller(new: &Value, _old: Option<&Value>, causes: &mut Vec<Cause>) {
    if let Some(template) = new.pointer("/spec/template") {
        if let Some(selector) = new.pointer("/spec/selector").and_then(Value::as_object) {
            let labels = template.pointer("/metadata/labels");
            if !selector.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v)) {
                template_differs(new, "spec.template", causes);
            }
        }
        check_template(new, &Place::template(), causes);
    }
}

// ---- StatefulSet ----

pub(super) fn prepare_stateful_set(new: &mut Value, old: Option<&Value>, now: &str) {
    let Some(spec) = part(new, "spec") else { return };
    let strategy = spec
        .entry("updateStrategy".to_owned())
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(strategy) = strategy {
        if word(&Value::Object(strategy.clone()), "type").is_empty() {
            strategy.insert("type".to_owned(), json!("RollingUpdate"));
            strategy.entry("rollingUpdate".to_owned()).or_insert_with(|| json!({}));
        }
        if strategy.get("type") == Some(&json!("RollingUpdate"))
            && let Some(Value::Object(rolling)) = strategy.get_mut("rollingUpdate")
        {
            rolling.entry("partition".to_owned()).or_insert_with(|| json!(0));
        }
    }
    let retention = spec
        .entry("persistentVolumeClaimRetentionPolicy".to_owned())
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(retention) = retention {
        default_to(retention, "whenDeleted", json!("Retain"));
        default_to(retention, "whenScaled", json!("Retain"));
    }
    let claims = spec.get_mut("volumeClaimTemplates").and_then(Value::as_array_mut);
    for claim in claims.into_iter().flatten() {
        if let Value::Object(claim) = claim {
            claim.insert("apiVersion".to_owned(), json!("v1"));
            claim.insert("kind".to_owned(), json!("PersistentVolumeClaim"));
        }
    }
    prepare_template(new, old, now);
}

pub(super) fn validate_stateful_set(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    const CHANGES: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let spec = &new["spec"];
    let management = word(spec, "podManagementPolicy");
    if !matches!(management, "OrderedReady" | "Parallel") {
        let why = "must be 'OrderedReady' or 'Parallel'";
        causes.push(Cause::invalid(
            "spec.podManagementPolicy",
            &format!("{management:?}"),
            why,
        ));
    }
    let strategy = spec.get("updateStrategy").unwrap_or(&Value::Null);
    match (word(strategy, "type"), strategy.get("rollingUpdate")) {
        ("OnDelete", Some(rolling)) => {
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            causes.push(Cause::invalid(
                "spec.updateStrategy.rollingUpdate",
                &rolling.to_string(),
                why,
            ));
        }
        ("RollingUpdate", Some(rolling)) => {
            let at = "spec.updateStrategy.rollingUpdate.maxUnavailable";
            let most = rolling.get("maxUnavailable");
            if check_share(most, at, true, causes) == 0 && most.is_some() {
                causes.push(Cause::invalid(at, &shown(most), "cannot be 0"));
            }
        }
        ("OnDelete" | "RollingUpdate", None) => {}
        _ => {
            let why = "must be 'RollingUpdate' or 'OnDelete'";
            causes.push(Cause::invalid("spec.updateStrategy", &strategy.to_string(), why));
        }
    }
    if whole(spec, "/ordinals/start") < 0 {
        let why = "must be greater than or equal to 0";
        causes.push(Cause::invalid(
            "spec.ordinals.start",
            &shown(spec.pointer("/ordinals/start")),
            why,
        ));
    }
    let service = word(spec, "serviceName");
    if old.is_none() && !service.is_empty() && !names::is_label(service) {
        let why = "must be an RFC 1123 label";
        causes.push(Cause::invalid("spec.serviceName", &format!("{service:?}"), why));
    }
    check_selector(new, "spec.template", causes);
    let claims: Vec<&str> = list(spec, "volumeClaimTemplates")
        .iter()
        .map(|c| word_at(c, "/metadata/name"))
        .collect();
    if old.is_none() {
        for (i, claim) in list(spec, "volumeClaimTemplates").iter().enumerate() {
            check_claim(&claim["spec"], &format!("spec.volumeClaimTemplates[{i}].spec"), causes);
        }
    }
    let place = Place::Template {
        volumes: claims,
        names_hosts: true,
    };
    check_template(new, &place, causes);
    // Real servers look at these twice.
    pod_spec::check_template_metadata(&spec["template"], "spec.template", causes);
    let Some(old) = old else { return };
    let rest = |object: &Value| {
        let mut spec = object["spec"].clone();
        if let Value::Object(map) = &mut spec {
            map.retain(|field, _| !CHANGES.contains(&field.as_str()));
        }
        spec
    };
    if rest(new) != rest(old) {
        let why = format!(
            "updates to statefulset spec for fields other than '{}' and '{}' are forbidden",
            CHANGES[..CHANGES.len() - 1].join("', '"),
            CHANGES[CHANGES.len() - 1]
        );
        causes.push(Cause::forbidden("spec", &why));
    }
}

/// What a claim of storage has to say.
fn check_claim(spec: &Value, at: &str, causes: &mut Vec<Cause>) {
    let modes = list(spec, "accessModes");
    if modes.is_empty() {
        causes.push(Cause::required(
            format!("{at}.accessModes"),
            "at least 1 access mode is required",
        ));
    }
    const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    for mode in modes.iter().filter(|m| m.as_str().is_none_or(|m| !MODES.contains(&m))) {
        causes.push(Cause::not_supported(
            format!("{at}.accessModes"),
            &mode.to_string(),
            &MODES,
        ));
    }
    if spec.pointer("/resources/requests/storage").is_none() {
        causes.push(Cause::required(format!("{at}.resources[storage]"), ""));
    }
}

pub(super) fn validate_stateful_status(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let pairs = [
        ("readyReplicas", "replicas"),
        ("currentReplicas", "replicas"),
        ("updatedReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
    ];
    check_counts(new, &pairs, causes);
    check_collisions(new, old, causes);
}

// ---- DaemonSet ----

/// Counts changes of the template, for clients of a version that is no longer served.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub(super) fn prepare_daemon_set(new: &mut Value, old: Option<&Value>, now: &str) {
    if let Some(spec) = part(new, "spec") {
        roll(
            spec,
            "updateStrategy",
            &[("maxSurge", json!(0)), ("maxUnavailable", json!(1))],
        );
    }
    prepare_template(new, old, now);
    let count = |object: &Value| {
        let said = object
            .pointer("/metadata/annotations")
            .map_or("", |a| word(a, TEMPLATE_GENERATION));
        said.parse::<i64>().unwrap_or(0).max(1)
    };
    let generation = match old {
        None => count(new),
        Some(old) => count(old) + i64::from(old.pointer("/spec/template") != new.pointer("/spec/template")),
    };
    if let Some(metadata) = part(new, "metadata") {
        let annotations = metadata
            .entry("annotations".to_owned())
            .or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(annotations) = annotations {
            annotations.insert(TEMPLATE_GENERATION.to_owned(), json!(generation.to_string()));
        }
    }
}

pub(super) fn validate_daemon_set(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    match new.pointer("/spec/selector") {
        None => template_differs(new, "spec.template", causes),
        Some(selector) => {
            let said = |field: &str| selector.get(field).is_some_and(|v| *v != json!({}) && *v != json!([]));
            if !said("matchLabels") && !said("matchExpressions") {
                let why = "empty selector is invalid for daemonset";
                causes.push(Cause::invalid("spec.selector", &selector.to_string(), why));
            } else if !selects(selector, new.pointer("/spec/template/metadata/labels")) {
                template_differs(new, "spec.template", causes);
            }
        }
    }
    check_template(new, &Place::template(), causes);
    let strategy = new.pointer("/spec/updateStrategy").unwrap_or(&Value::Null);
    match word(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" => {
            let at = "spec.updateStrategy.rollingUpdate";
            let bound = |name: &str| strategy.get("rollingUpdate").and_then(|r| r.get(name));
            let unavailable = check_share(bound("maxUnavailable"), &format!("{at}.maxUnavailable"), true, causes);
            let surge = check_share(bound("maxSurge"), &format!("{at}.maxSurge"), true, causes);
            match (unavailable != 0, surge != 0) {
                (true, true) => {
                    let why = "may not be set when maxUnavailable is non-zero";
                    causes.push(Cause::invalid(format!("{at}.maxSurge"), &shown(bound("maxSurge")), why));
                }
                (false, false) => {
                    let why = "cannot be 0 when maxSurge is 0";
                    causes.push(Cause::required(format!("{at}.maxUnavailable"), why));
                }
                _ => {}
            }
        }
        _ => causes.push(Cause::not_supported(
            "spec.updateStrategy",
            &strategy.to_string(),
            &["RollingUpdate", "OnDelete"],
        )),
    }
    if let Some(old) = old {
        immutable(new, old, "spec.selector", causes);
    }
}

pub(super) fn validate_daemon_status(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    check_collisions(new, old, causes);
}

// ---- ControllerRevision, PodTemplate ----

pub(super) fn validate_revision(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    if whole(new, "/revision") < 0 {
        let why = "must be greater than or equal to 0";
        causes.push(Cause::invalid("revision", &shown(new.get("revision")), why));
    }
    match old {
        Some(old) => immutable(new, old, "data", causes),
        None if !new.get("data").is_some_and(Value::is_object) => {
            causes.push(Cause::required("data", "data must be a valid JSON object"));
        }
        None => {}
    }
}

pub(super) fn prepare_pod_template(new: &mut Value, _old: Option<&Value>, _now: &str) {
    complete_template(new, "/template/spec");
}

pub(super) fn validate_pod_template(new: &Value, _old: Option<&Value>, causes: &mut Vec<Cause>) {
    let template = new.get("template").unwrap_or(&Value::Null);
    pod_spec::check_template(template, "template", &Place::template(), causes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_counts_or_percents() {
        assert_eq!(share(&json!(3)), Some((3, false)));
        assert_eq!(share(&json!("25%")), Some((25, true)));
        for wrong in [json!("25"), json!("%"), json!("-1%"), json!("a%"), json!(null)] {
            assert_eq!(share(&wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_changed_template_is_counted() {
        let set = |image: &str| json!({"metadata":{},"spec":{"template":{"spec":{"containers":[{"image":image}]}}}});
        let mut first = set("a:1");
        prepare_daemon_set(&mut first, None, "");
        assert_eq!(first["metadata"]["annotations"][TEMPLATE_GENERATION], "1");
        let mut second = set("a:2");
        prepare_daemon_set(&mut second, Some(&first), "");
        assert_eq!(second["metadata"]["annotations"][TEMPLATE_GENERATION], "2");
        let mut third = second.clone();
        prepare_daemon_set(&mut third, Some(&second), "");
        assert_eq!(third, second);
    }
}
