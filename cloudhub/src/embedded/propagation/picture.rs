//! What the controllers know without reading: clusters, policies, which binding goes where, what each Work says. One task writes it, from the
//! changes of the store in their order; all others read.
//!
//! Small parts of objects, kept by what they are looked up by. Whoever writes an object reads it from the store first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use federation::kinds::{OverrideSpec, Placement, PropagationSpec, Taint};
use federation::names::{
    BINDING_NAME, BINDING_NAMESPACE, CLUSTER_BINDING_NAME, CLUSTER_FINALIZER, CLUSTER_POLICY_ID, POLICY_ID, cluster_of,
};
use federation::schedule::ClusterView;
use metastore::store::ObjectKey;
use serde_json::Value;

use super::hand::{Key, generation, has_finalizer, is_leaving, label, list, note, text};
use super::kinds::{Kinds, can_be_sent, group_of, is_open};

/// Annotation of a binding: what its object refers to, as JSON.
pub(super) const DEPENDENCIES: &str = "resourcebinding.karmada.io/dependencies";

/// A cluster as far as the choice of clusters goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cluster {
    pub(super) name: Arc<str>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) provider: String,
    pub(super) region: String,
    pub(super) zones: Vec<String>,
    pub(super) taints: Vec<Taint>,
    pub(super) ready: bool,
    pub(super) leaving: bool,
    /// There is room for its Works.
    pub(super) taken_in: bool,
    /// `apiVersion` and kind of what it takes. Thousands of gateways say the same: one copy.
    pub(super) enabled: Arc<BTreeSet<(String, String)>>,
    /// What is left of each resource, in billionths; `None` while nothing is known.
    pub(super) room: Option<BTreeMap<String, i128>>,
}

impl Cluster {
    /// Reads a Cluster as the API has it.
    pub(super) fn of(object: &Value) -> Self {
        let texts = |pointer: &str| {
            let all = list(object, pointer).iter().filter_map(Value::as_str);
            all.map(str::to_owned).collect::<Vec<_>>()
        };
        let mut zones = texts("/spec/zones");
        let zone = text(object, "/spec/zone");
        if zones.is_empty() && !zone.is_empty() {
            zones.push(zone.to_owned());
        }
        let conditions = list(object, "/status/conditions").iter();
        Self {
            name: text(object, "/metadata/name").into(),
            labels: strings(object.pointer("/metadata/labels")),
            provider: text(object, "/spec/provider").to_owned(),
            region: text(object, "/spec/region").to_owned(),
            zones,
            taints: list(object, "/spec/taints")
                .iter()
                .filter_map(|t| serde_json::from_value(t.clone()).ok())
                .collect(),
            ready: conditions
                .clone()
                .any(|c| c["type"] == "Ready" && c["status"] == "True"),
            leaving: is_leaving(object),
            taken_in: has_finalizer(object, CLUSTER_FINALIZER),
            enabled: Arc::new(enabled(object)),
            room: room(object),
        }
    }

    /// Whether it takes objects of a kind.
    pub(super) fn takes(&self, api_version: &str, kind: &str) -> bool {
        // Sets are small and asked often: no key is made up for the question.
        self.enabled.iter().any(|(v, k)| v == api_version && k == kind)
    }

    /// How many more pods that each ask for this it has room for.
    pub(super) fn available(&self, requests: &BTreeMap<String, i128>) -> Option<i64> {
        let room = self.room.as_ref()?;
        let fits = |name: &str, each: i128| {
            let left = room.get(name).copied().unwrap_or(0).max(0);
            i64::try_from(left / each.max(1)).unwrap_or(i64::MAX)
        };
        // Room is counted in billionths of one.
        let pods = room.contains_key("pods").then(|| fits("pods", 1_000_000_000));
        let rest = requests.iter().filter(|(_, each)| **each > 0);
        rest.map(|(name, each)| fits(name, *each)).chain(pods).min()
    }

