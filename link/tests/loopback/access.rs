//! Who comes in and who does not, over both transports.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use link::pki::{Credential, Pin};
use link::{
    Accepted, Admission, CloseCode, DialError, Dialer, Gate, Goodbye, HubLimits, OpenGate, PeerIdentity, TimeFloor,
    Transport, Transports,
};
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::{Hub, identity, new_ca, now_ms, quick, soon};

const EACH: [Transports; 2] = [Transports::QuicOnly, Transports::TcpOnly];
const HOUR: Duration = Duration::from_secs(3600);

/// Nothing came in at the hub.
async fn nobody_came(hub: &Hub) {
    let waited = tokio::time::timeout(Duration::from_millis(200), hub.endpoint.accept()).await;
    assert!(waited.is_err(), "{waited:?}");
}

async fn dial_as(hub: &Hub, who: &Credential, transports: Transports) -> DialError {
    let dialer = Dialer::link(hub.ca.cert().clone(), who)
        .unwrap()
        .times(quick())
        .transports(transports);
    soon(dialer.dial(&hub.addrs())).await.unwrap_err()
}

#[tokio::test]
async fn another_hub_is_told_from_the_pinned_one_before_anything_is_sent() {
    let hub = Hub::new();
    let wrong = Pin([7; 32]);
    for transports in EACH {
        let joining = Dialer::join(wrong).times(quick()).transports(transports);
        let expected = DialError::PinMismatch {
            expected: Some(wrong),
            seen: Some(hub.ca.pin()),
        };
        assert_eq!(soon(joining.dial(&hub.addrs())).await.unwrap_err(), expected);
        let other = new_ca();
        let who = identity(&other, "gw-1", HOUR, now_ms());
        let linking = Dialer::link(other.cert().clone(), &who)
            .unwrap()
            .times(quick())
            .transports(transports);
        let error = soon(linking.dial(&hub.addrs())).await.unwrap_err();
        assert!(
            matches!(error, DialError::PinMismatch { seen: Some(seen), .. } if seen == hub.ca.pin()),
            "{error:?}"
        );
    }
    // The handshake broke off at the gateway's side: the hub never had a connection to read from.
    nobody_came(&hub).await;
}

