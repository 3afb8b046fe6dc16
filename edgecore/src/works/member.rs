//! The local API as Works are applied to it: one object is made what a manifest says, taken away, or let go. Every write goes the way of a
//! request (admission, defaults, validation), and none is made that changes nothing.

use federation::interpret::retain;
use federation::names;
use metastore::api::{ApiServer, DeleteOptions, MASTERS, Parts, Propagation, Status, User};
use metastore::store::Store;
use serde_json::{Value, json};

use super::manifest::{self, Place};
use crate::objects::{self, IMPLICIT};
use crate::uplink::{is_mirrored, is_mirrored_into};

/// Who writes, as admissions see it.
pub(super) const USER: &str = "system:kurator:works";
/// Namespaces that no server gives away.
const IMMORTAL: [&str; 3] = ["default", "kube-public", "kube-system"];
/// How often an object that comes and goes meanwhile is looked at again.
const RACES: usize = 4;

/// The API under the name of its agent.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) api: ApiServer,
    pub(super) user: User,
}

/// What is remembered of an object that was applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Print {
    /// What was asked for.
    pub(super) desired: u64,
    /// What became of it.
    pub(super) stood: u64,
}

/// What an apply did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) print: Print,
    /// Whether it wrote.
    pub(super) wrote: bool,
}

/// Where an object stands that is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// It is not there, or not a Work's.
    Gone,
    /// It is marked, and something holds it.
    Waits,
}

impl Member {
    pub(super) fn new(api: ApiServer) -> Self {
        Self {
            api,
            user: User::new(USER, [MASTERS]),
        }
    }

    pub(super) fn store(&self) -> &Store {
        self.api.store()
    }

    /// Reads an object.
    ///
    /// # Errors
    /// When the store cannot be read. A kind that is not served has no objects.
    pub(super) fn get(&self, place: &Place) -> Result<Option<Value>, String> {
        match self.api.get(&place.id()) {
            Ok(Some(object)) => object.value().map(Some).map_err(|e| e.to_string()),
            Ok(None) => Ok(None),
            Err(status) if status.code == 404 => Ok(None),
            Err(status) => Err(status.message),
        }
    }

    /// Makes the object at `place` be `desired`, which `cluster` is to have. `known`: what it was made last.
    ///
    /// # Errors
    /// What the status of the Work says then.
    pub(super) async fn apply(
        &self,
        place: &Place,
        desired: &Value,
        cluster: &str,
        known: Option<Print>,
    ) -> Result<Done, String> {
        let wanted = manifest::hash(desired);
        for _ in 0..RACES {
            let Some(current) = self.get(place)? else {
                match self.create(place, desired).await {
                    Ok(stood) => {
                        let print = Print { desired: wanted, stood };
                        return Ok(Done { print, wrote: true });
                    }
                    Err(status) if status.reason == "AlreadyExists" => continue,
                    Err(status) => return Err(status.message),
                }
            };
            let stood = manifest::print(&current);
            let print = Print { desired: wanted, stood };
            if known == Some(print) || self.is_hubs(place)? {
                return Ok(Done { print, wrote: false });
            }
            if !may_change(place, &current, desired) {
                return Err(clash(place, cluster));
            }
            match self.replace(place, desired, &current).await {
                Ok(done) => {
                    let stood = done.stood.unwrap_or(stood);
                    let print = Print { desired: wanted, stood };
                    return Ok(Done {
                        print,
                        wrote: done.wrote,
                    });
                }
                // Somebody else's took its place.
                Err(None) => return Err(clash(place, cluster)),
                // Gone meanwhile.
                Err(Some(status)) if status.code == 404 && place.kind.preferred => {}
                Err(Some(status)) => return Err(status.message),
            }
        }
        Err(format!(
            "resource(kind={}, {}) does not stand still",
            place.kind.kind, place.key
        ))
    }

