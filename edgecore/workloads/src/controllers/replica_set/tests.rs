use super::*;
use crate::controllers::shared::{name, owner_reference, text};
use crate::controllers::testing::{NAMESPACE, Stage, key, workload};

fn set(replicas: i64) -> Value {
    workload("apps/v1", "ReplicaSet", "web", json!({"replicas": replicas}))
}

async fn stage() -> Stage {
    Stage::new(|cluster, events| vec![replica_set(cluster, events)]).await
}

#[tokio::test]
async fn pods_come_go_and_come_back() {
    let mut stage = stage().await;
    stage.create(set(3)).await;
    stage.look().await;
    let made = stage.pods();
    assert_eq!(made.len(), 3);
    let set = stage.get(REPLICA_SETS, "web");
    for pod in &made {
        assert!(name(pod).starts_with("web-") && name(pod).len() == 9, "{}", name(pod));
        assert_eq!(pod["metadata"]["labels"], json!({"app": "web"}));
        assert_eq!(
            pod["metadata"]["ownerReferences"],
            json!([{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": set["metadata"]["uid"],
                "controller": true, "blockOwnerDeletion": true,
            }])
        );
    }
    assert_eq!(
        set["status"],
        json!({"observedGeneration": 1, "replicas": 3, "fullyLabeledReplicas": 3})
    );
    stage.settle().await;
    assert_eq!(
        stage.get(REPLICA_SETS, "web")["status"],
        json!({"observedGeneration": 1, "replicas": 3, "fullyLabeledReplicas": 3, "readyReplicas": 3, "availableReplicas": 3})
    );

    // One fails, one is taken away by hand, one stays.
    stage.ended(name(&made[0]), "Failed").await;
    stage.delete(PODS, name(&made[1])).await;
    stage.settle().await;
    let now = stage.pods();
    assert_eq!(now.len(), 3);
    assert!(now.iter().any(|p| name(p) == name(&made[2])));

    stage
        .change(REPLICA_SETS, "web", |s| s["spec"]["replicas"] = 1.into())
        .await;
    stage.settle().await;
    assert_eq!(stage.pods().len(), 1);
    assert_eq!(
        stage.get(REPLICA_SETS, "web")["status"],
        json!({"observedGeneration": 2, "replicas": 1, "fullyLabeledReplicas": 1, "readyReplicas": 1, "availableReplicas": 1})
    );
    let told = stage.told("web", 7).await;
    assert_eq!(
        told.iter()
            .filter(|t| t.starts_with("SuccessfulCreate: Created pod: web-"))
            .count(),
        5
    );
    assert_eq!(
        told.iter()
            .filter(|t| t.starts_with("SuccessfulDelete: Deleted pod: web-"))
            .count(),
        2
    );

    stage
        .change(REPLICA_SETS, "web", |s| s["spec"]["replicas"] = 0.into())
        .await;
    stage.settle().await;
    assert_eq!(
        stage.get(REPLICA_SETS, "web")["status"],
        json!({"observedGeneration": 3, "replicas": 0})
    );
}

#[tokio::test]
async fn orphans_are_taken_and_strangers_let_go() {
    let mut stage = stage().await;
    let mut orphan = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "orphan", "namespace": NAMESPACE, "labels": {"app": "web", "more": "yes"}},
        "spec": {"containers": [{"name": "main", "image": "press:0"}]},
    });
    stage.create(orphan.clone()).await;
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "j", "namespace": NAMESPACE}});
    let other = stage.create(other).await;
    orphan["metadata"]["name"] = "owned".into();
    orphan["metadata"]["ownerReferences"] = json!([owner_reference(&other)]);
    stage.create(orphan.clone()).await;
    stage.create(set(2)).await;
    stage.settle().await;
    let controller = |stage: &Stage, pod: &str| stage.get(PODS, pod)["metadata"]["ownerReferences"][0]["name"].clone();
    assert_eq!(controller(&stage, "orphan"), "web");
    assert_eq!(controller(&stage, "owned"), "j");
    assert_eq!(stage.pods().len(), 3, "one was made beside the orphan");

    // A pod that gets another label is somebody else's, and is replaced; one that comes to fit is too many.
    stage
        .change(PODS, "orphan", |p| p["metadata"]["labels"]["app"] = "else".into())
        .await;
    stage.settle().await;
    assert_eq!(controller(&stage, "orphan"), Value::Null);
    assert_eq!(stage.pods().len(), 4);
    stage
        .change(PODS, "orphan", |p| p["metadata"]["labels"]["app"] = "web".into())
        .await;
    stage.settle().await;
    assert_eq!(stage.pods().len(), 3);
    assert_eq!(stage.get(REPLICA_SETS, "web")["status"]["replicas"], 2);
}

