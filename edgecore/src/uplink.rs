//! The link to the hub: dial, run one session, wait, dial again.
//!
//! ```text
//!   waiting --due--> dialling --welcomed--> live --ended--> waiting        (`pace` says how long)
//! ```
//!
//! The task here owns the wait and the dial; `live` owns one session. Nothing of the gateway waits for either. Without hubs or
//! without a node certificate there is no link and the gateway works alone; a certificate that appears later (`kurator join`) is
//! found at the next start.

mod cycles;
mod live;
mod mirror;
mod observed;
mod pace;
mod rotation;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use daemon::drain::Drain;
use link::pki::{PkiError, load_identity};
use link::{CloseCode, Connection, DialError, Dialer, Goodbye};
use metastore::api::ApiServer;
use metastore::store::Store;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::watch;

#[cfg(test)]
pub(crate) use mirror::Mirror;
pub(crate) use mirror::{is_mirrored, is_mirrored_into};
pub(crate) use rotation::NotBefore as RotationNotBefore;

use self::pace::{Ended, Pace};
use crate::metrics::Metrics;
use crate::stamps::Stamps;
use crate::twin::Twins;
use crate::works;

/// What the link is made of.
#[derive(Clone)]
pub(crate) struct Uplink {
    pub(crate) node: String,
    /// Addresses of the hub, tried together.
    pub(crate) hubs: Vec<String>,
    /// Folder of `hub-ca.crt`, `node.crt` and `node.key`.
    pub(crate) pki: PathBuf,
    pub(crate) report_cycle: Duration,
    pub(crate) store: Store,
    pub(crate) stamps: Stamps,
    pub(crate) twins: Twins,
    pub(crate) metrics: Arc<Metrics>,
    /// The local API once it is up; the hub's requests wait for it.
    pub(crate) api: watch::Receiver<Option<ApiServer>>,
    /// What this gateway is as a cluster.
    pub(crate) cluster: works::Report,
    /// When a new certificate may be asked for next.
    pub(crate) rotation: RotationNotBefore,
}

impl Uplink {
    /// Whether there is anything to link to.
    pub(crate) fn configured(&self) -> bool {
        !self.hubs.is_empty() && self.pki.join("node.crt").exists()
    }

    /// Runs until the drain begins.
    pub(crate) async fn run(self, drain: Drain) {
        let boot_id = fastrand::u64(1..);
        let mut pace = Pace::new();
        loop {
            let ended = tokio::select! {
                biased;
                () = drain.stopping() => return,
                dialled = self.dial() => match dialled {
                    Ok((dialer, connection)) => live::run(&self, boot_id, &dialer, connection, &drain).await,
                    Err(e) => {
                        tracing::info!(hubs = ?self.hubs, error = %e, "The hub is not reached.");
                        refused(&e)
                    }
                },
            };
            self.metrics.uplink_connected.set(0);
            if drain.is_stopping() {
                return;
            }
            let wait = pace.ended(&ended);
            tracing::info!(?ended, ?wait, "Dialling again after a wait.");
            tokio::select! {
                biased;
                () = drain.stopping() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Reads the identity anew each time, so that a new certificate is used from the next dial on.
    async fn dial(&self) -> Result<(Dialer, Connection), DialError> {
        let setup = |e: PkiError| DialError::Setup(e.to_string());
        let identity = load_identity(&self.pki).map_err(setup)?;
        let ca = CertificateDer::from_pem_slice(identity.ca_pem.as_bytes())
            .map_err(|_| DialError::Setup("hub-ca.crt holds no PEM certificate".to_owned()))?;
        let dialer = Dialer::link(ca, &identity.credential).map_err(setup)?;
        let connection = dialer.dial(&self.hubs).await?;
        Ok((dialer, connection))
    }
}

/// What a failed dial means for the next one.
fn refused(error: &DialError) -> Ended {
    match error {
        DialError::Refused(goodbye) => told(goodbye).unwrap_or(Ended::Unreachable),
        DialError::Tls { .. } | DialError::PinMismatch { .. } => Ended::NotAllowed { retry_after: None },
        _ => Ended::Unreachable,
    }
}

/// What the hub's parting word means for the next dial, if it says anything about it.
fn told(goodbye: &Goodbye) -> Option<Ended> {
    let retry_after = goodbye.retry_after;
    match goodbye.code {
        CloseCode::Busy => Some(Ended::Busy {
            retry_after: retry_after.unwrap_or(Duration::from_secs(1)),
        }),
        CloseCode::Fenced => Some(Ended::Fenced { retry_after }),
        CloseCode::Revoked | CloseCode::NotAllowed => Some(Ended::NotAllowed { retry_after }),
        _ => None,
    }
}
