//! The hub's certificate authority: made once, kept in `ca.crt` and `ca.key`, and what it signs.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, date_time_ymd,
};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::cert::{Cert, Pin, San};
use super::csr::{self, NodeKey};
use super::files::{read, write_atomic};
use super::{BUILD_FLOOR_SECS, PkiError, is_node_name};
use crate::der::{self, Reader};

/// The name every hub's certificate carries and every gateway asks for, whatever address it dials: behind port forwards, NAT and
/// changing addresses the hub is still known by it. It is safe because the CA behind the pin gives server certificates to the hub
/// only; a gateway's certificate has no DNS name and may not serve.
pub const HUB_SERVER_NAME: &str = "hub.kurator.internal";
/// A gateway's common name is this and its node name.
pub const NODE_PREFIX: &str = "system:node:";
/// The organisation (group) of gateways.
pub const NODE_GROUP: &str = "system:nodes";
/// The organisation (group) of administrators.
pub const ADMIN_GROUP: &str = "system:masters";
/// Life of a gateway's certificate unless configured.
pub const NODE_VALID: Duration = Duration::from_secs(30 * 86_400);
/// Life of the hub's server certificate.
pub const SERVER_VALID: Duration = Duration::from_secs(365 * 86_400);
/// Life of an administrator's certificate.
pub const ADMIN_VALID: Duration = Duration::from_secs(365 * 86_400);

/// Twenty years: replacing the CA means joining every gateway again, so that is done on purpose, not by a date.
const CA_VALID: Duration = Duration::from_secs(20 * 365 * 86_400);
/// Leaves begin this much before they are made, for verifiers whose clocks run behind.
const BACKDATE_SECS: u64 = 300;

/// Signs with a CA key whose certificate is known. Shared by the hub's CA and the gateway's own.
pub(super) struct Authority {
    pub(super) cert: CertificateDer<'static>,
    pub(super) info: Cert,
    issuer: Issuer<'static, KeyPair>,
}

/// What a leaf is for and whom it names.
pub(super) struct Leaf<'a> {
    pub(super) common_name: &'a str,
    pub(super) organization: Option<&'a str>,
    pub(super) sans: Vec<SanType>,
    pub(super) usage: ExtendedKeyUsagePurpose,
    /// Seconds since 1970.
    pub(super) not_before: u64,
    pub(super) not_after: u64,
}

fn distinguished_name(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    if let Some(o) = organization {
        dn.push(DnType::OrganizationName, o);
    }
    dn.push(DnType::CommonName, common_name);
    dn
}

fn ca_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(common_name, None);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

/// 128 random bits, positive, never short.
fn serial() -> Result<SerialNumber, PkiError> {
    let mut bytes = [0; 16];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| PkiError::Make("no randomness".to_owned()))?;
    // Some tools count leading zero bits as missing entropy, and a first bit of 1 would need a padding byte.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

impl Authority {
    /// Reads `ca.crt` and `ca.key` in `dir`, or makes them. A certificate without its key is never overwritten: it may be pinned by
    /// a fleet. A key without its certificate is what a power cut at the first start leaves; nothing knows it yet.
    pub(super) fn load_or_create(
        dir: &Path,
        common_name: impl FnOnce(&str) -> String,
        not_before: u64,
        not_after: u64,
    ) -> Result<Self, PkiError> {
        let (cert_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        let cert_pem = read(&cert_path)?;
        let key = match read(&key_path)? {
            Some(pem) => KeyPair::from_pem(&pem).map_err(|_| PkiError::Damaged {
                path: key_path.clone(),
                what: "not a private key",
            })?,
            None if cert_pem.is_some() => {
                return Err(PkiError::Damaged {
                    path: key_path,
                    what: "missing, but ca.crt is there; put the key back (a new one would shut out every gateway)",
                });
            }
            None => {
                let key = KeyPair::generate()?;
                write_atomic(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
                key
            }
        };
        let cert_pem = match cert_pem {
            Some(pem) => pem,
            None => {
                let serial = serial()?;
                let tail: String = serial.to_bytes().iter().take(4).map(|b| format!("{b:02x}")).collect();
                let mut params = ca_params(&common_name(&tail));
                params.serial_number = Some(serial);
                set_life(&mut params, not_before, not_after);
                let pem = params.self_signed(&key)?.pem();
                write_atomic(&cert_path, pem.as_bytes(), 0o600)?;
                pem
            }
        };
        let damaged = |what| PkiError::Damaged {
            path: cert_path.clone(),
            what,
        };
        let cert = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|_| damaged("no PEM certificate"))?;
        let info = Cert::parse(&cert)?;
        if !info.organizations.is_empty() || info.common_name.is_empty() {
            return Err(damaged("not a CA made by this program"));
        }
        let issuer = Issuer::new(ca_params(&info.common_name), key);
        let authority = Self { cert, info, issuer };
        if Pin::of_spki(&authority.issuer.key().subject_public_key_info()) != authority.info.pin {
            return Err(damaged("it does not belong to ca.key"));
        }
        Ok(authority)
    }

    /// Whether this CA signed the first certificate of a PEM text.
    pub(super) fn signed(&self, pem: &str) -> bool {
        let check = || {
            let cert = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
            let mut certificate = Reader::new(&cert).enter(der::SEQUENCE)?;
            let tbs = certificate.expect(der::SEQUENCE)?;
            certificate.expect(der::SEQUENCE)?;
            let signature = certificate.any()?;
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.issuer.key().der_bytes())
                .verify(tbs.whole, der::bit_string(&signature)?)
                .ok()
        };
        check().is_some()
    }

