//! Judges what is known of an object that is distributed: hop by hop, and at each hop cluster by cluster. Pure.

use federation::names;
use serde_json::Value;

use super::super::pod::{self, Hops};
use super::claimed_by;
use super::facts::{Facts, Gateway, Work, condition, pod_selector, text, told};

/// Clusters that are named at a hop, and clusters named as targets.
const SHOWN: usize = 5;

/// The whole chain.
pub(super) fn hops(facts: &Facts) -> Value {
    let mut hops = Hops::default();
    let (template, metadata) = (&facts.template, &facts.template["metadata"]);
    let deleting = &metadata["deletionTimestamp"];
    let name = format!("{} {}", text(template, "kind").to_lowercase(), text(metadata, "name"));
    let wanted = template["spec"]["replicas"].as_i64();
    if deleting.is_string() {
        hops.add(name, false, deleting, "it is being deleted, there and in its clusters");
    } else {
        let detail = wanted.map(|n| format!("{n} replicas wanted")).unwrap_or_default();
        hops.add(name, true, &metadata["creationTimestamp"], detail);
    }
    if !policy(&mut hops, facts) {
        return hops.answer();
    }
    let Some(binding) = &facts.binding else {
        let detail = "none is made yet; it takes up to half a minute for a new kind, else the log of karmada-controller-manager says more";
        hops.add("binding", false, &Value::Null, detail);
        return hops.answer();
    };
    if !scheduled(&mut hops, facts, binding) {
        return hops.answer();
    }
    let targets = facts.targets();
    let mut going: Vec<&str> = targets.clone();
    stage(&mut hops, "work", &targets, &mut going, |cluster| {
        work_made(facts.works.get(cluster))
    });
    stage(&mut hops, "gateway", &targets, &mut going, |cluster| {
        connected(facts.gateways.get(cluster))
    });
    stage(&mut hops, "applied", &targets, &mut going, |cluster| {
        applied(facts.works.get(cluster))
    });
    let what = if pod_selector(template).is_some() {
        "pods"
    } else {
        "healthy"
    };
    stage(&mut hops, what, &targets, &mut going, |cluster| healthy(facts, cluster));
    if facts.only.is_none() {
        let (done, at, detail) = summed_up(template, binding, &targets);
        hops.add("status", done, &at, detail);
    }
    hops.answer()
}

/// Whether a policy wants it; the chain ends where none does.
fn policy(hops: &mut Hops, facts: &Facts) -> bool {
    let template = &facts.template;
    let namespace = text(&template["metadata"], "namespace");
    if let Some((label, _)) = claimed_by(template) {
        let at = facts
            .policy
            .as_ref()
            .map_or(&Value::Null, |p| &p["metadata"]["creationTimestamp"]);
        match &facts.policy {
            Some(policy) if policy["spec"]["suspension"]["dispatching"] == true => {
                hops.add(
                    "policy",
                    true,
                    at,
                    format!("{label} claims it; it suspends all dispatching"),
                );
            }
            Some(_) => hops.add("policy", true, at, format!("{label} claims it")),
            None => hops.add("policy", false, at, format!("{label} claimed it, and is gone")),
        }
        return true;
    }
    let requirers = facts.binding.as_ref().and_then(|b| b["spec"]["requiredBy"].as_array());
    if let Some(first) = requirers.and_then(|all| all.first()) {
        let by = format!("{}/{}", text(first, "namespace"), text(first, "name"));
        hops.add(
            "policy",
            true,
            &Value::Null,
            format!("it goes where binding {by} goes, whose pods need it"),
        );
        return true;
    }
    if text(template, "kind") == "Namespace" {
        let skipped = template["metadata"]["labels"][names::SKIP_AUTO_PROPAGATION] == "true";
        let detail = if skipped {
            "a label keeps it out of all clusters"
        } else {
            "namespaces go to every cluster without one, unless Karmada runs with --controllers=*,-namespace"
        };
        hops.add("policy", !skipped, &Value::Null, detail);
        return false;
    }
    let reserved =
        matches!(namespace, "kube-system" | "kube-public" | "kube-node-lease") || namespace.starts_with("karmada-");
    let detail = match facts.unclaiming.iter().find(|policy| selects(policy, template)) {
        _ if reserved => format!("nothing in namespace {namespace} is distributed"),
        Some(policy) => {
            let (kind, name) = match text(&policy["metadata"], "namespace") {
                "" => ("ClusterPropagationPolicy", text(&policy["metadata"], "name")),
                _ => ("PropagationPolicy", text(&policy["metadata"], "name")),
            };
            let why = if policy["spec"]["activationPreference"] == "Lazy" {
                "it is lazy, and does so when the object changes next"
            } else {
                "is karmada-controller-manager, or the hub, running?"
            };
            format!("{kind} {name} selects it and has not claimed it; {why}")
        }
        None => format!(
            "none of {} policies selects it; kurator get policies -A shows what they select",
            facts.unclaiming.len()
        ),
    };
    hops.add("policy", false, &Value::Null, detail);
    // Without a policy there may still be a binding, on its way out.
    facts.binding.is_some()
}

