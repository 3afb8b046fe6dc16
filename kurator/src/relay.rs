//! A relay for UDP and TCP on one port number, standing between gateway and hub: the cable that the demo cuts and the tests abuse.
//!
//! It can pass, delay, lose, cut (nothing passes, TCP connections are reset), go silent (nothing passes, nobody is told: a half-open
//! link) and block UDP alone. It never looks into what it carries.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use daemon::drain::Drain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

/// Datagrams larger than this do not occur: QUIC stays below the path's MTU, loopback's included.
const MAX_DATAGRAM: usize = 65_535;
/// UDP flows kept at a time; a gateway has one.
const MAX_FLOWS: usize = 4_096;
/// How often a port number free for both UDP and TCP is looked for.
const BIND_TRIES: usize = 50;

/// What the relay does with what it is given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weather {
    /// Nothing passes and TCP connections are reset: the cable is out.
    pub cut: bool,
    /// Nothing passes and nobody is told: a half-open link.
    pub silent: bool,
    /// UDP does not pass: a firewall that knows only TCP.
    pub no_udp: bool,
    /// Added one-way latency.
    pub delay: Duration,
    /// Share of datagrams lost, 0.0 to 1.0 (TCP's bytes are never lost, only late).
    pub loss: f64,
}

impl Weather {
    /// Everything passes at once.
    pub const FAIR: Self = Self {
        cut: false,
        silent: false,
        no_udp: false,
        delay: Duration::ZERO,
        loss: 0.0,
    };
    /// The cable is out.
    pub const CUT: Self = Self {
        cut: true,
        ..Self::FAIR
    };
    /// The link is half-open.
    pub const SILENT: Self = Self {
        silent: true,
        ..Self::FAIR
    };
    /// Only TCP passes.
    pub const NO_UDP: Self = Self {
        no_udp: true,
        ..Self::FAIR
    };

    fn stops_udp(&self) -> bool {
        self.cut || self.silent || self.no_udp || (self.loss > 0.0 && fastrand::f64() < self.loss)
    }
}

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Bytes of payload from gateway to hub.
    pub up: AtomicU64,
    /// Bytes of payload from hub to gateway.
    pub down: AtomicU64,
    /// Datagrams and TCP reads carried, both directions.
    pub packets: AtomicU64,
}

/// A running relay; dropping it stops it.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    upstream: watch::Sender<Option<SocketAddr>>,
    traffic: Arc<Traffic>,
    drain: Drain,
}

impl Relay {
    /// Binds a loopback port number that is free for both UDP and TCP; nothing passes before [`Relay::lead_to`].
    ///
    /// # Errors
    /// When no such port is found.
    pub async fn start() -> std::io::Result<Self> {
        let mut tries = 0;
        let (tcp, udp) = loop {
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            match UdpSocket::bind(tcp.local_addr()?).await {
                Ok(udp) => break (tcp, udp),
                Err(e) if tries >= BIND_TRIES => return Err(e),
                Err(_) => tries += 1,
            }
        };
        let address = tcp.local_addr()?;
        let (weather, weather_seen) = watch::channel(Weather::FAIR);
        let (upstream, upstream_seen) = watch::channel(None);
        let (traffic, drain) = (Arc::new(Traffic::default()), Drain::new());
        let shared = Shared {
            weather: weather_seen,
            upstream: upstream_seen,
            traffic: Arc::clone(&traffic),
            drain: drain.clone(),
        };
        drop(drain.spawn(shared.clone().carry_udp(Arc::new(udp))));
        drop(drain.spawn(shared.carry_tcp(tcp)));
        Ok(Self {
            address,
            weather,
            upstream,
            traffic,
            drain,
        })
    }

    /// Where gateways connect to.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the hub listens.
    pub fn lead_to(&self, hub: SocketAddr) {
        self.upstream.send_replace(Some(hub));
    }

    /// Changes the weather at once, for running connections too.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// What was carried so far.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.drain.stop();
    }
}

#[derive(Clone)]
struct Shared {
    weather: watch::Receiver<Weather>,
    upstream: watch::Receiver<Option<SocketAddr>>,
    traffic: Arc<Traffic>,
    drain: Drain,
}

impl Shared {
    fn count(&self, counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
        self.traffic.packets.fetch_add(1, Ordering::Relaxed);
    }

