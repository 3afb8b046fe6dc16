//! What changes in the store becomes the picture, and keys on the desks of those whom it concerns. The one task that writes the picture.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use daemon::drain::Drain;
use federation::kinds::Placement;
use federation::names::{CLUSTER_POLICY_ID, POLICY_ID};
use federation::schedule::{ClusterView, matches_cluster};
use metastore::api::Status;
use metastore::store::{Event, EventKind, ObjectKey, Tap, Tapped};
use serde_json::Value;

use super::hand::{
    BINDINGS, CLUSTER_BINDINGS, CLUSTER_OVERRIDES, CLUSTER_POLICIES, CLUSTERS, DEFINITIONS, FEDERATED, Hand, Key,
    NAMESPACES, OVERRIDES, POLICIES, WORKS, is_leaving, label,
};
use super::kinds::{can_be_sent, group_of, is_open};
use super::picture::{Binding, Cluster, Picture, Policy, Work};
use super::queue::Desk;

/// What the detector looks at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Task {
    /// An object that changed.
    Template(ObjectKey),
    /// An object whose policy may be another now.
    Refresh(ObjectKey),
    /// A policy, with all that it may select.
    Policy(Key),
}

/// Which Works of a binding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// Those of all clusters.
    All,
    /// That of one cluster.
    Of(Arc<str>),
    /// That of one cluster, which somebody wrote: whoever looks knows whether it was itself.
    Check(Arc<str>, Key),
}

/// What waits for each controller.
#[derive(Debug, Default)]
pub(super) struct Desks {
    pub(super) clusters: Desk<Arc<str>>,
    pub(super) detector: Desk<Task>,
    pub(super) scheduler: Desk<Key>,
    pub(super) works: Desk<(Key, Part)>,
    pub(super) status: Desk<Key>,
    pub(super) dependencies: Desk<Key>,
    pub(super) federated: Desk<Key>,
}

impl Desks {
    /// A binding is another than before.
    fn binding(&self, key: &Key) {
        for desk in [&self.scheduler, &self.status, &self.dependencies] {
            desk.add(key.clone());
        }
        self.works.add((key.clone(), Part::All));
    }
}

/// What the controllers share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    picture: RwLock<Picture>,
    pub(super) desks: Desks,
}

/// The binding of a template.
pub(super) fn binding_of(namespace: &str, kind: &str, name: &str) -> Key {
    let name = format!("{}-{}", name.replace(':', "."), kind.to_lowercase());
    Key::new(namespace, name)
}

/// Which changes are looked at. What gateways say of devices comes by the thousand.
fn matters(event: &Event) -> bool {
    let key = &event.object.key;
    match &*key.group {
        "" => !matches!(&*key.resource, "events" | "nodes" | "endpoints"),
        "devices.kubeedge.io" => &*key.resource != "devicestatuses",
        "coordination.k8s.io" | "edge.kubeedge.io" | "events.k8s.io" | "discovery.k8s.io" => false,
        _ => true,
    }
}

/// An object before and after a change.
struct Change {
    before: Option<Value>,
    after: Option<Value>,
}

impl Change {
    fn of(event: &Event) -> Self {
        let value = |object: &metastore::store::Object| object.value().ok();
        Self {
            before: event.previous.as_ref().and_then(value),
            after: Some(&event.object)
                .filter(|_| event.kind != EventKind::Deleted)
                .and_then(value),
        }
    }

    /// Whether more than the status is another.
    fn is_of_main(&self) -> bool {
        let (Some(before), Some(after)) = (&self.before, &self.after) else {
            return true;
        };
        if before["metadata"]["generation"] != after["metadata"]["generation"]
            || is_leaving(before) != is_leaving(after)
        {
            return true;
        }
        let main = |object: &Value| {
            let mut main = object.clone();
            if let Some(map) = main.as_object_mut() {
                map.remove("status");
            }
            if let Some(metadata) = main.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("resourceVersion");
                metadata.remove("managedFields");
            }
            main
        };
        main(before) != main(after)
    }
}