    pub(super) fn sign(&self, leaf: Leaf<'_>, key: &impl PublicKeyData) -> Result<CertificateDer<'static>, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(leaf.common_name, leaf.organization);
        params.subject_alt_names = leaf.sans;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![leaf.usage];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        set_life(&mut params, leaf.not_before, leaf.not_after);
        Ok(params.signed_by(key, &self.issuer)?.der().clone())
    }
}

/// Seconds since 1970, as the dates of a certificate.
fn set_life(params: &mut CertificateParams, not_before: u64, not_after: u64) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(not_before);
    params.not_after = epoch + Duration::from_secs(not_after);
}

pub(super) fn pem(cert: &CertificateDer<'_>) -> String {
    certificate_pem(cert)
}

/// A certificate's DER as PEM.
pub fn certificate_pem(der: &[u8]) -> String {
    pem_block("CERTIFICATE", der)
}

fn pem_block(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// A certificate with its key, as files hold them and as TLS takes them. Debug output shows no key.
#[derive(Clone)]
pub struct Credential {
    /// The certificate and what is above it, PEM.
    pub chain_pem: String,
    /// The private key, PKCS#8 PEM.
    pub key_pem: String,
}

impl Credential {
    /// From a chain as it came over the wire (DER, leaf first) and the key it was issued for.
    pub fn from_der<C: AsRef<[u8]>>(chain: &[C], key: &NodeKey) -> Self {
        let chain_pem = chain.iter().map(|c| pem_block("CERTIFICATE", c.as_ref())).collect();
        Self {
            chain_pem,
            key_pem: key.to_pem(),
        }
    }

    /// The chain in the form TLS takes, leaf first.
    ///
    /// # Errors
    /// When the text holds no certificate.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        parse_chain(&self.chain_pem)
    }

    /// The key in the form TLS takes.
    ///
    /// # Errors
    /// When the text holds no PKCS#8 key.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, PkiError> {
        PrivatePkcs8KeyDer::from_pem_slice(self.key_pem.as_bytes())
            .map(PrivateKeyDer::Pkcs8)
            .map_err(|_| PkiError::Parse("no PKCS#8 key"))
    }

    /// What the leaf says.
    ///
    /// # Errors
    /// When the text holds no certificate.
    pub fn info(&self) -> Result<Cert, PkiError> {
        Cert::parse_pem(&self.chain_pem)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("leaf", &self.info().ok())
            .finish_non_exhaustive()
    }
}

/// Reads a PEM chain, leaf first.
///
/// # Errors
/// When the text holds no certificate.
pub fn parse_chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| PkiError::Parse("damaged PEM"))?;
    if chain.is_empty() {
        return Err(PkiError::Parse("no PEM certificate"));
    }
    Ok(chain)
}

/// The hub's server certificate; the chain ends with the CA, which is how a joining gateway gets to see it.
pub type ServerCert = Credential;

/// What the hub decides about a gateway's certificate. Nothing of it comes from the gateway's request.
#[derive(Clone, Debug)]
pub struct NodeProfile<'a> {
    /// The gateway's name.
    pub node: &'a str,
    /// The fleet's trust domain, as in `spiffe://<trust-domain>/node/<name>`.
    pub trust_domain: &'a str,
    /// How long it is good for; [`NODE_VALID`] unless configured.
    pub valid: Duration,
}

