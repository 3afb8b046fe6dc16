//! How fast an edit goes down and a report comes up, and how many reports a second are made durable.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use http::Method;
use http_body_util::BodyStream;
use serde_json::{Value, json};
use tests::{Pair, mqtt_wire};

use crate::Plan;
use crate::process::percentile;
use crate::report::Report;

const UPDATE: &str = "$hw/events/device/default/press-01/twin/update";
const BASE: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/default";
/// Between two samples, so that each stands alone.
const PAUSE: Duration = Duration::from_millis(20);

fn report_of(property: &str, value: &str) -> String {
    format!(
        "{{\"event_id\":\"b\",\"timestamp\":1,\"twin\":{{\"{property}\":{{\"actual\":{{\"value\":\"{value}\"}}}}}}}}"
    )
}

pub(crate) async fn run(report: &mut Report, plan: Plan) -> anyhow::Result<()> {
    let pair = Pair::with(&[]).await;
    pair.with_press("press-01").await;
    let samples = if plan.quick { 30 } else { 500 };
    edits(report, &pair, samples).await?;
    reports(report, &pair, samples).await
}

/// PATCH of a desired value, from the start of the request until the delta stands at an MQTT client.
async fn edits(report: &mut Report, pair: &Pair, samples: u32) -> anyhow::Result<()> {
    let (mut reader, mut writer) = mqtt_wire::connect(pair.edge.mqtt(), "bench-delta").await?;
    writer.subscribe(&format!("{UPDATE}/delta")).await?;
    let (mut whole, mut call) = (Vec::new(), Vec::new());
    for n in 0..samples {
        let value = (30 + n % 150).to_string();
        let patch = json!({"spec": {"properties": [{"name": "setpoint", "desired": {"value": value}}]}})
            .to_string()
            .into_bytes();
        let started = daemon::clock::now();
        let api = pair.hub.api.clone();
        let request = tokio::spawn(async move {
            let answered = api
                .call(
                    Method::PATCH,
                    &format!("{BASE}/devices/press-01"),
                    &[("content-type", "application/merge-patch+json")],
                    Some(patch),
                )
                .await;
            (answered, daemon::clock::now())
        });
        loop {
            if let mqtt_wire::Incoming::Publish { payload, id, .. } = reader.next().await? {
                writer.acknowledge(id).await?;
                let delta: Value = serde_json::from_slice(&payload)?;
                if delta["delta"]["setpoint"] == value.as_str() {
                    break;
                }
            }
        }
        whole.push(started.elapsed().as_secs_f64() * 1e3);
        let (answered, at) = request.await?;
        answered
            .map_err(anyhow::Error::new)?
            .map_err(|r| anyhow::anyhow!("{}", r.message))?;
        call.push((at - started).as_secs_f64() * 1e3);
        tokio::time::sleep(PAUSE).await;
    }
    let how = format!(
        "{samples} edits {} ms apart, QUIC through the relay, from the request's start to the delta at an MQTT client",
        PAUSE.as_millis()
    );
    report.at_most(
        "desired edit, API PATCH -> MQTT, p50",
        2.0,
        percentile(&mut whole, 0.5),
        "ms",
        &how,
    );
    report.at_most(
        "desired edit, API PATCH -> MQTT, p99",
        8.0,
        percentile(&mut whole, 0.99),
        "ms",
        &how,
    );
    report.note(
        "the PATCH call itself, p50 / p99",
        format!(
            "{:.2} / {:.2} ms",
            percentile(&mut call, 0.5),
            percentile(&mut call, 0.99)
        ),
        "the same run",
    );
    Ok(())
}

