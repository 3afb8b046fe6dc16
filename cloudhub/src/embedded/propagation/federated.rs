//! FederatedDeployments: each is kept as a Deployment and a policy of its name, which it owns, and shows what became of them.

use std::sync::Arc;

use federation::compat::from_federated;
use federation::kinds::POLICY_API_VERSION;
use metastore::api::{ResourceId, Status};
use serde_json::{Map, Value, json};

use super::follow::{Shared, binding_of};
use super::hand::{
    DEPLOYMENTS, FEDERATED, Hand, Key, POLICIES, controller_uid, is_leaving, is_there, list, member, now, put, set,
    set_condition, text,
};
use super::queue::Desk;
use super::{Controller, Looked};

pub(super) struct Federated {
    shared: Arc<Shared>,
    hand: Hand,
}

/// Why an object that is made for another one is not.
enum Failed {
    /// One of the name is there that somebody else made.
    Taken(String),
    /// The API does not take it.
    Refused(String),
    Status(Status),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        match status.code {
            400 | 403 | 413 | 422 => Self::Refused(status.message),
            _ => Self::Status(status),
        }
    }
}

impl Federated {
    pub(super) const fn new(shared: Arc<Shared>, hand: Hand) -> Self {
        Self { shared, hand }
    }

    /// Makes an object what it should be, unless it is somebody else's.
    async fn keep(&self, id: &ResourceId, wanted: &Value) -> Result<(), Failed> {
        let owner = controller_uid(wanted);
        for _ in 0..2 {
            match self.hand.get(id)? {
                Some(there) if controller_uid(&there) != owner => {
                    let kind = text(wanted, "/kind");
                    return Err(Failed::Taken(format!(
                        "there is a {kind} {} that this FederatedDeployment did not make: delete it, or give one of them another name",
                        id.name
                    )));
                }
                Some(_) => {
                    if self.hand.modify(id, |o| bring(o, wanted)).await?.is_some() {
                        return Ok(());
                    }
                }
                None => match self.hand.create(wanted.clone()).await {
                    Ok(_) => return Ok(()),
                    Err(s) if is_there(&s) => {}
                    Err(s) => return Err(s.into()),
                },
            }
        }
        Err(Failed::Status(Status::unavailable("the object comes and goes")))
    }

    async fn make(&self, at: &Key, federated: &Value) -> Result<(), Failed> {
        let (deployment, policy) = from_federated(federated).map_err(|e| Failed::Refused(e.to_string()))?;
        // The Deployment first: what is wrong with its template should send nothing anywhere.
        self.keep(&DEPLOYMENTS.id(at), &deployment).await?;
        self.keep(&POLICIES.id(at), &policy).await
    }
}

impl Controller for Federated {
    type Key = Key;
    const NAME: &'static str = "federated";

    fn desk(&self) -> &Desk<Key> {
        &self.shared.desks.federated
    }

    async fn look(&self, at: &Key) -> Looked {
        let id = FEDERATED.id(at);
        // What it owns goes after it by itself.
        let Some(federated) = self.hand.get(&id)?.filter(|f| !is_leaving(f)) else {
            return Ok(None);
        };
        let made = match self.make(at, &federated).await {
            Ok(()) => (
                true,
                "Translated",
                "It is kept as a Deployment and a PropagationPolicy.".to_owned(),
            ),
            Err(Failed::Taken(why)) => (false, "NameTaken", why),
            Err(Failed::Refused(why)) => (false, "Invalid", why),
            Err(Failed::Status(status)) => return Err(status),
        };
        let deployment = self.hand.get(&DEPLOYMENTS.id(at))?.filter(|_| made.0);
        let binding = binding_of(&at.namespace, "Deployment", &at.name);
        let binding = self.hand.get(&binding.binding().id(&binding))?.filter(|_| made.0);
        let generation = federated["metadata"]["generation"].clone();
        self.hand
            .modify_status(&id, |f| {
                if let Some(status) = member(f, "status") {
                    status.insert("observedGeneration".to_owned(), generation.clone());
                    show(status, deployment.as_ref(), binding.as_ref());
                    set_condition(status, "Accepted", (made.0, made.1, &made.2), &now());
                    if !made.0 {
                        set_condition(status, "Ready", (false, made.1, &made.2), &now());
                    }
                }
            })
            .await?;
        Ok(None)
    }
}

