//! Clears away what nobody else does: pods that have ended when there are too many of them, pods of machines that are not there, pods that were asked
//! to go before they had a machine, and what an agent that was killed left held for a Job or a Service that is gone.

use std::cmp::Reverse;
use std::pin::Pin;
use std::sync::Arc;

use metastore::api::{DeleteOptions, Status};
use serde_json::{Value, json};

use super::endpoints::ENDPOINTS_MANAGED_BY;
use super::job::{self, is_held};
use super::look::{controller_of, is_finished, is_terminating, label, name, namespace, set_condition, text, uid};
use super::{Change, Controller, Reconciled};
use crate::cluster::{Cluster, ENDPOINTS, JOBS, Key, Kind, NODES, PODS, SERVICES};

/// Most pods that have ended and are kept for who asks why.
const KEPT: usize = 100;

/// Clears away on the gateway of this name.
pub(crate) fn pod_gc(cluster: Cluster, node: &str) -> Arc<dyn Controller> {
    Arc::new(PodGc {
        cluster,
        node: Key::new("", node),
    })
}

struct PodGc {
    cluster: Cluster,
    node: Key,
}

impl Controller for PodGc {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn kind(&self) -> Kind {
        NODES
    }

    fn follows(&self) -> &'static [Kind] {
        &[PODS]
    }

    fn concerned(&self, change: &Change, _: &Cluster) -> Vec<Key> {
        let Some(pod) = &change.after else { return Vec::new() };
        let was = |of: &dyn Fn(&Value) -> bool| change.before.as_ref().is_some_and(of);
        let place = text(pod, "/spec/nodeName");
        let ended = is_finished(pod) && !was(&is_finished);
        let stuck = is_terminating(pod) && place.is_empty();
        let elsewhere = !place.is_empty() && place != &*self.node.name;
        if ended || stuck || elsewhere {
            vec![self.node.clone()]
        } else {
            Vec::new()
        }
    }

    fn reconcile<'a>(&'a self, key: &'a Key) -> Pin<Box<dyn Future<Output = Reconciled> + Send + 'a>> {
        Box::pin(async move {
            if *key == self.node {
                self.sweep().await?;
            }
            Ok(None)
        })
    }
}

impl PodGc {
    async fn sweep(&self) -> Result<(), Status> {
        let pods = self.cluster.list(PODS, None)?;
        let mut ended: Vec<&Value> = pods.iter().filter(|p| is_finished(p) && !is_terminating(p)).collect();
        ended.sort_by_key(|p| {
            let evicted = text(p, "/status/reason") == "Evicted";
            (Reverse(evicted), text(p, "/metadata/creationTimestamp"), name(p))
        });
        for pod in &ended[..ended.len().saturating_sub(KEPT)] {
            self.delete(pod).await?;
        }
        for pod in &pods {
            let place = text(pod, "/spec/nodeName");
            if place.is_empty() && is_terminating(pod) {
                self.delete(pod).await?;
            } else if !place.is_empty() && place != &*self.node.name {
                self.orphan(pod, place).await?;
            }
            if is_held(pod) {
                self.let_go(pod).await?;
            }
        }
        self.sweep_endpoints().await
    }

    /// Deletes a pod at once.
    async fn delete(&self, pod: &Value) -> Result<(), Status> {
        let options = DeleteOptions {
            uid: Some(uid(pod).to_owned()),
            grace: Some(0),
            ..DeleteOptions::default()
        };
        match self.cluster.delete(PODS, &Key::of(pod), &options).await {
            Err(e) if e.code != 409 => Err(e),
            _ => Ok(()),
        }
    }

    /// A pod of a machine that is not there has failed, and goes.
    async fn orphan(&self, pod: &Value, place: &str) -> Result<(), Status> {
        if self.cluster.get(NODES, &Key::new("", place))?.is_some() {
            return Ok(());
        }
        if !is_finished(pod) {
            let condition = json!({
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists",
                "lastProbeTime": null,
                "lastTransitionTime": crate::time::now(),
            });
            let key = Key::of(pod);
            let said = self.cluster.modify_status(PODS, &key, |now| {
                if uid(now) == uid(pod) {
                    set_condition(now, &condition);
                    now["status"]["phase"] = "Failed".into();
                }
                Ok(())
            });
            match said.await {
                Err(e) if e.code == 404 => return Ok(()),
                other => drop(other?),
            }
        }
        self.delete(pod).await
    }

