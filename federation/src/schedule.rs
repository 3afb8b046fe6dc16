//! Which clusters an object goes to, and how many replicas each gets.
//!
//! Filters (affinity, taints, enabled APIs, what a spread needs), takes clusters (spread constraints) and divides replicas (static
//! weights, room, as few clusters as have room). Decides as Karmada's scheduler does, with its messages; where that leaves the choice to
//! chance, names decide. What was decided before stays where it can: the same question with the answer as its past has the same answer.
//!
//! Also which policy claims an object: [`matches()`] and [`claims`].

mod affinity;
mod claim;
mod divide;
mod select;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use crate::kinds::{ClusterAffinity, Placement, SpreadField, Taint, TargetCluster};
use affinity::{Affinity, shown, untolerated};
use divide::Strategy;

pub use affinity::{matches_cluster, matches_labels};
pub use claim::{Claimant, Precision, claims, matches, precision};
pub use divide::divide_by_weight;

/// Reason of the condition Scheduled where clusters were found.
pub const REASON_SUCCESS: &str = "Success";
/// Its message.
pub const MESSAGE_SUCCESS: &str = "Binding has been scheduled successfully.";

/// What the choice needs to know of a cluster.
#[derive(Clone, Copy)]
pub struct ClusterView<'a> {
    /// Name of the Cluster.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its provider; empty where none is said.
    pub provider: &'a str,
    /// Its region; empty where none is said.
    pub region: &'a str,
    /// Its zones.
    pub zones: &'a [String],
    /// Its taints.
    pub taints: &'a [Taint],
    /// Whether it is ready. That alone keeps nothing away: its taints do, and policies may tolerate them.
    pub ready: bool,
    /// Whether it takes objects of an apiVersion and kind.
    pub enablements: &'a dyn Fn(&str, &str) -> bool,
    /// How many more replicas it has room for; none: not known, and then as many as are wanted.
    pub available: Option<i64>,
    /// Whether it is going away: it gets nothing, and keeps nothing.
    pub being_deleted: bool,
}

impl fmt::Debug for ClusterView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterView")
            .field("name", &self.name)
            .field("labels", &self.labels)
            .field("provider", &self.provider)
            .field("region", &self.region)
            .field("zones", &self.zones)
            .field("taints", &self.taints)
            .field("ready", &self.ready)
            .field("available", &self.available)
            .field("being_deleted", &self.being_deleted)
            .finish_non_exhaustive()
    }
}

/// The question.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What the policy says.
    pub placement: &'a Placement,
    /// What was decided before.
    pub previous: &'a [TargetCluster],
    /// How many replicas the object wants; none: it has no replicas.
    pub wanted: Option<i64>,
    /// `apiVersion` of the object.
    pub api_version: &'a str,
    /// `kind` of the object.
    pub kind: &'a str,
    /// The group of clusters that was decided on before: the groups before it are not tried again.
    pub observed_affinity: Option<&'a str>,
    /// Divides everything anew, because somebody asked for it: what was decided before does not keep its share, and all groups are tried.
    pub fresh: bool,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The clusters, by name, with their shares where the object has replicas.
    pub clusters: Vec<TargetCluster>,
    /// The group that the clusters are of, where the placement has groups.
    pub affinity_name: Option<String>,
}

/// Why there is no decision. The messages are those that Karmada's users know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unschedulable {
    /// No cluster passes the filters; nothing should be left anywhere.
    #[error("0/{total} clusters are available: {}.", counted(reasons))]
    NoClusterFit {
        /// How many clusters there are.
        total: usize,
        /// How many of them were turned away why.
        reasons: BTreeMap<String, usize>,
    },
    /// The clusters that pass have not enough room; what is there stays.
    #[error(
        "failed to assign replicas: failed to {step}: Clusters available replicas {available} are not enough to schedule."
    )]
    NoRoom {
        /// Their room.
        available: i64,
        /// What was tried.
        step: Step,
    },
    /// Nor have those of the overflow groups.
    #[error("failed to assign replicas: Clusters available replicas are not enough to schedule.")]
    NoRoomInOverflow,
    /// The spread constraints cannot be kept; what is there stays.
    #[error("failed to select clusters: {0}")]
    Spread(Spread),
}

