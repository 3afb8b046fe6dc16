//! The hub's set at the gateway: applies what the session brings, one store transaction per batch (one per change when something in it
//! cannot be stored), and remembers by key and hash
//! what it dealt with, so that after any restart the digest tells the hub what is missing.
//!
//! The objects themselves are ordinary objects of the store. Bucket `mirror` holds one record per key: the hash of the hub's body,
//! and for a refused body the reason. Devices are merged (`device_models::merge_device_desired`): a desired value that was set here
//! and counts over the hub's stays, and travels up on its own (see `observed`); what was dropped without its writer's knowledge goes into
//! the conflict log with the same transaction (see `conflicts`).
//!
//! Works are stored as they come, beside what the gateway says of them in their status; what follows from them is [`crate::works`].
//!
//! It never judges by anything but the object and the store, so a refusal is the same whenever it is looked at again.

use std::collections::BTreeSet;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use daemon::backoff::FullJitter;
use device_models::kinds::{Device, DeviceModel};
use device_models::{merge_device_desired, validate_device, validate_model};
use metastore::store::{CommitError, Expect, ObjectKey, Op, Store, StoreError, Tx};
use proto::{Applied, Change, Hash, Inventory, Key};
use serde::Deserialize;
use serde_json::Value;

use crate::conflicts::{Conflicts, Log};
use crate::metrics::Metrics;
use crate::objects::{self, DEVICES, EDGE_NODES, MODELS, WORK_GROUP, WORKS};
use crate::stamps::Stamps;
use crate::works;

/// The bucket of keys and hashes.
pub(crate) const BUCKET: &str = "mirror";
/// Attempts of one batch when local writers change the same Devices meanwhile.
const MAX_RACES: usize = 16;
/// Refused Devices asked for again with one batch: a transaction has its bounds.
const MAX_AGAIN: usize = 2048;
/// Waits between attempts while the disk is full: nobody gains by asking it often.
const FULL_BASE: Duration = Duration::from_secs(1);
const FULL_CAP: Duration = Duration::from_secs(30);
/// Why an object of a kind that this agent has no use for is refused.
const UNKNOWN_KIND: &str = "this agent does not know objects of that kind";
/// Longest reason kept, in bytes (the wire's own bound).
const MAX_REASON: usize = proto::limits::MAX_REASON;

/// The gateway's end of the desired set.
#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    store: Store,
    stamps: Stamps,
    node: String,
    conflicts: Conflicts,
}

/// What to do with one change, decided against one state of the store.
struct Decision {
    ops: Vec<Op>,
    refused: Option<String>,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// For the acknowledgement.
    pub(crate) applied: Applied,
    /// Devices refused before that a changed DeviceModel may allow now: the session is to forget them, so that they come again.
    pub(crate) again: Vec<Key>,
}

impl Mirror {
    /// Over `store`, for gateway `node`.
    pub(crate) const fn new(store: Store, stamps: Stamps, node: String, conflicts: Conflicts) -> Self {
        Self {
            store,
            stamps,
            node,
            conflicts,
        }
    }

