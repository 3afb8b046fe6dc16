//! The task of one pod: it looks, plans, writes the status, acts, and waits for something to happen.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cri::CriError;
use daemon::drain::Drain;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use metastore::api::{DeleteOptions, Status};
use metastore::store::{Object, ObjectKey};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::memory::{LONGEST_WAIT, Memory, Refused, Said, Verdict};
use super::observed::{Observed, Seen, State};
use super::ops::{Hands, Outcome, Where};
use super::plan::{Action, Goal, Look, MAX_GRACE, Plan};
use super::probe::Watches;
use super::{Inbox, Running, RunningContainer, Shared, Task, lock, log_dir, look, plan, statics, status};
use crate::cluster::PODS;
use crate::events::Tone;
use crate::pod::Pod;

/// When files that could not be brought up to date are tried again.
const STALE: Duration = Duration::from_secs(60);
/// How long a status waits to be written while something is under way that will change it again.
const SETTLES: Duration = Duration::from_millis(250);
/// How long after a failed try the next one comes, when nobody says, in milliseconds: doubled up to the second.
const RETRY: u64 = 1000;
/// How long after an end was told the runtime is asked again, tripled each time, and how often.
const DOUBT: Duration = Duration::from_millis(25);
const DOUBTS: u32 = 6;
/// When a static pod that cannot be shown in the API is tried again.
const SHOW: Duration = Duration::from_secs(20);
const RETRY_MOST: u64 = 10_000;

type Op = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Lets go of a task that panics, so that its pod gets another one.
struct Broken(Arc<Shared>, Arc<Task>);

impl Drop for Broken {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.forget(&self.1);
        }
    }
}

/// See the module.
pub(super) struct Worker {
    shared: Arc<Shared>,
    task: Arc<Task>,
    memory: Memory,
    observed: Observed,
    /// The runtime has been looked at.
    known: bool,
    ops: FuturesUnordered<Op>,
    /// Gives up starts (by name) and stops (by id).
    tokens: BTreeMap<String, CancellationToken>,
    watches: Watches,
    /// Ids of what is said to have ended and still seems to run: when to look again, and how often that was done.
    doubts: BTreeMap<String, (Instant, u32)>,
    /// What probes said before this task was there has been taken from the status, and files have been brought up to date.
    seeded: bool,
    /// The object as it was last, as JSON: a Pod as a value takes ten times the memory.
    last: Option<Bytes>,
    /// Its version.
    version: String,
    /// The manifest of a static pod is gone.
    withdrawn: bool,
    /// The status of a static pod, for as long as it has no mirror that keeps it, and when one is to be tried again.
    unshown: Value,
    /// There is an object that keeps the status.
    shown: bool,
    show_at: Option<Instant>,
    /// Since when the stored status is not what it should be.
    unwritten: Option<Instant>,
    /// Fingerprint of the status that was written last, and the version that this made.
    written: (u64, String),
    /// Containers whose back-off has been told of.
    told: BTreeMap<String, u32>,
    /// What its files show has changed; when they are to be tried again that could not be written; they are being written.
    files_due: bool,
    files_at: Option<Instant>,
    refreshing: bool,
    /// The machine has been asked whether it takes the pod.
    admitted: bool,
}

impl Worker {
    /// `last`: the object, for a pod that the store does not hold.
    pub(super) fn new(shared: Arc<Shared>, task: Arc<Task>, last: Option<Bytes>) -> Self {
        Self {
            shared,
            task,
            memory: Memory::default(),
            observed: Observed::default(),
            known: false,
            ops: FuturesUnordered::new(),
            tokens: BTreeMap::new(),
            watches: Watches::default(),
            doubts: BTreeMap::new(),
            seeded: false,
            last,
            version: String::new(),
            withdrawn: false,
            unshown: Value::Null,
            shown: true,
            show_at: None,
            unwritten: None,
            written: (0, String::new()),
            told: BTreeMap::new(),
            files_due: false,
            files_at: None,
            refreshing: false,
            admitted: false,
        }
    }

