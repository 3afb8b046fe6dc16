//! A site: gateways that stand behind one Cluster. What each of them gets of a Work, and what their words add up to.
//!
//! Nothing is remembered between two calls: who gets what follows from the Work and from what the members are, so that every replica of a
//! hub, and the one that comes after it, finds the same. The hub calls it whenever one of these changes.
//!
//! | object | who gets it |
//! |---|---|
//! | Deployment, ReplicaSet | the members that its pods may run on, each a share of its replicas |
//! | Job | the same, of its parallelism; the completions follow |
//! | StatefulSet, Job with indexes, CronJob, Pod | one member: ordinals, indexes and names must not clash |
//! | Device, Pod with a node named | that member |
//! | anything else | every member |

mod cluster;
mod fit;
mod merge;
mod share;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

pub use cluster::{common_enablements, lowest_version};
pub use merge::{Holder, merge};

use crate::interpret::kind::Kind;
use crate::interpret::look::{list, map, text};
use crate::interpret::{Replicas, Resources, add_resources, replicas, set_replicas};

/// On the pods of a workload, as an annotation or a label with the value `true`: it stays with a member that is away, however long.
pub const PINNED: &str = "kurator.dev/pinned";
/// The label that every node has of its own.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// A member as far as it decides what it gets.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// Labels of its node.
    pub labels: &'a BTreeMap<String, String>,
    /// `[{key, value?, effect}]`
    pub taints: &'a [Value],
    /// What its pods may take in all; empty while that is not known.
    pub allocatable: &'a Resources,
    /// It is away so long that what can move is to run elsewhere.
    pub lapsed: bool,
}

/// Who gets an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// Every member.
    Everywhere,
    /// The member of this name.
    Only(String),
    /// The members that it is divided among.
    Divided(Box<Division>),
}

/// How an object is divided.
#[derive(Clone, Debug, PartialEq)]
pub struct Division {
    /// Which object it is.
    id: String,
    wanted: Replicas,
    /// What one pod asks for, counted.
    requests: Resources,
    /// It goes to one member as a whole.
    whole: bool,
    /// Of a Job.
    completions: Option<i64>,
    /// Members get the same, whatever they have.
    even: bool,
    /// At most one pod for each member.
    apart: bool,
    pinned: bool,
}

/// What a member gets of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Share {
    /// All of it, as it is.
    All,
    /// So many pods; of a Job with completions also so many of these.
    Pods(i64, Option<i64>),
}

/// What each member gets of a Work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// Of each member that gets anything, its share of each object; nothing where it gets none.
    pub members: BTreeMap<String, Vec<Option<Share>>>,
    /// Objects that no member can take.
    pub unplaced: BTreeSet<usize>,
}

impl Piece {
    /// Reads an object.
    pub fn of(manifest: &Value) -> Self {
        let node = text(manifest, "/spec/nodeName");
        let device =
            text(manifest, "/kind") == "Device" && text(manifest, "/apiVersion").starts_with("devices.kubeedge.io/");
        let kind = Kind::of(manifest);
        if !node.is_empty() && (device || kind == Some(Kind::Pod)) {
            return Self::Only(node.to_owned());
        }
        kind.and_then(|kind| Division::of(kind, manifest))
            .map_or(Self::Everywhere, |division| Self::Divided(Box::new(division)))
    }

    /// Whether who gets it depends on more than who is a member.
    pub fn is_chosen(&self) -> bool {
        *self != Self::Everywhere
    }
}

