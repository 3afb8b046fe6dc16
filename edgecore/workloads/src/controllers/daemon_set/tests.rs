use super::*;
use crate::cluster::CONTROLLER_REVISIONS;
use crate::controllers::testing::{NODE, Stage, workload};

async fn stage() -> Stage {
    let stage = Stage::new(|cluster, events| vec![daemon_set(cluster, events)]).await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": {"site": "north"}}});
    stage.create(node).await;
    stage
}

fn agent(spec: Value) -> Value {
    let mut object = workload("apps/v1", "DaemonSet", "agent", spec);
    // On which node it is, the controller says.
    object["spec"]["template"]["spec"]
        .as_object_mut()
        .unwrap()
        .remove("nodeName");
    object
}

async fn set_node(stage: &Stage, change: impl FnMut(&mut Value) + Send) {
    let mut change = change;
    let key = Key::new("", NODE);
    let changed = stage.cluster.modify(NODES, &key, |node| {
        change(node);
        Ok(())
    });
    changed.await.unwrap();
}

/// Puts pods where they say they belong.
async fn bind(stage: &Stage) {
    for pod in stage.pods() {
        if text(&pod, "/spec/nodeName").is_empty() {
            let target = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name(&pod)}, "target": {"kind": "Node", "name": target(&pod).unwrap()}});
            stage
                .cluster
                .act(PODS, &Key::of(&pod), "binding", &target)
                .await
                .unwrap();
        }
    }
}

async fn settle(stage: &mut Stage) {
    loop {
        stage.look().await;
        bind(stage).await;
        if !stage.pods_change().await {
            return;
        }
    }
}

async fn set_image(stage: &Stage, image: &str) {
    let change = |d: &mut Value| d["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
    stage.change(DAEMON_SETS, "agent", change).await;
}

fn status(stage: &Stage) -> Value {
    stage.get(DAEMON_SETS, "agent")["status"].clone()
}

/// Image of each pod, `-` before those on their way out.
fn pods(stage: &Stage) -> Vec<String> {
    let pods = stage.list(PODS);
    let line = |pod: &Value| {
        let going = if is_terminating(pod) { "-" } else { "" };
        format!("{going}{}", text(pod, "/spec/containers/0/image"))
    };
    let mut lines: Vec<String> = pods.iter().map(line).collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn the_gateway_gets_its_pod() {
    let mut stage = stage().await;
    stage.create(agent(json!({}))).await;
    stage.look().await;
    let made = stage.pods();
    assert_eq!(made.len(), 1);
    let pod = &made[0];
    assert!(name(pod).starts_with("agent-"));
    let revision = &stage.list(CONTROLLER_REVISIONS)[0];
    let hash = text(revision, "/metadata/labels/controller-revision-hash");
    assert_eq!(name(revision), format!("agent-{hash}"));
    assert_eq!(
        pod["metadata"]["labels"],
        json!({"app": "agent", "controller-revision-hash": hash, "pod-template-generation": "1"})
    );
    assert_eq!(
        pod["spec"]["affinity"],
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [NODE]}]}]}}})
    );
    let tolerated: Vec<String> = pod["spec"]["tolerations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| format!("{}:{}", text(t, "/key"), text(t, "/effect")))
        .collect();
    assert_eq!(
        tolerated,
        [
            "node.kubernetes.io/not-ready:NoExecute",
            "node.kubernetes.io/unreachable:NoExecute",
            "node.kubernetes.io/disk-pressure:NoSchedule",
            "node.kubernetes.io/memory-pressure:NoSchedule",
            "node.kubernetes.io/pid-pressure:NoSchedule",
            "node.kubernetes.io/unschedulable:NoSchedule",
        ]
    );
    assert_eq!(
        status(&stage),
        json!({
            "observedGeneration": 1, "desiredNumberScheduled": 1, "currentNumberScheduled": 1, "numberMisscheduled": 0,
            "numberReady": 0, "updatedNumberScheduled": 1, "numberUnavailable": 1,
        })
    );
    settle(&mut stage).await;
    assert_eq!(
        status(&stage),
        json!({
            "observedGeneration": 1, "desiredNumberScheduled": 1, "currentNumberScheduled": 1, "numberMisscheduled": 0,
            "numberReady": 1, "updatedNumberScheduled": 1, "numberAvailable": 1,
        })
    );
    let told = stage.told("agent", 1).await;
    assert_eq!(told, [format!("SuccessfulCreate: Created pod: {}", name(pod))]);
    let revision = stage.cluster.store().revision();
    settle(&mut stage).await;
    assert_eq!(
        stage.cluster.store().revision(),
        revision,
        "what is as it should be is left alone"
    );
}

