//! When probes are due and what their answers add up to. Pure: time and answers come in, what is to be asked comes out.
//!
//! A container has up to three watches, each for as long as it runs. Until its startup probe said yes no other is asked; a liveness or startup
//! probe that said no for good is not asked again. First questions of a container that ran before this task did are spread over the period, so
//! that an agent that starts with fifty pods does not ask them all at once.

use super::ask::Answer;
use super::memory::Said;
use super::observed::{Seen, State, millis};
use crate::pod::{Container, Probe};

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    /// As messages begin with it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }

    const fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// One probe of one running container.
#[derive(Clone, Debug)]
struct Watch {
    id: String,
    name: String,
    kind: Kind,
    /// Milliseconds since 1970, as is `next`.
    period: u64,
    next: u64,
    /// Longest that it can be until the next question, milliseconds.
    most: u64,
    failures: u32,
    successes: u32,
    /// What it said last, and how often in a row.
    last: Option<bool>,
    run: u32,
    /// It is being asked.
    asking: bool,
    /// Not asked again until there is a new container.
    hold: bool,
}

/// A question that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// All watches of a pod.
#[derive(Clone, Debug, Default)]
pub(super) struct Watches(Vec<Watch>);

impl Watches {
    /// Brings the watches in line with what runs: `now` is milliseconds since 1970, `ending` says that only readiness is still of interest.
    pub(super) fn tend<'a>(
        &mut self,
        running: impl Iterator<Item = (&'a Container, &'a Seen)>,
        ending: bool,
        now: u64,
    ) {
        let running: Vec<_> = running.filter(|(_, seen)| seen.state == State::Running).collect();
        let ends = |w: &Watch| ending && w.kind != Kind::Readiness;
        self.0
            .retain(|w| !ends(w) && running.iter().any(|(_, seen)| seen.id == w.id));
        for (container, seen) in running {
            for kind in [Kind::Startup, Kind::Liveness, Kind::Readiness] {
                let known = self.0.iter().any(|w| w.id == seen.id && w.kind == kind);
                let Some(probe) = kind
                    .of(container)
                    .filter(|_| !known && (!ending || kind == Kind::Readiness))
                else {
                    continue;
                };
                let period = u64::from(probe.period_seconds.max(1)) * 1000;
                let delay = u64::from(probe.initial_delay_seconds) * 1000;
                let first = millis(seen.started) + delay;
                let spread = crate::time::fingerprint(&(&seen.id, kind as u8)) % period;
                let next = if now > first + 2000 { now + spread } else { first };
                self.0.push(Watch {
                    id: seen.id.clone(),
                    name: seen.name.clone(),
                    kind,
                    period,
                    next,
                    most: period.max(delay),
                    failures: probe.failure_threshold.max(1),
                    successes: probe.success_threshold.max(1),
                    last: None,
                    run: 0,
                    asking: false,
                    hold: false,
                });
            }
        }
    }

    /// Whether a container has a startup probe that has not said yes.
    fn starting(&self, id: &str, said: Said) -> bool {
        said.startup != Some(true) && self.0.iter().any(|w| w.id == id && w.kind == Kind::Startup)
    }

    fn waits(&self, watch: &Watch, said: Said) -> bool {
        let starting = self.starting(&watch.id, said);
        let asked = if watch.kind == Kind::Startup {
            starting
        } else {
            !starting
        };
        watch.asking || watch.hold || !asked
    }

    /// When the next question is due, milliseconds since 1970.
    pub(super) fn next(&self, said: impl Fn(&str) -> Said) -> Option<u64> {
        self.0
            .iter()
            .filter(|w| !self.waits(w, said(&w.id)))
            .map(|w| w.next)
            .min()
    }

    /// The questions that are due now. They are being asked from here on.
    pub(super) fn due(&mut self, now: u64, said: impl Fn(&str) -> Said) -> Vec<Due> {
        // A clock that was set back must not stop the questions.
        for watch in &mut self.0 {
            watch.next = watch.next.min(now.saturating_add(watch.most));
        }
        let due: Vec<usize> = (0..self.0.len())
            .filter(|at| self.0[*at].next <= now && !self.waits(&self.0[*at], said(&self.0[*at].id)))
            .collect();
        let mut out = Vec::new();
        for at in due {
            let watch = &mut self.0[at];
            watch.asking = true;
            // In step, unless it is late: then from now on.
            watch.next = (watch.next + watch.period).max(now + watch.period / 2);
            out.push(Due {
                id: watch.id.clone(),
                name: watch.name.clone(),
                kind: watch.kind,
            });
        }
        out
    }

    /// Takes in an answer. Whether it changed what the probe says.
    pub(super) fn answered(&mut self, due: &Due, answer: &Answer, said: &mut Said) -> bool {
        let Some(watch) = self.0.iter_mut().find(|w| w.id == due.id && w.kind == due.kind) else {
            return false;
        };
        watch.asking = false;
        let yes = match answer {
            Answer::Yes => true,
            Answer::No(_) => false,
            Answer::Unknown(_) => return false,
        };
        watch.run = if watch.last == Some(yes) {
            watch.run.saturating_add(1)
        } else {
            1
        };
        watch.last = Some(yes);
        if watch.run < if yes { watch.successes } else { watch.failures } {
            return false;
        }
        if watch.kind == Kind::Startup || (watch.kind == Kind::Liveness && !yes) {
            watch.hold = true;
        }
        let place = match watch.kind {
            Kind::Startup => &mut said.startup,
            Kind::Liveness => &mut said.liveness,
            Kind::Readiness => &mut said.readiness,
        };
        let changed = *place != Some(yes);
        *place = Some(yes);
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_000;

    fn container(startup: bool) -> Container {
        let probe = |period: u32, failures: u32| Probe {
            period_seconds: period,
            failure_threshold: failures,
            success_threshold: 1,
            ..Probe::default()
        };
        Container {
            name: "a".to_owned(),
            startup_probe: startup.then(|| probe(1, 3)),
            liveness_probe: Some(probe(10, 2)),
            readiness_probe: Some(Probe {
                initial_delay_seconds: 5,
                success_threshold: 2,
                ..probe(10, 3)
            }),
            ..Container::default()
        }
    }

    fn seen(id: &str, started: u64) -> Seen {
        Seen {
            id: id.to_owned(),
            name: "a".to_owned(),
            state: State::Running,
            started: i64::try_from(started).unwrap() * 1_000_000,
            ..Seen::default()
        }
    }

    fn kinds(due: &[Due]) -> Vec<Kind> {
        due.iter().map(|d| d.kind).collect()
    }

    #[test]
    fn thresholds_count_in_a_row_and_only_a_change_is_news() {
        let (c, s) = (container(false), seen("x", NOW));
        let (mut watches, mut said) = (Watches::default(), Said::default());
        watches.tend([(&c, &s)].into_iter(), false, NOW);
        assert_eq!(watches.next(|_| said), Some(NOW));
        let due = watches.due(NOW, |_| said);
        assert_eq!(kinds(&due), [Kind::Liveness], "the other one waits for its delay");
        assert!(
            watches
                .due(NOW + 60_000, |_| said)
                .iter()
                .all(|d| d.kind == Kind::Readiness),
            "one question at a time"
        );
        let no = Answer::No("no".to_owned());
        assert!(!watches.answered(&due[0], &no, &mut said));
        assert!(watches.answered(&due[0], &Answer::Yes, &mut said));
        assert!(!watches.answered(&due[0], &Answer::Yes, &mut said));
        assert!(!watches.answered(&due[0], &no, &mut said));
        assert!(!watches.answered(&due[0], &Answer::Unknown(String::new()), &mut said));
        assert!(watches.answered(&due[0], &no, &mut said));
        assert_eq!(said.liveness, Some(false));
        let ready = Due {
            kind: Kind::Readiness,
            ..due[0].clone()
        };
        assert!(!watches.answered(&ready, &Answer::Yes, &mut said), "it takes two");
        assert!(watches.answered(&ready, &Answer::Yes, &mut said));
        watches.tend([(&c, &s)].into_iter(), false, NOW + 20_000);
        let due = watches.due(NOW + 200_000, |_| said);
        assert_eq!(
            kinds(&due),
            [Kind::Readiness],
            "what failed for good is not asked again"
        );
    }

    #[test]
    fn nothing_else_is_asked_before_the_startup_probe_says_yes() {
        let (c, s) = (container(true), seen("x", NOW));
        let (mut watches, mut said) = (Watches::default(), Said::default());
        watches.tend([(&c, &s)].into_iter(), false, NOW);
        let due = watches.due(NOW + 60_000, |_| said);
        assert_eq!(kinds(&due), [Kind::Startup]);
        assert!(watches.answered(&due[0], &Answer::Yes, &mut said));
        assert_eq!(
            kinds(&watches.due(NOW + 120_000, |_| said)),
            [Kind::Liveness, Kind::Readiness]
        );
    }

    #[test]
    fn a_new_container_is_watched_anew_and_an_ending_one_for_readiness_only() {
        let c = container(false);
        let (mut watches, said) = (Watches::default(), Said::default());
        watches.tend([(&c, &seen("x", NOW))].into_iter(), false, NOW);
        assert_eq!(watches.due(NOW + 60_000, |_| said).len(), 2);
        watches.tend([(&c, &seen("y", NOW + 60_000))].into_iter(), false, NOW + 60_000);
        assert_eq!(watches.due(NOW + 120_000, |_| said).len(), 2);
        watches.tend([(&c, &seen("z", NOW + 60_000))].into_iter(), true, NOW + 60_000);
        assert_eq!(kinds(&watches.due(NOW + 120_000, |_| said)), [Kind::Readiness]);
        watches.tend([].into_iter(), false, NOW);
        assert_eq!(watches.next(|_| said), None);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_stop_the_questions() {
        let c = container(false);
        let (mut watches, mut said) = (Watches::default(), Said::default());
        watches.tend([(&c, &seen("x", NOW))].into_iter(), false, NOW);
        let asked = watches.due(NOW + 20_000, |_| said);
        assert_eq!(asked.len(), 2);
        for due in &asked {
            watches.answered(due, &Answer::Yes, &mut said);
        }
        let back = NOW - 3_600_000;
        assert!(watches.due(back, |_| said).is_empty());
        assert!(watches.next(|_| said).unwrap() <= back + 10_000);
        assert_eq!(watches.due(back + 10_000, |_| said).len(), 2);
    }

    #[test]
    fn first_questions_to_containers_that_ran_before_are_spread() {
        let c = container(false);
        let mut firsts = std::collections::BTreeSet::new();
        for n in 0..50 {
            let mut watches = Watches::default();
            watches.tend([(&c, &seen(&format!("c{n}"), NOW - 3_600_000))].into_iter(), false, NOW);
            let next = watches.next(|_| Said::default()).unwrap();
            assert!((NOW..NOW + 10_000).contains(&next));
            firsts.insert((next - NOW) / 1000);
        }
        assert!(firsts.len() >= 5, "{firsts:?}");
    }
}
