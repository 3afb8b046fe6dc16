//! Kinds as rows of a table. A row says everything the API needs to serve a kind; definitions that people create become the same rows,
//! so that no code below asks "is this a Pod?". What only one kind does stands in its row as a function.
//!
//! [`Registry`] is the table as it stands; it is replaced whole when a definition changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::addresses::Giver;
use super::builtin::Gave;
use super::jsonpath::Path;
use super::names::NameRule;
use super::openapi::Documents;
use super::rules::Rules;
use super::schema::{Schema, shape};
use super::status::Cause;
use super::table::Column;
use crate::store::{ObjectKey, Scope};

/// One row: a kind in one version.
#[derive(Clone, Debug)]
pub struct KindSpec {
    pub(crate) group: Arc<str>,
    pub(crate) version: Arc<str>,
    pub(crate) kind: Arc<str>,
    pub(crate) list_kind: Arc<str>,
    pub(crate) plural: Arc<str>,
    pub(crate) singular: Arc<str>,
    pub(crate) short_names: Vec<Arc<str>>,
    pub(crate) categories: Vec<Arc<str>>,
    pub(crate) namespaced: bool,
    pub(crate) schema: Arc<Schema>,
    /// Its name in the table of built-in types, by which it is read from protobuf.
    pub(crate) table_type: Option<Arc<str>>,
    /// From a definition: wrong types are validation errors rather than malformed requests, and there is no strategic merge.
    pub(crate) custom: bool,
    pub(crate) storage: Storage,
    pub(crate) names: NameRule,
    /// A PUT makes the object when there is none.
    pub(crate) create_on_update: bool,
    /// An update must say which version of the object it changes.
    pub(crate) update_names_version: bool,
    pub(crate) status: StatusPart,
    pub(crate) scale: Option<Scale>,
    /// What a definition demands of its objects beyond the schema.
    pub(crate) rules: Option<Arc<dyn Rules>>,
    /// The schemas of all versions of a definition, by their `apiVersion`.
    pub(crate) versions: Arc<BTreeMap<Box<str>, Arc<Schema>>>,
    /// Objects that were written before this revision may not have the form that the schema gives them.
    pub(crate) since: u64,
    /// `metadata.generation` counts changes of the desired state.
    pub(crate) generation: bool,
    pub(crate) columns: Vec<Column>,
    /// Fields that a field selector may name beside `metadata.name` and `metadata.namespace`.
    pub(crate) fields: Vec<Selected>,
    pub(crate) prepare: Option<Prepare>,
    pub(crate) validate: Option<Validate>,
    pub(crate) deletion: Deletion,
    /// Not stored: a POST is answered at once.
    pub(crate) review: Option<Review>,
    /// Subresources beyond status and scale that take a POST.
    pub(crate) actions: Vec<Action>,
    /// Text of a `Warning` header for users of a deprecated version.
    pub(crate) deprecated: Option<Arc<str>>,
    pub(crate) special: Special,
}

/// A field that a field selector may name.
#[derive(Clone, Debug)]
pub(crate) struct Selected {
    pub(crate) name: Arc<str>,
    pub(crate) path: Path,
    /// What an absent value means.
    pub(crate) zero: &'static str,
}

/// What only some built-in kinds have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Special {
    /// Gives an object what only one can have.
    pub(crate) give: Option<Give>,
    /// Completes an object whose status was written.
    pub(crate) prepare_status: Option<Prepare>,
    /// Finds what is wrong with a new status.
    pub(crate) validate_status: Option<Validate>,
    /// Subresources that show the object and change one part of its desired state.
    pub(crate) parts: &'static [SubPart],
    /// Subresources that lead to a running program.
    pub(crate) connects: &'static [Connects],
    /// What a writer should know: (new, old, warnings).
    pub(crate) warn: Option<Warn>,
    /// Who deletes one and says no more leaves what it owns: kinds that are older than owners.
    pub(crate) orphans: bool,
    /// A delete answers with the object instead of a Status.
    pub(crate) returns_deleted: bool,
    /// `metadata.generation` counts changes of annotations too.
    pub(crate) annotations_count: bool,
}

/// Says what a writer should know.
pub(crate) type Warn = fn(&Value, Option<&Value>, &mut Vec<String>);

