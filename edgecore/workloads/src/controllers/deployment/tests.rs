use serde_json::json;

use super::*;
use crate::cluster::PODS;
use crate::controllers::replica_set::replica_set;
use crate::controllers::shared::{condition, is_available, is_ready, name};
use crate::controllers::testing::{NAMESPACE, Stage, key, workload};

mod random;

async fn stage() -> Stage {
    Stage::new(|cluster, events| {
        vec![
            deployment(cluster.clone(), events.of("deployment-controller")),
            replica_set(cluster, events.of("replicaset-controller")),
        ]
    })
    .await
}

fn web(replicas: i64, spec: Value) -> Value {
    let mut object = workload("apps/v1", "Deployment", "web", spec);
    object["spec"]["replicas"] = replicas.into();
    object["metadata"]["annotations"] =
        json!({"note": "kept", "kubectl.kubernetes.io/last-applied-configuration": "{}"});
    object
}

async fn set_image(stage: &Stage, image: &str) {
    let change = |d: &mut Value| d["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
    stage.change(DEPLOYMENTS, "web", change).await;
}

/// Image and size of each set, the oldest revision first.
fn sizes(stage: &Stage) -> Vec<(String, i64)> {
    let mut sets = stage.list(REPLICA_SETS);
    sets.sort_by_key(|s| annotation(s, REVISION).unwrap().parse::<i64>().unwrap());
    let image = |set: &Value| text(set, "/spec/template/spec/containers/0/image").to_owned();
    sets.iter().map(|s| (image(s), number(s, "/spec/replicas"))).collect()
}

fn set_of(stage: &Stage, image: &str) -> Value {
    let mut sets = stage.list(REPLICA_SETS);
    sets.retain(|s| text(s, "/spec/template/spec/containers/0/image") == image);
    sets.pop().unwrap_or_default()
}

fn status(stage: &Stage) -> Value {
    stage.get(DEPLOYMENTS, "web")["status"].clone()
}

/// A condition as `status/reason: message`.
fn says(stage: &Stage, ty: &str) -> String {
    let status = status(stage);
    let found = condition(&status, ty).cloned().unwrap_or_default();
    format!(
        "{}/{}: {}",
        text(&found, "/status"),
        text(&found, "/reason"),
        text(&found, "/message")
    )
}

/// The counts of the status, without its conditions.
fn counted(stage: &Stage) -> Value {
    let mut status = status(stage);
    status.as_object_mut().unwrap().remove("conditions");
    status
}

#[tokio::test]
async fn the_first_template_comes_up() {
    let mut stage = stage().await;
    stage.create(web(3, json!({}))).await;
    stage.look().await;
    let set = set_of(&stage, "press:1");
    let hash = text(&set, "/metadata/labels/pod-template-hash");
    assert_eq!(name(&set), format!("web-{hash}"));
    assert_eq!(set["metadata"]["labels"], json!({"app": "web", HASH: hash}));
    assert_eq!(
        set["spec"]["selector"],
        json!({"matchLabels": {"app": "web", HASH: hash}})
    );
    assert_eq!(
        set["spec"]["template"]["metadata"]["labels"],
        json!({"app": "web", HASH: hash})
    );
    assert_eq!(
        set["metadata"]["annotations"],
        json!({
            "note": "kept",
            "deployment.kubernetes.io/revision": "1",
            "deployment.kubernetes.io/desired-replicas": "3",
            "deployment.kubernetes.io/max-replicas": "4",
        })
    );
    assert_eq!(
        counted(&stage),
        json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "unavailableReplicas": 3})
    );
    assert_eq!(
        says(&stage, "Available"),
        "False/MinimumReplicasUnavailable: Deployment does not have minimum availability."
    );
    assert_eq!(
        says(&stage, "Progressing"),
        format!("True/ReplicaSetUpdated: ReplicaSet \"web-{hash}\" is progressing.")
    );
    stage.settle().await;
    let deployment = stage.get(DEPLOYMENTS, "web");
    assert_eq!(annotation(&deployment, REVISION), Some("1"));
    assert_eq!(
        number(&deployment, "/metadata/generation"),
        1,
        "what the controller notes is no wish"
    );
    assert_eq!(
        counted(&stage),
        json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3, "availableReplicas": 3})
    );
    assert_eq!(
        says(&stage, "Available"),
        "True/MinimumReplicasAvailable: Deployment has minimum availability."
    );
    assert_eq!(
        says(&stage, "Progressing"),
        format!("True/NewReplicaSetAvailable: ReplicaSet \"web-{hash}\" has successfully progressed.")
    );
    assert_eq!(
        stage.told("web", 1).await,
        [format!(
            "ScalingReplicaSet: Scaled up replica set web-{hash} from 0 to 3"
        )]
    );
    let revision = stage.cluster.store().revision();
    stage.settle().await;
    assert_eq!(
        stage.cluster.store().revision(),
        revision,
        "what is as it should be is left alone"
    );
}

