//! What devices ask: each request applied to its twin and noted in the batch that answers it after the commit.

use std::collections::BTreeSet;
use std::sync::Arc;

use daemon::clock::wall_ms;
use device_models::merge_device_desired;
use device_models::payload::{self, Entry as Wanted, TwinUpdate};
use device_models::topic::{self, Answer, DeviceAddress, Form, Request as Topic, TopicError};
use device_models::twin::{Author, Outcome};
use metastore::store::{CommitError, Expect, Op, StoreError};

use super::batch::{Batch, give};
use super::table::{self, Id, Table};
use super::task::{RACES, Task, push_delta};
use super::{Asked, Outlet, Refused, Request, TELEMETRY, What};
use crate::conflicts::Log;
use crate::objects::{self, DEVICES};

impl Task {
    /// Applies one request. False when it has to be alone; it is then at the front of the queue again.
    pub(super) fn apply(&mut self, batch: &mut Batch, request: Request, now: u64) -> bool {
        let Request { what, verdict } = request;
        let asked = match what {
            What::Message(asked) => asked,
            What::Release(client, packet_ids) => {
                for packet_id in packet_ids {
                    self.taken.release(client.client(), packet_id);
                }
                batch.owe(verdict, Ok(()));
                return true;
            }
        };
        let parsed = topic::parse(&asked.topic);
        if let Some((address, answer)) = parsed.as_ref().ok().and_then(of_device)
            && self.unread.holds(&device_id(address))
        {
            batch.answer(self.outlet(), address.topic(answer), || {
                let event_id = payload::parse_get(&asked.payload).unwrap_or_default();
                payload::error_result(
                    &event_id,
                    now,
                    500,
                    "the gateway cannot read this device from its store now",
                )
            });
            batch.owe(verdict, Err(Refused::NotStored));
            return true;
        }
        let result = match parsed {
            Ok(Topic::TwinUpdate(address)) => match payload::parse_twin_update(&asked.payload) {
                Ok(update) => {
                    if self.was_taken(&asked, update.identified) {
                        let answer = self.repeated(&address, &update, now);
                        batch.repeat(verdict, answer);
                        return true;
                    }
                    if sets_desired(&update) && self.table.devices.contains_key(&*device_id(&address)) {
                        let what = What::Message(asked);
                        self.waiting.push_front(Request { what, verdict });
                        return false;
                    }
                    self.report(batch, &address, &update, &asked, now)
                }
                Err(bad) => {
                    let topic = address.topic(Answer::UpdateResult);
                    batch.reject(self.outlet(), topic, &bad.event_id, now, 400, &bad.reason);
                    Err(Refused::Request)
                }
            },
            Ok(Topic::TwinGet(address)) => self.get(batch, &address, &asked.payload, now),
            Ok(Topic::StateUpdate(address)) => self.state(batch, &address, &asked, now),
            Ok(Topic::MembershipGet { node }) => self.membership(batch, node, &asked.payload, now),
            // Other `$hw/` topics of KubeEdge (uploads, rules) mean nothing here and hurt nobody.
            Err(TopicError::NotOurs) => Ok(()),
            Err(_) => Err(Refused::Topic),
        };
        batch.owe(verdict, result);
        true
    }

    /// Whether this message was applied before and is sent again.
    fn was_taken(&self, asked: &Asked, identified: bool) -> bool {
        let origin = asked.origin.as_ref();
        origin.is_some_and(|origin| self.taken.knows(origin, identified))
    }

    /// The answer to an update that was applied before.
    fn repeated(&self, address: &DeviceAddress<'_>, update: &TwinUpdate<'_>, now: u64) -> Option<(String, Vec<u8>)> {
        let entry = self.table.devices.get(&*device_id(address))?;
        let topic = address.topic(Answer::UpdateResult);
        self.outlet()?.wanted(&topic).then(|| {
            let answer = entry.twin.repeated(now, &update.event_id, &update.entries);
            (topic, answer)
        })
    }

    fn report(
        &mut self,
        batch: &mut Batch,
        address: &DeviceAddress<'_>,
        update: &TwinUpdate<'_>,
        asked: &Asked,
        now: u64,
    ) -> Result<(), Refused> {
        let id = device_id(address);
        let outlet = self.parts.outlet.get().map(|outlet| &**outlet);
        let Some((id, entry)) = known(&mut self.table, &id) else {
            return unknown_device(
                batch,
                outlet,
                address.topic(Answer::UpdateResult),
                &update.event_id,
                now,
            );
        };
        entry.plain |= address.form == Form::Plain;
        let outcome = {
            let mut clock = self.parts.stamps.lock();
            let author = Author {
                clock: &mut clock,
                by: &asked.by,
            };
            entry.twin.report(now, author, &update.entries)
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(e) => {
                let topic = address.topic(Answer::UpdateResult);
                batch.reject(outlet, topic, &update.event_id, now, e.code(), &e.to_string());
                return Err(Refused::Request);
            }
        };
        note(batch, outlet, entry, address, &outcome, &update.event_id, now);
        batch.touched.insert(id);
        if let Some(origin) = &asked.origin {
            self.taken.note(origin, update.identified);
        }
        Ok(())
    }

