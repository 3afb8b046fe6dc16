//! The one picture of the API that all sessions are served from: what each gateway should hold, what the hub holds of what each
//! reported, and who is listening. Behind one lock, so that a session that begins misses no change and sees none twice.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::{Hash, Inventory, SourceSet};

use super::body::{Body, ObservedKey, observed_key, reported_of};
use super::desired::{Delta, Desired, DeviceEntry, Name};
use super::observed::Observed;
use super::presence::Presences;
use super::sites::{Due, NodeFacts, Place, SiteView};
use super::works::{ClusterEntry, Effects, Look, Spoken, Stands, Taken, WorkEntry, WorkFacts, Works};
use crate::fleet::Outbox;

#[derive(Debug, Default)]
struct State {
    desired: Desired,
    observed: Observed,
    works: Works,
    /// Observed keys that the writer is about to write.
    writing: HashSet<Arc<str>>,
    listeners: HashMap<Arc<str>, (u64, Arc<Outbox>)>,
    /// A list of all Devices was seen, and one of all DeviceStatuses.
    listed: (bool, bool),
    /// Gateways that were connected when an earlier process ended, and where; until they are asked for.
    left_behind: Vec<(Arc<str>, SocketAddr)>,
}

/// Shared by watches, sessions and the writer.
#[derive(Debug, Default)]
pub(crate) struct Index(Mutex<State>);

impl Touched {
    fn add(&mut self, more: Self) {
        self.attend.extend(more.attend);
        self.look.extend(more.look);
        self.sites.extend(more.sites);
    }
}

/// What a person needs to know about a device to ask where its edit is.
#[derive(Clone, Debug)]
pub(crate) struct DeviceFacts {
    pub(crate) uid: Arc<str>,
    pub(crate) model: Option<Body>,
}

/// What a change leaves to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Works that the hub has to write something on.
    pub(crate) attend: Vec<Arc<str>>,
    /// Works of sites whose merged status may not be what it was.
    pub(crate) look: Vec<Arc<str>>,
    /// Sites whose Cluster may say something old.
    pub(crate) sites: Vec<Arc<str>>,
}

/// See [`Index::writing`].
#[derive(Debug)]
pub(crate) struct Writing<'i> {
    index: &'i Index,
    key: Arc<str>,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.index.lock().writing.remove(&self.key);
    }
}

