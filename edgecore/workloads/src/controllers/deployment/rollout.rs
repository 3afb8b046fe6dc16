//! How pods move from the old sets to the new one, and how all sets grow and shrink with their Deployment.

use std::cmp::Reverse;

use metastore::api::Status;
use serde_json::Value;

use super::sets::{age, available, bounds, replicas};
use super::{Reconciled, Rollout};
use crate::cluster::PODS;
use crate::controllers::shared::{condition, controller_of, is_finished, number, share, text};

impl Rollout<'_> {
    /// One step of moving over by and by: the new set grows as far as the surge allows, else the old ones shrink as far as enough stays
    /// available.
    pub(super) async fn roll(mut self) -> Reconciled {
        self.sync_new(true).await?;
        let moved = self.grow_new().await? || self.shrink_old().await?;
        if !moved && self.is_complete(&self.deployment["status"]) {
            self.clean_up().await?;
        }
        self.sync_rollout_status().await
    }

    /// One step of having all old pods gone before there are new ones.
    pub(super) async fn recreate(mut self) -> Reconciled {
        let mut moved = false;
        for at in self.active_old() {
            moved |= self.scale(at, 0, false).await?;
        }
        if moved || self.old_pods_run()? {
            return self.sync_rollout_status().await;
        }
        if self.new.is_none() {
            self.sync_new(true).await?;
        }
        if let Some(at) = self.new {
            self.scale(at, self.replicas(), false).await?;
        }
        if self.is_complete(&self.deployment["status"]) {
            self.clean_up().await?;
        }
        self.sync_rollout_status().await
    }

    /// Brings the sets to the Deployment's size without moving between them: it was scaled, or it is paused.
    pub(super) async fn resize(mut self) -> Reconciled {
        self.resize_sets().await?;
        if self.is_paused() {
            self.clean_up().await?;
        }
        self.sync_status().await
    }

    async fn resize_sets(&mut self) -> Result<(), Status> {
        let wanted = self.replicas();
        let mut active: Vec<usize> = (0..self.sets.len()).collect();
        active.retain(|at| replicas(&self.sets[*at]) > 0);
        let only = match active[..] {
            [] => self.new.or(self.sets.len().checked_sub(1)),
            [only] => Some(only),
            _ => None,
        };
        if let Some(only) = only {
            // Noted also where it has that size already: by what is noted it is known that there is nothing to resize any more.
            return self.scale(only, wanted, true).await.map(drop);
        }
        if self.is_saturated() {
            for at in self.active_old() {
                self.scale(at, 0, false).await?;
            }
            return Ok(());
        }
        if text(&self.deployment, "/spec/strategy/type") == "Recreate" {
            // The old ones go before any grows.
            for at in active {
                self.scale(at, replicas(&self.sets[at]), true).await?;
            }
            return Ok(());
        }
        let most = if wanted > 0 {
            wanted + bounds(&self.deployment).0
        } else {
            0
        };
        let to_add = most - active.iter().map(|at| replicas(&self.sets[*at])).sum::<i64>();
        // The larger ones first; among equals new ones grow first and old ones shrink first.
        active.sort_by_cached_key(|at| (Reverse(replicas(&self.sets[*at])), age(&self.sets[*at])));
        if to_add > 0 {
            active.sort_by_cached_key(|at| (Reverse(replicas(&self.sets[*at])), Reverse(age(&self.sets[*at]))));
        }
        let mut left = to_add;
        let mut sizes: Vec<(usize, i64)> = Vec::with_capacity(active.len());
        for at in active {
            let set = &self.sets[at];
            let growth = match left {
                0 => 0,
                left if to_add > 0 => self.growth(set).min(left),
                left => self.growth(set).max(left),
            };
            left -= growth;
            sizes.push((at, replicas(set) + growth));
        }
        if let Some((_, largest)) = sizes.first_mut() {
            *largest = (*largest + left).max(0);
        }
        for (at, size) in sizes {
            self.scale(at, size, true).await?;
        }
        Ok(())
    }

    /// How large the new set may be beside all others, when it has so many pods now.
    pub(super) fn size_of_new(&self, now: i64) -> i64 {
        let wanted = self.replicas();
        if text(&self.deployment, "/spec/strategy/type") == "Recreate" {
            return wanted;
        }
        let surge = share(
            &self.deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"],
            wanted,
            true,
        );
        let room = wanted + surge - self.sets.iter().map(replicas).sum::<i64>();
        if room <= 0 { now } else { now + room.min(wanted - now) }
    }

    async fn grow_new(&mut self) -> Result<bool, Status> {
        let Some(at) = self.new else { return Ok(false) };
        let (now, wanted) = (replicas(&self.sets[at]), self.replicas());
        let size = if now >= wanted { wanted } else { self.size_of_new(now) };
        self.scale(at, size, false).await
    }

    async fn shrink_old(&mut self) -> Result<bool, Status> {
        let old = self.active_old();
        let Some(new) = self.new.filter(|_| !old.is_empty()) else {
            return Ok(false);
        };
        // What a set says of itself counts once it has done what it was told last.
        let has_done = |set: &Value| number(set, "/status/observedGeneration") >= number(set, "/metadata/generation");
        if !old.iter().chain([&new]).all(|at| has_done(&self.sets[*at])) {
            return Ok(false);
        }
        let least = self.replicas() - bounds(&self.deployment).1;
        let all: i64 = self.sets.iter().map(replicas).sum();
        // New pods that are not available yet are not counted on.
        let new_missing = replicas(&self.sets[new]) - available(&self.sets[new]);
        let spare = all - least - new_missing;
        if spare <= 0 {
            return Ok(false);
        }
        let ill = self.shrink_ill(&old, spare).await?;
        let there: i64 = old.iter().chain([&new]).map(|at| available(&self.sets[*at])).sum();
        let mut spare = there - least;
        let mut well = 0;
        for at in old {
            let size = replicas(&self.sets[at]);
            let by = size.min(spare);
            if by > 0 {
                self.scale(at, size - by, false).await?;
                spare -= by;
                well += by;
            }
        }
        Ok(ill + well > 0)
    }

    /// Takes away old pods that are not available, which makes nothing worse. How many.
    async fn shrink_ill(&mut self, old: &[usize], most: i64) -> Result<i64, Status> {
        let mut shrunk = 0;
        for at in old {
            let set = &self.sets[*at];
            let size = replicas(set);
            let by = (size - available(set)).min(most - shrunk);
            if by > 0 {
                self.scale(*at, size - by, false).await?;
                shrunk += by;
            }
        }
        Ok(shrunk)
    }

    /// Whether a pod of an old template may still run.
    fn old_pods_run(&self) -> Result<bool, Status> {
        let old = self.old();
        if old.iter().any(|at| number(&self.sets[*at], "/status/replicas") > 0) {
            return Ok(true);
        }
        let namespace = text(&self.deployment, "/metadata/namespace");
        let pods = self.cluster.list(PODS, Some(namespace))?;
        let is_old = |pod: &Value| {
            let owner = controller_of(pod).map(|o| &o["uid"]);
            old.iter().any(|at| owner == Some(&self.sets[*at]["metadata"]["uid"]))
        };
        Ok(pods.iter().any(|pod| !is_finished(pod) && is_old(pod)))
    }

    /// Says in the status that the rollout is paused or goes on, so that the time it stood still does not count against its deadline.
    pub(super) async fn note_pause(&mut self) -> Result<(), Status> {
        if self.deadline().is_none() {
            return Ok(());
        }
        let said = condition(&self.deployment["status"], "Progressing").map_or("", |c| text(c, "/reason"));
        let (reason, message) = match (self.is_paused(), said) {
            (_, "ProgressDeadlineExceeded") | (true, "DeploymentPaused") => return Ok(()),
            (true, _) => ("DeploymentPaused", "Deployment is paused"),
            (false, "DeploymentPaused") => ("DeploymentResumed", "Deployment is resumed"),
            (false, _) => return Ok(()),
        };
        let paused = self.condition("Progressing", "Unknown", reason, message);
        self.set_condition(paused);
        self.write().await
    }
}
