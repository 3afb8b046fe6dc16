//! A broker that somebody else runs, and that misbehaves: played by hand.

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{config, free_device, put, soon, start, until};

const UPDATE: &str = "$hw/events/device/default/d0/twin/update";
const SUBSCRIBE: u8 = 8;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;

/// The broker's end of one connection.
struct Line(TcpStream);

impl Line {
    /// Takes a connection, up to the agent's subscriptions.
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = soon("the agent connects", listener.accept()).await.unwrap();
        let mut line = Self(stream);
        assert_eq!(line.next().await.0 >> 4, 1, "CONNECT");
        // The session is there: what the client has for it stays.
        line.0.write_all(&[0x20, 2, 1, 0]).await.unwrap();
        line
    }

    async fn next(&mut self) -> (u8, Vec<u8>) {
        soon("a packet", async {
            let first = self.0.read_u8().await.unwrap();
            let (mut length, mut shift) = (0, 0);
            loop {
                let byte = self.0.read_u8().await.unwrap();
                length |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let mut body = vec![0; length];
            self.0.read_exact(&mut body).await.unwrap();
            (first, body)
        })
        .await
    }

    /// Grants what is subscribed.
    async fn grant(&mut self, body: &[u8]) {
        self.0.write_all(&[0x90, 5, body[0], body[1], 1, 1, 1]).await.unwrap();
    }

    async fn report(&mut self, id: u16, value: u16) {
        let twin = json!({"event_id": value.to_string(), "twin": {"p": {"actual": {"value": value.to_string()}}}});
        let twin = twin.to_string();
        let rest = 2 + UPDATE.len() + 2 + twin.len();
        let length = [
            u8::try_from(rest % 128).unwrap() | 0x80,
            u8::try_from(rest / 128).unwrap(),
        ];
        let topic = u16::try_from(UPDATE.len()).unwrap().to_be_bytes();
        let packet = [
            &[0x32],
            &length[..],
            &topic,
            UPDATE.as_bytes(),
            &id.to_be_bytes(),
            twin.as_bytes(),
        ]
        .concat();
        self.0.write_all(&packet).await.unwrap();
    }
}

/// Acknowledgements that wait when a connection breaks must not go out on the next: their packet ids are other messages' there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_does_not_leave_on_a_later_connection() {
    const REPORTS: u16 = 200;
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(dir.path());
    config.mqtt = edgecore::Mqtt {
        mode: edgecore::MqttMode::External,
        listen: String::new(),
        external: listener.local_addr().unwrap().to_string(),
    };
    let agent = start(&config).await;
    put(&agent, &[free_device("d0")]).await;
    until("the device is known", || {
        agent.metrics().contains("kurator_edge_devices 1")
    })
    .await;
    let mut line = Line::accept(&listener).await;
    // What the agent had to say before it was connected comes first.
    let subscribed = loop {
        let (first, body) = line.next().await;
        if first >> 4 == SUBSCRIBE {
            break body;
        }
    };
    line.grant(&subscribed).await;
    // The agent's answers are not acknowledged, so that after a while it sends nothing more, its acknowledgements included.
    for id in 1..=REPORTS {
        line.report(id, id).await;
    }
    until("all reports are stored", || {
        agent.metrics().contains(&format!("reports_accepted_total {REPORTS}\n"))
    })
    .await;
    drop(line);

    let mut line = Line::accept(&listener).await;
    line.report(REPORTS + 1, REPORTS + 1).await;
    loop {
        let (first, body) = line.next().await;
        match first >> 4 {
            SUBSCRIBE => line.grant(&body).await,
            PUBLISH => {
                let at = 2 + usize::from(u16::from_be_bytes([body[0], body[1]]));
                line.0.write_all(&[0x40, 2, body[at], body[at + 1]]).await.unwrap();
            }
            PUBACK => {
                let id = u16::from_be_bytes([body[0], body[1]]);
                assert_eq!(id, REPORTS + 1, "sent on an earlier connection");
                break;
            }
            _ => {}
        }
    }
    agent.stop().await;
}
