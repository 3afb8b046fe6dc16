//! Between API objects and replica entries: keys, and the canonical bytes that both ends hash.
//!
//! The body of an entry is the object's JSON with sorted keys, without what a server writes into every object and without what
//! the hub itself writes, because that must not travel back to where it came from.

use std::sync::Arc;

use bytes::Bytes;
use proto::{Hash, entry_hash};
use serde_json::{Map, Value};

/// API group of the device kinds.
pub(crate) const DEVICES: &str = "devices.kubeedge.io";
/// API group of EdgeNode.
pub(crate) const EDGE: &str = "edge.kubeedge.io";

/// API group of Work.
pub(crate) const WORKS: &str = "work.karmada.io";
/// API group of Cluster.
pub(crate) const CLUSTERS: &str = "cluster.karmada.io";

/// Every annotation below this prefix is the hub's own bookkeeping.
pub(crate) const HUB_PREFIX: &str = "kurator.dev/observed";
/// On DeviceStatus and Node: hash of the observed body this was written from.
pub(crate) const OBSERVED: &str = "kurator.dev/observed";
/// On DeviceStatus and Node: the node that reported it.
pub(crate) const OBSERVED_FROM: &str = "kurator.dev/observed-from";
/// On DeviceStatus and Node: hash of what was written, bound to the hash of the observed body. Whoever alters the object breaks it.
pub(crate) const CONTENT: &str = "kurator.dev/observed-content";
/// On Node: the gateway's own word on whether it is ready.
pub(crate) const READY: &str = "kurator.dev/observed-ready";
/// On Node: the labels that the gateway reported.
pub(crate) const REPORTED_LABELS: &str = "kurator.dev/observed-labels";
/// On Node: the labels that the hub put there, wherever they came from. Others are none of its business.
pub(crate) const LABELS: &str = "kurator.dev/labels";
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
    /// `work.karmada.io/works/<ns>/<work>`: what became of it.
    Work { namespace: &'a str, name: &'a str },
    /// `cluster.karmada.io/clusters//<node>`: what the gateway's API serves and what there is room for.
    Cluster { node: &'a str },
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

/// The observed keys that may be reported of the device behind a desired key; `None` when that is no device's.
pub(crate) fn reported_of(key: &str) -> Option<[Arc<str>; 2]> {
    let (namespace, name) = key.strip_prefix(DEVICES)?.strip_prefix("/devices/")?.split_once('/')?;
    Some([
        self::key(DEVICES, "devicestatuses", namespace, name),
        self::key(DEVICES, "twins", namespace, name),
    ])
}

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
        (WORKS, "works", ns, name) if !ns.is_empty() && !name.is_empty() => {
            Some(ObservedKey::Work { namespace: ns, name })
        }
        (CLUSTERS, "clusters", "", node) if !node.is_empty() => Some(ObservedKey::Cluster { node }),
        _ => None,
    }
}

/// `group/plural/namespace/name`
pub(crate) fn key(group: &str, plural: &str, namespace: &str, name: &str) -> Arc<str> {
    Arc::from(format!("{group}/{plural}/{namespace}/{name}"))
}

/// A hash as an annotation has it.
pub(crate) fn hash_text(hash: Hash) -> String {
    format!("{hash:032x}")
}

/// Reads the hash back out of an annotation.
pub(crate) fn hash_of(text: &str) -> Option<Hash> {
    (text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()))
        .then(|| Hash::from_str_radix(text, 16).ok())
        .flatten()
}

/// The value of [`CONTENT`] for a DeviceStatus that was written from the observed body of this hash.
pub(crate) fn status_content(observed: Hash, object: &Value) -> String {
    let part = |name: &str| object.get(name).unwrap_or(&Value::Null);
    content(observed, &[part("spec"), part("status")])
}

/// The value of [`CONTENT`] for parts of an object.
pub(crate) fn content(observed: Hash, parts: &[&Value]) -> String {
    let bytes = serde_json::to_vec(parts).expect("JSON values serialise");
    hash_text(entry_hash(&hash_text(observed), &bytes))
}

/// Deepest that what a gateway says may be nested: who reads it inside a list of objects has to be able to.
const MAX_DEPTH: usize = 64;

/// Reads what a gateway says: the only way in, for those who write it and those who keep it.
///
/// # Errors
/// What is wrong with it, for people.
pub(crate) fn reported_object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) if map.values().any(|value| is_deeper(value, MAX_DEPTH)) => {
            Err(format!("the body is nested deeper than {MAX_DEPTH} times"))
        }
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err("the body is not an object".to_owned()),
        Err(e) => Err(format!("the body is not JSON: {e}")),
    }
}

/// Whether a value is nested deeper than this.
fn is_deeper(value: &Value, than: usize) -> bool {
    match value {
        Value::Array(all) => than == 0 || all.iter().any(|one| is_deeper(one, than - 1)),
        Value::Object(all) => than == 0 || all.values().any(|one| is_deeper(one, than - 1)),
        _ => false,
    }
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
    fn observed_keys_are_of_known_kinds_only() {
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
        assert_eq!(
            observed_key("work.karmada.io/works/karmada-es-gw-1/web"),
            Some(ObservedKey::Work {
                namespace: "karmada-es-gw-1",
                name: "web"
            })
        );
        assert_eq!(
            observed_key("cluster.karmada.io/clusters//gw-1"),
            Some(ObservedKey::Cluster { node: "gw-1" })
        );
        for bad in [
            "",
            "work.karmada.io/works//web",
            "cluster.karmada.io/clusters/x/gw-1",
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
    fn what_nobody_could_read_in_a_list_is_refused() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(reported_object(nested(MAX_DEPTH).as_bytes()).is_ok());
        for bad in [nested(MAX_DEPTH + 1), nested(100_000), "[]".to_owned(), "{".to_owned()] {
            assert!(reported_object(bad.as_bytes()).is_err());
        }
    }

    #[test]
    fn a_device_is_reported_of_under_two_keys() {
        let keys = reported_of("devices.kubeedge.io/devices/default/press").unwrap();
        assert!(matches!(
            observed_key(&keys[0]),
            Some(ObservedKey::Status { name: "press", .. })
        ));
        assert!(matches!(
            observed_key(&keys[1]),
            Some(ObservedKey::Twins { name: "press", .. })
        ));
        assert_eq!(reported_of("devices.kubeedge.io/devicemodels/default/press"), None);
        assert_eq!(reported_of("edge.kubeedge.io/edgenodes//gw-1"), None);
    }

    #[test]
    fn hashes_survive_the_annotation() {
        for hash in [0, 1, Hash::MAX, 0xfeed << 64] {
            assert_eq!(hash_of(&hash_text(hash)), Some(hash));
        }
        for bad in [
            "",
            "0",
            "+0000000000000000000000000000000",
            "zz000000000000000000000000000000",
        ] {
            assert_eq!(hash_of(bad), None, "{bad}");
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
