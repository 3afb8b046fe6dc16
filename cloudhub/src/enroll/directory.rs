//! Tokens and identities: in memory for every question, in the store for every restart. Each change is one store transaction,
//! and nobody is told of it before it is durable.
//!
//! Changes are decided and queued under one lock, so that their order in memory is their order on disk; a change that could not
//! be stored is taken back from memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metastore::store::{CommitError, Op, Store, StoreError, Tx};
use serde::{Serialize, de::DeserializeOwned};

use super::identity::{Certificate, ClusterRecord, Identity, IdentityRefusal};
use super::token::TokenRecord;

const TOKENS: &str = "tokens";
const IDENTITIES: &str = "identities";

/// Tokens kept at a time; each is a few hundred bytes, and people make them one by one.
const MAX_TOKENS: usize = 10_000;

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    /// Too many tokens are kept.
    #[error("there are {MAX_TOKENS} tokens already; revoke some or wait until they are forgotten")]
    TooManyTokens,
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] CommitError),
}

#[derive(Debug, Default)]
struct State {
    tokens: BTreeMap<String, TokenRecord>,
    identities: HashMap<Arc<str>, Identity>,
}

/// The directory.
#[derive(Debug)]
pub(crate) struct Directory {
    store: Store,
    state: Mutex<State>,
}

/// A record that a change replaced.
#[derive(Debug)]
struct Replaced<K, R> {
    key: K,
    before: Option<R>,
    after: Option<R>,
}

/// A change to records, with what was there before.
#[derive(Debug, Default)]
struct Change {
    ops: Vec<Op>,
    tokens: Vec<Replaced<String, TokenRecord>>,
    identities: Vec<Replaced<Arc<str>, Identity>>,
}

impl Change {
    fn token(&mut self, state: &mut State, record: TokenRecord) {
        self.ops.push(put(TOKENS, &record.id, &record));
        let key = record.id.clone();
        let before = state.tokens.insert(key.clone(), record.clone());
        self.tokens.push(Replaced {
            key,
            before,
            after: Some(record),
        });
    }

    fn identity(&mut self, state: &mut State, identity: Identity) {
        self.ops.push(put(IDENTITIES, &identity.node, &identity));
        let key: Arc<str> = Arc::from(identity.node.as_str());
        let before = state.identities.insert(Arc::clone(&key), identity.clone());
        self.identities.push(Replaced {
            key,
            before,
            after: Some(identity),
        });
    }

    fn forget_token(&mut self, state: &mut State, id: &str) {
        self.ops.push(Op::KvDelete {
            bucket: TOKENS.into(),
            key: id.as_bytes().to_vec(),
        });
        self.tokens.push(Replaced {
            key: id.to_owned(),
            before: state.tokens.remove(id),
            after: None,
        });
    }

    /// The store did not take it. A record that a later change has built upon stays as that one left it: it stands or falls with the
    /// later change, which on disk says all of it. What is taken back becomes what is on disk, because what was in memory before may
    /// itself have been refused since.
    fn take_back(self, state: &mut State, store: &Store) {
        for r in self.tokens.into_iter().rev() {
            if state.tokens.get(&r.key) == r.after.as_ref() {
                match on_disk(store, TOKENS, &r.key).unwrap_or(r.before) {
                    Some(record) => drop(state.tokens.insert(r.key, record)),
                    None => drop(state.tokens.remove(&r.key)),
                }
            }
        }
        for r in self.identities.into_iter().rev() {
            if state.identities.get(&r.key) == r.after.as_ref() {
                match on_disk(store, IDENTITIES, &r.key).unwrap_or(r.before) {
                    Some(identity) => drop(state.identities.insert(r.key, identity)),
                    None => drop(state.identities.remove(&r.key)),
                }
            }
        }
    }
}

/// A record as it is stored; an error when the store cannot say.
fn on_disk<R: DeserializeOwned>(store: &Store, bucket: &str, key: &str) -> Result<Option<R>, ()> {
    let stored = store.kv_get(bucket, key.as_bytes()).map_err(drop)?;
    stored
        .map(|bytes| serde_json::from_slice(&bytes).map_err(drop))
        .transpose()
}

fn put(bucket: &str, key: &str, record: &impl Serialize) -> Op {
    Op::KvPut {
        bucket: bucket.into(),
        key: key.as_bytes().to_vec(),
        value: serde_json::to_vec(record).expect("a record of texts and numbers serialises"),
    }
}

/// What a join does to the records; see [`Directory::join`].
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) token: TokenRecord,
    pub(crate) identity: Identity,
}

