//! Roles and bindings in memory, arranged by whom they are about. Knows nothing of stores; whoever owns it hands it every change.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::rule::Rule;
use crate::api::auth::{Attributes, User, Verdict, service_account_name};
use crate::api::builtin::selector_text;
use crate::api::selector::{Labels, Selectable};
use crate::store::{Event, EventKind};

/// Rounds in which roles that gather from each other are resolved; a longer chain is resolved as far as that.
const MAX_ROUNDS: usize = 16;

/// What a role grants.
pub(crate) type Rules = Arc<[Rule]>;

/// Roles and bindings.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// By namespace (empty for cluster roles) and name.
    roles: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Role>>,
    bindings: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<Binding>>>,
    users: Subjects,
    groups: Subjects,
    /// A cluster role changed: what others gather from it has to be gathered again.
    stale: bool,
}

/// Whom bindings are about: by name, then by the binding's namespace.
type Subjects = BTreeMap<Arc<str>, BTreeMap<Arc<str>, Vec<Arc<Binding>>>>;

#[derive(Debug)]
struct Role {
    /// As the object has them.
    stored: Rules,
    /// What it grants: the same, or what it gathers.
    rules: Rules,
    gathers: Option<Vec<Labels>>,
    /// The object's metadata, for those who gather; empty for roles of a namespace.
    labels: Box<[u8]>,
}

#[derive(Debug)]
struct Binding {
    namespace: Arc<str>,
    name: Arc<str>,
    /// Empty for a cluster role.
    role_namespace: Arc<str>,
    role: Arc<str>,
    subjects: Vec<Subject>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    User(Arc<str>),
    Group(Arc<str>),
}

/// The narrow view of a role.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct RoleObject {
    /// Also null.
    rules: Option<Vec<Rule>>,
    #[serde(rename = "aggregationRule")]
    aggregation: Option<Aggregation>,
    metadata: LabelsOf,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LabelsOf {
    labels: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Aggregation {
    cluster_role_selectors: Vec<Value>,
}

/// The narrow view of a binding.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct BindingObject {
    role_ref: Reference,
    subjects: Vec<Reference>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reference {
    kind: String,
    name: String,
    namespace: String,
}

/// The binding and role by which something is allowed.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    binding: Arc<Binding>,
    by_user: bool,
    subject: Arc<str>,
}

/// `ClusterRoleBinding "b" of ClusterRole "r" to Group "g"`.
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Binding {
            namespace,
            name,
            role_namespace,
            role,
            ..
        } = &*self.binding;
        if namespace.is_empty() {
            write!(f, "ClusterRoleBinding {name:?}")?;
        } else {
            write!(f, "RoleBinding \"{name}/{namespace}\"")?;
        }
        let kind = if role_namespace.is_empty() {
            "ClusterRole"
        } else {
            "Role"
        };
        write!(f, " of {kind} {role:?} to ")?;
        match service_account_name(&self.subject).filter(|_| self.by_user) {
            Some((namespace, name)) => write!(f, "ServiceAccount \"{name}/{namespace}\""),
            None if self.by_user => write!(f, "User {:?}", self.subject),
            None => write!(f, "Group {:?}", self.subject),
        }
    }
}

impl Index {
    /// Takes in a change of a role or a binding.
    pub(crate) fn apply(&mut self, event: &Event) {
        let key = &event.object.key;
        let there = event.kind != EventKind::Deleted;
        match &*key.resource {
            "clusterroles" | "roles" => {
                let role = there.then(|| Role::read(&event.object.json, key.namespace.is_empty()));
                self.stale |= key.namespace.is_empty();
                put(&mut self.roles, &key.namespace, &key.name, role);
            }
            "clusterrolebindings" | "rolebindings" => {
                let binding = there.then(|| Arc::new(Binding::read(&event.object.json, &key.namespace, &key.name)));
                self.bind(&key.namespace, &key.name, binding);
            }
            _ => {}
        }
    }

