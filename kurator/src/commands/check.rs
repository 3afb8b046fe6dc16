//! `kurator check`: looks at this gateway, one line a check, each that is not well with its fix. It changes nothing.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::exit::{FAILED, Failure};
use link::pki::Cert;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::cli::CheckArgs;
use crate::{output, say};

const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// Below this a store cannot grow through a week without a link.
const MIN_FREE: u64 = 256 * 1024 * 1024;
/// A commit waits for the disk: above this every report feels it.
const SLOW_SYNC: Duration = Duration::from_millis(20);
/// What an agent with a hundred devices and its page cache want.
const MIN_MEMORY_KB: u64 = 64 * 1024;
/// A clock before this stands wrong: this program did not exist yet (2026-01-01).
const BUILT_AFTER_MS: u64 = 1_767_225_600_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    Warn,
    Fail,
}

struct Line {
    name: &'static str,
    state: State,
    detail: String,
    fix: String,
}

#[derive(Default)]
struct Report(Vec<Line>);

impl Report {
    fn ok(&mut self, name: &'static str, detail: impl Into<String>) {
        self.0.push(Line {
            name,
            state: State::Ok,
            detail: detail.into(),
            fix: String::new(),
        });
    }
    fn warn(&mut self, name: &'static str, detail: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Line {
            name,
            state: State::Warn,
            detail: detail.into(),
            fix: fix.into(),
        });
    }
    fn fail(&mut self, name: &'static str, detail: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Line {
            name,
            state: State::Fail,
            detail: detail.into(),
            fix: fix.into(),
        });
    }
}

pub(crate) async fn run(arguments: CheckArgs) -> Result<(), Failure> {
    let mut report = Report::default();
    let config = configuration(&mut report, &arguments.config_dir);
    clock(&mut report);
    identity(&mut report, &arguments.config_dir);
    let data = PathBuf::from(config["dataDir"].as_str().unwrap_or("/var/lib/kurator"));
    disk(&mut report, &data);
    memory(&mut report);
    hubs(&mut report, &config).await;
    agent(&mut report, &data).await;
    workloads(&mut report);
    let rows: Vec<Vec<String>> = report
        .0
        .iter()
        .map(|l| {
            let state = match l.state {
                State::Ok => "ok",
                State::Warn => "warn",
                State::Fail => "FAIL",
            };
            vec![l.name.to_owned(), state.to_owned(), l.detail.clone(), l.fix.clone()]
        })
        .collect();
    say::text(&output::columns(&["CHECK", "", "FOUND", "FIX"], &rows));
    match report.0.iter().filter(|l| l.state == State::Fail).count() {
        0 => Ok(()),
        n => Err(Failure::new(FAILED, format!("{n} check(s) failed")).hint("the FIX column says what to do")),
    }
}

fn configuration(report: &mut Report, folder: &Path) -> Value {
    let file = folder.join("edgecore.yaml");
    match daemon::config::load::<Value>(Some(&file), "EDGECORE", std::iter::empty()) {
        Ok(config) => {
            report.ok(
                "configuration",
                format!(
                    "{} (node {})",
                    file.display(),
                    config["nodeName"].as_str().unwrap_or("?")
                ),
            );
            config
        }
        Err(e) => {
            report.fail("configuration", e.to_string(), "kurator join edge writes it");
            Value::Null
        }
    }
}

fn clock(report: &mut Report) {
    let now = daemon::clock::wall_ms();
    let shown = jiff::Timestamp::from_millisecond(i64::try_from(now).unwrap_or(0)).unwrap_or_default();
    if now < BUILT_AFTER_MS {
        report.warn(
            "clock",
            format!("{shown} is in the past"),
            "set the date or enable NTP; joining and twins work, log times are wrong",
        );
    } else {
        report.ok("clock", shown.to_string());
    }
}