    async fn create(&self, place: &Place, desired: &Value) -> Result<u64, Status> {
        let created = match self.api.create(&self.user, desired.clone()).await {
            Err(status) if status.code == 404 && place.kind.namespaced => {
                let namespace = &place.key.namespace;
                if self
                    .store()
                    .get(&objects::namespace_key(namespace))
                    .is_ok_and(|there| there.is_some())
                {
                    return Err(status);
                }
                let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": &**namespace,
                    "annotations": {IMPLICIT: "true"}}});
                match self.api.create(&self.user, made).await {
                    Err(status) if status.reason != "AlreadyExists" => return Err(status),
                    _ => self.api.create(&self.user, desired.clone()).await?,
                }
            }
            created => created?,
        };
        let stored = created.value().map_err(|e| Status::internal(e.to_string()))?;
        Ok(manifest::print(&stored))
    }

    /// Replaces an object by what is desired, with what is the member's own kept. `Err(None)`: it may not be changed any more.
    async fn replace(&self, place: &Place, desired: &Value, current: &Value) -> Result<Replaced, Option<Status>> {
        let mut clashes = false;
        let applied = if place.kind.preferred {
            self.api
                .modify(&self.user, &place.id(), "", |current| {
                    if !may_change(place, current, desired) {
                        clashes = true;
                        return Err(Status::internal("not the agent's"));
                    }
                    *current = merged(desired, current);
                    Ok(())
                })
                .await
        } else {
            let merged = merged(desired, current);
            self.api.apply_internal(&self.user, merged, Parts::Main).await
        };
        let applied = applied.map_err(|status| (!clashes).then_some(status))?;
        let stored = applied.object.value().ok();
        Ok(Replaced {
            stood: stored.as_ref().map(manifest::print),
            wrote: applied.changed,
        })
    }

    /// Whether the hub keeps this very object itself.
    fn is_hubs(&self, place: &Place) -> Result<bool, String> {
        is_mirrored(self.store(), &place.key).map_err(|e| e.to_string())
    }

    /// Takes an object away that a Work brought.
    ///
    /// # Errors
    /// Why it is still there.
    pub(super) async fn remove(&self, place: &Place) -> Result<Leave, String> {
        let Some(object) = self.get(place)?.filter(manifest::is_managed) else {
            return Ok(Leave::Gone);
        };
        if self.is_hubs(place)? {
            return Ok(Leave::Gone);
        }
        let is_namespace = place.kind.group.is_empty() && &*place.kind.plural == "namespaces";
        if is_namespace && is_mirrored_into(self.store(), &place.key.name).map_err(|e| e.to_string())? {
            // The hub's Devices are in it, and would go with it.
            return self.release(place, true).await;
        }
        if is_namespace && IMMORTAL.contains(&&*place.key.name) {
            return self.release(place, false).await;
        }
        let options = DeleteOptions {
            uid: object["metadata"]["uid"].as_str().map(str::to_owned),
            propagation: Some(Propagation::Background),
            ..DeleteOptions::default()
        };
        if object["metadata"]["deletionTimestamp"].is_null() {
            match self.api.delete_internal(&self.user, &place.id(), &options).await {
                Ok(_) => {}
                Err(status) if status.code == 404 => {}
                Err(status) => return Err(status.message),
            }
        }
        let there = self.get(place)?;
        let same = there.is_some_and(|there| there["metadata"]["uid"] == object["metadata"]["uid"]);
        Ok(if same { Leave::Waits } else { Leave::Gone })
    }

    /// Leaves an object here, as nobody's in particular.
    ///
    /// # Errors
    /// Why that cannot be written.
    pub(super) async fn release(&self, place: &Place, implicit: bool) -> Result<Leave, String> {
        if self.get(place)?.filter(manifest::is_managed).is_none() || self.is_hubs(place)? {
            return Ok(Leave::Gone);
        }
        let id = place.id();
        let released = self.api.modify(&self.user, &id, "", |object| {
            if manifest::is_managed(object) {
                manifest::release(object);
                if implicit {
                    manifest::mark_implicit(object);
                }
            }
            Ok(())
        });
        match released.await {
            Ok(_) => Ok(Leave::Gone),
            Err(status) if status.code == 404 => Ok(Leave::Gone),
            Err(status) => Err(status.message),
        }
    }
}

struct Replaced {
    stood: Option<u64>,
    wrote: bool,
}

/// Whether a Work may change what is there: what came through a Work, what is to be overwritten, a namespace that is there only for
/// what is in it.
fn may_change(place: &Place, current: &Value, desired: &Value) -> bool {
    let implicit = &*place.kind.plural == "namespaces" && place.kind.group.is_empty() && manifest::is_implicit(current);
    implicit
        || manifest::is_managed(current)
        || desired["metadata"]["annotations"][names::CONFLICT_RESOLUTION] == "overwrite"
}

/// What is desired, with what is the member's own.
fn merged(desired: &Value, current: &Value) -> Value {
    let mut merged = desired.clone();
    retain(&mut merged, current);
    manifest::unmark_implicit(&mut merged);
    merged
}

/// What Karmada's own agent says, word for word: people and programs look for it.
fn clash(place: &Place, cluster: &str) -> String {
    format!(
        "resource(kind={}, {}/{}) already exists in the cluster {cluster} and the {} strategy value is empty, Karmada will not manage this resource",
        place.kind.kind,
        place.key.namespace,
        place.key.name,
        names::CONFLICT_RESOLUTION
    )
}
