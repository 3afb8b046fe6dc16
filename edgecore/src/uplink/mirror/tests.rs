use super::*;
use bytes::Bytes;
use metastore::store::StoreOptions;
use serde_json::json;

fn mirror(dir: &std::path::Path) -> Mirror {
    let (store, _) = Store::open(StoreOptions::new(dir.join("edge.db"))).unwrap();
    let stamps = Stamps::load("gw", &store).unwrap();
    let conflicts = Conflicts::open(store.clone(), "gw").unwrap();
    Mirror::new(store, stamps, "gw".to_owned(), conflicts)
}

/// A Device of gateway `gw` as the hub sends it, in `bytes` if that is more than it needs.
fn device(name: &str, bytes: usize) -> Change {
    let body = |filler: &str| {
        objects::canonical(&json!({
            "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
            "metadata": {"name": name, "namespace": "default", "annotations": {"filler": filler}},
            "spec": {"nodeName": "gw"},
        }))
    };
    let filler = bytes.saturating_sub(body("").len());
    change(
        &objects::device_key(DEVICES, "default", name),
        Some(body(&"x".repeat(filler))),
    )
}

fn change(key: &ObjectKey, body: Option<Bytes>) -> Change {
    let key = Key::from(key.to_string());
    let hash = body.as_ref().map_or(0, |body| proto::entry_hash(&key, body));
    Change { key, body, hash }
}

fn held(mirror: &Mirror, name: &str) -> bool {
    let key = objects::device_key(DEVICES, "default", name);
    let (object, mirrored) = (
        mirror.store.get(&key).unwrap(),
        is_mirrored(&mirror.store, &key).unwrap(),
    );
    assert_eq!(object.is_some(), mirrored, "{name}: the object and its record are one");
    mirrored
}

#[tokio::test]
async fn what_outgrows_the_store_here_is_refused_and_the_rest_flows_on() {
    let dir = tempfile::tempdir().unwrap();
    let mirror = mirror(dir.path());
    let metrics = Metrics::default();
    // As large as may travel; the metadata that is the gateway's own comes on top.
    let large = device("b", proto::limits::MAX_BODY);
    assert_eq!(large.body.as_ref().unwrap().len(), proto::limits::MAX_BODY);
    let batch = vec![device("a", 0), large.clone(), device("c", 0)];
    let outcome = mirror.apply(batch.clone(), &metrics).await.unwrap();
    let [(key, reason)] = &outcome.applied.refused[..] else {
        panic!("{outcome:?}");
    };
    assert_eq!(*key, large.key);
    assert!(reason.contains("larger than an object may be"), "{reason}");
    assert!(held(&mirror, "a") && !held(&mirror, "b") && held(&mirror, "c"));
    assert_eq!((metrics.desired_applied.get(), metrics.desired_refused.get()), (2, 1));

    // Dealt with: after a restart the digest does not ask for it again.
    let mut wanted = Inventory::new();
    wanted.put(batch[0].key.clone(), batch[0].hash);
    wanted.put(batch[2].key.clone(), batch[2].hash);
    wanted.refuse(large.key.clone(), Some(large.hash), reason.clone());
    assert_eq!(mirror.inventory().unwrap().digest(), wanted.digest());

    // What fits again is taken, and what is gone is gone.
    let small = device("b", 0);
    let outcome = mirror.apply(vec![small.clone()], &metrics).await.unwrap();
    assert!(outcome.applied.refused.is_empty() && held(&mirror, "b"));
    let gone = Change {
        body: None,
        hash: 0,
        ..small
    };
    mirror.apply(vec![gone], &metrics).await.unwrap();
    assert!(!held(&mirror, "b"));
}

#[tokio::test]
async fn what_was_held_before_stays_when_its_next_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mirror = mirror(dir.path());
    let metrics = Metrics::default();
    mirror.apply(vec![device("b", 0)], &metrics).await.unwrap();
    let batch = vec![device("b", proto::limits::MAX_BODY), device("c", 0)];
    let outcome = mirror.apply(batch, &metrics).await.unwrap();
    assert_eq!(outcome.applied.refused.len(), 1);
    assert!(held(&mirror, "b") && held(&mirror, "c"));
}