    /// What the choice sees of it.
    pub(super) fn view<'a>(
        &'a self,
        enablements: &'a dyn Fn(&str, &str) -> bool,
        available: Option<i64>,
    ) -> ClusterView<'a> {
        ClusterView {
            name: &self.name,
            labels: &self.labels,
            provider: &self.provider,
            region: &self.region,
            zones: &self.zones,
            taints: &self.taints,
            ready: self.ready,
            enablements,
            available,
            being_deleted: self.leaving,
        }
    }

    /// Whether another cluster would be chosen, or an object be made for it, for another reason than its room.
    pub(super) fn differs(&self, other: &Self) -> bool {
        let but = |cluster: &Self| Self {
            room: None,
            ready: false,
            ..cluster.clone()
        };
        but(self) != but(other)
    }
}

fn strings(map: Option<&Value>) -> BTreeMap<String, String> {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    entries
        .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
        .collect()
}

fn enabled(object: &Value) -> BTreeSet<(String, String)> {
    let versions = list(object, "/status/apiEnablements").iter();
    versions
        .flat_map(|version| {
            let of = text(version, "/groupVersion");
            let kinds = list(version, "/resources").iter();
            kinds.filter_map(move |r| Some((of.to_owned(), r.get("kind")?.as_str()?.to_owned())))
        })
        .collect()
}

fn room(object: &Value) -> Option<BTreeMap<String, i128>> {
    let summary = object.pointer("/status/resourceSummary")?;
    let all = quantities(summary.get("allocatable"));
    if all.is_empty() {
        return None;
    }
    let (given, asked) = (
        quantities(summary.get("allocated")),
        quantities(summary.get("allocating")),
    );
    let used = |name: &str| {
        let of = |map: &BTreeMap<String, i128>| map.get(name).copied().unwrap_or(0);
        of(&given).saturating_add(of(&asked))
    };
    let left = |(name, all): (String, i128)| {
        let left = all.saturating_sub(used(&name));
        (name, left)
    };
    Some(all.into_iter().map(left).collect())
}

/// The quantities in a map, in billionths.
pub(super) fn quantities(map: Option<&Value>) -> BTreeMap<String, i128> {
    let entries = map.and_then(Value::as_object).into_iter().flatten();
    entries
        .filter_map(|(name, value)| Some((name.clone(), metastore::api::quantity_nanos(value)?)))
        .collect()
}

/// A PropagationPolicy or ClusterPropagationPolicy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Policy {
    /// Its permanent id: another policy of the same name is another policy.
    pub(super) id: String,
    pub(super) spec: PropagationSpec,
    pub(super) leaving: bool,
}

/// A binding.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Binding {
    /// Where its template is.
    pub(super) template: ObjectKey,
    pub(super) api_version: String,
    pub(super) kind: String,
    /// Id of the policy that claims the template.
    pub(super) policy: String,
    pub(super) placement: Option<Arc<Placement>>,
    /// The clusters it goes to: those chosen, and those of the bindings that need it.
    pub(super) targets: BTreeSet<Arc<str>>,
    /// The bindings that need it.
    pub(super) required_by: BTreeSet<Key>,
    /// What its object refers to: kind and name, in its own namespace.
    pub(super) dependencies: BTreeSet<(String, String)>,
    /// No clusters were found for all of it.
    pub(super) unscheduled: bool,
    pub(super) leaving: bool,
}

