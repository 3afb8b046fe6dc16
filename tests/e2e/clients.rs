//! Programs that nobody here wrote, against hub and gateway: kube's watcher and controller, and the Python client. What they believe is compared
//! with what was written, object by object, over a cut cable, a killed server and a history that the server has forgotten.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Config, ResourceExt};
use metastore::api::{ApiServer, MASTERS, User, serve_stream};
use metastore::store::{Store, StoreOptions};
use serde_json::json;
use tests::{Edge, Hub, Pair, Relay, Weather, checkout, clients, eventually};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::task::JoinHandle;

/// A client of a kubeconfig, by another address when given.
async fn client(kubeconfig: &Path, by: Option<String>) -> Client {
    let read = Kubeconfig::read_from(kubeconfig).unwrap();
    let mut config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
        .await
        .unwrap();
    if let Some(address) = by {
        config.cluster_url = format!("https://{address}").parse().unwrap();
    }
    Client::try_from(config).unwrap()
}

fn version(object: &ConfigMap) -> u64 {
    object.resource_version().unwrap().parse().unwrap()
}

/// What a client was told: (name, revision, whether it is the last of it).
type Told = (String, u64, bool);

/// What a watcher was told, and the set that it believes in.
#[derive(Debug, Default)]
struct Belief {
    told: Vec<Told>,
    have: BTreeMap<String, u64>,
    fresh: BTreeMap<String, u64>,
    lists: usize,
}

impl Belief {
    fn take(&mut self, event: Event<ConfigMap>) {
        match event {
            Event::Init => self.fresh.clear(),
            Event::InitApply(o) => {
                self.fresh.insert(o.name_any(), version(&o));
            }
            Event::InitDone => {
                for (name, revision) in &self.fresh {
                    let before = self.have.get(name).copied().unwrap_or_default();
                    assert!(*revision >= before, "a list went back: {name} {revision} < {before}");
                }
                self.have = std::mem::take(&mut self.fresh);
                self.lists += 1;
            }
            Event::Apply(o) => {
                let (name, revision) = (o.name_any(), version(&o));
                let before = self.have.insert(name.clone(), revision).unwrap_or_default();
                assert!(revision > before, "{name}: {revision} after {before}");
                self.told.push((name, revision, false));
            }
            Event::Delete(o) => {
                let (name, revision) = (o.name_any(), version(&o));
                let before = self.have.remove(&name);
                assert!(
                    before.is_some_and(|b| b < revision),
                    "{name}: gone at {revision}, was at {before:?}"
                );
                self.told.push((name, revision, true));
            }
        }
    }
}

/// A running watcher.
struct Informer {
    belief: Arc<Mutex<Belief>>,
    task: JoinHandle<()>,
}

impl Informer {
    fn start(api: Api<ConfigMap>, config: watcher::Config) -> Self {
        let belief = Arc::new(Mutex::new(Belief::default()));
        let shared = belief.clone();
        let task = tokio::spawn(async move {
            // Errors are what the weather brings; the watcher itself goes on.
            let mut events = std::pin::pin!(watch(api, config).default_backoff());
            while let Some(event) = events.next().await {
                if let Ok(event) = event {
                    shared.lock().unwrap().take(event);
                }
            }
        });
        Self { belief, task }
    }

    fn look<T>(&self, at: impl FnOnce(&Belief) -> T) -> T {
        assert!(!self.task.is_finished(), "the watcher found a contradiction");
        at(&self.belief.lock().unwrap())
    }

    async fn listed(&self, times: usize) {
        eventually("the watcher to have listed", async || {
            self.look(|b| b.lists >= times).then_some(())
        })
        .await;
    }
}

impl Drop for Informer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Writes, and remembers every state there was.
struct Writer {
    api: Api<ConfigMap>,
    history: Vec<Told>,
    have: BTreeMap<String, u64>,
}

impl Writer {
    fn new(api: Api<ConfigMap>) -> Self {
        Self {
            api,
            history: Vec::new(),
            have: BTreeMap::new(),
        }
    }

    /// So many changes of a dozen objects, whatever they are.
    async fn work(&mut self, changes: usize) {
        for _ in 0..changes {
            let name = format!("m-{}", fastrand::u8(0..12));
            let value = fastrand::u32(..).to_string();
            if !self.have.contains_key(&name) {
                let object = ConfigMap {
                    metadata: ObjectMeta {
                        name: Some(name.clone()),
                        labels: Some([("watched".to_owned(), "yes".to_owned())].into()),
                        ..ObjectMeta::default()
                    },
                    data: Some([("v".to_owned(), value)].into()),
                    ..ConfigMap::default()
                };
                let made = self.api.create(&PostParams::default(), &object).await.unwrap();
                self.remember(name, version(&made), false);
            } else if fastrand::u8(..) < 64 {
                self.api.delete(&name, &DeleteParams::default()).await.unwrap();
                // The answer to a delete does not say at which revision it was; the watcher's word is checked to be later.
                self.remember(name, 0, true);
            } else {
                let patch = Patch::Merge(json!({"data": {"v": value}}));
                let made = self.api.patch(&name, &PatchParams::default(), &patch).await.unwrap();
                self.remember(name, version(&made), false);
            }
        }
    }

