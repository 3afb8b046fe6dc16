//! What the hub knows about a gateway's connection, in the form that Node and EdgeNode show it. Pure.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use device_models::kinds::{Condition, EdgeNodeStatus, JournalStatus, LinkKind, RefusedKey, SetStatus};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Refused keys shown by name; the count says how many there are.
pub(crate) const MAX_SHOWN_REFUSED: usize = 16;

/// Who can be asked.
pub(crate) trait Presences: Send + Sync + std::fmt::Debug {
    /// What is so now.
    fn of(&self, node: &str) -> Presence;
    /// The epoch of the session that speaks for a node, if one does.
    fn epoch(&self, node: &str) -> Option<u64>;
    /// Whether this hub enrolled the node.
    fn enrolled(&self, node: &str) -> bool;
    /// Whether those who are not connected had time enough to come back since the hub was started.
    fn settled(&self) -> bool;
    /// Notes that this Cluster of this control plane stands for the node, by itself or for the site it is in.
    fn register(&self, node: &str, plane: &Arc<str>, uid: &str, site: Option<&Arc<str>>) -> Recorded;
    /// Notes that the Cluster was removed, if it is the one that stood for the node: it gets no other until it joins again.
    fn withdraw(&self, node: &str, plane: &Arc<str>, uid: &str) -> Recorded;
}

/// Something is being written down; the error is for people.
pub(crate) type Recorded = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// How a gateway stands to the control plane above.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Registration {
    /// It is not known there.
    #[default]
    None,
    /// A Cluster of this control plane, by its uid, stands for it, or for the site.
    Registered {
        plane: Arc<str>,
        uid: Arc<str>,
        site: Option<Arc<str>>,
    },
    /// That Cluster was removed from this control plane.
    Withdrawn { plane: Arc<str>, site: Option<Arc<str>> },
}

impl Registration {
    /// Whether a Cluster of this control plane stands, or stood, for it.
    pub(crate) fn is_on(&self, plane: &str) -> bool {
        match self {
            Self::None => false,
            Self::Registered { plane: on, .. } | Self::Withdrawn { plane: on, .. } => **on == *plane,
        }
    }

    /// The same for where the gateway stands now: that it stood elsewhere counts for nothing.
    pub(crate) fn within(self, site: Option<&str>) -> Self {
        match &self {
            Self::Registered { site: of, .. } | Self::Withdrawn { site: of, .. } if of.as_deref() != site => Self::None,
            _ => self,
        }
    }

    /// Whether its Cluster was removed from this control plane.
    pub(crate) fn is_withdrawn(&self, plane: &str) -> bool {
        matches!(self, Self::Withdrawn { plane: from, .. } if **from == *plane)
    }

    /// Whether it is this one.
    pub(crate) fn is(&self, plane: &str, uid: &str) -> bool {
        matches!(self, Self::Registered { plane: on, uid: as_, .. } if **on == *plane && **as_ == *uid)
    }
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
    pub(crate) registration: Registration,
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

    /// Puts the `Ready` condition into a Node's status: true when the gateway is connected and does not say otherwise itself. While it
    /// is connected, its own reason and message stand. The time of the last change is kept while the status is the same.
    pub(crate) fn put_ready(&self, status: &mut Value, claim: Option<&Claim>, before: Option<&Value>, now: u64) {
        let (ready, reason, message) = match claim.filter(|_| self.connected && !self.revoked) {
            Some(claim) => (claim.status.as_str(), claim.reason.as_str(), claim.message.as_str()),
            None => self.ready(),
        };
        let mut condition = json!({"type": "Ready", "status": ready, "reason": reason, "message": message});
        if !status.is_object() {
            *status = json!({});
        }
        let Some(root) = status.as_object_mut() else { return };
        let conditions = root.entry("conditions").or_insert_with(|| json!([]));
        if !conditions.is_array() {
            *conditions = json!([]);
        }
        let Some(list) = conditions.as_array_mut() else { return };
        let same = before
            .and_then(ready_of)
            .filter(|was| was["status"] == condition["status"]);
        for time in ["lastTransitionTime", "lastHeartbeatTime"] {
            let kept = same.and_then(|was| was.get(time)).filter(|t| t.is_string()).cloned();
            condition[time] = kept.unwrap_or_else(|| rfc3339(now).into());
        }
        list.retain(|c| !is_ready(c));
        list.push(condition);
    }
}

