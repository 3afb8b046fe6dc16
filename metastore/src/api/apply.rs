//! Server-side apply: who owns which fields of an object, and what an applied configuration does to one.
//!
//! Each manager has an entry in `metadata.managedFields`: the paths it applied, or wrote by another verb. Applying merges a configuration over
//! the object, takes away what the manager applied before and no longer names, and refuses to change what somebody else owns unless forced.
//! Any other write takes the ownership of what it changes. Pure: no store, no clock; [`typed`] compares and merges values, [`fieldset`] holds
//! paths. Called by the write path only.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::meta;
use super::schema::Schema;
use super::status::{Cause, Status};

pub(crate) mod fieldset;
pub(crate) mod typed;

use fieldset::FieldSet;
use typed::TypedError;

/// Entries of managers that do not apply; the oldest ones beyond it become one.
const MAX_UPDATERS: usize = 10;
/// The manager that stands for those.
const ANCIENT: &str = "ancient-changes";
/// The manager of everything that an object had before anybody applied.
const BEFORE: &str = "before-first-apply";
/// Longest name of a manager.
pub(crate) const MAX_MANAGER: usize = 128;

/// Who writes, as `managedFields` tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manager<'a> {
    pub(crate) name: &'a str,
    pub(crate) api_version: &'a str,
    pub(crate) subresource: &'a str,
    /// Now, RFC 3339.
    pub(crate) now: &'a str,
}

/// What tells entries apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    /// `Update` stands after `Apply`, as in the list.
    update: bool,
    manager: String,
    /// Of updates only: an apply in another version is the same manager's.
    version: String,
    subresource: String,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    version: String,
    time: String,
    fields: FieldSet,
}

/// All entries of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Managed(BTreeMap<Id, Owned>);

/// Why a configuration cannot be applied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApplyError {
    /// Others own fields that it would change: who (as people read it), and the path.
    #[error("{} of its fields are owned by others", .0.len())]
    Conflicts(Vec<(String, String)>),
    /// Its lists cannot be merged.
    #[error(transparent)]
    Typed(#[from] TypedError),
}

impl Managed {
    /// Reads the entries of an object; none when one of them is unreadable.
    fn read(list: Option<&Value>) -> Option<Self> {
        let mut out = BTreeMap::new();
        for entry in list.and_then(Value::as_array).into_iter().flatten() {
            let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            let update = match entry.get("operation").and_then(Value::as_str) {
                Some("Apply") => false,
                Some("Update") => true,
                _ => return None,
            };
            let version = text("apiVersion");
            if version.is_empty() || text("fieldsType") != "FieldsV1" {
                return None;
            }
            let id = Id {
                update,
                manager: text("manager"),
                version: if update { version.clone() } else { String::new() },
                subresource: text("subresource"),
            };
            let fields = match entry.get("fieldsV1") {
                None | Some(Value::Null) => FieldSet::default(),
                Some(fields) => FieldSet::parse(fields)?,
            };
            out.insert(
                id,
                Owned {
                    version,
                    time: text("time"),
                    fields,
                },
            );
        }
        Some(Self(out))
    }

    /// The entries that a write starts from: those it brings, else those that are there. `[]` and `[{}]` bring none, on purpose.
    fn of_write(given: Option<&Value>, current: Option<&Value>) -> Self {
        match given.and_then(Value::as_array).map(Vec::as_slice) {
            Some([]) => return Self::default(),
            Some([Value::Object(only)]) if only.is_empty() => return Self::default(),
            _ => {}
        }
        Self::read(given)
            .filter(|managed| !managed.0.is_empty())
            .or_else(|| Self::read(current.and_then(managed_fields)))
            .unwrap_or_default()
    }

