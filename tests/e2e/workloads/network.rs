//! Names and addresses between pods of one gateway that never saw a hub.

use serde_json::{Value, json};
use tests::gateway::Gateway;
use tests::objects::{deployment, idle, name, pod, service, web};
use tests::runtime::ADDRESS;
use tests::{LOOK, PATIENCE, eventually, kubectl};
use tokio::net::TcpStream;

/// Waits until a page of one of these pods is got.
async fn until_fetched(gateway: &Gateway, from: &str, url: &str, pods: &[Value]) -> String {
    let deadline = daemon::clock::now() + PATIENCE;
    loop {
        let ended = gateway.fetch(from, url).await;
        let page = ended.out.trim();
        if pods.iter().any(|pod| name(pod) == page) {
            return page.to_owned();
        }
        assert!(
            daemon::clock::now() < deadline,
            "{url} does not answer in {from}: {ended:?}"
        );
        tokio::time::sleep(LOOK).await;
    }
}

#[tokio::test]
async fn pods_find_services_by_name() {
    let gateway = Gateway::alone().await;
    let at = &gateway.at;
    at.create(&deployment("web", 2, web())).await;
    at.create(&service("web", "web")).await;
    let mut headless = service("direct", "web");
    headless["spec"]["clusterIP"] = json!("None");
    at.create(&headless).await;
    at.create(&pod("client", idle())).await;
    let pods = at.until_ready("web", 2).await;
    at.until_ready("client", 1).await;
    for url in [
        "http://web",
        "http://web.default",
        "http://web.default.svc",
        "http://web.default.svc.cluster.local:80/",
    ] {
        until_fetched(&gateway, "client", url, &pods).await;
    }
    // All of them get their share.
    let mut seen = std::collections::BTreeSet::new();
    eventually("both pods to answer", async || {
        seen.insert(gateway.fetch("client", "http://web").await.good());
        (seen.len() == 2).then_some(())
    })
    .await;
    // A name without an address of its own is its pods'.
    let told = gateway
        .exec("client", &["nslookup", "direct.default.svc.cluster.local"])
        .await
        .good();
    for pod in &pods {
        assert!(told.contains(pod["status"]["podIP"].as_str().unwrap()), "{told}");
    }
    let absent = gateway
        .exec("client", &["nslookup", "nobody.default.svc.cluster.local"])
        .await;
    assert!(
        absent.out.contains("NXDOMAIN") || absent.err.contains("NXDOMAIN"),
        "{absent:?}"
    );
    let resolv = gateway.read("client", "/etc/resolv.conf").await;
    assert!(
        resolv.contains("search default.svc.cluster.local svc.cluster.local cluster.local"),
        "{resolv}"
    );

    // A pod reaches itself by its Service's name.
    at.patch("Deployment/web", &json!({"spec": {"replicas": 1}})).await;
    let one = at.until_ready("web", 1).await;
    until_fetched(&gateway, name(&one[0]), "http://web", &one).await;
    // Nobody there: said at once, not after a timeout.
    at.patch("Deployment/web", &json!({"spec": {"replicas": 0}})).await;
    eventually("the Service to refuse", async || {
        let ended = gateway.fetch("client", "http://web").await;
        ended.err.contains("refused").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_is_not_ready_gets_no_requests() {
    let gateway = Gateway::alone().await;
    let at = &gateway.at;
    let mut careful = web();
    careful["readinessProbe"] =
        json!({"exec": {"command": ["test", "!", "-e", "/tmp/busy"]}, "periodSeconds": 1, "failureThreshold": 1});
    at.create(&deployment("web", 2, careful)).await;
    at.create(&service("web", "web")).await;
    at.create(&pod("client", idle())).await;
    let pods = at.until_ready("web", 2).await;
    at.until_ready("client", 1).await;
    until_fetched(&gateway, "client", "http://web", &pods).await;
    let (busy, free) = (name(&pods[0]), name(&pods[1]));
    gateway.exec(busy, &["touch", "/tmp/busy"]).await.good();
    at.until(&format!("Pod/{busy}"), "not to be ready", |p| {
        !tests::objects::is_ready(p)
    })
    .await;
    at.until("Deployment/web", "to count one", |d| d["status"]["readyReplicas"] == 1)
        .await;
    eventually("the Service to lead past it", async || {
        for _ in 0..10 {
            if gateway.fetch("client", "http://web").await.out.trim() != free {
                return None;
            }
        }
        Some(())
    })
    .await;
    gateway.exec(busy, &["rm", "/tmp/busy"]).await.good();
    eventually("the Service to lead there again", async || {
        (gateway.fetch("client", "http://web").await.out.trim() == busy).then_some(())
    })
    .await;
}

#[tokio::test]
async fn ports_of_the_machine_lead_to_pods_and_pods_reach_the_api() {
    let gateway = Gateway::alone().await;
    let at = &gateway.at;
    let mut out = service("out", "web");
    out["spec"]["type"] = json!("NodePort");
    out["spec"]["sessionAffinity"] = json!("ClientIP");
    let made = at.create(&out).await;
    let node_port = u16::try_from(made["spec"]["ports"][0]["nodePort"].as_u64().unwrap()).unwrap();
    at.create(&deployment("web", 2, web())).await;
    let mut fixed = web();
    fixed["ports"] = json!([{"containerPort": 8080, "hostPort": 9090}]);
    at.create(&pod("fixed", fixed)).await;
    let mut own = idle();
    own["ports"] = json!([]);
    let mut host = pod("host", own);
    host["spec"]["hostNetwork"] = json!(true);
    host["spec"]["dnsPolicy"] = json!("ClusterFirstWithHostNet");
    at.create(&host).await;
    at.create(&pod("client", idle())).await;
    let pods = at.until_ready("web", 2).await;
    for app in ["fixed", "host", "client"] {
        at.until_ready(app, 1).await;
    }
    let node_url = format!("http://{ADDRESS}:{node_port}");
    let first = until_fetched(&gateway, "client", &node_url, &pods).await;
    for _ in 0..10 {
        assert_eq!(gateway.fetch("client", &node_url).await.good().trim(), first);
    }
    until_fetched(&gateway, "host", &node_url, &pods).await;
    until_fetched(&gateway, "host", "http://out.default.svc.cluster.local", &pods).await;
    assert_eq!(
        gateway
            .fetch("client", &format!("http://{ADDRESS}:9090"))
            .await
            .good()
            .trim(),
        "fixed"
    );
    assert!(TcpStream::connect((ADDRESS, 9090)).await.is_ok());
    let status = at.get("Pod/host").await.unwrap()["status"].clone();
    assert_eq!(
        (&status["podIP"], &status["hostIP"]),
        (&json!(ADDRESS), &json!(ADDRESS))
    );

    // The API, by the name that every library tries, and with what every library finds in its pod.
    let line = "nc -w 5 kubernetes.default.svc 443 < /dev/null";
    gateway.exec("client", &["sh", "-c", line]).await.good();
    let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
    let token = gateway.read("client", &format!("{folder}/token")).await;
    let authority = gateway.machine.folder().join("ca.crt");
    std::fs::write(&authority, gateway.read("client", &format!("{folder}/ca.crt")).await).unwrap();
    let empty = gateway.machine.folder().join("empty.kubeconfig");
    std::fs::write(&empty, "{}").unwrap();
    let told = kubectl(
        &empty,
        &[
            "--server=https://10.43.0.1",
            "--tls-server-name=kubernetes.default.svc",
            &format!("--certificate-authority={}", authority.display()),
            &format!("--token={token}"),
            "auth",
            "whoami",
        ],
    )
    .await
    .good();
    assert!(told.contains("system:serviceaccount:default:default"), "{told}");
    let environment = gateway.exec("client", &["env"]).await.good();
    assert!(
        environment.contains("KUBERNETES_SERVICE_HOST=10.43.0.1"),
        "{environment}"
    );
    assert!(environment.contains("OUT_SERVICE_HOST="), "{environment}");
}