#[tokio::test]
async fn what_cannot_be_made_is_said() {
    let mut stage = stage().await;
    stage.refuse_pods(true);
    stage.create(set(5)).await;
    stage.look().await;
    let mut status = stage.get(REPLICA_SETS, "web")["status"].clone();
    status["conditions"][0]["lastTransitionTime"] = Value::Null;
    let why = "pods is forbidden: the gate is shut";
    assert_eq!(
        status,
        json!({"observedGeneration": 1, "replicas": 0, "conditions": [{
            "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": why, "lastTransitionTime": null,
        }]})
    );
    assert_eq!(
        stage.told("web", 1).await,
        [format!("FailedCreate: Error creating: {why}")],
        "asked for once, not five times"
    );
    stage.refuse_pods(false);
    // The next look, which the failure has asked for.
    stage
        .change(REPLICA_SETS, "web", |s| {
            s["metadata"]["annotations"] = json!({"a": "b"})
        })
        .await;
    stage.settle().await;
    assert_eq!(
        stage.get(REPLICA_SETS, "web")["status"],
        json!({"observedGeneration": 1, "replicas": 5, "fullyLabeledReplicas": 5, "readyReplicas": 5, "availableReplicas": 5})
    );
}

#[tokio::test]
async fn availability_is_looked_at_again_when_it_is_due() {
    let mut stage = stage().await;
    stage
        .create(workload(
            "apps/v1",
            "ReplicaSet",
            "web",
            json!({"replicas": 2, "minReadySeconds": 600}),
        ))
        .await;
    stage.look().await;
    let pods = stage.pods();
    stage.ready(name(&pods[0]), 590).await;
    stage.ready(name(&pods[1]), 601).await;
    let controller = replica_set(stage.cluster.clone(), stage.events.clone());
    let again = controller.reconcile(&key("web")).await.unwrap().unwrap();
    assert!(again.as_secs() >= 5 && again.as_secs() <= 10, "{again:?}");
    let status = stage.get(REPLICA_SETS, "web")["status"].clone();
    assert_eq!(
        (&status["readyReplicas"], &status["availableReplicas"]),
        (&json!(2), &json!(1))
    );
}

#[tokio::test]
async fn one_on_its_way_out_makes_nothing() {
    let mut stage = stage().await;
    let mut set = set(2);
    set["metadata"]["finalizers"] = json!(["test.io/hold"]);
    stage.create(set).await;
    stage.settle().await;
    stage.delete(REPLICA_SETS, "web").await;
    let pods = stage.pods();
    stage.delete(PODS, name(&pods[0])).await;
    stage.settle().await;
    assert_eq!(stage.pods().len(), 1);
    assert_eq!(stage.get(REPLICA_SETS, "web")["status"]["replicas"], 1);
    assert!(!text(&stage.get(REPLICA_SETS, "web"), "/metadata/deletionTimestamp").is_empty());
}

#[tokio::test]
async fn a_slip_of_the_finger_does_not_fill_the_disk() {
    let mut stage = stage().await;
    stage.create(set(1_000_000)).await;
    stage.step().await;
    assert_eq!(stage.pods().len(), MOST);
    let status = stage.get(REPLICA_SETS, "web")["status"].clone();
    assert_eq!(status["replicas"], MOST);
    assert_eq!(status["conditions"][0]["reason"], "FailedCreate");
    let why = "1000000 replicas are wanted, a gateway makes at most 1000 of one set";
    assert_eq!(status["conditions"][0]["message"], why);
}
