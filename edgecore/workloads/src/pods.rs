//! Pods on this machine: what the store wants to run becomes sandboxes and containers, and what became of them becomes the Pods' status.
//!
//! One small task per pod ([`worker`]) looks, plans ([`plan`], pure), writes the status when it changed, and carries out what was planned. The
//! store is the truth for what should run, the runtime for what runs; a task keeps nothing that is not worked out again from both after the agent
//! was killed. [`watch`] follows the store and the runtime and wakes tasks; it never decides.
//!
//! Touches only sandboxes and containers that carry this node's label ([`labels`]).

mod ask;
mod clean;
mod hooks;
mod labels;
mod look;
mod means;
mod memory;
mod observed;
mod ops;
mod plan;
mod probe;
mod statics;
mod status;
mod watch;
mod words;
mod worker;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cri::Runtime;
use daemon::drain::Drain;
use tokio::sync::{Notify, OnceCell, Semaphore};

use crate::cluster::{Cluster, Key};
use crate::events::Recorder;
pub(crate) use means::{Making, Means, Refusal, Work};
use memory::Verdict;
pub(crate) use observed::State;

/// Sandboxes that are made at a time: more only makes each of them slower.
const SANDBOXES_AT_A_TIME: usize = 10;

/// Milliseconds since 1970 of a time as objects carry it.
pub(crate) fn when(stamp: &str) -> Option<u64> {
    let at: jiff::Timestamp = stamp.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok()
}

/// Tells the wall time, in milliseconds since 1970. A function, so that tests bring their own.
pub(crate) type Wall = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Tells addresses.
pub(crate) type Addresses = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// How pods are run.
pub(crate) struct Options {
    pub(crate) node: Arc<str>,
    /// Tells the node's addresses, the main one first: they come and change with the machine's network.
    pub(crate) host_ips: Addresses,
    /// Folder of the containers' logs.
    pub(crate) logs: PathBuf,
    /// Folder of static pods.
    pub(crate) manifests: PathBuf,
    /// False after the store was found damaged and replaced: then what it does not hold may still be wanted, and nothing is cleaned up.
    pub(crate) trust_store: bool,
    pub(crate) wall: Wall,
}

/// What all tasks share.
pub(crate) struct Shared {
    options: Options,
    cluster: Cluster,
    runtime: Runtime,
    /// As it names itself.
    runtime_name: OnceCell<Arc<str>>,
    means: Arc<dyn Means>,
    recorder: Recorder,
    /// For probes of containers that speak TLS.
    tls: ask::Tls,
    sandboxes: Semaphore,
    tasks: Mutex<Tasks>,
}

/// The tasks by the uid of their pod, and which pod a container or sandbox belongs to.
#[derive(Default)]
struct Tasks {
    by_uid: BTreeMap<Arc<str>, Arc<Task>>,
    /// Container and sandbox ids.
    owners: BTreeMap<String, Arc<str>>,
}

/// A pod's task as others see it.
struct Task {
    uid: Arc<str>,
    key: Key,
    /// It comes from a manifest of this machine.
    is_static: bool,
    inbox: Mutex<Inbox>,
    wake: Notify,
    seen: Mutex<SeenBy>,
}

/// What a task saw last.
#[derive(Default)]
struct SeenBy {
    running: Option<Running>,
    /// Fingerprint of what the runtime has of the pod.
    view: u64,
    /// Uid of the mirror of a static pod, empty when there is none.
    mirror: String,
}

/// What a task has been told since it last looked.
#[derive(Debug, Default)]
struct Inbox {
    /// The object changed.
    pod: bool,
    /// Everything the runtime has of it is to be looked at again.
    relist: bool,
    /// These containers or sandboxes are to be looked at again.
    ids: Vec<String>,
    /// Contents of its volumes changed.
    files: bool,
    verdict: Option<Verdict>,
    /// The manifest of a static pod is gone, or another.
    withdrawn: bool,
    /// The object as it was when it was deleted.
    last: Option<bytes::Bytes>,
}

/// A pod that has a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) pod: Key,
    pub(crate) uid: String,
    /// Id of its sandbox.
    pub(crate) sandbox: String,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) containers: Vec<RunningContainer>,
}

/// A container of such a pod, in its newest attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunningContainer {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) state: State,
    pub(crate) log_path: PathBuf,
}

/// The pods of this machine. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pods(Arc<Shared>);

impl std::fmt::Debug for Pods {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pods")
            .field("node", &self.0.options.node)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pods {
    pub(crate) fn new(
        options: Options,
        cluster: Cluster,
        runtime: Runtime,
        means: Arc<dyn Means>,
        recorder: &Recorder,
    ) -> Self {
        Self(Arc::new(Shared {
            options,
            cluster,
            runtime,
            runtime_name: OnceCell::new(),
            means,
            recorder: recorder.of("kubelet"),
            tls: ask::Tls::default(),
            sandboxes: Semaphore::new(SANDBOXES_AT_A_TIME),
            tasks: Mutex::default(),
        }))
    }

    /// Runs pods until the drain begins. Containers go on afterwards.
    pub(crate) async fn run(&self, drain: Drain) {
        watch::run(&self.0, drain).await;
    }

    /// A pod by uid, when it has a sandbox. Of a static pod the mirror's uid will do as well.
    pub(crate) fn running(&self, uid: &str) -> Option<Running> {
        let task = self.task(uid)?;
        lock(&task.seen).running.clone()
    }

    fn task(&self, uid: &str) -> Option<Arc<Task>> {
        let tasks = lock(&self.0.tasks);
        let found = tasks.by_uid.get(uid).cloned();
        found.or_else(|| {
            let mut statics = tasks.by_uid.values().filter(|task| task.is_static);
            statics.find(|task| lock(&task.seen).mirror == uid).cloned()
        })
    }

    /// All pods that have a sandbox.
    pub(crate) fn all(&self) -> Vec<Running> {
        let tasks: Vec<_> = lock(&self.0.tasks).by_uid.values().cloned().collect();
        tasks
            .iter()
            .filter_map(|task| lock(&task.seen).running.clone())
            .collect()
    }

    /// Ends a pod for the machine's sake. Its phase becomes `Failed` when nothing of it runs any more. `grace`: seconds, as the pod says when
    /// `None`. False when there is no such pod.
    pub(crate) fn evict(&self, uid: &str, reason: &str, message: &str, grace: Option<i64>) -> bool {
        let Some(task) = self.task(uid) else { return false };
        let verdict = Verdict {
            reason: reason.to_owned(),
            message: message.to_owned(),
            grace,
            disruption: Some(message.to_owned()),
        };
        task.tell(|inbox| inbox.verdict = Some(verdict));
        true
    }
}

/// The folder of a pod's logs: `<namespace>_<name>_<uid>`.
pub(crate) fn log_dir(logs: &Path, key: &Key, uid: &str) -> PathBuf {
    logs.join(format!("{}_{}_{uid}", key.namespace, key.name))
}

impl Task {
    fn tell(&self, what: impl FnOnce(&mut Inbox)) {
        what(&mut lock(&self.inbox));
        self.wake.notify_one();
    }
}

impl Shared {
    fn now(&self) -> u64 {
        (self.options.wall)()
    }

    /// Notes whose a container or sandbox is, so that its events find their way.
    fn owns(&self, uid: &Arc<str>, id: &str) {
        lock(&self.tasks).owners.insert(id.to_owned(), Arc::clone(uid));
    }

    fn disowns(&self, id: &str) {
        lock(&self.tasks).owners.remove(id);
    }
}

#[cfg(test)]
mod storm;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
