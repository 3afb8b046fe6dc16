//! The formats of texts that schemas may name and the API enforces; others are documentation.

/// Formats of texts. A name may be written with or without its hyphens.
const OF_TEXT: [&str; 24] = [
    "bsonobjectid",
    "byte",
    "cidr",
    "creditcard",
    "date",
    "datetime",
    "duration",
    "email",
    "hexcolor",
    "hostname",
    "ipv4",
    "ipv6",
    "isbn",
    "isbn10",
    "isbn13",
    "mac",
    "password",
    "rgbcolor",
    "ssn",
    "uri",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
];

/// Whether a format means something for a type.
pub(crate) fn is_known(format: &str, ty: &str) -> bool {
    match ty {
        "" | "string" => OF_TEXT.contains(&format.replace('-', "").as_str()),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    }
}

/// Whether a text has a format.
pub(crate) fn fits(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "datetime" => is_date_time(text),
        "date" => is_date(text),
        "byte" => is_base64(text),
        "uuid" => is_uuid(text, None),
        "uuid3" => is_uuid(text, Some('3')),
        "uuid4" => is_uuid(text, Some('4')),
        "uuid5" => is_uuid(text, Some('5')),
        "ipv4" => is_ipv4(text),
        "ipv6" => text.contains(':') && text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uri" => is_uri(text),
        "email" => is_email(text),
        "hostname" => is_hostname(text),
        "duration" => is_duration(text),
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            matches!(digits.len(), 3 | 6) && digits.bytes().all(|b| b.is_ascii_hexdigit())
        }
        "rgbcolor" => is_rgb(text),
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "ssn" => is_ssn(text),
        "creditcard" => is_card(text),
        "isbn" => is_isbn(text, 10) || is_isbn(text, 13),
        "isbn10" => is_isbn(text, 10),
        "isbn13" => is_isbn(text, 13),
        _ => true,
    }
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && text.is_ascii() && text.parse::<jiff::civil::Date>().is_ok()
}

fn is_date_time(text: &str) -> bool {
    let Some((date, time)) = text.split_once(['T', 't']) else {
        return false;
    };
    let (clock, zone) = match time.find(['Z', 'z', '+', '-']) {
        Some(at) => time.split_at(at),
        None => return false,
    };
    let (clock, fraction) = clock.split_once('.').map_or((clock, None), |(c, f)| (c, Some(f)));
    let two = |part: &str, most: u32| part.len() == 2 && digits(part) && part.parse::<u32>().is_ok_and(|n| n <= most);
    let mut parts = clock.split(':');
    let mut next = |most| parts.next().is_some_and(|p| two(p, most));
    let clock_fits = next(23) && next(59) && next(59) && parts.next().is_none();
    let zone_fits = match zone {
        "Z" | "z" => true,
        offset => offset[1..]
            .split_once(':')
            .is_some_and(|(h, m)| two(h, 23) && two(m, 59)),
    };
    is_date(date) && clock_fits && zone_fits && fraction.is_none_or(digits)
}

fn is_base64(text: &str) -> bool {
    use base64::Engine as _;
    !text.is_empty() && base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}

/// With or without hyphens, each in its place; of a version, when one is asked for.
fn is_uuid(text: &str, version: Option<char>) -> bool {
    let mut rest = text;
    for (i, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if i > 0 {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        let Some(part) = rest.get(..length).filter(|p| p.bytes().all(|b| b.is_ascii_hexdigit())) else {
            return false;
        };
        let variant = |p: &str| p.starts_with(['8', '9', 'a', 'b', 'A', 'B']);
        let wrong = match (i, version) {
            (2, Some(v)) => !part.starts_with(v),
            (3, Some('4' | '5')) => !variant(part),
            _ => false,
        };
        if wrong {
            return false;
        }
        rest = &rest[length..];
    }
    rest.is_empty()
}

/// Leading zeros are read over, as old clients write them.
fn is_ipv4(text: &str) -> bool {
    let mut parts = text.split('.');
    let byte = |p: &str| digits(p) && p.trim_start_matches('0').len() <= 3 && p.parse::<u64>().is_ok_and(|n| n < 256);
    (0..4).all(|_| parts.next().is_some_and(byte)) && parts.next().is_none()
}

fn is_cidr(text: &str) -> bool {
    let Some((ip, length)) = text.split_once('/') else {
        return false;
    };
    let most = if is_ipv4(ip) {
        32
    } else if ip.parse::<std::net::Ipv6Addr>().is_ok() {
        128
    } else {
        return false;
    };
    digits(length) && length.parse::<u32>().is_ok_and(|n| n <= most)
}

fn is_mac(text: &str) -> bool {
    let hex = |p: &str, n: usize| p.len() == n && p.bytes().all(|b| b.is_ascii_hexdigit());
    [(':', 2), ('-', 2), ('.', 4)].into_iter().any(|(separator, n)| {
        let parts: Vec<&str> = text.split(separator).collect();
        matches!(parts.len() * n, 12 | 16 | 40) && parts.iter().all(|p| hex(p, n))
    })
}

/// As a request names it: a path, or an absolute URI.
fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|b| b < b' ' || b == 0x7f) {
        return false;
    }
    let rest = match text.split_once(':') {
        Some((scheme, rest))
            if scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) =>
        {
            rest
        }
        _ if text.starts_with('/') => text,
        _ => return false,
    };
    let escaped = rest.split('%').skip(1).all(|part| {
        let bytes = part.as_bytes();
        bytes.len() >= 2 && bytes[..2].iter().all(u8::is_ascii_hexdigit)
    });
    let host_fits = rest.strip_prefix("//").is_none_or(|after| {
        let host = after.split(['/', '?']).next().unwrap_or_default();
        let host = host.rsplit_once('@').map_or(host, |(_, h)| h);
        let bracketed = host.starts_with('[');
        let port = match host.rsplit_once(':') {
            Some((_, port)) if !bracketed || host.contains("]:") => port,
            _ => "",
        };
        !host.contains([' ', '<', '>', '"'])
            && bracketed == host.contains(']')
            && port.bytes().all(|b| b.is_ascii_digit())
    });
    escaped && host_fits
}

