//! A Job and its pods at one moment, and what follows from them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::look::{
    annotation, is_active, is_finished, is_ready, is_terminating, list, seconds, text, uid, whole,
};
use super::backoff;
use super::indexes::Indexes;
use super::policy::{self, Verdict};
use super::tally::{Ending, Tally};

/// What holds a pod until it has been counted.
pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// The index of a pod.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often its index failed before it.
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How often it failed in ways that do not count.
pub(super) const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Most pods made, taken away or counted in one look.
pub(super) const MOST_AT_ONCE: usize = 500;
/// Most pods of one Job at a time: a slip of the finger is not to fill a gateway's disk.
const MOST: i64 = 1000;

/// A Job and its pods.
#[derive(Debug)]
pub(super) struct Picture<'j> {
    pub(super) job: &'j Value,
    /// Of Jobs with indexes: by index.
    pub(super) pods: Vec<&'j Value>,
    /// Seconds since 1970.
    now: i64,
    indexed: bool,
    completions: Option<i64>,
    failure_policy: Option<&'j Value>,
    only_failed: bool,
    per_index: Option<i64>,
    /// Indexes that succeeded: as the status says, and with those that are not in it yet.
    pub(super) succeeded_before: Indexes,
    pub(super) succeeded_indexes: Indexes,
    pub(super) failed_indexes: Option<Indexes>,
    /// With failures counted by index: the pod of each index whose place is not taken yet.
    last_failed: BTreeMap<i64, &'j Value>,
    /// Counted and to be counted.
    pub(super) succeeded: i64,
    failed: i64,
}

/// What is to be done about the number of pods.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'j> {
    Nothing,
    /// These are too many.
    Remove(Vec<&'j Value>),
    /// So many are missing; those of a Job with indexes by theirs.
    Create(Vec<Option<i64>>),
    /// Some are missing, but not before so many seconds.
    Wait(i64),
}

/// What of a pod is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Success,
    Failure,
    Nothing,
}

pub(crate) fn is_held(pod: &Value) -> bool {
    list(pod, "/metadata/finalizers").iter().any(|f| f == FINALIZER)
}

/// The index of a pod.
pub(super) fn index(pod: &Value) -> Option<i64> {
    annotation(pod, INDEX)?.parse().ok().filter(|i| *i >= 0)
}

fn noted(pod: &Value, name: &str) -> i64 {
    let count = annotation(pod, name).and_then(|n| n.parse::<i32>().ok());
    i64::from(count.unwrap_or(0).max(0))
}

impl<'j> Picture<'j> {
    pub(super) fn new(job: &'j Value, pods: &'j [Value], tally: &Tally, now: i64) -> Self {
        let spec = &job["spec"];
        let mut picture = Self {
            job,
            pods: pods.iter().collect(),
            now,
            indexed: text(spec, "/completionMode") == "Indexed",
            completions: whole(spec, "/completions"),
            failure_policy: spec.get("podFailurePolicy").filter(|p| !p.is_null()),
            only_failed: text(spec, "/podReplacementPolicy") == "Failed" || spec.get("podFailurePolicy").is_some(),
            per_index: whole(spec, "/backoffLimitPerIndex"),
            succeeded_before: Indexes::default(),
            succeeded_indexes: Indexes::default(),
            failed_indexes: None,
            last_failed: BTreeMap::new(),
            succeeded: 0,
            failed: 0,
        };
        let new = |wanted: &dyn Fn(&Value) -> bool, noted: &[String]| {
            let count = picture
                .pods
                .iter()
                .filter(|p| picture.is_valid(p) && !noted.iter().any(|u| u == uid(p)) && wanted(p))
                .count();
            i64::try_from(count + noted.len()).unwrap_or(i64::MAX)
        };
        let succeeded = tally.succeeded + new(&|p| text(p, "/status/phase") == "Succeeded", &tally.succeeding);
        let counts = |p: &Value| picture.has_failed(p) && picture.verdict(p) != Verdict::Ignored;
        let failed = tally.failed + new(&counts, &tally.failing);
        (picture.succeeded, picture.failed) = (succeeded, failed);
        if picture.indexed {
            picture.pods.sort_by_key(|p| index(p).unwrap_or(-1));
            picture.read_indexes(tally);
        }
        picture
    }

