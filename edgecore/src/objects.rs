//! The objects the agent itself deals with: how they are called in the store and on the wire, and which of their bytes travel.

use bytes::Bytes;
use device_models::kinds::{DEVICES_GROUP, EDGE_GROUP};
use metastore::store::{ObjectKey, Scope};
use serde_json::{Map, Value};

/// Plural of Device.
pub(crate) const DEVICES: &str = "devices";
/// Plural of DeviceModel.
pub(crate) const MODELS: &str = "devicemodels";
/// Plural of DeviceStatus.
pub(crate) const STATUSES: &str = "devicestatuses";
/// Plural of EdgeNode.
pub(crate) const EDGE_NODES: &str = "edgenodes";
/// Plural of Node.
pub(crate) const NODES: &str = "nodes";
/// Plural of Work.
pub(crate) const WORKS: &str = "works";
/// Group of Works.
pub(crate) const WORK_GROUP: &str = "work.karmada.io";
/// Annotation of namespaces that the agent made because something belonged into them: whoever wants the namespace itself may have it.
pub(crate) const IMPLICIT: &str = "kurator.dev/implicit";
/// Not a kind of the store: the desired registers of one Device that were written at this gateway.
const TWINS: &str = "twins";

/// What each store keeps for itself in `metadata`; it does not travel.
const LOCAL_METADATA: [&str; 5] = [
    "creationTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "uid",
];

/// The key of an object of the device kinds.
pub(crate) fn device_key(resource: &str, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(DEVICES_GROUP, resource, namespace, name)
}

/// The key of a Node.
pub(crate) fn node_key(name: &str) -> ObjectKey {
    ObjectKey::new("", NODES, "", name)
}

/// The key of an EdgeNode.
pub(crate) fn edge_node_key(name: &str) -> ObjectKey {
    ObjectKey::new(EDGE_GROUP, EDGE_NODES, "", name)
}

/// The key of a Work.
pub(crate) fn work_key(namespace: &str, name: &str) -> ObjectKey {
    ObjectKey::new(WORK_GROUP, WORKS, namespace, name)
}

/// The key of a Namespace.
pub(crate) fn namespace_key(name: &str) -> ObjectKey {
    ObjectKey::new("", "namespaces", "", name)
}

/// A Namespace as it begins. Its uid follows from its name, so that making it twice makes the same.
pub(crate) fn namespace(name: &str, now: &str) -> Value {
    let digest = proto::entry_hash("namespace", name.as_bytes());
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "uid": uuid::Uuid::from_u128(digest).to_string(),
            "creationTimestamp": now,
            "labels": {"kubernetes.io/metadata.name": name},
            "annotations": {IMPLICIT: "true"},
        },
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    })
}

/// All objects of one of the device kinds.
pub(crate) fn device_scope(resource: &str) -> Scope {
    Scope::all(DEVICES_GROUP, resource)
}

/// All Nodes.
pub(crate) fn node_scope() -> Scope {
    Scope::all("", NODES)
}

/// All EdgeNodes.
pub(crate) fn edge_node_scope() -> Scope {
    Scope::all(EDGE_GROUP, EDGE_NODES)
}

/// All Works.
pub(crate) fn work_scope() -> Scope {
    Scope::all(WORK_GROUP, WORKS)
}

/// `<group>/<plural>/<namespace>/<name>`, read.
pub(crate) fn parse_replica_key(key: &str) -> Option<ObjectKey> {
    let mut parts = key.split('/');
    let (group, resource, namespace, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    (parts.next().is_none() && !resource.is_empty() && !name.is_empty())
        .then(|| ObjectKey::new(group, resource, namespace, name))
}

/// The replica key of the desired registers of one Device that were written at this gateway.
pub(crate) fn twins_key(device: &ObjectKey) -> String {
    format!("{DEVICES_GROUP}/{TWINS}/{}/{}", device.namespace, device.name)
}

/// The bytes of an object that travel: canonical JSON of [`replica`].
pub(crate) fn replica_body(object: Value) -> Bytes {
    canonical(&replica(object))
}

/// What of an object travels: all but what each store keeps for itself.
pub(crate) fn replica(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in LOCAL_METADATA {
            metadata.remove(field);
        }
    }
    object
}

