//! The scheduler: which clusters a binding goes to, decided anew when its placement, its replicas, or a cluster it may go to is another.
//!
//! What was decided stays where it can: replicas are not moved because a cluster joined, unless the policy names its share of them, nor taken
//! away because a gateway is offline.

use std::collections::BTreeMap;
use std::sync::Arc;

use federation::kinds::{Placement, ReplicaSchedulingType, TargetCluster};
use federation::schedule::{Decision, MESSAGE_SUCCESS, REASON_SUCCESS, Request, Unschedulable, decide};
use serde_json::{Map, Value};

use super::follow::{Shared, is_meant};
use super::hand::{Hand, Key, is_leaving, list, member, note, now, put, set, set_condition, text};
use super::picture::{Cluster, quantities};
use super::queue::Desk;
use super::{Controller, Looked};

/// Annotation of a binding: the placement by which its clusters were chosen.
const APPLIED_PLACEMENT: &str = "policy.karmada.io/applied-placement";

pub(super) struct Scheduler {
    shared: Arc<Shared>,
    hand: Hand,
}

impl Scheduler {
    pub(super) const fn new(shared: Arc<Shared>, hand: Hand) -> Self {
        Self { shared, hand }
    }
}

/// What a binding asks.
struct Asked {
    placement: Placement,
    previous: Vec<TargetCluster>,
    wanted: Option<i64>,
    requests: BTreeMap<String, i128>,
    /// The placement as it is noted when it was applied.
    noted: String,
    /// Somebody asked for a fresh start.
    fresh: bool,
}

impl Asked {
    fn of(binding: &Value) -> Option<Self> {
        let spec = binding.get("spec")?;
        let placement: Placement = serde_json::from_value(spec.get("placement")?.clone()).ok()?;
        if spec.pointer("/suspension/scheduling") == Some(&Value::Bool(true)) {
            return None;
        }
        if !matches!(text(spec, "/schedulerName"), "" | "default-scheduler") {
            return None;
        }
        let clusters = list(spec, "/clusters").iter();
        let triggered = text(spec, "/rescheduleTriggeredAt");
        Some(Self {
            noted: serde_json::to_string(&placement).unwrap_or_default(),
            placement,
            previous: clusters
                .filter_map(|c| serde_json::from_value(c.clone()).ok())
                .collect(),
            wanted: spec.get("replicas").and_then(Value::as_i64),
            requests: quantities(spec.pointer("/replicaRequirements/resourceRequest")),
            // Both are written in the same form, in which later is greater.
            fresh: triggered > text(binding, "/status/lastScheduledTime"),
        })
    }

    fn is_divided(&self) -> bool {
        let scheduling = self.placement.replica_scheduling.as_ref();
        let ty = scheduling.and_then(|s| s.replica_scheduling_type);
        matches!(
            ty,
            Some(ReplicaSchedulingType::Divided | ReplicaSchedulingType::Weighted)
        )
    }

    /// Whether the policy names the share of each cluster: one that joins gets its own.
    fn names_shares(&self) -> bool {
        let scheduling = self.placement.replica_scheduling.as_ref();
        let preference = scheduling.and_then(|s| s.weight_preference.as_ref());
        preference.is_some_and(|p| p.dynamic_weight.is_none() && !p.static_weight_list.is_empty())
    }

    /// Whether the clusters are to be chosen again.
    fn is_due(&self, binding: &Value, clusters: &BTreeMap<Arc<str>, Arc<Cluster>>) -> bool {
        let conditions = list(binding, "/status/conditions");
        let done = conditions
            .iter()
            .any(|c| c["type"] == "Scheduled" && c["status"] == "True");
        if !done || self.fresh || note(binding, APPLIED_PLACEMENT) != self.noted {
            return true;
        }
        let wanted = self.wanted.unwrap_or(0);
        // Another cluster may have joined those that have all of it.
        if !self.is_divided() || self.names_shares() || wanted == 0 {
            return true;
        }
        let shares = self.previous.iter().map(|c| c.replicas.unwrap_or(0));
        let nothing = |_: &str, _: &str| true;
        let is_lost = |target: &TargetCluster| {
            let cluster = clusters.get(target.name.as_str()).filter(|c| !c.leaving);
            cluster.is_none_or(|c| !is_meant(&self.placement, &c.view(&nothing, None)))
        };
        shares.fold(0, i64::saturating_add) != wanted || self.previous.iter().any(is_lost)
    }

