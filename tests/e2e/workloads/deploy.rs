//! Deployments: from an object to processes, from one version to the next, with the agent or the runtime killed in between.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tests::gateway::Gateway;
use tests::objects::{all_lives, condition, deployment, idle, is_ready, lives, name, service, web};
use tests::{PATIENCE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Waits until the machine runs this many pods of one container, and nothing else.
pub(super) async fn until_running(gateway: &Gateway, count: usize) {
    eventually(&format!("{count} sandboxes and containers to run"), async || {
        gateway.machine.running().await.filter(|now| *now == (count, count))
    })
    .await;
}

/// Another version of the pods.
fn version(number: u32) -> Value {
    json!({"spec": {"template": {"metadata": {"annotations": {"version": number.to_string()}}}}})
}

fn is_at(pod: &Value, number: u32) -> bool {
    pod["metadata"]["annotations"]["version"].as_str() == Some(&*number.to_string())
}

#[tokio::test]
async fn a_deployment_becomes_processes_and_goes_without_a_trace() {
    let gateway = Gateway::alone().await;
    let at = &gateway.at;
    at.create(&deployment("web", 3, web())).await;
    let pods = at.until_ready("web", 3).await;
    let made = at
        .until("Deployment/web", "to be available", |d| {
            condition(d, "Available") == "True" && d["status"]["conditions"][1]["reason"] == "NewReplicaSetAvailable"
        })
        .await;
    let status = &made["status"];
    for count in ["replicas", "readyReplicas", "availableReplicas", "updatedReplicas"] {
        assert_eq!(status[count], 3, "{count}: {status}");
    }
    assert_eq!(status["observedGeneration"], made["metadata"]["generation"]);
    assert_eq!(status["conditions"][0]["reason"], "MinimumReplicasAvailable");

    let sets = at.labelled("ReplicaSet", "web").await;
    let mut addresses = BTreeSet::new();
    for pod in &pods {
        let status = &pod["status"];
        assert!(name(pod).starts_with(&format!("{}-", name(&sets[0]))), "{}", name(pod));
        assert_eq!(
            (&status["phase"], &status["qosClass"]),
            (&json!("Running"), &json!("BestEffort"))
        );
        assert_eq!(status["hostIP"], tests::runtime::ADDRESS);
        let ip = status["podIP"].as_str().unwrap();
        assert!(
            ip.starts_with("10.42.0.") && status["podIPs"] == json!([{"ip": ip}]),
            "{status}"
        );
        addresses.insert(ip.to_owned());
        let container = &status["containerStatuses"][0];
        assert!(
            container["containerID"].as_str().unwrap().starts_with("containerd://"),
            "{container}"
        );
        assert_eq!(
            (&container["started"], &container["restartCount"]),
            (&json!(true), &json!(0))
        );
        for kind in [
            "PodScheduled",
            "Initialized",
            "ContainersReady",
            "Ready",
            "PodReadyToStartContainers",
        ] {
            assert_eq!(condition(pod, kind), "True", "{kind}: {status}");
        }
        let reasons: Vec<String> = at
            .events(name(pod))
            .await
            .into_iter()
            .map(|(reason, _)| reason)
            .collect();
        for reason in ["Scheduled", "Pulled", "Created", "Started"] {
            assert!(reasons.iter().any(|r| r == reason), "{reason} in {reasons:?}");
        }
    }
    assert_eq!(addresses.len(), 3);
    until_running(&gateway, 3).await;

    at.patch("Deployment/web", &json!({"spec": {"replicas": 1}})).await;
    let left = at.until_ready("web", 1).await;
    until_running(&gateway, 1).await;
    assert!(pods.iter().any(|pod| lives(pod) == lives(&left[0])));

    at.delete("Deployment/web").await;
    at.until_pods("web", "to be gone", <[Value]>::is_empty).await;
    until_running(&gateway, 0).await;
    eventually("the ReplicaSet to go", async || {
        at.labelled("ReplicaSet", "web").await.is_empty().then_some(())
    })
    .await;
    // Folders of logs and volumes too.
    for folder in ["data/logs", "data/pods"] {
        eventually(&format!("{folder} to be empty"), async || {
            let entries = std::fs::read_dir(gateway.edge.folder().join(folder)).ok();
            entries.is_none_or(|mut entries| entries.next().is_none()).then_some(())
        })
        .await;
    }
}

/// Asks a web server for its page: its first line.
async fn ask(address: &str) -> std::io::Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.0 200") => {
                Ok(body.trim().to_owned())
            }
            _ => Err(std::io::Error::other(format!("answered {answer:?}"))),
        }
    };
    tokio::time::timeout(PATIENCE, exchange).await?
}

/// Requests without a pause, each over a connection of its own.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    seen: Arc<Mutex<BTreeSet<String>>>,
    missed: Arc<Mutex<Vec<String>>>,
    workers: tokio::task::JoinSet<()>,
}