/// A subresource that shows the object and changes one part of its desired state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubPart {
    /// Its name in the path.
    pub(crate) name: &'static str,
    /// The current object with this part of the new one.
    pub(crate) take: fn(&Value, Value) -> Value,
    /// Finds what is wrong with the change.
    pub(crate) validate: Validate,
}

/// A subresource that leads to a running program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connects {
    /// Its name in the path.
    pub(crate) name: &'static str,
    /// The kind of its options.
    pub(crate) kind: &'static str,
    pub(crate) verbs: &'static [&'static str],
}

/// Completes an object before it is admitted: (new, old, now as RFC 3339).
pub(crate) type Prepare = fn(&mut Value, Option<&Value>, &str);
/// Gives an object what only one can have: (new, old, who gives).
pub(crate) type Give = fn(&mut Value, Option<&Value>, &mut Giver<'_>) -> Result<(), Gave>;
/// Finds what is wrong with an object: (new, old, causes).
pub(crate) type Validate = fn(&Value, Option<&Value>, &mut Vec<Cause>);

/// Questions that are answered instead of stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Review {
    SelfAccess,
    Access,
    /// About one namespace.
    LocalAccess,
    SelfSubject,
    SelfRules,
    /// Whose is a token?
    Token,
    /// What do nodes use? Asked by reading.
    Nodes,
    /// What do pods use?
    Pods,
}

/// A subresource that does one thing to its object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Action {
    /// Its name in the path.
    pub(crate) name: &'static str,
    /// The kind of the body.
    pub(crate) kind: &'static str,
    /// Group and version of that kind where they are not the object's own.
    pub(crate) of: Option<(&'static str, &'static str)>,
    pub(crate) act: Act,
}

/// What an action does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// Changes the object by the body; an error is the reason of a conflict.
    Change(fn(&mut Value, &Value, &str) -> Result<(), String>),
    /// Says why in the object, and deletes it as the `deleteOptions` of the body say.
    Delete(fn(&mut Value, &str)),
}

/// What deleting does beside removing the object.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deletion {
    /// Nothing.
    Plain,
    /// The object stays, marked, until whoever runs it has ended it, or as long as this says: (object, what was asked for) in seconds.
    Graceful(fn(&Value, Option<i64>) -> i64),
    /// The object stays, marked, until everything in the namespace of its name is gone.
    EmptiesNamespace,
    /// The object stays, marked, until all objects of the kind it defines are gone.
    EmptiesKind,
}

/// How the `status` part is kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusPart {
    /// There is no status subresource: one write writes all.
    Whole,
    /// Written through `/status` only; a create drops it.
    Apart,
    /// Written through `/status` only, but a create may bring it along (Nodes register themselves whole).
    ApartAfterCreate,
}

/// Where the scale subresource reads and writes.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    pub(crate) spec: Path,
    pub(crate) status: Path,
    pub(crate) selector: Selector,
}

/// Where a scale finds its selector.
#[derive(Clone, Debug)]
pub(crate) enum Selector {
    None,
    /// Text at a path.
    Text(Path),
    /// A `LabelSelector` at a path.
    Labels(Path),
    /// A map of labels at a path.
    Map(Path),
}

/// Where objects of a row are kept: several rows may show the same objects.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    pub(crate) group: Arc<str>,
    pub(crate) plural: Arc<str>,
    /// `apiVersion` of the stored form.
    pub(crate) api_version: Arc<str>,
    /// How this row's form differs from the stored one, beyond `apiVersion`.
    pub(crate) view: Option<View>,
}

/// The two directions between a row's form and the stored form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) show: fn(&mut Value),
    pub(crate) keep: fn(&mut Value),
}

impl KindSpec {
    /// `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_string()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The API group, empty for core.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The kind (`Device`).
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The resource (`devices`).
    pub fn plural(&self) -> &str {
        &self.plural
    }

    /// Whether its objects live in namespaces.
    pub const fn namespaced(&self) -> bool {
        self.namespaced
    }

    /// Whether stored bytes are the answer as they are.
    /// `revision`: when the object was written.
    pub(crate) fn is_stored_form(&self, revision: u64) -> bool {
        revision >= self.since
            && self.storage.view.is_none()
            && self.storage.group == self.group
            && self
                .storage
                .api_version
                .rsplit('/')
                .next()
                .is_some_and(|v| v == &*self.version)
    }

