//! DaemonSet: one pod on every node that fits, which is the gateway's own or none.
//!
//! A look makes and takes away what is missing and too much; when nothing is, it replaces pods of an older template. `place` says which nodes
//! fit. Keeps in memory how often pods failed of late, so that one that fails at once is not made again at once.

mod place;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metastore::api::Status;
use serde_json::{Value, json};

use super::revisions::{self, Revisions};
use super::shared::{
    annotation, claim, counts, create_pod, delete_pods, is_available, is_finished, is_ready, is_terminating, millis,
    name, next_available, number, owners_concerned, pod_of, share, text, uid, write_status,
};
use super::{Change, Controller, Reconciled};
use crate::cluster::{Cluster, DAEMON_SETS, Key, Kind, NODES, PODS};
use crate::events::{Recorder, Tone};
use place::{Fit, fit, target};

/// Label of pods and revisions: the word of the template.
const HASH: &str = "controller-revision-hash";
/// What says how often the template changed, before there were revisions; some still ask for it.
const GENERATION: (&str, &str) = ("deprecated.daemonset.template.generation", "pod-template-generation");
/// First and longest wait before a pod that failed is made again.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15 * 60));

/// The controller of DaemonSets.
pub(crate) fn daemon_set(cluster: Cluster, events: Recorder) -> Arc<dyn Controller> {
    Arc::new(DaemonSets {
        cluster,
        events,
        failures: Mutex::default(),
    })
}

#[derive(Debug)]
struct DaemonSets {
    cluster: Cluster,
    events: Recorder,
    /// When a pod failed last, and how long its successor waits then; by uid of the set and name of the node. Old ones go.
    failures: Mutex<BTreeMap<(String, String), (Instant, Duration)>>,
}

impl Controller for DaemonSets {
    fn name(&self) -> &'static str {
        "daemonset-controller"
    }

    fn kind(&self) -> Kind {
        DAEMON_SETS
    }

    fn follows(&self) -> &'static [Kind] {
        &[PODS, NODES]
    }

    fn concerned(&self, change: &Change, cluster: &Cluster) -> Vec<Key> {
        if change.kind == PODS {
            return owners_concerned(change, cluster, DAEMON_SETS);
        }
        // Of a node, its labels and taints matter; it says much else every few seconds.
        let told = |node: &Option<Value>| {
            let node = node.as_ref()?;
            Some((node["metadata"]["labels"].clone(), node["spec"]["taints"].clone()))
        };
        if told(&change.before) == told(&change.after) {
            return Vec::new();
        }
        let sets = cluster.list(DAEMON_SETS, None).unwrap_or_default();
        sets.iter().map(Key::of).collect()
    }

    fn reconcile<'a>(&'a self, key: &'a Key) -> Pin<Box<dyn Future<Output = Reconciled> + Send + 'a>> {
        Box::pin(self.look(key))
    }
}

impl DaemonSets {
    async fn look(&self, key: &Key) -> Reconciled {
        let Some(set) = self.cluster.get(DAEMON_SETS, key)?.filter(|set| !is_terminating(set)) else {
            return Ok(None);
        };
        let nodes = self.cluster.list(NODES, None)?;
        let pods = self.cluster.list(PODS, Some(&key.namespace))?;
        let pods = claim(&self.cluster, PODS, &set, pods, |_| true).await?;
        let collisions = set["status"]["collisionCount"].as_i64();
        let revisions = revisions::sync(&self.cluster, &set, HASH, collisions).await?;
        let mut round = Round {
            of: self,
            hash: text(revisions.newest(), "/metadata/labels/controller-revision-hash").to_owned(),
            min_ready: number(&set, "/spec/minReadySeconds"),
            set,
            nodes: Vec::new(),
            again: None,
            now: daemon::clock::wall_ms(),
        };
        round.place(nodes, pods);
        let went = round.go().await;
        let status = round.status(revisions.collisions);
        write_status(&self.cluster, DAEMON_SETS, &round.set, status).await?;
        went?;
        round.forget(&revisions).await?;
        let pods = round.nodes.iter().flat_map(|node| &node.pods);
        let available = next_available(pods, round.min_ready, round.now);
        Ok(available.into_iter().chain(round.again).min())
    }

