//! A gateway reduced to what the hub sees of it: it joins, keeps its two sets and its journal over connections, and answers HTTP on
//! streams by saying what it was asked.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::StreamBody;
use http_body_util::combinators::BoxBody;
use hyper::body::{Frame, Incoming};
use link::driver::{self, End, SessionHandle};
use link::join::{JoinFailure, join};
use link::pki::{Credential, NodeKey, Pin};
use link::{Connection, DialError, Dialer, StreamKind};
use proto::join::JoinRequest;
use proto::{Applied, EdgeConfig, Event, Inventory, JoinToken, JournalCursor, Rotation, Session, SourceSet};
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// What joining leaves on disk.
#[derive(Clone)]
pub(crate) struct Enrolled {
    pub(crate) node: String,
    pub(crate) credential: Credential,
    pub(crate) ca: CertificateDer<'static>,
    pub(crate) addrs: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
}

pub(crate) fn request(token: &JoinToken, node: &str, key: &NodeKey) -> JoinRequest {
    JoinRequest {
        version: proto::limits::VERSIONS.max,
        token_id: token.id.clone(),
        token_secret: token.secret.clone(),
        csr_der: key.request().unwrap().into(),
        node_name: node.to_owned(),
        labels: BTreeMap::from([("shelf".to_owned(), "3".to_owned())]),
        agent_version: "test".to_owned(),
        arch: "x86_64".to_owned(),
        nonce: Bytes::from(fastrand::u128(..).to_be_bytes().to_vec()),
    }
}

pub(crate) async fn ask(token: &JoinToken, key: &NodeKey, request: JoinRequest) -> Result<Enrolled, JoinFailure> {
    let pin = Pin(token.pin);
    let admitted = join(&Dialer::join(pin), &token.addrs, pin, key, request).await?;
    let chain_pem = admitted.cert_chain.iter().map(|c| pem(c)).collect();
    Ok(Enrolled {
        node: admitted.node_name,
        credential: Credential {
            chain_pem,
            key_pem: key.to_pem(),
        },
        ca: CertificateDer::from(admitted.ca.to_vec()),
        addrs: admitted.hub_addrs,
        labels: admitted.labels,
    })
}

pub(crate) async fn enrol(token: &str, node: &str) -> Result<Enrolled, JoinFailure> {
    let token: JoinToken = token.parse().unwrap();
    let key = NodeKey::generate().unwrap();
    let request = request(&token, node, &key);
    ask(&token, &key, request).await
}

pub(crate) fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

/// What the gateway keeps over connections.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) desired: BTreeMap<String, Value>,
    pub(crate) inventory: Inventory,
    pub(crate) observed: SourceSet,
    pub(crate) records: Vec<Bytes>,
    /// Bodies that came, ever.
    pub(crate) received: usize,
    pub(crate) refused: BTreeMap<String, String>,
    pub(crate) acked: Vec<String>,
    pub(crate) journal_cursor: u64,
    pub(crate) welcomes: usize,
    pub(crate) rotated: Option<Rotation>,
    /// What its API has, by path; when there is nothing it says of every path what it was asked.
    pub(crate) served: BTreeMap<String, Value>,
    /// What its API was asked, as `GET /api?x`.
    pub(crate) asked: Vec<String>,
}

/// A gateway that is connected.
pub(crate) struct Gateway {
    pub(crate) kept: Arc<Mutex<Kept>>,
    pub(crate) handle: SessionHandle,
    pub(crate) connection: Connection,
    ended: tokio::task::JoinHandle<End>,
    stop: CancellationToken,
}

impl Gateway {
    pub(crate) async fn connect(enrolled: &Enrolled, kept: Arc<Mutex<Kept>>) -> Result<Self, DialError> {
        Self::connect_as(enrolled, kept, 1, fastrand::u64(..)).await
    }

