//! Values of properties: which text is a value of which type, and the checks of range and access mode.
//!
//! Owns [`Rules`], a model compiled for checking, shared by all devices of the model. Called by admission in the hub and at
//! the gateway, and by the twin for every report, so a check allocates nothing unless it fails.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::kinds::{AccessMode, DeviceModel, ModelProperty, PropertyType};

/// The longest value of a property, in bytes.
pub const MAX_VALUE: usize = 64 * 1024;
/// The longest name of a property, in bytes.
pub const MAX_PROPERTY_NAME: usize = 128;
/// The most properties of one device or model.
pub const MAX_PROPERTIES: usize = 1024;
/// So much of a value is quoted in an error, in characters.
const QUOTED: usize = 64;

/// A value or a property was refused. The text names the property, the value and the bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a value of the type.
    #[error("property {property}: {value} is not {expected}")]
    Type {
        /// Name of the property.
        property: String,
        /// The value, shortened.
        value: Quoted,
        /// The type in words, with an article.
        expected: &'static str,
    },
    /// Below the minimum of the model.
    #[error("property {property}: {value} is below the minimum {bound}{unit}")]
    BelowMinimum {
        /// Name of the property.
        property: String,
        /// The value, shortened.
        value: Quoted,
        /// The bound as the model has it.
        bound: String,
        /// Unit of the property with a space before it, or nothing.
        unit: String,
    },
    /// Above the maximum of the model.
    #[error("property {property}: {value} is above the maximum {bound}{unit}")]
    AboveMaximum {
        /// Name of the property.
        property: String,
        /// The value, shortened.
        value: Quoted,
        /// The bound as the model has it.
        bound: String,
        /// Unit of the property with a space before it, or nothing.
        unit: String,
    },
    /// A desired value for a property that can only be read.
    #[error("property {property}: {value} cannot be set, its access mode is ReadOnly")]
    ReadOnly {
        /// Name of the property.
        property: String,
        /// The value, shortened.
        value: Quoted,
    },
    /// Longer than [`MAX_VALUE`].
    #[error("property {property}: the value has {length} bytes, at most {MAX_VALUE} are allowed")]
    TooLong {
        /// Name of the property.
        property: String,
        /// Length of the value in bytes.
        length: usize,
    },
    /// The model's own bound is no number, so nothing can be checked against it.
    #[error("property {property}: {value} cannot be checked, the model's bound {bound} is not a number")]
    BadBound {
        /// Name of the property.
        property: String,
        /// The value, shortened.
        value: Quoted,
        /// The bound as the model has it.
        bound: Quoted,
    },
    /// The model has no such property.
    #[error("property {property}: model {model} has no such property")]
    Unknown {
        /// Name of the property.
        property: String,
        /// Name of the model.
        model: String,
    },
    /// Not a name that a property can have.
    #[error("property name {name}: {problem}")]
    Name {
        /// The name, shortened.
        name: Quoted,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// Text from outside as it appears in errors: in quotes, escaped, cut to a readable length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted(String);

impl Quoted {
    /// Quotes a text.
    pub fn new(text: &str) -> Self {
        Self(match text.char_indices().nth(QUOTED) {
            Some((end, _)) => format!("{:?}…", text.get(..end).unwrap_or_default()),
            None => format!("{text:?}"),
        })
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks a property's name: 1 to 128 bytes of any script, no control characters, no space at its ends.
pub fn check_property_name(name: &str) -> Result<(), ValueError> {
    let problem = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_PROPERTY_NAME {
        "it is longer than 128 bytes"
    } else if name.chars().any(char::is_control) {
        "it has a control character"
    } else if name.trim().len() != name.len() {
        "it begins or ends with a space"
    } else {
        return Ok(());
    };
    Err(ValueError::Name {
        name: Quoted::new(name),
        problem,
    })
}

/// Checks a value against a property of a model: type and range, not the access mode. For one value; to check many,
/// compile the model once with [`Rules::compile`].
pub fn check_value(property: &ModelProperty, value: &str) -> Result<(), ValueError> {
    Rule::new(property).check_reported(value)
}

/// Checks a desired value: [`check_value`], and the property must not be ReadOnly.
pub fn check_desired(property: &ModelProperty, value: &str) -> Result<(), ValueError> {
    Rule::new(property).check_desired(value)
}

/// Checks a reported value; a ReadOnly property may well be reported.
pub fn check_reported(property: &ModelProperty, value: &str) -> Result<(), ValueError> {
    Rule::new(property).check_reported(value)
}

/// A number as a property's type has it. Whole numbers are compared as such: a double cannot tell 2^63-1 from 2^63.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Int(i64),
    Real(f64),
}

impl Number {
    pub(crate) fn parse(property_type: PropertyType, text: &str) -> Option<Self> {
        match property_type {
            PropertyType::Int => text.parse().ok().map(Self::Int),
            // Rounded to single precision, so that 0.1 set is equal to the 0.1 which the device reports.
            PropertyType::Float => finite(text)
                .map(|n| n as f32)
                .filter(|n| n.is_finite())
                .map(|n| Self::Real(n.into())),
            PropertyType::Double => finite(text).map(Self::Real),
            _ => None,
        }
    }

    /// A number of whatever type, as a bound is written.
    pub(crate) fn parse_any(text: &str) -> Option<Self> {
        text.parse()
            .map(Self::Int)
            .ok()
            .or_else(|| finite(text).map(Self::Real))
    }

    pub(crate) fn compare(self, other: Self) -> Ordering {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => a.cmp(&b),
            (Self::Real(a), Self::Real(b)) => a.total_cmp(&b),
            (Self::Int(a), Self::Real(b)) => compare_mixed(a, b),
            (Self::Real(a), Self::Int(b)) => compare_mixed(b, a).reverse(),
        }
    }
}

fn compare_mixed(int: i64, real: f64) -> Ordering {
    // Beyond 2^63 the real decides; within, its floor is a whole number that can be compared as one.
    if real >= 9_223_372_036_854_775_808.0 {
        Ordering::Less
    } else if real < -9_223_372_036_854_775_808.0 {
        Ordering::Greater
    } else {
        let floor = real.floor();
        int.cmp(&(floor as i64))
            .then(if real > floor { Ordering::Less } else { Ordering::Equal })
    }
}

/// A finite number; `inf` and `NaN`, which Rust would read, are no values. -0 is 0.
pub(crate) fn finite(text: &str) -> Option<f64> {
    let number: f64 = text.parse().ok()?;
    number.is_finite().then_some(number + 0.0)
}

fn boolean(text: &str) -> Option<bool> {
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// Checks that a text is a value of a type. `property` is only for the error.
pub(crate) fn check_type(property: &str, property_type: PropertyType, value: &str) -> Result<(), ValueError> {
    let (good, expected) = match property_type {
        PropertyType::Int => (value.parse::<i64>().is_ok(), "an integer (INT, 64 bits)"),
        PropertyType::Float => (Number::parse(property_type, value).is_some(), "a finite number (FLOAT)"),
        PropertyType::Double => (
            Number::parse(property_type, value).is_some(),
            "a finite number (DOUBLE)",
        ),
        PropertyType::Boolean => (boolean(value).is_some(), "true or false (BOOLEAN)"),
        PropertyType::String | PropertyType::Bytes | PropertyType::Stream => (true, ""),
    };
    if good {
        Ok(())
    } else {
        Err(ValueError::Type {
            property: property.to_owned(),
            value: Quoted::new(value),
            expected,
        })
    }
}

/// Checks the length that every value is held to.
pub(crate) fn check_length(property: &str, value: &str) -> Result<(), ValueError> {
    if value.len() > MAX_VALUE {
        return Err(ValueError::TooLong {
            property: property.to_owned(),
            length: value.len(),
        });
    }
    Ok(())
}

/// Whether two texts are the same value of a type: `20` and `20.0` are the same DOUBLE, `True` and `true` the same BOOLEAN.
pub fn same_value(property_type: PropertyType, a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    match property_type {
        PropertyType::Int | PropertyType::Float | PropertyType::Double => {
            match (Number::parse(property_type, a), Number::parse(property_type, b)) {
                (Some(a), Some(b)) => a.compare(b) == Ordering::Equal,
                _ => false,
            }
        }
        PropertyType::Boolean => boolean(a).is_some() && boolean(a) == boolean(b),
        PropertyType::String | PropertyType::Bytes | PropertyType::Stream => false,
    }
}

#[derive(Clone, Debug)]
struct Bound {
    text: Box<str>,
    number: Option<Number>,
}

impl Bound {
    fn new(text: Option<&str>) -> Option<Self> {
        // KubeEdge's own programs write an absent bound as an empty text.
        let text = text.filter(|text| !text.is_empty())?;
        let number = text
            .parse()
            .map(Number::Int)
            .ok()
            .or_else(|| finite(text).map(Number::Real));
        Some(Self {
            text: text.into(),
            number,
        })
    }
}

/// One property of a model, compiled for checking.
#[derive(Clone, Debug)]
pub struct Rule {
    name: Arc<str>,
    property_type: PropertyType,
    read_only: bool,
    minimum: Option<Bound>,
    maximum: Option<Bound>,
    unit: Option<Box<str>>,
}

impl Rule {
    /// Compiles a property. An absent type is STRING and an absent access mode ReadWrite, as in KubeEdge.
    pub fn new(property: &ModelProperty) -> Self {
        Self {
            name: property.name.as_deref().unwrap_or_default().into(),
            property_type: property.property_type.unwrap_or(PropertyType::String),
            read_only: property.access_mode == Some(AccessMode::ReadOnly),
            minimum: Bound::new(property.minimum.as_deref()),
            maximum: Bound::new(property.maximum.as_deref()),
            unit: property.unit.as_deref().filter(|unit| !unit.is_empty()).map(Into::into),
        }
    }

    /// Name of the property.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Type of the property.
    pub fn property_type(&self) -> PropertyType {
        self.property_type
    }

    /// Whether the property can only be read.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// Unit of the property, if the model has one.
    pub fn unit(&self) -> Option<&str> {
        self.unit.as_deref()
    }

    /// Checks type and range of a reported value.
    pub fn check_reported(&self, value: &str) -> Result<(), ValueError> {
        check_length(&self.name, value)?;
        check_type(&self.name, self.property_type, value)?;
        let Some(number) = Number::parse(self.property_type, value) else {
            return Ok(());
        };
        self.check_bound(value, number, self.minimum.as_ref(), Ordering::Less)?;
        self.check_bound(value, number, self.maximum.as_ref(), Ordering::Greater)
    }

    /// Checks a desired value: as reported, and the property must be writable.
    pub fn check_desired(&self, value: &str) -> Result<(), ValueError> {
        if self.read_only {
            return Err(ValueError::ReadOnly {
                property: self.name.to_string(),
                value: Quoted::new(value),
            });
        }
        self.check_reported(value)
    }

    fn check_bound(&self, value: &str, number: Number, bound: Option<&Bound>, bad: Ordering) -> Result<(), ValueError> {
        let Some(bound) = bound else { return Ok(()) };
        let property = || self.name.to_string();
        let Some(limit) = bound.number else {
            // Without a readable bound nothing is let through: the model asked for a limit.
            return Err(ValueError::BadBound {
                property: property(),
                value: Quoted::new(value),
                bound: Quoted::new(&bound.text),
            });
        };
        // A FLOAT is compared with the bound as a FLOAT has it: 0.1 is not above a maximum of 0.1.
        let limit = match (self.property_type, limit) {
            (PropertyType::Float, Number::Real(real)) => Number::Real((real as f32).into()),
            (_, limit) => limit,
        };
        if number.compare(limit) != bad {
            return Ok(());
        }
        let unit = self.unit.as_ref().map(|unit| format!(" {unit}")).unwrap_or_default();
        let (value, bound) = (Quoted::new(value), bound.text.to_string());
        Err(match bad {
            Ordering::Less => ValueError::BelowMinimum {
                property: property(),
                value,
                bound,
                unit,
            },
            _ => ValueError::AboveMaximum {
                property: property(),
                value,
                bound,
                unit,
            },
        })
    }
}

/// A model compiled for checking: its properties sorted by name. Shared by all devices of the model.
#[derive(Clone, Debug)]
pub struct Rules {
    model: Arc<str>,
    rules: Box<[Rule]>,
}

impl Rules {
    /// Compiles a model. Of properties with the same name the first counts.
    pub fn compile(model: &DeviceModel) -> Self {
        let mut rules: Vec<Rule> = model
            .spec
            .properties
            .iter()
            .filter(|property| property.name.is_some())
            .map(Rule::new)
            .collect();
        rules.sort_by(|a, b| a.name.cmp(&b.name));
        rules.dedup_by(|later, first| later.name == first.name);
        Self {
            model: model.metadata.name.as_deref().unwrap_or_default().into(),
            rules: rules.into(),
        }
    }

    /// Name of the model.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// All properties, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// The property of that name; an error that names property and model when there is none.
    pub fn get(&self, property: &str) -> Result<&Rule, ValueError> {
        match self.rules.binary_search_by(|rule| (*rule.name).cmp(property)) {
            Ok(index) => Ok(&self.rules[index]),
            Err(_) => Err(ValueError::Unknown {
                property: property.to_owned(),
                model: self.model.to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
