//! The times of a CronJob: the five fields that everybody knows, the words for the usual ones, and `@every` with a span of time.

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// Minute, hour, day of the month, month, day of the week: least, most, and the names of numbers from the least on.
const FIELDS: [(u32, u32, &[&str]); 5] = [
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (1, 12, &MONTHS),
    (0, 6, &DAYS),
];
const WORDS: [&str; 7] = [
    "@yearly",
    "@annually",
    "@monthly",
    "@weekly",
    "@daily",
    "@midnight",
    "@hourly",
];

/// Checks a schedule; the error says what is wrong.
pub(super) fn check(schedule: &str) -> Result<(), String> {
    let times = match schedule
        .strip_prefix("TZ=")
        .or_else(|| schedule.strip_prefix("CRON_TZ="))
    {
        Some(rest) => rest
            .split_once(' ')
            .ok_or("a time zone stands before a schedule")?
            .1
            .trim(),
        None => schedule,
    };
    if let Some(span) = times.strip_prefix("@every ") {
        return if is_span(span) {
            Ok(())
        } else {
            Err(format!("failed to parse duration {times}"))
        };
    }
    if times.starts_with('@') {
        return if WORDS.contains(&times) {
            Ok(())
        } else {
            Err(format!("unrecognized descriptor: {times}"))
        };
    }
    let fields: Vec<&str> = times.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: {fields:?}", fields.len()));
    }
    for (field, (low, high, names)) in fields.iter().zip(FIELDS) {
        for part in field.split(',').filter(|p| !p.is_empty()) {
            check_part(part, low, high, names)?;
        }
    }
    Ok(())
}

/// `*`, `N`, `N-M`, each with `/STEP`.
fn check_part(part: &str, low: u32, high: u32, names: &[&str]) -> Result<(), String> {
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(step)),
        None => (part, None),
    };
    let number = |text: &str| -> Result<u32, String> {
        let lower = text.to_lowercase();
        if let Some(i) = names.iter().position(|n| *n == lower) {
            return Ok(low + u32::try_from(i).unwrap_or(0));
        }
        text.parse().map_err(|_| format!("failed to parse int from {text}"))
    };
    let (first, last) = match range {
        "*" | "?" => (low, high),
        range => match range.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None if step.is_some() => (number(range)?, high),
            None => (number(range)?, number(range)?),
        },
    };
    if first < low || last > high {
        return Err(format!("{part} is outside of {low}-{high}"));
    }
    if first > last {
        return Err(format!(
            "beginning of range ({first}) beyond end of range ({last}): {part}"
        ));
    }
    match step.map(number) {
        None => Ok(()),
        Some(Ok(0)) => Err(format!("step of range should be a positive number: {part}")),
        Some(step) => step.map(|_| ()),
    }
}

/// A span of time as Go writes it: `1h30m`, `1.5s`.
fn is_span(text: &str) -> bool {
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let mut any = false;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit = ["ns", "us", "µs", "ms", "s", "m", "h"].iter().find(|u| {
            tail.strip_prefix(**u)
                .is_some_and(|t| t.is_empty() || t.starts_with(|c: char| c.is_ascii_digit() || c == '.'))
        });
        let (Ok(_), Some(unit)) = (number.parse::<f64>(), unit) else {
            return false;
        };
        rest = &tail[unit.len()..];
        any = true;
    }
    any
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
            "TZ=UTC",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn zones() {
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
