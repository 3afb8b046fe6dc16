use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::*;
use crate::crds::CRDS;

/// What comes back of an object that is read into its type and written again.
fn through<T: Serialize + DeserializeOwned>(object: Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_value::<T>(object)?)
}

fn through_its_kind(object: Value) -> Result<Value, serde_json::Error> {
    match object["kind"].as_str().unwrap_or_default() {
        "PropagationPolicy" => through::<PropagationPolicy>(object),
        "ClusterPropagationPolicy" => through::<ClusterPropagationPolicy>(object),
        "OverridePolicy" => through::<OverridePolicy>(object),
        "ClusterOverridePolicy" => through::<ClusterOverridePolicy>(object),
        "ResourceBinding" => through::<ResourceBinding>(object),
        "ClusterResourceBinding" => through::<ClusterResourceBinding>(object),
        "Work" => through::<Work>(object),
        "Cluster" => through::<Cluster>(object),
        "FederatedDeployment" => through::<FederatedDeployment>(object),
        other => panic!("no type for {other}"),
    }
}

#[test]
fn what_karmada_wrote_comes_back() {
    for text in [
        include_str!("../../fixtures/propagationpolicy-fx.json"),
        include_str!("../../fixtures/resourcebinding-deployment-web.json"),
        include_str!("../../fixtures/work-deployment-web-with-override.json"),
        include_str!("../../fixtures/cluster-unknown-lease-expired.json"),
    ] {
        let object: Value = serde_json::from_str(text).unwrap();
        assert_eq!(through_its_kind(object.clone()).unwrap(), object);
    }
}

/// An object with every field that a schema has, each of its enums at the given variant.
fn sample(schema: &Value, variant: usize) -> Value {
    if let Some(Value::Array(names)) = schema.get("enum") {
        return names[variant % names.len()].clone();
    }
    if let Some(items) = schema.get("items") {
        return json!([sample(items, variant), sample(items, variant + 1)]);
    }
    if let Some(values) = schema.get("additionalProperties") {
        return json!({"a": sample(values, variant), "b.c/d": sample(values, variant)});
    }
    if let Some(Value::Object(properties)) = schema.get("properties") {
        return properties
            .iter()
            .map(|(name, of)| (name.clone(), sample(of, variant)))
            .collect();
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => json!({"kept": [1, null, {"as": "it is"}]}),
        Some("boolean") => json!(variant == 1),
        Some("integer") => json!(variant + 7),
        Some("string") => json!("text"),
        Some(other) => panic!("{other}"),
        None if schema.get("x-kubernetes-int-or-string").is_some() => json!("500m"),
        None => json!(["anything", {"at": "all"}]),
    }
}

#[test]
fn every_field_of_every_definition_comes_back() {
    for text in CRDS {
        let definition: Value = serde_saphyr::from_str(text).unwrap();
        let spec = &definition["spec"];
        let version = &spec["versions"][0];
        for variant in 0..3 {
            let mut object = sample(&version["schema"]["openAPIV3Schema"], variant);
            object["apiVersion"] = json!(format!(
                "{}/{}",
                spec["group"].as_str().unwrap(),
                version["name"].as_str().unwrap()
            ));
            object["kind"] = spec["names"]["kind"].clone();
            object["metadata"] = json!({
                "name": "a", "namespace": "b", "uid": "c", "generation": 3, "deletionTimestamp": "2026-11-21T03:08:06Z",
                "labels": {"d": "e"}, "annotations": {"f": "g"}, "finalizers": ["h"], "ownerReferences": [{"name": "x"}],
            });
            assert_eq!(through_its_kind(object.clone()).unwrap(), object);
        }
    }
}

#[test]
fn a_quantity_may_be_a_number() {
    let list: ResourceList = serde_json::from_value(json!({"cpu": 2, "memory": "1Gi", "odd": 0.5})).unwrap();
    assert_eq!(
        serde_json::to_value(&list).unwrap(),
        json!({"cpu": "2", "memory": "1Gi", "odd": "0.5"})
    );
    assert!(serde_json::from_value::<ResourceList>(json!({"cpu": null})).is_err());
}

#[test]
fn old_spellings_are_read() {
    let scheduling: ReplicaScheduling = serde_json::from_value(json!({
        "replicaSchedulingType": "Weighted", "replicaDivisionPreference": "Aggregated",
        "weightList": [{"targetCluster": {"clusterNames": ["a"]}, "weight": 60}],
    }))
    .unwrap();
    assert_eq!(
        scheduling.replica_scheduling_type,
        Some(ReplicaSchedulingType::Weighted)
    );
    assert_eq!(scheduling.weight_list[0].weight, 60);
}

#[test]
fn what_is_left_empty_is_absent() {
    let policy: PropagationPolicy = serde_json::from_value(json!({"metadata": {"name": "p", "labels": null}, "spec": {
        "resourceSelectors": [{"apiVersion": "v1", "kind": "Secret", "name": null, "labelSelector": {"matchLabels": null}}],
        "placement": {"clusterAffinity": {}, "clusterTolerations": null}}}))
    .unwrap();
    let placement = policy.spec.placement.unwrap();
    // An empty condition holds for every cluster, as none does; an empty selector is not the same as none everywhere.
    assert_eq!(placement.cluster_affinity, Some(ClusterAffinity::default()));
    assert_eq!(
        policy.spec.resource_selectors[0].label_selector,
        Some(LabelSelector::default())
    );
    assert!(serde_json::from_value::<PropagationPolicy>(json!({"metadata": {"name": "p"}, "spec": {}})).is_err());
}

/// Any JSON, with many of the fields' own names in it.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[A-Za-z]{0,8}".prop_map(Value::from),
    ];
    let name = prop_oneof![
        "metadata|spec|status|placement|clusters|name|replicas|workload|manifests|resource|template",
        "[a-z]{1,3}"
    ];
    leaf.prop_recursive(5, 48, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..5).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn any_object_is_read_or_refused(body in anything(), which in 0..9_usize) {
        let definition: Value = serde_saphyr::from_str(CRDS[which]).unwrap();
        let mut object = body;
        if !object.is_object() {
            object = json!({"spec": object});
        }
        object["kind"] = definition["spec"]["names"]["kind"].clone();
        if let Ok(once) = through_its_kind(object) {
            prop_assert_eq!(through_its_kind(once.clone()).unwrap(), once);
        }
    }
}
