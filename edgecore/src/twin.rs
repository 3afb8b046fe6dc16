//! The twin service: one task owns the twins of all devices of this gateway.
//!
//! ```text
//!  broker / external bridge --ask--> inbox --> task: batch --> one store Tx --> (commit) --> verdicts, results, documents, deltas
//!  store watches (Device, DeviceModel) ------> task: set_device -------> deltas at once, DeviceStatus in the next Tx
//! ```
//!
//! Invariants:
//! - A request is answered (PUBACK, `update/result`) after the commit that holds it, never before.
//! - This task is the only writer of DeviceStatus objects; memory is what the store will be once the transactions under way are in.
//! - When a commit fails, everything under way is awaited, the twins concerned are read again from the store, and the requests are
//!   answered with an error and not acknowledged.
//! - A request that sets a desired value is committed alone, against the revision of the Device it was made from.
//! - A request that was committed and is sent again because its acknowledgement was lost is answered and not applied again
//!   (`taken`), as far as it can be told from another one that reads the same.
//! - What cannot be read again is tried again: requests wait or are refused meanwhile. Only the store's end ends the task.
//!
//! Called by `bus`; it never knows what a client or a broker is.

mod batch;
mod requests;
mod reread;
mod table;
mod taken;
mod task;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use daemon::drain::Drain;
use futures_util::future::BoxFuture;
use metastore::store::{Store, StoreError};
use tokio::sync::{mpsc, oneshot, watch};

use crate::conflicts::Conflicts;
use crate::metrics::Metrics;
use crate::stamps::Stamps;
pub(crate) use taken::{Origin, Sender};

/// The journal of reports for the hub.
pub(crate) const TELEMETRY: &str = "telemetry";

/// Batches that wait for the task. The broker bounds what one connection may have unanswered; this bounds all of them together.
const INBOX: usize = 8192;
/// Bytes of payloads that wait for the task.
const INBOX_BYTES: usize = 32 * 1024 * 1024;

/// One published message.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Where it was published.
    pub(crate) topic: Arc<str>,
    /// What.
    pub(crate) payload: Bytes,
    /// Who, for people.
    pub(crate) by: Arc<str>,
    /// What tells it from others; `None` at QoS 0, where nothing is sent again.
    pub(crate) origin: Option<Origin>,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No request, or one that only the gateway publishes.
    Topic,
    /// The request is wrong; `update/result` says why.
    Request,
    /// It cannot be stored now. It must not be acknowledged.
    NotStored,
}

/// One verdict per message asked, in order, after the commit.
pub(crate) type Verdicts = BoxFuture<'static, Vec<Result<(), Refused>>>;

/// Where answers go.
pub(crate) trait Outlet: Send + Sync {
    /// Publishes at QoS 1, not retained, in order.
    fn publish(&self, messages: Vec<(String, Vec<u8>)>);
    /// Whether anybody would get it. What nobody wants is not encoded.
    fn wanted(&self, topic: &str) -> bool;
}

/// The service's door. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Twins {
    inbox: mpsc::Sender<Command>,
    waiting_bytes: Arc<AtomicUsize>,
    outlet: Arc<OnceLock<Box<dyn Outlet>>>,
    telemetry: watch::Receiver<u64>,
    conflicts: Conflicts,
    /// There may be packet ids to release.
    releasable: Arc<AtomicBool>,
    /// Closed when the task has ended.
    alive: watch::Receiver<()>,
}

/// What reaches the task.
enum Command {
    Ask(Vec<Request>),
    Subscribed(Arc<[Arc<str>]>),
}

/// Where a verdict goes.
type Verdict = oneshot::Sender<Result<(), Refused>>;

/// What is wanted and who waits for its verdict.
struct Request {
    what: What,
    verdict: Verdict,
}

/// What is wanted.
enum What {
    Message(Asked),
    /// A client is done with these packet ids of QoS 2.
    Release(Sender, Box<[u16]>),
}

impl Request {
    /// Bytes that wait with it.
    fn bytes(&self) -> usize {
        match &self.what {
            What::Message(asked) => asked.payload.len(),
            What::Release(_, packet_ids) => 2 * packet_ids.len(),
        }
    }
}

impl fmt::Debug for Twins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Twins").finish_non_exhaustive()
    }
}

