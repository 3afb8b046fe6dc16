//! Policies, bindings and Works where no Karmada stands above: from a manifest as people write it to replicas at gateways and their sum.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use serde_json::{Value, json};

use crate::gateway::{Enrolled, Gateway, enrol};
use crate::world::{World, eventually};

const CLUSTERS: &str = "/apis/cluster.karmada.io/v1alpha1/clusters";
const POLICIES: &str = "/apis/policy.karmada.io/v1alpha1/namespaces/default/propagationpolicies";
const CLUSTER_POLICIES: &str = "/apis/policy.karmada.io/v1alpha1/clusterpropagationpolicies";
const OVERRIDES: &str = "/apis/policy.karmada.io/v1alpha1/namespaces/default/overridepolicies";
const BINDINGS: &str = "/apis/work.karmada.io/v1alpha2/namespaces/default/resourcebindings";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const FEDERATED: &str = "/apis/apps.kurator.dev/v1alpha1/namespaces/default/federateddeployments";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";

const NGINX: &str = include_str!("../../../tests/manifests/nginx-propagation.yaml");
const WEIGHTED: &str = include_str!("../../../tests/manifests/frontend-app-weighted.yaml");
const FEDERATED_FRONTEND: &str = include_str!("../../../tests/manifests/frontend-federateddeployment.yaml");

/// A gateway that takes every Work it gets at its word.
struct Site {
    name: String,
    gateway: Arc<Gateway>,
    agent: tokio::task::JoinHandle<()>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.agent.abort();
    }
}

fn enablements() -> Value {
    let kinds = |of: &[(&str, &str)]| -> Value {
        of.iter()
            .map(|(name, kind)| json!({"name": name, "kind": kind}))
            .collect()
    };
    json!([
        {"groupVersion": "v1", "resources": kinds(&[("configmaps", "ConfigMap"), ("secrets", "Secret"), ("services", "Service"), ("serviceaccounts", "ServiceAccount")])},
        {"groupVersion": "apps/v1", "resources": kinds(&[("deployments", "Deployment")])},
        {"groupVersion": "batch/v1", "resources": kinds(&[("jobs", "Job")])},
        {"groupVersion": "rbac.authorization.k8s.io/v1", "resources": kinds(&[("clusterroles", "ClusterRole")])},
    ])
}

fn facts() -> Value {
    json!({"kubernetesVersion": "v1.33.0", "apiEnablements": enablements(),
        "resourceSummary": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}})
}

/// What such a gateway says of a Work.
fn report(work: &Value) -> Value {
    if work["metadata"]["annotations"]["kurator.dev/deleting"] == "true" {
        return json!({"deleted": true});
    }
    if work["spec"]["suspendDispatching"] == true {
        return json!({});
    }
    let manifest = &work["spec"]["workload"]["manifests"][0];
    let (group, version) = match manifest["apiVersion"].as_str().unwrap().split_once('/') {
        Some((group, version)) => (group, version),
        None => ("", manifest["apiVersion"].as_str().unwrap()),
    };
    let mut identifier = json!({"ordinal": 0, "version": version, "kind": manifest["kind"], "resource": "",
        "name": manifest["metadata"]["name"]});
    if !group.is_empty() {
        identifier["group"] = group.into();
    }
    if let Some(namespace) = manifest["metadata"].get("namespace") {
        identifier["namespace"] = namespace.clone();
    }
    let mut said = json!({"identifier": identifier, "health": "Healthy"});
    if manifest["kind"] == "Deployment" {
        let replicas = &manifest["spec"]["replicas"];
        let generation = manifest["metadata"]["annotations"]["resourcetemplate.karmada.io/generation"]
            .as_str()
            .unwrap();
        let generation: i64 = generation.parse().unwrap();
        said["status"] = json!({"generation": generation, "observedGeneration": generation, "resourceTemplateGeneration": generation,
            "replicas": replicas, "readyReplicas": replicas, "updatedReplicas": replicas, "availableReplicas": replicas});
    }
    json!({
        "applied": {"status": "True", "reason": "AppliedSuccessful", "message": "Manifest has been successfully applied"},
        "manifestStatuses": [said],
    })
}

impl Site {
    async fn join(world: &World, name: &str, labels: Value) -> Self {
        let token = world.admin.token(json!({"labels": labels})).await;
        let enrolled = enrol(&token, name).await.unwrap();
        Self::online(enrolled).await
    }

