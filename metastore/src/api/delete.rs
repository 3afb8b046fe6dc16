//! How objects go: at once, or marked while something holds them: finalizers, what is in them, a program that takes its time to end.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::auth::Operation;
use super::garbage::{FOREGROUND, ORPHAN};
use super::kinds::{Deletion, KindSpec};
use super::server::Core;
use super::status::Status;
use super::write::{MAX_RACES, Writing, commit_status, encode, parse};
use super::{definitions, meta};
use crate::store::{CommitError, Expect, Object, Tx};

/// Namespaces that nobody deletes.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// How an object is deleted, and on what conditions.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// It must be the object with this uid.
    pub uid: Option<String>,
    /// It must be in this version.
    pub version: Option<String>,
    /// What becomes of what it owns; as the object itself says when the client does not.
    pub propagation: Option<Propagation>,
    /// How many seconds it has to end, where the kind is one that runs.
    pub grace: Option<i64>,
}

/// What becomes of the objects that a deleted one owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They stay and lose their owner.
    Orphan,
    /// They go when it is gone.
    Background,
    /// It goes when they are gone.
    Foreground,
}

/// What a delete did.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// It is gone; its last state.
    Gone(Object),
    /// It is marked and waits.
    Waits(Bytes),
}

impl Core {
    /// Deletes an object, or marks it when something holds it.
    pub(crate) async fn delete(
        self: &Arc<Self>,
        w: Writing<'_>,
        name: &str,
        conditions: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        let kind = w.kind;
        let key = kind.key(w.namespace, name);
        for _ in 0..MAX_RACES {
            if matches!(kind.deletion, Deletion::EmptiesNamespace) && IMMORTAL.contains(&name) {
                let why = "this namespace may not be deleted";
                return Err(Status::forbidden(&kind.storage.group, &kind.plural, name, why));
            }
            let Some(stored) = self.read(&key)? else {
                return Err(Status::not_found(&kind.storage.group, &kind.plural, name));
            };
            let mut current = parse(&stored)?;
            kind.show(&mut current);
            check_preconditions(conditions, &current, &stored, kind, name)?;
            self.admit(&w, Operation::Delete, name, Some(&current), &mut current.clone())?;
            let propagation = propagation_of(&current, kind, conditions.propagation);
            let asked = set_propagation(&mut current, propagation)?;
            let changed = mark(&mut current, kind, conditions.grace)? || asked;
            let holds = kind.empties() || grace_left(&current) > 0 || !meta::finalizers(&current).is_empty();
            if holds && !changed {
                self.after_delete(kind, &key.name);
                return Ok(Deleted::Waits(self.shown(kind, &stored)?));
            }
            if w.dry_run {
                return Ok(if holds || kind.special.returns_deleted {
                    Deleted::Waits(encode(&current)?)
                } else {
                    Deleted::Gone(stored)
                });
            }
            let mut last = stored;
            if holds || (changed && matches!(kind.deletion, Deletion::Graceful(_))) {
                kind.keep(&mut current);
                let mut tx = Tx::new().put(key.clone(), current, Expect::Revision(last.revision));
                if holds {
                    tx = self.audited(tx, &w, name, 200);
                }
                match self.store.commit(tx).await {
                    Err(CommitError::Conflict { .. } | CommitError::NotFound(_)) => continue,
                    Err(e) => return Err(commit_status(e, kind, name)),
                    Ok(done) => {
                        if holds {
                            self.note_audited(&done);
                        }
                        last = done.objects.into_iter().next().unwrap_or(last);
                    }
                }
            }
            if holds {
                self.after_write(kind, false).await;
                self.after_delete(kind, &key.name);
                return Ok(Deleted::Waits(self.shown(kind, &last)?));
            }
            let tx = Tx::new().delete(key.clone(), Expect::Revision(last.revision));
            match self.store.commit(self.audited(tx, &w, name, 200)).await {
                Err(CommitError::Conflict { .. } | CommitError::NotFound(_)) => {}
                Err(e) => return Err(commit_status(e, kind, name)),
                Ok(done) => {
                    self.note_audited(&done);
                    let object = done.objects.into_iter().next().unwrap_or(last);
                    self.after_write(kind, true).await;
                    return Ok(Deleted::Gone(object));
                }
            }
        }
        Err(Status::modified(&kind.storage.group, &kind.plural, name))
    }
}