impl Division {
    fn of(kind: Kind, manifest: &Value) -> Option<Self> {
        let none = Value::Null;
        let pod = kind.pod_spec(manifest).unwrap_or(&none);
        let wanted = match kind {
            // What it starts runs once, as it would in a cluster.
            Kind::CronJob => replicas(&serde_json::json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": text(manifest, "/metadata/namespace")}, "spec": pod,
            }))?,
            _ => replicas(manifest)?,
        };
        let indexed = text(manifest, "/spec/completionMode") == "Indexed";
        let mut requests = Resources::new();
        let asked: Map<String, Value> = wanted
            .requests
            .iter()
            .map(|(name, quantity)| (name.clone(), quantity.as_str().into()))
            .collect();
        add_resources(&mut requests, &asked);
        let completions = manifest.pointer("/spec/completions").and_then(Value::as_i64);
        let meta = match kind {
            Kind::Pod => "/metadata",
            Kind::CronJob => "/spec/jobTemplate/spec/template/metadata",
            _ => "/spec/template/metadata",
        };
        let pinned = |place: &str| {
            let all = map(manifest, &format!("{meta}/{place}"));
            all.and_then(|all| all.get(PINNED)?.as_str()) == Some("true")
        };
        let by_node = |rule: &&Value| text(rule, "/topologyKey") == HOSTNAME;
        let spread = list(pod, "/topologySpreadConstraints").iter().filter(by_node);
        let apart = "/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution";
        Some(Self {
            id: format!(
                "{}/{}/{}",
                text(manifest, "/kind"),
                text(manifest, "/metadata/namespace"),
                text(manifest, "/metadata/name")
            ),
            whole: matches!(kind, Kind::StatefulSet | Kind::Pod | Kind::CronJob) || (kind == Kind::Job && indexed),
            completions: completions
                .filter(|_| kind == Kind::Job)
                .map(|count| count.clamp(0, i32::MAX.into())),
            even: spread
                .clone()
                .any(|rule| text(rule, "/whenUnsatisfiable") != "ScheduleAnyway"),
            apart: list(pod, apart).iter().any(|rule| by_node(&rule)),
            pinned: pinned("annotations") || pinned("labels"),
            wanted,
            requests,
        })
    }

    /// The shares of the members, by name. They add up to what is wanted, unless no member can take any.
    fn shares<'a>(&self, key: &str, members: &[Member<'a>]) -> BTreeMap<&'a str, Share> {
        let may = |member: &&Member<'_>| (self.pinned || !member.lapsed) && fit::may_run(&self.wanted, member);
        let eligible: Vec<&Member<'a>> = members.iter().filter(may).collect();
        let key = format!("{key}/{}", self.id);
        let fits = fit::fits(&self.requests, &eligible);
        let mut bids: Vec<share::Bid<'a>> = eligible
            .iter()
            .zip(&fits)
            .map(|(member, fit)| share::Bid {
                name: member.name,
                weight: if self.even || self.apart { 1 } else { fit.weight },
                most: if self.apart { fit.most.min(1) } else { fit.most },
            })
            .collect();
        // A workload of no replicas is there all the same.
        if self.whole || self.wanted.count == 0 {
            let room = |bid: &share::Bid<'_>| bid.most >= self.wanted.count;
            if bids.iter().any(room) {
                bids.retain(room);
            }
            let one = bids.iter().max_by_key(|bid| (share::score(&key, bid.name), bid.name));
            return one.map(|bid| (bid.name, Share::All)).into_iter().collect();
        }
        let pods = share::apportion(&key, self.wanted.count, &bids);
        let completions = self.completions.map(|completions| {
            let bids: Vec<share::Bid<'a>> = pods
                .iter()
                .map(|(name, count)| share::Bid {
                    name,
                    weight: *count,
                    most: i64::MAX,
                })
                .collect();
            share::apportion(&key, completions, &bids)
        });
        let share = |(name, count): (&'a str, i64)| {
            let completions = completions.as_ref().map(|all| all.get(name).copied().unwrap_or(0));
            (name, Share::Pods(count, completions))
        };
        pods.into_iter().map(share).collect()
    }
}

/// What each member gets of the Work that is known by this key. The order of the members is of no concern.
pub fn spread(key: &str, pieces: &[Piece], members: &[Member<'_>]) -> Spread {
    let mut spread = Spread::default();
    let mut give = |member: &str, at: usize, share: Share| {
        let all = spread
            .members
            .entry(member.to_owned())
            .or_insert_with(|| vec![None; pieces.len()]);
        all[at] = Some(share);
    };
    for (at, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Everywhere => members.iter().for_each(|member| give(member.name, at, Share::All)),
            Piece::Only(node) => {
                if members.iter().any(|member| member.name == node) {
                    give(node, at, Share::All);
                } else {
                    spread.unplaced.insert(at);
                }
            }
            Piece::Divided(division) => {
                let shares = division.shares(key, members);
                if shares.is_empty() {
                    spread.unplaced.insert(at);
                }
                shares.into_iter().for_each(|(name, share)| give(name, at, share));
            }
        }
    }
    spread
}

/// The object as a member gets it.
pub fn put_share(manifest: &mut Value, share: Share) {
    let Share::Pods(count, completions) = share else {
        return;
    };
    set_replicas(manifest, count);
    if let Some(completions) = completions
        && let Some(spec) = manifest.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.insert("completions".to_owned(), completions.into());
    }
}
