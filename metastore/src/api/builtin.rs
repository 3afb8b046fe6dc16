//! The table of the kinds that are there without a definition. Each file below holds the rows of one area with what its kinds do beyond the
//! common rules; here stand the list of areas and what makes a row.

use std::sync::Arc;

use serde_json::Value;

use super::kinds::{Deletion, KindSpec, Scale, Selected, Selector, Special, StatusPart, Storage};
use super::names::NameRule;
use super::schema::types;
use super::table::{Cell, Column, path};

mod access;
mod checks;
mod classes;
mod container_rules;
mod core;
pub mod cron;
mod data;
mod endpoints;
mod events;
mod job_rules;
mod jobs;
#[cfg(test)]
mod maximal;
pub(super) mod measured;
mod network;
mod nodes;
mod pod_cells;
mod pod_spec;
mod pod_update;
mod pods;
mod quota;
mod rbac;
mod service;
mod shared;
mod storage;
mod workload_rules;
mod workloads;

pub(crate) use classes::system_priorities;
pub(crate) use service::Gave;

const APIEXTENSIONS: &str = "apiextensions.k8s.io";

/// Where definitions live.
pub(crate) const DEFINITIONS: (&str, &str) = (APIEXTENSIONS, "customresourcedefinitions");

/// All built-in rows. `ApiServer::builder` starts from them.
pub fn builtin_kinds() -> Vec<KindSpec> {
    [
        core::kinds(),
        nodes::kinds(),
        data::kinds(),
        service::kinds(),
        pods::kinds(),
        events::kinds(),
        workloads::kinds(),
        rbac::kinds(),
        endpoints::kinds(),
        network::kinds(),
        storage::kinds(),
        quota::kinds(),
        classes::kinds(),
        jobs::kinds(),
        extensions(),
        access::kinds(),
    ]
    .concat()
}

fn extensions() -> Vec<KindSpec> {
    vec![definition()]
}

/// A namespaced row with Name and Age columns; `kind` must stand in the table of types under `package`.
fn row(group: &str, package: &str, kind: &str, short: &[&str]) -> KindSpec {
    let singular = kind.to_lowercase();
    let plural = if singular.ends_with('s') {
        format!("{singular}es")
    } else if let Some(stem) = singular.strip_suffix('y') {
        format!("{stem}ies")
    } else {
        format!("{singular}s")
    };
    let api_version = if group.is_empty() {
        "v1".to_owned()
    } else {
        format!("{group}/v1")
    };
    let table_type = format!("{package}.v1.{kind}");
    let group: Arc<str> = group.into();
    let plural: Arc<str> = plural.into();
    KindSpec {
        group: group.clone(),
        version: "v1".into(),
        kind: kind.into(),
        list_kind: format!("{kind}List").into(),
        plural: plural.clone(),
        singular: singular.into(),
        short_names: short.iter().map(|s| (*s).into()).collect(),
        categories: Vec::new(),
        namespaced: true,
        schema: types::named(&table_type).expect("every row's type stands in the table, as a test shows"),
        table_type: Some(table_type.into()),
        custom: false,
        storage: Storage {
            group,
            plural,
            api_version: api_version.into(),
            view: None,
        },
        names: NameRule::Subdomain,
        create_on_update: false,
        update_names_version: false,
        status: StatusPart::Whole,
        scale: None,
        rules: None,
        versions: Arc::default(),
        since: 0,
        generation: false,
        columns: vec![Column::name(), Column::age()],
        fields: Vec::new(),
        prepare: None,
        validate: None,
        deletion: Deletion::Plain,
        review: None,
        actions: Vec::new(),
        deprecated: None,
        special: Special::default(),
    }
}

/// Fields for selectors: `name`, or `name@path` where it stands elsewhere, and `=zero` where absent means that.
fn fields(list: &[&'static str]) -> Vec<Selected> {
    list.iter()
        .filter_map(|f| {
            let (f, zero) = f.split_once('=').unwrap_or((f, ""));
            let (name, at) = f.split_once('@').unwrap_or((f, f));
            Some(Selected {
                name: name.into(),
                path: path(&format!(".{at}"))?,
                zero,
            })
        })
        .collect()
}

fn text(name: &str, about: &str, at: &str) -> Column {
    let cell = path(at).map_or(Cell::Of(|_| Value::Null), Cell::Word);
    Column::new(name, "string", about, cell)
}

fn computed(name: &str, ty: &str, about: &str, of: fn(&Value) -> Value) -> Column {
    Column::new(name, ty, about, Cell::Of(of))
}

/// A column that is computed by the time.
fn timed(name: &str, about: &str, of: fn(&Value, u64) -> Value) -> Column {
    Column::new(name, "string", about, Cell::Now(of))
}

fn scale(spec: &str, status: &str, selector: &str) -> Option<Scale> {
    Some(Scale {
        spec: path(spec)?,
        status: path(status)?,
        selector: Selector::Labels(path(selector)?),
    })
}

fn definition() -> KindSpec {
    KindSpec {
        namespaced: false,
        categories: vec!["api-extensions".into()],
        status: StatusPart::Apart,
        generation: true,
        deletion: Deletion::EmptiesKind,
        prepare: Some(super::definitions::prepare),
        validate: Some(super::definitions::validate),
        columns: vec![
            Column::name(),
            text("Created At", "When it was created.", ".metadata.creationTimestamp"),
        ],
        ..row(
            APIEXTENSIONS,
            "apiextensions",
            "CustomResourceDefinition",
            &["crd", "crds"],
        )
    }
}

pub(crate) use access::token_request;

/// Whether a label selector (`matchLabels`, `matchExpressions`) that is not empty selects these labels. One that is empty or wrong selects none.
pub fn selects(selector: &Value, labels: Option<&Value>) -> bool {
    shared::selects(selector, labels)
}

/// Whether the condition of a type is true.
pub(crate) fn is_condition(object: &Value, ty: &str) -> bool {
    shared::is_condition(object, ty)
}

/// The label selector of an object as text, for scale and tables.
pub(crate) fn selector_text(selector: &Value) -> String {
    shared::label_selector_text(selector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_type_its_columns_and_its_selectable_fields() {
        for kind in builtin_kinds() {
            assert!(!kind.columns.is_empty());
            assert_eq!(
                kind.schema.ty,
                Some(super::super::schema::Type::Object),
                "{}",
                kind.kind
            );
        }
        assert_eq!(pods::kinds()[0].fields.len(), 9);
        assert!(workloads::kinds()[0].scale.is_some());
    }
}
