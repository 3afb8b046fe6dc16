//! Policies at the hub, containers at gateways: with nothing above it the hub does what Karmada's control plane does.

use http::Method;
use serde_json::{Value, json};
use tests::federation::{Federation, Ground, NODES};
use tests::objects::{Objects, deployment, is_ready, web};
use tests::{Edge, Hub, PATIENCE, checkout, eventually, kurator, run};

/// Whether a template's status is that many replicas, all ready, and of what it says now.
fn summed(replicas: i64) -> impl Fn(&Value) -> bool {
    move |template| {
        let status = &template["status"];
        status["replicas"] == replicas
            && status["readyReplicas"] == replicas
            && status["observedGeneration"] == template["metadata"]["generation"]
    }
}

fn is_version(pods: &[Value], version: &str, count: usize) -> bool {
    let is = |pod: &Value| pod["metadata"]["annotations"]["version"] == version && is_ready(pod);
    pods.len() == count && pods.iter().all(is)
}

async fn apply(federation: &Federation, file: &str) -> String {
    let mut kubectl = tests::Kubectl::new("kubectl", &federation.hub.kubeconfig()).command(&["apply", "-f"]);
    let applied = run(kubectl.arg(checkout().join("tests/manifests").join(file))).await;
    let said = applied.err.clone();
    applied.good();
    said
}