    fn bind(&mut self, namespace: &Arc<str>, name: &Arc<str>, binding: Option<Arc<Binding>>) {
        for subject in binding.iter().flat_map(|b| &b.subjects) {
            let binding = binding.clone();
            let (subjects, name) = self.subjects(subject);
            let places = subjects.entry(name.clone()).or_default();
            places.entry(namespace.clone()).or_default().extend(binding);
        }
        let Some(before) = put(&mut self.bindings, namespace, name, binding) else {
            return;
        };
        for subject in &before.subjects {
            let (subjects, name) = self.subjects(subject);
            let Some(places) = subjects.get_mut(name) else { continue };
            if let Some(list) = places.get_mut(namespace) {
                list.retain(|b| !Arc::ptr_eq(b, &before));
                if list.is_empty() {
                    places.remove(namespace);
                }
            }
            if places.is_empty() {
                subjects.remove(name);
            }
        }
    }

    fn subjects<'s>(&mut self, subject: &'s Subject) -> (&mut Subjects, &'s Arc<str>) {
        match subject {
            Subject::User(name) => (&mut self.users, name),
            Subject::Group(name) => (&mut self.groups, name),
        }
    }

    /// Has roles that gather from others gather again, when one of these changed.
    pub(crate) fn settle(&mut self) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let Some(roles) = self.roles.get_mut("") else { return };
        let names: Vec<Arc<str>> = roles
            .iter_mut()
            .filter(|(_, r)| r.gathers.is_some())
            .map(|(name, role)| {
                role.rules = Rules::default();
                name.clone()
            })
            .collect();
        for _ in 0..MAX_ROUNDS {
            let mut changed = false;
            for name in &names {
                let gathered = gather(roles, name);
                if let Some(role) = roles.get_mut(name)
                    && *role.rules != *gathered
                {
                    role.rules = gathered.into();
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
    }

    /// Cluster roles whose objects do not say what they gather, with what they should say.
    pub(crate) fn ungathered(&self) -> Vec<(Arc<str>, Rules)> {
        let roles = self.roles.get("");
        roles
            .into_iter()
            .flatten()
            .filter(|(_, role)| role.gathers.is_some() && role.stored != role.rules)
            .map(|(name, role)| (name.clone(), role.rules.clone()))
            .collect()
    }

    /// What a role grants; `None` when there is none.
    pub(crate) fn role(&self, namespace: &str, name: &str) -> Option<&Rules> {
        self.roles.get(namespace)?.get(name).map(|r| &r.rules)
    }

    /// The bindings that are about somebody, at cluster scope and in a namespace: whether by name or by group, and by which.
    fn bindings_of<'i>(
        &'i self,
        user: &'i User,
        namespace: &'i str,
    ) -> impl Iterator<Item = (bool, &'i Arc<str>, &'i Arc<Binding>)> {
        let scopes = ["", namespace]
            .into_iter()
            .take(if namespace.is_empty() { 1 } else { 2 });
        scopes.flat_map(move |scope| {
            let by_user = self.users.get_key_value(user.name.as_str());
            let by_group = user.groups.iter().filter_map(|g| self.groups.get_key_value(g.as_str()));
            let subjects = by_user
                .into_iter()
                .map(|s| (true, s))
                .chain(by_group.map(|s| (false, s)));
            subjects.flat_map(move |(by_user, (name, places))| {
                let bindings = places.get(scope).into_iter().flatten();
                bindings.map(move |b| (by_user, name, b))
            })
        })
    }

    /// Whether a role allows it.
    pub(crate) fn decide(&self, user: &User, attributes: &Attributes<'_>) -> Verdict {
        let mut missing = BTreeSet::new();
        for (by_user, subject, binding) in self.bindings_of(user, attributes.namespace) {
            match self.role(&binding.role_namespace, &binding.role) {
                Some(rules) if rules.iter().any(|r| r.allows(attributes)) => {
                    return Verdict::Allowed(Some(Grant {
                        binding: binding.clone(),
                        by_user,
                        subject: subject.clone(),
                    }));
                }
                Some(_) => {}
                None => {
                    missing.insert(binding.missing());
                }
            }
        }
        Verdict::Unknown(complaint(missing))
    }

    /// All rules that hold for somebody, at cluster scope and in a namespace, and what could not be found.
    pub(crate) fn rules_of(&self, user: &User, namespace: &str) -> (Vec<Rules>, String) {
        let mut missing = BTreeSet::new();
        let mut out = Vec::new();
        for (_, _, binding) in self.bindings_of(user, namespace) {
            match self.role(&binding.role_namespace, &binding.role) {
                Some(rules) => out.push(rules.clone()),
                None => {
                    missing.insert(binding.missing());
                }
            }
        }
        (out, complaint(missing))
    }
}

