//! The one source of time in the daemons: tests and lints can see who reads a clock.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The monotonic clock.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since the Unix epoch by the machine's wall clock, which may be wrong by years; 0 when it stands before 1970.
#[allow(clippy::disallowed_methods)]
pub fn wall_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Time since this process first asked: the origin that sans-I/O machines are driven with.
pub fn since_start() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    now().saturating_duration_since(*START.get_or_init(now))
}

/// The instant at which [`since_start`] will read `at`; in the past when it already did.
pub fn instant_at(at: Duration) -> Instant {
    let current = now();
    let elapsed = since_start();
    match at.checked_sub(elapsed) {
        Some(ahead) => current + ahead,
        None => current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_moves_forward_only() {
        let a = since_start();
        let b = since_start();
        assert!(b >= a);
        assert!(instant_at(b + Duration::from_secs(5)) > now());
        assert!(instant_at(Duration::ZERO) <= now());
    }
}
