//! The task: picks what happens next, applies it to the twins, keeps transactions on their way to the store.
//!
//! Up to [`UNDER_WAY`] transactions are on their way at a time: one that the disk syncs, one that waits for its turn. Requests that
//! arrive meanwhile gather and go together, so the busier it is the larger the batches are, and an idle gateway waits for nothing.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use daemon::backoff::FullJitter;
use daemon::clock::{since_start, wall_ms};
use daemon::drain::Drain;
use device_models::payload;
use device_models::topic::{self, Answer, DeviceAddress, Form};
use futures_util::stream::{FuturesOrdered, StreamExt as _};
use metastore::store::{
    CommitError, Committed, Event, EventKind, Expect, ObjectKey, Op, Store, StoreError, Watch, WatchError,
};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::batch::Batch;
use super::table::{self, Id, Loaded, Table};
use super::{Command, Outlet, Request};
use crate::metrics::Metrics;
use crate::objects::{self, DEVICES, MODELS, STATUSES};
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
}

type Landed = (Result<Option<Committed>, CommitError>, Box<Batch>);
type Flight = Pin<Box<dyn Future<Output = Landed> + Send>>;

pub(super) struct Task {
    pub(super) parts: Parts,
    pub(super) table: Table,
    devices: Watch,
    models: Watch,
    /// Requests taken from the inbox and not yet applied.
    pub(super) waiting: VecDeque<Request>,
    flights: FuturesOrdered<Flight>,
    /// Devices to be read again once nothing is under way; while there are any, nothing new is begun.
    pub(super) doubtful: BTreeSet<Id>,
    /// DeviceStatuses that changed for another reason than a request.
    stale: BTreeSet<Id>,
    /// Operations for the next transaction.
    chores: Vec<Op>,
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
        parts.metrics.devices.set(table.devices.len() as u64);
        Ok(Self {
            parts,
            table,
            devices,
            models,
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

    /// Runs until the drain begins and what is under way has landed.
    pub(super) async fn run(mut self, drain: Drain) {
        loop {
            self.proceed().await;
            match self.select(&drain).await {
                Action::Stop => break,
                Action::Landed(landed) => self.landed(landed),
                Action::Changed(Ok(event)) => self.changed(&event),
                Action::Changed(Err(e)) => {
                    if !self.restart_watches(&e).await {
                        break;
                    }
                }
                Action::Commands(commands) => self.take(commands),
                Action::Later => self.try_again(),
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
        tokio::select! {
            biased;
            () = drain.stopping() => Action::Stop,
            Some(landed) = self.flights.next() => Action::Landed(landed),
            event = self.models.next() => Action::Changed(event),
            event = self.devices.next() => Action::Changed(event),
            () = tokio::time::sleep(pause), if due.is_some() => Action::Later,
            taken = self.parts.commands.recv_many(&mut commands, TAKE), if room => {
                if taken == 0 { Action::Stop } else { Action::Commands(commands) }
            }
        }
    }

    fn take(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Ask(requests) => {
                    let bytes = requests.iter().map(|request| request.asked.payload.len()).sum();
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
            let mut batch = Batch::with(std::mem::take(&mut self.stale), std::mem::take(&mut self.chores));
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
        if batch.writes_nothing() {
            let flight: Flight = Box::pin(std::future::ready((Ok(None), batch)));
            self.flights.push_back(flight);
            return;
        }
        let tx = batch.take_tx(&self.table);
        // Submitted now: the order of these calls is the order of the commits.
        let commit = self.parts.store.submit(tx);
        self.flights
            .push_back(Box::pin(async move { (commit.await.map(Some), batch) }));
    }

    pub(super) fn outlet(&self) -> Option<&dyn Outlet> {
        self.parts.outlet.get().map(|outlet| &**outlet)
    }

    fn landed(&mut self, (result, batch): Landed) {
        match result {
            Ok(committed) => self.succeeded(committed.as_ref(), *batch),
            Err(e) => self.failed(&e, *batch),
        }
    }

    pub(super) fn succeeded(&mut self, committed: Option<&Committed>, batch: Batch) {
        if !(batch.unasked.0.is_empty() && batch.unasked.1.is_empty()) {
            self.later.backoff.reset();
        }
        let metrics = &self.parts.metrics;
        metrics.reports_accepted.add(batch.accepted);
        metrics.requests_rejected.add(batch.rejected);
        metrics.deltas.add(batch.deltas);
        if let Some(committed) = committed {
            metrics.twin_commits.add(1);
            if let Some(newest) = committed.journal_seqs.last() {
                self.parts.telemetry.send_replace(*newest);
            }
        }
        batch.done(self.outlet());
    }

    pub(super) fn failed(&mut self, error: &CommitError, mut batch: Batch) {
        let (code, reason) = match error {
            CommitError::Full => (507, "the gateway's disk is full; the report was not stored".to_owned()),
            other => (500, format!("the report was not stored: {other}")),
        };
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

    /// Reads the twins anew whose last change did not reach the store.
    pub(super) fn reload(&mut self) {
        for id in std::mem::take(&mut self.doubtful) {
            let Some((namespace, name)) = id.split_once('/') else {
                continue;
            };
            let store = &self.parts.store;
            let key = objects::device_key(DEVICES, namespace, name);
            let read = store
                .get(&key)
                .and_then(|device| Ok((device, store.get(&objects::device_key(STATUSES, namespace, name))?)));
            match read {
                Ok((Some(device), status)) => {
                    let Ok(device) = device.value() else { continue };
                    self.table
                        .insert(&key, &device, status.and_then(|s| s.value().ok()).as_ref());
                }
                // Its deletion comes by the watch.
                Ok((None, _)) => {}
                Err(e) => tracing::error!(device = %id, error = %e, "A twin cannot be read again."),
            }
        }
    }

    /// A Device or DeviceModel changed in the store.
    fn changed(&mut self, event: &Event) {
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
                    .map(|device| device.and_then(|d| d.value().ok()))
                {
                    Ok(Some(device)) => self.device(&key, &device),
                    Ok(None) => {}
                    Err(e) => tracing::error!(device = %id, error = %e, "A Device cannot be read."),
                }
            }
            return;
        }
        match there {
            Some(device) => self.device(key, &device),
            None => {
                let id = table::id_of(key);
                if let Some(status) = self.table.remove(&id) {
                    self.stale.remove(&id);
                    self.chores.push(delete(status));
                    self.membership_changed(&id, false);
                }
            }
        }
    }

    /// A Device as it is now.
    fn device(&mut self, key: &ObjectKey, device: &Value) {
        let id = table::id_of(key);
        let delta = match self.table.update(key, device) {
            Some(change) => {
                if change.status {
                    self.stale.insert(Arc::clone(&id));
                }
                change.delta
            }
            None => {
                // A status of an earlier device of that name was deleted with it.
                self.table.insert(key, device, None);
                self.stale.insert(Arc::clone(&id));
                self.membership_changed(&id, true);
                self.table.devices.get(&id).is_some_and(|entry| entry.twin.differs())
            }
        };
        if delta {
            self.publish_deltas(std::iter::once(id).collect());
        }
    }

    fn membership_changed(&self, id: &Id, added: bool) {
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
            if entry.twin.differs() && (meets(&full) || (entry.plain && meets(&plain))) {
                heard.insert(Arc::clone(id));
            }
        }
        self.publish_deltas(heard);
    }

    /// Publishes what differs in these devices.
    fn publish_deltas(&self, ids: BTreeSet<Id>) {
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

    /// Everything was read anew: tells devices what the watches did not bring. Which desired values are new is not known, so all that
    /// differ are told.
    fn read_again(&mut self, before: &Table) {
        for (id, entry) in &mut self.table.devices {
            entry.plain = before.devices.get(id).is_some_and(|was| was.plain);
        }
        let (now, was) = (&self.table.devices, &before.devices);
        for id in now.keys().filter(|id| !was.contains_key(*id)) {
            self.membership_changed(id, true);
        }
        for id in was.keys().filter(|id| !now.contains_key(*id)) {
            self.membership_changed(id, false);
        }
        let differing = now.iter().filter(|(_, entry)| entry.twin.differs());
        self.publish_deltas(differing.map(|(id, _)| Arc::clone(id)).collect());
    }

    /// A watch fell behind (it should not: its memory is the store's) or the store ended. Reads everything again in the first case.
    async fn restart_watches(&mut self, error: &WatchError) -> bool {
        if matches!(error, WatchError::Closed) {
            return false;
        }
        tracing::warn!(%error, "The twin service reads its devices again.");
        while let Some(landed) = self.flights.next().await {
            self.landed(landed);
        }
        let now = wall_ms();
        let parts = &self.parts;
        let read = Table::load(&parts.store, |device| parts.stamps.observe(device, now)).and_then(|(table, loaded)| {
            let devices = parts.store.watch(objects::device_scope(DEVICES), loaded.devices_at)?;
            let models = parts.store.watch(objects::device_scope(MODELS), loaded.models_at)?;
            Ok((table, loaded, devices, models))
        });
        match read {
            Ok((table, loaded, devices, models)) => {
                (self.devices, self.models) = (devices, models);
                let before = std::mem::replace(&mut self.table, table);
                self.doubtful.clear();
                self.stale = loaded.stale;
                self.chores = loaded.orphans.into_iter().map(delete).collect();
                self.read_again(&before);
                true
            }
            Err(e) => {
                tracing::error!(error = %e, "The twins cannot be read; the twin service ends.");
                false
            }
        }
    }
}

fn delete(key: ObjectKey) -> Op {
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
