//! Objects of the Kubernetes API as tests make them and look at them, at a gateway, at a hub, or at a gateway through a hub. All in `default`.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use crate::runtime::BOX;
use crate::{Api, LOOK, PATIENCE};

/// Group and version, kind, plural: what tests make.
const KINDS: [(&str, &str, &str); 16] = [
    ("apps/v1", "DaemonSet", "daemonsets"),
    ("apps/v1", "Deployment", "deployments"),
    ("apps/v1", "ReplicaSet", "replicasets"),
    ("apps/v1", "StatefulSet", "statefulsets"),
    ("batch/v1", "CronJob", "cronjobs"),
    ("batch/v1", "Job", "jobs"),
    ("discovery.k8s.io/v1", "EndpointSlice", "endpointslices"),
    ("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("v1", "ConfigMap", "configmaps"),
    ("v1", "Endpoints", "endpoints"),
    ("v1", "Event", "events"),
    ("v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    ("v1", "Pod", "pods"),
    ("v1", "Secret", "secrets"),
    ("v1", "Service", "services"),
    ("v1", "ServiceAccount", "serviceaccounts"),
];

/// Path of an object in `default`, by `Kind/name`; of all of its kind without a name.
///
/// # Panics
/// When no test makes such a kind.
pub fn path(what: &str) -> String {
    let (kind, name) = what.split_once('/').unwrap_or((what, ""));
    let (version, _, plural) = KINDS
        .iter()
        .find(|(_, known, _)| *known == kind)
        .unwrap_or_else(|| panic!("no test makes a {kind} yet"));
    let root = if version.contains('/') { "apis" } else { "api" };
    let path = format!("/{root}/{version}/namespaces/default/{plural}");
    if name.is_empty() {
        path
    } else {
        format!("{path}/{name}")
    }
}

/// The API of one cluster.
#[derive(Clone, Debug)]
pub struct Objects(pub Api);

impl Objects {
    /// Creates it.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn create(&self, object: &Value) -> Value {
        let kind = object["kind"].as_str().expect("an object has a kind");
        let made = self.0.json(Method::POST, &path(kind), Some(object)).await;
        made.unwrap_or_else(|e| panic!("{kind} is refused: {e:?}\n{object:#}"))
    }

    /// An object by `Kind/name`, `None` when it is not there.
    pub async fn get(&self, what: &str) -> Option<Value> {
        crate::get(&self.0, &path(what)).await
    }

    /// All of a kind whose label `app` is this.
    pub async fn labelled(&self, kind: &str, app: &str) -> Vec<Value> {
        let path = format!("{}?labelSelector=app%3D{app}", path(kind));
        let list = crate::get(&self.0, &path).await.unwrap_or_default();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// Pods whose label `app` is this.
    pub async fn pods(&self, app: &str) -> Vec<Value> {
        self.labelled("Pod", app).await
    }

    /// Lays a merge patch over an object.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn patch(&self, what: &str, patch: &Value) -> Value {
        let headers = [("content-type", "application/merge-patch+json")];
        let body = Some(patch.to_string().into_bytes());
        let answer = self.0.call(Method::PATCH, &path(what), &headers, body).await;
        let bytes = answer
            .expect("the API answers")
            .unwrap_or_else(|e| panic!("patch of {what} is refused: {e:?}"));
        serde_json::from_slice(&bytes).expect("an object is JSON")
    }

    /// Asks for an object to go; in the background for what it owns.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn delete(&self, what: &str) {
        let deleted = self.0.json(Method::DELETE, &path(what), None).await;
        deleted.unwrap_or_else(|e| panic!("deletion of {what} is refused: {e:?}"));
    }

    /// Waits for an object to be as a test wants it.
    ///
    /// # Panics
    /// When it is not, with how it was last.
    pub async fn until(&self, what: &str, wish: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.until_within(PATIENCE, what, wish, fits).await
    }

    /// The same with another patience.
    ///
    /// # Panics
    /// When it is not, with how it was last.
    pub async fn until_within(
        &self,
        patience: Duration,
        what: &str,
        wish: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = daemon::clock::now() + patience;
        let mut last = Value::Null;
        loop {
            if let Some(found) = self.get(what).await {
                if fits(&found) {
                    return found;
                }
                last = found;
            }
            assert!(
                daemon::clock::now() < deadline,
                "waited {patience:?} for {what} {wish}; it is {:#}",
                last["status"]
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until it is not there.
    pub async fn until_gone(&self, what: &str) {
        crate::eventually(&format!("{what} to go"), async || {
            let answer = self.0.try_json(Method::GET, &path(what), None).await.ok()?;
            answer.is_err_and(|refusal| refusal.status == 404).then_some(())
        })
        .await;
    }

    /// Waits until exactly this many pods of an app exist, all of them ready, and gives them by name.
    ///
    /// # Panics
    /// When they are not, with what they were last.
    pub async fn until_ready(&self, app: &str, count: usize) -> Vec<Value> {
        self.until_pods(app, &format!("to be {count}, ready"), |pods| {
            pods.len() == count && pods.iter().all(is_ready)
        })
        .await
    }

    /// Waits until the pods of an app are as a test wants them.
    ///
    /// # Panics
    /// When they are not, with what they were last.
    pub async fn until_pods(&self, app: &str, wish: &str, fits: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let deadline = daemon::clock::now() + 2 * PATIENCE;
        loop {
            let pods = self.pods(app).await;
            if fits(&pods) {
                return pods;
            }
            let shown = || pods.iter().map(shown).collect::<Vec<_>>().join("\n");
            assert!(
                daemon::clock::now() < deadline,
                "waited {:?} for pods of {app} {wish}; they are\n{}",
                2 * PATIENCE,
                shown()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Events about an object of this name: reason and message, oldest first.
    pub async fn events(&self, name: &str) -> Vec<(String, String)> {
        let path = format!("{}?fieldSelector=involvedObject.name%3D{name}", path("Event"));
        let list = crate::get(&self.0, &path).await.unwrap_or_default();
        let mut events = list["items"].as_array().cloned().unwrap_or_default();
        let stamp = |event: &Value| {
            event["metadata"]["resourceVersion"]
                .as_str()
                .and_then(|v| v.parse().ok())
        };
        events.sort_by_key(|event| stamp(event).unwrap_or(0_u64));
        let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
        events.iter().map(|e| (text(e, "reason"), text(e, "message"))).collect()
    }

    /// Waits for an event about an object and gives its message.
    pub async fn until_event(&self, name: &str, reason: &str) -> String {
        crate::eventually(&format!("event {reason} of {name}"), async || {
            let events = self.events(name).await;
            events
                .into_iter()
                .find(|(r, _)| r == reason)
                .map(|(_, message)| message)
        })
        .await
    }
}

/// A container named `c` of [`BOX`] that runs a line of shell.
pub fn container(line: &str) -> Value {
    json!({"name": "c", "image": BOX, "command": ["/bin/sh", "-c", line]})
}

/// A container that does nothing, until it is asked to stop.
pub fn idle() -> Value {
    container("trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done")
}

/// A container that answers HTTP on port 8080 with its pod's name, and stops when asked.
pub fn web() -> Value {
    let mut web = container(
        "mkdir /www; hostname > /www/index.html; httpd -f -p 8080 -h /www & trap 'kill $!; exit 0' TERM; wait",
    );
    web["ports"] = json!([{"containerPort": 8080}]);
    web["readinessProbe"] = json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1});
    web
}

/// A Pod with one container, its label `app` its name.
pub fn pod(name: &str, container: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 5, "containers": [container]}})
}

/// What a controller makes pods of: label `app`, one container.
pub fn template(app: &str, container: Value) -> Value {
    json!({"metadata": {"labels": {"app": app}},
        "spec": {"terminationGracePeriodSeconds": 5, "containers": [container]}})
}

/// A Deployment, its label `app` its name.
pub fn deployment(name: &str, replicas: u32, container: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(name, container)}})
}

