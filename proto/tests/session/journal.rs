//! Journals: numbered, in order, once, and what is gone is told as gone.

use super::world::{Half, Side, World};
use bytes::Bytes;
use proto::limits;
use proto::{DropReason, Event, Limits, Session};
use std::time::Duration;

fn session(half: &mut Half) -> &mut Session {
    half.session.as_mut().unwrap()
}

fn acked(world: &World) -> Vec<(u64, u64)> {
    let ack = |event: &Event| match event {
        Event::JournalAcked { cursor, dropped, .. } => Some((*cursor, *dropped)),
        _ => None,
    };
    world.nodes[0].edge.events.iter().filter_map(ack).collect()
}

fn dropped(world: &World) -> Vec<(u64, u64, DropReason)> {
    let gone = |event: &Event| match event {
        Event::JournalDropped { from, to, reason, .. } => Some((*from, *to, *reason)),
        _ => None,
    };
    world.nodes[0].hub.events.iter().filter_map(gone).collect()
}

#[test]
fn records_arrive_in_order_and_are_trimmed() {
    let mut world = World::connected();
    world.append(0, "telemetry", 1000);
    world.rest();
    world.append(0, "telemetry", 1);
    world.rest();
    world.check();
    assert_eq!(acked(&world).last(), Some(&(1001, 0)));
    assert!(world.nodes[0].journal["telemetry"].records.is_empty());
}

#[test]
fn an_acknowledgement_lost_with_the_link_sends_nothing_again() {
    let mut world = World::connected();
    world.append(0, "telemetry", 100);
    // The records arrive and are stored, their acknowledgement does not come back.
    world.run(Duration::from_millis(26));
    world.cut(0);
    let before = world.nodes[0].sent["journal"];
    world.rest();
    assert_eq!(world.nodes[0].sent["journal"], before);
    assert_eq!(acked(&world), [(100, 0)]);
    world.check();
}

#[test]
fn what_a_bound_forced_out_is_told_in_its_place() {
    let mut world = World::connected();
    world.cut(0);
    world.append(0, "telemetry", 100);
    world.force_out(0, "telemetry", 60);
    world.append(0, "telemetry", 10);
    world.rest();
    world.check();
    assert_eq!(dropped(&world), [(1, 60, DropReason::Bytes)]);
    assert_eq!(acked(&world).last(), Some(&(110, 60)), "the gateway hears the balance");
}

#[test]
fn what_was_stored_before_it_was_forced_out_counts_as_stored() {
    let mut world = World::connected();
    world.append(0, "telemetry", 10);
    world.force_out(0, "telemetry", 10);
    world.rest();
    world.check();
    assert_eq!((dropped(&world), acked(&world)), (vec![], vec![(10, 0)]));
}

#[test]
fn a_hub_that_lost_its_sink_hears_what_was_trimmed() {
    let mut world = World::connected();
    world.append(0, "telemetry", 20);
    world.rest();
    world.lose_hub_disk();
    world.append(0, "telemetry", 5);
    world.rest();
    world.check();
    assert_eq!(dropped(&world), [(1, 20, DropReason::Trimmed)]);
}

#[test]
fn a_new_disk_begins_a_new_journal() {
    let mut world = World::connected();
    world.append(0, "telemetry", 20);
    world.rest();
    world.lose_edge_disk(0);
    world.append(0, "telemetry", 3);
    world.rest();
    world.check();
    assert_eq!(world.nodes[0].sink.len(), 2, "one per incarnation");
}

#[test]
fn a_disk_that_went_back_in_time_is_told_so() {
    let mut world = World::connected();
    world.append(0, "telemetry", 20);
    world.rest();
    // A copy of the store from before, under the same incarnation.
    world.reboot(0, Side::Edge);
    world.nodes[0].journal.get_mut("telemetry").unwrap().accepted = 5;
    world.run(Duration::from_secs(2));
    let ahead = Event::JournalAhead {
        stream: "telemetry".into(),
        cursor: 20,
    };
    assert!(world.edge().events.contains(&ahead));
    // New records under old numbers are not sent: the hub would take them for repetitions.
    let before = world.nodes[0].sent["journal"];
    session(world.edge()).journal_appended("telemetry", 8);
    world.run(Duration::from_secs(2));
    assert_eq!(world.nodes[0].sent["journal"], before);
}

#[test]
fn a_record_too_large_or_missing_is_accounted_and_the_rest_flows() {
    let mut world = World::connected();
    let edge = session(world.edge());
    edge.journal_appended("audit", 6);
    assert!(matches!(edge.poll_event(), Some(Event::NeedJournal { from: 1, .. })));
    assert!(edge.poll_event().is_none(), "one request at a time");
    let large = Bytes::from(vec![0; limits::MAX_RECORD + 1]);
    edge.journal_read("audit", 3, vec!["c".into(), large, "e".into(), "f".into()]);
    world.pump(0);
    world.run(Duration::from_secs(1));
    assert_eq!(
        dropped(&world),
        [(1, 2, DropReason::Missing), (4, 4, DropReason::TooLarge)]
    );
    assert_eq!(acked(&world).last(), Some(&(6, 3)));
    assert!(session(world.edge()).journals_settled());
}

