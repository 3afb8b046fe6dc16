//! Times as `2026-11-21T03:11:10Z`, from and to milliseconds since 1970. Whole seconds, UTC; no calendar crate for two functions.

const DAY: u64 = 86_400;
/// The last second of the year 9999, the last one the form can hold.
const LAST: u64 = 253_402_300_799;

/// Text of a time.
pub(crate) fn format(ms: u64) -> String {
    let seconds = (ms / 1000).min(LAST);
    let (days, rest) = (seconds / DAY, seconds % DAY);
    // Days since 1 March of the year 0, in eras of 400 years, so that the leap day is the last of a year.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// Milliseconds of a time in the form that [`format()`] writes; fractions of a second are dropped, offsets not read.
pub(crate) fn parse(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| -> Option<u64> {
        let digits = text.get(from..to)?;
        digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse().ok())
            .flatten()
    };
    let sign = |at: usize, sign: &str| (text.get(at..=at)? == sign).then_some(());
    sign(4, "-")?;
    sign(7, "-")?;
    sign(10, "T")?;
    sign(13, ":")?;
    sign(16, ":")?;
    let fraction = text.get(19..)?.strip_suffix('Z')?;
    let fraction_digits = fraction.is_empty() || fraction.strip_prefix('.')?.bytes().all(|b| b.is_ascii_digit());
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let in_range = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !(fraction_digits && in_range && hour < 24 && minute < 60 && second < 61) {
        return None;
    }
    let shifted_year = year - u64::from(month <= 2);
    let (era, year_of_era) = (shifted_year / 400, shifted_year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    Some((days * DAY + hour * 3600 + minute * 60 + second) * 1000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_times() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_795_230_670_759, "2026-11-21T03:11:10Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(format(ms), text);
        }
        assert_eq!(parse("2026-11-21T03:11:10.759Z"), Some(1_795_230_670_000));
        for bad in [
            "",
            "2026-11-21",
            "2026-11-21T03:11:10",
            "2026-13-21T03:11:10Z",
            "2026-11-21T03:11:10+01:00",
            "1969-12-31T23:59:59Z",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn comes_back(seconds in 0..=LAST) {
            prop_assert_eq!(parse(&format(seconds * 1000)), Some(seconds * 1000));
        }

        #[test]
        fn reads_anything(text in "\\PC{0,30}") {
            parse(&text);
        }
    }
}
