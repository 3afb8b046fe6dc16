//! What pods outlive: the agent's end, the runtime's, the machine's; and what of them does not.

use std::sync::atomic::Ordering;

use cri::fake::{Act, Behaviour, Rule, Tells};
use serde_json::json;

use super::super::testing::{Stage, pod};
use super::*;

const MANIFEST: &str =
    "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - {name: main, image: app}\n";

#[tokio::test(start_paused = true)]
async fn a_runtime_that_goes_and_comes_back_changes_nothing() {
    for tells in [Tells::Containerd, Tells::Cri, Tells::Nothing] {
        let stage = Stage::new().await;
        stage.fake.down();
        stage.fake.tells(tells);
        stage.fake.up();
        stage.create(pod("p", json!({}))).await;
        stage.phase("p", "Running").await;
        let before = stage.fake.containers()[0].status.id.clone();
        stage.fake.down();
        stage.create(pod("q", json!({}))).await;
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(stage.status("p")["phase"], "Running");
        assert_eq!(stage.status("p")["containerStatuses"][0]["ready"], true);
        stage.fake.up();
        stage.phase("q", "Running").await;
        let status = stage.status("p");
        assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
        assert_eq!(
            status["containerStatuses"][0]["containerID"],
            format!("fake://{before}")
        );
        // Events come again, or it is asked.
        stage.fake.exit(&before, 1);
        stage
            .until("its end was noticed", |s| {
                s.fake.containers().iter().any(|c| c.attempt() == 1)
            })
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn however_often_the_power_goes_nobody_waits_for_it() {
    let stage = Stage::new().await;
    stage.create(pod("p", json!({}))).await;
    stage.phase("p", "Running").await;
    for times in 1..6 {
        stage.kill().await;
        stage.fake.reboot();
        stage.start();
        stage
            .until("it runs again", |s| {
                let status = s.status("p");
                let container = &status["containerStatuses"][0];
                container["restartCount"] == times && container["state"]["running"].is_object()
            })
            .await;
        // Who waits before the next start is told of.
        let told = stage.told();
        assert!(!told.iter().any(|(reason, _)| reason == "BackOff"), "{times}: {told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reboot_without_a_network_brings_everything_back() {
    for forgets in [false, true] {
        let stage = Stage::new().await;
        let once = Behaviour {
            exits: Some((Duration::from_secs(1), 0)),
            ..Behaviour::default()
        };
        stage.fake.behave("job", once.clone());
        stage.fake.behave("init", once);
        stage
            .create(pod("app", json!({"initContainers": [{"name": "init"}]})))
            .await;
        stage
            .create(pod(
                "done",
                json!({"restartPolicy": "OnFailure", "containers": [{"name": "job"}]}),
            ))
            .await;
        stage.create(pod("once", json!({"restartPolicy": "Never"}))).await;
        stage.phase("app", "Running").await;
        stage.phase("done", "Succeeded").await;
        stage.phase("once", "Running").await;
        stage.kill().await;
        if forgets {
            stage.fake.wipe();
        } else {
            stage.fake.reboot();
        }
        stage.fake.take_calls();
        stage.start();
        stage
            .until("it runs again", |s| {
                s.status("app")["containerStatuses"][0]["restartCount"] == 1
            })
            .await;
        stage.phase("app", "Running").await;
        stage.phase("once", "Failed").await;
        assert_eq!(stage.status("done")["phase"], "Succeeded");
        let starts: Vec<String> = stage
            .fake
            .take_calls()
            .iter()
            .filter(|c| c.name == "start_container")
            .map(|c| c.about.split(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(starts, ["init", "main"], "what was done stays done");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_is_killed_is_made_again() {
    let stage = Stage::new().await;
    stage.create(pod("p", json!({}))).await;
    stage.phase("p", "Running").await;
    let ip = stage.status("p")["podIP"].clone();
    let sandbox = stage.fake.sandboxes()[0].status.id.clone();
    stage.fake.kill_sandbox(&sandbox);
    stage
        .until("it was restarted", |s| {
            s.status("p")["containerStatuses"][0]["restartCount"] == 1
        })
        .await;
    stage.phase("p", "Running").await;
    assert_ne!(stage.status("p")["podIP"], ip);
    let ready: Vec<_> = stage
        .fake
        .sandboxes()
        .into_iter()
        .filter(cri::fake::Sbx::is_ready)
        .collect();
    assert_eq!(ready.len(), 1);
    assert_eq!(ready[0].config.metadata.as_ref().unwrap().attempt, 1);
}

#[tokio::test(start_paused = true)]
async fn what_the_store_does_not_want_any_more_goes_and_what_is_not_ours_stays() {
    let stage = Stage::new().await;
    stage.create(pod("p", json!({}))).await;
    stage.phase("p", "Running").await;
    let foreign = cri::v1::PodSandboxConfig {
        metadata: Some(cri::v1::PodSandboxMetadata {
            name: "other".to_owned(),
            uid: "other".to_owned(),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        labels: [
            (labels::POD_UID.to_owned(), "other".to_owned()),
            (labels::NODE.to_owned(), "another-node".to_owned()),
        ]
        .into(),
        ..cri::v1::PodSandboxConfig::default()
    };
    let foreign = stage.fake.plant_sandbox(foreign);
    stage.kill().await;
    // Deleted without the agent seeing it.
    stage.delete("p", Some(0)).await;
    assert!(stage.get("p").is_none());
    stage.trust_store.store(false, Ordering::Relaxed);
    stage.start();
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(
        stage.fake.running("main").len(),
        1,
        "a store that was replaced is no reason to end anything"
    );
    stage.kill().await;
    stage.trust_store.store(true, Ordering::Relaxed);
    stage.start();
    stage
        .until("the orphan is gone", |s| {
            s.fake.containers().is_empty() && s.fake.sandboxes().len() == 1
        })
        .await;
    assert_eq!(stage.fake.sandboxes()[0].status.id, foreign);
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_lost_make_nothing_twice() {
    let stage = Stage::new().await;
    for call in ["run_pod_sandbox", "create_container", "start_container"] {
        stage.fake.rule(Rule::next(call, Act::LoseAnswer));
    }
    stage.create(pod("p", json!({}))).await;
    stage.phase("p", "Running").await;
    assert_eq!(stage.fake.sandboxes().len(), 1);
    assert_eq!(stage.fake.running("main").len(), 1);
    assert_eq!(stage.status("p")["containerStatuses"][0]["restartCount"], 0);
}

#[tokio::test(start_paused = true)]
async fn an_agent_killed_while_a_pod_ends_goes_on_with_it() {
    let stage = Stage::new().await;
    let slow = Behaviour {
        stops_after: Duration::from_secs(20),
        ..Behaviour::default()
    };
    stage.fake.behave("main", slow);
    stage.create(pod("p", json!({}))).await;
    stage.phase("p", "Running").await;
    stage.delete("p", Some(25)).await;
    stage
        .until("it is being stopped", |s| {
            s.fake.calls().iter().any(|c| c.name == "stop_container")
        })
        .await;
    stage.kill().await;
    stage.start();
    stage.until("it is gone", |s| s.get("p").is_none()).await;
    assert!(stage.fake.sandboxes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ends_can_be_given_less_time() {
    let stage = Stage::new().await;
    let slow = Behaviour {
        stops_after: Duration::from_secs(100_000),
        ..Behaviour::default()
    };
    stage.fake.behave("main", slow);
    stage
        .create(pod("p", json!({"terminationGracePeriodSeconds": 90_000})))
        .await;
    stage.phase("p", "Running").await;
    stage.delete("p", None).await;
    stage
        .until("it is being stopped", |s| {
            s.fake.calls().iter().any(|c| c.name == "stop_container")
        })
        .await;
    stage.delete("p", Some(1)).await;
    let begun = stage.fake.now_ns();
    stage.until("it is gone", |s| s.get("p").is_none()).await;
    assert!(
        stage.fake.now_ns() - begun < 80_000_000_000_000,
        "it did not wait its whole time"
    );
    let told = stage.told();
    assert_eq!(told.iter().filter(|(reason, _)| reason == "Killing").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_runs_with_a_mirror_in_the_api() {
    let stage = Stage::new().await;
    stage.manifest("web.yaml", MANIFEST);
    stage.phase("web-press", "Running").await;
    let mirror = stage.get("web-press").unwrap();
    let annotations = &mirror["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(
        annotations["kubernetes.io/config.mirror"],
        annotations["kubernetes.io/config.hash"]
    );
    let uid = mirror["metadata"]["uid"].as_str().unwrap();
    assert_eq!(
        stage.pods().running(uid).unwrap().uid,
        annotations["kubernetes.io/config.hash"].as_str().unwrap()
    );
    let container = stage.fake.containers()[0].status.id.clone();
    // Deleting the mirror deletes nothing.
    stage.delete("web-press", None).await;
    stage
        .until("there is another mirror", |s| {
            s.get("web-press").is_some_and(|m| m["metadata"]["uid"] != *uid)
        })
        .await;
    stage.phase("web-press", "Running").await;
    stage.kill().await;
    stage.start();
    stage.until("it is known again", |s| s.pods().all().len() == 1).await;
    assert_eq!(stage.fake.containers().len(), 1);
    assert_eq!(stage.fake.containers()[0].status.id, container);
    stage.manifest("web.yaml", &MANIFEST.replace("name: main", "name: other"));
    stage
        .until("the new one runs alone", |s| {
            s.fake.running("other").len() == 1 && s.fake.containers().len() == 1
        })
        .await;
    stage.phase("web-press", "Running").await;
    stage.manifest("web.yaml", "");
    stage
        .until("it is gone", |s| {
            s.fake.sandboxes().is_empty() && s.get("web-press").is_none()
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_runs_though_a_pod_of_its_name_is_in_the_way() {
    let stage = Stage::new().await;
    stage.kill().await;
    let mut other = pod("web-press", json!({}));
    other["spec"].as_object_mut().unwrap().remove("nodeName");
    stage.create(other).await;
    stage.manifest("web.yaml", MANIFEST);
    stage.start();
    stage.until("it runs", |s| s.fake.running("main").len() == 1).await;
    stage.delete("web-press", Some(0)).await;
    stage.phase("web-press", "Running").await;
}

#[tokio::test(start_paused = true)]
async fn what_is_on_the_disk_of_nobody_goes() {
    let stage = Stage::new().await;
    let made = stage.create(pod("p", json!({}))).await;
    let uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
    stage.phase("p", "Running").await;
    let logs = stage.pods().0.options.logs.clone();
    for name in [
        "default_old_gone",
        "default_neighbour_gone",
        "default_kubelet_gone",
        "others",
    ] {
        std::fs::create_dir_all(logs.join(name)).unwrap();
    }
    clean::mark(&logs.join("default_old_gone"), "press");
    clean::mark(&logs.join("default_neighbour_gone"), "another-node");
    lock(&stage.means.left_over).extend([uid.clone(), "gone".to_owned()]);
    stage
        .until("it is removed", |s| {
            lock(&s.means.torn_down).contains(&"gone".to_owned())
        })
        .await;
    stage
        .until("its logs are", |_| !logs.join("default_old_gone").exists())
        .await;
    assert!(!lock(&stage.means.torn_down).contains(&uid));
    assert!(logs.join("others").exists() && logs.join(format!("default_p_{uid}/.kurator")).exists());
    // Once more, whatever the order was.
    clean::sweep(&stage.pods().0).await;
    assert!(logs.join("default_neighbour_gone").exists() && logs.join("default_kubelet_gone").exists());
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_task_breaks_gets_another_one() {
    let stage = Stage::new().await;
    stage.means.breaks.store(true, Ordering::Relaxed);
    stage.create(pod("p", json!({}))).await;
    stage.phase("p", "Running").await;
    assert!(!stage.means.breaks.load(Ordering::Relaxed), "the first one broke");
    assert_eq!(stage.fake.sandboxes().len(), 1);
    assert_eq!(stage.fake.running("main").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn files_follow_what_changed_unseen_however_often_it_takes() {
    let stage = Stage::new().await;
    stage.create(pod("p", json!({}))).await;
    stage.phase("p", "Running").await;
    stage.kill().await;
    stage.means.refreshed.store(0, Ordering::Relaxed);
    stage.means.stale.store(2, Ordering::Relaxed);
    stage.start();
    let tried = |s: &Stage| s.means.refreshed.load(Ordering::Relaxed);
    stage.until("they are up to date", |s| tried(s) == 3).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(tried(&stage), 3);
    // The store may tell less than happened.
    watch::missed(&stage.pods().0, &daemon::drain::Drain::new());
    stage.until("they are looked at again", |s| tried(s) == 4).await;
}

#[tokio::test(start_paused = true)]
async fn limits_change_without_another_start() {
    let stage = Stage::new().await;
    let resources = json!({"limits": {"cpu": "1"}, "requests": {"cpu": "1"}});
    stage
        .create(pod(
            "p",
            json!({"containers": [{"name": "main", "resources": resources}]}),
        ))
        .await;
    stage.phase("p", "Running").await;
    let resized = json!({"spec": {"containers": [{"name": "main", "resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "2"}}}]}});
    let request = http::Request::patch("/api/v1/namespaces/default/pods/p/resize")
        .header("content-type", "application/strategic-merge-patch+json")
        .extension(metastore::api::User::new("test", [metastore::api::MASTERS]))
        .body(http_body_util::Full::new(bytes::Bytes::from(resized.to_string())));
    let answer = stage.cluster.api().handle(request.unwrap()).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    stage
        .until("the status says so", |s| {
            s.status("p")["containerStatuses"][0]["resources"]["limits"]["cpu"] == "2"
        })
        .await;
    assert_eq!(lock(&stage.means.resized).len(), 1);
    assert_eq!(stage.status("p")["containerStatuses"][0]["restartCount"], 0);
}

#[tokio::test(start_paused = true)]
async fn an_end_that_the_runtime_takes_in_late_is_not_missed() {
    let stage = Stage::new().await;
    stage.create(pod("p", json!({}))).await;
    stage.phase("p", "Running").await;
    // The list that follows the opening of the stream of events is over.
    stage.until("it is known", |s| s.pods().all().len() == 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    stage.fake.lag(Duration::from_millis(300));
    stage.fake.take_calls();
    stage.fake.exit(&stage.fake.containers()[0].status.id, 1);
    stage
        .until("it was restarted", |s| {
            s.fake.containers().iter().any(|c| c.attempt() == 1)
        })
        .await;
    let calls = stage.fake.take_calls();
    let made = calls.iter().position(|c| c.name == "create_container").unwrap();
    assert!(
        !calls[..made].iter().any(|c| c.name == "list_containers"),
        "it did not wait for the next list"
    );
}
