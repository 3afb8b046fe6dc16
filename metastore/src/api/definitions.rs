//! CustomResourceDefinitions: what one may say, and the rows of the kind table that it becomes.
//!
//! A definition is refused as a whole or takes effect as a whole; its conditions say so in the same write.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::jsonpath::Path;
use super::kinds::{Deletion, KindSpec, Scale, Selected, Selector, Special, StatusPart, Storage};
use super::names::{self, NameRule};
use super::schema::{Schema, parse, types};
use super::status::Cause;
use super::table::{Cell, Column};

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

/// Completes a definition: names that follow from others, and the conditions that say it is served.
pub(crate) fn prepare(new: &mut Value, old: Option<&Value>, now: &str) {
    let kind = text(new, "/spec/names/kind").to_owned();
    if let Some(Value::Object(names)) = new.pointer_mut("/spec/names") {
        for (field, value) in [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))] {
            if names.get(field).and_then(Value::as_str).is_none_or(str::is_empty) && !kind.is_empty() {
                names.insert(field.to_owned(), json!(value));
            }
        }
    }
    let storage = versions(new)
        .iter()
        .find(|v| v.get("storage") == Some(&Value::Bool(true)))
        .map(|v| text(v, "/name").to_owned());
    let names = new.pointer("/spec/names").cloned().unwrap_or_else(|| json!({}));
    let since = |kind: &str| {
        old.and_then(|o| o.pointer("/status/conditions"))
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .find(|c| c.get("type") == Some(&json!(kind)))
            .and_then(|c| c.get("lastTransitionTime"))
            .cloned()
            .unwrap_or_else(|| json!(now))
    };
    let conditions = json!([
        {"type": "NamesAccepted", "status": "True", "reason": "NoConflicts", "message": "no conflicts found",
         "lastTransitionTime": since("NamesAccepted")},
        {"type": "Established", "status": "True", "reason": "InitialNamesAccepted", "message": "the initial names have been accepted",
         "lastTransitionTime": since("Established")},
    ]);
    let mut stored: Vec<Value> = old
        .and_then(|o| o.pointer("/status/storedVersions"))
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if let Some(v) = storage.map(Value::String)
        && !stored.contains(&v)
    {
        stored.push(v);
    }
    if let Value::Object(map) = new {
        map.insert(
            "status".to_owned(),
            json!({"acceptedNames": names, "conditions": conditions, "storedVersions": stored}),
        );
    }
}