    /// What was dealt with so far.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn inventory(&self) -> Result<Inventory, StoreError> {
        let mut inventory = Inventory::new();
        for (key, record) in self.store.kv_scan(BUCKET, b"")? {
            let (Ok(key), Some(record)) = (str::from_utf8(&key), Record::decode(&record)) else {
                // The hub sends it again.
                continue;
            };
            if let Some(held) = record.held {
                inventory.put(key, held);
            }
            // What an older agent did not know is asked for again by one that does.
            let outdated =
                |reason: &str| reason == UNKNOWN_KIND && objects::parse_replica_key(key).is_some_and(|k| known(&k));
            if let Some((hash, reason)) = record.refused.filter(|(_, reason)| !outdated(reason)) {
                inventory.refuse(key, hash, reason);
            }
        }
        Ok(inventory)
    }

    /// Applies a batch durably. Waits out a full disk; the session's heartbeats tell the hub that the gateway lives.
    ///
    /// A batch is one transaction. When the store will not have it because of something in it, its changes are applied one by one and
    /// those to blame are refused, so that one object holds up no other.
    ///
    /// # Errors
    /// When the store is closed or damaged.
    pub(crate) async fn apply(&self, changes: Vec<Change>, metrics: &Metrics) -> Result<Outcome, CommitError> {
        let count = changes.len();
        let outcome = match self.commit(|| self.plan(&changes, &changes)).await? {
            Ok(outcome) => outcome,
            Err(why) => {
                tracing::warn!(%why, changes = count, "The hub's changes cannot be stored together; storing them one by one.");
                self.apply_each(changes).await?
            }
        };
        let refused = outcome.applied.refused.len();
        metrics.desired_refused.add(refused as u64);
        metrics.desired_applied.add((count - refused) as u64);
        for (key, reason) in &outcome.applied.refused {
            tracing::warn!(%key, %reason, "An object of the hub was refused.");
        }
        Ok(outcome)
    }

    /// Applies a batch in one transaction for each change. DeviceModels first: a Device is held to the models that were stored.
    async fn apply_each(&self, changes: Vec<Change>) -> Result<Outcome, CommitError> {
        let (mut batch, others): (Vec<_>, Vec<_>) = changes
            .into_iter()
            .partition(|change| model_namespace(&change.key).is_some());
        batch.extend(others);
        let mut outcome = Outcome::default();
        let mut done = 0;
        while let Some(change) = batch.get(done) {
            match self.commit(|| self.plan(slice::from_ref(change), &batch)).await? {
                Ok(one) => {
                    outcome.applied.refused.extend(one.applied.refused);
                    outcome.again.extend(one.again);
                    done += 1;
                }
                Err(why) => {
                    outcome.applied.refused.extend(self.quarantine(change, &why).await?);
                    batch.remove(done);
                }
            }
        }
        Ok(outcome)
    }

    /// Refuses a change that the store will not have. What it will never have is remembered; what lost a race too often comes again
    /// with the next session.
    async fn quarantine(&self, change: &Change, why: &CommitError) -> Result<Option<(Key, String)>, CommitError> {
        let never = matches!(why, CommitError::Invalid { .. } | CommitError::NoSealKey(_));
        if never && change.body.is_none() {
            // Nothing of that name can be here.
            return Ok(None);
        }
        let reason = cut(format!("the gateway's store does not take it: {why}"));
        if never {
            let remembered = self.commit(|| {
                let record = Record {
                    held: self.held(&change.key).map_err(read_failed)?,
                    refused: Some((change.body.as_ref().map(|_| change.hash), reason.clone())),
                };
                Ok((Tx(vec![record.op(&change.key)]), ()))
            });
            if let Err(why) = remembered.await? {
                tracing::warn!(key = %change.key, %why, "The refusal holds for this session only.");
            }
        }
        Ok(Some((Key::clone(&change.key), reason)))
    }

    /// Commits what `plan` makes of the present state, with that state looked at again after a lost race. Waits for a disk that is full
    /// or fails.
    ///
    /// # Errors
    /// The outer one when the store is closed or damaged; the inner one when something in the plan is to blame.
    async fn commit<T>(
        &self,
        plan: impl Fn() -> Result<(Tx, T), CommitError>,
    ) -> Result<Result<T, CommitError>, CommitError> {
        let mut pause = FullJitter::new(FULL_BASE, FULL_CAP);
        let mut races = 0;
        loop {
            let (tx, planned) = plan()?;
            let error = match self.store.commit(tx).await {
                Ok(committed) => {
                    // Nothing else is journalled here.
                    if let Some(newest) = committed.journal_seqs.last() {
                        self.conflicts.grew(*newest);
                    }
                    return Ok(Ok(planned));
                }
                Err(error) => error,
            };
            match error {
                // A local writer was faster: look again at what is there now.
                CommitError::Conflict { .. }
                | CommitError::UidConflict { .. }
                | CommitError::KvConflict { .. }
                | CommitError::Exists(_)
                | CommitError::NotFound(_)
                    if races < MAX_RACES =>
                {
                    races += 1;
                }
                CommitError::Conflict { .. }
                | CommitError::UidConflict { .. }
                | CommitError::KvConflict { .. }
                | CommitError::Exists(_)
                | CommitError::NotFound(_)
                | CommitError::Invalid { .. }
                | CommitError::NoSealKey(_) => return Ok(Err(error)),
                CommitError::Full | CommitError::Overloaded | CommitError::Io(_) => {
                    tracing::warn!(%error, "The hub's changes cannot be stored now; trying again.");
                    tokio::time::sleep(pause.next_wait()).await;
                }
                CommitError::Closed | CommitError::Corrupt(_) => return Err(error),
            }
        }
    }

    /// What is to be done for `changes`, which are of `batch`.
    fn plan(&self, changes: &[Change], batch: &[Change]) -> Result<(Tx, Outcome), CommitError> {
        let now = objects::rfc3339(daemon::clock::wall_ms());
        let mut ops = Vec::with_capacity(changes.len() * 2 + 1);
        let mut applied = Applied::default();
        for change in changes {
            let decision = self.decide(change, batch, &now).map_err(read_failed)?;
            ops.extend(decision.ops);
            let before = self.held(&change.key).map_err(read_failed)?;
            let hash = change.body.as_ref().map(|_| change.hash);
            let record = match decision.refused {
                None => Record {
                    held: hash,
                    refused: None,
                },
                Some(reason) => {
                    let reason = cut(reason);
                    applied.refused.push((Key::clone(&change.key), reason.clone()));
                    Record {
                        held: before,
                        refused: Some((hash, reason)),
                    }
                }
            };
            ops.push(record.op(&change.key));
        }
        let mut again = Vec::new();
        for (key, held) in self.allowed_again(changes, batch).map_err(read_failed)? {
            ops.push(Record { held, refused: None }.op(&key));
            again.push(key);
        }
        ops.push(self.stamps.persist());
        Ok((Tx(ops), Outcome { applied, again }))
    }

    /// Refused Devices in the namespaces of the DeviceModels of these changes, with the hash of what is held of each. The bodies are
    /// not here any more; their keys are no longer counted as dealt with, so the hub sends them again.
    fn allowed_again(&self, changes: &[Change], batch: &[Change]) -> Result<Vec<(Key, Option<Hash>)>, StoreError> {
        let namespaces: BTreeSet<_> = changes
            .iter()
            .filter_map(|change| model_namespace(&change.key))
            .collect();
        let mut found = Vec::new();
        for namespace in namespaces {
            let prefix = objects::device_key(DEVICES, &namespace, "").to_string();
            for (key, record) in self.store.kv_scan(BUCKET, prefix.as_bytes())? {
                let (Ok(key), Some(record)) = (str::from_utf8(&key), Record::decode(&record)) else {
                    continue;
                };
                // What the batch itself brings is held to the batch's models already.
                let known = || batch.iter().any(|change| *change.key == *key);
                if matches!(record.refused, Some((Some(_), _))) && found.len() < MAX_AGAIN && !known() {
                    found.push((Key::from(key), record.held));
                }
            }
        }
        Ok(found)
    }

    /// Hash of what is held under a key.
    fn held(&self, key: &str) -> Result<Option<Hash>, StoreError> {
        let record = self.store.kv_get(BUCKET, key.as_bytes())?;
        Ok(record.and_then(|record| Record::decode(&record)?.held))
    }

    fn decide(&self, change: &Change, batch: &[Change], now: &str) -> Result<Decision, StoreError> {
        let refuse = |reason: String| Decision {
            ops: Vec::new(),
            refused: Some(reason),
        };
        let Some(key) = objects::parse_replica_key(&change.key).filter(known) else {
            return Ok(refuse(UNKNOWN_KIND.to_owned()));
        };
        let Some(body) = &change.body else {
            let mut ops = Vec::with_capacity(2);
            if &*key.resource == DEVICES {
                ops.push(Conflicts::forget(&key));
            }
            ops.push(Op::Delete {
                key,
                expect: Expect::Any,
                uid: None,
            });
            return Ok(Decision { ops, refused: None });
        };
        let object: Value = match serde_json::from_slice(body) {
            Ok(object) => object,
            Err(e) => return Ok(refuse(format!("not JSON: {e}"))),
        };
        if let Err(reason) = self.check(&key, &object, batch)? {
            return Ok(refuse(reason));
        }
        let held = match self.store.get(&key)? {
            Some(held) => match held.value() {
                Ok(value) => Some((value, held.revision)),
                Err(e) => return Ok(refuse(format!("what is stored under this name cannot be read: {e}"))),
            },
            None => None,
        };
        let mut result = object;
        let mut log = Log::default();
        if &*key.resource == DEVICES {
            let wall_ms = daemon::clock::wall_ms();
            self.stamps.observe(&result, wall_ms);
            if let Some((local, _)) = &held {
                let mut merged = local.clone();
                let changed = merge_device_desired(&mut merged, &result);
                log = self.conflicts.log(&key, &merged, &changed.conflicts, wall_ms)?;
                result = merged;
            } else {
                log = self.conflicts.took_in(&key, &result)?;
            }
        }
        if &*key.resource == WORKS {
            // What became of it is said here, and stays said until somebody looked at the new one.
            works::keep_status(&mut result, held.as_ref().map(|(value, _)| value));
        }
        objects::localize(&mut result, held.as_ref().map(|(value, _)| value), now);
        let expect = held.map_or(Expect::Absent, |(_, revision)| Expect::Revision(revision));
        let mut ops = log.ops;
        if !key.namespace.is_empty() && self.store.get(&objects::namespace_key(&key.namespace))?.is_none() {
            // Programs look for the namespace of what they find. A batch makes it as often as it needs it; the same bytes change nothing.
            ops.push(Op::Put {
                key: objects::namespace_key(&key.namespace),
                object: objects::namespace(&key.namespace, now),
                expect: Expect::Any,
                uid: None,
            });
        }
        ops.push(Op::Put {
            key,
            object: result,
            expect,
            uid: None,
        });
        Ok(Decision { ops, refused: None })
    }

    /// What speaks against an object. A DeviceModel may come in the same batch as the Device that names it.
    fn check(&self, key: &ObjectKey, object: &Value, batch: &[Change]) -> Result<Result<(), String>, StoreError> {
        let metadata = &object["metadata"];
        let named = metadata["name"].as_str() == Some(&*key.name)
            && metadata["namespace"].as_str().unwrap_or_default() == &*key.namespace;
        if !named {
            return Ok(Err("the object has another name than its key".to_owned()));
        }
        let errors = match &*key.resource {
            WORKS => return Ok(works::check(&key.namespace, object)),
            MODELS => validate_model(object),
            DEVICES => {
                let device = match Device::deserialize(object) {
                    Ok(device) => device,
                    Err(e) => return Ok(Err(format!("not a Device: {e}"))),
                };
                if device.spec.node_name.as_deref() != Some(self.node.as_str()) {
                    return Ok(Err("the device hangs on another gateway".to_owned()));
                }
                let model = match &device.spec.device_model_ref {
                    Some(model) => self.model(&key.namespace, &model.name, batch)?,
                    None => None,
                };
                validate_device(&device, model.as_ref())
            }
            _ => Vec::new(),
        };
        if errors.is_empty() {
            return Ok(Ok(()));
        }
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Ok(Err(texts.join("; ")))
    }

    fn model(&self, namespace: &str, name: &str, batch: &[Change]) -> Result<Option<DeviceModel>, StoreError> {
        let key = objects::device_key(MODELS, namespace, name);
        let wire_key = key.to_string();
        if let Some(change) = batch.iter().rev().find(|change| *change.key == *wire_key) {
            return Ok(change.body.as_ref().and_then(|body| serde_json::from_slice(body).ok()));
        }
        Ok(self
            .store
            .get(&key)?
            .and_then(|model| serde_json::from_slice(&model.json).ok()))
    }
}

