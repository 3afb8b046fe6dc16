//! Times and fingerprints as Kubernetes objects carry them.

use std::hash::{Hash, Hasher};

use jiff::Timestamp;

/// `2026-11-21T03:11:10Z` of milliseconds since 1970.
pub(crate) fn stamp(wall_ms: u64) -> String {
    let seconds = i64::try_from(wall_ms / 1000).unwrap_or_default();
    Timestamp::from_second(seconds)
        .unwrap_or(Timestamp::UNIX_EPOCH)
        .to_string()
}

/// Now, in the same form.
pub(crate) fn now() -> String {
    stamp(daemon::clock::wall_ms())
}

/// A 64-bit FNV-1a hash, without a random seed. How a value becomes bytes is the standard library's business: it is the same in one build.
pub(crate) fn fingerprint(of: &impl Hash) -> u64 {
    let mut hasher = Fnv(BEGIN);
    of.hash(&mut hasher);
    hasher.finish()
}

/// The same of bytes as they are: equal in every build and on every machine, for what outlives the agent.
pub(crate) fn fingerprint_of_bytes(bytes: &[u8]) -> u64 {
    let mut hasher = Fnv(BEGIN);
    hasher.write(bytes);
    hasher.finish()
}

const BEGIN: u64 = 0xcbf2_9ce4_8422_2325;

struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_whole_seconds_in_utc() {
        assert_eq!(stamp(1_795_230_670_759), "2026-11-21T03:11:10Z");
    }

    #[test]
    fn fingerprints_tell_apart_and_stay() {
        assert_ne!(fingerprint(&["a", "bc"]), fingerprint(&["ab", "c"]));
        assert_eq!(fingerprint(&"press"), fingerprint(&"press"));
        // As its authors say it.
        assert_eq!(fingerprint_of_bytes(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
