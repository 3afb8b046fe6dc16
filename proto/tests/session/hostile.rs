//! Peers that lie, flood and break rules: each gets a typed error, the session ends, nothing panics and nothing grows beyond its cap.

use super::arbitrary;
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use proto::wire::{self, Frame, frame::Kind};
use proto::{
    Applied, Codec, EdgeConfig, Event, HubConfig, Inventory, JournalCursor, Limits, Now, Session, SessionError,
    SourceSet, UnpackError, limits,
};

const NOW: Now = Now::from_secs(1);

/// Established sessions of both roles. The hub desires `keys` things, the gateway holds `held` of them.
fn pair(keys: usize, held: usize) -> (Session, Session) {
    let key = |n: usize| format!("/things/default/t-{n:02}");
    let desired: SourceSet = (0..keys).map(|n| (key(n), "body")).collect();
    let inventory: Inventory = desired
        .iter()
        .take(held)
        .map(|(key, hash, _)| (key.clone(), hash))
        .collect();
    let mut config = EdgeConfig::new("gw", 1, 1);
    config.journals = vec![JournalCursor::new("telemetry", 10)];
    let mut edge = Session::edge(config, SourceSet::new(), inventory, NOW);
    let limits = Limits {
        window: 16 << 10,
        journal_window: 16 << 10,
        ..Limits::default()
    };
    let mut hub = Session::hub(
        HubConfig {
            limits,
            ..HubConfig::new("hub", 1)
        },
        "gw",
        NOW,
    );
    hub.handle_frame(NOW, edge.poll_transmit().unwrap()).unwrap();
    hub.accept(NOW, desired, Inventory::new(), Vec::new());
    edge.handle_frame(NOW, hub.poll_transmit().unwrap()).unwrap();
    while edge.poll_event().is_some() || hub.poll_event().is_some() {}
    (edge, hub)
}

fn error(mut session: Session, kind: impl Into<Kind>) -> SessionError {
    let error = session.handle_frame(NOW, kind.into().into()).unwrap_err();
    assert!(session.is_ended() && session.poll_timeout().is_none());
    let last = session.poll_transmit().unwrap();
    assert!(
        matches!(last.kind, Some(Kind::Goodbye(goodbye)) if !goodbye.detail.is_empty()),
        "the peer is told why"
    );
    assert!(session.poll_transmit().is_none());
    error
}

fn on_edge(kind: Kind) -> SessionError {
    error(pair(3, 3).0, kind)
}

fn on_hub(kind: Kind) -> SessionError {
    error(pair(3, 3).1, kind)
}

fn digest() -> Bytes {
    vec![1; 16].into()
}

fn change(key: &str, body: &'static str) -> wire::Change {
    wire::Change {
        key: key.into(),
        length: body.len() as u32,
        body: body.into(),
        ..Default::default()
    }
}

fn batch(number: u64, changes: Vec<wire::Change>) -> Kind {
    Kind::Batch(wire::Batch {
        set: 1,
        batch: number,
        changes,
        digest: digest(),
    })
}

fn page(entries: &[&str], last: bool) -> Kind {
    let entry = |key: &&str| wire::InventoryEntry {
        key: (*key).into(),
        hash: digest(),
    };
    let entries = entries.iter().map(entry).collect();
    Kind::InventoryPage(wire::InventoryPage {
        set: 1,
        round: 0,
        entries,
        last,
        digest: Bytes::new(),
    })
}

fn journal(first_seq: u64, records: Vec<Bytes>) -> Kind {
    let records = Bytes::from(prost::Message::encode_to_vec(&wire::Records { records }));
    let length = records.len() as u32;
    Kind::Journal(wire::Journal {
        stream: "telemetry".into(),
        first_seq,
        encoding: 0,
        length,
        records,
        accepted_to: 0,
    })
}

