//! The others of the house, as the machine deals with them: who lives here, and who is asked to go.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use crate::cluster::Key;
use crate::pod::Pod;

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

    /// Ends a pod. `grace`: seconds, as the pod says when `None`. False when there is no such pod. `disruption`: whether its status is to
    /// say that it was ended for the machine's sake (`DisruptionTarget`), and not for its own excess.
    fn evict(&self, uid: &str, reason: &str, message: &str, grace: Option<i64>, disruption: bool) -> bool;

    /// What a pod's volumes take on the disk. None when that cannot be told.
    fn volumes<'a>(&'a self, pod: &'a Arc<Pod>) -> Later<'a, Option<VolumesUse>>;

    /// Removes containers that have ended, and sandboxes of pods that are gone.
    fn collect_containers(&self) -> Later<'_, ()>;

    /// Removes images that no container uses, the longest unused first, until so many bytes are free; how many there were.
    fn collect_images(&self, bytes: u64) -> Later<'_, u64>;
}
