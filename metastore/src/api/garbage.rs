//! Garbage collection: objects whose owners are gone go as well, owners wait for what they own or let it go, as the delete asked.
//!
//! Follows all changes through one tap. Keeps in memory who is owned by which uid, and nothing of objects without owners. Everything it
//! does it decides anew from what the store holds at that moment, so that a lost, late or doubled change costs a look and no more. It writes
//! through the write path like any other client, with the uid it looked at as precondition.
//!
//! An object that is kept somewhere else and only copied here is not collected here: [`Collects`] says which.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use memchr::memmem;
use serde::Deserialize;
use serde_json::Value;

use super::auth::User;
use super::delete::{DeleteOptions, Propagation};
use super::kinds::KindSpec;
use super::meta;
use super::request::Strictness;
use super::server::Core;
use super::status::Status;
use super::write::{Body, Owner, Part, Writing, store_status};
use crate::store::{Event, EventKind, ListOptions, Object, ObjectKey, Tapped, Tx};

/// Says whether an object, by its place, is this server's to collect.
pub type Collects = Arc<dyn Fn(&ObjectKey) -> bool + Send + Sync>;

/// Holds an owner until what it owns and what blocks it is gone.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// Holds an owner until nothing names it any more.
pub(crate) const ORPHAN: &str = "orphan";

/// Objects listed at a time when everything is looked at.
const PAGE: usize = 500;
/// When what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Whether a change can matter to an owner or to what it owns.
fn matters(event: &Event) -> bool {
    let names = |object: &Object| memmem::find(&object.json, b"\"ownerReferences\"").is_some();
    let waits = |object: &Object| memmem::find(&object.json, b"\"deletionTimestamp\"").is_some();
    event.kind == EventKind::Deleted
        || names(&event.object)
        || waits(&event.object)
        || event.previous.as_ref().is_some_and(names)
}

/// What the collector reads of an object.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Seen {
    metadata: Metadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    uid: String,
    deletion_timestamp: Option<String>,
    finalizers: Vec<String>,
    owner_references: Vec<Reference>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Reference {
    api_version: String,
    kind: String,
    name: String,
    uid: String,
    block_owner_deletion: bool,
}

impl Metadata {
    fn of(object: &Object) -> Self {
        serde_json::from_slice::<Seen>(&object.json)
            .unwrap_or_default()
            .metadata
    }

    fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|f| f == finalizer)
    }
}

/// Who is owned by whom.
#[derive(Debug, Default)]
struct Graph {
    /// Owner's uid to what names it.
    owned: BTreeMap<String, BTreeSet<ObjectKey>>,
    /// What names owners, to their uids.
    owners: BTreeMap<ObjectKey, BTreeSet<String>>,
    /// Owners that wait for what they own.
    waiting: BTreeMap<String, ObjectKey>,
}

impl Graph {
    /// Notes the owners an object names. Says whether they are others than before.
    fn set(&mut self, key: &ObjectKey, owners: BTreeSet<String>) -> bool {
        let before = if owners.is_empty() {
            self.owners.remove(key)
        } else {
            self.owners.insert(key.clone(), owners.clone())
        }
        .unwrap_or_default();
        for uid in before.difference(&owners) {
            if let Some(keys) = self.owned.get_mut(uid) {
                keys.remove(key);
                if keys.is_empty() {
                    self.owned.remove(uid);
                }
            }
        }
        for uid in owners.difference(&before) {
            self.owned.entry(uid.clone()).or_default().insert(key.clone());
        }
        before != owners
    }

    fn owned_by(&self, uid: &str) -> Vec<ObjectKey> {
        self.owned.get(uid).into_iter().flatten().cloned().collect()
    }
}

/// What an owner reference leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// The owner is there, or nobody can say that it is not.
    There,
    /// It is going and waits for this object.
    Waits,
    /// There is no object of that name and uid.
    Gone,
}

struct Collector {
    core: Arc<Core>,
    graph: Graph,
    /// To be looked at.
    dirty: VecDeque<ObjectKey>,
    queued: BTreeSet<ObjectKey>,
    /// Looked at in vain.
    failed: BTreeSet<ObjectKey>,
}

/// Runs until the drain begins.
pub(crate) fn start(core: &Arc<Core>) {
    let tap = core.store.tap(matters);
    let mut collector = Collector {
        core: core.clone(),
        graph: Graph::default(),
        dirty: VecDeque::new(),
        queued: BTreeSet::new(),
        failed: BTreeSet::new(),
    };
    drop(core.drain.spawn(async move { collector.run(tap).await }));
}

