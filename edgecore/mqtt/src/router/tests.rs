use std::{collections::BTreeSet, sync::Arc, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::packet::{Properties, Publish, QoS, SubscriptionOptions};

fn subscriber(session: u64) -> Subscriber {
    Subscriber {
        session: SessionKey(session),
        options: SubscriptionOptions::plain(QoS::AtLeastOnce),
    }
}

fn hits(trie: &Trie, topic: &str) -> Vec<u64> {
    let mut found = vec![];
    trie.for_each(topic, &|_| true, &mut |s| found.push(s.session.0));
    found.sort_unstable();
    found
}

/// The definition in the standard, word by word and slow.
fn naive(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) => true,
        ([], []) => true,
        (["+", f @ ..], [_, t @ ..]) => naive(f, t),
        ([level, f @ ..], [same, t @ ..]) if level == same => naive(f, t),
        _ => false,
    }
}

fn naive_matches(filter: &str, topic: &str) -> bool {
    let dollar = topic.starts_with('$') && filter.starts_with(['+', '#']);
    !dollar
        && naive(
            &filter.split('/').collect::<Vec<_>>(),
            &topic.split('/').collect::<Vec<_>>(),
        )
}

fn topics() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        prop_oneof![Just(""), Just("a"), Just("b"), Just("$x"), Just("ab")],
        1..5,
    )
    .prop_map(|levels| levels.join("/"))
    .prop_filter("a topic is not empty", |topic| !topic.is_empty())
}

fn filters() -> impl Strategy<Value = String> {
    let level = prop_oneof![
        Just(""),
        Just("a"),
        Just("b"),
        Just("$x"),
        Just("+"),
        Just("+"),
        Just("ab")
    ];
    (proptest::collection::vec(level, 1..5), any::<bool>()).prop_map(|(mut levels, all)| {
        if all {
            levels.push("#");
            // `#` alone must come up too.
            if levels[0].is_empty() {
                levels = vec!["#"];
            }
        }
        levels.join("/")
    })
}

