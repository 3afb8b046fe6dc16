//! The Clusters that stand for gateways, and the Works for them.

use std::sync::Arc;

use bytes::Bytes;
use federation::names::{EXECUTION_FINALIZER, cluster_name};
use proto::{Hash, Key};
use serde_json::{Value, json};

use super::jobs::object;
use super::nodes::labels_of;
use super::{Observed, Shared};
use crate::upstream::clusters::{GatewayFacts, Reach, status};
use crate::upstream::objects::{ApiError, CLUSTER, WORK, revision};
use crate::upstream::presence::{Presence, Registration, rfc3339};
use crate::upstream::works::{GATEWAY, attended, status_of};

/// A gateway that went is said to be out of reach when it is gone this long, in milliseconds: one that is restarted is back before.
pub(crate) const UNREACHABLE_AFTER: u64 = 30_000;

const NO_WORK: ApiError = ApiError::NotOwned("there is no such Work");
const NOT_ITS_WORK: ApiError = ApiError::NotOwned("the Work is not this gateway's");

impl Shared {
    pub(super) async fn write_cluster(&self, key: &Key, node: &str, observed: &Observed) -> Result<(), ApiError> {
        let presence = self.presences.of(node);
        if !presence.enrolled {
            return Ok(());
        }
        let name = cluster_name(node);
        if presence.revoked {
            return match self.index.cluster_of_node(node) {
                Some((cluster, entry)) if !entry.deleting => self.above.objects.delete(CLUSTER, "", &cluster).await,
                _ => Ok(()),
            };
        }
        if presence.registration == Registration::Withdrawn(Arc::clone(&self.above.plane)) {
            return Ok(());
        }
        let facts = self.gateway_facts(node, &presence);
        let before = match self.above.objects.get(CLUSTER, "", &name).await {
            Ok(object) => object,
            // Somebody removed it; the watch is about to say so.
            Err(ApiError::NotFound) if presence.registration.is_on(&self.above.plane) => return Ok(()),
            Err(ApiError::NotFound) => {
                let made = self
                    .above
                    .objects
                    .create(CLUSTER, "", &facts.new_cluster(&name))
                    .await?;
                tracing::info!(node, cluster = name, "The gateway is registered as a cluster.");
                made
            }
            Err(e) => return Err(e),
        };
        if before.pointer("/metadata/annotations").and_then(|n| n.get(GATEWAY)) != Some(&Value::from(node)) {
            return Err(ApiError::Refused(format!(
                "there is a Cluster {name} that does not stand for this gateway: delete it, or let the gateway join under another name"
            )));
        }
        if !before["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        let uid = before["metadata"]["uid"].as_str().unwrap_or_default();
        if !presence.registration.is(&self.above.plane, uid) {
            let registered = self.presences.register(node, &self.above.plane, uid);
            registered.await.map_err(ApiError::Unavailable)?;
        }
        let mut cluster = before.clone();
        facts.put(&mut cluster);
        if cluster != before {
            cluster = self.above.objects.replace(CLUSTER, "", &name, &cluster).await?;
        }
        self.write_cluster_status(key, node, &cluster, &presence, observed)
            .await
    }

    fn gateway_facts<'a>(&'a self, node: &'a str, presence: &Presence) -> GatewayFacts<'a> {
        let mut labels: super::nodes::Labels = presence
            .labels
            .iter()
            .map(|(k, v)| (k.clone(), v.as_str().into()))
            .collect();
        let mut taints = Vec::new();
        if let Some((_, body)) = self.index.edge_node_of(node)
            && let Ok(edge_node) = serde_json::from_slice::<Value>(&body.bytes)
        {
            labels.extend(labels_of(edge_node.get("spec")));
            taints = edge_node
                .pointer("/spec/taints")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default();
        }
        GatewayFacts {
            node,
            id: format!("spiffe://{}/node/{node}", self.above.trust_domain),
            labels,
            taints,
            endpoint: self.above.endpoint.as_ref(),
        }
    }

    async fn write_cluster_status(
        &self,
        key: &Key,
        node: &str,
        cluster: &Value,
        presence: &Presence,
        observed: &Observed,
    ) -> Result<(), ApiError> {
        let report = match observed {
            Observed::Reported { body, hash } => Some((object(body)?, *hash)),
            // It reports nothing any more, or nothing new: what was known of it stays.
            Observed::Same | Observed::Gone => None,
        };
        let name = cluster["metadata"]["name"].as_str().unwrap_or_default();
        let finalizers = cluster["metadata"]["finalizers"].as_array();
        let taken_in = finalizers.is_some_and(|all| all.iter().any(|f| f == federation::names::CLUSTER_FINALIZER));
        if !taken_in {
            // The watch tells when it is.
            return match report {
                Some(_) => Err(ApiError::NotYet("the cluster was not taken in above yet")),
                None => Ok(()),
            };
        }
        let now = daemon::clock::wall_ms();
        let reach = if presence.connected {
            Reach::Yes
        } else if !self.presences.settled() || now.saturating_sub(presence.since) < UNREACHABLE_AFTER {
            Reach::Unsettled
        } else {
            Reach::No
        };
        let before = &cluster["status"];
        let after = status(before, report.as_ref().map(|(r, _)| r), reach, &rfc3339(now));
        let mut at = revision(cluster);
        if after != *before {
            let patch = json!({"status": with_removals(before, after)});
            at = revision(&self.above.objects.merge_patch_status(CLUSTER, "", name, &patch).await?);
        }
        match (report, observed) {
            (Some((_, hash)), _) => self.wrote(key, &Arc::from(node), hash, at),
            (None, Observed::Gone) => {
                self.index.forget(key);
                Ok(())
            }
            (None, _) => {
                // The watch's word on this write is known.
                if let Some((owner, hash)) = self.index.marked(key) {
                    self.index.mark(key, Some((owner, hash)), at);
                }
                Ok(())
            }
        }
    }

    /// Somebody removed the Cluster of a gateway: it stays out until it joins again.
    pub(super) async fn cluster_gone(&self, node: &str, uid: &str) -> Result<(), ApiError> {
        let withdrawn = self.presences.withdraw(node, &self.above.plane, uid);
        withdrawn.await.map_err(ApiError::Unavailable)
    }

    /// What a gateway says became of a Work.
    pub(super) async fn write_work(
        &self,
        key: &Key,
        (namespace, name): (&str, &str),
        node: &Arc<str>,
        body: &Bytes,
        hash: Hash,
    ) -> Result<(), ApiError> {
        let Some((owner, facts)) = self.index.work_facts(namespace, name) else {
            return Err(NO_WORK);
        };
        if owner.as_ref() != Some(node) {
            return Err(NOT_ITS_WORK);
        }
        let report = Value::Object(object(body)?);
        if facts.deleting {
            if report.get("deleted") == Some(&Value::Bool(true)) {
                self.release(namespace, name).await?;
            }
            // Whatever else is said of it is said of something that goes.
            return self.wrote(key, node, hash, 0);
        }
        if self.index.marked(key) == Some((Arc::clone(node), hash)) {
            return Ok(());
        }
        let status = status_of(&facts, Some(&report), &rfc3339(daemon::clock::wall_ms()));
        let written = self
            .above
            .objects
            .merge_patch_status(WORK, namespace, name, &json!({"status": status}))
            .await;
        match written {
            Ok(written) => self.wrote(key, node, hash, revision(&written)),
            Err(ApiError::NotFound) => Err(NO_WORK),
            Err(e) => Err(e),
        }
    }

    /// Everything of a Work is gone from its gateway: it may go.
    async fn release(&self, namespace: &str, name: &str) -> Result<(), ApiError> {
        let mut work = match self.above.objects.get(WORK, namespace, name).await {
            Err(ApiError::NotFound) => return Ok(()),
            other => other?,
        };
        if work["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        let Some(finalizers) = work["metadata"]["finalizers"].as_array_mut() else {
            return Ok(());
        };
        let before = finalizers.len();
        finalizers.retain(|f| f != EXECUTION_FINALIZER);
        if finalizers.len() == before {
            return Ok(());
        }
        match self.above.objects.replace(WORK, namespace, name, &work).await {
            Ok(_) | Err(ApiError::NotFound) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// What the hub itself has to say of a Work: the finalizer that it waits with, and whether it is on its way.
    pub(super) async fn attend(&self, namespace: &str, name: &str) -> Result<(), ApiError> {
        let Some((Some(node), facts)) = self.index.work_facts(namespace, name) else {
            return Ok(());
        };
        if !self.presences.enrolled(&node) {
            // Another hub's.
            return Ok(());
        }
        let mut work = match self.above.objects.get(WORK, namespace, name).await {
            Err(ApiError::NotFound) => return Ok(()),
            other => other?,
        };
        if !work["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        if !facts.finalized {
            let finalizers = &mut work["metadata"]["finalizers"];
            match finalizers.as_array_mut() {
                Some(all) if all.iter().any(|f| f == EXECUTION_FINALIZER) => {}
                Some(all) => all.push(EXECUTION_FINALIZER.into()),
                None => *finalizers = json!([EXECUTION_FINALIZER]),
            }
            work = self.above.objects.replace(WORK, namespace, name, &work).await?;
        }
        let conditions = attended(&facts, &work["status"], &rfc3339(daemon::clock::wall_ms()));
        if work["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice) != conditions {
            let patch = json!({"status": {"conditions": conditions}});
            self.above
                .objects
                .merge_patch_status(WORK, namespace, name, &patch)
                .await?;
        }
        Ok(())
    }
}

/// A merge patch that makes a status this: what is in the one before and not in it is named as gone.
fn with_removals(before: &Value, mut after: Value) -> Value {
    if let (Some(before), Some(after)) = (before.as_object(), after.as_object_mut()) {
        for field in before.keys() {
            after.entry(field.clone()).or_insert(Value::Null);
        }
    }
    after
}
