//! What a session promises, one promise at a time.

use super::world::{Half, Side, World};
use bytes::Bytes;
use proto::limits::{self, Versions};
use proto::wire::frame::Kind;
use proto::{
    CloseReason, EdgeConfig, Event, HubConfig, Inventory, KeyState, Limits, Now, Rotation, Session, SessionError,
    SetKind, SourceSet,
};
use std::collections::BTreeMap;
use std::time::Duration;

const S: Duration = Duration::from_secs(1);
const KEY: &str = "devices.kubeedge.io/devices/default/press-01";

fn frames(world: &World) -> BTreeMap<&'static str, usize> {
    world.nodes[0].sent.clone()
}

fn said(world: &World, before: &BTreeMap<&'static str, usize>, kind: &str) -> usize {
    frames(world).get(kind).unwrap_or(&0) - before.get(kind).unwrap_or(&0)
}

fn session(half: &mut Half) -> &mut Session {
    half.session.as_mut().unwrap()
}

/// Both sides of one handshake, by hand.
fn handshake(edge: &mut Session, hub: &mut Session, now: Now) -> Result<(), SessionError> {
    hub.handle_frame(now, edge.poll_transmit().unwrap())?;
    while hub.poll_event().is_some() {}
    hub.accept(now, SourceSet::new(), Inventory::new(), Vec::new());
    edge.handle_frame(now, hub.poll_transmit().unwrap())
}

#[test]
fn an_edit_is_applied_and_both_sides_know() {
    let mut world = World::connected();
    world.put(0, Side::Hub, KEY, "v1");
    assert_eq!(session(world.hub()).key_state(KEY), KeyState::InFlight);
    world.rest();
    world.check();
    assert_eq!(world.edge().mirror[KEY].1, "v1");
    assert_eq!(session(world.hub()).key_state(KEY), KeyState::Delivered);
    let acked = Event::Acked { keys: vec![KEY.into()] };
    assert!(world.hub().events.contains(&acked));
    for side in [Side::Edge, Side::Hub] {
        assert_eq!(
            world.nodes[0].half(side).events.last(),
            Some(&Event::InSync { set: SetKind::Desired })
        );
    }
    world.remove(0, Side::Hub, KEY);
    world.rest();
    assert!(world.edge().mirror.is_empty());
    assert_eq!(session(world.hub()).key_state(KEY), KeyState::Absent);
}

#[test]
fn equal_digests_on_connect_send_nothing() {
    let mut world = World::connected();
    for n in 0..50 {
        world.put(0, Side::Hub, &format!("/things//d-{n}"), "desired");
        world.put(0, Side::Edge, &format!("/things//o-{n}"), "observed");
    }
    world.rest();
    for break_it in [
        World::cut,
        |world: &mut World, node| world.reboot(node, Side::Edge),
        |world: &mut World, _| world.reboot_hub(),
    ] {
        let before = frames(&world);
        break_it(&mut world, 0);
        world.rest();
        world.run(S);
        let said: BTreeMap<_, _> = frames(&world)
            .into_iter()
            .filter(|(kind, count)| before.get(kind) != Some(count))
            .collect();
        assert_eq!(said.keys().copied().collect::<Vec<_>>(), ["hello", "welcome"]);
    }
    world.check();
}

#[test]
fn what_differs_after_a_break_is_sent_and_nothing_else() {
    let mut world = World::connected();
    for n in 0..5000 {
        world.put(
            0,
            Side::Hub,
            &format!("/things/default/thing-number-{n:05}"),
            &format!("body {n}"),
        );
    }
    world.rest();
    world.cut(0);
    world.put(0, Side::Hub, "/things/default/thing-number-00007", "changed");
    world.put(0, Side::Hub, "/things/default/thing-number-99999", "new");
    world.remove(0, Side::Hub, "/things/default/thing-number-04999");
    let before = frames(&world);
    world.rest();
    world.check();
    assert!(
        said(&world, &before, "inventory") >= 3,
        "an inventory of 5000 goes in pages"
    );
    assert_eq!(said(&world, &before, "batch"), 1);
    let changes = world.edge().events.iter().rev().find_map(|event| match event {
        Event::Apply { changes, .. } => Some(changes.len()),
        _ => None,
    });
    assert_eq!(changes, Some(3));
}