    fn read_indexes(&mut self, tally: &Tally) {
        let completions = self.completions.unwrap_or(0);
        self.succeeded_before = Indexes::parse(&tally.completed_indexes, completions);
        let valid = self.pods.iter().copied().filter(|p| self.is_valid(p));
        let held: Vec<&'j Value> = valid.collect();
        let new = held.iter().filter(|p| text(p, "/status/phase") == "Succeeded");
        self.succeeded_indexes = self.succeeded_before.and(&new.filter_map(|p| index(p)).collect());
        self.succeeded = self.succeeded_indexes.len();
        let Some(limit) = self.per_index else { return };
        let failed = held.iter().filter(|p| self.has_failed(p));
        let failed = failed.filter(|p| match self.verdict(p) {
            Verdict::FailsIndex => true,
            Verdict::Ignored => false,
            _ => noted(p, FAILURES) >= limit,
        });
        let before = Indexes::parse(tally.failed_indexes.as_deref().unwrap_or_default(), completions);
        let failed_indexes = before.and(&failed.filter_map(|p| index(p)).collect());
        let active: BTreeSet<i64> = self.active().filter_map(index).collect();
        let mut last_failed: BTreeMap<i64, &Value> = BTreeMap::new();
        for pod in held.iter().copied().filter(|p| self.has_failed(p)) {
            let Some(at) = index(pod) else { continue };
            let settled = self.succeeded_indexes.contains(at) || failed_indexes.contains(at) || active.contains(&at);
            let times = |p: &Value| noted(p, FAILURES) + noted(p, IGNORED_FAILURES);
            let later =
                |last: &&Value| times(last) <= times(pod) && backoff::finished_at(last) <= backoff::finished_at(pod);
            if !settled && last_failed.get(&at).is_none_or(later) {
                last_failed.insert(at, pod);
            }
        }
        self.failed_indexes = Some(failed_indexes);
        self.last_failed = last_failed;
    }

