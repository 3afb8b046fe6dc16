//! How many QoS 1 PUBLISHes a second go through one connection to the local handler, and what they cost.
//!
//! `cargo run -p mqtt --example flood --profile quick-release [-- messages payload-bytes commit-ms]`
//!
//! The broker runs on one thread of its own; the client on another, keeping up to 4096 messages in flight. The handler
//! answers after `commit-ms` (default 0: at once), as a store does that groups commits.
#![allow(clippy::print_stdout)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use mqtt::{Accept, Broker, BrokerConfig, ClientInfo, LocalHandler, LocalPublish, MemoryPersist, Reject};
use tokio::time::Instant;

struct Sink {
    messages: AtomicU64,
    batches: AtomicU64,
    commit: Duration,
}

impl LocalHandler for Sink {
    fn publish(
        &self,
        _: &Arc<ClientInfo>,
        batch: Vec<LocalPublish>,
    ) -> BoxFuture<'static, Vec<Result<Accept, Reject>>> {
        self.messages.fetch_add(batch.len() as u64, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        let (answers, commit) = (vec![Ok(Accept); batch.len()], self.commit);
        Box::pin(async move {
            if !commit.is_zero() {
                tokio::time::sleep(commit).await;
            }
            answers
        })
    }
}

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>().expect("a number"));
    let messages = args.next().unwrap_or(1_000_000);
    let payload = usize::try_from(args.next().unwrap_or(100)).expect("fits");
    let commit = Duration::from_millis(args.next().unwrap_or(0));

    let sink = Arc::new(Sink {
        messages: AtomicU64::new(0),
        batches: AtomicU64::new(0),
        commit,
    });
    let (address_tx, address_rx) = mpsc::sync_channel::<SocketAddr>(1);
    let (done_tx, done_rx) = tokio::sync::oneshot::channel::<()>();
    let handler = sink.clone();
    let broker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let config = BrokerConfig {
                listen: vec![([127, 0, 0, 1], 0).into()],
                ..BrokerConfig::default()
            };
            let broker = Broker::start(config, Arc::new(MemoryPersist::default()), handler)
                .await
                .expect("it starts");
            address_tx.send(broker.addresses()[0]).expect("the main thread waits");
            done_rx.await.expect("the main thread tells");
            let stats = broker.stats();
            assert!(broker.shutdown(Duration::from_secs(5)).await, "the broker stops");
            (thread_cpu_time(), stats)
        })
    });
    let address = address_rx.recv().expect("the broker starts");

    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_nodelay(true).expect("a socket option");
    stream
        .write_all(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x00\x00\x05flood")
        .expect("it reads");
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).expect("it answers");

    let begin = Instant::now();
    let mut reader = stream.try_clone().expect("a second handle");
    let acked = Arc::new(AtomicU64::new(0));
    let counter = acked.clone();
    let main = std::thread::current();
    let reading = std::thread::spawn(move || {
        let (mut total, mut rest, mut chunk) = (0u64, 0usize, vec![0u8; 64 * 1024]);
        let mut expected = 0u16;
        while total < messages {
            let n = reader.read(&mut chunk[rest..]).expect("it answers");
            assert!(n > 0, "the broker closed the connection");
            let have = rest + n;
            for ack in chunk[..have].chunks_exact(4) {
                expected = expected % 65_535 + 1;
                assert_eq!(
                    ack,
                    [0x40, 2, (expected >> 8) as u8, expected as u8],
                    "acknowledgements are in order"
                );
                total += 1;
            }
            rest = have % 4;
            chunk.copy_within(have - rest..have, 0);
            counter.store(total, Ordering::Release);
            main.unpark();
        }
    });
    let topic = b"$hw/events/device/default/press-01/twin/update";
    let body_len = 2 + topic.len() + 2 + payload;
    let mut out = Vec::with_capacity(128 * 1024);
    let mut sent = 0u64;
    while sent < messages {
        while sent - acked.load(Ordering::Acquire) >= 4096 {
            std::thread::park();
        }
        let burst = (4096 - (sent - acked.load(Ordering::Acquire)))
            .min(messages - sent)
            .min(256);
        out.clear();
        for _ in 0..burst {
            sent += 1;
            let pid = ((sent - 1) % 65_535 + 1) as u16;
            out.push(0x32);
            let mut len = body_len;
            loop {
                let more = len >= 128;
                out.push((len % 128) as u8 | if more { 0x80 } else { 0 });
                len /= 128;
                if !more {
                    break;
                }
            }
            out.extend_from_slice(&(topic.len() as u16).to_be_bytes());
            out.extend_from_slice(topic);
            out.extend_from_slice(&pid.to_be_bytes());
            out.resize(out.len() + payload, b'x');
        }
        stream.write_all(&out).expect("it reads");
    }
    reading.join().expect("the reader counts");
    let took = begin.elapsed();
    done_tx.send(()).expect("the broker waits");
    let (cpu, stats) = broker.join().expect("the broker ends");
    assert_eq!(sink.messages.load(Ordering::Relaxed), messages);
    let per_second = messages as f64 / took.as_secs_f64();
    println!("{messages} QoS 1 PUBLISHes of {payload} bytes, commit {commit:?}: {per_second:.0}/s");
    println!(
        "broker thread: {:.2} s CPU in {:.2} s = {:.2} us a message; {} batches, {} received",
        cpu.as_secs_f64(),
        took.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / messages as f64,
        sink.batches.load(Ordering::Relaxed),
        stats.received
    );
}

fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
