//! The listener: TLS with client certificates, identity by the hook, deadlines.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use daemon::drain::Drain;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use metastore::api::{ApiServer, Identify, MASTERS, User, serve, serve_stream};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::Api;

struct Pki {
    server: Arc<rustls::ServerConfig>,
    roots: Arc<rustls::RootCertStore>,
    client: (CertificateDer<'static>, PrivateKeyDer<'static>),
}

fn pki() -> Pki {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let leaf = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec![name.to_owned()])
            .unwrap()
            .signed_by(&key, &ca)
            .unwrap();
        (
            cert.der().clone(),
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .allow_unauthenticated()
        .build()
        .unwrap();
    let (cert, key) = leaf("localhost");
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![cert], key)
        .unwrap();
    Pki {
        server: Arc::new(server),
        roots,
        client: leaf("client"),
    }
}

async fn listening(server: ApiServer, pki: &Pki) -> (u16, Drain) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let drain = Drain::new();
    let identify: Identify = Arc::new(|_: &CertificateDer<'_>| Some(User::new("by certificate", [MASTERS])));
    drop(drain.spawn(serve(listener, pki.server.clone(), identify, server, drain.clone())));
    (port, drain)
}

type Tls = tokio_rustls::client::TlsStream<TcpStream>;

/// A connection that offers these protocols.
async fn connect(port: u16, pki: &Pki, with_certificate: bool, protocols: &[&[u8]]) -> Tls {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(pki.roots.clone());
    let mut config = if with_certificate {
        let (cert, key) = &pki.client;
        builder
            .with_client_auth_cert(vec![cert.clone()], key.clone_key())
            .unwrap()
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap()
}

async fn ask(port: u16, pki: &Pki, with_certificate: bool, path: &str) -> (u16, String) {
    let stream = connect(port, pki, with_certificate, &[]).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let driver = tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", "localhost")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    drop(sender);
    driver.abort();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_certificate_is_an_identity_and_its_absence_is_anonymous() {
    let (api, pki) = (Api::start().await, pki());
    let (port, drain) = listening(api.server.clone(), &pki).await;
    assert_eq!(ask(port, &pki, true, "/api/v1/namespaces/default").await.0, 200);
    assert_eq!(ask(port, &pki, false, "/api/v1/namespaces/default").await.0, 403);
    assert_eq!(ask(port, &pki, false, "/healthz").await, (200, "ok".to_owned()));
    assert!(drain.finish(Duration::from_secs(10)).await);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err());
}

#[tokio::test]
async fn who_does_not_shake_hands_is_let_go() {
    let (api, pki) = (Api::start().await, pki());
    let (port, _drain) = listening(api.server.clone(), &pki).await;
    let mut silent = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let mut rubbish = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    rubbish.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut sink = Vec::new();
    // TLS answers rubbish with an alert and closes.
    rubbish.read_to_end(&mut sink).await.unwrap();
    tokio::time::pause();
    sink.clear();
    silent.read_to_end(&mut sink).await.unwrap();
    assert!(sink.is_empty());
}

#[tokio::test]
async fn a_stream_is_served_under_the_identity_it_comes_with() {
    let api = Api::start().await;
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let drain = Drain::new();
    let user = User::new("tunnel", [MASTERS]);
    let served = tokio::spawn(serve_stream(theirs, user, api.server.clone(), drain.clone()));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(ours)).await.unwrap();
    let driver = tokio::spawn(connection);
    for _ in 0..3 {
        let request = Request::get("/api/v1/namespaces")
            .header("host", "x")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap();
    }
    drain.stop();
    served.await.unwrap();
    driver.await.unwrap().unwrap();
}

mod http2 {
    use super::*;
    use hyper_util::rt::TokioExecutor;
    use serde_json::json;

    fn get(path: &str) -> Request<Empty<Bytes>> {
        Request::get(format!("https://localhost{path}"))
            .body(Empty::new())
            .unwrap()
    }

    #[tokio::test]
    async fn many_watches_share_one_connection() {
        const WATCHES: usize = 200;
        let (api, pki) = (Api::start().await, pki());
        let (port, drain) = listening(api.server.clone(), &pki).await;
        let stream = connect(port, &pki, true, &[b"h2", b"http/1.1"]).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        let driver = tokio::spawn(connection);
        let mut bodies = Vec::new();
        for _ in 0..WATCHES {
            let mut sender = sender.clone();
            let path = "/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=0";
            let response = sender.send_request(get(path)).await.unwrap();
            assert_eq!(response.status(), 200);
            bodies.push(response.into_body());
        }
        let made =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "seen", "namespace": "default"}});
        api.server.create(&User::internal(), made).await.unwrap();
        for body in &mut bodies {
            let mut text = Vec::new();
            while !text.ends_with(b"}\n") {
                let frame = body.frame().await.unwrap().unwrap();
                text.extend_from_slice(frame.data_ref().unwrap());
            }
            let event: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(
                (&event["type"], &event["object"]["metadata"]["name"]),
                (&json!("ADDED"), &json!("seen"))
            );
        }
        // The connection outlives its streams, and ends with the server.
        drop(bodies);
        let mut again = sender.clone();
        assert_eq!(again.send_request(get("/healthz")).await.unwrap().status(), 200);
        drop((sender, again));
        assert!(drain.finish(Duration::from_secs(10)).await);
        driver.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn who_says_nothing_after_the_handshake_is_let_go() {
        let (api, pki) = (Api::start().await, pki());
        let (port, _drain) = listening(api.server.clone(), &pki).await;
        let mut silent = connect(port, &pki, true, &[b"h2"]).await;
        tokio::time::pause();
        let mut sink = Vec::new();
        // The server's settings, its farewell, and the end.
        silent.read_to_end(&mut sink).await.unwrap_or_default();
        assert!(sink.len() < 256, "{sink:?}");
    }
}
