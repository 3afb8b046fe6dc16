//! One connection: its handshake, then its task until the end.
//!
//! `handshake` reads CONNECT and finds out who it is; `driver` is the one future that does the I/O of an established
//! connection. This file joins them and sees to it that the core hears of the end, also after a panic.

mod driver;
mod handshake;

use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::{
    broker::Handshake,
    core::{Departure, Handle},
    hooks::ClientInfo,
    hub::Hub,
};

/// Serves one connection from its first byte to its last.
pub(crate) async fn serve<S>(
    hub: Arc<Hub>,
    mut stream: S,
    peer: SocketAddr,
    handshake: Handshake,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let established = tokio::select! {
        biased;
        () = handshake.cancelled.cancelled() => return,
        established = handshake::run(&hub, &mut stream, peer) => established,
    };
    drop(handshake);
    match established {
        Ok(established) => {
            // A CONNECT that ran past the stop is not in the list of those told to end.
            if stop.is_cancelled() {
                established.link.kick(crate::link::Kick::Shutdown);
            }
            driver::run(hub, stream, established).await;
        }
        Err(error) => {
            hub.counters.failed_handshakes.one();
            tracing::debug!(%peer, %error, "MQTT connection refused");
        }
    }
}

/// A client that is connected as far as the core is concerned. Dropping it is the end of the connection.
#[derive(Debug)]
struct Presence {
    hub: Arc<Hub>,
    handle: Handle,
    client: Arc<ClientInfo>,
    how: Departure,
    /// The connect hook was called, so the disconnect hook has to be.
    announced: bool,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let (handle, how) = (self.handle, self.how);
        drop(self.hub.step(|core, now, fx| core.disconnect(now, handle, how, fx)));
        if !self.announced {
            return;
        }
        // This may run while a panic unwinds; a second one would end the process.
        let told = catch_unwind(AssertUnwindSafe(|| self.hub.local.on_disconnect(&self.client)));
        if told.is_err() {
            tracing::error!(client = %self.client.client_id, "the disconnect hook panicked");
        }
    }
}
