use std::sync::Arc;

use cri::Runtime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::pod::HttpGetAction;

struct Asker {
    runtime: Runtime,
    tls: Tls,
}

impl Asker {
    fn new() -> Self {
        Self {
            runtime: Runtime::new(std::path::Path::new("/nowhere")),
            tls: Tls::default(),
        }
    }

    fn whom<'a>(&'a self, ports: &'a [ContainerPort]) -> Whom<'a> {
        Whom {
            runtime: &self.runtime,
            tls: &self.tls,
            id: "c",
            ip: "127.0.0.1",
            ports,
        }
    }
}

/// Answers every connection with what `answer` makes of the request's head.
async fn server(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let n = stream.read(&mut head).await.unwrap_or(0);
                let text = answer(&String::from_utf8_lossy(&head[..n]));
                if !text.is_empty() {
                    drop(stream.write_all(text.as_bytes()).await);
                } else {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    port
}

fn get(path: &str, port: IntOrString, headers: &[(&str, &str)]) -> HttpGetAction {
    let headers: Vec<_> = headers
        .iter()
        .map(|(n, v)| serde_json::json!({"name": n, "value": v}))
        .collect();
    let port = match port {
        IntOrString::Int(port) => serde_json::json!(port),
        IntOrString::String(name) => serde_json::json!(name),
    };
    let action = serde_json::json!({"path": path, "port": port, "scheme": "HTTP", "httpHeaders": headers});
    serde_json::from_value(action).unwrap()
}

#[tokio::test]
async fn http_is_judged_by_its_status() {
    let port = server(|head| {
        let path = head.split(' ').nth(1).unwrap_or_default();
        match path {
            "/ok" => "HTTP/1.1 200 OK\r\n\r\n".to_owned(),
            "/bad" => "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned(),
            "/to-bad" => "HTTP/1.1 302 Found\r\nLocation: /bad\r\n\r\n".to_owned(),
            "/away" => "HTTP/1.1 302 Found\r\nLocation: http://example.com/\r\n\r\n".to_owned(),
            "/round" => "HTTP/1.1 302 Found\r\nLocation: /round\r\n\r\n".to_owned(),
            "/early" => "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n".to_owned(),
            "/junk" => "SSH-2.0-OpenSSH\r\n".to_owned(),
            "/head" if head.contains("Host: press\r\n") && head.contains("X-A: 1\r\n") && head.contains(AGENT) => {
                "HTTP/1.0 200 OK\r\n\r\n".to_owned()
            }
            _ => String::new(),
        }
    })
    .await;
    let ports = [ContainerPort {
        name: "web".to_owned(),
        container_port: port,
        ..ContainerPort::default()
    }];
    let asker = Asker::new();
    let ask = async |path: &str| {
        let headers = [("Host", "press"), ("X-A", "1")];
        let action = get(path, IntOrString::String("web".to_owned()), &headers);
        asker.whom(&ports).http(&action, Duration::from_millis(500)).await
    };
    for path in ["/ok", "/away", "/early", "/head"] {
        assert_eq!(ask(path).await, Answer::Yes, "{path}");
    }
    assert_eq!(
        ask("/bad").await,
        Answer::No("HTTP probe failed with statuscode: 503".to_owned())
    );
    assert_eq!(
        ask("/to-bad").await,
        Answer::No("HTTP probe failed with statuscode: 503".to_owned())
    );
    let no = |answer: Answer| match answer {
        Answer::No(why) => why,
        other => panic!("{other:?}"),
    };
    assert!(no(ask("/round").await).ends_with("stopped after 10 redirects"));
    assert!(no(ask("/junk").await).contains("malformed HTTP response"));
    assert!(no(ask("/hangs").await).ends_with("(Client.Timeout exceeded while awaiting headers)"));
    let action = get("/", IntOrString::String("other".to_owned()), &[]);
    assert!(matches!(
        asker.whom(&ports).http(&action, Duration::from_secs(1)).await,
        Answer::Unknown(_)
    ));
    let action = get("/ok", IntOrString::Int(port.into()), &[("X\r\nY", "1")]);
    assert!(no(asker.whom(&[]).http(&action, Duration::from_secs(1)).await).contains("invalid header"));
}

#[tokio::test]
async fn a_closed_port_is_told_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asker = Asker::new();
    let tcp = TcpSocketAction {
        port: Some(IntOrString::Int(port.into())),
        host: String::new(),
    };
    assert_eq!(asker.whom(&[]).tcp(&tcp, Duration::from_secs(5)).await, Answer::Yes);
    drop(listener);
    let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(
        asker.whom(&[]).tcp(&tcp, Duration::from_secs(5)).await,
        Answer::No(refused.clone())
    );
    let action = get("/x", IntOrString::Int(port.into()), &[]);
    let why = format!("Get \"http://127.0.0.1:{port}/x\": {refused}");
    assert_eq!(
        asker.whom(&[]).http(&action, Duration::from_secs(5)).await,
        Answer::No(why)
    );
    let grpc = GrpcAction {
        port,
        service: String::new(),
    };
    let Answer::No(why) = asker.whom(&[]).grpc(&grpc, Duration::from_secs(5)).await else {
        panic!("nobody listens");
    };
    assert!(why.starts_with("error: failed to connect service at"), "{why}");
}