impl Directory {
    /// Reads both buckets.
    ///
    /// # Errors
    /// When the store cannot be read. A record that cannot be is passed over with a warning.
    pub(crate) fn open(store: Store) -> Result<Self, StoreError> {
        let tokens: Vec<TokenRecord> = records(&store, TOKENS)?;
        let identities: Vec<Identity> = records(&store, IDENTITIES)?;
        let state = State {
            tokens: tokens.into_iter().map(|t| (t.id.clone(), t)).collect(),
            identities: identities
                .into_iter()
                .map(|i| (Arc::from(i.node.as_str()), i))
                .collect(),
        };
        Ok(Self {
            store,
            state: Mutex::new(state),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides under the lock, then waits until the decision is on disk. `decide` answers with what it found; without a change
    /// nothing is written.
    async fn change<T>(&self, decide: impl FnOnce(&mut State, &mut Change) -> T) -> Result<T, CommitError> {
        let mut change = Change::default();
        let (found, commit) = {
            let mut state = self.lock();
            let found = decide(&mut state, &mut change);
            if change.ops.is_empty() {
                return Ok(found);
            }
            (found, self.store.submit(Tx(std::mem::take(&mut change.ops))))
        };
        if let Err(e) = commit.await {
            change.take_back(&mut self.lock(), &self.store);
            return Err(e);
        }
        Ok(found)
    }

    /// All tokens that are not forgotten, in order of id.
    pub(crate) fn tokens(&self) -> Vec<TokenRecord> {
        self.lock().tokens.values().cloned().collect()
    }

    /// Adds a token, and forgets those nobody needs to hear of at `now` (wall clock, ms).
    pub(crate) async fn add_token(&self, record: TokenRecord, now: u64) -> Result<(), DirectoryError> {
        self.change(|state, change| {
            let old: Vec<String> = state
                .tokens
                .values()
                .filter(|t| t.forgettable(now))
                .map(|t| t.id.clone())
                .collect();
            for id in old {
                change.forget_token(state, &id);
            }
            if state.tokens.len() >= MAX_TOKENS {
                return Err(DirectoryError::TooManyTokens);
            }
            change.token(state, record);
            Ok(())
        })
        .await?
    }

    /// Takes a token back; false when there is none of that id.
    pub(crate) async fn revoke_token(&self, id: &str) -> Result<bool, CommitError> {
        self.change(|state, change| {
            let Some(record) = state.tokens.get(id).cloned() else {
                return false;
            };
            if !record.revoked {
                change.token(
                    state,
                    TokenRecord {
                        revoked: true,
                        ..record
                    },
                );
            }
            true
        })
        .await
    }

    /// Throws a node out: no certificate of it is accepted from here on, and the tokens bound to its name are taken back. False
    /// when it was never enrolled.
    pub(crate) async fn revoke_node(&self, node: &str) -> Result<bool, CommitError> {
        self.change(|state, change| {
            let Some(identity) = state.identities.get(node).cloned() else {
                return false;
            };
            if !identity.revoked {
                change.identity(
                    state,
                    Identity {
                        revoked: true,
                        ..identity
                    },
                );
            }
            let bound: Vec<TokenRecord> = state
                .tokens
                .values()
                .filter(|t| t.node.as_deref() == Some(node) && !t.revoked)
                .cloned()
                .collect();
            for token in bound {
                change.token(state, TokenRecord { revoked: true, ..token });
            }
            true
        })
        .await
    }

    /// Lets `decide` look at a token and the identity of a node, and replaces both, in one transaction, when it says so.
    pub(crate) async fn join<E>(
        &self,
        token: &str,
        decide: impl FnOnce(Option<&TokenRecord>, &dyn Fn(&str) -> Option<Identity>) -> Result<Option<Joined>, E>,
    ) -> Result<Result<(), E>, CommitError> {
        self.change(|state, change| {
            let joined = {
                let identity = |node: &str| state.identities.get(node).cloned();
                decide(state.tokens.get(token), &identity)?
            };
            if let Some(joined) = joined {
                change.token(state, joined.token);
                change.identity(state, joined.identity);
            }
            Ok(())
        })
        .await
    }

    /// Records a rotation asked for under certificate `current`; false when that certificate is not accepted any more.
    pub(crate) async fn rotate(&self, node: &str, current: &str, new: Certificate) -> Result<bool, CommitError> {
        self.change(|state, change| {
            let identity = state
                .identities
                .get(node)
                .filter(|i| i.accepts(current).is_ok())
                .cloned();
            let Some(identity) = identity else {
                return false;
            };
            change.identity(state, identity.rotated(current, new));
            true
        })
        .await
    }

    /// Records which Cluster stands for a node; nothing for a node that is not enrolled.
    pub(crate) async fn register(
        &self,
        node: &str,
        plane: &Arc<str>,
        uid: &str,
        site: Option<Arc<str>>,
    ) -> Result<(), CommitError> {
        let record = ClusterRecord {
            plane: Arc::clone(plane),
            uid: Arc::from(uid),
            site,
            withdrawn: false,
        };
        self.change(|state, change| {
            if let Some(identity) = state.identities.get(node).cloned() {
                let cluster = Some(record);
                change.identity(state, Identity { cluster, ..identity });
            }
        })
        .await
    }

    /// Records that the Cluster which stood for a node was removed; nothing when another stands for it by now.
    pub(crate) async fn withdraw(&self, node: &str, plane: &str, uid: &str) -> Result<(), CommitError> {
        self.change(|state, change| {
            let Some(identity) = state.identities.get(node).cloned() else {
                return;
            };
            let Some(record) = identity.cluster.clone() else {
                return;
            };
            if *record.plane == *plane && *record.uid == *uid && !record.withdrawn {
                tracing::info!(
                    node,
                    "The gateway's cluster was removed; `kurator join edge --again` on the gateway registers it again."
                );
                let cluster = Some(ClusterRecord {
                    withdrawn: true,
                    ..record
                });
                change.identity(state, Identity { cluster, ..identity });
            }
        })
        .await
    }

    /// Whether this certificate speaks for this node now.
    ///
    /// # Errors
    /// Unknown, revoked or replaced.
    pub(crate) fn accepts(&self, node: &str, serial: &str) -> Result<(), IdentityRefusal> {
        self.lock()
            .identities
            .get(node)
            .map_or(Err(IdentityRefusal::Unknown), |i| i.accepts(serial))
    }

    /// The record of a node.
    pub(crate) fn identity(&self, node: &str) -> Option<Identity> {
        self.lock().identities.get(node).cloned()
    }

    /// Whether a node is enrolled, and was not thrown out.
    pub(crate) fn enrolled(&self, node: &str) -> bool {
        self.lock()
            .identities
            .get(node)
            .is_some_and(|identity| !identity.revoked)
    }

    /// Names of all nodes ever enrolled, with whether they are revoked.
    pub(crate) fn nodes(&self) -> Vec<(Arc<str>, bool)> {
        self.lock()
            .identities
            .iter()
            .map(|(n, i)| (Arc::clone(n), i.revoked))
            .collect()
    }
}

fn records<T: DeserializeOwned>(store: &Store, bucket: &str) -> Result<Vec<T>, StoreError> {
    let mut out = Vec::new();
    for (key, value) in store.kv_scan(bucket, b"")? {
        match serde_json::from_slice(&value) {
            Ok(record) => out.push(record),
            Err(e) => {
                let key = String::from_utf8_lossy(&key);
                tracing::warn!(bucket, %key, error = %e, "A record cannot be read and is passed over.");
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use metastore::store::StoreOptions;

    fn identity(serials: &[&str]) -> Identity {
        let certificate = |serial: &&str| Certificate {
            serial: (*serial).to_owned(),
            not_after: u64::MAX,
            issued: 0,
        };
        Identity {
            node: "gw-1".to_owned(),
            certificates: serials.iter().map(certificate).collect(),
            revoked: false,
            joined: 0,
            token: "t".to_owned(),
            request: String::new(),
            labels: BTreeMap::new(),
            agent_version: String::new(),
            arch: String::new(),
            cluster: None,
        }
    }

    /// A renewal and a revocation are under way at once, and the disk takes only the second or none.
    #[tokio::test]
    async fn a_change_that_was_not_stored_takes_nothing_later_back_with_it() {
        for second_is_stored in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let (store, _) = Store::open(StoreOptions::new(dir.path().join("hub.db"))).unwrap();
            let directory = Directory::open(store.clone()).unwrap();
            directory
                .change(|state, change| change.identity(state, identity(&["01"])))
                .await
                .unwrap();

            let (mut renewal, mut revocation) = (Change::default(), Change::default());
            {
                let mut state = directory.lock();
                renewal.identity(&mut state, identity(&["01", "02"]));
                let revoked = Identity {
                    revoked: true,
                    ..identity(&["01", "02"])
                };
                revocation.identity(&mut state, revoked);
            }
            renewal.take_back(&mut directory.lock(), &store);
            assert_eq!(directory.accepts("gw-1", "01"), Err(IdentityRefusal::Revoked));
            if second_is_stored {
                store.commit(Tx(std::mem::take(&mut revocation.ops))).await.unwrap();
            } else {
                revocation.take_back(&mut directory.lock(), &store);
            }
            let again = Directory::open(store).unwrap();
            assert_eq!(directory.identity("gw-1"), again.identity("gw-1"));
            assert_eq!(directory.identity("gw-1").unwrap().revoked, second_is_stored);
        }
    }
}