    async fn online(enrolled: Enrolled) -> Self {
        let gateway = Arc::new(Gateway::online(&enrolled, &Arc::default()).await);
        let name = enrolled.node.clone();
        gateway
            .report(&format!("cluster.karmada.io/clusters//{name}"), &facts())
            .await;
        let agent = tokio::spawn(answer(Arc::clone(&gateway)));
        Self { name, gateway, agent }
    }

    /// The Work for an object, as the gateway has it.
    fn work(&self, kind: &str, name: &str) -> Option<Value> {
        let kept = self.gateway.kept.lock().unwrap();
        let works = kept
            .desired
            .iter()
            .filter(|(key, _)| key.starts_with("work.karmada.io/works/"));
        let is = |work: &Value| {
            let manifest = &work["spec"]["workload"]["manifests"][0];
            manifest["kind"] == kind && manifest["metadata"]["name"] == name
        };
        works.map(|(_, work)| work).find(|work| is(work)).cloned()
    }

    async fn until(&self, kind: &str, name: &str, what: &str, check: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("{}: {what}", self.name), async || {
            let work = self.work(kind, name)?;
            check(&work["spec"]["workload"]["manifests"][0]).then_some(work)
        })
        .await
    }

    async fn until_gone(&self, kind: &str, name: &str) {
        eventually(&format!("{}: the end of {kind} {name}", self.name), async || {
            self.work(kind, name).is_none().then_some(())
        })
        .await;
    }
}

/// Answers each Work once for each body of it.
async fn answer(gateway: Arc<Gateway>) {
    let mut told: BTreeMap<String, Value> = BTreeMap::new();
    loop {
        let works: BTreeMap<String, Value> = {
            let kept = gateway.kept.lock().unwrap();
            let works = kept
                .desired
                .iter()
                .filter(|(key, _)| key.starts_with("work.karmada.io/works/"));
            works.map(|(key, work)| (key.clone(), report(work))).collect()
        };
        for key in told.keys().filter(|key| !works.contains_key(*key)) {
            gateway.unreport(key).await;
        }
        for (key, body) in works.iter().filter(|(key, body)| told.get(*key) != Some(*body)) {
            gateway.report(key, body).await;
        }
        told = works;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

fn documents(text: &str) -> Vec<Value> {
    text.split("\n---\n")
        .map(|document| metastore::api::read_yaml(document.as_bytes()).unwrap())
        .collect()
}

fn deployment(name: &str, replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "image": "registry.example/web:1"}]},
        }},
    })
}

fn policy(name: &str, kind: &str, placement: Value) -> Value {
    let api_version = match kind {
        "Deployment" => "apps/v1",
        "Job" => "batch/v1",
        _ => "v1",
    };
    json!({
        "apiVersion": "policy.karmada.io/v1alpha1", "kind": "PropagationPolicy", "metadata": {"name": name},
        "spec": {"resourceSelectors": [{"apiVersion": api_version, "kind": kind}], "placement": placement},
    })
}

/// Sends a body as kubectl would; the answer, and what it would print.
async fn apply(world: &World, path: &str, body: &Value) -> (Value, Vec<String>) {
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("content-type", "application/json")
        .body(kube::client::Body::from(body.to_string().into_bytes()))
        .unwrap();
    let response = world.admin.0.send(request).await.unwrap();
    let warnings = response.headers().get_all("warning").iter();
    let warnings = warnings.map(|w| w.to_str().unwrap().to_owned()).collect();
    let status = response.status();
    let body = http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap()
        .to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert!(status.is_success(), "{body}");
    (body, warnings)
}

async fn until(world: &World, path: &str, what: &str, check: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let found = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            if let Ok(object) = world.admin.get(path).await {
                if check(&object) {
                    return object;
                }
                last = object;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    found.unwrap_or_else(|_| panic!("never came: {what} of {path}: {last:#}"))
}

async fn until_none(world: &World, path: &str) {
    eventually(&format!("the end of {path}"), async || {
        world.admin.get(path).await.err().filter(|(code, _)| *code == 404)
    })
    .await;
}

fn condition<'v>(object: &'v Value, ty: &str) -> Option<&'v Value> {
    object["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|c| c["type"] == ty)
}

fn is_true(object: &Value, ty: &str) -> bool {
    condition(object, ty).is_some_and(|c| c["status"] == "True")
}

