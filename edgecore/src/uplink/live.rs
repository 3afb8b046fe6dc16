//! One session with the hub, from the open stream to its end.
//!
//! One task picks what happens next: an event of the session, a change of the store, a journal that grew, a timer. Batches of the hub
//! are applied by a task of their own, because a full disk may hold one up for minutes and reports must go on leaving meanwhile; the
//! hub's requests to the local API have one task per stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use daemon::clock;
use daemon::drain::Drain;
use http::{Request, Response};
use hyper::body::Incoming;
use link::driver::{self, End, Events, SessionHandle};
use link::{CloseCode, Closed, Connection, Dialer, Goodbye, Stream, StreamKind, Transport, tunnel};
use metastore::api::{AUDIT_STREAM, ApiBody, ApiServer, MASTERS, User};
use metastore::store::{DropReason as Forced, Store, Tx};
use proto::{Change, DropReason, DroppedRange, EdgeConfig, Event, JournalCursor, Key, KeyState, Rotation, Session};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::mirror::{Mirror, Outcome};
use super::observed::{Observed, Pending};
use super::pace::Ended;
use super::rotation::Rotations;
use super::{Uplink, told};
use crate::conflicts::EVENTS;
use crate::twin::TELEMETRY;

/// Batches of the hub that wait to be applied: more than the session's window lets the hub send.
const BATCHES: usize = 2 * proto::limits::MAX_IN_FLIGHT;
/// A pause far ahead, for timers that have nothing to wait for.
const NEVER: Duration = Duration::from_secs(24 * 3600);
/// Who the hub itself is to the local API.
const HUB_USER: &str = "system:hub";

/// A batch for the applier.
struct Batch {
    number: u64,
    changes: Vec<Change>,
}

/// What happened.
enum Action {
    Stop,
    Event(Option<Event>),
    Changed(Result<super::observed::Changed, metastore::store::WatchError>),
    Appended(&'static str, Option<u64>),
    Due,
    Rotate,
    QuicAvailable,
}

/// Runs one session on `connection` until it ends.
pub(super) async fn run(
    uplink: &Uplink,
    boot_id: u64,
    dialer: &Dialer,
    connection: Connection,
    drain: &Drain,
) -> Ended {
    let began = clock::now();
    let drain = drain.child();
    let ended = match Live::begin(uplink, boot_id, &connection, &drain).await {
        Ok(live) => live.run(dialer, &connection, &drain).await,
        Err(why) => {
            tracing::warn!(%why, "The session with the hub could not begin.");
            Ended::Lost { lasted: Duration::ZERO }
        }
    };
    drain.stop();
    connection.close(&Goodbye::new(CloseCode::Normal, ""));
    let lasted = clock::now().saturating_duration_since(began);
    match (ended, connection.close_reason()) {
        // The connection's own last word says more than the stream's end.
        (Ended::Lost { .. }, Some(Closed::Peer(goodbye))) => told(&goodbye).unwrap_or(Ended::Lost { lasted }),
        (Ended::Lost { .. }, _) => Ended::Lost { lasted },
        (ended, _) => ended,
    }
}

struct Live<'u> {
    uplink: &'u Uplink,
    session: SessionHandle,
    events: Events,
    outcome: tokio::task::JoinHandle<driver::Outcome>,
    cancel: CancellationToken,
    observed: Observed,
    pending: Pending,
    batches: mpsc::Sender<Batch>,
    telemetry: watch::Receiver<u64>,
    conflicts: watch::Receiver<u64>,
    audit: Audit,
    rotations: Rotations,
    /// The hub took the session.
    welcomed: bool,
}

impl<'u> Live<'u> {
    async fn begin(uplink: &'u Uplink, boot_id: u64, connection: &Connection, drain: &Drain) -> Result<Self, String> {
        let stream = connection.open(StreamKind::Session).await.map_err(|e| e.to_string())?;
        let telemetry = uplink.twins.telemetry();
        let conflicts = uplink.twins.conflicts().newest();
        let mirror = Mirror::new(
            uplink.store.clone(),
            uplink.stamps.clone(),
            uplink.node.clone(),
            uplink.twins.conflicts().clone(),
        );
        let (read, store) = (mirror.clone(), uplink.store.clone());
        let (node, cycle) = (uplink.node.clone(), uplink.report_cycle);
        let cluster = uplink.cluster.clone();
        let sets = tokio::task::spawn_blocking(move || {
            let (set, observed) = Observed::start(&store, &node, cycle, cluster)?;
            Ok::<_, metastore::store::StoreError>((set, observed, read.inventory()?, journals(&store)?))
        });
        let (set, observed, inventory, journals) = sets.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let config = EdgeConfig {
            journals,
            ..EdgeConfig::new(uplink.node.as_str(), boot_id, uplink.store.incarnation())
        };
        let session = Session::edge(config, set, inventory, clock::since_start());
        let (driver, session, events) = driver::drive(session, stream);
        let cancel = CancellationToken::new();
        let outcome = drain.spawn(driver.run(cancel.clone()));
        let (batches, waiting) = mpsc::channel(BATCHES);
        drop(drain.spawn(apply(
            mirror,
            waiting,
            session.clone(),
            Arc::clone(&uplink.metrics),
            drain.clone(),
        )));
        drop(drain.spawn(tunnels(connection.clone(), uplink.clone(), drain.clone())));
        Ok(Self {
            uplink,
            session,
            events,
            outcome,
            cancel,
            observed,
            pending: Pending::default(),
            batches,
            telemetry,
            conflicts,
            audit: Audit::Unknown(uplink.api.clone()),
            rotations: Rotations::new(&uplink.pki, uplink.rotation.clone()),
            welcomed: false,
        })
    }

