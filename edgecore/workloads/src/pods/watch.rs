//! Follows the store and the runtime, and wakes the tasks that a change concerns. Decides nothing about a pod.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cri::{CriError, Events, Why, v1};
use daemon::drain::Drain;
use metastore::store::{Event, EventKind, Object, Tapped};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::observed::State;
use super::statics::{self, Statics};
use super::status::Place;
use super::worker::Worker;
use super::{Shared, Task, clean, labels, lock};
use crate::cluster::{CONFIG_MAPS, Key, PODS, SECRETS};

/// How often everything is listed though events come, in case one was lost.
const SAFETY: Duration = Duration::from_secs(60);
/// How often when the runtime tells no events.
const POLL: Duration = Duration::from_secs(1);
/// How often a runtime is tried that does not answer.
const TRY: Duration = Duration::from_secs(1);
/// How often the disk is looked at for what belongs to nobody, and when first.
const SWEEP: Duration = Duration::from_secs(600);
const SWEEP_FIRST: Duration = Duration::from_secs(10);
/// How often the folder of static pods is looked at.
const MANIFESTS: Duration = Duration::from_secs(20);
/// After a stream of events was asked for: when it is surely open.
const OPEN: Duration = Duration::from_secs(2);

/// How it stands with the runtime.
enum Link {
    /// It does not answer.
    Down,
    /// It tells what happens.
    Events(Box<Events>),
    /// It must be asked.
    Silent,
}

pub(super) async fn run(shared: &Arc<Shared>, drain: Drain) {
    let mut tap = shared.cluster.store().tap(|event| {
        let key = &event.object.key;
        PODS.is_of(key) || CONFIG_MAPS.is_of(key) || SECRETS.is_of(key)
    });
    let mut link = Link::Down;
    let mut sweep_at = Instant::now() + SWEEP_FIRST;
    let mut look_at = Instant::now();
    let mut statics = Statics::new(shared.options.manifests.clone(), shared.options.node.to_string());
    // Before anything of the runtime is called an orphan.
    let mut statics_at = manifests(shared, &mut statics, &drain);
    all_pods(shared, &drain);
    loop {
        tokio::select! {
            biased;
            () = drain.stopping() => return,
            tapped = tap.next() => match tapped {
                Tapped::Event(event) => note(shared, &event, &drain),
                Tapped::Missed => missed(shared, &drain),
                Tapped::Closed => return,
            },
            happened = next(&mut link) => match happened {
                Ok(happened) => happened_to(shared, &happened.id),
                Err(e) if e.why() == Why::Unimplemented => {
                    tracing::info!("The container runtime tells no events: it is asked every second.");
                    link = Link::Silent;
                    look_at = Instant::now() + POLL;
                }
                Err(e) => {
                    tracing::warn!(error = %e, "The container runtime went away. Containers go on.");
                    link = Link::Down;
                    look_at = Instant::now() + TRY;
                }
            },
            () = tokio::time::sleep_until(sweep_at) => {
                // Only while the runtime tells what there is.
                let ready = !matches!(link, Link::Down) && shared.options.trust_store;
                sweep_at = Instant::now() + if ready { SWEEP } else { SAFETY };
                // A pod whose task broke before anything of it began gets another one.
                all_pods(shared, &drain);
                if ready {
                    let shared = Arc::clone(shared);
                    drop(drain.spawn(async move { clean::sweep(&shared).await }));
                }
            }
            () = tokio::time::sleep_until(statics_at) => statics_at = manifests(shared, &mut statics, &drain),
            () = tokio::time::sleep_until(look_at) => {
                let back = matches!(link, Link::Down);
                look_at = match list(shared, &drain, back).await {
                    Err(e) => {
                        if !back {
                            tracing::warn!(error = %e, "The container runtime does not answer.");
                        }
                        link = Link::Down;
                        Instant::now() + TRY
                    }
                    Ok(()) if back => {
                        link = Link::Events(Box::new(shared.runtime.events()));
                        Instant::now() + OPEN
                    }
                    Ok(()) => Instant::now() + if matches!(link, Link::Silent) { POLL } else { SAFETY },
                };
            }
        }
    }
}

async fn next(link: &mut Link) -> Result<cri::Happened, CriError> {
    match link {
        Link::Events(events) => events.next().await,
        Link::Down | Link::Silent => std::future::pending().await,
    }
}

fn happened_to(shared: &Shared, id: &str) {
    let tasks = lock(&shared.tasks);
    let owner = tasks.owners.get(id).and_then(|uid| tasks.by_uid.get(uid)).cloned();
    drop(tasks);
    if let Some(task) = owner {
        task.tell(|inbox| {
            if !inbox.ids.iter().any(|known| known == id) {
                inbox.ids.push(id.to_owned());
            }
        });
    }
}

