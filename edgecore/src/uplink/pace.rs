//! When to dial again: a pure state machine.
//!
//! ```text
//!   how the last attempt ended          the next wait
//!   could not connect, no handshake     full jitter, growing from 0.5 s to 30 s
//!   session ended after >= SETTLED      full jitter, begun again
//!   session ended sooner                full jitter, growing on
//!   Busy { retry_after }                retry_after and up to a quarter more; back-off untouched
//!   Fenced: a newer session exists      at least FENCED: two gateways share one identity, or an old connection of ours
//!                                       lives; the hub may say how long
//!   NotAllowed: revoked, unknown        at least REFUSED: only a person can help, but hubs are restored from backups
//!   ChangeOver: QUIC gets through       none
//! ```
//!
//! It owns no socket and reads no clock; `uplink` drives it.

use std::time::Duration;

use daemon::backoff::FullJitter;

/// Ceiling of the first wait.
const BASE: Duration = Duration::from_millis(500);
/// Ceiling of every later wait.
const CAP: Duration = Duration::from_secs(30);
/// A session that held this long was a good one: the next wait is short again.
const SETTLED: Duration = Duration::from_secs(10);
/// Least wait after the hub said that a newer session of this node exists.
const FENCED: Duration = Duration::from_secs(5);
/// Wait after a refusal that will not change by itself.
const REFUSED: Duration = Duration::from_secs(60);
/// No hub may send a gateway away for longer than this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(15 * 60);

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// No connection came about, or the hub did not answer as a hub.
    Unreachable,
    /// A session ran for `lasted` and ended without a word on when to come back.
    Lost { lasted: Duration },
    /// The hub asked to come back later.
    Busy { retry_after: Duration },
    /// A newer session of this node exists.
    Fenced { retry_after: Option<Duration> },
    /// Certificate revoked, unknown or not accepted.
    NotAllowed { retry_after: Option<Duration> },
    /// This side ended it to dial anew: UDP gets through again, or there is a new certificate.
    ChangeOver,
}

/// Chooses the waits.
#[derive(Debug)]
pub(crate) struct Pace {
    backoff: FullJitter,
}

impl Pace {
    /// Before the first attempt.
    pub(crate) const fn new() -> Self {
        Self {
            backoff: FullJitter::new(BASE, CAP),
        }
    }

    /// How long to wait before the next attempt, after this one `ended`.
    pub(crate) fn ended(&mut self, ended: &Ended) -> Duration {
        match *ended {
            Ended::Unreachable => self.backoff.next_wait(),
            Ended::Lost { lasted } => {
                if lasted >= SETTLED {
                    self.backoff.reset();
                }
                self.backoff.next_wait()
            }
            Ended::Busy { retry_after } => spread(retry_after.min(MAX_RETRY_AFTER)),
            Ended::Fenced { retry_after } => spread(retry_after.unwrap_or(FENCED).clamp(FENCED, MAX_RETRY_AFTER)),
            Ended::NotAllowed { retry_after } => spread(retry_after.unwrap_or(REFUSED).clamp(REFUSED, MAX_RETRY_AFTER)),
            Ended::ChangeOver => Duration::ZERO,
        }
    }
}

/// Up to a quarter more, so that those who were sent away together do not come back together.
fn spread(wait: Duration) -> Duration {
    wait + wait.mul_f64(fastrand::f64() / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_of_an_unreachable_hub_grow_to_the_cap() {
        let mut pace = Pace::new();
        for n in 0..20 {
            let wait = pace.ended(&Ended::Unreachable);
            assert!(wait <= BASE * 2_u32.pow(n).min(60) && wait <= CAP);
        }
        assert_eq!(pace.backoff.ceiling(), CAP);
    }

    #[test]
    fn only_a_session_that_held_makes_the_next_wait_short() {
        let mut pace = Pace::new();
        for _ in 0..10 {
            pace.ended(&Ended::Lost {
                lasted: Duration::from_millis(20),
            });
        }
        assert_eq!(pace.backoff.ceiling(), CAP);
        assert!(pace.ended(&Ended::Lost { lasted: SETTLED }) <= BASE);
        assert_eq!(pace.ended(&Ended::ChangeOver), Duration::ZERO);
    }

    #[test]
    fn the_hubs_word_on_when_to_come_back_is_kept_within_reason() {
        let mut pace = Pace::new();
        let mut after = |secs| {
            pace.ended(&Ended::Busy {
                retry_after: Duration::from_secs(secs),
            })
        };
        let wait = after(40);
        assert!((40.0..=50.0).contains(&wait.as_secs_f64()), "{wait:?}");
        assert!(after(1_000_000) <= MAX_RETRY_AFTER.mul_f64(1.25));
        assert!(pace.ended(&Ended::Fenced { retry_after: None }) >= FENCED);
        assert!(pace.ended(&Ended::NotAllowed { retry_after: None }) >= REFUSED);
    }
}
