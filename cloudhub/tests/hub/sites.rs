//! Gateways that stand behind one Cluster. The test plays the control plane above: it takes Clusters in, and writes Works.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloudhub::Config;
use http::Method;
use serde_json::{Value, json};

use crate::gateway::{Enrolled, Gateway, Kept, enrol};
use crate::world::{EDGE_NODES, World, eventually};

const CLUSTERS: &str = "/apis/cluster.karmada.io/v1alpha1/clusters";
const SPACE: &str = "/apis/work.karmada.io/v1alpha1/namespaces/karmada-es-hall-7/works";

struct Member {
    enrolled: Enrolled,
    kept: Arc<Mutex<Kept>>,
    gateway: Option<Gateway>,
}

fn key(work: &str) -> String {
    format!("work.karmada.io/works/karmada-es-hall-7/{work}")
}

impl Member {
    async fn join(world: &World, node: &str, site: Option<&str>) -> Self {
        let labels = site.map(|site| json!({"kurator.dev/site": site, "region": "east"}));
        let token = world.admin.token(json!({"labels": labels.unwrap_or(json!({}))})).await;
        let mut member = Self {
            enrolled: enrol(&token, node).await.unwrap(),
            kept: Arc::default(),
            gateway: None,
        };
        member.come().await;
        member.describe("2").await;
        member
    }

    async fn come(&mut self) {
        self.gateway = Some(Gateway::online(&self.enrolled, &self.kept).await);
    }

    async fn go(&mut self) {
        self.gateway.take().unwrap().leave().await;
    }

    fn gateway(&self) -> &Gateway {
        self.gateway.as_ref().unwrap()
    }

    fn node(&self) -> &str {
        &self.enrolled.node
    }

    async fn describe(&self, cpu: &str) {
        let report = json!({
            "kubernetesVersion": "v1.33.0", "apiEnablements": [{"groupVersion": "v1", "resources": [{"name": "pods", "kind": "Pod"}]}],
            "resourceSummary": {"allocatable": {"cpu": cpu, "pods": "110"}, "allocated": {"cpu": "100m"}},
        });
        let key = format!("cluster.karmada.io/clusters//{}", self.node());
        self.gateway().report(&key, &report).await;
    }

    fn work(&self, work: &str) -> Option<Value> {
        self.kept.lock().unwrap().desired.get(&key(work)).cloned()
    }

    fn manifests(&self, work: &str) -> Vec<Value> {
        let work = self.work(work);
        work.and_then(|work| work.pointer("/spec/workload/manifests")?.as_array().cloned())
            .unwrap_or_default()
    }

    fn kinds(&self, work: &str) -> Vec<String> {
        let kinds = self.manifests(work);
        kinds.iter().map(|m| m["kind"].as_str().unwrap().to_owned()).collect()
    }

    fn replicas(&self, work: &str) -> i64 {
        let all = self.manifests(work);
        let deployment = all.iter().find(|m| m["kind"] == "Deployment");
        deployment.map_or(0, |m| m["spec"]["replicas"].as_i64().unwrap())
    }

    /// Does what a gateway does with what it got.
    async fn apply(&self, work: &str) {
        let state = |(at, manifest): (usize, &Value)| {
            let text = manifest["apiVersion"].as_str().unwrap();
            let (group, version) = text.split_once('/').unwrap_or(("", text));
            let mut identifier = json!({"ordinal": at, "version": version, "kind": manifest["kind"], "resource": "",
                "namespace": manifest["metadata"]["namespace"], "name": manifest["metadata"]["name"]});
            if !group.is_empty() {
                identifier["group"] = group.into();
            }
            let mut state = json!({"identifier": identifier, "health": "Healthy"});
            if let Some(replicas) = manifest["spec"]["replicas"].as_i64() {
                state["status"] = json!({"replicas": replicas, "readyReplicas": replicas, "generation": 1,
                    "observedGeneration": 1, "resourceTemplateGeneration": 1});
            }
            if manifest["kind"] == "DaemonSet" {
                state["status"] = json!({"currentNumberScheduled": 1, "desiredNumberScheduled": 1, "numberMisscheduled": 0,
                    "numberReady": 1, "generation": 1, "observedGeneration": 1, "resourceTemplateGeneration": 1});
            }
            state
        };
        let states: Vec<Value> = self.manifests(work).iter().enumerate().map(state).collect();
        let report = json!({
            "applied": {"status": "True", "reason": "AppliedSuccessful", "message": "Manifest has been successfully applied"},
            "manifestStatuses": states,
        });
        self.gateway().report(&key(work), &report).await;
    }

