//! What is the machine's own: static pods, and containers that are somebody else's.

use std::collections::BTreeMap;

use cri::v1;
use serde_json::{Value, json};
use tests::eventually;
use tests::gateway::{Gateway, NODE, write_manifest};
use tests::objects::{idle, is_ready, lives, pod};
use tests::runtime::{Machine, Make, PodNetwork};

use super::deploy::until_running;

#[tokio::test]
async fn a_manifest_in_the_folder_is_a_pod_for_as_long_as_it_is_there() {
    let mut gateway = Gateway::alone().await;
    write_manifest(&gateway, "fixed.yaml", &pod("fixed", idle()));
    let mirror = format!("Pod/fixed-{NODE}");
    let first = gateway.at.until(&mirror, "to be ready", is_ready).await;
    let annotations = &first["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(
        annotations["kubernetes.io/config.mirror"],
        annotations["kubernetes.io/config.hash"]
    );
    let owner = &first["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["name"]), (&json!("Node"), &json!(NODE)));

    // What stands for it in the API may be deleted: it comes again, and the container does not notice.
    gateway
        .kubectl
        .told(&["delete", "pod", &format!("fixed-{NODE}"), "--wait=false"])
        .await;
    let other = |p: &Value| is_ready(p) && p["metadata"]["uid"] != first["metadata"]["uid"];
    let again = gateway.at.until(&mirror, "to be there again", other).await;
    assert_eq!(lives(&again), lives(&first));
    // Restarts of the agent neither.
    gateway.edge.kill().await;
    gateway.start_again().await;
    let same = gateway.at.until(&mirror, "to be ready", is_ready).await;
    assert_eq!(lives(&same), lives(&first));

    let mut changed = pod("fixed", idle());
    changed["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "1"}]);
    write_manifest(&gateway, "fixed.yaml", &changed);
    let second = gateway
        .at
        .until(&mirror, "to be another", |p| {
            is_ready(p) && lives(p)[0].1 != lives(&first)[0].1
        })
        .await;
    assert_eq!(second["spec"]["containers"][0]["env"][0]["name"], "A");
    std::fs::remove_file(gateway.edge.folder().join("etc/manifests/fixed.yaml")).unwrap();
    gateway.at.until_gone(&mirror).await;
    until_running(&gateway, 0).await;
}

#[tokio::test]
async fn what_is_nobodys_pod_goes_and_what_is_a_strangers_stays() {
    let machine = Machine::with(Make {
        network: PodNetwork::There,
        ..Make::default()
    })
    .await;
    let labels = |node: Option<&str>| {
        let mut labels = BTreeMap::from([
            ("io.kubernetes.pod.name".to_owned(), "lost".to_owned()),
            ("io.kubernetes.pod.namespace".to_owned(), "default".to_owned()),
            (
                "io.kubernetes.pod.uid".to_owned(),
                "11111111-2222-4333-8444-555555555555".to_owned(),
            ),
            ("io.kubernetes.container.name".to_owned(), "c".to_owned()),
        ]);
        labels.extend(node.map(|node| ("dev.kurator.node".to_owned(), node.to_owned())));
        labels
    };
    let plain = machine
        .run_bare("plain", &["/bin/sleep", "1000"], BTreeMap::new())
        .await
        .container;
    let kubelets = machine
        .run_bare("kubelets", &["/bin/sleep", "1000"], labels(None))
        .await
        .container;
    let other = machine
        .run_bare("other", &["/bin/sleep", "1000"], labels(Some("gw-2")))
        .await
        .container;
    let lost = machine
        .run_bare("lost", &["/bin/sleep", "1000"], labels(Some(NODE)))
        .await
        .container;
    let mut gateway = Gateway::on(machine, Value::Null).await;
    gateway.at.create(&pod("own", idle())).await;
    gateway.at.until_ready("own", 1).await;
    let alive = async |gateway: &Gateway| {
        let containers = gateway
            .machine
            .runtime()
            .list_containers(v1::ContainerFilter::default())
            .await
            .ok()?;
        Some(containers.into_iter().map(|c| c.id).collect::<Vec<_>>())
    };
    eventually("the container of no pod to go", async || {
        alive(&gateway).await.filter(|all| !all.contains(&lost))
    })
    .await;
    gateway.edge.kill().await;
    gateway.start_again().await;
    gateway.at.delete("Pod/own").await;
    gateway.at.until_gone("Pod/own").await;
    let left = eventually("the own container to go", async || {
        alive(&gateway).await.filter(|all| all.len() == 3)
    })
    .await;
    for id in [plain, kubelets, other] {
        assert!(left.contains(&id), "{id} in {left:?}");
    }
    until_running(&gateway, 3).await;
}
