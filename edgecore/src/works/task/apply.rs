//! Works looked at: what is to be done about each, and the objects of those that are to be applied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use federation::names;
use futures_util::StreamExt as _;
use futures_util::stream;
use metastore::store::{ObjectKey, Op};
use serde_json::Value;

use super::leave::obsolete;
use super::{ABREAST, BATCH_BYTES, Task, key, sooner};
use crate::uplink::is_mirrored;
use crate::works::ledger::{self, Account, Entry};
use crate::works::manifest::{self, Place, Wishes};
use crate::works::member::Done;
use crate::works::objects::Id;
use crate::works::state::Applied;

/// A Work about to be applied.
struct Ready {
    id: Id,
    cluster: String,
    manifests: Vec<Value>,
    errors: BTreeMap<usize, String>,
    obsolete: bool,
}

impl Task {
    /// Looks at Works: applies them, or says what else is to be done about them.
    pub(super) async fn look(&mut self, ids: Vec<Id>, now: Duration) {
        let (mut ready, mut ops, mut bytes) = (Vec::new(), Vec::new(), 0);
        for id in ids {
            if bytes > BATCH_BYTES {
                break;
            }
            self.work(&id).look = None;
            match self.prepare(&id, now, &mut ops) {
                Ok(Some((one, size))) => {
                    bytes += size;
                    ready.push(one);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(work = %id, %error, "A Work cannot be looked at.");
                    let work = self.work(&id);
                    work.look = Some(now + work.failed());
                }
            }
        }
        // Before anything of them is there.
        if let Err(error) = self.write(ops).await {
            tracing::warn!(%error, "What Works bring cannot be noted, so it is not brought.");
            for one in &ready {
                let work = self.work(&one.id);
                work.look = Some(now + work.failed());
                work.applied = Applied::of(1, vec![format!("the gateway's store: {error}")]);
                work.wants_report(now);
            }
            return;
        }
        self.apply(ready, now).await;
    }

    /// Reads a Work and takes note of what it lists. What is to be applied of it, and its size.
    fn prepare(&mut self, id: &Id, now: Duration, ops: &mut Vec<Op>) -> Result<Option<(Ready, usize)>, String> {
        let Some(kinds) = &self.kinds else {
            return Err("the local API does not say what it serves".to_owned());
        };
        let work = self.works.entry(Arc::clone(id)).or_default();
        let key = key(id);
        let Some(stored) = self.member.store().get(&key).map_err(|e| e.to_string())? else {
            // Somebody's mistake when the hub still has it: nothing follows from that.
            let lost = is_mirrored(self.member.store(), &key).map_err(|e| e.to_string())?;
            if !lost {
                (work.gone, work.part) = (true, Some(now));
            }
            return Ok(None);
        };
        let mut object = stored.value().map_err(|e| e.to_string())?;
        work.gone = false;
        work.wishes = Wishes::of(&object);
        let seen = manifest::print(&object);
        if work.seen.is_none() {
            work.applied = Applied::stored(&object);
        }
        if work.seen.replace(seen) != Some(seen) {
            (work.failures, work.deleted) = (0, false);
        }
        let manifests = manifest::take_manifests(&mut object);
        let mut errors = BTreeMap::new();
        let mut places = Vec::with_capacity(manifests.len());
        for (ordinal, manifest) in manifests.iter().enumerate() {
            let place = Place::of(manifest, kinds);
            places.push(place.map_err(|error| errors.insert(ordinal, error)).ok());
        }
        work.unserved = !errors.is_empty();
        self.objects.list(id, &work.places, &places);
        work.places = places;
        if work.wishes.deleting {
            if !work.deleted {
                work.part = Some(now);
            }
            return Ok(None);
        }
        work.wants_report(now);
        let before = ledger::read(self.member.store(), id).map_err(|e| e.to_string())?;
        let mut account = Account {
            preserve: work.wishes.preserve,
            manifests: before.manifests.clone(),
        };
        if !work.wishes.suspended {
            for place in work.places.iter().flatten() {
                let entry = Entry::of(place);
                if !account.manifests.contains(&entry) {
                    account.manifests.push(entry);
                }
            }
        }
        if account != before && !account.manifests.is_empty() {
            ops.push(ledger::write(id, &account));
        }
        if work.wishes.suspended {
            return Ok(None);
        }
        let obsolete = !obsolete(&account, &manifests).is_empty();
        let cluster = names::cluster_of(&key.namespace).unwrap_or(&key.namespace).to_owned();
        let ready = Ready {
            id: Arc::clone(id),
            cluster,
            manifests,
            errors,
            obsolete,
        };
        Ok(Some((ready, stored.json.len())))
    }

    async fn apply(&mut self, mut ready: Vec<Ready>, now: Duration) {
        let mut jobs = Vec::new();
        for (at, one) in ready.iter_mut().enumerate() {
            let Some(work) = self.works.get(&one.id) else { continue };
            let (namespace, name) = one.id.split_once('/').unwrap_or_default();
            let manifests = std::mem::take(&mut one.manifests);
            for (ordinal, manifest) in manifests.into_iter().enumerate() {
                let Some(place) = work.places.get(ordinal).cloned().flatten() else {
                    // Counted with the errors.
                    one.manifests.push(Value::Null);
                    continue;
                };
                one.manifests.push(Value::Null);
                let known = self.objects.known(&place.key, &one.id);
                let desired = manifest::desired(manifest, &place, (namespace, name));
                jobs.push((at, ordinal, place, desired, one.cluster.clone(), known));
            }
        }
        let member = &self.member;
        let applying = jobs
            .into_iter()
            .map(|(at, ordinal, place, desired, cluster, known)| async move {
                let done = Box::pin(member.apply(&place, &desired, &cluster, known)).await;
                (at, ordinal, place.key, done)
            });
        let results: Vec<(usize, usize, ObjectKey, Result<Done, String>)> =
            stream::iter(applying).buffer_unordered(ABREAST).collect().await;
        let mut wrote = vec![false; ready.len()];
        for (at, ordinal, key, done) in results {
            let one = &mut ready[at];
            match done {
                Ok(done) => {
                    wrote[at] |= done.wrote;
                    self.objects.applied(&key, &one.id, done.print);
                }
                Err(error) => {
                    one.errors.insert(ordinal, error);
                }
            }
        }
        for (one, wrote) in ready.into_iter().zip(wrote) {
            let work = self.work(&one.id);
            if std::mem::take(&mut work.drifted) && wrote {
                work.repaired(now);
                tracing::info!(work = %one.id, "An object of a Work was changed by somebody else and is as the Work wants it again.");
            }
            let applied = Applied::of(one.manifests.len(), one.errors.into_values().collect());
            if let Applied::No(why) = &applied {
                let pause = work.failed();
                if work.applied != applied {
                    tracing::warn!(work = %one.id, %why, ?pause, "A Work could not be applied; trying again after a pause.");
                }
                work.look = Some(now + pause);
            } else {
                work.failures = 0;
            }
            work.applied = applied;
            if one.obsolete {
                sooner(&mut work.part, now);
            }
            work.wants_report(now);
        }
    }
}
