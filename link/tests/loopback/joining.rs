//! Enrolment over both transports: the answer, the refusals, and a hub or gateway that does not keep to it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use link::join::{JoinFailure, join, serve};
use link::pki::{NodeKey, NodeProfile, Pin};
use link::{Accepted, CloseCode, DialError, Dialer, Transports};
use proto::Secret;
use proto::join::{Admitted, JoinCode, JoinRefusal, JoinRequest, JoinResponse};
use tokio::io::AsyncWriteExt as _;

use crate::harness::{Hub, now_ms, quick, soon};

fn request(key: &NodeKey) -> JoinRequest {
    JoinRequest {
        version: 1,
        token_id: "t1".to_owned(),
        token_secret: Secret::new(*b"0123456789abcdef"),
        csr_der: key.request().unwrap().into(),
        node_name: "gw-1".to_owned(),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        agent_version: "0.1.0".to_owned(),
        arch: "x86_64".to_owned(),
        nonce: Bytes::from_static(&[9; 16]),
    }
}

fn admit(hub: &Hub, asked: &JoinRequest) -> Admitted {
    let profile = NodeProfile {
        node: &asked.node_name,
        trust_domain: "kurator.local",
        valid: Duration::from_secs(3600),
    };
    let cert = hub.ca.issue_node(&asked.csr_der, &profile, now_ms()).unwrap();
    Admitted {
        node_name: asked.node_name.clone(),
        cert_chain: cert.chain.iter().map(|c| Bytes::copy_from_slice(c)).collect(),
        ca: Bytes::copy_from_slice(hub.ca.cert()),
        hub_addrs: hub.addrs(),
        heartbeat: Duration::from_secs(60),
        labels: asked.labels.clone(),
        trust_domain: "kurator.local".to_owned(),
    }
}

/// Serves one join with this answer while the gateway joins.
async fn exchange(
    hub: &Hub,
    transports: Transports,
    key: &NodeKey,
    answer: impl FnOnce(JoinRequest) -> JoinResponse,
) -> Result<Admitted, JoinFailure> {
    let dialer = Dialer::join(hub.ca.pin()).times(quick()).transports(transports);
    let addrs = hub.addrs();
    let hub_side = async {
        let Some(Accepted::Join(connection)) = hub.endpoint.accept().await else {
            panic!("no join")
        };
        serve(connection, |asked, _| std::future::ready(answer(asked))).await
    };
    let (joined, served) =
        soon(async { tokio::join!(join(&dialer, &addrs, hub.ca.pin(), key, request(key)), hub_side) }).await;
    served.unwrap();
    joined
}

const EACH: [Transports; 2] = [Transports::QuicOnly, Transports::TcpOnly];

#[tokio::test]
async fn a_gateway_joins_and_can_link_with_what_it_got() {
    let hub = Hub::new();
    for transports in EACH {
        let key = NodeKey::generate().unwrap();
        let seen = Arc::new(Mutex::new(None));
        let admitted = exchange(&hub, transports, &key, |asked| {
            let answer = admit(&hub, &asked);
            *seen.lock().unwrap() = Some(asked);
            JoinResponse::Admitted(answer)
        })
        .await
        .unwrap();
        assert_eq!(
            seen.lock().unwrap().take().unwrap().token_secret,
            Secret::new(*b"0123456789abcdef")
        );
        assert_eq!(admitted.labels["zone"], "a");
        let credential = link::pki::Credential::from_der(&admitted.cert_chain, &key);
        let ca = rustls::pki_types::CertificateDer::from(admitted.ca.to_vec());
        let (_edge, server) = hub
            .pair(&Dialer::link(ca, &credential).unwrap(), &admitted.hub_addrs)
            .await;
        assert_eq!(server.peer().unwrap().node(), Some("gw-1"));
    }
}

#[tokio::test]
async fn a_refusal_arrives_whole() {
    let hub = Hub::new();
    for transports in EACH {
        let refusal = JoinRefusal {
            code: JoinCode::Expired,
            message: "the token has expired".to_owned(),
            hint: "make another".to_owned(),
            retry_after: None,
        };
        let key = NodeKey::generate().unwrap();
        let answer = JoinResponse::Refused(refusal.clone());
        match exchange(&hub, transports, &key, |_| answer).await.unwrap_err() {
            JoinFailure::Refused(got) => assert_eq!(got, refusal),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_not_believed() {
    let hub = Hub::new();
    let stranger = Hub::new();
    type Twist = fn(&Hub, &mut Admitted);
    let twists: [(&str, Twist); 3] = [
        ("another CA", |s, a| a.ca = Bytes::copy_from_slice(s.ca.cert())),
        ("another name", |_, a| a.node_name = "gw-2".to_owned()),
        ("another key", |s, a| {
            let other = NodeKey::generate().unwrap();
            a.cert_chain = admit(s, &request(&other)).cert_chain;
        }),
    ];
    for (what, twist) in twists {
        let key = NodeKey::generate().unwrap();
        let error = exchange(&hub, Transports::QuicOnly, &key, |asked| {
            let mut answer = admit(&hub, &asked);
            twist(&stranger, &mut answer);
            JoinResponse::Admitted(answer)
        })
        .await
        .unwrap_err();
        assert!(
            matches!(&error, JoinFailure::Answer(text) if text.contains(what)),
            "{what}: {error:?}"
        );
    }
}

#[tokio::test]
async fn the_secret_is_not_sent_to_another_hub() {
    let hub = Hub::new();
    let key = NodeKey::generate().unwrap();
    let pin = Pin([1; 32]);
    let dialer = Dialer::join(pin).times(quick());
    let error = join(&dialer, &hub.addrs(), pin, &key, request(&key)).await.unwrap_err();
    assert!(
        matches!(error, JoinFailure::Dial(DialError::PinMismatch { .. })),
        "{error:?}"
    );
    let waited = tokio::time::timeout(Duration::from_millis(200), hub.endpoint.accept()).await;
    assert!(waited.is_err(), "the hub got no connection, so no byte");
}

#[tokio::test]
async fn what_is_no_request_is_answered_by_a_close() {
    let hub = Hub::new();
    let dialer = Dialer::join(hub.ca.pin())
        .times(quick())
        .transports(Transports::QuicOnly);
    // Another kind of stream; a frame of 4 GiB; a frame that is not a request.
    for bytes in [&[2_u8][..], &[3, 0xff, 0xff, 0xff, 0xff], &[3, 0, 0, 0, 2, 0x22, 0]] {
        let addrs = hub.addrs();
        let (edge, server) = tokio::join!(dialer.dial(&addrs), hub.endpoint.accept());
        let (edge, Some(Accepted::Join(server))) = (edge.unwrap(), server) else {
            panic!("no join")
        };
        let serving = tokio::spawn(serve(server, |asked, _| async move { panic!("asked {asked:?}") }));
        let mut stream = edge.open_bi().await.unwrap();
        stream.write_all(bytes).await.unwrap();
        if bytes.len() == 7 {
            // A whole frame, so a refusal comes; the peer is then expected to leave.
            let mut answer = vec![0; 4];
            soon(tokio::io::AsyncReadExt::read_exact(&mut stream, &mut answer))
                .await
                .unwrap();
            edge.close(&link::Goodbye::new(CloseCode::Normal, ""));
            assert!(soon(serving).await.unwrap().is_ok());
        } else {
            assert!(soon(serving).await.unwrap().is_err());
            let closed = soon(edge.closed()).await;
            assert!(
                matches!(&closed, link::Closed::Peer(g) if g.code == CloseCode::Protocol),
                "{closed:?}"
            );
        }
    }
}