    fn get(&self, batch: &mut Batch, address: &DeviceAddress<'_>, payload: &[u8], now: u64) -> Result<(), Refused> {
        let (outlet, topic) = (self.outlet(), address.topic(Answer::GetResult));
        let event_id = match payload::parse_get(payload) {
            Ok(event_id) => event_id,
            Err(bad) => {
                batch.reject(outlet, topic, &bad.event_id, now, 400, &bad.reason);
                return Err(Refused::Request);
            }
        };
        let Some(entry) = self.table.devices.get(&*device_id(address)) else {
            return unknown_device(batch, outlet, topic, &event_id, now);
        };
        batch.answer(outlet, topic, || entry.twin.get(now, &event_id));
        Ok(())
    }

    fn state(
        &mut self,
        batch: &mut Batch,
        address: &DeviceAddress<'_>,
        asked: &Asked,
        now: u64,
    ) -> Result<(), Refused> {
        let outlet = self.parts.outlet.get().map(|outlet| &**outlet);
        let topic = address.topic(Answer::StateResult);
        let update = match payload::parse_state_update(&asked.payload) {
            Ok(update) => update,
            Err(bad) => {
                batch.reject(outlet, topic, &bad.event_id, now, 400, &bad.reason);
                return Err(Refused::Request);
            }
        };
        let Some((id, entry)) = known(&mut self.table, &device_id(address)) else {
            return unknown_device(batch, outlet, topic, &update.event_id, now);
        };
        if let Err(e) = entry.twin.set_state(now, &update.state) {
            batch.reject(outlet, topic, &update.event_id, now, e.code(), &e.to_string());
            return Err(Refused::Request);
        }
        batch.regret(address, Answer::StateResult, &update.event_id);
        batch.answer(outlet, topic, || entry.twin.state_result(now, &update.event_id));
        batch.touched.insert(id);
        if let Some(origin) = &asked.origin {
            self.taken.note(origin, update.identified);
        }
        Ok(())
    }

    fn membership(&self, batch: &mut Batch, node: &str, payload: &[u8], now: u64) -> Result<(), Refused> {
        let (outlet, topic) = (self.outlet(), topic::membership_result(node));
        let event_id = match payload::parse_get(payload) {
            Ok(event_id) => event_id,
            Err(bad) => {
                batch.reject(outlet, topic, &bad.event_id, now, 400, &bad.reason);
                return Err(Refused::Request);
            }
        };
        if node != self.parts.node {
            let reason = format!("this gateway is {}", self.parts.node);
            batch.reject(outlet, topic, &event_id, now, 404, &reason);
            return Err(Refused::Request);
        }
        batch.answer(outlet, topic, || {
            let mut members: Vec<_> = self
                .table
                .devices
                .iter()
                .map(|(id, entry)| payload::MemberDevice {
                    id,
                    name: entry.twin.name(),
                    state: entry.twin.state().unwrap_or_default(),
                    ..payload::MemberDevice::default()
                })
                .collect();
            members.sort_by(|a, b| a.id.cmp(b.id));
            payload::membership_result(&event_id, now, &members)
        });
        Ok(())
    }

    /// A request that sets a desired value: alone, against the Device as it is stored, again when somebody else was faster.
    pub(super) async fn desire(&mut self, request: Request) {
        for attempt in 0..RACES {
            let What::Message(asked) = &request.what else { break };
            let (Ok(Topic::TwinUpdate(address)), Ok(update)) =
                (topic::parse(&asked.topic), payload::parse_twin_update(&asked.payload))
            else {
                break;
            };
            let now = wall_ms();
            let mut batch = Batch::with(BTreeSet::new(), Vec::new(), self.failures);
            let mut result = self.report(&mut batch, &address, &update, asked, now);
            if result.is_ok() {
                match self.device_write(&address, &batch) {
                    Ok(Some((op, log))) => {
                        batch.conflicts = log.records;
                        batch.ops.splice(0..0, log.ops);
                        batch.ops.extend([op, self.parts.stamps.persist()]);
                    }
                    Ok(None) => {}
                    Err(e) => {
                        tracing::error!(error = %e, "A Device cannot be read.");
                        self.taken.discard();
                        self.doubtful.insert(device_id(&address));
                        self.reload();
                        result = Err(Refused::NotStored);
                        batch = Batch::default();
                    }
                }
            }
            if batch.writes_nothing() {
                batch.owe(request.verdict, result);
                batch.done(self.outlet(), true);
                return;
            }
            let tx = self.transaction(&mut batch);
            match self.parts.store.commit(tx).await {
                Ok(committed) => {
                    batch.owe(request.verdict, result);
                    self.succeeded(Some(&committed), batch);
                    // It may hold what another wrote of which the watch has not told yet, and will not any more.
                    for object in committed
                        .objects
                        .iter()
                        .filter(|object| &*object.key.resource == DEVICES)
                    {
                        if let Ok(device) = object.value() {
                            self.device(&object.key, object.revision, &device);
                        }
                    }
                    return;
                }
                Err(CommitError::Conflict { .. } | CommitError::NotFound(_)) if attempt + 1 < RACES => {
                    self.taken.landed(std::mem::take(&mut batch.sealed), false);
                    self.doubtful.extend(batch.touched.iter().cloned());
                    self.reload();
                    // What cannot be read now cannot be written either.
                    if batch.touched.iter().any(|id| self.unread.holds(id)) {
                        break;
                    }
                }
                Err(e) => {
                    batch.owe(request.verdict, result);
                    self.failed(&e, batch);
                    self.reload();
                    return;
                }
            }
        }
        give(request.verdict, Err(Refused::NotStored));
    }

