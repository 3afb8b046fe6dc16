//! The bytes on the wire. `golden/v1.txt` holds one frame of each kind in hex as version 1 writes it; it must be written so and read so
//! for as long as version 1 is spoken. A new version adds its own file and keeps the older one readable.

use super::arbitrary;
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use proto::wire::{self, Frame, frame::Kind};
use proto::{Codec, JoinToken, Secret};
use std::collections::BTreeMap;
use std::fmt::Write;

const V1: &str = include_str!("golden/v1.txt");

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([("line".into(), "7".into()), ("zone".into(), "a".into())])
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn digest(fill: u8) -> Bytes {
    vec![fill; 16].into()
}

/// One of each kind, every field set.
fn all() -> Vec<(&'static str, Kind)> {
    let ack = || wire::JournalAck {
        stream: "telemetry".into(),
        cursor: 300,
        dropped: 20,
    };
    let journal = |accepted_to| wire::Journal {
        stream: "telemetry".into(),
        first_seq: 301,
        encoding: 1,
        length: 40,
        records: bytes("packed"),
        accepted_to,
    };
    let dropped = |accepted_to| wire::JournalDropped {
        stream: "telemetry".into(),
        from: 281,
        to: 300,
        reason: 1,
        accepted_to,
    };
    let key = || "devices.kubeedge.io/devices/default/press-01".to_owned();
    vec![
        (
            "hello",
            Kind::Hello(wire::Hello {
                version_min: 1,
                version_max: 2,
                node: "gw-1".into(),
                agent_version: "0.1.0".into(),
                boot_id: 7,
                instance: u64::MAX,
                capabilities: vec!["pods".into()],
                desired: digest(1),
                observed: digest(2),
                journals: vec![wire::JournalState {
                    stream: "telemetry".into(),
                    accepted_to: 320,
                    trimmed_to: 100,
                }],
                window: 1 << 20,
            }),
        ),
        (
            "welcome",
            Kind::Welcome(wire::Welcome {
                version: 1,
                epoch: 9,
                hub_id: "hub-a".into(),
                limits: Some(wire::Limits {
                    heartbeat_ms: 60_000,
                    ack_deadline_ms: 15_000,
                    window: 1 << 20,
                    journal_window: 1 << 19,
                }),
                desired: digest(3),
                observed: digest(4),
                journals: vec![ack()],
                capabilities: vec!["works".into()],
            }),
        ),
        (
            "goodbye",
            Kind::Goodbye(wire::Goodbye {
                reason: wire::GoodbyeReason::Busy as i32,
                detail: "draining".into(),
                retry_after_ms: 2500,
            }),
        ),
        ("heartbeat, nothing new", Kind::Heartbeat(wire::Heartbeat::default())),
        (
            "heartbeat",
            Kind::Heartbeat(wire::Heartbeat {
                answer: true,
                desired: digest(5),
                observed: digest(6),
                ..Default::default()
            }),
        ),
        (
            "heartbeat, journals",
            Kind::Heartbeat(wire::Heartbeat {
                journals: vec![wire::JournalState {
                    stream: "telemetry".into(),
                    accepted_to: 321,
                    trimmed_to: 0,
                }],
                ..Default::default()
            }),
        ),
        (
            "inventory request",
            Kind::InventoryRequest(wire::InventoryRequest { set: 1, round: 3 }),
        ),
        (
            "inventory page",
            Kind::InventoryPage(wire::InventoryPage {
                set: 2,
                round: 3,
                entries: vec![wire::InventoryEntry {
                    key: key(),
                    hash: digest(7),
                }],
                last: true,
                digest: digest(7),
            }),
        ),
        (
            "refusals",
            Kind::Refusals(wire::Refusals {
                set: 1,
                entries: vec![wire::Refusal {
                    key: key(),
                    hash: digest(8),
                    reason: "no such model".into(),
                }],
            }),
        ),
        (
            "batch",
            Kind::Batch(wire::Batch {
                set: 1,
                batch: 5,
                changes: vec![
                    wire::Change {
                        key: key(),
                        removed: false,
                        encoding: 0,
                        length: 2,
                        body: bytes("{}"),
                    },
                    wire::Change {
                        key: "/nodes//gw-1".into(),
                        removed: true,
                        ..Default::default()
                    },
                ],
                digest: digest(9),
            }),
        ),
        (
            "batch ack",
            Kind::BatchAck(wire::BatchAck {
                set: 1,
                batch: 5,
                digest: digest(9),
            }),
        ),
        ("journal", Kind::Journal(journal(0))),
        ("journal, accepted", Kind::Journal(journal(321))),
        ("journal dropped", Kind::JournalDropped(dropped(0))),
        ("journal dropped, accepted", Kind::JournalDropped(dropped(321))),
        ("journal ack", Kind::JournalAck(ack())),
        ("rotate", Kind::Rotate(wire::Rotate { csr: bytes("csr") })),
        (
            "rotated",
            Kind::Rotated(wire::Rotated {
                chain: vec![bytes("leaf"), bytes("ca")],
                refused: "no".into(),
            }),
        ),
        (
            "join request",
            Kind::JoinRequest(wire::JoinRequest {
                version: 1,
                token_id: "0a1b".into(),
                token_secret: bytes("secret"),
                csr_der: bytes("csr"),
                node_name: "gw-1".into(),
                labels: labels(),
                agent_version: "0.1.0".into(),
                arch: "aarch64".into(),
                nonce: bytes("0123456789abcdef"),
            }),
        ),
        (
            "join response",
            Kind::JoinResponse(wire::JoinResponse {
                code: wire::JoinCode::Expired as i32,
                message: "the token expired".into(),
                hint: "make another".into(),
                retry_after_ms: 1,
                node_name: "gw-1".into(),
                cert_chain: vec![bytes("leaf"), bytes("ca")],
                ca: bytes("ca"),
                hub_addrs: vec!["hub:10443".into()],
                heartbeat_ms: 60_000,
                labels: labels(),
                trust_domain: "kurator.local".into(),
            }),
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").unwrap();
        out
    })
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn encode(frame: &Frame) -> BytesMut {
    let mut out = BytesMut::new();
    Codec::default().encode(frame, &mut out).unwrap();
    out
}

#[test]
fn every_kind_is_written_as_version_1_writes_it() {
    let mut written = String::new();
    for (name, kind) in all() {
        writeln!(written, "{name}: {}", hex(&encode(&kind.into()))).unwrap();
    }
    if std::env::var_os("KURATOR_WRITE_GOLDEN").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/session/golden/v1.txt");
        std::fs::write(file, &written).unwrap();
    }
    assert_eq!(written, V1, "the bytes of a released version never change");
}

