//! A hub whose disk is full refuses people and acknowledges nothing to gateways; they stay connected, keep what it did not take, and
//! hand it over when there is room, once.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tests::{Api, Hub, LOOK, Pair, eventually, get, kubectl, mosquitto_pub, mosquitto_pub_lines, program, run};
use tokio::process::{Child, Command};

use crate::disk::SmallDisk;

const UPDATE: &str = "$hw/events/device/default/press-01/twin/update";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const STATUS: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devicestatuses/press-01";
/// Longer than a gateway waits for an acknowledgement of a hub it hears nothing from.
const HOLD: Duration = Duration::from_secs(20);

fn report(property: &str, value: &str) -> String {
    json!({"event_id": "d", "timestamp": 1, "twin": {property: {"actual": {"value": value}}}}).to_string()
}

/// Writes an object of about this size; how it was refused, if it was.
async fn write(api: &Api, name: &str, size: usize) -> Option<(u16, String)> {
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "x".repeat(size)}});
    let answer = api.try_json(Method::POST, CONFIG_MAPS, Some(&object)).await.unwrap();
    answer.err().map(|refusal| (refusal.status.as_u16(), refusal.message))
}

/// accepted, delivered, waiting of the telemetry; fails when the account does not balance or something was dropped.
fn account(node: &Value) -> Option<(u64, u64, u64)> {
    let telemetry = node["journals"]
        .as_array()?
        .iter()
        .find(|j| j["stream"] == "telemetry")?;
    let n = |field: &str| telemetry[field].as_u64().unwrap();
    assert_eq!(n("accepted"), n("delivered") + n("waiting"), "{telemetry}");
    assert_eq!(n("dropped"), 0, "{telemetry}");
    Some((n("accepted"), n("delivered"), n("waiting")))
}

#[tokio::test]
async fn a_full_disk_at_the_hub_costs_nobody_anything_but_time() {
    daemon::tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(48 * 1024 * 1024).await;
    // Its log goes elsewhere, as a service's does.
    std::os::unix::fs::symlink(folder.path().join("hub.log"), disk.0.path().join("hub.log")).unwrap();
    // With the usual heartbeat: what keeps the session is not that somebody asks every second.
    let hub = Hub::start(disk.0.path(), &[]).await;
    let mut edge = Pair::gateway(&hub, &folder.path().join("gw-1"), "gw-1").await;
    hub.until_in_sync("gw-1").await;
    tests::press(&hub.api, "press-01", "gw-1").await;
    let own = edge.api().await;
    let history = json!({"spec": {"properties": [
        {"name": "cycles", "reportToCloud": true}, {"name": "state", "reportToCloud": true},
    ]}})
    .to_string();
    let patch = ["patch", "device", "press-01", "--type=merge", "-p", &history];
    kubectl(&hub.kubeconfig(), &patch).await.good();
    eventually("the agent to keep the history", async || {
        let device = get(&own, &tests::device("press-01")).await?;
        (device["spec"]["properties"][0]["reportToCloud"] == true).then_some(())
    })
    .await;
    mosquitto_pub(edge.mqtt(), UPDATE, &report("cycles", "1")).await.good();
    // Whatever was recorded until here.
    let (mut sent, ..) = eventually("the first record", async || {
        let node = hub.gateway("gw-1").await?;
        account(&node).filter(|(accepted, _, waiting)| *accepted > 0 && *waiting == 0)
    })
    .await;
    let epoch = hub.gateway("gw-1").await.unwrap()["sessionEpoch"].clone();

    let ballast = disk.fill();
    // The store may have room inside its own files: that is used up first, by ever smaller objects.
    let (mut size, mut refusal) = (256 * 1024, None);
    for n in 0..20_000_u32 {
        match write(&hub.api, &format!("filler-{n}"), size).await {
            None => {}
            refused if size <= 16 => {
                refusal = refused;
                break;
            }
            Some(_) => size /= 2,
        }
    }
    let (code, message) = refusal.expect("a full disk refuses sooner or later");
    assert_eq!(code, 507, "{message}");
    assert!(message.contains("disk is full"), "{message}");

    // The gateway takes reports as ever.
    let before = sent;
    let waiting = loop {
        let lines: Vec<String> = (0..10)
            .map(|n| report("state", &format!("{sent}-{n}-{}", "x".repeat(20_000))))
            .collect();
        mosquitto_pub_lines(edge.mqtt(), UPDATE, &lines).await.good();
        sent += 10;
        let told = eventually("the hub to hear of them", async || {
            account(&hub.gateway("gw-1").await?).filter(|(accepted, ..)| *accepted == sent)
        })
        .await;
        // What the store gives back when it is full may take some.
        if told.2 >= 10 {
            break told.2;
        }
        assert!(sent < before + 200, "everything is taken: {told:?}");
    };
    let begun = daemon::clock::now();
    while begun.elapsed() < HOLD {
        let node = hub.gateway("gw-1").await.expect("the hub is alive");
        assert_eq!(
            (&node["connected"], &node["sessionEpoch"]),
            (&json!(true), &epoch),
            "{node}"
        );
        assert!(
            account(&node).is_some_and(|(_, _, now)| now > 0 && now <= waiting),
            "{node}"
        );
        tokio::time::sleep(LOOK * 10).await;
    }
    let (code, message) = write(&hub.api, "one-more", 256 * 1024).await.expect("it is full");
    assert!(code == 507 && message.contains("disk is full"), "{code} {message}");
    kubectl(&hub.kubeconfig(), &["get", "devices"]).await.good();
    assert!(edge.alive());

    std::fs::remove_file(&ballast).unwrap();
    mosquitto_pub(edge.mqtt(), UPDATE, &report("cycles", "99")).await.good();
    sent += 1;
    let node = eventually("the journal to be told whole", async || {
        let node = hub.gateway("gw-1").await?;
        account(&node).filter(|told| *told == (sent, sent, 0)).map(|_| node)
    })
    .await;
    assert_eq!(node["sessionEpoch"], epoch, "it was one session all the time");
    eventually("the last report in the API", async || {
        let status = get(&hub.api, STATUS).await?;
        let twins = status["status"]["twins"].as_array()?;
        twins
            .iter()
            .any(|t| t["propertyName"] == "cycles" && t["reported"]["value"] == "99")
            .then_some(())
    })
    .await;
    hub.until_in_sync("gw-1").await;
    assert_eq!(write(&hub.api, "one-more", 16).await, None);
    history_is_whole(&hub, sent).await;
    edge.kill().await;
}

