//! Entry points for fuzzers: arbitrary bytes in, no panic and nothing beyond the caps out. Run by the tests over `fuzz-corpus/` and over
//! random bytes. Not part of the API.

use crate::wire::frame::Kind;
use crate::{Applied, Codec, EdgeConfig, Event, HubConfig, Inventory, JoinToken, Now, Session, SourceSet, join};
use bytes::BytesMut;

/// Any bytes as a stream of frames: what decodes encodes to something that decodes to the same.
pub fn frame(data: &[u8]) {
    let mut input = BytesMut::from(data);
    while let Ok(Some(frame)) = Codec::default().decode(&mut input) {
        let mut again = BytesMut::new();
        Codec::default()
            .encode(&frame, &mut again)
            .expect("a frame that was decoded is within the caps");
        // Its fields may be in another order and its numbers shorter, but it means the same.
        assert_eq!(
            Codec::default().decode(&mut again).ok().flatten().as_ref(),
            Some(&frame)
        );
        drop((
            join::JoinRequest::from_frame(frame.clone()),
            join::JoinResponse::from_frame(frame),
        ));
    }
}

/// Any bytes as a token: what parses is printed as something that parses to the same.
pub fn token(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(token) = text.parse::<JoinToken>() {
        assert_eq!(token.to_string().parse().as_ref(), Ok(&token));
    }
    drop(format!("kj1.{text}").parse::<JoinToken>());
}

/// Any bytes as what a peer says in an established session, for both roles.
pub fn session(data: &[u8]) {
    for hub in [false, true] {
        let (mut session, start) = established(hub);
        let mut input = BytesMut::from(data);
        let mut now = start;
        while let Ok(Some(frame)) = Codec::default().decode(&mut input) {
            now += Now::from_millis(10);
            if matches!(frame.kind, Some(Kind::Goodbye(_))) {
                continue;
            }
            let ended = session.handle_frame(now, frame).is_err();
            drain(&mut session);
            if ended {
                break;
            }
        }
        // Whatever was said, time goes on and the session still answers or ends.
        for _ in 0..8 {
            let Some(at) = session.poll_timeout() else { break };
            now = now.max(at);
            let ended = session.handle_timeout(now).is_err();
            drain(&mut session);
            assert!(!ended || session.is_ended());
        }
    }
}

/// A session after its handshake, with something in its sets and in flight.
fn established(hub: bool) -> (Session, Now) {
    let entries = || (0..20).map(|n| (format!("/things/default/t-{n:02}"), format!("{{\"n\":{n}}}").repeat(20)));
    let source: SourceSet = entries().collect();
    let mut edge_config = EdgeConfig::new("gw-1", 1, 1);
    edge_config.journals = vec![crate::JournalCursor::new("telemetry", 9)];
    let now = Now::from_secs(1);
    let mut edge = Session::edge(edge_config, source.clone(), Inventory::new(), now);
    let mut center = Session::hub(HubConfig::new("hub", 1), "gw-1", now);
    let hello = edge.poll_transmit().expect("a gateway begins with Hello");
    center.handle_frame(now, hello).expect("a Hello of ours is accepted");
    drain(&mut center);
    center.accept(now, source, Inventory::new(), Vec::new());
    let welcome = center.poll_transmit().expect("accept sends Welcome");
    edge.handle_frame(now, welcome).expect("a Welcome of ours is accepted");
    let mut session = if hub { center } else { edge };
    drain(&mut session);
    (session, now)
}

/// Does what an application does, at once.
fn drain(session: &mut Session) {
    for _ in 0..10_000 {
        let mut idle = session.poll_transmit().is_none();
        if let Some(event) = session.poll_event() {
            idle = false;
            match event {
                Event::Apply { batch, changes } => {
                    let refused = changes.first().map(|change| (change.key.clone(), "fuzz".to_owned()));
                    session.applied(
                        batch,
                        Applied {
                            refused: refused.into_iter().collect(),
                        },
                    );
                }
                Event::NeedJournal { stream, from, .. } => {
                    session.journal_read(&stream, from, vec![b"record"[..].into()])
                }
                Event::Journal {
                    stream,
                    first_seq,
                    records,
                } => {
                    session.journal_stored(&stream, first_seq + records.len() as u64 - 1);
                }
                Event::JournalDropped { stream, to, .. } => session.journal_stored(&stream, to),
                _ => {}
            }
        }
        if idle {
            return;
        }
    }
    panic!("the session never comes to rest");
}