#[test]
fn frames_out_of_place() {
    assert_eq!(
        on_edge(Kind::Hello(Default::default())),
        SessionError::Unexpected("a Hello")
    );
    assert_eq!(
        on_hub(Kind::Welcome(Default::default())),
        SessionError::Unexpected("a Welcome")
    );
    assert_eq!(
        on_hub(Kind::JoinRequest(Default::default())),
        SessionError::Unexpected("a join request")
    );
    assert_eq!(
        on_edge(Kind::Rotate(Default::default())),
        SessionError::Unexpected("a request for a certificate")
    );
    assert_eq!(
        on_hub(Kind::Rotated(Default::default())),
        SessionError::Unexpected("a certificate")
    );
    assert_eq!(
        on_edge(journal(1, vec!["x".into()])),
        SessionError::Unexpected("journal records")
    );
    assert_eq!(
        on_hub(Kind::JournalAck(Default::default())),
        SessionError::Unexpected("a journal acknowledgement")
    );
    assert_eq!(
        on_hub(batch(1, vec![change("a", "b")])),
        SessionError::Unexpected("a frame for the other set")
    );
    assert_eq!(on_hub(page(&[], true)), SessionError::Unexpected("an inventory"));
    let before_hello = Session::hub(HubConfig::new("hub", 1), "gw", NOW);
    assert_eq!(
        error(before_hello, Kind::Heartbeat(Default::default())),
        SessionError::Unexpected("a heartbeat")
    );
}

#[test]
fn batches_that_break_the_rules() {
    assert_eq!(on_edge(batch(1, Vec::new())), SessionError::Field("batch"));
    assert_eq!(
        on_edge(batch(2, vec![change("a", "b")])),
        SessionError::Order {
            what: "batch",
            want: 1,
            got: 2
        }
    );
    assert_eq!(on_edge(batch(1, vec![change("", "b")])), SessionError::Field("key"));
    assert_eq!(on_edge(batch(1, vec![change("a\0", "b")])), SessionError::Field("key"));
    assert_eq!(
        on_edge(batch(1, vec![change(&"k".repeat(513), "b")])),
        SessionError::Field("key")
    );
    let long = wire::Change {
        length: limits::MAX_BODY as u32 + 1,
        ..change("a", "b")
    };
    let too_long = UnpackError::TooLong {
        len: limits::MAX_BODY + 1,
        max: limits::MAX_BODY,
    };
    assert_eq!(on_edge(batch(1, vec![long])), SessionError::Unpack(too_long));
    let many = vec![
        wire::Change {
            length: limits::MAX_BODY as u32,
            ..change("a", "b")
        };
        2
    ];
    assert_eq!(
        on_edge(batch(1, many)),
        SessionError::TooMany("bytes"),
        "claims are added up before anything is decoded"
    );
    let unknown = wire::Change {
        encoding: 9,
        ..change("a", "b")
    };
    assert_eq!(
        on_edge(batch(1, vec![unknown])),
        SessionError::Unpack(UnpackError::Encoding(9))
    );
    for wrong in [
        wire::Change {
            length: 7,
            ..change("a", "b")
        },
        wire::Change {
            encoding: 1,
            ..change("a", "not zstd")
        },
    ] {
        let len = wrong.length as usize;
        assert_eq!(
            on_edge(batch(1, vec![wrong])),
            SessionError::Unpack(UnpackError::Damaged { len })
        );
    }
    let no_digest = Kind::Batch(wire::Batch {
        set: 1,
        batch: 1,
        changes: vec![change("a", "b")],
        digest: Bytes::new(),
    });
    assert_eq!(on_edge(no_digest), SessionError::Field("digest"));
}

#[test]
fn a_bomb_is_held_to_the_length_it_claims() {
    // 64 MiB of zeros in a few kilobytes.
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    assert!(bomb.len() < 16 << 10);
    let lie = wire::Change {
        encoding: 1,
        length: 100,
        body: bomb.into(),
        ..change("a", "")
    };
    assert_eq!(
        on_edge(batch(1, vec![lie])),
        SessionError::Unpack(UnpackError::Damaged { len: 100 })
    );
}

