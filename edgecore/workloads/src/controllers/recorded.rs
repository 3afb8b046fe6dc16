//! What a real cluster's controllers did, step by step, and that ours do the same.
//!
//! `recorded/workloads.json` was recorded from a kube-apiserver and a kube-controller-manager that served version 1.34, on whose one node a
//! script played the machine. Each step says what was done and what was there when nothing moved any more: objects without what differs from run
//! to run (times, uids, generated names), each stored once. The one word changed in it: messages about StatefulSets begin in lower case, as up
//! to 1.33.

use std::collections::BTreeSet;

use metastore::api::{DeleteOptions, Propagation};
use serde_json::{Map, Value, json};

use super::shared::{annotation, is_terminating, list, name, number, text};
use super::testing::{NAMESPACE, NODE, Stage};
use super::{daemon_set, deployment, replica_set, stateful_set};
use crate::cluster::{
    CONTROLLER_REVISIONS, Cluster, DAEMON_SETS, DEPLOYMENTS, EVENTS, Key, Kind, PERSISTENT_VOLUME_CLAIMS, PODS,
    REPLICA_SETS, STATEFUL_SETS,
};

const RECORDED: &str = include_str!("recorded/workloads.json");
const KINDS: [Kind; 7] = [
    DEPLOYMENTS,
    REPLICA_SETS,
    STATEFUL_SETS,
    DAEMON_SETS,
    CONTROLLER_REVISIONS,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
];
/// Fields of the metadata that differ from run to run, or that only one of both sides has.
const VARIES: [&str; 8] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "managedFields",
    "namespace",
    "finalizers",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

async fn stage() -> Stage {
    let stage = Stage::new(|cluster, events| {
        let of = |name: &str| (Cluster::new(cluster.api().clone(), name), events.of(name));
        let (sets, told) = of("statefulset-controller");
        let (daemons, daemons_told) = of("daemonset-controller");
        let (deployments, deployments_told) = of("deployment-controller");
        let (replicas, replicas_told) = of("replicaset-controller");
        vec![
            stateful_set::stateful_set(sets, told),
            daemon_set::daemon_set(daemons, daemons_told),
            deployment::deployment(deployments, deployments_told),
            replica_set::replica_set(replicas, replicas_told),
        ]
    });
    let stage = stage.await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": {"site": "north"}}});
    stage.create(node).await;
    stage
}

/// Words that stand for generated ones, in the order in which those were first seen.
#[derive(Default)]
struct Words(Vec<String>);

impl Words {
    fn learn(&mut self, word: &str) {
        if !word.is_empty() && !self.0.iter().any(|known| known == word) {
            self.0.push(word.to_owned());
        }
    }

    fn put(&self, text: &str) -> String {
        let numbered = self.0.iter().enumerate();
        numbered.fold(text.to_owned(), |text, (at, word)| {
            text.replace(word, &format!("HASH{}", at + 1))
        })
    }
}

fn kind_of(named: &str) -> Kind {
    KINDS.into_iter().find(|kind| kind.kind == named).unwrap()
}

async fn bind(stage: &Stage) {
    for pod in stage.pods() {
        if text(&pod, "/spec/nodeName").is_empty() {
            let target = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name(&pod)}, "target": {"kind": "Node", "name": NODE}});
            stage
                .cluster
                .act(PODS, &Key::of(&pod), "binding", &target)
                .await
                .unwrap();
        }
    }
}

async fn act(stage: &mut Stage, action: &str, with: &Value) {
    match action {
        "create" => {
            let mut object = with.clone();
            object["metadata"]["namespace"] = NAMESPACE.into();
            stage.create(object).await;
        }
        "patch" => {
            let change = |object: &mut Value| merge(object, &with["merge"]);
            stage
                .change(kind_of(text(with, "/kind")), text(with, "/name"), change)
                .await;
        }
        "delete" => stage.delete(kind_of(text(with, "/kind")), text(with, "/name")).await,
        "orphan" => {
            let (kind, named) = (kind_of(text(with, "/kind")), text(with, "/name"));
            let options = DeleteOptions {
                propagation: Some(Propagation::Orphan),
                ..DeleteOptions::default()
            };
            stage
                .cluster
                .delete(kind, &Key::new(NAMESPACE, named), &options)
                .await
                .unwrap();
            stage
                .until("it is gone", |stage| stage.get(kind, named).is_null())
                .await;
        }
        "fail" => stage.ended(with.as_str().unwrap(), "Failed").await,
        "gone" => stage.gone(with.as_str().unwrap()).await,
        "settle" => loop {
            stage.look().await;
            bind(stage).await;
            if !stage.pods_change().await {
                break;
            }
        },
        "look" => {}
        other => panic!("{other}"),
    }
    stage.look().await;
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (field, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(field);
        } else {
            merge(&mut target[field], value);
        }
    }
}

