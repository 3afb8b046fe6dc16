//! The agent on this machine: whether it runs, whether it has its link, and who else has its ports.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use edgecore::MqttMode;
use serde_json::Value;
use tokio::net::TcpStream;

use super::{CONNECT_DEADLINE, Finding, Site, fail, ok, warn};

/// What the agent wrote into its data folder at its start.
struct Run {
    pid: u64,
    health: String,
    mqtt: String,
    api: String,
}

/// The running agent, if there is one: its run file names a living process.
fn run(site: &Site) -> Option<Run> {
    let text = std::fs::read_to_string(site.config().data_dir.join("edge.json")).ok()?;
    let run: Value = serde_json::from_str(&text).ok()?;
    let pid = run["pid"].as_u64()?;
    let comm = std::fs::read_to_string(site.at(&format!("proc/{pid}/comm"))).ok()?;
    let at = |name: &str| {
        let text = run[name].as_str().unwrap_or_default();
        text.trim_start_matches("http://")
            .trim_start_matches("https://")
            .to_owned()
    };
    (comm.trim() == "edgecore").then(|| Run {
        pid,
        health: at("health"),
        mqtt: at("mqtt"),
        api: at("api"),
    })
}

pub(super) async fn agent(site: &Site) -> Vec<Finding> {
    let Some(run) = run(site) else {
        return vec![warn(
            "not running",
            "systemctl start kurator-edgecore, or start edgecore by hand",
        )];
    };
    let mut findings = vec![match ask(&run.health, "/readyz").await {
        Ok((200, _)) => ok(format!("running (pid {}) and ready", run.pid)),
        Ok((_, body)) => warn(
            format!("running, waiting for {}", body.trim().replace('\n', ", ")),
            "journalctl -u kurator-edgecore",
        ),
        Err(e) => fail(
            format!("runs, but {} does not answer: {e}", run.health),
            "systemctl restart kurator-edgecore",
        ),
    }];
    if !run.mqtt.is_empty() {
        let connected = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(&run.mqtt)).await;
        if !matches!(connected, Ok(Ok(_))) {
            findings.push(fail(
                format!("MQTT at {} does not answer", run.mqtt),
                "systemctl restart kurator-edgecore",
            ));
        }
    }
    findings
}

/// What the agent itself says about its link.
pub(super) async fn link(site: &Site) -> Vec<Finding> {
    let Some(run) = run(site) else { return Vec::new() };
    let Ok((200, metrics)) = ask(&run.health, "/metrics").await else {
        return Vec::new();
    };
    let connected = metrics
        .lines()
        .filter(|l| l.starts_with("edgecore_link_connected"))
        .find_map(|l| l.rsplit(' ').next());
    match connected {
        Some("1") => vec![ok("up")],
        Some(_) => vec![warn("down; the gateway works alone meanwhile", "see `hub` above")],
        None => Vec::new(),
    }
}

/// Whether the ports of the configuration are the agent's or free.
pub(super) fn ports(site: &Site) -> Vec<Finding> {
    let config = site.config();
    let run = run(site);
    let mut wanted = vec![("local API", config.api), ("health", config.health)];
    if config.mqtt.mode == MqttMode::Embedded {
        wanted.push(("MQTT", config.mqtt.listen));
    }
    let ours = |address: SocketAddr| {
        run.iter()
            .flat_map(|r| [&r.api, &r.health, &r.mqtt])
            .any(|a| a.parse() == Ok(address))
    };
    let listeners = listeners(site);
    let mut findings = Vec::new();
    for (what, address) in wanted {
        let Ok(address) = address.parse::<SocketAddr>() else {
            continue;
        };
        let taken = listeners
            .iter()
            .find(|l| l.0.port() == address.port() && overlap(l.0.ip(), address.ip()));
        let Some((_, inode)) = taken.filter(|_| address.port() != 0 && !ours(address)) else {
            continue;
        };
        let who = owner(site, *inode).unwrap_or_else(|| "another program".to_owned());
        findings.push(fail(
            format!("{address} ({what}) is taken by {who}"),
            "stop that program, or give the agent another address in edgecore.yaml",
        ));
    }
    if findings.is_empty() {
        findings.push(ok(if run.is_some() { "the agent's own" } else { "free" }));
    }
    findings
}