impl Collector {
    async fn run(&mut self, mut tap: crate::store::Tap) {
        let drain = self.core.drain.clone();
        let mut complete = false;
        loop {
            while !complete {
                match self.look_at_everything().await {
                    Ok(()) => complete = self.catch_up(&mut tap).await,
                    Err(status) => {
                        tracing::warn!(error = %status, "The garbage collector cannot read what there is yet.");
                        tokio::select! {
                            () = drain.stopping() => return,
                            () = tokio::time::sleep(RETRY) => {}
                        }
                    }
                }
            }
            while let Some(key) = self.dirty.pop_front() {
                self.queued.remove(&key);
                if drain.is_stopping() {
                    return;
                }
                if let Err(status) = self.look(&key).await {
                    tracing::debug!(error = %status, %key, "An object cannot be collected yet.");
                    self.failed.insert(key);
                }
            }
            tokio::select! {
                biased;
                () = drain.stopping() => return,
                tapped = tap.next() => match tapped {
                    Tapped::Event(event) => self.changed(&event),
                    Tapped::Missed => complete = false,
                    Tapped::Closed => return,
                },
                () = tokio::time::sleep(RETRY), if !self.failed.is_empty() => {
                    for key in std::mem::take(&mut self.failed) {
                        self.queue(key);
                    }
                }
            }
        }
    }

    /// Takes in what changed while everything was read: an owner that was read late may wait for what was made early. False when changes
    /// were missed meanwhile.
    async fn catch_up(&mut self, tap: &mut crate::store::Tap) -> bool {
        // Answered after everything committed before it was handed to the tap.
        drop(self.core.store.commit(Tx::new()).await);
        loop {
            match tap.try_next() {
                Some(Tapped::Event(event)) => self.changed(&event),
                Some(Tapped::Missed) => return false,
                // Closed is said again to whoever asks next.
                Some(Tapped::Closed) | None => return true,
            }
        }
    }

    fn queue(&mut self, key: ObjectKey) {
        if self.queued.insert(key.clone()) {
            self.dirty.push_back(key);
        }
    }

