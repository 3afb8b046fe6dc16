//! The task step by step, over a real store.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use metastore::store::{Event, Expect, StoreOptions, Tx, Watch, WatchError};
use serde_json::{Value, json};

use super::task::{Parts, Task};
use super::*;
use crate::objects::{self, DEVICES};

/// Keeps what is published.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<(String, Value)>>>);

impl Outlet for Heard {
    fn publish(&self, messages: Vec<(String, Vec<u8>)>) {
        let read = |(topic, payload): (String, Vec<u8>)| (topic, serde_json::from_slice(&payload).unwrap());
        self.0.lock().unwrap().extend(messages.into_iter().map(read));
    }

    fn wanted(&self, _: &str) -> bool {
        true
    }
}

impl Heard {
    /// The deltas published since the last call.
    fn deltas(&self) -> Vec<Value> {
        let all = std::mem::take(&mut *self.0.lock().unwrap());
        let deltas = all.into_iter().filter(|(topic, _)| topic.ends_with("update/delta"));
        deltas.map(|(_, delta)| delta["delta"].clone()).collect()
    }
}

struct Rig {
    _dir: tempfile::TempDir,
    path: std::path::PathBuf,
    store: Store,
    heard: Heard,
    commands: mpsc::Sender<Command>,
    metrics: Arc<Metrics>,
    /// Sees what the task's watch sees.
    events: Watch,
}

fn key() -> metastore::store::ObjectKey {
    objects::device_key(DEVICES, "default", "d0")
}

fn device(desired: &str) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": "d0", "namespace": "default"},
        "spec": {"nodeName": "gw", "properties": [{"name": "p", "desired": {"value": desired}}]},
    })
}

impl Rig {
    async fn start() -> (Self, Task) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.db");
        let store = Store::open(StoreOptions::new(&path)).unwrap().0;
        let tx = Tx::new().put(key(), device("1"), Expect::Any);
        store.commit(tx).await.unwrap();
        let heard = Heard::default();
        let outlet: Arc<OnceLock<Box<dyn Outlet>>> = Arc::default();
        assert!(outlet.set(Box::new(heard.clone())).is_ok());
        let (commands, inbox) = mpsc::channel(64);
        let metrics = Arc::new(Metrics::default());
        let task = Task::load(Parts {
            store: store.clone(),
            stamps: Stamps::load("gw", &store).unwrap(),
            node: "gw".to_owned(),
            metrics: Arc::clone(&metrics),
            commands: inbox,
            waiting_bytes: Arc::default(),
            outlet,
            telemetry: watch::channel(0).0,
            conflicts: Conflicts::open(store.clone(), "gw").unwrap(),
        })
        .unwrap();
        let events = store.watch(objects::device_scope(DEVICES), store.revision()).unwrap();
        let rig = Self {
            _dir: dir,
            path,
            store,
            heard,
            commands,
            metrics,
            events,
        };
        (rig, task)
    }

    /// The hub writes the Device; what the watch will say of it, when it comes to it.
    async fn write(&mut self, desired: &str) -> Arc<Event> {
        let tx = Tx::new().put(key(), device(desired), Expect::Any);
        self.store.commit(tx).await.unwrap();
        self.event().await
    }

    async fn event(&mut self) -> Arc<Event> {
        self.events.next().await.unwrap()
    }

    /// Makes all reading and writing of objects fail, as a failing disk does, or work again.
    fn break_store(&self, broken: bool) {
        let db = rusqlite::Connection::open(&self.path).unwrap();
        let (from, to) = if broken {
            ("objects", "away")
        } else {
            ("away", "objects")
        };
        db.execute_batch(&format!("ALTER TABLE {from} RENAME TO {to}")).unwrap();
    }
}

fn update(text: &Value) -> (Request, oneshot::Receiver<Result<(), Refused>>) {
    let (verdict, given) = oneshot::channel();
    let what = What::Message(Asked {
        topic: "$hw/events/device/default/d0/twin/update".into(),
        payload: Bytes::from(text.to_string()),
        by: "test".into(),
        origin: None,
    });
    (Request { what, verdict }, given)
}

/// The twin's desired value, and the stored one.
fn desired(rig: &Rig, task: &Task) -> (String, String) {
    let stored = rig.store.get(&key()).unwrap().unwrap().value().unwrap();
    let stored = stored["spec"]["properties"][0]["desired"]["value"].as_str().unwrap();
    let twin = task.table.devices["default/d0"].twin.desired("p").unwrap();
    (twin.to_owned(), stored.to_owned())
}

#[tokio::test]
async fn a_delta_older_than_an_expected_write_is_not_published_after_it() {
    let (mut rig, mut task) = Rig::start().await;
    // The hub wrote, the watch has not told yet, and a client at the gateway sets another value.
    let late = rig.write("2").await;
    let (request, given) = update(&json!({"twin": {"p": {"expected": {"value": "3"}}}}));
    task.desire(request).await;
    assert_eq!(given.await.unwrap(), Ok(()));
    assert_eq!(rig.heard.deltas().last().unwrap(), &json!({"p": "3"}));
    task.changed(&late);
    let own = rig.event().await;
    task.changed(&own);
    assert_eq!(rig.heard.deltas(), [] as [Value; 0]);
    assert_eq!(desired(&rig, &task), ("3".into(), "3".into()));
    // What comes after it is told.
    let next = rig.write("4").await;
    task.changed(&next);
    assert_eq!(rig.heard.deltas(), [json!({"p": "4"})]);
}

