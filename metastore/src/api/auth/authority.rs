//! All who decide, in their order: members of [`MASTERS`](super::MASTERS) may; then the daemon's own rule, whose no is final; then the roles.

use std::sync::Arc;

use super::{Attributes, Authorizer, Decision, User};
use crate::api::rbac::{Grant, Rbac};
use crate::api::status::Status;

/// The union of who decides.
#[derive(Clone)]
pub(crate) struct Authority {
    own: Option<Arc<dyn Authorizer>>,
    rbac: Arc<Rbac>,
}

/// What was decided.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// Yes; by what, when it was by a role.
    Allowed(Option<Grant>),
    /// No, whatever else may be said, and why.
    Denied(String),
    /// Nothing allows it; what stands in the way of knowing better, or nothing.
    Unknown(String),
}

impl Verdict {
    /// Whether it may be.
    pub(crate) const fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }

    /// Why, for people; empty when there is nothing to say.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Allowed(Some(grant)) => format!("RBAC: allowed by {grant}"),
            Self::Allowed(None) => String::new(),
            Self::Denied(why) | Self::Unknown(why) => why.clone(),
        }
    }
}

impl Authority {
    pub(crate) const fn new(own: Option<Arc<dyn Authorizer>>, rbac: Arc<Rbac>) -> Self {
        Self { own, rbac }
    }

    /// The roles.
    pub(crate) const fn rbac(&self) -> &Arc<Rbac> {
        &self.rbac
    }

    /// Decides.
    pub(crate) fn decide(&self, user: &User, attributes: &Attributes<'_>) -> Verdict {
        if user.is_master() {
            return Verdict::Allowed(None);
        }
        match self.own.as_ref().map(|own| own.allow(user, attributes)) {
            Some(Decision::Allow) => Verdict::Allowed(None),
            Some(Decision::Deny(why)) => Verdict::Denied(why),
            Some(Decision::NoOpinion) | None => self.rbac.decide(user, attributes),
        }
    }

    /// Refuses what the user may not do.
    ///
    /// # Errors
    /// 403, worded as clients know it.
    pub(crate) fn check(&self, user: &User, attributes: &Attributes<'_>) -> Result<(), Status> {
        match self.decide(user, attributes) {
            Verdict::Allowed(_) => Ok(()),
            verdict => Err(refusal(user, attributes, &verdict.reason())),
        }
    }
}

fn refusal(user: &User, a: &Attributes<'_>, why: &str) -> Status {
    let tail = if why.is_empty() {
        String::new()
    } else {
        format!(": {why}")
    };
    if a.resource.is_empty() {
        return Status::forbidden_path(&format!(
            "User \"{}\" cannot {} path \"{}\"{tail}",
            user.name, a.verb, a.path
        ));
    }
    let place = if a.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{}\"", a.namespace)
    };
    let resource = resource_of(a.resource, a.subresource);
    let said = format!(
        "User \"{}\" cannot {} resource \"{resource}\" in API group \"{}\" {place}{tail}",
        user.name, a.verb, a.group
    );
    Status::forbidden(a.group, a.resource, a.name, &said)
}

/// `pods`, `pods/log`.
fn resource_of(resource: &str, subresource: &str) -> String {
    if subresource.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}/{subresource}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::rbac::testing::authority;

    #[tokio::test]
    async fn refusals_say_who_cannot_do_what_where() {
        let (authority, _dir) = authority(&[]).await;
        let bob = User::new("bob", ["dev"]);
        let refused = |a: Attributes<'_>| authority.check(&bob, &a).unwrap_err();
        let a = Attributes {
            verb: "get",
            group: "apps",
            resource: "deployments",
            subresource: "scale",
            namespace: "ns",
            name: "web",
            path: "",
        };
        let status = refused(a);
        assert_eq!(
            status.message,
            "deployments.apps \"web\" is forbidden: User \"bob\" cannot get resource \"deployments/scale\" in API group \"apps\" in the namespace \"ns\""
        );
        let details = status.details.unwrap();
        assert_eq!((details.kind.as_str(), details.name.as_str()), ("deployments", "web"));
        let status = refused(Attributes {
            verb: "get",
            path: "/x",
            ..Attributes::default()
        });
        assert_eq!(status.message, "forbidden: User \"bob\" cannot get path \"/x\"");
        assert!(authority.check(&User::internal(), &a).is_ok());
    }

    #[tokio::test]
    async fn the_daemons_no_is_final_and_its_silence_leaves_it_to_the_roles() {
        struct Own;
        impl Authorizer for Own {
            fn allow(&self, _: &User, a: &Attributes<'_>) -> Decision {
                match a.verb {
                    "get" => Decision::Allow,
                    "list" => Decision::Deny("not here".to_owned()),
                    _ => Decision::NoOpinion,
                }
            }
        }
        let everything = [
            serde_json::json!({"kind": "ClusterRole", "metadata": {"name": "all"},
                "rules": [{"verbs": ["list", "watch"], "apiGroups": ["*"], "resources": ["*"]}]}),
            serde_json::json!({"kind": "ClusterRoleBinding", "metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "all"},
                "subjects": [{"kind": "User", "name": "bob"}]}),
        ];
        let (roles, _dir) = authority(&everything).await;
        let authority = Authority::new(Some(Arc::new(Own)), roles.rbac().clone());
        let bob = User::new("bob", ["dev"]);
        let ask = |verb| {
            authority.decide(
                &bob,
                &Attributes {
                    verb,
                    resource: "pods",
                    ..Attributes::default()
                },
            )
        };
        assert!(matches!(ask("get"), Verdict::Allowed(None)));
        assert!(matches!(ask("list"), Verdict::Denied(_)));
        assert!(matches!(ask("watch"), Verdict::Allowed(Some(_))));
        assert!(matches!(ask("delete"), Verdict::Unknown(_)));
    }
}
