//! A machine of its own for containers: a network namespace that the test's thread moves into, and a containerd in it whose files all stand
//! in one temporary folder.
//!
//! Whatever the test starts afterwards (agent, hub, kubectl) is in the same namespace: `127.0.0.1`, bridges, nftables and ports are its own,
//! so tests run beside each other and beside a runtime that the machine has already. Needs root. What a [`Machine`] made ends with it, also
//! after a failed test; what a killed test left is taken away by the next one that starts.

mod bare;
mod remains;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;
use tokio::process::{Child, Command};

use crate::{PATIENCE, checkout, clients, eventually, keep_log, run};
pub use bare::Bare;
use remains::Remains;

/// The image that test containers run, every busybox program in it.
pub const BOX: &str = "localhost/box:1";
/// The sandboxes' image.
const PAUSE: &str = "localhost/pause:1";
/// Where the network plugins stand (Debian's containernetworking-plugins).
const PLUGINS: &str = "/usr/lib/cni";
/// The machine's address, which nothing outside of it reaches.
pub const ADDRESS: &str = "192.168.77.2";
/// The addresses of the two ends of a wire between machines: this one's, and the other's.
pub const WIRE: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

/// Who makes the pod network's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodNetwork {
    /// It is there already: a bridge.
    There,
    /// Nobody yet: the folder is empty.
    Absent,
}

/// How a machine is made.
#[derive(Clone, Copy, Debug)]
pub struct Make {
    /// The pod network.
    pub network: PodNetwork,
    /// Size of its disk, for tests that fill it. None: as large as the one it stands on.
    pub disk_bytes: Option<u64>,
}

impl Default for Make {
    fn default() -> Self {
        Self {
            network: PodNetwork::Absent,
            disk_bytes: None,
        }
    }
}

/// A machine with a container runtime.
#[derive(Debug)]
pub struct Machine {
    remains: Remains,
    folder: PathBuf,
    containerd: Option<Child>,
}

impl Machine {
    /// One without a pod network's configuration.
    pub async fn start() -> Self {
        Self::with(Make::default()).await
    }

