//! What an object is like in one cluster and not in the others: which OverridePolicies have a part in it, and what they change.
//!
//! An object that cannot be changed as a policy says is left as it was, with an error that names the place: half of a change would be
//! worse than none.

mod containers;
mod field;
mod image;
mod patch;
#[cfg(test)]
mod tests;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::kinds::{MapOverrider, OverrideSpec, OverriderOperator, Overriders};
use crate::schedule::{ClusterView, Precision, matches_cluster, precision};
use patch::Op;

pub use patch::PatchError;

/// An OverridePolicy or ClusterOverridePolicy.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'p> {
    /// Its namespace; none: a ClusterOverridePolicy.
    pub namespace: Option<&'p str>,
    /// Its name.
    pub name: &'p str,
    /// What it says.
    pub spec: &'p OverrideSpec,
}

/// One rule that holds for an object and a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Applicable<'p> {
    /// Namespace of its policy; none: a ClusterOverridePolicy.
    pub namespace: Option<&'p str>,
    /// Name of its policy.
    pub name: &'p str,
    /// What it changes.
    pub overriders: &'p Overriders,
}

/// Why an object cannot be changed as it is said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{overrider} at {path:?}: {cause}")]
pub struct OverrideError {
    /// Which of the overriders, such as `plaintext[2]`.
    pub overrider: String,
    /// The place in the object, as a pointer.
    pub path: String,
    /// What is wrong with it.
    pub cause: Box<Cause>,
}

/// What is wrong with a change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The object has no such place.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// The same within a field.
    #[error("within it, at {path:?}: {error}")]
    Within {
        /// The place, as a pointer.
        path: String,
        /// What is wrong with it.
        error: PatchError,
    },
    /// An image is none, or would become none.
    #[error("{0}; correct the image in the object or the value in the policy")]
    Image(String),
    /// There is something else than was expected.
    #[error("{found} is there and not {expected}; correct the path, or change it with plaintext")]
    Shape {
        /// What would be right.
        expected: &'static str,
        /// What there is.
        found: &'static str,
    },
    /// The text of a field is not what the policy says it is.
    #[error("the text there is no {format}: {message}")]
    Content {
        /// JSON or YAML.
        format: &'static str,
        /// What the parser says.
        message: String,
    },
    /// This program does not read YAML.
    #[error("YAML within fields is not read here; write the field as JSON, and patches for JSON")]
    NoYaml,
    /// A field is to be patched as JSON and as YAML, or as neither.
    #[error("say either json or yaml, and at least one patch")]
    Format,
    /// Commands and arguments are added and removed, not replaced.
    #[error("commands and arguments know the operators add and remove; use those, or plaintext")]
    Operator,
    /// Nothing that is left is an object of the API.
    #[error("what would be left is no object")]
    NoObject,
}

/// Why an object cannot be changed as a policy says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{policy}: {error}")]
pub struct PolicyError {
    /// The policy, such as `OverridePolicy fx/images`.
    pub policy: String,
    /// What is wrong.
    pub error: OverrideError,
}

/// The rules that hold for an object and a cluster, in the order in which they are applied: those of ClusterOverridePolicies, then those of
/// the object's namespace; of each kind the less precise first, so that the more precise have the last word, and by name among equals.
pub fn overriders_for<'p>(
    policies: impl IntoIterator<Item = Policy<'p>>,
    object: &Value,
    cluster: &ClusterView<'_>,
) -> Vec<Applicable<'p>> {
    let namespace = object["metadata"]["namespace"].as_str().filter(|name| !name.is_empty());
    let mut chosen: Vec<(bool, Precision, Policy<'p>)> = policies
        .into_iter()
        .filter(|policy| policy.namespace.is_none() || policy.namespace == namespace)
        .filter_map(|policy| {
            let selectors = &policy.spec.resource_selectors;
            let precise = if selectors.is_empty() {
                Precision::All
            } else {
                precision(selectors, object)?
            };
            Some((policy.namespace.is_some(), precise, policy))
        })
        .collect();
    chosen.sort_by(|(a, precise, policy), (b, other, next)| {
        a.cmp(b).then(precise.cmp(other)).then(policy.name.cmp(next.name))
    });
    chosen
        .into_iter()
        .flat_map(|(_, _, policy)| rules(policy, cluster))
        .collect()
}

/// The rules of a policy that hold for a cluster.
fn rules<'p>(policy: Policy<'p>, cluster: &ClusterView<'_>) -> Vec<Applicable<'p>> {
    let spec = policy.spec;
    let today = spec
        .override_rules
        .iter()
        .map(|rule| (rule.target_cluster.as_ref(), &rule.overriders));
    // The old place of the only rule counts where there are no others.
    let old = spec
        .overriders
        .iter()
        .filter(|_| spec.override_rules.is_empty())
        .map(|overriders| (spec.target_cluster.as_ref(), overriders));
    today
        .chain(old)
        .filter(|(target, _)| target.is_none_or(|affinity| matches_cluster(affinity, cluster)))
        .map(|(_, overriders)| Applicable {
            namespace: policy.namespace,
            name: policy.name,
            overriders,
        })
        .collect()
}

