//! UDP: each client has a socket of its own towards one endpoint, for as long as something is said now and then.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use daemon::drain::Drain;
use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::timeout;

use super::Door;

/// A client that has said and heard nothing for so long is forgotten.
const IDLE: Duration = Duration::from_secs(60);
/// Largest datagram.
const DATAGRAM: usize = 64 * 1024;
/// Ends of conversations that wait to be noticed.
const ENDS: usize = 64;
/// After a failed receive.
const REST: Duration = Duration::from_millis(50);

/// A client's way.
struct Session {
    socket: Arc<UdpSocket>,
    end: SocketAddr,
    /// Which session of this client it is.
    number: u64,
}

/// Passes datagrams on until `listening` ends.
pub(super) async fn serve(socket: UdpSocket, door: watch::Receiver<Door>, places: Arc<Semaphore>, listening: Drain) {
    let socket = Arc::new(socket);
    let (ended, mut ends) = mpsc::channel::<(SocketAddr, u64)>(ENDS);
    let mut sessions: HashMap<SocketAddr, Session> = HashMap::new();
    let mut number = 0;
    loop {
        let ready = tokio::select! {
            biased;
            () = listening.stopping() => return,
            Some((client, number)) = ends.recv() => {
                if sessions.get(&client).is_some_and(|s| s.number == number) {
                    sessions.remove(&client);
                }
                continue;
            }
            ready = socket.readable() => ready,
        };
        // Only while there is something to be read.
        let mut buffer = vec![0; DATAGRAM];
        let (len, client) = match ready.and_then(|()| socket.try_recv_from(&mut buffer)) {
            Ok(received) => received,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) => {
                tracing::debug!(error = %e, "A datagram could not be received.");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let data = buffer.get(..len).unwrap_or_default();
        let door = door.borrow().clone();
        if !door.lets_in(client.ip()) {
            continue;
        }
        let there = sessions.get(&client).filter(|s| door.ends.contains(&s.end));
        let way = match there {
            Some(session) => Arc::clone(&session.socket),
            None => {
                // Whoever finds no place is not heard: it is UDP.
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    continue;
                };
                number += 1;
                let Some((way, end)) = open(&door, client).await else {
                    continue;
                };
                let session = Session {
                    socket: Arc::clone(&way),
                    end,
                    number,
                };
                sessions.insert(client, session);
                let back = answer(Arc::clone(&socket), Arc::clone(&way), client, place);
                let (ended, ending) = (ended.clone(), listening.clone());
                drop(listening.spawn(async move {
                    tokio::select! {
                        biased;
                        () = ending.stopping() => return,
                        () = back => {}
                    }
                    if ended.send((client, number)).await.is_err() {
                        tracing::trace!(%client, "The place was closed before its client went.");
                    }
                }));
                way
            }
        };
        if let Err(e) = way.try_send(data) {
            tracing::debug!(error = %e, "A datagram could not be passed on.");
        }
    }
}

async fn open(door: &Door, client: SocketAddr) -> Option<(Arc<UdpSocket>, SocketAddr)> {
    let end = *door.order(client.ip()).first()?;
    let any: IpAddr = if end.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let opened: io::Result<UdpSocket> = async {
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(end).await?;
        // So that the first datagram can be sent at once.
        socket.writable().await?;
        Ok(socket)
    }
    .await;
    match opened {
        Ok(socket) => Some((Arc::new(socket), end)),
        Err(e) => {
            tracing::debug!(error = %e, %end, "An endpoint cannot be spoken to.");
            None
        }
    }
}

/// Brings back what the endpoint says, until nothing is said any more.
async fn answer(front: Arc<UdpSocket>, way: Arc<UdpSocket>, client: SocketAddr, place: OwnedSemaphorePermit) {
    let _place = place;
    loop {
        let Ok(Ok(())) = timeout(IDLE, way.readable()).await else {
            return;
        };
        let mut buffer = vec![0; DATAGRAM];
        let len = match way.try_recv(&mut buffer) {
            Ok(len) => len,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            // Nobody listens there any more.
            Err(_) => return,
        };
        let data = buffer.get(..len).unwrap_or_default();
        if let Err(e) = front.send_to(data, client).await {
            tracing::debug!(error = %e, %client, "An answer could not be passed on.");
            return;
        }
    }
}
