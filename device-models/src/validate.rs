//! Semantic checks of DeviceModel and Device beyond their schemas, with errors that fit the causes of a Kubernetes 422.
//!
//! Never changes an object; [`crate::admit_device`] does that after these checks.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use crate::desired::{MERGE_POLICY, Policies};
use crate::kinds::{Device, DeviceModel, DeviceProperty, ModelProperty, PropertyType};
use crate::values::{MAX_PROPERTIES, Number, Quoted, Rules, ValueError, check_length, check_property_name};

/// The kind of a field error, as in the `reason` of a Kubernetes cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// Not allowed here.
    Forbidden,
    /// The value is wrong.
    Invalid,
    /// Must be given.
    Required,
    /// Stands there twice.
    Duplicate,
    /// Names something that does not exist.
    NotFound,
}

impl FieldErrorKind {
    /// The `reason` of the Kubernetes cause.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Forbidden => "FieldValueForbidden",
            Self::Invalid => "FieldValueInvalid",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::NotFound => "FieldValueNotFound",
        }
    }
}

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Kind of the error.
    pub kind: FieldErrorKind,
    /// Path of the field, as `spec.properties[2].desired.value`.
    pub path: String,
    /// The offending value, shortened; empty when there is none.
    pub value: String,
    /// What is wrong; names property, value and bound where there are such.
    pub message: String,
}

impl FieldError {
    pub(crate) fn new<'a>(
        kind: FieldErrorKind,
        path: impl Into<String>,
        value: impl Into<Cow<'a, str>>,
        message: impl Into<String>,
    ) -> Self {
        let value = value.into();
        let value = if value.is_empty() {
            String::new()
        } else {
            Quoted::new(&value).to_string()
        };
        Self {
            kind,
            path: path.into(),
            value,
            message: message.into(),
        }
    }

    fn of_value(path: String, value: &str, error: &ValueError) -> Self {
        let kind = match error {
            ValueError::ReadOnly { .. } => FieldErrorKind::Forbidden,
            ValueError::Unknown { .. } => FieldErrorKind::NotFound,
            _ => FieldErrorKind::Invalid,
        };
        Self::new(kind, path, value, error.to_string())
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Checks a DeviceModel: names, and that the bounds are numbers of the type and the right way round.
pub fn validate_model(model: &Value) -> Vec<FieldError> {
    let typed = match DeviceModel::deserialize(model) {
        Ok(typed) => typed,
        Err(error) => return vec![FieldError::new(FieldErrorKind::Invalid, "spec", "", error.to_string())],
    };
    let mut errors = Vec::new();
    check_count(typed.spec.properties.len(), &mut errors);
    let mut names = BTreeSet::new();
    for (index, property) in typed.spec.properties.iter().enumerate() {
        let path = format!("spec.properties[{index}]");
        check_name(property.name.as_deref(), &path, &mut names, &mut errors);
        check_bounds(property, &path, &mut errors);
    }
    errors
}

fn check_count(count: usize, errors: &mut Vec<FieldError>) {
    if count > MAX_PROPERTIES {
        let message = format!("has {count} properties, at most {MAX_PROPERTIES} are allowed");
        errors.push(FieldError::new(FieldErrorKind::Invalid, "spec.properties", "", message));
    }
}

fn check_name<'a>(name: Option<&'a str>, path: &str, names: &mut BTreeSet<&'a str>, errors: &mut Vec<FieldError>) {
    let path = format!("{path}.name");
    let Some(name) = name else {
        errors.push(FieldError::new(
            FieldErrorKind::Required,
            path,
            "",
            "a property needs a name",
        ));
        return;
    };
    if let Err(error) = check_property_name(name) {
        errors.push(FieldError::of_value(path, name, &error));
    } else if !names.insert(name) {
        let message = format!("property {name} stands there twice");
        errors.push(FieldError::new(FieldErrorKind::Duplicate, path, name, message));
    }
}

fn check_bounds(property: &ModelProperty, path: &str, errors: &mut Vec<FieldError>) {
    let property_type = property.property_type.unwrap_or(PropertyType::String);
    // On a text a bound means nothing; KubeEdge lets it stand, so it stands here.
    if !matches!(
        property_type,
        PropertyType::Int | PropertyType::Float | PropertyType::Double
    ) {
        return;
    }
    let name = property.name.as_deref().unwrap_or_default();
    let (minimum, maximum) = (
        read_bound(property.minimum.as_deref(), name, path, "minimum", errors),
        read_bound(property.maximum.as_deref(), name, path, "maximum", errors),
    );
    if let (Some((low_text, low)), Some((high_text, high))) = (minimum, maximum)
        && low.compare(high).is_gt()
    {
        let message = format!("property {name}: the minimum {low_text} is above the maximum {high_text}");
        errors.push(FieldError::new(
            FieldErrorKind::Invalid,
            format!("{path}.minimum"),
            low_text,
            message,
        ));
    }
}

fn read_bound<'a>(
    text: Option<&'a str>,
    name: &str,
    path: &str,
    field: &str,
    errors: &mut Vec<FieldError>,
) -> Option<(&'a str, Number)> {
    let text = text.filter(|text| !text.is_empty())?;
    let Some(number) = Number::parse_any(text) else {
        let message = format!("property {name}: {field} {} is not a number", Quoted::new(text));
        errors.push(FieldError::new(
            FieldErrorKind::Invalid,
            format!("{path}.{field}"),
            text,
            message,
        ));
        return None;
    };
    Some((text, number))
}

