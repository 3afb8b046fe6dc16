//! Names for how pods run (priorities, runtimes) and how many of them may be gone.

use serde_json::{Value, json};

use super::checks::{self, At, entries, is_true, items, refuse, whole, word};
use super::quota::{amount, container_resource};
use super::{computed, row, text};
use crate::api::kinds::{KindSpec, Special, StatusPart};
use crate::api::status::Cause;
use crate::api::table::Column;

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![priority_class(), runtime_class(), disruption_budget()]
}

// ---- PriorityClass ----

/// The classes that are always there: name, value, what for.
const SYSTEM: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];
/// The highest priority that people can give.
const HIGHEST: i64 = 1_000_000_000;

/// The classes that are always there.
pub(crate) fn system_priorities() -> impl Iterator<Item = Value> {
    SYSTEM.iter().map(|(name, value, description)| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description})
    })
}

fn priority_class() -> KindSpec {
    KindSpec {
        namespaced: false,
        prepare: Some(prepare_priority),
        validate: Some(validate_priority),
        columns: vec![
            Column::name(),
            computed("Value", "integer", "The priority.", |p| {
                json!(whole(p, "value").unwrap_or(0))
            }),
            computed(
                "Global-Default",
                "boolean",
                "Whether pods that name no class get it.",
                |p| json!(is_true(p, "globalDefault")),
            ),
            Column::age(),
            text(
                "PreemptionPolicy",
                "Whether its pods may take the place of others.",
                ".preemptionPolicy",
            ),
        ],
        ..row("scheduling.k8s.io", "scheduling", "PriorityClass", &["pc"])
    }
}

/// Its generation is that of a thing that does not change.
fn prepare_priority(new: &mut Value, old: Option<&Value>, _now: &str) {
    if let (None, Some(Value::Object(metadata))) = (old, new.get_mut("metadata")) {
        metadata.insert("generation".to_owned(), json!(1));
    }
}

fn validate_priority(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let name = word(&new["metadata"], "name");
    let value = whole(new, "value").unwrap_or(0);
    match old {
        Some(old) => {
            if value != whole(old, "value").unwrap_or(0) {
                causes.push(Cause::forbidden("value", "may not be changed in an update."));
            }
            if new.get("preemptionPolicy") != old.get("preemptionPolicy") {
                let shown = new["preemptionPolicy"].to_string();
                causes.push(Cause::invalid("preemptionPolicy", &shown, checks::IMMUTABLE));
            }
        }
        None if name.starts_with("system-") => {
            let known = SYSTEM.iter().any(|(n, v, _)| *n == name && *v == value);
            if !known || is_true(new, "globalDefault") {
                causes.push(Cause::forbidden(
                    "metadata.name",
                    "priority class names with 'system-' prefix are reserved for system use only",
                ));
            }
        }
        None if value > HIGHEST => causes.push(Cause::forbidden(
            "value",
            &format!("maximum allowed value of a user defined priority is {HIGHEST}"),
        )),
        None => {}
    }
}

// ---- RuntimeClass ----

fn runtime_class() -> KindSpec {
    KindSpec {
        namespaced: false,
        create_on_update: true,
        update_names_version: true,
        validate: Some(validate_runtime),
        columns: vec![
            Column::name(),
            text("Handler", "The runtime that is meant.", ".handler"),
            Column::age(),
        ],
        ..row("node.k8s.io", "node", "RuntimeClass", &[])
    }
}

fn validate_runtime(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let at = At::top("overhead");
    let at = at.member("limits");
    for (name, value) in entries(&new["overhead"], "podFixed") {
        container_resource(at.key(name), name, causes);
        amount(at.key(name), name, value, causes);
    }
    let at = At::top("scheduling");
    let list = at.member("tolerations");
    let tolerations = items(&new["scheduling"], "tolerations");
    for (i, toleration) in tolerations.iter().enumerate() {
        check_toleration(list.item(i), toleration, causes);
        let same = |other: &&Value| {
            ["key", "operator", "value", "effect"]
                .iter()
                .all(|f| word(other, f) == word(toleration, f))
        };
        if tolerations[..i].iter().any(|o| same(&o)) {
            causes.push(Cause::duplicate(list.item(i), &toleration.to_string()));
        }
    }
    if let Some(old) = old
        && old.get("handler") != new.get("handler")
    {
        causes.push(Cause::invalid(
            "handler",
            &new["handler"].to_string(),
            checks::IMMUTABLE,
        ));
    }
}

