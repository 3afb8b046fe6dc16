use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::kinds::{Placement, Taint};
use crate::schedule::{ClusterView, schedule};

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

const WEIGHTED: &str = "
apiVersion: policy.karmada.io/v1alpha1
kind: ClusterPropagationPolicy
metadata:
  name: frontend-app
spec:
  resourceSelectors:
  - apiVersion: apps/v1
    kind: Deployment
    name: frontend
  placement:
    clusterAffinity:
      labelSelector:
        matchLabels:
          environment: production
          region: east-china
    replicaScheduling:
      replicaSchedulingType: Weighted
      replicaDivisionPreference: Aggregated
      weightList:
      - targetCluster:
          clusterNames:
          - cluster-shanghai
        weight: 60
      - targetCluster:
          clusterNames:
          - cluster-hangzhou
        weight: 40
";

const FEDERATED: &str = "
apiVersion: apps.kurator.dev/v1alpha1
kind: FederatedDeployment
metadata:
  name: frontend-app
  namespace: shop
  uid: 0ba18f21
spec:
  template:
    metadata:
      labels:
        app: frontend
    spec:
      replicas: 3
      selector:
        matchLabels:
          app: frontend
      template:
        metadata:
          labels:
            app: frontend
        spec:
          containers:
          - name: nginx
            image: nginx:1.21
  placement:
    clusters:
    - name: cluster-beijing
      replicas: 2
    - name: cluster-shanghai
      replicas: 1
";

fn scheduling(value: Value) -> (Value, usize) {
    let mut policy = json!({"spec": {"placement": {"replicaScheduling": value}}});
    let warnings = translate(&mut policy);
    assert!(
        warnings
            .iter()
            .all(|w| w.starts_with("spec.placement.replicaScheduling.") && w.contains("; ")),
        "{warnings:?}"
    );
    let again = translate(&mut policy);
    assert_eq!(again, Vec::<String>::new(), "today's form is left alone");
    (policy["spec"]["placement"]["replicaScheduling"].take(), warnings.len())
}

fn shares(placement: &Value, wanted: i64, names: &[&str]) -> Vec<(String, Option<i64>)> {
    let placement: Placement = serde_json::from_value(placement.clone()).unwrap();
    let labels: BTreeMap<String, String> = [("environment", "production"), ("region", "east-china")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let taints: [Taint; 0] = [];
    let views: Vec<ClusterView<'_>> = names
        .iter()
        .map(|name| ClusterView {
            name,
            labels: &labels,
            provider: "",
            region: "",
            zones: &[],
            taints: &taints,
            ready: true,
            enablements: &|_, _| true,
            available: None,
            being_deleted: false,
        })
        .collect();
    let decision = schedule(&placement, &[], Some(wanted), "apps/v1", "Deployment", &views).unwrap();
    decision.clusters.into_iter().map(|c| (c.name, c.replicas)).collect()
}

#[test]
fn a_weighted_policy_of_old_divides_by_its_weights() {
    let mut policy = yaml(WEIGHTED);
    let warnings = translate(&mut policy);
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[2].contains("Aggregated is taken as Weighted"), "{warnings:?}");
    let placement = &policy["spec"]["placement"];
    assert_eq!(
        placement["replicaScheduling"],
        json!({"replicaSchedulingType": "Divided", "replicaDivisionPreference": "Weighted", "weightPreference": {"staticWeightList": [
            {"targetCluster": {"clusterNames": ["cluster-shanghai"]}, "weight": 60},
            {"targetCluster": {"clusterNames": ["cluster-hangzhou"]}, "weight": 40}]}})
    );
    let names = ["cluster-beijing", "cluster-hangzhou", "cluster-shanghai"];
    let expected = vec![
        ("cluster-hangzhou".to_owned(), Some(4)),
        ("cluster-shanghai".to_owned(), Some(6)),
    ];
    assert_eq!(shares(placement, 10, &names), expected);
    fill_defaults(&mut policy);
    assert_eq!(validate(&policy), []);
}

