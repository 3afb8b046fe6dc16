//! Counts for PodDisruptionBudgets how many of their pods are healthy and how many may be made to go; who asks pods to go reads it there.
//!
//! Owns the status of budgets, but for `disruptedPods`, which whoever grants an eviction adds to and which is cleared here.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use metastore::api::Status;
use serde_json::{Map, Value, json};

use super::look::{
    WallClock, condition, controller_of, is_terminating, is_true, labels, list, name, namespace, pairs, seconds,
    selects, text, uid, whole,
};
use super::{Change, Controller, Reconciled};
use crate::cluster::{BUDGETS, Cluster, DEPLOYMENTS, Key, Kind, PODS, REPLICA_SETS, STATEFUL_SETS};
use crate::events::{Recorder, Tone};

/// After how many seconds a pod that was granted to go is counted again if it did not.
const GRANTED_SECONDS: i64 = 120;

/// Counts for budgets.
pub(crate) fn disruption(cluster: Cluster, events: Recorder, clock: WallClock) -> Arc<dyn Controller> {
    Arc::new(Disruption { cluster, events, clock })
}

struct Disruption {
    cluster: Cluster,
    events: Recorder,
    clock: WallClock,
}

impl Controller for Disruption {
    fn name(&self) -> &'static str {
        "disruption"
    }

    fn kind(&self) -> Kind {
        BUDGETS
    }

    fn follows(&self) -> &'static [Kind] {
        &[PODS, DEPLOYMENTS, REPLICA_SETS, STATEFUL_SETS]
    }

    fn concerned(&self, change: &Change, cluster: &Cluster) -> Vec<Key> {
        let sides = [change.before.as_ref(), change.after.as_ref()];
        let counted = |object: &Value| {
            if change.kind == PODS {
                (
                    is_true(object, "Ready"),
                    is_terminating(object),
                    labels(object).cloned(),
                )
            } else {
                (
                    false,
                    whole(object, "/spec/replicas") == Some(0),
                    object.pointer("/spec/replicas").cloned(),
                )
            }
        };
        if sides[0].map(counted) == sides[1].map(counted) {
            return Vec::new();
        }
        let budgets = cluster
            .list(BUDGETS, Some(namespace(change.object())))
            .unwrap_or_default();
        let concerned = |budget: &&Value| {
            change.kind != PODS
                || sides
                    .iter()
                    .flatten()
                    .any(|pod| selects(&budget["spec"]["selector"], labels(pod)))
        };
        budgets.iter().filter(concerned).map(Key::of).collect()
    }

    fn reconcile<'a>(&'a self, key: &'a Key) -> Pin<Box<dyn Future<Output = Reconciled> + Send + 'a>> {
        Box::pin(async move {
            let Some(budget) = self.cluster.get(BUDGETS, key)? else {
                return Ok(None);
            };
            self.look(key, &budget).await
        })
    }
}

/// What is expected of the pods of a budget.
#[derive(Debug, PartialEq, Eq)]
struct Expected {
    pods: i64,
    healthy: i64,
    /// Some pods are nobody's: their number says nothing.
    unmanaged: bool,
}

