//! The task: picks what happens next, applies it to the twins, keeps transactions on their way to the store.
//!
//! Up to [`UNDER_WAY`] transactions are on their way at a time: one that the disk syncs, one that waits for its turn. Requests that
//! arrive meanwhile gather and go together, so the busier it is the larger the batches are, and an idle gateway waits for nothing.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use daemon::backoff::FullJitter;
use daemon::clock::{since_start, wall_ms};
use daemon::drain::Drain;
use device_models::payload;
use device_models::topic::{self, Answer, DeviceAddress, Form};
use futures_util::stream::{FuturesOrdered, StreamExt as _};
use metastore::store::{
    CommitError, Committed, Event, EventKind, Expect, ObjectKey, Op, Store, StoreError, Tx, Watch, WatchError,
};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::batch::Batch;
use super::reread::Unread;
use super::table::{self, Id, Loaded, Table};
use super::taken::Taken;
use super::{Command, Outlet, Request};
use crate::conflicts::Conflicts;
use crate::metrics::Metrics;
use crate::objects::{self, DEVICES, MODELS};
use crate::stamps::Stamps;

/// Transactions on their way at a time.
const UNDER_WAY: usize = 2;
/// Requests in one transaction.
const BATCH: usize = 4096;
/// Commands taken from the inbox at a time.
const TAKE: usize = 512;
/// Attempts of a desired write when the hub or the local API changes the same Device meanwhile.
pub(super) const RACES: usize = 16;
/// Waits before what no request asked for is tried again.
const LATER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The namespace that old topics mean.
const DEFAULT: &str = "default";

/// What the task is made of.
pub(super) struct Parts {
    pub(super) store: Store,
    pub(super) stamps: Stamps,
    pub(super) node: String,
    pub(super) metrics: Arc<Metrics>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) waiting_bytes: Arc<AtomicUsize>,
    pub(super) outlet: Arc<OnceLock<Box<dyn Outlet>>>,
    pub(super) telemetry: watch::Sender<u64>,
    pub(super) conflicts: Conflicts,
}

pub(super) type Landed = (Result<Option<Committed>, CommitError>, Box<Batch>);
pub(super) type Flight = Pin<Box<dyn Future<Output = Landed> + Send>>;

pub(super) struct Task {
    pub(super) parts: Parts,
    pub(super) table: Table,
    pub(super) devices: Watch,
    pub(super) models: Watch,
    /// What was taken from whom.
    pub(super) taken: Taken,
    /// Transactions that failed so far.
    pub(super) failures: u64,
    /// Requests taken from the inbox and not yet applied.
    pub(super) waiting: VecDeque<Request>,
    pub(super) flights: FuturesOrdered<Flight>,
    /// Devices to be read again once nothing is under way; while there are any, nothing new is begun.
    pub(super) doubtful: BTreeSet<Id>,
    /// Devices that could not be read again: what they ask is refused until they can.
    pub(super) unread: Unread,
    /// DeviceStatuses that changed for another reason than a request.
    pub(super) stale: BTreeSet<Id>,
    /// Operations for the next transaction.
    pub(super) chores: Vec<Op>,
    later: Later,
}

/// What no request asked for and could not be stored: tried again after a pause, for nobody else will.
struct Later {
    stale: BTreeSet<Id>,
    chores: Vec<Op>,
    /// When, since the start of the process; `None` when there is nothing.
    due: Option<Duration>,
    backoff: FullJitter,
}

/// What happened.
enum Action {
    Stop,
    Later,
    /// Devices that could not be read are to be tried again.
    Reread,
    Landed(Landed),
    Changed(Result<Arc<Event>, WatchError>),
    Commands(Vec<Command>),
}

impl Task {
    /// Reads everything. Blocks.
    pub(super) fn load(parts: Parts) -> Result<Self, StoreError> {
        let now = wall_ms();
        let (table, loaded) = Table::load(&parts.store, |device| parts.stamps.observe(device, now))?;
        let Loaded {
            devices_at,
            models_at,
            stale,
            orphans,
        } = loaded;
        let devices = parts.store.watch(objects::device_scope(DEVICES), devices_at)?;
        let models = parts.store.watch(objects::device_scope(MODELS), models_at)?;
        let taken = Taken::load(&parts.store)?;
        parts.metrics.devices.set(table.devices.len() as u64);
        Ok(Self {
            parts,
            table,
            devices,
            models,
            taken,
            failures: 0,
            unread: Unread::default(),
            waiting: VecDeque::new(),
            flights: FuturesOrdered::new(),
            doubtful: BTreeSet::new(),
            stale,
            chores: orphans.into_iter().map(delete).collect(),
            later: Later {
                stale: BTreeSet::new(),
                chores: Vec::new(),
                due: None,
                backoff: FullJitter::new(LATER.0, LATER.1),
            },
        })
    }