#[test]
fn only_the_newest_body_of_a_key_is_sent() {
    let mut world = World::connected();
    let before = frames(&world);
    for n in 0..100 {
        world.put(0, Side::Edge, KEY, &format!("report {n}"));
    }
    world.rest();
    assert_eq!(said(&world, &before, "batch"), 2, "the first, and after it the newest");
    assert_eq!(world.hub().mirror[KEY].1, "report 99");
    // Changed and changed back within one flight: the mirror has the flight's body, nothing follows.
    world.put(0, Side::Edge, KEY, "a");
    world.put(0, Side::Edge, KEY, "b");
    world.put(0, Side::Edge, KEY, "a");
    let before = frames(&world);
    world.rest();
    assert_eq!(said(&world, &before, "batch"), 0);
    world.check();
}

#[test]
fn several_batches_fly_within_the_window() {
    let mut world = World::new(1);
    world.edge_window = 200 << 10;
    world.rest();
    let before = frames(&world);
    let body: String = (0..8000u32)
        .map(|n| char::from(33 + (n.wrapping_mul(n) % 89) as u8))
        .collect();
    for n in 0..100 {
        world.put(0, Side::Hub, &format!("/things//{n}"), &format!("{n}{body}"));
    }
    let flying = said(&world, &before, "batch");
    assert!(flying >= 3, "{flying} batches before the first acknowledgement");
    let waiting = (0..100)
        .filter(|n| session(world.hub()).key_state(&format!("/things//{n}")) == KeyState::Waiting)
        .count();
    assert!(
        (100 - waiting) * (8000 + limits::ENTRY_COST) <= 200 << 10,
        "{waiting} wait"
    );
    assert!(waiting > 60, "{waiting} wait");
    world.rest();
    world.check();
}

#[test]
fn a_refused_key_rests_until_its_body_changes() {
    let mut world = World::connected();
    world.put(0, Side::Hub, KEY, "good");
    world.rest();
    world.put(0, Side::Hub, KEY, "bad one");
    world.put(0, Side::Hub, "/things//other", "fine");
    world.rest();
    world.check();
    let digests = session(world.hub()).digests();
    assert!(digests.in_sync && digests.desired_refused == 1);
    assert_eq!(session(world.edge()).digests().desired_refused, 1);
    assert_eq!(world.edge().mirror[KEY].1, "good", "what was held stays");
    let refused = Event::Refused {
        key: KEY.into(),
        reason: "it is bad".into(),
    };
    assert_eq!(world.hub().events.iter().filter(|event| **event == refused).count(), 1);

    // Not after a break, and not after a restart of the hub, which hears of it again without a body being sent.
    let before = frames(&world);
    world.cut(0);
    world.rest();
    world.reboot_hub();
    world.rest();
    world.run(S);
    assert_eq!(
        (said(&world, &before, "batch"), said(&world, &before, "inventory")),
        (0, 0)
    );
    assert_eq!(
        session(world.hub()).key_state(KEY),
        KeyState::Refused("it is bad".into())
    );
    assert_eq!(world.hub().events.iter().filter(|event| **event == refused).count(), 3);
    world.check();

    world.put(0, Side::Hub, KEY, "better");
    world.rest();
    world.check();
    assert_eq!(world.edge().mirror[KEY].1, "better");
    assert_eq!(session(world.hub()).digests().desired_refused, 0);
}

#[test]
fn a_removal_can_be_refused_too() {
    let now = S;
    let desired: SourceSet = [(KEY, "v")].into_iter().collect();
    let held: Inventory = desired.iter().map(|(key, hash, _)| (key.clone(), hash)).collect();
    let mut edge = Session::edge(EdgeConfig::new("gw", 1, 1), SourceSet::new(), held, now);
    let mut hub = Session::hub(HubConfig::new("hub", 1), "gw", now);
    hub.handle_frame(now, edge.poll_transmit().unwrap()).unwrap();
    hub.accept(now, desired, Inventory::new(), Vec::new());
    edge.handle_frame(now, hub.poll_transmit().unwrap()).unwrap();
    hub.source_remove(KEY);
    edge.handle_frame(now, hub.poll_transmit().unwrap()).unwrap();
    edge.applied(
        1,
        proto::Applied {
            refused: vec![(KEY.into(), "it is in use".into())],
        },
    );
    while let Some(frame) = edge.poll_transmit() {
        hub.handle_frame(now, frame).unwrap();
    }
    assert!(edge.inventory().held(KEY).is_some());
    assert_eq!(hub.key_state(KEY), KeyState::Refused("it is in use".into()));
    assert!(hub.digests().in_sync && hub.digests().desired_refused == 1);
}

