//! The embedded broker's door to the twins: what clients publish under `$hw/` is answered here and not routed on.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use mqtt::{Accept, ClientInfo, LocalHandler, LocalPublish, QoS, Reject};

use crate::twin::{Asked, Refused, Sender, Twins};

/// A message that could not be stored makes the broker hold its client's connection. The client is told why on `update/result`; that
/// must be on its way first.
const LAST_WORD: Duration = Duration::from_millis(20);

/// [`LocalHandler`] over the twin service.
#[derive(Clone, Debug)]
pub(crate) struct TwinTopics {
    twins: Twins,
}

impl TwinTopics {
    /// In front of `twins`.
    pub(crate) const fn new(twins: Twins) -> Self {
        Self { twins }
    }
}

impl LocalHandler for TwinTopics {
    fn publish(
        &self,
        client: &Arc<ClientInfo>,
        batch: Vec<LocalPublish>,
    ) -> BoxFuture<'static, Vec<Result<Accept, Reject>>> {
        let by: Arc<str> = format!("mqtt {}", client.client_id).into();
        let sender = Sender::new(&client.client_id);
        let asked = batch
            .into_iter()
            .map(|LocalPublish { message, packet_id }| Asked {
                origin: (message.qos != QoS::AtMostOnce).then(|| {
                    let exactly_once = message.qos == QoS::ExactlyOnce;
                    sender.sent(packet_id, message.dup, exactly_once, &message.topic, &message.payload)
                }),
                topic: message.topic,
                payload: message.payload,
                by: Arc::clone(&by),
            })
            .collect();
        // Asked here, not when the future is polled: the call takes the place in the order.
        let answers = self.twins.ask(asked);
        Box::pin(async move {
            let answers = answers.await;
            if answers.contains(&Err(Refused::NotStored)) {
                tokio::time::sleep(LAST_WORD).await;
            }
            answers
                .into_iter()
                .map(|answer| match answer {
                    Ok(()) => Ok(Accept),
                    Err(Refused::Request) => Err(Reject::PayloadInvalid),
                    Err(Refused::Topic) => Err(Reject::TopicInvalid),
                    Err(Refused::NotStored) => Err(Reject::Unavailable),
                })
                .collect()
        })
    }

    fn released(&self, client: &Arc<ClientInfo>, packet_ids: &[u16]) -> BoxFuture<'static, bool> {
        self.twins.released(Sender::new(&client.client_id), packet_ids)
    }

    fn on_connect(&self, _client: &Arc<ClientInfo>, resumed: &[Arc<str>]) {
        self.twins.subscribed(resumed);
    }

    fn on_subscribe(&self, _client: &Arc<ClientInfo>, filters: &[Arc<str>]) {
        self.twins.subscribed(filters);
    }
}
