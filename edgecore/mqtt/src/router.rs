//! Who gets a message: the subscription trie and the retained messages.
//!
//! Pure state, owned by `core`; it knows sessions only by their key.

mod retained;
#[cfg(test)]
mod tests;
mod trie;

pub(crate) use self::{
    retained::{Retained, Stored},
    trie::{Subscriber, Trie},
};

/// Names a session for as long as the broker runs; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionKey(pub(crate) u64);
