use serde_json::{Value, json};

use super::*;
use crate::controllers::bench::Bench;

async fn start() -> (Bench, [Arc<dyn Controller>; 1]) {
    let bench = Bench::start().await;
    let controller = endpoints(bench.cluster.clone());
    (bench, [controller])
}

async fn service(bench: &Bench, name: &str, spec: Value) {
    let mut whole = json!({"selector": {"app": "press"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}]});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    let metadata = json!({"name": name, "labels": {"line": "3"}});
    bench
        .create(json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": whole}))
        .await;
}

/// A pod of the Service that runs at an address.
async fn pod(bench: &Bench, name: &str, address: &str, ready: bool, spec: Value) {
    let mut whole = json!({"nodeName": "press-01", "containers": [{"name": "main", "image": "i", "ports": [{"name": "web", "containerPort": 8080}]}]});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    bench.pod(name, json!({"app": "press"}), whole).await;
    runs(bench, name, address, ready).await;
}

async fn runs(bench: &Bench, name: &str, address: &str, ready: bool) {
    let ready = if ready { "True" } else { "False" };
    let status = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-11-21T10:00:00Z"}]});
    bench
        .status(PODS, &Key::new("plant", name), |pod| pod["status"] = status.clone())
        .await;
}

fn slices(bench: &Bench) -> Vec<Value> {
    bench.list(ENDPOINT_SLICES)
}

#[tokio::test]
async fn a_service_leads_to_its_pods() {
    let (bench, all) = start().await;
    service(&bench, "press", json!({})).await;
    pod(
        &bench,
        "a",
        "10.42.0.2",
        true,
        json!({"hostname": "first", "subdomain": "press"}),
    )
    .await;
    pod(&bench, "b", "10.42.0.3", false, json!({})).await;
    bench.pod("other", json!({"app": "other"}), json!({})).await;
    bench.settle(&all).await;
    let all_slices = slices(&bench);
    assert_eq!(all_slices.len(), 1);
    let slice = &all_slices[0];
    let (a, b) = (bench.get(PODS, "a"), bench.get(PODS, "b"));
    assert_eq!(
        slice["metadata"]["labels"],
        json!({"line": "3", SERVICE_NAME: "press", MANAGED_BY: MANAGER})
    );
    assert_eq!(
        slice["metadata"]["annotations"],
        json!({TRIGGER: "2026-11-21T10:00:00Z"})
    );
    assert_eq!(slice["metadata"]["generateName"], "press-");
    assert_eq!(
        slice["ports"],
        json!([{"name": "http", "port": 8080, "protocol": "TCP"}])
    );
    assert_eq!(
        slice["endpoints"],
        json!([
            {"addresses": ["10.42.0.2"], "conditions": {"ready": true, "serving": true, "terminating": false}, "hostname": "first",
                "nodeName": "press-01", "targetRef": {"kind": "Pod", "name": "a", "namespace": "plant", "uid": uid(&a)}},
            {"addresses": ["10.42.0.3"], "conditions": {"ready": false, "serving": false, "terminating": false},
                "nodeName": "press-01", "targetRef": {"kind": "Pod", "name": "b", "namespace": "plant", "uid": uid(&b)}},
        ])
    );
    let subsets = &bench.get(ENDPOINTS, "press")["subsets"];
    assert_eq!(
        *subsets,
        json!([{
            "addresses": [{"ip": "10.42.0.2", "hostname": "first", "nodeName": "press-01",
                "targetRef": {"kind": "Pod", "name": "a", "namespace": "plant", "uid": uid(&a)}}],
            "notReadyAddresses": [{"ip": "10.42.0.3", "nodeName": "press-01",
                "targetRef": {"kind": "Pod", "name": "b", "namespace": "plant", "uid": uid(&b)}}],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        }])
    );
}

#[tokio::test]
async fn pods_come_and_go_in_the_same_slice() {
    let (bench, all) = start().await;
    service(&bench, "press", json!({})).await;
    bench.settle(&all).await;
    let before = slices(&bench);
    assert_eq!(
        (before.len(), list(&before[0], "/endpoints").len()),
        (1, 0),
        "one says that there is nobody"
    );
    assert!(bench.get(ENDPOINTS, "press").get("subsets").is_none());
    pod(&bench, "a", "10.42.0.2", false, json!({})).await;
    bench.settle(&all).await;
    let made = slices(&bench);
    assert_eq!(made.len(), 1);
    runs(&bench, "a", "10.42.0.2", true).await;
    bench.settle(&all).await;
    assert_eq!(slices(&bench)[0]["endpoints"][0]["conditions"]["ready"], true);
    assert_eq!(name(&slices(&bench)[0]), name(&made[0]));
    bench.delete(PODS, "a", Some(30)).await;
    bench.settle(&all).await;
    assert_eq!(
        slices(&bench)[0]["endpoints"][0]["conditions"],
        json!({"ready": false, "serving": true, "terminating": true})
    );
    // A real cluster says when pods became ready or not, and nothing when they were asked to go.
    assert!(
        slices(&bench)[0]["metadata"]
            .get("annotations")
            .is_none_or(|a| a.get(TRIGGER).is_none())
    );
    assert_eq!(
        crate::controllers::look::annotation(&bench.get(ENDPOINTS, "press"), TRIGGER),
        None
    );
    assert!(bench.get(ENDPOINTS, "press").get("subsets").is_none());
    bench.phase("a", "Succeeded").await;
    bench.settle(&all).await;
    let last = slices(&bench);
    assert_eq!((last.len(), list(&last[0], "/endpoints").len()), (1, 0));
    bench.delete(SERVICES, "press", None).await;
    all[0].reconcile(&Key::new("plant", "press")).await.unwrap();
    assert!(bench.find(ENDPOINTS, "press").is_none());
}

