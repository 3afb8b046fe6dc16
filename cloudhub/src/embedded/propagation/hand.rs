//! The hub's own API as its controllers use it: values in and out, in process. Every write goes the way of a request (admission, validation,
//! one commit), writes nothing where nothing differs, and is durable when it is answered.

use std::fmt;
use std::sync::Arc;

use metastore::api::{ApiServer, DeleteOptions, MASTERS, ResourceId, Status, User};
use metastore::store::{ListOptions, ObjectKey, Scope, Store};
use serde_json::{Map, Value, json};

/// Objects that are read at a time.
const PAGE: usize = 200;

/// A kind of object that the controllers know by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) group: &'static str,
    pub(super) plural: &'static str,
}

const fn kind(group: &'static str, plural: &'static str) -> Kind {
    Kind { group, plural }
}

pub(super) const CLUSTERS: Kind = kind("cluster.karmada.io", "clusters");
pub(super) const POLICIES: Kind = kind("policy.karmada.io", "propagationpolicies");
pub(super) const CLUSTER_POLICIES: Kind = kind("policy.karmada.io", "clusterpropagationpolicies");
pub(super) const OVERRIDES: Kind = kind("policy.karmada.io", "overridepolicies");
pub(super) const CLUSTER_OVERRIDES: Kind = kind("policy.karmada.io", "clusteroverridepolicies");
pub(super) const BINDINGS: Kind = kind("work.karmada.io", "resourcebindings");
pub(super) const CLUSTER_BINDINGS: Kind = kind("work.karmada.io", "clusterresourcebindings");
pub(super) const WORKS: Kind = kind("work.karmada.io", "works");
pub(super) const FEDERATED: Kind = kind("apps.kurator.dev", "federateddeployments");
pub(super) const NAMESPACES: Kind = kind("", "namespaces");
pub(super) const DEPLOYMENTS: Kind = kind("apps", "deployments");
pub(super) const DEFINITIONS: Kind = kind("apiextensions.k8s.io", "customresourcedefinitions");

impl Kind {
    /// Whether a place in the store holds an object of this kind.
    pub(super) fn is_of(&self, key: &ObjectKey) -> bool {
        *key.resource == *self.plural && *key.group == *self.group
    }

    pub(super) fn id(&self, key: &Key) -> ResourceId {
        ResourceId::new(self.group, self.plural, &key.namespace, &key.name)
    }

    pub(super) fn scope(&self, namespace: Option<&str>) -> Scope {
        match namespace {
            Some(namespace) => Scope::namespace(self.group, self.plural, namespace),
            None => Scope::all(self.group, self.plural),
        }
    }
}

/// Namespace and name. The namespace is empty for what has none: of two kinds of which one is in namespaces and the other is not, a key
/// names one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

impl Key {
    pub(super) fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The place of an object.
    pub(super) fn of(key: &ObjectKey) -> Self {
        Self::new(Arc::clone(&key.namespace), Arc::clone(&key.name))
    }

