//! A strict reader for the few DER structures the link looks into: certificates and certificate requests.
//!
//! Owns nothing but the slice it walks. It never allocates for what it reads, never recurses, accepts definite lengths in their
//! shortest form only, and answers `None` for everything else. Certificates reach it after their chain was verified; a request
//! ([`crate::pki`]) reaches it from a stranger.

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const OID: u8 = 0x06;
pub(crate) const UTC_TIME: u8 = 0x17;
pub(crate) const GENERALIZED_TIME: u8 = 0x18;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// One element: its tag, its content, and the bytes of the whole (header and content).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    pub(crate) whole: &'a [u8],
}

/// Walks the elements of one level.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next element, whatever its tag.
    pub(crate) fn any(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        // Tags above 30 take more bytes; nothing we read has them.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (&first, mut rest) = rest.split_first()?;
        let len = match first {
            0..=0x7f => usize::from(first),
            0x81..=0x83 => {
                let (digits, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
                rest = after;
                let len = digits.iter().fold(0_usize, |n, d| n << 8 | usize::from(*d));
                let shortest = match digits.len() {
                    1 => 0x80,
                    2 => 0x100,
                    _ => 0x1_0000,
                };
                if len < shortest {
                    return None;
                }
                len
            }
            _ => return None,
        };
        let (content, after) = rest.split_at_checked(len)?;
        let whole = &self.0[..self.0.len() - after.len()];
        self.0 = after;
        Some(Element { tag, content, whole })
    }

    /// The next element, which must have this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Option<Element<'a>> {
        let mut ahead = *self;
        let element = ahead.any().filter(|e| e.tag == tag)?;
        *self = ahead;
        Some(element)
    }

    /// The content of the next element, which must be a constructed one with this tag.
    pub(crate) fn enter(&mut self, tag: u8) -> Option<Self> {
        self.expect(tag).map(|e| Reader(e.content))
    }

    /// Passes over the next element when it has this tag.
    pub(crate) fn skip(&mut self, tag: u8) {
        let _passed = self.expect(tag);
    }
}

/// The whole bytes of a BIT STRING without unused bits.
pub(crate) fn bit_string<'a>(element: &Element<'a>) -> Option<&'a [u8]> {
    match element.content.split_first() {
        Some((0, bits)) if element.tag == BIT_STRING => Some(bits),
        _ => None,
    }
}

/// Seconds since 1970 of a `UTCTime` or `GeneralizedTime` in the form X.509 requires (seconds given, zone `Z`). Times before
/// 1970 read as 0.
pub(crate) fn time(element: &Element<'_>) -> Option<u64> {
    let digits = |bytes: &[u8]| -> Option<u64> {
        bytes
            .iter()
            .try_fold(0_u64, |n, b| b.is_ascii_digit().then(|| n * 10 + u64::from(b - b'0')))
    };
    let (year, rest) = match element.tag {
        UTC_TIME => {
            let (yy, rest) = element.content.split_at_checked(2)?;
            let yy = digits(yy)?;
            (if yy >= 50 { 1900 + yy } else { 2000 + yy }, rest)
        }
        GENERALIZED_TIME => {
            let (yyyy, rest) = element.content.split_at_checked(4)?;
            (digits(yyyy)?, rest)
        }
        _ => return None,
    };
    if rest.len() != 11 || rest[10] != b'Z' {
        return None;
    }
    let field = |at: usize| digits(&rest[at..at + 2]);
    let (month, day, hour, minute, second) = (field(0)?, field(2)?, field(4)?, field(6)?, field(8)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    if year < 1970 {
        return Some(0);
    }
    Some(days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Days from 1970-01-01 to a Gregorian date not before it.
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    // Years counted from March, so that the leap day is a year's last.
    let y = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    y * 365 + y / 4 - y / 100 + y / 400 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(tag: u8, text: &str) -> Option<u64> {
        time(&Element {
            tag,
            content: text.as_bytes(),
            whole: &[],
        })
    }

    #[test]
    fn reads_times() {
        assert_eq!(at(UTC_TIME, "700101000000Z"), Some(0));
        assert_eq!(at(UTC_TIME, "240229123456Z"), Some(1_709_210_096));
        assert_eq!(at(UTC_TIME, "261121044601Z"), Some(1_795_236_361));
        assert_eq!(at(GENERALIZED_TIME, "99991231235959Z"), Some(253_402_300_799));
        assert_eq!(at(GENERALIZED_TIME, "20500301000000Z"), Some(2_529_705_600));
        assert_eq!(at(UTC_TIME, "500101000000Z"), Some(0), "1950 is before the epoch");
        for bad in [
            "",
            "7001010000Z",
            "700101000000",
            "700101000000+",
            "701301000000Z",
            "70010100000aZ",
        ] {
            assert_eq!(at(UTC_TIME, bad), None, "{bad}");
        }
    }

    #[test]
    fn refuses_what_is_not_der() {
        let none: &[&[u8]] = &[
            b"",
            b"\x30",
            b"\x30\x05\x01",
            b"\x30\x80\x00\x00",          // indefinite length
            b"\x30\x81\x05aaaaa",         // not the shortest form
            b"\x30\x82\x00\x80",          // not the shortest form
            b"\x30\x84\x00\x00\x00\x01a", // longer than anything we read
            b"\x1f\x01\x00",              // long tag
        ];
        for bytes in none {
            assert_eq!(Reader::new(bytes).any(), None, "{bytes:x?}");
        }
    }

    #[test]
    fn walks_and_keeps_its_place_on_another_tag() {
        let bytes = b"\x30\x06\x02\x01\x05\x04\x01\xffrest";
        let mut r = Reader::new(bytes);
        let mut inner = r.enter(SEQUENCE).unwrap();
        assert_eq!(inner.expect(OCTET_STRING), None);
        assert_eq!(inner.expect(INTEGER).unwrap().content, [5]);
        assert_eq!(inner.expect(OCTET_STRING).unwrap().whole, b"\x04\x01\xff");
        assert!(inner.is_empty());
        assert_eq!(r.0, b"rest");
    }
}
