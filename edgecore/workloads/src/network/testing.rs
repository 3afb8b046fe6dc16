//! A machine for tests: a network namespace that the test's thread moves into, with a bridge as the plugin makes it, pods that are namespaces on it,
//! and a neighbour outside. Sockets are made in a pod's namespace and used from the test. Needs root and `ip`.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use cri::Runtime;
use daemon::drain::Drain;
use metastore::api::ApiServer;
use metastore::store::{Store, StoreOptions};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::table::tests::NODE;
use super::{Network, cni};
use crate::cluster::{Cluster, ENDPOINT_SLICES, Key, Kind, SERVICES};
use crate::settings::{Services, Settings};

/// How long a test waits for what happens on its own.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// Where Debian has the plugins.
pub(super) const PLUGINS: &str = "/usr/lib/cni";
/// How long a server that is to end goes on answering.
const GRACE: Duration = Duration::from_millis(400);
/// The neighbour, and the machine as it sees it.
pub(super) const NEIGHBOUR: &str = "192.0.2.9";
pub(super) const OUTSIDE: &str = "192.0.2.1";

pub(super) struct Machine {
    name: String,
    pub(super) cluster: Cluster,
    pub(super) settings: Settings,
    pods: u8,
    pub(super) folder: tempfile::TempDir,
}

/// A namespace on the machine's bridge, or beside it.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    name: String,
    pub(super) ip: IpAddr,
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {arguments}: {said}");
}

fn enter(name: &str) {
    let file = std::fs::File::open(Path::new("/run/netns").join(name)).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

impl Machine {
    /// Moves the calling thread to it.
    pub(super) async fn new(services: Services) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "networks need root: run the tests as root (sudo -E make test)"
        );
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kn{}x{count}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            services,
            runtime: "unix:///nonexistent/runtime.sock".to_owned(),
            cni_config: folder.path().join("net.d"),
            ..Settings::default()
        };
        ip(&format!("netns add {name}"));
        // Before there is any other thread: each stays where the one was that made it.
        enter(&name);
        // What drops the machine takes away what is made from here on.
        let (store, _) = Store::open(StoreOptions::new(folder.path().join("api.db"))).unwrap();
        let api = ApiServer::builder(store).service_ranges([settings.service_cidr.parse().unwrap()]);
        let machine = Self {
            cluster: Cluster::new(api.build().await.unwrap(), "test"),
            name,
            settings,
            pods: 0,
            folder,
        };
        ip("link set lo up");
        let bridge = machine.bridge();
        // As the plugin does: one that changed with its ports would be looked for in vain.
        ip(&format!("link add {bridge} address 02:00:00:00:00:01 type bridge"));
        ip(&format!("addr add 10.42.0.1/24 dev {bridge}"));
        ip(&format!("link set {bridge} up"));
        super::host::forward(Path::new(super::SYS), false).unwrap();
        machine
    }

    fn bridge(&self) -> String {
        cni::bridge(self.settings.pod_cidr.parse().unwrap())
    }

    fn namespace(&self, what: &str, ip_: &str, length: u8, gateway: &str) -> Pod {
        let name = format!("{}{what}", self.name);
        ip(&format!("netns add {name}"));
        ip(&format!("link add v{what} type veth peer name eth0 netns {name}"));
        ip(&format!("link set v{what} up"));
        for command in [
            "link set lo up".to_owned(),
            format!("addr add {ip_}/{length} dev eth0"),
            "link set eth0 up".to_owned(),
            format!("route add default via {gateway}"),
        ] {
            ip(&format!("-n {name} {command}"));
        }
        Pod {
            name,
            ip: ip_.parse().unwrap(),
        }
    }

    /// A pod on the bridge.
    pub(super) fn pod(&mut self) -> Pod {
        self.pods += 1;
        let what = format!("p{}", self.pods);
        let pod = self.namespace(&what, &format!("10.42.0.{}", self.pods + 1), 24, "10.42.0.1");
        ip(&format!("link set v{what} master {}", self.bridge()));
        ip(&format!("link set v{what} type bridge_slave hairpin on"));
        pod
    }

    /// A pod that is connected by a configuration, as a runtime does it, with port 8088 of the machine leading to its port 8080.
    pub(super) fn connected(&mut self, list: &Value) -> Pod {
        let name = format!("{}c", self.name);
        ip(&format!("netns add {name}"));
        ip(&format!("-n {name} link set lo up"));
        let mut result = Value::Null;
        for plugin in list["plugins"].as_array().unwrap() {
            let mut config = plugin.clone();
            config["name"] = list["name"].clone();
            config["cniVersion"] = list["cniVersion"].clone();
            if !result.is_null() {
                config["prevResult"] = result;
            }
            let ports = json!([{"hostPort": 8088, "containerPort": 8080, "protocol": "tcp"}]);
            config["runtimeConfig"] = json!({"portMappings": ports});
            let mut child = Command::new(Path::new(PLUGINS).join(plugin["type"].as_str().unwrap()))
                .env("CNI_COMMAND", "ADD")
                .env("CNI_CONTAINERID", "sandbox-1")
                .env("CNI_NETNS", format!("/run/netns/{name}"))
                .env("CNI_IFNAME", "eth0")
                .env("CNI_PATH", PLUGINS)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let text = config.to_string();
            child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            let said = child.wait_with_output().unwrap();
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
            result = serde_json::from_slice(&said.stdout).unwrap();
        }
        let address = result["ips"][0]["address"].as_str().unwrap();
        Pod {
            name,
            ip: address.split('/').next().unwrap().parse().unwrap(),
        }
    }

    /// A machine beside this one, which sends everything to it.
    pub(super) fn neighbour(&self) -> Pod {
        let neighbour = self.namespace("n", NEIGHBOUR, 24, OUTSIDE);
        ip(&format!("addr add {OUTSIDE}/24 dev vn"));
        neighbour
    }

    /// The agent's part, as after its start. Stopped without a word when the drain is dropped.
    pub(super) fn start(&self) -> (Network, Agent) {
        let nowhere = Runtime::new(Path::new("/nonexistent/runtime.sock"));
        let network = Network::new(
            NODE.into(),
            &self.settings,
            self.folder.path(),
            watch::Sender::new(Some(nowhere)).subscribe(),
        );
        let drain = Drain::new();
        let runs = tokio::spawn(network.clone().run(self.cluster.clone(), drain.clone()));
        (network, Agent { runs, drain })
    }

    /// Makes an object, or makes it what it says.
    pub(super) async fn put(&self, mut object: Value) {
        let kind: Kind = if object["kind"] == "Service" {
            SERVICES
        } else {
            ENDPOINT_SLICES
        };
        object["apiVersion"] = kind.api_version().into();
        let key = Key::of(&object);
        if self.cluster.get(kind, &key).unwrap().is_none() {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": &*key.namespace}});
            drop(self.cluster.create(namespace).await);
            self.cluster.create(object).await.unwrap();
            return;
        }
        let changed = self.cluster.modify(kind, &key, |there| {
            for field in ["spec", "endpoints", "ports"] {
                if !object[field].is_null() {
                    there[field] = object[field].clone();
                }
            }
            Ok(())
        });
        changed.await.unwrap();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for path in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = path.file_name().into_string().unwrap_or_default();
            if name.starts_with(&self.name) {
                drop(Command::new("ip").args(["netns", "del", &name]).output());
            }
        }
    }
}