/// A hub on the disk and ports of `hub`, outside its care.
fn launch(hub: &Hub, log: &Path) -> Child {
    let port = |url: &str| url.split_once("://").map_or(url, |(_, at)| at).to_owned();
    Command::new(program("cloudhub"))
        .arg("--data-dir")
        .arg(hub.folder())
        .args(["--listen", &hub.listen().to_string()])
        .args(["--api", &port(hub.api_url()), "--health", &port(hub.health_url())])
        .stderr(std::fs::File::create(log).unwrap())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_hub_that_starts_on_a_full_disk_serves_what_it_has_or_says_what_is_in_the_way() {
    daemon::tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::new(48 * 1024 * 1024).await;
    std::os::unix::fs::symlink(folder.path().join("hub.log"), disk.0.path().join("hub.log")).unwrap();
    let mut hub = Hub::start(disk.0.path(), &[]).await;
    let mut edge = Pair::gateway(&hub, &folder.path().join("gw-1"), "gw-1").await;
    hub.until_in_sync("gw-1").await;
    tests::press(&hub.api, "press-01", "gw-1").await;
    let run_file = disk.0.path().join("hub.json");
    let written = || std::fs::read_to_string(&run_file).unwrap();

    // A hub knows at its next start whom to call back once it has written down where they were.
    eventually("the gateway's address to be written", async || {
        let node = get(&hub.api, "/apis/edge.kubeedge.io/v1/edgenodes/gw-1").await?;
        node["status"]["address"].as_str().map(|_| ())
    })
    .await;
    // There is room in the files that a killed hub left behind, and for no other file.
    hub.kill().await;
    disk.no_more_files(true).await;
    let (before, log) = (written(), folder.path().join("again.log"));
    let mut again = launch(&hub, &log);
    let pid = again.id().unwrap();
    eventually("the gateway to be back", async || {
        let ended = again.try_wait().unwrap();
        assert_eq!(ended, None, "{}", std::fs::read_to_string(&log).unwrap());
        hub.gateway("gw-1").await.filter(|n| n["connected"] == true)
    })
    .await;
    assert!(
        get(&hub.api, &tests::device("press-01")).await.is_some(),
        "it serves what it has"
    );
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("The disk is full"), "{said}");
    assert_eq!(written(), before, "there was no room for another");
    disk.no_more_files(false).await;
    eventually("the run file of this process", async || {
        let run: Value = serde_json::from_str(&written()).ok()?;
        (run["pid"] == pid).then_some(())
    })
    .await;

    // No room for the store itself.
    let ended = run(Command::new("kill").args(["-TERM", &pid.to_string()])).await;
    assert!(ended.status.success() && again.wait().await.unwrap().success());
    let ballast = disk.fill();
    let status = launch(&hub, &log).wait().await.unwrap();
    let said = std::fs::read_to_string(&log).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("no space left for the store"), "{said}");
    assert!(
        said.contains("hint: the disk of") && said.contains("make room"),
        "{said}"
    );
    std::fs::remove_file(&ballast).unwrap();
    hub.start_again().await;
    hub.until_in_sync("gw-1").await;
    edge.kill().await;
}

/// Every record once, in order, with nothing between.
async fn history_is_whole(hub: &Hub, last: u64) {
    let (mut from, mut numbers, mut stores) = (Some(1), Vec::new(), BTreeSet::new());
    while let Some(position) = from {
        let path = format!("/kurator/v1/journals/gw-1/telemetry?from={position}&limit=1000");
        let page = get(&hub.api, &path).await.expect("the hub keeps the history");
        assert_eq!(page["forcedOut"], 0);
        for item in page["items"].as_array().unwrap() {
            stores.insert(item["instance"].to_string());
            numbers.push(item["seq"].as_u64().unwrap());
        }
        from = page["next"].as_u64();
    }
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>());
    assert_eq!(stores.len(), 1);
}
