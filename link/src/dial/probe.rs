//! Does UDP get through to the hub? Asked with one packet and answered without a trace at the hub.
//!
//! A QUIC server must answer a large packet of a version it does not speak with the list of those it does (RFC 9000, 6.1), keeping no
//! state. So a packet of 1,200 bytes with a version reserved for such purposes shows that full packets reach the hub and its answers
//! reach us, at the cost of two packets. The answer is no proof of identity: the dial that follows makes that sure.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

/// The least size that a server must answer, and what every QUIC path must carry.
const SIZE: usize = 1200;
/// A version of the form 0x?a?a?a?a is never spoken.
const RESERVED: u32 = 0x4a5a_6a7a;
const ID: usize = 8;
/// For one answer, and how often to ask: a single lost packet decides nothing.
const WAIT: Duration = Duration::from_secs(1);
const ASKS: usize = 2;

/// Whether a QUIC server answers at `addr`.
pub(super) async fn probe(addr: SocketAddr) -> io::Result<bool> {
    let any: SocketAddr = if addr.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(addr).await?;
    let (question, destination, source) = question();
    let mut answer = [0; SIZE];
    for _ in 0..ASKS {
        socket.send(&question).await?;
        match timeout(WAIT, socket.recv(&mut answer)).await {
            Ok(Ok(n)) if is_answer(&answer[..n], &destination, &source) => return Ok(true),
            // Something else came: a closed port, or noise.
            Ok(_) => return Ok(false),
            Err(_) => {}
        }
    }
    Ok(false)
}

fn question() -> (Vec<u8>, [u8; ID], [u8; ID]) {
    let destination = fastrand::u64(..).to_be_bytes();
    let source = fastrand::u64(..).to_be_bytes();
    let mut packet = Vec::with_capacity(SIZE);
    packet.push(0xc0 | fastrand::u8(..0x40));
    packet.extend(RESERVED.to_be_bytes());
    for id in [&destination, &source] {
        packet.push(8);
        packet.extend(id);
    }
    packet.resize_with(SIZE, || fastrand::u8(..));
    (packet, destination, source)
}

/// A version negotiation packet that answers this question: version zero, and the ids the other way round.
fn is_answer(packet: &[u8], destination: &[u8; ID], source: &[u8; ID]) -> bool {
    let expected = [&[0, 0, 0, 0, 8], &source[..], &[8], &destination[..]].concat();
    packet.first().is_some_and(|b| b & 0x80 != 0) && packet[1..].starts_with(&expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_this_question_counts() {
        let (packet, destination, source) = question();
        assert_eq!(packet.len(), SIZE);
        let answer =
            |d: &[u8; ID], s: &[u8; ID]| [&[0xff, 0, 0, 0, 0, 8], &d[..], &[8], &s[..], &[0, 0, 0, 1]].concat();
        assert!(is_answer(&answer(&source, &destination), &destination, &source));
        assert!(!is_answer(&answer(&destination, &source), &destination, &source));
        assert!(!is_answer(&packet, &destination, &source));
        assert!(!is_answer(&[], &destination, &source));
    }
}