/// A report, until its durable result and until an API watch at the hub shows it.
async fn reports(report: &mut Report, pair: &Pair, samples: u32) -> anyhow::Result<()> {
    let (mut reader, mut writer) = mqtt_wire::connect(pair.edge.mqtt(), "bench-report").await?;
    writer.subscribe(&format!("{UPDATE}/result")).await?;
    let watch = format!("{BASE}/devicestatuses?watch=true&fieldSelector=metadata.name%3Dpress-01");
    let response = pair
        .hub
        .api
        .send(Method::GET, &watch, &[("accept", "application/json")], None)
        .await
        .map_err(anyhow::Error::new)?;
    let (seen, mut sightings) = tokio::sync::mpsc::channel::<(String, Instant)>(1024);
    let watcher = tokio::spawn(async move {
        let mut body = BodyStream::new(response.into_body());
        let mut buffer: Vec<u8> = Vec::new();
        while let Some(Ok(frame)) = body.next().await {
            let at = daemon::clock::now();
            buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d));
            while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).unwrap_or_default();
                let twins = event["object"]["status"]["twins"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                let value = twins
                    .iter()
                    .find(|t| t["propertyName"] == "cycles")
                    .and_then(|t| t["reported"]["value"].as_str().map(str::to_owned));
                if let Some(value) = value
                    && seen.send((value, at)).await.is_err()
                {
                    return;
                }
            }
        }
    });
    let (mut durable, mut watched) = (Vec::new(), Vec::new());
    for n in 1..=samples {
        let value = n.to_string();
        let started = daemon::clock::now();
        writer
            .send(&mqtt_wire::publish(UPDATE, 1, report_of("cycles", &value).as_bytes()))
            .await?;
        loop {
            if let mqtt_wire::Incoming::Publish { id, .. } = reader.next().await? {
                durable.push(started.elapsed().as_secs_f64() * 1e3);
                writer.acknowledge(id).await?;
                break;
            }
        }
        loop {
            let sighting = tokio::time::timeout(Duration::from_secs(10), sightings.recv()).await?;
            let (shown, at) = sighting.ok_or_else(|| anyhow::anyhow!("the watch ended"))?;
            if shown == value {
                watched.push((at - started).as_secs_f64() * 1e3);
                break;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    watcher.abort();
    let how = format!(
        "{samples} reports {} ms apart, one property, TCP_NODELAY",
        PAUSE.as_millis()
    );
    report.at_most(
        "report, MQTT PUBLISH -> durable result, p50",
        0.5,
        percentile(&mut durable, 0.5),
        "ms",
        &how,
    );
    report.at_most(
        "report, MQTT PUBLISH -> durable result, p99",
        2.0,
        percentile(&mut durable, 0.99),
        "ms",
        &how,
    );
    report.at_most(
        "report, MQTT PUBLISH -> seen in an API watch at the hub, p50",
        2.0,
        percentile(&mut watched, 0.5),
        "ms",
        &how,
    );
    report.at_most(
        "report, MQTT PUBLISH -> seen in an API watch at the hub, p99",
        6.0,
        percentile(&mut watched, 0.99),
        "ms",
        &how,
    );
    Ok(())
}

/// QoS 1 reports as fast as they are acknowledged, over 100 devices, nobody subscribed to results.
pub(crate) async fn rate(report: &mut Report, plan: Plan) -> anyhow::Result<()> {
    let pair = Pair::with(&[]).await;
    for n in 1..=100 {
        tests::press(&pair.hub.api, &format!("press-{n:02}"), "gw-1").await;
    }
    pair.hub.until_in_sync("gw-1").await;
    for (devices, window) in [(1_u32, 2_000_usize), (100, 2_000)] {
        let total: u32 = if plan.quick { 20_000 } else { 300_000 };
        let (mut reader, mut writer) = mqtt_wire::connect(pair.edge.mqtt(), "bench-flood").await?;
        let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(window));
        let sender = std::sync::Arc::clone(&permits);
        let started = daemon::clock::now();
        let flood = tokio::spawn(async move {
            let mut out = Vec::with_capacity(128 * 1024);
            for n in 0..total {
                if let Ok(permit) = std::sync::Arc::clone(&sender).try_acquire_owned() {
                    permit.forget();
                } else {
                    writer.send(&out).await?;
                    out.clear();
                    sender.acquire().await?.forget();
                }
                let topic = format!("$hw/events/device/default/press-{:02}/twin/update", n % devices + 1);
                let id = u16::try_from(n % 60_000 + 1).unwrap_or(1);
                out.extend_from_slice(&mqtt_wire::publish(
                    &topic,
                    id,
                    report_of("cycles", &n.to_string()).as_bytes(),
                ));
                if out.len() > 96 * 1024 {
                    writer.send(&out).await?;
                    out.clear();
                }
            }
            writer.send(&out).await?;
            anyhow::Ok(writer)
        });
        let mut acknowledged = 0;
        while acknowledged < total {
            if let mqtt_wire::Incoming::PubAck(_) = reader.next().await? {
                acknowledged += 1;
                permits.add_permits(1);
            }
        }
        let rate = f64::from(total) / started.elapsed().as_secs_f64();
        drop(flood.await??);
        let how = format!(
            "{total} reports, QoS 1, one connection, {window} in flight, {devices} device(s), PUBACK counted; hub, agent and load on the same cores"
        );
        report.at_least(
            &format!("durable reports a second, {devices} device(s)"),
            30_000.0,
            rate,
            "/s",
            &how,
        );
    }
    Ok(())
}