impl Index {
    /// How long a member of a site may be away where its Cluster says nothing, in milliseconds; and the time.
    pub(crate) fn begin(&self, now: u64, reschedule_after: Option<u64>) {
        self.lock().works.sites.begin(now, reschedule_after);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(state: &State, deltas: Vec<Delta>) {
        for delta in deltas {
            let Some((_, outbox)) = state.listeners.get(&delta.node) else {
                continue;
            };
            // What the gateway says of a device that is its own again was refused meanwhile, or went with the device that had the name
            // before; the gateway may never hear that there was a time between.
            for key in reported_of(&delta.key).filter(|_| delta.joined).into_iter().flatten() {
                if state.observed.owner(&key).is_some_and(|owner| owner == delta.node) {
                    outbox.reconsider(key);
                } else {
                    outbox.lost(key);
                }
            }
            if delta.joined && matches!(observed_key(&delta.key), Some(ObservedKey::Work { .. })) {
                // What was said of it before, if it was there before, was not taken.
                outbox.lost(Arc::clone(&delta.key));
            }
            outbox.change(delta.key, delta.body);
        }
    }

    /// A session begins: its sets as of now, and every difference from now on into `outbox`.
    pub(crate) fn subscribe(&self, node: &Arc<str>, epoch: u64, outbox: &Arc<Outbox>) -> (SourceSet, Inventory) {
        let mut state = self.lock();
        let newer_is_there = state.listeners.get(node).is_some_and(|(e, _)| *e > epoch);
        if !newer_is_there {
            state.listeners.insert(Arc::clone(node), (epoch, Arc::clone(outbox)));
        }
        let mut source = SourceSet::new();
        for (key, body) in state.desired.set(node).into_iter().chain(state.works.set(node)) {
            source.put_hashed(key, body.hash, body.bytes);
        }
        let mut inventory = state.observed.inventory(node);
        if state.works.sites.site_of(node).is_some() {
            // What a Cluster of its own was told is of no use to the site's.
            inventory.remove(&*super::body::key(super::body::CLUSTERS, "clusters", "", node));
        }
        inventory.extend(state.works.held_of(node));
        (source, inventory.into_iter().collect())
    }

    /// The session ended.
    pub(crate) fn unsubscribe(&self, node: &str, epoch: u64) {
        let mut state = self.lock();
        if state.listeners.get(node).is_some_and(|(e, _)| *e == epoch) {
            state.listeners.remove(node);
        }
    }

    /// See [`Desired::device`].
    pub(crate) fn device(&self, name: &Name, now: Option<DeviceEntry>) {
        let mut state = self.lock();
        let deltas = state.desired.device(name, now);
        Self::tell(&state, deltas);
    }

    /// See [`Desired::model`].
    pub(crate) fn model(&self, name: &Name, key: &Arc<str>, body: Option<Body>) {
        let mut state = self.lock();
        let deltas = state.desired.model(name, key, body);
        Self::tell(&state, deltas);
    }

    /// See [`Desired::edge_node`]. The nodes it concerns are returned when something changed.
    pub(crate) fn edge_node(&self, name: &Arc<str>, now: Option<(Arc<str>, Arc<str>, Body)>) -> Vec<Arc<str>> {
        let mut state = self.lock();
        let deltas = state.desired.edge_node(name, now);
        let nodes = deltas.iter().map(|d| Arc::clone(&d.node)).collect();
        Self::tell(&state, deltas);
        nodes
    }

    /// See [`Works::cluster`].
    pub(crate) fn cluster(&self, name: &Arc<str>, now: Option<ClusterEntry>) -> Touched {
        let mut state = self.lock();
        let effects = state.works.cluster(name, now, daemon::clock::wall_ms());
        Self::take(&mut state, effects)
    }

    /// See [`Works::work`].
    pub(crate) fn work(&self, name: &Name, now: Option<WorkEntry>, revision: u64) -> Touched {
        let mut state = self.lock();
        let effects = state.works.work(name, now, revision);
        Self::take(&mut state, effects)
    }

    /// See [`Works::place`].
    pub(crate) fn place(&self, node: &Arc<str>, place: Option<Place>) -> Touched {
        let mut state = self.lock();
        let effects = state.works.place(node, place, daemon::clock::wall_ms());
        Self::take(&mut state, effects)
    }

    /// See [`Works::placed`].
    pub(crate) fn placed(&self) -> Touched {
        let mut state = self.lock();
        let effects = state.works.placed();
        Self::take(&mut state, effects)
    }

    /// What a Node says of where it is; `None` when it is gone.
    pub(crate) fn node(&self, node: &Arc<str>, facts: Option<NodeFacts>) -> Touched {
        let mut state = self.lock();
        let told = match facts {
            Some(facts) => state.works.sites.node(node, Some(facts)),
            None => state.works.sites.forget_node(node),
        };
        let effects = state.works.node_told(told);
        Self::take(&mut state, effects)
    }

    /// A gateway that is away was last seen at this time.
    pub(crate) fn last_seen(&self, node: &Arc<str>, at: u64) {
        self.lock().works.sites.last_seen(node, at);
    }

    /// See [`Works::said`].
    pub(crate) fn said(&self, node: &Arc<str>, key: &str, spoken: Spoken) -> Taken {
        self.lock().works.said(node, key, spoken)
    }

    /// See [`Works::look`].
    pub(crate) fn look(&self, namespace: &str, name: &str, settled: bool) -> Look {
        let now = daemon::clock::wall_ms();
        self.lock().works.look(namespace, name, settled, now)
    }

    /// See [`Works::is_first`].
    pub(crate) fn is_first(&self, namespace: &str, name: &str, hash: Hash) -> bool {
        self.lock().works.is_first(namespace, name, hash)
    }

    /// See [`Works::wrote`].
    pub(crate) fn wrote(&self, (namespace, name): (&str, &str), hash: Hash, reported: Option<Hash>, revision: u64) {
        self.lock().works.wrote(namespace, name, hash, reported, revision);
    }

    /// The site that a gateway is in.
    pub(crate) fn site_of(&self, node: &str) -> Option<Arc<str>> {
        self.lock().works.sites.site_of(node).cloned()
    }

    /// What the Cluster of a site is made from, once all gateways are placed.
    pub(crate) fn site(&self, site: &str, settled: bool) -> Option<(SiteView, Option<ClusterEntry>)> {
        let mut state = self.lock();
        if !state.works.sites.is_complete() {
            return None;
        }
        let view = state.works.sites.view(site, settled, daemon::clock::wall_ms())?;
        let entry = view.cluster.as_ref().and_then(|c| state.works.entry(c)).cloned();
        Some((view, entry))
    }

    /// Whether a Cluster stands for a gateway, or for the site that it is in.
    pub(crate) fn has_cluster(&self, node: &str) -> bool {
        let state = self.lock();
        let sites = &state.works.sites;
        match sites.site_of(node) {
            Some(site) => sites.get(site).is_some_and(|site| site.cluster().is_some()),
            None => state.works.cluster_of_node(node).is_some(),
        }
    }

    /// The gateways of a site.
    pub(crate) fn members(&self, site: &str) -> Vec<Arc<str>> {
        let state = self.lock();
        let site = state.works.sites.get(site);
        site.map(|site| site.names().cloned().collect()).unwrap_or_default()
    }

    /// The gateways of the site that is asked for by this name: its own, or that of its Cluster. Where a gateway has the name too, the name
    /// is the site's if the site has a Cluster, which gives out the site's own name as where its API is; else it is the gateway's.
    pub(crate) fn members_behind(&self, name: &str, is_gateway: bool) -> Option<Vec<Arc<str>>> {
        let state = self.lock();
        let sites = &state.works.sites;
        let by_cluster = || match &state.works.entry(name)?.stands {
            Stands::Site(site) if !is_gateway => sites.get(site),
            _ => None,
        };
        let by_name = sites.get(name).filter(|s| !is_gateway || s.cluster().is_some());
        Some(by_name.or_else(by_cluster)?.names().cloned().collect())
    }

    /// The name of a site's Cluster is taken.
    pub(crate) fn refuse_site(&self, site: &str, why: &str) {
        self.lock().works.sites.refuse(site, why);
    }

    /// A gateway of this hub is on record as standing behind this site's Cluster.
    pub(crate) fn claim_site(&self, site: &str) {
        self.lock().works.sites.claim(site);
    }

    /// Whether this hub speaks for what a Cluster stands for: other hubs may have theirs in the same control plane.
    pub(crate) fn is_own(&self, stands: &Stands, presences: &dyn Presences) -> bool {
        match stands {
            Stands::Gateway(node) => presences.enrolled(node),
            Stands::Site(site) => self.lock().works.sites.is_ours(site),
        }
    }

    /// A member is on record as standing behind its site's Cluster.
    pub(crate) fn registered(&self, site: &str, node: &str) {
        self.lock().works.sites.registered(site, node);
    }

    /// Whether a site's Cluster is to be looked at now; else it will be soon.
    pub(crate) fn look_at_site(&self, site: &Arc<str>, urgent: bool) -> bool {
        self.lock().works.sites.look(site, urgent, daemon::clock::wall_ms())
    }

    /// What is due by now.
    pub(crate) fn due(&self) -> Touched {
        let now = daemon::clock::wall_ms();
        let mut state = self.lock();
        let mut touched = Touched::default();
        for due in state.works.sites.due(now) {
            match due {
                Due::Site(site) => touched.sites.push(site),
                Due::Work(key) => touched.look.push(key),
                Due::Lapse(node) => {
                    let effects = state.works.lapse(&node, now);
                    touched.add(Self::take(&mut state, effects));
                }
            }
        }
        touched
    }

    fn take(state: &mut State, effects: Effects) -> Touched {
        for (node, key) in effects.lost {
            if let Some((_, outbox)) = state.listeners.get(&node) {
                outbox.lost(key);
            }
        }
        Self::tell(state, effects.deltas);
        for (key, mark, revision) in effects.marks {
            // The writer's own writes are known before the watch tells of them.
            let known = state.observed.revision(&key);
            if mark.is_some() && known.is_some_and(|known| revision <= known) {
                continue;
            }
            // What a gateway reported and somebody altered is asked for again.
            if state.writing.contains(&key) {
                // Perhaps the writer's own, told before it was answered.
                continue;
            }
            let held = state.observed.owner(&key).zip(state.observed.hash(&key));
            let altered = held.is_some() && held != mark;
            Self::put_mark(state, &key, mark.filter(|_| !altered), revision);
        }
        Touched {
            attend: effects.attend,
            look: effects.look,
            sites: effects.sites,
        }
    }

    /// The writer writes what was reported under this key for as long as it keeps what it gets.
    pub(crate) fn writing(&self, key: &Arc<str>) -> Writing<'_> {
        self.lock().writing.insert(Arc::clone(key));
        Writing {
            index: self,
            key: Arc::clone(key),
        }
    }