impl Shared {
    /// The picture, to be looked at and let go of before anything is waited for.
    pub(super) fn picture(&self) -> RwLockReadGuard<'_, Picture> {
        self.picture.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn paint<R>(&self, paint: impl FnOnce(&mut Picture) -> R) -> R {
        paint(&mut self.picture.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes the picture anew from what the store holds, and wants a look at everything.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub(super) fn look_at_all(&self, hand: &Hand) -> Result<(), Status> {
        let mut picture = Picture::default();
        // Looked at when the picture is the new one: by the old one they would be decided on what is no more.
        let (mut clusters, mut templates, mut bindings, mut works, mut federated) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        hand.each(&DEFINITIONS.scope(None), |_, definition| {
            picture.kinds.define(&definition);
        })?;
        hand.each(&CLUSTERS.scope(None), |key, object| {
            picture.cluster(&key.name, Some(Cluster::of(&object)));
            clusters.push(key.name);
        })?;
        for kind in [POLICIES, CLUSTER_POLICIES] {
            hand.each(&kind.scope(None), |key, object| {
                let key = Key::of(&key);
                picture.policy(&key, policy(&object));
                templates.push(Task::Policy(key));
            })?;
        }
        for kind in [OVERRIDES, CLUSTER_OVERRIDES] {
            hand.each(&kind.scope(None), |key, object| {
                put_overrides(&mut picture, &Key::of(&key), Some(&object));
            })?;
        }
        for kind in [BINDINGS, CLUSTER_BINDINGS] {
            hand.each(&kind.scope(None), |key, object| {
                let key = Key::of(&key);
                let binding = Binding::of(&object, &picture.kinds);
                if let Some(binding) = &binding {
                    templates.push(Task::Refresh(binding.template.clone()));
                }
                picture.binding(&key, binding);
                bindings.push(key);
            })?;
        }
        hand.each(&WORKS.scope(None), |key, object| {
            let work = Work::of(&key.namespace, &object);
            if let Some(work) = work.as_ref().filter(|w| !picture.bindings.contains_key(&w.binding)) {
                works.push((work.binding.clone(), Part::All));
            }
            picture.work(&Key::of(&key), work);
        })?;
        hand.each(&FEDERATED.scope(None), |key, _| {
            picture.federated.insert(Key::of(&key));
            federated.push(Key::of(&key));
        })?;
        let needy = picture.needy();
        self.paint(|p| *p = picture);
        self.desks.clusters.add_all(clusters);
        self.desks.detector.add_all(templates);
        bindings.iter().for_each(|key| self.desks.binding(key));
        self.desks.works.add_all(works);
        self.desks.federated.add_all(federated);
        self.desks.dependencies.add_all(needy);
        Ok(())
    }

    /// Takes in a change.
    fn note(&self, event: &Event) {
        let key = &event.object.key;
        let at = Key::of(key);
        if WORKS.is_of(key) {
            self.work(&at, &Change::of(event));
        } else if BINDINGS.is_of(key) || CLUSTER_BINDINGS.is_of(key) {
            self.binding(&at, &Change::of(event));
        } else if CLUSTERS.is_of(key) {
            self.cluster(&key.name, &Change::of(event));
        } else if POLICIES.is_of(key) || CLUSTER_POLICIES.is_of(key) {
            self.policy(&at, &Change::of(event));
        } else if OVERRIDES.is_of(key) || CLUSTER_OVERRIDES.is_of(key) {
            self.overrides(&at, &Change::of(event));
        } else if FEDERATED.is_of(key) {
            let gone = event.kind == EventKind::Deleted;
            self.paint(|p| {
                if gone {
                    p.federated.remove(&at)
                } else {
                    p.federated.insert(at.clone())
                }
            });
            self.desks.federated.add(at);
        } else if DEFINITIONS.is_of(key) {
            let change = Change::of(event);
            let new = self.paint(|p| {
                let (group, kind) = p.kinds.define(change.after.as_ref()?)?;
                Some(p.selecting(&group, &kind))
            });
            let policies = new.into_iter().flatten();
            self.desks.detector.add_all(policies.map(Task::Policy));
            self.object(key, event);
        } else {
            if NAMESPACES.is_of(key)
                && let Some(cluster) = federation::names::cluster_of(&key.name)
            {
                self.desks.clusters.add(cluster.into());
            }
            self.object(key, event);
        }
    }

    /// Any object that may be a template, or be needed by one.
    fn object(&self, key: &ObjectKey, event: &Event) {
        if !is_open(key) {
            return;
        }
        let (kind, bound, referring, federated) = {
            let picture = self.picture();
            let Some(kind) = picture.kinds.kind_at(key).cloned() else {
                return;
            };
            let binding = binding_of(&key.namespace, &kind, &key.name);
            let bound = picture.bindings.get(&binding).is_some_and(|b| b.template == *key);
            let referring = match event.kind {
                EventKind::Added | EventKind::Deleted => picture.referring(&key.namespace, &kind, &key.name),
                EventKind::Modified => Vec::new(),
            };
            let selected = picture.is_selected(&key.group, &kind);
            let at = Key::of(key);
            let federated = (&*kind == "Deployment" && picture.federated.contains(&at)).then_some(at);
            if !bound && !selected && referring.is_empty() && federated.is_none() {
                return;
            }
            (kind, bound.then_some(binding), referring, federated)
        };
        self.desks.dependencies.add_all(referring);
        self.desks.federated.add_all(federated);
        if !can_be_sent(&key.group, &kind) || !Change::of(event).is_of_main() {
            return;
        }
        self.desks.detector.add(Task::Template(key.clone()));
        if let Some(binding) = bound {
            self.desks.works.add((binding.clone(), Part::All));
            for desk in [&self.desks.dependencies, &self.desks.status] {
                desk.add(binding.clone());
            }
        }
    }

    fn work(&self, key: &Key, change: &Change) {
        let read = |object: &Value| Work::of(&key.namespace, object);
        let now = change.after.as_ref().and_then(read);
        let (was, known, cluster) = self.paint(|p| {
            let was = p.work(key, now.clone());
            let binding = now.as_ref().or(was.as_deref()).map(|w| w.binding.clone());
            let known = binding.is_some_and(|b| p.bindings.contains_key(&b));
            let cluster = now
                .as_ref()
                .filter(|w| w.leaving)
                .and_then(|w| p.clusters.get(&w.cluster));
            (was, known, cluster.filter(|c| c.leaving).map(|c| Arc::clone(&c.name)))
        });
        self.desks.clusters.add_all(cluster);
        let Some(either) = now.as_ref().or(was.as_deref()) else {
            return;
        };
        let said = |work: Option<&Work>| {
            work.map(|w| Work {
                generation: 0,
                ..w.clone()
            })
        };
        if said(was.as_deref()) != said(now.as_ref()) {
            self.desks.status.add(either.binding.clone());
        }
        if now.is_none() || !known {
            // Its end is what something waited for, or what nobody asked for.
            self.desks.works.add((either.binding.clone(), Part::All));
        } else if was.as_deref().map(|w| w.generation) != now.as_ref().map(|w| w.generation) {
            // Somebody may have had another idea of it.
            let part = Part::Check(Arc::clone(&either.cluster), key.clone());
            self.desks.works.add((either.binding.clone(), part));
        }
    }

    fn binding(&self, key: &Key, change: &Change) {
        let (was, now, waiting) = self.paint(|p| {
            let now = change.after.as_ref().and_then(|object| Binding::of(object, &p.kinds));
            let was = p.binding(key, now.clone());
            let left = was.iter().flat_map(|b| &b.targets);
            let left = left.filter(|c| now.as_ref().is_none_or(|b| !b.targets.contains(*c)));
            let waits = |name: &&Arc<str>| p.clusters.get(*name).is_some_and(|c| c.leaving);
            let waiting: Vec<Arc<str>> = left.filter(waits).cloned().collect();
            (was, now, waiting)
        });
        self.desks.clusters.add_all(waiting);
        let either = now.as_ref().or(was.as_deref());
        if let Some(binding) = either.filter(|b| b.kind == "Deployment") {
            let at = Key::of(&binding.template);
            if self.picture().federated.contains(&at) {
                self.desks.federated.add(at);
            }
        }
        match (&was, &now) {
            (Some(was), None) => {
                // Its template may be another of the same name by now.
                self.desks.detector.add(Task::Template(was.template.clone()));
                self.desks.works.add((key.clone(), Part::All));
                self.desks.dependencies.add(key.clone());
            }
            (_, Some(_)) if change.is_of_main() => self.desks.binding(key),
            _ => {}
        }
    }

    fn cluster(&self, name: &Arc<str>, change: &Change) {
        self.desks.clusters.add(Arc::clone(name));
        let now = change.after.as_ref().map(Cluster::of);
        let (was, choose, make) = self.paint(|p| {
            let was = p.cluster(name, now.clone());
            let differs = match (&was, &now) {
                (Some(was), Some(now)) => was.differs(now),
                _ => true,
            };
            if !differs {
                let freed = was.as_ref().map(|w| &w.room) != now.as_ref().map(|n| &n.room);
                let waiting = p.unscheduled.iter().filter(|_| freed).cloned().collect();
                return (was, waiting, Vec::new());
            }
            let choose = concerned(p, name, was.as_deref(), now.as_ref());
            (was, choose, p.going_to(name))
        });
        self.desks.scheduler.add_all(choose);
        // What a cluster is told may depend on what it is, but not on what it takes or who is kept away.
        let about = |c: &Cluster| {
            (
                c.labels.clone(),
                c.provider.clone(),
                c.region.clone(),
                c.zones.clone(),
                c.taken_in,
            )
        };
        if was.as_deref().map(about) != now.as_ref().map(about) {
            let part = |binding: Key| (binding, Part::Of(Arc::clone(name)));
            self.desks.works.add_all(make.into_iter().map(part));
        }
    }

    fn policy(&self, key: &Key, change: &Change) {
        let now = change.after.as_ref().and_then(policy);
        let claimed = self.paint(|p| {
            let was = p.policy(key, now.clone());
            if was.as_deref() == now.as_ref() {
                return None;
            }
            let ids = was
                .as_deref()
                .into_iter()
                .chain(now.as_ref())
                .map(|policy| policy.id.clone());
            let bindings: Vec<Key> = ids.flat_map(|id| p.claimed_by(&id)).collect();
            let templates = bindings
                .iter()
                .filter_map(|b| Some(p.bindings.get(b)?.template.clone()));
            Some(templates.collect::<Vec<_>>())
        });
        if self.picture().federated.contains(key) {
            self.desks.federated.add(key.clone());
        }
        let Some(claimed) = claimed else { return };
        self.desks.detector.add_all(claimed.into_iter().map(Task::Refresh));
        if now.is_some() {
            self.desks.detector.add(Task::Policy(key.clone()));
        }
    }

    fn overrides(&self, key: &Key, change: &Change) {
        let waits = |policy: &Policy| policy.spec.dependent_overrides.iter().any(|name| **name == *key.name);
        let waiting: Vec<Key> = {
            let picture = self.picture();
            let policies = picture.policies.iter().filter(|(_, policy)| waits(policy));
            policies.map(|(key, _)| key.clone()).collect()
        };
        let concerned: Vec<Key> = self.paint(|p| {
            let was = p.overrides.get(key).cloned();
            put_overrides(p, key, change.after.as_ref());
            let now = p.overrides.get(key).cloned();
            if was == now {
                return Vec::new();
            }
            let specs = [was, now];
            let selects = |binding: &Binding| {
                specs.iter().flatten().any(|spec| {
                    let selectors = &spec.resource_selectors;
                    let selects = |s: &federation::kinds::ResourceSelector| {
                        s.kind == binding.kind
                            && group_of(&s.api_version) == group_of(&binding.api_version)
                            && (s.name.is_empty() || *s.name == *binding.template.name)
                    };
                    selectors.is_empty() || selectors.iter().any(selects)
                })
            };
            let bindings = p.bindings.iter();
            let near = bindings.filter(|(b, _)| key.namespace.is_empty() || b.namespace == key.namespace);
            near.filter(|(_, b)| selects(b)).map(|(k, _)| k.clone()).collect()
        });
        self.desks.detector.add_all(waiting.into_iter().map(Task::Policy));
        self.desks
            .works
            .add_all(concerned.into_iter().map(|binding| (binding, Part::All)));
    }
}

/// The bindings that may go to other clusters because one is another.
fn concerned(picture: &Picture, name: &Arc<str>, was: Option<&Cluster>, now: Option<&Cluster>) -> Vec<Key> {
    let nothing = |_: &str, _: &str| true;
    let matches = |placement: &Placement, cluster: Option<&Cluster>| {
        cluster.is_some_and(|c| is_meant(placement, &c.view(&nothing, None)))
    };
    let concerns = |binding: &Binding| {
        let Some(placement) = &binding.placement else {
            return false;
        };
        if binding.leaving {
            return false;
        }
        let (before, after) = (matches(placement, was), matches(placement, now));
        // What is there is not driven out by a taint, nor by a kind that is not there for the moment.
        let stays = before && after && binding.targets.contains(name) && now.is_some_and(|c| !c.leaving);
        (before || after) && !stays
    };
    let bindings = picture.bindings.iter();
    bindings.filter(|(_, b)| concerns(b)).map(|(k, _)| k.clone()).collect()
}

/// Whether a placement means a cluster, whatever else keeps it away.
pub(super) fn is_meant(placement: &Placement, cluster: &ClusterView<'_>) -> bool {
    let groups = &placement.cluster_affinities;
    match &placement.cluster_affinity {
        Some(affinity) => matches_cluster(affinity, cluster),
        None if groups.is_empty() => true,
        None => groups.iter().any(|group| {
            let overflow = group.overflow_affinities.iter().map(|o| &o.affinity);
            std::iter::once(&group.affinity)
                .chain(overflow)
                .any(|affinity| matches_cluster(affinity, cluster))
        }),
    }
}

/// Reads a policy; `None` when it says nothing that can be read.
fn policy(object: &Value) -> Option<Policy> {
    Some(Policy {
        id: [POLICY_ID, CLUSTER_POLICY_ID].map(|key| label(object, key)).concat(),
        spec: serde_json::from_value(object.get("spec")?.clone()).ok()?,
        leaving: is_leaving(object),
    })
}

fn put_overrides(picture: &mut Picture, key: &Key, object: Option<&Value>) {
    let spec = object.filter(|o| !is_leaving(o)).and_then(|o| o.get("spec"));
    match spec.and_then(|spec| serde_json::from_value(spec.clone()).ok()) {
        Some(spec) => drop(picture.overrides.insert(key.clone(), Arc::new(spec))),
        None => drop(picture.overrides.remove(key)),
    }
}

/// A tap for [`follow`]: opened before the first look, so that nothing falls in between.
pub(super) fn tap(hand: &Hand) -> Tap {
    hand.store().tap(matters)
}

/// Follows the store until the drain begins or the store closes.
pub(super) async fn follow(shared: Arc<Shared>, hand: Hand, mut tap: Tap, drain: Drain) {
    loop {
        let tapped = tokio::select! {
            biased;
            () = drain.stopping() => return,
            tapped = tap.next() => tapped,
        };
        match tapped {
            Tapped::Event(event) => shared.note(&event),
            Tapped::Missed => {
                if let Err(e) = shared.look_at_all(&hand) {
                    tracing::warn!(error = %e, "The objects cannot be listed; what changed meanwhile is not seen.");
                }
            }
            Tapped::Closed => return,
        }
    }
}
