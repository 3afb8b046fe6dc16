//! What makes pods: Deployments.

use serde_json::{Map, Value, json};

use super::pods::{check_pod_spec, complete_pod_spec};
use super::shared::{default_to, label_selector_text, number, part, selects};
use super::{computed, row, scale};
use crate::api::kinds::{KindSpec, StatusPart};
use crate::api::status::Cause;
use crate::api::table::Column;

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![deployment()]
}

fn deployment() -> KindSpec {
    KindSpec {
        categories: vec!["all".into()],
        status: StatusPart::Apart,
        generation: true,
        prepare: Some(prepare_deployment),
        validate: Some(validate_deployment),
        scale: scale(".spec.replicas", ".status.replicas", ".spec.selector"),
        columns: vec![
            Column::name(),
            computed(
                "Ready",
                "string",
                "Number of the pod with ready state",
                deployment_ready,
            ),
            computed("Up-to-date", "string", "Pods of the newest template.", |d| {
                number(d, "/status/updatedReplicas")
            }),
            computed("Available", "string", "Pods ready for long enough.", |d| {
                number(d, "/status/availableReplicas")
            }),
            Column::age(),
            computed(
                "Containers",
                "string",
                "Names of each container in the template.",
                |d| template(d, "name"),
            )
            .wide(),
            computed(
                "Images",
                "string",
                "Images referenced by each container in the template.",
                |d| template(d, "image"),
            )
            .wide(),
            computed("Selector", "string", "Selects the pods.", selector_text).wide(),
        ],
        ..row("apps", "apps", "Deployment", &["deploy"])
    }
}

fn prepare_deployment(new: &mut Value, _old: Option<&Value>, _now: &str) {
    let Some(spec) = part(new, "spec") else { return };
    let strategy = spec
        .entry("strategy".to_owned())
        .or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(strategy) = strategy {
        default_to(strategy, "type", json!("RollingUpdate"));
        if strategy.get("type") == Some(&json!("RollingUpdate")) {
            let rolling = strategy
                .entry("rollingUpdate".to_owned())
                .or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(rolling) = rolling {
                default_to(rolling, "maxSurge", json!("25%"));
                default_to(rolling, "maxUnavailable", json!("25%"));
            }
        }
    }
    if let Some(Value::Object(pod)) = spec.get_mut("template").and_then(|t| t.get_mut("spec")) {
        complete_pod_spec(pod);
    }
}

fn validate_deployment(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let selector = new.pointer("/spec/selector").filter(|s| !s.is_null());
    let labels = new.pointer("/spec/template/metadata/labels");
    let shown = labels.map_or_else(|| "null".to_owned(), ToString::to_string);
    if let Some(n) = new.pointer("/spec/replicas").and_then(Value::as_i64)
        && n < 0
    {
        causes.push(Cause::invalid(
            "spec.replicas",
            &n.to_string(),
            "must be greater than or equal to 0",
        ));
    }
    let matches = match selector {
        None => {
            causes.push(Cause::required("spec.selector", ""));
            false
        }
        Some(s) => selects(s, labels),
    };
    if !matches {
        causes.push(Cause::invalid(
            "spec.template.metadata.labels",
            &shown,
            "`selector` does not match template `labels`",
        ));
    }
    check_pod_spec(new.pointer("/spec/template/spec"), "spec.template.spec", causes);
    if let Some(old) = old
        && old.pointer("/spec/selector") != new.pointer("/spec/selector")
    {
        causes.push(Cause::invalid(
            "spec.selector",
            &selector.map_or_else(String::new, ToString::to_string),
            "field is immutable",
        ));
    }
}

fn selector_text(deployment: &Value) -> Value {
    json!(
        deployment
            .pointer("/spec/selector")
            .map_or_else(String::new, label_selector_text)
    )
}

fn deployment_ready(deployment: &Value) -> Value {
    let wanted = deployment
        .pointer("/spec/replicas")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    let ready = deployment
        .pointer("/status/readyReplicas")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    json!(format!("{ready}/{wanted}"))
}

/// One field of each container of the template, joined.
fn template(object: &Value, field: &str) -> Value {
    let list: Vec<&str> = object
        .pointer("/spec/template/spec/containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|c| c.get(field).and_then(Value::as_str))
        .collect();
    json!(list.join(","))
}