    /// A list of all Works was seen.
    pub(crate) fn works_listed(&self, seen: &HashSet<Name>) {
        let gone = self.lock().works.missing(seen);
        for name in gone {
            drop(self.work(&name, None, 0));
        }
    }

    /// A list of all Clusters was seen. Those that are gone are returned, with the gateways they stood for.
    pub(crate) fn clusters_listed(&self, seen: &BTreeSet<Arc<str>>) -> Vec<(Arc<str>, Option<ClusterEntry>)> {
        let gone = self.lock().works.clusters_missing(seen);
        let without = |name: Arc<str>| {
            let was = self.cluster_entry(&name);
            drop(self.cluster(&name, None));
            (name, was)
        };
        gone.into_iter().map(without).collect()
    }

    /// What is known of a Cluster of this hub's.
    pub(crate) fn cluster_entry(&self, name: &str) -> Option<ClusterEntry> {
        self.lock().works.entry(name).cloned()
    }

    /// See [`Works::cluster_of_node`].
    pub(crate) fn cluster_of_node(&self, node: &str) -> Option<(Arc<str>, ClusterEntry)> {
        let state = self.lock();
        let (name, entry) = state.works.cluster_of_node(node)?;
        Some((name, entry.clone()))
    }

    /// See [`Works::facts`].
    pub(crate) fn work_facts(&self, namespace: &str, name: &str) -> Option<(Option<Stands>, WorkFacts)> {
        self.lock().works.facts(namespace, name)
    }

