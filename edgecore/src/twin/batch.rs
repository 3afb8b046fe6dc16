//! What one transaction will do and whom it will answer: filled while requests are applied to the twins, then split into the store's
//! part and the part that waits for the commit.

use std::collections::BTreeSet;

use device_models::payload;
use device_models::topic::{Answer, DeviceAddress};
use metastore::store::{Expect, ObjectKey, Op};

use super::table::{Id, Table};
use super::taken::Sealed;
use super::{Outlet, Refused, Verdict};

/// A verdict to be given when the commit is in.
struct Owed {
    to: Verdict,
    verdict: Result<(), Refused>,
    /// It says that an earlier transaction is in, which may be under way.
    repeated: bool,
}

/// Everything that waits for one commit.
#[derive(Default)]
pub(super) struct Batch {
    /// Devices whose DeviceStatus is to be written.
    pub(super) touched: BTreeSet<Id>,
    /// Other operations: journal records, deletions, Devices.
    pub(super) ops: Vec<Op>,
    /// What of both no request asked for: nobody sends it again if the commit fails.
    pub(super) unasked: (BTreeSet<Id>, Vec<Op>),
    /// Desired registers to be written into the Device, of the last request; only requests that are alone have any.
    pub(super) desired: Option<serde_json::Value>,
    /// Records of the conflict log, which are the first journal records among the operations.
    pub(super) conflicts: usize,
    /// Answers, in order.
    messages: Vec<(String, Vec<u8>)>,
    /// Answers to requests that were applied before.
    repeats: Vec<(String, Vec<u8>)>,
    owed: Vec<Owed>,
    /// Where to say so when the commit fails: result topic and event id.
    regrets: Vec<(String, String)>,
    /// Requests that changed something.
    pub(super) accepted: u64,
    /// Requests that were refused for what they said.
    pub(super) rejected: u64,
    /// Deltas among the answers.
    pub(super) deltas: u64,
    /// Requests that were applied before.
    pub(super) repeated: u64,
    /// What it writes about taken messages.
    pub(super) sealed: Sealed,
    /// How many transactions had failed when it was begun: with one more, what it takes for stored may not be.
    pub(super) failures: u64,
}

impl Batch {
    /// One that begins with what is left to do from elsewhere, after so many failures.
    pub(super) fn with(touched: BTreeSet<Id>, ops: Vec<Op>, failures: u64) -> Self {
        Self {
            failures,
            unasked: (touched.clone(), ops.clone()),
            touched,
            ops,
            ..Self::default()
        }
    }

    /// Requests in it.
    pub(super) fn len(&self) -> usize {
        self.owed.len()
    }

    /// Nothing to write.
    pub(super) fn writes_nothing(&self) -> bool {
        self.touched.is_empty() && self.ops.is_empty()
    }

    /// Nothing at all.
    pub(super) fn is_empty(&self) -> bool {
        self.writes_nothing() && self.owed.is_empty() && self.messages.is_empty()
    }

    /// Owes a verdict.
    pub(super) fn owe(&mut self, to: Verdict, verdict: Result<(), Refused>) {
        self.owed.push(Owed {
            to,
            verdict,
            repeated: false,
        });
    }

    /// Owes the verdict of a request that was applied before, and perhaps an answer.
    pub(super) fn repeat(&mut self, to: Verdict, answer: Option<(String, Vec<u8>)>) {
        self.repeated += 1;
        self.repeats.extend(answer);
        self.owed.push(Owed {
            to,
            verdict: Ok(()),
            repeated: true,
        });
    }

    /// Owes an answer, if anybody wants it.
    pub(super) fn answer(&mut self, outlet: Option<&dyn Outlet>, topic: String, payload: impl FnOnce() -> Vec<u8>) {
        if outlet.is_some_and(|outlet| outlet.wanted(&topic)) {
            self.messages.push((topic, payload()));
        }
    }

    /// Answers, to add to.
    pub(super) const fn messages_mut(&mut self) -> &mut Vec<(String, Vec<u8>)> {
        &mut self.messages
    }

    /// Owes an error on the result topic.
    pub(super) fn reject(
        &mut self,
        outlet: Option<&dyn Outlet>,
        topic: String,
        event_id: &str,
        now_ms: u64,
        code: u16,
        reason: &str,
    ) {
        self.rejected += 1;
        self.answer(outlet, topic, || payload::error_result(event_id, now_ms, code, reason));
    }

    /// If the commit fails, this request is told so on its result topic.
    pub(super) fn regret(&mut self, address: &DeviceAddress<'_>, answer: Answer, event_id: &str) {
        self.regrets.push((address.topic(answer), event_id.to_owned()));
    }

    /// The operations of the transaction.
    pub(super) fn take_ops(&mut self, table: &Table) -> Vec<Op> {
        let mut ops = std::mem::take(&mut self.ops);
        for id in &self.touched {
            if let Some(entry) = table.devices.get(id) {
                ops.push(put(&entry.status_key, entry.status()));
            }
        }
        ops
    }

    /// The commit is in: publishes, then gives the verdicts. `sound`: so are those that were under way when it was begun.
    pub(super) fn done(mut self, outlet: Option<&dyn Outlet>, sound: bool) {
        if sound {
            self.messages.append(&mut self.repeats);
        }
        if let Some(outlet) = outlet
            && !self.messages.is_empty()
        {
            outlet.publish(self.messages);
        }
        for owed in self.owed {
            let verdict = if owed.repeated && !sound {
                Err(Refused::NotStored)
            } else {
                owed.verdict
            };
            give(owed.to, verdict);
        }
    }

    /// The commit failed: nothing happened, and whoever asked is told why.
    pub(super) fn failed(self, outlet: Option<&dyn Outlet>, now_ms: u64, code: u16, reason: &str) -> u64 {
        if let Some(outlet) = outlet {
            let messages: Vec<_> = self
                .regrets
                .iter()
                .filter(|(topic, _)| outlet.wanted(topic))
                .map(|(topic, event_id)| (topic.clone(), payload::error_result(event_id, now_ms, code, reason)))
                .collect();
            if !messages.is_empty() {
                outlet.publish(messages);
            }
        }
        let count = self.owed.len() as u64;
        for owed in self.owed {
            // What was wrong stays wrong and is not to be sent again.
            give(owed.to, owed.verdict.and(Err(Refused::NotStored)));
        }
        count
    }
}

/// Gives a verdict. A client that is gone does not wait for it.
pub(super) fn give(to: Verdict, verdict: Result<(), Refused>) {
    if to.send(verdict).is_err() {
        tracing::trace!("nobody waits for a verdict");
    }
}

/// Writes a DeviceStatus, whatever is there: this service is its only writer.
fn put(key: &ObjectKey, object: serde_json::Value) -> Op {
    Op::Put {
        key: key.clone(),
        object,
        expect: Expect::Any,
        uid: None,
    }
}
