//! What the local API lets in: desired values are checked against their model and stamped by the gateway's clock; what the hub owns is
//! the hub's, except desired values; Works are read here and no more; DeviceStatus is written by the twin service alone.

use daemon::clock::wall_ms;
use device_models::kinds::{DEVICES_GROUP, EDGE_GROUP};
use device_models::{CLEARED, FieldError, FieldErrorKind, OVERRULED, admit_device, validate_model};
use federation::names::cluster_of;
use metastore::api::{Admission, AdmitContext, Cause, Operation, Status};
use metastore::store::StoreError;
use serde_json::{Map, Value};

use crate::objects::{self, DEVICES, EDGE_NODES, MODELS, STATUSES, WORK_GROUP, WORKS};
use crate::stamps::Stamps;
use crate::uplink::is_mirrored;

/// Says "ask the hub" in one place.
const HUBS: &str = "this object is the hub's and is only mirrored here; change it at the hub";

/// [`Admission`] of a gateway.
#[derive(Debug)]
pub(super) struct EdgeAdmission {
    node: String,
    stamps: Stamps,
}

impl EdgeAdmission {
    /// For gateway `node`.
    pub(super) fn new(node: &str, stamps: Stamps) -> Self {
        Self {
            node: node.to_owned(),
            stamps,
        }
    }
}

impl Admission for EdgeAdmission {
    fn admit(&self, context: &AdmitContext<'_>, old: Option<&Value>, new: &mut Value) -> Result<(), Status> {
        match (context.kind.group(), context.kind.plural()) {
            (DEVICES_GROUP, DEVICES) => self.device(context, old, new),
            (DEVICES_GROUP, MODELS) => model(context, new),
            (DEVICES_GROUP, STATUSES) => {
                let why = "what a device reported is written by the agent; report it on MQTT";
                Err(Status::forbidden(DEVICES_GROUP, STATUSES, context.name, why))
            }
            (EDGE_GROUP, EDGE_NODES) => hubs_own(context),
            // What a Work carries is applied whoever wrote it: it is nobody's here.
            (WORK_GROUP, WORKS) => Err(hubs(context)),
            // What was mirrored would be gone here, and the hub would not know.
            ("apiextensions.k8s.io", "customresourcedefinitions")
                if context.op == Operation::Delete && context.name == "works.work.karmada.io" =>
            {
                Err(hubs(context))
            }
            ("", "namespaces") if context.op == Operation::Delete && cluster_of(context.name).is_some() => {
                Err(hubs(context))
            }
            _ => Ok(()),
        }
    }
}

impl EdgeAdmission {
    fn device(&self, context: &AdmitContext<'_>, old: Option<&Value>, new: &mut Value) -> Result<(), Status> {
        let mirrored = mirrored(context)?;
        if context.op == Operation::Delete {
            return if mirrored { Err(hubs(context)) } else { Ok(()) };
        }
        if mirrored {
            // A mirrored object that is not there is the hub's all the more.
            let changed = old.map_or_else(|| Some("metadata.name".to_owned()), |old| difference(old, new));
            if let Some(field) = changed {
                let why = format!(
                    "this device is the hub's: only the desired values of its properties may be changed here, not {field}"
                );
                return Err(Status::forbidden(DEVICES_GROUP, DEVICES, context.name, &why));
            }
        }
        match new["spec"]["nodeName"].as_str() {
            None | Some("") => {
                if let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) {
                    spec.insert("nodeName".to_owned(), self.node.as_str().into());
                }
            }
            Some(node) if node == self.node => {}
            Some(node) => {
                let why = format!("a device of this gateway has the node name {}", self.node);
                let cause = Cause::invalid("spec.nodeName", node, &why);
                return Err(Status::invalid(DEVICES_GROUP, "Device", context.name, vec![cause]));
            }
        }
        let model = match new["spec"]["deviceModelRef"]["name"].as_str() {
            Some(name) => {
                let key = objects::device_key(MODELS, context.namespace, name);
                let stored = context.store.get(&key).map_err(|e| unreadable(&e))?;
                stored.and_then(|model| model.value().ok())
            }
            None => None,
        };
        let mut clock = self.stamps.lock();
        let mut trial = clock.clone();
        let who = context.user.name.as_str();
        admit_device(old, new, model.as_ref(), &mut trial, wall_ms(), who)
            .map_err(|errors| invalid("Device", context.name, errors))?;
        if !context.dry_run {
            *clock = trial;
        }
        Ok(())
    }
}

fn model(context: &AdmitContext<'_>, new: &Value) -> Result<(), Status> {
    hubs_own(context)?;
    if context.op == Operation::Delete {
        return Ok(());
    }
    match validate_model(new) {
        errors if errors.is_empty() => Ok(()),
        errors => Err(invalid("DeviceModel", context.name, errors)),
    }
}

fn hubs_own(context: &AdmitContext<'_>) -> Result<(), Status> {
    if mirrored(context)? { Err(hubs(context)) } else { Ok(()) }
}