    async fn run(mut self, dialer: &Dialer, connection: &Connection, drain: &Drain) -> Ended {
        let on_tcp = connection.transport() == Transport::Tcp;
        let mut quic = std::pin::pin!(dialer.quic_available(&self.uplink.hubs));
        let ended = loop {
            let due = self
                .pending
                .due()
                .map_or(NEVER, |due| due.saturating_sub(clock::since_start()));
            let rotate = self.rotations.due().filter(|_| self.welcomed);
            let action = tokio::select! {
                biased;
                () = drain.stopping() => Action::Stop,
                event = self.events.next() => Action::Event(event),
                changed = self.observed.next() => Action::Changed(changed),
                grown = self.telemetry.changed() => {
                    Action::Appended(TELEMETRY, grown.is_ok().then(|| *self.telemetry.borrow_and_update()))
                }
                grown = self.conflicts.changed() => {
                    Action::Appended(EVENTS, grown.is_ok().then(|| *self.conflicts.borrow_and_update()))
                }
                newest = self.audit.grown() => Action::Appended(AUDIT_STREAM, Some(newest)),
                () = tokio::time::sleep(due), if due < NEVER => Action::Due,
                () = tokio::time::sleep(rotate.unwrap_or(NEVER)), if rotate.is_some() => Action::Rotate,
                _ = &mut quic, if on_tcp => Action::QuicAvailable,
            };
            if let Some(ended) = self.act(action, connection).await {
                break ended;
            }
        };
        self.finish(ended).await
    }

    async fn act(&mut self, action: Action, connection: &Connection) -> Option<Ended> {
        let lost = Ended::Lost { lasted: Duration::ZERO };
        match action {
            Action::Stop => Some(lost),
            Action::Event(None) => Some(lost),
            Action::Event(Some(event)) => self.event(event, connection).await,
            Action::Changed(Ok(changed)) => {
                let now = clock::since_start();
                self.pending.changed(changed, now);
                self.observed.ready(&mut self.pending, now);
                self.flush().await
            }
            Action::Changed(Err(e)) => {
                tracing::warn!(error = %e, "What was observed is read again.");
                Some(lost)
            }
            Action::Appended(stream, Some(upto)) => {
                let appended = self
                    .session
                    .call(move |session, _| session.journal_appended(stream, upto));
                appended.await.is_err().then_some(lost)
            }
            Action::Appended(_, None) => Some(lost),
            Action::Due => self.flush().await,
            Action::Rotate => {
                if let Some(request) = self.rotations.request() {
                    let asked = self.session.call(move |session, _| {
                        if !session.rotate(request) {
                            tracing::debug!("the hub has not answered the last request for a certificate");
                        }
                    });
                    let asked = asked.await;
                    return asked.is_err().then_some(lost);
                }
                None
            }
            Action::QuicAvailable => {
                tracing::info!("UDP gets through again: changing over to QUIC.");
                Some(Ended::ChangeOver)
            }
        }
    }