    /// How long a pod that failed is left as it is, or that it is to go now, which is noted.
    fn back_off(&self, set: &Value, node: &str) -> Option<Duration> {
        let now = daemon::clock::now();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, (at, _)| now.saturating_duration_since(*at) < BACK_OFF.1 * 2);
        let key = (uid(set).to_owned(), node.to_owned());
        let wait = match failures.get(&key) {
            None => BACK_OFF.0,
            Some((at, wait)) => {
                let since = now.saturating_duration_since(*at);
                if since < *wait {
                    return Some(*wait - since);
                }
                (*wait * 2).min(BACK_OFF.1)
            }
        };
        failures.insert(key, (now, wait));
        None
    }
}

/// A node and the set's pods on it.
struct Node {
    name: String,
    /// Whether the node is there, and what it thinks of the pods.
    fit: Option<Fit>,
    /// The first one is the one that counts.
    pods: Vec<Value>,
}

impl Node {
    fn wants(&self) -> bool {
        self.fit.is_some_and(|fit| fit.runs)
    }
}

/// A DaemonSet and its pods during one look.
struct Round<'a> {
    of: &'a DaemonSets,
    set: Value,
    /// The word of the newest template.
    hash: String,
    min_ready: i64,
    nodes: Vec<Node>,
    /// When to look again for a pod that failed.
    again: Option<Duration>,
    /// Milliseconds since 1970.
    now: u64,
}

/// What is to be done: pods to be made on nodes, by place, and pods to be taken away.
#[derive(Default)]
struct Work {
    make: Vec<usize>,
    remove: Vec<Value>,
}