/// Applies rules one after another.
///
/// # Errors
/// Which policy asks for something impossible; the object is as it was.
pub fn apply_all(object: &mut Value, rules: &[Applicable<'_>]) -> Result<(), PolicyError> {
    let mut changed = object.clone();
    for rule in rules {
        change(&mut changed, rule.overriders).map_err(|error| PolicyError {
            policy: match rule.namespace {
                Some(namespace) => format!("OverridePolicy {namespace}/{}", rule.name),
                None => format!("ClusterOverridePolicy {}", rule.name),
            },
            error,
        })?;
    }
    *object = changed;
    Ok(())
}

/// Applies the overriders of one rule.
///
/// # Errors
/// Which of them asks for something impossible; the object is as it was.
pub fn apply(object: &mut Value, overriders: &Overriders) -> Result<(), OverrideError> {
    let mut changed = object.clone();
    change(&mut changed, overriders)?;
    *object = changed;
    Ok(())
}

/// The rules that had a part in an object, as the annotations [`crate::names::APPLIED_OVERRIDES`] (`namespaced`) and
/// [`crate::names::APPLIED_CLUSTER_OVERRIDES`] say it; none where there are none.
pub fn applied(rules: &[Applicable<'_>], namespaced: bool) -> Option<String> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Item<'a> {
        policy_name: &'a str,
        overriders: &'a Overriders,
    }
    let mut items: Vec<Item<'_>> = rules
        .iter()
        .filter(|rule| rule.namespace.is_some() == namespaced)
        .map(|rule| Item {
            policy_name: rule.name,
            overriders: rule.overriders,
        })
        .collect();
    items.sort_by_key(|item| item.policy_name);
    if items.is_empty() {
        return None;
    }
    serde_json::to_string(&items).ok()
}

/// The order is Karmada's: what is said of images, containers and fields can be overruled by plaintext.
fn change(object: &mut Value, overriders: &Overriders) -> Result<(), OverrideError> {
    for (index, overrider) in overriders.image_overrider.iter().enumerate() {
        containers::image(object, overrider).map_err(named("imageOverrider", index))?;
    }
    for (index, overrider) in overriders.command_overrider.iter().enumerate() {
        containers::words(object, "command", overrider).map_err(named("commandOverrider", index))?;
    }
    for (index, overrider) in overriders.args_overrider.iter().enumerate() {
        containers::words(object, "args", overrider).map_err(named("argsOverrider", index))?;
    }
    for (index, overrider) in overriders.labels_overrider.iter().enumerate() {
        entries(object, "labels", overrider).map_err(named("labelsOverrider", index))?;
    }
    for (index, overrider) in overriders.annotations_overrider.iter().enumerate() {
        entries(object, "annotations", overrider).map_err(named("annotationsOverrider", index))?;
    }
    for (index, overrider) in overriders.field_overrider.iter().enumerate() {
        field::change(object, overrider).map_err(named("fieldOverrider", index))?;
    }
    for (index, overrider) in overriders.plaintext.iter().enumerate() {
        let value = overrider.value.as_ref().unwrap_or(&Value::Null);
        let failed = |cause| named("plaintext", index)((overrider.path.clone(), cause));
        patch::apply(object, overrider.operator.into(), &overrider.path, value).map_err(|e| failed(e.into()))?;
        if !object.is_object() {
            return Err(failed(Cause::NoObject));
        }
    }
    Ok(())
}

/// What is wrong, and where.
type Failure = (String, Cause);

fn named(overrider: &str, index: usize) -> impl Fn(Failure) -> OverrideError {
    move |(path, cause)| OverrideError {
        overrider: format!("{overrider}[{index}]"),
        path,
        cause: Box::new(cause),
    }
}

/// Labels or annotations: added always; replaced and removed where they are there.
fn entries(object: &mut Value, of: &'static str, overrider: &MapOverrider) -> Result<(), Failure> {
    let Some(metadata) = object
        .as_object_mut()
        .map(|object| object.entry("metadata").or_insert_with(empty))
    else {
        return Err((String::new(), shape("an object", object)));
    };
    let Some(metadata) = metadata.as_object_mut() else {
        return Err(("/metadata".to_owned(), shape("an object", metadata)));
    };
    let adds = overrider.operator == OverriderOperator::Add;
    if !adds && !metadata.contains_key(of) {
        return Ok(());
    }
    let place = metadata.entry(of).or_insert_with(empty);
    if place.is_null() {
        *place = empty();
    }
    let Some(map) = place.as_object_mut() else {
        return Err((format!("/metadata/{of}"), shape("an object", place)));
    };
    for (key, value) in &overrider.value {
        match overrider.operator {
            OverriderOperator::Remove => {
                map.remove(key);
            }
            OverriderOperator::Replace if !map.contains_key(key) => {}
            OverriderOperator::Add | OverriderOperator::Replace => {
                map.insert(key.clone(), Value::String(value.clone()));
            }
        }
    }
    Ok(())
}

fn empty() -> Value {
    Value::Object(Map::new())
}

fn shape(expected: &'static str, found: &Value) -> Cause {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    Cause::Shape { expected, found }
}

impl From<OverriderOperator> for Op {
    fn from(operator: OverriderOperator) -> Self {
        match operator {
            OverriderOperator::Add => Self::Add,
            OverriderOperator::Remove => Self::Remove,
            OverriderOperator::Replace => Self::Replace,
        }
    }
}
