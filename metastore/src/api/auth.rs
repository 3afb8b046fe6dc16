//! Who asks and whether they may: the user that the listener's owner authenticated, impersonation, and the two traits that decide.

use std::sync::Arc;

use http::HeaderMap;
use serde_json::Value;

use super::kinds::KindSpec;
use super::status::Status;
use crate::store::Store;

/// Members may do everything, and may act as others.
pub const MASTERS: &str = "system:masters";
/// Who was not authenticated.
pub const ANONYMOUS: &str = "system:anonymous";
const UNAUTHENTICATED: &str = "system:unauthenticated";
const AUTHENTICATED: &str = "system:authenticated";
/// Most groups that one request may impersonate.
const MAX_GROUPS: usize = 64;

/// Whoever made a request. Put into the request's extensions by whoever authenticated it; absent means anonymous.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// `system:node:gw-1`, a person's name.
    pub name: String,
    /// Groups, `system:masters` among them for administrators.
    pub groups: Vec<String>,
}

impl User {
    /// A user in these groups; `system:authenticated` comes by itself.
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|g| g == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self {
            name: name.into(),
            groups,
        }
    }

    /// Nobody known.
    pub fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
        }
    }

    /// The program itself, for writes that no request asked for.
    pub fn internal() -> Self {
        Self::new("system:apiserver", [MASTERS])
    }

    /// Whether they may do everything.
    pub fn is_master(&self) -> bool {
        self.in_group(MASTERS)
    }

    /// Whether they are in a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// Whom the request acts for: itself, or whom its headers name.
    ///
    /// # Errors
    /// 403 when somebody who is not in `system:masters` impersonates.
    pub fn acting(self, headers: &HeaderMap) -> Result<Self, Status> {
        let Some(name) = headers.get("impersonate-user") else {
            let stray = headers.keys().any(|k| k.as_str().starts_with("impersonate-"));
            return if stray {
                Err(Status::bad_request("impersonating groups needs a user to impersonate"))
            } else {
                Ok(self)
            };
        };
        let name = name.to_str().unwrap_or_default();
        if !self.is_master() {
            let why = format!(
                "User \"{}\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope",
                self.name
            );
            return Err(Status::forbidden("", "users", name, &why));
        }
        if name.is_empty() {
            return Err(Status::bad_request("Impersonate-User is empty"));
        }
        let groups: Vec<String> = headers
            .get_all("impersonate-group")
            .iter()
            .take(MAX_GROUPS)
            .filter_map(|g| g.to_str().ok())
            .map(str::to_owned)
            .collect();
        if name == ANONYMOUS {
            return Ok(Self::anonymous());
        }
        Ok(Self::new(name, groups))
    }
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes<'a> {
    /// `get list watch create update patch delete deletecollection`, or the HTTP method in lower case for a path that is no resource.
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

/// An authorizer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow,
    /// No, and why.
    Deny(String),
}

/// Decides who may do what. Asked once for each request, before anything is read; must be quick.
pub trait Authorizer: Send + Sync {
    /// Decides.
    fn allow(&self, user: &User, attributes: &Attributes<'_>) -> Decision;
}

/// Administrators may do everything, everybody may ask how the server is: the rule when nobody gives another.
#[derive(Clone, Copy, Debug, Default)]
pub struct MastersOnly;

impl Authorizer for MastersOnly {
    fn allow(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        if user.is_master() || is_public(user, attributes) {
            Decision::Allow
        } else {
            Decision::Deny("only members of system:masters may".to_owned())
        }
    }
}

/// What everybody may: health and version; discovery and questions about oneself for everybody who is known.
pub fn is_public(user: &User, attributes: &Attributes<'_>) -> bool {
    const OPEN: [&str; 4] = ["/healthz", "/livez", "/readyz", "/version"];
    const KNOWN: [&str; 3] = ["/api", "/apis", "/openapi"];
    let under = |list: &[&str]| {
        list.iter().any(|p| {
            attributes.path == *p
                || attributes
                    .path
                    .strip_prefix(p)
                    .is_some_and(|rest| rest.starts_with('/'))
        })
    };
    if attributes.resource.is_empty() {
        return attributes.verb == "get" && (under(&OPEN) || (user.in_group(AUTHENTICATED) && under(&KNOWN)));
    }
    user.in_group(AUTHENTICATED)
        && attributes.verb == "create"
        && matches!(
            (attributes.group, attributes.resource),
            (
                "authorization.k8s.io",
                "selfsubjectaccessreviews" | "selfsubjectrulesreviews"
            ) | ("authentication.k8s.io", "selfsubjectreviews")
        )
}

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
    /// The object's name.
    pub name: &'a str,
    /// `status`, `scale`, an action, or empty for the object itself.
    pub subresource: &'a str,
    /// Who does it.
    pub user: &'a User,
    /// Nothing will be stored: leave no trace.
    pub dry_run: bool,
    /// To look up what the object refers to.
    pub store: &'a Store,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        let mut h = HeaderMap::new();
        for (k, v) in list {
            h.append(*k, v.parse().unwrap());
        }
        h
    }

    #[test]
    fn only_masters_impersonate() {
        let h = headers(&[
            ("impersonate-user", "bob"),
            ("impersonate-group", "dev"),
            ("impersonate-group", "ops"),
        ]);
        let bob = User::new("root", [MASTERS]).acting(&h).unwrap();
        assert_eq!(bob, User::new("bob", ["dev", "ops"]));
        assert!(!bob.is_master());
        assert_eq!(User::new("eve", ["dev"]).acting(&h).unwrap_err().code, 403);
        assert_eq!(User::anonymous().acting(&h).unwrap_err().code, 403);
        let only_group = headers(&[("impersonate-group", MASTERS)]);
        assert_eq!(User::new("eve", ["dev"]).acting(&only_group).unwrap_err().code, 400);
    }

    #[test]
    fn the_default_rule() {
        let path = |p| Attributes {
            verb: "get",
            path: p,
            ..Attributes::default()
        };
        let pods = Attributes {
            verb: "list",
            resource: "pods",
            ..Attributes::default()
        };
        let known = User::new("bob", ["dev"]);
        assert_eq!(
            MastersOnly.allow(&User::anonymous(), &path("/healthz")),
            Decision::Allow
        );
        assert_ne!(MastersOnly.allow(&User::anonymous(), &path("/apis")), Decision::Allow);
        assert_eq!(MastersOnly.allow(&known, &path("/apis/apps")), Decision::Allow);
        assert_ne!(MastersOnly.allow(&known, &path("/apisx")), Decision::Allow);
        assert_ne!(MastersOnly.allow(&known, &pods), Decision::Allow);
        assert_eq!(MastersOnly.allow(&User::internal(), &pods), Decision::Allow);
    }
}
