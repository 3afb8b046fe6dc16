//! What a member reports of an object's status.

use serde_json::{Map, Value, json};

use super::counts::{Counts, Generations};
use super::kind::Kind;
use super::look::{annotation, is_zero, map, number, text};
use crate::names::TEMPLATE_GENERATION;

/// The `status` of the manifest status that a member reports of this object; nothing where the field is to be left out.
///
/// Of the workloads it is the numbers and the generations that they are of: the member's own, and the template's that the object was made
/// from. Of kinds without a rule it is the whole status, if there is one.
pub fn reflect(object: &Value) -> Option<Value> {
    let status = map(object, "/status")?;
    let Some(kind) = Kind::of(object) else {
        return Some(Value::Object(status.clone()));
    };
    if let Some(counts) = Counts::of(kind) {
        return counted(object, status, kind, counts);
    }
    match kind {
        Kind::Service if text(object, "/spec/type") != "LoadBalancer" => None,
        Kind::Service => {
            let balancer = map(object, "/status/loadBalancer").cloned().unwrap_or_default();
            Some(json!({ "loadBalancer": balancer }))
        }
        _ => Some(Value::Object(status.clone())),
    }
}

fn counted(object: &Value, status: &Map<String, Value>, kind: Kind, counts: Counts) -> Option<Value> {
    let mut report = Map::new();
    let mut put = |name: &str, value: i64, required: bool| {
        if required || value != 0 {
            report.insert(name.to_owned(), value.into());
        }
    };
    let of_status = |name: &str| status.get(name).and_then(Value::as_i64).unwrap_or_default();
    for (name, required) in counts.each() {
        put(name, of_status(name), required);
    }
    if counts.generations != Generations::None {
        put("generation", number(object, "/metadata/generation"), false);
        let of_template = annotation(object, TEMPLATE_GENERATION).parse().unwrap_or_default();
        put("resourceTemplateGeneration", of_template, false);
    }
    if counts.generations == Generations::Observed {
        put("observedGeneration", of_status("observedGeneration"), false);
    }
    let whole: &[&str] = match kind {
        Kind::Job => &["conditions", "startTime", "completionTime"],
        Kind::PodDisruptionBudget => &["disruptedPods"],
        _ => &[],
    };
    for name in whole {
        if let Some(value) = status.get(*name).filter(|value| !is_zero(value)) {
            report.insert((*name).to_owned(), value.clone());
        }
    }
    // Of a Deployment that nobody has looked at yet there is nothing to say.
    (kind != Kind::Deployment || !report.is_empty()).then_some(Value::Object(report))
}
