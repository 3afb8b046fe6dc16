//! The hub below a real Karmada: from a policy to running containers on two gateways and their status back in the template.
//!
//! Runs when `KARMADA_KUBECONFIG` names an administrator's kubeconfig of a control plane that can be reached from this machine; it makes and
//! removes Clusters of two names, and objects in `default`. Without it there is nothing to run against, and the test says so. Needs root.

// A test says what is wrong by stopping there.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tests::federation::{Federation, Ground, NODES};
use tests::objects::{deployment, name, web};
use tests::{Api, bridge, eventually, kurator};

/// Longer than Karmada takes to call a cluster lost.
const LOST: Duration = Duration::from_secs(45);

/// The control plane's kubeconfig and its address.
fn karmada() -> Option<(PathBuf, SocketAddr)> {
    #[allow(
        clippy::disallowed_methods,
        reason = "whoever runs the test says by it what it runs against"
    )]
    let kubeconfig = PathBuf::from(std::env::var_os("KARMADA_KUBECONFIG")?);
    let text = std::fs::read_to_string(&kubeconfig).expect("KARMADA_KUBECONFIG can be read");
    let config: Value = serde_saphyr::from_str(&text).expect("KARMADA_KUBECONFIG is YAML");
    let server = config["clusters"][0]["cluster"]["server"]
        .as_str()
        .expect("it names a server");
    let address = server.trim_start_matches("https://").trim_end_matches('/');
    Some((kubeconfig, address.parse().expect("the server is https://ip:port")))
}

/// A hub under Karmada with two gateways. Karmada is on the machine that the test began on, the hub on one of the gateways'.
#[allow(clippy::print_stderr, reason = "says that it did not run")]
async fn start() -> Option<Federation> {
    let Some((kubeconfig, address)) = karmada() else {
        eprintln!("KARMADA_KUBECONFIG is not set: nothing to run against.");
        return None;
    };
    let folder = tempfile::tempdir().unwrap().keep();
    let (out, back) = (folder.join("out"), folder.join("in"));
    bridge::lead_out(&out, address);
    let endpoint = bridge::lead_in(&back);
    let hubs = folder.join("hub.kubeconfig").display().to_string();
    // Where Karmada is, as an administrator would; the hub gets no more than this gives it.
    kurator(&kubeconfig, &["join", "karmada", "--hub-kubeconfig", &hubs])
        .await
        .good();

    let ground = Ground::lay().await;
    bridge::outwards(address, out).await;
    let config = ground.folder().join("cloudhub.yaml");
    let settings = json!({"upstream": {"endpoint": format!("https://{endpoint}")}});
    std::fs::write(&config, settings.to_string()).unwrap();
    let above = Api::open(&kubeconfig, None).await.unwrap();
    let arguments = [
        "--config",
        &config.display().to_string(),
        "--upstream",
        "karmada",
        "--kubeconfig",
        &hubs,
    ];
    let federation = ground.build(&arguments, Some(above)).await;
    let api: SocketAddr = federation.hub.api_url().trim_start_matches("https://").parse().unwrap();
    bridge::inwards(&back, api);
    Some(federation)
}

async fn remove(federation: &Federation, path: &str) {
    federation.above.0.json(Method::DELETE, path, None).await.ok();
    eventually(&format!("{path} to go"), async || {
        federation.get(path).await.is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_policy_becomes_containers_on_two_gateways_and_their_status_the_templates() {
    let Some(mut federation) = start().await else { return };
    let above = federation.above.clone();

    // Running, on both, and summed up above.
    above.create(&deployment("web", 2, web())).await;
    federation
        .propagate(
            ("apps/v1", "Deployment"),
            "web",
            json!({"replicaSchedulingType": "Duplicated"}),
        )
        .await;
    for member in &federation.members {
        member.at.until_ready("web", 2).await;
    }
    let summed =
        |ready: i64| move |d: &Value| d["status"]["readyReplicas"] == ready && d["status"]["replicas"] == ready;
    let template = above
        .until("Deployment/web", "to have all replicas of both gateways", summed(4))
        .await;
    assert_eq!(
        template["status"]["observedGeneration"],
        template["metadata"]["generation"]
    );

    // Logs and a command through Karmada's cluster proxy.
    let pod = federation.members[0].at.until_ready("web", 2).await;
    let pod = name(&pod[0]).to_owned();
    let proxy = format!(
        "/apis/cluster.karmada.io/v1alpha1/clusters/{}/proxy/api/v1/namespaces/default/pods/{pod}",
        NODES[0]
    );
    let through = federation.get(&proxy).await.expect("the pod is seen through the proxy");
    assert_eq!(through["metadata"]["name"], pod);
    let logs = above
        .0
        .call(Method::GET, &format!("{proxy}/log"), &[], None)
        .await
        .unwrap();
    assert!(logs.is_ok(), "{logs:?}");

    // One goes; what changes meanwhile waits for it.
    federation.members[0].edge.kill().await;
    let not_ready = federation.until_cluster(NODES[0], "False").await;
    let reason = not_ready["status"]["conditions"][0]["reason"].as_str();
    assert_eq!(reason, Some("ClusterNotReachable"));
    above
        .patch(
            "Deployment/web",
            &json!({"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}}),
        )
        .await;
    federation.members[1]
        .at
        .until_pods("web", "to be of the new version", |pods| {
            pods.len() == 2 && pods.iter().all(|p| p["metadata"]["annotations"]["version"] == "2")
        })
        .await;
    tokio::time::sleep(LOST).await;
    let still = federation.until_cluster(NODES[0], "False").await;
    assert_eq!(
        still["status"]["conditions"][0]["reason"], "ClusterNotReachable",
        "never unknown"
    );
    federation.members[0].machine.enter();
    federation.members[0].edge.start_again().await;
    federation.members[1].machine.enter();
    federation.until_cluster(NODES[0], "True").await;
    federation.members[0]
        .at
        .until_pods("web", "to be of the new version", |pods| {
            pods.len() == 2 && pods.iter().all(|p| p["metadata"]["annotations"]["version"] == "2")
        })
        .await;
    above
        .until("Deployment/web", "to have all replicas again", summed(4))
        .await;

    // Gone above is gone below.
    above.delete("Deployment/web").await;
    above.until_gone("Deployment/web").await;
    for member in &federation.members {
        member.at.until_pods("web", "to be gone", <[Value]>::is_empty).await;
    }
    remove(
        &federation,
        "/apis/policy.karmada.io/v1alpha1/namespaces/default/propagationpolicies/web",
    )
    .await;
    for node in NODES {
        remove(
            &federation,
            &format!("/apis/cluster.karmada.io/v1alpha1/clusters/{node}"),
        )
        .await;
    }
}