#[test]
fn a_sender_beyond_the_window_ends_the_session() {
    let (_, mut hub) = pair(0, 0);
    let body = "x".repeat(8 << 10);
    let mut flood = (1..).map(|number| {
        let change = wire::Change {
            key: format!("/k/{number}"),
            length: body.len() as u32,
            body: body.clone().into(),
            ..Default::default()
        };
        Kind::Batch(wire::Batch {
            set: 2,
            batch: number,
            changes: vec![change],
            digest: digest(),
        })
    });
    assert_eq!(hub.handle_frame(NOW, flood.next().unwrap().into()), Ok(()));
    assert_eq!(
        hub.handle_frame(NOW, flood.next().unwrap().into()),
        Err(SessionError::TooMany("bytes"))
    );
    let (_, mut hub) = pair(0, 0);
    let small = |number| {
        Kind::Batch(wire::Batch {
            set: 2,
            batch: number,
            changes: vec![change("a", "")],
            digest: digest(),
        })
    };
    let ended = (1..).find_map(|number| {
        hub.handle_frame(NOW, small(number).into())
            .err()
            .map(|error| (number, error))
    });
    assert_eq!(
        ended,
        Some((
            limits::MAX_IN_FLIGHT as u64 + 1,
            SessionError::TooMany("batches or changes")
        ))
    );
}

#[test]
fn journals_that_break_the_rules() {
    let records = |n: usize| vec![Bytes::from_static(b"r"); n];
    assert_eq!(
        on_hub(journal(2, records(1))),
        SessionError::Order {
            what: "journal",
            want: 1,
            got: 2
        }
    );
    assert_eq!(
        on_hub(journal(0, records(1))),
        SessionError::Order {
            what: "journal",
            want: 1,
            got: 0
        }
    );
    assert_eq!(
        on_hub(journal(u64::MAX, records(2))),
        SessionError::Field("journal number")
    );
    assert_eq!(on_hub(journal(1, Vec::new())), SessionError::Field("journal batch"));
    assert_eq!(
        on_hub(journal(1, vec![Bytes::new(); 200_000])),
        SessionError::TooMany("journal records")
    );
    let range = |from, to| {
        Kind::JournalDropped(wire::JournalDropped {
            stream: "telemetry".into(),
            from,
            to,
            reason: 77,
            ..Default::default()
        })
    };
    assert_eq!(on_hub(range(5, 4)), SessionError::Field("dropped range"));
    assert_eq!(
        on_hub(range(1, u64::MAX)),
        SessionError::Order {
            what: "journal",
            want: 1,
            got: 1
        }
    );
    assert_eq!(
        on_hub(range(3, 4)),
        SessionError::Order {
            what: "journal",
            want: 1,
            got: 3
        }
    );
    let no_name = Kind::JournalDropped(wire::JournalDropped {
        from: 1,
        to: 1,
        ..Default::default()
    });
    assert_eq!(on_hub(no_name), SessionError::Field("stream"));
    let (_, mut hub) = pair(0, 0);
    let stream = |n: usize| {
        Kind::JournalDropped(wire::JournalDropped {
            stream: format!("s{n}"),
            from: 1,
            to: 1,
            reason: 1,
            ..Default::default()
        })
    };
    let ended = (0..).find_map(|n| hub.handle_frame(NOW, stream(n).into()).err().map(|error| (n, error)));
    assert_eq!(
        ended,
        Some((limits::MAX_STREAMS, SessionError::TooMany("journal streams")))
    );
    let ahead = Kind::JournalAck(wire::JournalAck {
        stream: "telemetry".into(),
        cursor: 1,
        dropped: 0,
    });
    assert_eq!(
        on_edge(ahead),
        SessionError::Order {
            what: "journal cursor",
            want: 0,
            got: 1
        }
    );
    let stranger = Kind::JournalAck(wire::JournalAck {
        stream: "nobody's".into(),
        cursor: 1,
        dropped: 0,
    });
    assert_eq!(on_edge(stranger), SessionError::Field("stream"));
}