    /// See [`Works::is_for`].
    pub(crate) fn is_for(&self, namespace: &str, node: &str) -> bool {
        self.lock().works.is_for(namespace, node)
    }

    /// All Clusters that stand for gateways, by name. Those that are being deleted too: while somebody speaks for one, its gateway is waited
    /// for.
    pub(crate) fn clusters(&self) -> Vec<(Arc<str>, ClusterEntry)> {
        let state = self.lock();
        let all = state.works.clusters();
        all.map(|(name, entry)| (Arc::clone(name), entry.clone())).collect()
    }

    /// (Clusters, Works) known.
    pub(crate) fn work_counts(&self) -> (usize, usize) {
        self.lock().works.counts()
    }

    /// The first list shows a gateway as connected, which it is not to this process.
    pub(crate) fn left_behind(&self, node: Arc<str>, address: SocketAddr) {
        self.lock().left_behind.push((node, address));
    }

    /// All of these, once.
    pub(crate) fn take_left_behind(&self) -> Vec<(Arc<str>, SocketAddr)> {
        std::mem::take(&mut self.lock().left_behind)
    }

    /// A list of all devices was seen: what was not in it is gone. The gone ones are returned.
    pub(crate) fn devices_listed(&self, seen: &HashSet<Name>) -> Vec<Name> {
        let mut state = self.lock();
        state.listed.0 = true;
        let gone = state.desired.devices_missing(seen);
        for name in &gone {
            let deltas = state.desired.device(name, None);
            Self::tell(&state, deltas);
        }
        gone
    }

    /// The same for models.
    pub(crate) fn models_listed(&self, seen: &HashSet<Name>) {
        let mut state = self.lock();
        for (name, key) in state.desired.models_missing(seen) {
            let deltas = state.desired.model(&name, &key, None);
            Self::tell(&state, deltas);
        }
    }

    /// The same for EdgeNodes. Those that are gone are returned, with the nodes they spoke of.
    pub(crate) fn edge_nodes_listed(&self, seen: &HashSet<Arc<str>>) -> Vec<(Arc<str>, Vec<Arc<str>>)> {
        let gone = self.lock().desired.edge_nodes_missing(seen);
        let without = |name: Arc<str>| {
            let nodes = self.edge_node(&name, None);
            (name, nodes)
        };
        gone.into_iter().map(without).collect()
    }

    /// The API object behind an observed key carries this mark now. When it lost a mark that a live session relies on, the
    /// session is told, so that its gateway sends the entry again.
    /// False when something newer is known that says otherwise.
    pub(crate) fn mark(&self, key: &Arc<str>, mark: Option<(Arc<str>, Hash)>, revision: u64) -> bool {
        Self::put_mark(&mut self.lock(), key, mark, revision)
    }

