//! WebSocket as a server speaks it (RFC 6455): the handshake's answer, and frames in both directions. Messages go through in pieces as they come,
//! so their length is no matter. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;

/// What a key is hashed with.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Longest payload of a frame that controls.
const MAX_CONTROL: u64 = 125;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
/// A message of bytes.
pub(crate) const BINARY: u8 = 2;
/// The connection's end.
pub(crate) const CLOSE: u8 = 8;
const PING: u8 = 9;
/// The answer to a ping.
pub(crate) const PONG: u8 = 10;

/// Why a client's bytes are no WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WebSocketError {
    #[error("the client's handshake is not one of WebSocket 13")]
    Handshake,
    #[error("a client's frame must be masked")]
    Unmasked,
    #[error("a frame of a kind that nobody agreed on")]
    Unknown,
    #[error("a frame that controls is cut or too long")]
    Control,
    #[error("a message begins or goes on where it must not")]
    Order,
}

/// The protocols that a client names, in its order.
pub(crate) fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(http::header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Whether a request wants to become a WebSocket.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(http::header::UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
}

/// What proves to the client that its handshake was understood.
pub(crate) fn accept(headers: &HeaderMap) -> Result<String, WebSocketError> {
    let version = headers.get(http::header::SEC_WEBSOCKET_VERSION);
    let key = headers
        .get(http::header::SEC_WEBSOCKET_KEY)
        .filter(|key| key.len() == 24 && version.is_some_and(|version| version == "13"))
        .ok_or(WebSocketError::Handshake)?;
    let mut hash = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(GUID);
    Ok(STANDARD.encode(hash.finish()))
}

/// What came from a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A part of a message; several make up one.
    Data {
        /// It begins a message.
        first: bool,
        /// It ends one.
        last: bool,
        bytes: BytesMut,
    },
    /// Wants the same back.
    Ping(Bytes),
    Pong,
    Close,
}

/// Takes a client's frames apart.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    frame: Option<Frame>,
    /// A message is under way: its next frame is a continuation.
    open: bool,
}

/// A frame with data of which bytes are missing.
#[derive(Debug)]
struct Frame {
    left: u64,
    mask: [u8; 4],
    /// Bytes that were unmasked.
    done: usize,
    first: bool,
    ends: bool,
}

impl Decoder {
    /// The next piece of what is in `buffer`, `None` when there is too little in it.
    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Piece>, WebSocketError> {
        loop {
            if let Some(frame) = &mut self.frame {
                if frame.left > 0 && buffer.is_empty() {
                    return Ok(None);
                }
                let take = usize::try_from(frame.left).unwrap_or(usize::MAX).min(buffer.len());
                let mut bytes = buffer.split_to(take);
                unmask(&mut bytes, frame.mask, frame.done);
                frame.left -= take as u64;
                frame.done += take;
                let piece = Piece::Data {
                    first: std::mem::take(&mut frame.first),
                    last: frame.ends && frame.left == 0,
                    bytes,
                };
                if frame.left == 0 {
                    self.frame = None;
                }
                return Ok(Some(piece));
            }
            let Some(head) = Head::read(buffer)? else {
                return Ok(None);
            };
            if head.opcode >= CLOSE {
                if head.len > MAX_CONTROL || !head.fin {
                    return Err(WebSocketError::Control);
                }
                let len = usize::try_from(head.len).unwrap_or(usize::MAX);
                if buffer.len() < head.size + len {
                    return Ok(None);
                }
                buffer.advance(head.size);
                let mut bytes = buffer.split_to(len);
                unmask(&mut bytes, head.mask, 0);
                return Ok(Some(match head.opcode {
                    PING => Piece::Ping(bytes.freeze()),
                    PONG => Piece::Pong,
                    CLOSE => Piece::Close,
                    _ => return Err(WebSocketError::Unknown),
                }));
            }
            let first = match head.opcode {
                CONTINUATION => false,
                TEXT | BINARY => true,
                _ => return Err(WebSocketError::Unknown),
            };
            if first == self.open {
                return Err(WebSocketError::Order);
            }
            self.open = !head.fin;
            buffer.advance(head.size);
            self.frame = Some(Frame {
                left: head.len,
                mask: head.mask,
                done: 0,
                first,
                ends: head.fin,
            });
        }
    }
}

/// What stands before a frame's payload.
struct Head {
    fin: bool,
    opcode: u8,
    len: u64,
    mask: [u8; 4],
    size: usize,
}

impl Head {
    fn read(buffer: &[u8]) -> Result<Option<Self>, WebSocketError> {
        let [first, second, ..] = *buffer else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(WebSocketError::Unknown);
        }
        if second & 0x80 == 0 {
            return Err(WebSocketError::Unmasked);
        }
        let (len, at) = match second & 0x7f {
            126 => (buffer.get(2..4).map(|b| u64::from(b[0]) << 8 | u64::from(b[1])), 4),
            127 => (buffer.get(2..10).map(|mut b| b.get_u64()), 10),
            short => (Some(u64::from(short)), 2),
        };
        let (Some(len), Some(mask)) = (len, buffer.get(at..at + 4)) else {
            return Ok(None);
        };
        Ok(Some(Self {
            fin: first & 0x80 != 0,
            opcode: first & 0x0f,
            len,
            mask: [mask[0], mask[1], mask[2], mask[3]],
            size: at + 4,
        }))
    }
}

