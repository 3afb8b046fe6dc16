//! The kernel's own protocol for links, addresses, routes and tracked connections: messages built and read, one exchange at a time.
//!
//! Spoken directly: it is a header and nested attributes, and needs neither a program (`ip`, `conntrack`) on the machine nor a crate that knows
//! every message there is. Answers come from the kernel; they are read within their bounds all the same.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// Message kinds of the protocol itself.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// The kernel answers at once, or not at all.
const DEADLINE: Duration = Duration::from_secs(3);
/// A page of a dump is no larger.
const PAGE: usize = 64 * 1024;
/// Bytes of a message's header.
const HEADER: usize = 16;

pub(super) const REQUEST: u16 = 1;
pub(super) const ACK: u16 = 4;
pub(super) const DUMP: u16 = 0x300;
pub(super) const REPLACE: u16 = 0x100;
pub(super) const EXCLUSIVE: u16 = 0x200;
pub(super) const CREATE: u16 = 0x400;

/// A message being built.
pub(super) struct Message(Vec<u8>);

impl Message {
    /// `body`: the fixed part that the kind has before its attributes.
    pub(super) fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(body);
        Self(bytes)
    }

    #[must_use]
    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        push(&mut self.0, kind, value);
        self
    }

    #[must_use]
    pub(super) fn address(self, kind: u16, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => self.attribute(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attribute(kind, &v6.octets()),
        }
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// Appends an attribute, padded as the protocol wants.
pub(super) fn push(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&len.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The attributes in a piece of a message; ends at what is no attribute.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        // The upper bits say how the value is made, not what it is.
        Some((kind & 0x3fff, value))
    })
}

/// An attribute's value.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

/// An address, by its number of bytes.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(<[u8; 4]>::try_from(bytes).ok()?.into()),
        16 => Some(<[u8; 16]>::try_from(bytes).ok()?.into()),
        _ => None,
    }
}

/// A socket to one of the kernel's subsystems.
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Without a protocol: links, addresses, routes.
    pub(super) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        set_socket_timeout(&fd, Timeout::Recv, Some(DEADLINE))?;
        Ok(Self { fd, sequence: 0 })
    }

    pub(super) const fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Asks for something to be done.
    pub(super) fn ask(&mut self, message: Message) -> io::Result<()> {
        self.exchange(message, |_, _| {})
    }

    /// Asks, and hands on what comes back: kind, and the bytes after the header.
    pub(super) fn exchange(&mut self, message: Message, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.sequence += 1;
        let sent = message.finish(self.sequence);
        sendto(&self.fd, &sent, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut page = vec![0; PAGE];
        loop {
            let (read, _) = recv(&self.fd, &mut page[..], RecvFlags::empty())?;
            let mut rest = page.get(..read).unwrap_or_default();
            while let Some(head) = rest.first_chunk::<HEADER>() {
                let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
                let len = word(0) as usize;
                let kind = u16::from_ne_bytes([head[4], head[5]]);
                let Some(body) = rest.get(HEADER..len) else {
                    return Err(io::ErrorKind::InvalidData.into());
                };
                if word(8) == self.sequence {
                    match kind {
                        DONE => return Ok(()),
                        ERROR => return ended(body),
                        kind => each(kind, body),
                    }
                }
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// An acknowledgement is an error of number 0.
fn ended(body: &[u8]) -> io::Result<()> {
    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let mut inner = Vec::new();
        push(&mut inner, 1, b"dummy");
        push(&mut inner, 2, &[]);
        let message = Message::new(16, CREATE, &[7; 16])
            .attribute(18 | 0x8000, &inner)
            .finish(9);
        assert_eq!(message.len() % 4, 0);
        let link = attribute(&message[HEADER + 16..], 18).unwrap();
        assert_eq!(attributes(link).collect::<Vec<_>>(), [(1, &b"dummy"[..]), (2, &[][..])]);
    }

    #[test]
    fn what_is_no_attribute_ends_them() {
        for bytes in [
            &[][..],
            &[4],
            &[4, 0, 0],
            &[3, 0, 1, 0, 9],
            &[0; 8],
            &[255, 255, 0, 0, 1],
        ] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
        assert_eq!(address(&[1, 2, 3]), None);
    }
}
