//! The keys that tokens are signed with, as files: P-256, PEM.
//!
//! One signs, the others only verify. To change keys: give `sa.key` another name in its folder and start again; a new one is made, and tokens
//! of the old one are good until their end. To make them worthless at once, remove it.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde_json::{Value, json};

const SIGNER: &str = "sa.key";
/// A key file is a few hundred bytes.
const MAX_FILE: u64 = 64 * 1024;
/// Keys in a folder.
const MAX_KEYS: usize = 32;
/// What stands before the point of a P-256 public key in its DER form.
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// An uncompressed point: a byte that says so, then x and y.
const POINT: usize = 65;

/// Why there are no keys to sign tokens with.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file or folder.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that holds something else.
    #[error("{}: {what}", path.display())]
    NotAKey {
        /// Which.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
    },
}

/// The keys of a server.
pub(super) struct Keys {
    signer: EcdsaKeyPair,
    /// The signer's first.
    public: Vec<PublicKey>,
}

struct PublicKey {
    kid: String,
    point: [u8; POINT],
}

impl PublicKey {
    fn new(point: &[u8]) -> Option<Self> {
        let point: [u8; POINT] = point.try_into().ok()?;
        let spki = [&SPKI[..], &point].concat();
        Some(Self {
            kid: URL_SAFE_NO_PAD.encode(digest(&SHA256, &spki)),
            point,
        })
    }
}

impl Keys {
    /// Reads the folder; makes it and the signing key when they are not there.
    pub(super) fn load_or_create(folder: &Path) -> Result<Self, KeyError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| KeyError::Io { path, source }
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder).map_err(io(folder))?;
        let path = folder.join(SIGNER);
        if !path.try_exists().map_err(io(&path))? {
            create(&path).map_err(io(&path))?;
        }
        let signer = private(&path, &text(&path)?)?;
        let mut public: Vec<PublicKey> = PublicKey::new(signer.public_key().as_ref()).into_iter().collect();
        let mut others: Vec<PathBuf> = fs::read_dir(folder)
            .and_then(|entries| entries.map(|e| Ok(e?.path())).collect())
            .map_err(io(folder))?;
        others.retain(|p| *p != path);
        others.sort();
        for path in others {
            let known = match path.extension().and_then(|e| e.to_str()) {
                Some("key") => PublicKey::new(private(&path, &text(&path)?)?.public_key().as_ref()),
                Some("pub") => published(&text(&path)?),
                _ => continue,
            };
            let what = "it is not the PEM form of a P-256 public key";
            let known = known.ok_or(KeyError::NotAKey { path, what })?;
            if public.len() < MAX_KEYS && public.iter().all(|k| k.kid != known.kid) {
                public.push(known);
            }
        }
        Ok(Self { signer, public })
    }

    /// The id of the key that signs.
    pub(super) fn kid(&self) -> &str {
        self.public.first().map_or("", |k| &k.kid)
    }

    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let signature = self.signer.sign(&SystemRandom::new(), message).ok()?;
        Some(signature.as_ref().to_vec())
    }

    pub(super) fn verify(&self, kid: &str, message: &[u8], signature: &[u8]) -> bool {
        self.public.iter().filter(|k| k.kid == kid).any(|k| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &k.point)
                .verify(message, signature)
                .is_ok()
        })
    }

    /// The public halves, as a JSON Web Key Set.
    pub(super) fn public(&self) -> Value {
        let keys: Vec<Value> = self
            .public
            .iter()
            .map(|k| {
                let (x, y) = k.point[1..].split_at(32);
                json!({"use": "sig", "kty": "EC", "crv": "P-256", "alg": "ES256", "kid": k.kid,
                    "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
            })
            .collect();
        json!({"keys": keys})
    }
}

/// Makes a signing key: the file appears whole, readable by its owner only.
fn create(path: &Path) -> io::Result<()> {
    let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map_err(|_| io::Error::other("no key can be made"))?;
    let mut pem = "-----BEGIN PRIVATE KEY-----\n".to_owned();
    let body = STANDARD.encode(made.as_ref());
    for line in body.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    let part = path.with_extension("part");
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)?;
    file.write_all(pem.as_bytes())?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    path.parent()
        .map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

fn text(path: &Path) -> Result<Vec<u8>, KeyError> {
    let mut out = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut out))
        .map_err(|source| KeyError::Io {
            path: path.to_owned(),
            source,
        })?;
    Ok(out)
}

fn private(path: &Path, pem: &[u8]) -> Result<EcdsaKeyPair, KeyError> {
    PrivatePkcs8KeyDer::from_pem_slice(pem)
        .ok()
        .and_then(|der| {
            let der = der.secret_pkcs8_der();
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &SystemRandom::new()).ok()
        })
        .ok_or_else(|| KeyError::NotAKey {
            path: path.to_owned(),
            what: "it is not the PKCS#8 PEM form of a P-256 key",
        })
}

fn published(pem: &[u8]) -> Option<PublicKey> {
    let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).ok()?;
    PublicKey::new(der.as_ref().strip_prefix(&SPKI)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn keys_are_made_once_and_old_ones_still_verify() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("sa");
        let first = Keys::load_or_create(&folder).unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join(SIGNER))), (0o700, 0o600));
        let signature = first.sign(b"message").unwrap();
        let again = Keys::load_or_create(&folder).unwrap();
        assert_eq!(again.kid(), first.kid());
        assert!(again.verify(first.kid(), b"message", &signature));
        assert!(!again.verify(first.kid(), b"another", &signature));
        fs::rename(folder.join(SIGNER), folder.join("sa-2025.key")).unwrap();
        let changed = Keys::load_or_create(&folder).unwrap();
        assert_ne!(changed.kid(), first.kid());
        assert!(changed.verify(first.kid(), b"message", &signature));
        assert!(!changed.verify(changed.kid(), b"message", &signature));
        assert_eq!(changed.public()["keys"].as_array().unwrap().len(), 2);
        // The public half is enough.
        fs::remove_file(folder.join("sa-2025.key")).unwrap();
        let spki = [&SPKI[..], first.signer.public_key().as_ref()].concat();
        let pem = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(spki)
        );
        fs::write(folder.join("old.pub"), pem).unwrap();
        let public = Keys::load_or_create(&folder).unwrap();
        assert!(public.verify(first.kid(), b"message", &signature));
        fs::remove_file(folder.join("old.pub")).unwrap();
        let without = Keys::load_or_create(&folder).unwrap();
        assert!(!without.verify(first.kid(), b"message", &signature));
    }

    #[test]
    fn what_is_no_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x.pub"), "nonsense").unwrap();
        let Err(error) = Keys::load_or_create(dir.path()) else {
            panic!()
        };
        assert!(error.to_string().contains("x.pub"), "{error}");
        fs::write(dir.path().join(SIGNER), "nonsense").unwrap();
        assert!(matches!(
            Keys::load_or_create(dir.path()),
            Err(KeyError::NotAKey { .. })
        ));
    }
}