impl Twins {
    /// Loads all twins and starts the task. Blocks for as long as reading them takes.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn start(
        store: Store,
        stamps: Stamps,
        node: &str,
        metrics: Arc<Metrics>,
        drain: &Drain,
    ) -> Result<Self, StoreError> {
        let (inbox, commands) = mpsc::channel(INBOX);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let outlet = Arc::new(OnceLock::new());
        let (telemetry_in, telemetry) = watch::channel(store.journal_bounds(TELEMETRY)?.accepted);
        let conflicts = Conflicts::open(store.clone(), node)?;
        let task = task::Task::load(task::Parts {
            store,
            stamps,
            node: node.to_owned(),
            metrics,
            commands,
            waiting_bytes: Arc::clone(&waiting_bytes),
            outlet: Arc::clone(&outlet),
            telemetry: telemetry_in,
            conflicts: conflicts.clone(),
        })?;
        let (releasable, stop) = (task.releasable(), drain.clone());
        let (living, alive) = watch::channel(());
        drop(drain.spawn(async move {
            // Dropped with the task, also when it panics.
            let _living = living;
            task.run(stop).await;
        }));
        Ok(Self {
            inbox,
            waiting_bytes,
            outlet,
            telemetry,
            conflicts,
            releasable,
            alive,
        })
    }

    /// Tells the service where its answers go; before that nobody hears them.
    pub(crate) fn connect(&self, outlet: Box<dyn Outlet>) {
        if self.outlet.set(outlet).is_err() {
            tracing::error!("The twin service has two outlets; the second is ignored.");
        }
    }

    /// Hands messages over. The order of the calls is the order of the requests; the future only waits.
    pub(crate) fn ask(&self, asked: Vec<Asked>) -> Verdicts {
        self.request(asked.into_iter().map(What::Message).collect())
    }

    /// A client is done with these packet ids of QoS 2. Resolves to true when that is durable.
    pub(crate) fn released(&self, client: Sender, packet_ids: &[u16]) -> BoxFuture<'static, bool> {
        if !self.releasable.load(Ordering::Relaxed) {
            return Box::pin(std::future::ready(true));
        }
        let verdicts = self.request(vec![What::Release(client, packet_ids.into())]);
        Box::pin(async move { verdicts.await.iter().all(Result::is_ok) })
    }

    fn request(&self, wanted: Vec<What>) -> Verdicts {
        let count = wanted.len();
        let refused = || -> Verdicts { Box::pin(std::future::ready(vec![Err(Refused::NotStored); count])) };
        let mut requests = Vec::with_capacity(count);
        let mut verdicts = Vec::with_capacity(count);
        for what in wanted {
            let (verdict, receiver) = oneshot::channel();
            requests.push(Request { what, verdict });
            verdicts.push(receiver);
        }
        let bytes: usize = requests.iter().map(Request::bytes).sum();
        if self.waiting_bytes.load(Ordering::Relaxed).saturating_add(bytes) > INBOX_BYTES {
            return refused();
        }
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.inbox.try_send(Command::Ask(requests)).is_err() {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return refused();
        }
        Box::pin(async move {
            let mut all = Vec::with_capacity(count);
            for verdict in verdicts {
                all.push(verdict.await.unwrap_or(Err(Refused::NotStored)));
            }
            all
        })
    }

    /// A client listens from now on: it is told what its devices have yet to do.
    pub(crate) fn subscribed(&self, filters: &[Arc<str>]) {
        let ours = |filter: &&Arc<str>| filter.starts_with('$');
        let filters: Arc<[Arc<str>]> = filters.iter().filter(ours).cloned().collect();
        if !filters.is_empty() && self.inbox.try_send(Command::Subscribed(filters)).is_err() {
            tracing::warn!("Too much to do: a new subscriber is not told the open deltas.");
        }
    }

    /// Resolves when the task has ended: nothing is answered any more.
    pub(crate) async fn ended(&self) {
        let mut alive = self.alive.clone();
        while alive.changed().await.is_ok() {}
    }

    /// The conflict log, which everything that merges Devices writes.
    pub(crate) const fn conflicts(&self) -> &Conflicts {
        &self.conflicts
    }

    /// The number of the newest telemetry record, as it grows.
    pub(crate) fn telemetry(&self) -> watch::Receiver<u64> {
        self.telemetry.clone()
    }
}
