//! What ServiceAccounts need around them: one called `default` in every namespace, the certificates by which programs know this server
//! (`kube-root-ca.crt`) in every namespace that runs some, and tokens in the Secrets that are for them.
//!
//! Follows the store and looks at nothing that did not change; a namespace that is being emptied is left alone. What is missing is made
//! again, also when somebody removed it. What another server keeps and is only mirrored here is not touched.

mod pods;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use serde_json::{Map, Value, json};

pub(crate) use pods::RunsAs;

use super::auth::User;
use super::delete::DeleteOptions;
use super::meta;
use super::server::{ApiServer, Core, ResourceId};
use super::status::Status;
use super::token::{ACCOUNT_NAME, ACCOUNT_UID, TOKEN_SECRET};
use super::write::{parse, store_status};
use crate::store::{Event, EventKind, ListOptions, Object, ObjectKey, Scope, Tap, Tapped};

const DEFAULT: &str = "default";
const BUNDLE: &str = "kube-root-ca.crt";
/// Secrets read at a time.
const PAGE: usize = 500;
/// What failed is tried again after this.
const RETRY: Duration = Duration::from_secs(5);

/// Something to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    /// The ServiceAccount of a namespace.
    Account(Arc<str>),
    /// The certificates in a namespace.
    Bundle(Arc<str>),
    /// A Secret for a token.
    Secret(ObjectKey),
    /// The Secrets of a namespace: a ServiceAccount came or went.
    Secrets(Arc<str>),
}

/// Whether a change can matter here.
fn matters(event: &Event) -> bool {
    let key = &event.object.key;
    let gone = event.kind == EventKind::Deleted;
    key.group.is_empty()
        && match &*key.resource {
            "namespaces" => !gone,
            "serviceaccounts" => event.kind != EventKind::Modified,
            "secrets" => !gone && is_for_token(&event.object),
            "pods" => event.kind == EventKind::Added,
            "configmaps" => &*key.name == BUNDLE,
            _ => false,
        }
}

fn is_for_token(secret: &Object) -> bool {
    memmem::find(&secret.json, TOKEN_SECRET.as_bytes()).is_some()
}

/// Runs until the drain begins.
pub(crate) fn start(core: &Arc<Core>) {
    let mut keeper = Keeper {
        server: ApiServer { core: core.clone() },
        tap: core.store.tap(matters),
        waiting: BTreeSet::new(),
    };
    drop(core.drain.spawn(async move { keeper.run().await }));
}

struct Keeper {
    server: ApiServer,
    tap: Tap,
    waiting: BTreeSet<Task>,
}

impl Keeper {
    async fn run(&mut self) {
        let drain = self.server.core.drain.clone();
        let mut complete = false;
        loop {
            if !complete {
                match self.look_at_everything().await {
                    Ok(()) => complete = true,
                    Err(error) => tracing::warn!(%error, "The ServiceAccounts cannot be looked at yet."),
                }
            }
            let mut failed = BTreeSet::new();
            while let Some(task) = self.waiting.pop_first() {
                if drain.is_stopping() {
                    return;
                }
                if let Err(error) = self.attend(&task).await {
                    tracing::debug!(%error, ?task, "A ServiceAccount cannot be looked after yet.");
                    failed.insert(task);
                }
            }
            tokio::select! {
                biased;
                () = drain.stopping() => return,
                tapped = self.tap.next() => match tapped {
                    Tapped::Event(event) => self.changed(&event),
                    Tapped::Missed => complete = false,
                    Tapped::Closed => return,
                },
                () = tokio::time::sleep(RETRY), if !failed.is_empty() || !complete => {}
            }
            self.waiting.extend(failed);
        }
    }

