use super::*;
use bytes::Bytes;
use metastore::store::StoreOptions;
use serde_json::json;

fn mirror(dir: &std::path::Path) -> Mirror {
    let (store, _) = Store::open(StoreOptions::new(dir.join("edge.db"))).unwrap();
    let stamps = Stamps::load("gw", &store).unwrap();
    Mirror::new(store, stamps, "gw".to_owned())
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
