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

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use daemon::clock;
use daemon::drain::Drain;
use federation::names;
use futures_util::StreamExt as _;
use futures_util::stream;
use metastore::api::ApiServer;
use metastore::store::{
    CommitError, Event, EventKind, Expect, ListOptions, Object, ObjectKey, Op, StoreError, Tapped, Tx,
};
use serde_json::Value;

use super::kinds::Kinds;
use super::ledger::{self, Account, Entry};
use super::manifest::{self, Place, Said, Wishes};
use super::member::{Done, Leave, Member};
use super::objects::{Id, Objects};
use super::state::{self, Applied};
use crate::objects::{self, DEVICES, MODELS, STATUSES, WORK_GROUP, WORKS};
use crate::uplink::is_mirrored;

/// A pause far ahead, when there is nothing to wait for.
const NEVER: Duration = Duration::from_secs(24 * 3600);
/// How long changes of a Work's objects wait for each other, to be one report.
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

/// A Work about to be applied.
struct Ready {
    id: Id,
    cluster: String,
    manifests: Vec<Value>,
    errors: BTreeMap<usize, String>,
    obsolete: bool,
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
            work.report.get_or_insert(now + TOGETHER);
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

    /// Looks at Works: applies them, or says what else is to be done about them.
    async fn look(&mut self, ids: Vec<Id>, now: Duration) {
        let (mut ready, mut ops, mut bytes) = (Vec::new(), Vec::new(), 0);
        for id in ids {
            if bytes > BATCH_BYTES {
                break;
            }
            self.work(&id).look = None;
            match self.prepare(&id, now, &mut ops) {
                Ok(Some((one, size))) => {
                    bytes += size;
                    ready.push(one);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(work = %id, %error, "A Work cannot be looked at.");
                    let work = self.work(&id);
                    work.look = Some(now + work.failed());
                }
            }
        }
        // Before anything of them is there.
        if let Err(error) = self.write(ops).await {
            tracing::warn!(%error, "What Works bring cannot be noted, so it is not brought.");
            for one in &ready {
                let work = self.work(&one.id);
                work.look = Some(now + work.failed());
                work.applied = Applied::of(1, vec![format!("the gateway's store: {error}")]);
                work.report.get_or_insert(now + TOGETHER);
            }
            return;
        }
        self.apply(ready, now).await;
    }

    /// Reads a Work and takes note of what it lists. What is to be applied of it, and its size.
    fn prepare(&mut self, id: &Id, now: Duration, ops: &mut Vec<Op>) -> Result<Option<(Ready, usize)>, String> {
        let Some(kinds) = &self.kinds else {
            return Err("the local API does not say what it serves".to_owned());
        };
        let work = self.works.entry(Arc::clone(id)).or_default();
        let key = key(id);
        let Some(stored) = self.member.store().get(&key).map_err(|e| e.to_string())? else {
            // Somebody's mistake when the hub still has it: nothing follows from that.
            let lost = is_mirrored(self.member.store(), &key).map_err(|e| e.to_string())?;
            if !lost {
                (work.gone, work.part) = (true, Some(now));
            }
            return Ok(None);
        };
        let mut object = stored.value().map_err(|e| e.to_string())?;
        work.gone = false;
        work.wishes = Wishes::of(&object);
        let seen = manifest::print(&object);
        if work.seen.is_none() {
            work.applied = Applied::stored(&object);
        }
        if work.seen.replace(seen) != Some(seen) {
            (work.failures, work.deleted) = (0, false);
        }
        let manifests = manifest::take_manifests(&mut object);
        let mut errors = BTreeMap::new();
        let mut places = Vec::with_capacity(manifests.len());
        for (ordinal, manifest) in manifests.iter().enumerate() {
            let place = Place::of(manifest, kinds);
            places.push(place.map_err(|error| errors.insert(ordinal, error)).ok());
        }
        work.unserved = !errors.is_empty();
        self.objects.list(id, &work.places, &places);
        work.places = places;
        if work.wishes.deleting {
            if !work.deleted {
                work.part = Some(now);
            }
            return Ok(None);
        }
        work.report.get_or_insert(now + TOGETHER);
        let before = ledger::read(self.member.store(), id).map_err(|e| e.to_string())?;
        let mut account = Account {
            preserve: work.wishes.preserve,
            manifests: before.manifests.clone(),
        };
        if !work.wishes.suspended {
            for place in work.places.iter().flatten() {
                let entry = Entry::of(place);
                if !account.manifests.contains(&entry) {
                    account.manifests.push(entry);
                }
            }
        }
        if account != before && !account.manifests.is_empty() {
            ops.push(ledger::write(id, &account));
        }
        if work.wishes.suspended {
            return Ok(None);
        }
        let obsolete = !obsolete(&account, &manifests).is_empty();
        let cluster = names::cluster_of(&key.namespace).unwrap_or(&key.namespace).to_owned();
        let ready = Ready {
            id: Arc::clone(id),
            cluster,
            manifests,
            errors,
            obsolete,
        };
        Ok(Some((ready, stored.json.len())))
    }

