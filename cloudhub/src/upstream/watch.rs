//! Seven watches feed the index: what gateways should hold (Devices, DeviceModels, EdgeNodes, Works), which Cluster stands for which of
//! them, and the marks of what they reported (DeviceStatuses, Nodes, and the Works themselves). Each is one task that lists, watches, and lists again when the API has forgotten where it was.
//!
//! Nothing is polled and nothing waits to be collected: a change reaches the sessions in the turn in which its event arrives.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use daemon::drain::Drain;
use daemon::ready::Block;
use futures_util::{Stream, StreamExt};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ObjectMeta, TypeMeta};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::Value;

use super::body::{
    self, Body, CLUSTERS, CONTENT, DEVICES, EDGE, OBSERVED, OBSERVED_FROM, TWINS, TWINS_FROM, WORKS, hash_of,
};
use super::clusters;
use super::desired::{DeviceEntry, Name};
use super::index::Index;
use super::queue::Urgency;
use super::sites::NodeFacts;
use super::works::{ClusterEntry, Stands, WorkEntry};
use super::writer::{Job, Writer, node_is_as_written};
use crate::fleet::last_seen;

/// What the watches share.
#[derive(Clone, Debug)]
pub(crate) struct Watches {
    pub(crate) client: ClientRef,
    /// Where Clusters and Works are: what stands above the hub, or the hub's own API.
    pub(crate) above: ClientRef,
    /// This hub's id.
    pub(crate) hub: Arc<str>,
    pub(crate) index: Arc<Index>,
    pub(crate) writer: Writer,
    pub(crate) drain: Drain,
}

/// A client, without its insides in `Debug`.
#[derive(Clone)]
pub(crate) struct ClientRef(pub(crate) kube::Client);

impl Debug for ClientRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

impl Watches {
    /// Starts all of them. Each holds a block from `ready` until it has seen everything once.
    pub(crate) fn start(&self, mut ready: impl FnMut(&'static str) -> Block) {
        let config = watcher::Config::default;
        let devices = resource(DEVICES, "v1beta1", "Device", "devices");
        let models = resource(DEVICES, "v1beta1", "DeviceModel", "devicemodels");
        let statuses = resource(DEVICES, "v1beta1", "DeviceStatus", "devicestatuses");
        let edge_nodes = resource(EDGE, "v1", "EdgeNode", "edgenodes");
        let nodes = resource("", "v1", "Node", "nodes");
        let clusters = resource(CLUSTERS, "v1alpha1", "Cluster", "clusters");
        let works = resource(WORKS, "v1alpha1", "Work", "works");
        let full = |r: &ApiResource| watcher(Api::<DynamicObject>::all_with(self.client.0.clone(), r), config());
        let above = |r: &ApiResource| watcher(Api::<DynamicObject>::all_with(self.above.0.clone(), r), config());

        self.run(ready("models"), full(&models), self.models());
        self.run(ready("devices"), full(&devices), self.devices());
        self.run(ready("edge nodes"), full(&edge_nodes), self.edge_nodes());
        self.run(ready("device statuses"), full(&statuses), self.statuses());
        self.run(ready("nodes"), full(&nodes), self.nodes());
        self.run(ready("clusters"), above(&clusters), self.clusters());
        self.run(ready("works"), above(&works), self.works());
    }

    /// One watch: turns the watcher's events into ours, with a list told whole.
    fn run<K: Debug + Send + 'static>(
        &self,
        block: Block,
        stream: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send + 'static,
        mut tell: impl FnMut(Told<K>) + Send + 'static,
    ) {
        let drain = self.drain.clone();
        drop(self.drain.spawn(async move {
            let mut block = Some(block);
            let mut stream = std::pin::pin!(stream.default_backoff());
            loop {
                let event = tokio::select! {
                    biased;
                    () = drain.stopping() => return,
                    event = stream.next() => event,
                };
                match event {
                    Some(Ok(watcher::Event::Init)) => tell(Told::ListBegins),
                    Some(Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object))) => {
                        tell(Told::Now(object))
                    }
                    Some(Ok(watcher::Event::InitDone)) => {
                        tell(Told::ListEnds);
                        drop(block.take());
                    }
                    Some(Ok(watcher::Event::Delete(object))) => tell(Told::Gone(object)),
                    Some(Err(e)) => tracing::warn!(error = %e, "A watch of the API broke; it begins again."),
                    None => return,
                }
            }
        }));
    }
}