impl Disruption {
    async fn look(&self, key: &Key, budget: &Value) -> Reconciled {
        let mut pods = self.cluster.list(PODS, Some(&key.namespace))?;
        pods.retain(|pod| selects(&budget["spec"]["selector"], labels(pod)));
        if pods.is_empty() {
            self.events
                .tell(budget, Tone::Normal, "NoPods", "No matching pods found");
        }
        let now = i64::try_from((self.clock)() / 1000).unwrap_or(i64::MAX);
        let expected = match expected(budget, &pods, &|owner| self.scale(owner, &key.namespace)) {
            Ok(expected) => expected,
            Err(why) => {
                let told = format!("Failed to calculate the number of expected pods: {why}");
                self.events
                    .tell(budget, Tone::Warning, "CalculateExpectedPodCountFailed", told);
                let mut status = budget["status"].as_object().cloned().unwrap_or_default();
                status.insert("disruptionsAllowed".to_owned(), json!(0));
                let observed = status.get("observedGeneration").cloned().unwrap_or(Value::Null);
                set_allowed(&mut status, budget, ("False", "SyncFailed", &why), &observed, now);
                return self.write(key, budget, status, None).await;
            }
        };
        if expected.unmanaged {
            let told = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
                go_text(&budget["spec"]["selector"])
            );
            self.events.tell(budget, Tone::Warning, "UnmanagedPods", told);
        }
        let (disrupted, next) = disrupted(budget, &pods, now);
        let healthy = pods
            .iter()
            .filter(|p| !is_terminating(p) && !disrupted.contains_key(name(p)) && is_true(p, "Ready"))
            .count();
        let healthy = i64::try_from(healthy).unwrap_or(i64::MAX);
        let allowed = if expected.pods <= 0 {
            0
        } else {
            (healthy - expected.healthy).max(0)
        };
        let mut status = Map::new();
        for (field, count) in [
            ("currentHealthy", healthy),
            ("desiredHealthy", expected.healthy),
            ("disruptionsAllowed", allowed),
            ("expectedPods", expected.pods),
        ] {
            status.insert(field.to_owned(), json!(count));
        }
        if !disrupted.is_empty() {
            status.insert("disruptedPods".to_owned(), Value::Object(disrupted));
        }
        let generation = budget["metadata"]["generation"].clone();
        if !generation.is_null() {
            status.insert("observedGeneration".to_owned(), generation.clone());
        }
        if let Some(conditions) = budget.pointer("/status/conditions") {
            status.insert("conditions".to_owned(), conditions.clone());
        }
        let said = if allowed > 0 {
            ("True", "SufficientPods", "")
        } else {
            ("False", "InsufficientPods", "")
        };
        set_allowed(&mut status, budget, said, &generation, now);
        self.write(key, budget, status, next).await
    }

    async fn write(&self, key: &Key, looked_at: &Value, status: Map<String, Value>, next: Option<i64>) -> Reconciled {
        let next = next.map(|s| Duration::from_secs(u64::try_from(s.max(1)).unwrap_or(1)));
        if looked_at["status"] == Value::Object(status.clone()) {
            return Ok(next);
        }
        let written = self.cluster.modify_status(BUDGETS, key, |budget| {
            // An eviction that was granted meanwhile must not be forgotten.
            if budget["status"] != looked_at["status"] {
                let why = "the budget changed while it was counted";
                return Err(Status::conflict("policy", "poddisruptionbudgets", &key.name, why));
            }
            budget["status"] = status.clone().into();
            Ok(())
        });
        match written.await {
            Err(e) if e.code == 404 => Ok(None),
            other => other.map(|_| next),
        }
    }

    /// How many pods an owner of pods wants, with the uid of who really decides.
    fn scale(&self, owner: &Value, namespace: &str) -> Scale {
        let (kind, version) = (text(owner, "/kind"), text(owner, "/apiVersion"));
        let kind = match (kind, version) {
            ("ReplicaSet", "apps/v1") => REPLICA_SETS,
            ("StatefulSet", "apps/v1") => STATEFUL_SETS,
            _ => {
                let group = version
                    .split_once('/')
                    .map_or(String::new(), |(group, _)| format!(".{group}"));
                let plural = format!("{}s", kind.to_lowercase());
                return Err(format!("{plural}{group} does not implement the scale subresource"));
            }
        };
        let find = |kind: Kind, owner: &Value| {
            let found = self.cluster.get(kind, &Key::new(namespace, text(owner, "/name")));
            found
                .map_err(|e| e.message)
                .map(|o| o.filter(|o| owner["uid"] == o["metadata"]["uid"]))
        };
        let Some(set) = find(kind, owner)? else { return Ok(None) };
        let above = controller_of(&set).filter(|o| kind == REPLICA_SETS && o["kind"] == "Deployment");
        let decides = match above {
            Some(above) => find(DEPLOYMENTS, above)?.unwrap_or(set),
            None => set,
        };
        let wanted = whole(&decides, "/spec/replicas").unwrap_or(1);
        Ok(Some((uid(&decides).to_owned(), wanted)))
    }
}

/// Whose pods an owner's are, and how many it wants; none when the owner is gone.
type Scale = Result<Option<(String, i64)>, String>;

