//! What an idle gateway costs its hub: memory per connection, bytes and packets per heartbeat.
//!
//! ```text
//! cargo run --release -p link --example idle -- [connections] [quic|tcp] [heartbeat in ms] [heartbeats to count]
//! ```
//!
//! The hub is this process; the gateways are a second one, so that only the hub's memory is counted. Every connection carries a real,
//! established session with empty sets.

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use link::driver::drive;
use link::pki::{Credential, HubCa, NodeKey, NodeProfile};
use link::{
    Accepted, Admission, Connection, Dialer, HubConfig, HubEndpoint, HubLimits, OpenGate, StreamKind, Transports,
};
use proto::{EdgeConfig, Event, Inventory, Limits, Session, SourceSet};
use tokio_util::sync::CancellationToken;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// IPv4 and UDP; IPv4 and TCP with timestamps.
const UDP_HEADERS: u64 = 28;
const TCP_HEADERS: u64 = 52;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let arg = |n: usize, default: &str| args.get(n).cloned().unwrap_or_else(|| default.to_owned());
    if arg(1, "") == "gateways" {
        return gateways(
            &arg(2, ""),
            Path::new(&arg(3, "")),
            arg(4, "").parse()?,
            &arg(5, "quic"),
        )
        .await;
    }
    hub(
        arg(1, "1000").parse()?,
        &arg(2, "quic"),
        Duration::from_millis(arg(3, "3000").parse()?),
        arg(4, "5").parse()?,
    )
    .await
}

/// Kilobytes: resident, and proportional (shared pages counted by share).
fn memory() -> Result<(u64, u64)> {
    let field = |file: &str, name: &str| -> Result<u64> {
        let text = std::fs::read_to_string(file)?;
        let line = text.lines().find_map(|l| l.strip_prefix(name)).ok_or("no such field")?;
        Ok(line.split_whitespace().next().ok_or("no value")?.parse()?)
    };
    Ok((
        field("/proc/self/status", "VmRSS:")?,
        field("/proc/self/smaps_rollup", "Pss:")?,
    ))
}

fn now() -> proto::Now {
    daemon::clock::since_start()
}

async fn hub(count: usize, transport: &str, heartbeat: Duration, beats: u32) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("link-idle-{}", std::process::id()));
    let ca = HubCa::load_or_create(&dir, daemon::clock::wall_ms())?;
    let endpoint = HubEndpoint::bind(HubConfig {
        listen: "127.0.0.1:0".parse()?,
        server: ca.issue_server(&[], daemon::clock::wall_ms())?,
        ca: ca.cert().clone(),
        limits: HubLimits {
            idle: heartbeat * 4 + Duration::from_secs(60),
            validate_above: 10_000,
            ..HubLimits::default()
        },
        gate: Arc::new(OpenGate),
        admission: Arc::new(Admission::new(100_000, 100_000)),
    })?;
    let key = NodeKey::generate()?;
    let request = key.request()?;
    for n in 0..count {
        let node = format!("gw-{n}");
        let profile = NodeProfile {
            node: &node,
            trust_domain: "kurator.local",
            valid: Duration::from_secs(86_400),
        };
        let cert = ca.issue_node(&request, &profile, daemon::clock::wall_ms())?;
        std::fs::write(dir.join(format!("{n}.crt")), cert.chain_pem)?;
    }
    std::fs::write(dir.join("node.key"), key.to_pem())?;

    let before = memory()?;
    let began = daemon::clock::now();
    let mut child = tokio::process::Command::new(std::env::current_exe()?)
        .args([
            "gateways",
            &endpoint.local_addr().to_string(),
            &dir.display().to_string(),
            &count.to_string(),
            transport,
        ])
        .kill_on_drop(true)
        .spawn()?;
    let mut links = Vec::new();
    let mut tasks = tokio::task::JoinSet::new();
    while links.len() < count {
        let Some(Accepted::Link(connection)) = endpoint.accept().await else {
            return Err("no link".into());
        };
        links.push(connection.clone());
        tasks.spawn(serve(connection, heartbeat));
    }
    println!(
        "{count} gateways over {transport}, connected in {:.1} s",
        began.elapsed().as_secs_f64()
    );

    // Handshakes, MTU discovery and delayed acknowledgements are over after two heartbeats.
    tokio::time::sleep(heartbeat * 2 + Duration::from_secs(1)).await;
    let after = memory()?;
    let per = |a: u64, b: u64| (b - a) as f64 / count as f64;
    println!(
        "hub RSS {} kB -> {} kB: {:.1} kB per connection (PSS {:.1} kB)",
        before.0,
        after.0,
        per(before.0, after.0),
        per(before.1, after.1)
    );
    let total = |links: &[Connection]| {
        links.iter().fold((0, 0), |(bytes, packets), l| {
            let (b, p) = (l.bytes(), l.packets());
            (bytes + b.0 + b.1, packets + p.0 + p.1)
        })
    };
    println!(
        "handshake and first session: {:.0} bytes per connection",
        total(&links).0 as f64 / count as f64
    );
    let start = total(&links);
    tokio::time::sleep(heartbeat * beats).await;
    let end = total(&links);
    let each = count as u64 * u64::from(beats);
    let (bytes, packets) = (
        (end.0 - start.0) as f64 / each as f64,
        (end.1 - start.1) as f64 / each as f64,
    );
    let headers = if transport == "quic" { UDP_HEADERS } else { TCP_HEADERS } as f64;
    let with = bytes + packets * headers;
    println!("per heartbeat, both ways: {bytes:.0} bytes in {packets:.2} packets; {with:.0} with IP headers");
    println!(
        "an hour of 60 s heartbeats: {:.1} kB, {:.1} kB with IP headers",
        bytes * 0.06,
        with * 0.06
    );
    println!(
        "still there: {}",
        links.iter().filter(|l| l.close_reason().is_none()).count()
    );
    child.kill().await?;
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

