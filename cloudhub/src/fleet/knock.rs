//! After a start: the gateways that were connected to an earlier process over QUIC are told that there is a new one.
//!
//! When the earlier one was killed, an idle gateway believes itself connected until its next heartbeat. See [`HubEndpoint::knock`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use link::HubEndpoint;
use serde_json::Value;

use super::Fleet;

/// A packet may be lost, and a gateway that comes back may be told to wait: knocks go out so long after one another to those that are
/// still away.
const ROUNDS: [Duration; 3] = [Duration::ZERO, Duration::from_secs(3), Duration::from_secs(10)];

/// Where an EdgeNode's status says that its gateway is connected over QUIC.
pub(crate) fn last_seen(status: &Value) -> Option<SocketAddr> {
    let connected = status.get("connected")?.as_bool()? && status.get("link")?.as_str()? == "quic";
    connected.then_some(())?;
    status.get("address")?.as_str()?.parse().ok()
}

impl Fleet {
    /// Knocks at the gateways that an earlier process left behind, until they are back or the rounds are over.
    pub(crate) async fn knock(&self, endpoint: &HubEndpoint) {
        let mut away: Vec<(Arc<str>, SocketAddr)> = self.index.take_left_behind();
        for wait in ROUNDS {
            tokio::select! {
                biased;
                () = self.drain.stopping() => return,
                () = tokio::time::sleep(wait) => {}
            }
            away.retain(|(node, _)| self.registry.get(node).is_none());
            if away.is_empty() {
                return;
            }
            let packets = endpoint.knock(away.iter().map(|(_, address)| *address)).await;
            tracing::info!(
                gateways = away.len(),
                packets,
                "Knocked at gateways that were connected before this start."
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_gateway_that_was_connected_over_quic_is_knocked_at() {
        let status = json!({"connected": true, "link": "quic", "address": "192.0.2.7:4433"});
        assert_eq!(last_seen(&status), Some(SocketAddr::from(([192, 0, 2, 7], 4433))));
        for (field, other) in [
            ("connected", json!(false)),
            ("connected", json!("true")),
            ("link", json!("tcp")),
            ("link", Value::Null),
            ("address", json!("gw.example:1")),
            ("address", json!(7)),
        ] {
            let mut status = status.clone();
            status[field] = other;
            assert_eq!(last_seen(&status), None, "{status}");
        }
        assert_eq!(last_seen(&Value::Null), None);
    }
}
