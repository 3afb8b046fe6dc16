//! Gateways by the thousand in one process, for load: the real link, the real session, sets held in memory instead of a store.
//!
//! A simulated gateway joins with a token as a real one does, holds one session, applies what the hub desires, observes a Node, what its API
//! serves, one DeviceStatus for each Device and what became of each Work it is given, and comes back with the real back-off when the link is
//! lost.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use daemon::backoff::FullJitter;
use daemon::drain::Drain;
use link::pki::{Credential, NodeKey, Pin};
use link::{Connection, Dialer, StreamKind, Transports};
use proto::join::JoinRequest;
use proto::{Applied, EdgeConfig, Event, Inventory, JoinToken, Session, SourceSet, limits};
use serde_json::{Value, json};

/// Dials under way at one time: one process plays a whole fleet, and the hub shares its two cores.
const DIALS: usize = 256;

/// What the whole fleet counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// Sessions that were welcomed and have not ended.
    pub connected: AtomicUsize,
    /// Batches applied.
    pub batches: AtomicUsize,
}

/// Many gateways.
#[derive(Debug)]
pub struct Fleet {
    /// What it counts.
    pub counters: Arc<Counters>,
    /// For each gateway the epoch of the session whose digests are equal on both sides, both sets, right now; 0 for none.
    equal: Vec<Arc<AtomicU64>>,
    drain: Drain,
}

struct Identity {
    name: String,
    hubs: Vec<String>,
    ca: rustls::pki_types::CertificateDer<'static>,
    credential: Credential,
}

impl Fleet {
    /// Joins `count` gateways named `prefix-00000…` with one token of enough uses and connects them.
    ///
    /// # Errors
    /// A token that is none, or a join that is refused.
    pub async fn start(token: &str, prefix: &str, count: usize) -> anyhow::Result<Self> {
        let token: Arc<JoinToken> = Arc::new(token.parse()?);
        let hub: SocketAddr = token
            .addrs
            .first()
            .and_then(|a| a.parse().ok())
            .ok_or_else(|| anyhow::anyhow!("a numeric hub address"))?;
        let socket = link::shared_socket(hub)?;
        let dials = Arc::new(tokio::sync::Semaphore::new(DIALS));
        let mut fleet = Self {
            counters: Arc::default(),
            equal: Vec::new(),
            drain: Drain::new(),
        };
        let mut joins = tokio::task::JoinSet::new();
        for n in 0..count {
            let (token, socket, dials, name) = (
                Arc::clone(&token),
                socket.clone(),
                Arc::clone(&dials),
                format!("{prefix}-{n:05}"),
            );
            joins.spawn(async move {
                let _turn = dials.acquire_owned().await?;
                join(&token, socket, name).await
            });
        }
        while let Some(joined) = joins.join_next().await {
            let identity = joined??;
            let equal = Arc::new(AtomicU64::new(0));
            fleet.equal.push(Arc::clone(&equal));
            let gateway = Gateway {
                equal,
                dialer: Dialer::link(identity.ca.clone(), &identity.credential)?
                    .transports(Transports::QuicOnly)
                    .shared(socket.clone()),
                name: identity.name,
                hubs: identity.hubs,
                state: Mutex::new(State::default()),
                counters: Arc::clone(&fleet.counters),
                dials: Arc::clone(&dials),
                drain: fleet.drain.clone(),
            };
            drop(fleet.drain.spawn(gateway.live()));
        }
        Ok(fleet)
    }

    /// How many are connected.
    pub fn connected(&self) -> usize {
        self.counters.connected.load(Ordering::Relaxed)
    }

    /// How many have both sets equal on both sides, in a session younger than `epoch`.
    pub fn equal_since(&self, epoch: u64) -> usize {
        self.equal.iter().filter(|e| e.load(Ordering::Relaxed) > epoch).count()
    }