async fn serve(connection: Connection, heartbeat: Duration) -> Result<()> {
    let mut stream = connection.accept_bi().await?;
    if stream.read_kind().await? != StreamKind::Session {
        return Err("not a session".into());
    }
    let mut config = proto::HubConfig::new("hub", 1);
    config.limits = Limits {
        heartbeat,
        ..Limits::default()
    };
    let node = connection.peer().and_then(|p| p.node()).unwrap_or_default();
    let (driver, handle, mut events) = drive(Session::hub(config, node, now()), stream);
    let running = tokio::spawn(driver.run(CancellationToken::new()));
    while let Some(event) = events.next().await {
        if let Event::Hello { .. } = event {
            handle
                .call(|s, now| s.accept(now, SourceSet::new(), Inventory::new(), Vec::new()))
                .await?;
        }
    }
    running.await?;
    Ok(())
}

async fn gateways(hub: &str, dir: &Path, count: usize, transport: &str) -> Result<()> {
    let transports = if transport == "quic" {
        Transports::QuicOnly
    } else {
        Transports::TcpOnly
    };
    let ca = std::fs::read_to_string(dir.join("ca.crt"))?;
    let ca = link::pki::parse_chain(&ca)?.remove(0);
    let key_pem = std::fs::read_to_string(dir.join("node.key"))?;
    let socket = link::shared_socket(hub.parse()?)?;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..count {
        let chain_pem = std::fs::read_to_string(dir.join(format!("{n}.crt")))?;
        let credential = Credential {
            chain_pem,
            key_pem: key_pem.clone(),
        };
        let mut dialer = Dialer::link(ca.clone(), &credential)?.transports(transports);
        if transport == "quic" {
            dialer = dialer.shared(socket.clone());
        }
        let connection = dialer.dial(&[hub.to_owned()]).await?;
        let stream = connection.open(StreamKind::Session).await?;
        let session = Session::edge(
            EdgeConfig::new(format!("gw-{n}"), 1, 1),
            SourceSet::new(),
            Inventory::new(),
            now(),
        );
        let (driver, handle, mut events) = drive(session, stream);
        tasks.spawn(async move {
            let running = tokio::spawn(driver.run(CancellationToken::new()));
            while events.next().await.is_some() {}
            drop((running.await, handle, connection));
        });
    }
    // Until the hub is done with us.
    while tasks.join_next().await.is_some() {}
    Ok(())
}