    /// The kind of binding that has this key.
    pub(super) fn binding(&self) -> Kind {
        if self.namespace.is_empty() {
            CLUSTER_BINDINGS
        } else {
            BINDINGS
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The id of an object of any kind.
pub(super) fn id_of(key: &ObjectKey) -> ResourceId {
    ResourceId::new(&key.group, &key.resource, &key.namespace, &key.name)
}

/// The API under the name of one controller. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Hand {
    api: ApiServer,
    user: Arc<User>,
}

impl Hand {
    /// For a controller of this name, which is who the audit journal says wrote.
    pub(super) fn new(api: ApiServer, controller: &str) -> Self {
        Self {
            api,
            user: Arc::new(User::new(format!("system:kurator:{controller}"), [MASTERS])),
        }
    }

    pub(super) fn store(&self) -> &Store {
        self.api.store()
    }

    /// An object as it is stored, `None` when there is none, or its kind is not served.
    pub(super) fn get(&self, id: &ResourceId) -> Result<Option<Value>, Status> {
        match self.api.get(id) {
            Ok(found) => found.map(|object| object.value().map_err(unreadable)).transpose(),
            Err(s) if s.code == 404 => Ok(None),
            Err(s) => Err(s),
        }
    }

    /// All objects in a scope, one after another: of thousands no more than a page is held at a time.
    pub(super) fn each(&self, scope: &Scope, mut act: impl FnMut(ObjectKey, Value)) -> Result<(), Status> {
        let mut options = ListOptions {
            limit: Some(PAGE),
            ..ListOptions::default()
        };
        loop {
            let listed = self.store().list(scope, options.clone()).map_err(unreadable)?;
            options.after = listed.items.last().map(|last| last.key.clone());
            for object in listed.items {
                let value = object.value().map_err(unreadable)?;
                act(object.key, value);
            }
            if !listed.more || options.after.is_none() {
                return Ok(());
            }
        }
    }

    /// Creates an object. As it is stored.
    pub(super) async fn create(&self, object: Value) -> Result<Value, Status> {
        self.api.create(&self.user, object).await?.value().map_err(unreadable)
    }

    /// Changes an object by a function, which is called again when somebody else wrote meanwhile, and changes nothing by leaving it as it
    /// is. As it is stored then; `None` when there is none.
    pub(super) async fn modify(
        &self,
        id: &ResourceId,
        mut change: impl FnMut(&mut Value) + Send,
    ) -> Result<Option<Value>, Status> {
        self.change(id, "", &mut change).await
    }

    /// The same for its status; `None` also where the kind has none.
    pub(super) async fn modify_status(
        &self,
        id: &ResourceId,
        mut change: impl FnMut(&mut Value) + Send,
    ) -> Result<Option<Value>, Status> {
        self.change(id, "status", &mut change).await
    }

    async fn change(
        &self,
        id: &ResourceId,
        part: &str,
        change: &mut (dyn FnMut(&mut Value) + Send),
    ) -> Result<Option<Value>, Status> {
        let changed = self.api.modify(&self.user, id, part, |object| {
            change(object);
            Ok(())
        });
        match changed.await {
            Ok(applied) => Ok(Some(applied.object.value().map_err(unreadable)?)),
            Err(s) if s.code == 404 => Ok(None),
            Err(s) => Err(s),
        }
    }

    /// Deletes an object, or marks it where something holds it; one that is not there is none to delete.
    pub(super) async fn delete(&self, id: &ResourceId) -> Result<(), Status> {
        match self
            .api
            .delete_internal(&self.user, id, &DeleteOptions::default())
            .await
        {
            Ok(_) => Ok(()),
            Err(s) if s.code == 404 => Ok(()),
            Err(s) => Err(s),
        }
    }
}

fn unreadable(error: impl fmt::Display) -> Status {
    Status::internal(error.to_string())
}

/// Whether a write was refused because somebody made the object meanwhile.
pub(super) fn is_there(status: &Status) -> bool {
    status.reason == "AlreadyExists"
}

/// The text at a pointer, empty when absent.
pub(super) fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The list at a pointer, empty when absent.
pub(super) fn list<'v>(object: &'v Value, pointer: &str) -> &'v [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// A label of an object, empty when absent.
pub(super) fn label<'v>(object: &'v Value, key: &str) -> &'v str {
    of_metadata(object, "labels", key)
}

/// An annotation of an object, empty when absent.
pub(super) fn note<'v>(object: &'v Value, key: &str) -> &'v str {
    of_metadata(object, "annotations", key)
}

fn of_metadata<'v>(object: &'v Value, map: &str, key: &str) -> &'v str {
    let found = object.get("metadata").and_then(|m| m.get(map)?.get(key)?.as_str());
    found.unwrap_or_default()
}

/// How often what an object asks for was changed; 0 where nobody counts.
pub(super) fn generation(object: &Value) -> i64 {
    let counted = object.pointer("/metadata/generation");
    counted.and_then(Value::as_i64).unwrap_or_default()
}