#[test]
fn a_store_that_answers_nothing_is_asked_again_only_on_news() {
    let mut world = World::connected();
    let edge = session(world.edge());
    edge.journal_appended("audit", 1);
    assert!(edge.poll_event().is_some());
    edge.journal_read("audit", 0, Vec::new());
    assert!(edge.poll_event().is_none());
    edge.journal_appended("audit", 2);
    assert!(matches!(edge.poll_event(), Some(Event::NeedJournal { from: 1, .. })));
}

/// What the hub was told of how much the gateway accepted.
fn accepted(world: &World) -> Vec<u64> {
    let told = |event: &Event| match event {
        Event::JournalAccepted { accepted_to, .. } => Some(*accepted_to),
        _ => None,
    };
    world.nodes[0].hub.events.iter().filter_map(told).collect()
}

#[test]
fn the_hub_knows_what_waits_behind_what_it_gets() {
    let mut world = World::new(1);
    world.limits = Limits {
        journal_window: 16 << 10,
        ..Limits::default()
    };
    world.rest();
    world.append(0, "telemetry", 20_000);
    // One way and no more: only the first window has come.
    world.run(super::world::LATENCY);
    assert_eq!(accepted(&world), [20_000]);
    assert!(world.nodes[0].sink.is_empty());
    world.rest();
    world.check();
    assert_eq!(accepted(&world), [20_000], "said once");
}

#[test]
fn heartbeats_tell_what_was_accepted_and_does_not_go_up() {
    let mut world = World::connected();
    let edge = session(world.edge());
    edge.journal_appended("audit", 7);
    assert!(edge.poll_event().is_some());
    edge.journal_read("audit", 0, Vec::new());
    let bytes = world.nodes[0].bytes;
    world.run(Duration::from_secs(61));
    assert_eq!(accepted(&world), [7]);
    let first = world.nodes[0].bytes - bytes;
    world.run(Duration::from_secs(60));
    assert_eq!(accepted(&world), [7]);
    let second = world.nodes[0].bytes - bytes - first;
    assert!(
        second < first,
        "{second} bytes where nothing is new, {first} with the news"
    );
}

#[test]
fn a_gateway_that_says_nothing_of_its_journals_accepted_what_it_sends() {
    let mut world = World::connected();
    let dropped = proto::wire::JournalDropped {
        stream: "telemetry".into(),
        from: 1,
        to: 4,
        ..Default::default()
    };
    let kind = proto::wire::frame::Kind::JournalDropped(dropped);
    let now = world.now;
    session(world.hub()).handle_frame(now, kind.into()).unwrap();
    let hub = session(world.hub());
    let stream = "telemetry".into();
    assert_eq!(
        hub.poll_event(),
        Some(Event::JournalAccepted { stream, accepted_to: 4 })
    );
    assert!(matches!(hub.poll_event(), Some(Event::JournalDropped { to: 4, .. })));
}

#[test]
fn the_window_bounds_what_is_read_and_sent_ahead_of_the_hub() {
    let mut world = World::new(1);
    world.limits = Limits {
        journal_window: 64 << 10,
        ..Limits::default()
    };
    world.rest();
    world.append(0, "telemetry", 20_000);
    // Nothing acknowledged yet: what left the store is within the window.
    let read = |world: &World| {
        let asked = world.nodes[0]
            .edge
            .events
            .iter()
            .filter(|event| matches!(event, Event::NeedJournal { .. }))
            .count();
        asked * (64 << 10)
    };
    assert!(read(&world) <= 128 << 10, "{}", read(&world));
    world.rest();
    world.check();
    let largest = world.nodes[0].hub.events.iter().filter_map(|event| match event {
        Event::Journal { records, .. } => Some(
            records
                .iter()
                .map(|record| record.len() + limits::ENTRY_COST)
                .sum::<usize>(),
        ),
        _ => None,
    });
    assert!(largest.max().unwrap() <= 64 << 10);
}

#[test]
fn urgent_streams_go_first() {
    let mut world = World::new(1);
    world.limits = Limits {
        journal_window: 16 << 10,
        ..Limits::default()
    };
    world.nodes[0].up = false;
    world.append(0, "telemetry", 5000);
    world.append(0, "audit", 100);
    world.nodes[0].journal.get_mut("telemetry").unwrap().priority = 9;
    world.nodes[0].up = true;
    world.rest();
    let stream_of = |event: &Event| match event {
        Event::Journal { stream, .. } => Some(stream.to_string()),
        _ => None,
    };
    let order: Vec<_> = world.nodes[0].hub.events.iter().filter_map(stream_of).collect();
    assert_eq!(order[0], "audit");
    assert!(
        order.len() > 10 && order[1..].iter().all(|stream| stream == "telemetry"),
        "{order:?}"
    );
    world.check();
}
