//! A full disk refuses, a damaged page is set aside; neither takes the daemon down or a promise back.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::json;
use tests::{Hub, Pair, Subscriber, eventually, get, kubectl, kurator, mosquitto_pub, run};
use tokio::process::Command;

const UPDATE: &str = "$hw/events/device/default/press-01/twin/update";

fn report(property: &str, value: &str) -> String {
    json!({"event_id": "d", "timestamp": 1, "twin": {property: {"actual": {"value": value}}}}).to_string()
}

/// A small file system of its own, gone when dropped.
pub(crate) struct SmallDisk(pub(crate) tempfile::TempDir);

impl SmallDisk {
    pub(crate) async fn new(bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mounted = run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder.path()))
        .await;
        assert!(
            mounted.status.success(),
            "this test mounts a small file system, as root or in a user namespace: {}",
            mounted.err
        );
        Self(folder)
    }

    /// Whether it has room for another file, whatever is in it.
    pub(crate) async fn no_more_files(&self, full: bool) {
        let used = run(Command::new("df").args(["--output=iused"]).arg(self.0.path()))
            .await
            .good();
        let used: u64 = used.lines().last().and_then(|n| n.trim().parse().ok()).unwrap();
        let most = if full { used } else { used + 1000 };
        run(Command::new("mount")
            .args(["-o", &format!("remount,nr_inodes={most}")])
            .arg(self.0.path()))
        .await
        .good();
    }

    /// Fills it to the last byte, until the file that is returned is removed.
    pub(crate) fn fill(&self) -> PathBuf {
        let path = self.0.path().join("ballast");
        let mut file = std::fs::File::create(&path).unwrap();
        let block = vec![7_u8; 64 * 1024];
        while file.write_all(&block).is_ok() {}
        while file.write_all(&[7]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(
            std::process::Command::new("umount")
                .arg("-l")
                .arg(self.0.path())
                .status(),
        );
    }
}

#[tokio::test]
async fn a_full_disk_refuses_reports_and_recovers() {
    daemon::tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(&folder.path().join("hub"), &["--heartbeat", "1s"]).await;
    let disk = SmallDisk::new(24 * 1024 * 1024).await;
    let mut edge = Pair::gateway(&hub, disk.0.path(), "gw-1").await;
    hub.until_in_sync("gw-1").await;
    tests::press(&hub.api, "press-01", "gw-1").await;
    let own = edge.api().await;
    eventually("the device", async || get(&own, &tests::device("press-01")).await).await;
    mosquitto_pub(edge.mqtt(), UPDATE, &report("cycles", "1")).await.good();

    let ballast = disk.fill();
    // The store may still have room inside its own files: large reports use it up, then one is refused.
    let mut results = Subscriber::start(edge.mqtt(), &format!("{UPDATE}/result"), &[]).await;
    let mut refused = None;
    for n in 2..4_000_u32 {
        let filler = format!("{n}-{}", "x".repeat(30_000));
        let payload = report("state", &filler);
        // A refused report is not acknowledged: the client may have to be ended.
        let sent = tokio::time::timeout(
            std::time::Duration::from_secs(3),
            mosquitto_pub(edge.mqtt(), UPDATE, &payload),
        )
        .await;
        let (_, result) = results.next().await;
        if result["code"].as_u64().is_some() {
            refused = Some((sent.is_err(), result));
            break;
        }
    }
    let (unacknowledged, result) = refused.expect("a full disk refuses sooner or later");
    assert!(unacknowledged || result["code"].as_u64() >= Some(500), "{result}");
    assert!(
        result["reason"]
            .as_str()
            .unwrap_or_default()
            .to_lowercase()
            .contains("full"),
        "{result}"
    );
    assert!(edge.alive());
    kubectl(&edge.kubeconfig(), &["get", "devices"]).await.good();

    std::fs::remove_file(&ballast).unwrap();
    eventually("reports to be accepted again", async || {
        let sent = tokio::time::timeout(
            std::time::Duration::from_secs(3),
            mosquitto_pub(edge.mqtt(), UPDATE, &report("cycles", "99")),
        )
        .await;
        sent.is_ok_and(|s| s.status.success()).then_some(())
    })
    .await;
    kurator(&hub.kubeconfig(), &["twin", "get", "press-01", "cycles"])
        .await
        .good();
    eventually("the cloud to see it", async || {
        let seen = kurator(&hub.kubeconfig(), &["twin", "get", "press-01", "cycles"])
            .await
            .good();
        seen.contains("99").then_some(())
    })
    .await;
    edge.kill().await;
}

