//! Sites: where gateways are, the Clusters that stand for sites, and what their members say of Works, written as one word.

use std::sync::Arc;

use federation::names::cluster_name;
use proto::Key;
use serde_json::{Value, json};

use super::{Batch, Job, Observed, Refusal, SITES, Shared, Writer};
use crate::upstream::body::Body;
use crate::upstream::clusters::{Facts, Reach};
use crate::upstream::index::Touched;
use crate::upstream::objects::{ApiError, CLUSTER, WORK, revision};
use crate::upstream::presence::{Presence, Registration, rfc3339};
use crate::upstream::queue::Urgency;
use crate::upstream::sites::{Place, SITE};
use crate::upstream::works::{Look, Spoken, Stands, Taken, canonical, reported_of, status_of};

impl Writer {
    /// Looks where a gateway is now: in a site, or for itself.
    pub(crate) fn place(&self, node: &str) {
        let touched = self.0.place(node);
        self.touched(touched);
    }

    /// Every gateway was placed once.
    pub(crate) fn placed(&self) {
        let mut touched = self.0.index.placed();
        for site in std::mem::take(&mut touched.sites) {
            self.site(&site, true);
        }
        self.touched(touched);
    }

    /// What has its time now.
    pub(crate) fn due(&self) {
        self.touched(self.0.index.due());
    }

    /// Does what a change leaves to be done.
    pub(crate) fn touched(&self, touched: Touched) {
        for key in &touched.attend {
            self.attend(key);
        }
        for key in &touched.look {
            self.submit(key, Job::Merge, None, Urgency::Soon);
        }
        for site in &touched.sites {
            self.site(site, false);
        }
    }

    /// Something that a site's Cluster says may have changed.
    pub(crate) fn site(&self, site: &Arc<str>, urgent: bool) {
        if self.0.index.look_at_site(site, urgent) {
            let key = Key::from(format!("{SITES}{site}"));
            let site = Arc::clone(site);
            self.submit(&key, Job::Site { site }, None, Urgency::Soon);
        }
    }

    /// The Cluster of this uid was removed; whoever it stood for is withdrawn with it.
    pub(crate) fn stood_for(&self, stands: &Stands, uid: &Arc<str>) {
        match stands {
            Stands::Gateway(node) => self.cluster_gone(node, uid),
            Stands::Site(site) => {
                for node in self.0.index.members(site) {
                    self.cluster_gone(&node, uid);
                }
                self.site(site, true);
            }
        }
    }

    /// Reads what a member of a site says; `None` when it is no member, or the job is of another kind.
    pub(super) fn spoken(&self, node: &str, job: &Job) -> Option<Result<Spoken, String>> {
        self.0.index.site_of(node)?;
        match job {
            Job::Work { body, hash, .. } => Some(Spoken::of_work(*hash, body)),
            Job::WorkGone { .. } => Some(Ok(Spoken::Work(None))),
            Job::Cluster {
                observed: Observed::Reported { body, hash },
            } => Some(Spoken::of_cluster(*hash, body)),
            Job::Cluster {
                observed: Observed::Gone,
            } => Some(Ok(Spoken::Cluster(None))),
            _ => None,
        }
    }

    /// Takes it in, if the index says that it is of a site.
    pub(super) fn take_in(&self, node: &str, key: &Key, spoken: Option<Result<Spoken, String>>) -> Taken {
        match spoken {
            None => Taken::NotOfSite,
            Some(Err(why)) => Taken::Refused(why, false),
            Some(Ok(spoken)) => self.0.index.said(&Arc::from(node), key, spoken),
        }
    }

    /// Answers for what was taken in, and looks at what it changes.
    pub(super) fn taken_in(&self, key: &Key, taken: Taken, waiter: &Batch) {
        match taken {
            Taken::NotOfSite => {}
            Taken::Refused(reason, not_owned) => {
                self.0.metrics.status_refused.add(1);
                waiter.done(key, Some(Refusal { reason, not_owned }));
            }
            // It is kept in memory only. A hub that loses it says so by not having it when the gateway comes back, and gets it again.
            Taken::Held { work, site } => {
                waiter.done(key, None);
                if let Some(work) = work {
                    self.submit(&work, Job::Merge, None, Urgency::Now);
                }
                if let Some(site) = site {
                    self.site(&site, false);
                }
            }
        }
    }
}

