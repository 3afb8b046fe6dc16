//! CronJobs: a Job whenever one is due.
//!
//! Owns the status of CronJobs and the Jobs they make. A Job's name follows from the minute it was due in, so that an agent which was killed after
//! it made one and before it wrote that down makes no second. After a long time without power one Job is made for all that were missed: the
//! last one, unless that is too late by `startingDeadlineSeconds`. A clock that is behind the last start, as one without a battery is until it has
//! been set, starts nothing until it has passed it.

mod due;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use metastore::api::cron::{Schedule, split_zone};
use metastore::api::{DeleteOptions, Propagation, Status};
use serde_json::{Map, Value, json};

use super::look::{
    WallClock, annotation, controller_of, is_terminating, job_end, list, name, namespace, seconds, text, uid, whole,
};
use super::schedule::zone;
use super::shared::owner_reference;
use super::{Change, Controller, Reconciled};
use crate::cluster::{CRON_JOBS, Cluster, JOBS, Key, Kind};
use crate::events::{Recorder, Tone};
use due::{Missed, due, next};

/// When a Job was due, in the time of its place.
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// How much later than due a look is taken, in milliseconds: clocks are not exact.
const LATE_MS: i64 = 100;
/// Longest time between two looks, in milliseconds: a wall clock that is set is noticed by then.
const LONGEST_MS: i64 = 60_000;

/// Makes Jobs when they are due.
pub(crate) fn cron_job(cluster: Cluster, events: Recorder, clock: WallClock) -> Arc<dyn Controller> {
    Arc::new(CronJobController { cluster, events, clock })
}

struct CronJobController {
    cluster: Cluster,
    events: Recorder,
    clock: WallClock,
}

impl Controller for CronJobController {
    fn name(&self) -> &'static str {
        "cronjob"
    }

    fn kind(&self) -> Kind {
        CRON_JOBS
    }

    fn follows(&self) -> &'static [Kind] {
        &[JOBS]
    }

    fn concerned(&self, change: &Change, _: &Cluster) -> Vec<Key> {
        // What a Job does on the way to its end is not looked at.
        let ends = |job: &Option<Value>| job.as_ref().map(|job| job_end(job).is_some());
        if ends(&change.before) == ends(&change.after) {
            return Vec::new();
        }
        change.controller(CRON_JOBS).into_iter().collect()
    }

    fn reconcile<'a>(&'a self, key: &'a Key) -> Pin<Box<dyn Future<Output = Reconciled> + Send + 'a>> {
        Box::pin(async move {
            let Some(cron) = self.cluster.get(CRON_JOBS, key)? else {
                return Ok(None);
            };
            let mut work = Work {
                by: self,
                cron: &cron,
                active: list(&cron, "/status/active").to_vec(),
                last: text(&cron, "/status/lastScheduleTime").to_owned(),
                last_success: text(&cron, "/status/lastSuccessfulTime").to_owned(),
            };
            let jobs = work.jobs()?;
            let gone = work.keep_history(&jobs).await;
            work.see(jobs.iter().filter(|j| !gone.contains(&uid(j).to_owned())));
            let again = work.start(&jobs).await;
            // What was done is written down even when the next step failed.
            work.write(key).await?;
            Ok(again?.map(|ms| Duration::from_millis(u64::try_from(ms.clamp(0, LONGEST_MS)).unwrap_or(0))))
        })
    }
}

/// One look at one CronJob.
struct Work<'w> {
    by: &'w CronJobController,
    cron: &'w Value,
    active: Vec<Value>,
    last: String,
    last_success: String,
}

