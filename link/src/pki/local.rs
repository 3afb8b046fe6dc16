//! The gateway's own CA, for its local API. It has nothing to do with the hub's: the hub need never be reached for it.

use std::fmt;
use std::path::Path;

use rcgen::{ExtendedKeyUsagePurpose, KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;

use super::PkiError;
use super::ca::{Authority, Credential, Leaf, issue_admin, parse_name, pem, san_type};
use super::cert::{Cert, Pin, San};
use super::files::{read, write_atomic};

/// Local certificates are good from 1970 to 9999. Their signing key lies beside them on the same disk, so a date would protect
/// nothing, and a gateway must serve its API and be reached by kubectl whatever its clock says.
const FROM: u64 = 0;
const UNTIL: u64 = 253_402_300_799;

/// The gateway's CA and what it made: the local API's server certificate and the local administrator's.
pub struct LocalCa {
    authority: Authority,
    server: Credential,
    admin: Credential,
}

impl LocalCa {
    /// Reads or makes everything in `dir`: `ca.crt`, `ca.key`, `api.crt`, `api.key`, `admin.crt`, `admin.key` (all 0600). `names` are
    /// the DNS names and addresses the API is reached by; when they change, the server certificate is made anew.
    ///
    /// # Errors
    /// When a file cannot be read or written, or a name cannot stand in a certificate.
    pub fn load_or_create(dir: &Path, names: &[String]) -> Result<Self, PkiError> {
        let authority = Authority::load_or_create(dir, |tail| format!("kurator-edge-ca-{tail}"), FROM, UNTIL)?;
        let wanted = names
            .iter()
            .map(|n| parse_name(n))
            .collect::<Result<std::collections::BTreeSet<San>, _>>()?;
        let server = load_or(
            dir,
            "api",
            &authority,
            |info| info.sans.iter().cloned().collect::<std::collections::BTreeSet<_>>() == wanted,
            || {
                let key = KeyPair::generate()?;
                let leaf = authority.sign(
                    Leaf {
                        common_name: "kurator-edge-api",
                        organization: None,
                        sans: wanted.iter().cloned().map(san_type).collect::<Result<_, _>>()?,
                        usage: ExtendedKeyUsagePurpose::ServerAuth,
                        not_before: FROM,
                        not_after: UNTIL,
                    },
                    &key,
                )?;
                Ok(Credential {
                    chain_pem: pem(&leaf),
                    key_pem: key.serialize_pem(),
                })
            },
        )?;
        let admin = load_or(
            dir,
            "admin",
            &authority,
            |_| true,
            || issue_admin(&authority, "kurator-edge-admin", FROM, UNTIL),
        )?;
        Ok(Self {
            authority,
            server,
            admin,
        })
    }

    /// The CA's certificate.
    pub fn cert(&self) -> &CertificateDer<'static> {
        &self.authority.cert
    }

    /// The CA's certificate, PEM.
    pub fn cert_pem(&self) -> String {
        pem(&self.authority.cert)
    }

    /// The local API's server certificate.
    pub const fn server(&self) -> &Credential {
        &self.server
    }

    /// The local administrator's client certificate (`O=system:masters`).
    pub const fn admin(&self) -> &Credential {
        &self.admin
    }
}

impl fmt::Debug for LocalCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalCa")
            .field("ca", &self.authority.info)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

/// Reads `<stem>.crt` and `<stem>.key`; makes and writes them when they are missing, do not match, or `good` says no.
fn load_or(
    dir: &Path,
    stem: &str,
    authority: &Authority,
    good: impl FnOnce(&Cert) -> bool,
    make: impl FnOnce() -> Result<Credential, PkiError>,
) -> Result<Credential, PkiError> {
    let (cert_path, key_path) = (dir.join(format!("{stem}.crt")), dir.join(format!("{stem}.key")));
    if let (Some(chain_pem), Some(key_pem)) = (read(&cert_path)?, read(&key_path)?)
        && let Ok(info) = Cert::parse_pem(&chain_pem)
        && let Ok(key) = KeyPair::from_pem(&key_pem)
        && Pin::of_spki(&key.subject_public_key_info()) == info.pin
        && authority.signed(&chain_pem)
        && good(&info)
    {
        return Ok(Credential { chain_pem, key_pem });
    }
    let made = make()?;
    write_atomic(&key_path, made.key_pem.as_bytes(), 0o600)?;
    write_atomic(&cert_path, made.chain_pem.as_bytes(), 0o600)?;
    Ok(made)
}
