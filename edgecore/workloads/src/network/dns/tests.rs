use std::sync::Mutex;

use serde_json::json;

use super::message::tests::question;
use super::message::{A, Said};
use super::*;
use crate::network::table::tests::{service, table};

/// Another server: what it answers by, and what it was asked.
struct Other {
    asked: Arc<Mutex<u32>>,
    folder: tempfile::TempDir,
    port: u16,
}

/// How another server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Answer,
    /// Over TCP only.
    Cut,
    Nothing,
}

impl Other {
    async fn new(does: Does) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(at).await.unwrap();
        let asked = Arc::new(Mutex::new(0));
        let (count, counted) = (Arc::clone(&asked), Arc::clone(&asked));
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((len, from)) = udp.recv_from(&mut buffer).await {
                *count.lock().unwrap() += 1;
                if does != Does::Nothing {
                    udp.send_to(&said(&buffer[..len], does == Does::Cut), from)
                        .await
                        .unwrap();
                }
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                *counted.lock().unwrap() += 1;
                let mut buffer = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut buffer).await.unwrap();
                let answer = said(&buffer, false);
                stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
        Self {
            asked,
            folder,
            port: at.port(),
        }
    }

    fn asked(&self) -> u32 {
        *self.asked.lock().unwrap()
    }
}

/// `192.0.2.1`, whatever was asked; sixty times over TCP.
fn said(question: &[u8], cut: bool) -> Vec<u8> {
    let query = Query::read(question).unwrap();
    let mut answer = Answer::new(&query, Code::Ok, false, MAX_TCP);
    if cut {
        return answer.cut();
    }
    answer.record(Section::Answer, None, A, 60, &[192, 0, 2, 1]);
    answer.finish()
}

/// A server that asks another one.
async fn server(other: &Other) -> SocketAddr {
    let table = table(&[
        service("web", json!({"clusterIP": "10.43.0.5", "ports": [{"port": 80}]})),
        service(
            "cloud",
            json!({"type": "ExternalName", "externalName": "api.example.com"}),
        ),
        service(
            "near",
            json!({"type": "ExternalName", "externalName": "web.line.svc.cluster.local"}),
        ),
        service(
            "round",
            json!({"type": "ExternalName", "externalName": "round.line.svc.cluster.local"}),
        ),
    ]);
    let (_, table) = watch::channel(Arc::new(table));
    let own = "10.43.0.10".parse().unwrap();
    let file = other.folder.path().join("resolv.conf");
    let server = Server::new(
        Domain::new("cluster.local").unwrap(),
        ["10.43.0.0/16".parse().ok(), None],
        table,
        Arc::new(|_| true),
        Forward::new(file, own, other.port),
    );
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(at).await.unwrap();
    tokio::spawn(server.run(udp, tcp, Drain::new()));
    at
}

async fn ask(at: SocketAddr, name: &str) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&question(name, A), at).await.unwrap();
    let mut buffer = [0; 4096];
    let len = socket.recv(&mut buffer).await.unwrap();
    buffer[..len].to_vec()
}

/// Code and addresses of an answer.
async fn resolve(at: SocketAddr, name: &str) -> (u16, Vec<String>) {
    let answer = ask(at, name).await;
    let addresses = message::addresses(&answer);
    let addresses = addresses.iter().map(|(_, ty, _, data)| format!("{ty} {data:?}"));
    (Said::of(&answer).code, addresses.collect())
}

const WEB: &str = "1 [10, 43, 0, 5]";
const CLOUD: &str = "1 [192, 0, 2, 1]";

#[tokio::test]
async fn what_is_not_the_clusters_is_asked_once() {
    let other = Other::new(Does::Answer).await;
    let at = server(&other).await;
    assert_eq!(
        resolve(at, "web.line.svc.cluster.local").await,
        (0, vec![WEB.to_owned()])
    );
    assert_eq!(resolve(at, "x.example.line.svc.cluster.local").await.0, 3);
    assert_eq!(other.asked(), 0);
    for _ in 0..3 {
        assert_eq!(resolve(at, "x.example").await, (0, vec![CLOUD.to_owned()]));
    }
    assert_eq!(other.asked(), 1);
}

