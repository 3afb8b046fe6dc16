//! Works: what a hub sends is applied here, repaired and told, also while nobody is there to tell; what the gateway is as a cluster.

use federation::names;
use serde_json::{Value, json};

use crate::harness::{NODE, api, config, start, until};
use crate::hub::{Hub, cluster_key, observed};

const KEY: &str = "work.karmada.io/works/karmada-es-gw-1/web-1";
const CONFIG: &str = "/api/v1/namespaces/fx/configmaps/web";
const WORK: &str = "/apis/work.karmada.io/v1alpha1/namespaces/karmada-es-gw-1/works/web-1";

fn work(value: &str) -> Value {
    json!({"apiVersion": "work.karmada.io/v1alpha1", "kind": "Work",
        "metadata": {"namespace": "karmada-es-gw-1", "name": "web-1",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Namespace", "name": "fx", "uid": "of-the-hub"}]},
        "spec": {"workload": {"manifests": [{"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"namespace": "fx", "name": "web", "labels": {names::MANAGED: "true"}}, "data": {"key": value}}]}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn works_are_applied_and_kept_while_the_cable_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut hub = Hub::start(dir.path()).await;
    let mut config = config(dir.path());
    config.hubs = vec![hub.address.to_string()];
    hub.enroll(&config.pki);
    hub.desire(KEY, work("1")).await;
    let agent = start(&config).await;
    hub.until("the Work is told to be applied", |mind| {
        observed(mind, KEY).is_some_and(|told| told["applied"]["status"] == "True")
    })
    .await;
    assert_eq!(
        hub.look(|mind| mind.observed[KEY]["manifestStatuses"].clone()),
        json!([{"health": "Healthy", "identifier":
            {"kind": "ConfigMap", "name": "web", "namespace": "fx", "ordinal": 0, "resource": "", "version": "v1"}}])
    );
    assert_eq!(api(&agent, "GET", CONFIG, None).await.1["data"]["key"], "1");
    let (code, list) = api(&agent, "GET", "/apis/work.karmada.io/v1alpha1/works", None).await;
    assert_eq!((code, list["items"].as_array().unwrap().len()), (200, 1));

    // What the gateway is: the kinds that it serves, and no other.
    hub.until("what the gateway is as a cluster is at the hub", |mind| {
        observed(mind, &cluster_key()).is_some()
    })
    .await;
    let cluster = hub.look(|mind| mind.observed[&cluster_key()].clone());
    assert_eq!(
        cluster["kubernetesVersion"],
        api(&agent, "GET", "/version", None).await.1["gitVersion"]
    );
    let groups = cluster["apiEnablements"].as_array().unwrap();
    let serves = |version: &str, kind: &str| {
        let group = groups.iter().find(|group| group["groupVersion"] == version).unwrap();
        group["resources"]
            .as_array()
            .unwrap()
            .iter()
            .any(|resource| resource["kind"] == kind)
    };
    assert!(serves("v1", "Pod") && serves("apps/v1", "Deployment") && serves("devices.kubeedge.io/v1beta1", "Device"));
    assert!(!cluster.to_string().contains("pods/log"));
    assert!(cluster["resourceSummary"]["allocatable"]["pods"].is_string());

    // It is the hub's, and so is the namespace of it.
    for (method, path, body) in [
        ("DELETE", WORK, None),
        ("PATCH", WORK, Some(json!({"spec": {"suspendDispatching": true}}))),
        ("DELETE", "/api/v1/namespaces/karmada-es-gw-1", None),
        (
            "POST",
            "/apis/work.karmada.io/v1alpha1/namespaces/default/works",
            Some(work("1")),
        ),
    ] {
        let (code, answer) = api(&agent, method, path, body).await;
        assert!(code == 403 || code == 400, "{method} {path}: {answer}");
    }

    hub.cut().await;
    let edit = json!({"data": {"key": "by hand"}});
    assert_eq!(api(&agent, "PATCH", CONFIG, Some(edit)).await.0, 200);
    let key = metastore::store::ObjectKey::new("", "configmaps", "fx", "web");
    let value = |agent: &edgecore::Agent| -> Option<Value> {
        let object = agent.store().get(&key).unwrap()?;
        Some(object.value().unwrap()["data"]["key"].clone())
    };
    until("it is repaired", || value(&agent) == Some(json!("1"))).await;
    hub.desire(KEY, work("2")).await;
    hub.mend().await;
    until("the new one is applied", || value(&agent) == Some(json!("2"))).await;
    let received = {
        hub.in_sync().await;
        hub.look(|mind| mind.received)
    };

    // A restart says the same and writes nothing; a Work that went above is deleted here.
    config.api = agent.addresses().api.unwrap().to_string();
    agent.stop().await;
    let agent = start(&config).await;
    hub.until("a third session", |mind| mind.sessions == 3).await;
    hub.in_sync().await;
    assert_eq!(hub.look(|mind| mind.received), received);
    let mut deleted = work("2");
    deleted["metadata"]["annotations"] = json!({names::DELETING: "true"});
    hub.desire(KEY, deleted).await;
    hub.until("it is told to be gone", |mind| {
        observed(mind, KEY).is_some_and(|told| told["deleted"] == true)
    })
    .await;
    assert_eq!(value(&agent), None);
    assert_eq!(agent.node(), NODE);
    agent.stop().await;
}
