//! Who is believed, and when "now" is.
//!
//! # The time rule
//!
//! A gateway may have no clock worth the name: after a power cut it says 1970 until NTP answers, and NTP may be behind the very
//! cable that is cut. It must still find its hub. So "now", for judging a certificate, is the latest of:
//!
//! 1. what the clock says,
//! 2. the date of this program's release ([`BUILD_FLOOR_SECS`]): nothing it meets can be older,
//! 3. the latest time this machine has proof of ([`TimeFloor`], kept by the caller over restarts),
//! 4. the beginning of the CA's and of the shown certificate's own validity. Our CA signs with its own clock and never ahead of
//!    it, so its signature under a certificate proves that the hub's time has come that far. This is believed only together with
//!    the signature: the chain is verified at that very moment, and a certificate of anyone else fails there.
//!
//! What the rule gives up: on a gateway whose clock stands in the past, the end of a certificate's life is noticed late. An attacker
//! would need the private key of a hub certificate that has run out, the network path, and a gateway without time that has met no
//! later certificate. What it keeps: a clock in the past never locks a gateway out. A clock in the *future* does, by making the
//! hub's certificate look ended; that is reported as what it is ([`Verdict::Ended`]), with both dates, and not worked around.
//!
//! The hub judges gateways by the same rule and its own clock, so that a hub that boots in 1970 takes its fleet back.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};

use crate::pki::{BUILD_FLOOR_SECS, Cert, HUB_SERVER_NAME, Pin};

/// What a gateway knows its hub by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The CA's certificate, after joining.
    Ca(CertificateDer<'static>),
    /// The pin in a join token: the hub shows its CA, and the CA's key must have this hash.
    Pin(Pin),
}

/// The latest time a machine has proof of, in seconds since 1970. It only rises; clones share it. The caller may keep it over
/// restarts.
#[derive(Clone, Debug, Default)]
pub struct TimeFloor(Arc<AtomicU64>);

impl TimeFloor {
    /// Starts at a remembered time (seconds since 1970; 0 when none is).
    pub fn new(secs: u64) -> Self {
        Self(Arc::new(AtomicU64::new(secs)))
    }

    /// Remembers that it is at least this late.
    pub fn raise(&self, secs: u64) {
        self.0.fetch_max(secs, Ordering::Relaxed);
    }

    /// Seconds since 1970.
    pub fn secs(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why a hub's certificate was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The hub's CA is another one.
    OtherCa { expected: Option<Pin>, seen: Option<Pin> },
    /// The certificate has run out by this machine's time (all in seconds since 1970).
    Ended { until: u64, now: u64 },
    /// Something else is wrong with it.
    Bad(String),
}

/// Verifies the hub's certificate: full path validation, uses, name and time, against one CA.
pub(crate) struct HubVerifier {
    trust: Trust,
    floor: TimeFloor,
    provider: Arc<CryptoProvider>,
    verdict: Mutex<Option<Verdict>>,
}

impl HubVerifier {
    pub(super) fn new(trust: Trust, floor: TimeFloor, provider: Arc<CryptoProvider>) -> Self {
        Self {
            trust,
            floor,
            provider,
            verdict: Mutex::new(None),
        }
    }

    /// Why the certificate was refused, once it was.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn refuse(&self, verdict: Verdict, error: CertificateError) -> Error {
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict);
        Error::InvalidCertificate(error)
    }

    /// The one CA certificate that counts.
    fn root(&self, shown: &[CertificateDer<'_>]) -> Result<CertificateDer<'static>, Verdict> {
        match &self.trust {
            Trust::Ca(ca) => Ok(ca.clone()),
            Trust::Pin(pin) => {
                let pins: Vec<_> = shown.iter().map(|c| Pin::of(c).ok()).collect();
                let at = pins.iter().position(|p| p.as_ref() == Some(pin));
                at.map(|at| shown[at].clone().into_owned())
                    .ok_or_else(|| Verdict::OtherCa {
                        expected: Some(*pin),
                        seen: pins.last().copied().flatten(),
                    })
            }
        }
    }
}

impl ServerCertVerifier for HubVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let root = self
            .root(intermediates)
            .map_err(|verdict| self.refuse(verdict, CertificateError::ApplicationVerificationFailure))?;
        let bad = |e: String| self.refuse(Verdict::Bad(e), CertificateError::BadEncoding);
        let ca = Cert::parse(&root).map_err(|e| bad(e.to_string()))?;
        let leaf = Cert::parse(end_entity).map_err(|e| bad(e.to_string()))?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone()).map_err(|e| bad(e.to_string()))?;
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|e| bad(e.to_string()))?;
        let now = effective_now(now.as_secs(), &self.floor, &[&ca, &leaf]);
        // Whatever was dialled, the peer must be the hub.
        let name = ServerName::try_from(HUB_SERVER_NAME).expect("a constant, valid DNS name");
        // The CA itself is the anchor and not part of the path.
        let between: Vec<_> = intermediates.iter().filter(|c| **c != root).cloned().collect();
        let verified = inner
            .verify_server_cert(end_entity, &between, &name, ocsp, unix(now))
            .inspect_err(|e| {
                let verdict = match e {
                    Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
                        Verdict::Ended {
                            until: leaf.not_after_ms / 1000,
                            now,
                        }
                    }
                    Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                        let seen = between.last().and_then(|c| Pin::of(c).ok());
                        Verdict::OtherCa {
                            expected: Some(ca.pin),
                            seen,
                        }
                    }
                    other => Verdict::Bad(other.to_string()),
                };
                *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict);
            })?;
        // Proven: our CA signed it, so it is at least this late.
        self.floor.raise(leaf.not_before_ms / 1000);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for HubVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubVerifier")
            .field("trust", &self.trust)
            .finish_non_exhaustive()
    }
}

/// Verifies gateways' certificates with webpki, at the time the time rule gives.
#[derive(Debug)]
pub(super) struct NodeVerifier(Arc<dyn ClientCertVerifier>);

impl NodeVerifier {
    pub(super) fn new(inner: Arc<dyn ClientCertVerifier>) -> Self {
        Self(inner)
    }
}

impl ClientCertVerifier for NodeVerifier {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let leaf = Cert::parse(end_entity).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        let now = effective_now(now.as_secs(), &TimeFloor::default(), &[&leaf]);
        self.0.verify_client_cert(end_entity, intermediates, unix(now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Shows one certificate to whoever asks.
#[derive(Debug)]
pub(super) struct Always(pub(super) Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The time rule above. All in seconds since 1970.
fn effective_now(clock: u64, floor: &TimeFloor, certs: &[&Cert]) -> u64 {
    certs
        .iter()
        .map(|c| c.not_before_ms / 1000)
        .fold(clock.max(BUILD_FLOOR_SECS).max(floor.secs()), u64::max)
}

fn unix(secs: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(secs))
}

#[cfg(test)]
mod tests;
