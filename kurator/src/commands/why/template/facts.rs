//! What matters of the objects that were asked for, read once so that little is kept of much. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::commands::get::federation::{GATEWAY, health};

/// Everything that was asked for.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) template: Value,
    /// That has claimed it, if it is still there.
    pub(super) policy: Option<Value>,
    /// Those that might, when none has.
    pub(super) unclaiming: Vec<Value>,
    pub(super) binding: Option<Value>,
    /// The one cluster that is asked about.
    pub(super) only: Option<String>,
    pub(super) works: BTreeMap<String, Work>,
    pub(super) gateways: BTreeMap<String, Gateway>,
    /// Where it was looked; none where that was not possible.
    pub(super) pods: BTreeMap<String, Option<Pods>>,
}

impl Facts {
    pub(super) fn scheduled_to(&self) -> impl Iterator<Item = &Value> {
        let binding = self.binding.as_ref().unwrap_or(&Value::Null);
        let clusters = binding["spec"]["clusters"].as_array().into_iter().flatten();
        clusters.filter(|c| self.only.as_ref().is_none_or(|only| c["name"] == **only))
    }

    /// The clusters it shall be in, sorted.
    pub(super) fn targets(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.scheduled_to().filter_map(|c| c["name"].as_str()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The connected clusters to which it came, those first that are not well.
    pub(super) fn worth_a_look(&self, most: usize) -> Vec<String> {
        let mut all: Vec<(bool, &str)> = self
            .targets()
            .into_iter()
            .filter(|cluster| self.gateways.get(*cluster).is_some_and(|g| g.ready))
            .filter_map(|cluster| {
                let work = self.works.get(cluster)?;
                (work.applied == Some(true)).then_some((work.health == "Healthy", cluster))
            })
            .collect();
        all.sort_unstable();
        all.into_iter()
            .take(most)
            .map(|(_, cluster)| cluster.to_owned())
            .collect()
    }
}

/// What matters of a Work.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) applied: Option<bool>,
    pub(super) health: String,
    pub(super) told: String,
    pub(super) since: Value,
    pub(super) created: Value,
    pub(super) suspended: bool,
    pub(super) deleting: Value,
}

pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let all = object["status"]["conditions"].as_array();
    all.and_then(|all| all.iter().find(|c| c["type"] == kind))
        .unwrap_or(&Value::Null)
}

/// `reason: message` of a condition.
pub(super) fn told(condition: &Value) -> String {
    match (text(condition, "reason"), text(condition, "message")) {
        ("", message) => message.to_owned(),
        (reason, "") => reason.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

impl Work {
    pub(super) fn read(work: &Value) -> Self {
        let applied = condition(work, "Applied");
        Self {
            applied: match text(applied, "status") {
                "True" => Some(true),
                "False" => Some(false),
                _ => None,
            },
            health: health(work),
            told: told(applied),
            since: applied["lastTransitionTime"].clone(),
            created: work["metadata"]["creationTimestamp"].clone(),
            suspended: work["spec"]["suspendDispatching"] == true
                || condition(work, "Dispatching")["status"] == "False",
            deleting: work["metadata"]["deletionTimestamp"].clone(),
        }
    }
}

/// What matters of a Cluster, or of the Node that stands for one.
#[derive(Debug, Default)]
pub(super) struct Gateway {
    /// Of the gateway; of the cluster, where it is not a hub's.
    pub(super) name: String,
    pub(super) ready: bool,
    /// Whether a hub has made it.
    pub(super) ours: bool,
    /// Whether anybody speaks for it.
    pub(super) unknown: bool,
    pub(super) told: String,
    pub(super) since: Value,
}

impl Gateway {
    pub(super) fn read(object: &Value) -> Self {
        let ready = condition(object, "Ready");
        let ours = object["metadata"]["annotations"][GATEWAY].as_str();
        Self {
            name: ours.unwrap_or_else(|| text(&object["metadata"], "name")).to_owned(),
            ready: ready["status"] == "True",
            ours: ours.is_some() || object["kind"] == "Node",
            unknown: ready["status"] == "Unknown" || ready.is_null(),
            told: told(ready),
            since: ready["lastTransitionTime"].clone(),
        }
    }
}

/// What matters of an object's pods in one place.
#[derive(Debug, Default)]
pub(super) struct Pods {
    pub(super) ready: usize,
    pub(super) total: usize,
    /// The first that is not ready, and why.
    pub(super) ailing: Option<(String, String)>,
}

impl Pods {
    pub(super) fn read(list: &Value) -> Self {
        let mut pods = Self::default();
        for pod in list["items"].as_array().into_iter().flatten() {
            pods.total += 1;
            let finished = pod["status"]["phase"] == "Succeeded";
            if finished || condition(pod, "Ready")["status"] == "True" {
                pods.ready += 1;
            } else if pods.ailing.is_none() {
                let containers = ["initContainerStatuses", "containerStatuses"]
                    .iter()
                    .flat_map(|field| pod["status"][*field].as_array().into_iter().flatten());
                let mut reasons = containers.map(|c| text(&c["state"]["waiting"], "reason"));
                let why = reasons
                    .find(|reason| !reason.is_empty())
                    .unwrap_or_else(|| text(&pod["status"], "phase"));
                pods.ailing = Some((text(&pod["metadata"], "name").to_owned(), why.to_owned()));
            }
        }
        pods
    }
}

/// By which its pods are found, as a selector; none of an object that has none.
pub(super) fn pod_selector(template: &Value) -> Option<String> {
    let name = text(&template["metadata"], "name");
    match text(template, "kind") {
        // A Job's own selector is made where it runs.
        "Job" => Some(format!("job-name={name}")),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" => {
            let labels = template["spec"]["selector"]["matchLabels"].as_object()?;
            let pairs: Vec<String> = labels
                .iter()
                .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
                .collect();
            (!pairs.is_empty()).then(|| pairs.join(","))
        }
        _ => None,
    }
}