    /// The key of an object; `namespace` is ignored for cluster-scoped kinds.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> ObjectKey {
        ObjectKey {
            group: self.storage.group.clone(),
            resource: self.storage.plural.clone(),
            namespace: if self.namespaced { namespace.into() } else { "".into() },
            name: name.into(),
        }
    }

    /// The scope of a list.
    pub(crate) fn scope(&self, namespace: Option<&str>) -> Scope {
        Scope {
            group: self.storage.group.clone(),
            resource: self.storage.plural.clone(),
            namespace: namespace.filter(|_| self.namespaced).map(Into::into),
        }
    }

    /// Brings a stored object into this row's form.
    pub(crate) fn show(&self, object: &mut Value) {
        if let Some(view) = self.storage.view {
            (view.show)(object);
        }
        if self.custom {
            self.read_custom(object);
        }
        self.stamp(object, &self.api_version());
    }

    /// What is stored has the form of the version in which it was stored, by the schema that this version has now; of that this version
    /// shows what it knows.
    fn read_custom(&self, object: &mut Value) {
        let stored = object.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        let schema = self.versions.get(stored).unwrap_or(&self.schema).clone();
        shape::prune(object, &schema, true, &mut Vec::new());
        shape::default(object, &schema);
        if !Arc::ptr_eq(&schema, &self.schema) {
            shape::prune(object, &self.schema, true, &mut Vec::new());
        }
    }

    /// Brings an object of this row into the stored form.
    pub(crate) fn keep(&self, object: &mut Value) {
        if let Some(view) = self.storage.view {
            (view.keep)(object);
        }
        if let Some(schema) = self.versions.get(&*self.storage.api_version)
            && !Arc::ptr_eq(schema, &self.schema)
        {
            // What the stored version has no place for is lost.
            shape::prune(object, schema, true, &mut Vec::new());
        }
        self.stamp(object, &self.storage.api_version);
    }

    fn stamp(&self, object: &mut Value, api_version: &str) {
        if let Value::Object(map) = object {
            map.insert("apiVersion".into(), api_version.into());
            map.insert("kind".into(), (&*self.kind).into());
        }
    }

    /// Whether a subresource of it is the one that gives tokens.
    pub(crate) fn gives_tokens(&self, subresource: Option<&str>) -> bool {
        subresource == Some("token") && self.group.is_empty() && &*self.plural == "serviceaccounts"
    }

    /// Whether it is what something uses, which is read and never written.
    pub(crate) const fn is_measured(&self) -> bool {
        matches!(self.review, Some(Review::Nodes | Review::Pods))
    }

    /// Whether there is a `/status`.
    pub(crate) fn has_status(&self) -> bool {
        self.status != StatusPart::Whole
    }

    /// The subresource of this name that changes a part of the desired state.
    pub(crate) fn part(&self, name: &str) -> Option<&'static SubPart> {
        self.special.parts.iter().find(|p| p.name == name)
    }

    /// Whether it holds other things, which go before it.
    pub(crate) const fn empties(&self) -> bool {
        matches!(self.deletion, Deletion::EmptiesNamespace | Deletion::EmptiesKind)
    }

    /// What may be done with it, for discovery.
    pub(crate) const fn verbs(&self) -> &'static [&'static str] {
        if self.is_measured() {
            &["get", "list"]
        } else if self.review.is_some() {
            &["create"]
        } else if matches!(self.deletion, Deletion::EmptiesNamespace) {
            &["create", "delete", "get", "list", "patch", "update", "watch"]
        } else {
            &[
                "create",
                "delete",
                "deletecollection",
                "get",
                "list",
                "patch",
                "update",
                "watch",
            ]
        }
    }
}

/// The rows of one version, by plural.
type Rows = BTreeMap<Arc<str>, Arc<KindSpec>>;

/// The table of kinds as it stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    groups: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Rows>>,
    /// Changes with every replacement.
    pub(crate) generation: u64,
    /// What is kept of its OpenAPI documents.
    pub(crate) documents: Documents,
    /// What is kept of definitions none of whose versions is served: their objects must still go when they go.
    pub(crate) unserved: Vec<Arc<KindSpec>>,
}