/// Whether one of a policy's selectors means this object.
fn selects(policy: &Value, object: &Value) -> bool {
    let selectors = policy["spec"]["resourceSelectors"].as_array().into_iter().flatten();
    let metadata = &object["metadata"];
    let own = text(&policy["metadata"], "namespace");
    selectors.into_iter().any(|selector| {
        let namespace = match text(selector, "namespace") {
            "" => own,
            namespace => namespace,
        };
        let name = text(selector, "name");
        selector["apiVersion"] == object["apiVersion"]
            && selector["kind"] == object["kind"]
            && (namespace.is_empty() || metadata["namespace"] == *namespace)
            && match name {
                "" => labelled(&selector["labelSelector"], &metadata["labels"]),
                name => metadata["name"] == *name,
            }
    })
}

fn labelled(selector: &Value, labels: &Value) -> bool {
    let mut equal = selector["matchLabels"].as_object().into_iter().flatten();
    let mut rules = selector["matchExpressions"].as_array().into_iter().flatten();
    equal.all(|(key, value)| labels[key.as_str()] == *value)
        && rules.all(|rule| {
            let label = &labels[text(rule, "key")];
            let among = || rule["values"].as_array().is_some_and(|values| values.contains(label));
            match text(rule, "operator") {
                "In" => among(),
                "NotIn" => !among(),
                "Exists" => label.is_string(),
                "DoesNotExist" => !label.is_string(),
                _ => false,
            }
        })
}

/// Whether clusters are chosen; the chain ends where there are none.
fn scheduled(hops: &mut Hops, facts: &Facts, binding: &Value) -> bool {
    let condition = condition(binding, "Scheduled");
    let at = &condition["lastTransitionTime"];
    let targets: Vec<&Value> = facts.scheduled_to().collect();
    let said = told(condition);
    let known = binding["status"]["schedulerObservedGeneration"].as_i64().unwrap_or(0);
    let behind = binding["metadata"]["generation"]
        .as_i64()
        .is_some_and(|now| known < now);
    let (done, detail) = if let (Some(only), true) = (&facts.only, targets.is_empty()) {
        let others = binding["spec"]["clusters"].as_array().map_or(0, Vec::len);
        let why = if condition["status"] == "True" {
            ""
        } else {
            said.as_str()
        };
        let text = format!("not to {only}; to {others} other clusters. {why}");
        (false, text.trim_end_matches(['.', ' ']).to_owned())
    } else if condition["status"] == "False" {
        (false, advised(&said))
    } else if binding["spec"]["suspension"]["scheduling"] == true {
        (false, "its policy suspends scheduling".to_owned())
    } else if condition.is_null() {
        let scheduler = text(&binding["spec"], "schedulerName");
        (
            false,
            format!("nobody has looked at it yet; is the scheduler {scheduler:?} running?"),
        )
    } else if targets.is_empty() {
        (false, format!("to no cluster. {said}"))
    } else {
        let place = |cluster: &&Value| match cluster["replicas"].as_i64() {
            Some(count) => format!("{} ({count})", text(cluster, "name")),
            None => text(cluster, "name").to_owned(),
        };
        let mut list: Vec<String> = targets.iter().take(SHOWN).map(place).collect();
        if targets.len() > SHOWN {
            list.push(format!("and {} more", targets.len() - SHOWN));
        }
        let late = if behind && known > 0 {
            "; the latest change is not considered yet"
        } else {
            ""
        };
        let list = list.join(", ");
        let replicas: i64 = targets
            .iter()
            .filter_map(|c| c["replicas"].as_i64())
            .fold(0, i64::saturating_add);
        let sum = match (targets.len(), replicas) {
            (1, _) => String::new(),
            (count, 0) => format!("{count} clusters: "),
            (count, replicas) => format!("{replicas} replicas in {count} clusters: "),
        };
        (late.is_empty(), format!("to {sum}{list}{late}"))
    };
    hops.add("scheduled", done, at, detail);
    !targets.is_empty()
}

