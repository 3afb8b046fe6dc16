//! The one place that writes what gateways reported into the API above.
//!
//! Jobs wait in a [`Queue`]: one write in flight per object, only the newest behind it, written at once when nothing is in
//! flight. Workers exist only while there is work. An API that cannot be asked is asked again with growing pauses for as long as
//! it takes; what it will never take is refused, by key, to whoever reported it. Nobody is told "written" before the API said so.

mod clusters;
mod jobs;
mod nodes;
mod sites;

pub(crate) use clusters::UNREACHABLE_AFTER;
pub(in crate::upstream) use jobs::member;
pub(in crate::upstream) use nodes::{node_is_as_written, put_labels, put_or_remove};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use daemon::backoff::FullJitter;
use daemon::drain::Drain;
use proto::{Hash, Key};

use super::clusters::Endpoint;
use super::index::Index;
use super::objects::{ApiError, Objects};
use super::presence::{Presences, Registration};
use super::queue::{Merge, Queue, Taken as Next, Urgency, Waiter};
use super::works::Taken;
use crate::fleet::Outbox;
use crate::metrics::Metrics;

/// Writes in flight at a time. The store below commits them in groups; more would only queue there.
const IN_FLIGHT: usize = 16;
/// The same for what stands above the hub: further away, and some of them wait for something else to happen there.
const UPPER_IN_FLIGHT: usize = 64;
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(30);
/// Between looks at something that has to happen first.
const NOT_YET: Duration = Duration::from_millis(200);
/// Repetitions after somebody else was faster, before the object is left for later.
const MAX_CONFLICTS: u32 = 8;

/// What an object should become.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    /// A DeviceStatus as reported. `anew`: its device went meanwhile, and what is in the API is of the former one if there is one now.
    Status {
        node: Arc<str>,
        body: Bytes,
        hash: Hash,
        anew: bool,
    },
    /// The gateway reports it no longer.
    StatusGone { node: Arc<str> },
    /// Its device went from the API, at least for a moment.
    Orphan,
    /// Desired values set at the gateway, to be merged into the Device.
    Twins { node: Arc<str>, body: Bytes, hash: Hash },
    /// The gateway has none of its own any more.
    TwinsGone { node: Arc<str> },
    /// The Node: what the gateway reported (when it is news), and whether it is connected (looked up when written).
    Node { observed: Observed },
    /// The EdgeNode's status, looked up when written. `anew`: what it says now is of another gateway.
    EdgeNode { anew: bool },
    /// The Cluster: what the gateway reported of its API (when it is news), and the rest, looked up when written.
    Cluster { observed: Observed },
    /// The Cluster of this uid was removed.
    ClusterGone { uid: Arc<str> },
    /// What became of a Work.
    Work { node: Arc<str>, body: Bytes, hash: Hash },
    /// Its gateway has nothing to say of it any more.
    WorkGone { node: Arc<str> },
    /// The hub has something to say of a Work itself.
    Attend,
    /// What the members of a site say of a Work may be another thing than its status, and the hub may have something to say too.
    Merge,
    /// The Cluster of a site, looked up when written.
    Site { site: Arc<str> },
}

/// Where Clusters and Works are, and what is said there of how to reach a gateway.
#[derive(Clone, Debug)]
pub(crate) struct Above {
    pub(crate) objects: Objects,
    /// Which control plane it is, whatever its address.
    pub(crate) plane: Arc<str>,
    /// This hub's id: other hubs may have their gateways there.
    pub(crate) hub: Arc<str>,
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) trust_domain: String,
}

/// News about a Node's own report.
#[derive(Clone, Debug)]
pub(crate) enum Observed {
    /// None.
    Same,
    /// This.
    Reported { body: Bytes, hash: Hash },
    /// It reports none.
    Gone,
}

impl Job {
    /// Whether this is what `node` said.
    fn is_of(&self, node: &str) -> bool {
        match self {
            Self::Status { node: from, .. }
            | Self::StatusGone { node: from }
            | Self::Twins { node: from, .. }
            | Self::TwinsGone { node: from }
            | Self::Work { node: from, .. }
            | Self::WorkGone { node: from } => **from == *node,
            Self::Orphan
            | Self::Node { .. }
            | Self::EdgeNode { .. }
            | Self::Cluster { .. }
            | Self::ClusterGone { .. }
            | Self::Attend
            | Self::Merge
            | Self::Site { .. } => false,
        }
    }
}

