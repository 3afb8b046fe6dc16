//! What a certificate says: the fields that decide who a peer is and when its certificate ends.

use std::fmt;
use std::net::IpAddr;

use ring::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::PkiError;
use crate::der::{self, Reader};

const OID_CN: &[u8] = &[0x55, 0x04, 0x03];
const OID_O: &[u8] = &[0x55, 0x04, 0x0a];
const OID_SAN: &[u8] = &[0x55, 0x1d, 0x11];

/// SHA-256 of a public key (its `SubjectPublicKeyInfo`): what a join token carries to recognise the hub's CA by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pin(pub [u8; 32]);

impl Pin {
    /// The pin of a certificate's public key.
    ///
    /// # Errors
    /// When the bytes are no certificate.
    pub fn of(cert: &CertificateDer<'_>) -> Result<Self, PkiError> {
        Ok(Cert::parse(cert)?.pin)
    }

    /// The pin of a `SubjectPublicKeyInfo`.
    pub(super) fn of_spki(spki: &[u8]) -> Self {
        let mut pin = [0; 32];
        pin.copy_from_slice(digest(&SHA256, spki).as_ref());
        Self(pin)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

/// A subject alternative name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum San {
    /// A DNS name.
    Dns(String),
    /// An address.
    Ip(IpAddr),
    /// A URI, such as a SPIFFE id.
    Uri(String),
}

/// The fields of one certificate. Reading them proves nothing: they are to be believed only when the chain was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cert {
    /// Serial number in lower-case hexadecimal, as tools print it.
    pub serial: String,
    /// Common name of the subject; empty when it has none.
    pub common_name: String,
    /// Organisations of the subject.
    pub organizations: Vec<String>,
    /// Start of validity, milliseconds since 1970.
    pub not_before_ms: u64,
    /// End of validity, milliseconds since 1970.
    pub not_after_ms: u64,
    /// Hash of the public key.
    pub pin: Pin,
    /// Alternative names.
    pub sans: Vec<San>,
}

impl Cert {
    /// Reads one certificate.
    ///
    /// # Errors
    /// When the bytes are no certificate.
    pub fn parse(cert: &CertificateDer<'_>) -> Result<Self, PkiError> {
        parse(cert).ok_or(PkiError::Parse("not an X.509 certificate"))
    }

    /// Reads the first certificate of a PEM text.
    ///
    /// # Errors
    /// When the text holds none.
    pub fn parse_pem(pem: &str) -> Result<Self, PkiError> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| PkiError::Parse("no PEM certificate"))?;
        Self::parse(&der)
    }
}

fn parse(der: &[u8]) -> Option<Cert> {
    let mut outer = Reader::new(der);
    let mut certificate = outer.enter(der::SEQUENCE)?;
    if !outer.is_empty() {
        return None;
    }
    let mut tbs = certificate.enter(der::SEQUENCE)?;
    tbs.skip(0xa0); // version
    let serial = tbs.expect(der::INTEGER)?;
    tbs.expect(der::SEQUENCE)?; // signature algorithm
    tbs.expect(der::SEQUENCE)?; // issuer
    let mut validity = tbs.enter(der::SEQUENCE)?;
    let not_before = der::time(&validity.any()?)?;
    let not_after = der::time(&validity.any()?)?;
    let subject = tbs.enter(der::SEQUENCE)?;
    let spki = tbs.expect(der::SEQUENCE)?;
    tbs.skip(0x81); // issuer's and subject's unique ids
    tbs.skip(0x82);
    let mut sans = Vec::new();
    if let Some(mut explicit) = tbs.enter(0xa3) {
        let mut extensions = explicit.enter(der::SEQUENCE)?;
        while !extensions.is_empty() {
            let mut extension = extensions.enter(der::SEQUENCE)?;
            let oid = extension.expect(der::OID)?;
            extension.skip(0x01); // critical
            let value = extension.expect(der::OCTET_STRING)?;
            if oid.content == OID_SAN {
                sans = alternative_names(value.content)?;
            }
        }
    }
    let (common_name, organizations) = name(subject)?;
    Some(Cert {
        serial: hex(serial.content),
        common_name,
        organizations,
        not_before_ms: not_before * 1000,
        not_after_ms: not_after * 1000,
        pin: Pin::of_spki(spki.whole),
        sans,
    })
}

/// Common name and organisations. A subject with two common names has no meaning and is refused.
fn name(mut subject: Reader<'_>) -> Option<(String, Vec<String>)> {
    let mut common_name = None;
    let mut organizations = Vec::new();
    while !subject.is_empty() {
        let mut set = subject.enter(der::SET)?;
        while !set.is_empty() {
            let mut attribute = set.enter(der::SEQUENCE)?;
            let oid = attribute.expect(der::OID)?;
            let value = attribute.any()?;
            if oid.content != OID_CN && oid.content != OID_O {
                continue;
            }
            // UTF8String, PrintableString, IA5String: all of them UTF-8 when they are right.
            if !matches!(value.tag, 0x0c | 0x13 | 0x16) {
                return None;
            }
            let text = str::from_utf8(value.content).ok()?.to_owned();
            if oid.content == OID_O {
                organizations.push(text);
            } else if common_name.replace(text).is_some() {
                return None;
            }
        }
    }
    Some((common_name.unwrap_or_default(), organizations))
}

fn alternative_names(value: &[u8]) -> Option<Vec<San>> {
    let mut names = Reader::new(value).enter(der::SEQUENCE)?;
    let mut sans = Vec::new();
    while !names.is_empty() {
        let name = names.any()?;
        let text = || str::from_utf8(name.content).ok().map(str::to_owned);
        match name.tag {
            0x82 => sans.push(San::Dns(text()?)),
            0x86 => sans.push(San::Uri(text()?)),
            0x87 => sans.push(San::Ip(match name.content.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(name.content).ok()?),
                16 => IpAddr::from(<[u8; 16]>::try_from(name.content).ok()?),
                _ => return None,
            })),
            _ => {} // kinds we neither make nor use
        }
    }
    Some(sans)
}

/// Lower-case hexadecimal of an INTEGER, without the zero byte that only keeps it positive.
fn hex(integer: &[u8]) -> String {
    let digits = match integer {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    digits.iter().map(|b| format!("{b:02x}")).collect()
}
