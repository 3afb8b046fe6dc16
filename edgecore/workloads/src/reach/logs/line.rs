//! Lines of a container's log as the runtime writes them (`TIME STREAM TAGS TEXT`), and what a reader of the log sees of them. Pure.

use jiff::Timestamp;

/// Longest beginning of a raw line: time, stream and tags. What is longer is no line of a log.
pub(crate) const MAX_HEAD: usize = 160;
/// A line is held until its end is there, but no more of it than this: the rest of a longer one goes out as it comes.
const MAX_HELD: usize = 64 * 1024;

/// Which of a container's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// The beginning of a raw line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head<'a> {
    /// RFC 3339 with up to nine digits of a second.
    pub(crate) time: &'a str,
    pub(crate) stream: Stream,
    /// The program's line goes on in the next raw line.
    pub(crate) partial: bool,
    /// Bytes up to the text.
    pub(crate) len: usize,
}

impl<'a> Head<'a> {
    /// Reads the beginning of a raw line, `None` when it is none.
    pub(crate) fn parse(raw: &'a [u8]) -> Option<Self> {
        let raw = &raw[..raw.len().min(MAX_HEAD)];
        let mut spaces = raw.iter().enumerate().filter(|(_, b)| **b == b' ').map(|(at, _)| at);
        let (first, second, third) = (spaces.next()?, spaces.next()?, spaces.next()?);
        let time = std::str::from_utf8(&raw[..first]).ok()?;
        if time.len() < 20 || !time.is_ascii() || time.as_bytes()[4] != b'-' || time.as_bytes()[10] != b'T' {
            return None;
        }
        let stream = match &raw[first + 1..second] {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let tags = &raw[second + 1..third];
        let partial = tags.split(|b| *b == b':').next() == Some(b"P");
        Some(Self {
            time,
            stream,
            partial,
            len: third + 1,
        })
    }
}

/// What of a log is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The time before each line.
    pub(crate) timestamps: bool,
    /// Nothing before this.
    pub(crate) since: Option<Timestamp>,
    /// Only this stream.
    pub(crate) stream: Option<Stream>,
    /// No more bytes than this.
    pub(crate) limit: Option<u64>,
}

/// Turns the bytes of a log file into what its reader sees, however they are cut into pieces.
#[derive(Debug, Default)]
pub(crate) struct Shaper {
    wanted: Wanted,
    /// The raw line that has no end yet.
    held: Vec<u8>,
    /// A raw line so long that it goes out before its end is there.
    inside: Option<Inside>,
    /// The next text begins a line.
    fresh: bool,
    /// A line of the wanted time has come: a log goes on in time, so the rest need not be asked.
    reached: bool,
}

#[derive(Clone, Copy, Debug)]
struct Inside {
    shown: bool,
    partial: bool,
}

impl Shaper {
    pub(crate) const fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            held: Vec::new(),
            inside: None,
            fresh: true,
            reached: false,
        }
    }

    /// Whether as much has gone out as was asked for.
    pub(crate) fn is_full(&self) -> bool {
        self.wanted.limit == Some(0)
    }

    /// Takes bytes of the log in and puts what is to be seen behind `out`.
    pub(crate) fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() && !self.is_full() {
            let end = bytes.iter().position(|b| *b == b'\n');
            let (piece, rest) = match end {
                Some(at) => (&bytes[..at], &bytes[at + 1..]),
                None => (bytes, &bytes[bytes.len()..]),
            };
            bytes = rest;
            if let Some(inside) = self.inside {
                self.go_on(inside, piece, end.is_some(), out);
            } else if end.is_none() {
                self.held.extend_from_slice(piece);
                if self.held.len() > MAX_HELD {
                    let held = std::mem::take(&mut self.held);
                    let (shown, partial) = self.begin(&held, out);
                    self.inside = Some(Inside { shown, partial });
                }
            } else if self.held.is_empty() {
                self.whole(piece, out);
            } else {
                let mut held = std::mem::take(&mut self.held);
                held.extend_from_slice(piece);
                self.whole(&held, out);
                held.clear();
                self.held = held;
            }
        }
    }

    /// The file ends here: a line that has no end is shown as far as it goes.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        self.inside = None;
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            self.begin(&held, out);
        }
    }

    /// Forgets the beginning of a line whose rest will not come.
    fn whole(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let (shown, partial) = self.begin(raw, out);
        self.end(shown, partial, out);
    }

    /// Shows what is there of a raw line. Whether it is to be seen, and whether the program's line ends with it.
    fn begin(&mut self, raw: &[u8], out: &mut Vec<u8>) -> (bool, bool) {
        let Some(head) = Head::parse(raw) else {
            return (false, true);
        };
        if self.wanted.stream.is_some_and(|stream| stream != head.stream) || self.is_before(head.time) {
            return (false, head.partial);
        }
        if self.wanted.timestamps && self.fresh {
            let mut stamp = Vec::with_capacity(40);
            full_time(head.time, &mut stamp);
            stamp.push(b' ');
            self.show(&stamp, out);
        }
        self.show(&raw[head.len..], out);
        self.fresh = false;
        (true, head.partial)
    }

    fn go_on(&mut self, inside: Inside, piece: &[u8], ends: bool, out: &mut Vec<u8>) {
        if inside.shown {
            self.show(piece, out);
        }
        if ends {
            self.inside = None;
            self.end(inside.shown, inside.partial, out);
        }
    }

    fn end(&mut self, shown: bool, partial: bool, out: &mut Vec<u8>) {
        if shown && !partial {
            self.show(b"\n", out);
            self.fresh = true;
        }
    }

    fn is_before(&mut self, time: &str) -> bool {
        let Some(since) = self.wanted.since.filter(|_| !self.reached) else {
            return false;
        };
        let before = time.parse::<Timestamp>().is_ok_and(|time| time < since);
        self.reached = !before;
        before
    }

    fn show(&mut self, text: &[u8], out: &mut Vec<u8>) {
        let mut text = text;
        if let Some(left) = &mut self.wanted.limit {
            let fits = usize::try_from(*left).unwrap_or(usize::MAX).min(text.len());
            text = &text[..fits];
            *left -= fits as u64;
        }
        out.extend_from_slice(text);
    }
}