impl Merge for Job {
    fn merge(self, newer: Self) -> Self {
        match (self, newer) {
            (
                Self::Node { observed },
                Self::Node {
                    observed: Observed::Same,
                },
            ) => Self::Node { observed },
            (
                Self::Cluster { observed },
                Self::Cluster {
                    observed: Observed::Same,
                },
            ) => Self::Cluster { observed },
            // A report says the hub's part too.
            (report @ (Self::Work { .. } | Self::Merge), Self::Attend) => report,
            (report @ Self::Work { .. }, Self::WorkGone { node }) if !report.is_of(&node) => report,
            // A gateway takes back only what is its own, not what another reports by now.
            (reported @ Self::Status { .. }, Self::StatusGone { node }) if !reported.is_of(&node) => reported,
            (set @ Self::Twins { .. }, Self::TwinsGone { node }) if !set.is_of(&node) => set,
            // A device that went may be back: what its gateway said counts then, and is refused otherwise. With a removal the writer looks
            // for an orphan too.
            (Self::Status { node, body, hash, .. }, Self::Orphan)
            | (Self::Orphan | Self::Status { anew: true, .. }, Self::Status { node, body, hash, .. }) => Self::Status {
                node,
                body,
                hash,
                anew: true,
            },
            (gone @ Self::StatusGone { .. }, Self::Orphan) => gone,
            (Self::EdgeNode { anew: true }, Self::EdgeNode { .. }) => Self::EdgeNode { anew: true },
            (_, newer) => newer,
        }
    }
}

/// Why what a gateway reported was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// For people.
    pub(crate) reason: String,
    /// Only because the device was not the gateway's at that moment.
    pub(crate) not_owned: bool,
}

/// An observed batch on its way into the API. When its last object is written or refused, its session hears of it.
#[derive(Debug)]
pub(crate) struct Batch {
    number: u64,
    outbox: Arc<Outbox>,
    open: Mutex<(usize, Vec<(Key, Refusal)>)>,
}

impl Batch {
    /// A batch of `parts` changes; with none it is done at once.
    pub(crate) fn new(number: u64, parts: usize, outbox: Arc<Outbox>) -> Arc<Self> {
        let batch = Self {
            number,
            outbox,
            open: Mutex::new((parts, Vec::new())),
        };
        if parts == 0 {
            batch.outbox.written(number, Vec::new());
        }
        Arc::new(batch)
    }

    /// One change is written, or refused for a reason.
    pub(crate) fn done(&self, key: &Key, refused: Option<Refusal>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.1.extend(refused.map(|refusal| (Arc::clone(key), refusal)));
        open.0 = open.0.saturating_sub(1);
        if open.0 == 0 {
            self.outbox.written(self.number, std::mem::take(&mut open.1));
        }
    }
}

/// How the keys of what is to be done about a removed Cluster begin, and those of sites; the name follows.
const REMOVED: &str = "removed cluster ";
pub(super) const SITES: &str = "site ";

/// Whether the object behind a key is above the hub.
fn is_upper(key: &str) -> bool {
    [super::body::WORKS, super::body::CLUSTERS, REMOVED, SITES]
        .iter()
        .any(|prefix| key.starts_with(prefix))
}

impl Waiter for Arc<Batch> {
    fn is_gone(&self) -> bool {
        self.outbox.is_over()
    }
}

/// The writer. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Writer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Jobs for the hub's own API, and those for what stands above: one that cannot be written does not hold up the other.
    own: Mutex<Queue<Job, Arc<Batch>>>,
    upper: Mutex<Queue<Job, Arc<Batch>>>,
    objects: Objects,
    above: Above,
    index: Arc<Index>,
    presences: Arc<dyn Presences>,
    metrics: Arc<Metrics>,
    drain: Drain,
}

impl Writer {
    pub(crate) fn new(
        objects: Objects,
        above: Above,
        index: Arc<Index>,
        presences: Arc<dyn Presences>,
        metrics: Arc<Metrics>,
        drain: Drain,
    ) -> Self {
        Self(Arc::new(Shared {
            own: Mutex::new(Queue::new(IN_FLIGHT)),
            upper: Mutex::new(Queue::new(UPPER_IN_FLIGHT)),
            objects,
            above,
            index,
            presences,
            metrics,
            drain,
        }))
    }