    /// With a store of this incarnation, in this boot.
    pub(crate) async fn connect_as(
        enrolled: &Enrolled,
        kept: Arc<Mutex<Kept>>,
        instance: u64,
        boot: u64,
    ) -> Result<Self, DialError> {
        let dialer = Dialer::link(enrolled.ca.clone(), &enrolled.credential).unwrap();
        let connection = dialer.dial(&enrolled.addrs).await?;
        let stream = connection.open(StreamKind::Session).await.unwrap();
        let session = {
            let kept = kept.lock().unwrap();
            let mut config = EdgeConfig::new(&enrolled.node, boot, instance);
            config.journals = vec![JournalCursor::new("telemetry", kept.records.len() as u64)];
            Session::edge(
                config,
                kept.observed.clone(),
                kept.inventory.clone(),
                daemon::clock::since_start(),
            )
        };
        let (driver, handle, events) = driver::drive(session, stream);
        let stop = CancellationToken::new();
        let (work, back, cancel) = (Arc::clone(&kept), handle.clone(), stop.clone());
        let (serving, node) = (connection.clone(), enrolled.node.clone());
        let api = Arc::clone(&kept);
        let ended = tokio::spawn(async move {
            let serve = async {
                while let Ok(mut stream) = serving.accept_bi().await {
                    let (api, node) = (Arc::clone(&api), node.clone());
                    tokio::spawn(async move {
                        if matches!(stream.read_kind().await, Ok(StreamKind::Http)) {
                            let service = tower::service_fn(move |request| {
                                std::future::ready(Ok::<_, Infallible>(serve(&api, &node, request)))
                            });
                            link::tunnel::serve(stream, service, CancellationToken::new())
                                .await
                                .ok();
                        }
                    });
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                outcome = driver.run(cancel) => outcome.end,
                () = work_loop(work, back, events) => unreachable!("the events end with the driver"),
                () = serve => unreachable!("serves for ever"),
            }
        });
        Ok(Self {
            kept,
            handle,
            connection,
            ended,
            stop,
        })
    }

    /// Connects and waits until the hub has welcomed it.
    pub(crate) async fn online(enrolled: &Enrolled, kept: &Arc<Mutex<Kept>>) -> Self {
        let before = kept.lock().unwrap().welcomes;
        let gateway = Self::connect(enrolled, Arc::clone(kept)).await.unwrap();
        crate::world::eventually("a welcome", async || {
            (kept.lock().unwrap().welcomes > before).then_some(())
        })
        .await;
        gateway
    }

    /// Reports an object.
    pub(crate) async fn report(&self, key: &str, body: &Value) {
        let (key, body) = (key.to_owned(), Bytes::from(body.to_string()));
        self.kept.lock().unwrap().observed.put(key.as_str(), body.clone());
        self.handle
            .call(move |s, _| s.source_put(key.as_str(), body))
            .await
            .unwrap();
    }

    pub(crate) async fn unreport(&self, key: &str) {
        let key = key.to_owned();
        self.kept.lock().unwrap().observed.remove(&key);
        self.handle.call(move |s, _| s.source_remove(&key)).await.unwrap();
    }

    /// Accepts records into the journal.
    pub(crate) async fn journal(&self, count: u64) {
        let upto = {
            let mut kept = self.kept.lock().unwrap();
            for _ in 0..count {
                let n = kept.records.len() + 1;
                kept.records.push(Bytes::from(format!("record {n}")));
            }
            kept.records.len() as u64
        };
        self.handle
            .call(move |s, _| s.journal_appended("telemetry", upto))
            .await
            .unwrap();
    }

    pub(crate) fn desired(&self, key: &str) -> Option<Value> {
        self.kept.lock().unwrap().desired.get(key).cloned()
    }

    pub(crate) async fn until_desired(&self, key: &str, what: &str, check: impl Fn(&Value) -> bool) -> Value {
        crate::world::eventually(what, async || self.desired(key).filter(&check)).await
    }

    /// How the session ended.
    pub(crate) async fn ended(self) -> End {
        tokio::time::timeout(Duration::from_secs(10), self.ended)
            .await
            .expect("the session ends")
            .unwrap()
    }

    pub(crate) async fn leave(self) {
        self.stop.cancel();
        self.ended().await;
    }
}

async fn work_loop(kept: Arc<Mutex<Kept>>, handle: SessionHandle, mut events: driver::Events) {
    while let Some(event) = events.next().await {
        match event {
            Event::Welcome { .. } => kept.lock().unwrap().welcomes += 1,
            Event::Apply { batch, changes } => {
                {
                    let mut kept = kept.lock().unwrap();
                    for change in changes {
                        kept.received += 1;
                        match change.body {
                            Some(body) => {
                                kept.desired
                                    .insert(change.key.to_string(), serde_json::from_slice(&body).unwrap());
                                kept.inventory.put(change.key, change.hash);
                            }
                            None => {
                                kept.desired.remove(&*change.key);
                                kept.inventory.remove(&change.key);
                            }
                        }
                    }
                }
                handle.call(move |s, _| s.applied(batch, Applied::default())).await.ok();
            }
            Event::Acked { keys } => kept.lock().unwrap().acked.extend(keys.iter().map(ToString::to_string)),
            Event::Refused { key, reason } => drop(kept.lock().unwrap().refused.insert(key.to_string(), reason)),
            Event::NeedJournal { stream, from, .. } => {
                let records = kept
                    .lock()
                    .unwrap()
                    .records
                    .iter()
                    .skip(usize::try_from(from).unwrap() - 1)
                    .take(100)
                    .cloned()
                    .collect();
                handle
                    .call(move |s, _| s.journal_read(&stream, from, records))
                    .await
                    .ok();
            }
            Event::JournalAcked { cursor, .. } => kept.lock().unwrap().journal_cursor = cursor,
            Event::Rotated(answer) => kept.lock().unwrap().rotated = Some(answer),
            _ => {}
        }
    }
    std::future::pending::<()>().await;
}

type EchoBody = BoxBody<Bytes, Infallible>;

/// An exec or a port-forward as far as a proxy sees one: after the switch, what comes is said again in capitals until its end, then a
/// last word.
fn switch(request: &mut Request<Incoming>, protocol: http::HeaderValue) -> Response<EchoBody> {
    let upgrading = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrading.await else { return };
        let (mut reader, mut writer) = tokio::io::split(hyper_util::rt::TokioIo::new(upgraded));
        let mut piece = vec![0; 8 * 1024];
        while let Ok(n @ 1..) = reader.read(&mut piece).await {
            piece[..n].make_ascii_uppercase();
            if writer.write_all(&piece[..n]).await.is_err() {
                return;
            }
        }
        writer.write_all(b"bye").await.ok();
        writer.shutdown().await.ok();
    });
    let mut response = Response::new(BoxBody::default());
    *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    response
        .headers_mut()
        .insert("connection", http::HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert("upgrade", protocol);
    response
}

