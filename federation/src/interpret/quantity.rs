//! Kubernetes' quantities: as much of them as adding up what pods ask for takes.

/// In what a quantity is counted, and how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// Thousandths, in powers of ten: processors.
    Milli,
    /// Whole ones, in powers of two: bytes.
    Bytes,
    /// Whole ones, in powers of ten.
    Whole,
}

/// Digits after the point that count: there is nothing smaller than a billionth.
const FRACTION: u32 = 9;
/// Digits before the point that make a number that no quantity can be.
const TOO_MANY: usize = 20;

impl Unit {
    /// The quantity in this unit, rounded up; the largest number where it is more than that. Nothing where the text is no quantity, or one below
    /// zero.
    pub(super) fn read(self, text: &str) -> Option<i64> {
        let text = text.strip_prefix('+').unwrap_or(text);
        let digits = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return None;
        }
        let (multiplier, divisor) = scale(suffix)?;
        let whole = whole.trim_start_matches('0');
        if whole.len() >= TOO_MANY {
            return Some(i64::MAX);
        }
        let (counted, rest) = fraction.split_at(fraction.len().min(FRACTION as usize));
        let billionths: u128 = format!("{whole}{counted:0<width$}", width = FRACTION as usize)
            .parse()
            .ok()?;
        let billionths = billionths + u128::from(rest.bytes().any(|digit| digit != b'0'));
        let unit: u128 = if self == Self::Milli { 1000 } else { 1 };
        let scaled = billionths
            .checked_mul(unit)
            .and_then(|number| number.checked_mul(multiplier?));
        Some(
            match (
                scaled,
                divisor.and_then(|divisor| divisor.checked_mul(10_u128.pow(FRACTION))),
            ) {
                _ if billionths == 0 => 0,
                // Larger than any number, or smaller than any part of one.
                (None, _) => i64::MAX,
                (Some(_), None) => 1,
                (Some(number), Some(divisor)) => i64::try_from(number.div_ceil(divisor)).unwrap_or(i64::MAX),
            },
        )
    }

    /// This many, as a server writes it: with the largest suffix that leaves a whole number.
    pub(super) fn write(self, count: i64) -> String {
        let (step, suffixes): (i64, &[&str]) = match self {
            Self::Milli => (1000, &["m", "", "k", "M", "G", "T", "P", "E"]),
            Self::Whole => (1000, &["", "k", "M", "G", "T", "P", "E"]),
            // Fewer than the first power of two are written as what they are.
            Self::Bytes => (1024, &["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"]),
        };
        if count == 0 {
            return "0".to_owned();
        }
        let (mut count, mut power) = (count, 0);
        while count % step == 0 && power + 1 < suffixes.len() {
            count /= step;
            power += 1;
        }
        format!("{count}{}", suffixes[power])
    }
}

/// What a suffix multiplies by and divides by; nothing in place of a number that is too large.
fn scale(suffix: &str) -> Option<(Option<u128>, Option<u128>)> {
    let decimal = |exponent: i64| {
        let power = |exponent: i64| {
            u32::try_from(exponent)
                .ok()
                .and_then(|exponent| 10_u128.checked_pow(exponent))
        };
        (power(exponent.max(0)), power(exponent.saturating_neg().max(0)))
    };
    let binary = |power: u32| (Some(1_u128 << (10 * power)), Some(1));
    Some(match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => decimal(suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_in_their_unit_and_rounded_up() {
        for (text, unit, count) in [
            ("50m", Unit::Milli, 50),
            ("1", Unit::Milli, 1000),
            ("0.1", Unit::Milli, 100),
            (".5", Unit::Milli, 500),
            ("1.", Unit::Milli, 1000),
            ("1u", Unit::Milli, 1),
            ("100n", Unit::Bytes, 1),
            ("0", Unit::Milli, 0),
            ("+2", Unit::Whole, 2),
            ("32Mi", Unit::Bytes, 32 << 20),
            ("1.5Gi", Unit::Bytes, 3 << 29),
            ("1e3", Unit::Whole, 1000),
            ("1E3", Unit::Whole, 1000),
            ("12e-1", Unit::Whole, 2),
            ("2E", Unit::Whole, 2_000_000_000_000_000_000),
            ("1e-400", Unit::Whole, 1),
            ("0e400", Unit::Whole, 0),
            ("1e400", Unit::Whole, i64::MAX),
            ("0.0000000000001", Unit::Milli, 1),
            ("99999999999999999999999999999999999999999999", Unit::Whole, i64::MAX),
            ("00000000000000000000000000000000000000000007", Unit::Whole, 7),
            ("9Ei", Unit::Milli, i64::MAX),
        ] {
            assert_eq!(unit.read(text), Some(count), "{text}");
        }
        for text in ["", ".", "-1", "1.2.3", "1x", "Mi", "1 ", "1e", "e3", "+-1", "1mi", "１"] {
            assert_eq!(Unit::Whole.read(text), None, "{text}");
        }
    }

    #[test]
    fn quantities_are_written_as_a_server_writes_them() {
        for (unit, count, text) in [
            (Unit::Milli, 50, "50m"),
            (Unit::Milli, 1500, "1500m"),
            (Unit::Milli, 2000, "2"),
            (Unit::Milli, 2_000_000, "2k"),
            (Unit::Bytes, 32 << 20, "32Mi"),
            (Unit::Bytes, 3 << 29, "1536Mi"),
            (Unit::Bytes, 1000, "1000"),
            (Unit::Bytes, 1025, "1025"),
            (Unit::Bytes, 1024, "1Ki"),
            (Unit::Whole, 3, "3"),
            (Unit::Whole, 3000, "3k"),
            (Unit::Whole, 0, "0"),
            (Unit::Whole, i64::MAX, "9223372036854775807"),
        ] {
            assert_eq!(unit.write(count), text);
        }
    }
}
