//! The lists that the members of a site answer with, put together into one. Pure.
//!
//! A plain list is all items, in the order of the members' names, each with an annotation that says whose it is: what every member has is
//! there once for each. A table has the columns of the first member. `metadata.resourceVersion` is empty: the members' revisions have
//! nothing to do with each other, and a client that is given none begins anew instead of going on from one.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Annotation of a merged list's items: the gateway that has it.
pub(super) const GATEWAY: &str = "kurator.dev/gateway";
/// Items of a merged list at most: it comes at once and is held here meanwhile.
pub(super) const MOST: usize = 10_000;

/// Why there is no merged list.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unmergeable {
    #[error("the gateways have more than {MOST} of them: ask for one namespace, or with a selector")]
    TooMany,
    #[error("gateway {0} does not answer with a list: {1}")]
    NotAList(Arc<str>, String),
    #[error("gateway {0} answers with a {1}, the ones before with a {2}")]
    Mixed(Arc<str>, String, String),
}

#[derive(Debug, Deserialize)]
struct Answer<'a> {
    kind: String,
    #[serde(rename = "apiVersion")]
    api_version: String,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default, rename = "columnDefinitions")]
    columns: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    rows: Option<Vec<&'a RawValue>>,
}

#[derive(Debug, Deserialize)]
struct Column {
    name: String,
}

type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// A piece of an object's top level, written anew.
fn write(out: &mut Vec<u8>, fields: &Fields<'_>, name: &str, value: &Value) -> serde_json::Result<()> {
    out.push(b'{');
    for (key, raw) in fields.iter().filter(|(key, _)| *key != name) {
        serde_json::to_writer(&mut *out, key)?;
        out.push(b':');
        out.extend_from_slice(raw.get().as_bytes());
        out.push(b',');
    }
    serde_json::to_writer(&mut *out, name)?;
    out.push(b':');
    serde_json::to_writer(&mut *out, value)?;
    out.push(b'}');
    Ok(())
}

/// An item, marked as this member's.
fn item(out: &mut Vec<u8>, member: &str, raw: &RawValue) -> serde_json::Result<()> {
    let fields: Fields<'_> = serde_json::from_str(raw.get())?;
    let metadata = fields.get("metadata").map(|m| serde_json::from_str(m.get()));
    let mut metadata: Map<String, Value> = metadata.transpose()?.unwrap_or_default();
    let annotations = metadata.entry("annotations").or_insert(Value::Null);
    if !annotations.is_object() {
        *annotations = Value::Object(Map::new());
    }
    annotations[GATEWAY] = member.into();
    write(out, &fields, "metadata", &metadata.into())
}

/// A row, under other columns where they are others.
fn row(out: &mut Vec<u8>, order: Option<&[Option<usize>]>, raw: &RawValue) -> serde_json::Result<()> {
    let Some(order) = order else {
        out.extend_from_slice(raw.get().as_bytes());
        return Ok(());
    };
    let fields: Fields<'_> = serde_json::from_str(raw.get())?;
    let cells = fields.get("cells").map(|c| serde_json::from_str(c.get()));
    let cells: Vec<Value> = cells.transpose()?.unwrap_or_default();
    let cell = |at: &Option<usize>| at.and_then(|at| cells.get(at)).cloned().unwrap_or_default();
    write(out, &fields, "cells", &order.iter().map(cell).collect())
}

fn names(columns: &[&RawValue]) -> serde_json::Result<Vec<String>> {
    let name = |raw: &&RawValue| Ok(serde_json::from_str::<Column>(raw.get())?.name);
    columns.iter().map(name).collect()
}