    async fn until_gone(&self, work: &str) {
        eventually("the Work to leave the gateway", async || {
            self.work(work).is_none().then_some(())
        })
        .await;
    }
}

fn config_map() -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "fx"}})
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "fx"},
        "spec": {"replicas": 7, "template": {"spec": {"containers": []}}}})
}

fn daemon_set() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d", "namespace": "fx"}})
}

async fn write(world: &World, name: &str, manifests: Value) {
    let work = json!({
        "apiVersion": "work.karmada.io/v1alpha1", "kind": "Work",
        "metadata": {"name": name, "namespace": "karmada-es-hall-7", "finalizers": ["karmada.io/execution-controller"]},
        "spec": {"workload": {"manifests": manifests}},
    });
    world.admin.post(SPACE, &work).await.unwrap();
}

async fn cluster(world: &World, name: &str) -> Option<Value> {
    world.admin.get(&format!("{CLUSTERS}/{name}")).await.ok()
}

/// Takes a Cluster in, as Karmada does.
async fn take_in(world: &World, name: &str) {
    eventually(&format!("the Cluster {name}"), async || cluster(world, name).await).await;
    let finalizer = json!({"metadata": {"finalizers": ["karmada.io/cluster-controller"]}});
    world
        .admin
        .merge(&format!("{CLUSTERS}/{name}"), &finalizer)
        .await
        .unwrap();
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("karmada-es-{name}")}});
    match world.admin.post("/api/v1/namespaces", &space).await {
        Ok(_) | Err((409, _)) => {}
        Err(e) => panic!("{e:?}"),
    }
}

async fn let_go(world: &World, name: &str) {
    eventually(&format!("the deletion of {name}"), async || {
        let cluster = cluster(world, name).await?;
        cluster["metadata"]["deletionTimestamp"].is_string().then_some(())
    })
    .await;
    let none = json!({"metadata": {"finalizers": null}});
    world.admin.merge(&format!("{CLUSTERS}/{name}"), &none).await.unwrap();
}

async fn until_status(world: &World, work: &str, what: &str, check: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || {
        let work = world.admin.get(&format!("{SPACE}/{work}")).await.ok()?;
        check(&work["status"]).then_some(work)
    })
    .await
}

