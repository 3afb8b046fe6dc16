//! What the hub knows about a gateway's connection, in the form that Node and EdgeNode show it. Pure.

use std::collections::BTreeMap;

use device_models::kinds::{Condition, EdgeNodeStatus, JournalStatus, LinkKind, RefusedKey, SetStatus};
use serde_json::{Value, json};

/// Refused keys shown by name; the count says how many there are.
pub(crate) const MAX_SHOWN_REFUSED: usize = 16;

/// Who can be asked.
pub(crate) trait Presences: Send + Sync + std::fmt::Debug {
    /// What is so now.
    fn of(&self, node: &str) -> Presence;
}

/// One side of a replicated pair, as the hub has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SetFacts {
    pub(crate) digest: u128,
    /// As the gateway last said it.
    pub(crate) peer: u128,
    pub(crate) entries: usize,
    pub(crate) refused: usize,
    pub(crate) refused_keys: Vec<(String, String)>,
}

impl SetFacts {
    fn status(&self) -> SetStatus {
        let key = |(key, reason): &(String, String)| RefusedKey {
            key: Some(key.clone()),
            reason: Some(reason.clone()),
        };
        SetStatus {
            digest: Some(format!("{:032x}", self.digest)),
            entries: i64::try_from(self.entries).ok(),
            refused: i64::try_from(self.refused).ok(),
            refused_keys: self.refused_keys.iter().map(key).collect(),
        }
    }
}

/// A gateway's connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Presence {
    /// The hub enrolled it.
    pub(crate) enrolled: bool,
    pub(crate) connected: bool,
    pub(crate) revoked: bool,
    /// A second gateway with this identity was seen lately.
    pub(crate) duplicate: bool,
    /// Wall clock, ms, of the last change of `connected`; 0 when the hub saw none.
    pub(crate) since: u64,
    /// Wall clock, ms; 0 when not seen since the hub started.
    pub(crate) last_seen: u64,
    pub(crate) epoch: u64,
    pub(crate) link: Option<LinkKind>,
    pub(crate) address: Option<String>,
    pub(crate) agent_version: Option<String>,
    pub(crate) arch: Option<String>,
    pub(crate) desired: Option<SetFacts>,
    pub(crate) observed: Option<SetFacts>,
    pub(crate) in_sync: bool,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) journals: Vec<JournalStatus>,
    /// Given at the join.
    pub(crate) labels: BTreeMap<String, String>,
}

