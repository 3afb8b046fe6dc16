//! The files that tell where the hub is: `hub.json` for programs that started it, `admin.kubeconfig` for its administrator. A full disk
//! is no reason not to serve; what it did not take is written when there is room.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use daemon::backoff::FullJitter;
use daemon::drain::Drain;
use link::pki::{HubCa, Kubeconfig, PkiError, write_atomic, write_kubeconfig};
use serde_json::json;

use super::{Addresses, dialable};

/// Waits until a full disk is tried again.
const ROOM_BASE: Duration = Duration::from_secs(1);
const ROOM_CAP: Duration = Duration::from_secs(30);

/// The files that tell programs of this machine where the hub is and let its administrator in.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) data_dir: PathBuf,
    pub(super) ca: Arc<HubCa>,
    pub(super) addresses: Addresses,
}

impl Files {
    /// Writes `admin.kubeconfig` when there is none for this address or two thirds of the life of its certificate are over; true then.
    pub(super) fn admin(&self, now: u64) -> Result<bool, PkiError> {
        let path = self.data_dir.join("admin.kubeconfig");
        let server = format!("https://{}", dialable(self.addresses.api));
        let stamp = self.data_dir.join("pki").join("admin.stamp");
        let fresh = std::fs::read_to_string(&stamp)
            .ok()
            .filter(|s| path.exists() && still_good(s, &server, now));
        if fresh.is_some() {
            return Ok(false);
        }
        let client = self.ca.issue_admin("kurator-admin", now)?;
        let ca_pem = self.ca.cert_pem();
        let kubeconfig = Kubeconfig {
            name: "kurator",
            server: &server,
            ca_pem: &ca_pem,
            client: &client,
        };
        write_kubeconfig(&path, &kubeconfig)?;
        write_atomic(&stamp, pki_stamp(&server, now).as_bytes(), 0o600)?;
        Ok(true)
    }

    /// Writes `hub.json`, where a program that started the hub finds it.
    pub(super) fn run_file(&self) -> Result<(), PkiError> {
        let at = self.addresses;
        let run = json!({
            "listen": dialable(at.listen).to_string(),
            "api": format!("https://{}", dialable(at.api)),
            "health": format!("http://{}", dialable(at.health)),
            "pid": std::process::id(),
        });
        write_atomic(&self.data_dir.join("hub.json"), run.to_string().as_bytes(), 0o644)
    }

    /// Both, as soon as the disk takes them.
    pub(super) async fn write_when_there_is_room(self, drain: Drain) {
        let mut pause = FullJitter::new(ROOM_BASE, ROOM_CAP);
        loop {
            tokio::select! {
                biased;
                () = drain.stopping() => return,
                () = tokio::time::sleep(pause.next_wait()) => {}
            }
            match self.admin(daemon::clock::wall_ms()).and_then(|_| self.run_file()) {
                Ok(()) => return,
                Err(e) if no_room(&e) => {}
                Err(e) => {
                    tracing::error!(error = %e, "What tells programs where the hub is could not be written.");
                    return;
                }
            }
        }
    }
}

/// Whether nothing but want of room was in the way.
pub(super) fn no_room(error: &PkiError) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error, PkiError::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
}

/// When, and for which address, the kubeconfig was made.
fn pki_stamp(server: &str, now: u64) -> String {
    format!("{now} {server}")
}

fn still_good(stamp: &str, server: &str, now: u64) -> bool {
    let Some((made, at)) = stamp.split_once(' ') else {
        return false;
    };
    let life = u64::try_from(link::pki::ADMIN_VALID.as_millis()).unwrap_or(u64::MAX);
    at == server
        && made
            .parse::<u64>()
            .is_ok_and(|made| now.saturating_sub(made) < life / 3 * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubeconfig_is_made_again_when_the_port_moved_or_it_grows_old() {
        let day = 24 * 3600 * 1000;
        let stamp = pki_stamp("https://127.0.0.1:8443", 1000);
        assert!(still_good(&stamp, "https://127.0.0.1:8443", 1000 + 100 * day));
        assert!(!still_good(&stamp, "https://127.0.0.1:9443", 1000));
        assert!(!still_good(&stamp, "https://127.0.0.1:8443", 1000 + 300 * day));
        assert!(!still_good("garbage", "https://127.0.0.1:8443", 0));
    }
}