    async fn carry_udp(self, face: Arc<UdpSocket>) {
        let mut flows: HashMap<SocketAddr, (SocketAddr, Arc<UdpSocket>)> = HashMap::new();
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let received = tokio::select! {
                biased;
                () = self.drain.stopping() => return,
                received = face.recv_from(&mut buffer) => received,
            };
            // ICMP errors of earlier sends surface here: they say nothing about the next datagram.
            let Ok((length, client)) = received else { continue };
            let (weather, hub) = (*self.weather.borrow(), *self.upstream.borrow());
            let Some(hub) = hub else { continue };
            if weather.stops_udp() {
                continue;
            }
            let known = flows
                .get(&client)
                .filter(|(to, _)| *to == hub)
                .map(|(_, socket)| Arc::clone(socket));
            let socket = match known {
                Some(socket) => socket,
                None => {
                    let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else {
                        continue;
                    };
                    if socket.connect(hub).await.is_err() {
                        continue;
                    }
                    let socket = Arc::new(socket);
                    if flows.len() >= MAX_FLOWS {
                        flows.clear();
                    }
                    flows.insert(client, (hub, Arc::clone(&socket)));
                    drop(
                        self.drain.spawn(
                            self.clone()
                                .carry_answers(Arc::clone(&socket), Arc::clone(&face), client),
                        ),
                    );
                    socket
                }
            };
            self.count(&self.traffic.up, length);
            forward(&socket, None, &buffer[..length], weather.delay).await;
        }
    }

    async fn carry_answers(self, socket: Arc<UdpSocket>, face: Arc<UdpSocket>, client: SocketAddr) {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let received = tokio::select! {
                biased;
                () = self.drain.stopping() => return,
                received = socket.recv(&mut buffer) => received,
            };
            // An error says that the hub is down (port unreachable): the flow lives on for when it is back.
            let Ok(length) = received else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            let weather = *self.weather.borrow();
            if weather.stops_udp() {
                continue;
            }
            self.count(&self.traffic.down, length);
            forward(&face, Some(client), &buffer[..length], weather.delay).await;
        }
    }

    async fn carry_tcp(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.drain.stopping() => return,
                accepted = listener.accept() => accepted,
            };
            let (Ok((near, _)), Some(hub)) = (accepted, *self.upstream.borrow()) else {
                continue;
            };
            if self.weather.borrow().cut {
                continue;
            }
            let shared = self.clone();
            drop(self.drain.spawn(async move {
                let Ok(far) = TcpStream::connect(hub).await else { return };
                if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
                    return;
                }
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                let mut weather = shared.weather.clone();
                tokio::select! {
                    biased;
                    () = shared.drain.stopping() => {}
                    _ = weather.wait_for(|w| w.cut) => {}
                    () = async {
                        tokio::join!(
                            shared.pump(near_read, far_write, &shared.traffic.up),
                            shared.pump(far_read, near_write, &shared.traffic.down),
                        );
                    } => {}
                }
            }));
        }
    }

    /// Carries one direction until its end; waits while the link is silent, as a router that lost its route would.
    async fn pump(
        &self,
        mut from: tokio::net::tcp::OwnedReadHalf,
        mut to: tokio::net::tcp::OwnedWriteHalf,
        counter: &AtomicU64,
    ) {
        let mut buffer = vec![0; 16 * 1024];
        let mut weather = self.weather.clone();
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            if weather.wait_for(|w| !w.silent).await.is_err() {
                return;
            }
            let delay = weather.borrow().delay;
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            self.count(counter, length);
            if to.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
        // The other side learns of the end of this direction; an error says that it is gone already.
        drop(to.shutdown().await);
    }
}

/// Sends now, or later in a task of its own; a datagram that cannot be sent is a datagram lost.
async fn forward(socket: &Arc<UdpSocket>, to: Option<SocketAddr>, data: &[u8], delay: Duration) {
    async fn send(socket: &UdpSocket, to: Option<SocketAddr>, data: &[u8]) {
        drop(match to {
            Some(to) => socket.send_to(data, to).await,
            None => socket.send(data).await,
        });
    }
    if delay.is_zero() {
        send(socket, to, data).await;
        return;
    }
    let (socket, data) = (Arc::clone(socket), data.to_vec());
    drop(tokio::spawn(async move {
        tokio::time::sleep(delay).await;
        send(&socket, to, &data).await;
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn udp_echo() -> SocketAddr {
        let s = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let a = s.local_addr().unwrap();
        drop(tokio::spawn(async move {
            let mut b = [0; 2048];
            while let Ok((n, from)) = s.recv_from(&mut b).await {
                s.send_to(&b[..n], from).await.unwrap();
            }
        }));
        a
    }

    async fn asks(relay: &Relay, text: &[u8]) -> Option<Vec<u8>> {
        let s = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        s.send_to(text, relay.address()).await.unwrap();
        let mut b = [0; 2048];
        let got = tokio::time::timeout(Duration::from_millis(300), s.recv(&mut b))
            .await
            .ok()?
            .unwrap();
        Some(b[..got].to_vec())
    }

    #[tokio::test]
    async fn datagrams_pass_in_fair_weather_only() {
        let relay = Relay::start().await.unwrap();
        relay.lead_to(udp_echo().await);
        assert_eq!(asks(&relay, b"one").await.unwrap(), b"one");
        for w in [
            Weather::CUT,
            Weather::SILENT,
            Weather::NO_UDP,
            Weather {
                loss: 1.0,
                ..Weather::FAIR
            },
        ] {
            relay.set(w);
            assert_eq!(asks(&relay, b"two").await, None, "{w:?}");
        }
        relay.set(Weather {
            delay: Duration::from_millis(30),
            ..Weather::FAIR
        });
        assert_eq!(asks(&relay, b"three").await.unwrap(), b"three");
        assert_eq!(relay.traffic().up.load(Ordering::Relaxed), 8);
    }

    #[tokio::test]
    async fn a_cut_ends_tcp_and_silence_only_holds_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay::start().await.unwrap();
        relay.lead_to(listener.local_addr().unwrap());
        drop(tokio::spawn(async move {
            while let Ok((mut s, _)) = listener.accept().await {
                drop(tokio::spawn(async move {
                    let (mut r, mut w) = s.split();
                    drop(tokio::io::copy(&mut r, &mut w).await);
                }));
            }
        }));
        let mut s = TcpStream::connect(relay.address()).await.unwrap();
        let mut b = [0; 2];
        s.write_all(b"ab").await.unwrap();
        s.read_exact(&mut b).await.unwrap();
        relay.set(Weather::SILENT);
        s.write_all(b"cd").await.unwrap();
        assert!(
            tokio::time::timeout(Duration::from_millis(150), s.read_exact(&mut b))
                .await
                .is_err()
        );
        relay.set(Weather::FAIR);
        s.read_exact(&mut b).await.unwrap();
        assert_eq!(&b, b"cd");
        relay.set(Weather::CUT);
        let ended = tokio::time::timeout(Duration::from_secs(5), s.read(&mut b))
            .await
            .expect("told in time");
        assert!(matches!(ended, Ok(0) | Err(_)));
    }
}