impl Unschedulable {
    /// Reason of the condition Scheduled.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoClusterFit { .. } => "NoClusterFit",
            Self::NoRoom { .. } | Self::NoRoomInOverflow => "Unschedulable",
            Self::Spread(_) => "SchedulerError",
        }
    }

    /// Whether what was decided before is to be taken back. Otherwise it stays.
    pub fn clears(&self) -> bool {
        matches!(self, Self::NoClusterFit { .. })
    }
}

/// How replicas were to be divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// More than before, or for the first time.
    Grow,
    /// All anew.
    Anew,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grow => "scale up",
            Self::Anew => "do fresh scale",
        })
    }
}

/// Why spread constraints cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Spread {
    /// Fewer clusters than the fewest.
    #[error("the number of feasible clusters is less than spreadConstraint.MinGroups")]
    FewClusters,
    /// Fewer regions than the fewest.
    #[error("the number of feasible region is less than spreadConstraint.MinGroups")]
    FewRegions,
    /// The regions that may be taken have fewer clusters than the fewest.
    #[error("the number of clusters is less than the cluster spreadConstraint.MinGroups")]
    FewClustersInRegions,
    /// As many clusters as may be taken have not enough room.
    #[error("no enough resource when selecting {0} clusters")]
    NoRoom(usize),
    /// Neither by cluster nor by region.
    #[error("just support cluster and region spread constraint")]
    Unsupported,
}

/// Decides. See [`decide`], which takes more of the past into account.
///
/// # Errors
/// No cluster passes, or those that pass cannot have it.
pub fn schedule(
    placement: &Placement,
    previous: &[TargetCluster],
    wanted: Option<i64>,
    api_version: &str,
    kind: &str,
    clusters: &[ClusterView<'_>],
) -> Result<Decision, Unschedulable> {
    let request = Request {
        placement,
        previous,
        wanted,
        api_version,
        kind,
        observed_affinity: None,
        fresh: false,
    };
    decide(&request, clusters)
}

/// Decides. Of several groups of clusters the first that can have it is taken; if none can, the first one's reason is given.
///
/// # Errors
/// No cluster passes, or those that pass cannot have it.
pub fn decide(request: &Request<'_>, clusters: &[ClusterView<'_>]) -> Result<Decision, Unschedulable> {
    let mut clusters: Vec<&ClusterView<'_>> = clusters.iter().collect();
    clusters.sort_by_key(|cluster| cluster.name);
    clusters.dedup_by_key(|cluster| cluster.name);
    let placement = request.placement;
    let groups = &placement.cluster_affinities;
    if placement.cluster_affinity.is_some() || groups.is_empty() {
        let only: Vec<_> = placement.cluster_affinity.iter().collect();
        return Ok(Decision {
            clusters: within(request, &only, &clusters)?,
            affinity_name: None,
        });
    }
    let observed = request.observed_affinity.filter(|_| !request.fresh);
    let first = observed
        .and_then(|name| groups.iter().position(|group| group.affinity_name == name))
        .unwrap_or(0);
    let mut reason = None;
    for group in groups.iter().skip(first) {
        let mut tiers = vec![&group.affinity];
        // Overflow is for want of room: only replicas take room, and only some strategies look at it.
        if request.wanted.is_some() && Strategy::of(placement).looks_at_room() {
            tiers.extend(group.overflow_affinities.iter().map(|overflow| &overflow.affinity));
        }
        match within(request, &tiers, &clusters) {
            Ok(clusters) => {
                return Ok(Decision {
                    clusters,
                    affinity_name: Some(group.affinity_name.clone()),
                });
            }
            Err(e) => reason = reason.or(Some(e)),
        }
    }
    Err(reason.unwrap_or(Unschedulable::NoClusterFit {
        total: clusters.len(),
        reasons: BTreeMap::new(),
    }))
}

/// A cluster that passed the filters.
#[derive(Clone, Copy, Debug)]
struct Candidate<'a> {
    view: &'a ClusterView<'a>,
    /// Its share before; none where it had nothing.
    previous: Option<i64>,
    /// Which of the affinities it passed: 0, or that of an overflow.
    tier: usize,
    /// How many more replicas it has room for.
    allocatable: i64,
}

impl Candidate<'_> {
    fn assigned(&self) -> i64 {
        self.previous.unwrap_or(0)
    }

    /// Its room, were it empty.
    fn room(&self) -> i64 {
        self.allocatable.saturating_add(self.assigned())
    }

    fn score(&self) -> i64 {
        if self.previous.is_some() { 100 } else { 0 }
    }

    /// Which of two is taken first: no overflow before overflow, what was chosen before, more room, then the name.
    fn preference(a: &Self, b: &Self) -> std::cmp::Ordering {
        a.tier
            .cmp(&b.tier)
            .then(b.score().cmp(&a.score()))
            .then(b.room().cmp(&a.room()))
            .then(a.view.name.cmp(b.view.name))
    }
}

