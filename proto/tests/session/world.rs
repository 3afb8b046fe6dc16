//! A hub, its gateways, their disks and the links between them, in virtual time.
//!
//! Every frame goes through the codec as bytes. Applications behave as the real ones: a batch is applied to a durable map some time
//! after it came, a body with "bad" in it is refused, records are read from a store on request. What must hold at every moment is
//! checked as it happens; [`World::check`] holds the rest after the world has come to rest.

use bytes::{Bytes, BytesMut};
use proto::wire::{Frame, frame::Kind};
use proto::{
    Applied, Change, CloseReason, Codec, DropReason, DroppedRange, EdgeConfig, Event, Hash, HubConfig, Inventory,
    JournalCursor, Key, Limits, Now, Session, SessionError, SourceSet, StoredCursor, entry_hash,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

pub(crate) const LATENCY: Duration = Duration::from_millis(20);
pub(crate) const COMMIT: Duration = Duration::from_millis(5);
pub(crate) const RECONNECT: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Edge,
    Hub,
}

enum Work {
    Batch {
        batch: u64,
        changes: Vec<Change>,
    },
    Records {
        stream: String,
        first: u64,
        records: Vec<Bytes>,
    },
    Gone {
        stream: String,
        from: u64,
        to: u64,
        reason: DropReason,
    },
}

/// What both sides have.
#[derive(Default)]
pub(crate) struct Half {
    pub(crate) session: Option<Session>,
    /// Sets while no session has them; lost with the process.
    ram: Option<(SourceSet, Inventory)>,
    /// Durable: the own objects.
    pub(crate) source: BTreeMap<String, Bytes>,
    /// Durable: what is held of the other's.
    pub(crate) mirror: BTreeMap<Key, (Hash, Bytes)>,
    commits: VecDeque<(Now, Work)>,
    input: BytesMut,
    pub(crate) events: Vec<Event>,
    pub(crate) ended: Vec<SessionError>,
}

#[derive(Clone, Default)]
pub(crate) struct Store {
    pub(crate) accepted: u64,
    pub(crate) trimmed: u64,
    pub(crate) records: BTreeMap<u64, Bytes>,
    pub(crate) dropped: Vec<DroppedRange>,
    pub(crate) priority: u8,
}

#[derive(Default)]
pub(crate) struct Sink {
    pub(crate) records: BTreeMap<u64, Bytes>,
    pub(crate) gone: BTreeMap<u64, DropReason>,
    pub(crate) cursor: u64,
}

pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) edge: Half,
    pub(crate) hub: Half,
    pub(crate) instance: u64,
    pub(crate) boots: u64,
    pub(crate) journal: BTreeMap<String, Store>,
    pub(crate) sink: BTreeMap<(u64, String), Sink>,
    /// All that was ever accepted, to be held against the sink.
    ledger: BTreeMap<(u64, String), BTreeMap<u64, Bytes>>,
    /// What the hub's application knows in this session of how much the gateway accepted.
    pub(crate) told: BTreeMap<String, u64>,
    pub(crate) up: bool,
    /// The link swallows everything and nobody is told.
    pub(crate) black_hole: bool,
    to_edge: VecDeque<(Now, Bytes)>,
    to_hub: VecDeque<(Now, Bytes)>,
    retry_at: Now,
    /// Bytes sent, per kind of frame.
    pub(crate) sent: BTreeMap<&'static str, usize>,
    pub(crate) bytes: usize,
}

pub(crate) struct World {
    pub(crate) now: Now,
    pub(crate) nodes: Vec<Node>,
    pub(crate) limits: Limits,
    pub(crate) edge_window: usize,
    epoch: u64,
}