    /// Hands in a job for the object behind `key`.
    pub(crate) fn submit(&self, key: &Key, job: Job, waiter: Option<Arc<Batch>>, urgency: Urgency) {
        self.0.lock(key).submit(key, job, waiter, urgency);
        self.pump();
    }

    /// Hands in what a gateway said in the session of this epoch; false, and nothing handed in, when that session does not speak for the
    /// node any more. Asked and queued in one step: a newer session enters before it hands anything in, so a job of an older one is
    /// before all of the newer's in the queue or nowhere.
    pub(crate) fn report(&self, (node, epoch): (&str, u64), key: &Key, job: Job, waiter: Arc<Batch>) -> bool {
        let spoken = self.spoken(node, &job);
        let (current, taken) = {
            let mut queue = self.0.lock(key);
            let current = self.0.presences.epoch(node) == Some(epoch);
            match current.then(|| self.take_in(node, key, spoken)) {
                None => (false, None),
                Some(Taken::NotOfSite) => {
                    queue.submit(key, job, Some(waiter), Urgency::Now);
                    (true, None)
                }
                Some(taken) => (true, Some((taken, waiter))),
            }
        };
        if let Some((taken, waiter)) = taken {
            self.taken_in(key, taken, &waiter);
        }
        self.pump();
        current
    }

    /// Something about a node's connection changed: its Node and EdgeNode are written when nothing urgent waits.
    pub(crate) fn presence(&self, node: &str) {
        self.node(node);
        self.edge_node(node, Urgency::Soon);
        self.cluster(node);
    }

    /// Something that a node's Cluster, or that of its site, says may have changed.
    pub(crate) fn cluster(&self, node: &str) {
        self.place(node);
        let key = super::body::key(super::body::CLUSTERS, "clusters", "", node);
        let observed = Observed::Same;
        self.submit(&key, Job::Cluster { observed }, None, Urgency::Soon);
    }

    /// The Cluster of this uid, which stood for a node, was removed.
    pub(crate) fn cluster_gone(&self, node: &str, uid: &Arc<str>) {
        let key = Key::from(format!("{REMOVED}{node}"));
        let uid = Arc::clone(uid);
        self.submit(&key, Job::ClusterGone { uid }, None, Urgency::Soon);
    }

    /// No Cluster stands for a node, though all of them were seen.
    pub(crate) fn cluster_missing(&self, node: &str) {
        let site = self.0.index.site_of(node);
        match self.0.presences.of(node).registration.within(site.as_deref()) {
            Registration::Registered { plane, uid, .. } if plane == self.0.above.plane => self.cluster_gone(node, &uid),
            _ => self.cluster(node),
        }
    }

    /// The hub has something to say of a Work itself.
    pub(crate) fn attend(&self, work: &Key) {
        self.submit(work, Job::Attend, None, Urgency::Soon);
    }

    /// A node is connected: its Node says so as soon as nothing urgent waits.
    pub(crate) fn node(&self, node: &str) {
        self.submit(
            &super::body::key("", "nodes", "", node),
            Job::Node {
                observed: Observed::Same,
            },
            None,
            Urgency::Soon,
        );
    }

    /// A node's Node may not be what it should, or the labels that it gets from elsewhere changed.
    pub(crate) fn labels(&self, node: &str) {
        if self.0.presences.of(node).enrolled {
            self.node(node);
        }
    }

    /// An EdgeNode appeared, changed or went; it spoke, or speaks now, of these nodes.
    pub(crate) fn edge_node_changed(&self, name: &str, nodes: &[Arc<str>]) {
        for node in nodes {
            self.labels(node);
            self.cluster(node);
        }
        // It speaks of another than before: what its status says is not about that one.
        let anew = nodes.len() > 1;
        // Another gateway may have waited for the name.
        let others = std::iter::once(name).filter(|name| !nodes.iter().any(|n| &**n == *name));
        for node in nodes.iter().map(|n| &**n).chain(others) {
            let presence = self.0.presences.of(node);
            if anew || presence.connected {
                let key = super::body::key(super::body::EDGE, "edgenodes", "", node);
                self.submit(&key, Job::EdgeNode { anew }, None, Urgency::Soon);
            }
        }
    }