/// The gateway's API as far as the test gave it one: objects and lists by their paths, below them it says what it was asked.
fn serve(kept: &Mutex<Kept>, node: &str, request: Request<Incoming>) -> Response<EchoBody> {
    let path = request.uri().path().to_owned();
    let found = {
        let mut kept = kept.lock().unwrap();
        let target = request.uri().path_and_query().map(ToString::to_string);
        kept.asked.push(format!("{} {}", request.method(), target.unwrap()));
        let below = |(at, body): (&String, &Value)| {
            let rest = path.strip_prefix(at.as_str()).unwrap_or_default();
            rest.starts_with('/') && body["items"].is_null()
        };
        match kept.served.get(&path) {
            Some(body) if request.method() == http::Method::GET => Some(body.clone()),
            None if !kept.served.is_empty() && !kept.served.iter().any(below) => Some(
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound"}),
            ),
            _ => None,
        }
    };
    let Some(body) = found else {
        return echo(node, request);
    };
    let mut response = Response::new(BoxBody::new(http_body_util::Full::new(Bytes::from(body.to_string()))));
    if let Some(code) = body["code"].as_u64() {
        *response.status_mut() = http::StatusCode::from_u16(u16::try_from(code).unwrap()).unwrap();
    }
    let form = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", form);
    response
}

/// Says what it was asked; `/exec` switches to the protocol that is wished for; `/stream` says it in pieces, the second when the first was read.
fn echo(node: &str, mut request: Request<Incoming>) -> Response<EchoBody> {
    if request.uri().path().ends_with("/exec")
        && let Some(protocol) = request.headers().get("upgrade").cloned()
    {
        return switch(&mut request, protocol);
    }
    let all = |name: &str| -> Vec<String> {
        request
            .headers()
            .get_all(name)
            .iter()
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
            .collect()
    };
    let said = json!({
        "gateway": node,
        "method": request.method().as_str(),
        "target": request.uri().path_and_query().map(ToString::to_string),
        "user": all("impersonate-user"),
        "groups": all("impersonate-group"),
    });
    let pieces: Vec<Bytes> = if request.uri().path() == "/stream" {
        vec![Bytes::from_static(b"one\n"), Bytes::from_static(b"two\n")]
    } else {
        vec![Bytes::from(said.to_string())]
    };
    let frames = futures_util::stream::iter(pieces.into_iter().map(|p| Ok(Frame::data(p))));
    Response::new(BoxBody::new(StreamBody::new(frames)))
}
