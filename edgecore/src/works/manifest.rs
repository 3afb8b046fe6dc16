//! A Work as it is stored: what may be in one, the objects that it carries and how they are told apart, what the agent puts on them
//! and takes off again.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use federation::names;
use metastore::api::ResourceId;
use metastore::store::ObjectKey;
use serde_json::{Map, Value};

use super::kinds::{Kind, Kinds};
use crate::objects::IMPLICIT;

/// Objects that one Work may carry. Karmada's own carry one each.
const MAX_MANIFESTS: usize = 512;
/// What a server says of an object and a client does not.
const SERVERS: [&str; 9] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// What speaks against a Work in a namespace.
///
/// # Errors
/// The reason.
pub(crate) fn check(namespace: &str, work: &Value) -> Result<(), String> {
    if names::cluster_of(namespace).is_none() {
        return Err("the namespace is not one of a cluster's Works".to_owned());
    }
    let manifests = match work.pointer("/spec/workload/manifests") {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(manifests)) => manifests,
        Some(_) => return Err("spec.workload.manifests: not a list".to_owned()),
    };
    if manifests.len() > MAX_MANIFESTS {
        return Err(format!(
            "spec.workload.manifests: {} of them, at most {MAX_MANIFESTS} may be in one Work",
            manifests.len()
        ));
    }
    for (at, manifest) in manifests.iter().enumerate() {
        if !manifest.is_object() {
            return Err(format!("spec.workload.manifests[{at}]: not an object"));
        }
        for field in ["/apiVersion", "/kind", "/metadata/name"] {
            let said = manifest.pointer(field).and_then(Value::as_str).unwrap_or_default();
            if said.is_empty() {
                let field = field[1..].replace('/', ".");
                return Err(format!("spec.workload.manifests[{at}].{field}: missing"));
            }
        }
    }
    Ok(())
}

/// What a Work asks for beside its manifests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) suspended: bool,
    pub(super) deleting: bool,
    pub(super) preserve: bool,
}

impl Wishes {
    pub(super) fn of(work: &Value) -> Self {
        let flag = |field: &str| work["spec"][field].as_bool().unwrap_or_default();
        Self {
            suspended: flag("suspendDispatching"),
            deleting: work["metadata"]["annotations"][names::DELETING] == "true",
            preserve: flag("preserveResourcesOnDeletion"),
        }
    }
}

/// The manifests of a Work, taken out of it.
pub(super) fn take_manifests(work: &mut Value) -> Vec<Value> {
    match work.pointer_mut("/spec/workload/manifests").map(Value::take) {
        Some(Value::Array(manifests)) => manifests,
        _ => Vec::new(),
    }
}

/// Where an object is: its kind, as the API serves it, and its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) kind: Arc<Kind>,
    pub(super) key: ObjectKey,
}

impl Place {
    /// Of a manifest.
    ///
    /// # Errors
    /// When the API does not serve its kind.
    pub(super) fn of(manifest: &Value, kinds: &Kinds) -> Result<Self, String> {
        let said = Said::of(manifest);
        let kind = kinds
            .of(said.api_version, said.kind)
            .ok_or_else(|| format!("no matches for kind {:?} in version {:?}", said.kind, said.api_version))?;
        let namespace = if kind.namespaced { said.namespace } else { "" };
        if kind.namespaced && namespace.is_empty() {
            return Err(format!(
                "resource(kind={}, {}) has no namespace, and its kind is one that needs one",
                said.kind, said.name
            ));
        }
        let (group, plural) = (Arc::clone(&kind.group), Arc::clone(&kind.plural));
        Ok(Self {
            key: ObjectKey::new(group, plural, namespace, said.name),
            kind: Arc::clone(kind),
        })
    }

    pub(super) fn id(&self) -> ResourceId {
        ResourceId::new(&self.key.group, &self.key.resource, &self.key.namespace, &self.key.name)
    }
}

/// What an object says of itself; empty where it says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said<'v> {
    pub(super) api_version: &'v str,
    pub(super) kind: &'v str,
    pub(super) namespace: &'v str,
    pub(super) name: &'v str,
}

impl<'v> Said<'v> {
    pub(super) fn of(object: &'v Value) -> Self {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        Self {
            api_version: text("/apiVersion"),
            kind: text("/kind"),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
        }
    }

    pub(super) fn group(&self) -> &'v str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

/// A manifest as it is to be written: what only a server says is not in it, and what it was delivered by is.
pub(super) fn desired(mut manifest: Value, place: &Place, (namespace, name): (&str, &str)) -> Value {
    if let Some(object) = manifest.as_object_mut() {
        object.remove("status");
    }
    let metadata = fields(&mut manifest, "metadata");
    for field in SERVERS {
        metadata.remove(field);
    }
    if !place.kind.namespaced {
        metadata.remove("namespace");
    }
    set(&mut manifest, "labels", names::MANAGED, "true");
    set(&mut manifest, "annotations", names::WORK_NAMESPACE, namespace);
    set(&mut manifest, "annotations", names::WORK_NAME, name);
    manifest
}

/// Whether an object was delivered through a Work.
pub(super) fn is_managed(object: &Value) -> bool {
    object["metadata"]["labels"][names::MANAGED] == "true"
}

/// Whether an object is a Namespace that was made for what is in it.
pub(super) fn is_implicit(object: &Value) -> bool {
    object["metadata"]["annotations"].get(IMPLICIT).is_some()
}

