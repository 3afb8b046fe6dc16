use serde_json::json;

use super::*;
use crate::cluster::CONTROLLER_REVISIONS;
use crate::controllers::shared::{list, owner_reference};
use crate::controllers::testing::{NAMESPACE, Stage, key, workload};

async fn stage() -> Stage {
    Stage::new(|cluster, events| vec![stateful_set(cluster, events)]).await
}

fn db(replicas: i64, spec: Value) -> Value {
    let mut object = workload("apps/v1", "StatefulSet", "db", spec);
    object["spec"]["replicas"] = replicas.into();
    object["spec"]["serviceName"] = "db".into();
    object
}

async fn set_image(stage: &Stage, image: &str) {
    let change = |d: &mut Value| d["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
    stage.change(STATEFUL_SETS, "db", change).await;
}

/// Name and image of each pod, `-` before those on their way out.
fn pods(stage: &Stage) -> Vec<String> {
    let line = |pod: &Value| {
        let going = if is_terminating(pod) { "-" } else { "" };
        format!("{going}{}={}", name(pod), text(pod, "/spec/containers/0/image"))
    };
    stage.list(PODS).iter().map(line).collect()
}

fn status(stage: &Stage) -> Value {
    stage.get(STATEFUL_SETS, "db")["status"].clone()
}

/// One change of a pod, and what follows from it.
async fn tick(stage: &mut Stage) -> bool {
    stage.look().await;
    stage.pods_change().await
}

#[tokio::test]
async fn pods_come_one_after_another() {
    let mut stage = stage().await;
    stage.create(db(3, json!({"ordinals": {"start": 5}}))).await;
    stage.look().await;
    assert_eq!(pods(&stage), ["db-5=press:1"]);
    let revision = name(&stage.list(CONTROLLER_REVISIONS)[0]).to_owned();
    let pod = stage.get(PODS, "db-5");
    assert_eq!(
        pod["metadata"]["labels"],
        json!({
            "app": "db",
            "apps.kubernetes.io/pod-index": "5",
            "statefulset.kubernetes.io/pod-name": "db-5",
            "controller-revision-hash": revision,
        })
    );
    assert_eq!(
        (&pod["spec"]["hostname"], &pod["spec"]["subdomain"]),
        (&json!("db-5"), &json!("db"))
    );
    assert_eq!(
        status(&stage),
        json!({
            "observedGeneration": 1, "replicas": 1, "currentReplicas": 1, "updatedReplicas": 1, "availableReplicas": 0,
            "currentRevision": revision, "updateRevision": revision, "collisionCount": 0,
        })
    );
    tick(&mut stage).await;
    stage.look().await;
    assert_eq!(pods(&stage), ["db-5=press:1", "db-6=press:1"]);
    stage.settle().await;
    assert_eq!(
        status(&stage),
        json!({
            "observedGeneration": 1, "replicas": 3, "readyReplicas": 3, "currentReplicas": 3, "updatedReplicas": 3,
            "availableReplicas": 3, "currentRevision": revision, "updateRevision": revision, "collisionCount": 0,
        })
    );
    assert_eq!(
        stage.told("db", 3).await,
        [5, 6, 7].map(|n| format!("SuccessfulCreate: create Pod db-{n} in StatefulSet db successful"))
    );
    let revision = stage.cluster.store().revision();
    stage.settle().await;
    assert_eq!(
        stage.cluster.store().revision(),
        revision,
        "what is as it should be is left alone"
    );

    // And go one after another, the last first; one that is not well holds up those below it.
    stage
        .change(STATEFUL_SETS, "db", |s| s["spec"]["replicas"] = 0.into())
        .await;
    stage.look().await;
    assert_eq!(pods(&stage), ["db-5=press:1", "db-6=press:1", "-db-7=press:1"]);
    stage.status(PODS, "db-5", json!({"phase": "Running"})).await;
    stage.gone("db-7").await;
    stage.look().await;
    assert_eq!(pods(&stage), ["db-5=press:1", "-db-6=press:1"]);
    stage.settle().await;
    assert_eq!(pods(&stage), [""; 0]);
    assert_eq!(status(&stage)["replicas"], 0);
}

#[tokio::test]
async fn in_parallel_they_do_not_wait() {
    let mut stage = stage().await;
    stage.create(db(3, json!({"podManagementPolicy": "Parallel"}))).await;
    stage.look().await;
    assert_eq!(pods(&stage).len(), 3);
    stage
        .change(STATEFUL_SETS, "db", |s| s["spec"]["replicas"] = 1.into())
        .await;
    stage.look().await;
    assert_eq!(pods(&stage), ["db-0=press:1", "-db-1=press:1", "-db-2=press:1"]);
}

#[tokio::test]
async fn a_pod_that_ended_is_made_again_under_its_name() {
    let mut stage = stage().await;
    stage.create(db(2, json!({}))).await;
    stage.settle().await;
    let before = stage.get(PODS, "db-0");
    stage.ended("db-0", "Failed").await;
    stage.settle().await;
    let after = stage.get(PODS, "db-0");
    assert_ne!(uid(&before), uid(&after));
    assert_eq!(status(&stage)["availableReplicas"], 2);
    stage.delete(PODS, "db-1").await;
    stage.look().await;
    assert_eq!(
        pods(&stage),
        ["db-0=press:1", "-db-1=press:1"],
        "not before the old one is gone"
    );
    stage.settle().await;
    assert_eq!(pods(&stage), ["db-0=press:1", "db-1=press:1"]);
}

#[tokio::test]
async fn a_new_template_reaches_pods_from_the_last_to_the_partition() {
    let mut stage = stage().await;
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}});
    stage
        .create(db(3, json!({"updateStrategy": strategy, "revisionHistoryLimit": 1})))
        .await;
    stage.settle().await;
    let old = text(&status(&stage), "/updateRevision").to_owned();
    set_image(&stage, "press:2").await;
    stage.look().await;
    assert_eq!(pods(&stage), ["db-0=press:1", "db-1=press:1", "-db-2=press:1"]);
    let new = text(&status(&stage), "/updateRevision").to_owned();
    assert_eq!(
        status(&stage),
        json!({
            "observedGeneration": 2, "replicas": 3, "readyReplicas": 3, "currentReplicas": 2, "availableReplicas": 3,
            "currentRevision": old, "updateRevision": new, "collisionCount": 0,
        })
    );
    stage.gone("db-2").await;
    stage.look().await;
    assert_eq!(
        pods(&stage),
        ["db-0=press:1", "db-1=press:1", "db-2=press:2"],
        "the next waits for it"
    );
    stage.settle().await;
    assert_eq!(pods(&stage), ["db-0=press:1", "db-1=press:2", "db-2=press:2"]);
    assert_eq!(
        (&status(&stage)["currentReplicas"], &status(&stage)["updatedReplicas"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(status(&stage)["currentRevision"], old);
    stage.delete(PODS, "db-0").await;
    stage.settle().await;
    assert_eq!(
        pods(&stage)[0],
        "db-0=press:1",
        "below the partition it is made as it was"
    );

    stage
        .change(STATEFUL_SETS, "db", |s| {
            s["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = 0.into()
        })
        .await;
    stage.settle().await;
    assert_eq!(pods(&stage)[0], "db-0=press:2");
    assert_eq!(
        status(&stage),
        json!({
            "observedGeneration": 3, "replicas": 3, "readyReplicas": 3, "currentReplicas": 3, "updatedReplicas": 3,
            "availableReplicas": 3, "currentRevision": new, "updateRevision": new, "collisionCount": 0,
        })
    );

    // Back, on, on: revisions are found again, numbered and forgotten.
    let numbers = |stage: &Stage| {
        let mut all = stage.list(CONTROLLER_REVISIONS);
        all.sort_by_key(|r| number(r, "/revision"));
        let line = |r: &Value| {
            format!(
                "{}:{}",
                r["revision"],
                text(&revisions::template(r), "/spec/containers/0/image")
            )
        };
        all.iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&stage), ["1:press:1", "2:press:2"]);
    set_image(&stage, "press:1").await;
    stage.settle().await;
    assert_eq!(numbers(&stage), ["2:press:2", "3:press:1"]);
    assert_eq!(status(&stage)["updateRevision"], old);
    for image in ["press:3", "press:4"] {
        set_image(&stage, image).await;
        stage.settle().await;
    }
    assert_eq!(numbers(&stage), ["4:press:3", "5:press:4"]);
}

#[tokio::test]
async fn several_may_be_missing_where_that_is_said() {
    let mut stage = stage().await;
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}});
    stage
        .create(db(
            3,
            json!({"updateStrategy": strategy, "podManagementPolicy": "Parallel"}),
        ))
        .await;
    stage.settle().await;
    set_image(&stage, "press:2").await;
    stage.look().await;
    assert_eq!(pods(&stage), ["db-0=press:1", "-db-1=press:1", "-db-2=press:1"]);
    stage.settle().await;
    assert_eq!(pods(&stage), ["db-0=press:2", "db-1=press:2", "db-2=press:2"]);
}

