//! CustomResourceDefinitions: what one may say, and the rows of the kind table that it becomes.
//!
//! A definition is refused as a whole or takes effect as a whole; its conditions say so in the same write.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::custom;
use super::jsonpath::Path;
use super::kinds::{Deletion, KindSpec, Scale, Selected, Selector, Special, StatusPart, Storage, priority};
use super::names::NameRule;
use super::rules::RuleEngine;
use super::schema::{Schema, formats, parse, types};
use super::status::Cause;
use super::table::{Cell, Column};

mod accept;
mod decode;
mod spec;
mod structural;

pub(crate) use accept::{CLEANUP, Taken, accept, in_progress, terminate};
pub(crate) use decode::decode;

/// Most versions of one definition.
const MAX_VERSIONS: usize = 32;

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn versions(definition: &Value) -> &[Value] {
    definition
        .pointer("/spec/versions")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// A condition of a definition.
pub(crate) fn condition<'v>(definition: &'v Value, kind: &str) -> Option<&'v Value> {
    definition
        .pointer("/status/conditions")?
        .as_array()?
        .iter()
        .find(|c| text(c, "/type") == kind)
}

/// Completes a definition: names that follow from others, and the versions in which objects may be stored. Its status is the server's.
pub(crate) fn prepare(new: &mut Value, old: Option<&Value>, _now: &str) {
    let kind = text(new, "/spec/names/kind").to_owned();
    if let Some(Value::Object(names)) = new.pointer_mut("/spec/names") {
        for (field, value) in [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))] {
            if names.get(field).and_then(Value::as_str).is_none_or(str::is_empty) && !kind.is_empty() {
                names.insert(field.to_owned(), json!(value));
            }
        }
    }
    if let Some(Value::Object(spec)) = new.get_mut("spec") {
        spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
        // Says what is so anyway.
        if spec.get("preserveUnknownFields") == Some(&Value::Bool(false)) {
            spec.remove("preserveUnknownFields");
        }
    }
    let mut status = old.and_then(|o| o.get("status")).cloned().unwrap_or_else(|| json!({}));
    let storage = versions(new)
        .iter()
        .find(|v| v.get("storage") == Some(&Value::Bool(true)))
        .map(|v| json!(text(v, "/name")));
    if let Some(map) = status.as_object_mut() {
        let stored = map.entry("storedVersions").or_insert_with(|| json!([]));
        if let (Some(list), Some(version)) = (stored.as_array_mut(), storage)
            && !list.contains(&version)
        {
            list.push(version);
        }
    }
    if let Value::Object(map) = new {
        map.insert("status".to_owned(), status);
    }
}

/// Finds everything that is wrong with a definition, or with a status that was written to it.
pub(crate) fn validate(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    // A write to the status leaves the rest as it was.
    if old.is_some_and(|o| o.get("spec") == new.get("spec") && o.get("metadata").is_some()) {
        spec::check_status(new, causes);
        return;
    }
    spec::check(new, old, causes);
}

/// The field that holds a version's schema: as other servers say it, a schema that all versions share stands once.
fn schema_path(list: &[Value], index: usize) -> String {
    let of = |v: &Value| v.get("schema").cloned();
    if list.iter().all(|v| of(v) == of(&list[0])) {
        "spec.validation.openAPIV3Schema".to_owned()
    } else {
        format!("spec.versions[{index}].schema.openAPIV3Schema")
    }
}

/// The schemas of a definition's versions, each with the field that holds it; one that all share stands once.
pub(crate) fn schemas(definition: &Value) -> Vec<(String, &Value)> {
    let list = versions(definition);
    let mut out: Vec<(String, &Value)> = Vec::new();
    for (i, version) in list.iter().enumerate() {
        let path = schema_path(list, i);
        if let Some(schema) = version.pointer("/schema/openAPIV3Schema")
            && !out.iter().any(|(p, _)| *p == path)
        {
            out.push((path, schema));
        }
    }
    out
}