    /// The EdgeNode only.
    pub(crate) fn edge_node(&self, node: &str, urgency: Urgency) {
        self.submit(
            &super::body::key(super::body::EDGE, "edgenodes", "", node),
            Job::EdgeNode { anew: false },
            None,
            urgency,
        );
    }

    /// Objects waiting or being written.
    pub(crate) fn backlog(&self) -> usize {
        let len = |queue: &Mutex<Queue<_, _>>| queue.lock().unwrap_or_else(PoisonError::into_inner).len();
        len(&self.0.own) + len(&self.0.upper)
    }

    /// Starts a worker for every job that may run now.
    fn pump(&self) {
        while let Some((taken, upper)) = self.0.next() {
            let shared = Arc::clone(&self.0);
            drop(self.0.drain.spawn(async move {
                let mut next = Some(taken);
                while let Some(taken) = next {
                    let outcome = shared.run(&taken.key, &taken.job).await;
                    let refused = match outcome {
                        Some(Ok(())) => None,
                        Some(Err(refusal)) => Some(refusal),
                        // Stopping: nobody is told anything, the gateways send it again.
                        None => return,
                    };
                    for waiter in &taken.waiters {
                        waiter.done(&taken.key, refused.clone());
                    }
                    next = {
                        let mut queue = shared.queue(upper);
                        queue.done(&taken.key);
                        queue.take()
                    };
                    // What the job left to be done may be for the other queue.
                    Self(Arc::clone(&shared)).pump();
                }
            }));
        }
    }
}

