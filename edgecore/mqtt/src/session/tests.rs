use std::{sync::Arc, time::Duration};

use super::{
    outbox::{Pushed, packet_id},
    *,
};
use crate::packet::{Delivery, Publish, QoS};

const WIDE: Bounds = Bounds {
    messages: 1000,
    bytes: 1 << 20,
};
const NOW: Duration = Duration::from_secs(100);

fn message(body: &str) -> Arc<Publish> {
    Arc::new(Publish::new("t", body.to_owned()))
}

fn push(outbox: &mut Outbox, qos: QoS, body: &str) -> u64 {
    outbox
        .push(message(body), qos, false, vec![], None, true, WIDE)
        .seq
        .unwrap()
}

/// (pid, body, dup), body "REL" for a PUBREL.
fn take(outbox: &mut Outbox, window: usize) -> Vec<(u16, String, bool)> {
    let mut out = vec![];
    outbox.take(NOW, window, usize::MAX, &mut out);
    out.iter()
        .map(|d| match d {
            Delivery::Publish { message, pid, dup, .. } => {
                (*pid, String::from_utf8(message.payload.to_vec()).unwrap(), *dup)
            }
            Delivery::PubRel { pid } => (*pid, "REL".to_owned(), false),
        })
        .collect()
}

fn sent(list: &[(u16, &str, bool)]) -> Vec<(u16, String, bool)> {
    list.iter()
        .map(|(pid, body, dup)| (*pid, (*body).to_owned(), *dup))
        .collect()
}

#[test]
fn window_limits_what_is_in_flight_and_acks_open_it() {
    let mut o = Outbox::default();
    for body in ["a", "b", "c", "d"] {
        push(&mut o, QoS::AtLeastOnce, body);
    }
    assert_eq!(take(&mut o, 2), sent(&[(1, "a", false), (2, "b", false)]));
    assert_eq!(take(&mut o, 2), sent(&[]));
    assert_eq!(o.acknowledged(3, QoS::AtLeastOnce), None, "not sent yet");
    assert_eq!(o.acknowledged(2, QoS::AtLeastOnce), Some(1));
    assert_eq!(o.acknowledged(2, QoS::AtLeastOnce), None, "once only");
    assert_eq!(take(&mut o, 2), sent(&[(3, "c", false)]));
    assert_eq!(o.acknowledged(0, QoS::AtLeastOnce), None);
    assert_eq!(o.acknowledged(1, QoS::AtLeastOnce), Some(0));
    assert_eq!(o.acknowledged(3, QoS::AtLeastOnce), Some(2));
    assert_eq!(take(&mut o, 2), sent(&[(4, "d", false)]));
    assert_eq!(o.acknowledged(4, QoS::AtLeastOnce), Some(3));
    assert_eq!((o.len(), o.bytes()), (0, 0));
}

#[test]
fn reconnect_repeats_what_was_in_flight_with_the_same_ids() {
    let mut o = Outbox::default();
    for (qos, body) in [
        (QoS::AtLeastOnce, "a"),
        (QoS::ExactlyOnce, "b"),
        (QoS::ExactlyOnce, "c"),
    ] {
        push(&mut o, qos, body);
    }
    take(&mut o, 2);
    assert_eq!(o.received(2), Some(1));
    o.detach();
    o.attach();
    assert_eq!(
        take(&mut o, 10),
        sent(&[(1, "a", true), (2, "REL", false), (3, "c", false)])
    );
    assert_eq!(o.completed(2), Some(1));
    assert_eq!(o.completed(3), None, "no PUBREC yet");
    assert_eq!(o.received(3), Some(2));
    assert_eq!(o.received(3), Some(2), "PUBREC again is answered again");
    assert_eq!(o.acknowledged(3, QoS::ExactlyOnce), None, "too late to give up");
    assert_eq!(o.completed(3), Some(2));
}

