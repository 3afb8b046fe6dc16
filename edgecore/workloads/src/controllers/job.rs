//! Jobs: pods until enough of them have succeeded, or too many failed.
//!
//! Owns the status of Jobs, the pods they make and the finalizer that holds each of these until it has been counted ([`tally`]). What is to be done
//! is worked out from the Job and its pods ([`picture`]); nothing is remembered between two looks.

mod backoff;
mod indexes;
#[cfg(test)]
mod kills;
mod picture;
mod policy;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use metastore::api::Status;
use serde_json::{Value, json};

use super::look::{
    WallClock, controller_of, is_controlled_by, is_ready, is_terminating, job_end, label, labels, list, name,
    namespace, owner_reference, selects, text, uid,
};
use super::shared::{create_pod, delete_pod, pod_of};
use super::{Change, Controller, Reconciled};
use crate::cluster::{Cluster, JOBS, Key, Kind, PODS};
use crate::events::{Recorder, Tone};
use picture::{Count, FAILURES, IGNORED_FAILURES, INDEX, MOST_AT_ONCE, Picture, Step};
pub(crate) use picture::{FINALIZER, is_held};
use tally::{Ending, Tally};

/// Who manages a Job that names nobody.
const MANAGER: &str = "kubernetes.io/job-controller";
/// Pods that are made at a time.
const MOST_MADE: usize = 16;
/// Longest name that is generated, without what is added to it.
const MOST_NAME: usize = 58;

/// Brings Jobs to their end.
pub(crate) fn job(cluster: Cluster, events: Recorder, clock: WallClock) -> Arc<dyn Controller> {
    Arc::new(JobController { cluster, events, clock })
}

struct JobController {
    cluster: Cluster,
    events: Recorder,
    clock: WallClock,
}

