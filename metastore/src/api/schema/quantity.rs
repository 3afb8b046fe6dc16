//! Quantities (`500m`, `1Gi`): amounts in the one spelling that the reference server gives them, so that equal amounts are equal text.

use serde_json::Value;

/// How a schema says that a value is a quantity.
pub(crate) const FORMAT: &str = "quantity";

/// Nothing smaller than this part of one is kept.
const NANO: u32 = 9;
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// How an amount was spelled, which decides how it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    Decimal,
    Exponent,
    Binary,
}

/// An amount in billionths; none when it is too large to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quantity {
    nanos: Option<i128>,
    spelling: Spelling,
}

/// The canonical text of a value, none when it is no quantity.
pub(crate) fn canonical(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let quantity = Quantity::parse(&text)?;
    Some(quantity.write().unwrap_or(text))
}

/// The amount that a quantity (`500m`, `1Gi`, `2`) names, in billionths; none when it is no quantity or too large to be counted.
pub fn nanos(value: &Value) -> Option<i128> {
    match value {
        Value::String(text) => Quantity::parse(text)?.nanos,
        Value::Number(number) => Quantity::parse(&number.to_string())?.nanos,
        _ => None,
    }
}

impl Quantity {
    fn parse(text: &str) -> Option<Self> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = unsigned
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let (spelling, tens, twos) = scale(suffix)?;
        let sign = if text.starts_with('-') { -1 } else { 1 };
        let nanos = amount(whole, fraction, tens, twos).map(|n| n * sign);
        Some(Self { nanos, spelling })
    }

    /// None when it cannot be written shorter than it came.
    fn write(self) -> Option<String> {
        const ONE: i128 = 10_i128.pow(NANO);
        let nanos = self.nanos?;
        if nanos == 0 {
            return Some("0".to_owned());
        }
        if self.spelling == Spelling::Binary && nanos.abs() >= 1024 * ONE && nanos % ONE == 0 {
            let (mut whole, mut power) = (nanos / ONE, 0);
            while whole % 1024 == 0 && power + 1 < BINARY.len() {
                whole /= 1024;
                power += 1;
            }
            return Some(format!("{whole}{}", BINARY[power]));
        }
        let (mut mantissa, mut exponent) = (nanos, -9);
        while mantissa % 1000 == 0 && exponent < 18 {
            mantissa /= 1000;
            exponent += 3;
        }
        if self.spelling == Spelling::Exponent {
            let tail = if exponent == 0 {
                String::new()
            } else {
                format!("e{exponent}")
            };
            return Some(format!("{mantissa}{tail}"));
        }
        let (suffix, _) = DECIMAL.iter().find(|(_, e)| *e == exponent)?;
        Some(format!("{mantissa}{suffix}"))
    }
}

/// A suffix as its spelling, a power of ten and a power of two.
fn scale(suffix: &str) -> Option<(Spelling, i32, u32)> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Some((Spelling::Decimal, *exponent, 0));
    }
    if let Some(power) = BINARY.iter().position(|s| *s == suffix) {
        return Some((Spelling::Binary, 0, 10 * u32::try_from(power).ok()?));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    Some((Spelling::Exponent, exponent.parse().ok()?, 0))
}

/// The amount in billionths, rounded away from zero; none when it does not fit.
fn amount(whole: &str, fraction: &str, tens: i32, twos: u32) -> Option<i128> {
    let fraction = fraction.trim_end_matches('0');
    let digits: i128 = match format!("{whole}{fraction}").trim_start_matches('0') {
        "" => return Some(0),
        digits => digits.parse().ok()?,
    };
    let digits = digits.checked_mul(1_i128.checked_shl(twos)?)?;
    let exponent = tens + NANO.cast_signed() - i32::try_from(fraction.len()).ok()?;
    if exponent >= 0 {
        return digits.checked_mul(10_i128.checked_pow(exponent.unsigned_abs())?);
    }
    match 10_i128.checked_pow(exponent.unsigned_abs()) {
        Some(divisor) => Some(digits / divisor + i128::from(digits % divisor != 0)),
        None => Some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn equal_amounts_are_equal_text() {
        for (said, text) in [
            ("1000m", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1024Mi", "1Gi"),
            ("1500", "1500"),
            ("1000", "1k"),
            ("2048Ki", "2Mi"),
            ("512Ki", "512Ki"),
            ("0.5Gi", "512Mi"),
            ("0.1Ki", "102400m"),
            ("1Ki", "1Ki"),
            ("1023", "1023"),
            ("1e3", "1e3"),
            ("1500e-3", "1500e-3"),
            ("0", "0"),
            ("0Gi", "0"),
            ("-1000m", "-1"),
            ("+5", "5"),
            ("12E", "12E"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            (
                "100000000000000000000000000000000000000Ei",
                "100000000000000000000000000000000000000Ei",
            ),
        ] {
            assert_eq!(canonical(&json!(said)).as_deref(), Some(text), "{said}");
        }
        assert_eq!(canonical(&json!(2)).as_deref(), Some("2"));
        assert_eq!(canonical(&json!(0.25)).as_deref(), Some("250m"));
        for wrong in ["", "-", "1.2.3", "1 Gi", "Gi", "1gi", "1e", "0x10", "1KiB"] {
            assert_eq!(canonical(&json!(wrong)), None, "{wrong}");
        }
        assert!(nanos(&json!("1Gi")) > nanos(&json!("1G")));
    }

    proptest! {
        #[test]
        fn writing_keeps_the_amount(text in "-?[0-9]{1,12}(\\.[0-9]{1,6})?(m|k|M|Ki|Gi|e3|E)?") {
            let said = json!(text);
            let written = json!(canonical(&said).unwrap());
            prop_assert_eq!(nanos(&said), nanos(&written));
            prop_assert_eq!(canonical(&written).unwrap(), written.as_str().unwrap());
        }
    }
}
