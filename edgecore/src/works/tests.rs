//! The task against the API, with Works as Karmada made them and what its own agent said of them.

mod stage;

use std::time::Duration;

use federation::names;
use serde_json::{Value, json};

use self::stage::{NODE, SPACE, Stage, carrying, cluster_scoped, config, deleting, key_of, recorded, work};
use crate::objects::{self, IMPLICIT};

const APPLIED: &str =
    r#"{"message":"Manifest has been successfully applied","reason":"AppliedSuccessful","status":"True"}"#;

fn applied() -> Value {
    serde_json::from_str(APPLIED).unwrap()
}

fn message(told: &Value) -> &str {
    told["applied"]["message"].as_str().unwrap()
}

#[tokio::test]
async fn what_karmada_sends_is_applied_and_told_as_its_own_agent_does() {
    let mut stage = Stage::new().await;
    // Secrets and accounts first, or the pod waits for its account as it would anywhere.
    let files = [
        "serviceaccount-web-sa",
        "configmap-web-config",
        "secret-web-secret",
        "service-web",
        "deployment-web",
        "daemonset-agentd",
        "statefulset-db",
        "job-once",
    ];
    for file in files {
        let work = work(file);
        stage.bring(&work).await;
        let told = stage.told(&work);
        assert_eq!(told["applied"], applied(), "{file}: {told}");
        let (states, agents) = (
            &told["manifestStatuses"],
            &recorded(&format!("work-{file}.json"))["status"]["manifestStatuses"],
        );
        assert_eq!(states[0]["identifier"], agents[0]["identifier"], "{file}");
        if ["ConfigMap", "Secret", "Service", "ServiceAccount"]
            .contains(&states[0]["identifier"]["kind"].as_str().unwrap())
        {
            assert_eq!(states, agents, "{file}");
        }
        let manifest = &work["spec"]["workload"]["manifests"][0];
        assert_eq!(
            stage.account(&work).unwrap()["manifests"][0]["name"],
            manifest["metadata"]["name"]
        );
    }
    // A controller's word travels in the form that Karmada sums up.
    let (web, mut recorded) = (work("deployment-web"), recorded("work-deployment-web.json"));
    let status = json!({"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2, "observedGeneration": 1,
        "conditions": []});
    stage.state("apps", "deployments", "web", status).await;
    stage.pass(500).await;
    assert_eq!(
        stage.told(&web)["manifestStatuses"],
        recorded["status"]["manifestStatuses"].take()
    );
}

#[tokio::test]
async fn namespaces_are_made_for_what_is_in_them_and_left_to_the_work_that_brings_them() {
    let mut stage = Stage::new().await;
    stage.bring(&work("configmap-web-config")).await;
    let made = stage.get("", "namespaces", "fx").unwrap();
    assert_eq!(made["metadata"]["annotations"][IMPLICIT], "true");
    assert!(stage.store.get(&objects::namespace_key(SPACE)).unwrap().is_some());
    let namespace = cluster_scoped("fx-");
    stage.bring(&namespace).await;
    assert_eq!(stage.told(&namespace)["applied"], applied());
    let adopted = stage.get("", "namespaces", "fx").unwrap();
    assert_eq!(adopted["metadata"]["uid"], made["metadata"]["uid"]);
    assert_eq!(adopted["metadata"]["labels"][names::MANAGED], "true");
    assert_eq!(adopted["metadata"]["annotations"].get(IMPLICIT), None);
}

