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

/// Messages about addresses, and their attributes.
pub(super) const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
pub(super) const ADDRESS: u16 = 1;
pub(super) const LOCAL: u16 = 2;
/// Bytes that such a message has before its attributes.
const ADDRESS_BODY: usize = 8;

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

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) interface: u32,
    pub(crate) ip: IpAddr,
    /// `IFA_F_*`, those of the first byte.
    pub(crate) flags: u8,
    /// `RT_SCOPE_*`: from how far away it means this machine.
    pub(crate) scope: u8,
}

/// The addresses of all interfaces.
pub(crate) fn addresses(socket: &mut Socket) -> io::Result<Vec<Held>> {
    let mut found = Vec::new();
    let request = Message::new(GET_ADDRESS, DUMP, &[0; ADDRESS_BODY]);
    socket.exchange(request, |kind, body| {
        if kind == NEW_ADDRESS {
            found.extend(held(body));
        }
    })?;
    Ok(found)
}

fn held(body: &[u8]) -> Option<Held> {
    let (head, attributes) = body.split_first_chunk::<ADDRESS_BODY>()?;
    let [_family, _prefix, flags, scope, interface @ ..] = *head;
    // Where the two differ, the other one is the far end of the line.
    let value = attribute(attributes, LOCAL).or_else(|| attribute(attributes, ADDRESS))?;
    Some(Held {
        interface: u32::from_ne_bytes(interface),
        ip: address(value)?,
        flags,
        scope,
    })
}

/// A socket to one of the kernel's subsystems.
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// Without a protocol: links, addresses, routes.
    pub(crate) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        set_socket_timeout(&fd, Timeout::Recv, Some(DEADLINE))?;
        Ok(Self { fd, sequence: 0 })
    }

    pub(crate) const fn fd(&self) -> &OwnedFd {
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
            if is_last(page.get(..read).unwrap_or_default(), self.sequence, &mut each)? {
                return Ok(());
            }
        }
    }
}

/// Hands on the answers in a page; whether the answer ends with it.
fn is_last(mut page: &[u8], sequence: u32, each: &mut impl FnMut(u16, &[u8])) -> io::Result<bool> {
    while let Some(head) = page.first_chunk::<HEADER>() {
        let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let len = word(0) as usize;
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        let Some(body) = page.get(HEADER..len) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if word(8) == sequence {
            match kind {
                DONE => return Ok(true),
                ERROR => return ended(body).map(|()| true),
                kind => each(kind, body),
            }
        }
        page = page.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
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
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    const SEQUENCE: u32 = 9;

    fn new_address(flags: u8, scope: u8, interface: u8) -> Message {
        let interface = u32::from(interface).to_ne_bytes();
        Message::new(NEW_ADDRESS, 0, &[&[2, 24, flags, scope][..], &interface].concat())
    }

    /// What a page says of addresses, and whether it is the last.
    fn read(page: &[u8]) -> io::Result<(Vec<Held>, bool)> {
        let mut found = Vec::new();
        let last = is_last(page, SEQUENCE, &mut |kind, body| {
            if kind == NEW_ADDRESS {
                found.extend(held(body));
            }
        })?;
        Ok((found, last))
    }

    #[test]
    fn addresses_are_read_with_what_is_said_of_them() {
        let (near, far) = (Ipv4Addr::new(10, 0, 0, 1).into(), Ipv4Addr::new(10, 0, 0, 9).into());
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7).into();
        let line = new_address(0x80, 0, 2)
            .address(ADDRESS, far)
            .address(LOCAL, near)
            .attribute(3, b"eth0\0");
        let list = [
            line.finish(SEQUENCE),
            new_address(0, 0, 4).address(ADDRESS, far).finish(SEQUENCE + 1),
            new_address(1, 253, 3).address(ADDRESS, v6).finish(SEQUENCE),
            new_address(0, 0, 5).finish(SEQUENCE),
        ]
        .concat();
        let is = |interface, ip, flags, scope| Held {
            interface,
            ip,
            flags,
            scope,
        };
        let want = vec![is(2, near, 0x80, 0), is(3, v6, 1, 253)];
        assert_eq!(read(&list).unwrap(), (want.clone(), false));
        let end = Message::new(DONE, 0, &[0; 4]).finish(SEQUENCE);
        assert_eq!(read(&[list, end].concat()).unwrap(), (want, true));
    }

    #[test]
    fn a_refusal_is_the_kernels_error() {
        let answer = |code: i32| Message::new(ERROR, 0, &code.to_ne_bytes()).finish(SEQUENCE);
        assert_eq!(read(&answer(0)).unwrap(), (Vec::new(), true));
        assert_eq!(read(&answer(-1)).unwrap_err().raw_os_error(), Some(1));
        let mut short = answer(0);
        short[..4].copy_from_slice(&8_u32.to_ne_bytes());
        assert_eq!(read(&short).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300), whole in any::<bool>()) {
            let mut page = bytes.clone();
            if whole {
                let mut message = new_address(0, 0, 1);
                message.0.extend(&bytes);
                page = message.finish(SEQUENCE);
            }
            // Whatever it says, it is read to an end.
            drop(read(&page));
        }
    }

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