#[test]
fn the_wrong_acknowledgement_changes_nothing() {
    let mut o = Outbox::default();
    push(&mut o, QoS::AtLeastOnce, "a");
    push(&mut o, QoS::ExactlyOnce, "b");
    take(&mut o, 10);
    assert_eq!(o.received(1), None, "PUBREC for QoS 1");
    assert_eq!(o.completed(1), None);
    assert_eq!(o.acknowledged(2, QoS::AtLeastOnce), None, "PUBACK for QoS 2");
    assert_eq!(o.len(), 2);
}

#[test]
fn over_the_bound_the_oldest_waiting_goes_and_never_what_is_in_flight() {
    let mut o = Outbox::default();
    let bounds = Bounds {
        messages: 3,
        bytes: 1 << 20,
    };
    let push = |o: &mut Outbox, body: &str| o.push(message(body), QoS::AtLeastOnce, false, vec![], None, true, bounds);
    push(&mut o, "a");
    assert_eq!(take(&mut o, 1), sent(&[(1, "a", false)]));
    push(&mut o, "b");
    push(&mut o, "c");
    assert_eq!(
        push(&mut o, "d"),
        Pushed {
            seq: Some(3),
            dropped: vec![1]
        }
    );
    assert_eq!(
        push(&mut o, "e"),
        Pushed {
            seq: Some(4),
            dropped: vec![2]
        }
    );
    assert_eq!(take(&mut o, 10), sent(&[(4, "d", false), (5, "e", false)]));
    assert_eq!(
        push(&mut o, "f"),
        Pushed {
            seq: None,
            dropped: vec![]
        },
        "all in flight: the new one goes"
    );

    let cost = message("a").cost();
    let bounds = Bounds {
        messages: 100,
        bytes: 2 * cost,
    };
    let mut o = Outbox::default();
    for expected in [vec![], vec![], vec![0], vec![1]] {
        assert_eq!(
            o.push(message("x"), QoS::AtLeastOnce, false, vec![], None, true, bounds)
                .dropped,
            expected
        );
    }
    assert!(o.bytes() <= bounds.bytes);
}

#[test]
fn what_is_not_durable_waits_and_a_failed_commit_takes_it_out() {
    let mut o = Outbox::default();
    let early = |o: &mut Outbox, body: &str| {
        o.push(message(body), QoS::ExactlyOnce, false, vec![], None, false, WIDE)
            .seq
            .unwrap()
    };
    let (a, b, c) = (early(&mut o, "a"), early(&mut o, "b"), early(&mut o, "c"));
    o.settle(b, true);
    assert_eq!(take(&mut o, 10), sent(&[]), "b is durable, but a comes first");
    o.settle(a, false);
    assert_eq!(take(&mut o, 10), sent(&[(2, "b", false)]));
    o.settle(c, true);
    assert_eq!(take(&mut o, 10), sent(&[(3, "c", false)]));
    o.settle(99, true);
}

#[test]
fn ids_go_round_and_are_never_shared() {
    let mut o = Outbox::default();
    o.restore(65_533, QoS::AtLeastOnce, false, vec![], Some(message("old")), None);
    for body in ["a", "b", "c"] {
        push(&mut o, QoS::AtLeastOnce, body);
    }
    let expected = [
        (65_534, "old", true),
        (65_535, "a", false),
        (1, "b", false),
        (2, "c", false),
    ];
    assert_eq!(take(&mut o, 10), sent(&expected));
    assert_eq!(o.acknowledged(1, QoS::AtLeastOnce), Some(65_535));
    assert_eq!(o.acknowledged(2, QoS::AtLeastOnce), Some(65_536));
    assert_eq!(o.acknowledged(65_535, QoS::AtLeastOnce), Some(65_534));

    // "old" stays unacknowledged while 65,535 others pass: the next would have its id, and waits.
    for n in 65_537..65_533 + IDS_IN_USE {
        let seq = push(&mut o, QoS::AtLeastOnce, "n");
        assert_eq!(seq, n);
        assert_eq!(take(&mut o, 10).len(), 1);
        assert_eq!(o.acknowledged(packet_id(seq), QoS::AtLeastOnce), Some(seq));
    }
    push(&mut o, QoS::AtLeastOnce, "shares the id of old");
    assert_eq!(take(&mut o, 10), sent(&[]));
    assert_eq!(o.acknowledged(65_534, QoS::AtLeastOnce), Some(65_533));
    assert_eq!(take(&mut o, 10), sent(&[(65_534, "shares the id of old", false)]));
}