/// Overwrites the middle of every page of the file but the first, as a dying flash chip would.
fn damage(path: &Path) {
    damage_pages(path, 4096, 4096);
}

/// Overwrites the beginning of whatever stands every `step` bytes from `at` on.
fn damage_pages(path: &Path, mut at: u64, step: u64) {
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    while at + 4096 <= length {
        let mut page = [0_u8; 64];
        file.seek(SeekFrom::Start(at)).unwrap();
        file.read_exact(&mut page).unwrap();
        page.iter_mut().for_each(|b| *b ^= 0x5a);
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&page).unwrap();
        at += step;
    }
}

#[tokio::test]
async fn a_damaged_store_is_set_aside_and_the_hub_fills_the_rest() {
    let mut pair = Pair::start().await;
    pair.with_press("press-01").await;
    mosquitto_pub(pair.edge.mqtt(), UPDATE, &report("temperature", "55"))
        .await
        .good();
    pair.hub.until_in_sync("gw-1").await;
    // Stopped in order, so that everything stands in the one file and no log can mend it.
    pair.edge.stop().await;
    let data = pair.edge.folder().join("data");
    damage(&data.join("edgecore.db"));
    pair.edge.start_again().await;
    assert!(
        pair.edge.log().contains("set aside") || pair.edge.log().contains("damaged"),
        "{}",
        pair.edge.log()
    );
    let own = pair.edge.api().await;
    eventually("the device to be back", async || {
        get(&own, &tests::device("press-01")).await
    })
    .await;
    pair.hub.until_in_sync("gw-1").await;
    let kept: Vec<String> = std::fs::read_dir(&data)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert!(
        kept.iter().any(|n| n.contains("damaged")),
        "the damaged file is kept for a look: {kept:?}"
    );
}

/// The same to the file of a store that runs, and to its log.
fn damage_in_use(store: &Path) {
    let mut log = store.as_os_str().to_owned();
    log.push("-wal");
    damage(store);
    // Its own head, then one before each page.
    damage_pages(Path::new(&log), 32 + 24, 24 + 4096);
}

/// What a health port says about readiness at each look, until it is dropped: 0 when nobody answered.
struct Probe {
    seen: tokio::sync::watch::Receiver<(bool, u16)>,
    task: tokio::task::JoinHandle<()>,
}

impl Probe {
    fn start(health_url: &str) -> Self {
        let address = health_url.trim_start_matches("http://").to_owned();
        let (tell, seen) = tokio::sync::watch::channel((false, 0));
        let task = tokio::spawn(async move {
            loop {
                let status = kurator::ask(&address, "/readyz").await.map_or(0, |(status, _)| status);
                tell.send_modify(|(red, now)| {
                    *red |= *now == 200 && status != 200;
                    *now = status;
                });
            }
        });
        Self { seen, task }
    }

