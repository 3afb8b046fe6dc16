//! The write path for callers in the same process: controllers, replication, the twin service. Same admission, same validation, same
//! commits as a request; no HTTP.

use serde_json::Value;

use super::auth::User;
use super::codec::Parsed;
use super::delete::{DeleteOptions, Deleted};
use super::kinds::{Act, KindSpec};
use super::request::Strictness;
use super::server::{ApiServer, ResourceId};
use super::status::Status;
use super::write::{Owner, Part, Writing, parse};
use super::{meta, write};
use crate::store::Object;
use std::sync::Arc;

/// Which parts of an object [`ApiServer::apply_internal`] writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parts {
    /// All but the status.
    Main,
    /// The status only.
    Status,
    /// Everything as it is given: for objects that were validated where they come from.
    Whole,
}

/// What [`ApiServer::apply_internal`] did.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The object as stored.
    pub object: Object,
    /// False when it already was so.
    pub changed: bool,
}

impl ApiServer {
    /// Reads an object in its stored form.
    ///
    /// # Errors
    /// Unknown resource, or a store that cannot be read.
    pub fn get(&self, id: &ResourceId) -> Result<Option<Object>, Status> {
        let kind = self.row(&id.group, &id.resource)?;
        self.core.read(&kind.key(&id.namespace, &id.name))
    }

    /// Creates an object; its kind, namespace and name are in it.
    ///
    /// # Errors
    /// Whatever a POST would answer.
    pub async fn create(&self, user: &User, object: Value) -> Result<Object, Status> {
        let kind = self.row_of(&object)?;
        let namespace = meta::text(&object, "namespace").to_owned();
        let written = self
            .core
            .create(writing(&kind, &namespace, user, Part::Main, ""), whole(object))
            .await?;
        written
            .object
            .ok_or_else(|| Status::internal("the store did not say what it stored"))
    }

    /// Changes an object by a function of it, which may be called again when somebody else wrote meanwhile. `subresource` is `status` for the
    /// status, empty for the rest. The function leaves the object as it was to change nothing.
    ///
    /// # Errors
    /// Whatever a PUT would answer, and what the function returns.
    pub async fn modify(
        &self,
        user: &User,
        id: &ResourceId,
        subresource: &str,
        mut change: impl FnMut(&mut Value) -> Result<(), Status> + Send,
    ) -> Result<Applied, Status> {
        let kind = self.row(&id.group, &id.resource)?;
        let part = if subresource == "status" {
            Part::Status
        } else {
            Part::Main
        };
        let written = self
            .core
            .update(
                writing(&kind, &id.namespace, user, part, subresource),
                &id.name,
                false,
                &mut |current| {
                    let mut value = current.clone();
                    change(&mut value)?;
                    Ok(whole(value))
                },
            )
            .await?;
        applied(written)
    }

    /// Makes the stored object be this one: creates it, or replaces what differs. Its namespace is made when it is missing. Labels,
    /// annotations, owner references and finalizers become those given; what the server sets stays.
    ///
    /// # Errors
    /// Whatever a POST or PUT would answer.
    pub async fn apply_internal(&self, user: &User, object: Value, parts: Parts) -> Result<Applied, Status> {
        let kind = self.row_of(&object)?;
        let namespace = meta::text(&object, "namespace").to_owned();
        let name = meta::text(&object, "name").to_owned();
        let (part, subresource) = match parts {
            Parts::Main => (Part::Main, ""),
            Parts::Status => (Part::Status, "status"),
            Parts::Whole => (Part::Whole, ""),
        };
        let w = writing(&kind, &namespace, user, part, subresource);
        // Once to find it there, once more when it was deleted or made in between.
        for _ in 0..4 {
            let wanted = object.clone();
            let changed = self
                .core
                .update(w, &name, false, &mut |current| Ok(whole(replaced(&wanted, current))))
                .await;
            match changed {
                Err(s) if s.code == 404 && parts != Parts::Status => {}
                other => return applied(other?),
            }
            match self.core.create(w, whole(wanted)).await {
                Ok(written) => return applied(written),
                Err(s) if s.reason == "AlreadyExists" => {}
                Err(s) if s.code == 404 && kind.namespaced => self.ensure_namespace(user, &namespace).await?,
                Err(s) => return Err(s),
            }
        }
        Err(Status::modified(&kind.group, &kind.plural, &name))
    }

