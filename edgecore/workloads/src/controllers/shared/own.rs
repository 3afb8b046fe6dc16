//! How an owner comes to its pods and other things: by taking what it selects, by making, by letting go.

use futures_util::future::join_all;
use metastore::api::{DeleteOptions, Status};
use serde_json::{Value, json};

use super::{controller_of, is_terminating, list, name, owner_reference, selects, uid};
use crate::cluster::{Cluster, Key, Kind, PODS};
use crate::events::{Recorder, Tone};

/// Pods made or taken away at the same time: so many share a write to the disk, and what they weigh until then is bounded.
const MOST_AT_ONCE: usize = 16;

/// Refuses to change an object that has only the name of the one that was looked at.
pub(crate) fn same_object(kind: Kind, looked_at: &Value, current: &Value) -> Result<(), Status> {
    if uid(looked_at) == uid(current) {
        Ok(())
    } else {
        let why = "another object has taken its name";
        Err(Status::conflict(kind.group, kind.plural, name(looked_at), why))
    }
}

/// Those of the objects that are the owner's: it takes what it selects and nobody controls, and lets go what it controls and no longer
/// selects, unless it is itself on its way out. `of`: the kind of the objects; `is_wanted`: what must hold beside the selector.
pub(crate) async fn claim(
    cluster: &Cluster,
    of: Kind,
    owner: &Value,
    objects: Vec<Value>,
    is_wanted: impl Fn(&Value) -> bool,
) -> Result<Vec<Value>, Status> {
    let mut claimed = Vec::new();
    let mut failed = None;
    for object in objects {
        let wanted = selects(owner, &object) && is_wanted(&object);
        let control = match controller_of(&object) {
            Some(controller) if controller["uid"] != owner["metadata"]["uid"] => continue,
            Some(_) if wanted => {
                claimed.push(object);
                continue;
            }
            Some(_) => false,
            None if wanted && !is_terminating(&object) => true,
            None => continue,
        };
        if is_terminating(owner) {
            continue;
        }
        match set_control(cluster, of, owner, &object, control).await {
            Ok(taken) if control => claimed.push(taken),
            Ok(_) => {}
            Err(e) if e.code == 404 => {}
            Err(e) => failed = Some(e),
        }
    }
    match failed {
        None => Ok(claimed),
        Some(e) => Err(e),
    }
}

/// Takes control of an object, or lets it go.
async fn set_control(
    cluster: &Cluster,
    of: Kind,
    owner: &Value,
    object: &Value,
    control: bool,
) -> Result<Value, Status> {
    let key = Key::of(object);
    let change = cluster.modify(of, &key, |current| {
        same_object(of, object, current)?;
        if control && controller_of(current).is_some() {
            let why = "another owner has taken it";
            return Err(Status::conflict(of.group, of.plural, name(object), why));
        }
        let mut owners = list(current, "/metadata/ownerReferences").to_vec();
        owners.retain(|o| o["uid"] != owner["metadata"]["uid"]);
        if control {
            owners.push(owner_reference(owner));
        }
        current["metadata"]["ownerReferences"] = owners.into();
        Ok(())
    });
    change.await
}

/// The pod that an owner's template describes, without a name.
pub(crate) fn pod_of(owner: &Value, template: &Value) -> Value {
    let mut metadata = json!({
        "namespace": owner["metadata"]["namespace"],
        "ownerReferences": [owner_reference(owner)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

/// Makes a pod and tells of it.
pub(crate) async fn create_pod(
    cluster: &Cluster,
    events: &Recorder,
    owner: &Value,
    pod: Value,
) -> Result<Value, Status> {
    match cluster.create(pod).await {
        Ok(pod) => {
            let message = format!("Created pod: {}", name(&pod));
            events.tell(owner, Tone::Normal, "SuccessfulCreate", message);
            Ok(pod)
        }
        Err(e) => {
            if !is_namespace_going(&e) {
                events.tell(owner, Tone::Warning, "FailedCreate", format!("Error creating: {e}"));
            }
            Err(e)
        }
    }
}

/// Whether something cannot be made because its namespace is being emptied: nothing to tell and nothing to try again.
fn is_namespace_going(refusal: &Status) -> bool {
    let causes = refusal.details.as_ref().map_or(&[][..], |d| &d.causes);
    causes.iter().any(|c| c.reason == "NamespaceTerminating")
}

/// Makes pods of a template until there are so many: one, then twice as many each time, so that what refuses all of them is asked seldom.
pub(crate) async fn create_pods(
    cluster: &Cluster,
    events: &Recorder,
    owner: &Value,
    template: &Value,
    wanted: usize,
    pods: &mut Vec<Value>,
) -> Result<(), Status> {
    let mut pod = pod_of(owner, template);
    pod["metadata"]["generateName"] = format!("{}-", name(owner)).into();
    let mut batch = 1;
    while pods.len() < wanted {
        let size = batch.min(wanted - pods.len());
        let making = (0..size).map(|_| create_pod(cluster, events, owner, pod.clone()));
        let made = join_all(making).await;
        let refused = made.iter().find_map(|made| made.as_ref().err().cloned());
        pods.extend(made.into_iter().flatten());
        match refused {
            Some(e) if is_namespace_going(&e) => return Ok(()),
            Some(e) => return Err(e),
            None => batch = MOST_AT_ONCE.min(batch * 2),
        }
    }
    Ok(())
}

/// Takes pods away and tells of it.
pub(crate) async fn delete_pods(
    cluster: &Cluster,
    events: &Recorder,
    owner: &Value,
    pods: &[Value],
) -> Result<(), Status> {
    for some in pods.chunks(MOST_AT_ONCE) {
        let each = some.iter().map(|pod| delete_pod(cluster, events, owner, pod));
        join_all(each).await.into_iter().collect::<Result<(), Status>>()?;
    }
    Ok(())
}

/// Takes a pod away and tells of it.
pub(crate) async fn delete_pod(cluster: &Cluster, events: &Recorder, owner: &Value, pod: &Value) -> Result<(), Status> {
    let options = DeleteOptions {
        uid: Some(uid(pod).to_owned()),
        ..DeleteOptions::default()
    };
    match cluster.delete(PODS, &Key::of(pod), &options).await {
        Ok(true) => {
            let message = format!("Deleted pod: {}", name(pod));
            events.tell(owner, Tone::Normal, "SuccessfulDelete", message);
            Ok(())
        }
        Ok(false) => Ok(()),
        Err(e) => {
            events.tell(owner, Tone::Warning, "FailedDelete", format!("Error deleting: {e}"));
            Err(e)
        }
    }
}