impl World {
    pub(crate) fn new(nodes: usize) -> Self {
        let node = |n: usize| Node {
            name: format!("gw-{n}"),
            edge: Half::default(),
            hub: Half::default(),
            instance: 100 * n as u64 + 1,
            boots: 1,
            journal: BTreeMap::new(),
            sink: BTreeMap::new(),
            ledger: BTreeMap::new(),
            told: BTreeMap::new(),
            up: true,
            black_hole: false,
            to_edge: VecDeque::new(),
            to_hub: VecDeque::new(),
            retry_at: Now::ZERO,
            sent: BTreeMap::new(),
            bytes: 0,
        };
        Self {
            now: Now::from_secs(1),
            nodes: (0..nodes).map(node).collect(),
            limits: Limits::default(),
            edge_window: proto::limits::WINDOW_BYTES,
            epoch: 0,
        }
    }

    /// One node with a session on each side, at rest.
    pub(crate) fn connected() -> Self {
        let mut world = Self::new(1);
        world.rest();
        world
    }

    pub(crate) fn edge(&mut self) -> &mut Half {
        &mut self.nodes[0].edge
    }

    pub(crate) fn hub(&mut self) -> &mut Half {
        &mut self.nodes[0].hub
    }

    /// Changes an object on its owner's side, durably.
    pub(crate) fn put(&mut self, node: usize, side: Side, key: &str, body: &str) {
        let half = self.nodes[node].half(side);
        half.source.insert(key.into(), Bytes::copy_from_slice(body.as_bytes()));
        match (&mut half.ram, &mut half.session) {
            (None, Some(session)) => session.source_put(key, body.to_owned()),
            (Some((set, _)), _) => drop(set.put(key, body.to_owned())),
            _ => {}
        }
        self.pump(node);
    }

    pub(crate) fn remove(&mut self, node: usize, side: Side, key: &str) {
        let half = self.nodes[node].half(side);
        half.source.remove(key);
        match (&mut half.ram, &mut half.session) {
            (None, Some(session)) => session.source_remove(key),
            (Some((set, _)), _) => drop(set.remove(key)),
            _ => {}
        }
        self.pump(node);
    }

    /// The mirror's store lost an object and noticed.
    pub(crate) fn forget(&mut self, node: usize, side: Side, key: &str) {
        let half = self.nodes[node].half(side);
        half.mirror.remove(key);
        match (&mut half.ram, &mut half.session) {
            (None, Some(session)) => session.mirror_forget(key),
            (Some((_, inventory)), _) => inventory.remove(key),
            _ => {}
        }
        self.pump(node);
    }

    /// The gateway accepts records, durably.
    pub(crate) fn append(&mut self, node: usize, stream: &str, records: usize) {
        let node_ref = &mut self.nodes[node];
        let store = node_ref.journal.entry(stream.into()).or_default();
        for _ in 0..records {
            store.accepted += 1;
            let body = Bytes::from(format!(
                "{}/{}/{stream}/{}",
                node_ref.name, node_ref.instance, store.accepted
            ));
            store.records.insert(store.accepted, body.clone());
            node_ref
                .ledger
                .entry((node_ref.instance, stream.into()))
                .or_default()
                .insert(store.accepted, body);
        }
        if let Some(session) = &mut node_ref.edge.session {
            session.journal_appended(stream, store.accepted);
        }
        self.pump(node);
    }

    /// A bound of the gateway's store forces out its oldest records.
    pub(crate) fn force_out(&mut self, node: usize, stream: &str, records: u64) {
        let node_ref = &mut self.nodes[node];
        let Some(store) = node_ref.journal.get_mut(stream) else {
            return;
        };
        let Some((&from, _)) = store.records.first_key_value() else {
            return;
        };
        let to = store.accepted.min(from + records - 1);
        store.records.retain(|seq, _| *seq > to);
        store.dropped.push(DroppedRange {
            from,
            to,
            reason: DropReason::Bytes,
        });
        if let Some(session) = &mut node_ref.edge.session {
            session.journal_dropped(stream, from, to, DropReason::Bytes);
        }
        self.pump(node);
    }