#[tokio::test]
async fn a_gateway_that_joins_is_a_cluster_with_room_for_works() {
    let world = World::start().await;
    let site = Site::join(&world, "gw-1", json!({"environment": "production"})).await;
    let cluster = until(&world, &format!("{CLUSTERS}/gw-1"), "readiness", |c| {
        is_true(c, "Ready") && c["spec"].get("taints").is_none() && c["status"]["apiEnablements"].is_array()
    })
    .await;
    assert_eq!(
        cluster["metadata"]["finalizers"],
        json!(["karmada.io/cluster-controller"])
    );
    assert_eq!(cluster["metadata"]["labels"]["environment"], "production");
    let room = world.admin.get("/api/v1/namespaces/karmada-es-gw-1").await.unwrap();
    assert_eq!(room["metadata"]["labels"]["karmada.io/system"], "true");
    drop(site);
}

#[tokio::test]
async fn manifests_as_people_write_them_become_replicas_and_their_sum() {
    let world = World::start().await;
    let east = json!({"environment": "production", "region": "east-china"});
    let none = json!({});
    let mut sites = Vec::new();
    for (name, labels) in [
        ("cluster-beijing", &none),
        ("cluster-shanghai", &east),
        ("cluster-guangzhou", &none),
    ] {
        sites.push(Site::join(&world, name, labels.clone()).await);
    }
    let [beijing, shanghai, guangzhou] = &sites[..] else {
        unreachable!()
    };
    for site in &sites {
        until(&world, &format!("{CLUSTERS}/{}", site.name), "readiness", |c| {
            is_true(c, "Ready")
        })
        .await;
    }

    // The policy first, then what it is about.
    let (nginx, warnings) = apply(&world, POLICIES, &documents(NGINX)[0]).await;
    assert_eq!(warnings, [""; 0]);
    assert_eq!(
        nginx["spec"]["resourceSelectors"][0]["namespace"], "default",
        "a default"
    );
    let id = &nginx["metadata"]["labels"]["propagationpolicy.karmada.io/permanent-id"];
    world.admin.post(DEPLOYMENTS, &deployment("nginx", 2)).await.unwrap();
    for site in [beijing, shanghai, guangzhou] {
        let work = site
            .until("Deployment", "nginx", "all replicas", |m| m["spec"]["replicas"] == 2)
            .await;
        let manifest = &work["spec"]["workload"]["manifests"][0];
        let (labels, notes) = (&manifest["metadata"]["labels"], &manifest["metadata"]["annotations"]);
        assert_eq!(labels["karmada.io/managed"], "true");
        assert_eq!(labels["propagationpolicy.karmada.io/permanent-id"], *id);
        assert_eq!(
            labels["work.karmada.io/permanent-id"],
            work["metadata"]["labels"]["work.karmada.io/permanent-id"]
        );
        assert_eq!(notes["work.karmada.io/conflict-resolution"], "abort");
        assert_eq!(notes["propagationpolicy.karmada.io/name"], "nginx-propagation");
        assert_eq!(
            notes["resourcetemplate.karmada.io/managed-labels"],
            "app,karmada.io/managed,propagationpolicy.karmada.io/permanent-id,resourcebinding.karmada.io/permanent-id,work.karmada.io/permanent-id"
        );
        assert!(manifest.get("status").is_none() && manifest["metadata"].get("uid").is_none());
    }
    let template = until(&world, &format!("{DEPLOYMENTS}/nginx"), "the sum", |d| {
        d["status"]["readyReplicas"] == 6 && d["status"]["observedGeneration"] == d["metadata"]["generation"]
    })
    .await;
    assert_eq!(
        template["metadata"]["annotations"]["propagationpolicy.karmada.io/name"],
        "nginx-propagation"
    );
    let binding = until(&world, &format!("{BINDINGS}/nginx-deployment"), "all applied", |b| {
        is_true(b, "FullyApplied")
    })
    .await;
    assert_eq!(condition(&binding, "Scheduled").unwrap()["reason"], "Success");
    assert_eq!(binding["status"]["aggregatedStatus"].as_array().unwrap().len(), 3);
    assert_eq!(
        binding["spec"]["clusters"][0],
        json!({"name": "cluster-beijing", "replicas": 2})
    );

    // What it is about first, then the policy, in the old spelling.
    world
        .admin
        .post(DEPLOYMENTS, &deployment("frontend", 10))
        .await
        .unwrap();
    let (weighted, warnings) = apply(&world, CLUSTER_POLICIES, &documents(WEIGHTED)[0]).await;
    assert!(warnings.iter().any(|w| w.contains("weightList")), "{warnings:?}");
    assert!(
        warnings.iter().any(|w| w.contains("replicaSchedulingType")),
        "{warnings:?}"
    );
    let scheduling = &weighted["spec"]["placement"]["replicaScheduling"];
    assert_eq!(scheduling["replicaDivisionPreference"], "Weighted");
    // Whose share is named gets it when it joins.
    shanghai
        .until("Deployment", "frontend", "all of it", |m| m["spec"]["replicas"] == 10)
        .await;
    let hangzhou = &Site::join(&world, "cluster-hangzhou", east.clone()).await;
    assert!(hangzhou.work("Deployment", "nginx").is_none());
    shanghai
        .until("Deployment", "frontend", "60 in 100", |m| m["spec"]["replicas"] == 6)
        .await;
    hangzhou
        .until("Deployment", "frontend", "40 in 100", |m| m["spec"]["replicas"] == 4)
        .await;
    let template = until(&world, &format!("{DEPLOYMENTS}/frontend"), "the sum", |d| {
        d["status"]["replicas"] == 10
    })
    .await;
    assert_eq!(
        template["metadata"]["annotations"]["clusterpropagationpolicy.karmada.io/name"],
        "frontend-app"
    );
    assert!(beijing.work("Deployment", "frontend").is_none());

    // Two in one.
    for (document, path) in documents(FEDERATED_FRONTEND).iter().zip([
        FEDERATED,
        "/api/v1/namespaces/default/services",
        "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
    ]) {
        apply(&world, path, document).await;
    }
    beijing
        .until("Deployment", "frontend-app", "its share", |m| {
            m["spec"]["replicas"] == 2
        })
        .await;
    shanghai
        .until("Deployment", "frontend-app", "its share", |m| {
            m["spec"]["replicas"] == 1
        })
        .await;
    let shown = until(&world, &format!("{FEDERATED}/frontend-app"), "its status", |f| {
        f["status"]["readyReplicas"] == 3 && is_true(f, "FullyApplied") && f["status"]["clusters"][1]["applied"] == true
    })
    .await;
    assert!(is_true(&shown, "Accepted") && is_true(&shown, "Ready"));
    assert_eq!(shown["status"]["clusters"][0]["readyReplicas"], 2);
    world.admin.delete(&format!("{FEDERATED}/frontend-app")).await.unwrap();
    for site in [beijing, shanghai] {
        site.until_gone("Deployment", "frontend-app").await;
    }
    until_none(&world, &format!("{POLICIES}/frontend-app")).await;
}

