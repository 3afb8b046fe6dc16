//! Which Work brought which object, and what it was then.

use std::collections::BTreeMap;
use std::sync::Arc;

use metastore::store::ObjectKey;

use super::manifest::Place;
use super::member::Print;

/// A Work, as `<namespace>/<name>`.
pub(super) type Id = Arc<str>;

/// All objects that Works list.
#[derive(Debug, Default)]
pub(super) struct Objects(BTreeMap<ObjectKey, Tracked>);

/// One of them.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    /// The Works that list it: one, unless somebody made a mistake or an object moves from one to another.
    pub(super) works: Vec<Id>,
    /// Who applied it last, and so looks after it.
    last: Option<Id>,
    print: Option<Print>,
}

impl Objects {
    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Tracked> {
        self.0.get(key)
    }

    /// What `id` made of an object, if it was the last to.
    pub(super) fn known(&self, key: &ObjectKey, id: &Id) -> Option<Print> {
        let tracked = self.0.get(key).filter(|tracked| tracked.last.as_ref() == Some(id))?;
        tracked.print
    }

    /// `id` made this of an object.
    pub(super) fn applied(&mut self, key: &ObjectKey, id: &Id, print: Print) {
        if let Some(tracked) = self.0.get_mut(key) {
            (tracked.last, tracked.print) = (Some(Arc::clone(id)), Some(print));
        }
    }

    /// An object is not known to be anything any more. Its next apply looks at it.
    pub(super) fn doubt(&mut self, key: &ObjectKey) {
        if let Some(tracked) = self.0.get_mut(key) {
            tracked.print = None;
        }
    }

    /// `id` lists these now, and listed those before.
    pub(super) fn list(&mut self, id: &Id, before: &[Option<Place>], now: &[Option<Place>]) {
        for place in now.iter().flatten() {
            let tracked = self.0.entry(place.key.clone()).or_default();
            if !tracked.works.contains(id) {
                tracked.works.push(Arc::clone(id));
            }
        }
        for place in before.iter().flatten() {
            if now.iter().flatten().any(|other| other.key == place.key) {
                continue;
            }
            if let Some(tracked) = self.0.get_mut(&place.key) {
                tracked.works.retain(|other| other != id);
                if tracked.works.is_empty() {
                    self.0.remove(&place.key);
                }
            }
        }
    }
}

impl Tracked {
    /// Who looks after it.
    pub(super) fn keeper(&self) -> Option<&Id> {
        self.last.as_ref().or(self.works.first())
    }

    /// Whether this is what became of it when it was applied.
    pub(super) fn stands(&self, print: u64) -> bool {
        self.print.is_some_and(|known| known.stood == print)
    }
}
