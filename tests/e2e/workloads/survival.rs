//! What must not stop containers, and what must bring them back: the agent, the runtime, the power, the cable.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tests::gateway::{Gateway, NODE, stays};
use tests::objects::{all_lives, container, deployment, idle, is_ready, lives, name, pod, service, template, web};
use tests::{Weather, eventually};

use super::deploy::until_running;

fn stateful_set(app: &str, replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": app, "labels": {"app": app}},
        "spec": {"serviceName": app, "replicas": replicas, "selector": {"matchLabels": {"app": app}},
            "template": template(app, idle())}})
}

fn daemon_set(app: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": app, "labels": {"app": app}},
        "spec": {"selector": {"matchLabels": {"app": app}}, "template": template(app, idle())}})
}

/// Names and uids of the pods of some apps.
async fn identities(gateway: &Gateway, apps: &[&str]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for app in apps {
        for pod in gateway.at.pods(app).await {
            let uid = pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
            all.insert(name(&pod).to_owned(), uid);
        }
    }
    all
}

#[tokio::test]
async fn agents_and_runtimes_come_and_go_and_containers_do_not_notice() {
    let mut gateway = Gateway::alone().await;
    gateway.at.create(&deployment("app", 3, web())).await;
    let mut unready = idle();
    unready["readinessProbe"] = json!({"exec": {"command": ["false"]}, "periodSeconds": 1});
    gateway.at.create(&pod("unready", unready)).await;
    gateway.at.until_ready("app", 3).await;
    let started = |p: &Value| p["status"]["containerStatuses"][0]["started"] == true;
    gateway.at.until("Pod/unready", "to run", started).await;
    let look = async |gateway: &Gateway| {
        let pods = [gateway.at.pods("app").await, gateway.at.pods("unready").await].concat();
        let ready: Vec<bool> = pods.iter().map(is_ready).collect();
        (all_lives(&pods), ready)
    };
    let before = look(&gateway).await;

    gateway.edge.kill().await;
    gateway.start_again().await;
    stays("pods after kill -9 of the agent", Duration::from_secs(3), async || {
        look(&gateway).await
    })
    .await;
    assert_eq!(look(&gateway).await, before);
    gateway.edge.stop().await;
    gateway.start_again().await;
    assert_eq!(look(&gateway).await, before);
    gateway.machine.kill_containerd().await;
    stays("pods without a runtime", Duration::from_secs(2), async || {
        look(&gateway).await.0
    })
    .await;
    gateway.machine.start_containerd().await;
    stays(
        "pods after kill -9 of the runtime",
        Duration::from_secs(2),
        async || look(&gateway).await.0,
    )
    .await;
    assert_eq!(look(&gateway).await.0, before.0);
    until_running(&gateway, 4).await;
    // Nothing was pulled, made or started again.
    for app in before.0.keys() {
        let events = gateway.at.events(app).await;
        let count = |wanted: &str| events.iter().filter(|(reason, _)| reason == wanted).count();
        assert_eq!(
            (count("Created"), count("Started"), count("Killing")),
            (1, 1, 0),
            "{events:?}"
        );
    }
}

#[tokio::test]
async fn what_ends_while_nobody_looks_is_noticed_afterwards() {
    let mut gateway = Gateway::alone().await;
    let folder = gateway.machine.folder().join("signal");
    std::fs::create_dir(&folder).unwrap();
    let ends = |name: &str| {
        let mut c = container("until test -e /signal/go; do sleep 0.1; done; exit 4");
        c["volumeMounts"] = json!([{"name": "signal", "mountPath": "/signal"}]);
        let mut made = pod(name, c);
        made["spec"]["volumes"] = json!([{"name": "signal", "hostPath": {"path": folder}}]);
        made
    };
    let mut once = ends("once");
    once["spec"]["restartPolicy"] = json!("Never");
    gateway.at.create(&once).await;
    gateway.at.create(&ends("again")).await;
    gateway.at.create(&pod("unwanted", idle())).await;
    for name in ["once", "again", "unwanted"] {
        gateway.at.until_ready(name, 1).await;
    }
    gateway.edge.kill().await;
    std::fs::write(folder.join("go"), "").unwrap();
    eventually("the containers to end", async || {
        gateway
            .machine
            .running()
            .await
            .filter(|(_, containers)| *containers == 1)
    })
    .await;
    std::fs::remove_file(folder.join("go")).unwrap();
    gateway.start_again().await;
    let over = gateway
        .at
        .until("Pod/once", "to fail", |p| p["status"]["phase"] == "Failed")
        .await;
    assert_eq!(
        over["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"],
        4
    );
    // Until the agent has looked, the status says what was.
    let runs_again = |p: &Value| is_ready(p) && lives(p)[0].2 == 1;
    gateway.at.until("Pod/again", "to run again", runs_again).await;
    gateway.at.delete("Pod/unwanted").await;
    gateway.at.until_gone("Pod/unwanted").await;
}

