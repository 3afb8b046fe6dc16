//! A broker, a handler that records, and a client that speaks in bytes.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use mqtt::{
    Accept, Broker, BrokerConfig, BrokerHandle, ClientInfo, LocalHandler, LocalPublish, MemoryPersist, Persist, Reject,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    net::TcpStream,
    sync::watch,
};

pub(crate) type Verdict = Result<Accept, Reject>;

/// Records what it is given; answers when its gate is open.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) log: Mutex<Vec<String>>,
    pub(crate) batches: Mutex<Vec<usize>>,
    /// Verdict per topic suffix, else accepted.
    pub(crate) verdicts: Mutex<Vec<(String, Verdict)>>,
    pub(crate) gate: watch::Sender<bool>,
    pub(crate) panic_on: Mutex<Option<String>>,
    /// (packet id, QoS, DUP) of each message, and what was released.
    pub(crate) origins: Mutex<Vec<(u16, u8, bool)>>,
    pub(crate) released: Mutex<Vec<u16>>,
    /// Releases are durable.
    pub(crate) releases: AtomicBool,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            log: Mutex::default(),
            batches: Mutex::default(),
            verdicts: Mutex::default(),
            gate: watch::channel(true).0,
            panic_on: Mutex::default(),
            origins: Mutex::default(),
            released: Mutex::default(),
            releases: AtomicBool::new(true),
        }
    }
}

impl Recorder {
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.batches.lock().unwrap().iter().sum()
    }

    pub(crate) fn verdict(&self, suffix: &str, verdict: Verdict) {
        let mut verdicts = self.verdicts.lock().unwrap();
        verdicts.retain(|(s, _)| s != suffix);
        verdicts.push((suffix.to_owned(), verdict));
    }
}

impl LocalHandler for Recorder {
    fn publish(&self, client: &Arc<ClientInfo>, batch: Vec<LocalPublish>) -> BoxFuture<'static, Vec<Verdict>> {
        self.batches.lock().unwrap().push(batch.len());
        let mut answers = Vec::new();
        for LocalPublish {
            message: publish,
            packet_id,
        } in &batch
        {
            if self.panic_on.lock().unwrap().as_deref() == Some(&*publish.topic) {
                panic!("asked to");
            }
            let body = String::from_utf8_lossy(&publish.payload);
            let origin = (*packet_id, publish.qos as u8, publish.dup);
            self.origins.lock().unwrap().push(origin);
            self.log
                .lock()
                .unwrap()
                .push(format!("{} {} {body}", client.client_id, publish.topic));
            let verdicts = self.verdicts.lock().unwrap();
            let verdict = verdicts
                .iter()
                .find(|(suffix, _)| publish.topic.ends_with(suffix.as_str()));
            answers.push(verdict.map_or(Ok(Accept), |(_, verdict)| *verdict));
        }
        let mut gate = self.gate.subscribe();
        Box::pin(async move {
            gate.wait_for(|open| *open).await.unwrap();
            answers
        })
    }

    fn released(&self, _: &Arc<ClientInfo>, packet_ids: &[u16]) -> BoxFuture<'static, bool> {
        self.released.lock().unwrap().extend(packet_ids);
        let durable = self.releases.load(Ordering::SeqCst);
        let mut gate = self.gate.subscribe();
        Box::pin(async move {
            gate.wait_for(|open| *open).await.unwrap();
            durable
        })
    }

    fn on_connect(&self, client: &Arc<ClientInfo>, resumed: &[Arc<str>]) {
        self.log
            .lock()
            .unwrap()
            .push(format!("+{} {resumed:?}", client.client_id));
    }

    fn on_subscribe(&self, client: &Arc<ClientInfo>, filters: &[Arc<str>]) {
        self.log
            .lock()
            .unwrap()
            .push(format!("~{} {filters:?}", client.client_id));
    }

    fn on_disconnect(&self, client: &Arc<ClientInfo>) {
        self.log.lock().unwrap().push(format!("-{}", client.client_id));
    }
}

pub(crate) struct Bench {
    pub(crate) broker: BrokerHandle,
    pub(crate) local: Arc<Recorder>,
    pub(crate) persist: Arc<MemoryPersist>,
}

