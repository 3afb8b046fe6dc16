//! How fast a hub takes gateways back.
//!
//! After a restart a whole fleet comes at once. Each return costs a handshake, a resume and perhaps a difference of sets; taking all at
//! once would make every one of them slow and some of them time out. A bucket of tokens lets so many per second in and tells the
//! others when to come: each is given a later place than the one before, so that the second wave is not as steep as the first.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A token bucket that hands out times to come back. Shared by reference; the lock is held for a few instructions.
#[derive(Debug)]
pub struct Admission {
    rate: f64,
    burst: f64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    tokens: f64,
    at: Instant,
    /// How far into the future places have been promised.
    promised: Instant,
}

/// Nobody is sent away for longer than this; who comes later than the queue reaches shares its last place.
const LONGEST: Duration = Duration::from_secs(60);

impl Admission {
    /// Lets `rate` per second in, and `burst` at once after a quiet time.
    pub fn new(rate: u32, burst: u32) -> Self {
        let now = daemon::clock::now();
        let burst = f64::from(burst.max(1));
        let state = State {
            tokens: burst,
            at: now,
            promised: now,
        };
        Self {
            rate: f64::from(rate.max(1)),
            burst,
            state: Mutex::new(state),
        }
    }

    /// One gateway asks to come in.
    ///
    /// # Errors
    /// The time after which it should ask again.
    pub fn admit(&self) -> Result<(), Duration> {
        self.admit_at(daemon::clock::now())
    }

    fn admit_at(&self, now: Instant) -> Result<(), Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(state.at).as_secs_f64();
        state.at = state.at.max(now);
        state.tokens = self.burst.min(state.tokens + passed * self.rate);
        if state.tokens >= 1.0 {
            state.tokens -= 1.0;
            return Ok(());
        }
        let step = Duration::from_secs_f64(1.0 / self.rate);
        let place = state.promised.max(now) + step;
        state.promised = place.min(now + LONGEST);
        // Never at once: a round trip and a handshake are lost on a refusal.
        Err(state
            .promised
            .saturating_duration_since(now)
            .max(Duration::from_millis(250)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_spread_over_the_time_its_rate_needs() {
        let start = daemon::clock::now();
        let bucket = Admission::new(100, 50);
        let refused: Vec<_> = (0..1050).filter_map(|_| bucket.admit_at(start).err()).collect();
        assert_eq!(refused.len(), 1000);
        assert!(refused.windows(2).all(|w| w[0] <= w[1]));
        let last = refused.last().unwrap().as_secs_f64();
        assert!(
            (9.9..10.1).contains(&last),
            "1,000 at 100 a second end at 10 s, not {last}"
        );
    }

    #[test]
    fn tokens_come_back_with_time_and_no_further_than_the_burst() {
        let start = daemon::clock::now();
        let bucket = Admission::new(10, 5);
        for _ in 0..5 {
            assert_eq!(bucket.admit_at(start), Ok(()));
        }
        assert!(bucket.admit_at(start).is_err());
        assert_eq!(bucket.admit_at(start + Duration::from_millis(110)), Ok(()));
        let later = start + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| bucket.admit_at(later).is_ok()).count(), 5);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let start = daemon::clock::now();
        let bucket = Admission::new(1, 1);
        let longest = (0..10_000).filter_map(|_| bucket.admit_at(start).err()).max();
        assert_eq!(longest, Some(LONGEST));
    }
}
