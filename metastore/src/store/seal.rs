//! Secrets at rest: their bodies are sealed with a key that is not in the file.
//!
//! Each body is bound to the name of its object, so that a row copied onto another name does not open. What the file, its
//! write-ahead log and its snapshots hold of a Secret is ciphertext only.

use std::{fmt, fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc};

use bytes::Bytes;
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};

use super::{ObjectKey, StoreError, error::Fault};

/// First byte of everything sealed: the format.
const FORMAT: u8 = 1;
/// Sealed once into the file, to notice another key at the next start rather than at the first Secret.
const CHECK: &[u8] = b"kurator store seal check";

/// The key that Secrets are sealed with. Cheap to clone; never shown.
#[derive(Clone)]
pub struct SealKey(Arc<LessSafeKey>);

impl SealKey {
    /// A key of 32 random bytes, kept by the caller.
    pub fn new(bytes: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, bytes).expect("32 bytes is the length of this algorithm's keys");
        Self(Arc::new(LessSafeKey::new(key)))
    }

    /// Reads the key file, or makes one (mode 0600) with a fresh key when there is none.
    ///
    /// # Errors
    /// The file cannot be read or written, or is not 32 bytes long.
    pub fn load_or_create(path: &Path) -> Result<Self, StoreError> {
        match fs::read(path) {
            Ok(bytes) => match <[u8; 32]>::try_from(bytes) {
                Ok(bytes) => Ok(Self::new(&bytes)),
                Err(_) => Err(StoreError::Io(format!("{} is not a seal key", path.display()).into())),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let mut bytes = [0; 32];
                random(&mut bytes);
                write_key(path, &bytes).map_err(|e| StoreError::from(Fault::from(e)))?;
                Ok(Self::new(&bytes))
            }
            Err(e) => Err(Fault::from(e).into()),
        }
    }

    /// Seals a body for the row of one object.
    pub(super) fn seal(&self, key: &ObjectKey, json: &[u8]) -> Vec<u8> {
        self.seal_for(&bound_to(key), json)
    }

    /// Opens the body of one object's row; `None` when it is not that, or another key sealed it.
    pub(super) fn unseal(&self, key: &ObjectKey, sealed: &[u8]) -> Option<Bytes> {
        self.unseal_for(&bound_to(key), sealed)
    }

    /// The token to keep in the file.
    pub(super) fn check_token(&self) -> Vec<u8> {
        self.seal_for(b"check", CHECK)
    }

    /// Whether this key made the token.
    pub(super) fn made(&self, token: &[u8]) -> bool {
        self.unseal_for(b"check", token).is_some_and(|text| text == CHECK)
    }

    fn seal_for(&self, bound: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        random(&mut nonce);
        let mut text = Vec::with_capacity(plain.len() + 16);
        text.extend_from_slice(plain);
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound), &mut text)
            .expect("a body is far below the algorithm's 256 GiB");
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + text.len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&text);
        sealed
    }

    fn unseal_for(&self, bound: &[u8], sealed: &[u8]) -> Option<Bytes> {
        let (&FORMAT, rest) = sealed.split_first()? else {
            return None;
        };
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>()?;
        let mut text = text.to_vec();
        let plain = self
            .0
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(bound), &mut text)
            .ok()?
            .len();
        text.truncate(plain);
        Some(text.into())
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(hidden)")
    }
}

/// Fills a buffer with random bytes of the operating system.
pub(super) fn random(buffer: &mut [u8]) {
    SystemRandom::new()
        .fill(buffer)
        .expect("the kernel gives random bytes once it has booted");
}

/// Names hold no NUL (checked at submission), so that two keys never make the same bytes.
fn bound_to(key: &ObjectKey) -> Vec<u8> {
    [&*key.group, &*key.resource, &*key.namespace, &*key.name]
        .join("\0")
        .into_bytes()
}

fn write_key(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let part = super::files::beside(path, ".part");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    super::files::rename(&part, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_under_its_own_name_and_key() {
        let seal = SealKey::new(&[7; 32]);
        let a = ObjectKey::new("", "secrets", "default", "a");
        let b = ObjectKey::new("", "secrets", "default", "b");
        let sealed = seal.seal(&a, b"password");
        assert!(!sealed.windows(8).any(|w| w == b"password"));
        assert_eq!(seal.unseal(&a, &sealed).unwrap(), &b"password"[..]);
        assert_eq!(seal.unseal(&b, &sealed), None, "another name");
        assert_eq!(SealKey::new(&[8; 32]).unseal(&a, &sealed), None, "another key");
        for i in 0..sealed.len() {
            let mut bent = sealed.clone();
            bent[i] ^= 1;
            assert_eq!(seal.unseal(&a, &bent), None, "byte {i} altered");
            assert_eq!(seal.unseal(&a, &sealed[..i]), None, "cut at {i}");
        }
        assert_ne!(seal.seal(&a, b"password"), sealed, "a fresh nonce each time");
    }

    #[test]
    fn key_file_is_made_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seal.key");
        let token = SealKey::load_or_create(&path).unwrap().check_token();
        assert!(SealKey::load_or_create(&path).unwrap().made(&token));
        assert!(!SealKey::new(&[0; 32]).made(&token));
        fs::write(&path, b"short").unwrap();
        assert!(SealKey::load_or_create(&path).is_err());
        assert_eq!(format!("{:?}", SealKey::new(&[7; 32])), "SealKey(hidden)");
    }
}