/// A gateway's own word on whether it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

impl Claim {
    /// Out of the status that it reported; `None` when it says nothing of it that Kubernetes knows.
    pub(crate) fn of(status: &Value) -> Option<Self> {
        let claim = Self::deserialize(ready_of(status)?).ok()?;
        matches!(claim.status.as_str(), "True" | "False" | "Unknown").then_some(claim)
    }

    /// As an annotation keeps it.
    pub(crate) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("three texts serialise")
    }

    /// Reads it back.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

fn is_ready(condition: &Value) -> bool {
    condition.get("type").and_then(Value::as_str) == Some("Ready")
}

fn ready_of(status: &Value) -> Option<&Value> {
    status.get("conditions")?.as_array()?.iter().find(|c| is_ready(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;

    fn presence(connected: bool) -> Presence {
        Presence {
            connected,
            ..Presence::default()
        }
    }

    fn claim(status: &str, reason: &str) -> Claim {
        Claim::of(&json!({"conditions": [{"type": "Ready", "status": status, "reason": reason, "message": "m"}]}))
            .unwrap()
    }

    #[test]
    fn ready_follows_the_connection_and_keeps_its_time() {
        let (on, off) = (presence(true), presence(false));
        let mut status =
            json!({"nodeInfo": {"architecture": "arm64"}, "conditions": [{"type": "Disk", "status": "False"}]});
        on.put_ready(&mut status, None, None, 1000);
        let first = status.clone();
        assert_eq!(status["conditions"].as_array().unwrap().len(), 2);
        assert_eq!(status["conditions"][1]["status"], "True");
        on.put_ready(&mut status, None, Some(&first), DAY);
        assert_eq!(status, first);
        off.put_ready(&mut status, None, Some(&first), DAY);
        assert_eq!(status["conditions"][1]["reason"], "GatewayOffline");
        assert_eq!(status["conditions"][1]["lastTransitionTime"], "1970-01-02T00:00:00Z");
        assert_eq!(status["nodeInfo"]["architecture"], "arm64");
        let mut odd = json!({"conditions": "?"});
        on.put_ready(&mut odd, None, Some(&json!({"conditions": 1})), 1);
        assert_eq!(odd["conditions"][0]["status"], "True");
    }

    #[test]
    fn a_gateway_is_ready_when_it_is_connected_and_says_so_itself() {
        let (on, off) = (presence(true), presence(false));
        let revoked = Presence {
            revoked: true,
            ..presence(true)
        };
        let full = claim("False", "DiskFull");
        assert_eq!(Claim::parse(&full.to_text()), Some(full.clone()));
        let mut status = json!({});
        let mut step = |who: &Presence, claim: Option<&Claim>, day: u64| {
            let before = status.clone();
            who.put_ready(&mut status, claim, Some(&before), day * DAY);
            let c = &status["conditions"][0];
            let text = |key: &str| c[key].as_str().unwrap().to_owned();
            (text("status"), text("reason"), text("lastTransitionTime"))
        };
        let is =
            |status: &str, reason: &str, day: u32| (status.into(), reason.into(), format!("1970-01-0{day}T00:00:00Z"));
        let running = claim("True", "AgentRunning");
        assert_eq!(step(&on, Some(&running), 1), is("True", "AgentRunning", 2));
        assert_eq!(step(&on, Some(&full), 2), is("False", "DiskFull", 3));
        assert_eq!(step(&off, Some(&full), 3), is("False", "GatewayOffline", 3));
        assert_eq!(
            step(&on, Some(&full), 4),
            is("False", "DiskFull", 3),
            "it did not say otherwise"
        );
        assert_eq!(step(&revoked, Some(&running), 5), is("False", "GatewayRevoked", 3));
        assert_eq!(step(&on, Some(&claim("Unknown", "?")), 6), is("Unknown", "?", 7));
        assert_eq!(step(&on, Some(&running), 7), is("True", "AgentRunning", 8));
        assert_eq!(step(&on, None, 8), is("True", "GatewayConnected", 8));
        for odd in [
            json!({}),
            json!({"conditions": [{"type": "Ready"}]}),
            json!({"conditions": [{"type": "Ready", "status": "Yes"}]}),
        ] {
            assert_eq!(Claim::of(&odd), None);
        }
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
