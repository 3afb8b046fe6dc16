//! TCP: each connection is a pair, copied both ways until both sides have said all they had to say.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use daemon::drain::Drain;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::Door;

/// An endpoint is on this machine or near it.
const CONNECT: Duration = Duration::from_secs(3);
/// Bytes under way in each direction.
const BUFFER: usize = 8 * 1024;
/// After a failed accept.
const REST: Duration = Duration::from_millis(50);

/// Lets in until `listening` ends; who is inside stays until `drain` begins.
pub(super) async fn serve(
    listener: TcpListener,
    door: watch::Receiver<Door>,
    places: Arc<Semaphore>,
    listening: Drain,
    drain: Drain,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = listening.stopping() => return,
            accepted = accept(&listener, &places) => accepted,
        };
        let (client, from, place) = match accepted {
            Ok(Some(accepted)) => accepted,
            Ok(None) => return,
            Err(e) => {
                tracing::debug!(error = %e, "A connection could not be accepted.");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let door = door.borrow().clone();
        if !door.lets_in(from.ip()) {
            continue;
        }
        let ending = drain.clone();
        drop(drain.spawn(async move {
            let _place = place;
            tokio::select! {
                biased;
                () = ending.stopping() => {}
                () = copy(client, &door, from) => {}
            }
        }));
    }
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> std::io::Result<Option<Accepted>> {
    // Who finds no place waits in the kernel's queue.
    let Ok(place) = Arc::clone(places).acquire_owned().await else {
        return Ok(None);
    };
    let (stream, from) = listener.accept().await?;
    Ok(Some((stream, from, place)))
}

async fn copy(mut client: TcpStream, door: &Door, from: SocketAddr) {
    for end in door.order(from.ip()) {
        let Ok(Ok(mut endpoint)) = timeout(CONNECT, TcpStream::connect(end)).await else {
            continue;
        };
        for stream in [&client, &endpoint] {
            if let Err(e) = stream.set_nodelay(true) {
                tracing::debug!(error = %e, "A connection could not be set up.");
            }
        }
        let copied = copy_bidirectional_with_sizes(&mut client, &mut endpoint, BUFFER, BUFFER).await;
        if let Err(e) = copied {
            tracing::debug!(error = %e, %end, "A connection to a Service broke.");
        }
        return;
    }
    tracing::debug!(%from, "No endpoint takes a connection.");
}