fn is_email(text: &str) -> bool {
    let address = match text.rsplit_once('<') {
        Some((_, rest)) => match rest.strip_suffix('>') {
            Some(inner) => inner,
            None => return false,
        },
        None => text,
    };
    let Some((local, domain)) = address.rsplit_once('@') else {
        return false;
    };
    let word = |t: &str| !t.is_empty() && !t.contains(|c: char| c.is_whitespace() || "()<>[]:;@\\,\"".contains(c));
    let dotted = |t: &str| t.split('.').all(word);
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    (quoted || dotted(local)) && dotted(domain)
}

fn is_hostname(text: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || (!c.is_ascii() && c.is_alphanumeric());
    let Some((front, last)) = text.rsplit_once('.') else {
        // One label: a character, then at most one hyphen, then more.
        let mut rest = text.chars();
        let first = rest.next().is_some_and(known);
        let tail = rest.as_str();
        let tail = tail.strip_prefix('-').unwrap_or(tail);
        return first && tail.chars().all(known) && tail.chars().count() <= 62 && !text.ends_with('-');
    };
    let label = |t: &str| {
        (1..=63).contains(&t.chars().count())
            && t.starts_with(known)
            && t.ends_with(known)
            && t.chars().all(|c| known(c) || c == '-')
    };
    text.len() <= 255
        && front.split('.').all(label)
        && (2..=63).contains(&last.chars().count())
        && last.chars().all(char::is_alphabetic)
}

/// As programs write it (`1h30m`), or as people do (`3 days`).
fn is_duration(text: &str) -> bool {
    const UNITS: [&str; 11] = ["ns", "us", "µs", "μs", "ms", "s", "m", "h", "d", "w", "hr"];
    const WORDS: [&str; 8] = ["nano", "micro", "milli", "sec", "min", "hour", "day", "week"];
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if unsigned == "0" {
        return true;
    }
    let mut rest = unsigned;
    while !rest.is_empty() {
        let number = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let after = rest[number..].trim_start();
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let word = after[..unit].trim().to_lowercase();
        let known = UNITS.contains(&word.as_str()) || WORDS.iter().any(|w| word.starts_with(w));
        if number == 0 || rest[..number].parse::<f64>().is_err() || !known {
            return false;
        }
        rest = &after[unit..];
    }
    !unsigned.is_empty()
}

fn is_rgb(text: &str) -> bool {
    let inner = text.strip_prefix("rgb(").and_then(|t| t.strip_suffix(')'));
    inner.is_some_and(|inner| {
        let mut parts = inner.split(',').map(str::trim);
        (0..3).all(|_| parts.next().is_some_and(|p| digits(p) && p.parse::<u8>().is_ok())) && parts.next().is_none()
    })
}

fn is_ssn(text: &str) -> bool {
    let plain: Vec<char> = text.chars().collect();
    let mut at = 0;
    for (i, n) in [3, 2, 4].into_iter().enumerate() {
        if i > 0 && matches!(plain.get(at), Some('-' | ' ')) {
            at += 1;
        }
        if !plain
            .get(at..at + n)
            .is_some_and(|p| p.iter().all(char::is_ascii_digit))
        {
            return false;
        }
        at += n;
    }
    at == plain.len()
}