    fn changed(&mut self, event: &Event) {
        let key = &event.object.key;
        let space = key.namespace.clone();
        match &*key.resource {
            "namespaces" => drop(self.waiting.insert(Task::Account(key.name.clone()))),
            "serviceaccounts" => {
                self.waiting.insert(Task::Secrets(space.clone()));
                if event.kind == EventKind::Deleted && &*key.name == DEFAULT {
                    self.waiting.insert(Task::Account(space));
                }
            }
            "secrets" => drop(self.waiting.insert(Task::Secret(key.clone()))),
            _ => drop(self.waiting.insert(Task::Bundle(space))),
        }
    }

    /// Notes what may have been missed.
    async fn look_at_everything(&mut self) -> Result<(), Status> {
        let store = self.server.store().clone();
        for namespace in self.list(Scope::all("", "namespaces")).await? {
            let name = namespace.key.name;
            self.waiting.insert(Task::Account(name.clone()));
            let one = ListOptions {
                limit: Some(1),
                ..ListOptions::default()
            };
            let runs = store.list(&Scope::namespace("", "pods", name.clone()), one);
            let bundle = store.get(&ObjectKey::new("", "configmaps", name.clone(), BUNDLE));
            if !runs.map_err(store_status)?.items.is_empty() || bundle.map_err(store_status)?.is_some() {
                self.waiting.insert(Task::Bundle(name));
            }
        }
        let secrets = self.list(Scope::all("", "secrets")).await?;
        self.waiting
            .extend(secrets.into_iter().filter(is_for_token).map(|s| Task::Secret(s.key)));
        Ok(())
    }

    /// The objects of a scope, without those Secrets that are not for tokens.
    async fn list(&self, scope: Scope) -> Result<Vec<Object>, Status> {
        let store = self.server.store().clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            let mut after = None;
            loop {
                let options = ListOptions {
                    limit: Some(PAGE),
                    after: after.take(),
                    at: None,
                };
                let page = store.list(&scope, options)?;
                after = page.items.last().map(|o| o.key.clone());
                let secrets = &*scope.resource == "secrets";
                all.extend(page.items.into_iter().filter(|o| !secrets || is_for_token(o)));
                if !page.more {
                    return Ok(all);
                }
            }
        });
        read.await
            .map_err(|_| Status::internal("the list could not be read"))?
            .map_err(store_status)
    }

    async fn attend(&mut self, task: &Task) -> Result<(), Status> {
        match task {
            Task::Account(namespace) => account(&self.server, namespace).await,
            Task::Bundle(namespace) => self.bundle(namespace).await,
            Task::Secret(key) => self.secret(key).await,
            Task::Secrets(namespace) => {
                let secrets = self.list(Scope::namespace("", "secrets", namespace.clone())).await?;
                self.waiting.extend(secrets.into_iter().map(|s| Task::Secret(s.key)));
                Ok(())
            }
        }
    }

    async fn bundle(&self, namespace: &str) -> Result<(), Status> {
        let Some(pem) = &self.server.core.root_ca else {
            return Ok(());
        };
        let data = json!({"ca.crt": pem});
        let id = ResourceId::new("", "configmaps", namespace, BUNDLE);
        let Some(there) = self.server.get(&id)? else {
            let about = "The certificates by which programs in this namespace know the API server.";
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data, "metadata": {
                    "name": BUNDLE, "namespace": namespace, "annotations": {"kubernetes.io/description": about}}});
            return make(&self.server, map).await;
        };
        if parse(&there)?.get("data") == Some(&data) {
            return Ok(());
        }
        let user = User::internal();
        let changed = self.server.modify(&user, &id, "", |map| {
            if let Value::Object(map) = map {
                map.insert("data".to_owned(), data.clone());
            }
            Ok(())
        });
        gone_is_fine(changed.await.map(drop))
    }

    /// Fills a Secret with a token, or removes one whose ServiceAccount is not there.
    async fn secret(&self, key: &ObjectKey) -> Result<(), Status> {
        let core = &self.server.core;
        let Some(tokens) = core.tokens.as_ref().filter(|_| (core.collects)(key)) else {
            return Ok(());
        };
        let Some(stored) = core.read(key)? else { return Ok(()) };
        let secret = parse(&stored)?;
        let note = |name: &str| {
            let note = meta::of(&secret).and_then(|m| m.get("annotations")?.get(name)?.as_str());
            note.unwrap_or_default().to_owned()
        };
        let account = note(ACCOUNT_NAME);
        if secret.get("type") != Some(&json!(TOKEN_SECRET)) || account.is_empty() || meta::is_terminating(&secret) {
            return Ok(());
        }
        let id = ResourceId::new("", "secrets", &key.namespace, &key.name);
        let place = ObjectKey::new("", "serviceaccounts", key.namespace.clone(), account.as_str());
        let uid = match core.read(&place)? {
            Some(object) => meta::text(&parse(&object)?, "uid").to_owned(),
            None => String::new(),
        };
        let said = note(ACCOUNT_UID);
        if uid.is_empty() || (!said.is_empty() && said != uid) {
            tracing::info!(secret = %key, "A Secret for the token of a ServiceAccount that is gone is removed.");
            let removed = self
                .server
                .delete_internal(&User::internal(), &id, &DeleteOptions::default())
                .await;
            return gone_is_fine(removed.map(drop));
        }
        let filled = filled(&secret, &uid, core.root_ca.as_deref(), || {
            tokens.for_secret(&secret, (&account, &uid))
        });
        let Some(filled) = filled.filter(|f| *f != secret) else {
            return Ok(());
        };
        let user = User::internal();
        let changed = self.server.modify(&user, &id, "", |current| {
            // Somebody changed it meanwhile: its change is looked at for itself.
            if meta::text(current, "resourceVersion") == stored.revision.to_string() {
                *current = filled.clone();
            }
            Ok(())
        });
        gone_is_fine(changed.await.map(drop))
    }
}