/// Wall clock milliseconds as RFC 3339.
pub(crate) fn rfc3339(ms: u64) -> String {
    let at = jiff::Timestamp::from_second(i64::try_from(ms / 1000).unwrap_or(i64::MAX)).unwrap_or(jiff::Timestamp::MAX);
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Presence {
    fn ready(&self) -> (&'static str, &'static str, &'static str) {
        if self.revoked {
            ("False", "GatewayRevoked", "the gateway's identity was revoked")
        } else if self.connected {
            ("True", "GatewayConnected", "the gateway has a session with the hub")
        } else {
            (
                "False",
                "GatewayOffline",
                "the gateway has no session with the hub; what runs there goes on",
            )
        }
    }

    /// `EdgeNode.status`.
    pub(crate) fn edge_node_status(&self, now: u64) -> EdgeNodeStatus {
        let condition = |kind: &str, (status, reason, message): (&str, &str, &str)| Condition {
            condition_type: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: Some(rfc3339(if self.since == 0 { now } else { self.since })),
            observed_generation: None,
        };
        let mut conditions = vec![condition("Ready", self.ready())];
        if self.duplicate {
            let message =
                "a second gateway runs with this identity; find the copy, or revoke the node and join both anew";
            conditions.push(condition("DuplicateIdentity", ("True", "TwoGateways", message)));
        }
        EdgeNodeStatus {
            connected: Some(self.connected),
            last_seen: (self.last_seen != 0).then(|| rfc3339(self.last_seen)),
            agent_version: self.agent_version.clone(),
            arch: self.arch.clone(),
            os: None,
            link: self.link,
            address: self.address.clone(),
            session_epoch: (self.epoch != 0).then(|| i64::try_from(self.epoch).unwrap_or(i64::MAX)),
            desired: self.desired.as_ref().map(SetFacts::status),
            observed: self.observed.as_ref().map(SetFacts::status),
            in_sync: Some(self.connected && self.in_sync),
            bytes_sent: i64::try_from(self.sent).ok(),
            bytes_received: i64::try_from(self.received).ok(),
            journals: self.journals.clone(),
            conditions,
        }
    }

    /// Puts the `Ready` condition into a Node's status: the hub's word on the connection, and the gateway's own when it is
    /// connected and says it is not ready. The time of the last change is kept while nothing changes.
    pub(crate) fn put_ready(&self, status: &mut Value, before: Option<&Value>, now: u64) {
        let (mut ready, mut reason, mut message) = {
            let (s, r, m) = self.ready();
            (s.to_owned(), r.to_owned(), m.to_owned())
        };
        if !status.is_object() {
            *status = json!({});
        }
        let Some(root) = status.as_object_mut() else { return };
        let conditions = root.entry("conditions").or_insert_with(|| json!([]));
        if !conditions.is_array() {
            *conditions = json!([]);
        }
        let Some(list) = conditions.as_array_mut() else { return };
        let is_ready = |c: &Value| c.get("type").and_then(Value::as_str) == Some("Ready");
        if let Some(own) = list.iter().find(|c| is_ready(c))
            && self.connected
            && own.get("status").and_then(Value::as_str) == Some("False")
            // What the hub itself wrote earlier is not the gateway's word.
            && !matches!(
                own.get("reason").and_then(Value::as_str),
                Some("GatewayOffline" | "GatewayRevoked")
            )
        {
            let text = |key: &str| own.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            (ready, reason, message) = ("False".to_owned(), text("reason"), text("message"));
        }
        list.retain(|c| !is_ready(c));
        let was = before
            .and_then(|b| b.get("conditions"))
            .and_then(Value::as_array)
            .and_then(|l| l.iter().find(|c| is_ready(c)));
        let same = was.filter(|w| w.get("status").and_then(Value::as_str) == Some(ready.as_str()));
        let time = |key: &str| same.and_then(|w| w.get(key)).cloned();
        list.push(json!({
            "type": "Ready",
            "status": ready,
            "reason": reason,
            "message": message,
            "lastTransitionTime": time("lastTransitionTime").unwrap_or_else(|| rfc3339(now).into()),
            "lastHeartbeatTime": time("lastHeartbeatTime").unwrap_or_else(|| rfc3339(now).into()),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_follows_the_connection_and_keeps_its_time() {
        let on = Presence {
            connected: true,
            ..Presence::default()
        };
        let mut status =
            json!({"nodeInfo": {"architecture": "arm64"}, "conditions": [{"type": "Disk", "status": "False"}]});
        on.put_ready(&mut status, None, 1000);
        let first = status.clone();
        assert_eq!(status["conditions"].as_array().unwrap().len(), 2);
        assert_eq!(status["conditions"][1]["status"], "True");
        on.put_ready(&mut status, Some(&first), 99_000);
        assert_eq!(status, first);
        let off = Presence::default();
        off.put_ready(&mut status, Some(&first), 99_000);
        assert_eq!(status["conditions"][1]["reason"], "GatewayOffline");
        assert_eq!(status["conditions"][1]["lastTransitionTime"], "1970-01-01T00:01:39Z");
        assert_eq!(status["nodeInfo"]["architecture"], "arm64");
        on.put_ready(&mut status, None, 1);
        assert_eq!(status["conditions"][1]["status"], "True");
    }

    #[test]
    fn a_connected_gateway_may_say_that_it_is_not_ready() {
        let on = Presence {
            connected: true,
            ..Presence::default()
        };
        let mut status =
            json!({"conditions": [{"type": "Ready", "status": "False", "reason": "RuntimeDown", "message": "m"}]});
        on.put_ready(&mut status, None, 1000);
        assert_eq!(status["conditions"][0]["reason"], "RuntimeDown");
        let mut thrown_out = json!({"conditions": []});
        let revoked = Presence {
            revoked: true,
            ..Presence::default()
        };
        revoked.put_ready(&mut thrown_out, None, 1000);
        assert_eq!(thrown_out["conditions"][0]["reason"], "GatewayRevoked");
        on.put_ready(&mut thrown_out, None, 2000);
        assert_eq!(
            thrown_out["conditions"][0]["status"], "True",
            "let in again, it is ready"
        );
        let mut odd = json!({"conditions": "?"});
        on.put_ready(&mut odd, None, 1000);
        assert_eq!(odd["conditions"][0]["status"], "True");
    }

    #[test]
    fn duplicate_shows_as_a_condition() {
        let presence = Presence {
            connected: true,
            in_sync: true,
            duplicate: true,
            ..Presence::default()
        };
        let status = presence.edge_node_status(5000);
        assert_eq!(
            status
                .conditions
                .iter()
                .map(|c| c.condition_type.as_str())
                .collect::<Vec<_>>(),
            ["Ready", "DuplicateIdentity"]
        );
        assert_eq!((status.connected, status.in_sync), (Some(true), Some(true)));
        let off = Presence {
            in_sync: true,
            ..Presence::default()
        };
        assert_eq!(off.edge_node_status(0).in_sync, Some(false));
    }
}