#[tokio::test]
async fn a_start_writes_nothing_when_nothing_changed() {
    let mut world = World::start().await;
    let site = Site::join(&world, "gw-1", json!({})).await;
    world
        .admin
        .post(
            POLICIES,
            &policy(
                "all",
                "Deployment",
                json!({"clusterAffinity": {"clusterNames": ["gw-1"]}}),
            ),
        )
        .await
        .unwrap();
    world.admin.post(DEPLOYMENTS, &deployment("web", 3)).await.unwrap();
    until(&world, &format!("{DEPLOYMENTS}/web"), "the sum", |d| {
        d["status"]["replicas"] == 3
    })
    .await;
    let paths = [
        format!("{DEPLOYMENTS}/web"),
        format!("{BINDINGS}/web-deployment"),
        "/apis/work.karmada.io/v1alpha1/works".to_owned(),
    ];
    let versions = async |world: &World| {
        let mut all = Vec::new();
        for path in &paths {
            let object = world.admin.get(path).await.unwrap();
            let object = object.get("items").map_or(&object, |items| &items[0]);
            all.push(object["metadata"]["resourceVersion"].clone());
        }
        all
    };
    // Until all is quiet.
    let mut before = versions(&world).await;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = versions(&world).await;
        if now == before {
            break;
        }
        before = now;
    }
    drop(site);
    world.stop().await;
    world.start_again().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(versions(&world).await, before);
    // And it goes on from there.
    world
        .admin
        .merge(&format!("{DEPLOYMENTS}/web"), &json!({"spec": {"replicas": 5}}))
        .await
        .unwrap();
    until(&world, &format!("{BINDINGS}/web-deployment"), "the new share", |b| {
        b["spec"]["clusters"][0]["replicas"] == 5
    })
    .await;
}

