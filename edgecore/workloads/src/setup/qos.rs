//! Quality of service: who keeps its memory when the machine has none left.

use std::collections::BTreeMap;

use metastore::api::quantity_nanos;
use serde_json::Value;

use crate::pod::{Container, Pod};

/// What the kernel adds to the score of those that go last.
const GUARANTEED: i64 = -997;
/// And of those that go first.
const BEST_EFFORT: i64 = 1000;

/// A pod's class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

/// A quantity in whole units, rounded up; 0 when there is none.
pub(crate) fn amount(quantities: &BTreeMap<String, Value>, name: &str) -> i64 {
    parts(quantities, name, 1_000_000_000)
}

/// A quantity in thousandths, rounded up; 0 when there is none.
pub(crate) fn milli(quantities: &BTreeMap<String, Value>, name: &str) -> i64 {
    parts(quantities, name, 1_000_000)
}

fn parts(quantities: &BTreeMap<String, Value>, name: &str, of: i128) -> i64 {
    let nanos = quantities.get(name).and_then(quantity_nanos).unwrap_or(0);
    i64::try_from((nanos + of - 1).div_euclid(of)).unwrap_or(i64::MAX)
}

/// The class of a pod.
pub(crate) fn qos(pod: &Pod) -> Qos {
    let spec = &pod.spec;
    let whole = &spec.resources;
    let of_pod = [whole];
    let of_containers: Vec<_> = spec.containers.iter().chain(&spec.init_containers).collect();
    let resources: Vec<_> = if whole.limits.is_empty() && whole.requests.is_empty() {
        of_containers.iter().map(|c| &c.resources).collect()
    } else {
        of_pod.to_vec()
    };
    // Sums of requests and limits, for processors and memory.
    let mut sums = [[0_i128; 2]; 2];
    let mut all_limited = true;
    for resources in resources {
        for (at, name) in ["cpu", "memory"].into_iter().enumerate() {
            let of = |q: &BTreeMap<String, Value>| q.get(name).and_then(quantity_nanos).unwrap_or(0).max(0);
            sums[at][0] += of(&resources.requests);
            sums[at][1] += of(&resources.limits);
            all_limited &= of(&resources.limits) > 0;
        }
    }
    if sums == [[0; 2]; 2] {
        Qos::BestEffort
    } else if all_limited && sums.iter().all(|[request, limit]| request == limit) {
        Qos::Guaranteed
    } else {
        Qos::Burstable
    }
}

/// What the kernel adds to a container's score (-997 to 1000) when it looks for whom to end, on a machine with so much memory (bytes).
pub(crate) fn oom_score_adj(pod: &Pod, container: &Container, memory: u64) -> i64 {
    if pod.spec.priority_class_name == "system-node-critical" {
        return GUARANTEED;
    }
    match qos(pod) {
        Qos::Guaranteed => return GUARANTEED,
        Qos::BestEffort => return BEST_EFFORT,
        Qos::Burstable => {}
    }
    let spec = &pod.spec;
    let request = |c: &Container| i128::from(amount(&c.resources.requests, "memory"));
    // What the pod asks for beyond its containers is shared out among them.
    let all = || spec.containers.iter().chain(&spec.init_containers);
    let asked: i128 = spec.containers.iter().map(request).sum();
    let of_pod = i128::from(amount(&spec.resources.requests, "memory"));
    let count = i128::try_from(all().count()).unwrap_or(1).max(1);
    let share = if of_pod > 0 { (of_pod - asked) / count } else { 0 };

    let memory = i128::from(memory.max(1));
    let score = |request: i128| 1000 - 1000 * (request + share) / memory;
    let mut adjust = score(request(container));
    if container.is_sidecar() {
        // A sidecar is not ended before those it serves.
        let least = spec.containers.iter().map(request).min().unwrap_or(0);
        adjust = adjust.min(score(least));
    }
    i64::try_from(adjust)
        .unwrap_or(0)
        .clamp(1000 + GUARANTEED, BEST_EFFORT - 1)
}