/// Whether an object was asked to go.
pub(super) fn is_leaving(object: &Value) -> bool {
    object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(|t| !t.is_null())
}

/// Whether an object has a finalizer.
pub(super) fn has_finalizer(object: &Value, name: &str) -> bool {
    list(object, "/metadata/finalizers").iter().any(|f| f == name)
}

/// Gives an object a finalizer.
pub(super) fn add_finalizer(object: &mut Value, name: &str) {
    if has_finalizer(object, name) {
        return;
    }
    match object["metadata"]["finalizers"].as_array_mut() {
        Some(all) => all.push(name.into()),
        None => object["metadata"]["finalizers"] = json!([name]),
    }
}

/// Takes a finalizer off an object.
pub(super) fn remove_finalizer(object: &mut Value, name: &str) {
    if let Some(all) = object.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut) {
        all.retain(|f| f != name);
    }
}

/// Sets an entry of an object's labels or annotations.
pub(super) fn put(object: &mut Value, map: &str, key: &str, value: &str) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    let place = metadata.entry(map).or_insert_with(|| json!({}));
    if !place.is_object() {
        *place = json!({});
    }
    if let Some(entries) = place.as_object_mut() {
        entries.insert(key.to_owned(), value.into());
    }
}

/// Removes entries of an object's labels or annotations.
pub(super) fn take(object: &mut Value, map: &str, keys: &[&str]) {
    let entries = object
        .get_mut("metadata")
        .and_then(|m| m.get_mut(map))
        .and_then(Value::as_object_mut);
    if let Some(entries) = entries {
        keys.iter().for_each(|key| drop(entries.remove(*key)));
    }
}

/// Sets a member of an object's spec, or removes it.
pub(super) fn set(spec: &mut Map<String, Value>, field: &str, value: Option<Value>) {
    match value {
        Some(value) => drop(spec.insert(field.to_owned(), value)),
        None => drop(spec.remove(field)),
    }
}

/// An object at a member, made where there is none.
pub(super) fn member<'v>(object: &'v mut Value, field: &str) -> Option<&'v mut Map<String, Value>> {
    let place = object.as_object_mut()?.entry(field).or_insert_with(|| json!({}));
    if !place.is_object() {
        *place = json!({});
    }
    place.as_object_mut()
}

/// Sets a condition among others. Its time changes with its status only.
pub(super) fn set_condition(
    status: &mut Map<String, Value>,
    ty: &str,
    (holds, reason, message): (bool, &str, &str),
    now: &str,
) {
    let mut condition = json!({
        "type": ty, "status": if holds { "True" } else { "False" }, "reason": reason, "message": message,
        "lastTransitionTime": now,
    });
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(all) = conditions.as_array_mut() else { return };
    match all.iter_mut().find(|c| c["type"] == ty) {
        Some(old) => {
            if old["status"] == condition["status"] && old["lastTransitionTime"].is_string() {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = condition;
        }
        None => all.push(condition),
    }
}

/// The owner that controls what is made for an object.
pub(super) fn owner_of(object: &Value) -> Value {
    json!([{
        "apiVersion": object["apiVersion"], "kind": object["kind"],
        "name": object["metadata"]["name"], "uid": object["metadata"]["uid"],
        "controller": true, "blockOwnerDeletion": true,
    }])
}

/// The uid of an object's controlling owner, empty without one.
pub(super) fn controller_uid(object: &Value) -> &str {
    let owners = list(object, "/metadata/ownerReferences");
    let owner = owners.iter().find(|o| o["controller"] == true);
    owner.and_then(|o| o["uid"].as_str()).unwrap_or_default()
}

/// The time as objects carry it.
pub(super) fn now() -> String {
    crate::upstream::rfc3339(daemon::clock::wall_ms())
}

/// An id that is no other object's.
pub(super) fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
