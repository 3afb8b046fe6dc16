//! One pod's life: crashes, probes, memory, order of its containers, its end.

use serde_json::{Value, json};
use tests::eventually;
use tests::gateway::Gateway;
use tests::objects::{condition, container, idle, is_ready, lives, pod};

use super::deploy::until_running;

/// The state of a container by its number, and what it was before.
fn states(pod: &Value, number: usize) -> (&Value, &Value) {
    let status = &pod["status"]["containerStatuses"][number];
    (&status["state"], &status["lastState"])
}

fn seconds(stamp: &Value) -> i64 {
    let stamp: jiff::Timestamp = stamp.as_str().unwrap_or_default().parse().unwrap();
    stamp.as_second()
}

#[tokio::test]
async fn what_crashes_is_started_again_later_and_later() {
    let gateway = Gateway::alone().await;
    let at = &gateway.at;
    let made = at.create(&pod("crash", container("echo about to fail; exit 3"))).await;
    let who = format!("crash_default({})", made["metadata"]["uid"].as_str().unwrap());
    let waits = at
        .until("Pod/crash", "to wait", |pod| {
            states(pod, 0).0["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .await;
    let (now, before) = states(&waits, 0);
    assert_eq!(
        now["waiting"]["message"],
        format!("back-off 10s restarting failed container=c pod={who}")
    );
    assert_eq!(
        (&before["terminated"]["exitCode"], &before["terminated"]["reason"]),
        (&json!(3), &json!("Error"))
    );
    assert_eq!(
        (&waits["status"]["phase"], condition(&waits, "Ready")),
        (&json!("Running"), "False")
    );
    assert_eq!(waits["status"]["containerStatuses"][0]["restartCount"], 1);
    let told = at.until_event("crash", "BackOff").await;
    assert_eq!(told, format!("Back-off restarting failed container c in pod {who}"));

    let again = at
        .until("Pod/crash", "to crash again", |pod| {
            pod["status"]["containerStatuses"][0]["restartCount"] == 2
                && states(pod, 0).0["waiting"]["reason"] == "CrashLoopBackOff"
        })
        .await;
    let (now, second) = states(&again, 0);
    assert_eq!(
        now["waiting"]["message"],
        format!("back-off 20s restarting failed container=c pod={who}")
    );
    let rest = seconds(&second["terminated"]["startedAt"]) - seconds(&before["terminated"]["finishedAt"]);
    assert!((9..20).contains(&rest), "rested {rest} s");
    // Its words are there although it is not.
    let words = gateway.kubectl.told(&["logs", "crash"]).await;
    assert_eq!(words, "about to fail\n");
    let words = gateway.kubectl.told(&["logs", "crash", "--previous"]).await;
    assert_eq!(words, "about to fail\n");
}

#[tokio::test]
async fn what_is_to_end_ends_well_or_not() {
    let gateway = Gateway::alone().await;
    let at = &gateway.at;
    for (name, policy, line) in [
        ("well", "OnFailure", "exit 0"),
        ("badly", "Never", "echo why > /dev/termination-log; exit 7"),
        ("second", "OnFailure", "test -e /data/x || { touch /data/x; exit 1; }"),
    ] {
        let mut made = pod(name, container(line));
        made["spec"]["restartPolicy"] = json!(policy);
        made["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
        made["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
        at.create(&made).await;
    }
    let well = at
        .until("Pod/well", "to succeed", |p| p["status"]["phase"] == "Succeeded")
        .await;
    let (now, _) = states(&well, 0);
    assert_eq!(
        (&now["terminated"]["exitCode"], &now["terminated"]["reason"]),
        (&json!(0), &json!("Completed"))
    );
    assert_eq!(condition(&well, "Ready"), "False");
    let reasons: Vec<&Value> = well["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["reason"])
        .collect();
    assert!(reasons.contains(&&json!("PodCompleted")), "{reasons:?}");
    let badly = at
        .until("Pod/badly", "to fail", |p| p["status"]["phase"] == "Failed")
        .await;
    let (now, _) = states(&badly, 0);
    assert_eq!(
        (&now["terminated"]["exitCode"], &now["terminated"]["message"]),
        (&json!(7), &json!("why\n"))
    );
    // A container that is started again finds its pod's volumes as it left them.
    let second = at
        .until("Pod/second", "to succeed", |p| p["status"]["phase"] == "Succeeded")
        .await;
    assert_eq!(second["status"]["containerStatuses"][0]["restartCount"], 1);
    until_running(&gateway, 0).await;
}

#[tokio::test]
async fn a_container_that_is_not_alive_is_started_again() {
    let gateway = Gateway::alone().await;
    let at = &gateway.at;
    let mut sick = container("touch /tmp/ok; sleep 1000");
    sick["livenessProbe"] = json!({"exec": {"command": ["cat", "/tmp/ok"]}, "periodSeconds": 1, "failureThreshold": 2});
    at.create(&pod("sick", sick)).await;
    let well = at.until("Pod/sick", "to be ready", is_ready).await;
    gateway.exec("sick", &["rm", "/tmp/ok"]).await.good();
    let again = at
        .until("Pod/sick", "to be started again", |p| {
            is_ready(p) && p["status"]["containerStatuses"][0]["restartCount"] == 1
        })
        .await;
    assert_ne!(lives(&well)[0].1, lives(&again)[0].1);
    assert_eq!(well["status"]["podIP"], again["status"]["podIP"]);
    let told = at.until_event("sick", "Unhealthy").await;
    assert!(
        told.starts_with("Liveness probe failed: cat: can't open '/tmp/ok'"),
        "{told}"
    );
    let told = at.until_event("sick", "Killing").await;
    assert_eq!(told, "Container c failed liveness probe, will be restarted");
}

#[tokio::test]
async fn a_slow_start_is_waited_for_and_one_that_never_ends_is_not() {
    let gateway = Gateway::alone().await;
    let at = &gateway.at;
    // Alive only from its start on: without the startup probe it would be killed before.
    let mut slow = container("sleep 4; touch /tmp/up; sleep 1000");
    let look = json!({"command": ["cat", "/tmp/up"]});
    slow["startupProbe"] = json!({"exec": look, "periodSeconds": 1, "failureThreshold": 30});
    slow["livenessProbe"] = json!({"exec": look, "periodSeconds": 1, "failureThreshold": 1});
    at.create(&pod("slow", slow)).await;
    let mut never = container("trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done");
    never["startupProbe"] = json!({"tcpSocket": {"port": 9}, "periodSeconds": 1, "failureThreshold": 2});
    at.create(&pod("never", never)).await;
    at.until("Pod/slow", "to run, not started", |p| {
        let status = &p["status"]["containerStatuses"][0];
        status["state"]["running"].is_object() && status["started"] == false && status["ready"] == false
    })
    .await;
    let up = at.until("Pod/slow", "to be ready", is_ready).await;
    assert_eq!(lives(&up)[0].2, 0);
    let told = at.until_event("never", "Killing").await;
    assert_eq!(told, "Container c failed startup probe, will be restarted");
    let told = at.until_event("never", "Unhealthy").await;
    assert!(told.starts_with("Startup probe failed: dial tcp 10.42.0."), "{told}");
    at.until("Pod/never", "to be started again", |p| lives(p).iter().any(|l| l.2 > 0))
        .await;
    assert_eq!(lives(&at.get("Pod/slow").await.unwrap()), lives(&up));
}

#[tokio::test]
async fn what_takes_more_memory_than_its_limit_is_killed_and_says_so() {
    let gateway = Gateway::alone().await;
    let at = &gateway.at;
    let mut greedy = container("exec dd if=/dev/zero of=/dev/null bs=128M");
    greedy["resources"] = json!({"limits": {"memory": "24Mi"}});
    let mut made = pod("greedy", greedy);
    made["spec"]["restartPolicy"] = json!("Never");
    at.create(&made).await;
    let over = at
        .until("Pod/greedy", "to fail", |p| p["status"]["phase"] == "Failed")
        .await;
    let (now, _) = states(&over, 0);
    assert_eq!(
        (&now["terminated"]["reason"], &now["terminated"]["exitCode"]),
        (&json!("OOMKilled"), &json!(137))
    );
    assert_eq!(over["status"]["qosClass"], "Burstable");
}

#[tokio::test]
async fn init_containers_and_sidecars_start_in_order_and_end_in_theirs() {
    let gateway = Gateway::alone().await;
    let at = &gateway.at;
    let step = |name: &str, line: &str| {
        let mut step = container(line);
        step["name"] = json!(name);
        step["volumeMounts"] = json!([{"name": "order", "mountPath": "/order"}]);
        step
    };
    let mut sidecar = step(
        "side",
        "trap 'echo side-end >> /order/log; exit 0' TERM; sleep 2; echo side >> /order/log; touch /tmp/up; while :; do sleep 1000 & wait $!; done",
    );
    sidecar["restartPolicy"] = json!("Always");
    sidecar["startupProbe"] =
        json!({"exec": {"command": ["cat", "/tmp/up"]}, "periodSeconds": 1, "failureThreshold": 30});
    let mut made = pod(
        "order",
        step("main", "echo main >> /order/log; sleep 1; echo main-end >> /order/log"),
    );
    made["spec"]["initContainers"] = json!([
        step("first", "sleep 1; echo first >> /order/log"),
        sidecar,
        step("last", "echo last >> /order/log")
    ]);
    made["spec"]["restartPolicy"] = json!("Never");
    let folder = gateway.machine.folder().join("order");
    made["spec"]["volumes"] = json!([{"name": "order", "hostPath": {"path": folder, "type": "DirectoryOrCreate"}}]);
    at.create(&made).await;
    let pending = at
        .until("Pod/order", "to begin", |p| {
            p["status"]["initContainerStatuses"][0]["state"]["running"].is_object()
        })
        .await;
    assert_eq!(
        (&pending["status"]["phase"], condition(&pending, "Initialized")),
        (&json!("Pending"), "False")
    );
    assert_eq!(states(&pending, 0).0["waiting"]["reason"], "PodInitializing");
    let done = at
        .until("Pod/order", "to be through", |p| p["status"]["phase"] == "Succeeded")
        .await;
    let log = std::fs::read_to_string(folder.join("log")).unwrap();
    assert_eq!(
        log.split_whitespace().collect::<Vec<_>>(),
        ["first", "side", "last", "main", "main-end", "side-end"]
    );
    assert!(lives(&done).iter().all(|(_, _, restarts)| *restarts == 0), "{done:#}");
}

#[tokio::test]
async fn an_end_is_announced_waited_for_and_then_made() {
    let gateway = Gateway::alone().await;
    let at = &gateway.at;
    let folder = gateway.machine.folder().join("end");
    let notes = |mut container: Value| {
        container["volumeMounts"] = json!([{"name": "notes", "mountPath": "/notes"}]);
        container
    };
    let volumes = json!([{"name": "notes", "hostPath": {"path": folder, "type": "DirectoryOrCreate"}}]);
    let mut polite = notes(container(
        "trap 'echo term >> /notes/polite; sleep 1; echo out >> /notes/polite; exit 0' TERM; touch /notes/up; while :; do sleep 1000 & wait $!; done",
    ));
    polite["lifecycle"] = json!({
        "postStart": {"exec": {"command": ["sh", "-c", "echo begun >> /notes/polite"]}},
        "preStop": {"exec": {"command": ["sh", "-c", "sleep 1; echo hook >> /notes/polite"]}}});
    let mut made = pod("polite", polite);
    made["spec"]["terminationGracePeriodSeconds"] = json!(30);
    made["spec"]["volumes"] = volumes.clone();
    at.create(&made).await;
    let mut deaf = pod(
        "deaf",
        notes(container(
            "trap 'echo term >> /notes/deaf' TERM; touch /notes/deaf; while :; do sleep 1; done",
        )),
    );
    deaf["spec"]["terminationGracePeriodSeconds"] = json!(2);
    deaf["spec"]["volumes"] = volumes;
    at.create(&deaf).await;
    at.until_ready("polite", 1).await;
    at.until_ready("deaf", 1).await;
    eventually("traps to be set", async || {
        (folder.join("up").exists() && folder.join("deaf").exists()).then_some(())
    })
    .await;

    at.delete("Pod/polite").await;
    let going = at.get("Pod/polite").await.expect("it has time to end");
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    at.delete("Pod/deaf").await;
    at.until_gone("Pod/deaf").await;
    at.until_gone("Pod/polite").await;
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    assert_eq!(read("polite"), "begun\nhook\nterm\nout\n");
    assert_eq!(read("deaf"), "term\n");
    until_running(&gateway, 0).await;

    // Now means now.
    at.create(&pod("now", idle())).await;
    at.until_ready("now", 1).await;
    gateway
        .kubectl
        .told(&["delete", "pod", "now", "--grace-period=0", "--force"])
        .await;
    until_running(&gateway, 0).await;
}

#[tokio::test]
async fn an_image_that_is_missing_is_waited_for() {
    let gateway = Gateway::alone().await;
    let at = &gateway.at;
    let late = "localhost:5/late:1";
    let mut wants = idle();
    wants["image"] = json!(late);
    at.create(&pod("late", wants.clone())).await;
    wants["imagePullPolicy"] = json!("Never");
    at.create(&pod("never", wants.clone())).await;
    wants["image"] = json!("Not An Image");
    at.create(&pod("nonsense", wants)).await;
    let reason = |pod: &Value| {
        states(pod, 0).0["waiting"]["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    at.until("Pod/late", "to miss its image", |p| reason(p) == "ErrImagePull")
        .await;
    let waits = at
        .until("Pod/late", "to wait", |p| reason(p) == "ImagePullBackOff")
        .await;
    let said = states(&waits, 0).0["waiting"]["message"].as_str().unwrap().to_owned();
    assert!(
        said.starts_with(&format!("Back-off pulling image \"{late}\"")),
        "{said}"
    );
    assert_eq!((&waits["status"]["phase"], lives(&waits)[0].2), (&json!("Pending"), 0));
    at.until("Pod/never", "to say why", |p| reason(p) == "ErrImageNeverPull")
        .await;
    at.until("Pod/nonsense", "to say why", |p| reason(p) == "InvalidImageName")
        .await;
    let told = at.until_event("late", "Failed").await;
    assert!(told.starts_with(&format!("Failed to pull image \"{late}\"")), "{told}");

    gateway.machine.import(late).await;
    at.until_ready("late", 1).await;
    at.until_ready("never", 1).await;
}