impl Round<'_> {
    /// Sorts the pods onto nodes.
    fn place(&mut self, nodes: Vec<Value>, pods: Vec<Value>) {
        for node in nodes {
            self.nodes.push(Node {
                fit: Some(fit(&self.set, &node)),
                name: name(&node).to_owned(),
                pods: Vec::new(),
            });
        }
        for pod in pods {
            if is_finished(&pod) && is_terminating(&pod) {
                continue;
            }
            let Some(target) = target(&pod).map(str::to_owned) else {
                continue;
            };
            match self.nodes.iter_mut().find(|node| node.name == target) {
                Some(node) => node.pods.push(pod),
                None => self.nodes.push(Node {
                    name: target,
                    fit: None,
                    pods: vec![pod],
                }),
            }
        }
        for node in &mut self.nodes {
            node.pods.sort_by_cached_key(|pod| {
                let created = millis(&pod["metadata"]["creationTimestamp"]);
                (text(pod, "/spec/nodeName").is_empty(), created, name(pod).to_owned())
            });
        }
    }

    async fn go(&mut self) -> Result<(), Status> {
        let mut work = Work::default();
        for at in 0..self.nodes.len() {
            self.keep(at, &mut work);
        }
        if work.make.is_empty() && work.remove.is_empty() && text(&self.set, "/spec/updateStrategy/type") != "OnDelete"
        {
            work = if self.bounds().0 == 0 {
                self.replace()
            } else {
                self.surge()
            };
        }
        self.apply(work).await
    }

    /// What is missing and what is too much on a node.
    fn keep(&mut self, at: usize, work: &mut Work) {
        let node = &self.nodes[at];
        let Some(fit) = node.fit else {
            // The node is gone: what was never on it has nowhere to go. What was is for others to collect.
            let lost = node
                .pods
                .iter()
                .filter(|pod| text(pod, "/spec/nodeName").is_empty() && !is_terminating(pod));
            work.remove.extend(lost.cloned());
            return;
        };
        if !fit.stays {
            work.remove
                .extend(node.pods.iter().filter(|pod| !is_terminating(pod)).cloned());
            return;
        }
        if fit.runs && node.pods.is_empty() {
            work.make.push(at);
            return;
        }
        let mut running = Vec::new();
        for pod in node.pods.iter().filter(|pod| !is_terminating(pod)) {
            let place = format!(
                "{}/{} on node {}",
                text(pod, "/metadata/namespace"),
                name(pod),
                node.name
            );
            let events = &self.of.events;
            match text(pod, "/status/phase") {
                "Failed" => match self.of.back_off(&self.set, &node.name) {
                    Some(wait) => self.again = self.again.into_iter().chain([wait]).min(),
                    None => {
                        let message = format!("Found failed daemon pod {place}, will try to kill it");
                        events.tell(&self.set, Tone::Warning, "FailedDaemonPod", message);
                        work.remove.push(pod.clone());
                    }
                },
                "Succeeded" => {
                    let message = format!("Found succeeded daemon pod {place}, will try to delete it");
                    events.tell(&self.set, Tone::Normal, "SucceededDaemonPod", message);
                    work.remove.push(pod.clone());
                }
                _ => running.push(pod),
            }
        }
        if self.bounds_of(1).0 == 0 {
            work.remove.extend(running.into_iter().skip(1).cloned());
            return;
        }
        if running.is_empty() && fit.runs {
            work.make.push(at);
            return;
        }
        // Two may stand beside each other: one of the newest template and one of an older.
        let (new, old): (Vec<&Value>, Vec<&Value>) = running.into_iter().partition(|pod| self.is_new(pod));
        let more = new.iter().skip(1).chain(old.iter().skip(1));
        work.remove.extend(more.map(|pod| (*pod).clone()));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!is_ready(old) || self.is_available(new))
        {
            work.remove.push((*old).clone());
        }
    }

    /// Which pods of an older template make room for their successors: those that do not work anyhow, and as many others as may be missing.
    fn replace(&self) -> Work {
        let mut missing = 0;
        let (mut ill, mut well) = (Vec::new(), Vec::new());
        for node in self.nodes.iter().filter(|node| node.wants() || !node.pods.is_empty()) {
            match self.pair(node) {
                (Some(new), None) => missing += i64::from(!self.is_available(new)),
                (None, Some(old)) if self.is_available(old) => well.push(old.clone()),
                (None, Some(old)) => {
                    missing += 1;
                    ill.push(old.clone());
                }
                _ => missing += 1,
            }
        }
        let spare = usize::try_from(self.bounds().1 - missing).unwrap_or(0);
        well.truncate(spare);
        ill.extend(well);
        Work {
            make: Vec::new(),
            remove: ill,
        }
    }

    /// On which nodes successors come up beside pods of an older template, and which of those have done their part.
    fn surge(&self) -> Work {
        let mut work = Work::default();
        let (mut surging, mut candidates) = (0, Vec::new());
        for (at, node) in self.nodes.iter().enumerate() {
            match self.pair(node) {
                (Some(new), Some(old)) if self.is_available(new) => work.remove.push(old.clone()),
                (Some(_), Some(_)) => surging += 1,
                (None, Some(old)) if !node.wants() => work.remove.push(old.clone()),
                (None, Some(old)) if self.is_available(old) => candidates.push(at),
                (None, Some(_)) => work.make.push(at),
                _ => {}
            }
        }
        let spare = usize::try_from(self.bounds().0 - surging).unwrap_or(0);
        work.make.extend(candidates.into_iter().take(spare));
        work
    }

    /// The pod of the newest template on a node, and that of an older one.
    fn pair<'n>(&self, node: &'n Node) -> (Option<&'n Value>, Option<&'n Value>) {
        let there = || node.pods.iter().filter(|pod| !is_terminating(pod));
        (
            there().find(|pod| self.is_new(pod)),
            there().find(|pod| !self.is_new(pod)),
        )
    }

    async fn apply(&mut self, work: Work) -> Result<(), Status> {
        let (cluster, events) = (&self.of.cluster, &self.of.events);
        for at in work.make {
            let pod = self.new_pod(&self.nodes[at].name);
            let made = create_pod(cluster, events, &self.set, pod).await?;
            self.nodes[at].pods.push(made);
        }
        delete_pods(cluster, events, &self.set, &work.remove).await?;
        for removed in work.remove {
            for pod in self.nodes.iter_mut().flat_map(|node| &mut node.pods) {
                if uid(pod) == uid(&removed) {
                    pod["metadata"]["deletionTimestamp"] = crate::time::stamp(self.now).into();
                }
            }
        }
        Ok(())
    }

    /// The pod to be made on a node.
    fn new_pod(&self, node: &str) -> Value {
        let mut pod = pod_of(&self.set, &self.set["spec"]["template"]);
        pod["metadata"]["generateName"] = format!("{}-", name(&self.set)).into();
        if let Some(generation) = annotation(&self.set, GENERATION.0) {
            pod["metadata"]["labels"][GENERATION.1] = generation.into();
        }
        pod["metadata"]["labels"][HASH] = self.hash.as_str().into();
        place::tolerate(&mut pod);
        place::pin(&mut pod, node);
        pod
    }

    fn is_new(&self, pod: &Value) -> bool {
        let labels = &pod["metadata"]["labels"];
        let generation = annotation(&self.set, GENERATION.0);
        labels[HASH] == *self.hash || generation.is_some_and(|generation| labels[GENERATION.1] == generation)
    }

    fn is_available(&self, pod: &Value) -> bool {
        is_available(pod, self.min_ready, self.now)
    }

    /// How many pods may stand beside others, and how many may be missing.
    fn bounds(&self) -> (i64, i64) {
        let wanted = self.nodes.iter().filter(|node| node.wants()).count();
        let (surge, missing) = self.bounds_of(i64::try_from(wanted).unwrap_or(0));
        // With neither it would never move.
        (surge, if surge == 0 && missing == 0 { 1 } else { missing })
    }

    fn bounds_of(&self, nodes: i64) -> (i64, i64) {
        let rolling = &self.set["spec"]["updateStrategy"]["rollingUpdate"];
        (
            share(&rolling["maxSurge"], nodes, true),
            share(&rolling["maxUnavailable"], nodes, true),
        )
    }

    fn status(&self, collisions: Option<i64>) -> Value {
        let mut status = json!({});
        if let Some(conditions) = self.set["status"].get("conditions") {
            status["conditions"] = conditions.clone();
        }
        if let Some(collisions) = collisions {
            status["collisionCount"] = collisions.into();
        }
        let count =
            |counts: &dyn Fn(&&Node) -> bool| i64::try_from(self.nodes.iter().filter(counts).count()).unwrap_or(0);
        let of = |counts: &dyn Fn(&Value) -> bool| count(&|node| node.wants() && node.pods.first().is_some_and(counts));
        let desired = count(&|node| node.wants());
        let available = of(&|pod| self.is_available(pod));
        status["desiredNumberScheduled"] = desired.into();
        status["currentNumberScheduled"] = of(&|_| true).into();
        status["numberMisscheduled"] =
            count(&|node| node.fit.is_some() && !node.wants() && !node.pods.is_empty()).into();
        status["numberReady"] = of(&is_ready).into();
        for (field, count) in counts(&[
            ("observedGeneration", number(&self.set, "/metadata/generation")),
            ("updatedNumberScheduled", of(&|pod| self.is_new(pod))),
            ("numberAvailable", available),
            ("numberUnavailable", desired - available),
        ]) {
            status[field] = count;
        }
        status
    }

    /// Deletes the oldest revisions beyond those that are to be kept, but for those that a pod has.
    async fn forget(&self, revisions: &Revisions) -> Result<(), Status> {
        let limit = usize::try_from(number(&self.set, "/spec/revisionHistoryLimit")).unwrap_or(0);
        let too_many = (revisions.all.len() - 1).saturating_sub(limit);
        let pods = || self.nodes.iter().flat_map(|node| &node.pods);
        let word = |object: &Value| text(object, "/metadata/labels/controller-revision-hash").to_owned();
        let unneeded = revisions.all.iter().filter(|revision| {
            name(revision) != name(revisions.newest()) && !pods().any(|pod| word(pod) == word(revision))
        });
        revisions::forget(&self.of.cluster, unneeded, too_many).await
    }
}

#[cfg(test)]
mod tests;