    /// The connection breaks; both sides notice.
    pub(crate) fn cut(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.hang_up(Side::Edge);
        node.hang_up(Side::Hub);
        node.drop_wire();
        node.retry_at = self.now + RECONNECT;
    }

    /// A black hole ends. The connection that was in it is known dead as soon as either side has given up on it.
    pub(crate) fn heal(&mut self, node: usize) {
        let was = core::mem::take(&mut self.nodes[node].black_hole);
        self.nodes[node].up = true;
        if was {
            // What was swallowed is missing in the middle of the streams: a transport ends such a connection.
            self.cut(node);
        }
    }

    /// The process dies and starts: memory and uncommitted work are gone.
    pub(crate) fn reboot(&mut self, node: usize, side: Side) {
        let node_ref = &mut self.nodes[node];
        node_ref.boots += 1;
        let half = node_ref.half(side);
        (half.session, half.ram) = (None, None);
        half.commits.clear();
        self.cut(node);
    }

    pub(crate) fn reboot_hub(&mut self) {
        for node in 0..self.nodes.len() {
            self.reboot(node, Side::Hub);
        }
    }

    /// The gateway comes back with an empty disk, and its observed objects are found anew.
    pub(crate) fn lose_edge_disk(&mut self, node: usize) {
        self.reboot(node, Side::Edge);
        let node = &mut self.nodes[node];
        node.instance += 1;
        node.edge.mirror.clear();
        node.edge.source.clear();
        node.journal.clear();
    }

    /// The hub comes back without its mirrors and its sink; what people want (desired) is theirs and is put back.
    pub(crate) fn lose_hub_disk(&mut self) {
        self.reboot_hub();
        for node in &mut self.nodes {
            node.hub.mirror.clear();
            node.sink.clear();
        }
    }

    /// When something is due next.
    fn next_time(&self) -> Option<Now> {
        let mut next: Option<Now> = None;
        let mut at = |time: Now| next = Some(next.map_or(time, |next| next.min(time)));
        for node in &self.nodes {
            for (half, wire) in [(&node.edge, &node.to_edge), (&node.hub, &node.to_hub)] {
                half.commits.front().into_iter().for_each(|(time, _)| at(*time));
                wire.front().into_iter().for_each(|(time, _)| at(*time));
                half.session
                    .as_ref()
                    .and_then(Session::poll_timeout)
                    .into_iter()
                    .for_each(&mut at);
            }
            if node.up && !node.black_hole && node.edge.session.is_none() {
                at(node.retry_at);
            }
        }
        next
    }

    /// Goes to the next moment at which something is due, up to `until`; false when nothing is before it.
    pub(crate) fn step(&mut self, until: Now) -> bool {
        let Some(next) = self.next_time().filter(|next| *next <= until) else {
            self.now = self.now.max(until);
            return false;
        };
        self.now = self.now.max(next);
        for index in 0..self.nodes.len() {
            self.connect(index);
            let now = self.now;
            for side in [Side::Edge, Side::Hub] {
                self.arrive(index, side);
                let node = &mut self.nodes[index];
                while let Some((_, work)) = node.half(side).commits.pop_front_if_due(now) {
                    node.commit(side, work);
                }
                let half = node.half(side);
                let due = half
                    .session
                    .as_ref()
                    .and_then(Session::poll_timeout)
                    .is_some_and(|at| at <= now);
                if due && let Some(Err(error)) = half.session.as_mut().map(|session| session.handle_timeout(now)) {
                    self.lost(index, side, error);
                }
            }
            self.pump(index);
        }
        true
    }

    /// Lets time pass. Bounded in steps: a session that chatters without end fails here.
    pub(crate) fn run(&mut self, time: Duration) {
        let until = self.now + time;
        for _ in 0..200_000 {
            if !self.step(until) {
                return;
            }
        }
        panic!("no end of events before {until:?}");
    }

