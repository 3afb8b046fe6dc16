//! The Works of all clusters: which gateway or site each is for, what gateways get of it, and what is known of its status. Pure: fed from the
//! watches of Clusters and Works, it answers with the differences in gateways' sets. What is divided among the gateways of a site is in
//! [`spread`].
//!
//! Of a Cluster only those are looked at that a hub made for one of its gateways ([`GATEWAY`]) or sites ([`SITE`]); Works of any other are
//! somebody else's.

mod spread;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use federation::names::{CLUSTER_FINALIZER, DELETING, EXECUTION_FINALIZER, cluster_of};
use proto::Hash;
use serde_json::{Map, Value, json};

use self::spread::Parts;
use super::body::{self, Body, WORKS};
use super::desired::{Delta, Name};
use super::sites::{RESCHEDULE_AFTER, SITE, Sites};
use crate::config::Span;

pub(crate) use self::spread::{Look, Spoken, Taken};

/// Annotation of a Cluster that a hub made: the gateway it stands for.
pub(crate) const GATEWAY: &str = "kurator.dev/gateway";
/// Annotation of a Cluster: the id of the hub that made it.
pub(crate) const HUB: &str = "kurator.dev/hub";

/// What of a Work's metadata is of no concern to the member: it would find no owner there, and no time to end.
const NOT_SENT: [&str; 4] = [
    "finalizers",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "ownerReferences",
];

/// A condition as far as it decides what is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) holds: bool,
    /// `lastTransitionTime`.
    pub(crate) since: Arc<str>,
}

/// What is known of a Work beside what its gateway gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkFacts {
    /// It is being deleted above.
    pub(crate) deleting: bool,
    /// It is not to be applied now.
    pub(crate) suspended: bool,
    /// It has the finalizer that lets its gateway clean up before it goes.
    pub(crate) finalized: bool,
    /// It is larger than what can be sent.
    pub(crate) too_large: bool,
    pub(crate) dispatching: Option<Written>,
    pub(crate) applied: Option<Written>,
}

impl WorkFacts {
    /// Whether the hub itself has something to write on it.
    pub(crate) fn needs_attention(&self) -> bool {
        !self.deleting && (!self.finalized || self.too_large || self.dispatching_is_wrong())
    }

    /// That a Work is on its way is said with the gateway's first report; that it is held back, or is so no more, at once.
    fn dispatching_is_wrong(&self) -> bool {
        match &self.dispatching {
            None => self.suspended,
            Some(dispatching) => dispatching.holds == self.suspended,
        }
    }
}

/// A Work as the watch tells of it.
#[derive(Clone, Debug)]
pub(crate) struct WorkEntry {
    pub(crate) key: Arc<str>,
    pub(crate) body: Body,
    pub(crate) facts: WorkFacts,
    /// Hash of what its status says, in the form in which gateways say it; `None` when it says nothing.
    pub(crate) reported: Option<Hash>,
}

/// What a Cluster stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stands {
    Gateway(Arc<str>),
    Site(Arc<str>),
}

impl Stands {
    pub(crate) fn gateway(&self) -> Option<&Arc<str>> {
        match self {
            Self::Gateway(node) => Some(node),
            Self::Site(_) => None,
        }
    }
}

/// A Cluster as the watch tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClusterEntry {
    pub(crate) stands: Stands,
    /// Of a site: how long a member may be away, in milliseconds; the largest number for ever.
    pub(crate) reschedule_after: Option<u64>,
    pub(crate) uid: Arc<str>,
    pub(crate) deleting: bool,
    /// What stands above has made room for its Works.
    pub(crate) finalized: bool,
    /// The status of its `Ready` condition.
    pub(crate) ready: Option<Arc<str>>,
}

#[derive(Debug)]
struct Work {
    key: Arc<str>,
    body: Body,
    facts: WorkFacts,
    reported: Option<Hash>,
    revision: u64,
    /// What the gateways of a site get of it, when it is for one.
    parts: Option<Box<Parts>>,
}

/// A mark that the index of observed entries gets: key, mark, revision.
pub(crate) type NewMark = (Arc<str>, Option<(Arc<str>, Hash)>, u64);

/// What a change of a Cluster or a Work means.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Differences in gateways' sets.
    pub(crate) deltas: Vec<Delta>,
    pub(crate) marks: Vec<NewMark>,
    /// Works that the hub itself has to write something on.
    pub(crate) attend: Vec<Arc<str>>,
    /// Works of sites whose merged status may not be what it was.
    pub(crate) look: Vec<Arc<str>>,
    /// Observed entries that the hub holds no more: gateway, key.
    pub(crate) lost: Vec<(Arc<str>, Arc<str>)>,
    /// Sites whose Cluster may say something old.
    pub(crate) sites: Vec<Arc<str>>,
}

