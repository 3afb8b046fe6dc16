//! One gateway: memory, idle time, how fast it is there.

use std::time::Duration;

use tests::{Pair, mqtt_wire};

use crate::Plan;
use crate::process::{memory, percentile, ticks};
use crate::report::Report;

const GET: &str = "$hw/events/device/default/press-01/twin/get";

pub(crate) async fn run(report: &mut Report, plan: Plan) -> anyhow::Result<()> {
    let mut pair = Pair::with(&[]).await;
    settle(plan).await;
    let idle = memory(pair.edge.pid().unwrap_or(0))?;
    report.at_most(
        "agent PSS, idle, broker included",
        8.0,
        idle.pss_kb as f64 / 1e3,
        "MB",
        "smaps_rollup, connected by QUIC, no device",
    );
    report.at_most(
        "agent RSS, idle, broker included",
        12.0,
        idle.rss_kb as f64 / 1e3,
        "MB",
        "the same",
    );
    let hub = memory(pair.hub.pid().unwrap_or(0))?;
    report.at_most(
        "smallest whole control plane (hub, embedded) RSS",
        40.0,
        hub.rss_kb as f64 / 1e3,
        "MB",
        "one gateway connected",
    );

    for n in 1..=100 {
        tests::press(&pair.hub.api, &format!("press-{n:02}"), "gw-1").await;
    }
    pair.hub.until_in_sync("gw-1").await;
    report_everything(&pair).await?;
    pair.hub.until_in_sync("gw-1").await;
    settle(plan).await;
    let full = memory(pair.edge.pid().unwrap_or(0))?;
    let how = "100 devices x 5 properties, each reported once; no pods";
    report.at_most("agent PSS with 100 devices", 12.0, full.pss_kb as f64 / 1e3, "MB", how);
    report.at_most("agent RSS with 100 devices", 16.0, full.rss_kb as f64 / 1e3, "MB", how);

    let window = if plan.quick { 10 } else { 60 };
    let before = ticks(pair.edge.pid().unwrap_or(0))?;
    tokio::time::sleep(Duration::from_secs(window)).await;
    let used = ticks(pair.edge.pid().unwrap_or(0))? - before;
    let share = used as f64 * 0.01 / window as f64 * 100.0;
    report.at_most(
        "agent CPU, idle",
        0.1,
        share,
        "% of a core",
        &format!("utime+stime over {window} s, 100 devices, connected"),
    );

    join_to_ready(report, plan, &pair).await?;
    start_offline(report, plan, &mut pair).await
}

async fn settle(plan: Plan) {
    tokio::time::sleep(Duration::from_secs(if plan.quick { 3 } else { 15 })).await;
}

/// Every property of every device, once.
async fn report_everything(pair: &Pair) -> anyhow::Result<()> {
    let (mut reader, mut writer) = mqtt_wire::connect(pair.edge.mqtt(), "bench-fill").await?;
    let mut id = 0_u16;
    for n in 1..=100 {
        let topic = format!("$hw/events/device/default/press-{n:02}/twin/update");
        for (property, value) in [
            ("setpoint", "40"),
            ("temperature", "21.5"),
            ("state", "pressing"),
            ("cycles", "17"),
            ("enabled", "true"),
        ] {
            id += 1;
            let payload = format!(
                "{{\"event_id\":\"f\",\"timestamp\":1,\"twin\":{{\"{property}\":{{\"actual\":{{\"value\":\"{value}\"}}}}}}}}"
            );
            writer.send(&mqtt_wire::publish(&topic, id, payload.as_bytes())).await?;
        }
    }
    while reader.next().await? != mqtt_wire::Incoming::PubAck(id) {}
    Ok(())
}

/// `kurator join edge`, exec of the agent, until the hub says connected.
async fn join_to_ready(report: &mut Report, plan: Plan, pair: &Pair) -> anyhow::Result<()> {
    let mut times = Vec::new();
    for n in 0..if plan.quick { 2 } else { 10 } {
        let folder = tempfile::tempdir()?;
        let name = format!("join-{n}");
        let token = pair.hub.token(&["--node", &name]).await;
        let started = daemon::clock::now();
        tests::Edge::join(folder.path(), &name, &token).await.good();
        let mut edge = tests::Edge::start(folder.path(), &name).await;
        tests::eventually("the new gateway to be connected", async || {
            pair.hub.gateway(&name).await.filter(|g| g["connected"] == true)
        })
        .await;
        times.push(started.elapsed().as_secs_f64());
        edge.kill().await;
    }
    let count = times.len();
    report.at_most(
        "join: exec to Ready",
        0.3,
        percentile(&mut times, 0.5),
        "s",
        &format!("kurator join + edgecore, until the hub says connected, looked at every 20 ms; median of {count}"),
    );
    Ok(())
}

/// exec to the first twin/get answered, no hub anywhere.
async fn start_offline(report: &mut Report, plan: Plan, pair: &mut Pair) -> anyhow::Result<()> {
    pair.hub.kill().await;
    let mut times = Vec::new();
    for _ in 0..if plan.quick { 3 } else { 20 } {
        pair.edge.kill().await;
        let mqtt = pair.edge.mqtt().to_owned();
        let started = daemon::clock::now();
        let answered = tokio::spawn(async move {
            loop {
                if let Ok(took) = ask_twin(&mqtt).await {
                    return took;
                }
                tokio::time::sleep(Duration::from_micros(500)).await;
            }
        });
        pair.edge.start_again().await;
        let answered: std::time::Instant = answered.await?;
        times.push((answered - started).as_secs_f64() * 1e3);
    }
    let count = times.len();
    report.at_most("exec to first twin answered, no network", 30.0, percentile(&mut times, 0.5), "ms", &format!("kill -9, exec, connect retried every 0.5 ms, twin/get answered; 100 devices in the store; median of {count}"));
    Ok(())
}

async fn ask_twin(mqtt: &str) -> anyhow::Result<std::time::Instant> {
    let (mut reader, mut writer) = mqtt_wire::connect(mqtt, "bench-ask").await?;
    writer
        .subscribe("$hw/events/device/default/press-01/twin/get/result")
        .await?;
    writer
        .send(&mqtt_wire::publish(GET, 1, b"{\"event_id\":\"g\",\"timestamp\":1}"))
        .await?;
    loop {
        if let mqtt_wire::Incoming::Publish { .. } = reader.next().await? {
            return Ok(daemon::clock::now());
        }
    }
}