    /// Runs until everything is equal and nothing is on its way.
    pub(crate) fn rest(&mut self) {
        for _ in 0..50_000 {
            if self.at_rest() {
                return;
            }
            assert!(self.step(Now::MAX), "nothing left to happen and not at rest");
        }
        panic!("not at rest after so many steps:\n{}", self.describe());
    }

    pub(crate) fn at_rest(&self) -> bool {
        self.nodes.iter().all(|node| {
            let done = |half: &Half| {
                half.commits.is_empty()
                    && half
                        .session
                        .as_ref()
                        .is_some_and(|s| s.digests().in_sync && s.journals_settled())
            };
            node.to_edge.is_empty() && node.to_hub.is_empty() && done(&node.edge) && done(&node.hub)
        })
    }

    fn describe(&self) -> String {
        let node = |node: &Node| {
            let side = |half: &Half| format!("{:?} {:?}", half.session.as_ref().map(Session::digests), half.ended);
            format!("{}: edge {}\n  hub {}\n", node.name, side(&node.edge), side(&node.hub))
        };
        self.nodes.iter().map(node).collect()
    }

    fn connect(&mut self, index: usize) {
        let now = self.now;
        let node = &mut self.nodes[index];
        if !node.up || node.black_hole || node.edge.session.is_some() || now < node.retry_at {
            return;
        }
        // One live session per node: the newer fences the older.
        if let Some(session) = &mut node.hub.session {
            session.close(CloseReason::Fenced);
            node.hang_up(Side::Hub);
        }
        node.drop_wire();
        let (observed, desired) = node.edge.sets();
        let mut config = EdgeConfig::new(node.name.clone(), node.boots, node.instance);
        config.window = self.edge_window;
        let cursor = |(stream, store): (&String, &Store)| JournalCursor {
            stream: stream.as_str().into(),
            accepted_to: store.accepted,
            trimmed_to: store.trimmed,
            dropped: store.dropped.clone(),
            priority: store.priority,
        };
        config.journals = node.journal.iter().map(cursor).collect();
        node.edge.session = Some(Session::edge(config, observed, desired, now));
        self.epoch += 1;
        let config = HubConfig {
            limits: self.limits,
            ..HubConfig::new("hub", self.epoch)
        };
        node.hub.session = Some(Session::hub(config, &node.name, now));
        self.pump(index);
    }

    fn arrive(&mut self, index: usize, side: Side) {
        loop {
            let now = self.now;
            let node = &mut self.nodes[index];
            let (half, wire) = match side {
                Side::Edge => (&mut node.edge, &mut node.to_edge),
                Side::Hub => (&mut node.hub, &mut node.to_hub),
            };
            let Some((_, bytes)) = wire.pop_front_if_due(now) else {
                return;
            };
            half.input.extend_from_slice(&bytes);
            while let Some(session) = &mut half.session {
                let Some(frame) = Codec::default().decode(&mut half.input).unwrap() else {
                    break;
                };
                if let Err(error) = session.handle_frame(now, frame) {
                    return self.lost(index, side, error);
                }
            }
            self.pump(index);
        }
    }

    /// A session ended by an error: its transport is closed, the other side sees that unless nothing gets through.
    fn lost(&mut self, index: usize, side: Side, error: SessionError) {
        let deadline = matches!(
            error,
            SessionError::PeerSilent(_) | SessionError::AckOverdue(_) | SessionError::HandshakeOverdue
        );
        assert!(deadline, "{side:?} of {}: {error}", self.nodes[index].name);
        assert!(
            self.nodes[index].black_hole,
            "{side:?} of {}: {error} on a link that works",
            self.nodes[index].name
        );
        let node = &mut self.nodes[index];
        node.half(side).ended.push(error);
        if node.black_hole {
            node.hang_up(side);
            node.retry_at = self.now + RECONNECT;
        } else {
            self.cut(index);
        }
    }

