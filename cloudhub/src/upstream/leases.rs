//! The Leases by which Karmada knows that somebody speaks for a cluster: one each, renewed for all of them by one task, evenly over the
//! period and never more than a few at a time. They are the hub's own liveness; whether a gateway is well is said by its Cluster.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use daemon::drain::Drain;
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::clusters::CLUSTER_NAMESPACE;
use super::index::Index;
use super::objects::{ApiError, LEASE, Objects};
use super::presence::Presences;
use crate::metrics::Metrics;

/// Renewals on their way at a time.
const AT_A_TIME: usize = 16;
/// Turns in a period; a cluster has its turn by its name, so that a hub's clusters are spread over all of them.
const TURNS: u32 = 64;
/// One renewal may take this long; the next period has another.
const DEADLINE: Duration = Duration::from_secs(5);

/// Renews the Leases of all clusters of the index.
#[derive(Debug)]
pub(crate) struct Leases {
    pub(crate) objects: Objects,
    pub(crate) index: Arc<Index>,
    pub(crate) presences: Arc<dyn Presences>,
    pub(crate) metrics: Arc<Metrics>,
    /// How often each is renewed.
    pub(crate) every: Duration,
}

impl Leases {
    /// Runs until the drain begins.
    pub(crate) async fn run(self, drain: Drain) {
        let mut tick = tokio::time::interval(self.every / TURNS);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tried: HashMap<Arc<str>, Arc<str>> = HashMap::new();
        for turn in (0..TURNS).cycle() {
            tokio::select! {
                biased;
                () = drain.stopping() => return,
                _ = tick.tick() => {}
            }
            // Of gateways that another hub enrolled, that hub speaks.
            let own = self
                .index
                .clusters()
                .into_iter()
                .filter(|(_, c)| self.index.is_own(&c.stands, &*self.presences));
            let all: HashMap<_, _> = own.map(|(name, cluster)| (name, cluster.uid)).collect();
            tried.retain(|name, _| all.contains_key(name));
            // A new one is not left waiting for its turn: until it has a Lease it counts as one nobody speaks for.
            let due: Vec<_> = all
                .into_iter()
                .filter(|(name, uid)| turn_of(name) == turn || tried.get(name) != Some(uid))
                .collect();
            let mut renewing = futures_util::stream::iter(due)
                .map(async |(name, uid)| {
                    let done = self.renew(&name, &uid).await;
                    (name, uid, done)
                })
                .buffer_unordered(AT_A_TIME);
            let mut failed = None;
            while let Some((name, uid, done)) = renewing.next().await {
                match done {
                    Ok(()) => self.metrics.leases_renewed.add(1),
                    Err(error) => {
                        self.metrics.leases_failed.add(1);
                        failed = Some((name.clone(), error));
                    }
                }
                // What failed waits for its turn like the others.
                tried.insert(name, uid);
            }
            if let Some((cluster, error)) = failed {
                tracing::warn!(%cluster, %error, "Leases of clusters were not renewed, of this one among others; they are tried again.");
            }
        }
    }

    /// How long a Lease says it is good for, in seconds.
    fn duration(&self) -> u64 {
        self.every.as_secs().saturating_mul(4)
    }

    async fn renew(&self, name: &str, uid: &str) -> Result<(), ApiError> {
        let now = micro_time();
        let work = async {
            let patch = json!({"spec": {
                "holderIdentity": name, "leaseDurationSeconds": self.duration(), "renewTime": now,
            }});
            match self.objects.merge_patch(LEASE, CLUSTER_NAMESPACE, name, &patch).await {
                Ok(lease) if owner(&lease) == Some(uid) => Ok(()),
                // Of a cluster of this name that is gone: it would go with that one.
                Ok(_) => {
                    let owners = json!({"metadata": {"ownerReferences": owners(name, uid)}});
                    self.objects
                        .merge_patch(LEASE, CLUSTER_NAMESPACE, name, &owners)
                        .await
                        .map(drop)
                }
                Err(ApiError::NotFound) => {
                    let lease = json!({
                        "apiVersion": "coordination.k8s.io/v1",
                        "kind": "Lease",
                        "metadata": {"name": name, "namespace": CLUSTER_NAMESPACE, "ownerReferences": owners(name, uid)},
                        "spec": {"holderIdentity": name, "leaseDurationSeconds": self.duration(), "renewTime": now},
                    });
                    self.objects.create(LEASE, CLUSTER_NAMESPACE, &lease).await.map(drop)
                }
                Err(e) => Err(e),
            }
        };
        match tokio::time::timeout(DEADLINE, work).await {
            Ok(done) => done,
            Err(_) => Err(ApiError::Unavailable("no answer in time".to_owned())),
        }
    }
}

fn owners(name: &str, uid: &str) -> Value {
    json!([{
        "apiVersion": "cluster.karmada.io/v1alpha1", "kind": "Cluster", "name": name, "uid": uid,
    }])
}

fn owner(lease: &Value) -> Option<&str> {
    lease.pointer("/metadata/ownerReferences/0/uid")?.as_str()
}

/// Now, as `renewTime` has it.
fn micro_time() -> String {
    let ms = i64::try_from(daemon::clock::wall_ms()).unwrap_or(i64::MAX);
    let at = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX);
    at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

fn turn_of(name: &str) -> u32 {
    let hash = proto::entry_hash(name, b"");
    u32::try_from(hash % u128::from(TURNS)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_spread() {
        let mut turns = [0_u32; TURNS as usize];
        for n in 0..6400 {
            turns[turn_of(&format!("gw-{n}")) as usize] += 1;
        }
        assert!(turns.iter().all(|n| (50..150).contains(n)), "{turns:?}");
    }
}