/// Whether two listeners on one port would be in each other's way.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    let (one, other) = (one.to_canonical(), other.to_canonical());
    // An IPv6 socket on all addresses mostly takes IPv4's too.
    one == other || one == IpAddr::V6(Ipv6Addr::UNSPECIFIED) || other == IpAddr::V6(Ipv6Addr::UNSPECIFIED) || {
        one.is_ipv4() == other.is_ipv4() && (one.is_unspecified() || other.is_unspecified())
    }
}

/// Every TCP listener of this machine and its socket's inode.
fn listeners(site: &Site) -> BTreeMap<SocketAddr, u64> {
    let mut found = BTreeMap::new();
    for file in ["proc/net/tcp", "proc/net/tcp6"] {
        let text = std::fs::read_to_string(site.at(file)).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(listener));
    }
    found
}

/// `  0: 0100007F:075B 00000000:0000 0A … uid timeout inode …`
fn listener(line: &str) -> Option<(SocketAddr, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    if fields.get(3) != Some(&"0A") {
        return None;
    }
    let (ip, port) = fields[1].split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<u8>> = (0..ip.len() / 8)
        .map(|n| Some(u32::from_str_radix(ip.get(n * 8..n * 8 + 8)?, 16).ok()?.to_ne_bytes()))
        .collect::<Option<Vec<_>>>()
        .map(|words| words.concat());
    let bytes = words?;
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some((SocketAddr::new(ip, port), fields.get(9)?.parse().ok()?))
}

/// `mosquitto (pid 12)`, where this user may know.
fn owner(site: &Site, inode: u64) -> Option<String> {
    let socket = format!("socket:[{inode}]");
    for entry in std::fs::read_dir(site.at("proc")).ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        let open = std::fs::read_dir(entry.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        let mut open = open.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        if open.any(|target| target.as_os_str() == socket.as_str()) {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::State;
    use super::super::identity::tests::{NOW, joined};
    use super::*;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    /// A machine on which a broker listens on `hex`, MQTT's port.
    fn machine(folder: &std::path::Path, hex: &str) -> Site {
        let site = joined(folder, NOW);
        let proc = site.at("proc");
        std::fs::create_dir_all(proc.join("net")).unwrap();
        std::fs::create_dir_all(proc.join("77/fd")).unwrap();
        std::fs::write(proc.join("77/comm"), "mosquitto\n").unwrap();
        symlink("socket:[4711]", proc.join("77/fd/5")).unwrap();
        let line = format!(
            "   0: {hex}:075B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n"
        );
        let talking =
            "   1: 0100007F:2936 00000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n";
        let file = if hex.len() == 8 { "net/tcp" } else { "net/tcp6" };
        std::fs::write(proc.join(file), format!("{HEAD}{line}{talking}")).unwrap();
        site
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn a_port_that_somebody_else_has_is_found_with_its_owner() {
        for taken in ["0100007F", "00000000", "00000000000000000000000000000000"] {
            let dir = tempfile::tempdir().unwrap();
            let found = ports(&machine(dir.path(), taken));
            assert_eq!(found.len(), 1, "{taken}: {found:?}");
            assert_eq!(found[0].state, State::Fail);
            assert!(
                found[0]
                    .found
                    .contains("127.0.0.1:1883 (MQTT) is taken by mosquitto (pid 77)"),
                "{found:?}"
            );
        }
        // Another address of this machine is nobody's concern; nor is IPv6's loopback.
        for free in ["0200A8C0", "00000000000000000000000001000000"] {
            let dir = tempfile::tempdir().unwrap();
            assert_eq!(ports(&machine(dir.path(), free)), [ok("free")], "{free}");
        }
    }

    #[cfg(target_endian = "little")]
    #[tokio::test]
    async fn the_agents_own_ports_are_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let site = machine(dir.path(), "0100007F");
        assert!(agent(&site).await[0].found.contains("not running"));
        let data = dir.path().join("data");
        std::fs::create_dir_all(&data).unwrap();
        let run =
            r#"{"pid": 77, "mqtt": "127.0.0.1:1883", "health": "http://127.0.0.1:1", "api": "https://127.0.0.1:2"}"#;
        std::fs::write(data.join("edge.json"), run).unwrap();
        // The pid is another program's by now.
        assert_eq!(ports(&site)[0].state, State::Fail);
        std::fs::write(site.at("proc/77/comm"), "edgecore\n").unwrap();
        assert_eq!(ports(&site), [ok("the agent's own")]);
        let found = &agent(&site).await[0];
        assert!(
            found.state == State::Fail && found.found.contains("does not answer"),
            "{found:?}"
        );
    }
}