pub(crate) fn config() -> BrokerConfig {
    BrokerConfig {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        ..BrokerConfig::default()
    }
}

impl Bench {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(tweak: impl FnOnce(&mut BrokerConfig)) -> Self {
        Self::on(Arc::new(MemoryPersist::default()), tweak).await
    }

    pub(crate) async fn on(persist: Arc<MemoryPersist>, tweak: impl FnOnce(&mut BrokerConfig)) -> Self {
        let mut config = config();
        tweak(&mut config);
        let local = Arc::new(Recorder::default());
        let store: Arc<dyn Persist> = persist.clone();
        let broker = Broker::start(config, store, local.clone()).await.unwrap();
        Self { broker, local, persist }
    }

    pub(crate) fn port(&self) -> u16 {
        self.broker.addresses()[0].port()
    }

    pub(crate) async fn tcp(&self) -> Raw<TcpStream> {
        Raw::new(TcpStream::connect(self.broker.addresses()[0]).await.unwrap())
    }

    /// A client without a socket, for tests on virtual time.
    pub(crate) fn duplex(&self) -> Raw<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        self.broker.serve_stream(theirs, SocketAddr::from(([127, 0, 0, 1], 1)));
        Raw::new(ours)
    }

    /// A connected 3.1.1 client with a clean session.
    pub(crate) async fn v4(&self, id: &str) -> Raw<DuplexStream> {
        let mut raw = self.duplex();
        raw.send(&connect4(id, true, 0)).await;
        assert_eq!(raw.packet().await, [0x20, 2, 0, 0]);
        raw
    }

    /// A connected MQTT 5 client; `props` is its CONNECT property list.
    pub(crate) async fn v5(&self, id: &str, clean: bool, props: &[u8]) -> Raw<DuplexStream> {
        let mut raw = self.duplex();
        raw.send(&connect5(id, clean, 0, props)).await;
        let connack = raw.packet().await;
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:?}");
        raw
    }

    /// A connected 3.1.1 client with a session that stays; whether it was there.
    pub(crate) async fn lasting(&self, id: &str) -> (Raw<DuplexStream>, bool) {
        let mut raw = self.duplex();
        raw.send(&connect4(id, false, 0)).await;
        let connack = raw.packet().await;
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:?}");
        (raw, connack[2] == 1)
    }
}

/// A client that speaks in bytes.
pub(crate) struct Raw<S> {
    pub(crate) stream: S,
    buffer: VecDeque<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: VecDeque::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next packet; panics when the connection ends instead.
    pub(crate) async fn packet(&mut self) -> Vec<u8> {
        self.next().await.expect("the connection ended")
    }

    /// The next packet, `None` at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(total) = frame(self.buffer.make_contiguous()) {
                return Some(self.buffer.drain(..total).collect());
            }
            let mut chunk = [0; 4096];
            let read = tokio::time::timeout(Duration::from_secs(60), self.stream.read(&mut chunk));
            match read.await.expect("no answer in 60 s") {
                Ok(n) if n > 0 => self.buffer.extend(&chunk[..n]),
                _ => return None,
            }
        }
    }

    /// The reason code of a DISCONNECT that comes next.
    pub(crate) async fn goodbye(&mut self) -> u8 {
        let packet = self.packet().await;
        assert_eq!(packet[0], 0xe0, "{packet:?}");
        // The property list fills the rest, and is one reason string.
        assert_eq!(
            (usize::from(packet[3]), packet[4]),
            (packet.len() - 4, 31),
            "{packet:?}"
        );
        packet[2]
    }

    /// Nothing has come, and nothing comes while everyone else runs out of things to do.
    pub(crate) async fn silent(&mut self) {
        let mut chunk = [0; 4096];
        let read = tokio::time::timeout(Duration::from_millis(50), self.stream.read(&mut chunk));
        if let Ok(Ok(n)) = read.await {
            panic!("expected silence, got {:?}", &chunk[..n]);
        }
        assert!(self.buffer.is_empty());
    }

    /// A ping answered: everything sent before has been handled.
    pub(crate) async fn ping(&mut self) {
        self.send(&[0xc0, 0]).await;
        assert_eq!(self.packet().await, [0xd0, 0]);
    }

    pub(crate) async fn subscribe4(&mut self, filter: &str, qos: u8) {
        self.send(&subscribe4(1, filter, qos)).await;
        assert_eq!(self.packet().await, [0x90, 3, 0, 1, qos]);
    }

    pub(crate) async fn subscribe5(&mut self, filter: &str, options: u8, props: &[u8]) {
        self.send(&subscribe5(1, filter, options, props)).await;
        assert_eq!(self.packet().await, [0x90, 4, 0, 1, 0, options & 3]);
    }
}