    /// Builds the graph anew.
    async fn look_at_everything(&mut self) -> Result<(), Status> {
        self.graph = Graph::default();
        for kind in self.core.registry().storage() {
            let scope = kind.scope(None);
            let mut after = None;
            loop {
                let (core, scope, from) = (self.core.clone(), scope.clone(), after.clone());
                let listed = tokio::task::spawn_blocking(move || {
                    let options = ListOptions {
                        limit: Some(PAGE),
                        after: from,
                        at: None,
                    };
                    core.store.list(&scope, options)
                })
                .await
                .map_err(|_| Status::internal("the list could not be read"))?
                .map_err(store_status)?;
                for object in &listed.items {
                    let event = Event {
                        kind: EventKind::Added,
                        object: object.clone(),
                        previous: None,
                    };
                    if matters(&event) {
                        self.changed(&event);
                    }
                    after = Some(object.key.clone());
                }
                if !listed.more {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Notes a change and what has to be looked at for it.
    fn changed(&mut self, event: &Event) {
        let key = &event.object.key;
        let now = Metadata::of(&event.object);
        if event.kind == EventKind::Deleted {
            self.graph.waiting.remove(&now.uid);
            for owned in self.graph.owned_by(&now.uid) {
                self.queue(owned);
            }
        }
        let owners: BTreeSet<String> = match event.kind {
            EventKind::Deleted => BTreeSet::new(),
            _ => now.owner_references.iter().map(|r| r.uid.clone()).collect(),
        };
        // Who waits for it: as it was, and as it is.
        let before = self.graph.owners.get(key).cloned().unwrap_or_default();
        let waiting: Vec<ObjectKey> = before
            .iter()
            .filter_map(|uid| self.graph.waiting.get(uid).cloned())
            .collect();
        for owner in waiting {
            self.queue(owner);
        }
        let changed = self.graph.set(key, owners);
        let holds = now.deletion_timestamp.is_some() && (now.has(FOREGROUND) || now.has(ORPHAN));
        if event.kind != EventKind::Deleted && (changed || holds) {
            self.queue(key.clone());
        }
    }

    /// Does what an object's state asks for.
    async fn look(&mut self, key: &ObjectKey) -> Result<(), Status> {
        let core = self.core.clone();
        if !(core.collects)(key) {
            return Ok(());
        }
        let Some(object) = core.read(key)? else {
            return Ok(());
        };
        let Some(kind) = core.registry().of_key(key).cloned() else {
            return Ok(());
        };
        let seen = Metadata::of(&object);
        if seen.deletion_timestamp.is_some() {
            if seen.has(ORPHAN) {
                for owned in self.graph.owned_by(&seen.uid) {
                    self.let_go(&owned, &[seen.uid.as_str()]).await?;
                }
                return self.release(key, &seen.uid, ORPHAN).await;
            }
            if seen.has(FOREGROUND) {
                return self.wait_for_owned(key, &seen.uid).await;
            }
            return Ok(());
        }
        if seen.owner_references.is_empty() {
            return Ok(());
        }
        let mut found = Vec::with_capacity(seen.owner_references.len());
        for reference in &seen.owner_references {
            found.push(self.owner(&kind, key, reference)?);
        }
        if found.contains(&Found::There) {
            let gone: Vec<&str> = seen
                .owner_references
                .iter()
                .zip(&found)
                .filter(|(_, f)| **f != Found::There)
                .map(|(r, _)| r.uid.as_str())
                .collect();
            if !gone.is_empty() {
                self.let_go(key, &gone).await?;
            }
            return Ok(());
        }
        let blocks = self.owned_that_block(&seen.uid)?;
        let propagation = match () {
            () if seen.has(ORPHAN) => Propagation::Orphan,
            () if seen.has(FOREGROUND) || (found.contains(&Found::Waits) && blocks) => Propagation::Foreground,
            () => Propagation::Background,
        };
        let conditions = DeleteOptions {
            grace: None,
            uid: Some(seen.uid.clone()),
            version: Some(object.revision.to_string()),
            propagation: Some(propagation),
        };
        tracing::debug!(%key, "An object whose owners are gone is deleted.");
        let user = User::internal();
        match core.delete(writing(&kind, key, &user), &key.name, &conditions).await {
            Err(status) if status.code == 404 => Ok(()),
            Err(status) => Err(status),
            Ok(_) => Ok(()),
        }
    }

    /// What a reference leads to. A kind that is not served, or an owner in a namespace that the object cannot see, says nothing.
    fn owner(&self, kind: &KindSpec, key: &ObjectKey, reference: &Reference) -> Result<Found, Status> {
        let registry = self.core.registry();
        let Some(owner) = registry.of_object(&reference.api_version, &reference.kind) else {
            return Ok(Found::There);
        };
        if owner.namespaced && !kind.namespaced {
            return Ok(Found::There);
        }
        let namespace = if owner.namespaced { &*key.namespace } else { "" };
        let place = owner.key(namespace, &reference.name);
        let Some(object) = self.core.read(&place)? else {
            return Ok(Found::Gone);
        };
        let seen = Metadata::of(&object);
        Ok(match () {
            () if seen.uid != reference.uid => Found::Gone,
            () if seen.deletion_timestamp.is_some() && seen.has(FOREGROUND) => Found::Waits,
            () => Found::There,
        })
    }

    /// Whether anything that an object owns holds it.
    fn owned_that_block(&self, uid: &str) -> Result<bool, Status> {
        for key in self.graph.owned_by(uid) {
            if let Some(object) = self.core.read(&key)?
                && Metadata::of(&object)
                    .owner_references
                    .iter()
                    .any(|r| r.uid == uid && r.block_owner_deletion)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// An owner that goes after what it owns: lets it go when nothing blocks it, else has what it owns looked at.
    async fn wait_for_owned(&mut self, key: &ObjectKey, uid: &str) -> Result<(), Status> {
        if !self.owned_that_block(uid)? {
            self.graph.waiting.remove(uid);
            return self.release(key, uid, FOREGROUND).await;
        }
        // Once: each of them is tried again by itself, and one that comes later is looked at when it comes. An owner is looked at whenever
        // one of them goes, and must not have all the others looked at each time.
        if self.graph.waiting.insert(uid.to_owned(), key.clone()).is_none() {
            for owned in self.graph.owned_by(uid) {
                self.queue(owned);
            }
        }
        Ok(())
    }

    /// Takes references to owners out of an object.
    async fn let_go(&self, key: &ObjectKey, owners: &[&str]) -> Result<(), Status> {
        self.change(key, None, |metadata| {
            if let Some(Value::Array(references)) = metadata.get_mut("ownerReferences") {
                references.retain(|r| {
                    !r.get("uid")
                        .and_then(Value::as_str)
                        .is_some_and(|u| owners.contains(&u))
                });
            }
        })
        .await
    }

    /// Takes a finalizer out of an object.
    async fn release(&self, key: &ObjectKey, uid: &str, finalizer: &str) -> Result<(), Status> {
        self.change(key, Some(uid), |metadata| {
            if let Some(Value::Array(finalizers)) = metadata.get_mut("finalizers") {
                finalizers.retain(|f| f != finalizer);
            }
        })
        .await
    }

    async fn change(
        &self,
        key: &ObjectKey,
        uid: Option<&str>,
        edit: impl Fn(&mut serde_json::Map<String, Value>) + Send + Sync,
    ) -> Result<(), Status> {
        let Some(kind) = self.core.registry().of_key(key).cloned() else {
            return Ok(());
        };
        let user = User::internal();
        let changed = self
            .core
            .update(writing(&kind, key, &user), &key.name, false, &mut |current| {
                let mut value = current.clone();
                if uid.is_none_or(|uid| uid == meta::text(current, "uid")) {
                    edit(meta::of_mut(&mut value)?);
                }
                Ok(Body {
                    value,
                    duplicates: Vec::new(),
                })
            })
            .await;
        match changed {
            Err(status) if status.code == 404 => Ok(()),
            Err(status) => Err(status),
            Ok(_) => Ok(()),
        }
    }
}

fn writing<'a>(kind: &'a Arc<KindSpec>, key: &'a ObjectKey, user: &'a User) -> Writing<'a> {
    Writing {
        kind,
        namespace: &key.namespace,
        user,
        part: Part::Main,
        subresource: "",
        dry_run: false,
        strictness: Strictness::Ignore,
        owner: Owner::Nobody,
        call: None,
    }
}
