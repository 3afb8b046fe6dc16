//! What workloads ask for and need: rules that no recorded object shows.

use serde_json::{Value, json};

use super::super::{dependencies, replicas, set_replicas};
use super::object;

#[test]
fn a_pod_asks_for_the_sum_or_for_its_largest_beginning() {
    let pod = json!({
        "priorityClassName": "high", "nodeSelector": { "disk": "ssd", "odd": 1 },
        "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [] } } },
        "overhead": { "cpu": "10m" },
        "containers": [
            { "resources": { "requests": { "cpu": "100m", "memory": "64Mi" }, "limits": { "cpu": "1", "a.example/gpu": 1 } } },
            { "resources": { "requests": { "cpu": "0.15", "unknown": "1", "memory": "x" }, "limits": { "memory": "192Mi" } } },
            { "resources": { "limits": { "memory": "64Mi", "hugepages-2Mi": "4Mi" } } }
        ],
        "initContainers": [{ "resources": { "requests": { "cpu": "50m", "memory": "1Gi" } } }]
    });
    let template = json!({ "metadata": { "namespace": "fx" }, "spec": { "replicas": 3, "template": { "spec": pod } } });
    let asked = replicas(&object("apps/v1 Deployment", template)).expect("a workload");
    assert_eq!(asked.count, 3);
    assert_eq!(
        json!(asked.requests),
        json!({ "cpu": "260m", "memory": "1Gi", "a.example/gpu": "1", "hugepages-2Mi": "4Mi" })
    );
    assert_eq!(json!(asked.node_selector), json!({ "disk": "ssd" }));
    assert_eq!(asked.node_affinity, Some(json!({ "nodeSelectorTerms": [] })));
    assert_eq!(
        (asked.priority_class.as_str(), asked.namespace.as_str()),
        ("high", "fx")
    );
}

#[test]
fn replicas_are_counted_and_set_by_kind() {
    let count = |kind: &str, spec: Value| replicas(&object(kind, json!({ "spec": spec }))).map(|asked| asked.count);
    assert_eq!(count("apps/v1 StatefulSet", json!({ "replicas": 0 })), Some(0));
    assert_eq!(count("apps/v1 ReplicaSet", json!({})), Some(1));
    assert_eq!(count("apps/v1 Deployment", json!({ "replicas": -3 })), Some(0));
    assert_eq!(count("batch/v1 Job", json!({ "parallelism": 5 })), Some(5));
    assert_eq!(
        count("batch/v1 Job", json!({ "parallelism": 5, "completions": 2 })),
        Some(2)
    );
    assert_eq!(count("v1 Pod", json!({})), Some(1));
    for kind in [
        "apps/v1 DaemonSet",
        "batch/v1 CronJob",
        "v1 ConfigMap",
        "extensions/v1beta1 Deployment",
    ] {
        assert_eq!(count(kind, json!({ "replicas": 3 })), None, "{kind}");
    }
    for (kind, spec) in [
        ("apps/v1 Deployment", json!({ "replicas": 7 })),
        ("apps/v1 ReplicaSet", json!({ "replicas": 7 })),
        ("apps/v1 StatefulSet", json!({ "replicas": 7 })),
        ("batch/v1 Job", json!({ "parallelism": 7 })),
        ("apps/v1 DaemonSet", json!({})),
    ] {
        let mut workload = object(kind, json!({ "spec": {} }));
        set_replicas(&mut workload, 7);
        assert_eq!(workload["spec"], spec, "{kind}");
    }
}

