//! What an idle link costs.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tests::Pair;

use crate::Plan;
use crate::report::Report;

/// IPv4 and UDP headers of each datagram, which the relay does not see.
const HEADERS: u64 = 28;

pub(crate) async fn run(report: &mut Report, plan: Plan) -> anyhow::Result<()> {
    let pair = Pair::with(&[]).await;
    pair.hub.until_in_sync("gw-1").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let traffic = pair.relay.traffic();
    let read = || {
        let bytes = traffic.up.load(Ordering::Relaxed) + traffic.down.load(Ordering::Relaxed);
        bytes + HEADERS * traffic.packets.load(Ordering::Relaxed)
    };
    let window = if plan.quick { 70 } else { 260 };
    let before = read();
    tokio::time::sleep(Duration::from_secs(window)).await;
    let hour = (read() - before) as f64 * 3600.0 / window as f64;
    let how = format!(
        "bytes both ways at the relay with 28 bytes of headers a datagram, over {window} s, default heartbeat, QUIC"
    );
    report.at_most("idle link, per gateway and hour", 12.0, hour / 1e3, "kB", &how);
    report.note(
        "idle link, per gateway and day",
        format!("{:.0} kB", hour * 24.0 / 1e3),
        "the same, times 24",
    );
    Ok(())
}
