//! What the hub keeps of a join token, and when it lets one in. Pure: time is an argument, nothing is stored from here.
//!
//! | state    | because                                   | a join is |
//! |----------|-------------------------------------------|-----------|
//! | active   | known, in time, uses left                 | let in (if the node fits) |
//! | revoked  | somebody said so                          | refused `Revoked` |
//! | expired  | `expires` has passed                      | refused `Expired` |
//! | used     | no uses left                              | refused `Used` |
//!
//! The secret itself is never kept: only its hash, so a copy of the store joins nobody.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Longest validity a token can be given.
pub(crate) const MAX_TTL_SECONDS: u64 = 365 * 24 * 3600;
/// Most uses a token can be given: a fleet's size.
pub(crate) const MAX_USES: u32 = 1_000_000;
/// A token that can no longer be used is forgotten this long after it expired; until then `list` shows what became of it.
pub(crate) const FORGET_AFTER_MS: u64 = 7 * 24 * 3600 * 1000;

/// One token as stored in the bucket `tokens` under its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokenRecord {
    /// Public name of the token.
    pub(crate) id: String,
    /// Hex of the secret's hash.
    pub(crate) secret_hash: String,
    /// The only node it may join, if bound.
    pub(crate) node: Option<String>,
    /// Labels given to whatever joins with it.
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// Wall clock, ms.
    pub(crate) created: u64,
    /// Wall clock, ms.
    pub(crate) expires: u64,
    /// Joins it still allows.
    pub(crate) uses_left: u32,
    /// Taken back.
    #[serde(default)]
    pub(crate) revoked: bool,
}

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TokenState {
    /// It lets in.
    Active,
    /// Its time is over.
    Expired,
    /// Its uses are gone.
    Used,
    /// It was taken back.
    Revoked,
}

/// Why a token does not let a node in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenRefusal {
    /// No such id, or the secret is not its.
    Unknown,
    /// Taken back.
    Revoked,
    /// Too late.
    Expired,
    /// Too often.
    Used,
    /// Bound to another node.
    WrongNode,
}

impl TokenRecord {
    /// What became of it at `now` (wall clock, ms).
    pub(crate) const fn state(&self, now: u64) -> TokenState {
        if self.revoked {
            TokenState::Revoked
        } else if now >= self.expires {
            TokenState::Expired
        } else if self.uses_left == 0 {
            TokenState::Used
        } else {
            TokenState::Active
        }
    }

    /// Whether somebody who shows a secret with this hash may join as `node`. A use is not taken.
    ///
    /// The order is part of the contract: who does not know the secret learns nothing about the token's state.
    ///
    /// # Errors
    /// The first reason that holds.
    pub(crate) fn check(&self, secret_hash: &str, node: &str, now: u64) -> Result<(), TokenRefusal> {
        if self.secret_hash != secret_hash {
            return Err(TokenRefusal::Unknown);
        }
        match self.state(now) {
            TokenState::Revoked => Err(TokenRefusal::Revoked),
            TokenState::Expired => Err(TokenRefusal::Expired),
            // A used token is refused as used even to another node than the one it was for.
            TokenState::Used => Err(TokenRefusal::Used),
            TokenState::Active => match &self.node {
                Some(bound) if bound != node => Err(TokenRefusal::WrongNode),
                _ => Ok(()),
            },
        }
    }

    /// The record after one more join.
    #[must_use]
    pub(crate) fn consumed(mut self) -> Self {
        self.uses_left = self.uses_left.saturating_sub(1);
        self
    }

    /// Whether nobody needs to hear of it any more.
    pub(crate) const fn forgettable(&self, now: u64) -> bool {
        now >= self.expires.saturating_add(FORGET_AFTER_MS)
    }
}

/// A label as Kubernetes takes it: an optional prefix, a name, and a value of at most 63 plain characters.
pub(crate) fn good_label(key: &str, value: &str) -> bool {
    let word = |t: &str| {
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        t.len() <= 63
            && edge(t.as_bytes().first())
            && edge(t.as_bytes().last())
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let (prefix, name) = key.split_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    word(name) && prefix.is_none_or(link::pki::is_node_name) && (value.is_empty() || word(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> TokenRecord {
        TokenRecord {
            id: "t".into(),
            secret_hash: "aa".into(),
            node: Some("gw-1".into()),
            labels: BTreeMap::new(),
            created: 1000,
            expires: 2000,
            uses_left: 1,
            revoked: false,
        }
    }

    #[test]
    fn each_refusal_has_its_own_reason_and_the_secret_comes_first() {
        let t = token();
        assert_eq!(t.check("aa", "gw-1", 1500), Ok(()));
        assert_eq!(t.check("bb", "gw-1", 1500), Err(TokenRefusal::Unknown));
        assert_eq!(t.check("aa", "gw-2", 1500), Err(TokenRefusal::WrongNode));
        assert_eq!(t.check("aa", "gw-1", 2000), Err(TokenRefusal::Expired));
        let used = t.clone().consumed();
        assert_eq!(used.check("aa", "gw-1", 1500), Err(TokenRefusal::Used));
        let revoked = TokenRecord { revoked: true, ..used };
        assert_eq!(revoked.check("aa", "gw-1", 9000), Err(TokenRefusal::Revoked));
        assert_eq!(revoked.check("zz", "gw-1", 9000), Err(TokenRefusal::Unknown));
    }

    #[test]
    fn unbound_token_fits_any_node_as_often_as_it_says() {
        let mut t = TokenRecord {
            node: None,
            uses_left: 2,
            ..token()
        };
        for node in ["a", "b"] {
            assert_eq!(t.check("aa", node, 1500), Ok(()));
            t = t.consumed();
        }
        assert_eq!(t.check("aa", "c", 1500), Err(TokenRefusal::Used));
        assert_eq!(t.consumed().uses_left, 0);
    }

    #[test]
    fn record_survives_json_and_is_forgotten_in_time() {
        let t = token();
        let back: TokenRecord = serde_json::from_slice(&serde_json::to_vec(&t).unwrap()).unwrap();
        assert_eq!(back, t);
        assert!(!t.forgettable(2000 + FORGET_AFTER_MS - 1));
        assert!(t.forgettable(2000 + FORGET_AFTER_MS));
    }

    #[test]
    fn labels_are_kubernetes_labels() {
        for (k, v) in [("region", "east-china"), ("kurator.dev/site", ""), ("a", "1.2_3")] {
            assert!(good_label(k, v), "{k}={v}");
        }
        for (k, v) in [
            ("", "x"),
            ("a b", "x"),
            ("a", "b c"),
            ("/a", "x"),
            ("a", "-x"),
            ("A/B/c", "x"),
        ] {
            assert!(!good_label(k, v), "{k}={v}");
        }
    }
}