#[test]
fn what_is_named_anywhere_in_a_pod_is_needed_once() {
    let volumes: Vec<Value> = [
        json!({ "azureFile": { "secretName": "s-azure" } }),
        json!({ "cephfs": { "secretRef": { "name": "s-ceph" } } }),
        json!({ "cinder": { "secretRef": { "name": "s-cinder" } } }),
        json!({ "csi": { "nodePublishSecretRef": { "name": "s-csi" } } }),
        json!({ "flexVolume": { "secretRef": { "name": "s-flex" } } }),
        json!({ "iscsi": { "secretRef": { "name": "s-iscsi" } } }),
        json!({ "rbd": { "secretRef": { "name": "s-rbd" } } }),
        json!({ "scaleIO": { "secretRef": { "name": "s-scale" } } }),
        json!({ "storageos": { "secretRef": { "name": "s-storage" } } }),
        json!({ "secret": { "secretName": "s-volume" } }),
        json!({ "configMap": { "name": "c-volume" } }),
        json!({ "projected": { "sources": [{ "secret": { "name": "s-projected" } }, { "configMap": { "name": "c-projected" } }] } }),
        json!({ "persistentVolumeClaim": { "claimName": "own" } }),
        json!({ "persistentVolumeClaim": { "claimName": "other" } }),
        json!({ "emptyDir": {} }),
    ]
    .to_vec();
    let pod = json!({
        "serviceAccountName": "runner",
        "imagePullSecrets": [{ "name": "s-pull" }, { "name": "" }, {}],
        "containers": [{ "envFrom": [{ "configMapRef": { "name": "c-from" } }, { "secretRef": { "name": "s-from" } }] }],
        "initContainers": [{ "env": [
            { "valueFrom": { "secretKeyRef": { "name": "s-env" } } }, { "valueFrom": { "configMapKeyRef": { "name": "c-env" } } }
        ] }],
        "ephemeralContainers": [{ "envFrom": [{ "configMapRef": { "name": "c-from" } }] }],
        "volumes": volumes
    });
    let names = |kind: &str, spec: Value| {
        let needed = dependencies(&object(kind, json!({ "spec": spec })));
        assert!(
            needed
                .iter()
                .all(|needed| needed.api_version == "v1" && needed.namespace == "fx")
        );
        needed
            .iter()
            .map(|needed| format!("{} {}", needed.kind, needed.name))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let all = "ConfigMap c-env\nConfigMap c-from\nConfigMap c-projected\nConfigMap c-volume\n\
        PersistentVolumeClaim other\nPersistentVolumeClaim own\n\
        Secret s-azure\nSecret s-ceph\nSecret s-cinder\nSecret s-csi\nSecret s-env\nSecret s-flex\nSecret s-from\nSecret s-iscsi\n\
        Secret s-projected\nSecret s-pull\nSecret s-rbd\nSecret s-scale\nSecret s-storage\nSecret s-volume\nServiceAccount runner";
    for kind in [
        "apps/v1 Deployment",
        "apps/v1 ReplicaSet",
        "apps/v1 DaemonSet",
        "batch/v1 Job",
    ] {
        assert_eq!(names(kind, json!({ "template": { "spec": pod } })), all, "{kind}");
    }
    assert_eq!(names("v1 Pod", pod.clone()), all);
    assert_eq!(
        names(
            "batch/v1 CronJob",
            json!({ "jobTemplate": { "spec": { "template": { "spec": pod } } } })
        ),
        all
    );
    let set = json!({ "template": { "spec": pod }, "volumeClaimTemplates": [{ "metadata": { "name": "own" } }] });
    assert_eq!(
        names("apps/v1 StatefulSet", set),
        all.replace("PersistentVolumeClaim own\n", "")
    );

    assert_eq!(names("v1 Pod", json!({ "serviceAccountName": "default" })), "");
    assert_eq!(
        names(
            "networking.k8s.io/v1 Ingress",
            json!({ "tls": [{ "secretName": "b" }, { "secretName": "a" }, { "secretName": "b" }, {}] })
        ),
        "Secret a\nSecret b"
    );
    assert_eq!(
        names("multicluster.x-k8s.io/v1alpha1 ServiceImport", json!({})),
        "Service derived-a"
    );
    assert_eq!(names("v1 ConfigMap", json!({ "template": { "spec": pod } })), "");
}
