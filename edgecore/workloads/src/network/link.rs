//! `kurator0`: the link on which the machine holds the cluster's own addresses, so that pods and programs on this machine reach what stands
//! behind them, whatever else the machine is connected to.
//!
//! A `dummy` link, or where the kernel has none a bridge without ports, which serves the same: either is only a place for addresses. Nothing is
//! ever sent over it.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use rustix::net::netdevice::name_to_index;

use super::cidr::Cidr;
use super::netlink::{self, ACK, ADDRESS, CREATE, EXCLUSIVE, LOCAL, Message, NEW_ADDRESS, REPLACE, Socket};

/// The link's name.
pub(super) const NAME: &str = "kurator0";
/// What can hold addresses, in the order of preference.
const KINDS: [&str; 2] = ["dummy", "bridge"];

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const DELETE_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;

/// Attributes of links, of routes.
const LINK_NAME: u16 = 3;
const LINK_INFO: u16 = 18 | 0x8000;
const INFO_KIND: u16 = 1;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_LINK: u16 = 4;

const UP: u32 = 1;
/// No duplicate is looked for: nobody else is on this link.
const NO_DETECTION: u8 = 2;

/// The link while it is being looked at or changed.
pub(super) struct Link {
    socket: Socket,
    index: u32,
}

impl Link {
    /// The link, if it is there.
    pub(super) fn find() -> io::Result<Option<Self>> {
        let socket = Socket::open(None)?;
        match name_to_index(socket.fd(), NAME) {
            Ok(index) => Ok(Some(Self { socket, index })),
            Err(rustix::io::Errno::NODEV) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The link, made where it is not there, and up.
    pub(super) fn make() -> io::Result<Self> {
        if let Some(found) = Self::find()? {
            return found.up();
        }
        let mut socket = Socket::open(None)?;
        let mut made = Ok(());
        for kind in KINDS {
            let mut info = Vec::new();
            netlink::push(&mut info, INFO_KIND, kind.as_bytes());
            let name = [NAME.as_bytes(), &[0]].concat();
            let message = Message::new(NEW_LINK, ACK | CREATE | EXCLUSIVE, &link_body(0, 0))
                .attribute(LINK_NAME, &name)
                .attribute(LINK_INFO, &info);
            made = socket.ask(message);
            match &made {
                Ok(()) => break,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => break,
                Err(_) => {}
            }
        }
        match Self::find()? {
            Some(link) => link.up(),
            None => Err(made.err().unwrap_or_else(|| io::ErrorKind::NotFound.into())),
        }
    }

    fn up(mut self) -> io::Result<Self> {
        self.socket
            .ask(Message::new(NEW_LINK, ACK, &link_body(self.index, UP)))?;
        Ok(self)
    }

    /// Gives the link these addresses, each for itself, and with `only` no others.
    pub(super) fn hold(&mut self, wanted: &BTreeSet<IpAddr>, only: bool) -> io::Result<()> {
        let have: BTreeSet<IpAddr> = netlink::addresses(&mut self.socket)?
            .into_iter()
            .filter(|held| held.interface == self.index && !is_link_local(held.ip))
            .map(|held| held.ip)
            .collect();
        for ip in wanted.difference(&have) {
            match self.change(NEW_ADDRESS, CREATE, *ip) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                done => done?,
            }
        }
        for ip in have.difference(wanted).filter(|_| only) {
            match self.change(DELETE_ADDRESS, 0, *ip) {
                Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => {}
                done => done?,
            }
        }
        Ok(())
    }

    fn change(&mut self, kind: u16, flags: u16, ip: IpAddr) -> io::Result<()> {
        let mut body = vec![family(ip), bits(ip), NO_DETECTION, 0];
        body.extend_from_slice(&self.index.to_ne_bytes());
        let message = Message::new(kind, ACK | flags, &body);
        self.socket.ask(message.address(LOCAL, ip).address(ADDRESS, ip))
    }

    /// Leads a range to the link, so that programs on a machine that has no way out find a way to Services all the same.
    pub(super) fn lead(&mut self, range: Cidr) -> io::Result<()> {
        const MAIN: u8 = 254;
        const STATIC: u8 = 4;
        const LINK: u8 = 253;
        const UNICAST: u8 = 1;
        let ip = range.base();
        let scope = if ip.is_ipv4() { LINK } else { 0 };
        let body = [
            family(ip),
            range.length(),
            0,
            0,
            MAIN,
            STATIC,
            scope,
            UNICAST,
            0,
            0,
            0,
            0,
        ];
        let message = Message::new(NEW_ROUTE, ACK | CREATE | REPLACE, &body)
            .address(ROUTE_DESTINATION, ip)
            .attribute(ROUTE_LINK, &self.index.to_ne_bytes());
        self.socket.ask(message)
    }

    /// Takes the link away, with its addresses and routes.
    pub(super) fn remove(mut self) -> io::Result<()> {
        let message = Message::new(DELETE_LINK, ACK, &link_body(self.index, 0));
        self.socket.ask(message)
    }
}

/// The addresses of this machine.
pub(super) fn local_addresses() -> io::Result<BTreeSet<IpAddr>> {
    let mut socket = Socket::open(None)?;
    let held = netlink::addresses(&mut socket)?;
    Ok(held.into_iter().map(|held| held.ip).collect())
}

fn link_body(index: u32, flags: u32) -> [u8; 16] {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..].copy_from_slice(&flags.to_ne_bytes());
    body
}

/// What the kernel gives every link by itself.
const fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

const fn family(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 2 } else { 10 }
}

const fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}