#[tokio::test]
async fn what_is_not_karmadas_stays_unless_it_is_to_be_overwritten() {
    let mut stage = Stage::new().await;
    stage
        .create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "fx"}}))
        .await;
    let own = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "fx", "name": "clash"}, "data": {"owner": "ann"}});
    stage.create(own).await;
    let clash = work("applied-false-conflict");
    stage.bring(&clash).await;
    let agents = recorded("work-applied-false-conflict.json");
    let agents = agents["status"]["conditions"][1]["message"].as_str().unwrap();
    let told = stage.told(&clash);
    assert_eq!((message(&told), &told["applied"]["status"]), (agents, &json!("False")));
    assert_eq!(told.get("manifestStatuses"), None);
    assert_eq!(stage.get("", "configmaps", "clash").unwrap()["data"]["owner"], "ann");
    // Suspended, it may overwrite and does not.
    let mut work = work("suspended");
    stage.bring(&work).await;
    assert_eq!(message(&stage.told(&work)), agents);
    assert_eq!(stage.get("", "configmaps", "clash").unwrap()["data"]["owner"], "ann");
    work["spec"]["suspendDispatching"] = json!(false);
    stage.bring(&work).await;
    assert_eq!(stage.told(&work)["applied"], applied());
    assert_eq!(
        stage.get("", "configmaps", "clash").unwrap()["data"]["owner"],
        "karmada"
    );
    // What goes by itself is a conflict no more, after the pause.
    let other = carrying("other", &[config("free", "1")]);
    stage
        .create(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "fx", "name": "free"}}))
        .await;
    stage.bring(&other).await;
    assert!(message(&stage.told(&other)).contains("already exists in the cluster member1"));
    stage.delete("", "configmaps", "free").await;
    stage.pass(60_000).await;
    assert_eq!(stage.told(&other)["applied"], applied());
}

#[tokio::test]
async fn the_members_own_is_kept_and_what_was_taken_off_above_goes() {
    let mut stage = Stage::new().await;
    let mut service = work("service-web");
    stage.bring(&service).await;
    let given = stage.get("", "services", "web").unwrap();
    stage
        .edit("", "services", "web", |object| {
            object["metadata"]["annotations"]["ann"] = json!("was here")
        })
        .await;
    let manifest = &mut service["spec"]["workload"]["manifests"][0];
    manifest["spec"]["ports"][0]["port"] = json!(81);
    let managed = manifest["metadata"]["annotations"]["resourcetemplate.karmada.io/managed-labels"]
        .as_str()
        .unwrap();
    let managed = managed.replace("karmada.io/managed,", "");
    manifest["metadata"]["annotations"]["resourcetemplate.karmada.io/managed-labels"] = json!(managed);
    stage.bring(&service).await;
    let now = stage.get("", "services", "web").unwrap();
    assert_eq!(stage.told(&service)["applied"], applied());
    assert_eq!(now["spec"]["ports"][0]["port"], 81);
    assert_eq!(now["spec"]["clusterIP"], given["spec"]["clusterIP"]);
    assert_eq!(now["metadata"]["annotations"]["ann"], "was here");
    assert_eq!(now["metadata"]["uid"], given["metadata"]["uid"]);
}

#[tokio::test]
async fn a_suspended_work_is_not_applied_and_its_state_is_told() {
    let mut stage = Stage::new().await;
    let mut web = work("deployment-web");
    stage.bring(&web).await;
    web["spec"]["suspendDispatching"] = json!(true);
    web["spec"]["workload"]["manifests"][0]["spec"]["replicas"] = json!(7);
    stage.bring(&web).await;
    let status = json!({"replicas": 3, "observedGeneration": 1});
    stage.state("apps", "deployments", "web", status).await;
    stage
        .edit("apps", "deployments", "web", |object| {
            object["spec"]["replicas"] = json!(5)
        })
        .await;
    stage.pass(5000).await;
    let deployment = stage.get("apps", "deployments", "web").unwrap();
    assert_eq!(deployment["spec"]["replicas"], 5);
    let told = stage.told(&web);
    assert_eq!(told["applied"], applied());
    assert_eq!(told["manifestStatuses"][0]["status"]["replicas"], 3);
    // From the start: nothing was tried, so nothing is said.
    let mut other = carrying("other", &[config("a", "1")]);
    other["spec"]["suspendDispatching"] = json!(true);
    stage.bring(&other).await;
    assert_eq!(stage.told(&other), Value::Null);
    assert_eq!(stage.get("", "configmaps", "a"), None);
    stage.hub(&key_of(&other), Some(&deleting(&other))).await;
    stage.pass(500).await;
    assert_eq!(stage.told(&other), json!({"deleted": true}));
}