#[test]
fn a_body_that_cannot_travel_is_refused_at_home_and_hurts_nobody() {
    let mut world = World::connected();
    world.put(0, Side::Hub, "/things//other", "fine");
    session(world.hub()).source_put(KEY, vec![b'x'; limits::MAX_BODY + 1]);
    session(world.hub()).source_put(KEY.replace('/', "\n"), "x");
    world.rest();
    assert!(
        matches!(session(world.hub()).key_state(KEY), KeyState::Refused(reason) if reason.contains("1572865 bytes"))
    );
    assert_eq!(session(world.hub()).digests().desired_refused, 2);
    world.put(0, Side::Hub, KEY, &"x".repeat(limits::MAX_BODY));
    world.rest();
    assert_eq!(world.edge().mirror[KEY].1.len(), limits::MAX_BODY);
}

#[test]
fn an_object_lost_by_the_mirror_comes_back_within_the_session() {
    let mut world = World::connected();
    for n in 0..10 {
        world.put(0, Side::Hub, &format!("/things//{n}"), "body");
    }
    world.rest();
    let before = frames(&world);
    world.forget(0, Side::Edge, "/things//3");
    assert!(!session(world.edge()).digests().in_sync);
    world.run(S);
    world.rest();
    world.check();
    let count = |kind| said(&world, &before, kind);
    assert_eq!(
        (count("request"), count("inventory"), count("batch"), count("hello")),
        (1, 1, 1, 0)
    );
    assert!(world.nodes[0].edge.mirror.contains_key("/things//3"));
}

/// Carries frames by hand until neither side has more, applying what comes.
fn carry(edge: &mut Session, hub: &mut Session, now: Now) {
    loop {
        let mut idle = true;
        for _ in 0..2 {
            while let Some(frame) = edge.poll_transmit() {
                idle = false;
                hub.handle_frame(now, frame).unwrap();
            }
            core::mem::swap(edge, hub);
        }
        for session in [&mut *edge, &mut *hub] {
            while let Some(event) = session.poll_event() {
                if let Event::Apply { batch, .. } = event {
                    session.applied(batch, proto::Applied::default());
                }
            }
            if session.poll_timeout().is_some_and(|at| at <= now) {
                idle = false;
                session.handle_timeout(now).unwrap();
            }
        }
        if idle {
            return;
        }
    }
}

#[test]
fn changes_in_the_middle_of_an_inventory_are_not_lost() {
    let key = |n: usize| format!("/things/default/thing-number-{n:05}");
    let desired: SourceSet = (0..5000).map(|n| (key(n), "body")).collect();
    let mut held: Inventory = desired.iter().map(|(key, hash, _)| (key.clone(), hash)).collect();
    held.remove(&key(4000));
    let mut edge = Session::edge(EdgeConfig::new("gw", 1, 1), SourceSet::new(), held, S);
    let mut hub = Session::hub(HubConfig::new("hub", 1), "gw", S);
    hub.handle_frame(S, edge.poll_transmit().unwrap()).unwrap();
    while hub.poll_event().is_some() {}
    hub.accept(S, desired, Inventory::new(), Vec::new());
    edge.handle_frame(S, hub.poll_transmit().unwrap()).unwrap();
    let page = edge.poll_transmit().unwrap();
    assert!(matches!(&page.kind, Some(Kind::InventoryPage(page)) if !page.last));
    hub.handle_frame(S, page).unwrap();
    // One key of the page that came, one of those to come, on either side.
    hub.source_put(key(1), "changed behind the page");
    hub.source_put(key(4999), "changed before its page");
    hub.source_remove(key(2));
    edge.mirror_forget(key(3));
    assert_eq!(hub.key_state(&key(1)), KeyState::Waiting);
    assert_eq!(hub.key_state(&key(4998)), KeyState::Waiting, "not known yet");
    carry(&mut edge, &mut hub, S);
    assert!(
        hub.digests().in_sync && edge.digests().in_sync,
        "{:?} {:?}",
        hub.digests(),
        edge.digests()
    );
    assert_eq!(edge.inventory().digest(), hub.source().digest());
    assert_eq!(edge.inventory().held(&key(1)), hub.source().hash(&key(1)));
}