#[tokio::test]
async fn a_template_follows_another_by_and_by() {
    let mut stage = stage().await;
    stage.create(web(4, json!({}))).await;
    stage.settle().await;
    set_image(&stage, "press:2").await;
    let mut seen = Vec::new();
    loop {
        stage.look().await;
        seen.push(sizes(&stage).iter().map(|(_, size)| *size).collect::<Vec<_>>());
        if !stage.pods_change().await {
            break;
        }
    }
    seen.dedup();
    assert_eq!(
        seen,
        [[3, 2], [1, 4], [0, 4]],
        "a quarter of four more, a quarter missing"
    );
    assert_eq!(
        counted(&stage),
        json!({"observedGeneration": 2, "replicas": 4, "updatedReplicas": 4, "readyReplicas": 4, "availableReplicas": 4})
    );
    let (old, new) = (set_of(&stage, "press:1"), set_of(&stage, "press:2"));
    let (old, new) = (name(&old), name(&new));
    let mut expected = [
        format!("ScalingReplicaSet: Scaled up replica set {old} from 0 to 4"),
        format!("ScalingReplicaSet: Scaled up replica set {new} from 0 to 1"),
        format!("ScalingReplicaSet: Scaled down replica set {old} from 4 to 3"),
        format!("ScalingReplicaSet: Scaled up replica set {new} from 1 to 2"),
        format!("ScalingReplicaSet: Scaled down replica set {old} from 3 to 1"),
        format!("ScalingReplicaSet: Scaled up replica set {new} from 2 to 4"),
        format!("ScalingReplicaSet: Scaled down replica set {old} from 1 to 0"),
    ];
    expected.sort();
    assert_eq!(stage.told("web", 7).await, expected);
}

#[tokio::test]
async fn recreating_waits_for_the_last_old_pod() {
    let mut stage = stage().await;
    stage.create(web(2, json!({"strategy": {"type": "Recreate"}}))).await;
    stage.settle().await;
    set_image(&stage, "press:2").await;
    stage.look().await;
    assert_eq!(sizes(&stage), [("press:1".into(), 0)]);
    let going = stage.list(PODS);
    assert_eq!(going.len(), 2);
    stage.gone(name(&going[0])).await;
    stage.look().await;
    assert_eq!(sizes(&stage).len(), 1, "one is still on its way out");
    stage.gone(name(&going[1])).await;
    stage.settle().await;
    assert_eq!(sizes(&stage), [("press:1".into(), 0), ("press:2".into(), 2)]);
    assert_eq!(number(&status(&stage), "/availableReplicas"), 2);
}

#[tokio::test]
async fn going_back_takes_the_old_set_again() {
    let mut stage = stage().await;
    stage.create(web(2, json!({"revisionHistoryLimit": 2}))).await;
    stage.settle().await;
    let first = set_of(&stage, "press:1");
    for image in ["press:2", "press:1", "press:2", "press:1"] {
        set_image(&stage, image).await;
        stage.settle().await;
    }
    assert_eq!(sizes(&stage), [("press:2".into(), 0), ("press:1".into(), 2)]);
    let back = set_of(&stage, "press:1");
    assert_eq!(back["metadata"]["uid"], first["metadata"]["uid"]);
    assert_eq!(annotation(&back, REVISION), Some("5"));
    assert_eq!(
        annotation(&back, "deployment.kubernetes.io/revision-history"),
        Some("1,3")
    );
    assert_eq!(annotation(&stage.get(DEPLOYMENTS, "web"), REVISION), Some("5"));

    for image in ["press:3", "press:4", "press:5"] {
        set_image(&stage, image).await;
        stage.settle().await;
    }
    let kept: Vec<String> = sizes(&stage).into_iter().map(|(image, _)| image).collect();
    assert_eq!(kept, ["press:3", "press:4", "press:5"], "two old ones are kept");
}