#[tokio::test]
async fn a_device_is_not_held_to_a_model_that_was_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mirror = mirror(dir.path());
    let metrics = Metrics::default();
    let model = |filler: usize| {
        let body = objects::canonical(&json!({
            "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
            "metadata": {"name": "m", "namespace": "default", "annotations": {"filler": "x".repeat(filler)}},
            "spec": {"properties": [{"name": "p", "type": "INT", "accessMode": "ReadWrite"}]},
        }));
        change(&objects::device_key(MODELS, "default", "m"), Some(body))
    };
    let fits = model(0).body.unwrap().len();
    // No INT: the model would speak against it.
    let modelled = change(
        &objects::device_key(DEVICES, "default", "d"),
        Some(objects::canonical(&json!({
            "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
            "metadata": {"name": "d", "namespace": "default"},
            "spec": {"nodeName": "gw", "deviceModelRef": {"name": "m"},
                "properties": [{"name": "p", "desired": {"value": "warm"}}]},
        }))),
    );
    let refused = |outcome: &Outcome| -> Vec<Key> {
        let keys = outcome.applied.refused.iter();
        keys.map(|(key, _)| Key::clone(key)).collect()
    };
    let large = model(proto::limits::MAX_BODY - fits);
    let batch = vec![modelled.clone(), large.clone(), device("a", 0)];
    let outcome = mirror.apply(batch, &metrics).await.unwrap();
    assert_eq!(refused(&outcome), [large.key]);
    assert!(held(&mirror, "a") && held(&mirror, "d"));
    let batch = vec![modelled.clone(), model(0)];
    assert_eq!(refused(&mirror.apply(batch, &metrics).await.unwrap()), [modelled.key]);
}

/// The conflict log, as (kept, lost).
fn log(mirror: &Mirror) -> Vec<(String, String)> {
    let records = mirror.store.journal_read(crate::conflicts::EVENTS, 1, 1 << 20).unwrap();
    let value = |record: &Value, side: &str| record[side]["value"].as_str().unwrap().to_owned();
    let read = |(_, body): (u64, Bytes)| {
        let record: Value = serde_json::from_slice(&body).unwrap();
        (value(&record, "kept"), value(&record, "lost"))
    };
    records.into_iter().map(read).collect()
}

/// Device `d` whose property `p` has this value, stamp, and what its writer saw.
fn with_register(value: &str, stamp: &str, saw: Option<&str>) -> Value {
    let mut metadata = json!({"stamp": stamp, "timestamp": "1", "by": "x"});
    if let Some(saw) = saw {
        metadata["saw"] = json!(saw);
    }
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": "d", "namespace": "default"},
        "spec": {"nodeName": "gw", "properties": [{"name": "p", "desired": {"value": value, "metadata": metadata}}]},
    })
}

const D: &str = "devices.kubeedge.io/devices/default/d";

async fn hub_sends(mirror: &Mirror, device: &Value) {
    let key = objects::device_key(DEVICES, "default", "d");
    assert_eq!(&*key.to_string(), D);
    let change = change(&key, Some(objects::canonical(device)));
    let outcome = mirror.apply(vec![change], &Metrics::default()).await.unwrap();
    assert!(outcome.applied.refused.is_empty(), "{outcome:?}");
}

async fn set_here(mirror: &Mirror, device: &Value) {
    let key = objects::device_key(DEVICES, "default", "d");
    let tx = Tx(vec![Op::Put {
        key,
        object: device.clone(),
        expect: Expect::Any,
        uid: None,
    }]);
    mirror.store.commit(tx).await.unwrap();
}

#[tokio::test]
async fn a_conflict_is_recorded_once_whichever_side_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mirror = mirror(dir.path());
    let newest = mirror.conflicts.newest();
    let first = "000000000001-0000-@h";
    hub_sends(&mirror, &with_register("1", first, None)).await;
    // One after the other is no conflict, from whichever side.
    set_here(&mirror, &with_register("2", "000000000002-0000-gw", Some(first))).await;
    hub_sends(
        &mirror,
        &with_register("3", "000000000003-0000-@h", Some("000000000002-0000-gw")),
    )
    .await;
    assert!(log(&mirror).is_empty());
    // Both at once: the cloud's counts, as it is the later.
    set_here(
        &mirror,
        &with_register("4", "000000000004-0000-gw", Some("000000000003-0000-@h")),
    )
    .await;
    let both = with_register("5", "000000000005-0000-@h", Some("000000000002-0000-gw"));
    hub_sends(&mirror, &both).await;
    assert_eq!(log(&mirror), [("5".to_owned(), "4".to_owned())]);
    assert_eq!(*newest.borrow(), 1);
    // The value that lost is back, as after a damaged store, and so is the hub's: an old story.
    set_here(
        &mirror,
        &with_register("4", "000000000004-0000-gw", Some("000000000003-0000-@h")),
    )
    .await;
    hub_sends(&mirror, &both).await;
    assert_eq!(log(&mirror).len(), 1);

    // Both at once: the gateway's counts, and the hub's goes on coming with other news.
    set_here(
        &mirror,
        &with_register("7", "000000000007-0000-gw", Some("000000000005-0000-@h")),
    )
    .await;
    let mut lost = with_register("6", "000000000006-0000-@h", Some("000000000002-0000-gw"));
    hub_sends(&mirror, &lost).await;
    lost["metadata"]["labels"] = json!({"line": "4"});
    hub_sends(&mirror, &lost).await;
    assert_eq!(log(&mirror)[1..], [("7".to_owned(), "6".to_owned())]);
    assert_eq!(*newest.borrow(), 2);
}

