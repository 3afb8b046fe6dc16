//! Subscriptions by topic level.
//!
//! A node per level of a filter; `+` and `#` have places of their own. Nodes without subscribers are removed, so the size
//! follows the subscriptions. Depth is bounded by the filter check (`topic::MAX_LEVELS`), so walking recursively is safe.

use std::{cell::Cell, collections::HashMap};

use super::SessionKey;
use crate::packet::SubscriptionOptions;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subscriber {
    pub(crate) session: SessionKey,
    pub(crate) options: SubscriptionOptions,
}

/// All who subscribed to one filter.
#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    direct: Vec<Subscriber>,
    groups: Vec<Group>,
}

/// A shared subscription: each message goes to one member.
#[derive(Debug)]
struct Group {
    name: Box<str>,
    members: Vec<Subscriber>,
    next: Cell<usize>,
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, Self>,
    plus: Option<Box<Self>>,
    here: Option<Box<Subscribers>>,
    /// `#` below this level, which matches this level too.
    all: Option<Box<Subscribers>>,
}

/// The subscriptions of all sessions.
#[derive(Debug, Default)]
pub(crate) struct Trie {
    root: Node,
    len: usize,
}

impl Trie {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds or replaces; `true` if the session had no such subscription.
    pub(crate) fn insert(&mut self, path: &str, group: Option<&str>, subscriber: Subscriber) -> bool {
        let new = self.root.slot(path).insert(group, subscriber);
        self.len += usize::from(new);
        new
    }

    /// Removes; `false` if there was none.
    pub(crate) fn remove(&mut self, path: &str, group: Option<&str>, session: SessionKey) -> bool {
        let removed = self.root.remove(path, group, session);
        self.len -= usize::from(removed);
        removed
    }

    /// Calls `visit` for each subscription that gets a message on this topic. Of each shared group one member is
    /// visited: the next in turn that is `ready`, or, if none is, the next in turn.
    pub(crate) fn for_each(&self, topic: &str, ready: &dyn Fn(SessionKey) -> bool, visit: &mut dyn FnMut(&Subscriber)) {
        self.root.walk(topic, &mut |subscribers| {
            subscribers.direct.iter().for_each(&mut *visit);
            for group in &subscribers.groups {
                if let Some(member) = group.pick(ready) {
                    visit(member);
                }
            }
            false
        });
    }

    /// Is anyone subscribed to this topic?
    pub(crate) fn any(&self, topic: &str) -> bool {
        self.len > 0 && self.root.walk(topic, &mut |_| true)
    }
}

impl Subscribers {
    fn insert(&mut self, group: Option<&str>, subscriber: Subscriber) -> bool {
        let list = match group {
            None => &mut self.direct,
            Some(name) => match self.groups.iter().position(|g| &*g.name == name) {
                Some(index) => &mut self.groups[index].members,
                None => {
                    self.groups.push(Group {
                        name: name.into(),
                        members: vec![],
                        next: Cell::new(0),
                    });
                    let last = self.groups.len() - 1;
                    &mut self.groups[last].members
                }
            },
        };
        match list.iter_mut().find(|s| s.session == subscriber.session) {
            Some(existing) => {
                *existing = subscriber;
                false
            }
            None => {
                list.push(subscriber);
                true
            }
        }
    }

    fn remove(&mut self, group: Option<&str>, session: SessionKey) -> bool {
        let Some(name) = group else {
            return remove_from(&mut self.direct, session);
        };
        let Some(index) = self.groups.iter().position(|g| &*g.name == name) else {
            return false;
        };
        let removed = remove_from(&mut self.groups[index].members, session);
        if self.groups[index].members.is_empty() {
            self.groups.swap_remove(index);
        }
        removed
    }

    fn is_empty(&self) -> bool {
        self.direct.is_empty() && self.groups.is_empty()
    }
}

fn remove_from(list: &mut Vec<Subscriber>, session: SessionKey) -> bool {
    let found = list.iter().position(|s| s.session == session);
    if let Some(index) = found {
        list.remove(index);
    }
    found.is_some()
}

impl Group {
    fn pick(&self, ready: &dyn Fn(SessionKey) -> bool) -> Option<&Subscriber> {
        let count = self.members.len();
        let start = self.next.get();
        let chosen = (0..count)
            .map(|step| (start + step) % count)
            .find(|index| ready(self.members[*index].session))
            .or((count > 0).then(|| start % count))?;
        self.next.set((chosen + 1) % count);
        self.members.get(chosen)
    }
}

impl Node {
    fn slot(&mut self, path: &str) -> &mut Subscribers {
        let (level, rest) = match path.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (path, None),
        };
        if level == "#" {
            return self.all.get_or_insert_default();
        }
        let child = match level {
            "+" => self.plus.get_or_insert_default(),
            _ => self.children.entry(level.into()).or_default(),
        };
        match rest {
            Some(rest) => child.slot(rest),
            None => child.here.get_or_insert_default(),
        }
    }

    fn remove(&mut self, path: &str, group: Option<&str>, session: SessionKey) -> bool {
        let (level, rest) = match path.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (path, None),
        };
        if level == "#" {
            return remove_slot(&mut self.all, group, session);
        }
        let child = match level {
            "+" => self.plus.as_deref_mut(),
            _ => self.children.get_mut(level),
        };
        let Some(child) = child else { return false };
        let removed = match rest {
            Some(rest) => child.remove(rest, group, session),
            None => remove_slot(&mut child.here, group, session),
        };
        if child.is_empty() {
            match level {
                "+" => self.plus = None,
                _ => drop(self.children.remove(level)),
            }
        }
        removed
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.plus.is_none() && self.here.is_none() && self.all.is_none()
    }

    /// Visits the subscribers of every matching filter until a visit returns `true`; returns whether one did.
    fn walk(&self, topic: &str, visit: &mut dyn FnMut(&Subscribers) -> bool) -> bool {
        let (level, rest) = match topic.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (topic, None),
        };
        // The rule for `$`: a wildcard in the first level does not match such a topic.
        if level.starts_with('$') {
            return self.children.get(level).is_some_and(|child| child.descend(rest, visit));
        }
        self.descend(Some(topic), visit)
    }

    fn descend(&self, rest: Option<&str>, visit: &mut dyn FnMut(&Subscribers) -> bool) -> bool {
        if self.all.as_deref().is_some_and(&mut *visit) {
            return true;
        }
        let Some(rest) = rest else {
            return self.here.as_deref().is_some_and(visit);
        };
        let (level, rest) = match rest.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (rest, None),
        };
        self.children.get(level).is_some_and(|child| child.descend(rest, visit))
            || self.plus.as_ref().is_some_and(|child| child.descend(rest, visit))
    }
}

fn remove_slot(slot: &mut Option<Box<Subscribers>>, group: Option<&str>, session: SessionKey) -> bool {
    let Some(subscribers) = slot else { return false };
    let removed = subscribers.remove(group, session);
    if subscribers.is_empty() {
        *slot = None;
    }
    removed
}