    /// Everything the sessions have to say, until they have nothing more.
    pub(crate) fn pump(&mut self, index: usize) {
        let now = self.now;
        let node = &mut self.nodes[index];
        for _ in 0..100_000 {
            let mut idle = true;
            for side in [Side::Edge, Side::Hub] {
                let frame = node.half(side).session.as_mut().and_then(Session::poll_transmit);
                if let Some(frame) = frame {
                    idle = false;
                    node.transmit(now, side, &frame);
                }
                let event = node.half(side).session.as_mut().and_then(Session::poll_event);
                if let Some(event) = event {
                    idle = false;
                    node.on_event(now, side, event);
                }
            }
            if idle {
                return;
            }
        }
        panic!("the sessions never come to rest");
    }

    /// What must hold when everything is at rest.
    pub(crate) fn check(&self) {
        for node in &self.nodes {
            check_set(&node.hub, &node.edge, "desired");
            check_set(&node.edge, &node.hub, "observed");
            for (key, accepted) in &node.ledger {
                let empty = Sink::default();
                let sink = node.sink.get(key).unwrap_or(&empty);
                let current = key.0 == node.instance;
                if current {
                    let all = accepted.len() as u64;
                    assert_eq!(sink.cursor, all, "{key:?}: all is accounted");
                    assert_eq!(
                        node.told.get(&key.1),
                        Some(&all),
                        "{key:?}: the hub knows how much there is"
                    );
                }
                for seq in 1..=sink.cursor {
                    match (sink.records.get(&seq), sink.gone.contains_key(&seq)) {
                        (Some(record), false) => assert_eq!(record, &accepted[&seq], "{key:?} {seq}"),
                        (None, true) => {}
                        other => panic!("{key:?} {seq} is accounted as {other:?}"),
                    }
                }
                assert_eq!(
                    sink.records.len() + sink.gone.len(),
                    sink.cursor as usize,
                    "{key:?} balances"
                );
            }
        }
    }
}

fn check_set(source: &Half, mirror: &Half, set: &str) {
    let (s, m) = (source.session.as_ref().unwrap(), mirror.session.as_ref().unwrap());
    assert_eq!(s.source().digest(), m.inventory().digest(), "{set}: digests are equal");
    assert_eq!(s.waiting(), 0, "{set}");
    let bad: BTreeSet<&str> = source
        .source
        .iter()
        .filter(|(_, body)| is_bad(body))
        .map(|(key, _)| key.as_str())
        .collect();
    let known: BTreeSet<&str> = s.refused().map(|(key, _)| &**key).collect();
    assert_eq!(bad, known, "{set}: exactly the refused are known as refused");
    assert_eq!(
        m.inventory().refused().map(|(key, _)| &**key).collect::<BTreeSet<_>>(),
        bad,
        "{set}"
    );
    for (key, body) in &source.source {
        let held = mirror.mirror.get(key.as_str()).map(|(_, body)| body);
        if bad.contains(key.as_str()) {
            assert!(
                held.is_none_or(|held| !is_bad(held)),
                "{set}: {key} was refused and is not applied"
            );
        } else {
            assert_eq!(held, Some(body), "{set}: {key}");
        }
    }
    for (key, (hash, body)) in &mirror.mirror {
        assert!(source.source.contains_key(&**key), "{set}: {key} is nobody's");
        assert_eq!(*hash, entry_hash(key, body));
    }
}

pub(crate) fn is_bad(body: &[u8]) -> bool {
    body.windows(3).any(|part| part == b"bad")
}

trait PopDue<T> {
    fn pop_front_if_due(&mut self, now: Now) -> Option<(Now, T)>;
}

impl<T> PopDue<T> for VecDeque<(Now, T)> {
    fn pop_front_if_due(&mut self, now: Now) -> Option<(Now, T)> {
        if self.front()?.0 <= now { self.pop_front() } else { None }
    }
}

