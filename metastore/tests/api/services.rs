//! What Services are given: under many creates at once, after a restart, from ranges of both families; and the server's own Service.

use std::collections::BTreeSet;
use std::sync::Arc;

use metastore::api::{ApiServer, Builder, ServiceRange};
use serde_json::{Value, json};

use crate::support::Api;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn range(text: &str) -> ServiceRange {
    text.parse().unwrap()
}

fn in_range(text: &'static str) -> impl FnOnce(Builder) -> Builder {
    move |b| b.service_ranges([range(text)])
}

fn service(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["ports"] = json!([{"port": 80}]);
    json!({"metadata": {"name": name}, "spec": spec})
}

fn ip(service: &Value) -> String {
    service["spec"]["clusterIP"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn creates_at_once_get_different_addresses_and_ports_until_none_is_left() {
    let api = Arc::new(Api::with(|_| (), in_range("10.7.0.0/27")).await);
    let mut calls = tokio::task::JoinSet::new();
    for i in 0..40 {
        let api = api.clone();
        let body = service(&format!("s{i}"), json!({"type": "NodePort"}));
        calls.spawn(async move { api.call("POST", SERVICES, body).await });
    }
    let (mut ips, mut ports, mut full) = (BTreeSet::new(), BTreeSet::new(), 0);
    for (status, body) in calls.join_all().await {
        if status == 201 {
            assert!(ips.insert(ip(&body)), "{body}");
            assert!(ports.insert(body["spec"]["ports"][0]["nodePort"].as_i64().unwrap()));
        } else {
            assert_eq!((status, &body["reason"]), (500, &json!("InternalError")));
            full += 1;
        }
    }
    // 32 addresses less the network's own and everybody's.
    assert_eq!((ips.len(), full), (30, 10));
    assert!(ports.iter().all(|p| (30_000..=32_767).contains(p)));
    let (_, list) = api.get(SERVICES).await;
    let gone = list["items"][7].clone();
    let name = gone["metadata"]["name"].as_str().unwrap();
    let (status, deleted) = api.call("DELETE", &format!("{SERVICES}/{name}"), Value::Null).await;
    assert_eq!((status, &deleted["kind"]), (200, &json!("Service")));
    let (status, again) = api.call("POST", SERVICES, service("again", json!({}))).await;
    assert_eq!((status, ip(&again)), (201, ip(&gone)));
}

#[tokio::test]
async fn an_address_asked_for_is_given_once_and_nothing_is_forgotten_by_a_restart() {
    let api = Api::with(|_| (), in_range("10.7.0.0/24")).await;
    let asked = json!({"clusterIP": "10.7.0.9", "type": "NodePort"});
    let (status, first) = api.call("POST", SERVICES, service("a", asked.clone())).await;
    assert_eq!(status, 201, "{first}");
    let port = first["spec"]["ports"][0]["nodePort"].clone();
    let store = api.server.store().clone();
    let folder = api.into_folder();
    let server = in_range("10.7.0.0/24")(ApiServer::builder(store))
        .build()
        .await
        .unwrap();
    let api = Api::over(server, folder);
    let (status, refused) = api.call("POST", SERVICES, service("b", asked)).await;
    assert_eq!(
        (status, &refused["details"]["causes"][0]["field"]),
        (422, &json!("spec.clusterIPs"))
    );
    let mut same_port = service("c", json!({"type": "NodePort"}));
    same_port["spec"]["ports"][0]["nodePort"] = port.clone();
    let (status, refused) = api.call("POST", SERVICES, same_port.clone()).await;
    assert_eq!(
        (status, &refused["details"]["causes"][0]["field"]),
        (422, &json!("spec.ports[0].nodePort"))
    );
    // Another type gives the port back, and keeps the address.
    let (_, changed) = api
        .patch(&format!("{SERVICES}/a"), json!({"spec": {"type": "ClusterIP"}}))
        .await;
    assert_eq!(ip(&changed), "10.7.0.9");
    assert!(changed["spec"]["ports"][0].get("nodePort").is_none());
    assert_eq!(api.call("POST", SERVICES, same_port).await.0, 201);
    let dry = format!("{SERVICES}?dryRun=All");
    assert_eq!(
        api.call("POST", &dry, service("d", json!({"clusterIP": "10.7.0.10"})))
            .await
            .0,
        201
    );
    let kept = service("d", json!({"clusterIP": "10.7.0.10"}));
    assert_eq!(api.call("POST", SERVICES, kept).await.0, 201);
}

#[tokio::test]
async fn a_second_family_comes_and_goes() {
    let both = |b: Builder| b.service_ranges([range("10.7.0.0/24"), range("fd00:7::/112")]);
    let api = Api::with(|_| (), both).await;
    let (_, one) = api.call("POST", SERVICES, service("a", json!({}))).await;
    assert_eq!(one["spec"]["ipFamilies"], json!(["IPv4"]));
    let path = format!("{SERVICES}/a");
    let (status, two) = api
        .patch(&path, json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}}))
        .await;
    assert_eq!((status, &two["spec"]["ipFamilies"]), (200, &json!(["IPv4", "IPv6"])));
    let ips = two["spec"]["clusterIPs"].as_array().unwrap().clone();
    assert_eq!(ips[0], one["spec"]["clusterIP"]);
    assert!(ips[1].as_str().unwrap().starts_with("fd00:7::"), "{ips:?}");
    let (status, back) = api
        .patch(&path, json!({"spec": {"ipFamilyPolicy": "SingleStack"}}))
        .await;
    assert_eq!((status, &back["spec"]["clusterIPs"]), (200, &json!([ips[0]])));
    assert_eq!(back["spec"]["ipFamilies"], json!(["IPv4"]));
    let six = json!({"ipFamilies": ["IPv6"], "clusterIP": ips[1]});
    assert_eq!(api.call("POST", SERVICES, service("b", six)).await.0, 201);
    let (_, old) = api
        .call(
            "POST",
            SERVICES,
            service("c", json!({"ipFamilyPolicy": "RequireDualStack"})),
        )
        .await;
    assert_eq!(old["spec"]["clusterIPs"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_server_has_a_service_that_leads_to_it_wherever_it_moves() {
    let told = |address: &'static str| move |b: Builder| in_range("10.7.0.0/24")(b).advertise(address.parse().unwrap());
    let api = Api::with(|_| (), told("192.0.2.1:6443")).await;
    let (_, service) = api.get(&format!("{SERVICES}/kubernetes")).await;
    assert_eq!(ip(&service), "10.7.0.1");
    assert_eq!(
        service["spec"]["ports"],
        json!([{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}])
    );
    let store = api.server.store().clone();
    let folder = api.into_folder();
    let server = told("192.0.2.9:7443")(ApiServer::builder(store)).build().await.unwrap();
    let api = Api::over(server, folder);
    let (_, service) = api.get(&format!("{SERVICES}/kubernetes")).await;
    assert_eq!(
        (ip(&service).as_str(), &service["spec"]["ports"][0]["targetPort"]),
        ("10.7.0.1", &json!(7443))
    );
    let (_, slice) = api
        .get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes")
        .await;
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["192.0.2.9"]));
    assert_eq!(slice["ports"][0]["port"], 7443);
    let (_, endpoints) = api.get("/api/v1/namespaces/default/endpoints/kubernetes").await;
    assert_eq!(
        endpoints["subsets"],
        json!([{"addresses": [{"ip": "192.0.2.9"}], "ports": [{"name": "https", "port": 7443, "protocol": "TCP"}]}])
    );
    // Not told, it has none; told its own machine, it leads nowhere.
    let api = Api::start().await;
    assert_eq!(api.get(&format!("{SERVICES}/kubernetes")).await.0, 404);
    let api = Api::with(|_| (), told("127.0.0.1:6443")).await;
    assert_eq!(api.get(&format!("{SERVICES}/kubernetes")).await.0, 200);
    assert_eq!(api.get("/api/v1/namespaces/default/endpoints/kubernetes").await.0, 404);
}
