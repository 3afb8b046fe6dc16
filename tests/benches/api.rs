//! The API under load, as the figures of a kube-apiserver with etcd were taken: wrk with a bearer token, two threads, some seconds each.
//!
//! Targets are multiples of what such a server gave on two cores like these: 823, 2,058 and 2,668 durable creates a second over 1, 16 and 256
//! connections, 5,524 gets, 90 and 131 lists of 1,000 over 1 and 8, and 1,095 MB for both processes after 45,000 ConfigMaps. With `--server`
//! the same requests go to another server, for a comparison on the same minutes.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tests::{Api, Hub};
use tokio::process::Command;
use tokio::sync::Notify;

use crate::Plan;
use crate::process::{memory, percentile};
use crate::report::Report;

/// Watchers of one change.
const WATCHERS: usize = 1_000;
/// Objects that a restarted server finds.
const MANY: u64 = 100_000;

/// The server under load.
struct Server {
    kubeconfig: PathBuf,
    api: Api,
    url: String,
    token: String,
    /// Its processes, for their memory.
    pids: Vec<u32>,
}

impl Server {
    /// Makes itself an identity there, and what the requests need.
    async fn prepare(kubeconfig: PathBuf, url: String, pids: Vec<u32>) -> anyhow::Result<Self> {
        let api = Api::open(&kubeconfig, None).await?;
        let mut server = Self {
            kubeconfig,
            api,
            url,
            token: String::new(),
            pids,
        };
        for space in ["load", "list-1k", "list-10k", "fan"] {
            let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}});
            server.post("/api/v1/namespaces", &made).await?;
        }
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bench"}});
        server.post("/api/v1/namespaces/load/serviceaccounts", &account).await?;
        let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "bench"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "bench", "namespace": "load"}]});
        server
            .post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding)
            .await?;
        let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}});
        let given = server
            .post("/api/v1/namespaces/load/serviceaccounts/bench/token", &asked)
            .await?;
        given["status"]["token"]
            .as_str()
            .context("a token")?
            .clone_into(&mut server.token);
        server
            .post("/api/v1/namespaces/load/configmaps", &config_map("one"))
            .await?;
        for n in 0..16 {
            let name = format!("d{n}");
            let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": "load"}},
                "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "load"}},
                    "template": {"metadata": {"labels": {"app": "load"}}, "spec": {"containers": [{"name": "c", "image": "busybox"}]}}}});
            server
                .post("/apis/apps/v1/namespaces/load/deployments", &deployment)
                .await?;
        }
        Ok(server)
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.api
            .json(Method::POST, path, Some(body))
            .await
            .map_err(|e| anyhow::Error::new(e).context(path.to_owned()))
    }

    /// Fills a namespace with this many ConfigMaps, sixteen at a time.
    async fn fill(&self, space: &str, count: usize) -> anyhow::Result<()> {
        let path: Arc<str> = format!("/api/v1/namespaces/{space}/configmaps").into();
        let next = Arc::new(AtomicUsize::new(0));
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (api, path, next) = (self.api.clone(), path.clone(), next.clone());
            workers.spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return anyhow::Ok(());
                    }
                    api.json(Method::POST, &path, Some(&config_map(&format!("c{n:05}"))))
                        .await?;
                }
            });
        }
        while let Some(done) = workers.join_next().await {
            done??;
        }
        Ok(())
    }

    fn rss_mb(&self) -> anyhow::Result<f64> {
        let mut all = 0;
        for pid in &self.pids {
            all += memory(*pid)?.rss_kb;
        }
        Ok(all as f64 / 1e3)
    }

    /// Requests a second, and how many there were.
    async fn wrk(&self, mode: &str, space: &str, connections: u32, plan: Plan) -> anyhow::Result<(f64, u64)> {
        let seconds = if plan.quick { 1 } else { 8 };
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/load.lua");
        let output = Command::new("wrk")
            .arg(format!("-t{}", connections.min(2)))
            .arg(format!("-c{connections}"))
            .arg(format!("-d{seconds}s"))
            .args(["--timeout", "20s", "-s", script])
            .args([self.url.as_str(), "--", mode, &self.token, space])
            .stdin(Stdio::null())
            .output()
            .await
            .context("wrk cannot be started: is the package wrk installed?")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() || said.contains("Non-2xx") || said.contains("Socket errors") {
            anyhow::bail!(
                "wrk {mode} over {connections}: {said}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let rate = said
            .lines()
            .find_map(|l| l.strip_prefix("Requests/sec:"))
            .and_then(|v| v.trim().parse().ok());
        let count = said
            .lines()
            .find_map(|l| l.split_once(" requests in "))
            .and_then(|(n, _)| n.trim().parse().ok());
        rate.zip(count).with_context(|| format!("wrk said {said}"))
    }
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": "load"}},
        "data": {"a": "x".repeat(100), "b": "1", "c": "2"}})
}

