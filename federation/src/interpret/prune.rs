//! What of an object does not travel: what a server or a controller above wrote on it.

use serde_json::Value;

use super::look::{map_mut, text};

/// What a server keeps in an object's metadata.
const OF_THE_SERVER: [&str; 10] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];
/// The labels by which a Job controller finds the pods of one Job, old names and new.
const OF_THE_JOB: [&str; 4] = [
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "controller-uid",
    "job-name",
];

/// Takes off a template, or off a member's object that is compared with a manifest, whatever does not travel.
///
/// Goes by the kind's name alone, as the webhook does that looks at manifests after us: another group's Service loses the same fields.
pub fn prune(object: &mut Value) {
    if let Some(object) = object.as_object_mut() {
        object.remove("status");
    }
    remove(object, "/metadata", &OF_THE_SERVER);
    match text(object, "/kind") {
        "Deployment" => remove(
            object,
            "/metadata/annotations",
            &[
                "deployment.kubernetes.io/revision",
                "deployment.kubernetes.io/revision-history",
            ],
        ),
        "Job" => prune_job(object),
        // One without an address stays so everywhere; else each member gives it its own.
        "Service" if text(object, "/spec/clusterIP") != "None" && object.pointer("/spec/clusterIP").is_some() => {
            remove(object, "/spec", &["clusterIP", "clusterIPs"]);
        }
        "ServiceAccount" => prune_tokens(object),
        "Secret" if text(object, "/type") == "kubernetes.io/service-account-token" => {
            remove(object, "/metadata/annotations", &["kubernetes.io/service-account.uid"]);
            remove(object, "", &["data"]);
        }
        "PersistentVolumeClaim" => remove(object, "/metadata/annotations", &["volume.kubernetes.io/selected-node"]),
        _ => {}
    }
}

fn remove(object: &mut Value, pointer: &str, names: &[&str]) {
    if let Some(map) = map_mut(object, pointer) {
        for name in names {
            map.remove(*name);
        }
    }
}

fn prune_job(object: &mut Value) {
    // A member's controller that tidies the Job away would only make room for the next one.
    remove(object, "/spec", &["ttlSecondsAfterFinished"]);
    if object.pointer("/spec/manualSelector") == Some(&Value::Bool(true)) {
        return;
    }
    remove(
        object,
        "/spec/selector/matchLabels",
        &["batch.kubernetes.io/controller-uid", "controller-uid"],
    );
    remove(object, "/spec/template/metadata/labels", &OF_THE_JOB);
}

/// The token secrets that a controller made for the account; a member's controller makes its own.
fn prune_tokens(object: &mut Value) {
    let prefix = format!("{}-token-", text(object, "/metadata/name"));
    if let Some(secrets) = object.pointer_mut("/secrets").and_then(Value::as_array_mut) {
        secrets.retain(|secret| !text(secret, "/name").starts_with(&prefix));
    }
}