#[test]
fn each_old_spelling_has_its_sentence() {
    let list = json!([{"targetCluster": {}, "weight": 1}]);
    let today = json!({"replicaSchedulingType": "Divided", "replicaDivisionPreference": "Weighted",
        "weightPreference": {"staticWeightList": list}});
    assert_eq!(scheduling(json!({"weightList": list})), (today.clone(), 1));
    assert_eq!(
        scheduling(json!({"replicaSchedulingType": "Divided", "weightList": list})),
        (today.clone(), 1)
    );
    assert_eq!(
        scheduling(json!({"replicaSchedulingType": "Weighted", "weightList": list})),
        (today.clone(), 2)
    );
    assert_eq!(scheduling(today.clone()), (today.clone(), 0));
    let mut both = today.clone();
    both["weightList"] = json!([{"targetCluster": {}, "weight": 9}]);
    assert_eq!(scheduling(both), (today, 1));
    let bare = json!({"replicaSchedulingType": "Divided", "replicaDivisionPreference": "Weighted"});
    assert_eq!(
        scheduling(json!({"replicaSchedulingType": "Weighted", "weightList": null})),
        (bare, 1)
    );
    let (duplicated, warnings) = scheduling(json!({"replicaSchedulingType": "Duplicated", "weightList": list}));
    assert_eq!(
        (&duplicated["replicaSchedulingType"], warnings),
        (&json!("Duplicated"), 1)
    );
    let aggregated = json!({"replicaSchedulingType": "Divided", "replicaDivisionPreference": "Aggregated"});
    assert_eq!(scheduling(aggregated.clone()), (aggregated, 0));
    for hostile in [
        json!(null),
        json!(3),
        json!({"spec": []}),
        json!({"spec": {"placement": {"replicaScheduling": "x"}}}),
    ] {
        let mut policy = hostile.clone();
        assert_eq!(translate(&mut policy), Vec::<String>::new());
        fill_defaults(&mut policy);
        assert_eq!(policy, hostile);
    }
}