    fn decide(&self, binding: &Value, clusters: &[Arc<Cluster>]) -> Result<Decision, Unschedulable> {
        let resource = |field: &str| text(binding, &format!("/spec/resource/{field}")).to_owned();
        let takes: Vec<_> = clusters
            .iter()
            .map(|cluster| move |api_version: &str, kind: &str| cluster.takes(api_version, kind))
            .collect();
        let views: Vec<_> = clusters
            .iter()
            .zip(&takes)
            .map(|(cluster, takes)| cluster.view(takes, self.room_in(cluster)))
            .collect();
        let observed = text(binding, "/status/schedulerObservingAffinityName");
        let request = Request {
            placement: &self.placement,
            previous: &self.previous,
            wanted: self.wanted,
            api_version: &resource("apiVersion"),
            kind: &resource("kind"),
            observed_affinity: (!observed.is_empty()).then_some(observed),
            fresh: self.fresh,
        };
        decide(&request, &views)
    }

    fn room_in(&self, cluster: &Cluster) -> Option<i64> {
        self.wanted.and_then(|_| cluster.available(&self.requests))
    }
}

impl Controller for Scheduler {
    type Key = Key;
    const NAME: &'static str = "scheduler";
    const RESTS: u32 = 1;

    fn desk(&self) -> &Desk<Key> {
        &self.shared.desks.scheduler
    }

    async fn look(&self, key: &Key) -> Looked {
        let id = key.binding().id(key);
        let Some(mut binding) = self.hand.get(&id)?.filter(|b| !is_leaving(b)) else {
            return Ok(None);
        };
        let Some(asked) = Asked::of(&binding) else {
            return Ok(None);
        };
        let clusters: Option<Vec<Arc<Cluster>>> = {
            let picture = self.shared.picture();
            let due = asked.is_due(&binding, &picture.clusters);
            due.then(|| picture.clusters.values().cloned().collect())
        };
        let decided = if let Some(clusters) = clusters {
            let decided = asked.decide(&binding, &clusters);
            let targets = match &decided {
                Ok(decision) => Some(decision.clusters.as_slice()),
                Err(e) if e.clears() => Some(&[][..]),
                Err(_) => None,
            };
            let placement = &binding["spec"]["placement"].clone();
            let written = self.hand.modify(&id, |b| {
                // Another question by now: its own change brings it back here.
                if b["spec"]["placement"] == *placement {
                    write(b, &asked, targets);
                }
            });
            let Some(written) = written.await? else {
                return Ok(None);
            };
            let changed = written["metadata"]["generation"] != binding["metadata"]["generation"];
            binding = written;
            Some((decided, changed))
        } else {
            None
        };
        let generation = binding["metadata"]["generation"].clone();
        self.hand
            .modify_status(&id, |b| {
                if let Some(status) = member(b, "status") {
                    conclude(status, &generation, decided.as_ref(), asked.fresh);
                }
            })
            .await?;
        Ok(None)
    }
}

/// Writes the clusters on a binding.
fn write(binding: &mut Value, asked: &Asked, targets: Option<&[TargetCluster]>) {
    put(binding, "annotations", APPLIED_PLACEMENT, &asked.noted);
    let (Some(spec), Some(targets)) = (member(binding, "spec"), targets) else {
        return;
    };
    let targets = serde_json::to_value(targets).ok();
    let some = targets.filter(|t| t.as_array().is_some_and(|all| !all.is_empty()));
    set(spec, "clusters", some);
}

/// Writes on a binding's status how the choice went.
fn conclude(
    status: &mut Map<String, Value>,
    generation: &Value,
    decided: Option<&(Result<Decision, Unschedulable>, bool)>,
    fresh: bool,
) {
    let now = now();
    let Some((decided, changed)) = decided else {
        status.insert("schedulerObservedGeneration".to_owned(), generation.clone());
        return;
    };
    match decided {
        Ok(decision) => {
            status.insert("schedulerObservedGeneration".to_owned(), generation.clone());
            let affinity = decision.affinity_name.clone().map(Value::from);
            set(status, "schedulerObservingAffinityName", affinity);
            if *changed || fresh || !status.contains_key("lastScheduledTime") {
                status.insert("lastScheduledTime".to_owned(), now.clone().into());
            }
            set_condition(status, "Scheduled", (true, REASON_SUCCESS, MESSAGE_SUCCESS), &now);
        }
        Err(e) => {
            status.insert("schedulerObservedGeneration".to_owned(), generation.clone());
            set_condition(status, "Scheduled", (false, e.reason(), &e.to_string()), &now);
        }
    }
}

#[cfg(test)]
mod tests;
