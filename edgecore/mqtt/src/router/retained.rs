//! The retained message of each topic, bounded by count and bytes.

use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::Duration};

use crate::{packet::Publish, topic};

#[derive(Clone, Debug)]
struct Entry {
    message: Arc<Publish>,
    expires: Option<Duration>,
}

/// What became of a message that was to be retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// It is the retained message of its topic now.
    Yes,
    /// An empty payload: the topic had one and has it no more.
    Cleared,
    /// An empty payload, and there was nothing to clear.
    Nothing,
    /// A bound is reached; what was retained for the topic, if anything, still is.
    Full,
}

#[derive(Debug)]
pub(crate) struct Retained {
    topics: BTreeMap<Arc<str>, Entry>,
    bytes: usize,
    max_messages: usize,
    max_bytes: usize,
}

impl Retained {
    pub(crate) fn new(max_messages: usize, max_bytes: usize) -> Self {
        Self {
            topics: BTreeMap::new(),
            bytes: 0,
            max_messages,
            max_bytes,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.topics.len()
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Retains the message (already cut loose from its read buffer). `now` counts from the broker's start.
    pub(crate) fn set(&mut self, message: &Arc<Publish>, now: Duration) -> Stored {
        if message.payload.is_empty() {
            return match self.remove(&message.topic) {
                true => Stored::Cleared,
                false => Stored::Nothing,
            };
        }
        let old = self.topics.get(&message.topic).map_or(0, |e| e.message.cost());
        let fits =
            self.bytes - old + message.cost() <= self.max_bytes && (old > 0 || self.topics.len() < self.max_messages);
        if !fits {
            return Stored::Full;
        }
        self.bytes = self.bytes - old + message.cost();
        let expires = message.expiry_s().map(|s| now + Duration::from_secs(s.into()));
        self.topics.insert(
            message.topic.clone(),
            Entry {
                message: message.clone(),
                expires,
            },
        );
        Stored::Yes
    }

    pub(crate) fn remove(&mut self, topic: &str) -> bool {
        let removed = self.topics.remove(topic);
        self.bytes -= removed.as_ref().map_or(0, |e| e.message.cost());
        removed.is_some()
    }

    /// The retained messages a filter path matches, in topic order, with the time each expires.
    pub(crate) fn matching(&self, path: &str, now: Duration) -> Vec<(Arc<Publish>, Option<Duration>)> {
        let prefix = topic::literal_prefix(path);
        self.topics
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(topic, _)| topic.starts_with(prefix))
            .filter(|(topic, entry)| entry.expires.is_none_or(|at| at > now) && topic::matches(path, topic))
            .map(|(_, entry)| (entry.message.clone(), entry.expires))
            .collect()
    }

    /// When the next message expires.
    pub(crate) fn next_expiry(&self) -> Option<Duration> {
        self.topics.values().filter_map(|entry| entry.expires).min()
    }

    /// Takes out what expired, for the durable copy to be removed too.
    pub(crate) fn expire(&mut self, now: Duration) -> Vec<Arc<str>> {
        let expired: Vec<Arc<str>> = self
            .topics
            .iter()
            .filter(|(_, entry)| entry.expires.is_some_and(|at| at <= now))
            .map(|(topic, _)| topic.clone())
            .collect();
        for topic in &expired {
            self.remove(topic);
        }
        expired
    }
}
