//! The connected gateways: one session each, what it should hold and what it said.
//!
//! [`Fleet`] takes connections from the gateways' port and gives each a task ([`session`]). [`registry`] knows who is connected;
//! [`claims`] decides which of two sessions speaks for a node; [`journal`] is where gateways' records end, [`sink`] their way there; [`knock`] calls back those
//! whose hub was killed.

mod claims;
mod journal;
mod knock;
mod outbox;
mod registry;
mod session;
mod sink;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use daemon::drain::Drain;
use link::pki::HubCa;
use link::{Accepted, CloseCode, Connection, Gate, Goodbye, HubEndpoint, PeerIdentity, Stream, StreamKind};
use metastore::api::{ApiServer, User};
use metastore::store::Store;
use proto::CloseReason;
use proto::join::JoinResponse;

use crate::config::Config;
use crate::enroll::{self, Directory, IdentityRefusal};
use crate::gateway::AsUser;
use crate::metrics::Metrics;
use crate::upstream::{Index, Objects, Writer};

pub(crate) use journal::{history, newest_of};
pub(crate) use knock::last_seen;
pub(crate) use outbox::Outbox;
pub(crate) use registry::{Live, Registry};

/// How often EdgeNodes that say something old are written.
const SHOW_EVERY: Duration = Duration::from_millis(500);
/// How old an EdgeNode's status may get while nothing happens.
const SHOW_AT_LEAST: Duration = Duration::from_secs(300);
/// EdgeNodes written only because of their age, per turn: a fleet of 100,000 takes its five minutes.
const SHOW_AT_ONCE: usize = 200;
/// After a start, gateways have this long (and three heartbeats) to come back before they are shown as offline.
const RETURN_GRACE: Duration = Duration::from_secs(30);

/// Everything a session needs.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) config: Arc<Config>,
    pub(crate) hub_id: Arc<str>,
    pub(crate) hub_addrs: Vec<String>,
    pub(crate) ca: Arc<HubCa>,
    pub(crate) store: Store,
    pub(crate) api: ApiServer,
    pub(crate) objects: Objects,
    pub(crate) directory: Arc<Directory>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) index: Arc<Index>,
    pub(crate) writer: Writer,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) drain: Drain,
    /// Number of the newest session; begins above all sessions of earlier runs.
    pub(crate) epochs: AtomicU64,
}

/// Lets in whose certificate still speaks for its node.
#[derive(Debug)]
pub(crate) struct IdentityGate(pub(crate) Arc<Directory>);

impl Gate for IdentityGate {
    fn admit(&self, peer: &PeerIdentity, remote: SocketAddr) -> Result<(), Goodbye> {
        let Some(node) = peer.node() else {
            return Err(Goodbye::new(
                CloseCode::NotAllowed,
                "the certificate is not a gateway's",
            ));
        };
        self.0.accepts(node, &peer.serial).map_err(|why| {
            tracing::info!(node, %remote, ?why, "A gateway was turned away.");
            match why {
                IdentityRefusal::Revoked => Goodbye::new(CloseCode::Revoked, "the node was revoked"),
                IdentityRefusal::Replaced => {
                    Goodbye::new(CloseCode::Revoked, "the certificate was replaced by a later one")
                }
                IdentityRefusal::Unknown => Goodbye::new(CloseCode::NotAllowed, "this hub never enrolled the node"),
            }
        })
    }
}

fn reason(why: IdentityRefusal) -> CloseReason {
    match why {
        IdentityRefusal::Unknown => CloseReason::UnknownNode,
        IdentityRefusal::Revoked | IdentityRefusal::Replaced => CloseReason::Revoked,
    }
}

