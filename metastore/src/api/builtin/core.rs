//! Namespaces, ConfigMaps, Secrets and ServiceAccounts: their rows, and what each does beyond the common rules.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::shared::{count, default_to, part};
use super::{computed, fields, row, text};
use crate::api::kinds::{Deletion, KindSpec, StatusPart};
use crate::api::names::NameRule;
use crate::api::status::Cause;
use crate::api::table::Column;
use crate::api::token::{ACCOUNT_NAME, TOKEN_SECRET};

const IMMUTABLE: &str = "field is immutable when `immutable` is set";

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![namespace(), config_map(), secret(), service_account()]
}

fn namespace() -> KindSpec {
    KindSpec {
        namespaced: false,
        names: NameRule::Label,
        status: StatusPart::ApartAfterCreate,
        deletion: Deletion::EmptiesNamespace,
        prepare: Some(prepare_namespace),
        columns: vec![
            Column::name(),
            text("Status", "The status of the namespace", ".status.phase"),
            Column::age(),
        ],
        fields: fields(&["status.phase"]),
        ..row("", "core", "Namespace", &["ns"])
    }
}

fn config_map() -> KindSpec {
    const ABOUT: &str = "Data contains the configuration data. Each key must consist of alphanumeric characters, '-', '_' or '.'. Values with non-UTF-8 byte sequences must use the BinaryData field. The keys stored in Data must not overlap with the keys in the BinaryData field, this is enforced during validation process.";
    KindSpec {
        validate: Some(validate_config_map),
        columns: vec![
            Column::name(),
            computed("Data", "string", ABOUT, |o| {
                json!(count(o, "data") + count(o, "binaryData"))
            }),
            Column::age(),
        ],
        ..row("", "core", "ConfigMap", &["cm"])
    }
}

fn secret() -> KindSpec {
    KindSpec {
        prepare: Some(prepare_secret),
        validate: Some(validate_secret),
        columns: vec![
            Column::name(),
            text(
                "Type",
                "Used to facilitate programmatic handling of secret data.",
                ".type",
            ),
            computed("Data", "string", "How many values it has.", |o| json!(count(o, "data"))),
            Column::age(),
        ],
        fields: fields(&["type"]),
        ..row("", "core", "Secret", &[])
    }
}

fn service_account() -> KindSpec {
    KindSpec {
        columns: vec![
            Column::name(),
            computed("Secrets", "string", "How many secrets it names.", |o| {
                json!(o.get("secrets").and_then(Value::as_array).map_or(0, Vec::len))
            }),
            Column::age(),
        ],
        ..row("", "core", "ServiceAccount", &["sa"])
    }
}

fn check_data_keys(object: &Value, field: &str, causes: &mut Vec<Cause>) {
    for key in object
        .get(field)
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::keys)
    {
        let ok = !key.is_empty()
            && key.len() <= 253
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            && key != "."
            && !key.starts_with("..");
        if !ok {
            causes.push(Cause::invalid(
                format!("{field}[{key}]"),
                &format!("{key:?}"),
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            ));
        }
    }
}

fn check_immutable(new: &Value, old: Option<&Value>, parts: &[&str], causes: &mut Vec<Cause>) {
    let Some(old) = old.filter(|o| o.get("immutable") == Some(&Value::Bool(true))) else {
        return;
    };
    if new.get("immutable") != Some(&Value::Bool(true)) {
        causes.push(Cause::forbidden("immutable", IMMUTABLE));
    }
    for part in parts {
        if new.get(part) != old.get(part) {
            causes.push(Cause::forbidden(*part, IMMUTABLE));
        }
    }
}

fn prepare_namespace(new: &mut Value, old: Option<&Value>, _now: &str) {
    let name = new.pointer("/metadata/name").cloned().unwrap_or(Value::Null);
    if let Some(meta) = part(new, "metadata") {
        let labels = meta
            .entry("labels".to_owned())
            .or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(labels) = labels {
            labels.insert("kubernetes.io/metadata.name".to_owned(), name);
        }
    }
    // Who must agree to its end is said once and then through `/finalize` only.
    let kept = old.map(|o| o.pointer("/spec/finalizers").cloned());
    if let Some(spec) = part(new, "spec") {
        let finalizers = match kept {
            Some(finalizers) => finalizers,
            None => {
                let mut list = spec
                    .get("finalizers")
                    .and_then(Value::as_array)
                    .cloned()
                    .unwrap_or_default();
                if !list.contains(&json!("kubernetes")) {
                    list.push(json!("kubernetes"));
                }
                Some(Value::Array(list))
            }
        };
        match finalizers {
            Some(list) => spec.insert("finalizers".to_owned(), list),
            None => spec.remove("finalizers"),
        };
    }
    if old.is_none()
        && let Value::Object(map) = new
    {
        map.insert("status".to_owned(), json!({"phase": "Active"}));
    }
}

fn validate_config_map(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    check_data_keys(new, "data", causes);
    check_data_keys(new, "binaryData", causes);
    check_immutable(new, old, &["data", "binaryData"], causes);
}

fn prepare_secret(new: &mut Value, _old: Option<&Value>, _now: &str) {
    let Value::Object(map) = new else { return };
    if let Some(Value::Object(texts)) = map.remove("stringData") {
        let data = map
            .entry("data".to_owned())
            .or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(data) = data {
            for (key, value) in texts {
                if let Value::String(text) = value {
                    data.insert(key, json!(STANDARD.encode(text)));
                }
            }
        }
    }
    default_to(map, "type", json!("Opaque"));
}

fn validate_secret(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    check_data_keys(new, "data", causes);
    if let Some(old) = old
        && old.get("type") != new.get("type")
    {
        causes.push(Cause::invalid(
            "type",
            &new.get("type").map_or_else(String::new, ToString::to_string),
            "field is immutable",
        ));
    }
    let account = new
        .get("metadata")
        .and_then(|m| m.get("annotations")?.get(ACCOUNT_NAME)?.as_str());
    if new.get("type").and_then(Value::as_str) == Some(TOKEN_SECRET) && account.is_none_or(str::is_empty) {
        let at = format!("metadata.annotations[{ACCOUNT_NAME}]");
        causes.push(Cause::required(at, ""));
    }
    check_immutable(new, old, &["data"], causes);
}