/// Finds everything that is wrong with a definition.
pub(crate) fn validate(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let group = text(new, "/spec/group");
    let plural = text(new, "/spec/names/plural");
    let name = text(new, "/metadata/name");
    if group.is_empty() {
        causes.push(Cause::required("spec.group", ""));
    } else if !names::is_subdomain(group) || !group.contains('.') {
        causes.push(Cause::invalid(
            "spec.group",
            &format!("{group:?}"),
            "should be a domain with at least one dot",
        ));
    }
    if name != format!("{plural}.{group}") {
        causes.push(Cause::invalid(
            "metadata.name",
            &format!("{name:?}"),
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    check_names(new, causes);
    match text(new, "/spec/scope") {
        "Namespaced" | "Cluster" => {}
        "" => causes.push(Cause::required("spec.scope", "")),
        other => causes.push(Cause::not_supported(
            "spec.scope",
            &format!("{other:?}"),
            &["Cluster", "Namespaced"],
        )),
    }
    match text(new, "/spec/conversion/strategy") {
        "None" | "" => {}
        other => causes.push(Cause::not_supported(
            "spec.conversion.strategy",
            &format!("{other:?}"),
            &["None"],
        )),
    }
    check_versions(new, causes);
    if let Some(old) = old {
        for field in ["group", "scope", "names/plural", "names/kind"] {
            let at = format!("/spec/{field}");
            if old.pointer(&at) != new.pointer(&at) {
                let shown = new.pointer(&at).map_or_else(String::new, ToString::to_string);
                causes.push(Cause::invalid(
                    format!("spec.{}", field.replace('/', ".")),
                    &shown,
                    "field is immutable",
                ));
            }
        }
    }
}

fn check_names(new: &Value, causes: &mut Vec<Cause>) {
    for (field, lower) in [
        ("plural", true),
        ("singular", true),
        ("kind", false),
        ("listKind", false),
    ] {
        let value = text(new, &format!("/spec/names/{field}"));
        let at = format!("spec.names.{field}");
        if value.is_empty() {
            causes.push(Cause::required(at, ""));
        } else if !names::is_label(&value.to_lowercase()) || (lower && value.bytes().any(|b| b.is_ascii_uppercase())) {
            let why = "must be a DNS-1035 label, lower case but for kinds";
            causes.push(Cause::invalid(at, &format!("{value:?}"), why));
        }
    }
}

fn check_versions(new: &Value, causes: &mut Vec<Cause>) {
    let list = versions(new);
    if list.is_empty() {
        causes.push(Cause::required("spec.versions", "must have at least one version"));
        return;
    }
    if list.len() > MAX_VERSIONS {
        causes.push(Cause::too_many("spec.versions", list.len(), MAX_VERSIONS as u64));
        return;
    }
    let storing = list
        .iter()
        .filter(|v| v.get("storage") == Some(&Value::Bool(true)))
        .count();
    if storing != 1 {
        causes.push(Cause::invalid(
            "spec.versions",
            &storing.to_string(),
            "must have exactly one version marked as storage version",
        ));
    }
    let mut seen = std::collections::BTreeSet::new();
    for (i, version) in list.iter().enumerate() {
        let at = format!("spec.versions[{i}]");
        let name = text(version, "/name");
        if !names::is_label(name) {
            causes.push(Cause::invalid(
                format!("{at}.name"),
                &format!("{name:?}"),
                "must be a DNS-1035 label",
            ));
        }
        if !seen.insert(name) {
            causes.push(Cause::invalid(
                format!("{at}.name"),
                &format!("{name:?}"),
                "must be unique",
            ));
        }
        match version.pointer("/schema/openAPIV3Schema") {
            None => causes.push(Cause::required(
                format!("{at}.schema.openAPIV3Schema"),
                "schemas are required",
            )),
            Some(schema) => {
                if let Err(found) = parse::schema(schema, &schema_path(list, i)) {
                    causes.extend(found);
                }
            }
        }
        check_paths(version, &at, causes);
    }
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

fn check_paths(version: &Value, at: &str, causes: &mut Vec<Cause>) {
    let mut check = |value: &Value, field: String| {
        let path = value.as_str().unwrap_or_default();
        if let Err(why) = Path::parse(path) {
            causes.push(Cause::invalid(field, &format!("{path:?}"), &why));
        }
    };
    for list in ["additionalPrinterColumns", "selectableFields"] {
        for (i, c) in version
            .get(list)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .enumerate()
        {
            check(
                c.get("jsonPath").unwrap_or(&Value::Null),
                format!("{at}.{list}[{i}].jsonPath"),
            );
        }
    }
    if let Some(scale) = version.pointer("/subresources/scale") {
        for field in ["specReplicasPath", "statusReplicasPath"] {
            check(
                scale.get(field).unwrap_or(&Value::Null),
                format!("{at}.subresources.scale.{field}"),
            );
        }
    }
}

/// The rows of a definition: one for each served version. A definition that was stored is valid; whatever is not is left out.
pub(crate) fn rows(definition: &Value) -> Vec<KindSpec> {
    let group: Arc<str> = text(definition, "/spec/group").into();
    let names = definition.pointer("/spec/names").cloned().unwrap_or_else(|| json!({}));
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
    let Some(stored) = versions(definition)
        .iter()
        .find(|v| v.get("storage") == Some(&Value::Bool(true)))
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
    versions(definition)
        .iter()
        .filter(|v| v.get("served") == Some(&Value::Bool(true)))
        .filter_map(|v| {
            let schema = parse::schema(v.pointer("/schema/openAPIV3Schema")?, "").ok()?;
            let version = text(v, "/name");
            Some(KindSpec {
                group: group.clone(),
                version: version.into(),
                kind: word("kind"),
                list_kind: word("listKind"),
                plural: word("plural"),
                singular: word("singular"),
                short_names: list("shortNames"),
                categories: list("categories"),
                namespaced: text(definition, "/spec/scope") == "Namespaced",
                schema: Arc::new(named(schema, &group, version, &word("kind"))),
                table_type: None,
                custom: true,
                storage: storage.clone(),
                names: NameRule::Subdomain,
                create_on_update: false,
                status: if v.pointer("/subresources/status").is_some() {
                    StatusPart::Apart
                } else {
                    StatusPart::Whole
                },
                scale: scale(v),
                generation: true,
                columns: columns(v),
                fields: selectable(v),
                prepare: None,
                validate: None,
                deletion: Deletion::Plain,
                review: None,
                actions: Vec::new(),
                deprecated: deprecation(v, &group, version, &word("kind")),
                special: Special::default(),
            })
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

fn deprecation(version: &Value, group: &str, name: &str, kind: &str) -> Option<Arc<str>> {
    if version.get("deprecated") != Some(&Value::Bool(true)) {
        return None;
    }
    let said = version.get("deprecationWarning").and_then(Value::as_str);
    Some(said.map_or_else(|| format!("{group}/{name} {kind} is deprecated").into(), Into::into))
}

fn scale(version: &Value) -> Option<Scale> {
    let scale = version.pointer("/subresources/scale")?;
    let spec = scale.get("specReplicasPath")?.as_str()?;
    Some(Scale {
        spec: Path::parse(spec).ok()?,
        spec_text: spec.into(),
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
        out.extend(one_column(column));
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
        "date" => Cell::Age(path),
        "string" => Cell::Text(path),
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
        let mut causes = Vec::new();
        validate(&d, None, &mut causes);
        causes.into_iter().map(|c| (c.reason, c.field)).collect()
    }

    #[test]
    fn a_good_definition_is_established_and_becomes_rows() {
        assert!(wrong(|_| ()).is_empty());
        let mut d = definition();
        prepare(&mut d, None, "2026-01-01T00:00:00Z");
        assert_eq!(d.pointer("/status/conditions/1/status"), Some(&json!("True")));
        assert_eq!(d.pointer("/spec/names/listKind"), Some(&json!("WidgetList")));
        let rows = rows(&d);
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
            [("FieldValueInvalid".into(), "spec.versions".into())]
        );
        assert_eq!(
            wrong(|d| d["spec"]["versions"][0]["additionalPrinterColumns"][0]["jsonPath"] = json!("nope[")),
            [(
                "FieldValueInvalid".into(),
                "spec.versions[0].additionalPrinterColumns[0].jsonPath".into()
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