fn identity(report: &mut Report, folder: &Path) {
    let pki = folder.join("pki");
    match std::fs::read_to_string(pki.join("node.crt"))
        .map_err(|e| e.to_string())
        .and_then(|pem| Cert::parse_pem(&pem).map_err(|e| e.to_string()))
    {
        Err(e) => report.fail(
            "identity",
            format!("{}: {e}", pki.join("node.crt").display()),
            "kurator join edge",
        ),
        Ok(cert) => {
            let left = i64::try_from(cert.not_after_ms / 1000).unwrap_or(i64::MAX)
                - i64::try_from(daemon::clock::wall_ms() / 1000).unwrap_or(0);
            if left <= 0 {
                report.fail("identity", "the certificate has expired", "join again with a new token");
            } else {
                report.ok("identity", format!("certificate good for {} days", left / 86_400));
            }
        }
    }
    for name in ["pki/node.key", "edge.kubeconfig"] {
        let path = folder.join(name);
        match std::fs::metadata(&path).map(|m| m.permissions().mode() & 0o077) {
            Ok(0) => report.ok("permissions", format!("{name} is the owner's alone")),
            Ok(_) => report.fail(
                "permissions",
                format!("others can read {}", path.display()),
                format!("chmod 600 {}", path.display()),
            ),
            Err(_) if name == "edge.kubeconfig" => {
                report.warn("permissions", "no edge.kubeconfig yet", "start edgecore once")
            }
            Err(e) => report.fail("permissions", format!("{}: {e}", path.display()), "kurator join edge"),
        }
    }
}

fn disk(report: &mut Report, data: &Path) {
    let existing = data.ancestors().find(|p| p.exists()).unwrap_or_else(|| Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Ok(s) => {
            let free = s.f_bavail.saturating_mul(s.f_frsize);
            if free < MIN_FREE {
                report.fail(
                    "disk space",
                    format!("{} free at {}", output::bytes(free), existing.display()),
                    "make room: reports are refused on a full disk",
                );
            } else {
                report.ok("disk space", format!("{} free", output::bytes(free)));
            }
        }
        Err(e) => report.warn("disk space", e.to_string(), ""),
    }
    match sync_time(existing) {
        Ok(t) if t > SLOW_SYNC => report.warn(
            "disk speed",
            format!("one durable write takes {t:?}"),
            "put dataDir on faster storage",
        ),
        Ok(t) => report.ok("disk speed", format!("one durable write takes {t:?}")),
        Err(e) => report.warn(
            "disk speed",
            format!("{}: {e}", existing.display()),
            "run as the agent's user",
        ),
    }
}

/// Median of a few 4 KiB writes with fdatasync.
fn sync_time(folder: &Path) -> std::io::Result<Duration> {
    let mut file = tempfile::tempfile_in(folder)?;
    let mut times = Vec::with_capacity(9);
    for _ in 0..9 {
        let started = daemon::clock::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

fn memory(report: &mut Report) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))
        .and_then(|l| l.split_whitespace().next())
        .and_then(|n| n.parse::<u64>().ok());
    match available {
        Some(kb) if kb < MIN_MEMORY_KB => report.warn(
            "memory",
            format!("{} available", output::bytes(kb * 1024)),
            "stop what is not needed",
        ),
        Some(kb) => report.ok("memory", format!("{} available", output::bytes(kb * 1024))),
        None => report.warn("memory", "/proc/meminfo does not say", ""),
    }
}

async fn hubs(report: &mut Report, config: &Value) {
    let hubs: Vec<&str> = config["hubs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if hubs.is_empty() {
        report.warn(
            "hub",
            "none configured: this gateway is on its own",
            "kurator join edge",
        );
    }
    for hub in hubs {
        let lookup = tokio::time::timeout(CONNECT_DEADLINE, tokio::net::lookup_host(hub)).await;
        let addresses: Vec<_> = match lookup {
            Ok(Ok(found)) => found.collect(),
            Ok(Err(e)) => {
                report.fail("hub name", format!("{hub}: {e}"), "check DNS, or use the hub's address");
                continue;
            }
            Err(_) => {
                report.fail(
                    "hub name",
                    format!("{hub}: no answer from DNS"),
                    "check DNS, or use the hub's address",
                );
                continue;
            }
        };
        let Some(address) = addresses.first() else {
            report.fail(
                "hub name",
                format!("{hub} has no address"),
                "check DNS, or use the hub's address",
            );
            continue;
        };
        match tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(address)).await {
            Ok(Ok(_)) => report.ok("hub tcp", format!("{address} answers")),
            Ok(Err(e)) => report.fail(
                "hub tcp",
                format!("{address}: {e}"),
                "is the hub up? open this TCP port in the firewall",
            ),
            Err(_) => report.fail(
                "hub tcp",
                format!("{address}: no answer"),
                "open this TCP port in the firewall",
            ),
        }
    }
}