proptest! {
    #[test]
    fn trie_agrees_with_the_definition(
        filters in proptest::collection::vec(filters().prop_filter("not empty", |f| !f.is_empty()), 1..12),
        removed in proptest::collection::vec(any::<bool>(), 12),
        topics in proptest::collection::vec(topics(), 1..12),
    ) {
        let mut trie = Trie::default();
        let mut live = BTreeSet::new();
        for (index, filter) in filters.iter().enumerate() {
            prop_assert!(trie.insert(filter, None, subscriber(index as u64)));
            live.insert(index as u64);
        }
        for (index, filter) in filters.iter().enumerate() {
            if removed[index] {
                prop_assert!(trie.remove(filter, None, SessionKey(index as u64)));
                prop_assert!(!trie.remove(filter, None, SessionKey(index as u64)));
                live.remove(&(index as u64));
            }
        }
        prop_assert_eq!(trie.len(), live.len());
        for topic in &topics {
            let expected: Vec<u64> =
                live.iter().copied().filter(|i| naive_matches(&filters[*i as usize], topic)).collect();
            prop_assert_eq!(hits(&trie, topic), expected.clone(), "topic {}", topic);
            prop_assert_eq!(trie.any(topic), !expected.is_empty());
            for filter in &filters {
                prop_assert_eq!(crate::topic::matches(filter, topic), naive_matches(filter, topic));
            }
        }
        for index in live {
            trie.remove(&filters[index as usize], None, SessionKey(index));
        }
        prop_assert!(format!("{trie:?}") == format!("{:?}", Trie::default()), "nodes are left: {trie:?}");
    }

    #[test]
    fn retained_lookup_agrees_with_the_definition(
        topics in proptest::collection::btree_set(topics(), 1..20),
        filter in filters().prop_filter("not empty", |f| !f.is_empty()),
    ) {
        let mut retained = Retained::new(100, 1 << 20);
        for topic in &topics {
            retained.set(&Arc::new(Publish::new(topic.as_str(), "x")), Duration::ZERO);
        }
        let found: Vec<String> =
            retained.matching(&filter, Duration::ZERO).iter().map(|(m, _)| m.topic.to_string()).collect();
        let expected: Vec<String> = topics.iter().filter(|t| naive_matches(&filter, t)).cloned().collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn replacing_a_subscription_keeps_one() {
    let mut trie = Trie::default();
    assert!(trie.insert("a", None, subscriber(1)));
    let mut better = subscriber(1);
    better.options.qos = QoS::ExactlyOnce;
    assert!(!trie.insert("a", None, better));
    let mut seen = vec![];
    trie.for_each("a", &|_| true, &mut |s| seen.push(s.options.qos));
    assert_eq!(seen, [QoS::ExactlyOnce]);
}

#[test]
fn shared_groups_take_turns_and_prefer_who_is_there() {
    let mut trie = Trie::default();
    for session in 1..=3 {
        trie.insert("a/+", Some("g"), subscriber(session));
    }
    trie.insert("a/+", Some("h"), subscriber(9));
    trie.insert("a/b", None, subscriber(1));
    let turns: Vec<_> = (0..4).map(|_| hits(&trie, "a/b")).collect();
    assert_eq!(turns, [[1, 1, 9], [1, 2, 9], [1, 3, 9], [1, 1, 9]]);

    let mut with_2_only = vec![];
    for _ in 0..2 {
        trie.for_each("a/x", &|s| s == SessionKey(2), &mut |s| with_2_only.push(s.session.0));
    }
    assert_eq!(with_2_only, [2, 9, 2, 9]);
    // Nobody there: still someone's queue gets it.
    let mut nobody = 0;
    trie.for_each("a/x", &|_| false, &mut |_| nobody += 1);
    assert_eq!(nobody, 2);

    for session in 1..=3 {
        assert!(trie.remove("a/+", Some("g"), SessionKey(session)));
    }
    assert_eq!(hits(&trie, "a/b"), [1, 9]);
}

#[test]
fn retained_is_bounded_replaced_cleared_and_expires() {
    let mut retained = Retained::new(2, 10_000);
    let message = |topic: &str, body: &'static str| Arc::new(Publish::new(topic, body));
    assert_eq!(retained.set(&message("a", "1"), Duration::ZERO), Stored::Yes);
    assert_eq!(retained.set(&message("b", "1"), Duration::ZERO), Stored::Yes);
    assert_eq!(retained.set(&message("c", "1"), Duration::ZERO), Stored::Full);
    assert_eq!(retained.set(&message("a", "2"), Duration::ZERO), Stored::Yes);
    assert_eq!(&retained.matching("a", Duration::ZERO)[0].0.payload[..], b"2");
    assert_eq!(retained.set(&message("a", ""), Duration::ZERO), Stored::Cleared);
    assert_eq!(retained.set(&message("a", ""), Duration::ZERO), Stored::Nothing);

    let big = Arc::new(Publish::new("big", vec![0; 20_000]));
    assert_eq!(retained.set(&big, Duration::ZERO), Stored::Full);

    let mut mortal = Publish::new("m", "x");
    mortal.properties = Some(Arc::new(Properties {
        expiry_s: Some(10),
        ..Properties::default()
    }));
    assert_eq!(retained.set(&Arc::new(mortal), Duration::from_secs(5)), Stored::Yes);
    assert_eq!(retained.matching("m", Duration::from_secs(14)).len(), 1);
    assert_eq!(retained.matching("m", Duration::from_secs(15)).len(), 0);
    assert_eq!(retained.expire(Duration::from_secs(14)).len(), 0);
    assert_eq!(retained.expire(Duration::from_secs(15)), [Arc::from("m")]);
    assert_eq!((retained.len(), retained.bytes()), (1, message("b", "1").cost()));
}