    /// False as long as no client has a packet id to release.
    pub(super) fn releasable(&self) -> Arc<AtomicBool> {
        self.taken.releasable()
    }

    /// Runs until the drain begins and what is under way has landed; or until the store ends.
    pub(super) async fn run(mut self, drain: Drain) {
        loop {
            self.proceed().await;
            match self.select(&drain).await {
                Action::Stop => break,
                Action::Landed(landed) => self.landed(landed),
                Action::Changed(Ok(event)) => self.changed(&event),
                Action::Changed(Err(e)) => {
                    if !self.restart_watches(&e, &drain).await {
                        break;
                    }
                }
                Action::Commands(commands) => self.take(commands),
                Action::Later => self.try_again(),
                Action::Reread => self.doubtful.extend(self.unread.take()),
            }
        }
        while let Some(landed) = self.flights.next().await {
            self.landed(landed);
        }
    }

    async fn select(&mut self, drain: &Drain) -> Action {
        let room = self.flights.len() < UNDER_WAY && self.doubtful.is_empty() && self.waiting.is_empty();
        let mut commands = Vec::new();
        let due = self.later.due;
        let pause = due.unwrap_or_default().saturating_sub(since_start());
        let unread = self.unread.due();
        let reread = unread.unwrap_or_default().saturating_sub(since_start());
        tokio::select! {
            biased;
            () = drain.stopping() => Action::Stop,
            Some(landed) = self.flights.next() => Action::Landed(landed),
            event = self.models.next() => Action::Changed(event),
            event = self.devices.next() => Action::Changed(event),
            () = tokio::time::sleep(pause), if due.is_some() => Action::Later,
            () = tokio::time::sleep(reread), if unread.is_some() => Action::Reread,
            taken = self.parts.commands.recv_many(&mut commands, TAKE), if room => {
                if taken == 0 { Action::Stop } else { Action::Commands(commands) }
            }
        }
    }

