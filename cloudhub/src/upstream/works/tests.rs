use super::*;

fn s(text: &str) -> Arc<str> {
    Arc::from(text)
}

fn name(work: &str) -> Name {
    (s("karmada-es-gw-1"), s(work))
}

fn cluster(node: &str) -> Option<ClusterEntry> {
    Some(ClusterEntry {
        stands: Stands::Gateway(s(node)),
        reschedule_after: None,
        uid: s("u"),
        deleting: false,
        finalized: true,
        ready: None,
    })
}

fn work(change: impl FnOnce(&mut Value)) -> WorkEntry {
    let mut object = json!({
        "apiVersion": "work.karmada.io/v1alpha1", "kind": "Work",
        "metadata": {
            "name": "web", "namespace": "karmada-es-gw-1", "finalizers": [EXECUTION_FINALIZER],
            "ownerReferences": [{"kind": "Namespace", "name": "x"}], "resourceVersion": "7", "labels": {"a": "b"},
        },
        "spec": {"workload": {"manifests": [{"kind": "ConfigMap"}]}},
    });
    change(&mut object);
    WorkEntry::of("karmada-es-gw-1", "web", object)
}

fn sent(effects: &Effects) -> Vec<(&str, bool)> {
    effects.deltas.iter().map(|d| (&*d.node, d.body.is_some())).collect()
}

#[test]
fn a_work_goes_to_the_gateway_of_its_cluster_whichever_is_seen_first() {
    let mut works = Works::default();
    assert!(works.work(&name("web"), Some(work(|_| ())), 1).deltas.is_empty());
    let effects = works.cluster(&s("gw-1"), cluster("gw-1"), 0);
    assert_eq!(sent(&effects), [("gw-1", true)]);
    assert_eq!(works.set("gw-1").count(), 1);
    assert_eq!(works.set("gw-2").count(), 0);
    assert!(works.cluster(&s("gw-1"), cluster("gw-1"), 0).deltas.is_empty());
    assert!(
        works.work(&name("web"), Some(work(|_| ())), 2).deltas.is_empty(),
        "nothing new in it"
    );
    let other = work(|w| w["spec"]["suspendDispatching"] = true.into());
    assert_eq!(sent(&works.work(&name("web"), Some(other), 3)), [("gw-1", true)]);
    assert_eq!(
        sent(&works.cluster(&s("gw-1"), cluster("other"), 0)),
        [("gw-1", false), ("other", true)]
    );
    assert_eq!(sent(&works.cluster(&s("gw-1"), None, 0)), [("other", false)]);
    assert_eq!(works.set("other").count(), 0);
    assert_eq!(works.counts(), (0, 1));
    assert_eq!(works.missing(&HashSet::new()), [name("web")]);
    works.work(&name("web"), None, 0);
    assert_eq!(works.counts(), (0, 0));
}

