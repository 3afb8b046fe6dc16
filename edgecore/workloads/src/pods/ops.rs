//! What a plan's actions do. Each is a future of its own that tells how it went; a step that was done already is no failure.

use std::sync::Arc;
use std::time::Duration;

use cri::{CriError, Why, v1};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::ask::{Answer, Whom};
use super::means::{Making, Refusal};
use super::plan::{MAX_GRACE, MIN_GRACE, resources_of};
use super::probe::{Due, Kind};
use super::{Shared, clean, hooks, log_dir};
use crate::events::Tone;
use crate::pod::{Container, Pod};

/// Longest that a container is kept from its end because Services still lead to it.
const LEAVES: Duration = Duration::from_secs(5);

/// How an action went.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A sandbox was made.
    /// Its id.
    Sandbox(Result<String, Refusal>),
    /// A container was started. `made`: its id and its sandbox's, when it got as far as that.
    Started {
        name: String,
        result: Result<(), Refusal>,
        made: Option<(String, String)>,
    },
    /// It was given up before anything was made.
    GivenUp {
        name: String,
    },
    Stopped {
        id: String,
    },
    /// Another stop with less time took its place.
    Replaced,
    SandboxStopped {
        id: String,
        ok: bool,
    },
    Removed {
        id: String,
        ok: bool,
    },
    TornDown(bool),
    /// Whether its files are as the store has them.
    Refreshed(bool),
    /// What it was resized to, as a fingerprint.
    Resized {
        id: String,
        to: Option<u64>,
    },
    /// A probe was answered.
    Probed {
        due: Due,
        answer: Answer,
    },
}

/// What an action works with.
#[derive(Clone)]
pub(super) struct Hands {
    pub(super) shared: Arc<Shared>,
    pub(super) uid: Arc<str>,
    pub(super) pod: Arc<Pod>,
    /// What Events are about.
    pub(super) about: Arc<Value>,
    /// Address of the pod, empty when it has none.
    pub(super) ip: Arc<str>,
}

/// Where a container is made.
#[derive(Clone, Debug)]
pub(super) struct Where {
    pub(super) sandbox: String,
    /// Attempt of the sandbox.
    pub(super) attempt: u32,
    pub(super) ips: Vec<String>,
    /// Of an ephemeral container: whose processes it sees, by id.
    pub(super) target: Option<String>,
}

impl Hands {
    fn tell(&self, tone: Tone, reason: &'static str, message: impl Into<String>) {
        self.shared.recorder.tell(&self.about, tone, reason, message);
    }

    /// Tells what happened to a container.
    pub(super) fn tell_of(&self, name: &str, tone: Tone, reason: &'static str, message: impl Into<String>) {
        let spec = &self.pod.spec;
        let named = |list: &[Container]| list.iter().any(|c| c.name == name);
        let list = if named(&spec.containers) {
            "containers"
        } else if named(&spec.init_containers) {
            "initContainers"
        } else {
            "ephemeralContainers"
        };
        let field = format!("spec.{list}{{{name}}}");
        self.shared
            .recorder
            .tell_field(&self.about, &field, tone, reason, message);
    }

    /// Makes volumes ready, then the sandbox.
    pub(super) async fn sandbox(self, attempt: u32) -> Outcome {
        let made = self.make_sandbox(attempt).await;
        if let Err(refusal) = &made
            && !refusal.told
        {
            if refusal.reason == "FailedMount" {
                self.tell(Tone::Warning, "FailedMount", refusal.message.as_str());
            } else {
                let message = format!("Failed to create pod sandbox: {}", refusal.message);
                self.tell(Tone::Warning, "FailedCreatePodSandBox", message);
            }
        }
        Outcome::Sandbox(made)
    }