#[test]
fn every_kind_of_version_1_is_read() {
    let mut all = all().into_iter();
    for line in V1.lines() {
        let (name, frame) = line.split_once(": ").unwrap();
        let mut input = BytesMut::from(&unhex(frame)[..]);
        let (expected, kind) = all.next().unwrap();
        assert_eq!(
            (name, Codec::default().decode(&mut input)),
            (expected, Ok(Some(kind.into())))
        );
        assert!(input.is_empty());
    }
    assert!(all.next().is_none());
}

#[test]
fn what_a_later_version_adds_is_skipped() {
    // A field number of tomorrow inside each kind, and a kind of tomorrow.
    for (name, kind) in all() {
        let frame: Frame = kind.into();
        let mut bytes = encode(&frame);
        let inner = &mut bytes.split_off(4);
        let (tag, body) = split_tag(inner);
        let mut longer = body.to_vec();
        prost::encoding::string::encode(900, &"of tomorrow".to_owned(), &mut longer);
        let mut out = Vec::new();
        prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, &mut out);
        prost::encoding::encode_varint(longer.len() as u64, &mut out);
        out.extend(longer);
        let mut input = BytesMut::from(&(out.len() as u32).to_be_bytes()[..]);
        input.extend(out);
        assert_eq!(Codec::default().decode(&mut input), Ok(Some(frame)), "{name}");
    }
    let mut tomorrow = Vec::new();
    prost::encoding::string::encode(77, &"a kind of tomorrow".to_owned(), &mut tomorrow);
    let mut input = BytesMut::from(&(tomorrow.len() as u32).to_be_bytes()[..]);
    input.extend(tomorrow);
    assert_eq!(Codec::default().decode(&mut input), Ok(Some(Frame { kind: None })));
}

fn split_tag(mut frame: &[u8]) -> (u32, &[u8]) {
    let (tag, _) = prost::encoding::decode_key(&mut frame).unwrap();
    let len = prost::encoding::decode_varint(&mut frame).unwrap();
    assert_eq!(len as usize, frame.len());
    (tag, frame)
}

#[test]
fn the_token_of_version_1_is_read_and_written() {
    let text = "kj1.ChFodWIuZXhhbXBsZToxMDQ0MxIgBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcaCjBhMWIyYzNkNGUiGAkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCXYRAn8";
    let token = JoinToken {
        addrs: vec!["hub.example:10443".into()],
        pin: [7; 32],
        id: "0a1b2c3d4e".into(),
        secret: Secret::new([9; 24]),
    };
    assert_eq!(token.to_string(), text);
    assert_eq!(text.parse(), Ok(token));
}

proptest! {
    #[test]
    fn any_frame_comes_back(frame in arbitrary::frame()) {
        let mut bytes = encode(&frame);
        prop_assert_eq!(Codec::default().decode(&mut bytes), Ok(Some(frame)));
    }
}
