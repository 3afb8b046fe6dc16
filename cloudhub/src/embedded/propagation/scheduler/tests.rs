use serde_json::json;

use super::*;

fn binding(placement: Value, replicas: i64, clusters: Value) -> Value {
    let mut binding = json!({
        "metadata": {"annotations": {}},
        "spec": {
            "resource": {"apiVersion": "apps/v1", "kind": "Deployment"},
            "replicas": replicas, "placement": placement, "clusters": clusters,
            "replicaRequirements": {"resourceRequest": {"cpu": "1"}},
        },
        "status": {"conditions": [{"type": "Scheduled", "status": "True"}], "lastScheduledTime": "2026-01-02T00:00:00Z"},
    });
    let noted = Asked::of(&binding).unwrap().noted;
    put(&mut binding, "annotations", APPLIED_PLACEMENT, &noted);
    binding
}

fn clusters(names: &[(&str, &str)]) -> BTreeMap<Arc<str>, Arc<Cluster>> {
    let make = |(name, cpu): &(&str, &str)| {
        let cluster = Cluster::of(&json!({
            "metadata": {"name": name},
            "status": {
                "apiEnablements": [{"groupVersion": "apps/v1", "resources": [{"name": "deployments", "kind": "Deployment"}]}],
                "resourceSummary": {"allocatable": {"cpu": cpu}},
            },
        }));
        (Arc::from(*name), Arc::new(cluster))
    };
    names.iter().map(make).collect()
}

fn divided(preference: &str) -> Value {
    json!({"replicaScheduling": {"replicaSchedulingType": "Divided", "replicaDivisionPreference": preference}})
}

#[test]
fn what_is_divided_is_divided_again_for_a_reason_only() {
    let there = clusters(&[("a", "9"), ("b", "9")]);
    let due = |binding: &Value| Asked::of(binding).unwrap().is_due(binding, &there);
    let four = json!([{"name": "a", "replicas": 4}]);
    let mut settled = binding(divided("Weighted"), 4, four.clone());
    assert!(!due(&settled), "another cluster is no reason");
    assert!(due(&binding(divided("Weighted"), 5, four.clone())), "more replicas");
    assert!(
        due(&binding(
            divided("Weighted"),
            4,
            json!([{"name": "gone", "replicas": 4}])
        )),
        "a cluster went"
    );
    assert!(
        due(&binding(json!({}), 4, four)),
        "one that all have, new ones have too"
    );
    settled["status"]["conditions"][0]["status"] = "False".into();
    assert!(due(&settled), "it failed before");
    settled["status"]["conditions"][0]["status"] = "True".into();
    settled["spec"]["placement"]["clusterAffinity"] = json!({"clusterNames": ["b"]});
    assert!(due(&settled), "another placement");
    let mut shares = divided("Weighted");
    shares["replicaScheduling"]["weightPreference"] =
        json!({"staticWeightList": [{"targetCluster": {"clusterNames": ["b"]}, "weight": 1}]});
    assert!(
        due(&binding(shares, 4, json!([{"name": "a", "replicas": 4}]))),
        "one that joined has a share"
    );
    let mut again = binding(divided("Weighted"), 4, json!([{"name": "a", "replicas": 4}]));
    again["spec"]["rescheduleTriggeredAt"] = "2026-01-03T00:00:00Z".into();
    assert!(due(&again), "somebody asks for it");
    for held in [
        json!({"suspension": {"scheduling": true}}),
        json!({"schedulerName": "mine"}),
    ] {
        let mut other = binding(json!({}), 1, json!([]));
        for (k, v) in held.as_object().unwrap() {
            other["spec"][k] = v.clone();
        }
        assert!(Asked::of(&other).is_none(), "{held}");
    }
}

#[test]
fn room_counts_and_its_want_is_said() {
    let there: Vec<_> = clusters(&[("a", "2"), ("b", "1")]).into_values().collect();
    let asks = binding(divided("Aggregated"), 3, json!([]));
    let asked = Asked::of(&asks).unwrap();
    let decision = asked.decide(&asks, &there).unwrap();
    assert_eq!(decision.clusters.iter().map(|c| c.replicas.unwrap()).sum::<i64>(), 3);
    let mut written = asks.clone();
    write(&mut written, &asked, Some(&decision.clusters));
    assert_eq!(written["spec"]["clusters"].as_array().unwrap().len(), 2);
    let asks = binding(divided("Aggregated"), 4, json!([]));
    let asked = Asked::of(&asks).unwrap();
    let failed = asked.decide(&asks, &there);
    assert!(failed.is_err());
    let mut status = Map::new();
    conclude(&mut status, &json!(2), Some(&(failed, false)), false);
    assert_eq!(status["conditions"][0]["reason"], "Unschedulable");
    let before = status.clone();
    let again = asked.decide(&asks, &there);
    conclude(&mut status, &json!(2), Some(&(again, false)), false);
    assert_eq!(status, before, "the same word is not written twice");
}

#[test]
fn a_quiet_look_writes_nothing() {
    let mut status = Map::new();
    let decision = || Ok(Decision::default());
    conclude(&mut status, &json!(1), Some(&(decision(), true)), false);
    let before = status.clone();
    conclude(&mut status, &json!(1), Some(&(decision(), false)), false);
    conclude(&mut status, &json!(1), None, false);
    assert_eq!(status, before);
}
