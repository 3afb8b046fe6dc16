//! What nodes and pods use: rows that are there where programs are reached.

use std::sync::Arc;

use serde_json::Value;

use super::row;
use crate::api::kinds::{KindSpec, Review, Storage};
use crate::api::schema::{Schema, Type, types};
use crate::api::table::{Cell, Column, path};

const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";

/// The rows of this file.
pub(crate) fn kinds() -> Vec<KindSpec> {
    vec![
        KindSpec {
            namespaced: false,
            ..measured("NodeMetrics", "nodes", Review::Nodes)
        },
        measured("PodMetrics", "pods", Review::Pods),
    ]
}

fn measured(kind: &str, plural: &str, of: Review) -> KindSpec {
    // What is in it is nobody's to write, so its form is not checked.
    let schema = types::with_object_fields(Schema {
        name: Some(format!("io.k8s.metrics.pkg.apis.metrics.v1beta1.{kind}").into()),
        ty: Some(Type::Object),
        preserve: true,
        ..Schema::default()
    });
    KindSpec {
        group: GROUP.into(),
        version: VERSION.into(),
        kind: kind.into(),
        list_kind: format!("{kind}List").into(),
        plural: plural.into(),
        singular: "".into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        schema: Arc::new(schema),
        table_type: None,
        storage: Storage {
            group: GROUP.into(),
            plural: plural.into(),
            api_version: format!("{GROUP}/{VERSION}").into(),
            view: None,
        },
        columns: vec![
            Column::name(),
            Column::new("cpu", "string", "", Cell::Of(|o| sum(o, "cpu"))),
            Column::new("memory", "string", "", Cell::Of(|o| sum(o, "memory"))),
            Column::new(
                "window",
                "string",
                "",
                path(".window").map_or(Cell::Of(|_| Value::Null), Cell::Value),
            ),
        ],
        review: Some(of),
        ..row("", "core", "Pod", &[])
    }
}

/// What is used in all, in the units in which parts of it are told (`n`, `Ki`).
fn sum(object: &Value, resource: &str) -> Value {
    if let Some(whole) = object["usage"][resource].as_str() {
        return whole.into();
    }
    let containers = object["containers"].as_array().into_iter().flatten();
    let parts: Vec<&str> = containers.filter_map(|c| c["usage"][resource].as_str()).collect();
    let unit = parts
        .first()
        .map_or("", |text| text.trim_start_matches(|c: char| c.is_ascii_digit()));
    let numbers = parts
        .iter()
        .filter_map(|text| text.strip_suffix(unit)?.parse::<u64>().ok());
    format!("{}{unit}", numbers.sum::<u64>()).into()
}