#[tokio::test]
async fn a_node_that_does_not_fit_has_none() {
    let mut stage = stage().await;
    let mut set = agent(json!({}));
    set["spec"]["template"]["spec"]["nodeSelector"] = json!({"site": "south"});
    stage.create(set).await;
    settle(&mut stage).await;
    assert_eq!(
        status(&stage),
        json!({"observedGeneration": 1, "desiredNumberScheduled": 0, "currentNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0})
    );
    set_node(&stage, |n| n["metadata"]["labels"]["site"] = "south".into()).await;
    settle(&mut stage).await;
    assert_eq!(status(&stage)["numberAvailable"], 1);

    // Kept off, it stays and is counted as misplaced; thrown out, it goes.
    let taint = |effect: &str| json!([{"key": "maintenance", "effect": effect}]);
    set_node(&stage, |n| n["spec"]["taints"] = taint("NoSchedule")).await;
    settle(&mut stage).await;
    assert_eq!(pods(&stage), ["press:1"]);
    assert_eq!(
        status(&stage),
        json!({"observedGeneration": 1, "desiredNumberScheduled": 0, "currentNumberScheduled": 0, "numberMisscheduled": 1, "numberReady": 0})
    );
    set_node(&stage, |n| n["spec"]["taints"] = taint("NoExecute")).await;
    settle(&mut stage).await;
    assert_eq!(pods(&stage), [""; 0]);
    let tolerated = json!([{"key": "maintenance", "operator": "Exists"}]);
    stage
        .change(DAEMON_SETS, "agent", |d| {
            d["spec"]["template"]["spec"]["tolerations"] = tolerated.clone()
        })
        .await;
    settle(&mut stage).await;
    assert_eq!(pods(&stage), ["press:1"]);
}

#[tokio::test]
async fn a_new_template_replaces_the_pod() {
    let mut stage = stage().await;
    stage.create(agent(json!({"revisionHistoryLimit": 1}))).await;
    settle(&mut stage).await;
    set_image(&stage, "press:2").await;
    stage.look().await;
    assert_eq!(pods(&stage), ["-press:1"], "the new one comes when the old one is gone");
    settle(&mut stage).await;
    assert_eq!(pods(&stage), ["press:2"]);
    assert_eq!(status(&stage)["updatedNumberScheduled"], 1);
    assert_eq!(status(&stage)["observedGeneration"], 2);
    for image in ["press:3", "press:4"] {
        set_image(&stage, image).await;
        settle(&mut stage).await;
    }
    let mut kept: Vec<i64> = stage
        .list(CONTROLLER_REVISIONS)
        .iter()
        .map(|r| number(r, "/revision"))
        .collect();
    kept.sort_unstable();
    assert_eq!(kept, [3, 4]);
}

#[tokio::test]
async fn with_surge_the_old_pod_goes_when_the_new_one_is_there() {
    let mut stage = stage().await;
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    stage.create(agent(json!({"updateStrategy": strategy}))).await;
    settle(&mut stage).await;
    set_image(&stage, "press:2").await;
    stage.look().await;
    assert_eq!(pods(&stage), ["press:1", "press:2"]);
    bind(&stage).await;
    stage.look().await;
    assert_eq!(pods(&stage), ["press:1", "press:2"], "the new one is not ready yet");
    stage.pods_change().await;
    stage.look().await;
    assert_eq!(pods(&stage), ["-press:1", "press:2"]);
    settle(&mut stage).await;
    assert_eq!(pods(&stage), ["press:2"]);
}

#[tokio::test]
async fn on_delete_it_waits_for_somebody() {
    let mut stage = stage().await;
    stage
        .create(agent(json!({"updateStrategy": {"type": "OnDelete"}})))
        .await;
    settle(&mut stage).await;
    set_image(&stage, "press:2").await;
    settle(&mut stage).await;
    assert_eq!(pods(&stage), ["press:1"]);
    assert_eq!(status(&stage).get("updatedNumberScheduled"), None);
    let pod = name(&stage.pods()[0]).to_owned();
    stage.delete(PODS, &pod).await;
    settle(&mut stage).await;
    assert_eq!(pods(&stage), ["press:2"]);
}

#[tokio::test]
async fn a_pod_that_fails_again_and_again_waits_longer_and_longer() {
    let mut stage = stage().await;
    stage.create(agent(json!({}))).await;
    settle(&mut stage).await;
    let first = name(&stage.pods()[0]).to_owned();
    stage.ended(&first, "Failed").await;
    settle(&mut stage).await;
    let second = name(&stage.pods()[0]).to_owned();
    assert_ne!(first, second);
    let told = stage.told("agent", 4).await;
    assert!(
        told.contains(&format!(
            "FailedDaemonPod: Found failed daemon pod default/{first} on node {NODE}, will try to kill it"
        )),
        "{told:?}"
    );
    stage.ended(&second, "Failed").await;
    settle(&mut stage).await;
    assert_eq!(
        stage.get(PODS, &second)["status"]["phase"],
        "Failed",
        "it is left for a second"
    );

    // Each time twice as long.
    let set = json!({"metadata": {"uid": "u"}});
    let sets = DaemonSets {
        cluster: stage.cluster.clone(),
        events: stage.events.clone(),
        failures: Mutex::default(),
    };
    let mut waits = Vec::new();
    for _ in 0..12 {
        assert_eq!(sets.back_off(&set, NODE), None);
        waits.push(sets.back_off(&set, NODE).unwrap().as_secs_f64().round());
        // As if that time had passed.
        let mut failures = sets.failures.lock().unwrap();
        let (at, wait) = failures.values_mut().next().unwrap();
        *at = at.checked_sub(*wait).unwrap();
    }
    assert_eq!(waits, [1., 2., 4., 8., 16., 32., 64., 128., 256., 512., 900., 900.]);
}

#[tokio::test]
async fn of_two_pods_on_a_node_the_younger_goes() {
    let mut stage = stage().await;
    stage.create(agent(json!({}))).await;
    settle(&mut stage).await;
    let first = stage.pods()[0].clone();
    let mut second = first.clone();
    second["metadata"] = json!({"name": "agent-zzzzz", "namespace": "default", "labels": first["metadata"]["labels"]});
    stage.create(second).await;
    settle(&mut stage).await;
    let left = stage.pods();
    assert_eq!(left.len(), 1);
    assert_eq!(uid(&left[0]), uid(&first));
}
