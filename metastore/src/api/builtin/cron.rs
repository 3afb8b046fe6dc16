//! The schedule of a CronJob as it is written: the five fields that everybody knows, the words for the usual ones, and `@every` with a span
//! of time. One grammar for who lets an object in and for who starts its jobs. When a schedule is due is not known here.

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// Least and most of each field, and names of its numbers from the least on.
const FIELDS: [(u32, u32, &[&str]); 5] = [
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (1, 12, &MONTHS),
    (0, 6, &DAYS),
];
const WORDS: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// Which numbers of a field are meant, one bit each, and whether all are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    bits: u64,
    all: bool,
}

impl Field {
    /// Whether this number is meant.
    pub const fn has(self, number: i8) -> bool {
        number >= 0 && self.bits >> number & 1 == 1
    }

    /// Whether it says nothing: every number is meant.
    pub const fn is_all(self) -> bool {
        self.all
    }
}

/// When something is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Minute, hour, day of the month, month, day of the week.
    Times([Field; 5]),
    /// Every so many seconds.
    Every(i64),
}

/// Takes `TZ=place` from the front of a schedule.
pub fn split_zone(text: &str) -> (Option<&str>, &str) {
    let rest = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ="));
    match rest.and_then(|r| r.split_once(' ')) {
        Some((zone, times)) => (Some(zone), times.trim()),
        None => (None, text),
    }
}

impl Schedule {
    /// Reads a schedule without a zone.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(span) = text.strip_prefix("@every ") {
            let span = span_seconds(span).ok_or_else(|| format!("failed to parse duration {text}"))?;
            return Ok(Self::Every(span.max(1)));
        }
        let times = match text.strip_prefix('@') {
            None => text,
            Some(_) => {
                let word = WORDS.iter().find(|(word, _)| *word == text);
                word.ok_or_else(|| format!("unrecognized descriptor: {text}"))?.1
            }
        };
        let said: Vec<&str> = times.split_whitespace().collect();
        let Ok(said): Result<[&str; 5], _> = said.try_into() else {
            let count = times.split_whitespace().count();
            return Err(format!("expected exactly 5 fields, found {count}: {times}"));
        };
        let mut fields = [Field { bits: 0, all: false }; 5];
        for ((out, said), (low, high, names)) in fields.iter_mut().zip(said).zip(FIELDS) {
            for part in said.split(',').filter(|p| !p.is_empty()) {
                let read = part_of_field(part, low, high, names)?;
                out.bits |= read.bits;
                out.all |= read.all;
            }
        }
        Ok(Self::Times(fields))
    }
}

/// `*`, `N`, `N-M`, each with `/STEP`.
fn part_of_field(part: &str, low: u32, high: u32, names: &[&str]) -> Result<Field, String> {
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(step)),
        None => (part, None),
    };
    let number = |text: &str| -> Result<u32, String> {
        match names.iter().position(|n| n.eq_ignore_ascii_case(text)) {
            Some(at) => Ok(low + u32::try_from(at).unwrap_or(0)),
            None => text.parse().map_err(|_| format!("failed to parse int from {text}")),
        }
    };
    let (first, last) = match range {
        "*" | "?" => (low, high),
        range => match range.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None if step.is_some() => (number(range)?, high),
            None => (number(range)?, number(range)?),
        },
    };
    let step = step.map_or(Ok(1), number)?;
    if first < low || last > high {
        return Err(format!("{part} is outside of {low}-{high}"));
    }
    if first > last {
        return Err(format!(
            "beginning of range ({first}) beyond end of range ({last}): {part}"
        ));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    let numbers = (first..=last).step_by(usize::try_from(step).unwrap_or(usize::MAX));
    Ok(Field {
        bits: numbers.fold(0, |bits, n| bits | 1 << n),
        all: matches!(range, "*" | "?") && step == 1,
    })
}

/// Whole seconds of a span as Go writes it: `1h30m`, `1.5s`, `-2m`.
fn span_seconds(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut seconds: f64 = 0.0;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let scale = match &tail[..unit] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * scale;
        rest = &tail[unit..];
        if rest.is_empty() {
            break;
        }
    }
    // Go counts nanoseconds in 63 bits: 292 years.
    #[allow(clippy::cast_possible_truncation)]
    (seconds < 9.2e9).then_some((sign * seconds) as i64)
}

/// Checks a schedule that may begin with a time zone; the error says what is wrong.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    let (zone, times) = split_zone(schedule);
    if zone.is_none() && ["TZ=", "CRON_TZ="].iter().any(|tz| schedule.starts_with(tz)) {
        return Err("a time zone stands before a schedule".to_owned());
    }
    Schedule::parse(times).map(drop)
}

/// Whether a time zone can be one: its name is well-formed, and known where this machine knows any.
pub(super) fn is_zone(name: &str) -> bool {
    const KNOWN: &str = "/usr/share/zoneinfo";
    let well_formed = name.split('/').all(|part| {
        (1..=14).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b))
            && part != "."
            && part != ".."
            && !part.starts_with('-')
    });
    let known = std::path::Path::new(KNOWN);
    well_formed
        && !name.eq_ignore_ascii_case("local")
        && (name == "UTC" || !known.is_dir() || known.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for good in [
            "* * * * *",
            "*/5 0-23/2 1,15 jan-mar MON-FRI",
            "0 0 ? * 0",
            "5/10 * * * *",
            "@hourly",
            "@every 1h30m",
            "@every 0",
            "@every -1.5s",
            "TZ=UTC 0 0 * * *",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 7",
            "5-1 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "@often",
            "@every x",
            "@every 1",
            "@every ",
            "@every 1e3s",
            "@every 9999999h",
            "0-4294967295 * * * *",
            "*/18446744073709551616 * * * *",
            "TZ=UTC",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn zones() {
        assert_eq!(split_zone("TZ=Asia/Tokyo 0 3 * * *"), (Some("Asia/Tokyo"), "0 3 * * *"));
        assert_eq!(split_zone("0 3 * * *"), (None, "0 3 * * *"));
        assert!(is_zone("UTC"));
        for bad in [
            "",
            "Local",
            "../etc/passwd",
            "/etc",
            "-a",
            "a//b",
            "Europe/NoSuchPlaceIsThere",
        ] {
            assert!(!is_zone(bad), "{bad}");
        }
    }
}
