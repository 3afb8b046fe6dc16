//! What a gateway may do with the embedded API: look at the objects that are its own, one by one, whatever roles it may have been given.
//! Everybody else is left to the roles.

use std::sync::Arc;

use link::pki::{Cert, NODE_GROUP, NODE_PREFIX};
use metastore::api::{Attributes, Authorizer, Decision, User};

use crate::enroll::Directory;
use crate::upstream::Index;

/// The authorizer.
#[derive(Debug)]
pub(crate) struct Access {
    index: Arc<Index>,
    directory: Arc<Directory>,
}

impl Access {
    pub(crate) const fn new(index: Arc<Index>, directory: Arc<Directory>) -> Self {
        Self { index, directory }
    }

    /// Whether an object is this node's. Lists are nobody's: they would show the others.
    fn owns(&self, node: &str, a: &Attributes<'_>) -> bool {
        if a.name.is_empty() || !matches!(a.verb, "get" | "watch" | "list") || !matches!(a.subresource, "" | "status") {
            return false;
        }
        match (a.group, a.resource) {
            ("", "nodes") => a.name == node,
            ("edge.kubeedge.io", "edgenodes") => {
                self.index.edge_node_of(node).is_some_and(|(name, _)| *name == *a.name)
            }
            ("devices.kubeedge.io", "devices" | "devicestatuses") => self
                .index
                .device_node(a.namespace, a.name)
                .flatten()
                .is_some_and(|owner| *owner == *node),
            ("devices.kubeedge.io", "devicemodels") => self.index.uses_model(node, a.namespace, a.name),
            _ => false,
        }
    }
}

/// Who comes with the token that Karmada was given: it may speak for whoever asked Karmada, on the way to a gateway.
pub(crate) const KARMADA_USER: &str = "system:kurator-karmada";

/// Before the serial number of the certificate that a gateway showed, among its groups. Nobody else can be in such a group: the hub's CA
/// copies no groups from a request.
const CERTIFICATE: &str = "kurator.dev/certificate:";

/// Who a client certificate of the hub's CA is: its common name, in the groups it names; a gateway also in one that tells which of its
/// certificates it showed, because only the newest count.
pub(crate) fn user_of(cert: Cert) -> Option<User> {
    if cert.common_name.is_empty() {
        return None;
    }
    let mut user = User::new(cert.common_name, cert.organizations);
    if node_of(&user).is_some() {
        user.groups.push(format!("{CERTIFICATE}{}", cert.serial));
    }
    Some(user)
}

/// The node whose identity this user has.
pub(crate) fn node_of(user: &User) -> Option<&str> {
    user.name
        .strip_prefix(NODE_PREFIX)
        .filter(|_| user.in_group(NODE_GROUP))
}

/// What there is and how it is, and who one is: the roles of everybody who is known.
fn is_for_all(a: &Attributes<'_>) -> bool {
    const PATHS: [&str; 7] = ["/healthz", "/livez", "/readyz", "/version", "/api", "/apis", "/openapi"];
    if !a.resource.is_empty() {
        return a.is_about_oneself();
    }
    let under = |path: &&str| {
        a.path
            .strip_prefix(*path)
            .is_some_and(|r| r.is_empty() || r.starts_with('/'))
    };
    a.verb == "get" && PATHS.iter().any(under)
}

impl Authorizer for Access {
    fn allow(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        if user.name == KARMADA_USER {
            return if attributes.verb == "impersonate" || is_for_all(attributes) {
                Decision::Allow
            } else {
                Decision::Deny("Karmada may only speak for others, on the way to a gateway".to_owned())
            };
        }
        let Some(node) = node_of(user) else {
            return Decision::NoOpinion;
        };
        if is_for_all(attributes) {
            return Decision::NoOpinion;
        }
        let Some(identity) = self.directory.identity(node).filter(|i| !i.revoked) else {
            return Decision::Deny("the node is not enrolled, or was revoked".to_owned());
        };
        // Who comes through a link shows none here: its session was let in by its certificate and ends with it.
        let mut shown = user.groups.iter().filter_map(|g| g.strip_prefix(CERTIFICATE));
        if shown.any(|serial| identity.accepts(serial).is_err()) {
            return Decision::Deny("the certificate was replaced by a later one".to_owned());
        }
        if self.owns(node, attributes) {
            Decision::Allow
        } else {
            Decision::Deny("a gateway may read its own objects only, each by its name".to_owned())
        }
    }
}
