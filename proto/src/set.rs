//! The two ends of a replicated set as data: what a source has (`SourceSet`) and what a mirror holds of it (`Inventory`).
//! Both keep their digest as they change. Neither knows about sessions; both outlive them and go from one to the next.

use crate::digest::{Digest, Hash, Key, entry_hash};
use crate::limits;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Why an entry cannot travel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The key is empty, too long or holds control characters.
    #[error(
        "a key has 1 to {} bytes and no control characters; this one has {len} bytes",
        limits::MAX_KEY
    )]
    Key {
        /// Bytes of the key.
        len: usize,
    },
    /// The body is larger than a frame can carry.
    #[error("the object has {len} bytes; at most {} can be sent", limits::MAX_BODY)]
    Body {
        /// Bytes of the body.
        len: usize,
    },
}

/// Whether an entry can travel at all.
pub fn check_entry(key: &str, body: &[u8]) -> Result<(), Unfit> {
    if !key_is_good(key) {
        return Err(Unfit::Key { len: key.len() });
    }
    if body.len() > limits::MAX_BODY {
        return Err(Unfit::Body { len: body.len() });
    }
    Ok(())
}

pub(crate) fn key_is_good(key: &str) -> bool {
    !key.is_empty() && key.len() <= limits::MAX_KEY && !key.bytes().any(|b| b < 0x20 || b == 0x7f)
}

/// The set as its owner has it: keys, hashes and bodies. Bodies are shared (`Bytes`): a body that a thousand gateways have in
/// their sets is in memory once.
#[derive(Clone, Debug, Default)]
pub struct SourceSet {
    entries: BTreeMap<Key, (Hash, Bytes)>,
    digest: Digest,
    unfit: BTreeMap<Key, Unfit>,
}

impl SourceSet {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts an entry; true when that changed the set. An entry that cannot travel changes nothing and is listed by [`Self::unfit`].
    pub fn put(&mut self, key: impl Into<Key>, body: impl Into<Bytes>) -> bool {
        let (key, body) = (key.into(), body.into());
        let hash = entry_hash(&key, &body);
        self.put_hashed(key, hash, body)
    }

    /// The same for a caller that keeps the hash of a body shared by many sets. `hash` must be `entry_hash(key, body)`.
    pub fn put_hashed(&mut self, key: Key, hash: Hash, body: Bytes) -> bool {
        if let Err(why) = check_entry(&key, &body) {
            self.unfit.insert(key, why);
            return false;
        }
        self.unfit.remove(&key);
        if let Some((held, held_body)) = self.entries.get_mut(&key) {
            if *held == hash {
                return false;
            }
            self.digest.change(Some(*held), Some(hash));
            (*held, *held_body) = (hash, body);
        } else {
            self.digest.add(hash);
            self.entries.insert(key, (hash, body));
        }
        true
    }

    /// Removes an entry; true when it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        self.unfit.remove(key);
        match self.entries.remove(key) {
            Some((hash, _)) => {
                self.digest.sub(hash);
                true
            }
            None => false,
        }
    }

    /// The body under a key.
    pub fn get(&self, key: &str) -> Option<&Bytes> {
        self.entries.get(key).map(|(_, body)| body)
    }

    /// The hash under a key.
    pub fn hash(&self, key: &str) -> Option<Hash> {
        self.entries.get(key).map(|(hash, _)| *hash)
    }

    /// Keys, hashes and bodies in order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, Hash, &Bytes)> {
        self.entries.iter().map(|(key, (hash, body))| (key, *hash, body))
    }

    /// Entries that were put and cannot travel, with the reason; the version put before, if any, stays in the set.
    pub fn unfit(&self) -> &BTreeMap<Key, Unfit> {
        &self.unfit
    }

    /// Sum of the entries' hashes.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn entry(&self, key: &str) -> Option<(&Key, Hash, &Bytes)> {
        self.entries
            .get_key_value(key)
            .map(|(key, (hash, body))| (key, *hash, body))
    }

    /// Keys and hashes after `after`, up to and with `upto` (to the end when `None`).
    pub(crate) fn between(&self, after: Option<&str>, upto: Option<&str>) -> impl Iterator<Item = (&Key, Hash)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        // BTreeMap::range panics on a range that runs backwards; callers check that keys ascend, this makes it certain.
        let upto = upto.map_or(Bound::Unbounded, |upto| {
            Bound::Included(after.map_or(upto, |after| upto.max(after)))
        });
        self.entries
            .range::<str, _>((from, upto))
            .map(|(key, (hash, _))| (key, *hash))
    }
}

