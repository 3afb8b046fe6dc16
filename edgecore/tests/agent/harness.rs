//! An agent with its folders, an MQTT client that remembers what it got, and objects to work with.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use edgecore::{Agent, Config, Mqtt, MqttMode};
use http_body_util::{BodyExt as _, Full};
use metastore::api::{MASTERS, User};
use metastore::store::{Expect, ObjectKey, Tx};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Nothing in these tests takes this long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const NODE: &str = "gw-1";

/// Awaits, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

pub(crate) fn config(dir: &Path) -> Config {
    daemon::telemetry::init(&std::env::var("TEST_LOG").unwrap_or_else(|_| "off".to_owned())).unwrap();
    Config {
        node_name: NODE.to_owned(),
        data_dir: dir.join("data"),
        config_dir: dir.join("etc"),
        api: "127.0.0.1:0".to_owned(),
        health: "127.0.0.1:0".to_owned(),
        mqtt: Mqtt {
            mode: MqttMode::Embedded,
            listen: "127.0.0.1:0".to_owned(),
            external: String::new(),
        },
        workloads: workloads::Settings {
            runtime: "none".to_owned(),
            ..workloads::Settings::default()
        },
        ..Config::default()
    }
    .checked()
    .unwrap()
}

pub(crate) async fn start(config: &Config) -> Agent {
    soon("agent starts", Agent::start(config.clone())).await.unwrap()
}

pub(crate) fn key(resource: &str, name: &str) -> ObjectKey {
    ObjectKey::new("devices.kubeedge.io", resource, "default", name)
}

pub(crate) fn model() -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": {"name": "press", "namespace": "default"},
        "spec": {"properties": [
            {"name": "temperature", "type": "FLOAT", "accessMode": "ReadOnly", "unit": "C"},
            {"name": "setpoint", "type": "INT", "accessMode": "ReadWrite", "minimum": "20", "maximum": "260", "unit": "C"},
            {"name": "mode", "type": "STRING", "accessMode": "ReadWrite"},
        ]},
    })
}

pub(crate) fn device(name: &str) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"deviceModelRef": {"name": "press"}, "nodeName": NODE},
    })
}

/// A Device whose values nothing is held to.
pub(crate) fn free_device(name: &str) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": NODE},
    })
}

/// Puts objects past admission, as the mirror does.
pub(crate) async fn put(agent: &Agent, objects: &[Value]) {
    let mut tx = Tx::new();
    for object in objects {
        let resource = match object["kind"].as_str() {
            Some("Device") => "devices",
            Some("DeviceModel") => "devicemodels",
            other => panic!("{other:?}"),
        };
        let name = object["metadata"]["name"].as_str().unwrap();
        tx = tx.put(key(resource, name), object.clone(), Expect::Any);
    }
    agent.store().commit(tx).await.unwrap();
}

/// What the store has of a device's status: property -> reported value.
pub(crate) fn reported(agent: &Agent, device: &str, property: &str) -> Option<String> {
    let status = agent
        .store()
        .get(&key("devicestatuses", device))
        .unwrap()?
        .value()
        .unwrap();
    status["status"]["twins"]
        .as_array()?
        .iter()
        .find(|twin| twin["propertyName"] == property)?["reported"]["value"]
        .as_str()
        .map(str::to_owned)
}

/// Asks the local API as an administrator.
pub(crate) async fn api(agent: &Agent, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let server = soon("API is up", agent.api()).await.unwrap();
    let mut request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(
            "content-type",
            if method == "PATCH" {
                "application/merge-patch+json"
            } else {
                "application/json"
            },
        )
        .body(Full::new(bytes::Bytes::from(
            body.map_or_else(String::new, |b| b.to_string()),
        )))
        .unwrap();
    request.extensions_mut().insert(User::new("admin", [MASTERS]));
    let response = soon("API answers", server.handle(request)).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// A stranger's MQTT client.
pub(crate) struct Client {
    pub(crate) client: AsyncClient,
    got: mpsc::Receiver<(String, Value)>,
    acks: mpsc::Receiver<()>,
}

impl Client {
    /// Connects and subscribes.
    pub(crate) async fn connect(agent: &Agent, id: &str, filters: &[&str]) -> Self {
        Self::at(agent.addresses().mqtt.unwrap(), id, filters).await
    }

    /// Connects to any broker and subscribes.
    pub(crate) async fn at(at: SocketAddr, id: &str, filters: &[&str]) -> Self {
        let mut options = MqttOptions::new(id, at.ip().to_string(), at.port());
        options
            .set_keep_alive(Duration::from_secs(30))
            .set_max_packet_size(4 << 20, 4 << 20);
        let (client, mut events) = AsyncClient::new(options, 4096);
        let (put, got) = mpsc::channel(100_000);
        let (acked, acks) = mpsc::channel(100_000);
        let (subscribed, mut ready) = mpsc::channel(64);
        drop(tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(message))) => {
                        let value = serde_json::from_slice(&message.payload).unwrap_or(Value::Null);
                        if put.send((message.topic, value)).await.is_err() {
                            return;
                        }
                    }
                    Ok(Event::Incoming(Packet::PubAck(_))) => {
                        if acked.send(()).await.is_err() {
                            return;
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => subscribed.send(()).await.unwrap_or(()),
                    Ok(_) => {}
                    // The agent went away, or holds a connection whose message it could not store.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        }));
        for filter in filters {
            client.subscribe(*filter, QoS::AtLeastOnce).await.unwrap();
            soon("SUBACK", ready.recv()).await;
        }
        Self { client, got, acks }
    }

    /// Publishes at QoS 1; does not wait.
    pub(crate) async fn publish(&self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.client
            .publish(topic, QoS::AtLeastOnce, false, payload)
            .await
            .unwrap();
    }

    /// Waits for a PUBACK.
    pub(crate) async fn acked(&mut self) {
        soon("PUBACK", self.acks.recv()).await.unwrap();
    }

    /// Whether a PUBACK came within `wait`.
    pub(crate) async fn acked_within(&mut self, wait: Duration) -> bool {
        tokio::time::timeout(wait, self.acks.recv()).await.is_ok()
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> (String, Value) {
        soon("a message", self.got.recv()).await.unwrap()
    }

    /// The next message on a topic that ends so; others are dropped.
    pub(crate) async fn next_on(&mut self, tail: &str) -> Value {
        loop {
            let (topic, value) = self.next().await;
            if topic.ends_with(tail) {
                return value;
            }
        }
    }

    /// Reports one value and waits for PUBACK.
    pub(crate) async fn report(&mut self, device: &str, property: &str, value: &str) {
        let twin = json!({"event_id": "r", "timestamp": 1, "twin": {property: {"actual": {"value": value}}}});
        self.publish(
            &format!("$hw/events/device/default/{device}/twin/update"),
            twin.to_string(),
        )
        .await;
        self.acked().await;
    }
}

/// Polls until something holds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    soon(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Replaces every time by `T` and every made-up event id by `E`, so that messages can be compared as text.
pub(crate) fn timeless(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(k, v)| {
                let v = match k.as_str() {
                    "timestamp" if v.is_u64() => json!("T"),
                    "lastOnlineTime" => json!("T"),
                    "event_id" if v.as_str().is_some_and(|id| id.len() == 36) => json!("E"),
                    _ => timeless(v),
                };
                (k.clone(), v)
            })
            .collect(),
        Value::Array(items) => items.iter().map(timeless).collect(),
        other => other.clone(),
    }
}
