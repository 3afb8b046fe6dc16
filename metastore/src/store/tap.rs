//! Changes of all kinds at once, for the few that follow the whole store.
//!
//! A tap is a bounded queue with a filter. Who falls behind is told so, and looks at everything again: a tap never holds up the writer and
//! never reads the change log.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::mpsc;

use super::Event;

/// Changes that wait in a tap.
const WAITING: usize = 4096;

/// A stream of the changes of all kinds, from when it was opened.
#[derive(Debug)]
pub struct Tap {
    events: mpsc::Receiver<Arc<Event>>,
    missed: Arc<AtomicBool>,
}

/// What came out of a [`Tap`].
#[derive(Clone, Debug)]
pub enum Tapped {
    /// The next change.
    Event(Arc<Event>),
    /// Changes were passed over: what was known from this tap is out of date.
    Missed,
    /// The store was closed.
    Closed,
}

impl Tap {
    /// What comes next. Safe to drop half-way.
    pub async fn next(&mut self) -> Tapped {
        if self.missed.swap(false, Ordering::AcqRel) {
            while self.events.try_recv().is_ok() {}
            return Tapped::Missed;
        }
        match self.events.recv().await {
            Some(event) => Tapped::Event(event),
            None => Tapped::Closed,
        }
    }
}

impl Tap {
    /// Whether [`Self::try_next`] has something to say. A change is there before whoever committed it is answered.
    pub fn has_more(&self) -> bool {
        !self.events.is_empty() || self.missed.load(Ordering::Acquire) || self.events.is_closed()
    }

    /// What waits; `None` when nothing does.
    pub fn try_next(&mut self) -> Option<Tapped> {
        if self.missed.swap(false, Ordering::AcqRel) {
            while self.events.try_recv().is_ok() {}
            return Some(Tapped::Missed);
        }
        match self.events.try_recv() {
            Ok(event) => Some(Tapped::Event(event)),
            Err(mpsc::error::TryRecvError::Empty) => None,
            Err(mpsc::error::TryRecvError::Disconnected) => Some(Tapped::Closed),
        }
    }
}

/// The open taps.
#[derive(Default)]
pub(super) struct Taps(Mutex<Vec<Outlet>>);

struct Outlet {
    wanted: fn(&Event) -> bool,
    events: mpsc::Sender<Arc<Event>>,
    missed: Arc<AtomicBool>,
}

impl Taps {
    /// Opens one for the changes that `wanted` picks; it runs on the writer's thread and must be quick.
    pub(super) fn open(&self, wanted: fn(&Event) -> bool) -> Tap {
        let (sender, events) = mpsc::channel(WAITING);
        let missed = Arc::new(AtomicBool::new(false));
        self.lock().push(Outlet {
            wanted,
            events: sender,
            missed: missed.clone(),
        });
        Tap { events, missed }
    }

    /// Hands changes to all taps that want them.
    pub(super) fn publish(&self, events: &[Arc<Event>]) {
        self.lock().retain(|outlet| {
            for event in events.iter().filter(|event| (outlet.wanted)(event)) {
                match outlet.events.try_send(event.clone()) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => outlet.missed.store(true, Ordering::Release),
                    Err(mpsc::error::TrySendError::Closed(_)) => return false,
                }
            }
            !outlet.events.is_closed()
        });
    }

    /// Ends all of them.
    pub(super) fn close(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Outlet>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{EventKind, Object, ObjectKey};

    fn event(revision: u64) -> Arc<Event> {
        Arc::new(Event {
            kind: EventKind::Added,
            object: Object {
                key: ObjectKey::new("", "x", "", "x"),
                revision,
                json: bytes::Bytes::from_static(b"{}"),
            },
            previous: None,
        })
    }

    #[tokio::test]
    async fn it_brings_what_is_wanted_and_says_when_it_could_not() {
        let taps = Taps::default();
        let mut tap = taps.open(|e| e.object.revision % 2 == 0);
        taps.publish(&[event(1), event(2), event(3)]);
        assert!(matches!(tap.next().await, Tapped::Event(e) if e.object.revision == 2));
        let many: Vec<_> = (0..2 * WAITING as u64 + 4).map(event).collect();
        taps.publish(&many);
        assert!(matches!(tap.next().await, Tapped::Missed));
        taps.publish(&[event(8)]);
        assert!(matches!(tap.next().await, Tapped::Event(e) if e.object.revision == 8));
        assert!(!tap.has_more() && tap.try_next().is_none());
        taps.publish(&[event(10)]);
        assert!(tap.has_more());
        assert!(matches!(tap.try_next(), Some(Tapped::Event(e)) if e.object.revision == 10));
        taps.publish(&many);
        assert!(matches!(tap.try_next(), Some(Tapped::Missed)));
        assert!(tap.try_next().is_none());
        taps.close();
        assert!(tap.has_more());
        assert!(matches!(tap.try_next(), Some(Tapped::Closed)));
        assert!(matches!(tap.next().await, Tapped::Closed));
        let dropped = taps.open(|_| true);
        drop(dropped);
        taps.publish(&[event(1)]);
        assert!(taps.lock().is_empty());
    }
}
