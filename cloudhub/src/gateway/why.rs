//! Where an edit is: the hops from the API to the device and back, each done or waiting, and the first that waits.

use std::sync::Arc;
use std::time::Duration;

use metastore::api::Status;
use proto::KeyState;
use serde_json::{Value, json};

use crate::fleet::{Fleet, newest_of};
use crate::upstream::{ApiError, DEVICE, DEVICE_STATUS, Presences, rfc3339};

/// How long a session may take to say where a key is.
const ASK_DEADLINE: Duration = Duration::from_secs(1);

/// The stream of a gateway that has its conflict log.
const EVENTS: &str = "events";
/// How many of its latest records are looked through.
const CONFLICTS_SEARCHED: u64 = 256;

struct Hops(Vec<Value>);

impl Hops {
    fn add(&mut self, hop: &str, done: bool, at: Option<String>, detail: impl Into<String>) {
        let state = if done { "done" } else { "waiting" };
        self.0
            .push(json!({"hop": hop, "state": state, "at": at, "detail": detail.into()}));
    }

    fn answer(self) -> Value {
        let at = self
            .0
            .iter()
            .find(|h| h["state"] == "waiting")
            .map(|h| h["hop"].clone());
        json!({"waitingAt": at, "hops": self.0})
    }
}

fn unavailable(e: &ApiError) -> Status {
    Status::unavailable(e.to_string())
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

/// A timestamp out of a twin's metadata: milliseconds as text.
fn time(metadata: &Value) -> Option<String> {
    let text = metadata.get("timestamp")?;
    let ms = text.as_u64().or_else(|| text.as_str()?.parse().ok())?;
    Some(rfc3339(ms))
}

/// The two sides of one property.
struct Sides {
    name: String,
    desired: Option<(String, Value)>,
    reported: Option<(String, Value)>,
    /// What the gateway's twin says it was asked for.
    heard: Option<String>,
}

fn sides(device: &Value, status: &Value, property: Option<&str>) -> Option<Sides> {
    let entries = device.pointer("/spec/properties").and_then(Value::as_array)?;
    let twins = status.pointer("/status/twins").and_then(Value::as_array);
    let of = |entry: &Value| {
        let name = entry.get("name")?.as_str()?;
        let twin = twins.and_then(|t| t.iter().find(|t| t["propertyName"] == name));
        let value = |v: &Value| {
            Some((
                v.get("value")?.as_str()?.to_owned(),
                v.get("metadata").cloned().unwrap_or_default(),
            ))
        };
        Some(Sides {
            name: name.to_owned(),
            desired: entry.get("desired").and_then(value),
            reported: twin.and_then(|t| value(&t["reported"])),
            heard: twin.and_then(|t| Some(t["observedDesired"]["value"].as_str()?.to_owned())),
        })
    };
    let differs = |s: &Sides| s.desired.as_ref().map(|d| &d.0) != s.reported.as_ref().map(|r| &r.0);
    let mut all: Vec<Sides> = entries.iter().filter_map(of).collect();
    let chosen = match property {
        Some(name) => all.iter().position(|s| s.name == name)?,
        None => all
            .iter()
            .position(|s| s.desired.is_some() && differs(s))
            .or_else(|| all.iter().position(|s| s.desired.is_some()))
            .unwrap_or(0),
    };
    (chosen < all.len()).then(|| all.swap_remove(chosen))
}

/// Where the desired value of a device's property is.
///
/// # Errors
/// No such device or property, or an API that cannot be asked.
pub(crate) async fn device(
    fleet: &Arc<Fleet>,
    namespace: &str,
    name: &str,
    property: Option<&str>,
) -> Result<Value, Status> {
    let not_found = || Status::not_found("devices.kubeedge.io", "devices", name);
    let device = match fleet.objects.get(DEVICE, namespace, name).await {
        Ok(device) => device,
        Err(ApiError::NotFound) => return Err(not_found()),
        Err(e) => return Err(unavailable(&e)),
    };
    let status = match fleet.objects.get(DEVICE_STATUS, namespace, name).await {
        Ok(status) => status,
        Err(ApiError::NotFound) => Value::Null,
        Err(e) => return Err(unavailable(&e)),
    };
    let Some(sides) = sides(&device, &status, property) else {
        let what = property.map_or_else(|| name.to_owned(), |p| format!("{name}.{p}"));
        return Err(Status::not_found("devices.kubeedge.io", "devices", &what));
    };
    let mut hops = Hops(Vec::new());
    let Some((wanted, metadata)) = &sides.desired else {
        hops.add("api", true, None, format!("{}: nothing is desired", sides.name));
        return Ok(hops.answer());
    };
    let by = metadata
        .get("by")
        .and_then(Value::as_str)
        .map(|b| format!(", set by {b}"))
        .unwrap_or_default();
    hops.add("api", true, time(metadata), format!("{} = {wanted}{by}", sides.name));

    let node = text(&device, "/spec/nodeName").filter(|n| !n.is_empty());
    let Some(node) = node else {
        hops.add(
            "desired",
            false,
            None,
            "the device is bound to no gateway; set its spec.nodeName",
        );
        return Ok(hops.answer());
    };
    let enrolled = fleet.directory.identity(node).is_some();
    hops.add(
        "desired",
        enrolled,
        None,
        if enrolled {
            format!("in the set of {node}")
        } else {
            format!("no gateway has joined as {node}")
        },
    );

    let presence = fleet.registry.of(node);
    let state = match fleet.registry.get(node) {
        None => None,
        Some(live) => {
            let key = format!("devices.kubeedge.io/devices/{namespace}/{name}");
            let asked = tokio::time::timeout(ASK_DEADLINE, live.handle.ask(move |s, _| s.key_state(&key))).await;
            asked.ok().and_then(Result::ok)
        }
    };
    let since = (presence.since != 0).then(|| rfc3339(presence.since));
    match &state {
        None => {
            let detail = since.as_ref().map_or_else(
                || format!("{node} is not connected"),
                |at| format!("{node} is not connected, last seen {at}"),
            );
            hops.add("sent", false, since, detail);
            hops.add("edge", false, None, "");
        }
        Some(KeyState::Absent | KeyState::Waiting) => {
            hops.add("sent", false, None, "waits for room on the link");
            hops.add("edge", false, None, "");
        }
        Some(KeyState::InFlight) => {
            hops.add("sent", true, None, format!("to {node}"));
            hops.add("edge", false, None, format!("{node} has not acknowledged it yet"));
        }
        Some(KeyState::Refused(reason)) => {
            hops.add("sent", true, None, format!("to {node}"));
            hops.add("edge", false, None, format!("{node} refuses it: {reason}"));
        }
        Some(KeyState::Delivered) => {
            hops.add("sent", true, None, format!("to {node}"));
            hops.add("edge", true, None, format!("{node} has stored it"));
        }
    }
    let delivered = matches!(state, Some(KeyState::Delivered));
    let reported = sides.reported.as_ref().is_some_and(|(v, _)| v == wanted);
    let heard = reported || sides.heard.as_ref() == Some(wanted) || delivered;
    let detail = if heard { "told to the device's subscribers" } else { "" };
    hops.add("mqtt", heard, None, detail);
    let (at, detail) = match &sides.reported {
        Some((value, metadata)) => (time(metadata), format!("the device reported {value}")),
        None => (None, "the device has reported nothing".to_owned()),
    };
    hops.add("reported", reported, at, detail);
    hops.add("observed", reported, None, if reported { "the hub has it" } else { "" });
    let mut answer = hops.answer();
    if let Some(conflict) = last_conflict(fleet, node, &format!("{namespace}/{name}"), &sides.name).await {
        answer["conflict"] = conflict;
    }
    Ok(answer)
}

/// The record of the last time that both sides set the property without knowledge of each other, if it is among the gateway's
/// latest. Without an answer of the history there is none: what was asked for is where the value is.
async fn last_conflict(fleet: &Arc<Fleet>, node: &str, device: &str, property: &str) -> Option<Value> {
    let (store, node) = (fleet.store.clone(), node.to_owned());
    let (device, property) = (device.to_owned(), property.to_owned());
    let wanted = move |record: &[u8]| {
        serde_json::from_slice::<Value>(record).is_ok_and(|record| {
            record["type"] == "conflict" && record["device"] == *device && record["property"] == *property
        })
    };
    let read = tokio::task::spawn_blocking(move || newest_of(&store, (&node, EVENTS), CONFLICTS_SEARCHED, wanted));
    match read.await.ok()? {
        Ok(found) => serde_json::from_slice(&found?.body).ok(),
        Err(e) => {
            tracing::warn!(error = %e, "The conflict log cannot be read.");
            None
        }
    }
}

/// How a gateway's link is.
///
/// # Errors
/// No such node.
pub(crate) async fn node(fleet: &Arc<Fleet>, name: &str) -> Result<Value, Status> {
    let known = fleet.directory.identity(name);
    if known.is_none() && fleet.index.edge_node_of(name).is_none() {
        return Err(Status::not_found("", "nodes", name));
    }
    if let Some(live) = fleet.registry.get(name) {
        super::admin::refresh(&live).await;
    }
    let presence = fleet.registry.of(name);
    let mut hops = Hops(Vec::new());
    match &known {
        None => hops.add(
            "joined",
            false,
            None,
            "announced, and has not joined; kurator token create --node makes a token for it",
        ),
        Some(identity) if identity.revoked => hops.add(
            "joined",
            false,
            None,
            "revoked; a token bound to the name lets it back in",
        ),
        Some(identity) => hops.add(
            "joined",
            true,
            Some(rfc3339(identity.joined)),
            format!("with token {}", identity.token),
        ),
    }
    let since = (presence.since != 0).then(|| rfc3339(presence.since));
    let address = presence.address.unwrap_or_default();
    let detail = if presence.duplicate {
        "a second gateway runs with this identity".to_owned()
    } else {
        address
    };
    hops.add("connected", presence.connected, since, detail);
    for (hop, set) in [("desired", presence.desired), ("observed", presence.observed)] {
        let equal = presence.connected && set.as_ref().is_some_and(|s| s.digest == s.peer);
        let detail = set.map_or_else(String::new, |s| format!("{} objects, {} refused", s.entries, s.refused));
        hops.add(hop, equal, None, detail);
    }
    Ok(hops.answer())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_property_that_differs_is_chosen() {
        let device = json!({"spec": {"properties": [
            {"name": "plain"},
            {"name": "same", "desired": {"value": "1"}},
            {"name": "edit", "desired": {"value": "2", "metadata": {"timestamp": "86400000", "by": "bob"}}},
        ]}});
        let status = json!({"status": {"twins": [{"propertyName": "same", "reported": {"value": "1"}}]}});
        let chosen = sides(&device, &status, None).unwrap();
        assert_eq!(chosen.name, "edit");
        assert_eq!(time(&chosen.desired.unwrap().1).unwrap(), "1970-01-02T00:00:00Z");
        assert_eq!(sides(&device, &status, Some("same")).unwrap().reported.unwrap().0, "1");
        assert!(sides(&device, &status, Some("nobody")).is_none());
        assert!(sides(&json!({}), &Value::Null, None).is_none());
        assert!(sides(&json!({"spec": {"properties": []}}), &Value::Null, None).is_none());
    }

    #[test]
    fn the_first_hop_that_waits_is_named() {
        let mut hops = Hops(Vec::new());
        hops.add("api", true, None, "");
        assert_eq!(hops.answer()["waitingAt"], Value::Null);
        let mut hops = Hops(Vec::new());
        hops.add("api", true, None, "");
        hops.add("sent", false, None, "");
        hops.add("edge", false, None, "");
        assert_eq!(hops.answer()["waitingAt"], "sent");
    }
}