fn applied(status: &Value) -> &Value {
    let all = status["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter().find(|c| c["type"] == "Applied").unwrap_or(&Value::Null)
}

fn ready(status: &Value) -> &Value {
    let all = status["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter()
        .find(|c| c["type"] == "Ready")
        .map_or(&Value::Null, |c| &c["status"])
}

async fn start(after: Option<&str>) -> (World, Vec<Member>) {
    let change = |config: &mut Config| config.upstream.reschedule_after = after.map(|text| text.parse().unwrap());
    let world = World::start_with(change).await;
    let mut members = Vec::new();
    for node in ["gw-1", "gw-2", "gw-3"] {
        members.push(Member::join(&world, node, Some("hall-7")).await);
    }
    take_in(&world, "hall-7").await;
    (world, members)
}

async fn until_divided(members: &[&Member], work: &str, total: i64) -> BTreeMap<String, i64> {
    eventually(&format!("{total} replicas of {work}"), async || {
        let shares: BTreeMap<_, _> = members
            .iter()
            .map(|m| (m.node().to_owned(), m.replicas(work)))
            .collect();
        (shares.values().sum::<i64>() == total && shares.values().all(|n| *n >= total / 3)).then_some(shares)
    })
    .await
}

#[tokio::test]
async fn a_site_is_one_cluster_and_its_gateways_have_none() {
    let (world, members) = start(None).await;
    let told = eventually("the site's status", async || {
        let cluster = cluster(&world, "hall-7").await?;
        (cluster["status"]["resourceSummary"]["allocatable"]["cpu"] == "6" && ready(&cluster["status"]) == "True")
            .then_some(cluster)
    })
    .await;
    assert_eq!(told["metadata"]["annotations"]["kurator.dev/site"], "hall-7");
    assert_eq!(told["metadata"]["labels"]["kurator.dev/site"], "hall-7");
    assert_eq!(told["metadata"]["labels"]["shelf"], "3");
    assert_eq!(
        (&told["spec"]["region"], &told["spec"]["syncMode"]),
        (&json!("east"), &json!("Pull"))
    );
    assert_eq!(told["spec"]["id"], "spiffe://kurator.local/site/hall-7");
    let status = &told["status"];
    assert_eq!(status["nodeSummary"]["totalNum"], 3);
    assert_eq!(status["resourceSummary"]["allocated"]["cpu"], "300m");
    assert_eq!(status["kubernetesVersion"], "v1.33.0");
    assert_eq!(status["apiEnablements"][0]["resources"][0]["kind"], "Pod");
    eventually("all of them to be ready", async || {
        let cluster = cluster(&world, "hall-7").await?;
        (cluster["status"]["nodeSummary"]["readyNum"] == 3).then_some(())
    })
    .await;
    let all = world.admin.get(CLUSTERS).await.unwrap();
    assert_eq!(all["items"].as_array().unwrap().len(), 1);
    // The name is taken.
    let other = Member::join(&world, "hall-7", None).await;
    let refused = eventually("the refusal", async || {
        other
            .kept
            .lock()
            .unwrap()
            .refused
            .get("cluster.karmada.io/clusters//hall-7")
            .cloned()
    })
    .await;
    assert!(refused.contains("does not stand for this gateway"), "{refused}");
    drop(members);
}

#[tokio::test]
async fn a_site_has_its_name_when_it_is_free() {
    let world = World::start().await;
    let _gateway = Member::join(&world, "yard", None).await;
    take_in(&world, "yard").await;
    let mut member = Member::join(&world, "gw-1", Some("yard")).await;
    eventually("the refusal", async || {
        member.describe(&fastrand::u32(1..1000).to_string()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let refused = member
            .kept
            .lock()
            .unwrap()
            .refused
            .get("cluster.karmada.io/clusters//gw-1")
            .cloned()?;
        refused.contains("does not stand for site yard").then_some(())
    })
    .await;
    member.describe("8").await;
    world.admin.delete(&format!("{CLUSTERS}/yard")).await.unwrap();
    let_go(&world, "yard").await;
    take_in(&world, "yard").await;
    eventually("the yard's room", async || {
        let yard = cluster(&world, "yard").await?;
        (yard["status"]["resourceSummary"]["allocatable"]["cpu"] == "8").then_some(())
    })
    .await;
    // It is gone for good when its last member is thrown out.
    member.go().await;
    world
        .admin
        .post("/kurator/v1/nodes/gw-1/revoke", &json!({}))
        .await
        .unwrap();
    let_go(&world, "yard").await;
}

#[tokio::test]
async fn a_work_is_divided_and_its_status_is_one() {
    let (world, members) = start(None).await;
    let all: Vec<&Member> = members.iter().collect();
    write(&world, "all", json!([config_map(), deployment(), daemon_set()])).await;
    write(&world, "map", json!([config_map()])).await;
    write(&world, "web", json!([deployment()])).await;
    let shares = until_divided(&all, "all", 7).await;
    until_divided(&all, "web", 7).await;
    for member in &members {
        assert_eq!(member.kinds("all"), ["ConfigMap", "Deployment", "DaemonSet"]);
        eventually("the map", async || member.work("map")).await;
    }
    let mut counts: Vec<i64> = shares.values().copied().collect();
    counts.sort_unstable();
    assert_eq!(counts, [2, 2, 3]);

    // Nothing is written before all have spoken.
    members[0].apply("all").await;
    members[1].apply("all").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let half = world.admin.get(&format!("{SPACE}/all")).await.unwrap();
    assert_eq!(half["status"]["manifestStatuses"], Value::Null);
    members[2].apply("all").await;
    let whole = until_status(&world, "all", "the sum", |s| {
        s["manifestStatuses"][1]["status"]["readyReplicas"] == 7
    })
    .await;
    assert_eq!(applied(&whole["status"])["status"], "True");
    assert_eq!(whole["status"]["manifestStatuses"][0]["health"], "Healthy");
    assert_eq!(
        whole["status"]["manifestStatuses"][1]["status"]["observedGeneration"],
        1
    );
    assert_eq!(whole["status"]["manifestStatuses"][2]["status"]["numberReady"], 3);
    assert_eq!(whole["status"]["manifestStatuses"][2]["identifier"]["ordinal"], 2);
    let failed = json!({"applied": {"status": "False", "reason": "AppliedFailed", "message": "no room"}});
    members[1].gateway().report(&key("all"), &failed).await;
    let bad = until_status(&world, "all", "the failure", |s| applied(s)["status"] == "False").await;
    assert_eq!(
        applied(&bad["status"])["message"],
        "Failed to apply all manifests (2/3): gw-2: no room"
    );
    members[1].apply("all").await;
    until_status(&world, "all", "the repair", |s| applied(s)["status"] == "True").await;
    for member in &members {
        world.admin.until_in_sync(member.node()).await;
    }
    // Somebody writes over it.
    let lie = json!({"status": {"manifestStatuses": []}});
    world
        .admin
        .ask(
            Method::PATCH,
            &format!("{SPACE}/all/status"),
            "application/merge-patch+json",
            Some(&lie),
        )
        .await
        .unwrap();
    until_status(&world, "all", "the sum again", |s| {
        s["manifestStatuses"][1]["status"]["readyReplicas"] == 7
    })
    .await;
}

#[tokio::test]
async fn a_member_that_is_away_keeps_its_share_and_holds_up_a_deletion() {
    let (world, mut members) = start(None).await;
    write(&world, "all", json!([config_map(), deployment()])).await;
    let shares = until_divided(&members.iter().collect::<Vec<_>>(), "all", 7).await;
    for member in &members {
        member.apply("all").await;
    }
    until_status(&world, "all", "the sum", |s| {
        s["manifestStatuses"][1]["status"]["readyReplicas"] == 7
    })
    .await;
    members[2].go().await;
    members[0].apply("all").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(members[0].replicas("all"), shares["gw-1"], "nothing moves");
    let there = world.admin.get(&format!("{SPACE}/all")).await.unwrap();
    assert_eq!(
        there["status"]["manifestStatuses"][1]["status"]["readyReplicas"], 7,
        "it counts with what it said"
    );
    world.admin.delete(&format!("{SPACE}/all")).await.unwrap();
    for member in &members[..2] {
        eventually("the deletion", async || {
            let work = member.work("all")?;
            (work["metadata"]["annotations"]["kurator.dev/deleting"] == "true").then_some(())
        })
        .await;
        member.gateway().report(&key("all"), &json!({"deleted": true})).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(
        world.admin.get(&format!("{SPACE}/all")).await.is_ok(),
        "one may still hold it"
    );
    members[2].come().await;
    let last = &members[2];
    eventually("the deletion", async || {
        let work = last.work("all")?;
        (work["metadata"]["annotations"]["kurator.dev/deleting"] == "true").then_some(())
    })
    .await;
    last.gateway().report(&key("all"), &json!({"deleted": true})).await;
    eventually("the end of it", async || {
        world.admin.get(&format!("{SPACE}/all")).await.err()
    })
    .await;
    for member in &members {
        member.until_gone("all").await;
    }
}

#[tokio::test]
async fn what_can_move_moves_when_a_member_is_away_too_long() {
    let (world, mut members) = start(Some("1s")).await;
    let mut pinned = deployment();
    pinned["spec"]["template"]["metadata"] = json!({"annotations": {"kurator.dev/pinned": "true"}});
    write(&world, "web", json!([deployment()])).await;
    write(&world, "pinned", json!([pinned])).await;
    let before = until_divided(&members.iter().collect::<Vec<_>>(), "web", 7).await;
    let stays = until_divided(&members.iter().collect::<Vec<_>>(), "pinned", 7).await;
    members[2].go().await;
    let after = until_divided(&members.iter().take(2).collect::<Vec<_>>(), "web", 7).await;
    for node in ["gw-1", "gw-2"] {
        assert!(after[node] >= before[node]);
    }
    assert_eq!(members[0].replicas("pinned"), stays["gw-1"]);
    members[2].come().await;
    assert_eq!(
        until_divided(&members.iter().collect::<Vec<_>>(), "web", 7).await,
        before
    );
    // The site's own word counts over the hub's.
    let never = json!({"metadata": {"annotations": {"kurator.dev/reschedule-after": "never"}}});
    world.admin.merge(&format!("{CLUSTERS}/hall-7"), &never).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    members[2].go().await;
    tokio::time::sleep(Duration::from_millis(2000)).await;
    assert_eq!(members[0].replicas("web"), before["gw-1"]);
}

#[tokio::test]
async fn a_gateway_takes_what_it_holds_out_of_a_site_and_into_another() {
    let (world, members) = start(None).await;
    write(&world, "all", json!([config_map(), deployment()])).await;
    until_divided(&members.iter().collect::<Vec<_>>(), "all", 7).await;
    let site = async |node: &str, site: &str| {
        let path = format!("{EDGE_NODES}/{node}");
        world
            .admin
            .merge(&path, &json!({"spec": {"site": site}}))
            .await
            .unwrap();
    };
    eventually("the EdgeNode", async || {
        world.admin.get(&format!("{EDGE_NODES}/gw-3")).await.ok()
    })
    .await;
    site("gw-3", "yard").await;
    members[2].until_gone("all").await;
    until_divided(&members.iter().take(2).collect::<Vec<_>>(), "all", 7).await;
    take_in(&world, "yard").await;
    eventually("the yard's room", async || {
        let yard = cluster(&world, "yard").await?;
        (yard["status"]["resourceSummary"]["allocatable"]["cpu"] == "2").then_some(())
    })
    .await;
    site("gw-3", "hall-7").await;
    until_divided(&members.iter().collect::<Vec<_>>(), "all", 7).await;
    let_go(&world, "yard").await;
    eventually("the end of the yard", async || {
        cluster(&world, "yard").await.is_none().then_some(())
    })
    .await;
    assert!(cluster(&world, "hall-7").await.is_some());
    // One that had a Cluster of its own gives it up, and gets it back.
    let alone = Member::join(&world, "gw-9", None).await;
    take_in(&world, "gw-9").await;
    eventually("the EdgeNode", async || {
        world.admin.get(&format!("{EDGE_NODES}/gw-9")).await.ok()
    })
    .await;
    site("gw-9", "hall-7").await;
    let_go(&world, "gw-9").await;
    eventually("the map in the site", async || alone.work("all")).await;
    eventually("four in the site", async || {
        let hall = cluster(&world, "hall-7").await?;
        (hall["status"]["nodeSummary"]["totalNum"] == 4).then_some(())
    })
    .await;
    site("gw-9", "").await;
    alone.until_gone("all").await;
    take_in(&world, "gw-9").await;
    // Whoever is removed above stays out until it joins again.
    world.admin.delete(&format!("{CLUSTERS}/hall-7")).await.unwrap();
    let_go(&world, "hall-7").await;
    for member in &members {
        member.until_gone("all").await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(cluster(&world, "hall-7").await.is_none());
    let _new = Member::join(&world, "gw-4", Some("hall-7")).await;
    take_in(&world, "hall-7").await;
    eventually("a site of one", async || {
        let hall = cluster(&world, "hall-7").await?;
        (hall["status"]["nodeSummary"]["totalNum"] == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn after_a_restart_of_the_hub_nothing_new_is_said() {
    let (mut world, mut members) = start(None).await;
    write(&world, "all", json!([config_map(), deployment()])).await;
    let shares = until_divided(&members.iter().collect::<Vec<_>>(), "all", 7).await;
    for member in &members {
        member.apply("all").await;
    }
    let before = until_status(&world, "all", "the sum", |s| {
        s["manifestStatuses"][1]["status"]["readyReplicas"] == 7
    })
    .await;
    eventually("the site's status", async || {
        let cluster = cluster(&world, "hall-7").await?;
        (cluster["status"]["resourceSummary"]["allocatable"]["cpu"] == "6"
            && cluster["status"]["nodeSummary"]["readyNum"] == 3)
            .then_some(())
    })
    .await;
    for member in &members {
        world.admin.until_in_sync(member.node()).await;
    }
    let room = cluster(&world, "hall-7").await.unwrap()["status"]["resourceSummary"].clone();
    let received: Vec<usize> = members.iter().map(|m| m.kept.lock().unwrap().received).collect();
    world.stop().await;
    for member in &mut members {
        member.gateway.take().unwrap().ended().await;
    }
    world.start_again().await;
    for member in &mut members {
        member.come().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = world.admin.get(&format!("{SPACE}/all")).await.unwrap();
        assert_eq!(now["status"], before["status"]);
        assert_eq!(
            cluster(&world, "hall-7").await.unwrap()["status"]["resourceSummary"],
            room
        );
    }
    for (member, received) in members.iter().zip(received) {
        world.admin.until_in_sync(member.node()).await;
        assert_eq!(member.replicas("all"), shares[member.node()]);
        assert_eq!(
            member.kept.lock().unwrap().received,
            received,
            "nobody gets anything again"
        );
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = world.admin.get(&format!("{SPACE}/all")).await.unwrap();
    assert_eq!(
        after["metadata"]["resourceVersion"],
        before["metadata"]["resourceVersion"]
    );
    // And what is new is said.
    let mut two = json!({"spec": {"workload": {"manifests": [config_map(), deployment()]}}});
    two["spec"]["workload"]["manifests"][1]["spec"]["replicas"] = 9.into();
    world.admin.merge(&format!("{SPACE}/all"), &two).await.unwrap();
    until_divided(&members.iter().collect::<Vec<_>>(), "all", 9).await;
    for member in &members {
        member.apply("all").await;
    }
    until_status(&world, "all", "the new sum", |s| {
        s["manifestStatuses"][1]["status"]["readyReplicas"] == 9
    })
    .await;
}

#[tokio::test]
async fn who_was_away_too_long_is_so_for_the_next_hub_too() {
    let (mut world, mut members) = start(Some("1s")).await;
    write(&world, "web", json!([deployment()])).await;
    until_divided(&members.iter().collect::<Vec<_>>(), "web", 7).await;
    members[2].go().await;
    let two = until_divided(&members.iter().take(2).collect::<Vec<_>>(), "web", 7).await;
    eventually("the EdgeNode to say that it is away", async || {
        let gateway = world.admin.get(&format!("{EDGE_NODES}/gw-3")).await.ok()?;
        (gateway["status"]["connected"] == false).then_some(())
    })
    .await;
    for member in &members[..2] {
        world.admin.until_in_sync(member.node()).await;
    }
    let received: Vec<usize> = members.iter().map(|m| m.kept.lock().unwrap().received).collect();
    world.stop().await;
    for member in &mut members[..2] {
        member.gateway.take().unwrap().ended().await;
    }
    // It is not long away by the clock of the hub that starts now, but it is by its own record.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    world.start_again().await;
    for member in &mut members[..2] {
        member.come().await;
    }
    for (member, received) in members[..2].iter().zip(received) {
        world.admin.until_in_sync(member.node()).await;
        assert_eq!(member.replicas("web"), two[member.node()]);
        assert_eq!(member.kept.lock().unwrap().received, received);
    }
    members[2].come().await;
    until_divided(&members.iter().collect::<Vec<_>>(), "web", 7).await;
}
