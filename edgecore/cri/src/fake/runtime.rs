//! The runtime calls of a fake runtime, and containerd's stream of events.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use tokio::sync::broadcast;
use tonic::{Request, Response, Status};

use super::script::before;
use super::world::{Cntr, ExecResult};
use super::{Event, Shared, Tells, lock};
use crate::containerd::{self, events_server::Events};
use crate::v1::{self, ContainerState, runtime_service_server::RuntimeService};

type Answer<T> = Result<Response<T>, Status>;
type EventStream<T> = Pin<Box<dyn futures_util::Stream<Item = Result<T, Status>> + Send>>;

/// What answers on the socket.
#[derive(Clone)]
pub(crate) struct Service(pub(super) Arc<Shared>);

impl Service {
    /// Notes the call, does what the script says, then the work.
    pub(super) async fn does<T>(
        &self,
        name: &'static str,
        about: &str,
        work: impl FnOnce(&Arc<Shared>) -> Result<T, Status>,
    ) -> Answer<T> {
        let act = self.called(name, about);
        let lost = before(act).await?;
        let done = work(&self.0);
        if lost {
            return Err(Status::unavailable("transport is closing"));
        }
        done.map(Response::new)
    }

    fn called(&self, name: &'static str, about: &str) -> Option<super::Act> {
        let running = lock(&self.0.world).runs(about);
        lock(&self.0.script).called(name, about, running)
    }

    fn name_of(&self, id: &str) -> String {
        let mut world = lock(&self.0.world);
        world
            .container(id)
            .map_or_else(|_| id.to_owned(), |c| format!("{} {id}", c.name()))
    }

    fn stream<T: Send + 'static>(&self, of: fn(&Event) -> T) -> EventStream<T> {
        let listening = self.0.events.subscribe();
        Box::pin(futures_util::stream::unfold(
            listening,
            move |mut listening| async move {
                loop {
                    match listening.recv().await {
                        Ok(event) => return Some((Ok(of(&event)), listening)),
                        Err(broadcast::error::RecvError::Lagged(_)) => {}
                        Err(broadcast::error::RecvError::Closed) => return None,
                    }
                }
            },
        ))
    }
}

fn matches(
    labels: &std::collections::BTreeMap<String, String>,
    wanted: &std::collections::BTreeMap<String, String>,
) -> bool {
    wanted.iter().all(|(k, v)| labels.get(k) == Some(v))
}