#[test]
fn a_loss_behind_the_last_page_is_found_without_a_batch() {
    let key = |n: usize| format!("/things/default/thing-number-{n:05}");
    let mut desired: SourceSet = (0..5000).map(|n| (key(n), "body")).collect();
    let held: Inventory = desired.iter().map(|(key, hash, _)| (key.clone(), hash)).collect();
    desired.put(key(4999), "changed");
    let mut edge = Session::edge(EdgeConfig::new("gw", 1, 1), SourceSet::new(), held, S);
    let mut hub = Session::hub(HubConfig::new("hub", 1), "gw", S);
    hub.handle_frame(S, edge.poll_transmit().unwrap()).unwrap();
    while hub.poll_event().is_some() {}
    hub.accept(S, desired, Inventory::new(), Vec::new());
    edge.handle_frame(S, hub.poll_transmit().unwrap()).unwrap();
    hub.handle_frame(S, edge.poll_transmit().unwrap()).unwrap();
    // Nothing is left to send, and the page that came tells of a copy that is no more.
    hub.source_put(key(4999), "body");
    edge.mirror_forget(key(3));
    carry(&mut edge, &mut hub, S);
    assert!(
        hub.digests().in_sync && edge.digests().in_sync,
        "{:?} {:?}",
        hub.digests(),
        edge.digests()
    );
    assert!(edge.inventory().held(&key(3)).is_some());
}

#[test]
fn a_change_undone_while_it_waits_leaves_nobody_waiting() {
    let mut world = World::new(1);
    world.limits.window = 16 << 10;
    world.rest();
    let body: String = (0..15_000u32)
        .map(|n| char::from(33 + (n.wrapping_mul(n) % 89) as u8))
        .collect();
    for key in ["/k/1", "/k/2", "/k/3"] {
        world.put(0, Side::Edge, key, &body);
    }
    // The second is on its way, with a digest that counts the third.
    world.run(Duration::from_millis(50));
    assert_eq!(session(world.edge()).key_state("/k/2"), KeyState::InFlight);
    world.remove(0, Side::Edge, "/k/3");
    let before = world.now;
    world.rest();
    world.check();
    assert!(world.now - before < S, "{:?}", world.now - before);
}

#[test]
fn a_copy_lost_between_hello_and_welcome_comes_back() {
    let desired: SourceSet = [(KEY, "v1")].into_iter().collect();
    let held = desired.iter().map(|(key, hash, _)| (key.clone(), hash)).collect();
    let mut edge = Session::edge(EdgeConfig::new("gw", 1, 1), SourceSet::new(), held, S);
    let mut hub = Session::hub(HubConfig::new("hub", 1), "gw", S);
    let hello = edge.poll_transmit().unwrap();
    edge.mirror_forget(KEY);
    hub.handle_frame(S, hello).unwrap();
    while hub.poll_event().is_some() {}
    hub.accept(S, desired, Inventory::new(), Vec::new());
    carry(&mut edge, &mut hub, S);
    assert!(edge.inventory().held(KEY).is_some() && hub.digests().in_sync && edge.digests().in_sync);
}

#[test]
fn changes_between_hello_and_welcome_are_not_lost() {
    for equal in [true, false] {
        let hub_holds: SourceSet = if equal {
            [(KEY, "v1")].into_iter().collect()
        } else {
            SourceSet::new()
        };
        let inventory = hub_holds.iter().map(|(key, hash, _)| (key.clone(), hash)).collect();
        let observed = [(KEY, "v1")].into_iter().collect();
        let mut edge = Session::edge(EdgeConfig::new("gw", 1, 1), observed, Inventory::new(), S);
        let mut hub = Session::hub(HubConfig::new("hub", 1), "gw", S);
        let hello = edge.poll_transmit().unwrap();
        edge.source_put(KEY, "v2");
        edge.source_put("/things//new", "v1");
        hub.handle_frame(S, hello).unwrap();
        while hub.poll_event().is_some() {}
        hub.accept(S, SourceSet::new(), inventory, Vec::new());
        hub.source_put("/things//desired", "v1");
        carry(&mut edge, &mut hub, S);
        assert!(
            hub.digests().in_sync && edge.digests().in_sync,
            "equal {equal}: {:?}",
            edge.digests()
        );
        assert_eq!(hub.inventory().digest(), edge.source().digest());
    }
}

