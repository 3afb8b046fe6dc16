//! What keeps pods running: Deployments, ReplicaSets, StatefulSets, DaemonSets, their older and helping kinds. What is right for them stands
//! in `workload_rules`.

use serde_json::{Value, json};

use super::shared::{label_selector_text, list, number, word, word_at};
use super::workload_rules as rules;
use super::{computed, fields, path, row, scale};
use crate::api::kinds::{KindSpec, Scale, Selector, Special, StatusPart};
use crate::api::names::NameRule;
use crate::api::table::Column;

/// The rows of this file.
pub(super) fn kinds() -> Vec<KindSpec> {
    vec![
        deployment(),
        replica_set(),
        stateful_set(),
        daemon_set(),
        controller_revision(),
        replication_controller(),
        pod_template(),
    ]
}

/// A row of a kind that makes pods from a template.
pub(super) fn workload(group: &str, kind: &str, short: &[&str]) -> KindSpec {
    KindSpec {
        categories: vec!["all".into()],
        status: StatusPart::Apart,
        generation: true,
        ..row(group, if group.is_empty() { "core" } else { group }, kind, short)
    }
}

fn scaled() -> Option<Scale> {
    scale(".spec.replicas", ".status.replicas", ".spec.selector")
}

fn deployment() -> KindSpec {
    KindSpec {
        prepare: Some(rules::prepare_deployment),
        validate: Some(rules::validate_deployment),
        scale: scaled(),
        columns: [
            vec![
                Column::name(),
                computed("Ready", "string", "How many pods are ready, of how many.", ready),
                computed("Up-to-date", "string", "Pods of the newest template.", |d| {
                    number(d, "/status/updatedReplicas")
                }),
                computed("Available", "string", "Pods ready for long enough.", |d| {
                    number(d, "/status/availableReplicas")
                }),
                Column::age(),
            ],
            containers(),
            vec![
                computed("Selector", "string", "Selects the pods.", |d| {
                    json!(
                        d.pointer("/spec/selector")
                            .map_or_else(String::new, label_selector_text)
                    )
                })
                .wide(),
            ],
        ]
        .concat(),
        special: Special {
            prepare_status: Some(rules::prepare_deployment_status),
            validate_status: Some(rules::validate_deployment_status),
            annotations_count: true,
            warn: Some(rules::warn_of_template),
            ..Special::default()
        },
        ..workload("apps", "Deployment", &["deploy"])
    }
}

fn replica_set() -> KindSpec {
    KindSpec {
        prepare: Some(rules::prepare_template),
        validate: Some(rules::validate_replica_set),
        scale: scaled(),
        columns: [replicated(), containers(), vec![selector()]].concat(),
        special: Special {
            validate_status: Some(rules::validate_replica_status),
            warn: Some(rules::warn_of_template),
            ..Special::default()
        },
        ..workload("apps", "ReplicaSet", &["rs"])
    }
}

fn stateful_set() -> KindSpec {
    KindSpec {
        names: NameRule::Label,
        prepare: Some(rules::prepare_stateful_set),
        validate: Some(rules::validate_stateful_set),
        scale: scaled(),
        columns: [
            vec![
                Column::name(),
                computed("Ready", "string", "How many pods are ready, of how many.", ready),
                Column::age(),
            ],
            containers(),
        ]
        .concat(),
        special: Special {
            validate_status: Some(rules::validate_stateful_status),
            warn: Some(rules::warn_of_template),
            ..Special::default()
        },
        ..workload("apps", "StatefulSet", &["sts"])
    }
}

fn daemon_set() -> KindSpec {
    KindSpec {
        prepare: Some(rules::prepare_daemon_set),
        validate: Some(rules::validate_daemon_set),
        columns: [
            vec![
                Column::name(),
                computed("Desired", "integer", "Nodes that should run a pod.", |d| {
                    number(d, "/status/desiredNumberScheduled")
                }),
                computed("Current", "integer", "Nodes that run at least one.", |d| {
                    number(d, "/status/currentNumberScheduled")
                }),
                computed("Ready", "integer", "Nodes whose pod is ready.", |d| {
                    number(d, "/status/numberReady")
                }),
                computed(
                    "Up-to-date",
                    "integer",
                    "Nodes with a pod of the newest template.",
                    |d| number(d, "/status/updatedNumberScheduled"),
                ),
                computed(
                    "Available",
                    "integer",
                    "Nodes whose pod is ready for long enough.",
                    |d| number(d, "/status/numberAvailable"),
                ),
                computed("Node Selector", "string", "Selects the nodes.", |d| {
                    labels(d.pointer("/spec/template/spec/nodeSelector"))
                }),
                Column::age(),
            ],
            containers(),
            vec![selector()],
        ]
        .concat(),
        special: Special {
            validate_status: Some(rules::validate_daemon_status),
            warn: Some(rules::warn_of_template),
            ..Special::default()
        },
        ..workload("apps", "DaemonSet", &["ds"])
    }
}

fn controller_revision() -> KindSpec {
    KindSpec {
        categories: Vec::new(),
        validate: Some(rules::validate_revision),
        columns: vec![
            Column::name(),
            computed("Controller", "string", "What it is a revision of.", controller),
            computed("Revision", "string", "Its place among the revisions.", |r| {
                number(r, "/revision")
            }),
            Column::age(),
        ],
        ..row("apps", "apps", "ControllerRevision", &[])
    }
}