/// The agent's mark of such a namespace.
pub(super) fn mark_implicit(object: &mut Value) {
    set(object, "annotations", IMPLICIT, "true");
}

/// Takes the mark off.
pub(super) fn unmark_implicit(object: &mut Value) {
    if let Some(annotations) = object
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.remove(IMPLICIT);
    }
}

/// Takes off what says that the object came through a Work: it is somebody's own from here on.
pub(super) fn release(object: &mut Value) {
    for part in ["/metadata/labels", "/metadata/annotations"] {
        if let Some(entries) = object.pointer_mut(part).and_then(Value::as_object_mut) {
            entries.retain(|key, _| {
                let domain = key.split_once('/').map_or("", |(domain, _)| domain);
                domain != "karmada.io" && !domain.ends_with(".karmada.io")
            });
        }
    }
}

fn set(object: &mut Value, part: &str, key: &str, value: &str) {
    let metadata = fields(object, "metadata");
    let entries = metadata.entry(part).or_insert(Value::Null);
    if !entries.is_object() {
        *entries = Value::Object(Map::new());
    }
    if let Some(entries) = entries.as_object_mut() {
        entries.insert(key.to_owned(), value.into());
    }
}

fn fields<'v>(object: &'v mut Value, part: &str) -> &'v mut Map<String, Value> {
    if !object[part].is_object() {
        object[part] = Value::Object(Map::new());
    }
    object[part].as_object_mut().expect("made an object just above")
}

/// A hash of a value: one value has one text, as its fields are sorted.
pub(super) fn hash(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    feed(&mut hasher, value);
    hasher.finish()
}

/// A hash of what an object is, whatever its state and its version: all but its status, its `resourceVersion` and who owns which field.
pub(super) fn print(object: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (name, field) in object.as_object().into_iter().flatten() {
        match name.as_str() {
            "status" => continue,
            "metadata" => {
                for (name, field) in field.as_object().into_iter().flatten() {
                    if name != "resourceVersion" && name != "managedFields" {
                        hasher.write(name.as_bytes());
                        feed(&mut hasher, field);
                    }
                }
            }
            _ => {
                hasher.write(name.as_bytes());
                feed(&mut hasher, field);
            }
        }
    }
    hasher.finish()
}

fn feed(hasher: &mut DefaultHasher, value: &Value) {
    struct Writer<'h>(&'h mut DefaultHasher);
    impl std::io::Write for Writer<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.write(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    serde_json::to_writer(Writer(hasher), value).expect("a hash takes everything, and keys of JSON are text");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_works_that_can_be_worked_with_are_taken() {
        let work = |manifests: Value| json!({"spec": {"workload": {"manifests": manifests}}});
        let good = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
        let told = |manifests: Value| check("karmada-es-gw", &work(manifests)).unwrap_err();
        assert_eq!(check("karmada-es-gw", &work(json!([good]))), Ok(()));
        assert_eq!(check("karmada-es-gw", &json!({})), Ok(()));
        assert!(check("default", &work(json!([]))).is_err());
        assert_eq!(told(json!({})), "spec.workload.manifests: not a list");
        assert_eq!(told(json!([good, 7])), "spec.workload.manifests[1]: not an object");
        for (without, why) in [
            ("apiVersion", "spec.workload.manifests[0].apiVersion: missing"),
            ("metadata", "spec.workload.manifests[0].metadata.name: missing"),
        ] {
            let mut bad = good.clone();
            bad[without] = json!(7);
            assert_eq!(told(json!([bad])), why);
        }
        assert!(told(json!(vec![good; MAX_MANIFESTS + 1])).contains("at most 512"));
    }

    #[test]
    fn a_state_is_no_other_object() {
        let one = json!({"metadata": {"name": "a", "resourceVersion": "1", "labels": {"a": "b"}}, "spec": {"x": 1}, "status": {"y": 1}});
        let mut other = one.clone();
        other["status"]["y"] = json!(2);
        other["metadata"]["resourceVersion"] = json!("2");
        other["metadata"]["managedFields"] = json!([{"manager": "kubectl"}]);
        assert_eq!(print(&one), print(&other));
        other["metadata"]["labels"]["a"] = json!("c");
        assert_ne!(print(&one), print(&other));
        print(&json!(7));
    }

    #[test]
    fn what_was_released_is_as_if_nobody_had_delivered_it() {
        let kind = Kind {
            group: "".into(),
            version: "v1".into(),
            kind: "ConfigMap".into(),
            plural: "configmaps".into(),
            namespaced: true,
            preferred: true,
        };
        let place = Place {
            kind: Arc::new(kind),
            key: ObjectKey::new("", "configmaps", "default", "a"),
        };
        let manifest =
            json!({"metadata": {"name": "a", "uid": "u", "resourceVersion": "7", "labels": 7}, "status": {}});
        let mut object = desired(manifest, &place, ("karmada-es-gw", "a-1"));
        assert!(is_managed(&object));
        assert_eq!(object["metadata"]["annotations"][names::WORK_NAME], "a-1");
        object["metadata"]["labels"]["app"] = json!("a");
        release(&mut object);
        assert_eq!(
            object,
            json!({"metadata": {"name": "a", "labels": {"app": "a"}, "annotations": {}}})
        );
        desired(json!(null), &place, ("", ""));
    }
}