/// The Works.
#[derive(Debug, Default)]
pub(crate) struct Works {
    clusters: HashMap<Arc<str>, ClusterEntry>,
    nodes: HashMap<Arc<str>, Arc<str>>,
    /// Execution namespace -> name -> Work.
    works: HashMap<Arc<str>, BTreeMap<Arc<str>, Work>>,
    pub(super) sites: Sites,
}

impl Work {
    /// Whether the gateway gets it: what has no finalizer would be gone before it is cleaned up.
    fn is_sent(&self) -> bool {
        self.facts.finalized
    }

    fn needs_attention(&self) -> bool {
        self.facts.needs_attention()
    }
}

impl Works {
    /// A Cluster of this name appeared, changed, or (`None`) is gone, or is none of this hub's.
    pub(crate) fn cluster(&mut self, name: &Arc<str>, now: Option<ClusterEntry>, at: u64) -> Effects {
        let is = now.as_ref().map(|e| (e.stands.clone(), e.reschedule_after));
        let was = match now {
            Some(entry) => self.clusters.insert(Arc::clone(name), entry),
            None => self.clusters.remove(name),
        };
        let was = was.map(|e| (e.stands, e.reschedule_after));
        let mut effects = Effects::default();
        if is.is_none() {
            self.name_is_free(name, &mut effects);
        }
        if was == is {
            return effects;
        }
        let (was, is) = (was.unzip(), is.unzip());
        if was.0 == is.0 {
            if let Some(Stands::Site(site)) = &is.0 {
                let placed = self.sites.set_cluster(site, Some(name), is.1.flatten(), at);
                self.divided_anew(site, placed, &mut effects);
            }
            return effects;
        }
        let namespace = federation::names::execution_namespace(name);
        match &was.0 {
            None => {}
            Some(Stands::Gateway(node)) => {
                if self.nodes.get(node).is_some_and(|cluster| cluster == name) {
                    self.nodes.remove(node);
                }
                for work in self.works.get(&*namespace).into_iter().flat_map(BTreeMap::values) {
                    effects.moved(work, Some(node), None);
                }
            }
            Some(Stands::Site(site)) => {
                self.site_is_without(&namespace, site, &mut effects);
                self.sites.set_cluster(site, None, None, at);
            }
        }
        match &is.0 {
            None => {}
            Some(Stands::Gateway(node)) => {
                self.nodes.insert(Arc::clone(node), Arc::clone(name));
                for work in self.works.get(&*namespace).into_iter().flat_map(BTreeMap::values) {
                    effects.moved(work, None, Some(node));
                }
            }
            Some(Stands::Site(site)) => {
                self.sites.set_cluster(site, Some(name), is.1.flatten(), at);
                self.site_has(&namespace, site, &mut effects);
            }
        }
        effects
    }

    /// A Work appeared, changed, or (`None`) is gone.
    pub(crate) fn work(&mut self, name: &Name, now: Option<WorkEntry>, revision: u64) -> Effects {
        let mut effects = Effects::default();
        let stands = self.stands(&name.0).cloned();
        let slot = self.works.entry(Arc::clone(&name.0)).or_default();
        let was = slot.remove(&name.1);
        let work = now.map(|entry| Work {
            key: entry.key,
            body: entry.body,
            facts: entry.facts,
            reported: entry.reported,
            revision,
            parts: None,
        });
        match stands {
            Some(Stands::Site(site)) => {
                let work = self.work_of_site(&site, was, work, &mut effects);
                let slot = self.works.entry(Arc::clone(&name.0)).or_default();
                slot.extend(work.map(|work| (Arc::clone(&name.1), work)));
            }
            Some(Stands::Gateway(node)) => {
                effects.changed(was.as_ref(), work.as_ref(), &node);
                slot.extend(work.map(|work| (Arc::clone(&name.1), work)));
            }
            None => {
                if work.is_none() {
                    effects.marks.extend(was.map(|was| (was.key, None, 0)));
                }
                slot.extend(work.map(|work| (Arc::clone(&name.1), work)));
            }
        }
        if self.works.get(&name.0).is_some_and(BTreeMap::is_empty) {
            self.works.remove(&name.0);
        }
        effects
    }

