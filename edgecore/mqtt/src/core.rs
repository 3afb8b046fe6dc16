//! The broker without its sockets: every session, the router over them, and what each event does to both.
//!
//! Owned by `hub`, which calls it under one lock and does what the returned [`Effects`] say: commit the changes, settle
//! the entries that waited for the commit. Never does I/O and takes time as an argument, counted from the broker's start.
//!
//! A call for a connection that was taken over, or for a session that is gone, does nothing: [`Gone`].

mod subscribe;
mod timers;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use crate::{
    config::Limits,
    link::{Kick, Link},
    packet::{Delivery, Publish, QoS, Reason, Will},
    persist::{Change, Queued, State},
    router::{Retained, SessionKey, Stored, Subscriber, Trie},
    session::{Attached, Bounds, Received, Session},
    topic,
};

/// The session belongs to another connection now, or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// What a step asks of the outside.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// To be committed together, before anyone is told.
    pub(crate) changes: Vec<Change>,
    /// Queue entries to settle when the commit has ended.
    pub(crate) waiting: Vec<(SessionKey, u64)>,
}

/// Counts of what was not delivered, and why. Nothing is dropped without being counted here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// QoS 0 for a client that reads too slowly.
    pub qos0_slow: u64,
    /// QoS 1 or 2 over the bounds of a session's queue.
    pub queue_full: u64,
    /// The message's life ended before it was sent.
    pub expired: u64,
    /// Larger than the receiving client takes.
    pub too_large: u64,
    /// Not retained, over the bounds for retained messages.
    pub retained_full: u64,
    /// Waiting in a session that ended.
    pub session_ended: u64,
}

/// One connection of one session: what every call on its behalf names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) session: SessionKey,
    pub(crate) connection: u64,
}

/// A CONNECT that passed authentication.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) client: Arc<str>,
    pub(crate) clean_start: bool,
    /// Seconds the session outlives the connection, after the configured cap.
    pub(crate) expiry_s: u32,
    pub(crate) receive_maximum: Option<u16>,
    pub(crate) will: Option<Will>,
    pub(crate) link: Arc<Link>,
}

#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) handle: Handle,
    pub(crate) session_present: bool,
    /// Filters of the resumed session.
    pub(crate) resumed: Vec<Arc<str>>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Departure {
    /// DISCONNECT; with an MQTT 5 client's last word on the session expiry.
    Clean { with_will: bool, expiry_s: Option<u32> },
    /// Anything else: the will is published.
    Lost,
    /// The broker stops: the client did nothing wrong, its will is not published.
    Shutdown,
}

#[derive(Debug)]
pub(crate) struct Core {
    limits: Limits,
    sessions: HashMap<SessionKey, Session>,
    by_client: HashMap<Arc<str>, SessionKey>,
    trie: Trie,
    retained: Retained,
    /// When something is due for an absent session.
    due: BTreeSet<(Duration, SessionKey)>,
    retained_due: Option<Duration>,
    next_session: u64,
    next_connection: u64,
    queued_bytes: usize,
    queued_messages: usize,
    drops: Drops,
    /// Reused by `route`.
    targets: Vec<Subscriber>,
}

impl Core {
    pub(crate) fn new(limits: Limits) -> Self {
        let retained = Retained::new(limits.retained_messages, limits.retained_bytes);
        Self {
            limits,
            sessions: HashMap::new(),
            by_client: HashMap::new(),
            trie: Trie::default(),
            retained,
            due: BTreeSet::new(),
            retained_due: None,
            next_session: 1,
            next_connection: 1,
            queued_bytes: 0,
            queued_messages: 0,
            drops: Drops::default(),
            targets: Vec::new(),
        }
    }

    /// Takes over what was durable at the last stop. All sessions start absent.
    pub(crate) fn restore(&mut self, now: Duration, state: State) {
        for message in state.retained {
            self.retain(now, &message);
        }
        for saved in state.sessions {
            let key = self.add_session(Session::new(saved.client, saved.expiry_s));
            self.session(key).durable = true;
            for (filter, options) in saved.subscriptions {
                if let Some(parsed) = topic::parse_filter(&filter, usize::MAX) {
                    self.trie
                        .insert(parsed.path, parsed.group, Subscriber { session: key, options });
                    self.session(key).subscriptions.insert(filter, options);
                }
            }
            for queued in saved.queue {
                let Queued {
                    seq,
                    qos,
                    retain,
                    ids,
                    message,
                } = queued;
                let expires = message.as_ref().and_then(|m| expires(m, now));
                self.with_outbox(key, |outbox| outbox.restore(seq, qos, retain, ids, message, expires));
            }
            for pid in saved.inbound {
                self.session(key).inbound.restore(pid);
            }
            self.schedule(now, key);
        }
    }

