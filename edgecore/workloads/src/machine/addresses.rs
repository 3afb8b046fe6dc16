//! The addresses at which others reach this machine, as the kernel has them, and word when they change (rtnetlink). Asks nobody outside.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, netdevice, socket_with};
use tokio::net::UnixDatagram;

use crate::network::netlink::{self, Held, Socket};

/// Most addresses that a Node shows: a machine with more has them for something else than being reached.
const MOST: usize = 16;
/// Groups of changes: IPv4 and IPv6 addresses (`RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV6_IFADDR`).
const GROUPS: u32 = 0x10 | 0x100;
/// Temporary (privacy), duplicate, deprecated, tentative: none of them one to be reached at.
const PASSING: u8 = 0x01 | 0x08 | 0x20 | 0x40;
/// Interfaces whose addresses belong to containers and virtual machines.
const INNER: [&str; 10] = [
    "lo", "cni", "docker", "veth", "br-", "virbr", "flannel", "cali", "kube-", "kurator",
];

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

/// All addresses of outer interfaces that can be reached from elsewhere, interface by interface.
fn list() -> io::Result<Vec<IpAddr>> {
    let mut socket = Socket::open(None)?;
    let held: BTreeSet<(u32, IpAddr)> = netlink::addresses(&mut socket)?
        .into_iter()
        .filter(is_reachable)
        .map(|held| (held.interface, held.ip))
        .collect();
    let outer = |interface| {
        netdevice::index_to_name(socket.fd(), interface)
            .is_ok_and(|name| !INNER.iter().any(|inner| name.starts_with(inner)))
    };
    let outer = held.into_iter().filter(|(interface, _)| outer(*interface));
    Ok(outer.map(|(_, ip)| ip).collect())
}

fn is_reachable(held: &Held) -> bool {
    // 0: everywhere. The rest are of this machine or this cable.
    held.scope == 0 && held.flags & PASSING == 0 && !held.ip.is_loopback()
}

/// Word that an address came or went.
#[derive(Debug)]
pub(super) struct Changes(UnixDatagram);

impl Changes {
    /// # Errors
    /// When the kernel gives no such socket.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Routing is protocol 0, which is the default.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        // Only reading it differs from other sockets, and that is done here: tokio needs not know that it is no local one.
        let socket = std::os::unix::net::UnixDatagram::from(socket);
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
    use super::*;

    #[test]
    fn addresses_that_can_be_reached_are_taken() {
        let taken = |ip: &str, flags, scope| {
            is_reachable(&Held {
                interface: 2,
                ip: ip.parse().unwrap(),
                flags,
                scope,
            })
        };
        assert!(taken("10.0.0.1", 0x80, 0) && taken("2001:db8:1::7", 0x80, 0));
        assert!(!taken("10.0.0.4", 0x80, 253) && !taken("127.0.0.1", 0x80, 0));
        for passing in [0x01, 0x08, 0x20, 0x40] {
            assert!(!taken("2001:db8:1::7", 0x80 | passing, 0), "{passing:#x}");
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