/// Makes an object of one's own what it should be; what others wrote on it beside that stays.
fn bring(object: &mut Value, wanted: &Value) {
    for map in ["labels", "annotations"] {
        let entries = wanted["metadata"].get(map).and_then(Value::as_object);
        for (key, value) in entries.into_iter().flatten() {
            put(object, map, key, value.as_str().unwrap_or_default());
        }
    }
    if object["apiVersion"] == POLICY_API_VERSION {
        // Defaults that were filled in stay as long as nothing else is wanted in their place.
        merge(&mut object["spec"], &wanted["spec"]);
    } else {
        object["spec"] = wanted["spec"].clone();
    }
}

/// Puts what is wanted over what is there: objects member by member, anything else whole.
fn merge(there: &mut Value, wanted: &Value) {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => {
            for (field, value) in wanted {
                merge(there.entry(field.clone()).or_insert(Value::Null), value);
            }
        }
        (there, wanted) => *there = wanted.clone(),
    }
}

/// What the Deployment and its binding say.
fn show(status: &mut Map<String, Value>, deployment: Option<&Value>, binding: Option<&Value>) {
    let number = |object: &Value, pointer: &str| object.pointer(pointer).and_then(Value::as_i64);
    let of = |field: &str| {
        deployment
            .and_then(|d| number(d, &format!("/status/{field}")))
            .unwrap_or(0)
    };
    for field in ["replicas", "readyReplicas"] {
        status.insert(field.to_owned(), of(field).into());
    }
    let items = binding.map_or(&[][..], |b| list(b, "/status/aggregatedStatus"));
    let chosen = binding.map_or(&[][..], |b| list(b, "/spec/clusters"));
    let shown = chosen.iter().map(|cluster| {
        let name = text(cluster, "/name");
        let mut shown = json!({"name": name});
        if let Some(item) = items.iter().find(|i| i["clusterName"] == name) {
            let status = &item["status"];
            for field in ["replicas", "readyReplicas"] {
                if let Some(count) = status.get(field).and_then(Value::as_i64) {
                    shown[field] = count.into();
                }
            }
            shown["applied"] = (item["applied"] == true).into();
            for (field, from) in [("message", "appliedMessage"), ("health", "health")] {
                if let Some(said) = item.get(from) {
                    shown[field] = said.clone();
                }
            }
        }
        shown
    });
    let shown: Vec<Value> = shown.collect();
    set(status, "clusters", (!shown.is_empty()).then(|| shown.into()));
    let wanted = deployment.and_then(|d| number(d, "/spec/replicas")).unwrap_or(1);
    let ready = of("readyReplicas");
    let (holds, reason) = if ready >= wanted {
        (true, "ReplicasReady")
    } else {
        (false, "ReplicasNotReady")
    };
    let message = format!("{ready} of {wanted} replicas are ready.");
    set_condition(status, "Ready", (holds, reason, &message), &now());
    for ty in ["Scheduled", "FullyApplied"] {
        let condition = binding
            .map_or(&[][..], |b| list(b, "/status/conditions"))
            .iter()
            .find(|c| c["type"] == ty);
        if let Some(c) = condition {
            let said = (c["status"] == "True", text(c, "/reason"), text(c, "/message"));
            set_condition(status, ty, said, &now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_what_became_of_it() {
        let deployment = json!({"status": {"replicas": 3, "readyReplicas": 1}});
        let binding = json!({
            "spec": {"clusters": [{"name": "a", "replicas": 2}, {"name": "b", "replicas": 1}]},
            "status": {"aggregatedStatus": [{"clusterName": "a", "applied": true, "health": "Healthy", "status": {"replicas": 2}}],
                "conditions": [{"type": "Scheduled", "status": "True", "reason": "Success", "message": "x"}]},
        });
        let mut status = Map::new();
        show(&mut status, Some(&deployment), Some(&binding));
        assert_eq!(
            status["clusters"],
            json!([{"name": "a", "replicas": 2, "applied": true, "health": "Healthy"}, {"name": "b"}])
        );
        assert_eq!((&status["replicas"], &status["readyReplicas"]), (&json!(3), &json!(1)));
        let before = status.clone();
        show(&mut status, Some(&deployment), Some(&binding));
        assert_eq!(status, before);
    }

    #[test]
    fn defaults_stay_and_what_is_wanted_comes() {
        let mut policy = json!({"apiVersion": POLICY_API_VERSION, "metadata": {}, "spec": {"priority": 0, "resourceSelectors": [1]}});
        bring(
            &mut policy,
            &json!({"metadata": {"labels": {"a": "b"}}, "spec": {"resourceSelectors": [2]}}),
        );
        assert_eq!(policy["spec"], json!({"priority": 0, "resourceSelectors": [2]}));
        assert_eq!(policy["metadata"]["labels"]["a"], "b");
    }
}
