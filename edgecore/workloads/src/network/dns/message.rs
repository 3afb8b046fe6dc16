//! DNS messages (RFC 1035, 6891) as far as this server needs them: one question in, a few kinds of records out, and a walk over what other servers
//! answered, which is passed on in their own bytes. Every name is bounded, every pointer leads backwards.

/// Bytes of a header.
const HEADER: usize = 12;
/// Longest name, in its wire form.
const MAX_NAME: usize = 255;
/// Records walked over in one message; more than fit into 64 KiB are a lie.
const MAX_RECORDS: usize = 4096;
/// Largest answer over UDP, whatever the client says it takes: it crosses any link whole.
pub(super) const MAX_UDP: usize = 1232;
/// Largest answer over UDP to a client that says nothing.
const PLAIN_UDP: usize = 512;

pub(super) const A: u16 = 1;
pub(super) const NS: u16 = 2;
pub(super) const CNAME: u16 = 5;
pub(super) const SOA: u16 = 6;
pub(super) const PTR: u16 = 12;
pub(super) const TXT: u16 = 16;
pub(super) const AAAA: u16 = 28;
pub(super) const SRV: u16 = 33;
const OPT: u16 = 41;
pub(super) const ANY: u16 = 255;
const INTERNET: u16 = 1;

const RESPONSE: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
const RECURSE: u16 = 0x0100;
const RECURSES: u16 = 0x0080;
const UNCHECKED: u16 = 0x0010;
/// Wants signatures, in the flags of OPT.
const SIGNED: u16 = 0x8000;

/// What an answer says of the question as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Ok = 0,
    Malformed = 1,
    Failed = 2,
    NoName = 3,
    Unknown = 4,
    Refused = 5,
}

/// A name in its wire form, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name(Vec<u8>);

impl Name {
    /// From text without escapes. `None` when a label or the whole is too long.
    pub(super) fn new(text: &str) -> Option<Self> {
        let mut wire = Vec::with_capacity(text.len() + 2);
        for label in text.trim_end_matches('.').split('.').filter(|_| !text.is_empty()) {
            let len = u8::try_from(label.len()).ok().filter(|len| (1..=63).contains(len))?;
            wire.push(len);
            wire.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
        }
        wire.push(0);
        (wire.len() <= MAX_NAME).then_some(Self(wire))
    }

    /// Reads a name at a place; the place behind it.
    fn read(message: &[u8], mut at: usize) -> Option<(Self, usize)> {
        let mut wire = Vec::with_capacity(64);
        let (mut behind, mut before) = (None, at);
        loop {
            let len = *message.get(at)?;
            match len {
                0 => {
                    wire.push(0);
                    return Some((Self(wire), behind.unwrap_or(at + 1)));
                }
                1..=63 => {
                    let label = message.get(at + 1..at + 1 + usize::from(len))?;
                    wire.push(len);
                    wire.extend(label.iter().map(u8::to_ascii_lowercase));
                    if wire.len() >= MAX_NAME {
                        return None;
                    }
                    at += 1 + usize::from(len);
                }
                0xc0.. => {
                    let to = usize::from(u16::from_be_bytes([len & 0x3f, *message.get(at + 1)?]));
                    behind.get_or_insert(at + 2);
                    if to >= before {
                        return None;
                    }
                    (before, at) = (to, to);
                }
                _ => return None,
            }
        }
    }

    pub(super) fn wire(&self) -> &[u8] {
        &self.0
    }

    /// Its labels, the leftmost first; `None` when one is not plain text.
    pub(super) fn labels(&self) -> Option<Vec<&str>> {
        let (mut labels, mut rest) = (Vec::new(), &*self.0);
        while let Some((len, after)) = rest.split_first().filter(|(len, _)| **len != 0) {
            let (label, after) = after.split_at_checked(usize::from(*len))?;
            labels.push(std::str::from_utf8(label).ok()?);
            rest = after;
        }
        Some(labels)
    }
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    id: u16,
    flags: u16,
    pub(super) name: Name,
    pub(super) ty: u16,
    /// The question as it was written: clients look whether it comes back so.
    question: Vec<u8>,
    /// What the client takes over UDP, and whether it wants signatures.
    extended: Option<(usize, bool)>,
}

/// What to do with bytes that are no question for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoQuery {
    /// No answer: it is none that anybody waits for.
    Silence,
    /// This answer.
    Answer(Vec<u8>),
}