fn complaint(missing: BTreeSet<String>) -> String {
    let all: Vec<String> = missing.into_iter().collect();
    match all.as_slice() {
        [] => String::new(),
        [one] => format!("RBAC: {one}"),
        many => format!("RBAC: [{}]", many.join(", ")),
    }
}

fn put<T>(
    map: &mut BTreeMap<Arc<str>, BTreeMap<Arc<str>, T>>,
    namespace: &Arc<str>,
    name: &Arc<str>,
    value: Option<T>,
) -> Option<T> {
    let Some(value) = value else {
        let inner = map.get_mut(namespace)?;
        let before = inner.remove(name);
        if inner.is_empty() {
            map.remove(namespace);
        }
        return before;
    };
    map.entry(namespace.clone()).or_default().insert(name.clone(), value)
}

/// What a role gathers: the rules of the roles its selectors pick, each once, in the order of selectors and names.
fn gather(roles: &BTreeMap<Arc<str>, Role>, name: &str) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    let mut seen = BTreeSet::new();
    let selectors = roles.get(name).and_then(|r| r.gathers.as_deref()).unwrap_or_default();
    for selector in selectors {
        let picked = roles
            .iter()
            .filter(|(other, role)| ***other != *name && selector.selects(&Selectable::read(&role.labels)));
        for rule in picked.flat_map(|(_, role)| role.rules.iter()) {
            if seen.insert(rule) {
                out.push(rule.clone());
            }
        }
    }
    out
}

impl Role {
    /// Reads an object. What cannot be read grants nothing: it has passed its schema, so that there is no such thing.
    fn read(json: &[u8], cluster: bool) -> Self {
        let object: RoleObject = serde_json::from_slice(json).unwrap_or_default();
        let stored: Rules = object.rules.unwrap_or_default().into();
        let gathers = object.aggregation.filter(|_| cluster).map(|aggregation| {
            let selectors = aggregation.cluster_role_selectors;
            selectors
                .iter()
                .filter_map(|s| Labels::parse(&selector_text(s)).ok())
                .collect()
        });
        let labels = if cluster && !object.metadata.labels.is_empty() {
            let own = serde_json::json!({"metadata": {"labels": object.metadata.labels}});
            own.to_string().into_bytes().into()
        } else {
            Box::default()
        };
        Self {
            rules: stored.clone(),
            stored,
            gathers,
            labels,
        }
    }
}

impl Binding {
    fn read(json: &[u8], namespace: &Arc<str>, name: &Arc<str>) -> Self {
        let object: BindingObject = serde_json::from_slice(json).unwrap_or_default();
        let role_namespace = if object.role_ref.kind == "Role" {
            namespace.clone()
        } else {
            "".into()
        };
        let subjects = object
            .subjects
            .into_iter()
            .filter_map(|s| subject(s, namespace))
            .collect();
        Self {
            namespace: namespace.clone(),
            name: name.clone(),
            role_namespace,
            role: object.role_ref.name.into(),
            subjects,
        }
    }

    fn missing(&self) -> String {
        let kind = if self.role_namespace.is_empty() {
            "clusterrole"
        } else {
            "role"
        };
        format!("{kind}.rbac.authorization.k8s.io {:?} not found", self.role)
    }
}

/// A ServiceAccount is the user that its tokens authenticate.
fn subject(of: Reference, namespace: &str) -> Option<Subject> {
    match of.kind.as_str() {
        "User" => Some(Subject::User(of.name.into())),
        "Group" => Some(Subject::Group(of.name.into())),
        "ServiceAccount" => {
            let space = if of.namespace.is_empty() {
                namespace
            } else {
                &of.namespace
            };
            (!space.is_empty()).then(|| Subject::User(User::service_account(space, &of.name, "").name.into()))
        }
        _ => None,
    }
}
