//! Images on the machine: brought when a container needs one, and removed when nobody does and the disk fills.
//!
//! The runtime has the images; here is kept only when each was last used and which pulls failed, which a restart of the agent may forget. Never
//! makes a container. Called by `pods` (for a container) and `machine` (for the disk).

mod garbage;
mod keyring;
mod pull;
mod reference;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cri::Runtime;
use cri::v1::Image;
use tokio::time::Instant;

pub(crate) use reference::Reference;

use crate::cluster::Cluster;
use crate::events::Recorder;

/// An image on the machine, ready to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageRef {
    /// What the runtime calls it.
    pub(crate) id: String,
    /// As a container's status names it (`imageID`): with a digest where it has one.
    pub(crate) shown: String,
    /// The user that its programs run as, when it is a number; 0 is root.
    pub(crate) user: Option<i64>,
    /// The same, when it is a name.
    pub(crate) user_name: String,
}

/// Why an image is not there. It was told in Events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub(crate) struct ImageError {
    /// As a waiting container's status names it.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// When to ask again; `None`: as usual.
    pub(crate) after: Option<Duration>,
}

/// The images of the machine. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    runtime: Runtime,
    cluster: Cluster,
    events: Recorder,
    pulls: Arc<pull::Pulls>,
    record: Arc<Mutex<garbage::Record>>,
}

impl Images {
    pub(crate) fn new(runtime: Runtime, cluster: Cluster, events: Recorder) -> Self {
        Self {
            runtime,
            cluster,
            events,
            pulls: Arc::default(),
            record: Arc::default(),
        }
    }

    /// Forgets what failed for a pod that is gone.
    pub(crate) fn forget(&self, uid: &str) {
        self.pulls.forget(uid);
    }

    /// Notes that an image is used.
    fn used(&self, image: &Image) -> ImageRef {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = record.images.entry(image.id.clone()).or_default();
        seen.used = Some(Instant::now());
        ImageRef {
            id: image.id.clone(),
            shown: image.repo_digests.first().unwrap_or(&image.id).clone(),
            user: match &image.uid {
                Some(uid) => Some(uid.value),
                None if image.username.is_empty() => Some(0),
                None => None,
            },
            user_name: image.username.clone(),
        }
    }
}
