//! The store against a model of it: random transactions, pauses and restarts; every answer, every list at every revision still
//! covered, and every watch from everywhere must be what a map and a list of changes say.
#![allow(clippy::unwrap_used)] // helpers of tests are tests too

use std::{collections::BTreeMap, sync::Arc};

use metastore::store::{
    CommitError, Committed, Event, EventKind, Expect, ListOptions, ObjectKey, Op, Scope, SealKey, Store, StoreOptions,
    Tx, Watch, WatchError,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const KINDS: [(&str, &str); 3] = [("", "pods"), ("", "secrets"), ("apps", "deployments")];

#[derive(Clone, Debug)]
enum Action {
    /// Submitted together, so that they may share a group.
    Commit(Vec<Vec<ModelOp>>),
    Reopen,
    /// One of the watchers takes what there is.
    Drain(usize),
    /// A new watcher starts so many revisions back.
    Watch(usize, u64),
}

#[derive(Clone, Debug)]
enum ModelOp {
    Put {
        key: usize,
        value: u8,
        expect: ModelExpect,
        uid: bool,
    },
    Delete {
        key: usize,
        expect: ModelExpect,
        uid: bool,
    },
    Kv {
        key: u8,
        value: Option<u8>,
    },
    KvExpect {
        key: u8,
        value: Option<u8>,
    },
    Append(u8),
    Trim(u64),
}

#[derive(Clone, Copy, Debug)]
enum ModelExpect {
    Any,
    Absent,
    Present,
    Current,
    Stale,
}

fn keys() -> Vec<ObjectKey> {
    let mut keys = Vec::new();
    for (group, resource) in KINDS {
        for namespace in ["", "default"] {
            for name in ["a", "b"] {
                keys.push(ObjectKey::new(group, resource, namespace, name));
            }
        }
    }
    keys
}

fn expect() -> impl Strategy<Value = ModelExpect> {
    use ModelExpect::{Absent, Any, Current, Present, Stale};
    prop_oneof![4 => Just(Any), 2 => Just(Absent), 2 => Just(Present), 3 => Just(Current), 1 => Just(Stale)]
}

fn op() -> impl Strategy<Value = ModelOp> {
    let n = keys().len();
    prop_oneof![
        6 => (0..n, 0..4u8, expect(), any::<bool>())
            .prop_map(|(key, value, expect, uid)| ModelOp::Put { key, value, expect, uid: uid && value == 0 }),
        3 => (0..n, expect(), any::<bool>()).prop_map(|(key, expect, uid)| ModelOp::Delete { key, expect, uid }),
        1 => (0..4u8, prop::option::of(0..3u8)).prop_map(|(key, value)| ModelOp::Kv { key, value }),
        1 => (0..4u8, prop::option::of(0..3u8)).prop_map(|(key, value)| ModelOp::KvExpect { key, value }),
        1 => any::<u8>().prop_map(ModelOp::Append),
        1 => (0..30u64).prop_map(ModelOp::Trim),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let tx = prop::collection::vec(op(), 1..6);
    prop_oneof![
        16 => prop::collection::vec(tx, 1..8).prop_map(Action::Commit),
        1 => Just(Action::Reopen),
        3 => (0..8usize).prop_map(Action::Drain),
        3 => (0..KINDS.len(), 0..40u64).prop_map(|(kind, back)| Action::Watch(kind, back)),
    ]
}

type World = BTreeMap<ObjectKey, (u64, Value)>;

/// The world after a change, what happened to which object, and the object before.
type Change = (World, EventKind, ObjectKey, Option<Value>);

#[derive(Clone, Default)]
struct Model {
    world: World,
    revision: u64,
    history: BTreeMap<u64, Change>,
    kv: BTreeMap<u8, u8>,
    accepted: u64,
    trimmed: u64,
    journal: BTreeMap<u64, u8>,
}

fn value_of(key: &ObjectKey, n: u8) -> Value {
    json!({"metadata": {"name": &*key.name, "uid": format!("uid-{}", &*key.name), "zone": n % 2}, "n": n})
}

fn stored(value: &Value, revision: u64) -> Value {
    let mut value = value.clone();
    value["metadata"]["resourceVersion"] = json!(revision.to_string());
    value
}

/// What must come of a transaction: the objects' revisions and the journal numbers, or the kind of refusal.
type Outcome = Result<(Vec<u64>, Vec<u64>), &'static str>;

impl Model {
    /// Runs a transaction on the model. Preconditions on "the current revision" mean the one within the transaction.
    fn run(&mut self, ops: &[ModelOp]) -> (Tx, Outcome) {
        let before = self.clone();
        let mut tx = Vec::new();
        let mut done = (Vec::new(), Vec::new());
        let mut refused = None;
        for op in ops {
            let why = self.step(op, &mut tx, &mut done);
            refused = refused.or(why);
        }
        match refused {
            None => (Tx(tx), Ok(done)),
            Some(why) => {
                *self = before;
                (Tx(tx), Err(why))
            }
        }
    }

    fn step(&mut self, op: &ModelOp, tx: &mut Vec<Op>, done: &mut (Vec<u64>, Vec<u64>)) -> Option<&'static str> {
        let keys = keys();
        match op {
            ModelOp::Put {
                key,
                value,
                expect,
                uid,
            } => {
                let key = &keys[*key];
                let object = value_of(key, *value);
                let expect = self.expect(key, *expect);
                let uid = uid.then(|| format!("uid-{}", &*key.name));
                tx.push(Op::Put {
                    key: key.clone(),
                    object: object.clone(),
                    expect,
                    uid: uid.clone(),
                });
                if let Some(why) = self.check(key, expect, uid.is_some()) {
                    return Some(why);
                }
                done.0.push(match self.world.get(key) {
                    Some((revision, old)) if *old == object => *revision,
                    old => {
                        let kind = if old.is_some() {
                            EventKind::Modified
                        } else {
                            EventKind::Added
                        };
                        let old = old.map(|(revision, value)| stored(value, *revision));
                        self.revision += 1;
                        self.world.insert(key.clone(), (self.revision, object));
                        self.history
                            .insert(self.revision, (self.world.clone(), kind, key.clone(), old));
                        self.revision
                    }
                });
            }
            ModelOp::Delete { key, expect, uid } => {
                let key = &keys[*key];
                let expect = self.expect(key, *expect);
                tx.push(Op::Delete {
                    key: key.clone(),
                    expect,
                    uid: uid.then(|| "other".to_owned()),
                });
                if let Some(why) = self.check(key, expect, *uid) {
                    return Some(why);
                }
                if *uid {
                    return Some("uid");
                }
                if let Some((revision, old)) = self.world.remove(key) {
                    self.revision += 1;
                    let change = (
                        self.world.clone(),
                        EventKind::Deleted,
                        key.clone(),
                        Some(stored(&old, revision)),
                    );
                    self.history.insert(self.revision, change);
                    done.0.push(self.revision);
                }
            }
            ModelOp::Kv {
                key,
                value: Some(value),
            } => {
                tx.push(Op::KvPut {
                    bucket: "b".into(),
                    key: vec![*key],
                    value: vec![*value],
                });
                self.kv.insert(*key, *value);
            }
            ModelOp::Kv { key, value: None } => {
                tx.push(Op::KvDelete {
                    bucket: "b".into(),
                    key: vec![*key],
                });
                self.kv.remove(key);
            }
            ModelOp::KvExpect { key, value } => {
                tx.push(Op::KvExpect {
                    bucket: "b".into(),
                    key: vec![*key],
                    value: value.map(|v| vec![v]),
                });
                if self.kv.get(key) != value.as_ref() {
                    return Some("kv");
                }
            }
            ModelOp::Append(n) => {
                tx.push(Op::JournalAppend {
                    stream: "j".into(),
                    body: vec![*n; 3].into(),
                });
                self.accepted += 1;
                self.journal.insert(self.accepted, *n);
                done.1.push(self.accepted);
            }
            ModelOp::Trim(upto) => {
                tx.push(Op::JournalTrim {
                    stream: "j".into(),
                    upto: *upto,
                });
                self.trimmed = self.trimmed.max(self.accepted.min(*upto));
                self.journal = self.journal.split_off(&(self.trimmed + 1));
            }
        }
        None
    }

    fn expect(&self, key: &ObjectKey, expect: ModelExpect) -> Expect {
        match expect {
            ModelExpect::Any => Expect::Any,
            ModelExpect::Absent => Expect::Absent,
            ModelExpect::Present => Expect::Present,
            ModelExpect::Current => Expect::Revision(self.world.get(key).map_or(0, |(revision, _)| *revision)),
            ModelExpect::Stale => Expect::Revision(self.revision + 1000),
        }
    }

    fn check(&self, key: &ObjectKey, expect: Expect, uid: bool) -> Option<&'static str> {
        match (expect, self.world.get(key)) {
            (Expect::Absent, Some(_)) => Some("exists"),
            (Expect::Present | Expect::Revision(_), None) => Some("not found"),
            (Expect::Revision(wanted), Some((found, _))) if wanted != *found => Some("conflict"),
            (_, None) if uid => Some("not found"),
            _ => None,
        }
    }
}