fn frame(buffer: &[u8]) -> Option<usize> {
    let mut len = 0;
    for index in 0..4 {
        let byte = usize::from(*buffer.get(1 + index)?);
        len |= (byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return (buffer.len() >= 2 + index + len).then_some(2 + index + len);
        }
    }
    panic!("bad length from the broker")
}

pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    out.extend(varint(body.len()));
    out.extend_from_slice(body);
    out
}

fn varint(mut len: usize) -> Vec<u8> {
    let mut out = vec![];
    loop {
        let byte = (len % 128) as u8;
        len /= 128;
        out.push(byte | if len > 0 { 0x80 } else { 0 });
        if len == 0 {
            return out;
        }
    }
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    binary(text.as_bytes())
}

pub(crate) fn binary(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

pub(crate) fn list(props: &[u8]) -> Vec<u8> {
    [varint(props.len()), props.to_vec()].concat()
}

pub(crate) fn connect4(id: &str, clean: bool, keep_alive: u16) -> Vec<u8> {
    connect4_with(id, u8::from(clean) << 1, keep_alive, &[])
}

pub(crate) fn connect4_with(id: &str, flags: u8, keep_alive: u16, rest: &[u8]) -> Vec<u8> {
    let body = [
        &text("MQTT")[..],
        &[4, flags],
        &keep_alive.to_be_bytes(),
        &text(id),
        rest,
    ]
    .concat();
    packet(0x10, &body)
}

pub(crate) fn connect5(id: &str, clean: bool, keep_alive: u16, props: &[u8]) -> Vec<u8> {
    connect5_with(id, u8::from(clean) << 1, keep_alive, props, &[])
}

pub(crate) fn connect5_with(id: &str, flags: u8, keep_alive: u16, props: &[u8], rest: &[u8]) -> Vec<u8> {
    let body = [
        &text("MQTT")[..],
        &[5, flags],
        &keep_alive.to_be_bytes(),
        &list(props),
        &text(id),
        rest,
    ]
    .concat();
    packet(0x10, &body)
}

/// `flags`: dup 8, qos 2 and 4, retain 1.
pub(crate) fn publish4(flags: u8, pid: u16, topic: &str, payload: &str) -> Vec<u8> {
    let pid = if flags & 6 == 0 {
        vec![]
    } else {
        pid.to_be_bytes().to_vec()
    };
    packet(0x30 | flags, &[text(topic), pid, payload.as_bytes().to_vec()].concat())
}

pub(crate) fn publish5(flags: u8, pid: u16, topic: &str, props: &[u8], payload: &str) -> Vec<u8> {
    let pid = if flags & 6 == 0 {
        vec![]
    } else {
        pid.to_be_bytes().to_vec()
    };
    packet(
        0x30 | flags,
        &[text(topic), pid, list(props), payload.as_bytes().to_vec()].concat(),
    )
}

pub(crate) fn subscribe4(pid: u16, filter: &str, qos: u8) -> Vec<u8> {
    packet(0x82, &[&pid.to_be_bytes()[..], &text(filter), &[qos]].concat())
}

pub(crate) fn subscribe5(pid: u16, filter: &str, options: u8, props: &[u8]) -> Vec<u8> {
    packet(
        0x82,
        &[&pid.to_be_bytes()[..], &list(props), &text(filter), &[options]].concat(),
    )
}

pub(crate) fn ack(first: u8, pid: u16) -> Vec<u8> {
    packet(first, &pid.to_be_bytes())
}

pub(crate) const PUBACK: u8 = 0x40;
pub(crate) const PUBREC: u8 = 0x50;
pub(crate) const PUBREL: u8 = 0x62;
pub(crate) const PUBCOMP: u8 = 0x70;
pub(crate) const DISCONNECT: [u8; 2] = [0xe0, 0];
