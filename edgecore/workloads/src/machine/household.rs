//! The others of the house, as the machine deals with them: who lives here, and who is asked to go.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use crate::cluster::Key;
use crate::images::Images;
use crate::pod::Pod;
use crate::pods::{Pods, RunningContainer, State};
use crate::volumes::Volumes;

/// A pod with a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resident {
    pub(crate) pod: Key,
    pub(crate) uid: String,
    pub(crate) containers: Vec<Room>,
}

/// A container of it, in its newest attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) name: String,
    pub(crate) id: String,
    /// Whether it runs now.
    pub(crate) runs: bool,
    pub(crate) log_path: PathBuf,
}

/// Bytes and inodes that a pod's volumes take on the node's disk, and the bytes of each `emptyDir`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct VolumesUse {
    pub(crate) total: [u64; 2],
    pub(crate) empty_dirs: Vec<(String, u64)>,
}

/// What another part does in its own time.
pub(crate) type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Pods, volumes and images, as far as the machine's guard needs them.
pub(crate) trait Household: Send + Sync + 'static {
    /// The pods that have a sandbox.
    fn residents(&self) -> Vec<Resident>;

    /// Ends a pod. `grace`: seconds, as the pod says when `None`. False when there is no such pod.
    fn evict(&self, uid: &str, reason: &str, message: &str, grace: Option<i64>) -> bool;

    /// What a pod's volumes take on the disk. None when that cannot be told.
    fn volumes<'a>(&'a self, pod: &'a Arc<Pod>) -> Later<'a, Option<VolumesUse>>;

    /// Removes images that no container uses, the longest unused first, until so many bytes are free; how many there were. `spare`: those
    /// that templates name stay.
    fn collect_images(&self, bytes: u64, spare: bool) -> Later<'_, u64>;
}

/// The house as it stands.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) pods: Pods,
    pub(crate) volumes: Volumes,
    pub(crate) images: Images,
}

impl Household for Home {
    fn residents(&self) -> Vec<Resident> {
        let room = |container: RunningContainer| Room {
            name: container.name,
            id: container.id,
            runs: container.state == State::Running,
            log_path: container.log_path,
        };
        let all = self.pods.all().into_iter().map(|running| Resident {
            pod: running.pod,
            uid: running.uid,
            containers: running.containers.into_iter().map(room).collect(),
        });
        all.collect()
    }

    fn evict(&self, uid: &str, reason: &str, message: &str, grace: Option<i64>) -> bool {
        self.pods.evict(uid, reason, message, grace)
    }

    fn volumes<'a>(&'a self, pod: &'a Arc<Pod>) -> Later<'a, Option<VolumesUse>> {
        Box::pin(async move {
            let usage = self.volumes.usage(pod).await.ok()?;
            Some(VolumesUse {
                total: [usage.total.bytes, usage.total.inodes],
                empty_dirs: usage
                    .volumes
                    .into_iter()
                    .map(|(name, space)| (name, space.bytes))
                    .collect(),
            })
        })
    }

    fn collect_images(&self, bytes: u64, spare: bool) -> Later<'_, u64> {
        Box::pin(async move {
            let collected = self.images.collect_garbage(bytes, spare).await;
            collected.map_or_else(
                |e| {
                    tracing::debug!(error = %e, "Images cannot be collected.");
                    0
                },
                |freed| freed.bytes,
            )
        })
    }
}
