//! Services through this process, where the kernel takes no rules: it listens at each Service's address and port and copies what is said.
//!
//! The same routes as the rules of the kernel are made of. What is different lies in the way: an endpoint sees this machine as its client,
//! connections end with the agent, SCTP is not spoken; and an endpoint that refuses a connection is passed over for the next.

mod datagrams;
mod streams;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use daemon::drain::Drain;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Semaphore, watch};

use super::cidr::Cidr;
use super::table::{Protocol, Route, Targets};

/// Connections and UDP clients at a time, over all Services.
const MOST: usize = 1024;

/// Where one listens.
type Place = (Protocol, SocketAddr);

/// What is done with those who come.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Door {
    ends: Vec<SocketAddr>,
    /// The same client gets the same endpoint.
    stays: bool,
    /// Who may come; empty: everybody.
    sources: Vec<Cidr>,
}

impl Door {
    fn lets_in(&self, ip: IpAddr) -> bool {
        self.sources.is_empty() || self.sources.iter().any(|range| range.contains(ip))
    }

    /// The endpoints in the order in which they are tried for a client.
    fn order(&self, client: IpAddr) -> Vec<SocketAddr> {
        let mut ends = self.ends.clone();
        if self.stays {
            // Each client has its own order, which does not change for it when another endpoint comes or goes.
            ends.sort_by_key(|end| crate::time::fingerprint(&(client, end)));
        } else {
            fastrand::shuffle(&mut ends);
        }
        ends
    }
}

/// All that is listened at.
pub(super) struct Proxies {
    drain: Drain,
    open: BTreeMap<Place, Open>,
    places: Arc<Semaphore>,
}

/// Dropped, nobody new is let in; who is inside stays.
struct Open {
    door: watch::Sender<Door>,
    listening: Drain,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.listening.stop();
    }
}

impl Proxies {
    pub(super) fn new(drain: Drain) -> Self {
        Self {
            drain,
            open: BTreeMap::new(),
            places: Arc::new(Semaphore::new(MOST)),
        }
    }

    /// Brings what is listened at in step with the routes of both families. What cannot be listened at is told, and the rest works.
    pub(super) async fn apply(&mut self, routes: &[Vec<Route>; 2]) -> Result<(), String> {
        let wanted = doors(routes);
        self.open.retain(|place, _| wanted.contains_key(place));
        let mut failed = Vec::new();
        for (place, door) in wanted {
            if let Some(open) = self.open.get(&place) {
                open.door.send_if_modified(|have| {
                    let other = *have != door;
                    *have = door;
                    other
                });
                continue;
            }
            match self.listen(place, door).await {
                Ok(open) => drop(self.open.insert(place, open)),
                Err(e) => failed.push(format!("{} {}: {e}", place.0.name(), place.1)),
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        Err(format!("Services cannot be listened for at {}", failed.join(", ")))
    }

    async fn listen(&self, (protocol, at): Place, door: Door) -> io::Result<Open> {
        let (send, door) = watch::channel(door);
        let listening = self.drain.child();
        let places = Arc::clone(&self.places);
        match protocol {
            Protocol::Tcp => {
                let listener = TcpListener::bind(at).await?;
                let serve = streams::serve(listener, door, places, listening.clone(), self.drain.clone());
                drop(self.drain.spawn(serve));
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind(at).await?;
                let serve = datagrams::serve(socket, door, places, listening.clone());
                drop(self.drain.spawn(serve));
            }
            Protocol::Sctp => return Err(io::ErrorKind::Unsupported.into()),
        }
        Ok(Open { door: send, listening })
    }
}

/// Where to listen for these routes. A Service without endpoints has no place: whoever comes is refused by the kernel.
fn doors(routes: &[Vec<Route>; 2]) -> BTreeMap<Place, Door> {
    let mut doors = BTreeMap::new();
    for (ipv6, routes) in [false, true].into_iter().zip(routes) {
        for route in routes {
            let mut add = |at: SocketAddr, targets: &Targets, sources: &[Cidr]| {
                if !targets.ends.is_empty() {
                    doors.entry((route.protocol, at)).or_insert_with(|| Door {
                        ends: targets.ends.clone(),
                        stays: route.affinity.is_some(),
                        sources: sources.to_vec(),
                    });
                }
            };
            for (ip, targets, sources) in route.fronts() {
                if !route.is_itself(ip, targets) {
                    add(SocketAddr::new(ip, route.port), targets, sources);
                }
            }
            if let Some(port) = route.node_port {
                let any: IpAddr = if ipv6 {
                    Ipv6Addr::UNSPECIFIED.into()
                } else {
                    Ipv4Addr::UNSPECIFIED.into()
                };
                add(SocketAddr::new(any, port), &route.to_outside, &[]);
            }
        }
    }
    doors
}