    /// What the Cluster stands for whose Works are in this namespace.
    fn stands(&self, namespace: &str) -> Option<&Stands> {
        let cluster = self.clusters.get(cluster_of(namespace)?)?;
        Some(&cluster.stands)
    }

    /// Whether the Works of this namespace are for this gateway, or for the site that it is in.
    pub(crate) fn is_for(&self, namespace: &str, node: &str) -> bool {
        match self.stands(namespace) {
            Some(Stands::Gateway(of)) => **of == *node,
            Some(Stands::Site(site)) => self.sites.site_of(node) == Some(site),
            None => false,
        }
    }

    /// Name and state of the Cluster that stands for a gateway.
    pub(crate) fn cluster_of_node(&self, node: &str) -> Option<(Arc<str>, &ClusterEntry)> {
        let name = self.nodes.get(node)?;
        Some((Arc::clone(name), self.clusters.get(name)?))
    }

    /// A Cluster of this hub's.
    pub(crate) fn entry(&self, name: &str) -> Option<&ClusterEntry> {
        self.clusters.get(name)
    }

    /// All Clusters of this hub's gateways, by name.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = (&Arc<str>, &ClusterEntry)> {
        self.clusters.iter()
    }

    /// What is known of a Work, with what it is for.
    pub(crate) fn facts(&self, namespace: &str, name: &str) -> Option<(Option<Stands>, WorkFacts)> {
        let work = self.works.get(namespace)?.get(name)?;
        Some((self.stands(namespace).cloned(), work.facts.clone()))
    }

    /// Every Work that `node` should hold.
    pub(crate) fn set(&self, node: &str) -> impl Iterator<Item = (Arc<str>, Body)> + '_ {
        let namespace = self.nodes.get(node).map(|c| federation::names::execution_namespace(c));
        let works = namespace.and_then(|namespace| self.works.get(&*namespace));
        works
            .into_iter()
            .flat_map(BTreeMap::values)
            .filter(|work| work.is_sent())
            .map(|work| (Arc::clone(&work.key), work.body.clone()))
            .chain(self.parts(node))
    }

    /// Works that are known but not in `seen`: gone while nobody was watching.
    pub(crate) fn missing(&self, seen: &HashSet<Name>) -> Vec<Name> {
        let all = self
            .works
            .iter()
            .flat_map(|(namespace, works)| works.keys().map(|name| (Arc::clone(namespace), Arc::clone(name))));
        all.filter(|name| !seen.contains(name)).collect()
    }

    /// The same for Clusters.
    pub(crate) fn clusters_missing(&self, seen: &BTreeSet<Arc<str>>) -> Vec<Arc<str>> {
        self.clusters.keys().filter(|c| !seen.contains(*c)).cloned().collect()
    }

    /// (Clusters, Works) known.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.clusters.len(), self.works.values().map(BTreeMap::len).sum())
    }
}

fn left(node: &Arc<str>, key: &Arc<str>) -> Delta {
    Delta {
        node: Arc::clone(node),
        key: Arc::clone(key),
        body: None,
        joined: false,
    }
}

impl Effects {
    /// A Work of a gateway changed.
    fn changed(&mut self, was: Option<&Work>, now: Option<&Work>, node: &Arc<str>) {
        let sent = was.filter(|w| w.is_sent()).map(|w| &w.body);
        let Some(work) = now else {
            if let Some(was) = was {
                self.deltas.extend(sent.map(|_| left(node, &was.key)));
                self.marks.push((Arc::clone(&was.key), None, 0));
            }
            return;
        };
        if work.is_sent() && sent != Some(&work.body) {
            self.deltas.push(Delta {
                node: Arc::clone(node),
                key: Arc::clone(&work.key),
                body: Some(work.body.clone()),
                joined: sent.is_none(),
            });
        } else if !work.is_sent() && sent.is_some() {
            self.deltas.push(left(node, &work.key));
        }
        self.mark(work, Some(node));
        if work.needs_attention() {
            self.attend.push(Arc::clone(&work.key));
        }
    }

    /// A Work is for another gateway than before, because its Cluster is.
    fn moved(&mut self, work: &Work, was: Option<&Arc<str>>, now: Option<&Arc<str>>) {
        if let Some(was) = was.filter(|_| work.is_sent()) {
            self.deltas.push(left(was, &work.key));
        }
        if let Some(now) = now.filter(|_| work.is_sent()) {
            self.deltas.push(Delta {
                node: Arc::clone(now),
                key: Arc::clone(&work.key),
                body: Some(work.body.clone()),
                joined: true,
            });
        }
        self.mark(work, now);
        if now.is_some() && work.needs_attention() {
            self.attend.push(Arc::clone(&work.key));
        }
    }

