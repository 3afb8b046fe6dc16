use cri::fake::{Act, Behaviour, Rule};
use serde_json::json;

use super::testing::{Stage, condition, pod};
use std::time::Duration;

use super::*;

mod survival;

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
        format!("fake://{}", running[0].status.id),
        "by the runtime's own name"
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
async fn a_pod_that_the_machine_does_not_take_fails_and_nothing_of_it_begins() {
    let stage = Stage::new().await;
    stage.create(pod("before", json!({}))).await;
    stage.phase("before", "Running").await;
    *lock(&stage.means.away) = Some(Refusal::new("OutOfcpu", "Pod was rejected: no"));
    stage.create(pod("p", json!({}))).await;
    stage.phase("p", "Failed").await;
    let status = stage.status("p");
    assert_eq!(
        (&status["reason"], &status["message"]),
        (&json!("OutOfcpu"), &json!("Pod was rejected: no"))
    );
    assert_eq!(stage.fake.sandboxes().len(), 1);
    stage
        .until("it is told", |s| {
            s.told().iter().any(|(reason, _)| reason == "OutOfcpu")
        })
        .await;
    // Who has begun is not asked again, nor by another agent.
    stage.kill().await;
    stage.start();
    stage.phase("before", "Running").await;
    assert_eq!(stage.fake.running("main").len(), 1);
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
async fn another_image_makes_the_container_start_again() {
    let stage = Stage::new().await;
    stage.fake.image("app:2");
    stage.create(pod("p", json!({"restartPolicy": "Never"}))).await;
    stage.phase("p", "Running").await;
    let key = Key::new("default", "p");
    let change = |pod: &mut serde_json::Value| {
        pod["spec"]["containers"][0]["image"] = "app:2".into();
        Ok(())
    };
    stage.cluster.modify(crate::cluster::PODS, &key, change).await.unwrap();
    stage
        .until("it was started again", |s| {
            s.fake.running("main").iter().any(|c| c.attempt() == 1)
        })
        .await;
    stage
        .until("its status says so", |s| {
            s.status("p")["containerStatuses"][0]["restartCount"] == 1
        })
        .await;
    assert_eq!(stage.fake.running("main").len(), 1);
    let event = (
        "Killing".to_owned(),
        "Container main definition changed, will be restarted".to_owned(),
    );
    stage.until("it says why", |s| s.told().contains(&event)).await;
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

#[tokio::test(start_paused = true)]
async fn init_containers_run_one_after_another_and_sidecars_stay() {
    let stage = Stage::new().await;
    let ends = |code: i32| Behaviour {
        exits: Some((Duration::from_secs(1), code)),
        ..Behaviour::default()
    };
    stage.fake.behave("first", ends(0));
    stage.fake.behave("second", ends(0));
    stage.fake.behave("main", ends(0));
    let spec = json!({
        "restartPolicy": "Never",
        "initContainers": [{"name": "first"}, {"name": "side", "restartPolicy": "Always"}, {"name": "second"}],
        "containers": [{"name": "main"}],
    });
    stage.create(pod("p", spec)).await;
    stage.phase("p", "Succeeded").await;
    let started: Vec<String> = stage
        .fake
        .calls()
        .iter()
        .filter(|c| c.name == "start_container")
        .map(|c| c.about.split(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(started, ["first", "side", "second", "main"]);
    let stopped = stage
        .fake
        .calls()
        .iter()
        .any(|c| c.name == "stop_container" && c.about.starts_with("side"));
    assert!(stopped, "a sidecar does not keep a pod that is done");
    let status = stage.status("p");
    assert_eq!(condition(&status, "Initialized")["reason"], "PodCompleted");
    assert_eq!(status["initContainerStatuses"][0]["ready"], true);
    assert_eq!(
        status["initContainerStatuses"][0]["state"]["terminated"]["reason"],
        "Completed"
    );
}

#[tokio::test(start_paused = true)]
async fn an_init_container_that_fails_for_good_fails_the_pod() {
    let stage = Stage::new().await;
    let ends = Behaviour {
        exits: Some((Duration::from_secs(1), 4)),
        ..Behaviour::default()
    };
    stage.fake.behave("init", ends);
    let spec = json!({"restartPolicy": "Never", "initContainers": [{"name": "init"}]});
    stage.create(pod("p", spec)).await;
    stage.phase("p", "Failed").await;
    let status = stage.status("p");
    assert_eq!(
        status["containerStatuses"][0]["state"]["waiting"]["reason"],
        "PodInitializing"
    );
    assert!(stage.fake.containers().iter().all(|c| c.name() == "init"));
    let message = "containers with incomplete status: [init]";
    assert_eq!(condition(&status, "Initialized")["message"], message);
}

#[tokio::test(start_paused = true)]
async fn a_liveness_probe_that_fails_restarts_and_a_readiness_probe_unreadies() {
    let stage = Stage::new().await;
    let well = Arc::new(std::sync::atomic::AtomicI32::new(0));
    let says = Arc::clone(&well);
    let exec = move |cmd: &[String]| cri::fake::ExecResult {
        stdout: b"sick".to_vec(),
        code: if cmd[0] == "live" {
            i32::from(says.load(std::sync::atomic::Ordering::Relaxed) == 2)
        } else {
            i32::from(says.load(std::sync::atomic::Ordering::Relaxed) != 0)
        },
        ..cri::fake::ExecResult::default()
    };
    let behaviour = Behaviour {
        exec: Some(Arc::new(exec)),
        ..Behaviour::default()
    };
    stage.fake.behave("main", behaviour);
    let probe = |what: &str| json!({"exec": {"command": [what]}, "periodSeconds": 1, "failureThreshold": 2});
    let spec =
        json!({"containers": [{"name": "main", "livenessProbe": probe("live"), "readinessProbe": probe("ready")}]});
    stage.create(pod("p", spec)).await;
    stage.phase("p", "Running").await;
    well.store(1, std::sync::atomic::Ordering::Relaxed);
    stage
        .until("it is not ready", |s| {
            let status = s.status("p");
            condition(&status, "Ready")["message"] == "containers with unready status: [main]"
        })
        .await;
    assert_eq!(stage.fake.containers().len(), 1, "nothing was restarted");
    well.store(2, std::sync::atomic::Ordering::Relaxed);
    stage
        .until("it was restarted", |s| {
            s.fake.containers().iter().any(|c| c.attempt() == 1)
        })
        .await;
    well.store(0, std::sync::atomic::Ordering::Relaxed);
    stage.phase("p", "Running").await;
    for (reason, message) in [
        ("Unhealthy", "Liveness probe failed: sick"),
        ("Unhealthy", "Readiness probe failed: sick"),
        ("Killing", "Container main failed liveness probe, will be restarted"),
    ] {
        let event = (reason.to_owned(), message.to_owned());
        stage.until(message, |s| s.told().contains(&event)).await;
    }
    assert_eq!(stage.status("p")["containerStatuses"][0]["restartCount"], 1);
}

#[tokio::test(start_paused = true)]
async fn hooks_run_after_the_start_and_before_the_end() {
    let stage = Stage::new().await;
    let exec = |cmd: &[String]| cri::fake::ExecResult {
        code: i32::from(cmd[0] == "fails"),
        ..cri::fake::ExecResult::default()
    };
    for name in ["main", "bad"] {
        let behaviour = Behaviour {
            exec: Some(Arc::new(exec)),
            ..Behaviour::default()
        };
        stage.fake.behave(name, behaviour);
    }
    let hooks = json!({"postStart": {"exec": {"command": ["hello"]}}, "preStop": {"exec": {"command": ["bye"]}}});
    stage
        .create(pod("p", json!({"containers": [{"name": "main", "lifecycle": hooks}]})))
        .await;
    stage.phase("p", "Running").await;
    stage.delete("p", None).await;
    stage.until("it is gone", |s| s.get("p").is_none()).await;
    let calls: Vec<String> = stage
        .fake
        .calls()
        .iter()
        .map(|c| format!("{} {}", c.name, c.about))
        .collect();
    let at = |what: &str| {
        calls
            .iter()
            .position(|c| c.starts_with(what) || (what.starts_with('*') && c.ends_with(&what[1..])))
            .unwrap()
    };
    assert!(
        at("start_container") < at("*hello") && at("*hello") < at("*bye") && at("*bye") < at("stop_container"),
        "{calls:?}"
    );
    let hooks = json!({"postStart": {"exec": {"command": ["fails"]}}});
    stage
        .create(pod("q", json!({"containers": [{"name": "bad", "lifecycle": hooks}]})))
        .await;
    stage
        .until("the hook's failure stands in the status", |s| {
            let waiting = &s.status("q")["containerStatuses"][0]["state"]["waiting"];
            waiting["reason"] == "PostStartHookError" || waiting["reason"] == "CrashLoopBackOff"
        })
        .await;
    let event = ("FailedPostStartHook".to_owned(), "PostStartHook failed".to_owned());
    stage.until("it is told", |s| s.told().contains(&event)).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_deleted_while_its_image_is_awaited_goes_at_once() {
    let stage = Stage::new().await;
    *lock(&stage.means.hang) = Some("main".to_owned());
    stage.create(pod("p", json!({}))).await;
    stage
        .until("its sandbox is there", |s| !s.fake.sandboxes().is_empty())
        .await;
    stage.delete("p", None).await;
    stage.until("it is gone", |s| s.get("p").is_none()).await;
    assert!(stage.fake.sandboxes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_fails_the_pod() {
    let stage = Stage::new().await;
    stage.create(pod("p", json!({"activeDeadlineSeconds": 30}))).await;
    stage.phase("p", "Failed").await;
    let status = stage.status("p");
    assert_eq!(status["reason"], "DeadlineExceeded");
    assert_eq!(
        status["message"],
        "Pod was active on the node longer than the specified deadline"
    );
    assert!(stage.fake.running("main").is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_evicted_pod_fails_when_nothing_of_it_runs() {
    let stage = Stage::new().await;
    let made = stage.create(pod("p", json!({}))).await;
    stage.phase("p", "Running").await;
    let uid = made["metadata"]["uid"].as_str().unwrap();
    assert!(
        stage
            .pods()
            .evict(uid, "Evicted", "The node was low on resource: memory. ", Some(0))
    );
    stage.phase("p", "Failed").await;
    let status = stage.status("p");
    assert!(stage.fake.running("main").is_empty());
    assert_eq!(status["reason"], "Evicted");
    assert_eq!(condition(&status, "DisruptionTarget")["reason"], "TerminationByKubelet");
    assert!(!stage.pods().evict("nobody", "Evicted", "", None));
}