/// The time with all nine digits of its second, as the API shows it.
fn full_time(time: &str, out: &mut Vec<u8>) {
    let (whole, rest) = time.split_at(19);
    out.extend_from_slice(whole.as_bytes());
    let digits = rest.strip_prefix('.').unwrap_or_default();
    let count = digits.bytes().take_while(u8::is_ascii_digit).count().min(9);
    out.push(b'.');
    out.extend_from_slice(&digits.as_bytes()[..count]);
    out.extend(std::iter::repeat_n(b'0', 9 - count));
    let zone = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    out.extend_from_slice(zone.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(raw: &[u8], wanted: Wanted) -> String {
        let mut shaper = Shaper::new(wanted);
        let mut out = Vec::new();
        shaper.push(raw, &mut out);
        shaper.finish(&mut out);
        String::from_utf8(out).unwrap()
    }

    const LOG: &[u8] = b"2026-11-21T03:11:10.5Z stdout F one\n\
        2026-11-21T03:11:11.123456789+01:00 stderr F oops\n\
        no line at all\n\
        2026-11-21T03:11:1\xc3\xa9 stdout F damaged\n\
        2026-11-21T03:11:12Z stdout P two \n\
        2026-11-21T03:11:12Z stdout F parts\n\
        2026-11-21T03:11:13Z stdout F \n\
        2026-11-21T03:11:14Z stdout F cut";

    #[test]
    fn the_text_of_lines_is_shown_and_parts_are_put_together() {
        assert_eq!(shown(LOG, Wanted::default()), "one\noops\ntwo parts\n\ncut");
    }

    #[test]
    fn times_stand_before_lines_with_all_their_digits() {
        let wanted = Wanted {
            timestamps: true,
            ..Wanted::default()
        };
        assert_eq!(
            shown(LOG, wanted),
            "2026-11-21T03:11:10.500000000Z one\n2026-11-21T03:11:11.123456789+01:00 oops\n\
             2026-11-21T03:11:12.000000000Z two parts\n2026-11-21T03:11:13.000000000Z \n2026-11-21T03:11:14.000000000Z cut"
        );
    }

    #[test]
    fn a_time_a_stream_and_a_number_of_bytes_bound_what_is_shown() {
        let since = Wanted {
            since: Some("2026-11-21T03:11:12Z".parse().unwrap()),
            ..Wanted::default()
        };
        assert_eq!(shown(LOG, since), "two parts\n\ncut");
        let stderr = Wanted {
            stream: Some(Stream::Stderr),
            ..Wanted::default()
        };
        assert_eq!(shown(LOG, stderr), "oops\n");
        let limit = Wanted {
            limit: Some(6),
            ..Wanted::default()
        };
        assert_eq!(shown(LOG, limit), "one\noo");
    }

    #[test]
    fn a_line_of_any_length_goes_through_with_little_held() {
        let mut shaper = Shaper::new(Wanted::default());
        let mut out = Vec::new();
        shaper.push(b"2026-11-21T03:11:10Z stdout F ", &mut out);
        for _ in 0..1000 {
            shaper.push(&[b'x'; 1024], &mut out);
            assert!(shaper.held.capacity() <= 4 * MAX_HELD);
        }
        shaper.push(b"\n2026-11-21T03:11:10Z stdout F y\n", &mut out);
        assert_eq!(out.len(), 1000 * 1024 + 3);
        assert!(out.ends_with(b"x\ny\n"));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_come(
            lines in prop::collection::vec(("[a-z ]{0,40}", any::<bool>(), any::<bool>(), any::<bool>()), 0..20),
            cuts in prop::collection::vec(1_usize..30, 1..40),
            timestamps in any::<bool>(),
            limit in prop::option::of(0_u64..200),
        ) {
            let mut raw = Vec::new();
            for (text, partial, stderr, garbage) in &lines {
                if *garbage {
                    raw.extend_from_slice(format!("{text}\n").as_bytes());
                    continue;
                }
                let (stream, tag) = (if *stderr { "stderr" } else { "stdout" }, if *partial { "P" } else { "F" });
                raw.extend_from_slice(format!("2026-11-21T03:11:10.25Z {stream} {tag} {text}\n").as_bytes());
            }
            let wanted = Wanted { timestamps, limit, ..Wanted::default() };
            let at_once = shown(&raw, wanted.clone());
            let mut shaper = Shaper::new(wanted);
            let mut out = Vec::new();
            let (mut rest, mut cuts) = (raw.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let cut = (*cuts.next().unwrap()).min(rest.len());
                shaper.push(&rest[..cut], &mut out);
                rest = &rest[cut..];
            }
            shaper.finish(&mut out);
            prop_assert_eq!(String::from_utf8(out).unwrap(), at_once);
        }

        #[test]
        fn no_bytes_do_harm(raw in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut shaper = Shaper::new(Wanted { timestamps: true, since: Some(Timestamp::UNIX_EPOCH), ..Wanted::default() });
            let mut out = Vec::new();
            shaper.push(&raw, &mut out);
            shaper.finish(&mut out);
        }
    }
}
