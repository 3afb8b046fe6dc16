//! Who asks and whether they may.
//!
//! A request passes three doors. *Who*: the listener's owner put a [`User`] on it from a client certificate, or a bearer token says it
//! (`token`). *For whom*: `impersonate` takes the headers that name somebody else, if the asker may. *Whether*: an [`Authority`] asks the
//! daemon's own [`Authorizer`], then the roles (`rbac`); members of [`MASTERS`] are asked nothing. What is then written passes the
//! [`Admission`]s.

mod admission;
mod authority;
mod impersonate;
mod user;

pub(crate) use admission::Warnings;
pub use admission::{Admission, AdmitContext, Operation};
pub use user::{ANONYMOUS, MASTERS, User};

pub(crate) use admission::Admissions;
pub(crate) use authority::{Authority, Verdict};
pub(crate) use user::{AUTHENTICATED, UNAUTHENTICATED, service_account_groups, service_account_name};

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes<'a> {
    /// `get list watch create update patch delete deletecollection`, a special one (`impersonate`, `bind`, `escalate`), or the HTTP method in
    /// lower case for a path that is no resource.
    pub verb: &'a str,
    /// API group, empty for core.
    pub group: &'a str,
    /// Plural; empty for a path that is no resource.
    pub resource: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// Empty for cluster scope and for all namespaces.
    pub namespace: &'a str,
    /// Empty when no single object is meant.
    pub name: &'a str,
    /// The path, when it is no resource.
    pub path: &'a str,
}

impl Attributes<'_> {
    /// Whether it is a question that somebody asks about themselves, which everybody who is known may.
    pub fn is_about_oneself(&self) -> bool {
        self.verb == "create"
            && matches!(
                (self.group, self.resource),
                (
                    "authorization.k8s.io",
                    "selfsubjectaccessreviews" | "selfsubjectrulesreviews"
                ) | ("authentication.k8s.io", "selfsubjectreviews")
            )
    }
}

/// An authorizer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow,
    /// No, whatever the roles say, and why.
    Deny(String),
    /// The roles decide.
    NoOpinion,
}

/// Decides who may do what, before the roles are asked. Asked once for each request, before anything is read; must be quick.
pub trait Authorizer: Send + Sync {
    /// Decides.
    fn allow(&self, user: &User, attributes: &Attributes<'_>) -> Decision;
}