    /// Writes the entries into an object.
    fn write(self, object: &mut Value) -> Result<(), Status> {
        let mut entries: Vec<(Id, Owned)> = self.0.into_iter().collect();
        entries.sort_by(|(a, x), (b, y)| {
            (a.update, &x.time, &a.manager, &x.version, &a.subresource).cmp(&(
                b.update,
                &y.time,
                &b.manager,
                &y.version,
                &b.subresource,
            ))
        });
        let list: Vec<Value> = entries
            .into_iter()
            .map(|(id, owned)| {
                let mut entry = Map::new();
                entry.insert("manager".to_owned(), id.manager.into());
                let operation = if id.update { "Update" } else { "Apply" };
                entry.insert("operation".to_owned(), operation.into());
                entry.insert("apiVersion".to_owned(), owned.version.into());
                if !owned.time.is_empty() {
                    entry.insert("time".to_owned(), owned.time.into());
                }
                entry.insert("fieldsType".to_owned(), "FieldsV1".into());
                entry.insert("fieldsV1".to_owned(), owned.fields.to_value());
                if !id.subresource.is_empty() {
                    entry.insert("subresource".to_owned(), id.subresource.into());
                }
                Value::Object(entry)
            })
            .collect();
        let metadata = meta::of_mut(object)?;
        if list.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".to_owned(), Value::Array(list));
        }
        Ok(())
    }

    /// Takes fields from everybody but one.
    fn take(&mut self, fields: &FieldSet, but: &Id) {
        for (id, owned) in &mut self.0 {
            if id != but {
                owned.fields = owned.fields.difference(fields);
            }
        }
        self.0.retain(|id, owned| id == but || !owned.fields.is_empty());
    }

    /// Makes one entry of the oldest updates when there are too many.
    fn cap(&mut self) {
        let mut updates: Vec<(String, Id)> = self
            .0
            .iter()
            .filter(|(id, _)| id.update && id.manager != ANCIENT)
            .map(|(id, owned)| (owned.time.clone(), id.clone()))
            .collect();
        let all = self.0.keys().filter(|id| id.update).count();
        if all <= MAX_UPDATERS {
            return;
        }
        updates.sort();
        // One place is the ancient entry's.
        let surplus = (updates.len() + 1).saturating_sub(MAX_UPDATERS);
        for (_, id) in updates.into_iter().take(surplus) {
            let Some(old) = self.0.remove(&id) else { continue };
            let ancient = Id {
                manager: ANCIENT.to_owned(),
                ..id
            };
            match self.0.get_mut(&ancient) {
                Some(one) => {
                    one.fields.merge(&old.fields);
                    one.time = old.time.max(std::mem::take(&mut one.time));
                }
                None => {
                    self.0.insert(ancient, old);
                }
            }
        }
    }
}