#[test]
fn an_idle_link_costs_little_and_stays() {
    let mut world = World::connected();
    let (before, bytes) = (frames(&world), world.nodes[0].bytes);
    world.run(3600 * S);
    let heartbeats = said(&world, &before, "heartbeat");
    assert!(
        (116..=120).contains(&heartbeats),
        "{heartbeats}: one question and one answer a minute"
    );
    let an_hour = world.nodes[0].bytes - bytes;
    assert!(an_hour <= 1000, "{an_hour} bytes of frames in an hour");
    assert!(world.edge().ended.is_empty() && world.hub().ended.is_empty());
}

#[test]
fn a_half_open_link_is_known_within_three_heartbeats_on_both_sides() {
    let mut world = World::connected();
    let heartbeat = Limits::default().heartbeat;
    world.run(17 * S);
    let start = world.now;
    world.nodes[0].black_hole = true;
    while world.edge().session.is_some() || world.hub().session.is_some() {
        assert!(world.step(start + 3 * heartbeat), "not noticed within three heartbeats");
    }
    assert!(matches!(world.edge().ended[..], [SessionError::PeerSilent(_)]));
    assert!(matches!(world.hub().ended[..], [SessionError::PeerSilent(_)]));
}

#[test]
fn under_load_a_dead_link_is_known_by_the_ack_deadline() {
    for side in [Side::Edge, Side::Hub] {
        let mut world = World::connected();
        world.run(31 * S);
        world.nodes[0].black_hole = true;
        let start = world.now;
        world.put(0, side, KEY, "small");
        while world.nodes[0].half(side).session.is_some() {
            assert!(world.step(Now::MAX));
        }
        let took = world.now - start;
        assert!(took >= 15 * S && took <= 16 * S, "{took:?}");
        assert!(matches!(
            world.nodes[0].half(side).ended[..],
            [SessionError::AckOverdue(_)]
        ));
    }
}

#[test]
fn data_after_a_long_silence_has_its_whole_deadline() {
    let mut world = World::connected();
    // No call on the session for 50 s, then one by the application, which brings no time with it.
    world.run(50 * S);
    world.put(0, Side::Hub, KEY, "late");
    world.rest();
    assert!(world.hub().ended.is_empty(), "{:?}", world.hub().ended);
}

#[test]
fn a_handshake_has_a_deadline_on_both_sides() {
    let mut edge = Session::edge(EdgeConfig::new("gw", 1, 1), SourceSet::new(), Inventory::new(), S);
    let mut hub = Session::hub(HubConfig::new("hub", 1), "gw", S);
    for session in [&mut edge, &mut hub] {
        let at = session.poll_timeout().unwrap();
        assert_eq!(at, S + limits::HANDSHAKE_DEADLINE);
        assert_eq!(session.handle_timeout(at - S), Ok(()));
        assert_eq!(session.handle_timeout(at), Err(SessionError::HandshakeOverdue));
        assert!(session.is_ended() && session.poll_timeout().is_none());
    }
}