fn replication_controller() -> KindSpec {
    KindSpec {
        prepare: Some(rules::prepare_replication_controller),
        validate: Some(rules::validate_replication_controller),
        scale: scaled().and_then(|s| {
            Some(Scale {
                selector: Selector::Map(path(".spec.selector")?),
                ..s
            })
        }),
        columns: [
            replicated(),
            containers(),
            vec![
                computed("Selector", "string", "Selects the pods.", |c| {
                    labels(c.pointer("/spec/selector"))
                })
                .wide(),
            ],
        ]
        .concat(),
        fields: fields(&["status.replicas=0"]),
        special: Special {
            validate_status: Some(rules::validate_replica_status),
            orphans: true,
            ..Special::default()
        },
        ..workload("", "ReplicationController", &["rc"])
    }
}

fn pod_template() -> KindSpec {
    KindSpec {
        generation: true,
        prepare: Some(rules::prepare_pod_template),
        validate: Some(rules::validate_pod_template),
        columns: vec![
            Column::name(),
            computed("Containers", "string", "Names of the containers.", |t| {
                each(t.pointer("/template/spec"), "name")
            }),
            computed("Images", "string", "Images of the containers.", |t| {
                each(t.pointer("/template/spec"), "image")
            }),
            computed("Pod Labels", "string", "Labels of the pod.", |t| {
                labels(t.pointer("/template/metadata/labels"))
            }),
        ],
        special: Special {
            returns_deleted: true,
            ..Special::default()
        },
        ..row("", "core", "PodTemplate", &[])
    }
}

/// The first columns of what counts replicas.
fn replicated() -> Vec<Column> {
    vec![
        Column::name(),
        computed("Desired", "integer", "Pods wanted.", |r| number(r, "/spec/replicas")),
        computed("Current", "integer", "Pods there.", |r| number(r, "/status/replicas")),
        computed("Ready", "integer", "Pods ready.", |r| {
            number(r, "/status/readyReplicas")
        }),
        Column::age(),
    ]
}

/// The columns about the containers of the template.
pub(super) fn containers() -> Vec<Column> {
    vec![
        computed("Containers", "string", "Names of the template's containers.", |w| {
            each(template(w), "name")
        })
        .wide(),
        computed("Images", "string", "Images of the template's containers.", |w| {
            each(template(w), "image")
        })
        .wide(),
    ]
}

/// The column of the label selector.
pub(super) fn selector() -> Column {
    computed("Selector", "string", "Selects the pods.", |w| {
        let own = w.pointer("/spec/selector");
        let text = own
            .or_else(|| w.pointer("/spec/jobTemplate/spec/selector"))
            .map_or_else(String::new, label_selector_text);
        json!(if text.is_empty() { "<none>" } else { text.as_str() })
    })
    .wide()
}

fn template(workload: &Value) -> Option<&Value> {
    workload
        .pointer("/spec/template/spec")
        .or_else(|| workload.pointer("/spec/jobTemplate/spec/template/spec"))
}

/// One field of each container of a pod's description, joined.
fn each(spec: Option<&Value>, field: &str) -> Value {
    let all: Vec<&str> = spec
        .map_or(&[][..], |s| list(s, "containers"))
        .iter()
        .map(|c| word(c, field))
        .collect();
    json!(all.join(","))
}

fn labels(map: Option<&Value>) -> Value {
    let pairs: Vec<String> = map
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    json!(if pairs.is_empty() {
        "<none>".to_owned()
    } else {
        pairs.join(",")
    })
}

fn ready(workload: &Value) -> Value {
    let count = |pointer| number(workload, pointer);
    json!(format!(
        "{}/{}",
        count("/status/readyReplicas"),
        count("/spec/replicas")
    ))
}

fn controller(revision: &Value) -> Value {
    let owners = revision.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let owner = owners
        .into_iter()
        .flatten()
        .find(|o| o.get("controller") == Some(&Value::Bool(true)));
    let Some(owner) = owner else { return json!("<none>") };
    let group = word_at(owner, "/apiVersion")
        .split_once('/')
        .map_or("", |(group, _)| group);
    let kind = word(owner, "kind");
    let dot = if group.is_empty() { "" } else { "." };
    json!(format!(
        "{}/{}",
        format!("{kind}{dot}{group}").to_lowercase(),
        word(owner, "name")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_workloads() {
        let set = json!({"spec":{"replicas":3,"template":{"spec":{"containers":[{"name":"a","image":"x"},{"name":"b","image":"y"}]}}},
            "status":{"readyReplicas":1}});
        assert_eq!(ready(&set), "1/3");
        assert_eq!(each(template(&set), "image"), "x,y");
        assert_eq!(labels(None), "<none>");
        assert_eq!(labels(Some(&json!({"a":"b","c":"d"}))), "a=b,c=d");
        let revision = json!({"metadata":{"ownerReferences":[{"apiVersion":"apps/v1","kind":"StatefulSet","name":"web","controller":true}]}});
        assert_eq!(controller(&revision), "statefulset.apps/web");
        assert_eq!(controller(&json!({})), "<none>");
    }
}