/// Makes an object that is missing. In a namespace that goes nothing is made.
async fn make(server: &ApiServer, object: Value) -> Result<(), Status> {
    match server.create(&User::internal(), object).await {
        Ok(_) => Ok(()),
        Err(s) if s.reason == "AlreadyExists" || s.code == 404 || s.code == 403 => Ok(()),
        Err(s) => Err(s),
    }
}

/// Makes the ServiceAccount of a namespace when it is missing.
pub(crate) async fn account(server: &ApiServer, namespace: &str) -> Result<(), Status> {
    let id = ResourceId::new("", "serviceaccounts", namespace, DEFAULT);
    if server.kind("", "serviceaccounts").is_none() || server.get(&id)?.is_some() {
        return Ok(());
    }
    let metadata = json!({"name": DEFAULT, "namespace": namespace});
    make(
        server,
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}),
    )
    .await
}

fn gone_is_fine(result: Result<(), Status>) -> Result<(), Status> {
    match result {
        Err(s) if s.code == 404 => Ok(()),
        other => other,
    }
}

/// The Secret with what it is for; `None` when no token can be made.
fn filled(secret: &Value, uid: &str, ca: Option<&str>, token: impl FnOnce() -> Option<String>) -> Option<Value> {
    let mut out = secret.clone();
    let metadata = out.get_mut("metadata")?.as_object_mut()?;
    let notes = metadata
        .entry("annotations")
        .or_insert_with(|| Value::Object(Map::new()));
    notes.as_object_mut()?.insert(ACCOUNT_UID.to_owned(), uid.into());
    let namespace = meta::text(secret, "namespace").to_owned();
    let data = out.as_object_mut()?.entry("data").or_insert_with(|| json!({}));
    let data = data.as_object_mut()?;
    if data.get("token").and_then(Value::as_str).is_none_or(str::is_empty) {
        data.insert("token".to_owned(), STANDARD.encode(token()?).into());
    }
    if let Some(ca) = ca {
        data.insert("ca.crt".to_owned(), STANDARD.encode(ca).into());
    }
    data.insert("namespace".to_owned(), STANDARD.encode(namespace).into());
    Some(out)
}
