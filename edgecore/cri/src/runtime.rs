//! The calls, each with its deadline.

use std::path::Path;
use std::time::Duration;

use http::Uri;

use crate::channel::Channel;
use crate::error::CriError;
use crate::events::Events;
use crate::v1::image_service_client::ImageServiceClient;
use crate::v1::runtime_service_client::RuntimeServiceClient;
use crate::v1::{self, ContainerFilter, PodSandboxFilter};

/// What only looks.
const LOOK: Duration = Duration::from_secs(20);
/// What makes or ends something: a slow disk or a network plugin may take its time.
const DO: Duration = Duration::from_secs(120);
/// A sandbox: network plugins and, with some runtimes, a virtual machine.
const SANDBOX: Duration = Duration::from_secs(240);
/// What a call may take beyond the time that it names itself.
const BEYOND: Duration = Duration::from_secs(15);
/// The longest a pull may take in all. How long it may stand still is for the caller to say.
const PULL: Duration = Duration::from_secs(24 * 3600);
/// Answers grow with the number of containers and images.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// The runtime behind a unix socket. Cheap to clone; connects when first called and again when the connection broke.
#[derive(Clone, Debug)]
pub struct Runtime {
    channel: Channel,
}

/// A socket has no authority; HTTP wants one.
pub(crate) fn origin() -> Uri {
    Uri::from_static("http://localhost")
}

/// Calls that are passed on as they are: name, service, method, request, response, deadline.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident: $client:ident $method:ident $request:ident -> $response:ident, $deadline:expr;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            /// [`CriError`].
            pub async fn $name(&self, request: v1::$request) -> Result<v1::$response, CriError> {
                let deadline: fn(&v1::$request) -> Duration = $deadline;
                let deadline = deadline(&request);
                let mut client = self.$client();
                // Boxed: some requests are large, and a caller may hold many of these.
                self.within(stringify!($method), deadline, Box::pin(client.$method(request))).await
            }
        )*
    };
}

impl Runtime {
    /// The runtime that listens on this socket.
    pub fn new(socket: &Path) -> Self {
        Self {
            channel: Channel::new(socket),
        }
    }

    /// Path of its socket.
    pub fn socket(&self) -> &Path {
        self.channel.socket()
    }

    /// Changes when a connection to it ended: it stopped, or is being restarted.
    pub fn connection_ends(&self) -> tokio::sync::watch::Receiver<u64> {
        self.channel.ends()
    }

