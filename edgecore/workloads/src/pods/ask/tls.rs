//! TLS towards a container for HTTPS probes, without a look at its certificate, as Kubernetes defines them: a container shows what it made itself,
//! for a name that is not its address. A probe asks whether it answers, not who it is, and tells it nothing worth hiding. Used for nothing else.

use std::sync::{Arc, OnceLock};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

/// The configuration, made when it is first needed.
#[derive(Debug, Default)]
pub(in crate::pods) struct Tls(OnceLock<Option<Arc<ClientConfig>>>);

impl Tls {
    /// TLS over a connection.
    pub(super) async fn over(&self, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        let config = self.0.get_or_init(config).clone();
        let config = config.ok_or_else(|| "TLS cannot be set up".to_owned())?;
        let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
        let connected = TlsConnector::from(config).connect(name, stream).await;
        connected.map_err(|e| format!("tls: {e}"))
    }
}

fn config() -> Option<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let anyone = Arc::new(Anyone(Arc::clone(&provider)));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?;
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(anyone)
        .with_no_client_auth();
    config.resumption = tokio_rustls::rustls::client::Resumption::disabled();
    Some(Arc::new(config))
}

/// Takes any certificate; that the other side holds its key is still checked.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
