//! As much of SPDY/3.1 as a client needs that opens the streams of a command in a container: the runtime's streaming server speaks nothing else in
//! which one of them can be ended. Pure.
//!
//! What is sent: SYN_STREAM, DATA, PING. Headers go out as stored blocks of a zlib stream, with no dictionary: every inflater reads them.
//! What is read: DATA as it comes, the end of streams, PING, GOAWAY. All else is passed over, so nothing has to be inflated. The servers behind this
//! (containerd's and CRI-O's are one library) keep no windows: TCP holds back whoever is too fast.

use bytes::{Buf as _, BytesMut};

const FIN: u8 = 1;
const SYN_STREAM: u16 = 1;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
/// Bytes before a frame's payload.
const HEAD: usize = 8;
/// Longest payload that a frame can have.
pub(crate) const MAX_DATA: usize = 0x00ff_ffff;

/// Why a server's bytes are no SPDY/3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpdyError {
    #[error("a frame of version {0} instead of 3")]
    Version(u16),
    #[error("a frame of kind {0} is too short")]
    Short(u16),
}

/// What came from the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Bytes of a stream; `last`: the server ends its side.
    Data { stream: u32, last: bool, bytes: BytesMut },
    /// A stream that is over in both directions.
    Reset { stream: u32 },
    /// Wants the same back, unless it is an answer itself.
    Ping(u32),
    /// The server takes no more streams and will close.
    GoAway,
}

/// Opens streams; the client's have odd numbers.
#[derive(Debug, Default)]
pub(crate) struct Opener {
    opened: u32,
}

impl Opener {
    /// Puts the frame that opens a stream with one header behind `out`. Its number.
    pub(crate) fn open(&mut self, name: &str, value: &str, out: &mut Vec<u8>) -> u32 {
        let stream = 2 * self.opened + 1;
        let mut block = Vec::with_capacity(64);
        // One zlib stream goes through all frames: its head stands in the first.
        if self.opened == 0 {
            block.extend_from_slice(&[0x78, 0x01]);
        }
        self.opened += 1;
        let mut headers = Vec::with_capacity(48);
        headers.extend_from_slice(&1_u32.to_be_bytes());
        for text in [name, value] {
            let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
            headers.extend_from_slice(&len.to_be_bytes());
            headers.extend_from_slice(text.as_bytes());
        }
        let len = u16::try_from(headers.len()).unwrap_or(u16::MAX);
        block.push(0);
        block.extend_from_slice(&len.to_le_bytes());
        block.extend_from_slice(&(!len).to_le_bytes());
        block.extend_from_slice(&headers);
        // An empty block makes the inflater give out what it has.
        block.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
        control(SYN_STREAM, 10 + block.len(), out);
        out.extend_from_slice(&stream.to_be_bytes());
        // Belongs to no other stream, has no priority and no slot.
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&block);
        stream
    }
}

fn control(kind: u16, len: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&(0x8000_u16 | 3).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
}

/// Puts what stands before `len` bytes of a stream, at most [`MAX_DATA`], behind `out`; `last` ends our side of it.
pub(crate) fn data(stream: u32, len: usize, last: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&stream.to_be_bytes());
    let len = u32::try_from(len.min(MAX_DATA)).unwrap_or_default();
    out.extend_from_slice(&(u32::from(if last { FIN } else { 0 }) << 24 | len).to_be_bytes());
}

/// Puts the answer to a ping behind `out`.
pub(crate) fn pong(id: u32, out: &mut Vec<u8>) {
    control(PING, 4, out);
    out.extend_from_slice(&id.to_be_bytes());
}

/// Takes a server's frames apart.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    under_way: Option<UnderWay>,
}

/// A frame of which bytes are missing.
#[derive(Clone, Copy, Debug)]
enum UnderWay {
    Data { stream: u32, fin: bool, left: usize },
    PassedOver { left: usize },
}

