//! The node certificate's renewal over the link, at two thirds of its life. A new key each time; the old pair serves until the new
//! one is on disk, whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use daemon::clock::{since_start, wall_ms};
use link::pki::{Cert, Credential, NodeKey, PkiError, install_identity};

/// Waits longer than this are taken in pieces: the wall clock may be put right meanwhile.
const PIECE: Duration = Duration::from_secs(6 * 3600);
/// Between two requests, whatever became of the first and in whichever session it was made (a sixth of its life for a certificate that
/// does not live long). A gateway whose clock is weeks ahead, or whose disk is full, would otherwise ask without end.
const AGAIN: Duration = Duration::from_secs(3600);

/// Since the start of the process, in milliseconds: when the next request may be made. Outlives the sessions.
#[derive(Clone, Debug, Default)]
pub(crate) struct NotBefore(Arc<AtomicU64>);

impl NotBefore {
    fn wait(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed)).saturating_sub(since_start())
    }

    fn asked(&self, again: Duration) {
        let next = (since_start() + again).as_millis();
        self.0.store(u64::try_from(next).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// When to ask, and the key that was asked for.
#[derive(Debug)]
pub(super) struct Rotations {
    pki: PathBuf,
    /// Milliseconds since 1970 from which on a new certificate is wanted; `None` when the present one cannot be read.
    from_ms: Option<u64>,
    /// The key of the request under way.
    key: Option<NodeKey>,
    not_before: NotBefore,
    again: Duration,
}

impl Rotations {
    /// For the certificate in `pki`.
    pub(super) fn new(pki: &Path, not_before: NotBefore) -> Self {
        let cert = std::fs::read_to_string(pki.join("node.crt"))
            .ok()
            .and_then(|pem| Cert::parse_pem(&pem).ok());
        let from_ms = cert
            .as_ref()
            .map(|cert| two_thirds(cert.not_before_ms, cert.not_after_ms));
        let life = cert.map_or(0, |cert| cert.not_after_ms.saturating_sub(cert.not_before_ms));
        Self {
            pki: pki.to_path_buf(),
            from_ms,
            key: None,
            not_before,
            again: AGAIN.min(Duration::from_millis(life / 6)),
        }
    }

    /// How long to wait before [`Self::request`] is worth a call.
    pub(super) fn due(&self) -> Option<Duration> {
        let wait = Duration::from_millis(self.from_ms?.saturating_sub(wall_ms()));
        Some(wait.min(PIECE).max(self.not_before.wait()))
    }

    /// A request for a new certificate, when it is time.
    pub(super) fn request(&mut self) -> Option<Vec<u8>> {
        if self.from_ms? > wall_ms() || !self.not_before.wait().is_zero() {
            return None;
        }
        self.not_before.asked(self.again);
        let made = NodeKey::generate().and_then(|key| Ok((key.request()?, key)));
        match made {
            Ok((request, key)) => {
                self.key = Some(key);
                Some(request)
            }
            Err(e) => {
                tracing::error!(error = %e, "A key for a new certificate cannot be made.");
                None
            }
        }
    }

    /// The hub's answer: checked, then installed together with its key.
    ///
    /// # Errors
    /// When it is not the certificate of the key, or the files cannot be written.
    pub(super) fn issued(&mut self, chain: &[Bytes]) -> Result<(), PkiError> {
        let key = self
            .key
            .take()
            .ok_or(PkiError::Parse("a certificate that was not asked for"))?;
        let pair = Credential::from_der(chain, &key);
        let cert = Cert::parse_pem(&pair.chain_pem)?;
        install_identity(&self.pki, &pair, None)?;
        self.from_ms = Some(two_thirds(cert.not_before_ms, cert.not_after_ms));
        tracing::info!(serial = %cert.serial, "The node certificate was renewed.");
        Ok(())
    }
}

const fn two_thirds(from: u64, until: u64) -> u64 {
    from + until.saturating_sub(from) / 3 * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_for_at_two_thirds_of_its_life() {
        assert_eq!(two_thirds(1000, 4000), 3000);
        assert_eq!(two_thirds(4000, 1000), 4000);
    }

    #[test]
    fn nothing_is_wanted_without_a_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let mut rotations = Rotations::new(dir.path(), NotBefore::default());
        assert_eq!(rotations.due(), None);
        assert!(rotations.request().is_none());
        assert!(rotations.issued(&[]).is_err());
    }
}