    /// Makes it, moves the calling thread into its network namespace, starts its containerd and gives it [`BOX`].
    ///
    /// # Panics
    /// Without root, without the programs that `tests/setup.sh` installs, and in a test whose runtime has more threads than its own.
    pub async fn with(make: Make) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "containers need root: run the tests as root (sudo -E make test)"
        );
        let flavor = tokio::runtime::Handle::current().runtime_flavor();
        assert!(
            flavor == tokio::runtime::RuntimeFlavor::CurrentThread,
            "only the calling thread moves into the machine's namespace, so the test must have no other"
        );
        let remains = Remains::new();
        let folder = remains.folder().to_owned();
        let mut machine = Self {
            remains,
            folder,
            containerd: None,
        };
        if let Some(bytes) = make.disk_bytes {
            let size = format!("size={bytes}");
            run(Command::new("mount")
                .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
                .arg(&machine.folder))
            .await
            .good();
        }
        for folder in ["cni", "gateway"] {
            std::fs::create_dir(machine.folder.join(folder)).expect("the folder is new");
        }
        if make.network == PodNetwork::There {
            machine.write_network();
        }
        machine.write_configuration();
        let name = machine.remains.name();
        run(Command::new("ip").args(["netns", "add", name])).await.good();
        remains::enter(name);
        machine.boot().await;
        machine.import(BOX).await;
        machine.import(PAUSE).await;
        machine
    }

    /// Moves the calling thread into the machine's network namespace: what it starts and opens from here on is there.
    pub fn enter(&self) {
        remains::enter(self.remains.name());
    }

    /// Lays a wire to another machine. The calling thread is on this one.
    ///
    /// # Panics
    /// When it cannot be laid.
    pub async fn wire_to(&self, other: &Self) {
        let there = other.remains.name();
        run(Command::new("ip").args([
            "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", there,
        ]))
        .await
        .good();
        for (inside, address) in [(None, WIRE[0]), (Some(there), WIRE[1])] {
            let ends = format!("address add {address}/24 dev wire\nlink set wire up\n");
            let batch = self.folder.join("wire");
            std::fs::write(&batch, ends).expect("the folder can be written");
            let mut command = Command::new("ip");
            command.args(inside.into_iter().flat_map(|name| ["-n", name]));
            run(command.arg("-batch").arg(&batch)).await.good();
        }
    }

    /// Folder of everything that is the machine's; what a test puts there goes with it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Folder of the pod network's configuration.
    pub fn network_folder(&self) -> PathBuf {
        self.folder.join("cni")
    }

    /// Path of the runtime's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("c.sock")
    }

    /// The runtime's own interface.
    pub fn runtime(&self) -> cri::Runtime {
        cri::Runtime::new(&self.socket())
    }

    /// What the runtime logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("containerd.log")).unwrap_or_default()
    }

    /// Gives the runtime an image of this name, busybox in it, and waits until it knows it.
    ///
    /// # Panics
    /// When it does not take it.
    pub async fn import(&self, name: &str) {
        let archive = image(name).await;
        run(self.ctr().args(["images", "import"]).arg(archive)).await.good();
        self.until_image(name, true).await;
    }

    /// Takes an image away from the runtime.
    pub async fn forget(&self, name: &str) {
        run(self.ctr().args(["images", "rm", "--sync", name])).await.good();
        self.until_image(name, false).await;
    }

    /// The runtime's part for Kubernetes hears of images by its own events.
    async fn until_image(&self, name: &str, there: bool) {
        let runtime = self.runtime();
        eventually(&format!("the runtime to take note of {name}"), async || {
            let request = cri::v1::ImageStatusRequest {
                image: Some(cri::v1::ImageSpec {
                    image: name.to_owned(),
                    ..Default::default()
                }),
                verbose: false,
            };
            let known = runtime.image_status(request).await.ok()?.image.is_some();
            (known == there).then_some(())
        })
        .await;
    }

    /// containerd's own client.
    pub fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", "k8s.io"]);
        command
    }

    /// Starts containerd, which must not be running.
    pub async fn start_containerd(&mut self) {
        let mut child = Command::new("containerd")
            .arg("--config")
            .arg(self.folder.join("containerd.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("containerd is installed: tests/setup.sh does it");
        keep_log(&mut child, self.folder.join("containerd.log"));
        self.containerd = Some(child);
        let runtime = self.runtime();
        eventually("containerd to answer", async || {
            let ended = self.containerd.as_mut()?.try_wait().ok()?;
            assert!(ended.is_none(), "containerd ended: {ended:?}\n{}", self.log());
            runtime.version(cri::v1::VersionRequest::default()).await.ok()
        })
        .await;
    }

    /// SIGKILL for containerd; shims and containers live on.
    ///
    /// # Panics
    /// When it was not running.
    pub async fn kill_containerd(&mut self) {
        let mut child = self.containerd.take().expect("containerd was running");
        child.kill().await.expect("it can be killed");
    }

    /// SIGTERM for containerd, and its end; shims and containers live on.
    ///
    /// # Panics
    /// When it was not running or does not end.
    pub async fn stop_containerd(&mut self) {
        let mut child = self.containerd.take().expect("containerd was running");
        let pid = child.id().expect("it was not waited for").to_string();
        run(Command::new("kill").args(["-TERM", &pid])).await.good();
        tokio::time::timeout(PATIENCE, child.wait())
            .await
            .expect("containerd ends when asked")
            .expect("it can be waited for");
    }

    /// The power goes: every process, every mount, the network with its rules, and whatever is not on disk. Loopback stays, for a hub that
    /// stands beside.
    ///
    /// # Panics
    /// When something of it stays.
    pub async fn power_cut(&mut self) {
        self.containerd = None;
        self.remains.end_processes();
        self.remains.unmount(&self.folder.join("state"));
        self.remains.unmount(&self.folder.join("gateway"));
        for link in links().await {
            // The other end of a pair is gone with the first.
            run(Command::new("ip").args(["link", "delete", &link])).await;
        }
        assert_eq!(links().await, [""; 0]);
        run(Command::new("nft").args(["flush", "ruleset"])).await.good();
        for volatile in ["state", "c.sock", "c.sock.ttrpc"] {
            let path = self.folder.join(volatile);
            let gone = if path.is_dir() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            if let Err(e) = gone {
                assert!(e.kind() == std::io::ErrorKind::NotFound, "{}: {e}", path.display());
            }
        }
    }

    /// The power is back: a network with nothing in it, and containerd on the disk as it was left.
    ///
    /// # Panics
    /// When the network cannot be made.
    pub async fn boot(&mut self) {
        let steps = format!(
            "link set lo up\nlink add eth0 type veth peer name uplink\nlink set uplink up\nlink set eth0 up\n\
             address add {ADDRESS}/24 dev eth0\nroute add default via 192.168.77.1\n"
        );
        let batch = self.folder.join("network");
        std::fs::write(&batch, steps).expect("the folder can be written");
        run(Command::new("ip").arg("-batch").arg(&batch)).await.good();
        self.start_containerd().await;
    }

    fn write_configuration(&self) {
        let at = |name: &str| json!(self.folder.join(name)).to_string();
        let configuration = format!(
            "version = 2
root = {root}
state = {state}
[grpc]
  address = {socket}
[plugins.\"io.containerd.internal.v1.opt\"]
  path = {opt}
[plugins.\"io.containerd.grpc.v1.cri\"]
  sandbox_image = \"{PAUSE}\"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins.\"io.containerd.grpc.v1.cri\".cni]
    bin_dir = \"{PLUGINS}\"
    conf_dir = {cni}
  [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]
    runtime_type = \"io.containerd.runc.v2\"
    [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]
      Root = {runc}
",
            root = at("root"),
            state = at("state"),
            socket = at("c.sock"),
            opt = at("opt"),
            cni = at("cni"),
            runc = at("state/runc"),
        );
        std::fs::write(self.folder.join("containerd.toml"), configuration).expect("the folder can be written");
    }

    fn write_network(&self) {
        let network = json!({"cniVersion": "0.4.0", "name": "tests", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                "ipam": {"type": "host-local", "dataDir": self.folder.join("addresses"),
                    "ranges": [[{"subnet": "10.42.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
            {"type": "portmap", "capabilities": {"portMappings": true}}]});
        std::fs::write(self.network_folder().join("10-tests.conflist"), network.to_string())
            .expect("the folder can be written");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.remains.tell(&["containerd.log", "gateway/edge.log"]);
        }
        // Before the processes are looked for: it is a child, and is waited for by whoever started it.
        self.containerd = None;
    }
}

/// The archive of an image of this name, made once for each build folder.
///
/// # Panics
/// When it cannot be made.
pub async fn image(name: &str) -> PathBuf {
    let script = checkout().join("tests/mkimg.py");
    let folder = clients().with_file_name("images");
    std::fs::create_dir_all(&folder).expect("the build folder can be written");
    let archive = folder.join(format!("{}.tar", name.replace(['/', ':'], "-")));
    let changed = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    if changed(&archive) < changed(&script) {
        // Several tests may make it at once: each its own file, and the last one stays.
        let own = archive.with_extension(format!("{}.tmp", std::process::id()));
        run(Command::new("python3").arg(&script).arg(name).arg(&own))
            .await
            .good();
        std::fs::rename(&own, &archive).expect("the archive can be moved into place");
    }
    archive
}

/// Network interfaces of the machine beside loopback.
async fn links() -> Vec<String> {
    let told = run(Command::new("ip").args(["-brief", "link"])).await.good();
    let name = |line: &str| Some(line.split(['@', ' ']).next()?.to_owned());
    told.lines().filter_map(name).filter(|name| name != "lo").collect()
}