impl Shared {
    /// The same as [`Writer::touched`], from within a job: whoever runs it takes what waits next.
    pub(super) fn follow(&self, touched: Touched) {
        let sites = touched
            .sites
            .into_iter()
            .filter(|site| self.index.look_at_site(site, true));
        let sites = sites.map(|site| (Key::from(format!("{SITES}{site}")), Job::Site { site }));
        let works = touched.look.into_iter().map(|key| (key, Job::Merge));
        let attend = touched.attend.into_iter().map(|key| (key, Job::Attend));
        let jobs: Vec<(Key, Job)> = sites.chain(works).chain(attend).collect();
        for (key, job) in jobs {
            self.lock(&key).submit(&key, job, None, Urgency::Soon);
        }
    }

    /// Where a gateway is, as far as it counts.
    pub(super) fn place(&self, node: &str) -> Touched {
        let presence = self.presences.of(node);
        let (labels, taints, site) = self.labels_and_taints(node, &presence);
        if let Registration::Registered {
            plane, site: Some(of), ..
        } = &presence.registration
            && *plane == self.above.plane
        {
            self.index.claim_site(of);
        }
        let registration = presence.registration.clone().within(site.as_deref());
        let out = !presence.enrolled || presence.revoked || registration.is_withdrawn(&self.above.plane);
        let known = site
            .as_deref()
            .and_then(|site| self.index.cluster_entry(&cluster_name(site)));
        let registered = match registration {
            Registration::Registered { plane, uid, .. } => {
                plane == self.above.plane && known.is_none_or(|cluster| cluster.uid == uid)
            }
            _ => false,
        };
        let place = site.filter(|_| !out).map(|site| Place {
            site: Arc::from(site),
            labels: labels
                .into_iter()
                .filter_map(|(key, value)| Some((key, value.as_str()?.to_owned())))
                .collect(),
            taints,
            connected: presence.connected,
            left: presence.since,
            registered,
        });
        self.index.place(&Arc::from(node), place)
    }

    /// What a gateway was told at its join and what was announced of it: labels, taints, and the site.
    pub(super) fn labels_and_taints(
        &self,
        node: &str,
        presence: &Presence,
    ) -> (super::nodes::Labels, Vec<Value>, Option<String>) {
        let mut labels: super::nodes::Labels = presence
            .labels
            .iter()
            .map(|(k, v)| (k.clone(), v.as_str().into()))
            .collect();
        let mut taints = Vec::new();
        let mut site = None;
        if let Some((_, body)) = self.index.edge_node_of(node)
            && let Ok(edge_node) = serde_json::from_slice::<Value>(&body.bytes)
        {
            labels.extend(super::nodes::labels_of(edge_node.get("spec")));
            taints = edge_node
                .pointer("/spec/taints")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default();
            site = edge_node.pointer("/spec/site").and_then(Value::as_str).and_then(named);
        }
        let told = presence.labels.get(SITE);
        (labels, taints, site.or_else(|| named(told?)))
    }

