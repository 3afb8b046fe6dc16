//! Images, commands and arguments of the containers that an object runs.

use serde_json::Value;

use super::image::{Part, changed};
use super::{Cause, Failure, patch, shape};
use crate::kinds::{CommandOverrider, ImageComponent, ImageOverrider, OverriderOperator};

/// Where an object of this kind has the spec of its pods.
fn pod_spec(kind: &str) -> Option<&'static [&'static str]> {
    match kind {
        "Pod" => Some(&["spec"]),
        "Deployment" | "ReplicaSet" | "DaemonSet" | "StatefulSet" | "Job" => Some(&["spec", "template", "spec"]),
        "CronJob" => Some(&["spec", "jobTemplate", "spec", "template", "spec"]),
        _ => None,
    }
}

/// Does something to every container that runs beside the others or before them; it is told where the container stands.
fn each(
    object: &mut Value,
    mut act: impl FnMut(&mut serde_json::Map<String, Value>, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let Some(steps) = object["kind"].as_str().and_then(pod_spec) else {
        return Ok(());
    };
    let mut spec = object;
    for step in steps {
        match spec.get_mut(step) {
            Some(below) => spec = below,
            None => return Ok(()),
        }
    }
    for list in ["initContainers", "containers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for (index, container) in containers.into_iter().flatten().enumerate() {
            if let Some(container) = container.as_object_mut() {
                act(container, &format!("/{}/{list}/{index}", steps.join("/")))?;
            }
        }
    }
    Ok(())
}

/// Changes the image that the predicate names, or those of all containers.
pub(super) fn image(object: &mut Value, overrider: &ImageOverrider) -> Result<(), Failure> {
    let part = match overrider.component {
        ImageComponent::Registry => Part::Registry,
        ImageComponent::Repository => Part::Repository,
        ImageComponent::Tag => Part::Tag,
    };
    let put = |image: &mut Value, path: &str| {
        let Some(text) = image.as_str() else {
            return Err((path.to_owned(), shape("a text", image)));
        };
        let new = changed(text, part, overrider.operator.into(), &overrider.value)
            .map_err(|e| (path.to_owned(), Cause::Image(e)))?;
        *image = Value::String(new);
        Ok(())
    };
    if let Some(predicate) = &overrider.predicate {
        let place = patch::steps(&predicate.path).and_then(|steps| patch::find(object, &steps));
        let place = place.map_err(|e| (predicate.path.clone(), e.into()))?;
        return put(place, &predicate.path);
    }
    each(object, |container, path| match container.get_mut("image") {
        Some(image) if !image.is_null() => put(image, &format!("{path}/image")),
        _ => Ok(()),
    })
}

/// Adds words to the command or the arguments of a container, or removes them wherever they stand. An object may be without that
/// container: one policy is for many.
pub(super) fn words(object: &mut Value, of: &'static str, overrider: &CommandOverrider) -> Result<(), Failure> {
    each(object, |container, path| {
        if container.get("name").and_then(Value::as_str) != Some(&overrider.container_name) {
            return Ok(());
        }
        let path = format!("{path}/{of}");
        let absent = container.get(of).is_none_or(Value::is_null);
        if absent {
            if overrider.operator == OverriderOperator::Remove {
                return Ok(());
            }
            container.insert(of.to_owned(), Value::Array(Vec::new()));
        }
        let list = match container.get_mut(of) {
            Some(Value::Array(list)) => list,
            other => return Err((path, shape("a list", other.unwrap_or(&mut Value::Null)))),
        };
        match overrider.operator {
            OverriderOperator::Add => list.extend(overrider.value.iter().cloned().map(Value::String)),
            OverriderOperator::Remove => {
                list.retain(|word| {
                    !word
                        .as_str()
                        .is_some_and(|word| overrider.value.iter().any(|v| v == word))
                });
            }
            OverriderOperator::Replace => return Err((path, Cause::Operator)),
        }
        Ok(())
    })
}