#[tokio::test]
async fn a_paused_one_is_scaled_and_not_moved() {
    let mut stage = stage().await;
    stage.create(web(2, json!({}))).await;
    stage.settle().await;
    stage
        .change(DEPLOYMENTS, "web", |d| d["spec"]["paused"] = true.into())
        .await;
    set_image(&stage, "press:2").await;
    stage.settle().await;
    assert_eq!(sizes(&stage), [("press:1".into(), 2)]);
    assert_eq!(
        says(&stage, "Progressing"),
        "Unknown/DeploymentPaused: Deployment is paused"
    );
    assert_eq!(status(&stage).get("updatedReplicas"), None);
    stage
        .change(DEPLOYMENTS, "web", |d| d["spec"]["replicas"] = 3.into())
        .await;
    stage.settle().await;
    assert_eq!(sizes(&stage), [("press:1".into(), 3)]);
    stage
        .change(DEPLOYMENTS, "web", |d| d["spec"]["paused"] = false.into())
        .await;
    stage.step().await;
    stage.settle().await;
    assert_eq!(sizes(&stage), [("press:1".into(), 0), ("press:2".into(), 3)]);
    assert!(says(&stage, "Progressing").starts_with("True/NewReplicaSetAvailable"));
}

#[tokio::test]
async fn a_rollout_that_was_scaled_to_where_it_stood_goes_on() {
    for strategy in ["RollingUpdate", "Recreate"] {
        let mut stage = stage().await;
        let rolling = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "50%", "maxUnavailable": "50%"}});
        stage.create(web(4, json!({"strategy": rolling}))).await;
        stage.settle().await;
        set_image(&stage, "press:2").await;
        stage.look().await;
        assert_eq!(sizes(&stage), [("press:1".into(), 2), ("press:2".into(), 4)]);
        let change = |d: &mut Value| {
            d["spec"]["replicas"] = 2.into();
            if strategy == "Recreate" {
                d["spec"]["strategy"] = json!({"type": strategy});
            }
        };
        stage.change(DEPLOYMENTS, "web", change).await;
        stage.settle().await;
        set_image(&stage, "press:3").await;
        stage.settle().await;
        assert_eq!(sizes(&stage).last().unwrap(), &("press:3".into(), 2), "{strategy}");
        assert!(
            says(&stage, "Progressing").starts_with("True/NewReplicaSetAvailable"),
            "{strategy}"
        );
    }
}

#[tokio::test]
async fn in_the_middle_of_a_rollout_all_sets_grow_and_shrink_in_proportion() {
    let mut stage = stage().await;
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}});
    stage.create(web(10, json!({"strategy": strategy}))).await;
    stage.settle().await;
    set_image(&stage, "press:2").await;
    stage.look().await;
    assert_eq!(sizes(&stage), [("press:1".into(), 8), ("press:2".into(), 5)]);
    stage
        .change(DEPLOYMENTS, "web", |d| d["spec"]["replicas"] = 15.into())
        .await;
    stage.look().await;
    assert_eq!(sizes(&stage), [("press:1".into(), 11), ("press:2".into(), 7)]);
    let annotations = set_of(&stage, "press:1")["metadata"]["annotations"].clone();
    assert_eq!(annotations["deployment.kubernetes.io/desired-replicas"], "15");
    assert_eq!(annotations["deployment.kubernetes.io/max-replicas"], "18");
    stage
        .change(DEPLOYMENTS, "web", |d| d["spec"]["replicas"] = 5.into())
        .await;
    stage.look().await;
    assert!(sizes(&stage).iter().map(|(_, size)| size).sum::<i64>() <= 8);
    stage.settle().await;
    assert_eq!(sizes(&stage), [("press:1".into(), 0), ("press:2".into(), 5)]);
    stage
        .change(DEPLOYMENTS, "web", |d| d["spec"]["replicas"] = 0.into())
        .await;
    stage.settle().await;
    assert_eq!(sizes(&stage), [("press:1".into(), 0), ("press:2".into(), 0)]);
    assert_eq!(counted(&stage), json!({"observedGeneration": 5}));
}