fn check_preconditions(
    conditions: &DeleteOptions,
    current: &Value,
    stored: &Object,
    kind: &KindSpec,
    name: &str,
) -> Result<(), Status> {
    let conflict = |what: &str, wanted: &str, have: &str| {
        Err(Status::conflict(
            &kind.group,
            &kind.kind,
            name,
            &format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({have}). The object might have been deleted and then recreated"
            ),
        ))
    };
    let uid = meta::text(current, "uid");
    if let Some(wanted) = conditions.uid.as_deref().filter(|w| *w != uid) {
        return conflict("UID", wanted, uid);
    }
    let version = stored.revision.to_string();
    if let Some(wanted) = conditions.version.as_deref().filter(|w| *w != version) {
        return conflict("ResourceVersion", wanted, &version);
    }
    Ok(())
}

/// What becomes of what the object owns: as asked, as the object says, as usual for its kind.
fn propagation_of(object: &Value, kind: &KindSpec, asked: Option<Propagation>) -> Option<Propagation> {
    let says = || meta::finalizers(object).iter().any(|f| f == ORPHAN || f == FOREGROUND);
    match asked {
        None if kind.special.orphans && !says() && !meta::is_terminating(object) => Some(Propagation::Orphan),
        asked => asked,
    }
}

/// Makes the finalizers say what becomes of what the object owns. Whether they changed.
fn set_propagation(object: &mut Value, asked: Option<Propagation>) -> Result<bool, Status> {
    let Some(asked) = asked else { return Ok(false) };
    let before = meta::finalizers(object).to_vec();
    let mut after: Vec<Value> = before
        .iter()
        .filter(|f| *f != ORPHAN && *f != FOREGROUND)
        .cloned()
        .collect();
    match asked {
        Propagation::Orphan => after.push(ORPHAN.into()),
        Propagation::Foreground => after.push(FOREGROUND.into()),
        Propagation::Background => {}
    }
    if after == before {
        return Ok(false);
    }
    let metadata = meta::of_mut(object)?;
    if after.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), Value::Array(after));
    }
    Ok(true)
}

/// Marks an object as going, if anything will see the mark. Whether it changed. One that is marked can only be given less time.
fn mark(object: &mut Value, kind: &KindSpec, asked: Option<i64>) -> Result<bool, Status> {
    let now = daemon::clock::wall_ms();
    let after = |from: u64, seconds: i64| {
        let ms = u64::try_from(seconds).unwrap_or(0).saturating_mul(1000);
        meta::timestamp(from.saturating_add(ms))
    };
    let (at, grace) = match kind.deletion {
        _ if meta::is_terminating(object) => {
            let left = grace_left(object);
            let Some(less) = asked.map(|s| s.max(0)).filter(|s| *s < left) else {
                return Ok(false);
            };
            let end = meta::text(object, "deletionTimestamp").parse::<jiff::Timestamp>();
            let begun = end.map_or(now, |t| u64::try_from(t.as_millisecond() - left * 1000).unwrap_or(now));
            (after(begun, less), less)
        }
        Deletion::Graceful(period) => {
            let seconds = period(object, asked);
            (after(now, seconds), seconds)
        }
        Deletion::Plain if meta::finalizers(object).is_empty() => return Ok(false),
        _ => (after(now, 0), 0),
    };
    let first = !meta::is_terminating(object);
    let next = meta::generation(object) + 1;
    let m = meta::of_mut(object)?;
    m.insert("deletionTimestamp".to_owned(), at.into());
    if matches!(kind.deletion, Deletion::EmptiesKind) {
        definitions::terminate(object, &meta::now());
        return Ok(true);
    }
    if !matches!(kind.deletion, Deletion::EmptiesNamespace) {
        m.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    }
    if kind.generation && first {
        m.insert("generation".to_owned(), next.into());
    }
    if matches!(kind.deletion, Deletion::EmptiesNamespace)
        && let Value::Object(map) = object
        && let Value::Object(status) = map.entry("status").or_insert_with(|| serde_json::json!({}))
    {
        status.insert("phase".to_owned(), "Terminating".into());
    }
    Ok(true)
}

/// How many seconds a marked object was given to end.
pub(crate) fn grace_left(object: &Value) -> i64 {
    meta::of(object)
        .and_then(|m| m.get("deletionGracePeriodSeconds"))
        .and_then(Value::as_i64)
        .unwrap_or(0)
}