impl Fleet {
    fn next_epoch(&self) -> u64 {
        self.epochs.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn session_config(&self, epoch: u64) -> proto::HubConfig {
        let mut config = proto::HubConfig::new(Arc::clone(&self.hub_id), epoch);
        config.limits.heartbeat = self.config.heartbeat.0;
        config
    }

    /// Takes connections until the drain begins, then tells everybody to come back later.
    pub(crate) async fn accept(self: Arc<Self>, endpoint: Arc<HubEndpoint>) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.drain.stopping() => break,
                accepted = endpoint.accept() => accepted,
            };
            let fleet = Arc::clone(&self);
            match accepted {
                None => return,
                Some(Accepted::Link(connection)) => {
                    drop(self.drain.spawn(session::serve(fleet, connection)));
                }
                Some(Accepted::Join(connection)) => {
                    drop(self.drain.spawn(async move { fleet.join(connection).await }));
                }
            }
        }
        // Sessions say goodbye by themselves first; the drain waits for them, this for what is left.
        tokio::time::sleep(Duration::from_millis(100)).await;
        endpoint
            .close(&Goodbye::new(CloseCode::GoingAway, "the hub is stopping"))
            .await;
    }

    /// Looks, once everything above was seen, at gateways that have no Cluster: one that never had one gets it, one whose Cluster was
    /// removed while nobody watched stays out.
    pub(crate) fn register_all(&self) {
        let nodes = self.directory.nodes();
        for (node, _) in &nodes {
            self.writer.place(node);
        }
        self.writer.placed();
        for (node, _) in nodes {
            if !self.index.has_cluster(&node) {
                self.writer.cluster_missing(&node);
            }
        }
    }

    async fn join(self: Arc<Self>, connection: Connection) {
        let answered = link::join::serve(connection, |request, remote| async move {
            let now = daemon::clock::wall_ms();
            let (token, asked) = (request.token_id.clone(), request.node_name.clone());
            match enroll::answer(&self.directory, &self.ca, &self.config, &self.hub_addrs, request, now).await {
                Ok(outcome) => {
                    let node = outcome.admitted.node_name.as_str();
                    tracing::info!(node, token, %remote, "A gateway joined.");
                    self.metrics.joins_admitted.add(1);
                    if outcome.replaced {
                        self.registry.end(node, CloseReason::Revoked, None);
                    }
                    self.writer.presence(node);
                    JoinResponse::Admitted(outcome.admitted)
                }
                Err(refusal) => {
                    tracing::info!(node = asked, token, %remote, code = ?refusal.code, "A join was refused.");
                    self.metrics.joins_refused.add(1);
                    JoinResponse::Refused(refusal)
                }
            }
        });
        if let Err(e) = answered.await {
            tracing::debug!(error = %e, "A join connection ended early.");
        }
    }

    /// A stream that a gateway opened: HTTP to the API above, under the gateway's own identity.
    fn serve_stream(&self, node: &Arc<str>, mut stream: Stream) {
        let user = User::new(format!("{}{node}", link::pki::NODE_PREFIX), [link::pki::NODE_GROUP]);
        let service = AsUser::new(self.api.clone(), user);
        let cancel = self.drain.token().clone();
        drop(self.drain.spawn(async move {
            if !matches!(stream.read_kind().await, Ok(StreamKind::Http)) {
                return;
            }
            if let Err(e) = link::tunnel::serve(stream, service, cancel).await {
                tracing::debug!(error = %e, "A gateway's request ended early.");
            }
        }));
    }

    /// Throws a node out; how many sessions that ended, or `None` when it was never enrolled.
    ///
    /// # Errors
    /// When it could not be recorded; nothing was done then.
    pub(crate) async fn revoke(&self, node: &str) -> Result<Option<usize>, metastore::store::CommitError> {
        if !self.directory.revoke_node(node).await? {
            return Ok(None);
        }
        let ended = self.registry.end(node, CloseReason::Revoked, None);
        tracing::info!(node, ended, "A node was revoked.");
        self.writer.presence(node);
        Ok(Some(ended))
    }

    /// Keeps EdgeNodes up to date, and after a start shows who did not come back.
    pub(crate) async fn show(self: Arc<Self>) {
        let grace = RETURN_GRACE.max(3 * self.config.heartbeat.0);
        let mut sweep = Some(Box::pin(tokio::time::sleep(grace)));
        let mut tick = tokio::time::interval(SHOW_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = self.drain.stopping() => return,
                () = async { match sweep.as_mut() { Some(at) => at.await, None => std::future::pending().await } } => {
                    sweep = None;
                    self.registry.settle();
                    for (node, _) in self.directory.nodes() {
                        if self.registry.get(&node).is_none() {
                            self.writer.presence(&node);
                        }
                    }
                }
                _ = tick.tick() => {
                    let age = u64::try_from(SHOW_AT_LEAST.as_millis()).unwrap_or(u64::MAX);
                    for node in self.registry.due(daemon::clock::wall_ms(), age, SHOW_AT_ONCE) {
                        self.writer.edge_node(&node, crate::upstream::Urgency::Soon);
                    }
                    self.writer.due();
                    for node in self.registry.gone(daemon::clock::wall_ms(), crate::upstream::UNREACHABLE_AFTER) {
                        self.writer.cluster(&node);
                    }
                }
            }
        }
    }
}