#[test]
fn versions_meet_at_the_newest_both_speak() {
    let talk = |edge: (u32, u32), hub: (u32, u32)| {
        let versions = |(min, max)| Versions { min, max };
        let edge = EdgeConfig {
            versions: versions(edge),
            ..EdgeConfig::new("gw", 1, 1)
        };
        let hub = HubConfig {
            versions: versions(hub),
            ..HubConfig::new("hub", 1)
        };
        let mut edge = Session::edge(edge, SourceSet::new(), Inventory::new(), S);
        let mut hub = Session::hub(hub, "gw", S);
        let outcome = handshake(&mut edge, &mut hub, S);
        if outcome.is_err() {
            edge.handle_frame(S, hub.poll_transmit().unwrap()).unwrap();
        }
        outcome
            .map(|()| edge.poll_event().unwrap())
            .map_err(|error| Box::new((error, edge.poll_event().unwrap())))
    };
    let agreed = |edge, hub| match talk(edge, hub) {
        Ok(Event::Welcome { version, .. }) => Some(version),
        _ => None,
    };
    assert_eq!(agreed((1, 1), (1, 1)), Some(1));
    assert_eq!(agreed((1, 1), (1, 2)), Some(1), "a hub that is one ahead");
    assert_eq!(agreed((1, 2), (1, 1)), Some(1), "a gateway that is one ahead");
    assert_eq!(agreed((1, 2), (2, 3)), Some(2));
    let (error, told) = *talk((1, 1), (2, 3)).unwrap_err();
    assert_eq!(
        error,
        SessionError::Version {
            peer: Versions { min: 1, max: 1 },
            here: Versions { min: 2, max: 3 }
        }
    );
    assert!(
        matches!(told, Event::PeerClosed { reason: CloseReason::Version, detail, .. } if detail.contains("2 to 3"))
    );
}

#[test]
fn a_certificate_speaks_for_its_own_node_only() {
    let mut edge = Session::edge(EdgeConfig::new("gw-2", 1, 1), SourceSet::new(), Inventory::new(), S);
    let mut hub = Session::hub(HubConfig::new("hub", 1), "gw-1", S);
    let error = hub.handle_frame(S, edge.poll_transmit().unwrap()).unwrap_err();
    assert_eq!(
        error,
        SessionError::WrongNode {
            said: "gw-2".into(),
            is: "gw-1".into()
        }
    );
    assert!(hub.poll_event().is_none(), "the application hears nothing of it");
}

#[test]
fn a_refusal_says_why_and_when_to_come_back() {
    let mut edge = Session::edge(EdgeConfig::new("gw", 1, 1), SourceSet::new(), Inventory::new(), S);
    let mut hub = Session::hub(HubConfig::new("hub", 1), "gw", S);
    hub.handle_frame(S, edge.poll_transmit().unwrap()).unwrap();
    hub.refuse(CloseReason::Busy { retry_after: 7 * S });
    edge.handle_frame(S, hub.poll_transmit().unwrap()).unwrap();
    let reason = CloseReason::Busy { retry_after: 7 * S };
    assert_eq!(
        edge.poll_event(),
        Some(Event::PeerClosed {
            reason,
            detail: String::new(),
            retry_after: Some(7 * S)
        })
    );
    assert!(edge.is_ended() && hub.is_ended());
    assert!(
        hub.into_sets().is_none(),
        "a hub that never accepted has no sets to give back"
    );
}

#[test]
fn the_fenced_session_is_told_and_sends_nothing_more() {
    let mut world = World::connected();
    session(world.hub()).close(CloseReason::Fenced);
    session(world.hub()).source_put(KEY, "after the end");
    let last = session(world.hub()).poll_transmit().unwrap();
    assert!(matches!(last.kind, Some(Kind::Goodbye(_))));
    assert!(session(world.hub()).poll_transmit().is_none());
    let now = world.now;
    let edge = session(world.edge());
    edge.handle_frame(now, last).unwrap();
    edge.source_put(KEY, "after the end");
    assert!(matches!(
        edge.poll_event(),
        Some(Event::PeerClosed {
            reason: CloseReason::Fenced,
            ..
        })
    ));
    assert!(edge.poll_transmit().is_none() && edge.poll_timeout().is_none());
    assert_eq!(
        edge.handle_frame(now, Kind::Heartbeat(Default::default()).into()),
        Err(SessionError::Ended)
    );
}

