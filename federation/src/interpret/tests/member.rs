//! What a member does with an object: rules that no recorded one shows.

use serde_json::{Value, json};

use super::super::{Health, health, prune, reflect, retain};
use super::object;

fn retained(kind: &str, desired: Value, observed: Value) -> Value {
    let mut desired = object(kind, desired);
    retain(&mut desired, &object(kind, observed));
    desired
}

fn pruned(kind: &str, rest: Value) -> Value {
    let mut object = object(kind, rest);
    prune(&mut object);
    object
}

#[test]
fn a_member_keeps_its_own_labels_and_loses_those_that_no_manifest_brings_any_more() {
    let observed = json!({
        "resourceVersion": "7", "uid": "u", "generation": 3,
        "finalizers": ["member/f"], "ownerReferences": [{ "name": "o" }],
        "labels": { "kept": "old", "gone": "x", "member": "y" },
        "annotations": {
            "resourcetemplate.karmada.io/managed-labels": "gone,kept",
            "resourcetemplate.karmada.io/managed-annotations": "note,resourcetemplate.karmada.io/managed-annotations",
            "note": "x", "deployment.kubernetes.io/revision": "4", "odd": 5
        }
    });
    let desired = json!({
        "resourceVersion": "1", "finalizers": ["template/f"],
        "labels": { "kept": "new" },
        "annotations": { "resourcetemplate.karmada.io/managed-labels": "kept" }
    });
    let got = retained(
        "apps/v1 Deployment",
        json!({ "metadata": desired }),
        json!({ "metadata": observed }),
    );
    assert_eq!(
        got["metadata"],
        json!({
            "resourceVersion": "7", "finalizers": ["member/f"], "ownerReferences": [{ "name": "o" }],
            "labels": { "kept": "new", "member": "y" },
            "annotations": {
                "resourcetemplate.karmada.io/managed-labels": "kept",
                "deployment.kubernetes.io/revision": "4"
            }
        })
    );
    // A member without finalizers has none afterwards, whatever the manifest says.
    let got = retained(
        "v1 ConfigMap",
        json!({ "metadata": { "finalizers": ["template/f"] } }),
        json!({}),
    );
    assert_eq!(got["metadata"], json!({}));
}

#[test]
fn an_autoscaler_at_the_member_has_its_number_only_where_the_template_allows_it() {
    let replicas = |labels: Value| {
        let desired = json!({ "metadata": { "labels": labels }, "spec": { "replicas": 2 } });
        let got = retained("apps/v1 Deployment", desired, json!({ "spec": { "replicas": 0 } }));
        got["spec"]["replicas"].clone()
    };
    assert_eq!(
        replicas(json!({ "resourcetemplate.karmada.io/retain-replicas": "true" })),
        0
    );
    assert_eq!(
        replicas(json!({ "resourcetemplate.karmada.io/retain-replicas": "false" })),
        2
    );
    assert_eq!(replicas(json!({})), 2);
}

#[test]
fn a_pod_stays_where_it_is_with_what_it_has() {
    let desired = json!({ "spec": {
        "nodeName": "other", "volumes": [{ "name": "mine" }],
        "initContainers": [{ "name": "i", "image": "i:2" }],
        "containers": [{ "name": "a", "image": "a:2", "volumeMounts": [{ "name": "mine" }] }, { "name": "b", "volumeMounts": [] }]
    } });
    let observed = json!({ "spec": {
        "nodeName": "n1", "serviceAccountName": "default", "volumes": [{ "name": "token" }],
        "initContainers": [{ "name": "i", "image": "i:1", "volumeMounts": [{ "name": "token" }] }],
        "containers": [{ "name": "a", "image": "a:1", "volumeMounts": [{ "name": "token" }] }]
    } });
    assert_eq!(
        retained("v1 Pod", desired, observed)["spec"],
        json!({
            "nodeName": "n1", "serviceAccountName": "default", "volumes": [{ "name": "token" }],
            "initContainers": [{ "name": "i", "image": "i:2", "volumeMounts": [{ "name": "token" }] }],
            "containers": [{ "name": "a", "image": "a:2", "volumeMounts": [{ "name": "token" }] }, { "name": "b", "volumeMounts": [] }]
        })
    );
}