/// A Job of one container that is not started again in place.
pub fn job(name: &str, container: Value) -> Value {
    let mut template = template(name, container);
    template["spec"]["restartPolicy"] = json!("Never");
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"template": template}})
}

/// A Service on port 80 for the port 8080 of an app.
pub fn service(name: &str, app: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"selector": {"app": app}, "ports": [{"port": 80, "targetPort": 8080}]}})
}

/// Name of an object.
///
/// # Panics
/// When it has none.
pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().expect("an object has a name")
}

/// A condition's status; empty when there is none.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let all = object["status"]["conditions"].as_array();
    let found = all.and_then(|all| all.iter().find(|c| c["type"] == kind));
    found.and_then(|c| c["status"].as_str()).unwrap_or_default()
}

/// Whether a pod is ready and not on its way out.
pub fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready") == "True" && pod["metadata"]["deletionTimestamp"].is_null()
}

/// Container ids and restart counts of a pod: what must not change when nothing happened to it.
pub fn lives(pod: &Value) -> Vec<(String, String, u64)> {
    let statuses = ["initContainerStatuses", "containerStatuses"].map(|field| pod["status"][field].as_array());
    let text = |status: &Value, field: &str| status[field].as_str().unwrap_or_default().to_owned();
    let life = |s: &Value| {
        (
            text(s, "name"),
            text(s, "containerID"),
            s["restartCount"].as_u64().unwrap_or(0),
        )
    };
    statuses.into_iter().flatten().flatten().map(life).collect()
}

/// The same of many pods, by pod name.
pub fn all_lives(pods: &[Value]) -> std::collections::BTreeMap<String, Vec<(String, String, u64)>> {
    pods.iter().map(|pod| (name(pod).to_owned(), lives(pod))).collect()
}

/// A pod on a line, for a failed test.
fn shown(pod: &Value) -> String {
    let states = pod["status"]["containerStatuses"].as_array();
    let states: Vec<String> = states
        .into_iter()
        .flatten()
        .map(|s| format!("{} x{}", s["state"], s["restartCount"]))
        .collect();
    format!(
        "{} {} ready={} {} {}",
        name(pod),
        pod["status"]["phase"],
        condition(pod, "Ready"),
        pod["metadata"]["deletionTimestamp"],
        states.join(", ")
    )
}
