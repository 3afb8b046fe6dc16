//! A hub that was stopped and started: nobody sends anything twice.

use std::sync::{Arc, Mutex};

use link::driver::End;
use proto::CloseReason;
use serde_json::json;

use crate::gateway::{Gateway, Kept, enrol};
use crate::world::{STATUSES, World, eventually};

const PRESS: &str = "devices.kubeedge.io/devices/default/press-01";
const STATUS: &str = "devices.kubeedge.io/devicestatuses/default/press-01";
const TWINS: &str = "devices.kubeedge.io/twins/default/press-01";

#[tokio::test]
async fn after_a_restart_nothing_is_sent_again() {
    let mut world = World::start().await;
    let enrolled = enrol(&world.admin.token(json!({})).await, "gw-1").await.unwrap();
    let kept: Arc<Mutex<Kept>> = Arc::default();
    let gateway = Gateway::online(&enrolled, &kept).await;
    world.admin.press("press-01", "gw-1").await;
    let before = gateway.until_desired(PRESS, "the device", |_| true).await;
    let status = json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceStatus",
        "metadata": {"name": "press-01", "namespace": "default"},
        "status": {"twins": [{"propertyName": "temperature", "reported": {"value": "21"}}]},
    });
    gateway.report(STATUS, &status).await;
    gateway
        .report(
            "/nodes//gw-1",
            &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "gw-1"},
        "status": {"nodeInfo": {"architecture": "arm64"}}}),
        )
        .await;
    let mut device = before.clone();
    device["spec"]["properties"][0]["desired"]["value"] = json!("60");
    let mut clock = device_models::hlc::Clock::edge("gw-1", None);
    let now = daemon::clock::wall_ms() + 5;
    device_models::admit_device(Some(&before), &mut device, None, &mut clock, now, "device").unwrap();
    gateway
        .report(TWINS, &device_models::edge_registers(&device, "gw-1").unwrap())
        .await;
    gateway
        .until_desired(PRESS, "its own edit back", |d| {
            d["spec"]["properties"][0]["desired"]["value"] == "60"
        })
        .await;
    gateway.journal(250).await;
    eventually("the journal's end", async || {
        (kept.lock().unwrap().journal_cursor == 250).then_some(())
    })
    .await;
    eventually("all acknowledged", async || {
        (kept.lock().unwrap().acked.len() >= 3).then_some(())
    })
    .await;
    let settled = world.admin.until_in_sync("gw-1").await;
    let account = |n: u64| json!([{"stream": "telemetry", "accepted": n, "delivered": n, "dropped": 0, "waiting": 0}]);
    assert_eq!(settled["journals"], account(250));

    world.stop().await;
    let end = gateway.ended().await;
    assert!(
        matches!(
            end,
            End::Peer {
                reason: CloseReason::Shutdown,
                ..
            } | End::Lost(_)
        ),
        "{end}"
    );
    let received = kept.lock().unwrap().received;
    world.start_again().await;
    kept.lock().unwrap().journal_cursor = 0;
    let gateway = Gateway::online(&enrolled, &kept).await;
    let after = world.admin.until_in_sync("gw-1").await;
    assert_eq!(
        (&after["objectsSent"], &after["objectsReceived"]),
        (&json!(0), &json!(0)),
        "{after}"
    );
    assert_eq!(kept.lock().unwrap().received, received);
    assert_eq!(
        (&after["desired"]["digest"], &after["observed"]["digest"]),
        (&settled["desired"]["digest"], &settled["observed"]["digest"])
    );
    assert!(after["sessionEpoch"].as_u64() > settled["sessionEpoch"].as_u64());
    assert_eq!(after["journals"], account(250));

    // What changed while the hub was away goes over, and only that.
    gateway.journal(5).await;
    eventually("the new records", async || {
        (kept.lock().unwrap().journal_cursor == 255).then_some(())
    })
    .await;
    history_is_whole(&world, 255).await;
    world.admin.set("press-01", "70").await.unwrap();
    gateway
        .until_desired(PRESS, "the edit", |d| {
            d["spec"]["properties"][0]["desired"]["value"] == "70"
        })
        .await;
    assert_eq!(kept.lock().unwrap().received, received + 1);
    gateway.leave().await;
}

/// Everything up to `last` is kept, once, in order, and is read a page at a time.
async fn history_is_whole(world: &World, last: u64) {
    let (mut from, mut numbers) = (1, Vec::new());
    loop {
        let path = format!("/kurator/v1/journals/gw-1/telemetry?from={from}&limit=100");
        let page = world.admin.get(&path).await.unwrap();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 100 && page["newest"] == last && page["forcedOut"] == 0);
        numbers.extend(items.iter().map(|item| item["seq"].as_u64().unwrap()));
        match page["next"].as_u64() {
            Some(next) => from = next,
            None => break,
        }
    }
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>());
    for (path, code) in [
        ("gw-1/telemetry?from=x", 400),
        ("gw-1/telemetry?limit=-1", 400),
        ("gw-1/nothing", 404),
        ("gw-2/telemetry", 404),
    ] {
        let answer = world.admin.get(&format!("/kurator/v1/journals/{path}")).await;
        assert_eq!(answer.unwrap_err().0, code, "{path}");
    }
}

