//! Deletes Jobs that have ended and said how long they want to be kept.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use metastore::api::{DeleteOptions, Propagation};

use super::look::{WallClock, is_terminating, job_end, seconds, text, uid, whole};
use super::{Change, Controller, Reconciled};
use crate::cluster::{Cluster, JOBS, Key, Kind};

/// Deletes what has been kept long enough.
pub(crate) fn ttl_after_finished(cluster: Cluster, clock: WallClock) -> Arc<dyn Controller> {
    Arc::new(Ttl { cluster, clock })
}

struct Ttl {
    cluster: Cluster,
    clock: WallClock,
}

impl Controller for Ttl {
    fn name(&self) -> &'static str {
        "ttl-after-finished"
    }

    fn kind(&self) -> Kind {
        JOBS
    }

    fn follows(&self) -> &'static [Kind] {
        &[]
    }

    fn concerned(&self, _: &Change, _: &Cluster) -> Vec<Key> {
        Vec::new()
    }

    fn reconcile<'a>(&'a self, key: &'a Key) -> Pin<Box<dyn Future<Output = Reconciled> + Send + 'a>> {
        Box::pin(async move {
            let Some(job) = self.cluster.get(JOBS, key)? else {
                return Ok(None);
            };
            let (Some(kept), Some(end)) = (whole(&job, "/spec/ttlSecondsAfterFinished"), job_end(&job)) else {
                return Ok(None);
            };
            let Some(ended) = seconds(text(end, "/lastTransitionTime")).filter(|_| !is_terminating(&job)) else {
                return Ok(None);
            };
            let now = i64::try_from((self.clock)()).unwrap_or(i64::MAX);
            let left = ended.saturating_add(kept).saturating_mul(1000).saturating_sub(now);
            if let Some(left) = u64::try_from(left).ok().filter(|ms| *ms > 0) {
                return Ok(Some(Duration::from_millis(left)));
            }
            let options = DeleteOptions {
                uid: Some(uid(&job).to_owned()),
                propagation: Some(Propagation::Foreground),
                ..DeleteOptions::default()
            };
            match self.cluster.delete(JOBS, key, &options).await {
                Err(e) if e.code != 409 => Err(e),
                _ => Ok(None),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controllers::bench::{Bench, Hands};

    #[tokio::test]
    async fn a_job_is_kept_as_long_as_it_says() {
        let bench = Bench::start().await;
        let hands = Hands::at("2026-11-21T10:00:30Z");
        let ttl = ttl_after_finished(bench.cluster.clone(), hands.clock());
        let pod = json!({"restartPolicy": "Never", "containers": [{"name": "main", "image": "i"}]});
        bench
            .create(
                json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"},
                "spec": {"ttlSecondsAfterFinished": 100, "template": {"spec": pod}}}),
            )
            .await;
        let key = Key::new("plant", "j");
        assert_eq!(ttl.reconcile(&key).await.unwrap(), None, "it has not ended");
        let at = "2026-11-21T10:00:00Z";
        let condition = |ty: &str| json!({"type": ty, "status": "True", "reason": "r", "message": "m", "lastProbeTime": at, "lastTransitionTime": at});
        bench
            .status(JOBS, &key, |j| {
                j["status"] = json!({"startTime": at, "failed": 1, "uncountedTerminatedPods": {}, "conditions": [condition("FailureTarget"), condition("Failed")]});
            })
            .await;
        assert_eq!(ttl.reconcile(&key).await.unwrap(), Some(Duration::from_secs(70)));
        hands.turn(70);
        assert_eq!(ttl.reconcile(&key).await.unwrap(), None);
        assert!(bench.find(JOBS, "j").is_none_or(|j| is_terminating(&j)));
    }
}