impl Half {
    fn sets(&mut self) -> (SourceSet, Inventory) {
        self.ram.take().unwrap_or_else(|| {
            let source = self
                .source
                .iter()
                .map(|(key, body)| (key.as_str(), body.clone()))
                .collect();
            let inventory = self
                .mirror
                .iter()
                .map(|(key, (hash, _))| (key.clone(), *hash))
                .collect();
            (source, inventory)
        })
    }
}

impl Node {
    pub(crate) fn half(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Edge => &mut self.edge,
            Side::Hub => &mut self.hub,
        }
    }

    fn drop_wire(&mut self) {
        self.to_edge.clear();
        self.to_hub.clear();
        self.edge.input.clear();
        self.hub.input.clear();
    }

    /// The session of one side is over; work that was begun is finished, the sets stay in memory.
    fn hang_up(&mut self, side: Side) {
        while let Some((_, work)) = self.half(side).commits.pop_front() {
            self.commit(side, work);
        }
        let half = self.half(side);
        if let Some(session) = half.session.take() {
            half.ram = session.into_sets().or(half.ram.take());
        }
    }

    fn transmit(&mut self, now: Now, side: Side, frame: &Frame) {
        self.look_at(side, frame);
        let mut bytes = BytesMut::new();
        Codec::default().encode(frame, &mut bytes).unwrap();
        self.bytes += bytes.len();
        if !self.black_hole {
            let wire = if side == Side::Edge {
                &mut self.to_hub
            } else {
                &mut self.to_edge
            };
            wire.push_back((now + LATENCY, bytes.freeze()));
        }
    }

    /// Holds every frame against what must never happen.
    fn look_at(&mut self, side: Side, frame: &Frame) {
        let name = match frame.kind.as_ref().unwrap() {
            Kind::Hello(_) => "hello",
            Kind::Welcome(_) => "welcome",
            Kind::Heartbeat(_) => "heartbeat",
            Kind::InventoryPage(_) => "inventory",
            Kind::InventoryRequest(_) => "request",
            Kind::Refusals(_) => "refusals",
            Kind::Batch(_) => "batch",
            Kind::BatchAck(_) => "ack",
            Kind::Journal(_) => "journal",
            Kind::JournalDropped(_) => "dropped",
            Kind::JournalAck(_) => "stored",
            _ => "other",
        };
        *self.sent.entry(name).or_default() += 1;
        if let Some(Kind::Batch(batch)) = &frame.kind {
            let (source, mirror) = match side {
                Side::Edge => (&self.edge, &self.hub),
                Side::Hub => (&self.hub, &self.edge),
            };
            let set = source.session.as_ref().unwrap().source();
            // After a black hole the mirror may be another session's or none; then there is nothing to compare with.
            let Some(mirror) = mirror.session.as_ref().filter(|session| session.is_live()) else {
                return;
            };
            for change in &batch.changes {
                let dealt = match mirror.inventory().refused().find(|(key, _)| ***key == *change.key) {
                    Some((_, refusal)) => refusal.hash,
                    None => mirror.inventory().held(&change.key),
                };
                if !change.removed {
                    assert_ne!(
                        dealt,
                        set.hash(&change.key),
                        "{} is sent again after it was dealt with",
                        change.key
                    );
                }
            }
        }
    }

    fn on_event(&mut self, now: Now, side: Side, event: Event) {
        let due = now + COMMIT;
        match &event {
            Event::Hello { instance, journals, .. } => {
                assert_eq!(*instance, self.instance);
                let said = |journal: &JournalCursor| (journal.stream.to_string(), journal.accepted_to);
                self.told = journals.iter().map(said).collect();
                let (desired, observed) = self.hub.sets();
                let cursor = |((instance, stream), sink): (&(u64, String), &Sink)| StoredCursor {
                    stream: stream.as_str().into(),
                    instance: *instance,
                    cursor: sink.cursor,
                    dropped: sink.gone.len() as u64,
                };
                let cursors = self.sink.iter().map(cursor).collect();
                self.hub
                    .session
                    .as_mut()
                    .unwrap()
                    .accept(now, desired, observed, cursors);
            }
            Event::Apply { batch, changes } => {
                let work = Work::Batch {
                    batch: *batch,
                    changes: changes.clone(),
                };
                self.half(side).commits.push_back((due, work));
            }
            Event::JournalAccepted { stream, accepted_to } => {
                let told = self.told.entry(stream.to_string()).or_default();
                *told = (*told).max(*accepted_to);
            }
            Event::Journal {
                stream,
                first_seq,
                records,
            } => {
                let last = first_seq + records.len() as u64 - 1;
                assert!(self.told[&**stream] >= last, "nothing comes that was not accepted");
                let work = Work::Records {
                    stream: stream.to_string(),
                    first: *first_seq,
                    records: records.clone(),
                };
                self.hub.commits.push_back((due, work));
            }
            Event::JournalDropped {
                stream,
                from,
                to,
                reason,
            } => {
                assert!(self.told[&**stream] >= *to, "nothing is dropped that was not accepted");
                let work = Work::Gone {
                    stream: stream.to_string(),
                    from: *from,
                    to: *to,
                    reason: *reason,
                };
                self.hub.commits.push_back((due, work));
            }
            Event::NeedJournal {
                stream,
                from,
                max_bytes,
            } => {
                let store = &self.journal[&**stream];
                let first = store.records.range(from..).next().map_or(0, |(seq, _)| *seq);
                let (mut records, mut bytes) = (Vec::new(), 0);
                for (expected, (seq, record)) in (first..).zip(store.records.range(first..)) {
                    if expected != *seq || (bytes > 0 && bytes + record.len() > *max_bytes) {
                        break;
                    }
                    bytes += record.len();
                    records.push(record.clone());
                }
                self.edge.session.as_mut().unwrap().journal_read(stream, first, records);
            }
            Event::JournalAcked { stream, cursor, .. } => {
                if let Some(store) = self.journal.get_mut(&**stream) {
                    store.trimmed = store.trimmed.max(*cursor);
                    store.records.retain(|seq, _| seq > cursor);
                    store.dropped.retain(|range| range.to > *cursor);
                }
            }
            Event::InSync { .. } => {
                let digests = self.half(side).session.as_ref().unwrap().digests();
                assert!(
                    digests.desired_local == digests.desired_peer || digests.observed_local == digests.observed_peer
                );
            }
            _ => {}
        }
        self.half(side).events.push(event);
    }

    fn commit(&mut self, side: Side, work: Work) {
        match work {
            Work::Batch { batch, changes } => {
                let half = self.half(side);
                let mut applied = Applied::default();
                for Change { key, body, hash } in changes {
                    match body {
                        Some(body) if is_bad(&body) => applied.refused.push((key, "it is bad".into())),
                        Some(body) => drop(half.mirror.insert(key, (hash, body))),
                        None => drop(half.mirror.remove(&key)),
                    }
                }
                if let Some(session) = &mut half.session {
                    session.applied(batch, applied);
                }
            }
            Work::Records { stream, first, records } => {
                let sink = self.sink.entry((self.instance, stream.clone())).or_default();
                for (seq, record) in (first..).zip(records) {
                    assert_eq!(seq, sink.cursor + 1, "records come in order and once");
                    sink.records.insert(seq, record);
                    sink.cursor = seq;
                }
                if let Some(session) = &mut self.hub.session {
                    session.journal_stored(&stream, sink.cursor);
                }
            }
            Work::Gone {
                stream,
                from,
                to,
                reason,
            } => {
                let sink = self.sink.entry((self.instance, stream.clone())).or_default();
                assert_eq!(from, sink.cursor + 1, "ranges come in order and once");
                sink.gone.extend((from..=to).map(|seq| (seq, reason)));
                sink.cursor = to;
                if let Some(session) = &mut self.hub.session {
                    session.journal_stored(&stream, sink.cursor);
                }
            }
        }
    }
}