    calls! {
        /// Name and version of the runtime.
        version: runtime version VersionRequest -> VersionResponse, |_| LOOK;
        /// Whether runtime and network are ready; with `verbose` its configuration as well.
        status: runtime status StatusRequest -> StatusResponse, |_| LOOK;
        /// How it drives cgroups, where it says so.
        runtime_config: runtime runtime_config RuntimeConfigRequest -> RuntimeConfigResponse, |_| LOOK;
        /// Tells it the range of pod addresses.
        update_runtime_config: runtime update_runtime_config UpdateRuntimeConfigRequest -> UpdateRuntimeConfigResponse, |_| LOOK;
        /// Makes a pod's sandbox and starts it.
        run_pod_sandbox: runtime run_pod_sandbox RunPodSandboxRequest -> RunPodSandboxResponse, |_| SANDBOX;
        /// Ends a sandbox and what runs in it, and takes its network down. Again is no error.
        stop_pod_sandbox: runtime stop_pod_sandbox StopPodSandboxRequest -> StopPodSandboxResponse, |_| SANDBOX;
        /// Removes a sandbox and all that is in it.
        remove_pod_sandbox: runtime remove_pod_sandbox RemovePodSandboxRequest -> RemovePodSandboxResponse, |_| DO;
        /// A sandbox with its addresses.
        pod_sandbox_status: runtime pod_sandbox_status PodSandboxStatusRequest -> PodSandboxStatusResponse, |_| LOOK;
        /// Makes a container in a sandbox.
        create_container: runtime create_container CreateContainerRequest -> CreateContainerResponse, |_| DO;
        /// Starts a container that was made.
        start_container: runtime start_container StartContainerRequest -> StartContainerResponse, |_| DO;
        /// Ends a container, by force after its timeout (seconds).
        stop_container: runtime stop_container StopContainerRequest -> StopContainerResponse,
            |r| Duration::from_secs(r.timeout.max(0).unsigned_abs()) + BEYOND;
        /// Removes a container.
        remove_container: runtime remove_container RemoveContainerRequest -> RemoveContainerResponse, |_| DO;
        /// A container with its times and exit code.
        container_status: runtime container_status ContainerStatusRequest -> ContainerStatusResponse, |_| LOOK;
        /// Changes the limits of a running container.
        update_container_resources: runtime update_container_resources UpdateContainerResourcesRequest -> UpdateContainerResourcesResponse, |_| DO;
        /// Makes it write the container's log to a new file.
        reopen_container_log: runtime reopen_container_log ReopenContainerLogRequest -> ReopenContainerLogResponse, |_| LOOK;
        /// Runs a command in a container and waits for its end, at most `timeout` seconds (0: the call's own deadline).
        exec_sync: runtime exec_sync ExecSyncRequest -> ExecSyncResponse,
            |r| if r.timeout > 0 { Duration::from_secs(r.timeout.unsigned_abs()) + BEYOND } else { DO };
        /// Where a command's streams can be had.
        exec: runtime exec ExecRequest -> ExecResponse, |_| LOOK;
        /// Where a container's own streams can be had.
        attach: runtime attach AttachRequest -> AttachResponse, |_| LOOK;
        /// Where connections into a sandbox can be had.
        port_forward: runtime port_forward PortForwardRequest -> PortForwardResponse, |_| LOOK;
        /// What containers use.
        list_container_stats: runtime list_container_stats ListContainerStatsRequest -> ListContainerStatsResponse, |_| LOOK;
        /// What sandboxes use.
        list_pod_sandbox_stats: runtime list_pod_sandbox_stats ListPodSandboxStatsRequest -> ListPodSandboxStatsResponse, |_| LOOK;
        /// An image, or nothing when it is not there.
        image_status: images image_status ImageStatusRequest -> ImageStatusResponse, |_| LOOK;
        /// Fetches an image.
        pull_image: images pull_image PullImageRequest -> PullImageResponse, |_| PULL;
        /// Removes an image. Again is no error.
        remove_image: images remove_image RemoveImageRequest -> RemoveImageResponse, |_| DO;
        /// What images use on disk.
        image_fs_info: images image_fs_info ImageFsInfoRequest -> ImageFsInfoResponse, |_| LOOK;
    }

    /// The sandboxes that a filter lets through.
    ///
    /// # Errors
    /// [`CriError`].
    pub async fn list_pod_sandboxes(&self, filter: PodSandboxFilter) -> Result<Vec<v1::PodSandbox>, CriError> {
        let request = v1::ListPodSandboxRequest { filter: Some(filter) };
        let mut client = self.runtime();
        let answer = self.within("list_pod_sandbox", LOOK, Box::pin(client.list_pod_sandbox(request)));
        Ok(answer.await?.items)
    }

    /// The containers that a filter lets through.
    ///
    /// # Errors
    /// [`CriError`].
    pub async fn list_containers(&self, filter: ContainerFilter) -> Result<Vec<v1::Container>, CriError> {
        let request = v1::ListContainersRequest { filter: Some(filter) };
        let mut client = self.runtime();
        let answer = self.within("list_containers", LOOK, Box::pin(client.list_containers(request)));
        Ok(answer.await?.containers)
    }

    /// All images.
    ///
    /// # Errors
    /// [`CriError`].
    pub async fn list_images(&self) -> Result<Vec<v1::Image>, CriError> {
        let mut client = self.images();
        let answer = self.within(
            "list_images",
            LOOK,
            Box::pin(client.list_images(v1::ListImagesRequest { filter: None })),
        );
        Ok(answer.await?.images)
    }

    /// What happens to containers, as it happens.
    pub fn events(&self) -> Events {
        Events::new(self.channel.clone())
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::with_origin(self.channel.clone(), origin()).max_decoding_message_size(MAX_ANSWER)
    }

    fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::with_origin(self.channel.clone(), origin()).max_decoding_message_size(MAX_ANSWER)
    }

    async fn within<T>(
        &self,
        call: &'static str,
        deadline: Duration,
        answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, CriError> {
        self.channel.reach().await?;
        match tokio::time::timeout(deadline, answer).await {
            Err(_) => Err(CriError::Late { call, after: deadline }),
            Ok(Err(status)) => Err(CriError::answered(call, &status)),
            Ok(Ok(response)) => Ok(response.into_inner()),
        }
    }
}