    /// The Device with the registers that the twin has now and the store does not. The store may have what the hub wrote a moment ago
    /// and the twin has yet to hear of: one of the two may be dropped then.
    fn device_write(&self, address: &DeviceAddress<'_>, batch: &Batch) -> Result<Option<(Op, Log)>, StoreError> {
        let Some(body) = &batch.desired else { return Ok(None) };
        let key = objects::device_key(DEVICES, address.namespace, address.name);
        let Some(stored) = self.parts.store.get(&key)? else {
            return Ok(None);
        };
        let Ok(held) = stored.value() else { return Ok(None) };
        let mut device = held.clone();
        let changed = merge_device_desired(&mut device, body);
        let log = self.parts.conflicts.log(&key, &device, &changed.conflicts, wall_ms())?;
        objects::localize(&mut device, Some(&held), "");
        let put = Op::Put {
            key,
            object: device,
            expect: Expect::Revision(stored.revision),
            uid: None,
        };
        Ok(Some((put, log)))
    }
}

/// Adds what an applied update answers and keeps.
fn note(
    batch: &mut Batch,
    outlet: Option<&dyn Outlet>,
    entry: &table::Entry,
    address: &DeviceAddress<'_>,
    outcome: &Outcome,
    event_id: &str,
    now: u64,
) {
    batch.accepted += 1;
    batch.desired = outcome.desired_body();
    batch.regret(address, Answer::UpdateResult, event_id);
    batch.answer(outlet, address.topic(Answer::UpdateResult), || outcome.result(event_id));
    batch.answer(outlet, address.topic(Answer::Document), || outcome.document(event_id));
    if entry.twin.differs()
        && let Some(outlet) = outlet
    {
        batch.deltas += push_delta(batch.messages_mut(), outlet, entry, now);
    }
    if entry.any_history() {
        let values = outcome.reported().map(|change| (change.property, change.value));
        if let Some(record) = table::history_record(entry, now, values) {
            batch.ops.push(Op::JournalAppend {
                stream: TELEMETRY.into(),
                body: record.into(),
            });
        }
    }
}

fn unknown_device(
    batch: &mut Batch,
    outlet: Option<&dyn Outlet>,
    topic: String,
    event_id: &str,
    now: u64,
) -> Result<(), Refused> {
    batch.reject(
        outlet,
        topic,
        event_id,
        now,
        404,
        "update rejected due to the device is not existed",
    );
    Err(Refused::Request)
}

fn known<'t>(table: &'t mut Table, id: &str) -> Option<(Id, &'t mut table::Entry)> {
    let id = Arc::clone(table.devices.get_key_value(id)?.0);
    table.devices.get_mut(&id).map(|entry| (id, entry))
}

/// The device that a request is about, and where it is answered.
fn of_device<'r, 't>(request: &'r Topic<'t>) -> Option<(&'r DeviceAddress<'t>, Answer)> {
    match request {
        Topic::TwinUpdate(address) => Some((address, Answer::UpdateResult)),
        Topic::TwinGet(address) => Some((address, Answer::GetResult)),
        Topic::StateUpdate(address) => Some((address, Answer::StateResult)),
        Topic::MembershipGet { .. } => None,
    }
}

fn device_id(address: &DeviceAddress<'_>) -> Id {
    format!("{}/{}", address.namespace, address.name).into()
}

/// Whether an update writes a desired register, so that the Device changes with it.
fn sets_desired(update: &TwinUpdate<'_>) -> bool {
    update.entries.iter().any(|(_, entry)| match entry {
        Wanted::Delete => true,
        Wanted::Set { expected, .. } => expected.is_some(),
    })
}