/// What a watch tells.
enum Told<K> {
    ListBegins,
    Now(K),
    Gone(K),
    ListEnds,
}

fn name(meta: &ObjectMeta) -> Name {
    let part = |text: &Option<String>| Arc::from(text.as_deref().unwrap_or_default());
    (part(&meta.namespace), part(&meta.name))
}

fn revision(meta: &ObjectMeta) -> u64 {
    meta.resource_version
        .as_deref()
        .and_then(|t| t.parse().ok())
        .unwrap_or(0)
}

/// Wall clock, ms, when a gateway was last seen, out of the status of its EdgeNode; `None` when it was connected.
fn away_since(status: &Value) -> Option<u64> {
    let seen: jiff::Timestamp = status.get("lastSeen")?.as_str()?.parse().ok()?;
    let away = status.get("connected").and_then(Value::as_bool) == Some(false);
    u64::try_from(seen.as_millisecond()).ok().filter(|_| away)
}

/// A mark out of two annotations.
fn mark(meta: &ObjectMeta, hash: &str, from: &str) -> Option<(Arc<str>, proto::Hash)> {
    let notes = meta.annotations.as_ref()?;
    Some((Arc::from(notes.get(from)?.as_str()), hash_of(notes.get(hash)?)?))
}

/// The object as it is stored: lists leave out what every item has in common.
fn whole(mut object: DynamicObject, api_version: &str, kind: &str) -> Value {
    object.types = Some(TypeMeta {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
    });
    serde_json::to_value(&object).expect("a JSON object serialises")
}

fn text_at(object: &DynamicObject, pointer: &str) -> Option<Arc<str>> {
    object
        .data
        .pointer(pointer)
        .and_then(Value::as_str)
        .filter(|t| !t.is_empty())
        .map(Arc::from)
}

/// What a list showed, while one is being told.
type Seen<T> = Option<HashSet<T>>;

impl Watches {
    fn models(&self) -> impl FnMut(Told<DynamicObject>) + Send + use<> {
        let index = Arc::clone(&self.index);
        let mut seen: Seen<Name> = None;
        move |told| match told {
            Told::ListBegins => seen = Some(HashSet::new()),
            Told::ListEnds => index.models_listed(&seen.take().unwrap_or_default()),
            Told::Gone(object) => {
                let name = name(&object.metadata);
                index.model(&name, &body::key(DEVICES, "devicemodels", &name.0, &name.1), None);
            }
            Told::Now(object) => {
                let name = name(&object.metadata);
                let key = body::key(DEVICES, "devicemodels", &name.0, &name.1);
                let bytes = body::desired_body(whole(object, "devices.kubeedge.io/v1beta1", "DeviceModel"), true);
                index.model(&name, &key, Some(Body::new(&key, bytes)));
                if let Some(seen) = &mut seen {
                    seen.insert(name.clone());
                }
            }
        }
    }

    fn devices(&self) -> impl FnMut(Told<DynamicObject>) + Send + use<> {
        let (index, writer) = (Arc::clone(&self.index), self.writer.clone());
        let mut seen: Seen<Name> = None;
        let gone = {
            let (index, writer) = (Arc::clone(&self.index), self.writer.clone());
            move |name: &Name| {
                index.forget(&body::key(DEVICES, "twins", &name.0, &name.1));
                let status = body::key(DEVICES, "devicestatuses", &name.0, &name.1);
                if index.marked(&status).is_some() {
                    writer.submit(&status, Job::Orphan, None, Urgency::Now);
                }
            }
        };
        move |told| match told {
            Told::ListBegins => seen = Some(HashSet::new()),
            Told::ListEnds => {
                for name in index.devices_listed(&seen.take().unwrap_or_default()) {
                    gone(&name);
                }
                orphans(&index, &writer);
            }
            Told::Gone(object) => {
                let name = name(&object.metadata);
                index.device(&name, None);
                gone(&name);
            }
            Told::Now(object) => {
                let name = name(&object.metadata);
                let key = body::key(DEVICES, "devices", &name.0, &name.1);
                let (node, model) = (
                    text_at(&object, "/spec/nodeName"),
                    text_at(&object, "/spec/deviceModelRef/name"),
                );
                let (mark, at) = (mark(&object.metadata, TWINS, TWINS_FROM), revision(&object.metadata));
                let uid = Arc::from(object.metadata.uid.as_deref().unwrap_or_default());
                let bytes = body::desired_body(whole(object, "devices.kubeedge.io/v1beta1", "Device"), true);
                let body = Body::new(&key, bytes);
                // The mark counts for the gateway whose device it is now.
                let mark = mark.filter(|(from, _)| node.as_ref() == Some(from));
                index.device(
                    &name,
                    Some(DeviceEntry {
                        key,
                        body,
                        uid,
                        node,
                        model,
                    }),
                );
                index.mark(&body::key(DEVICES, "twins", &name.0, &name.1), mark, at);
                if let Some(seen) = &mut seen {
                    seen.insert(name.clone());
                }
            }
        }
    }