    async fn event(&mut self, event: Event, connection: &Connection) -> Option<Ended> {
        let lost = Ended::Lost { lasted: Duration::ZERO };
        match event {
            Event::Welcome { epoch, hub_id, .. } => {
                let transport = connection.transport();
                tracing::info!(epoch, hub = %hub_id, %transport, "Connected to the hub.");
                self.welcomed = true;
                self.uplink.metrics.uplink_connected.set(1);
                self.uplink.metrics.uplink_sessions.add(1);
                None
            }
            Event::Apply { batch, changes } => {
                let batch = Batch { number: batch, changes };
                // The session's window is smaller than this queue.
                self.batches.try_send(batch).is_err().then_some(lost)
            }
            Event::Acked { keys } => {
                for key in keys {
                    self.pending.settled(&key);
                }
                self.flush().await
            }
            Event::Refused { key, reason } => {
                tracing::warn!(%key, %reason, "The hub refused something observed here.");
                self.pending.settled(&key);
                self.flush().await
            }
            Event::InSync { set } => {
                tracing::debug!(?set, "Both sides are equal.");
                None
            }
            Event::NeedJournal {
                stream,
                from,
                max_bytes,
            } => {
                let sent = self.journal(stream, from, max_bytes).await;
                if let Err(e) = &sent {
                    tracing::warn!(error = %e, "The journal cannot be read.");
                }
                sent.is_err().then_some(lost)
            }
            Event::JournalAcked { stream, cursor, .. } => {
                // Not waited for: a trim that is lost is made good by the next.
                drop(self.uplink.store.submit(Tx::new().trim(stream, cursor)));
                None
            }
            Event::JournalAhead { stream, cursor } => {
                tracing::error!(%stream, cursor, "The hub has more of this journal than this store ever had; it is not sent.");
                None
            }
            Event::Rotated(Rotation::Issued(chain)) => match self.rotations.issued(&chain) {
                Ok(()) => Some(Ended::ChangeOver),
                Err(e) => {
                    tracing::error!(error = %e, "The new certificate cannot be used.");
                    None
                }
            },
            Event::Rotated(Rotation::Refused(reason)) => {
                tracing::warn!(%reason, "The hub gave no new certificate.");
                None
            }
            // How it ended stands in the driver's outcome.
            Event::PeerClosed { .. } => None,
            // Those are told to hubs.
            Event::Hello { .. }
            | Event::JournalAccepted { .. }
            | Event::Journal { .. }
            | Event::JournalDropped { .. }
            | Event::Rotate { .. } => None,
        }
    }

    /// Hands the session what may leave now.
    async fn flush(&mut self) -> Option<Ended> {
        let ready = self.pending.take(clock::since_start());
        if ready.is_empty() {
            return None;
        }
        self.uplink.metrics.observed_offered.add(ready.len() as u64);
        let entries: Vec<(Key, Option<Bytes>)> = ready
            .into_iter()
            .map(|(key, leaving)| (key, self.observed.body(leaving)))
            .collect();
        // What did not change the set is never acknowledged: it is settled already.
        let settled = self.session.ask(move |session, _| {
            let mut settled = Vec::new();
            for (key, body) in entries {
                match body {
                    Some(body) => session.source_put(Key::clone(&key), body),
                    None => session.source_remove(&key),
                }
                if !matches!(session.key_state(&key), KeyState::Waiting | KeyState::InFlight) {
                    settled.push(key);
                }
            }
            settled
        });
        match settled.await {
            Ok(keys) => {
                for key in keys {
                    self.pending.settled(&key);
                }
                None
            }
            Err(_) => Some(Ended::Lost { lasted: Duration::ZERO }),
        }
    }

    /// Answers the session's wish for journal records.
    async fn journal(&self, stream: Arc<str>, from: u64, max_bytes: usize) -> Result<(), String> {
        let (store, name) = (self.uplink.store.clone(), Arc::clone(&stream));
        let read = tokio::task::spawn_blocking(move || {
            let records = store.journal_read(&name, from, max_bytes)?;
            let bounds = store.journal_bounds(&name)?;
            Ok::<_, metastore::store::StoreError>((records, bounds.dropped))
        });
        let (records, dropped) = read.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let first = records.first().map_or(from, |(seq, _)| *seq);
        let bodies: Vec<Bytes> = records.into_iter().map(|(_, body)| body).collect();
        let told = self.session.call(move |session, _| {
            for range in dropped.iter().filter(|range| range.to >= from) {
                session.journal_dropped(&stream, range.from, range.to, reason(range.reason));
            }
            session.journal_read(&stream, first, bodies);
        });
        told.await.map_err(|e| e.to_string())
    }

    /// Waits for the driver and says what its end means.
    async fn finish(self, ended: Ended) -> Ended {
        // Nothing to a driver that has ended; any other closes in order. Tasks beside this one hold handles, so dropping ours would not.
        self.cancel.cancel();
        let Ok(driver::Outcome { end, .. }) = self.outcome.await else {
            return ended;
        };
        tracing::info!(%end, "The session with the hub ended.");
        if ended == Ended::ChangeOver {
            return ended;
        }
        match end {
            End::Peer {
                reason, retry_after, ..
            } => match reason {
                proto::CloseReason::Busy { retry_after } => Ended::Busy { retry_after },
                proto::CloseReason::Fenced => Ended::Fenced { retry_after },
                proto::CloseReason::Revoked | proto::CloseReason::UnknownNode => Ended::NotAllowed { retry_after },
                _ => ended,
            },
            _ => ended,
        }
    }
}

