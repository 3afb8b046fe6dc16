//! Clusters: room for the Works of each, its taints in step with its readiness, and an orderly end.
//!
//! | Cluster | |
//! |---|---|
//! | there | namespace, finalizer, taint while it is not Ready |
//! | leaving, Ready | its namespace goes; its gateway cleans up and lets its Works go |
//! | leaving, not Ready | the same, and its Works are let go here: nobody else would |
//! | no namespace, no binding names it | the finalizer goes |

use std::sync::Arc;

use federation::names::{
    CLUSTER_FINALIZER, EXECUTION_FINALIZER, SYSTEM, TAINT_NOT_READY, TAINT_UNREACHABLE, execution_namespace,
};
use metastore::api::Status;
use serde_json::{Value, json};

use super::follow::Shared;
use super::hand::{
    CLUSTERS, Hand, Key, NAMESPACES, WORKS, add_finalizer, has_finalizer, is_leaving, is_there, label, list, put,
    remove_finalizer,
};
use super::queue::Desk;
use super::{Controller, Looked};

pub(super) struct Clusters {
    shared: Arc<Shared>,
    hand: Hand,
}

impl Clusters {
    pub(super) const fn new(shared: Arc<Shared>, hand: Hand) -> Self {
        Self { shared, hand }
    }

    async fn make_room(&self, name: &str) -> Result<(), Status> {
        let namespace = execution_namespace(name);
        let id = NAMESPACES.id(&Key::new("", namespace.as_str()));
        match self.hand.get(&id)? {
            None => {
                let object = json!({
                    "apiVersion": "v1", "kind": "Namespace",
                    "metadata": {"name": namespace, "labels": {SYSTEM: "true"}},
                });
                match self.hand.create(object).await {
                    Err(s) if !is_there(&s) => return Err(s),
                    _ => {}
                }
            }
            // One that goes is on the way of a cluster of the same name before; its end is news.
            Some(there) if !is_leaving(&there) && label(&there, SYSTEM) != "true" => {
                self.hand.modify(&id, |n| put(n, "labels", SYSTEM, "true")).await?;
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Whether nothing of it is left but itself.
    async fn clear(&self, name: &Arc<str>, ready: bool) -> Result<bool, Status> {
        let namespace = execution_namespace(name);
        let id = NAMESPACES.id(&Key::new("", namespace.as_str()));
        match self.hand.get(&id)? {
            // First of all: who is to stay gets its finalizer back.
            Some(room) if !is_leaving(&room) => self.hand.delete(&id).await?,
            _ => {}
        }
        if !ready {
            let mut held = Vec::new();
            self.hand.each(&WORKS.scope(Some(&namespace)), |key, work| {
                if is_leaving(&work) && has_finalizer(&work, EXECUTION_FINALIZER) {
                    held.push(WORKS.id(&Key::of(&key)));
                }
            })?;
            for id in held {
                self.hand
                    .modify(&id, |w| remove_finalizer(w, EXECUTION_FINALIZER))
                    .await?;
            }
        }
        Ok(self.hand.get(&id)?.is_none() && self.shared.picture().going_to(name).is_empty())
    }
}

impl Controller for Clusters {
    type Key = Arc<str>;
    const NAME: &'static str = "clusters";
    const LOOKERS: usize = 8;

    fn desk(&self) -> &Desk<Arc<str>> {
        &self.shared.desks.clusters
    }

    async fn look(&self, name: &Arc<str>) -> Looked {
        let id = CLUSTERS.id(&Key::new("", Arc::clone(name)));
        let Some(cluster) = self.hand.get(&id)? else {
            return Ok(None);
        };
        if is_leaving(&cluster) {
            if has_finalizer(&cluster, CLUSTER_FINALIZER) && self.clear(name, readiness(&cluster) == "True").await? {
                self.hand
                    .modify(&id, |c| remove_finalizer(c, CLUSTER_FINALIZER))
                    .await?;
                tracing::info!(cluster = &**name, "The cluster is gone, with what was made for it.");
            }
            return Ok(None);
        }
        self.make_room(name).await?;
        let wanted = |cluster: &mut Value| {
            add_finalizer(cluster, CLUSTER_FINALIZER);
            put_taints(cluster);
        };
        self.hand.modify(&id, wanted).await?;
        Ok(None)
    }
}

/// The status of the condition Ready; `False` where there is none.
fn readiness(cluster: &Value) -> &str {
    let conditions = list(cluster, "/status/conditions");
    let ready = conditions.iter().find(|c| c["type"] == "Ready");
    ready.and_then(|c| c["status"].as_str()).unwrap_or("False")
}

/// Keeps new objects away from a cluster that is not ready. What is there stays.
fn put_taints(cluster: &mut Value) {
    let wanted = match readiness(cluster) {
        "True" => None,
        "Unknown" => Some(TAINT_UNREACHABLE),
        _ => Some(TAINT_NOT_READY),
    };
    let own = |taint: &Value| {
        taint["effect"] == "NoSchedule"
            && [TAINT_NOT_READY, TAINT_UNREACHABLE]
                .iter()
                .any(|key| taint["key"] == *key)
    };
    let before = list(cluster, "/spec/taints");
    let is_so = match wanted {
        None => !before.iter().any(own),
        Some(key) => before.iter().filter(|t| own(t)).map(|t| &t["key"]).eq([key]),
    };
    if is_so {
        return;
    }
    let mut taints: Vec<Value> = before.iter().filter(|t| !own(t)).cloned().collect();
    taints.extend(wanted.map(|key| json!({"key": key, "effect": "NoSchedule"})));
    if let Some(spec) = cluster.get_mut("spec").and_then(Value::as_object_mut) {
        if taints.is_empty() {
            spec.remove("taints");
        } else {
            spec.insert("taints".to_owned(), taints.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_follow_readiness_and_leave_others_alone() {
        let line = json!({"key": "line", "effect": "NoSchedule"});
        let mut cluster = json!({"spec": {"taints": [line]}});
        put_taints(&mut cluster);
        assert_eq!(cluster["spec"]["taints"][1]["key"], TAINT_NOT_READY);
        let before = cluster.clone();
        put_taints(&mut cluster);
        assert_eq!(cluster, before);
        let ready = |status: &str| json!({"conditions": [{"type": "Ready", "status": status}]});
        cluster["status"] = ready("Unknown");
        put_taints(&mut cluster);
        assert_eq!(
            cluster["spec"]["taints"],
            json!([line, {"key": TAINT_UNREACHABLE, "effect": "NoSchedule"}])
        );
        cluster["status"] = ready("True");
        put_taints(&mut cluster);
        assert_eq!(cluster["spec"]["taints"], json!([line]));
        for mut junk in [
            json!({}),
            json!({"spec": []}),
            json!({"spec": {"taints": "x"}, "status": 1}),
        ] {
            put_taints(&mut junk);
        }
    }
}
