//! Policies: how fast one goes down to a gateway and back up into its template, what a thousand clusters cost at rest, and how long a
//! thousand gateways with twenty Works each take from cold.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tests::fleet::Fleet;
use tests::{Api, Edge, Hub};

use crate::Plan;
use crate::process::{memory, percentile};
use crate::report::Report;

const PATIENCE: Duration = Duration::from_secs(600);
/// Between two looks at something that takes a while.
const LOOK: Duration = Duration::from_millis(100);
const PAUSE: Duration = Duration::from_millis(300);
const MERGE: [(&str, &str); 1] = [("content-type", "application/merge-patch+json")];
const POLICIES: &str = "/apis/policy.karmada.io/v1alpha1/namespaces/default/propagationpolicies";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

pub(crate) async fn run(report: &mut Report, plan: Plan) -> anyhow::Result<()> {
    one_gateway(report, if plan.quick { 20 } else { 300 }).await?;
    let (clusters, works, at_rest) = if plan.quick { (50, 3, 10) } else { (1_000, 20, 60) };
    cold(report, clusters, works).await?;
    idle_leases(report, clusters, Duration::from_secs(at_rest)).await
}

fn deployment(name: &str, replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "a", "image": "registry.example/a:1"}]},
        }},
    })
}

fn policy(name: &str, selector: Value) -> Value {
    json!({
        "apiVersion": "policy.karmada.io/v1alpha1", "kind": "PropagationPolicy", "metadata": {"name": name},
        "spec": {
            "resourceSelectors": [{"apiVersion": "apps/v1", "kind": "Deployment", "labelSelector": selector}],
            "placement": {"replicaScheduling": {"replicaSchedulingType": "Duplicated"}},
        },
    })
}

async fn post(api: &Api, path: &str, object: &Value) -> anyhow::Result<()> {
    let made = api.json(Method::POST, path, Some(object)).await;
    made.map(drop).map_err(|e| anyhow::anyhow!("{path}: {e:?}"))
}

/// A template's edit, from the start of the request until it stands at the gateway, and until the gateway's word on it is the template's
/// status.
async fn one_gateway(report: &mut Report, samples: u32) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let hub = Hub::start(&folder.path().join("hub"), &[]).await;
    let own = folder.path().join("gateway");
    Edge::join(&own, "gw-1", &hub.token(&[]).await).await.good();
    // The controllers run, and no pod: what is measured is the way. A runtime is named, and is not there.
    let nothing = format!("unix://{}", folder.path().join("no.sock").display());
    let environment = [
        ("EDGECORE__API", "127.0.0.1:0"),
        ("EDGECORE__HEALTH", "127.0.0.1:0"),
        ("EDGECORE__MQTT__LISTEN", "127.0.0.1:0"),
        ("EDGECORE__WORKLOADS__RUNTIME", &*nothing),
    ];
    let environment = environment.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let edge = Edge::start_with(&own, "gw-1", &environment).await;
    hub.until_in_sync("gw-1").await;
    let api = &hub.api;
    let mut template = deployment("web", 0);
    template["metadata"]["labels"] = json!({"a": "b"});
    post(api, DEPLOYMENTS, &template).await?;
    post(api, POLICIES, &policy("all", json!({"matchLabels": {"a": "b"}}))).await?;
    let (at, path) = (edge.api().await, format!("{DEPLOYMENTS}/web"));
    let (mut down, mut back) = (Vec::new(), Vec::new());
    let mut patience = tests::PATIENCE;
    for n in 0..samples {
        let version = n.to_string();
        let patch = json!({"spec": {"template": {"metadata": {"annotations": {"version": version}}}}});
        let started = daemon::clock::now();
        let patched = api
            .call(Method::PATCH, &path, &MERGE, Some(patch.to_string().into_bytes()))
            .await;
        let answer = patched?.map_err(|e| anyhow::anyhow!("{}", e.message))?;
        let generation = serde_json::from_slice::<Value>(&answer)?["metadata"]["generation"].clone();
        let deadline = started + patience;
        let until = async |api: &Api, fits: &dyn Fn(&Value) -> bool| {
            while !tests::get(api, &path).await.is_some_and(|object| fits(&object)) {
                anyhow::ensure!(daemon::clock::now() < deadline, "an edit did not arrive");
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
            anyhow::Ok(started.elapsed().as_secs_f64() * 1e3)
        };
        down.push(
            until(&at, &|o| {
                o["spec"]["template"]["metadata"]["annotations"]["version"] == *version
            })
            .await?,
        );
        back.push(until(api, &|o| o["status"]["observedGeneration"] == generation).await?);
        patience = Duration::from_secs(10);
        tokio::time::sleep(PAUSE).await;
    }
    // The first finds everything cold.
    down.remove(0);
    back.remove(0);
    let how = format!(
        "{samples} edits of a Deployment {} ms apart, one real gateway, looked at every 0.3 ms",
        PAUSE.as_millis()
    );
    let mut tell = |what: &str, samples: &mut Vec<f64>| {
        let (half, most) = (percentile(samples, 0.5), percentile(samples, 0.99));
        report.note(what, format!("{half:.1} / {most:.1} ms"), &how);
    };
    tell("template edited -> applied at the gateway, p50 / p99", &mut down);
    tell(
        "template edited -> gateway's status in the template, p50 / p99",
        &mut back,
    );
    Ok(())
}