fn unmask(bytes: &mut [u8], mask: [u8; 4], done: usize) {
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte ^= mask[(done + at) % 4];
    }
}

/// Puts the beginning of a whole, unmasked frame with `len` bytes of payload behind `out`.
pub(crate) fn head(opcode: u8, len: usize, out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match u16::try_from(len) {
        Ok(short @ 0..=125) => out.push(short.to_le_bytes()[0]),
        Ok(middle) => {
            out.push(126);
            out.extend_from_slice(&middle.to_be_bytes());
        }
        Err(_) => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn masked(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        head(opcode, payload.len(), &mut out);
        if !fin {
            out[0] &= 0x7f;
        }
        out[1] |= 0x80;
        let mask = [7, 77, 177, 250];
        out.extend_from_slice(&mask);
        out.extend(payload.iter().enumerate().map(|(i, b)| b ^ mask[i % 4]));
        out
    }

    #[test]
    fn the_handshake_is_that_of_the_standard() {
        let mut headers = HeaderMap::new();
        assert_eq!(accept(&headers), Err(WebSocketError::Handshake));
        headers.insert(
            "sec-websocket-key",
            HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="),
        );
        headers.insert("sec-websocket-version", HeaderValue::from_static("13"));
        assert_eq!(accept(&headers).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        headers.insert(
            "sec-websocket-protocol",
            HeaderValue::from_static("v5.channel.k8s.io, v4.channel.k8s.io"),
        );
        assert_eq!(
            protocols(&headers).collect::<Vec<_>>(),
            ["v5.channel.k8s.io", "v4.channel.k8s.io"]
        );
    }

    #[test]
    fn what_a_client_must_not_send_is_refused() {
        let decode = |bytes: &[u8]| Decoder::default().next(&mut BytesMut::from(bytes));
        assert_eq!(decode(&[0x82, 0x01, 0]), Err(WebSocketError::Unmasked));
        assert_eq!(decode(&[0xc2, 0x81]), Err(WebSocketError::Unknown));
        assert_eq!(decode(&masked(true, 3, b"")), Err(WebSocketError::Unknown));
        assert_eq!(decode(&masked(true, CONTINUATION, b"x")), Err(WebSocketError::Order));
        assert_eq!(decode(&masked(false, PING, b"x")), Err(WebSocketError::Control));
        assert_eq!(decode(&masked(true, PING, &[0; 126])), Err(WebSocketError::Control));
        assert_eq!(decode(&[0x82]), Ok(None));
        assert_eq!(
            decode(&masked(true, PING, b"hi")),
            Ok(Some(Piece::Ping(Bytes::from_static(b"hi"))))
        );
        assert_eq!(decode(&masked(true, CLOSE, &[3, 232])), Ok(Some(Piece::Close)));
    }

    #[test]
    fn lengths_are_written_in_their_shortest_form() {
        for (len, size) in [(0_usize, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let mut out = Vec::new();
            head(BINARY, len, &mut out);
            assert_eq!(out.len(), size, "{len}");
            let bytes = masked(true, BINARY, &vec![1; len]);
            let read = Head::read(&bytes).unwrap().unwrap();
            assert_eq!((read.len, read.size), (len as u64, size + 4));
        }
    }

    proptest! {
        #[test]
        fn messages_come_through_whole_however_they_are_cut(
            messages in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..4), 1..6),
            cuts in prop::collection::vec(1_usize..200, 1..20),
        ) {
            let mut wire = Vec::new();
            for message in &messages {
                for (i, fragment) in message.iter().enumerate() {
                    wire.extend(masked(i + 1 == message.len(), if i == 0 { BINARY } else { CONTINUATION }, fragment));
                    wire.extend(masked(true, PING, b"p"));
                }
            }
            let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::new());
            let (mut seen, mut open) = (Vec::<Vec<u8>>::new(), false);
            let (mut rest, mut cuts) = (wire.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let cut = (*cuts.next().unwrap()).min(rest.len());
                buffer.extend_from_slice(&rest[..cut]);
                rest = &rest[cut..];
                while let Some(piece) = decoder.next(&mut buffer).unwrap() {
                    if let Piece::Data { first, last, bytes } = piece {
                        prop_assert_eq!(first, !open);
                        if first { seen.push(Vec::new()); }
                        seen.last_mut().unwrap().extend_from_slice(&bytes);
                        open = !last;
                    }
                }
            }
            let wanted: Vec<Vec<u8>> = messages.iter().map(|m| m.concat()).collect();
            prop_assert_eq!(seen, wanted);
        }

        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::from(&bytes[..]));
            while let Ok(Some(_)) = decoder.next(&mut buffer) {}
        }
    }
}