#[test]
fn a_service_keeps_the_addresses_and_ports_that_its_type_has() {
    let observed = json!({ "spec": {
        "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "healthCheckNodePort": 30500,
        "ports": [{ "port": 80, "nodePort": 30080 }, { "port": 53, "protocol": "UDP", "nodePort": 30053 }]
    } });
    let service = |spec: Value| retained("v1 Service", json!({ "spec": spec }), observed.clone())["spec"].clone();
    let ports =
        json!([{ "port": 53 }, { "port": 53, "protocol": "UDP" }, { "port": 80, "protocol": "TCP" }, { "port": 81 }]);
    assert_eq!(
        service(json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": ports })),
        json!({
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "healthCheckNodePort": 30500,
            "ports": [
                { "port": 53 }, { "port": 53, "protocol": "UDP", "nodePort": 30053 },
                { "port": 80, "protocol": "TCP", "nodePort": 30080 }, { "port": 81 }
            ]
        })
    );
    // One that has been moved to another port of the same Service is not given twice.
    let moved = json!({ "type": "NodePort", "ports": [{ "port": 80 }, { "port": 81, "nodePort": 30080 }] });
    assert_eq!(service(moved.clone())["ports"], moved["ports"]);
    let inside = json!({ "ports": [{ "port": 80 }] });
    assert_eq!(
        service(inside),
        json!({ "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{ "port": 80 }] })
    );
    let elsewhere = json!({ "type": "ExternalName", "externalName": "a.example" });
    assert_eq!(service(elsewhere.clone()), elsewhere);
}

#[test]
fn what_a_members_controllers_fill_in_stays() {
    let got = retained(
        "v1 ServiceAccount",
        json!({ "secrets": [{ "name": "a" }] }),
        json!({ "secrets": [{ "name": "a", "old": true }, { "name": "a-token-x" }, {}], "imagePullSecrets": [{ "name": "p" }] }),
    );
    assert_eq!(got["secrets"], json!([{ "name": "a" }, { "name": "a-token-x" }]));
    assert_eq!(got["imagePullSecrets"], json!([{ "name": "p" }]));

    let got = retained(
        "v1 PersistentVolumeClaim",
        json!({}),
        json!({ "spec": { "volumeName": "pv-1" } }),
    );
    assert_eq!(got["spec"]["volumeName"], "pv-1");
    let got = retained(
        "v1 PersistentVolume",
        json!({ "spec": { "claimRef": { "name": "x" } } }),
        json!({ "spec": { "claimRef": { "name": "y" } } }),
    );
    assert_eq!(got["spec"]["claimRef"]["name"], "y");

    let own = json!({ "spec": {
        "selector": { "matchLabels": { "controller-uid": "u" } },
        "template": { "metadata": { "labels": { "controller-uid": "u", "app": "a" } }, "spec": { "x": 1 } }
    } });
    let got = retained(
        "batch/v1 Job",
        json!({ "spec": { "selector": { "matchLabels": {} }, "template": {} } }),
        own,
    );
    assert_eq!(
        got["spec"],
        json!({
            "selector": { "matchLabels": { "controller-uid": "u" } },
            "template": { "metadata": { "labels": { "controller-uid": "u", "app": "a" } } }
        })
    );

    let token = "kubernetes.io/service-account-token";
    let data = json!({ "data": { "token": "dA==" } });
    assert_eq!(
        retained("v1 Secret", json!({ "type": token }), data.clone())["data"],
        data["data"]
    );
    assert_eq!(
        retained("v1 Secret", json!({ "type": "Opaque" }), data).get("data"),
        None
    );
}

#[test]
fn what_a_server_or_a_controller_wrote_does_not_travel() {
    let got = pruned(
        "apps/v1 Deployment",
        json!({
            "metadata": {
                "name": "a", "uid": "u", "generation": 1, "resourceVersion": "1", "selfLink": "/", "managedFields": [],
                "creationTimestamp": null, "deletionTimestamp": "t", "deletionGracePeriodSeconds": 0,
                "ownerReferences": [{}], "finalizers": ["f"],
                "annotations": { "deployment.kubernetes.io/revision": "1", "own": "x" }
            },
            "status": { "replicas": 1 }
        }),
    );
    let metadata = json!({ "name": "a", "annotations": { "own": "x" } });
    assert_eq!(
        got,
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata })
    );

    let job = json!({ "spec": { "manualSelector": true, "selector": { "matchLabels": { "controller-uid": "u" } } } });
    assert_eq!(pruned("batch/v1 Job", job.clone())["spec"], job["spec"]);
    let headless = json!({ "spec": { "clusterIP": "None", "clusterIPs": ["None"] } });
    assert_eq!(pruned("v1 Service", headless.clone())["spec"], headless["spec"]);
    let secrets = json!([{ "name": "a-token-1" }, { "name": "a-token-2" }, { "name": "own" }]);
    assert_eq!(
        pruned("v1 ServiceAccount", json!({ "secrets": secrets }))["secrets"],
        json!([{ "name": "own" }])
    );
    let token = json!({ "type": "kubernetes.io/service-account-token", "data": { "token": "dA==" } });
    assert_eq!(pruned("v1 Secret", token).get("data"), None);
    let claim = json!({ "metadata": { "annotations": { "volume.kubernetes.io/selected-node": "n", "own": "x" } } });
    assert_eq!(
        pruned("v1 PersistentVolumeClaim", claim)["metadata"]["annotations"],
        json!({ "own": "x" })
    );
}

#[test]
fn a_report_has_the_fields_of_its_kind() {
    let metadata = json!({ "generation": 4, "annotations": { "resourcetemplate.karmada.io/generation": "3" } });
    let of = |kind: &str, status: Value| reflect(&object(kind, json!({ "metadata": metadata, "status": status })));
    assert_eq!(
        of(
            "apps/v1 ReplicaSet",
            json!({ "replicas": 0, "fullyLabeledReplicas": 2, "observedGeneration": 4 })
        ),
        Some(json!({ "generation": 4, "resourceTemplateGeneration": 3, "replicas": 0, "observedGeneration": 4 }))
    );
    assert_eq!(
        of(
            "apps/v1 StatefulSet",
            json!({ "observedGeneration": 4, "currentRevision": "r" })
        ),
        Some(json!({ "generation": 4, "resourceTemplateGeneration": 3, "replicas": 0, "availableReplicas": 0 }))
    );
    assert_eq!(
        of(
            "policy/v1 PodDisruptionBudget",
            json!({ "currentHealthy": 2, "disruptedPods": { "p": "t" }, "conditions": [] })
        ),
        Some(json!({
            "currentHealthy": 2, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0, "disruptedPods": { "p": "t" }
        }))
    );
    assert_eq!(
        of(
            "autoscaling/v2 HorizontalPodAutoscaler",
            json!({ "desiredReplicas": 2, "currentMetrics": [] })
        ),
        Some(json!({ "desiredReplicas": 2 }))
    );
    assert_eq!(
        of("batch/v1 Job", json!({ "active": 1, "ready": 1 })),
        Some(json!({ "active": 1 }))
    );
    for whole in [
        "v1 Pod",
        "v1 PersistentVolumeClaim",
        "networking.k8s.io/v1 Ingress",
        "batch/v1 CronJob",
        "a.example/v1 Service",
    ] {
        assert_eq!(
            of(whole, json!({ "own": { "a": 1 } })),
            Some(json!({ "own": { "a": 1 } })),
            "{whole}"
        );
    }
    assert_eq!(reflect(&object("v1 Pod", json!({}))), None);
    assert_eq!(reflect(&object("v1 Pod", json!({ "status": "none" }))), None);

    // Without the annotation, or with one that is no number, the template's generation is left out.
    for annotations in [json!({}), json!({ "resourcetemplate.karmada.io/generation": "x" })] {
        let made_here =
            json!({ "metadata": { "generation": 1, "annotations": annotations }, "status": { "replicas": 1 } });
        assert_eq!(
            reflect(&object("apps/v1 Deployment", made_here)),
            Some(json!({ "generation": 1, "replicas": 1 }))
        );
    }
    assert_eq!(reflect(&object("apps/v1 Deployment", json!({ "status": {} }))), None);
    assert!(reflect(&object("apps/v1 DaemonSet", json!({ "status": {} }))).is_some());
}

#[test]
fn health_goes_by_the_kind() {
    let of = |kind: &str, spec: Value, status: Value| {
        health(&object(
            kind,
            json!({ "metadata": { "generation": 2 }, "spec": spec, "status": status }),
        ))
    };
    let ready = json!({ "observedGeneration": 2, "updatedReplicas": 2, "availableReplicas": 2 });
    for kind in ["apps/v1 Deployment", "apps/v1 StatefulSet"] {
        assert_eq!(of(kind, json!({ "replicas": 2 }), ready.clone()), Health::Healthy);
        assert_eq!(of(kind, json!({}), ready.clone()), Health::Healthy);
        assert_eq!(of(kind, json!({ "replicas": 3 }), ready.clone()), Health::Unhealthy);
        assert_eq!(
            of(kind, json!({}), json!({ "observedGeneration": 1 })),
            Health::Unhealthy
        );
        assert_eq!(
            of(
                kind,
                json!({}),
                json!({ "observedGeneration": 2, "updatedReplicas": 1 })
            ),
            Health::Unhealthy
        );
        assert_eq!(of(kind, json!({ "replicas": "two" }), ready.clone()), Health::Unknown);
        assert_eq!(of(kind, json!({}), json!("ready")), Health::Unknown);
    }
    assert_eq!(
        of("apps/v1 ReplicaSet", json!({ "replicas": 2 }), ready.clone()),
        Health::Healthy
    );
    assert_eq!(
        of("apps/v1 ReplicaSet", json!({ "replicas": 3 }), ready),
        Health::Unhealthy
    );
    let daemons = json!({ "observedGeneration": 2, "desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberAvailable": 1 });
    assert_eq!(of("apps/v1 DaemonSet", json!({}), daemons), Health::Healthy);
    let old = json!({ "observedGeneration": 2, "desiredNumberScheduled": 1, "numberAvailable": 1 });
    assert_eq!(of("apps/v1 DaemonSet", json!({}), old), Health::Unhealthy);

    let balancer = json!({ "type": "LoadBalancer" });
    assert_eq!(of("v1 Service", balancer.clone(), json!({})), Health::Unhealthy);
    let address = json!({ "loadBalancer": { "ingress": [{}, { "hostname": "a" }] } });
    assert_eq!(of("v1 Service", balancer, address.clone()), Health::Healthy);
    assert_eq!(of("v1 Service", json!({}), json!({})), Health::Healthy);
    assert_eq!(of("networking.k8s.io/v1 Ingress", json!({}), address), Health::Healthy);
    assert_eq!(
        of("networking.k8s.io/v1 Ingress", json!({}), json!({})),
        Health::Unhealthy
    );

    let pod = |phase: &str, ready: &str| {
        of(
            "v1 Pod",
            json!({}),
            json!({ "phase": phase, "conditions": [{ "type": "Ready", "status": ready }] }),
        )
    };
    assert_eq!(pod("Succeeded", "False"), Health::Healthy);
    assert_eq!(pod("Running", "True"), Health::Healthy);
    assert_eq!(pod("Running", "False"), Health::Unhealthy);
    assert_eq!(pod("Failed", "True"), Health::Unhealthy);

    let budget = |current: i64| {
        of(
            "policy/v1 PodDisruptionBudget",
            json!({}),
            json!({ "currentHealthy": current, "desiredHealthy": 1 }),
        )
    };
    assert_eq!((budget(1), budget(0)), (Health::Healthy, Health::Unhealthy));
    assert_eq!(
        of("v1 PersistentVolumeClaim", json!({}), json!({ "phase": "Bound" })),
        Health::Healthy
    );
    assert_eq!(of("v1 PersistentVolumeClaim", json!({}), json!({})), Health::Unhealthy);
    for kind in ["batch/v1 Job", "v1 ConfigMap", "a.example/v1 Deployment"] {
        assert_eq!(
            of(kind, json!({}), json!({ "phase": "Failed" })),
            Health::Healthy,
            "{kind}"
        );
    }
}