    /// Until nothing is left of the pod, or the drain begins.
    pub(super) async fn run(mut self, drain: Drain) {
        let _broken = Broken(Arc::clone(&self.shared), Arc::clone(&self.task));
        let (mut wake, mut look) = (Instant::now(), true);
        loop {
            if look {
                let inbox = std::mem::take(&mut *lock(&self.task.inbox));
                wake = tokio::select! {
                    biased;
                    () = drain.stopping() => return,
                    wake = self.step(inbox) => match wake {
                        Some(wake) => wake,
                        None => break,
                    },
                };
            }
            let due = self.probe();
            look = tokio::select! {
                biased;
                () = drain.stopping() => return,
                () = self.task.wake.notified() => true,
                Some(outcome) = self.ops.next(), if !self.ops.is_empty() => self.settle(outcome).await,
                () = tokio::time::sleep_until(wake) => true,
                () = sleep_until(due) => false,
            }
        }
        self.shared.forget(&self.task);
    }

    /// One look. When to look again at the latest; `None`: nothing is left of the pod.
    async fn step(&mut self, inbox: Inbox) -> Option<Instant> {
        let now = Instant::now();
        if let Err(e) = self.hear(inbox).await {
            tracing::debug!(pod = %self.task.key, error = %e, "The runtime cannot be looked at.");
            self.known = false;
            // Sooner when the runtime is back: then every task is told.
            return Some(now + Duration::from_secs(30));
        }
        self.publish();
        let Some(pod) = self.load() else {
            // Nobody knows what it was; what the runtime has of it is an orphan and comes with its labels.
            return None;
        };
        let pod = Arc::new(pod);
        let wall = self.shared.now();
        self.seed(&pod);
        self.admit(&pod);
        let look = Look {
            pod: &pod,
            observed: &self.observed,
            memory: &self.memory,
            now: wall,
        };
        if self.files_at.is_some_and(|at| at <= now) {
            self.files_at = None;
            self.files_due = true;
        }
        let plan = plan::plan(look);
        if plan.goal != Goal::Run && self.memory.ending_since.is_none() {
            self.memory.ending_since = Some(wall);
            return Some(now);
        }
        let last = plan.actions.contains(&Action::Delete);
        let due = self.write(&pod, &plan, last).await;
        if last && !self.delete().await {
            return Some(now + Duration::from_secs(1));
        }
        if last {
            super::clean::log_folder(&log_dir(&self.shared.options.logs, &self.task.key, &self.task.uid));
            return None;
        }
        self.watch(&pod, plan.goal != Goal::Run, wall);
        self.refresh_files(&pod);
        let hands = self.hands(pod);
        self.tell(&hands, &plan);
        for action in plan.actions {
            self.act(&hands, action);
        }
        let doubt = self.doubts.values().map(|(at, _)| *at).min();
        let files = self.files_at;
        let wake = plan
            .wake_at
            .map(|at| now + Duration::from_millis(at.saturating_sub(wall)));
        let far = now + Duration::from_secs(3600);
        Some([wake, due, doubt, files].into_iter().flatten().min().unwrap_or(far))
    }

    /// Takes in what was told, and looks at what it names.
    async fn hear(&mut self, inbox: Inbox) -> Result<(), CriError> {
        if let Some(verdict) = inbox.verdict {
            self.memory.verdict.get_or_insert(verdict);
        }
        if let Some(last) = inbox.last.filter(|_| !self.task.is_static) {
            self.last = Some(last);
        }
        self.withdrawn |= inbox.withdrawn;
        self.files_due |= inbox.files;
        let now = Instant::now();
        self.doubts.extend(inbox.ids.into_iter().map(|id| (id, (now, 0))));
        if inbox.relist || !self.known {
            return self.relist().await;
        }
        let due: Vec<String> = self
            .doubts
            .iter()
            .filter(|(_, (at, _))| *at <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            self.refresh(&id).await?;
            self.doubt(&id, now);
        }
        Ok(())
    }

    /// An end is told before the runtime itself has taken it in: what still seems to run is looked at again, a few times.
    fn doubt(&mut self, id: &str, now: Instant) {
        let runs = self.observed.container(id).is_some_and(Seen::may_run);
        let ready = self.observed.sandboxes.iter().any(|s| s.id == id && s.ready);
        let tries = self.doubts.get(id).map_or(0, |(_, tries)| *tries);
        if (runs || ready) && tries < DOUBTS {
            let wait = DOUBT * 3u32.pow(tries);
            self.doubts.insert(id.to_owned(), (now + wait, tries + 1));
        } else {
            self.doubts.remove(id);
        }
    }

