use serde_json::json;

use super::*;

fn template() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "fx", "uid": "u-1", "generation": 2, "labels": {"app": "web"}, "annotations": {"team": "edge"}},
        "spec": {"replicas": 2},
    })
}

fn binding() -> Value {
    json!({
        "metadata": {"name": "web-deployment", "namespace": "fx", "labels": {federation::names::BINDING_ID: "b-1"}},
        "spec": {"replicas": 2, "clusters": [{"name": "gw-1", "replicas": 2}]},
    })
}

fn work(binding: &Value, template: &Value, cluster: &str) -> Value {
    let at = Key::new("karmada-es-gw-1", "web-1");
    let parts = Parts {
        at: &at,
        binding,
        template,
        cluster,
        overrides: [Some("[]".to_owned()), None],
    };
    let mut manifest = template.clone();
    federation::interpret::prune(&mut manifest);
    let mut work = parts.new_work(manifest.clone());
    let before = work.clone();
    parts.bring(&mut work, manifest);
    assert_eq!(work, before, "the same again is the same");
    work
}

#[test]
fn a_work_carries_what_karmadas_carries() {
    let work = work(&binding(), &template(), "gw-1");
    assert_eq!(work["metadata"]["finalizers"], json!([EXECUTION_FINALIZER]));
    assert_eq!(
        work["metadata"]["annotations"],
        json!({BINDING_NAMESPACE: "fx", BINDING_NAME: "web-deployment", CONFLICT_RESOLUTION: "abort", APPLIED_OVERRIDES: "[]"})
    );
    assert_eq!(work["spec"]["suspendDispatching"], false);
    assert_eq!(work["spec"]["preserveResourcesOnDeletion"], false);
    let manifest = &work["spec"]["workload"]["manifests"][0];
    let metadata = &manifest["metadata"];
    assert!(metadata.get("uid").is_none() && metadata.get("generation").is_none());
    let notes = &metadata["annotations"];
    assert_eq!(
        (&notes[TEMPLATE_UID], &notes[TEMPLATE_GENERATION]),
        (&json!("u-1"), &json!("2"))
    );
    assert_eq!(
        (&notes[WORK_NAMESPACE], &notes[WORK_NAME]),
        (&json!("karmada-es-gw-1"), &json!("web-1"))
    );
    assert_eq!(
        notes[MANAGED_LABELS],
        "app,karmada.io/managed,resourcebinding.karmada.io/permanent-id,work.karmada.io/permanent-id"
    );
    assert_eq!(
        notes[MANAGED_ANNOTATIONS],
        "resourcebinding.karmada.io/name,resourcebinding.karmada.io/namespace,resourcetemplate.karmada.io/generation,\
         resourcetemplate.karmada.io/managed-annotations,resourcetemplate.karmada.io/managed-labels,resourcetemplate.karmada.io/uid,\
         team,work.karmada.io/conflict-resolution,work.karmada.io/name,work.karmada.io/namespace"
    );
    assert_eq!(metadata["labels"][WORK_ID], work["metadata"]["labels"][WORK_ID]);
}

#[test]
fn policies_and_templates_have_their_say() {
    let (mut binding, mut template) = (binding(), template());
    binding["spec"]["conflictResolution"] = "Overwrite".into();
    binding["spec"]["preserveResourcesOnDeletion"] = true.into();
    binding["spec"]["suspension"] = json!({"dispatchingOnClusters": {"clusterNames": ["gw-1"]}});
    let held = work(&binding, &template, "gw-1");
    assert_eq!(held["spec"]["suspendDispatching"], true);
    assert_eq!(held["spec"]["preserveResourcesOnDeletion"], true);
    assert_eq!(note(&held, CONFLICT_RESOLUTION), "overwrite");
    assert_eq!(work(&binding, &template, "gw-2")["spec"]["suspendDispatching"], false);
    binding["spec"]["suspension"] = json!({"dispatching": true});
    put(&mut template, "annotations", CONFLICT_RESOLUTION, "abort");
    let held = work(&binding, &template, "gw-2");
    assert_eq!(held["spec"]["suspendDispatching"], true);
    assert_eq!(note(&held, CONFLICT_RESOLUTION), "abort", "the template's own word");
}

#[test]
fn each_cluster_gets_its_share() {
    let mut binding = binding();
    binding["spec"]["clusters"] = json!([{"name": "a", "replicas": 3}, {"name": "b", "replicas": 1}, {"junk": 1}]);
    binding["spec"]["requiredBy"] = json!([{"clusters": [{"name": "b", "replicas": 7}, {"name": "c"}]}]);
    binding["spec"]["placement"] = json!({"replicaScheduling": {"replicaSchedulingType": "Divided"}});
    let all = targets(&binding);
    assert_eq!(all.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    let share = |template: &Value, cluster: &str| {
        let mut manifest = template.clone();
        Shares::of(&binding, template, &all).put(&mut manifest, &all[cluster]);
        manifest["spec"].clone()
    };
    assert_eq!(share(&template(), "a")["replicas"], 3);
    let job =
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {}, "spec": {"parallelism": 4, "completions": 8}});
    assert_eq!(share(&job, "a"), json!({"parallelism": 3, "completions": 6}));
    assert_eq!(share(&job, "b"), json!({"parallelism": 1, "completions": 2}));
    let queue = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {}, "spec": {"parallelism": 4}});
    assert!(share(&queue, "a").get("completions").is_none());
    let settings = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": {}});
    let mut plain = settings.clone();
    Shares::of(&json!({}), &settings, &all).put(&mut plain, &all["a"]);
    assert_eq!(plain, settings);
}