    /// The Cluster that a gateway had of its own goes when its site's stands for it.
    pub(super) async fn give_up_own(&self, node: &str, site: &str) -> Result<(), ApiError> {
        let registered = self.presences.of(node).registration.within(Some(site));
        match self.index.cluster_of_node(node) {
            Some((cluster, entry)) if !entry.deleting && registered.is_on(&self.above.plane) => {
                tracing::info!(node, site, cluster = %cluster, "The gateway stands behind its site's cluster; its own is removed.");
                self.above.objects.delete(CLUSTER, "", &cluster).await
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn write_site(&self, site: &Arc<str>) -> Result<(), ApiError> {
        let Some((view, entry)) = self.index.site(site, self.presences.settled()) else {
            return Ok(());
        };
        let name = cluster_name(site);
        if view.members.is_empty() {
            return match entry {
                Some(entry) if !entry.deleting && view.ours => {
                    tracing::info!(site = %site, cluster = name, "The site has no gateways; its cluster is removed.");
                    self.above.objects.delete(CLUSTER, "", &name).await
                }
                _ => Ok(()),
            };
        }
        let mut labels: super::nodes::Labels = view
            .labels
            .iter()
            .map(|(k, v)| (k.clone(), v.as_str().into()))
            .collect();
        labels.insert(SITE.to_owned(), label_value(site).into());
        let facts = Facts {
            stands: Stands::Site(Arc::clone(site)),
            id: format!("spiffe://{}/site/{site}", self.above.trust_domain),
            labels,
            zones: view.zones.iter().cloned().collect(),
            taints: view.taints.clone(),
            endpoint: self.above.endpoint.as_ref(),
            hub: &self.above.hub,
        };
        let mut members = view.unregistered.clone();
        let before = match self.above.objects.get(CLUSTER, "", &name).await {
            Ok(object) => object,
            Err(ApiError::NotFound) => {
                // Those for whom it stood are being withdrawn; only who is new makes one.
                let is_new = |node: &Arc<str>| {
                    let registration = self.presences.of(node).registration.within(Some(site));
                    !registration.is_on(&self.above.plane)
                };
                members.retain(is_new);
                if members.is_empty() {
                    return Ok(());
                }
                let made = self
                    .above
                    .objects
                    .create(CLUSTER, "", &facts.new_cluster(&name))
                    .await?;
                tracing::info!(site = %site, cluster = name, members = view.members.len(), "The site is registered as a cluster.");
                made
            }
            Err(e) => return Err(e),
        };
        let stands = before.pointer("/metadata/annotations").and_then(|n| n.get(SITE));
        if stands != Some(&Value::from(&**site)) {
            let why = format!(
                "there is a Cluster {name} that does not stand for site {site}: delete it, or give the site another name"
            );
            self.index.refuse_site(site, &why);
            return Err(ApiError::Refused(why));
        }
        if let Err(e) = self.made_here(&before) {
            self.index.refuse_site(site, &e.to_string());
            return Err(e);
        }
        if !before["metadata"]["deletionTimestamp"].is_null() {
            return Ok(());
        }
        let uid = before["metadata"]["uid"].as_str().unwrap_or_default();
        for node in &members {
            let registration = self.presences.of(node).registration.within(Some(site));
            if registration.is_withdrawn(&self.above.plane) {
                continue;
            }
            if !registration.is(&self.above.plane, uid) {
                let registered = self.presences.register(node, &self.above.plane, uid, Some(site));
                registered.await.map_err(ApiError::Unavailable)?;
            }
            self.index.registered(site, node);
            self.give_up_own(node, site).await?;
        }
        let mut cluster = before.clone();
        facts.put(&mut cluster);
        if cluster != before {
            cluster = self.above.objects.replace(CLUSTER, "", &name, &cluster).await?;
        }
        if !crate::upstream::clusters::is_taken_in(&cluster) {
            // The watch tells when it is.
            return Ok(());
        }
        let now = daemon::clock::wall_ms();
        let reach = if view.connected {
            Reach::Yes
        } else if !self.presences.settled() || now.saturating_sub(view.left) < super::UNREACHABLE_AFTER {
            Reach::Unsettled
        } else {
            Reach::No
        };
        let report = view.report(&cluster["status"]);
        self.put_cluster_status(&cluster, Some(&report), reach, now)
            .await
            .map(drop)
    }

    /// What the members of a site say of a Work, as one word; or its end, when nothing of it is left with them.
    pub(super) async fn merge_work(&self, key: &Key, namespace: &str, name: &str) -> Result<(), ApiError> {
        self.attend(namespace, name).await?;
        let gathered = match self.index.look(namespace, name, self.presences.settled()) {
            Look::Nothing => return Ok(()),
            Look::Release => return self.release(namespace, name).await,
            Look::Merge(gathered) => gathered,
        };
        let Some(report) = gathered.merged() else {
            return Ok(());
        };
        let hash = Body::new(key, canonical(&report)).hash;
        if gathered.is_written(hash) || (gathered.may_lack(&report) && self.index.is_first(namespace, name, hash)) {
            return Ok(());
        }
        let status = status_of(&gathered.facts, Some(&report), &rfc3339(daemon::clock::wall_ms()));
        let patch = json!({"status": status});
        match self
            .above
            .objects
            .merge_patch_status(WORK, namespace, name, &patch)
            .await
        {
            Ok(written) => {
                let said = written.get("status").and_then(reported_of);
                let said = said.map(|said| Body::new(key, canonical(&said)).hash);
                self.index.wrote((namespace, name), hash, said, revision(&written));
                Ok(())
            }
            // It went; the watch tells.
            Err(ApiError::NotFound) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

fn named(site: &str) -> Option<String> {
    Some(site.trim().to_owned()).filter(|site| !site.is_empty())
}

/// A site's name as a label has it.
fn label_value(site: &str) -> String {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let fits = site.len() <= 63 && site.chars().all(inner) && ends(site.chars().next()) && ends(site.chars().last());
    if fits { site.to_owned() } else { cluster_name(site) }
}