    fn edge_nodes(&self) -> impl FnMut(Told<DynamicObject>) + Send + use<> {
        let (index, writer) = (Arc::clone(&self.index), self.writer.clone());
        let mut seen: Seen<Arc<str>> = None;
        // Only the first list is what an earlier process left; later ones are this one's own words.
        let mut first = true;
        move |told| match told {
            Told::ListBegins => seen = Some(HashSet::new()),
            Told::ListEnds => {
                first = false;
                for (name, nodes) in index.edge_nodes_listed(&seen.take().unwrap_or_default()) {
                    writer.edge_node_changed(&name, &nodes);
                }
            }
            Told::Gone(object) => {
                let name = name(&object.metadata).1;
                writer.edge_node_changed(&name, &index.edge_node(&name, None));
            }
            Told::Now(object) => {
                let name = name(&object.metadata).1;
                let key = body::key(EDGE, "edgenodes", "", &name);
                let node = text_at(&object, "/spec/nodeInfo/nodeID").unwrap_or_else(|| Arc::clone(&name));
                if first && let Some(at) = object.data.get("status").and_then(last_seen) {
                    index.left_behind(Arc::clone(&node), at);
                }
                if first && let Some(at) = object.data.get("status").and_then(away_since) {
                    index.last_seen(&node, at);
                }
                // Without its status: that is what the hub itself says about the gateway.
                let bytes = body::desired_body(whole(object, "edge.kubeedge.io/v1", "EdgeNode"), false);
                let body = Body::new(&key, bytes);
                let changed = index.edge_node(&name, Some((node, key, body)));
                // In the first list that is old news.
                if !first {
                    writer.edge_node_changed(&name, &changed);
                }
                if let Some(seen) = &mut seen {
                    seen.insert(Arc::clone(&name));
                }
            }
        }
    }

    /// Of a DeviceStatus, what the hub noted on it counts while the rest is what the hub wrote; else it is as if it were not there,
    /// and its gateway is asked again.
    fn statuses(&self) -> impl FnMut(Told<DynamicObject>) + Send + use<> {
        let (index, writer) = (Arc::clone(&self.index), self.writer.clone());
        let mut seen: Seen<Arc<str>> = None;
        let key = |meta: &ObjectMeta| {
            let name = name(meta);
            body::key(DEVICES, "devicestatuses", &name.0, &name.1)
        };
        move |told| match told {
            Told::ListBegins => seen = Some(HashSet::new()),
            Told::ListEnds => {
                index.marks_listed(&format!("{DEVICES}/devicestatuses/"), &seen.take().unwrap_or_default());
                orphans(&index, &writer);
            }
            Told::Gone(object) => drop(index.mark(&key(&object.metadata), None, revision(&object.metadata))),
            Told::Now(object) => {
                let (key, at) = (key(&object.metadata), revision(&object.metadata));
                if !index.known(&key, at) {
                    let notes = object.metadata.annotations.as_ref();
                    let noted = notes.and_then(|n| n.get(CONTENT));
                    let mark = mark(&object.metadata, OBSERVED, OBSERVED_FROM)
                        .filter(|(_, hash)| noted == Some(&body::status_content(*hash, &object.data)));
                    index.mark(&key, mark, at);
                }
                if let Some(seen) = &mut seen {
                    seen.insert(key);
                }
            }
        }
    }

