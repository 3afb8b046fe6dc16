//! A WebSocket's frames as a client writes and reads them. Pure.

use std::io;

use bytes::{Buf as _, BytesMut};

/// Longest frame of a server: it sends pieces of some kilobytes.
const MAX_FRAME: usize = 4 * 1024 * 1024;

/// What came from the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    Data(BytesMut),
    /// Has to be sent back.
    Pong(Vec<u8>),
    Close,
}

/// The next message of what is in `buffer`, `None` when there is too little in it.
pub(super) fn next(buffer: &mut BytesMut) -> io::Result<Option<Message>> {
    loop {
        let [first, second, ..] = buffer[..] else {
            return Ok(None);
        };
        let (len, head) = match second & 0x7f {
            126 => (buffer.get(2..4).map(|mut b| u64::from(b.get_u16())), 4),
            127 => (buffer.get(2..10).map(|mut b| b.get_u64()), 10),
            short => (Some(u64::from(short)), 2),
        };
        let Some(len) = len else { return Ok(None) };
        let bad = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the server's frames are not those of a WebSocket",
            )
        };
        let len = usize::try_from(len)
            .ok()
            .filter(|len| *len <= MAX_FRAME)
            .ok_or_else(bad)?;
        if second & 0x80 != 0 || first & 0x70 != 0 {
            return Err(bad());
        }
        if buffer.len() < head + len {
            return Ok(None);
        }
        buffer.advance(head);
        let payload = buffer.split_to(len);
        return match (first & 0x0f, first & 0x80 != 0) {
            (1 | 2, true) => Ok(Some(Message::Data(payload))),
            (8, _) => Ok(Some(Message::Close)),
            (9, true) => Ok(Some(Message::Pong(frame(10, &payload)))),
            (10, _) => continue,
            _ => Err(bad()),
        };
    }
}

/// A message as a frame.
pub(super) fn write(payload: &[u8]) -> Vec<u8> {
    frame(2, payload)
}

fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 14);
    out.push(0x80 | opcode);
    match u16::try_from(payload.len()) {
        Ok(short @ 0..=125) => out.push(0x80 | short.to_le_bytes()[0]),
        Ok(middle) => {
            out.push(0x80 | 126);
            out.extend_from_slice(&middle.to_be_bytes());
        }
        Err(_) => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    let mask = fastrand::u32(..).to_be_bytes();
    out.extend_from_slice(&mask);
    out.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    out
}

/// The payload of a short frame.
#[cfg(test)]
pub(super) fn unmasked(frame: &[u8]) -> Vec<u8> {
    let mask = &frame[2..6];
    frame[6..]
        .iter()
        .enumerate()
        .map(|(at, byte)| byte ^ mask[at % 4])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_come_and_refused_when_they_are_none() {
        let mut buffer = BytesMut::from(&b"\x82\x03\x01hi\x89\x01p\x8a\x00\x88\x00"[..]);
        assert_eq!(
            next(&mut buffer).unwrap(),
            Some(Message::Data(BytesMut::from(&b"\x01hi"[..])))
        );
        let Some(Message::Pong(pong)) = next(&mut buffer).unwrap() else {
            panic!("a ping is answered")
        };
        assert_eq!((pong[0], unmasked(&pong)), (0x8a, b"p".to_vec()));
        assert_eq!(next(&mut buffer).unwrap(), Some(Message::Close));
        assert_eq!(next(&mut buffer).unwrap(), None);
        assert_eq!(next(&mut BytesMut::from(&b"\x82\x7e\x01"[..])).unwrap(), None);
        for bad in [
            &b"\x82\x81"[..],
            b"\xc2\x00",
            b"\x00\x00",
            b"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(next(&mut BytesMut::from(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_written_is_masked_and_whole() {
        for len in [0_usize, 125, 126, 70_000] {
            let frame = write(&vec![7; len]);
            let head = match len {
                0..=125 => 6,
                126..=65_535 => 8,
                _ => 14,
            };
            assert_eq!(frame.len(), head + len);
            assert_eq!((frame[0], frame[1] & 0x80), (0x82, 0x80));
        }
    }
}
