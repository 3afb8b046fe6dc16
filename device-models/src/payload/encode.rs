//! Writing what the gateway publishes. Field order is KubeEdge's; maps come sorted by property, as Go writes them.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// A device in membership messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemberDevice<'a> {
    /// `namespace/name`.
    pub id: &'a str,
    /// Name.
    pub name: &'a str,
    /// Description, left out when empty.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub description: &'a str,
    /// State, left out when empty.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub state: &'a str,
    /// When it was last heard of, left out when empty.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub last_online: &'a str,
}

/// A value with the time of its writing, in milliseconds since 1970.
#[derive(Clone, Copy)]
pub(crate) struct TwinValue<'a> {
    pub(crate) value: &'a str,
    pub(crate) timestamp: u64,
}

/// One property as messages show it.
#[derive(Clone, Copy)]
pub(crate) struct TwinEntry<'a> {
    pub(crate) expected: Option<TwinValue<'a>>,
    pub(crate) actual: Option<TwinValue<'a>>,
    pub(crate) value_type: &'a str,
}

impl Serialize for TwinValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Metadata {
            timestamp: u64,
        }
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("value", self.value)?;
        map.serialize_entry(
            "metadata",
            &Metadata {
                timestamp: self.timestamp,
            },
        )?;
        map.end()
    }
}

impl Serialize for TwinEntry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Metadata<'a> {
            r#type: &'a str,
        }
        let mut map = serializer.serialize_map(None)?;
        if let Some(expected) = &self.expected {
            map.serialize_entry("expected", expected)?;
        }
        if let Some(actual) = &self.actual {
            map.serialize_entry("actual", actual)?;
        }
        map.serialize_entry("optional", &true)?;
        map.serialize_entry(
            "metadata",
            &Metadata {
                r#type: self.value_type,
            },
        )?;
        map.end()
    }
}

/// A sorted list of pairs, written as a map.
struct Pairs<'a, V>(&'a [(&'a str, V)]);

impl<V: Serialize> Serialize for Pairs<'_, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

#[derive(Serialize)]
struct TwinMessage<'a, V: Serialize> {
    event_id: &'a str,
    timestamp: u64,
    twin: Pairs<'a, V>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Pairs<'a, &'a str>>,
}

fn bytes(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("texts and numbers always serialize")
}

/// `twin/update/result`: what was written; `None` for a property taken out.
pub(crate) fn twin_update_result(event_id: &str, timestamp: u64, twin: &[(&str, Option<TwinEntry<'_>>)]) -> Vec<u8> {
    bytes(&TwinMessage {
        event_id,
        timestamp,
        twin: Pairs(twin),
        delta: None,
    })
}

/// `twin/update/document`: what was and what is, for every property written.
pub(crate) fn twin_document(event_id: &str, timestamp: u64, twin: &[(&str, [Option<TwinEntry<'_>>; 2])]) -> Vec<u8> {
    #[derive(Serialize)]
    struct LastAndCurrent<'a> {
        last: Option<TwinEntry<'a>>,
        current: Option<TwinEntry<'a>>,
    }
    let twin: Vec<_> = twin
        .iter()
        .map(|(name, [last, current])| {
            (
                *name,
                LastAndCurrent {
                    last: *last,
                    current: *current,
                },
            )
        })
        .collect();
    bytes(&TwinMessage {
        event_id,
        timestamp,
        twin: Pairs(&twin),
        delta: None,
    })
}

/// `twin/update/delta`: the properties whose desired value is not the reported one, and those values.
pub(crate) fn twin_delta(event_id: &str, timestamp: u64, twin: &[(&str, TwinEntry<'_>)]) -> Vec<u8> {
    let delta: Vec<_> = twin
        .iter()
        .filter_map(|(name, entry)| Some((*name, entry.expected.as_ref()?.value)))
        .collect();
    bytes(&TwinMessage {
        event_id,
        timestamp,
        twin: Pairs(twin),
        delta: Some(Pairs(&delta)),
    })
}

/// `twin/get/result`.
pub(crate) fn twin_get_result(event_id: &str, timestamp: u64, twin: &[(&str, TwinEntry<'_>)]) -> Vec<u8> {
    bytes(&TwinMessage {
        event_id,
        timestamp,
        twin: Pairs(twin),
        delta: None,
    })
}

/// An error, on the result topic of the request. `code` is 400, 404, 409 or 500.
pub fn error_result(event_id: &str, timestamp: u64, code: u16, reason: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Message<'a> {
        event_id: &'a str,
        timestamp: u64,
        code: u16,
        reason: &'a str,
    }
    bytes(&Message {
        event_id,
        timestamp,
        code,
        reason,
    })
}

/// `state/update/result`. `last_online_time` is left out when the device was never heard of.
pub fn state_result(
    event_id: &str,
    timestamp: u64,
    name: &str,
    state: &str,
    last_online_time: Option<&str>,
) -> Vec<u8> {
    #[derive(Serialize)]
    struct Device<'a> {
        name: &'a str,
        state: &'a str,
        #[serde(rename = "lastOnlineTime", skip_serializing_if = "Option::is_none")]
        last_online_time: Option<&'a str>,
    }
    #[derive(Serialize)]
    struct Message<'a> {
        event_id: &'a str,
        timestamp: u64,
        device: Device<'a>,
    }
    bytes(&Message {
        event_id,
        timestamp,
        device: Device {
            name,
            state,
            last_online_time,
        },
    })
}

/// `membership/get/result`.
pub fn membership_result(event_id: &str, timestamp: u64, devices: &[MemberDevice<'_>]) -> Vec<u8> {
    #[derive(Serialize)]
    struct Message<'a> {
        event_id: &'a str,
        timestamp: u64,
        devices: &'a [MemberDevice<'a>],
    }
    bytes(&Message {
        event_id,
        timestamp,
        devices,
    })
}

/// `membership/updated`: devices that came and went; an empty list is written as `null`.
pub fn membership_updated(
    event_id: &str,
    timestamp: u64,
    added: &[MemberDevice<'_>],
    removed: &[MemberDevice<'_>],
) -> Vec<u8> {
    #[derive(Serialize)]
    struct Message<'a> {
        event_id: &'a str,
        timestamp: u64,
        added_devices: Option<&'a [MemberDevice<'a>]>,
        removed_devices: Option<&'a [MemberDevice<'a>]>,
    }
    let some = |list: &'_ [MemberDevice<'_>]| !list.is_empty();
    bytes(&Message {
        event_id,
        timestamp,
        added_devices: some(added).then_some(added),
        removed_devices: some(removed).then_some(removed),
    })
}