/// Another server, by its kubeconfig and its processes.
pub(crate) async fn other(
    report: &mut Report,
    plan: Plan,
    kubeconfig: PathBuf,
    url: String,
    pids: Vec<u32>,
) -> anyhow::Result<()> {
    let server = Server::prepare(kubeconfig, url, pids).await?;
    load(report, plan, &server).await?;
    Ok(())
}

/// A hub of this build.
pub(crate) async fn run(report: &mut Report, plan: Plan) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut hub = Hub::start(&folder.path().join("hub"), &[]).await;
    let pids = hub.pid().into_iter().collect();
    let server = Server::prepare(hub.kubeconfig(), hub.api_url().to_owned(), pids).await?;
    let mut have = load(report, plan, &server).await?;
    while have < MANY && !plan.quick {
        have += server.wrk("create", "load", 256, plan).await?.1;
    }
    restart(report, &mut hub, have).await
}

/// The requests of one server; how many objects it then has.
async fn load(report: &mut Report, plan: Plan, server: &Server) -> anyhow::Result<u64> {
    let empty = server.rss_mb()?;
    let mut made = 0;
    for (connections, target) in [(1_u32, 823.0), (16, 5.0 * 2_058.0), (256, 5.0 * 2_668.0)] {
        let (rate, count) = server.wrk("create", "load", connections, plan).await?;
        made += count;
        report.at_least(
            &format!("API: durable creates a second, {connections} connection(s)"),
            target,
            rate,
            "/s",
            "wrk, ConfigMaps of 300 bytes, TLS, bearer token; each answered after its fsync",
        );
    }
    let grown = server.rss_mb()?;
    report.at_most(
        "API: RSS after those creates",
        110.0,
        grown,
        "MB",
        &format!("{made} ConfigMaps; a tenth of 1,095 MB after 45,000"),
    );
    report.note(
        "API: memory per 10,000 objects",
        format!("{:.1} MB", (grown - empty).max(0.0) * 1e4 / made as f64),
        &format!("{empty:.1} MB before, page cache and allocator included"),
    );
    let (rate, _) = server.wrk("get", "load", 16, plan).await?;
    report.at_least(
        "API: gets a second, 16 connections",
        3.0 * 5_524.0,
        rate,
        "/s",
        "wrk, one ConfigMap",
    );
    for (space, count, targets) in [
        ("list-1k", 1_000, [270.0, 393.0]),
        ("list-10k", if plan.quick { 2_000 } else { 10_000 }, [27.0, 39.3]),
    ] {
        server.fill(space, count).await?;
        for (connections, target) in [1, 8].into_iter().zip(targets) {
            let (rate, _) = server.wrk("list", space, connections, plan).await?;
            report.at_least(
                &format!("API: lists of {count} a second, {connections} connection(s)"),
                target,
                rate,
                "/s",
                "wrk, the whole namespace in JSON",
            );
        }
    }
    for mode in ["patch", "apply"] {
        for connections in [1, 16] {
            let (rate, _) = server.wrk(mode, "load", connections, plan).await?;
            let name = match mode {
                "patch" => "strategic merge patches",
                _ => "server-side applies",
            };
            report.note(
                &format!("API: {name} of a Deployment a second, {connections} connection(s)"),
                format!("{rate:.0} /s"),
                "wrk, 16 Deployments, each time another image",
            );
        }
    }
    fan_out(report, plan, server).await?;
    Ok(made + 11_000)
}

