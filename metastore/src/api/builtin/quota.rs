//! Bounds of a namespace, as kinds: nothing here makes anybody keep to them, and no quota is counted.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::checks::{self, At, entries, items, refuse, word};
use super::{computed, row};
use crate::api::kinds::{KindSpec, Special, StatusPart};
use crate::api::schema::quantity;
use crate::api::status::Cause;
use crate::api::table::Column;

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![limit_range(), resource_quota()]
}

// ---- names of resources ----

/// What a container can ask for without a prefix.
const CONTAINER: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];
/// What is counted in whole numbers.
const COUNTED: [&str; 9] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
/// Further names without a prefix.
const SUMS: [&str; 7] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
];
const NOT_WHOLE: &str = "must be an integer";

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && checks::label_key(&format!("requests.{name}")).is_empty()
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Whether a quota knows the name without a prefix.
fn is_quota(name: &str) -> bool {
    CONTAINER.contains(&name)
        || COUNTED.contains(&name)
        || SUMS.contains(&name)
        || is_huge_page(name.strip_prefix("requests.").unwrap_or(name))
}

/// The name of a resource; false when nothing else about it needs to be said.
fn resource_name(at: At<'_>, name: &str, causes: &mut Vec<Cause>) -> bool {
    let faults = checks::label_key(name);
    refuse(at, name, &faults, causes);
    let standard = name.contains('/')
        || name == "storage"
        || CONTAINER.contains(&name)
        || COUNTED.contains(&name)
        || SUMS.contains(&name);
    if faults.is_empty() && !standard && !is_huge_page(name) {
        refuse(
            at,
            name,
            &["must be a standard resource type or fully qualified"],
            causes,
        );
        return false;
    }
    faults.is_empty()
}

/// The name of a resource that a container can ask for.
pub(super) fn container_resource(at: At<'_>, name: &str, causes: &mut Vec<Cause>) {
    resource_name(at, name, causes);
    if !name.contains('/') {
        if !CONTAINER.contains(&name) && !is_huge_page(name) {
            refuse(at, name, &["must be a standard resource for containers"], causes);
        }
    } else if !is_native(name) && !is_extended(name) {
        refuse(at, name, &["doesn't follow extended resource name standard"], causes);
    }
}

/// An amount of a resource: not negative, and whole where it is counted.
pub(super) fn amount(at: At<'_>, name: &str, value: &Value, causes: &mut Vec<Cause>) {
    const ONE: i128 = 1_000_000_000;
    let Some(nanos) = quantity::nanos(value) else { return };
    if nanos < 0 {
        causes.push(Cause::invalid(at, &value.to_string(), checks::NOT_NEGATIVE));
    }
    if (COUNTED.contains(&name) || is_extended(name)) && nanos % ONE != 0 {
        causes.push(Cause::invalid(at, &value.to_string(), NOT_WHOLE));
    }
}

// ---- LimitRange ----

fn limit_range() -> KindSpec {
    KindSpec {
        create_on_update: true,
        prepare: Some(prepare_limit_range),
        validate: Some(validate_limit_range),
        columns: vec![Column::name(), Column::created()],
        ..row("", "core", "LimitRange", &["limits"])
    }
}

/// What is not said for containers follows from what is.
fn prepare_limit_range(new: &mut Value, _old: Option<&Value>, _now: &str) {
    let Some(Value::Array(limits)) = new.pointer_mut("/spec/limits") else {
        return;
    };
    for limit in limits.iter_mut().filter(|l| word(l, "type") == "Container") {
        let Value::Object(limit) = limit else { continue };
        for (from, to) in [
            ("max", "default"),
            ("default", "defaultRequest"),
            ("min", "defaultRequest"),
        ] {
            let Some(Value::Object(known)) = limit.get(from).cloned() else {
                continue;
            };
            if let Some(there) = checks::made(limit, to) {
                for (name, value) in known {
                    there.entry(name).or_insert(value);
                }
            }
        }
    }
}

