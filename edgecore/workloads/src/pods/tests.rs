use cri::fake::{Act, Behaviour, Rule};
use serde_json::json;

use super::testing::{Stage, condition, pod};
use std::time::Duration;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_pod_runs_and_its_status_says_so() {
    let stage = Stage::new().await;
    stage.create(pod("p", json!({}))).await;
    stage.phase("p", "Running").await;
    let status = stage.status("p");
    let container = &status["containerStatuses"][0];
    let running = stage.fake.running("main");
    assert_eq!(running.len(), 1);
    assert_eq!(
        container["containerID"],
        format!("containerd://{}", running[0].status.id)
    );
    assert_eq!(container["restartCount"], 0);
    assert_eq!(
        (&container["ready"], &container["started"]),
        (&json!(true), &json!(true))
    );
    assert!(container["state"]["running"]["startedAt"].is_string());
    assert_eq!(container["lastState"], json!({}));
    assert_eq!(status["hostIP"], "192.0.2.7");
    assert_eq!(status["podIPs"][0]["ip"], status["podIP"]);
    assert_eq!(status["qosClass"], "BestEffort");
    assert!(status["startTime"].is_string());
    for ty in [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ] {
        assert_eq!(condition(&status, ty)["status"], "True", "{ty}");
    }
    let seen = stage.pods().all();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].containers[0].state, State::Running);
    stage.until("events are told", |s| s.told().len() >= 2).await;
    let told: Vec<_> = stage.told().into_iter().map(|(reason, _)| reason).collect();
    assert!(
        told.contains(&"Created".to_owned()) && told.contains(&"Started".to_owned()),
        "{told:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_deleted_pod_is_gone_from_the_runtime_before_its_object_goes() {
    let stage = Stage::new().await;
    stage.create(pod("p", json!({}))).await;
    stage.phase("p", "Running").await;
    stage.delete("p", None).await;
    stage.until("it is gone", |s| s.get("p").is_none()).await;
    assert!(stage.fake.sandboxes().is_empty() && stage.fake.containers().is_empty());
    assert_eq!(lock(&stage.means.torn_down).len(), 1);
    let names: Vec<_> = stage.fake.calls().iter().map(|c| c.name).collect();
    let at = |name: &str| names.iter().position(|n| *n == name).unwrap();
    assert!(at("stop_container") < at("stop_pod_sandbox") && at("stop_pod_sandbox") < at("remove_pod_sandbox"));
    stage.until("its task has ended", |s| s.pods().all().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn the_restart_policy_decides_what_an_end_means() {
    let stage = Stage::new().await;
    for (name, policy, code, phase) in [
        ("done", "Never", 0, "Succeeded"),
        ("bad", "Never", 3, "Failed"),
        ("well", "OnFailure", 0, "Succeeded"),
    ] {
        stage.fake.behave(
            name,
            Behaviour {
                exits: Some((Duration::from_secs(1), code)),
                ..Behaviour::default()
            },
        );
        stage
            .create(pod(
                name,
                json!({"restartPolicy": policy, "containers": [{"name": name}]}),
            ))
            .await;
        stage.phase(name, phase).await;
        let status = stage.status(name);
        let end = &status["containerStatuses"][0]["state"]["terminated"];
        assert_eq!(end["exitCode"], code, "{name}");
        assert_eq!(end["reason"], if code == 0 { "Completed" } else { "Error" });
        let reason = if code == 0 { "PodCompleted" } else { "PodFailed" };
        assert_eq!(condition(&status, "Ready")["reason"], reason);
        assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_that_crashes_waits_longer_each_time() {
    let stage = Stage::new().await;
    stage.fake.behave(
        "main",
        Behaviour {
            exits: Some((Duration::from_secs(1), 1)),
            ..Behaviour::default()
        },
    );
    stage.create(pod("p", json!({}))).await;
    stage
        .until("it was restarted three times", |s| {
            s.fake.containers().iter().any(|c| c.attempt() == 3)
        })
        .await;
    let starts: Vec<_> = stage
        .fake
        .calls()
        .into_iter()
        .filter(|c| c.name == "start_container")
        .map(|c| c.at)
        .collect();
    let gaps: Vec<u64> = starts.windows(2).map(|w| (w[1] - w[0]).as_secs()).collect();
    assert!(gaps[1] >= 11 && gaps[2] >= 21, "{gaps:?}");
    stage
        .until("it says why it waits", |s| {
            let status = s.status("p");
            let c = &status["containerStatuses"][0];
            c["state"]["waiting"]["reason"] == "CrashLoopBackOff" && c["lastState"]["terminated"]["exitCode"] == 1
        })
        .await;
    assert_eq!(stage.status("p")["phase"], "Running");
    assert!(stage.fake.containers().len() <= 2, "older records are removed");
}

#[tokio::test(start_paused = true)]
async fn a_killed_agent_finds_everything_as_it_was() {
    let stage = Stage::new().await;
    for n in 0..5 {
        stage.create(pod(&format!("p{n}"), json!({}))).await;
    }
    for n in 0..5 {
        stage.phase(&format!("p{n}"), "Running").await;
    }
    stage.kill().await;
    let before = stage.fake.containers();
    let status = stage.status("p3");
    let version = stage.get("p3").unwrap()["metadata"]["resourceVersion"].clone();
    stage.fake.take_calls();
    stage.start();
    stage.until("it knows its pods", |s| s.pods().all().len() == 5).await;
    stage
        .until("it asked for each", |s| {
            s.fake.calls().iter().filter(|c| c.name == "container_status").count() >= 5
        })
        .await;
    assert_eq!(stage.status("p3"), status);
    assert_eq!(
        stage.get("p3").unwrap()["metadata"]["resourceVersion"],
        version,
        "nothing was written"
    );
    let ids = |list: &[cri::fake::Cntr]| {
        list.iter()
            .map(|c| (c.status.id.clone(), c.status.state))
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&before), ids(&stage.fake.containers()));
    let touched = [
        "run_pod_sandbox",
        "create_container",
        "start_container",
        "stop_container",
        "stop_pod_sandbox",
    ];
    assert!(!stage.fake.calls().iter().any(|c| touched.contains(&c.name)));
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_made_says_why_and_is_tried_again() {
    let stage = Stage::new().await;
    let refusal = Refusal::new("CreateContainerConfigError", "configmap \"c\" not found");
    *lock(&stage.means.refuse) = Some(("main".to_owned(), refusal));
    stage.fake.rule(Rule::next(
        "run_pod_sandbox",
        Act::Refuse(cri::fake::Code::Unknown, "no network".to_owned()),
    ));
    stage.create(pod("p", json!({}))).await;
    stage
        .until("it says why", |s| {
            let status = s.status("p");
            let waiting = &status["containerStatuses"][0]["state"]["waiting"];
            waiting["reason"] == "CreateContainerConfigError" && waiting["message"] == "configmap \"c\" not found"
        })
        .await;
    assert_eq!(stage.status("p")["phase"], "Pending");
    stage
        .until("the sandbox's failure is told", |s| {
            let told = (
                "FailedCreatePodSandBox".to_owned(),
                "Failed to create pod sandbox: no network".to_owned(),
            );
            s.told().contains(&told)
        })
        .await;
    *lock(&stage.means.refuse) = None;
    stage.phase("p", "Running").await;
    assert_eq!(stage.fake.sandboxes().len(), 1);
}
