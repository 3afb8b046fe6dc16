//! Authorization by roles: `Role`, `ClusterRole` and their bindings.
//!
//! Owns the picture of all roles and bindings in memory ([`Index`]), which is exactly as new as the store: every change is in a queue
//! before its writer is answered, and whoever asks takes the queue in first. Writes of other kinds cost nothing but one comparison.
//! Also owns what goes with roles: the defaults (`policy`), who may grant what (`escalation`), and roles that gather others (`gather`).

mod escalation;
mod index;
mod policy;
mod rule;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use serde_json::{Value, json};

pub(crate) use escalation::NoEscalation;
pub(crate) use index::Grant;
use index::{Index, Rules};
pub(crate) use policy::install;

use super::auth::{Attributes, User, Verdict};
use super::server::{ApiServer, Core, ResourceId};
use super::status::Status;
use super::write::store_status;
use crate::store::{Event, EventKind, ListOptions, Scope, Store, StoreError, Tap, Tapped};

/// The group of roles and bindings.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";
const CLUSTER_ROLES: &str = "clusterroles";
const RESOURCES: [&str; 4] = [CLUSTER_ROLES, "roles", "clusterrolebindings", "rolebindings"];

/// The roles of a store.
pub(crate) struct Rbac {
    store: Store,
    state: RwLock<State>,
}

struct State {
    tap: Tap,
    index: Index,
    /// Everything was read once, and every change since is in the index or in the tap.
    complete: bool,
}

fn concerns(event: &Event) -> bool {
    &*event.object.key.group == GROUP
}

impl Rbac {
    /// The roles of a store as they stand.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn new(store: Store) -> Result<Self, Status> {
        let state = State {
            tap: store.tap(concerns),
            index: Index::default(),
            complete: false,
        };
        let rbac = Self {
            store,
            state: RwLock::new(state),
        };
        drop(rbac.now().map_err(store_status)?);
        Ok(rbac)
    }

    /// The picture with every change that anybody was told of.
    fn now(&self) -> Result<RwLockReadGuard<'_, State>, StoreError> {
        loop {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            if state.complete && !state.tap.has_more() {
                return Ok(state);
            }
            drop(state);
            self.state
                .write()
                .unwrap_or_else(PoisonError::into_inner)
                .catch_up(&self.store)?;
        }
    }

    /// Decides by roles alone.
    pub(crate) fn decide(&self, user: &User, attributes: &Attributes<'_>) -> Verdict {
        match self.now() {
            Ok(state) => state.index.decide(user, attributes),
            Err(error) => {
                tracing::error!(%error, "The roles cannot be read.");
                Verdict::Unknown("RBAC: the roles cannot be read".to_owned())
            }
        }
    }

    /// What somebody may do at cluster scope and in a namespace, and what of it could not be found out.
    pub(crate) fn rules_of(&self, user: &User, namespace: &str) -> Result<(Vec<Rules>, String), Status> {
        Ok(self.now().map_err(store_status)?.index.rules_of(user, namespace))
    }

    /// What a role grants.
    fn role(&self, namespace: &str, name: &str) -> Result<Option<Rules>, Status> {
        Ok(self.now().map_err(store_status)?.index.role(namespace, name).cloned())
    }

    fn ungathered(&self) -> Result<Vec<(Arc<str>, Rules)>, Status> {
        Ok(self.now().map_err(store_status)?.index.ungathered())
    }
}

impl State {
    fn catch_up(&mut self, store: &Store) -> Result<(), StoreError> {
        while let Some(tapped) = self.tap.try_next() {
            match tapped {
                Tapped::Event(event) => self.index.apply(&event),
                Tapped::Missed => self.complete = false,
                Tapped::Closed => return Err(StoreError::Closed),
            }
        }
        if !self.complete {
            self.index = Index::default();
            for resource in RESOURCES {
                for object in store.list(&Scope::all(GROUP, resource), ListOptions::default())?.items {
                    self.index.apply(&Event {
                        kind: EventKind::Added,
                        object,
                        previous: None,
                    });
                }
            }
            self.complete = true;
        }
        self.index.settle();
        Ok(())
    }
}

/// Keeps the objects of roles that gather others as they should be, until the drain begins. What they grant does not wait for this.
pub(crate) fn gather(server: &ApiServer) {
    let core = server.core.clone();
    let mut tap = core
        .store
        .tap(|event| concerns(event) && &*event.object.key.resource == CLUSTER_ROLES);
    let drain = core.drain.clone();
    drop(server.core.drain.spawn(async move {
        loop {
            if let Err(status) = gather_once(&core).await {
                tracing::warn!(error = %status, "Roles that gather others cannot be brought up to date yet.");
            }
            tokio::select! {
                biased;
                () = drain.stopping() => return,
                tapped = tap.next() => if matches!(tapped, Tapped::Closed) { return },
            }
        }
    }));
}

/// Writes what the objects should say.
pub(crate) async fn gather_once(core: &Arc<Core>) -> Result<(), Status> {
    let server = ApiServer { core: core.clone() };
    for (name, rules) in core.authority.rbac().ungathered()? {
        let id = ResourceId::cluster(GROUP, CLUSTER_ROLES, &name);
        let written = server
            .modify(&User::internal(), &id, "", |role| {
                // Somebody took away what gathers: the rules are theirs again.
                if role.get("aggregationRule").is_some_and(Value::is_object)
                    && let Value::Object(map) = role
                {
                    map.insert("rules".to_owned(), json!(&*rules));
                }
                Ok(())
            })
            .await;
        match written {
            Err(status) if status.code == 404 => {}
            other => drop(other?),
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::api::auth::Authority;
    use crate::store::{Expect, ObjectKey, StoreOptions, Tx};

    /// Writes a role or binding past the API.
    pub(crate) async fn put(store: &Store, object: &Value) {
        let text = |pointer| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let plural = format!("{}s", text("/kind").to_lowercase());
        let key = ObjectKey::new(GROUP, plural, text("/metadata/namespace"), text("/metadata/name"));
        store
            .commit(Tx::new().put(key, object.clone(), Expect::Any))
            .await
            .unwrap();
    }

    /// An authority over a fresh store with these roles and bindings.
    pub(crate) async fn authority(objects: &[Value]) -> (Authority, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(StoreOptions::new(dir.path().join("x.db"))).unwrap();
        for object in objects {
            put(&store, object).await;
        }
        (Authority::new(None, Arc::new(Rbac::new(store).unwrap())), dir)
    }
}

#[cfg(test)]
mod tests;
