//! When a CronJob is due: the next time that its schedule means, in the time of a place.
//!
//! As elsewhere: a time that a clock is put forward over does not come, one that it is put back over comes twice. Pure, but for reading a time zone.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{Timestamp, ToSpan as _};
use metastore::api::cron::Schedule;

/// How far ahead a time is looked for, in days: five years.
const AHEAD_DAYS: usize = 5 * 366;
/// Where the machine keeps its time zones.
const ZONES: [&str; 3] = ["/usr/share/zoneinfo", "/usr/share/lib/zoneinfo", "/etc/zoneinfo"];
/// Largest description of a zone that is read; real ones have a few kilobytes.
const MOST_ZONE_BYTES: u64 = 64 * 1024;

/// The first time after one, both in seconds since 1970; none within five years.
pub(super) fn next_after(schedule: &Schedule, after: i64, zone: &TimeZone) -> Option<i64> {
    let [minutes, hours, ..] = match schedule {
        Schedule::Every(seconds) => return Some(after + seconds),
        Schedule::Times(fields) => fields,
    };
    let here = zone.to_datetime(Timestamp::from_second(after).ok()?);
    let mut day = here.date();
    for ahead in 0..AHEAD_DAYS {
        if is_day(schedule, day) {
            // On the first day what is long over is not looked at; a clock is put back by less than three hours.
            let first = if ahead == 0 { (here.hour() - 3).max(0) } else { 0 };
            let mut found: Option<(i64, i8)> = None;
            for hour in (first..24).filter(|h| hours.has(*h)) {
                if found.is_some_and(|(_, at)| hour > at + 3) {
                    break;
                }
                for minute in (0..60).filter(|m| minutes.has(*m)) {
                    let time = Time::constant(hour, minute, 0, 0);
                    for at in moments(day.to_datetime(time), zone).into_iter().flatten() {
                        if at > after && found.is_none_or(|(best, _)| at < best) {
                            found = Some((at, hour));
                        }
                    }
                }
            }
            if let Some((at, _)) = found {
                return Some(at);
            }
        }
        day = day.checked_add(1.day()).ok()?;
    }
    None
}

/// Whether a day is meant. When both kinds of days are said, either is enough.
fn is_day(schedule: &Schedule, day: Date) -> bool {
    let Schedule::Times([_, _, days, months, weekdays]) = schedule else {
        return true;
    };
    let of_month = days.has(day.day());
    let of_week = weekdays.has(day.weekday().to_sunday_zero_offset());
    let is_day = if days.is_all() || weekdays.is_all() {
        of_month && of_week
    } else {
        of_month || of_week
    };
    months.has(day.month()) && is_day
}

/// The moments at which clocks somewhere show this: none, one or two.
fn moments(shown: DateTime, zone: &TimeZone) -> [Option<i64>; 2] {
    let at = |offset: Offset| offset.to_timestamp(shown).ok().map(Timestamp::as_second);
    match zone.to_ambiguous_timestamp(shown).offset() {
        AmbiguousOffset::Unambiguous { offset } => [at(offset), None],
        AmbiguousOffset::Gap { .. } => [None, None],
        AmbiguousOffset::Fold { before, after } => [at(before), at(after)],
    }
}