    async fn make_sandbox(&self, attempt: u32) -> Result<String, Refusal> {
        let shared = &self.shared;
        shared.means.prepare(&self.pod).await?;
        let (config, runtime_handler) = shared.means.sandbox(&self.pod, attempt)?;
        let logs = log_dir(&shared.options.logs, &self.pod.key(), &self.uid);
        std::fs::create_dir_all(&logs)
            .map_err(|e| Refusal::new("FailedCreatePodSandBox", format!("log folder {}: {e}", logs.display())))?;
        clean::mark(&logs, &shared.options.node);
        let _one_of = shared.sandboxes.acquire().await;
        let request = v1::RunPodSandboxRequest {
            config: Some(config),
            runtime_handler,
        };
        let made = shared.runtime.run_pod_sandbox(request).await;
        let id = made.map_err(|e| refused("FailedCreatePodSandBox", &e))?.pod_sandbox_id;
        shared.owns(&self.uid, &id);
        Ok(id)
    }

    /// Image, container, start.
    pub(super) async fn start(self, name: String, attempt: u32, place: Where, give_up: CancellationToken) -> Outcome {
        let Some(container) = self.pod.container(&name) else {
            return Outcome::GivenUp { name };
        };
        let (sandbox, _) = match self.shared.means.sandbox(&self.pod, place.attempt) {
            Ok(sandbox) => sandbox,
            Err(refusal) => return self.not_started(name, refusal),
        };
        let making = Making {
            pod: &self.pod,
            container,
            attempt,
            sandbox: &sandbox,
            ips: &place.ips,
            target: place.target.as_deref(),
        };
        let config = tokio::select! {
            biased;
            () = give_up.cancelled() => return Outcome::GivenUp { name },
            config = self.shared.means.container(making) => config,
        };
        let config = match config {
            Ok(config) => config,
            Err(refusal) => return self.not_started(name, refusal),
        };
        let id = match self.make(&name, config, sandbox, place.sandbox.clone()).await {
            Ok(id) => id,
            Err(refusal) => return self.not_started(name, refusal),
        };
        let result = tokio::select! {
            biased;
            () = give_up.cancelled() => Ok(()),
            result = self.after_start(container, &id) => result,
        };
        let made = Some((id, place.sandbox));
        Outcome::Started { name, result, made }
    }

    async fn make(
        &self,
        name: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
        pod_sandbox_id: String,
    ) -> Result<String, Refusal> {
        let runtime = &self.shared.runtime;
        if let Some((folder, _)) = config.log_path.rsplit_once('/') {
            let logs = log_dir(&self.shared.options.logs, &self.pod.key(), &self.uid).join(folder);
            std::fs::create_dir_all(&logs)
                .map_err(|e| Refusal::new("CreateContainerError", format!("log folder {}: {e}", logs.display())))?;
        }
        let request = v1::CreateContainerRequest {
            pod_sandbox_id,
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let made = runtime.create_container(request).await;
        let container_id = made.map_err(|e| refused("CreateContainerError", &e))?.container_id;
        self.shared.owns(&self.uid, &container_id);
        self.tell_of(name, Tone::Normal, "Created", format!("Created container: {name}"));
        let request = v1::StartContainerRequest {
            container_id: container_id.clone(),
        };
        let started = runtime.start_container(request).await;
        started.map_err(|e| refused("RunContainerError", &e))?;
        self.tell_of(name, Tone::Normal, "Started", format!("Started container {name}"));
        Ok(container_id)
    }

    /// Runs the hook; a container whose hook failed is stopped.
    async fn after_start(&self, container: &Container, id: &str) -> Result<(), Refusal> {
        let Some(hook) = &container.lifecycle.post_start else {
            return Ok(());
        };
        let whom = self.whom(container, id);
        let Err(message) = hooks::run(whom, &self.pod, container, hook, hooks::LONGEST).await else {
            return Ok(());
        };
        self.tell_of(
            &container.name,
            Tone::Warning,
            "FailedPostStartHook",
            "PostStartHook failed",
        );
        self.tell_of(&container.name, Tone::Normal, "Killing", "FailedPostStartHook");
        let grace = self.pod.spec.termination_grace_period_seconds.unwrap_or(30);
        let grace = u64::try_from(grace).unwrap_or(0).clamp(MIN_GRACE, MAX_GRACE);
        let request = v1::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: i64::try_from(grace).unwrap_or(30),
        };
        if let Err(e) = self.shared.runtime.stop_container(request).await {
            tracing::warn!(pod = %self.pod.key(), error = %e, "A container whose hook failed cannot be stopped.");
        }
        let mut refusal = Refusal::new("PostStartHookError", message);
        refusal.told = true;
        Err(refusal)
    }

