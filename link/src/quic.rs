//! QUIC as the link wants it: little memory per idle connection, no packet that is not needed.

mod conn;
mod hub;
mod stream;
mod tls;
mod window;

use std::sync::Arc;
use std::time::Duration;

use quinn::{
    ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt,
};
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::connection::MAX_STREAMS;
pub(crate) use conn::HubConnection;
pub(crate) use hub::{HubQuic, Incoming};
pub(crate) use stream::{RecvHalf, SendHalf};
pub(crate) use tls::HubTls;
pub(crate) use window::make_room_for_close;

/// Length of the ids the hub hands out, in bytes. Each travels in every packet towards the hub. Four bytes tell 10^5 connections with a
/// few ids each apart: quinn draws again when one is taken, and a stray packet for a retired id fails its authentication.
const HUB_CID: usize = 4;

/// Bytes in flight on one stream, and on all of a connection: enough for 20 Mbit/s at 100 ms, and what a peer can make this side hold.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 512 * 1024;

/// After MTU discovery has found its answer it looks for a larger one this much later: probes are full packets, and every ten minutes
/// (the default) they would be most of an idle link's traffic.
const MTU_AGAIN: Duration = Duration::from_secs(24 * 3600);
/// And it is content this close to the largest packet: two probes in place of five in each direction of each connection.
const MTU_NEAR: u16 = 120;

/// Streams that a gateway may have open at once: its session, and a dozen questions of its own. A place for each is kept ready before it
/// is opened, in tables that double after 14; the hub's greeting takes one too.
const GATEWAY_STREAMS: u32 = 13;

/// Parameters of a gateway's connections. One stream one way is for the hub's greeting.
pub(crate) fn edge_transport(idle: Duration) -> Arc<TransportConfig> {
    transport(idle, MAX_STREAMS, 1, true)
}

/// Parameters of the hub's connections.
pub(crate) fn hub_transport(idle: Duration) -> Arc<TransportConfig> {
    transport(idle, GATEWAY_STREAMS, 0, false)
}

/// `streams` and `uni` are how many streams, both ways and one way, the peer may open. `bulk`: send several packets by one system call,
/// for which a connection keeps a buffer for ten packets.
fn transport(idle: Duration, streams: u32, uni: u32, bulk: bool) -> Arc<TransportConfig> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.interval(MTU_AGAIN).minimum_change(MTU_NEAR);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(uni))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .max_idle_timeout(IdleTimeout::try_from(idle).ok())
        // The session has heartbeats of its own.
        .keep_alive_interval(None)
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .crypto_buffer_size(16 * 1024)
        .congestion_controller_factory(Arc::new(window::Windows::default()))
        .enable_segmentation_offload(bulk)
        .mtu_discovery_config(Some(mtu));
    Arc::new(config)
}

/// The hub's socket-wide parameters. `reset` signs the answers to packets of unknown connections.
pub(crate) fn hub_endpoint(reset: hmac::Key) -> EndpointConfig {
    let mut config = with_cid(HUB_CID);
    config
        .reset_key(Arc::new(reset))
        // After a restart the packets of a whole fleet come at once. A reset is always smaller than the packet it answers and costs
        // less than any other answer, so nothing is gained by holding them back.
        .min_reset_interval(Duration::ZERO);
    config
}

/// The key by which a gateway knows that it is the hub, and nobody on the way, who says that it does not know a connection any more.
/// It comes from the server's private key, so that a hub which was killed and started again can say so of its predecessor's connections.
pub(crate) fn reset_key(server_key_der: &[u8]) -> hmac::Key {
    let label = hmac::Key::new(hmac::HMAC_SHA256, b"kurator QUIC stateless reset");
    hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&label, server_key_der).as_ref())
}

/// A gateway's socket carries one connection, so packets towards it need no id at all. `shared` sockets (many simulated gateways on
/// one) need one.
pub(crate) fn edge_endpoint(shared: bool) -> EndpointConfig {
    with_cid(if shared { HUB_CID } else { 0 })
}

fn with_cid(len: usize) -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.cid_generator(move || Box::new(Ids(len)));
    config
}

/// Random connection ids of a fixed length.
struct Ids(usize);

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; HUB_CID];
        if SystemRandom::new().fill(&mut bytes).is_err() {
            // Ids need to differ; nothing is secured by them.
            bytes.fill_with(|| fastrand::u8(..));
        }
        ConnectionId::new(&bytes[..self.0])
    }

    fn cid_len(&self) -> usize {
        self.0
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
