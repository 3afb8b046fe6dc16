//! What takes longer than a request: emptying a namespace or a kind that is being deleted, and removing it when nothing is left.
//!
//! Idempotent and without input beyond the name: it reads what is there, deletes, looks again. Started by a delete, by the removal of an object
//! that something waited for, and at start.

use std::sync::{Arc, PoisonError};

use serde_json::{Value, json};

use super::builtin::DEFINITIONS;
use super::kinds::{Deletion, KindSpec};
use super::server::Core;
use super::status::Status;
use super::write::{commit_status, delete_all, parse, store_status};
use super::{definitions, meta};
use crate::store::{CommitError, Expect, ListOptions, Object, ObjectKey, Scope, Tx};

/// Objects deleted in one transaction.
const BATCH: usize = 200;
/// A look is repeated after this long without news: the disk may have been full.
const RETRY: std::time::Duration = std::time::Duration::from_secs(30);

/// Continues what a stop interrupted.
pub(crate) fn resume(core: &Arc<Core>) -> Result<(), Status> {
    for (scope, holder) in holders() {
        let listed = core.store.list(&scope, ListOptions::default()).map_err(store_status)?;
        for object in &listed.items {
            if meta::is_terminating(&parse(object)?) {
                start(core, holder, &object.key.name);
            }
        }
    }
    Ok(())
}

/// What holds other objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Namespace,
    Definition,
}

impl Holder {
    fn id(self, name: &str) -> String {
        match self {
            Self::Namespace => format!("n/{name}"),
            Self::Definition => format!("d/{name}"),
        }
    }

    fn key(self, name: &str) -> ObjectKey {
        match self {
            Self::Namespace => ObjectKey::new("", "namespaces", "", name),
            Self::Definition => ObjectKey::new(DEFINITIONS.0, DEFINITIONS.1, "", name),
        }
    }
}

fn holders() -> [(Scope, Holder); 2] {
    [
        (Scope::all("", "namespaces"), Holder::Namespace),
        (Scope::all(DEFINITIONS.0, DEFINITIONS.1), Holder::Definition),
    ]
}

impl Core {
    /// What follows when an object was marked.
    pub(crate) fn after_delete(self: &Arc<Self>, kind: &KindSpec, name: &str) {
        match kind.deletion {
            Deletion::Plain | Deletion::Graceful(_) => {}
            Deletion::EmptiesNamespace => start(self, Holder::Namespace, name),
            Deletion::EmptiesKind => start(self, Holder::Definition, name),
        }
    }

    /// Whether the definition of a kind is being deleted.
    pub(crate) fn is_definition_leaving(&self, kind: &KindSpec) -> Result<bool, Status> {
        let name = format!("{}.{}", kind.storage.plural, kind.storage.group);
        if lock(self).is_empty() {
            return Ok(false);
        }
        match self.read(&Holder::Definition.key(&name))? {
            Some(object) => Ok(meta::is_terminating(&parse(&object)?)),
            None => Ok(true),
        }
    }
}

/// Runs one emptying of a name at a time, until it is done.
fn start(core: &Arc<Core>, holder: Holder, name: &str) {
    let id = holder.id(name);
    if !lock(core).insert(id.clone()) {
        return;
    }
    let (core, name) = (core.clone(), name.to_owned());
    let drain = core.drain.clone();
    drop(drain.spawn(async move {
        loop {
            // Made before the look, so that a removal during it is not missed.
            let removed = core.removed.notified();
            match empty(&core, holder, &name).await {
                Ok(Progress::Done) => break,
                Ok(Progress::Waits) => {}
                Err(status) => {
                    tracing::warn!(error = %status, %name, "What is being deleted cannot be emptied yet.");
                }
            }
            tokio::select! {
                biased;
                () = core.drain.stopping() => return,
                () = removed => {}
                () = tokio::time::sleep(RETRY) => {}
            }
        }
        lock(&core).remove(&id);
        // Made and deleted anew in the moment before: nobody else would look.
        if matches!(is_leaving(&core, &holder.key(&name)), Ok(true)) {
            start(&core, holder, &name);
        }
    }));
}