#[tokio::test]
async fn overrides_and_suspension_are_each_clusters_own() {
    let world = World::start().await;
    let (one, two) = (
        Site::join(&world, "gw-1", json!({"line": "a"})).await,
        Site::join(&world, "gw-2", json!({})).await,
    );
    let image = |m: &Value| {
        m["spec"]["template"]["spec"]["containers"][0]["image"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let mut all = policy("all", "Deployment", json!({}));
    all["spec"]["suspension"] = json!({"dispatchingOnClusters": {"clusterNames": ["gw-2"]}});
    world.admin.post(POLICIES, &all).await.unwrap();
    world.admin.post(DEPLOYMENTS, &deployment("web", 2)).await.unwrap();
    one.until("Deployment", "web", "the image", |m| {
        image(m) == "registry.example/web:1"
    })
    .await;
    let held = two.until("Deployment", "web", "the manifest", |_| true).await;
    assert_eq!(held["spec"]["suspendDispatching"], true);
    until(&world, &format!("{DEPLOYMENTS}/web"), "one cluster's part", |d| {
        d["status"]["replicas"] == 2
    })
    .await;
    let rule = json!({
        "apiVersion": "policy.karmada.io/v1alpha1", "kind": "OverridePolicy", "metadata": {"name": "mirror"},
        "spec": {"resourceSelectors": [{"apiVersion": "apps/v1", "kind": "Deployment"}], "overrideRules": [{
            "targetCluster": {"labelSelector": {"matchLabels": {"line": "a"}}},
            "overriders": {
                "imageOverrider": [{"component": "Registry", "operator": "replace", "value": "mirror.local"}],
                "labelsOverrider": [{"operator": "add", "value": {"site": "a"}}],
            },
        }]},
    });
    world.admin.post(OVERRIDES, &rule).await.unwrap();
    let work = one
        .until("Deployment", "web", "the mirror", |m| image(m) == "mirror.local/web:1")
        .await;
    let manifest = &work["spec"]["workload"]["manifests"][0];
    assert_eq!(manifest["metadata"]["labels"]["site"], "a");
    assert!(
        work["metadata"]["annotations"]["policy.karmada.io/applied-overrides"]
            .as_str()
            .unwrap()
            .contains("mirror")
    );
    assert_eq!(
        image(&two.work("Deployment", "web").unwrap()["spec"]["workload"]["manifests"][0]),
        "registry.example/web:1"
    );
    // One that cannot be applied is said where people look, and changes nothing.
    let mut wrong = rule.clone();
    wrong["metadata"]["name"] = "wrong".into();
    wrong["spec"]["overrideRules"] = json!([{"overriders": {"plaintext": [
        {"path": "/spec/nowhere/at/all", "operator": "replace", "value": 1},
    ]}}]);
    world.admin.post(OVERRIDES, &wrong).await.unwrap();
    let events = until(&world, "/api/v1/namespaces/default/events", "the word on it", |l| {
        l["items"]
            .as_array()
            .is_some_and(|all| all.iter().any(|e| e["reason"] == "ApplyOverridePolicyFailed"))
    })
    .await;
    assert!(events["items"].to_string().contains("OverridePolicy default/wrong"));
    assert!(one.work("Deployment", "web").is_some());
    world.admin.delete(&format!("{OVERRIDES}/wrong")).await.unwrap();
    // Nobody else writes Works.
    let path = format!(
        "/apis/{}",
        work_key(&one).replacen("work.karmada.io/works/", "work.karmada.io/v1alpha1/namespaces/", 1)
    );
    let another = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}});
    let (room, name) = path.rsplit_once('/').unwrap();
    let path = format!("{room}/works/{name}");
    world
        .admin
        .merge(&path, &json!({"spec": {"workload": {"manifests": [another]}}}))
        .await
        .unwrap();
    until(&world, &path, "its manifest again", |w| {
        w["spec"]["workload"]["manifests"][0]["kind"] == "Deployment"
    })
    .await;
    // What was said of one line is said no more, and what was held back goes.
    world.admin.delete(&format!("{OVERRIDES}/mirror")).await.unwrap();
    one.until("Deployment", "web", "its own image again", |m| {
        image(m) == "registry.example/web:1"
    })
    .await;
    world
        .admin
        .merge(&format!("{POLICIES}/all"), &json!({"spec": {"suspension": null}}))
        .await
        .unwrap();
    until(&world, &format!("{DEPLOYMENTS}/web"), "both parts", |d| {
        d["status"]["replicas"] == 4
    })
    .await;
}