const IDS_IN_USE: u64 = 65_535;

#[test]
fn messages_expire_while_they_wait_but_not_in_flight() {
    let mut o = Outbox::default();
    let with_life = |o: &mut Outbox, body: &str, at: u64| {
        o.push(
            message(body),
            QoS::AtLeastOnce,
            false,
            vec![],
            Some(Duration::from_secs(at)),
            true,
            WIDE,
        )
    };
    with_life(&mut o, "gone", 100);
    with_life(&mut o, "kept", 130);
    o.push_low(message("low gone"), false, vec![], Some(Duration::from_secs(99)), WIDE);
    let mut out = vec![];
    let taken = o.take(NOW, 10, usize::MAX, &mut out);
    assert_eq!((taken.expired, taken.expired_low), (vec![0], 1));
    let [
        Delivery::Publish {
            pid: 2,
            expiry_left_s: Some(30),
            ..
        },
    ] = out[..]
    else {
        panic!("{out:?}")
    };
    // Sent, and then late: it is repeated all the same, the client may hold half of the exchange.
    o.attach();
    out.clear();
    assert!(
        o.take(NOW + Duration::from_secs(60), 10, usize::MAX, &mut out)
            .expired
            .is_empty()
    );
    assert_eq!(out.len(), 1);
}

#[test]
fn qos0_is_bounded_and_not_kept_for_the_absent() {
    let mut o = Outbox::default();
    let bounds = Bounds {
        messages: 2,
        bytes: 1 << 20,
    };
    let low = |o: &mut Outbox| o.push_low(message("x"), false, vec![], None, bounds);
    assert_eq!([low(&mut o), low(&mut o), low(&mut o)], [true, true, false]);
    assert_eq!(take(&mut o, 0).len(), 2, "QoS 0 needs no window");
    assert!(low(&mut o));
    o.detach();
    assert_eq!(take(&mut o, 10), sent(&[]));
}

#[test]
fn the_budget_stops_a_take_and_says_so() {
    let mut o = Outbox::default();
    for _ in 0..5 {
        push(&mut o, QoS::AtLeastOnce, "0123456789");
    }
    let mut out = vec![];
    assert!(o.take(NOW, 10, 40, &mut out).more);
    assert_eq!(out.len(), 2);
    assert!(!o.take(NOW, 10, usize::MAX, &mut out).more);
    assert_eq!(out.len(), 5);
}

#[test]
fn a_restored_queue_goes_on_where_it_was() {
    let mut o = Outbox::default();
    o.restore(7, QoS::ExactlyOnce, false, vec![], None, None);
    o.restore(9, QoS::AtLeastOnce, true, vec![4], Some(message("m")), None);
    assert_eq!(push(&mut o, QoS::AtLeastOnce, "new"), 10);
    o.attach();
    assert_eq!(
        take(&mut o, 10),
        sent(&[(8, "REL", false), (10, "m", true), (11, "new", false)])
    );
    assert_eq!(o.completed(8), Some(7));
}

#[test]
fn inbound_exchange_table() {
    let mut i = Inbound::default();
    assert_eq!(i.receive(1, 2), Received::New);
    assert_eq!(i.receive(1, 2), Received::Again);
    assert_eq!(i.receive(2, 2), Received::New);
    assert_eq!(i.receive(3, 2), Received::TooMany);
    assert!(i.taken(1));
    // The connection ends: 1 was taken, 2 was not.
    i.drop_unfinished();
    assert_eq!(i.receive(1, 2), Received::Again);
    assert_eq!(i.receive(2, 2), Received::New);
    i.forget(2);
    assert!(!i.taken(2));
    assert!(i.release(1));
    assert!(!i.release(1));
    assert_eq!(i.receive(1, 2), Received::New);
    i.restore(5);
    assert_eq!(i.receive(5, 9), Received::Again);
}