fn lock(core: &Core) -> std::sync::MutexGuard<'_, std::collections::BTreeSet<String>> {
    core.emptying.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Progress {
    Done,
    /// Finalizers hold something.
    Waits,
}

/// One pass: everything that may go goes; then the holder itself, if nothing is left.
async fn empty(core: &Arc<Core>, holder: Holder, name: &str) -> Result<Progress, Status> {
    let key = holder.key(name);
    if !is_leaving(core, &key)? {
        return Ok(Progress::Done);
    }
    // Creates that saw the holder alive have been handed to the store when this is passed, and are visible after the next commit.
    drop(core.gate.write().await);
    core.store
        .commit(Tx::new())
        .await
        .map_err(|e| Status::unavailable(e.to_string()))?;
    let held = match holder {
        Holder::Namespace => {
            let mut held = 0;
            for kind in core.registry().namespaced_storage() {
                held += empty_scope(core, &kind, Some(name)).await?;
            }
            held
        }
        Holder::Definition => match definition_kind(core, name) {
            Some(kind) => empty_scope(core, &kind, None).await?,
            None => 0,
        },
    };
    if held > 0 {
        note(core, holder, &key, held).await?;
        return Ok(Progress::Waits);
    }
    remove(core, holder, &key).await
}

fn is_leaving(core: &Core, key: &ObjectKey) -> Result<bool, Status> {
    match core.read(key)? {
        Some(object) => Ok(meta::is_terminating(&parse(&object)?)),
        None => Ok(false),
    }
}

/// A row of the kind that a definition of this name (`plural.group`) defines.
fn definition_kind(core: &Core, name: &str) -> Option<Arc<KindSpec>> {
    let (plural, group) = name.split_once('.')?;
    let all = core.registry().storage();
    all.into_iter()
        .find(|k| k.custom && *k.storage.group == *group && *k.storage.plural == *plural)
}

/// Deletes what is in a scope; returns how many objects finalizers hold.
async fn empty_scope(core: &Arc<Core>, kind: &Arc<KindSpec>, namespace: Option<&str>) -> Result<usize, Status> {
    let scope = kind.scope(namespace);
    let mut after: Option<ObjectKey> = None;
    let mut held = 0;
    loop {
        let (core2, scope2, from) = (core.clone(), scope.clone(), after.clone());
        let listed = tokio::task::spawn_blocking(move || {
            let options = ListOptions {
                limit: Some(BATCH),
                after: from,
                at: None,
            };
            core2.store.list(&scope2, options)
        })
        .await
        .map_err(|_| Status::internal("the list could not be read"))?
        .map_err(store_status)?;
        let mut free = Vec::new();
        let mut blocked = Vec::new();
        for object in listed.items {
            after = Some(object.key.clone());
            let value = parse(&object)?;
            if meta::finalizers(&value).is_empty() {
                free.push(object);
            } else {
                blocked.push((object, value));
            }
        }
        held += blocked.len();
        delete_batch(core, &free).await?;
        for (object, value) in blocked {
            if !meta::is_terminating(&value) {
                mark(core, &object, value).await?;
            }
        }
        if !listed.more {
            return Ok(held);
        }
    }
}

/// Deletes many at once; where one of them was changed meanwhile, one by one.
async fn delete_batch(core: &Core, objects: &[Object]) -> Result<(), Status> {
    if objects.is_empty() {
        return Ok(());
    }
    match core.store.commit(delete_all(objects)).await {
        Ok(_) => return Ok(()),
        Err(CommitError::Conflict { .. } | CommitError::NotFound(_)) => {}
        Err(e) => return Err(Status::unavailable(e.to_string())),
    }
    for object in objects {
        let tx = Tx::new().delete(object.key.clone(), Expect::Any);
        core.store
            .commit(tx)
            .await
            .map_err(|e| Status::unavailable(e.to_string()))?;
    }
    Ok(())
}

