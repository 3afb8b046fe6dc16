//! A stage for pods: an API server over a store of its own, the fake runtime, and an agent that can be killed and started again. Time is tokio's,
//! paused; what waits on the store's own thread lets it run ahead, so tests wait for states, never for times.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cri::fake::Fake;
use cri::v1;
use daemon::drain::Drain;
use metastore::api::{ApiServer, DeleteOptions};
use metastore::store::{ObjectKey, Store, StoreOptions};
use serde_json::{Value, json};

use super::means::{Making, Means, Refusal, Work};
use super::{Options, Pods, lock, log_dir};
use crate::cluster::{Cluster, EVENTS, Key, PODS};
use crate::events::Recorder;
use crate::pod::{Container, Pod};
use crate::setup::label;

pub(crate) const NODE: &str = "press";
/// How long a test waits for what happens on its own, in real time.
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) fake: Arc<Fake>,
    pub(crate) means: Arc<Plain>,
    pub(crate) trust_store: AtomicBool,
    agent: Mutex<Option<(Pods, Drain)>>,
    folder: tempfile::TempDir,
}

/// Means without volumes; images are there unless their name says otherwise.
pub(crate) struct Plain {
    logs: std::path::PathBuf,
    /// What making a container of this name is refused with.
    pub(crate) refuse: Mutex<Option<(String, Refusal)>>,
    /// Containers of this name wait for their image for ever.
    pub(crate) hang: Mutex<Option<String>>,
    pub(crate) torn_down: Mutex<Vec<String>>,
    pub(crate) resized: Mutex<Vec<String>>,
    /// What is on the disk of pods nobody knows.
    pub(crate) left_over: Mutex<Vec<String>>,
    /// What a pod is turned away with that nobody found a place for.
    pub(crate) away: Mutex<Option<Refusal>>,
    /// How many times its files cannot be brought up to date, and how often that was tried.
    pub(crate) stale: AtomicU32,
    pub(crate) refreshed: AtomicU32,
    /// The next container that is made breaks its task.
    pub(crate) breaks: AtomicBool,
}

impl Means for Plain {
    fn admits(&self, _: &Pod, placed: bool) -> Result<(), Refusal> {
        let away = lock(&self.away).clone().filter(|_| !placed);
        away.map_or(Ok(()), Err)
    }

    fn prepare<'a>(&'a self, _: &'a Pod) -> Work<'a, Result<(), Refusal>> {
        Box::pin(async { Ok(()) })
    }