/// Warnings about formats that mean nothing here; those that were there before were told before.
pub(crate) fn unrecognized_formats(new: &Value, old: Option<&Value>) -> Vec<String> {
    fn within<'v>(schema: &'v Value, out: &mut Vec<&'v str>) {
        let Some(map) = schema.as_object() else { return };
        let format = text(schema, "/format");
        if !format.is_empty() && !formats::is_known(format, text(schema, "/type")) {
            out.push(format);
        }
        for below in ["items", "additionalProperties", "not"]
            .into_iter()
            .filter_map(|k| map.get(k))
        {
            within(below, out);
        }
        for list in ["allOf", "anyOf", "oneOf"]
            .into_iter()
            .filter_map(|k| map.get(k)?.as_array())
        {
            list.iter().for_each(|s| within(s, out));
        }
        for member in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
            within(member.1, out);
        }
    }
    let all = |definition: &Value| -> Vec<String> {
        let mut out = Vec::new();
        for (_, schema) in schemas(definition) {
            within(schema, &mut out);
        }
        out.into_iter().map(str::to_owned).collect()
    };
    let known = old.map(all).unwrap_or_default();
    let fresh = all(new).into_iter().filter(|f| !known.contains(f));
    fresh.map(|f| format!("unrecognized format {f:?}")).collect()
}

/// The rows of a definition that was stored at a revision: one for each served version, and one, marked, for the storage version where that is not
/// served. A definition that was stored is valid; whatever is not is left out.
pub(crate) fn rows(definition: &Value, revision: u64, engine: Option<&Arc<dyn RuleEngine>>) -> Vec<(KindSpec, bool)> {
    let group: Arc<str> = text(definition, "/spec/group").into();
    let names = definition
        .pointer("/status/acceptedNames")
        .cloned()
        .unwrap_or_else(|| json!({}));
    let word = |field: &str| -> Arc<str> { names.get(field).and_then(Value::as_str).unwrap_or_default().into() };
    let list = |field: &str| -> Vec<Arc<str>> {
        names
            .get(field)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(Into::into)
            .collect()
    };
    let established = condition(definition, "Established").is_some_and(|c| text(c, "/status") == "True");
    let Some(stored) = versions(definition)
        .iter()
        .find(|v| established && v.get("storage") == Some(&Value::Bool(true)))
        .map(|v| format!("{group}/{}", text(v, "/name")))
    else {
        return Vec::new();
    };
    let storage = Storage {
        group: group.clone(),
        plural: word("plural"),
        api_version: stored.into(),
        view: None,
    };
    let kind = word("kind");
    let schemas: BTreeMap<Box<str>, Arc<Schema>> = versions(definition)
        .iter()
        .filter_map(|v| {
            let schema = parse::schema(v.pointer("/schema/openAPIV3Schema")?, "").ok()?;
            let version = text(v, "/name");
            let schema = Arc::new(named(schema, &group, version, &kind));
            Some((format!("{group}/{version}").into(), schema))
        })
        .collect();
    let schemas = Arc::new(schemas);
    versions(definition)
        .iter()
        .filter_map(|v| {
            let is = |key: &str| v.get(key) == Some(&Value::Bool(true));
            if !is("served") && !is("storage") {
                return None;
            }
            let written = v.pointer("/schema/openAPIV3Schema")?;
            let version = text(v, "/name");
            let schema = schemas.get(format!("{group}/{version}").as_str())?.clone();
            let row = KindSpec {
                group: group.clone(),
                version: version.into(),
                kind: kind.clone(),
                list_kind: word("listKind"),
                plural: word("plural"),
                singular: word("singular"),
                short_names: list("shortNames"),
                categories: list("categories"),
                namespaced: text(definition, "/spec/scope") == "Namespaced",
                schema,
                versions: schemas.clone(),
                table_type: None,
                custom: true,
                storage: storage.clone(),
                names: NameRule::Subdomain,
                create_on_update: false,
                update_names_version: true,
                status: if v.pointer("/subresources/status").is_some() {
                    StatusPart::Apart
                } else {
                    StatusPart::Whole
                },
                scale: scale(v),
                rules: custom::compiled(engine, written),
                generation: true,
                columns: columns(v),
                fields: selectable(v),
                prepare: None,
                validate: None,
                deletion: Deletion::Plain,
                review: None,
                actions: Vec::new(),
                deprecated: deprecation(definition, v),
                since: revision,
                special: Special::default(),
            };
            Some((row, !is("served")))
        })
        .collect()
}