/// Tells the owners of an object's finalizers that it goes.
async fn mark(core: &Core, object: &Object, mut value: Value) -> Result<(), Status> {
    let m = meta::of_mut(&mut value)?;
    m.insert("deletionTimestamp".to_owned(), json!(meta::now()));
    m.insert("deletionGracePeriodSeconds".to_owned(), json!(0));
    let tx = Tx::new().put(object.key.clone(), value, Expect::Revision(object.revision));
    match core.store.commit(tx).await {
        // Changed or gone meanwhile: the next look sees it.
        Ok(_) | Err(CommitError::Conflict { .. } | CommitError::NotFound(_)) => Ok(()),
        Err(e) => Err(Status::unavailable(e.to_string())),
    }
}

/// Says in the namespace's status what it waits for.
async fn note(core: &Core, holder: Holder, key: &ObjectKey, held: usize) -> Result<(), Status> {
    let Some(object) = core.read(key)? else { return Ok(()) };
    let mut value = parse(&object)?;
    if holder == Holder::Definition {
        if !definitions::in_progress(&mut value, &meta::now()) {
            return Ok(());
        }
        return noted(core, &object, value).await;
    }
    let message = format!("Some content in the namespace has finalizers remaining: {held} objects");
    let condition = json!({"type": "NamespaceFinalizersRemaining", "status": "True", "reason": "SomeFinalizersRemain",
        "message": message, "lastTransitionTime": meta::now()});
    let same = value.pointer("/status/conditions/0/message") == condition.get("message");
    if same {
        return Ok(());
    }
    if let Value::Object(map) = &mut value {
        map.insert(
            "status".to_owned(),
            json!({"phase": "Terminating", "conditions": [condition]}),
        );
    }
    noted(core, &object, value).await
}

/// Stores what was noted; whoever changed it meanwhile is seen by the next look.
async fn noted(core: &Core, object: &Object, value: Value) -> Result<(), Status> {
    let tx = Tx::new().put(object.key.clone(), value, Expect::Revision(object.revision));
    match core.store.commit(tx).await {
        Ok(_) | Err(CommitError::Conflict { .. } | CommitError::NotFound(_)) => Ok(()),
        Err(e) => Err(Status::unavailable(e.to_string())),
    }
}

/// Removes the holder itself.
async fn remove(core: &Arc<Core>, holder: Holder, key: &ObjectKey) -> Result<Progress, Status> {
    let registry = core.registry();
    let kind = registry.preferred(&key.group, &key.resource).cloned();
    loop {
        let Some(object) = core.read(key)? else {
            return Ok(Progress::Done);
        };
        let value = parse(&object)?;
        let others = value.pointer("/spec/finalizers").and_then(Value::as_array);
        let others = others.into_iter().flatten().any(|f| f != "kubernetes");
        let kept = !meta::finalizers(&value).iter().all(|f| f == definitions::CLEANUP);
        if kept || (holder == Holder::Namespace && others) {
            return Ok(Progress::Waits);
        }
        match core
            .store
            .commit(Tx::new().delete(key.clone(), Expect::Revision(object.revision)))
            .await
        {
            Ok(_) => break,
            Err(CommitError::Conflict { .. }) => {}
            Err(CommitError::NotFound(_)) => return Ok(Progress::Done),
            Err(e) => {
                return Err(match &kind {
                    Some(k) => commit_status(e, k, &key.name),
                    None => Status::unavailable(e.to_string()),
                });
            }
        }
    }
    if holder == Holder::Definition {
        core.load_definitions().await?;
        core.resettle_names(key.name.split_once('.').map_or("", |(_, group)| group))
            .await?;
    }
    Ok(Progress::Done)
}
