//! Objects of a real Karmada, its agent and a member (`fixtures/interpret`): each function on what was there before gives what came after.

use serde_json::{Value, json};

use super::super::look::{list, map, map_mut, text};
use super::super::{Item, ObjectRef, aggregate, dependencies, health, prune, reflect, replicas, retain};

const OBJECTS: [&str; 11] = [
    "configmap-web-config",
    "daemonset-agentd",
    "deployment-web",
    "device-cam1",
    "job-once",
    "pod-solo",
    "secret-web-secret",
    "service-web",
    "service-web-lb",
    "serviceaccount-web-sa",
    "statefulset-db",
];

fn recorded(what: &str, object: &str) -> Value {
    let file = format!("{}/fixtures/interpret/{what}-{object}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(&file).expect(&file)).expect(&file)
}

fn manifest(object: &str) -> Value {
    recorded("work", object)
        .pointer("/spec/workload/manifests/0")
        .expect("a manifest")
        .clone()
}

fn without(mut object: Value, field: &str) -> Value {
    object.as_object_mut().expect("an object").remove(field);
    object
}

#[test]
fn members_report_what_the_agent_reported() {
    for object in OBJECTS {
        let (work, member) = (recorded("work", object), recorded("member", object));
        let report = work.pointer("/status/manifestStatuses/0").expect("a manifest status");
        assert_eq!(reflect(&member).as_ref(), report.get("status"), "{object}");
        assert_eq!(health(&member).as_str(), text(report, "/health"), "{object}");
    }
}

#[test]
fn templates_travel_as_karmada_sent_them() {
    for object in OBJECTS {
        let (mut pruned, manifest) = (recorded("template", object), manifest(object));
        prune(&mut pruned);
        // What ties the manifest to its Work, its binding and its template comes after.
        for field in ["labels", "annotations"] {
            let metadata = map_mut(&mut pruned, "/metadata").expect("metadata");
            let keys = metadata
                .entry(field)
                .or_insert_with(|| json!({}))
                .as_object_mut()
                .expect("a map");
            for (key, value) in map(&manifest, &format!("/metadata/{field}")).expect("a map") {
                if key
                    .split('/')
                    .next()
                    .is_some_and(|domain| domain.ends_with("karmada.io"))
                {
                    keys.insert(key.clone(), value.clone());
                }
            }
        }
        assert_eq!(pruned, manifest, "{object}");
        let once = pruned.clone();
        prune(&mut pruned);
        assert_eq!(pruned, once, "{object}");
    }
}

#[test]
fn what_was_applied_is_not_applied_again() {
    for object in OBJECTS {
        let (mut desired, mut member) = (manifest(object), recorded("member", object));
        retain(&mut desired, &member);
        assert_eq!(
            desired.pointer("/metadata/resourceVersion"),
            member.pointer("/metadata/resourceVersion")
        );
        prune(&mut desired);
        prune(&mut member);
        assert_eq!(desired, member, "{object}");
    }
}

#[test]
fn reports_add_up_to_what_karmada_wrote_on_the_template() {
    for object in OBJECTS {
        let (template, binding) = (recorded("template", object), recorded("resourcebinding", object));
        let items: Vec<Item<'_>> = list(&binding, "/status/aggregatedStatus")
            .iter()
            .map(|item| Item {
                cluster: text(item, "/clusterName"),
                status: item.get("status"),
            })
            .collect();
        assert_eq!(items.len(), 1, "{object}");
        // It is written once.
        assert_eq!(aggregate(&template, &items), None, "{object}");
        let mut fresh = without(template.clone(), "status");
        if object == "pod-solo" {
            fresh["status"] = json!({ "phase": "Pending", "qosClass": "BestEffort" });
        }
        let summed = [
            "configmap-web-config",
            "device-cam1",
            "secret-web-secret",
            "service-web",
            "serviceaccount-web-sa",
        ];
        let status = template.get("status").filter(|_| !summed.contains(&object));
        assert_eq!(aggregate(&fresh, &items).as_ref(), status, "{object}");
    }
}

#[test]
fn workloads_ask_for_what_karmada_wrote_on_the_binding() {
    for object in OBJECTS {
        let (template, binding) = (recorded("template", object), recorded("resourcebinding", object));
        let asked = replicas(&template);
        assert_eq!(
            asked.as_ref().map(|asked| json!(asked.count)).as_ref(),
            binding.pointer("/spec/replicas"),
            "{object}"
        );
        let Some(asked) = asked else { continue };
        let requests = binding.pointer("/spec/replicaRequirements/resourceRequest");
        assert_eq!(json!(asked.requests), *requests.unwrap_or(&json!({})), "{object}");
        let tolerations = list(&binding, "/spec/replicaRequirements/nodeClaim/tolerations");
        assert_eq!(asked.tolerations, tolerations, "{object}");
        assert_eq!(asked.namespace, "fx");
    }
}

#[test]
fn a_workload_needs_what_karmada_sent_along_with_it() {
    let mut sent: Vec<ObjectRef> = OBJECTS
        .iter()
        .map(|object| recorded("resourcebinding", object))
        .filter(|binding| text(binding, "/spec/requiredBy/0/name") == "web-deployment")
        .map(|binding| serde_json::from_value(binding["spec"]["resource"].clone()).expect("a reference"))
        .collect();
    sent.sort();
    assert_eq!(sent.len(), 3);
    assert_eq!(dependencies(&recorded("template", "deployment-web")), sent);
    for object in OBJECTS.iter().filter(|object| **object != "deployment-web") {
        assert_eq!(dependencies(&recorded("template", object)), [], "{object}");
    }
}