/// Takes `managedFields` out of an object.
pub(crate) fn take_managed_fields(object: &mut Value) -> Option<Value> {
    object.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

/// Puts `managedFields` as they are.
pub(crate) fn put_managed_fields(object: &mut Value, given: Option<&Value>) -> Result<(), Status> {
    let metadata = meta::of_mut(object)?;
    match given {
        Some(list) => metadata.insert("managedFields".to_owned(), list.clone()),
        None => metadata.remove("managedFields"),
    };
    Ok(())
}

fn managed_fields(object: &Value) -> Option<&Value> {
    meta::of(object).and_then(|m| m.get("managedFields"))
}

/// What nobody owns: the identity of an object, and what the server sets.
fn strip(mut fields: FieldSet) -> FieldSet {
    fields.remove(&["f:apiVersion"]);
    fields.remove(&["f:kind"]);
    for name in [
        "f:name",
        "f:namespace",
        "f:creationTimestamp",
        "f:selfLink",
        "f:uid",
        "f:generation",
        "f:managedFields",
        "f:resourceVersion",
    ] {
        fields.remove(&["f:metadata", name]);
    }
    fields.unmark(&["f:metadata"]);
    fields
}

/// Writes down in `new` who owns what after a write that is no apply. `given`: the `managedFields` that the client sent along.
pub(crate) fn record_update(
    current: Option<&Value>,
    new: &mut Value,
    given: Option<&Value>,
    manager: Manager<'_>,
    schema: &Schema,
) -> Result<(), Status> {
    // Through a subresource nobody writes about owners.
    let given = given.filter(|_| manager.subresource.is_empty());
    let mut managed = Managed::of_write(given, current);
    // An object of which nobody kept track stays so until somebody applies.
    if managed.0.is_empty() && current.is_some() {
        return managed.write(new);
    }
    let nothing = Value::Object(Map::new());
    let difference = typed::compare(current.unwrap_or(&nothing), new, Some(schema));
    let taken = strip(difference.added.union(&difference.modified));
    let removed = strip(difference.removed);
    let id = Id {
        update: true,
        manager: manager.name.to_owned(),
        version: manager.api_version.to_owned(),
        subresource: manager.subresource.to_owned(),
    };
    managed.take(&taken.clone().union(&removed), &id);
    let before = managed.0.get(&id).map(|owned| owned.fields.clone()).unwrap_or_default();
    let after = before.clone().union(&taken).difference(&removed);
    if after.is_empty() {
        managed.0.remove(&id);
    } else if after != before {
        managed.0.insert(
            id,
            Owned {
                version: manager.api_version.to_owned(),
                time: manager.now.to_owned(),
                fields: after,
            },
        );
    }
    managed.cap();
    managed.write(new)
}

/// Applies a configuration: the new object, its `managedFields` included.
///
/// # Errors
/// Fields that others own, unless `force`; lists whose items cannot be told apart.
pub(crate) fn apply(
    current: Option<&Value>,
    config: &Value,
    ignored: impl Fn(&str) -> bool,
    manager: Manager<'_>,
    force: bool,
    schema: &Schema,
) -> Result<Value, ApplyError> {
    let schema = Some(schema);
    let mut live = current.cloned().unwrap_or_else(|| json!({}));
    let mut managed = Managed::of_write(None, current);
    if let Some(metadata) = live.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    if managed.0.is_empty() && current.is_some() {
        let id = Id {
            update: true,
            manager: BEFORE.to_owned(),
            version: manager.api_version.to_owned(),
            subresource: String::new(),
        };
        let owned = Owned {
            version: manager.api_version.to_owned(),
            time: manager.now.to_owned(),
            fields: strip(typed::compare(&json!({}), &live, schema).added),
        };
        managed.0.insert(id, owned);
    }
    let id = Id {
        update: false,
        manager: manager.name.to_owned(),
        version: String::new(),
        subresource: manager.subresource.to_owned(),
    };
    let mut wanted = config.clone();
    if let Value::Object(map) = &mut wanted {
        map.retain(|name, _| !ignored(name));
    }
    let merged = typed::merge(live.clone(), &wanted, schema)?;
    let fields = typed::fields_of(&wanted, schema);
    let previous = managed.0.remove(&id);
    // The name counts here: metadata without labels is still named by the configuration.
    let mut owned = fields.clone();
    for other in managed.0.values() {
        owned.merge(&other.fields);
    }
    let new = prune(merged, previous.as_ref().map(|p| &p.fields), &owned, schema);
    // Again, for maps that the configuration wants empty and that became so just now.
    let new = typed::merge(new, &wanted, schema)?;
    let owned = Owned {
        version: manager.api_version.to_owned(),
        time: previous.as_ref().map(|p| p.time.clone()).unwrap_or_default(),
        fields: strip(fields),
    };
    managed.0.insert(id.clone(), owned);
    let difference = typed::compare(&live, &new, schema);
    let changed = strip(difference.added.union(&difference.modified));
    let removed = strip(difference.removed);
    if !force {
        let conflicts: Vec<(String, String)> = managed
            .0
            .iter()
            .filter(|(other, _)| **other != id)
            .flat_map(|(other, owned)| {
                let paths = owned.fields.intersection(&changed).paths();
                paths.into_iter().map(|path| (readable(other), path))
            })
            .collect();
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
    }
    managed.take(&changed.clone().union(&removed), &id);
    let same = live == new;
    if let Some(owned) = managed.0.get_mut(&id) {
        let kept = previous
            .as_ref()
            .is_some_and(|p| p.fields == owned.fields && p.version == owned.version);
        if !(same && kept) || owned.time.is_empty() {
            manager.now.clone_into(&mut owned.time);
        }
        // An empty configuration owns nothing, and an entry that says so helps nobody.
        if owned.fields.is_empty() {
            managed.0.remove(&id);
        }
    }
    let mut out = new;
    managed
        .write(&mut out)
        .map_err(|_| TypedError::NoObject(".metadata".to_owned()))?;
    Ok(out)
}

/// Takes away what the manager applied before, names no longer, and shares with nobody.
fn prune(merged: Value, previous: Option<&FieldSet>, owned: &FieldSet, schema: Option<&Schema>) -> Value {
    let Some(previous) = previous.filter(|p| !p.is_empty()) else {
        return merged;
    };
    let nothing = || Value::Object(Map::new());
    let named = |set: &FieldSet| typed::with_parents(set, schema, &merged);
    let all = named(&typed::fields_of(&merged, schema));
    let last = named(previous);
    let owned = named(owned);
    // Without all of it; then with what anybody still owns; then only what was really applied is gone.
    let first = typed::without(merged.clone(), &last, schema).unwrap_or_else(nothing);
    let left = named(&typed::fields_of(&first, schema));
    let gone = all.difference(&left).difference(&owned);
    let second = typed::without(merged.clone(), &gone, schema).unwrap_or_else(nothing);
    let left = named(&typed::fields_of(&second, schema));
    let dangling = all.difference(&left).intersection(&last);
    typed::without(merged.clone(), &dangling, schema).unwrap_or_else(nothing)
}

/// A manager as a conflict names it.
fn readable(id: &Id) -> String {
    let mut out = format!("{:?}", id.manager);
    if !id.subresource.is_empty() {
        out.push_str(&format!(" with subresource {:?}", id.subresource));
    }
    if id.update {
        out.push_str(&format!(" using {}", id.version));
    }
    out
}

/// The answer to a client whose configuration was not applied.
pub(crate) fn refusal(error: &ApplyError, name: &str) -> Status {
    match error {
        ApplyError::Typed(why) => Status::unsorted(format!("failed to create typed patch object ({name}): {why}")),
        ApplyError::Conflicts(conflicts) => {
            let mut by_manager: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for (manager, path) in conflicts {
                by_manager.entry(manager).or_default().push(path);
            }
            let told: Vec<String> = by_manager
                .iter()
                .map(|(manager, paths)| match paths[..] {
                    [only] => format!("conflict with {manager}: {only}"),
                    _ => format!("conflicts with {manager}:\n- {}", paths.join("\n- ")),
                })
                .collect();
            let s = if conflicts.len() == 1 { "" } else { "s" };
            let message = format!("Apply failed with {} conflict{s}: {}", conflicts.len(), told.join("\n"));
            let causes = conflicts
                .iter()
                .map(|(manager, path)| Cause {
                    reason: "FieldManagerConflict".to_owned(),
                    message: format!("conflict with {manager}"),
                    field: path.clone(),
                })
                .collect();
            Status::apply_conflict(message, causes)
        }
    }
}

#[cfg(test)]
mod tests;