    fn take(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Ask(requests) => {
                    let bytes = requests.iter().map(Request::bytes).sum();
                    self.parts.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
                    self.waiting.extend(requests);
                }
                Command::Subscribed(filters) => self.subscribed(&filters),
            }
        }
    }

    /// Begins as much as may begin now.
    async fn proceed(&mut self) {
        if !self.doubtful.is_empty() {
            if !self.flights.is_empty() {
                return;
            }
            self.reload();
        }
        while self.flights.len() < UNDER_WAY {
            // Of what could not be read nothing is known that could be written.
            let (stale, held) = std::mem::take(&mut self.stale)
                .into_iter()
                .partition(|id| !self.unread.holds(id));
            self.stale = held;
            let mut batch = Batch::with(stale, std::mem::take(&mut self.chores), self.failures);
            let alone = self.fill(&mut batch);
            if !batch.is_empty() {
                self.begin(Box::new(batch));
                continue;
            }
            match alone {
                // It waits until everything before it is in.
                Some(request) if self.flights.is_empty() => self.desire(request).await,
                Some(request) => {
                    self.waiting.push_front(request);
                    return;
                }
                None => return,
            }
        }
    }

    /// Applies waiting requests to the twins, up to the first that must be alone.
    fn fill(&mut self, batch: &mut Batch) -> Option<Request> {
        let now = wall_ms();
        while batch.len() < BATCH {
            let request = self.waiting.pop_front()?;
            if !self.apply(batch, request, now) {
                // Given back by `apply` at the front of the queue.
                return if batch.is_empty() {
                    self.waiting.pop_front()
                } else {
                    None
                };
            }
        }
        None
    }

    fn begin(&mut self, mut batch: Box<Batch>) {
        if batch.writes_nothing() && !self.taken.has_open() {
            let flight: Flight = Box::pin(std::future::ready((Ok(None), batch)));
            self.flights.push_back(flight);
            return;
        }
        let tx = self.transaction(&mut batch);
        // Submitted now: the order of these calls is the order of the commits.
        let commit = self.parts.store.submit(tx);
        self.flights
            .push_back(Box::pin(async move { (commit.await.map(Some), batch) }));
    }

    /// What a batch writes, and what is to be remembered of it.
    pub(super) fn transaction(&mut self, batch: &mut Batch) -> Tx {
        let mut ops = batch.take_ops(&self.table);
        batch.sealed = self.taken.seal(&mut ops);
        Tx(ops)
    }

    pub(super) fn outlet(&self) -> Option<&dyn Outlet> {
        self.parts.outlet.get().map(|outlet| &**outlet)
    }

    pub(super) fn landed(&mut self, (result, batch): Landed) {
        match result {
            Ok(committed) => self.succeeded(committed.as_ref(), *batch),
            Err(e) => self.failed(&e, *batch),
        }
    }

    pub(super) fn succeeded(&mut self, committed: Option<&Committed>, mut batch: Batch) {
        self.taken.landed(std::mem::take(&mut batch.sealed), true);
        if !(batch.unasked.0.is_empty() && batch.unasked.1.is_empty()) {
            self.later.backoff.reset();
        }
        let metrics = &self.parts.metrics;
        metrics.reports_accepted.add(batch.accepted);
        metrics.requests_rejected.add(batch.rejected);
        metrics.deltas.add(batch.deltas);
        metrics.requests_repeated.add(batch.repeated);
        if let Some(committed) = committed {
            metrics.twin_commits.add(1);
            let seqs = &committed.journal_seqs;
            let (conflicts, telemetry) = seqs.split_at(batch.conflicts.min(seqs.len()));
            if let Some(newest) = conflicts.last() {
                self.parts.conflicts.grew(*newest);
            }
            if let Some(newest) = telemetry.last() {
                self.parts.telemetry.send_replace(*newest);
            }
        }
        let sound = batch.failures == self.failures;
        batch.done(self.outlet(), sound);
    }

    pub(super) fn failed(&mut self, error: &CommitError, mut batch: Batch) {
        let (code, reason) = match error {
            CommitError::Full => (507, "the gateway's disk is full; the report was not stored".to_owned()),
            other => (500, format!("the report was not stored: {other}")),
        };
        self.failures += 1;
        self.taken.landed(std::mem::take(&mut batch.sealed), false);
        tracing::warn!(%error, requests = batch.len(), "Requests of devices were not stored.");
        self.doubtful.extend(batch.touched.iter().cloned());
        let (stale, chores) = std::mem::take(&mut batch.unasked);
        if !(stale.is_empty() && chores.is_empty()) {
            self.later.stale.extend(stale);
            self.later.chores.extend(chores);
            self.later.due = Some(since_start() + self.later.backoff.next_wait());
        }
        let refused = batch.failed(self.outlet(), wall_ms(), code, &reason);
        self.parts.metrics.requests_failed.add(refused);
    }

    /// Takes up what could not be stored before. A device that came again meanwhile keeps its DeviceStatus.
    fn try_again(&mut self) {
        self.later.due = None;
        let devices = &self.table.devices;
        let known = |id: &Id| devices.contains_key(id);
        let stale = std::mem::take(&mut self.later.stale);
        self.stale.extend(stale.into_iter().filter(known));
        let chores = std::mem::take(&mut self.later.chores);
        self.chores.extend(
            chores
                .into_iter()
                .filter(|op| !matches!(op, Op::Delete { key, .. } if known(&table::id_of(key)))),
        );
    }

    /// A Device or DeviceModel changed in the store.
    pub(super) fn changed(&mut self, event: &Event) {
        let key = &event.object.key;
        let there = match event.kind {
            EventKind::Deleted => None,
            EventKind::Added | EventKind::Modified => event.object.value().ok(),
        };
        if &*key.resource == MODELS {
            for id in self.table.set_model(key, there.as_ref()) {
                let Some((namespace, name)) = id.split_once('/') else {
                    continue;
                };
                let key = objects::device_key(DEVICES, namespace, name);
                match self
                    .parts
                    .store
                    .get(&key)
                    .map(|read| read.map(|d| (d.revision, d.value())))
                {
                    Ok(Some((revision, Ok(device)))) => self.device(&key, revision, &device),
                    Ok(None) => {}
                    // Read again, with what else is not certain.
                    Ok(Some((_, Err(_)))) | Err(_) => drop(self.doubtful.insert(id)),
                }
            }
            return;
        }
        match there {
            Some(device) => {
                let id = table::id_of(key);
                let revision = event.object.revision;
                // What was read or written since tells it newer.
                let known = self
                    .table
                    .devices
                    .get(&id)
                    .is_some_and(|entry| revision <= entry.revision);
                if self.unread.holds(&id) {
                    self.doubtful.insert(id);
                } else if !known {
                    self.device(key, revision, &device);
                }
            }
            // Also one that is older than what was read since: that was another device of the name, of which the watch tells next.
            None => {
                let id = table::id_of(key);
                self.unread.forget(&id);
                self.doubtful.remove(&id);
                if let Some(status) = self.table.remove(&id) {
                    self.stale.remove(&id);
                    self.chores.push(delete(status));
                    self.membership_changed(&id, false);
                }
            }
        }
    }

    /// A Device as it is now.
    pub(super) fn device(&mut self, key: &ObjectKey, revision: u64, device: &Value) {
        let id = table::id_of(key);
        let delta = match self.table.update(key, revision, device) {
            Some(change) => {
                if change.status {
                    self.stale.insert(Arc::clone(&id));
                }
                change.delta
            }
            None => {
                // A status of an earlier device of that name was deleted with it.
                self.table.insert(key, revision, device, None);
                self.stale.insert(Arc::clone(&id));
                self.membership_changed(&id, true);
                self.table.devices.get(&id).is_some_and(|entry| entry.twin.differs())
            }
        };
        if delta {
            self.publish_deltas(std::iter::once(id).collect());
        }
    }

    pub(super) fn membership_changed(&self, id: &Id, added: bool) {
        self.parts.metrics.devices.set(self.table.devices.len() as u64);
        let Some(outlet) = self.outlet() else { return };
        let topic = topic::membership_updated(&self.parts.node);
        if !outlet.wanted(&topic) {
            return;
        }
        let member = payload::MemberDevice {
            id,
            name: id.split_once('/').map_or("", |(_, name)| name),
            ..payload::MemberDevice::default()
        };
        let (come, gone) = if added {
            ([member].to_vec(), vec![])
        } else {
            (vec![], [member].to_vec())
        };
        let message = payload::membership_updated(&event_id(), wall_ms(), &come, &gone);
        outlet.publish(vec![(topic, message)]);
    }

    /// Tells a new listener what its devices have yet to do.
    fn subscribed(&mut self, filters: &[Arc<str>]) {
        let mut heard = BTreeSet::new();
        for (id, entry) in &mut self.table.devices {
            let (full, plain) = (delta_topic(entry, Form::Namespaced), delta_topic(entry, Form::Plain));
            let in_default = entry.twin.namespace() == DEFAULT;
            // Only a filter that names the old topic itself asks for it; wildcards meet both.
            entry.plain |= in_default && filters.iter().any(|filter| unshared(filter) == plain);
            let meets = |topic: &str| filters.iter().any(|filter| mqtt::matches(unshared(filter), topic));
            if entry.twin.differs() && !self.unread.holds(id) && (meets(&full) || (entry.plain && meets(&plain))) {
                heard.insert(Arc::clone(id));
            }
        }
        self.publish_deltas(heard);
    }

    /// Publishes what differs in these devices.
    pub(super) fn publish_deltas(&self, ids: BTreeSet<Id>) {
        let Some(outlet) = self.outlet() else { return };
        let now = wall_ms();
        let mut messages = Vec::new();
        for entry in ids.iter().filter_map(|id| self.table.devices.get(id)) {
            push_delta(&mut messages, outlet, entry, now);
        }
        if !messages.is_empty() {
            self.parts.metrics.deltas.add(messages.len() as u64);
            outlet.publish(messages);
        }
    }
}