/// Sorted keys, no spaces: one value has one text (`serde_json`'s map is sorted).
pub(crate) fn canonical(value: &Value) -> Bytes {
    Bytes::from(serde_json::to_vec(value).unwrap_or_default())
}

/// Gives `object` the metadata that this store keeps for itself: that of `held`, or new. A changed spec counts the generation up.
pub(crate) fn localize(object: &mut Value, held: Option<&Value>, now: &str) {
    let generation = held.map_or(1, |held| {
        let old = held["metadata"]["generation"].as_u64().unwrap_or(1);
        if held.get("spec") == object.get("spec") {
            old
        } else {
            old + 1
        }
    });
    let kept = |field: &str| held.and_then(|held| held["metadata"].get(field)).cloned();
    let uid = kept("uid").unwrap_or_else(|| uuid::Uuid::new_v4().to_string().into());
    let created = kept("creationTimestamp").unwrap_or_else(|| now.into());
    let metadata = metadata_mut(object);
    for field in LOCAL_METADATA {
        metadata.remove(field);
    }
    metadata.insert("uid".to_owned(), uid);
    metadata.insert("creationTimestamp".to_owned(), created);
    metadata.insert("generation".to_owned(), generation.into());
}

fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(Map::new());
    }
    object["metadata"].as_object_mut().expect("made an object just above")
}

/// `2026-11-21T03:11:10Z` of milliseconds since 1970.
pub(crate) fn rfc3339(wall_ms: u64) -> String {
    let seconds = i64::try_from(wall_ms / 1000).unwrap_or_default();
    jiff::Timestamp::from_second(seconds)
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn replica_keys_name_objects_and_nothing_else() {
        let key = device_key(DEVICES, "default", "press-01");
        assert_eq!(parse_replica_key(&key.to_string()), Some(key.clone()));
        assert_eq!(parse_replica_key("/nodes//gw-1"), Some(node_key("gw-1")));
        assert_eq!(twins_key(&key), "devices.kubeedge.io/twins/default/press-01");
        for bad in ["", "/nodes//", "a/b/c", "a/b/c/d/e", "a//c/d"] {
            assert_eq!(parse_replica_key(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_what_is_the_stores_own_stays_at_home() {
        let object = json!({"spec": {"b": 1, "a": 2}, "kind": "Device", "metadata": {"uid": "u", "resourceVersion": "7",
            "generation": 2, "creationTimestamp": "x", "managedFields": [], "name": "d", "labels": {"a": "b"}}});
        assert_eq!(
            &replica_body(object)[..],
            br#"{"kind":"Device","metadata":{"labels":{"a":"b"},"name":"d"},"spec":{"a":2,"b":1}}"#
        );
    }

    #[test]
    fn an_object_from_the_hub_keeps_its_local_identity() {
        let mut first = json!({"metadata": {"name": "d", "uid": "of-the-hub"}, "spec": {"a": 1}});
        localize(&mut first, None, "2026-01-01T00:00:00Z");
        assert_ne!(first["metadata"]["uid"], "of-the-hub");
        assert_eq!(first["metadata"]["generation"], 1);
        let mut second = json!({"metadata": {"name": "d"}, "spec": {"a": 2}});
        localize(&mut second, Some(&first), "2026-02-01T00:00:00Z");
        assert_eq!(second["metadata"]["uid"], first["metadata"]["uid"]);
        assert_eq!(second["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
        assert_eq!(second["metadata"]["generation"], 2);
    }

    #[test]
    fn times_are_whole_seconds() {
        assert_eq!(rfc3339(1_795_230_670_759), "2026-11-21T03:11:10Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
    }
}