#[tokio::test]
async fn what_happened_while_the_hub_was_away_is_caught_up() {
    let mut world = World::start().await;
    let enrolled = enrol(&world.admin.token(json!({})).await, "gw-1").await.unwrap();
    let kept: Arc<Mutex<Kept>> = Arc::default();
    let gateway = Gateway::online(&enrolled, &kept).await;
    world.admin.press("press-01", "gw-1").await;
    gateway.until_desired(PRESS, "the device", |_| true).await;
    gateway.leave().await;
    world.stop().await;
    let body = json!({"metadata": {"name": "press-01"}, "status": {"twins": [{"propertyName": "temperature", "reported": {"value": "35"}}]}});
    kept.lock().unwrap().observed.put(STATUS, body.to_string());
    kept.lock()
        .unwrap()
        .records
        .extend((0..300).map(|n| bytes::Bytes::from(format!("offline {n}"))));
    world.start_again().await;
    world.admin.set("press-01", "44").await.unwrap();
    let gateway = Gateway::online(&enrolled, &kept).await;
    gateway
        .until_desired(PRESS, "the edit", |d| {
            d["spec"]["properties"][0]["desired"]["value"] == "44"
        })
        .await;
    eventually("the report", async || {
        world.admin.get(&format!("{STATUSES}/press-01")).await.ok()
    })
    .await;
    eventually("the journal", async || {
        (kept.lock().unwrap().journal_cursor == 300).then_some(())
    })
    .await;
    world.admin.until_in_sync("gw-1").await;
    // An older session that lingers is told that it is over.
    let newer = Gateway::online(&enrolled, &kept).await;
    let end = gateway.ended().await;
    assert!(
        matches!(
            end,
            End::Peer {
                reason: CloseReason::Fenced,
                ..
            }
        ),
        "{end}"
    );
    assert_eq!(world.hub.as_ref().unwrap().connected(), 1);
    newer.leave().await;
}

#[tokio::test]
async fn a_gateway_cannot_make_the_hub_keep_more_streams_by_coming_back() {
    let mut world = World::start().await;
    let enrolled = enrol(&world.admin.token(json!({})).await, "gw-1").await.unwrap();
    let kept: Arc<Mutex<Kept>> = Arc::default();
    kept.lock().unwrap().records.push(bytes::Bytes::from_static(b"{}"));
    let streams = async |world: &World| {
        let mut there = 0;
        for n in 0..3 * proto::limits::MAX_STREAMS {
            let path = format!("/kurator/v1/journals/gw-1/s{n}");
            there += usize::from(world.admin.get(&path).await.is_ok());
        }
        there
    };
    // One stream per connection beside the telemetry that every gateway has, now and then from another store, and over a restart of the hub.
    let most = proto::limits::MAX_STREAMS - 1;
    for n in 0..most {
        if n == 8 {
            world.stop().await;
            world.start_again().await;
        }
        let welcomes = kept.lock().unwrap().welcomes;
        let gateway = Gateway::connect_as(&enrolled, Arc::clone(&kept), n as u64 / 4, 1)
            .await
            .unwrap();
        eventually("a welcome", async || {
            (kept.lock().unwrap().welcomes > welcomes).then_some(())
        })
        .await;
        gateway
            .handle
            .call(move |s, _| s.journal_appended(&format!("s{n}"), 1))
            .await
            .unwrap();
        eventually("the record to be stored", async || {
            world.admin.get(&format!("/kurator/v1/journals/gw-1/s{n}")).await.ok()
        })
        .await;
        gateway.leave().await;
    }
    let gateway = Gateway::connect_as(&enrolled, Arc::clone(&kept), 99, 2).await.unwrap();
    gateway.handle.call(|s, _| s.journal_appended("s40", 1)).await.unwrap();
    let end = gateway.ended().await;
    let End::Peer { reason, detail, .. } = &end else {
        panic!("{end}");
    };
    assert_eq!(*reason, CloseReason::Protocol);
    assert!(detail.contains("journal streams"), "{detail}");
    assert_eq!(streams(&world).await, most);
    // One that is known goes on.
    let gateway = Gateway::online(&enrolled, &kept).await;
    gateway.handle.call(|s, _| s.journal_appended("s3", 1)).await.unwrap();
    world.admin.until_in_sync("gw-1").await;
    gateway.leave().await;
}

/// Every page of rows that has this text in it is bad; the others are good.
fn spoil_pages_with(path: &std::path::Path, text: &[u8]) -> usize {
    let mut file = std::fs::read(path).unwrap();
    let mut spoiled = 0;
    for page in file.chunks_mut(4096).skip(1) {
        let rows = matches!(page[0], 10 | 13);
        if rows && page.windows(text.len()).any(|w| w == text) {
            page[..64].iter_mut().for_each(|byte| *byte ^= 0x5a);
            spoiled += 1;
        }
    }
    std::fs::write(path, file).unwrap();
    spoiled
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_met_at_the_start_is_for_another_life_which_sets_it_aside() {
    let mut world = World::start().await;
    // More of them than fit with what opening the store reads.
    for n in 0..200 {
        world.admin.token(json!({"node": format!("later-{n}")})).await;
    }
    world.stop().await;
    let config = world.config.clone();
    let path = config.data_dir.join("hub.db");
    // One row may lie across two pages; twenty do not.
    let spoiled: usize = (150..170)
        .map(|n| spoil_pages_with(&path, format!("later-{n}").as_bytes()))
        .sum();
    assert!(spoiled > 0);
    match cloudhub::Bound::new(config).await {
        Err(daemon::lives::End::Damaged(why)) => {
            assert!(
                why.what.contains("cannot read the store") && why.what.contains("damaged"),
                "{why}"
            );
        }
        other => panic!("{other:?}"),
    }
    // As `daemon::lives` does.
    world.start_again().await;
    let kept: Vec<_> = std::fs::read_dir(&world.config.data_dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("damaged"))
        .collect();
    assert!(!kept.is_empty());
    world.stop().await;
}