#[tokio::test]
async fn who_is_not_ready_is_shown_where_the_service_says_so() {
    let (bench, all) = start().await;
    service(
        &bench,
        "press",
        json!({"clusterIP": "None", "publishNotReadyAddresses": true, "ports": []}),
    )
    .await;
    pod(&bench, "a", "10.42.0.2", false, json!({})).await;
    bench.settle(&all).await;
    let slice = &slices(&bench)[0];
    assert_eq!(slice["metadata"]["labels"][HEADLESS], "");
    assert_eq!(
        slice["endpoints"][0]["conditions"],
        json!({"ready": true, "serving": false, "terminating": false})
    );
    assert!(list(slice, "/ports").is_empty());
    let made = bench.get(ENDPOINTS, "press");
    assert_eq!(list(&made, "/subsets/0/addresses").len(), 1);
    assert!(made["subsets"][0].get("ports").is_none());
}

#[tokio::test]
async fn a_named_port_may_be_another_number_in_each_pod() {
    let (bench, all) = start().await;
    service(&bench, "press", json!({})).await;
    pod(&bench, "a", "10.42.0.2", true, json!({})).await;
    let other =
        json!({"containers": [{"name": "main", "image": "i", "ports": [{"name": "web", "containerPort": 9090}]}]});
    pod(&bench, "b", "10.42.0.3", true, other).await;
    bench.settle(&all).await;
    let mut ports: Vec<i64> = slices(&bench)
        .iter()
        .map(|s| s["ports"][0]["port"].as_i64().unwrap())
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, [8080, 9090]);
    assert_eq!(list(&bench.get(ENDPOINTS, "press"), "/subsets").len(), 2);
    bench.delete(PODS, "b", Some(0)).await;
    bench.settle(&all).await;
    assert_eq!(slices(&bench).len(), 1);
}

#[test]
fn a_slice_holds_no_more_than_a_hundred_and_is_filled_before_another_is_made() {
    let service = json!({"metadata": {"name": "s", "namespace": "n", "uid": "u"},
        "spec": {"selector": {"a": "b"}, "clusterIP": "10.96.0.9", "ports": [{"port": 80}]}});
    let pods: Vec<Value> = (0..250)
        .map(|i| {
            json!({"metadata": {"name": format!("p{i:03}"), "namespace": "n", "uid": format!("u{i}"), "labels": {"a": "b"}},
                "status": {"phase": "Running", "podIP": format!("10.42.0.{i}")}})
        })
        .collect();
    let counts = |there: &[Value], pods: &[Value]| {
        let plan = plan(&service, &members(&service, pods), there, &|_| None);
        let count = |s: &Vec<Value>| s.iter().map(|s| list(s, "/endpoints").len()).collect::<Vec<_>>();
        (count(&plan.create), count(&plan.update), plan.delete.len(), plan)
    };
    let (made, changed, gone, plan) = counts(&[], &pods);
    assert_eq!((made, changed, gone), (vec![100, 100, 50], vec![], 0));
    let mut there = plan.create;
    for (i, slice) in there.iter_mut().enumerate() {
        slice["metadata"]["name"] = format!("s-{i}").into();
    }
    let (made, changed, gone, _) = counts(&there, &pods);
    assert_eq!((made, changed, gone), (vec![], vec![], 0), "nothing to do");
    // Five of the second slice go, and one comes: it takes the place of one of them.
    let mut fewer: Vec<Value> = pods.clone();
    fewer.drain(100..105);
    let mut new = pods[0].clone();
    new["metadata"]["uid"] = "new".into();
    fewer.push(new);
    let (made, changed, gone, _) = counts(&there, &fewer);
    assert_eq!((made, changed, gone), (vec![], vec![96], 0));
    let (made, changed, gone, _) = counts(&there, &pods[..100]);
    assert_eq!((made, changed, gone), (vec![], vec![], 2));
}