/// Applies the hub's batches one after the other and acknowledges each after its commit.
async fn apply(
    mirror: Mirror,
    mut batches: mpsc::Receiver<Batch>,
    session: SessionHandle,
    metrics: Arc<crate::metrics::Metrics>,
    drain: Drain,
) {
    loop {
        let batch = tokio::select! {
            biased;
            () = drain.stopping() => return,
            batch = batches.recv() => match batch {
                Some(batch) => batch,
                None => return,
            },
        };
        let Outcome { applied, again } = if batch.changes.is_empty() {
            Outcome::default()
        } else {
            // Abandoned only when the session is over: what was not acknowledged comes again.
            let applied = tokio::select! {
                biased;
                () = drain.stopping() => return,
                applied = mirror.apply(batch.changes, &metrics) => applied,
            };
            match applied {
                Ok(applied) => applied,
                Err(e) => {
                    tracing::error!(error = %e, "The hub's changes cannot be stored.");
                    return;
                }
            }
        };
        let number = batch.number;
        if session
            .call(move |session, _| {
                // Before the acknowledgement: its digest is what tells the hub.
                for key in again {
                    session.mirror_forget(key);
                }
                session.applied(number, applied);
            })
            .await
            .is_err()
        {
            return;
        }
    }
}

/// The audit journal of the local API, which may not be up yet.
enum Audit {
    Unknown(watch::Receiver<Option<ApiServer>>),
    Known(watch::Receiver<u64>),
}

impl Audit {
    /// The number of its newest record, when that is another than before. Safe to drop half-way.
    async fn grown(&mut self) -> u64 {
        loop {
            match self {
                Self::Unknown(api) => {
                    let known = api.wait_for(Option::is_some).await.ok();
                    match known.and_then(|server| server.as_ref().map(ApiServer::audited)) {
                        Some(mut audited) => {
                            // What came before the session is known to it, what came since is not.
                            audited.mark_changed();
                            *self = Self::Known(audited);
                        }
                        // There will be none.
                        None => std::future::pending().await,
                    }
                }
                Self::Known(audited) => {
                    if audited.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                    let newest = *audited.borrow_and_update();
                    if newest > 0 {
                        return newest;
                    }
                }
            }
        }
    }
}

/// Journals as the store has them.
fn journals(store: &Store) -> Result<Vec<JournalCursor>, metastore::store::StoreError> {
    let streams = store.journal_streams()?;
    streams
        .into_iter()
        .map(|stream| {
            let bounds = store.journal_bounds(&stream)?;
            let range = |dropped: &metastore::store::Dropped| DroppedRange {
                from: dropped.from,
                to: dropped.to,
                reason: reason(dropped.reason),
            };
            Ok(JournalCursor {
                priority: u8::from(&*stream == TELEMETRY),
                accepted_to: bounds.accepted,
                trimmed_to: bounds.trimmed,
                dropped: bounds.dropped.iter().map(range).collect(),
                stream,
            })
        })
        .collect()
}

const fn reason(forced: Forced) -> DropReason {
    match forced {
        Forced::Bytes => DropReason::Bytes,
        Forced::Age => DropReason::Age,
    }
}

/// Serves the streams that the hub opens.
async fn tunnels(connection: Connection, uplink: Uplink, drain: Drain) {
    loop {
        let stream = tokio::select! {
            biased;
            () = drain.stopping() => return,
            stream = connection.accept_bi() => match stream {
                Ok(stream) => stream,
                Err(_) => return,
            },
        };
        uplink.metrics.tunnel_streams.add(1);
        drop(drain.spawn(tunnelled(stream, uplink.api.clone(), drain.clone())));
    }
}

/// Answers the request on one stream by the local API.
async fn tunnelled(mut stream: Stream, mut api: watch::Receiver<Option<ApiServer>>, drain: Drain) {
    let served = async {
        if !matches!(stream.read_kind().await, Ok(StreamKind::Http)) {
            return;
        }
        let Ok(server) = api.wait_for(Option::is_some).await.map(|api| api.clone()) else {
            return;
        };
        let Some(server) = server else { return };
        let service = tower::service_fn(move |request| as_hub(server.clone(), request));
        if let Err(e) = tunnel::serve(stream, service, drain.token().clone()).await {
            tracing::debug!(error = %e, "A request through the tunnel ended.");
        }
    };
    tokio::select! {
        biased;
        () = drain.stopping() => {}
        () = served => {}
    }
}

/// The stream itself is the hub; whom it asks for stands in the impersonation headers.
async fn as_hub(
    server: ApiServer,
    mut request: Request<Incoming>,
) -> Result<Response<ApiBody>, std::convert::Infallible> {
    request.extensions_mut().insert(User::new(HUB_USER, [MASTERS]));
    Ok(server.handle(request).await)
}