fn refusal(error: &CommitError) -> &'static str {
    match error {
        CommitError::Exists(_) => "exists",
        CommitError::NotFound(_) => "not found",
        CommitError::Conflict { .. } => "conflict",
        CommitError::UidConflict { .. } => "uid",
        CommitError::KvConflict { .. } => "kv",
        other => panic!("unexpected {other}"),
    }
}

/// A watcher, and up to where the model knows that it has seen everything.
struct Watcher {
    watch: Watch,
    scope: Scope,
    seen: u64,
}

struct Run {
    options: StoreOptions,
    store: Option<Store>,
    model: Model,
    watchers: Vec<Watcher>,
}

impl Run {
    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Commit(txs) => self.commit(txs).await,
            Action::Reopen => {
                self.watchers.clear();
                drop(self.store.take());
                let (store, opened) = Store::open(self.options.clone()).unwrap();
                assert!(!opened.unclean && opened.damaged.is_none());
                self.store = Some(store);
            }
            Action::Drain(which) => {
                if self.watchers.is_empty() {
                    return;
                }
                let which = which % self.watchers.len();
                if !drain(&self.model, self.store.as_ref().unwrap(), &mut self.watchers[which]).await {
                    self.watchers.swap_remove(which);
                }
            }
            Action::Watch(kind, back) => {
                let (group, resource) = KINDS[kind];
                let scope = match back % 3 {
                    0 => Scope::namespace(group, resource, "default"),
                    _ => Scope::all(group, resource),
                };
                let from = self.model.revision.saturating_sub(back);
                match self.store().watch(scope.clone(), from) {
                    Ok(watch) => self.watchers.push(Watcher {
                        watch,
                        scope,
                        seen: from,
                    }),
                    Err(gone) => assert!(from < self.store().oldest_revision(), "{gone}"),
                }
            }
        }
    }

    async fn commit(&mut self, txs: Vec<Vec<ModelOp>>) {
        let mut waiting = Vec::new();
        for ops in txs {
            let (tx, outcome) = self.model.run(&ops);
            waiting.push((self.store().submit(tx), outcome, self.model.revision));
        }
        for (commit, outcome, revision) in waiting {
            match (commit.await, outcome) {
                (
                    Ok(Committed {
                        revision: got,
                        objects,
                        journal_seqs,
                    }),
                    Ok((revisions, seqs)),
                ) => {
                    assert_eq!(got, revision);
                    assert_eq!(objects.iter().map(|o| o.revision).collect::<Vec<_>>(), revisions);
                    assert_eq!(journal_seqs, seqs);
                }
                (Err(error), Err(why)) => assert_eq!(refusal(&error), why),
                (got, wanted) => panic!("the store says {got:?}, the model {wanted:?}"),
            }
        }
    }

    /// Everything that can be read is what the model says.
    fn compare(&self) {
        let (store, model) = (self.store(), &self.model);
        assert_eq!(store.revision(), model.revision);
        let oldest = store.oldest_revision();
        assert!(oldest <= model.revision.saturating_sub(self.options.log_keep));
        for key in keys() {
            let got = store.get(&key).unwrap().map(|o| o.value().unwrap());
            assert_eq!(
                got,
                model.world.get(&key).map(|(revision, value)| stored(value, *revision)),
                "{key}"
            );
        }
        let empty = World::new();
        for at in oldest..=model.revision {
            let world = model
                .history
                .range(..=at)
                .next_back()
                .map_or(&empty, |(_, change)| &change.0);
            for (group, resource) in KINDS {
                let scope = Scope::all(group, resource);
                let (mut got, mut after) = (Vec::new(), None);
                loop {
                    let page = store
                        .list(
                            &scope,
                            ListOptions {
                                limit: Some(3),
                                after,
                                at: Some(at),
                            },
                        )
                        .unwrap();
                    got.extend(page.items.iter().map(|o| (o.key.clone(), o.value().unwrap())));
                    after = page.items.last().map(|o| o.key.clone());
                    if !page.more {
                        break;
                    }
                }
                let wanted = world.iter().filter(|(key, _)| scope.contains(key));
                let wanted: Vec<_> = wanted
                    .map(|(key, (revision, value))| (key.clone(), stored(value, *revision)))
                    .collect();
                assert_eq!(got, wanted, "{resource} at {at}");
            }
        }
        let kv = store.kv_scan("b", b"").unwrap();
        assert_eq!(
            kv.iter().map(|(k, v)| (k[0], v[0])).collect::<BTreeMap<_, _>>(),
            model.kv
        );
        let journal = store.journal_read("j", 0, usize::MAX).unwrap();
        assert_eq!(
            journal
                .iter()
                .map(|(seq, body)| (*seq, body[0]))
                .collect::<BTreeMap<_, _>>(),
            model.journal
        );
        let bounds = store.journal_bounds("j").unwrap();
        assert_eq!((bounds.accepted, bounds.trimmed), (model.accepted, model.trimmed));
        assert_eq!(
            (bounds.bytes, bounds.waiting()),
            (3 * model.journal.len() as u64, model.journal.len() as u64)
        );
    }
}

