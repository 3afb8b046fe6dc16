//! What names, labels, ports and addresses may be, as text. Each rule says every fault it finds: clients are told one cause for each, and count
//! them.

use std::net::{IpAddr, Ipv4Addr};

/// What is wrong with a text; nothing when it is as it should be.
pub(crate) type Faults = Vec<&'static str>;

const LONG_63: &str = "must be no more than 63 characters";
const LONG_253: &str = "must be no more than 253 characters";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";

pub(crate) fn dns_label(text: &str) -> Faults {
    let mut out = Faults::new();
    if text.len() > 63 {
        out.push(LONG_63);
    }
    if !is_long_label(text) {
        out.push(LABEL);
    }
    out
}

/// A label whose length somebody else has looked at.
fn is_long_label(text: &str) -> bool {
    let b = text.as_bytes();
    !b.is_empty()
        && b.iter()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
        && b[0] != b'-'
        && b[b.len() - 1] != b'-'
}

pub(crate) fn dns_subdomain(text: &str) -> Faults {
    let mut out = Faults::new();
    if text.len() > 253 {
        out.push(LONG_253);
    }
    if !text.split('.').all(is_long_label) {
        out.push(SUBDOMAIN);
    }
    out
}

pub(crate) fn wildcard_subdomain(text: &str) -> Faults {
    let mut out = Faults::new();
    if text.len() > 253 {
        out.push(LONG_253);
    }
    if !text.strip_prefix("*.").is_some_and(|t| t.split('.').all(is_long_label)) {
        out.push("a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain");
    }
    out
}

pub(crate) fn dns_1035_label(text: &str) -> Faults {
    let mut out = Faults::new();
    if text.len() > 63 {
        out.push(LONG_63);
    }
    if !(is_long_label(text) && text.as_bytes()[0].is_ascii_lowercase()) {
        out.push(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
        );
    }
    out
}

/// A name between alphanumeric ends, with `-`, `_` and `.` inside, of any length.
fn is_qualified(text: &str) -> bool {
    let b = text.as_bytes();
    !b.is_empty()
        && b.iter().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
        && b[0].is_ascii_alphanumeric()
        && b[b.len() - 1].is_ascii_alphanumeric()
}

/// A label key: an optional DNS prefix, and a name.
pub(crate) fn label_key(text: &str) -> Faults {
    let mut out = Faults::new();
    let mut parts = text.split('/');
    let first = parts.next().unwrap_or_default();
    let name = match (parts.next(), parts.next()) {
        (None, _) => first,
        (Some(name), None) => {
            if first.is_empty() {
                out.push("prefix part must be non-empty");
            } else {
                out.extend(dns_subdomain(first));
            }
            name
        }
        _ => {
            out.push("a qualified name must consist of alphanumeric characters, '-', '_' or '.', with an optional DNS subdomain prefix and '/'");
            return out;
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty");
    } else if name.len() > 63 {
        out.push("name part must be no more than 63 characters");
    }
    if !is_qualified(name) {
        out.push("name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character");
    }
    out
}

pub(crate) fn label_value(text: &str) -> Faults {
    let mut out = Faults::new();
    if text.len() > 63 {
        out.push(LONG_63);
    }
    if !text.is_empty() && !is_qualified(text) {
        out.push("a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character");
    }
    out
}

/// A key of the data of a ConfigMap or Secret.
pub(crate) fn data_key(text: &str) -> Faults {
    let mut out = Faults::new();
    if text.len() > 253 {
        out.push(LONG_253);
    }
    let known = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if text.is_empty() || !text.bytes().all(known) {
        out.push("a valid config key must consist of alphanumeric characters, '-', '_' or '.'");
    }
    match text {
        "." => out.push("must not be '.'"),
        ".." => out.push("must not be '..'"),
        t if t.starts_with("..") => out.push("must not start with '..'"),
        _ => {}
    }
    out
}

/// The name of a port, as IANA has them.
pub(crate) fn port_name(text: &str) -> Faults {
    let mut out = Faults::new();
    if text.len() > 15 {
        out.push("must be no more than 15 characters");
    }
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || !text.bytes().all(known) {
        out.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)");
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)");
    }
    if text.contains("--") {
        out.push("must not contain consecutive hyphens");
    }
    if text.starts_with('-') || text.ends_with('-') {
        out.push("must not begin or end with a hyphen");
    }
    out
}

