//! Devices on a broker that somebody else runs: this agent is one of its clients.
//!
//! It subscribes the request topics with a persistent session and acknowledges each message by hand, after the store has it, so the
//! broker keeps what the agent could not take and sends it again after a reconnect. Two tasks: one drives the connection and hands
//! messages to the twins, one waits for the verdicts in order and acknowledges. A message that could not be stored is left
//! unacknowledged and the connection is begun anew, because the protocol has no other way to ask for it again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use daemon::backoff::FullJitter;
use daemon::drain::Drain;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, Publish, QoS, SubscribeFilter};
use tokio::sync::{Notify, mpsc};

use crate::twin::{Asked, Outlet, Refused, Twins, Verdicts};

/// Messages that wait for their verdict. Brokers send a few dozen before they want acknowledgements.
const UNACKED: usize = 4096;
/// Packets of ours that wait for the connection; beyond it answers are dropped, as with any subscriber that is too slow.
const OUTGOING: usize = 4096;
/// Largest packet in either direction: the longest payload and its topic.
const MAX_PACKET: usize = 2 * 1024 * 1024;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Waits between connections.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Requests of devices.
const FILTERS: [&str; 3] = [
    "$hw/events/device/+/+/twin/+",
    "$hw/events/device/+/+/state/update",
    "$hw/events/node/+/membership/get",
];
/// The topics a reconnect brings the deltas of: every device.
const ALL: &str = "$hw/#";

/// The agent's session at the external broker.
pub(crate) struct External {
    client: AsyncClient,
    events: EventLoop,
    twins: Twins,
}

/// Publishes through the external broker.
#[derive(Clone, Debug)]
pub(crate) struct ExternalOutlet(AsyncClient);

impl Outlet for ExternalOutlet {
    fn publish(&self, messages: Vec<(String, Vec<u8>)>) {
        for (topic, payload) in messages {
            if self.0.try_publish(&topic, QoS::AtLeastOnce, false, payload).is_err() {
                tracing::debug!(topic, "dropped: the external broker is away or too slow");
            }
        }
    }

    /// Who listens at another broker is not known.
    fn wanted(&self, _topic: &str) -> bool {
        true
    }
}

impl External {
    /// A session with the broker at `address` (`host:port`).
    pub(crate) fn new(address: &str, node: &str, twins: Twins) -> (Self, ExternalOutlet) {
        let (host, port) = address.rsplit_once(':').unwrap_or((address, "1883"));
        let mut options = MqttOptions::new(format!("kurator-edge-{node}"), host, port.parse().unwrap_or(1883));
        options
            .set_clean_session(false)
            .set_manual_acks(true)
            .set_keep_alive(KEEP_ALIVE)
            .set_max_packet_size(MAX_PACKET, MAX_PACKET);
        let (client, events) = AsyncClient::new(options, OUTGOING);
        let outlet = ExternalOutlet(client.clone());
        (Self { client, events, twins }, outlet)
    }

    /// Runs until the drain begins.
    pub(crate) async fn run(self, drain: Drain) {
        let Self {
            client,
            mut events,
            twins,
        } = self;
        let (waiting, verdicts) = mpsc::channel(UNACKED);
        let anew = Arc::new(Notify::new());
        // Packet ids mean something within one connection only: an answer for an earlier one is not given.
        let connection = Arc::new(AtomicU64::new(0));
        drop(drain.spawn(acknowledge(
            client.clone(),
            verdicts,
            Arc::clone(&anew),
            Arc::clone(&connection),
        )));
        let by: Arc<str> = "mqtt".into();
        let mut backoff = FullJitter::new(BACKOFF.0, BACKOFF.1);
        loop {
            let event = tokio::select! {
                biased;
                () = drain.stopping() => return,
                () = anew.notified() => {
                    connection.fetch_add(1, Ordering::SeqCst);
                    events.clean();
                    pause(&mut backoff, &drain).await;
                    continue;
                }
                event = events.poll() => event,
            };
            match event {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    backoff.reset();
                    let filters = FILTERS.map(|f| SubscribeFilter::new(f.to_owned(), QoS::AtLeastOnce));
                    if client.try_subscribe_many(filters).is_err() {
                        anew.notify_one();
                    }
                    twins.subscribed(&[Arc::from(ALL)]);
                    tracing::info!("Connected to the external MQTT broker.");
                }
                Ok(Event::Incoming(Packet::Publish(message))) => {
                    let asked = Asked {
                        topic: message.topic.as_str().into(),
                        payload: message.payload.clone(),
                        by: Arc::clone(&by),
                    };
                    let verdict = twins.ask(vec![asked]);
                    let of = connection.load(Ordering::SeqCst);
                    if waiting.try_send((message, verdict, of)).is_err() {
                        anew.notify_one();
                    }
                }
                Ok(_) => {}
                Err(e) => {
                    connection.fetch_add(1, Ordering::SeqCst);
                    tracing::warn!(error = %e, "No connection to the external MQTT broker.");
                    pause(&mut backoff, &drain).await;
                }
            }
        }
    }
}

async fn pause(backoff: &mut FullJitter, drain: &Drain) {
    tokio::select! {
        biased;
        () = drain.stopping() => {}
        () = tokio::time::sleep(backoff.next_wait()) => {}
    }
}

/// Acknowledges in order what was stored, each on the connection it came by: the broker sends the rest again.
async fn acknowledge(
    client: AsyncClient,
    mut verdicts: mpsc::Receiver<(Publish, Verdicts, u64)>,
    anew: Arc<Notify>,
    connection: Arc<AtomicU64>,
) {
    while let Some((message, verdict, of)) = verdicts.recv().await {
        let refused = matches!(verdict.await.first(), None | Some(Err(Refused::NotStored)));
        if connection.load(Ordering::SeqCst) != of {
            continue;
        }
        if refused {
            anew.notify_one();
        } else if client.ack(&message).await.is_err() {
            return;
        }
    }
}