    fn put_mark(state: &mut State, key: &Arc<str>, mark: Option<(Arc<str>, Hash)>, revision: u64) -> bool {
        let before = state.observed.owner(key);
        let counts = state.observed.set(key, mark, revision);
        let Some(node) = before.filter(|_| state.observed.owner(key).is_none()) else {
            return counts;
        };
        let wanted = match observed_key(key) {
            Some(ObservedKey::Status { namespace, name } | ObservedKey::Twins { namespace, name }) => {
                state.desired.device_node(namespace, name) == Some(Some(Arc::clone(&node)))
            }
            Some(ObservedKey::Work { namespace, name }) => state
                .works
                .facts(namespace, name)
                .is_some_and(|(owner, _)| owner == Some(Stands::Gateway(Arc::clone(&node)))),
            _ => true,
        };
        if wanted && let Some((_, outbox)) = state.listeners.get(&node) {
            outbox.lost(Arc::clone(key));
        }
        counts
    }

    /// The device behind a DeviceStatus key is not in the API: the mark is taken off, at the same moment, and returned. `None` when the
    /// device is there.
    pub(crate) fn orphaned(&self, key: &Arc<str>) -> Option<Option<(Arc<str>, Hash)>> {
        let Some(ObservedKey::Status { namespace, name }) = observed_key(key) else {
            return None;
        };
        let mut state = self.lock();
        if state.desired.device_node(namespace, name).is_some() {
            return None;
        }
        let mark = state.observed.owner(key).zip(state.observed.hash(key));
        state.observed.set(key, None, 0);
        Some(mark)
    }

    /// Whether the picture of an object at this resourceVersion tells nothing that is not known already.
    pub(crate) fn known(&self, key: &str, revision: u64) -> bool {
        revision != 0
            && self
                .lock()
                .observed
                .revision(key)
                .is_some_and(|known| revision <= known)
    }

    /// The hub itself takes the object behind this key away, or its mark.
    pub(crate) fn forget(&self, key: &Arc<str>) {
        self.lock().observed.set(key, None, 0);
    }

    /// A list of all objects whose observed keys begin with `prefix` was seen.
    pub(crate) fn marks_listed(&self, prefix: &str, seen: &HashSet<Arc<str>>) {
        let missing = {
            let mut state = self.lock();
            state.listed.1 |= prefix.contains("devicestatuses");
            state.observed.missing(prefix, seen)
        };
        for key in missing {
            self.mark(&key, None, 0);
        }
    }

    /// The node that reported the object behind `key`, and the hash of what it reported.
    pub(crate) fn marked(&self, key: &str) -> Option<(Arc<str>, Hash)> {
        let state = self.lock();
        state.observed.owner(key).zip(state.observed.hash(key))
    }

    /// Whether all Devices and all DeviceStatuses are known.
    pub(crate) fn complete(&self) -> bool {
        self.lock().listed == (true, true)
    }

    /// Keys of DeviceStatuses in the API whose device is not.
    pub(crate) fn orphans(&self) -> Vec<Arc<str>> {
        let state = self.lock();
        let keys = state.observed.with_prefix("devices.kubeedge.io/devicestatuses/");
        let orphan = |key: &Arc<str>| {
            matches!(observed_key(key), Some(ObservedKey::Status { namespace, name })
                if state.desired.device_node(namespace, name).is_none())
        };
        keys.into_iter().filter(orphan).collect()
    }

    /// See [`Desired::device_node`].
    pub(crate) fn device_node(&self, namespace: &str, name: &str) -> Option<Option<Arc<str>>> {
        self.lock().desired.device_node(namespace, name)
    }

    /// See [`Desired::device_facts`].
    pub(crate) fn device_facts(&self, namespace: &str, name: &str) -> Option<DeviceFacts> {
        let (uid, model) = self.lock().desired.device_facts(namespace, name)?;
        Some(DeviceFacts { uid, model })
    }

    /// See [`Desired::edge_node_of`].
    pub(crate) fn edge_node_of(&self, node: &str) -> Option<(Arc<str>, Body)> {
        self.lock().desired.edge_node_of(node)
    }

    /// See [`Desired::edge_nodes_of`].
    pub(crate) fn edge_nodes_of(&self, node: &str) -> Vec<Arc<str>> {
        self.lock().desired.edge_nodes_of(node)
    }

    /// See [`Desired::uses_model`].
    pub(crate) fn uses_model(&self, node: &str, namespace: &str, name: &str) -> bool {
        self.lock().desired.uses_model(node, namespace, name)
    }

    /// (devices, models, EdgeNodes) known.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        self.lock().desired.counts()
    }
}
