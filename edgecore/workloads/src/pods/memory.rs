//! What a pod's task keeps between two looks and could lose: what is under way, what was refused and when to try again, what probes said.

use std::collections::{BTreeMap, BTreeSet};

use super::observed::{Seen, State};

/// A container that ran this long (milliseconds) is not crashing.
pub(crate) const RAN_WELL: u64 = 10 * 60 * 1000;
/// The wait before the second restart, milliseconds; doubled with each one after it.
const FIRST_WAIT: u64 = 10_000;
/// The longest wait before a restart or another try, milliseconds.
pub(crate) const LONGEST_WAIT: u64 = 300_000;

/// A try that failed, and when the next one is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refused {
    /// As it stands in a waiting container's status.
    pub(crate) reason: String,
    pub(crate) message: String,
    /// Milliseconds since 1970.
    pub(crate) retry_at: u64,
    /// How often it failed in a row.
    pub(crate) times: u32,
}

impl Refused {
    /// Whether the next try is still to wait. A clock that was set back must not make it wait longer than it would have.
    pub(crate) const fn waits(&self, now: u64) -> bool {
        now < self.retry_at && self.retry_at - now <= LONGEST_WAIT
    }
}

/// Why a pod has to end though nobody deleted it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// `Evicted`, `DeadlineExceeded`, …
    pub(crate) reason: String,
    pub(crate) message: String,
    /// Seconds; as the pod says when `None`.
    pub(crate) grace: Option<i64>,
    /// Message of the condition `DisruptionTarget`, when it was the machine that had to get rid of it.
    pub(crate) disruption: Option<String>,
}

/// What probes of one container said last; `None` as long as they said nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) startup: Option<bool>,
    pub(crate) readiness: Option<bool>,
    pub(crate) liveness: Option<bool>,
}

/// What is under way, by what it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Busy {
    /// A sandbox is being made.
    pub(crate) sandbox: bool,
    /// Names of containers that are being started.
    pub(crate) starts: BTreeSet<String>,
    /// Ids of containers and sandboxes that are being stopped or removed.
    pub(crate) ids: BTreeSet<String>,
    /// Of those that are being stopped: until when they have time, milliseconds since 1970.
    pub(crate) stops: BTreeMap<String, u64>,
    /// Volumes are being taken away.
    pub(crate) volumes: bool,
}

impl Busy {
    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        *self == Self::default()
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) busy: Busy,
    /// By container name.
    pub(crate) refused: BTreeMap<String, Refused>,
    pub(crate) sandbox_refused: Option<Refused>,
    /// Attempts from which restarts are counted, by container name: 0 unless it ran well meanwhile.
    pub(crate) counted_from: BTreeMap<String, u32>,
    /// By container id.
    pub(crate) said: BTreeMap<String, Said>,
    pub(crate) verdict: Option<Verdict>,
    /// What running containers were resized to, as a fingerprint, by id.
    pub(crate) resized: BTreeMap<String, u64>,
    /// When it was first seen that the pod has to end, milliseconds since 1970.
    pub(crate) ending_since: Option<u64>,
    /// Ids of sandboxes that were stopped: their network is gone as well.
    pub(crate) stopped: BTreeSet<String>,
    /// The volumes were taken away.
    pub(crate) torn_down: bool,
    /// Nobody holds the pod any more in the store.
    pub(crate) absent: bool,
}

impl Memory {
    /// Takes note of a container's end: from a run that went well, restarts are counted anew.
    pub(crate) fn note(&mut self, seen: &Seen) {
        if seen.state == State::Exited && seen.ran() >= RAN_WELL {
            self.starts_anew(seen);
        }
    }

    /// Restarts are counted from this attempt on.
    pub(crate) fn starts_anew(&mut self, seen: &Seen) {
        let from = self.counted_from.entry(seen.name.clone()).or_default();
        *from = (*from).max(seen.attempt);
    }

    /// How long after its end a container is started again, milliseconds.
    pub(crate) fn wait_of(&self, seen: &Seen) -> u64 {
        let from = self.counted_from.get(&seen.name).copied().unwrap_or(0);
        match seen.attempt.saturating_sub(from) {
            0 => 0,
            n => FIRST_WAIT.saturating_mul(1 << (n - 1).min(10)).min(LONGEST_WAIT),
        }
    }

    /// What probes of a container said.
    pub(crate) fn said(&self, id: &str) -> Said {
        self.said.get(id).copied().unwrap_or_default()
    }

    /// Takes note of a failed try. `wait`: milliseconds.
    pub(crate) fn refuse(&mut self, name: &str, reason: String, message: String, retry_at: u64) {
        let times = self.refused.get(name).map_or(0, |r| r.times);
        let refused = Refused {
            reason,
            message,
            retry_at,
            times: times.saturating_add(1),
        };
        self.refused.insert(name.to_owned(), refused);
    }
}

/// `10s`, `1m20s`, `5m0s`: a duration as Kubernetes' messages write it. From milliseconds.
pub(crate) fn spoken(ms: u64) -> String {
    let seconds = ms / 1000;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}