/// What a pod puts up with.
fn check_toleration(at: At<'_>, toleration: &Value, causes: &mut Vec<Cause>) {
    let (key, operator) = (word(toleration, "key"), word(toleration, "operator"));
    let (value, effect) = (word(toleration, "value"), word(toleration, "effect"));
    if key.is_empty() && operator != "Exists" {
        refuse(
            at.member("operator"),
            operator,
            &["operator must be Exists when `key` is empty, which means \"match all values and all keys\""],
            causes,
        );
    }
    if toleration.get("tolerationSeconds").is_some() && effect != "NoExecute" {
        refuse(
            at.member("effect"),
            effect,
            &["effect must be 'NoExecute' when `tolerationSeconds` is set"],
            causes,
        );
    }
    match operator {
        "Equal" | "" if !checks::label_value(value).is_empty() => {
            refuse(at.member("operator"), value, &["must be the value of a label"], causes);
        }
        "Exists" if !value.is_empty() => refuse(
            at.member("operator"),
            value,
            &["value must be empty when `operator` is 'Exists'"],
            causes,
        ),
        "Equal" | "" | "Exists" => {}
        other => checks::must_be_one_of(at.member("operator"), other, &["Equal", "Exists"], causes),
    }
}

// ---- PodDisruptionBudget ----

fn disruption_budget() -> KindSpec {
    KindSpec {
        status: StatusPart::Apart,
        generation: true,
        validate: Some(validate_budget),
        special: Special {
            validate_status: Some(validate_budget),
            ..Special::default()
        },
        columns: vec![
            Column::name(),
            computed("Min Available", "string", "How many pods must be there.", |b| {
                bound(b, "minAvailable")
            }),
            computed("Max Unavailable", "string", "How many pods may be gone.", |b| {
                bound(b, "maxUnavailable")
            }),
            computed("Allowed Disruptions", "integer", "How many more may go now.", |b| {
                json!(whole(&b["status"], "disruptionsAllowed").unwrap_or(0))
            }),
            Column::age(),
        ],
        update_names_version: true,
        ..row("policy", "policy", "PodDisruptionBudget", &["pdb"])
    }
}

fn bound(budget: &Value, field: &str) -> Value {
    match budget["spec"].get(field) {
        None | Some(Value::Null) => json!("N/A"),
        Some(Value::String(text)) => json!(text),
        Some(number) => json!(number.to_string()),
    }
}

fn validate_budget(new: &Value, _old: Option<&Value>, causes: &mut Vec<Cause>) {
    let spec = &new["spec"];
    let at = At::top("spec");
    if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
        causes.push(Cause::invalid(
            at,
            "",
            "minAvailable and maxUnavailable cannot be both set",
        ));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        if let Some(value) = spec.get(field) {
            check_share(at.member(field), value, causes);
        }
    }
    let at = At::top("status");
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        checks::not_negative(at.member(field), whole(&new["status"], field), causes);
    }
}

/// A number, or a share of all in percent.
fn check_share(at: At<'_>, value: &Value, causes: &mut Vec<Cause>) {
    let Value::String(text) = value else {
        checks::not_negative(at, value.as_i64(), causes);
        return;
    };
    match text
        .strip_suffix('%')
        .filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    {
        None => refuse(
            at,
            text,
            &["a valid percent string must be a numeric string followed by an ending '%'"],
            causes,
        ),
        Some(number) if number.trim_start_matches('0').len() > 3 || number.parse::<u32>().is_ok_and(|n| n > 100) => {
            refuse(at, text, &["must not be greater than 100%"], causes);
        }
        Some(_) => {}
    }
}
