//! What looks at every write before it is validated.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::User;
use crate::api::kinds::KindSpec;
use crate::api::status::Status;
use crate::store::Store;

/// What is about to be done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is new.
    Create,
    /// It changes.
    Update,
    /// It goes.
    Delete,
}

/// What an admission sees beside the object.
#[derive(Clone, Copy)]
pub struct AdmitContext<'a> {
    /// What happens.
    pub op: Operation,
    /// The kind's row.
    pub kind: &'a KindSpec,
    /// The object's namespace, empty for cluster scope.
    pub namespace: &'a str,
    /// The object's name; where that is still to be made up, what it will begin with.
    pub name: &'a str,
    /// `status`, `scale`, an action, or empty for the object itself.
    pub subresource: &'a str,
    /// Who does it.
    pub user: &'a User,
    /// Nothing will be stored: leave no trace.
    pub dry_run: bool,
    /// To look up what the object refers to.
    pub store: &'a Store,
    pub(crate) warnings: &'a Warnings,
}

/// What is said beside the answer.
#[derive(Debug, Default)]
pub(crate) struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    pub(crate) fn into_inner(self) -> Vec<String> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AdmitContext<'_> {
    /// Says something to who writes: a `Warning` header, which clients print. Nobody hears it where the write is refused.
    pub fn warn(&self, text: impl Into<String>) {
        let mut warnings = self.warnings.0.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.push(text.into());
    }
}

impl std::fmt::Debug for AdmitContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdmitContext")
            .field("op", &self.op)
            .field("kind", &self.kind.kind)
            .field("namespace", &self.namespace)
            .field("name", &self.name)
            .field("subresource", &self.subresource)
            .finish_non_exhaustive()
    }
}

/// Looks at every write before it is validated, and may change or refuse it. Called again when the write is retried; must not block.
pub trait Admission: Send + Sync {
    /// Admits. `old` is absent on create; on delete `new` is a copy whose changes are lost.
    ///
    /// # Errors
    /// The refusal that the client gets.
    fn admit(&self, context: &AdmitContext<'_>, old: Option<&Value>, new: &mut Value) -> Result<(), Status>;
}

/// One admission after another.
#[derive(Clone, Default)]
pub(crate) struct Admissions(pub(crate) Vec<Arc<dyn Admission>>);

impl Admissions {
    pub(crate) fn admit(&self, context: &AdmitContext<'_>, old: Option<&Value>, new: &mut Value) -> Result<(), Status> {
        self.0.iter().try_for_each(|a| a.admit(context, old, new))
    }
}
