//! Whether the peer is alive: heartbeats and the deadline of silence. Knows time and nothing else.
//!
//! A side that has heard nothing for one interval asks, and again after another; after two and a half it gives up. The hub starts half
//! an interval later, so that on an idle link only the gateway asks and the hub answers: one exchange per interval, both know.

use crate::Now;
use core::time::Duration;

#[derive(Debug)]
pub(super) struct Pulse {
    interval: Duration,
    /// Added to the first question.
    patience: Duration,
    heard: Now,
    asked: Option<Now>,
    ask: bool,
    answer: bool,
}

impl Pulse {
    pub(super) fn new(interval: Duration, patience: Duration, now: Now) -> Self {
        Self {
            interval,
            patience,
            heard: now,
            asked: None,
            ask: false,
            answer: false,
        }
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    pub(super) fn heard_at(&self) -> Now {
        self.heard
    }

    pub(super) fn heard(&mut self, now: Now) {
        self.heard = now;
        self.asked = None;
    }

    pub(super) fn owe_answer(&mut self) {
        self.answer = true;
    }

    pub(super) fn dead_at(&self) -> Now {
        self.heard + self.interval * 5 / 2
    }

    fn ask_at(&self) -> Now {
        match self.asked {
            None => self.heard + self.interval + self.patience,
            Some(asked) => asked + self.interval,
        }
    }

    pub(super) fn timeout(&self) -> Now {
        self.dead_at().min(self.ask_at())
    }

    /// Time has passed; how long the silence has been when it is over.
    pub(super) fn tick(&mut self, now: Now) -> Result<(), Duration> {
        if now >= self.dead_at() {
            return Err(now - self.heard);
        }
        if now >= self.ask_at() {
            self.ask = true;
            self.asked = Some(now);
        }
        Ok(())
    }

    /// Asks now, without waiting for the interval's end.
    pub(super) fn ask_now(&mut self, now: Now) {
        self.ask = true;
        self.asked = Some(now);
    }

    /// A heartbeat to be sent: whether it is an answer. A question asks for one and so is not sent beside an answer.
    pub(super) fn take(&mut self) -> Option<bool> {
        if self.ask {
            (self.ask, self.answer) = (false, false);
            return Some(false);
        }
        core::mem::take(&mut self.answer).then_some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn asks_twice_then_gives_up_within_three_intervals() {
        let mut pulse = Pulse::new(60 * S, Duration::ZERO, Now::ZERO);
        let mut asked = Vec::new();
        let (now, silence) = loop {
            let now = pulse.timeout();
            if let Err(silence) = pulse.tick(now) {
                break (now, silence);
            }
            asked.push((now.as_secs(), pulse.take()));
        };
        assert_eq!(asked, [(60, Some(false)), (120, Some(false))]);
        assert_eq!(silence, 150 * S);
        assert!(now <= 180 * S);
    }

    #[test]
    fn any_word_begins_anew_and_answers_are_given_once() {
        let mut pulse = Pulse::new(60 * S, 30 * S, Now::ZERO);
        assert_eq!(pulse.timeout(), 90 * S);
        pulse.heard(80 * S);
        assert_eq!((pulse.tick(100 * S), pulse.take()), (Ok(()), None));
        assert_eq!(pulse.timeout(), 170 * S);
        pulse.owe_answer();
        assert_eq!((pulse.take(), pulse.take()), (Some(true), None));
    }

    #[test]
    fn a_question_ahead_of_time_does_not_put_off_the_end() {
        let mut pulse = Pulse::new(60 * S, Duration::ZERO, Now::ZERO);
        for n in 0..3 {
            pulse.ask_now(50 * n * S);
            assert_eq!((pulse.take(), pulse.take()), (Some(false), None));
        }
        assert_eq!(pulse.timeout(), 150 * S);
        assert_eq!(pulse.tick(150 * S), Err(150 * S));
    }
}