/// A schema with the fields of every object, under the name that OpenAPI documents give it: the group's domain backwards.
fn named(schema: Schema, group: &str, version: &str, kind: &str) -> Schema {
    let mut parts: Vec<&str> = group.split('.').rev().collect();
    parts.extend([version, kind]);
    let mut out = types::with_object_fields(schema);
    out.name = Some(parts.join(".").into());
    out
}

/// The warning for users of a deprecated version; it names the best version to use instead.
fn deprecation(definition: &Value, version: &Value) -> Option<Arc<str>> {
    if version.get("deprecated") != Some(&Value::Bool(true)) {
        return None;
    }
    if let Some(said) = version.get("deprecationWarning").and_then(Value::as_str) {
        return Some(said.into());
    }
    let (group, kind) = (text(definition, "/spec/group"), text(definition, "/spec/names/kind"));
    let name = text(version, "/name");
    let is = |v: &Value, key: &str| v.get(key) == Some(&Value::Bool(true));
    let better = versions(definition)
        .iter()
        .filter(|v| is(v, "served") && !is(v, "deprecated"))
        .map(|v| text(v, "/name"))
        .filter(|n| priority(n) > priority(name))
        .max_by_key(|n| priority(n));
    let mut warning = format!("{group}/{name} {kind} is deprecated");
    if let Some(better) = better {
        warning.push_str(&format!("; use {group}/{better} {kind}"));
    }
    Some(warning.into())
}

fn scale(version: &Value) -> Option<Scale> {
    let scale = version.pointer("/subresources/scale")?;
    let spec = scale.get("specReplicasPath")?.as_str()?;
    Some(Scale {
        spec: Path::parse(spec).ok()?,
        status: Path::parse(scale.get("statusReplicasPath")?.as_str()?).ok()?,
        selector: scale
            .get("labelSelectorPath")
            .and_then(Value::as_str)
            .and_then(|p| Path::parse(p).ok())
            .map_or(Selector::None, Selector::Text),
    })
}

fn columns(version: &Value) -> Vec<Column> {
    let mut out = vec![Column::name()];
    let given = version.get("additionalPrinterColumns").and_then(Value::as_array);
    for column in given.into_iter().flatten() {
        // A path that nobody understands ends the table.
        let Some(column) = one_column(column) else { break };
        out.push(column);
    }
    if given.is_none_or(Vec::is_empty) {
        out.push(Column::age());
    }
    out
}

fn one_column(column: &Value) -> Option<Column> {
    let path = Path::parse(column.get("jsonPath")?.as_str()?).ok()?;
    let ty = text(column, "/type");
    let cell = match ty {
        "date" => Cell::Since(path),
        _ => Cell::Value(path),
    };
    let mut out = Column::new(text(column, "/name"), ty, text(column, "/description"), cell);
    out.format = text(column, "/format").into();
    out.priority = column.get("priority").and_then(Value::as_i64).unwrap_or(0);
    if out.description.is_empty() {
        out.description = format!(
            "Custom resource definition column (in JSONPath format): {}",
            text(column, "/jsonPath")
        )
        .into();
    }
    Some(out)
}

fn selectable(version: &Value) -> Vec<Selected> {
    version
        .get("selectableFields")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|f| {
            let text = f.get("jsonPath")?.as_str()?;
            Some(Selected {
                name: text.trim_start_matches('.').into(),
                path: Path::parse(text).ok()?,
                zero: "",
            })
        })
        .collect()
}

/// A definition read from JSON or YAML text, for installation at start.
pub(crate) fn from_text(text: &str) -> Result<Value, String> {
    let value: Value = super::codec::yaml(text.as_bytes())?;
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or_default();
    if kind != "CustomResourceDefinition" {
        return Err(format!("expected a CustomResourceDefinition, found {kind:?}"));
    }
    Ok(value)
}