#[tokio::test]
async fn a_deleted_work_takes_its_objects_with_it() {
    let mut stage = Stage::new().await;
    let work = carrying("w", &[config("a", "1"), config("b", "1"), config("c", "1")]);
    stage.bring(&work).await;
    // Somebody took this one over, and something holds that one.
    stage
        .edit("", "configmaps", "b", |object| {
            object["metadata"]["finalizers"] = json!(["example.com/hold"])
        })
        .await;
    let mut gone = deleting(&work);
    gone["spec"]["suspendDispatching"] = json!(true);
    stage.bring(&gone).await;
    assert_eq!(stage.told(&gone)["deleted"], Value::Null);
    assert_eq!(stage.get("", "configmaps", "a"), None);
    assert!(stage.get("", "configmaps", "b").is_some());
    stage
        .edit("", "configmaps", "b", |object| {
            object["metadata"]["finalizers"] = json!([])
        })
        .await;
    stage.pass(500).await;
    assert_eq!(stage.told(&gone)["deleted"], true);
    assert_eq!(stage.account(&work), None);
    // It says so after a restart as well, and no more once it is wanted again.
    stage.restart();
    stage.pass(500).await;
    assert_eq!(stage.told(&gone)["deleted"], true);
    stage.bring(&work).await;
    assert_eq!(stage.told(&work)["deleted"], Value::Null);
    assert!(stage.get("", "configmaps", "a").is_some());
    stage.withdraw(&work).await;
    assert_eq!(stage.get("", "configmaps", "a"), None);
    assert_eq!(stage.account(&work), None);
}

#[tokio::test]
async fn what_is_preserved_becomes_the_gateways_own() {
    let mut stage = Stage::new().await;
    for withdrawn in [false, true] {
        let mut work = work("configmap-web-config");
        work["spec"]["preserveResourcesOnDeletion"] = json!(true);
        stage.bring(&work).await;
        if withdrawn {
            stage.withdraw(&work).await;
        } else {
            stage.bring(&deleting(&work)).await;
            assert_eq!(stage.told(&work)["deleted"], true);
            stage.withdraw(&work).await;
        }
        let kept = stage.get("", "configmaps", "web-config").unwrap();
        assert_eq!(kept["data"], json!({"KEY": "value"}));
        let text = kept.to_string();
        assert!(!text.contains("karmada.io/"), "{text}");
        assert_eq!(stage.account(&work), None);
        stage.delete("", "configmaps", "web-config").await;
    }
}

#[tokio::test]
async fn hands_off_is_said_once_and_then_more_slowly() {
    let mut stage = Stage::new().await;
    let work = carrying("w", &[config("a", "1")]);
    stage.bring(&work).await;
    let value = |stage: &Stage| {
        stage
            .get("", "configmaps", "a")
            .map(|object| object["data"]["key"].clone())
    };
    stage
        .edit("", "configmaps", "a", |object| object["data"]["key"] = json!("mine"))
        .await;
    stage.pass(0).await;
    assert_eq!(value(&stage), Some(json!("1")));
    stage.delete("", "configmaps", "a").await;
    stage.pass(0).await;
    assert_eq!(value(&stage), Some(json!("1")));
    // Also without the marks of where it came from.
    stage
        .edit("", "configmaps", "a", |object| {
            object["metadata"].as_object_mut().unwrap().remove("annotations");
            object["data"]["key"] = json!("mine");
        })
        .await;
    stage.pass(0).await;
    assert_eq!(value(&stage), Some(json!("1")));
    stage
        .edit("", "configmaps", "a", |object| object["data"]["key"] = json!("mine"))
        .await;
    stage.pass(0).await;
    assert_eq!(value(&stage), Some(json!("mine")));
    stage.pass(1000).await;
    assert_eq!(value(&stage), Some(json!("1")));
}

#[tokio::test]
async fn changes_that_were_missed_are_found() {
    let mut stage = Stage::new().await;
    let (one, two) = (
        carrying("one", &[config("a", "1")]),
        carrying("two", &[config("b", "1")]),
    );
    stage.bring(&one).await;
    stage.bring(&two).await;
    stage.delete("", "configmaps", "a").await;
    stage.hub(&key_of(&two), None).await;
    let three = carrying("three", &[config("c", "1")]);
    stage.hub(&key_of(&three), Some(&three)).await;
    stage.miss();
    stage.pass(500).await;
    let there = |name: &str| stage.get("", "configmaps", name).is_some();
    assert_eq!(["a", "b", "c"].map(there), [true, false, true]);
}