/// All objects as they are compared.
fn snapshot(stage: &Stage, words: &mut Words) -> Vec<Value> {
    let mut sets = stage.list(REPLICA_SETS);
    sets.sort_by_key(|set| annotation(set, "deployment.kubernetes.io/revision").and_then(|r| r.parse::<i64>().ok()));
    for set in &sets {
        words.learn(text(set, "/metadata/labels/pod-template-hash"));
    }
    let mut revisions = stage.list(CONTROLLER_REVISIONS);
    revisions.sort_by_key(|revision| number(revision, "/revision"));
    for revision in &revisions {
        words.learn(name(revision).rsplit('-').next().unwrap());
    }
    let mut all = Vec::new();
    for kind in KINDS {
        let rows = stage.list(kind);
        let mut rows: Vec<String> = rows.iter().map(|o| words.put(&plain(kind, o).to_string())).collect();
        rows.sort();
        all.extend(rows.iter().map(|row| serde_json::from_str::<Value>(row).unwrap()));
    }
    all
}

/// The fields of an object that are there.
fn some(object: &Value, fields: &[&str]) -> Value {
    let there = fields
        .iter()
        .filter_map(|f| Some(((*f).to_owned(), object.get(f)?.clone())));
    Value::Object(there.collect::<Map<_, _>>())
}

fn plain(kind: Kind, object: &Value) -> Value {
    let mut metadata = object["metadata"].clone();
    let map = metadata.as_object_mut().unwrap();
    VARIES.iter().for_each(|field| drop(map.remove(*field)));
    if is_terminating(object) {
        metadata["going"] = true.into();
    }
    for owner in metadata["ownerReferences"].as_array_mut().into_iter().flatten() {
        owner.as_object_mut().unwrap().remove("uid");
    }
    metadata.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    if let Some(prefix) = metadata.get("generateName").and_then(Value::as_str) {
        metadata["name"] = format!("{prefix}*").into();
    }
    let spec = &object["spec"];
    let mut out = json!({"kind": kind.kind});
    if kind == PODS {
        metadata.as_object_mut().unwrap().remove("generation");
        out["spec"] = some(spec, &["hostname", "subdomain", "affinity"]);
        let given = |t: &&Value| t["tolerationSeconds"] == 300;
        let tolerations: Vec<&Value> = list(object, "/spec/tolerations").iter().filter(|t| !given(t)).collect();
        if !tolerations.is_empty() {
            out["spec"]["tolerations"] = json!(tolerations);
        }
        let token = |v: &&Value| text(v, "/name").starts_with("kube-api-access");
        let volumes: Vec<&Value> = list(object, "/spec/volumes").iter().filter(|v| !token(v)).collect();
        if !volumes.is_empty() {
            out["spec"]["volumes"] = json!(volumes);
        }
        out["spec"]["image"] = spec["containers"][0]["image"].clone();
        out["phase"] = object["status"]["phase"].clone();
    } else if kind == PERSISTENT_VOLUME_CLAIMS {
        metadata.as_object_mut().unwrap().remove("annotations");
        out["spec"] = some(spec, &["accessModes", "resources"]);
    } else if kind == CONTROLLER_REVISIONS {
        let template = &object["data"]["spec"]["template"];
        out["revision"] = object["revision"].clone();
        out["image"] = template["spec"]["containers"][0]["image"].clone();
        out["patch"] = template["$patch"].clone();
        out["labels"] = template["metadata"]["labels"].clone();
    } else {
        out["status"] = object["status"].clone();
        for condition in out["status"]["conditions"].as_array_mut().into_iter().flatten() {
            for time in ["lastUpdateTime", "lastTransitionTime"] {
                if condition.get(time).is_some() {
                    condition[time] = "T".into();
                }
            }
        }
        if let Some(status) = out["status"].as_object_mut() {
            status.retain(|_, value| !value.is_null());
        }
        if kind == REPLICA_SETS {
            // How many steps a rollout took depends on how fast pods came up.
            let seen = out["status"]["observedGeneration"] == metadata["generation"];
            out["status"]["observedGeneration"] = seen.into();
            metadata.as_object_mut().unwrap().remove("generation");
            out["spec"] = some(spec, &["replicas", "selector", "minReadySeconds"]);
            out["template"] = spec["template"]["metadata"]["labels"].clone();
            out["image"] = spec["template"]["spec"]["containers"][0]["image"].clone();
        }
    }
    out["metadata"] = metadata;
    out
}

