//! Changes within a string of an object that is itself JSON or YAML, such as a file in a ConfigMap.

use serde_json::Value;

use super::{Cause, Failure, patch, shape};
use crate::kinds::{FieldOverrider, FieldPatch};

pub(super) fn change(object: &mut Value, overrider: &FieldOverrider) -> Result<(), Failure> {
    let failed = |cause: Cause| (overrider.field_path.clone(), cause);
    let steps = patch::steps(&overrider.field_path).map_err(|e| failed(e.into()))?;
    let place = patch::find(object, &steps).map_err(|e| failed(e.into()))?;
    let Some(text) = place.as_str() else {
        return Err(failed(shape("a text", place)));
    };
    let new = match (&*overrider.json, &*overrider.yaml) {
        (json, []) if !json.is_empty() => in_json(text, json),
        ([], yaml) if !yaml.is_empty() => in_yaml(text, yaml),
        _ => Err(Cause::Format),
    };
    *place = Value::String(new.map_err(failed)?);
    Ok(())
}

fn in_json(text: &str, patches: &[FieldPatch]) -> Result<String, Cause> {
    let wrong = |e: serde_json::Error| content("JSON", &e.to_string());
    let mut value = serde_json::from_str(text).map_err(wrong)?;
    patched(&mut value, patches)?;
    serde_json::to_string(&value).map_err(wrong)
}

#[cfg(feature = "yaml")]
fn in_yaml(text: &str, patches: &[FieldPatch]) -> Result<String, Cause> {
    let wrong = |message: String| content("YAML", &message);
    // As the parsers of Go read it, which most of what runs in containers has: 0644 is octal, and of two equal keys the last counts.
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
    };
    let mut value: Value = serde_saphyr::from_str_with_options(text, options).map_err(|e| wrong(e.to_string()))?;
    patched(&mut value, patches)?;
    serde_saphyr::to_string(&value).map_err(|e| wrong(e.to_string()))
}

#[cfg(not(feature = "yaml"))]
fn in_yaml(_: &str, _: &[FieldPatch]) -> Result<String, Cause> {
    Err(Cause::NoYaml)
}

fn patched(value: &mut Value, patches: &[FieldPatch]) -> Result<(), Cause> {
    for patch in patches {
        let with = patch.value.as_ref().unwrap_or(&Value::Null);
        patch::apply(value, patch.operator.into(), &patch.sub_path, with).map_err(|error| Cause::Within {
            path: patch.sub_path.clone(),
            error,
        })?;
    }
    Ok(())
}

/// Parsers show the text around a fault: their first line is enough.
fn content(format: &'static str, message: &str) -> Cause {
    Cause::Content {
        format,
        message: message.lines().next().unwrap_or_default().to_owned(),
    }
}
