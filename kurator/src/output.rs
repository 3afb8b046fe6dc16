//! Plain columns, JSON and YAML.

use daemon::exit::{FAILED, Failure};
use serde_json::Value;

/// Left-aligned columns, three spaces apart, as `kubectl` prints them; no trailing blanks.
pub fn columns(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let head: Vec<String> = head.iter().map(|h| (*h).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate().take(widths.len()) {
            line.push_str(cell);
            if i + 1 < widths.len() {
                line.extend(std::iter::repeat_n(' ', widths[i] - cell.chars().count() + 3));
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Indented JSON with a final newline.
pub fn json(value: &Value) -> String {
    format!("{value:#}\n")
}

/// YAML.
///
/// # Errors
/// A value that YAML cannot carry.
pub fn yaml(value: &Value) -> Result<String, Failure> {
    serde_saphyr::to_string(value).map_err(|e| Failure::new(FAILED, format!("cannot write YAML: {e}")))
}

/// `37s`, `5m`, `3h`, `12d`: how long ago `then` (RFC 3339) was at `now_ms`.
pub fn age(then: &str, now_ms: u64) -> String {
    let Ok(then) = then.parse::<jiff::Timestamp>() else {
        return "<unknown>".to_owned();
    };
    let seconds = (i64::try_from(now_ms).unwrap_or(i64::MAX) - then.as_millisecond()).max(0) / 1000;
    match seconds {
        s if s < 120 => format!("{s}s"),
        s if s < 7_200 => format!("{}m", s / 60),
        s if s < 172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

/// `1.5 MB`-like, decimal.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_by_characters_and_leave_no_trailing_blanks() {
        let rows = vec![vec!["é".into(), "x".into()], vec!["long-name".into(), String::new()]];
        assert_eq!(
            columns(&["NAME", "V"], &rows),
            "NAME        V\né           x\nlong-name\n"
        );
    }

    #[test]
    fn ages_and_bytes() {
        assert_eq!(age("1970-01-01T00:00:00Z", 90_000), "90s");
        assert_eq!(age("1970-01-01T00:00:00Z", 3_600_000), "60m");
        assert_eq!(age("1970-01-01T00:00:05Z", 0), "0s");
        assert_eq!(age("nonsense", 0), "<unknown>");
        assert_eq!(
            (bytes(999), bytes(1500), bytes(2_500_000)),
            ("999 B".into(), "1.5 kB".into(), "2.5 MB".into())
        );
    }
}
