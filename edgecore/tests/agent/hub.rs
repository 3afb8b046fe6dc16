//! A hub as small as it can be: the link's endpoint, the session, two maps and a list. It says when it gives in to what.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use link::driver::{self, SessionHandle};
use link::pki::{HubCa, NodeKey};
use link::{Accepted, Connection, HubEndpoint, StreamKind};
use proto::{Applied, Event, Inventory, Limits, Rotation, Session, SetKind, SourceSet, StoredCursor};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::harness::{NODE, soon};

/// What the hub knows; shared with its sessions.
#[derive(Default)]
pub(crate) struct Mind {
    pub(crate) desired: BTreeMap<String, Value>,
    pub(crate) observed: BTreeMap<String, Value>,
    hashes: Inventory,
    /// Journal records in the order they came, with their numbers.
    pub(crate) journal: Vec<(u64, Value)>,
    /// The same of the conflict log.
    pub(crate) events: Vec<(u64, Value)>,
    cursor: Option<StoredCursor>,
    /// Observed bodies received, over all sessions.
    pub(crate) received: usize,
    pub(crate) refused: Vec<(String, String)>,
    session: Option<SessionHandle>,
    connection: Option<Connection>,
    pub(crate) sessions: usize,
    in_sync: [bool; 2],
    /// Certificates it renews are past two thirds of their life at once.
    pub(crate) brief: bool,
}

pub(crate) struct Hub {
    pub(crate) ca: Arc<HubCa>,
    pub(crate) address: SocketAddr,
    mind: Arc<Mutex<Mind>>,
    changed: watch::Sender<u64>,
    /// `None` while cut: the sockets are let go of.
    endpoint: Option<Arc<HubEndpoint>>,
    stop: CancellationToken,
}

impl Hub {
    pub(crate) async fn start(dir: &Path) -> Self {
        let ca = Arc::new(crate::link_tests::hub_ca(dir));
        let endpoint = Arc::new(crate::link_tests::bind(&ca, "127.0.0.1:0".parse().unwrap()).await);
        let mut hub = Self {
            address: endpoint.local_addr(),
            ca,
            mind: Arc::default(),
            changed: watch::Sender::new(0),
            endpoint: None,
            stop: CancellationToken::new(),
        };
        hub.listen(endpoint);
        hub
    }

    /// Gives a gateway its certificate.
    pub(crate) fn enroll(&self, pki: &Path) {
        let key = NodeKey::generate().unwrap();
        let chain = crate::link_tests::issue(&self.ca, &key.request().unwrap(), Duration::from_secs(3600));
        std::fs::create_dir_all(pki).unwrap();
        std::fs::write(pki.join("node.crt"), chain).unwrap();
        std::fs::write(pki.join("node.key"), key.to_pem()).unwrap();
        std::fs::write(pki.join("hub-ca.crt"), crate::link_tests::ca_pem(&self.ca)).unwrap();
    }

    pub(crate) fn look<R>(&self, f: impl FnOnce(&mut Mind) -> R) -> R {
        f(&mut self.mind.lock().unwrap())
    }

    /// Waits until something holds.
    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut(&Mind) -> bool) {
        let mut changed = self.changed.subscribe();
        soon(what, async {
            while !holds(&self.mind.lock().unwrap()) {
                changed.changed().await.unwrap();
            }
        })
        .await;
    }

    /// Waits until both sets are equal on both sides in the present session.
    pub(crate) async fn in_sync(&self) {
        self.until("both sides are equal", |mind| mind.in_sync == [true, true])
            .await;
    }

    /// Puts an object into the gateway's set.
    pub(crate) async fn desire(&self, key: &str, object: Value) {
        let session = self.look(|mind| {
            mind.desired.insert(key.to_owned(), object.clone());
            mind.session.clone()
        });
        let (key, body) = (key.to_owned(), object.to_string());
        if let Some(session) = session {
            // A session that has just ended brings the whole set next time.
            tell(&session, move |s, _| s.source_put(key.as_str(), body)).await;
        }
    }

    /// Cuts the link, and takes nobody back until [`Self::mend`].
    pub(crate) async fn cut(&mut self) {
        self.stop.cancel();
        self.look(|mind| {
            mind.session = None;
            mind.connection = None;
            mind.in_sync = [false; 2];
        });
        if let Some(endpoint) = self.endpoint.take() {
            endpoint
                .close(&link::Goodbye::new(link::CloseCode::GoingAway, "cut"))
                .await;
        }
    }

    /// Listens again on the same port.
    pub(crate) async fn mend(&mut self) {
        self.stop = CancellationToken::new();
        let endpoint = Arc::new(crate::link_tests::bind(&self.ca, self.address).await);
        self.listen(endpoint);
    }

    fn listen(&mut self, endpoint: Arc<HubEndpoint>) {
        self.endpoint = Some(Arc::clone(&endpoint));
        drop(tokio::spawn(accept(
            endpoint,
            Arc::clone(&self.ca),
            Arc::clone(&self.mind),
            self.changed.clone(),
            self.stop.clone(),
        )));
    }

    /// The live connection, for requests through the tunnel.
    pub(crate) fn connection(&self) -> Connection {
        self.look(|mind| mind.connection.clone()).unwrap()
    }
}