impl<K: Into<Key>, B: Into<Bytes>> FromIterator<(K, B)> for SourceSet {
    fn from_iter<I: IntoIterator<Item = (K, B)>>(entries: I) -> Self {
        let mut set = Self::new();
        for (key, body) in entries {
            set.put(key, body);
        }
        set
    }
}

/// A body that a mirror looked at and does not apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The refused body; `None` when a removal was refused.
    pub hash: Option<Hash>,
    /// For people.
    pub reason: String,
}

/// What a mirror holds of the other side's set: keys and hashes, the bodies being wherever the mirror keeps them.
///
/// A refused body counts in the digest as if it were applied, because the source must not send it again: the digest says "I have
/// dealt with exactly these", and the refused keys are listed apart. What was held under a refused key before stays held.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Per key the body last dealt with, applied or refused.
    dealt: BTreeMap<Key, Hash>,
    digest: Digest,
    refused: BTreeMap<Key, Refused>,
}

#[derive(Clone, Debug)]
struct Refused {
    refusal: Refusal,
    held: Option<Hash>,
}

impl Inventory {
    /// An empty inventory.
    pub fn new() -> Self {
        Self::default()
    }

    /// The mirror holds this body now (hash as given with the change, or `entry_hash`).
    pub fn put(&mut self, key: impl Into<Key>, hash: Hash) {
        let key = key.into();
        self.refused.remove(&key);
        let before = self.dealt.insert(key, hash);
        self.digest.change(before, Some(hash));
    }

    /// The mirror holds nothing under this key now.
    pub fn remove(&mut self, key: &str) {
        self.refused.remove(key);
        let before = self.dealt.remove(key);
        self.digest.change(before, None);
    }

    /// The mirror refused a body (or a removal, `hash` = `None`) and keeps what it held.
    pub fn refuse(&mut self, key: impl Into<Key>, hash: Option<Hash>, reason: impl Into<String>) {
        let key = key.into();
        let held = self.held(&key);
        let before = match hash {
            Some(hash) => self.dealt.insert(key.clone(), hash),
            None => self.dealt.remove(&key),
        };
        self.digest.change(before, hash);
        let refusal = Refusal {
            hash,
            reason: reason.into(),
        };
        self.refused.insert(key, Refused { refusal, held });
    }

    /// What was refused under this key would be looked at again: from here on only what is held counts. True when there was a refusal.
    pub fn reconsider(&mut self, key: &str) -> bool {
        let Some((key, refused)) = self.refused.remove_entry(key) else {
            return false;
        };
        let before = match refused.held {
            Some(held) => self.dealt.insert(key, held),
            None => self.dealt.remove(&key),
        };
        self.digest.change(before, refused.held);
        true
    }

    /// Hash of what the mirror holds under a key.
    pub fn held(&self, key: &str) -> Option<Hash> {
        match self.refused.get(key) {
            Some(refused) => refused.held,
            None => self.dealt.get(key).copied(),
        }
    }

    /// Refused keys with what was refused and why.
    pub fn refused(&self) -> impl Iterator<Item = (&Key, &Refusal)> {
        self.refused.iter().map(|(key, refused)| (key, &refused.refusal))
    }

    /// Number of refused keys.
    pub fn refused_len(&self) -> usize {
        self.refused.len()
    }

    /// Sum over what was dealt with, applied or refused: equal to the source's when nothing is left to send.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Number of keys dealt with.
    pub fn len(&self) -> usize {
        self.dealt.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.dealt.is_empty()
    }

    /// Keys and hashes dealt with, after `after`, in order.
    pub(crate) fn after(&self, after: Option<&str>) -> impl Iterator<Item = (&Key, Hash)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.dealt
            .range::<str, _>((from, Bound::Unbounded))
            .map(|(key, hash)| (key, *hash))
    }

    pub(crate) fn knows(&self, key: &str) -> bool {
        self.dealt.contains_key(key) || self.refused.contains_key(key)
    }

    pub(crate) fn refusal(&self, key: &str) -> Option<&Refusal> {
        self.refused.get(key).map(|refused| &refused.refusal)
    }
}

