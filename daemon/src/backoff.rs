//! Full-jitter exponential back-off: each wait is uniform between zero and a doubling ceiling, so that a fleet that lost its hub
//! at one moment does not come back at one moment.

use std::time::Duration;

/// A sequence of waits; [`FullJitter::reset`] after a success.
#[derive(Clone, Debug)]
pub struct FullJitter {
    base: Duration,
    cap: Duration,
    attempt: u32,
}

impl FullJitter {
    /// `base` is the first ceiling, `cap` the last.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, attempt: 0 }
    }

    /// The next wait: uniform in `0..=min(cap, base * 2^attempt)`.
    pub fn next_wait(&mut self) -> Duration {
        let ceiling = self.ceiling();
        self.attempt = self.attempt.saturating_add(1);
        ceiling.mul_f64(fastrand::f64())
    }

    /// The ceiling of the next wait.
    pub fn ceiling(&self) -> Duration {
        self.base
            .saturating_mul(1_u32.checked_shl(self.attempt.min(31)).unwrap_or(u32::MAX))
            .min(self.cap)
    }

    /// Begins again at `base`.
    pub const fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceiling_doubles_up_to_the_cap_and_never_overflows() {
        let mut b = FullJitter::new(Duration::from_millis(500), Duration::from_secs(30));
        let mut ceilings = Vec::new();
        for _ in 0..80 {
            let c = b.ceiling();
            assert!(b.next_wait() <= c);
            ceilings.push(c.as_millis());
        }
        assert_eq!(&ceilings[..8], &[500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        assert_eq!(ceilings[79], 30000);
        b.reset();
        assert_eq!(b.ceiling(), Duration::from_millis(500));
    }

    #[test]
    fn waits_are_spread_over_the_whole_range() {
        let mut low = 0;
        for _ in 0..200 {
            if FullJitter::new(Duration::from_secs(1), Duration::from_secs(1)).next_wait() < Duration::from_millis(500)
            {
                low += 1;
            }
        }
        assert!((40..160).contains(&low), "{low} of 200 in the lower half");
    }
}