#[tokio::test]
async fn what_a_template_refers_to_goes_along_and_comes_back() {
    let world = World::start().await;
    let (one, two) = (
        Site::join(&world, "gw-1", json!({})).await,
        Site::join(&world, "gw-2", json!({})).await,
    );
    let names = |all: &[&str]| json!({"clusterAffinity": {"clusterNames": all}});
    for (name, sites) in [("web", &["gw-1"][..]), ("api", &["gw-2"][..])] {
        let mut its = policy(name, "Deployment", names(sites));
        its["spec"]["resourceSelectors"][0]["name"] = name.into();
        its["spec"]["propagateDeps"] = true.into();
        world.admin.post(POLICIES, &its).await.unwrap();
        let mut app = deployment(name, 1);
        app["spec"]["template"]["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "settings"}}]);
        world.admin.post(DEPLOYMENTS, &app).await.unwrap();
    }
    for site in [&one, &two] {
        eventually("the Deployment", async || {
            ["web", "api"].iter().find_map(|n| site.work("Deployment", n))
        })
        .await;
        assert!(site.work("ConfigMap", "settings").is_none());
    }
    // It appears later than what needs it.
    let settings =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a": "1"}});
    world.admin.post(CONFIG_MAPS, &settings).await.unwrap();
    for site in [&one, &two] {
        site.until("ConfigMap", "settings", "the settings", |m| m["data"]["a"] == "1")
            .await;
    }
    let path = format!("{BINDINGS}/settings-configmap");
    let binding = until(&world, &path, "who needs it", |b| {
        b["spec"]["requiredBy"].as_array().is_some_and(|r| r.len() == 2)
    })
    .await;
    assert!(binding["spec"].get("placement").is_none());
    world
        .admin
        .merge(&format!("{CONFIG_MAPS}/settings"), &json!({"data": {"a": "2"}}))
        .await
        .unwrap();
    one.until("ConfigMap", "settings", "the edit", |m| m["data"]["a"] == "2")
        .await;
    // One needs it no more, then the other goes.
    let none = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "x"}]}}}});
    world.admin.merge(&format!("{DEPLOYMENTS}/web"), &none).await.unwrap();
    one.until_gone("ConfigMap", "settings").await;
    assert!(two.work("ConfigMap", "settings").is_some());
    world.admin.delete(&format!("{DEPLOYMENTS}/api")).await.unwrap();
    two.until_gone("ConfigMap", "settings").await;
    until_none(&world, &path).await;
}

#[tokio::test]
async fn without_its_policy_what_was_sent_stays_and_without_its_template_it_goes() {
    let world = World::start().await;
    let site = Site::join(&world, "gw-1", json!({})).await;
    world
        .admin
        .post(POLICIES, &policy("first", "Deployment", json!({})))
        .await
        .unwrap();
    world.admin.post(DEPLOYMENTS, &deployment("web", 2)).await.unwrap();
    site.until("Deployment", "web", "the replicas", |m| m["spec"]["replicas"] == 2)
        .await;
    let path = format!("{DEPLOYMENTS}/web");
    let id = |d: &Value| {
        d["metadata"]["labels"]
            .get("propagationpolicy.karmada.io/permanent-id")
            .cloned()
    };
    let first = until(&world, &path, "the claim", |d| id(d).is_some()).await;
    world.admin.delete(&format!("{POLICIES}/first")).await.unwrap();
    until(&world, &path, "the end of the claim", |d| id(d).is_none()).await;
    let binding = until(
        &world,
        &format!("{BINDINGS}/web-deployment"),
        "the end of the claim",
        |b| id(b).is_none(),
    )
    .await;
    assert_eq!(binding["spec"]["clusters"][0]["name"], "gw-1");
    assert!(site.work("Deployment", "web").is_some());
    // Another policy of the same name is another policy.
    world
        .admin
        .post(POLICIES, &policy("first", "Deployment", json!({})))
        .await
        .unwrap();
    let again = until(&world, &path, "the new claim", |d| id(d).is_some()).await;
    assert_ne!(id(&again), id(&first));
    // A gateway that does not answer holds it.
    site.agent.abort();
    world.admin.delete(&path).await.unwrap();
    site.gateway
        .until_desired(&work_key(&site), "its end", |w| {
            w["metadata"]["annotations"]["kurator.dev/deleting"] == "true"
        })
        .await;
    assert!(world.admin.get(&format!("{BINDINGS}/web-deployment")).await.is_ok());
    let site = Site {
        name: site.name.clone(),
        agent: tokio::spawn(answer(Arc::clone(&site.gateway))),
        gateway: Arc::clone(&site.gateway),
    };
    site.until_gone("Deployment", "web").await;
    until_none(&world, &format!("{BINDINGS}/web-deployment")).await;
    // And one that is made anew goes out anew.
    world.admin.post(DEPLOYMENTS, &deployment("web", 1)).await.unwrap();
    site.until("Deployment", "web", "the new one", |m| m["spec"]["replicas"] == 1)
        .await;
}

