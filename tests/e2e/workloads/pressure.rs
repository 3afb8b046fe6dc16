//! A machine that runs short of disk: who goes first, what the Node says, and what goes on when there is none left at all.

use serde_json::{Value, json};
use tests::gateway::{Gateway, NODE};
use tests::objects::{condition, container, deployment, idle, is_ready, pod};
use tests::runtime::{Machine, Make};
use tests::{eventually, get};

const MEBI: u64 = 1 << 20;
/// Size of the machine's disk.
const DISK: u64 = 400 * MEBI;

async fn small(settings: Value) -> Gateway {
    let machine = Machine::with(Make {
        disk_bytes: Some(DISK),
        ..Make::default()
    })
    .await;
    Gateway::on(machine, settings).await
}

/// A pod that keeps this many MiB in its own folder.
fn hoarder(name: &str, mebi: u64, class: Option<&str>) -> Value {
    let line = format!("dd if=/dev/zero of=/data/hoard bs=1M count={mebi} && touch /data/full && sleep 1000");
    let mut c = container(&line);
    c["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    c["readinessProbe"] = json!({"exec": {"command": ["test", "-e", "/data/full"]}, "periodSeconds": 1});
    let mut made = pod(name, c);
    made["spec"]["terminationGracePeriodSeconds"] = json!(0);
    if let Some(class) = class {
        made["spec"]["priorityClassName"] = class.into();
    }
    made["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    made
}

/// Fills the machine's disk but for this many MiB with a file of somebody else's.
fn leave(gateway: &Gateway, mebi: u64) {
    let stat = rustix::fs::statvfs(gateway.machine.folder()).unwrap();
    let free = stat.f_bavail * stat.f_frsize;
    let ballast = gateway.machine.folder().join(format!("ballast-{mebi}"));
    let file = std::fs::File::create(ballast).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free - mebi * MEBI).unwrap();
}

async fn node(gateway: &Gateway) -> Option<Value> {
    get(&gateway.at.0, &format!("/api/v1/nodes/{NODE}")).await
}

async fn until_pressure(gateway: &Gateway, wanted: &str) {
    eventually(&format!("DiskPressure to be {wanted}"), async || {
        node(gateway).await.filter(|n| condition(n, "DiskPressure") == wanted)
    })
    .await;
}

#[tokio::test]
async fn a_disk_that_runs_short_costs_the_least_important_first_and_no_more_than_needed() {
    let gateway = small(json!({"eviction": {
        "hard": {"nodefs.available": "40Mi"}, "pressureTransitionSeconds": 1}}))
    .await;
    let at = &gateway.at;
    let class = json!({"metadata": {"name": "line"}, "value": 1000});
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    at.0.json(http::Method::POST, classes, Some(&class)).await.unwrap();
    for (name, mebi, class) in [("chief", 60, Some("line")), ("large", 50, None), ("small", 30, None)] {
        at.create(&hoarder(name, mebi, class)).await;
    }
    for name in ["chief", "large", "small"] {
        at.until_ready(name, 1).await;
    }
    until_pressure(&gateway, "False").await;

    // Of those that matter least the one that takes most.
    leave(&gateway, 20);
    let gone = at
        .until("Pod/large", "to be evicted", |p| p["status"]["phase"] == "Failed")
        .await;
    assert_eq!(gone["status"]["reason"], "Evicted");
    let told = gone["status"]["message"].as_str().unwrap();
    assert!(
        told.starts_with("The node was low on resource: ephemeral-storage. Threshold quantity: 40Mi, available: "),
        "{told}"
    );
    let target = gone["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == "DisruptionTarget");
    assert_eq!(target.unwrap()["reason"], "TerminationByKubelet");
    at.until_event("large", "Evicted").await;
    until_pressure(&gateway, "False").await;
    for name in ["chief", "small"] {
        assert!(at.until_ready(name, 1).await.iter().all(is_ready));
    }

    leave(&gateway, 10);
    at.until("Pod/small", "to be evicted", |p| p["status"]["reason"] == "Evicted")
        .await;
    // While it is short nothing new comes.
    leave(&gateway, 5);
    at.until("Pod/chief", "to be evicted", |p| p["status"]["reason"] == "Evicted")
        .await;
    leave(&gateway, 5);
    until_pressure(&gateway, "True").await;
    let taints = node(&gateway).await.unwrap()["spec"]["taints"].clone();
    assert_eq!(taints[0]["key"], "node.kubernetes.io/disk-pressure");
    at.create(&pod("later", idle())).await;
    let told = at.until_event("later", "FailedScheduling").await;
    assert!(told.contains("node.kubernetes.io/disk-pressure"), "{told}");
    for mebi in [20, 10, 5] {
        std::fs::remove_file(gateway.machine.folder().join(format!("ballast-{mebi}"))).unwrap();
    }
    until_pressure(&gateway, "False").await;
    at.until_ready("later", 1).await;
}

#[tokio::test]
async fn a_full_disk_stops_no_container_and_is_over_when_there_is_room() {
    let mut gateway = small(Value::Null).await;
    gateway.at.create(&deployment("app", 2, idle())).await;
    let before = gateway.at.until_ready("app", 2).await;
    let ids = |pods: &[Value]| pods.iter().flat_map(tests::objects::lives).collect::<Vec<_>>();
    // To the last block.
    leave(&gateway, 0);
    let refused = gateway
        .at
        .0
        .try_json(
            http::Method::POST,
            &tests::objects::path("Pod"),
            Some(&pod("late", idle())),
        )
        .await;
    assert!(refused.is_ok_and(|answer| answer.is_err()), "nothing can be stored");
    tests::gateway::stays("pods on a full disk", std::time::Duration::from_secs(2), async || {
        ids(&gateway.at.pods("app").await)
    })
    .await;
    assert!(gateway.edge.alive());
    assert_eq!(gateway.machine.running().await, Some((2, 2)));

    std::fs::remove_file(gateway.machine.folder().join("ballast-0")).unwrap();
    gateway.at.create(&pod("late", idle())).await;
    gateway.at.until_ready("late", 1).await;
    gateway
        .at
        .patch("Deployment/app", &json!({"spec": {"replicas": 3}}))
        .await;
    let after = gateway.at.until_ready("app", 3).await;
    assert!(ids(&before).iter().all(|life| ids(&after).contains(life)));
}