/// The hub's value was stored and the twin had yet to hear of it: neither writer knew of the other.
#[tokio::test]
async fn what_an_expected_write_drops_unseen_is_in_the_conflict_log() {
    let (mut rig, mut task) = Rig::start().await;
    let mut cloud = device("2");
    cloud["spec"]["properties"][0]["desired"]["metadata"] =
        json!({"stamp": "000000000001-0000-@hub", "timestamp": "1", "by": "kubectl"});
    let tx = Tx::new().put(key(), cloud, Expect::Any);
    rig.store.commit(tx).await.unwrap();
    let late = rig.event().await;
    let mut log = task.parts.conflicts.newest();
    let expect = |value: &str| update(&json!({"twin": {"p": {"expected": {"value": value}}}}));
    let (request, given) = expect("3");
    task.desire(request).await;
    assert_eq!(given.await.unwrap(), Ok(()));
    let records = rig.store.journal_read("events", 1, 1 << 20).unwrap();
    let record: Value = serde_json::from_slice(&records[0].1).unwrap();
    assert_eq!(
        (&record["kept"]["value"], &record["lost"]["value"]),
        (&json!("3"), &json!("2"))
    );
    assert_eq!(
        (records.len(), *log.borrow_and_update()),
        (1, 1),
        "and the link hears of it"
    );
    assert_eq!(rig.store.journal_bounds(TELEMETRY).unwrap().accepted, 0);
    // What is written over what was known is none.
    task.changed(&late);
    let (request, given) = expect("4");
    task.desire(request).await;
    assert_eq!(given.await.unwrap(), Ok(()));
    assert_eq!(rig.store.journal_bounds("events").unwrap().accepted, 1);
}

/// The write at the gateway was made from a Device that the twin had not seen: what else is new in it must not be skipped with its
/// event.
#[tokio::test]
async fn what_another_wrote_before_an_expected_write_is_told() {
    let (mut rig, mut task) = Rig::start().await;
    let mut both = device("1");
    let other = json!({"name": "q", "desired": {"value": "9"}});
    both["spec"]["properties"].as_array_mut().unwrap().push(other);
    let tx = Tx::new().put(key(), both, Expect::Any);
    rig.store.commit(tx).await.unwrap();
    let late = rig.event().await;
    let (request, given) = update(&json!({"twin": {"p": {"expected": {"value": "3"}}}}));
    task.desire(request).await;
    assert_eq!(given.await.unwrap(), Ok(()));
    assert_eq!(rig.heard.deltas().last().unwrap(), &json!({"p": "3", "q": "9"}));
    task.changed(&late);
    assert_eq!(task.table.devices["default/d0"].twin.desired("q"), Some("9"));
}

#[tokio::test]
async fn a_delta_older_than_a_reload_is_not_published_after_it() {
    let (mut rig, mut task) = Rig::start().await;
    let first = rig.write("2").await;
    let second = rig.write("3").await;
    task.doubtful.insert("default/d0".into());
    task.reload();
    assert_eq!(
        rig.heard.deltas(),
        [json!({"p": "3"})],
        "the reload tells what it found"
    );
    assert!(task.stale.contains("default/d0"), "and the status follows");
    task.changed(&first);
    task.changed(&second);
    assert_eq!(rig.heard.deltas(), [] as [Value; 0]);
    assert_eq!(desired(&rig, &task).0, "3");
}

