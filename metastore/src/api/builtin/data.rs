//! What programs read and who they are: ConfigMaps, Secrets, ServiceAccounts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::checks::{self, At, default_to, entries, is_true, made, refuse, word};
use super::{computed, fields, row, text};
use crate::api::kinds::{KindSpec, Special};
use crate::api::status::Cause;
use crate::api::table::Column;
use crate::api::token::{ACCOUNT_NAME, TOKEN_SECRET};

const IMMUTABLE: &str = "field is immutable when `immutable` is set";
/// Most bytes of all values together.
const MOST: usize = 1024 * 1024;

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![config_map(), secret(), service_account()]
}

fn count(object: &Value, field: &str) -> usize {
    object.get(field).and_then(Value::as_object).map_or(0, Map::len)
}

/// How many bytes a value in base64 has; its form has been looked at.
fn decoded_length(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

/// Checks the keys of a part, and returns how many bytes its values have.
fn check_keys(object: &Value, field: &str, length: fn(&Value) -> usize, causes: &mut Vec<Cause>) -> usize {
    let at = At::top(field);
    let mut size = 0_usize;
    for (key, value) in entries(object, field) {
        refuse(at.key(key), key, &checks::data_key(key), causes);
        size = size.saturating_add(length(value));
    }
    size
}

fn check_immutable(new: &Value, old: Option<&Value>, parts: &[&str], causes: &mut Vec<Cause>) {
    let Some(old) = old.filter(|o| is_true(o, "immutable")) else {
        return;
    };
    if !is_true(new, "immutable") {
        causes.push(Cause::forbidden("immutable", IMMUTABLE));
    }
    for part in parts {
        if new.get(part) != old.get(part) {
            causes.push(Cause::forbidden(*part, IMMUTABLE));
        }
    }
}

// ---- ConfigMap ----

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

fn validate_config_map(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let size = check_keys(new, "data", |v| v.as_str().map_or(0, str::len), causes)
        + check_keys(new, "binaryData", decoded_length, causes);
    if let (Some(Value::Object(data)), Some(Value::Object(binary))) = (new.get("data"), new.get("binaryData")) {
        let at = At::top("data");
        for key in data.keys().filter(|k| binary.contains_key(*k)) {
            refuse(at.key(key), key, &["duplicate of key present in binaryData"], causes);
        }
    }
    if size > MOST {
        // The reference server's name for the object as a whole.
        causes.push(Cause::too_long("[]", MOST as u64));
    }
    check_immutable(new, old, &["data", "binaryData"], causes);
}

// ---- Secret ----

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

fn prepare_secret(new: &mut Value, _old: Option<&Value>, _now: &str) {
    let Value::Object(map) = new else { return };
    if let Some(Value::Object(texts)) = map.remove("stringData")
        && !texts.is_empty()
        && let Some(data) = made(map, "data")
    {
        for (key, value) in texts {
            if let Value::String(text) = value {
                data.insert(key, json!(STANDARD.encode(text)));
            }
        }
    }
    default_to(map, "type", "Opaque");
}

fn validate_secret(new: &Value, old: Option<&Value>, causes: &mut Vec<Cause>) {
    let at = At::top("data");
    if check_keys(new, "data", decoded_length, causes) > MOST {
        causes.push(Cause::too_long(at, MOST as u64));
    }
    check_secret_type(at, new, causes);
    if let Some(old) = old
        && old.get("type") != new.get("type")
    {
        let shown = new.get("type").map_or_else(String::new, ToString::to_string);
        causes.push(Cause::invalid("type", &shown, checks::IMMUTABLE));
    }
    check_immutable(new, old, &["data"], causes);
}

/// What a type of secret must have in it.
fn check_secret_type(at: At<'_>, new: &Value, causes: &mut Vec<Cause>) {
    let value = |key: &str| new.get("data").and_then(|d| d.get(key)).and_then(Value::as_str);
    let mut need = |keys: &[&str], there: bool| {
        if !there {
            causes.extend(keys.iter().map(|k| Cause::required(at.key(k), "")));
        }
    };
    match word(new, "type") {
        "kubernetes.io/tls" => {
            need(&["tls.crt"], value("tls.crt").is_some());
            need(&["tls.key"], value("tls.key").is_some());
        }
        "kubernetes.io/basic-auth" => {
            let there = value("username").is_some() || value("password").is_some();
            need(&["username", "password"], there);
        }
        "kubernetes.io/ssh-auth" => need(
            &["ssh-privatekey"],
            value("ssh-privatekey").is_some_and(|v| !v.is_empty()),
        ),
        "kubernetes.io/dockercfg" => check_json(at, ".dockercfg", value(".dockercfg"), causes),
        "kubernetes.io/dockerconfigjson" => check_json(at, ".dockerconfigjson", value(".dockerconfigjson"), causes),
        TOKEN_SECRET => {
            let named = entries(&new["metadata"], "annotations").any(|(k, v)| k == ACCOUNT_NAME && v != "");
            if !named {
                let metadata = At::top("metadata");
                let at = metadata.member("annotations");
                causes.push(Cause::required(at.key(ACCOUNT_NAME), ""));
            }
        }
        _ => {}
    }
}

/// A value that must be a JSON object; what is wrong with it is not said, as it is secret.
fn check_json(at: At<'_>, key: &str, value: Option<&str>, causes: &mut Vec<Cause>) {
    let Some(value) = value else {
        causes.push(Cause::required(at.key(key), ""));
        return;
    };
    let readable = STANDARD
        .decode(value)
        .is_ok_and(|b| serde_json::from_slice::<Option<Map<String, Value>>>(&b).is_ok());
    if !readable {
        causes.push(Cause::invalid(
            at.key(key),
            "\"<secret contents redacted>\"",
            "must be a JSON object",
        ));
    }
}

// ---- ServiceAccount ----

fn service_account() -> KindSpec {
    KindSpec {
        special: Special {
            returns_deleted: true,
            ..Special::default()
        },
        ..row("", "core", "ServiceAccount", &["sa"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields_of(
        validate: fn(&Value, Option<&Value>, &mut Vec<Cause>),
        new: &Value,
        old: Option<&Value>,
    ) -> Vec<String> {
        let mut causes = Vec::new();
        validate(new, old, &mut causes);
        causes.into_iter().map(|c| c.field).collect()
    }

    #[test]
    fn values_together_have_a_most() {
        let half = "x".repeat(MOST / 2 + 1);
        let both = json!({"data": {"a": half, "b": half}});
        assert_eq!(fields_of(validate_config_map, &both, None), ["[]"]);
        let coded = STANDARD.encode(vec![0_u8; MOST]);
        assert!(fields_of(validate_secret, &json!({"data": {"a": coded}}), None).is_empty());
        let coded = STANDARD.encode(vec![0_u8; MOST + 1]);
        assert_eq!(
            fields_of(validate_secret, &json!({"data": {"a": coded}}), None),
            ["data"]
        );
    }

    #[test]
    fn a_typed_secret_has_what_its_type_needs() {
        let of = |kind: &str, data: Value| json!({"type": format!("kubernetes.io/{kind}"), "data": data});
        for (secret, wrong) in [
            (of("tls", json!({})), &["data[tls.crt]", "data[tls.key]"][..]),
            (of("tls", json!({"tls.crt": "", "tls.key": ""})), &[]),
            (of("basic-auth", json!({"password": ""})), &[]),
            (of("ssh-auth", json!({"ssh-privatekey": ""})), &["data[ssh-privatekey]"]),
            (of("dockercfg", json!({".dockercfg": "e30="})), &[]),
            (of("dockercfg", json!({".dockercfg": "WzFd"})), &["data[.dockercfg]"]),
            (of("dockerconfigjson", json!({})), &["data[.dockerconfigjson]"]),
        ] {
            assert_eq!(fields_of(validate_secret, &secret, None), wrong, "{secret}");
        }
    }

    #[test]
    fn what_is_immutable_keeps_its_data_and_stays_so() {
        let old = json!({"immutable": true, "data": {"a": "x"}});
        let new = json!({"data": {"a": "y"}});
        assert_eq!(fields_of(validate_config_map, &new, Some(&old)), ["immutable", "data"]);
        let mut marked = old.clone();
        marked["metadata"] = json!({"labels": {"a": "b"}});
        assert!(fields_of(validate_config_map, &marked, Some(&old)).is_empty());
    }
}