#[tokio::test]
async fn another_name_is_followed_to_its_end() {
    let other = Other::new(Does::Answer).await;
    let at = server(&other).await;
    let (code, records) = resolve(at, "cloud.line.svc.cluster.local").await;
    assert_eq!((code, records.len(), records[1].as_str()), (0, 2, CLOUD));
    let (code, records) = resolve(at, "near.line.svc.cluster.local").await;
    assert_eq!((code, records.len(), records[1].as_str()), (0, 2, WEB));
    assert_eq!(resolve(at, "round.line.svc.cluster.local").await, (2, vec![]));
}

#[tokio::test]
async fn what_is_too_large_for_a_datagram_comes_over_tcp() {
    let other = Other::new(Does::Cut).await;
    let at = server(&other).await;
    assert!(Said::of(&ask(at, "large.example").await).truncated);
    let mut stream = TcpStream::connect(at).await.unwrap();
    // Two questions over one connection.
    for _ in 0..2 {
        let question = question("large.example", A);
        stream.write_u16(u16::try_from(question.len()).unwrap()).await.unwrap();
        stream.write_all(&question).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(message::addresses(&answer).len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_left_alone_for_a_while() {
    let other = Other::new(Does::Nothing).await;
    let at = server(&other).await;
    assert_eq!(resolve(at, "a.example").await, (2, vec![]));
    let asked = other.asked();
    let begin = tokio::time::Instant::now();
    assert_eq!(resolve(at, "b.example").await, (2, vec![]));
    assert_eq!((other.asked(), begin.elapsed().as_secs()), (asked, 0));
    // The cluster's own names do not care.
    assert_eq!(resolve(at, "web.line.svc.cluster.local").await.1, [WEB]);
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(resolve(at, "c.example").await, (2, vec![]));
    assert!(other.asked() > asked);
}

#[tokio::test]
async fn servers_are_those_that_the_file_names_now() {
    let other = Other::new(Does::Answer).await;
    let file = other.folder.path().join("resolv.conf");
    // Ourselves: a circle.
    std::fs::write(&file, "nameserver 10.43.0.10\n").unwrap();
    let at = server(&other).await;
    assert_eq!(resolve(at, "a.example").await.0, 2);
    assert_eq!(other.asked(), 0);
}

#[test]
fn parsers_endure_anything() {
    let query = Query::read(&question("a.example", A)).unwrap();
    let mut extended = question("Web.line.svc", A);
    extended[11] = 1;
    extended.extend_from_slice(&[0, 0, 41, 0x10, 0, 0, 0, 0x80, 0, 0, 0]);
    let corpus = [
        question("web.line.svc.cluster.local", A),
        extended,
        query.forwarded(7),
        said(&query.forwarded(7), false),
        said(&query.forwarded(7), true),
    ];
    let mut random = fastrand::Rng::with_seed(3);
    for round in 0..20_000 {
        let mut bytes = corpus[round % corpus.len()].clone();
        for _ in 0..random.usize(0..6) {
            let at = random.usize(..=bytes.len());
            match random.u8(..5) {
                0 => bytes.truncate(at),
                1 if at < bytes.len() => bytes[at] = random.u8(..),
                2 if at < bytes.len() => bytes[at] = *random.choice(&[0, 12, 63, 64, 0xc0, 0xff]).unwrap(),
                3 => drop(bytes.splice(at..at, [0xc0, random.u8(..)])),
                _ => {
                    let other = &corpus[random.usize(..corpus.len())];
                    bytes.extend_from_slice(&other[random.usize(..other.len())..]);
                }
            }
        }
        for (_, target) in FUZZ_TARGETS {
            target(&bytes);
        }
    }
}