fn listed(container: &Cntr) -> v1::Container {
    let status = &container.status;
    v1::Container {
        id: status.id.clone(),
        pod_sandbox_id: container.sandbox.clone(),
        metadata: status.metadata.clone(),
        image: status.image.clone(),
        image_ref: status.image_ref.clone(),
        state: status.state,
        created_at: status.created_at,
        labels: status.labels.clone(),
        annotations: status.annotations.clone(),
        image_id: status.image_id.clone(),
    }
}

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        self.does("version", "", |_| {
            Ok(v1::VersionResponse {
                version: "0.1.0".to_owned(),
                runtime_name: "fake".to_owned(),
                runtime_version: "1.0.0".to_owned(),
                runtime_api_version: "v1".to_owned(),
            })
        })
        .await
    }

    async fn run_pod_sandbox(&self, request: Request<v1::RunPodSandboxRequest>) -> Answer<v1::RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap_or_default();
        let name = config.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
        self.does("run_pod_sandbox", &name, |s| {
            let pod_sandbox_id = lock(&s.world).add_sandbox(config, &request.runtime_handler, s.now_ns())?;
            Ok(v1::RunPodSandboxResponse { pod_sandbox_id })
        })
        .await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Answer<v1::StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.does("stop_pod_sandbox", &id, |s| {
            let ready = lock(&s.world).sandbox(&id).is_ok_and(|sandbox| sandbox.is_ready());
            if ready {
                s.end_sandbox(&id, 137);
            }
            Ok(v1::StopPodSandboxResponse {})
        })
        .await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Answer<v1::RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.does("remove_pod_sandbox", &id, |s| {
            let mut world = lock(&s.world);
            if world.sandbox(&id).is_ok_and(|sandbox| sandbox.is_ready()) {
                return Err(Status::unknown(format!(
                    "sandbox container {id:?} is not fully stopped"
                )));
            }
            world.containers.retain(|c| c.sandbox != id);
            world.sandboxes.retain(|sandbox| sandbox.status.id != id);
            Ok(v1::RemovePodSandboxResponse {})
        })
        .await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Answer<v1::PodSandboxStatusResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.does("pod_sandbox_status", &id, |s| {
            let status = lock(&s.world).sandbox(&id)?.status.clone();
            Ok(v1::PodSandboxStatusResponse {
                status: Some(status),
                ..v1::PodSandboxStatusResponse::default()
            })
        })
        .await
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Answer<v1::ListPodSandboxResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        self.does("list_pod_sandbox", "", |s| {
            let world = lock(&s.world);
            let wanted = |sandbox: &&super::Sbx| {
                (filter.id.is_empty() || sandbox.status.id == filter.id)
                    && filter.state.is_none_or(|state| state.state == sandbox.status.state)
                    && matches(&sandbox.status.labels, &filter.label_selector)
            };
            let items = world.sandboxes.iter().filter(wanted);
            let items = items.map(|sandbox| {
                let status = sandbox.status.clone();
                v1::PodSandbox {
                    id: status.id,
                    metadata: status.metadata,
                    state: status.state,
                    created_at: status.created_at,
                    labels: status.labels,
                    annotations: status.annotations,
                    runtime_handler: status.runtime_handler,
                }
            });
            Ok(v1::ListPodSandboxResponse { items: items.collect() })
        })
        .await
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Answer<v1::CreateContainerResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap_or_default();
        let name = config.metadata.as_ref().map(|m| m.name.clone()).unwrap_or_default();
        self.does("create_container", &name, |s| {
            let now = s.now_ns();
            let container_id = lock(&s.world).add_container(&request.pod_sandbox_id, config, now)?;
            s.tell(Event {
                id: container_id.clone(),
                kind: v1::ContainerEventType::ContainerCreatedEvent,
                oom: false,
            });
            Ok(v1::CreateContainerResponse { container_id })
        })
        .await
    }

    async fn start_container(&self, request: Request<v1::StartContainerRequest>) -> Answer<v1::StartContainerResponse> {
        let id = request.into_inner().container_id;
        let about = self.name_of(&id);
        self.does("start_container", &about, |s| {
            let now = s.now_ns();
            let mut world = lock(&s.world);
            let name = world.container(&id)?.name().to_owned();
            let behaviour = world.behaviour(&name);
            let status = &mut world.container(&id)?.status;
            if status.state != ContainerState::ContainerCreated as i32 {
                return Err(Status::unknown(format!(
                    "container is in state {} and cannot be started",
                    status.state
                )));
            }
            if let Some(text) = behaviour.start_error {
                status.state = ContainerState::ContainerExited as i32;
                status.exit_code = 128;
                status.reason = "StartError".to_owned();
                status.message.clone_from(&text);
                status.finished_at = now;
                return Err(Status::unknown(text));
            }
            status.state = ContainerState::ContainerRunning as i32;
            status.started_at = now;
            world.started(&id);
            drop(world);
            s.tell(Event {
                id: id.clone(),
                kind: v1::ContainerEventType::ContainerStartedEvent,
                oom: false,
            });
            if let Some((after, code)) = behaviour.exits {
                s.exit_later(id, after, code);
            }
            Ok(v1::StartContainerResponse {})
        })
        .await
    }

    async fn stop_container(&self, request: Request<v1::StopContainerRequest>) -> Answer<v1::StopContainerResponse> {
        let request = request.into_inner();
        let id = request.container_id;
        let about = self.name_of(&id);
        let act = self.called("stop_container", &about);
        let lost = before(act).await?;
        let found = lock(&self.0.world)
            .container(&id)
            .map(|c| (c.name().to_owned(), c.is_running()));
        // Stopping what is not there is no error.
        let Ok((name, running)) = found else {
            return Ok(Response::new(v1::StopContainerResponse {}));
        };
        if running {
            let behaviour = lock(&self.0.world).behaviour(&name);
            let grace = Duration::from_secs(request.timeout.max(0).unsigned_abs());
            let code = if behaviour.stops_after <= grace {
                behaviour.stop_code
            } else {
                137
            };
            tokio::time::sleep(behaviour.stops_after.min(grace)).await;
            self.0.exit(&id, code, false);
        }
        if lost {
            return Err(Status::unavailable("transport is closing"));
        }
        Ok(Response::new(v1::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Answer<v1::RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        let about = self.name_of(&id);
        self.does("remove_container", &about, |s| {
            s.exit(&id, 137, false);
            lock(&s.world).containers.retain(|c| c.status.id != id);
            s.tell(Event {
                id,
                kind: v1::ContainerEventType::ContainerDeletedEvent,
                oom: false,
            });
            Ok(v1::RemoveContainerResponse {})
        })
        .await
    }

    async fn list_containers(&self, request: Request<v1::ListContainersRequest>) -> Answer<v1::ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        self.does("list_containers", "", |s| {
            let world = lock(&s.world);
            let wanted = |c: &&Cntr| {
                (filter.id.is_empty() || c.status.id == filter.id)
                    && (filter.pod_sandbox_id.is_empty() || c.sandbox == filter.pod_sandbox_id)
                    && filter.state.is_none_or(|state| state.state == c.status.state)
                    && matches(&c.status.labels, &filter.label_selector)
            };
            let containers = world.containers.iter().filter(wanted).map(listed).collect();
            Ok(v1::ListContainersResponse { containers })
        })
        .await
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Answer<v1::ContainerStatusResponse> {
        let id = request.into_inner().container_id;
        let about = self.name_of(&id);
        self.does("container_status", &about, |s| {
            let status = lock(&s.world).container(&id)?.status.clone();
            Ok(v1::ContainerStatusResponse {
                status: Some(status),
                info: Default::default(),
            })
        })
        .await
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Answer<v1::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        let about = self.name_of(&request.container_id);
        self.does("update_container_resources", &about, |s| {
            let mut world = lock(&s.world);
            let container = world.container(&request.container_id)?;
            container.status.resources = Some(v1::ContainerResources { linux: request.linux });
            Ok(v1::UpdateContainerResourcesResponse {})
        })
        .await
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Answer<v1::ReopenContainerLogResponse> {
        let id = request.into_inner().container_id;
        let about = self.name_of(&id);
        self.does("reopen_container_log", &about, |s| {
            let path = lock(&s.world).container(&id)?.status.log_path.clone();
            std::fs::File::create(path).map_err(|e| Status::unknown(e.to_string()))?;
            Ok(v1::ReopenContainerLogResponse {})
        })
        .await
    }

    async fn exec_sync(&self, request: Request<v1::ExecSyncRequest>) -> Answer<v1::ExecSyncResponse> {
        let request = request.into_inner();
        let about = format!("{} {}", self.name_of(&request.container_id), request.cmd.join(" "));
        let act = self.called("exec_sync", &about);
        let lost = before(act).await?;
        let behaviour = {
            let mut world = lock(&self.0.world);
            let container = world.container(&request.container_id)?;
            if !container.is_running() {
                return Err(Status::unknown("container is not in running state"));
            }
            let name = container.name().to_owned();
            world.behaviour(&name)
        };
        let result = behaviour
            .exec
            .map_or_else(ExecResult::default, |exec| exec(&request.cmd));
        let timeout = Duration::from_secs(request.timeout.max(0).unsigned_abs());
        if !timeout.is_zero() && result.takes > timeout {
            tokio::time::sleep(timeout).await;
            let text = format!(
                "failed to exec in container: timeout {}s exceeded: context deadline exceeded",
                request.timeout
            );
            return Err(Status::deadline_exceeded(text));
        }
        tokio::time::sleep(result.takes).await;
        if lost {
            return Err(Status::unavailable("transport is closing"));
        }
        Ok(Response::new(v1::ExecSyncResponse {
            stdout: result.stdout,
            stderr: Vec::new(),
            exit_code: result.code,
        }))
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Answer<v1::ExecResponse> {
        let id = request.into_inner().container_id;
        self.does("exec", &id, |s| {
            Ok(v1::ExecResponse {
                url: s.streaming("exec", &id)?,
            })
        })
        .await
    }

    async fn attach(&self, request: Request<v1::AttachRequest>) -> Answer<v1::AttachResponse> {
        let id = request.into_inner().container_id;
        self.does("attach", &id, |s| {
            Ok(v1::AttachResponse {
                url: s.streaming("attach", &id)?,
            })
        })
        .await
    }

    async fn port_forward(&self, request: Request<v1::PortForwardRequest>) -> Answer<v1::PortForwardResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.does("port_forward", &id, |s| {
            lock(&s.world).sandbox(&id)?;
            Ok(v1::PortForwardResponse {
                url: format!("http://127.0.0.1:1/portforward/{id}"),
            })
        })
        .await
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Answer<v1::ListContainerStatsResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        self.does("list_container_stats", "", |s| {
            let now = s.now_ns();
            let world = lock(&s.world);
            let wanted = |c: &&Cntr| c.is_running() && matches(&c.status.labels, &filter.label_selector);
            let stats = world.containers.iter().filter(wanted).map(|c| v1::ContainerStats {
                attributes: Some(v1::ContainerAttributes {
                    id: c.status.id.clone(),
                    metadata: c.status.metadata.clone(),
                    labels: c.status.labels.clone(),
                    annotations: c.status.annotations.clone(),
                }),
                cpu: Some(v1::CpuUsage {
                    timestamp: now,
                    usage_core_nano_seconds: Some(v1::UInt64Value {
                        value: u64::try_from((now - c.status.started_at) / 100).unwrap_or(0),
                    }),
                    ..v1::CpuUsage::default()
                }),
                memory: Some(v1::MemoryUsage {
                    timestamp: now,
                    working_set_bytes: Some(v1::UInt64Value { value: 8 << 20 }),
                    ..v1::MemoryUsage::default()
                }),
                ..v1::ContainerStats::default()
            });
            Ok(v1::ListContainerStatsResponse { stats: stats.collect() })
        })
        .await
    }

    async fn list_pod_sandbox_stats(
        &self,
        _: Request<v1::ListPodSandboxStatsRequest>,
    ) -> Answer<v1::ListPodSandboxStatsResponse> {
        self.does("list_pod_sandbox_stats", "", |_| {
            Ok(v1::ListPodSandboxStatsResponse { stats: Vec::new() })
        })
        .await
    }

    async fn update_runtime_config(
        &self,
        _: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Answer<v1::UpdateRuntimeConfigResponse> {
        self.does("update_runtime_config", "", |_| Ok(v1::UpdateRuntimeConfigResponse {}))
            .await
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let condition = |name: &str| v1::RuntimeCondition {
            r#type: name.to_owned(),
            status: true,
            ..v1::RuntimeCondition::default()
        };
        self.does("status", "", |_| {
            Ok(v1::StatusResponse {
                status: Some(v1::RuntimeStatus {
                    conditions: vec![condition("RuntimeReady"), condition("NetworkReady")],
                }),
                ..v1::StatusResponse::default()
            })
        })
        .await
    }

    type GetContainerEventsStream = EventStream<v1::ContainerEventResponse>;

    async fn get_container_events(&self, _: Request<v1::GetEventsRequest>) -> Answer<Self::GetContainerEventsStream> {
        if *lock(&self.0.tells) != Tells::Cri {
            return Err(Status::unimplemented("unknown method GetContainerEvents"));
        }
        self.does("get_container_events", "", |_| {
            Ok(self.stream(|event| v1::ContainerEventResponse {
                container_id: event.id.clone(),
                container_event_type: event.kind as i32,
                ..v1::ContainerEventResponse::default()
            }))
        })
        .await
    }

    async fn runtime_config(&self, _: Request<v1::RuntimeConfigRequest>) -> Answer<v1::RuntimeConfigResponse> {
        self.does("runtime_config", "", |_| {
            Err(Status::unimplemented("unknown method RuntimeConfig"))
        })
        .await
    }
}

#[tonic::async_trait]
impl Events for Service {
    type SubscribeStream = EventStream<containerd::Envelope>;

    async fn subscribe(&self, _: Request<containerd::SubscribeRequest>) -> Answer<Self::SubscribeStream> {
        if *lock(&self.0.tells) != Tells::Containerd {
            return Err(Status::unimplemented(
                "unknown service containerd.services.events.v1.Events",
            ));
        }
        self.does("subscribe", "", |_| Ok(self.stream(envelope))).await
    }
}

fn envelope(event: &Event) -> containerd::Envelope {
    let topic = match event.kind {
        _ if event.oom => "/tasks/oom",
        v1::ContainerEventType::ContainerStoppedEvent => "/tasks/exit",
        v1::ContainerEventType::ContainerDeletedEvent => "/containers/delete",
        _ => "/tasks/start",
    };
    let body = containerd::TaskEvent {
        container_id: event.id.clone(),
        id: event.id.clone(),
    };
    containerd::Envelope {
        namespace: "k8s.io".to_owned(),
        topic: topic.to_owned(),
        event: Some(containerd::Any {
            type_url: String::new(),
            value: body.encode_to_vec(),
        }),
    }
}

impl Shared {
    fn streaming(&self, what: &str, id: &str) -> Result<String, Status> {
        if !lock(&self.world).container(id)?.is_running() {
            return Err(Status::unknown("container is not in running state"));
        }
        Ok(format!("http://127.0.0.1:1/{what}/{id}"))
    }
}