/// The agent while it runs.
pub(super) struct Agent {
    runs: tokio::task::JoinHandle<()>,
    drain: Drain,
}

impl Agent {
    /// Ends it in the middle of whatever it does.
    pub(super) async fn kill(self) {
        self.runs.abort();
        self.drain.finish(PATIENCE).await;
    }
}

impl Pod {
    /// Does something in its namespace.
    pub(super) fn inside<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let done = scope.spawn(|| {
                enter(&self.name);
                what()
            });
            done.join().unwrap()
        })
    }

    /// Says its address, a line, to whoever connects, and then gives back what it is given.
    pub(super) fn serve(&self, port: u16) -> Served {
        let listener = self.inside(|| std::net::TcpListener::bind((self.ip, port)).unwrap());
        let (ip, ends) = (self.ip, Arc::new(AtomicBool::new(false)));
        let ended = Arc::clone(&ends);
        std::thread::spawn(move || {
            let mut last = Duration::ZERO;
            loop {
                let ends = ended.load(Ordering::Relaxed);
                listener.set_nonblocking(ends).unwrap();
                let (mut stream, _) = match listener.accept() {
                    Ok(accepted) => accepted,
                    // Like every server that ends with grace, it answers those who have come already.
                    Err(_) if last < GRACE => {
                        std::thread::sleep(GRACE / 8);
                        last += GRACE / 8;
                        continue;
                    }
                    Err(_) => return,
                };
                std::thread::spawn(move || {
                    let mut buffer = [0; 512];
                    drop(writeln!(stream, "{ip} to {}", stream.peer_addr().unwrap().ip()));
                    while let Ok(len @ 1..) = stream.read(&mut buffer) {
                        drop(stream.write_all(&buffer[..len]));
                    }
                });
            }
        });
        Served {
            at: SocketAddr::new(ip, port),
            pod: self.clone(),
            ends,
        }
    }

    /// Who answers there, as `endpoint to client`.
    pub(super) async fn ask(&self, at: &str) -> Result<String, std::io::Error> {
        let (pod, at) = (self.clone(), at.parse::<SocketAddr>().unwrap());
        tokio::task::spawn_blocking(move || {
            pod.inside(|| {
                let stream = std::net::TcpStream::connect_timeout(&at, Duration::from_secs(5))?;
                line(&stream)
            })
        })
        .await
        .unwrap()
    }

    /// A connection that stays.
    pub(super) async fn connect(&self, at: &str) -> std::net::TcpStream {
        let (pod, at) = (self.clone(), at.parse::<SocketAddr>().unwrap());
        let stream = tokio::task::spawn_blocking(move || {
            let stream = pod.inside(|| std::net::TcpStream::connect_timeout(&at, PATIENCE).unwrap());
            line(&stream).unwrap();
            stream
        });
        stream.await.unwrap()
    }
}

/// Reads a line.
pub(super) fn line(mut stream: &std::net::TcpStream) -> Result<String, std::io::Error> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let (mut line, mut byte) = (String::new(), [0]);
    loop {
        stream.read_exact(&mut byte)?;
        if byte == *b"\n" {
            return Ok(line);
        }
        line.push(char::from(byte[0]));
    }
}

/// A pod's server. Dropped, it soon takes no more connections; those that are there go on.
pub(super) struct Served {
    at: SocketAddr,
    pod: Pod,
    ends: Arc<AtomicBool>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // So that it looks.
        drop(self.pod.inside(|| std::net::TcpStream::connect(self.at)));
    }
}

/// Waits until something is so.
pub(super) async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "never: {what}");
}