#[tokio::test]
async fn policies_become_containers_on_gateways_and_their_status_the_templates() {
    let mut federation = Ground::lay().await.build(&[], None).await;
    let above = federation.above.clone();
    above.create(&deployment("web", 3, web())).await;
    let weights = |first: i64, second: i64| {
        let of = |name: &str, weight: i64| json!({"targetCluster": {"clusterNames": [name]}, "weight": weight});
        json!({
            "replicaSchedulingType": "Divided",
            "replicaDivisionPreference": "Weighted",
            "weightPreference": {"staticWeightList": [of(NODES[0], first), of(NODES[1], second)]},
        })
    };
    federation
        .propagate(("apps/v1", "Deployment"), "web", weights(2, 1))
        .await;
    let [first, second] = &federation.members;
    first.at.until_ready("web", 2).await;
    second.at.until_ready("web", 1).await;
    above
        .until("Deployment/web", "to be the sum of its gateways", summed(3))
        .await;

    // The answer to "where is it".
    let said = kurator(&federation.hub.kubeconfig(), &["why", "deployment", "web"])
        .await
        .good();
    for word in [NODES[0], NODES[1], "web"] {
        assert!(said.contains(word), "{word} in {said}");
    }

    // One is cut off; the other has the new version, and the first gets it when it is back.
    federation.members[0].edge.kill().await;
    above
        .patch(
            "Deployment/web",
            &json!({"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}}),
        )
        .await;
    federation.members[1]
        .at
        .until_pods("web", "to be of the new version", |pods| is_version(pods, "2", 1))
        .await;
    assert!(
        federation.members[0]
            .machine
            .running()
            .await
            .is_some_and(|(_, running)| running == 2)
    );
    federation.members[0].machine.enter();
    federation.members[0].edge.start_again().await;
    federation.members[1].machine.enter();
    federation.members[0]
        .at
        .until_pods("web", "to be of the new version", |pods| is_version(pods, "2", 2))
        .await;
    above.until("Deployment/web", "to be the sum again", summed(3)).await;

    // Gone above is gone below.
    above.delete("Deployment/web").await;
    above.until_gone("Deployment/web").await;
    for member in &federation.members {
        member.at.until_pods("web", "to be gone", <[Value]>::is_empty).await;
    }
}

/// Kurator's own manifests, as people have them.
#[tokio::test]
async fn the_manifests_that_people_have_apply_as_they_are() {
    let federation = Ground::lay().await.build(&[], None).await;
    let nginx = deployment("nginx", 2, web());
    federation.above.create(&nginx).await;
    apply(&federation, "nginx-propagation.yaml").await;
    for member in &federation.members {
        member.at.until_ready("nginx", 2).await;
    }
    federation
        .above
        .until_within(PATIENCE, "Deployment/nginx", "to be the sum of two gateways", summed(4))
        .await;
    let warned = apply(&federation, "frontend-app-weighted.yaml").await;
    assert!(
        warned.contains("Warning:") && warned.contains("weightPreference"),
        "{warned}"
    );
    apply(&federation, "frontend-federateddeployment.yaml").await;
    for (member, replicas) in federation.members.iter().zip([2, 1]) {
        eventually("the share of a FederatedDeployment", async || {
            let made = member.at.get("Deployment/frontend-app").await?;
            (made["spec"]["replicas"] == replicas).then_some(())
        })
        .await;
    }
}

/// A hub below another, which stands in for Karmada: it serves the same kinds and does the same with them.
struct Below {
    above: Hub,
    hub: Hub,
    edges: Vec<Edge>,
    folder: tempfile::TempDir,
}

const WORKS: &str = "/apis/work.karmada.io/v1alpha1/namespaces";
const CLUSTERS: &str = "/apis/cluster.karmada.io/v1alpha1/clusters";

impl Below {
    async fn start(nodes: &[&str]) -> Self {
        daemon::tls::install_provider();
        let folder = tempfile::tempdir().unwrap();
        let above = Hub::start(&folder.path().join("above"), &[]).await;
        let kubeconfig = above.kubeconfig().display().to_string();
        let arguments = [
            "--upstream",
            "karmada",
            "--kubeconfig",
            &kubeconfig,
            "--heartbeat",
            "1s",
        ];
        // What a Karmada has from the beginning.
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "karmada-cluster"}});
        above
            .api
            .json(Method::POST, "/api/v1/namespaces", Some(&namespace))
            .await
            .unwrap();
        let hub = Hub::start(&folder.path().join("hub"), &arguments).await;
        let mut edges = Vec::new();
        for node in nodes {
            let token = hub.token(&["--node", node]).await;
            let own = folder.path().join(node);
            Edge::join(&own, node, &token).await.good();
            edges.push(Edge::start(&own, node).await);
        }
        let below = Self {
            above,
            hub,
            edges,
            folder,
        };
        for node in nodes {
            below.until_ready(node, "True").await;
        }
        below
    }

    async fn get(&self, path: &str) -> Option<Value> {
        tests::get(&self.above.api, path).await
    }

    async fn until(&self, path: &str, wish: &str, fits: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("{path} {wish}"), async || {
            self.get(path).await.filter(|o| fits(o))
        })
        .await
    }

    async fn until_ready(&self, node: &str, ready: &str) -> Value {
        let is = |c: &Value| c["type"] == "Ready" && c["status"] == ready;
        let has = |o: &Value| {
            o["status"]["conditions"]
                .as_array()
                .is_some_and(|all| all.iter().any(is))
        };
        self.until(&format!("{CLUSTERS}/{node}"), &format!("to have Ready={ready}"), has)
            .await
    }

    async fn put(&self, method: Method, path: &str, object: &Value) {
        let headers = [("content-type", "application/merge-patch+json")];
        let body = Some(object.to_string().into_bytes());
        let headers = if method == Method::PATCH { &headers[..] } else { &[] };
        let answer = self.above.api.call(method, path, headers, body).await.unwrap();
        answer.unwrap_or_else(|e| panic!("{path}: {e:?}"));
    }

    /// A Work by hand, as anybody above may make one.
    async fn work(&self, node: &str, name: &str, manifests: &[Value]) -> String {
        let collection = format!("{WORKS}/karmada-es-{node}/works");
        let work = json!({
            "apiVersion": "work.karmada.io/v1alpha1", "kind": "Work", "metadata": {"name": name},
            "spec": {"workload": {"manifests": manifests}},
        });
        self.put(Method::POST, &collection, &work).await;
        format!("{collection}/{name}")
    }

    async fn at(&self, node: usize) -> Objects {
        Objects(self.edges[node].api().await)
    }
}

fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": {"a": value}})
}

