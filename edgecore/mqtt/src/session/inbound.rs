//! QoS 2 messages from the client, between PUBLISH and PUBREL.
//!
//! | state | PUBLISH with the id | PUBREL |
//! |---|---|---|
//! | unknown | new message | answered, nothing to do |
//! | taking (not yet durable) | the same message again | (cannot come before PUBREC) |
//! | taken | the same message again | done, the id is free |

use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Taking,
    Taken,
}

/// What a PUBLISH with QoS 2 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    New,
    Again,
    /// The client has more of them open than it may.
    TooMany,
}

#[derive(Debug, Default)]
pub(crate) struct Inbound {
    ids: BTreeMap<u16, State>,
}

impl Inbound {
    pub(crate) fn receive(&mut self, pid: u16, max: usize) -> Received {
        if self.ids.contains_key(&pid) {
            return Received::Again;
        }
        if self.ids.len() >= max {
            return Received::TooMany;
        }
        self.ids.insert(pid, State::Taking);
        Received::New
    }

    /// The message was taken for good; `false` if the session forgot about it meanwhile.
    pub(crate) fn taken(&mut self, pid: u16) -> bool {
        match self.ids.get_mut(&pid) {
            Some(state) => {
                *state = State::Taken;
                true
            }
            None => false,
        }
    }

    /// The message was not taken; the client will send it again.
    pub(crate) fn forget(&mut self, pid: u16) {
        self.ids.remove(&pid);
    }

    /// PUBREL; `false` if the id was not in use.
    pub(crate) fn release(&mut self, pid: u16) -> bool {
        self.ids.remove(&pid).is_some()
    }

    /// The connection ended: what was not taken by then will be sent again.
    pub(crate) fn drop_unfinished(&mut self) {
        self.ids.retain(|_, state| *state == State::Taken);
    }

    pub(crate) fn restore(&mut self, pid: u16) {
        self.ids.insert(pid, State::Taken);
    }
}
