//! Which time of a schedule is due. Pure; times in seconds since 1970.

use jiff::tz::TimeZone;
use metastore::api::cron::Schedule;

use super::super::schedule::next_after;

/// How many times were missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missed {
    Few,
    /// More than a hundred: perhaps a clock was wrong.
    Many,
}

/// The last time that is due and has not been served since `begun`, none when there is none. With a deadline, what is older is not due any more.
///
/// # Errors
/// The schedule names no time that ever comes.
pub(super) fn due(
    schedule: &(Schedule, TimeZone),
    begun: i64,
    now: i64,
    deadline: Option<i64>,
) -> Result<Option<(i64, Missed)>, String> {
    const NEVER: &str = "time difference between two schedules is less than 1 second";
    const MANY: i64 = 100;
    let (times, place) = schedule;
    let earliest = deadline.map_or(begun, |d| begun.max(now.saturating_sub(d)));
    let first = next_after(times, earliest, place).ok_or(NEVER)?;
    if now < first {
        return Ok(None);
    }
    let second = next_after(times, first, place).ok_or(NEVER)?;
    if now < second {
        return Ok(Some((first, Missed::Few)));
    }
    // As many as would have been at the pace of the first two.
    let pace = (second - first).max(1);
    let count = (now - first) / pace + 1;
    let mut last = first;
    if matches!(times, Schedule::Every(_)) {
        last = first + (count - 1) * pace;
    } else {
        // Back from now in longer and longer strides to where there is one, and from there one by one.
        let mut stride = pace;
        let mut from = (now - stride).max(first);
        while from > first && next_after(times, from, place).is_none_or(|next| next > now) {
            stride = stride.saturating_mul(2);
            from = now.saturating_sub(stride).max(first);
        }
        while let Some(next) = next_after(times, from, place).filter(|next| *next <= now) {
            (last, from) = (next, next);
        }
    }
    let missed = if count > MANY { Missed::Many } else { Missed::Few };
    Ok(Some((last, missed)))
}

/// The next time after now, or the first after `begun` that is not served.
pub(super) fn next(schedule: &(Schedule, TimeZone), begun: i64, now: i64) -> Option<i64> {
    let (times, place) = schedule;
    let after = match next_after(times, begun, place) {
        Some(first) if first > now => return Some(first),
        // Spans are counted from the last start, not from now.
        Some(first) if matches!(times, Schedule::Every(_)) => due(schedule, begun, now, None)
            .ok()
            .flatten()
            .map_or(first, |(at, _)| at),
        _ => now,
    };
    next_after(times, after, place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn at(time: &str) -> i64 {
        time.parse::<Timestamp>().unwrap().as_second()
    }

    fn shown(at: i64) -> String {
        Timestamp::from_second(at).unwrap().to_string()
    }

    #[test]
    fn the_last_of_what_was_missed_is_due() {
        let begun = "2026-11-20T10:00:00Z";
        for (schedule, now, deadline, wanted, many) in [
            ("0 * * * *", "2026-11-20T10:59:59Z", None, None, false),
            (
                "0 * * * *",
                "2026-11-20T11:00:00Z",
                None,
                Some("2026-11-20T11:00:00Z"),
                false,
            ),
            (
                "0 * * * *",
                "2026-11-20T15:30:00Z",
                None,
                Some("2026-11-20T15:00:00Z"),
                false,
            ),
            (
                "0 * * * *",
                "2026-11-23T10:00:00Z",
                None,
                Some("2026-11-23T10:00:00Z"),
                false,
            ),
            (
                "* * * * *",
                "2026-11-20T11:41:30Z",
                None,
                Some("2026-11-20T11:41:00Z"),
                true,
            ),
            ("0 * * * *", "2026-11-20T15:30:00Z", Some(1799), None, false),
            (
                "0 * * * *",
                "2026-11-20T15:30:00Z",
                Some(1801),
                Some("2026-11-20T15:00:00Z"),
                false,
            ),
            (
                "30 6-16/4 * * 1-5",
                "2026-11-23T09:00:00Z",
                None,
                Some("2026-11-23T06:30:00Z"),
                false,
            ),
            (
                "30 6-16/4 * * 1-5",
                "2026-11-22T09:00:00Z",
                None,
                Some("2026-11-20T14:30:00Z"),
                false,
            ),
            (
                "@every 45m",
                "2026-11-20T12:00:00Z",
                None,
                Some("2026-11-20T11:30:00Z"),
                false,
            ),
            ("0 * * * *", "2020-01-01T00:00:00Z", None, None, false),
            // Decades of a clock that was wrong, and the night begins with none.
            (
                "*/5 6-22 * * *",
                "2076-11-20T02:00:00Z",
                None,
                Some("2076-11-19T22:55:00Z"),
                true,
            ),
            (
                "0 0 29 2 *",
                "2035-01-01T00:00:00Z",
                None,
                Some("2032-02-29T00:00:00Z"),
                false,
            ),
        ] {
            let schedule_ = (Schedule::parse(schedule).unwrap(), TimeZone::UTC);
            let found = due(&schedule_, at(begun), at(now), deadline).unwrap();
            let missed = if many { Missed::Many } else { Missed::Few };
            assert_eq!(
                found.map(|(at, missed)| (shown(at), missed)),
                wanted.map(|w| (w.to_owned(), missed)),
                "{schedule} {now}"
            );
        }
        let never = (Schedule::parse("0 0 31 2 *").unwrap(), TimeZone::UTC);
        assert!(due(&never, at(begun), at("2026-11-21T00:00:00Z"), None).is_err());
    }

    #[test]
    fn the_next_look() {
        for (schedule, now, wanted) in [
            ("0 * * * *", "2026-11-20T10:20:00Z", "2026-11-20T11:00:00Z"),
            ("0 * * * *", "2026-11-20T15:30:00Z", "2026-11-20T16:00:00Z"),
            ("@every 45m", "2026-11-20T12:00:00Z", "2026-11-20T12:15:00Z"),
        ] {
            let schedule_ = (Schedule::parse(schedule).unwrap(), TimeZone::UTC);
            let next = next(&schedule_, at("2026-11-20T10:00:00Z"), at(now)).unwrap();
            assert_eq!(shown(next), wanted, "{schedule} {now}");
        }
    }
}