    /// Nobody counts a pod whose Job is gone.
    async fn let_go(&self, pod: &Value) -> Result<(), Status> {
        if let Some(owner) = controller_of(pod) {
            let job = self
                .cluster
                .get(JOBS, &Key::new(namespace(pod), text(owner, "/name")))?;
            if owner["kind"] != JOBS.kind || job.is_some_and(|j| owner["uid"] == j["metadata"]["uid"]) {
                return Ok(());
            }
        }
        job::release(&self.cluster, pod).await
    }

    async fn sweep_endpoints(&self) -> Result<(), Status> {
        for endpoints in self.cluster.list(ENDPOINTS, None)? {
            let key = Key::of(&endpoints);
            let ours = label(&endpoints, ENDPOINTS_MANAGED_BY.0) == Some(ENDPOINTS_MANAGED_BY.1);
            if ours && self.cluster.get(SERVICES, &key)?.is_none() {
                self.cluster.delete(ENDPOINTS, &key, &DeleteOptions::default()).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::bench::Bench;

    #[tokio::test]
    async fn what_nobody_wants_any_more_goes() {
        let bench = Bench::start().await;
        bench.node("press-01", "4", "1Gi").await;
        let all = [pod_gc(bench.cluster.clone(), "press-01")];
        let here = || json!({"nodeName": "press-01"});
        bench.pod("here", json!({}), here()).await;
        bench.pod("elsewhere", json!({}), json!({"nodeName": "gone"})).await;
        bench.pod("waits", json!({}), json!({})).await;
        for i in 0..KEPT + 3 {
            let name = format!("ended-{i:03}");
            bench.pod(&name, json!({}), here()).await;
            bench
                .phase(&name, if i % 2 == 0 { "Succeeded" } else { "Failed" })
                .await;
        }
        bench
            .status(PODS, &Key::new("plant", "ended-050"), |p| {
                p["status"]["reason"] = "Evicted".into()
            })
            .await;
        bench.settle(&all).await;
        for (name, there) in [
            ("here", true),
            ("elsewhere", false),
            ("waits", true),
            ("ended-050", false),
            ("ended-000", false),
            ("ended-001", false),
            ("ended-002", true),
        ] {
            assert_eq!(bench.find(PODS, name).is_some(), there, "{name}");
        }
        assert_eq!(bench.list(PODS).len(), KEPT + 2);
    }

    /// What an agent that was killed half-way left.
    #[tokio::test]
    async fn nothing_is_held_for_nobody() {
        let bench = Bench::start().await;
        bench.node("press-01", "4", "1Gi").await;
        let all = [pod_gc(bench.cluster.clone(), "press-01")];
        let held = |name: &str, owners: Value| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "finalizers": [job::FINALIZER], "ownerReferences": owners},
                "spec": {"containers": [{"name": "main", "image": "i"}]}})
        };
        let job = bench
            .create(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"},
                "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "i"}]}}}}))
            .await;
        let owner =
            |uid: &str| json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": uid, "controller": true}]);
        bench.create(held("mine", owner(uid(&job)))).await;
        bench.create(held("gone", json!([]))).await;
        bench.delete(PODS, "gone", None).await;
        bench.create(held("left", json!([]))).await;
        let managed = json!({ENDPOINTS_MANAGED_BY.0: ENDPOINTS_MANAGED_BY.1});
        for (name, labels) in [("ours", managed), ("theirs", json!({}))] {
            bench
                .create(json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": name, "labels": labels}}))
                .await;
        }
        bench.settle(&all).await;
        assert!(is_held(&bench.get(PODS, "mine")));
        assert!(!is_held(&bench.get(PODS, "left")));
        assert!(bench.find(PODS, "gone").is_none());
        assert!(bench.find(ENDPOINTS, "ours").is_none() && bench.find(ENDPOINTS, "theirs").is_some());
    }
}
