//! Chains as recorded objects of a real control plane give them.

use std::collections::BTreeMap;

use serde_json::json;

use super::super::facts::Pods;
use super::*;
use crate::commands::get::federation::GATEWAY;

fn fixture(name: &str) -> Value {
    let path = format!("{}/fixtures/karmada/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn well() -> Facts {
    Facts {
        template: fixture("template-deployment-web"),
        policy: Some(fixture("propagationpolicy-fx")),
        binding: Some(fixture("resourcebinding-deployment-web")),
        works: BTreeMap::from([("member1".to_owned(), Work::read(&fixture("work-deployment-web")))]),
        gateways: BTreeMap::from([(
            "member1".to_owned(),
            Gateway::read(&fixture("cluster-member1-real-agent")),
        )]),
        ..Facts::default()
    }
}

/// The same in `count` clusters.
fn many(count: usize) -> Facts {
    let mut facts = well();
    let names: Vec<String> = (0..count).map(|at| format!("gw-{at:02}")).collect();
    let clusters: Vec<Value> = names.iter().map(|name| json!({"name": name, "replicas": 2})).collect();
    facts.binding.as_mut().unwrap()["spec"]["clusters"] = clusters.into();
    facts.template["status"]["readyReplicas"] = (2 * count).into();
    for name in &names {
        facts
            .works
            .insert(name.clone(), Work::read(&fixture("work-deployment-web")));
        facts
            .gateways
            .insert(name.clone(), Gateway::read(&fixture("cluster-member1-real-agent")));
    }
    facts
}

fn at(facts: &Facts) -> (String, String) {
    let answer = hops(facts);
    let waiting = text(&answer, "waitingAt").to_owned();
    let all = answer["hops"].as_array().unwrap();
    let hop = all.iter().find(|hop| hop["state"] == "waiting");
    (waiting, hop.map_or(String::new(), |hop| text(hop, "detail").to_owned()))
}

#[test]
fn what_is_everywhere_waits_nowhere() {
    let answer = hops(&well());
    assert_eq!(answer["waitingAt"], Value::Null, "{answer:#}");
    let lines: Vec<String> = answer["hops"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hop| format!("{}: {}", text(hop, "hop"), text(hop, "detail")))
        .collect();
    assert_eq!(
        lines,
        [
            "deployment web: 2 replicas wanted",
            "policy: PropagationPolicy fx claims it",
            "scheduled: to member1 (2)",
            "work member1: ",
            "gateway member1: connected",
            "applied member1: ",
            "pods member1: ",
            "status: 2 of 2 replicas ready",
        ]
    );
}

#[test]
fn without_a_policy_nothing_goes_anywhere() {
    let mut facts = well();
    facts.binding = None;
    facts.template["metadata"]["annotations"] = json!({});
    facts.unclaiming = vec![
        json!({"metadata": {"name": "cm"}, "spec": {"resourceSelectors": [{"apiVersion": "v1", "kind": "ConfigMap"}]}}),
    ];
    let (hop, detail) = at(&facts);
    assert!(hop == "policy" && detail.starts_with("none of 1 policies"), "{detail}");
    facts.unclaiming.push(fixture("propagationpolicy-fx"));
    assert!(
        at(&facts)
            .1
            .starts_with("PropagationPolicy fx selects it and has not claimed it"),
        "{}",
        at(&facts).1
    );
    facts.template["metadata"]["namespace"] = "karmada-system".into();
    assert!(at(&facts).1.contains("nothing in namespace karmada-system"));
    facts.template["kind"] = "Namespace".into();
    assert_eq!(at(&facts).0, "");
}

#[test]
fn what_a_workload_needs_goes_where_it_goes() {
    let mut facts = well();
    facts.template =
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "web-config", "namespace": "fx"}});
    facts.binding.as_mut().unwrap()["spec"]["requiredBy"] = json!([{"namespace": "fx", "name": "web-deployment"}]);
    let answer = hops(&facts);
    assert_eq!(answer["waitingAt"], Value::Null, "{answer:#}");
    assert!(text(&answer["hops"][1], "detail").contains("fx/web-deployment"));
    assert_eq!(
        answer["hops"].as_array().unwrap().last().unwrap()["detail"],
        "applied in 1 of 1 clusters"
    );
}

