//! Times of built-in kinds: RFC 3339, read as the reference server reads them and written in its one spelling, UTC with whole seconds or with
//! microseconds.

/// How a schema says that a value is a time in microseconds; documents call it a time like the others.
pub(crate) const MICRO: &str = "micro-time";
/// The format of times in documents.
pub(crate) const TIME: &str = "date-time";

/// The canonical text of a time, none when it is no time. `micro`: with exactly six digits behind the second.
pub(crate) fn canonical(text: &str, micro: bool) -> Option<String> {
    let form = if micro {
        "%Y-%m-%dT%H:%M:%S.%6fZ"
    } else {
        "%Y-%m-%dT%H:%M:%SZ"
    };
    if !is_time(text.as_bytes(), micro) {
        return None;
    }
    let at = text.parse::<jiff::Timestamp>().ok()?;
    Some(at.strftime(form).to_string())
}

/// The form; whether the numbers are a date is found by whoever reads them.
fn is_time(text: &[u8], micro: bool) -> bool {
    const FORM: &[u8] = b"dddd-dd-ddTdd:dd:dd";
    let fits = |part: &[u8], form: &[u8]| {
        part.len() == form.len()
            && part.iter().zip(form).all(|(b, f)| match f {
                b'd' => b.is_ascii_digit(),
                _ => b == f,
            })
    };
    let Some((head, mut rest)) = text.split_at_checked(FORM.len()) else {
        return false;
    };
    let mut digits = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 || digits > 9 {
            return false;
        }
        rest = &fraction[digits..];
    }
    let zone = match rest {
        b"Z" => true,
        [b'+' | b'-', offset @ ..] => fits(offset, b"dd:dd"),
        _ => false,
    };
    fits(head, FORM) && zone && (!micro || digits == 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_one_spelling() {
        for (text, micro, want) in [
            ("2026-01-01T00:00:00Z", false, Some("2026-01-01T00:00:00Z")),
            ("2026-01-01T02:00:00.9+02:00", false, Some("2026-01-01T00:00:00Z")),
            ("2026-01-01T00:00:00.123456Z", true, Some("2026-01-01T00:00:00.123456Z")),
            (
                "2026-01-01T00:00:00.123456-01:00",
                true,
                Some("2026-01-01T01:00:00.123456Z"),
            ),
            ("2026-01-01T00:00:00Z", true, None),
            ("2026-01-01T00:00:00.5Z", true, None),
            ("2026-13-01T00:00:00Z", false, None),
            ("2026-01-01 00:00:00Z", false, None),
            ("2026-01-01T00:00:00", false, None),
            ("2026-01-01T00:00:00.Z", false, None),
            ("", false, None),
            ("yesterday", false, None),
        ] {
            assert_eq!(canonical(text, micro).as_deref(), want, "{text}");
        }
    }
}
