//! Which objects each gateway should hold: its EdgeNode, its Devices, and the DeviceModels those name. Pure: fed from watches,
//! it answers with the differences, and builds a node's whole set when a gateway connects.
//!
//! Nothing is kept per gateway but the names of its devices and how many of them use a model; bodies are held once.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::body::Body;

/// Namespace and name.
pub(crate) type Name = (Arc<str>, Arc<str>);

/// One difference in one node's set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delta {
    /// Whose set.
    pub(crate) node: Arc<str>,
    /// Which entry.
    pub(crate) key: Arc<str>,
    /// Its body now; `None` when it left the set.
    pub(crate) body: Option<Body>,
    /// It was not in the set before, as far as this index saw.
    pub(crate) joined: bool,
}

#[derive(Clone, Debug)]
struct Entry {
    key: Arc<str>,
    body: Body,
}

#[derive(Debug)]
struct Device {
    entry: Entry,
    uid: Arc<str>,
    node: Option<Arc<str>>,
    model: Option<Name>,
}

#[derive(Debug)]
struct EdgeNode {
    entry: Entry,
    node: Arc<str>,
}

#[derive(Debug, Default)]
struct NodeSet {
    /// Names of the EdgeNode objects that speak of this node: one, unless people made two.
    edge_nodes: Vec<Arc<str>>,
    devices: BTreeSet<Name>,
    /// Model -> devices of this node that name it.
    models: HashMap<Name, u32>,
}

/// The index.
#[derive(Debug, Default)]
pub(crate) struct Desired {
    devices: HashMap<Name, Device>,
    models: HashMap<Name, Entry>,
    edge_nodes: HashMap<Arc<str>, EdgeNode>,
    nodes: HashMap<Arc<str>, NodeSet>,
}

/// A device as the index needs it.
#[derive(Clone, Debug)]
pub(crate) struct DeviceEntry {
    /// Its replica key.
    pub(crate) key: Arc<str>,
    /// Its canonical body.
    pub(crate) body: Body,
    /// `metadata.uid`, for owner references.
    pub(crate) uid: Arc<str>,
    /// `spec.nodeName`, when bound.
    pub(crate) node: Option<Arc<str>>,
    /// `spec.deviceModelRef.name`, when set.
    pub(crate) model: Option<Arc<str>>,
}

impl Desired {
    /// A device appeared, changed, or (`None`) is gone.
    pub(crate) fn device(&mut self, name: &Name, now: Option<DeviceEntry>) -> Vec<Delta> {
        let mut out = Vec::new();
        let now = now.map(|d| Device {
            entry: Entry {
                key: d.key,
                body: d.body,
            },
            uid: d.uid,
            node: d.node.filter(|n| !n.is_empty()),
            model: d.model.filter(|m| !m.is_empty()).map(|m| (Arc::clone(&name.0), m)),
        });
        let was = self.devices.remove(name);
        let (was_node, now_node) = (
            was.as_ref().and_then(|d| d.node.clone()),
            now.as_ref().and_then(|d| d.node.clone()),
        );
        let (was_model, now_model) = (
            was.as_ref().and_then(|d| d.model.clone()),
            now.as_ref().and_then(|d| d.model.clone()),
        );

        if let Some(node) = &was_node
            && (was_node != now_node || was_model != now_model)
        {
            if was_node != now_node {
                let key = was.as_ref().map(|d| Arc::clone(&d.entry.key)).unwrap_or_default();
                out.push(Delta {
                    node: Arc::clone(node),
                    key,
                    body: None,
                    joined: false,
                });
                if let Some(set) = self.nodes.get_mut(node) {
                    set.devices.remove(name);
                }
            }
            if let Some(model) = &was_model {
                self.release_model(node, model, &mut out);
            }
            self.forget_if_empty(node);
        }
        if let (Some(node), Some(device)) = (&now_node, &now) {
            let set = self.nodes.entry(Arc::clone(node)).or_default();
            let joined = set.devices.insert(name.clone());
            if let Some(model) = &now_model
                && (joined || was_model != now_model)
            {
                let count = set.models.entry(model.clone()).or_default();
                *count += 1;
                // The model goes first: the gateway can then check the device against it.
                if *count == 1
                    && let Some(entry) = self.models.get(model)
                {
                    out.push(Delta {
                        node: Arc::clone(node),
                        key: Arc::clone(&entry.key),
                        body: Some(entry.body.clone()),
                        joined: true,
                    });
                }
            }
            let same = !joined && was.as_ref().is_some_and(|w| w.entry.body == device.entry.body);
            if !same {
                out.push(Delta {
                    node: Arc::clone(node),
                    key: Arc::clone(&device.entry.key),
                    body: Some(device.entry.body.clone()),
                    joined,
                });
            }
        }
        if let Some(device) = now {
            self.devices.insert(name.clone(), device);
        }
        out
    }