#[test]
fn states_of_journals_that_break_the_rules() {
    let states = |names: &[String]| {
        let state = |name: &String| wire::JournalState {
            stream: name.clone(),
            accepted_to: u64::MAX,
            ..Default::default()
        };
        Kind::Heartbeat(wire::Heartbeat {
            journals: names.iter().map(state).collect(),
            ..Default::default()
        })
    };
    let names = |range: core::ops::Range<usize>| range.map(|n| format!("s{n}")).collect::<Vec<_>>();
    assert_eq!(
        on_edge(states(&names(0..1))),
        SessionError::Unexpected("the states of journals")
    );
    assert_eq!(on_hub(states(&[String::new()])), SessionError::Field("stream"));
    let many = SessionError::TooMany("journal streams");
    assert_eq!(on_hub(states(&names(0..limits::MAX_STREAMS + 1))), many);
    let (_, mut hub) = pair(0, 0);
    hub.handle_frame(NOW, states(&names(0..limits::MAX_STREAMS)).into())
        .unwrap();
    assert_eq!(hub.handle_frame(NOW, states(&names(100..101)).into()), Err(many));
}

#[test]
fn records_that_come_again_are_left_out() {
    let (_, mut hub) = pair(0, 0);
    let records = |n: u64| (0..n).map(|n| Bytes::from(format!("r{n}"))).collect();
    let mut seen = Vec::new();
    for (first, count) in [(1, 5), (3, 6), (2, 2)] {
        hub.handle_frame(NOW, journal(first, records(count)).into()).unwrap();
        seen.extend(
            core::iter::from_fn(|| hub.poll_event()).filter_map(|event| match event {
                Event::Journal { first_seq, records, .. } => Some((first_seq, records.len(), records[0].clone())),
                _ => None,
            }),
        );
    }
    assert_eq!(seen, [(1, 5, "r0".into()), (6, 3, "r3".into())]);
}

#[test]
fn acknowledgements_of_what_was_never_sent() {
    let ack = |batch| {
        Kind::BatchAck(wire::BatchAck {
            set: 1,
            batch,
            digest: digest(),
        })
    };
    for number in [0, 1, u64::MAX] {
        assert_eq!(
            on_hub(ack(number)),
            SessionError::Order {
                what: "acknowledgement",
                want: 1,
                got: number
            }
        );
    }
}