    async fn apply(&mut self, mut ready: Vec<Ready>, now: Duration) {
        let mut jobs = Vec::new();
        for (at, one) in ready.iter_mut().enumerate() {
            let Some(work) = self.works.get(&one.id) else { continue };
            let (namespace, name) = one.id.split_once('/').unwrap_or_default();
            let manifests = std::mem::take(&mut one.manifests);
            for (ordinal, manifest) in manifests.into_iter().enumerate() {
                let Some(place) = work.places.get(ordinal).cloned().flatten() else {
                    // Counted with the errors.
                    one.manifests.push(Value::Null);
                    continue;
                };
                one.manifests.push(Value::Null);
                let known = self.objects.known(&place.key, &one.id);
                let desired = manifest::desired(manifest, &place, (namespace, name));
                jobs.push((at, ordinal, place, desired, one.cluster.clone(), known));
            }
        }
        let member = &self.member;
        let applying = jobs
            .into_iter()
            .map(|(at, ordinal, place, desired, cluster, known)| async move {
                let done = Box::pin(member.apply(&place, &desired, &cluster, known)).await;
                (at, ordinal, place.key, done)
            });
        let results: Vec<(usize, usize, ObjectKey, Result<Done, String>)> =
            stream::iter(applying).buffer_unordered(ABREAST).collect().await;
        let mut wrote = vec![false; ready.len()];
        for (at, ordinal, key, done) in results {
            let one = &mut ready[at];
            match done {
                Ok(done) => {
                    wrote[at] |= done.wrote;
                    self.objects.applied(&key, &one.id, done.print);
                }
                Err(error) => {
                    one.errors.insert(ordinal, error);
                }
            }
        }
        for (one, wrote) in ready.into_iter().zip(wrote) {
            let work = self.work(&one.id);
            if std::mem::take(&mut work.drifted) && wrote {
                work.repaired(now);
                tracing::info!(work = %one.id, "An object of a Work was changed by somebody else and is as the Work wants it again.");
            }
            let applied = Applied::of(one.manifests.len(), one.errors.into_values().collect());
            if let Applied::No(why) = &applied {
                let pause = work.failed();
                if work.applied != applied {
                    tracing::warn!(work = %one.id, %why, ?pause, "A Work could not be applied; trying again after a pause.");
                }
                work.look = Some(now + pause);
            } else {
                work.failures = 0;
            }
            work.applied = applied;
            if one.obsolete {
                sooner(&mut work.part, now);
            }
            work.report.get_or_insert(now + TOGETHER);
        }
    }

    /// Takes away what a Work does not bring any more.
    async fn part(&mut self, id: &Id, now: Duration) {
        self.work(id).part = None;
        if let Err(error) = self.leave(id, now).await {
            tracing::warn!(work = %id, %error, "What a Work brought is still there; trying again after a pause.");
            let work = self.work(id);
            work.part = Some(now + work.failed());
        }
    }

    async fn leave(&mut self, id: &Id, now: Duration) -> Result<(), String> {
        let Some(kinds) = &self.kinds else {
            return Err("the local API does not say what it serves".to_owned());
        };
        let Some(work) = self.works.get(id) else { return Ok(()) };
        let store = self.member.store();
        let mut account = ledger::read(store, id).map_err(|e| e.to_string())?;
        let (deleting, gone, suspended) = (work.wishes.deleting, work.gone, work.wishes.suspended);
        let preserve = if gone {
            account.preserve
        } else {
            deleting && work.wishes.preserve
        };
        let mut leaving = Vec::new();
        if gone || deleting {
            leaving = std::mem::take(&mut account.manifests);
            if deleting && !gone {
                leaving.extend(work.places.iter().flatten().map(Entry::of));
                leaving.sort_unstable();
                leaving.dedup();
            }
        } else if !suspended {
            let stored = store.get(&key(id)).map_err(|e| e.to_string())?;
            let Some(mut object) = stored.and_then(|stored| stored.value().ok()) else {
                // It is told apart.
                return Ok(());
            };
            leaving = obsolete(&account, &manifest::take_manifests(&mut object));
            account.manifests.retain(|entry| !leaving.contains(entry));
        }
        let (mut jobs, mut heirs) = (Vec::new(), Vec::new());
        for place in leaving.iter().filter_map(|entry| entry.place(kinds)) {
            let others = self
                .objects
                .get(&place.key)
                .into_iter()
                .flat_map(|tracked| &tracked.works);
            let mut others = others.filter(|other| *other != id && self.works.get(*other).is_some_and(Work::is_live));
            match others.next() {
                Some(heir) => heirs.push((Arc::clone(heir), place.key)),
                None => jobs.push(place),
            }
        }
        let member = &self.member;
        let leave = jobs.into_iter().map(|place| async move {
            if preserve {
                Box::pin(member.release(&place, false)).await
            } else {
                Box::pin(member.remove(&place)).await
            }
        });
        let results: Vec<Result<Leave, String>> = stream::iter(leave).buffer_unordered(ABREAST).collect().await;
        let mut waits = false;
        for left in results {
            waits |= left? == Leave::Waits;
        }
        for (heir, key) in heirs {
            self.objects.doubt(&key);
            self.work(&heir).look = Some(now);
        }
        if waits && deleting && !gone {
            self.work(id).part = Some(now + GONE_AFTER);
            return Ok(());
        }
        let closed = self.write(vec![ledger::write(id, &account)]).await;
        closed.map_err(|e| e.to_string())?;
        let work = self.works.entry(Arc::clone(id)).or_default();
        if gone {
            let work = std::mem::take(work);
            self.objects.list(id, &work.places, &[]);
            self.works.remove(id);
        } else if deleting {
            self.objects.list(id, &work.places, &[]);
            (work.places, work.failures, work.deleted) = (Vec::new(), 0, true);
            work.report = Some(now);
        }
        Ok(())
    }

