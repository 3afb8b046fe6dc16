//! What two sides compare to prove that their copies of a set are equal, without sending the set.
//!
//! Each entry has a hash over its key and body; the digest of a set is the sum of its entries' hashes mod 2^128, so that one
//! change costs one subtraction and one addition and the order of changes does not matter. It finds loss, damage and mistakes;
//! it is no defence against a peer that lies about what it holds (such a peer only deceives itself).

use core::fmt;
use std::sync::Arc;

/// Name of an entry: `<group>/<plural>/<namespace>/<name>`. Shared by everything that mentions the entry.
pub type Key = Arc<str>;

/// Hash of one entry, key and body.
pub type Hash = u128;

/// First 128 bits of SHA-256 over the key's length, the key and the body.
pub fn entry_hash(key: &str, body: &[u8]) -> Hash {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    hash.update(&(key.len() as u64).to_be_bytes());
    hash.update(key.as_bytes());
    hash.update(body);
    let mut first = [0; 16];
    first.copy_from_slice(&hash.finish().as_ref()[..16]);
    Hash::from_be_bytes(first)
}

/// Sum of the hashes of a set's entries. The empty set is zero.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub u128);

impl Digest {
    /// The digest of the empty set.
    pub const EMPTY: Self = Self(0);

    /// Counts an entry in.
    pub fn add(&mut self, hash: Hash) {
        self.0 = self.0.wrapping_add(hash);
    }

    /// Counts an entry out.
    pub fn sub(&mut self, hash: Hash) {
        self.0 = self.0.wrapping_sub(hash);
    }

    /// An entry went from one hash to another; `None` is absence.
    pub fn change(&mut self, from: Option<Hash>, to: Option<Hash>) {
        self.sub(from.unwrap_or(0));
        self.add(to.unwrap_or(0));
    }

    /// Its 16 bytes on the wire.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Reads 16 bytes from the wire.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(u128::from_be_bytes(bytes.try_into().ok()?)))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_fixed() {
        // Both ends compute this on their own: a changed value would set every gateway to a full exchange.
        assert_eq!(
            entry_hash("/nodes//gw-1", b"{}"),
            0xf30a_d1d3_8701_c217_aec1_9d08_4237_e8d9
        );
    }

    #[test]
    fn key_and_body_do_not_run_into_each_other() {
        assert_ne!(entry_hash("ab", b"c"), entry_hash("a", b"bc"));
    }

    #[test]
    fn order_does_not_matter_and_changes_undo() {
        let (mut one, mut two) = (Digest::EMPTY, Digest::EMPTY);
        for hash in [u128::MAX, 5, 1 << 127] {
            one.add(hash);
        }
        for hash in [5, 1 << 127, u128::MAX] {
            two.add(hash);
        }
        assert_eq!(one, two);
        one.change(Some(5), Some(9));
        assert_ne!(one, two);
        one.change(Some(9), None);
        two.sub(5);
        assert_eq!(one, two);
        assert_eq!(Digest::from_slice(&one.to_bytes()), Some(one));
        assert_eq!(Digest::from_slice(b"short"), None);
    }
}