#[tokio::test]
async fn leftovers_are_found_by_the_ledger() {
    let mut stage = Stage::new().await;
    let (one, two) = (
        carrying("one", &[config("a", "1"), config("b", "1")]),
        carrying("two", &[config("c", "1")]),
    );
    stage.bring(&one).await;
    stage.bring(&two).await;
    // While nobody looked: one Work went, of the other half.
    stage.hub(&key_of(&two), None).await;
    let half = carrying("one", &[config("b", "1")]);
    stage.hub(&key_of(&one), Some(&half)).await;
    stage.restart();
    stage.pass(500).await;
    let there = |name: &str| stage.get("", "configmaps", name).is_some();
    assert_eq!(["a", "b", "c"].map(there), [false, true, false]);
    assert_eq!(stage.account(&one).unwrap()["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(stage.account(&two), None);
}

#[tokio::test]
async fn killed_at_any_point_nothing_is_forgotten_and_nothing_left_over() {
    let mut stage = Stage::new().await;
    let mut rng = fastrand::Rng::with_seed(7);
    let names = ["a", "b", "c", "d"];
    for round in 0..120 {
        let mut wanted = std::collections::BTreeMap::new();
        for (n, at) in ["one", "two"].into_iter().enumerate() {
            // No object is in both: who has it then is a matter of who came last.
            let value = round.to_string();
            let mine = names[2 * n..2 * n + 2].iter().filter(|_| rng.bool());
            let mine: Vec<&str> = mine.copied().collect();
            let manifests: Vec<Value> = mine.iter().map(|name| config(name, &value)).collect();
            let work = carrying(at, &manifests);
            match rng.u8(..4) {
                0 => drop(stage.hub(&key_of(&work), None).await),
                1 => drop(stage.hub(&key_of(&work), Some(&deleting(&work))).await),
                _ => {
                    stage.hub(&key_of(&work), Some(&work)).await;
                    wanted.extend(mine.iter().map(|name| (*name, value.clone())));
                }
            }
            stage.kill(rng.usize(..14)).await;
        }
        stage.pass(3000).await;
        for name in names {
            let there = stage.get("", "configmaps", name);
            let value = there.map(|object| object["data"]["key"].as_str().unwrap().to_owned());
            assert_eq!(value.as_ref(), wanted.get(name), "round {round}: {name}");
        }
        let noted: usize = ["one", "two"]
            .iter()
            .filter_map(|at| stage.account(&carrying(at, &[])))
            .map(|account| account["manifests"].as_array().unwrap().len())
            .sum();
        assert_eq!(noted, wanted.len(), "round {round}");
    }
}

#[tokio::test]
async fn an_object_moves_from_one_work_to_another() {
    let mut stage = Stage::new().await;
    let before = carrying("z", &[config("a", "1")]);
    stage.bring(&before).await;
    let uid = stage.get("", "configmaps", "a").unwrap()["metadata"]["uid"].clone();
    let after = carrying("a", &[config("a", "2")]);
    stage.hub(&key_of(&before), None).await;
    stage.hub(&key_of(&after), Some(&after)).await;
    stage.pass(500).await;
    let moved = stage.get("", "configmaps", "a").unwrap();
    assert_eq!((&moved["metadata"]["uid"], &moved["data"]["key"]), (&uid, &json!("2")));
    assert_eq!(moved["metadata"]["annotations"][names::WORK_NAME], "a");
    // Two that want it both: the last one has it, without a tug of war.
    stage.bring(&before).await;
    let revision = stage.store.revision();
    stage.pass(120_000).await;
    assert_eq!(stage.store.revision(), revision);
    stage.withdraw(&before).await;
    assert_eq!(stage.get("", "configmaps", "a").unwrap()["data"]["key"], "2");
}

#[tokio::test]
async fn one_bad_manifest_holds_up_no_other() {
    let mut stage = Stage::new().await;
    let mut manifests: Vec<Value> = (0..40).map(|n| config(&format!("c{n}"), "1")).collect();
    manifests[7]["data"] = json!({"key": 7});
    manifests[8]["kind"] = json!("Nothing");
    let (bad, good) = (carrying("a", &manifests), carrying("b", &[config("d", "1")]));
    stage.hub(&key_of(&bad), Some(&bad)).await;
    stage.hub(&key_of(&good), Some(&good)).await;
    stage.pass(500).await;
    let told = stage.told(&bad);
    let said = message(&told);
    assert!(said.starts_with("Failed to apply all manifests (38/40): ["), "{said}");
    assert!(
        said.ends_with(r#"no matches for kind "Nothing" in version "v1"]"#),
        "{said}"
    );
    assert!(stage.get("", "configmaps", "c39").is_some());
    assert_eq!(stage.told(&good)["applied"], applied());
    // What the agent could not work with is not even stored.
    let refused = stage
        .hub(&key_of(&good), Some(&carrying("b", &[json!({"kind": "ConfigMap"})])))
        .await;
    assert_eq!(refused, ["spec.workload.manifests[0].apiVersion: missing"]);
}

#[tokio::test]
async fn a_kind_may_come_after_its_objects() {
    let mut stage = Stage::new().await;
    let (device, definition) = (work("device-cam1"), cluster_scoped("devices.edge"));
    stage.bring(&device).await;
    assert_eq!(
        message(&stage.told(&device)),
        r#"Failed to apply all manifests (0/1): no matches for kind "Device" in version "edge.example.io/v1""#
    );
    // After a long time nobody asks often any more; the definition is heard of.
    stage.pass(300_000).await;
    stage.bring(&definition).await;
    stage.pass(3000).await;
    assert_eq!(stage.told(&definition)["applied"], applied());
    assert_eq!(stage.told(&device)["applied"], applied());
    let agents = recorded("work-device-cam1.json");
    let state = |told: &Value| told["manifestStatuses"][0]["identifier"].clone();
    assert_eq!(state(&stage.told(&device)), state(&agents["status"]));
    let status = agents["status"]["manifestStatuses"][0]["status"].clone();
    if stage
        .get(
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            "devices.edge.example.io",
        )
        .unwrap()["spec"]["versions"][0]["subresources"]["status"]
        .is_object()
    {
        stage.state("edge.example.io", "devices", "cam1", status.clone()).await;
        stage.pass(500).await;
        assert_eq!(stage.told(&device)["manifestStatuses"][0]["status"], status);
    }
}

#[tokio::test]
async fn a_restart_compares_and_writes_nothing() {
    let mut stage = Stage::new().await;
    let files = [
        "serviceaccount-web-sa",
        "secret-web-secret",
        "service-web",
        "deployment-web",
        "daemonset-agentd",
        "statefulset-db",
        "job-once",
        "pod-solo",
    ];
    for file in files {
        stage.bring(&work(file)).await;
    }
    stage.bring(&cluster_scoped("fx-")).await;
    stage.bring(&cluster_scoped("devices.edge")).await;
    stage.bring(&work("device-cam1")).await;
    stage.bring(&cluster_scoped("karmada-impersonator-7")).await;
    stage.pass(3000).await;
    for file in files {
        let told = stage.told(&work(file));
        assert_eq!(told["applied"], applied(), "{file}: {told}");
    }
    let revision = stage.store.revision();
    let audited = *stage.api.audited().borrow();
    stage.restart();
    stage.pass(120_000).await;
    assert_eq!(stage.store.revision(), revision, "a restart wrote");
    // A word of a controller is no change of what is wanted.
    let status = json!({"replicas": 1, "observedGeneration": 1});
    for n in 0..20 {
        let mut status = status.clone();
        status["replicas"] = json!(n + 2);
        stage.state("apps", "deployments", "web", status).await;
        stage.pass(5).await;
    }
    stage.pass(500).await;
    assert_eq!(
        stage.store.revision(),
        revision + 20 + 2,
        "twenty words: one report at once, one of the rest"
    );
    assert_eq!(*stage.api.audited().borrow(), audited);
}

/// Puts something else in some place of a value.
fn spoil(rng: &mut fastrand::Rng, value: &mut Value) {
    let inside: Vec<&mut Value> = match value {
        Value::Array(items) => items.iter_mut().collect(),
        Value::Object(fields) => fields.values_mut().collect(),
        _ => Vec::new(),
    };
    if !inside.is_empty() && rng.u8(..8) > 0 {
        let at = rng.usize(..inside.len());
        return spoil(rng, inside.into_iter().nth(at).unwrap());
    }
    *value = match rng.u8(..9) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(-7),
        3 => json!(u64::MAX),
        4 => json!(1e308),
        5 => json!(""),
        6 => json!("a/b: \u{0}\u{fffd}"),
        7 => json!([value.clone(), 7]),
        _ => json!({"a": value.clone(), "": []}),
    };
}

#[tokio::test]
async fn whatever_a_work_carries_the_task_goes_on() {
    let mut stage = Stage::new().await;
    let mut rng = fastrand::Rng::with_seed(11);
    let files = [
        "deployment-web",
        "service-web",
        "job-once",
        "pod-solo",
        "secret-web-secret",
        "device-cam1",
    ];
    let mut refused = 0;
    for round in 0..300 {
        let work = match round % 8 {
            7 => cluster_scoped("devices.edge"),
            6 => cluster_scoped("fx-"),
            n => work(files[n]),
        };
        let key = key_of(&work);
        let mut spoiled = work.clone();
        for _ in 0..=rng.u8(..4) {
            spoil(&mut rng, &mut spoiled);
        }
        refused += stage.hub(&key, Some(&spoiled)).await.len();
        if rng.u8(..4) == 0 {
            stage.restart();
        }
        stage.pass(300).await;
        if rng.u8(..4) == 0 {
            stage.hub(&key, None).await;
        }
    }
    assert!((30..270).contains(&refused), "{refused} of 300 were not even stored");
    for file in files {
        stage.hub(&key_of(&work(file)), None).await;
    }
    stage.pass(70_000).await;
    // The pod has its time to end; what nothing holds is gone.
    for (group, plural, name) in [
        ("apps", "deployments", "web"),
        ("", "services", "web"),
        ("", "secrets", "web-secret"),
    ] {
        assert_eq!(stage.get(group, plural, name), None, "{plural}");
    }
    let config = carrying("last", &[config("last", "1")]);
    stage.bring(&config).await;
    assert_eq!(stage.told(&config)["applied"], applied());
}

#[tokio::test]
async fn a_work_is_sealed_where_it_lies() {
    let mut stage = Stage::new().await;
    let secret = work("secret-web-secret");
    stage.bring(&secret).await;
    assert!(key_of(&secret).is_secret());
    assert_eq!(
        stage.get("", "secrets", "web-secret").unwrap()["data"]["password"],
        "bm90LWEtc2VjcmV0"
    );
    for file in std::fs::read_dir(stage.folder.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let found = bytes.windows(16).any(|window| window == b"bm90LWEtc2VjcmV0");
        assert!(!found, "the Secret is readable on the disk");
    }
}

#[tokio::test]
async fn the_hubs_devices_are_not_a_works_to_change() {
    let mut stage = Stage::new().await;
    let device = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"namespace": "fx", "name": "cam"}, "spec": {"nodeName": NODE}});
    let key = objects::device_key(objects::DEVICES, "fx", "cam");
    assert_eq!(stage.hub(&key, Some(&device)).await, Vec::<String>::new());
    let before = stage.store.get(&key).unwrap();
    let mut other = device.clone();
    other["spec"]["properties"] = json!([{"name": "a"}]);
    let (carried, namespace) = (carrying("cam", &[other]), cluster_scoped("fx-"));
    stage.bring(&namespace).await;
    stage.bring(&carried).await;
    assert_eq!(stage.told(&carried)["applied"], applied());
    assert_eq!(stage.store.get(&key).unwrap(), before);
    // With its namespace it would be gone here, and the hub would not know.
    stage.bring(&deleting(&namespace)).await;
    stage.bring(&deleting(&carried)).await;
    assert_eq!(
        (
            stage.told(&namespace)["deleted"].clone(),
            stage.told(&carried)["deleted"].clone()
        ),
        (json!(true), json!(true))
    );
    assert_eq!(stage.store.get(&key).unwrap(), before);
    assert_eq!(
        stage.get("", "namespaces", "fx").unwrap()["metadata"]["annotations"][IMPLICIT],
        "true"
    );
}