/// One change, and a thousand who wait for it, each over a connection of its own.
async fn fan_out(report: &mut Report, plan: Plan, server: &Server) -> anyhow::Result<()> {
    let path = "/api/v1/namespaces/fan/configmaps";
    server.post(path, &config_map("one")).await?;
    let version = server.api.get(path).await?["metadata"]["resourceVersion"]
        .as_str()
        .context("a version")?
        .to_owned();
    let before = server.rss_mb()?;
    let seen = Arc::new((AtomicUsize::new(0), Notify::new()));
    let mut watchers = tokio::task::JoinSet::new();
    let watch = format!("{path}?watch=1&resourceVersion={version}");
    for _ in 0..WATCHERS {
        let api = Api::open(&server.kubeconfig, None).await?;
        let response = api
            .send(Method::GET, &watch, &[("accept", "application/json")], None)
            .await?;
        anyhow::ensure!(response.status().is_success(), "a watch: {}", response.status());
        let (mut body, seen) = (response.into_body(), seen.clone());
        watchers.spawn(async move {
            let _api = api;
            while let Some(Ok(frame)) = body.frame().await {
                let events = frame
                    .data_ref()
                    .map_or(0, |d| d.iter().filter(|b| **b == b'\n').count());
                if events > 0 && (seen.0.fetch_add(events, Ordering::AcqRel) + events).is_multiple_of(WATCHERS) {
                    seen.1.notify_one();
                }
            }
        });
    }
    let open = server.rss_mb()?;
    let rounds = if plan.quick { 5 } else { 40 };
    let mut times = Vec::new();
    for n in 0..rounds {
        let started = daemon::clock::now();
        let patch = json!({"data": {"n": n.to_string()}}).to_string().into_bytes();
        server
            .api
            .call(
                Method::PATCH,
                &format!("{path}/one"),
                &[("content-type", "application/merge-patch+json")],
                Some(patch),
            )
            .await?
            .map_err(|r| anyhow::anyhow!("{}", r.message))?;
        while seen.0.load(Ordering::Acquire) < WATCHERS * (n + 1) {
            seen.1.notified().await;
        }
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    watchers.abort_all();
    report.note(
        "API: one change to the last of 1,000 watchers, p50 / p99",
        format!(
            "{:.1} / {:.1} ms",
            percentile(&mut times, 0.5),
            percentile(&mut times, 0.99)
        ),
        "from the request's start; a TLS connection for each watcher, all read in one process on the same cores",
    );
    report.note(
        "API: memory per open watch",
        format!("{:.1} kB", (open - before).max(0.0) * 1e3 / WATCHERS as f64),
        "with its TLS connection",
    );
    Ok(())
}

/// The same store again, after an orderly stop and after a kill.
async fn restart(report: &mut Report, hub: &mut Hub, have: u64) -> anyhow::Result<()> {
    for orderly in [true, false] {
        if orderly {
            hub.stop().await;
        } else {
            hub.kill().await;
        }
        let started = daemon::clock::now();
        hub.start_again().await;
        let api = Api::open(&hub.kubeconfig(), None).await?;
        api.get("/api/v1/namespaces/load/configmaps?limit=1").await?;
        let took = started.elapsed().as_secs_f64();
        report.note(
            &format!(
                "API: start with {have} objects after {}",
                if orderly { "an orderly stop" } else { "kill -9" }
            ),
            format!("{took:.2} s"),
            "exec to the first list answered, looked for every 5 ms",
        );
    }
    let rss = memory(hub.pid().unwrap_or(0))?.rss_kb as f64 / 1e3;
    report.note(
        "API: RSS after that start",
        format!("{rss:.1} MB"),
        &format!("{have} objects in the store"),
    );
    Ok(())
}
