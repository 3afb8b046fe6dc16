//! One connected gateway, from its connection to its end: one task that drives the session and does what the session asks for.
//!
//! It serves the session from the index, hands what the gateway reports to the writer, journals to the sink, and acknowledges
//! each only when it is safe. Between those it waits and holds nothing but the two sets.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use link::driver::{self, Events, SessionEnded, SessionHandle};
use link::pki::NodeProfile;
use link::{CloseCode, Connection, Goodbye, Stream, StreamKind};
use metastore::store::{CommitError, Tx};
use proto::{Applied, Change, CloseReason, Event, Key, Rotation, Session};
use tokio::time::Sleep;

use super::Fleet;
use super::claims::{Verdict, Who};
use super::journal::Journals;
use super::outbox::Outbox;
use super::registry::{Facts, Live};
use super::sink::{Entry, Sink};
use crate::enroll::Certificate;
use crate::upstream::{Batch, Job, Observed, ObservedKey, Refusal, observed_key};

/// A gateway that waits for an acknowledgement longer than this hears that the hub is there: it would give up otherwise, and come back to
/// wait again.
const ALIVE: Duration = Duration::from_secs(proto::limits::ACK_DEADLINE.as_secs() / 3);
/// From the end of the handshake until the session's stream is there.
const STREAM_DEADLINE: Duration = Duration::from_secs(10);

/// Most that a gateway may say of a Work, in bytes: what a member of a site said is kept in memory.
const MAX_WORK_REPORT: usize = 256 * 1024;

/// How the desired keys of models begin, and the observed keys of values set at the gateway.
const MODELS: &str = "devices.kubeedge.io/devicemodels/";
const TWINS: &str = "devices.kubeedge.io/twins/";

/// Why the application's side of a session stops.
enum Stop {
    /// The session is over.
    Ended,
    /// The hub's own store does not take what must be safe.
    Store(CommitError),
}

impl From<SessionEnded> for Stop {
    fn from(_: SessionEnded) -> Self {
        Self::Ended
    }
}

/// Serves a connection whose peer was let in by the gate.
pub(crate) async fn serve(fleet: Arc<Fleet>, connection: Connection) {
    let Some((node, serial)) = connection
        .peer()
        .and_then(|peer| Some((Arc::<str>::from(peer.node()?), peer.serial.clone())))
    else {
        return;
    };
    let stream = tokio::select! {
        biased;
        () = fleet.drain.stopping() => None,
        stream = tokio::time::timeout(STREAM_DEADLINE, Box::pin(session_stream(&connection))) => stream.ok().flatten(),
    };
    let Some(stream) = stream else {
        connection.close(&Goodbye::new(CloseCode::Protocol, "no session was begun"));
        return;
    };
    let epoch = fleet.next_epoch();
    let (driving, working) = both_sides(&fleet, &connection, &node, serial, epoch, stream);
    let (end, live) = tokio::join!(driving, working);
    let code = match &end {
        driver::End::Session(_) => CloseCode::Protocol,
        driver::End::Closed if fleet.drain.is_stopping() => CloseCode::GoingAway,
        _ => CloseCode::Normal,
    };
    connection.close(&Goodbye::new(code, ""));
    tracing::debug!(%node, epoch, %end, "A session ended.");
    if let Some(live) = live {
        fleet.metrics.sessions_ended.add(1);
        live.outbox.end();
        fleet.index.unsubscribe(&node, epoch);
        if fleet.registry.leave(&live) && !fleet.drain.is_stopping() {
            fleet.writer.presence(&node);
        }
    }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The session's driver and its application, each in a box. Not an async function: what is only moved here would otherwise have its
/// place in the task of every gateway for as long as it is connected.
fn both_sides<'a>(
    fleet: &'a Arc<Fleet>,
    connection: &'a Connection,
    node: &Arc<str>,
    serial: String,
    epoch: u64,
    stream: Stream,
) -> (Boxed<'a, driver::End>, Boxed<'a, Option<Arc<Live>>>) {
    let session = Session::hub(fleet.session_config(epoch), node, daemon::clock::since_start());
    let (driver, handle, events) = driver::drive(session, stream);
    let run = Run {
        fleet,
        connection,
        node: Arc::clone(node),
        serial,
        epoch,
    };
    // Of the outcome only its end is wanted; the session would have its place in the task from the beginning.
    let driving = Box::pin(driver.run(fleet.drain.token().clone()).map(|outcome| outcome.end));
    let mut events = events;
    let working = async move { run.until_end(&handle, &mut events).await };
    (driving, Box::pin(working))
}