    fn mark(&mut self, work: &Work, node: Option<&Arc<str>>) {
        let mark = node.cloned().zip(work.reported);
        self.marks.push((Arc::clone(&work.key), mark, work.revision));
    }
}

fn condition(status: &Value, kind: &str) -> Option<Written> {
    let all = status.get("conditions")?.as_array()?;
    let found = all.iter().find(|c| c["type"] == kind)?;
    Some(Written {
        holds: found["status"] == "True",
        since: Arc::from(found["lastTransitionTime"].as_str().unwrap_or_default()),
    })
}

impl WorkEntry {
    /// Reads a Work as the API has it.
    pub(crate) fn of(namespace: &str, name: &str, mut object: Value) -> Self {
        let key = body::key(WORKS, "works", namespace, name);
        let status = object.get("status").cloned().unwrap_or_default();
        let metadata = object.get("metadata").and_then(Value::as_object);
        let has = |list: &str, what: &str| {
            let list = metadata.and_then(|m| m.get(list)).and_then(Value::as_array);
            list.is_some_and(|all| all.iter().any(|one| one == what))
        };
        let deleting = metadata.is_some_and(|m| m.get("deletionTimestamp").is_some_and(|t| !t.is_null()));
        let mut facts = WorkFacts {
            deleting,
            suspended: object.pointer("/spec/suspendDispatching") == Some(&Value::Bool(true)),
            finalized: has("finalizers", EXECUTION_FINALIZER),
            too_large: false,
            dispatching: condition(&status, "Dispatching"),
            applied: condition(&status, "Applied"),
        };
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in NOT_SENT {
                metadata.remove(field);
            }
            if deleting {
                let notes = metadata.entry("annotations").or_insert_with(|| json!({}));
                if let Some(notes) = notes.as_object_mut() {
                    notes.insert(DELETING.to_owned(), "true".into());
                }
            }
        }
        let mut bytes = body::desired_body(object.clone(), false);
        facts.too_large = bytes.len() > proto::limits::MAX_BODY;
        if facts.too_large && deleting {
            // What is to go is known by its name.
            shorten(&mut object);
            bytes = body::desired_body(object, false);
        }
        let reported = reported_of(&status).map(|report| Body::new(&key, canonical(&report)).hash);
        Self {
            body: Body::new(&key, bytes),
            key,
            facts,
            reported,
        }
    }
}

/// Leaves of a Work's manifests what names their objects.
fn shorten(work: &mut Value) {
    let manifests = work
        .pointer_mut("/spec/workload/manifests")
        .and_then(Value::as_array_mut);
    for manifest in manifests.into_iter().flatten() {
        let named = |field: &str| manifest.get(field).cloned().unwrap_or_default();
        let meta = |field: &str| manifest.pointer(&format!("/metadata/{field}")).cloned();
        let mut metadata = Map::from_iter([("name".to_owned(), meta("name").unwrap_or_default())]);
        metadata.extend(meta("namespace").map(|namespace| ("namespace".to_owned(), namespace)));
        *manifest = json!({"apiVersion": named("apiVersion"), "kind": named("kind"), "metadata": metadata});
    }
}

impl ClusterEntry {
    /// Reads a Cluster as the API has it; `None` when it is none of this hub's gateways or sites.
    pub(crate) fn of(object: &Value, hub: &str) -> Option<Self> {
        let metadata = object.get("metadata")?;
        let notes = metadata.get("annotations")?;
        let note = |name: &str| notes.get(name).and_then(Value::as_str);
        if note(HUB).is_some_and(|of| of != hub) {
            return None;
        }
        // Each has one, and it is found by its name: a copy under another stands for nothing.
        let is_named = |of: &str| metadata["name"] == *federation::names::cluster_name(of);
        let stands = match (note(GATEWAY), note(SITE)) {
            (Some(node), _) if is_named(node) => Stands::Gateway(Arc::from(node)),
            (None, Some(site)) if is_named(site) => Stands::Site(Arc::from(site)),
            _ => return None,
        };
        let reschedule_after = note(RESCHEDULE_AFTER).and_then(|text| match text.trim() {
            "never" => Some(u64::MAX),
            text => u64::try_from(text.parse::<Span>().ok()?.0.as_millis()).ok(),
        });
        let finalizers = metadata.get("finalizers").and_then(Value::as_array);
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
        let ready = conditions.and_then(|all| all.iter().find(|c| c["type"] == "Ready"));
        Some(Self {
            stands,
            reschedule_after,
            uid: Arc::from(metadata.get("uid").and_then(Value::as_str).unwrap_or_default()),
            deleting: metadata.get("deletionTimestamp").is_some_and(|t| !t.is_null()),
            finalized: finalizers.is_some_and(|all| all.iter().any(|f| f == CLUSTER_FINALIZER)),
            ready: ready.and_then(|c| c["status"].as_str()).map(Arc::from),
        })
    }
}

