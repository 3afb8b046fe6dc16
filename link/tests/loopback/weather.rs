//! A path that loses, repeats and reorders what it carries.

use std::net::SocketAddr;
use std::time::Duration;

use link::{StreamKind, Transports};
use ring::digest::{Context, SHA256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use crate::harness::{Hub, LOCAL, soon};

const BYTES: usize = 20_000_000;
/// The window of a lossy path is small: this takes a while, and longer on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// One direction.
struct Weather {
    random: fastrand::Rng,
    held: Option<Vec<u8>>,
}

impl Weather {
    fn new(seed: u64) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            held: None,
        }
    }

    /// What comes out when `packet` goes in.
    fn next(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let packet = packet.to_vec();
        match self.random.u8(0..100) {
            0..2 => Vec::new(),
            2..4 => vec![packet.clone(), packet],
            // Overtaken by the one that comes next.
            4..10 => self.held.replace(packet).into_iter().collect(),
            _ => std::iter::once(packet).chain(self.held.take()).collect(),
        }
    }
}

/// The address of a path to `hub` for one gateway.
async fn path(hub: SocketAddr, tasks: &mut JoinSet<()>) -> SocketAddr {
    let (front, back) = (
        UdpSocket::bind(LOCAL).await.unwrap(),
        UdpSocket::bind(LOCAL).await.unwrap(),
    );
    back.connect(hub).await.unwrap();
    let addr = front.local_addr().unwrap();
    tasks.spawn(async move {
        let (mut up, mut down) = (Weather::new(1), Weather::new(2));
        let (mut a, mut b) = (vec![0; 65_536], vec![0; 65_536]);
        let mut gateway = None;
        loop {
            tokio::select! {
                Ok((n, from)) = front.recv_from(&mut a) => {
                    gateway = Some(from);
                    for packet in up.next(&a[..n]) {
                        back.send(&packet).await.unwrap();
                    }
                }
                Ok(n) = back.recv(&mut b) => {
                    let gateway = gateway.expect("it spoke first");
                    for packet in down.next(&b[..n]) {
                        front.send_to(&packet, gateway).await.unwrap();
                    }
                }
            }
        }
    });
    addr
}

/// Sends and receives at the same time; the checksums of both.
async fn exchange(stream: link::Stream, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = async {
        let (mut random, mut sum, mut left) = (fastrand::Rng::with_seed(seed), Context::new(&SHA256), BYTES);
        while left > 0 {
            let mut chunk = vec![0; random.usize(1..60_000).min(left)];
            random.fill(&mut chunk);
            sum.update(&chunk);
            write.write_all(&chunk).await.unwrap();
            left -= chunk.len();
        }
        write.shutdown().await.unwrap();
        sum.finish().as_ref().to_vec()
    };
    let receiving = async {
        let (mut sum, mut got, mut chunk) = (Context::new(&SHA256), 0, vec![0; 30_000]);
        loop {
            let n = read.read(&mut chunk).await.unwrap();
            if n == 0 {
                break;
            }
            got += n;
            sum.update(&chunk[..n]);
        }
        assert_eq!(got, BYTES);
        sum.finish().as_ref().to_vec()
    };
    tokio::join!(sending, receiving)
}

#[tokio::test]
async fn a_path_that_loses_repeats_and_reorders_carries_all_bytes_both_ways() {
    let hub = Hub::new();
    let mut tasks = JoinSet::new();
    let addrs = vec![path(hub.addr(), &mut tasks).await.to_string()];
    let dialer = hub.dialer("gw-1").transports(Transports::QuicOnly);
    let (edge, server) = hub.pair(&dialer, &addrs).await;
    let opened = edge.open(StreamKind::Http).await.unwrap();
    let mut accepted = soon(server.accept_bi()).await.unwrap();
    accepted.read_kind().await.unwrap();
    let both = async { tokio::join!(exchange(opened, 3), exchange(accepted, 4)) };
    let (at_edge, at_hub) = tokio::time::timeout(PATIENCE, both).await.expect("it stalls");
    assert!(
        at_edge.0 == at_hub.1 && at_hub.0 == at_edge.1,
        "other bytes arrived than were sent"
    );
    assert_eq!((edge.close_reason(), server.close_reason()), (None, None));
}