#[tokio::test]
async fn after_a_power_cut_the_store_alone_brings_every_pod_back() {
    let mut gateway = Gateway::with_hub().await;
    let at = &gateway.at;
    let apps = ["web", "state", "each", "bare"];
    at.create(&deployment("web", 2, web())).await;
    at.create(&service("web", "web")).await;
    at.create(&stateful_set("state", 2)).await;
    at.create(&daemon_set("each")).await;
    at.create(&pod("bare", idle())).await;
    for (app, count) in [("web", 2), ("state", 2), ("each", 1), ("bare", 1)] {
        at.until_ready(app, count).await;
    }
    let before = identities(&gateway, &apps).await;
    assert_eq!(before.len(), 6);
    let mut ids = Vec::new();
    for app in apps {
        ids.extend(at.pods(app).await.iter().map(|pod| lives(pod)[0].1.clone()));
    }

    gateway.above().relay.set(Weather::CUT);
    gateway.power_cut().await;
    gateway.boot().await;
    for (app, count) in [("web", 2), ("state", 2), ("each", 1), ("bare", 1)] {
        let back = |pods: &[Value]| {
            pods.len() == count && pods.iter().all(|pod| is_ready(pod) && !ids.contains(&lives(pod)[0].1))
        };
        let pods = gateway.at.until_pods(app, "to be back", back).await;
        for pod in &pods {
            assert_eq!(lives(pod)[0].2, 1, "{} was started again once", name(pod));
        }
    }
    until_running(&gateway, 6).await;
    // The same pods, and names and Services still lead to them.
    assert_eq!(identities(&gateway, &apps).await, before);
    let page = eventually("the Service to answer", async || {
        let ended = gateway.fetch("bare", "http://web").await;
        ended.status.success().then_some(ended.out)
    })
    .await;
    assert!(before.contains_key(page.trim()), "{page}");

    // With the cable back nothing is made twice and nothing is taken away.
    gateway.above().relay.set(Weather::FAIR);
    gateway.above().hub.until_in_sync(NODE).await;
    stays("pods when the hub is back", Duration::from_secs(3), async || {
        identities(&gateway, &apps).await
    })
    .await;
    assert_eq!(identities(&gateway, &apps).await, before);
    until_running(&gateway, 6).await;
}

#[tokio::test]
async fn a_cut_cable_makes_no_duplicates_and_no_orphans() {
    let mut gateway = Gateway::with_hub().await;
    let through = gateway.above().through.clone();
    through.create(&deployment("app", 3, idle())).await;
    through.until_ready("app", 3).await;
    let before = all_lives(&gateway.at.pods("app").await);

    gateway.above().relay.set(Weather::CUT);
    eventually("the hub to notice", async || {
        gateway
            .above()
            .hub
            .gateway(NODE)
            .await
            .filter(|n| n["connected"] == false)
    })
    .await;
    gateway.edge.kill().await;
    gateway.start_again().await;
    assert_eq!(all_lives(&gateway.at.until_ready("app", 3).await), before);
    // One is changed on the spot meanwhile, one goes.
    gateway
        .at
        .patch("Deployment/app", &json!({"spec": {"replicas": 2}}))
        .await;
    let left = all_lives(&gateway.at.until_ready("app", 2).await);
    gateway.at.create(&deployment("local", 1, idle())).await;
    gateway.at.until_ready("local", 1).await;

    gateway.above().relay.set(Weather::FAIR);
    gateway.above().hub.until_in_sync(NODE).await;
    stays("pods when the hub is back", Duration::from_secs(3), async || {
        all_lives(&gateway.at.pods("app").await)
    })
    .await;
    assert_eq!(all_lives(&gateway.at.pods("app").await), left);
    assert!(left.iter().all(|(pod, life)| before.get(pod) == Some(life)));
    until_running(&gateway, 3).await;
    through.delete("Deployment/app").await;
    through.delete("Deployment/local").await;
    until_running(&gateway, 0).await;
}

#[tokio::test]
async fn fifty_pods_run_on_one_gateway_and_are_found_again() {
    let mut gateway = Gateway::alone().await;
    gateway.at.create(&deployment("many", 50, idle())).await;
    let patience = Duration::from_secs(240);
    let all = |d: &Value| d["status"]["availableReplicas"] == 50;
    gateway
        .at
        .until_within(patience, "Deployment/many", "to be available", all)
        .await;
    let before = all_lives(&gateway.at.pods("many").await);
    assert_eq!(before.len(), 50);
    gateway.edge.kill().await;
    gateway.start_again().await;
    stays(
        "fifty pods after kill -9 of the agent",
        Duration::from_secs(3),
        async || all_lives(&gateway.at.pods("many").await),
    )
    .await;
    assert_eq!(all_lives(&gateway.at.until_ready("many", 50).await), before);
    until_running(&gateway, 50).await;
    gateway.at.delete("Deployment/many").await;
    let deadline = daemon::clock::now() + patience;
    while gateway.machine.running().await != Some((0, 0)) {
        assert!(daemon::clock::now() < deadline, "fifty pods do not end");
        tokio::time::sleep(tests::LOOK).await;
    }
}