/// A path segment that is a name: roles.
pub(crate) fn path_segment(text: &str) -> Faults {
    if matches!(text, "." | "..") {
        return vec!["may not be '.' or '..'"];
    }
    let mut out = Faults::new();
    if text.contains('/') {
        out.push("may not contain '/'");
    }
    if text.contains('%') {
        out.push("may not contain '%'");
    }
    out
}

/// Reads an address; zeros before the numbers of the older form are passed over, as they always were.
pub(crate) fn parse_ip(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let mut octets = [0_u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts
            .next()
            .filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))?;
        let part = part.trim_start_matches('0');
        *octet = if part.is_empty() { 0 } else { part.parse().ok()? };
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets).into())
}

/// An address.
pub(crate) fn ip(text: &str) -> Faults {
    match parse_ip(text) {
        Some(_) => Faults::new(),
        None => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"],
    }
}

/// An address in the one form that everybody writes alike.
pub(crate) fn canonical_ip(text: &str) -> Faults {
    match text.parse::<IpAddr>() {
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"],
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => vec!["must not be an IPv4-mapped IPv6 address"],
        Ok(ip) if ip.to_string() != text => vec!["must be in canonical form"],
        Ok(_) => Faults::new(),
    }
}

/// A range of addresses: the address, and the length of its prefix.
pub(crate) fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address = parse_ip(address)?;
    let digits = length.trim_start_matches('0');
    if length.is_empty() || digits.len() > 3 || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let length = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    (length <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, length))
}

/// The address of a range with nothing set behind its prefix.
pub(crate) fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    }
}

/// A range of addresses.
pub(crate) fn cidr(text: &str) -> Faults {
    match parse_cidr(text) {
        Some(_) => Faults::new(),
        None => vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_a_text_is_said() {
        let long = "a".repeat(300);
        for (faults, count) in [
            (dns_label("a-1"), 0),
            (dns_label(""), 1),
            (dns_label("a.b"), 1),
            (dns_label(&"A".repeat(64)), 2),
            (dns_label("ü"), 1),
            (dns_subdomain("a.b"), 0),
            (dns_subdomain(&format!("{long}_")), 2),
            (wildcard_subdomain("*.a.b"), 0),
            (wildcard_subdomain("*a"), 1),
            (dns_1035_label("1a"), 1),
            (label_key("x.io/a"), 0),
            (label_key(""), 2),
            (label_key("/"), 3),
            (label_key("a/b/c"), 1),
            (label_value(""), 0),
            (label_value(&format!("{long}_")), 2),
            (data_key(".."), 1),
            (data_key("a b"), 1),
            (port_name("http"), 0),
            (port_name(""), 2),
            (port_name("-8-"), 2),
            (path_segment("system:a/b%"), 2),
            (path_segment(".."), 1),
            (ip("10.0.0.1"), 0),
            (ip("010.0.0.1"), 0),
            (ip("10.0.0.256"), 1),
            (ip("10.0.0"), 1),
            (ip("10.0.0.1.1"), 1),
            (canonical_ip("::ffff:1.2.3.4"), 1),
            (canonical_ip("fd00:0::1"), 1),
            (canonical_ip("fd00::1"), 0),
            (canonical_ip("010.0.0.1"), 1),
            (cidr("10.0.0.1/8"), 0),
            (cidr("::/0"), 0),
            (cidr("10.0.0.0/08"), 0),
            (cidr("10.0.0.0/33"), 1),
            (cidr("10.0.0.0/"), 1),
            (cidr("x/8"), 1),
        ] {
            assert_eq!(faults.len(), count, "{faults:?}");
        }
    }

    #[test]
    fn ranges_are_read_and_cut() {
        let (address, length) = parse_cidr("10.1.2.3/8").unwrap();
        assert_eq!(masked(address, length).to_string(), "10.0.0.0");
        assert_eq!(masked("fd00::1".parse().unwrap(), 0).to_string(), "::");
        assert_eq!(masked("10.0.0.1".parse().unwrap(), 32).to_string(), "10.0.0.1");
    }
}
