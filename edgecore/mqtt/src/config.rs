//! What the broker is told at start: where to listen and every bound it keeps.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::hooks::Access;

/// Configuration of a [`crate::Broker`].
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Addresses to listen on; port 0 lets the system choose. Not on loopback without `access`.
    pub listen: Vec<SocketAddr>,
    /// Topics that start with one of these go to the [`crate::LocalHandler`].
    pub local_prefixes: Vec<String>,
    /// Who may connect, publish and subscribe. `None`: everyone, and then only on loopback.
    pub access: Option<Arc<dyn Access>>,
    /// The bounds.
    pub limits: Limits,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 1883))],
            local_prefixes: vec!["$hw/".to_owned()],
            access: None,
            limits: Limits::default(),
        }
    }
}

/// Every bound of the broker, with the reason for its default.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest packet taken, header included. A larger one ends its connection before anything is allocated for it.
    pub packet_bytes: usize,
    /// CONNECT must be complete within this time after the connection is accepted.
    pub connect_deadline: Duration,
    /// A packet that has begun must be complete within this time, also when the client asked for no keep-alive.
    pub packet_deadline: Duration,
    /// Without progress of a blocked write for this long the connection is given up.
    pub write_deadline: Duration,
    /// Connections at one time; more are closed at once.
    pub connections: usize,
    /// Connections that have not yet sent CONNECT; with one more the oldest of them is closed, so that half-open ones
    /// neither use up `connections` nor keep others out.
    pub handshakes: usize,
    /// Sessions, connected or not. A CONNECT that needs one more is refused.
    pub sessions: usize,
    /// Subscriptions of one session.
    pub subscriptions: usize,
    /// Bytes of a client id.
    pub client_id_bytes: usize,
    /// Bytes of a topic name or filter.
    pub topic_bytes: usize,
    /// Longest time an absent session is kept, whatever the client asked for; `None`: as asked.
    pub session_expiry: Option<Duration>,
    /// PUBLISHes of one connection that were read and not yet acknowledged; beyond it reading pauses. Wide, so that the
    /// store can group many of them in one commit.
    pub unacked_messages: usize,
    /// The same in bytes.
    pub unacked_bytes: usize,
    /// QoS 2 messages of one session between PUBLISH and PUBREL. More is a protocol error (MQTT 5 clients are told it as Receive Maximum).
    pub inbound_qos2: usize,
    /// QoS 1 and 2 messages in flight to one client at a time.
    pub inflight: u16,
    /// QoS 1 and 2 messages waiting for one session; beyond it the oldest not yet sent is dropped and counted.
    pub queue_messages: usize,
    /// The same in bytes.
    pub queue_bytes: usize,
    /// The same over all sessions; the session that asks for more loses its own oldest.
    pub queue_total_bytes: usize,
    /// QoS 0 messages waiting for one client; beyond it new ones are dropped and counted.
    pub qos0_messages: usize,
    /// The same in bytes.
    pub qos0_bytes: usize,
    /// Retained messages; beyond it new topics are not retained, and counted.
    pub retained_messages: usize,
    /// The same in bytes.
    pub retained_bytes: usize,
    /// After [`crate::Reject::Unavailable`] or a failed commit, how long the connection is held before it is closed, so that
    /// a client that connects again at once does not spin.
    pub unavailable_pause: Duration,
}

impl Limits {
    /// The cap on session expiry in the protocol's terms: seconds, `u32::MAX` for none.
    pub(crate) fn session_expiry_s(&self) -> u32 {
        self.session_expiry
            .map_or(u32::MAX, |cap| u32::try_from(cap.as_secs()).unwrap_or(u32::MAX))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            packet_bytes: 256 * 1024,
            connect_deadline: Duration::from_secs(5),
            packet_deadline: Duration::from_secs(30),
            write_deadline: Duration::from_secs(20),
            connections: 1024,
            handshakes: 256,
            sessions: 4096,
            subscriptions: 1024,
            client_id_bytes: 256,
            topic_bytes: 1024,
            session_expiry: None,
            unacked_messages: 8192,
            unacked_bytes: 4 * 1024 * 1024,
            inbound_qos2: 1024,
            inflight: 64,
            queue_messages: 10_000,
            queue_bytes: 4 * 1024 * 1024,
            queue_total_bytes: 32 * 1024 * 1024,
            qos0_messages: 2000,
            qos0_bytes: 1024 * 1024,
            retained_messages: 10_000,
            retained_bytes: 16 * 1024 * 1024,
            unavailable_pause: Duration::from_secs(1),
        }
    }
}
