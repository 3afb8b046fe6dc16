//! The Clusters that stand for gateways, and the Works for them.

use std::sync::Arc;

use bytes::Bytes;
use federation::names::{EXECUTION_FINALIZER, cluster_name};
use proto::{Hash, Key};
use serde_json::{Map, Value, json};

use super::jobs::object;
use super::{Job, Observed, Shared};
use crate::upstream::clusters::{Facts, Reach, is_taken_in, status};
use crate::upstream::objects::{ApiError, CLUSTER, WORK, revision};
use crate::upstream::presence::{Presence, rfc3339};
use crate::upstream::queue::Urgency;
use crate::upstream::works::{GATEWAY, HUB, Stands, attended, status_of};

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
            return self.remove_cluster(node).await;
        }
        if let Some(site) = self.index.site_of(node) {
            return self.give_up_own(node, &site).await;
        }
        let (labels, taints, site) = self.labels_and_taints(node, &presence);
        // Withdrawn with its site's Cluster.
        if site.is_some() {
            return Ok(());
        }
        let registration = presence.registration.clone().within(None);
        if registration.is_withdrawn(&self.above.plane) {
            return Ok(());
        }
        let facts = Facts {
            stands: Stands::Gateway(Arc::from(node)),
            id: format!("spiffe://{}/node/{node}", self.above.trust_domain),
            labels,
            zones: Vec::new(),
            taints,
            endpoint: self.above.endpoint.as_ref(),
            hub: &self.above.hub,
        };
        let before = match self.above.objects.get(CLUSTER, "", &name).await {
            Ok(object) => object,
            // Somebody removed it; the watch is about to say so.
            Err(ApiError::NotFound) if registration.is_on(&self.above.plane) => return Ok(()),
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
        self.made_here(&before)?;
        if !before["metadata"]["deletionTimestamp"].is_null() {
            let taken_in = is_taken_in(&before);
            return match observed {
                // It may be one from before the gateway joined again.
                Observed::Reported { .. }
                    if !presence.connected || !taken_in || !registration.is_on(&self.above.plane) =>
                {
                    Err(ApiError::NotYet("the cluster of this name is being removed"))
                }
                // While it is said to be ready its Works are left to its gateway.
                _ if taken_in => {
                    let now = daemon::clock::wall_ms();
                    self.put_cluster_status(&before, None, self.reach(&presence, now), now)
                        .await
                        .map(drop)
                }
                _ => Ok(()),
            };
        }
        let uid = before["metadata"]["uid"].as_str().unwrap_or_default();
        if !registration.is(&self.above.plane, uid) {
            let registered = self.presences.register(node, &self.above.plane, uid, None);
            registered.await.map_err(ApiError::Unavailable)?;
        }
        let mut cluster = before.clone();
        facts.put(&mut cluster);
        let mut refused = None;
        if cluster != before {
            match self.above.objects.replace(CLUSTER, "", &name, &cluster).await {
                Ok(written) => cluster = written,
                // A label or a taint that is none keeps nobody from knowing whether the gateway is there.
                Err(ApiError::Refused(why)) => {
                    refused = Some(why);
                    cluster = before;
                }
                Err(e) => return Err(e),
            }
        }
        self.write_cluster_status(key, node, &cluster, &presence, observed)
            .await?;
        if let Some(why) = refused {
            tracing::warn!(node, why, "What is said of the gateway cannot be said on its Cluster.");
        }
        Ok(())
    }

    /// Takes the Cluster of a gateway away that was thrown out. It is not ready from here on, or its Works would wait for the gateway.
    async fn remove_cluster(&self, node: &str) -> Result<(), ApiError> {
        let Some((cluster, entry)) = self.index.cluster_of_node(node) else {
            return Ok(());
        };
        if entry.finalized {
            let there = match self.above.objects.get(CLUSTER, "", &cluster).await {
                Err(ApiError::NotFound) => return Ok(()),
                other => other?,
            };
            self.put_cluster_status(&there, None, Reach::No, daemon::clock::wall_ms())
                .await?;
        }
        if entry.deleting {
            return Ok(());
        }
        self.above.objects.delete(CLUSTER, "", &cluster).await
    }

    /// Refuses a Cluster that another hub made.
    pub(super) fn made_here(&self, cluster: &Value) -> Result<(), ApiError> {
        let made = cluster
            .pointer("/metadata/annotations")
            .and_then(|n| n.get(HUB)?.as_str());
        match made.filter(|made| *made != &*self.above.hub) {
            None => Ok(()),
            Some(made) => Err(ApiError::Refused(format!(
                "the Cluster {} is another hub's ({made}): if that hub is no more, take its annotation {HUB} off",
                cluster["metadata"]["name"].as_str().unwrap_or_default()
            ))),
        }
    }

    fn reach(&self, presence: &Presence, now: u64) -> Reach {
        if presence.connected {
            Reach::Yes
        } else if !self.presences.settled() || now.saturating_sub(presence.since) < UNREACHABLE_AFTER {
            Reach::Unsettled
        } else {
            Reach::No
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
        if !is_taken_in(cluster) {
            // The watch tells when it is.
            return match report {
                Some(_) => Err(ApiError::NotYet("the cluster was not taken in above yet")),
                None => Ok(()),
            };
        }
        let now = daemon::clock::wall_ms();
        let reach = self.reach(presence, now);
        let said = report.as_ref().map(|(r, _)| r);
        let at = self.put_cluster_status(cluster, said, reach, now).await?;
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

    /// Makes a Cluster's status say this; the revision at which it does.
    pub(super) async fn put_cluster_status(
        &self,
        cluster: &Value,
        report: Option<&Map<String, Value>>,
        reach: Reach,
        now: u64,
    ) -> Result<u64, ApiError> {
        let before = &cluster["status"];
        let after = status(before, report, reach, &rfc3339(now));
        if after == *before {
            return Ok(revision(cluster));
        }
        let name = cluster["metadata"]["name"].as_str().unwrap_or_default();
        let patch = json!({"status": with_removals(before, after)});
        let written = self.above.objects.merge_patch_status(CLUSTER, "", name, &patch).await?;
        Ok(revision(&written))
    }

    /// Somebody removed the Cluster of a gateway or of its site: it stays out until it joins again.
    pub(super) async fn cluster_gone(&self, node: &str, uid: &str) -> Result<(), ApiError> {
        let withdrawn = self.presences.withdraw(node, &self.above.plane, uid);
        withdrawn.await.map_err(ApiError::Unavailable)?;
        // Who is withdrawn is no member. What that leaves to be done is done when the site is looked at next.
        self.follow(self.place(node));
        // Who joined again meanwhile gets another.
        let key = crate::upstream::body::key(crate::upstream::body::CLUSTERS, "clusters", "", node);
        let observed = Observed::Same;
        self.lock(&key)
            .submit(&key, Job::Cluster { observed }, None, Urgency::Soon);
        Ok(())
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
        if owner.as_ref().and_then(Stands::gateway) != Some(node) {
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
        if facts.too_large {
            // It is said of a smaller one, from before; what is to be said of this the hub says.
            return self.wrote(key, node, hash, 0);
        }
        let _writing = self.index.writing(key);
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
    pub(super) async fn release(&self, namespace: &str, name: &str) -> Result<(), ApiError> {
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
        let Some((Some(stands), facts)) = self.index.work_facts(namespace, name) else {
            return Ok(());
        };
        if !facts.needs_attention() || !self.index.is_own(&stands, &*self.presences) {
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