impl Decoder {
    /// The next frame of what is in `buffer`, or as much of it as there is; `None` when there is too little in it.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        loop {
            match self.under_way {
                Some(UnderWay::PassedOver { left }) => {
                    let take = left.min(buffer.len());
                    buffer.advance(take);
                    if take < left {
                        self.under_way = Some(UnderWay::PassedOver { left: left - take });
                        return Ok(None);
                    }
                    self.under_way = None;
                }
                Some(UnderWay::Data { stream, fin, left }) => {
                    if left > 0 && buffer.is_empty() {
                        return Ok(None);
                    }
                    let bytes = buffer.split_to(left.min(buffer.len()));
                    let left = left - bytes.len();
                    self.under_way = (left > 0).then_some(UnderWay::Data { stream, fin, left });
                    let last = fin && left == 0;
                    return Ok(Some(Frame::Data { stream, last, bytes }));
                }
                None => {}
            }
            let Some(mut head) = buffer.get(..HEAD) else {
                return Ok(None);
            };
            let (first, second) = (head.get_u32(), head.get_u32());
            let len = usize::try_from(second & 0x00ff_ffff).unwrap_or_default();
            if first & 0x8000_0000 == 0 {
                buffer.advance(HEAD);
                self.under_way = Some(UnderWay::Data {
                    stream: first,
                    fin: second.to_be_bytes()[0] & FIN != 0,
                    left: len,
                });
                continue;
            }
            let version = u16::try_from(first >> 16 & 0x7fff).unwrap_or_default();
            if version != 3 {
                return Err(SpdyError::Version(version));
            }
            let kind = u16::try_from(first & 0xffff).unwrap_or_default();
            let number = matches!(kind, RST_STREAM | PING);
            if number && len < 4 {
                return Err(SpdyError::Short(kind));
            }
            if number && buffer.len() < HEAD + 4 {
                return Ok(None);
            }
            buffer.advance(HEAD);
            let number = if number { Some(buffer.get_u32()) } else { None };
            let left = len - if number.is_some() { 4 } else { 0 };
            self.under_way = Some(UnderWay::PassedOver { left });
            match (kind, number) {
                (RST_STREAM, Some(stream)) => return Ok(Some(Frame::Reset { stream })),
                (PING, Some(id)) => return Ok(Some(Frame::Ping(id))),
                (GOAWAY, _) => return Ok(Some(Frame::GoAway)),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_sent_is_the_same_in_every_build() {
        let (mut opener, mut out) = (Opener::default(), Vec::new());
        assert_eq!(opener.open("streamtype", "error", &mut out), 1);
        let golden =
            b"\x80\x03\x00\x01\x00\x00\x00\x2d\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x78\x01\x00\x17\x00\xe8\xff\
            \x00\x00\x00\x01\x00\x00\x00\x0astreamtype\x00\x00\x00\x05error\x00\x00\x00\xff\xff";
        // The block: two of zlib, five of the stored block, its 27 bytes, five of the empty one.
        let mut golden = golden.to_vec();
        golden[7] = 10 + 2 + 5 + 27 + 5;
        golden[19 + 2] = 27;
        golden[19 + 4] = !27;
        assert_eq!(out, golden);
        out.clear();
        assert_eq!(opener.open("streamtype", "stdin", &mut out), 3);
        assert_eq!(&out[18..23], [0, 27, 0, !27, 0xff], "one zlib stream has one head");
        out.clear();
        data(5, 0x01_02_03, true, &mut out);
        pong(2, &mut out);
        assert_eq!(out, [0, 0, 0, 5, 1, 1, 2, 3, 0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 2]);
    }

    /// A server's SYN_REPLY with headers, SETTINGS, data, ping, reset, goodbye.
    fn wire() -> Vec<u8> {
        let mut wire = vec![0x80, 3, 0, 2, 0, 0, 0, 7, 0, 0, 0, 1, 0x78, 0xbb, 1];
        wire.extend([0x80, 3, 0, 4, 0, 0, 0, 4, 0, 0, 0, 0]);
        data(3, 5, false, &mut wire);
        wire.extend(b"hello");
        data(3, 0, true, &mut wire);
        pong(2, &mut wire);
        wire.extend([0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 5]);
        wire.extend([0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
        wire
    }

    fn read(cut: usize) -> (Vec<u8>, Vec<Frame>) {
        let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
        let (mut text, mut others) = (Vec::new(), Vec::new());
        for piece in wire().chunks(cut) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = decoder.next(&mut buffer).unwrap() {
                match frame {
                    Frame::Data {
                        stream: 3,
                        last: false,
                        bytes,
                    } => text.extend_from_slice(&bytes),
                    other => others.push(other),
                }
            }
        }
        (text, others)
    }

    #[test]
    fn frames_are_read_however_they_are_cut() {
        for cut in 1..80 {
            let (text, others) = read(cut);
            assert_eq!(text, b"hello", "{cut}");
            let end = Frame::Data {
                stream: 3,
                last: true,
                bytes: BytesMut::new(),
            };
            assert_eq!(
                others,
                [end, Frame::Ping(2), Frame::Reset { stream: 1 }, Frame::GoAway],
                "{cut}"
            );
        }
    }

    #[test]
    fn another_version_is_refused() {
        let decode = |bytes: &[u8]| Decoder::default().next(&mut BytesMut::from(bytes));
        assert_eq!(decode(&[0x80, 2, 0, 1, 0, 0, 0, 0]), Err(SpdyError::Version(2)));
        assert_eq!(decode(&[0x80, 3, 0, 6, 0, 0, 0, 3, 1, 2, 3]), Err(SpdyError::Short(6)));
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::from(&bytes[..]));
            while let Ok(Some(_)) = decoder.next(&mut buffer) {}
        }
    }
}
