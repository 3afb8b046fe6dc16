//! Recent changes in memory, shared by all watchers.
//!
//! Changes are kept per kind, so that a watcher of a quiet kind neither wakes for nor lags behind a busy one. How many are kept
//! is bounded over all kinds together, by number and by bytes; the oldest go first. Only the writer thread publishes.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::{Event, Scope};

/// What an event costs beside its bodies.
const EVENT_OVERHEAD: usize = 256;

/// The feeds of all kinds.
pub(super) struct Feeds {
    /// Revision when the store was opened: what is older was never in memory.
    base: u64,
    max_events: usize,
    max_bytes: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    kinds: BTreeMap<Kind, Arc<Feed>>,
    /// The feed of each event in memory, oldest event first.
    order: VecDeque<Arc<Feed>>,
    bytes: usize,
}

type Kind = (Arc<str>, Arc<str>);

/// The recent changes of one kind.
pub(super) struct Feed {
    recent: Mutex<Recent>,
    bell: watch::Sender<u64>,
}

struct Recent {
    events: VecDeque<Arc<Event>>,
    /// Changes up to this revision are not in memory (any more).
    evicted: u64,
}

/// What a feed has behind a revision.
pub(super) enum Next {
    Event(Arc<Event>),
    /// Nothing that concerns the scope, up to this revision.
    Nothing(u64),
    /// Memory does not reach back that far.
    Missed,
}

impl Feeds {
    pub(super) fn new(base: u64, max_events: usize, max_bytes: usize) -> Self {
        Self {
            base,
            max_events,
            max_bytes,
            inner: Mutex::default(),
        }
    }

    /// The feed that a scope's changes come through.
    pub(super) fn feed(&self, scope: &Scope) -> Arc<Feed> {
        let mut inner = self.lock();
        inner.feed(self.base, (scope.group.clone(), scope.resource.clone()))
    }

    /// Adds changes, in revision order, and wakes who watches their kinds.
    pub(super) fn publish(&self, events: Vec<Arc<Event>>) {
        let mut rung: Vec<(Arc<Feed>, u64)> = Vec::new();
        let mut inner = self.lock();
        for event in events {
            let key = &event.object.key;
            let feed = inner.feed(self.base, (key.group.clone(), key.resource.clone()));
            let revision = event.object.revision;
            inner.bytes += weight(&event);
            inner.order.push_back(feed.clone());
            feed.lock().events.push_back(event);
            match rung.iter_mut().find(|(f, _)| Arc::ptr_eq(f, &feed)) {
                Some((_, latest)) => *latest = revision,
                None => rung.push((feed, revision)),
            }
        }
        while inner.order.len() > 1 && (inner.order.len() > self.max_events || inner.bytes > self.max_bytes) {
            let Some(feed) = inner.order.pop_front() else { break };
            let mut recent = feed.lock();
            if let Some(event) = recent.events.pop_front() {
                recent.evicted = event.object.revision;
                inner.bytes -= weight(&event);
            }
        }
        drop(inner);
        for (feed, revision) in rung {
            feed.bell.send_replace(revision);
        }
    }

    /// Wakes all watchers for the last time.
    pub(super) fn close(&self) {
        let inner = self.lock();
        for feed in inner.kinds.values() {
            feed.bell.send_modify(|_| ());
        }
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.order.len(), inner.bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn feed(&mut self, base: u64, kind: Kind) -> Arc<Feed> {
        let make = || {
            let recent = Mutex::new(Recent {
                events: VecDeque::new(),
                evicted: base,
            });
            Arc::new(Feed {
                recent,
                bell: watch::Sender::new(base),
            })
        };
        self.kinds.entry(kind).or_insert_with(make).clone()
    }
}

impl Feed {
    /// The first change of the scope behind `cursor`.
    pub(super) fn next(&self, cursor: u64, scope: &Scope) -> Next {
        let recent = self.lock();
        if cursor < recent.evicted {
            return Next::Missed;
        }
        let from = recent.events.partition_point(|e| e.object.revision <= cursor);
        match recent.events.range(from..).find(|e| scope.contains(&e.object.key)) {
            Some(event) => Next::Event(event.clone()),
            None => Next::Nothing(recent.events.back().map_or(cursor, |e| e.object.revision.max(cursor))),
        }
    }

    /// Up to where changes of this kind are not in memory.
    pub(super) fn evicted(&self) -> u64 {
        self.lock().evicted
    }

    /// A bell that rings on every change of this kind.
    pub(super) fn bell(&self) -> watch::Receiver<u64> {
        self.bell.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn weight(event: &Event) -> usize {
    EVENT_OVERHEAD + event.object.json.len() + event.previous.as_ref().map_or(0, |p| p.json.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{EventKind, Object, ObjectKey};

    fn event(resource: &str, revision: u64, size: usize) -> Arc<Event> {
        let key = ObjectKey::new("", resource, "default", "x");
        let object = Object {
            key,
            revision,
            json: vec![b' '; size].into(),
        };
        Arc::new(Event {
            kind: EventKind::Modified,
            object,
            previous: None,
        })
    }

    #[test]
    fn bounded_by_number_and_by_bytes() {
        let feeds = Feeds::new(0, 10, 100_000);
        feeds.publish((1..=25).map(|r| event("a", r, 10)).collect());
        assert_eq!(feeds.held(), (10, 10 * (EVENT_OVERHEAD + 10)));
        let feeds = Feeds::new(0, 1000, 10_000);
        feeds.publish((1..=100).map(|r| event("a", r, 1000)).collect());
        assert!(feeds.held().1 <= 10_000);
        feeds.publish(vec![event("a", 101, 50_000)]);
        assert_eq!(feeds.held().0, 1, "the newest stays even when it alone is too large");
    }

    #[test]
    fn a_quiet_kind_does_not_lag_behind_a_busy_one() {
        let feeds = Feeds::new(5, 4, 100_000);
        let quiet = feeds.feed(&Scope::all("", "quiet"));
        let busy = feeds.feed(&Scope::all("", "busy"));
        feeds.publish((6..=60).map(|r| event("busy", r, 1)).collect());
        assert!(matches!(quiet.next(5, &Scope::all("", "quiet")), Next::Nothing(5)));
        assert!(matches!(busy.next(5, &Scope::all("", "busy")), Next::Missed));
        assert!(matches!(busy.next(56, &Scope::all("", "busy")), Next::Event(e) if e.object.revision == 57));
        assert!(
            matches!(quiet.next(4, &Scope::all("", "quiet")), Next::Missed),
            "older than the start"
        );
        assert!(!quiet.bell().has_changed().unwrap());
    }

    #[test]
    fn scope_filters_by_namespace() {
        let feeds = Feeds::new(0, 4, 100_000);
        feeds.publish(vec![event("a", 1, 1)]);
        let feed = feeds.feed(&Scope::all("", "a"));
        assert!(matches!(
            feed.next(0, &Scope::namespace("", "a", "other")),
            Next::Nothing(1)
        ));
        assert!(matches!(
            feed.next(0, &Scope::namespace("", "a", "default")),
            Next::Event(_)
        ));
    }
}