/// How many Works there are, and how many of them say that they were applied.
async fn applied(api: &Api) -> anyhow::Result<(usize, usize)> {
    let (mut all, mut applied, mut more) = (0, 0, String::new());
    loop {
        let path = format!("/apis/work.karmada.io/v1alpha1/works?limit=500{more}");
        let list = tests::get(api, &path)
            .await
            .ok_or_else(|| anyhow::anyhow!("no list of Works"))?;
        for work in list["items"].as_array().into_iter().flatten() {
            all += 1;
            let conditions = work["status"]["conditions"].as_array();
            let is = |c: &Value| c["type"] == "Applied" && c["status"] == "True";
            applied += usize::from(conditions.is_some_and(|all| all.iter().any(is)));
        }
        match list["metadata"]["continue"].as_str().filter(|t| !t.is_empty()) {
            Some(token) => more = format!("&continue={token}"),
            None => return Ok((all, applied)),
        }
    }
}

async fn ready(api: &Api) -> usize {
    let list = tests::get(api, "/apis/cluster.karmada.io/v1alpha1/clusters")
        .await
        .unwrap_or_default();
    let is = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
    let clusters = list["items"].as_array().into_iter().flatten();
    clusters
        .filter(|c| {
            c["status"]["conditions"]
                .as_array()
                .is_some_and(|all| all.iter().any(is))
        })
        .count()
}

fn rss(hub: &Hub) -> anyhow::Result<f64> {
    Ok(memory(hub.pid().unwrap_or(0))?.rss_kb as f64)
}

async fn registered(hub: &Hub, above: &Api, count: usize) -> anyhow::Result<(Fleet, f64)> {
    let token = hub.token(&["--uses", &count.to_string(), "--ttl", "1h"]).await;
    let started = daemon::clock::now();
    let fleet = Fleet::start(&token, "sim", count).await?;
    fleet.until_equal(count, 0, PATIENCE).await?;
    while ready(above).await < count {
        anyhow::ensure!(
            started.elapsed() < PATIENCE,
            "{} of {count} clusters are ready",
            ready(above).await
        );
        tokio::time::sleep(LOOK).await;
    }
    Ok((fleet, started.elapsed().as_secs_f64()))
}

