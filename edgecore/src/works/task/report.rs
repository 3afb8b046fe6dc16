//! The statuses of Works, written when they say something new.

use std::sync::Arc;
use std::time::Duration;

use daemon::clock;
use metastore::store::{CommitError, Expect, Op, Tx};

use super::{FIRST_PAUSE, LONGEST_PAUSE, TOGETHER, Task, key};
use crate::objects;
use crate::works::objects::Id;
use crate::works::{manifest, state};

impl Task {
    /// Brings the statuses of Works up to date, in one transaction.
    pub(super) async fn report(&mut self, ids: &[Id], now: Duration) {
        let (mut ops, mut written) = (Vec::new(), Vec::new());
        for id in ids {
            self.work(id).report = None;
            match self.status(id, true) {
                Ok(Some((op, hash))) => {
                    ops.push(op);
                    written.push((Arc::clone(id), hash));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(work = %id, %error, "The state of a Work cannot be told.");
                    self.work(id).report = Some(now + LONGEST_PAUSE);
                }
            }
        }
        if ops.is_empty() {
            return;
        }
        let together = self.member.store().commit(Tx(ops)).await;
        match together {
            Ok(committed) => {
                for ((id, hash), object) in written.into_iter().zip(committed.objects) {
                    let work = self.work(&id);
                    (work.reported, work.own, work.told) = (Some(hash), object.revision, now);
                }
            }
            Err(CommitError::Full | CommitError::Overloaded | CommitError::Io(_)) => {
                for (id, _) in written {
                    self.work(&id).report = Some(now + 5 * FIRST_PAUSE);
                }
            }
            // One of them is to blame.
            Err(_) => {
                for (id, _) in written {
                    self.report_one(&id, now).await;
                }
            }
        }
    }

    async fn report_one(&mut self, id: &Id, now: Duration) {
        for whole in [true, false] {
            let Ok(Some((op, hash))) = self.status(id, whole) else {
                return;
            };
            match self.member.store().commit(Tx(vec![op])).await {
                Ok(committed) => {
                    let work = self.work(id);
                    work.reported = Some(hash);
                    work.own = committed.objects.first().map_or(0, |object| object.revision);
                    return;
                }
                // With the state of its objects it is larger than an object may be.
                Err(CommitError::Invalid { .. }) => {}
                Err(_) => {
                    self.work(id).report = Some(now + TOGETHER);
                    return;
                }
            }
        }
    }

    /// The write of a Work's status, if it says something new. `whole`: with the states of its objects.
    fn status(&mut self, id: &Id, whole: bool) -> Result<Option<(Op, u64)>, String> {
        let Some(work) = self.works.get(id).filter(|work| !work.gone && work.seen.is_some()) else {
            return Ok(None);
        };
        let mut status = state::status(&self.member, &work.applied, &work.places, work.deleted)?;
        let hash = manifest::hash(&status);
        if work.reported == Some(hash) && whole {
            return Ok(None);
        }
        if !whole && let Some(status) = status.as_object_mut() {
            status.remove("manifestStatuses");
        }
        let key = key(id);
        let Some(stored) = self.member.store().get(&key).map_err(|e| e.to_string())? else {
            return Ok(None);
        };
        let mut object = stored.value().map_err(|e| e.to_string())?;
        let before = object.get("status").cloned();
        let says_nothing = status.as_object().is_none_or(serde_json::Map::is_empty);
        if !(says_nothing && before.is_none()) {
            state::put(&mut object, status, &objects::rfc3339(clock::wall_ms()));
        }
        if object.get("status") == before.as_ref() {
            self.work(id).reported = Some(hash);
            return Ok(None);
        }
        let op = Op::Put {
            key,
            object,
            expect: Expect::Revision(stored.revision),
            uid: None,
        };
        Ok(Some((op, hash)))
    }
}
