//! What a pod's task needs of its neighbours: the runtime's words for a pod, its volumes, its images. Owned elsewhere; here is the shape.

use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use cri::v1;
use metastore::store::ObjectKey;

use crate::pod::{Container, Pod};

/// Something that takes its time.
pub(crate) type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a step towards a running container could not be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub(crate) struct Refusal {
    /// As it stands in a waiting container's status: `ErrImagePull`, `CreateContainerConfigError`.
    pub(crate) reason: String,
    pub(crate) message: String,
    /// When to try again; as usual when `None`.
    pub(crate) after: Option<Duration>,
    /// Whether an Event about it has been told already.
    pub(crate) told: bool,
}

impl Refusal {
    pub(crate) fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
            after: None,
            told: false,
        }
    }
}

/// A container that is about to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Making<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) attempt: u32,
    /// What its sandbox was made from.
    pub(crate) sandbox: &'a v1::PodSandboxConfig,
    /// The pod's addresses.
    pub(crate) ips: &'a [String],
    /// Of an ephemeral container: the id of the container whose processes it sees.
    pub(crate) target: Option<&'a str>,
}

/// See the module. Everything may be asked again at any time, for the same pod, after the agent was killed in the middle of it.
pub(crate) trait Means: Send + Sync + 'static {
    /// Whether the machine takes a pod of which nothing has begun. `placed`: a scheduler has found room for it.
    ///
    /// # Errors
    /// Reason and message of its status: it fails, and is not tried again.
    fn admits(&self, pod: &Pod, placed: bool) -> Result<(), Refusal>;

    /// Makes volumes and folders ready.
    fn prepare<'a>(&'a self, pod: &'a Pod) -> Work<'a, Result<(), Refusal>>;

    /// A sandbox's configuration and the runtime's handler for it.
    fn sandbox(&self, pod: &Pod, attempt: u32) -> Result<(v1::PodSandboxConfig, String), Refusal>;

    /// Makes the image be there and a configuration for the container.
    fn container<'a>(&'a self, making: Making<'a>) -> Work<'a, Result<v1::ContainerConfig, Refusal>>;

    /// Brings the contents of volumes up to date. False: not all of them are, try again. That tokens are renewed in time is not asked for here.
    fn refresh<'a>(&'a self, pod: &'a Pod) -> Work<'a, bool>;

    /// Uids of the pods whose volumes show what is stored there.
    fn concerned(&self, changed: &ObjectKey) -> Vec<String>;

    /// Takes a pod's volumes and folders away. False: not all of it went, try again.
    fn tear_down<'a>(&'a self, uid: &'a str) -> Work<'a, bool>;

    /// Uids of pods with something on disk.
    fn on_disk(&self) -> Vec<String>;

    /// Waits until no Service leads to an address any more. For ever, if need be: the caller sets a bound.
    fn left(&self, ip: IpAddr) -> Work<'_, ()>;

    /// Brings the limits of a running container to what the pod says now.
    fn resize<'a>(&'a self, pod: &'a Pod, container: &'a Container, id: &'a str) -> Work<'a, Result<(), Refusal>>;
}