/// Whether an object is the hub's and only mirrored here.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn is_mirrored(store: &Store, key: &ObjectKey) -> Result<bool, StoreError> {
    let record = store.kv_get(BUCKET, key.to_string().as_bytes())?;
    Ok(record.and_then(|record| Record::decode(&record)?.held).is_some())
}

/// Whether the hub keeps Devices or DeviceModels here in a namespace.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn is_mirrored_into(store: &Store, namespace: &str) -> Result<bool, StoreError> {
    for resource in [DEVICES, MODELS] {
        let prefix = objects::device_key(resource, namespace, "").to_string();
        if !store.kv_page(BUCKET, prefix.as_bytes(), None, 1)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The namespace of a DeviceModel's replica key.
fn model_namespace(key: &str) -> Option<Arc<str>> {
    let key = objects::parse_replica_key(key).filter(known)?;
    (&*key.resource == MODELS).then_some(key.namespace)
}

fn known(key: &ObjectKey) -> bool {
    let group = &*key.group;
    match &*key.resource {
        DEVICES | MODELS => group == device_models::kinds::DEVICES_GROUP && !key.namespace.is_empty(),
        EDGE_NODES => group == device_models::kinds::EDGE_GROUP && key.namespace.is_empty(),
        WORKS => group == WORK_GROUP && !key.namespace.is_empty(),
        _ => false,
    }
}

fn read_failed(error: StoreError) -> CommitError {
    match error {
        StoreError::Closed => CommitError::Closed,
        StoreError::Corrupt(why) => CommitError::Corrupt(why),
        other => CommitError::Io(other.to_string().into()),
    }
}

fn cut(mut reason: String) -> String {
    if reason.len() > MAX_REASON {
        let end = (0..=MAX_REASON)
            .rev()
            .find(|end| reason.is_char_boundary(*end))
            .unwrap_or(0);
        reason.truncate(end);
    }
    reason
}

/// One record of the bucket: flags, then the hashes that the flags announce, then the reason.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    held: Option<Hash>,
    refused: Option<(Option<Hash>, String)>,
}