    fn sandbox(&self, pod: &Pod, attempt: u32) -> Result<(v1::PodSandboxConfig, String), Refusal> {
        let host = if pod.spec.host_network {
            v1::NamespaceMode::Node
        } else {
            v1::NamespaceMode::Pod
        };
        let options = v1::NamespaceOption {
            network: host as i32,
            ..v1::NamespaceOption::default()
        };
        let security_context = v1::LinuxSandboxSecurityContext {
            namespace_options: Some(options),
            ..v1::LinuxSandboxSecurityContext::default()
        };
        let config = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: pod.metadata.name.clone(),
                uid: pod.uid().to_owned(),
                namespace: pod.metadata.namespace.clone(),
                attempt,
            }),
            hostname: pod.metadata.name.clone(),
            log_directory: log_dir(&self.logs, &pod.key(), pod.uid()).display().to_string(),
            labels: labels(pod, None),
            linux: Some(v1::LinuxPodSandboxConfig {
                security_context: Some(security_context),
                ..v1::LinuxPodSandboxConfig::default()
            }),
            ..v1::PodSandboxConfig::default()
        };
        Ok((config, String::new()))
    }

    fn container<'a>(&'a self, making: Making<'a>) -> Work<'a, Result<v1::ContainerConfig, Refusal>> {
        Box::pin(async move {
            let name = making.container.name.as_str();
            assert!(!self.breaks.swap(false, Ordering::Relaxed), "a task that breaks");
            if let Some((_, refusal)) = lock(&self.refuse).as_ref().filter(|(n, _)| n == name) {
                return Err(refusal.clone());
            }
            if lock(&self.hang).as_deref() == Some(name) {
                std::future::pending::<()>().await;
            }
            Ok(v1::ContainerConfig {
                metadata: Some(v1::ContainerMetadata {
                    name: name.to_owned(),
                    attempt: making.attempt,
                }),
                image: Some(v1::ImageSpec {
                    image: making.container.image.clone(),
                    ..v1::ImageSpec::default()
                }),
                command: making.container.command.clone(),
                args: making.container.args.clone(),
                labels: labels(making.pod, Some(name)),
                annotations: annotations(making),
                log_path: format!("{name}/{}.log", making.attempt),
                ..v1::ContainerConfig::default()
            })
        })
    }

    fn refresh<'a>(&'a self, _: &'a Pod) -> Work<'a, bool> {
        Box::pin(async move {
            self.refreshed.fetch_add(1, Ordering::Relaxed);
            let stale = self.stale.load(Ordering::Relaxed);
            self.stale.store(stale.saturating_sub(1), Ordering::Relaxed);
            stale == 0
        })
    }

    fn concerned(&self, _: &ObjectKey) -> Vec<String> {
        Vec::new()
    }

    fn tear_down<'a>(&'a self, uid: &'a str) -> Work<'a, bool> {
        lock(&self.torn_down).push(uid.to_owned());
        Box::pin(async { true })
    }

    fn on_disk(&self) -> Vec<String> {
        lock(&self.left_over).clone()
    }

    fn left(&self, _: std::net::IpAddr) -> Work<'_, ()> {
        Box::pin(async {})
    }

    fn resize<'a>(&'a self, _: &'a Pod, _: &'a Container, id: &'a str) -> Work<'a, Result<(), Refusal>> {
        lock(&self.resized).push(id.to_owned());
        Box::pin(async { Ok(()) })
    }
}

/// Labels of a pod's sandbox, or of one of its containers.
fn labels(pod: &Pod, container: Option<&str>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    match container {
        None => labels.extend(pod.metadata.labels.clone()),
        Some(name) => drop(labels.insert(label::CONTAINER_NAME.to_owned(), name.to_owned())),
    }
    let ours = [
        (label::POD_NAME, pod.metadata.name.as_str()),
        (label::POD_NAMESPACE, pod.metadata.namespace.as_str()),
        (label::POD_UID, pod.uid()),
        (label::NODE, NODE),
    ];
    labels.extend(ours.map(|(key, value)| (key.to_owned(), value.to_owned())));
    labels
}