    /// A client connects. An older connection of the same client id is taken over.
    pub(crate) fn connect(&mut self, now: Duration, arrival: Arrival, fx: &mut Effects) -> Result<Arrived, Reason> {
        let expiry_s = arrival.expiry_s;
        let mut present = self.by_client.get(&arrival.client).copied();
        if let Some(key) = present {
            if let Some(attached) = &self.session(key).attached {
                let handle = Handle {
                    session: key,
                    connection: attached.connection,
                };
                attached.link.kick(Kick::TakenOver);
                self.disconnect(now, handle, Departure::Lost, fx);
            }
            // A session that a clean start ends takes its delayed will into the open; one that is resumed keeps silent.
            if arrival.clean_start
                && let Some(will) = self
                    .sessions
                    .get_mut(&key)
                    .filter(|s| s.will_at.is_some())
                    .and_then(|s| s.will.take())
            {
                self.route(now, None, &will.message, fx);
            }
            self.unschedule(key);
            present = self.by_client.get(&arrival.client).copied();
        }
        if let Some(key) = present.filter(|_| arrival.clean_start) {
            self.end_session(key, fx);
            present = None;
        }
        let key = match present {
            Some(key) => key,
            None if self.sessions.len() >= self.limits.sessions => return Err(Reason::QuotaExceeded),
            None => self.add_session(Session::new(arrival.client.clone(), 0)),
        };
        let connection = self.next_connection;
        self.next_connection += 1;
        let window = usize::from(
            arrival
                .receive_maximum
                .unwrap_or(u16::MAX)
                .min(self.limits.inflight)
                .max(1),
        );

        let session = self.session(key);
        let changed = session.expiry_s != expiry_s;
        session.expiry_s = expiry_s;
        session.durable = expiry_s > 0;
        session.will = arrival.will;
        session.outbox.attach();
        arrival.link.wake();
        session.attached = Some(Attached {
            connection,
            link: arrival.link,
            window,
        });
        let resumed = session.subscriptions.keys().cloned().collect();
        if changed && expiry_s > 0 {
            fx.changes.push(Change::SessionPut {
                client: arrival.client,
                expiry_s,
            });
        } else if changed {
            // It was persistent and will end with this connection: nothing of it needs to be on disk any more.
            fx.changes.push(Change::SessionDrop { client: arrival.client });
        }
        let handle = Handle {
            session: key,
            connection,
        };
        Ok(Arrived {
            handle,
            session_present: present.is_some(),
            resumed,
        })
    }

    /// The commit of a CONNECT failed: a session it made does not exist.
    pub(crate) fn connect_failed(&mut self, now: Duration, arrived: &Arrived) {
        let mut nothing_to_store = Effects::default();
        if !arrived.session_present && self.attached(arrived.handle).is_ok() {
            self.end_session(arrived.handle.session, &mut nothing_to_store);
        } else {
            self.disconnect(now, arrived.handle, Departure::Shutdown, &mut nothing_to_store);
        }
    }