#[tokio::test]
async fn a_device_that_cannot_be_read_again_is_refused_until_it_can() {
    let (rig, mut task) = Rig::start().await;
    rig.break_store(true);
    task.doubtful.insert("default/d0".into());
    task.reload();
    assert!(task.doubtful.is_empty() && task.unread.holds("default/d0"));
    let drain = Drain::new();
    let running = tokio::spawn(task.run(drain.clone()));
    let ask = async || {
        let (request, given) = update(&json!({"event_id": "e", "twin": {"p": {"actual": {"value": "5"}}}}));
        assert!(rig.commands.send(Command::Ask(vec![request])).await.is_ok());
        given.await.unwrap()
    };
    assert_eq!(ask().await, Err(Refused::NotStored));
    let told = rig.heard.0.lock().unwrap().last().unwrap().1.clone();
    assert_eq!((&told["code"], &told["event_id"]), (&json!(500), &json!("e")));
    rig.break_store(false);
    let mut refused = 0;
    while ask().await != Ok(()) {
        refused += 1;
        assert!(refused < 1000, "never read again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!running.is_finished());
    drain.stop();
    running.await.unwrap();
}

#[tokio::test]
async fn a_model_that_changes_while_its_device_cannot_be_read_is_taken_over_later() {
    let (mut rig, mut task) = Rig::start().await;
    let model = |maximum: &str| {
        json!({
            "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
            "metadata": {"name": "m", "namespace": "default"},
            "spec": {"properties": [{"name": "p", "type": "INT", "accessMode": "ReadWrite", "maximum": maximum}]},
        })
    };
    let mut modelled = device("1");
    modelled["spec"]["deviceModelRef"] = json!({"name": "m"});
    let models = objects::device_scope(objects::MODELS);
    let model_key = objects::device_key(objects::MODELS, "default", "m");
    let mut watch = rig.store.watch(models, rig.store.revision()).unwrap();
    let tx = Tx::new()
        .put(model_key, model("10"), Expect::Any)
        .put(key(), modelled, Expect::Any);
    rig.store.commit(tx).await.unwrap();
    let event = rig.event().await;
    task.changed(&event);
    let event = watch.next().await.unwrap();
    rig.break_store(true);
    task.changed(&event);
    assert!(task.doubtful.contains("default/d0"));
    task.reload();
    rig.break_store(false);
    let again: Vec<_> = task.unread.take().collect();
    task.doubtful.extend(again);
    task.reload();
    let (request, given) = update(&json!({"twin": {"p": {"expected": {"value": "11"}}}}));
    task.desire(request).await;
    assert_eq!(given.await.unwrap(), Err(Refused::Request), "the model's bound holds");
}

#[tokio::test]
async fn watches_that_cannot_be_restarted_are_tried_until_they_can() {
    let (rig, mut task) = Rig::start().await;
    rig.break_store(true);
    let gone = WatchError::Gone(metastore::store::Gone {
        asked: 1,
        oldest: 5,
        newest: 9,
    });
    let drain = Drain::new();
    {
        let mut restart = std::pin::pin!(task.restart_watches(&gone, &drain));
        // Attempts fail; the task neither ends nor goes on with what it does not know.
        let early = tokio::time::timeout(Duration::from_millis(300), &mut restart).await;
        assert!(early.is_err(), "{early:?}");
        rig.break_store(false);
        assert!(restart.await);
    }
    assert_eq!(desired(&rig, &task).0, "1");
    // Also while it waits it stops when told to.
    rig.break_store(true);
    drain.stop();
    assert!(task.restart_watches(&gone, &drain).await);
    rig.break_store(false);
    // Only the end of the store is the end.
    rig.store.close().await;
    assert!(!task.restart_watches(&gone, &Drain::new()).await);
    assert!(!task.restart_watches(&WatchError::Closed, &Drain::new()).await);
}

#[tokio::test]
async fn the_end_of_the_task_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(StoreOptions::new(dir.path().join("s.db"))).unwrap().0;
    let (stamps, drain) = (Stamps::load("gw", &store).unwrap(), Drain::new());
    let twins = Twins::start(store.clone(), stamps, "gw", Arc::default(), &drain).unwrap();
    let mut ended = std::pin::pin!(twins.ended());
    assert!(futures_util::poll!(&mut ended).is_pending());
    store.close().await;
    ended.await;
}

/// A message and the same one sent again, with the first one's commit failing between them: neither may be answered as stored.
#[tokio::test]
async fn a_message_sent_again_is_not_acknowledged_on_the_word_of_a_commit_that_fails() {
    let (rig, task) = Rig::start().await;
    let drain = Drain::new();
    let telemetry = |again| {
        let (verdict, given) = oneshot::channel();
        let payload = json!({"event_id": "e", "twin": {"p": {"actual": {"value": "5"}}}}).to_string();
        let topic = "$hw/events/device/default/d0/twin/update";
        let what = What::Message(Asked {
            topic: topic.into(),
            origin: Some(Sender::new("c").sent(7, again, false, topic, payload.as_bytes())),
            payload: payload.into(),
            by: "test".into(),
        });
        (Request { what, verdict }, given)
    };
    rig.break_store(true);
    let ((one, first), (two, second)) = (telemetry(false), telemetry(true));
    assert!(rig.commands.send(Command::Ask(vec![one])).await.is_ok());
    assert!(rig.commands.send(Command::Ask(vec![two])).await.is_ok());
    let running = tokio::spawn(task.run(drain.clone()));
    assert_eq!(
        (first.await.unwrap(), second.await.unwrap()),
        (Err(Refused::NotStored), Err(Refused::NotStored))
    );
    rig.break_store(false);
    // It comes once more and is taken now; and once more, and is known.
    for repeated in [0, 1] {
        loop {
            let (again, given) = telemetry(true);
            assert!(rig.commands.send(Command::Ask(vec![again])).await.is_ok());
            if given.await.unwrap() == Ok(()) {
                break;
            }
        }
        assert_eq!(rig.metrics.requests_repeated.get(), repeated);
    }
    assert_eq!(rig.metrics.reports_accepted.get(), 1);
    drain.stop();
    running.await.unwrap();
}