impl Work<'_> {
    fn tell(&self, tone: Tone, reason: &'static str, message: impl Into<String>) {
        self.by.events.tell(self.cron, tone, reason, message);
    }

    fn jobs(&self) -> Result<Vec<Value>, Status> {
        let mut jobs = self.by.cluster.list(JOBS, Some(namespace(self.cron)))?;
        jobs.retain(|job| controller_of(job).is_some_and(|o| o["uid"] == self.cron["metadata"]["uid"]));
        Ok(jobs)
    }

    fn is_active(&self, job: &Value) -> bool {
        self.active.iter().any(|a| a["uid"] == job["metadata"]["uid"])
    }

    /// Deletes Jobs that have ended and are more than are kept. Their uids.
    async fn keep_history(&mut self, jobs: &[Value]) -> Vec<String> {
        let mut gone = Vec::new();
        for (field, end) in [
            ("successfulJobsHistoryLimit", "Complete"),
            ("failedJobsHistoryLimit", "Failed"),
        ] {
            let Some(kept) = whole(self.cron, &format!("/spec/{field}")) else {
                continue;
            };
            let ended = |j: &&Value| job_end(j).is_some_and(|c| c["type"] == end);
            let mut ended: Vec<&Value> = jobs.iter().filter(ended).collect();
            ended.sort_by_key(|j| {
                let begun = text(j, "/status/startTime");
                (begun.is_empty(), begun, name(j))
            });
            let over = ended.len().saturating_sub(usize::try_from(kept).unwrap_or(0));
            for job in &ended[..over] {
                if is_terminating(job) || self.delete(job).await.is_ok() {
                    gone.push(uid(job).to_owned());
                }
            }
        }
        gone
    }

    async fn delete(&mut self, job: &Value) -> Result<(), Status> {
        let options = DeleteOptions {
            uid: Some(uid(job).to_owned()),
            propagation: Some(Propagation::Background),
            ..DeleteOptions::default()
        };
        match self.by.cluster.delete(JOBS, &Key::of(job), &options).await {
            Ok(_) => {
                self.active.retain(|a| a["uid"] != job["metadata"]["uid"]);
                self.tell(Tone::Normal, "SuccessfulDelete", format!("Deleted job {}", name(job)));
                Ok(())
            }
            Err(e) => {
                self.tell(Tone::Warning, "FailedDelete", format!("Deleted job: {e}"));
                Err(e)
            }
        }
    }

    /// Takes in what became of its Jobs.
    fn see<'j>(&mut self, jobs: impl Iterator<Item = &'j Value>) {
        let mut there = Vec::new();
        for job in jobs {
            there.push(&job["metadata"]["uid"]);
            let Some(end) = job_end(job) else {
                if !self.is_active(job) {
                    let message = format!("Saw a job that the controller did not create or forgot: {}", name(job));
                    self.tell(Tone::Warning, "UnexpectedJob", message);
                }
                continue;
            };
            let end = text(end, "/type");
            if self.is_active(job) {
                self.active.retain(|a| a["uid"] != job["metadata"]["uid"]);
                let message = format!("Saw completed job: {}, condition: {end}", name(job));
                self.tell(Tone::Normal, "SawCompletedJob", message);
            }
            let at = text(job, "/status/completionTime");
            if end == "Complete" && seconds(at) > seconds(&self.last_success) {
                at.clone_into(&mut self.last_success);
            }
        }
        let (kept, missing): (Vec<Value>, Vec<Value>) = std::mem::take(&mut self.active)
            .into_iter()
            .partition(|a| there.contains(&&a["uid"]));
        self.active = kept;
        for job in missing {
            let message = format!("Active job went missing: {}", text(&job, "/name"));
            self.tell(Tone::Normal, "MissingJob", message);
        }
    }

    /// Makes the Job that is due, if one is. In how many milliseconds to look again.
    async fn start(&mut self, jobs: &[Value]) -> Result<Option<i64>, Status> {
        if is_terminating(self.cron) {
            return Ok(None);
        }
        let place = text(self.cron, "/spec/timeZone");
        let Some(here) = zone(place) else {
            let message = format!("invalid timeZone: {place:?}: unknown time zone {place}");
            self.tell(Tone::Warning, "UnknownTimeZone", message);
            return Ok(None);
        };
        if self.cron["spec"]["suspend"] == true {
            return Ok(None);
        }
        let said = text(self.cron, "/spec/schedule");
        let (own_place, times) = split_zone(said);
        if said.contains("TZ") {
            let message = format!(
                "CRON_TZ or TZ used in schedule {said:?} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
            );
            self.tell(Tone::Warning, "UnsupportedSchedule", message);
        }
        let schedule = match (Schedule::parse(times), own_place.map_or(Some(here.clone()), zone)) {
            (Ok(schedule), Some(place)) => (schedule, place),
            (Ok(_), None) => {
                let why = format!("provided bad location {}", own_place.unwrap_or_default());
                self.tell(
                    Tone::Warning,
                    "UnparseableSchedule",
                    format!("unparseable schedule: {said:?} : {why}"),
                );
                return Ok(None);
            }
            (Err(why), _) => {
                self.tell(
                    Tone::Warning,
                    "UnparseableSchedule",
                    format!("unparseable schedule: {said:?} : {why}"),
                );
                return Ok(None);
            }
        };
        let now_ms = i64::try_from((self.by.clock)()).unwrap_or(i64::MAX);
        let now = now_ms.div_euclid(1000);
        let begun = seconds(&self.last).or_else(|| seconds(text(self.cron, "/metadata/creationTimestamp")));
        let begun = begun.unwrap_or(now);
        let deadline = whole(self.cron, "/spec/startingDeadlineSeconds");
        let next_look = |begun: i64| next(&schedule, begun, now).map(|at| at * 1000 + LATE_MS - now_ms);
        let found = match due(&schedule, begun, now, deadline) {
            Ok(found) => found,
            Err(why) => {
                self.tell(
                    Tone::Warning,
                    "InvalidSchedule",
                    format!("invalid schedule: {said} : {why}"),
                );
                return Ok(None);
            }
        };
        let Some((at, missed)) = found else {
            return Ok(next_look(begun));
        };
        if missed == Missed::Many {
            let why = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.tell(Tone::Warning, "TooManyMissedTimes", why);
        }
        let job_name = format!("{}-{}", name(self.cron), at.div_euclid(60));
        let is_done = self.active.iter().any(|a| a["name"] == *job_name) || seconds(&self.last) == Some(at);
        if is_done {
            return Ok(next_look(begun));
        }
        // Those that were made and not written down count as well, unless people made them.
        let runs = |job: &&Value| {
            job_end(job).is_none()
                && !is_terminating(job)
                && (self.is_active(job) || annotation(job, SCHEDULED_AT).is_some())
                && name(job) != job_name
        };
        let running: Vec<&Value> = jobs.iter().filter(runs).collect();
        match text(self.cron, "/spec/concurrencyPolicy") {
            "Forbid" if !running.is_empty() => {
                // Told once for each time that is passed over.
                if (now - at) * 1000 < LONGEST_MS {
                    let why = "Not starting job because prior execution is running and concurrency policy is Forbid";
                    self.tell(Tone::Normal, "JobAlreadyActive", why);
                }
                return Ok(next_look(begun));
            }
            "Replace" => {
                for job in running {
                    self.delete(job).await?;
                }
            }
            _ => {}
        }
        if !self.create(&job_name, at, &here).await? {
            return Ok(next_look(begun));
        }
        self.last = crate::time::stamp(u64::try_from(at).unwrap_or(0) * 1000);
        Ok(next_look(at))
    }

    /// Makes a Job, or takes the one that was made for this time. False when somebody else has its name.
    async fn create(&mut self, job_name: &str, at: i64, here: &TimeZone) -> Result<bool, Status> {
        let template = &self.cron["spec"]["jobTemplate"];
        let mut annotations = template["metadata"]["annotations"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        annotations.insert(SCHEDULED_AT.to_owned(), in_place(at, here).into());
        let mut metadata = json!({
            "name": job_name,
            "namespace": namespace(self.cron),
            "annotations": annotations,
            "ownerReferences": [owner_reference(self.cron)],
        });
        if let Some(labels) = template["metadata"].get("labels") {
            metadata["labels"] = labels.clone();
        }
        let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]});
        let made = match self.by.cluster.create(job).await {
            Ok(made) => {
                self.tell(Tone::Normal, "SuccessfulCreate", format!("Created job {job_name}"));
                made
            }
            Err(e) if e.reason == "AlreadyExists" => {
                let key = Key::new(namespace(self.cron), job_name);
                let there = self.by.cluster.get(JOBS, &key)?;
                let mine = |j: &Value| controller_of(j).is_some_and(|o| o["uid"] == self.cron["metadata"]["uid"]);
                let Some(there) = there.filter(mine) else {
                    return Ok(false);
                };
                if job_end(&there).is_some() {
                    return Ok(true);
                }
                there
            }
            Err(e) => {
                self.tell(Tone::Warning, "FailedCreate", format!("Error creating job: {e}"));
                return Err(e);
            }
        };
        self.active.push(json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": made["metadata"]["name"],
            "namespace": made["metadata"]["namespace"],
            "resourceVersion": made["metadata"]["resourceVersion"],
            "uid": made["metadata"]["uid"],
        }));
        Ok(true)
    }

    async fn write(&self, key: &Key) -> Result<(), Status> {
        let mut status = Map::new();
        if !self.active.is_empty() {
            status.insert("active".to_owned(), json!(self.active));
        }
        for (field, at) in [
            ("lastScheduleTime", &self.last),
            ("lastSuccessfulTime", &self.last_success),
        ] {
            if !at.is_empty() {
                status.insert(field.to_owned(), json!(at));
            }
        }
        let status = Value::Object(status);
        if self.cron.get("status").unwrap_or(&json!({})) == &status {
            return Ok(());
        }
        let written = self.by.cluster.modify_status(CRON_JOBS, key, |cron| {
            if uid(cron) == uid(self.cron) {
                cron["status"] = status.clone();
            }
            Ok(())
        });
        match written.await {
            Err(e) if e.code != 404 => Err(e),
            _ => Ok(()),
        }
    }
}

/// A time as the clocks of a place show it, with how far they are from UTC.
fn in_place(at: i64, here: &TimeZone) -> String {
    let at = Timestamp::from_second(at).unwrap_or_default();
    let offset = here.to_offset(at);
    let shown = offset.to_datetime(at).strftime("%Y-%m-%dT%H:%M:%S").to_string();
    match offset.seconds() / 60 {
        0 => format!("{shown}Z"),
        minutes => {
            let sign = if minutes < 0 { '-' } else { '+' };
            format!("{shown}{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
        }
    }
}
