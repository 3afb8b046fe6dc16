use federation::kinds::PropagationSpec;
use serde_json::json;

use super::*;

fn policy(id: &str, selector: Value, more: Value) -> Policy {
    let mut spec = json!({"resourceSelectors": [{"apiVersion": "apps/v1", "kind": "Deployment"}]});
    for (from, to) in [(&selector, &mut spec["resourceSelectors"][0].clone())] {
        let mut to = to.clone();
        for (k, v) in from.as_object().unwrap() {
            to[k] = v.clone();
        }
        spec["resourceSelectors"][0] = to;
    }
    for (k, v) in more.as_object().unwrap() {
        spec[k] = v.clone();
    }
    let spec: PropagationSpec = serde_json::from_value(spec).unwrap();
    Policy {
        id: id.to_owned(),
        spec,
        leaving: false,
    }
}

fn picture(policies: Vec<(Key, Policy)>) -> Picture {
    let mut picture = Picture::default();
    for (key, policy) in policies {
        picture.policy(&key, Some(policy));
    }
    picture
}

fn web() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "fx", "uid": "u-1", "resourceVersion": "5", "labels": {"app": "web"}},
        "spec": {"replicas": 3, "template": {"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "50m"}}}]}}},
    })
}

fn chosen(picture: &Picture, object: &Value) -> Option<String> {
    choose(picture, object).map(|(_, policy)| policy.id.clone())
}

#[test]
fn a_policy_of_the_namespace_comes_first_and_keeps_what_it_has() {
    let (near, far, all) = (Key::new("fx", "near"), Key::new("other", "far"), Key::new("", "all"));
    let any = || json!({});
    let mut picture = picture(vec![
        (near.clone(), policy("near", any(), any())),
        (far, policy("far", any(), any())),
        (all.clone(), policy("all", any(), json!({"priority": 9}))),
    ]);
    let mut object = web();
    assert_eq!(chosen(&picture, &object).as_deref(), Some("near"));
    binding::mark(&mut object, &all, "all");
    assert_eq!(chosen(&picture, &object).as_deref(), Some("all"), "who has it keeps it");
    let takes = policy("near", any(), json!({"preemption": "Always"}));
    picture.policy(&near, Some(takes));
    assert_eq!(chosen(&picture, &object).as_deref(), Some("near"), "unless it is taken");
    binding::mark(&mut object, &near, "near");
    assert_eq!(
        object["metadata"]["labels"].as_object().unwrap().len(),
        2,
        "one claim at a time"
    );
    let strong = policy("all", any(), json!({"preemption": "Always", "priority": 99}));
    picture.policy(&all, Some(strong));
    assert_eq!(
        chosen(&picture, &object).as_deref(),
        Some("near"),
        "not by one from further away"
    );
    picture.policy(
        &near,
        Some(policy("near-2", any(), json!({"dependentOverrides": ["later"]}))),
    );
    assert_eq!(
        chosen(&picture, &object).as_deref(),
        Some("all"),
        "one that still waits has nothing"
    );
    picture.policy(&near, Some(policy("near-2", json!({"name": "api"}), any())));
    picture.policy(&all, None);
    assert_eq!(chosen(&picture, &object), None);
}

#[test]
fn a_binding_says_what_its_template_and_its_policy_say() {
    let (at, name) = (Key::new("fx", "web-deployment"), Key::new("fx", "near"));
    let near = policy(
        "p-1",
        json!({}),
        json!({
            "propagateDeps": true, "conflictResolution": "Overwrite", "preserveResourcesOnDeletion": true,
            "suspension": {"dispatching": true},
            "placement": {"clusterAffinity": {"clusterNames": ["a"]}},
        }),
    );
    let mut object = web();
    let mut binding = binding::new(&at, &object, &name, &near);
    let spec = &binding["spec"];
    assert_eq!(spec["resource"]["uid"], "u-1");
    assert_eq!(
        (&spec["replicas"], &spec["schedulerName"]),
        (&json!(3), &json!("default-scheduler"))
    );
    assert_eq!(spec["replicaRequirements"], json!({"resourceRequest": {"cpu": "50m"}}));
    assert_eq!(spec["placement"], json!({"clusterAffinity": {"clusterNames": ["a"]}}));
    assert_eq!(
        (&spec["conflictResolution"], &spec["propagateDeps"]),
        (&json!("Overwrite"), &json!(true))
    );
    assert_eq!(binding["metadata"]["ownerReferences"][0]["uid"], "u-1");
    assert_eq!(binding["metadata"]["labels"][POLICY_ID], "p-1");
    assert_eq!(binding["metadata"]["finalizers"], json!([FINALIZER]));
    // What others decided stays; a status write of the template is no news.
    binding["spec"]["clusters"] = json!([{"name": "a", "replicas": 3}]);
    binding["spec"]["suspension"]["scheduling"] = true.into();
    let before = binding.clone();
    object["metadata"]["resourceVersion"] = "6".into();
    binding::bring(&mut binding, &object, &name, &near);
    assert_eq!(binding, before);
    object["spec"]["replicas"] = 4.into();
    binding::bring(&mut binding, &object, &name, &policy("p-1", json!({}), json!({})));
    let spec = &binding["spec"];
    assert_eq!(
        (&spec["replicas"], &spec["resource"]["resourceVersion"]),
        (&json!(4), &json!("6"))
    );
    assert_eq!(spec["suspension"], json!({"scheduling": true}));
    assert_eq!(spec["clusters"], before["spec"]["clusters"]);
    assert!(spec.get("conflictResolution").is_none() && spec.get("preserveResourcesOnDeletion").is_none());
}

#[test]
fn what_is_in_no_namespace_has_a_binding_of_its_own_kind() {
    let mut role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "system:a", "uid": "u"}});
    let at = binding_of("", "ClusterRole", "system:a");
    assert_eq!(&*at.name, "system.a-clusterrole");
    let all = Key::new("", "all");
    let binding = binding::new(&at, &role, &all, &policy("p", json!({}), json!({})));
    assert_eq!(binding["kind"], "ClusterResourceBinding");
    assert!(binding["metadata"].get("namespace").is_none() && binding["spec"].get("replicas").is_none());
    let before = role.clone();
    binding::mark(&mut role, &all, "p");
    assert_eq!(note(&role, CLUSTER_POLICY_NAME), "all");
    binding::unmark(&mut role);
    let empty = |map: &Value| map.as_object().is_some_and(serde_json::Map::is_empty);
    assert!(empty(&role["metadata"]["labels"]) && empty(&role["metadata"]["annotations"]));
    assert_eq!(before["metadata"]["name"], role["metadata"]["name"]);
}
