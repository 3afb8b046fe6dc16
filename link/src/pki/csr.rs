//! A gateway's key and its request; and, at the hub, the one thing that is taken from a request: the public key.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData, SignatureAlgorithm};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::PkiError;
use crate::der::{self, Reader};

/// The largest certificate request the hub looks at, in bytes. Ours are about 200.
pub const MAX_CSR: usize = 4096;

/// 1.2.840.10045.2.1 (EC public key), 1.2.840.10045.3.1.7 (P-256): the algorithm of every key here.
const SPKI_P256: &[u8] = &[
    0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
];
/// 1.2.840.10045.4.3.2 (ECDSA with SHA-256).
const ECDSA_SHA256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// A private key made on this machine. Its text never appears in debug output.
pub struct NodeKey(KeyPair);

impl NodeKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, PkiError> {
        Ok(Self(KeyPair::generate()?))
    }

    /// Reads a key from its PKCS#8 PEM text.
    ///
    /// # Errors
    /// When the text is no P-256 key.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        KeyPair::from_pem(pem)
            .ok()
            .filter(|k| k.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256))
            .map(Self)
            .ok_or(PkiError::Parse("not a P-256 private key"))
    }

    /// The key's PKCS#8 PEM text, to be written 0600 and nowhere else.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// A signed request for this key, DER. It carries no name: the hub gives one.
    ///
    /// # Errors
    /// When signing fails.
    pub fn request(&self) -> Result<Vec<u8>, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&self.0)?.der().to_vec())
    }

    /// Hash of the public key, to recognise its certificate by.
    pub fn pin(&self) -> super::Pin {
        super::Pin::of_spki(&self.0.subject_public_key_info())
    }

    /// The key in the form TLS takes.
    pub fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.serialize_der()))
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(..)")
    }
}

/// A public key whose owner proved that it has the private one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProvenKey {
    point: Vec<u8>,
}

impl PublicKeyData for ProvenKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// Takes the public key out of a request after checking the request's own signature with it. Names, extensions and attributes in
/// the request are not even read.
pub(super) fn prove(csr: &[u8]) -> Result<ProvenKey, PkiError> {
    if csr.len() > MAX_CSR {
        return Err(PkiError::Request("it is too large"));
    }
    let (info, point, signature) =
        parse(csr).ok_or(PkiError::Request("it is not a PKCS#10 request for a P-256 key"))?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(info, signature)
        .map_err(|_| PkiError::Request("its signature does not match its key"))?;
    Ok(ProvenKey { point: point.to_vec() })
}

/// (signed part, public point, signature)
fn parse(csr: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut outer = Reader::new(csr);
    let mut request = outer.enter(der::SEQUENCE)?;
    let info = request.expect(der::SEQUENCE)?;
    let algorithm = request.expect(der::SEQUENCE)?;
    let signature = der::bit_string(&request.any()?)?;
    if !outer.is_empty() || !request.is_empty() || algorithm.content != ECDSA_SHA256 {
        return None;
    }
    let mut fields = Reader::new(info.content);
    fields.expect(der::INTEGER)?;
    fields.expect(der::SEQUENCE)?; // subject
    let mut spki = fields.enter(der::SEQUENCE)?;
    if spki.expect(der::SEQUENCE)?.content != SPKI_P256 {
        return None;
    }
    let point = der::bit_string(&spki.any()?)?;
    (point.len() == 65 && point[0] == 4 && spki.is_empty()).then_some((info.whole, point, signature))
}