/// What a scheduler says, with what to do where something is known.
fn advised(said: &str) -> String {
    let hint = [
        (
            "did not have the API resource",
            "the gateway must serve the kind before it can be sent there",
        ),
        (
            "untolerated taint {cluster.karmada.io/",
            "the gateway is away; to place there all the same, tolerate the taint in placement.clusterTolerations",
        ),
        ("untolerated taint", "tolerate it in placement.clusterTolerations"),
        (
            "did not match the placement cluster affinity",
            "kurator get clusters shows their names; kurator describe cluster their labels",
        ),
        (
            "not enough replicas",
            "kurator describe cluster shows what is left of each",
        ),
    ];
    match hint.iter().find(|(part, _)| said.contains(part)) {
        Some((_, hint)) => format!("{}; {hint}", said.trim_end_matches('.')),
        None => said.to_owned(),
    }
}

/// One hop over all clusters: how many passed it, and the first that did not. `going` are those that passed all before: the others
/// were told of there.
fn stage<'a>(
    hops: &mut Hops,
    name: &str,
    targets: &[&'a str],
    going: &mut Vec<&'a str>,
    judge: impl Fn(&str) -> (bool, Value, String),
) {
    let judged = |cluster: &'a str| (cluster, judge(cluster));
    if let [cluster] = targets {
        let (done, at, detail) = judge(cluster);
        // What has not been come to is not told.
        let told = !going.is_empty() || done;
        hops.add(
            format!("{name} {cluster}"),
            done,
            &at,
            if told { detail } else { String::new() },
        );
        going.retain(|_| done);
        return;
    }
    let verdicts: Vec<_> = targets.iter().map(|cluster| judged(cluster)).collect();
    let passed = verdicts.iter().filter(|(_, (done, ..))| *done).count();
    let fresh: Vec<_> = verdicts
        .iter()
        .filter(|(cluster, (done, ..))| !done && going.contains(cluster))
        .collect();
    let mut detail = format!("{passed} of {}", targets.len());
    if fresh.len() > SHOWN {
        detail.push_str(&format!("; {} wait here, {SHOWN} of them below", fresh.len()));
    }
    hops.add(name, passed == targets.len(), &Value::Null, detail);
    for (cluster, (_, at, detail)) in fresh.iter().take(SHOWN) {
        hops.add(format!("{name} {cluster}"), false, at, detail.as_str());
    }
    let failed: std::collections::BTreeSet<&str> = fresh.iter().map(|(cluster, _)| *cluster).collect();
    going.retain(|cluster| !failed.contains(cluster));
}

type Verdict = (bool, Value, String);

fn work_made(work: Option<&Work>) -> Verdict {
    match work {
        None => (
            false,
            Value::Null,
            "none is made yet; the binding's events say more".to_owned(),
        ),
        Some(work) if work.deleting.is_string() => (false, work.deleting.clone(), "it is being deleted".to_owned()),
        Some(work) => (true, work.created.clone(), String::new()),
    }
}

fn connected(gateway: Option<&Gateway>) -> Verdict {
    let Some(gateway) = gateway else {
        return (false, Value::Null, "there is no such cluster any more".to_owned());
    };
    if gateway.ready {
        return (true, gateway.since.clone(), "connected".to_owned());
    }
    let advice = match (gateway.ours, gateway.unknown) {
        (_, true) => "; nobody speaks for it: is its hub, or agent, running?".to_owned(),
        (true, false) => format!("; kurator why node {}", gateway.name),
        (false, false) => String::new(),
    };
    let said = if gateway.told.is_empty() {
        "not connected"
    } else {
        &gateway.told
    };
    (false, gateway.since.clone(), format!("{said}{advice}"))
}

