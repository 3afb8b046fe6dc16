//! The task: what is to be looked at, and when.
//!
//! | a Work              | is looked at                                    | and then                                            |
//! |---------------------|-------------------------------------------------|-----------------------------------------------------|
//! | new, changed        | at once                                         | applied, unless suspended; its state reported       |
//! | an object drifted   | at once; after growing pauses in a tug of war   | applied                                             |
//! | failed              | after growing pauses; when a kind appears       | applied                                             |
//! | deleted above       | at once, and when one of its objects went       | objects taken away or let go, then reported deleted |
//! | gone                | when everything else was applied                | objects taken away or let go, the account closed    |
//!
//! Objects are taken away only when nothing waits to be applied: an object may have moved to another Work, which then has it.

mod apply;
mod leave;
mod report;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use daemon::clock;
use daemon::drain::Drain;
use federation::names;
use metastore::api::ApiServer;
use metastore::store::{CommitError, Event, EventKind, ListOptions, Object, ObjectKey, Op, StoreError, Tapped, Tx};

use super::kinds::Kinds;
use super::ledger;
use super::manifest::{self, Place, Wishes};
use super::member::Member;
use super::objects::{Id, Objects};
use super::state::Applied;
use crate::objects::{self, DEVICES, MODELS, STATUSES, WORK_GROUP, WORKS};

/// A pause far ahead, when there is nothing to wait for.
const NEVER: Duration = Duration::from_secs(24 * 3600);
/// How long a change waits for what it brings with it, to be one report with that.
const SETTLES: Duration = Duration::from_millis(20);
/// Between two reports of a Work: what changes meanwhile is one.
const TOGETHER: Duration = Duration::from_millis(200);
/// Pauses after a failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Repairs within [`LONGEST_PAUSE`] that follow at once; after these somebody else wants it otherwise, and nobody wins by haste.
const EAGER_REPAIRS: u32 = 3;
/// When the kinds are read again after a definition changed: the API takes a moment to serve what it defines.
const KINDS_AFTER: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];
/// When what waits for an object to go looks again, beside being told.
const GONE_AFTER: Duration = Duration::from_secs(10);
/// Works, and bytes of them, in memory at a time.
const BATCH: usize = 16;
const BATCH_BYTES: usize = 512 * 1024;
/// Writes under way at a time: the store makes one sync of them.
const ABREAST: usize = 16;
/// Changes taken in before something is done about them.
const TAKEN: usize = 512;

/// Keeps everything that Works bring as they want it, until the drain begins.
pub(crate) async fn run(api: ApiServer, drain: Drain) {
    let mut tap = api.store().tap(concerns);
    let mut task = Task::new(Member::new(api));
    task.all(clock::since_start());
    loop {
        let mut taken = 0;
        while let Some(tapped) = tap.try_next() {
            if !task.take(tapped, clock::since_start()) {
                return;
            }
            taken += 1;
            if taken == TAKEN {
                break;
            }
        }
        let now = clock::since_start();
        let due = task.due().map_or(NEVER, |due| due.saturating_sub(now));
        if due.is_zero() {
            tokio::select! {
                biased;
                () = drain.stopping() => return,
                () = task.step(now) => {}
            }
            continue;
        }
        tokio::select! {
            biased;
            () = drain.stopping() => return,
            tapped = tap.next() => if !task.take(tapped, clock::since_start()) {
                return;
            },
            () = tokio::time::sleep(due) => {}
        }
    }
}

/// Changes that may be about a Work or about what one brought. On the store's own thread, so it looks at texts and parses nothing.
pub(super) fn concerns(event: &Event) -> bool {
    let key = &event.object.key;
    match (&*key.group, &*key.resource) {
        // The most frequent, and never brought by a Work.
        ("", "events") | ("events.k8s.io" | "coordination.k8s.io", _) => false,
        (_, STATUSES) => false,
        (WORK_GROUP, WORKS) => true,
        // Mirrored ones carry no label.
        (_, DEVICES | MODELS) => true,
        _ if is_definition(key) => true,
        _ => is_labelled(&event.object) || event.previous.as_ref().is_some_and(is_labelled),
    }
}

