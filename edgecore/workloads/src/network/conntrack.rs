//! Connections that the kernel remembers. A UDP "connection" whose endpoint has gone would go on being sent there for as long as its client
//! talks: such entries are taken out, and the client's next packet finds a way by the rules as they are.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::net::netlink::NETFILTER;

use super::netlink::{self, ACK, DUMP, Message, Socket, attribute};

/// Messages of the table of connections.
const GET: u16 = 0x101;
const DELETE: u16 = 0x102;

const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// A value that has attributes inside.
const NESTED: u16 = 0x8000;
/// Within a direction: addresses, and protocol.
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;

const UDP: u8 = 17;
/// Entries taken out at a time; a machine that has more of them meets the rest at the next change.
const MOST: usize = 16 * 1024;

/// Takes out the UDP entries for which `stale` says so: where the client sends to, and who answers.
pub(super) fn forget_udp(ipv6: bool, stale: impl Fn(SocketAddr, SocketAddr) -> bool) -> io::Result<usize> {
    let mut socket = Socket::open(Some(NETFILTER))?;
    let family = if ipv6 { 10 } else { 2 };
    let body = [family, 0, 0, 0];
    let mut found: Vec<Message> = Vec::new();
    socket.exchange(Message::new(GET, DUMP, &body), |_, entry| {
        let Some(attributes) = entry.get(body.len()..) else {
            return;
        };
        let of = |kind| attribute(attributes, kind);
        let (Some(original), Some(reply)) = (of(ORIGINAL), of(REPLY)) else {
            return;
        };
        let (Some(to), Some(from)) = (end(original, false), end(reply, true)) else {
            return;
        };
        if found.len() < MOST && stale(to, from) {
            let mut message = Message::new(DELETE, ACK, &body).attribute(ORIGINAL | NESTED, original);
            for kind in [ID, ZONE] {
                if let Some(value) = of(kind) {
                    message = message.attribute(kind, value);
                }
            }
            found.push(message);
        }
    })?;
    let count = found.len();
    for message in found {
        match socket.ask(message) {
            // It ended by itself meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            done => done?,
        }
    }
    Ok(count)
}

/// One end of a direction of a UDP entry: its source, or its destination.
fn end(tuple: &[u8], source: bool) -> Option<SocketAddr> {
    let (ips, protocol) = (attribute(tuple, TUPLE_IP)?, attribute(tuple, TUPLE_PROTOCOL)?);
    if attribute(protocol, 1)?.first() != Some(&UDP) {
        return None;
    }
    let (kinds, port): ([u16; 2], u16) = if source { ([1, 3], 2) } else { ([2, 4], 3) };
    let ip: IpAddr = kinds
        .iter()
        .find_map(|kind| attribute(ips, *kind))
        .and_then(netlink::address)?;
    let port = u16::from_be_bytes(*attribute(protocol, port)?.first_chunk()?);
    Some(SocketAddr::new(ip, port))
}
