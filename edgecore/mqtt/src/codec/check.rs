//! Walks a complete frame before the decoder sees it.
//!
//! The decoder below is lenient where the standard is not, and takes a short property list for "not enough bytes yet",
//! which would swallow the packet. What passes here has every length inside the frame, every string valid UTF-8 without
//! NUL, only properties its packet may have, each once, the flags the standard wants, and no byte left over.

use super::Malformed;
use crate::packet::Protocol;

/// A user property more than this is a nuisance, not a message.
const MAX_USER_PROPERTIES: usize = 64;

pub(super) struct Walk<'a>(pub(super) &'a [u8]);

type Checked<T = ()> = Result<T, Malformed>;

impl<'a> Walk<'a> {
    pub(super) fn take(&mut self, len: usize) -> Checked<&'a [u8]> {
        let (head, rest) = self
            .0
            .split_at_checked(len)
            .ok_or(Malformed("a length points past the end"))?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn u8(&mut self) -> Checked<u8> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn u16(&mut self) -> Checked<u16> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(super) fn u32(&mut self) -> Checked<u32> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub(super) fn binary(&mut self) -> Checked<&'a [u8]> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    pub(super) fn string(&mut self) -> Checked<&'a str> {
        let text = std::str::from_utf8(self.binary()?).map_err(|_| Malformed("a string is not UTF-8"))?;
        if text.as_bytes().contains(&0) {
            return Err(Malformed("a string holds NUL"));
        }
        Ok(text)
    }

    fn varint(&mut self) -> Checked<u32> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed("a variable length number is too long"))
    }

    fn pid(&mut self) -> Checked<u16> {
        match self.u16()? {
            0 => Err(Malformed("packet id 0")),
            pid => Ok(pid),
        }
    }

    fn end(&self) -> Checked {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed("bytes after the end of the packet"))
        }
    }

    /// Walks a property list; every id must be in `allowed`.
    fn properties(&mut self, allowed: &[u8]) -> Checked {
        let len = self.varint()?;
        let mut list = Walk(self.take(len as usize)?);
        let mut seen = 0u64;
        let mut users = 0;
        while !list.0.is_empty() {
            let id = list.u8()?;
            if !allowed.contains(&id) {
                return Err(Malformed("a property that does not belong to this packet"));
            }
            if id == 38 {
                users += 1;
                if users > MAX_USER_PROPERTIES {
                    return Err(Malformed("too many user properties"));
                }
            } else if seen & (1 << id) != 0 {
                return Err(Malformed("a property twice"));
            }
            seen |= 1 << id;
            let in_range = match id {
                1 | 23 | 25 => list.u8()? <= 1,
                33 | 35 => list.u16()? != 0,
                34 => list.u16().map(|_| true)?,
                2 | 17 | 24 => list.u32().map(|_| true)?,
                39 => list.u32()? != 0,
                11 => list.varint()? != 0,
                3 | 8 | 21 | 31 => list.string().map(|_| true)?,
                9 | 22 => list.binary().map(|_| true)?,
                38 => list.string().and(list.string()).map(|_| true)?,
                _ => return Err(Malformed("unknown property")),
            };
            if !in_range {
                return Err(Malformed("a property has a value out of range"));
            }
        }
        Ok(())
    }
}

/// Checks the body of a CONNECT (after its protocol name and level).
pub(super) fn connect(protocol: Protocol, body: &mut Walk<'_>) -> Checked {
    let flags = body.u8()?;
    let (will, will_qos, will_retain) = (flags & 4 != 0, flags >> 3 & 3, flags & 0x20 != 0);
    if flags & 1 != 0 || will_qos == 3 || (!will && (will_qos != 0 || will_retain)) {
        return Err(Malformed("connect flags"));
    }
    let (username, password) = (flags & 0x80 != 0, flags & 0x40 != 0);
    if password && !username && protocol == Protocol::V4 {
        return Err(Malformed("a password without a user name"));
    }
    body.u16()?;
    if protocol == Protocol::V5 {
        body.properties(&[17, 21, 22, 23, 25, 33, 34, 38, 39])?;
    }
    body.string()?;
    if will {
        if protocol == Protocol::V5 {
            body.properties(&[1, 2, 3, 8, 9, 24, 38])?;
        }
        body.string()?;
        body.binary()?;
    }
    if username {
        body.string()?;
    }
    if password {
        // The decoder takes text only.
        std::str::from_utf8(body.binary()?).map_err(|_| Malformed("the password is not UTF-8"))?;
    }
    body.end()
}

/// Checks any later packet of a client. `first` is the first byte of the frame.
pub(super) fn packet(protocol: Protocol, first: u8, body: &[u8]) -> Checked {
    let v5 = protocol == Protocol::V5;
    let mut body = Walk(body);
    let (kind, flags) = (first >> 4, first & 0x0f);
    let wanted = match kind {
        3 => flags,
        6 | 8 | 10 => 2,
        _ => 0,
    };
    if flags != wanted {
        return Err(Malformed("fixed header flags"));
    }
    match kind {
        3 => {
            let qos = flags >> 1 & 3;
            if qos == 3 || (qos == 0 && flags & 8 != 0) {
                return Err(Malformed("publish flags"));
            }
            body.string()?;
            if qos > 0 {
                body.pid()?;
            }
            if v5 {
                body.properties(&[1, 2, 3, 8, 9, 35, 38])?;
            }
            Ok(())
        }
        4..=7 => {
            body.pid()?;
            if v5 && !body.0.is_empty() {
                body.u8()?;
                if !body.0.is_empty() {
                    body.properties(&[31, 38])?;
                }
            }
            body.end()
        }
        8 => {
            body.pid()?;
            if v5 {
                body.properties(&[11, 38])?;
            }
            if body.0.is_empty() {
                return Err(Malformed("a SUBSCRIBE without a filter"));
            }
            while !body.0.is_empty() {
                body.string()?;
                let options = body.u8()?;
                let reserved = if v5 { 0xc0 } else { 0xfc };
                if options & reserved != 0 || options & 3 == 3 || options >> 4 & 3 == 3 {
                    return Err(Malformed("subscription options"));
                }
            }
            Ok(())
        }
        10 => {
            body.pid()?;
            if v5 {
                body.properties(&[38])?;
            }
            if body.0.is_empty() {
                return Err(Malformed("an UNSUBSCRIBE without a filter"));
            }
            while !body.0.is_empty() {
                body.string()?;
            }
            Ok(())
        }
        12 => body.end(),
        14 => {
            if v5 && !body.0.is_empty() {
                body.u8()?;
                if !body.0.is_empty() {
                    body.properties(&[17, 31, 38])?;
                }
            }
            body.end()
        }
        _ => Err(Malformed("a packet clients do not send here")),
    }
}