/// Makes sure that every pod of this node has a task.
fn all_pods(shared: &Arc<Shared>, drain: &Drain) {
    match shared.cluster.list(PODS, None) {
        Ok(pods) => {
            for pod in pods {
                wanted(shared, &pod, drain);
            }
        }
        Err(e) => tracing::warn!(error = %e, "Pods cannot be listed."),
    }
}

/// The store told less than happened: it may have been deletions, or contents of volumes.
pub(super) fn missed(shared: &Arc<Shared>, drain: &Drain) {
    all_pods(shared, drain);
    let tasks: Vec<_> = lock(&shared.tasks).by_uid.values().cloned().collect();
    for task in tasks {
        task.tell(|inbox| {
            inbox.pod = true;
            inbox.files = true;
        });
    }
}

fn note(shared: &Arc<Shared>, event: &Event, drain: &Drain) {
    let key = &event.object.key;
    let shown = !PODS.is_of(key)
        || event
            .previous
            .as_ref()
            .is_some_and(|before| metadata_differs(before, &event.object));
    if shown {
        for uid in shared.means.concerned(key) {
            let task = lock(&shared.tasks).by_uid.get(uid.as_str()).cloned();
            if let Some(task) = task {
                task.tell(|inbox| inbox.files = true);
            }
        }
    }
    if !PODS.is_of(key) {
        return;
    }
    let Ok(pod) = event.object.value() else { return };
    let last = event.object.json.clone();
    if event.kind != EventKind::Deleted {
        wanted(shared, &pod, drain);
        return;
    }
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    let task = lock(&shared.tasks).by_uid.get(uid).cloned();
    if let Some(task) = task {
        task.tell(|inbox| {
            inbox.pod = true;
            inbox.last = Some(last);
        });
    }
}

/// Whether what a pod's volumes may show of itself differs.
fn metadata_differs(before: &Object, after: &Object) -> bool {
    let (Ok(before), Ok(after)) = (before.value(), after.value()) else {
        return true;
    };
    ["labels", "annotations"]
        .iter()
        .any(|field| before["metadata"][field] != after["metadata"][field])
}

/// The store holds this pod: its task is told, or made.
fn wanted(shared: &Arc<Shared>, pod: &Value, drain: &Drain) {
    let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
    if uid.is_empty() || pod["spec"]["nodeName"] != *shared.options.node {
        return;
    }
    let stands_for = pod["metadata"]["annotations"][statics::MIRROR].as_str();
    let task = lock(&shared.tasks).by_uid.get(stands_for.unwrap_or(uid)).cloned();
    match task {
        Some(task) => task.tell(|inbox| inbox.pod = true),
        None if stands_for.is_some() => {
            // Its manifest went while nobody looked.
            let (shared, key, uid) = (Arc::clone(shared), Key::of(pod), uid.to_owned());
            drop(drain.spawn(async move {
                if let Err(e) = statics::forget(&shared, &key, &uid).await {
                    tracing::debug!(pod = %key, error = %e, "The mirror of a static pod cannot be removed.");
                }
            }));
        }
        None => begin(shared, uid, Key::of(pod), None, false, drain),
    }
}

/// Starts tasks of new manifests and ends those of old ones. When to look again.
fn manifests(shared: &Arc<Shared>, statics: &mut Statics, drain: &Drain) -> Instant {
    let wanted = statics.look(shared.now());
    let tasks: Vec<_> = lock(&shared.tasks)
        .by_uid
        .values()
        .filter(|t| t.is_static)
        .cloned()
        .collect();
    for task in tasks.iter().filter(|task| !wanted.iter().any(|m| *m.uid == *task.uid)) {
        task.tell(|inbox| inbox.withdrawn = true);
    }
    let mut waits = false;
    for manifest in wanted {
        if tasks.iter().any(|task| *task.uid == *manifest.uid) {
            continue;
        }
        // The one before it goes first, and so does whoever ends what a broken task left.
        let taken = lock(&shared.tasks).by_uid.contains_key(&*manifest.uid);
        if taken || tasks.iter().any(|task| task.key == manifest.key) {
            waits = true;
            continue;
        }
        begin(
            shared,
            &manifest.uid,
            manifest.key.clone(),
            Some(manifest.object.clone()),
            true,
            drain,
        );
    }
    Instant::now() + if waits { POLL } else { MANIFESTS }
}

fn begin(shared: &Arc<Shared>, uid: &str, key: Key, last: Option<Bytes>, is_static: bool, drain: &Drain) {
    let uid: Arc<str> = uid.into();
    let task = Arc::new(Task {
        uid: Arc::clone(&uid),
        key,
        is_static,
        inbox: Default::default(),
        wake: Notify::new(),
        seen: Default::default(),
    });
    lock(&shared.tasks).by_uid.insert(uid, Arc::clone(&task));
    let worker = Worker::new(Arc::clone(shared), task, last);
    drop(drain.spawn(worker.run(drain.clone())));
}

