//! What runs short, and since when: thresholds held against what is left. Pure; who goes is `rank`'s business.

mod rank;
mod words;

use std::time::Duration;

use tokio::time::Instant;

use super::limits::{Eviction, Signal, Threshold};
use super::report::Pressure;

pub(super) use rank::{Candidate, is_critical, over_limit, rank};
pub(super) use words::{Shortage, evicted};

/// What is left of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) signal: Signal,
    pub(super) available: u64,
    pub(super) whole: u64,
}

/// What follows from a look.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Verdict {
    pub(super) pressure: Pressure,
    /// What to win back, memory first; none: nothing, or not yet.
    pub(super) short: Option<Threshold>,
}

/// What was seen before.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Thresholds that are crossed, since when.
    crossed: Vec<(Threshold, Instant)>,
    /// Those that are to be acted upon until more than the threshold is won back.
    acting: Vec<Threshold>,
    /// When each pressure was seen last: memory, disk, process ids.
    pressed: [Option<Instant>; 3],
}

impl Watch {
    /// One look at what is left. A signal that was not looked at stays as it was: at what was said of it before.
    pub(super) fn see(
        &mut self,
        settings: &Eviction,
        thresholds: &[Threshold],
        left: &[Left],
        now: Instant,
    ) -> Verdict {
        let line = |threshold: &Threshold, reclaim: bool| {
            let left = left.iter().find(|left| left.signal == threshold.signal)?;
            let more = threshold
                .reclaim
                .filter(|_| reclaim)
                .map_or(0, |amount| amount.of(left.whole));
            Some(left.available < settings.scaled(threshold, left.whole).saturating_add(more))
        };
        let crosses = |threshold: &Threshold| {
            let crosses = line(threshold, self.acting.contains(threshold));
            crosses.unwrap_or_else(|| self.crossed.iter().any(|(t, _)| t == threshold))
        };
        let crossed: Vec<(Threshold, Instant)> = thresholds
            .iter()
            .filter(|threshold| crosses(threshold))
            .map(|threshold| {
                let since = self.crossed.iter().find(|(t, _)| t == threshold);
                (*threshold, since.map_or(now, |(_, since)| *since))
            })
            .collect();
        for (threshold, _) in &crossed {
            self.pressed[kind(threshold.signal)] = Some(now);
        }
        let period = Duration::from_secs(settings.pressure_transition_seconds);
        let [memory, disk, pids] = [0, 1, 2].map(|kind| {
            // As long as something is crossed, whatever the period is.
            let seen = self.pressed[kind];
            seen.is_some_and(|at| at == now || now.duration_since(at) < period)
        });
        self.acting = crossed
            .iter()
            .filter(|(threshold, since)| now.duration_since(*since) >= threshold.grace.unwrap_or_default())
            .map(|(threshold, _)| *threshold)
            .collect();
        self.crossed = crossed;
        Verdict {
            pressure: Pressure { memory, disk, pids },
            // Signals are in their order of urgency, and hard thresholds come before soft ones. Nothing is done about what was not looked at.
            short: self
                .acting
                .iter()
                .filter(|t| left.iter().any(|left| left.signal == t.signal))
                .min_by_key(|t| (t.signal, t.grace))
                .copied(),
        }
    }
}

/// Which pressure a signal is of.
const fn kind(signal: Signal) -> usize {
    match signal {
        Signal::Memory => 0,
        Signal::NodeFs | Signal::NodeFsInodes | Signal::ImageFs | Signal::ImageFsInodes => 1,
        Signal::Pids => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::limits::Amount;

    fn memory(available: u64) -> [Left; 1] {
        [Left {
            signal: Signal::Memory,
            available,
            whole: 1000,
        }]
    }

    fn hard(reclaim: Option<u64>) -> Threshold {
        Threshold {
            signal: Signal::Memory,
            least: Amount::Of(90),
            grace: None,
            reclaim: reclaim.map(Amount::Of),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pressure_stays_a_while_after_it_went() {
        let (settings, mut watch) = (Eviction::default(), Watch::default());
        let thresholds = [hard(None)];
        let now = Instant::now();
        let calm = watch.see(&settings, &thresholds, &memory(90), now);
        assert_eq!(
            calm,
            Verdict {
                pressure: Pressure::default(),
                short: None
            }
        );
        let short = watch.see(&settings, &thresholds, &memory(89), now);
        assert!(short.pressure.memory && short.short == Some(thresholds[0]));
        let after = watch.see(&settings, &thresholds, &memory(500), now + Duration::from_secs(299));
        assert!(after.pressure.memory && after.short.is_none());
        assert!(
            !watch
                .see(&settings, &thresholds, &memory(500), now + Duration::from_secs(300))
                .pressure
                .memory
        );
    }

    #[tokio::test(start_paused = true)]
    async fn soft_thresholds_wait_and_more_than_a_threshold_is_won_back() {
        let (settings, mut watch) = (Eviction::default(), Watch::default());
        let soft = Threshold {
            least: Amount::Part(0.2),
            grace: Some(Duration::from_secs(90)),
            ..hard(Some(100))
        };
        let thresholds = [hard(Some(100)), soft];
        let at = |seconds| Instant::now() + Duration::from_secs(seconds);
        let see = |watch: &mut Watch, available, seconds| {
            watch
                .see(&settings, &thresholds, &memory(available), at(seconds))
                .short
                .map(|t| t.grace.is_none())
        };
        assert_eq!(see(&mut watch, 150, 0), None, "soft, and only just");
        assert_eq!(see(&mut watch, 250, 10), None);
        assert_eq!(see(&mut watch, 150, 20), None);
        assert_eq!(see(&mut watch, 150, 109), None, "the time begins anew");
        assert_eq!(see(&mut watch, 150, 110), Some(false));
        assert_eq!(
            see(&mut watch, 250, 120),
            Some(false),
            "over the threshold, and not by as much as was asked"
        );
        assert_eq!(see(&mut watch, 80, 130), Some(true), "the hard one is more urgent");
        assert_eq!(see(&mut watch, 250, 140), Some(false));
        assert_eq!(see(&mut watch, 301, 150), None);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_comes_before_disk_and_each_has_its_pressure() {
        let (settings, mut watch) = (Eviction::default(), Watch::default());
        let (thresholds, _) = settings.thresholds();
        let left = [
            Left {
                signal: Signal::Pids,
                available: 1,
                whole: 1000,
            },
            Left {
                signal: Signal::ImageFsInodes,
                available: 1,
                whole: 1000,
            },
            Left {
                signal: Signal::Memory,
                available: 1,
                whole: 1 << 30,
            },
        ];
        let verdict = watch.see(&settings, &thresholds, &left, Instant::now());
        assert_eq!(
            verdict.pressure,
            Pressure {
                memory: true,
                disk: true,
                pids: true
            }
        );
        assert_eq!(verdict.short.unwrap().signal, Signal::Memory);
        assert_eq!(
            watch
                .see(&settings, &thresholds, &left[..1], Instant::now())
                .short
                .unwrap()
                .signal,
            Signal::Pids
        );
    }
}