/// A gateway's certificate as issued.
#[derive(Clone, Debug)]
pub struct NodeCert {
    /// Leaf first, DER. The CA is not among them.
    pub chain: Vec<CertificateDer<'static>>,
    /// The same, PEM.
    pub chain_pem: String,
    /// What it says, for the record of issued certificates.
    pub info: Cert,
}

/// The hub's CA. One per hub (or per fleet of replicas that share the files).
pub struct HubCa(Authority);

impl HubCa {
    /// Reads `ca.crt` and `ca.key` in `dir`, or makes them (0600). A hub whose clock stands before this program was built takes the
    /// build's date, so that what it signs is still good when the clock is put right.
    ///
    /// # Errors
    /// When a file cannot be read or written, or the two do not belong together.
    pub fn load_or_create(dir: &Path, now_ms: u64) -> Result<Self, PkiError> {
        let start = floor(now_ms / 1000).saturating_sub(BACKDATE_SECS);
        Authority::load_or_create(
            dir,
            |tail| format!("kurator-hub-ca-{tail}"),
            start,
            start + CA_VALID.as_secs(),
        )
        .map(Self)
    }

    /// The CA's certificate.
    pub fn cert(&self) -> &CertificateDer<'static> {
        &self.0.cert
    }

    /// The CA's certificate, PEM.
    pub fn cert_pem(&self) -> String {
        pem(&self.0.cert)
    }

    /// What a join token carries to know this CA by.
    pub fn pin(&self) -> Pin {
        self.0.info.pin
    }

    /// The moment from which leaves count: never before the build or the CA's own beginning.
    fn issue_from(&self, now_ms: u64) -> u64 {
        floor(now_ms / 1000).max(self.0.info.not_before_ms / 1000 + BACKDATE_SECS)
    }

    /// Reads `server.crt` and `server.key` in `dir`, or makes them anew: when they are missing or damaged, when `names` (DNS names and
    /// addresses people use, without ports) are others than those inside, when a third of their life is left, or when another CA
    /// signed them. `true` says that they are new. A good pair's key is kept: it lets a hub that is started again tell gateways that it does
    /// not know their connections.
    ///
    /// # Errors
    /// When a file cannot be read or written or a name cannot stand in a certificate.
    pub fn load_or_issue_server(
        &self,
        dir: &Path,
        names: &[String],
        now_ms: u64,
    ) -> Result<(ServerCert, bool), PkiError> {
        let (cert_path, key_path) = (dir.join("server.crt"), dir.join("server.key"));
        let mut key = None;
        if let (Some(chain_pem), Some(key_pem)) = (read(&cert_path)?, read(&key_path)?) {
            let kept = Credential { chain_pem, key_pem };
            if let Some((info, own)) = self.server_of_ours(&kept) {
                if self.server_is_current(info, names, now_ms) {
                    return Ok((kept, false));
                }
                key = Some(own);
            }
        }
        let made = self.sign_server(key.map_or_else(KeyPair::generate, Ok)?, names, now_ms)?;
        // A power cut between the two leaves a pair that does not match, which the check above finds.
        write_atomic(&key_path, made.key_pem.as_bytes(), 0o600)?;
        write_atomic(&cert_path, made.chain_pem.as_bytes(), 0o600)?;
        Ok((made, true))
    }

    /// Makes a server certificate for [`HUB_SERVER_NAME`] and `names`.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate.
    pub fn issue_server(&self, names: &[String], now_ms: u64) -> Result<ServerCert, PkiError> {
        self.sign_server(KeyPair::generate()?, names, now_ms)
    }

    fn sign_server(&self, key: KeyPair, names: &[String], now_ms: u64) -> Result<ServerCert, PkiError> {
        let from = self.issue_from(now_ms);
        let leaf = self.0.sign(
            Leaf {
                common_name: HUB_SERVER_NAME,
                organization: None,
                sans: server_sans(names)?
                    .into_iter()
                    .map(san_type)
                    .collect::<Result<_, _>>()?,
                usage: ExtendedKeyUsagePurpose::ServerAuth,
                not_before: from - BACKDATE_SECS,
                not_after: from + SERVER_VALID.as_secs(),
            },
            &key,
        )?;
        Ok(Credential {
            chain_pem: pem(&leaf) + &self.cert_pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// What a pair says and its key, if it is one and this CA signed it.
    fn server_of_ours(&self, kept: &Credential) -> Option<(Cert, KeyPair)> {
        let chain = kept.chain().ok()?;
        let info = Cert::parse(chain.first()?).ok()?;
        let key = KeyPair::from_pem(&kept.key_pem).ok()?;
        let ours = Pin::of_spki(&key.subject_public_key_info()) == info.pin && chain.last() == Some(&self.0.cert);
        ours.then_some((info, key))
    }

    fn server_is_current(&self, info: Cert, names: &[String], now_ms: u64) -> bool {
        let Ok(wanted) = server_sans(names) else { return false };
        let life = info.not_after_ms.saturating_sub(info.not_before_ms);
        let now_ms = self.issue_from(now_ms) * 1000;
        info.sans.into_iter().collect::<BTreeSet<_>>() == wanted && info.not_after_ms.saturating_sub(now_ms) > life / 3
    }

    /// Signs a gateway's certificate. Only the public key comes from `csr` (DER, at most [`MAX_CSR`](super::MAX_CSR) bytes), and only
    /// after the request proved that its sender has the private one.
    ///
    /// # Errors
    /// [`PkiError::Request`] for a bad request, [`PkiError::Name`] for a bad node name or trust domain.
    pub fn issue_node(&self, csr: &[u8], profile: &NodeProfile<'_>, now_ms: u64) -> Result<NodeCert, PkiError> {
        for name in [profile.node, profile.trust_domain] {
            if !is_node_name(name) {
                return Err(PkiError::Name(name.to_owned()));
            }
        }
        let key = csr::prove(csr)?;
        let from = self.issue_from(now_ms);
        let id = format!("spiffe://{}/node/{}", profile.trust_domain, profile.node);
        let leaf = self.0.sign(
            Leaf {
                common_name: &format!("{NODE_PREFIX}{}", profile.node),
                organization: Some(NODE_GROUP),
                sans: vec![san_type(San::Uri(id))?],
                usage: ExtendedKeyUsagePurpose::ClientAuth,
                not_before: from - BACKDATE_SECS,
                not_after: from + profile.valid.as_secs(),
            },
            &key,
        )?;
        Ok(NodeCert {
            chain_pem: pem(&leaf),
            info: Cert::parse(&leaf)?,
            chain: vec![leaf],
        })
    }

    /// Makes an administrator's client certificate (`O=system:masters`).
    ///
    /// # Errors
    /// When the name cannot stand in a certificate.
    pub fn issue_admin(&self, name: &str, now_ms: u64) -> Result<Credential, PkiError> {
        let from = self.issue_from(now_ms);
        issue_admin(&self.0, name, from - BACKDATE_SECS, from + ADMIN_VALID.as_secs())
    }
}

impl fmt::Debug for HubCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HubCa").field(&self.0.info).finish()
    }
}

