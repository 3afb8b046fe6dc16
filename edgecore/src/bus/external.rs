//! Devices on a broker that somebody else runs: this agent is one of its clients.
//!
//! It subscribes the request topics with a persistent session and acknowledges each message by hand, after the store has it, so the
//! broker keeps what the agent could not take and sends it again after a reconnect. Two tasks: one drives the connection and hands
//! messages to the twins, one waits for the verdicts in order and acknowledges. A message that could not be stored is left
//! unacknowledged and the connection is begun anew, because the protocol has no other way to ask for it again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use daemon::backoff::FullJitter;
use daemon::drain::Drain;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, Publish, QoS, Request, SubscribeFilter};
use tokio::sync::{Notify, mpsc};

use crate::twin::{Asked, Outlet, Refused, Sender, Twins, Verdicts};

/// Messages that wait for their verdict. Brokers send a few dozen before they want acknowledgements.
const UNACKED: usize = 4096;
/// Packets of ours that wait for the connection; beyond it answers are dropped, as with any subscriber that is too slow.
const OUTGOING: usize = 4096;
/// Largest packet in either direction: the longest payload and its topic.
const MAX_PACKET: usize = 2 * 1024 * 1024;
/// Between attempts to hand over an acknowledgement while the client has [`OUTGOING`] packets to send.
const ACK_AGAIN: Duration = Duration::from_millis(10);
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
    /// The broker, as the one who sends.
    sender: Sender,
}

/// The number of the connection. Packet ids mean something within one only: an acknowledgement must not leave on the next, where
/// its packet id may be another message's. So acknowledgements are handed to the client under this lock, and after the number has
/// changed the client's queue is cleaned: what was handed over before is dropped there, and nothing can follow.
#[derive(Clone, Debug, Default)]
struct Connection(Arc<Mutex<u64>>);

impl Connection {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u64 {
        *self.lock()
    }

    /// Does something if connection `of` is still the one; it stays so meanwhile.
    fn during<R>(&self, of: u64, act: impl FnOnce() -> R) -> Option<R> {
        let number = self.lock();
        (*number == of).then(act)
    }

    /// This connection is over.
    fn over(&self, events: &mut EventLoop) {
        *self.lock() += 1;
        // Our own messages are for the next connection too, acknowledgements are not.
        events.clean();
        events
            .pending
            .retain(|request| !matches!(request, Request::PubAck(_) | Request::PubRec(_)));
        events.pending.truncate(OUTGOING);
    }
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
        let sender = Sender::new(&format!("broker {address}"));
        let session = Self {
            client,
            events,
            twins,
            sender,
        };
        (session, outlet)
    }

    /// Runs until the drain begins.
    pub(crate) async fn run(self, drain: Drain) {
        let Self {
            client,
            mut events,
            twins,
            sender,
        } = self;
        let (waiting, verdicts) = mpsc::channel(UNACKED);
        let anew = Arc::new(Notify::new());
        let connection = Connection::default();
        drop(drain.spawn(acknowledge(
            client.clone(),
            verdicts,
            Arc::clone(&anew),
            connection.clone(),
            drain.clone(),
        )));
        let by: Arc<str> = "mqtt".into();
        let mut backoff = FullJitter::new(BACKOFF.0, BACKOFF.1);
        let mut connected = false;
        loop {
            let event = tokio::select! {
                biased;
                () = drain.stopping() => return,
                () = anew.notified() => {
                    connection.over(&mut events);
                    connected = false;
                    pause(&mut backoff, &drain).await;
                    continue;
                }
                event = events.poll() => event,
            };
            match event {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    connected = true;
                    backoff.reset();
                    let filters = FILTERS.map(|f| SubscribeFilter::new(f.to_owned(), QoS::AtLeastOnce));
                    if client.try_subscribe_many(filters).is_err() {
                        anew.notify_one();
                    }
                    twins.subscribed(&[Arc::from(ALL)]);
                    tracing::info!("Connected to the external MQTT broker.");
                }
                Ok(Event::Incoming(Packet::Publish(message))) => {
                    let (again, exactly_once) = (message.dup, message.qos == QoS::ExactlyOnce);
                    let origin = || sender.sent(message.pkid, again, exactly_once, &message.topic, &message.payload);
                    let asked = Asked {
                        origin: (message.qos != QoS::AtMostOnce).then(origin),
                        topic: message.topic.as_str().into(),
                        payload: message.payload.clone(),
                        by: Arc::clone(&by),
                    };
                    let verdict = twins.ask(vec![asked]);
                    let of = connection.number();
                    if waiting.try_send((message, verdict, of)).is_err() {
                        anew.notify_one();
                    }
                }
                Ok(_) => {}
                Err(e) => {
                    // Without a connection there is nothing to forget, and what waits stays in its bounded queue.
                    if std::mem::take(&mut connected) {
                        connection.over(&mut events);
                    }
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
    connection: Connection,
    drain: Drain,
) {
    while let Some((message, verdict, of)) = verdicts.recv().await {
        let refused = matches!(verdict.await.first(), None | Some(Err(Refused::NotStored)));
        if refused {
            connection.during(of, || anew.notify_one());
            continue;
        }
        while let Some(Err(_)) = connection.during(of, || client.try_ack(&message)) {
            tokio::select! {
                biased;
                () = drain.stopping() => return,
                () = tokio::time::sleep(ACK_AGAIN) => {}
            }
        }
    }
}