    async fn relist(&mut self) -> Result<(), CriError> {
        let observed = look::all(&self.shared, &self.task.uid, &self.observed).await?;
        for id in ids(&self.observed).filter(|id| !ids(&observed).any(|other| other == *id)) {
            self.shared.disowns(id);
        }
        for id in ids(&observed) {
            self.shared.owns(&self.task.uid, id);
        }
        for seen in &observed.containers {
            self.memory.note(seen);
        }
        self.memory.said.retain(|id, _| observed.container(id).is_some());
        self.memory.resized.retain(|id, _| observed.container(id).is_some());
        self.observed = observed;
        self.known = true;
        Ok(())
    }

    /// One container or sandbox.
    async fn refresh(&mut self, id: &str) -> Result<(), CriError> {
        if let Some(before) = self.observed.container(id) {
            let sandbox = before.sandbox.clone();
            return match look::container(&self.shared, id, &sandbox).await? {
                Some(seen) => {
                    self.memory.note(&seen);
                    self.observed.put(seen);
                    Ok(())
                }
                None => self.relist().await,
            };
        }
        match look::sandbox(&self.shared, id).await? {
            Some(sandbox) if self.observed.sandboxes.iter().any(|s| s.id == id) => self.observed.put_sandbox(sandbox),
            _ => self.relist().await?,
        }
        Ok(())
    }

    /// What others see of the pod.
    fn publish(&self) {
        let running = self.observed.sandboxes.first().map(|sandbox| {
            let mut containers: Vec<RunningContainer> = Vec::new();
            for seen in &self.observed.containers {
                if !containers.iter().any(|c| c.name == seen.name) {
                    containers.push(RunningContainer {
                        name: seen.name.clone(),
                        id: seen.id.clone(),
                        attempt: seen.attempt,
                        state: seen.state,
                        log_path: seen.log_path.clone().into(),
                    });
                }
            }
            Running {
                pod: self.task.key.clone(),
                uid: self.task.uid.to_string(),
                sandbox: sandbox.id.clone(),
                ips: sandbox.ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
                containers,
            }
        });
        let mut view: Vec<(&str, u8)> = Vec::new();
        view.extend(
            self.observed
                .sandboxes
                .iter()
                .map(|s| (s.id.as_str(), u8::from(s.ready))),
        );
        view.extend(self.observed.containers.iter().map(|c| (c.id.as_str(), c.state as u8)));
        view.sort_unstable();
        let mut seen = lock(&self.task.seen);
        seen.running = running;
        seen.view = crate::time::fingerprint(&view);
    }

    /// The pod as the store has it; as it was last, and to be ended, when the store has it no more.
    fn load(&mut self) -> Option<Pod> {
        if self.task.is_static {
            return self.load_static();
        }
        let key = &self.task.key;
        let place = ObjectKey::new(
            PODS.group,
            PODS.plural,
            Arc::clone(&key.namespace),
            Arc::clone(&key.name),
        );
        let stored = match self.shared.cluster.store().get(&place) {
            Ok(found) => found,
            // Not readable now: as it was.
            Err(e) => {
                tracing::warn!(pod = %key, error = %e, "A Pod cannot be read.");
                return self.read();
            }
        };
        let ours = stored.and_then(|object: Object| {
            let pod: Pod = serde_json::from_slice(&object.json).ok()?;
            (*pod.metadata.uid == *self.task.uid).then_some((object, pod))
        });
        self.memory.absent = ours.is_none();
        if let Some((object, pod)) = ours {
            self.last = Some(object.json);
            self.version = object.revision.to_string();
            return Some(pod);
        }
        let pod = self.read()?;
        Some(self.ending(pod))
    }

    /// The manifest, with the status that its mirror has.
    fn load_static(&mut self) -> Option<Pod> {
        let mut pod = self.read()?;
        let mirror = statics::mirror(&self.shared, &self.task.key, &self.task.uid);
        let metadata = mirror.as_ref().map(|m| &m["metadata"]);
        let text = |field: &str| metadata.and_then(|m| m[field].as_str()).unwrap_or_default().to_owned();
        self.version = text("resourceVersion");
        lock(&self.task.seen).mirror = text("uid");
        self.shown = metadata.is_some_and(|m| m["deletionTimestamp"].is_null());
        pod.status = match mirror {
            Some(mut mirror) => mirror["status"].take(),
            None => self.unshown.clone(),
        };
        self.memory.absent = self.withdrawn;
        Some(if self.withdrawn { self.ending(pod) } else { pod })
    }

