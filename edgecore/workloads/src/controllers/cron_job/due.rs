//! Which time of a schedule is due. Pure; times in seconds since 1970.

use jiff::tz::TimeZone;

use super::super::schedule::Schedule;

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
    let first = times.next(earliest, place).ok_or(NEVER)?;
    if now < first {
        return Ok(None);
    }
    let second = times.next(first, place).ok_or(NEVER)?;
    if now < second {
        return Ok(Some((first, Missed::Few)));
    }
    // As many as would have been at the pace of the first two; from one before the last of these on they are looked at one by one.
    let pace = (second - first).max(1);
    let count = (now - first) / pace + 1;
    let mut last = first;
    let mut from = first + (count - 2).max(0) * pace;
    while let Some(next) = times.next(from, place).filter(|next| *next <= now) {
        last = next;
        from = next;
    }
    if last == first {
        // A pace that is not kept: further back, at most through what a hundred thousand looks find.
        from = first;
        for _ in 0..100_000 {
            match times.next(from, place).filter(|next| *next <= now) {
                Some(next) => (last, from) = (next, next),
                None => break,
            }
        }
    }
    let missed = if count > MANY { Missed::Many } else { Missed::Few };
    Ok(Some((last, missed)))
}

/// The next time after now, or the first after `begun` that is not served.
pub(super) fn next(schedule: &(Schedule, TimeZone), begun: i64, now: i64) -> Option<i64> {
    let (times, place) = schedule;
    let after = match times.next(begun, place) {
        Some(first) if first > now => return Some(first),
        // Spans are counted from the last start, not from now.
        Some(first) if matches!(times, Schedule::Every(_)) => due(schedule, begun, now, None)
            .ok()
            .flatten()
            .map_or(first, |(at, _)| at),
        _ => now,
    };
    times.next(after, place)
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