impl<K: Into<Key>> FromIterator<(K, Hash)> for Inventory {
    fn from_iter<I: IntoIterator<Item = (K, Hash)>>(entries: I) -> Self {
        let mut inventory = Self::new();
        for (key, hash) in entries {
            inventory.put(key, hash);
        }
        inventory
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_have_equal_digests_on_both_ends() {
        let set: SourceSet = [("a", "1"), ("b", "2")].into_iter().collect();
        let mut inventory: Inventory = set.iter().map(|(key, hash, _)| (key.clone(), hash)).collect();
        assert_eq!(set.digest(), inventory.digest());
        inventory.remove("a");
        assert_ne!(set.digest(), inventory.digest());
        inventory.remove("b");
        assert_eq!(inventory.digest(), Digest::EMPTY);
    }

    #[test]
    fn a_refusal_that_is_reconsidered_leaves_what_is_held() {
        let mut inventory = Inventory::new();
        inventory.put("held", 1);
        let before = inventory.digest();
        inventory.refuse("held", Some(2), "no");
        inventory.refuse("new", Some(3), "no");
        inventory.refuse("gone", None, "no");
        for key in ["held", "new", "gone"] {
            assert!(inventory.reconsider(key));
            assert!(!inventory.reconsider(key));
        }
        assert_eq!((inventory.digest(), inventory.held("held")), (before, Some(1)));
        assert_eq!((inventory.len(), inventory.refused_len()), (1, 0));
    }

    #[test]
    fn put_tells_whether_it_changed_anything() {
        let mut set = SourceSet::new();
        assert!(set.put("a", "1"));
        assert!(!set.put("a", "1"));
        assert!(set.put("a", "2"));
        assert!(set.remove("a"));
        assert!(!set.remove("a"));
        assert_eq!(set.digest(), Digest::EMPTY);
    }

    #[test]
    fn what_cannot_travel_stays_out_and_is_named() {
        let mut set = SourceSet::new();
        set.put("a", "small");
        assert!(!set.put("a", vec![b'x'; limits::MAX_BODY + 1]));
        assert_eq!(set.get("a").unwrap(), "small");
        assert_eq!(
            set.unfit()["a"],
            Unfit::Body {
                len: limits::MAX_BODY + 1
            }
        );
        assert!(set.put("a", "small again"));
        assert!(set.unfit().is_empty());
        assert!(!set.put("", "x"));
        assert!(!set.put("a\nb", "x"));
        assert!(!set.put("k".repeat(limits::MAX_KEY + 1), "x"));
        assert_eq!((set.len(), set.unfit().len()), (1, 3));
    }

    #[test]
    fn refused_counts_as_dealt_with_and_what_was_held_stays() {
        let (old, new) = (entry_hash("a", b"old"), entry_hash("a", b"new"));
        let mut inventory = Inventory::new();
        inventory.put("a", old);
        inventory.refuse("a", Some(new), "no");
        assert_eq!(inventory.digest(), Digest(new));
        assert_eq!(inventory.held("a"), Some(old));
        inventory.refuse("a", None, "still needed");
        assert_eq!(inventory.digest(), Digest::EMPTY);
        assert_eq!(inventory.held("a"), Some(old));
        inventory.put("a", new);
        assert_eq!((inventory.digest(), inventory.refused_len()), (Digest(new), 0));
    }

    #[test]
    fn between_takes_any_bounds() {
        let set: SourceSet = ["a", "b", "c", "d"].into_iter().map(|key| (key, "")).collect();
        let keys = |after, upto| {
            set.between(after, upto)
                .map(|(key, _)| key.to_string())
                .collect::<String>()
        };
        assert_eq!(keys(None, None), "abcd");
        assert_eq!(keys(Some("a"), Some("c")), "bc");
        assert_eq!(keys(Some("b"), Some("b")), "");
        assert_eq!(keys(Some("c"), Some("a")), "");
        assert_eq!(keys(Some("d"), None), "");
    }
}