#[test]
fn selectors_mean_what_they_say() {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "n", "labels": {"x": "1"}}});
    let by = |rest: Value| {
        let mut selector = json!({"apiVersion": "v1", "kind": "ConfigMap"});
        selector
            .as_object_mut()
            .unwrap()
            .extend(rest.as_object().unwrap().clone());
        selects(
            &json!({"metadata": {"name": "p"}, "spec": {"resourceSelectors": [selector]}}),
            &object,
        )
    };
    let rule = |operator: &str, key: &str| {
        by(json!({"labelSelector": {"matchExpressions": [{"key": key, "operator": operator, "values": ["1"]}]}}))
    };
    assert!(by(json!({})) && by(json!({"name": "a"})) && by(json!({"namespace": "n"})));
    assert!(!by(json!({"name": "b"})) && !by(json!({"namespace": "m"})));
    assert!(
        by(json!({"labelSelector": {"matchLabels": {"x": "1"}}}))
            && !by(json!({"labelSelector": {"matchLabels": {"x": "2"}}}))
    );
    assert!(
        rule("In", "x")
            && !rule("NotIn", "x")
            && rule("NotIn", "y")
            && rule("Exists", "x")
            && rule("DoesNotExist", "y")
    );
    assert!(!selects(&json!({"spec": 1}), &object));
}

#[test]
fn why_no_cluster_was_chosen_is_told_with_what_helps() {
    let mut facts = well();
    let binding = facts.binding.as_mut().unwrap();
    binding["spec"]["clusters"] = Value::Null;
    binding["status"] = json!({"conditions": [{"type": "Scheduled", "status": "False", "reason": "NoClusterFit",
        "message": "0/1 clusters are available: 1 cluster(s) had untolerated taint {cluster.karmada.io/not-ready: }."}]});
    let (hop, detail) = at(&facts);
    assert!(
        hop == "scheduled" && detail.starts_with("NoClusterFit: 0/1") && detail.contains("clusterTolerations"),
        "{detail}"
    );
    facts.binding.as_mut().unwrap()["status"] = Value::Null;
    assert!(at(&facts).1.contains("\"default-scheduler\" running?"));
    facts.binding = None;
    assert_eq!(at(&facts).0, "binding");
}

#[test]
fn a_gateway_that_is_away_is_where_it_waits() {
    let mut facts = well();
    facts.gateways.insert(
        "member1".into(),
        Gateway::read(&fixture("cluster-unknown-lease-expired")),
    );
    let (hop, detail) = at(&facts);
    assert!(
        hop == "gateway member1" && detail.contains("nobody speaks for it"),
        "{detail}"
    );
    let mut ours = fixture("cluster-unknown-lease-expired");
    ours["metadata"]["annotations"][GATEWAY] = "press.hall".into();
    ours["status"]["conditions"] =
        json!([{"type": "Ready", "status": "False", "reason": "ClusterNotReachable", "lastTransitionTime": "t"}]);
    facts.gateways.insert("member1".into(), Gateway::read(&ours));
    let answer = hops(&facts);
    assert_eq!(answer["hops"][4]["at"], "t");
    assert_eq!(
        answer["hops"][4]["detail"],
        "ClusterNotReachable; kurator why node press.hall"
    );
    facts.gateways.clear();
    assert!(at(&facts).1.contains("no such cluster"));
}

#[test]
fn what_a_gateway_refuses_is_told() {
    let mut facts = well();
    facts
        .works
        .insert("member1".into(), Work::read(&fixture("work-applied-false-conflict")));
    let (hop, detail) = at(&facts);
    assert!(
        hop == "applied member1" && detail.contains("conflictResolution: Overwrite"),
        "{detail}"
    );
    facts
        .works
        .insert("member1".into(), Work::read(&fixture("work-suspended")));
    assert_eq!(at(&facts).0, "", "what was applied before is there");
    assert!(hops(&facts).to_string().contains("before dispatching was suspended"));
    facts.works.get_mut("member1").unwrap().applied = None;
    let (hop, detail) = at(&facts);
    assert!(hop == "applied member1" && detail.contains("suspends"), "{detail}");
    facts.works.clear();
    assert_eq!(at(&facts).0, "work member1");
}

