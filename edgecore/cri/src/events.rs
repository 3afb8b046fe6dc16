//! What happens to containers, as it happens: containerd's own event service where the runtime is containerd, else the interface's.
//!
//! containerd's comes first because it tells every listener; the interface's (containerd 1.7) hands each event to one of them.
//! An event is a hint to look: it may come late, twice, or for a container of somebody else.

use std::pin::Pin;

use prost::Message;
use tonic::{Code, Request, Streaming};

use crate::channel::Channel;
use crate::error::CriError;
use crate::v1::runtime_service_client::RuntimeServiceClient;
use crate::{containerd, v1};

/// The namespace that containerd keeps CRI's containers in.
const NAMESPACE: &str = "k8s.io";
/// What is worth a look: an end, a kill for memory, a removal.
const TOPICS: [&str; 3] = ["/tasks/exit", "/tasks/oom", "/containers/delete"];

/// Something happened to a container or a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// Its id.
    pub id: String,
    /// Whether memory ran out in it.
    pub oom: bool,
}

/// The stream of what happens. Ends with an error, after which a new one is opened and everything is looked at.
pub struct Events {
    channel: Channel,
    state: State,
}

type Opening<T> = Pin<Box<dyn Future<Output = Result<Streaming<T>, CriError>> + Send>>;

enum State {
    /// The answer's headers come with the first event only, with some servers.
    OpeningContainerd(Opening<containerd::Envelope>),
    Containerd(Streaming<containerd::Envelope>),
    OpeningCri(Opening<v1::ContainerEventResponse>),
    Cri(Streaming<v1::ContainerEventResponse>),
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    pub(crate) fn new(channel: Channel) -> Self {
        let state = State::OpeningContainerd(Box::pin(open_containerd(channel.clone())));
        Self { channel, state }
    }

    /// What happens next. Safe to drop half-way. Nothing is asked of the runtime before this is called.
    ///
    /// # Errors
    /// [`CriError`]; with [`Why::Unimplemented`](crate::Why::Unimplemented) when the runtime tells no events at all.
    pub async fn next(&mut self) -> Result<Happened, CriError> {
        loop {
            match &mut self.state {
                State::OpeningContainerd(opening) => match opening.await {
                    Ok(stream) => self.state = State::Containerd(stream),
                    Err(e) if e.why() == crate::Why::Unimplemented => {
                        self.state = State::OpeningCri(Box::pin(open_cri(self.channel.clone())));
                    }
                    Err(e) => return Err(e),
                },
                State::OpeningCri(opening) => self.state = State::Cri(opening.await?),
                State::Containerd(stream) => match stream.message().await {
                    Ok(Some(envelope)) => {
                        if let Some(happened) = of_containerd(&envelope) {
                            return Ok(happened);
                        }
                    }
                    Ok(None) => return Err(ended()),
                    Err(status) if status.code() == Code::Unimplemented => {
                        self.state = State::OpeningCri(Box::pin(open_cri(self.channel.clone())));
                    }
                    Err(status) => return Err(CriError::answered("subscribe", &status)),
                },
                State::Cri(stream) => match stream.message().await {
                    Ok(Some(event)) => {
                        return Ok(Happened {
                            id: event.container_id,
                            oom: false,
                        });
                    }
                    Ok(None) => return Err(ended()),
                    Err(status) => return Err(CriError::answered("get_container_events", &status)),
                },
            }
        }
    }
}

fn ended() -> CriError {
    CriError::Broken("the runtime ended the stream of events".to_owned())
}

async fn open_containerd(channel: Channel) -> Result<Streaming<containerd::Envelope>, CriError> {
    channel.reach().await?;
    let filters = TOPICS.map(|topic| format!("namespace=={NAMESPACE},topic==\"{topic}\""));
    let mut request = Request::new(containerd::SubscribeRequest {
        filters: filters.into(),
    });
    let namespace = tonic::metadata::MetadataValue::from_static(NAMESPACE);
    request.metadata_mut().insert("containerd-namespace", namespace);
    let mut client = containerd::events_client::EventsClient::with_origin(channel, crate::runtime::origin());
    let answer = client.subscribe(request).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|s| CriError::answered("subscribe", &s))
}

async fn open_cri(channel: Channel) -> Result<Streaming<v1::ContainerEventResponse>, CriError> {
    channel.reach().await?;
    let mut client = RuntimeServiceClient::with_origin(channel, crate::runtime::origin());
    let answer = client.get_container_events(v1::GetEventsRequest {}).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|s| CriError::answered("get_container_events", &s))
}

/// `None` for what concerns no container as a whole, such as the end of a command that was run in one.
fn of_containerd(envelope: &containerd::Envelope) -> Option<Happened> {
    let body = envelope.event.as_ref()?.value.as_slice();
    let event = containerd::TaskEvent::decode(body).ok()?;
    let process = envelope.topic == "/tasks/exit" && !event.id.is_empty() && event.id != event.container_id;
    (!process && !event.container_id.is_empty()).then(|| Happened {
        oom: envelope.topic == "/tasks/oom",
        id: event.container_id,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(topic: &str, container_id: &str, id: &str) -> containerd::Envelope {
        let event = containerd::TaskEvent {
            container_id: container_id.to_owned(),
            id: id.to_owned(),
        };
        containerd::Envelope {
            namespace: NAMESPACE.to_owned(),
            topic: topic.to_owned(),
            event: Some(containerd::Any {
                type_url: String::new(),
                value: event.encode_to_vec(),
            }),
        }
    }

    #[test]
    fn the_end_of_a_command_in_a_container_is_not_the_containers() {
        let told = |topic, container, id| of_containerd(&envelope(topic, container, id)).map(|h| (h.id, h.oom));
        assert_eq!(told("/tasks/exit", "c1", "c1"), Some(("c1".to_owned(), false)));
        assert_eq!(told("/tasks/exit", "c1", "probe-7"), None);
        assert_eq!(told("/tasks/oom", "c1", ""), Some(("c1".to_owned(), true)));
        assert_eq!(told("/containers/delete", "c1", ""), Some(("c1".to_owned(), false)));
        assert_eq!(told("/tasks/exit", "", ""), None);
        assert_eq!(of_containerd(&containerd::Envelope::default()), None);
    }
}