impl Query {
    pub(super) fn read(message: &[u8]) -> Result<Self, NoQuery> {
        let Some(head) = message.first_chunk::<HEADER>() else {
            return Err(NoQuery::Silence);
        };
        let word = |i: usize| u16::from_be_bytes([head[i], head[i + 1]]);
        let (id, flags) = (word(0), word(2));
        if flags & RESPONSE != 0 {
            return Err(NoQuery::Silence);
        }
        let refuse = |code: Code| {
            let flags = RESPONSE | (flags & (OPCODE | RECURSE)) | RECURSES | code as u16;
            let words = [id, flags, 0, 0, 0, 0];
            Err(NoQuery::Answer(words.iter().flat_map(|w| w.to_be_bytes()).collect()))
        };
        if flags & OPCODE != 0 {
            return refuse(Code::Unknown);
        }
        if word(4) != 1 {
            return refuse(Code::Malformed);
        }
        let Some((name, behind)) = Name::read(message, HEADER) else {
            return refuse(Code::Malformed);
        };
        let Some([t0, t1, c0, c1]) = message.get(behind..).and_then(<[u8]>::first_chunk) else {
            return refuse(Code::Malformed);
        };
        let (ty, class) = (u16::from_be_bytes([*t0, *t1]), u16::from_be_bytes([*c0, *c1]));
        // There is nothing before the question that it could point to.
        let question = message.get(HEADER..behind + 4).unwrap_or_default().to_vec();
        if class != INTERNET || question.len() != name.wire().len() + 4 {
            return refuse(if class == INTERNET {
                Code::Malformed
            } else {
                Code::Refused
            });
        }
        let Some(records) = records(message) else {
            return refuse(Code::Malformed);
        };
        let extended = records.iter().find(|r| r.ty == OPT).map(|opt| {
            let signed = u16::try_from(opt.ttl & 0xffff).unwrap_or_default() & SIGNED != 0;
            (usize::from(opt.class), signed)
        });
        Ok(Self {
            id,
            flags,
            name,
            ty,
            question,
            extended,
        })
    }

    /// The same question about another name.
    pub(super) fn about(&self, name: &Name) -> Self {
        let mut question = name.wire().to_vec();
        question.extend_from_slice(&self.ty.to_be_bytes());
        question.extend_from_slice(&INTERNET.to_be_bytes());
        Self {
            name: name.clone(),
            question,
            ..self.clone()
        }
    }

    /// Largest answer over UDP.
    pub(super) fn limit(&self) -> usize {
        self.extended
            .map_or(PLAIN_UDP, |(size, _)| size.clamp(PLAIN_UDP, MAX_UDP))
    }

    /// By what an answer to it can be given to others who ask the same.
    pub(super) fn key(&self) -> Vec<u8> {
        let mut key = self.name.wire().to_vec();
        key.extend_from_slice(&self.ty.to_be_bytes());
        let (extended, signed) = (self.extended.is_some(), self.extended.is_some_and(|(_, signed)| signed));
        key.push(u8::from(extended) | u8::from(signed) << 1 | u8::from(self.flags & UNCHECKED != 0) << 2);
        key
    }

    /// The question as it is put to another server.
    pub(super) fn forwarded(&self, id: u16) -> Vec<u8> {
        let words = [
            id,
            RECURSE | (self.flags & UNCHECKED),
            1,
            0,
            0,
            u16::from(self.extended.is_some()),
        ];
        let mut out: Vec<u8> = words.iter().flat_map(|w| w.to_be_bytes()).collect();
        out.extend_from_slice(&self.question);
        if let Some((_, signed)) = self.extended {
            push_opt(&mut out, signed);
        }
        out
    }

    /// Whether bytes are an answer to [`Self::forwarded`], and such that they can be passed on.
    pub(super) fn is_answered_by(&self, id: u16, message: &[u8]) -> bool {
        let Some(head) = message.first_chunk::<HEADER>() else {
            return false;
        };
        let word = |i: usize| u16::from_be_bytes([head[i], head[i + 1]]);
        let question = || {
            let (name, behind) = Name::read(message, HEADER)?;
            let rest = message.get(behind..behind + 4)?;
            Some(name == self.name && rest == self.question.get(self.question.len() - 4..)?)
        };
        word(0) == id
            && word(2) & (RESPONSE | OPCODE) == RESPONSE
            && word(4) == 1
            && question() == Some(true)
            && records(message).is_some()
    }

