//! What reports add up to: rules that no recorded object shows.

use serde_json::{Value, json};

use super::super::{Item, aggregate};
use super::object;

/// The template's status, where it has none, after these reports.
fn summed(kind: &str, rest: Value, reports: &[Value]) -> Option<Value> {
    let clusters = ["m1", "m2", "m3"];
    let items: Vec<Item<'_>> = reports
        .iter()
        .zip(clusters)
        .map(|(report, cluster)| Item {
            cluster,
            status: (!report.is_null()).then_some(report),
        })
        .collect();
    aggregate(&object(kind, rest), &items)
}

#[test]
fn workloads_add_up_and_are_observed_when_every_cluster_has_the_latest() {
    let report = |template: i64, seen: i64| {
        json!({
            "generation": 5, "observedGeneration": seen, "resourceTemplateGeneration": template, "replicas": 2, "readyReplicas": 1
        })
    };
    let rest = json!({
        "metadata": { "generation": 3 },
        "status": { "observedGeneration": 2, "readyReplicas": 9, "unavailableReplicas": 1, "conditions": [{ "type": "Own" }] }
    });
    let after = |reports: &[Value]| summed("apps/v1 Deployment", rest.clone(), reports).expect("a status");
    let expected = |observed: i64, clusters: i64| {
        json!({
            "observedGeneration": observed, "replicas": 2 * clusters, "readyReplicas": clusters, "conditions": [{ "type": "Own" }]
        })
    };
    assert_eq!(after(&[report(3, 5), report(3, 5)]), expected(3, 2));
    assert_eq!(after(&[report(3, 5), report(2, 5)]), expected(2, 2));
    assert_eq!(after(&[report(3, 5), report(3, 4)]), expected(2, 2));
    assert_eq!(after(&[report(3, 5), Value::Null]), expected(2, 1));
    assert_eq!(
        after(&[]),
        json!({ "observedGeneration": 3, "conditions": [{ "type": "Own" }] })
    );

    let sets = summed(
        "apps/v1 ReplicaSet",
        json!({ "metadata": { "generation": 3 } }),
        &[report(3, 5), report(3, 5)],
    );
    assert_eq!(
        sets,
        Some(json!({ "observedGeneration": 3, "replicas": 4, "readyReplicas": 2 }))
    );
    // One member's nonsense does not make a status that no server takes.
    let nonsense = [
        json!({ "replicas": i64::MAX }),
        json!({ "replicas": -5, "readyReplicas": "1" }),
        json!({ "replicas": 1 }),
    ];
    assert_eq!(
        summed(
            "apps/v1 Deployment",
            json!({ "metadata": { "generation": 1 } }),
            &nonsense
        ),
        Some(json!({ "replicas": i32::MAX }))
    );
    let scaled = summed(
        "autoscaling/v2 HorizontalPodAutoscaler",
        json!({}),
        &[
            json!({ "currentReplicas": 1, "desiredReplicas": 2 }),
            json!({ "desiredReplicas": 3 }),
        ],
    );
    assert_eq!(scaled, Some(json!({ "currentReplicas": 1, "desiredReplicas": 5 })));
    let budget = json!({ "currentHealthy": 1, "expectedPods": 1, "disruptedPods": { "p": "2026-11-21T03:08:55Z" } });
    assert_eq!(
        summed("policy/v1 PodDisruptionBudget", json!({}), &[budget.clone(), budget]),
        Some(json!({
            "currentHealthy": 2, "expectedPods": 2, "desiredHealthy": 0, "disruptionsAllowed": 0,
            "disruptedPods": { "m1/p": "2026-11-21T03:08:55Z", "m2/p": "2026-11-21T03:08:55Z" }
        }))
    );
    assert_eq!(summed("v1 ConfigMap", json!({}), &[json!({ "a": 1 })]), None);
    assert_eq!(
        summed(
            "v1 Service",
            json!({}),
            &[json!({ "loadBalancer": { "ingress": [{ "ip": "a" }] } })]
        ),
        None
    );
}

#[test]
fn a_job_is_done_where_all_are_and_failed_where_one_is() {
    let ended = |how: &str, at: &str| {
        json!({
            "startTime": "2026-11-21T03:00:00Z", "completionTime": at,
            "conditions": [{ "type": how, "status": "True", "lastTransitionTime": at }]
        })
    };
    let running = json!({ "active": 1, "startTime": "2026-11-21T02:00:00Z" });
    let (early, late) = ("2026-11-21T03:08:55Z", "2026-11-21T04:00:00Z");

    let both = summed(
        "batch/v1 Job",
        json!({}),
        &[ended("Complete", late), ended("Complete", early)],
    )
    .expect("a status");
    assert_eq!(both["completionTime"], late);
    assert_eq!(
        both["conditions"],
        json!([{
            "type": "Complete", "status": "True", "reason": "Completed", "message": "Job completed",
            "lastProbeTime": late, "lastTransitionTime": late
        }])
    );
    let half = summed("batch/v1 Job", json!({}), &[ended("Complete", early), running.clone()]);
    assert_eq!(half, Some(json!({ "active": 1, "startTime": "2026-11-21T02:00:00Z" })));
    let silent = summed("batch/v1 Job", json!({}), &[ended("Complete", early), Value::Null]);
    assert_eq!(silent, None);
    let failed = summed(
        "batch/v1 Job",
        json!({}),
        &[running, ended("Failed", early), ended("Failed", late)],
    )
    .expect("a status");
    assert_eq!(
        failed["conditions"],
        json!([{
            "type": "Failed", "status": "True", "reason": "JobFailed",
            "message": "Job executed failed in member clusters m2,m3", "lastProbeTime": late, "lastTransitionTime": late
        }])
    );
    // It has come to its end.
    assert_eq!(
        summed("batch/v1 Job", json!({ "status": failed }), &[ended("Complete", late)]),
        None
    );

    let runs = [
        json!({ "active": [{ "name": "a" }], "lastScheduleTime": early, "lastSuccessfulTime": late }),
        json!({ "active": [{ "name": "b" }], "lastScheduleTime": late, "lastSuccessfulTime": "~~~~" }),
    ];
    assert_eq!(
        summed("batch/v1 CronJob", json!({}), &runs),
        Some(
            json!({ "active": [{ "name": "a" }, { "name": "b" }], "lastScheduleTime": late, "lastSuccessfulTime": late })
        )
    );
}