    fn remember(&mut self, name: String, revision: u64, gone: bool) {
        if gone {
            self.have.remove(&name);
        } else {
            self.have.insert(name.clone(), revision);
        }
        self.history.push((name, revision, gone));
    }

    /// The watcher believes what is true.
    async fn believed(&self, informer: &Informer) {
        eventually("the watcher to believe what is true", async || {
            informer.look(|b| b.have == self.have).then_some(())
        })
        .await;
    }

    /// A controller was called for every last state.
    async fn reconciled(&self, seen: &Mutex<BTreeMap<String, u64>>) {
        eventually("the controller to have seen every last state", async || {
            let seen = seen.lock().unwrap();
            self.have.iter().all(|(n, r)| seen.get(n) == Some(r)).then_some(())
        })
        .await;
    }

    /// Beside that: it was told everything since `from`, once and in order.
    async fn told_all(&self, informer: &Informer, from: usize) {
        let wanted: Vec<Told> = self.history[from..].to_vec();
        eventually("the watcher to be told everything", async || {
            (informer.look(|b| b.told.len()) >= wanted.len()).then_some(())
        })
        .await;
        let told = informer.look(|b| b.told.clone());
        let plain = |list: &[Told]| -> Vec<Told> {
            list.iter()
                .map(|(n, r, gone)| (n.clone(), if *gone { 0 } else { *r }, *gone))
                .collect()
        };
        assert_eq!(plain(&told), plain(&wanted));
    }
}

/// A controller that only notes the last state of each object that it was called for.
fn controller(api: Api<ConfigMap>) -> (Arc<Mutex<BTreeMap<String, u64>>>, JoinHandle<()>) {
    let seen = Arc::new(Mutex::new(BTreeMap::new()));
    let shared = seen.clone();
    // In one page: a controller looks into what it has, which changes only after the last one.
    let config = watcher::Config::default().labels("watched=yes");
    let reconcile = |object: Arc<ConfigMap>, seen: Arc<Mutex<BTreeMap<String, u64>>>| async move {
        seen.lock().unwrap().insert(object.name_any(), version(&object));
        Ok::<_, kube::Error>(Action::await_change())
    };
    let task = tokio::spawn(async move {
        Controller::new(api, config)
            .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(50)), shared)
            .for_each(|_| std::future::ready(()))
            .await;
    });
    (seen, task)
}

/// A server behind a cable of its own that can be killed.
trait Daemon {
    async fn again(&mut self, relay: &Relay);
    fn kubeconfig(&self) -> std::path::PathBuf;
    fn lead(&self, relay: &Relay);
}

/// The address in a kubeconfig.
fn address(kubeconfig: &Path) -> std::net::SocketAddr {
    let read = Kubeconfig::read_from(kubeconfig).unwrap();
    let server = read.clusters[0].cluster.as_ref().unwrap().server.clone().unwrap();
    server
        .trim_start_matches("https://")
        .trim_end_matches('/')
        .parse()
        .unwrap()
}

impl Daemon for Hub {
    async fn again(&mut self, relay: &Relay) {
        self.kill().await;
        self.start_again().await;
        self.lead(relay);
    }

    fn kubeconfig(&self) -> std::path::PathBuf {
        self.kubeconfig()
    }

    fn lead(&self, relay: &Relay) {
        relay.lead_to(address(&self.kubeconfig()));
    }
}

impl Daemon for Edge {
    async fn again(&mut self, relay: &Relay) {
        self.kill().await;
        self.start_again().await;
        self.lead(relay);
    }

    fn kubeconfig(&self) -> std::path::PathBuf {
        self.kubeconfig()
    }

    fn lead(&self, relay: &Relay) {
        relay.lead_to(address(&self.kubeconfig()));
    }
}

