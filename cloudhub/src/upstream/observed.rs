//! What each gateway's observed set was when it was last written to the API: the hub's inventory of it, read back from
//! annotations, so that a restarted hub asks nobody to send anything twice. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use proto::Hash;

/// How many keys that lost their mark are remembered, so that a slower word of an earlier time does not put it back. That word is
/// on its way when the mark goes: a moment's worth is enough.
const MAX_CLEARED: usize = 1024;

/// The entry behind one observed key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    node: Arc<str>,
    hash: Hash,
    /// resourceVersion of the object the mark was read from; 0 when the API's are not numbers.
    revision: u64,
}

/// The index: observed key -> mark, and which keys each node has.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    marks: HashMap<Arc<str>, Mark>,
    by_node: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Key -> resourceVersion at which it was seen without a mark, of the last few.
    cleared: HashMap<Arc<str>, u64>,
    cleared_order: VecDeque<Arc<str>>,
}

impl Observed {
    /// The API object behind `key` carries this mark (`None`: it is gone, or carries none). A picture older than what is known
    /// is passed over: the writer tells of its own writes before the watch does, or after. False when what is known is newer and
    /// something else.
    pub(crate) fn set(&mut self, key: &Arc<str>, mark: Option<(Arc<str>, Hash)>, revision: u64) -> bool {
        let older = |known: u64| revision != 0 && revision < known;
        let had_one = self.marks.contains_key(key);
        if let Some(known) = self.marks.get(key) {
            if older(known.revision) {
                return mark.is_some_and(|(node, hash)| (node, hash) == (Arc::clone(&known.node), known.hash));
            }
            let node = Arc::clone(&known.node);
            if let Some(keys) = self.by_node.get_mut(&node) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_node.remove(&node);
                }
            }
            self.marks.remove(key);
        }
        if self.cleared.get(key).is_some_and(|cleared| older(*cleared)) {
            return mark.is_none();
        }
        if let Some((node, hash)) = mark {
            self.by_node
                .entry(Arc::clone(&node))
                .or_default()
                .insert(Arc::clone(key));
            self.marks.insert(Arc::clone(key), Mark { node, hash, revision });
        } else if had_one && revision != 0 {
            self.clear(key, revision);
        }
        true
    }

    fn clear(&mut self, key: &Arc<str>, revision: u64) {
        if self.cleared.insert(Arc::clone(key), revision).is_some() {
            return;
        }
        self.cleared_order.push_back(Arc::clone(key));
        if self.cleared_order.len() > MAX_CLEARED
            && let Some(oldest) = self.cleared_order.pop_front()
        {
            self.cleared.remove(&oldest);
        }
    }

    /// What the hub holds of `node`'s observed set.
    pub(crate) fn inventory(&self, node: &str) -> BTreeMap<Arc<str>, Hash> {
        let keys = self.by_node.get(node).into_iter().flatten();
        keys.filter_map(|k| self.marks.get(k).map(|m| (Arc::clone(k), m.hash)))
            .collect()
    }

    /// The node whose entry this is.
    pub(crate) fn owner(&self, key: &str) -> Option<Arc<str>> {
        self.marks.get(key).map(|m| Arc::clone(&m.node))
    }

    /// The resourceVersion at which the entry was seen or written last.
    pub(crate) fn revision(&self, key: &str) -> Option<u64> {
        self.marks.get(key).map(|m| m.revision)
    }

    /// The hash of the entry, if the hub holds it.
    pub(crate) fn hash(&self, key: &str) -> Option<Hash> {
        self.marks.get(key).map(|m| m.hash)
    }

    /// Keys with this prefix that are not in `seen`: gone while nobody was watching.
    pub(crate) fn missing(&self, prefix: &str, seen: &HashSet<Arc<str>>) -> Vec<Arc<str>> {
        self.marks
            .keys()
            .filter(|k| k.starts_with(prefix) && !seen.contains(*k))
            .cloned()
            .collect()
    }

    /// Keys with this prefix.
    pub(crate) fn with_prefix(&self, prefix: &str) -> Vec<Arc<str>> {
        self.marks.keys().filter(|k| k.starts_with(prefix)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(text: &str) -> Arc<str> {
        Arc::from(text)
    }

    #[test]
    fn inventory_follows_the_newest_picture() {
        let mut x = Observed::default();
        x.set(&s("k1"), Some((s("gw-1"), 1)), 10);
        x.set(&s("k2"), Some((s("gw-1"), 2)), 11);
        x.set(&s("k1"), Some((s("gw-1"), 3)), 12);
        x.set(&s("k1"), Some((s("gw-1"), 1)), 10);
        assert_eq!(x.inventory("gw-1"), BTreeMap::from([(s("k1"), 3), (s("k2"), 2)]));
        x.set(&s("k2"), None, 13);
        x.set(&s("k1"), Some((s("gw-2"), 3)), 14);
        assert!(x.inventory("gw-1").is_empty() && !x.by_node.contains_key("gw-1"));
        assert_eq!(x.owner("k1"), Some(s("gw-2")));
        assert_eq!(x.hash("k1"), Some(3));
    }

    #[test]
    fn a_slower_word_does_not_put_back_what_was_taken_off() {
        let mut x = Observed::default();
        let mark = |hash| Some((s("gw-1"), hash));
        assert!(x.set(&s("k"), mark(1), 10));
        assert!(x.set(&s("k"), None, 12));
        assert!(
            !x.set(&s("k"), mark(2), 11),
            "written before it was taken off, told after"
        );
        assert_eq!(x.owner("k"), None);
        assert!(x.set(&s("k"), mark(3), 13));
        assert!(!x.set(&s("k"), mark(2), 11) && x.set(&s("k"), mark(3), 11));
        assert_eq!(x.hash("k"), Some(3));
        for n in 0..=MAX_CLEARED {
            x.set(&s(&format!("{n}")), mark(1), 1);
            x.set(&s(&format!("{n}")), None, 2);
        }
        assert_eq!((x.cleared.len(), x.cleared_order.len()), (MAX_CLEARED, MAX_CLEARED));
    }

    #[test]
    fn a_relist_tells_what_is_gone_by_kind() {
        let mut x = Observed::default();
        for k in ["a/1", "a/2", "b/1"] {
            x.set(&s(k), Some((s("gw"), 1)), 0);
        }
        assert_eq!(x.missing("a/", &HashSet::from([s("a/1")])), [s("a/2")]);
        assert_eq!(x.with_prefix("b/"), [s("b/1")]);
    }
}