    /// It was ready, then was not, and is now.
    async fn until_back(&mut self) {
        let back = self.seen.wait_for(|(red, now)| *red && *now == 200);
        tokio::time::timeout(tests::PATIENCE, back)
            .await
            .expect("ready, not ready, ready")
            .unwrap();
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn damage_in_use_has_the_gateway_start_over_in_the_same_process() {
    let mut pair = Pair::start().await;
    pair.with_press("press-01").await;
    mosquitto_pub(pair.edge.mqtt(), UPDATE, &report("temperature", "55"))
        .await
        .good();
    pair.hub.until_in_sync("gw-1").await;
    let pid = pair.edge.pid();
    let mut probe = Probe::start(pair.edge.health_url());
    probe.seen.wait_for(|(_, now)| *now == 200).await.unwrap();
    damage_in_use(&pair.edge.folder().join("data/edgecore.db"));
    // Pages that the agent remembers serve for a while; what it has to read again does not.
    eventually("the damage to be met", async || {
        let payload = report("cycles", "1");
        let sent = mosquitto_pub(pair.edge.mqtt(), UPDATE, &payload);
        drop(tokio::time::timeout(std::time::Duration::from_secs(1), sent).await);
        drop(
            run(Command::new("kubectl").env("KUBECONFIG", pair.edge.kubeconfig()).args([
                "get",
                "devices,nodes",
                "-A",
                "--request-timeout=1s",
            ]))
            .await,
        );
        pair.edge.log().contains("Starting over").then_some(())
    })
    .await;
    probe.until_back().await;
    assert!(pair.edge.alive());
    assert_eq!(pair.edge.pid(), pid);
    let own = pair.edge.api().await;
    eventually("the device to be back", async || {
        get(&own, &tests::device("press-01")).await
    })
    .await;
    let mut documents = Subscriber::start(pair.edge.mqtt(), &format!("{UPDATE}/document"), &[]).await;
    mosquitto_pub(pair.edge.mqtt(), UPDATE, &report("temperature", "77"))
        .await
        .good();
    documents.next().await;
    eventually("the cloud to see it", async || {
        let seen = kurator(&pair.hub.kubeconfig(), &["twin", "get", "press-01", "temperature"])
            .await
            .good();
        seen.contains("77").then_some(())
    })
    .await;
    pair.hub.until_in_sync("gw-1").await;
    assert_eq!(pair.edge.stop().await, Some(0), "it still listens to signals");
}

#[tokio::test]
async fn damage_in_use_has_the_hub_start_over_in_the_same_process() {
    let mut pair = Pair::start().await;
    pair.with_press("press-01").await;
    let pid = pair.hub.pid();
    let mut probe = Probe::start(pair.hub.health_url());
    probe.seen.wait_for(|(_, now)| *now == 200).await.unwrap();
    damage_in_use(&pair.hub.folder().join("hub.db"));
    eventually("the damage to be met", async || {
        drop(
            run(Command::new("kubectl").env("KUBECONFIG", pair.hub.kubeconfig()).args([
                "get",
                "devices,nodes",
                "-A",
                "--request-timeout=1s",
            ]))
            .await,
        );
        drop(
            run(Command::new("kubectl").env("KUBECONFIG", pair.hub.kubeconfig()).args([
                "create",
                "configmap",
                "c",
                "--request-timeout=1s",
            ]))
            .await,
        );
        pair.hub.log().contains("Starting over").then_some(())
    })
    .await;
    probe.until_back().await;
    assert_eq!(pair.hub.pid(), pid);
    kubectl(&pair.hub.kubeconfig(), &["get", "namespaces"]).await.good();
    assert!(pair.hub.token(&["--node", "gw-2"]).await.starts_with("kj1."));
    assert_eq!(pair.hub.stop().await, Some(0), "it still listens to signals");
}

#[tokio::test]
async fn secrets_are_not_readable_in_the_store_file() {
    let mut pair = Pair::start().await;
    let hub = pair.hub.kubeconfig();
    kubectl(
        &hub,
        &[
            "create",
            "secret",
            "generic",
            "s",
            "--from-literal=password=correct-horse-battery",
        ],
    )
    .await
    .good();
    let value = kubectl(&hub, &["get", "secret", "s", "-o", "jsonpath={.data.password}"])
        .await
        .good();
    pair.hub.stop().await;
    for entry in std::fs::read_dir(pair.hub.folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file()
            && path
                .file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("hub.db"))
        {
            let bytes = std::fs::read(&path).unwrap();
            for needle in [b"correct-horse-battery".as_slice(), value.as_bytes()] {
                assert!(
                    !bytes.windows(needle.len()).any(|w| w == needle),
                    "{} holds the secret in the clear",
                    path.display()
                );
            }
        }
    }
}
