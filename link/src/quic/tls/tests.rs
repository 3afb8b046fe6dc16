//! The hub's TLS against a gateway's rustls, without packets around it.

#![allow(clippy::unwrap_used)] // helpers of tests are not inside a test function

use quinn_proto::crypto::Session;
use rustls::quic::ClientConnection;

use super::*;
use crate::pki::{Credential, HUB_SERVER_NAME, HubCa, NodeKey, NodeProfile};
use crate::tls::{self, ALPN_LINK, ServerCerts, TimeFloor, Trust};

/// Both ends after their handshake, and where the gateway's next keys come from.
fn connected() -> (Box<dyn Session>, ClientConnection, Secrets) {
    let dir = tempfile::tempdir().unwrap();
    let now_ms = daemon::clock::wall_ms();
    let ca = HubCa::load_or_create(dir.path(), now_ms).unwrap();
    let server = tls::certified(&ca.issue_server(&[], now_ms).unwrap()).unwrap();
    let config = tls::server_config(Arc::new(ServerCerts::new(server)), ca.cert()).unwrap();
    let key = NodeKey::generate().unwrap();
    let profile = NodeProfile {
        node: "gw-1",
        trust_domain: "kurator.local",
        valid: std::time::Duration::from_secs(3600),
    };
    let cert = ca.issue_node(&key.request().unwrap(), &profile, now_ms).unwrap();
    let identity = tls::certified(&Credential {
        chain_pem: cert.chain_pem,
        key_pem: key.to_pem(),
    })
    .unwrap();
    let trust = Trust::Ca(ca.cert().clone());
    let (client, _) = tls::client_config(ALPN_LINK, &trust, &TimeFloor::default(), Some(identity)).unwrap();

    let params = TransportParameters::read(Side::Server, &mut &[][..]).unwrap();
    let mut written = Vec::new();
    params.write(&mut written);
    let mut hub = crypto::ServerConfig::start_session(Arc::new(HubTls::new(config).unwrap()), 1, &params);
    let name = HUB_SERVER_NAME.try_into().unwrap();
    let mut gateway = ClientConnection::new(Arc::new(client), Version::V1, name, written).unwrap();
    let mut next = None;
    // Each side may have two kinds of keys to announce, one at a time.
    for _ in 0..8 {
        let mut said = Vec::new();
        if let Some(KeyChange::OneRtt { next: secrets, .. }) = gateway.write_hs(&mut said) {
            next = Some(secrets);
        }
        if !said.is_empty() {
            hub.read_handshake(&said).unwrap();
        }
        said.clear();
        let keys = hub.write_handshake(&mut said);
        if !said.is_empty() {
            gateway.read_hs(&said).unwrap();
        }
        drop(keys);
    }
    assert!(!hub.is_handshaking() && !gateway.is_handshaking());
    (hub, gateway, next.unwrap())
}

#[test]
fn the_peer_is_told_once_and_the_protocol_always() {
    let (hub, ..) = connected();
    let identity = hub.peer_identity().unwrap();
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>().unwrap();
    assert!(!chain.is_empty());
    assert!(hub.peer_identity().is_none(), "it is not kept");
    for _ in 0..2 {
        let data = hub.handshake_data().unwrap().downcast::<HandshakeData>().unwrap();
        assert_eq!(data.protocol.as_deref(), Some(ALPN_LINK));
    }
}

#[test]
fn keys_go_on_from_the_secrets_alone() {
    let (mut hub, _gateway, mut next) = connected();
    for number in 0..5 {
        let ours = hub.next_1rtt_keys().unwrap();
        let theirs = next.next_packet_keys();
        let tag = ours.local.tag_len();
        let mut packet = [&b"head"[..], b"payload", &vec![0; tag]].concat();
        ours.local.encrypt(number, &mut packet, 4);
        let opened = theirs
            .remote
            .decrypt_in_place(number, b"head", &mut packet[4..])
            .unwrap();
        assert_eq!(opened, b"payload");
    }
}

#[test]
fn nothing_may_be_said_in_tls_after_the_handshake() {
    // A key update of TLS, which QUIC forbids; a certificate; nonsense.
    for said in [&[24, 0, 0, 1, 0][..], &[11, 0, 0, 0], &[0xff; 40]] {
        let (mut hub, ..) = connected();
        let refused = hub.read_handshake(said).unwrap_err();
        let unexpected = u8::from(AlertDescription::UnexpectedMessage);
        assert_eq!(refused.code, TransportErrorCode::crypto(unexpected));
        let mut answer = Vec::new();
        assert!(hub.write_handshake(&mut answer).is_none() && answer.is_empty());
    }
}