    fn release_model(&mut self, node: &Arc<str>, model: &Name, out: &mut Vec<Delta>) {
        let Some(set) = self.nodes.get_mut(node) else {
            return;
        };
        let Some(count) = set.models.get_mut(model) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            set.models.remove(model);
            if let Some(entry) = self.models.get(model) {
                out.push(Delta {
                    node: Arc::clone(node),
                    key: Arc::clone(&entry.key),
                    body: None,
                    joined: false,
                });
            }
        }
    }

    /// A model appeared, changed, or (`None`) is gone.
    pub(crate) fn model(&mut self, name: &Name, key: &Arc<str>, body: Option<Body>) -> Vec<Delta> {
        let was = match &body {
            Some(body) => self.models.insert(
                name.clone(),
                Entry {
                    key: Arc::clone(key),
                    body: body.clone(),
                },
            ),
            None => self.models.remove(name),
        };
        if was.as_ref().map(|e| &e.body) == body.as_ref() {
            return Vec::new();
        }
        self.nodes
            .iter()
            .filter(|(_, set)| set.models.contains_key(name))
            .map(|(node, _)| Delta {
                node: Arc::clone(node),
                key: Arc::clone(key),
                body: body.clone(),
                joined: false,
            })
            .collect()
    }

    /// An EdgeNode object appeared, changed, or (`None`) is gone; with the node it speaks of.
    pub(crate) fn edge_node(&mut self, name: &Arc<str>, now: Option<(Arc<str>, Arc<str>, Body)>) -> Vec<Delta> {
        let mut out = Vec::new();
        let was = self.edge_nodes.remove(name);
        let stays = matches!((&was, &now), (Some(was), Some((node, _, _))) if was.node == *node);
        if let Some(was) = &was
            && !stays
        {
            if let Some(set) = self.nodes.get_mut(&was.node) {
                set.edge_nodes.retain(|n| n != name);
            }
            self.forget_if_empty(&was.node);
            out.push(Delta {
                node: Arc::clone(&was.node),
                key: Arc::clone(&was.entry.key),
                body: None,
                joined: false,
            });
        }
        if let Some((node, key, body)) = now {
            if !stays {
                self.nodes
                    .entry(Arc::clone(&node))
                    .or_default()
                    .edge_nodes
                    .push(Arc::clone(name));
            }
            if !stays || was.is_some_and(|w| w.entry.body != body) {
                out.push(Delta {
                    node: Arc::clone(&node),
                    key: Arc::clone(&key),
                    body: Some(body.clone()),
                    joined: !stays,
                });
            }
            self.edge_nodes.insert(
                Arc::clone(name),
                EdgeNode {
                    entry: Entry { key, body },
                    node,
                },
            );
        }
        out
    }

    fn forget_if_empty(&mut self, node: &Arc<str>) {
        if self
            .nodes
            .get(node)
            .is_some_and(|s| s.devices.is_empty() && s.edge_nodes.is_empty())
        {
            self.nodes.remove(node);
        }
    }

    /// Everything `node` should hold.
    pub(crate) fn set(&self, node: &str) -> Vec<(Arc<str>, Body)> {
        let mut out = Vec::new();
        let mut add = |e: &Entry| out.push((Arc::clone(&e.key), e.body.clone()));
        if let Some(set) = self.nodes.get(node) {
            set.edge_nodes
                .iter()
                .filter_map(|n| self.edge_nodes.get(n))
                .for_each(|e| add(&e.entry));
            set.models.keys().filter_map(|m| self.models.get(m)).for_each(&mut add);
            set.devices
                .iter()
                .filter_map(|d| self.devices.get(d))
                .for_each(|d| add(&d.entry));
        }
        out
    }

    /// The node a device is bound to; `None` when there is no such device, `Some(None)` when it is bound to none.
    pub(crate) fn device_node(&self, namespace: &str, name: &str) -> Option<Option<Arc<str>>> {
        // Two short allocations per lookup; a borrowed pair cannot be looked up in a map of owned pairs.
        self.devices
            .get(&(Arc::from(namespace), Arc::from(name)))
            .map(|d| d.node.clone())
    }

    /// The device's uid and the canonical body of its model, when known.
    pub(crate) fn device_facts(&self, namespace: &str, name: &str) -> Option<(Arc<str>, Option<Body>)> {
        let device = self.devices.get(&(Arc::from(namespace), Arc::from(name)))?;
        let model = device
            .model
            .as_ref()
            .and_then(|m| self.models.get(m))
            .map(|e| e.body.clone());
        Some((Arc::clone(&device.uid), model))
    }

    /// Names of the EdgeNode objects that speak of `node`. The first is the one that counts: that of the same name, or else the first
    /// in order, whenever they came.
    pub(crate) fn edge_nodes_of(&self, node: &str) -> Vec<Arc<str>> {
        let mut names = self.nodes.get(node).map(|s| s.edge_nodes.clone()).unwrap_or_default();
        names.sort_unstable_by(|a, b| (**a != *node, a).cmp(&(**b != *node, b)));
        names
    }

    /// Name and canonical body of the EdgeNode object that counts for `node`.
    pub(crate) fn edge_node_of(&self, node: &str) -> Option<(Arc<str>, Body)> {
        let name = self.edge_nodes_of(node).into_iter().next()?;
        let body = self.edge_nodes.get(&name)?.entry.body.clone();
        Some((name, body))
    }

    /// Whether one of `node`'s devices names this model.
    pub(crate) fn uses_model(&self, node: &str, namespace: &str, name: &str) -> bool {
        self.nodes
            .get(node)
            .is_some_and(|s| s.models.contains_key(&(Arc::from(namespace), Arc::from(name))))
    }

    /// Devices that are known but not in `seen`: gone while nobody was watching.
    pub(crate) fn devices_missing(&self, seen: &HashSet<Name>) -> Vec<Name> {
        self.devices.keys().filter(|n| !seen.contains(*n)).cloned().collect()
    }

    /// The same for models, with their replica keys.
    pub(crate) fn models_missing(&self, seen: &HashSet<Name>) -> Vec<(Name, Arc<str>)> {
        let gone = self.models.iter().filter(|(n, _)| !seen.contains(*n));
        gone.map(|(n, e)| (n.clone(), Arc::clone(&e.key))).collect()
    }

    /// The same for EdgeNodes.
    pub(crate) fn edge_nodes_missing(&self, seen: &HashSet<Arc<str>>) -> Vec<Arc<str>> {
        self.edge_nodes.keys().filter(|n| !seen.contains(*n)).cloned().collect()
    }

    /// (devices, models, EdgeNodes) known.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        (self.devices.len(), self.models.len(), self.edge_nodes.len())
    }
}

#[cfg(test)]
#[path = "desired/tests.rs"]
mod tests;