#[tokio::test]
async fn another_hub_is_reported_at_once_and_not_tried_by_tcp() {
    let hub = Hub::new();
    let began = daemon::clock::now();
    let error = Dialer::join(Pin([7; 32])).dial(&hub.addrs()).await.unwrap_err();
    assert!(matches!(error, DialError::PinMismatch { .. }));
    assert!(began.elapsed() < Duration::from_millis(700), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_gateway_of_another_hub_is_refused() {
    let hub = Hub::new();
    let other = new_ca();
    let strangers = identity(&other, "gw-1", HOUR, now_ms());
    for transports in EACH {
        let error = dial_as(&hub, &strangers, transports).await;
        assert!(
            matches!(error, DialError::Tls { alert: 48 | 51 }),
            "another CA's: {error:?}"
        );
    }
    nobody_came(&hub).await;
}

#[tokio::test]
async fn a_gateway_whose_certificate_ran_out_is_refused() {
    let hub = Hub::new();
    // Issued a day ago for an hour: judged by the hub's own clock.
    let who = identity(&hub.ca, "gw-1", HOUR, now_ms() - 86_400_000);
    assert!(who.info().unwrap().not_after_ms < now_ms());
    for transports in EACH {
        assert_eq!(dial_as(&hub, &who, transports).await, DialError::Tls { alert: 45 });
    }
    nobody_came(&hub).await;
}

#[tokio::test]
async fn an_administrator_is_no_gateway() {
    let hub = Hub::new();
    let admin = hub.ca.issue_admin("root", now_ms()).unwrap();
    for transports in EACH {
        let error = dial_as(&hub, &admin, transports).await;
        assert!(
            matches!(&error, DialError::Refused(g) if g.code == CloseCode::NotAllowed),
            "{error:?}"
        );
    }
    nobody_came(&hub).await;
}

/// What a program that is not ours could try: the link's protocol without a certificate.
#[tokio::test]
async fn the_link_without_a_certificate_is_refused() {
    let hub = Hub::new();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(hub.ca.cert().clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(daemon::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"kurator-link/1".to_vec()];
    let name = || ServerName::try_from("hub.kurator.internal").unwrap();

    let socket = TcpStream::connect(hub.addr()).await.unwrap();
    let mut tls = TlsConnector::from(Arc::new(config.clone()))
        .connect(name(), socket)
        .await
        .unwrap();
    let mut answer = Vec::new();
    soon(tls.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer[0], 2, "refused");
    assert!(String::from_utf8_lossy(&answer).contains("needs a gateway's certificate"));

    let quic = quinn::crypto::rustls::QuicClientConfig::try_from(config.clone()).unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = endpoint
        .connect_with(
            quinn::ClientConfig::new(Arc::new(quic)),
            hub.addr(),
            "hub.kurator.internal",
        )
        .unwrap();
    let connection = soon(connecting).await.unwrap();
    let closed = soon(connection.closed()).await;
    assert!(
        matches!(&closed, quinn::ConnectionError::ApplicationClosed(c) if c.error_code == 6_u32.into()),
        "{closed:?}"
    );

    // And no protocol at all, or an unknown one.
    config.alpn_protocols.clear();
    let socket = TcpStream::connect(hub.addr()).await.unwrap();
    let mut tls = TlsConnector::from(Arc::new(config.clone()))
        .connect(name(), socket)
        .await
        .unwrap();
    let mut answer = Vec::new();
    soon(tls.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer[0], 2);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpStream::connect(hub.addr()).await.unwrap();
    assert!(
        TlsConnector::from(Arc::new(config))
            .connect(name(), socket)
            .await
            .is_err()
    );
    nobody_came(&hub).await;
}

#[tokio::test]
async fn tls_1_2_is_not_spoken() {
    let hub = Hub::new();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(hub.ca.cert().clone()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(daemon::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"kurator-join/1".to_vec()];
    let socket = TcpStream::connect(hub.addr()).await.unwrap();
    let name = ServerName::try_from("hub.kurator.internal").unwrap();
    let error = TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
        .unwrap_err();
    assert!(error.to_string().to_lowercase().contains("protocolversion"), "{error}");
}

struct Revoked(String);

impl Gate for Revoked {
    fn admit(&self, peer: &PeerIdentity, _remote: SocketAddr) -> Result<(), Goodbye> {
        if peer.serial == self.0 {
            return Err(Goodbye::new(CloseCode::Revoked, "its certificate was revoked"));
        }
        Ok(())
    }
}

#[tokio::test]
async fn the_gate_is_asked_and_its_reason_is_told() {
    // The identity must come from the hub's own CA, whose gate must know its serial: the gate is made late.
    struct Late(std::sync::OnceLock<Revoked>);
    impl Gate for Late {
        fn admit(&self, peer: &PeerIdentity, remote: SocketAddr) -> Result<(), Goodbye> {
            self.0.get().map_or(Ok(()), |g| g.admit(peer, remote))
        }
    }
    let gate = Arc::new(Late(std::sync::OnceLock::new()));
    let hub = Hub::with(HubLimits::default(), Arc::clone(&gate) as _, Admission::new(1000, 1000));
    let who = identity(&hub.ca, "gw-1", HOUR, now_ms());
    gate.0.set(Revoked(who.info().unwrap().serial)).ok().unwrap();
    for transports in EACH {
        let expected = Goodbye::new(CloseCode::Revoked, "its certificate was revoked");
        assert_eq!(dial_as(&hub, &who, transports).await, DialError::Refused(expected));
    }
    nobody_came(&hub).await;
    let (edge, _server) = hub.pair(&hub.dialer("gw-1"), &hub.addrs()).await;
    assert_eq!(
        edge.transport(),
        Transport::Quic,
        "the same node with another certificate"
    );
}

#[tokio::test]
async fn a_hub_that_is_full_says_when_to_come_back() {
    let hub = Hub::with(HubLimits::default(), Arc::new(OpenGate), Admission::new(1, 1));
    let (_edge, _server) = hub.pair(&hub.dialer("gw-1"), &hub.addrs()).await;
    for transports in EACH {
        match soon(hub.dialer("gw-2").transports(transports).dial(&hub.addrs()))
            .await
            .unwrap_err()
        {
            DialError::Refused(goodbye) => {
                assert_eq!(goodbye.code, CloseCode::Busy);
                assert!(goodbye.retry_after.unwrap() >= Duration::from_millis(250));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn joining_needs_no_certificate_and_has_no_identity() {
    let hub = Hub::new();
    for (transports, transport) in EACH.into_iter().zip([Transport::Quic, Transport::Tcp]) {
        let dialer = Dialer::join(hub.ca.pin()).times(quick()).transports(transports);
        let addrs = hub.addrs();
        let (edge, server) = tokio::join!(dialer.dial(&addrs), hub.endpoint.accept());
        let Some(Accepted::Join(server)) = server else {
            panic!("{server:?}")
        };
        assert_eq!((edge.unwrap().transport(), server.peer()), (transport, None));
    }
}

#[tokio::test]
async fn the_time_the_hub_proves_is_remembered() {
    let hub = Hub::new();
    let floor = TimeFloor::default();
    let (_edge, _server) = hub
        .pair(&hub.dialer("gw-1").time_floor(floor.clone()), &hub.addrs())
        .await;
    assert!(floor.secs() + 600 > now_ms() / 1000, "{}", floor.secs());
}