/// Asks the running agent for itself and for its link.
async fn agent(report: &mut Report, data: &Path) {
    let run: Option<Value> = std::fs::read_to_string(data.join("edge.json"))
        .ok()
        .and_then(|t| serde_json::from_str(&t).ok());
    let Some(run) = run else {
        report.warn("agent", "not running", "start edgecore");
        return;
    };
    let health = run["health"]
        .as_str()
        .unwrap_or_default()
        .trim_start_matches("http://")
        .to_owned();
    match ask(&health, "/readyz").await {
        Ok((200, _)) => report.ok("agent", "running and ready"),
        Ok((_, body)) => report.warn("agent", format!("running, {}", body.trim()), "see its log"),
        Err(e) => report.fail("agent", format!("{health}: {e}"), "start edgecore"),
    }
    if let Ok((200, metrics)) = ask(&health, "/metrics").await {
        let connected = metrics.lines().find(|l| l.starts_with("edgecore_link_connected"));
        match connected {
            Some(line) if line.trim_end().ends_with(" 1") => report.ok("link", line.to_owned()),
            Some(line) => report.warn(
                "link",
                line.to_owned(),
                "the gateway works alone meanwhile; see `hub` above",
            ),
            None => {}
        }
    }
    let mqtt = run["mqtt"].as_str().unwrap_or_default().to_owned();
    if !mqtt.is_empty() {
        match tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(&mqtt)).await {
            Ok(Ok(_)) => report.ok("mqtt", format!("{mqtt} answers")),
            _ => report.fail("mqtt", format!("{mqtt} does not answer"), "see edgecore's log"),
        }
    }
}

/// One plain HTTP GET of a short page, such as a health port's: its status and text.
///
/// # Errors
/// No connection, or no answer in time.
pub async fn ask(address: &str, path: &str) -> std::io::Result<(u16, String)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut text = Vec::new();
        (&mut stream).take(1024 * 1024).read_to_end(&mut text).await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let body = text.split_once("\r\n\r\n").map_or("", |(_, b)| b).to_owned();
        Ok((status, body))
    };
    tokio::time::timeout(CONNECT_DEADLINE, exchange)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

fn workloads(report: &mut Report) {
    let sockets = [
        "/run/containerd/containerd.sock",
        "/run/crio/crio.sock",
        "/var/run/crio/crio.sock",
    ];
    match sockets.iter().find(|s| Path::new(s).exists()) {
        Some(socket) => report.ok("containers", *socket),
        None => report.warn(
            "containers",
            "no runtime found: devices work, workloads do not",
            "install containerd",
        ),
    }
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    report.ok("cgroups", if v2 { "v2" } else { "v1" });
    if Path::new("/etc/kubeedge/config/edgecore.yaml").exists() {
        report.warn(
            "kubeedge",
            "a KubeEdge installation is here",
            "stop and disable it: both want the MQTT and API ports",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_machine_that_never_joined_fails_with_the_fix() {
        let dir = tempfile::tempdir().unwrap();
        let failure = run(CheckArgs {
            config_dir: dir.path().to_owned(),
        })
        .await
        .unwrap_err();
        assert_eq!(failure.code, FAILED);
        let mut report = Report::default();
        assert!(configuration(&mut report, dir.path()).is_null());
        assert_eq!(
            (report.0[0].state, report.0[0].fix.as_str()),
            (State::Fail, "kurator join edge writes it")
        );
    }

    #[test]
    fn keys_that_others_can_read_are_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pki")).unwrap();
        let key = dir.path().join("pki/node.key");
        std::fs::write(&key, "x").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let mut report = Report::default();
        identity(&mut report, dir.path());
        assert!(
            report
                .0
                .iter()
                .any(|l| l.state == State::Fail && l.fix.starts_with("chmod 600"))
        );
    }

    #[test]
    fn a_durable_write_is_timed() {
        assert!(sync_time(tempfile::tempdir().unwrap().path()).unwrap() > Duration::ZERO);
    }
}