#[test]
fn the_phase_that_wants_attention_most_is_the_templates() {
    let phase = |kind: &str, phases: &[&str]| {
        let reports: Vec<Value> = phases
            .iter()
            .map(|phase| {
                if phase.is_empty() {
                    Value::Null
                } else {
                    json!({ "phase": phase })
                }
            })
            .collect();
        let status = summed(kind, json!({}), &reports)?;
        status["phase"].as_str().map(str::to_owned)
    };
    for (kind, phases, expected) in [
        ("v1 Pod", &["Running", "Failed", "Pending"][..], Some("Failed")),
        ("v1 Pod", &["Running", "Pending"], Some("Pending")),
        ("v1 Pod", &["Succeeded", "Running"], Some("Running")),
        ("v1 Pod", &["Succeeded", "Succeeded"], Some("Succeeded")),
        ("v1 Pod", &["Running", ""], Some("Pending")),
        ("v1 Pod", &["Unheard-of"], None),
        ("v1 Pod", &[], None),
        ("v1 PersistentVolume", &["Bound", "Available"], Some("Available")),
        ("v1 PersistentVolume", &["Released", "Bound"], Some("Bound")),
        ("v1 PersistentVolume", &["Bound", ""], Some("Pending")),
        ("v1 PersistentVolumeClaim", &["Bound", "Bound"], Some("Bound")),
        ("v1 PersistentVolumeClaim", &["Bound", "Pending"], Some("Pending")),
        ("v1 PersistentVolumeClaim", &["Lost", "Pending"], Some("Lost")),
    ] {
        assert_eq!(phase(kind, phases).as_deref(), expected, "{kind} {phases:?}");
    }
    let report = json!({
        "phase": "Running",
        "containerStatuses": [{ "name": "a", "ready": true, "restartCount": 3, "state": { "running": {} } }],
        "initContainerStatuses": [{ "name": "i" }]
    });
    let status = summed("v1 Pod", json!({}), &[report.clone(), report]).expect("a status");
    let container = |ready: bool, state: Value| {
        json!({
            "name": "", "image": "", "imageID": "", "lastState": {}, "restartCount": 0, "ready": ready, "state": state
        })
    };
    let (main, init) = (container(true, json!({ "running": {} })), container(false, json!({})));
    assert_eq!(status["containerStatuses"], json!([main, main]));
    assert_eq!(status["initContainerStatuses"], json!([init, init]));
}

#[test]
fn addresses_are_united() {
    let reports = [
        json!({ "loadBalancer": { "ingress": [{ "ip": "2.2.2.2", "ipMode": "VIP" }, { "ip": "1.1.1.1" }] } }),
        json!({ "loadBalancer": { "ingress": [
            { "ip": "2.2.2.2" }, { "ip": "1.1.1.1", "ports": [{ "port": 81, "protocol": "TCP" }, { "port": 80, "protocol": "TCP" }] },
            { "hostname": "b" }, { "hostname": "a", "ports": [{ "port": 1, "protocol": "TCP", "error": "no" }] }, {}, 5
        ] } }),
        json!({ "loadBalancer": { "ingress": [{ "ip": "1.1.1.1", "ports": [{ "port": 80, "protocol": "TCP" }] }] } }),
    ];
    let named =
        json!([{ "hostname": "a", "ports": [{ "port": 1, "protocol": "TCP", "error": "no" }] }, { "hostname": "b" }]);
    let first =
        json!({ "ip": "1.1.1.1", "ports": [{ "port": 80, "protocol": "TCP" }, { "port": 81, "protocol": "TCP" }] });
    assert_eq!(
        summed("v1 Service", json!({ "spec": { "type": "LoadBalancer" } }), &reports),
        Some(json!({ "loadBalancer": { "ingress": [
            named[0], named[1], first, { "ip": "2.2.2.2", "ipMode": "VIP" }, { "ip": "2.2.2.2" }
        ] } }))
    );
    assert_eq!(
        summed("networking.k8s.io/v1 Ingress", json!({}), &reports),
        Some(json!({ "loadBalancer": { "ingress": [named[0], named[1], first, { "ip": "2.2.2.2" }] } }))
    );
    // The last address is gone.
    let before = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "1.1.1.1" }] } } });
    assert_eq!(
        summed("networking.k8s.io/v1 Ingress", before, &[json!({})]),
        Some(json!({ "loadBalancer": {} }))
    );
}
