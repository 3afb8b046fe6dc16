//! The addresses at which others reach this machine, as the kernel has them, and word when they change (rtnetlink). Asks nobody outside.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netdevice, recv, send, socket_with,
};
use tokio::net::UnixDatagram;

/// Most addresses that a Node shows: a machine with more has them for something else than being reached.
const MOST: usize = 16;
/// Groups of changes: IPv4 and IPv6 addresses (`RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV6_IFADDR`).
const GROUPS: u32 = 0x10 | 0x100;
/// Message types and attributes of rtnetlink(7).
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const REQUEST_DUMP: u16 = 0x301;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
/// Temporary (privacy), duplicate, deprecated, tentative: none of them one to be reached at.
const PASSING: u8 = 0x01 | 0x08 | 0x20 | 0x40;
/// Interfaces whose addresses belong to containers and virtual machines.
const INNER: [&str; 10] = [
    "lo", "cni", "docker", "veth", "br-", "virbr", "flannel", "cali", "kube-", "kurator",
];

/// Bytes of one answer; the kernel fills a buffer of this size at a time.
const BUFFER: usize = 16 * 1024;

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    interface: u32,
    ip: IpAddr,
}

/// The machine's addresses: the one it speaks from first, IPv4 before IPv6, then those of its other interfaces. `inner` says which
/// are of pods or Services.
pub(super) fn read(inner: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = [outward(true), outward(false)].into_iter().flatten().collect();
    // Without the kernel's list there is still the address that it speaks from.
    for held in list().unwrap_or_default() {
        if !found.contains(&held) {
            found.push(held);
        }
    }
    found.retain(|ip| !inner(*ip));
    found.truncate(MOST);
    found
}

