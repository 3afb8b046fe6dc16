//! Which session speaks for a node. Pure: time is an argument, sessions are numbers.
//!
//! A newer connection takes over from the older one, because the older is usually a dead link that nobody noticed yet. Two
//! gateways that run with one identity would take over from each other for ever; they are told apart by who they are (store
//! incarnation and boot): somebody who was displaced and comes back while his successor is alive is the second gateway. He is
//! turned away for a long time and the node is marked, so that people find the copy.
//!
//! | live session | newcomer                       | verdict |
//! |--------------|--------------------------------|---------|
//! | none         | anybody                        | in |
//! | same who     | the same gateway, reconnecting | in, older fenced |
//! | other who    | never displaced                | in, older fenced and remembered |
//! | other who    | displaced lately               | turned away, node marked |

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a displaced gateway is remembered, and how long a mark stays after the last attempt.
pub(crate) const DUPLICATE_WINDOW: Duration = Duration::from_secs(15 * 60);
/// What the second gateway with one identity is told to wait.
pub(crate) const DUPLICATE_RETRY: Duration = Duration::from_secs(5 * 60);
/// Displaced gateways remembered per node; more copies than this are found one by one.
const MAX_DISPLACED: usize = 4;

/// One run of one gateway: the incarnation of its store, and its boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Who {
    /// Made with the gateway's store.
    pub(crate) instance: u64,
    /// Made at each start of the agent.
    pub(crate) boot: u64,
}

/// What a newcomer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// In. The session named here, if any, is over.
    Accept {
        /// The session to close.
        fence: Option<u64>,
    },
    /// A second gateway runs with this identity.
    Duplicate {
        /// When to try again.
        retry_after: Duration,
    },
}

#[derive(Debug, Default)]
struct Entry {
    live: Option<(u64, Who)>,
    displaced: Vec<(Who, Duration)>,
    duplicate_at: Option<Duration>,
}

/// The claims of all nodes.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    nodes: HashMap<Arc<str>, Entry>,
}

impl Claims {
    /// A session with a number above all earlier ones says it speaks for `node`.
    pub(crate) fn claim(&mut self, node: &Arc<str>, session: u64, who: Who, now: Duration) -> Verdict {
        let entry = self.nodes.entry(Arc::clone(node)).or_default();
        entry
            .displaced
            .retain(|(_, at)| now.saturating_sub(*at) < DUPLICATE_WINDOW);
        let fence = match entry.live {
            Some((_, live)) if live != who => {
                if let Some(slot) = entry.displaced.iter_mut().find(|(w, _)| *w == who) {
                    slot.1 = now;
                    entry.duplicate_at = Some(now);
                    return Verdict::Duplicate {
                        retry_after: DUPLICATE_RETRY,
                    };
                }
                if entry.displaced.len() == MAX_DISPLACED {
                    entry.displaced.remove(0);
                }
                entry.displaced.push((live, now));
                entry.live
            }
            other => other,
        };
        entry.live = Some((session, who));
        Verdict::Accept {
            fence: fence.map(|(number, _)| number),
        }
    }

    /// The session ended; false when it was not the live one any more.
    pub(crate) fn release(&mut self, node: &str, session: u64) -> bool {
        let Some(entry) = self.nodes.get_mut(node) else {
            return false;
        };
        if entry.live.is_none_or(|(live, _)| live != session) {
            return false;
        }
        entry.live = None;
        if entry.displaced.is_empty() && entry.duplicate_at.is_none() {
            self.nodes.remove(node);
        }
        true
    }

    /// Whether a second gateway was seen with this identity lately.
    pub(crate) fn duplicate(&self, node: &str, now: Duration) -> bool {
        self.nodes
            .get(node)
            .and_then(|e| e.duplicate_at)
            .is_some_and(|at| now.saturating_sub(at) < DUPLICATE_WINDOW)
    }

    /// Forgets what is too old to matter, for nodes that are not live.
    pub(crate) fn sweep(&mut self, now: Duration) {
        self.nodes.retain(|_, e| {
            e.displaced.retain(|(_, at)| now.saturating_sub(*at) < DUPLICATE_WINDOW);
            e.duplicate_at = e.duplicate_at.filter(|at| now.saturating_sub(*at) < DUPLICATE_WINDOW);
            e.live.is_some() || !e.displaced.is_empty() || e.duplicate_at.is_some()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Who = Who { instance: 1, boot: 10 };
    const B: Who = Who { instance: 2, boot: 20 };

    fn at(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn newer_session_fences_older_and_the_fenced_one_releases_nothing() {
        let (mut claims, node) = (Claims::default(), Arc::<str>::from("gw"));
        assert_eq!(claims.claim(&node, 1, A, at(0)), Verdict::Accept { fence: None });
        assert_eq!(claims.claim(&node, 2, A, at(1)), Verdict::Accept { fence: Some(1) });
        assert!(!claims.release("gw", 1));
        assert!(claims.release("gw", 2));
        assert!(!claims.duplicate("gw", at(1)));
        assert!(claims.nodes.is_empty());
    }

    #[test]
    fn second_gateway_with_one_identity_is_turned_away_and_marked() {
        let (mut claims, node) = (Claims::default(), Arc::<str>::from("gw"));
        assert_eq!(claims.claim(&node, 1, A, at(0)), Verdict::Accept { fence: None });
        assert_eq!(claims.claim(&node, 2, B, at(1)), Verdict::Accept { fence: Some(1) });
        assert_eq!(
            claims.claim(&node, 3, A, at(2)),
            Verdict::Duplicate {
                retry_after: DUPLICATE_RETRY
            }
        );
        assert!(claims.duplicate("gw", at(3)));
        // It keeps trying and keeps being found, far beyond the first window.
        for minute in 1..60 {
            let verdict = claims.claim(&node, 3 + minute, A, at(2 + 300 * minute));
            assert_eq!(
                verdict,
                Verdict::Duplicate {
                    retry_after: DUPLICATE_RETRY
                }
            );
        }
        // The live one stays live, and when it leaves the other may come in.
        assert!(claims.release("gw", 2));
        assert_eq!(claims.claim(&node, 99, A, at(20_000)), Verdict::Accept { fence: None });
        claims.sweep(at(40_000));
        assert!(!claims.duplicate("gw", at(40_000)));
    }

    #[test]
    fn restarts_of_one_gateway_are_no_duplicate() {
        let (mut claims, node) = (Claims::default(), Arc::<str>::from("gw"));
        for boot in 0..20 {
            let verdict = claims.claim(&node, boot + 1, Who { instance: 1, boot }, at(boot));
            assert!(matches!(verdict, Verdict::Accept { .. }), "{boot}: {verdict:?}");
        }
        assert!(claims.nodes["gw"].displaced.len() <= MAX_DISPLACED);
        assert!(!claims.duplicate("gw", at(21)));
    }

    #[test]
    fn sweep_keeps_the_live_and_forgets_the_rest() {
        let mut claims = Claims::default();
        let (a, b) = (Arc::<str>::from("a"), Arc::<str>::from("b"));
        claims.claim(&a, 1, A, at(0));
        claims.claim(&b, 2, A, at(0));
        claims.claim(&b, 3, B, at(0));
        claims.release("b", 3);
        claims.sweep(at(10));
        assert_eq!(claims.nodes.len(), 2);
        claims.sweep(at(10) + DUPLICATE_WINDOW);
        assert_eq!(claims.nodes.keys().map(AsRef::as_ref).collect::<Vec<&str>>(), ["a"]);
    }
}