impl Shared {
    fn queue(&self, upper: bool) -> MutexGuard<'_, Queue<Job, Arc<Batch>>> {
        let queue = if upper { &self.upper } else { &self.own };
        queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue of this key.
    fn lock(&self, key: &str) -> MutexGuard<'_, Queue<Job, Arc<Batch>>> {
        self.queue(is_upper(key))
    }

    fn next(&self) -> Option<(Next<Job, Arc<Batch>>, bool)> {
        let next = |upper: bool| Some((self.queue(upper).take()?, upper));
        next(false).or_else(|| next(true))
    }

    /// Runs a job until it is written or refused; `None` when the hub stops first.
    async fn run(&self, key: &Key, job: &Job) -> Option<Result<(), Refusal>> {
        let mut pause = FullJitter::new(Duration::from_millis(100), Duration::from_secs(10));
        let mut conflicts = 0;
        loop {
            let attempt = tokio::select! {
                biased;
                () = self.drain.stopping() => return None,
                attempt = tokio::time::timeout(ATTEMPT, self.attempt(key, job)) => {
                    attempt.unwrap_or_else(|_| Err(ApiError::Unavailable("no answer in time".to_owned())))
                }
            };
            match attempt {
                Ok(()) => {
                    self.metrics.status_writes.add(1);
                    return Some(Ok(()));
                }
                Err(e @ (ApiError::Refused(_) | ApiError::NotOwned(_))) => {
                    self.metrics.status_refused.add(1);
                    tracing::warn!(%key, reason = %e, "The API refuses what a gateway reported.");
                    return Some(Err(Refusal {
                        reason: e.to_string(),
                        not_owned: matches!(e, ApiError::NotOwned(_)),
                    }));
                }
                Err(ApiError::Conflict | ApiError::NotFound) if conflicts < MAX_CONFLICTS => {
                    self.metrics.status_conflicts.add(1);
                    conflicts += 1;
                }
                Err(ApiError::NotYet(why)) => {
                    tracing::debug!(%key, why, "A write waits.");
                    tokio::select! {
                        biased;
                        () = self.drain.stopping() => return None,
                        () = tokio::time::sleep(NOT_YET) => {}
                    }
                }
                Err(e) => {
                    tracing::warn!(%key, error = %e, "The API cannot be written; it is tried again.");
                    conflicts = 0;
                    tokio::select! {
                        biased;
                        () = self.drain.stopping() => return None,
                        () = tokio::time::sleep(pause.next_wait()) => {}
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_batch_is_done_with_its_last_change_and_names_the_refused() {
        let outbox = Arc::new(Outbox::default());
        let key: Key = Arc::from("k");
        let batch = Batch::new(7, 3, Arc::clone(&outbox));
        batch.done(&key, None);
        let refusal = Refusal {
            reason: "no such device".to_owned(),
            not_owned: true,
        };
        batch.done(&key, Some(refusal.clone()));
        assert!(outbox.take().written.is_empty());
        batch.done(&key, None);
        assert_eq!(outbox.take().written[&7], [(key, refusal)]);
        Batch::new(8, 0, Arc::clone(&outbox));
        assert!(outbox.take().written[&8].is_empty());
    }

    #[derive(Debug)]
    struct Nobody;
    impl Presences for Nobody {
        fn epoch(&self, _: &str) -> Option<u64> {
            None
        }

        fn of(&self, _: &str) -> super::super::presence::Presence {
            Default::default()
        }

        fn enrolled(&self, _: &str) -> bool {
            true
        }

        fn settled(&self) -> bool {
            true
        }

        fn register(&self, _: &str, _: &Arc<str>, _: &str, _: Option<&Arc<str>>) -> super::super::presence::Recorded {
            Box::pin(async { Ok(()) })
        }

        fn withdraw(&self, _: &str, _: &Arc<str>, _: &str) -> super::super::presence::Recorded {
            Box::pin(async { Ok(()) })
        }
    }

    #[tokio::test]
    async fn a_removal_that_the_api_could_not_take_is_tried_until_it_did() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let api = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            assert_eq!(request.method(), http::Method::DELETE);
            let code = if counter.fetch_add(1, Ordering::Relaxed) < 2 {
                507
            } else {
                200
            };
            let body =
                serde_json::json!({"kind": "Status", "metadata": {}, "message": "the disk is full", "code": code});
            let body = http_body_util::Full::new(Bytes::from(body.to_string()));
            async move { http::Response::builder().status(code).body(body) }
        });
        let index = Arc::new(Index::default());
        let objects = Objects::new(kube::Client::new(api, "default"));
        let above = Above {
            objects: objects.clone(),
            plane: "here".into(),
            hub: "this".into(),
            endpoint: None,
            trust_domain: "example".to_owned(),
        };
        let writer = Writer::new(
            objects,
            above,
            Arc::clone(&index),
            Arc::new(Nobody),
            Arc::default(),
            Drain::new(),
        );
        let (key, node): (Key, Arc<str>) = ("devices.kubeedge.io/devicestatuses/default/a".into(), "gw-1".into());
        index.mark(&key, Some((Arc::clone(&node), 1)), 5);
        let outbox = Arc::new(Outbox::default());
        let batch = Batch::new(1, 1, Arc::clone(&outbox));
        writer.submit(&key, Job::StatusGone { node }, Some(batch), Urgency::Now);
        outbox.rung().await;
        assert!(outbox.take().written[&1].is_empty());
        assert_eq!(asked.load(Ordering::Relaxed), 3, "not done before the API said so");
        assert_eq!(index.marked(&key), None);
    }

    /// A node whose session of epoch 2 enters when it was asked for so often.
    #[derive(Debug)]
    struct TakenOver {
        asked: std::sync::atomic::AtomicUsize,
        after: usize,
    }
    impl Presences for TakenOver {
        fn epoch(&self, _: &str) -> Option<u64> {
            let asked = self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Some(if asked < self.after { 1 } else { 2 })
        }

        fn of(&self, _: &str) -> super::super::presence::Presence {
            Default::default()
        }

        fn enrolled(&self, _: &str) -> bool {
            true
        }

        fn settled(&self) -> bool {
            true
        }

        fn register(&self, _: &str, _: &Arc<str>, _: &str, _: Option<&Arc<str>>) -> super::super::presence::Recorded {
            Box::pin(async { Ok(()) })
        }

        fn withdraw(&self, _: &str, _: &Arc<str>, _: &str) -> super::super::presence::Recorded {
            Box::pin(async { Ok(()) })
        }
    }

    #[tokio::test]
    async fn a_fenced_session_that_was_held_up_neither_replaces_nor_follows_the_newer_one() {
        let api = tower::service_fn(|_: http::Request<kube::client::Body>| {
            std::future::pending::<Result<http::Response<http_body_util::Full<Bytes>>, std::convert::Infallible>>()
        });
        let objects = Objects::new(kube::Client::new(api, "default"));
        let above = Above {
            objects: objects.clone(),
            plane: "here".into(),
            hub: "this".into(),
            endpoint: None,
            trust_domain: "example".to_owned(),
        };
        let writer = Writer::new(
            objects,
            above,
            Arc::default(),
            Arc::new(TakenOver {
                asked: Default::default(),
                after: 1,
            }),
            Arc::default(),
            Drain::new(),
        );
        let key: Key = "devices.kubeedge.io/devicestatuses/default/a".into();
        let outbox = Arc::new(Outbox::default());
        let report = |epoch: u64, hash: Hash| {
            let job = Job::Status {
                node: "gw-1".into(),
                body: Bytes::from_static(b"{}"),
                hash,
                anew: false,
            };
            writer.report(
                ("gw-1", epoch),
                &key,
                job,
                Batch::new(hash as u64, 1, Arc::clone(&outbox)),
            )
        };
        // Held: nothing is run, so that all of it waits.
        let other: Vec<_> = (0..IN_FLIGHT).map(|n| Key::from(format!("nodes/{n}"))).collect();
        for key in &other {
            writer
                .0
                .lock(key)
                .submit(key, Job::EdgeNode { anew: false }, None, Urgency::Now);
            assert!(writer.0.next().is_some());
        }
        let waiting = || {
            let mut queue = writer.0.lock(&other[0]);
            queue.done(&other[0]);
            let taken = queue.take().map(|taken| taken.job);
            drop(queue);
            match taken {
                Some(Job::Status { hash, .. }) => Some(hash),
                None => None,
                other => panic!("{other:?}"),
            }
        };
        assert!(report(1, 10), "it still speaks for the node");
        assert!(report(2, 20), "the newer session's comes over it");
        assert!(!report(1, 11), "the older was held up before it handed this in");
        assert_eq!(waiting(), Some(20));
        // In flight now, and after it is done.
        assert!(!report(1, 12));
        writer.0.lock(&key).done(&key);
        assert!(!report(1, 13));
        assert_eq!(writer.backlog(), IN_FLIGHT - 1);
    }

    #[test]
    fn a_removal_takes_back_only_what_its_own_gateway_said() {
        let body = Bytes::from_static(b"{}");
        let node = |name: &str| Arc::<str>::from(name);
        let status = Job::Status {
            node: node("gw-1"),
            body: body.clone(),
            hash: 1,
            anew: false,
        };
        let gone = |name| Job::StatusGone { node: node(name) };
        assert!(matches!(status.clone().merge(gone("gw-2")), Job::Status { node, .. } if &*node == "gw-1"));
        assert!(matches!(status.merge(gone("gw-1")), Job::StatusGone { .. }));
        let twins = Job::Twins {
            node: node("gw-1"),
            body,
            hash: 1,
        };
        let gone = |name| Job::TwinsGone { node: node(name) };
        assert!(matches!(twins.clone().merge(gone("gw-2")), Job::Twins { .. }));
        assert!(matches!(twins.merge(gone("gw-1")), Job::TwinsGone { .. }));
    }

    #[test]
    fn a_report_and_a_removal_survive_a_device_that_went_for_a_moment() {
        let status = |anew| Job::Status {
            node: "gw-1".into(),
            body: Bytes::from_static(b"{}"),
            hash: 1,
            anew,
        };
        let anew = |job: &Job| matches!(job, Job::Status { anew: true, .. });
        assert!(anew(&status(false).merge(Job::Orphan)));
        assert!(anew(&Job::Orphan.merge(status(false))));
        assert!(anew(&status(true).merge(status(false))));
        assert!(!anew(&status(false).merge(status(false))));
        let gone = || Job::StatusGone { node: "gw-1".into() };
        assert!(matches!(gone().merge(Job::Orphan), Job::StatusGone { .. }));
        assert!(matches!(Job::Orphan.merge(gone()), Job::StatusGone { .. }));
        assert!(matches!(Job::Orphan.merge(Job::Orphan), Job::Orphan));
    }

    #[test]
    fn a_report_survives_presence_that_comes_after_it() {
        let report = Job::Node {
            observed: Observed::Reported {
                body: Bytes::from_static(b"x"),
                hash: 1,
            },
        };
        let merged = report.merge(Job::Node {
            observed: Observed::Same,
        });
        assert!(matches!(
            merged,
            Job::Node {
                observed: Observed::Reported { .. }
            }
        ));
        let merged = merged.merge(Job::Node {
            observed: Observed::Gone,
        });
        assert!(matches!(
            merged,
            Job::Node {
                observed: Observed::Gone
            }
        ));
    }
}