fn applied(work: &Value) -> (&Value, &str) {
    let conditions = work["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let applied = conditions.iter().find(|c| c["type"] == "Applied");
    applied.map_or((&Value::Null, ""), |c| {
        (&c["status"], c["message"].as_str().unwrap_or_default())
    })
}

fn has_data(value: &'static str) -> impl Fn(&Value) -> bool {
    move |object| object["data"]["a"] == value
}

#[tokio::test]
async fn a_hub_below_a_control_plane_registers_its_gateways_and_carries_their_works() {
    let mut below = Below::start(&["gw-1", "gw-2"]).await;
    let cluster = below
        .until(&format!("{CLUSTERS}/gw-1"), "to say what its gateway serves", |c| {
            c["status"]["apiEnablements"]
                .as_array()
                .is_some_and(|all| all.len() > 10)
        })
        .await;
    let status = &cluster["status"];
    assert_eq!(status["nodeSummary"]["totalNum"], 1);
    assert!(status["resourceSummary"]["allocatable"]["cpu"].is_string(), "{status}");
    assert!(status["kubernetesVersion"].as_str().unwrap().starts_with("v1."));
    let lease = "/apis/coordination.k8s.io/v1/namespaces/karmada-cluster/leases/gw-1";
    let lease = below.until(lease, "to be there", |_| true).await;
    let owner = &lease["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["uid"]),
        (&json!("Cluster"), &cluster["metadata"]["uid"])
    );
    assert_eq!(lease["spec"]["holderIdentity"], "gw-1");

    // One Work of two objects, for one gateway only; it is kept as it should be there.
    let both = [config_map("a", "1"), config_map("b", "1")];
    let work = below.work("gw-1", "two", &both).await;
    let done = below.until(&work, "to be applied", |w| applied(w).0 == "True").await;
    let finalizers = json!(["karmada.io/execution-controller"]);
    assert_eq!(done["metadata"]["finalizers"], finalizers);
    let ordinals: Vec<_> = done["status"]["manifestStatuses"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| {
            (
                m["identifier"]["ordinal"].clone(),
                m["identifier"]["resource"].clone(),
                m["health"].clone(),
            )
        })
        .collect();
    assert_eq!(ordinals, [0, 1].map(|n| (json!(n), json!(""), json!("Healthy"))));
    let (one, two) = (below.at(0).await, below.at(1).await);
    one.until("ConfigMap/a", "to be there", has_data("1")).await;
    assert!(
        two.get("ConfigMap/a").await.is_none(),
        "one gateway's Works are no other's"
    );
    one.patch("ConfigMap/a", &json!({"data": {"a": "by hand"}})).await;
    one.until("ConfigMap/a", "to be repaired", has_data("1")).await;

    // Held back, it stays as it is, and goes on when it is let go.
    let manifests = |value: &str| json!({"workload": {"manifests": [config_map("a", value), config_map("b", "1")]}});
    let mut spec = manifests("2");
    spec["suspendDispatching"] = json!(true);
    below.put(Method::PATCH, &work, &json!({"spec": spec})).await;
    let held = |w: &Value| {
        let all = w["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.iter().any(|c| c["reason"] == "SuspendDispatching") && all.iter().any(|c| c["type"] == "Applied")
    };
    below.until(&work, "to say that it is held back", held).await;
    one.until("ConfigMap/a", "to stay", has_data("1")).await;
    below
        .put(Method::PATCH, &work, &json!({"spec": {"suspendDispatching": false}}))
        .await;
    one.until("ConfigMap/a", "to follow", has_data("2")).await;

    // What is somebody else's is left alone, in Karmada's words.
    let own = config_map("own", "edge");
    one.create(&own).await;
    let clash = below.work("gw-1", "clash", &[config_map("own", "cloud")]).await;
    let refused = below.until(&clash, "to be refused", |w| applied(w).0 == "False").await;
    let words = "Failed to apply all manifests (0/1): resource(kind=ConfigMap, default/own) already exists in the cluster gw-1 and the \
                 work.karmada.io/conflict-resolution strategy value is empty, Karmada will not manage this resource";
    assert_eq!(applied(&refused).1, words);

    // A hub that is started again writes nothing that it wrote before.
    let versions = async |below: &Below| {
        let mut all = Vec::new();
        for path in [
            work.clone(),
            clash.clone(),
            format!("{CLUSTERS}/gw-1"),
            format!("{CLUSTERS}/gw-2"),
        ] {
            all.push(below.get(&path).await.unwrap()["metadata"]["resourceVersion"].clone());
        }
        all
    };
    below.hub.until_in_sync("gw-1").await;
    let before = versions(&below).await;
    below.hub.kill().await;
    below.hub.start_again().await;
    for node in ["gw-1", "gw-2"] {
        below.hub.until_in_sync(node).await;
    }
    let later = below.work("gw-1", "later", &[config_map("later", "1")]).await;
    below.until(&later, "to be applied", |w| applied(w).0 == "True").await;
    assert_eq!(versions(&below).await, before);

    // What happens above while a gateway is away is done when it is back: a Work that goes, and a whole Cluster.
    below.edges[0].kill().await;
    below.edges[1].kill().await;
    below.put(Method::DELETE, &work, &Value::Null).await;
    below
        .until(&work, "to wait for its gateway", |w| {
            w["metadata"]["deletionTimestamp"].is_string()
        })
        .await;
    below.edges[0].start_again().await;
    eventually("the Work to go", async || {
        below.get(&work).await.is_none().then_some(())
    })
    .await;
    let one = below.at(0).await;
    one.until_gone("ConfigMap/a").await;
    one.until("ConfigMap/own", "to be left alone", has_data("edge")).await;
    below
        .put(Method::DELETE, &format!("{CLUSTERS}/gw-1"), &Value::Null)
        .await;
    eventually("the Cluster to go", async || {
        below.get(&format!("{CLUSTERS}/gw-1")).await.is_none().then_some(())
    })
    .await;
    one.until_gone("ConfigMap/later").await;
    one.until("ConfigMap/own", "to be left alone", has_data("edge")).await;
    drop(below.folder);
}

/// Two gateways of one site are one cluster: what is for all is on both, what has replicas is divided.
#[tokio::test]
async fn the_gateways_of_a_site_share_what_their_one_cluster_gets() {
    daemon::tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(&folder.path().join("hub"), &["--heartbeat", "1s"]).await;
    let mut edges = Vec::new();
    for node in ["gw-1", "gw-2"] {
        let own = folder.path().join(node);
        let token = hub.token(&["--node", node]).await;
        Edge::join_with(&own, node, &token, &["--site", "hall-7"]).await.good();
        edges.push(Edge::start(&own, node).await);
    }
    let summary = |c: &Value| c["status"]["nodeSummary"].clone();
    eventually("one Cluster of two gateways", async || {
        let cluster = tests::get(&hub.api, &format!("{CLUSTERS}/hall-7")).await?;
        (summary(&cluster)["totalNum"] == 2).then_some(())
    })
    .await;
    for node in ["gw-1", "gw-2"] {
        assert!(
            tests::get(&hub.api, &format!("{CLUSTERS}/{node}")).await.is_none(),
            "{node}"
        );
    }
    let above = Objects(hub.api.clone());
    above.create(&config_map("settings", "1")).await;
    above.create(&deployment("web", 3, web())).await;
    for (version, kind, name) in [("v1", "ConfigMap", "settings"), ("apps/v1", "Deployment", "web")] {
        let policy = json!({
            "apiVersion": "policy.karmada.io/v1alpha1", "kind": "PropagationPolicy", "metadata": {"name": name},
            "spec": {
                "resourceSelectors": [{"apiVersion": version, "kind": kind, "name": name}],
                "placement": {"clusterAffinity": {"clusterNames": ["hall-7"]}},
            },
        });
        let path = "/apis/policy.karmada.io/v1alpha1/namespaces/default/propagationpolicies";
        above.0.json(Method::POST, path, Some(&policy)).await.unwrap();
    }
    let mut shares = Vec::new();
    for edge in &edges {
        let at = Objects(edge.api().await);
        at.until("ConfigMap/settings", "to be there", has_data("1")).await;
        let share = at
            .until("Deployment/web", "to have its share", |d| {
                d["spec"]["replicas"].is_i64()
            })
            .await;
        shares.push(share["spec"]["replicas"].as_i64().unwrap());
    }
    shares.sort_unstable();
    assert_eq!(shares, [1, 2]);
    let applied = async || {
        let list = tests::get(&hub.api, &format!("{WORKS}/karmada-es-hall-7/works")).await?;
        let works = list["items"].as_array()?;
        (works.len() == 2 && works.iter().all(|w| self::applied(w).0 == "True")).then_some(())
    };
    eventually("both Works to be applied, in one word", applied).await;
    above.delete("Deployment/web").await;
    above.until_gone("Deployment/web").await;
    for edge in &edges {
        Objects(edge.api().await).until_gone("Deployment/web").await;
    }
}