    fn whom<'a>(&'a self, container: &'a Container, id: &'a str) -> Whom<'a> {
        Whom {
            runtime: &self.shared.runtime,
            tls: &self.shared.tls,
            id,
            ip: &self.ip,
            ports: &container.ports,
        }
    }

    /// Asks what a probe asks.
    pub(super) async fn probe(self, due: Due) -> Outcome {
        let answer = self.ask(&due).await;
        if let Answer::No(why) = &answer {
            let message = format!("{} probe failed: {why}", due.kind.name());
            self.tell_of(&due.name, Tone::Warning, "Unhealthy", message);
        }
        Outcome::Probed { due, answer }
    }

    async fn ask(&self, due: &Due) -> Answer {
        let container = self.pod.container(&due.name);
        let probe = container.and_then(|c| match due.kind {
            Kind::Startup => c.startup_probe.as_ref(),
            Kind::Liveness => c.liveness_probe.as_ref(),
            Kind::Readiness => c.readiness_probe.as_ref(),
        });
        let (Some(container), Some(probe)) = (container, probe) else {
            return Answer::Unknown("the pod has no such probe".to_owned());
        };
        let seconds = u64::from(probe.timeout_seconds.max(1));
        let within = Duration::from_secs(seconds);
        let whom = self.whom(container, &due.id);
        let asks = &probe.handler;
        if let Some(exec) = &asks.exec {
            whom.exec(exec, seconds).await
        } else if let Some(get) = &asks.http_get {
            whom.http(get, within).await
        } else if let Some(tcp) = &asks.tcp_socket {
            whom.tcp(tcp, within).await
        } else if let Some(grpc) = &asks.grpc {
            whom.grpc(grpc, within).await
        } else {
            Answer::Unknown("the probe asks nothing".to_owned())
        }
    }

    fn not_started(&self, name: String, refusal: Refusal) -> Outcome {
        if !refusal.told {
            self.tell_of(&name, Tone::Warning, "Failed", format!("Error: {}", refusal.message));
        }
        Outcome::Started {
            name,
            result: Err(refusal),
            made: None,
        }
    }

    /// Stops a container. `deadline`: milliseconds since 1970. `again`: it is being stopped already, with more time.
    pub(super) async fn stop(
        self,
        id: String,
        name: String,
        deadline: u64,
        message: String,
        again: bool,
        replaced: CancellationToken,
    ) -> Outcome {
        if !again {
            self.tell_of(&name, Tone::Normal, "Killing", message);
        }
        let stopped = tokio::select! {
            biased;
            () = replaced.cancelled() => return Outcome::Replaced,
            stopped = self.end(&id, &name, deadline, again) => stopped,
        };
        if let Err(e) = stopped
            && !e.is_not_found()
        {
            tracing::warn!(pod = %self.pod.key(), container = name, error = %e, "A container cannot be stopped.");
            // Not at once again.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Outcome::Stopped { id }
    }

    /// Hook, then signal, then by force. The hook is not run again for a container that is only given less time.
    async fn end(&self, id: &str, name: &str, deadline: u64, again: bool) -> Result<(), CriError> {
        let left = |now: u64| deadline.saturating_sub(now).div_ceil(1000);
        if let Ok(ip) = self.ip.parse()
            && !again
            && self.pod.is_terminating()
        {
            // What comes in from now on goes elsewhere; who writes endpoints may be late.
            let most = LEAVES.min(Duration::from_secs(left(self.shared.now())));
            drop(tokio::time::timeout(most, self.shared.means.left(ip)).await);
        }
        let within = left(self.shared.now());
        let container = self.pod.container(name);
        if let Some(container) = container.filter(|_| !again && within > 0)
            && let Some(hook) = &container.lifecycle.pre_stop
        {
            let within = Duration::from_secs(within);
            let ran = hooks::run(self.whom(container, id), &self.pod, container, hook, within);
            if let Ok(Err(message)) = tokio::time::timeout(within, ran).await {
                tracing::debug!(pod = %self.pod.key(), message, "A hook failed.");
                self.tell_of(name, Tone::Warning, "FailedPreStopHook", "PreStopHook failed");
            }
        }
        let request = v1::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: i64::try_from(left(self.shared.now()).max(MIN_GRACE)).unwrap_or(i64::MAX),
        };
        self.shared.runtime.stop_container(request).await.map(drop)
    }

    /// Stops a sandbox and takes its network down.
    pub(super) async fn stop_sandbox(self, id: String) -> Outcome {
        let request = v1::StopPodSandboxRequest {
            pod_sandbox_id: id.clone(),
        };
        let stopped = self.shared.runtime.stop_pod_sandbox(request).await;
        let ok = self.done("A sandbox cannot be stopped.", stopped.map(drop)).await;
        Outcome::SandboxStopped { id, ok }
    }

    /// Removes a sandbox.
    pub(super) async fn remove_sandbox(self, id: String) -> Outcome {
        let request = v1::RemovePodSandboxRequest {
            pod_sandbox_id: id.clone(),
        };
        let removed = self.shared.runtime.remove_pod_sandbox(request).await;
        let ok = self.done("A sandbox cannot be removed.", removed.map(drop)).await;
        Outcome::Removed { id, ok }
    }

    /// Removes a container and its log.
    pub(super) async fn remove_container(self, id: String, log_path: String) -> Outcome {
        let request = v1::RemoveContainerRequest {
            container_id: id.clone(),
        };
        let removed = self.shared.runtime.remove_container(request).await;
        let ok = self.done("A container cannot be removed.", removed.map(drop)).await;
        if ok {
            clean::log_files(&self.shared.options.logs, &log_path);
        }
        Outcome::Removed { id, ok }
    }

    /// Whether it is done: what is not there any more counts. A failure is told and takes a moment, so that it is not tried at once again.
    async fn done(&self, what: &'static str, result: Result<(), CriError>) -> bool {
        match result {
            Ok(()) => true,
            Err(e) if e.is_not_found() => true,
            Err(e) => {
                tracing::warn!(pod = %self.pod.key(), error = %e, "{what}");
                tokio::time::sleep(Duration::from_secs(2)).await;
                false
            }
        }
    }

    /// Brings a container's limits to what the pod says.
    pub(super) async fn resize(self, id: String, name: String) -> Outcome {
        let Some(container) = self.pod.container(&name) else {
            return Outcome::Resized { id, to: None };
        };
        let to = match self.shared.means.resize(&self.pod, container, &id).await {
            Ok(()) => Some(crate::time::fingerprint(&resources_of(container).to_string())),
            Err(e) => {
                tracing::warn!(pod = %self.pod.key(), container = name, error = %e, "A container cannot be resized.");
                tokio::time::sleep(Duration::from_secs(10)).await;
                None
            }
        };
        Outcome::Resized { id, to }
    }

    /// Takes volumes and folders away.
    pub(super) async fn tear_down(self) -> Outcome {
        let ok = self.shared.means.tear_down(&self.uid).await;
        if !ok {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        Outcome::TornDown(ok)
    }

    /// Brings the contents of volumes up to date.
    pub(super) async fn refresh(self) -> Outcome {
        Outcome::Refreshed(self.shared.means.refresh(&self.pod).await)
    }
}

fn refused(reason: &str, error: &CriError) -> Refusal {
    let mut refusal = Refusal::new(reason, error.to_string());
    if error.why() == Why::Unreachable {
        // Nobody's fault: it is tried again as soon as the runtime is back.
        refusal.after = Some(Duration::from_secs(1));
        refusal.told = true;
    }
    refusal
}
