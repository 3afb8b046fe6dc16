//! A fleet on one hub: memory per gateway, and how long until all are back and proven equal after the hub was killed.

use std::time::Duration;

use tests::Hub;
use tests::fleet::Fleet;

use crate::Plan;
use crate::process::memory;
use crate::report::Report;

const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) async fn run(report: &mut Report, plan: Plan) -> anyhow::Result<()> {
    let sizes: &[usize] = if plan.quick { &[100] } else { &[1_000, 10_000] };
    for &count in sizes {
        one(report, count).await?;
    }
    Ok(())
}

async fn one(report: &mut Report, count: usize) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut hub = Hub::start(&folder.path().join("hub"), &[]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let empty = memory(hub.pid().unwrap_or(0))?.rss_kb;
    let token = hub.token(&["--uses", &count.to_string(), "--ttl", "1h"]).await;
    let started = daemon::clock::now();
    let fleet = Fleet::start(&token, "sim", count).await?;
    fleet.until_equal(count, 0, PATIENCE).await?;
    report.note(
        &format!("{count} gateways: joined and equal"),
        format!("{:.1} s", started.elapsed().as_secs_f64()),
        "keys, certificates, first sync; the fleet is one process on the same two cores",
    );
    tokio::time::sleep(Duration::from_secs(10)).await;
    let full = memory(hub.pid().unwrap_or(0))?.rss_kb;
    let each = (full.saturating_sub(empty)) as f64 / count as f64;
    report.at_most(
        &format!("hub RSS per idle connected gateway, {count} gateways"),
        40.0,
        each,
        "kB",
        &format!("RSS {} MB with, {} MB without", full / 1000, empty / 1000),
    );

    let before = fleet.epoch();
    hub.kill().await;
    let started = daemon::clock::now();
    hub.start_again().await;
    let up = started.elapsed();
    // Equal says both: connected to the new process, and digests compared.
    fleet.until_equal(count, before, PATIENCE).await?;
    let all = started.elapsed().as_secs_f64();
    report.at_most(
        &format!("hub killed: {count} gateways back and proven equal"),
        15.0,
        all,
        "s",
        &format!(
            "kill -9, exec (ready after {:.2} s), all digests equal",
            up.as_secs_f64()
        ),
    );
    fleet.stop().await;
    hub.stop().await;
    Ok(())
}