    /// Brings the statuses of Works up to date, in one transaction.
    async fn report(&mut self, ids: &[Id], now: Duration) {
        let (mut ops, mut written) = (Vec::new(), Vec::new());
        for id in ids {
            self.work(id).report = None;
            match self.status(id, true) {
                Ok(Some((op, hash))) => {
                    ops.push(op);
                    written.push((Arc::clone(id), hash));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(work = %id, %error, "The state of a Work cannot be told.");
                    self.work(id).report = Some(now + LONGEST_PAUSE);
                }
            }
        }
        if ops.is_empty() {
            return;
        }
        let together = self.member.store().commit(Tx(ops)).await;
        match together {
            Ok(committed) => {
                for ((id, hash), object) in written.into_iter().zip(committed.objects) {
                    let work = self.work(&id);
                    (work.reported, work.own) = (Some(hash), object.revision);
                }
            }
            Err(CommitError::Full | CommitError::Overloaded | CommitError::Io(_)) => {
                for (id, _) in written {
                    self.work(&id).report = Some(now + 5 * FIRST_PAUSE);
                }
            }
            // One of them is to blame.
            Err(_) => {
                for (id, _) in written {
                    self.report_one(&id, now).await;
                }
            }
        }
    }

    async fn report_one(&mut self, id: &Id, now: Duration) {
        for whole in [true, false] {
            let Ok(Some((op, hash))) = self.status(id, whole) else {
                return;
            };
            match self.member.store().commit(Tx(vec![op])).await {
                Ok(committed) => {
                    let work = self.work(id);
                    work.reported = Some(hash);
                    work.own = committed.objects.first().map_or(0, |object| object.revision);
                    return;
                }
                // With the state of its objects it is larger than an object may be.
                Err(CommitError::Invalid { .. }) => {}
                Err(_) => {
                    self.work(id).report = Some(now + TOGETHER);
                    return;
                }
            }
        }
    }

    /// The write of a Work's status, if it says something new. `whole`: with the states of its objects.
    fn status(&mut self, id: &Id, whole: bool) -> Result<Option<(Op, u64)>, String> {
        let Some(work) = self.works.get(id).filter(|work| !work.gone && work.seen.is_some()) else {
            return Ok(None);
        };
        let mut status = state::status(&self.member, &work.applied, &work.places, work.deleted)?;
        let hash = manifest::hash(&status);
        if work.reported == Some(hash) && whole {
            return Ok(None);
        }
        if !whole && let Some(status) = status.as_object_mut() {
            status.remove("manifestStatuses");
        }
        let key = key(id);
        let Some(stored) = self.member.store().get(&key).map_err(|e| e.to_string())? else {
            return Ok(None);
        };
        let mut object = stored.value().map_err(|e| e.to_string())?;
        let before = object.get("status").cloned();
        let says_nothing = status.as_object().is_none_or(serde_json::Map::is_empty);
        if !(says_nothing && before.is_none()) {
            state::put(&mut object, status, &objects::rfc3339(clock::wall_ms()));
        }
        if object.get("status") == before.as_ref() {
            self.work(id).reported = Some(hash);
            return Ok(None);
        }
        let op = Op::Put {
            key,
            object,
            expect: Expect::Revision(stored.revision),
            uid: None,
        };
        Ok(Some((op, hash)))
    }

    async fn write(&self, ops: Vec<Op>) -> Result<(), CommitError> {
        if ops.is_empty() {
            return Ok(());
        }
        self.member.store().commit(Tx(ops)).await.map(drop)
    }
}

/// What an account has that no manifest asks for.
fn obsolete(account: &Account, manifests: &[Value]) -> Vec<Entry> {
    let said: Vec<Said<'_>> = manifests.iter().map(Said::of).collect();
    let entries = account.manifests.iter();
    let entries = entries.filter(|entry| !said.iter().any(|said| entry.is_asked_for_by(said)));
    entries.cloned().collect()
}

fn id(key: &ObjectKey) -> Id {
    format!("{}/{}", key.namespace, key.name).into()
}

fn key(id: &Id) -> ObjectKey {
    let (namespace, name) = id.split_once('/').unwrap_or(("", id));
    objects::work_key(namespace, name)
}