/// Nothing is missed over a cut cable and a killed server, neither by pages nor by a streamed list.
async fn nothing_is_missed(daemon: &mut impl Daemon) {
    let relay = Relay::start().await.unwrap();
    daemon.lead(&relay);
    let kubeconfig = daemon.kubeconfig();
    let by_relay = client(&kubeconfig, Some(relay.address().to_string())).await;
    let watched = Api::<ConfigMap>::default_namespaced(by_relay);
    let mut writer = Writer::new(Api::default_namespaced(client(&kubeconfig, None).await));
    writer.work(20).await;
    let from = writer.history.len();
    let config = || watcher::Config::default().labels("watched=yes");
    let paged = Informer::start(watched.clone(), config().page_size(3));
    let streamed = Informer::start(watched.clone(), config().streaming_lists());
    let (reconciled, task) = controller(watched);
    paged.listed(1).await;
    streamed.listed(1).await;

    writer.work(30).await;
    writer.believed(&paged).await;
    relay.set(Weather::CUT);
    writer.work(30).await;
    relay.set(Weather::FAIR);
    writer.work(10).await;
    writer.believed(&paged).await;
    // Half-way through, the server dies.
    writer.work(20).await;
    daemon.again(&relay).await;
    writer.api = Api::default_namespaced(client(&daemon.kubeconfig(), None).await);
    writer.work(30).await;

    for informer in [&paged, &streamed] {
        writer.believed(informer).await;
        writer.told_all(informer, from).await;
        assert_eq!(informer.look(|b| b.lists), 1, "it went on where it was");
    }
    writer.reconciled(&reconciled).await;
    task.abort();
}

#[tokio::test]
async fn watchers_and_controllers_miss_nothing_at_the_hub() {
    let mut pair = Pair::start().await;
    nothing_is_missed(&mut pair.hub).await;
}

#[tokio::test]
async fn watchers_and_controllers_miss_nothing_at_the_gateway() {
    let mut pair = Pair::start().await;
    nothing_is_missed(&mut pair.edge).await;
}

/// The API over a store that remembers little, without TLS.
async fn forgetful(folder: &Path, drain: daemon::drain::Drain) -> (Store, std::net::SocketAddr) {
    let mut options = StoreOptions::new(folder.join("api.db"));
    (options.log_keep, options.ring) = (20, 4);
    let (store, _) = Store::open(options).unwrap();
    let api = ApiServer::builder(store.clone())
        .drain(drain.clone())
        .build()
        .await
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let admin = User::new("admin", [MASTERS]);
            drop(drain.spawn(serve_stream(stream, admin, api.clone(), drain.clone())));
        }
    }));
    (store, address)
}

#[tokio::test]
async fn a_watcher_that_comes_back_to_a_forgotten_history_lists_again() {
    daemon::tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let (_store, server) = forgetful(folder.path(), daemon::drain::Drain::new()).await;
    let relay = Relay::start().await.unwrap();
    relay.lead_to(server);
    let plain = |address: std::net::SocketAddr| {
        let config = Config::new(format!("http://{address}").parse().unwrap());
        Api::<ConfigMap>::default_namespaced(Client::try_from(config).unwrap())
    };
    let mut writer = Writer::new(plain(server));
    writer.work(10).await;
    let config = || watcher::Config::default().labels("watched=yes");
    let paged = Informer::start(plain(relay.address()), config().page_size(2));
    let streamed = Informer::start(plain(relay.address()), config().streaming_lists());
    let (reconciled, task) = controller(plain(relay.address()));
    // Clients wait longer after each mishap: few rounds.
    for round in 1..3 {
        paged.listed(round).await;
        streamed.listed(round).await;
        relay.set(Weather::CUT);
        // The history behind the watchers is compacted while they are away.
        writer.work(200).await;
        relay.set(Weather::FAIR);
        paged.listed(round + 1).await;
        streamed.listed(round + 1).await;
        writer.believed(&paged).await;
        writer.believed(&streamed).await;
        writer.work(5).await;
        writer.believed(&paged).await;
        writer.believed(&streamed).await;
        writer.reconciled(&reconciled).await;
    }
    task.abort();
}

/// Runs the script of the Python client; where it says so, the server is killed and started again.
async fn python(daemon: &mut impl Daemon) {
    let relay = Relay::start().await.unwrap();
    daemon.lead(&relay);
    let mut child = tokio::process::Command::new(clients().join("python/bin/python"))
        .arg(checkout().join("tests/e2e/python_client.py"))
        .arg(daemon.kubeconfig())
        .arg(format!("https://{}", relay.address()))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let talk = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            match line.as_str() {
                "restart" => daemon.again(&relay).await,
                "cut" => {
                    relay.set(Weather::CUT);
                    relay.set(Weather::FAIR);
                }
                "done" => return,
                other => panic!("the script says {other}"),
            }
            input.write_all(b"go\n").await.unwrap();
        }
        panic!("the script ended early: {:?}", child.wait().await);
    };
    tokio::time::timeout(tests::PATIENCE * 2, talk)
        .await
        .expect("the script ends");
}

#[tokio::test]
async fn the_python_client_finds_nothing_missing() {
    let mut pair = Pair::start().await;
    python(&mut pair.hub).await;
    python(&mut pair.edge).await;
}
