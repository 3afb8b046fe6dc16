//! The link against the simulated hub: both directions, cut and mended, rotation, the tunnel, an unwilling hub.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use link::pki::{HubCa, NodeProfile};
use link::{Admission, HubConfig, HubEndpoint, HubLimits, OpenGate, tunnel};
use serde_json::{Value, json};

use crate::harness::{Client, NODE, api, config, device, model, reported, soon, start, until};
use crate::hub::{Hub, cluster_key, device_key, node_key, observed, status_key};

const MODEL_KEY: &str = "devices.kubeedge.io/devicemodels/default/press";

pub(crate) fn hub_ca(dir: &Path) -> HubCa {
    HubCa::load_or_create(&dir.join("hub-pki"), daemon::clock::wall_ms()).unwrap()
}

pub(crate) fn ca_pem(ca: &HubCa) -> String {
    ca.cert_pem()
}

/// A node certificate; `valid` from now on.
pub(crate) fn issue(ca: &HubCa, csr: &[u8], valid: Duration) -> String {
    let profile = NodeProfile {
        node: NODE,
        trust_domain: "test.local",
        valid,
    };
    ca.issue_node(csr, &profile, daemon::clock::wall_ms())
        .unwrap()
        .chain_pem
}

pub(crate) fn issue_der(ca: &HubCa, csr: &[u8], brief: bool) -> Vec<Bytes> {
    let profile = NodeProfile {
        node: NODE,
        trust_domain: "test.local",
        valid: Duration::from_secs(if brief { 100 } else { 90 * 86_400 }),
    };
    let cert = ca.issue_node(csr, &profile, daemon::clock::wall_ms()).unwrap();
    cert.chain.iter().map(|der| Bytes::copy_from_slice(der)).collect()
}