    /// The same for Nodes, but the writer looks at those that somebody altered: it has a part in them itself.
    fn nodes(&self) -> impl FnMut(Told<DynamicObject>) + Send + use<> {
        let (index, writer) = (Arc::clone(&self.index), self.writer.clone());
        let mut seen: Seen<Arc<str>> = None;
        move |told| match told {
            Told::ListBegins => seen = Some(HashSet::new()),
            Told::ListEnds => index.marks_listed("/nodes/", &seen.take().unwrap_or_default()),
            Told::Gone(object) => {
                let name = name(&object.metadata).1;
                let key = body::key("", "nodes", "", &name);
                index.mark(&key, None, revision(&object.metadata));
                writer.touched(index.node(&name, None));
            }
            Told::Now(object) => {
                let (name, at) = (name(&object.metadata).1, revision(&object.metadata));
                let key = body::key("", "nodes", "", &name);
                let mark = mark(&object.metadata, OBSERVED, OBSERVED_FROM);
                let node = whole(object, "v1", "Node");
                if !index.known(&key, at) {
                    index.mark(&key, mark, at);
                    if !node_is_as_written(&node) {
                        writer.labels(&name);
                    }
                }
                writer.touched(index.node(&name, Some(NodeFacts::of(&node))));
                if let Some(seen) = &mut seen {
                    seen.insert(key);
                }
            }
        }
    }
}

impl Watches {
    /// Clusters of this hub's gateways and sites. The writer looks at those that say of them what is not so.
    fn clusters(&self) -> impl FnMut(Told<DynamicObject>) + Send + use<> {
        let (index, writer) = (Arc::clone(&self.index), self.writer.clone());
        let hub = Arc::clone(&self.hub);
        let mut seen: Seen<Arc<str>> = None;
        move |told| match told {
            Told::ListBegins => seen = Some(HashSet::new()),
            Told::ListEnds => {
                let seen: BTreeSet<_> = seen.take().unwrap_or_default().into_iter().collect();
                for (_, was) in index.clusters_listed(&seen) {
                    if let Some(was) = was {
                        forget(&index, &was);
                        writer.stood_for(&was.stands, &was.uid);
                    }
                }
            }
            Told::Gone(object) => {
                let name = name(&object.metadata).1;
                let was = index.cluster_entry(&name);
                writer.touched(index.cluster(&name, None));
                if let Some(was) = was {
                    forget(&index, &was);
                    writer.stood_for(&was.stands, &was.uid);
                }
            }
            Told::Now(object) => {
                let name = name(&object.metadata).1;
                let at = revision(&object.metadata);
                let object = whole(object, "cluster.karmada.io/v1alpha1", "Cluster");
                let entry = ClusterEntry::of(&object, &hub);
                // What waited for the finalizer may go on; a word of others on whether it is ready is looked at.
                let site = match entry.as_ref().map(|entry| &entry.stands) {
                    Some(Stands::Gateway(node)) => {
                        let key = body::key(CLUSTERS, "clusters", "", node);
                        if !index.known(&key, at) {
                            let mark = entry.as_ref().and_then(|entry| clusters::mark(&key, entry, &object));
                            index.mark(&key, mark, at);
                            writer.cluster(node);
                        }
                        None
                    }
                    Some(Stands::Site(site)) => Some(Arc::clone(site)),
                    None => None,
                };
                let before = index.cluster_entry(&name);
                let settled = before.is_some() && before == entry;
                writer.touched(index.cluster(&name, entry));
                if let Some(site) = site {
                    writer.site(&site, !settled);
                }
                if let Some(seen) = &mut seen {
                    seen.insert(name);
                }
            }
        }
    }

    fn works(&self) -> impl FnMut(Told<DynamicObject>) + Send + use<> {
        let (index, writer) = (Arc::clone(&self.index), self.writer.clone());
        let mut seen: Seen<Name> = None;
        move |told| match told {
            Told::ListBegins => seen = Some(HashSet::new()),
            Told::ListEnds => index.works_listed(&seen.take().unwrap_or_default()),
            Told::Gone(object) => drop(index.work(&name(&object.metadata), None, 0)),
            Told::Now(object) => {
                let (name, at) = (name(&object.metadata), revision(&object.metadata));
                let object = whole(object, "work.karmada.io/v1alpha1", "Work");
                let entry = WorkEntry::of(&name.0, &name.1, object);
                writer.touched(index.work(&name, Some(entry), at));
                if let Some(seen) = &mut seen {
                    seen.insert(name);
                }
            }
        }
    }
}

/// What a gateway said of itself went with its Cluster.
fn forget(index: &Index, cluster: &ClusterEntry) {
    if let Stands::Gateway(node) = &cluster.stands {
        index.forget(&body::key(CLUSTERS, "clusters", "", node));
    }
}

/// DeviceStatuses whose Device went while nobody watched. Both lists must have been seen, or everything would look orphaned;
/// the job looks again before it deletes.
fn orphans(index: &Index, writer: &Writer) {
    if index.complete() {
        for key in index.orphans() {
            writer.submit(&key, Job::Orphan, None, Urgency::Soon);
        }
    }
}
