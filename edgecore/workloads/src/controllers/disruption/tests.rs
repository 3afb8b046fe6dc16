use serde_json::{Value, json};

use super::*;
use crate::controllers::bench::Bench;

fn at(seconds: u64) -> WallClock {
    Arc::new(move || seconds * 1000)
}

const NOON: u64 = 1_795_262_400;

async fn budget(bench: &Bench, spec: Value) {
    let mut whole = json!({"selector": {"matchLabels": {"app": "press"}}});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    bench
        .create(
            json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": whole}),
        )
        .await;
}

async fn ready_pod(bench: &Bench, name: &str, owner: Option<Value>) {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "press"}},
        "spec": {"nodeName": "press-01", "containers": [{"name": "main", "image": "i"}]}});
    if let Some(owner) = owner {
        pod["metadata"]["ownerReferences"] = json!([owner]);
    }
    bench.create(pod).await;
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-21T10:00:00Z"}]});
    bench
        .status(PODS, &Key::new("plant", name), |p| p["status"] = ready.clone())
        .await;
}

fn counts(bench: &Bench) -> [i64; 4] {
    let budget = bench.get(BUDGETS, "b");
    ["currentHealthy", "desiredHealthy", "disruptionsAllowed", "expectedPods"]
        .map(|field| budget["status"][field].as_i64().unwrap())
}

#[tokio::test]
async fn so_many_must_stay() {
    let bench = Bench::start().await;
    let all = [disruption(bench.cluster.clone(), bench.events.clone(), at(NOON))];
    budget(&bench, json!({"minAvailable": 1})).await;
    bench.settle(&all).await;
    assert_eq!(counts(&bench), [0, 1, 0, 0]);
    for name in ["a", "b", "c"] {
        ready_pod(&bench, name, None).await;
    }
    bench.settle(&all).await;
    assert_eq!(counts(&bench), [3, 1, 2, 3]);
    let status = &bench.get(BUDGETS, "b")["status"];
    assert_eq!(status["observedGeneration"], 1);
    let said = &status["conditions"][0];
    assert_eq!(
        (&said["type"], &said["status"], &said["reason"]),
        (&json!("DisruptionAllowed"), &json!("True"), &json!("SufficientPods"))
    );
    bench.delete(PODS, "a", Some(30)).await;
    bench
        .status(PODS, &Key::new("plant", "b"), |p| p["status"]["conditions"] = json!([]))
        .await;
    bench.settle(&all).await;
    assert_eq!(counts(&bench), [1, 1, 0, 3]);
    assert_eq!(
        bench.get(BUDGETS, "b")["status"]["conditions"][0]["reason"],
        "InsufficientPods"
    );
}

/// Who was granted to go is not healthy, until it is gone or two minutes have passed.
#[tokio::test]
async fn a_granted_eviction_is_remembered() {
    let bench = Bench::start().await;
    budget(&bench, json!({"minAvailable": 1})).await;
    for name in ["a", "b"] {
        ready_pod(&bench, name, None).await;
    }
    bench
        .settle(&[disruption(bench.cluster.clone(), bench.events.clone(), at(NOON))])
        .await;
    let granted = crate::time::stamp(NOON * 1000);
    bench
        .status(BUDGETS, &Key::new("plant", "b"), |b| {
            b["status"]["disruptedPods"] = json!({"a": granted, "gone": granted});
        })
        .await;
    let key = Key::new("plant", "b");
    let soon = disruption(bench.cluster.clone(), bench.events.clone(), at(NOON + 20));
    assert_eq!(soon.reconcile(&key).await.unwrap(), Some(Duration::from_secs(101)));
    assert_eq!(counts(&bench), [1, 1, 0, 2]);
    assert_eq!(
        bench.get(BUDGETS, "b")["status"]["disruptedPods"],
        json!({"a": granted})
    );
    let late = disruption(bench.cluster.clone(), bench.events.clone(), at(NOON + 121));
    assert_eq!(late.reconcile(&key).await.unwrap(), None);
    assert_eq!(counts(&bench), [2, 1, 1, 2]);
    assert!(bench.get(BUDGETS, "b")["status"].get("disruptedPods").is_none());
}

#[test]
fn what_is_expected_comes_from_who_owns_the_pods() {
    let pods = |owners: &[&str]| -> Vec<Value> {
        let pod = |owner: &&str| match *owner {
            "" => json!({"metadata": {"name": "p"}}),
            owner => json!({"metadata": {"name": "p", "ownerReferences": [{"controller": true, "uid": owner}]}}),
        };
        owners.iter().map(pod).collect()
    };
    let scale = |owner: &Value| match text(owner, "/uid") {
        "job" => Err("jobs.batch does not implement the scale subresource".to_owned()),
        "gone" => Ok(None),
        uid => Ok(Some((uid.to_owned(), 7))),
    };
    let want = |pods, healthy, unmanaged| {
        Ok(Expected {
            pods,
            healthy,
            unmanaged,
        })
    };
    for (spec, owners, expected_) in [
        (json!({"maxUnavailable": 1}), vec!["a", "a", "b"], want(14, 13, false)),
        (json!({"maxUnavailable": "30%"}), vec!["a"], want(7, 4, false)),
        (json!({"minAvailable": "50%"}), vec!["a"], want(7, 4, false)),
        (json!({"minAvailable": 2}), vec!["job", ""], want(2, 2, false)),
        (json!({"maxUnavailable": 1}), vec!["", "a"], want(7, 6, true)),
        (json!({"maxUnavailable": 9}), vec!["a"], want(7, 0, false)),
        (
            json!({"maxUnavailable": 1}),
            vec!["job"],
            Err("jobs.batch does not implement the scale subresource".to_owned()),
        ),
        (
            json!({"maxUnavailable": 1}),
            vec!["gone"],
            Err("found no controllers for pod \"p\"".to_owned()),
        ),
    ] {
        let budget = json!({ "spec": spec });
        assert_eq!(expected(&budget, &pods(&owners), &scale), expected_, "{budget}");
    }
}

#[test]
fn a_selector_is_told_as_elsewhere() {
    for (selector, told) in [
        (
            json!({"matchLabels": {"app": "s"}}),
            "&LabelSelector{MatchLabels:map[string]string{app: s,},MatchExpressions:[]LabelSelectorRequirement{},}",
        ),
        (
            json!({"matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]}),
            "&LabelSelector{MatchLabels:map[string]string{},MatchExpressions:[]LabelSelectorRequirement{LabelSelectorRequirement{Key:tier,Operator:In,Values:[a b],},},}",
        ),
    ] {
        assert_eq!(go_text(&selector), told);
    }
}
