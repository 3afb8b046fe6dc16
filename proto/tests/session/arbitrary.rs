//! Frames of any kind: well formed as protobuf, arbitrary in content, within and beyond what the session allows.

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proto::wire::{self, Frame, frame::Kind};

fn body(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn digest() -> impl Strategy<Value = Bytes> {
    prop_oneof![8 => vec(any::<u8>(), 16..=16).prop_map(Bytes::from), 1 => body(20)]
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![6 => "/things/default/t-[0-2][0-9]", 2 => "[a-z./-]{0,12}", 1 => ".{0,20}"]
}

fn set() -> impl Strategy<Value = i32> {
    prop_oneof![8 => 1..=2, 1 => any::<i32>()]
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..20u64, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn encoding() -> impl Strategy<Value = i32> {
    prop_oneof![6 => 0..=1, 1 => any::<i32>()]
}

/// A body with its length and encoding, mostly telling the truth.
fn packed() -> impl Strategy<Value = (i32, u32, Bytes)> {
    prop_oneof![
        4 => body(200).prop_map(|body| (0, body.len() as u32, body)),
        1 => (encoding(), any::<u32>(), body(200)),
        1 => (encoding(), 0..300u32, body(200)),
    ]
}

fn change() -> impl Strategy<Value = wire::Change> {
    (key(), prop::bool::weighted(0.2), packed()).prop_map(|(key, removed, (encoding, length, body))| wire::Change {
        key,
        removed,
        encoding,
        length,
        body,
    })
}

fn journal_state() -> impl Strategy<Value = wire::JournalState> {
    ("[a-z]{0,8}", number(), number()).prop_map(|(stream, accepted_to, trimmed_to)| wire::JournalState {
        stream,
        accepted_to,
        trimmed_to,
    })
}

fn journal_ack() -> impl Strategy<Value = wire::JournalAck> {
    (
        prop_oneof![Just("telemetry".to_owned()), "[a-z]{0,8}".prop_map(String::from)],
        number(),
        number(),
    )
        .prop_map(|(stream, cursor, dropped)| wire::JournalAck {
            stream,
            cursor,
            dropped,
        })
}

fn hello() -> impl Strategy<Value = Kind> {
    let names = (0..4u32, 0..4u32, "[a-z0-9-]{0,8}", ".{0,10}", vec(".{0,8}", 0..4));
    let rest = (
        any::<u64>(),
        any::<u64>(),
        digest(),
        digest(),
        vec(journal_state(), 0..4),
        any::<u32>(),
    );
    (names, rest).prop_map(
        |((version_min, version_max, node, agent_version, capabilities), rest)| {
            let (boot_id, instance, desired, observed, journals, window) = rest;
            Kind::Hello(wire::Hello {
                version_min,
                version_max,
                node,
                agent_version,
                boot_id,
                instance,
                capabilities,
                desired,
                observed,
                journals,
                window,
            })
        },
    )
}

fn welcome() -> impl Strategy<Value = Kind> {
    let limits = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(a, b, c, d)| wire::Limits {
        heartbeat_ms: a,
        ack_deadline_ms: b,
        window: c,
        journal_window: d,
    });
    let names = (
        0..4u32,
        any::<u64>(),
        ".{0,10}",
        proptest::option::of(limits),
        vec(".{0,8}", 0..4),
    );
    (names, digest(), digest(), vec(journal_ack(), 0..4)).prop_map(|(names, desired, observed, journals)| {
        let (version, epoch, hub_id, limits, capabilities) = names;
        Kind::Welcome(wire::Welcome {
            version,
            epoch,
            hub_id,
            limits,
            desired,
            observed,
            journals,
            capabilities,
        })
    })
}

fn replica() -> impl Strategy<Value = Kind> {
    let entry = (key(), digest()).prop_map(|(key, hash)| wire::InventoryEntry { key, hash });
    let refusal = (key(), prop_oneof![digest(), Just(Bytes::new())], ".{0,30}")
        .prop_map(|(key, hash, reason)| wire::Refusal { key, hash, reason });
    prop_oneof![
        (set(), 0..3u32).prop_map(|(set, round)| Kind::InventoryRequest(wire::InventoryRequest { set, round })),
        (set(), 0..2u32, vec(entry, 0..8), any::<bool>(), digest(), any::<bool>()).prop_map(
            |(set, round, mut entries, last, digest, sorted)| {
                if sorted {
                    entries.sort_by(|a: &wire::InventoryEntry, b| a.key.cmp(&b.key));
                    entries.dedup_by(|a, b| a.key == b.key);
                }
                Kind::InventoryPage(wire::InventoryPage {
                    set,
                    round,
                    entries,
                    last,
                    digest,
                })
            }
        ),
        (set(), vec(refusal, 0..4)).prop_map(|(set, entries)| Kind::Refusals(wire::Refusals { set, entries })),
        (set(), number(), vec(change(), 0..6), digest()).prop_map(|(set, batch, changes, digest)| {
            Kind::Batch(wire::Batch {
                set,
                batch,
                changes,
                digest,
            })
        }),
        (set(), number(), digest()).prop_map(|(set, batch, digest)| Kind::BatchAck(wire::BatchAck {
            set,
            batch,
            digest
        })),
    ]
}

fn journal() -> impl Strategy<Value = Kind> {
    let stream = prop_oneof![Just("telemetry".to_owned()), "[a-z]{0,8}".prop_map(String::from)];
    let records = vec(body(20), 0..5).prop_map(|records| {
        let body = Bytes::from(prost::Message::encode_to_vec(&wire::Records { records }));
        (0, body.len() as u32, body)
    });
    prop_oneof![
        (
            stream.clone(),
            number(),
            prop_oneof![3 => records, 1 => packed()],
            number()
        )
            .prop_map(|(stream, first_seq, packed, accepted_to)| {
                let (encoding, length, records) = packed;
                Kind::Journal(wire::Journal {
                    stream,
                    first_seq,
                    encoding,
                    length,
                    records,
                    accepted_to,
                })
            }),
        (stream, number(), number(), any::<i32>(), number()).prop_map(|(stream, from, to, reason, accepted_to)| {
            Kind::JournalDropped(wire::JournalDropped {
                stream,
                from,
                to,
                reason,
                accepted_to,
            })
        }),
        journal_ack().prop_map(Kind::JournalAck),
    ]
}

fn certificates() -> impl Strategy<Value = Kind> {
    let labels = || btree_map("[a-z]{0,4}", "[a-z]{0,4}", 0..3);
    let join = (
        "[a-z0-9]{0,6}",
        body(40),
        body(40),
        "[a-z0-9-]{0,6}",
        labels(),
        ".{0,6}",
        body(40),
    );
    let answer = (
        0..14i32,
        ".{0,9}",
        "[a-z]{0,6}",
        vec(body(9), 0..3),
        body(9),
        vec(".{0,9}", 0..3),
        labels(),
    );
    prop_oneof![
        body(50).prop_map(|csr| Kind::Rotate(wire::Rotate { csr })),
        (vec(body(9), 0..4), ".{0,9}").prop_map(|(chain, refused)| Kind::Rotated(wire::Rotated { chain, refused })),
        join.prop_map(|(token_id, token_secret, csr_der, node_name, labels, arch, nonce)| {
            let (version, agent_version) = (1, arch.clone());
            Kind::JoinRequest(wire::JoinRequest {
                version,
                token_id,
                token_secret,
                csr_der,
                node_name,
                labels,
                agent_version,
                arch,
                nonce,
            })
        }),
        answer.prop_map(|(code, message, node_name, cert_chain, ca, hub_addrs, labels)| {
            Kind::JoinResponse(wire::JoinResponse {
                code,
                message,
                node_name,
                cert_chain,
                ca,
                hub_addrs,
                labels,
                ..Default::default()
            })
        }),
    ]
}

/// Any frame but Goodbye, which ends a session at once.
pub(crate) fn frame() -> impl Strategy<Value = Frame> {
    let digest_or_none = || prop_oneof![digest(), Just(Bytes::new())];
    let states = prop_oneof![3 => Just(Vec::new()), 1 => vec(journal_state(), 0..4)];
    let parts = (any::<bool>(), digest_or_none(), digest_or_none(), states);
    let heartbeat = parts.prop_map(|(answer, desired, observed, journals)| {
        Kind::Heartbeat(wire::Heartbeat {
            answer,
            desired,
            observed,
            journals,
        })
    });
    prop_oneof![1 => hello(), 1 => welcome(), 2 => heartbeat, 12 => replica(), 6 => journal(), 2 => certificates()]
        .prop_map(Frame::from)
}