async fn accept(
    endpoint: Arc<HubEndpoint>,
    ca: Arc<HubCa>,
    mind: Arc<Mutex<Mind>>,
    changed: watch::Sender<u64>,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = endpoint.accept() => accepted,
        };
        let Some(Accepted::Link(connection)) = accepted else {
            return;
        };
        let (ca, mind, changed, stop) = (Arc::clone(&ca), Arc::clone(&mind), changed.clone(), stop.child_token());
        drop(tokio::spawn(
            async move { serve(connection, ca, mind, changed, stop).await },
        ));
    }
}

async fn serve(
    connection: Connection,
    ca: Arc<HubCa>,
    mind: Arc<Mutex<Mind>>,
    changed: watch::Sender<u64>,
    stop: CancellationToken,
) {
    let node = connection.peer().and_then(|peer| peer.node()).unwrap().to_owned();
    let Ok(mut stream) = connection.accept_bi().await else {
        return;
    };
    if !matches!(stream.read_kind().await, Ok(StreamKind::Session)) {
        return;
    }
    let epoch = {
        let mut mind = mind.lock().unwrap();
        mind.sessions += 1;
        mind.in_sync = [false; 2];
        mind.sessions as u64
    };
    let config = proto::HubConfig {
        limits: Limits {
            heartbeat: Duration::from_secs(5),
            ..Limits::default()
        },
        ..proto::HubConfig::new("test-hub", epoch)
    };
    let session = Session::hub(config, &node, daemon::clock::since_start());
    let (driver, handle, mut events) = driver::drive(session, stream);
    let running = tokio::spawn(driver.run(stop));
    while let Some(event) = events.next().await {
        answer(&handle, &connection, &ca, &mind, event).await;
        changed.send_modify(|n| *n += 1);
    }
    running.await.unwrap();
}

async fn answer(handle: &SessionHandle, connection: &Connection, ca: &HubCa, mind: &Mutex<Mind>, event: Event) {
    // What is sent to a session that has ended comes again in the next.
    match event {
        Event::Hello { .. } => {
            let (set, inventory, cursors) = {
                let mut mind = mind.lock().unwrap();
                mind.session = Some(handle.clone());
                mind.connection = Some(connection.clone());
                let set: SourceSet = mind.desired.iter().map(|(k, v)| (k.as_str(), v.to_string())).collect();
                (
                    set,
                    mind.hashes.clone(),
                    mind.cursor.clone().into_iter().collect::<Vec<_>>(),
                )
            };
            tell(handle, move |s, now| s.accept(now, set, inventory, cursors)).await;
        }
        Event::Apply { batch, changes } => {
            {
                let mut mind = mind.lock().unwrap();
                mind.in_sync[1] = false;
                for change in changes {
                    mind.received += 1;
                    match change.body {
                        Some(body) => {
                            mind.observed
                                .insert(change.key.to_string(), serde_json::from_slice(&body).unwrap());
                            mind.hashes.put(change.key, change.hash);
                        }
                        None => {
                            mind.observed.remove(&*change.key);
                            mind.hashes.remove(&change.key);
                        }
                    }
                }
            }
            tell(handle, move |s, _| s.applied(batch, Applied::default())).await;
        }
        Event::InSync { set } => {
            mind.lock().unwrap().in_sync[usize::from(set == SetKind::Observed)] = true;
        }
        Event::Refused { key, reason } => mind.lock().unwrap().refused.push((key.to_string(), reason)),
        Event::Journal {
            stream,
            first_seq,
            records,
        } => {
            let cursor = first_seq + records.len() as u64 - 1;
            {
                let mut mind = mind.lock().unwrap();
                let mind = &mut *mind;
                let kept = if *stream == *"events" {
                    &mut mind.events
                } else {
                    &mut mind.journal
                };
                for (n, record) in records.iter().enumerate() {
                    kept.push((first_seq + n as u64, serde_json::from_slice(record).unwrap()));
                }
            }
            tell(handle, move |s, _| s.journal_stored(&stream, cursor)).await;
        }
        Event::Rotate { csr } => {
            let chain = crate::link_tests::issue_der(ca, &csr, mind.lock().unwrap().brief);
            tell(handle, move |s, _| s.rotated(Rotation::Issued(chain))).await;
        }
        _ => {}
    }
}

/// Runs `f` on the session, unless it has ended.
async fn tell(handle: &SessionHandle, f: impl FnOnce(&mut Session, proto::Now) + Send + 'static) {
    if handle.call(f).await.is_err() {
        tracing::debug!("the session has ended");
    }
}

/// A body of the observed set.
pub(crate) fn observed<'m>(mind: &'m Mind, key: &str) -> Option<&'m Value> {
    mind.observed.get(key)
}

pub(crate) fn status_key(device: &str) -> String {
    format!("devices.kubeedge.io/devicestatuses/default/{device}")
}

pub(crate) fn device_key(device: &str) -> String {
    format!("devices.kubeedge.io/devices/default/{device}")
}

pub(crate) fn node_key() -> String {
    format!("/nodes//{NODE}")
}

pub(crate) fn cluster_key() -> String {
    format!("cluster.karmada.io/clusters//{NODE}")
}