impl Record {
    const HELD: u8 = 1;
    const REFUSED: u8 = 2;
    const REFUSED_BODY: u8 = 4;

    fn op(&self, key: &str) -> Op {
        let (bucket, key) = (BUCKET.into(), key.as_bytes().to_vec());
        if self.held.is_none() && self.refused.is_none() {
            return Op::KvDelete { bucket, key };
        }
        Op::KvPut {
            bucket,
            key,
            value: self.encode(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = vec![0];
        if let Some(held) = self.held {
            out[0] |= Self::HELD;
            out.extend_from_slice(&held.to_be_bytes());
        }
        if let Some((hash, reason)) = &self.refused {
            out[0] |= Self::REFUSED;
            if let Some(hash) = hash {
                out[0] |= Self::REFUSED_BODY;
                out.extend_from_slice(&hash.to_be_bytes());
            }
            out.extend_from_slice(reason.as_bytes());
        }
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (&flags, mut rest) = bytes.split_first()?;
        let mut hash = |flag: u8| -> Option<Option<Hash>> {
            if flags & flag == 0 {
                return Some(None);
            }
            let (hash, tail) = rest.split_first_chunk::<16>()?;
            rest = tail;
            Some(Some(Hash::from_be_bytes(*hash)))
        };
        let held = hash(Self::HELD)?;
        let body = hash(Self::REFUSED_BODY)?;
        let refused = match flags & Self::REFUSED {
            0 => None,
            _ => Some((body, str::from_utf8(rest).ok()?.to_owned())),
        };
        Some(Self { held, refused })
    }
}

#[cfg(test)]
mod tests;