impl Binding {
    /// Reads a binding as the API has it; `None` when nobody knows the kind of its template, and when that is none for it: who may write a
    /// binding in one namespace has nothing to say of objects in another, nor of what is sent nowhere.
    pub(super) fn of(object: &Value, kinds: &Kinds) -> Option<Self> {
        let resource = object.pointer("/spec/resource")?;
        let (api_version, kind) = (text(resource, "/apiVersion"), text(resource, "/kind"));
        let template = kinds.place(api_version, kind, text(resource, "/namespace"), text(resource, "/name"))?;
        let is_for_it = *template.namespace == *text(object, "/metadata/namespace");
        if !is_for_it || !is_open(&template) || !can_be_sent(&template.group, kind) {
            return None;
        }
        let names = |clusters: &[Value]| {
            let names = clusters.iter().filter_map(|c| c.get("name")?.as_str());
            names.map(Arc::from).collect::<Vec<Arc<str>>>()
        };
        let mut targets: BTreeSet<Arc<str>> = names(list(object, "/spec/clusters")).into_iter().collect();
        let mut required_by = BTreeSet::new();
        for one in list(object, "/spec/requiredBy") {
            required_by.insert(Key::new(text(one, "/namespace"), text(one, "/name")));
            targets.extend(names(list(one, "/clusters")));
        }
        let placement = object.pointer("/spec/placement").cloned();
        let noted: Vec<Value> = serde_json::from_str(note(object, DEPENDENCIES)).unwrap_or_default();
        let named = |d: &Value| Some((d.get("kind")?.as_str()?.to_owned(), d.get("name")?.as_str()?.to_owned()));
        let conditions = list(object, "/status/conditions");
        Some(Self {
            template,
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            policy: [POLICY_ID, CLUSTER_POLICY_ID].map(|key| label(object, key)).concat(),
            placement: placement.and_then(|p| serde_json::from_value(p).ok()).map(Arc::new),
            targets,
            required_by,
            dependencies: noted.iter().filter_map(named).collect(),
            unscheduled: conditions
                .iter()
                .any(|c| c["type"] == "Scheduled" && c["status"] == "False"),
            leaving: is_leaving(object),
        })
    }
}

/// A Work as its binding sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) binding: Key,
    pub(super) cluster: Arc<str>,
    pub(super) generation: i64,
    pub(super) leaving: bool,
    /// Whether it was applied, where that is known at all.
    pub(super) applied: Option<bool>,
    /// Why it was not.
    pub(super) message: String,
    pub(super) health: String,
    /// What the member says of the object, as JSON: a fraction of what a tree of values takes.
    pub(super) status: Option<Box<str>>,
}

impl Work {
    /// Reads a Work as the API has it; `None` when no binding made it.
    pub(super) fn of(namespace: &str, object: &Value) -> Option<Self> {
        let cluster = cluster_of(namespace)?;
        let binding = match note(object, BINDING_NAME) {
            "" => match note(object, CLUSTER_BINDING_NAME) {
                "" => return None,
                name => Key::new("", name),
            },
            name => Key::new(note(object, BINDING_NAMESPACE), name),
        };
        let conditions = list(object, "/status/conditions").iter();
        let applied = conditions.clone().find(|c| c["type"] == "Applied");
        let manifest = &list(object, "/spec/workload/manifests")
            .first()
            .cloned()
            .unwrap_or_default();
        let said = list(object, "/status/manifestStatuses").iter();
        let said = said.clone().find(|one| is_about(one, manifest));
        let part = |field: &str| said.and_then(|s| s.get(field)).filter(|v| !v.is_null());
        Some(Self {
            binding,
            cluster: cluster.into(),
            generation: generation(object),
            leaving: is_leaving(object),
            applied: applied.map(|c| c["status"] == "True"),
            message: applied
                .filter(|c| c["status"] != "True")
                .map(|c| text(c, "/message").to_owned())
                .unwrap_or_default(),
            health: part("health").and_then(Value::as_str).unwrap_or("Unknown").to_owned(),
            status: part("status").map(|s| s.to_string().into()),
        })
    }
}