/// Checks a Device. Without its model only names and lengths are checked; with it also that the properties exist and
/// that desired values are of the type, within the range, and of properties that may be written.
pub fn validate_device(device: &Device, model: Option<&DeviceModel>) -> Vec<FieldError> {
    let rules = model.map(Rules::compile);
    device_errors(device, rules.as_ref(), None)
}

/// As [`validate_device`]. What was already wrong in `old` and is unchanged is let through, so that a model that became
/// stricter does not block every later write to the device.
pub(crate) fn device_errors(device: &Device, rules: Option<&Rules>, old: Option<&Device>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check_node_name(device, &mut errors);
    if let Some(text) = device
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(MERGE_POLICY))
        && let Err(message) = text.parse::<Policies>()
    {
        let path = format!("metadata.annotations[{MERGE_POLICY}]");
        errors.push(FieldError::new(FieldErrorKind::Invalid, path, text.as_str(), message));
    }
    check_count(device.spec.properties.len(), &mut errors);
    let mut names = BTreeSet::new();
    for (index, property) in device.spec.properties.iter().enumerate() {
        let path = format!("spec.properties[{index}]");
        check_name(property.name.as_deref(), &path, &mut names, &mut errors);
        let before = old.and_then(|old| old.spec.properties.iter().find(|before| before.name == property.name));
        check_property(property, rules, before, &path, &mut errors);
    }
    check_methods(device, rules, &mut errors);
    errors
}

fn check_node_name(device: &Device, errors: &mut Vec<FieldError>) {
    let Some(name) = device.spec.node_name.as_deref().filter(|name| !name.is_empty()) else {
        return;
    };
    let label = |label: &str| {
        let inner = label
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        inner && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        let message = "must be a node's name: lower case letters, digits, '-' and '.', at most 253 characters";
        errors.push(FieldError::new(FieldErrorKind::Invalid, "spec.nodeName", name, message));
    }
}

fn check_property(
    property: &DeviceProperty,
    rules: Option<&Rules>,
    before: Option<&DeviceProperty>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    let name = property.name.as_deref().unwrap_or_default();
    let desired = property.desired.as_ref();
    let rule = rules
        .filter(|_| property.name.is_some())
        .map(|rules| rules.get(name))
        .transpose();
    let same_desired = before.is_some_and(|before| {
        before.desired.as_ref().map(|desired| &desired.value) == desired.map(|desired| &desired.value)
    });
    match (&rule, desired) {
        (Err(error), _) if before.is_none() || !same_desired => {
            errors.push(FieldError::of_value(format!("{path}.name"), name, error));
        }
        (Ok(rule), Some(desired)) if !same_desired => {
            let checked = rule.map_or_else(
                || check_length(name, &desired.value),
                |rule| rule.check_desired(&desired.value),
            );
            if let Err(error) = checked {
                errors.push(FieldError::of_value(
                    format!("{path}.desired.value"),
                    &desired.value,
                    &error,
                ));
            }
        }
        _ => {}
    }
    let push = property.push_method.as_ref();
    let numbers = [
        ("reportCycle", property.report_cycle, 0, i64::MAX),
        ("collectCycle", property.collect_cycle, 0, i64::MAX),
        (
            "pushMethod.mqtt.qos",
            push.and_then(|push| push.mqtt.as_ref()?.qos).map(i64::from),
            0,
            2,
        ),
        (
            "pushMethod.http.port",
            push.and_then(|push| push.http.as_ref()?.port),
            0,
            65535,
        ),
        (
            "pushMethod.http.timeout",
            push.and_then(|push| push.http.as_ref()?.timeout),
            0,
            i64::MAX,
        ),
    ];
    for (field, number, low, high) in numbers {
        let Some(number) = number.filter(|number| !(low..=high).contains(number)) else {
            continue;
        };
        let bound = if number < low {
            format!("below the minimum {low}")
        } else {
            format!("above the maximum {high}")
        };
        let message = format!("property {name}: {field} {number} is {bound}");
        errors.push(FieldError::new(
            FieldErrorKind::Invalid,
            format!("{path}.{field}"),
            number.to_string(),
            message,
        ));
    }
}

fn check_methods(device: &Device, rules: Option<&Rules>, errors: &mut Vec<FieldError>) {
    let mut names = BTreeSet::new();
    for (index, method) in device.spec.methods.iter().enumerate() {
        let path = format!("spec.methods[{index}]");
        if let Some(name) = method.name.as_deref()
            && !names.insert(name)
        {
            let message = format!("method {name} stands there twice");
            errors.push(FieldError::new(
                FieldErrorKind::Duplicate,
                format!("{path}.name"),
                name,
                message,
            ));
        }
        for (position, property) in method.property_names.iter().enumerate() {
            let Some(Err(error)) = rules.map(|rules| rules.get(property)) else {
                continue;
            };
            errors.push(FieldError::of_value(
                format!("{path}.propertyNames[{position}]"),
                property,
                &error,
            ));
        }
    }
}