impl Controller for JobController {
    fn name(&self) -> &'static str {
        "job"
    }

    fn kind(&self) -> Kind {
        JOBS
    }

    fn follows(&self) -> &'static [Kind] {
        &[PODS]
    }

    fn concerned(&self, change: &Change, cluster: &Cluster) -> Vec<Key> {
        let pod = change.object();
        let mut keys = Vec::new();
        for side in change.before.iter().chain(&change.after) {
            let owner = controller_of(side).filter(|o| o["kind"] == JOBS.kind);
            let owner = owner.and_then(|o| o["name"].as_str());
            // Who lost its owner is found by the label that it was made with.
            let made_for = label(side, "batch.kubernetes.io/job-name").filter(|_| is_held(side));
            if let Some(name) = owner.or(made_for) {
                keys.push(Key::new(namespace(side), name));
            }
        }
        if controller_of(pod).is_none() && change.after.is_some() {
            let jobs = cluster.list(JOBS, Some(namespace(pod))).unwrap_or_default();
            keys.extend(
                jobs.iter()
                    .filter(|j| selects(&j["spec"]["selector"], labels(pod)))
                    .map(Key::of),
            );
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    fn reconcile<'a>(&'a self, key: &'a Key) -> Pin<Box<dyn Future<Output = Reconciled> + Send + 'a>> {
        Box::pin(self.look(key))
    }
}

impl JobController {
    async fn look(&self, key: &Key) -> Reconciled {
        let Some(job) = self.cluster.get(JOBS, key)? else {
            self.let_go(key, None).await?;
            return Ok(None);
        };
        if !matches!(text(&job, "/spec/managedBy"), "" | MANAGER) {
            return Ok(None);
        }
        if job_end(&job).is_some() {
            self.let_go(key, Some(&job)).await?;
            return Ok(None);
        }
        let pods = self.claim(&job).await?;
        let now = i64::try_from((self.clock)() / 1000).unwrap_or(i64::MAX);
        let mut work = Work {
            tally: Tally::read(&job),
            last: job["status"].clone(),
            key,
            job: &job,
            stamp: crate::time::stamp((self.clock)()),
            by: self,
        };
        if work.tally.start_time.is_none() && job["spec"]["suspend"] != true {
            work.tally.start_time = Some(work.stamp.clone());
        }
        let picture = Picture::new(&job, &pods, &work.tally, now);
        let again = work.go(&picture).await?;
        Ok(again.map(|s| Duration::from_secs(u64::try_from(s).unwrap_or(0).max(1))))
    }

    /// Takes the finalizer off pods whose Job is over or gone.
    async fn let_go(&self, key: &Key, job: Option<&Value>) -> Result<(), Status> {
        let pods = self.cluster.list(PODS, Some(&key.namespace))?;
        let left = pods.iter().filter(|pod| {
            let of = |o: &Value| o["kind"] == JOBS.kind && text(o, "/name") == &*key.name;
            let theirs = match (controller_of(pod), job) {
                (Some(owner), None) => of(owner),
                (Some(owner), Some(job)) => of(owner) && owner["uid"] == job["metadata"]["uid"],
                (None, _) => label(pod, "batch.kubernetes.io/job-name") == Some(&key.name),
            };
            theirs && is_held(pod)
        });
        let released = join_all(left.map(|pod| release(&self.cluster, pod))).await;
        released.into_iter().collect()
    }

    /// The pods of a Job: those that it controls and selects. Those that it selects and nobody controls it takes, those that it no longer selects
    /// it lets go.
    async fn claim(&self, job: &Value) -> Result<Vec<Value>, Status> {
        let mut out = Vec::new();
        for pod in self.cluster.list(PODS, Some(namespace(job)))? {
            let selected = selects(&job["spec"]["selector"], labels(&pod));
            let (mine, nobodys) = (is_controlled_by(&pod, job), controller_of(&pod).is_none());
            if mine && (selected || is_terminating(job)) {
                out.push(pod);
            } else if mine {
                self.own(job, &pod, false).await?;
            } else if nobodys && selected && !is_terminating(job) && !is_terminating(&pod) {
                match self.own(job, &pod, true).await {
                    Ok(taken) => out.push(taken),
                    Err(e) if e.code == 404 || e.code == 409 => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(out)
    }

    /// Takes a pod, or lets it go.
    async fn own(&self, job: &Value, pod: &Value, take: bool) -> Result<Value, Status> {
        let key = Key::of(pod);
        let changed = self.cluster.modify(PODS, &key, |now| {
            if uid(now) != uid(pod) || (take && controller_of(now).is_some()) {
                return Err(Status::conflict("", "pods", &key.name, "another has taken it"));
            }
            let mut owners = list(now, "/metadata/ownerReferences").to_vec();
            owners.retain(|o| o["uid"] != job["metadata"]["uid"]);
            let mut finalizers = list(now, "/metadata/finalizers").to_vec();
            finalizers.retain(|f| f != FINALIZER);
            if take {
                owners.push(owner_reference(job));
                finalizers.push(json!(FINALIZER));
            }
            now["metadata"]["ownerReferences"] = owners.into();
            now["metadata"]["finalizers"] = finalizers.into();
            Ok(())
        });
        changed.await
    }
}

/// Takes the finalizer off a pod; no matter when it is gone.
pub(super) async fn release(cluster: &Cluster, pod: &Value) -> Result<(), Status> {
    let key = Key::of(pod);
    let released = cluster.modify(PODS, &key, |now| {
        if uid(now) == uid(pod)
            && let Some(all) = now["metadata"]["finalizers"].as_array_mut()
        {
            all.retain(|f| f != FINALIZER);
        }
        Ok(())
    });
    match released.await {
        Err(e) if e.code != 404 => Err(e),
        _ => Ok(()),
    }
}

/// One look at one Job.
struct Work<'w> {
    by: &'w JobController,
    key: &'w Key,
    job: &'w Value,
    tally: Tally,
    /// The status as it is stored, so that it is seen when somebody else wrote.
    last: Value,
    /// Now.
    stamp: String,
}

impl Work<'_> {
    /// Does what is to be done. In how many seconds to look again.
    async fn go(&mut self, picture: &Picture<'_>) -> Result<Option<i64>, Status> {
        let before = self.tally.clone();
        self.tally.active = count(picture.active().count());
        self.tally.ready = count(picture.active().filter(|p| is_ready(p)).count());
        self.tally.terminating = picture.terminating();
        let mut again = None;
        // A pod that cannot be made or taken away keeps nobody from counting the others, nor the deadline from its time.
        let mut went = Ok(());
        let mut ending = picture.judge(&self.tally);
        if ending.is_some() {
            let active: Vec<&Value> = picture.active().collect();
            went = self.remove(&active, false).await;
        } else {
            again = picture.deadline_left(&self.tally);
            if !is_terminating(self.job) {
                match picture.step() {
                    Step::Nothing => {}
                    Step::Remove(pods) => went = self.remove(&pods, true).await,
                    Step::Create(indexes) => went = self.create(picture, &indexes).await,
                    Step::Wait(left) => again = Some(again.map_or(left, |a| a.min(left))),
                }
            }
            if picture.is_complete(self.tally.active) {
                let message = "Reached expected number of succeeded pods";
                ending = Some(Ending::new("SuccessCriteriaMet", "CompletionsReached", message));
            } else if !is_terminating(self.job) {
                self.say_suspended(picture);
            }
        }
        let flush = self.tally.active != before.active
            || self.tally.ready != before.ready
            || self.tally.terminating != before.terminating
            || self.tally.conditions != before.conditions
            || self.last.get("ready").is_none()
            || (self.tally.start_time != before.start_time);
        self.count(picture, ending, flush).await?;
        went.map(|()| again)
    }

    fn say_suspended(&mut self, picture: &Picture<'_>) {
        let events = &self.by.events;
        if picture.is_suspended() {
            if self
                .tally
                .set("Suspended", "True", "JobSuspended", "Job suspended", &self.stamp)
            {
                events.tell(self.job, Tone::Normal, "Suspended", "Job suspended");
            }
        } else if self
            .tally
            .set("Suspended", "False", "JobResumed", "Job resumed", &self.stamp)
        {
            events.tell(self.job, Tone::Normal, "Resumed", "Job resumed");
            self.tally.start_time = Some(self.stamp.clone());
        }
    }

    /// Takes pods away; those that are not to be counted are let go first.
    async fn remove(&mut self, pods: &[&Value], uncounted: bool) -> Result<(), Status> {
        let by = self.by;
        let job = self.job;
        let removed = join_all(pods.iter().map(|pod| async move {
            if uncounted {
                release(&by.cluster, pod).await?;
            }
            delete_pod(&by.cluster, &by.events, job, pod).await
        }));
        let mut failure = Ok(());
        for (pod, removed) in pods.iter().zip(removed.await) {
            if let Err(e) = removed {
                failure = Err(e);
                continue;
            }
            self.tally.active -= 1;
            self.tally.ready -= i64::from(is_ready(pod));
            self.tally.terminating += 1;
        }
        failure
    }

    /// Makes pods: one, then twice as many each time, until one cannot be made.
    async fn create(&mut self, picture: &Picture<'_>, indexes: &[Option<i64>]) -> Result<(), Status> {
        let (mut left, mut batch) = (indexes, 1);
        while !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            let made = now.iter().map(|index| {
                let pod = pod(self.job, *index, picture);
                create_pod(&self.by.cluster, &self.by.events, self.job, pod)
            });
            let mut failure = Ok(());
            for made in join_all(made).await {
                match made {
                    Ok(_) => self.tally.active += 1,
                    Err(e) => failure = Err(e),
                }
            }
            failure?;
            (left, batch) = (later, (batch * 2).min(MOST_MADE));
        }
        Ok(())
    }

    /// Counts pods that have ended, in the steps that [`tally`] tells of, and ends the Job when nothing is left to be counted.
    async fn count(
        &mut self,
        picture: &Picture<'_>,
        mut ending: Option<Ending>,
        mut flush: bool,
    ) -> Result<(), Status> {
        let held = picture.pods.iter().filter(|p| is_held(p));
        let mut held: BTreeSet<String> = held.map(|p| uid(p).to_owned()).collect();
        let stood: BTreeSet<String> = self
            .tally
            .failing
            .iter()
            .chain(&self.tally.succeeding)
            .cloned()
            .collect();
        let failing: BTreeSet<String> = self.tally.failing.iter().cloned().collect();
        flush |= self.tally.count_released(&held);
        let mut going = Vec::new();
        let mut succeeded = picture.succeeded_before.clone();
        let mut full = false;
        let mut new = 0;
        for pod in picture.pods.iter().filter(|p| is_held(p)) {
            let Some(counted) = picture.count(pod, ending.as_ref()) else {
                continue;
            };
            going.push(*pod);
            let noted = stood.contains(uid(pod));
            match counted {
                Count::Success if failing.contains(uid(pod)) => {}
                Count::Success if picture.is_indexed() => {
                    if let Some(index) = picture.valid_index(pod)
                        && !succeeded.contains(index)
                    {
                        succeeded.insert(index);
                        new += 1;
                        flush = true;
                    }
                }
                Count::Success if !noted => {
                    self.tally.succeeding.push(uid(pod).to_owned());
                    flush = true;
                }
                Count::Failure if !noted => {
                    self.tally.failing.push(uid(pod).to_owned());
                    flush = true;
                }
                _ => {}
            }
            if new + self.tally.uncounted() >= MOST_AT_ONCE {
                full = true;
                break;
            }
        }
        if picture.is_indexed() {
            let failed = picture.failed_indexes.as_ref().map(ToString::to_string);
            let completed = succeeded.to_string();
            flush |= completed != self.tally.completed_indexes || failed != self.tally.failed_indexes;
            self.tally.succeeded = succeeded.len();
            self.tally.completed_indexes = completed;
            self.tally.failed_indexes = failed;
        }
        if let Some(said) = ending.take() {
            let last = match said.ty {
                "FailureTarget" => "Failed",
                "SuccessCriteriaMet" => "Complete",
                other => other,
            };
            if matches!(said.ty, "FailureTarget" | "SuccessCriteriaMet") && self.tally.holds(said.ty).is_none() {
                self.tally
                    .set(said.ty, "True", &said.reason, &said.message, &self.stamp);
                flush = true;
            }
            ending = Some(said.as_type(last));
        }
        if flush {
            self.write().await?;
        }
        let released = join_all(going.iter().map(|pod| release(&self.by.cluster, pod))).await;
        let mut failure = None;
        for (pod, released) in going.iter().zip(released) {
            match released {
                Ok(()) => drop(held.remove(uid(pod))),
                Err(e) => failure = Some(e),
            }
        }
        let mut flush = self.tally.count_released(&held);
        if let Some(failure) = failure {
            if flush {
                self.write().await?;
            }
            return Err(failure);
        }
        let over = ending.filter(|_| !full && self.tally.uncounted() == 0 && self.tally.terminating == 0);
        if let Some(over) = &over {
            flush |= self
                .tally
                .set(over.ty, "True", &over.reason, &over.message, &self.stamp);
            if over.ty == "Complete" {
                self.tally.completion_time = Some(self.stamp.clone());
            }
        }
        if flush {
            self.write().await?;
        }
        if let Some(over) = over {
            self.tell_end(picture, &over);
        }
        Ok(())
    }

    fn tell_end(&self, picture: &Picture<'_>, over: &Ending) {
        let events = &self.by.events;
        if over.ty != "Complete" {
            let reason = match over.reason.as_str() {
                "PodFailurePolicy" => "PodFailurePolicy",
                "DeadlineExceeded" => "DeadlineExceeded",
                "MaxFailedIndexesExceeded" => "MaxFailedIndexesExceeded",
                "FailedIndexes" => "FailedIndexes",
                _ => "BackoffLimitExceeded",
            };
            events.tell(self.job, Tone::Warning, reason, over.message.clone());
            return;
        }
        if picture
            .completions()
            .is_some_and(|wanted| self.tally.succeeded > wanted)
        {
            let why = "Too many succeeded pods running after completion count reached";
            events.tell(self.job, Tone::Warning, "TooManySucceededPods", why);
        }
        events.tell(self.job, Tone::Normal, "Completed", "Job completed");
    }

    /// Writes the status over the one that was seen.
    async fn write(&mut self) -> Result<(), Status> {
        let (status, last) = (self.tally.write(), &self.last);
        let written = self.by.cluster.modify_status(JOBS, self.key, |job| {
            if uid(job) != uid(self.job) || (job["status"] != *last && !(is_bare(&job["status"]) && is_bare(last))) {
                let why = "its status changed while its pods were counted";
                return Err(Status::conflict("batch", "jobs", &self.key.name, why));
            }
            job["status"] = status.clone();
            Ok(())
        });
        let stored = written.await?;
        self.last = stored["status"].clone();
        Ok(())
    }
}

/// A status in which nothing stands.
fn is_bare(status: &Value) -> bool {
    status.as_object().is_none_or(serde_json::Map::is_empty)
}

fn count(of: usize) -> i64 {
    i64::try_from(of).unwrap_or(i64::MAX)
}

/// A pod of a Job, without a name.
fn pod(job: &Value, index: Option<i64>, picture: &Picture<'_>) -> Value {
    let mut pod = pod_of(job, &job["spec"]["template"]);
    let mut finalizers = list(&pod, "/metadata/finalizers").to_vec();
    if !is_held(&pod) {
        finalizers.push(json!(FINALIZER));
    }
    pod["metadata"]["finalizers"] = finalizers.into();
    let Some(index) = index else {
        pod["metadata"]["generateName"] = format!("{}-", name(job)).into();
        return pod;
    };
    let tail = format!("-{index}-");
    let prefix = name(job);
    let room = MOST_NAME.saturating_sub(tail.len()).min(prefix.len());
    let room = if prefix.len() + tail.len() > MOST_NAME {
        room
    } else {
        prefix.len()
    };
    pod["metadata"]["generateName"] = format!("{}{tail}", &prefix[..room]).into();
    pod["metadata"]["annotations"][INDEX] = index.to_string().into();
    pod["metadata"]["labels"][INDEX] = index.to_string().into();
    if let Some((counted, ignored)) = picture.index_failures(index) {
        pod["metadata"]["annotations"][FAILURES] = counted.to_string().into();
        if ignored > 0 {
            pod["metadata"]["annotations"][IGNORED_FAILURES] = ignored.to_string().into();
        }
    }
    pod["spec"]["hostname"] = format!("{prefix}-{index}").into();
    for group in ["initContainers", "containers"] {
        for container in pod["spec"][group].as_array_mut().into_iter().flatten() {
            let mut env = list(container, "/env").to_vec();
            if env.iter().all(|v| v["name"] != "JOB_COMPLETION_INDEX") {
                let field = format!("metadata.labels['{INDEX}']");
                env.push(json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": field}}}));
                container["env"] = env.into();
            }
        }
    }
    if pod["spec"]["initContainers"].is_null()
        && let Some(spec) = pod["spec"].as_object_mut()
    {
        spec.remove("initContainers");
    }
    pod
}