/// Whether what a member says is about the first manifest of a Work. What it calls the resource does not count.
fn is_about(said: &Value, manifest: &Value) -> bool {
    let identifier = &said["identifier"];
    let api_version = text(manifest, "/apiVersion");
    let version = api_version.rsplit('/').next().unwrap_or_default();
    identifier["ordinal"].as_i64() == Some(0)
        && text(identifier, "/group") == group_of(api_version)
        && text(identifier, "/version") == version
        && text(identifier, "/kind") == text(manifest, "/kind")
        && text(identifier, "/namespace") == text(manifest, "/metadata/namespace")
        && text(identifier, "/name") == text(manifest, "/metadata/name")
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Picture {
    pub(super) kinds: Kinds,
    pub(super) clusters: BTreeMap<Arc<str>, Arc<Cluster>>,
    pub(super) policies: BTreeMap<Key, Arc<Policy>>,
    /// By group and kind of what they select.
    selecting: HashMap<(String, String), BTreeSet<Key>>,
    pub(super) overrides: BTreeMap<Key, Arc<OverrideSpec>>,
    pub(super) bindings: HashMap<Key, Arc<Binding>>,
    /// By policy id, by target, by what needs them, by what they refer to.
    claimed: HashMap<String, BTreeSet<Key>>,
    going_to: HashMap<Arc<str>, BTreeSet<Key>>,
    needed_by: HashMap<Key, BTreeSet<Key>>,
    referring: HashMap<(Arc<str>, String, String), BTreeSet<Key>>,
    pub(super) works: HashMap<Key, Arc<Work>>,
    works_of: HashMap<Key, BTreeSet<Key>>,
    /// Bindings for which no clusters were found.
    pub(super) unscheduled: BTreeSet<Key>,
    /// FederatedDeployments.
    pub(super) federated: BTreeSet<Key>,
}

fn enter<A: std::hash::Hash + Eq, B: Ord>(index: &mut HashMap<A, BTreeSet<B>>, at: A, what: B) {
    index.entry(at).or_default().insert(what);
}

fn leave<A: std::hash::Hash + Eq, B: Ord>(index: &mut HashMap<A, BTreeSet<B>>, at: &A, what: &B) {
    if let Some(set) = index.get_mut(at) {
        set.remove(what);
        if set.is_empty() {
            index.remove(at);
        }
    }
}

fn found<A: std::hash::Hash + Eq, B: Clone>(index: &HashMap<A, BTreeSet<B>>, at: &A) -> Vec<B> {
    index.get(at).into_iter().flatten().cloned().collect()
}

impl Picture {
    /// A cluster appeared, changed or went. As it was before.
    pub(super) fn cluster(&mut self, name: &Arc<str>, now: Option<Cluster>) -> Option<Arc<Cluster>> {
        let Some(mut now) = now else {
            return self.clusters.remove(name);
        };
        // The neighbour in the order of names most likely is of the same make.
        let same = |c: &&Arc<Cluster>| c.enabled == now.enabled;
        let alike = self.clusters.get(name).filter(same);
        let near = self.clusters.range(Arc::clone(name)..).map(|(_, c)| c).next();
        let far = self.clusters.values().next();
        if let Some(alike) = alike.or(near.filter(same)).or(far.filter(same)) {
            now.enabled = Arc::clone(&alike.enabled);
        }
        self.clusters.insert(Arc::clone(name), Arc::new(now))
    }

    /// A policy appeared, changed or went. As it was before.
    pub(super) fn policy(&mut self, key: &Key, now: Option<Policy>) -> Option<Arc<Policy>> {
        let was = match now.clone() {
            Some(policy) => self.policies.insert(key.clone(), Arc::new(policy)),
            None => self.policies.remove(key),
        };
        let kinds = |policy: &Policy| -> Vec<(String, String)> {
            let selectors = policy.spec.resource_selectors.iter();
            selectors
                .map(|s| (group_of(&s.api_version).to_owned(), s.kind.clone()))
                .collect()
        };
        for kind in was.iter().flat_map(|p| kinds(p)) {
            leave(&mut self.selecting, &kind, key);
        }
        for kind in now.iter().flat_map(kinds) {
            enter(&mut self.selecting, kind, key.clone());
        }
        was
    }

    /// A binding appeared, changed or went. As it was before.
    pub(super) fn binding(&mut self, key: &Key, now: Option<Binding>) -> Option<Arc<Binding>> {
        if now.as_ref().is_some_and(|b| b.unscheduled && !b.leaving) {
            self.unscheduled.insert(key.clone());
        } else {
            self.unscheduled.remove(key);
        }
        let was = match now.clone() {
            Some(binding) => self.bindings.insert(key.clone(), Arc::new(binding)),
            None => self.bindings.remove(key),
        };
        if let Some(was) = &was {
            leave(&mut self.claimed, &was.policy, key);
            for cluster in &was.targets {
                leave(&mut self.going_to, cluster, key);
            }
            for other in &was.required_by {
                leave(&mut self.needed_by, other, key);
            }
            for (kind, name) in &was.dependencies {
                leave(
                    &mut self.referring,
                    &(Arc::clone(&key.namespace), kind.clone(), name.clone()),
                    key,
                );
            }
        }
        if let Some(now) = now {
            if !now.policy.is_empty() {
                enter(&mut self.claimed, now.policy, key.clone());
            }
            for cluster in now.targets {
                enter(&mut self.going_to, cluster, key.clone());
            }
            for other in now.required_by {
                enter(&mut self.needed_by, other, key.clone());
            }
            for (kind, name) in now.dependencies {
                enter(
                    &mut self.referring,
                    (Arc::clone(&key.namespace), kind, name),
                    key.clone(),
                );
            }
        }
        was
    }

    /// A Work appeared, changed or went. As it was before.
    pub(super) fn work(&mut self, key: &Key, now: Option<Work>) -> Option<Arc<Work>> {
        let was = match now.clone() {
            Some(work) => self.works.insert(key.clone(), Arc::new(work)),
            None => self.works.remove(key),
        };
        if let Some(was) = &was {
            leave(&mut self.works_of, &was.binding, key);
        }
        if let Some(now) = now {
            enter(&mut self.works_of, now.binding, key.clone());
        }
        was
    }

    /// The policies that select objects of this kind, in some version.
    pub(super) fn selecting(&self, group: &str, kind: &str) -> Vec<Key> {
        found(&self.selecting, &(group.to_owned(), kind.to_owned()))
    }

    /// Whether any policy selects objects of this kind.
    pub(super) fn is_selected(&self, group: &str, kind: &str) -> bool {
        self.selecting.contains_key(&(group.to_owned(), kind.to_owned()))
    }

    /// The bindings of what a policy claims.
    pub(super) fn claimed_by(&self, id: &str) -> Vec<Key> {
        self.claimed
            .get(id)
            .map(|all| all.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// The bindings that go to a cluster.
    pub(super) fn going_to(&self, cluster: &Arc<str>) -> Vec<Key> {
        found(&self.going_to, cluster)
    }

    /// The bindings that a binding needs.
    pub(super) fn needed_by(&self, binding: &Key) -> Vec<Key> {
        found(&self.needed_by, binding)
    }

    /// All bindings that need another.
    pub(super) fn needy(&self) -> Vec<Key> {
        self.needed_by.keys().cloned().collect()
    }

    /// The bindings whose objects refer to an object.
    pub(super) fn referring(&self, namespace: &Arc<str>, kind: &str, name: &str) -> Vec<Key> {
        found(
            &self.referring,
            &(Arc::clone(namespace), kind.to_owned(), name.to_owned()),
        )
    }

    /// The Works of a binding: key and what they say.
    pub(super) fn works_of(&self, binding: &Key) -> Vec<(Key, Arc<Work>)> {
        let keys = self.works_of.get(binding).into_iter().flatten();
        keys.filter_map(|key| Some((key.clone(), Arc::clone(self.works.get(key)?))))
            .collect()
    }
}

#[cfg(test)]
mod tests;
