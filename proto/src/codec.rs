//! Frames to bytes and back: a u32 length (big-endian) before each protobuf message.
//!
//! Decoding trusts nothing. The length is held to a cap before anything is done with it, no buffer is grown for a length that was
//! only claimed, and the fields of a frame are counted before prost allocates for them. Whoever reads from a socket calls this;
//! deadlines are theirs.

use crate::limits;
use crate::wire::Frame;
use bytes::{Buf, BufMut, BytesMut};
use prost::Message;

/// Why bytes are no frame, or a frame cannot become bytes. The stream cannot be read on after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Longer than this side takes.
    #[error("the peer sends a frame of {len} bytes; at most {max} are taken")]
    TooLong {
        /// Claimed or real length.
        len: usize,
        /// The cap.
        max: usize,
    },
    /// More repeated fields than any real frame has.
    #[error("the peer sends a frame of more than {} fields", limits::MAX_FIELDS)]
    TooManyFields,
    /// Not a protobuf message of ours.
    #[error("the peer sends something that is no frame: {0}")]
    Malformed(String),
}

/// Frames to bytes and back. Has no state but its cap; copy it freely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codec {
    max: usize,
}

impl Default for Codec {
    /// With the cap of an established session.
    fn default() -> Self {
        Self { max: limits::MAX_FRAME }
    }
}

impl Codec {
    /// With the smaller cap for what comes before the peer is known: enrolment, Hello.
    pub fn handshake() -> Self {
        Self {
            max: limits::MAX_HANDSHAKE_FRAME,
        }
    }

    /// Appends a frame to `out`.
    ///
    /// # Errors
    /// [`CodecError::TooLong`] when the frame is above the cap of a session, with nothing written.
    pub fn encode(&self, frame: &Frame, out: &mut BytesMut) -> Result<(), CodecError> {
        let len = frame.encoded_len();
        if len > limits::MAX_FRAME {
            return Err(CodecError::TooLong {
                len,
                max: limits::MAX_FRAME,
            });
        }
        out.reserve(4 + len);
        out.put_u32(len as u32);
        frame.encode_raw(out);
        Ok(())
    }

    /// Takes the next frame from the front of `input`, or `None` when more bytes are needed. Reserves nothing: `input` grows only
    /// by what was really received.
    ///
    /// # Errors
    /// Any [`CodecError`]: close the connection, its stream has lost its frames' bounds.
    pub fn decode(&self, input: &mut BytesMut) -> Result<Option<Frame>, CodecError> {
        let Some(prefix) = input.first_chunk::<4>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*prefix) as usize;
        if len > self.max {
            return Err(CodecError::TooLong { len, max: self.max });
        }
        if input.len() < 4 + len {
            return Ok(None);
        }
        input.advance(4);
        let frame = input.split_to(len).freeze();
        if count_fields(&frame, 1, &mut 0).is_err() {
            return Err(CodecError::TooManyFields);
        }
        Frame::decode(frame)
            .map(Some)
            .map_err(|error| CodecError::Malformed(error.to_string()))
    }
}

pub(crate) struct TooMany;

/// Counts the fields of a message and, `depth` levels down, those of what it holds; a damaged message ends the count, prost says why.
pub(crate) fn count_fields(mut message: &[u8], depth: u8, count: &mut usize) -> Result<(), TooMany> {
    while let Some(key) = varint(&mut message) {
        *count += 1;
        if *count > limits::MAX_FIELDS {
            return Err(TooMany);
        }
        let skip = match key & 7 {
            0 => {
                varint(&mut message);
                0
            }
            1 => 8,
            5 => 4,
            2 => {
                let Some(len) = varint(&mut message).and_then(|len| usize::try_from(len).ok()) else {
                    return Ok(());
                };
                if depth > 0 {
                    count_fields(&message[..len.min(message.len())], depth - 1, count)?;
                }
                len
            }
            // Groups do not occur in our messages; prost skips them without keeping anything.
            _ => 0,
        };
        message = message.get(skip..).unwrap_or_default();
    }
    Ok(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * index as u32).min(63);
        if byte & 0x80 == 0 {
            *bytes = &bytes[index + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{self, frame::Kind};

    fn heartbeat() -> Frame {
        Kind::Heartbeat(wire::Heartbeat {
            answer: true,
            ..Default::default()
        })
        .into()
    }

    #[test]
    fn frames_come_back_from_any_split() {
        let mut all = BytesMut::new();
        for _ in 0..3 {
            Codec::default().encode(&heartbeat(), &mut all).unwrap();
        }
        for step in 1..all.len() {
            let (mut input, mut seen) = (BytesMut::new(), 0);
            for part in all.chunks(step) {
                input.extend_from_slice(part);
                while let Some(frame) = Codec::default().decode(&mut input).unwrap() {
                    assert_eq!(frame, heartbeat());
                    seen += 1;
                }
            }
            assert_eq!((seen, input.len()), (3, 0));
        }
    }

    #[test]
    fn claimed_length_is_refused_before_anything_is_reserved() {
        let mut input = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        let before = input.capacity();
        assert!(matches!(
            Codec::default().decode(&mut input),
            Err(CodecError::TooLong { .. })
        ));
        let mut input = BytesMut::from(&(limits::MAX_FRAME as u32).to_be_bytes()[..]);
        assert_eq!(Codec::default().decode(&mut input), Ok(None));
        assert!(input.capacity() <= before.max(64));
        assert!(matches!(
            Codec::handshake().decode(&mut input),
            Err(CodecError::TooLong { .. })
        ));
    }

    #[test]
    fn small_repeated_fields_are_counted_before_they_are_decoded() {
        // An empty InventoryEntry is two bytes on the wire and dozens in memory.
        let page = [0x1a, 0x00].repeat(1 << 20);
        let mut frame = BytesMut::new();
        let mut head = BytesMut::new();
        prost::encoding::encode_key(6, prost::encoding::WireType::LengthDelimited, &mut head);
        prost::encoding::encode_varint(page.len() as u64, &mut head);
        frame.put_u32((head.len() + page.len()) as u32);
        frame.extend_from_slice(&head);
        frame.extend_from_slice(&page);
        assert_eq!(Codec::default().decode(&mut frame), Err(CodecError::TooManyFields));
    }

    #[test]
    fn too_large_a_frame_is_not_written() {
        let csr = vec![0; limits::MAX_FRAME].into();
        let mut out = BytesMut::new();
        let frame = Kind::Rotate(wire::Rotate { csr }).into();
        assert!(matches!(
            Codec::default().encode(&frame, &mut out),
            Err(CodecError::TooLong { .. })
        ));
        assert!(out.is_empty());
    }
}