    /// Another server's answer in the form in which this client takes it, `limit` bytes at most. `age`: seconds since it was given.
    pub(super) fn pass_on(&self, answer: &[u8], age: u32, limit: usize) -> Vec<u8> {
        let mut out = answer.to_vec();
        if out.len() > limit {
            return Answer::new(self, Code::Ok, false, limit).cut();
        }
        out[..2].copy_from_slice(&self.id.to_be_bytes());
        let same = self.question.len();
        if let Some(question) = out.get_mut(HEADER..HEADER + same) {
            question.copy_from_slice(&self.question);
        }
        for record in records(answer).unwrap_or_default().iter().filter(|r| r.ty != OPT) {
            let ttl = record.ttl.saturating_sub(age);
            if let Some(place) = out.get_mut(record.data - 6..record.data - 2) {
                place.copy_from_slice(&ttl.to_be_bytes());
            }
        }
        out
    }
}

/// What [`Query::pass_on`] passes on says of itself.
pub(super) struct Said {
    pub(super) code: u16,
    pub(super) truncated: bool,
    /// Seconds for which it holds: the least of its records'. `None` when it has none.
    pub(super) ttl: Option<u32>,
    pub(super) answers: bool,
}

impl Said {
    pub(super) fn of(answer: &[u8]) -> Self {
        let word = |i: usize| u16::from_be_bytes([*answer.get(i).unwrap_or(&0), *answer.get(i + 1).unwrap_or(&0)]);
        let records = records(answer).unwrap_or_default();
        Self {
            code: word(2) & 0xf,
            truncated: word(2) & TRUNCATED != 0,
            ttl: records.iter().filter(|r| r.ty != OPT).map(|r| r.ttl).min(),
            answers: word(6) != 0,
        }
    }
}

/// A record of a message, where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    name: Name,
    ty: u16,
    class: u16,
    ttl: u32,
    /// Where its data begin.
    data: usize,
    len: usize,
}

/// All records behind the question; `None` when the message is not what it says.
fn records(message: &[u8]) -> Option<Vec<Record>> {
    let word = |i: usize| Some(u16::from_be_bytes(*message.get(i..)?.first_chunk()?));
    let mut at = HEADER;
    for _ in 0..word(4)? {
        at = Name::read(message, at)?.1 + 4;
        if at > message.len() {
            return None;
        }
    }
    let count = usize::from(word(6)?) + usize::from(word(8)?) + usize::from(word(10)?);
    if count > MAX_RECORDS {
        return None;
    }
    let mut found = Vec::new();
    for _ in 0..count {
        let (name, behind) = Name::read(message, at)?;
        let [t0, t1, c0, c1, l0, l1, l2, l3, n0, n1] = *message.get(behind..)?.first_chunk()?;
        let data = behind + 10;
        let len = usize::from(u16::from_be_bytes([n0, n1]));
        message.get(data..data + len)?;
        found.push(Record {
            name,
            ty: u16::from_be_bytes([t0, t1]),
            class: u16::from_be_bytes([c0, c1]),
            ttl: u32::from_be_bytes([l0, l1, l2, l3]),
            data,
            len,
        });
        at = data + len;
    }
    Some(found)
}

/// Addresses and further names in another server's answer, to be put into one of ours: owner, type, seconds, data.
pub(super) fn addresses(answer: &[u8]) -> Vec<(Name, u16, u32, Vec<u8>)> {
    let count = answer.get(6..8).and_then(<[u8]>::first_chunk);
    let count = count.map_or(0, |count| usize::from(u16::from_be_bytes(*count)));
    let mut found = Vec::new();
    for record in records(answer).unwrap_or_default().into_iter().take(count) {
        let data = match record.ty {
            A | AAAA => answer.get(record.data..record.data + record.len).map(<[u8]>::to_vec),
            CNAME => Name::read(answer, record.data).map(|(name, _)| name.0),
            _ => None,
        };
        found.extend(data.map(|data| (record.name, record.ty, record.ttl, data)));
    }
    found
}