#[tokio::test]
async fn on_delete_a_pod_gets_the_new_template_when_somebody_deletes_it() {
    let mut stage = stage().await;
    stage
        .create(db(2, json!({"updateStrategy": {"type": "OnDelete"}})))
        .await;
    stage.settle().await;
    set_image(&stage, "press:2").await;
    stage.settle().await;
    assert_eq!(pods(&stage), ["db-0=press:1", "db-1=press:1"]);
    stage.delete(PODS, "db-0").await;
    stage.settle().await;
    assert_eq!(pods(&stage), ["db-0=press:2", "db-1=press:1"]);
}

fn with_claims(replicas: i64, scaled: &str, deleted: &str) -> Value {
    let claim = json!({
        "metadata": {"name": "data", "labels": {"of": "db"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    db(
        replicas,
        json!({
            "volumeClaimTemplates": [claim],
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": scaled, "whenDeleted": deleted},
        }),
    )
}

#[tokio::test]
async fn claims_stay_with_their_ordinal() {
    let mut stage = stage().await;
    stage.create(with_claims(2, "Retain", "Retain")).await;
    stage.settle().await;
    let claim = stage.get(PERSISTENT_VOLUME_CLAIMS, "data-db-1");
    assert_eq!(claim["metadata"]["labels"], json!({"app": "db", "of": "db"}));
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "1Gi");
    assert_eq!(claim["metadata"].get("ownerReferences"), None);
    let pod = stage.get(PODS, "db-1");
    let volume = json!({"name": "data", "persistentVolumeClaim": {"claimName": "data-db-1"}});
    assert!(
        list(&pod, "/spec/volumes").contains(&volume),
        "{}",
        pod["spec"]["volumes"]
    );
    assert_eq!(
        stage.told("db", 4).await,
        [
            "SuccessfulCreate: create Claim data-db-0 Pod db-0 in StatefulSet db success",
            "SuccessfulCreate: create Claim data-db-1 Pod db-1 in StatefulSet db success",
            "SuccessfulCreate: create Pod db-0 in StatefulSet db successful",
            "SuccessfulCreate: create Pod db-1 in StatefulSet db successful",
        ]
    );
    stage
        .change(STATEFUL_SETS, "db", |s| s["spec"]["replicas"] = 1.into())
        .await;
    stage.settle().await;
    stage
        .change(STATEFUL_SETS, "db", |s| s["spec"]["replicas"] = 2.into())
        .await;
    stage.settle().await;
    assert_eq!(uid(&stage.get(PERSISTENT_VOLUME_CLAIMS, "data-db-1")), uid(&claim));
}

#[tokio::test]
async fn claims_go_with_whom_the_set_says() {
    let mut stage = stage().await;
    let set = stage.create(with_claims(2, "Delete", "Delete")).await;
    stage.settle().await;
    let owners =
        |stage: &Stage, claim: &str| stage.get(PERSISTENT_VOLUME_CLAIMS, claim)["metadata"]["ownerReferences"].clone();
    assert_eq!(owners(&stage, "data-db-0"), json!([owner_reference(&set)]));
    assert_eq!(owners(&stage, "data-db-1"), json!([owner_reference(&set)]));
    let pod = stage.get(PODS, "db-1");
    stage
        .change(STATEFUL_SETS, "db", |s| s["spec"]["replicas"] = 1.into())
        .await;
    stage.look().await;
    assert_eq!(owners(&stage, "data-db-1"), json!([owner_reference(&pod)]));
    assert_eq!(owners(&stage, "data-db-0"), json!([owner_reference(&set)]));
    // Wanted again at once: it waits until what went with the pod before is gone.
    stage
        .change(STATEFUL_SETS, "db", |s| s["spec"]["replicas"] = 2.into())
        .await;
    stage.gone("db-1").await;
    stage.look().await;
    let left = claim_left(&stage);
    if left {
        assert_eq!(pods(&stage), ["db-0=press:1"]);
    }
    stage.until("the claim is gone", |stage| !claim_left(stage)).await;
    stage.settle().await;
    assert_eq!(pods(&stage), ["db-0=press:1", "db-1=press:1"]);
    assert_eq!(owners(&stage, "data-db-1"), json!([owner_reference(&set)]));
    stage
        .change(STATEFUL_SETS, "db", |s| {
            s["spec"]["persistentVolumeClaimRetentionPolicy"] =
                json!({"whenScaled": "Retain", "whenDeleted": "Retain"});
        })
        .await;
    stage.settle().await;
    assert!(owners(&stage, "data-db-0").as_array().is_none_or(Vec::is_empty));

    fn claim_left(stage: &Stage) -> bool {
        let claim = stage.get(PERSISTENT_VOLUME_CLAIMS, "data-db-1");
        list(&claim, "/metadata/ownerReferences")
            .iter()
            .any(|o| o["kind"] == "Pod")
    }
}

#[tokio::test]
async fn it_waits_for_availability_and_puts_labels_back() {
    let mut stage = stage().await;
    stage.create(db(2, json!({"minReadySeconds": 600}))).await;
    stage.look().await;
    stage.ready("db-0", 590).await;
    stage.look().await;
    assert_eq!(pods(&stage).len(), 1);
    let controller = stateful_set(stage.cluster.clone(), stage.events.clone());
    let again = controller.reconcile(&key("db")).await.unwrap().unwrap();
    assert!(again.as_secs() >= 5 && again.as_secs() <= 10, "{again:?}");
    stage.ready("db-0", 601).await;
    stage.look().await;
    assert_eq!(pods(&stage).len(), 2);

    stage
        .change(PODS, "db-0", |p| {
            drop(
                p["metadata"]["labels"]
                    .as_object_mut()
                    .unwrap()
                    .remove("statefulset.kubernetes.io/pod-name"),
            )
        })
        .await;
    stage.look().await;
    assert_eq!(
        stage.get(PODS, "db-0")["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"],
        "db-0"
    );
}

#[tokio::test]
async fn only_pods_of_its_names_are_taken() {
    let mut stage = stage().await;
    for named in ["db-0", "db-x", "other-0"] {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": named, "namespace": NAMESPACE, "labels": {"app": "db"}},
            "spec": {"containers": [{"name": "main", "image": "press:0"}]},
        });
        stage.create(pod).await;
    }
    stage
        .create(db(1, json!({"updateStrategy": {"type": "OnDelete"}})))
        .await;
    stage.settle().await;
    let owned = |named: &str| !list(&stage.get(PODS, named), "/metadata/ownerReferences").is_empty();
    assert!(owned("db-0") && !owned("db-x") && !owned("other-0"));
}
