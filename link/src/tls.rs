//! TLS configurations of both ends: version 1.3 only, the provider of `daemon::tls`, no resumption, no early data.
//!
//! Resumption is off on purpose: a resumed handshake skips the certificates, and with them expiry and revocation; the hub would
//! also have to remember every gateway's ticket.

mod verify;

use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub(crate) use verify::{HubVerifier, Verdict};
pub use verify::{TimeFloor, Trust};

use crate::pki::{Credential, PkiError};

/// Enrolment: the hub shows its certificate, the gateway has none yet.
pub(crate) const ALPN_JOIN: &[u8] = b"kurator-join/1";
/// The link: both sides show a certificate.
pub(crate) const ALPN_LINK: &[u8] = b"kurator-link/1";

/// The provider, with the cheap cipher first where there are no AES instructions to be expected.
fn provider() -> Arc<CryptoProvider> {
    let provider = daemon::tls::provider();
    if cfg!(not(target_arch = "arm")) {
        return provider;
    }
    let mut provider = CryptoProvider::clone(&provider);
    provider
        .cipher_suites
        .sort_by_key(|s| s.suite() != rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    Arc::new(provider)
}

fn make(e: rustls::Error) -> PkiError {
    PkiError::Make(e.to_string())
}

/// A chain with its key, loaded.
pub(crate) fn certified(credential: &Credential) -> Result<Arc<CertifiedKey>, PkiError> {
    let key = provider()
        .key_provider
        .load_private_key(credential.key()?)
        .map_err(make)?;
    let certified = CertifiedKey::new(credential.chain()?, key);
    certified.keys_match().map_err(make)?;
    Ok(Arc::new(certified))
}

/// The hub's certificate as the handshake takes it; replaced while connections go on.
#[derive(Debug)]
pub(crate) struct ServerCerts(RwLock<Arc<CertifiedKey>>);

impl ServerCerts {
    pub(crate) fn new(key: Arc<CertifiedKey>) -> Self {
        Self(RwLock::new(key))
    }

    pub(crate) fn replace(&self, key: Arc<CertifiedKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = key;
    }
}

impl ResolvesServerCert for ServerCerts {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// The hub's side, for both protocols: a client certificate is asked for and, when shown, verified against the hub's CA in the
/// handshake. Whether one is needed depends on the protocol and is decided right after, before a byte of the peer is read.
pub(crate) fn server_config(certs: Arc<ServerCerts>, ca: &CertificateDer<'static>) -> Result<ServerConfig, PkiError> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(make)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .clear_root_hint_subjects()
        .allow_unauthenticated()
        .build()
        .map_err(|e| PkiError::Make(e.to_string()))?;
    let verifier = verify::NodeVerifier::new(verifier);
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(make)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(certs);
    config.alpn_protocols = vec![ALPN_LINK.to_vec(), ALPN_JOIN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The gateway's side. `identity` is what it shows; `None` only for enrolment. The verifier comes back too, because it alone
/// remembers why a certificate was refused in a form that is not text.
pub(crate) fn client_config(
    alpn: &[u8],
    trust: &Trust,
    floor: &TimeFloor,
    identity: Option<Arc<CertifiedKey>>,
) -> Result<(ClientConfig, Arc<HubVerifier>), PkiError> {
    let verifier = Arc::new(HubVerifier::new(trust.clone(), floor.clone(), provider()));
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(make)?
        .dangerous() // the verifier below does everything the usual one does, and pins
        .with_custom_certificate_verifier(Arc::clone(&verifier) as _);
    let mut config = match identity {
        Some(key) => builder.with_client_cert_resolver(Arc::new(verify::Always(key))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok((config, verifier))
}