#[test]
fn inventories_that_break_the_rules() {
    let on_hub = |kinds: &[Kind]| {
        let (_, mut hub) = pair(3, 0);
        kinds
            .iter()
            .try_for_each(|kind| hub.handle_frame(NOW, kind.clone().into()))
            .unwrap_err()
    };
    assert_eq!(on_hub(&[page(&[], false)]), SessionError::Field("page of an inventory"));
    assert_eq!(
        on_hub(&[page(&["b", "a"], true)]),
        SessionError::Field("key of an inventory")
    );
    assert_eq!(
        on_hub(&[page(&["a", "a"], true)]),
        SessionError::Field("key of an inventory")
    );
    assert_eq!(
        on_hub(&[page(&["b"], false), page(&["b"], true)]),
        SessionError::Field("key of an inventory")
    );
    assert_eq!(
        on_hub(&[page(&[], true), page(&[], true)]),
        SessionError::Unexpected("an inventory")
    );
    let round = |round| {
        Kind::InventoryPage(wire::InventoryPage {
            set: 1,
            round,
            last: true,
            ..Default::default()
        })
    };
    assert_eq!(
        on_hub(&[round(1)]),
        SessionError::Unexpected("an inventory of another round")
    );
    let keys: Vec<String> = (0..limits::MAX_INVENTORY_PAGE + 1).map(|n| format!("{n:08}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    assert_eq!(on_hub(&[page(&keys, true)]), SessionError::TooMany("entries in a page"));
}

#[test]
fn an_endless_inventory_ends() {
    let (_, mut hub) = pair(3, 0);
    let mut taken = 0;
    let error = loop {
        let keys: Vec<String> = (0..1000).map(|n| format!("{:0>400}", taken + n)).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        match hub.handle_frame(NOW, page(&keys, false).into()) {
            Ok(()) => taken += 1000,
            Err(error) => break error,
        }
    };
    assert_eq!(error, SessionError::TooMany("unknown keys"));
    assert!(taken * 400 <= limits::MAX_STRANGER_BYTES);
}

#[test]
fn an_endless_set_is_refused_by_key_and_then_ends() {
    let (_, mut hub) = pair(0, 0);
    let mut held = 0;
    let error = (1..).find_map(|number| {
        let keys = (0..200).map(|n| change(&format!("/k/{number}/{n}"), "x"));
        let kind = Kind::Batch(wire::Batch {
            set: 2,
            batch: number,
            changes: keys.collect(),
            digest: digest(),
        });
        if let Err(error) = hub.handle_frame(NOW, kind.into()) {
            return Some(error);
        }
        while let Some(event) = hub.poll_event() {
            if let Event::Apply { batch, changes } = event {
                held += changes.len();
                hub.applied(batch, Applied::default());
            }
        }
        while hub.poll_transmit().is_some() {}
        None
    });
    assert_eq!(error, Some(SessionError::TooMany("objects in a set")));
    assert_eq!(held, limits::MAX_SET_ENTRIES);
}

#[test]
fn a_flood_of_questions_is_answered_once_per_look() {
    let (mut edge, _) = pair(3, 3);
    while edge.poll_transmit().is_some() {}
    for _ in 0..10_000 {
        edge.handle_frame(NOW, Kind::Heartbeat(Default::default()).into())
            .unwrap();
    }
    let answers = core::iter::from_fn(|| edge.poll_transmit()).count();
    assert_eq!(answers, 1);
}

#[test]
fn a_hub_cannot_ask_for_a_storm_or_a_sleep() {
    for asked in [1, u32::MAX] {
        let mut edge = Session::edge(EdgeConfig::new("gw", 1, 1), SourceSet::new(), Inventory::new(), NOW);
        let limits = wire::Limits {
            heartbeat_ms: asked,
            ack_deadline_ms: asked,
            window: asked,
            journal_window: asked,
        };
        let welcome = wire::Welcome {
            version: 1,
            limits: Some(limits),
            desired: vec![0; 16].into(),
            observed: vec![0; 16].into(),
            ..Default::default()
        };
        edge.handle_frame(NOW, Kind::Welcome(welcome).into()).unwrap();
        let (low, high) = proto::limits::HEARTBEAT_RANGE;
        let in_force = match edge.poll_event() {
            Some(Event::Welcome { limits, .. }) => limits,
            other => panic!("{other:?}"),
        };
        assert!(in_force.heartbeat >= low && in_force.heartbeat <= high);
        assert!(edge.poll_timeout().unwrap() >= NOW + low);
    }
}

fn drain(session: &mut Session) {
    for _ in 0..1000 {
        let frame = session.poll_transmit();
        if let Some(frame) = &frame {
            Codec::default().encode(frame, &mut BytesMut::new()).unwrap();
        }
        let event = session.poll_event();
        match &event {
            Some(Event::Apply { batch, .. }) => session.applied(*batch, Applied::default()),
            Some(Event::Journal {
                stream,
                first_seq,
                records,
            }) => {
                session.journal_stored(stream, first_seq + records.len() as u64 - 1);
            }
            Some(Event::JournalDropped { stream, to, .. }) => session.journal_stored(stream, *to),
            Some(Event::NeedJournal { stream, from, .. }) => session.journal_read(stream, *from, vec!["r".into()]),
            _ => {}
        }
        if frame.is_none() && event.is_none() {
            return;
        }
    }
    panic!("the session never comes to rest");
}

fn talk(mut session: Session, frames: Vec<Frame>) {
    let mut now = NOW;
    for (n, frame) in frames.into_iter().enumerate() {
        now += Now::from_millis(300);
        let taken = session.handle_frame(now, frame);
        drain(&mut session);
        if n % 3 == 0 {
            session.source_put("/things/default/t-01", format!("{n}"));
            session.mirror_forget("/things/default/t-02");
            session.journal_appended("telemetry", 10 + n as u64);
        }
        drain(&mut session);
        assert_eq!(taken.is_err(), session.is_ended());
        if taken.is_err() {
            return;
        }
        let _timeout = session.handle_timeout(now);
        drain(&mut session);
        if session.is_ended() {
            return;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_frames_are_survived(frames in prop::collection::vec(arbitrary::frame(), 1..20), held in 0usize..4) {
        let (edge, hub) = pair(3, held);
        talk(edge, frames.clone());
        talk(hub, frames.clone());
        talk(Session::hub(HubConfig::new("hub", 1), "gw", NOW), frames);
    }
}