/// Puts the bodies of answers together, which are in the order of the members' names.
///
/// # Errors
/// When they are too many, or are not lists of one form.
pub(super) fn merge(answers: &[(Arc<str>, Bytes)]) -> Result<Vec<u8>, Unmergeable> {
    let mut out = Vec::new();
    let mut first: Option<(String, Vec<String>)> = None;
    let mut count = 0_usize;
    for (member, body) in answers {
        let wrong = |e: serde_json::Error| Unmergeable::NotAList(Arc::clone(member), e.to_string());
        let answer: Answer<'_> = serde_json::from_slice(body).map_err(wrong)?;
        let is_table = answer.kind == "Table";
        if !is_table && !answer.kind.ends_with("List") {
            return Err(Unmergeable::NotAList(
                Arc::clone(member),
                format!("it is a {}", answer.kind),
            ));
        }
        let columns = answer.columns.unwrap_or_default();
        let names = names(&columns).map_err(wrong)?;
        let (kind, shown) = if let Some(first) = &first {
            first
        } else {
            let written = head(
                &mut out,
                &answer.kind,
                &answer.api_version,
                is_table.then_some(&*columns),
            );
            written.map_err(wrong)?;
            first.insert((answer.kind.clone(), names.clone()))
        };
        if *kind != answer.kind {
            return Err(Unmergeable::Mixed(Arc::clone(member), answer.kind, kind.clone()));
        }
        let places = |name: &String| names.iter().position(|n| n == name);
        let order: Option<Vec<Option<usize>>> = (*shown != names).then(|| shown.iter().map(places).collect());
        let entries = if is_table { answer.rows } else { answer.items };
        for raw in entries.unwrap_or_default() {
            if count == MOST {
                return Err(Unmergeable::TooMany);
            }
            if count > 0 {
                out.push(b',');
            }
            count += 1;
            let written = if is_table {
                row(&mut out, order.as_deref(), raw)
            } else {
                item(&mut out, member, raw)
            };
            written.map_err(wrong)?;
        }
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

fn head(out: &mut Vec<u8>, kind: &str, version: &str, columns: Option<&[&RawValue]>) -> serde_json::Result<()> {
    out.extend_from_slice(b"{\"kind\":");
    serde_json::to_writer(&mut *out, kind)?;
    out.extend_from_slice(b",\"apiVersion\":");
    serde_json::to_writer(&mut *out, version)?;
    out.extend_from_slice(b",\"metadata\":{\"resourceVersion\":\"\"},");
    if let Some(columns) = columns {
        out.extend_from_slice(b"\"columnDefinitions\":");
        serde_json::to_writer(&mut *out, columns)?;
        out.push(b',');
    }
    out.extend_from_slice(if columns.is_some() {
        b"\"rows\":["
    } else {
        b"\"items\":["
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(answers: &[(&str, Value)]) -> Result<Value, Unmergeable> {
        let answers: Vec<(Arc<str>, Bytes)> = answers
            .iter()
            .map(|(member, body)| (Arc::from(*member), Bytes::from(body.to_string())))
            .collect();
        merge(&answers).map(|body| serde_json::from_slice(&body).unwrap())
    }

    fn pods(names: &[&str]) -> Value {
        let pod = |name: &&str| json!({"metadata": {"name": name, "annotations": {"a": "b"}}, "spec": {"x": 1.0}});
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "7", "continue": "x"},
            "items": names.iter().map(pod).collect::<Vec<_>>()})
    }

    #[test]
    fn a_list_is_everybodys_items_and_says_whose_they_are() {
        let nothing = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": null});
        let bare = json!({"kind": "PodList", "apiVersion": "v1", "items": [{"metadata": {"name": "p", "annotations": null}}, {}]});
        let list = merged(&[("a", pods(&["p", "q"])), ("b", nothing), ("c", bare)]).unwrap();
        let item = |name: &str| json!({"metadata": {"name": name, "annotations": {"a": "b", GATEWAY: "a"}}, "spec": {"x": 1.0}});
        assert_eq!(
            list,
            json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": ""}, "items": [
                item("p"), item("q"), {"metadata": {"name": "p", "annotations": {GATEWAY: "c"}}},
                {"metadata": {"annotations": {GATEWAY: "c"}}},
            ]})
        );
    }

    fn table(columns: &[&str], rows: &[Value]) -> Value {
        let column = |name: &&str| json!({"name": name, "type": "string", "priority": 0});
        let row = |cells: &Value| json!({"cells": cells, "object": {"metadata": {"name": cells[0]}}});
        json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": "9"},
            "columnDefinitions": columns.iter().map(column).collect::<Vec<_>>(),
            "rows": rows.iter().map(row).collect::<Vec<_>>()})
    }

    #[test]
    fn a_table_has_the_columns_of_the_first() {
        let a = table(&["Name", "Ready"], &[json!(["p", "1/1"])]);
        let b = table(&["Name", "Ready"], &[json!(["q", "0/1"]), json!(["r", "1/1"])]);
        let other = table(&["Name", "Age", "Ready"], &[json!(["s", "4d", "1/1"])]);
        let less = table(&["Name"], &[json!(["t"])]);
        let all = merged(&[("a", a.clone()), ("b", b), ("c", other), ("d", less)]).unwrap();
        assert_eq!(all["columnDefinitions"], a["columnDefinitions"]);
        assert_eq!(all["metadata"], json!({"resourceVersion": ""}));
        let cells: Vec<&Value> = all["rows"].as_array().unwrap().iter().map(|r| &r["cells"]).collect();
        assert_eq!(
            json!(cells),
            json!([["p", "1/1"], ["q", "0/1"], ["r", "1/1"], ["s", "1/1"], ["t", null]])
        );
        assert_eq!(all["rows"][3]["object"]["metadata"]["name"], "s");
    }

    #[test]
    fn what_is_no_list_or_too_long_is_not_merged() {
        let refused = |answers: &[(&str, Value)]| merged(answers).unwrap_err().to_string();
        assert_eq!(
            refused(&[("a", json!({"kind": "Pod", "apiVersion": "v1"}))]),
            "gateway a does not answer with a list: it is a Pod"
        );
        assert!(matches!(
            merged(&[("a", json!("hello"))]),
            Err(Unmergeable::NotAList(..))
        ));
        assert_eq!(
            refused(&[("a", pods(&[])), ("b", table(&["Name"], &[]))]),
            "gateway b answers with a Table, the ones before with a PodList"
        );
        let half = pods(&["p"; MOST / 2]);
        assert!(merged(&[("a", half.clone()), ("b", half.clone())]).is_ok());
        assert_eq!(
            merged(&[("a", half.clone()), ("b", half), ("c", pods(&["p"]))]),
            Err(Unmergeable::TooMany)
        );
    }
}
