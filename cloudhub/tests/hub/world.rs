//! A hub with ports of its own in a folder of its own, and its administrator.

use std::path::Path;
use std::time::Duration;

use cloudhub::{Bound, Config, Hub, Span};
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

pub(crate) const DEVICES: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devices";
pub(crate) const STATUSES: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devicestatuses";
pub(crate) const MODELS: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devicemodels";
pub(crate) const EDGE_NODES: &str = "/apis/edge.kubeedge.io/v1/edgenodes";

/// Asks until it is so; fails after ten seconds, saying what did not come.
pub(crate) async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Somebody with a client certificate.
#[derive(Clone)]
pub(crate) struct Person(pub(crate) kube::Client);

impl Person {
    pub(crate) async fn with(kubeconfig: &str) -> Self {
        let parsed = Kubeconfig::from_yaml(kubeconfig).unwrap();
        let mut config = kube::Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
            .await
            .unwrap();
        // An answer of 503 is what a test wants to see, not to wait out.
        config.default_retry = false;
        Self(kube::Client::try_from(config).unwrap())
    }

    /// One request: the answer, or status code and message.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Option<&Value>,
    ) -> Result<Value, (u16, String)> {
        let body = body.map_or_else(Vec::new, |b| b.to_string().into_bytes());
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .body(body)
            .unwrap();
        self.0.request::<Value>(request).await.map_err(|e| match e {
            kube::Error::Api(status) => (status.code, status.message),
            other => panic!("{path}: {other}"),
        })
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, (u16, String)> {
        self.ask(Method::GET, path, "application/json", None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, (u16, String)> {
        self.ask(Method::POST, path, "application/json", Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Value, (u16, String)> {
        self.ask(Method::DELETE, path, "application/json", None).await
    }

    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> Result<Value, (u16, String)> {
        self.ask(Method::PATCH, path, "application/merge-patch+json", Some(patch))
            .await
    }

    /// A join token.
    pub(crate) async fn token(&self, request: Value) -> String {
        let made = self.post("/kurator/v1/tokens", &request).await.unwrap();
        made["token"].as_str().unwrap().to_owned()
    }

    /// The hub's live view of a node.
    pub(crate) async fn node(&self, name: &str) -> Option<Value> {
        let list = self.get("/kurator/v1/nodes").await.unwrap();
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|n| n["name"] == name)
            .cloned()
    }

    pub(crate) async fn until_in_sync(&self, name: &str) -> Value {
        eventually(&format!("{name} connected and in sync"), async || {
            self.node(name)
                .await
                .filter(|n| n["connected"] == true && n["inSync"] == true)
        })
        .await
    }

    /// A model with a property of each access mode, and a device of it.
    pub(crate) async fn press(&self, name: &str, node: &str) {
        let model = json!({
            "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
            "metadata": {"name": "press", "namespace": "default"},
            "spec": {"protocol": "mqtt", "properties": [
                {"name": "setpoint", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "250"},
                {"name": "temperature", "type": "FLOAT", "accessMode": "ReadOnly"},
            ]},
        });
        match self.post(MODELS, &model).await {
            Ok(_) | Err((409, _)) => {}
            Err(e) => panic!("{e:?}"),
        }
        let device = json!({
            "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "deviceModelRef": {"name": "press"}, "nodeName": node,
                "protocol": {"protocolName": "mqtt"},
                "properties": [{"name": "setpoint", "desired": {"value": "20"}}, {"name": "temperature"}],
            },
        });
        self.post(DEVICES, &device).await.unwrap();
    }

    /// Sets a desired value as `kubectl edit` would.
    pub(crate) async fn set(&self, device: &str, value: &str) -> Result<Value, (u16, String)> {
        let patch = json!({"spec": {"properties": [
            {"name": "setpoint", "desired": {"value": value}}, {"name": "temperature"},
        ]}});
        self.merge(&format!("{DEVICES}/{device}"), &patch).await
    }
}

/// A running hub.
pub(crate) struct World {
    _folder: tempfile::TempDir,
    pub(crate) hub: Option<Hub>,
    pub(crate) admin: Person,
    pub(crate) config: Config,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        daemon::tls::install_provider();
        let folder = tempfile::tempdir().unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let mut config = Config {
            data_dir: folder.path().to_owned(),
            listen: any,
            api: any,
            health: any,
            heartbeat: Span(Duration::from_secs(1)),
            ..Config::default()
        };
        change(&mut config);
        let hub = run(config.clone()).await;
        // The same ports after a restart.
        let at = hub.addresses();
        (config.listen, config.api, config.health) = (at.listen, at.api, at.health);
        let admin = Person::with(&kubeconfig(folder.path())).await;
        Self {
            _folder: folder,
            hub: Some(hub),
            admin,
            config,
        }
    }

    pub(crate) fn listen(&self) -> String {
        self.config.listen.to_string()
    }

    pub(crate) fn api(&self) -> String {
        format!("https://{}", self.config.api)
    }

    pub(crate) fn health(&self) -> std::net::SocketAddr {
        self.config.health
    }

    pub(crate) async fn stop(&mut self) {
        assert!(self.hub.take().unwrap().stop().await, "the hub stops in time");
    }

    pub(crate) async fn start_again(&mut self) {
        self.hub = Some(run(self.config.clone()).await);
    }
}

async fn run(config: Config) -> Hub {
    let hub = Bound::new(config).await.unwrap().run().await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), hub.ready())
        .await
        .expect("the hub becomes ready");
    hub
}

pub(crate) fn kubeconfig(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("admin.kubeconfig")).unwrap()
}
