//! What an idle session costs a hub that has thousands of them. Its own test binary, so that nothing else is in the process.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proto::{EdgeConfig, HubConfig, Inventory, Key, Now, Session, SourceSet, StoredCursor, entry_hash};

const SESSIONS: usize = 10_000;

#[cfg(target_os = "linux")]
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Ten thousand hub sessions that have exchanged ten objects each way and came to rest.
#[cfg(target_os = "linux")]
#[test]
fn ten_thousand_idle_sessions_are_small() {
    let now = Now::from_secs(1);
    let keys: Vec<Key> = (0..10)
        .map(|n| Key::from(format!("devices.kubeedge.io/devices/default/device-{n:02}")))
        .collect();
    let body = Bytes::from(vec![b'x'; 1000]);
    let before = resident();
    let mut sessions = Vec::new();
    for n in 0..SESSIONS {
        let node = format!("gw-{n:05}");
        let entries = || keys.iter().map(|key| (key.clone(), body.clone()));
        let mut edge = Session::edge(
            EdgeConfig::new(node.clone(), 1, 1),
            entries().collect(),
            Inventory::new(),
            now,
        );
        let mut hub = Session::hub(HubConfig::new("hub", 1), &node, now);
        hub.handle_frame(now, edge.poll_transmit().unwrap()).unwrap();
        let cursor = StoredCursor {
            stream: "telemetry".into(),
            instance: 1,
            cursor: 9,
            dropped: 0,
        };
        hub.accept(now, entries().collect::<SourceSet>(), Inventory::new(), vec![cursor]);
        loop {
            let (down, up) = (hub.poll_transmit(), edge.poll_transmit());
            let events = [&mut hub, &mut edge].map(|session| {
                let event = session.poll_event();
                if let Some(proto::Event::Apply { batch, .. }) = &event {
                    session.applied(*batch, Default::default());
                }
                event.is_some()
            });
            if down.is_none() && up.is_none() && events == [false, false] {
                break;
            }
            down.into_iter()
                .for_each(|frame| edge.handle_frame(now, frame).unwrap());
            up.into_iter().for_each(|frame| hub.handle_frame(now, frame).unwrap());
        }
        assert!(hub.digests().in_sync);
        assert_eq!(hub.inventory().held(&keys[0]), Some(entry_hash(&keys[0], &body)));
        sessions.push(hub);
    }
    let each = (resident() - before) / SESSIONS;
    println!(
        "session struct {} B, with ten objects each way {each} B",
        size_of::<Session>()
    );
    assert!(size_of::<Session>() <= 2048, "{}", size_of::<Session>());
    assert!(each <= 8 << 10, "{each} bytes for each idle session");
}
