//! Starting, holding and stopping a broker: listeners, the timer, and the handle the daemon works with.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::BrokerConfig,
    connection,
    core::Core,
    hooks::LocalHandler,
    hub::{Hub, Settled},
    packet::{Publish, QoS},
    persist::{Persist, PersistError},
    stats::Stats,
    topic::valid_topic,
};

/// After a failed `accept` (out of file descriptors, for example) the listener rests this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The embedded broker. See [`Broker::start`].
#[derive(Debug)]
pub struct Broker;

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address beyond loopback, and no authentication.
    #[error(
        "MQTT would listen on {0}, beyond this machine, without authentication; configure it, or listen on 127.0.0.1"
    )]
    NeedsAuthentication(SocketAddr),
    /// The address cannot be had.
    #[error("MQTT cannot listen on {address}: {source}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The state of the last run cannot be read.
    #[error("MQTT state cannot be loaded: {0}")]
    Load(#[from] PersistError),
}

/// Why a message of the daemon was not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Empty, too long, or with a wildcard.
    #[error("not a topic name")]
    InvalidTopic,
    /// Larger than the broker's largest packet.
    #[error("payload too large")]
    TooLarge,
}

impl Broker {
    /// Loads the state, binds the listeners and starts serving. Needs a tokio runtime with time and I/O.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub async fn start(
        config: BrokerConfig,
        persist: Arc<dyn Persist>,
        local: Arc<dyn LocalHandler>,
    ) -> Result<BrokerHandle, StartError> {
        if config.access.is_none()
            && let Some(open) = config.listen.iter().find(|a| !a.ip().to_canonical().is_loopback())
        {
            return Err(StartError::NeedsAuthentication(*open));
        }
        let mut listeners = Vec::with_capacity(config.listen.len());
        for address in &config.listen {
            let bound = TcpListener::bind(address).await;
            listeners.push(bound.map_err(|source| StartError::Bind {
                address: *address,
                source,
            })?);
        }
        let addresses = listeners.iter().filter_map(|l| l.local_addr().ok()).collect();

        let state = persist.load().await?;
        if state.skipped > 0 {
            tracing::warn!(records = state.skipped, "damaged MQTT records were left out");
        }
        let mut core = Core::new(config.limits.clone());
        core.restore(Duration::ZERO, state);
        let limits = &config.limits;
        let shared = Arc::new(Shared {
            connections: Arc::new(Semaphore::new(limits.connections)),
            handshakes: Arc::new(Handshakes {
                open: Mutex::default(),
                max: limits.handshakes.max(1),
            }),
            hub: Hub::new(core, persist, local, config),
            addresses,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        for listener in listeners {
            shared.tasks.spawn(accept(shared.clone(), listener));
        }
        shared.tasks.spawn(timer(shared.clone()));
        Ok(BrokerHandle { shared })
    }
}

#[derive(Debug)]
struct Shared {
    hub: Arc<Hub>,
    addresses: Vec<SocketAddr>,
    connections: Arc<Semaphore>,
    handshakes: Arc<Handshakes>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Acknowledgements are small and wanted at once.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "TCP_NODELAY");
                }
                serve(&shared, stream, peer);
            }
            Err(error) => {
                tracing::warn!(%error, "MQTT accept failed");
                tokio::select! {
                    () = shared.stop.cancelled() => return,
                    () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
}

fn serve<S>(shared: &Arc<Shared>, stream: S, peer: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let hub = shared.hub.clone();
    let Ok(place) = shared.connections.clone().try_acquire_owned() else {
        hub.counters.refused_busy.one();
        return;
    };
    hub.counters.accepted.one();
    hub.counters.connections.one();
    let (handshake, pushed_out) = shared.handshakes.begin(&shared.stop);
    if pushed_out {
        hub.counters.refused_busy.one();
    }
    let stop = shared.stop.clone();
    shared.tasks.spawn(async move {
        // Given back also when the connection's task panics.
        let _place = (place, Open(hub.clone()));
        connection::serve(hub, stream, peer, handshake, stop).await;
    });
}

/// Connections before their CONNECT.
#[derive(Debug)]
struct Handshakes {
    open: Mutex<OpenHandshakes>,
    max: usize,
}

#[derive(Debug, Default)]
struct OpenHandshakes {
    last_id: u64,
    /// Oldest first.
    list: VecDeque<(u64, CancellationToken)>,
}

/// A connection before its CONNECT; no longer one when this is dropped.
#[derive(Debug)]
pub(crate) struct Handshake {
    id: u64,
    /// Cancelled when the broker stops, and when newer connections need the place.
    pub(crate) cancelled: CancellationToken,
    all: Arc<Handshakes>,
}

impl Handshakes {
    /// Begins one; `true` if the oldest had to go for it.
    fn begin(self: &Arc<Self>, stop: &CancellationToken) -> (Handshake, bool) {
        let cancelled = stop.child_token();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.last_id += 1;
        let id = open.last_id;
        open.list.push_back((id, cancelled.clone()));
        let oldest = if open.list.len() > self.max {
            open.list.pop_front()
        } else {
            None
        };
        if let Some((_, oldest)) = &oldest {
            oldest.cancel();
        }
        (
            Handshake {
                id,
                cancelled,
                all: self.clone(),
            },
            oldest.is_some(),
        )
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut open = self.all.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.list.retain(|(id, _)| *id != self.id);
    }
}

/// Counts an open connection for as long as it lives.
struct Open(Arc<Hub>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counters.connections.sub_one();
    }
}