#[test]
fn pods_that_ail_are_told_with_the_question_to_ask_next() {
    let mut facts = well();
    facts.works.get_mut("member1").unwrap().health = "Unhealthy".into();
    assert_eq!(facts.worth_a_look(5), ["member1"]);
    facts.pods.insert("member1".into(), None);
    assert!(at(&facts).1.contains("cannot be read"));
    let pods = json!({"items": [
        {"metadata": {"name": "web-1"}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}},
        {"metadata": {"name": "web-2"}, "status": {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}},
        {"metadata": 3}]});
    facts.pods.insert("member1".into(), Some(Pods::read(&pods)));
    let (hop, detail) = at(&facts);
    assert_eq!(hop, "pods member1");
    assert!(
        detail.starts_with("Unhealthy; 1 of 3 ready; web-2: ImagePullBackOff; is the name right"),
        "{detail}"
    );
    assert!(
        detail.ends_with("kurator --gateway member1 -n fx why pod web-2"),
        "{detail}"
    );
}

#[test]
fn many_clusters_are_counted_and_few_are_named() {
    assert_eq!(at(&many(40)).0, "");
    let mut facts = many(40);
    for name in ["gw-03", "gw-04", "gw-05", "gw-06", "gw-07", "gw-08", "gw-09"] {
        facts.gateways.get_mut(name).unwrap().ready = false;
        // What has not been connected has not been told anything: that is not told twice.
        facts.works.get_mut(name).unwrap().applied = None;
    }
    facts.works.get_mut("gw-20").unwrap().applied = Some(false);
    let answer = hops(&facts);
    assert_eq!(answer["waitingAt"], "gateway");
    let all = answer["hops"].as_array().unwrap();
    assert!(all.len() < 20, "{answer:#}");
    let of = |hop: &str| all.iter().find(|h| h["hop"] == hop).map(|h| text(h, "detail"));
    assert_eq!(of("gateway"), Some("33 of 40; 7 wait here, 5 of them below"));
    assert!(of("gateway gw-07").is_some() && of("gateway gw-08").is_none());
    assert_eq!(of("applied"), Some("32 of 40"));
    assert!(of("applied gw-20").is_some() && of("applied gw-03").is_none());
    assert!(
        of("scheduled")
            .unwrap()
            .starts_with("to 80 replicas in 40 clusters: gw-00 (2),"),
        "{:?}",
        of("scheduled")
    );
    facts.only = Some("gw-20".into());
    let answer = hops(&facts);
    assert_eq!(answer["waitingAt"], "applied gw-20");
    facts.only = Some("gw-99".into());
    assert!(at(&facts).1.starts_with("not to gw-99; to 40 other clusters"));
}

#[test]
fn a_status_that_is_behind_is_not_the_answer() {
    let mut facts = well();
    facts.template["metadata"]["generation"] = 3.into();
    let (hop, detail) = at(&facts);
    assert!(
        hop == "status" && detail.ends_with("of generation 2, not yet of 3"),
        "{detail}"
    );
    let job = json!({"kind": "Job", "status": {"active": 1, "conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]}});
    let (done, _, detail) = summed_up(&job, &Value::Null, &["a"]);
    assert!(
        !done && detail == "0 succeeded, 1 active. BackoffLimitExceeded",
        "{detail}"
    );
}

#[test]
fn nothing_that_a_server_says_makes_it_fall() {
    let odd = [
        json!(null),
        json!(7),
        json!("x"),
        json!([1, {"name": 3}]),
        json!({"metadata": {"labels": 1, "generation": -9e300}, "spec": {"clusters": [1, {"name": "a", "replicas": i64::MAX}, {"name": "b", "replicas": i64::MAX}], "resourceSelectors": [2]}, "status": {"conditions": [4]}}),
    ];
    for value in &odd {
        let facts = Facts {
            template: value.clone(),
            policy: Some(value.clone()),
            unclaiming: vec![value.clone()],
            binding: Some(value.clone()),
            works: BTreeMap::from([("a".to_owned(), Work::read(value))]),
            gateways: BTreeMap::from([("a".to_owned(), Gateway::read(value))]),
            pods: BTreeMap::from([("a".to_owned(), Some(Pods::read(value)))]),
            only: None,
        };
        hops(&facts);
        pod_selector(value);
    }
}
