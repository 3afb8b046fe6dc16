//! What a template refers to goes along: a binding for each ConfigMap, Secret, ServiceAccount and claim, which names in `requiredBy` who needs
//! it and where. Several that need the same share one; when none does any more it goes, unless a policy claims the object itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use federation::interpret::{ObjectRef, dependencies};
use metastore::api::Status;
use serde_json::{Map, Value, json};

use super::detector::{bare, id_label, reference};
use super::follow::{Shared, binding_of};
use super::hand::{Hand, Key, controller_uid, id_of, is_leaving, is_there, label, list, member, put, set, take, text};
use super::kinds::is_open;
use super::picture::DEPENDENCIES;
use super::queue::Desk;
use super::{Controller, Looked};

/// Before a hash of the binding that needs another, among that one's labels.
const DEPENDED_BY: &str = "resourcebinding.karmada.io/depended-by-";

pub(super) struct Dependencies {
    shared: Arc<Shared>,
    hand: Hand,
}

impl Dependencies {
    pub(super) const fn new(shared: Arc<Shared>, hand: Hand) -> Self {
        Self { shared, hand }
    }

    /// What the object of a binding refers to, where that is to go along.
    fn wanted(&self, at: &Key, binding: &Value) -> Result<Vec<ObjectRef>, Status> {
        let spec = &binding["spec"];
        if is_leaving(binding) || spec["propagateDeps"] != true || list(binding, "/spec/clusters").is_empty() {
            return Ok(Vec::new());
        }
        let Some(bound) = self.shared.picture().bindings.get(at).cloned() else {
            return Ok(Vec::new());
        };
        let template = self.hand.get(&id_of(&bound.template))?;
        Ok(template.map(|t| dependencies(&t)).unwrap_or_default())
    }

    /// Has the binding of an object say that another one needs it.
    async fn attach(&self, need: &Need<'_>, at: &Key, object: &Value) -> Result<(), Status> {
        let id = at.binding().id(at);
        for _ in 0..2 {
            match self.hand.get(&id)? {
                // Of an object that is gone: it goes as well, and its end is news to the detector only.
                Some(there) if is_leaving(&there) || controller_uid(&there) != text(object, "/metadata/uid") => {
                    return Err(Status::unavailable(
                        "the binding of another object of this name goes first",
                    ));
                }
                Some(_) => {
                    if self.hand.modify(&id, |b| need.attach(b)).await?.is_some() {
                        return Ok(());
                    }
                }
                None => {
                    let mut binding = bare(at, object);
                    binding["spec"] = json!({"resource": reference(object)});
                    need.attach(&mut binding);
                    match self.hand.create(binding).await {
                        Ok(_) => return Ok(()),
                        Err(s) if is_there(&s) => {}
                        Err(s) => return Err(s),
                    }
                }
            }
        }
        Err(Status::unavailable("the binding comes and goes"))
    }

    /// Has a binding say so no more.
    async fn detach(&self, needer: &Key, at: &Key) -> Result<(), Status> {
        let id = at.binding().id(at);
        let left = self.hand.modify(&id, |b| detach(b, needer)).await?;
        let is_idle = |b: &Value| list(b, "/spec/requiredBy").is_empty() && b.pointer("/spec/placement").is_none();
        match left {
            Some(binding) if is_idle(&binding) && !is_leaving(&binding) => self.hand.delete(&id).await,
            _ => Ok(()),
        }
    }
}

impl Controller for Dependencies {
    type Key = Key;
    const NAME: &'static str = "dependencies";

    fn desk(&self) -> &Desk<Key> {
        &self.shared.desks.dependencies
    }

    async fn look(&self, at: &Key) -> Looked {
        let id = at.binding().id(at);
        let binding = self.hand.get(&id)?;
        let wanted = match &binding {
            Some(binding) => self.wanted(at, binding)?,
            None => Vec::new(),
        };
        let mut attached = BTreeSet::new();
        if let Some(binding) = &binding {
            // Written down first: what is missing now is looked for by this when it appears.
            if !is_leaving(binding) {
                self.hand.modify(&id, |b| note_down(b, &wanted)).await?;
            }
            let need = Need { at, binding };
            for one in &wanted {
                let place = {
                    let picture = self.shared.picture();
                    picture
                        .kinds
                        .place(&one.api_version, &one.kind, &one.namespace, &one.name)
                };
                let Some(place) = place.filter(is_open) else { continue };
                let object = self.hand.get(&id_of(&place))?;
                let Some(object) = object.filter(|o| !is_leaving(o)) else {
                    continue;
                };
                let to = binding_of(&place.namespace, &one.kind, &place.name);
                if to != *at {
                    self.attach(&need, &to, &object).await?;
                    attached.insert(to);
                }
            }
        }
        let before = self.shared.picture().needed_by(at);
        for other in before.iter().filter(|other| !attached.contains(*other)) {
            self.detach(at, other).await?;
        }
        Ok(None)
    }
}

