//! Who is connected now, and what is known of those who are not. In memory only: a restarted hub learns it from the gateways.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use device_models::kinds::LinkKind;
use link::driver::SessionHandle;
use link::{Connection, Transport};
use proto::{CloseReason, Session};

use super::claims::{Claims, Verdict, Who};
use super::journal::Account;
use super::outbox::Outbox;
use crate::enroll::{ClusterRecord, Directory};
use crate::metrics::Counter;
use crate::upstream::{MAX_SHOWN_REFUSED, Presence, Presences, Recorded, Registration, SetFacts};

/// A live session.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) node: Arc<str>,
    pub(crate) epoch: u64,
    pub(crate) serial: String,
    pub(crate) agent_version: String,
    /// Wall clock, ms.
    pub(crate) since: u64,
    pub(crate) connection: Connection,
    pub(crate) handle: SessionHandle,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) facts: Mutex<Facts>,
    /// Over all sessions of the node.
    pub(crate) exchanged: Arc<Exchanged>,
    /// Wall clock, ms, of the last EdgeNode status.
    pub(crate) shown: AtomicU64,
}

/// Objects that crossed a node's link since the hub was started.
#[derive(Debug, Default)]
pub(crate) struct Exchanged {
    /// Desired entries that the gateway acknowledged.
    pub(crate) sent: Counter,
    /// Observed entries that came.
    pub(crate) received: Counter,
}

/// What a session said about itself when it was last asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) desired: SetFacts,
    pub(crate) observed: SetFacts,
    pub(crate) in_sync: bool,
    /// Desired entries on their way.
    pub(crate) waiting: usize,
    pub(crate) journals: Vec<Account>,
}

impl Facts {
    /// Read from a session.
    pub(crate) fn of(session: &Session) -> Self {
        let digests = session.digests();
        let shown = |(key, reason): (&proto::Key, String)| (key.to_string(), reason);
        Self {
            desired: SetFacts {
                digest: digests.desired_local.0,
                peer: digests.desired_peer.0,
                entries: session.source().len(),
                refused: digests.desired_refused,
                refused_keys: session.refused().take(MAX_SHOWN_REFUSED).map(shown).collect(),
            },
            observed: SetFacts {
                digest: digests.observed_local.0,
                peer: digests.observed_peer.0,
                entries: session.inventory().len(),
                refused: digests.observed_refused,
                refused_keys: session
                    .inventory()
                    .refused()
                    .take(MAX_SHOWN_REFUSED)
                    .map(|(k, r)| shown((k, r.reason.clone())))
                    .collect(),
            },
            in_sync: digests.in_sync,
            waiting: session.waiting(),
            journals: Vec::new(),
        }
    }
}

impl Live {
    pub(crate) fn facts(&self) -> Facts {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets are taken from the session, journals from its sink; each keeps the other's.
    pub(crate) fn set_facts(&self, facts: Facts) {
        let mut now = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let journals = std::mem::take(&mut now.journals);
        *now = Facts { journals, ..facts };
    }

    pub(crate) fn set_journals(&self, journals: Vec<Account>) {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).journals = journals;
    }

    /// Asks the session how its sets stand.
    pub(crate) async fn refresh(&self) {
        if let Ok(facts) = self.handle.ask(|session, _| Facts::of(session)).await {
            self.set_facts(facts);
        }
    }

    pub(crate) fn link(&self) -> LinkKind {
        match self.connection.transport() {
            Transport::Quic => LinkKind::Quic,
            Transport::Tcp => LinkKind::Tcp,
        }
    }
}

/// A node that is not connected.
#[derive(Clone, Debug, Default)]
struct Left {
    /// When it was last seen (wall clock, ms).
    at: u64,
    /// Its journals as they stood then.
    journals: Vec<Account>,
}