    pub(super) fn active(&self) -> impl Iterator<Item = &'j Value> + Clone {
        self.pods.iter().copied().filter(|p| is_active(p))
    }

    /// Pods that were asked to go and have not ended.
    pub(super) fn terminating(&self) -> i64 {
        let count = self
            .pods
            .iter()
            .filter(|p| is_terminating(p) && !is_finished(p))
            .count();
        i64::try_from(count).unwrap_or(i64::MAX)
    }

    fn has_valid_index(&self, pod: &Value) -> bool {
        !self.indexed || index(pod).is_some_and(|i| i < self.completions.unwrap_or(0))
    }

    /// Whether a pod is still to be counted, as far as its index goes.
    fn is_valid(&self, pod: &Value) -> bool {
        is_held(pod) && self.has_valid_index(pod)
    }

    /// Whether a pod has failed; one that was asked to go has, unless it is only replaced when it is gone.
    fn has_failed(&self, pod: &Value) -> bool {
        let phase = text(pod, "/status/phase");
        phase == "Failed" || (!self.only_failed && is_terminating(pod) && phase != "Succeeded")
    }

    fn verdict(&self, pod: &Value) -> Verdict {
        policy::judge(self.failure_policy, pod)
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.job["spec"]["suspend"] == true
    }

    /// Why the Job ends, if it does. `FailureTarget` and `SuccessCriteriaMet` are what is said first.
    pub(super) fn judge(&self, tally: &Tally) -> Option<Ending> {
        let said = |ty: &'static str, as_type: &'static str| {
            let condition = tally.holds(ty)?;
            Some(Ending::new(
                as_type,
                text(condition, "/reason"),
                text(condition, "/message"),
            ))
        };
        said("SuccessCriteriaMet", "SuccessCriteriaMet")
            .or_else(|| said("FailureTarget", "Failed"))
            .or_else(|| self.failure(tally))
            .or_else(|| self.success())
    }

    fn failure(&self, tally: &Tally) -> Option<Ending> {
        let fails = |reason: &str, message: &str| Some(Ending::new("FailureTarget", reason, message));
        let by_policy = self.pods.iter().filter(|p| self.has_failed(p));
        for pod in by_policy {
            if let Verdict::FailsJob(message) = self.verdict(pod) {
                return fails("PodFailurePolicy", &message);
            }
        }
        let spec = &self.job["spec"];
        let limit = whole(spec, "/backoffLimit").unwrap_or(6);
        if self.failed > limit || self.restarts_exceed(limit) {
            return fails("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if self.deadline_left(tally).is_some_and(|left| left <= 0) {
            return fails("DeadlineExceeded", "Job was active longer than specified deadline");
        }
        let failed = self.failed_indexes.as_ref()?.len();
        if whole(spec, "/maxFailedIndexes").is_some_and(|most| failed > most) {
            let why = "Job has exceeded the specified maximal number of failed indexes";
            return fails("MaxFailedIndexesExceeded", why);
        }
        if failed > 0 && failed + self.succeeded_indexes.len() >= self.completions.unwrap_or(0) {
            return fails("FailedIndexes", "Job has failed indexes");
        }
        None
    }

    fn success(&self) -> Option<Ending> {
        if !self.indexed {
            return None;
        }
        let policy = self.job["spec"].get("successPolicy");
        let met = policy::is_enough(policy, &self.succeeded_indexes, self.completions.unwrap_or(0))?;
        Some(Ending::new("SuccessCriteriaMet", "SuccessPolicy", met))
    }

    /// Seconds until the Job has been active for too long.
    pub(super) fn deadline_left(&self, tally: &Tally) -> Option<i64> {
        // Resumed, it begins anew, which is said in this look: the time that it stood still does not count.
        let stands = self.is_suspended() || tally.holds("Suspended").is_some();
        let deadline = whole(self.job, "/spec/activeDeadlineSeconds").filter(|_| !stands)?;
        let begun = seconds(tally.start_time.as_deref()?)?;
        Some(deadline - (self.now - begun))
    }

    /// Whether containers that are started again in their pods were started too often.
    fn restarts_exceed(&self, limit: i64) -> bool {
        if text(self.job, "/spec/template/spec/restartPolicy") != "OnFailure" {
            return false;
        }
        let alive = self
            .pods
            .iter()
            .filter(|p| matches!(text(p, "/status/phase"), "Running" | "Pending"));
        let restarts: i64 = alive
            .flat_map(|p| {
                let main = list(p, "/status/containerStatuses").iter();
                main.chain(list(p, "/status/initContainerStatuses"))
            })
            .filter_map(|s| whole(s, "/restartCount"))
            .sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    /// Whether enough pods have succeeded, once nothing runs any more.
    pub(super) fn is_complete(&self, active: i64) -> bool {
        active == 0
            && match self.completions {
                None => self.succeeded > 0,
                Some(wanted) => self.succeeded >= wanted,
            }
    }

    /// What is to be done about the number of pods.
    pub(super) fn step(&self) -> Step<'j> {
        let mut active: Vec<&Value> = self.active().collect();
        let count = i64::try_from(active.len()).unwrap_or(i64::MAX);
        let parallelism = whole(self.job, "/spec/parallelism").unwrap_or(1).min(MOST);
        let wanted = match self.completions {
            _ if self.is_suspended() => 0,
            None if self.succeeded > 0 => count,
            None => parallelism,
            Some(completions) => (completions - self.succeeded).min(parallelism).max(0),
        };
        let too_many = usize::try_from(count - wanted).unwrap_or(0);
        let remove = self.to_remove(&mut active, too_many);
        if !remove.is_empty() {
            return Step::Remove(remove);
        }
        let leaving = if self.only_failed { self.terminating() } else { 0 };
        let missing = usize::try_from(wanted - leaving - count).unwrap_or(0);
        if missing == 0 || self.is_suspended() {
            return Step::Nothing;
        }
        let missing = missing.min(MOST_AT_ONCE);
        if self.per_index.is_none() {
            let left = self.wait();
            if left > 0 {
                return Step::Wait(left);
            }
        }
        if !self.indexed {
            return Step::Create(vec![None; missing]);
        }
        let mut taken: Indexes = self.active().filter_map(index).collect();
        taken = taken.and(&self.succeeded_indexes);
        if self.only_failed {
            let leaving = self.pods.iter().filter(|p| is_terminating(p) && !is_finished(p));
            taken = taken.and(&leaving.filter_map(|p| index(p)).collect());
        }
        if let Some(failed) = &self.failed_indexes {
            taken = taken.and(failed);
        }
        let free = taken.free(missing, self.completions.unwrap_or(0));
        let waits = |i: &i64| {
            let pod = self.last_failed.get(i).filter(|_| self.per_index.is_some())?;
            let failures = noted(pod, FAILURES) + noted(pod, IGNORED_FAILURES) + 1;
            let failures = usize::try_from(failures).unwrap_or(1);
            Some(backoff::left(failures, backoff::finished_at(pod), self.now)).filter(|left| *left > 0)
        };
        let now: Vec<Option<i64>> = free.iter().filter(|i| waits(i).is_none()).map(|i| Some(*i)).collect();
        match free.iter().filter_map(waits).min() {
            Some(left) if now.is_empty() => Step::Wait(left),
            _ if now.is_empty() => Step::Nothing,
            _ => Step::Create(now),
        }
    }

    /// Seconds before the next pod may be made in the place of one that failed.
    fn wait(&self) -> i64 {
        let succeeded = self
            .pods
            .iter()
            .copied()
            .filter(|p| text(p, "/status/phase") == "Succeeded");
        let failed = self.pods.iter().copied().filter(|p| self.has_failed(p));
        let (failures, last) = backoff::since_success(succeeded, failed);
        backoff::left(failures, last, self.now)
    }

    /// Those that are too many, or that cannot be counted: without an index, with one that another has, or let go by an agent that was killed
    /// before it could take them away. Those that are least far come first.
    fn to_remove(&self, active: &mut Vec<&'j Value>, at_least: usize) -> Vec<&'j Value> {
        active.sort_by_cached_key(|p| {
            let phase = match text(p, "/status/phase") {
                "Running" => 2,
                "Unknown" => 1,
                _ => 0,
            };
            let created = seconds(text(p, "/metadata/creationTimestamp")).unwrap_or(i64::MAX);
            let placed = !text(p, "/spec/nodeName").is_empty();
            (
                placed,
                phase,
                is_ready(p),
                std::cmp::Reverse(created),
                uid(p).to_owned(),
            )
        });
        let mut remove = Vec::new();
        let mut seen = BTreeSet::new();
        // Of those with the same index the one that is farthest stays.
        let mut left: Vec<&Value> = Vec::new();
        for pod in active.iter().rev() {
            let again = self.indexed && !index(pod).is_some_and(|i| seen.insert(i));
            if !is_held(pod) || !self.has_valid_index(pod) || again {
                remove.push(*pod);
            } else {
                left.push(*pod);
            }
        }
        while remove.len() < at_least
            && let Some(pod) = left.pop()
        {
            remove.push(pod);
        }
        remove.truncate(MOST_AT_ONCE);
        remove
    }

    /// Whether a pod may be let go, and how it counts then.
    pub(super) fn count(&self, pod: &Value, ending: Option<&Ending>) -> Option<Count> {
        let failed = self.has_failed(pod);
        let succeeded = text(pod, "/status/phase") == "Succeeded";
        if !(is_terminating(self.job) || ending.is_some() || succeeded) {
            let kept = index(pod).and_then(|i| self.last_failed.get(&i));
            let awaited = self.per_index.is_some() && kept.is_some_and(|last| uid(last) == uid(pod));
            if !failed || awaited {
                return None;
            }
        }
        if succeeded {
            return Some(Count::Success);
        }
        let counts = failed || ending.is_some_and(|e| !e.is_success());
        let ignored = self.verdict(pod) == Verdict::Ignored;
        Some(if counts && self.has_valid_index(pod) && !ignored {
            Count::Failure
        } else {
            Count::Nothing
        })
    }

    pub(super) const fn is_indexed(&self) -> bool {
        self.indexed
    }

    pub(super) fn completions(&self) -> Option<i64> {
        self.completions
    }

    pub(super) fn valid_index(&self, pod: &Value) -> Option<i64> {
        index(pod).filter(|_| self.has_valid_index(pod))
    }

    /// How often an index failed, counted and not, for its next pod; none when failures are not counted by index.
    pub(super) fn index_failures(&self, index: i64) -> Option<(i64, i64)> {
        self.per_index?;
        let Some(last) = self.last_failed.get(&index) else {
            return Some((0, 0));
        };
        let (mut counted, mut ignored) = (noted(last, FAILURES), noted(last, IGNORED_FAILURES));
        if self.verdict(last) == Verdict::Ignored {
            ignored += 1;
        } else {
            counted += 1;
        }
        Some((counted, ignored))
    }
}