impl Load {
    pub(super) fn start(address: &str, workers: usize) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            asked: Arc::default(),
            seen: Arc::default(),
            missed: Arc::default(),
            workers: tokio::task::JoinSet::new(),
        };
        for _ in 0..workers {
            let (stop, asked) = (Arc::clone(&load.stop), Arc::clone(&load.asked));
            let (seen, missed, address) = (Arc::clone(&load.seen), Arc::clone(&load.missed), address.to_owned());
            load.workers.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    match ask(&address).await {
                        Ok(who) => drop(seen.lock().unwrap().insert(who)),
                        Err(e) => missed.lock().unwrap().push(e.to_string()),
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        load
    }

    /// Waits for some more requests to be answered.
    pub(super) async fn more(&self, count: usize) {
        let goal = self.asked.load(Ordering::Relaxed) + count;
        eventually("more requests to be answered", async || {
            (self.asked.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
    }

    /// Ends it: who answered, and what was missed.
    pub(super) async fn end(mut self) -> (BTreeSet<String>, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        while self.workers.join_next().await.is_some() {}
        let (seen, missed) = (self.seen.lock().unwrap().clone(), self.missed.lock().unwrap().clone());
        (seen, missed)
    }
}

/// A Deployment that gives up none of its pods before another answers, and whose pods end a moment after they were taken off.
fn careful(replicas: u32) -> Value {
    let mut made = deployment("web", replicas, web());
    made["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    made["spec"]["template"]["spec"]["containers"][0]["lifecycle"] =
        json!({"preStop": {"exec": {"command": ["sleep", "1"]}}});
    made
}

async fn cluster_ip(gateway: &Gateway, service: &str) -> String {
    let wish = "to have an address";
    let service = gateway
        .at
        .until(&format!("Service/{service}"), wish, |s| {
            s["spec"]["clusterIP"].is_string()
        })
        .await;
    service["spec"]["clusterIP"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_rolling_update_under_load_misses_no_request() {
    let gateway = Gateway::alone().await;
    let at = &gateway.at;
    at.create(&careful(3)).await;
    at.create(&service("web", "web")).await;
    let before = at.until_ready("web", 3).await;
    let address = format!("{}:80", cluster_ip(&gateway, "web").await);
    eventually("the Service to answer", async || ask(&address).await.ok()).await;

    let load = Load::start(&address, 4);
    load.more(100).await;
    at.patch("Deployment/web", &version(2)).await;
    let after = at
        .until_pods("web", "to be 3 new ones", |pods| {
            pods.len() == 3 && pods.iter().all(|pod| is_ready(pod) && is_at(pod, 2))
        })
        .await;
    load.more(100).await;
    let (seen, missed) = load.end().await;
    assert_eq!(missed, [""; 0]);
    for pod in before.iter().chain(&after) {
        assert!(seen.contains(name(pod)), "{} never answered: {seen:?}", name(pod));
    }
    until_running(&gateway, 3).await;
}

#[tokio::test]
async fn an_update_goes_on_where_it_was_when_agent_and_runtime_are_killed_in_it() {
    let mut gateway = Gateway::alone().await;
    gateway.at.create(&deployment("app", 4, idle())).await;
    let mut before = all_lives(&gateway.at.until_ready("app", 4).await);
    for number in 2..5 {
        gateway.at.patch("Deployment/app", &version(number)).await;
        let one_new = |pods: &[Value]| pods.iter().any(|pod| is_at(pod, number) && is_ready(pod));
        gateway.at.until_pods("app", "to have a new one", one_new).await;
        if number != 3 {
            gateway.edge.kill().await;
        }
        if number != 2 {
            gateway.machine.kill_containerd().await;
            gateway.machine.start_containerd().await;
        }
        if number != 3 {
            gateway.start_again().await;
        }
        let mut seen = std::collections::BTreeMap::new();
        let done = |pods: &[Value]| pods.len() == 4 && pods.iter().all(|pod| is_at(pod, number) && is_ready(pod));
        let after = eventually("the update to be through", async || {
            let pods = gateway.at.pods("app").await;
            // Those that end are not counted.
            let here = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
            let here = pods.iter().filter(here).count();
            assert!(here <= 5, "{here} pods of 4, one more allowed");
            for (pod, life) in all_lives(&pods) {
                // Each pod ran its container once: killed agents and runtimes start none again.
                for (_, id, restarts) in &life {
                    assert_eq!(*restarts, 0, "{pod}");
                    let first = seen.entry(pod.clone()).or_insert_with(|| id.clone());
                    assert!(first.is_empty() || first == id, "{pod} runs {id}, ran {first}");
                    id.clone_into(first);
                }
            }
            done(&pods).then_some(pods)
        })
        .await;
        for (pod, life) in &before {
            if let Some(id) = seen.get(pod) {
                assert_eq!(*id, life[0].1, "{pod} is another container");
            }
        }
        before = all_lives(&after);
        until_running(&gateway, 4).await;
    }
    let sets = gateway.at.labelled("ReplicaSet", "app").await;
    let live: Vec<_> = sets.iter().filter(|set| set["spec"]["replicas"] != 0).collect();
    assert_eq!((sets.len(), live.len()), (4, 1));
}