pub(super) fn delete(key: ObjectKey) -> Op {
    Op::Delete {
        key,
        expect: Expect::Any,
        uid: None,
    }
}

pub(super) fn push_delta(
    messages: &mut Vec<(String, Vec<u8>)>,
    outlet: &dyn Outlet,
    entry: &table::Entry,
    now: u64,
) -> u64 {
    let mut pushed = 0;
    let forms: &[Form] = if entry.plain {
        &[Form::Namespaced, Form::Plain]
    } else {
        &[Form::Namespaced]
    };
    for form in forms {
        let topic = delta_topic(entry, *form);
        if outlet.wanted(&topic)
            && let Some(delta) = entry.twin.delta(now, &event_id())
        {
            messages.push((topic, delta));
            pushed += 1;
        }
    }
    pushed
}

/// Where a device's deltas go.
fn delta_topic(entry: &table::Entry, form: Form) -> String {
    let (namespace, name) = (entry.twin.namespace(), entry.twin.name());
    DeviceAddress { namespace, name, form }.topic(Answer::Delta)
}

/// The filter behind `$share/<group>/`.
fn unshared(filter: &str) -> &str {
    filter
        .strip_prefix("$share/")
        .and_then(|rest| rest.split_once('/'))
        .map_or(filter, |(_, filter)| filter)
}

fn event_id() -> String {
    uuid::Uuid::new_v4().to_string()
}
