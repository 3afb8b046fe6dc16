use serde_json::json;

use super::*;

fn cluster(name: &str, room: &str) -> Cluster {
    Cluster::of(&json!({
        "metadata": {"name": name, "labels": {"line": "a"}, "finalizers": [CLUSTER_FINALIZER]},
        "spec": {"region": "east", "zone": "z1", "taints": [{"key": "k", "effect": "NoSchedule"}, {"junk": 1}]},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "apiEnablements": [{"groupVersion": "apps/v1", "resources": [{"name": "deployments", "kind": "Deployment"}, 7]}],
            "resourceSummary": {"allocatable": {"cpu": room, "memory": "1Gi", "pods": "10"}, "allocated": {"cpu": "500m", "pods": 2}},
        },
    }))
}

fn binding(targets: &[&str], needer: Option<&str>) -> Binding {
    let clusters: Vec<Value> = targets.iter().map(|c| json!({"name": c, "replicas": 1})).collect();
    let mut object = json!({
        "metadata": {"namespace": "fx", "labels": {POLICY_ID: "p-1"}, "annotations": {DEPENDENCIES: r#"[{"kind": "ConfigMap", "name": "settings"}]"#}},
        "spec": {"resource": {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": "fx", "name": "web"}, "clusters": clusters},
    });
    if let Some(needer) = needer {
        object["spec"]["requiredBy"] = json!([{"namespace": "fx", "name": needer, "clusters": [{"name": "far"}]}]);
    }
    Binding::of(&object, &Kinds::default()).unwrap()
}

#[test]
fn a_clusters_room_is_what_nobody_uses() {
    let one = cluster("gw-1", "2");
    assert!(one.ready && one.taken_in && one.takes("apps/v1", "Deployment") && !one.takes("v1", "Deployment"));
    assert_eq!((one.zones.as_slice(), one.taints.len()), (&["z1".to_owned()][..], 1));
    let asks = |cpu: &str| quantities(Some(&json!({"cpu": cpu})));
    assert_eq!(one.available(&asks("500m")), Some(3), "processors");
    assert_eq!(one.available(&asks("1m")), Some(8), "pods");
    assert_eq!(one.available(&BTreeMap::new()), Some(8));
    assert_eq!(
        one.available(&quantities(Some(&json!({"gpu": "1"})))),
        Some(0),
        "what it has none of"
    );
    assert_eq!(Cluster::default().available(&asks("1")), None, "nothing is known of it");
    assert!(!one.differs(&cluster("gw-1", "4")));
    assert!(one.differs(&Cluster::default()));
}

#[test]
fn clusters_of_one_make_share_what_they_take() {
    let mut picture = Picture::default();
    for name in ["a", "b", "c"] {
        picture.cluster(&Arc::from(name), Some(cluster(name, "1")));
    }
    let all: Vec<_> = picture.clusters.values().map(|c| Arc::as_ptr(&c.enabled)).collect();
    assert!(all.windows(2).all(|two| two[0] == two[1]));
}

#[test]
fn a_binding_is_about_its_own_namespace_only() {
    let binding = |at: &str, version: &str, kind: &str, of: &str| {
        let object = json!({
            "metadata": {"namespace": at, "name": "x"},
            "spec": {"resource": {"apiVersion": version, "kind": kind, "namespace": of, "name": "a"}, "clusters": [{"name": "gw-1"}]},
        });
        Binding::of(&object, &Kinds::default()).is_some()
    };
    assert!(binding("fx", "v1", "Secret", "fx"));
    for (at, of) in [("fx", "other"), ("fx", ""), ("", "fx"), ("kube-system", "kube-system")] {
        assert!(!binding(at, "v1", "Secret", of), "{at} of {of}");
    }
    let role = "rbac.authorization.k8s.io/v1";
    assert!(!binding("fx", role, "ClusterRole", "fx") && binding("", role, "ClusterRole", ""));
    assert!(
        !binding("fx", "work.karmada.io/v1alpha1", "Work", "fx"),
        "what is sent nowhere"
    );
}

#[test]
fn bindings_are_found_by_all_that_concerns_them() {
    let mut picture = Picture::default();
    let key = Key::new("fx", "web-deployment");
    picture.binding(&key, Some(binding(&["a", "b"], Some("api-deployment"))));
    let one = std::slice::from_ref(&key);
    let needer = Key::new("fx", "api-deployment");
    let fx: Arc<str> = "fx".into();
    for cluster in ["a", "b", "far"] {
        assert_eq!(picture.going_to(&cluster.into()), one);
    }
    assert_eq!(picture.claimed_by("p-1"), one);
    assert_eq!(picture.needed_by(&needer), one);
    assert_eq!(picture.referring(&fx, "ConfigMap", "settings"), one);
    picture.binding(&key, Some(binding(&["b"], None)));
    assert!(picture.going_to(&"a".into()).is_empty() && picture.needed_by(&needer).is_empty());
    picture.binding(&key, None);
    assert!(picture.claimed.is_empty() && picture.going_to.is_empty());
    assert!(picture.referring.is_empty() && picture.bindings.is_empty());
}

#[test]
fn a_work_says_what_its_member_says_of_its_manifest() {
    let mut object = json!({
        "metadata": {"annotations": {BINDING_NAMESPACE: "fx", BINDING_NAME: "web-deployment"}},
        "spec": {"workload": {"manifests": [{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "fx", "name": "web"}}]}},
        "status": {
            "conditions": [{"type": "Applied", "status": "True", "message": "fine"}],
            "manifestStatuses": [
                {"identifier": {"ordinal": 1}},
                {"identifier": {"ordinal": 0, "group": "apps", "version": "v1", "kind": "Deployment", "resource": "", "namespace": "fx", "name": "web"},
                    "status": {"replicas": 2}, "health": "Healthy"},
            ],
        },
    });
    let work = Work::of("karmada-es-gw-1", &object).unwrap();
    assert_eq!(work.binding, Key::new("fx", "web-deployment"));
    assert_eq!(
        (&*work.cluster, work.applied, work.health.as_str()),
        ("gw-1", Some(true), "Healthy")
    );
    assert_eq!(work.status.as_deref(), Some(r#"{"replicas":2}"#));
    object["status"] = json!({"conditions": [{"type": "Applied", "status": "False", "message": "no room"}]});
    let work = Work::of("karmada-es-gw-1", &object).unwrap();
    assert_eq!(
        (work.applied, work.message.as_str(), work.status),
        (Some(false), "no room", None)
    );
    assert_eq!(Work::of("default", &object), None, "in no cluster's namespace");
}

#[test]
fn junk_is_nothing() {
    for junk in [
        json!(null),
        json!([]),
        json!({"metadata": 1, "spec": [], "status": "x"}),
        json!({"spec": {"resource": 1}}),
    ] {
        Cluster::of(&junk);
        assert_eq!(Binding::of(&junk, &Kinds::default()), None);
        assert_eq!(Work::of("karmada-es-a", &junk), None);
    }
}
