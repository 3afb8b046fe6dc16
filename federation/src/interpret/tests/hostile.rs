//! Objects of any shape: no function panics on them, and what is to happen once happens once.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::super::{Health, Item, aggregate, dependencies, health, prune, reflect, replicas, retain, set_replicas};

const KINDS: [(&str, &str); 17] = [
    ("apps/v1", "DaemonSet"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "ReplicaSet"),
    ("apps/v1", "StatefulSet"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("batch/v1", "CronJob"),
    ("batch/v1", "Job"),
    ("edge.example.io/v1", "Device"),
    ("multicluster.x-k8s.io/v1alpha1", "ServiceImport"),
    ("networking.k8s.io/v1", "Ingress"),
    ("policy/v1", "PodDisruptionBudget"),
    ("v1", "PersistentVolume"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "Pod"),
    ("v1", "Secret"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
];

/// Fields that some rule looks at.
const FIELDS: &str = "active allocateLoadBalancerNodePorts annotations availableReplicas azureFile claimName claimRef clusterIP clusterIPs \
    completionTime completions conditions configMap configMapKeyRef configMapRef containerStatuses containers cpu currentHealthy data \
    desiredHealthy desiredReplicas disruptedPods env envFrom externalTrafficPolicy failed finalizers generation healthCheckNodePort hostname \
    imagePullSecrets ingress initContainers ip ipMode jobTemplate labels lastScheduleTime lastTransitionTime limits loadBalancer \
    manualSelector matchLabels memory metadata name namespace nodeName nodePort nodeSelector observedGeneration overhead ownerReferences \
    parallelism persistentVolumeClaim phase port ports projected protocol ready replicas requests resources resourceTemplateGeneration \
    resourceVersion secret secretName secretRef secrets selector serviceAccountName sources spec startTime state status succeeded template tls \
    tolerations type updatedReplicas valueFrom volumeClaimTemplates volumeMounts volumeName volumes resourcetemplate.karmada.io/generation \
    resourcetemplate.karmada.io/managed-labels resourcetemplate.karmada.io/managed-annotations resourcetemplate.karmada.io/retain-replicas";

/// Texts that some rule looks for.
const TEXTS: &str = "true True Complete Failed SuccessCriteriaMet Running Bound Lost Ready LoadBalancer NodePort ExternalName None Local TCP UDP \
    kubernetes.io/service-account-token default 50m 1Gi -1 1e400 2026-11-21T03:08:55Z 1999-13-99T99:99:99Z name,labels, a b";

fn word(of: &'static str) -> impl Strategy<Value = String> {
    proptest::sample::select(of.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2..9_i64).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word(TEXTS).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            1 => proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => proptest::collection::btree_map(word(FIELDS), inner, 0..6)
                .prop_map(|map| Value::Object(Map::from_iter(map))),
        ]
    })
}

/// An object of one of the kinds, with anything where its parts belong.
fn any_object() -> impl Strategy<Value = Value> {
    let part = || proptest::collection::btree_map(word(FIELDS), any_json(), 0..9).prop_map(|map| json!(map));
    let part = move || prop_oneof![4 => part(), 1 => any_json()];
    (
        proptest::sample::select(KINDS.to_vec()),
        part(),
        part(),
        part(),
        any_json(),
    )
        .prop_map(|((api_version, kind), metadata, spec, status, other)| {
            let mut object = json!({ "metadata": metadata, "spec": spec, "status": status });
            if let (Some(object), Value::Object(other)) = (object.as_object_mut(), other) {
                object.extend(other);
            }
            object["apiVersion"] = json!(api_version);
            object["kind"] = json!(kind);
            object
        })
}

fn try_all(object: &Value, other: &Value) {
    let items = [
        Item {
            cluster: "a",
            status: Some(other),
        },
        Item {
            cluster: "b",
            status: other.get("status"),
        },
        Item {
            cluster: "c",
            status: None,
        },
    ];
    for items in [&items[..], &items[..2], &items[..1], &[]] {
        if let Some(status) = aggregate(object, items) {
            // What was written once is not written again.
            let mut written = object.clone();
            written["status"] = status;
            assert_eq!(aggregate(&written, items), None);
        }
    }
    let _: Health = health(object);
    let _ = reflect(object);
    let needed = dependencies(object);
    assert!(needed.is_sorted_by(|a, b| a < b));
    if let Some(wanted) = replicas(object) {
        assert!((0..=i64::from(i32::MAX)).contains(&wanted.count));
    }
    let mut changed = object.clone();
    set_replicas(&mut changed, i64::MIN);
    prune(&mut changed);
    let once = changed.clone();
    prune(&mut changed);
    assert_eq!(changed, once);

    let mut desired = object.clone();
    retain(&mut desired, other);
    let once = desired.clone();
    retain(&mut desired, other);
    assert_eq!(desired, once);
    assert_eq!(desired.get("status"), object.get("status"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 768, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics_on_objects_of_any_shape(object in any_object(), other in any_object()) {
        let mut same_kind = other.clone();
        same_kind["apiVersion"] = object["apiVersion"].clone();
        same_kind["kind"] = object["kind"].clone();
        try_all(&object, &same_kind);
        try_all(&object, &other);
    }

    #[test]
    fn nothing_panics_on_what_is_no_object(value in any_json(), other in any_json()) {
        try_all(&value, &other);
    }
}
