//! Random lives of a fleet: whatever happened, when the links are back everything is equal and everything is accounted.

use super::world::{Side, World};
use proptest::prelude::*;
use proto::Limits;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Action {
    Put {
        node: usize,
        side: Side,
        key: u8,
        body: u8,
        size: u16,
    },
    Remove {
        node: usize,
        side: Side,
        key: u8,
    },
    Forget {
        node: usize,
        side: Side,
        key: u8,
    },
    Append {
        node: usize,
        stream: u8,
        records: usize,
    },
    ForceOut {
        node: usize,
        stream: u8,
        records: u64,
    },
    Cut {
        node: usize,
    },
    Down {
        node: usize,
    },
    BlackHole {
        node: usize,
    },
    Heal {
        node: usize,
    },
    RebootEdge {
        node: usize,
    },
    RebootHub,
    LoseEdgeDisk {
        node: usize,
    },
    LoseHubDisk,
    Run {
        ms: u64,
    },
}

const NODES: usize = 3;

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Edge), Just(Side::Hub)]
}

fn action() -> impl Strategy<Value = Action> {
    let node = 0..NODES;
    prop_oneof![
        12 => (node.clone(), side(), 0u8..6, 0u8..5, prop_oneof![4 => 0u16..200, 1 => 0u16..20_000])
            .prop_map(|(node, side, key, body, size)| Action::Put { node, side, key, body, size }),
        4 => (node.clone(), side(), 0u8..6).prop_map(|(node, side, key)| Action::Remove { node, side, key }),
        1 => (node.clone(), side(), 0u8..6).prop_map(|(node, side, key)| Action::Forget { node, side, key }),
        5 => (node.clone(), 0u8..3, 1usize..400).prop_map(|(node, stream, records)| Action::Append { node, stream, records }),
        2 => (node.clone(), 0u8..3, 1u64..300).prop_map(|(node, stream, records)| Action::ForceOut { node, stream, records }),
        3 => node.clone().prop_map(|node| Action::Cut { node }),
        2 => node.clone().prop_map(|node| Action::Down { node }),
        2 => node.clone().prop_map(|node| Action::BlackHole { node }),
        3 => node.clone().prop_map(|node| Action::Heal { node }),
        2 => node.clone().prop_map(|node| Action::RebootEdge { node }),
        1 => Just(Action::RebootHub),
        1 => node.prop_map(|node| Action::LoseEdgeDisk { node }),
        1 => Just(Action::LoseHubDisk),
        14 => prop_oneof![3 => 1u64..60, 2 => 60u64..2_000, 1 => 2_000u64..200_000].prop_map(|ms| Action::Run { ms }),
    ]
}

fn act(world: &mut World, action: Action) {
    let key = |key: u8| format!("devices.kubeedge.io/devices/default/d-{key}");
    let stream = |stream: u8| ["audit", "events", "telemetry"][usize::from(stream)];
    match action {
        Action::Put {
            node,
            side,
            key: k,
            body,
            size,
        } => {
            let kind = if body == 4 { "bad" } else { "good" };
            // Different lengths, hard to compress: windows fill.
            let filler: String = (0..u32::from(size))
                .map(|n| char::from(33 + (n * n * 7 + u32::from(body)) as u8 % 90))
                .collect();
            world.put(node, side, &key(k), &format!("{kind}-{body}-{filler}"));
        }
        Action::Remove { node, side, key: k } => world.remove(node, side, &key(k)),
        Action::Forget { node, side, key: k } => world.forget(node, side, &key(k)),
        Action::Append {
            node,
            stream: s,
            records,
        } => world.append(node, stream(s), records),
        Action::ForceOut {
            node,
            stream: s,
            records,
        } => world.force_out(node, stream(s), records),
        Action::Cut { node } => world.cut(node),
        Action::Down { node } => {
            world.cut(node);
            world.nodes[node].up = false;
        }
        Action::BlackHole { node } => world.nodes[node].black_hole = true,
        Action::Heal { node } => world.heal(node),
        Action::RebootEdge { node } => world.reboot(node, Side::Edge),
        Action::RebootHub => world.reboot_hub(),
        Action::LoseEdgeDisk { node } => world.lose_edge_disk(node),
        Action::LoseHubDisk => world.lose_hub_disk(),
        Action::Run { ms } => world.run(Duration::from_millis(ms)),
    }
}

fn live(actions: Vec<Action>, limits: Limits, edge_window: usize) {
    let mut world = World::new(NODES);
    (world.limits, world.edge_window) = (limits, edge_window);
    for action in actions {
        act(&mut world, action);
    }
    for node in 0..NODES {
        world.heal(node);
    }
    world.rest();
    world.check();
    // At rest means at rest: an hour later only heartbeats have been said.
    let before: Vec<_> = world.nodes.iter().map(|node| node.sent.clone()).collect();
    world.run(Duration::from_secs(3600));
    for (node, before) in world.nodes.iter().zip(before) {
        for (kind, count) in &node.sent {
            assert!(
                *kind == "heartbeat" || before.get(kind) == Some(count),
                "{kind} frames at rest"
            );
        }
    }
    world.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn ends_equal_and_accounted(actions in prop::collection::vec(action(), 1..60)) {
        live(actions, Limits::default(), proto::limits::WINDOW_BYTES);
    }

    #[test]
    fn ends_equal_and_accounted_with_narrow_windows(actions in prop::collection::vec(action(), 1..60)) {
        let limits = Limits { window: 16 << 10, journal_window: 16 << 10, ..Limits::default() };
        live(actions, limits, 16 << 10);
    }
}