pub(super) fn issue_admin(ca: &Authority, name: &str, not_before: u64, not_after: u64) -> Result<Credential, PkiError> {
    if name.is_empty() || name.len() > 64 || name.starts_with(NODE_PREFIX) {
        return Err(PkiError::Name(name.to_owned()));
    }
    let key = KeyPair::generate()?;
    let leaf = ca.sign(
        Leaf {
            common_name: name,
            organization: Some(ADMIN_GROUP),
            sans: Vec::new(),
            usage: ExtendedKeyUsagePurpose::ClientAuth,
            not_before,
            not_after,
        },
        &key,
    )?;
    Ok(Credential {
        chain_pem: pem(&leaf),
        key_pem: key.serialize_pem(),
    })
}

fn floor(secs: u64) -> u64 {
    secs.max(BUILD_FLOOR_SECS)
}

/// The names a server certificate carries: the configured ones, and the one gateways ask for.
fn server_sans(names: &[String]) -> Result<BTreeSet<San>, PkiError> {
    let mut sans = BTreeSet::from([San::Dns(HUB_SERVER_NAME.to_owned())]);
    for name in names {
        sans.insert(parse_name(name)?);
    }
    Ok(sans)
}

/// An address, or a DNS name that rustls too would take for one.
pub(super) fn parse_name(name: &str) -> Result<San, PkiError> {
    if let Ok(ip) = name.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(San::Ip(ip));
    }
    let lower = name.to_ascii_lowercase();
    match rustls::pki_types::DnsName::try_from(lower.as_str()) {
        Ok(_) => Ok(San::Dns(lower)),
        Err(_) => Err(PkiError::Name(name.to_owned())),
    }
}

pub(super) fn san_type(san: San) -> Result<SanType, PkiError> {
    let ia5 = |text: String| text.clone().try_into().map_err(|_| PkiError::Name(text));
    Ok(match san {
        San::Dns(name) => SanType::DnsName(ia5(name)?),
        San::Uri(uri) => SanType::URI(ia5(uri)?),
        San::Ip(ip) => SanType::IpAddress(ip),
    })
}