/// How many pods there should be, and how many of them healthy.
fn expected(budget: &Value, pods: &[Value], scale: &dyn Fn(&Value) -> Scale) -> Result<Expected, String> {
    let owned = || -> Result<(i64, bool), String> {
        let mut wanted = BTreeMap::new();
        let mut unmanaged = false;
        for pod in pods {
            let Some(owner) = controller_of(pod) else {
                unmanaged = true;
                continue;
            };
            let (uid, count) = scale(owner)?.ok_or_else(|| format!("found no controllers for pod {:?}", name(pod)))?;
            wanted.insert(uid, count);
        }
        Ok((wanted.values().sum(), unmanaged))
    };
    let part = |said: &Value, of: i64| match said {
        Value::String(percent) => {
            let percent = percent.strip_suffix('%').and_then(|p| p.parse::<i64>().ok());
            let percent = percent.ok_or_else(|| format!("invalid value for IntOrString: {said}"))?;
            Ok((percent.saturating_mul(of) + 99).div_euclid(100))
        }
        said => said
            .as_i64()
            .ok_or_else(|| format!("invalid value for IntOrString: {said}")),
    };
    let spec = &budget["spec"];
    if let Some(most) = spec.get("maxUnavailable") {
        let (pods, unmanaged) = owned()?;
        let healthy = (pods - part(most, pods)?).max(0);
        return Ok(Expected {
            pods,
            healthy,
            unmanaged,
        });
    }
    match spec.get("minAvailable") {
        Some(least) if least.is_string() => {
            let (pods, unmanaged) = owned()?;
            Ok(Expected {
                pods,
                healthy: part(least, pods)?,
                unmanaged,
            })
        }
        least => Ok(Expected {
            pods: i64::try_from(pods.len()).unwrap_or(i64::MAX),
            healthy: least.and_then(Value::as_i64).unwrap_or(0),
            unmanaged: false,
        }),
    }
}

/// A selector as the programs that this message is known from write it.
fn go_text(selector: &Value) -> String {
    let labels: String = pairs(selector, "/matchLabels")
        .map(|(key, value)| format!("{key}: {},", value.as_str().unwrap_or_default()))
        .collect();
    let terms = list(selector, "/matchExpressions").iter().map(|term| {
        let values: Vec<&str> = list(term, "/values").iter().filter_map(Value::as_str).collect();
        format!(
            "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{}],}},",
            text(term, "/key"),
            text(term, "/operator"),
            values.join(" ")
        )
    });
    let terms: String = terms.collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{terms}}},}}"
    )
}

/// Those that were granted to go and may still go, and in how many seconds the next of them is counted again.
fn disrupted(budget: &Value, pods: &[Value], now: i64) -> (Map<String, Value>, Option<i64>) {
    let mut kept = Map::new();
    let mut next = None;
    for (pod, at) in pairs(budget, "/status/disruptedPods") {
        let there = pods.iter().any(|p| name(p) == pod && !is_terminating(p));
        let until = at.as_str().and_then(seconds).unwrap_or(0) + GRANTED_SECONDS;
        if there && until >= now {
            kept.insert(pod.clone(), at.clone());
            let left = until - now + 1;
            next = Some(next.map_or(left, |n: i64| n.min(left)));
        }
    }
    (kept, next)
}

/// Sets the condition `DisruptionAllowed`.
fn set_allowed(status: &mut Map<String, Value>, budget: &Value, said: (&str, &str, &str), observed: &Value, now: i64) {
    let (allowed, reason, message) = said;
    let old = condition(budget, "DisruptionAllowed");
    let at = match old {
        Some(old) if old["status"] == allowed => old["lastTransitionTime"].clone(),
        _ => json!(crate::time::stamp(u64::try_from(now).unwrap_or(0) * 1000)),
    };
    let mut new = json!({"type": "DisruptionAllowed", "status": allowed, "reason": reason, "message": message, "lastTransitionTime": at});
    if !observed.is_null() {
        new["observedGeneration"] = observed.clone();
    }
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if let Some(all) = conditions.as_array_mut() {
        match all.iter_mut().find(|c| c["type"] == "DisruptionAllowed") {
            Some(old) => *old = new,
            None => all.push(new),
        }
    }
}
