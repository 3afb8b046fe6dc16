//! Services.

use serde_json::{Value, json};

use super::shared::default_to;
use super::{computed, row, text};
use crate::api::connect;
use crate::api::kinds::{KindSpec, Special, StatusPart};
use crate::api::names::NameRule;
use crate::api::status::Cause;
use crate::api::table::Column;

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![service()]
}

fn service() -> KindSpec {
    KindSpec {
        names: NameRule::Label1035,
        categories: vec!["all".into()],
        status: StatusPart::ApartAfterCreate,
        prepare: Some(prepare_service),
        validate: Some(validate_service),
        special: Special {
            connects: connect::OF_SERVICES,
            returns_deleted: true,
            ..Special::default()
        },
        columns: vec![
            Column::name(),
            text("Type", "How the service is reached.", ".spec.type"),
            computed("Cluster-IP", "string", "The address inside the cluster.", |s| {
                s.pointer("/spec/clusterIP").cloned().unwrap_or_else(|| json!("<none>"))
            }),
            computed("External-IP", "string", "The address outside.", |_| json!("<none>")),
            computed("Port(s)", "string", "The ports of the service.", service_ports),
            Column::age(),
        ],
        create_on_update: true,
        ..row("", "core", "Service", &["svc"])
    }
}

fn prepare_service(new: &mut Value, _old: Option<&Value>, _now: &str) {
    if let Some(Value::Array(ports)) = new.pointer_mut("/spec/ports") {
        for port in ports {
            if let Value::Object(port) = port
                && let Some(number) = port.get("port").cloned()
            {
                default_to(port, "targetPort", number);
            }
        }
    }
}

fn validate_service(new: &Value, _old: Option<&Value>, causes: &mut Vec<Cause>) {
    let in_range = |v: &Value| v.as_i64().is_some_and(|n| (1..=65535).contains(&n));
    let why = "must be between 1 and 65535, inclusive";
    let ports = new.pointer("/spec/ports").and_then(Value::as_array);
    for (i, port) in ports.into_iter().flatten().enumerate() {
        for field in ["port", "targetPort"] {
            if let Some(n) = port.get(field).filter(|v| v.is_number() && !in_range(v)) {
                causes.push(Cause::invalid(format!("spec.ports[{i}].{field}"), &n.to_string(), why));
            }
        }
    }
    let headless = matches!(new.pointer("/spec/clusterIP"), Some(Value::String(s)) if s == "None");
    let external = matches!(new.pointer("/spec/type"), Some(Value::String(s)) if s == "ExternalName");
    if ports.is_none_or(Vec::is_empty) && !headless && !external {
        causes.push(Cause::required("spec.ports", ""));
    }
}

fn service_ports(service: &Value) -> Value {
    let list: Vec<String> = service
        .pointer("/spec/ports")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|p| {
            let protocol = p.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
            format!("{}/{protocol}", p.get("port").unwrap_or(&Value::Null))
        })
        .collect();
    json!(if list.is_empty() {
        "<none>".to_owned()
    } else {
        list.join(",")
    })
}