#[test]
fn certificates_rotate_over_the_session() {
    let (mut edge, mut hub) = (
        Session::edge(EdgeConfig::new("gw", 1, 1), SourceSet::new(), Inventory::new(), S),
        Session::hub(HubConfig::new("hub", 1), "gw", S),
    );
    assert!(!edge.rotate("too early"));
    handshake(&mut edge, &mut hub, S).unwrap();
    let events = |session: &mut Session| {
        let all = core::iter::from_fn(|| session.poll_event());
        all.filter(|event| matches!(event, Event::Rotate { .. } | Event::Rotated(_)))
            .last()
    };
    for outcome in [
        Rotation::Issued(vec![Bytes::from_static(b"leaf"), Bytes::from_static(b"ca")]),
        Rotation::Refused("revoked".into()),
    ] {
        assert!(edge.rotate("csr"));
        assert!(!edge.rotate("another at once"));
        hub.handle_frame(S, edge.poll_transmit().unwrap()).unwrap();
        assert_eq!(events(&mut hub), Some(Event::Rotate { csr: "csr".into() }));
        hub.rotated(outcome.clone());
        hub.rotated(Rotation::Refused("nobody asked".into()));
        edge.handle_frame(S, hub.poll_transmit().unwrap()).unwrap();
        assert_eq!(events(&mut edge), Some(Event::Rotated(outcome)));
        assert!(hub.poll_transmit().is_none());
    }
    // No answer: the request ends, the session does not.
    assert!(edge.rotate("csr"));
    hub.handle_frame(S, edge.poll_transmit().unwrap()).unwrap();
    edge.handle_timeout(2 * S).unwrap();
    let heartbeat = || Kind::Heartbeat(Default::default()).into();
    edge.handle_frame(50 * S, heartbeat()).unwrap();
    edge.handle_timeout(62 * S).unwrap();
    assert!(matches!(events(&mut edge), Some(Event::Rotated(Rotation::Refused(_)))));
    hub.rotated(Rotation::Refused("late".into()));
    edge.handle_frame(63 * S, hub.poll_transmit().unwrap()).unwrap();
    assert!(edge.is_live() && events(&mut edge).is_none());
}

#[test]
fn a_clock_that_runs_backwards_does_no_harm() {
    let (mut edge, mut hub) = (
        Session::edge(EdgeConfig::new("gw", 1, 1), SourceSet::new(), Inventory::new(), 100 * S),
        Session::hub(HubConfig::new("hub", 1), "gw", 100 * S),
    );
    handshake(&mut edge, &mut hub, 100 * S).unwrap();
    edge.handle_timeout(3 * S).unwrap();
    edge.handle_frame(S, Kind::Heartbeat(Default::default()).into())
        .unwrap();
    assert_eq!(edge.poll_timeout(), Some(160 * S));
}

#[test]
fn an_unknown_kind_of_frame_is_skipped() {
    let mut world = World::connected();
    let now = world.now;
    // What a later version's frame decodes to here.
    session(world.hub()).handle_frame(now, Default::default()).unwrap();
    assert!(session(world.hub()).is_live());
}

#[test]
fn a_nudge_is_one_heartbeat_ahead_of_time() {
    let now = 7 * S;
    let mut edge = Session::edge(EdgeConfig::new("gw-1", 1, 1), SourceSet::new(), Inventory::new(), now);
    let mut hub = Session::hub(HubConfig::new("hub-1", 1), "gw-1", now);
    edge.nudge(now);
    assert_eq!(edge.poll_timeout(), Some(now + limits::HANDSHAKE_DEADLINE));
    handshake(&mut edge, &mut hub, now).unwrap();
    assert_eq!((edge.poll_transmit(), hub.poll_transmit()), (None, None));

    let now = now + S;
    edge.nudge(now);
    let question = edge.poll_transmit().unwrap();
    assert!(
        matches!(&question.kind, Some(Kind::Heartbeat(h)) if !h.answer),
        "{question:?}"
    );
    assert_eq!(edge.poll_transmit(), None);
    hub.handle_frame(now, question).unwrap();
    let answer = hub.poll_transmit().unwrap();
    assert!(
        matches!(&answer.kind, Some(Kind::Heartbeat(h)) if h.answer),
        "{answer:?}"
    );
    edge.handle_frame(now, answer).unwrap();
    // The next one is due an interval later, as ever.
    assert_eq!(edge.poll_timeout(), Some(now + Limits::default().heartbeat));

    edge.close(CloseReason::Shutdown);
    assert!(edge.poll_transmit().is_some());
    edge.nudge(now);
    assert_eq!(edge.poll_transmit(), None);
}