    /// A pod that is to go though its object does not say so.
    fn ending(&mut self, mut pod: Pod) -> Pod {
        if !pod.is_terminating() {
            let since = *self.memory.ending_since.get_or_insert_with(|| self.shared.now());
            let grace = pod.spec.termination_grace_period_seconds.unwrap_or(30);
            let most = u64::try_from(grace).unwrap_or(0).min(MAX_GRACE);
            pod.metadata.deletion_timestamp = Some(crate::time::stamp(since.saturating_add(most * 1000)));
            pod.metadata.deletion_grace_period_seconds = i64::try_from(most).ok();
        }
        pod
    }

    /// The pod as it was last.
    fn read(&self) -> Option<Pod> {
        match serde_json::from_slice(self.last.as_ref()?) {
            Ok(pod) => Some(pod),
            Err(e) => {
                tracing::warn!(pod = %self.task.key, error = %e, "A Pod is not as the API lets it in.");
                None
            }
        }
    }

    fn hands(&self, pod: Arc<Pod>) -> Hands {
        let m = &pod.metadata;
        let about = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": m.name, "namespace": m.namespace, "uid": m.uid, "resourceVersion": self.version},
        });
        let own = self.observed.current().and_then(|s| s.ips.first().cloned());
        let host = || (self.shared.options.host_ips)().into_iter().next();
        let ip = own.or_else(|| if pod.spec.host_network { host() } else { None });
        Hands {
            shared: Arc::clone(&self.shared),
            uid: Arc::clone(&self.task.uid),
            about: Arc::new(about),
            ip: ip.unwrap_or_default().into(),
            pod,
        }
    }

    /// What probes said before this task was there stands in the status: a restart of the agent makes nothing unready. What was stored meanwhile
    /// comes into its files.
    fn seed(&mut self, pod: &Pod) {
        if std::mem::replace(&mut self.seeded, true) {
            return;
        }
        for seen in self.observed.containers.iter().filter(|c| c.state == State::Running) {
            let told = plan::status_of(pod, &seen.name);
            if told["containerID"].as_str().is_some_and(|id| id.ends_with(&seen.id)) {
                let said = Said {
                    startup: (told["started"] == true).then_some(true),
                    readiness: (told["ready"] == true).then_some(true),
                    liveness: None,
                };
                self.memory.said.insert(seen.id.clone(), said);
            }
        }
        // What ended because the machine did has not crashed: it starts at once, however often the power goes.
        if self.observed.current().is_none() {
            let ended = self.observed.containers.iter().filter(|c| c.state == State::Exited);
            for seen in ended {
                self.memory.starts_anew(seen);
            }
        }
        // The agent may have been killed between a change and its files.
        self.files_due |= self.observed.containers.iter().any(Seen::may_run);
    }

    /// Asks the machine once whether it takes the pod, before anything of it begins.
    fn admit(&mut self, pod: &Pod) {
        if std::mem::replace(&mut self.admitted, true) {
            return;
        }
        let begun = !self.observed.is_empty() || pod.status["startTime"].is_string();
        if begun || self.task.is_static || pod.is_terminating() || self.memory.verdict.is_some() {
            return;
        }
        let placed = pod.condition("PodScheduled") == Some("True");
        if let Err(refusal) = self.shared.means.admits(pod, placed) {
            let about = self.hands(Arc::new(pod.clone())).about;
            let reason = refusal.reason.clone();
            self.shared
                .recorder
                .tell(&about, Tone::Warning, reason, refusal.message.as_str());
            self.memory.verdict = Some(Verdict {
                reason: refusal.reason,
                message: refusal.message,
                grace: None,
                disruption: None,
            });
        }
    }

    /// Brings the watches in line with what runs.
    fn watch(&mut self, pod: &Pod, ending: bool, now: u64) {
        let sidecars = pod.spec.init_containers.iter().filter(|c| c.is_sidecar());
        let starting = &self.memory.busy.starts;
        let all = sidecars
            .chain(&pod.spec.containers)
            .filter(|c| !starting.contains(&c.name));
        let running = all.filter_map(|c| Some((c, self.observed.latest(&c.name)?)));
        self.watches.tend(running, ending, now);
    }

    /// Asks what is due. When the next question is.
    fn probe(&mut self) -> Option<Instant> {
        let now = self.shared.now();
        let due = self.watches.due(now, |id| self.memory.said(id));
        if !due.is_empty()
            && let Some(pod) = self.read()
        {
            let hands = self.hands(Arc::new(pod));
            for due in due {
                self.ops.push(Box::pin(hands.clone().probe(due)));
            }
        }
        let next = self.watches.next(|id| self.memory.said(id))?;
        Some(Instant::now() + Duration::from_millis(next.saturating_sub(now).max(1)))
    }

    /// Writes the status when it is not what it should be. When it is due, if it waits.
    async fn write(&mut self, pod: &Pod, plan: &Plan, last: bool) -> Option<Instant> {
        if self.memory.absent {
            return None;
        }
        let look = Look {
            pod,
            observed: &self.observed,
            memory: &self.memory,
            now: self.shared.now(),
        };
        let new = status::status(look, plan, &self.shared.place());
        let print = crate::time::fingerprint(&new.to_string());
        if self.shown && (new == pod.status || (self.written.0 == print && self.written.1 == self.version)) {
            self.unwritten = None;
            return None;
        }
        let since = *self.unwritten.get_or_insert_with(Instant::now);
        let settling =
            !self.memory.busy.is_idle() || plan.actions.iter().any(|action| changes_soon(&plan.goal, action));
        if settling && !last && since.elapsed() < SETTLES {
            return Some(since + SETTLES);
        }
        if self.task.is_static {
            self.unshown = new.clone();
            let now = Instant::now();
            if let Some(at) = self.show_at.filter(|at| now < *at) {
                return Some(at);
            }
            let manifest = self.last.clone().unwrap_or_default();
            match statics::show(&self.shared, &self.task.key, &self.task.uid, &manifest).await {
                Ok(mirror) => {
                    lock(&self.task.seen).mirror = mirror["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
                }
                Err(e) => {
                    tracing::warn!(pod = %self.task.key, error = %e, "A static pod runs, and cannot be shown in the API.");
                    let again = now + SHOW;
                    self.show_at = Some(again);
                    return Some(again);
                }
            }
            self.show_at = None;
        }
        let (uid, is_static) = (Arc::clone(&self.task.uid), self.task.is_static);
        let change = |object: &mut Value| {
            let metadata = &object["metadata"];
            let its = if is_static {
                &metadata["annotations"][statics::MIRROR]
            } else {
                &metadata["uid"]
            };
            if *its != *uid {
                return Err(gone());
            }
            status::merge(object, new.clone());
            Ok(())
        };
        match self.shared.cluster.modify_status(PODS, &self.task.key, change).await {
            Ok(object) => {
                let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
                self.written = (print, version.to_owned());
                self.unwritten = None;
                None
            }
            Err(e) if e.code == 404 => {
                self.task.tell(|inbox| inbox.pod = true);
                None
            }
            Err(e) => {
                tracing::warn!(pod = %self.task.key, error = %e, "The status of a Pod cannot be written.");
                Some(Instant::now() + Duration::from_secs(2))
            }
        }
    }

    /// Removes the object. Whether it is gone.
    async fn delete(&mut self) -> bool {
        // Asked once more: an answer that was lost may have left something.
        if self.relist().await.is_err() || !self.observed.is_empty() {
            return false;
        }
        if let Some(mirror) =
            statics::mirror(&self.shared, &self.task.key, &self.task.uid).filter(|_| self.task.is_static)
        {
            let uid = mirror["metadata"]["uid"].as_str().unwrap_or_default();
            return statics::forget(&self.shared, &self.task.key, uid).await.is_ok();
        }
        if self.memory.absent {
            return true;
        }
        let options = DeleteOptions {
            uid: Some(self.task.uid.to_string()),
            grace: Some(0),
            ..DeleteOptions::default()
        };
        match self.shared.cluster.delete(PODS, &self.task.key, &options).await {
            Ok(_) => true,
            // Another pod has its name by now.
            Err(e) if e.code == 409 => true,
            Err(e) => {
                tracing::warn!(pod = %self.task.key, error = %e, "A Pod that ended cannot be deleted.");
                false
            }
        }
    }

    /// Tells of containers that wait to be restarted, once for each wait.
    fn tell(&mut self, hands: &Hands, plan: &Plan) {
        for (name, _) in &plan.backing_off {
            let Some(seen) = self.observed.latest(name) else {
                continue;
            };
            if self.told.insert(name.clone(), seen.attempt) != Some(seen.attempt) {
                let m = &hands.pod.metadata;
                let message = format!(
                    "Back-off restarting failed container {name} in pod {}_{}({})",
                    m.name, m.namespace, m.uid
                );
                hands.tell_of(name, Tone::Warning, "BackOff", message);
            }
        }
    }

    /// Sets an action going.
    fn act(&mut self, hands: &Hands, action: Action) {
        let busy = &mut self.memory.busy;
        let hands = hands.clone();
        let op: Op = match action {
            Action::RunSandbox { attempt } => {
                busy.sandbox = true;
                // Its end frees them again.
                self.memory.torn_down = false;
                Box::pin(hands.sandbox(attempt))
            }
            Action::StopSandbox { id } => {
                busy.ids.insert(id.clone());
                Box::pin(hands.stop_sandbox(id))
            }
            Action::RemoveSandbox { id } => {
                busy.ids.insert(id.clone());
                Box::pin(hands.remove_sandbox(id))
            }
            Action::Start { name, attempt, sandbox } => {
                let Some(found) = self.observed.sandboxes.iter().find(|s| s.id == sandbox) else {
                    return;
                };
                let target = hands.pod.container(&name).map(|c| c.target_container_name.clone());
                let target = target
                    .and_then(|t| self.observed.latest(&t))
                    .filter(|s| s.state == State::Running);
                let place = Where {
                    attempt: found.attempt,
                    ips: found.ips.clone(),
                    target: target.map(|s| s.id.clone()),
                    sandbox,
                };
                busy.starts.insert(name.clone());
                let token = CancellationToken::new();
                self.tokens.insert(name.clone(), token.clone());
                Box::pin(hands.start(name, attempt, place, token))
            }
            Action::Stop {
                id,
                name,
                deadline,
                message,
            } => {
                let again = !busy.ids.insert(id.clone());
                busy.stops.insert(id.clone(), deadline);
                let token = CancellationToken::new();
                if let Some(before) = self.tokens.insert(id.clone(), token.clone()) {
                    before.cancel();
                }
                Box::pin(hands.stop(id, name, deadline, message, again, token))
            }
            Action::RemoveContainer { id } => {
                busy.ids.insert(id.clone());
                let log = self
                    .observed
                    .container(&id)
                    .map(|c| c.log_path.clone())
                    .unwrap_or_default();
                Box::pin(hands.remove_container(id, log))
            }
            Action::GiveUp { name } => {
                if let Some(token) = self.tokens.get(&name) {
                    token.cancel();
                }
                return;
            }
            Action::Resize { id, name } => {
                busy.ids.insert(id.clone());
                Box::pin(hands.resize(id, name))
            }
            Action::TearDown => {
                busy.volumes = true;
                Box::pin(hands.tear_down())
            }
            Action::Delete => return,
        };
        self.ops.push(op);
    }

    /// Brings files up to date that are not: with the pod as it is now, one time after another, so that nothing older comes last.
    fn refresh_files(&mut self, pod: &Arc<Pod>) {
        if self.files_due && !self.refreshing && !self.memory.torn_down {
            (self.files_due, self.refreshing) = (false, true);
            let hands = self.hands(Arc::clone(pod));
            self.ops.push(Box::pin(hands.refresh()));
        }
    }

    /// Takes in how an action went. Whether that is worth a look.
    async fn settle(&mut self, outcome: Outcome) -> bool {
        let busy = &mut self.memory.busy;
        let now = self.shared.now();
        match outcome {
            Outcome::Sandbox(Ok(id)) => {
                busy.sandbox = false;
                self.memory.sandbox_refused = None;
                self.made_sandbox(&id).await;
            }
            Outcome::Sandbox(Err(refusal)) => {
                busy.sandbox = false;
                let times = self.memory.sandbox_refused.as_ref().map_or(0, |r| r.times);
                let wait = refusal.after.map_or_else(|| retry(times), millis);
                self.memory.sandbox_refused = Some(Refused {
                    reason: refusal.reason,
                    message: refusal.message,
                    retry_at: now + wait.min(LONGEST_WAIT),
                    times: times + 1,
                });
                self.stale().await;
            }
            Outcome::Started { name, result, made } => {
                busy.starts.remove(&name);
                self.tokens.remove(&name);
                match result {
                    Ok(()) => {
                        self.memory.refused.remove(&name);
                    }
                    Err(refusal) => {
                        let times = self.memory.refused.get(&name).map_or(0, |r| r.times);
                        let wait = refusal.after.map_or_else(|| retry(times), millis);
                        self.memory
                            .refuse(&name, refusal.reason, refusal.message, now + wait.min(LONGEST_WAIT));
                    }
                }
                match made {
                    Some((id, sandbox)) => self.made(&id, &sandbox).await,
                    None => self.stale().await,
                }
            }
            Outcome::GivenUp { name } => {
                busy.starts.remove(&name);
                self.tokens.remove(&name);
            }
            Outcome::Stopped { id } => {
                busy.ids.remove(&id);
                busy.stops.remove(&id);
                self.tokens.remove(&id);
                if self.refresh(&id).await.is_err() {
                    self.known = false;
                }
            }
            Outcome::Replaced => return false,
            Outcome::Refreshed(ok) => {
                self.refreshing = false;
                if !ok {
                    self.files_at = Some(Instant::now() + STALE);
                }
                return !ok || self.files_due;
            }
            Outcome::Probed { due, answer } => {
                let said = self.memory.said.entry(due.id.clone()).or_default();
                return self.watches.answered(&due, &answer, said);
            }
            Outcome::SandboxStopped { id, ok } => {
                busy.ids.remove(&id);
                if ok {
                    self.memory.stopped.insert(id.clone());
                }
                let inhabited = self.observed.containers.iter().any(|c| c.sandbox == id && c.may_run());
                if ok && !inhabited {
                    self.made_sandbox(&id).await;
                } else {
                    self.stale().await;
                }
            }
            Outcome::Removed { id, ok } => {
                busy.ids.remove(&id);
                if ok {
                    self.memory.stopped.remove(&id);
                    self.memory.said.remove(&id);
                    self.removed(&id);
                } else {
                    self.stale().await;
                }
            }
            Outcome::Resized { id, to } => {
                busy.ids.remove(&id);
                if let Some(to) = to {
                    self.memory.resized.insert(id, to);
                }
            }
            Outcome::TornDown(ok) => {
                busy.volumes = false;
                self.memory.torn_down = ok;
            }
        }
        true
    }

    /// A container was made and started.
    async fn made(&mut self, id: &str, sandbox: &str) {
        match look::container(&self.shared, id, sandbox).await {
            Ok(Some(seen)) => {
                self.memory.note(&seen);
                self.observed.put(seen);
            }
            _ => self.stale().await,
        }
    }

    /// A sandbox was made, or stopped.
    async fn made_sandbox(&mut self, id: &str) {
        match look::sandbox(&self.shared, id).await {
            Ok(Some(sandbox)) => self.observed.put_sandbox(sandbox),
            _ => self.stale().await,
        }
    }

    /// A sandbox with all that was in it, or a container, is gone.
    fn removed(&mut self, id: &str) {
        let gone: Vec<String> = ids(&self.observed).filter(|other| *other == id).cloned().collect();
        let inside = self
            .observed
            .containers
            .iter()
            .filter(|c| c.sandbox == id)
            .map(|c| c.id.clone());
        for id in gone.into_iter().chain(inside) {
            self.shared.disowns(&id);
        }
        self.observed.containers.retain(|c| c.id != id && c.sandbox != id);
        self.observed.sandboxes.retain(|s| s.id != id);
    }

    /// What is known of the runtime is out of date.
    async fn stale(&mut self) {
        if let Err(e) = self.relist().await {
            tracing::debug!(pod = %self.task.key, error = %e, "The runtime cannot be looked at.");
            self.known = false;
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn ids(observed: &Observed) -> impl Iterator<Item = &String> {
    let sandboxes = observed.sandboxes.iter().map(|s| &s.id);
    sandboxes.chain(observed.containers.iter().map(|c| &c.id))
}

/// Whether the status will be another one soon.
const fn changes_soon(goal: &Goal, action: &Action) -> bool {
    match action {
        Action::RunSandbox { .. } | Action::Start { .. } => true,
        // Another one follows.
        Action::StopSandbox { .. } => matches!(goal, Goal::Run),
        _ => false,
    }
}

fn retry(times: u32) -> u64 {
    (RETRY << times.min(8)).min(RETRY_MOST)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn gone() -> Status {
    Status::not_found("", "pods", "another Pod has the name")
}