    /// The youngest session that was ever equal.
    pub fn epoch(&self) -> u64 {
        self.equal.iter().map(|e| e.load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    /// Waits until `count` gateways are connected and equal in sessions younger than `epoch` (0: in any).
    ///
    /// # Errors
    /// After `patience`.
    pub async fn until_equal(&self, count: usize, epoch: u64, patience: Duration) -> anyhow::Result<()> {
        let deadline = daemon::clock::now() + patience;
        while self.equal_since(epoch) < count {
            anyhow::ensure!(
                daemon::clock::now() < deadline,
                "{} of {count} equal, {} connected after {patience:?}",
                self.equal_since(epoch),
                self.connected()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Disconnects all.
    pub async fn stop(self) {
        self.drain.finish(Duration::from_secs(10)).await;
    }
}

async fn join(token: &JoinToken, socket: link::SharedSocket, name: String) -> anyhow::Result<Identity> {
    let key = NodeKey::generate()?;
    // The same over all attempts: a hub that admitted us and whose answer was lost then knows us again.
    let nonce: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(32).collect();
    let mut wait = FullJitter::new(Duration::from_millis(100), Duration::from_secs(2));
    for attempt in 0.. {
        let request = JoinRequest {
            version: limits::VERSIONS.max,
            token_id: token.id.clone(),
            token_secret: token.secret.clone(),
            csr_der: key.request()?.into(),
            node_name: name.clone(),
            labels: BTreeMap::new(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            nonce: nonce.clone().into(),
        };
        let dialer = Dialer::join(Pin(token.pin))
            .transports(Transports::QuicOnly)
            .shared(socket.clone());
        match link::join::join(&dialer, &token.addrs, Pin(token.pin), &key, request).await {
            Ok(admitted) => {
                return Ok(Identity {
                    name: admitted.node_name,
                    hubs: token.addrs.clone(),
                    ca: admitted.ca.to_vec().into(),
                    credential: Credential::from_der(&admitted.cert_chain, &key),
                });
            }
            Err(e) if attempt >= 20 => return Err(e.into()),
            Err(_) => tokio::time::sleep(wait.next_wait()).await,
        }
    }
    unreachable!("the loop returns")
}

/// What a real gateway would have in its store.
#[derive(Default)]
struct State {
    held: Inventory,
    observed: SourceSet,
}

struct Gateway {
    name: String,
    hubs: Vec<String>,
    dialer: Dialer,
    state: Mutex<State>,
    counters: Arc<Counters>,
    equal: Arc<AtomicU64>,
    dials: Arc<tokio::sync::Semaphore>,
    drain: Drain,
}

/// Keeps a gauge right on every way out.
struct Counted<'a>(&'a AtomicUsize, bool);

impl<'a> Counted<'a> {
    const fn new(gauge: &'a AtomicUsize) -> Self {
        Self(gauge, false)
    }

    fn set(&mut self, on: bool) {
        match (self.1, on) {
            (false, true) => self.0.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.0.fetch_sub(1, Ordering::Relaxed),
            _ => return,
        };
        self.1 = on;
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}

impl Gateway {
    async fn live(self) {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name},
            "status": {"nodeInfo": {"kubeletVersion": "v0", "architecture": std::env::consts::ARCH}}});
        self.lock()
            .observed
            .put(format!("/nodes//{}", self.name), node.to_string());
        self.lock()
            .observed
            .put(format!("cluster.karmada.io/clusters//{}", self.name), cluster());
        let instance = fastrand::u64(1..);
        let mut wait = FullJitter::new(Duration::from_millis(500), Duration::from_secs(30));
        loop {
            let dial = async {
                let turn = self.dials.acquire().await.ok()?;
                let dialed = self.dialer.dial(&self.hubs).await.ok();
                drop(turn);
                dialed
            };
            let dialed = tokio::select! {
                biased;
                () = self.drain.stopping() => return,
                dialed = dial => dialed,
            };
            let mut retry_after = None;
            if let Some(connection) = dialed {
                let (welcomed, after) = self.session(&connection, instance).await;
                retry_after = after;
                if welcomed {
                    wait.reset();
                }
            }
            let pause = retry_after.unwrap_or_else(|| wait.next_wait());
            tokio::select! {
                biased;
                () = self.drain.stopping() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One session from its beginning to its end; whether the hub took it, and when it wants us back.
    async fn session(&self, connection: &Connection, instance: u64) -> (bool, Option<Duration>) {
        let Ok(stream) = connection.open(StreamKind::Session).await else {
            return (false, None);
        };
        let session = {
            let state = self.lock();
            let config = EdgeConfig::new(self.name.clone(), fastrand::u64(..), instance);
            Session::edge(
                config,
                state.observed.clone(),
                state.held.clone(),
                daemon::clock::since_start(),
            )
        };
        let (driver, handle, mut events) = link::driver::drive(session, stream);
        let run = self.drain.spawn(driver.run(self.drain.token().clone()));
        let mut connected = Counted::new(&self.counters.connected);
        let mut welcomed = None;
        while let Some(event) = events.next().await {
            match event {
                Event::Welcome { epoch, .. } => {
                    welcomed = Some(epoch);
                    connected.set(true);
                }
                Event::Apply { batch, changes } => {
                    self.counters.batches.fetch_add(1, Ordering::Relaxed);
                    let statuses = self.apply(&changes);
                    let done = handle
                        .call(move |s, _| {
                            s.applied(batch, Applied::default());
                            for (key, body) in statuses {
                                match body {
                                    Some(body) => s.source_put(key, body),
                                    None => s.source_remove(key),
                                }
                            }
                        })
                        .await;
                    if done.is_err() {
                        break;
                    }
                }
                Event::InSync { .. } | Event::Acked { .. } => {}
                _ => continue,
            }
            match handle.ask(|s, _| s.digests().in_sync).await {
                Ok(in_sync) => self
                    .equal
                    .store(if in_sync { welcomed.unwrap_or(0) } else { 0 }, Ordering::Relaxed),
                Err(_) => break,
            }
        }
        self.equal.store(0, Ordering::Relaxed);
        drop(handle);
        let welcomed = welcomed.is_some();
        let Ok(outcome) = run.await else {
            return (welcomed, None);
        };
        match outcome.end {
            link::driver::End::Peer { retry_after, .. } => (welcomed, retry_after),
            _ => (welcomed, None),
        }
    }

    /// Takes a batch into the sets; returns what is observed of it.
    fn apply(&self, changes: &[proto::Change]) -> Vec<(String, Option<String>)> {
        let mut state = self.lock();
        let mut statuses = Vec::new();
        for change in changes {
            match &change.body {
                Some(_) => state.held.put(Arc::clone(&change.key), change.hash),
                None => state.held.remove(&change.key),
            }
            let (key, body) = if let Some(device) = change.key.strip_prefix("devices.kubeedge.io/devices/") {
                let key = format!("devices.kubeedge.io/devicestatuses/{device}");
                (key, change.body.as_ref().map(|body| status(device, body)))
            } else if change.key.starts_with("work.karmada.io/works/") {
                (change.key.to_string(), change.body.as_ref().map(|body| outcome(body)))
            } else {
                continue;
            };
            match &body {
                Some(body) => drop(state.observed.put(key.clone(), body.clone())),
                None => drop(state.observed.remove(&key)),
            }
            statuses.push((key, body));
        }
        statuses
    }
}

/// What a gateway of four cores serves and has room for.
fn cluster() -> String {
    let kinds = |version: &str, kinds: &[(&str, &str)]| {
        let resources: Vec<Value> = kinds
            .iter()
            .map(|(name, kind)| json!({"kind": kind, "name": name}))
            .collect();
        json!({"groupVersion": version, "resources": resources})
    };
    json!({
        "apiEnablements": [
            kinds("apps/v1", &[("daemonsets", "DaemonSet"), ("deployments", "Deployment"), ("statefulsets", "StatefulSet")]),
            kinds("batch/v1", &[("cronjobs", "CronJob"), ("jobs", "Job")]),
            kinds("v1", &[("configmaps", "ConfigMap"), ("pods", "Pod"), ("secrets", "Secret"), ("services", "Service")]),
        ],
        "kubernetesVersion": "v1.33.0",
        "nodeSummary": {"readyNum": 1, "totalNum": 1},
        "resourceSummary": {
            "allocatable": {"cpu": "4", "memory": "4Gi", "pods": "110"}, "allocated": {"pods": "0"}, "allocating": {"pods": "0"},
        },
    })
    .to_string()
}

/// What becomes of a Work where everything always succeeds at once.
fn outcome(body: &[u8]) -> String {
    let work: Value = serde_json::from_slice(body).unwrap_or_default();
    if work["metadata"]["annotations"]["kurator.dev/deleting"] == "true" {
        return json!({"deleted": true}).to_string();
    }
    let manifests = work["spec"]["workload"]["manifests"].as_array();
    let one = |(ordinal, manifest): (usize, &Value)| {
        let api = manifest["apiVersion"].as_str().unwrap_or_default();
        let (group, version) = api.rsplit_once('/').unwrap_or(("", api));
        let meta = &manifest["metadata"];
        let mut identifier = json!({
            "ordinal": ordinal, "version": version, "kind": manifest["kind"], "resource": "", "name": meta["name"],
            "namespace": meta["namespace"],
        });
        if !group.is_empty() {
            identifier["group"] = group.into();
        }
        let mut status = json!({"identifier": identifier, "health": "Healthy"});
        if manifest["kind"] == "Deployment" {
            let replicas = &manifest["spec"]["replicas"];
            let generation = meta["annotations"]["resourcetemplate.karmada.io/generation"].as_str();
            let generation = generation.and_then(|g| g.parse::<i64>().ok()).unwrap_or(1);
            status["status"] = json!({
                "availableReplicas": replicas, "generation": generation, "observedGeneration": generation,
                "readyReplicas": replicas, "replicas": replicas, "resourceTemplateGeneration": generation,
                "updatedReplicas": replicas,
            });
        }
        status
    };
    let statuses: Vec<Value> = manifests.into_iter().flatten().enumerate().map(one).collect();
    json!({
        "applied": {
            "message": "Manifest has been successfully applied", "reason": "AppliedSuccessful", "status": "True",
        },
        "manifestStatuses": statuses,
    })
    .to_string()
}

/// A device that always obeys.
fn status(device: &str, body: &[u8]) -> String {
    let (namespace, name) = device.split_once('/').unwrap_or(("default", device));
    let device: Value = serde_json::from_slice(body).unwrap_or_default();
    let twins: Vec<Value> = device["spec"]["properties"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|p| p["desired"]["value"].is_string())
        .map(|p| json!({"propertyName": p["name"], "reported": {"value": p["desired"]["value"], "metadata": {"timestamp": "1"}}}))
        .collect();
    json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceStatus",
        "metadata": {"name": name, "namespace": namespace}, "status": {"twins": twins}})
    .to_string()
}