fn validate_limit_range(new: &Value, _old: Option<&Value>, causes: &mut Vec<Cause>) {
    const TYPES: [&str; 3] = ["Pod", "Container", "PersistentVolumeClaim"];
    let at = At::top("spec");
    let list = at.member("limits");
    let mut seen = BTreeSet::new();
    for (i, limit) in items(&new["spec"], "limits").iter().enumerate() {
        let at = list.item(i);
        let kind = word(limit, "type");
        let faults = checks::label_key(kind);
        refuse(at.member("type"), kind, &faults, causes);
        if faults.is_empty() && !kind.contains('/') && !TYPES.contains(&kind) {
            let why = "must be a standard limit type or fully qualified";
            refuse(at.member("type"), kind, &[why], causes);
        }
        if !seen.insert(kind) {
            causes.push(Cause::duplicate(at.member("type"), &format!("{kind:?}")));
        }
        check_limit(at, limit, kind, causes);
    }
}

fn check_limit(at: At<'_>, limit: &Value, kind: &str, causes: &mut Vec<Cause>) {
    let mut names: BTreeSet<&String> = BTreeSet::new();
    for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let at = at.member(field);
        if kind == "Pod" && field.starts_with("default") {
            if entries(limit, field).next().is_some() {
                causes.push(Cause::forbidden(at, "may not be specified when `type` is 'Pod'"));
            }
            continue;
        }
        for (name, _) in entries(limit, field) {
            if matches!(kind, "Pod" | "Container") {
                container_resource(at.key(name), name, causes);
            } else {
                resource_name(at.key(name), name, causes);
            }
            names.insert(name);
        }
    }
    let storage = |field: &str| limit.get(field).and_then(|f| f.get("storage"));
    if kind == "PersistentVolumeClaim" && storage("min").is_none() && storage("max").is_none() {
        causes.push(Cause::required(
            at.member("limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        ));
    }
    for name in names {
        check_order(at, limit, kind, name, causes);
    }
}

/// The five amounts of one resource must go together.
fn check_order(at: At<'_>, limit: &Value, kind: &str, name: &str, causes: &mut Vec<Cause>) {
    const ONE: i128 = 1_000_000_000;
    let of = |field: &str| {
        (kind != "Pod" || !field.starts_with("default"))
            .then(|| limit.get(field)?.get(name))
            .flatten()
            .and_then(quantity::nanos)
    };
    let mut wrong = |field: &str, why: &str| {
        let value = limit
            .get(field)
            .and_then(|f| f.get(name))
            .map_or_else(String::new, ToString::to_string);
        let at = at.member(field);
        causes.push(Cause::invalid(at.key(name), &value, why));
    };
    for (low, high, named, why) in [
        ("min", "max", "min", "min value is greater than max value"),
        (
            "min",
            "defaultRequest",
            "defaultRequest",
            "min value is greater than default request value",
        ),
        (
            "defaultRequest",
            "max",
            "defaultRequest",
            "default request value is greater than max value",
        ),
        (
            "defaultRequest",
            "default",
            "defaultRequest",
            "default request value is greater than default limit value",
        ),
        ("min", "default", "default", "min value is greater than default value"),
        ("default", "max", "default", "default value is greater than max value"),
    ] {
        if let (Some(low), Some(high)) = (of(low), of(high))
            && low > high
        {
            wrong(named, why);
        }
    }
    if let Some(ratio) = of("maxLimitRequestRatio") {
        if ratio < ONE {
            wrong("maxLimitRequestRatio", "ratio is less than 1");
        }
        if let (Some(min), Some(max)) = (of("min"), of("max")) {
            // ratio > max / min, without dividing.
            if ratio
                .checked_mul(min)
                .zip(max.checked_mul(ONE))
                .is_some_and(|(r, m)| min > 0 && r > m)
            {
                wrong("maxLimitRequestRatio", "ratio is greater than max/min");
            }
        }
    }
    if (!is_native(name) || is_huge_page(name))
        && let (Some(default), Some(request)) = (of("default"), of("defaultRequest"))
        && default != request
    {
        wrong("defaultRequest", "default value must equal to defaultRequest value");
    }
}

// ---- ResourceQuota ----

fn resource_quota() -> KindSpec {
    KindSpec {
        status: StatusPart::Apart,
        special: Special {
            validate_status: Some(validate_quota),
            returns_deleted: true,
            ..Special::default()
        },
        validate: Some(validate_quota),
        columns: vec![
            Column::name(),
            computed("Request", "string", "What is used of what may be asked for.", |q| {
                used(q, false)
            }),
            computed("Limit", "string", "What is used of the limits.", |q| used(q, true)),
            Column::age(),
        ],
        ..row("", "core", "ResourceQuota", &["quota"])
    }
}

fn used(quota: &Value, limits: bool) -> Value {
    let status = &quota["status"];
    let list: Vec<String> = entries(status, "hard")
        .filter(|(name, _)| name.starts_with("limits.") == limits)
        .map(|(name, hard)| {
            let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
            let used = status
                .get("used")
                .and_then(|u| u.get(name))
                .map_or_else(|| "0".to_owned(), text);
            format!("{name}: {used}/{}", text(hard))
        })
        .collect();
    json!(list.join(", "))
}

fn validate_quota(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let at = At::top("spec");
    let spec = &new["spec"];
    let hard = spec.get("hard").and_then(Value::as_object);
    check_amounts(at.member("hard"), spec, "hard", causes);
    let status = At::top("status");
    for field in ["hard", "used"] {
        check_amounts(status.member(field), &new["status"], field, causes);
    }
    let scopes: Vec<&str> = items(spec, "scopes").iter().filter_map(Value::as_str).collect();
    let list = at.member("scopes");
    check_scopes(list, list, &scopes, hard, &spec["scopes"], causes);
    if let Some(selector) = checks::part(spec, "scopeSelector") {
        let at = at.member("scopeSelector");
        let list = at.member("matchExpressions");
        let terms = items(selector, "matchExpressions");
        let names: Vec<&str> = terms.iter().map(|t| word(t, "scopeName")).collect();
        check_scopes(list, list.member("scopeName"), &names, hard, selector, causes);
        for term in terms {
            check_scope_term(list, term, causes);
        }
    }
    if let Some(old) = old {
        let set = |quota: &Value| -> BTreeSet<String> {
            items(&quota["spec"], "scopes")
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        if set(new) != set(old) {
            causes.push(Cause::invalid(list, &spec["scopes"].to_string(), checks::IMMUTABLE));
        }
    }
}

fn check_amounts(at: At<'_>, of: &Value, field: &str, causes: &mut Vec<Cause>) {
    for (name, value) in entries(of, field) {
        let at = at.key(name);
        resource_name(at, name, causes);
        if !name.contains('/') && !is_quota(name) {
            refuse(at, name, &["must be a standard resource for quota"], causes);
        }
        amount(at, name, value, causes);
    }
}

fn check_scopes(
    at: At<'_>,
    at_name: At<'_>,
    scopes: &[&str],
    hard: Option<&Map<String, Value>>,
    shown: &Value,
    causes: &mut Vec<Cause>,
) {
    const KNOWN: [&str; 7] = [
        "Terminating",
        "NotTerminating",
        "BestEffort",
        "NotBestEffort",
        "PriorityClass",
        "CrossNamespacePodAffinity",
        "VolumeAttributesClass",
    ];
    const COMPUTE: [&str; 6] = [
        "cpu",
        "memory",
        "limits.cpu",
        "limits.memory",
        "requests.cpu",
        "requests.memory",
    ];
    let shown = shown.to_string();
    for scope in scopes {
        if !KNOWN.contains(scope) {
            causes.push(Cause::invalid(at_name, &shown, "unsupported scope"));
        }
        for name in hard.into_iter().flat_map(Map::keys).map(String::as_str) {
            let fits = match *scope {
                "BestEffort" => name == "pods",
                "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage"),
                s if KNOWN.contains(&s) => name == "pods" || COMPUTE.contains(&name),
                _ => true,
            };
            if is_quota(name) && !fits {
                causes.push(Cause::invalid(at, &shown, "unsupported scope applied to resource"));
            }
        }
    }
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&one) && scopes.contains(&other) {
            causes.push(Cause::invalid(at, &shown, "conflicting scopes"));
        }
    }
}

fn check_scope_term(at: At<'_>, term: &Value, causes: &mut Vec<Cause>) {
    let operator = word(term, "operator");
    let plain = !matches!(word(term, "scopeName"), "PriorityClass" | "VolumeAttributesClass");
    if plain && operator != "Exists" {
        refuse(
            at.member("operator"),
            operator,
            &["must be 'Exists' for the scope"],
            causes,
        );
    }
    let values = items(term, "values");
    match operator {
        "In" | "NotIn" if values.is_empty() => causes.push(Cause::required(
            at.member("values"),
            "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
        )),
        "Exists" | "DoesNotExist" if !values.is_empty() => causes.push(Cause::invalid(
            at.member("values"),
            &term["values"].to_string(),
            "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
        )),
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => refuse(at.member("operator"), other, &["not a valid selector operator"], causes),
    }
}
