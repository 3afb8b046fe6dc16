//! The sandboxes, containers and images of a fake runtime.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tonic::Status;

use crate::v1::{self, ContainerState, PodSandboxState};

/// What a command in a container answers.
#[derive(Clone, Debug, Default)]
pub struct ExecResult {
    /// Its output.
    pub stdout: Vec<u8>,
    /// Its exit code.
    pub code: i32,
    /// How long it takes.
    pub takes: Duration,
}

type ExecFn = Arc<dyn Fn(&[String]) -> ExecResult + Send + Sync>;

/// How a container behaves.
#[derive(Clone, Default)]
pub struct Behaviour {
    /// It ends by itself after this long, with this code.
    pub exits: Option<(Duration, i32)>,
    /// How long it takes to end when it is asked to; beyond the grace it is killed.
    pub stops_after: Duration,
    /// The code it ends with when it is asked to.
    pub stop_code: i32,
    /// Commands in it.
    pub exec: Option<ExecFn>,
    /// Starting it is refused with this text, and it counts as ended with 128.
    pub start_error: Option<String>,
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Behaviour")
            .field("exits", &self.exits)
            .field("stops_after", &self.stops_after)
            .finish_non_exhaustive()
    }
}

/// A sandbox.
#[derive(Clone, Debug)]
pub struct Sbx {
    /// As the interface tells it.
    pub status: v1::PodSandboxStatus,
    /// What it was made from.
    pub config: v1::PodSandboxConfig,
}

impl Sbx {
    /// Whether it is ready.
    pub fn is_ready(&self) -> bool {
        self.status.state == PodSandboxState::SandboxReady as i32
    }

    /// Uid of its pod.
    pub fn uid(&self) -> &str {
        self.config.metadata.as_ref().map_or("", |m| &m.uid)
    }
}

/// A container.
#[derive(Clone, Debug)]
pub struct Cntr {
    /// As the interface tells it.
    pub status: v1::ContainerStatus,
    /// What it was made from.
    pub config: v1::ContainerConfig,
    /// Where it is.
    pub sandbox: String,
}

impl Cntr {
    /// Its name in the pod.
    pub fn name(&self) -> &str {
        self.config.metadata.as_ref().map_or("", |m| &m.name)
    }

    /// Which attempt it is.
    pub fn attempt(&self) -> u32 {
        self.config.metadata.as_ref().map_or(0, |m| m.attempt)
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.status.state == ContainerState::ContainerRunning as i32
    }
}

#[derive(Default)]
pub(crate) struct World {
    pub(super) sandboxes: Vec<Sbx>,
    pub(super) containers: Vec<Cntr>,
    pub(super) images: Vec<v1::Image>,
    pub(super) behaviours: BTreeMap<String, Behaviour>,
    /// Pod's uid, name and attempt of every container that was ever started.
    pub(super) starts: Vec<(String, String, u32)>,
    next: u64,
}

impl World {
    fn id(&mut self, what: &str) -> String {
        self.next += 1;
        format!("{what}{:06x}", self.next)
    }

    pub(super) fn sandbox(&mut self, id: &str) -> Result<&mut Sbx, Status> {
        let found = self.sandboxes.iter_mut().find(|s| s.status.id == id);
        found.ok_or_else(|| Status::not_found(format!("an error occurred when try to find sandbox: not found: {id}")))
    }

    pub(super) fn container(&mut self, id: &str) -> Result<&mut Cntr, Status> {
        let found = self.containers.iter_mut().find(|c| c.status.id == id);
        found.ok_or_else(|| {
            Status::not_found(format!(
                "an error occurred when try to find container \"{id}\": not found"
            ))
        })
    }

    /// Whether what a call is about (`name id` of a container, id of a sandbox) runs: a container in a ready sandbox.
    pub(super) fn runs(&self, about: &str) -> bool {
        let id = about.split(' ').nth(1).unwrap_or(about);
        let ready = |sandbox: &str| self.sandboxes.iter().any(|s| s.status.id == sandbox && s.is_ready());
        let named = |c: &Cntr| c.status.id == id || c.sandbox == id;
        self.containers
            .iter()
            .any(|c| named(c) && c.is_running() && ready(&c.sandbox))
    }

    /// Writes down that a container was started.
    pub(super) fn started(&mut self, id: &str) {
        let Some(container) = self.containers.iter().find(|c| c.status.id == id) else {
            return;
        };
        let uid = self
            .sandboxes
            .iter()
            .find(|s| s.status.id == container.sandbox)
            .map_or("", Sbx::uid);
        self.starts
            .push((uid.to_owned(), container.name().to_owned(), container.attempt()));
    }

    /// Everything but the images is gone.
    pub(super) fn forget(&mut self) {
        self.sandboxes.clear();
        self.containers.clear();
    }

    pub(super) fn behaviour(&self, name: &str) -> Behaviour {
        let found = self.behaviours.get(name).or_else(|| self.behaviours.get(""));
        found.cloned().unwrap_or_default()
    }

    pub(super) fn add_image(&mut self, name: &str) {
        if self.images.iter().any(|i| i.repo_tags.iter().any(|t| t == name)) {
            return;
        }
        let id = format!("sha256:{:064x}", self.images.len() + 1);
        self.images.push(v1::Image {
            id,
            repo_tags: vec![name.to_owned()],
            repo_digests: vec![format!("{name}@sha256:{:064x}", 0xabc)],
            size: 1024 * 1024,
            ..v1::Image::default()
        });
    }