async fn cold(report: &mut Report, clusters: usize, works: usize) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let hub = Hub::start(folder.path(), &[]).await;
    let api = &hub.api;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let empty = rss(&hub)?;
    let (fleet, took) = registered(&hub, api, clusters).await?;
    report.note(
        &format!("{clusters} gateways from cold: joined, registered as clusters, ready"),
        format!("{took:.1} s"),
        "simulated gateways in one process on the same two cores; keys and certificates included",
    );
    tokio::time::sleep(Duration::from_secs(10)).await;
    let with_clusters = rss(&hub)?;
    let label = json!({"a": "b"});
    for n in 0..works {
        let mut template = deployment(&format!("web-{n}"), 1);
        template["metadata"]["labels"] = label.clone();
        post(api, DEPLOYMENTS, &template).await?;
    }
    let started = daemon::clock::now();
    post(api, POLICIES, &policy("all", json!({"matchLabels": label}))).await?;
    loop {
        let (_, done) = applied(api).await?;
        if done >= clusters * works {
            break;
        }
        anyhow::ensure!(
            started.elapsed() < PATIENCE,
            "{done} of {} Works are applied",
            clusters * works
        );
        tokio::time::sleep(10 * LOOK).await;
    }
    let took = started.elapsed().as_secs_f64();
    report.note(
        &format!("policy applied -> {works} templates on {clusters} gateways, all Works applied"),
        format!("{took:.1} s, {:.0} Works a second", (clusters * works) as f64 / took),
        "the hub makes the Works, carries them, and writes their status; one SQLite file",
    );
    for n in 0..works {
        let path = format!("{DEPLOYMENTS}/web-{n}");
        let wanted = json!(clusters);
        while tests::get(api, &path)
            .await
            .is_none_or(|d| d["status"]["readyReplicas"] != wanted)
        {
            anyhow::ensure!(started.elapsed() < PATIENCE, "the sum of a template is not right");
            tokio::time::sleep(LOOK).await;
        }
    }
    report.note(
        "... and all summed up in the templates",
        format!("{:.1} s", started.elapsed().as_secs_f64()),
        "readyReplicas of every template is the number of gateways",
    );
    tokio::time::sleep(Duration::from_secs(10)).await;
    let full = rss(&hub)?;
    report.note(
        "hub RSS per idle gateway with its cluster / per Work",
        format!(
            "{:.1} / {:.2} kB",
            (with_clusters - empty) / clusters as f64,
            (full - with_clusters) / (clusters * works) as f64
        ),
        &format!(
            "RSS {:.0} MB empty, {:.0} with clusters, {:.0} with Works",
            empty / 1e3,
            with_clusters / 1e3,
            full / 1e3
        ),
    );
    fleet.stop().await;
    Ok(())
}

/// What a hub below a control plane writes there while nothing happens: leases, and nothing else.
async fn idle_leases(report: &mut Report, clusters: usize, moment: Duration) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let above = Hub::start(&folder.path().join("above"), &[]).await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "karmada-cluster"}});
    post(&above.api, "/api/v1/namespaces", &namespace).await?;
    let kubeconfig = above.kubeconfig().display().to_string();
    let hub = Hub::start(
        &folder.path().join("hub"),
        &["--upstream", "karmada", "--kubeconfig", &kubeconfig],
    )
    .await;
    let (fleet, _) = registered(&hub, &above.api, clusters).await?;
    tokio::time::sleep(Duration::from_secs(20)).await;
    let revision = async || {
        let list = tests::get(&above.api, "/api/v1/namespaces?limit=1").await;
        let revision = list.and_then(|l| l["metadata"]["resourceVersion"].as_str()?.parse::<u64>().ok());
        revision.ok_or_else(|| anyhow::anyhow!("no revision"))
    };
    let leases = async || {
        let page = kurator::ask(hub.health_url().trim_start_matches("http://"), "/metrics").await;
        let page = page.map(|(_, page)| page).unwrap_or_default();
        let line = page.lines().find(|l| l.starts_with("kurator_hub_leases_renewed_total"));
        line.and_then(|l| l.split(' ').nth(1)?.parse::<u64>().ok()).unwrap_or(0)
    };
    let (before, renewed) = (revision().await?, leases().await);
    tokio::time::sleep(moment).await;
    let (writes, renewed) = (revision().await? - before, leases().await - renewed);
    let hour = 3600.0 / moment.as_secs_f64();
    report.note(
        &format!("writes above per hour for {clusters} idle clusters"),
        format!(
            "{:.0}, of them {:.0} leases",
            writes as f64 * hour,
            renewed as f64 * hour
        ),
        "a lease each ten seconds (upstream.leaseEvery); another hub stands in for Karmada; its revisions are counted",
    );
    fleet.stop().await;
    Ok(())
}