    /// A connection ended. Does nothing for one that was taken over.
    pub(crate) fn disconnect(&mut self, now: Duration, handle: Handle, how: Departure, fx: &mut Effects) {
        let key = handle.session;
        let longest = self.limits.session_expiry_s();
        let Ok(session) = self.attached(handle) else { return };
        session.attached = None;
        session.inbound.drop_unfinished();
        let will = session.will.take();
        if let Departure::Clean {
            expiry_s: Some(expiry_s),
            ..
        } = how
        {
            let expiry_s = expiry_s.min(longest);
            // A session that was to end with its connection cannot be made to last now.
            if session.expiry_s > 0 && session.expiry_s != expiry_s {
                session.expiry_s = expiry_s;
                // With 0 the session ends below.
                if expiry_s > 0 {
                    fx.changes.push(Change::SessionPut {
                        client: session.client.clone(),
                        expiry_s,
                    });
                }
            }
        }
        self.with_outbox(key, |outbox| outbox.detach());
        let ends = self.session(key).expiry_s == 0;
        let wanted = match how {
            Departure::Clean { with_will, .. } => with_will,
            Departure::Lost => true,
            Departure::Shutdown => false,
        };
        if ends {
            self.end_session(key, fx);
        }
        let Some(will) = will.filter(|_| wanted) else {
            if !ends {
                self.schedule(now, key);
            }
            return;
        };
        if ends || will.delay_s == 0 {
            self.route(now, None, &will.message, fx);
        } else {
            let session = self.session(key);
            session.will_at = Some(now + Duration::from_secs(will.delay_s.into()));
            session.will = Some(will);
        }
        if !ends {
            self.schedule(now, key);
        }
    }

    /// Is a QoS 2 message new? To be asked for each before anything is done with it.
    pub(crate) fn receive_qos2(&mut self, handle: Handle, pid: u16) -> Result<Received, Gone> {
        let max = self.limits.inbound_qos2;
        Ok(self.attached(handle)?.inbound.receive(pid, max))
    }

