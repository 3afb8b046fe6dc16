//! Absent sessions end, delayed wills are published, retained messages expire.

use std::time::Duration;

use super::{Core, Effects};
use crate::{persist::Change, router::SessionKey, session::FOREVER, topic};

impl Core {
    /// When `handle_timeout` is next to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Duration> {
        let session = self.due.first().map(|(at, _)| *at);
        // A whole second later, so that many retained messages with one life are looked for once.
        let retained = self.retained_due.map(|at| at + Duration::from_secs(1));
        session.into_iter().chain(retained).min()
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Duration, fx: &mut Effects) {
        while let Some((_, key)) = self.due.first().copied().filter(|(at, _)| *at <= now) {
            self.due.pop_first();
            let Some(session) = self.sessions.get_mut(&key) else {
                continue;
            };
            let ends = session.ends_at.is_some_and(|at| at <= now);
            let will = match session.will_at {
                Some(at) if ends || at <= now => {
                    session.will_at = None;
                    session.will.take()
                }
                _ => None,
            };
            if ends {
                self.end_session(key, fx);
            }
            if let Some(will) = will {
                self.route(now, None, &will.message, fx);
            }
        }
        if self.retained_due.is_some_and(|at| at + Duration::from_secs(1) <= now) {
            fx.changes.extend(
                self.retained
                    .expire(now)
                    .into_iter()
                    .map(|topic| Change::RetainDrop { topic }),
            );
            self.retained_due = self.retained.next_expiry();
        }
    }

    /// The session is absent from now on: notes when it ends, and when its delayed will is due.
    pub(super) fn schedule(&mut self, now: Duration, key: SessionKey) {
        let session = self.session(key);
        session.ends_at = (session.expiry_s != FOREVER).then(|| now + Duration::from_secs(session.expiry_s.into()));
        let times = [session.ends_at, session.will_at];
        self.due.extend(times.into_iter().flatten().map(|at| (at, key)));
    }

    /// The session is back: it does not end, and a will that was still delayed is not published.
    pub(super) fn unschedule(&mut self, key: SessionKey) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        let will_at = session.will_at.take();
        if will_at.is_some() {
            session.will = None;
        }
        for at in [will_at, session.ends_at.take()].into_iter().flatten() {
            self.due.remove(&(at, key));
        }
    }

    /// Removes a session and all that belongs to it.
    pub(super) fn end_session(&mut self, key: SessionKey, fx: &mut Effects) {
        self.unschedule(key);
        let Some(session) = self.sessions.remove(&key) else {
            return;
        };
        self.by_client.remove(&session.client);
        for filter in session.subscriptions.keys() {
            if let Some(parsed) = topic::parse_filter(filter, usize::MAX) {
                self.trie.remove(parsed.path, parsed.group, key);
            }
        }
        self.queued_messages -= session.outbox.len();
        self.queued_bytes -= session.outbox.bytes();
        self.drops.session_ended += session.outbox.len() as u64;
        if session.durable {
            fx.changes.push(Change::SessionDrop { client: session.client });
        }
    }
}
