//! HTTP through the link, asked from either end.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use link::tunnel::{self, TunnelError};
use link::{CloseCode, Connection, Goodbye, StreamKind, Transports};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use crate::harness::{Hub, soon};

type Body = UnsyncBoxBody<Bytes, Infallible>;

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    Response::builder()
        .status(status)
        .body(Full::new(text.into()).boxed_unsync())
        .unwrap()
}

/// A small API: an echo, a watch that never ends, a service that never answers, an upgrade.
async fn api(mut request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    Ok(match request.uri().path() {
        "/echo" => {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            text(StatusCode::OK, body)
        }
        "/watch" => {
            let ticks = futures_util::stream::unfold(0, |n| async move {
                if n > 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Some((Ok(Frame::data(Bytes::from(format!("event {n}\n")))), n + 1))
            });
            Response::new(StreamBody::new(ticks).boxed_unsync())
        }
        "/never" => std::future::pending().await,
        "/exec" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.unwrap());
                let mut word = [0; 4];
                io.read_exact(&mut word).await.unwrap();
                word.reverse();
                io.write_all(&word).await.unwrap();
                io.shutdown().await.unwrap();
            });
            let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
            response.headers_mut().insert("connection", "upgrade".parse().unwrap());
            response.headers_mut().insert("upgrade", "test".parse().unwrap());
            response
        }
        other => text(StatusCode::NOT_FOUND, other.to_owned()),
    })
}

fn answer(connection: Connection) {
    tokio::spawn(async move {
        while let Ok(mut stream) = connection.accept_bi().await {
            tokio::spawn(async move {
                assert_eq!(stream.read_kind().await.unwrap(), StreamKind::Http);
                // An exchange that the other side broke off ends with an error.
                drop(tunnel::serve(stream, tower::service_fn(api), CancellationToken::new()).await);
            });
        }
    });
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::builder()
        .uri(path)
        .header("host", "gw-1")
        .body(Full::default())
        .unwrap()
}

const HEAD: Duration = Duration::from_secs(5);

/// Both transports, the hub asking and the gateway asking.
async fn each<F: Future<Output = ()>>(check: impl Fn(Connection) -> F) {
    for transports in [Transports::QuicOnly, Transports::TcpOnly] {
        let hub = Hub::new();
        let (edge, server) = hub.pair(&hub.dialer("gw-1").transports(transports), &hub.addrs()).await;
        answer(edge.clone());
        answer(server.clone());
        Box::pin(check(server)).await;
        Box::pin(check(edge)).await;
    }
}

#[tokio::test]
async fn requests_are_answered_with_their_bodies() {
    each(|asking| async move {
        let body = Bytes::from(vec![b'x'; 700_000]);
        let request = Request::post("/echo")
            .header("host", "gw-1")
            .body(Full::new(body.clone()))
            .unwrap();
        let response = soon(tunnel::request(&asking, request, HEAD)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(soon(response.into_body().collect()).await.unwrap().to_bytes(), body);
        let response = soon(tunnel::request(&asking, get("/nothing"), HEAD)).await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
    })
    .await;
}

#[tokio::test]
async fn a_watch_streams_and_ends_when_it_is_dropped() {
    each(|asking| async move {
        // More watches one after another than streams at once: each gives its stream back.
        for _ in 0..40 {
            let mut watch = soon(tunnel::request(&asking, get("/watch"), HEAD))
                .await
                .unwrap()
                .into_body();
            let mut seen = Vec::new();
            while seen.len() < 16 {
                seen.extend_from_slice(&soon(watch.frame()).await.unwrap().unwrap().into_data().unwrap());
            }
            assert!(
                seen.starts_with(b"event 0\nevent 1\n"),
                "{}",
                String::from_utf8_lossy(&seen)
            );
        }
    })
    .await;
}

#[tokio::test]
async fn ten_watches_at_once_do_not_block_a_question() {
    each(|asking| async move {
        let mut watches = Vec::new();
        for _ in 0..10 {
            watches.push(soon(tunnel::request(&asking, get("/watch"), HEAD)).await.unwrap());
        }
        let response = soon(tunnel::request(&asking, get("/nothing"), HEAD)).await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
    })
    .await;
}

#[tokio::test]
async fn more_questions_than_there_are_places_wait_for_theirs() {
    each(|asking| async move {
        let ask = || async {
            let request = Request::post("/echo")
                .header("host", "gw-1")
                .body(Full::new(Bytes::from("word")));
            let response = soon(tunnel::request(&asking, request.unwrap(), HEAD)).await.unwrap();
            soon(response.into_body().collect()).await.unwrap().to_bytes()
        };
        let answers = futures_util::future::join_all((0..60).map(|_| ask())).await;
        assert!(answers.iter().all(|answer| answer == "word"));
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_gives_the_bare_stream() {
    each(|asking| async move {
        let mut request = get("/exec");
        request.headers_mut().insert("connection", "upgrade".parse().unwrap());
        request.headers_mut().insert("upgrade", "test".parse().unwrap());
        let response = soon(tunnel::request(&asking, request, HEAD)).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let mut io = TokioIo::new(soon(hyper::upgrade::on(response)).await.unwrap());
        io.write_all(b"abcd").await.unwrap();
        let mut back = Vec::new();
        soon(io.read_to_end(&mut back)).await.unwrap();
        assert_eq!(back, b"dcba");
    })
    .await;
}

#[tokio::test]
async fn silence_and_a_lost_link_are_told_apart() {
    each(|asking| async move {
        let error = tunnel::request(&asking, get("/never"), Duration::from_millis(200))
            .await
            .unwrap_err();
        assert!(matches!(error, TunnelError::Timeout(_)), "{error:?}");
    })
    .await;
    let hub = Hub::new();
    let (edge, server) = hub.pair(&hub.dialer("gw-1"), &hub.addrs()).await;
    edge.close(&Goodbye::new(CloseCode::GoingAway, ""));
    soon(server.closed()).await;
    let error = soon(tunnel::request(&server, get("/echo"), HEAD)).await.unwrap_err();
    assert!(matches!(error, TunnelError::Link(_)), "{error:?}");
}