fn mirrored(context: &AdmitContext<'_>) -> Result<bool, Status> {
    let key = metastore::store::ObjectKey::new(
        context.kind.group(),
        context.kind.plural(),
        context.namespace,
        context.name,
    );
    is_mirrored(context.store, &key).map_err(|e| unreadable(&e))
}

fn hubs(context: &AdmitContext<'_>) -> Status {
    Status::forbidden(context.kind.group(), context.kind.plural(), context.name, HUBS)
}

fn unreadable(error: &StoreError) -> Status {
    Status::unavailable(error.to_string())
}

fn invalid(kind: &str, name: &str, errors: Vec<FieldError>) -> Status {
    let causes = errors
        .into_iter()
        .map(|error| match error.kind {
            FieldErrorKind::Required => Cause::required(error.path, &error.message),
            FieldErrorKind::Forbidden => Cause::forbidden(error.path, &error.message),
            _ => Cause::invalid(error.path, &error.value, &error.message),
        })
        .collect();
    Status::invalid(DEVICES_GROUP, kind, name, causes)
}

/// What of a Device belongs to its owner: all that travels, but desired values and what says of them that they were cleared.
fn owned_part(device: &Value) -> Value {
    let mut part = objects::replica(device.clone());
    if let Some(properties) = part.pointer_mut("/spec/properties").and_then(Value::as_array_mut) {
        for property in properties.iter_mut().filter_map(Value::as_object_mut) {
            property.remove("desired");
        }
        // A property that has nothing but a desired value may come and go with it.
        properties.retain(|property| property.as_object().is_none_or(|p| p.keys().any(|key| key != "name")));
    }
    if let Some(metadata) = part.get_mut("metadata").and_then(Value::as_object_mut) {
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(CLEARED);
            annotations.remove(OVERRULED);
        }
        // No labels and an empty set of them are the same, and so is everything else in there.
        metadata.retain(|_, value| !is_empty(value));
    }
    if let Some(part) = part.as_object_mut() {
        // The API's to say, with the version that it was asked for.
        part.retain(|field, value| field != "apiVersion" && field != "kind" && !is_empty(value));
    }
    part
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// Where two owned parts differ first, to be told.
fn difference(old: &Value, new: &Value) -> Option<String> {
    let (old, new) = (owned_part(old), owned_part(new));
    let fields = |value: &Value, name: &str| -> Map<String, Value> {
        value.get(name).and_then(Value::as_object).cloned().unwrap_or_default()
    };
    for part in ["metadata", "spec"] {
        let (old, new) = (fields(&old, part), fields(&new, part));
        let differs = old
            .keys()
            .chain(new.keys())
            .find(|name| old.get(*name) != new.get(*name));
        if let Some(name) = differs {
            return Some(format!("{part}.{name}"));
        }
    }
    (old != new).then(|| "status".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn desired_values_are_nobodys_alone() {
        let device = |desired: Value, cycle: u64| {
            json!({"metadata": {"name": "d", "resourceVersion": "1"}, "spec": {"nodeName": "gw",
                "properties": [{"name": "a", "reportCycle": cycle, "desired": desired}, {"name": "b"}]}})
        };
        let one = device(json!({"value": "1"}), 5);
        assert_eq!(owned_part(&one), owned_part(&device(json!({"value": "2"}), 5)));
        assert_ne!(owned_part(&one), owned_part(&device(json!({"value": "1"}), 6)));
        let mut cleared = one.clone();
        cleared["metadata"]["annotations"] = json!({CLEARED: "{}"});
        assert_eq!(owned_part(&one), owned_part(&cleared));
        cleared["metadata"]["annotations"]["team"] = json!("x");
        assert_ne!(owned_part(&one), owned_part(&cleared));
    }

    #[test]
    fn everything_that_travels_is_the_owners() {
        let one = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
            "metadata": {"name": "d", "namespace": "default", "uid": "u", "resourceVersion": "7", "labels": {"line": "1"}},
            "spec": {"nodeName": "gw", "properties": [{"name": "a"}]}});
        let with = |pointer: &str, field: &str, value: Value| {
            let mut other = one.clone();
            other.pointer_mut(pointer).unwrap()[field] = value;
            difference(&one, &other)
        };
        let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "1"}]);
        for (pointer, field, value) in [
            ("/metadata", "finalizers", json!(["example.com/hold"])),
            ("/metadata", "ownerReferences", owner),
            ("/metadata", "annotations", json!({"a": "b"})),
            ("/metadata", "labels", json!({})),
            ("/metadata", "somethingNew", json!(1)),
            ("/spec", "nodeName", json!("another")),
        ] {
            let path = format!("{pointer}.{field}").replace('/', "");
            assert_eq!(with(pointer, field, value), Some(path));
        }
        assert_eq!(
            with("", "status", json!({"reportToCloud": true})),
            Some("status".to_owned())
        );
        for (pointer, field, value) in [
            ("/metadata", "resourceVersion", json!("8")),
            ("/metadata", "managedFields", json!([{"manager": "kubectl"}])),
            ("/metadata", "finalizers", json!([])),
            ("", "status", json!({})),
        ] {
            assert_eq!(with(pointer, field, value), None);
        }
    }
}