fn work_key(site: &Site) -> String {
    let work = site.work("Deployment", "web").unwrap();
    format!(
        "work.karmada.io/works/{}/{}",
        work["metadata"]["namespace"].as_str().unwrap(),
        work["metadata"]["name"].as_str().unwrap()
    )
}

#[tokio::test]
async fn clusters_come_and_go_and_replicas_follow() {
    let world = World::start().await;
    let one = Site::join(&world, "gw-1", json!({})).await;
    until(&world, &format!("{CLUSTERS}/gw-1"), "readiness", |c| {
        is_true(c, "Ready")
    })
    .await;
    let divided = json!({"replicaScheduling": {"replicaSchedulingType": "Divided", "replicaDivisionPreference": "Weighted"},
        "clusterTolerations": [{"key": "cluster.karmada.io/not-ready", "operator": "Exists"}]});
    world
        .admin
        .post(POLICIES, &policy("divided", "Deployment", divided))
        .await
        .unwrap();
    world
        .admin
        .post(
            POLICIES,
            &policy(
                "everywhere",
                "ConfigMap",
                json!({"clusterTolerations": [{"operator": "Exists"}]}),
            ),
        )
        .await
        .unwrap();
    world.admin.post(DEPLOYMENTS, &deployment("web", 4)).await.unwrap();
    let settings = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}});
    world.admin.post(CONFIG_MAPS, &settings).await.unwrap();
    one.until("Deployment", "web", "all", |m| m["spec"]["replicas"] == 4)
        .await;
    one.until("ConfigMap", "settings", "it", |_| true).await;
    // One that nobody speaks for, made by hand: never Ready, and tolerated.
    let by_hand = json!({"apiVersion": "cluster.karmada.io/v1alpha1", "kind": "Cluster", "metadata": {"name": "by-hand"}, "spec": {"syncMode": "Pull"}});
    world.admin.post(CLUSTERS, &by_hand).await.unwrap();
    until(&world, &format!("{CLUSTERS}/by-hand"), "the taint", |c| {
        c["spec"]["taints"] == json!([{"key": "cluster.karmada.io/not-ready", "effect": "NoSchedule"}])
    })
    .await;
    world
        .admin
        .merge(
            &format!("{CLUSTERS}/by-hand/status"),
            &json!({"status": {"apiEnablements": enablements()}}),
        )
        .await
        .unwrap();
    let works = "/apis/work.karmada.io/v1alpha1/namespaces/karmada-es-by-hand/works";
    until(&world, works, "the settings", |l| {
        l["items"].as_array().is_some_and(|all| all.len() == 1)
    })
    .await;
    // Replicas stay where they are until there is a reason.
    let path = format!("{BINDINGS}/web-deployment");
    let four = world.admin.get(&path).await.unwrap();
    assert_eq!(four["spec"]["clusters"], json!([{"name": "gw-1", "replicas": 4}]));
    world
        .admin
        .merge(&format!("{DEPLOYMENTS}/web"), &json!({"spec": {"replicas": 6}}))
        .await
        .unwrap();
    until(&world, &path, "six", |b| {
        let all = b["spec"]["clusters"].as_array().unwrap();
        all.iter().map(|c| c["replicas"].as_i64().unwrap()).sum::<i64>() == 6
    })
    .await;
    // It goes with what was meant for it: nobody else lets its Works go.
    world.admin.delete(&format!("{CLUSTERS}/by-hand")).await.unwrap();
    until_none(&world, &format!("{CLUSTERS}/by-hand")).await;
    until_none(&world, "/api/v1/namespaces/karmada-es-by-hand").await;
    until(&world, &path, "all in one place", |b| {
        b["spec"]["clusters"] == json!([{"name": "gw-1", "replicas": 6}])
    })
    .await;
    // A gateway's goes when the gateway has cleaned up.
    world.admin.delete(&format!("{CLUSTERS}/gw-1")).await.unwrap();
    until_none(&world, &format!("{CLUSTERS}/gw-1")).await;
    let lost = until(&world, &path, "no place", |b| b["spec"].get("clusters").is_none()).await;
    let said = condition(&lost, "Scheduled").unwrap();
    assert_eq!(
        (&said["status"], &said["reason"]),
        (&json!("False"), &json!("NoClusterFit"))
    );
}