    pub(super) fn add_sandbox(
        &mut self,
        config: v1::PodSandboxConfig,
        handler: &str,
        now: i64,
    ) -> Result<String, Status> {
        let metadata = config
            .metadata
            .clone()
            .ok_or_else(|| Status::invalid_argument("sandbox config must include metadata"))?;
        if self
            .sandboxes
            .iter()
            .any(|s| s.config.metadata.as_ref() == Some(&metadata))
        {
            let name = format!(
                "{}_{}_{}_{}",
                metadata.name, metadata.namespace, metadata.uid, metadata.attempt
            );
            return Err(Status::unknown(format!(
                "failed to reserve sandbox name {name:?}: name {name:?} is reserved"
            )));
        }
        let id = self.id("sb");
        let options = config
            .linux
            .as_ref()
            .and_then(|l| l.security_context.as_ref()?.namespace_options.clone());
        let on_host = options
            .as_ref()
            .is_some_and(|o| o.network == v1::NamespaceMode::Node as i32);
        let ip = if on_host {
            String::new()
        } else {
            format!("10.42.{}.{}", self.next / 250, self.next % 250 + 2)
        };
        let status = v1::PodSandboxStatus {
            id: id.clone(),
            metadata: Some(metadata),
            state: PodSandboxState::SandboxReady as i32,
            created_at: now,
            network: Some(v1::PodSandboxNetworkStatus {
                ip,
                additional_ips: Vec::new(),
            }),
            linux: Some(v1::LinuxPodSandboxStatus {
                namespaces: Some(v1::Namespace { options }),
            }),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            runtime_handler: handler.to_owned(),
        };
        self.sandboxes.push(Sbx { status, config });
        Ok(id)
    }

    pub(super) fn add_container(
        &mut self,
        sandbox: &str,
        config: v1::ContainerConfig,
        now: i64,
    ) -> Result<String, Status> {
        if !self.sandbox(sandbox)?.is_ready() {
            return Err(Status::unknown(format!("sandbox container {sandbox:?} is not running")));
        }
        let metadata = config
            .metadata
            .clone()
            .ok_or_else(|| Status::invalid_argument("container config must include metadata"))?;
        let taken = |c: &&Cntr| c.sandbox == sandbox && c.config.metadata.as_ref() == Some(&metadata);
        if self.containers.iter().any(|c| taken(&c)) {
            return Err(Status::unknown(format!(
                "failed to reserve container name \"{}_{}\": name is reserved",
                metadata.name, metadata.attempt
            )));
        }
        let image = config.image.clone().unwrap_or_default();
        let found = self.images.iter().find(|i| {
            i.id == image.image || i.repo_tags.contains(&image.image) || i.repo_digests.contains(&image.image)
        });
        let Some(found) = found.cloned() else {
            return Err(Status::not_found(format!(
                "failed to resolve image {:?}: not found",
                image.image
            )));
        };
        let id = self.id("ct");
        let logs = self.sandbox(sandbox)?.config.log_directory.clone();
        let status = v1::ContainerStatus {
            id: id.clone(),
            metadata: Some(metadata),
            state: ContainerState::ContainerCreated as i32,
            created_at: now,
            image: Some(v1::ImageSpec {
                image: found.repo_tags.first().cloned().unwrap_or_default(),
                ..v1::ImageSpec::default()
            }),
            image_ref: found.repo_digests.first().cloned().unwrap_or_default(),
            image_id: found.id,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path: if config.log_path.is_empty() {
                String::new()
            } else {
                format!("{logs}/{}", config.log_path)
            },
            ..v1::ContainerStatus::default()
        };
        self.containers.push(Cntr {
            status,
            config,
            sandbox: sandbox.to_owned(),
        });
        Ok(id)
    }

    pub(super) fn exit(&mut self, id: &str, code: i32, oom: bool, now: i64) -> bool {
        let Ok(container) = self.container(id) else {
            return false;
        };
        if container.status.state == ContainerState::ContainerExited as i32 {
            return false;
        }
        let status = &mut container.status;
        status.state = ContainerState::ContainerExited as i32;
        status.exit_code = code;
        status.finished_at = now;
        status.reason = if oom {
            "OOMKilled"
        } else if code == 0 {
            "Completed"
        } else {
            "Error"
        }
        .to_owned();
        true
    }

    /// Makes a sandbox not ready. The containers that were running in it.
    pub(super) fn end_sandbox(&mut self, id: &str) -> Vec<String> {
        if let Ok(sandbox) = self.sandbox(id) {
            sandbox.status.state = PodSandboxState::SandboxNotready as i32;
            sandbox.status.network = None;
        }
        let inside = self.containers.iter().filter(|c| c.sandbox == id && c.is_running());
        inside.map(|c| c.status.id.clone()).collect()
    }

    pub(super) fn die(&mut self, now: i64) {
        for sandbox in &mut self.sandboxes {
            sandbox.status.state = PodSandboxState::SandboxNotready as i32;
            sandbox.status.network = None;
        }
        for container in self.containers.iter_mut().filter(|c| c.is_running()) {
            container.status.state = ContainerState::ContainerExited as i32;
            container.status.exit_code = 255;
            container.status.reason = "Unknown".to_owned();
            container.status.finished_at = now;
        }
    }
}