/// Who needs something, and where.
struct Need<'a> {
    at: &'a Key,
    binding: &'a Value,
}

impl Need<'_> {
    fn attach(&self, other: &mut Value) {
        put(
            other,
            "labels",
            &label_of(self.at),
            label(self.binding, id_label(self.at)),
        );
        let entry = json!({
            "namespace": &*self.at.namespace, "name": &*self.at.name,
            "clusters": self.binding["spec"]["clusters"],
        });
        let Some(spec) = member(other, "spec") else { return };
        let mut all = required_by(spec);
        match all.iter_mut().find(|one| is_of(one, self.at)) {
            Some(one) => *one = entry,
            None => all.push(entry),
        }
        // Always the same order, whoever came first.
        all.sort_by_key(|one| one["name"].as_str().unwrap_or_default().to_owned());
        spec.insert("requiredBy".to_owned(), all.into());
        // A policy of its own has the last word on these.
        if !spec.contains_key("placement") {
            for field in ["conflictResolution", "preserveResourcesOnDeletion"] {
                set(spec, field, self.binding["spec"].get(field).cloned());
            }
        }
    }
}

fn detach(other: &mut Value, needer: &Key) {
    take(other, "labels", &[&label_of(needer)]);
    let Some(spec) = other.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    let mut all = required_by(spec);
    all.retain(|one| !is_of(one, needer));
    set(spec, "requiredBy", (!all.is_empty()).then(|| all.into()));
}

fn required_by(spec: &Map<String, Value>) -> Vec<Value> {
    spec.get("requiredBy")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default()
}

fn is_of(one: &Value, needer: &Key) -> bool {
    text(one, "/namespace") == &*needer.namespace && text(one, "/name") == &*needer.name
}

/// Writes on a binding what its object refers to.
fn note_down(binding: &mut Value, wanted: &[ObjectRef]) {
    let noted = serde_json::to_string(wanted).ok().filter(|_| !wanted.is_empty());
    match noted {
        Some(noted) => put(binding, "annotations", DEPENDENCIES, &noted),
        None => take(binding, "annotations", &[DEPENDENCIES]),
    }
}

/// A label's name has no room for two names: it has their hash.
fn label_of(needer: &Key) -> String {
    let hashed = federation::names::work_name(&needer.namespace, &needer.name, "");
    let hash = hashed.rsplit('-').next().unwrap_or_default();
    format!("{DEPENDED_BY}{hash}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needer(name: &str, clusters: &[&str]) -> Value {
        let clusters: Vec<Value> = clusters.iter().map(|c| json!({"name": c})).collect();
        json!({
            "metadata": {"name": name, "namespace": "fx", "labels": {federation::names::BINDING_ID: format!("id-{name}")}},
            "spec": {"clusters": clusters, "conflictResolution": "Abort"},
        })
    }

    #[test]
    fn several_that_need_one_thing_share_it() {
        let (a, b) = (Key::new("fx", "a"), Key::new("fx", "b"));
        let (of_a, of_b) = (needer("a", &["gw-1"]), needer("b", &["gw-2"]));
        let mut other = json!({"metadata": {}, "spec": {}});
        Need { at: &b, binding: &of_b }.attach(&mut other);
        Need { at: &a, binding: &of_a }.attach(&mut other);
        let before = other.clone();
        Need { at: &b, binding: &of_b }.attach(&mut other);
        assert_eq!(other, before);
        assert_eq!(other["spec"]["requiredBy"].as_array().unwrap().len(), 2);
        assert_eq!(other["metadata"]["labels"].as_object().unwrap().len(), 2);
        assert_eq!(other["spec"]["conflictResolution"], "Abort");
        detach(&mut other, &a);
        assert_eq!(other["spec"]["requiredBy"][0]["name"], "b");
        detach(&mut other, &b);
        assert!(other["spec"].get("requiredBy").is_none());
        assert!(other["metadata"]["labels"].as_object().unwrap().is_empty());
    }
}