/// Events as they are compared: what was told about whom by whom. From how many to how many depends on how fast pods came up.
fn told(stage: &Stage, words: &Words) -> BTreeSet<String> {
    let line = |event: &Value| {
        let mut message = text(event, "/message").to_owned();
        let of_pod = message.starts_with("Created pod: ") || message.starts_with("Deleted pod: ");
        if of_pod && message.rsplit('-').next().is_some_and(|end| end.len() == 5) {
            message.truncate(message.len() - 5);
            message.push('*');
        }
        if let Some(at) = message.find(" from ") {
            message.truncate(at);
            message.push_str(" from # to #");
        }
        let (about, tone) = (text(event, "/involvedObject/kind"), text(event, "/type"));
        let (who, reason) = (text(event, "/source/component"), text(event, "/reason"));
        words.put(&format!("{about} {tone} {who} {reason}: {message}"))
    };
    stage.list(EVENTS).iter().map(line).collect()
}

async fn replay(scenario: &Value, objects: &[Value]) {
    let mut stage = stage().await;
    let mut words = Words::default();
    let title = text(scenario, "/name");
    for (at, step) in list(scenario, "/steps").iter().enumerate() {
        for (action, with) in step["do"].as_object().unwrap() {
            act(&mut stage, action, with).await;
        }
        let then = list(step, "/then").iter();
        let wanted: Vec<&Value> = then
            .map(|o| &objects[usize::try_from(o.as_u64().unwrap()).unwrap()])
            .collect();
        let have = snapshot(&stage, &mut words);
        let only = |these: &[&Value], those: &[&Value]| {
            let missing = these.iter().filter(|o| !those.contains(o));
            missing.map(|o| format!("{o}\n")).collect::<String>()
        };
        let have: Vec<&Value> = have.iter().collect();
        assert!(
            have == wanted,
            "{title}: step {at}, after {}:\nrecorded only:\n{}ours only:\n{}",
            step["do"],
            only(&wanted, &have),
            only(&have, &wanted)
        );
    }
    let events = list(scenario, "/events").iter().map(|e| e.as_str().unwrap().to_owned());
    let events: BTreeSet<String> = events.collect();
    let is_told = |stage: &Stage| told(stage, &words).is_superset(&events);
    stage.until(title, is_told).await;
    // A real cluster tells no more when it has told much of one kind: of the sets that it names, not all need be there.
    let of_any = |events: &BTreeSet<String>| {
        let strip = |event: &String| event.replace(|c: char| c.is_ascii_digit(), "");
        events.iter().map(strip).collect::<BTreeSet<_>>()
    };
    assert_eq!(of_any(&told(&stage, &words)), of_any(&events), "{title}");
}

async fn replay_named(title: &str) {
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    let scenario = list(&recorded, "/scenarios").iter().find(|s| text(s, "/name") == title);
    replay(scenario.unwrap(), list(&recorded, "/objects")).await;
}

macro_rules! scenarios {
    ($($test:ident: $title:literal,)*) => {
        $(#[tokio::test]
        async fn $test() {
            replay_named($title).await;
        })*

        #[test]
        fn every_recording_is_replayed() {
            let recorded: Value = serde_json::from_str(RECORDED).unwrap();
            let titles: Vec<&str> = list(&recorded, "/scenarios").iter().map(|s| text(s, "/name")).collect();
            assert_eq!(titles, [$($title),*]);
        }
    };
}

scenarios! {
    rollouts: "a rollout, one that does not come up, one back, a pause",
    recreated: "recreated",
    in_proportion: "in proportion",
    none_missing: "none may be missing",
    replicas: "a set of replicas",
    in_order: "one after another",
    in_parallel: "all at once",
    claims: "claims that go",
    daemons: "one on the node",
    daemon_affinity: "with affinity of its own",
    adopted_sets: "left alone and taken again",
    refused: "pods that are refused",
    adopted_pods: "orphans",
    adopted_named: "orphans with names",
    adopted_daemon: "an orphan on the node",
    strategies: "from one strategy to the other",
}