/// What the runtime has of one pod, as its lists tell.
#[derive(Default)]
struct Listed {
    key: Option<Key>,
    view: Vec<(String, u8)>,
    containers: Vec<String>,
    /// Seconds.
    grace: Option<i64>,
}

/// Lists everything of this node. Tasks whose view differs look for themselves, all of them when the runtime is `back`; what no pod of the store
/// wants is ended.
async fn list(shared: &Arc<Shared>, drain: &Drain, back: bool) -> Result<(), CriError> {
    let (sandboxes, containers) = labels::filters(&shared.options.node, None);
    let sandboxes = shared.runtime.list_pod_sandboxes(sandboxes).await?;
    let containers = shared.runtime.list_containers(containers).await?;
    let mut pods: BTreeMap<String, Listed> = BTreeMap::new();
    let said = |labels: &BTreeMap<String, String>, key: &str| labels.get(key).cloned().unwrap_or_default();
    for sandbox in sandboxes {
        let listed = pods.entry(said(&sandbox.labels, labels::POD_UID)).or_default();
        let name = said(&sandbox.labels, labels::POD_NAME);
        listed.key = Some(Key::new(said(&sandbox.labels, labels::POD_NAMESPACE), name));
        let ready = sandbox.state == v1::PodSandboxState::SandboxReady as i32;
        listed.view.push((sandbox.id, u8::from(ready)));
    }
    for container in containers {
        let listed = pods.entry(said(&container.labels, labels::POD_UID)).or_default();
        let name = said(&container.labels, labels::POD_NAME);
        listed.key = Some(Key::new(said(&container.labels, labels::POD_NAMESPACE), name));
        listed.containers.push(said(&container.labels, labels::CONTAINER_NAME));
        listed.grace = container
            .annotations
            .get(labels::GRACE)
            .and_then(|g| g.parse().ok())
            .or(listed.grace);
        listed.view.push((container.id, State::of(container.state) as u8));
    }
    let tasks: Vec<_> = lock(&shared.tasks).by_uid.values().cloned().collect();
    for task in tasks {
        let mut view = pods.remove(&*task.uid).unwrap_or_default().view;
        view.sort_unstable();
        let view: Vec<(&str, u8)> = view.iter().map(|(id, state)| (id.as_str(), *state)).collect();
        if back || lock(&task.seen).view != crate::time::fingerprint(&view) {
            task.tell(|inbox| inbox.relist = true);
        }
    }
    for (uid, listed) in pods {
        orphan(shared, &uid, listed, drain);
    }
    Ok(())
}

/// The runtime has something of a pod without a task: one that the store wants gets another task, others are ended, as gently as their records
/// allow.
fn orphan(shared: &Arc<Shared>, uid: &str, listed: Listed, drain: &Drain) {
    let Some(key) = listed.key.filter(|_| !uid.is_empty()) else {
        return;
    };
    let Ok(held) = shared.cluster.get(PODS, &key) else {
        return;
    };
    if let Some(pod) = held.filter(|p| p["metadata"]["uid"] == uid) {
        // Its task broke: the next one goes on with what is there.
        wanted(shared, &pod, drain);
        return;
    }
    if !shared.options.trust_store {
        return;
    }
    tracing::info!(pod = %key, uid, "The store does not want this pod any more: it is ended.");
    let containers: Vec<Value> = listed.containers.iter().map(|name| json!({"name": name})).collect();
    let last = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": &*key.name, "namespace": &*key.namespace, "uid": uid},
        "spec": {"containers": containers, "terminationGracePeriodSeconds": listed.grace.unwrap_or(30)},
    });
    begin(shared, uid, key, Some(last.to_string().into()), false, drain);
}

impl Shared {
    /// What statuses need to know of the machine.
    pub(super) fn place(&self) -> Place {
        Place {
            host_ips: (self.options.host_ips)(),
            runtime: self.runtime_name.get().map_or_else(|| "containerd".into(), Arc::clone),
        }
    }

    /// Asks the runtime once for its name, which stands in every container's id.
    ///
    /// # Errors
    /// [`CriError`].
    pub(super) async fn name_runtime(&self) -> Result<(), CriError> {
        let ask = || async {
            let request = v1::VersionRequest {
                version: "v1".to_owned(),
            };
            let is = self.runtime.version(request).await?;
            Ok::<Arc<str>, CriError>(is.runtime_name.into())
        };
        self.runtime_name.get_or_try_init(ask).await?;
        Ok(())
    }

    /// A task has ended.
    pub(super) fn forget(&self, task: &Arc<Task>) {
        let mut tasks = lock(&self.tasks);
        if tasks.by_uid.get(&task.uid).is_some_and(|t| Arc::ptr_eq(t, task)) {
            tasks.by_uid.remove(&task.uid);
        }
        tasks.owners.retain(|_, owner| *owner != task.uid);
    }
}