/// The stream that the session runs on: the first that says so.
async fn session_stream(connection: &Connection) -> Option<Stream> {
    loop {
        let mut stream = connection.accept_bi().await.ok()?;
        if stream.read_kind().await.ok()? == StreamKind::Session {
            return Some(stream);
        }
    }
}

struct Run<'a> {
    fleet: &'a Arc<Fleet>,
    connection: &'a Connection,
    node: Arc<str>,
    serial: String,
    epoch: u64,
}

impl Run<'_> {
    /// The application's side. Returns the session's entry when it was taken in.
    async fn until_end(&self, handle: &SessionHandle, events: &mut Events) -> Option<Arc<Live>> {
        // Once for each session; its future goes when it is done.
        let Ok(Some((live, journals))) = Box::pin(self.hello(handle, events)).await else {
            // Refused: the driver ends by itself when it has told the gateway.
            while events.next().await.is_some() {}
            return None;
        };
        let mut work = Work {
            run: self,
            live: &live,
            handle,
            journals,
            sink: Sink::new(self.fleet.store.clone()),
            batches: VecDeque::new(),
            written: BTreeMap::new(),
            lost: BTreeMap::new(),
        };
        if let Err(Stop::Store(e)) = work.until_end(events).await {
            match &e {
                CommitError::KvConflict { .. } => {
                    tracing::info!(node = %self.node, "Two sessions of a gateway wrote a journal; one of them is ended.");
                }
                _ => {
                    tracing::error!(node = %self.node, error = %e, "A journal could not be stored; its session is ended.");
                }
            }
            handle.call(|s, _| s.close(CloseReason::Internal)).await.ok();
            while events.next().await.is_some() {}
        }
        Some(live)
    }

    /// Waits for the gateway's Hello and answers it.
    async fn hello(
        &self,
        handle: &SessionHandle,
        events: &mut Events,
    ) -> Result<Option<(Arc<Live>, Journals)>, SessionEnded> {
        let fleet = self.fleet;
        let (agent_version, boot, instance, said) = loop {
            match events.next().await {
                None => return Ok(None),
                Some(Event::Hello {
                    agent_version,
                    boot_id,
                    instance,
                    journals,
                    ..
                }) => break (agent_version, boot_id, instance, journals),
                Some(_) => {}
            }
        };
        let now = daemon::clock::wall_ms();
        let live = Arc::new(Live {
            node: Arc::clone(&self.node),
            epoch: self.epoch,
            serial: self.serial.clone(),
            agent_version,
            since: now,
            connection: self.connection.clone(),
            handle: handle.clone(),
            outbox: Arc::new(Outbox::default()),
            facts: Mutex::new(Facts::default()),
            exchanged: fleet.registry.exchanged(&self.node),
            shown: AtomicU64::new(now),
        });
        let refuse = |reason: CloseReason| {
            fleet.metrics.sessions_refused.add(1);
            handle.call(move |s, _| s.refuse(reason))
        };
        match fleet.registry.enter(&live, Who { instance, boot }) {
            Verdict::Accept { fence: None } => {}
            Verdict::Accept { fence: Some(_) } => {
                fleet.metrics.sessions_fenced.add(1);
                // What the session before has on its way to the journals is there when this is; from now on it adds nothing.
                if let Err(e) = fleet.store.commit(Tx::new()).await {
                    tracing::warn!(node = %self.node, error = %e, "The end of the session before was not waited for.");
                }
            }
            Verdict::Duplicate { retry_after } => {
                tracing::warn!(node = %self.node, address = %self.connection.remote_addr(),
                    "A second gateway runs with this identity; it is turned away.");
                refuse(CloseReason::Busy { retry_after }).await?;
                return Ok(None);
            }
        }
        // Only now: a revocation from here on finds the session, an earlier one is found here.
        let refused = match fleet.directory.accepts(&self.node, &self.serial) {
            Ok(()) => None,
            Err(why) => Some(super::reason(why)),
        };
        let journals = match refused {
            Some(reason) => Err(reason),
            None => Journals::open(&fleet.store, Arc::clone(&self.node), instance).map_err(|e| {
                tracing::error!(node = %self.node, error = %e, "The journals' cursors cannot be read.");
                CloseReason::Internal
            }),
        };
        let mut journals = match journals {
            Ok(journals) => journals,
            Err(reason) => {
                fleet.registry.leave(&live);
                refuse(reason).await?;
                return Ok(None);
            }
        };
        // It is back: what it should hold is to be what it should hold now.
        fleet.writer.place(&self.node);
        let (source, inventory) = fleet.index.subscribe(&self.node, self.epoch, &live.outbox);
        let cursors = journals.cursors();
        for one in said {
            journals.accepted(&one.stream, one.accepted_to);
        }
        live.set_journals(journals.accounts());
        handle
            .call(move |s, now| s.accept(now, source, inventory, cursors))
            .await?;
        fleet.metrics.sessions_started.add(1);
        fleet.writer.node(&self.node);
        fleet.writer.cluster(&self.node);
        Ok(Some((live, journals)))
    }
}

