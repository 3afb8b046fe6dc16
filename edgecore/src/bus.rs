//! Devices' MQTT: the embedded broker with its state in the store, or a session at somebody else's broker. Either way `$hw/` requests
//! go to the twin service and its answers come back here.

mod external;
mod handler;
mod persist;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use daemon::drain::Drain;
use metastore::store::Store;
use mqtt::{Broker, BrokerConfig, BrokerHandle, Limits, Publish, QoS, StartError};

use crate::config::{Mqtt, MqttMode};
use crate::twin::{Outlet, Twins};

/// Largest packet taken from a device or sent to it: the longest twin request with its topic.
const MAX_PACKET: usize = 1280 * 1024;
/// How long a stopping broker may take to acknowledge what it received.
const STOP_DEADLINE: Duration = Duration::from_secs(3);

/// Why devices cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The listen address is no address.
    #[error("mqtt.listen {0:?}: {1}")]
    Address(String, String),
    /// The broker did not start.
    #[error(transparent)]
    Broker(#[from] StartError),
}

/// What was started.
#[derive(Debug)]
pub(crate) struct Bus {
    /// The embedded broker.
    pub(crate) broker: Option<BrokerHandle>,
}

impl Bus {
    /// Starts what the configuration asks for. Devices are answered when this returns.
    ///
    /// # Errors
    /// When the embedded broker cannot listen or read its state.
    pub(crate) async fn start(
        config: &Mqtt,
        node: &str,
        store: Store,
        twins: &Twins,
        drain: &Drain,
    ) -> Result<Self, BusError> {
        match config.mode {
            MqttMode::Off => Ok(Self { broker: None }),
            MqttMode::External => {
                let (session, outlet) = external::External::new(&config.external, node, twins.clone());
                twins.connect(Box::new(outlet));
                drop(drain.spawn(session.run(drain.clone())));
                Ok(Self { broker: None })
            }
            MqttMode::Embedded => {
                let listen = resolve(&config.listen).await?;
                let broker = Broker::start(
                    BrokerConfig {
                        listen,
                        local_prefixes: vec!["$hw/".to_owned()],
                        access: None,
                        limits: Limits {
                            packet_bytes: MAX_PACKET,
                            ..Limits::default()
                        },
                    },
                    Arc::new(persist::StorePersist::new(store)),
                    Arc::new(handler::TwinTopics::new(twins.clone())),
                )
                .await?;
                twins.connect(Box::new(BrokerOutlet(broker.clone())));
                Ok(Self { broker: Some(broker) })
            }
        }
    }

    /// Where the embedded broker listens.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.broker.as_ref()?.addresses().first().copied()
    }

    /// Acknowledges what was received and closes all connections.
    pub(crate) async fn stop(&self) {
        if let Some(broker) = &self.broker
            && !broker.shutdown(STOP_DEADLINE).await
        {
            tracing::warn!("The broker did not stop in time.");
        }
    }
}

async fn resolve(listen: &str) -> Result<Vec<SocketAddr>, BusError> {
    match tokio::net::lookup_host(listen).await {
        Ok(found) => Ok(found.collect()),
        Err(e) => Err(BusError::Address(listen.to_owned(), e.to_string())),
    }
}

/// Publishes through the embedded broker.
struct BrokerOutlet(BrokerHandle);

impl Outlet for BrokerOutlet {
    fn publish(&self, messages: Vec<(String, Vec<u8>)>) {
        let messages = messages.into_iter().map(|(topic, payload)| Publish {
            qos: QoS::AtLeastOnce,
            ..Publish::new(topic, payload)
        });
        let messages: Vec<Publish> = messages.collect();
        if self.0.publish_all(messages.iter().cloned()).is_ok() {
            // Routed; the durable part for absent sessions goes its own way.
            return;
        }
        // One of them is too large for any client; the others go out.
        for message in messages {
            let topic = Arc::clone(&message.topic);
            if let Err(e) = self.0.publish_all([message]) {
                tracing::warn!(%topic, error = %e, "An answer cannot be published.");
            }
        }
    }

    fn wanted(&self, topic: &str) -> bool {
        self.0.has_subscribers(topic)
    }
}