#[test]
fn a_gateway_gets_nothing_of_what_is_of_no_concern_to_it() {
    let entry = work(|w| w["status"] = json!({"conditions": []}));
    let body: Value = serde_json::from_slice(&entry.body.bytes).unwrap();
    assert_eq!(
        body["metadata"],
        json!({"name": "web", "namespace": "karmada-es-gw-1", "labels": {"a": "b"}})
    );
    assert!(body.get("status").is_none());
    let going = work(|w| w["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into());
    let body: Value = serde_json::from_slice(&going.body.bytes).unwrap();
    assert_eq!(body["metadata"]["annotations"], json!({DELETING: "true"}));
    assert!(going.facts.deleting && body["metadata"].get("deletionTimestamp").is_none());
}

#[test]
fn what_would_be_gone_before_it_is_cleaned_up_waits_for_its_finalizer() {
    let mut works = Works::default();
    works.cluster(&s("gw-1"), cluster("gw-1"), 0);
    let bare = work(|w| w["metadata"]["finalizers"] = json!([]));
    let effects = works.work(&name("web"), Some(bare), 1);
    assert!(effects.deltas.is_empty());
    assert_eq!(effects.attend.len(), 1);
    let effects = works.work(&name("web"), Some(work(|_| ())), 2);
    assert_eq!((sent(&effects), effects.attend.len()), (vec![("gw-1", true)], 0));
}

/// What a gateway would report of a recorded Work is what its status is read back as, and becomes that status again.
#[test]
fn a_status_is_read_back_as_it_was_reported() {
    let status = json!({
        "conditions": [
            {"type": "Dispatching", "status": "True", "reason": "Dispatching", "lastTransitionTime": "t0",
             "message": "Work is being dispatched to member clusters."},
            {"type": "Applied", "status": "True", "reason": "AppliedSuccessful", "lastTransitionTime": "t1",
             "message": "Manifest has been successfully applied"},
        ],
        "manifestStatuses": [{"health": "Healthy", "identifier": {"ordinal": 0, "kind": "ConfigMap", "name": "a", "resource": ""}}],
    });
    let report = reported_of(&status).unwrap();
    assert_eq!(report["applied"]["reason"], "AppliedSuccessful");
    let entry = work(|w| w["status"] = status.clone());
    assert_eq!(entry.reported, Some(Body::new(&entry.key, canonical(&report)).hash));
    assert_eq!(status_of(&entry.facts, Some(&report), "now"), status);

    let mut failed = report.clone();
    failed["applied"] = json!({"status": "False", "reason": "AppliedFailed", "message": "no"});
    failed.as_object_mut().unwrap().remove("manifestStatuses");
    let told = status_of(&entry.facts, Some(&failed), "now");
    assert_eq!(told["conditions"][1]["lastTransitionTime"], "now");
    assert_eq!(told["conditions"][0]["lastTransitionTime"], "t0");
    assert_eq!(told["manifestStatuses"], Value::Null, "a merge patch takes them off");
    assert_eq!(reported_of(&json!({"conditions": []})), None);
}

#[test]
fn that_a_work_is_held_back_is_said_at_once_and_taken_back() {
    let mut works = Works::default();
    works.cluster(&s("gw-1"), cluster("gw-1"), 0);
    let suspended = work(|w| w["spec"]["suspendDispatching"] = true.into());
    let conditions = attended(&suspended.facts, &Value::Null, "t1");
    assert_eq!(conditions[0]["reason"], "SuspendDispatching");
    assert_eq!(works.work(&name("web"), Some(suspended), 1).attend.len(), 1);
    let applied = json!({"type": "Applied", "status": "True", "lastTransitionTime": "t0"});
    let all = json!([applied, conditions[0]]);
    let told = work(|w| {
        w["spec"]["suspendDispatching"] = true.into();
        w["status"]["conditions"] = all.clone();
    });
    assert!(works.work(&name("web"), Some(told), 2).attend.is_empty());
    let again = work(|w| w["status"]["conditions"] = all.clone());
    let conditions = attended(&again.facts, &json!({"conditions": all}), "t2");
    assert_eq!(conditions[0], applied);
    assert_eq!(
        (&conditions[1]["status"], &conditions[1]["lastTransitionTime"]),
        (&"True".into(), &"t2".into())
    );
    assert_eq!(works.work(&name("web"), Some(again), 3).attend.len(), 1);
    let fresh = work(|_| ());
    assert!(
        works.work(&name("web"), Some(fresh), 4).attend.is_empty(),
        "said with the first report"
    );
}

#[test]
fn works_of_clusters_that_are_not_gateways_are_left_alone() {
    assert_eq!(
        ClusterEntry::of(&json!({"metadata": {"name": "member1", "uid": "1"}}), "this"),
        None
    );
    let entry = ClusterEntry::of(
        &json!({
            "metadata": {"name": "gw-1", "uid": "1", "annotations": {GATEWAY: "gw-1", HUB: "this"}, "finalizers": [CLUSTER_FINALIZER]},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]},
        }),
        "this",
    );
    let entry = entry.unwrap();
    assert_eq!(
        (
            &**entry.stands.gateway().unwrap(),
            entry.ready.as_deref(),
            entry.finalized
        ),
        ("gw-1", Some("Unknown"), true)
    );
    for odd in [
        json!(null),
        json!({"metadata": 3}),
        json!({"metadata": {"annotations": {GATEWAY: 7}}}),
    ] {
        assert_eq!(ClusterEntry::of(&odd, "this"), None);
        WorkEntry::of("a", "b", odd);
    }
}