impl Registry {
    /// Adds a row; a row that is there stays.
    pub(crate) fn add(&mut self, kind: Arc<KindSpec>) {
        self.groups
            .entry(kind.group.clone())
            .or_default()
            .entry(kind.version.clone())
            .or_default()
            .entry(kind.plural.clone())
            .or_insert(kind);
    }

    /// A row.
    pub(crate) fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<KindSpec>> {
        self.groups.get(group)?.get(version)?.get(plural)
    }

    /// Whether the version of the group is served.
    pub(crate) fn has_version(&self, group: &str, version: &str) -> bool {
        self.groups.get(group).is_some_and(|g| g.contains_key(version))
    }

    /// Groups, core first, each with its versions, the preferred one first.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (&Arc<str>, Vec<&Arc<str>>)> {
        self.groups.iter().map(|(name, versions)| {
            let mut list: Vec<&Arc<str>> = versions.keys().collect();
            list.sort_by_key(|v| std::cmp::Reverse(priority(v)));
            (name, list)
        })
    }

    /// Whether any version of the group is served.
    pub(crate) fn has_group(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    /// The rows of a version, by plural.
    pub(crate) fn version(&self, group: &str, version: &str) -> impl Iterator<Item = &Arc<KindSpec>> {
        self.groups
            .get(group)
            .and_then(|g| g.get(version))
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// All rows.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<KindSpec>> {
        self.groups
            .values()
            .flat_map(BTreeMap::values)
            .flat_map(BTreeMap::values)
    }

    /// The row of a resource in its preferred version.
    pub(crate) fn preferred(&self, group: &str, plural: &str) -> Option<&Arc<KindSpec>> {
        let versions = self.groups.get(group)?;
        versions
            .iter()
            .filter_map(|(v, rows)| rows.get(plural).map(|k| (priority(v), k)))
            .max_by(|a, b| a.0.cmp(&b.0))
            .map(|(_, k)| k)
    }

    /// The row of an object by its `apiVersion` and `kind`.
    pub(crate) fn of_object(&self, api_version: &str, kind: &str) -> Option<&Arc<KindSpec>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.version(group, version).find(|k| &*k.kind == kind)
    }

    /// A row that shows what is kept at a place.
    pub(crate) fn of_key(&self, key: &ObjectKey) -> Option<&Arc<KindSpec>> {
        self.all()
            .find(|k| k.storage.group == key.group && k.storage.plural == key.resource && k.review.is_none())
    }

    /// The distinct places where objects are kept, each with one row that shows them.
    pub(crate) fn storage(&self) -> Vec<Arc<KindSpec>> {
        let mut seen = std::collections::BTreeSet::new();
        self.all()
            .chain(&self.unserved)
            .filter(|k| k.review.is_none())
            .filter(|k| seen.insert((k.storage.group.clone(), k.storage.plural.clone())))
            .cloned()
            .collect()
    }

    /// The distinct places where namespaced objects are kept, each with one row that shows them.
    pub(crate) fn namespaced_storage(&self) -> Vec<Arc<KindSpec>> {
        let mut all = self.storage();
        all.retain(|k| k.namespaced);
        all
    }
}

/// Orders versions as the API does: v2 > v1 > v1beta2 > v1beta1 > v1alpha1 > anything else.
pub(crate) fn priority(version: &str) -> (u8, u64, u64) {
    let parse = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u64 = rest[..digits].parse().ok()?;
        let (stage, minor) = match &rest[digits..] {
            "" => (3, 0),
            tail => {
                let (stage, n) = if let Some(n) = tail.strip_prefix("beta") {
                    (2, n)
                } else {
                    (1, tail.strip_prefix("alpha")?)
                };
                (stage, n.parse().ok()?)
            }
        };
        Some((stage, major, minor))
    };
    parse().unwrap_or((0, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_the_order_of_the_api() {
        let mut list = vec!["v1alpha1", "foo", "v1", "v1beta1", "v2", "v10", "v1beta2"];
        list.sort_by_key(|v| std::cmp::Reverse(priority(v)));
        assert_eq!(list, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo"]);
    }
}