/// Annotations of a container.
fn annotations(making: Making<'_>) -> BTreeMap<String, String> {
    let Making {
        pod,
        container,
        attempt,
        ..
    } = making;
    let grace = pod.spec.termination_grace_period_seconds.unwrap_or(30);
    [
        (label::HASH, crate::setup::hash(container)),
        (label::RESTARTS, attempt.to_string()),
        (label::MESSAGE_PATH, container.termination_message_path.clone()),
        (label::MESSAGE_POLICY, container.termination_message_policy.clone()),
        (label::GRACE, grace.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// A Pod of these containers.
pub(crate) fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["nodeName"] = NODE.into();
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            if container.get("image").is_none() {
                container["image"] = "app".into();
            }
        }
    }
    if spec["initContainers"].is_null() {
        spec.as_object_mut().unwrap().remove("initContainers");
    }
    if spec.get("containers").is_none_or(Value::is_null) {
        spec["containers"] = json!([{"name": "main", "image": "app"}]);
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

impl Stage {
    /// With a runtime and an agent.
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(StoreOptions::new(folder.path().join("api.db"))).unwrap();
        let api = ApiServer::builder(store).build().await.unwrap();
        let fake = Arc::new(Fake::start(folder.path()));
        fake.image("app");
        let stage = Self {
            cluster: Cluster::new(api, "kubelet"),
            fake,
            means: Arc::new(Plain {
                logs: folder.path().join("logs"),
                refuse: Mutex::default(),
                hang: Mutex::default(),
                torn_down: Mutex::default(),
                resized: Mutex::default(),
                left_over: Mutex::default(),
                away: Mutex::default(),
                stale: AtomicU32::default(),
                refreshed: AtomicU32::default(),
                breaks: AtomicBool::default(),
            }),
            trust_store: AtomicBool::new(true),
            agent: Mutex::default(),
            folder,
        };
        stage.start();
        stage
    }

    /// Starts the agent.
    pub(crate) fn start(&self) {
        let (recorder, writer) = Recorder::new(self.cluster.clone(), NODE.into(), "kubelet");
        let drain = Drain::new();
        drop(tokio::spawn(writer));
        let fake = Arc::clone(&self.fake);
        let options = Options {
            node: NODE.into(),
            host_ips: Arc::new(|| vec!["192.0.2.7".to_owned()]),
            logs: self.folder.path().join("logs"),
            manifests: self.folder.path().join("manifests"),
            trust_store: self.trust_store.load(Ordering::Relaxed),
            wall: Arc::new(move || super::observed::millis(fake.now_ns())),
        };
        let means: Arc<dyn Means> = Arc::clone(&self.means) as Arc<dyn Means>;
        let pods = Pods::new(options, self.cluster.clone(), self.fake.client(), means, &recorder);
        let running = pods.clone();
        let its = drain.clone();
        drop(drain.spawn(async move { running.run(its).await }));
        *lock(&self.agent) = Some((pods, drain));
    }

    /// Kills the agent: what it was doing is dropped where it stood.
    pub(crate) async fn kill(&self) {
        let agent = lock(&self.agent).take();
        if let Some((_, drain)) = agent {
            assert!(
                drain.finish(Duration::from_secs(3600)).await,
                "tasks end when they are told to"
            );
        }
    }

    /// Puts a manifest where static pods are looked for; nothing takes it away.
    pub(crate) fn manifest(&self, name: &str, text: &str) {
        let folder = self.folder.path().join("manifests");
        std::fs::create_dir_all(&folder).unwrap();
        if text.is_empty() {
            std::fs::remove_file(folder.join(name)).unwrap();
        } else {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }

    pub(crate) fn pods(&self) -> Pods {
        lock(&self.agent).as_ref().unwrap().0.clone()
    }

    pub(crate) async fn create(&self, pod: Value) -> Value {
        self.cluster.create(pod).await.unwrap()
    }

    pub(crate) fn get(&self, name: &str) -> Option<Value> {
        self.cluster.get(PODS, &Key::new("default", name)).unwrap()
    }

    /// Its status, null when there is none.
    pub(crate) fn status(&self, name: &str) -> Value {
        self.get(name).map(|p| p["status"].clone()).unwrap_or_default()
    }

    pub(crate) async fn delete(&self, name: &str, grace: Option<i64>) {
        let options = DeleteOptions {
            grace,
            ..DeleteOptions::default()
        };
        self.cluster
            .delete(PODS, &Key::new("default", name), &options)
            .await
            .unwrap();
    }

    /// Reasons and messages of the Events so far.
    pub(crate) fn told(&self) -> Vec<(String, String)> {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let events = self.cluster.list(EVENTS, None).unwrap();
        events
            .iter()
            .map(|e| (text(&e["reason"]), text(&e["message"])))
            .collect()
    }

    /// Waits until something is so.
    pub(crate) async fn until(&self, what: &str, mut so: impl FnMut(&Self) -> bool) {
        let begun = daemon::clock::now();
        while !so(self) {
            if begun.elapsed() > DEADLINE {
                let pods = self.cluster.list(PODS, None).unwrap();
                let pods: Vec<String> = pods.iter().map(|p| p["status"].to_string()).collect();
                panic!("it never came that {what}: {pods:#?} {:#?}", self.fake.containers());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a pod's phase is this, and, for a running one, that it is ready.
    pub(crate) async fn phase(&self, name: &str, phase: &str) {
        self.until(&format!("{name} is {phase}"), |s| {
            let status = s.status(name);
            status["phase"] == phase && (phase != "Running" || condition(&status, "Ready")["status"] == "True")
        })
        .await;
    }
}

/// A condition of a status.
pub(crate) fn condition<'a>(status: &'a Value, ty: &str) -> &'a Value {
    let found = status["conditions"]
        .as_array()
        .and_then(|list| list.iter().find(|c| c["type"] == ty));
    found.unwrap_or(&Value::Null)
}