    /// A QoS 2 message was taken for good: its packet id is remembered.
    pub(crate) fn qos2_taken(&mut self, key: SessionKey, pid: u16, fx: &mut Effects) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        if session.inbound.taken(pid) && session.durable {
            fx.changes.push(Change::InboundPut {
                client: session.client.clone(),
                pid,
            });
        }
    }

    /// A QoS 2 message was not taken after all.
    pub(crate) fn qos2_forget(&mut self, key: SessionKey, pid: u16) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.inbound.forget(pid);
        }
    }

    /// PUBREL from the client; `false` if the packet id is not known.
    pub(crate) fn release_qos2(&mut self, handle: Handle, pid: u16, fx: &mut Effects) -> Result<bool, Gone> {
        let session = self.attached(handle)?;
        let known = session.inbound.release(pid);
        if known && session.durable {
            fx.changes.push(Change::InboundDrop {
                client: session.client.clone(),
                pid,
            });
        }
        Ok(known)
    }

    /// Sends a message to all who subscribed, and retains it if it asks for that.
    pub(crate) fn route(&mut self, now: Duration, from: Option<SessionKey>, message: &Publish, fx: &mut Effects) {
        let mut targets = std::mem::take(&mut self.targets);
        if self.trie.len() > 0 {
            let sessions = &self.sessions;
            let ready = |key: SessionKey| sessions.get(&key).is_some_and(|s| s.attached.is_some());
            self.trie.for_each(&message.topic, &ready, &mut |subscriber| {
                if !(subscriber.options.no_local && from == Some(subscriber.session)) {
                    targets.push(*subscriber);
                }
            });
        }
        if message.retain || !targets.is_empty() {
            let message = Arc::new(message.detached());
            if message.retain {
                fx.changes.extend(self.retain(now, &message));
            }
            // Overlapping subscriptions of one session: one message, with the best of their quality of service.
            targets.sort_unstable_by_key(|t| t.session);
            for same in targets.chunk_by(|a, b| a.session == b.session) {
                let qos = same
                    .iter()
                    .map(|t| t.options.qos)
                    .max()
                    .unwrap_or(QoS::AtMostOnce)
                    .min(message.qos);
                let retain = message.retain && same.iter().any(|t| t.options.retain_as_published);
                let ids = same.iter().filter_map(|t| t.options.id).collect();
                let expires = expires(&message, now);
                self.deliver(same[0].session, &message, qos, retain, ids, expires, fx);
            }
        }
        targets.clear();
        self.targets = targets;
    }

    fn retain(&mut self, now: Duration, message: &Arc<Publish>) -> Option<Change> {
        match self.retained.set(message, now) {
            Stored::Yes => {
                if let Some(at) = expires(message, now) {
                    self.retained_due = Some(self.retained_due.map_or(at, |due| due.min(at)));
                }
                Some(Change::RetainPut {
                    message: message.clone(),
                })
            }
            Stored::Cleared => Some(Change::RetainDrop {
                topic: message.topic.clone(),
            }),
            Stored::Nothing => None,
            Stored::Full => {
                self.drops.retained_full += 1;
                None
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn deliver(
        &mut self,
        key: SessionKey,
        message: &Arc<Publish>,
        qos: QoS,
        retain: bool,
        ids: Vec<u32>,
        expires: Option<Duration>,
        fx: &mut Effects,
    ) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        if qos == QoS::AtMostOnce {
            if session.attached.is_some() {
                let bounds = Bounds {
                    messages: self.limits.qos0_messages,
                    bytes: self.limits.qos0_bytes,
                };
                if session.outbox.push_low(message.clone(), retain, ids, expires, bounds) {
                    session.wake();
                } else {
                    self.drops.qos0_slow += 1;
                }
            }
            return;
        }
        let durable = session.durable;
        // What the other sessions hold is off the total; this one's own may be replaced.
        let own = session.outbox.bytes();
        let total_left = self.limits.queue_total_bytes.saturating_sub(self.queued_bytes - own);
        let bounds = Bounds {
            messages: self.limits.queue_messages,
            bytes: self.limits.queue_bytes.min(total_left),
        };
        let (message, record_ids) = (message.clone(), if durable { ids.clone() } else { vec![] });
        let pushed = self.with_outbox(key, |outbox| {
            outbox.push(message.clone(), qos, retain, ids, expires, !durable, bounds)
        });
        self.drops.queue_full += pushed.dropped.len() as u64 + u64::from(pushed.seq.is_none());
        let session = self.session(key);
        if !durable {
            session.wake();
            return;
        }
        let client = session.client.clone();
        let gone = pushed.dropped.into_iter().map(|seq| Change::Dequeue {
            client: client.clone(),
            seq,
        });
        fx.changes.extend(gone);
        if let Some(seq) = pushed.seq {
            let queued = Queued {
                seq,
                qos,
                retain,
                ids: record_ids,
                message: Some(message),
            };
            fx.changes.push(Change::Enqueue { client, queued });
            fx.waiting.push((key, seq));
        }
    }

    /// The commit of these entries ended.
    pub(crate) fn settle(&mut self, waiting: &[(SessionKey, u64)], ok: bool) {
        for (key, seq) in waiting {
            if self.sessions.contains_key(key) {
                self.with_outbox(*key, |outbox| outbox.settle(*seq, ok));
                self.session(*key).wake();
            }
        }
    }

    /// What the connection may send now. `true`: there is more than `budget` bytes.
    pub(crate) fn take(
        &mut self,
        now: Duration,
        handle: Handle,
        budget: usize,
        out: &mut Vec<Delivery>,
        fx: &mut Effects,
    ) -> Result<bool, Gone> {
        let window = {
            let session = self.attached(handle)?;
            session.attached.as_ref().map_or(0, |a| a.window)
        };
        let taken = self.with_outbox(handle.session, |outbox| outbox.take(now, window, budget, out));
        self.drops.expired += taken.expired.len() as u64 + taken.expired_low;
        let session = self.session(handle.session);
        if session.durable {
            let client = session.client.clone();
            fx.changes.extend(taken.expired.into_iter().map(|seq| Change::Dequeue {
                client: client.clone(),
                seq,
            }));
        }
        Ok(taken.more)
    }

    /// PUBACK from the client.
    pub(crate) fn acknowledged(&mut self, handle: Handle, pid: u16, fx: &mut Effects) -> Result<(), Gone> {
        self.attached(handle)?;
        let done = self.with_outbox(handle.session, |outbox| outbox.acknowledged(pid, QoS::AtLeastOnce));
        self.dequeued(handle.session, done, fx);
        Ok(())
    }

    /// PUBREC from the client; whether PUBREL is the answer to a message in flight.
    pub(crate) fn received(&mut self, handle: Handle, pid: u16, failed: bool, fx: &mut Effects) -> Result<bool, Gone> {
        let session = self.attached(handle)?;
        let (client, durable) = (session.client.clone(), session.durable);
        if failed {
            let done = self.with_outbox(handle.session, |outbox| outbox.acknowledged(pid, QoS::ExactlyOnce));
            self.dequeued(handle.session, done, fx);
            return Ok(true);
        }
        let released = self.with_outbox(handle.session, |outbox| outbox.received(pid));
        if let Some(seq) = released.filter(|_| durable) {
            fx.changes.push(Change::Released { client, seq });
        }
        Ok(released.is_some())
    }

    /// PUBCOMP from the client.
    pub(crate) fn completed(&mut self, handle: Handle, pid: u16, fx: &mut Effects) -> Result<(), Gone> {
        self.attached(handle)?;
        let done = self.with_outbox(handle.session, |outbox| outbox.completed(pid));
        self.dequeued(handle.session, done, fx);
        Ok(())
    }

    /// A message turned out to be larger than the client takes: it counts as done.
    pub(crate) fn too_large(&mut self, handle: Handle, pid: u16, qos: QoS, fx: &mut Effects) {
        self.drops.too_large += 1;
        if qos != QoS::AtMostOnce && self.attached(handle).is_ok() {
            let done = self.with_outbox(handle.session, |outbox| outbox.acknowledged(pid, qos));
            self.dequeued(handle.session, done, fx);
        }
    }

    fn dequeued(&mut self, key: SessionKey, done: Option<u64>, fx: &mut Effects) {
        let Some(seq) = done else { return };
        let session = self.session(key);
        if session.durable {
            fx.changes.push(Change::Dequeue {
                client: session.client.clone(),
                seq,
            });
        }
        // The window moved.
        session.wake();
    }

    /// Is anyone subscribed to this topic, connected or with a session that waits?
    pub(crate) fn has_subscribers(&self, topic: &str) -> bool {
        self.trie.any(topic)
    }

    /// Ends the connection of this client, if it has one; its session stays.
    pub(crate) fn expel(&self, client: &str) -> bool {
        let link = self
            .by_client
            .get(client)
            .and_then(|key| self.sessions.get(key))
            .and_then(|s| s.attached.as_ref());
        link.inspect(|attached| attached.link.kick(Kick::Expelled)).is_some()
    }

    /// Ends all connections.
    pub(crate) fn kick_all(&self) {
        for attached in self.sessions.values().filter_map(|s| s.attached.as_ref()) {
            attached.link.kick(Kick::Shutdown);
        }
    }

    pub(crate) fn drops(&self) -> Drops {
        self.drops
    }

    pub(crate) fn figures(&self) -> Figures {
        Figures {
            sessions: self.sessions.len(),
            subscriptions: self.trie.len(),
            retained: self.retained.len(),
            queued_messages: self.queued_messages,
            queued_bytes: self.queued_bytes,
        }
    }

    fn add_session(&mut self, session: Session) -> SessionKey {
        let key = SessionKey(self.next_session);
        self.next_session += 1;
        self.by_client.insert(session.client.clone(), key);
        self.sessions.insert(key, session);
        key
    }

    /// Only for keys that are known to exist: found in `by_client` or checked just before.
    fn session(&mut self, key: SessionKey) -> &mut Session {
        self.sessions
            .get_mut(&key)
            .expect("the caller checked that the session exists")
    }

    fn attached(&mut self, handle: Handle) -> Result<&mut Session, Gone> {
        let session = self.sessions.get_mut(&handle.session).ok_or(Gone)?;
        match &session.attached {
            Some(attached) if attached.connection == handle.connection => Ok(session),
            _ => Err(Gone),
        }
    }

    /// Every change of an outbox goes through here, so that the totals stay right.
    fn with_outbox<R>(&mut self, key: SessionKey, f: impl FnOnce(&mut crate::session::Outbox) -> R) -> R {
        let outbox = &mut self
            .sessions
            .get_mut(&key)
            .expect("the caller checked that the session exists")
            .outbox;
        let before = (outbox.len(), outbox.bytes());
        let result = f(outbox);
        self.queued_messages = self.queued_messages + outbox.len() - before.0;
        self.queued_bytes = self.queued_bytes + outbox.bytes() - before.1;
        result
    }
}

/// Sizes for `stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) sessions: usize,
    pub(crate) subscriptions: usize,
    pub(crate) retained: usize,
    pub(crate) queued_messages: usize,
    pub(crate) queued_bytes: usize,
}

/// When a message is no longer worth delivering.
fn expires(message: &Publish, now: Duration) -> Option<Duration> {
    message.expiry_s().map(|s| now + Duration::from_secs(s.into()))
}