fn applied(work: Option<&Work>) -> Verdict {
    let Some(work) = work else {
        return (false, Value::Null, String::new());
    };
    let at = work.since.clone();
    match work.applied {
        Some(true) if work.suspended => (true, at, "as it was before dispatching was suspended".to_owned()),
        Some(true) => (true, at, String::new()),
        _ if work.suspended => (false, at, "its policy suspends dispatching there".to_owned()),
        Some(false) if work.told.contains("already exists") => (
            false,
            at,
            format!(
                "{}; remove the one that is there, or set conflictResolution: Overwrite in the policy",
                work.told
            ),
        ),
        Some(false) => (false, at, work.told.clone()),
        None => (false, at, "the gateway has not said anything of it yet".to_owned()),
    }
}

fn healthy(facts: &Facts, cluster: &str) -> Verdict {
    let work = facts.works.get(cluster);
    let health = work.map_or("-", |work| work.health.as_str());
    let done = health == "Healthy";
    let mut parts = Vec::new();
    match health {
        "Healthy" => {}
        "-" => parts.push("nothing is reported yet".to_owned()),
        health => parts.push(health.to_owned()),
    }
    match facts.pods.get(cluster) {
        Some(Some(pods)) => {
            parts.push(format!("{} of {} ready", pods.ready, pods.total));
            if let Some((name, why)) = &pods.ailing {
                let gateway = facts.gateways.get(cluster).map_or(cluster, |g| g.name.as_str());
                let namespace = text(&facts.template["metadata"], "namespace");
                parts.push(format!("{name}: {}", pod::told(why, "")));
                parts.push(format!("kurator --gateway {gateway} -n {namespace} why pod {name}"));
            }
        }
        Some(None) if !done => parts.push("its pods cannot be read from here".to_owned()),
        _ => {}
    }
    (done, Value::Null, parts.join("; "))
}

/// Whether the object's own status says that all is well.
fn summed_up(template: &Value, binding: &Value, targets: &[&str]) -> Verdict {
    let fully = condition(binding, "FullyApplied");
    let status = &template["status"];
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    let clusters = binding["spec"]["clusters"].as_array().into_iter().flatten();
    let shares: i64 = clusters
        .filter_map(|c| c["replicas"].as_i64())
        .fold(0, i64::saturating_add);
    let (well, detail) = match text(template, "kind") {
        "Deployment" | "StatefulSet" | "ReplicaSet" => {
            let ready = count("readyReplicas");
            (ready >= shares, format!("{ready} of {shares} replicas ready"))
        }
        "DaemonSet" => {
            let (ready, wanted) = (count("numberReady"), count("desiredNumberScheduled"));
            (ready >= wanted && wanted > 0, format!("{ready} of {wanted} pods ready"))
        }
        "Job" => {
            let (complete, failed) = (condition(template, "Complete"), condition(template, "Failed"));
            let counts = format!("{} succeeded, {} active", count("succeeded"), count("active"));
            if failed["status"] == "True" {
                (false, format!("{counts}. {}", told(failed)))
            } else {
                (complete["status"] == "True", counts)
            }
        }
        _ => {
            let items = binding["status"]["aggregatedStatus"]
                .as_array()
                .map_or(&[][..], Vec::as_slice);
            let applied = items.iter().filter(|item| item["applied"] == true).count();
            let done = applied >= targets.len() && items.iter().all(|item| item["health"] != "Unhealthy");
            (done, format!("applied in {applied} of {} clusters", targets.len()))
        }
    };
    let generation = template["metadata"]["generation"].as_i64();
    let observed = status["observedGeneration"].as_i64();
    match (generation, observed) {
        (Some(now), Some(then)) if then < now => (
            false,
            fully["lastTransitionTime"].clone(),
            format!("{detail}; of generation {then}, not yet of {now}"),
        ),
        _ => (well, fully["lastTransitionTime"].clone(), detail),
    }
}

#[cfg(test)]
mod tests;
