//! Between API objects and replica entries: keys, and the canonical bytes that both ends hash.
//!
//! The body of an entry is the object's JSON with sorted keys, without what a server writes into every object and without what
//! the hub itself writes, because that must not travel back to where it came from.

use std::sync::Arc;

use bytes::Bytes;
use proto::{Hash, entry_hash};
use serde_json::Value;

/// API group of the device kinds.
pub(crate) const DEVICES: &str = "devices.kubeedge.io";
/// API group of EdgeNode.
pub(crate) const EDGE: &str = "edge.kubeedge.io";

/// Every annotation below this prefix is the hub's own bookkeeping.
pub(crate) const HUB_PREFIX: &str = "kurator.dev/observed";
/// On DeviceStatus and Node: hash of the observed body this was written from.
pub(crate) const OBSERVED: &str = "kurator.dev/observed";
/// On DeviceStatus and Node: the node that reported it.
pub(crate) const OBSERVED_FROM: &str = "kurator.dev/observed-from";
/// On Device: hash of the gateway's desired edits that were merged in.
pub(crate) const TWINS: &str = "kurator.dev/observed-twins";
/// On Device: the node whose edits those were.
pub(crate) const TWINS_FROM: &str = "kurator.dev/observed-twins-from";

const SERVER_FIELDS: [&str; 5] = [
    "resourceVersion",
    "uid",
    "generation",
    "creationTimestamp",
    "managedFields",
];

/// What an observed key may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ObservedKey<'a> {
    /// `devices.kubeedge.io/devicestatuses/<ns>/<device>`
    Status { namespace: &'a str, name: &'a str },
    /// `devices.kubeedge.io/twins/<ns>/<device>`: desired values set at the gateway.
    Twins { namespace: &'a str, name: &'a str },
    /// `/nodes//<node>`
    Node { name: &'a str },
}

/// Canonical bytes with the hash they have under their key: counted once, shared by every set they are in.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    pub(crate) hash: Hash,
    pub(crate) bytes: Bytes,
}

impl Body {
    pub(crate) fn new(key: &str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            hash: entry_hash(key, &bytes),
            bytes,
        }
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Body {}

/// Reads an observed key; `None` for anything a gateway has no business with.
pub(crate) fn observed_key(key: &str) -> Option<ObservedKey<'_>> {
    let mut parts = key.split('/');
    let four = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    match four {
        (DEVICES, "devicestatuses", ns, name) if !ns.is_empty() && !name.is_empty() => {
            Some(ObservedKey::Status { namespace: ns, name })
        }
        (DEVICES, "twins", ns, name) if !ns.is_empty() && !name.is_empty() => {
            Some(ObservedKey::Twins { namespace: ns, name })
        }
        ("", "nodes", "", name) if !name.is_empty() => Some(ObservedKey::Node { name }),
        _ => None,
    }
}

/// `group/plural/namespace/name`
pub(crate) fn key(group: &str, plural: &str, namespace: &str, name: &str) -> Arc<str> {
    Arc::from(format!("{group}/{plural}/{namespace}/{name}"))
}

/// The canonical bytes of a desired object. `with_status` keeps what the hub does not write itself.
pub(crate) fn desired_body(mut object: Value, with_status: bool) -> Bytes {
    if let Some(root) = object.as_object_mut() {
        if !with_status {
            root.remove("status");
        }
        if let Some(meta) = root.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in SERVER_FIELDS {
                meta.remove(field);
            }
            if let Some(notes) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
                notes.retain(|name, _| !name.starts_with(HUB_PREFIX));
                if notes.is_empty() {
                    meta.remove("annotations");
                }
            }
        }
    }
    Bytes::from(serde_json::to_vec(&object).expect("a JSON value serialises"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn observed_keys_are_of_three_kinds_only() {
        assert_eq!(
            observed_key("devices.kubeedge.io/devicestatuses/default/press"),
            Some(ObservedKey::Status {
                namespace: "default",
                name: "press"
            })
        );
        assert_eq!(
            observed_key("devices.kubeedge.io/twins/default/press"),
            Some(ObservedKey::Twins {
                namespace: "default",
                name: "press"
            })
        );
        assert_eq!(observed_key("/nodes//gw-1"), Some(ObservedKey::Node { name: "gw-1" }));
        for bad in [
            "",
            "/nodes/x/gw-1",
            "/nodes//",
            "/secrets/default/a",
            "devices.kubeedge.io/devices/default/a",
            "devices.kubeedge.io/devicestatuses//a",
            "devices.kubeedge.io/devicestatuses/default/a/b",
            "/nodes//gw-1/",
        ] {
            assert_eq!(observed_key(bad), None, "{bad}");
        }
    }

    #[test]
    fn bodies_say_nothing_a_server_or_the_hub_wrote() {
        let object = json!({
            "spec": {"z": 1, "a": 2},
            "kind": "EdgeNode",
            "status": {"connected": true},
            "metadata": {
                "name": "gw", "uid": "u", "resourceVersion": "7", "generation": 3, "creationTimestamp": "x",
                "managedFields": [], "labels": {"region": "east"},
                "annotations": {"kurator.dev/observed-twins": "ff"},
            },
        });
        let want = r#"{"kind":"EdgeNode","metadata":{"labels":{"region":"east"},"name":"gw"},"spec":{"a":2,"z":1}}"#;
        assert_eq!(desired_body(object.clone(), false), want);
        let text = String::from_utf8(desired_body(object, true).to_vec()).unwrap();
        assert!(text.contains("connected"));
        let kept = json!({"metadata": {"annotations": {"a": "b", "kurator.dev/observed": "c"}}});
        assert_eq!(desired_body(kept, true), r#"{"metadata":{"annotations":{"a":"b"}}}"#);
    }
}
