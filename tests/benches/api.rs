//! The embedded API beside a kube-apiserver with etcd (823 durable creates a second over one connection, 2,058 over 16, 90 lists of
//! 1,000 objects a second; measured on two cores like these).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::Method;
use serde_json::json;
use tests::Hub;

use crate::Plan;
use crate::process::memory;
use crate::report::Report;

const PATH: &str = "/api/v1/namespaces/default/configmaps";

pub(crate) async fn run(report: &mut Report, plan: Plan) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let hub = Hub::start(&folder.path().join("hub"), &[]).await;
    let total: u64 = if plan.quick { 1_000 } else { 20_000 };
    for (connections, reference) in [(1_usize, 823.0), (16, 2_058.0)] {
        let next = Arc::new(AtomicU64::new(0));
        let count = if connections == 1 { total / 4 } else { total };
        let started = daemon::clock::now();
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..connections {
            let next = Arc::clone(&next);
            let api = tests::Api::open(&hub.kubeconfig(), None)
                .await
                .map_err(anyhow::Error::new)?;
            workers.spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return anyhow::Ok(());
                    }
                    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{connections}-{n:06}")},
                        "data": {"text": "x".repeat(200)}});
                    api.json(Method::POST, PATH, Some(&body)).await.map_err(anyhow::Error::new)?;
                }
            });
        }
        while let Some(done) = workers.join_next().await {
            done??;
        }
        let rate = count as f64 / started.elapsed().as_secs_f64();
        report.at_least(
            &format!("embedded API: durable creates a second, {connections} connection(s)"),
            5.0 * reference,
            rate,
            "/s",
            &format!("{count} ConfigMaps of 300 bytes through kube's client in this process, TLS"),
        );
    }
    let rounds = if plan.quick { 20 } else { 200 };
    let api = tests::Api::open(&hub.kubeconfig(), None)
        .await
        .map_err(anyhow::Error::new)?;
    let started = daemon::clock::now();
    let mut bytes = 0;
    for _ in 0..rounds {
        let got = api
            .call(
                Method::GET,
                &format!("{PATH}?limit=1000"),
                &[("accept", "application/json")],
                None,
            )
            .await
            .map_err(anyhow::Error::new)?;
        bytes = got.map_err(|r| anyhow::anyhow!("{}", r.message))?.len();
    }
    let rate = f64::from(rounds) / started.elapsed().as_secs_f64();
    report.at_least(
        "embedded API: lists of 1,000 a second",
        270.0,
        rate,
        "/s",
        &format!("one connection, {} kB each", bytes / 1000),
    );
    let rss = memory(hub.pid().unwrap_or(0))?.rss_kb as f64 / 1e3;
    report.at_most(
        "hub RSS after those creates",
        110.0,
        rss,
        "MB",
        "a tenth of kube-apiserver's and etcd's 1,095 MB after 45,000",
    );
    Ok(())
}
