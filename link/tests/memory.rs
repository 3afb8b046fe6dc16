//! What an idle gateway costs its hub in heap, by an allocator that counts: so much and no more.
//!
//! The gateways are a second process (this binary again), so that only the hub is counted.

#![allow(clippy::unwrap_used)] // helpers of tests are not inside a test function

use std::alloc::System;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use link::driver::drive;
use link::pki::{Credential, HubCa, NodeKey, NodeProfile};
use link::{
    Accepted, Admission, Connection, Dialer, HubConfig, HubEndpoint, HubLimits, OpenGate, StreamKind, Transports,
};
use proto::{EdgeConfig, Event, Inventory, Session, SourceSet};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const GATEWAYS: usize = 200;
/// Bytes for one gateway at rest: connection, session, and the tasks that drive them.
const EACH: usize = 23 * 1024;
/// Handshakes, MTU discovery and the last acknowledgements are over long before.
const SETTLED: Duration = Duration::from_secs(60);
/// Where the second process finds the hub, and the identities.
const HUB: &str = "LINK_MEMORY_HUB";
const DIR: &str = "LINK_MEMORY_DIR";

fn live() -> usize {
    let stats = HEAP.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

fn now() -> proto::Now {
    daemon::clock::since_start()
}

/// Ends with the test.
struct Gateways(Child);

impl Drop for Gateways {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn serve(connection: Connection) {
    let mut stream = connection.accept_bi().await.unwrap();
    assert_eq!(stream.read_kind().await.unwrap(), StreamKind::Session);
    let node = connection.peer().unwrap().node().unwrap();
    let session = Session::hub(proto::HubConfig::new("hub", 1), node, now());
    let (driver, handle, mut events) = drive(session, stream);
    let running = tokio::spawn(driver.run(CancellationToken::new()));
    while let Some(event) = events.next().await {
        if let Event::Hello { .. } = event {
            handle
                .call(|s, now| s.accept(now, SourceSet::new(), Inventory::new(), Vec::new()))
                .await
                .unwrap();
        }
    }
    running.await.unwrap();
}

#[tokio::test]
async fn a_gateway_at_rest_takes_little_of_the_hub() {
    let dir = tempfile::tempdir().unwrap();
    let now_ms = daemon::clock::wall_ms();
    let ca = HubCa::load_or_create(dir.path(), now_ms).unwrap();
    let endpoint = HubEndpoint::bind(HubConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        server: ca.issue_server(&[], now_ms).unwrap(),
        ca: ca.cert().clone(),
        limits: HubLimits::default(),
        gate: Arc::new(OpenGate),
        admission: Arc::new(Admission::new(100_000, 100_000)),
    })
    .unwrap();
    let key = NodeKey::generate().unwrap();
    let request = key.request().unwrap();
    for n in 0..GATEWAYS {
        let node = format!("gw-{n}");
        let profile = NodeProfile {
            node: &node,
            trust_domain: "kurator.local",
            valid: Duration::from_secs(86_400),
        };
        let cert = ca.issue_node(&request, &profile, now_ms).unwrap();
        std::fs::write(dir.path().join(format!("{n}.crt")), cert.chain_pem).unwrap();
    }
    std::fs::write(dir.path().join("node.key"), key.to_pem()).unwrap();

    let before = live();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["gateways_of_the_second_process", "--exact", "--ignored"])
        .env(HUB, endpoint.local_addr().to_string())
        .env(DIR, dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _gateways = Gateways(child);
    let mut sessions = JoinSet::new();
    let settled = async {
        while sessions.len() < GATEWAYS {
            let Some(Accepted::Link(connection)) = endpoint.accept().await else {
                panic!("no link");
            };
            sessions.spawn(serve(connection));
        }
        let mut least = usize::MAX;
        loop {
            least = least.min(live().saturating_sub(before) / GATEWAYS);
            if least <= EACH {
                return least;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
                Some(ended) = sessions.join_next() => panic!("a session ended: {ended:?}"),
            }
        }
    };
    let each = tokio::time::timeout(SETTLED, settled).await;
    let each = each.unwrap_or_else(|_| panic!("{} bytes for each gateway", (live() - before) / GATEWAYS));
    assert_eq!(endpoint.quic_connections(), GATEWAYS);
    assert!(each > 1024, "{each} bytes: nothing was counted");
}

/// No test: what the other one starts.
#[tokio::test]
#[ignore = "started by the test of memory"]
async fn gateways_of_the_second_process() {
    let (Ok(hub), Ok(dir)) = (std::env::var(HUB), std::env::var(DIR)) else {
        return;
    };
    let dir = Path::new(&dir);
    let ca = std::fs::read_to_string(dir.join("ca.crt")).unwrap();
    let ca = link::pki::parse_chain(&ca).unwrap().remove(0);
    let key_pem = std::fs::read_to_string(dir.join("node.key")).unwrap();
    let socket = link::shared_socket(hub.parse().unwrap()).unwrap();
    let mut tasks = JoinSet::new();
    for n in 0..GATEWAYS {
        let credential = Credential {
            chain_pem: std::fs::read_to_string(dir.join(format!("{n}.crt"))).unwrap(),
            key_pem: key_pem.clone(),
        };
        let dialer = Dialer::link(ca.clone(), &credential)
            .unwrap()
            .transports(Transports::QuicOnly)
            .shared(socket.clone());
        let connection = dialer.dial(std::slice::from_ref(&hub)).await.unwrap();
        let stream = connection.open(StreamKind::Session).await.unwrap();
        let config = EdgeConfig::new(format!("gw-{n}"), 1, 1);
        let session = Session::edge(config, SourceSet::new(), Inventory::new(), now());
        let (driver, handle, mut events) = drive(session, stream);
        tasks.spawn(async move {
            let running = tokio::spawn(driver.run(CancellationToken::new()));
            while events.next().await.is_some() {}
            drop((running.await, handle, connection));
        });
    }
    while tasks.join_next().await.is_some() {}
}