#[tokio::test]
async fn what_the_hub_dropped_before_it_sent_the_device_is_recorded_from_its_note() {
    let dir = tempfile::tempdir().unwrap();
    let mirror = mirror(dir.path());
    let first = "000000000001-0000-@h";
    hub_sends(&mirror, &with_register("1", first, None)).await;
    let own = with_register("3", "000000000003-0000-gw", Some(first));
    set_here(&mirror, &own).await;
    // At the hub: an edit that the gateway is never sent, because the gateway's comes over it.
    let mut hubs = with_register("2", "000000000002-0000-@h", None);
    let twins = device_models::edge_registers(&own, "gw").unwrap();
    let changed = merge_device_desired(&mut hubs, &twins);
    assert!(device_models::note_overruled(&mut hubs, &changed.conflicts).is_empty());
    hub_sends(&mirror, &hubs).await;
    assert_eq!(log(&mirror), [("3".to_owned(), "2".to_owned())]);
    // With everything that comes after it, and after the Device was elsewhere and came back.
    hubs["metadata"]["labels"] = json!({"line": "4"});
    hub_sends(&mirror, &hubs).await;
    let gone = Change {
        key: Key::from(D),
        body: None,
        hash: 0,
    };
    mirror.apply(vec![gone], &Metrics::default()).await.unwrap();
    assert!(mirror.store.kv_scan("conflicts", b"").unwrap().is_empty());
    hub_sends(&mirror, &hubs).await;
    hubs["metadata"]["labels"] = json!({"line": "5"});
    hub_sends(&mirror, &hubs).await;
    assert_eq!(log(&mirror).len(), 1);
    // Another gateway's is its own to tell.
    let other = Mirror::new(
        mirror.store.clone(),
        mirror.stamps.clone(),
        "gw".to_owned(),
        Conflicts::open(mirror.store.clone(), "gw-2").unwrap(),
    );
    mirror
        .store
        .commit(Tx(vec![Conflicts::forget(&objects::device_key(
            DEVICES, "default", "d",
        ))]))
        .await
        .unwrap();
    hub_sends(&other, &hubs).await;
    assert_eq!(log(&mirror).len(), 1);
}

#[test]
fn records_come_back() {
    for record in [
        Record {
            held: Some(7),
            refused: None,
        },
        Record {
            held: Some(Hash::MAX),
            refused: Some((Some(9), "no".to_owned())),
        },
        Record {
            held: None,
            refused: Some((None, String::new())),
        },
    ] {
        assert_eq!(Record::decode(&record.encode()), Some(record));
    }
    for damaged in [&[][..], &[1, 2, 3], &[2, 0xff]] {
        assert_eq!(Record::decode(damaged), None);
    }
}

#[test]
fn reasons_are_cut_at_a_character() {
    assert!(cut("é".repeat(400)).len() <= MAX_REASON);
    assert_eq!(cut("short".to_owned()), "short");
}

#[test]
fn only_kinds_that_belong_here_are_taken() {
    for (key, yes) in [
        ("devices.kubeedge.io/devices/default/d", true),
        ("devices.kubeedge.io/devicemodels/default/m", true),
        ("edge.kubeedge.io/edgenodes//gw", true),
        ("/secrets/default/s", false),
        ("devices.kubeedge.io/devicestatuses/default/d", false),
        ("devices.kubeedge.io/devices//d", false),
        ("evil.io/devices/default/d", false),
    ] {
        assert_eq!(
            objects::parse_replica_key(key).is_some_and(|key| known(&key)),
            yes,
            "{key}"
        );
    }
}

#[tokio::test]
async fn what_an_older_agent_did_not_know_is_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let mirror = mirror(dir.path());
    let refused = |reason: &str| Record {
        held: None,
        refused: Some((Some(7), reason.to_owned())),
    };
    for (key, reason) in [
        ("devices.kubeedge.io/devices/default/a", UNKNOWN_KIND),
        ("devices.kubeedge.io/devices/default/b", "its model forbids it"),
        ("example.com/things/default/c", UNKNOWN_KIND),
    ] {
        mirror.store.commit(Tx(vec![refused(reason).op(key)])).await.unwrap();
    }
    let inventory = mirror.inventory().unwrap();
    let still: Vec<_> = inventory.refused().map(|(key, _)| key.to_string()).collect();
    assert_eq!(
        still,
        ["devices.kubeedge.io/devices/default/b", "example.com/things/default/c"]
    );
}