pub(crate) async fn bind(ca: &HubCa, listen: SocketAddr) -> HubEndpoint {
    daemon::tls::install_provider();
    soon("the port is free", async {
        loop {
            let config = HubConfig {
                listen,
                server: ca
                    .issue_server(&["127.0.0.1".to_owned()], daemon::clock::wall_ms())
                    .unwrap(),
                ca: ca.cert().clone(),
                limits: HubLimits::default(),
                gate: Arc::new(OpenGate),
                admission: Arc::new(Admission::new(1000, 1000)),
            };
            match HubEndpoint::bind(config) {
                Ok(endpoint) => return endpoint,
                // The sockets of the endpoint before are let go of a moment after its end.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await
}

/// A Device as the hub has it, its setpoint stamped by the hub's clock.
fn hubs_device(setpoint: &str, ms: u64) -> Value {
    let mut device = device("d0");
    let stamp = format!("{ms:012x}-0000-@hub");
    device["spec"]["properties"] = json!([{"name": "setpoint", "desired": {"value": setpoint,
        "metadata": {"stamp": stamp, "timestamp": ms.to_string(), "by": "kubectl"}}}]);
    device
}

/// The Device as it is here.
fn held(agent: &edgecore::Agent) -> Value {
    let key = crate::harness::key("devices", "d0");
    agent.store().get(&key).unwrap().unwrap().value().unwrap()
}

fn desired(agent: &edgecore::Agent) -> Value {
    let device = agent
        .store()
        .get(&crate::harness::key("devices", "d0"))
        .unwrap()
        .unwrap()
        .value()
        .unwrap();
    device["spec"]["properties"][0]["desired"]["value"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn desired_comes_down_observed_goes_up_and_equal_sets_are_not_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut hub = Hub::start(dir.path()).await;
    hub.desire(MODEL_KEY, model()).await;
    hub.desire(&device_key("d0"), hubs_device("150", 1000)).await;
    let mut config = config(dir.path());
    config.hubs = vec![hub.address.to_string()];
    hub.enroll(&config.pki);
    let agent = start(&config).await;
    hub.in_sync().await;
    assert_eq!(desired(&agent), "150");
    let mut c = Client::connect(&agent, "c", &["$hw/events/device/+/+/twin/update/delta"]).await;
    assert_eq!(c.next_on("delta").await["delta"], json!({"setpoint": "150"}));

    // An edit in the cloud comes out on MQTT; the report goes up, and so does the gateway itself.
    hub.desire(&device_key("d0"), hubs_device("170", 2000)).await;
    // The one before may have come twice: as news of the device and as answer to the subscription.
    while c.next_on("delta").await["delta"] != json!({"setpoint": "170"}) {}
    c.report("d0", "setpoint", "170").await;
    hub.until("the report is at the hub", |mind| {
        observed(mind, &status_key("d0"))
            .is_some_and(|status| status["status"]["twins"][0]["reported"]["value"] == "170")
    })
    .await;
    hub.until("the Node is at the hub", |mind| observed(mind, &node_key()).is_some())
        .await;
    hub.in_sync().await;
    assert!(hub.look(|mind| mind.refused.is_empty()));
    let node = hub.look(|mind| mind.observed[&node_key()].clone());
    assert_eq!(node["metadata"].get("resourceVersion"), None);
    hub.until("what the gateway is as a cluster is at the hub", |mind| {
        observed(mind, &cluster_key()).is_some()
    })
    .await;
    hub.in_sync().await;

    // After a cut with nothing done on either side, nothing is sent.
    let received = hub.look(|mind| mind.received);
    hub.cut().await;
    hub.mend().await;
    hub.in_sync().await;
    assert_eq!(hub.look(|mind| (mind.received, mind.sessions)), (received, 2));

    // The same after a restart of the agent. At another port the Node would be another.
    config.api = agent.addresses().api.unwrap().to_string();
    agent.stop().await;
    let agent = start(&config).await;
    hub.until("a third session", |mind| mind.sessions == 3).await;
    hub.in_sync().await;
    assert_eq!(hub.look(|mind| mind.received), received);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_on_both_sides_while_cut_converge_on_the_later() {
    let dir = tempfile::tempdir().unwrap();
    let mut hub = Hub::start(dir.path()).await;
    hub.desire(MODEL_KEY, model()).await;
    hub.desire(&device_key("d0"), hubs_device("100", 1000)).await;
    let mut config = config(dir.path());
    config.hubs = vec![hub.address.to_string()];
    hub.enroll(&config.pki);
    let agent = start(&config).await;
    hub.in_sync().await;
    hub.cut().await;

    // At the gateway: a desired value by the local API, reports; in the cloud: an earlier edit of the same property.
    let path = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devices/d0";
    let patch = json!({"spec": {"properties": [{"name": "setpoint", "desired": {"value": "200"}}]}});
    let (code, body) = api(&agent, "PATCH", path, Some(patch)).await;
    assert_eq!(code, 200, "{body}");
    let register = body["spec"]["properties"][0]["desired"].clone();
    let mut c = Client::connect(&agent, "c", &[]).await;
    for n in 0..300 {
        c.report("d0", "temperature", &n.to_string()).await;
    }
    hub.desire(&device_key("d0"), hubs_device("110", 2000)).await;

    hub.mend().await;
    hub.in_sync().await;
    // The gateway keeps its later value and tells the hub of it, as it was stamped.
    assert_eq!(desired(&agent), "200");
    let twins = "devices.kubeedge.io/twins/default/d0";
    hub.until("the gateway's desired value is at the hub", |mind| {
        observed(mind, twins).is_some()
    })
    .await;
    let told = hub.look(|mind| mind.observed[twins]["properties"]["setpoint"].clone());
    assert_eq!(
        (&told["value"], &told["stamp"]),
        (&json!("200"), &register["metadata"]["stamp"])
    );
    hub.until("the last report is at the hub", |mind| {
        let twins = observed(mind, &status_key("d0")).and_then(|status| status["status"]["twins"].as_array().cloned());
        twins.is_some_and(|twins| {
            twins
                .iter()
                .any(|twin| twin["propertyName"] == "temperature" && twin["reported"]["value"] == "299")
        })
    })
    .await;
    // The edit in the cloud, which nobody at the gateway knew of, is in the conflict log, with the one it lost to.
    hub.until("the conflict is at the hub", |mind| !mind.events.is_empty())
        .await;
    let (seq, conflict) = hub.look(|mind| mind.events[0].clone());
    assert_eq!(
        (
            seq,
            &conflict["type"],
            &conflict["device"],
            &conflict["property"],
            &conflict["policy"]
        ),
        (
            1,
            &json!("conflict"),
            &json!("default/d0"),
            &json!("setpoint"),
            &json!("latest")
        )
    );
    assert_eq!(
        conflict["kept"],
        json!({"value": "200", "stamp": register["metadata"]["stamp"], "by": register["metadata"]["by"]})
    );
    assert_eq!(
        conflict["lost"],
        json!({"value": "110", "stamp": "0000000007d0-0000-@hub", "by": "kubectl"})
    );
    // The same Device with something else new in it is no other conflict, and neither is one that the hub merged and made a note of.
    let mut again = hubs_device("110", 2000);
    again["metadata"]["labels"] = json!({"line": "4"});
    hub.desire(&device_key("d0"), again.clone()).await;
    until("the label is here", || {
        held(&agent)["metadata"]["labels"]["line"] == "4"
    })
    .await;
    let noted = device_models::merge_device_desired(&mut again, &json!({"properties": {"setpoint": told}}));
    assert_eq!(
        device_models::note_overruled(&mut again, &noted.conflicts),
        [] as [String; 0]
    );
    assert_eq!(device_models::overruled(&again).len(), 1);
    again["metadata"]["labels"] = json!({"line": "5"});
    hub.desire(&device_key("d0"), again).await;
    until("the merged Device is here", || {
        held(&agent)["metadata"]["labels"]["line"] == "5"
    })
    .await;
    assert_eq!(agent.store().journal_bounds("events").unwrap().accepted, 1);

    // The hub merges it and sends the merged Device: nothing changes here, and the entry goes when the hub's later edit comes.
    let later = daemon::clock::wall_ms() + 3_600_000;
    hub.desire(&device_key("d0"), hubs_device("120", later)).await;
    hub.until("the entry is gone", |mind| observed(mind, twins).is_none())
        .await;
    assert_eq!(desired(&agent), "120");
    // The next local edit is later again, although the hub's clock is an hour ahead.
    let patch = json!({"spec": {"properties": [{"name": "setpoint", "desired": {"value": "210"}}]}});
    let (_, body) = api(&agent, "PATCH", path, Some(patch)).await;
    let stamp = body["spec"]["properties"][0]["desired"]["metadata"]["stamp"]
        .as_str()
        .unwrap();
    assert!(stamp > format!("{later:012x}-0000-@hub").as_str(), "{stamp}");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_applied_is_refused_by_key_and_the_rest_flows_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut hub = Hub::start(dir.path()).await;
    hub.desire(MODEL_KEY, model()).await;
    hub.desire(&device_key("d0"), hubs_device("9000", 1000)).await;
    hub.desire("apps/deployments/default/web", json!({"kind": "Deployment"}))
        .await;
    hub.desire(&device_key("d1"), device("d1")).await;
    let mut config = config(dir.path());
    config.hubs = vec![hub.address.to_string()];
    hub.enroll(&config.pki);
    let agent = start(&config).await;
    hub.until("two refusals", |mind| mind.refused.len() >= 2).await;
    hub.in_sync().await;
    let reason = hub.look(|mind| {
        mind.refused
            .iter()
            .find(|(key, _)| *key == device_key("d0"))
            .cloned()
            .unwrap()
            .1
    });
    assert!(
        reason.contains("setpoint") && reason.contains("9000") && reason.contains("260"),
        "{reason}"
    );
    let there = |name: &str| {
        agent
            .store()
            .get(&crate::harness::key("devices", name))
            .unwrap()
            .is_some()
    };
    assert!(!there("d0") && there("d1"));

    // Refused stays refused over a restart, and is not sent again; a better version is taken.
    agent.stop().await;
    let agent = start(&config).await;
    hub.until("a second session", |mind| mind.sessions == 2).await;
    hub.in_sync().await;
    hub.desire(&device_key("d0"), hubs_device("90", 2000)).await;
    until("the better version is taken", || {
        agent
            .store()
            .get(&crate::harness::key("devices", "d0"))
            .unwrap()
            .is_some()
    })
    .await;
    assert_eq!(desired(&agent), "90");

    // What is the hub's is not changed here, except desired values.
    let path = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devices/d0";
    let before = held(&agent);
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "1"});
    for (field, value) in [
        ("labels", json!({"a": "b"})),
        ("annotations", json!({"a": "b"})),
        ("finalizers", json!(["example.com/hold"])),
        ("ownerReferences", json!([owner])),
    ] {
        let (code, body) = api(&agent, "PATCH", path, Some(json!({"metadata": {field: value}}))).await;
        assert_eq!(code, 403, "{body}");
        let said = body["message"].as_str().unwrap_or_default();
        assert!(said.contains(&format!("not metadata.{field}")), "{said}");
    }
    assert_eq!(held(&agent), before);
    let (code, body) = api(&agent, "DELETE", path, None).await;
    assert_eq!(code, 403, "{body}");
    agent.stop().await;
    hub.cut().await;
}

/// Model and Device travel apart: a value refused under the old model is taken when the model that allows it comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_came_before_its_wider_model_is_taken_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut hub = Hub::start(dir.path()).await;
    hub.desire(MODEL_KEY, model()).await;
    hub.desire(&device_key("d0"), hubs_device("90", 1000)).await;
    let mut config = config(dir.path());
    config.hubs = vec![hub.address.to_string()];
    hub.enroll(&config.pki);
    let agent = start(&config).await;
    hub.in_sync().await;
    assert_eq!(desired(&agent), "90");

    hub.desire(&device_key("d0"), hubs_device("300", 2000)).await;
    hub.desire(&device_key("d1"), {
        let mut other = hubs_device("9000", 2000);
        other["metadata"]["name"] = "d1".into();
        other
    })
    .await;
    hub.until("two refusals", |mind| mind.refused.len() >= 2).await;
    assert_eq!(desired(&agent), "90");
    let mut wider = model();
    wider["spec"]["properties"][1]["maximum"] = "400".into();
    hub.desire(MODEL_KEY, wider).await;
    until("the value is taken", || desired(&agent) == "300").await;
    // What the new model does not allow either is refused once more and then left alone.
    hub.until("the other is refused again", |mind| {
        let again = mind.refused.iter().filter(|(key, _)| *key == device_key("d1"));
        again.count() >= 2
    })
    .await;
    hub.in_sync().await;
    agent.stop().await;
    hub.cut().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_reaches_the_hub_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut hub = Hub::start(dir.path()).await;
    let mut config = config(dir.path());
    config.hubs = vec![hub.address.to_string()];
    hub.enroll(&config.pki);
    hub.desire(MODEL_KEY, model()).await;
    let mut device = device("d0");
    device["spec"]["properties"] = json!([{"name": "temperature", "reportToCloud": true}]);
    hub.desire(&device_key("d0"), device).await;
    let agent = start(&config).await;
    hub.in_sync().await;
    let mut c = Client::connect(&agent, "c", &[]).await;
    for n in 0..20 {
        c.report("d0", "temperature", &n.to_string()).await;
        c.report("d0", "mode", "auto").await;
    }
    hub.until("twenty records", |mind| mind.journal.len() >= 20).await;
    hub.cut().await;
    for n in 20..40 {
        c.report("d0", "temperature", &n.to_string()).await;
    }
    hub.mend().await;
    hub.until("forty records", |mind| {
        mind.journal.last().is_some_and(|(seq, _)| *seq == 40)
    })
    .await;
    let records = hub.look(|mind| mind.journal.clone());
    let values: Vec<&Value> = records
        .iter()
        .rev()
        .take(20)
        .rev()
        .map(|(_, r)| &r["values"]["temperature"])
        .collect();
    assert_eq!(
        values,
        (20..40)
            .map(|n| json!(n.to_string()))
            .collect::<Vec<_>>()
            .iter()
            .collect::<Vec<_>>()
    );
    assert_eq!(records[0].1["device"], "default/d0");
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hub_asks_the_local_api_through_the_link() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path()).await;
    let mut config = config(dir.path());
    config.hubs = vec![hub.address.to_string()];
    hub.enroll(&config.pki);
    let agent = start(&config).await;
    hub.in_sync().await;
    let ask = |user: Option<&'static str>| {
        let connection = hub.connection();
        async move {
            let mut request = http::Request::builder().uri("/api/v1/nodes").header("host", "gw");
            if let Some(user) = user {
                request = request.header("impersonate-user", user);
            }
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            let response = tunnel::request(&connection, request, Duration::from_secs(10))
                .await
                .unwrap();
            let code = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (code, serde_json::from_slice::<Value>(&body).unwrap())
        }
    };
    let (code, nodes) = ask(None).await;
    assert_eq!((code, &nodes["items"][0]["metadata"]["name"]), (200, &json!(NODE)));
    // Under somebody else's name, what that somebody may.
    let (code, _) = ask(Some("bob")).await;
    assert_eq!(code, 403);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_past_two_thirds_of_its_life_is_renewed_over_the_link() {
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start(dir.path()).await;
    let mut config = config(dir.path());
    config.hubs = vec![hub.address.to_string()];
    hub.enroll(&config.pki);
    // Certificates begin some minutes before they are made, so a short one is old at once.
    let key = link::pki::NodeKey::generate().unwrap();
    std::fs::write(config.pki.join("node.key"), key.to_pem()).unwrap();
    let chain = issue(&hub.ca, &key.request().unwrap(), Duration::from_secs(100));
    std::fs::write(config.pki.join("node.crt"), &chain).unwrap();
    let agent = start(&config).await;
    hub.until("a session under the new certificate", |mind| mind.sessions == 2)
        .await;
    hub.in_sync().await;
    let renewed = std::fs::read_to_string(config.pki.join("node.crt")).unwrap();
    assert_ne!(renewed, chain);
    let serial = link::pki::Cert::parse_pem(&renewed).unwrap().serial;
    assert_eq!(hub.connection().peer().unwrap().serial, serial);
    assert_ne!(
        std::fs::read_to_string(config.pki.join("node.key")).unwrap(),
        key.to_pem()
    );
    agent.stop().await;
}

/// What a gateway sees whose clock is weeks ahead: each new certificate looks old. It asks once, not in every session anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_always_old_is_not_renewed_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut hub = Hub::start(dir.path()).await;
    hub.look(|mind| mind.brief = true);
    let mut config = config(dir.path());
    config.hubs = vec![hub.address.to_string()];
    hub.enroll(&config.pki);
    let key = link::pki::NodeKey::generate().unwrap();
    std::fs::write(config.pki.join("node.key"), key.to_pem()).unwrap();
    let chain = issue(&hub.ca, &key.request().unwrap(), Duration::from_secs(100));
    std::fs::write(config.pki.join("node.crt"), &chain).unwrap();
    let agent = start(&config).await;
    hub.until("a session under the new certificate", |mind| mind.sessions == 2)
        .await;
    hub.in_sync().await;
    tokio::time::sleep(Duration::from_millis(1000)).await;
    assert_eq!(hub.look(|mind| mind.sessions), 2);
    agent.stop().await;
    hub.cut().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_not_there_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut hub = Hub::start(dir.path()).await;
    let mut config = config(dir.path());
    config.hubs = vec![hub.address.to_string()];
    hub.enroll(&config.pki);
    hub.cut().await;
    let agent = start(&config).await;
    crate::harness::put(&agent, &[crate::harness::free_device("d0")]).await;
    let mut c = Client::connect(&agent, "c", &[]).await;
    until("the device is known", || {
        agent.metrics().contains("kurator_edge_devices 1")
    })
    .await;
    c.report("d0", "p", "1").await;
    assert_eq!(reported(&agent, "d0", "p").as_deref(), Some("1"));
    hub.mend().await;
    hub.until("the report is at the hub", |mind| {
        observed(mind, &status_key("d0")).is_some()
    })
    .await;
    agent.stop().await;
}