/// A session that was taken in.
struct Work<'a> {
    run: &'a Run<'a>,
    live: &'a Arc<Live>,
    handle: &'a SessionHandle,
    journals: Journals,
    sink: Sink,
    /// Batches handed to the writer, in order.
    batches: VecDeque<u64>,
    /// Of those, the ones that are written but not the first.
    written: BTreeMap<u64, Vec<(Key, Refusal)>>,
    /// Keys that the API lost while batches were on their way, with the last of those: it may have been written before.
    lost: BTreeMap<Key, u64>,
}

impl Work<'_> {
    async fn until_end(&mut self, events: &mut Events) -> Result<(), Stop> {
        let mut connected = true;
        let mut alive: Option<Pin<Box<Sleep>>> = None;
        loop {
            if self.batches.is_empty() && self.sink.is_idle() {
                alive = None;
            } else if alive.is_none() {
                alive = Some(Box::pin(tokio::time::sleep(ALIVE)));
            }
            let due = async {
                match alive.as_mut() {
                    Some(at) => at.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.live.outbox.rung() => self.wanted().await?,
                stored = self.sink.stored(), if !self.sink.is_idle() => self.stored(stored).await?,
                () = due => {
                    alive = None;
                    self.handle.call(|s, now| s.nudge(now)).await?;
                }
                event = events.next() => match event {
                    None => return Ok(()),
                    // A newer session speaks for the node; it is asked for these again.
                    Some(Event::Journal { .. } | Event::JournalDropped { .. })
                        if !self.run.fleet.registry.is_current(self.live) => {}
                    Some(Event::JournalAccepted { stream, accepted_to }) => {
                        self.journals.accepted(&stream, accepted_to);
                        self.live.set_journals(self.journals.accounts());
                    }
                    Some(Event::Journal { stream, first_seq, records }) => {
                        let entry = self.journals.append(&stream, first_seq, records);
                        self.sink.push(entry).await;
                    }
                    Some(Event::JournalDropped { stream, from, to, reason }) => {
                        tracing::info!(node = %self.live.node, %stream, from, to, ?reason, "A gateway had to drop records.");
                        let entry = self.journals.dropped(&stream, from, to);
                        self.sink.push(entry).await;
                    }
                    // Rare, and large: in a box it has no place in the task while nothing happens.
                    Some(event) => Box::pin(self.event(event)).await?,
                },
                stream = self.run.connection.accept_bi(), if connected => match stream {
                    Ok(stream) => self.run.fleet.serve_stream(&self.live.node, stream),
                    // The session's own stream ends with the connection; its driver says so, and may need a while for that.
                    Err(_) => connected = false,
                },
            }
        }
    }

    /// What the rest of the hub wants.
    async fn wanted(&mut self) -> Result<(), Stop> {
        let wanted = self.live.outbox.take();
        if let Some(reason) = wanted.close {
            self.sink.abandon();
            self.handle.call(move |s, _| s.close(reason)).await?;
            return Ok(());
        }
        if !wanted.changes.is_empty() {
            self.run.fleet.metrics.desired_changes.add(wanted.changes.len() as u64);
            let changes = wanted.changes;
            // What was set at the gateway and refused by the rules of a model may pass those of another.
            let rules_changed = changes
                .iter()
                .any(|(key, body)| body.is_some() && key.starts_with(MODELS));
            self.handle
                .call(move |s, _| {
                    let twins = s.inventory().refused().map(|(key, _)| key);
                    let twins = twins.filter(|key| rules_changed && key.starts_with(TWINS));
                    for key in twins.cloned().collect::<Vec<_>>() {
                        s.mirror_reconsider(key);
                    }
                    for (key, body) in changes {
                        match body {
                            Some(body) => s.source_put_hashed(key, body.hash, body.bytes),
                            None => s.source_remove(&key),
                        }
                    }
                })
                .await?;
        }
        self.written.extend(wanted.written);
        let (mut acknowledge, mut lost, mut again) = (Vec::new(), wanted.lost, wanted.reconsider);
        while let Some(number) = self.batches.front() {
            let Some(refused) = self.written.remove(number) else {
                break;
            };
            // The device may have become the gateway's since it was looked at.
            let now_owned = refused.iter().filter(|(key, why)| why.not_owned && self.owned(key));
            again.extend(now_owned.map(|(key, _)| Key::clone(key)));
            let refused = refused.into_iter().map(|(key, why)| (key, why.reason)).collect();
            acknowledge.push((*number, Applied { refused }));
            self.batches.pop_front();
        }
        // What was lost may have been written before that, in a batch that is not done yet: it is lost then too.
        if let Some(last) = self.batches.back() {
            self.lost.extend(lost.iter().map(|key| (Key::clone(key), *last)));
        }
        if let Some((done, _)) = acknowledge.last() {
            let over = self.lost.iter().filter(|(_, last)| *last <= done);
            lost.extend(over.map(|(key, _)| Key::clone(key)));
            self.lost.retain(|_, last| *last > *done);
        }
        if self.batches.is_empty() && self.written.is_empty() && self.lost.is_empty() {
            // Emptied, they would keep their room for as long as the gateway is at rest.
            (self.batches, self.written, self.lost) = (VecDeque::new(), BTreeMap::new(), BTreeMap::new());
        }
        if !acknowledge.is_empty() || !lost.is_empty() || !again.is_empty() {
            self.handle
                .call(move |s, _| {
                    acknowledge
                        .into_iter()
                        .for_each(|(number, applied)| s.applied(number, applied));
                    again.iter().for_each(|key| s.mirror_reconsider(key));
                    lost.iter().for_each(|key| s.mirror_forget(key));
                })
                .await?;
        }
        Ok(())
    }

    /// Whether what is reported under this key is of a device or a Work of this gateway.
    fn owned(&self, key: &Key) -> bool {
        if let Some(ObservedKey::Work { namespace, name }) = observed_key(key) {
            let index = &self.run.fleet.index;
            return index.work_facts(namespace, name).is_some() && index.is_for(namespace, &self.live.node);
        }
        let (Some(ObservedKey::Status { namespace, name }) | Some(ObservedKey::Twins { namespace, name })) =
            observed_key(key)
        else {
            return false;
        };
        let owner = self.run.fleet.index.device_node(namespace, name).flatten();
        owner.is_some_and(|owner| owner == self.live.node)
    }

    async fn stored(&mut self, stored: Result<Entry, CommitError>) -> Result<(), Stop> {
        let Entry {
            stream,
            cursor,
            records,
            dropped,
            ..
        } = stored.map_err(Stop::Store)?;
        let metrics = &self.run.fleet.metrics;
        metrics.journal_records.add(records);
        metrics.journal_dropped.add(dropped);
        self.journals.stored(&stream, cursor, dropped);
        self.live.set_journals(self.journals.accounts());
        if dropped > 0 {
            self.run.fleet.registry.stale(&self.live.node);
        }
        self.handle.call(move |s, _| s.journal_stored(&stream, cursor)).await?;
        Ok(())
    }

    async fn event(&mut self, event: Event) -> Result<(), Stop> {
        match event {
            Event::Apply { batch, changes } => {
                self.live.exchanged.received.add(changes.len() as u64);
                self.apply(batch, changes);
            }
            Event::Acked { keys } => self.live.exchanged.sent.add(keys.len() as u64),
            Event::InSync { set } => {
                tracing::trace!(node = %self.live.node, ?set, "in sync");
                self.facts().await?;
            }
            Event::Refused { key, reason } => {
                tracing::warn!(node = %self.live.node, %key, %reason, "A gateway refuses an object.");
                self.facts().await?;
            }
            Event::Rotate { csr } => {
                let answer = self.rotate(&csr).await;
                self.handle.call(move |s, _| s.rotated(answer)).await?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn facts(&self) -> Result<(), Stop> {
        self.live.set_facts(self.handle.ask(|s, _| Facts::of(s)).await?);
        self.run.fleet.registry.stale(&self.live.node);
        Ok(())
    }

    /// Hands an observed batch to the writer, except what this gateway may not say.
    fn apply(&mut self, number: u64, changes: Vec<Change>) {
        let fleet = self.run.fleet;
        self.batches.push_back(number);
        if !fleet.registry.is_current(self.live) {
            // A newer session speaks for the node; this one is being ended and acknowledges nothing more.
            return;
        }
        fleet.metrics.observed_changes.add(changes.len() as u64);
        let batch = Batch::new(number, changes.len(), Arc::clone(&self.live.outbox));
        for Change { key, body, hash } in changes {
            match self.job(&key, body, hash) {
                Ok(job) => {
                    let session = (&*self.live.node, self.live.epoch);
                    if !fleet.writer.report(session, &key, job, Arc::clone(&batch)) {
                        // Of what is left nobody waits for an answer either.
                        return;
                    }
                }
                Err(refusal) => {
                    fleet.metrics.observed_refused.add(1);
                    batch.done(&key, Some(refusal));
                }
            }
        }
    }

    fn job(&self, key: &str, body: Option<bytes::Bytes>, hash: proto::Hash) -> Result<Job, Refusal> {
        let node = Arc::clone(&self.live.node);
        let no = |reason: &str, not_owned| Refusal {
            reason: reason.to_owned(),
            not_owned,
        };
        let owned = |namespace: &str, name: &str| match self.run.fleet.index.device_node(namespace, name) {
            None => Err(no("there is no such device", true)),
            Some(Some(owner)) if owner == node => Ok(()),
            Some(_) => Err(no("the device is not this gateway's", true)),
        };
        match observed_key(key).ok_or_else(|| no("the hub does not take such an entry", false))? {
            ObservedKey::Status { namespace, name } => match body {
                // A removal is looked at by the writer: the device may be gone with it.
                None => Ok(Job::StatusGone { node }),
                Some(body) => owned(namespace, name).map(|()| Job::Status {
                    node: Arc::clone(&node),
                    body,
                    hash,
                    anew: false,
                }),
            },
            ObservedKey::Twins { namespace, name } => match body {
                None => Ok(Job::TwinsGone { node }),
                Some(body) => owned(namespace, name).map(|()| Job::Twins {
                    node: Arc::clone(&node),
                    body,
                    hash,
                }),
            },
            ObservedKey::Node { name } if name == &*node => Ok(Job::Node {
                observed: body.map_or(Observed::Gone, |body| Observed::Reported { body, hash }),
            }),
            ObservedKey::Node { .. } => Err(no("that is another gateway's Node", false)),
            ObservedKey::Cluster { node: of } if of == &*node => Ok(Job::Cluster {
                observed: body.map_or(Observed::Gone, |body| Observed::Reported { body, hash }),
            }),
            ObservedKey::Cluster { .. } => Err(no("that is another gateway's Cluster", false)),
            ObservedKey::Work { namespace, .. } => match body {
                None => Ok(Job::WorkGone { node }),
                Some(body) if body.len() > MAX_WORK_REPORT => {
                    Err(no("more is said of the Work than is kept of one", false))
                }
                Some(body) if self.run.fleet.index.is_for(namespace, &node) => Ok(Job::Work { node, body, hash }),
                Some(_) => Err(no("the Work is not this gateway's", true)),
            },
        }
    }

    async fn rotate(&self, csr: &[u8]) -> Rotation {
        let fleet = self.run.fleet;
        let now = daemon::clock::wall_ms();
        let profile = NodeProfile {
            node: &self.live.node,
            trust_domain: &fleet.config.trust_domain,
            valid: fleet.config.certificate_lifetime.0,
        };
        let issued = match fleet.ca.issue_node(csr, &profile, now) {
            Ok(issued) => issued,
            Err(e) => return Rotation::Refused(e.to_string()),
        };
        let info = &issued.info;
        let certificate = Certificate {
            serial: info.serial.clone(),
            not_after: info.not_after_ms,
            issued: now,
        };
        match fleet
            .directory
            .rotate(&self.live.node, &self.live.serial, certificate)
            .await
        {
            Ok(true) => {
                tracing::info!(node = %self.live.node, "A gateway's certificate was renewed.");
                Rotation::Issued(issued.chain.iter().map(|c| bytes::Bytes::copy_from_slice(c)).collect())
            }
            Ok(false) => Rotation::Refused("this certificate is not accepted any more".to_owned()),
            Err(e) => {
                tracing::error!(node = %self.live.node, error = %e, "A renewal could not be recorded.");
                Rotation::Refused("the hub could not record the renewal".to_owned())
            }
        }
    }
}