/// The check digit of card numbers.
fn is_card(text: &str) -> bool {
    let plain: Vec<u32> = text
        .chars()
        .filter(|c| !matches!(c, ' ' | '-'))
        .filter_map(|c| c.to_digit(10))
        .collect();
    let other = text.chars().any(|c| !c.is_ascii_digit() && !matches!(c, ' ' | '-'));
    let sum: u32 = plain
        .iter()
        .rev()
        .enumerate()
        .map(|(i, d)| match i % 2 {
            0 => *d,
            _ => d * 2 % 10 + d * 2 / 10,
        })
        .sum();
    !other && (13..=19).contains(&plain.len()) && sum.is_multiple_of(10)
}

fn is_isbn(text: &str, length: usize) -> bool {
    let plain: Vec<char> = text.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
    if plain.len() != length {
        return false;
    }
    let mut sum = 0;
    for (i, c) in plain.iter().enumerate() {
        let digit = match c {
            'X' if length == 10 && i == 9 => 10,
            c => match c.to_digit(10) {
                Some(d) => d,
                None => return false,
            },
        };
        let place = u32::try_from(i).unwrap_or(0);
        sum += match length {
            10 => digit * (10 - place),
            _ => digit * if i % 2 == 0 { 1 } else { 3 },
        };
    }
    sum.is_multiple_of(if length == 10 { 11 } else { 10 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_those_of_the_api() {
        for (format, good, bad) in [
            (
                "date-time",
                &[
                    "2024-01-02T03:04:05Z",
                    "2024-01-02T03:04:05.123+02:00",
                    "2024-01-02t03:04:05z",
                ][..],
                &[
                    "2024-01-02",
                    "2024-01-02 03:04:05Z",
                    "x",
                    "2024-13-01T00:00:00Z",
                    "2024-01-02T03:04:05",
                    "T-",
                    "",
                ][..],
            ),
            ("datetime", &["2024-01-02T03:04:05Z"], &["2024-01-02T03:04:05", "x"]),
            ("date", &["2024-01-02"], &["2024-1-2", "2024-02-30", "x", ""]),
            ("byte", &["AAEC"], &["AAE", "", "a b", "_-8="]),
            ("email", &["a@b.c", "a@b", "a <a@b.c>"], &["a", "@b", "a@"]),
            (
                "uuid",
                &[
                    "7d444840-9dc0-11d1-b245-5ffdce74fad2",
                    "7D4448409DC011D1B2455FFDCE74FAD2",
                ],
                &["x", "{7d444840-9dc0-11d1-b245-5ffdce74fad2}"],
            ),
            (
                "uuid3",
                &["bcd02e22-68f0-3046-a512-327cca9def8f"],
                &["7d444840-9dc0-11d1-b245-5ffdce74fad2"],
            ),
            (
                "uuid4",
                &["025b0d74-00a2-4048-bf57-227c5111bb34"],
                &["7d444840-9dc0-11d1-b245-5ffdce74fad2"],
            ),
            (
                "uuid5",
                &["886313e1-3b8a-5372-9b90-0c9aee199e5d"],
                &["7d444840-9dc0-11d1-b245-5ffdce74fad2"],
            ),
            ("ipv4", &["1.2.3.4", "01.2.3.4"], &["::1", "1.2.3", "1.2.3.256"]),
            ("ipv6", &["::1", "::ffff:1.2.3.4"], &["1.2.3.4", "x"]),
            (
                "cidr",
                &["10.0.0.0/8", "10.0.0.1/8", "::/0", "010.0.0.0/8"],
                &["10.0.0.0", "10.0.0.0/33"],
            ),
            (
                "mac",
                &["00:11:22:33:44:55", "0011.2233.4455", "00:11:22:33:44:55:66:77"],
                &["x", "00:11"],
            ),
            (
                "uri",
                &["http://a/b", "/a", "mailto:x@y", "http://[::1]:80/"],
                &["a", "", "http://a b", "http://[::1"],
            ),
            (
                "hostname",
                &["a", "example.com", "x-1"],
                &["a.b", "a_b", "-a", "", "a..b", "1.2.3.4", "a-"],
            ),
            (
                "duration",
                &["1h", "1h30m", "3 d", "-1s", "1.5h", "2 weeks", "1µs", "10 seconds", "0"],
                &["1", "x", ""],
            ),
            ("hexcolor", &["#fff", "ffffff"], &["#ggg", ""]),
            ("rgbcolor", &["rgb(1,2,3)"], &["rgb(256,1,1)", "x"]),
            (
                "creditcard",
                &["4111111111111111"],
                &["411111", "x", "4111111111111112"],
            ),
            ("isbn10", &["0321751043"], &["x", "0321751044"]),
            ("isbn13", &["978-0321751041"], &["x"]),
            ("ssn", &["111-11-1111"], &["x", "111-11-11111"]),
            ("bsonobjectid", &["507f1f77bcf86cd799439011"], &["x"]),
            ("nosuch", &["anything"], &[]),
        ] {
            for text in good {
                assert!(fits(format, text), "{format}: {text}");
            }
            for text in bad {
                assert!(!fits(format, text), "{format}: {text}");
            }
        }
    }
}
