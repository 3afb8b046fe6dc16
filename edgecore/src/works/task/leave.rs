//! Objects that are to go: those of a Work that is gone or deleted above, and those that a Work does not list any more.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::Value;

use super::{ABREAST, GONE_AFTER, Task, Work, key};
use crate::works::ledger::{self, Account, Entry};
use crate::works::manifest::{self, Said};
use crate::works::member::Leave;
use crate::works::objects::Id;

impl Task {
    /// Takes away what a Work does not bring any more.
    pub(super) async fn part(&mut self, id: &Id, now: Duration) {
        self.work(id).part = None;
        if let Err(error) = self.leave(id, now).await {
            tracing::warn!(work = %id, %error, "What a Work brought is still there; trying again after a pause.");
            let work = self.work(id);
            work.part = Some(now + work.failed());
        }
    }

    async fn leave(&mut self, id: &Id, now: Duration) -> Result<(), String> {
        let Some(kinds) = &self.kinds else {
            return Err("the local API does not say what it serves".to_owned());
        };
        let Some(work) = self.works.get(id) else { return Ok(()) };
        let store = self.member.store();
        let mut account = ledger::read(store, id).map_err(|e| e.to_string())?;
        let (deleting, gone, suspended) = (work.wishes.deleting, work.gone, work.wishes.suspended);
        let preserve = if gone {
            account.preserve
        } else {
            deleting && work.wishes.preserve
        };
        let mut leaving = Vec::new();
        if gone || deleting {
            leaving = std::mem::take(&mut account.manifests);
            if deleting && !gone {
                leaving.extend(work.places.iter().flatten().map(Entry::of));
                leaving.sort_unstable();
                leaving.dedup();
            }
        } else if !suspended {
            let stored = store.get(&key(id)).map_err(|e| e.to_string())?;
            let Some(mut object) = stored.and_then(|stored| stored.value().ok()) else {
                // It is told apart.
                return Ok(());
            };
            leaving = obsolete(&account, &manifest::take_manifests(&mut object));
            account.manifests.retain(|entry| !leaving.contains(entry));
        }
        let (mut jobs, mut heirs) = (Vec::new(), Vec::new());
        for place in leaving.iter().filter_map(|entry| entry.place(kinds)) {
            let others = self
                .objects
                .get(&place.key)
                .into_iter()
                .flat_map(|tracked| &tracked.works);
            let mut others = others.filter(|other| *other != id && self.works.get(*other).is_some_and(Work::is_live));
            match others.next() {
                Some(heir) => heirs.push((Arc::clone(heir), place.key)),
                None => jobs.push(place),
            }
        }
        let member = &self.member;
        let leave = jobs.into_iter().map(|place| async move {
            if preserve {
                Box::pin(member.release(&place, false)).await
            } else {
                Box::pin(member.remove(&place)).await
            }
        });
        let results: Vec<Result<Leave, String>> = stream::iter(leave).buffer_unordered(ABREAST).collect().await;
        let mut waits = false;
        for left in results {
            waits |= left? == Leave::Waits;
        }
        for (heir, key) in heirs {
            self.objects.doubt(&key);
            self.work(&heir).look = Some(now);
        }
        if waits && deleting && !gone {
            self.work(id).part = Some(now + GONE_AFTER);
            return Ok(());
        }
        let closed = self.write(vec![ledger::write(id, &account)]).await;
        closed.map_err(|e| e.to_string())?;
        let work = self.works.entry(Arc::clone(id)).or_default();
        if gone {
            let work = std::mem::take(work);
            self.objects.list(id, &work.places, &[]);
            self.works.remove(id);
        } else if deleting {
            self.objects.list(id, &work.places, &[]);
            (work.places, work.failures, work.deleted) = (Vec::new(), 0, true);
            work.report = Some(now);
        }
        Ok(())
    }
}

/// What an account has that no manifest asks for.
pub(super) fn obsolete(account: &Account, manifests: &[Value]) -> Vec<Entry> {
    let said: Vec<Said<'_>> = manifests.iter().map(Said::of).collect();
    let entries = account.manifests.iter();
    let entries = entries.filter(|entry| !said.iter().any(|said| entry.is_asked_for_by(said)));
    entries.cloned().collect()
}