fn is_definition(key: &ObjectKey) -> bool {
    &*key.resource == "customresourcedefinitions" && &*key.group == "apiextensions.k8s.io"
}

fn is_labelled(object: &Object) -> bool {
    str::from_utf8(&object.json).is_ok_and(|text| text.contains(names::MANAGED))
}

/// What is known of a Work.
#[derive(Debug, Default)]
struct Work {
    wishes: Wishes,
    /// Hash of it as it was looked at last.
    seen: Option<u64>,
    /// Revision of the last write of its status.
    own: u64,
    /// Its objects, in the order of its manifests; none where the kind is not served.
    places: Vec<Option<Place>>,
    /// A kind of its manifests is not served.
    unserved: bool,
    applied: Applied,
    deleted: bool,
    /// Hash of the status that is stored.
    reported: Option<u64>,
    failures: u32,
    /// An object changed under its hands; how often, and when it was last repaired.
    drifted: bool,
    repairs: u32,
    repaired: Duration,
    /// It is not in the store any more.
    gone: bool,
    look: Option<Duration>,
    part: Option<Duration>,
    report: Option<Duration>,
    /// When it was reported last.
    told: Duration,
}

impl Work {
    /// When the next repair may be.
    fn repair(&self, now: Duration) -> Duration {
        match self.repairs.checked_sub(EAGER_REPAIRS) {
            Some(too_many) if now.saturating_sub(self.repaired) < LONGEST_PAUSE => now + pause(too_many + 1),
            _ => now,
        }
    }

    fn repaired(&mut self, now: Duration) {
        let recent = now.saturating_sub(self.repaired) < 2 * LONGEST_PAUSE;
        self.repairs = if recent { self.repairs.saturating_add(1) } else { 1 };
        self.repaired = now;
    }

    fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        pause(self.failures)
    }

    /// Something that is reported of it may have changed.
    fn wants_report(&mut self, now: Duration) {
        let due = (now + SETTLES).max(self.told + TOGETHER);
        self.report.get_or_insert(due);
    }

    fn is_live(&self) -> bool {
        !self.gone && !self.wishes.deleting
    }
}

/// Twice as long after each failure.
pub(super) fn pause(failures: u32) -> Duration {
    let factor = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE)
}

fn sooner(at: &mut Option<Duration>, than: Duration) {
    *at = Some(at.map_or(than, |at| at.min(than)));
}

pub(super) struct Task {
    member: Member,
    kinds: Option<Kinds>,
    /// When they are to be read again.
    reread: Vec<Duration>,
    /// When everything is to be looked at again.
    everything: Option<Duration>,
    works: BTreeMap<Id, Work>,
    objects: Objects,
}

impl Task {
    pub(super) fn new(member: Member) -> Self {
        Self {
            member,
            kinds: None,
            reread: Vec::new(),
            everything: None,
            works: BTreeMap::new(),
            objects: Objects::default(),
        }
    }

    /// Everything is to be looked at: at the start, and when changes were missed.
    pub(super) fn all(&mut self, now: Duration) {
        self.everything = None;
        match self.ids() {
            Ok(ids) => {
                for id in ids {
                    self.work(&id).look = Some(now);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "The Works cannot be read.");
                self.everything = Some(now + LONGEST_PAUSE);
            }
        }
        for work in self.works.values_mut() {
            work.look = Some(now);
        }
    }

    /// Works that are stored, and Works that have an account.
    fn ids(&self) -> Result<Vec<Id>, StoreError> {
        let store = self.member.store();
        let mut ids: Vec<Id> = ledger::works(store)?.into_iter().map(Id::from).collect();
        let mut after = None;
        loop {
            let options = ListOptions {
                limit: Some(BATCH),
                after,
                at: None,
            };
            let listed = store.list(&objects::work_scope(), options)?;
            ids.extend(listed.items.iter().map(|object| id(&object.key)));
            after = listed.items.last().map(|object| object.key.clone());
            if !listed.more {
                return Ok(ids);
            }
        }
    }