/// Takes all events there are; each must be the model's next change of the scope. `false` when the watch is gone.
async fn drain(model: &Model, store: &Store, watcher: &mut Watcher) -> bool {
    let scope = &watcher.scope;
    let wanted: Vec<_> = model
        .history
        .range(watcher.seen + 1..)
        .filter(|(_, c)| scope.contains(&c.2))
        .collect();
    for (revision, change) in wanted {
        let event = match watcher.watch.next().await {
            Ok(event) => event,
            Err(WatchError::Gone(gone)) => {
                assert!(watcher.seen < store.oldest_revision(), "{gone}");
                return false;
            }
            Err(other) => panic!("{other}"),
        };
        assert_eq!(describe(&event), describe_change(*revision, change));
        watcher.seen = *revision;
    }
    assert!(watcher.watch.try_next().is_none(), "nothing twice");
    if let Some(bookmark) = watcher.watch.bookmark() {
        assert_eq!(bookmark, model.revision);
        watcher.seen = bookmark;
    }
    true
}

type Described = (EventKind, ObjectKey, u64, Value, Option<Value>);

fn describe(event: &Arc<Event>) -> Described {
    let previous = event.previous.as_ref().map(|p| p.value().unwrap());
    (
        event.kind,
        event.object.key.clone(),
        event.object.revision,
        event.object.value().unwrap(),
        previous,
    )
}

fn describe_change(revision: u64, (world, kind, key, previous): &Change) -> Described {
    let value = match (kind, previous) {
        (EventKind::Deleted, Some(last)) => stored(last, revision),
        _ => stored(&world[key].1, revision),
    };
    (*kind, key.clone(), revision, value, previous.clone())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn does_what_a_map_does(actions in prop::collection::vec(action(), 1..40), ring in 1..40usize, log_keep in 0..60u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let options = StoreOptions {
                ring,
                log_keep,
                seal_key: Some(SealKey::new(&[9; 32])),
                ..StoreOptions::new(dir.path().join("model.db"))
            };
            let store = Store::open(options.clone()).unwrap().0;
            let mut run = Run { options, store: Some(store), model: Model::default(), watchers: Vec::new() };
            for action in actions {
                run.act(action).await;
            }
            run.compare();
            let (model, store) = (&run.model, run.store.as_ref().unwrap());
            for watcher in &mut run.watchers {
                drain(model, store, watcher).await;
            }
        });
    }
}