#[tokio::test]
async fn a_work_that_was_lost_here_is_not_one_that_went() {
    let mut stage = Stage::new().await;
    let work = carrying("w", &[config("a", "1")]);
    stage.bring(&work).await;
    let tx = metastore::store::Tx::new().delete(key_of(&work), metastore::store::Expect::Any);
    stage.store.commit(tx).await.unwrap();
    stage.pass(5000).await;
    assert!(stage.get("", "configmaps", "a").is_some());
}

#[tokio::test]
async fn a_cluster_says_what_it_serves_and_what_is_taken() {
    let mut stage = Stage::new().await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}, "status": {"allocatable": {"cpu": "2", "pods": "110"}}});
    let tx = metastore::store::Tx::new().put(objects::node_key(NODE), node, metastore::store::Expect::Any);
    stage.store.commit(tx).await.unwrap();
    let drain = daemon::drain::Drain::new();
    let (mut report, task) = stage.cluster(&drain);
    let said = |report: &super::Report| -> Value {
        let text = report.borrow();
        text.as_ref().map_or(Value::Null, |text| {
            let value: Value = serde_json::from_slice(text).unwrap();
            assert_eq!(objects::canonical(&value), *text, "one report has one text");
            value
        })
    };
    let until = async |report: &mut super::Report, holds: &dyn Fn(&Value) -> bool| {
        let found = tokio::time::timeout(
            Duration::from_secs(20),
            report.wait_for(|text| {
                text.as_ref()
                    .is_some_and(|text| holds(&serde_json::from_slice(text).unwrap()))
            }),
        );
        assert!(found.await.is_ok(), "it was never said");
    };
    let cpu = |said: &Value, what: &str| said["resourceSummary"][what]["cpu"].clone();
    until(&mut report, &|said| said["kubernetesVersion"].is_string()).await;
    let first = said(&report);
    assert_eq!(
        first["resourceSummary"],
        json!({"allocatable": {"cpu": "2", "pods": "110"}, "allocated": {}, "allocating": {}})
    );
    let names: Vec<&str> = first["apiEnablements"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| group["groupVersion"].as_str().unwrap())
        .collect();
    assert!(
        names.is_sorted() && names.contains(&"work.karmada.io/v1alpha1"),
        "{names:?}"
    );
    // A kind comes and goes.
    let serves = |said: &Value| said["apiEnablements"].to_string().contains("edge.example.io/v1");
    stage.bring(&cluster_scoped("devices.edge")).await;
    until(&mut report, &serves).await;
    stage.withdraw(&cluster_scoped("devices.edge")).await;
    until(&mut report, &|said| !serves(said)).await;
    // A pod waits for its node, has it, and is done.
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "default", "name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "250m"}}}]}});
    let put = async |pod: Value| {
        let key = metastore::store::ObjectKey::new("", "pods", "default", "p");
        let tx = metastore::store::Tx::new().put(key, pod, metastore::store::Expect::Any);
        stage.store.commit(tx).await.unwrap();
    };
    put(pod.clone()).await;
    until(&mut report, &|said| cpu(said, "allocating") == "250m").await;
    let mut bound = pod.clone();
    bound["spec"]["nodeName"] = json!(NODE);
    put(bound.clone()).await;
    until(&mut report, &|said| cpu(said, "allocated") == "250m").await;
    assert_eq!(said(&report)["resourceSummary"]["allocated"]["pods"], "1");
    bound["status"] = json!({"phase": "Succeeded"});
    put(bound).await;
    until(&mut report, &|said| said["resourceSummary"]["allocated"] == json!({})).await;
    // The next session begins with it before anybody looked again.
    let last = said(&report);
    drain.stop();
    task.await.unwrap();
    let (_, report) = super::Reporter::open(stage.store.clone(), NODE).unwrap();
    assert_eq!(said(&report), last);
}

#[test]
fn pauses_grow_and_end() {
    use super::task::pause;
    let seconds: Vec<u64> = (0..9).map(|n| pause(n).as_secs()).collect();
    assert_eq!(seconds, [1, 1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(pause(u32::MAX), Duration::from_secs(60));
}