fn push_opt(out: &mut Vec<u8>, signed: bool) {
    let size = u16::try_from(MAX_UDP).unwrap_or(u16::MAX);
    out.push(0);
    for word in [OPT, size, 0, if signed { SIGNED } else { 0 }, 0] {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

/// An answer of our own while it is written. Sections are written in their order.
pub(super) struct Answer {
    out: Vec<u8>,
    limit: usize,
    opt: Option<bool>,
    /// Where the records begin.
    begin: usize,
    full: bool,
}

/// Parts of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Answer = 6,
    Authority = 8,
    Additional = 10,
}

impl Answer {
    pub(super) fn new(query: &Query, code: Code, authoritative: bool, limit: usize) -> Self {
        let aa = if authoritative { AUTHORITATIVE } else { 0 };
        let flags = RESPONSE | aa | (query.flags & (RECURSE | UNCHECKED)) | RECURSES | code as u16;
        let words = [query.id, flags, 1, 0, 0, 0];
        let mut out: Vec<u8> = words.iter().flat_map(|w| w.to_be_bytes()).collect();
        out.extend_from_slice(&query.question);
        Self {
            begin: out.len(),
            out,
            limit,
            opt: query.extended.map(|(_, signed)| signed),
            full: false,
        }
    }

    /// Appends a record; `None` as its owner is the name in question.
    pub(super) fn record(&mut self, section: Section, owner: Option<&Name>, ty: u16, ttl: u32, data: &[u8]) {
        const TO_QUESTION: [u8; 2] = [0xc0, 12];
        let owner = owner.map_or(&TO_QUESTION[..], Name::wire);
        let opt = if self.opt.is_some() { 11 } else { 0 };
        let Ok(len) = u16::try_from(data.len()) else { return };
        if self.full || self.out.len() + owner.len() + 10 + data.len() + opt > self.limit {
            // What is only offered can be left out.
            self.full |= section != Section::Additional;
            return;
        }
        self.out.extend_from_slice(owner);
        self.out.extend_from_slice(&ty.to_be_bytes());
        self.out.extend_from_slice(&INTERNET.to_be_bytes());
        self.out.extend_from_slice(&ttl.to_be_bytes());
        self.out.extend_from_slice(&len.to_be_bytes());
        self.out.extend_from_slice(data);
        self.count(section);
    }

    fn count(&mut self, section: Section) {
        let at = section as usize;
        let count = u16::from_be_bytes([self.out[at], self.out[at + 1]]) + 1;
        self.out[at..at + 2].copy_from_slice(&count.to_be_bytes());
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.full {
            return self.cut();
        }
        if let Some(signed) = self.opt {
            push_opt(&mut self.out, signed);
            self.count(Section::Additional);
        }
        self.out
    }

    /// Without records: ask again over TCP.
    pub(super) fn cut(mut self) -> Vec<u8> {
        self.out.truncate(self.begin);
        self.out[2] |= (TRUNCATED >> 8) as u8;
        self.out[6..HEADER].fill(0);
        self.full = false;
        self.finish()
    }
}

/// For fuzzers: what is read is what is written, and nothing falls over.
pub(super) fn fuzz(bytes: &[u8]) {
    let Ok(query) = Query::read(bytes) else { return };
    let mut answer = Answer::new(&query, Code::Ok, true, query.limit());
    answer.record(Section::Answer, None, A, 5, &[10, 0, 0, 1]);
    answer.record(Section::Additional, Some(&query.name), CNAME, 5, query.name.wire());
    let answer = answer.finish();
    assert!(answer.len() <= query.limit());
    assert!(records(&answer).is_some());
    let forwarded = Query::read(&query.forwarded(7));
    assert!(forwarded.is_ok_and(|f| f.key() == query.key()));
}

/// For fuzzers: answers of other servers.
pub(super) fn fuzz_answer(bytes: &[u8]) {
    let (said, found) = (Said::of(bytes), addresses(bytes));
    assert!(found.len() <= MAX_RECORDS && said.code < 16);
    let Some(name) = Name::read(bytes, HEADER).map(|(name, _)| name) else {
        return;
    };
    let Ok(asked) = Query::read(&[&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.wire(), &[0, 1, 0, 1]].concat()) else {
        return;
    };
    if asked.is_answered_by(7, bytes) {
        let passed = asked.pass_on(bytes, 3, usize::from(u16::MAX));
        assert_eq!(passed.len(), bytes.len());
        assert!(asked.pass_on(bytes, 0, MAX_UDP).len() <= MAX_UDP);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A question, as a resolver without extensions puts it.
    pub(in crate::network::dns) fn question(name: &str, ty: u16) -> Vec<u8> {
        let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            out.push(u8::try_from(label.len()).unwrap());
            out.extend_from_slice(label.as_bytes());
        }
        out.push(0);
        out.extend_from_slice(&ty.to_be_bytes());
        out.extend_from_slice(&[0, 1]);
        out
    }

    #[test]
    fn a_question_is_read_and_comes_back_as_it_was_written() {
        let bytes = question("Web.Line.svc", A);
        let query = Query::read(&bytes).unwrap();
        assert_eq!(query.name, Name::new("web.line.svc").unwrap());
        assert_eq!(query.name.labels().unwrap(), ["web", "line", "svc"]);
        assert_eq!((query.ty, query.limit()), (A, PLAIN_UDP));
        let mut answer = Answer::new(&query, Code::Ok, true, 512);
        answer.record(Section::Answer, None, A, 5, &[10, 43, 0, 5]);
        let answer = answer.finish();
        assert_eq!(answer[..4], [0x12, 0x34, 0x85, 0x80]);
        assert_eq!(answer[HEADER..bytes.len()], bytes[HEADER..]);
        assert_eq!(addresses(&answer), [(query.name, A, 5, vec![10, 43, 0, 5])]);
    }

    #[test]
    fn extensions_are_answered_with_extensions() {
        let mut bytes = question("a.b", AAAA);
        bytes[11] = 1;
        bytes.extend_from_slice(&[0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 0]);
        let query = Query::read(&bytes).unwrap();
        assert_eq!((query.limit(), query.extended), (MAX_UDP, Some((4096, true))));
        let answer = Answer::new(&query, Code::NoName, true, 512).finish();
        let records = records(&answer).unwrap();
        assert_eq!((records.len(), records[0].ty, answer[3] & 0xf), (1, OPT, 3));
        assert!(Query::read(&query.forwarded(9)).unwrap().extended.is_some());
    }

    #[test]
    fn what_does_not_fit_is_asked_again_over_tcp() {
        let query = Query::read(&question("a.b", A)).unwrap();
        let mut answer = Answer::new(&query, Code::Ok, true, 64);
        for i in 0..9 {
            answer.record(Section::Answer, None, A, 5, &[10, 0, 0, i]);
        }
        let answer = answer.finish();
        assert_eq!(
            (answer.len(), answer[2] & 2, answer[7]),
            (question("a.b", A).len(), 2, 0)
        );
    }

    #[test]
    fn what_is_no_question_is_refused_or_left_alone() {
        let code = |bytes: &[u8]| match Query::read(bytes) {
            Err(NoQuery::Answer(answer)) => answer[3] & 0xf,
            other => panic!("{other:?}"),
        };
        let good = question("a.b", A);
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        assert_eq!(Query::read(&good[..11]), Err(NoQuery::Silence));
        assert_eq!(Query::read(&with(2, 0x81)), Err(NoQuery::Silence), "an answer");
        assert_eq!(code(&with(2, 0x28)), 4);
        assert_eq!(code(&with(5, 2)), 1);
        assert_eq!(code(&with(12, 0xc0)), 1, "a pointer in a question");
        assert_eq!(code(&with(12, 64)), 1);
        assert_eq!(code(&good[..good.len() - 1]), 1);
        assert_eq!(code(&with(good.len() - 1, 3)), 5, "another class");
        assert_eq!(code(&with(11, 1)), 1, "a record that is not there");
        assert_eq!(code(&question(&vec!["a".repeat(63); 4].join("."), A)), 1);
    }

    #[test]
    fn other_servers_answers_are_passed_on_younger() {
        let query = Query::read(&question("A.b", A)).unwrap();
        let mut other = Answer::new(&Query::read(&query.forwarded(77)).unwrap(), Code::Ok, false, 512);
        other.record(Section::Answer, None, A, 100, &[1, 2, 3, 4]);
        let other = other.finish();
        assert!(query.is_answered_by(77, &other) && !query.is_answered_by(78, &other));
        assert!(!query.about(&Name::new("c").unwrap()).is_answered_by(77, &other));
        let passed = query.pass_on(&other, 30, 512);
        assert_eq!(passed[..2], [0x12, 0x34]);
        assert_eq!(addresses(&passed)[0].2, 70);
        assert_eq!(Said::of(&passed).ttl, Some(70));
        assert_eq!(query.pass_on(&other, 0, 30)[2] & 2, 2);
    }

    #[test]
    fn pointers_that_go_round_end() {
        let mut bytes = question("a.b", A);
        bytes[7] = 1;
        let at = u8::try_from(bytes.len()).unwrap();
        bytes.extend_from_slice(&[0xc0, at, 0, 1, 0, 1, 0, 0, 0, 1, 0, 0]);
        assert_eq!(records(&bytes), None);
    }
}