/// The parts of a definition that its owner decides, to see whether an installed one is up to date.
pub(crate) fn same_definition(a: &Value, b: &Value) -> bool {
    let spec = |v: &Value| v.get("spec").cloned().unwrap_or(Value::Object(Map::new()));
    spec(a) == spec(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Value {
        json!({"metadata":{"name":"widgets.x.io"},"spec":{"group":"x.io","scope":"Namespaced","names":{"plural":"widgets","kind":"Widget"},
            "versions":[{"name":"v1","served":true,"storage":true,"subresources":{"status":{}},
                "schema":{"openAPIV3Schema":{"type":"object","properties":{"spec":{"type":"object"}}}},
                "additionalPrinterColumns":[{"name":"Size","type":"integer","jsonPath":".spec.size"}]}]}})
    }

    fn wrong(mutate: impl FnOnce(&mut Value)) -> Vec<(String, String)> {
        let mut d = definition();
        mutate(&mut d);
        prepare(&mut d, None, "2026-01-01T00:00:00Z");
        accept(&mut d, &Taken::default(), "2026-01-01T00:00:00Z");
        let mut causes = Vec::new();
        validate(&d, None, &mut causes);
        causes.into_iter().map(|c| (c.reason, c.field)).collect()
    }

    #[test]
    fn a_good_definition_is_established_and_becomes_rows() {
        assert!(wrong(|_| ()).is_empty());
        let mut d = definition();
        assert!(rows(&d, 1, None).is_empty());
        prepare(&mut d, None, "2026-01-01T00:00:00Z");
        accept(&mut d, &Taken::default(), "2026-01-01T00:00:00Z");
        assert_eq!(d.pointer("/status/conditions/1/status"), Some(&json!("True")));
        assert_eq!(d.pointer("/spec/names/listKind"), Some(&json!("WidgetList")));
        let rows: Vec<KindSpec> = rows(&d, 1, None).into_iter().map(|r| r.0).collect();
        assert_eq!(rows.len(), 1);
        assert_eq!(&*rows[0].plural, "widgets");
        assert_eq!(rows[0].status, StatusPart::Apart);
        assert_eq!(rows[0].columns.len(), 2);
        assert_eq!(rows[0].schema.name.as_deref(), Some("io.x.v1.Widget"));
    }

    #[test]
    fn wrong_definitions_are_named_by_field() {
        assert_eq!(
            wrong(|d| d["metadata"]["name"] = json!("other.x.io")),
            [("FieldValueInvalid".into(), "metadata.name".into())]
        );
        assert_eq!(
            wrong(
                |d| d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["type"] =
                    json!("nosuch")
            ),
            [(
                "FieldValueNotSupported".into(),
                "spec.validation.openAPIV3Schema.properties[spec].type".into()
            )]
        );
        assert_eq!(
            wrong(|d| d["spec"]["versions"][0]["storage"] = json!(false)),
            [
                ("FieldValueInvalid".into(), "spec.versions".into()),
                ("FieldValueInvalid".into(), "status.storedVersions".into())
            ]
        );
        assert_eq!(
            wrong(|d| d["spec"]["versions"][0]["additionalPrinterColumns"][0]["jsonPath"] = json!("nope")),
            [(
                "FieldValueInvalid".into(),
                "spec.additionalPrinterColumns[0].JSONPath".into()
            )]
        );
        assert_eq!(wrong(|d| d["spec"]["scope"] = json!("Galaxy"))[0].1, "spec.scope");
    }

    #[test]
    fn an_exploding_schema_is_refused() {
        let mut deep = json!({"type":"object"});
        for _ in 0..200 {
            deep = json!({"type":"object","properties":{"a":deep}});
        }
        let causes = wrong(|d| d["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = deep);
        assert_eq!(causes[0].0, "FieldValueForbidden");
        assert_eq!(causes.len(), 1);
    }
}