/// The clock of a place, from the machine's own description of it; none where the machine knows no such place.
pub(super) fn zone(name: &str) -> Option<TimeZone> {
    use std::io::Read as _;

    if matches!(name, "" | "UTC" | "Etc/UTC") {
        return Some(TimeZone::UTC);
    }
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b))
    };
    if name.len() > 64 || !name.split('/').all(is_part) {
        return None;
    }
    ZONES.iter().find_map(|folder| {
        let file = std::fs::File::open(std::path::Path::new(folder).join(name)).ok()?;
        let mut bytes = Vec::new();
        file.take(MOST_ZONE_BYTES).read_to_end(&mut bytes).ok()?;
        TimeZone::tzif(name, &bytes).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nexts(schedule: &str, place: &str, after: &str, count: usize) -> Vec<String> {
        let zone = zone(place).unwrap();
        let schedule = Schedule::parse(schedule).unwrap();
        let mut at = after.parse::<Timestamp>().unwrap().as_second();
        (0..count)
            .map(|_| {
                at = next_after(&schedule, at, &zone).unwrap();
                Timestamp::from_second(at).unwrap().to_string()
            })
            .collect()
    }

    #[test]
    fn times() {
        for (schedule, after, next) in [
            ("* * * * *", "2026-11-21T10:00:00Z", "2026-11-21T10:01:00Z"),
            ("* * * * *", "2026-11-21T10:00:59Z", "2026-11-21T10:01:00Z"),
            ("*/15 * * * *", "2026-11-21T10:50:00Z", "2026-11-21T11:00:00Z"),
            ("5/20 3 * * *", "2026-11-21T03:05:00Z", "2026-11-21T03:25:00Z"),
            ("30 6-16/4 * * 1-5", "2026-11-20T14:30:00Z", "2026-11-23T06:30:00Z"),
            ("0 0 1,15 * *", "2026-11-21T10:00:00Z", "2026-12-01T00:00:00Z"),
            ("0 12 13 * FRI", "2026-11-21T10:00:00Z", "2026-11-27T12:00:00Z"),
            ("0 12 13 jan-feb ?", "2026-11-21T10:00:00Z", "2027-01-13T12:00:00Z"),
            ("0 0 29 2 *", "2026-11-21T10:00:00Z", "2028-02-29T00:00:00Z"),
            ("@hourly", "2026-11-21T10:00:00Z", "2026-11-21T11:00:00Z"),
            ("@weekly", "2026-11-21T10:00:00Z", "2026-11-22T00:00:00Z"),
            ("@yearly", "2026-11-21T10:00:00Z", "2027-01-01T00:00:00Z"),
            ("@every 1h30m", "2026-11-21T10:00:07Z", "2026-11-21T11:30:07Z"),
            ("@every 10ms", "2026-11-21T10:00:07Z", "2026-11-21T10:00:08Z"),
        ] {
            assert_eq!(nexts(schedule, "UTC", after, 1), [next], "{schedule}");
        }
        let never = Schedule::parse("59 23 31 2 *").unwrap();
        assert_eq!(next_after(&never, 1_795_230_670, &TimeZone::UTC), None);
    }

    /// The nights in Berlin in which clocks are put forward and back.
    #[test]
    fn a_time_that_is_left_out_does_not_come_and_one_that_is_twice_comes_twice() {
        let place = "Europe/Berlin";
        assert_eq!(
            nexts("30 2 * * *", place, "2026-03-28T00:00:00Z", 3),
            ["2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z"]
        );
        assert_eq!(
            nexts("30 2 * * *", place, "2026-10-24T12:00:00Z", 3),
            ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"]
        );
        assert_eq!(
            nexts("0 * * * *", place, "2026-10-24T23:30:00Z", 4),
            [
                "2026-10-25T00:00:00Z",
                "2026-10-25T01:00:00Z",
                "2026-10-25T02:00:00Z",
                "2026-10-25T03:00:00Z"
            ]
        );
        // Clocks there are put back by half an hour.
        assert_eq!(
            nexts("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", 3),
            ["2026-04-04T14:45:00Z", "2026-04-04T15:15:00Z", "2026-04-05T15:15:00Z"]
        );
    }

    #[test]
    fn zones_are_the_machines() {
        assert!(zone("Europe/Berlin").is_some() && zone("").is_some());
        for wrong in [
            "Europe/Nowhere",
            "../../../etc/passwd",
            "/etc/passwd",
            "Europe",
            "zone.tab",
            "a//b",
        ] {
            assert!(zone(wrong).is_none(), "{wrong}");
        }
    }
}
