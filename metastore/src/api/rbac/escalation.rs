//! Nobody grants what they do not have: roles and bindings are looked at before they are written.
//!
//! Who may `escalate` a role or `bind` it is let through; everybody else must hold every permission that the role grants, where it will be
//! granted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::index::Rules;
use super::rule::{Part, Rule, What};
use super::{CLUSTER_ROLES, GROUP, Rbac};
use crate::api::auth::{Admission, AdmitContext, Attributes, Authority, Operation, User};
use crate::api::status::Status;

/// Comparisons that one write may cost. A role whose rules multiply beyond is for those who may escalate.
const MAX_COMPARISONS: usize = 2_000_000;
/// What is missing is listed up to this.
const MAX_LISTED: usize = 100;

/// The admission that sees to it.
pub(crate) struct NoEscalation(pub(crate) Authority);

impl Admission for NoEscalation {
    fn admit(&self, context: &AdmitContext<'_>, old: Option<&Value>, new: &mut Value) -> Result<(), Status> {
        if context.kind.group() != GROUP || context.op == Operation::Delete || context.user.is_master() {
            return Ok(());
        }
        if old.is_some_and(|old| only_released(old, new)) {
            return Ok(());
        }
        match context.kind.plural() {
            "roles" | CLUSTER_ROLES => self.role(context, old, new),
            "rolebindings" | "clusterrolebindings" => self.binding(context, new),
            _ => Ok(()),
        }
    }
}

/// Whether nothing changed but what an object waits for before it goes.
fn only_released(old: &Value, new: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["finalizers", "ownerReferences", "managedFields", "resourceVersion"] {
                metadata.remove(field);
            }
        }
        object
    };
    bare(old) == bare(new)
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Granting {
    /// Also null.
    rules: Option<Vec<Rule>>,
    #[serde(rename = "roleRef")]
    role: RoleRef,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RoleRef {
    kind: String,
    name: String,
}

impl NoEscalation {
    fn rbac(&self) -> &Arc<Rbac> {
        self.0.rbac()
    }

    fn may(&self, c: &AdmitContext<'_>, verb: &str, resource: &str, name: &str) -> bool {
        let attributes = Attributes {
            verb,
            group: GROUP,
            resource,
            namespace: c.namespace,
            name,
            ..Attributes::default()
        };
        self.0.decide(c.user, &attributes).is_allowed()
    }

    fn role(&self, c: &AdmitContext<'_>, old: Option<&Value>, new: &Value) -> Result<(), Status> {
        // A new object has no name yet for whoever decides.
        let name = if c.op == Operation::Create { "" } else { c.name };
        if self.may(c, "escalate", c.kind.plural(), name) {
            return Ok(());
        }
        let granting = Granting::deserialize(new).unwrap_or_default();
        self.held(c, granting.rules.as_deref().unwrap_or_default())?;
        let gathers = |role: &Value| {
            role.pointer("/aggregationRule/clusterRoleSelectors")
                .and_then(Value::as_array)
                .is_some_and(|list| !list.is_empty())
        };
        // It can gather anything.
        if (gathers(new) || old.is_some_and(gathers)) && self.held(c, &Rule::everything()).is_err() {
            let why = "must have cluster-admin privileges to use the aggregationRule";
            return Err(refused(c, why));
        }
        Ok(())
    }

    fn binding(&self, c: &AdmitContext<'_>, new: &Value) -> Result<(), Status> {
        let role = Granting::deserialize(new).unwrap_or_default().role;
        let (resource, namespace) = match role.kind.as_str() {
            "ClusterRole" => (CLUSTER_ROLES, ""),
            "Role" => ("roles", c.namespace),
            // Validation refuses it.
            _ => return Ok(()),
        };
        if self.may(c, "bind", resource, &role.name) {
            return Ok(());
        }
        match self.rbac().role(namespace, &role.name)? {
            Some(rules) => self.held(c, &rules),
            None => Err(Status::not_found(GROUP, c.kind.plural(), &role.name)),
        }
    }

    /// Whether the user holds all of this where it will be granted.
    fn held(&self, c: &AdmitContext<'_>, wanted: &[Rule]) -> Result<(), Status> {
        let (own, complaint) = self.rbac().rules_of(c.user, c.namespace)?;
        let own: Vec<&Rule> = own.iter().flat_map(|rules: &Rules| rules.iter()).collect();
        let parts = wanted.iter().fold(0_usize, |n, r| n.saturating_add(r.size()));
        if parts.saturating_mul(own.len().max(1)) > MAX_COMPARISONS {
            let why = "it grants too many permissions to compare them with those of its writer, who may not escalate";
            return Err(refused(c, why));
        }
        let missing: BTreeSet<Part<'_>> = wanted
            .iter()
            .flat_map(Rule::parts)
            .filter(|part| !own.iter().any(|rule| rule.covers(part)))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut why = describe(c.user, &missing);
        if !complaint.is_empty() {
            why.push_str("; resolution errors: ");
            why.push_str(&complaint);
        }
        Err(refused(c, &why))
    }
}

fn refused(c: &AdmitContext<'_>, why: &str) -> Status {
    Status::forbidden(GROUP, c.kind.plural(), c.name, why)
}

/// What is missing, a line for each thing with its verbs.
fn describe(user: &User, missing: &BTreeSet<Part<'_>>) -> String {
    let mut verbs: BTreeMap<What<'_>, Vec<&str>> = BTreeMap::new();
    for part in missing {
        verbs.entry(part.what).or_default().push(part.verb);
    }
    let quoted = |words: &[&str]| words.iter().map(|w| format!("{w:?}")).collect::<Vec<_>>().join(" ");
    let groups: Vec<&str> = user.groups.iter().map(String::as_str).collect();
    let mut out = format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:",
        user.name,
        quoted(&groups)
    );
    for (what, verbs) in verbs.iter().take(MAX_LISTED) {
        out.push_str(&format!("\n{{{what}, Verbs:[{}]}}", quoted(verbs)));
    }
    if verbs.len() > MAX_LISTED {
        out.push_str(&format!("\nand {} more", verbs.len() - MAX_LISTED));
    }
    out
}