/// The address this machine would speak from to the outside. Connecting a UDP socket sends nothing.
fn outward(v4: bool) -> Option<IpAddr> {
    let (any, far): (IpAddr, IpAddr) = if v4 {
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into())
    } else {
        (
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        )
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((far, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
}

/// All addresses of outer interfaces that can be reached from elsewhere.
fn list() -> io::Result<Vec<IpAddr>> {
    let socket = open(0)?;
    let mut request = Vec::with_capacity(24);
    request.extend(24_u32.to_ne_bytes());
    request.extend(GET_ADDRESS.to_ne_bytes());
    request.extend(REQUEST_DUMP.to_ne_bytes());
    // Sequence, port; then family (any), prefix, flags, scope, interface.
    request.extend([0; 16]);
    send(&socket, &request, SendFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    let mut held = Vec::new();
    loop {
        // The kernel answers within the call: nothing more to read is the end.
        let (length, _) = match recv(&socket, &mut buffer[..], RecvFlags::empty()) {
            Err(rustix::io::Errno::AGAIN) => break,
            other => other?,
        };
        if length == 0 || !parse(&buffer[..length.min(BUFFER)], &mut held) {
            break;
        }
    }
    held.sort_unstable();
    held.dedup();
    let outer = |held: &Held| {
        netdevice::index_to_name(&socket, held.interface)
            .is_ok_and(|name| !INNER.iter().any(|inner| name.starts_with(inner)))
    };
    Ok(held.into_iter().filter(outer).map(|held| held.ip).collect())
}

fn open(groups: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Routing is protocol 0, which is the default.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// Reads messages; false at the end of the list or when a message is not one.
fn parse(mut messages: &[u8], held: &mut Vec<Held>) -> bool {
    while let Some((message, rest)) = part(messages, 4, 0) {
        // Length, type, flags, sequence, port: 16 bytes before what the message says.
        if u16_at(message, 4) != Some(NEW_ADDRESS) {
            return false;
        }
        held.extend(message.get(16..).and_then(address));
        messages = rest;
    }
    messages.is_empty()
}

/// One `ifaddrmsg` with its attributes.
fn address(message: &[u8]) -> Option<Held> {
    let (head, mut attributes) = message.split_at_checked(8)?;
    let (flags, scope) = (head[2], head[3]);
    let interface = u32::from_ne_bytes(head[4..8].try_into().ok()?);
    let mut found: [Option<IpAddr>; 2] = [None, None];
    while let Some((attribute, rest)) = part(attributes, 2, 2) {
        let slot = match u16_at(attribute, 2) {
            Some(LOCAL) => Some(0),
            Some(ADDRESS) => Some(1),
            _ => None,
        };
        if let (Some(slot), Some(bytes)) = (slot, attribute.get(4..)) {
            found[slot] = match *bytes {
                [a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d).into()),
                _ => <[u8; 16]>::try_from(bytes).ok().map(|b| Ipv6Addr::from(b).into()),
            };
        }
        attributes = rest;
    }
    // Where the two differ, the other one is the far end of the line.
    let ip = found[0].or(found[1])?;
    // 0: everywhere. The rest are of this machine or this cable.
    (scope == 0 && flags & PASSING == 0 && !ip.is_loopback()).then_some(Held { interface, ip })
}

/// Cuts off what says its own length in its first `size` bytes, aligned to four; `least` is what a length may not be under.
fn part(bytes: &[u8], size: usize, least: usize) -> Option<(&[u8], &[u8])> {
    let length = match size {
        2 => usize::from(u16_at(bytes, 0)?),
        _ => usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?,
    };
    if length < size + least || length > bytes.len() {
        return None;
    }
    let next = length.next_multiple_of(4).min(bytes.len());
    Some((&bytes[..length], &bytes[next..]))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Word that an address came or went.
#[derive(Debug)]
pub(super) struct Changes(UnixDatagram);

impl Changes {
    /// # Errors
    /// When the kernel gives no such socket.
    pub(super) fn open() -> io::Result<Self> {
        // Only reading it differs from other sockets, and that is done here: tokio needs not know that it is no local one.
        let socket = std::os::unix::net::UnixDatagram::from(open(GROUPS)?);
        Ok(Self(UnixDatagram::from_std(socket)?))
    }

    /// Resolves when something changed since the last time. What it was is read anew: the kernel forgets when too much happens.
    ///
    /// # Errors
    /// When the kernel tells nothing any more.
    pub(super) async fn next(&self) -> io::Result<()> {
        let mut some = [0; 64];
        let told = self.0.recv(&mut some).await;
        let forgot = |e: &io::Error| e.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error());
        match told {
            Err(e) if !forgot(&e) => return Err(e),
            _ => {}
        }
        while self.0.try_recv(&mut some).is_ok() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(u16::try_from(4 + bytes.len()).unwrap().to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(bytes);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn message(kind: u16, flags: u8, scope: u8, interface: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![2, 24, flags, scope];
        body.extend(interface.to_ne_bytes());
        body.extend(attributes.concat());
        let mut out = Vec::new();
        out.extend(u32::try_from(16 + body.len()).unwrap().to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend([0; 10]);
        out.extend(body);
        out
    }

    #[test]
    fn addresses_that_can_be_reached_are_taken() {
        let v4 = |last: u8| attribute(ADDRESS, &[10, 0, 0, last]);
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7);
        let messages = [
            message(
                NEW_ADDRESS,
                0x80,
                0,
                2,
                &[v4(9), attribute(LOCAL, &[10, 0, 0, 1]), attribute(3, b"eth0\0")],
            ),
            message(NEW_ADDRESS, 0x80, 0, 3, &[attribute(ADDRESS, &v6.octets())]),
            message(NEW_ADDRESS, 0x80, 253, 3, &[v4(4)]),
            message(NEW_ADDRESS, 0x01, 0, 3, &[v4(5)]),
            message(NEW_ADDRESS, 0x40, 0, 3, &[v4(6)]),
        ];
        let mut held = Vec::new();
        assert!(parse(&messages.concat(), &mut held));
        let want = [
            Held {
                interface: 2,
                ip: Ipv4Addr::new(10, 0, 0, 1).into(),
            },
            Held {
                interface: 3,
                ip: v6.into(),
            },
        ];
        assert_eq!(held, want);
        assert!(!parse(&message(3, 0, 0, 0, &[]), &mut held), "the end of a list");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in any::<bool>()) {
            let mut held = Vec::new();
            parse(&bytes, &mut held);
            if kind {
                let mut whole = message(NEW_ADDRESS, 0, 0, 1, &[]);
                let length = u32::try_from(whole.len() + bytes.len()).unwrap();
                whole[..4].copy_from_slice(&length.to_ne_bytes());
                whole.extend(&bytes);
                parse(&whole, &mut held);
            }
        }
    }

    #[tokio::test]
    async fn the_kernel_is_asked_and_followed() {
        let all = read(|_| false);
        assert!(all.len() <= MOST && all.iter().all(|ip| !ip.is_loopback()));
        assert!(read(|_| true).is_empty());
        let changes = Changes::open().unwrap();
        // Nothing has changed yet.
        assert!(futures_util::FutureExt::now_or_never(changes.next()).is_none());
    }
}