async fn timer(shared: Arc<Shared>) {
    let hub = &shared.hub;
    let origin = hub.origin();
    loop {
        let due = hub.look(Core::poll_timeout);
        let sleep = async {
            match due {
                Some(at) => tokio::time::sleep_until(origin + at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            () = hub.timer.notified() => continue,
            () = sleep => {}
        }
        // Settled by itself; nobody waits for it.
        drop(hub.step(|core, now, fx| core.handle_timeout(now, fx)));
    }
}

/// A running broker. Cheap to clone; dropping handles does not stop it, [`BrokerHandle::shutdown`] does.
#[derive(Clone, Debug)]
pub struct BrokerHandle {
    shared: Arc<Shared>,
}

/// Resolves when a message of the daemon is durable for every session that must not lose it. May be dropped.
#[derive(Debug)]
pub struct Published(Option<Settled>);

impl Future for Published {
    type Output = Result<(), PersistError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let Some(settled) = &mut self.0 else {
            return Poll::Ready(Ok(()));
        };
        Pin::new(settled)
            .poll(cx)
            .map(|joined| joined.unwrap_or(Err(PersistError::Closed)))
    }
}

impl BrokerHandle {
    /// The addresses listened on, with the ports the system chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.shared.addresses
    }

    /// Publishes a message of the daemon. It is routed before this returns; the future is for waiting until it is
    /// durable where it has to be. Await it now and then when publishing in a loop: each holds a commit.
    ///
    /// # Errors
    /// [`PublishError`] for a topic or payload no client could have published.
    pub fn publish(
        &self,
        topic: impl Into<Arc<str>>,
        payload: impl Into<Bytes>,
        qos: QoS,
        retain: bool,
    ) -> Result<Published, PublishError> {
        self.publish_all([Publish {
            qos,
            retain,
            ..Publish::new(topic, payload)
        }])
    }

    /// Publishes several messages in order and with one commit.
    ///
    /// # Errors
    /// [`PublishError`] if one of them is not valid; none is published then.
    pub fn publish_all(&self, messages: impl IntoIterator<Item = Publish>) -> Result<Published, PublishError> {
        let limits = &self.shared.hub.config.limits;
        let messages: Vec<Publish> = messages.into_iter().collect();
        for message in &messages {
            if !valid_topic(&message.topic, limits.topic_bytes) {
                return Err(PublishError::InvalidTopic);
            }
            if message.cost() > limits.packet_bytes {
                return Err(PublishError::TooLarge);
            }
        }
        let ((), settled) = self
            .shared
            .hub
            .step(|core, now, fx| messages.iter().for_each(|m| core.route(now, None, m, fx)));
        Ok(Published(settled))
    }

    /// Is anyone subscribed to this topic, connected or with a session that waits? One lookup; made for asking before
    /// building a payload.
    pub fn has_subscribers(&self, topic: &str) -> bool {
        self.shared.hub.look(|core| core.has_subscribers(topic))
    }

    /// Ends the connection of this client id (its session stays); `false` if it has none.
    pub fn disconnect(&self, client_id: &str) -> bool {
        self.shared.hub.look(|core| core.expel(client_id))
    }

    /// Serves a client on any stream, under the same bounds as an accepted connection.
    pub fn serve_stream<S>(&self, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        serve(&self.shared, stream, peer);
    }

    /// Counters and sizes.
    pub fn stats(&self) -> Stats {
        self.shared.hub.stats()
    }

    /// Stops: no more connections, what was received is acknowledged as far as it becomes durable, MQTT 5 clients are
    /// told, wills are not published. Returns `false` if something still ran at the deadline.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        self.shared.hub.look(Core::kick_all);
        tokio::time::timeout_at(Instant::now() + deadline, self.shared.tasks.wait())
            .await
            .is_ok()
    }
}