    /// Deletes an object, as [`DeleteOptions`] say. False when there was none.
    ///
    /// # Errors
    /// Whatever a DELETE would answer but 404.
    pub async fn delete_internal(&self, user: &User, id: &ResourceId, options: &DeleteOptions) -> Result<bool, Status> {
        let kind = self.row(&id.group, &id.resource)?;
        let w = writing(&kind, &id.namespace, user, Part::Main, "");
        match self.core.delete(w, &id.name, options).await {
            Ok(Deleted::Gone(_) | Deleted::Waits(_)) => Ok(true),
            Err(s) if s.code == 404 => Ok(false),
            Err(s) => Err(s),
        }
    }

    /// Acts on an object as a POST to one of its subresources does that change it: `binding` of a pod.
    ///
    /// # Errors
    /// Whatever that POST would answer; 404 when the kind has no such action.
    pub async fn act(&self, user: &User, id: &ResourceId, action: &str, body: &Value) -> Result<(), Status> {
        let kind = self.row(&id.group, &id.resource)?;
        let Some(Act::Change(change)) = kind.actions.iter().find(|a| a.name == action).map(|a| &a.act) else {
            return Err(Status::no_such_resource());
        };
        let about = format!("{}/{action}", kind.plural);
        let w = writing(&kind, &id.namespace, user, Part::Whole, "");
        self.core
            .update(w, &id.name, false, &mut |current| {
                let mut value = current.clone();
                change(&mut value, body, &meta::now())
                    .map_err(|why| Status::conflict(&kind.group, &about, &id.name, &why))?;
                Ok(whole(value))
            })
            .await?;
        Ok(())
    }

    async fn ensure_namespace(&self, user: &User, name: &str) -> Result<(), Status> {
        let namespace = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        match Box::pin(self.create(user, namespace)).await {
            Ok(_) => Ok(()),
            Err(s) if s.reason == "AlreadyExists" => Ok(()),
            Err(s) => Err(s),
        }
    }

    fn row(&self, group: &str, resource: &str) -> Result<Arc<KindSpec>, Status> {
        self.kind(group, resource).ok_or_else(Status::no_such_resource)
    }

    fn row_of(&self, object: &Value) -> Result<Arc<KindSpec>, Status> {
        let said = |f: &str| object.get(f).and_then(Value::as_str).unwrap_or_default();
        self.core
            .registry()
            .of_object(said("apiVersion"), said("kind"))
            .cloned()
            .ok_or_else(Status::no_such_resource)
    }
}

fn whole(value: Value) -> Parsed {
    Parsed {
        value,
        duplicates: Vec::new(),
    }
}

const fn writing<'a>(
    kind: &'a Arc<KindSpec>,
    namespace: &'a str,
    user: &'a User,
    part: Part,
    subresource: &'a str,
) -> Writing<'a> {
    Writing {
        kind,
        namespace,
        user,
        part,
        subresource,
        dry_run: false,
        strictness: Strictness::Ignore,
        owner: Owner::Nobody,
        call: None,
    }
}

/// The wanted object with the identity of the current one.
fn replaced(wanted: &Value, current: &Value) -> Value {
    let mut out = wanted.clone();
    if let Ok(m) = meta::of_mut(&mut out) {
        for field in ["uid", "resourceVersion"] {
            m.remove(field);
            if let Some(v) = meta::of(current).and_then(|c| c.get(field)) {
                m.insert(field.to_owned(), v.clone());
            }
        }
    }
    out
}

fn applied(written: write::Written) -> Result<Applied, Status> {
    let changed = written.changed;
    let object = written
        .object
        .ok_or_else(|| Status::internal("the store did not say what it stored"))?;
    debug_assert!(parse(&object).is_ok());
    Ok(Applied { object, changed })
}