#[test]
fn defaults_are_those_that_karmada_writes() {
    // As a user wrote it, and as it stood in Karmada afterwards.
    let mut policy = json!({
        "apiVersion": "policy.karmada.io/v1alpha1",
        "kind": "PropagationPolicy",
        "metadata": {"name": "fx", "namespace": "fx"},
        "spec": {
            "placement": {"clusterAffinity": {"clusterNames": ["member1"]}},
            "propagateDeps": true,
            "resourceSelectors": [{"apiVersion": "apps/v1", "kind": "Deployment"}, {"apiVersion": "v1", "kind": "Pod"}],
        },
    });
    fill_defaults(&mut policy);
    assert_eq!(
        policy["spec"],
        json!({
            "conflictResolution": "Abort",
            "placement": {"clusterAffinity": {"clusterNames": ["member1"]}},
            "preemption": "Never",
            "priority": 0,
            "propagateDeps": true,
            "resourceSelectors": [{"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "fx"},
                                  {"apiVersion": "v1", "kind": "Pod", "namespace": "fx"}],
            "schedulerName": "default-scheduler",
        })
    );
    assert_eq!(validate(&policy), []);
    let before = policy.clone();
    fill_defaults(&mut policy);
    assert_eq!(policy, before);
}

#[test]
fn defaults_reach_into_scheduling_spread_and_failover() {
    let mut policy = json!({"kind": "ClusterPropagationPolicy", "spec": {
        "resourceSelectors": [{"apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceImport"}],
        "placement": {"replicaScheduling": {}, "spreadConstraints": [{"maxGroups": 2}, {"spreadByField": "region", "minGroups": 0}]},
        "failover": {"application": {"decisionConditions": {}}, "cluster": {}},
    }});
    fill_defaults(&mut policy);
    let spec = &policy["spec"];
    assert_eq!(spec["propagateDeps"], true);
    assert_eq!(
        spec["resourceSelectors"][0].get("namespace"),
        None,
        "that of the cluster selects in all"
    );
    assert_eq!(
        spec["placement"],
        json!({"replicaScheduling": {"replicaSchedulingType": "Divided", "replicaDivisionPreference": "Weighted"},
            "spreadConstraints": [{"maxGroups": 2, "spreadByField": "cluster", "minGroups": 1}, {"spreadByField": "region", "minGroups": 1}]})
    );
    assert_eq!(
        spec["failover"],
        json!({"application": {"decisionConditions": {"tolerationSeconds": 300}, "purgeMode": "Gracefully", "gracePeriodSeconds": 600},
            "cluster": {"purgeMode": "Gracefully"}})
    );
    assert_eq!(validate(&policy), []);
    let mut overrides = json!({"kind": "OverridePolicy", "metadata": {"namespace": "fx"},
        "spec": {"resourceSelectors": [{"apiVersion": "v1", "kind": "Pod"}], "overrideRules": []}});
    fill_defaults(&mut overrides);
    assert_eq!(overrides["spec"]["resourceSelectors"][0]["namespace"], "fx");
    assert_eq!(overrides["spec"].get("priority"), None);
}

/// The paths of the faults of a policy with this spec.
fn faults(kind: &str, spec: Value) -> Vec<String> {
    let policy = json!({"kind": kind, "metadata": {"namespace": "fx"}, "spec": spec});
    validate(&policy)
        .into_iter()
        .map(|fault| fault.path.trim_start_matches("spec.").to_owned())
        .collect()
}

fn of_placement(placement: Value) -> Vec<String> {
    let spec = json!({"resourceSelectors": [{"apiVersion": "v1", "kind": "Pod"}], "placement": placement});
    let faults = faults("ClusterPropagationPolicy", spec);
    faults
        .into_iter()
        .map(|path| path.trim_start_matches("placement.").to_owned())
        .collect()
}

#[test]
fn placements_that_contradict_themselves_are_refused() {
    assert_eq!(
        of_placement(json!({"clusterAffinity": {}, "clusterAffinities": [{"affinityName": "a"}]})),
        ["spec.placement"].map(|p| p.trim_start_matches("spec."))
    );
    assert_eq!(
        of_placement(
            json!({"clusterAffinities": [{"affinityName": "a"}, {"affinityName": "a"}, {"affinityName": "-b"}]})
        ),
        ["clusterAffinities[1].affinityName", "clusterAffinities[2].affinityName"]
    );
    let group = |overflow: Value| json!({"affinityName": "a", "clusterNames": ["x"], "overflowAffinities": overflow});
    assert_eq!(
        of_placement(json!({"clusterAffinities": [group(json!([{"affinityName": "o"}]))]})),
        ["clusterAffinities[0].overflowAffinities"]
    );
    let aggregated = json!({"replicaSchedulingType": "Divided", "replicaDivisionPreference": "Aggregated"});
    assert_eq!(
        of_placement(
            json!({"replicaScheduling": aggregated, "clusterAffinities": [group(json!([{"affinityName": "a"}]))]})
        ),
        ["clusterAffinities[0].overflowAffinities[0].affinityName"]
    );
    assert_eq!(
        of_placement(
            json!({"clusterAffinity": {"fieldSelector": {"matchExpressions": [{"key": "height", "operator": "Exists"}]}}})
        ),
        [
            "clusterAffinity.fieldSelector.matchExpressions[0].key",
            "clusterAffinity.fieldSelector.matchExpressions[0].operator"
        ]
    );
    assert_eq!(
        of_placement(json!({"clusterTolerations": [{"operator": "Lt"}]})),
        ["clusterTolerations[0].operator"]
    );
    let term = json!({"groupByLabelKey": "a"});
    assert_eq!(
        of_placement(json!({"workloadAffinity": {"affinity": term, "antiAffinity": term}})),
        ["workloadAffinity"]
    );
}

#[test]
fn spread_constraints_that_contradict_themselves_are_refused() {
    let of = |constraints: Value| of_placement(json!({"spreadConstraints": constraints}));
    let cluster = json!({"spreadByField": "cluster", "minGroups": 1, "maxGroups": 3});
    assert_eq!(of(json!([cluster])), Vec::<String>::new());
    assert_eq!(of(json!([cluster, cluster])), ["spreadConstraints[1].spreadByField"]);
    assert_eq!(
        of(json!([{"spreadByField": "region", "minGroups": 1}])),
        ["spreadConstraints"]
    );
    assert_eq!(
        of(json!([{"spreadByField": "cluster", "minGroups": 3, "maxGroups": 2}])),
        ["spreadConstraints[0].maxGroups"]
    );
    assert_eq!(
        of(json!([{"spreadByField": "cluster", "spreadByLabel": "x", "minGroups": -1}])),
        ["spreadConstraints[0]", "spreadConstraints[0].minGroups"]
    );
}

#[test]
fn propagation_policies_are_checked_beyond_the_placement() {
    let selector = json!({"apiVersion": "v1", "kind": "Pod", "namespace": "fx"});
    let of = |more: Value| {
        let mut spec = json!({"resourceSelectors": [selector]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        faults("PropagationPolicy", spec)
    };
    assert_eq!(of(json!({})), Vec::<String>::new());
    assert_eq!(of(json!({"resourceSelectors": []})), ["resourceSelectors"]);
    assert_eq!(
        of(json!({"resourceSelectors": [{"apiVersion": "v1", "kind": "Pod", "namespace": "x"}]})),
        ["resourceSelectors[0].namespace"]
    );
    assert_eq!(of(json!({"preemption": "Always"})), ["resourceSelectors[0].name"]);
    assert_eq!(
        of(json!({"suspension": {"dispatching": true, "dispatchingOnClusters": {"clusterNames": ["a"]}}})),
        ["suspension"]
    );
    assert_eq!(
        of(
            json!({"failover": {"application": {"decisionConditions": {"tolerationSeconds": -1}, "purgeMode": "Directly",
            "gracePeriodSeconds": 5, "statePreservation": {"rules": [{"aliasLabelName": "a b", "jsonPath": "{.x}"}]}}}})
        ),
        [
            "propagateDeps",
            "failover.application.decisionConditions.tolerationSeconds",
            "failover.application.gracePeriodSeconds",
            "failover.application.statePreservation.rules[0].aliasLabelName"
        ]
    );
    assert_eq!(faults("PropagationPolicy", json!(3)), ["spec"]);
    assert_eq!(faults("PropagationPolicy", json!({"resourceSelectors": 3})), ["spec"]);
    assert_eq!(faults("Device", json!(3)), Vec::<String>::new());
    let with = |name: &str, id: &str| json!({"metadata": {"labels": {crate::names::POLICY_ID: id}}, "spec": {"schedulerName": name}});
    assert_eq!(validate_update(&with("a", "1"), &with("a", "1")), []);
    assert_eq!(validate_update(&with("a", "1"), &with("b", "2")).len(), 2);
}

#[test]
fn override_policies_are_checked() {
    let rules = |overriders: Value| {
        faults(
            "ClusterOverridePolicy",
            json!({"overrideRules": [{"overriders": overriders}]}),
        )
    };
    assert_eq!(
        rules(json!({"labelsOverrider": [{"operator": "add", "value": {"a": "b c"}}]})),
        ["overrideRules[0].overriders.labelsOverrider[0].value[a]"]
    );
    assert_eq!(
        rules(json!({"annotationsOverrider": [{"operator": "add", "value": {"A.b/c": "any thing"}}]})),
        Vec::<String>::new()
    );
    assert_eq!(
        rules(json!({"imageOverrider": [{"component": "Tag", "operator": "remove", "predicate": {"path": "x"}}]})),
        ["overrideRules[0].overriders.imageOverrider[0].predicate.path"]
    );
    let field = "overrideRules[0].overriders.fieldOverrider[0]";
    assert_eq!(rules(json!({"fieldOverrider": [{"fieldPath": "/a"}]})), [field]);
    assert_eq!(
        rules(
            json!({"fieldOverrider": [{"fieldPath": "a", "json": [{"subPath": "b", "operator": "add"},
            {"subPath": "/b", "operator": "remove", "value": 1}]}]})
        ),
        [".fieldPath", ".json[0].subPath", ".json[0].value", ".json[1].value"].map(|end| format!("{field}{end}"))
    );
    assert_eq!(
        faults(
            "OverridePolicy",
            json!({"targetCluster": {}, "overriders": {"plaintext": [{"path": "/a", "operator": "remove"}]},
            "overrideRules": [{"overriders": {}}], "resourceSelectors": [{"apiVersion": "v1", "kind": "Pod"}]})
        ),
        ["targetCluster", "overriders", "resourceSelectors[0].namespace"]
    );
}

#[test]
fn a_federated_deployment_is_a_deployment_and_its_policy() {
    let federated = yaml(FEDERATED);
    let (deployment, mut policy) = from_federated(&federated).unwrap();
    let owner = json!([{"apiVersion": "apps.kurator.dev/v1alpha1", "kind": "FederatedDeployment", "name": "frontend-app",
        "uid": "0ba18f21", "controller": true, "blockOwnerDeletion": true}]);
    assert_eq!(
        deployment["metadata"],
        json!({"name": "frontend-app", "namespace": "shop", "labels": {"app": "frontend"}, "ownerReferences": owner})
    );
    assert_eq!(deployment["spec"]["replicas"], 3);
    assert_eq!(
        deployment["spec"]["template"],
        federated["spec"]["template"]["spec"]["template"]
    );
    assert_eq!(
        policy,
        json!({
            "apiVersion": "policy.karmada.io/v1alpha1",
            "kind": "PropagationPolicy",
            "metadata": {"name": "frontend-app", "namespace": "shop", "ownerReferences": owner},
            "spec": {
                "resourceSelectors": [{"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "shop", "name": "frontend-app"}],
                "propagateDeps": true,
                "placement": {
                    "clusterAffinity": {"clusterNames": ["cluster-beijing", "cluster-shanghai"]},
                    "replicaScheduling": {"replicaSchedulingType": "Divided", "replicaDivisionPreference": "Weighted",
                        "weightPreference": {"staticWeightList": [
                            {"targetCluster": {"clusterNames": ["cluster-beijing"]}, "weight": 2},
                            {"targetCluster": {"clusterNames": ["cluster-shanghai"]}, "weight": 1}]}},
                },
            },
        })
    );
    fill_defaults(&mut policy);
    assert_eq!(validate(&policy), []);
    let names = ["cluster-beijing", "cluster-shanghai", "cluster-wuhan"];
    let expected = vec![
        ("cluster-beijing".to_owned(), Some(2)),
        ("cluster-shanghai".to_owned(), Some(1)),
    ];
    assert_eq!(shares(&policy["spec"]["placement"], 3, &names), expected);
}

#[test]
fn a_federated_deployment_without_numbers_has_those_of_its_template() {
    let of = |clusters: Value, replicas: Value| {
        from_federated(
            &json!({"metadata": {"name": "a"}, "spec": {"template": {"spec": {"replicas": replicas}},
            "placement": {"clusters": clusters}}}),
        )
    };
    let (deployment, policy) = of(json!([{"name": "x"}, {"name": "y", "replicas": 0}]), json!(4)).unwrap();
    assert_eq!(
        deployment["metadata"],
        json!({"name": "a", "namespace": "default"}),
        "nothing owns without a uid"
    );
    assert_eq!(deployment["spec"]["replicas"], 4);
    let weights = &policy["spec"]["placement"]["replicaScheduling"]["weightPreference"]["staticWeightList"];
    assert_eq!(weights.as_array().unwrap().len(), 1, "a weight of 0 is none");
    let (deployment, policy) = of(json!([{"name": "x", "replicas": 0}]), json!(null)).unwrap();
    assert_eq!(deployment["spec"]["replicas"], 0);
    assert_eq!(
        policy["spec"]["placement"]["replicaScheduling"].get("weightPreference"),
        None
    );

    let fault = |clusters: Value, replicas: Value| of(clusters, replicas).unwrap_err().to_string();
    assert_eq!(
        fault(json!([]), json!(1)),
        "spec.placement.clusters must be a list of at least one cluster"
    );
    assert_eq!(
        fault(json!([{}]), json!(1)),
        "spec.placement.clusters[0].name must be the name of a cluster"
    );
    assert_eq!(
        fault(json!([{"name": "x", "replicas": -1}]), json!(1)),
        "spec.placement.clusters[0].replicas must be a number of replicas, 0 or more"
    );
    assert_eq!(
        fault(json!([{"name": "x"}]), json!("3")),
        "spec.template.spec.replicas must be a number of replicas, 0 or more"
    );
    assert!(fault(json!([{"name": "x"}, {"name": "x"}]), json!(1)).contains("twice"));
    assert!(fault(json!([{"name": "x"}, {"name": "y"}]), json!(i32::MAX)).contains("more than 2147483647"));
    for hostile in [
        json!(null),
        json!([]),
        json!({"metadata": {"name": "a"}, "spec": {"template": {"spec": []}}}),
    ] {
        assert!(from_federated(&hostile).is_err());
    }
}

proptest! {
    #[test]
    fn each_cluster_gets_the_replicas_that_it_says(numbers in proptest::collection::vec(0..2_000_i64, 1..20)) {
        let clusters: Vec<Value> = numbers.iter().enumerate().map(|(i, n)| json!({"name": format!("c{i:02}"), "replicas": n})).collect();
        let (deployment, policy) = from_federated(&json!({"metadata": {"name": "a"},
            "spec": {"template": {"spec": {}}, "placement": {"clusters": clusters}}})).unwrap();
        let total = deployment["spec"]["replicas"].as_i64().unwrap();
        let names: Vec<String> = (0..numbers.len()).map(|i| format!("c{i:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let expected: Vec<(String, Option<i64>)> = names.iter().zip(&numbers)
            .filter(|(_, n)| total == 0 || **n > 0).map(|(name, n)| ((*name).to_owned(), Some(*n))).collect();
        prop_assert_eq!(shares(&policy["spec"]["placement"], total, &names), expected);
    }
}