/// Decides among the clusters that one of the affinities holds for; without any affinity, among all.
fn within(
    request: &Request<'_>,
    tiers: &[&ClusterAffinity],
    clusters: &[&ClusterView<'_>],
) -> Result<Vec<TargetCluster>, Unschedulable> {
    let wanted = request.wanted.map(|wanted| wanted.max(0));
    let mut previous: BTreeMap<&str, i64> = BTreeMap::new();
    for target in request.previous {
        let share = target.replicas.unwrap_or(0).max(0);
        previous.entry(&target.name).or_insert(share);
    }
    let tiers: Vec<Affinity<'_>> = tiers.iter().map(|affinity| Affinity::new(affinity)).collect();
    let mut candidates = Vec::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for view in clusters.iter().filter(|cluster| !cluster.being_deleted) {
        let previous = previous.get(view.name).copied();
        match passes(request, &tiers, view, previous.is_some()) {
            Ok(tier) => candidates.push(Candidate {
                view,
                previous,
                tier,
                allocatable: match wanted {
                    Some(wanted) if wanted > 0 => view.available.unwrap_or(wanted).max(0),
                    // What has no replicas takes no room.
                    _ => i64::from(i32::MAX),
                },
            }),
            Err(reason) => *reasons.entry(reason).or_default() += 1,
        }
    }
    if candidates.is_empty() {
        return Err(Unschedulable::NoClusterFit {
            total: clusters.len(),
            reasons,
        });
    }
    candidates.sort_by(Candidate::preference);
    let strategy = Strategy::of(request.placement);
    let chosen = select::select(request.placement, strategy, candidates, wanted)?;
    // An application that is scaled to nothing stays where it could be, with nothing: so it comes back to where it was.
    let shares: BTreeMap<&str, Option<i64>> = match wanted {
        Some(wanted) if wanted > 0 => divide::assign(request, strategy, &chosen, wanted)?
            .into_iter()
            .filter(|(_, share)| *share > 0)
            .map(|(name, share)| (name, Some(share)))
            .collect(),
        wanted => chosen.iter().map(|candidate| (candidate.view.name, wanted)).collect(),
    };
    let target = |(name, replicas): (&str, Option<i64>)| TargetCluster {
        name: name.to_owned(),
        replicas,
        ..TargetCluster::default()
    };
    Ok(shares.into_iter().map(target).collect())
}

/// The place of the first affinity that holds for a cluster which may have the object, or why it may not.
fn passes(
    request: &Request<'_>,
    tiers: &[Affinity<'_>],
    cluster: &ClusterView<'_>,
    had_it: bool,
) -> Result<usize, String> {
    let tier = match tiers.iter().position(|affinity| affinity.matches(cluster)) {
        Some(tier) => tier,
        None if tiers.is_empty() => 0,
        None => return Err("cluster(s) did not match the placement cluster affinity constraint".to_owned()),
    };
    // What is there already is not driven out by a taint or by an API that is not there for the moment.
    if !had_it {
        if let Some(taint) = untolerated(cluster.taints, &request.placement.cluster_tolerations) {
            return Err(format!("cluster(s) had untolerated taint {{{}}}", shown(taint)));
        }
        if !(cluster.enablements)(request.api_version, request.kind) {
            return Err("cluster(s) did not have the API resource".to_owned());
        }
    }
    for constraint in &request.placement.spread_constraints {
        let lacks = match constraint.spread_by_field {
            Some(SpreadField::Provider) if cluster.provider.is_empty() => "provider",
            Some(SpreadField::Region) if cluster.region.is_empty() => "region",
            Some(SpreadField::Zone) if cluster.zones.is_empty() => "zones",
            _ => continue,
        };
        return Err(format!("cluster(s) did not have {lacks} property"));
    }
    Ok(tier)
}

/// Each reason with its number, in the order of that text.
fn counted(reasons: &BTreeMap<String, usize>) -> String {
    if reasons.is_empty() {
        return "no cluster exists".to_owned();
    }
    let mut parts: Vec<String> = reasons
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    parts.sort();
    parts.join(", ")
}