#[tokio::test]
async fn a_rollout_that_does_not_move_is_said_to_be_stuck() {
    let mut stage = stage().await;
    stage.create(web(2, json!({"progressDeadlineSeconds": 60}))).await;
    stage.look().await;
    let controller = deployment(stage.cluster.clone(), stage.events.clone());
    let again = controller.reconcile(&key("web")).await.unwrap().unwrap();
    assert!(again.as_secs() > 50 && again.as_secs() <= 61, "{again:?}");

    // A minute and a half ago there was progress last.
    let mut before = status(&stage);
    let past = crate::time::stamp(daemon::clock::wall_ms() - 90_000);
    for condition in before["conditions"].as_array_mut().unwrap() {
        condition["lastUpdateTime"] = past.clone().into();
    }
    stage.status(DEPLOYMENTS, "web", before).await;
    stage.look().await;
    let set = set_of(&stage, "press:1");
    assert_eq!(
        says(&stage, "Progressing"),
        format!(
            "False/ProgressDeadlineExceeded: ReplicaSet \"{}\" has timed out progressing.",
            name(&set)
        )
    );
    assert_eq!(
        controller.reconcile(&key("web")).await.unwrap(),
        None,
        "it is said once"
    );
    stage.settle().await;
    assert!(says(&stage, "Progressing").starts_with("True/NewReplicaSetAvailable"));
    stage
        .change(DEPLOYMENTS, "web", |d| {
            d["spec"]["progressDeadlineSeconds"] = i32::MAX.into()
        })
        .await;
    stage.settle().await;
    assert_eq!(says(&stage, "Progressing"), "/: ");
}

#[tokio::test]
async fn two_templates_of_one_name_get_two() {
    let mut stage = stage().await;
    let deployment = stage.create(web(1, json!({}))).await;
    // Somebody else's set has the name that ours would have.
    let hash = crate::controllers::shared::template_hash(&deployment["spec"]["template"], None);
    let mut other = workload("apps/v1", "ReplicaSet", "else", json!({"replicas": 0}));
    other["metadata"]["name"] = format!("web-{hash}").into();
    stage.create(other).await;
    for _ in 0..4 {
        stage.look().await;
        // The refusal is tried again after a while, a change at once.
        stage
            .change(DEPLOYMENTS, "web", |d| d["metadata"]["labels"]["again"] = "x".into())
            .await;
        stage
            .change(DEPLOYMENTS, "web", |d| d["metadata"]["labels"] = json!({}))
            .await;
    }
    stage.settle().await;
    assert_eq!(number(&status(&stage), "/collisionCount"), 1);
    assert_eq!(number(&status(&stage), "/availableReplicas"), 1);
    assert_eq!(stage.list(REPLICA_SETS).len(), 2);
}

#[tokio::test]
async fn why_pods_cannot_be_made_is_said() {
    let mut stage = stage().await;
    stage.refuse_pods(true);
    stage.create(web(2, json!({}))).await;
    stage.look().await;
    assert_eq!(
        says(&stage, "ReplicaFailure"),
        "True/FailedCreate: pods is forbidden: the gate is shut"
    );
    stage.refuse_pods(false);
    let set = name(&set_of(&stage, "press:1")).to_owned();
    stage
        .change(REPLICA_SETS, &set, |s| {
            s["metadata"]["annotations"]["now"] = "yes".into()
        })
        .await;
    stage.settle().await;
    assert_eq!(says(&stage, "ReplicaFailure"), "/: ");
    assert_eq!(number(&status(&stage), "/availableReplicas"), 2);
}

#[tokio::test]
async fn a_set_that_fits_is_taken_with_its_pods() {
    let mut stage = stage().await;
    stage.create(web(2, json!({}))).await;
    stage.settle().await;
    let before = stage.pods();
    // Deleted without what it owns, and made again: a restore.
    let orphan = metastore::api::DeleteOptions {
        propagation: Some(metastore::api::Propagation::Orphan),
        ..Default::default()
    };
    stage.cluster.delete(DEPLOYMENTS, &key("web"), &orphan).await.unwrap();
    stage
        .until("the deployment is gone", |stage| {
            stage.get(DEPLOYMENTS, "web").is_null()
        })
        .await;
    stage.create(web(2, json!({}))).await;
    stage.settle().await;
    let uids = |pods: &[Value]| {
        pods.iter()
            .map(|p| text(p, "/metadata/uid").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(uids(&stage.pods()), uids(&before));
    assert_eq!(stage.list(REPLICA_SETS).len(), 1);
    let deployment = stage.get(DEPLOYMENTS, "web");
    assert_eq!(annotation(&deployment, REVISION), Some("1"));
    let set = name(&set_of(&stage, "press:1")).to_owned();
    assert_eq!(
        says(&stage, "Progressing"),
        format!("True/NewReplicaSetAvailable: ReplicaSet \"{set}\" has successfully progressed.")
    );
    assert_eq!(deployment["metadata"]["namespace"], NAMESPACE);
}