/// Canonical bytes: both ends hash them.
pub(crate) fn canonical(report: &Value) -> Vec<u8> {
    serde_json::to_vec(report).expect("a JSON value serialises")
}

/// A Work's status in the form in which a gateway reports it: without times, and without what the hub says.
pub(crate) fn reported_of(status: &Value) -> Option<Value> {
    let conditions = status.get("conditions").and_then(Value::as_array);
    let applied = conditions.and_then(|all| all.iter().find(|c| c["type"] == "Applied"));
    let manifests = status.get("manifestStatuses").and_then(Value::as_array);
    let mut report = Map::new();
    if let Some(applied) = applied {
        let part = |name: &str| applied.get(name).cloned().unwrap_or_else(|| "".into());
        report.insert(
            "applied".to_owned(),
            json!({"status": part("status"), "reason": part("reason"), "message": part("message")}),
        );
    }
    if let Some(manifests) = manifests.filter(|all| !all.is_empty()) {
        report.insert("manifestStatuses".to_owned(), manifests.clone().into());
    }
    (!report.is_empty()).then_some(Value::Object(report))
}

/// The status of a Work: the hub's word on whether it is on its way, and, where the gateway said something, what that is.
///
/// A condition keeps its time while its status stays.
pub(crate) fn status_of(facts: &WorkFacts, report: Option<&Value>, now: &str) -> Value {
    let mut conditions = vec![dispatching(facts, now)];
    let mut status = Map::new();
    if let Some(applied) = report.and_then(|r| r.get("applied")) {
        let text = |name: &str| applied[name].as_str().unwrap_or_default();
        let said = (text("status") == "True", text("reason"), text("message"));
        conditions.push(written("Applied", facts.applied.as_ref(), said, now));
        let manifests = report.and_then(|r| r.get("manifestStatuses"));
        let manifests = manifests.and_then(Value::as_array).filter(|all| !all.is_empty());
        status.insert("manifestStatuses".to_owned(), manifests.cloned().into());
    }
    status.insert("conditions".to_owned(), conditions.into());
    Value::Object(status)
}

/// The hub's own condition of a Work.
fn dispatching(facts: &WorkFacts, now: &str) -> Value {
    let said = if facts.suspended {
        (false, "SuspendDispatching", "Work dispatching is in a suspended state.")
    } else {
        (true, "Dispatching", "Work is being dispatched to member clusters.")
    };
    written("Dispatching", facts.dispatching.as_ref(), said, now)
}

fn written(kind: &str, was: Option<&Written>, (holds, reason, message): (bool, &str, &str), now: &str) -> Value {
    let since = was.filter(|w| w.holds == holds && !w.since.is_empty());
    json!({
        "type": kind,
        "status": if holds { "True" } else { "False" },
        "reason": reason,
        "message": message,
        "lastTransitionTime": since.map_or(now, |w| &*w.since),
    })
}

/// The conditions of a Work as the API has it, with what the hub says of it put in.
pub(crate) fn attended(facts: &WorkFacts, status: &Value, now: &str) -> Vec<Value> {
    let before = status
        .get("conditions")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let mut own = Vec::new();
    if facts.dispatching_is_wrong() {
        own.push(dispatching(facts, now));
    }
    if facts.too_large {
        let message = format!(
            "Failed to apply all manifests: the Work has more than {} bytes, which is the most that can be sent to a gateway; split it",
            proto::limits::MAX_BODY
        );
        own.push(written(
            "Applied",
            facts.applied.as_ref(),
            (false, "AppliedFailed", &message),
            now,
        ));
    }
    let mut all: Vec<Value> = before
        .into_iter()
        .filter(|c| !own.iter().any(|o| o["type"] == c["type"]))
        .collect();
    all.extend(own);
    all
}

#[cfg(test)]
mod tests;