#[tokio::test]
async fn jobs_and_what_is_in_no_namespace_go_out_too() {
    let world = World::start().await;
    let sites = [
        Site::join(&world, "gw-1", json!({})).await,
        Site::join(&world, "gw-2", json!({})).await,
    ];
    for site in &sites {
        until(&world, &format!("{CLUSTERS}/{}", site.name), "readiness", |c| {
            is_true(c, "Ready")
        })
        .await;
    }
    let divided =
        json!({"replicaScheduling": {"replicaSchedulingType": "Divided", "replicaDivisionPreference": "Weighted"}});
    world
        .admin
        .post(POLICIES, &policy("jobs", "Job", divided))
        .await
        .unwrap();
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"},
        "spec": {"parallelism": 4, "completions": 10, "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}},
    });
    world.admin.post(JOBS, &job).await.unwrap();
    for site in &sites {
        let work = site
            .until("Job", "once", "its part", |m| m["spec"]["parallelism"] == 2)
            .await;
        let spec = &work["spec"]["workload"]["manifests"][0]["spec"];
        assert_eq!(spec["completions"], 5);
        assert!(spec["template"]["metadata"]["labels"].get("controller-uid").is_none());
    }
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
    world
        .admin
        .post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role)
        .await
        .unwrap();
    let mut roles = policy("roles", "ClusterRole", json!({}));
    roles["kind"] = "ClusterPropagationPolicy".into();
    roles["spec"]["resourceSelectors"] =
        json!([{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "name": "reader"}]);
    world.admin.post(CLUSTER_POLICIES, &roles).await.unwrap();
    for site in &sites {
        let work = site.until("ClusterRole", "reader", "it", |_| true).await;
        assert_eq!(
            work["metadata"]["annotations"]["clusterresourcebinding.karmada.io/name"],
            "reader-clusterrole"
        );
    }
    let path = "/apis/work.karmada.io/v1alpha2/clusterresourcebindings/reader-clusterrole";
    until(&world, path, "all applied", |b| is_true(b, "FullyApplied")).await;
    // What is wrong with a policy is said by field.
    let mut wrong = policy(
        "wrong",
        "Deployment",
        json!({"clusterAffinity": {}, "clusterAffinities": [{"affinityName": "a"}]}),
    );
    wrong["metadata"]["namespace"] = "default".into();
    let (code, message) = world.admin.post(POLICIES, &wrong).await.unwrap_err();
    assert_eq!(code, 422, "{message}");
    assert!(message.contains("spec.placement"), "{message}");
}

/// Who may override in one namespace has no say in what else reaches a gateway.
#[tokio::test]
async fn an_override_never_makes_an_object_another_one() {
    let world = World::start().await;
    let one = Site::join(&world, "gw-1", json!({})).await;
    let mut number = 0;
    for (path, value) in [
        (
            "",
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "web", "namespace": "default"}}),
        ),
        ("/kind", json!("ReplicaSet")),
        ("/metadata/namespace", json!("kube-system")),
        ("/metadata/name", json!("other")),
        ("/apiVersion", json!("apps/v1beta1")),
    ] {
        number += 1;
        let name = format!("web-{number}");
        let rule = json!({
            "apiVersion": "policy.karmada.io/v1alpha1", "kind": "OverridePolicy", "metadata": {"name": name},
            "spec": {
                "resourceSelectors": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": name}],
                "overrideRules": [{"overriders": {"plaintext": [{"path": path, "operator": "replace", "value": value}]}}],
            },
        });
        world.admin.post(OVERRIDES, &rule).await.unwrap();
        world.admin.post(DEPLOYMENTS, &deployment(&name, 1)).await.unwrap();
    }
    world
        .admin
        .post(POLICIES, &policy("all", "Deployment", json!({})))
        .await
        .unwrap();
    world.admin.post(DEPLOYMENTS, &deployment("plain", 1)).await.unwrap();
    one.until("Deployment", "plain", "the manifest", |_| true).await;
    eventually("each to be told of", async || {
        let events = world.admin.get("/api/v1/namespaces/default/events").await.ok()?;
        let told = events["items"]
            .as_array()?
            .iter()
            .filter(|e| e["reason"] == "ApplyOverridePolicyFailed")
            .count();
        (told >= number).then_some(())
    })
    .await;
    let works = world
        .admin
        .get("/apis/work.karmada.io/v1alpha1/namespaces/karmada-es-gw-1/works")
        .await
        .unwrap();
    assert_eq!(works["items"].as_array().unwrap().len(), 1, "{works}");
}