#[derive(Debug, Default)]
struct State {
    claims: Claims,
    live: HashMap<Arc<str>, Arc<Live>>,
    /// What is still known of nodes that are not connected.
    left: HashMap<Arc<str>, Left>,
    exchanged: HashMap<Arc<str>, Arc<Exchanged>>,
    /// Nodes that left, with when (wall clock, ms), in that order, until it is looked whether they stay away.
    leaving: VecDeque<(u64, Arc<str>)>,
    /// Nodes whose EdgeNode says something old.
    stale: BTreeSet<Arc<str>>,
}

/// The registry.
#[derive(Debug)]
pub(crate) struct Registry {
    state: Mutex<State>,
    directory: Arc<Directory>,
    settled: AtomicBool,
}

impl Registry {
    pub(crate) fn new(directory: Arc<Directory>) -> Self {
        Self {
            state: Mutex::default(),
            directory,
            settled: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session says it speaks for its node. When it may, the one before it is told to go.
    pub(crate) fn enter(&self, live: &Arc<Live>, who: Who) -> Verdict {
        let mut state = self.lock();
        let verdict = state
            .claims
            .claim(&live.node, live.epoch, who, daemon::clock::since_start());
        if let Verdict::Accept { fence } = verdict {
            let before = state.live.insert(Arc::clone(&live.node), Arc::clone(live));
            if let Some(older) = before.filter(|o| Some(o.epoch) == fence) {
                older.outbox.close(CloseReason::Fenced);
            }
        }
        state.stale.insert(Arc::clone(&live.node));
        verdict
    }

    /// A session ended; true when its node is without one now.
    pub(crate) fn leave(&self, live: &Live) -> bool {
        let mut state = self.lock();
        if !state.claims.release(&live.node, live.epoch) {
            return false;
        }
        state.live.remove(&live.node);
        let left = Left {
            at: daemon::clock::wall_ms(),
            journals: live.facts().journals,
        };
        state.leaving.push_back((left.at, Arc::clone(&live.node)));
        state.left.insert(Arc::clone(&live.node), left);
        state.stale.remove(&live.node);
        true
    }

    /// Those who could come back after the hub was started have had their time.
    pub(crate) fn settle(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }

    /// Nodes that left `after` ms ago or more and were not told of yet.
    pub(crate) fn gone(&self, now: u64, after: u64) -> Vec<Arc<str>> {
        let mut state = self.lock();
        let mut gone = Vec::new();
        while state
            .leaving
            .front()
            .is_some_and(|(at, _)| at.saturating_add(after) <= now)
        {
            gone.extend(state.leaving.pop_front().map(|(_, node)| node));
        }
        gone
    }

    /// The counts of a node.
    pub(crate) fn exchanged(&self, node: &Arc<str>) -> Arc<Exchanged> {
        Arc::clone(self.lock().exchanged.entry(Arc::clone(node)).or_default())
    }

    /// Whether this session still speaks for its node.
    pub(crate) fn is_current(&self, live: &Live) -> bool {
        self.lock().live.get(&live.node).is_some_and(|l| l.epoch == live.epoch)
    }

    /// The session of a node.
    pub(crate) fn get(&self, node: &str) -> Option<Arc<Live>> {
        self.lock().live.get(node).cloned()
    }

    /// All sessions.
    pub(crate) fn all(&self) -> Vec<Arc<Live>> {
        self.lock().live.values().cloned().collect()
    }

    /// (connected, of them in sync).
    pub(crate) fn counts(&self) -> (usize, usize) {
        let all = self.all();
        let in_sync = all
            .iter()
            .filter(|l| l.facts.lock().unwrap_or_else(PoisonError::into_inner).in_sync)
            .count();
        (all.len(), in_sync)
    }

    /// Ends the session of a node; how many were ended. With `except`, a session under that certificate stays.
    pub(crate) fn end(&self, node: &str, reason: CloseReason, except: Option<&str>) -> usize {
        match self.get(node).filter(|l| except != Some(l.serial.as_str())) {
            Some(live) => {
                live.outbox.close(reason);
                1
            }
            None => 0,
        }
    }

    /// The EdgeNode of this node says something old.
    pub(crate) fn stale(&self, node: &Arc<str>) {
        self.lock().stale.insert(Arc::clone(node));
    }

    /// Nodes whose EdgeNode is to be written now: the stale ones, and up to `most` that were not for `age` ms.
    pub(crate) fn due(&self, now: u64, age: u64, most: usize) -> Vec<Arc<str>> {
        let mut state = self.lock();
        let mut due = std::mem::take(&mut state.stale);
        let old = |l: &&Arc<Live>| now.saturating_sub(l.shown.load(Ordering::Relaxed)) >= age;
        due.extend(state.live.values().filter(old).take(most).map(|l| Arc::clone(&l.node)));
        for node in &due {
            if let Some(live) = state.live.get(node) {
                live.shown.store(now, Ordering::Relaxed);
            }
        }
        state.claims.sweep(daemon::clock::since_start());
        due.into_iter().collect()
    }
}

impl Presences for Registry {
    fn epoch(&self, node: &str) -> Option<u64> {
        self.lock().live.get(node).map(|live| live.epoch)
    }

    fn enrolled(&self, node: &str) -> bool {
        self.directory.enrolled(node)
    }

    fn settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    fn register(&self, node: &str, plane: &Arc<str>, uid: &str, site: Option<&Arc<str>>) -> Recorded {
        let (directory, node, plane, uid, site) = (
            Arc::clone(&self.directory),
            node.to_owned(),
            Arc::clone(plane),
            uid.to_owned(),
            site.cloned(),
        );
        Box::pin(async move {
            let registered = directory.register(&node, &plane, &uid, site);
            registered.await.map_err(|e| e.to_string())
        })
    }

    fn withdraw(&self, node: &str, plane: &Arc<str>, uid: &str) -> Recorded {
        let (directory, node, plane, uid) = (
            Arc::clone(&self.directory),
            node.to_owned(),
            Arc::clone(plane),
            uid.to_owned(),
        );
        Box::pin(async move { directory.withdraw(&node, &plane, &uid).await.map_err(|e| e.to_string()) })
    }

    fn of(&self, node: &str) -> Presence {
        let identity = self.directory.identity(node);
        let (live, left, duplicate) = {
            let state = self.lock();
            let duplicate = state.claims.duplicate(node, daemon::clock::since_start());
            (
                state.live.get(node).cloned(),
                state.left.get(node).cloned().unwrap_or_default(),
                duplicate,
            )
        };
        let text = |t: String| (!t.is_empty()).then_some(t);
        let mut presence = Presence {
            enrolled: identity.is_some(),
            revoked: identity.as_ref().is_some_and(|i| i.revoked),
            duplicate,
            since: left.at,
            last_seen: left.at,
            ..Presence::default()
        };
        if let Some(identity) = identity {
            presence.arch = text(identity.arch);
            presence.agent_version = text(identity.agent_version);
            presence.labels = identity.labels;
            presence.registration = match identity.cluster {
                None => Registration::None,
                Some(ClusterRecord {
                    plane,
                    site,
                    withdrawn: true,
                    ..
                }) => Registration::Withdrawn { plane, site },
                Some(ClusterRecord { plane, uid, site, .. }) => Registration::Registered { plane, uid, site },
            };
        }
        let mut journals = left.journals;
        if let Some(live) = live {
            let facts = live.facts();
            let (sent, received) = live.connection.bytes();
            presence.connected = true;
            presence.since = live.since;
            presence.last_seen = daemon::clock::wall_ms();
            presence.epoch = live.epoch;
            presence.link = Some(live.link());
            presence.address = Some(live.connection.remote_addr().to_string());
            presence.agent_version = text(live.agent_version.clone()).or(presence.agent_version);
            presence.in_sync = facts.in_sync;
            presence.desired = Some(facts.desired);
            presence.observed = Some(facts.observed);
            (presence.sent, presence.received) = (sent, received);
            journals = facts.journals;
        }
        presence.journals = journals.iter().map(Account::status).collect();
        presence
    }
}