    fn work(&mut self, id: &Id) -> &mut Work {
        self.works.entry(Arc::clone(id)).or_default()
    }

    /// Takes note of a change. False when there will be no more.
    pub(super) fn take(&mut self, tapped: Tapped, now: Duration) -> bool {
        match tapped {
            Tapped::Closed => return false,
            Tapped::Missed => {
                self.reread = vec![now];
                self.all(now);
            }
            Tapped::Event(event) => self.event(&event, now),
        }
        true
    }

    fn event(&mut self, event: &Event, now: Duration) {
        let key = &event.object.key;
        if (&*key.group, &*key.resource) == (WORK_GROUP, WORKS) {
            let work = self.work(&id(key));
            if event.object.revision != work.own {
                work.look = Some(now);
            }
            return;
        }
        if is_definition(key) {
            self.reread = KINDS_AFTER.map(|after| now + after).to_vec();
        }
        let Some(tracked) = self.objects.get(key) else { return };
        let there = event.kind != EventKind::Deleted;
        let print = there.then(|| event.object.value().ok()).flatten();
        let stands = print.is_some_and(|object| tracked.stands(manifest::print(&object)));
        for id in &tracked.works {
            let Some(work) = self.works.get_mut(id) else { continue };
            if work.wishes.deleting && !there && !work.deleted {
                sooner(&mut work.part, now);
            }
            work.wants_report(now);
        }
        if stands {
            return;
        }
        if let Some(work) = tracked.keeper().and_then(|id| self.works.get_mut(id)) {
            let at = work.repair(now);
            work.drifted = true;
            sooner(&mut work.look, at);
        }
    }

    /// When there is something to do.
    pub(super) fn due(&self) -> Option<Duration> {
        let works = self.works.values();
        let works = works.flat_map(|work| [work.look, work.part, work.report]).flatten();
        works.chain(self.everything).chain(self.reread.iter().copied()).min()
    }

    /// Does some of what is due.
    pub(super) async fn step(&mut self, now: Duration) {
        if self.everything.is_some_and(|at| at <= now) {
            self.all(now);
        }
        self.reread_kinds(now).await;
        let looks = self.pick(now, |work| work.look);
        if !looks.is_empty() {
            self.look(looks, now).await;
        } else if let Some(id) = self.pick(now, |work| work.part).into_iter().next() {
            self.part(&id, now).await;
        }
        let reports = self.pick(now, |work| work.report);
        if !reports.is_empty() {
            self.report(&reports, now).await;
        }
    }

    fn pick(&self, now: Duration, when: impl Fn(&Work) -> Option<Duration>) -> Vec<Id> {
        let due = self
            .works
            .iter()
            .filter(|(_, work)| when(work).is_some_and(|at| at <= now));
        due.map(|(id, _)| Arc::clone(id)).take(BATCH).collect()
    }

    async fn reread_kinds(&mut self, now: Duration) {
        let due = self.reread.iter().any(|at| *at <= now);
        self.reread.retain(|at| *at > now);
        if self.works.is_empty() {
            // Nobody asks for them.
            self.kinds = None;
            return;
        }
        if self.kinds.is_some() && !due {
            return;
        }
        let Some(kinds) = Kinds::read(&self.member.api, &self.member.user).await else {
            self.reread.push(now + FIRST_PAUSE);
            return;
        };
        let before = self.kinds.replace(kinds).map(|kinds| kinds.fingerprint);
        if before != self.kinds.as_ref().map(|kinds| kinds.fingerprint) {
            for work in self.works.values_mut().filter(|work| work.unserved) {
                work.look = Some(now);
            }
        }
    }

    async fn write(&self, ops: Vec<Op>) -> Result<(), CommitError> {
        if ops.is_empty() {
            return Ok(());
        }
        self.member.store().commit(Tx(ops)).await.map(drop)
    }
}

fn id(key: &ObjectKey) -> Id {
    format!("{}/{}", key.namespace, key.name).into()
}

fn key(id: &Id) -> ObjectKey {
    let (namespace, name) = id.split_once('/').unwrap_or(("", id));
    objects::work_key(namespace, name)
}
